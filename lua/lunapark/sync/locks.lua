--- Locks and meeting points for the Gs of one VM: mutex, rwlock, semaphore, waitgroup, cond, once.
--
-- Between two waits a G has its VM for itself, so plain Lua needs no locks. They are for state that must stay as it is
-- across a wait, and for Gs that wait for each other.
--
-- They are as Go's sync, but strictly first come, first served: a lock that is given back goes straight to the G that
-- has waited longest. So no G slips past and none starves, writers of an rwlock as little as its readers. A wait
-- answers true; or nil and "timeout" or "canceled", and then holds nothing. No lock knows its owner: another G may
-- unlock it. A lock that a G holds when it ends stays held; `with` gives it back, also after an error. Giving back a
-- lock that is not held raises.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local lp = require "lunapark"
local base = require "lunapark.core.base"
local waitq = require "lunapark.sync.waitq"

local C = ffi.C
local check_seconds, deadline_in = base.check_seconds, base.deadline_in
local heard, handed, slot_of_self, wait = base.heard, waitq.handed, waitq.slot, waitq.wait
local early = base.early
local getmetatable, type, error = getmetatable, type, error

local sync = {}

local function fire_all(queue)
  while queue.n > 0 do
    C.host_queue_fire(queue, 1)
  end
end

local function class(name)
  local c = {}
  c.__index, c.__name = c, "lunapark." .. name
  return c
end

local function check_self(self, c, what, name)
  if getmetatable(self) ~= c then error(("%s: %s must be a %s, got %s"):format(what, name, name, type(self)), 3) end
end

local function check_fn(fn, what)
  if type(fn) ~= "function" then error(what .. ": fn must be a function, got " .. type(fn), 3) end
end

local function check_count(n, what, least)
  if type(n) ~= "number" or n % 1 ~= 0 or n < least or n > 2 ^ 53 then
    error(("%s: n must be a whole number, %d or more, got %s"):format(what, least, tostring(n)), 3)
  end
end

-- Runs fn(...) and then leave(self). An error of fn is raised again after that.
local function finish(leave, self, n, ok, ...)
  leave(self, n)
  if not ok then base.rethrow((...)) end
  return ...
end

local function run(leave, self, n, fn, ...)
  return finish(leave, self, n, xpcall(fn, base.note_trace, ...))
end

-- ---- mutex -----------------------------------------------------------------------------------------------

---@class lunapark.Mutex
---@field private locked boolean  true while a G waits: unlocking hands the lock on
---@field private queue lunapark.Waitq
local Mutex = class "Mutex"

--- A lock that one G holds at a time.
---@return lunapark.Mutex
function sync.mutex()
  return setmetatable({ locked = false, queue = waitq.new() }, Mutex)
end

local function lock_later(self, s)
  local at = deadline_in(s)
  if not self.locked then
    self.locked = true
    return true
  end
  local answer = wait(self.queue, at)
  if answer == 1 then return true end
  return heard(answer)
end

--- Locks the mutex. Waits while it is locked, unless s is 0 or less. A G that locks it twice waits for itself.
---@param s? number  seconds
---@return true|nil
---@return string? err  "timeout", "canceled"
function Mutex:lock(s)
  check_self(self, Mutex, "lock", "mutex")
  if s ~= nil then check_seconds(s, "lock") end
  if early and not (s and s <= 0) then early() end
  if not self.locked then
    self.locked = true
    return true
  end
  if s and s <= 0 then return nil, "timeout" end
  return lock_later(self, s)
end

--- Locks the mutex if it is not locked. Does not wait.
---@return boolean
function Mutex:try_lock()
  check_self(self, Mutex, "try_lock", "mutex")
  if self.locked then return false end
  self.locked = true
  return true
end

local function unlock(self)
  local queue = self.queue
  if queue.n > 0 then C.host_queue_fire(queue, 1) else self.locked = false end
end

--- Unlocks the mutex. The G that has waited longest has it now.
function Mutex:unlock()
  check_self(self, Mutex, "unlock", "mutex")
  if not self.locked then error("unlock: the mutex is not locked", 2) end
  unlock(self)
end

--- Runs fn(...) with the mutex locked. Waits for the lock.
---@param fn fun(...): ...
---@param ... any
---@return any ...  what fn returned; nil and "timeout" or "canceled" if the lock was not to be had
function Mutex:with(fn, ...)
  check_self(self, Mutex, "with", "mutex")
  check_fn(fn, "with")
  local ok, err = self:lock()
  if not ok then return nil, err end
  return run(self.unlock, self, nil, fn, ...)
