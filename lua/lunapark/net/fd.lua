--- Descriptors of other libraries: waiting for them. `net.fd(fd)` makes the handle.
--
--   local s = socket.tcp(); s:settimeout(0); s:connect(host, port)      -- luasocket
--   local f = assert(net.fd(s:getfd()))
--   f:wait_write(5)
--
-- The library reads and writes, and its descriptor stays its own: `close` only ends the waiting. Call it before the
-- library closes the descriptor, since the number may belong to another descriptor at once.
--
-- The poller tells of changes, not of states, and bytes that the library has left unread are no change. So a wait first
-- asks whether the descriptor is ready, and asks again when it ends.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local common = require "lunapark.net.sock"
local turn = require "lunapark.net.turn"

local C = ffi.C
local wait_sock = core.wait_sock
local message = common.message

local fd = {}

local err_out = ffi.new("int[1]")

-- What the kernel's words would not tell here.
local words = {
  [-1] = "this kind of file can't be waited for, it is always ready", -- EPERM
  [-16] = "it is one of the runtime's own", -- EBUSY
  [-17] = "it is waited for already", -- EEXIST
}

---@class lunapark.Fd
---@field package sock ffi.cdata*
---@field package turns lunapark.Turn[]  by mode: one G at a time stands in the poller, the others behind it
local Fd = {}
local fd_mt = { __name = "lunapark.Fd", __index = Fd }

--- Makes a handle to wait for a descriptor of another library. A descriptor that blocks will do, but a call of the
--- library that blocks holds up the VM. Does not wait.
---@param number integer  the descriptor
---@return lunapark.Fd|nil fd
---@return string? err  "bad file descriptor"; or words for a descriptor that can't be waited for, as a plain file's
function fd.new(number)
  common.check_count(number, "fd", "fd", 0)
  if number > 0x7fffffff then error("fd: fd must be a descriptor, got " .. number, 2) end
  local sock = C.host_sock_foreign(number, err_out)
  if sock == nil then return nil, words[err_out[0]] or message(err_out[0]) end
  return setmetatable({ sock = common.keep(sock), turns = { turn.new(), turn.new() } }, fd_mt)
end

local function wait(sock, mode, deadline_ns)
  while true do
    local ready = C.host_sock_ready(sock, mode)
    if ready > 0 then return true end
    if ready < 0 then return nil, common.words(ready, sock) end
    local why = wait_sock(sock, mode, deadline_ns)
    if why then return nil, why end
  end
end

local function wait_in_turn(self, mode, seconds)
  local ready = C.host_sock_ready(self.sock, mode)
  if ready > 0 then return true end
  if ready < 0 then return nil, common.words(ready, self.sock) end
  local deadline_ns
  if seconds and seconds < 9e9 then
    deadline_ns = tonumber(C.rt_nanotime()) + (seconds > 0 and seconds * 1e9 or 0)
  end
  return turn.run_until(self.turns[mode], deadline_ns, wait, self.sock, mode, deadline_ns)
end

--- Waits until bytes can be read, the other side has ended, or the connection is broken: the library's next call tells
--- which.
---@param s? number  seconds
---@return true|nil ok
---@return string? err  "timeout", "canceled", "closed"
function Fd:wait_read(s)
  common.check_seconds(s, "wait_read", "s")
  return wait_in_turn(self, common.READ, s)
end

--- Waits until bytes can be written, a connection is made, or it is broken: the library's next call tells which.
---@param s? number  seconds
---@return true|nil ok
---@return string? err  "timeout", "canceled", "closed"
function Fd:wait_write(s)
  common.check_seconds(s, "wait_write", "s")
  return wait_in_turn(self, common.WRITE, s)
end

--- Ends the waiting: Gs that wait get "closed". The descriptor stays open. Closing twice is harmless.
---@return true
function Fd:close()
  C.host_sock_close(self.sock)
  return true
end

return fd
