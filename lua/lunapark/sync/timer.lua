--- Functions that run later: `lp.after`, `lp.every`.
--
--   local t = lp.every(60, refresh)
--   t:stop()
--
-- Each timer is a G of its own that sleeps. So fn may wait as it likes, and no timer holds up another one. The G is
-- started as by lp.detach: it has neither the deadline nor the scope of the caller, so a timer that a handler makes
-- outlives the request. An error in fn is logged.
--
-- `every` keeps the beat: the n-th run is due n * s after the start, however late the last run was or long it took. A
-- run that is due while fn still runs, or while the machine was too busy, is left out, as by Go's ticker.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local lp = require "lunapark"
local base = require "lunapark.core.base"
local show = require "lunapark.core.show"
local as_given = require("lunapark.core.show").given

local C = ffi.C
local note = debug.getregistry()["lunapark.note"]
local wait, SLEEP = core.wait, core.reasons.sleep
local now_ns, deadline_in = base.now_ns, base.deadline_in

local timer = {}

---@class lunapark.Timer
---@field private g lunapark.G
---@field private at number        when fn is due
---@field private pending boolean  fn is to run (again)
---@field private waiting boolean  its G waits for that moment
local Timer = {}
Timer.__index = Timer
Timer.__name = "lunapark.Timer"

-- Waits for the moment. false: the timer was stopped, or its G cancelled.
local function due(t)
  t.waiting = true
  while t.pending do
    local err = wait(SLEEP, t.at)
    if err == "canceled" then
      t.pending = false
    elseif err and t.at <= now_ns() then
      break
    end
  end
  t.waiting = false
  return t.pending
end

local function run_after(t, fn, ...)
  if not due(t) then return end
  t.pending = false
  return fn(...)
end

local function run_every(t, period_ns, fn, ...)
  while due(t) do
    local ok, err = xpcall(fn, show.traceback, ...)
    if not ok then
      local msg = "every: " .. err
      C.host_log(3, msg, #msg)
    end
    t.at = t.at + period_ns
    local now = now_ns()
    if t.at < now then t.at = t.at + math.ceil((now - t.at) / period_ns) * period_ns end
  end
end

local function check_fn(fn, what)
  if type(fn) ~= "function" then error(what .. ": fn must be a function, got " .. type(fn), 3) end
end

--- Runs fn(...) in s seconds, once.
---@param s number  seconds
---@param fn fun(...)
---@param ... any
---@return lunapark.Timer
function timer.after(s, fn, ...)
  base.check_seconds(s, "after")
  check_fn(fn, "after")
  local t = setmetatable({ at = deadline_in(s), pending = true, waiting = false }, Timer)
  t.g = lp.detach(run_after, t, fn, ...)
  if note then note("timer", t) end
  return t
end

--- Runs fn(...) every s seconds, for the first time in s seconds, until the timer is stopped.
---@param s number  seconds, more than 0
---@param fn fun(...)
---@param ... any
---@return lunapark.Timer
function timer.every(s, fn, ...)
  base.check_seconds(s, "every")
  check_fn(fn, "every")
  if s <= 0 then error("every: s must be more than 0, got " .. as_given(s), 2) end
  local t = setmetatable({ at = deadline_in(s), pending = true, waiting = false }, Timer)
  t.g = lp.detach(run_every, t, s * 1e9, fn, ...)
  if note then note("timer", t) end
  return t
end

--- Stops the timer: fn does not run any more. A run that has begun goes on. May be called in fn, and twice.
---@return boolean stopped  false: it was stopped before, or its fn has run or begun to for the last time
function Timer:stop()
  if getmetatable(self) ~= Timer then error("stop: t must be a timer, got " .. type(self), 2) end
  local pending = self.pending
  self.pending = false
  if pending and self.waiting then C.host_wake(self.g.slot) end
  return pending
end

return timer
