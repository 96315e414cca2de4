--- Requests that C refuses: which apps answer them.
--
-- C answers by itself what it need not ask an app about: a head that is malformed or too large (400, 405, 413, 414,
-- 417, 431, 501, 505) or did not come in time (408), a client more than --max-conns (503), and a handler that has lost
-- its client (502: its VM has ended, 504: --handler-timeout). An app with `on_error` or `on_done` is asked: `on_error`
-- makes the answer, and `on_done` hears of it. `err` of on_error has `status` and `message`, and no place. The request
-- has what had been read of it: `path` and `target` are "" where there was no line of a request, `headers` may lack
-- some, the body is empty. Middleware is not called: it could rely on none of that.
--
-- `on_done` is called by whoever makes the answer, so not by a handler that has lost its client before it answered.
--
-- C answers alone, and no function is called, where no VM can run at once: all of them are stuck or being made (the
-- answer to a request is 503 then). Both functions have a second in all. Such exchanges are not kept for `on_done`
-- until a VM runs again. What would have to be kept is the head of each request, up to --max-head, at the very moment
-- at which requests pile up; any bound of that would lose some of them; and the others would be told late, perhaps to a
-- VM of the next generation. So `on_done` tells of what the app could be asked about. The access log and
-- lp.stats().exchanges tell of all exchanges: C writes both.
--
-- The host calls `refuse` with the number of the server's handler (core.set_refuser, host/http/handler.c). It has this
-- function while an app of the VM wants it. After a change in an app nobody knows whether it does until its routes are
-- compiled again, so it is asked until then.

local core = require "lunapark.core"
local dispatch = require "lunapark.http.dispatch"

local refusal = {}

-- By the number of a handler: the app that it answers for. `asked` of an app: whether it wants to know.
---@type table<integer, lunapark.App>
local apps = setmetatable({}, { __mode = "v" })

local function refuse(slot, address, number, seconds)
  local app = apps[number]
  if app and app.asked then dispatch.refused(app.plan or app:compile(), slot, address, seconds) end
end
jit.off(refuse)

local function tell_host()
  for _, app in pairs(apps) do
    if app.asked then return core.set_refuser(refuse) end
  end
  core.set_refuser(nil)
end

local wants
function wants(plan)
  for _, scope in pairs(plan.scopes) do
    if scope.on_done or #scope.on_error > 0 then return true end
  end
  for _, of_host in pairs(plan.hosts or {}) do
    if wants(of_host) then return true end
  end
  return false
end

--- The app has changed.
---@param app lunapark.App  of a handler
function refusal.changed(app)
  app.asked = true
  tell_host()
end

--- The app has a plan again.
---@param app lunapark.App  of a handler
function refusal.compiled(app)
  app.asked = wants(app.plan)
  tell_host()
end

--- A handler of this number answers for the app from now on.
---@param app lunapark.App|function
---@param number integer
function refusal.give(app, number)
  apps[number] = type(app) == "table" and app or nil
  if type(app) == "function" then return tell_host() end
  app.asked = true
  if app.plan then refusal.compiled(app) else app:compile() end
end

return refusal
