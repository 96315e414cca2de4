local lp = require "lunapark"
local dial = require "lunapark.net.dial"
local dns = require "lunapark.dns"
local net = require "lunapark.net"
local child = require "spec.support.child"
local dead_host = require "spec.support.dead_host"
local helper = require "spec.helper"
local nameserver = require "spec.support.nameserver"
local pairs_of = require "spec.support.pairs"

describe("net with names", function()
  local open = pairs_of.new()
  after_each(open.close)
  after_each(child.clean)
  local keep = open.keep
  local server

  -- A resolver that knows each name by these addresses.
  local function resolver(...)
    local records = { A = {}, AAAA = {} }
    for _, ip in ipairs { ... } do
      local kind = ip:find ":" and "AAAA" or "A"
      table.insert(records[kind], { kind, ip })
    end
    server = nameserver.new(keep, function(q) return records[q.type] end)
    return dns.resolver { servers = { server.addr }, search = {}, tries = 1 }
  end

  -- A listener on that address; its port. What comes is kept open.
  local function listen(addr)
    local ln = keep(net.listen(addr))
    return ln, tonumber(ln:addr():match ":(%d+)$")
  end

  -- The same port of two addresses: fn opens the second one, or returns nil if that is taken.
  local function beside(first, fn)
    for _ = 1, 100 do
      local one, port = first()
      local two = fn(port)
      if two then return one, keep(two), port end
      one:close()
    end
    error "no port is free on both"
  end

  it("dials a host", function()
    local ln, port = listen "127.0.0.1:0"
    local c = keep(net.dial("host.test:" .. port, { resolver = resolver "127.0.0.1" }))
    assert.equal("127.0.0.1:" .. port, c:remote_addr())
    keep(ln:accept())
  end)

  it("dials the next address as soon as the first has failed", function()
    local ln, port = listen "127.0.0.2:0"
    local r = resolver("127.0.0.1", "127.0.0.2")
    assert.is_true(helper.quickly(0.2, function() -- less than the head start
      local c = keep(net.dial("host.test:" .. port, { resolver = r }))
      assert.equal("127.0.0.2:" .. port, c:remote_addr())
      keep(ln:accept())
    end))
  end)

  it("gives a dead address a head start only", function()
    local ln, dead, port = beside(function() return listen "127.0.0.2:0" end, function(port)
      return dead_host.open("127.0.0.1", port)
    end)
    assert.same({ nil, "timeout" }, { net.dial(dead.addr, { timeout = 0.05 }) })
    local r = resolver("127.0.0.1", "127.0.0.2")
    local fds = lp.stats().fds
    local started = lp.now()
    local c = keep(net.dial("host.test:" .. port, { resolver = r }))
    local took = lp.now() - started
    assert.equal("127.0.0.2:" .. port, c:remote_addr())
    assert.is_true(took >= 0.24, took)
    keep(ln:accept())
    -- the loser is closed: what is new is c and its other side
    assert.is_true(lp.stats().fds <= fds + 2)
  end)

  it("ends at its timeout, a deadline, or cancellation, with all attempts", function()
    local _, two = beside(function()
      local dead = keep(dead_host.open("127.0.0.1", 0))
      return dead, dead.port
    end, function(port)
      return dead_host.open("127.0.0.2", port)
    end)
    local r = resolver("127.0.0.1", "127.0.0.2")
    local addr = "host.test:" .. two.port
    local fds = lp.stats().fds
    assert.same({ nil, "timeout" }, { net.dial(addr, { resolver = r, timeout = 0.3 }) })
    assert.same({ nil, "timeout" }, { lp.deadline(0.02, net.dial, addr, { resolver = r }) })
    local g = lp.go(net.dial, addr, { resolver = r })
    lp.sleep(0.3)
    g:cancel()
    assert.same({ nil, "canceled" }, { g:join() })
    assert.is_true(lp.stats().fds <= fds)
  end)

  it("says why it could not", function()
    local ln, port = listen "127.0.0.1:0"
    ln:close()
    local addr = "host.test:" .. port
    assert.same({ nil, "connection refused" }, { net.dial(addr, { resolver = resolver "127.0.0.1" }) })
    assert.same({ nil, "connection refused" }, { net.dial(addr, { resolver = resolver("127.0.0.1", "127.0.0.2") }) })
    server = nameserver.new(keep, function() return 3 end)
    local r = dns.resolver { servers = { server.addr }, search = {}, tries = 1 }
    assert.same({ nil, "no such host: nobody.test" }, { net.dial("nobody.test:80", { resolver = r }) })
    for _, bad in ipairs { "", "host.test", "host.test:", "host.test:65536", "host.test:http", "a b:80", "[x]:80" } do
      assert.same({ nil, "invalid argument" }, { net.dial(bad) })
    end
  end)

  it("dials IPv6 first, and alternates", function()
    assert.same({ "[::1]:1", "1.1.1.1:1", "[::2]:1", "1.1.1.2:1", "1.1.1.3:1" },
      dial.alternate { "[::1]:1", "[::2]:1", "1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1" })
    assert.same({ "1.1.1.1:1", "[::1]:1" }, dial.alternate { "1.1.1.1:1", "[::1]:1" })
    local six = net.listen "[::1]:0"
    if not six then return pending "no IPv6" end
    six:close()
    local four, port
    six, four, port = beside(function() return listen "[::1]:0" end, function(same)
      return net.listen("127.0.0.1:" .. same)
    end)
    local c = keep(net.dial("host.test:" .. port, { resolver = resolver("127.0.0.1", "::1") }))
    assert.equal("[::1]:" .. port, c:remote_addr())
    four:close()
    six:close()
    -- and the other family, when there is nobody
    keep(net.listen("127.0.0.1:" .. port))
    c = keep(net.dial("host.test:" .. port, { resolver = resolver("127.0.0.1", "::1") }))
    assert.equal("127.0.0.1:" .. port, c:remote_addr())
  end)

  it("does not wait for a server that is silent about one family", function()
    local ln, port = listen "127.0.0.1:0"
    local asked = 0
    server = nameserver.new(keep, function(q)
      if q.type ~= "A" then return nil end
      asked = asked + 1
      return { { "A", "127.0.0.1" } }
    end)
    local r = dns.resolver { servers = { server.addr }, search = {}, timeout = 600 }
    local c, err = net.dial("host.test:" .. port, { resolver = r, timeout = helper.PATIENCE })
    assert.equal("127.0.0.1:" .. port, keep(assert(c, err)):remote_addr())
    assert.equal(2, asked) -- with the other family, then by itself
    keep(ln:accept())
  end)

  it("takes addresses that come later when the first ones do not answer", function()
    local six = net.listen "[::1]:0"
    if not six then return pending "no IPv6" end
    keep(six)
    local asked = 0
    server = nameserver.new(keep, function(q)
      if q.type == "A" then
        asked = asked + 1
        return { { "A", "127.0.0.1" } }
      end
      helper.eventually(function() return asked == 2 end)
      return { { "AAAA", "::1" } }
    end)
    local r = dns.resolver { servers = { server.addr }, search = {}, timeout = 600 }
    local c, err = net.dial("host.test:" .. six:addr():match "%d+$", { resolver = r, timeout = helper.PATIENCE })
    assert.matches("^%[::1%]:", keep(assert(c, err)):remote_addr())
    keep(six:accept())
  end)

  it("dials localhost by either family", function()
    local six = net.listen "[::1]:0"
    if not six then return pending "no IPv6" end
    local port = six:addr():match "%d+$"
    keep(six)
    keep(assert(net.dial("localhost:" .. port, { timeout = helper.PATIENCE })))
    keep(six:accept())
    local four, port4 = listen "127.0.0.1:0"
    keep(assert(net.dial("localhost:" .. port4, { timeout = helper.PATIENCE })))
    keep(four:accept())
  end)

  it("holds up nobody while it looks a name up", function()
    local ln, port = listen "127.0.0.1:0"
    local ticks = 0
    server = nameserver.new(keep, function(q)
      helper.eventually(function() return ticks >= 5 end)
      return q.type == "A" and { { "A", "127.0.0.1" } } or {}
    end)
    local r = dns.resolver { servers = { server.addr }, search = {}, tries = 1, timeout = helper.PATIENCE }
    local ticker = lp.every(0.005, function() ticks = ticks + 1 end)
    keep(net.dial("slow.test:" .. port, { resolver = r }))
    keep(ln:accept())
    ticker:stop()
  end)

  it("asks the servers of LUNAPARK_DNS, for listeners and datagrams too", function()
    server = nameserver.new(keep, function(q) return q.type == "A" and { { "A", "127.0.0.3" } } or {} end)
    local script = child.script [[
      local net, dns = require "lunapark.net", require "lunapark.dns"
      print(assert(dns.lookup("one.test"))[1])
      local ln = assert(net.listen "two.test:0")
      print((ln:addr():gsub(":%d+$", "")))
      local a, b = assert(net.udp "two.test:0"), assert(net.udp "two.test:0")
      a:connect("two.test:" .. b:local_addr():match "%d+$")
      a:send "x"
      local _, from = b:recv()
      assert(b:send("y", "two.test:" .. from:match "%d+$"))
      print((a:recv()))
      local c = assert(net.dial((ln:addr():gsub("^[^:]*", "two.test"))))
      print((c:remote_addr():gsub(":%d+$", "")))
    ]]
    local c = child.start { "run", script, env = { LUNAPARK_DNS = server.addr } }
    assert.equal(0, c:wait(), c:stderr())
    assert.equal("127.0.0.3\n127.0.0.3\ny\n127.0.0.3\n", c:stdout())
  end)
end)
