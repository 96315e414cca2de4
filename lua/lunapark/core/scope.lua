--- Which Gs belong together, and end together: `lp.scope`, and the Gs of a request.
--
--   lp.scope(function(s)
--     for _, url in ipairs(urls) do s:go(fetch, url) end
--   end)                                    -- all of them have ended here, or one has raised and so does lp.scope
--
-- A G belongs to the scope in which it was started, and so do the Gs that it starts. Scopes form a tree: all Gs that
-- were started below a scope have ended when the scope ends. `lp.detach` starts a G outside of every scope.
--
-- The G that calls lp.scope *stands in* the scope: the function runs in that very G, so lp.self, deadlines and the
-- caller's coroutines are what they were. A G may stand in several scopes, one within the other; `g.scope` is the
-- innermost one, to which its new Gs belong. Cancelling a G cancels the Gs of the scopes that it stands in, and so on
-- down.
--
-- The first error in a scope, of one of its Gs or of the function, cancels the other Gs, and the function if it still
-- runs: each wait of the function answers nil, "canceled" until the scope is left. When all have ended, lp.scope raises
-- that error. Later errors are most often its consequence, so they go to the log at level debug only.
--
-- A request is the root of a scope of its own: Gs that its handler starts have the handler's deadline and are cancelled
-- with the handler when the client goes away. But an error of one such G ends that G alone, and the handler does not
-- wait for them: when it returns, the Gs that are left go on to their deadline. (So a handler may answer and let a G
-- finish the work. Work that must be done before the answer belongs into lp.scope.) The root is made when the handler
-- starts its first G, because most handlers never do. The main G of a script, too, is the root of the Gs that it
-- starts.
--
-- Deadline and cancellation must not end the wait of a G for the end of its scope: the scope's Gs have both and come to
-- an end by them. So that wait is sheltered from both.
--
-- Scopes follow the calls of a G, not its coroutines: a coroutine that yields out of lp.scope leaves its G standing in
-- the scope until it is resumed. If it is never resumed, the scope's Gs are cancelled when the G ends.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local show = require "lunapark.core.show"

local C = ffi.C
local wait, JOIN = core.wait, core.reasons.join
local BY_SCOPE, BY_BUBBLE = 2, 8 -- of host_canceled's bits
local DEBUG = 0

local scope = {}

---@class lunapark.Scope
---@field private owner lunapark.G        the G that stands in it
---@field private parent lunapark.Scope?  the one around it
---@field private first lunapark.G?       its Gs that have not ended: a list by g.prev, g.next
---@field private last lunapark.G?
---@field private root boolean?     of a request: its Gs are not waited for, and an error of one cancels no other
---@field private limit number      the deadline of its Gs, as host_deadline says it
---@field private where string?     where it was entered
---@field private canceled boolean? its Gs are cancelled, also those that are still to be started
---@field private failed boolean?
---@field private err any           what it raises, when it has failed
---@field private waiting boolean?  the function has returned, and the owner waits for the Gs
---@field private ended boolean?
local Scope = {}
Scope.__index = Scope
Scope.__name = "lunapark.Scope"

---@private
function Scope:__tostring()
  return "the scope of " .. (self.where or "a request")
end

-- ---- its Gs ----------------------------------------------------------------------------------------

--- The scope to which the running G's new Gs belong. nil: none.
---@param me lunapark.G  the running G
---@return lunapark.Scope|nil
function scope.of(me)
  local s = me.scope
  if s or me.where then return s end
  -- Not started by lp.go: a request's G, or a script's first.
  s = setmetatable({ owner = me, root = true, limit = 0, canceled = scope.is_canceled(BY_BUBBLE) }, Scope)
  me.scope = s
  return s
end

--- A G that was just started belongs to the scope from now on.
---@param s lunapark.Scope
---@param g lunapark.G
function scope.add(s, g)
  local last = s.last
  s.last, g.scope, g.prev = g, s, last
  if last then last.next = g else s.first = g end
  if s.canceled then C.host_cancel(g.slot) end
end

local cancel

local function cancel_all(s)
  s.canceled = true
  local g = s.first
  while g do
    C.host_cancel(g.slot)
    cancel(g)
    g = g.next
  end
end

--- A G was cancelled: so are the Gs of the scopes that it stands in.
---@param g lunapark.G
function cancel(g)
  local s = g.scope
  while s and s.owner == g do
    if not s.canceled then cancel_all(s) end
    s = s.parent
  end
end
scope.cancel = cancel

--- Whether the running G itself was cancelled, not only the work in a scope that has failed, nor in testing.virtual.
---@param but? integer  which reasons do not count; without it both
---@return boolean
function scope.is_canceled(but)
  return bit.band(C.host_canceled(), bit.bnot(but or BY_SCOPE + BY_BUBBLE)) ~= 0
end

local function text_of(err)
  return type(err) == "string" and err or "error: " .. show.value(err)
end

