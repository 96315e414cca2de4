local ffi = require "ffi"
local lp = require "lunapark"
local testing = require "lunapark.testing"
local net = require "lunapark.net"
local helper = require "spec.helper"
local pairs_of = require "spec.support.pairs"

ffi.cdef [[
int getsockname(int fd, void *addr, unsigned *len);
int getpeername(int fd, void *addr, unsigned *len);
int getsockopt(int fd, int level, int name, void *value, unsigned *len);
]]
ffi.cdef "void qsort(int *base, size_t n, size_t width, int (*compare)(const int *, const int *));"

-- Runs fn beneath an FFI callback, where nobody may wait. LuaJIT does not compile such calls.
local function beneath_callback(fn)
  local called
  local compare = ffi.cast("int (*)(const int *, const int *)", function()
    if not called then
      called = true
      fn()
    end
    return 0
  end)
  ffi.C.qsort(ffi.new("int[2]", 2, 1), 2, 4, compare)
  compare:free()
end
jit.off(beneath_callback, true)

-- What Linux calls them.
local SOL_SOCKET, SO_KEEPALIVE, IPPROTO_TCP, TCP_NODELAY, TCP_KEEPIDLE, TCP_KEEPINTVL = 1, 9, 6, 1, 4, 5

-- The descriptor of a connection over IPv4, by its port.
local function descriptor_of(conn)
  local port = tonumber(conn:local_addr():match ":(%d+)$")
  local addr, len = ffi.new "uint8_t[128]", ffi.new("unsigned[1]", 128)
  for fd = 3, 1000 do
    len[0] = 128
    if ffi.C.getsockname(fd, addr, len) == 0 and addr[2] * 256 + addr[3] == port then
      local peer = len[0] == 16 and ffi.C.getpeername(fd, addr, len) == 0
      if peer then return fd end
    end
  end
  error("no descriptor has port " .. port)
end

local function option(fd, level, name)
  local value, len = ffi.new "int[1]", ffi.new("unsigned[1]", 4)
  assert(ffi.C.getsockopt(fd, level, name, value, len) == 0)
  return value[0]
end

