local ffi = require "ffi"
local lp = require "lunapark"
local waits = require "spec.support.waits"
local helper = require "spec.helper"

local C = ffi.C
local pack, timed, raised = waits.pack, waits.timed, helper.raised

describe("lunapark", function()
  describe("park and ready", function()
    it("hand values over, one, several or none", function()
      local function give(...)
        local g = lp.go(function() return pack(lp.park()) end)
        lp.yield()
        assert.is_true(lp.ready(g, ...))
        return g:join()
      end
      assert.same({ n = 0 }, give())
      assert.same({ "a", n = 1 }, give "a")
      assert.same({ n = 1 }, give(nil))
      assert.same({ false, n = 1 }, give(false))
      assert.same({ "a", nil, "c", nil, n = 4 }, give("a", nil, "c", nil))
    end)

    it("keep a ready that comes first", function()
      local g = lp.go(function() return lp.park() end)
      assert.is_true(lp.ready(g, "early", nil, 3))
      assert.same({ "early", nil, 3, n = 3 }, pack(g:join()))
    end)

    it("keep a ready that comes during another wait, and do not end that", function()
      local g = lp.go(function()
        local seconds, ok = timed(lp.sleep, 0.03)
        return seconds, ok, lp.park()
      end)
      lp.sleep(0.005)
      assert.is_true(lp.ready(g, "kept"))
      local seconds, ok, value = g:join()
      assert.is_true(seconds >= 0.03)
      assert.same({ true, "kept" }, { ok, value })
    end)

    it("count the latest ready alone", function()
      local g = lp.go(function() return pack(lp.park()), pack(lp.deadline(0.01, lp.park)) end)
      lp.ready(g, 1, 2, 3)
      lp.ready(g, "last")
      local first, second = g:join()
      assert.same({ "last", n = 1 }, first)
      assert.same({ nil, "timeout", n = 2 }, second)
    end)

    it("count the latest ready, with values or without, also before the G runs", function()
      for _, early in ipairs { true, false } do
        local g = lp.go(function() return pack(lp.park "the first"), pack(lp.deadline(0.01, lp.park, "the second")) end)
        if not early then lp.yield() end
        lp.ready(g, 1, 2, 3)
        assert.is_true(lp.ready(g))
        assert.same({ { n = 0 }, { nil, "timeout", n = 2 } }, { g:join() })
        g = lp.go(function() return pack(lp.park()), pack(lp.deadline(0.01, lp.park)) end)
        if not early then lp.yield() end
        lp.ready(g)
        assert.is_true(lp.ready(g, nil, 2))
        assert.same({ { nil, 2, n = 2 }, { nil, "timeout", n = 2 } }, { g:join() })
      end
    end)

    it("let go of values that nobody got", function()
      local weak = setmetatable({}, { __mode = "v" })
      local g = lp.go(function()
        local n = select("#", lp.park())
        lp.park()
        return n
      end)
      weak[1] = {}
      lp.ready(g, weak[1])
      lp.ready(g)
      lp.yield()
      collectgarbage()
      assert.is_nil(weak[1])
      lp.ready(g)
      assert.equal(0, g:join())
    end)

    it("end by a cancellation or a deadline, of which park tells once", function()
      local g = lp.go(function()
        local first = pack(lp.deadline(0.001, lp.park))
        lp.self():cancel()
        return first, pack(lp.park()), pack(lp.park "a reason")
      end)
      assert.same({ { nil, "timeout", n = 2 }, { nil, "canceled", n = 2 }, { nil, "canceled", n = 2 } }, { g:join() })
    end)

    it("by the FFI: host_ready, host_park_begin", function()
      local g = lp.go(lp.park)
      lp.yield()
      assert.equal(0, C.host_ready(g[1], g[2] + 1))
      assert.equal(0, C.host_ready(-1, g[2]))
      assert.equal(0, C.host_ready(1e6, g[2]))
      assert.equal(1, C.host_ready(g[1], g[2]))
      assert.same({ n = 0 }, pack(g:join()))
      assert.equal(0, C.host_ready(g[1], g[2]))
      local me = lp.self()
      assert.is_true(C.host_park_begin() ~= 0)
      lp.ready(me)
      assert.equal(0, C.host_park_begin())
      assert.is_true(C.host_park_begin() ~= 0)
      lp.ready(me, 1)
      assert.is_true(C.host_park_begin() ~= 0)
      assert.equal(1, lp.park())
    end)

    it("tell when the G has ended", function()
      local g = lp.go(function() end)
      g:join()
      assert.is_false(lp.ready(g))
      local failed = lp.go(error, "x")
      failed:join()
      assert.is_false(lp.ready(failed, 1))
      -- Another G on the same coroutine is none of its business.
      local other = lp.go(function() return lp.deadline(0.01, lp.park) end)
      lp.yield()
      assert.is_false(lp.ready(g, "not for you"))
      assert.same({ nil, "timeout" }, { other:join() })
    end)

    it("play ping-pong", function()
      local ping, pong
      local n = 0
      ping = lp.go(function()
        for i = 1, 1000 do
          lp.ready(pong, i)
          local back = lp.park()
          n = n + back
        end
      end)
      pong = lp.go(function()
        for _ = 1, 1000 do
          lp.ready(ping, lp.park())
        end
      end)
      ping:join()
      assert.equal(500500, n)
    end)

    it("refuse misuse, naming the argument", function()
      assert.matches("park_spec.lua:%d+: park: reason must be a string, got number", raised(function() lp.park(5) end))
      assert.matches("park_spec.lua:%d+: ready: g must be a G, got nil", raised(function() lp.ready() end))
      assert.matches("ready: g must be a G, got table", raised(lp.ready, {}))
      assert.matches("ready: g must be a G, got thread", raised(lp.ready, coroutine.create(print)))
    end)
  end)

  it("yield lets the others go on", function()
    local steps = {}
    local function worker(name)
      return lp.go(function()
        for i = 1, 3 do
          steps[#steps + 1] = name .. i
          lp.yield()
        end
      end)
    end
    local a, b = worker "a", worker "b"
    a:join()
    b:join()
    assert.same({ "a1", "b1", "a2", "b2", "a3", "b3" }, steps)
  end)

  it("10,000 Gs wait at once", function()
    local gs, woken = {}, 0
    for i = 1, 10000 do
      gs[i] = lp.go(function(k)
        local value = lp.park()
        woken = woken + value
        return k
      end, i)
    end
    lp.yield()
    lp.sleep(0.001)
    assert.equal(0, woken)
    for i = 1, 10000 do
      assert.is_true(lp.ready(gs[i], i))
    end
    for i = 1, 10000 do
      assert(gs[i]:join() == i)
    end
    assert.equal(50005000, woken)
  end)
end)