local function log_debug(message)
  C.host_log(DEBUG, message, #message)
end

-- The first error in s, of the function itself if there is no g.
local function fail(s, err, g)
  s.failed = true
  s.err = g and type(err) == "string" and ("%s\nin %s"):format(err, scope.describe(g)) or err
  cancel_all(s)
  local owner = s.owner
  if g and not s.waiting then
    local inner = owner.scope
    while inner and inner ~= s and inner.owner == owner do
      cancel_all(inner)
      inner = inner.parent
    end
    C.host_cancel_scope(owner.slot)
  end
end

--- A G has ended.
---@param g lunapark.G
---@param ok boolean
---@param err any
---@return boolean taken  its error is the scope's business
function scope.leave(g, ok, err)
  local s = g.scope
  while s and s.owner == g do -- left by a coroutine that nobody resumes
    cancel_all(s)
    s.ended = true
    s = s.parent
  end
  if not s then return false end
  local prev, next = g.prev, g.next
  if prev then prev.next = next else s.first = next end
  if next then next.prev = prev else s.last = prev end
  g.prev, g.next = nil, nil
  local taken = not s.root and not ok
  if taken then
    if not s.failed then
      fail(s, err, g)
    elseif not g.joiners or #g.joiners == 0 then
      log_debug(("%s, ended with an error after another: %s"):format(scope.describe(g), text_of(err)))
    end
  end
  if s.waiting and not s.first then C.host_wake(s.owner.slot) end
  return taken
end

--- "G 3.17, started at app.lua:12 in the scope of app.lua:10"
---@param g lunapark.G
---@return string
function scope.describe(g)
  local s = g.scope
  while s and s.owner == g do
    s = s.parent
  end
  local text = ("G %d.%d, started at %s"):format(g.slot, g.serial, g.where or "a request")
  return s and s.where and ("%s in %s"):format(text, tostring(s)) or text
end

-- ---- lp.scope ------------------------------------------------------------------------------------------

-- Waits until the scope has no Gs any more.
local function wait_for_all(s)
  C.host_shelter(1)
  s.waiting = true
  local ok, raised = true, nil
  while s.first and ok do
    if C.host_canceled() ~= 0 and not s.canceled then cancel_all(s) end
    ok, raised = pcall(wait, JOIN)
  end
  C.host_shelter(0)
  if ok then return end
  cancel_all(s) -- beneath an FFI callback nothing can wait
  if not s.failed then
    s.failed, s.err = true, raised
  end
end

-- The owner stands in s no longer. It is not always the innermost one: see coroutines, above.
local function step_out(s)
  local owner = s.owner
  if owner.scope == s then
    owner.scope = s.parent
  else
    local inner = owner.scope
    while inner and inner.parent ~= s do
      inner = inner.parent
    end
    if inner then inner.parent = s.parent end
  end
  -- It is still cancelled if another scope that it stands in has failed.
  local why = C.host_canceled()
  if bit.band(why, BY_SCOPE) == 0 then return end
  local outer = owner.scope
  while outer and outer.owner == owner do
    if outer.failed then return end
    outer = outer.parent
  end
  C.host_set_canceled(why - BY_SCOPE)
end

local function leave(s, ok, ...)
  if not ok then
    if s.failed then
      log_debug(("%s failed a second time: %s"):format(tostring(s), text_of((...))))
    else
      fail(s, (...))
    end
  end
  wait_for_all(s)
  s.ended = true
  step_out(s)
  if s.failed then error(s.err, 0) end
  return ...
end

--- lp.scope for the running G.
---@param me lunapark.G
---@param where string
---@param traceback fun(err): any
---@param fn fun(s: lunapark.Scope): ...
function scope.run(me, where, traceback, fn)
  local s = setmetatable({
    owner = me, parent = scope.of(me), limit = C.host_deadline(), where = where,
    canceled = C.host_canceled() ~= 0,
  }, Scope)
  me.scope = s
  return leave(s, xpcall(fn, traceback, s))
end

--- Sets Scope:go, which needs the function that starts Gs.
---@param place fun(): string  where a caller stands
---@param start fun(s: lunapark.Scope, where: string, fn: function, ...): lunapark.G
function scope.setup(place, start)
  --- Starts fn(...) as a G of the scope. Any G may call it, as long as the scope has not ended. The G has the nearer of
  --- the caller's deadline and the scope's.
  ---@param fn fun(...): ...
  ---@param ... any
  ---@return lunapark.G
  function Scope:go(fn, ...)
    if getmetatable(self) ~= Scope then error("go: s must be a scope, got " .. type(self), 2) end
    if type(fn) ~= "function" then error("go: fn must be a function, got " .. type(fn), 2) end
    if self.ended then error("go: the scope has ended", 2) end
    local own, limit = C.host_deadline(), self.limit
    local nearer = limit ~= 0 and (own == 0 or limit < own)
    if nearer then C.host_set_deadline(limit) end
    local g = start(self, place(), fn, ...)
    if nearer then C.host_set_deadline(own) end
    return g
  end
end

return scope
