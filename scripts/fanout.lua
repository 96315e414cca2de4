-- build/lunapark run scripts/fanout.lua               asks a server of its own 1,000 times, at most 64 times at once
-- build/lunapark run scripts/fanout.lua 5000 8        5,000 times, at most 8 at once: one failure ends all of it

local lp = require "lunapark"
local net = require "lunapark.net"

local total, at_once = tonumber(arg[1] or 1000), tonumber(arg[2] or 64)
if not total or not at_once or at_once < 1 then
  io.stderr:write "usage: fanout.lua [dials] [at once]\n"
  os.exit(64)
end

-- The server: takes its time, and counts how many it has at once.
local listener = assert(net.listen "127.0.0.1:0")
local here, most = 0, 0

local function answer(conn)
  here = here + 1
  most = math.max(most, here)
  local number = conn:read_line()
  lp.sleep(0.002)
  conn:write(tostring(number * 2) .. "\n")
  here = here - 1
  conn:close()
end

lp.go(function()
  for conn in function() return (listener:accept()) end do
    lp.go(answer, conn)
  end
end)

-- The clients: a G for each question, of which so many get through the semaphore.
local permits = lp.semaphore(at_once)

local function ask(i)
  local conn = assert(net.dial(listener:addr(), { timeout = 5 }))
  conn:set_deadline(5)
  conn:write(i .. "\n")
  local double = assert(conn:read_line())
  conn:close()
  assert(tonumber(double) == i * 2, "wrong answer: " .. double)
  return double
end

local start = lp.now()
lp.scope(function(s)
  for i = 1, total do
    s:go(function() assert(permits:with(ask, i)) end)
  end
end)
listener:close()
print(("fanout: %d answers, all right; %d connections at once at most; %.2f s"):format(total, most, lp.now() - start))
