-- What channels cost, in CPU time: build/lunapark run host/bench/chan.lua
-- Medians of 11 batches. Beside them the wait that they stand on; and Go's, if GO_BENCH names
-- build/runtime/bench/go/bench.
local core = require "lunapark.core"
local ffi = require "ffi"
local lp = require "lunapark"

local C = ffi.C

local function measure(name, ops, batch)
  batch(10000)
  local ns = {}
  for i = 1, 11 do
    local begin = os.clock()
    batch(ops)
    ns[i] = (os.clock() - begin) / ops * 1e9
  end
  table.sort(ns)
  print(("%-28s %7.1f ns  (least %.1f)"):format(name, ns[6], ns[1]))
end

measure("wait and wake, round trip", 200000, function(n)
  local a, b
  b = lp.go(function()
    for _ = 1, n do
      core.wait(core.reasons.park)
      C.host_wake(a.slot)
    end
  end)
  a = lp.go(function()
    for _ = 1, n do
      C.host_wake(b.slot)
      core.wait(core.reasons.park)
    end
  end)
  a:join()
end)

measure("park and ready, round trip", 200000, function(n)
  local a, b
  a = lp.go(function()
    for i = 1, n do
      lp.ready(b, i)
      lp.park()
    end
  end)
  b = lp.go(function()
    for _ = 1, n do
      lp.ready(a, lp.park())
    end
  end)
  a:join()
end)

measure("ping-pong, unbuffered", 200000, function(n)
  local ping, pong = lp.chan(), lp.chan()
  local a = lp.go(function()
    for i = 1, n do
      ping:send(i)
      pong:recv()
    end
  end)
  lp.go(function()
    for _ = 1, n do
      pong:send(ping:recv())
    end
  end)
  a:join()
end)

measure("buffered, send and recv", 1000000, function(n)
  local ch = lp.chan(64)
  for i = 1, n do
    ch:send(i)
    ch:recv()
  end
end)

measure("producer, consumer, 64", 1000000, function(n)
  local ch = lp.chan(64)
  local g = lp.go(function()
    for i = 1, n do
      ch:send(i)
    end
    ch:close()
  end)
  while ch:recv() do end -- luacheck: ignore 542
  g:join()
end)

local function four()
  return lp.chan(1), lp.chan(1), lp.chan(1), lp.chan(1)
end

measure("select of 4, one ready", 300000, function(n)
  local a, b, c, d = four()
  for i = 1, n do
    c:send(i)
    lp.select { { a, "recv" }, { b, "recv" }, { c, "recv" }, { d, "recv" } }
  end
end)

measure("the same, table made once", 300000, function(n)
  local a, b, c, d = four()
  local cases = { { a, "recv" }, { b, "recv" }, { c, "recv" }, { d, "recv" } }
  for i = 1, n do
    c:send(i)
    lp.select(cases)
  end
end)

measure("select of 4, all ready", 300000, function(n)
  local a, b, c, d = four()
  local chans = { a, b, c, d }
  for _, ch in ipairs(chans) do
    ch:send(1)
  end
  for _ = 1, n do
    local i = lp.select { { a, "recv" }, { b, "recv" }, { c, "recv" }, { d, "recv" } }
    chans[i]:send(1)
  end
end)

measure("select of 4, none ready", 200000, function(n)
  local a, b, c, d = four()
  local g = lp.go(function()
    for i = 1, n do
      lp.yield()
      c:send(i)
    end
  end)
  for _ = 1, n do
    lp.select { { a, "recv" }, { b, "recv" }, { c, "recv" }, { d, "recv" } }
  end
  g:join()
end)

measure("mutex, lock and unlock", 1000000, function(n)
  local mutex = lp.mutex()
  for _ = 1, n do
    mutex:lock()
    mutex:unlock()
  end
end)

local go = os.getenv "GO_BENCH"
if go then os.execute(go .. " pingpong") end
