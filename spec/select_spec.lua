local lp = require "lunapark"
local waits = require "spec.support.waits"
local helper = require "spec.helper"

local LONG, pack, timed, raised = waits.LONG, waits.pack, waits.timed, helper.raised

local function waiting(cases)
  local g = lp.go(function() return pack(lp.select(cases)) end)
  lp.yield()
  return g
end

describe("lunapark.select", function()
  it("does a case that is ready", function()
    local a, b = lp.chan(1), lp.chan(1)
    a:send "x"
    assert.same({ 1, "x", true, n = 3 }, pack(lp.select { { a, "recv" }, { lp.chan(), "recv" } }))
    assert.same({ 2, nil, true, n = 3 }, pack(lp.select { { a, "recv" }, { b, "send", "y" } }))
    assert.equal("y", b:recv(0))
    local g = lp.go(b.recv, b)
    lp.yield()
    assert.same({ 1, nil, true, n = 3 }, pack(lp.select { { b, "send", "z" } }))
    assert.equal("z", g:join())
  end)

  it("waits for the first that gets ready", function()
    local a, b, c = lp.chan(), lp.chan(1), lp.chan()
    b:send "full"
    local cases = { { a, "recv" }, { b, "send", "mine" }, { c, "recv" } }
    local g = waiting(cases)
    assert.is_true(a:send("to a", 0))
    assert.same({ 1, "to a", true, n = 3 }, g:join())
    g = waiting(cases)
    assert.equal("full", b:recv())
    assert.same({ 2, nil, true, n = 3 }, g:join())
    assert.equal("mine", b:recv(0))
    b:send "full"
    g = waiting(cases)
    c:send(nil)
    assert.same({ 3, nil, true, n = 3 }, g:join())
    -- It is in no queue any more.
    assert.same({ nil, "timeout" }, { a:send(1, 0) })
    assert.same({ nil, "timeout" }, { c:send(1, 0) })
    assert.equal("full", b:recv())
    assert.same({ nil, "timeout" }, { b:recv(0) })
  end)

  it("does one case alone, though several get ready before it runs", function()
    local a, b = lp.chan(), lp.chan()
    local g = waiting { { a, "recv" }, { b, "recv" }, { a, "send", "never" } }
    assert.is_true(b:send("first", 0))
    assert.same({ nil, "timeout" }, { a:send("second", 0) })
    assert.same({ nil, "timeout" }, { a:recv(0) })
    assert.same({ 2, "first", true, n = 3 }, g:join())
  end)

  it("meets other selects, also in both directions on one channel, but never itself", function()
    local ch = lp.chan()
    local cases = { { ch, "send", "v" }, { ch, "recv" } }
    assert.same({ nil, "timeout", n = 2 }, pack(lp.select { cases[1], cases[2], timeout = 0.002 }))
    local one, two = waiting(cases), waiting(cases)
    local r1, r2 = one:join(LONG), two:join(LONG)
    if r1[1] == 2 then r1, r2 = r2, r1 end
    assert.same({ 1, nil, true, n = 3 }, r1)
    assert.same({ 2, "v", true, n = 3 }, r2)
  end)

  it("finds closed channels ready", function()
    local a, b, full = lp.chan(), lp.chan(2), lp.chan()
    a:close()
    assert.same({ 1, nil, false, n = 3 }, pack(lp.select { { a, "recv" } }))
    assert.same({ 1, nil, false, n = 3 }, pack(lp.select { { a, "send", 1 } }))
    b:send "left"
    b:close()
    assert.same({ 1, "left", true, n = 3 }, pack(lp.select { { b, "recv" } }))
    assert.same({ 1, nil, false, n = 3 }, pack(lp.select { { b, "recv" } }))
    local receiver = waiting { { full, "recv" } }
    full:close()
    assert.same({ 1, nil, false, n = 3 }, receiver:join())
    full = lp.chan()
    local sender = waiting { { lp.chan(), "recv" }, { full, "send", 1 } }
    full:close()
    assert.same({ 2, nil, false, n = 3 }, sender:join())
  end)

  it("chooses among those that are ready with the same chance", function()
    local chans, cases, hits = {}, {}, {}
    for i = 1, 4 do
      chans[i] = lp.chan(1)
      cases[i] = { chans[i], "recv" }
      hits[i] = 0
    end
    -- 1, 2 and 4 are ready: a search that begins at a random place would take 4 twice as often.
    for _, i in ipairs { 1, 2, 4 } do
      chans[i]:send(i)
    end
    for _ = 1, 6000 do
      local i, v = lp.select(cases)
      assert(i == v)
      hits[i] = hits[i] + 1
      chans[i]:send(i)
    end
    assert.equal(0, hits[3])
    for _, i in ipairs { 1, 2, 4 } do
      assert.is_true(hits[i] > 1750 and hits[i] < 2250, table.concat(hits, " "))
    end
  end)

  it("can repeat its choices", function()
    local chan = require "lunapark.sync.chan"
    local a, b = lp.chan(1), lp.chan(1)
    a:close()
    b:close()
    local function choices()
      local list = {}
      for i = 1, 40 do
        list[i] = lp.select { { a, "recv" }, { b, "recv" } }
      end
      return table.concat(list)
    end
    local before = chan.seed(5)
    local first = choices()
    chan.seed(5)
    assert.equal(first, choices())
    assert.is_true(first:find "1" and first:find "2" and true)
    chan.seed(before)
    local third = choices()
    chan.seed(before)
    assert.equal(third, choices())
  end)

  it("never finds a nil channel ready", function()
    local a = lp.chan(1)
    a:send "x"
    assert.same({ 2, "x", true, n = 3 }, pack(lp.select { { nil, "recv" }, { a, "recv" }, { false, "send", 1 } }))
    assert.same({ nil, "timeout", n = 2 }, pack(lp.select { { nil, "recv" }, timeout = 0.002 }))
    local g = waiting { { nil, "send", 1 }, { a, "recv" } }
    a:send "y"
    assert.same({ 2, "y", true, n = 3 }, g:join())
  end)

  it("times out, and polls with a timeout of 0", function()
    local a = lp.chan()
    local seconds, i, err = timed(lp.select, { { a, "recv" }, { a, "send", 1 }, timeout = 0.01 })
    assert.same({ nil, "timeout" }, { i, err })
    assert.is_true(seconds >= 0.01 and seconds < LONG)
    local others_ran = false
    local g = lp.go(function() others_ran = true end)
    assert.same({ nil, "timeout", n = 2 }, pack(lp.select { { a, "recv" }, timeout = 0 }))
    assert.same({ nil, "timeout", n = 2 }, pack(lp.select { timeout = -1 }))
    assert.is_false(others_ran)
    g:join()
    assert.same({ nil, "timeout", n = 2 }, pack(lp.deadline(0.005, lp.select, { { a, "recv" } })))
    assert.same({ nil, "timeout", n = 2 }, pack(lp.deadline(0.005, lp.select, {})))
    assert.same({ nil, "timeout" }, { a:send(1, 0) })
  end)

  it("is cancelled", function()
    local a = lp.chan()
    for _, cases in ipairs { { { a, "recv" }, { a, "send", 1 } }, {}, { { a, "recv" }, timeout = LONG } } do
      local g = waiting(cases)
      g:cancel()
      assert.same({ nil, "canceled", n = 2 }, (g:join()))
    end
    assert.same({ nil, "timeout" }, { a:send(1, 0) })
    assert.same({ nil, "timeout" }, { a:recv(0) })
    local g = waiting { { a, "recv" } }
    a:send "in time"
    g:cancel()
    assert.same({ 1, "in time", true, n = 3 }, g:join())
  end)

  it("waits in a comparator", function()
    local ch, never = lp.chan(), lp.chan()
    local g = lp.go(function()
      while ch:send(1) do -- luacheck: ignore 542
      end
    end)
    local t = { 3, 1, 2 }
    table.sort(t, function(x, y)
      local i, v = lp.select { { never, "recv" }, { ch, "recv" } }
      assert(i == 2 and v == 1)
      return x < y
    end)
    assert.same({ 1, 2, 3 }, t)
    ch:close()
    g:join()
  end)

  it("does not mind that its cases are changed while it waits", function()
    local a, b = lp.chan(), lp.chan()
    local cases = { { a, "recv" }, { b, "recv" } }
    local g = waiting(cases)
    cases[1], cases[2][1], cases[2][2] = nil, a, "send"
    b:send "v"
    assert.same({ 2, "v", true, n = 3 }, g:join())
    assert.same({ nil, "timeout" }, { a:send(1, 0) })
  end)

  it("refuses misuse, naming the argument", function()
    local ch = lp.chan(1)
    assert.matches("select_spec.lua:%d+: select: cases must be a table, got nil", raised(function() lp.select() end))
    assert.matches("select_spec.lua:%d+: select: case 2 must be a table {ch, op%[, v%]}, got string",
      raised(function() local i = lp.select { { ch, "recv" }, "recv" } return i end))
    assert.matches('select_spec.lua:%d+: select: op of case 1 must be "recv" or "send", got read',
      raised(function() local i = lp.select { { ch, "read" } } return i end))
    assert.matches("select: ch of case 1 must be a channel, got number", raised(lp.select, { { 5, "recv" } }))
    assert.matches("select: ch of case 1 must be a channel, got table", raised(lp.select, { { {}, "send" } }))
    assert.matches("select: timeout must be a number of seconds, got x", raised(lp.select, { timeout = "x" }))
  end)
end)
