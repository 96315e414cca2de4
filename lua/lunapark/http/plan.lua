--- The plan of an app: what requests are answered from, compiled from definitions (app.lua).
--
-- In a plan mounted apps are dissolved: one router has every route under its full path, and each route has the
-- middleware of the apps around it composed into one function.
--
-- Middleware of an app surrounds everything below its prefix, in the order of `use`, whether the routes were defined
-- before or after. It also surrounds the answers "404" and "405" and the answer to OPTIONS, which are therefore entries
-- like others. *Scopes* decide which app gives these answers: the one whose prefix fits the path best, as of routes.
--
-- Each app of a host (hosts.lua) is compiled into a plan of its own, in the middleware of the app that is served. Then
-- something else is asked in place of the router of the app, which has the host's plan asked: an app without hosts pays
-- nothing for them.

local core = require "lunapark.core"
local answer = require "lunapark.http.answer"
local chain = require "lunapark.http.chain"
local hosts = require "lunapark.http.hosts"
local request = require "lunapark.http.request"
local router = require "lunapark.http.router"
local slash = require "lunapark.http.slash"

local plans = {}

-- A VM that loads may run about as long as it takes to compile so many routes.
local MANY = 32

-- The handler that answers with a status where there is no route.
local function handler_of(plan, status)
  return function(req, res)
    local allow = status ~= 404 and core.apart(plan.own.allowed, plan.own, request.raw_path(req.ptr)) or nil
    if status == 204 then return 204, nil, { Allow = allow } end
    answer.note_failure(req, res, status)
    if allow then res.headers.Allow = allow end
    return res
  end
end

local Plan = {}

--- The scope of a path; nil: it is none. Every path has the prefix of the app itself.
---@param raw string
---@return table|nil
function Plan:scope_of(raw)
  local shape = self.prefixes:prefix(raw)
  return shape and self.scopes[shape]
end

--- The entry for a path that has no route for the method.
---@param method string
---@param raw string  the path
---@param r ffi.cdata*  host_req
---@return table|nil entry  nil: raw is no path
function Plan:miss(method, raw, r)
  self = self:of_host(r)
  local scope = self:scope_of(raw)
  if not scope then return nil end
  local status = not self.own:allowed(raw) and 404 or method == "OPTIONS" and 204 or 405
  if not scope[status] then
    local run, fn = chain.compose(scope.middleware, status == 404 and scope.not_found or handler_of(self, status))
    scope[status] = {
      run = run, fn = fn, on_error = scope.on_error, on_done = scope.on_done, label = "no route", dir = scope.dir,
    }
  end
  return scope[status]
end

--- The plan for the host that a request names.
---@param r ffi.cdata*  host_req
---@return table plan
function Plan:of_host(r)
  return self.hosts and hosts.find(self.hosts, request.host_of(r, r.id)) or self
end

jit.off(handler_of)
jit.off(Plan.scope_of)
jit.off(Plan.miss)
jit.off(Plan.of_host)

local plan_mt = { __index = Plan }

-- What is asked in place of a router.
local Hosted = {}
local hosted_mt = { __index = Hosted }

function Hosted:match(method, raw, len, r, ...) -- luacheck: ignore
  local plan = core.apart(self.plan.of_host, self.plan, r)
  return (plan.own:match(method, raw, len))
end

local function joined(a, b)
  local list = {}
  for _, part in ipairs { a, b } do
    for _, element in ipairs(part) do
      list[#list + 1] = element
    end
  end
  return list
end

-- Adds a route. Its entry; nil: there was a route for these paths.
local function add_route(plan, route, scope)
  -- Of files that the host answers for by itself, neither middleware nor on_done would hear.
  local files = #scope.middleware == 0 and not scope.on_done and route.files or nil
  plan.has_files = plan.has_files or files ~= nil
  plan.routes[#plan.routes + 1] = files == route.files and route
    or { method = route.method, pieces = route.pieces, fn = route.fn }
  local run, fn = chain.compose(scope.middleware, route.fn)
  local entry = {
    run = run, fn = fn, on_error = scope.on_error, on_done = scope.on_done, route = route, dir = scope.dir,
    host = plan.host,
  }
  return plan.own:add(route.method, route.pieces, entry) and entry or nil
end

-- The route as it is below a prefix.
local function below(prefix, route)
  return { method = route.method, pieces = joined(prefix, route.pieces), fn = route.fn, files = route.files }
end

-- Adds the routes of `self`, which is mounted below `prefix` in apps with this middleware and these error handlers.
-- outer: the scope of the app around it. Returns the app's own.
local function add_app(plan, self, prefix, outer)
  local scope = {
    slash = self.slash or outer.slash,
    not_found = self.missing or outer.not_found,
    middleware = joined(outer.middleware, self.middleware),
    on_error = joined({ self.error_handler }, outer.on_error),
    on_done = joined(self.dones, outer.on_done or {}),
    dir = self.dir,
  }
  if #scope.on_done == 0 then scope.on_done = false end
  plan.scopes[plan.prefixes:add_prefix(prefix)] = scope -- of apps below one prefix, the last
  for i, route in ipairs(self.routes) do
    local whole = #prefix == 0 and route or below(prefix, route)
    local entry = add_route(plan, whole, scope)
    if not entry then error(("%s %s is there twice"):format(route.method, router.show(whole.pieces)), 0) end
    slash.note(plan, scope, entry)
    -- The prefix without a slash is a courtesy: a route that the outer app has there comes first.
    if #prefix > 0 and #route.pieces == 1 and (route.pieces[1] == "" or route.is_folder) then
      add_route(plan, { method = route.method, pieces = prefix, fn = route.fn }, scope)
    end
    if i % MANY == 0 then core.share() end
  end
  for _, mount in ipairs(self.mounts) do
    add_app(plan, mount.app, joined(prefix, mount.pieces), scope)
  end
  return scope
end

-- The plan of an app, in the scope `outer`, and the app's scope. host: whose it is; nil: of all that have none.
local function compile(app, outer, host)
  local own = router.new()
  local plan = setmetatable({
    router = own, own = own, prefixes = router.new(), scopes = {}, routes = {}, host = host, hosts = false,
    has_files = false,
  }, plan_mt)
  local scope = add_app(plan, app, {}, outer)
  slash.add(plan, add_route)
  plan.outermost = scope
  return plan, scope
end

for _, fn in ipairs { joined, add_route, below, add_app, compile } do
  jit.off(fn) -- as in router.lua
end

--- Compiles an app.
---@param app lunapark.App
---@return table
function plans.of(app)
  local plan, scope = compile(app, { middleware = {}, on_error = {}, on_done = false, slash = "ignore" })
  if not app.hosts[1] then return plan end
  plan.hosts, plan.router = {}, setmetatable({ plan = plan }, hosted_mt)
  for _, host in ipairs(app.hosts) do
    plan.hosts[host.name] = compile(host.app, scope, host.name)
  end
  return plan
end

return plans
