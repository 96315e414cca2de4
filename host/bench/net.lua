-- read_line beside C's getline: the CPU time of reading the same lines from the same sender.
--
--   build/lunapark run host/bench/net.lua [MB=100] [bytes per line=80] [rounds=5]
--
-- CPU time of the process, since machines are shared; sender and reader run at once, each on a CPU if there are two.

local ffi = require "ffi"
local net = require "lunapark.net"

local mb, width, rounds = tonumber((...)) or 100, tonumber((select(2, ...))) or 80, tonumber((select(3, ...))) or 5
local tool = "build/host/bench/lines"

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

-- The shell tells the sender's number, so that it can be ended.
local sender = assert(io.popen(("%s send %d %d & echo $!; wait"):format(tool, mb, width)))
local pid, port = assert(sender:read "*l"), assert(sender:read "*l")

local function by_lua()
  local c = assert(net.dial("127.0.0.1:" .. port))
  local lines, begin, last = 0, cpu_seconds(), {}
  while true do
    local line = c:read_line()
    if not line then break end
    last[lines % 64 + 1] = line -- else LuaJIT would not make the string
    lines = lines + 1
  end
  local took = cpu_seconds() - begin
  c:close()
  return took, lines
end

local function by_c()
  local reader = assert(io.popen(tool .. " read " .. port))
  local lines, took = reader:read("*l"):match "^(%d+) (%S+)$"
  reader:close()
  return tonumber(took), tonumber(lines)
end

by_lua()
local lua, c, ratios = {}, {}, {}
for i = 1, rounds do
  local lua_lines, c_lines
  lua[i], lua_lines = by_lua()
  c[i], c_lines = by_c()
  assert(lua_lines == c_lines, "they saw other lines")
  ratios[i] = lua[i] / c[i]
end
os.execute("kill " .. pid)
print(("%d MB in lines of %d bytes, medians of %d rounds of CPU time:"):format(mb, width, rounds))
print(("  getline    %6.3f s  %5.0f MB/s"):format(median(c), mb / median(c)))
print(("  read_line  %6.3f s  %5.0f MB/s"):format(median(lua), mb / median(lua)))
local ratio = median(ratios)
print(("  ratio      %6.2f    bound 2.00: %s"):format(ratio, ratio <= 2 and "ok" or "MISS"))
