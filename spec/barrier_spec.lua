-- Where a wait can not work: it says so and why, and afterwards waits work as ever. Were LuaJIT to call
-- callbacks, finalizers or hooks in another way than host/vm/barrier.c expects, these would fail or crash.

local ffi = require "ffi"
local lp = require "lunapark"
local net = require "lunapark.net"
local helper = require "spec.helper"

local raised = helper.raised

ffi.cdef [[
void qsort(void *base, size_t n, size_t size, int (*compare)(const int *, const int *));
void *bsearch(const void *key, const void *base, size_t n, size_t size, int (*compare)(const int *, const int *));
typedef struct barrier_spec { int x; } barrier_spec;
]]
local C = ffi.C

local CALLBACK = "cannot wait here: beneath an FFI callback"
local FINALIZER = "cannot wait here: in a finalizer"
local HOOK = "cannot wait here: in a debug hook"

-- Neither has the JIT compile FFI calls that call back, which LuaJIT does not support.
local function sort(compare)
  local list = ffi.new("int[4]", 3, 1, 2, 0)
  local callback = ffi.cast("int (*)(const int *, const int *)", compare)
  local ok, err = pcall(C.qsort, list, 4, 4, callback)
  callback:free()
  if not ok then error(err, 0) end
  return { list[0], list[1], list[2], list[3] }
end
jit.off(sort)

local function ascending(a, b) return a[0] - b[0] end

local function sort_inside(fn)
  local done
  return sort(function(a, b)
    if not done then
      done = true
      fn()
    end
    return a[0] - b[0]
  end)
end
jit.off(sort_inside)

-- Calls fn that many C frames deeper, or more, than the caller is.
local function deeper(n, fn)
  if n == 0 then return fn() end
  local result
  string.gsub("x", "x", function() result = deeper(n - 1, fn) end)
  return result
end

-- Waits still work: by yield, and by leaving the stack.
local function check_waits()
  assert.is_true(lp.sleep(0.0005))
  local g = lp.go(function() return lp.sleep(0) end)
  assert.is_true(g:join())
  assert.is_true(deeper(3, function() return lp.sleep(0) end))
end

-- What a finalizer's wait raised: each kind of object makes garbage with one that calls fn.
local finalized = {
  ["ffi.gc"] = function(fn) ffi.gc(ffi.new "int[1]", fn) end,
  ["newproxy"] = function(fn) getmetatable(newproxy(true)).__gc = fn end,
  ["ffi.metatype"] = (function()
    local now
    local t = ffi.metatype("barrier_spec", { __gc = function() now() end })
    return function(fn)
      now = fn
      t()
    end
  end)(),
}

