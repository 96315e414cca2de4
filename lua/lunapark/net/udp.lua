--- Datagrams: UDP over IPv4 and IPv6, and unix datagrams. `net.udp(addr)` makes the handle.
--
--   local u = assert(net.udp "127.0.0.1:0")
--   u:send("ping", "127.0.0.1:9000")
--   local data, from = u:recv()
--
-- A datagram is sent and received whole. Several Gs may receive on one socket: they take turns in waiting, and each
-- gets the next datagram.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local common = require "lunapark.net.sock"
local names = require "lunapark.net.names"
local turn = require "lunapark.net.turn"

local C = ffi.C
local ffi_string = ffi.string
local wait_sock = core.wait_sock
local message, words, result, check_addr = common.message, common.words, common.result, common.check_addr

local EAGAIN, READ, WRITE = common.EAGAIN, common.READ, common.WRITE
-- No datagram of the internet is longer; unix ones may be.
local MAX = 65536

local udp = {}

local err_out = ffi.new("int[1]")
local from = ffi.new("char[?]", 256)
-- All sockets share this buffer: no G waits between the call that fills it and the call that takes from it.
local buffer, buffer_size = nil, 0

---@class lunapark.Udp
---@field package sock ffi.cdata*
---@field package sending lunapark.Turn
---@field package receiving lunapark.Turn
---@field set_deadline fun(self: lunapark.Udp, seconds: number|nil)  From this moment on
---`send` and `recv` fail with "timeout", calls that wait already too. Seconds from now; 0: at once; nil: no deadline.
---@field set_read_deadline fun(self: lunapark.Udp, seconds: number|nil)   A deadline for `recv` alone.
---@field set_write_deadline fun(self: lunapark.Udp, seconds: number|nil)  A deadline for `send` alone.
local Udp = {}
local udp_mt = { __name = "lunapark.Udp", __index = Udp }
common.add_deadlines(Udp)

--- A datagram socket of an address. May wait for the look-up of a name, and for nothing else.
---@param addr string  of this side: "host:port", port 0: any free one; the socket is of the family of `addr`
---@return lunapark.Udp|nil udp
---@return string? err
function udp.new(addr)
  check_addr(addr, "udp")
  local plain, err = names.first(addr)
  if not plain then return nil, err end
  local sock = C.host_sock_udp(plain, err_out)
  if sock == nil then return nil, message(err_out[0]) end
  return setmetatable({ sock = common.keep(sock), sending = turn.new(), receiving = turn.new() }, udp_mt)
end

--- Connects the socket: from now on it sends to this address and receives from it alone, and `send` needs no address.
--- May wait for the look-up of a name, and for nothing else.
---@param addr string
---@return true|nil ok
---@return string? err
function Udp:connect(addr)
  check_addr(addr, "connect")
  local plain, err = names.first(addr)
  if not plain then return nil, err end
  return result(C.host_sock_connect(self.sock, plain))
end

local function send(sock, data, addr)
  while true do
    local n = C.host_sock_send(sock, data, #data, addr)
    if n >= 0 then return true end
    if n ~= EAGAIN then return nil, words(n, sock) end
    local why = wait_sock(sock, WRITE)
    if why then return nil, why end
  end
end

--- Sends a datagram. May wait for room in the kernel's buffer, and for a name.
---@param data string
---@param addr? string  where to; not needed after `connect`. A name is looked up each time
---@return true|nil ok
---@return string? err  "connection refused": nobody received an earlier datagram; "message too long"
function Udp:send(data, addr)
  if type(data) ~= "string" then error("send: data must be a string, got " .. type(data), 2) end
  if addr ~= nil then
    check_addr(addr, "send")
    local plain, err = names.first(addr)
    if not plain then return nil, err end
    addr = plain
  end
  local n = C.host_sock_send(self.sock, data, #data, addr)
  if n >= 0 then return true end
  if n ~= EAGAIN then return nil, words(n, self.sock) end
  return turn.run(self.sending, send, self.sock, data, addr)
end

-- nil, EAGAIN: there is none.
local function recv_now(sock, max)
  local n = C.host_sock_recv(sock, buffer, max, from, 256)
  if n > max then return ffi_string(buffer, max), ffi_string(from), true end
  if n >= 0 then return ffi_string(buffer, n), ffi_string(from) end
  return nil, n ~= EAGAIN and words(n, sock) or EAGAIN
end

local function recv(sock, max)
  while true do
    local data, addr, cut = recv_now(sock, max)
    if addr ~= EAGAIN then return data, addr, cut end
    local why = wait_sock(sock, READ)
    if why then return nil, why end
  end
end

--- Receives a datagram. May wait.
---@param max? integer  bytes, 65536 without it: a longer datagram is cut
---@return string|nil data
---@return string addr  the sender's, or the error
---@return true? cut  the datagram was longer
function Udp:recv(max)
  if max == nil then
    max = MAX
  else
    common.check_count(max, "recv", "max", 1)
    if max > 0x7fffffff then error("recv: max must be 2147483647 or less, got " .. max, 2) end
  end
  if max > buffer_size then
    buffer, buffer_size = ffi.new("uint8_t[?]", max), max
  end
  if not self.receiving.busy then
    local data, addr, cut = recv_now(self.sock, max)
    if addr ~= EAGAIN then return data, addr, cut end
  end
  return turn.run(self.receiving, recv, self.sock, max)
end

--- Closes the socket. Gs that wait get "closed". Closing twice is harmless.
---@return true
function Udp:close()
  C.host_sock_close(self.sock)
  return true
end

--- The address of this side, with the port that was chosen when port 0 was asked for.
---@return string|nil addr
---@return string? err
function Udp:local_addr() return common.address_of(self.sock, 0) end

--- The address that the socket is connected to.
---@return string|nil addr
---@return string? err
function Udp:remote_addr() return common.address_of(self.sock, 1) end

return udp
