--- What channels of both kinds do: lp.chan's, and lunapark.shared's among Gs of one VM.
---
---   local contract = require "spec.support.channels"
---   describe("lunapark.chan", function() contract(describe, it, lp.chan) end)

local assert = require "luassert"
local lp = require "lunapark"
local helper = require "spec.helper"
local waits = require "spec.support.waits"

local LONG, pack, timed, raised = waits.LONG, waits.pack, waits.timed, helper.raised
local waiting, answer = waits.waiting, waits.answer

local function selecting(cases)
  return waiting(lp.select, cases)
end

-- Runs fn in a finalizer: what it raises.
local function raised_in_finalizer(fn)
  local err
  local p = newproxy(true)
  getmetatable(p).__gc = function() err = raised(fn) end
  p = nil -- luacheck: ignore 311
  collectgarbage()
  collectgarbage()
  return err
end

local function closing(describe, it, chan)
  describe("close", function()
    it("leaves what is in the buffer, then answers closed for ever", function()
      local ch = chan(2)
      ch:send "a"
      ch:send(nil)
      assert.is_true(ch:close())
      assert.same({ "a", n = 1 }, pack(ch:recv()))
      assert.same({ nil, n = 1 }, pack(ch:recv()))
      for _ = 1, 3 do
        assert.same({ nil, "closed" }, { ch:recv() })
        assert.same({ nil, "closed" }, { ch:recv(0) })
        assert.same({ nil, "closed" }, { ch:send(1) })
        assert.same({ nil, "closed" }, { ch:close() })
      end
      assert.same({ 1, nil, false, n = 3 }, pack(lp.select { { ch, "recv" } }))
      assert.same({ 1, nil, false, n = 3 }, pack(lp.select { { ch, "send", 1 } }))
    end)

    it("ends the waits of many", function()
      local empty, full = chan(), chan(1)
      full:send "kept"
      local gs = {}
      for i = 1, 40 do
        gs[#gs + 1] = waiting(empty.recv, empty)
        gs[#gs + 1] = waiting(full.send, full, i)
      end
      local select_recv = selecting { { lp.chan(), "recv" }, { empty, "recv" } }
      local select_send = selecting { { full, "send", 1 }, { lp.chan(), "recv" } }
      empty:close()
      full:close()
      for _, g in ipairs(gs) do
        assert.same({ nil, "closed", n = 2 }, answer(g))
      end
      assert.same({ 2, nil, false, n = 3 }, answer(select_recv))
      assert.same({ 1, nil, false, n = 3 }, answer(select_send))
      assert.equal("kept", full:recv())
      assert.same({ nil, "closed" }, { full:recv() })
    end)
  end)
end

local function iterating(describe, it, chan)
  describe("iter", function()
    it("ends with the channel, and with the G's waits", function()
      local ch, open = chan(3), chan()
      ch:send "a"
      ch:send(false)
      ch:close()
      local got = {}
      for v in ch:iter() do
        got[#got + 1] = v
      end
      assert.same({ "a", false }, got)
      local function all_of_open()
        for _ in open:iter() do
          error "nothing comes"
        end
        return "ended"
      end
      assert.equal("ended", lp.deadline(0.005, all_of_open))
      local g = lp.go(all_of_open)
      lp.yield()
      g:cancel()
      assert.equal("ended", g:join())
    end)

    it("raises at a nil, which would end the loop", function()
      local ch = chan(1)
      ch:send(nil)
      assert.matches("iter: a nil was received", raised(function()
        for _ in ch:iter() do
          error "not reached"
        end
      end))
    end)
  end)
end

local function waiting_in_vain(describe, it, chan)
  describe("waits", function()
    it("time out", function()
      local ch = chan()
      for _, wait in ipairs {
        function() return ch:recv(0.01) end,
        function() return ch:send(1, 0.01) end,
        function() return lp.deadline(0.01, ch.recv, ch) end,
        function() return lp.deadline(0.01, ch.send, ch, 1) end,
        function() return lp.deadline(0.01, ch.send, ch, 1, LONG) end,
        function() return lp.select { { ch, "recv" }, { ch, "send", 1 }, timeout = 0.01 } end,
      } do
        local seconds, v, err = timed(wait)
        assert.same({ nil, "timeout" }, { v, err })
        assert.is_true(seconds >= 0.01 and seconds < LONG)
      end
      -- Nobody is left behind in the queues.
      assert.same({ nil, "timeout" }, { ch:recv(0) })
      assert.same({ nil, "timeout" }, { ch:send(1, 0) })
      assert.same({ nil, "timeout" }, { ch:recv(-1) })
    end)

    it("are cancelled", function()
      local ch = chan()
      for _, g in ipairs {
        waiting(ch.recv, ch), waiting(ch.recv, ch, LONG), selecting { { ch, "recv" }, { lp.chan(), "recv" } },
      } do
        g:cancel()
        assert.same({ nil, "canceled", n = 2 }, answer(g))
      end
      assert.same({ nil, "timeout" }, { ch:send(1, 0) })
      local g = waiting(ch.send, ch, 1)
      g:cancel()
      assert.same({ nil, "canceled", n = 2 }, answer(g))
      assert.same({ nil, "timeout" }, { ch:recv(0) })
    end)

    it("what needs no wait is done in a cancelled G, too", function()
      local ch = chan(1)
      local g = lp.go(function()
        lp.self():cancel()
        return pack(ch:recv()), ch:send "x", pack(ch:send "y"), ch:recv()
      end)
      local first, sent, second, got = g:join()
      assert.same({ nil, "canceled", n = 2 }, first)
      assert.is_true(sent)
      assert.same({ nil, "canceled", n = 2 }, second)
      assert.equal("x", got)
    end)

    it("that were ended by a value have it, though they are cancelled before they run", function()
      local ch = chan()
      local g = waiting(ch.recv, ch)
      assert.is_true(ch:send("just in time", 0))
      g:cancel()
      assert.same({ "just in time", n = 1 }, answer(g))
      g = waiting(ch.send, ch, "taken")
      assert.equal("taken", ch:recv(0))
      g:cancel()
      assert.same({ true, n = 1 }, answer(g))
    end)
  end)
end

local function waiting_anywhere(describe, it, chan)
  describe("waits", function()
    it("keep their place through a ready that is for a later park", function()
      local ch = chan()
      local g = lp.go(function()
        local v = ch:recv()
        return v, lp.park()
      end)
      lp.yield()
      lp.ready(g, "for park")
      lp.yield()
      ch:send "for recv"
      assert.same({ "for recv", "for park" }, { g:join() })
    end)

    it("work in a comparator, in a coroutine, in a metamethod", function()
      local ch, echo = chan(), chan()
      local g = lp.go(function()
        for v in ch:iter() do
          echo:send(v)
        end
      end)
      local function there_and_back(v)
        ch:send(v)
        return echo:recv()
      end
      local t = { 4, 2, 5, 1, 3 }
      table.sort(t, function(a, b) return there_and_back(a) < b end)
      assert.same({ 1, 2, 3, 4, 5 }, t)
      local gen = coroutine.wrap(function()
        for i = 1, 3 do
          coroutine.yield(there_and_back(i))
        end
      end)
      assert.same({ 1, 2, 3 }, { gen(), gen(), gen() })
      assert.equal("key", setmetatable({}, { __index = function(_, k) return there_and_back(k) end }).key)
      ch:close()
      g:join()
    end)

    it("that cannot be raise, and leave nothing behind", function()
      local ch, own = chan(), lp.chan()
      for _, wait in ipairs {
        function() ch:recv() end,
        function() ch:send(1) end,
        function() lp.select { { ch, "recv" }, { own, "send", 1 } } end,
      } do
        assert.matches("cannot wait here: in a finalizer", raised_in_finalizer(wait))
      end
      assert.same({ nil, "timeout" }, { own:recv(0.001) }) -- a wait after it, of another kind
      assert.same({ nil, "timeout" }, { ch:recv(0.001) })
      assert.same({ nil, "timeout" }, { ch:send(1, 0.001) })
    end)
  end)
end

local function finalizers(it, chan)
  it("finalizers may send while the G is about to wait", function()
    local ch, text = chan(1), ("from a finalizer"):rep(2000)
    local stop = false
    local g = lp.go(function()
      while not stop do
        local p = newproxy(true)
        getmetatable(p).__gc = function() ch:send(text, 0) end
        lp.yield()
      end
    end)
    for i = 1, 200 do
      collectgarbage "step"
      local v, err
      if i % 2 == 0 then
        v, err = ch:recv(0.5)
      else
        err, v = lp.select { { ch, "recv" }, timeout = 0.5 }
      end
      assert.equal(text, v, err)
    end
    stop = true
    g:join()
    collectgarbage()
  end)
end

---@param describe function  busted's
---@param it function
---@param chan fun(n?: integer): table  makes a channel
return function(describe, it, chan)
  closing(describe, it, chan)
  iterating(describe, it, chan)
  waiting_in_vain(describe, it, chan)
  waiting_anywhere(describe, it, chan)
  finalizers(it, chan)
end
