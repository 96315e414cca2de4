-- The app of stuck_spec.lua: handlers that run without waiting, each in its own way.

local ffi = require "ffi"
local lp = require "lunapark"
local net = require "lunapark.net"
require "lunapark.cdef"
ffi.cdef "int usleep(unsigned); int open(const char *, int, ...); int64_t read(int, void *, size_t); int close(int);"
ffi.cdef "void qsort(void *base, size_t n, size_t size, int (*compare)(const int *, const int *));"
local C = ffi.C
local app = require("lunapark.http").app()

local function interpreted(fn)
  jit.off(fn, true)
  return fn
end

local bomb -- what some of these are beneath
local function add(n)
  local sum = 0
  for i = 1, n do sum = sum + i end
  return sum
end
local function sort_with(inner)
  local first = true
  local t = { 5, 3, 2, 4, 1 }
  table.sort(t, function(a, b)
    if first then
      first = false
      inner()
    end
    return a < b
  end)
end

local kinds = {
  loop = function() while true do end end,
  calls = function() local x = 0 while true do x = x + math.sin(x) end end,
  interpreted = interpreted(function()
    local t = {}
    while true do pcall(function() t[1] = (t[1] or 0) + 1 end) end
  end),
  gsub = function() return #(("a"):rep(20e6):gsub("a*b", "")) .. "" end,
  usleep = function(req)
    for _ = 1, (tonumber(req.query.s) or 60) * 100 do C.usleep(10000) end
    return "slept"
  end,
  read = function()
    local fd = C.open(os.getenv "FIFO", 2) -- O_RDWR: only read waits
    local n = C.read(fd, ffi.new "char[1]", 1)
    C.close(fd)
    return "read " .. tonumber(n)
  end,

  -- A pcall does not catch it for good, however deep.
  pcalls = interpreted(function()
    local function nest(n)
      while true do pcall(nest, n + 1) end
    end
    nest(0)
  end),
  message = function()
    xpcall(error, function() while true do end end)
  end,
  -- It may be compiled, and comes to its end.
  message_ends = interpreted(function()
    for _ = 1, 200 do add(1000) end
    xpcall(function() while true do end end, function(err) return err .. add(1000000) end)
  end),
  message_interpreted = interpreted(function()
    local spin = interpreted(function() while true do end end)
    while true do xpcall(spin, spin) end
  end),
  hook = interpreted(function()
    debug.sethook(interpreted(function() while true do end end), "", 1)
    while true do end
  end),
  hook_compiled = function()
    debug.sethook(function() while true do end end, "", 1)
    for _ = 1, 1e9 do end
  end,
  finalizer = interpreted(function()
    getmetatable(newproxy(true)).__gc = interpreted(function() while true do end end)
    collectgarbage()
  end),
  finalizer_compiled = function()
    local function spin(n) for _ = 1, n do end end
    for _ = 1, 200 do spin(100) end
    getmetatable(newproxy(true)).__gc = function() spin(1 / 0) end
    collectgarbage()
  end,
  wrap = function()
    -- Beneath a coroutine of its own beneath a sort, on a stack that has waited.
    local gen = coroutine.wrap(function()
      sort_with(function()
        lp.sleep(0.01)
        while true do end
      end)
    end)
    gen()
  end,
  wrap_interpreted = interpreted(function()
    local gen = coroutine.wrap(interpreted(function()
      sort_with(interpreted(function()
        lp.sleep(0.01)
        while true do end
      end))
    end))
    gen()
  end),
  allocates = function()
    local t = {}
    while true do t[#t % 100000 + 1] = { ("x"):rep(#t % 50) } end
  end,
  sine = function() -- hardly ever out of libm
    local x = 1e300
    while true do x = 1e300 + math.sin(x) end
  end,
  strings = function()
    while true do local _ = ("x"):rep(1e6):gsub("x", "y") end
  end,
  coroutines = function()
    while true do coroutine.wrap(function() coroutine.yield(1) end)() end
  end,
  compiles = function()
    local n = 0
    while true do
      n = n + 1
      loadstring("local x = 0 for i = 1, 200 do x = x + i * " .. n .. " end return x")()
    end
  end,
}

local begun = require("lunapark.shared").dict "begun"
for name, fn in pairs(kinds) do
  app:get("/" .. name, function(req)
    begun:incr("n", 1, 0)
    return fn(req)
  end)
end
app:get("/begun", function() return tostring(begun:get "n" or 0) end)

local inside = false
app:get("/", function()
  -- Nobody else runs in this VM between two waits.
  if inside then error "two at once" end
  inside = true
  local till = lp.now() + 0.0003
  repeat until lp.now() >= till
  inside = false
  return "hello"
end)
app:get("/vm", function() return tostring(lp.stats().vm) end)
app:get("/vms", function() return C.host_vms(0) .. " " .. C.host_vms(1) .. " " .. C.host_vms(2) end)
app:get("/stats", function()
  local s, live = lp.stats(), 0
  for state, n in pairs(s.gs) do if state ~= "dead" then live = live + n end end
  return { fds = s.fds, gs = live, vms = C.host_vms(0), stuck = C.host_vms(1), spare = C.host_vms(2), vm = s.vm }
end)
app:get("/sleep", function(req)
  local _, err = lp.sleep(tonumber(req.query.s) or 60)
  return (err or "slept") .. " " .. lp.stats().vm
end)
app:get("/in_sort", function()
  sort_with(function() lp.sleep(60) end)
  return "sorted"
end)
local count = 0
app:get("/counted", function()
  count = count + 1
  return count .. " " .. lp.stats().vm
end)
app:get("/echo", function()
  local listener = assert(net.listen "127.0.0.1:0")
  lp.go(function()
    while true do
      local conn = listener:accept()
      if not conn then return end
      lp.go(function()
        while true do
          local line = conn:read_line()
          if not line then return end
          conn:write(line .. "\n")
        end
      end)
    end
  end)
  return listener:addr()
end)
app:get("/deadline", function()
  lp.deadline(0.1, function() while true do end end)
end)
app:get("/tick", function(req)
  local path = req.query.path
  lp.go(function()
    while lp.sleep(0.01) do
      local f = assert(io.open(path, "a"))
      f:write "."
      f:close()
    end
  end)
  return "ticks"
end)
app:get("/callback", function(req)
  -- The C function must come back before anything is ended.
  local a, waits = ffi.new("int[4]", 4, 3, 2, 1), true
  local gate = C.open(req.query.gate, 2)
  local compare = ffi.cast("int (*)(const int *, const int *)", function(x, y)
    if waits then
      C.read(gate, ffi.new "char[1]", 1)
      C.close(gate)
      waits = false
    end
    return x[0] - y[0]
  end)
  C.qsort(a, 4, 4, compare)
  bomb = ("sorted %d%d%d%d"):format(a[0], a[1], a[2], a[3])
  compare:free()
  while true do end
end)
app:get("/bomb", function() return bomb or "nothing" end)
app:get("/waits", function(req)
  local spin = tonumber(req.query.s)
  for _ = 1, 4 do
    local till = lp.now() + spin
    while lp.now() < till do end
    lp.sleep(0.01)
  end
  return "waited"
end)
app:get("/spin", function(req)
  local till = lp.now() + tonumber(req.query.s)
  while lp.now() < till do end
  return "spun " .. lp.stats().vm
end)
local hooked = 0
app:get("/users_hook", interpreted(function(req)
  if req.query.set then
    debug.sethook(function() hooked = hooked + 1 end, "l", 1000)
    lp.deadline(0.2, interpreted(function() while true do end end))
  end
  begun:incr("n", 1, 0)
  lp.retired(60)
  local fn, mask, n = debug.gethook()
  local before = hooked
  local x = 0
  for _ = 1, 10 do
    x = x + 1
  end
  return ("%s %s %s %s"):format(type(fn), mask, n, hooked > before)
end))
return app
