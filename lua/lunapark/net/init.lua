--- The network: `lunapark.net`. Calls that wait let only their own G wait.
--
--   local c = assert(net.dial("127.0.0.1:6379"))
--   c:write("PING\r\n")
--   print(c:read_line())                              -- +PONG
--
-- Addresses are "host:port", "[v6]:port" or "unix:path". Names of hosts are looked up (lunapark.dns); only the calling
-- G waits for that. Failures of the outside world are `nil, err`: "eof", "timeout", "canceled", "closed", or the
-- kernel's words ("connection refused"). After `close` every call answers "closed". The collector closes a socket that
-- nothing refers to any more; programs should not rely on that. Connections: net/conn.lua; datagrams: net/udp.lua;
-- servers: net/serve.lua; pools: net/pool.lua; descriptors of other libraries: net/fd.lua.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local common = require "lunapark.net.sock"
local conn = require "lunapark.net.conn"
local copy = require "lunapark.net.copy"
local dial = require "lunapark.net.dial"
local fd = require "lunapark.net.fd"
local lp = require "lunapark"
local names = require "lunapark.net.names"
local pool = require "lunapark.net.pool"
local serve = require "lunapark.net.serve"
local turn = require "lunapark.net.turn"
local udp = require "lunapark.net.udp"

local C = ffi.C
local address_of, message = common.address_of, common.message
local check_addr = common.check_addr
local wait_sock = core.wait_sock

local EAGAIN = common.EAGAIN
local READ = common.READ

local net = { copy = copy.copy, fd = fd.new, serve = serve.new, udp = udp.new }

local err_out = ffi.new("int[1]")

---@class lunapark.Listener
---@field private sock ffi.cdata*
---@field private accepting lunapark.Turn
local Listener = {}
local listener_mt = { __name = "lunapark.Listener", __index = Listener }

local function accept(self)
  while true do
    local sock = C.host_sock_accept(self.sock, err_out)
    if sock ~= nil then return conn.new(common.keep(sock)) end
    if err_out[0] ~= EAGAIN then return nil, common.words(err_out[0], self.sock) end
    local why = wait_sock(self.sock, READ)
    if why then return nil, why end
  end
end

--- Takes the next connection. May wait.
---@return lunapark.Conn|nil conn
---@return string? err
function Listener:accept()
  return turn.run(self.accepting, accept, self)
end

--- The address it listens on, with the port that was chosen when port 0 was asked for.
---@return string|nil addr
---@return string? err
function Listener:addr() return address_of(self.sock, 0) end

--- Closes the listener. Gs that wait in accept get "closed". Closing twice is harmless.
---@return true
function Listener:close()
  C.host_sock_close(self.sock)
  return true
end

--- Listens on an address. Of a name's addresses it takes the first. May wait for the look-up of a name, and for nothing
--- else.
---@param addr string  "host:port" (port 0: any free one), "[v6]:port" or "unix:path"
---@return lunapark.Listener|nil listener
---@return string? err
function net.listen(addr)
  check_addr(addr, "listen")
  local plain, err = names.first(addr)
  if not plain then return nil, err end
  local sock = C.host_sock_listen(plain, err_out)
  if sock == nil then return nil, message(err_out[0]) end
  return setmetatable({ sock = common.keep(sock), accepting = turn.new() }, listener_mt)
end

-- The rest of a name's addresses is asked for only if none of the first ones answers.
local function dial_name(addr, resolver)
  local c, err
  lp.scope(function(s)
    local gs = {}
    local addrs, why, rest = names.resolve_soon(s, gs, addr, resolver)
    err = why
    if addrs then c, err = dial.first(addrs) end
    if rest and not c and err ~= "timeout" and err ~= "canceled" then
      addrs = rest()
      if addrs then c, err = dial.first(addrs) end
    end
    for _, g in ipairs(gs) do g:cancel() end
  end)
  return c, err
end

--- Connects to an address. Of a name's addresses it takes the first that answers: see net/dial.lua. May wait.
---@param addr string
---@param opts? { timeout: number?, resolver: lunapark.Resolver? }  timeout: seconds, with the look-up of the name;
---resolver: looks the name up
---@return lunapark.Conn|nil conn
---@return string? err  "no such host: NAME", "connection refused", "timeout" ...
function net.dial(addr, opts)
  check_addr(addr, "dial")
  if opts ~= nil and type(opts) ~= "table" then error("dial: opts must be a table, got " .. type(opts), 2) end
  local timeout = opts and opts.timeout
  if timeout ~= nil and (type(timeout) ~= "number" or timeout ~= timeout or timeout >= 9e9) then
    error("dial: timeout must be a number of seconds, got " .. tostring(timeout), 2)
  end
  if names.is_dialed_as_is(addr) then return dial.connect(addr, timeout) end
  return lp.deadline(timeout, dial_name, addr, opts and opts.resolver)
end

--- Connections to one address that are used again: see net/pool.lua. Does not wait.
---@param addr string
---@param opts? { max: integer?, idle: number? }  max: connections at once, 64 without it; idle: seconds that one waits
---before it is closed, 90 without it
---@return lunapark.Pool
function net.pool(addr, opts)
  return (pool.new(net.dial, addr, opts))
end

return net
