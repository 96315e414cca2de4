local ffi = require "ffi"
local lp = require "lunapark"
local testing = require "lunapark.testing"
local net = require "lunapark.net"
local helper = require "spec.helper"

ffi.cdef [[
int getsockopt(int fd, int level, int name, void *value, unsigned *size);
int getsockname(int fd, void *addr, unsigned *size);
]]

-- The descriptor of a connection: the one with its local port.
local function fd_of(c)
  local port, addr, size = tonumber(c:local_addr():match ":(%d+)$"), ffi.new "uint8_t[128]", ffi.new "unsigned[1]"
  for fd = 3, 1000 do
    size[0] = 128
    if ffi.C.getsockname(fd, addr, size) == 0 and addr[2] * 256 + addr[3] == port then return fd end
  end
  error "no descriptor has its port"
end

-- What the kernel has for an option of a connection.
local function option_of(c, level, name)
  local value, size = ffi.new "int[1]", ffi.new("unsigned[1]", 4)
  assert(ffi.C.getsockopt(fd_of(c), level, name, value, size) == 0)
  return value[0]
end

describe("net", function()
  local open

  before_each(function() open = {} end)
  after_each(function()
    for _, thing in ipairs(open) do
      thing:close()
    end
  end)

  local function keep(thing, err)
    assert(thing, err)
    open[#open + 1] = thing
    thing[thing.set_deadline and "set_deadline" or "addr"](thing, 10)
    return thing
  end

  -- Two ends of one connection.
  local function pair(addr)
    local ln = keep(net.listen(addr or "127.0.0.1:0"))
    local a = keep(net.dial(ln:addr()))
    return a, keep(ln:accept()), ln
  end

  it("connects, and both sides know the addresses", function()
    local a, b, ln = pair()
    assert.matches("^127%.0%.0%.1:%d+$", ln:addr())
    assert.equal(ln:addr(), a:remote_addr())
    assert.equal(a:local_addr(), b:remote_addr())
    assert.equal(b:local_addr(), a:remote_addr())
  end)

  it("connects by unix sockets", function()
    local path = os.tmpname()
    os.remove(path)
    local a, b, ln = pair("unix:" .. path)
    assert.equal("unix:" .. path, ln:addr())
    a:write "x"
    assert.equal("x", b:read())
  end)

  it("connects by IPv6, where there is any", function()
    local ln, err = net.listen "[::1]:0"
    if not ln then return pending("no IPv6: " .. err) end
    keep(ln)
    assert.matches("^%[::1%]:%d+$", ln:addr())
    local a = keep(net.dial(ln:addr()))
    a:write "six"
    assert.equal("six", keep(ln:accept()):read())
  end)

  it("says why it cannot", function()
    local ln = net.listen "127.0.0.1:0"
    local addr = ln:addr()
    assert.same({ nil, "address already in use" }, { net.listen(addr) })
    ln:close()
    assert.same({ nil, "connection refused" }, { net.dial(addr) })
    for _, bad in ipairs { "", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999", "[::1:80", "unix:" } do
      assert.is_nil((net.dial(bad)))
      assert.is_nil((net.listen(bad)))
    end
    assert.matches("listen: addr must be a string, got nil", helper.raised(net.listen))
    assert.matches("dial: addr must be a string, got table", helper.raised(net.dial, {}))
    assert.matches("dial: opts must be a table, got number", helper.raised(net.dial, addr, 1))
    assert.matches("dial: timeout must be a number", helper.raised(net.dial, addr, { timeout = "1" }))
  end)

  it("reads what there is, at most n bytes", function()
    local a, b = pair()
    a:write "hello"
    assert.equal("he", b:read(2))
    assert.equal("llo", b:read(100))
    a:write "again"
    assert.equal("again", b:read())
    a:close()
    assert.same({ nil, "eof" }, { b:read() })
    assert.same({ nil, "eof" }, { b:read(1) })
  end)

  it("reads exactly n bytes, or hands out what came", function()
    local a, b = pair()
    local big = ("0123456789"):rep(100000)
    local g = lp.go(function()
      a:write "abc"
      lp.sleep(0.002)
      a:write("def" .. big)
      a:write "tail"
      a:close()
    end)
    assert.equal("", b:read_exact(0))
    assert.equal("abcd", b:read_exact(4))
    assert.equal("ef", b:read_exact(2))
    assert.is_true(b:read_exact(#big) == big)
    assert.same({ nil, "eof", "tail" }, { b:read_exact(5) })
    assert.same({ nil, "eof", "" }, { b:read_exact(5) })
    g:join()
  end)

  it("reads lines", function()
    local a, b = pair()
    local g = lp.go(function()
      for _, piece in ipairs { "one\r\nt", "wo\n", "\r", "\n\n", "a\rb\n", ("x"):rep(10), "\n", "rest" } do
        a:write(piece)
        lp.sleep(0.001)
      end
      a:close()
    end)
    for _, line in ipairs { "one", "two", "", "", "a\rb" } do
      assert.equal(line, b:read_line())
    end
    assert.same({ nil, "too long" }, { b:read_line(9) })
    assert.equal(("x"):rep(10), b:read_line(10))
    assert.same({ nil, "eof", "rest" }, { b:read_line() })
    assert.same({ nil, "eof", "" }, { b:read_line() })
    g:join()
  end)

  it("counts a line's own bytes against max, not its end", function()
    local a, b = pair()
    a:write "12345\r\n12345\n123456\r\n"
    assert.equal("12345", b:read_line(5))
    assert.equal("12345", b:read_line(5))
    assert.same({ nil, "too long" }, { b:read_line(5) })
    assert.equal("123456", b:read_line(6))
  end)

  it("reads up to a delimiter, also one that comes in pieces", function()
    local a, b = pair()
    local g = lp.go(function()
      for c in ("a--b---END-EN-ENDx"):gmatch "." do
        a:write(c)
        lp.yield()
      end
      a:write(("y"):rep(5000) .. "END")
    end)
    assert.equal("a", b:read_until "--")
    assert.equal("b---", b:read_until "END")
    assert.equal("-EN-", b:read_until "END")
    assert.same({ nil, "too long" }, { b:read_until("END", 5000) })
    assert.equal("x" .. ("y"):rep(5000), b:read_until("END", 5001))
    a:write "zz"
    a:close_write()
    assert.same({ nil, "eof", "zz" }, { b:read_until "END" })
    g:join()
  end)

  it("reads all there will be", function()
    local a, b = pair()
    a:write { "one ", 2, " three" }
    a:close_write()
    assert.equal("one 2 three", b:read_all())
    assert.equal("", b:read_all())
    b:write "back"
    b:close()
    assert.same({ nil, "too long" }, { a:read_all(3) })
    assert.equal("back", a:read_all(4))
  end)

  it("writes more than the kernel takes at once, while the other side reads", function()
    local a, b = pair()
    local big = ("abcdefghijklmnop"):rep(512 * 1024)
    local g = lp.go(function()
      assert(a:write(big))
      a:close_write()
    end)
    assert.is_true(b:read_all() == big)
    g:join()
  end)

  it("keeps the messages of several writers whole", function()
    local a, b = pair()
    local writers, n = {}, 200000
    for i = 1, 8 do
      writers[i] = lp.go(function() assert(a:write(string.char(96 + i):rep(n) .. "\n")) end)
    end
    local seen = {}
    for _ = 1, 8 do
      local line = assert(b:read_line(n))
      assert.is_true(line == line:sub(1, 1):rep(n))
      seen[line:sub(1, 1)] = true
    end
    for i = 1, 8 do
      writers[i]:join()
      assert.is_true(seen[string.char(96 + i)])
    end
  end)

  it("lets readers take turns, in order", function()
    local a, b = pair()
    local lines, readers = {}, {}
    for i = 1, 5 do
      readers[i] = lp.go(function() lines[i] = b:read_line() end)
      lp.yield()
    end
    a:write "1\n2\n3\n4\n5\n"
    for i = 1, 5 do
      readers[i]:join()
    end
    assert.same({ "1", "2", "3", "4", "5" }, lines)
  end)

  it("passes a turn on when the one whose turn it is gave up", function()
    local a, b = pair()
    local first, second, third
    local readers = {
      lp.go(function() first = b:read_line() end),
      lp.go(function() second = { lp.deadline(0.005, b.read_line, b) } end),
      lp.go(function() third = b:read_line() end),
    }
    lp.sleep(0.02)
    a:write "one\ntwo\n"
    for _, reader in ipairs(readers) do
      reader:join()
    end
    assert.same({ "one", nil, "timeout", "two" }, { first, second[1], second[2], third })
  end)

  it("takes no lp.ready for a turn, nor swallows it", function()
    local a, b = pair()
    local first = lp.go(function() return (b:read_line()) end)
    local second = lp.go(function() return (b:read_line()), lp.park() end)
    lp.yield()
    lp.ready(second, "kept")
    lp.sleep(0.002)
    a:write "one\ntwo\n"
    assert.equal("one", first:join())
    assert.same({ "two", "kept" }, { second:join() })
  end)

  it("reads in a callback of gsub", function()
    local a, b = pair()
    local lines = lp.go(string.gsub, "xx", "x", function() return b:read_line() end)
    a:write "one\n"
    lp.sleep(0.001)
    a:write "two\n"
    assert.same({ "onetwo", 2 }, { lines:join() })
  end)

  it("times out, keeps what came, and goes on", function()
    local a, b = pair()
    a:write "par"
    b:set_read_deadline(0.01)
    assert.same({ nil, "timeout" }, { b:read_line() })
    assert.same({ nil, "timeout" }, { b:read_exact(10) })
    b:set_read_deadline(nil)
    a:write "tial\n"
    assert.equal("partial", b:read_line())
    b:set_deadline(0)
    assert.same({ nil, "timeout" }, { b:read() })
    assert.same({ nil, "timeout" }, { b:write "x" })
    b:set_deadline(10)
    assert.is_true(b:write "x")
    assert.equal("x", a:read())
    assert.matches("set_deadline: seconds must be a number", helper.raised(b.set_deadline, b, "1"))
  end)

  it("times out a write that nobody reads, and only that", function()
    local a, b = pair()
    a:set_write_deadline(0.02)
    assert.same({ nil, "timeout" }, { a:write(("x"):rep(64 * 1024 * 1024)) })
    b:write "still"
    assert.equal("still", a:read())
  end)

  it("times out a wait for a deadline that is set while it waits", function()
    local _, b = pair()
    b:set_read_deadline(nil)
    local result
    local g = lp.go(function() result = { b:read() } end)
    lp.sleep(0.005)
    b:set_read_deadline(0)
    g:join()
    assert.same({ nil, "timeout" }, result)
  end)

  it("wakes who waits when it is closed, and says closed ever after", function()
    local a, b, ln = pair()
    local read, accepted
    local gs = {
      lp.go(function() read = { b:read() } end),
      lp.go(function() accepted = { ln:accept() } end),
    }
    lp.sleep(0.005)
    assert.is_true(b:close())
    assert.is_true(b:close())
    ln:close()
    ln:close()
    for _, g in ipairs(gs) do
      g:join()
    end
    assert.same({ nil, "closed" }, read)
    assert.same({ nil, "closed" }, accepted)
    for _, call in ipairs { "read", "read_line", "read_all", "close_write", "local_addr", "remote_addr" } do
      assert.same({ nil, "closed" }, { b[call](b) })
    end
    assert.same({ nil, "closed" }, { b:write "x" })
    assert.same({ nil, "closed" }, { b:read_exact(1) })
    assert.same({ nil, "closed" }, { b:read_until "x" })
    assert.same({ nil, "closed" }, { b:set_nodelay(true) })
    assert.same({ nil, "closed" }, { ln:accept() })
    assert.same({ nil, "closed" }, { ln:addr() })
    b:set_deadline(1)
    assert.same({ nil, "eof" }, { a:read() })
  end)

  it("drops what was not read when it is closed", function()
    local a, b = pair()
    a:write "1\n2\n"
    assert.equal("1", b:read_line())
    b:close()
    assert.same({ nil, "closed" }, { b:read_line() })
  end)

  it("says what happened to a connection that broke", function()
    local a, b = pair()
    a:write "unread"
    lp.sleep(0.005)
    a:write "x"
    b:close() -- with unread bytes: a reset
    lp.sleep(0.005)
    local _, err = a:read()
    assert.equal("connection reset by peer", err)
    a:write "x"
    _, err = a:write "x"
    assert.equal("broken pipe", err)
  end)

  it("closes what nobody holds", function()
    testing.allow_leak "socket"
    local ln = keep(net.listen "127.0.0.1:0")
    local a = net.dial(ln:addr())
    local b = keep(ln:accept())
    assert(a:remote_addr())
    a = nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    assert.same({ nil, "eof" }, { b:read() })
  end)

  it("sets options", function()
    local a = pair()
    assert.is_true(a:set_nodelay(true))
    assert.is_true(a:set_nodelay(false))
  end)

  it("ends the wait of accept by a deadline and a cancellation, and every reader's", function()
    local a, _, ln = pair()
    assert.same({ nil, "timeout" }, { lp.deadline(0.005, ln.accept, ln) })
    for _, call in ipairs {
      function() return ln:accept() end, function() return a:read() end, function() return a:read_exact(1) end,
      function() return a:read_line() end, function() return a:read_until "x" end, function() return a:read_all() end,
    } do
      assert.same({ nil, "timeout" }, { lp.deadline(0, call) })
      local g = lp.go(call)
      lp.yield()
      g:cancel()
      assert.same({ nil, "canceled" }, { g:join(5) })
    end
  end)

  it("refuses misuse, naming the argument", function()
    local a = pair()
    assert.matches("read: n must be", helper.raised(a.read, a, 0))
    assert.matches("read_exact: n must be a whole number, 0 or more, got nil", helper.raised(a.read_exact, a))
    assert.matches("read_until: delimiter must be a string that is not empty", helper.raised(a.read_until, a, ""))
    assert.matches("read_until: delimiter must be", helper.raised(a.read_until, a, 5))
    assert.matches("read_until: max must be a number, 0 or more, got %-1", helper.raised(a.read_until, a, "x", -1))
    for _, name in ipairs { "set_deadline", "set_read_deadline", "set_write_deadline" } do
      assert.matches(name .. ": seconds must be a number of seconds or nil, got x", helper.raised(a[name], a, "x"))
    end
    for _, name in ipairs { "listen", "dial", "udp" } do
      assert.matches(name .. ": addr must be a string, got nil", helper.raised(net[name]))
    end
    assert.matches("dial: opts must be a table, got number", helper.raised(net.dial, "127.0.0.1:1", 5))
    assert.matches("dial: timeout must be a number of seconds, got x",
      helper.raised(net.dial, "127.0.0.1:1", { timeout = "x" }))
    assert.matches("read_line: max must be", helper.raised(a.read_line, a, "x"))
    assert.matches("write: data must be a string or a list", helper.raised(a.write, a, 5))
    assert.matches("write: data%[2%] must be a string", helper.raised(a.write, a, { "x", {} }))
    assert.matches("net_spec", helper.raised(function() a:read(0) end))
  end)

  it("dial's timeout is over when it has connected", function()
    local ln = keep(net.listen "127.0.0.1:0")
    local a = assert(net.dial(ln:addr(), { timeout = 0.5 })) -- keep would set another deadline
    local b = keep(ln:accept())
    lp.sleep(0.6)
    local n = 16 * 2 ^ 20 -- so that the write has to wait
    local reader = lp.go(function()
      lp.sleep(0.01)
      return #b:read_exact(n)
    end)
    local ok, err = a:write(("x"):rep(n))
    a:close()
    assert.is_true(ok, err)
    assert.equal(n, reader:join())
  end)

  it("set_nodelay and set_keepalive reach the kernel", function()
    local a = pair()
    local IPPROTO_TCP, NODELAY, KEEPIDLE, SOL_SOCKET, KEEPALIVE = 6, 1, 4, 1, 9
    assert(a:set_nodelay(false))
    assert.equal(0, option_of(a, IPPROTO_TCP, NODELAY))
    assert(a:set_nodelay(true))
    assert.equal(1, option_of(a, IPPROTO_TCP, NODELAY))
    assert(a:set_keepalive(77))
    assert.same({ 1, 77 }, { option_of(a, SOL_SOCKET, KEEPALIVE), option_of(a, IPPROTO_TCP, KEEPIDLE) })
    assert(a:set_keepalive())
    assert.equal(0, option_of(a, SOL_SOCKET, KEEPALIVE))
  end)
end)
