-- Handlers that run without waiting, and how they end; against servers in processes of their own. A request that waited
-- for a stuck VM would be answered 504, or never: so what is answered 200 was not held up.

local ffi = require "ffi"
local lp = require "lunapark"
local net = require "lunapark.net"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local helper = require "spec.helper"

local all, count = helper.all, helper.count

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

local APP = helper.text_of "spec/support/stuck_app.lua"

local GET = "GET %s HTTP/1.1\r\nHost: x\r\n\r\n"

testing.block_timeout(300)

-- For tests that count VMs: stuck is who has run for so many ms. On a busy machine 20, as usual, pass in any handler.
local STEADY = "retake=250"

describe("a stuck handler", function()
  local server, client

  local function serve(...)
    local args = type(...) == "table" and ... or { ... }
    table.insert(args, 1, child.script(APP))
    server = child.serve(args)
    client = child.client(server.addr)
  end

  local function dial()
    return child.dial(server.addr)
  end

  local function send(path)
    return child.send(server.addr, GET:format(path))
  end

  local reply = child.reply

  local function vms()
    local n, stuck, spare = client:get("/vms").body:match "(%d+) (%d+) (%d+)"
    return tonumber(n), tonumber(stuck), tonumber(spare)
  end

  local function until_stuck(n)
    child.eventually(function() return select(2, vms()) == n end, n .. " stuck VMs")
  end

  local function until_vms(...)
    local want = table.concat({ ... }, " ")
    child.eventually(function() return client:get("/vms").body == want end, want .. ": VMs, stuck ones, spares")
  end

  local function until_begun(n)
    child.eventually(function() return tonumber(client:get("/begun").body) >= n end, n .. " handlers")
  end

  local function until_log(what)
    server:logged(what)
  end

  -- Requests from 8 clients, so many each, about 200 a second. All must be answered 200.
  local function load(n)
    all(8, function()
      local c = child.client(server.addr)
      for _ = 1, n do
        local r, err = c:get "/"
        assert(r, err)
        assert(r.status == 200 and r.body == "hello", r.status .. " " .. r.body)
        lp.sleep(0.04)
      end
    end)
  end

  -- Waits until the server's threads have come to rest. One that spins takes 30 ticks, on a busy machine a few.
  local function until_quiet()
    local function cpu_ticks()
      local f = assert(io.open("/proc/" .. server.pid .. "/stat"))
      local utime = f:read("*a"):match "%) %S %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ (%d+)"
      f:close()
      return tonumber(utime)
    end
    child.eventually(function()
      local before = cpu_ticks()
      lp.sleep(0.3)
      return cpu_ticks() - before <= (tsan and 15 or 2)
    end, "the runaway's end")
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
    if alive then
      child.eventually(function() -- a busy machine may let even this handler be late
        local r = assert(client:get "/")
        assert.is_true(r.status == 504 or r.body == "hello")
        return r.status == 200
      end, "an answer")
    end
    server = nil
    child.clean()
  end)

  for _, procs in ipairs { "1", "2" } do
    for _, kind in ipairs { "loop", "calls", "interpreted", "gsub", "usleep", "read" } do
      it("in " .. kind .. " hurts nobody else with --procs " .. procs, function()
        local path = fifo()
        serve { "--procs", procs, env = { FIFO = path } }
        assert.equal("hello", client:get("/").body)
        local conn = send("/" .. kind)
        until_stuck(1)
        load(25)
        -- A VM whose thread has no CPU for 20 ms is stuck for so long.
        until_stuck(1)
        conn:close()
      end)
    end
  end

  it("is answered 504, and its VM serves again when it comes back", function()
    local path = fifo()
    serve { "--procs", "1", "--handler-timeout", "1", env = { FIFO = path, LUNAPARK_DEBUG = STEADY } }
    local start = lp.now()
    local conn = child.send(server.addr, GET:format "/read" .. GET:format "/")
    local r, last = reply(conn) -- while it is stuck
    assert.same({ 504, true }, { r.status, last })
    assert.is_true(lp.now() - start >= 1)
    until_vms(3, 1, 1)
    until_log "GET /read has held VM 0 for"
    write_fifo(path)
    -- What it returns in the end is nobody's.
    assert.same({ nil, "eof" }, { conn:read() })
    conn:close()
    until_stuck(0)
    until_log "GET /read came back after %d+%.%d s at %S+:%d+: VM 0 is free again"
    server:said "warn GET /read: no answer in 1 s, the client was answered 504\n"
    until_vms(3, 0, 2)
    -- VM 0 is the spare now: another one stuck, it serves.
    conn = send "/read"
    child.eventually(function() return client:get("/vm").body == "0" end, "VM 0")
    write_fifo(path)
    conn:close()
  end)

  not_under_tsan("says where it is", function()
    local path = fifo()
    serve { "--procs", "1", "--handler-timeout", "0", env = { FIFO = path } }
    local a, b, c = send "/loop", send "/interpreted", send "/read"
    until_log("warn GET /loop has held VM %d for %d+%.%d s without waiting, in compiled code "
      .. "%(GET /loop, /[^\n]+%.lua:%d+%)\n")
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
    "was ended in [%w ]+: VM %d+ is dropped %(GET /[%w_]+, /[^\n]+%.lua:%d+%)\n",
    "was ended by an error: VM %d+ is replaced, at [^\n]+:%d+ %(GET /[%w_]+, /[^\n]+%.lua:%d+%)\n"
  local FINALIZER = "was ended in [%w ]+, in the finalizer at [^\n]+%.lua:%d+: VM %d+ is dropped"
  local EITHER = "was ended "
  local ends = {
    { "loop", DROPPED_JIT }, { "calls", DROPPED_JIT }, { "interpreted", ERROR }, { "pcalls", ERROR },
    { "message", DROPPED }, { "message_ends", ERROR },
    { "message_interpreted", DROPPED }, { "hook", DROPPED }, { "hook_compiled", DROPPED },
    { "finalizer", FINALIZER }, { "finalizer_compiled", FINALIZER }, { "wrap", DROPPED_JIT },
    { "wrap_interpreted", ERROR }, { "allocates", EITHER }, { "strings", EITHER }, { "coroutines", EITHER },
    { "compiles", EITHER }, { "usleep", EITHER }, { "sine", DROPPED_JIT },
  }
  for _, case in ipairs(ends) do
    local kind, how = case[1], case[2]
    local ended_it = under_tsan[kind] and it or not_under_tsan
    ended_it("is ended --kill-after later: " .. kind, function()
      serve {
        "--procs", "1", "--handler-timeout", "0.4", "--kill-after", "0.1", env = { LUNAPARK_DEBUG = STEADY },
      }
      local conn = send("/" .. kind)
      assert.equal(504, (reply(conn)).status)
      conn:close()
      until_log("error GET /" .. kind .. " " .. how)
      until_stuck(0)
      until_quiet()
      until_vms(2, 0, 1)
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
      if i % 2 == 0 then load(3) end
    end
    for i = 1, 4 do
      assert.equal(504, (reply(conns[i])).status)
      conns[i]:close()
    end
    load(12)
    until_stuck(0)
    assert.equal(4, count(server:said(" was ended ", 4), " was ended "), server:stderr())
  end)

  it("leaves what has not begun to another VM", function()
    serve("--procs", "1", "--max-vms", "16", "--handler-timeout", "100")
    local stuck = {}
    for round = 1, 4 do
      local conns = {}
      for i = 1, 20 do conns[i] = dial() end
      for i = 1, 20 do
        assert(conns[i]:write(i == 10 and GET:format "/loop" or GET:format("/vm"):rep(3)))
      end
      for i = 1, 20 do
        for _ = 1, i == 10 and 0 or 3 do
          assert.equal(200, (reply(conns[i])).status)
        end
      end
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

  it("in every VM for less than a second: requests wait", function()
    local path = fifo()
    serve { "--procs", "1", "--max-vms", "1", "--handler-timeout", "100", env = { FIFO = path } }
    -- Not each time: the machine may take the second.
    child.eventually(function()
      local a = send "/read"
      lp.sleep(0.1)
      local b = send "/"
      lp.sleep(0.1)
      write_fifo(path)
      local read, r = reply(a), reply(b)
      a:close()
      b:close()
      return read.body == "read 1" and r.status == 200
    end, "an answer of a VM that was stuck for a moment")
  end)

  it("in every VM there may be: 503, until one comes back", function()
    local path = fifo()
    serve {
      "--procs", "1", "--max-vms", "2", "--handler-timeout", "100", env = { FIFO = path, LUNAPARK_DEBUG = STEADY },
    }
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
    local by = "VM %d by GET /read %(GET /read, /[^\n]+%.lua:%d+%)"
    until_log("error all 2 VMs are stuck: requests are answered 503 %(%-%-max%-vms%): " .. by .. "; " .. by .. "\n")
    assert.equal(1, count(server:stderr(), "VMs are stuck"))
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
    local gate = fifo()
    serve {
      "--procs", "1", "--handler-timeout", "100", "--kill-after", "0.1",
      env = { FIFO = gate, LUNAPARK_DEBUG = STEADY },
    }
    -- VM 0 is made the spare, VM 1 the one that goes.
    local kept = send "/sleep?s=8"
    for _ = 1, 3 do assert.matches(" 0$", client:get("/counted").body) end
    local conn = send "/read"
    child.eventually(function() return client:get("/vm").body == "1" end, "VM 1")
    write_fifo(gate)
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
    child.eventually(function()
      local n = ticks()
      lp.sleep(0.2)
      return n == ticks()
    end, "the end of the ticks")
    assert.equal("slept 0", reply(kept).body)
    kept:close()
    -- VM 0 has not lost its state.
    assert.equal("4 0", client:get("/counted").body)
    server:kill "TERM"
    assert.equal(0, server:wait())
  end)

  it("and two requests of a VM never run at once", function()
    serve("--procs", "2", "--handler-timeout", "2", "--kill-after", "0.1")
    for _, kind in ipairs { tsan and "strings" or "loop", "interpreted", "usleep?s=0.5" } do
      send("/" .. kind):close()
      load(12)
    end
  end)

  not_under_tsan("beneath an FFI callback is ended when the C code has come back", function()
    serve("--procs", "1", "--handler-timeout", "0.1", "--kill-after", "0.1")
    local gate = fifo()
    local conn = send("/callback?gate=" .. gate)
    assert.equal(504, (reply(conn)).status)
    conn:close()
    lp.sleep(0.5)
    until_stuck(1)
    assert.is_nil(server:stderr():find(" was ended ", 1, true), server:stderr())
    write_fifo(gate)
    until_log "GET /callback was ended "
    until_stuck(0)
  end)

  it("that waits at last goes on; ended while it waits or not, it harms nobody", function()
    serve("--procs", "2", "--handler-timeout", "0.1", "--kill-after", "0.1", "--max-vms", "12")
    for round = 0, 5 do
      local conns = {}
      local function ask(i)
        conns[i] = send(("/waits?s=%.4f"):format(0.17 + 0.01 * i + 0.002 * round))
      end
      for i = 1, 6 do ask(i) end
      for i = 1, 6 do
        local r = reply(conns[i])
        while r.status == 503 do -- the machine is so busy that no new VM had loaded within --handler-timeout
          conns[i]:close()
          ask(i)
          r = reply(conns[i])
        end
        assert.equal(504, r.status)
        conns[i]:close()
      end
      until_stuck(0)
    end
    load(5)
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
    serve("--procs", "1", "--handler-timeout", "1.5", "--kill-after", "0.2")
    local conns = {}
    for i, kind in ipairs { "loop", "interpreted", "usleep?s=0.4" } do conns[i] = send("/" .. kind) end
    until_begun(3)
    for i = 1, 3 do conns[i]:close() end
    until_log "GET /loop was ended in compiled code"
    until_log "GET /interpreted was ended by an error"
    until_stuck(0)
  end)

  not_under_tsan("does not keep a stop waiting longer than its client, nor --drain-timeout", function()
    serve("--procs", "1", "--handler-timeout", "0.3", "--kill-after", "300", "--drain-timeout", "200")
    local conn = send "/loop"
    until_stuck(1)
    server:kill "TERM"
    assert.equal(504, (reply(conn)).status)
    conn:close()
    assert.equal(0, server:wait())

    serve("--procs", "2", "--handler-timeout", "200", "--drain-timeout", "0.3")
    local conns = { send "/loop", send "/interpreted", send "/usleep?s=300" }
    until_stuck(3)
    server:kill "TERM"
    assert.equal(0, server:wait())
    assert.matches("stopped with requests unfinished after 0.3 s", server:stderr())
    for i = 1, 3 do conns[i]:close() end
  end)

  not_under_tsan("ended by an error leaves the user's debug.sethook as it was", function()
    serve("--procs", "1", "--max-vms", "1", "--handler-timeout", "100", "--kill-after", "0.2")
    local later = send "/users_hook" -- in the VM, until a handler was ended there
    until_begun(1)
    local conn = send "/users_hook?set=1"
    assert.equal("function l 1000 true", reply(later).body, server:stderr())
    server:said "GET /users_hook was ended by an error"
    later:close()
    conn:close()
  end)

  it("of the only VM, while none loads to take its place: 503 at --handler-timeout", function()
    server = child.serve { child.script [[
      local lp = require "lunapark"
      local loads = require("lunapark.shared").dict "loads"
      if loads:incr("n", 1, 0) > 1 then error "no second one" end
      require("ffi").cdef "int usleep(unsigned);"
      local app = require("lunapark.http").app()
      app:get("/stick", function() for _ = 1, 300 do require("ffi").C.usleep(10000) end return "back" end)
      app:get("/", function() return "hello" end)
      return app
    ]], "--procs", "1", "--handler-timeout", "0.5", "--kill-after", "60" }
    client = child.client(server.addr)
    assert.equal("hello", client:get("/").body)
    local stick = lp.go(function() return child.client(server.addr):get "/stick" end)
    server:said "has held VM"
    local r = assert(client:get "/")
    assert.same({ 503, "1" }, { r.status, r.headers["retry-after"] })
    stick:join()
    child.eventually(function() return client:get("/").status == 200 end, "the VM")
  end)
end)