describe("net", function()
  local open = pairs_of.new()
  after_each(open.close)
  local pair, keep = open.pair, open.keep

  describe("a place where no G may wait", function()
    it("leaves the turn of readers, writers and acceptors free", function()
      local a, b = pair()
      local ln = keep(net.listen "127.0.0.1:0")
      local errors = {}
      beneath_callback(function()
        for i, fn in ipairs {
          function() b:read() end,
          function() b:read_line() end,
          function() ln:accept() end,
          function() a:write(("x"):rep(16 * 1024 * 1024)) end,
        } do
          errors[i] = helper.raised(fn)
        end
      end)
      assert.equal(4, #errors)
      for _, err in ipairs(errors) do
        assert.matches("cannot wait here", err)
      end
      local g = lp.go(function()
        keep(net.dial(ln:addr()))
        a:write "\nlast\n"
      end)
      assert(keep(ln:accept()))
      assert.matches("^x+$", b:read_line(16 * 1024 * 1024))
      assert.equal("last", b:read_line())
      g:join()
    end)

    it("leaves it free for those who wait in the queue", function()
      local a, b = pair()
      local first = lp.go(b.read_line, b)
      lp.yield()
      local err
      beneath_callback(function() err = helper.raised(b.read_line, b) end)
      assert.matches("cannot wait here", err)
      local third = lp.go(b.read_line, b)
      lp.yield()
      a:write "1\n3\n"
      assert.equal("1", first:join())
      assert.equal("3", third:join())
    end)

    it("lets what needs no wait through", function()
      local a, b = pair()
      a:write "here\nrest"
      lp.sleep(0.005)
      local line, rest
      beneath_callback(function()
        line, rest = b:read_line(), b:read()
      end)
      assert.same({ "here", "rest" }, { line, rest })
    end)
  end)

  describe("readers", function()
    it("take a stream that comes byte by byte", function()
      local a, b = pair()
      local text = "GET / HTTP/1.1\r\nHost: x\r\n\r\n12345--end--tail"
      local g = lp.go(function()
        for c in text:gmatch "." do
          a:write(c)
          lp.yield()
        end
        a:close_write()
      end)
      assert.equal("GET / HTTP/1.1", b:read_line())
      assert.equal("Host: x", b:read_line())
      assert.equal("", b:read_line())
      assert.equal("12345", b:read_exact(5))
      assert.equal("", b:read_until "--")
      assert.equal("end", b:read_until "--")
      assert.equal("tail", b:read_all())
      assert.same({ nil, "eof", "" }, { b:read_until "x" })
      g:join()
    end)

    it("take a stream that comes slowly", function()
      local a, b = pair()
      local g = lp.go(function()
        for _, piece in ipairs { "sl", "ow\n", "12", "34", "a", "b" } do
          lp.sleep(0.005)
          a:write(piece)
        end
        a:close()
      end)
      assert.equal("slow", b:read_line())
      assert.equal("1234", b:read_exact(4))
      assert.equal("ab", b:read_all())
      g:join()
    end)

    it("find a delimiter wherever it is cut", function()
      for cut = 1, 6 do
        local a, b = pair()
        local text = "xxaabaabcrest"
        a:write(text:sub(1, cut))
        local g = lp.go(b.read_until, b, "aabc")
        lp.sleep(0.001)
        a:write(text:sub(cut + 1))
        assert.equal("xxaab", g:join(5))
        assert.equal("rest", b:read())
        open.close()
      end
    end)

    it("take long lines, with and without a limit", function()
      local a, b = pair()
      local long = ("y"):rep(65536)
      local g = lp.go(function()
        a:write { long, "\r\n", long, "z\n", "after\n" }
        a:close_write()
      end)
      assert.is_true(b:read_line() == long)
      assert.same({ nil, "too long" }, { b:read_line() })
      assert.same({ nil, "too long" }, { b:read_until "\n" })
      assert.is_true(b:read_line(65537) == long .. "z")
      assert.equal("after", b:read_line())
      g:join()
    end)

    it("lose nothing of 50 MB, in lines, blocks and whatever comes", function()
      local a, b = pair()
      local block = {}
      for i = 1, 10000 do
        block[i] = ("%07d %s\n"):format(i, string.char(97 + i % 26):rep(1 + i % 90))
      end
      local whole = table.concat(block)
      local times = math.ceil(50e6 / #whole)
      local g = lp.go(function()
        for i = 1, times do
          assert(a:write(i % 2 == 0 and whole or block))
        end
        a:close_write()
      end)
      for i = 1, times do
        local way = i % 3
        if way == 0 then
          for k = 1, #block do
            if b:read_line() .. "\n" ~= block[k] then error("line " .. k .. " of block " .. i) end
          end
        elseif way == 1 then
          assert.is_true(b:read_exact(#whole) == whole)
        else
          local got, n = {}, 0
          while n < #whole do
            local piece = assert(b:read(#whole - n))
            got[#got + 1], n = piece, n + #piece
          end
          assert.is_true(table.concat(got) == whole)
        end
      end
      assert.same({ nil, "eof" }, { b:read() })
      g:join()
    end)

    it("read while another G writes on the same connection", function()
      local a, b = pair()
      local n = 8 * 1024 * 1024
      local echo = lp.go(function()
        while true do
          local data = b:read()
          if not data then return b:close_write() end
          assert(b:write(data))
        end
      end)
      local writer = lp.go(function()
        assert(a:write(("ab"):rep(n / 2)))
        a:close_write()
      end)
      assert.is_true(a:read_all() == ("ab"):rep(n / 2))
      writer:join()
      echo:join()
    end)

    it("all wake when it is closed, those in the queue too", function()
      local _, b = pair()
      local gs = {}
      for i, call in ipairs { "read", "read_line", "read_all" } do
        gs[i] = lp.go(function() return b[call](b) end)
      end
      lp.sleep(0.002)
      b:close()
      for _, g in ipairs(gs) do
        assert.same({ nil, "closed" }, { g:join(5) })
      end
    end)

    it("are canceled", function()
      local _, b = pair()
      for _, call in ipairs { "read", "read_line", "read_all" } do
        local g = lp.go(function() return b[call](b) end)
        lp.sleep(0.001)
        g:cancel()
        assert.same({ nil, "canceled" }, { g:join(5) })
      end
    end)

    it("hand their turn on if they are canceled as it comes", function()
      local a, b = pair()
      local gs = {}
      for i = 1, 3 do
        gs[i] = lp.go(function() return b:read_line() end)
        lp.yield()
      end
      gs[1]:cancel()
      gs[2]:cancel() -- its wait ends before it hears that it is its turn
      assert.same({ nil, "canceled" }, { gs[1]:join(helper.PATIENCE) })
      assert.same({ nil, "canceled" }, { gs[2]:join(helper.PATIENCE) })
      a:write "line\n"
      assert.equal("line", gs[3]:join(helper.PATIENCE))
    end)

    it("keep their turn while they wait for more", function()
      local a, b = pair()
      local exact = lp.go(b.read_exact, b, 10)
      lp.yield()
      local any = lp.go(b.read, b)
      lp.yield()
      a:write "12345"
      lp.sleep(0.005)
      a:write "67890"
      assert.equal("1234567890", exact:join(helper.PATIENCE))
      a:write "rest"
      assert.equal("rest", any:join(helper.PATIENCE))
    end)

    it("lose nothing that comes as a read times out", function()
      local a, b = pair()
      local text, got = {}, {}
      local writer = lp.go(function()
        for i = 1, 300 do
          text[i] = ("%d,"):format(i)
          a:write(text[i])
          lp.sleep(0.001)
        end
        a:close()
      end)
      while true do
        local piece, err = lp.deadline(0.001, b.read, b)
        got[#got + 1] = piece
        if err == "eof" then break end
        assert(piece or err == "timeout", err)
      end
      writer:join()
      assert.equal(table.concat(text), table.concat(got))
    end)
  end)

  describe("write", function()
    it("gathers a list, in order, however long it is", function()
      local a, b = pair()
      local list = {}
      for i = 1, 5000 do
        list[i] = i % 7 == 0 and "" or i % 5 == 0 and i or ("%d,"):format(i)
      end
      local want = table.concat(list)
      local g = lp.go(function() assert(a:write(list)) end)
      assert.is_true(#want > 16384) -- shorter ones are joined
      assert.equal(want, b:read_exact(#want))
      g:join()
      assert(a:write { "few", " ", 1, "" })
      assert.equal("few 1", b:read_exact(5))
      assert.is_true(a:write {})
      assert.is_true(a:write "")
    end)

    it("sends a list as it was when the call began, also one the kernel takes in parts", function()
      local a, b = pair()
      local list, want = {}, {}
      for i = 1, 100 do
        list[i] = (string.char(33 + i % 90)):rep(100000 + i)
        want[i] = list[i]
      end
      local g = lp.go(function() assert(a:write(list)) end)
      lp.yield()
      for i = 1, 100 do list[i] = "other" end
      want = table.concat(want)
      assert.is_true(b:read_exact(#want) == want)
      g:join()
    end)

    it("of a list times out", function()
      local a = pair()
      a:set_write_deadline(0.02)
      local list = {}
      for i = 1, 64 do list[i] = ("x"):rep(1024 * 1024) end
      assert.same({ nil, "timeout" }, { a:write(list) })
    end)

    it("after close_write is a broken pipe, and reading goes on", function()
      local a, b = pair()
      assert.is_true(a:close_write())
      assert.same({ nil, "broken pipe" }, { a:write "x" })
      assert.same({ nil, "broken pipe" }, { a:write { "1", "2" } })
      assert.same({ nil, "broken pipe" }, { a:write { "1", ("2"):rep(20000) } })
      assert.same({ nil, "eof" }, { b:read() })
      b:write "still"
      assert.equal("still", a:read())
    end)

    it("does not slip into another one that waits for room", function()
      local a, b = pair()
      local n = 16 * 2 ^ 20
      local long = lp.go(function() return a:write(("x"):rep(n) .. "\n") end)
      lp.yield()
      lp.sleep(0.01)
      local got = 0
      while got < 2 ^ 20 do got = got + #assert(b:read()) end -- there is room again, and the long one has not run
      local short = lp.go(function() return a:write "y\n" end)
      lp.yield()
      assert.equal(n - got, #assert(b:read_line(n)))
      assert.equal("y", b:read_line())
      long:join()
      short:join()
    end)
  end)

  it("sets options of its descriptor", function()
    local a = pair()
    local fd = descriptor_of(a)
    assert.equal(1, option(fd, IPPROTO_TCP, TCP_NODELAY))
    assert.is_true(a:set_nodelay(false))
    assert.equal(0, option(fd, IPPROTO_TCP, TCP_NODELAY))
    assert.is_true(a:set_nodelay(true))
    assert.equal(1, option(fd, IPPROTO_TCP, TCP_NODELAY))
    assert.equal(0, option(fd, SOL_SOCKET, SO_KEEPALIVE))
    assert.is_true(a:set_keepalive(60))
    assert.equal(1, option(fd, SOL_SOCKET, SO_KEEPALIVE))
    assert.equal(60, option(fd, IPPROTO_TCP, TCP_KEEPIDLE))
    assert.equal(60, option(fd, IPPROTO_TCP, TCP_KEEPINTVL))
    assert.is_true(a:set_keepalive(nil))
    assert.equal(0, option(fd, SOL_SOCKET, SO_KEEPALIVE))
  end)

  it("refuses misuse of its options", function()
    local a = pair()
    assert.matches("set_keepalive: seconds must be a whole number, 1 or more", helper.raised(a.set_keepalive, a, 0))
    assert.matches("set_keepalive: seconds must be 32767 or less", helper.raised(a.set_keepalive, a, 1e5))
    assert.matches("set_nodelay: on must be a boolean", helper.raised(a.set_nodelay, a, 1))
    assert.matches("read: n must be a whole number", helper.raised(a.read, a, 1.5))
    assert.matches("read_all: max must be", helper.raised(a.read_all, a, -1))
    assert.matches("set_read_deadline: seconds must be", helper.raised(a.set_read_deadline, a, 0 / 0))
    a:close()
    assert.same({ nil, "closed" }, { a:set_keepalive(5) })
  end)

  it("gives back what 10,000 connections took", function()
    local ln = keep(net.listen "127.0.0.1:0")
    local function some(n)
      for _ = 1, n do
        local a = assert(net.dial(ln:addr()))
        local b = assert(ln:accept())
        a:write "hello\n"
        assert(b:read_line())
        -- The end first: then the other end keeps no port in TIME-WAIT for a minute.
        b:close()
        a:close()
      end
    end
    some(500)
    collectgarbage()
    collectgarbage()
    local fds, kb, polled = pairs_of.descriptors(), collectgarbage "count", lp.stats().fds
    some(10000)
    collectgarbage()
    collectgarbage()
    -- Others of the process come and go.
    assert.is_true(pairs_of.descriptors() <= fds + 10)
    assert.is_true(lp.stats().fds <= polled + 10)
    assert.is_true(collectgarbage "count" < kb + 200)
  end)

  it("counts what the collector had to close", function()
    testing.allow_leak "socket"
    require "lunapark.cdef"
    local before = ffi.C.host_forgotten()
    local a = pair()
    a:close()
    do
      local ln = net.listen "127.0.0.1:0"
      assert(ln:addr())
    end
    for _ = 1, 3 do collectgarbage() end
    assert.is_true(ffi.C.host_forgotten() >= before + 1)
  end)
end)
