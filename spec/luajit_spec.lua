--- What host/build/luajit.sh mends in LuaJIT. Each script broke the process that ran it, so each has one of its own.

local child = require "spec.support.child"

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

  local function holds(text)
    local _, version = child.run { "version" }
    if version:find("as packaged", 1, true) then return pending "LuaJIT is as packaged" end
    for _, jit in ipairs { "jit.on()\n", "jit.off()\n" } do
      local code, out, err = child.run { "run", child.script(jit .. text) }
      assert.equal("", err)
      assert.equal("holds\n", out)
      assert.equal(0, code)
    end
  end

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
end)
