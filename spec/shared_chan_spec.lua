local lp = require "lunapark"
local shared = require "lunapark.shared"
local child = require "spec.support.child"
local contract = require "spec.support.channels"
local waits = require "spec.support.waits"
local helper = require "spec.helper"

local pack, raised, waiting, answer = waits.pack, helper.raised, waits.waiting, waits.answer

local function selecting(cases)
  return waiting(lp.select, cases)
end

describe("shared.chan", function()
  local serial, made = 0, {}

  local function chan(n, opts)
    serial = serial + 1
    local ch = assert(shared.chan("spec " .. serial, n, opts))
    made[#made + 1] = ch
    return ch
  end

  after_each(function()
    for i, ch in ipairs(made) do
      ch:close()
      while select(2, ch:recv(0)) == nil do -- luacheck: ignore 542
      end
      made[i] = nil
    end
    child.clean()
    assert.equal(0, lp.stats().shared_chans)
  end)

  it("is the same one under the same name", function()
    local ch = chan(2)
    local again = shared.chan("spec " .. serial, 2)
    ch:send "x"
    assert.equal(1, again:len())
    assert.equal("x", again:recv(0))
    assert.equal(1, lp.stats().shared_chans)
    assert.equal(('shared channel "spec %d" of 2 (0)'):format(serial), tostring(ch))
    assert.matches('shared_chan_spec.lua:%d+: chan: n of "spec %d+" is 2 since it was made, got 3',
      raised(function() shared.chan("spec " .. serial, 3) end))
    assert.matches('n of "spec %d+" is 2 since it was made, got 0', raised(shared.chan, "spec " .. serial))
  end)

  it("frees its name when it is closed and empty", function()
    local ch = chan(2)
    local name = "spec " .. serial
    ch:send "left"
    ch:close()
    assert.matches("closed%)$", tostring(ch))
    assert.matches("is 2 since it was made", raised(shared.chan, name, 5))
    local same = shared.chan(name, 2)
    assert.same({ nil, "closed" }, { same:send "x" })
    assert.equal("left", ch:recv(0))
    assert.equal(0, lp.stats().shared_chans)
    local new = shared.chan(name, 5)
    made[#made + 1] = new
    new:send "new"
    assert.same({ nil, "closed" }, { ch:recv(0) })
    assert.same({ nil, "closed" }, { same:recv(0) })
    assert.equal("new", new:recv(0))
  end)

  it("is given back, with the names, a thousand times", function()
    for i = 1, 1000 do
      local reply = shared.chan("reply " .. i, 1)
      reply:send(("x"):rep(1000))
      reply:recv()
      reply:close()
    end
    assert.equal(0, lp.stats().shared_chans)
    collectgarbage()
  end)

  it("carries copies of values of each type, whoever waits", function()
    local buffered, unbuffered = chan(1), chan()
    local long = ("x"):rep(100000)
    for _, v in ipairs { true, false, 0, -1.5, 1 / 0, "", "text", "a\0b", long, {}, { 1, { x = "y" } }, { long } } do
      assert.is_true(buffered:send(v))
      assert.same({ v, n = 1 }, pack(buffered:recv()))
      local g = waiting(unbuffered.recv, unbuffered)
      assert.is_true(unbuffered:send(v, 0))
      assert.same({ v, n = 1 }, answer(g))
      g = waiting(unbuffered.send, unbuffered, v)
      assert.same({ v, n = 1 }, pack(unbuffered:recv(0)))
      assert.same({ true, n = 1 }, answer(g))
      g = selecting { { unbuffered, "recv" } }
      assert.is_true(unbuffered:send(v, 0))
      assert.same({ 1, v, true, n = 3 }, answer(g))
    end
    buffered:send(nil)
    assert.same({ nil, n = 1 }, pack(buffered:recv()))
    local g = waiting(unbuffered.recv, unbuffered)
    unbuffered:send(nil)
    assert.same({ nil, n = 1 }, answer(g))
    local t = {}
    buffered:send(t)
    assert.not_equal(t, buffered:recv())
  end)

  it("a send to nobody returns when its value was received, not sooner", function()
    local ch = chan()
    local sent = false
    local g = lp.go(function()
      ch:send(1)
      sent = true
    end)
    lp.yield()
    lp.yield()
    assert.is_false(sent)
    assert.equal(0, ch:len())
    ch:recv()
    g:join()
    assert.is_true(sent)
  end)

  it("takes so many values without waiting, and serves who waits in order", function()
    for _, n in ipairs { 1, 2, 64 } do
      local ch = chan(n)
      for i = 1, n do
        assert.is_true(ch:send(i, 0))
        assert.equal(i, ch:len())
      end
      assert.same({ nil, "timeout" }, { ch:send("too many", 0) })
      local senders = {}
      for i = n + 1, n + 40 do
        senders[#senders + 1] = waiting(ch.send, ch, i)
      end
      for i = 1, n + 40 do
        assert.equal(i, ch:recv(0))
      end
      for _, g in ipairs(senders) do
        assert.same({ true, n = 1 }, answer(g))
      end
      local receivers = {}
      for i = 1, 5 do
        receivers[i] = waiting(ch.recv, ch)
      end
      for i = 1, 5 do
        assert.is_true(ch:send(i * 10, 0))
      end
      for i = 1, 5 do
        assert.same({ i * 10, n = 1 }, answer(receivers[i]))
      end
    end
  end)

  it("nobody slips past one who waits to send", function()
    local ch = chan(1)
    ch:send "first"
    local g = waiting(ch.send, ch, "second")
    assert.equal("first", ch:recv(0))
    assert.same({ nil, "timeout" }, { ch:send("third", 0) })
    assert.equal("second", ch:recv(0))
    assert.same({ true, n = 1 }, answer(g))
  end)

  describe("budget", function()
    it("makes a send wait as a full buffer does, in order", function()
      local ch = chan(100, { max_bytes = 1000 })
      assert.is_true(ch:send(("a"):rep(600), 0))
      assert.same({ nil, "timeout" }, { ch:send(("b"):rep(600), 0) })
      local big = waiting(ch.send, ch, ("b"):rep(600))
      local small = waiting(ch.send, ch, "c")
      assert.equal(1, ch:len())
      assert.equal(("a"):rep(600), ch:recv(0))
      assert.same({ true, n = 1 }, answer(big))
      assert.same({ true, n = 1 }, answer(small))
      assert.equal(2, ch:len())
    end)

    it("gives room to the next when a large one gives up, or it is raised", function()
      local ch = chan(100, { max_bytes = 1000 })
      ch:send(("a"):rep(600))
      local big = waiting(ch.send, ch, ("b"):rep(600))
      local small = waiting(ch.send, ch, "c")
      big:cancel()
      assert.same({ nil, "canceled", n = 2 }, answer(big))
      assert.same({ true, n = 1 }, answer(small))
      big = waiting(ch.send, ch, ("b"):rep(600))
      shared.chan("spec " .. serial, 100, { max_bytes = 2000 })
      assert.same({ true, n = 1 }, answer(big))
      assert.equal(3, ch:len())
    end)

    it("refuses what is larger than all of it", function()
      local ch, other = chan(1, { max_bytes = 1000 }), chan(1)
      assert.same({ nil, "too big" }, { ch:send(("x"):rep(1000)) })
      assert.is_true(other:send("full", 0))
      assert.matches("shared_chan_spec.lua:%d+: select: value is too big for its channel", raised(function()
        local i = lp.select { { ch, "send", ("x"):rep(1000) } }
        return i
      end))
      assert.is_true(ch:send "fits")
      assert.matches("shared_chan_spec.lua:%d+: select: value is too big for its channel", raised(function()
        local i = lp.select { { other, "send", 1 }, { ch, "send", ("x"):rep(1000) } }
        return i
      end))
      assert.equal("full", other:recv(0))
      assert.same({ nil, "timeout" }, { other:recv(0) })
    end)
  end)

  contract(describe, it, chan)

  it("refuses misuse, naming the argument", function()
    local ch = chan(1)
    assert.matches("shared_chan_spec.lua:%d+: chan: name must be a string, got nil",
      raised(function() shared.chan() end))
    for _, n in ipairs { -1, 1.5, 1 / 0, 0 / 0, "1" } do
      assert.matches("chan: n must be a whole number, 0 or more, got ", raised(shared.chan, "x", n))
    end
    assert.matches("chan: opts must be a table, got number", raised(shared.chan, "x", 1, 1))
    assert.matches("chan: opts.max_bytes must be a number of bytes", raised(shared.chan, "x", 1, { max_bytes = "1" }))
    for _, name in ipairs { "send", "recv", "close", "len", "iter" } do
      assert.matches(name .. ": ch must be a shared channel, got table", raised(ch[name], {}))
    end
    assert.matches("shared_chan_spec.lua:%d+: recv: s must be a number of seconds, got x",
      raised(function() ch:recv "x" end))
    assert.matches("send: s must be a number of seconds, got table", raised(ch.send, ch, 1, {}))
    assert.matches("shared_chan_spec.lua:%d+: send: value must be a boolean, a number, a string or a table, got func",
      raised(function() ch:send(print) end))
    assert.matches("send: value cannot be stored: cannot serialize 'function'", raised(ch.send, ch, { print }))
    local function select_bad()
      local i = lp.select { { ch, "send", print } }
      return i
    end
    assert.matches("shared_chan_spec.lua:%d+: select: value must be a boolean", raised(select_bad))
    ch:send "full"
    assert.matches("shared_chan_spec.lua:%d+: select: value must be a boolean", raised(select_bad))
    assert.equal("full", ch:recv(0))
    assert.same({ nil, "timeout" }, { ch:recv(0) })
  end)

  it("the paths that do not wait are compiled", function()
    local util = require "jit.util"
    local ch = chan(4)
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
    for _ = 1, 5000 do
      ch:send "text"
      sum = sum + #ch:recv()
    end
    jit.attach(watch)
    assert.equal(12502500 + 20000, sum)
    for _, a in ipairs(aborted) do
      assert.is_true(a[2] ~= 7, tostring(a[1]) .. ": not compiled")
    end
  end)

  describe("in select, beside channels of the VM", function()
    it("does a case that is ready, with the same chance", function()
      local cases, hits = {}, { 0, 0, 0, 0 }
      for i = 1, 4 do
        local ch = i % 2 == 0 and lp.chan(1) or chan(1)
        ch:send(i)
        cases[i] = { ch, "recv" }
      end
      for _ = 1, 6000 do
        local i, v, ok = lp.select(cases)
        assert(i == v and ok)
        hits[i] = hits[i] + 1
        cases[i][1]:send(i)
      end
      for i = 1, 4 do
        assert.is_true(hits[i] > 1250 and hits[i] < 1750, table.concat(hits, " "))
      end
    end)

    it("waits for the first that gets ready, and does that alone", function()
      local own, other, full = lp.chan(), chan(), chan(1)
      full:send "full"
      local cases = { { own, "recv" }, { other, "recv" }, { full, "send", "mine" }, { other, "send", "never" } }
      local g = selecting(cases)
      assert.is_true(own:send("to own", 0))
      assert.same({ nil, "timeout" }, { own:send("second", 0) })
      assert.same({ nil, "timeout" }, { other:send("second", 0) })
      assert.same({ nil, "timeout" }, { other:recv(0) })
      assert.equal("full", full:recv(0))
      assert.same({ nil, "timeout" }, { full:recv(0) })
      assert.same({ 1, "to own", true, n = 3 }, answer(g))
      full:send "full"

      g = selecting(cases)
      assert.is_true(other:send("to other", 0))
      assert.same({ nil, "timeout" }, { own:send("second", 0) })
      assert.same({ nil, "timeout" }, { other:recv(0) })
      assert.same({ 2, "to other", true, n = 3 }, answer(g))

      g = selecting(cases)
      assert.equal("full", full:recv(0))
      assert.same({ nil, "timeout" }, { own:send("second", 0) })
      assert.same({ 3, nil, true, n = 3 }, answer(g))
      assert.equal("mine", full:recv(0))
      full:send "full"

      g = selecting(cases)
      assert.equal("never", other:recv(0))
      assert.same({ nil, "timeout" }, { own:send("second", 0) })
      assert.same({ 4, nil, true, n = 3 }, answer(g))
    end)

    it("a value of its own VM that comes too late goes to the next, or stays", function()
      local own, other = lp.chan(1), chan()
      local g = selecting { { own, "recv" }, { other, "recv" } }
      local next_one = waiting(own.recv, own)
      assert.is_true(other:send("first", 0))
      assert.is_true(own:send("for the next", 0))
      assert.is_true(own:send("for nobody", 0))
      assert.same({ 2, "first", true, n = 3 }, answer(g))
      assert.same({ "for the next", n = 1 }, answer(next_one))
      assert.equal("for nobody", own:recv(0))

      own:send "full"
      g = selecting { { own, "send", "late" }, { other, "recv" } }
      local sender = waiting(own.send, own, "in time")
      assert.is_true(other:send("first", 0))
      assert.equal("full", own:recv(0))
      assert.equal("in time", own:recv(0))
      assert.same({ nil, "timeout" }, { own:recv(0) })
      assert.same({ 2, "first", true, n = 3 }, answer(g))
      assert.same({ true, n = 1 }, answer(sender))

      g = selecting { { own, "recv" }, { other, "recv" } }
      assert.is_true(other:send("first", 0))
      own:close()
      assert.same({ 2, "first", true, n = 3 }, answer(g))
    end)

    it("meets other selects, also in both directions on one channel, but never itself", function()
      local ch, own = chan(), lp.chan()
      local cases = { { ch, "send", "v" }, { ch, "recv" }, { own, "recv" } }
      assert.same({ nil, "timeout", n = 2 },
        pack(lp.select { cases[1], cases[2], cases[3], timeout = 0.002 }))
      local one, two = selecting(cases), selecting(cases)
      local r1, r2 = answer(one), answer(two)
      if r1[1] == 2 then r1, r2 = r2, r1 end
      assert.same({ 1, nil, true, n = 3 }, r1)
      assert.same({ 2, "v", true, n = 3 }, r2)
    end)

    it("does not mind that its cases are changed while it waits, or that it is woken for nothing", function()
      local a, b = chan(), lp.chan()
      local cases = { { a, "recv" }, { b, "recv" } }
      local slot
      local g = lp.go(function()
        slot = lp.self().slot
        return pack(lp.select(cases))
      end)
      lp.yield()
      cases[1], cases[2][1], cases[2][2] = nil, a, "send"
      require("ffi").C.host_wake(slot)
      lp.yield()
      assert.same({ nil, "timeout" }, { a:recv(0) })
      assert.is_true(a:send("v", 0))
      assert.same({ 1, "v", true, n = 3 }, answer(g))
    end)

    it("waits for many at once", function()
      local cases = {}
      for i = 1, 60 do
        cases[i] = { i % 3 == 0 and lp.chan() or chan(), i % 2 == 0 and "send" or "recv", i }
      end
      for _, i in ipairs { 1, 3, 4, 59, 60 } do
        local g = selecting(cases)
        if i % 2 == 0 then
          assert.equal(i, cases[i][1]:recv(0))
          assert.same({ i, nil, true, n = 3 }, answer(g))
        else
          assert.is_true(cases[i][1]:send("v", 0))
          assert.same({ i, "v", true, n = 3 }, answer(g))
        end
      end
    end)
  end)

  describe("between the VMs of a server", function()
    local app = [[
      local lp, http = require "lunapark", require "lunapark.http"
      local core, ffi = require "lunapark.core", require "ffi"
      local shared = require "lunapark.shared"
      local id = ffi.cast("host_view *", core.view).vm_id
      local jobs, done = shared.chan "jobs", shared.chan("done", 1000)
      local held = shared.chan "held"
      local app = http.app()
      app:get("/send/:n", function(req)
        return { ok = jobs:send({ vm = id, n = tonumber(req.params.n) }, 5) }
      end)
      app:get("/work", function()
        local i, job = lp.select { { lp.chan(), "recv" }, { jobs, "recv" }, timeout = 5 }
        if i then done:send { from = job.vm, to = id, n = job.n } end
        return { ok = i == 2 }
      end)
      app:get("/done", function()
        local list = {}
        while done:len() > 0 do list[#list + 1] = done:recv() end
        return { list = list }
      end)
      app:get("/hang/:how", function(req)
        lp.go(function()
          if req.params.how == "recv" then held:recv() else held:send "never" end
        end)
        lp.yield()
        while true do end
      end)
      app:get("/hang/ordered", function()
        local ordered = shared.chan("ordered", 10)
        for _ = 1, 3 do lp.go(function() ordered:recv() end) end
        lp.yield()
        shared.dict("flags"):set("hangs", true)
        while true do end
      end)
      app:get("/hangs", function() return tostring(shared.dict("flags"):get "hangs") end)
      app:get("/fill", function()
        local ordered = shared.chan("ordered", 10)
        for i = 1, 6 do assert(ordered:send(i)) end
        return { len = ordered:len() }
      end)
      app:get("/drain", function()
        local ordered, list = shared.chan("ordered", 10), {}
        while ordered:len() > 0 do list[#list + 1] = ordered:recv(0) end
        return { list = list }
      end)
      app:get("/give", function() return { ok = held:send("precious", 0) or false } end)
      app:get("/take", function() return { v = held:recv(0) or false } end)
      return app
    ]]

    it("values go from one to another", function()
      local server = child.serve { child.script(app), "--procs", "2" }
      local n, clients = 40, 4
      local gs = {}
      for c = 1, clients do
        gs[#gs + 1] = lp.go(function()
          local client = child.client(server.addr)
          for i = 1, n do
            assert(client:get("/send/" .. c * 1000 + i):json().ok)
          end
        end)
        gs[#gs + 1] = lp.go(function()
          local client = child.client(server.addr)
          for _ = 1, n do
            assert(client:get("/work"):json().ok)
          end
        end)
      end
      for _, g in ipairs(gs) do
        assert.same({}, { g:join() })
      end
      local list = child.client(server.addr):get("/done"):json().list
      local seen, across = {}, 0
      for _, job in ipairs(list) do
        assert.is_nil(seen[job.n])
        seen[job.n] = true
        if job.from ~= job.to then across = across + 1 end
      end
      assert.equal(n * clients, #list)
      assert.is_true(across > 0, "none went to another VM")
    end)

    it("what was handed to a G of a VM that is dropped goes back; what such a G would send is not sent", function()
      if child.has_tsan then return end -- it delivers no signal to a thread that calls nothing
      local server = child.serve {
        child.script(app), "--procs", "2", "--handler-timeout", "1", "--kill-after", "0.5",
      }
      local client = child.client(server.addr)
      local hang = lp.go(function() return child.client(server.addr):get("/hang/recv").status end)
      -- The G waits by then, and can't run any more.
      child.eventually(function() return client:get("/give"):json().ok == true end)
      assert.is_false(client:get("/take"):json().v)
      assert.equal(504, hang:join())
      child.eventually(function() return server:stderr():find "is dropped" end)
      local v
      child.eventually(function()
        v = client:get("/take"):json().v
        return v
      end)
      assert.equal("precious", v)
      assert.is_false(client:get("/take"):json().v)
      assert.is_false(client:get("/give"):json().ok)

      assert.equal(504, child.client(server.addr):get("/hang/send").status)
      child.eventually(function() return select(2, server:stderr():gsub("is dropped", "")) == 2 end)
      helper.eventually(function() return client:get("/take"):json().v == false end)
      assert.is_false(client:get("/take"):json().v)
    end)

    it("what was handed to Gs of a VM that is dropped goes back in front of what came later", function()
      if child.has_tsan then return end -- it delivers no signal to a thread that calls nothing
      local server = child.serve {
        child.script(app), "--procs", "2", "--handler-timeout", "1", "--kill-after", "0.5",
      }
      local client = child.client(server.addr)
      local hang = lp.go(function() return child.client(server.addr):get("/hang/ordered").status end)
      child.eventually(function() return client:get("/hangs").body == "true" end, "three who wait")
      -- Three of the six are handed over, three stay.
      assert.equal(3, client:get("/fill"):json().len)
      assert.equal(504, hang:join())
      child.eventually(function() return server:stderr():find "is dropped" end)
      local list = {}
      child.eventually(function()
        for _, v in ipairs(client:get("/drain"):json().list) do list[#list + 1] = v end
        return #list == 6
      end, "six messages")
      assert.same({ 1, 2, 3, 4, 5, 6 }, list)
    end)
  end)

  it("wakes all who wait when it is closed, however many they are", function()
    local full, empty, gs = chan(1), chan(1), {}
    full:send "first"
    for i = 1, 100 do
      gs[i] = i % 2 == 0 and waiting(empty.recv, empty) or waiting(full.send, full, i)
    end
    full:close()
    empty:close()
    for i = 1, 100 do
      assert.same({ nil, "closed", n = 2 }, answer(gs[i]))
    end
    assert.equal("first", full:recv(0))
    assert.same({ nil, "closed" }, { full:recv(0) })
  end)

  it("is looked at once by a recv of 0 s, in virtual time too", function()
    local ch = chan(1)
    require("lunapark.testing").virtual(function() assert.same({ nil, "timeout" }, { ch:recv(0) }) end)
  end)
end)
