--- An app: routes, middleware, mounted apps, and what to do with errors.
--
-- Definitions are kept as they are made. Requests are answered from a *plan* that is compiled from them at the first
-- request, or by `start` (plan.lua). A later definition drops the plan. What the host calls is in life.lua.
--
-- req.path is the whole path in mounted apps too: a log line or a redirect made from it is right.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local base = require "lunapark.core.base"
local doors = require "lunapark.http.doors"
local hosts = require "lunapark.http.hosts"
local life = require "lunapark.http.life"
local near = require "lunapark.core.near"
local plans = require "lunapark.http.plan"
local refusal = require "lunapark.http.refusal"
local router = require "lunapark.http.router"
local slash = require "lunapark.http.slash"
local source = require "lunapark.std.source"

local C = ffi.C

-- A VM that loads may run about as long as it takes to define and compile so many routes.
local MANY = 32

---@class lunapark.App
---@field dir string  the app's folder, an absolute path: relative paths of `static` and `res:send_file` start there
---@field package plan table|nil       compiled definitions; nil after a change
---@field package routes table[]
---@field package shapes table<string, table<string, string>>  method -> shape of a route -> its pattern
---@field package middleware function[]
---@field package mounts { pieces: string[], app: lunapark.App }[]
---@field package hosts { name: string, app: lunapark.App }[]
---@field package parents lunapark.App[]
---@field package error_handler function|nil
---@field package missing function|nil
---@field package starts function[]
---@field package retires function[]
---@field package dones function[]
---@field package giver function|nil
---@field package taker function|nil
---@field package given integer[]|nil  servers whose host answers for files of the app: see site.lua
---@field package asked boolean|nil  whether it answers what C refuses; nil: it is not served. See refusal.lua
---@field package jobs { name: string, fn: fun() }[]
---@field package settings table<string, any>
---@field package slash "strict"|"ignore"|"redirect"|nil
---@field package tcps { addr: string, fn: function, opts: lunapark.ServeOptions? }[]
local App = {}
local app_mt = { __name = "lunapark.App", __index = App }

local app = { mt = app_mt }

--- An app without routes.
---@param dir string
---@return lunapark.App
function app.new(dir)
  return setmetatable({
    dir = dir, routes = {}, shapes = {}, middleware = {}, mounts = {}, hosts = {}, parents = {}, starts = {},
    retires = {}, dones = {}, tcps = {}, jobs = {}, settings = {},
  }, app_mt)
end

local function drop_plan(self)
  local plan = rawget(self, "plan")
  if plan then
    doors.close(plan)
    self.plan = nil
  end
  if rawget(self, "given") then require("lunapark.http.site").off(self) end
  if rawget(self, "asked") ~= nil then refusal.changed(self) end
  for _, parent in ipairs(self.parents) do
    drop_plan(parent)
  end
end

-- In these functions `level` is the stack level of the caller, as seen from inside.
local function check_app(self, what, level)
  if getmetatable(self) ~= app_mt then error(what .. ": call it with a colon, app:" .. what .. "(...)", level) end
end

local function check_function(fn, what, level)
  if type(fn) ~= "function" then error(what .. ": fn must be a function, got " .. type(fn), level) end
end

local function define(self, what, method, pattern, fn)
  check_app(self, what, 4)
  local pieces = router.parse(pattern, what, 3)
  if type(fn) ~= "function" then check_function(fn, what .. " " .. pattern, 4) end
  local shapes, shape = self.shapes[method], router.shape(pieces)
  if not shapes then
    shapes = {}
    self.shapes[method] = shapes
  end
  if shapes[shape] then
    error(("%s: path %q is there already, as %q"):format(what, pattern, shapes[shape]), 3)
  end
  shapes[shape] = pattern
  local n = #self.routes + 1
  self.routes[n] = { method = method, pieces = pieces, fn = fn }
  if n % MANY == 0 then core.share() end
  drop_plan(self)
  return self
end

jit.off(drop_plan) -- as in router.lua
jit.off(check_app)
jit.off(define)

--- Defines the handler of a method and a path. `:name` stands for one segment, `:name<int>` for one of a kind, `*rest`
--- for the tail; text may stand around a name. See router.lua.
---@param pattern string
---@param fn fun(req: lunapark.Request, res: lunapark.Response): any, any, any
---@return lunapark.App self
function App:get(pattern, fn) return (define(self, "get", "GET", pattern, fn)) end

---@see lunapark.App.get
function App:post(pattern, fn) return (define(self, "post", "POST", pattern, fn)) end