describe("a wait", function()
  after_each(function()
    debug.sethook()
    check_waits()
  end)

  describe("beneath an FFI callback", function()
    it("is refused, and the callback goes on", function()
      local err
      local sorted = sort_inside(function() err = raised(lp.sleep, 0.001) end)
      assert.matches(CALLBACK, err)
      assert.same({ 0, 1, 2, 3 }, sorted)
    end)

    it("is refused for every way of waiting", function()
      local ln, g = net.listen "127.0.0.1:0", lp.go(lp.park)
      for name, fn in pairs {
        sleep = function() lp.sleep(0) end,
        yield = lp.yield,
        park = lp.park,
        join = function() g:join(0.001) end,
        accept = function() ln:accept() end,
      } do
        local err
        sort_inside(function() err = raised(fn) end)
        assert.matches(CALLBACK, err, name)
      end
      g:cancel()
      ln:close()
    end)

    it("is refused in a coroutine that the callback resumes", function()
      local ok, err
      sort_inside(function()
        ok, err = coroutine.resume(coroutine.create(function() lp.sleep(0) end))
      end)
      assert.is_false(ok)
      assert.matches(CALLBACK, err)
    end)

    it("is refused in the outer one after the inner has returned", function()
      local inner, outer
      sort_inside(function()
        assert.same({ 0, 1, 2, 3 }, sort_inside(function() inner = raised(lp.sleep, 0) end))
        outer = raised(lp.sleep, 0)
      end)
      assert.matches(CALLBACK, inner)
      assert.matches(CALLBACK, outer)
    end)

    it("is refused in the callback that caught an error of its own", function()
      local err
      sort_inside(function()
        pcall(error, "mine")
        pcall(string.rep)
        err = raised(lp.sleep, 0)
      end)
      assert.matches(CALLBACK, err)
    end)

    it("is refused in the outer one that caught an error of the inner", function()
      local err
      sort_inside(function()
        assert.equal("inner", raised(sort, function() error("inner", 0) end))
        err = raised(lp.sleep, 0)
      end)
      assert.matches(CALLBACK, err)
    end)

    it("works again after an error through it, however deep one is then", function()
      for _ = 1, 50 do
        assert.equal("thrown", raised(sort, function() error("thrown", 0) end))
        assert.is_true(deeper(20, function() return lp.sleep(0) end))
      end
    end)

    it("works again after an error through two of them", function()
      local caught = deeper(5, function()
        return raised(sort, function()
          sort(function() error("both", 0) end)
          return 0
        end)
      end)
      assert.equal("both", caught)
      assert.is_true(lp.sleep(0.0005))
    end)

    it("works again when a coroutine died of an error through it", function()
      local ok, err = coroutine.resume(coroutine.create(function()
        sort(function() error("died", 0) end)
      end))
      assert.same({ false, "died" }, { ok, err })
      assert.is_true(lp.sleep(0.0005))
    end)

    it("works again in others when a G died of an error through it", function()
      local g = lp.go(function() sort(function() error("the G's", 0) end) end)
      local ok, err = g:join()
      assert.is_nil(ok)
      assert.matches("the G's", err)
    end)

    it("works in other Gs while callbacks come and go", function()
      local stop
      local g = lp.go(function()
        while not stop do
          sort(ascending)
          deeper(2, function() lp.sleep(0) end)
        end
      end)
      for _ = 1, 100 do
        assert.is_true(lp.sleep(0))
      end
      stop = true
      g:join()
    end)
  end)

  describe("in a finalizer", function()
    for name, make in pairs(finalized) do
      it("of " .. name .. " is refused", function()
        local err
        make(function() err = raised(lp.sleep, 0.001) end)
        collectgarbage()
        collectgarbage()
        assert.matches(FINALIZER, err)
      end)

      it("of " .. name .. " is refused in a coroutine", function()
        local err
        make(function() err = raised(coroutine.wrap(function() lp.sleep(0.001) end)) end)
        collectgarbage()
        collectgarbage()
        assert.matches(FINALIZER, err)
      end)
    end

    it("is refused when the collector runs by itself, in compiled code too", function()
      local errs = {}
      local live = 100
      for _ = 1, live do
        finalized["ffi.gc"](function()
          live = live - 1
          errs[raised(lp.sleep, 0):match "cannot wait here: .*"] = true
        end)
      end
      local held
      for i = 1, 1e8 do
        held = { i }
        if live == 0 then break end
      end
      assert.is_table(held)
      assert.same({ [FINALIZER] = true }, errs)
    end)

    it("an error does not reach the message handler of who collects", function()
      local handled
      local log = helper.stderr_of(function()
        assert(xpcall(function()
          getmetatable(newproxy(true)).__gc = function() error "in a finalizer" end
          for _ = 1, 2 do collectgarbage() end
        end, function(err)
          handled = err
          return {}
        end))
      end, "a finalizer raised: ")
      assert.is_nil(handled)
      assert.matches("error a finalizer raised: spec/barrier_spec.lua:%d+: in a finalizer\n", log)
    end)

    it("works again after an error in it, which is logged and raised nowhere", function()
      local log = helper.stderr_of(function()
        finalized.newproxy(function() error "in the finalizer" end)
        assert.is_true((pcall(collectgarbage)))
        assert.is_true((pcall(collectgarbage)))
      end)
      assert.matches("error a finalizer raised: spec/barrier_spec.lua:%d+: in the finalizer\n", log)
      assert.is_true(lp.sleep(0.0005))
    end)

    it("an error is logged and raised nowhere when compiled code ends for the collector, too", function()
      local n, live = 0, 300
      local log = helper.stderr_of(function()
        for i = 1, live do
          finalized["ffi.gc"](function()
            live = live - 1
            error(i % 2 == 0 and "in a finalizer" or {})
          end)
        end
        local held
        for i = 1, 1e8 do
          held = { i }
          n = i
          if live == 0 then break end
        end
        assert.is_table(held)
      end)
      assert.is_true(n < 1e8)
      assert.matches("error a finalizer raised: ", log)
    end)

    it("says so beneath a callback too, which afterwards is the reason again", function()
      local inner, outer
      sort_inside(function()
        finalized["ffi.gc"](function() inner = raised(lp.sleep, 0) end)
        collectgarbage()
        collectgarbage()
        outer = raised(lp.sleep, 0)
      end)
      assert.matches(FINALIZER, inner)
      assert.matches(CALLBACK, outer)
    end)
  end)

  describe("in a debug hook", function()
    for mask, n in pairs { c = 0, r = 0, l = 0, [""] = 1 } do
      it("of mask '" .. mask .. "' is refused", function()
        local err
        debug.sethook(function()
          debug.sethook()
          err = raised(lp.sleep, 0.001)
        end, mask, n)
        local x = tostring(1)
        debug.sethook()
        assert.equal("1", x)
        assert.matches(HOOK, err)
      end)
    end

    it("works again after an error from it", function()
      local function fail()
        debug.sethook(function()
          debug.sethook()
          error("hooked", 0)
        end, "l")
        local x = 1
        return x
      end
      assert.equal("hooked", raised(fail))
      assert.is_true(lp.sleep(0.0005))
    end)
  end)

  it("in the profiler's callback is refused", function()
    local profile = require "jit.profile"
    local err
    profile.start("i1", function()
      err = err or raised(lp.sleep, 0.001)
    end)
    local give_up = lp.now() + 10
    while not err and lp.now() < give_up do
      for i = 1, 1000 do
        tostring(i)
      end
    end
    profile.stop()
    assert.matches("cannot wait here: in a profiler's callback", err)
  end)
end)

