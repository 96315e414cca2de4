local lp = require "lunapark"
local testing = require "lunapark.testing"
local waits = require "spec.support.waits"
local helper = require "spec.helper"

local LONG, pack, pair, timed, raised = waits.LONG, waits.pack, waits.pair, waits.timed, helper.raised

describe("lunapark", function()
  describe("sleep", function()
    it("is never shorter", function()
      for _, s in ipairs { 0.001, 0.01, 0.05 } do
        local seconds, ok, err = timed(lp.sleep, s)
        assert.is_true(ok)
        assert.is_nil(err)
        assert.is_true(seconds >= s, s .. ": " .. seconds)
      end
    end)

    it("wakes sleepers in the order of their times", function()
      local order, gs = {}, {}
      for i, s in ipairs { 0.08, 0.02, 0.06, 0.04 } do
        gs[i] = lp.go(function()
          local due = lp.now() + s
          lp.sleep(s)
          order[#order + 1] = due
        end)
      end
      for _, g in ipairs(gs) do
        g:join()
      end
      local sorted = { unpack(order) }
      table.sort(sorted)
      assert.same(sorted, order)
    end)

    it("of 0 or less lets others run", function()
      for _, s in ipairs { 0, -1, -1 / 0, 1e-12 } do
        local ran = false
        local g = lp.go(function() ran = true end)
        assert.is_true(lp.sleep(s))
        assert.is_true(ran)
        g:join()
      end
    end)

    it("may be for ever", function()
      for _, s in ipairs { 1 / 0, 1e300, 1e12 } do
        assert.same({ nil, "timeout" }, { lp.deadline(0.005, lp.sleep, s) })
      end
      assert.is_true(lp.deadline(1 / 0, lp.sleep, 0.001))
      assert.is_true(lp.go(lp.sleep, 0.001):join(1 / 0))
    end)

    it("refuses what is no number of seconds", function()
      assert.matches("deadline_spec.lua:%d+: sleep: s must be a number of seconds, got nan",
        (raised(function() lp.sleep(0 / 0) end):gsub("%-nan", "nan")))
      assert.matches("sleep: s must be a number of seconds, got nil", raised(lp.sleep))
      assert.matches('sleep: s must be a number of seconds, got the string "1"', raised(lp.sleep, "1"))
      assert.matches("sleep: s must be a number of seconds, got table", raised(lp.sleep, {}))
    end)
  end)

  it("now runs forward", function()
    local a = lp.now()
    local b = lp.now()
    assert.is_number(a)
    assert.is_true(b >= a)
    lp.sleep(0.01)
    local c = lp.now()
    assert.is_true(c - b >= 0.01 and c - b < LONG)
  end)

  describe("deadline", function()
    it("ends every wait with timeout", function()
      local each, tidy_up = waits.of_each_kind()
      for name, wait in pairs(each) do
        local seconds, ok, err = timed(lp.deadline, 0.01, wait)
        assert.same({ nil, "timeout" }, { ok, err }, name)
        assert.is_true(seconds >= 0.01 and seconds < LONG, name)
      end
      tidy_up()
    end)

    it("ends each later wait at once", function()
      testing.virtual(function()
        local start = lp.now()
        lp.deadline(5, function()
          for _ = 1, 98 do
            assert.same({ nil, "timeout" }, { lp.sleep(LONG) })
          end
          assert.same({ nil, "timeout" }, { lp.park() })
        end)
        assert.equal(5, lp.now() - start)
        for _, s in ipairs { 0, -5, -1 / 0 } do
          assert.same({ nil, "timeout" }, { lp.deadline(s, lp.sleep, LONG) })
        end
        assert.equal(5, lp.now() - start)
      end)
    end)

    it("does not end what does not wait, nor is a timeout of the wait's own its own", function()
      testing.virtual(function()
        assert.equal("ran", lp.deadline(0, function() return "ran" end))
        lp.deadline(10, function()
          assert.is_true(lp.sleep(1))
          assert.same({ nil, "timeout" }, { lp.go(lp.sleep, 5):join(1) })
          assert.is_true(lp.sleep(1))
        end)
      end)
    end)

    it("of several the nearest counts, and the outer one comes back", function()
      testing.virtual(function()
        local start = lp.now()
        assert.same({ nil, "timeout" }, { lp.deadline(2, lp.deadline, 100, lp.sleep, 100) })
        assert.equal(2, lp.now() - start)
        lp.deadline(50, function()
          assert.same({ nil, "timeout" }, { lp.deadline(5, lp.sleep, 100) })
          assert.is_true(lp.sleep(1))
          assert.same({ nil, "timeout" }, { lp.deadline(nil, lp.sleep, 100) })
        end)
        assert.equal(52, lp.now() - start)
        assert.is_true(lp.sleep(1))
        assert.is_true(lp.deadline(nil, lp.sleep, 1))
      end)
    end)

    it("passes arguments, results and errors through", function()
      assert.same({ 1, nil, 3, nil, n = 4 }, pack(lp.deadline(LONG, function(...) return ... end, 1, nil, 3, nil)))
      assert.same({ n = 0 }, pack(lp.deadline(LONG, function() end)))
      testing.virtual(function()
        local value = {}
        local ok, err = pcall(lp.deadline, 5, function()
          lp.sleep(LONG)
          error(value)
        end)
        assert.is_false(ok)
        assert.equal(value, err)
        assert.is_true(lp.sleep(1), "the deadline outlived the error")
      end)
      assert.matches("deadline_spec.lua:%d+: told$", raised(lp.deadline, 1, function() error "told" end))
    end)

    it("is inherited by the Gs started in it", function()
      testing.virtual(function()
        local g, grandchild
        lp.deadline(2, function()
          g = lp.go(function()
            grandchild = lp.go(lp.sleep, LONG)
            return lp.park()
          end)
        end)
        local later = lp.go(lp.sleep, 5)
        assert.same({ nil, "timeout" }, { g:join() })
        assert.same({ nil, "timeout" }, { grandchild:join() })
        assert.is_true(later:join())
      end)
    end)

    it("refuses misuse, naming the argument", function()
      assert.matches("deadline_spec.lua:%d+: deadline: s must be a number",
        raised(function() lp.deadline("1", print) end))
      assert.matches("deadline: s must be", raised(lp.deadline, 0 / 0, print))
      assert.matches("deadline_spec.lua:%d+: deadline: fn must be a function, got nil",
        raised(function() lp.deadline(1) end))
    end)

    it("reaches a G that only yields", function()
      local function yields()
        while true do
          local ok, err = lp.yield()
          if not ok then return err end
        end
      end
      assert.equal("timeout", lp.deadline(0.01, yields))
    end)
  end)

  describe("cancel", function()
    it("ends a wait of any kind, and every later one", function()
      local each, tidy_up = waits.of_each_kind()
      for name, wait in pairs(each) do
        local g = lp.go(function()
          local first = { wait() }
          return first, { lp.sleep(LONG) }, { lp.park() }, { each.read() }
        end)
        lp.sleep(0.005)
        g:cancel()
        local results = { g:join(LONG) }
        for i = 1, 4 do
          assert.same({ nil, "canceled" }, results[i], name)
        end
      end
      tidy_up()
    end)

    it("leaves the rest as it was", function()
      local a, b, ln = pair()
      local g = lp.go(a.read, a)
      lp.sleep(0.002)
      g:cancel()
      g:join()
      b:write "for the next"
      assert.equal("for the next", a:read())
      ln:close()
      a:close()
      b:close()
    end)

    it("reaches a G that has not begun", function()
      local began
      local g = lp.go(function()
        began = true
        return lp.sleep(LONG)
      end)
      g:cancel()
      assert.same({ nil, "canceled" }, { g:join() })
      assert.is_true(began)
    end)

    it("lets a ready that was there before be seen", function()
      local g = lp.go(function() return pack(lp.park()), pack(lp.park()) end)
      lp.ready(g, "first")
      g:cancel()
      local first, second = g:join()
      assert.same({ "first", n = 1 }, first)
      assert.same({ nil, "canceled", n = 2 }, second)
    end)

    it("of a request's G that has ended does nothing to the next request", function()
      local old
      local client = testing.serve(function(req)
        old = old or lp.self()
        return req.path == "/keep" and "kept" or tostring(lp.sleep(0.02))
      end)
      -- Started before, so that the next request gets the coroutine of the first.
      local canceler = lp.go(function()
        lp.park()
        lp.sleep(0.005)
        old:cancel()
        return lp.ready(old)
      end)
      lp.yield()
      client:get "/keep"
      lp.ready(canceler)
      assert.equal("true", client:get("/victim").body)
      assert.is_false(canceler:join())
      client:close()
    end)

    it("of an ended G does nothing, also to the next on its coroutine", function()
      local g = lp.go(function() end)
      g:join()
      local other = lp.go(lp.sleep, 0.01)
      g:cancel()
      lp.yield()
      g:cancel()
      g:cancel()
      assert.is_true(other:join())
      assert.matches("cancel: g must be a G, got nil", raised(g.cancel))
    end)

    it("ends with the G: the next one on its coroutine waits", function()
      local g = lp.go(lp.sleep, LONG)
      lp.yield()
      g:cancel()
      g:join()
      assert.is_true(lp.go(lp.sleep, 0.001):join())
    end)
  end)
end)
