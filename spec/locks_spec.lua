local lp = require "lunapark"
local waits = require "spec.support.waits"
local helper = require "spec.helper"

local LONG, pack, raised = waits.LONG, waits.pack, helper.raised
local waiting = waits.waiting

describe("lunapark.mutex", function()
  it("lets one in at a time, in order", function()
    local mutex = lp.mutex()
    local inside, order, gs = 0, {}, {}
    for i = 1, 5 do
      gs[i] = lp.go(function()
        assert(mutex:lock())
        inside = inside + 1
        assert(inside == 1)
        order[#order + 1] = i
        lp.yield()
        inside = inside - 1
        mutex:unlock()
      end)
    end
    for i = 1, 5 do
      assert.is_nil((select(2, gs[i]:join())))
    end
    assert.same({ 1, 2, 3, 4, 5 }, order)
    assert.is_true(mutex:try_lock())
    assert.is_false(mutex:try_lock())
    mutex:unlock()
  end)

  it("is handed on: nobody slips past", function()
    local mutex = lp.mutex()
    mutex:lock()
    local g = waiting(mutex.lock, mutex)
    mutex:unlock()
    assert.is_false(mutex:try_lock())
    g:cancel() -- it has it, though it has not run
    assert.same({ true, n = 1 }, (g:join()))
    mutex:unlock()
    assert.is_true(mutex:try_lock())
  end)

  it("waits end by timeout and cancellation", function()
    local mutex = lp.mutex()
    mutex:lock()
    waits.end_well(function(s) return mutex:lock(s) end)
    mutex:unlock()
    assert.is_true(mutex:lock(0))
  end)

  it("with unlocks after an error, too", function()
    local mutex = lp.mutex()
    assert.same({ 1, nil, 3, n = 3 }, pack(mutex:with(function(...)
      assert.is_false(mutex:try_lock())
      return ...
    end, 1, nil, 3)))
    assert.matches("locks_spec.lua:%d+: oops", raised(mutex.with, mutex, function() error "oops" end))
    assert.is_true(mutex:try_lock())
    assert.same({ nil, "timeout", n = 2 }, pack(lp.deadline(0.005, mutex.with, mutex, print)))
    mutex:unlock()
    local g = lp.go(mutex.with, mutex, function() error "traced" end)
    local _, err = g:join()
    assert.matches("traced\nstack traceback:\n[^\n]*error[^\n]*\n[^\n]*locks_spec.lua", err)
  end)

  it("waits in a comparator", function()
    local mutex = lp.mutex()
    mutex:lock()
    local g = lp.go(function()
      for _ = 1, 20 do
        mutex:unlock()
        lp.yield()
        mutex:lock()
      end
      mutex:unlock()
    end)
    waits.in_comparator(function() mutex:with(lp.yield) end)
    g:join()
  end)

  it("refuses misuse, naming the argument", function()
    local mutex = lp.mutex()
    assert.matches("locks_spec.lua:%d+: unlock: the mutex is not locked", raised(function() mutex:unlock() end))
    assert.matches("locks_spec.lua:%d+: lock: mutex must be a mutex, got nil", raised(function() mutex.lock() end))
    assert.matches("lock: s must be a number of seconds, got x", raised(mutex.lock, mutex, "x"))
    assert.matches("try_lock: mutex must be", raised(mutex.try_lock, {}))
    assert.matches("unlock: mutex must be", raised(mutex.unlock, 1))
    assert.matches("locks_spec.lua:%d+: with: fn must be a function, got nil", raised(function() mutex:with() end))
  end)
end)

describe("lunapark.rwlock", function()
  it("lets readers in together, a writer alone", function()
    local lock = lp.rwlock()
    assert.is_true(lock:rlock())
    assert.is_true(lock:rlock())
    assert.is_true(lock:try_rlock())
    assert.is_false(lock:try_lock())
    local writer = waiting(lock.lock, lock)
    for _ = 1, 3 do
      lock:runlock()
    end
    assert.same({ true, n = 1 }, (writer:join()))
    assert.is_false(lock:try_rlock())
    assert.is_false(lock:try_lock())
    local readers = { waiting(lock.rlock, lock), waiting(lock.rlock, lock) }
    lock:unlock()
    for i = 1, 2 do
      assert.same({ true, n = 1 }, (readers[i]:join()))
    end
    lock:runlock()
    lock:runlock()
    assert.is_true(lock:try_lock())
  end)

  it("starves neither writers nor readers", function()
    local lock = lp.rwlock()
    lock:rlock()
    local order = {}
    local function take(name, enter, leave)
      return waiting(function()
        enter(lock)
        order[#order + 1] = name
        lp.yield()
        leave(lock)
      end)
    end
    local gs = {
      take("w1", lock.lock, lock.unlock), take("r1", lock.rlock, lock.runlock), take("r2", lock.rlock, lock.runlock),
      take("w2", lock.lock, lock.unlock), take("r3", lock.rlock, lock.runlock),
    }
    assert.is_false(lock:try_rlock()) -- a writer waits
    lock:runlock()
    for _, g in ipairs(gs) do
      g:join()
    end
    assert.same({ "w1", "r1", "r2", "w2", "r3" }, order)
  end)

  it("waits end by timeout and cancellation", function()
    local lock = lp.rwlock()
    lock:lock()
    waits.end_well(function(s) return lock:rlock(s) end)
    waits.end_well(function(s) return lock:lock(s) end)
    lock:unlock()
    lock:rlock()
    waits.end_well(function(s) return lock:lock(s) end)
    assert.is_true(lock:try_rlock(), "a writer that gave up holds readers up")
  end)

  it("a writer that gives up lets the readers behind it in", function()
    local lock = lp.rwlock()
    lock:rlock()
    local writer, reader = waiting(lock.lock, lock), waiting(lock.rlock, lock)
    writer:cancel()
    assert.same({ nil, "canceled", n = 2 }, (writer:join()))
    assert.same({ true, n = 1 }, (reader:join(LONG)))
  end)

  it("with and rwith unlock after an error, too", function()
    local lock = lp.rwlock()
    assert.equal("r", lock:rwith(function()
      assert.is_true(lock:try_rlock())
      lock:runlock()
      return "r"
    end))
    assert.equal("w", lock:with(function()
      assert.is_false(lock:try_rlock())
      return "w"
    end))
    assert.matches("oops", raised(lock.with, lock, error, "oops"))
    assert.matches("oops", raised(lock.rwith, lock, error, "oops"))
    assert.is_true(lock:try_lock())
    assert.same({ nil, "timeout", n = 2 }, pack(lp.deadline(0.002, lock.rwith, lock, print)))
    assert.same({ nil, "timeout", n = 2 }, pack(lp.deadline(0.002, lock.with, lock, print)))
  end)

  it("waits in a comparator", function()
    local lock = lp.rwlock()
    local done
    local g = lp.go(function()
      while not done do
        lock:with(lp.yield)
      end
    end)
    waits.in_comparator(function() lock:rwith(lp.yield) end)
    done = true
    g:join()
  end)

  it("refuses misuse, naming the argument", function()
    local lock = lp.rwlock()
    assert.matches("locks_spec.lua:%d+: unlock: the rwlock is not locked for writing",
      raised(function() lock:unlock() end))
    assert.matches("locks_spec.lua:%d+: runlock: the rwlock is not locked for reading",
      raised(function() lock:runlock() end))
    for _, name in ipairs { "lock", "rlock", "try_lock", "try_rlock", "unlock", "runlock", "with", "rwith" } do
      assert.matches("^[^\n]*" .. name .. ": rwlock must be a rwlock, got table", raised(lock[name], {}))
    end
    for _, name in ipairs { "lock", "rlock" } do
      assert.matches(name .. ": s must be a number of seconds, got x", raised(lock[name], lock, "x"))
    end
    assert.matches("rwith: fn must be a function", raised(lock.rwith, lock))
    assert.matches("with: fn must be a function", raised(lock.with, lock))
  end)
end)

describe("lunapark.semaphore", function()
  it("gives out so many permits", function()
    local sem = lp.semaphore(3)
    assert.is_true(sem:acquire())
    assert.is_true(sem:acquire(2))
    assert.is_false(sem:try_acquire())
    local g = waiting(sem.acquire, sem)
    sem:release()
    assert.same({ true, n = 1 }, (g:join()))
    sem:release(3)
    assert.is_true(sem:try_acquire(3))
  end)

  it("serves in order, who wants many too", function()
    local sem = lp.semaphore(4)
    sem:acquire(4)
    local order = {}
    local function want(n)
      return waiting(function()
        sem:acquire(n)
        order[#order + 1] = n
      end)
    end
    local gs = { want(3), want(1), want(2) }
    sem:release(2)
    lp.yield()
    assert.same({}, order)
    assert.is_false(sem:try_acquire(1)) -- no slipping past
    sem:release(2)
    lp.yield()
    assert.same({ 3, 1 }, order)
    sem:release(4)
    for _, g in ipairs(gs) do
      g:join()
    end
    assert.same({ 3, 1, 2 }, order)
  end)

  it("waits end by timeout and cancellation", function()
    local sem = lp.semaphore(2)
    sem:acquire()
    waits.end_well(function(s) return sem:acquire(2, s) end)
    assert.is_true(sem:acquire(nil, 0))
  end)

  it("who gives up lets those behind who want less go on", function()
    local sem = lp.semaphore(2)
    sem:acquire()
    local many, one = waiting(sem.acquire, sem, 2), waiting(sem.acquire, sem, 1)
    many:cancel()
    assert.same({ nil, "canceled", n = 2 }, (many:join()))
    assert.same({ true, n = 1 }, (one:join(LONG)))
  end)

  it("with gives the permit back after an error, too", function()
    local sem = lp.semaphore(1)
    assert.same({ 1, nil, n = 2 }, pack(sem:with(function(...) return ... end, 1, nil)))
    assert.matches("oops", raised(sem.with, sem, error, "oops"))
    assert.is_true(sem:try_acquire())
    assert.same({ nil, "timeout", n = 2 }, pack(lp.deadline(0.002, sem.with, sem, print)))
  end)

  it("waits in a comparator", function()
    local sem = lp.semaphore(1)
    local done
    local g = lp.go(function()
      while not done do
        sem:with(lp.yield)
      end
    end)
    waits.in_comparator(function() sem:with(lp.yield) end)
    done = true
    g:join()
  end)

  it("refuses misuse, naming the argument", function()
    local sem = lp.semaphore(2)
    assert.matches("locks_spec.lua:%d+: semaphore: n must be a whole number, 0 or more, got %-1",
      raised(function() lp.semaphore(-1) end))
    assert.matches("semaphore: n must be .* got nil", raised(lp.semaphore))
    assert.matches("locks_spec.lua:%d+: acquire: n must be at most the semaphore's 2, got 3",
      raised(function() sem:acquire(3) end))
    assert.matches("acquire: n must be a whole number, 1 or more, got 0", raised(sem.acquire, sem, 0))
    assert.matches("acquire: s must be a number of seconds, got x", raised(sem.acquire, sem, 1, "x"))
    assert.matches("try_acquire: n must be a whole number", raised(sem.try_acquire, sem, 0.5))
    assert.matches("locks_spec.lua:%d+: release: more than was acquired", raised(function() sem:release() end))
    assert.matches("release: n must be a whole number", raised(sem.release, sem, "many"))
    for _, name in ipairs { "acquire", "try_acquire", "release", "with" } do
      assert.matches(name .. ": semaphore must be a semaphore, got table", raised(sem[name], {}))
    end
    assert.matches("with: fn must be a function", raised(sem.with, sem))
  end)
end)

-- What a G does with one of the locks. All of them note in `at` what is inside, and count what they got.
local function actions_on(mutex, lock, sem, at, patience, pause)
  return {
    function()
      if not mutex:lock(patience()) then return end
      at.mutex, at.got = at.mutex + 1, at.got + 1
      pause()
      assert(at.mutex == 1)
      at.mutex = 0
      mutex:unlock()
    end,
    function()
      if not lock:lock(patience()) then return end
      at.writers, at.got = at.writers + 1, at.got + 1
      pause()
      assert(at.writers == 1 and at.readers == 0)
      at.writers = 0
      lock:unlock()
    end,
    function()
      if not lock:rlock(patience()) then return end
      at.readers, at.got = at.readers + 1, at.got + 1
      pause()
      assert(at.writers == 0)
      at.readers = at.readers - 1
      lock:runlock()
    end,
    function()
      local n = math.random(3)
      if not sem:acquire(n, patience()) then return end
      at.permits, at.got = at.permits + n, at.got + 1
      pause()
      assert(at.permits <= 3)
      at.permits = at.permits - n
      sem:release(n)
    end,
  }
end

-- Locks with waits that give up at random: never two in one place, nothing lost.
it("lunapark.mutex, rwlock and semaphore hold under stress", function()
  local seed = os.time()
  math.randomseed(seed)
  local random = math.random
  local mutex, lock, sem = lp.mutex(), lp.rwlock(), lp.semaphore(3)
  local at = { mutex = 0, readers = 0, writers = 0, permits = 0, got = 0 }
  local function pause()
    if random(2) == 1 then lp.yield() end
  end
  local function patience()
    local r = random(4)
    if r == 1 then return 0 end
    if r == 2 then return random() * 0.0005 end
    if r == 3 then return 0.01 end
  end
  local actions, gs = actions_on(mutex, lock, sem, at, patience, pause), {}
  for k = 1, 30 do
    gs[k] = lp.go(function()
      for _ = 1, 100 do
        actions[random(4)]()
      end
    end)
  end
  local canceler = lp.go(function()
    for _ = 1, 20 do
      lp.sleep(random() * 0.001)
      gs[random(20)]:cancel()
    end
  end)
  for k = 1, 30 do
    local _, err = gs[k]:join(LONG)
    assert.is_nil(err, ("seed %d: %s"):format(seed, tostring(err)))
  end
  canceler:join()
  assert.is_true(at.got > 500, at.got)
  assert.is_true(mutex:try_lock() and lock:try_lock() and sem:try_acquire(3), "seed " .. seed)
end)
