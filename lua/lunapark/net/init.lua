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
local tls = require "lunapark.tls"
local turn = require "lunapark.net.turn"
local udp = require "lunapark.net.udp"
local as_given = require("lunapark.core.show").given

local C = ffi.C
local address_of, message = common.address_of, common.message
local check_addr = common.check_addr
local wait_sock = core.wait_sock

local EAGAIN, EADDRINUSE = common.EAGAIN, -98
local READ = common.READ

local net = { copy = copy.copy, fd = fd.new, serve = serve.new, udp = udp.new }

local err_out = ffi.new("int[1]")

---@class lunapark.Listener
---@field private sock ffi.cdata*
---@field private accepting lunapark.Turn
---@field private tls lunapark.TlsConfig?
local Listener = {}
local listener_mt = { __name = "lunapark.Listener", __index = Listener }

local function accept(self)
  while true do
    local sock = C.host_sock_accept(self.sock, err_out)
    if sock ~= nil then
      common.keep(sock)
      local rc = self.tls and C.host_sock_tls(sock, self.tls.handle, nil) or 0
      if rc == 0 then return conn.new(sock) end
      C.host_sock_close(sock)
      return nil, message(rc)
    end
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
---@param opts? { tls: lunapark.TlsConfig|lunapark.TlsOptions|nil }  tls: its connections speak TLS. Their
---handshake comes with the first read or write, so that a slow one delays no accept
---@return lunapark.Listener|nil listener
---@return string? err
function net.listen(addr, opts)
  check_addr(addr, "listen")
  if opts ~= nil and type(opts) ~= "table" then error("listen: opts must be a table, got " .. type(opts), 2) end
  local config = opts and opts.tls and tls.of(opts.tls, "listen")
  if config and not config.server then error("listen: tls: a server needs cert and key", 2) end
  local plain, err = names.first(addr)
  if not plain then return nil, err end
  local sock = C.host_sock_listen(plain, err_out)
  if sock == nil then
    local why = message(err_out[0])
    -- A server's VMs load the same app: all of them come here.
    local serves = err_out[0] == EADDRINUSE and debug.getregistry()["lunapark.serves"]
    return nil, serves and why .. " (each VM of a server runs this: app:tcp listens once for all)" or why
  end
  return setmetatable({ sock = common.keep(sock), accepting = turn.new(), tls = config }, listener_mt)
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

-- Dials, and shakes hands.
local function dial_tls(addr, resolver, config)
  local c, err
  if names.is_dialed_as_is(addr) then
    c, err = dial.connect(addr)
  else
    c, err = dial_name(addr, resolver)
  end
  if not c then return nil, err end
  local ok
  ok, err = c:start_tls(config, config.name or names.host_of(addr))
  if ok then return c end
  c:close()
  return nil, err
end

--- Connects to an address. Of a name's addresses it takes the first that answers: see net/dial.lua. May wait.
---@param addr string
---@param opts? { timeout: number?, resolver: lunapark.Resolver?, tls: lunapark.TlsConfig|lunapark.TlsOptions|true|nil }
---timeout: seconds, with the look-up of the name; resolver: looks the name up; tls: the connection speaks TLS, and the
---handshake is done when `dial` returns
---@return lunapark.Conn|nil conn
---@return string? err  "no such host: NAME", "connection refused", "timeout" ...
function net.dial(addr, opts)
  check_addr(addr, "dial")
  if opts ~= nil and type(opts) ~= "table" then error("dial: opts must be a table, got " .. type(opts), 2) end
  local timeout = opts and opts.timeout
  if timeout ~= nil and (type(timeout) ~= "number" or timeout ~= timeout or timeout >= 9e9) then
    error("dial: timeout must be a number of seconds, got " .. as_given(timeout), 2)
  end
  if opts and opts.tls then
    return lp.deadline(timeout, dial_tls, addr, opts.resolver, tls.of(opts.tls, "dial"))
  end
  if names.is_dialed_as_is(addr) then return dial.connect(addr, timeout) end
  return lp.deadline(timeout, dial_name, addr, opts and opts.resolver)
end

--- Connections to one address that are used again: see net/pool.lua. Does not wait.
---@param addr string
---@param opts? { max: integer?, idle: number?, tls: lunapark.TlsConfig|lunapark.TlsOptions|true|nil }  max: connections
---at once, 64 without it; idle: seconds that one waits before it is closed, 90 without it; tls: as for `net.dial`
---@return lunapark.Pool
function net.pool(addr, opts)
  return (pool.new(net.dial, addr, opts))
end

return net
