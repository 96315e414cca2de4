--- The places where Lua code may stand while it waits: what the specs of waiting anywhere go through.
--
--   for _, place in ipairs(places.list) do place.run(w) end
--
-- `w(v)` is what stands there: it waits somehow and returns v. `run(w)` calls it several times, from Lua that was
-- called from C, from metamethods, from coroutines, and raises if anything came out wrong. Places nest: a w may run
-- another place. What becomes of an error that w raises is `error`:
--   nil         it reaches the caller of run, with w in its traceback
--   "message"   its text reaches the caller, but somebody caught it on the way, or it came out of a coroutine
--   "lost"      LuaJIT itself puts another one in its stead

local ffi = require "ffi"

local places = { list = {}, by_name = {} }

local function check(got, want)
  if got ~= want then error(("wrong value: %s instead of %s"):format(tostring(got), tostring(want)), 2) end
end
places.check = check

local function place(name, run, error_kind)
  local p = { name = name, run = run, error = error_kind }
  places.list[#places.list + 1] = p
  places.by_name[name] = p
end

-- ---- functions that C calls ---------------------------------------------------------------------------

place("table.sort", function(w)
  local t = { 4, 2, 5, 1, 3 }
  table.sort(t, function(a, b) return w(a) < b end)
  check(table.concat(t), "12345")
end)

place("string.gsub, a function", function(w)
  local calls = 0
  local s, n = ("a-b-c"):gsub("%w", function(c)
    calls = calls + 1
    return w(c):upper()
  end)
  check(s, "A-B-C")
  check(n, 3)
  check(calls, 3)
end)

place("string.gsub, a table with __index", function(w)
  local s = ("abc"):gsub("(%w)", setmetatable({ b = "B" }, { __index = function(_, k) return w(k .. k) end }))
  check(s, "aaBcc")
end)

place("table.foreach", function(w)
  local sum = 0
  table.foreach({ 1, 2, x = 3 }, function(_, v) sum = sum + w(v) end)
  check(sum, 6)
  check(table.foreachi({ 5, 6, 7 }, function(i, v) if w(i) == 2 then return w(v) end end), 6)
end)

-- ---- metamethods ------------------------------------------------------------------------------------------

place("__index", function(w)
  local t = setmetatable({}, { __index = function(_, k) return w(k) end })
  check(t.key, "key")
  check(t[1] + t[2], 3)
  check(setmetatable({}, { __index = t }).deep, "deep")
end)

place("__newindex", function(w)
  local seen = {}
  local t = setmetatable({}, { __newindex = function(_, k, v) rawset(seen, k, w(v)) end })
  t.a, t.b = 1, 2
  t[3] = 3
  check(seen.a + seen.b + seen[3], 6)
end)

place("__call", function(w)
  local t = setmetatable({}, { __call = function(_, a, b, ...) return w(a), w(b), select("#", ...), ... end })
  local a, b, n, c, d = t(1, nil, "c", nil)
  check(a, 1)
  check(b, nil)
  check(n, 2)
  check(c, "c")
  check(d, nil)
end)

local function named(w)
  return setmetatable({}, { __tostring = function() return w "name" end })
end

place("__tostring, tostring", function(w)
  check(tostring(named(w)), "name")
  check(("x"):rep(2) .. tostring(named(w)), "xxname")
end)

place("__tostring, string.format", function(w)
  check(("%s|%5s|%d"):format(named(w), named(w), 5), "name| name|5")
end)

place("__eq", function(w)
  local mt = { __eq = function(a, b) return w(a.v) == w(b.v) end }
  local a, b, c = setmetatable({ v = 1 }, mt), setmetatable({ v = 1 }, mt), setmetatable({ v = 2 }, mt)
  check(a == b, true)
  check(a ~= b, false)
  check(a == c, false)
end)

place("__lt and __le", function(w)
  local mt = { __lt = function(a, b) return w(a.v) < b.v end, __le = function(a, b) return a.v <= w(b.v) end }
  local a, b = setmetatable({ v = 1 }, mt), setmetatable({ v = 2 }, mt)
  check(a < b, true)
  check(a > b, false)
  check(a <= b, true)
  check(a >= b, false)
  local t = { b, a }
  table.sort(t)
  check(t[1], a)
end)

place("__concat", function(w)
  local function text(v) return type(v) == "table" and "t" or v end
  local t = setmetatable({}, { __concat = function(a, b) return w(text(a) .. text(b)) end })
  check("x" .. 1 .. t, "x1t")
  check(t .. "y" .. "z", "tyz")
  check("a" .. t .. "b", "atb")
end)

place("__unm and arithmetic", function(w)
  local mt = { __unm = function(a) return w(-a.v) end }
  for name, f in pairs {
    __add = function(a, b) return a + b end, __sub = function(a, b) return a - b end,
    __mul = function(a, b) return a * b end, __div = function(a, b) return a / b end,
    __mod = function(a, b) return a % b end, __pow = function(a, b) return a ^ b end,
  } do
    mt[name] = function(a, b) return w(f(type(a) == "table" and a.v or a, type(b) == "table" and b.v or b)) end
  end
  local t = setmetatable({ v = 6 }, mt)
  check(-t, -6)
  check(t + 1, 7)
  check(1 - t, -5)
  check(t * t, 36)
  check(t / 2, 3)
  check(8 % t, 2)
  check(t ^ 2, 36)
end)

place("__len", function(w)
  local p = newproxy(true)
  getmetatable(p).__len = function() return w(7) end
  check(#p, 7)
  check(#p + #p, 14)
end)

place("globals of an environment", function(w)
  local function f() return first + second end -- luacheck: globals first second
  setfenv(f, setmetatable({}, { __index = function(_, k) return w(k == "first" and 1 or 2) end }))
  check(f(), 3)
end)

-- The metamethods of a C type are set once, and LuaJIT gives a type that is declared in the same words once
-- more (busted loads this file anew for each spec) the ones it had: each object finds its own w.
local cdata = debug.getregistry()["spec.cdata"]
if not cdata then
  cdata = { object = ffi.typeof "struct { int id; }", w_of = {}, last_id = 0 }
  debug.getregistry()["spec.cdata"] = cdata
  local w_of = cdata.w_of
  ffi.metatype(cdata.object, {
    __index = function(o, k) return w_of[o.id](k) end,
    __call = function(o, a) return w_of[o.id](a) end,
    __add = function(o, b) return w_of[o.id](b + 1) end,
    __tostring = function(o) return w_of[o.id] "cdata" end,
    __lt = function(o) return w_of[o.id](true) end,
  })
end

place("metamethods of cdata", function(w)
  cdata.last_id = cdata.last_id + 1
  local o = cdata.object(cdata.last_id)
  cdata.w_of[o.id] = w
  check(o.field, "field")
  check(o(5), 5)
  check(o + 5, 6)
  check(tostring(o), "cdata")
  check(o < o, true)
  cdata.w_of[o.id] = nil
end)

-- ---- protected calls --------------------------------------------------------------------------------------

place("pcall", function(w)
  local ok, a, b, c = pcall(function(...)
    w(1)
    return w(1), ...
  end, nil, 3)
  if not ok then error(a, 0) end
  check(a, 1)
  check(b, nil)
  check(c, 3)
  local told
  ok, told = pcall(function() error({ w "told" }) end)
  check(ok, false)
  if type(told) == "string" then error(told, 0) end
  check(told[1], "told")
end, "message")

place("xpcall", function(w)
  local ok, a, b = xpcall(function(x) return w(x), w "b" end, function(e) return e end, "a")
  if not ok then error(a, 0) end
  check(a, "a")
  check(b, "b")
end, "message")

place("xpcall's message handler", function(w)
  local _, told = xpcall(function() error("low", 0) end, function(e) return w(w(e) .. "er") end)
  check(told, "lower")
end, "lost")

-- ---- chunks -------------------------------------------------------------------------------------------------

place("a loaded chunk", function(w)
  local chunk = assert(loadstring("local w = ... local sum = 0 for i = 1, 3 do sum = sum + w(i) end return sum"))
  check(chunk(w), 6)
end)

place("the reader of load", function(w)
  local pieces, i = { "return ", "1 ", "+ 4" }, 0
  local chunk, err = load(function()
    i = i + 1
    return w(pieces[i])
  end)
  if not chunk then error(err, 0) end
  check(chunk(), 5)
end, "message")

local BODY = [[
local w = PLACES_W
local t = {}
for i = 1, 3 do t[i] = w(i * i) end
return t[1] + t[2] + t[3]
]]

-- Calls f(path) with a file of that text, which is gone when f first waits.
local function with_file(w, f)
  local path = os.tmpname()
  local file = assert(io.open(path .. ".place", "w"))
  file:write(BODY)
  file:close()
  PLACES_W = function(...) -- luacheck: globals PLACES_W
    os.remove(path .. ".place")
    os.remove(path)
    return w(...)
  end
  return f(path)
end

place("dofile", function(w)
  check(with_file(w, function(path) return dofile(path .. ".place") end), 14)
end)

place("require, a file", function(w)
  check(with_file(w, function(path)
    local dir, name = path:match "^(.*/)(.*)$"
    local pattern = ";" .. dir .. "?.place"
    if not package.path:find(pattern, 1, true) then package.path = package.path .. pattern end
    package.loaded[name] = nil
    local value = require(name)
    check(require(name), value)
    package.loaded[name] = nil
    return value
  end), 14)
end)

local modules = 0
place("require, preload and a loader", function(w)
  modules = modules + 1
  local preloaded, found = "places.preloaded" .. modules, "places.found" .. modules
  package.preload[preloaded] = function(name)
    package.preload[preloaded] = nil
    return w(name) .. w "!"
  end
  check(require(preloaded), preloaded .. "!")
  local function loader(name)
    if name == found and w(name) then return function() return w "found" end end
  end
  table.insert(package.loaders, loader)
  local ok, value = pcall(require, found)
  for i = #package.loaders, 1, -1 do
    if package.loaders[i] == loader then table.remove(package.loaders, i) end
  end
  package.loaded[preloaded], package.loaded[found] = nil, nil
  if not ok then error(value, 0) end
  check(value, "found")
end)

-- ---- iterators and coroutines -----------------------------------------------------------------------------

place("an iterator of for", function(w)
  local sum = 0
  for i, v in function(s, i) if w(i) < s then return i + 1, w(i * 10) end end, 4, 0 do
    sum = sum + i + v
  end
  check(sum, 10 + 60)
end)

place("coroutine.wrap", function(w)
  local sum = 0
  for v in coroutine.wrap(function()
    for i = 1, 4 do
      coroutine.yield(w(i))
    end
  end) do
    sum = sum + v
  end
  check(sum, 10)
end, "message")

local function resume(co, ...)
  local ok, value = coroutine.resume(co, ...)
  if not ok then error(value, 0) end
  return value
end

place("coroutine.resume", function(w)
  local co = coroutine.create(function(a)
    local b = coroutine.yield(w(a) * 2)
    local c = coroutine.yield(w(b) * 2)
    return w(c) * 2
  end)
  check(resume(co, 1), 2)
  check(coroutine.status(co), "suspended")
  check(w(resume(co, 10)), 20)
  check(resume(co, 100), 200)
  check(coroutine.status(co), "dead")
end, "message")

place("three coroutines deep", function(w)
  local outer = coroutine.wrap(function()
    local middle = coroutine.wrap(function()
      local inner = coroutine.create(function(x)
        while true do
          x = coroutine.yield(w(x) + 1)
        end
      end)
      for i = 1, 3 do
        coroutine.yield(w(resume(inner, i)))
      end
    end)
    for v in middle do
      coroutine.yield(v * 10)
    end
  end)
  check(outer(), 20)
  check(w(outer()), 30)
  check(outer(), 40)
end, "message")

place("a tail call and deep recursion", function(w)
  local function tail(n)
    if n == 0 then return w "tail" end
    return tail(n - 1)
  end
  local function down(n)
    if n == 0 then return w(0) end
    return 1 + down(n - 1)
  end
  check(tail(200), "tail")
  check(down(150), 150)
end)

--- Whether inner may stand somewhere in outer. In a message handler LuaJIT calls no other one.
function places.may_nest(outer, inner)
  return not (outer.error == "lost" and inner.error == "lost")
end

--- Which of two, one in the other, counts for what stands in both.
function places.outer(outer, inner)
  return outer and outer.error == "lost" and outer or inner
end

return places
