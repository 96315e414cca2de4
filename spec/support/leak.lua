--- A process that uses one kind of thing many times and says what it has before and after: for leak_spec.
--
--   build/lunapark run spec/support/leak.lua tcp 1000 /tmp/an-empty-directory
--
-- Without arguments it says which kinds there are. It prints a line, memory in KiB:
--
--   fds 12 12 gs 2 2 polled 3 3 forgotten 0 0 lua 310 311 malloc 1200 1200 rss 9000 9100
--
-- Before the first look it does 400 rounds, so that what is made once is there: free lists, buffers, compiled traces,
-- threads that wait for the next job. A look comes when all garbage is collected and other Gs and threads have had
-- time to end.

local ffi = require "ffi"
local lp = require "lunapark"
local exec = require "lunapark.exec"
local fs = require "lunapark.fs"
local http = require "lunapark.http"
local net = require "lunapark.net"
local shared = require "lunapark.shared"
local testing = require "lunapark.testing"

ffi.cdef [[
typedef struct leak_mallinfo2 {
  size_t arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
} leak_mallinfo2;
leak_mallinfo2 mallinfo2(void);
size_t __sanitizer_get_current_allocated_bytes(void);
int usleep(unsigned us);
int pipe(int *fds);
int close(int fd);
]]

package.path = "?.lua;" .. package.path
local name, rounds, dir = arg[1], tonumber(arg[2]), arg[3]
local path = dir and dir .. "/thing"

local function check(ok, err)
  if not ok then error(err or "it failed", 2) end
  return ok
end

local function same(got, want)
  if got ~= want then error(("%s instead of %s"):format(tostring(got), tostring(want)), 2) end
end

-- Each of these makes what its rounds share and returns the function for one round, and one that tidies up.
local kinds = {}

function kinds.tcp()
  local ln = check(net.listen "127.0.0.1:0")
  return function()
    local a = check(net.dial(ln:addr()))
    local b = check(ln:accept())
    a:close()
    b:close()
  end, function() ln:close() end
end

kinds["tcp, said and heard"] = function()
  local ln = check(net.listen "127.0.0.1:0")
  return function(i)
    local a = check(net.dial(ln:addr()))
    local b = check(ln:accept())
    check(a:write { "line ", i, "\nrest" })
    a:close_write()
    same(b:read_line(), "line " .. i)
    same(b:read_all(), "rest")
    b:close()
    same(select(2, a:read()), "eof")
    a:close()
  end, function() ln:close() end
end

kinds["dials that fail"] = function()
  local ln = check(net.listen "127.0.0.1:0")
  local addr = ln:addr()
  ln:close()
  return function()
    same(select(2, net.dial(addr)), "connection refused")
    same(select(2, net.dial("unix:" .. path)), "no such file or directory")
    same(select(2, net.listen("unix:" .. dir .. "/none/socket")), "no such file or directory")
  end
end

kinds["dial by name"] = function()
  local ln = check(net.listen "127.0.0.1:0")
  local addr = ln:addr():gsub("^[^:]*", "localhost")
  return function()
    check(net.dial(addr)):close()
    check(ln:accept()):close()
  end, function() ln:close() end
end

function kinds.listen()
  return function() check(net.listen "127.0.0.1:0"):close() end
end

kinds["accepts that are closed"] = function()
  return function()
    local ln = check(net.listen "127.0.0.1:0")
    local g = lp.go(function() return ln:accept() end)
    lp.yield()
    ln:close()
    same(select(2, g:join()), "closed")
  end
end

function kinds.unix()
  return function()
    local ln = check(net.listen("unix:" .. path))
    local a = check(net.dial(ln:addr()))
    local b = check(ln:accept())
    a:close()
    b:close()
    ln:close()
  end
end

function kinds.udp()
  return function(i)
    local u = check(net.udp "127.0.0.1:0")
    check(u:send("x" .. i, u:local_addr()))
    same(u:recv(), "x" .. i)
    u:close()
  end
end

