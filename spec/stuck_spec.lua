-- Handlers that run without waiting, and how they end; against servers in processes of their own. No timing here is
-- tight: "soon" is a second, where a stuck server would take forever.

local ffi = require "ffi"
local lp = require "lunapark"
local net = require "lunapark.net"
local testing = require "lunapark.testing"
local child = require "spec.support.child"

ffi.cdef [[
int mkfifo(const char *path, unsigned mode);
int open(const char *path, int flags, ...);
void __tsan_init(void);
]]

-- ThreadSanitizer keeps a signal back until the thread calls something of its own, which a loop in Lua need not: what
-- only a signal can end is left out there.
local tsan = pcall(function() return ffi.C.__tsan_init end)
local under_tsan = {
  interpreted = true, allocates = true, strings = true, coroutines = true, compiles = true,
  usleep = true,
}
local function not_under_tsan(title, fn)
  if not tsan then it(title, fn) end
end
local slow = tsan and 5 or 1

local APP = [[
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

for name, fn in pairs(kinds) do app:get("/" .. name, fn) end

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
  local ok, err = lp.sleep(tonumber(req.query.s) or 60)
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
  local till = lp.now() + tonumber(req.query.s)
  local compare = ffi.cast("int (*)(const int *, const int *)", function(x, y)
    if waits then
      repeat until lp.now() > till
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
    while true do end
  end
  local fn, mask, n = debug.gethook()
  local before = hooked
  local x = 0
  for _ = 1, 10 do
    x = x + 1
  end
  return ("%s %s %s %s"):format(type(fn), mask, n, hooked > before)
end))
return app
]]

local GET = "GET %s HTTP/1.1\r\nHost: x\r\n\r\n"

local function count(text, what)
  local n, at = 0, 1
  while true do
    local from, to = text:find(what, at, true)
    if not from then return n end
    n, at = n + 1, to + 1
  end
end

testing.block_timeout(60)

