-- SIGUSR2: another binary takes over and no client notices. Real processes: the old one is a child of the spec, the new
-- one a child of the old, which the spec inherits when the old one has ended.

local ffi = require "ffi"
local exec = require "lunapark.exec"
local fs = require "lunapark.fs"
local lp = require "lunapark"
local net = require "lunapark.net"
local testing = require "lunapark.testing"
local child = require "spec.support.child"

ffi.cdef [[
int prctl(int option, unsigned long arg, unsigned long, unsigned long, unsigned long);
int symlink(const char *to, const char *path);
int rename(const char *from, const char *to);
int mkdir(const char *path, unsigned mode);
int rmdir(const char *path);
]]
local C = ffi.C
local SUBREAPER = 36

local APP = child.UNTIL_GONE .. [[
local lp = require "lunapark"
local ffi = require "ffi"
ffi.cdef "int getpid(void);"
local pid = tostring(ffi.C.getpid())
local app = require("lunapark.http").app()
app:get("/", function() return pid end)
app:get("/sleep/:s", function(req) lp.sleep(tonumber(req.params.s)) return pid end)
app:get("/while", function(req) until_gone(req.query.file) return pid end)
app:get("/requests", function()
  local sum = 0
  for _, p in ipairs(lp.stats().ps) do sum = sum + p.requests end
  return tostring(sum)
end)
app:get("/getenv/:name", function(req) return tostring(os.getenv(req.params.name)) end)
app:get("/fds", function()
  local p = io.popen "ls /proc/self/fd"
  local text = p:read "*a"
  p:close()
  return text
end)
app:get("/stream", function(req, res)
  res:write "begin "
  res:flush()
  until_gone(req.query.file)
  res:write(pid)
end)
]]
-- No client is slower than this while a process stops, however busy the machine is.
local PATIENT = { LUNAPARK_DEBUG = "drainidle=15000" }
local GET = "GET %s HTTP/1.1\r\nHost: x\r\n\r\n"

local function write_file(path, text)
  local f = assert(io.open(path, "w"))
  f:write(text)
  f:close()
end

local function exists(path) return fs.stat(path) ~= nil end
local function read_pid(path) return tonumber((assert(fs.read(path)))) end

testing.block_timeout(300)

