--- What host/build/luajit.sh mends of LuaJIT's tables, as luajit_spec.lua has the rest.

local child = require "spec.support.child"
local holds = require "spec.support.luajit"(pending)

describe("LuaJIT", function()
  after_each(child.clean)

  it("loads from a table before table.clear(), not after", function()
    holds([[
local ffi, clear = require "ffi", require "table.clear"
local t, got = { 42 }, {}
local same = t
for i = 1, 100 do
  local v = t[1]
  clear(t)
  got[i] = ffi.cast("int64_t", v)
  same[1] = 42
end
for i = 1, 100 do assert(got[i] == 42, i) end
print "holds"
]])
  end)

  it("loads from a table before a new key moves it, not after", function()
    holds([[
local ffi = require "ffi"
local n = 200000
local t, got = {}, {}
for i = 1, n do t[i] = 42 end
local same = t
for i = 1, 300 do
  local v = t[n]
  same[{}] = 10
  got[-i] = ffi.cast("int64_t", v)
  if i == 60 then for k = 1, n - 1 do t[k] = nil end end
  same[n] = 42
end
for i = 1, 300 do assert(got[-i] == 42, tostring(got[-i])) end
print "holds"
]])
  end)

  it("checks the bounds of a table that takes another's place in the loop", function()
    holds([[
jit.opt.start("hotloop=1")
local function walk(n)
  local t, others = { 1, 2, 3, 4, 5, 6, 7, 8 }, 0
  for i = 1, n do
    if t[i] ~= i then others = others + 1 end
    t = {}
  end
  return others
end
local function put(n)
  local t = { 1, 2, 3, 4, 5, 6, 7, 8 }
  for i = 1, n do
    t[i] = i
    t = {}
  end
  return #t
end
for _ = 1, 1000 do
  assert(walk(8) == 7)
  assert(put(8) == 0)
end
print "holds"
]])
  end)

  it("restores what is in a table that was not made yet, at each exit", function()
    holds([[
jit.opt.start("hotloop=4")
local call_mt = { __call = function(self, param, state) return self.gen(param, state) end }
local function wrap(gen, param, state)
  return setmetatable({ gen = gen, param = param, state = state }, call_mt), param, state
end
local first, rest
function rest(param, state, x, ...)
  if x ~= nil then return { state[1], x }, ... end
  local i = state[1] + 1
  if param[3 * i - 1] == nil then return nil end
  return first(param, { i, param[3 * i] })
end
function first(param, state)
  local i, x = state[1], state[2]
  local gen, of = param[3 * i - 2], param[3 * i - 1]
  return rest(param, state, gen(of, x))
end
local function chain(...)
  local param = {}
  for i = 1, select("#", ...) do
    param[3 * i - 2], param[3 * i - 1], param[3 * i] = wrap(ipairs((select(i, ...))))
  end
  return wrap(first, param, { 1, param[3] })
end
for _ = 1, 3 do
  local gen, param, state = chain({ "a", "b", "c" }, { "q", "w", "e" })
  local n = 0
  while true do
    state = gen(param, state)
    if state == nil then break end
    n = n + 1
  end
  assert(n == 6, n)
end
print "holds"
]])
  end)

  it("stores twice to one key of a table that was not made yet", function()
    holds([[
local side
local function made(n)
  local t = {}
  t.key = false
  t.key = n == n
  if side then end
  return t.key
end
local function outer(n) return made(n) end
jit.off(outer)
jit.opt.start("hotloop=1", "hotexit=1", "tryside=1")
outer(0) outer(0)
side = true
outer(0) outer(0)
assert(made(0) == true)
print "holds"
]])
  end)

  it("calls __newindex where nil was stored under another name", function()
    holds([[
local rawset = rawset
local function count(a, b)
  local n = 0
  local mt = { __newindex = function(t, k, v) n = n + 1 rawset(t, k, v) end }
  setmetatable(a, mt)
  setmetatable(b, mt)
  for _ = 1, 4 do
    a[10] = 1
    b[10] = nil
    a[10] = 1
    b[10] = 1
  end
  return n
end
local big = {}
for i = 1, 65536 do big[-i] = true end
jit.opt.start("hotloop=1")
count({}, big)
local one = {}
assert(count(one, one) == 5)
print "holds"
]])
  end)

  it("refuses NaN as a new key", function()
    holds([[
jit.opt.start("hotloop=1")
local t = require "table.new"(0, 3)
local function set(t, k) t[k] = true end
set(t, 0.1) set(t, 0.2)
local ok, err = pcall(set, t, 0 / 0)
assert(not ok and err:find "index is NaN", err)
for k in pairs(t) do assert(k == k) end
print "holds"
]])
  end)

  it("keeps the keys of table constructors in bytecode", function()
    holds([[
local function made(a, b, c) return { a = a, b = b, c = c, nothing = nil, k = 1, truth = true } end
local again = loadstring(string.dump(made))
local function size_of(make)
  make(1, 2, 3)
  collectgarbage()
  collectgarbage "stop"
  local before = collectgarbage "count"
  local t = make()
  local size = collectgarbage "count" - before
  t.a, t.b, t.c, t.nothing = 1, 2, 3, 4
  assert(collectgarbage "count" - before == size, "grows")
  collectgarbage "restart"
  return size
end
assert(size_of(made) == size_of(again))
for i = 1, 100 do
  local t = again(i, i > 50 and "b" or nil, {})
  assert(t.a == i and t.b == (i > 50 and "b" or nil) and type(t.c) == "table" and t.nothing == nil)
  assert(t.k == 1 and t.truth == true)
  local n = 0
  for _ in pairs(t) do n = n + 1 end
  assert(n == (i > 50 and 5 or 4))
end
for _, f in ipairs { loadstring "return { a = nil, b = nil }", loadstring "return { [1] = nil, 2, x = nil }" } do
  collectgarbage()
  collectgarbage()
  local t = loadstring(string.dump(f))()
  assert(t.a == nil and t.x == nil and (t[1] == nil or t[1] == 2))
end
print "holds"
]])
  end)
end)
