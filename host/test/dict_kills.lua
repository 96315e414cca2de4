-- Kills a program that counts in a dict with a file, again and again, and compares what the next one finds with what
-- the last one has said: `make dict-kills N=1000`.
--
--     lunapark run host/test/dict_kills.lua [N] [SEED]
--
-- With sync "always" each of four Gs tells of each count when `incr` has returned: the next program finds this count, or
-- the one after it, whose answer the kill took. With "second" and "no" counts are told now and then, and may be lost; but
-- no program finds more than was counted, or less than the last one has found. Files grow enough to be compacted. Exit 1
-- at the first difference.

local lp = require "lunapark"
local shared = require "lunapark.shared"

local GS, TOLD, BURST = 4, 100, 50

local function count(path, mode)
  local dict = assert(shared.dict("n", { file = path, sync = mode }))
  io.stdout:setvbuf "no"
  for g = 1, GS do io.write(("found %d %d\n"):format(g, dict:get("k" .. g) or 0)) end
  io.write "begun\n"
  local always = mode == "always"
  for g = 1, GS do
    lp.go(function()
      while true do
        for _ = 1, always and 1 or BURST do
          local n = assert(dict:incr("k" .. g, 1, 0))
          if always or n % TOLD == 0 then io.write(("told %d %d\n"):format(g, n)) end
        end
        lp.yield()
      end
    end)
  end
  lp.sleep(60)
end

if (...) == "count" then return count(select(2, ...)) end

local exec = require "lunapark.exec"
local fs = require "lunapark.fs"

local rounds, seed = tonumber((...)) or 20, tonumber((select(2, ...))) or os.time()
local binary = os.getenv "LUNAPARK" or "/proc/self/exe"
local script = debug.getinfo(1, "S").source:sub(2)
math.randomseed(seed)

local function fail(what, ...)
  io.stderr:write(("dict_kills, seed %d: "):format(seed), what:format(...), "\n")
  os.exit(1)
end

-- One program that is killed: what it has found, and told last, by G.
local function one(path, mode)
  local p = assert(exec.spawn({ binary, "run", script, "count", path, mode }, { stderr = "stdout" }))
  local found, told, begun, killer = {}, {}, false, nil
  while true do
    local line = p.stdout:read_line()
    if not line then break end
    local word, g, n = line:match "^(%l+) (%d+) (%d+)$"
    if word == "found" then found[tonumber(g)] = tonumber(n)
    elseif word == "told" then told[tonumber(g)] = tonumber(n)
    elseif line == "begun" then
      begun = true
      local s = math.random() ^ 2 * 0.12
      killer = lp.go(function() lp.sleep(s) p:kill "KILL" end)
    elseif not line:find "no whole records" and line ~= "" then fail("%s", line) end
  end
  if killer then killer:join() end
  local how = p:wait()
  if not begun then fail("the program ended by itself: %s", how and (how.signal or how.code) or "?") end
  return found, told
end

local folder = os.tmpname()
os.remove(folder)
assert(fs.mkdir(folder))
local last, largest, compacted = { always = {}, second = {}, no = {} }, 0, 0
local modes = { "always", "second", "no" }
for round = 1, rounds do
  local mode = modes[round % 3 + 1]
  local path = folder .. "/" .. mode
  local before = (fs.stat(path) or { size = 0 }).size
  local found, told = one(path, mode)
  local size = fs.stat(path).size
  if size < before then compacted = compacted + 1 end
  largest = math.max(largest, size)
  local l = last[mode]
  for g = 1, GS do
    local least, most = l[g] and l[g].least or 0, l[g] and l[g].most or 0
    if found[g] < least or found[g] > most then
      fail("round %d, %s, G %d: found %d, which is not in %d .. %d", round, mode, g, found[g], least, most)
    end
    local n = told[g] or found[g]
    if mode == "always" then l[g] = { least = n, most = n + 1 } else l[g] = { least = found[g], most = n + TOLD } end
  end
end
print(("dict_kills: %d kills, nothing lost, nothing twice; files of %.1f MB at most, compacted %d times"):format(rounds,
  largest / 1e6, compacted))
assert(fs.remove(folder, { recursive = true }))