describe("upgrade", function()
  setup(function() C.prctl(SUBREAPER, 1, 0, 0, 0) end)
  teardown(function() C.prctl(SUBREAPER, 0, 0, 0, 0) end)

  local servers = {}

  after_each(function()
    for _, c in ipairs(servers) do -- whom a spec that failed does not know yet
      for pid in c:stderr():gmatch "SIGUSR2: starting [^\n]* as process (%d+)" do
        local has_ended = c:stderr():find("SIGUSR2: new process " .. pid .. " ", 1, true)
        if not has_ended then child.adopt(tonumber(pid), c) end
      end
    end
    servers = {}
    child.clean()
  end)

  -- The server, with a pid file.
  local function serve(args, text)
    args = args or {}
    local app = child.script((text or APP) .. "return app\n")
    local pid_file = child.file()
    local c
    if args.shell then
      c = child.serve { "-c", args.shell .. ' exec "$0" "$@"', args.binary or child.binary, app, "--pid-file", pid_file,
        binary = "/bin/sh", env = args.env, fd3 = args.fd3, listeners = args.listeners, unpack(args) }
    else
      c = child.serve { app, "--pid-file", pid_file, binary = args.binary, env = args.env, listeners = args.listeners,
        unpack(args) }
    end
    c.app, c.pid_file = app, pid_file
    servers[#servers + 1] = c
    return c
  end

  local function logged(c, text)
    child.eventually(function() return c:stderr():find(text) end, "'" .. text .. "' in the log")
  end

  local function served_by(c)
    local last
    for pid in c:stderr():gmatch "process (%d+) serves" do
      last = tonumber(pid)
    end
    return last
  end

  -- The inodes of all sockets that listen.
  local function listening()
    local found = {}
    for name, form in pairs {
      tcp = "^%s*%d+: %x+:%x+ %x+:%x+ 0A %S+ %S+ %S+ +%d+ +%d+ (%d+)", unix = "^%x+: %x+ %x+ 00010000 %x+ %x+ +(%d+)",
    } do
      for line in io.lines("/proc/net/" .. name) do
        local inode = line:match(form)
        if inode then found[inode] = true end
      end
    end
    return found
  end

  -- What connects while it does may be answered by it, whoever else listens on the same socket.
  local function listens(pid)
    local found = listening()
    for inode in assert(exec.run({ "ls", "-l", "/proc/" .. pid .. "/fd" })).stdout:gmatch "socket:%[(%d+)%]" do
      if found[inode] then return true end
    end
    return false
  end

  -- Sends USR2 and waits until the new process serves alone, which it returns.
  local function upgrade(c)
    local before, at = served_by(c), #c:stderr()
    c:kill "USR2"
    child.eventually(function()
      if c:stderr():find("this process stays", at + 1, true) then error(c:stderr(), 0) end
      return served_by(c) ~= before and not listens(c.pid)
    end, "the new process")
    local new = child.adopt(served_by(c), c)
    new.addr, new.addrs, new.app, new.pid_file = c.addr, c.addrs, c.app, c.pid_file
    return new
  end

  local function ask(c, path)
    local client = child.client(c.addr)
    local r = assert(client:get(path or "/"))
    client:close()
    return r.body
  end

  -- Waits until n requests have reached their handlers, besides those that it makes.
  local function begun(c, n)
    local asked = 0
    child.eventually(function()
      asked = asked + 1
      return tonumber(ask(c, "/requests")) >= n + asked
    end, n .. " requests")
  end

  local function dial(c)
    return child.dial(c.addr)
  end

  -- n clients that ask all the time and count every answer by the pid that it names, and whatever else happens.
  local function load(c, n, new_connections)
    local l = { by = {}, failures = {}, total = 0 }
    local stopped, gs = false, {}
    for i = 1, n do
      gs[i] = lp.go(function()
        local conn
        while not stopped do
          local err, r, last
          if not conn then
            conn, err = net.dial(c.addr, { timeout = 20 })
            if conn then conn:set_deadline(60) end
          end
          if conn then r, err = conn:write(GET:format "/") end
          if r then r, err, last = testing.read_reply(conn) end
          if r and r.status == 200 then
            l.by[tonumber(r.body)] = (l.by[tonumber(r.body)] or 0) + 1
            l.total = l.total + 1
          else
            l.failures[#l.failures + 1] = r and r.status or err
          end
          if conn and (not r or last or new_connections) then
            conn:close()
            conn = nil
          end
          lp.yield()
        end
        if conn then conn:close() end
        return true
      end)
    end
    function l.go_on(pid)
      local more = (l.by[pid] or 0) + 20 * n
      child.eventually(function() return (l.by[pid] or 0) >= more end, "answers of " .. pid)
    end
    function l.stop()
      stopped = true
      for _, g in ipairs(gs) do
        assert(g:join())
      end
      assert.same({}, l.failures)
    end
    return l
  end

  for how, new_connections in pairs { ["kept alive"] = false, ["new for each request"] = true } do
    it("under load loses nothing, three times in a row, with connections that are " .. how, function()
      local c = serve { "--procs", "2", env = PATIENT }
      local l = load(c, 32, new_connections)
      l.go_on(c.pid)
      assert.equal(c.pid, read_pid(c.pid_file))
      local old = c
      for _ = 1, 3 do
        local new = upgrade(old)
        assert.are_not.equal(old.pid, new.pid)
        l.go_on(new.pid)
        assert.equal(0, old:wait())
        assert.equal(new.pid, read_pid(new.pid_file))
        old = new
      end
      l.stop()
      old:kill "TERM"
      assert.equal(0, old:wait())
      assert.is_false(exists(c.pid_file))
      assert.same({ nil, "connection refused" }, { net.dial(c.addr) })
      assert.equal(4, select(2, c:stderr():gsub("listening on http://" .. c.addr:gsub("%p", "%%%0"), "")))
    end)
  end

  it("hands a unix socket over, whose file stays until the last one stops", function()
    local path = child.file()
    local c = serve { "--listen", "unix:" .. path }
    local l = load(c, 8)
    l.go_on(c.pid)
    local new = upgrade(c)
    l.go_on(new.pid)
    assert.equal(0, c:wait())
    l.go_on(new.pid)
    l.stop()
    local newer = upgrade(new)
    assert.equal(0, new:wait())
    assert.equal(tostring(newer.pid), ask(newer))
    newer:kill "TERM"
    assert.equal(0, newer:wait())
    assert.same({ nil, "no such file or directory" }, { net.dial(c.addr) })
  end)

  it("lets go of addresses that the app names no more, keeps those that it does, and binds new ones", function()
    local a, b = child.file(), child.file()
    local text = APP .. "app.options = { listen = { %s } }\n"
    local c = serve({ shell = " ", listeners = 3, binary = nil, "--procs", "2" },
      text:format(("'127.0.0.1:0', 'unix:%s', '127.0.0.1:0'"):format(a)))
    assert.equal(3, #c.addrs)
    local l = load(c, 8)
    l.go_on(c.pid)
    write_file(c.app, (text .. "return app\n"):format(("'unix:%s', '127.0.0.1:0'"):format(b)))
    local new = upgrade(c)
    assert.equal(0, c:wait())
    l.go_on(new.pid)
    l.stop()
    assert.equal(tostring(new.pid), ask { addr = "unix:" .. b })
    child.eventually(function() return not exists(a) end, "the end of the file")
    logged(c, "unix:" .. a:gsub("%p", "%%%0") .. ": not listened on any more")
    assert.is_nil((net.dial(c.addrs[2])))
    assert.is_nil((net.dial(c.addrs[3])))
  end)

  it("leaves requests in flight to the old process", function()
    local c, held = serve {}, child.file ""
    local gs = {}
    for i = 1, 100 do
      gs[i] = lp.go(ask, c, "/while?file=" .. held)
    end
    begun(c, 100)
    local new = upgrade(c)
    assert.equal(tostring(new.pid), ask(new))
    assert.is_nil(c:poll())
    os.remove(held)
    for _, g in ipairs(gs) do
      assert.equal(tostring(c.pid), g:join())
    end
    assert.equal(0, c:wait())
    assert.is_nil(c:stderr():find "unfinished")
  end)

  it("ends streamed responses, and answers a request behind one", function()
    local c, held = serve {}, child.file ""
    local conn = dial(c)
    assert(conn:write(GET:format("/stream?file=" .. held)))
    assert.equal("HTTP/1.1 200 OK", conn:read_line())
    assert(conn:read_until "begin ")
    local new = upgrade(c)
    assert.is_nil(c:poll())
    os.remove(held)
    assert.matches(tostring(c.pid) .. "$", conn:read_until "\r\n0\r\n\r\n")
    assert(conn:write(GET:format "/")) -- its head was sent before anybody thought of closing
    local r, err, last = testing.read_reply(conn)
    assert.same({ tostring(c.pid), true }, { assert(r, err).body, last })
    conn:close()
    assert.equal(0, c:wait())
    assert.equal(tostring(new.pid), ask(new))
  end)

  it("answers what comes on a connection that was idle, and closes those that stay so", function()
    local c = serve { env = { LUNAPARK_DEBUG = "drainidle=5000" } }
    local asks, silent, fresh = dial(c), dial(c), dial(c)
    for _, conn in ipairs { asks, silent } do
      assert(conn:write(GET:format "/"))
      assert(testing.read_reply(conn))
    end
    upgrade(c)
    for _, conn in ipairs { asks, fresh } do assert(conn:write(GET:format "/")) end
    for _, conn in ipairs { asks, fresh } do
      local r, err, last = testing.read_reply(conn)
      assert.same({ tostring(c.pid), true }, { assert(r, err).body, last })
      assert.same({ nil, "eof" }, { conn:read() })
      conn:close()
    end
    assert.same({ nil, "eof" }, { silent:read() })
    silent:close()
    assert.equal(0, c:wait())
  end)

  it("leaves no client in the kernel's queue", function()
    local c = serve { "--procs", "1" }
    c:kill "STOP"
    local conns = {}
    for i = 1, 300 do
      conns[i] = dial(c)
      assert(conns[i]:write(GET:format "/"))
    end
    c:kill "USR2"
    c:kill "CONT"
    for _, conn in ipairs(conns) do
      local r, err = testing.read_reply(conn)
      assert.equal(200, assert(r, err).status)
      conn:close()
    end
    assert.equal(0, c:wait())
  end)

  it("gives up the old process' requests after --drain-timeout", function()
    local c = serve { "--drain-timeout", "0.2" }
    local conn = dial(c)
    assert(conn:write(GET:format "/sleep/30"))
    begun(c, 1)
    local new = upgrade(c)
    assert.equal(0, c:wait())
    assert.same({ nil, "eof" }, { conn:read() })
    conn:close()
    assert.equal(tostring(new.pid), ask(new))
  end)

  it("by SIGTERM instead loses nothing that was sent either", function()
    local c = serve { env = PATIENT }
    local conns, answered = {}, 0
    for i = 1, 50 do
      conns[i] = dial(c)
      assert(conns[i]:write(GET:format "/"))
      assert(testing.read_reply(conns[i]))
    end
    c:kill "TERM"
    child.eventually(function() return not listens(c.pid) end, "the stop") -- the log's line comes before it
    for i = 1, 50 do
      assert(conns[i]:write(GET:format "/"))
    end
    for i = 1, 50 do
      local r, err, last = testing.read_reply(conns[i])
      assert.same({ tostring(c.pid), true }, { assert(r, err).body, last })
      answered = answered + 1
      conns[i]:close()
    end
    assert.equal(50, answered)
    assert.equal(0, c:wait())
  end)

  describe("that fails", function()
    -- The old one has to answer as if nothing had been.
    local function fails(c, says, break_it)
      local l = load(c, 8)
      l.go_on(c.pid)
      break_it()
      c:kill "USR2"
      logged(c, "SIGUSR2: [^\n]*" .. says .. "[^\n]*this process stays")
      l.go_on(c.pid)
      l.stop()
      assert.is_nil(c:poll())
      assert.equal(c.pid, read_pid(c.pid_file))
      assert.is_nil(served_by(c))
    end

    -- And the next one works.
    local function works_then(c)
      local new = upgrade(c)
      assert.equal(0, c:wait())
      assert.equal(tostring(new.pid), ask(new))
    end

    it("since the app is broken, changes nothing", function()
      local c = serve {}
      fails(c, "exited with status 1 before it was ready", function() write_file(c.app, "local = 1") end)
      c:said ":1: "
      write_file(c.app, APP .. "return app\n")
      works_then(c)
    end)

    it("since the app does not load in time, changes nothing", function()
      local c = serve { "--upgrade-timeout", "0.3" }
      fails(c, "was not ready in 0.3 s and was killed by SIGTERM", function()
        write_file(c.app, "require('lunapark').sleep(60)")
      end)
    end)

    it("since it can not listen, changes nothing, and loses no client that it was woken for", function()
      local text = APP .. "app.options = { listen = { '127.0.0.1:0', %s } }\n"
      local path = child.file()
      local c = serve({ shell = " ", listeners = 2 }, text:format(("'unix:%s'"):format(path)))
      for _ = 1, 3 do
        fails(c, "exited with status 1", function()
          write_file(c.app, (text .. "return app\n"):format "'unix:/nonexistent/socket'")
        end)
      end
      c:said "cannot listen on unix:/nonexistent/socket"
      assert.equal(tostring(c.pid), ask { addr = c.addrs[2] })
    end)

    -- A name of the binary; a function that points it at another file, or the binary again; one that makes it a script.
    local function linked()
      local link = child.file()
      local cwd = child.binary:sub(1, 1) ~= "/" and exec.run({ "pwd" }).stdout:gsub("\n", "") .. "/" or ""
      local function point(to)
        C.symlink(to or cwd .. child.binary, link .. ".new")
        assert.equal(0, C.rename(link .. ".new", link))
      end
      point()
      return link, point, function(text)
        os.remove(link)
        write_file(link, text)
        exec.run { "chmod", "755", link }
      end
    end

    it("since the binary is another, or none, changes nothing", function()
      local link, point, script = linked()
      local c = serve { binary = link }
      fails(c, "exited with status 1", function() point "/bin/false" end)
      fails(c, link:gsub("%p", "%%%0") .. ": [Nn]o such file or directory", function() os.remove(link) end)
      fails(c, link:gsub("%p", "%%%0") .. ": [Ee]xec format error", function() script "nothing to run\n" end)
      fails(c, "was killed by SIGKILL", function() script "#!/bin/sh\nkill -KILL $$\n" end)
      point()
      works_then(c)
    end)

    it("since what starts is none of ours, changes nothing", function()
      local link, _, script = linked()
      local c = serve { binary = link }
      fails(c, "exited with status 3", function() script "#!/bin/sh\necho nonsense >&3\nexit 3\n" end)
    end)

    it("since the binary is not ready in time and ignores SIGTERM, changes nothing", function()
      local link, point, script = linked()
      local c = serve { "--upgrade-timeout", "3", "--drain-timeout", "0.2", binary = link }
      fails(c, "was not ready in 3 s and was killed by SIGKILL", function()
        script "#!/bin/sh\ntrap '' TERM\nexec sleep 1000\n"
      end)
      point()
      works_then(c)
    end)
  end)

  it("is refused while another is under way", function()
    local c = serve {}
    write_file(c.app, "require('lunapark').sleep(1)\n" .. APP .. "return app\n")
    c:kill "USR2"
    logged(c, "SIGUSR2: starting")
    c:kill "USR2"
    logged(c, "SIGUSR2: a new process is being started already")
    child.eventually(function() return served_by(c) end, "the new process")
    local new = child.adopt(served_by(c), c)
    assert.equal(0, c:wait())
    assert.equal(1, select(2, c:stderr():gsub("SIGUSR2: starting", "")))
    assert.equal(tostring(new.pid), ask(c))
  end)

  it("ends with SIGTERM: both stop", function()
    local c = serve { "--procs", "1" }
    local conn, held = dial(c), child.file ""
    assert(conn:write(GET:format("/while?file=" .. held)))
    begun(c, 1)
    write_file(c.app, "io.stderr:write 'the new one loads\\n' require('lunapark').sleep(60)\n")
    c:kill "USR2"
    logged(c, "the new one loads")
    c:kill "TERM"
    logged(c, "SIGTERM: stopping")
    os.remove(held)
    assert.equal(tostring(c.pid), testing.read_reply(conn).body)
    conn:close()
    assert.equal(0, c:wait())
    assert.matches("new process %d+ stopped too", c:stderr())
    assert.is_nil(served_by(c))
    assert.is_false(exists(c.pid_file))
    assert.same({ nil, "connection refused" }, { net.dial(c.addr) })
    -- The zombie, if there were one, would be ours now.
    assert.equal(-1, C.waitpid(tonumber(c:stderr():match "new process (%d+)"), nil, 1))
  end)

  it("ends with two SIGTERMs at once", function()
    -- The old one sleeps meanwhile: see support/child.lua.
    if child.has_tsan then return end
    local c = serve {}
    -- SIGTERM, which the old one passes on, would end it while it loads: then there would be nothing to kill.
    write_file(c.app, [[
      local ffi = require "ffi"
      ffi.cdef "void *signal(int signo, void *handler);"
      ffi.C.signal(15, ffi.cast("void *", 1)) -- SIG_IGN
      io.stderr:write "the new one loads\n"
      while true do end
    ]])
    c:kill "USR2"
    logged(c, "the new one loads")
    c:kill "TERM"
    logged(c, "stopping")
    c:kill "TERM"
    assert.equal(0, c:wait())
    assert.matches("warn SIGUSR2: new process %d+ was killed", c:stderr())
    assert.same({ nil, "connection refused" }, { net.dial(c.addr) })
  end)

  it("SIGTERM to a process that drains already does not cut its requests off; a second one does", function()
    local c, held = serve {}, child.file ""
    local gs = { lp.go(ask, c, "/while?file=" .. held) }
    begun(c, 1)
    local new = upgrade(c)
    c:kill "TERM"
    logged(c, "SIGTERM: stopping")
    os.remove(held)
    assert.equal(tostring(c.pid), gs[1]:join())
    assert.equal(0, c:wait())
    assert.equal(tostring(new.pid), ask(new))
    assert.equal(new.pid, read_pid(new.pid_file))
  end)

  it("finds the binary that a relative path or $PATH has named", function()
    local dir = child.file()
    C.mkdir(dir, 448)
    local link = dir .. "/lunapark"
    local cwd = exec.run({ "pwd" }).stdout:gsub("\n", "") .. "/"
    C.symlink(child.binary:sub(1, 1) == "/" and child.binary or cwd .. child.binary, link)
    for start, name in pairs { ["cd " .. dir .. ";"] = "./lunapark", ["PATH=" .. dir .. ":$PATH;"] = "lunapark" } do
      local c = serve { shell = start, binary = name }
      local new = upgrade(c)
      c:logged("starting " .. dir:gsub("%p", "%%%0") .. "/[./]*lunapark as process")
      assert.equal(0, c:wait())
      assert.equal(tostring(new.pid), ask(new))
      new:kill "TERM"
      assert.equal(0, new:wait())
    end
    os.remove(link)
    C.rmdir(dir)
  end)

  it("leaks no descriptor, to itself or to programs, and no variable", function()
    local c = serve { "--procs", "2" }
    local function fds(of)
      local r = exec.run { "ls", "/proc/" .. of.pid .. "/fd" }
      return select(2, r.stdout:gsub("\n", ""))
    end
    local new = upgrade(c)
    assert.equal(0, c:wait())
    ask(new)
    local n = fds(new) -- perhaps with the connection of that
    for _ = 1, 4 do
      local old = new
      new = upgrade(old)
      assert.equal(0, old:wait())
    end
    assert.equal("0\n1\n2\n3\n", ask(new, "/fds")) -- 3 is ls's own
    for _, name in ipairs { "LUNAPARK_INHERIT", "LISTEN_FDS", "LISTEN_PID" } do
      assert.equal("nil", ask(new, "/getenv/" .. name))
    end
    child.eventually(function() return fds(new) <= n end, "no more descriptors than before")
  end)

  it("believes no variable that somebody has exported", function()
    for _, value in ipairs { "3\nprocs 2", "3\n4 own 127.0.0.1:1", "x", "", "3\n3 own x\n999 own 127.0.0.1:0\nabc" } do
      local c = serve { env = { LUNAPARK_INHERIT = value } }
      assert.matches("LUNAPARK_INHERIT: not from a process that hands over", c:stderr())
      assert.equal(tostring(c.pid), ask(c))
      assert.equal("nil", ask(c, "/getenv/LUNAPARK_INHERIT"))
    end
  end)
end)
