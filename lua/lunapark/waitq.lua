--- Queues of Gs that wait for each other, and what is handed over: the Lua side of host/queue.c.
--
-- A queue is a host_queue; `q.n` says how many wait in it. Who has something for the first of them fires it
-- (C.host_queue_fire(q, ok)), which ends its wait and tells its slot, and leaves a value for it in `handed[slot]`. Who
-- waits may in turn leave something there that others look at: a value to be sent, how much of a semaphore it wants.
--
-- `handed` has a place for each slot that has ever waited, so that it is an array and stays one; false: nothing.
--
-- Finalizers may run at any allocation, and use a channel. So whatever is allocated for a wait, its deadline included,
-- comes before the look at whether one has to wait at all; from there to the wait itself nothing allocates.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local base = require "lunapark.base"

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
---@return integer|string answer  1 or 0, as it was fired; else for base.heard: "timeout", "canceled"
function waitq.wait(q, at)
  local answer = wait_in(q, at)
  while answer == nil do
    answer = rest(at, q) -- q is held: see queue.c
  end
  return answer
end

return waitq
