local lp = require "lunapark"
local testing = require "lunapark.testing"
local waits = require "spec.support.waits"
local helper = require "spec.helper"

local LONG, pack, raised = waits.LONG, waits.pack, helper.raised

describe("lunapark.after", function()
  it("runs fn once, in s seconds, with its arguments", function()
    local ch = lp.chan(1)
    local start = lp.now()
    lp.after(0.01, function(...) ch:send { lp.now() - start, pack(...) } end, 1, nil, 3)
    local got = ch:recv(LONG)
    assert.is_true(got[1] >= 0.01)
    assert.same({ 1, nil, 3, n = 3 }, got[2])
    assert.same({ nil, "timeout" }, { ch:recv(0.02) })
  end)

  it("of 0 or less runs it when the caller waits, of infinity never", function()
    for _, s in ipairs { 0, -1, -1 / 0 } do
      local ran = false
      lp.after(s, function() ran = true end)
      assert.is_false(ran)
      helper.eventually(function() return ran end)
    end
    assert.is_true(lp.after(1 / 0, error):stop())
  end)

  it("may be stopped, before it runs", function()
    local ran = 0
    local t = lp.after(0.005, function() ran = ran + 1 end)
    assert.is_true(t:stop())
    assert.is_false(t:stop())
    local done = lp.after(0.001, function() ran = ran + 10 end)
    lp.sleep(0.02)
    assert.equal(10, ran)
    assert.is_false(done:stop())
    local early = lp.after(0.001, function() ran = ran + 100 end)
    early:stop() -- its G has not begun
    lp.sleep(0.005)
    assert.equal(10, ran)
  end)

  it("has neither the deadline nor the scope of who made it", function()
    local ch = lp.chan(1)
    lp.deadline(0.002, lp.after, 0.01, function() ch:send { lp.sleep(0.001) } end)
    assert.same({ true }, ch:recv(LONG))
    lp.scope(function()
      lp.after(0.01, function() ch:send "after the scope" end)
    end)
    assert.equal(0, ch:len())
    assert.equal("after the scope", ch:recv(LONG))
  end)

  it("logs an error of fn", function()
    testing.allow_leak "error"
    local log = helper.stderr_of(function()
      lp.after(0.001, function() error "in after" end)
      lp.sleep(1.1)
    end)
    assert.matches("timer_spec.lua:%d+: in after\n\tstack traceback:", log)
  end)

  it("refuses misuse, naming the argument", function()
    assert.matches("timer_spec.lua:%d+: after: s must be a number of seconds, got nil",
      raised(function() lp.after() end))
    assert.matches("timer_spec.lua:%d+: after: fn must be a function, got nil", raised(function() lp.after(1) end))
    local t = lp.after(LONG, print)
    assert.matches("timer_spec.lua:%d+: stop: t must be a timer, got nil", raised(function() t.stop() end))
    t:stop()
  end)
end)

describe("lunapark.every", function()
  it("runs fn again and again, without drift", function()
    local times, start = {}, lp.now()
    local ch = lp.chan()
    local t = lp.every(0.01, function(tag)
      times[#times + 1] = lp.now() - start
      lp.sleep(0.004)
      if #times == 5 then ch:send(tag) end
    end, "tag")
    local due = t.at
    assert.equal("tag", ch:recv(LONG))
    t:stop()
    for i = 1, 5 do
      assert.is_true(times[i] >= i * 0.01, ("run %d at %f"):format(i, times[i]))
    end
    -- However late a run was, the next one keeps the beat.
    local periods = (t.at - due) / 1e7
    assert.is_true(periods >= 4 and math.abs(periods - math.floor(periods + 0.5)) < 1e-6, periods)
    lp.sleep(0.03)
    assert.equal(5, #times)
  end)

  it("leaves out what is due while fn runs", function()
    local runs, start = 0, lp.now()
    local t
    t = lp.every(0.002, function()
      runs = runs + 1
      lp.sleep(0.011)
      if runs == 3 then t:stop() end
    end)
    helper.eventually(function() return runs == 3 end)
    assert.is_true(lp.now() - start >= 0.002 + 2 * 0.011)
    lp.sleep(0.02)
    assert.equal(3, runs)
  end)

  it("goes on after an error, and logs it", function()
    local runs = 0
    local log = helper.stderr_of(function()
      local t
      t = lp.every(0.002, function()
        runs = runs + 1
        if runs == 3 then t:stop() end
        error("error " .. runs)
      end)
      helper.eventually(function() return runs == 3 end)
      lp.sleep(0.01)
    end)
    assert.equal(3, runs)
    for i = 1, 3 do
      assert.matches("every: [^\n]*timer_spec.lua:%d+: error " .. i .. "\n\tstack traceback:", log)
    end
  end)

  it("is stopped from inside, from outside, and by a cancellation of its G", function()
    local runs, t = 0, nil
    t = lp.every(0.001, function()
      runs = runs + 1
      assert(t:stop())
      assert(not t:stop())
    end)
    lp.sleep(0.01)
    assert.equal(1, runs)
    local others = lp.every(0.001, function() runs = runs + 1 end)
    helper.eventually(function() return runs > 3 end)
    assert.is_true(others:stop())
    local seen = runs
    lp.sleep(0.005)
    assert.equal(seen, runs)
    local canceled = 0
    local last = lp.every(0.001, function()
      canceled = canceled + 1
      lp.self():cancel()
    end)
    lp.sleep(0.01)
    assert.equal(1, canceled)
    assert.is_false(last:stop())
  end)

  it("leaves no G behind when it is stopped", function()
    collectgarbage()
    local before = lp.stats().lua_gs
    for _ = 1, 100 do
      lp.every(LONG, print):stop()
      lp.after(LONG, print):stop()
    end
    local waiting = {}
    for i = 1, 100 do
      waiting[i] = lp.every(LONG, print)
    end
    lp.yield()
    for i = 1, 100 do
      waiting[i]:stop()
    end
    lp.yield()
    lp.yield()
    assert.equal(before, lp.stats().lua_gs)
  end)

  it("refuses misuse, naming the argument", function()
    assert.matches("timer_spec.lua:%d+: every: s must be more than 0, got 0",
      raised(function() lp.every(0, print) end))
    assert.matches("timer_spec.lua:%d+: every: s must be a number of seconds, got x",
      raised(function() lp.every("x", print) end))
    assert.matches("every: fn must be a function, got nil", raised(lp.every, 1))
  end)
end)
