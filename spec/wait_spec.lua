local lp = require "lunapark"
local waits = require "spec.support.waits"

local pack = waits.pack

describe("lunapark", function()
  describe("waits inside", function()
    local function nap(...)
      assert(lp.sleep(0.0005))
      return ...
    end

    it("pcall and xpcall, errors after the wait too", function()
      assert.same({ true, 1, nil, 3, n = 4 }, pack(pcall(nap, 1, nil, 3)))
      local function fail()
        nap()
        error({ "deep" }, 0)
      end
      local ok, err = pcall(pcall, pcall, fail)
      assert.same({ true, true }, { ok, err })
      ok, err = pcall(fail)
      assert.same({ false, { "deep" } }, { ok, err })
      local _, handled = xpcall(fail, function(e) return "handled " .. e[1] end)
      assert.equal("handled deep", handled)
      assert.same({ true, "x", n = 2 }, pack(xpcall(nap, print, "x")))
    end)

    it("metamethods", function()
      local seen
      local mt = {
        __index = function(_, k) return nap(k) end,
        __newindex = function(_, k, v) seen = nap(k .. "=" .. v) end,
        __call = function(_, ...) return nap(...) end,
        __concat = function(a, b)
          return nap((type(a) == "table" and "t" or a) .. (type(b) == "table" and "t" or b))
        end,
        __add = function(_, b) return nap(b + 1) end,
        __unm = function() return nap "unm" end,
        __eq = function() return nap(true) end,
        __lt = function() return nap(true) end,
        __le = function() return nap(false) end,
      }
      local t, u = setmetatable({}, mt), setmetatable({}, mt)
      assert.equal("key", t.key)
      t.a = "b"
      assert.equal("a=b", seen)
      assert.same({ 1, nil, 3, n = 3 }, pack(t(1, nil, 3)))
      assert.equal("x1t", "x" .. 1 .. t)
      assert.equal("ty", t .. "y")
      assert.equal(6, t + 5)
      assert.equal("unm", -t)
      assert.is_true(t == u)
      assert.is_true(t < u)
      assert.is_false(t <= u)
      assert.is_false(t ~= u)
    end)

    it("iterators of for, tail calls and deep recursion", function()
      local list = {}
      for i, v in function(_, i) if i < 5 then return nap(i + 1, "v" .. i) end end, nil, 0 do
        list[i] = v
      end
      assert.same({ "v0", "v1", "v2", "v3", "v4" }, list)
      local function down(n)
        if n == 0 then return nap "bottom" end
        return (down(n - 1))
      end
      assert.equal("bottom", down(1000))
      local function tail(n)
        if n == 0 then return nap "tail" end
        return tail(n - 1)
      end
      assert.equal("tail", tail(1000))
    end)

    it("compiled loops", function()
      local sum = 0
      for i = 1, 2000 do
        lp.yield()
        sum = sum + i
      end
      assert.equal(2001000, sum)
    end)
  end)

  describe("coroutines of one's own", function()
    it("work as ever", function()
      local function count(n)
        return coroutine.wrap(function()
          for i = 1, n do
            coroutine.yield(i)
          end
        end)
      end
      local sum = 0
      for i in count(10) do
        lp.yield() -- between two steps the G may wait
        sum = sum + i
      end
      assert.equal(55, sum)

      local co = coroutine.create(function(a, b)
        local c = coroutine.yield(a + b)
        local d, e = coroutine.yield(c * 2)
        return d + e
      end)
      assert.same({ true, 3 }, { coroutine.resume(co, 1, 2) })
      lp.sleep(0.001)
      assert.same({ true, 20 }, { coroutine.resume(co, 10) })
      assert.equal("suspended", coroutine.status(co))
      assert.same({ true, 7 }, { coroutine.resume(co, 3, 4) })
      assert.equal("dead", coroutine.status(co))
      assert.same({ false, "cannot resume dead coroutine" }, { coroutine.resume(co) })
      assert.same({ false, "x" }, { coroutine.resume(coroutine.create(function() error("x", 0) end)) })
    end)

    it("are told from the G's by running, status and isyieldable", function()
      local outer = coroutine.running()
      assert.equal("thread", type(outer))
      assert.is_false(coroutine.isyieldable())
      assert.equal("running", coroutine.status(outer))
      local inner
      inner = coroutine.create(function()
        assert(coroutine.running() == inner and inner ~= outer)
        assert(coroutine.status(outer) == "normal")
        return coroutine.isyieldable()
      end)
      assert.same({ true, true }, { coroutine.resume(inner) })
      local in_sort
      table.sort({ 2, 1 }, function(a, b)
        in_sort = coroutine.isyieldable()
        return a < b
      end)
      assert.is_false(in_sort)
    end)

    it("may start Gs and make them ready", function()
      local parked = lp.go(lp.park)
      local started
      coroutine.wrap(function()
        started = lp.go(function() return "started" end)
        lp.ready(parked, "readied")
        coroutine.yield()
      end)()
      assert.equal("started", started:join())
      assert.equal("readied", parked:join())
    end)
  end)
end)
