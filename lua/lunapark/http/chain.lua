--- Middleware: functions around a handler, `function(req, res, next) ... end`.
--
-- `next()` runs the functions further in and *settles* their results (answer.lua): when it returns, res.status,
-- res.headers and res.body are the answer as it stands, and nothing was sent yet (unless the handler streams). `next()`
-- returns `res`. So each of these lines does what it looks like:
--
--   return next()                                     -- hands the answer on
--   local r = next(); log(r.status); return r         -- looks at it
--   next(); res.headers["X-Time"] = elapsed           -- changes something about it
--   next(); return res.body .. "!"                    -- replaces it by a text
--   return next() .. "!"                              -- the same; a page stays a page
--   if not allowed then return 403 end; return next() -- answers in its place
--
-- A chain returns a fourth result, `settled`, when `res` already says what the first three results say. A chain is
-- composed once, when routes are compiled. `next` is a table with __call, since the JIT cannot compile making a
-- closure. What calls middleware or a handler is a vararg function: dispatch.lua says why.

local answer = require "lunapark.http.answer"
local live = require("lunapark.http.exchange").live
local log = require "lunapark.log"

local chain = {}

-- Unique, so that no handler returns it by accident.
local settled = {}
chain.settled = settled

local next_mt = { __name = "lunapark.next" }

function next_mt.__call(self, err, ...) -- luacheck: ignore
  if err ~= nil then error(err, 0) end -- next(err), as in Express
  if self.called then error("next: called twice", 2) end
  self.called = true
  local req, res, link = self.req, self.res, self.link
  local a, b, c, done = link.inner(req, res)
  if done ~= settled and live(req, 2).state == 0 then answer.settle(res, a, b, c, link.fn) end
  return res
end

-- Middleware that neither answers nor lets others answer is a mistake, most of the time: the client gets 204.
local function note_silence(middleware, req, res)
  if answer.was_told(res) or live(req, 3).state ~= 0 then return end
  log.warn(("%s: the middleware returned nothing, told res nothing, and did not call next(): answered 204"):format(
    answer.place_of(middleware)))
end

local function wrap(middleware, inner, fn)
  local link = { inner = inner, fn = fn }
  return function(req, res, ...) -- luacheck: ignore
    local next = setmetatable({ called = false, link = link, req = req, res = res }, next_mt)
    local a, b, c = middleware(req, res, next)
    if b ~= nil or c ~= nil then return a, b, c end
    if next.called then
      if a == nil or rawequal(a, res) then return nil, nil, nil, settled end
    elseif a == nil then
      note_silence(middleware, req, res)
    end
    return a
  end
end

--- A handler with middleware around it.
---@param middleware function[]  outermost first
---@param handler function
---@return function run  the handler itself when there is none
---@return function fn   whose results those of `run` are, unless they are settled: the outermost function
function chain.compose(middleware, handler)
  local run, fn = handler, handler
  for i = #middleware, 1, -1 do
    run, fn = wrap(middleware[i], run, fn), middleware[i]
  end
  return run, fn
end

return chain
