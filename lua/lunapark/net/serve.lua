--- Serving any protocol: `net.serve(addr, fn[, opts])`, and what `app:tcp` shares with it.
--
--   local server = assert(net.serve("127.0.0.1:7000", function(conn)
--     for line in function() return conn:read_line() end do
--       conn:write(line .. "\n")
--     end
--   end))
--   server:wait()
--
-- Each connection gets a G, which calls fn with the connection. The connection is closed when fn returns or raises. An
-- error is logged with its traceback, unless it is what a wait answered when the other side had left.
--
-- A stop, of the server or the process, is like that of HTTP: no client is accepted any more, and each connection goes
-- on; but from then on a wait for the other side ends after a second of silence, with "timeout". A handler that treats
-- that as the end, as it does any other error, so ends between two messages, and never within one that is on its way. A
-- reload is no stop: connections stay as they are, in their VM, until they end or --drain-timeout is over.
--
-- The host accepts, chooses the VM and closes (host/serve/raw.c). Here is what a VM knows of its connections: those in
-- `served`, which is the VM's and not this module's, since busted loads modules anew.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local base = require "lunapark.core.base"
local common = require "lunapark.net.sock"
local conn = require "lunapark.net.conn"
local lp = require "lunapark"
local names = require "lunapark.net.names"
local show = require "lunapark.core.show"
local serve_udp = require "lunapark.net.serve_udp"
local tls = require "lunapark.tls"
local as_given = require("lunapark.core.show").given

local C = ffi.C
local view = base.view

-- Errors that a handler raises when it does not look at what a wait answers. They are no fault of it.
local LEFT = {
  eof = true, timeout = true, canceled = true, closed = true, ["broken pipe"] = true,
  ["connection reset by peer"] = true,
}
local DEBUG, ERROR = 0, 3

local serve = {}

local registry = debug.getregistry()
-- Connections of this VM that are being served, each with its G.
---@type table<lunapark.Conn, lunapark.G>
local served = registry["lunapark.served"] or setmetatable({}, { __mode = "k" })
registry["lunapark.served"] = served

local process_stops = false

local host_sock_ptr = ffi.typeof "host_sock *"

---@class lunapark.ServeOptions
---@field idle number|false|nil  seconds that a wait for the other side may take; false: any number; nil: --idle-timeout
---@field max integer?           connections at once, 1 or more; further ones are closed at once
---@field backlog integer?       clients that may wait to be accepted, 1 or more
---@field tls lunapark.TlsConfig|lunapark.TlsOptions|nil  its connections speak TLS: fn is called after the handshake,
---which has --header-timeout; a connection whose handshake fails is closed
---@field on_error? fun(conn: lunapark.Conn, err: any, traceback: string)  called in place of the log, before the
---connection is closed

--- Raises unless opts are options of a server. Called by a function that users call.
---@param opts any
---@param what string  the function's name
function serve.check_options(opts, what)
  if opts == nil then return end
  if type(opts) ~= "table" then error(what .. ": opts must be a table, got " .. type(opts), 3) end
  local idle = opts.idle
  if idle ~= nil and idle ~= false and (type(idle) ~= "number" or idle <= 0 or idle ~= idle) then
    error(("%s: idle must be a number of seconds or false, got %s"):format(what, as_given(idle)), 3)
  end
  for _, name in ipairs { "max", "backlog" } do
    local n = opts[name]
    if n ~= nil and (type(n) ~= "number" or n < 1 or n > 2147483647 or n % 1 ~= 0) then
      error(("%s: %s must be a whole number, 1 or more, got %s"):format(what, name, as_given(n)), 3)
    end
  end
  if opts.on_error ~= nil and type(opts.on_error) ~= "function" then
    error(what .. ": on_error must be a function, got " .. type(opts.on_error), 3)
  end
end

