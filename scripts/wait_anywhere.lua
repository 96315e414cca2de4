-- build/lunapark run scripts/wait_anywhere.lua        a line for each place where Lua code waits here, and for what
-- LUNAPARK_DEBUG=gcwait=1 build/lunapark run scripts/wait_anywhere.lua     the same, all garbage collected at each wait

local lp = require "lunapark"
local net = require "lunapark.net"

-- Another G at the end of a connection, which answers each line in a while.
local listener = assert(net.listen "127.0.0.1:0")
lp.go(function()
  local conn = listener:accept()
  for line in function() return (conn:read_line()) end do
    lp.sleep(0.001)
    conn:write(line:upper() .. "\n")
  end
end)
local server = assert(net.dial(listener:addr()))

local waited_for

-- What the places below do in the midst of their work: each is a plain function that returns its argument.
local function sleep(v)
  lp.sleep(0.001)
  waited_for = "a sleep"
  return v
end

local function ask(v)
  server:write("ping\n")
  assert(server:read_line() == "PING")
  waited_for = "an answer from a socket"
  return v
end

local function meet(v)
  local me = lp.self()
  lp.go(function() lp.ready(me, v) end)
  waited_for = "another G's ready"
  return lp.park()
end

local function compute(v)
  local g = lp.go(function()
    lp.yield()
    return v
  end)
  waited_for = "another G's end"
  return (g:join())
end

local function show(place, value)
  print(("%-34s waited for %-24s and has %s"):format(place, waited_for, tostring(value)))
end

local numbers = { 3, 1, 2 }
table.sort(numbers, function(a, b) return ask(a) < b end)
show("a comparator of table.sort", table.concat(numbers, " "))

show("a callback of string.gsub", (("a b"):gsub("%w", function(c) return sleep(c):upper() end)))
local twice = setmetatable({}, { __index = function(_, k) return meet(k .. k) end })
show("__index of gsub's table", (("a b"):gsub("%w", twice)))

local written = {}
local t = setmetatable({}, {
  __index = function(_, k) return ask(k) end,
  __newindex = function(_, k, v) written[k] = sleep(v) end,
  __call = function(_, v) return compute(v) end,
  __tostring = function() return meet "a name" end,
  __eq = function() return sleep(true) end,
  __lt = function() return ask(true) end,
  __le = function() return compute(false) end,
  __concat = function(_, s) return sleep("t" .. s) end,
  __unm = function() return meet(-1) end,
  __add = function(_, n) return compute(n + 1) end,
})
local u = setmetatable({}, getmetatable(t))
show("__index", t.key)
t.field = "written"
show("__newindex", written.field)
show("__call", t "called")
show("__tostring", tostring(t))
show("__tostring in string.format", ("<%s>"):format(t))
show("__eq", t == u)
show("__lt", t < u)
show("__le", t <= u)
show("__concat", t .. "ail")
show("__unm", -t)
show("__add", t + 1)

local p = newproxy(true)
getmetatable(p).__len = function() return ask(7) end
show("__len", #p)

show("pcall", select(2, pcall(ask, "a result")))
show("pcall, an error after the wait", select(2, pcall(function() error(sleep "an error", 0) end)))
show("xpcall's message handler", select(2, xpcall(error, function(e) return meet(e .. ", handled") end, "an error")))

local chunk = loadstring "local wait = ... return wait 'loaded'"
show("a loaded chunk", chunk(compute))

package.preload["a module"] = function() return sleep "a module's value" end
show("a module while it is required", require "a module")

local sum = 0
for _, v in function(_, i) if i < 3 then return i + 1, ask(i) end end, nil, 0 do
  sum = sum + v
end
show("an iterator of for", sum)

local squares = {}
for v in coroutine.wrap(function() for i = 1, 3 do coroutine.yield(ask(i * i)) end end) do
  squares[#squares + 1] = v
end
show("a generator of one's own", table.concat(squares, " "))

local function nested(depth)
  if depth == 0 then return meet "the bottom" end
  return coroutine.wrap(function() coroutine.yield(nested(depth - 1)) end)()
end
show("coroutines, three deep", nested(3))

local words = {}
local function all_at_once()
  return coroutine.wrap(function()
    table.sort({ 2, 1 }, function(a, b)
      words[1] = ("x"):gsub("x", function() return sleep "sort, gsub" end)
      return a < b
    end)
    coroutine.yield(words[1] .. " and a coroutine")
  end)()
end
show("all of them in one", all_at_once())

server:close()
listener:close()
