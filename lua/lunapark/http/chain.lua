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
-- Much middleware only looks at the request, and answers in the handler's place or leaves all to it: nearly all in the
-- box. It is a *gate* (chain.gate), and gates in a row are asked by one function: its `next` returns nothing, so that
-- each gate says by its result whether to go on. The handler's results are left as they are.
--
-- A chain returns a fourth result, `settled`, when `res` already says what the first three results say. A chain is
-- composed once, when routes are compiled. `next` is a table with __call, since the JIT cannot compile making a
-- closure. What calls middleware or a handler is a vararg function: dispatch.lua says why. The JIT gives up a record in
-- which the same code is within itself more than three times: so what calls middleware has code of its own at each
-- depth.

local answer = require "lunapark.http.answer"
local live = require("lunapark.http.exchange").live
local log = require "lunapark.log"

local chain = {}

-- Unique, so that no handler returns it by accident.
local settled = {}
chain.settled = settled

-- ---- gates --------------------------------------------------------------------------------------------------

local gates = setmetatable({}, { __mode = "k" })

--- Says of middleware that each of its ways ends in `return next()`, or returns an answer.
---@param fn fun(req: lunapark.Request, res: lunapark.Response, next: fun(): any): any
---@return fun(req: lunapark.Request, res: lunapark.Response, next: fun(): any): any fn
function chain.gate(fn)
  gates[fn] = true
  return fn
end

local function go_on() end

-- Gates in a row in front of a function.
local function guard(inner, one, two, three, four)
  return function(req, res, ...) -- luacheck: ignore
    local a = one(req, res, go_on)
    if a == nil then a = two(req, res, go_on) end
    if a == nil then a = three(req, res, go_on) end
    if a == nil then a = four(req, res, go_on) end
    if a ~= nil then return a end
    local b, c, done
    a, b, c, done = inner(req, res) -- no tail call: a record that comes from a gate does not get through one
    return a, b, c, done
  end
end

-- ---- middleware ---------------------------------------------------------------------------------------------

-- Middleware that neither answers nor lets others answer is a mistake, most of the time: the client gets 204.
local function note_silence(middleware, req, res)
  if answer.was_told(res) or live(req, 3).state ~= 0 then return end
  log.warn(("%s: the middleware returned nothing, told res nothing, and did not call next(): answered 204"):format(
    answer.place_of(middleware)))
end

-- Makes a function that puts middleware around another function. Copied for each depth: has no upvalues.
local function wrapper(settled, settle, live, note_silence) -- luacheck: ignore
  local next_mt = { __name = "lunapark.next" }

  function next_mt.__call(self, err, ...) -- luacheck: ignore
    if err ~= nil then error(err, 0) end -- next(err), as in Express
    if self.called then error("next: called twice", 2) end
    self.called = true
    local req, res, link = self.req, self.res, self.link
    local a, b, c, done = link.inner(req, res)
    if done ~= settled and live(req, 2).state == 0 then settle(res, a, b, c, link.fn) end
    return res
  end

  return function(middleware, inner, fn)
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
end

local wrappers = {}

-- The function that wraps with the code of a depth, 1: the innermost.
local function wrapper_at(depth)
  if not wrappers[depth] then
    local copy = assert(loadstring(string.dump(wrapper)))
    wrappers[depth] = copy(settled, answer.settle, live, note_silence)
  end
  return wrappers[depth]
end

--- A handler with middleware around it.
---@param middleware function[]  outermost first
---@param handler function
---@return function run  the handler itself when there is none
---@return function fn   whose results those of `run` are, unless they are settled or a gate's: the outermost function
function chain.compose(middleware, handler)
  local run, fn, depth, i = handler, handler, 0, #middleware
  while i > 0 do
    local row = {}
    while #row < 4 and gates[middleware[i]] do
      table.insert(row, 1, middleware[i])
      i = i - 1
    end
    if row[1] then
      run = guard(run, row[1], row[2] or go_on, row[3] or go_on, row[4] or go_on)
    else
      depth = depth + 1
      run, fn = wrapper_at(depth)(middleware[i], run, fn), middleware[i]
      i = i - 1
    end
  end
  return run, fn
end
jit.off(chain.compose) -- as in router.lua

return chain
