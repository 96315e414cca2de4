--- Waits of every kind in every place where Lua code can stand. The places are in support/places.lua, the kinds in
--- support/waiter.lua.

local lp = require "lunapark"
local child = require "spec.support.child"
local helper = require "spec.helper"
local places = require "spec.support.places"
local waiter = require "spec.support.waiter"
local waits = require "spec.support.waits"

local LONG, raised = waits.LONG, helper.raised

-- With a full collection at every wait everything takes a while.
local gcwait = (os.getenv "LUNAPARK_DEBUG" or ""):find("gcwait=1", 1, true)
local function times(n)
  return gcwait and math.ceil(n / 40) or n
end

local function each_place(fn)
  for _, place in ipairs(places.list) do
    local ok, err = xpcall(fn, debug.traceback, place)
    if not ok then error(place.name .. ": " .. tostring(err), 0) end
  end
end

-- A generator of numbers that is the spec's own: 1 .. n, the same in each run.
local function sequence(seed)
  local state = seed
  return function(n)
    state = (state * 16807) % 2147483647
    return state % n + 1
  end
end

-- Runs fn(i) in n Gs and raises the first error.
local function in_gs(n, fn)
  lp.scope(function(s)
    for i = 1, n do
      s:go(fn, i)
    end
  end)
end

local function yielding(...)
  lp.yield()
  return ...
end

