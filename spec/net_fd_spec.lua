local ffi = require "ffi"
local lp = require "lunapark"
local testing = require "lunapark.testing"
local net = require "lunapark.net"
local helper = require "spec.helper"

ffi.cdef [[
int socketpair(int family, int type, int protocol, int *fds);
int open(const char *path, int flags, ...);
long read(int fd, void *buf, size_t n);
long write(int fd, const void *data, size_t n);
int epoll_create1(int flags);
]]
local C = ffi.C
local NONBLOCK = 2048

describe("net.fd", function()
  local a, b, handles
  local buf = ffi.new "char[65536]"

  before_each(function()
    local fds = ffi.new "int[2]"
    assert(C.socketpair(1, 1 + NONBLOCK, 0, fds) == 0)
    a, b, handles = fds[0], fds[1], {}
  end)
  after_each(function()
    for _, f in ipairs(handles) do
      f:close()
    end
    C.close(a)
    C.close(b)
  end)

  local function keep(f, err)
    assert(f, err)
    handles[#handles + 1] = f
    return f
  end

  it("waits for somebody else's descriptor", function()
    local f = keep(net.fd(a))
    assert.is_true(f:wait_write())
    assert.same({ nil, "timeout" }, { f:wait_read(0.005) })
    assert.same({ nil, "timeout" }, { f:wait_read(0) })
    assert.same({ nil, "timeout" }, { f:wait_read(-1) })
    local g = lp.go(f.wait_read, f, 5)
    lp.yield()
    C.write(b, "hello", 5)
    assert.is_true(g:join())
    -- Unread is readable, however often one asks.
    assert.is_true(f:wait_read())
    assert.equal(2, tonumber(C.read(a, buf, 2)))
    assert.is_true(f:wait_read())
    assert.equal(3, tonumber(C.read(a, buf, 100)))
    assert.same({ nil, "timeout" }, { f:wait_read(0.002) })
  end)

  it("waits until there is room", function()
    local f = keep(net.fd(a))
    while C.write(a, buf, 65536) > 0 do end
    assert.same({ nil, "timeout" }, { f:wait_write(0.002) })
    local g = lp.go(f.wait_write, f)
    lp.yield()
    while C.read(b, buf, 65536) > 0 do end
    assert.is_true(g:join(5))
  end)

  it("tells of the end", function()
    local f = keep(net.fd(a))
    local g = lp.go(f.wait_read, f)
    lp.yield()
    C.close(b)
    assert.is_true(g:join(5))
    assert.equal(0, tonumber(C.read(a, buf, 1)))
    assert.is_true(f:wait_read())
    b = C.dup(a)
  end)

  it("lets several Gs wait, in both directions", function()
    local f = keep(net.fd(a))
    local gs = {}
    for i = 1, 4 do
      gs[i] = lp.go(i < 4 and f.wait_read or f.wait_write, f)
    end
    assert.is_true(gs[4]:join(5))
    C.write(b, "x", 1)
    for i = 1, 3 do
      assert.is_true(gs[i]:join(5))
    end
  end)

  it("is canceled, and obeys deadlines", function()
    local f = keep(net.fd(a))
    local g = lp.go(f.wait_read, f, 30)
    lp.sleep(0.001)
    g:cancel()
    assert.same({ nil, "canceled" }, { g:join(5) })
    assert.same({ nil, "timeout" }, { lp.deadline(0.005, f.wait_read, f, 30) })
  end)

  it("leaves the descriptor open when it is closed, and can be had again", function()
    local f = net.fd(a)
    local g = lp.go(f.wait_read, f)
    lp.yield()
    assert.is_true(f:close())
    assert.is_true(f:close())
    assert.same({ nil, "closed" }, { g:join(5) })
    assert.same({ nil, "closed" }, { f:wait_read() })
    assert.same({ nil, "closed" }, { f:wait_write(1) })
    assert.equal(1, tonumber(C.write(a, "x", 1)))
    assert.equal(1, tonumber(C.read(b, buf, 10)))
    f = keep(net.fd(a))
    C.write(b, "y", 1)
    assert.is_true(f:wait_read(5))
  end)

  it("leaves it open when it is forgotten", function()
    testing.allow_leak "socket"
    do
      local f = net.fd(a)
      assert(f:wait_write())
    end
    for _ = 1, 3 do collectgarbage() end
    assert.equal(1, tonumber(C.write(a, "x", 1)))
  end)

  it("says what can't be waited for", function()
    local path = os.tmpname()
    local file = C.open(path, 0)
    assert.same({ nil, "this kind of file can't be waited for, it is always ready" }, { net.fd(file) })
    C.close(file)
    os.remove(path)
    assert.same({ nil, "bad file descriptor" }, { net.fd(file) })
    assert.same({ nil, "bad file descriptor" }, { net.fd(1000000) })
  end)

  it("refuses the runtime's own descriptors", function()
    local own = 0
    for fd = 3, 40 do
      local f, err = net.fd(fd)
      if err == "it is one of the runtime's own" then own = own + 1 end
      if f then f:close() end
    end
    assert.is_true(own >= 2)
  end)

  it("refuses misuse, naming the argument", function()
    local f = keep(net.fd(a))
    assert.matches("fd: fd must be a whole number, 0 or more, got nil", helper.raised(net.fd))
    assert.matches("fd: fd must be a whole number, 0 or more, got %-1", helper.raised(net.fd, -1))
    assert.matches("fd: fd must be a descriptor", helper.raised(net.fd, 1e10))
    assert.matches("wait_read: s must be a number", helper.raised(f.wait_read, f, "1"))
    assert.matches("wait_write: s must be a number", helper.raised(f.wait_write, f, {}))
  end)
end)
