local lp = require "lunapark"
local waits = require "spec.support.waits"
local helper = require "spec.helper"

local LONG, pack, raised = waits.LONG, waits.pack, helper.raised
local waiting = waits.waiting

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
    assert.matches("waitgroup_spec.lua:%d+: third\nstack traceback:\n[^\n]*error[^\n]*\n[^\n]*waitgroup_spec.lua",
      (select(2, gs[3]:join())))
    assert.matches("waitgroup_spec.lua:%d+", tostring(gs[1]))
  end)

  it("waits end by timeout and cancellation", function()
    local wg = lp.waitgroup()
    wg:add()
    waits.end_well(function(s) return wg:wait(s) end)
    wg:done()
    assert.is_true(wg:wait(0))
  end)

  it("waits in a comparator", function()
    waits.in_comparator(function()
      local wg = lp.waitgroup()
      wg:go(lp.yield)
      assert(wg:wait())
    end)
  end)

  it("refuses misuse, naming the argument", function()
    local wg = lp.waitgroup()
    assert.matches("waitgroup_spec.lua:%d+: done: the count is 0", raised(function() wg:done() end))
    assert.matches("waitgroup_spec.lua:%d+: add: n makes the count negative: %-2", raised(function() wg:add(-2) end))
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
    waits.end_well(function(s)
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
    waits.in_comparator(function()
      mutex:lock()
      assert(cond:wait(mutex))
      mutex:unlock()
    end)
    done = true
    g:join()
  end)

  it("refuses misuse, naming the argument", function()
    local mutex, cond = lp.mutex(), lp.cond()
    assert.matches("waitgroup_spec.lua:%d+: wait: the mutex is not locked", raised(function() cond:wait(mutex) end))
    assert.matches("waitgroup_spec.lua:%d+: wait: mutex must be a mutex, got nil", raised(function() cond:wait() end))
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
      assert.matches("^[^\n]*waitgroup_spec.lua:%d+: told$", raised(told))
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
    waits.in_comparator(function()
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
    assert.matches("waitgroup_spec.lua:%d+: once: fn must be a function, got nil", raised(function() lp.once() end))
    local get
    get = lp.once(function() return get() end)
    assert.matches("once: fn calls itself", raised(get))
  end)
end)
