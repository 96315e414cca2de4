--- Middleware: functions around a handler, `function(req, res, next) ... end`.
--
-- `next()` runs the functions further in and *settles* their results: when it returns, res.status, res.headers and
-- res.body are the answer as it stands, and nothing was sent yet (unless the handler streams). `next()` returns the
-- handler's own results. So each of these lines does what it looks like:
--
--   return next()                                     -- hands the answer on
--   next(); res.headers["X-Time"] = elapsed           -- changes something about it
--   local text = next(); return text .. "!"           -- replaces it
--   if not allowed then return 403 end; return next() -- answers in its place
--
-- A chain returns a fourth result, `settled`, when `res` already says what the first three results say. A chain is
-- composed once, when routes are compiled. `next` is a table with __call, since the JIT cannot compile making a
-- closure.

local live = require("lunapark.http.exchange").live
local response = require "lunapark.http.response"

local chain = {}

-- Unique, so that no handler returns it by accident.
local settled = {}
chain.settled = settled

local next_mt = { __name = "lunapark.next" }

function next_mt.__call(self, err)
  if err ~= nil then error(err, 0) end -- next(err), as in Express
  if self.called then error("next: called twice", 2) end
  self.called = true
  local a, b, c, done = self.inner(self.req, self.res)
  if done ~= settled and live(self.req, 2).state == 0 then response.settle(self.res, a, b, c) end
  self.a, self.b, self.c = a, b, c
  return a, b, c
end

local function wrap(middleware, inner)
  return function(req, res)
    local next = setmetatable({ called = false, inner = inner, req = req, res = res }, next_mt)
    local a, b, c = middleware(req, res, next)
    if next.called then
      if a == nil and b == nil then return next.a, next.b, next.c, settled end
      if rawequal(a, next.a) and rawequal(b, next.b) and rawequal(c, next.c) then return a, b, c, settled end
    end
    return a, b, c
  end
end

--- A handler with middleware around it.
---@param middleware function[]  outermost first
---@param handler function
---@return function  the handler itself when there is none
function chain.compose(middleware, handler)
  local run = handler
  for i = #middleware, 1, -1 do
    run = wrap(middleware[i], run)
  end
  return run
end

return chain
