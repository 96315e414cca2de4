--- Queues of Gs that wait for each other: what channels, mutexes and the like stand on.
--
-- A *waiter* is a table that stands for one wait of one G. It stands in a queue until somebody takes it out and
-- *fires* it: that hands over whatever it waits for (a value, a lock) at that moment, so nobody can slip past, and
-- nothing is handed to a G that no longer wants it. A G that gives up, by a timeout or because it is cancelled,
-- takes its waiter out again; if it was fired in the meantime, though the G has not run since, it has what it waited
-- for, and the wait answers so. All of that happens between two waits in one VM, so it needs no locks, and nothing is
-- lost or delivered twice.
--
-- A select waits in several queues at once, with a waiter in each. They have one `owner`, the waiter that its G looks
-- at: the first that is fired sets the owner's `fired`, which makes the others dead. These are taken out when the G
-- runs, so who takes a waiter from a queue skips dead ones (`first`).
--
-- Waiters are kept: a G waits once at a time, so its slot has one, which is used again and again. Only Lua that runs
-- in the midst of a wait, which is a finalizer, finds it taken, and gets a new one. A finalizer may also use a
-- channel at any allocation. So whatever is allocated for a wait, its deadline included, comes first; then a look at
-- whether one has to wait at all; from there to the wait itself nothing allocates.
--
-- Where a G cannot wait (in a finalizer, beneath an FFI callback) core.wait would raise and leave the waiter in its
-- queue. core.pause says so instead; it is raised when the waiter is out.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local base = require "lunapark.base"

local C = ffi.C
local pause, OTHER = core.pause, core.reasons.other
local view, heard = base.view, base.heard

local waitq = {}

---@class lunapark.Waitq
---@field head lunapark.Waiter|false
---@field tail lunapark.Waiter|false

---@class lunapark.Waiter
---@field slot integer             whose it is
---@field owner lunapark.Waiter    itself, but in a select
---@field fired lunapark.Waiter|false  an owner's: which of its waiters was fired
---@field busy boolean             it is in use
---@field queue lunapark.Waitq|false  where it stands
---@field prev lunapark.Waiter|false
---@field next lunapark.Waiter|false
---@field value any                what is handed over
---@field ok boolean               a channel's: it was not closed
---@field kind any                 a lock's: what it wants
---@field index integer            in a select: which case
---@field ch any                   in a select: its channel, while it waits
---@field cases lunapark.Waiter[]?  a select's, of its owner

---@return lunapark.Waitq
function waitq.new()
  return { head = false, tail = false }
end

--- A waiter that nobody uses.
---@return lunapark.Waiter
local function new_waiter()
  local w = {
    slot = view.slot, owner = false, fired = false, busy = false, queue = false, prev = false, next = false,
    value = nil, ok = false, kind = nil, index = 0, ch = nil, cases = nil,
  }
  w.owner = w
  return w
end
waitq.new_waiter = new_waiter

local waiters = {} -- by slot

--- The waiter of the running G. Allocates.
---@return lunapark.Waiter
function waitq.waiter()
  local w = waiters[view.slot]
  if not w then
    w = new_waiter()
    waiters[w.slot] = w
  elseif w.busy then
    w = new_waiter()
  end
  return w
end

--- Puts w at the end of q.
---@param q lunapark.Waitq
---@param w lunapark.Waiter
local function push(q, w)
  local tail = q.tail
  w.queue, w.prev, w.next = q, tail, false
  if tail then tail.next = w else q.head = w end
  q.tail = w
end
waitq.push = push

--- Takes w out of its queue.
---@param w lunapark.Waiter
local function remove(w)
  local q, prev, next = w.queue, w.prev, w.next
  if prev then prev.next = next else q.head = next end
  if next then next.prev = prev else q.tail = prev end
  w.queue, w.prev, w.next = false, false, false
end
waitq.remove = remove

--- The first in q that still waits. It stays there.
---@param q lunapark.Waitq
---@return lunapark.Waiter|false
function waitq.first(q)
  local w = q.head
  while w and w.owner.fired do
    remove(w)
    w = q.head
  end
  return w
end

--- Takes w out of its queue and ends its wait.
---@param w lunapark.Waiter
function waitq.fire(w)
  remove(w)
  local owner = w.owner
  owner.fired = w
  C.host_wake(owner.slot)
end

--- Waits until w, an owner, is fired, at the latest at the moment `at` (0: none). nil, or why not: "timeout",
--- "canceled" or words to be raised. Who calls it has put w into its queues and takes it out.
---@param w lunapark.Waiter
---@param at number
---@return string? err
local function rest(w, at)
  local err = pause(OTHER, at)
  while not err and not w.fired do
    err = pause(OTHER, at)
  end
  if not w.fired then return err end
end
waitq.rest = rest

--- What a wait that ended with err answers; raises where it could not wait. To be called as a tail call.
---@param err string
---@return nil
---@return string err
local function failed(err)
  if err ~= "timeout" and err ~= "canceled" then error(err, 2) end
  return heard(err)
end
waitq.failed = failed

--- Waits in q with w, which was got for it, until it is fired.
---@param q lunapark.Waitq
---@param w lunapark.Waiter
---@param at number  the moment, 0: none
---@return string? err  for waitq.failed
function waitq.wait(q, w, at)
  w.busy, w.fired = true, false
  push(q, w)
  local err = rest(w, at)
  w.busy = false
  if err then remove(w) end
  return err
end

return waitq