---@see lunapark.App.get
function App:put(pattern, fn) return (define(self, "put", "PUT", pattern, fn)) end

---@see lunapark.App.get
function App:patch(pattern, fn) return (define(self, "patch", "PATCH", pattern, fn)) end

---@see lunapark.App.get
function App:delete(pattern, fn) return (define(self, "delete", "DELETE", pattern, fn)) end

---@see lunapark.App.get
function App:head(pattern, fn) return (define(self, "head", "HEAD", pattern, fn)) end

---@see lunapark.App.get
function App:options(pattern, fn) return (define(self, "options", "OPTIONS", pattern, fn)) end

--- Defines the handler of a path for every method that has no route of its own.
---@param pattern string
---@param fn fun(req: lunapark.Request, res: lunapark.Response): any, any, any
---@return lunapark.App self
function App:any(pattern, fn) return (define(self, "any", "ANY", pattern, fn)) end

for _, word in ipairs { "get", "post", "put", "patch", "delete", "head", "options", "any" } do
  jit.off(App[word])
end

-- Methods that no route of this name can have.
local reserved = {
  ANY = "method: for each method there is app:any(path, fn)",
  CONNECT = "method: CONNECT asks for a tunnel, and is refused before routing",
}

--- Defines the handler of a path for a method of any name, such as "QUERY". Names of methods are tokens, and their case
--- counts. A request with a method that no app has named, and that HTTP does not know, is answered 501.
---@param method string
---@param pattern string
---@param fn fun(req: lunapark.Request, res: lunapark.Response): any, any, any
---@return lunapark.App self
function App:method(method, pattern, fn)
  check_app(self, "method", 3)
  if type(method) ~= "string" then error("method: method must be a string, got " .. type(method), 2) end
  if reserved[method] then error(reserved[method], 2) end
  if C.host_method_add(method, #method) < 0 then
    error(("method: %q is no name of a method, or there are too many"):format(method), 2)
  end
  return (define(self, "method", method, pattern, fn))
end

--- Puts middleware around all answers of the app. The first middleware is outermost. See chain.lua.
---@param fn fun(req: lunapark.Request, res: lunapark.Response, next: fun(err?: any): any, any, any): any, any, any
---@return lunapark.App self
function App:use(fn)
  check_app(self, "use", 3)
  if type(fn) == "string" then
    error("use: fn must be a function, got string: for a path there is app:mount(path, other_app)", 2)
  end
  check_function(fn, "use", 3)
  local logs = package.loaded["lunapark.http.access_log"]
  if logs and logs.done[fn] then return self:on_done(logs.done[fn]) end
  self.middleware[#self.middleware + 1] = fn
  drop_plan(self)
  return self
end

--- Answers GET and HEAD below a prefix with the files of a folder, where no other route fits better. See static.lua.
---@param prefix string  "/assets", "/"; may have :names
---@param dir string     a relative path starts at `self.dir`
---@param opts? lunapark.StaticOptions
---@return lunapark.App self
function App:static(prefix, dir, opts)
  check_app(self, "static", 3)
  local pieces = router.prefix(router.parse(prefix, "static", 2))
  base.check_text(dir, "static", "dir", 3)
  if #pieces > 0 and pieces[#pieces]:sub(1, 1) == "*" then
    error("static " .. prefix .. ": a prefix cannot have a *rest", 2)
  end
  local shown = #pieces > 0 and router.show(pieces) or ""
  local fn, files = require("lunapark.http.static").handler(self.dir, dir, opts or {})
  if shown ~= "" then define(self, "static", "GET", shown, fn) end
  define(self, "static", "GET", shown .. "/*", fn)
  local route = self.routes[#self.routes]
  route.is_folder, route.files = shown == "", files
  return self
end

local function contains(outer, inner)
  if outer == inner then return true end
  for _, mount in ipairs(outer.mounts) do
    if contains(mount.app, inner) then return true end
  end
  for _, host in ipairs(outer.hosts) do
    if contains(host.app, inner) then return true end
  end
  return false
end

-- Raises unless `other` may be put into the app.
local function check_inner(self, other, what, level)
  if getmetatable(other) ~= app_mt then error(what .. ": app must be an app, got " .. type(other), level) end
  if next(other.settings) then
    error(what .. ": app has options, which are those of the app that is served", level)
  end
  if other.hosts[1] then error(what .. ": app has hosts, which are those of the app that is served", level) end
  if contains(other, self) then error(what .. ": app would contain itself", level) end
end

--- Puts another app below a path. Its "/" answers the prefix with and without a slash at the end.
---@param prefix string       may have :names
---@param other lunapark.App
---@return lunapark.App self
function App:mount(prefix, other)
  check_app(self, "mount", 3)
  local pieces = router.parse(prefix, "mount", 2)
  check_inner(self, other, "mount " .. prefix, 3)
  if pieces[#pieces]:sub(1, 1) == "*" then
    error("mount " .. prefix .. ": a prefix cannot have a *rest", 2)
  end
  self.mounts[#self.mounts + 1] = { pieces = router.prefix(pieces), app = other }
  local ok, err = pcall(self.compile, self)
  if not ok then
    self.mounts[#self.mounts] = nil
    error("mount " .. prefix .. ": " .. tostring(err), 2)
  end
  other.parents[#other.parents + 1] = self
  drop_plan(self)
  return self
end

--- Has another app answer all requests that name a host, in the middleware of this one, which is the app that is
--- served. Requests that name no such host get this app's own routes. See hosts.lua.
---@param name string  "api.example.com"; "*.example.com": each host below example.com
---@param other lunapark.App
---@return lunapark.App self
function App:host(name, other)
  check_app(self, "host", 3)
  name = hosts.parse(name, 2)
  check_inner(self, other, "host " .. name, 3)
  if self.parents[1] then error("host " .. name .. ": this app is in another, which is the one to have hosts", 2) end
  for _, host in ipairs(self.hosts) do
    if host.name == name then error("host " .. name .. ": there is an app for it already", 2) end
  end
  self.hosts[#self.hosts + 1] = { name = name, app = other }
  other.parents[#other.parents + 1] = self
  drop_plan(self)
  return self
end

--- Sets the function that answers when a handler raises. It returns what a handler returns; res.status is set already
--- (500, or the status for what the client did wrong). `err` is the value that was raised, `traceback` a text. If it
--- returns nothing, the client gets the plain answer; with --dev, the page that shows the error.
---@param fn fun(req: lunapark.Request, res: lunapark.Response, err: any, traceback: string): any, any, any
---@return lunapark.App self
function App:on_error(fn)
  check_app(self, "on_error", 3)
  check_function(fn, "on_error", 3)
  self.error_handler = fn
  drop_plan(self)
  return self
end

--- Sets the function that answers where there is no route, in this app and in those mounted in it. It returns what a
--- handler returns, and says the status, which would be 200 otherwise.
---@param fn fun(req: lunapark.Request, res: lunapark.Response): any, any, any
---@return lunapark.App self
function App:not_found(fn)
  check_app(self, "not_found", 3)
  check_function(fn, "not_found", 3)
  self.missing = fn
  drop_plan(self)
  return self
end

--- Adds a function that is called when an exchange is over, once for each: for counters and logs. `info` has the status
--- (0: the client left before there was one), the bytes that were sent so far, the seconds that it took, and the error
--- as text, if there was one. Requests that C answers are among them: refusal.lua. A mounted app hears of what is below
--- its prefix. The next request on the connection waits until the function has returned. Its errors are logged.
---@param fn fun(req: lunapark.Request, res: lunapark.Response, info: lunapark.Done)
---@return lunapark.App self
function App:on_done(fn)
  check_app(self, "on_done", 3)
  check_function(fn, "on_done", 3)
  self.dones[#self.dones + 1] = fn
  drop_plan(self)
  return self
end

--- Sets a function that is called once in each VM before requests come. It may wait.
---@param fn function
---@return lunapark.App self
function App:on_start(fn)
  check_app(self, "on_start", 3)
  check_function(fn, "on_start", 3)
  self.starts[#self.starts + 1] = fn
  return self
end

--- Sets a function that is called when the VM gets no more requests, while its last requests still run: a reload has
--- replaced the app, the server stops, or the VM is replaced since a handler in it was ended (--kill-after). The
--- function may wait, as long as these requests may.
---@param fn function
---@return lunapark.App self
function App:on_retire(fn)
  check_app(self, "on_retire", 3)
  check_function(fn, "on_retire", 3)
  self.retires[#self.retires + 1] = fn
  return self
end

--- Sets options of the server, as the command line has them (`max_body`, `listen`, ...). The command line and the
--- environment are stronger. Call it while the app is loaded, of the app that is served.
---
--- `slash` is the app's own, and holds for apps that are mounted in it and have none: what a path is that has a slash
--- at its end where the route has none, or has none where the route has one, and no route of its own. "ignore" (the
--- default): the route's; "redirect": sent to the route's spelling (308, so that a POST stays one); "strict": no path
--- of the route.
---@param opts table<string, any>
---@return lunapark.App self
function App:set(opts)
  check_app(self, "set", 3)
  if type(opts) ~= "table" then error("set: opts must be a table, got " .. type(opts), 2) end
  for name, value in pairs(opts) do
    if type(name) ~= "string" then error("set: a name in opts must be a string, got " .. type(name), 2) end
    if name == "slash" then
      self.slash = slash.check(value, 3)
      drop_plan(self)
    else
      self.settings[name] = value
    end
  end
  return self
end

--- Calls fn every s seconds, in one VM of the process (schedule.lua), as long as the app is served.
---@param s number  seconds, more than 0
---@param fn fun()
---@return lunapark.App self
function App:every(s, fn)
  check_app(self, "every", 3)
  return require("lunapark.http.schedule").add_every(self, s, fn)
end

--- Calls fn at the times of a line of a crontab, in one VM of the process (schedule.lua): "*/5 * * * *",
--- "0 3 * * mon-fri", "@daily".
---@param times string  minute, hour, day of the month, month, day of the week
---@param fn fun()
---@return lunapark.App self
function App:cron(times, fn)
  check_app(self, "cron", 3)
  return require("lunapark.http.schedule").add_cron(self, times, fn)
end

--- Serves another protocol on an address of its own: each connection calls fn with it, in a G of a VM that serves, and
--- is closed when fn returns. As with HTTP, a reload gives new connections to the new generation; connections that are
--- there stay in their VM, which ends when they have ended, or after --drain-timeout. A reload also opens addresses
--- that are new, and stops listening on those that are no more. See net/serve.lua for errors, idle time and stops.
---@param addr string  "host:port" without a name, "[v6]:port" or "unix:path"
---@param fn fun(conn: lunapark.Conn)
---@param opts? lunapark.ServeOptions
---@return lunapark.App self
function App:tcp(addr, fn, opts)
  check_app(self, "tcp", 3)
  base.check_text(addr, "tcp", "addr", 3)
  check_function(fn, "tcp " .. addr, 3)
  require("lunapark.net.serve").check_options(opts, "tcp")
  for _, tcp in ipairs(self.tcps) do
    if tcp.addr == addr then error("tcp: " .. addr .. " is there already", 2) end
  end
  self.tcps[#self.tcps + 1] = { addr = addr, fn = fn, opts = opts }
  return self
end

--- Makes a reload look at a file, or at all files in a folder and below it, as it looks at the Lua files that the app
--- has loaded. With --watch a change of one of these files reloads the app. For templates, and data that is read at
--- load.
---@param path string
---@return lunapark.App self
function App:watch(path)
  check_app(self, "watch", 3)
  if type(path) ~= "string" then error("watch: path must be a string, got " .. type(path), 2) end
  local ok, err = source.watch(path)
  if not ok then error(err, 2) end
  return self
end

--- Sets the function whose value the app's VM leaves to a VM of the next generation, for `take_over`: nil, a boolean, a
--- number, a string, or a table of these. It is called right before a reload switches, while requests still run. It may
--- wait. An error in it makes the reload fail.
---@param fn fun(): any
---@return lunapark.App self
function App:hand_over(fn)
  check_app(self, "hand_over", 3)
  check_function(fn, "hand_over", 3)
  self.giver = fn
  return self
end

--- Sets the function that gets the value that a VM of the last generation has left (`hand_over`). It is called after
--- the functions of `on_start` and before requests come, once for each such VM; at the first start not at all. An error
--- in it makes the reload fail.
---@param fn fun(value: any)
---@return lunapark.App self
function App:take_over(fn)
  check_app(self, "take_over", 3)
  check_function(fn, "take_over", 3)
  self.taker = fn
  return self
end

-- Fields that may be nil. Each would be compared with all methods otherwise, when an app is loaded.
local MAYBE = {
  given = true, asked = true, plan = true, error_handler = true, missing = true, slash = true, taker = true,
  giver = true, lua = true, options = true,
}

setmetatable(App, { __index = near.index("app", { App }, MAYBE, {
  listen = "lunapark serve --listen HOST:PORT", run = "`return app`", del = "app:delete(path, fn)",
  all = "app:any(path, fn)", route = "app:get(path, fn), app:post(path, fn) ...",
}, 4) })

--- Makes the plan that requests are answered from.
---@return table plan
function App:compile()
  local plan = plans.of(self)
  if self.plan then doors.close(self.plan) end
  self.plan = plan
  if self.asked ~= nil then refusal.compiled(self) end
  return self.plan
end

for name, fn in pairs(life) do App[name] = fn end

return app
