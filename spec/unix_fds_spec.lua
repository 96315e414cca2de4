--- Reads from unix sockets stop at a message that carries descriptors, so a short read does not mean that the socket is
--- drained. Descriptors that nobody asked for are closed by the kernel.

local ffi = require "ffi"
local net = require "lunapark.net"
local child = require "spec.support.child"
local helper = require "spec.helper"

ffi.cdef [[
struct unix_fds_iovec { const void *base; size_t len; };
struct unix_fds_msghdr {
  void *name; unsigned namelen; struct unix_fds_iovec *iov; size_t iovlen; void *control; size_t controllen; int flags;
};
struct unix_fds_rights { size_t len; int level; int type; int fd; int pad; };
struct unix_fds_addr { unsigned short family; char path[108]; };
int socket(int family, int type, int protocol);
int bind(int fd, const struct unix_fds_addr *addr, unsigned len);
int connect(int fd, const struct unix_fds_addr *addr, unsigned len);
int close(int fd);
int64_t read(int fd, void *buf, size_t n);
int64_t sendmsg(int fd, const struct unix_fds_msghdr *msg, int flags);
]]
local C = ffi.C

-- Sends data, with a descriptor if there is one.
local function send(to, data, fd)
  local iov = ffi.new("struct unix_fds_iovec", data, #data)
  local msg = ffi.new("struct unix_fds_msghdr", { iov = iov, iovlen = 1 })
  local rights = ffi.new("struct unix_fds_rights", { len = 20, level = 1, type = 1, fd = fd or 0 })
  if fd then
    msg.control, msg.controllen = rights, 24
  end
  assert(C.sendmsg(to, msg, 0x4000) == #data) -- MSG_NOSIGNAL
end

describe("a unix socket whose messages carry descriptors", function()
  local path, fd, pipe

  before_each(function()
    path = child.file(nil, ".sock")
    fd = C.socket(1, 1 + 2048, 0) -- NONBLOCK
    pipe = ffi.new "int[2]"
    assert(C.pipe2(pipe, 2048 + 524288) == 0) -- NONBLOCK, CLOEXEC
  end)
  after_each(function()
    C.close(fd)
    C.close(pipe[0])
    if pipe[1] >= 0 then C.close(pipe[1]) end
    child.clean()
  end)

  local function connect()
    local addr = ffi.new("struct unix_fds_addr", 1, path)
    assert(C.connect(fd, addr, ffi.sizeof(addr)) == 0, "connect")
  end

  -- Nobody else has the pipe's end that was sent.
  local function assert_no_leak()
    C.close(pipe[1])
    pipe[1] = -1
    local buf = ffi.new "char[1]"
    helper.eventually(function() return C.read(pipe[0], buf, 1) == 0 end)
  end

  -- In three messages, the one in the middle with a descriptor, which are all there before the first is read.
  local function send_in_three(one, two, three)
    send(fd, one)
    send(fd, two, pipe[1])
    send(fd, three)
  end

  it("is read to its end by scripts", function()
    local ln = assert(net.listen("unix:" .. path))
    connect()
    send_in_three("one ", "two ", "three\n")
    local conn = assert(ln:accept())
    conn:set_deadline(10)
    assert.equal("one two three", conn:read_line())
    send_in_three("o", "t", "t")
    assert.equal("ott", conn:read_exact(3))
    assert_no_leak()
    conn:close()
    ln:close()
  end)

  it("is answered by a server", function()
    local script = child.script [[return function(req) return req.path .. (req:body() or "no body") end]]
    child.serve { script, "--listen", "unix:" .. path, "--idle-timeout", "20" }
    connect()
    local conn = assert(net.fd(fd))
    send_in_three("POST /a HTTP/1.1\r\nHost", ": x\r\nContent-Length: 6\r\n", "\r\nabc")
    send_in_three("d", "e", "fGET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    local buf, got = ffi.new "char[65536]", ""
    local function more()
      assert(conn:wait_read(20))
      local n = tonumber(C.read(fd, buf, 65536))
      got = got .. ffi.string(buf, math.max(n, 0))
      return n > 0
    end
    while more() do end
    conn:close()
    assert.matches("\r\n\r\n/aabcdefHTTP/1.1 200 OK\r\n.*\r\n\r\n/b$", got)
    assert_no_leak()
  end)
end)
