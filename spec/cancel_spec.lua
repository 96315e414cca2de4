--- What waits answer once they are over: in a cancelled G, past a deadline; and what is left of an error.

local lp = require "lunapark"
local helper = require "spec.helper"
local waits = require "spec.support.waits"

local LONG, pack, timed, raised = waits.LONG, waits.pack, waits.timed, helper.raised

describe("lunapark", function()
  describe("a cancelled G", function()
    local all, tidy
    before_each(function() all, tidy = waits.of_each_kind() end)
    after_each(function() tidy() end)

    it("is told by every further wait, at once, as often as it asks", function()
      all["sleep(0)"] = function() return lp.sleep(0) end
      all["sleep(-1)"] = function() return lp.sleep(-1) end
      all.yield = lp.yield
      all["within a deadline"] = function() return lp.deadline(LONG, lp.sleep, LONG) end
      all["without a deadline"] = function() return lp.deadline(nil, lp.park) end
      for name, wait in pairs(all) do
        local g = lp.go(function()
          lp.self():cancel()
          for _ = 1, 3 do
            local ok, err = wait()
            assert.same({ nil, "canceled" }, { ok, err }, name)
          end
          return "ended"
        end)
        local seconds, ended, err = timed(g.join, g)
        assert.equal("ended", ended, err)
        assert.is_true(seconds < LONG / 2, name)
      end
    end)

    it("lets others run when it yields all the same", function()
      local ran = 0
      lp.go(function()
        lp.self():cancel()
        for _ = 1, 3 do
          lp.go(function() ran = ran + 1 end)
          assert.same({ nil, "canceled" }, { lp.yield() })
        end
      end):join()
      assert.equal(3, ran)
    end)

    it("still takes what is ready, works and returns", function()
      local g = lp.go(function()
        lp.self():cancel()
        lp.ready(lp.self(), "there")
        local value = lp.park()
        local ended = lp.go(function() return "child" end)
        local other = lp.detach(function() return "detached" end)
        lp.yield()
        return value, ended:join(), other:join()
      end)
      assert.same({ "there", "child", "detached" }, { g:join() })
    end)

    it("may join what has ended, not what has not", function()
      local ended, never = lp.go(function() return 1 end), lp.go(lp.park)
      ended:join()
      local g = lp.go(function()
        lp.self():cancel()
        return ended:join(), never:join(), select(2, never:join(LONG))
      end)
      assert.same({ 1, nil, "canceled" }, { g:join() })
      lp.ready(never)
      never:join()
    end)

    it("is itself again in the next G on its coroutine", function()
      for _ = 1, 3 do
        local g = lp.go(function()
          lp.self():cancel()
          return lp.sleep(0)
        end)
        assert.same({ nil, "canceled" }, { g:join() })
        assert.is_true(lp.go(lp.sleep, 0):join())
      end
    end)
  end)

  describe("past its deadline", function()
    it("a G is told by sleep(0) and yield too, and others run", function()
      local ran = 0
      lp.deadline(0, function()
        for _, wait in ipairs { lp.yield, function() return lp.sleep(0) end, function() return lp.sleep(-1) end } do
          lp.go(function() ran = ran + 1 end)
          assert.same({ nil, "timeout", n = 2 }, pack(wait()))
        end
      end)
      assert.equal(3, ran)
      assert.same({ true, n = 1 }, pack(lp.sleep(0)))
      assert.same({ true, n = 1 }, pack(lp.yield()))
      lp.deadline(LONG, function()
        assert.same({ true, n = 1 }, pack(lp.sleep(0)))
        assert.same({ true, n = 1 }, pack(lp.yield()))
      end)
    end)

    it("cancellation is told first", function()
      local g = lp.go(function()
        return lp.deadline(0, function()
          lp.self():cancel()
          return { lp.sleep(LONG) }, { lp.sleep(0) }, { lp.park() }
        end)
      end)
      for _, result in ipairs { g:join() } do
        assert.same({ nil, "canceled" }, result)
      end
    end)
  end)

  describe("deadline", function()
    it("of several the nearest counts, in whatever order they nest, and for Gs started inside", function()
      for _, nest in ipairs { { 0.01, LONG }, { LONG, 0.01 }, { LONG, 0.01, LONG }, { 0.01, -1 }, { -1, LONG } } do
        local function go_down(i)
          if nest[i] then return lp.deadline(nest[i], go_down, i + 1) end
          local g = lp.go(lp.sleep, LONG)
          local own = { lp.sleep(LONG) }
          return own, g
        end
        local seconds, own, g = timed(go_down, 1)
        assert.is_true(seconds < LONG / 2)
        assert.same({ nil, "timeout" }, own)
        assert.same({ nil, "timeout" }, { g:join() })
      end
      assert.is_true(lp.sleep(0.001))
    end)

    it("without one of its own keeps the one around it", function()
      lp.deadline(0.005, function()
        local g = lp.deadline(nil, lp.go, lp.sleep, LONG)
        assert.same({ nil, "timeout" }, { lp.deadline(nil, lp.sleep, LONG) })
        assert.same({ nil, "timeout" }, { g:join() })
      end)
    end)

    it("comes back after an error, of several", function()
      lp.deadline(LONG, function()
        raised(lp.deadline, 0, lp.deadline, 0, error, "x")
        assert.is_true(lp.sleep(0.001))
        raised(lp.deadline, 0, function()
          lp.sleep(LONG)
          error "after"
        end)
        assert.is_true(lp.sleep(0.001))
      end)
    end)

    it("leaves an error where it came from: the traceback of the G shows it", function()
      local function culprit()
        lp.sleep(0.0005)
        error "the cause"
      end
      local function between() culprit() return 1 end
      for _, nested in ipairs { false, true } do
        local g = lp.go(function()
          if nested then return lp.deadline(1, lp.deadline, 1, between) end
          return lp.deadline(1, between)
        end)
        local _, err = g:join()
        assert.matches("^spec/cancel_spec.lua:%d+: the cause\nstack traceback:\n", err)
        assert.matches("in function 'culprit'.*in function <spec/cancel_spec.lua:%d+>", err)
        assert.equal(1, select(2, err:gsub("stack traceback", "")))
      end
      -- What was caught does not show up in another error with the same words.
      local _, err = lp.go(function()
        pcall(lp.deadline, 1, culprit)
        local function other() error("spec/cancel_spec.lua: the cause", 0) end
        other()
      end):join()
      assert.is_nil(err:find("culprit", 1, true))
      assert.matches("in function 'other'", err)
    end)
  end)

  describe("an error that nobody catches", function()
    it("ends its G alone; join tells it with a traceback that begins before the wait", function()
      local function deep(n)
        if n > 0 then
          deep(n - 1)
          return
        end
        lp.sleep(0.001)
        lp.yield()
        local nothing = nil
        return nothing.field
      end
      local bystander = lp.go(lp.sleep, 0.005)
      local ok, err = lp.go(function()
        deep(3)
        return 1
      end):join()
      assert.is_nil(ok)
      assert.matches("^spec/cancel_spec.lua:%d+: attempt to index local 'nothing'", err)
      assert.is_true(select(2, err:gsub("spec/cancel_spec.lua:%d+: in function 'deep'", "")) >= 3)
      assert.is_true(bystander:join())
    end)

    it("in a coroutine of one's own reaches the resume, after waits in its G too", function()
      local co = coroutine.create(function()
        coroutine.yield(1)
        error("inside", 0)
      end)
      coroutine.resume(co)
      lp.sleep(0.001)
      assert.same({ false, "inside" }, { coroutine.resume(co) })
      local text = debug.traceback(co)
      assert.matches("stack traceback:.*in function 'error'", text)
    end)
  end)
end)