describe("lunapark waits", function()
  local w
  before_each(function() w = waiter.new() end)
  after_each(function()
    w:close()
    w = nil
  end)

  for _, place in ipairs(places.list) do
    describe("in " .. place.name, function()
      it("for anything, and the values are right afterwards", function()
        local function turn()
          for _ = 1, #waiter.names do
            place.run(w.wait)
          end
        end
        turn()
        assert.is_true(w.count >= #waiter.names)
        lp.go(function()
          local own = waiter.new()
          for _ = 1, 3 do
            place.run(own.wait)
          end
          own:close()
          return true
        end):join()
        coroutine.wrap(function() place.run(w.wait) end)()
      end)

      it("with the JIT eager and off, and with the collector at work", function()
        local _ = jit.off()
        local ok, err = pcall(function()
          for _ = 1, 3 do
            place.run(w.wait)
          end
        end)
        jit.on()
        assert(ok, err)
        jit.opt.start("hotloop=2", "hotexit=2")
        ok, err = pcall(function()
          for i = 1, times(100) do
            place.run(i % 10 == 0 and w.wait or yielding)
          end
        end)
        jit.opt.start("hotloop=56", "hotexit=10")
        assert(ok, err)
        for _ = 1, 2 do
          place.run(function(...)
            collectgarbage()
            local v = w.wait(...)
            collectgarbage()
            return v, select(2, ...)
          end)
        end
      end)

      it("and hands errors on, raised before a wait and after", function()
        for _, before in ipairs { true, false } do
          for nth = 1, 2 do
            local n = 0
            local function culprit()
              if not before then w.wait() end
              error("the cause", 0)
            end
            local ok, err = xpcall(place.run, debug.traceback, function(...)
              n = n + 1
              if n == nth then culprit() end
              w.wait()
              return ...
            end)
            assert.is_false(ok)
            if place.error ~= "lost" then assert.matches("the cause", err) end
            if not place.error then assert.matches("stack traceback:.*in function 'culprit'", err) end
            assert.is_true(lp.sleep(0))
          end
        end
        place.run(w.wait)
      end)

      it("of two Gs by turns, whichever goes on first", function()
        for _, first in ipairs { 1, 2 } do
          local parked, gs, ended = {}, {}, {}
          local function wait(...)
            local i = lp.self() == gs[1] and 1 or 2
            parked[i] = true
            assert(lp.park() == i)
            parked[i] = nil
            return ...
          end
          for i = 1, 2 do
            gs[i] = lp.go(function()
              place.run(wait)
              ended[#ended + 1] = i
              return "ended"
            end)
          end
          -- One goes all the way while the other stands in the midst of it.
          local order = { first, 3 - first }
          helper.eventually(function() return parked[1] and parked[2] end)
          for _, i in ipairs(order) do
            while not gs[i]:join(0) do
              if parked[i] then lp.ready(gs[i], i) end
              local ok, err = gs[i]:join(0)
              if not ok and err ~= "timeout" then error(err, 0) end
              lp.yield()
            end
          end
          assert.same(order, ended)
          -- By turns.
          for i = 1, 2 do
            gs[i] = lp.go(function()
              place.run(wait)
              return "ended"
            end)
          end
          local left = 2
          while left > 0 do
            left = 2
            for i = 1, 2 do
              if parked[i] then
                lp.ready(gs[i], i)
                lp.yield()
              end
              if gs[i]:join(0) == "ended" then left = left - 1 end
            end
            lp.yield()
          end
        end
      end)

      it("until a deadline, or a cancellation, and then as ever", function()
        local n = 0
        place.run(function(...)
          n = n + 1
          if n <= 3 then
            local ok, err = lp.deadline(0.001, lp.park)
            assert(ok == nil and err == "timeout")
          end
          return ...
        end)
        local waiting, told = false, 0
        local g = lp.go(function()
          place.run(function(...)
            waiting = true
            local ok, err = lp.sleep(LONG)
            assert(ok == nil and err == "canceled")
            ok, err = w.near:read()
            assert(ok == nil and err == "canceled")
            told = told + 1
            return ...
          end)
          return "ended"
        end)
        helper.eventually(function() return waiting end)
        assert.equal(0, told)
        g:cancel()
        assert.equal("ended", g:join(LONG))
        assert.is_true(told > 1)
        place.run(w.wait)
      end)
    end)
  end

  describe("in one place within another", function()
    it("each in each", function()
      for i, outer in ipairs(places.list) do
        each_place(function(inner)
          if gcwait and i % 8 ~= 0 or not places.may_nest(outer, inner) then return end
          outer.run(function(...)
            inner.run(yielding)
            return ...
          end)
        end)
      end
    end)

    it("four deep, in several Gs, for anything", function()
      in_gs(4, function(i)
        local pick, own = sequence(i), waiter.new(sequence(i + 100))
        local function go_down(depth, outer, ...)
          if depth == 0 then return own.wait(...) end
          local place
          repeat place = places.list[pick(#places.list)] until not outer or places.may_nest(outer, place)
          -- One of the inner waits is for anything, the others only take turns.
          local calls = 0
          place.run(function(...)
            calls = calls + 1
            if calls == 1 then return go_down(depth - 1, places.outer(outer, place), ...) end
            return yielding(...)
          end)
          return ...
        end
        for _ = 1, times(80) do
          assert(go_down(4, nil, "value") == "value")
        end
        own:close()
      end)
    end)

    it("an error of the innermost comes through all of them", function()
      local pick = sequence(7)
      local function go_down(depth)
        if depth == 0 then
          lp.yield()
          error("deepest", 0)
        end
        local place
        repeat place = places.list[pick(#places.list)] until place.error ~= "lost"
        place.run(function(...)
          lp.yield()
          go_down(depth - 1)
          return ...
        end)
      end
      for _ = 1, times(40) do
        assert.matches("deepest", raised(go_down, 4))
      end
      each_place(function(place) place.run(w.wait) end)
    end)
  end)

  it("in 200 comparators at a time", function()
    local waiting, most = 0, 0
    local before = lp.stats()
    local function nap(...)
      waiting = waiting + 1
      most = math.max(most, waiting)
      assert(lp.sleep(0.002))
      waiting = waiting - 1
      return ...
    end
    for _ = 1, 2 do
      in_gs(times(200), function(i)
        if i % 2 == 0 then lp.yield() end
        places.by_name["table.sort"].run(nap)
      end)
    end
    assert.equal(times(200), most)
    assert.is_true(lp.stats().lua_gs <= before.lua_gs)
  end)

  it("in many comparators that fail, time out or are cancelled", function()
    local ended = { 0, 0, 0 }
    in_gs(times(60), function(i)
      local kind = i % 3 + 1
      local g = lp.go(function()
        local function compare(a, b)
          local ok, err = lp.sleep(kind == 1 and LONG or 0.001)
          if kind == 2 then error("failed", 0) end
          if not ok then error(err, 0) end
          return a < b
        end
        local t = { 3, 1, 2 }
        local _, err
        if kind == 3 then
          _, err = pcall(lp.deadline, 0.0005, table.sort, t, compare)
        else
          _, err = pcall(table.sort, t, compare)
        end
        return err
      end)
      lp.yield()
      if kind == 1 then g:cancel() end
      assert.equal(({ "canceled", "failed", "timeout" })[kind], g:join())
      ended[kind] = ended[kind] + 1
    end)
    assert.equal(times(60), ended[1] + ended[2] + ended[3])
  end)

  it("while one module is being required, in Gs that require another", function()
    local order = {}
    for i = 1, 2 do
      package.preload["spec.waits" .. i] = function()
        order[#order + 1] = "begin " .. i
        while #order < i + 1 do -- until the other one has begun, and ended if that is the first
          lp.sleep(0.001)
        end
        order[#order + 1] = "end " .. i
        return i
      end
    end
    in_gs(2, function(i) assert.equal(i, require("spec.waits" .. i)) end)
    assert.same({ "begin 1", "begin 2", "end 1", "end 2" }, order)
    for i = 1, 2 do
      package.preload["spec.waits" .. i], package.loaded["spec.waits" .. i] = nil, nil
    end
  end)

  it("with values in flight: 100 arguments and results, upvalues, varargs", function()
    local function many(n)
      local t = {}
      for i = 1, n do
        t[i] = i
      end
      return unpack(t)
    end
    local sum = 0
    table.sort({ 2, 1 }, function(a, b)
      local t = { n = select("#", yielding(many(100))), yielding(many(100)) }
      assert(t.n == 100 and #t == 100 and t[100] == 100)
      local function rest(...)
        lp.yield()
        return select("#", ...), (select(50, ...))
      end
      local n, fiftieth = rest(many(100))
      assert(n == 100 and fiftieth == 50)
      sum = sum + 1
      lp.yield()
      return a < b
    end)
    assert.is_true(sum >= 1)
  end)

  it("deep on the stack, which grows while others wait", function()
    in_gs(times(20), function(i)
      local function down(n)
        if n == 0 then
          places.by_name["table.sort"].run(yielding)
          return 0
        end
        return 1 + down(n - 1)
      end
      local result
      ("x"):gsub("x", function() result = down(i * 200) end)
      assert.equal(i * 200, result)
    end)
  end)

  it("in C within C within C, 30 times", function()
    local function nest(n)
      if n == 0 then return yielding "innermost" end
      local value
      ("x"):gsub("x", function()
        table.sort({ 2, 1 }, function(a, b)
          value = value or nest(n - 1)
          return a < b
        end)
      end)
      return value
    end
    in_gs(5, function() assert.equal("innermost", nest(30)) end)
  end)

  -- In a process of its own: what a wait in such a place breaks is the VM.
  describe("not", function()
    after_each(child.clean)

    local function run(text)
      local code, out, err = child.run { "run", child.script([[
        local ffi, lp = require "ffi", require "lunapark"
        local told = {}
        local function try()
          for _, wait in ipairs {
            lp.yield, lp.park, function() return lp.sleep(0.0005) end, function() return lp.go(lp.yield):join() end,
            function() return lp.scope(function(s) s:go(lp.yield) end) end,
          } do
            local ok, err = pcall(wait)
            told[#told + 1] = not ok and tostring(err):match "cannot wait here" or "it waited"
          end
        end
      ]] .. text .. [[
        assert(#told >= 5 and #told % 5 == 0, "it was not called")
        for _, word in ipairs(told) do assert(word == "cannot wait here", word) end
        -- And the VM is as it was.
        table.sort({ 3, 1, 2 }, function(a, b)
          assert(lp.sleep(0.0005))
          return a < b
        end)
        assert(coroutine.wrap(function() return lp.go(lp.sleep, 0.0005):join() end)())
        print "fine"
      ]]) }
      assert.same({ 0, "fine\n", "" }, { code, out, err })
    end

    it("beneath an FFI callback: it raises there, and the G goes on", function()
      run [[
        ffi.cdef "void qsort(void *base, size_t n, size_t size, int (*compare)(const void *, const void *));"
        local numbers = ffi.new("int[4]", 4, 2, 3, 1)
        local callback = ffi.cast("int (*)(const void *, const void *)", function(a, b)
          try()
          return ffi.cast("const int *", a)[0] - ffi.cast("const int *", b)[0]
        end)
        local function sort() ffi.C.qsort(numbers, 4, 4, callback) end
        jit.off(sort)
        sort()
        callback:free()
        for i = 0, 3 do assert(numbers[i] == i + 1) end
      ]]
    end)

    it("in a finalizer", function()
      run [[
        lp.go(function()
          local p = newproxy(true)
          getmetatable(p).__gc = try
          ffi.gc(ffi.new "int[1]", try)
        end):join()
        lp.go(lp.yield):join()
        collectgarbage()
        collectgarbage()
      ]]
    end)

    it("in a hook", function()
      run [[
        jit.off()
        debug.sethook(function()
          debug.sethook()
          try()
        end, "", 1)
        for _ = 1, 100 do end
        debug.sethook()
      ]]
    end)
  end)
end)
