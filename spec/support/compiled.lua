--- A process that runs a loop with jit.v on, for jit_spec: prints what LuaJIT compiled of it and what it gave up on.
--
--   build/lunapark run spec/support/compiled.lua read_line 20000
--
-- The loop runs several times. First "lines N M": where it stands; then jit.v's lines; for each further time, until
-- there are none, "again" and jit.v's lines; at last "exits N": how often compiled code was left in the last time.

local form = require "lunapark.http.form"
local lp = require "lunapark"
local net = require "lunapark.net"
local shared = require "lunapark.shared"
local v = require "jit.v"

local name, rounds = arg[1], tonumber(arg[2])

-- Two ends of a connection.
local ln = assert(net.listen "127.0.0.1:0")
local a = assert(net.dial(ln:addr()))
local b = assert(ln:accept())
ln:close()

-- Of every BULK rounds one waits: what has been read to the end waits before it reads again.
local BULK = 500

-- Each is a loop. What it says to the other end comes in one piece, so that reads find it in the buffer.
local loops = {}

function loops.form()
  local query = "a=1&b=two+words&c=%41"
  for _ = 1, rounds do
    form.parse(query, #query)
  end
end

function loops.read()
  for i = 1, rounds do
    if i % BULK == 1 then a:write(("8 bytes."):rep(BULK)) end
    b:read(8)
  end
end

function loops.read_exact()
  for i = 1, rounds do
    if i % BULK == 1 then a:write(("8 bytes."):rep(BULK)) end
    b:read_exact(8)
  end
end

function loops.read_line()
  for i = 1, rounds do
    if i % BULK == 1 then a:write(("a line\r\n"):rep(BULK)) end
    b:read_line()
  end
end

function loops.read_until()
  for i = 1, rounds do
    if i % BULK == 1 then a:write(("an item, "):rep(BULK)) end
    b:read_until ", "
  end
end

-- One round more than bulks: the last one waits for nothing.
function loops.write()
  for i = 1, rounds + 1 do
    a:write "8 bytes."
    if i % BULK == 0 then b:read_exact(8 * BULK) end
  end
end

loops["write, a list"] = function()
  for i = 1, rounds + 1 do
    a:write { "8 ", "bytes", "." }
    if i % BULK == 0 then b:read_exact(8 * BULK) end
  end
end

loops["a chan's buffer"] = function()
  local ch = lp.chan(4)
  for i = 1, rounds do
    ch:send(i)
    ch:recv()
  end
end

loops["select, ready"] = function()
  local ch, other = lp.chan(1), lp.chan()
  local cases = { { other, "recv" }, { ch, "recv" } }
  for i = 1, rounds do
    ch:send(i)
    lp.select(cases)
  end
end

loops["mutex, semaphore"] = function()
  local mutex, semaphore = lp.mutex(), lp.semaphore(2)
  for _ = 1, rounds do
    mutex:lock()
    semaphore:acquire()
    semaphore:release()
    mutex:unlock()
  end
end

function loops.shared()
  local dict = assert(shared.dict "compiled")
  for i = 1, rounds do
    dict:incr("count", 1, 0)
    dict:set("key", i)
    dict:get "key"
  end
end

loops["C functions of lp.cdef"] = function()
  local c = lp.cdef "int abs(int); double fabs(double); /* blocks */ int usleep(unsigned);"
  for i = 1, rounds do
    if c.abs(-i) + c.fabs(-i) ~= 2 * i then error "not the same" end
  end
end

function loops.ready()
  local me = lp.self()
  for _ = 1, rounds do
    lp.ready(me)
    lp.park "has been woken"
  end
end

function loops.clock()
  local last = 0
  for _ = 1, rounds do
    local now = lp.now()
    if now < last then error "backwards" end
    last = now
  end
end

-- This one is not compiled, so that the spec sees what it would see then.

loops["not: a closure"] = function()
  local sum = 0
  for i = 1, rounds do
    local function add(n) sum = sum + n end
    add(i)
  end
end

if not name then
  local list = {}
  for loop in pairs(loops) do
    list[#list + 1] = loop
  end
  table.sort(list)
  print(table.concat(list, "\n"))
  return
end

-- Modules that load at their first use load here: require is compiled by then, and meets what it cannot compile.
for _, lazy in ipairs { "mutex", "semaphore", "cdef" } do assert(lp[lazy]) end

local loop = loops[name]
print("lines " .. debug.getinfo(loop, "S").linedefined .. " " .. debug.getinfo(loop, "S").lastlinedefined)
io.stdout:flush()
v.on "-"
loop()
-- LuaJIT counts calls and rounds in 64 counters that all code shares by its address, so the second call of a loop's
-- function may be taken for hot, and recorded up to the loop. A further call is at rest then.
local traces
local function notice() traces = traces + 1 end
jit.attach(notice, "trace")
for _ = 1, 4 do
  print "again"
  traces = 0
  loop()
  if traces == 0 then break end
end
jit.attach(notice)
v.off()

local n = 0
local function count() n = n + 1 end
jit.attach(count, "texit")
loop()
jit.attach(count)
print("exits " .. n)
a:close()
b:close()
