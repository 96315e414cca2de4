local ffi = require "ffi"
local lp = require "lunapark"
local testing = require "lunapark.testing"
local exec = require "lunapark.exec"
local fs = require "lunapark.fs"
local child = require "spec.support.child"
local helper = require "spec.helper"

ffi.cdef [[
void __tsan_init(void);
int open(const char *path, int flags, ...);
int fcntl(int fd, int op, ...);
int close(int fd);
]]
local CLOEXEC, F_SETSIG, F_SETLEASE, F_WRLCK, SIGURG = 0x80000, 10, 1024, 1, 23
local tsan = pcall(function() return ffi.C.__tsan_init end)

describe("fs", function()
  local dir

  before_each(function()
    dir = os.tmpname()
    os.remove(dir)
    assert(exec.run({ "mkdir", dir }).code == 0)
  end)
  after_each(function()
    exec.run { "rm", "-rf", dir }
    child.clean()
  end)

  local function path(name)
    return dir .. "/" .. name
  end

  it("reads a whole file", function()
    assert.equal("", fs.read "/dev/null")
    local text = ("0123456789\0"):rep(100000)
    local f = io.open(path "f", "w")
    f:write(text)
    f:close()
    assert.is_true(fs.read(path "f") == text)
    -- The kernel does not say how large these are.
    assert.matches("^Name:", fs.read "/proc/self/status")
  end)

  it("names what it could not do", function()
    assert.same({ nil, "no such file or directory: /nosuch" }, { fs.read "/nosuch" })
    assert.same({ nil, "is a directory: " .. dir }, { fs.read(dir) })
    assert.same({ nil, "no such file or directory: /nosuch/x" }, { fs.write("/nosuch/x", "") })
    assert.same({ nil, "is a directory: " .. dir }, { fs.write(dir, "") })
    assert.same({ nil, "is a directory: " .. dir }, { fs.append(dir, "") })
    assert.same({ nil, "no such file or directory: /nosuch" }, { fs.stat "/nosuch" })
    assert.same({ nil, "not a directory: /dev/null" }, { fs.list "/dev/null" })
    assert.same({ nil, "no such file or directory: /nosuch" }, { fs.open "/nosuch" })
  end)

  it("has files without a name", function()
    for _, where in ipairs { dir, dir .. "/" } do
      local f = assert(fs.temporary(where))
      assert.same({}, fs.list(dir))
      assert(f:write "0123456789")
      assert.equal(0, f:seek("set", 0))
      assert.equal("01234", f:read(5))
      assert.equal("56789", f:read())
      assert(f:close())
    end
    assert(assert(fs.temporary()):close())
    assert.same({ nil, "no such file or directory: /nosuch" }, { fs.temporary "/nosuch" })
    assert.matches("temporary: path must be", helper.raised(fs.temporary, 1))
  end)

  describe("below a folder", function()
    local root

    before_each(function()
      root = path "root"
      local made = exec.run({ "sh", "-c", [[
        mkdir -p root/d secret && printf secret >secret/s && printf a >root/a && cd root && ln -s ../secret/s out &&
        ln -s ../secret dir && ln -s /etc/passwd abs && ln -s ../made made && ln -s nothing none]] }, { cwd = dir })
      assert.equal(0, made.code)
    end)

    local out = { "../secret/s", "d/../../secret/s", "/etc/passwd", "out", "dir/s", "abs", "made", "..", "/" }

    it("reads, opens and appends to what is there, and to nothing else", function()
      assert.equal("a", fs.read("a", { below = root }))
      assert.equal("a", fs.read("d/../a", { below = root .. "/" }))
      assert.is_true(fs.append("d/new", "1", { below = root }))
      local f = assert(fs.open("d/new", "a", { below = root }))
      assert(f:write "2")
      assert(f:close())
      assert.equal("12", fs.read(root .. "/d/new"))
      for _, name in ipairs(out) do
        local said = { nil, "leads out of its folder: " .. name }
        assert.same(said, { fs.read(name, { below = root }) })
        assert.same(said, { fs.append(name, "x", { below = root }) })
        for _, mode in ipairs { "r", "w", "a+", "x" } do
          local file, err = fs.open(name, mode, { below = root })
          assert.is_nil(file)
          assert.is_true(err == said[2] or mode == "x" and err == "file exists: " .. name, err)
        end
      end
      assert.equal("secret", fs.read(path "secret/s"))
      assert.is_nil(fs.stat(path "made"))
      assert.same({ nil, "no such file or directory: nothing" }, { fs.read("nothing", { below = root }) })
      assert.same({ nil, "no such file or directory: a" }, { fs.read("a", { below = path "nowhere" }) })
    end)

    it("has paths: of what is there, and of what can be made", function()
      for _, name in ipairs { "a", "d", "d/new", "new", "d/../a" } do
        assert.equal(root .. "/" .. name, fs.join_below(root, name))
      end
      assert.equal(root .. "/a", fs.join_below(root .. "/", "a"))
      assert.equal("/etc", fs.join_below("/", "etc"))
      assert.equal(root, fs.join_below(root, ""))
      assert.is_true(fs.write(assert(fs.join_below(root, "d/made")), "text"))
      assert.equal("text", fs.read("d/made", { below = root }))
      for _, name in ipairs(out) do
        assert.same({ nil, "leads out of its folder: " .. name }, { fs.join_below(root, name) })
      end
      assert.same({ nil, "no such file or directory: none" }, { fs.join_below(root, "none") })
      assert.same({ nil, "no such file or directory: no/new" }, { fs.join_below(root, "no/new") })
      assert.same({ nil, "NUL byte in a path" }, { fs.join_below(root, "a\0/../..") })
    end)

    it("names what is wrong with its arguments", function()
      assert.matches("join_below: root must be a string, got nil", helper.raised(fs.join_below))
      assert.matches("join_below: path must be a string, got nil", helper.raised(fs.join_below, root))
      assert.matches("read: opts must be a table, got string", helper.raised(fs.read, "a", root))
      assert.matches("read: unknown option bellow", helper.raised(fs.read, "a", { bellow = root }))
      assert.matches("open: opts.below must not contain a NUL byte", helper.raised(fs.open, "a", "r", { below = "\0" }))
      assert.matches("append: opts.below must be a string", helper.raised(fs.append, "a", "", { below = 1 }))
    end)
  end)

  it("names what is wrong with its arguments", function()
    for _, name in ipairs { "read", "write", "append", "stat", "list", "open" } do
      local fn = fs[name]
      local function call(...)
        local r = fn(...)
        return r
      end
      assert.matches("fs_spec.lua:%d+: " .. name .. ": path must be a string, got nil", helper.raised(call))
      assert.matches(name .. ": path must not contain a NUL byte", helper.raised(call, "a\0b", ""))
    end
    assert.matches("write: data must be a string, got nil", helper.raised(fs.write, "x"))
    assert.matches("append: data must be a string, got table", helper.raised(fs.append, "x", {}))
    for _, mode in ipairs { "", "rw", "z", 1 } do
      assert.matches("open: mode must be r, w, a or x, with %+ or without", helper.raised(fs.open, "x", mode))
    end
  end)

  it("writes a file as a whole", function()
    assert.is_true(fs.write(path "f", "one"))
    assert.equal("one", fs.read(path "f"))
    assert.is_true(fs.write(path "f", ""))
    assert.equal("", fs.read(path "f"))
    assert.same({ "f" }, fs.list(dir))
    -- Who has it open has the old one.
    fs.write(path "f", "old")
    local f = assert(fs.open(path "f"))
    fs.write(path "f", "new")
    assert.equal("old", f:read())
    f:close()
  end)

  it("keeps permissions, and follows symbolic links", function()
    fs.write(path "f", "old")
    exec.run { "chmod", "640", path "f" }
    exec.run { "ln", "-s", path "f", path "link" }
    assert.is_true(fs.write(path "link", "new"))
    assert.equal("new", fs.read(path "f"))
    assert.equal(416, fs.stat(path "f").mode)
    assert.equal(0, exec.run({ "test", "-L", path "link" }).code)
    exec.run { "ln", "-s", path "later", path "dangling" }
    assert.is_true(fs.write(path "dangling", "there"))
    assert.equal("there", fs.read(path "later"))
    assert.is_true(fs.write("/dev/null", "device"))
    assert.equal("char", fs.stat("/dev/null").type)
  end)

  it("shows no half of a file to those who read meanwhile", function()
    local a, b = ("a"):rep(200000), ("b"):rep(300000)
    fs.write(path "f", a)
    local over = false
    local writer = lp.go(function()
      for i = 1, 20 do
        assert(fs.write(path "f", i % 2 == 0 and a or b))
      end
      over = true
    end)
    while not over do
      local text = fs.read(path "f")
      assert.is_true(text == a or text == b)
    end
    writer:join()
    assert.same({ "f" }, fs.list(dir))
  end)

  it("appends", function()
    assert.is_true(fs.append(path "f", "one"))
    assert.is_true(fs.append(path "f", "two"))
    assert.equal("onetwo", fs.read(path "f"))
    local gs = {}
    for i = 1, 50 do
      gs[i] = lp.go(fs.append, path "g", ("x"):rep(99) .. "\n")
    end
    for _, g in ipairs(gs) do
      assert.is_true(g:join())
    end
    assert.equal(((("x"):rep(99) .. "\n"):rep(50)), fs.read(path "g"))
  end)

  it("knows what a file is", function()
    fs.write(path "f", "12345")
    local s = fs.stat(path "f")
    assert.equal("file", s.type)
    assert.equal(5, s.size)
    assert.equal(1, s.links)
    assert.is_true(math.abs(s.mtime - os.time()) < 60)
    assert.equal("directory", fs.stat(dir).type)
    exec.run { "mkfifo", path "fifo" }
    assert.equal("fifo", fs.stat(path "fifo").type)
  end)

  it("lists names in order", function()
    assert.same({}, fs.list(dir))
    local names = {}
    for i = 1, 300 do
      names[i] = ("%s%d"):format(i % 2 == 0 and "b" or "A", i)
      io.open(path(names[i]), "w"):close()
    end
    table.sort(names)
    assert.same(names, fs.list(dir))
  end)

  describe("open", function()
    it("reads in pieces", function()
      fs.write(path "f", "hello world")
      local f = assert(fs.open(path "f"))
      assert.equal("hello", f:read(5))
      assert.equal(" world", f:read(100))
      assert.same({ nil, "eof" }, { f:read(1) })
      assert.same({ nil, "eof" }, { f:read() })
      assert.equal(6, f:seek("set", 6))
      assert.equal("world", f:read())
      assert.same({ nil, "bad file descriptor: " .. path "f" }, { f:write "x" })
      assert.is_true(f:close())
      assert.is_true(f:close())
      assert.same({ nil, "closed" }, { f:read() })
      assert.same({ nil, "closed" }, { f:seek() })
      assert.same({ nil, "closed" }, { f:sync() })
      assert.matches("read: n must be a whole number, 1 or more", helper.raised(f.read, f, 0))
      assert.matches("seek: whence must be set, cur or end, got x", helper.raised(f.seek, f, "x"))
      assert.matches("seek: offset must be a whole number, got 0.5", helper.raised(f.seek, f, "set", 0.5))
      assert.matches("write: data must be a string, got number", helper.raised(f.write, f, 1))
    end)

    it("writes", function()
      local f = assert(fs.open(path "f", "w+"))
      assert.is_true(f:write "hello")
      assert.is_true(f:write "")
      assert.equal(5, f:seek())
      assert.equal(1, f:seek("cur", -4))
      assert.is_true(f:write "ELL")
      assert.is_true(f:sync())
      assert.equal(5, f:seek "end")
      f:seek "set"
      assert.equal("hELLo", f:read())
      assert.same({ nil, "invalid argument: " .. path "f" }, { f:seek("set", -1) })
      f:close()
      f = assert(fs.open(path "f", "a"))
      f:seek "set"
      f:write "!"
      f:close()
      assert.equal("hELLo!", fs.read(path "f"))
      f = assert(fs.open(path "f", "wb"))
      f:close()
      assert.equal("", fs.read(path "f"))
      assert.same({ nil, "file exists: " .. path "f" }, { fs.open(path "f", "x") })
      assert(fs.open(path "new", "x")):close()
    end)

    it("closes what nobody holds any more", function()
      testing.allow_leak "file"
      local function count()
        return #fs.list "/proc/self/fd"
      end
      fs.write(path "f", "x")
      local before = count()
      for _ = 1, 20 do fs.open(path "f") end
      collectgarbage()
      collectgarbage()
      assert.is_true(count() <= before + 2)
    end)

    it("is used by several Gs", function()
      local f = assert(fs.open(path "f", "w+"))
      local gs = {}
      for i = 1, 40 do
        gs[i] = lp.go(function() return f:write(("%02d\n"):format(i)) end)
      end
      for _, g in ipairs(gs) do
        assert.is_true(g:join())
      end
      f:seek "set"
      local seen, n = {}, 0
      for line in f:read():gmatch "(%d%d)\n" do
        seen[line] = true
      end
      for _ in pairs(seen) do n = n + 1 end
      assert.equal(40, n)
      f:close()
    end)
  end)

  describe("a disk that does not answer", function()
    -- By name: descriptors with a lease, which makes others wait who open the file, until it is given up.
    local leases

    before_each(function() leases = {} end)

    local function stuck(i)
      local name = path("stuck" .. i)
      assert(fs.write(name, ""))
      local fd = ffi.C.open(name, CLOEXEC)
      assert(fd >= 0)
      -- Who is waited for gets a signal: this one means nothing to us.
      assert(ffi.C.fcntl(fd, F_SETSIG, ffi.cast("int", SIGURG)) == 0)
      assert(ffi.C.fcntl(fd, F_SETLEASE, ffi.cast("int", F_WRLCK)) == 0)
      leases[name] = fd
      return name
    end

    local function release()
      for _, fd in pairs(leases) do
        ffi.C.close(fd)
      end
      leases = {}
    end

    after_each(function() release() end)

    it("is not waited for beyond a deadline or a cancellation", function()
      local name = stuck(1)
      assert.same({ nil, "timeout" }, { lp.deadline(0.02, fs.read, name) })
      local g = lp.go(fs.read, stuck(2))
      lp.sleep(0.01)
      g:cancel()
      assert.same({ nil, "canceled" }, { g:join(5) })
      assert.same({ nil, "timeout" }, { lp.deadline(0, fs.write, path "never", "x") })
      lp.sleep(0.01)
      collectgarbage()
    end)

    it("is not waited for by any of the calls, nor by those of an open file", function()
      local plain, f = path "plain", assert(fs.open(path "f", "w+"))
      for name, call in pairs {
        read = function() return fs.read(plain) end, write = function() return fs.write(plain, "x") end,
        append = function() return fs.append(plain, "x") end, stat = function() return fs.stat(plain) end,
        list = function() return fs.list(dir) end, open = function() return fs.open(plain) end,
        ["file:read"] = function() return f:read(1) end,
      } do
        assert.same({ name, nil, "timeout" }, { name, lp.deadline(0, call) })
        local g = lp.go(call)
        g:cancel()
        assert.same({ name, nil, "canceled" }, { name, g:join(5) })
      end
      for name, call in pairs {
        write = function() return f:write "x" end, seek = function() return f:seek "set" end,
        sync = function() return f:sync() end, close = function() return f:close() end,
      } do
        assert.same({ name, nil, "timeout" }, { name, lp.deadline(0, call) })
      end
      f:close()
    end)

    it("holds up no other G, and other files only when there are very many", function()
      local gs = {}
      for i = 1, 31 do
        gs[i] = lp.go(fs.read, stuck(i))
      end
      lp.sleep(0.02)
      assert.is_string(fs.read "/etc/passwd")
      gs[32] = lp.go(fs.read, stuck(32))
      lp.sleep(0.02)
      assert.same({ nil, "timeout" }, { lp.deadline(0.02, fs.read, "/etc/passwd") })
      local queued = lp.go(fs.read, "/etc/passwd")
      lp.sleep(0.01)
      release()
      assert.is_string(queued:join(10))
      for _, g in ipairs(gs) do
        assert.equal("", g:join(10))
      end
    end)

    -- ThreadSanitizer keeps the signal back that ends the loop.
    if tsan then return end

    it("does not hold a VM that is dropped", function()
      local name = stuck(1)
      local server = child.serve {
        child.script(([[
          local fs, http = require "lunapark.fs", require "lunapark.http"
          local app = http.app()
          local f
          app:get("/read", function() f = fs.open "/etc/passwd"; return fs.read "%s" end)
          app:get("/loop", function() while true do end end)
          app:get("/", function() return fs.read "/etc/passwd" end)
          return app
        ]]):format(name)), "--procs", "1", "--handler-timeout", "0.5", "--kill-after", "0.2",
      }
      local g = lp.go(function() return child.client(server.addr):get("/read").status end)
      lp.sleep(0.1)
      child.eventually(function() -- on a busy machine its time may be over before it has begun
        child.client(server.addr):get "/loop"
        return server:stderr():find "VM %d+ is dropped"
      end, "the end of the VM")
      assert.is_true(g:join(20) >= 500)
      release()
      for _ = 1, 5 do
        assert.equal(200, child.client(server.addr):get("/").status)
      end
    end)
  end)

  it("lets others run meanwhile, where a wait is no yield too", function()
    fs.write(path "f", "2")
    local t = { 3, 1, 2 }
    table.sort(t, function(a, b)
      assert(fs.read(path "f") == "2")
      return a < b
    end)
    assert.same({ 1, 2, 3 }, t)
  end)
end)
