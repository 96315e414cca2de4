-- What a service manager sees: its socket for notifications, the sockets that it opens for a service, the unit.

local ffi = require "ffi"
local exec = require "lunapark.exec"
local net = require "lunapark.net"
local child = require "spec.support.child"
local helper = require "spec.helper"

ffi.cdef [[
int prctl(int option, unsigned long arg, unsigned long, unsigned long, unsigned long);
int socket(int domain, int type, int protocol);
int bind(int fd, const char *addr, unsigned len);
int listen(int fd, int backlog);
int getsockname(int fd, uint8_t *addr, unsigned *len);
long recv(int fd, void *buf, size_t n, int flags);
int close(int fd);
]]
local C = ffi.C
local SUBREAPER, UNIX, INET, STREAM, DGRAM, NONBLOCK, CLOEXEC = 36, 1, 2, 1, 2, 2048, 524288

local APP = [[
local app = require("lunapark.http").app()
app:get("/", function() return "hello" end)
app:get("/getenv/:name", function(req) return tostring(os.getenv(req.params.name)) end)
return app
]]

local function ask(addr, path)
  local client = child.client(addr)
  local r = assert(client:get(path or "/"))
  client:close()
  return r.body
end

local function served_by(c)
  local pid
  child.eventually(function()
    pid = c:stderr():match ".*process (%d+) serves"
    return pid
  end, "the new process")
  return child.adopt(tonumber(pid), c)
end

-- The address of a unix socket: its family and its name.
local function unix_address(name)
  return "\1\0" .. name, 2 + #name
end

