local lp = require "lunapark"
local waits = require "spec.support.waits"
local helper = require "spec.helper"

local LONG, pack, timed, raised = waits.LONG, waits.pack, waits.timed, helper.raised
local waiting = waits.waiting

-- A wait of that kind ends by its timeout, by the G's deadline, by cancellation, and may be polled.
local function waits_well(wait)
  local seconds, ok, err = timed(wait, 0.01)
  assert.same({ nil, "timeout" }, { ok, err })
  assert.is_true(seconds >= 0.01 and seconds < LONG)
  assert.same({ nil, "timeout", n = 2 }, pack(wait(0)))
  assert.same({ nil, "timeout", n = 2 }, pack(lp.deadline(0.005, wait)))
  for _, s in ipairs { false, LONG } do
    local g = waiting(wait, s or nil)
    g:cancel()
    assert.same({ nil, "canceled", n = 2 }, (g:join(LONG)))
  end
end

-- It waits where a plain yield would not do.
local function in_comparator(fn)
  local t = { 3, 1, 2 }
  table.sort(t, function(a, b)
    fn()
    return a < b
  end)
  assert.same({ 1, 2, 3 }, t)
end

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
    waits_well(function(s) return mutex:lock(s) end)
    mutex:unlock()
    assert.is_true(mutex:lock(0))
  end)

  it("with unlocks after an error, too", function()
    local mutex = lp.mutex()
    assert.same({ 1, nil, 3, n = 3 }, pack(mutex:with(function(...)
      assert.is_false(mutex:try_lock())
      return ...
    end, 1, nil, 3)))
    assert.matches("sync_spec.lua:%d+: oops", raised(mutex.with, mutex, function() error "oops" end))
    assert.is_true(mutex:try_lock())
    assert.same({ nil, "timeout", n = 2 }, pack(lp.deadline(0.005, mutex.with, mutex, print)))
    mutex:unlock()
    local g = lp.go(mutex.with, mutex, function() error "traced" end)
    local _, err = g:join()
    assert.matches("traced\nstack traceback:\n[^\n]*error[^\n]*\n[^\n]*sync_spec.lua", err)
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
    in_comparator(function() mutex:with(lp.yield) end)
    g:join()
  end)

  it("refuses misuse, naming the argument", function()
    local mutex = lp.mutex()
    assert.matches("sync_spec.lua:%d+: unlock: the mutex is not locked", raised(function() mutex:unlock() end))
    assert.matches("sync_spec.lua:%d+: lock: mutex must be a mutex, got nil", raised(function() mutex.lock() end))
    assert.matches("lock: s must be a number of seconds, got x", raised(mutex.lock, mutex, "x"))
    assert.matches("try_lock: mutex must be", raised(mutex.try_lock, {}))
    assert.matches("unlock: mutex must be", raised(mutex.unlock, 1))
    assert.matches("sync_spec.lua:%d+: with: fn must be a function, got nil", raised(function() mutex:with() end))
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
    waits_well(function(s) return lock:rlock(s) end)
    waits_well(function(s) return lock:lock(s) end)
    lock:unlock()
    lock:rlock()
    waits_well(function(s) return lock:lock(s) end)
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
    in_comparator(function() lock:rwith(lp.yield) end)
    done = true
    g:join()
  end)

  it("refuses misuse, naming the argument", function()
    local lock = lp.rwlock()
    assert.matches("sync_spec.lua:%d+: unlock: the rwlock is not locked for writing",
      raised(function() lock:unlock() end))
    assert.matches("sync_spec.lua:%d+: runlock: the rwlock is not locked for reading",
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
    waits_well(function(s) return sem:acquire(2, s) end)
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
    in_comparator(function() sem:with(lp.yield) end)
    done = true
    g:join()
  end)

  it("refuses misuse, naming the argument", function()
    local sem = lp.semaphore(2)
    assert.matches("sync_spec.lua:%d+: semaphore: n must be a whole number, 0 or more, got %-1",
      raised(function() lp.semaphore(-1) end))
    assert.matches("semaphore: n must be .* got nil", raised(lp.semaphore))
    assert.matches("sync_spec.lua:%d+: acquire: n must be at most the semaphore's 2, got 3",
      raised(function() sem:acquire(3) end))
    assert.matches("acquire: n must be a whole number, 1 or more, got 0", raised(sem.acquire, sem, 0))
    assert.matches("acquire: s must be a number of seconds, got x", raised(sem.acquire, sem, 1, "x"))
    assert.matches("try_acquire: n must be a whole number", raised(sem.try_acquire, sem, 0.5))
    assert.matches("sync_spec.lua:%d+: release: more than was acquired", raised(function() sem:release() end))
    assert.matches("release: n must be a whole number", raised(sem.release, sem, "many"))
    for _, name in ipairs { "acquire", "try_acquire", "release", "with" } do
      assert.matches(name .. ": semaphore must be a semaphore, got table", raised(sem[name], {}))
    end
    assert.matches("with: fn must be a function", raised(sem.with, sem))
  end)
end)

