--- Queues of Gs that wait for each other, and the values that they hand over: the Lua side of host/vm/queue.c.
--
-- A queue is a host_queue; `q.n` says how many Gs wait in it. A G that has something for the first of them fires it:
-- C.host_queue_fire(q, ok) ends the wait of the first G and tells its slot, and the value is left in `handed[slot]`. A
-- G that waits may leave something in its own place for the others to look at: the value that it sends, or how many
-- permits of a semaphore it wants.
--
-- `handed` has a place for each slot that has ever waited, so that it is an array and stays one; false: nothing.
--
-- Finalizers may run at any allocation, and may use a channel. So all allocations for a wait, that of its deadline
-- included, come before the look at whether to wait at all; from there to the wait itself nothing allocates.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local base = require "lunapark.core.base"

local wait_in, rest = core.wait_in, core.rest
local view = base.view

local waitq = {}

---@class lunapark.Waitq: ffi.cdata*
---@field n integer  Gs that wait in it

--- An empty queue.
---@type fun(): lunapark.Waitq
waitq.new = ffi.typeof "host_queue"

---@type table<integer, any>
local handed = {}
waitq.handed = handed
local top = -1

--- The slot of the running G, with a place in `handed`.
---@return integer
function waitq.slot()
  local slot = view.slot
  if slot > top then
    for i = top + 1, slot do
      handed[i] = false
    end
    top = slot
  end
  return slot
end

--- Waits in q until it is fired. Raises where a G cannot wait.
---@param q lunapark.Waitq
---@param at number  at the latest until this moment; 0: none
---@return integer|string answer  1 or 0, as q was fired; else "timeout" or "canceled", for base.heard
function waitq.wait(q, at)
  local answer = wait_in(q, at)
  while answer == nil do
    answer = rest(at, q) -- q is held: see queue.c
  end
  return answer
end

return waitq
