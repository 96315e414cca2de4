-- What channels that VMs share cost within one of them, in CPU time: build/lunapark run host/bench/shared_chan.lua
-- Medians of 11 batches. `shared` (bench/shared.c) takes them from one VM to another.
local lp = require "lunapark"
local shared = require "lunapark.shared"

local function measure(name, ops, batch)
  batch(10000)
  local ns = {}
  for i = 1, 11 do
    local begin = os.clock()
    batch(ops)
    ns[i] = (os.clock() - begin) / ops * 1e9
  end
  table.sort(ns)
  print(("%-34s %7.1f ns  (least %.1f)"):format(name, ns[6], ns[1]))
end

measure("ping-pong, unbuffered", 200000, function(n)
  local ping, pong = shared.chan "ping", shared.chan "pong"
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

local buffered = shared.chan("buffered", 64)

local function send_and_recv(v)
  return function(n)
    for _ = 1, n do
      buffered:send(v)
      buffered:recv()
    end
  end
end

measure("buffered, send and recv, number", 1000000, send_and_recv(1))
measure("the same, string of 10 bytes", 1000000, send_and_recv "0123456789")
measure("the same, string of 1,000 bytes", 300000, send_and_recv(("x"):rep(1000)))
measure("the same, table {id = 1}", 300000, send_and_recv { id = 1 })

measure("producer, consumer, 64", 1000000, function(n)
  local g = lp.go(function()
    for i = 1, n do
      buffered:send(i)
    end
  end)
  for _ = 1, n do
    buffered:recv()
  end
  g:join()
end)

measure("select of 2 and 2 of the VM's own", 300000, function(n)
  local a, b, c, d = lp.chan(1), lp.chan(1), shared.chan("c", 1), shared.chan("d", 1)
  local cases = { { a, "recv" }, { b, "recv" }, { c, "recv" }, { d, "recv" } }
  for i = 1, n do
    c:send(i)
    lp.select(cases)
  end
end)

measure("the same, waiting", 200000, function(n)
  local a, b, c, d = lp.chan(), lp.chan(), shared.chan "c0", shared.chan "d0"
  local g = lp.go(function()
    local cases = { { a, "recv" }, { b, "recv" }, { c, "recv" }, { d, "recv" } }
    for _ = 1, n do
      lp.select(cases)
    end
  end)
  for i = 1, n do
    c:send(i)
  end
  g:join()
end)