local function log(level, ...)
  local text = table.concat { ... }
  C.host_log(level, text, #text)
end

local function trace(err)
  return { err = err, text = debug.traceback(show.value(err), 2) }
end

-- Tells of an error of fn.
local function report(where, c, failure, on_error)
  local client = c:remote_addr()
  client = client and ", client " .. client or ""
  if on_error then
    local ok, again = xpcall(on_error, trace, c, failure.err, failure.text)
    if ok then return end
    log(ERROR, where, client, ": on_error failed: ", again.text)
  end
  log(LEFT[failure.err] and DEBUG or ERROR, where, client, ": ", failure.text)
end

local function idle_ns(opts)
  local idle = opts and opts.idle
  if idle == false then return 0 end
  return math.min(idle or core.option_value "idle-timeout", 9e9) * 1e9
end

---@class lunapark.Conn
---@field package idle_ns number?  of a served connection: how long a wait for the other side may take; 0: any time

local function set_idle(c, ns)
  c.idle_ns = ns
  if ns ~= 0 then C.host_sock_set_idle(c.sock, ns) end
end

local function shorten_idle(c)
  local short = tonumber(C.host_drain_idle_ns())
  if c.idle_ns == 0 or c.idle_ns > short then set_idle(c, short) end
end

-- C's number of the place of fn, for dumps and the log.
local function number_of(fn, where)
  local info = debug.getinfo(fn, "S")
  local text = ("%s, %s:%d"):format(where, info.short_src, info.linedefined)
  return C.host_label(text, #text)
end

-- The handshake of a new connection. False: it has failed.
local function shake_hands(where, c, config)
  c:set_deadline(core.option_value "header-timeout")
  local ok, err = c:start_tls(config)
  c:set_deadline(nil)
  if not ok then log(DEBUG, where, ": a connection ends in the handshake: ", err) end
  return ok
end

--- A connection that the running G has got otherwise is bounded, and told of a stop, as one that is served.
---@param c lunapark.Conn
---@return lunapark.Conn c
function serve.adopt(c)
  set_idle(c, idle_ns())
  if process_stops then shorten_idle(c) end
  served[c] = lp.self()
  return c
end

--- The function that the host calls for each connection, for core.new_handler and core.set_handler.
---@param where string  "tcp ADDR", for the log
---@param fn fun(conn: lunapark.Conn)
---@param opts? lunapark.ServeOptions
---@param mine? table<lunapark.Conn, lunapark.G>  the connections of one server
---@return fun(address: lightuserdata): true|nil  true: it has failed
function serve.handler(where, fn, opts, mine)
  local number = number_of(fn, where)
  local on_error = opts and opts.on_error
  local config = opts and opts.tls and tls.of(opts.tls, "serve")
  if config and not config.server then error("serve: tls: a server needs cert and key", 3) end
  return function(address)
    C.host_set_place(view.slot, number)
    local c = conn.new(common.keep(ffi.cast(host_sock_ptr, address)))
    set_idle(c, idle_ns(opts))
    if process_stops or mine and mine.stopping then shorten_idle(c) end
    local g = lp.self()
    served[c] = g
    if mine then mine.conns[c] = g end
    local ok, failure = true, nil
    if not config or shake_hands(where, c, config) then ok, failure = xpcall(fn, trace, c) end
    served[c] = nil
    if mine then mine.conns[c] = nil end
    if not ok then report(mine and "tcp " .. mine.addr_ or where, c, failure, on_error) end
    if not ok and not LEFT[failure.err] then return true end
  end
end

local function hurry(conns)
  for c in pairs(conns) do shorten_idle(c) end
end

--- For the host: the process stops. This VM's servers accept no more; connections go on, but the other side may be
--- silent for a second only.
function serve.stop()
  process_stops = true
  C.host_serve_stop_all()
  hurry(served)
end

---@class lunapark.Server
---@field private id integer
---@field private addr_ string
---@field private conns table<lunapark.Conn, lunapark.G>
---@field private stopping boolean
local Server = {}
Server.__index = Server
Server.__name = "lunapark.Server"

--- The address it listens on, with the port that was chosen when port 0 was asked for.
---@return string
function Server:addr() return self.addr_ end

-- Waits for its end. An end is never urgent, so this looks now and then.
local function wait_end(self, at)
  local pause = 0.0005
  while C.host_serve_ended(self.id) == 0 do
    local left = at and (at - base.now_ns()) / 1e9 or pause
    if left <= 0 then return nil, "timeout" end
    local ok, err = lp.sleep(math.min(pause, left))
    if not ok then return nil, err end
    pause = math.min(pause * 2, 0.016)
  end
  return true
end

--- Waits until somebody has stopped the server and its last connection has ended.
---@param s? number  seconds at most
---@return true|nil ok
---@return string? err  "timeout", "canceled"
function Server:wait(s)
  base.check_seconds(s, "wait", true)
  return wait_end(self, s and base.deadline_in(s))
end

--- Stops the server: accepts no more, and waits until its connections have ended. Those that have not ended after `s`
--- seconds are closed, and their Gs canceled. Stopping twice is harmless. May wait.
---@param s? number  seconds; --drain-timeout without it; 0: at once
---@return true|nil ok
---@return string? err  "timeout": some had to be closed; "canceled": they go on
function Server:stop(s)
  base.check_seconds(s, "stop", true)
  self.stopping = true
  C.host_serve_stop(self.id)
  hurry(self.conns)
  local ok, err = wait_end(self, base.deadline_in(s or core.option_value "drain-timeout"))
  if err ~= "timeout" then return ok, err end
  for c, g in pairs(self.conns) do
    c:close()
    g:cancel()
  end
  return nil, err
end

--- The number of connections that are being served.
---@return integer
function Server:count()
  local n = 0
  for _ in pairs(self.conns) do n = n + 1 end
  return n
end

local bound, err_out = ffi.new "char[256]", ffi.new "int[1]"

--- Serves an address: each connection calls fn with it, in a G of its own, and is closed when fn returns. The server is
--- this VM's, and ends with it. May wait for the look-up of a name, and for nothing else.
---
--- "udp:HOST:PORT" serves datagrams: see net/serve_udp.lua.
---@param addr string  as for `net.listen`
---@param fn fun(conn: lunapark.Conn)|fun(data: string, from: string, sock: lunapark.Udp)
---@param opts? lunapark.ServeOptions
---@return lunapark.Server|lunapark.UdpServer|nil server
---@return string? err
function serve.new(addr, fn, opts)
  common.check_addr(addr, "serve")
  if type(fn) ~= "function" then error("serve: fn must be a function, got " .. type(fn), 2) end
  serve.check_options(opts, "serve")
  local datagrams = addr:match "^udp:(.+)"
  if datagrams then return serve_udp.new(datagrams, fn, opts) end
  local plain, err = names.first(addr)
  if not plain then return nil, err end
  local self = { conns = setmetatable({}, { __mode = "k" }), stopping = false }
  local number = core.new_handler(serve.handler("tcp " .. plain, fn, opts, self))
  local id = C.host_serve_raw(plain, number, opts and opts.max or 0, opts and opts.backlog or 0, bound, 256, err_out)
  if id < 0 then
    if id == -1 then core.drop_handler(number) end
    return nil, common.message(err_out[0])
  end
  self.id, self.addr_ = id, ffi.string(bound)
  return setmetatable(self, Server)
end

return serve
