-- What a wait costs: two Gs of one VM that wake each other. Prints `name ns`, per round trip (each of them
-- waits once), the median of some rounds. `through_...` has one of the two wait beneath a C function.
local lp = require "lunapark"

local N, ROUNDS = 200000, 7

local plain = lp.park

local function through_gsub()
  return (("x"):gsub("x", function() lp.park() end))
end

-- One comparison, so one wait.
local pair = { 2, 1 }
local function through_sort()
  table.sort(pair, function(a, b)
    lp.park()
    return a < b
  end)
end

local function through_coroutine()
  coroutine.wrap(lp.park)()
end

local function nothing() end

local function round(wait)
  local a, b
  local start
  a = lp.go(function()
    for _ = 1, N do
      wait()
      lp.ready(b)
    end
  end)
  b = lp.go(function()
    start = os.clock()
    for _ = 1, N do
      lp.ready(a)
      lp.park()
    end
  end)
  b:join()
  return (os.clock() - start) / N * 1e9
end

-- What the C function costs without any wait.
local function cost(fn)
  local start = os.clock()
  for _ = 1, N do fn() end
  return (os.clock() - start) / N * 1e9
end

local function median(fn, ...)
  local v = {}
  fn(...)
  for i = 1, ROUNDS do v[i] = fn(...) end
  table.sort(v)
  return v[(ROUNDS + 1) / 2]
end

local function gsub_alone()
  return (("x"):gsub("x", function() nothing() end))
end

local function sort_alone()
  table.sort(pair, function(a, b) return a < b end)
end

local function coroutine_alone()
  coroutine.wrap(nothing)()
end

print(("plain %.1f"):format(median(round, plain)))
print(("through_gsub %.1f"):format(median(round, through_gsub) - median(cost, gsub_alone)))
print(("through_sort %.1f"):format(median(round, through_sort) - median(cost, sort_alone)))
print(("through_coroutine %.1f"):format(median(round, through_coroutine) - median(cost, coroutine_alone)))
