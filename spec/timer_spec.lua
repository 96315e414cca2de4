local lp = require "lunapark"
local testing = require "lunapark.testing"
local waits = require "spec.support.waits"
local helper = require "spec.helper"

local LONG, pack, raised = waits.LONG, waits.pack, helper.raised

describe("lunapark.after", function()
  it("runs fn once, in s seconds, with its arguments", function()
    testing.virtual(function()
      local ch, start = lp.chan(2), lp.now()
      lp.after(10, function(...) ch:send { lp.now() - start, pack(...) } end, 1, nil, 3)
      assert.same({ 10, { 1, nil, 3, n = 3 } }, ch:recv())
      assert.same({ nil, "timeout" }, { ch:recv(100) })
    end)
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
    testing.virtual(function()
      local ran = {}
      local t = lp.after(5, function() ran[#ran + 1] = "stopped" end)
      assert.is_true(t:stop())
      assert.is_false(t:stop())
      local waits_already = lp.after(5, function() ran[#ran + 1] = "stopped while it waited" end)
      local done = lp.after(1, function() ran[#ran + 1] = "done" end)
      lp.sleep(2)
      assert.is_false(done:stop())
      assert.is_true(waits_already:stop())
      lp.sleep(20)
      assert.same({ "done" }, ran)
    end)
  end)

  it("has neither the deadline nor the scope of who made it", function()
    testing.virtual(function()
      local ch = lp.chan(1)
      lp.deadline(2, lp.after, 10, function() ch:send { lp.sleep(1) } end)
      assert.same({ true }, ch:recv())
      lp.scope(function()
        lp.after(10, function() ch:send "after the scope" end)
      end)
      assert.equal(0, ch:len())
      assert.equal("after the scope", ch:recv())
    end)
  end)

  it("logs an error of fn", function()
    testing.allow_leak "error"
    local log = helper.stderr_of(function()
      lp.after(0.001, function() error "in after" end)
    end, "in after")
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
    testing.virtual(function()
      local times, start, ch = {}, lp.now(), lp.chan()
      local t = lp.every(10, function(tag)
        times[#times + 1] = lp.now() - start
        lp.sleep(#times) -- however long a run takes, the next one keeps the beat
        if #times == 5 then ch:send(tag) end
      end, "tag")
      assert.equal("tag", ch:recv())
      t:stop()
      lp.sleep(100)
      assert.same({ 10, 20, 30, 40, 50 }, times)
    end)
  end)

  it("leaves out what is due while fn runs", function()
    testing.virtual(function()
      local times, start, t = {}, lp.now(), nil
      t = lp.every(2, function()
        times[#times + 1] = lp.now() - start
        lp.sleep(11)
        if #times == 3 then t:stop() end
      end)
      lp.sleep(100)
      assert.same({ 2, 14, 26 }, times)
    end)
  end)

  it("goes on after an error, and logs it", function()
    local runs = 0
    local log = helper.stderr_of(function()
      testing.virtual(function()
        local t
        t = lp.every(2, function()
          runs = runs + 1
          if runs == 3 then t:stop() end
          error("error " .. runs)
        end)
        lp.sleep(100)
      end)
    end)
    assert.equal(3, runs)
    for i = 1, 3 do
      assert.matches("every: [^\n]*timer_spec.lua:%d+: error " .. i .. "\n\tstack traceback:", log)
    end
  end)

  it("is stopped from inside, from outside, and by a cancellation of its G", function()
    testing.virtual(function()
      local inside, outside, canceled, t = 0, 0, 0, nil
      t = lp.every(1, function()
        inside = inside + 1
        assert(t:stop())
        assert(not t:stop())
      end)
      local others = lp.every(1, function() outside = outside + 1 end)
      local last = lp.every(1, function()
        canceled = canceled + 1
        lp.self():cancel()
      end)
      lp.sleep(3.5)
      assert.is_true(others:stop())
      lp.sleep(10)
      assert.same({ 1, 3, 1 }, { inside, outside, canceled })
      assert.is_false(last:stop())
    end)
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

  it("leaves out what it has missed", function()
    testing.virtual(function()
      local start, at = lp.now(), {}
      local t = lp.every(1, function()
        at[#at + 1] = lp.now() - start
        if #at == 1 then lp.sleep(3.5) end
      end)
      lp.sleep(7.5)
      t:stop()
      assert.same({ 1, 5, 6, 7 }, at)
    end)
  end)
end)
