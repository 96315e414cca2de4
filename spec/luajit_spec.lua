--- What host/build/luajit.sh mends in LuaJIT. Each script broke the process that ran it, so each has one of its own.

local child = require "spec.support.child"
local holds = require "spec.support.luajit"(pending)

-- Calls deep(n, list), which raises for each of the list's bad values beneath compiled code, n frames up.
local DEEP = [[
local string_buffer = require "string.buffer"
local buffer = string_buffer.new()
local good, bad = { 1 }, { print }

local function deep(n, list)
  if n > 0 then
    local a, b = n, n + 1
    local failed, err = deep(n - 1, list)
    return failed + a - a + b - b, err
  end
  local failed, err = 0, nil
  for i = 1, #list do
    buffer:reset()
    local ok, why = pcall(buffer.encode, buffer, list[i])
    if not ok then
      failed, err = failed + 1, why
      for k = 1, 2 do (""):rep(k * 100) end
    end
  end
  return failed, err
end

local function list(every)
  local values = {}
  for i = 1, 200 do values[i] = every and i % every == 0 and bad or good end
  return values
end
deep(10, list()) -- it is compiled

local function check(n, failed, err)
  assert(failed == n, tostring(failed))
  assert(err:find "cannot serialize 'function'", err)
end
]]

describe("LuaJIT", function()
  after_each(child.clean)

  it("keeps frames whole when a C function raises beneath compiled code", function()
    holds(DEEP .. [[
for _ = 1, 5 do
  for n = 0, 60 do
    collectgarbage "count" -- a C function: the last that leaves the top of the stack where it is
    check(1, deep(n, list(150)))
  end
end
print "holds"
]])
  end)

  it("keeps a trace's frame when such an error makes the stack grow", function()
    holds(DEEP .. [[
for _ = 1, 3 do
  for n = 0, 300 do check(4, coroutine.wrap(deep)(n, list(50))) end
end
print "holds"
]])
  end)

  it("raises other errors beneath compiled code without harm: keys, lengths, decoders, memory", function()
    holds([[
local string_buffer = require "string.buffer"
local nan, huge = 0 / 0, 2 ^ 29
local raisers = {
  { "nan", function(bad) local t = {} t[bad and nan or 1] = 1 return 1 end },
  { "nil", function(bad) local t, k = {}, "k" if bad then k = nil end t[k] = 1 return 1 end },
  { "end of buffer", function(bad) return #tostring(string_buffer.decode(bad and "\16" or "\4\1\0\0\0")) and 1 end },
  { "depth", function(bad)
    local t = {}
    if bad then t[1] = t end
    return #string_buffer.encode(t) and 1
  end },
  { "too long", function(bad) return #(("xxxx"):rep(bad and huge or 1)) and 1 end },
}
local function deep(n, fn, every)
  if n > 0 then
    local a, b = n, n + 1
    local failed = deep(n - 1, fn, every)
    return failed + a - a + b - b
  end
  local failed = 0
  for i = 1, 200 do
    if not pcall(fn, i % every == 0) then failed = failed + 1 end
  end
  return failed
end
for _, raiser in ipairs(raisers) do
  local name, fn = raiser[1], raiser[2]
  deep(10, fn, 1000)
  for n = 0, 60 do
    collectgarbage "count"
    local failed = deep(n, fn, 50)
    assert(failed == 4, name .. " " .. tostring(failed))
    failed = coroutine.wrap(deep)(n * 3, fn, 150)
    assert(failed == 1, name .. " " .. tostring(failed))
  end
end
print "holds"
]])
  end)

  it("does not take a side trace that returns for a loop", function()
    holds([[
jit.opt.start("hotloop=1", "hotexit=1", "recunroll=1")
local split = math.modf
local function same(v) return v end
local function between()
  split(1) -- not compiled: the trace ends here and begins anew behind it
  return same {}
end
local depth = 0
local function recurse()
  if depth > 4 then return end
  depth = depth + 1
  same(1)
  same(1)
  recurse()
  split(1)
  same ""
  local a, b, c, d, e, f = depth * 1.5, depth * 2.5, depth * 3.5, depth * 4.5, depth * 5.5, depth * 6.5
  local x = { a, b, c, d, e, f }
  return same(between(x))
end
recurse()
print "holds"
]])
  end)

  it("compiles any list of a generic for", function()
    holds([[
for n = 1, 50 do
  assert(load(("local x\n"):rep(n) .. "for k in (nil):each() do end"))
  assert(load(("local x\n"):rep(n) .. "for k in nil do end"))
end
local keys = 0
for _ in pairs { 1, 2, x = 3 } do keys = keys + 1 end
for _ in next, { 1, 2, x = 3 } do keys = keys + 1 end
assert(keys == 6)
print "holds"
]])
  end)

  it("keeps apart the constants of several table constructors", function()
    holds([[
jit.opt.start("hotloop=1")
local at, got = {}, nil
for i = 1, 9 do
  local t = at
  got = t[1]
  at = i % 2 == 0 and { false } or { true }
end
assert(got == false, tostring(got))
at = {}
for i = 1, 9 do
  local t = at
  got = t[1]
  at = i % 2 == 0 and { 1 } or { "x" }
end
assert(got == 1, tostring(got))
at = {}
for i = 1, 5 do
  local t = at
  got = t[1]
  at = i % 2 ~= 0 and { false } or { true }
end
assert(got == true, tostring(got))
print "holds"
]])
  end)

  it("goes on in a loop over pairs() that leaves its trace in a finalizer", function()
    holds([[
local function last(t) local got for _, v in pairs(t) do got = v end return got end
local function keys(t) local n = 0 for k, v in pairs(t) do n = n + (v and #k or 0) end return n end
for _ = 1, 300 do
  last { 1, 2, 3 }
  keys { a = 1, b = 2, c = 3 }
end
local cases = {
  { last, { "x", "y", "z" }, "z" },
  { last, { 1, "y", nil, nil, k = true }, true },
  { last, { [5] = "q" }, "q" },
  { last, {}, nil },
  { keys, { a = "x", bb = {}, ccc = print }, 6 },
}
local right = 0
for _, case in ipairs(cases) do
  local finalized = newproxy(true)
  getmetatable(finalized).__gc = function()
    for _ = 1, 50 do
      if case[1](case[2]) == case[3] then right = right + 1 end
    end
  end
  finalized = nil
  collectgarbage()
  collectgarbage()
end
assert(right == 250, right)
print "holds"
]])
  end)

  it("records __concat that is a vararg function, or pcall", function()
    holds([[
jit.opt.start("hotloop=1")
local second = setmetatable({}, { __concat = function(...) local _, v = ... return v end })
local got
for _ = 1, 4 do got = "a" .. "b" .. second end
assert(got == second)
local called = setmetatable({}, { __call = function(v) return v end, __concat = pcall })
for _ = 1, 4 do got = called .. called .. "" end
assert(got == true)
print "holds"
]])
  end)

  it("gives up recording __concat when an operand is wrong, without harm", function()
    holds([[
jit.opt.start("hotloop=1")
local glue = setmetatable({}, { __concat = function() return "" end })
local function left(n)
  for _ = 1, n do
    local _ = {} .. (glue .. glue)
  end
end
local function right(n, bad)
  for _ = 1, n do
    local _ = glue .. bad .. "a" .. "b"
  end
end
for n = 1, 5 do
  for _, join in ipairs { left, right } do
    local ok, err = pcall(join, n, {})
    assert(not ok and err:find "attempt to concatenate .*table value", err)
  end
end
print "holds"
]])
  end)

  it("calls the right one of several C functions with variable arguments", function()
    holds([[
local ffi = require "ffi"
ffi.cdef "double sin(double, ...); double cos(double, ...);"
local fns = ffi.new "double (*[2])(double, ...)"
fns[0], fns[1] = ffi.C.cos, ffi.C.sin
local got = require "table.new"(8, 0)
jit.opt.start("hotloop=1")
local fn = fns[0]
for i = 1, 6 do
  got[i] = fn(0)
  fn = fns[i % 2]
  fn(0)
end
for i = 1, 6 do assert(got[i] == i % 2, i) end
print "holds"
]])
  end)

  it("takes a string for the number in select()", function()
    holds([[
jit.opt.start("hotloop=1")
local function first(...)
  local got
  for _ = 1, 4 do got = select("1", ...) end
  return got
end
assert(first(1, 2, 3, 4) == 1)
print "holds"
]])
  end)

  it("keeps the order of math.min's and math.max's arguments", function()
    holds([[
jit.opt.start("hotloop=1")
local min, max = math.min, math.max
for _, pair in ipairs { { 0, -0 }, { 1, 0 / 0 } } do
  local a, b, got = pair[1], pair[2], {}
  for i = 1, 4 do
    got[i] = table.concat({ min(a, b), min(b, a), max(a, b), max(b, a) }, " ")
  end
  for i = 2, 4 do assert(got[i] == got[1], got[i]) end
end
print "holds"
]])
  end)

  it("shifts masked integers of 64 bits", function()
    holds([[
jit.opt.start("hotloop=1")
local bit = require "bit"
for _, name in ipairs { "lshift", "rshift", "arshift", "rol", "ror" } do
  for _, from in ipairs { "i", "-i", "2 ^ 33 + i" } do
    local text = "local shift, r = ... for i = 1, 5 do r[i] = shift(bit.band(" .. from .. ", mask), 32) end"
    for _, mask in ipairs { "7LL", "0x700000007LL", "-8LL" } do
      local compiled, plain = {}, {}
      local code = (text:gsub("mask", mask))
      loadstring(code)(bit[name], compiled)
      local reference = loadstring(code)
      jit.off(reference)
      reference(bit[name], plain)
      for i = 1, 5 do assert(compiled[i] == plain[i], name .. " " .. from .. " " .. mask) end
    end
  end
end
print "holds"
]])
  end)

  it("gives up where a frame below has too many slots", function()
    holds([[
jit.opt.start("hotloop=1", "hotexit=1")
local function build(...) return assert(loadstring(table.concat { ... })) end
local xs = function(n) return ('"x", '):rep(n) end
local down = build("local n = 0 local function f() n = n + 1 if n > 5 then n = 0 return end return ",
  xs(40), "f() end return f")()
local wide = build("local f, nothing = ... return function() local ", ("v, "):rep(150), "v nothing(", xs(40),
  "f()) end")
wide = wide(down, function() end)
for _ = 1, 200 do
  wide()
  down()
end
local compiled = 0
local function count(what) if what == "stop" then compiled = compiled + 1 end end
jit.attach(count, "trace")
local sum = 0
for i = 1, 1000 do sum = sum + i end
jit.attach(count)
assert(sum == 500500)
assert(compiled > 0 or not jit.status(), "nothing is compiled any more")
print "holds"
]])
  end)

  it("formats with thousands of elements", function()
    holds([[
jit.opt.start("hotloop=1")
local function formatted(text)
  local got
  for _ = 1, 5 do got = text:format(1, "x") end
  return got
end
assert(formatted(("%%"):rep(25000)) == ("%"):rep(25000))
assert(formatted("%d %s %%") == "1 x %")
print "holds"
]])
  end)

  it("raises in who resumes or readies when there is no memory for the other's stack", function()
    holds([[
local lp = require "lunapark"
local function deep(n, wait)
  if n > 0 then return (deep(n - 1, wait)) end
  return (wait())
end
local cos, gs, args = {}, {}, {}
for i = 1, 50 do
  cos[i] = coroutine.create(deep)
  coroutine.resume(cos[i], i * 10, coroutine.yield)
  gs[i] = lp.go(deep, i * 10, lp.park)
end
lp.yield()
for i = 1, 2000 do args[i] = i end
local new = require "table.new"
local got, kept, n, size = new(100, 0), new(400000, 0), 0, 65536
local function try(resume, ready)
  for i = 1, 50 do
    local ok, err = pcall(resume, cos[i], unpack(args))
    got[i] = ok and "done" or err
    ok, err = pcall(ready, gs[i], unpack(args))
    got[50 + i] = ok and "done" or err
  end
end
try(tostring, tostring) -- makes the room that this stack needs
collectgarbage "stop"
local function fill() while n < 400000 do kept[n + 1] = ("x"):rep(size) .. n n = n + 1 end end
repeat -- what is refused has collected garbage, so there is room again
  local before = n
  size = 65536
  while size >= 32 do
    pcall(fill)
    size = size / 2
  end
until n == before
assert(n < 400000)
try(coroutine.resume, lp.ready)
kept = nil
collectgarbage "restart"
collectgarbage()
local refused = 0
for i = 1, 100 do
  if got[i] ~= "done" then refused = refused + 1 end
  assert(got[i] == "done" or got[i] == "not enough memory" or got[i] == "ready: no room for 2000 values",
    i .. ": " .. tostring(got[i]))
end
assert(refused > 90, refused)
print "holds"
os.exit(0)
]], "--vm-memory", "33554432")
  end)

  -- In both, what dies lies between things that live: no piece of the heap is large enough for the table.
  it("collects garbage where there is no memory for a smaller table of strings", function()
    holds([[
SINK = 1
local head, long = nil, ("x"):rep(100)
local function fill(n)
  for i = 1, n do head = { next = head, s = long .. i } end
end
local function forget()
  local node = head
  while node do node.s = false node = node.next end
end
local function litter(n)
  for i = 1, n do SINK = { i } end
end
for _ = 1, 100 do fill(100) forget() litter(100) end -- they are compiled
local ok, err = pcall(fill, 1e9)
assert(not ok and err == "not enough memory", err)
forget()
pcall(collectgarbage) -- the small pieces are free now
collectgarbage "restart"
litter(1e6)
head = nil
collectgarbage()
print "holds"
os.exit(0)
]], "--vm-memory", "16777216")
  end)

  it("collects garbage where there is no memory for a smaller table of finalizers", function()
    holds([[
SINK = 1
local ffi = require "ffi"
local new, nothing = ffi.typeof "int[1]", function() end
local head
local function fill(n)
  for i = 1, n do head = { next = head, pad = { i, i, i, i, i, i }, c = ffi.gc(new(), nothing) } end
end
local function forget()
  local node, n = head, 0
  while node do
    n = n + 1
    node.pad = false
    if n % 8 == 0 then node.c = false end
    node = node.next
  end
end
local function litter(n)
  for i = 1, n do SINK = { i } end
end
for _ = 1, 100 do fill(100) forget() litter(100) end -- they are compiled
local ok, err = pcall(fill, 1e9)
assert(not ok and err == "not enough memory", err)
forget()
for _ = 1, 3 do
  pcall(collectgarbage) -- the small pieces are free now
  collectgarbage "restart"
  litter(1e6)
end
head = nil
collectgarbage()
print "holds"
os.exit(0)
]], "--vm-memory", "16777216")
  end)

  it("a C function that calls back now and then is called by compiled code", function()
    holds [[
local ffi = require "ffi"
ffi.cdef "void qsort(void *base, size_t n, size_t size, int (*compare)(const int *, const int *));"
local compare = ffi.cast("int (*)(const int *, const int *)", function(a, b) return a[0] - b[0] end)
local function sort_all(a, sizes)
  for i = 1, #sizes do ffi.C.qsort(a, sizes[i], 4, compare) end
end
local sizes = {}
for i = 1, 500 do sizes[i] = 1 end
local a = ffi.new("int[4]", 4, 3, 2, 1)
for _ = 1, 20 do sort_all(a, sizes) end
sizes[500] = 4
sort_all(a, sizes)
assert(a[0] == 1 and a[3] == 4)
print "holds"
os.exit(0)
]]
  end)

  it("a __tostring that collects all garbage leaves string.format a buffer to write to", function()
    holds [[
local t = setmetatable({}, { __tostring = function()
  local _ = ("x"):rep(100000)
  for _ = 1, 12 do collectgarbage() end
  return "name"
end })
for _ = 1, 200 do
  local keep = {}
  for k = 1, 500 do keep[k] = { k } end
  assert(("%s|%5s|%d"):format(t, t, 5) == "name| name|5")
  for k = 1, 500 do assert(keep[k][1] == k) end
end
print "holds"
]]
  end)

  it("a __tostring that uses a coroutine leaves string.format a buffer that can grow", function()
    holds [[
local long, kept = ("y"):rep(100000), {}
local a, b, c, d, e, f, g, h, i = 1, 2, 3, 4, 5, 6, 7, 8, 9
local function other() coroutine.wrap(function() return ("x"):rep(10) end)() end
local t = setmetatable({}, { __tostring = function()
  other()
  for _ = 1, 3 do collectgarbage() end -- the coroutine, and half of the buffer each time
  for k = 1, 1000 do kept[k] = function() return a, b, c, d, e, f, g, h, i end end -- as large as a coroutine
  return ""
end })
for _ = 1, 20 do assert(("%s%s"):format(t, long) == "" .. long) end
a, b, c, d, e, f, g, h, i = 1, 2, 3, 4, 5, 6, 7, 8, 9
print "holds"
]]
  end)
end)