describe("a stuck handler", function()
  local server, client

  local function serve(...)
    server = child.serve { child.script(APP), ... }
    client = child.client(server.addr)
  end

  local function dial()
    return child.dial(server.addr)
  end

  local function send(path)
    local conn = dial()
    assert(conn:write(GET:format(path)))
    return conn
  end

  local function reply(conn)
    local r, err, last = testing.read_reply(conn)
    assert(r, err)
    return r, last
  end

  local function vms()
    local n, stuck, spare = client:get("/vms").body:match "(%d+) (%d+) (%d+)"
    return tonumber(n), tonumber(stuck), tonumber(spare)
  end

  local function until_stuck(n)
    child.eventually(function() return select(2, vms()) == n end, n .. " stuck VMs")
  end

  local function until_log(what)
    if not pcall(child.eventually, function() return server:stderr():find(what) end, what) then
      error(("no %q in the log: %s"):format(what, server:stderr()), 2)
    end
  end

  -- Requests from 8 clients, about 200 a second, for so many seconds. Each must be answered 200. Returns how many there
  -- were and how long the slowest took.
  local function load(seconds, path, expected)
    local gs, n, worst = {}, 0, 0
    local till = lp.now() + seconds
    for i = 1, 8 do
      gs[i] = lp.go(function()
        local c = child.client(server.addr)
        repeat
          local start = lp.now()
          local r, err = c:get(path or "/")
          assert(r, err)
          assert(r.status == 200 and (expected or "hello") == r.body, r.status .. " " .. r.body)
          n, worst = n + 1, math.max(worst, lp.now() - start)
          lp.sleep(0.04)
        until lp.now() > till
        return true
      end)
    end
    for i = 1, 8 do
      local ok, err = gs[i]:join()
      if not ok then error(err, 0) end
    end
    return n, worst
  end

  local function cpu_ticks()
    local f = assert(io.open("/proc/" .. server.pid .. "/stat"))
    local utime = f:read("*a"):match "%) %S %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ (%d+)"
    f:close()
    return tonumber(utime)
  end

  local function fifo()
    local path = child.file()
    assert(ffi.C.mkfifo(path, 384) == 0)
    return path
  end

  -- To whoever reads from it.
  local function write_fifo(path)
    local fd
    child.eventually(function()
      fd = ffi.C.open(path, 2049) -- O_WRONLY | O_NONBLOCK
      return fd >= 0
    end, "a reader of the fifo")
    assert(ffi.C.write(fd, "x", 1) == 1)
    ffi.C.close(fd)
  end

  after_each(function()
    local alive = server and not server:poll()
    if alive then assert.equal("hello", client:get("/").body) end
    server = nil
    child.clean()
  end)

  for _, procs in ipairs { "1", "2" } do
    for _, kind in ipairs { "loop", "calls", "interpreted", "gsub", "usleep", "read" } do
      it("in " .. kind .. " hurts nobody else with --procs " .. procs, function()
        local path = fifo()
        server = child.serve { child.script(APP), "--procs", procs, env = { FIFO = path } }
        client = child.client(server.addr)
        assert.equal("hello", client:get("/").body)
        local conn = send("/" .. kind)
        until_stuck(1)
        local n, worst = load(1)
        assert.is_true(worst < 1 * slow, worst .. " s")
        assert.is_true(n > 20, n)
        assert.equal(1, (select(2, vms())))
        conn:close()
      end)
    end
  end

  it("is answered 504, and its VM serves again when it comes back", function()
    serve("--procs", "1", "--handler-timeout", "0.3")
    local conn = dial()
    assert(conn:write(GET:format "/usleep?s=1.5" .. GET:format "/"))
    local start = lp.now()
    local r, last = reply(conn)
    local took = lp.now() - start
    assert.same({ 504, true }, { r.status, last })
    assert.is_true(took > 0.25 and took < 1.3 * slow, took .. " s")
    -- What it returns in the end is nobody's.
    assert.same({ nil, "eof" }, { conn:read() })
    conn:close()
    until_stuck(0)
    until_log "GET /usleep came back after %d+%.%d s: VM 0 is free again"
    assert.matches("warn GET /usleep: no answer in 0.3 s, the client was answered 504\n", server:stderr())
    local n, _, spare = vms()
    assert.same({ 3, 2 }, { n, spare })
    -- VM 0 is the spare now: another one stuck, it serves.
    conn = send "/usleep?s=2"
    child.eventually(function() return client:get("/vm").body == "0" end, "VM 0")
    conn:close()
  end)

  not_under_tsan("says where it is", function()
    local path = fifo()
    server = child.serve { child.script(APP), "--procs", "1", "--handler-timeout", "0", env = { FIFO = path } }
    client = child.client(server.addr)
    local a, b, c = send "/loop", send "/interpreted", send "/read"
    until_log "warn GET /loop has held VM %d for %d+%.%d s without waiting, in compiled code"
    until_log "warn GET /interpreted has held VM %d for %d+%.%d s without waiting, in"
    until_log "warn GET /read has held VM %d for %d+%.%d s without waiting, in C %(.*read"
    write_fifo(path)
    assert.equal("read 1", reply(c).body)
    until_log "GET /read came back after"
    a:close()
    b:close()
    c:close()
  end)

  -- kind, how the log says it ended
  local DROPPED_JIT, DROPPED, ERROR = "was ended in compiled code: VM %d+ is dropped",
    "was ended in [%w ]+: VM %d+ is dropped", "was ended by an error: VM %d+ is free again"
  local EITHER = "was ended "
  local ends = {
    { "loop", DROPPED_JIT }, { "calls", DROPPED_JIT }, { "interpreted", ERROR }, { "pcalls", ERROR },
    { "message", DROPPED }, { "message_interpreted", DROPPED }, { "hook", DROPPED }, { "hook_compiled", DROPPED },
    { "finalizer", DROPPED }, { "finalizer_compiled", DROPPED }, { "wrap", DROPPED_JIT },
    { "wrap_interpreted", ERROR }, { "allocates", EITHER }, { "strings", EITHER }, { "coroutines", EITHER },
    { "compiles", EITHER }, { "usleep", EITHER }, { "sine", DROPPED_JIT },
  }
  for _, case in ipairs(ends) do
    local kind, how = case[1], case[2]
    local ended_it = under_tsan[kind] and it or not_under_tsan
    ended_it("is ended --kill-after later: " .. kind, function()
      serve("--procs", "1", "--handler-timeout", "0.2", "--kill-after", "0.1")
      assert.equal("hello", client:get("/").body)
      local conn = send("/" .. kind)
      assert.equal(504, (reply(conn)).status)
      conn:close()
      until_log("error GET /" .. kind .. " " .. how)
      until_stuck(0)
      local before = cpu_ticks()
      lp.sleep(0.3)
      assert.is_true(cpu_ticks() - before < 15, "it still runs")
      child.eventually(function() return (select(3, vms())) == 1 end, "a spare")
      assert.same({ 2, 0, 1 }, { vms() })
      -- And again, in another VM.
      conn = send("/" .. kind)
      assert.equal(504, (reply(conn)).status)
      conn:close()
      until_stuck(0)
    end)
  end

  it("is ended with others, all at once", function()
    serve("--procs", "2", "--handler-timeout", "2", "--kill-after", "0.3", "--max-vms", "12")
    local conns = {}
    for i, kind in ipairs(tsan and
      { "interpreted", "allocates", "coroutines", "strings" } or { "loop", "interpreted", "pcalls", "calls" }) do
      conns[i] = send("/" .. kind)
      if i % 2 == 0 then load(0.1) end
    end
    for i = 1, 4 do
      assert.equal(504, (reply(conns[i])).status)
      conns[i]:close()
    end
    load(0.5)
    until_stuck(0)
    assert.equal(4, count(server:said(" was ended ", 4), " was ended "), server:stderr())
  end)

  it("leaves what has not begun to another VM", function()
    serve("--procs", "1", "--max-vms", "16", "--handler-timeout", "20")
    local stuck = {}
    for round = 1, 4 do
      local conns = {}
      for i = 1, 20 do conns[i] = dial() end
      for i = 1, 20 do
        assert(conns[i]:write(i == 10 and GET:format "/loop" or GET:format("/vm"):rep(3)))
      end
      local start = lp.now()
      for i = 1, 20 do
        for _ = 1, i == 10 and 0 or 3 do
          local r = reply(conns[i])
          assert(r.status == 200 and not stuck[r.body], r.body)
        end
      end
      assert.is_true(lp.now() - start < 1 * slow)
      until_stuck(round)
      for i = 1, 20 do
        if i ~= 10 then
          conns[i]:write(GET:format "/")
          assert.equal("hello", reply(conns[i]).body)
          conns[i]:close()
        end
      end
      stuck[round] = conns[10]
    end
    for _, conn in ipairs(stuck) do conn:close() end
  end)

  it("in every VM there may be: 503, until one comes back", function()
    local path = fifo()
    server = child.serve {
      child.script(APP), "--procs", "1", "--max-vms", "2", "--handler-timeout", "30", env = { FIFO = path },
    }
    client = child.client(server.addr)
    local a = send "/read"
    until_stuck(1)
    child.eventually(function() return (vms()) == 2 end, "a spare")
    local b = send "/read"
    local r
    child.eventually(function()
      r = client:get "/"
      return r.status ~= 200
    end, "a refusal")
    assert.same({ 503, "1" }, { r.status, r.headers["retry-after"] })
    local conn = dial()
    for _ = 1, 3 do
      conn:write(GET:format "/")
      local again, last = reply(conn)
      assert.same({ 503, false }, { again.status, last })
    end
    conn:close()
    local full = "error all 2 VMs are stuck: requests are answered 503 (--max-vms)\n"
    assert.equal(1, count(server:said(full), full))
    if not tsan then
      server:kill "USR1"
      until_log "G %d+"
    end
    write_fifo(path)
    child.eventually(function() return client:get("/").status == 200 end, "an answer")
    write_fifo(path)
    assert.equal("read 1", reply(a).body)
    assert.equal("read 1", reply(b).body)
    a:close()
    b:close()
    child.eventually(function() return select(2, vms()) == 0 end)
  end)

  not_under_tsan("dropped, takes along what belongs to its VM, and nothing else", function()
    serve("--procs", "1", "--handler-timeout", "30", "--kill-after", "0.1")
    -- VM 0 is made the spare, VM 1 the one that goes.
    local kept = send "/sleep?s=4"
    for _ = 1, 3 do assert.matches(" 0$", client:get("/counted").body) end
    local conn = send "/usleep?s=0.3"
    child.eventually(function() return client:get("/vm").body == "1" end, "VM 1")
    assert.equal(200, (reply(conn)).status)
    conn:close()

    local sleepers = {}
    for i = 1, 10 do sleepers[i] = send(i % 2 == 0 and "/sleep" or "/in_sort") end
    local echo = assert(net.dial(client:get("/echo").body, { timeout = 20 }))
    echo:set_deadline(20)
    assert(echo:write "hi\n")
    assert.equal("hi", echo:read_line())
    local path = child.file ""
    assert.equal("ticks", client:get("/tick?path=" .. path).body)
    local function ticks()
      local f = assert(io.open(path))
      local n = #f:read "*a"
      f:close()
      return n
    end
    child.eventually(function() return ticks() > 2 end, "ticks")
    assert.equal("1", client:get("/vm").body)
    -- The handler's own deadline is 0.1 s, so it is ended after 0.2.
    local runaway = send "/deadline"
    local r = reply(runaway)
    assert.equal(502, r.status)
    runaway:close()
    until_log "GET /deadline was ended in compiled code: VM 1 is dropped"
    for i = 1, 10 do
      local got, last = reply(sleepers[i])
      assert.same({ 502, true }, { got.status, last })
      sleepers[i]:close()
    end
    assert.same({ nil, "eof" }, { echo:read() })
    echo:close()
    lp.sleep(0.05)
    local n = ticks()
    lp.sleep(0.1)
    assert.equal(n, ticks())
    assert.equal("slept 0", reply(kept).body)
    kept:close()
    -- VM 0 has not lost its state.
    assert.equal("4 0", client:get("/counted").body)
    server:kill "TERM"
    assert.equal(0, server:wait())
  end)

  it("and two requests of a VM never run at once", function()
    serve("--procs", "2", "--handler-timeout", "0.2", "--kill-after", "0.1")
    for _, kind in ipairs { tsan and "strings" or "loop", "interpreted", "usleep?s=0.5" } do
      send("/" .. kind):close()
      load(0.5)
    end
  end)

  not_under_tsan("beneath an FFI callback is ended when the C code has come back", function()
    serve("--procs", "1", "--handler-timeout", "0.1", "--kill-after", "0.1")
    local conn = send "/callback?s=3"
    assert.equal(504, (reply(conn)).status)
    conn:close()
    lp.sleep(0.5)
    assert.equal(1, (select(2, vms())), server:stderr())
    assert.is_nil(server:stderr():find(" was ended ", 1, true), server:stderr())
    until_log "GET /callback was ended "
    until_stuck(0)
  end)

  it("that waits at last goes on; ended while it waits or not, it harms nobody", function()
    serve("--procs", "2", "--handler-timeout", "0.1", "--kill-after", "0.1", "--max-vms", "12")
    for round = 0, 5 do
      local conns = {}
      for i = 1, 6 do
        conns[i] = send(("/waits?s=%.4f"):format(0.17 + 0.01 * i + 0.002 * round))
      end
      for i = 1, 6 do
        assert.equal(504, (reply(conns[i])).status)
        conns[i]:close()
      end
      until_stuck(0)
    end
    load(0.2)
    assert.is_nil(server:poll())
  end)

  it("that answers just when its time is over", function()
    serve("--procs", "2", "--handler-timeout", "0.1", "--kill-after", "5", "--max-vms", "8")
    local late = 0
    for round = 1, 8 do
      local conns = {}
      for i = 1, 3 do conns[i] = send(("/spin?s=%.4f"):format(0.09 + 0.002 * ((round + i * 3) % 10))) end
      for i = 1, 3 do
        local r = reply(conns[i])
        assert.is_true(r.status == 504 or r.status == 200 and r.body:find "^spun %d+$" ~= nil)
        if r.status == 504 then late = late + 1 end
        conns[i]:close()
      end
    end
    local said = "the client was answered 504"
    assert.equal(late, count(server:said(said, late), said))
  end)

  not_under_tsan("whose client is gone is ended all the same", function()
    serve("--procs", "1", "--handler-timeout", "0.3", "--kill-after", "0.2")
    local conns = {}
    for i, kind in ipairs { "loop", "interpreted", "usleep?s=0.4" } do conns[i] = send("/" .. kind) end
    until_stuck(3)
    for i = 1, 3 do conns[i]:close() end
    until_log "GET /loop was ended in compiled code"
    until_log "GET /interpreted was ended by an error"
    until_stuck(0)
  end)

  not_under_tsan("does not keep a stop waiting longer than its client, nor --drain-timeout", function()
    serve("--procs", "1", "--handler-timeout", "0.3", "--kill-after", "60", "--drain-timeout", "10")
    local conn = send "/loop"
    until_stuck(1)
    local start = lp.now()
    server:kill "TERM"
    assert.equal(504, (reply(conn)).status)
    conn:close()
    assert.equal(0, server:wait())
    assert.is_true(lp.now() - start < 5)

    serve("--procs", "2", "--handler-timeout", "60", "--drain-timeout", "0.3")
    local conns = { send "/loop", send "/interpreted", send "/usleep" }
    until_stuck(3)
    start = lp.now()
    server:kill "TERM"
    assert.equal(0, server:wait())
    assert.is_true(lp.now() - start < 5)
    assert.matches("stopped with requests unfinished after 0.3 s", server:stderr())
    for i = 1, 3 do conns[i]:close() end
  end)

  not_under_tsan("ended by an error leaves the user's debug.sethook as it was", function()
    serve("--procs", "1", "--max-vms", "1", "--handler-timeout", "0.2", "--kill-after", "0.2")
    local conn = send "/users_hook?set=1"
    assert.equal(504, (reply(conn)).status)
    conn:close()
    child.eventually(function() return client:get("/vm").status == 200 end, "the VM")
    assert.equal("function l 1000 true", client:get("/users_hook").body, server:stderr())
    server:said "GET /users_hook was ended by an error"
  end)
end)