describe("debug.sethook", function()
  after_each(function() debug.sethook() end)

  local function gethook(...)
    return { n = select("#", ...), ... }
  end

  it("says what is set, and nothing when nothing is", function()
    local function hook() end
    assert.same({ nil, "", 0, n = 3 }, gethook(debug.gethook()))
    debug.sethook(hook, "lrc", 1000000)
    assert.same({ hook, "crl", 1000000, n = 3 }, gethook(debug.gethook()))
    debug.sethook(coroutine.create(hook), hook, "l")
    assert.same({ hook, "l", 0, n = 3 }, gethook(debug.gethook(coroutine.create(hook))))
    debug.sethook(hook, "")
    assert.same({ hook, "", 0, n = 3 }, gethook(debug.gethook()))
    debug.sethook(nil)
    assert.same({ nil, "", 0, n = 3 }, gethook(debug.gethook()))
  end)

  it("names what is wrong with its arguments", function()
    local function of(...)
      local args = { n = select("#", ...), ... }
      return raised(function() debug.sethook(unpack(args, 1, args.n)) end)
    end
    assert.matches("bad argument #1 to 'sethook' %(function expected, got number%)", of(1, "l"))
    assert.matches("bad argument #2 to 'sethook' %(string expected, got no value%)", of(print))
    assert.matches("bad argument #3 to 'sethook' %(string expected, got table%)",
      of(coroutine.create(print), print, {}))
    assert.matches("bad argument #3 to 'sethook' %(number expected, got string%)", of(print, "l", "x"))
  end)

  it("calls with the event, and the line of line events", function()
    -- Locals: what busted makes of globals are function calls.
    local sethook, tostring = debug.sethook, tostring
    local seen = {}
    local here = debug.getinfo(1, "l").currentline
    sethook(function(event, line) seen[#seen + 1] = event .. " " .. tostring(line and line - here) end, "l")
    local x = 1
    sethook()
    assert.equal(1, x)
    assert.same({ "line 2", "line 3" }, seen)
    local events = {}
    sethook(function(event) events[event] = true end, "cr", 1)
    local function called() return #events end
    assert.equal(0, called() + 0)
    sethook()
    assert.same({ call = true, count = true, ["return"] = true }, events)
  end)

  it("shows the hooked function at level 2", function()
    local name
    debug.sethook(function() name = name or debug.getinfo(2, "S").short_src end, "l")
    local x = 1
    debug.sethook()
    assert.equal(1, x)
    assert.matches("barrier_spec.lua$", name)
  end)
end)
