--- A host that does not answer: a listener whose backlog is full, so that the kernel drops who comes next.
--
--   local dead = dead_host.open("127.0.0.2", port)      -- port 0: any; nil: it is taken
--   net.dial(dead.addr, { timeout = 0.1 })              -- nil, "timeout"
--   dead:close()

local ffi = require "ffi"
local lp = require "lunapark"
local net = require "lunapark.net"

ffi.cdef [[
int socket(int domain, int type, int protocol);
int bind(int fd, const char *addr, unsigned len);
int listen(int fd, int backlog);
int getsockname(int fd, uint8_t *addr, unsigned *len);
int close(int fd);
]]

local C = ffi.C
local INET, STREAM, CLOEXEC = "\2\0", 1, 524288

local dead_host = {}

local Dead = {}
Dead.__index = Dead

function Dead:close()
  if self.fd then C.close(self.fd) end
  self.fd = nil
  for _, g in ipairs(self.gs) do g:cancel() end
  for _, g in ipairs(self.gs) do
    local c = g:join()
    if c then c:close() end
  end
  self.gs = {}
end

function dead_host.open(ip, port)
  local fd = C.socket(2, STREAM + CLOEXEC, 0)
  local bytes = ip:gsub("(%d+)%.?", function(n) return string.char(n) end)
  local sa = INET .. string.char(math.floor(port / 256), port % 256) .. bytes .. ("\0"):rep(8)
  if C.bind(fd, sa, 16) ~= 0 or C.listen(fd, 0) ~= 0 then
    C.close(fd)
    return nil, "address in use"
  end
  local got, len = ffi.new "uint8_t[16]", ffi.new("unsigned[1]", 16)
  assert(C.getsockname(fd, got, len) == 0)
  port = got[2] * 256 + got[3]
  local self = setmetatable({ fd = fd, port = port, addr = ("%s:%d"):format(ip, port), gs = {} }, Dead)
  -- The first ones are taken into the backlog; the rest wait.
  for i = 1, 3 do
    self.gs[i] = lp.go(net.dial, self.addr, { timeout = 30 })
  end
  lp.sleep(0.02)
  return self
end

return dead_host
