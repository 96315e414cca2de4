--- For specs: `local testing = require "lunapark.testing"`.
--
--   local client = testing.serve(app)          -- a table, a function or the path of a script
--   local r = client:get("/hello/ann")         -- r.status r.headers r.body r:json()
--   testing.virtual(function() lp.sleep(3600) end)     -- takes no time: testing/virtual.lua
--
-- This VM serves the app on a free port of 127.0.0.1, with the sockets, parser and dispatch of the `serve` command: a
-- spec sees what users see. Client and server are Gs of one VM. The server stops by `client:close()`, or when the `it`,
-- describe or file in which it was made is over (in a before_each: the `it`), or when the client and the connections
-- made from it are collected.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local base = require "lunapark.core.base"
local singleton = require "lunapark.core.singleton"
local http = require "lunapark.http"
local refusal = require "lunapark.http.refusal"
local site = require "lunapark.http.site"
local tls = require "lunapark.tls"
local new_client = require "lunapark.testing.client"
local virtual = require "lunapark.testing.virtual"

local C = ffi.C
-- Set under `lunapark test`: see runner.lua.
local run = debug.getregistry()["lunapark.testing"]

---@class lunapark.testing
local testing = {}

-- A served app. `number` lives in cdata because only cdata is told when it is collected.
local Server = {}
local server_mt = { __name = "lunapark.testing.Server", __index = Server }

local function stop_number(number)
  if number[0] >= 0 then
    C.host_serve_stop(number[0])
    number[0] = -1
  end
end

function Server:stop()
  for _, g in ipairs(self.gs) do g:cancel() end
  stop_number(self.number)
  for _, g in ipairs(self.gs) do g:join(1) end
  self.gs = {}
end
Server.close = Server.stop

local function load_app(app, what)
  if type(app) == "string" then
    local chunk, err = loadfile(app)
    if not chunk then error(what .. ": " .. err, 3) end
    local path = app
    app = chunk()
    if not http.is_app(app) then
      error(what .. ": " .. path .. " returned neither an app nor a function, but a " .. type(app), 3)
    end
  elseif not http.is_app(app) then
    error(what .. ": app must be an app, a function or a path, got " .. type(app), 3)
  end
  return app, type(app) == "table" and app:start() or {}
end

local n_apps = 0

-- load_app, with singletons of its own: an app may be served twice.
local function load_apart(app, what)
  n_apps = n_apps + 1
  return singleton.apart(("testing %d: "):format(n_apps), load_app, app, what)
end

-- The app's options, as far as they are limits of a server.
local function set_limits(number, app)
  if type(app) ~= "table" then return end
  local wrong
  C.host_serve_options()
  for _, opts in ipairs { rawget(app, "options") or {}, app.settings } do
    for name, value in pairs(opts) do
      if type(value) == "string" then base.check_text(value, "serve", "the app's option " .. tostring(name), 7) end
      if type(name) == "string" then base.check_text(name, "serve", "the name of an option", 7) end
      local err = type(value) ~= "table" and C.host_serve_option(tostring(name), tostring(value))
      if err and err ~= nil then wrong = ffi.string(err) end
    end
  end
  C.host_serve_limits(number)
  if wrong then error("serve: the app's options: " .. wrong, 5) end
end

-- `make test-tls`: servers of specs speak TLS, unless a spec says otherwise.
local ALWAYS = (os.getenv "LUNAPARK_TEST_TLS" or "0") ~= "0"

-- The config of a server for these options; nil: without TLS.
local function tls_of(opts)
  local v = opts and opts.tls
  if v == nil then v = ALWAYS end
  if not v then return nil end
  local config = v == true and tls.self_signed() or tls.of(v, "serve")
  if not config.server then error("serve: tls: a server needs cert and key", 4) end
  return config
end

-- The options of the client of such a server. Nobody has signed the certificates of specs.
local function client_options(opts, config)
  local own = {}
  for name, value in pairs(opts or {}) do own[name] = value end
  own.tls = config and tls.config { insecure = true, alpn = { "http/1.1" } }
  return own
end

local function serve(opts, app, gs)
  local config = tls_of(opts)
  local bound, err = ffi.new("char[?]", 128), ffi.new("int[1]")
  local handler = core.new_handler(http.handler(app))
  local files = type(app) == "table" and site.describe(app) or ""
  local number = C.host_serve("127.0.0.1:0", handler, files, #files, config and config.handle, bound, 128, err)
  if number < 0 then
    if number == -1 then core.drop_handler(handler) end
    error("serve: " .. ffi.string(C.host_strerror(err[0])), 3)
  end
  if files ~= "" then site.given(app, number) end
  refusal.give(app, handler)
  local server = setmetatable({ number = ffi.gc(ffi.new("int[1]", number), stop_number), gs = gs }, server_mt)
  set_limits(number, app)
  local client = new_client.new(ffi.string(bound), server, client_options(opts, config))
  if run then
    run.close_later(server)
    run.close_later(client)
  end
  return client
end

--- Serves an app on a free port. Raises when the app cannot be loaded or started.
---@param app lunapark.App|function|string
---@param opts? lunapark.testing.ClientOptions  timeout, redirects, cookies, headers of the client; tls: true, or the
---server's certificate, `{ cert = FILE, key = FILE }`: client and server speak HTTPS, and the client takes any
---certificate; false: never, also where LUNAPARK_TEST_TLS=1 makes HTTPS the rule
---@return lunapark.testing.Client
function testing.serve(app, opts)
  new_client.check_options(opts, "serve", 2)
  return serve(opts, load_apart(app, "serve"))
end

--- Serves an app and connects to it, for requests written by hand. See also `testing.read_reply`.
---@param app lunapark.App|function|string
---@return lunapark.Conn  with a deadline of 10 seconds
function testing.raw(app)
  local conn, err = serve(nil, load_apart(app, "raw")):connect()
  if not conn then error("raw: " .. err, 2) end
  return conn
end

--- Reads one response from a connection. May wait.
---@param conn lunapark.Conn
---@param method? string  of the request, "GET" without it
---@return lunapark.testing.Reply|nil reply
---@return string? err
---@return boolean? last  the connection has no further response
function testing.read_reply(conn, method)
  return new_client.read_reply(conn, method)
end

testing.virtual = virtual
--- Sets what a test may leave behind. A call in an `it`, or in a before_each or after_each block, is for the running
--- `it`; a call elsewhere is for all tests of the describe or file.
---@param ... any  kinds: "G", "timer", "socket", "file", "process", "error" (of a G that is not joined); or objects:
---Gs, timers, connections, listeners, files, processes. Without any: everything
function testing.allow_leak(...)
  if run then run.allow_leak(...) end
end

--- Sets how long a block may take, in place of --block-timeout: the running block, from now on, and the later blocks of
--- the same `it`, describe or file.
---@param s number  seconds; 0: no limit
function testing.block_timeout(s)
  base.check_seconds(s, "block_timeout")
  if s < 0 then error("block_timeout: s must not be negative, got " .. s, 2) end
  if run then run.block_timeout(s) end
end

return testing
