--- What the specs of Gs and their waits share.

local assert = require "luassert"
local lp = require "lunapark"
local net = require "lunapark.net"

local waits = {}

--- Nothing in a spec takes so long; a wait that ends early by this much less than asked for is no coincidence.
waits.LONG = 30
local LONG = waits.LONG

--- Runs fn and returns the seconds it took and its results.
function waits.timed(fn, ...)
  local start = lp.now()
  local results = { n = select("#", ...), fn(...) }
  return lp.now() - start, unpack(results, 1, 3)
end

--- Runs fn, which ends by a cancellation or a deadline that must not take LONG: its results.
function waits.soon(fn, ...)
  local t = waits.pack(waits.timed(fn, ...))
  assert.is_true(t[1] < LONG / 2, "it took " .. t[1] .. " s")
  return unpack(t, 2, 4)
end

function waits.pack(...)
  return { n = select("#", ...), ... }
end

--- A G that is in fn's wait now; and what fn returned, packed.
function waits.waiting(fn, ...)
  local g = lp.go(function(...) return waits.pack(fn(...)) end, ...)
  lp.yield()
  return g
end

function waits.answer(g)
  return (g:join(LONG))
end

--- Asserts that a wait of that kind ends by its timeout, by the G's deadline, by cancellation, and may be polled.
---@param wait fun(s?: number)
function waits.end_well(wait)
  local seconds, ok, err = waits.timed(wait, 0.01)
  assert.same({ nil, "timeout" }, { ok, err })
  assert.is_true(seconds >= 0.01 and seconds < LONG)
  assert.same({ nil, "timeout", n = 2 }, waits.pack(wait(0)))
  assert.same({ nil, "timeout", n = 2 }, waits.pack(lp.deadline(0.005, wait)))
  for _, s in ipairs { false, LONG } do
    local g = waits.waiting(wait, s or nil)
    g:cancel()
    assert.same({ nil, "canceled", n = 2 }, waits.answer(g))
  end
end

--- Calls fn, which waits, where a plain yield would not do.
function waits.in_comparator(fn)
  local t = { 3, 1, 2 }
  table.sort(t, function(a, b)
    fn()
    return a < b
  end)
  assert.same({ 1, 2, 3 }, t)
end

--- Two ends of a connection, and the listener.
function waits.pair()
  local ln = assert(net.listen "127.0.0.1:0")
  local a = assert(net.dial(ln:addr()))
  return a, assert(ln:accept()), ln
end

--- A function for each kind of wait, by name, none of which ends by itself; and one that tidies up after them.
function waits.of_each_kind()
  local a, b, ln = waits.pair()
  local never = lp.go(lp.park)
  return {
    park = lp.park,
    sleep = function() return lp.sleep(LONG) end,
    join = function() return never:join() end,
    ["join with a time"] = function() return never:join(LONG) end,
    read = function() return a:read() end,
    read_line = function() return a:read_line() end,
    accept = function() return ln:accept() end,
    write = function() return a:write(("x"):rep(64 * 1024 * 1024)) end,
  }, function()
    lp.ready(never)
    never:join()
    a:close()
    b:close()
    ln:close()
  end
end

return waits
