--- How late others wake while one G makes calls that block, beside one that sleeps.
--
--     LUNAPARK_PROCS=1 build/lunapark run host/bench/blocking.lua [SECONDS]
--
-- The other sleeps for 1 ms at a time. A machine that others use makes the first line late as well: compare with it.
-- The line of exec.run is to be compared with bench/spawn.c, which has no runtime.

local ffi = require "ffi"
local lp = require "lunapark"
local exec = require "lunapark.exec"
local fs = require "lunapark.fs"

ffi.cdef "int usleep(unsigned us); int abs(int n);"

local NAP = 0.001
local seconds = tonumber(arg[1]) or 4
local path = os.tmpname()
local data = ("x"):rep(100000)

local calls = {
  { "lp.sleep(25 ms)", function() lp.sleep(0.025) end },
  { "lp.offload(usleep 25 ms)", function() lp.offload(ffi.C.usleep, 25000) end },
  { "fs.write, 100 kB, with fsync", function() assert(fs.write(path, data)) end },
  { "exec.run { \"true\" }", function() assert(exec.run { "true" }) end },
}

local function beside(call)
  local stop, n, late = false, 0, {}
  local g = lp.go(function()
    while not stop do
      call()
      n = n + 1
    end
  end)
  local until_s = lp.now() + seconds
  repeat
    local begin = lp.now()
    lp.sleep(NAP)
    late[#late + 1] = (lp.now() - begin - NAP) * 1e3
  until lp.now() > until_s
  stop = true
  g:join()
  table.sort(late)
  return late[math.ceil(#late / 2)], late[math.ceil(#late * 0.99)], n / seconds
end

print(("how late others wake beside a G that blocks, procs %d:"):format(lp.stats().procs))
for _, row in ipairs(calls) do
  print(("  %-30s p50 %6.3f ms, p99 %6.3f ms  (%4.0f calls a second)"):format(row[1], beside(row[2])))
end

local CALLS = 20000
local begin = lp.now()
for i = 1, CALLS do
  lp.offload(ffi.C.abs, i)
end
print(("  a trivial lp.offload takes %.1f us"):format((lp.now() - begin) / CALLS * 1e6))
os.remove(path)