kinds["unix datagrams"] = function()
  return function()
    local u = check(net.udp("unix:" .. path))
    check(u:send("x", "unix:" .. path))
    same(u:recv(), "x")
    u:close()
  end
end

kinds["net.fd"] = function()
  local fds = ffi.new "int[2]"
  return function()
    same(ffi.C.pipe(fds), 0)
    local r, w = check(net.fd(fds[0])), check(net.fd(fds[1]))
    check(w:wait_write(1))
    same(select(2, r:wait_read(0.0001)), "timeout")
    r:close()
    w:close()
    ffi.C.close(fds[0])
    ffi.C.close(fds[1])
  end
end

kinds["deadlines of sockets"] = function()
  local ln = check(net.listen "127.0.0.1:0")
  local a = check(net.dial(ln:addr()))
  local b = check(ln:accept())
  return function()
    a:set_read_deadline(0.0001)
    same(select(2, a:read()), "timeout")
    a:set_deadline(60)
    local g = lp.go(a.read, a)
    lp.yield()
    g:cancel()
    same(select(2, g:join()), "canceled")
    a:set_deadline(nil)
    same(select(2, lp.deadline(0.0001, b.read, b)), "timeout")
  end, function()
    a:close()
    b:close()
    ln:close()
  end
end

kinds["net.copy"] = function()
  check(fs.write(path, ("0123456789"):rep(5000)))
  local ln = check(net.listen "127.0.0.1:0")
  local function pair()
    local a = check(net.dial(ln:addr()))
    return a, check(ln:accept())
  end
  return function()
    local a, b = pair()
    local c, d = pair()
    local g = lp.go(function()
      local file = check(io.open(path))
      same(net.copy(a, file), 50000) -- sendfile
      file:close()
      a:close()
      same(net.copy(c, b), 50000) -- splice
      c:close()
    end)
    same(#check(d:read_all()), 50000)
    check(g:join() == nil)
    b:close()
    d:close()
  end, function() ln:close() end
end

function kinds.chan()
  return function(i)
    local ch, buffered = lp.chan(), lp.chan(2)
    local g = lp.go(function()
      for v in ch:iter() do buffered:send(v) end
      return buffered:close()
    end)
    ch:send(i)
    same(buffered:recv(), i)
    same(select(2, buffered:recv(0.0001)), "timeout")
    ch:close()
    check(g:join())
    same(select(2, buffered:recv()), "closed")
  end
end

function kinds.select()
  local never = lp.chan()
  return function(i)
    local a, b = lp.chan(), lp.chan()
    local g = lp.go(function() return lp.select { { a, "recv" }, { b, "send", i }, { never, "recv" } } end)
    same(select(2, lp.select { { never, "recv" }, { never, "recv" }, timeout = 0.0001 }), "timeout")
    same(b:recv(), i)
    same(g:join(), 2)
    g = lp.go(function() return lp.select { { a, "recv" }, { never, "send", 1 } } end)
    lp.yield()
    g:cancel()
    same(select(2, g:join()), "canceled")
  end
end

function kinds.timers()
  return function()
    local ran = lp.chan(4)
    local stopped = lp.after(60, error)
    local beat = lp.every(0.0001, function() ran:send(1, 0) end)
    lp.after(0, function() ran:send(2, 0) end)
    ran:recv()
    ran:recv()
    check(beat:stop())
    check(stopped:stop())
  end
end

function kinds.Gs()
  return function(i)
    same(lp.go(function() return i end):join(), i)
    same(lp.go(error, "expected"):join(), nil)
    local g = lp.go(lp.sleep, 60)
    lp.yield()
    g:cancel()
    same(select(2, g:join()), "canceled")
    g = lp.detach(lp.park)
    lp.ready(g, i)
    same(g:join(), i)
    same(select(2, lp.deadline(0.0001, lp.park)), "timeout")
  end
end

kinds["Gs in a comparator"] = function()
  return function()
    local g = lp.go(table.sort, { 3, 1, 2 }, function(a, b)
      lp.sleep(0)
      return a < b
    end)
    g:join()
    g = lp.go(pcall, table.sort, { 2, 1 }, function() error(lp.park()) end)
    lp.yield()
    g:cancel()
    g:join()
  end
end

function kinds.coroutines()
  return function(i)
    local generator = coroutine.wrap(function()
      lp.yield()
      coroutine.yield(i)
      lp.yield()
    end)
    same(generator(), i)
    generator()
  end
end

function kinds.scopes()
  return function(i)
    same(lp.scope(function(s)
      for _ = 1, 3 do s:go(lp.yield) end
      lp.go(lp.yield)
      return i
    end), i)
    same(pcall(lp.scope, function(s)
      s:go(lp.sleep, 60)
      s:go(error, "expected")
      lp.sleep(60)
    end), false)
  end
end

kinds["exec.run"] = function()
  return function() same(check(exec.run({ "/bin/true" })).code, 0) end
end

kinds["exec.spawn"] = function()
  return function(i)
    local p = check(exec.spawn({ "cat" }, { timeout = 30 }))
    check(p.stdin:write(i .. "\n"))
    same(p.stdout:read_line(), tostring(i))
    for _, stream in ipairs { p.stdin, p.stdout, p.stderr } do stream:close() end
    same(check(p:wait()).code, 0)
    same(select(2, exec.spawn { "no-such-program" }), "no such file or directory: no-such-program")
  end
end

function kinds.fs()
  return function(i)
    local text = tostring(i)
    check(fs.write(path, text))
    check(fs.append(path, "\n"))
    same(fs.read(path), text .. "\n")
    same(check(fs.stat(path)).size, #text + 1)
    same(#check(fs.list(dir)), 1)
    local f = check(fs.open(path, "r+"))
    same(f:read(#text), text)
    check(f:seek("set", 0))
    check(f:write "x")
    check(f:close())
    check(not fs.read(dir .. "/none"))
    check(not fs.open(dir .. "/none"))
  end
end

-- A name server, and what ends it.
local function serve_names()
  local nameserver = require "spec.support.nameserver"
  local open = {}
  local server = nameserver.new(function(thing)
    open[#open + 1] = thing
    return thing
  end, function(q)
    if q.name:find "^none" then return 3 end
    if q.type == "A" then return { { "A", "192.0.2.1" } } end
    if q.type == "TXT" then return { { "TXT", ("x"):rep(200), ("y"):rep(200), ("z"):rep(200) } } end -- by TCP
    return {}
  end)
  -- What a round leaves with the server: its connections, its list of questions.
  return server, function(keep)
    while #open > keep do table.remove(open):close() end
    server.asked = {}
  end
end

function kinds.dns()
  local dns = require "lunapark.dns"
  local server, tidy = serve_names()
  local resolver = dns.resolver { servers = { server.addr }, search = {} }
  return function(i)
    same(check(resolver:lookup("host" .. i .. ".test", { family = 4 }))[1], "192.0.2.1")
    check(not resolver:lookup("none" .. i .. ".test", { family = 4 }))
    if i % 10 == 0 then check(resolver:query("text.test", "TXT")) end
    tidy(2)
  end, function() tidy(0) end
end

function kinds.resolvers()
  local dns = require "lunapark.dns"
  local server, tidy = serve_names()
  return function(i)
    local resolver = dns.resolver { servers = { server.addr }, search = {} }
    check(resolver:lookup("host" .. i .. ".test", { family = 4 }))
    tidy(2)
    resolver = nil -- luacheck: ignore 311
    collectgarbage()
  end, function() tidy(0) end
end

function kinds.shared()
  local dict = check(shared.dict("leak", { max_bytes = 2 ^ 20 }))
  return function(i)
    local key = "key " .. i
    check(dict:set(key, { number = i, list = { 1, 2, 3 } }))
    same(dict:get(key).number, i)
    check(dict:add(key .. "+", ("x"):rep(i % 500)))
    check(dict:incr("count", 1, 0))
    check(dict:update(key, function() return i end))
    check(dict:set("for a moment", true, 1e-6))
    check(dict:delete(key))
    check(dict:delete(key .. "+"))
    dict:get "for a moment"
  end
end

function kinds.offload()
  return function()
    same(lp.offload(ffi.C.usleep, 1), 0)
    local _, err = lp.deadline(0.0001, lp.offload, ffi.C.usleep, 500)
    check(err == nil or err == "timeout", err)
  end
end

function kinds.locks()
  return function(i)
    local mutex, rwlock, semaphore, group, cond = lp.mutex(), lp.rwlock(), lp.semaphore(2), lp.waitgroup(), lp.cond()
    local once = lp.once(function()
      lp.yield()
      return i
    end)
    check(mutex:lock())
    check(rwlock:lock())
    check(semaphore:acquire(2))
    for _ = 1, 3 do
      group:go(function()
        check(mutex:with(lp.yield))
        check(rwlock:rwith(lp.yield))
        check(semaphore:with(lp.yield))
        same(once(), i)
      end)
    end
    same(select(2, group:wait(0.0001)), "timeout")
    lp.after(0, function() cond:broadcast() end)
    check(cond:wait(mutex, 5))
    mutex:unlock()
    rwlock:unlock()
    semaphore:release(2)
    check(group:wait(5))
  end
end

function kinds.requests()
  local app = http.app()
  app:get("/:n", function(req)
    lp.sleep(0)
    return { n = req.params.n }
  end)
  local client = testing.serve(app)
  return function(i)
    same(check(client:get("/" .. i)):json().n, tostring(i))
    local c = check(client:connect())
    check(c:write("GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    check(c:read_all())
    c:close()
  end, function() client:close() end
end

-- These do leak, so that the spec sees what it would see then.

kinds["leaks: descriptors"] = function()
  local kept = {}
  return function() kept[#kept + 1] = check(net.listen "127.0.0.1:0") end
end

kinds["leaks: forgotten sockets"] = function()
  return function() check(net.listen "127.0.0.1:0") end
end

kinds["leaks: Gs"] = function()
  return function() lp.go(lp.park) end
end

kinds["leaks: Lua"] = function()
  local kept = {}
  return function(i) kept[#kept + 1] = { i, {}, {}, {}, {}, {}, {}, {} } end
end

kinds["leaks: C"] = function()
  ffi.cdef "void *malloc(size_t size);"
  return function() ffi.fill(ffi.C.malloc(1000), 1000, 1) end
end

-- ---- what there is ---------------------------------------------------------------------------------------------

local function memory()
  local file = check(io.open "/proc/self/status")
  local text = file:read "*a"
  file:close()
  return tonumber(text:match "VmRSS:%s+(%d+)")
end

-- Bytes of malloc's that are in use. The sanitizers have a malloc of their own, which counts too.
local function allocated()
  local ok, count = pcall(function() return ffi.C.__sanitizer_get_current_allocated_bytes end)
  if ok then return tonumber(count()) end
  local malloc = ffi.C.mallinfo2()
  return tonumber(malloc.uordblks + malloc.hblkhd)
end

local function look()
  for _ = 1, 3 do
    lp.sleep(0.02)
    collectgarbage()
    collectgarbage()
  end
  local stats = lp.stats()
  return {
    fds = #check(fs.list "/proc/self/fd"), gs = stats.lua_gs, polled = stats.fds, forgotten = stats.forgotten,
    lua = math.ceil(collectgarbage "count"), malloc = math.ceil(allocated() / 1024),
    rss = memory(),
  }
end

if not name then
  local list = {}
  for kind in pairs(kinds) do list[#list + 1] = kind end
  table.sort(list)
  print(table.concat(list, "\n"))
  return
end

local round, tidy = kinds[name]()
for i = 1, 400 do round(i) end
look()
local before = look()
for i = 1, rounds do round(i) end
local after = look()
if tidy then tidy() end
local parts = {}
for _, what in ipairs { "fds", "gs", "polled", "forgotten", "lua", "malloc", "rss" } do
  parts[#parts + 1] = ("%s %d %d"):format(what, before[what], after[what])
end
print(table.concat(parts, " "))
