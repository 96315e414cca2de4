local lp = require "lunapark"
local contract = require "spec.support.channels"
local waits = require "spec.support.waits"
local helper = require "spec.helper"

local LONG, pack, raised = waits.LONG, waits.pack, helper.raised
local waiting, answer = waits.waiting, waits.answer

describe("lunapark.chan", function()
  describe("unbuffered", function()
    it("hands values over, in order, whoever comes first", function()
      local ch = lp.chan()
      local g = waiting(ch.recv, ch)
      assert.is_true(ch:send("to who waits"))
      assert.same({ "to who waits", n = 1 }, answer(g))

      g = waiting(ch.send, ch, "from who waits")
      assert.equal(0, ch:len())
      assert.equal("from who waits", ch:recv())
      assert.same({ true, n = 1 }, answer(g))

      local sum = 0
      lp.go(function()
        for i = 1, 1000 do
          ch:send(i)
        end
        ch:close()
      end)
      local last = 0
      for v in ch:iter() do
        assert.equal(last + 1, v)
        last, sum = v, sum + v
      end
      assert.equal(500500, sum)
    end)

    it("a send returns when its value was received, not sooner", function()
      local ch = lp.chan()
      local sent = false
      local g = lp.go(function()
        ch:send(1)
        sent = true
      end)
      lp.yield()
      lp.yield()
      assert.is_false(sent)
      ch:recv()
      g:join()
      assert.is_true(sent)
    end)
  end)

  describe("with a buffer", function()
    it("takes so many values without waiting, and gives them out in order", function()
      for _, n in ipairs { 1, 2, 3, 64 } do
        local ch = lp.chan(n)
        for round = 1, 5 do -- around the ring
          for i = 1, n do
            assert.is_true(ch:send(round * 100 + i, 0))
            assert.equal(i, ch:len())
          end
          assert.same({ nil, "timeout" }, { ch:send("too many", 0) })
          for i = 1, n do
            assert.equal(round * 100 + i, ch:recv(0))
          end
          assert.same({ nil, "timeout" }, { ch:recv(0) })
          if ch:send "shift" then ch:recv() end
        end
      end
    end)

    it("gives room to who waits to send, in order", function()
      local ch = lp.chan(2)
      local senders = {}
      for i = 1, 6 do
        senders[i] = waiting(ch.send, ch, i)
      end
      for i = 1, 6 do
        assert.equal(math.min(2, 7 - i), ch:len())
        assert.equal(i, ch:recv())
      end
      for i = 1, 6 do
        assert.same({ true, n = 1 }, answer(senders[i]))
      end
    end)

    it("lets go of what was taken out", function()
      local ch = lp.chan(4)
      local weak = setmetatable({}, { __mode = "v" })
      for i = 1, 4 do
        weak[i] = {}
        ch:send(weak[i])
      end
      for _ = 1, 4 do
        ch:recv()
      end
      local g = waiting(ch.recv, ch)
      weak.handed = {}
      ch:send(weak.handed)
      g:join()
      g = nil -- luacheck: ignore 311
      collectgarbage()
      collectgarbage()
      assert.same({}, weak)
    end)
  end)

  it("carries any value, nil too", function()
    local ch = lp.chan(3)
    for _, v in ipairs { false, 0, "", 0 / 0 } do
      ch:send(v)
      local got = ch:recv()
      assert.is_true(got == v or got ~= got and v ~= v)
    end
    ch:send(nil)
    ch:send()
    assert.equal(2, ch:len())
    assert.same({ nil, n = 1 }, pack(ch:recv()))
    assert.same({ nil, n = 1 }, pack(ch:recv()))
    local g = waiting(ch.recv, ch)
    ch:send(nil)
    assert.same({ nil, n = 1 }, answer(g))
    local unbuffered = lp.chan()
    g = waiting(unbuffered.send, unbuffered, nil)
    assert.same({ nil, n = 1 }, pack(unbuffered:recv()))
    assert.same({ true, n = 1 }, answer(g))
  end)

  it("serves those who wait to receive in order", function()
    local ch = lp.chan()
    local order, gs = {}, {}
    for i = 1, 5 do
      gs[i] = lp.go(function()
        local v = ch:recv()
        order[#order + 1] = { i, v }
      end)
    end
    lp.yield()
    for i = 1, 5 do
      ch:send(i * 10)
    end
    for i = 1, 5 do
      gs[i]:join()
    end
    assert.same({ { 1, 10 }, { 2, 20 }, { 3, 30 }, { 4, 40 }, { 5, 50 } }, order)
  end)

  contract(describe, it, lp.chan)

  it("refuses misuse, naming the argument", function()
    assert.matches("chan_spec.lua:%d+: chan: n must be a whole number, 0 or more, got %-1",
      raised(function() lp.chan(-1) end))
    assert.matches("chan: n must be", raised(lp.chan, 1.5))
    assert.matches("chan: n must be", raised(lp.chan, 1 / 0))
    assert.matches("chan: n must be", raised(lp.chan, 0 / 0))
    assert.matches('chan: n must be a whole number, 0 or more, got the string "1"', raised(lp.chan, "1"))
    local ch = lp.chan(1)
    assert.matches("chan_spec.lua:%d+: recv: ch must be a channel, got nil", raised(function() ch.recv() end))
    for _, name in ipairs { "send", "recv", "close", "len", "iter" } do
      assert.matches(name .. ": ch must be a channel, got table", raised(ch[name], {}))
    end
    assert.matches("chan_spec.lua:%d+: recv: s must be a number of seconds, got x", raised(function() ch:recv "x" end))
    assert.matches("chan_spec.lua:%d+: send: s must be a number of seconds, got table",
      raised(function() ch:send(1, {}) end))
    assert.matches("recv: s must be", raised(ch.recv, ch, 0 / 0))
    assert.equal("channel of 1 (0)", tostring(ch))
  end)

  -- Producers and consumers with timeouts, cancellations and selects at random: whatever a send said was sent is
  -- received exactly once, and nothing else; of each producer in order, by one channel and one consumer.
  describe("at random", function()
    local random = math.random

    local function patience()
      local r = random()
      if r < 0.2 then return 0 end
      if r < 0.5 then return random() * 0.0005 end
    end

    -- What was sent, received and received twice, on three channels.
    local function new_run()
      local chans = { lp.chan(0), lp.chan(1), lp.chan(7) }
      return { chans = chans, sent = {}, received = {}, twice = 0, next = 0, total = 0 }
    end

    local function note(run, v)
      if run.received[v] then run.twice = run.twice + 1 end
      run.received[v] = true
      run.total = run.total + 1
    end

    local function send_one(run)
      local chans = run.chans
      run.next = run.next + 1
      local v = run.next
      local r = random(4)
      if r == 1 then
        local i, _, ok = lp.select {
          { chans[1], "send", v }, { chans[2], "send", v }, { chans[3], "send", v }, timeout = patience(),
        }
        if i and ok then run.sent[v] = true end
      elseif r == 2 then -- either direction, also with itself
        local ch = chans[random(3)]
        local i, got, ok = lp.select { { ch, "send", v }, { ch, "recv" }, timeout = patience() }
        if i == 1 and ok then run.sent[v] = true end
        if i == 2 and ok then note(run, got) end
      elseif chans[random(3)]:send(v, patience()) then
        run.sent[v] = true
      end
    end

    local function recv_one(run)
      local chans = run.chans
      if random(3) == 1 then
        local i, v, ok = lp.select {
          { chans[1], "recv" }, { chans[2], "recv" }, { chans[3], "recv" }, timeout = patience(),
        }
        if i and ok then note(run, v) end
      else
        local v = chans[random(3)]:recv(patience())
        if v then note(run, v) end
      end
    end

    -- Runs 20 Gs to their ends, some of them by cancellation; how many are left.
    local function run_all(run)
      local running, gs = 20, {}
      for k = 1, 20 do
        local op = k % 2 == 0 and send_one or recv_one
        gs[k] = lp.go(function()
          for _ = 1, 60 do
            op(run)
            if random(5) == 1 then lp.yield() end
          end
          running = running - 1
          gs[k] = nil
        end)
      end
      lp.go(function()
        while running > 0 do
          lp.sleep(random() * 0.0005)
          local g = gs[random(20)]
          if g and random(3) == 1 then g:cancel() end
          if run.next > 500 or random(20) == 1 then -- those that wait for ever
            for k = 1, 20 do
              if gs[k] then gs[k]:cancel() end
            end
          end
        end
      end):join(LONG)
      return running
    end

    local function stress(seed)
      math.randomseed(seed)
      local run = new_run()
      assert.equal(0, run_all(run), "seed " .. seed)
      for _, ch in ipairs(run.chans) do
        ch:close()
        for v in ch:iter() do
          note(run, v)
        end
      end
      assert.equal(0, run.twice, "seed " .. seed)
      assert.same(run.sent, run.received, "seed " .. seed)
      return run.total
    end

    it("every value is delivered exactly once", function()
      local base_seed = os.time()
      local total = 0
      for i = 1, 20 do
        total = total + stress(base_seed + i)
      end
      assert.is_true(total > 500, total)
    end)
  end)

  it("the paths that do not wait are compiled", function()
    local util = require "jit.util"
    local ch = lp.chan(4)
    local aborted = {}
    local function watch(what, _, func, pc, code, reason)
      if what == "abort" then aborted[#aborted + 1] = { util.funcinfo(func, pc).loc, code, reason } end
    end
    jit.flush()
    jit.attach(watch, "trace")
    local sum = 0
    for i = 1, 5000 do
      ch:send(i)
      sum = sum + ch:recv()
    end
    jit.attach(watch)
    assert.equal(12502500, sum)
    -- A loop that is left while it is recorded says so; what cannot be compiled would be another reason.
    for _, a in ipairs(aborted) do
      assert.is_true(a[2] ~= 7, tostring(a[1]) .. ": not compiled")
    end
  end)

  it("holds no value that a send which timed out had", function()
    local weak, ch = setmetatable({}, { __mode = "v" }), lp.chan()
    weak[1] = {}
    assert.same({ nil, "timeout" }, { ch:send(weak[1], 0.001) })
    collectgarbage()
    collectgarbage()
    assert.is_nil(weak[1])
  end)

  it("goes on waiting after wakeups that nothing has caused", function()
    local ch = lp.chan()
    local g = lp.go(function() return pack(ch:recv()) end)
    for _ = 1, 4 do
      lp.yield()
      require("ffi").C.host_wake(g.slot)
    end
    lp.yield()
    ch:send "value"
    assert.same({ "value", n = 1 }, (g:join(LONG)))
  end)
end)
