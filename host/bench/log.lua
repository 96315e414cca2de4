-- What a line of the log costs, into a file: CPU time of who logs, and of the thread that writes.
--
--   build/lunapark run host/bench/log.lua [lines=200000] [rounds=5]
--
-- Lines are logged in bursts that fit in the queue, and flushed in between, which is not counted as the caller's.

local ffi = require "ffi"
local log = require "lunapark.log"
local lp = require "lunapark"

local lines, rounds = tonumber((...)) or 200000, tonumber((select(2, ...))) or 5
local BURST = 2000

ffi.cdef [[
typedef struct bench_time { long sec, nsec; } bench_time;
int clock_gettime(int clock, bench_time *t);
int creat(const char *path, unsigned mode);
int dup2(int from, int to);
]]
local PROCESS, THREAD = 2, 3
local now = ffi.new "bench_time"
local function cpu_ns(clock)
  ffi.C.clock_gettime(clock, now)
  return tonumber(now.sec) * 1e9 + tonumber(now.nsec)
end

local path = os.tmpname()
assert(ffi.C.dup2(ffi.C.creat(path, 384), 2) == 2)

local function median(values)
  table.sort(values)
  return values[math.ceil(#values / 2)]
end

local function one(i) log.info("user logged in", { user = "ann", request = i }) end
local function none(i) log.debug("user logged in", { user = "ann", request = i }) end
local function plain() log.info "user logged in" end

-- ns per line: of the caller, and of the process.
local function measure(fn)
  local caller, process = 0, cpu_ns(PROCESS)
  for _ = 1, lines / BURST do
    local begin = cpu_ns(THREAD)
    for i = 1, BURST do fn(i) end
    caller = caller + cpu_ns(THREAD) - begin
    assert(log.flush(10))
  end
  return caller / lines, (cpu_ns(PROCESS) - process) / lines
end

local function report(what, fn)
  local callers, processes = {}, {}
  for i = 1, rounds do callers[i], processes[i] = measure(fn) end
  print(("  %-28s %6.0f ns, of the whole process %6.0f ns"):format(what, median(callers), median(processes)))
end

print(("a line of the log to a file, medians of %d rounds of CPU time:"):format(rounds))
report("log.info, two pairs", one)
report("log.info, no pairs", plain)
report("log.debug, not enabled", none)
os.remove(path)
assert(lp.stats().log.lost == 0, "lines were lost")
