--- `lunapark test --rounds N`: the whole run again and again, each time with another seed.
--
-- Each round is a process of its own, this binary with these arguments. So rounds share nothing, and a round that
-- crashes is counted. The seeds are `--seed` and the numbers that follow, or begin at random. The first round that
-- fails is the last. The output of the last round is printed as it is, so that an output handler's report is one run's.
-- Words about the rounds go to stderr.

local ffi = require "ffi"
require "lunapark.cdef"
local base = require "lunapark.core.base"
local pieces = require("lunapark.core.text").pieces

local C = ffi.C
local view = base.view

local SEEDS = 2 ^ 31
local MAX_OUTPUT = 2 ^ 28

local rounds = {}

--- The seed of this process; nil without --seed.
---@return integer|nil
function rounds.seed()
  if view.seed ~= 0 then return view.seed - 1 end
end

--- The number of rounds; nil without --rounds.
---@return integer|nil
function rounds.count()
  local n = C.host_rounds()
  if n > 1 then return n end
end

--- Prepares a run with a seed, in the G in which busted will run: the draws of the seed must not depend on the clock,
--- which wakes that G. busted gets the seed, too, and shuffles specs by it if it is told to.
---@param args string[]  busted's
---@return string|nil hint  the words of a run that fails
function rounds.begin(args)
  local seed = rounds.seed()
  if not seed then return end
  C.host_steady()
  local is_part = args[1] and args[1]:find "^%-%-part=" -- part.lua wants that first
  table.insert(args, is_part and 2 or 1, ("--seed=%d"):format(seed))
  return ("lunapark: seed %d: --seed %d repeats this order\n"):format(seed, seed)
end

-- The arguments of this process behind "test", without our two options.
local function own_args()
  local f = assert(io.open "/proc/self/cmdline")
  local text = f:read "*a"
  f:close()
  local args, skip = {}, 2
  for word in pieces(text, "\0") do
    if skip > 0 then
      skip = skip - 1
    elseif word == "--seed" or word == "--rounds" then
      skip = 1
    elseif not word:find "^%-%-seed=" and not word:find "^%-%-rounds=" then
      args[#args + 1] = word
    end
  end
  return args
end

local function random_seed()
  local f = assert(io.open("/dev/urandom", "rb"))
  local a, b, c = f:read(3):byte(1, 3)
  f:close()
  return (a * 256 + b) * 256 + c
end

local function shown(args)
  local words = {}
  for i, word in ipairs(args) do
    words[i] = word:find "^[%w%-_=./:,+@%%]+$" and word or "'" .. word:gsub("'", [['\'']]) .. "'"
  end
  return #words > 0 and " " .. table.concat(words, " ") or ""
end

local function run(seed, args)
  local exec = require "lunapark.exec" -- only here: modules that specs use are not to be loaded before them
  -- --rounds: LUNAPARK_ROUNDS must not count in it.
  return exec.run({ "/proc/self/exe", "test", "--seed", seed, "--rounds", "1", unpack(args) }, {
    stdin = "inherit", max_output = MAX_OUTPUT,
  })
end

--- Runs up to n rounds. May wait.
---@param n integer
---@return integer code  the exit code: 0, or that of the round that has failed
function rounds.run(n)
  local args, first = own_args(), rounds.seed() or random_seed()
  for i = 1, n do
    local seed = (first + i - 1) % SEEDS
    local r, err, partial = run(("%d"):format(seed), args)
    local out = r or partial or {}
    local failed = not r or r.code ~= 0
    if failed or i == n then
      io.stdout:write(out.stdout or "")
      io.stdout:flush()
      io.stderr:write(out.stderr or "")
    end
    if failed then
      local why = err or r.signal and "ended by SIG" .. r.signal or "exit code " .. r.code
      io.stderr:write(("lunapark: round %d of %d failed (%s) with seed %d; it is repeated by\n" ..
        "lunapark test --seed %d%s\n"):format(i, n, why, seed, seed, shown(args)))
      return r and r.code or 1
    end
  end
  io.stderr:write(("lunapark: %d rounds, none failed (seeds %d to %d)\n"):format(n, first, (first + n - 1) % SEEDS))
  return 0
end

return rounds