end

-- Locks the mutex, even if the running G is canceled or its deadline passes meanwhile.
local function lock_anyway(self)
  if not self.locked then
    self.locked = true
    return
  end
  C.host_shelter(1)
  while wait(self.queue, 0) ~= 1 do -- luacheck: ignore 542
  end
  C.host_shelter(0)
end

-- ---- rwlock -----------------------------------------------------------------------------------------------

---@class lunapark.RWLock
---@field private readers integer  how many readers hold it
---@field private writer boolean   a writer holds it
---@field private queue lunapark.Waitq  readers and writers in the order in which they came
local RWLock = class "RWLock"

--- A lock that one writer or any number of readers hold. A G that comes while others wait, waits behind them. So
--- neither readers nor writers starve; and a reader that locks it a second time may wait for a writer that waits for
--- the reader.
---@return lunapark.RWLock
function sync.rwlock()
  return setmetatable({ readers = 0, writer = false, queue = waitq.new() }, RWLock)
end

-- Lets in the Gs that may come in.
local function admit(self)
  local queue = self.queue
  while queue.n > 0 and not self.writer do
    if handed[C.host_queue_first(queue)] == "write" then
      if self.readers > 0 then return end
      self.writer = true
    else
      self.readers = self.readers + 1
    end
    C.host_queue_fire(queue, 1)
  end
end

local function enter(self, kind)
  if self.writer or kind == "write" and self.readers > 0 or self.queue.n > 0 then return false end
  if kind == "write" then self.writer = true else self.readers = self.readers + 1 end
  return true
end

local function enter_later(self, kind, s)
  local at, slot = deadline_in(s), slot_of_self()
  if enter(self, kind) then return true end
  handed[slot] = kind
  local answer = wait(self.queue, at)
  handed[slot] = false
  if answer == 1 then return true end
  admit(self) -- those that waited behind this writer alone
  return heard(answer)
end

--- Locks it for writing. Waits until no other G holds it, unless s is 0 or less.
---@param s? number  seconds
---@return true|nil
---@return string? err  "timeout", "canceled"
function RWLock:lock(s)
  check_self(self, RWLock, "lock", "rwlock")
  if s ~= nil then check_seconds(s, "lock") end
  if early and not (s and s <= 0) then early() end
  if enter(self, "write") then return true end
  if s and s <= 0 then return nil, "timeout" end
  return enter_later(self, "write", s)
end

--- Locks it for reading. Waits while a writer holds it or waits for it, unless s is 0 or less.
---@param s? number  seconds
---@return true|nil
---@return string? err  "timeout", "canceled"
function RWLock:rlock(s)
  check_self(self, RWLock, "rlock", "rwlock")
  if s ~= nil then check_seconds(s, "rlock") end
  if early and not (s and s <= 0) then early() end
  if enter(self, "read") then return true end
  if s and s <= 0 then return nil, "timeout" end
  return enter_later(self, "read", s)
end

--- Locks it for writing if that needs no wait.
---@return boolean
function RWLock:try_lock()
  check_self(self, RWLock, "try_lock", "rwlock")
  return enter(self, "write")
end

--- Locks it for reading if that needs no wait.
---@return boolean
function RWLock:try_rlock()
  check_self(self, RWLock, "try_rlock", "rwlock")
  return enter(self, "read")
end

--- Ends a lock for writing.
function RWLock:unlock()
  check_self(self, RWLock, "unlock", "rwlock")
  if not self.writer then error("unlock: the rwlock is not locked for writing", 2) end
  self.writer = false
  admit(self)
end

--- Ends a lock for reading.
function RWLock:runlock()
  check_self(self, RWLock, "runlock", "rwlock")
  if self.readers == 0 then error("runlock: the rwlock is not locked for reading", 2) end
  self.readers = self.readers - 1
  admit(self)
end

--- Runs fn(...) with it locked for writing. Waits for the lock.
---@param fn fun(...): ...
---@param ... any
---@return any ...  what fn returned; nil and "timeout" or "canceled" if the lock was not to be had
function RWLock:with(fn, ...)
  check_self(self, RWLock, "with", "rwlock")
  check_fn(fn, "with")
  local ok, err = self:lock()
  if not ok then return nil, err end
  return run(self.unlock, self, nil, fn, ...)
