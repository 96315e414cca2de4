local lp = require "lunapark"
local net = require "lunapark.net"
local helper = require "spec.helper"
local pairs_of = require "spec.support.pairs"

describe("net.udp", function()
  local open = pairs_of.new()
  after_each(open.close)
  local keep = open.keep

  it("sends datagrams, and says whom they came from", function()
    local a, b = keep(net.udp "127.0.0.1:0"), keep(net.udp "127.0.0.1:0")
    assert.matches("^127%.0%.0%.1:%d+$", a:local_addr())
    assert.is_true(a:send("one", b:local_addr()))
    assert.is_true(a:send("", b:local_addr()))
    assert.same({ "one", a:local_addr() }, { b:recv() })
    assert.same({ "", a:local_addr() }, { b:recv() })
    local g = lp.go(b.recv, b)
    lp.yield()
    a:send("late", b:local_addr())
    assert.same({ "late", a:local_addr() }, { g:join() })
  end)

  it("keeps their bounds, and cuts those that are too long", function()
    local a, b = keep(net.udp "127.0.0.1:0"), keep(net.udp "127.0.0.1:0")
    local from = a:local_addr()
    a:send("12345", b:local_addr())
    a:send("678", b:local_addr())
    assert.same({ "123", from, true }, { b:recv(3) })
    assert.same({ "678", from }, { b:recv(3) })
    local long = ("x"):rep(60000)
    a:send(long, b:local_addr())
    assert.is_true(b:recv() == long)
    assert.same({ nil, "message too long" }, { a:send(("x"):rep(70000), b:local_addr()) })
  end)

  it("connects to one address", function()
    local a, b, other = keep(net.udp "127.0.0.1:0"), keep(net.udp "127.0.0.1:0"), keep(net.udp "127.0.0.1:0")
    assert.is_true(a:connect(b:local_addr()))
    assert.equal(b:local_addr(), a:remote_addr())
    assert.is_true(a:send "hello")
    local _, from = b:recv()
    other:send("not for you", a:local_addr())
    b:send("back", from)
    assert.same({ "back", b:local_addr() }, { a:recv() })
  end)

  it("learns that nobody listens", function()
    local a, gone = keep(net.udp "127.0.0.1:0"), net.udp "127.0.0.1:0"
    a:connect(gone:local_addr())
    gone:close()
    assert(a:send "x")
    assert.same({ nil, "connection refused" }, { a:recv() })
  end)

  it("works with IPv6, where there is any", function()
    local a, err = net.udp "[::1]:0"
    if not a then return pending("no IPv6: " .. err) end
    local b = keep(net.udp "[::1]:0")
    keep(a):send("six", b:local_addr())
    assert.same({ "six", a:local_addr() }, { b:recv() })
  end)

  it("works with unix datagrams", function()
    local here, there = "unix:" .. pairs_of.path(), "unix:" .. pairs_of.path()
    local a, b = keep(net.udp(here)), keep(net.udp(there))
    assert.is_true(a:send("x", there))
    assert.same({ "x", here }, { b:recv() })
    -- Its queue is full: nobody would tell when it is not.
    local ok, err
    for _ = 1, 10000 do
      ok, err = a:send("x", there)
      if not ok then break end
    end
    assert.equal("no buffer space available", err)
    -- Connected, it can wait.
    a:connect(there)
    local g = lp.go(a.send, a, "last")
    lp.sleep(0.002)
    local seen
    repeat seen = b:recv() until seen ~= "x"
    assert.equal("last", seen)
    assert.is_true(g:join())
    b:close()
    assert.is_nil(io.open(there:sub(6)))
    assert.same({ nil, "connection refused" }, { a:send "x" })
  end)

  it("serves several receivers", function()
    local a, b = keep(net.udp "127.0.0.1:0"), keep(net.udp "127.0.0.1:0")
    local gs, seen = {}, {}
    for i = 1, 4 do
      gs[i] = lp.go(b.recv, b)
    end
    lp.yield()
    for i = 1, 4 do
      a:send(tostring(i), b:local_addr())
    end
    for i = 1, 4 do
      seen[i] = gs[i]:join(5)
    end
    table.sort(seen)
    assert.same({ "1", "2", "3", "4" }, seen)
  end)

  it("times out, is canceled, is closed", function()
    local u = keep(net.udp "127.0.0.1:0")
    u:set_read_deadline(0.01)
    assert.same({ nil, "timeout" }, { u:recv() })
    u:set_deadline(0)
    assert.same({ nil, "timeout" }, { u:recv() })
    assert.same({ nil, "timeout" }, { u:send("x", u:local_addr()) })
    u:set_write_deadline(nil)
    assert.is_true(u:send("x", u:local_addr()))
    u:set_deadline(nil)
    assert.equal("x", u:recv())
    assert.same({ nil, "timeout" }, { lp.deadline(0.005, u.recv, u) })
    local g = lp.go(u.recv, u)
    lp.sleep(0.001)
    g:cancel()
    assert.same({ nil, "canceled" }, { g:join() })
    g = lp.go(u.recv, u)
    lp.sleep(0.001)
    assert.is_true(u:close())
    assert.is_true(u:close())
    assert.same({ nil, "closed" }, { g:join() })
    assert.same({ nil, "closed" }, { u:recv() })
    assert.same({ nil, "closed" }, { u:send("x", "127.0.0.1:1") })
    assert.same({ nil, "closed" }, { u:connect "127.0.0.1:1" })
    assert.same({ nil, "closed" }, { u:local_addr() })
    assert.same({ nil, "closed" }, { u:remote_addr() })
  end)

  it("says why it cannot, and refuses misuse", function()
    local u = keep(net.udp "127.0.0.1:0")
    assert.same({ nil, "address already in use" }, { net.udp(u:local_addr()) })
    assert.is_nil((net.udp "nonsense"))
    assert.is_nil((u:connect "nonsense"))
    assert.is_nil((u:send("x", "nonsense")))
    assert.same({ nil, "destination address required" }, { u:send "x" })
    assert.matches("udp: addr must be a string, got nil", helper.raised(net.udp))
    assert.matches("send: data must be a string, got number", helper.raised(u.send, u, 5))
    assert.matches("send: addr must be a string, got number", helper.raised(u.send, u, "x", 5))
    assert.matches("recv: max must be a whole number, 1 or more", helper.raised(u.recv, u, 0))
    assert.matches("recv: max must be 2147483647 or less", helper.raised(u.recv, u, 1e10))
    assert.matches("connect: addr must be a string", helper.raised(u.connect, u))
    for _, name in ipairs { "set_deadline", "set_read_deadline", "set_write_deadline" } do
      assert.matches(name .. ": seconds must be", helper.raised(u[name], u, "x"))
    end
  end)

  it("gives a datagram to who waits for it, not to who comes later", function()
    local a, b = keep(net.udp "127.0.0.1:0"), keep(net.udp "127.0.0.1:0")
    local got = {}
    local first = lp.go(function() got.first = b:recv() end)
    lp.yield()
    a:send("1", b:local_addr())
    local late = lp.go(function() got.late = b:recv() end)
    late:join(0.01)
    a:send("2", b:local_addr())
    first:join(helper.PATIENCE)
    late:join(helper.PATIENCE)
    assert.same({ first = "1", late = "2" }, got)
  end)
end)