describe("systemd:", function()
  setup(function() C.prctl(SUBREAPER, 1, 0, 0, 0) end)
  teardown(function() C.prctl(SUBREAPER, 0, 0, 0, 0) end)

  local fds = {}

  after_each(function()
    child.clean()
    for _, fd in ipairs(fds) do
      C.close(fd)
    end
    fds = {}
  end)

  local function socket(family, kind, addr, len, blocks)
    local fd = C.socket(family, kind + (blocks and 0 or NONBLOCK) + CLOEXEC, 0)
    assert(fd >= 0)
    fds[#fds + 1] = fd
    assert.equal(0, C.bind(fd, addr, len))
    if kind == STREAM then assert.equal(0, C.listen(fd, 100)) end
    return fd
  end

  describe("$NOTIFY_SOCKET", function()
    local manager, buf

    -- What comes next.
    local function message()
      assert(manager:wait_read(helper.PATIENCE))
      local n = C.recv(fds[1], buf, 4096, 0)
      return ffi.string(buf, n)
    end

    local function listen(name)
      buf = ffi.new "char[4096]"
      manager = assert(net.fd(socket(UNIX, DGRAM, unix_address(name))))
    end

    after_each(function() manager:close() end)

    local names = { path = function() return child.file() end, abstract = function() return "@" .. child.file() end }
    for kind, name in pairs(names) do
      it("hears of the beginning, an upgrade and the end, by a socket that is a " .. kind, function()
        local where = name()
        listen((where:gsub("^@", "\0")))
        local c = child.serve { child.script(APP), env = { NOTIFY_SOCKET = where } }
        assert.equal("READY=1", message())
        assert.equal("hello", ask(c.addr))
        c:kill "USR2"
        local new = served_by(c)
        assert.equal("MAINPID=" .. new.pid, message())
        assert.equal(0, c:wait())
        new:kill "TERM"
        assert.equal("STOPPING=1", message())
        assert.equal(0, new:wait())
        assert.same({ nil, "timeout" }, { manager:wait_read(0.05) })
      end)
    end

    it("hears of a reload: its beginning, on the monotonic clock, and its end", function()
      local where = child.file()
      listen(where)
      local path = child.script(APP)
      local c = child.serve { path, env = { NOTIFY_SOCKET = where } }
      assert.equal("READY=1", message())
      local before = require("lunapark").now() * 1e6
      local f = assert(io.open(path, "a"))
      f:write "-- changed\n"
      f:close()
      c:kill "HUP"
      local usec = tonumber(message():match "^RELOADING=1\nMONOTONIC_USEC=(%d+)$")
      assert.is_true(before <= usec + 1 and usec <= require("lunapark").now() * 1e6, usec)
      assert.equal("READY=1", message())
      c:kill "TERM"
      assert.equal("STOPPING=1", message())
      assert.equal(0, c:wait())
    end)

    it("that is full, gone, or nonsense holds nothing up", function()
      local where = child.file()
      listen(where)
      local sender = C.socket(UNIX, DGRAM + NONBLOCK + CLOEXEC, 0)
      fds[#fds + 1] = sender
      local u = assert(net.udp("unix:" .. child.file()))
      u:set_write_deadline(0.2)
      local n = 0
      while u:send("x", "unix:" .. where) do
        n = n + 1
        assert.is_true(n < 100000)
      end
      u:close()
      assert.is_true(n > 0)
      for _, value in ipairs { where, "/nonexistent/socket", "nonsense", "@", "", "/" .. ("x"):rep(200) } do
        local c = child.serve { child.script(APP), env = { NOTIFY_SOCKET = value } }
        assert.equal("hello", ask(c.addr))
        c:kill "TERM"
        assert.equal(0, c:wait())
        assert.is_nil(c:stderr():find "NOTIFY_SOCKET")
      end
      local c = child.serve { child.script(APP), "--log-level", "debug",
        env = { NOTIFY_SOCKET = "/nonexistent/socket" } }
      child.eventually(function() return c:stderr():find "debug NOTIFY_SOCKET: [Nn]o such file" end,
        "a line in the log")
    end)
  end)

  describe("$LISTEN_FDS", function()
    -- The server with our descriptor as its 3.
    local function serve(fd, args, env)
      local script = child.script(APP)
      return child.serve { "-c", env or 'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$0" "$@"', child.binary, script,
        binary = "/bin/sh", fd3 = fd, listeners = args and 0 or 1, unpack(args or {}) }
    end

    local function inet_socket(blocks)
      local fd = socket(INET, STREAM, "\2\0\0\0\127\0\0\1" .. ("\0"):rep(8), 16, blocks)
      local addr, len = ffi.new "uint8_t[16]", ffi.new("unsigned[1]", 16)
      C.getsockname(fd, addr, len)
      return fd, "127.0.0.1:" .. addr[2] * 256 + addr[3]
    end

    it("is listened on, if no address is said, and stays systemd's", function()
      local fd, addr = inet_socket()
      local waiting = assert(net.dial(addr)) -- before there is a server
      assert(waiting:write "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
      local c = serve(fd)
      assert.equal(addr, c.addr)
      waiting:set_deadline(20)
      assert.equal("HTTP/1.1 200 OK", waiting:read_line())
      waiting:close()
      for _, name in ipairs { "LISTEN_FDS", "LISTEN_PID" } do
        assert.equal("nil", ask(addr, "/getenv/" .. name))
      end
      c:kill "USR2"
      local new = served_by(c)
      assert.equal(0, c:wait())
      assert.equal("hello", ask(addr))
      new:kill "TERM"
      assert.equal(0, new:wait())
      assert(net.dial(addr)):close() -- it listens on for the next start
    end)

    it("may block: nobody waits in the kernel for the next client", function()
      local fd, addr = inet_socket(true)
      local c = serve(fd, { "--listen", addr, "--procs", "1" })
      local client = child.client(addr)
      for _ = 1, 3 do
        assert.equal("hello", client:get("/").body) -- on one connection, while the acceptor waits
        assert.equal("hello", ask(addr))
      end
      client:close()
      c:kill "TERM"
      assert.equal(0, c:wait())
    end)

    it("leaves the file of a unix socket alone", function()
      local path = child.file()
      local fd = socket(UNIX, STREAM, unix_address(path))
      local c = serve(fd)
      assert.equal("unix:" .. path, c.addr)
      c:kill "USR2"
      local new = served_by(c)
      assert.equal(0, c:wait())
      assert.equal("hello", ask(new.addr or c.addr))
      new:kill "TERM"
      assert.equal(0, new:wait())
      assert(net.dial("unix:" .. path)):close()
    end)

    it("is used for the address that it has, others are bound, and one that nobody names is closed", function()
      local fd, addr = inet_socket()
      local c = serve(fd, { "--listen", addr })
      assert.equal("hello", ask(addr))
      assert.is_nil(c:stderr():find "not listened on")
      local other = serve(fd, { "--listen", "127.0.0.1:0" })
      assert.are_not.equal(addr, other.addr)
      assert.equal("hello", ask(other.addr))
      child.eventually(function() return other:stderr():find(addr .. ": not listened on any more", 1, true) end,
        "a line in the log")
    end)

    it("is somebody else's, or no listening socket: it is not used", function()
      local fd, addr = inet_socket()
      local own = { "--listen", "127.0.0.1:0" }
      local c = serve(fd, own, 'export LISTEN_PID=1 LISTEN_FDS=1; exec "$0" "$@"')
      assert.are_not.equal(addr, c.addr)
      assert.is_nil(c:stderr():find "LISTEN_FDS")
      local udp = socket(INET, DGRAM, "\2\0\0\0\127\0\0\1" .. ("\0"):rep(8), 16)
      c = serve(udp, own)
      assert.matches("LISTEN_FDS: descriptor 3 is not used: no listening socket", c:stderr())
      assert.equal("hello", ask(c.addr))
      c = serve(fd, own, 'export LISTEN_PID=$$ LISTEN_FDS=3; exec "$0" "$@" 4</dev/null 5<&-')
      assert.matches("descriptor 4 is not used: no listening socket", c:stderr())
      assert.matches("descriptor 5 is not used: no listening socket", c:stderr())
    end)
  end)

  it("the unit says what the program does", function()
    local f = assert(io.open "host/command/lunapark.service")
    local text = f:read "*a"
    f:close()
    for _, line in ipairs { "Type=notify", "NotifyAccess=main", "ExecReload=/bin/kill -HUP $MAINPID",
      "ExecStart=/usr/local/bin/lunapark serve ${APP}" } do
      assert.is_truthy(text:find("\n" .. line .. "\n", 1, true), line)
    end
    assert.is_nil(text:find "\nMemoryDenyWriteExecute")
    local found = exec.run { "systemd-analyze", "--version" }
    if not found or found.code ~= 0 then return end
    local binary = child.binary:sub(1, 1) == "/" and child.binary
      or exec.run({ "pwd" }).stdout:gsub("\n", "") .. "/" .. child.binary
    local unit = child.file(text:gsub("/usr/local/bin/lunapark", (binary:gsub("%%", "%%%%"))), ".service")
    local r = assert(exec.run({ "systemd-analyze", "verify", unit }, { timeout = 60 }))
    assert.same({ 0, "" }, { r.code, r.stdout .. r.stderr })
  end)
end)