end

--- Runs fn(...) with it locked for reading. Waits for the lock.
---@param fn fun(...): ...
---@param ... any
---@return any ...  as `with`
function RWLock:rwith(fn, ...)
  check_self(self, RWLock, "rwith", "rwlock")
  check_fn(fn, "rwith")
  local ok, err = self:rlock()
  if not ok then return nil, err end
  return run(self.runlock, self, nil, fn, ...)
end

-- ---- semaphore --------------------------------------------------------------------------------------------

---@class lunapark.Semaphore
---@field private size integer
---@field private free integer
---@field private queue lunapark.Waitq
local Semaphore = class "Semaphore"

--- n permits to be taken and given back. A G that wants many permits is served in its turn; the Gs behind it wait.
---@param n integer  0 or more
---@return lunapark.Semaphore
function sync.semaphore(n)
  check_count(n, "semaphore", 0)
  return setmetatable({ size = n, free = n, queue = waitq.new() }, Semaphore)
end

local function take(self, n)
  if self.free < n or self.queue.n > 0 then return false end
  self.free = self.free - n
  return true
end

local function serve(self)
  local queue = self.queue
  while queue.n > 0 do
    local n = handed[C.host_queue_first(queue)]
    if n > self.free then return end
    self.free = self.free - n
    C.host_queue_fire(queue, 1)
  end
end

local function take_later(self, n, s)
  local at, slot = deadline_in(s), slot_of_self()
  if take(self, n) then return true end
  handed[slot] = n
  local answer = wait(self.queue, at)
  handed[slot] = false
  if answer == 1 then return true end
  serve(self) -- Gs behind this one may want less
  return heard(answer)
end

local function check_permits(self, n, what)
  check_self(self, Semaphore, what, "semaphore")
  check_count(n, what, 1)
  if n > self.size then
    error(("%s: n must be at most the semaphore's %d, got %d"):format(what, self.size, n), 3)
  end
end

--- Takes n permits. Waits until so many are free, unless s is 0 or less.
---@param n? integer  1 without it
---@param s? number   seconds
---@return true|nil
---@return string? err  "timeout", "canceled"
function Semaphore:acquire(n, s)
  n = n or 1
  check_permits(self, n, "acquire")
  if s ~= nil then check_seconds(s, "acquire") end
  if early and not (s and s <= 0) then early() end
  if take(self, n) then return true end
  if s and s <= 0 then return nil, "timeout" end
  return take_later(self, n, s)
end

--- Takes n permits if that needs no wait.
---@param n? integer
---@return boolean
function Semaphore:try_acquire(n)
  n = n or 1
  check_permits(self, n, "try_acquire")
  return take(self, n)
end

local function give(self, n)
  self.free = self.free + n
  serve(self)
end

--- Gives n permits back.
---@param n? integer
function Semaphore:release(n)
  n = n or 1
  check_permits(self, n, "release")
  if self.free + n > self.size then error("release: more than was acquired", 2) end
  give(self, n)
end

--- Runs fn(...) with one permit. Waits for it.
---@param fn fun(...): ...
---@param ... any
---@return any ...  what fn returned; nil and "timeout" or "canceled" if there was no permit
function Semaphore:with(fn, ...)
  check_self(self, Semaphore, "with", "semaphore")
  check_fn(fn, "with")
  local ok, err = self:acquire()
  if not ok then return nil, err end
  return run(self.release, self, 1, fn, ...)
end

-- ---- waitgroup --------------------------------------------------------------------------------------------

---@class lunapark.WaitGroup
---@field private count integer
---@field private queue lunapark.Waitq
local WaitGroup = class "WaitGroup"

--- A count of work that is to be done. Gs that wait go on when the count is 0.
---@return lunapark.WaitGroup
function sync.waitgroup()
  return setmetatable({ count = 0, queue = waitq.new() }, WaitGroup)
end

local function add(self, n)
  self.count = self.count + n
  if self.count == 0 then fire_all(self.queue) end
end

--- Adds n, which may be negative, to the count.
---@param n? integer  1 without it
function WaitGroup:add(n)
  n = n or 1
  check_self(self, WaitGroup, "add", "waitgroup")
  check_count(n, "add", -2 ^ 53)
  if self.count + n < 0 then error("add: n makes the count negative: " .. self.count + n, 2) end
  add(self, n)
