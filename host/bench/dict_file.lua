-- What a change of a dict costs, CPU time of all threads, without a file and with one that is synced each second.
--
--     lunapark run host/bench/dict_file.lua [N]

local fs = require "lunapark.fs"
local lp = require "lunapark"
local shared = require "lunapark.shared"

local n = tonumber((...)) or 1000000

local function row(what, dict)
  local keys = {}
  for i = 1, 100 do keys[i] = "key " .. i end
  local cpu, began = os.clock(), lp.now()
  for i = 1, n do
    assert(dict:incr(keys[i % 100 + 1], 1, 0))
    if i % 1000 == 0 then lp.yield() end
  end
  assert(dict:sync())
  local s, wall = os.clock() - cpu, lp.now() - began
  local line = "dict  %-32s %5.0f ns of CPU, %9.0f increments a CPU second, %8.0f a second"
  print(line:format(what, s / n * 1e9, n / s, n / wall))
end

row("without a file", assert(shared.dict "bench"))
local path = os.tmpname()
os.remove(path)
row("with a file, synced each second", assert(shared.dict("bench of a file", { file = path })))
os.remove(path)
assert(fs.stat(path) == nil)
