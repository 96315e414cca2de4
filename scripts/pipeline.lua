-- build/lunapark run scripts/pipeline.lua           three stages on channels: the longest Collatz sequence to 100,000
-- build/lunapark run scripts/pipeline.lua 1e9 0.2   to 1e9, as far as they come in 0.2 s: select hears of the end

local lp = require "lunapark"

local WORKERS = 4
local limit, seconds = tonumber(arg[1] or 1e5), tonumber(arg[2] or 60)
if not limit or limit < 1 or not seconds then
  io.stderr:write "usage: pipeline.lua [limit] [seconds]\n"
  os.exit(64)
end

local numbers, lengths, stop = lp.chan(64), lp.chan(64), lp.chan()

-- Stage 1 says numbers until there are no more, or `stop` is closed: a closed channel is ready to receive from.
local function produce()
  for n = 1, limit do
    if lp.select { { numbers, "send", n }, { stop, "recv" } } == 2 then break end
  end
  numbers:close()
end

-- Stage 2, several times: who has time takes the next number. Ends when the channel is closed and empty.
local function measure()
  for n in numbers:iter() do
    local steps, m = 0, n
    while m ~= 1 do
      m = m % 2 == 0 and m / 2 or 3 * m + 1
      steps = steps + 1
    end
    lengths:send { n = n, steps = steps }
  end
end

-- Stage 3 has the answer. It hears of the workers' end by the channel, too.
local function longest()
  local best, count = { n = 1, steps = 0 }, 0
  for length in lengths:iter() do
    count = count + 1
    -- They do not come in order.
    if length.steps > best.steps or length.steps == best.steps and length.n < best.n then best = length end
  end
  return best, count
end

local timer = lp.after(seconds, function() stop:close() end)
local workers = lp.waitgroup()
lp.go(produce)
for _ = 1, WORKERS do
  workers:go(measure)
end
lp.go(function()
  workers:wait()
  lengths:close()
end)
local best, count = longest()
timer:stop()
print(("pipeline: %d numbers by %d workers: %d takes %d steps"):format(count, WORKERS, best.n, best.steps))
