local lp = require "lunapark"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local helper = require "spec.helper"
local waits = require "spec.support.waits"

local LONG, pack, pair, soon, raised = waits.LONG, waits.pack, waits.pair, waits.soon, helper.raised

-- A test in virtual time: what is due at 2 s comes before what is due at 3 s, however busy the machine is.
local function virtual_it(title, fn)
  it(title, function() testing.virtual(fn) end)
end

describe("lunapark.scope", function()
  after_each(child.clean)

  virtual_it("waits for its Gs and returns what the function returned", function()
    local ended = {}
    local results = pack(lp.scope(function(s)
      for i = 3, 1, -1 do
        s:go(function(k)
          lp.sleep(0.002 * k)
          ended[#ended + 1] = k
        end, i)
      end
      assert.same({}, ended)
      return 1, nil, "three", nil
    end))
    assert.same({ 1, 2, 3 }, ended)
    assert.same({ 1, nil, "three", nil, n = 4 }, results)
    assert.same({ n = 0 }, pack(lp.scope(function() end)))
    assert.is_true(lp.sleep(0))
  end)

  virtual_it("waits for Gs that lp.go starts in it, at any depth, and for those started while it waits", function()
    local ended = 0
    local function tree(depth)
      lp.sleep(0.0005)
      if depth > 0 then
        for _ = 1, 3 do
          lp.go(tree, depth - 1)
        end
      end
      ended = ended + 1
    end
    lp.scope(function(s)
      lp.go(tree, 3)
      s:go(function()
        lp.sleep(0.005)
        s:go(tree, 1)
      end)
    end)
    assert.equal(40 + 4, ended)
  end)

  it("gives arguments, and handles that can be joined", function()
    local results, from_outside
    lp.scope(function(s)
      local g = s:go(function(...) return select("#", ...), ... end, nil, 2, nil)
      from_outside = g
      results = pack(g:join())
    end)
    assert.same({ 3, nil, 2, nil, n = 4 }, results)
    assert.same({ 3, nil, 2, nil, n = 4 }, pack(from_outside:join()))
  end)

  it("does not wait for detached Gs, nor do these have a deadline", function()
    local detached
    testing.virtual(function()
      lp.deadline(1, lp.scope, function(s)
        s:go(function() detached = lp.detach(function(...) return ..., lp.sleep(3) end, "arg") end)
        lp.detach(function() lp.sleep(0) end)
        lp.sleep(2)
      end)
      assert.same({ nil, "timeout" }, { detached:join(0) })
      assert.same({ "arg", true }, { detached:join() })
    end)
    -- Nor are they cancelled with the others, nor does their error reach the scope.
    local log = helper.stderr_of(function()
      raised(lp.scope, function()
        detached = lp.detach(lp.sleep, 0.01)
        local bad = lp.detach(error, "its own", 0)
        lp.sleep(0)
        assert.matches("^its own", select(2, bad:join()))
        error "fails"
      end)
    end)
    assert.is_true(detached:join())
    assert.equal("", log)
    assert.matches("scope_spec.lua:%d+: detach: fn must be a function, got nil", raised(function() lp.detach() end))
  end)

  describe("the first error", function()
    it("of a G cancels the others and the function, and is raised with its traceback", function()
      local a, b, ln = pair()
      local seen = {}
      local function culprit()
        lp.sleep(0.002)
        error "the culprit"
      end
      local ok, err = soon(pcall, lp.scope, function(s)
        s:go(function() seen.sleep = { lp.sleep(LONG) } end)
        s:go(function() seen.park = { lp.park() } end)
        s:go(function() seen.read = { a:read() } end)
        lp.go(function() seen.deep = { lp.go(lp.sleep, LONG):join() } end)
        s:go(function() culprit() end)
        seen.fn = { lp.sleep(LONG) }
        seen.again = { lp.sleep(LONG) }
        seen.zero = { lp.sleep(0) }
        seen.yield = { lp.yield() }
        seen.late = { s:go(lp.sleep, LONG):join() }
        return "not this"
      end)
      assert.is_false(ok)
      assert.matches("^spec/scope_spec.lua:%d+: the culprit\nstack traceback:\n", err)
      assert.matches("in function 'culprit'", err)
      assert.matches("\nin G %d+%.%d+, started at spec/scope_spec.lua:%d+ in the scope of %S+%.lua:%d+", err)
      for _, name in ipairs { "sleep", "park", "read", "deep", "fn", "again", "zero", "yield", "late" } do
        assert.same({ nil, "canceled" }, seen[name], name)
      end
      -- The caller itself is not cancelled.
      assert.is_true(lp.sleep(0.001))
      assert.is_true(lp.sleep(0))
      assert.is_true(lp.go(lp.sleep, 0.001):join())
      b:write "still there"
      assert.equal("still there", a:read())
      ln:close()
      a:close()
      b:close()
    end)

    virtual_it("of the function cancels the Gs, and is raised when they have ended", function()
      local ended
      local function inner() error "from within" end
      local ok, err = soon(pcall, lp.scope, function(s)
        s:go(function()
          local _, why = lp.sleep(LONG)
          ended = why
        end)
        lp.sleep(0.001)
        inner()
      end)
      assert.is_false(ok)
      assert.equal("canceled", ended)
      assert.matches("^spec/scope_spec.lua:%d+: from within\nstack traceback:", err)
      assert.matches("in function 'inner'", err)
      assert.is_true(lp.sleep(0.001))
    end)

    virtual_it("waits for Gs that do not end at once", function()
      local done = 0
      local ok = pcall(lp.scope, function(s)
        s:go(function()
          lp.sleep(LONG)
          lp.detach(function() lp.sleep(0.02) done = done + 1 end):join()
          -- Cancelled Gs can't wait; they may work on.
          done = done + 1
        end)
        s:go(error, "x")
      end)
      assert.is_false(ok)
      assert.equal(1, done)
      lp.sleep(0.03)
      assert.equal(2, done)
    end)

    it("may be any value", function()
      for _, value in ipairs { {}, setmetatable({}, {}), false, 7 } do
        local ok, err = pcall(lp.scope, function(s) s:go(error, value) end)
        assert.is_false(ok)
        if type(value) == "table" and not getmetatable(value) then
          assert.equal(value, err)
        else
          assert.is_string(err)
        end
        ok = pcall(lp.scope, function() error(value) end)
        assert.is_false(ok)
      end
    end)

    it("of several counts; the others are not logged above debug", function()
      local log = helper.stderr_of(function()
        local _, err = pcall(lp.scope, function(s)
          for i = 1, 3 do
            s:go(function()
              lp.sleep(0.001)
              error("number " .. i, 0)
            end)
          end
          s:go(function() assert(lp.sleep(LONG)) end)
          assert(lp.sleep(LONG))
        end)
        assert.matches("^number 1\n", err)
        lp.report_errors()
      end)
      assert.equal("", log)
    end)

    it("counts even if somebody joins that G", function()
      local joined
      local ok, err = soon(pcall, lp.scope, function(s)
        joined = { s:go(error, "joined", 0):join() }
      end)
      assert.is_false(ok)
      assert.matches("^joined\n", err)
      assert.is_nil(joined[1])
      assert.is_string(joined[2])
    end)

    virtual_it("in a G that has not begun, or comes when the function has returned", function()
      local began
      local ok, err = soon(pcall, lp.scope, function(s)
        s:go(function() began = { lp.sleep(LONG) } end)
        error("at once", 0)
      end)
      assert.is_false(ok)
      assert.matches("^at once", err)
      assert.same({ nil, "canceled" }, began)
      ok, err = soon(pcall, lp.scope, function(s)
        s:go(lp.sleep, LONG)
        s:go(function()
          lp.sleep(0.002)
          error("late", 0)
        end)
        return "values"
      end)
      assert.is_false(ok)
      assert.matches("^late\n", err)
    end)
  end)

  describe("within another", function()
    virtual_it("fails alone when the function between catches it", function()
      local outer = lp.go(function()
        return lp.scope(function(s)
          local sibling = s:go(function() return lp.sleep(0.02) end)
          local ok, err = soon(pcall, lp.scope, function(inner)
            inner:go(lp.sleep, LONG)
            inner:go(error, "inner", 0)
            lp.sleep(LONG)
          end)
          assert(not ok and err:find "^inner\n")
          assert(lp.sleep(0.001))
          return sibling:join()
        end)
      end)
      assert.is_true(outer:join())
    end)

    virtual_it("ends when the outer one fails", function()
      local seen = {}
      local ok, err = soon(pcall, lp.scope, function(s)
        s:go(function()
          seen.g = { lp.scope(function(t)
            t:go(function() seen.deep = { lp.sleep(LONG) } end)
            return lp.sleep(LONG)
          end) }
        end)
        s:go(function()
          lp.sleep(0.002)
          error("outer", 0)
        end)
        -- The function stands in an inner scope, too, first in its function, then in its end.
        lp.scope(function(t)
          t:go(function() seen.inner = { lp.sleep(LONG) } end)
          seen.fn = { lp.sleep(LONG) }
        end)
        seen.between = { lp.sleep(LONG) }
        lp.scope(function(t) t:go(function() seen.later = { lp.sleep(LONG) } end) end)
        return "no"
      end)
      assert.is_false(ok)
      assert.matches("^outer\n", err)
      for _, name in ipairs { "g", "deep", "inner", "fn", "between", "later" } do
        assert.same({ nil, "canceled" }, seen[name], name)
      end
      assert.is_true(lp.sleep(0.001))
    end)

    virtual_it("ends when the outer one fails, at once, not when the functions between have returned", function()
      local heard, before = {}, {} -- what the inner Gs heard, before the functions returned
      local function until_yielded(name)
        lp.sleep(LONG)
        for _ = 1, 5 do lp.yield() end
        before[name] = heard[name]
      end
      local ok = soon(pcall, lp.scope, function(s)
        s:go(function()
          lp.scope(function(t)
            t:go(function() heard.deep = select(2, lp.sleep(LONG)) end)
            until_yielded "deep"
          end)
        end)
        s:go(function()
          lp.sleep(0.002)
          error("outer", 0)
        end)
        lp.scope(function(t)
          t:go(function() heard.inner = select(2, lp.sleep(LONG)) end)
          until_yielded "inner"
        end)
      end)
      assert.is_false(ok)
      assert.same({ deep = "canceled", inner = "canceled" }, before)
    end)

    virtual_it("ends when the outer one fails while it waits for its Gs", function()
      local seen
      local ok, err = soon(pcall, lp.scope, function(s)
        s:go(function()
          lp.sleep(0.002)
          error("outer", 0)
        end)
        lp.scope(function(t) t:go(function() seen = { lp.sleep(LONG) } end) end)
        assert(lp.sleep(LONG))
      end)
      assert.is_false(ok)
      assert.matches("^outer\n", err)
      assert.same({ nil, "canceled" }, seen)
      assert.is_true(lp.sleep(0))
    end)

    virtual_it("that fails by itself passes its error on", function()
      local seen
      local ok, err = soon(pcall, lp.scope, function(s)
        s:go(function() seen = { lp.sleep(LONG) } end)
        s:go(function()
          lp.scope(function(t)
            t:go(function()
              lp.sleep(0.001)
              error("deepest", 0)
            end)
          end)
        end)
      end)
      assert.is_false(ok)
      assert.matches("^deepest\n", err)
      assert.same({ nil, "canceled" }, seen)
    end)

    virtual_it("100 deep, and 1,000 beside each other", function()
      local function down(n)
        if n == 0 then
          lp.sleep(0.001)
          return "bottom"
        end
        return lp.scope(function(s)
          s:go(lp.sleep, 0.001)
          return down(n - 1)
        end)
      end
      assert.equal("bottom", down(100))
      local n = 0
      lp.scope(function(s)
        for _ = 1, 1000 do
          s:go(lp.scope, function(t) t:go(function() lp.yield() n = n + 1 end) end)
        end
      end)
      assert.equal(1000, n)
    end)
  end)

  describe("works", function()
    it("in the caller's G: self, ready and coroutines are the caller's", function()
      local me = lp.self()
      lp.scope(function(s)
        assert.equal(me, lp.self())
        s:go(lp.ready, me, "for me")
        assert.equal("for me", lp.park())
      end)
      local gen = coroutine.wrap(function()
        for i = 1, 3 do
          lp.scope(function() coroutine.yield(i) end)
        end
      end)
      assert.same({ 1, 2, 3 }, { gen(), gen(), gen() })
      gen()
      assert.is_true(lp.sleep(0))
    end)

    it("left out of order by coroutines", function()
      local function generator(tag)
        return coroutine.wrap(function()
          return lp.scope(function()
            coroutine.yield(tag .. 1)
            return tag .. 2
          end)
        end)
      end
      local a, b = generator "a", generator "b"
      assert.same({ "a1", "b1", "a2", "b2" }, { a(), b(), a(), b() })
      -- No scope is left that would take this error.
      local g = lp.go(error, "unscoped", 0)
      assert.matches("^unscoped", select(2, g:join()))
      assert.is_true(lp.sleep(0))
    end)

    it("when abandoned: its Gs are cancelled when the G ends", function()
      local seen
      local g = lp.go(function()
        coroutine.wrap(function()
          lp.scope(function(s)
            s:go(function() seen = { lp.sleep(LONG) } end)
            coroutine.yield()
          end)
        end)()
        lp.sleep(0.001)
        return "ended"
      end)
      assert.equal("ended", g:join())
      helper.eventually(function() return seen end)
      assert.same({ nil, "canceled" }, seen)
    end)

    it("when the G yields outside of any coroutine: that raises, its Gs are cancelled", function()
      local seen
      local g = lp.go(function()
        lp.scope(function(s)
          s:go(function() seen = { lp.sleep(LONG) } end)
          lp.yield()
          coroutine.yield()
        end)
      end)
      local ok, err = g:join(LONG)
      assert.is_nil(ok)
      assert.matches("scope_spec.lua:%d+: attempt to yield outside of a coroutine", err)
      helper.eventually(function() return seen end)
      assert.same({ nil, "canceled" }, seen)
    end)

    it("with a ready that came before it", function()
      local g = lp.go(function()
        lp.scope(function(s) s:go(lp.sleep, 0.002) end)
        return lp.park()
      end)
      lp.ready(g, "kept")
      assert.equal("kept", g:join())
    end)

    it("without leaking", function()
      local function round()
        for i = 1, 200 do
          pcall(lp.scope, function(s)
            for _ = 1, 5 do
              s:go(lp.yield)
            end
            if i % 3 == 0 then s:go(error, "x", 0) end
          end)
        end
        collectgarbage()
        collectgarbage()
      end
      for _ = 1, 3 do round() end
      local before = lp.stats()
      for _ = 1, 10 do round() end
      local after = lp.stats()
      assert.is_true(after.memory.lua < before.memory.lua + 64 * 1024)
      assert.is_true(after.lua_gs <= before.lua_gs)
    end)
  end)

  it("refuses misuse, naming the argument", function()
    assert.matches("scope_spec.lua:%d+: scope: fn must be a function, got nil", raised(function() lp.scope() end))
    local kept
    lp.scope(function(s)
      kept = s
      assert.matches("scope_spec.lua:%d+: go: fn must be a function, got string", raised(function() s:go "x" end))
      assert.matches("go: s must be a scope, got function", raised(s.go, print))
      assert.matches("^the scope of spec/scope_spec.lua:%d+$", tostring(s))
    end)
    assert.matches("scope_spec.lua:%d+: go: the scope has ended", raised(function() kept:go(print) end))
  end)

  it("is told in the log, with where a G was started", function()
    local code, _, err = child.run { "run", child.script [[
      local lp, about_to = require "lunapark", false
      lp.go(function()
        lp.sleep(0.001) about_to = true
        error "plain"
      end)
      lp.deadline(1, lp.go, error, "in a deadline", 0)
      lp.detach(error, "detached", 0)
      repeat lp.sleep(0.001) until about_to
      lp.scope(function(s)
        s:go(function()
          error "scoped"
        end)
      end)
    ]], env = { LUNAPARK_LOG_LEVEL = "debug" } }
    assert.equal(1, code)
    assert.matches("G %d+%.%d+, started at %S+%.lua:2, ended with an error: %S+%.lua:4: plain\n\tstack traceback:\n",
      err)
    assert.matches("started at %S+%.lua:6, ended with an error: in a deadline\n", err)
    assert.matches("started at %S+%.lua:7, ended with an error: detached\n", err)
    assert.matches("scoped\nstack traceback:\n", err)
    assert.matches("\nin G %d+%.%d+, started at %S+%.lua:10 in the scope of %S+%.lua:9\n", err)
  end)

  it("logs an error after the first one at level debug, unless somebody has joined its G", function()
    local code, _, err = child.run { "run", child.script [[
      local lp = require "lunapark"
      local joiner
      pcall(lp.scope, function(s)
        s:go(function() lp.park() error("second", 0) end)
        local joined = s:go(function() lp.park() error("third", 0) end)
        joiner = lp.detach(function() return joined:join() end)
        lp.yield()
        s:go(error, "first", 0)
      end)
      print(select(2, joiner:join()))
    ]], env = { LUNAPARK_LOG_LEVEL = "debug" } }
    assert.equal(0, code)
    local place = "started at %S+:4 in the scope of %S+:3"
    assert.matches("debug G %d+%.%d+, " .. place .. ", ended with an error after another: second\n", err)
    assert.is_nil(err:find("third", 1, true), err)
  end)
end)
