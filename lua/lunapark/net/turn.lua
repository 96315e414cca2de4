--- One G at a time: the order of the Gs that read, or write, or accept on one socket.
--
-- A *turn* is handed on in order, like the permit of a semaphore: `leave` gives it straight to the first G that waits,
-- so no G slips past. A G that gives up leaves its place, or passes the turn on if it had just been given it. lp.park
-- is not used here: a `ready` that a user means for a later park must neither end this wait nor get lost in it.
--
-- The deadline of a socket does not reach a G in the queue. It ends the call of the G in front, and then the call of
-- the next.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local lp = require "lunapark"

local C = ffi.C
local wait, OTHER = core.wait, core.reasons.other

---@class lunapark.Turn
---@field private busy boolean   a G has the turn
---@field private first integer  places first .. last are Gs that wait, or false where one gave up
---@field private last integer
local turn = {}

--- A turn that no G has.
---@return lunapark.Turn
function turn.new()
  return { busy = false, first = 1, last = 0 }
end

--- Gives the turn to the next G that waits for it.
---@param t lunapark.Turn
local function leave(t)
  while t.first <= t.last do
    local place = t.first
    local g = t[place]
    t[place], t.first = nil, place + 1
    if g then
      C.host_wake(g.slot)
      return
    end
  end
  t.busy = false
end
turn.leave = leave

--- Takes the turn. May wait.
---@param t lunapark.Turn
---@param deadline_ns? number  on the clock of rt_nanotime
---@return true|nil ok
---@return string? err   "timeout" or "canceled"
local function enter(t, deadline_ns)
  if not t.busy then
    t.busy = true
    return true
  end
  local place = t.last + 1
  t.last, t[place] = place, lp.self()
  local ok, err
  repeat ok, err = pcall(wait, OTHER, deadline_ns) until not ok or err or not t[place]
  if not ok then -- it cannot wait here
    t[place] = false
    error(err, 0)
  end
  if not err then return true end
  if t[place] then
    t[place] = false
  else
    leave(t) -- the turn was on its way when we gave up
  end
  return nil, err
end
turn.enter = enter

local function done(t, ok, ...)
  leave(t)
  if not ok then error((...), 0) end
  return ...
end

--- Takes the turn, calls fn(...), and leaves the turn, also after an error (no memory, or a place where no G may wait).
--- May wait.
---@param t lunapark.Turn
---@param fn fun(...): ...
---@param ... any
---@return any ...  what fn returned, or nil and "timeout" or "canceled"
function turn.run(t, fn, ...)
  local ok, err = enter(t)
  if not ok then return nil, err end
  return done(t, pcall(fn, ...))
end

--- Takes the turn unless the deadline comes first, calls fn(...), and leaves the turn, also after an error. May wait.
---@param t lunapark.Turn
---@param deadline_ns number|nil
---@param fn fun(...): ...
---@param ... any
---@return any ...
function turn.run_until(t, deadline_ns, fn, ...)
  local ok, err = enter(t, deadline_ns)
  if not ok then return nil, err end
  return done(t, pcall(fn, ...))
end

return turn