describe("lunapark.waitgroup", function()
  it("waits for what was added", function()
    local wg = lp.waitgroup()
    assert.is_true(wg:wait())
    wg:add(2)
    wg:add()
    local gs = { waiting(wg.wait, wg), waiting(wg.wait, wg) }
    wg:done()
    wg:add(-1)
    lp.yield()
    assert.same({ nil, "timeout" }, { wg:wait(0) })
    wg:done()
    for _, g in ipairs(gs) do
      assert.same({ true, n = 1 }, (g:join(LONG)))
    end
    wg:add() -- used again
    wg:done()
    assert.is_true(wg:wait())
  end)

  it("go runs work, and counts it down after an error, too", function()
    local wg = lp.waitgroup()
    local ran = {}
    local gs = {}
    for i = 1, 5 do
      gs[i] = wg:go(function(k)
        lp.sleep(0.001 * k)
        ran[k] = true
        if k == 3 then error "third" end
        return k
      end, i)
    end
    assert.is_true(wg:wait(LONG))
    assert.same({ true, true, true, true, true }, ran)
    assert.equal(2, gs[2]:join())
    assert.matches("sync_spec.lua:%d+: third\nstack traceback:\n[^\n]*error[^\n]*\n[^\n]*sync_spec.lua",
      (select(2, gs[3]:join())))
    assert.matches("sync_spec.lua:%d+", tostring(gs[1]))
  end)

  it("waits end by timeout and cancellation", function()
    local wg = lp.waitgroup()
    wg:add()
    waits_well(function(s) return wg:wait(s) end)
    wg:done()
    assert.is_true(wg:wait(0))
  end)

  it("waits in a comparator", function()
    in_comparator(function()
      local wg = lp.waitgroup()
      wg:go(lp.yield)
      assert(wg:wait())
    end)
  end)

  it("refuses misuse, naming the argument", function()
    local wg = lp.waitgroup()
    assert.matches("sync_spec.lua:%d+: done: the count is 0", raised(function() wg:done() end))
    assert.matches("sync_spec.lua:%d+: add: n makes the count negative: %-2", raised(function() wg:add(-2) end))
    assert.matches("add: n must be a whole number", raised(wg.add, wg, 0.5))
    assert.matches("wait: s must be a number of seconds, got x", raised(wg.wait, wg, "x"))
    assert.matches("go: fn must be a function, got nil", raised(wg.go, wg))
    for _, name in ipairs { "add", "done", "wait", "go" } do
      assert.matches(name .. ": waitgroup must be a waitgroup, got table", raised(wg[name], {}))
    end
  end)
end)

