-- FIFOs, terminals, devices: who waits for their other side holds no thread and nobody else.

local ffi = require "ffi"
local lp = require "lunapark"
local exec = require "lunapark.exec"
local fs = require "lunapark.fs"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local helper = require "spec.helper"

local MANY = 200

describe("a FIFO", function()
  local path, plain

  before_each(function()
    path, plain = child.file(), child.file "plain"
    assert(exec.run({ "mkfifo", path }).code == 0)
  end)
  after_each(child.clean)

  local function descriptors()
    local n = 0
    for _, name in ipairs(fs.list "/proc/self/fd") do
      n = n + (fs.stat("/proc/self/fd/" .. name) and 1 or 0)
    end
    return n
  end

  it("that many read holds up neither files nor programs", function()
    local gs, before = {}, descriptors()
    for i = 1, MANY do
      gs[i] = lp.go(fs.read, path)
    end
    local opened = lp.go(function()
      local f = assert(fs.open(path))
      local text = f:read(1)
      f:close()
      return text
    end)
    helper.eventually(function() return descriptors() >= before + MANY + 1 end)
    assert.equal("plain", fs.read(plain))
    assert.is_true(fs.write(plain, "new"))
    assert.equal("hi", exec.run({ "printf", "hi" }).stdout)
    -- The threads of the process: none waits in there.
    assert.is_true(#fs.list "/proc/self/task" < MANY)
    for _, g in ipairs(gs) do
      g:cancel()
      assert.same({ nil, "canceled" }, { g:join() })
    end
    assert.is_true(fs.write(path, "x"))
    assert.equal("x", opened:join())
    collectgarbage()
    helper.eventually(function() return descriptors() <= before + 1 end)
  end)

  it("is read to the end, when a writer has come and gone", function()
    local reader = lp.go(fs.read, path)
    local w = assert(fs.open(path, "w"))
    assert.is_true(w:write "one ")
    lp.sleep(0.01)
    assert.is_true(w:write "two")
    assert.is_true(w:close())
    assert.equal("one two", reader:join())
    reader = lp.go(fs.read, path)
    assert(fs.open(path, "a")):close()
    assert.equal("", reader:join())
  end)

  it("is written when a reader has come", function()
    local long = ("x"):rep(300000)
    local writers = { lp.go(fs.write, path, long), lp.go(fs.append, path, long) }
    lp.sleep(0.01)
    local f = assert(fs.open(path))
    local n = 0
    helper.eventually(function() -- the second one may come when the first has closed
      n = n + #(f:read(600000 - n) or "")
      return n == 600000
    end, "what both have written")
    for _, w in ipairs(writers) do
      assert.is_true(w:join())
    end
    assert.same({ nil, "eof" }, { f:read(1) })
    assert.same({ nil, "eof" }, { f:read() })
    f:close()
    assert.same({ nil, "closed" }, { f:read() })
    assert.same({ nil, "closed" }, { f:write "x" })
    assert.equal("fifo", fs.stat(path).type)
  end)

  it("ends waits with the deadline", function()
    assert.same({ nil, "timeout" }, { lp.deadline(0.01, fs.read, path) })
    assert.same({ nil, "timeout" }, { lp.deadline(0.01, fs.write, path, "x") })
    assert.same({ nil, "timeout" }, { lp.deadline(0.01, fs.append, path, "x") })
    assert.same({ nil, "timeout" }, { lp.deadline(0.01, fs.open, path, "w") })
    local f = assert(fs.open(path, "r+"))
    assert.same({ nil, "timeout" }, { lp.deadline(0.01, f.read, f, 1) })
    assert.is_true(f:write "abc")
    assert.equal("ab", f:read(2))
    assert.same({ nil, "illegal seek: " .. path }, { f:seek() })
    assert.same({ nil, "invalid argument: " .. path }, { f:sync() })
    assert.is_true(f:close())
    assert.is_true(f:close())
  end)

  it("does not stop the server whose handlers read it", function()
    local client = testing.serve(function(req)
      if req.path == "/fifo" then return fs.read(path) end
      return fs.read(plain)
    end)
    local gs = {}
    for i = 1, 40 do
      gs[i] = lp.go(function() return client:get("/fifo") end)
    end
    for _ = 1, 5 do
      assert.equal("plain", client:get("/").body)
    end
    helper.eventually(function() return helper.count_open(path) == 40 end, "40 readers")
    assert.is_true(fs.write(path, "now"))
    for _, g in ipairs(gs) do
      assert.equal(200, g:join().status)
    end
  end)
end)

describe("a terminal", function()
  it("is read as it is typed in", function()
    ffi.cdef [[
      int grantpt(int fd); int unlockpt(int fd); int ptsname_r(int fd, char *name, size_t size);
      int open(const char *path, int flags, ...); int close(int fd);
    ]]
    local master = ffi.C.open("/dev/ptmx", 2 + 0x100 + 0x80000) -- O_RDWR | O_NOCTTY | O_CLOEXEC
    if master < 0 then return pending "no terminals here" end
    local name = ffi.new "char[64]"
    assert(ffi.C.grantpt(master) == 0 and ffi.C.unlockpt(master) == 0 and ffi.C.ptsname_r(master, name, 64) == 0)
    local tty = assert(fs.open(ffi.string(name)))
    assert.same({ nil, "timeout" }, { lp.deadline(0.01, tty.read, tty, 1) })
    local keys = assert(fs.open("/proc/self/fd/" .. master, "w"))
    keys:close()
    ffi.cdef "int64_t lp_test_write(int, const char *, size_t) asm(\"write\");"
    assert(ffi.C.lp_test_write(master, "abc\n", 4) == 4)
    assert.equal("abc\n", tty:read(4))
    tty:close()
    ffi.C.close(master)
  end)
end)

describe("a device without another side", function()
  it("is read and written at once", function()
    assert.equal("", fs.read "/dev/null")
    assert.is_true(fs.write("/dev/null", "x"))
    local f = assert(fs.open "/dev/zero")
    assert.equal(("\0"):rep(100), f:read(100))
    f:close()
    assert.same({ nil, "no space left on device: /dev/full" }, { fs.write("/dev/full", "x") })
    f = assert(fs.open "/dev/urandom")
    assert.equal(16, #f:read(16))
    f:close()
  end)
end)
