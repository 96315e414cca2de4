-- read_line beside C's getline: the CPU time of reading the same lines from the same sender. No two lines are equal.
--
--   build/lunapark run host/bench/net.lua [MB=100] [bytes per line=80] [rounds=5]
--
-- Two loops in Lua: one counts the lines, and LuaJIT finds out that it need not make their strings; the other keeps
-- each for a while, so they are made, and collected later, which is most of its time when lines are short.
-- CPU time of the process, since machines are shared; sender and reader run at once, each on a CPU if there are two.

local ffi = require "ffi"
local net = require "lunapark.net"

local mb, width, rounds = tonumber((...)) or 100, tonumber((select(2, ...))) or 80, tonumber((select(3, ...))) or 5
local tool = (os.getenv "B" or "build") .. "/host/bench/lines"

ffi.cdef "typedef struct bench_time { long sec, nsec; } bench_time; int clock_gettime(int clock, bench_time *t);"
local now = ffi.new "bench_time"
local function cpu_seconds()
  ffi.C.clock_gettime(2, now) -- CLOCK_PROCESS_CPUTIME_ID
  return tonumber(now.sec) + tonumber(now.nsec) * 1e-9
end

local function median(values)
  table.sort(values)
  return values[math.ceil(#values / 2)]
end

-- The shell tells its number, which becomes the sender's, so that it can be ended.
local sender = assert(io.popen(("echo $$; exec %s send %d %d"):format(tool, mb, width)))
local pid, port = assert(sender:read "*l"), assert(sender:read "*l")

local function reading(loop)
  local c = assert(net.dial("127.0.0.1:" .. port))
  local begin = cpu_seconds()
  local lines = loop(c)
  local took = cpu_seconds() - begin
  c:close()
  return took, lines
end

local function count(c)
  local lines = 0
  while c:read_line() do
    lines = lines + 1
  end
  return lines
end

local function keep(c)
  local lines, kept = 0, {}
  while true do
    local line = c:read_line()
    if not line then return lines, kept end
    kept[lines % 64 + 1] = line
    lines = lines + 1
  end
end

local function by_c()
  local reader = assert(io.popen(tool .. " read " .. port))
  local lines, took = reader:read("*l"):match "^(%d+) (%S+)$"
  reader:close()
  return tonumber(took), tonumber(lines)
end

reading(keep)
local counted, kept, c = {}, {}, {}
local counted_ratios, kept_ratios = {}, {}
for i = 1, rounds do
  local c_lines, count_lines, keep_lines
  c[i], c_lines = by_c()
  counted[i], count_lines = reading(count)
  kept[i], keep_lines = reading(keep)
  assert(count_lines == c_lines and keep_lines == c_lines, "they saw other lines")
  counted_ratios[i], kept_ratios[i] = counted[i] / c[i], kept[i] / c[i]
end
os.execute("kill " .. pid)

local function row(what, times, ratios)
  local took, ratio = median(times), ratios and median(ratios)
  local verdict = ratio and ("%6.2f x getline, bound 2.00: %s"):format(ratio, ratio <= 2 and "ok" or "MISS") or ""
  print(("  %-20s %6.3f s  %5.0f MB/s  %s"):format(what, took, mb / took, verdict))
end

print(("%d MB in lines of %d bytes, medians of %d rounds of CPU time:"):format(mb, width, rounds))
row("getline", c)
row("read_line, counted", counted, counted_ratios)
row("read_line, kept", kept, kept_ratios)