end

--- One piece of work is done.
function WaitGroup:done()
  check_self(self, WaitGroup, "done", "waitgroup")
  if self.count == 0 then error("done: the count is 0", 2) end
  add(self, -1)
end

local function wait_later(self, s)
  local at = deadline_in(s)
  if self.count == 0 then return true end
  local answer = wait(self.queue, at)
  if answer == 1 then return true end
  return heard(answer)
end

--- Waits until the count is 0, unless s is 0 or less.
---@param s? number  seconds
---@return true|nil
---@return string? err  "timeout", "canceled"
function WaitGroup:wait(s)
  check_self(self, WaitGroup, "wait", "waitgroup")
  if s ~= nil then check_seconds(s, "wait") end
  if early and not (s and s <= 0) then early() end
  if self.count == 0 then return true end
  if s and s <= 0 then return nil, "timeout" end
  return wait_later(self, s)
end

--- Starts fn(...) as `lp.go` does. It counts as a piece of work, which is done when fn ends, also by an error.
---@param fn fun(...): ...
---@param ... any
---@return lunapark.G
function WaitGroup:go(fn, ...)
  check_self(self, WaitGroup, "go", "waitgroup")
  check_fn(fn, "go")
  add(self, 1)
  return lp.go(run, add, self, -1, fn, ...)
end

-- ---- cond -------------------------------------------------------------------------------------------------

---@class lunapark.Cond
---@field private queue lunapark.Waitq
local Cond = class "Cond"

--- A place to wait for a change of state that a mutex guards:
---
---   mutex:lock()
---   while not ready do assert(cond:wait(mutex)) end
---   ...
---   mutex:unlock()
---@return lunapark.Cond
function sync.cond()
  return setmetatable({ queue = waitq.new() }, Cond)
end

--- Unlocks the mutex, waits for a signal, and locks the mutex again. The mutex is locked in every case when `wait`
--- returns, even if that takes longer than s or the G's deadline.
---@param mutex lunapark.Mutex  locked
---@param s? number  seconds
---@return true|nil
---@return string? err  "timeout", "canceled"
function Cond:wait(mutex, s)
  check_self(self, Cond, "wait", "cond")
  check_self(mutex, Mutex, "wait", "mutex")
  if s ~= nil then check_seconds(s, "wait") end
  if early and not (s and s <= 0) then early() end
  if not mutex.locked then error("wait: the mutex is not locked", 2) end
  if s and s <= 0 then return nil, "timeout" end
  local at, why = deadline_in(s), core.barrier()
  if why then error(why, 2) end
  unlock(mutex)
  local ok, answer = pcall(wait, self.queue, at)
  lock_anyway(mutex)
  if not ok then error(answer, 0) end
  if answer == 1 then return true end
  return heard(answer)
end

--- Wakes the G that has waited longest, if any waits.
function Cond:signal()
  check_self(self, Cond, "signal", "cond")
  C.host_queue_fire(self.queue, 1)
end

--- Wakes all Gs that wait.
function Cond:broadcast()
  check_self(self, Cond, "broadcast", "cond")
  fire_all(self.queue)
end

-- ---- once -------------------------------------------------------------------------------------------------

local function keep(once, ok, ...)
  once.ok, once.n, once.runner = ok, select("#", ...), nil
  for i = 1, once.n do
    once[i] = (select(i, ...))
  end
  once.done = true
  fire_all(once.queue)
  if not ok then base.rethrow((...)) end
  return ...
end

--- A function that runs fn at its first call. Callers that come while fn runs wait for its end. All callers get fn's
--- results, or the error that fn raised.
---@param fn fun(): ...
---@return fun(): ...  nil and "timeout" or "canceled" for a caller whose wait ended so
function sync.once(fn)
  check_fn(fn, "once")
  local once = { queue = waitq.new() }
  return function()
    if early then early() end
    if not once.done then
      if not fn then
        if once.runner == lp.self() then error("once: fn calls itself", 2) end
        local answer = wait(once.queue, 0)
        if answer ~= 1 then return heard(answer) end
      else
        local f = fn
        fn, once.runner = nil, lp.self()
        return keep(once, xpcall(f, base.note_trace))
      end
    end
    if not once.ok then error(once[1], 0) end
    return unpack(once, 1, once.n)
  end
end

return sync