describe("lunapark.cond", function()
  it("signal wakes one, broadcast all, in order", function()
    local mutex, cond = lp.mutex(), lp.cond()
    local order, gs = {}, {}
    for i = 1, 4 do
      gs[i] = waiting(function()
        mutex:lock()
        local ok, err = cond:wait(mutex)
        order[#order + 1] = i
        assert.is_false(mutex:try_lock())
        mutex:unlock()
        return ok, err
      end)
    end
    assert.is_true(mutex:try_lock()) -- who waits does not hold it
    mutex:unlock()
    cond:signal()
    assert.same({ true, n = 1 }, { (gs[1]:join())[1], n = 1 })
    assert.same({ 1 }, order)
    cond:broadcast()
    for i = 2, 4 do
      assert.is_true((gs[i]:join(LONG))[1])
    end
    assert.same({ 1, 2, 3, 4 }, order)
    cond:signal()
    cond:broadcast()
  end)

  it("has the mutex again in every case", function()
    local mutex, cond = lp.mutex(), lp.cond()
    mutex:lock()
    waits_well(function(s)
      if s ~= 0 then mutex:try_lock() end
      local ok, err = cond:wait(mutex, s)
      assert.is_false(mutex:try_lock())
      return ok, err
    end)
    mutex:unlock()
    -- Somebody else holds it when the wait ends: it takes longer than the G's deadline, and than its life.
    local g = waiting(function()
      mutex:lock()
      local ok, err = lp.deadline(0.005, cond.wait, cond, mutex)
      local held = not mutex:try_lock()
      mutex:unlock()
      return ok, err, held, lp.sleep(LONG)
    end)
    mutex:lock()
    lp.sleep(0.01)
    g:cancel()
    lp.sleep(0.002)
    assert.same({ nil, "ended" }, { nil, g:join(0) and "" or "ended" })
    mutex:unlock()
    assert.same({ nil, "timeout", true, nil, "canceled", n = 5 }, (g:join(LONG)))
    assert.is_true(mutex:try_lock())
  end)

  it("waits in a comparator", function()
    local mutex, cond = lp.mutex(), lp.cond()
    local done
    local g = lp.go(function()
      while not done do
        cond:signal()
        lp.yield()
      end
    end)
    in_comparator(function()
      mutex:lock()
      assert(cond:wait(mutex))
      mutex:unlock()
    end)
    done = true
    g:join()
  end)

  it("refuses misuse, naming the argument", function()
    local mutex, cond = lp.mutex(), lp.cond()
    assert.matches("sync_spec.lua:%d+: wait: the mutex is not locked", raised(function() cond:wait(mutex) end))
    assert.matches("sync_spec.lua:%d+: wait: mutex must be a mutex, got nil", raised(function() cond:wait() end))
    mutex:lock()
    assert.matches("wait: s must be a number of seconds, got x", raised(cond.wait, cond, mutex, "x"))
    for _, name in ipairs { "wait", "signal", "broadcast" } do
      assert.matches(name .. ": cond must be a cond, got table", raised(cond[name], {}, mutex))
    end
    local err
    local p = newproxy(true)
    getmetatable(p).__gc = function() err = raised(cond.wait, cond, mutex) end
    p = nil -- luacheck: ignore 311
    collectgarbage()
    collectgarbage()
    assert.matches("cannot wait here: in a finalizer", err)
    assert.is_false(mutex:try_lock())
  end)
end)

describe("lunapark.once", function()
  it("runs fn once; all get its results", function()
    local runs = 0
    local get = lp.once(function()
      runs = runs + 1
      lp.sleep(0.005)
      return "a", nil, "c", nil
    end)
    local gs = {}
    for i = 1, 4 do
      gs[i] = lp.go(function() return pack(get()) end)
    end
    for i = 1, 4 do
      assert.same({ "a", nil, "c", nil, n = 4 }, (gs[i]:join()))
    end
    assert.same({ "a", nil, "c", nil, n = 4 }, pack(get()))
    assert.equal(1, runs)
    assert.same({ n = 0 }, pack(lp.once(function() end)()))
  end)

  it("raises fn's error for each caller", function()
    local runs, value = 0, {}
    local get = lp.once(function()
      runs = runs + 1
      lp.yield()
      error(value)
    end)
    local g = waiting(pcall, get)
    local other = waiting(pcall, get)
    assert.same({ false, value, n = 2 }, (g:join()))
    assert.same({ false, value, n = 2 }, (other:join()))
    assert.same({ false, value }, { pcall(get) })
    assert.equal(1, runs)
    local told = lp.once(function() error "told" end)
    for _ = 1, 2 do
      assert.matches("^[^\n]*sync_spec.lua:%d+: told$", raised(told))
    end
  end)

  it("the waits of callers end by timeout and cancellation", function()
    local get = lp.once(function()
      lp.park()
      return "late"
    end)
    local runner = waiting(get)
    assert.same({ nil, "timeout", n = 2 }, pack(lp.deadline(0.005, get)))
    local g = waiting(get)
    g:cancel()
    assert.same({ nil, "canceled", n = 2 }, (g:join()))
    g = waiting(get)
    lp.ready(runner)
    assert.same({ "late", n = 1 }, (g:join()))
    assert.same({ "late", n = 1 }, (runner:join()))
  end)

  it("waits in a comparator", function()
    in_comparator(function()
      local get = lp.once(function()
        lp.yield()
        return true
      end)
      local g = waiting(get)
      assert(get())
      g:join()
    end)
  end)

  it("refuses misuse, naming the argument", function()
    assert.matches("sync_spec.lua:%d+: once: fn must be a function, got nil", raised(function() lp.once() end))
    local get
    get = lp.once(function() return get() end)
    assert.matches("once: fn calls itself", raised(get))
  end)
end)

-- Locks with waits that give up at random: never two in one place, nothing lost.
it("lunapark.mutex, rwlock and semaphore hold under stress", function()
  local seed = os.time()
  math.randomseed(seed)
  local random = math.random
  local mutex, lock, sem = lp.mutex(), lp.rwlock(), lp.semaphore(3)
  local in_mutex, readers, writers, permits = 0, 0, 0, 0
  local gs, got = {}, 0
  local function pause()
    if random(2) == 1 then lp.yield() end
  end
  local function patience()
    local r = random(4)
    if r == 1 then return 0 end
    if r == 2 then return random() * 0.0005 end
    if r == 3 then return 0.01 end
  end
  local actions = {
    function()
      if not mutex:lock(patience()) then return end
      in_mutex, got = in_mutex + 1, got + 1
      pause()
      assert(in_mutex == 1)
      in_mutex = 0
      mutex:unlock()
    end,
    function()
      if not lock:lock(patience()) then return end
      writers, got = writers + 1, got + 1
      pause()
      assert(writers == 1 and readers == 0)
      writers = 0
      lock:unlock()
    end,
    function()
      if not lock:rlock(patience()) then return end
      readers, got = readers + 1, got + 1
      pause()
      assert(writers == 0)
      readers = readers - 1
      lock:runlock()
    end,
    function()
      local n = random(3)
      if not sem:acquire(n, patience()) then return end
      permits, got = permits + n, got + 1
      pause()
      assert(permits <= 3)
      permits = permits - n
      sem:release(n)
    end,
  }
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
  assert.is_true(got > 500, got)
  assert.is_true(mutex:try_lock() and lock:try_lock() and sem:try_acquire(3), "seed " .. seed)
end)
