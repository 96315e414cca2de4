--- Coroutines of the user's own, in Gs that wait.

local lp = require "lunapark"
local helper = require "spec.helper"
local waits = require "spec.support.waits"

local LONG, pack, raised = waits.LONG, waits.pack, helper.raised

describe("lunapark", function()
  describe("coroutine", function()
    it("running, status, isyieldable and resume tell the truth while coroutines wait", function()
      local inside, status_inside = {}, {}
      local co, comparing
      local g = lp.go(function()
        inside.g = coroutine.running()
        co = coroutine.create(function()
          inside.co = coroutine.running()
          status_inside.g, status_inside.co = coroutine.status(inside.g), coroutine.status(co)
          lp.park()
          inside.co_later = coroutine.running()
          status_inside.co_later = coroutine.status(co)
          local got = coroutine.yield "yielded"
          table.sort({ 2, 1 }, function(a, b)
            comparing = true
            lp.park()
            inside.yieldable = coroutine.isyieldable()
            return a < b
          end)
          return got
        end)
        local first = { coroutine.resume(co) }
        local g_later = coroutine.running()
        local second = { coroutine.resume(co, "got") }
        return first, second, g_later
      end)
      local function try()
        local own = coroutine.running()
        assert.equal("normal", coroutine.status(co))
        local ok, err = coroutine.resume(co)
        assert.is_false(ok)
        assert.matches("^cannot resume .* coroutine$", err)
        assert.equal(own, coroutine.running())
        assert.equal("running", coroutine.status(own))
        assert.matches("stack traceback:\n.*coroutine_spec.lua", debug.traceback(co))
      end
      helper.eventually(function() return inside.co end)
      lp.yield()
      try()
      lp.ready(g)
      helper.eventually(function() return comparing end)
      try()
      lp.ready(g)
      local first, second, g_later = g:join()
      assert.same({ true, "yielded" }, first)
      assert.same({ true, "got" }, second)
      assert.equal("dead", coroutine.status(co))
      assert.equal(inside.g, g_later)
      assert.equal(co, inside.co)
      assert.equal(co, inside.co_later)
      assert.same({ g = "normal", co = "running", co_later = "running" }, status_inside)
      assert.is_false(inside.yieldable)
    end)

    it("isyieldable is true where coroutine.yield works, whether or not one can wait", function()
      local function seen_in(place)
        local seen = {}
        place(function(v)
          seen[#seen + 1] = coroutine.isyieldable()
          lp.yield()
          seen[#seen + 1] = coroutine.isyieldable()
          return v
        end)
        return seen
      end
      local places = require "spec.support.places"
      local in_coroutines = { ["coroutine.wrap"] = 8, ["coroutine.resume"] = 6 }
      for name, n in pairs(in_coroutines) do
        local seen = seen_in(places.by_name[name].run)
        local yieldable = 0
        for _, is in ipairs(seen) do yieldable = yieldable + (is and 1 or 0) end
        assert.equal(n, yieldable, name)
      end
      for _, name in ipairs { "pcall", "__index", "an iterator of for", "table.sort", "string.gsub, a function",
        "string.gsub, a table with __index" } do
        for _, yieldable in ipairs(seen_in(places.by_name[name].run)) do assert.is_false(yieldable, name) end
      end
    end)

    it("yield goes to the user's resume, after waits and between them", function()
      local co = coroutine.wrap(function(a)
        for i = 1, 5 do
          assert(lp.sleep(0.0002))
          local b = coroutine.yield(a + i, nil)
          lp.yield()
          a = b
        end
        return "ended", nil, 3
      end)
      local value = 0
      for i = 1, 5 do
        local results = pack(co(value))
        assert.same({ value + i, nil, n = 2 }, results)
        value = results[1]
      end
      assert.same({ "ended", nil, 3, n = 3 }, pack(co(0)))
    end)

    it("yield across a comparator is what it always was, after waits too", function()
      local co = coroutine.create(function()
        table.sort({ 2, 1 }, function()
          lp.yield()
          coroutine.yield()
        end)
      end)
      local ok, err = coroutine.resume(co)
      assert.is_false(ok)
      assert.matches("attempt to yield across C%-call boundary", err)
      assert.is_true(lp.sleep(0))
    end)

    it("may be handed from G to G, and waits for the one that resumes it", function()
      local gs = {}
      local gen = coroutine.wrap(function()
        while true do
          gs[#gs + 1] = lp.self()
          lp.sleep(0.0003)
          gs[#gs + 1] = lp.self()
          coroutine.yield(#gs)
        end
      end)
      local a = lp.go(function() return gen() end)
      assert.equal(2, a:join())
      local b = lp.go(function() return gen(), gen() end)
      assert.same({ 4, 6 }, { b:join() })
      assert.equal(8, gen())
      local me = lp.self()
      assert.same({ a, a, b, b, b, b, me, me }, gs)
    end)

    it("may be abandoned between two waits, and is collected", function()
      local collected = setmetatable({}, { __mode = "v" })
      lp.go(function()
        for i = 1, 10 do
          local co = coroutine.create(function()
            lp.yield()
            coroutine.yield()
            lp.yield()
          end)
          coroutine.resume(co)
          collected[i] = co
        end
      end):join()
      lp.go(function() lp.yield() end):join() -- the G's coroutine has run something else
      collectgarbage()
      collectgarbage()
      assert.same({}, collected)
    end)

    it("in mid-wait is ended by a cancellation of its G, and with it by no more than that", function()
      local ended
      local g = lp.go(function()
        local co = coroutine.wrap(function()
          local ok, err = lp.park()
          coroutine.yield(tostring(ok) .. " " .. err)
          ended = { lp.sleep(LONG) }
        end)
        local first = co()
        co()
        return first
      end)
      lp.sleep(0.001)
      g:cancel()
      assert.equal("nil canceled", g:join(LONG))
      assert.same({ nil, "canceled" }, ended)
    end)

    it("that raises after a wait is dead, and tells where", function()
      local function culprit()
        lp.yield()
        error "after the wait"
      end
      local co = coroutine.create(function() culprit() end)
      local ok, err = coroutine.resume(co)
      assert.is_false(ok)
      assert.matches("coroutine_spec.lua:%d+: after the wait$", err)
      assert.equal("dead", coroutine.status(co))
      assert.matches("in function 'culprit'", debug.traceback(co))
      assert.matches("after the wait", raised(coroutine.wrap(culprit)))
      assert.is_true(lp.sleep(0))
    end)

    it("debug.traceback shows the frames on both sides of a wait", function()
      local function low()
        lp.yield()
        local text = debug.traceback("text", 1)
        return text
      end
      local function high()
        local text = low()
        return text
      end
      for _, run in ipairs {
        function(f) return (f()) end,
        function(f) return (coroutine.wrap(f)()) end,
        function(f)
          local text
          table.sort({ 2, 1 }, function(a, b)
            text = f()
            return a < b
          end)
          return text
        end,
      } do
        local text = run(high)
        assert.matches("^text\nstack traceback:\n", text)
        assert.matches("in function 'low'.*in function ", text)
        assert.equal(1, select(2, text:gsub("in function 'low'", "")))
      end
    end)

    describe("of a G that waits", function()
      -- Enough for the loops to be compiled.
      local MANY = 300

      -- What resuming and looking at co does while its G waits: the same each time.
      local function try(co)
        for _ = 1, MANY do
          local ok, err = coroutine.resume(co, "injected")
          assert.is_false(ok)
          assert.equal("cannot resume running coroutine", err)
          assert.equal("normal", coroutine.status(co))
        end
        assert.matches("stack traceback:\n.*coroutine_spec.lua", debug.traceback(co))
        collectgarbage()
      end

      it("can't be resumed by another, whatever the wait is", function()
        local kinds, tidy = waits.of_each_kind()
        for name, wait in pairs(kinds) do
          local co
          local g = lp.go(function()
            co = coroutine.running()
            local results = pack(wait())
            return "results", results
          end)
          helper.eventually(function() return co end)
          lp.yield()
          try(co)
          g:cancel()
          local said, results = g:join(LONG)
          assert.equal("results", said, name)
          assert.equal("canceled", results[2], name)
          assert.equal("dead", coroutine.status(co))
          assert.same({ false, "cannot resume dead coroutine" }, { coroutine.resume(co) })
        end
        tidy()
      end)

      it("can't be resumed while it only waits for its turn", function()
        local co, done
        local g = lp.go(function()
          co = coroutine.running()
          while not done do lp.yield() end
          return "done"
        end)
        helper.eventually(function() return co end)
        try(co)
        done = true
        assert.equal("done", g:join(LONG))
      end)

      it("can't be resumed before it begins: it may be one that another G ended on", function()
        local cos = {}
        for i = 1, 5 do
          lp.go(function() cos[i] = coroutine.running() end):join()
        end
        local ran = 0
        local gs = {}
        for i = 1, 5 do
          gs[i] = lp.go(function(n)
            ran = ran + 1
            return n
          end, i)
        end
        for _, co in ipairs(cos) do
          local ok, err = coroutine.resume(co)
          assert.is_false(ok)
          assert.matches("^cannot resume %a+ coroutine$", err)
        end
        assert.equal(0, ran)
        for i, g in ipairs(gs) do assert.equal(i, g:join(LONG)) end
      end)

      it("can't be resumed when it is a generator of the user's, in which the wait is", function()
        local co
        local wrapped = coroutine.wrap(function()
          co = coroutine.running()
          local got = lp.park()
          coroutine.yield(got)
          return "end"
        end)
        local g = lp.go(function()
          local got = wrapped()
          return got, wrapped()
        end)
        helper.eventually(function() return co end)
        lp.yield()
        try(co)
        for _ = 1, MANY do assert.matches("cannot resume running coroutine$", raised(wrapped, "injected")) end
        lp.ready(g, "true value")
        assert.same({ "true value", "end" }, { g:join(LONG) })
      end)

      it("takes values with lp.ready while others try", function()
        local co
        local g = lp.go(function()
          co = coroutine.running()
          local sum = 0
          for _ = 1, MANY do sum = sum + lp.park() end
          return sum
        end)
        helper.eventually(function() return co end)
        for i = 1, MANY do
          coroutine.resume(co, 1e6)
          lp.ready(g, i)
          coroutine.resume(co, 1e6)
          lp.yield()
        end
        assert.equal(MANY * (MANY + 1) / 2, g:join(LONG))
      end)
    end)
  end)
end)
