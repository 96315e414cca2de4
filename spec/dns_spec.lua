local lp = require "lunapark"
local dns = require "lunapark.dns"
local helper = require "spec.helper"
local nameserver = require "spec.support.nameserver"
local pairs_of = require "spec.support.pairs"

describe("dns", function()
  local open = pairs_of.new()
  after_each(open.close)
  local server

  -- A resolver that asks a server which answers as fn says.
  local function resolver(fn, opts)
    server = nameserver.new(open.keep, fn)
    opts = opts or {}
    opts.servers, opts.search = { server.addr }, opts.search or {}
    opts.timeout, opts.tries = opts.timeout or helper.PATIENCE, opts.tries or 1
    return dns.resolver(opts)
  end

  -- One that answers by type, or has nothing of that type.
  local function answers(by_type, opts)
    return resolver(function(q) return by_type[q.type] or {} end, opts)
  end

  describe("lookup", function()
    it("finds the addresses of a host", function()
      local r = answers { A = { { "A", "192.0.2.7", ttl = 60 }, { "A", "192.0.2.8", ttl = 60 } } }
      local list = assert(r:lookup "example.test")
      table.sort(list)
      assert.same({ "192.0.2.7", "192.0.2.8" }, list)
    end)

    it("finds those of both families, or of one", function()
      local r = answers { A = { { "A", "192.0.2.7" } }, AAAA = { { "AAAA", "2001:db8:0:0:0:0:0:5" } } }
      local list = assert(r:lookup "example.test")
      table.sort(list)
      assert.same({ "192.0.2.7", "2001:db8::5" }, list)
      assert.same({ "192.0.2.7" }, r:lookup("example.test", { family = 4 }))
      assert.same({ "2001:db8::5" }, r:lookup("example.test", { family = 6 }))
    end)

    it("follows aliases", function()
      local r = answers { A = {
        { "CNAME", "other.test", ttl = 60 }, { "A", "192.0.2.9", name = "other.test", ttl = 60 },
      } }
      assert.same({ "192.0.2.9" }, r:lookup("www.test", { family = 4 }))
    end)

    it("reads the hosts file, and knows addresses, without asking anybody", function()
      local r = answers {}
      local list = assert(r:lookup "localhost")
      assert.truthy(list[1] == "127.0.0.1" or list[1] == "::1")
      assert.same({ "192.0.2.1" }, r:lookup "192.0.2.1")
      assert.same({ "2001:db8::1" }, r:lookup "2001:db8::1")
      assert.same({}, server.asked)
    end)

    it("completes names from the search list", function()
      local r = resolver(function(q)
        if q.name ~= "db.two.test" then return 3 end
        return { { "A", "192.0.2.3" } }
      end, { search = { "one.test", "two.test" } })
      assert.same({ "192.0.2.3" }, r:lookup("db", { family = 4 }))
      assert.same({ "db.one.test A", "db.two.test A" }, server.asked)
    end)

    it("says that there is no such host", function()
      local r = resolver(function() return 3 end)
      assert.same({ nil, "no such host: nobody.test" }, { r:lookup "nobody.test" })
      assert.same({ nil, "no such host: nobody.test" }, { r:query("nobody.test", "TXT") })
    end)

    it("says that a host has no address", function()
      assert.same({ nil, "no such record: bare.test" }, { answers({}):lookup "bare.test" })
    end)

    it("refuses what is no name", function()
      local r = answers {}
      assert.same({ nil, "not a host name: " }, { r:lookup "" })
      assert.same({ nil, "not a host name: a\0b" }, { r:lookup "a\0b" })
      assert.is_nil(r:lookup(("a"):rep(300)))
      assert.is_nil(r:lookup(("a"):rep(80) .. ".test"))
    end)

    it("asks nobody for an address of the other family", function()
      local r = resolver(function() return {} end)
      assert.same({ nil, "no IPv6 address: 192.0.2.9" }, { r:lookup("192.0.2.9", { family = 6 }) })
      assert.same({ nil, "no IPv4 address: 2001:db8::9" }, { r:lookup("2001:db8::9", { family = 4 }) })
      assert.same({ "2001:db8::9" }, r:lookup("2001:db8::9", { family = 6 }))
      assert.same({}, server.asked)
    end)
  end)

  describe("query", function()
    local r
    before_each(function()
      r = answers {
        A = { { "A", "192.0.2.1", ttl = 5 } },
        AAAA = { { "AAAA", "::1", ttl = 6 } },
        SRV = { { "SRV", 10, 5, 5222, "xmpp.example.test", ttl = 7 } },
        TXT = { { "TXT", "v=spf1", " -all", ttl = 8 } },
        PTR = { { "PTR", "one.example.test", ttl = 9 } },
        MX = { { "MX", 20, "mail.example.test", ttl = 10 } },
        CNAME = { { "CNAME", "other.test" } },
      }
    end)

    it("reads each type", function()
      local name = "example.test"
      assert.same({ { name = name, ttl = 5, address = "192.0.2.1" } }, r:query(name, "A"))
      assert.same({ { name = name, ttl = 6, address = "::1" } }, r:query(name, "AAAA"))
      assert.same({ { name = name, ttl = 7, priority = 10, weight = 5, port = 5222, target = "xmpp.example.test" } },
        r:query(name, "SRV"))
      assert.same({ { name = name, ttl = 8, text = "v=spf1 -all", strings = { "v=spf1", " -all" } } },
        r:query(name, "TXT"))
      assert.same({ { name = name, ttl = 9, target = "one.example.test" } }, r:query(name, "PTR"))
      assert.same({ { name = name, ttl = 10, preference = 20, target = "mail.example.test" } }, r:query(name, "MX"))
      assert.same({ { name = name, ttl = 0, target = "other.test" } }, r:query(name, "CNAME"))
    end)

    it("asks for the names of addresses", function()
      assert.equal("one.example.test", r:query("192.0.2.10", "PTR")[1].target)
      assert.equal("one.example.test", r:query("2001:db8::1", "PTR")[1].target)
      assert.same({
        "10.2.0.192.in-addr.arpa PTR",
        "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa PTR",
      }, server.asked)
    end)

    it("says that there is no such record", function()
      assert.same({ nil, "no such record: example.test" }, { answers({}):query("example.test", "TXT") })
      -- an alias whose target has none
      r = answers { TXT = { { "CNAME", "other.test" } } }
      assert.same({ nil, "no such record: example.test" }, { r:query("example.test", "TXT") })
    end)

    it("names a bad argument", function()
      assert.matches("query: type must be A, .* got FOO", helper.raised(r.query, r, "x.test", "FOO"))
      assert.matches("lookup: name must be a string, got nil", helper.raised(dns.lookup))
      assert.matches("query: name must be a string, got table", helper.raised(dns.query, {}, "A"))
      assert.matches("query: opts must be a table, got number", helper.raised(r.query, r, "x.test", "A", 5))
      assert.matches("query: opts.timeout must be a number of seconds, got x",
        helper.raised(r.query, r, "x.test", "A", { timeout = "x" }))
      assert.matches("resolver: opts must be a table, got string", helper.raised(dns.resolver, "127.0.0.1"))
      assert.matches("resolver: timeout must be a number from", helper.raised(dns.resolver, { timeout = 0 }))
      assert.matches("resolver: ndots must be a number from", helper.raised(dns.resolver, { ndots = 16 }))
      assert.matches("resolver: search%[1%] is not right", helper.raised(dns.resolver, { search = { "a b" } }))
      assert.matches("lookup: opts.timeout must be a number of seconds, got x",
        helper.raised(dns.lookup, "x.test", { timeout = "x" }))
      assert.matches("lookup: opts.family must be 4 or 6, got 5", helper.raised(dns.lookup, "x.test", { family = 5 }))
      for _, s in ipairs { "nobody", "1.2.3.4:99999", "127.0.0.1,8.8.8.8", "" } do
        assert.matches("resolver: servers%[1%] is not right", helper.raised(dns.resolver, { servers = { s } }))
      end
      assert.matches("resolver: tries must be a number from 1 to 100, got 0",
        helper.raised(dns.resolver, { tries = 0 }))
    end)
  end)

  describe("a server", function()
    it("that says nothing: timeout", function()
      local r = resolver(function() end, { timeout = 0.02, tries = 2 })
      assert.same({ nil, "timeout" }, { r:lookup("slow.test", { family = 4 }) })
      assert.equal(2, #server.asked)
    end)

    it("that fails, or refuses", function()
      local r = resolver(function() return 2 end)
      local _, err = r:query("x.test", "A")
      assert.equal("no name server could answer: x.test", err)
    end)

    it("that is not there", function()
      local gone = open.keep(require("lunapark.net").udp "127.0.0.1:0")
      local addr = gone:local_addr()
      gone:close()
      local r = dns.resolver { servers = { addr }, search = {}, timeout = 0.5, tries = 1 }
      assert.same({ nil, "no name server could answer: x.test" }, { r:query("x.test", "A") })
    end)

    it("that cuts its reply is asked again over TCP", function()
      local long = ("x"):rep(250)
      local r = resolver(function() return { { "TXT", long, long, long } } end)
      assert.equal(long:rep(3), r:query("long.test", "TXT")[1].text)
      assert.same({ "long.test TXT", "long.test TXT" }, server.asked)
    end)

    it("that sends garbage does no harm", function()
      local function malformed(of) return "the name server's reply is malformed: " .. of end
      local function ignored() return "timeout" end
      local pieces = {
        { function() return "" end, ignored },
        { function() return "garbage" end, ignored },
        { function() return ("\255"):rep(600) end, ignored },
        { function(reply) return reply:sub(1, 14) end, ignored },
        { function(reply) return reply:sub(1, -3) end, malformed }, -- ends within a record
        { function(reply) return (reply:gsub("\192\12", "\192\255")) end, malformed }, -- points to nothing
        { function(reply) return (reply:gsub("\192\12", "\192\28")) end, malformed }, -- points to itself
        { function(reply) return reply:sub(1, 6) .. "\255\255" .. reply:sub(9) end, malformed }, -- lacks records
        { function(reply) return reply:sub(1, -6) .. "\200abcd" end, malformed }, -- a string longer than its record
      }
      for i, piece in ipairs(pieces) do
        local spoil, fault = piece[1], piece[2]
        local opts = { timeout = fault == ignored and 0.02 or nil }
        local r = resolver(function(q) return spoil(nameserver.reply(q, { { "TXT", "abcd", ttl = 5 } })) end, opts)
        local name = "garbage" .. i .. ".test"
        assert.same({ nil, fault(name) }, { r:query(name, "TXT") })
        r = resolver(function(q) return spoil(nameserver.reply(q, { { "A", "192.0.2.1", ttl = 5 } })) end, opts)
        assert.same({ nil, fault(name) }, { r:lookup(name, { family = 4 }) })
      end
    end)
  end)

  describe("the cache", function()
    it("asks once while the records live", function()
      local r = answers { A = { { "A", "192.0.2.1", ttl = 1 } }, TXT = { { "TXT", "x", ttl = 1 } } }
      for _ = 1, 3 do
        assert.same({ "192.0.2.1" }, r:lookup("kept.test", { family = 4 }))
        assert.equal("x", r:query("KEPT.test", "TXT")[1].text)
      end
      assert.same({ "kept.test A", "kept.test TXT" }, server.asked)
      helper.eventually(function()
        assert.same({ "192.0.2.1" }, r:lookup("kept.test", { family = 4 }))
        return #server.asked == 3
      end, "another question")
    end)

    it("keeps nothing that has no time to live, and no failure", function()
      local code = 3
      local r = resolver(function() return code end)
      assert.is_nil(r:lookup("late.test", { family = 4 }))
      code = { { "A", "192.0.2.1", ttl = 0 } }
      assert.same({ "192.0.2.1" }, r:lookup("late.test", { family = 4 }))
      code = { { "A", "192.0.2.2", ttl = 0 } }
      assert.same({ "192.0.2.2" }, r:lookup("late.test", { family = 4 }))
    end)

    it("is each resolver's own", function()
      local one = answers { A = { { "A", "192.0.2.1", ttl = 60 } } }
      assert.same({ "192.0.2.1" }, one:lookup("own.test", { family = 4 }))
      local two = answers { A = { { "A", "192.0.2.2", ttl = 60 } } }
      assert.same({ "192.0.2.2" }, two:lookup("own.test", { family = 4 }))
      assert.same({ "192.0.2.1" }, one:lookup("own.test", { family = 4 }))
    end)

    it("keeps that there is nothing as long as the reply's SOA says", function()
      local function u32(n) return "\0\0" .. string.char(math.floor(n / 256), n % 256) end
      local least, code
      local r = resolver(function(q)
        local reply = nameserver.reply(q, code)
        local soa = "\1a\0\1b\0" .. u32(1) .. u32(2) .. u32(3) .. u32(4) .. u32(least)
        return reply:sub(1, 8) .. "\0\1" .. reply:sub(11) .. "\4test\0\0\6\0\1" .. u32(600) .. "\0"
          .. string.char(#soa) .. soa
      end)
      for i, none in ipairs { "no such host", "no such record" } do
        least, code = 300, i == 1 and 3 or 0
        for _ = 1, 3 do assert.same({ nil, none .. ": n" .. i .. ".test" }, { r:query("n" .. i .. ".test", "A") }) end
        assert.equal(1, #server.asked)
        assert.same({ nil, none .. ": n" .. i .. ".test" }, { r:query("n" .. i .. ".test", "TXT") })
        assert.equal(2, #server.asked)
        least = 0
        for _ = 1, 2 do assert.same({ nil, none .. ": m" .. i .. ".test" }, { r:query("m" .. i .. ".test", "A") }) end
        assert.equal(4, #server.asked)
        for n = #server.asked, 1, -1 do server.asked[n] = nil end
      end
    end)

    it("keeps a name whatever case it is written in", function()
      local r = resolver(function() return { { "A", "192.0.2.1", ttl = 60 } } end)
      r:lookup("case.test", { family = 4 })
      r:lookup("CASE.test", { family = 4 })
      assert.same({ "case.test A" }, server.asked)
    end)

    it("keeps an alias no longer than the shortest of its records lives", function()
      local alias = { "CNAME", "real.test", ttl = 1 }
      local r = answers { A = { alias, { "A", "192.0.2.1", ttl = 3600, name = "real.test" } } }
      helper.eventually(function()
        assert.same({ "192.0.2.1" }, r:lookup("alias.test", { family = 4 }))
        return #server.asked == 2
      end, "another question")
    end)
  end)

  describe("a wait", function()
    it("ends by its timeout, a deadline, or cancellation; the late answer is dropped", function()
      local gate, late = lp.chan(), 0
      local r = resolver(function()
        gate:recv()
        late = late + 1
        return { { "A", "192.0.2.1", ttl = 60 } }
      end)
      assert.same({ nil, "timeout" }, { r:lookup("late1.test", { family = 4, timeout = 0.01 }) })
      assert.same({ nil, "timeout" }, { lp.deadline(0.01, r.lookup, r, "late2.test", { family = 4 }) })
      local g = lp.go(r.query, r, "late3.test", "A")
      helper.eventually(function() return #server.asked == 3 end)
      g:cancel()
      assert.same({ nil, "canceled" }, { g:join() })
      collectgarbage()
      collectgarbage()
      gate:close()
      helper.eventually(function() return late == 3 end)
      lp.sleep(0.01) -- the answers come, for nobody
      assert.same({ "192.0.2.1" }, r:lookup("late1.test", { family = 4 }))
    end)

    it("holds up nobody else", function()
      local ticks = 0
      local ticker = lp.every(0.005, function() ticks = ticks + 1 end)
      local r = resolver(function()
        helper.eventually(function() return ticks >= 5 end)
        return { { "A", "192.0.2.1" } }
      end)
      assert.same({ "192.0.2.1" }, r:lookup("nobody.test", { family = 4 }))
      ticker:stop()
    end)
  end)

  it("does many lookups at once", function()
    local r = resolver(function(q)
      lp.sleep(math.random() * 0.01)
      return { { "A", "192.0.2." .. q.name:match "%d+" % 250 } }
    end, { timeout = 2, tries = 10 })
    lp.scope(function(s)
      for i = 1, 1000 do
        s:go(function()
          assert.same({ "192.0.2." .. i % 250 }, r:lookup(("n%d.test"):format(i), { family = 4 }))
        end)
      end
    end)
  end)

  it("gives resolvers back that are in use when they go", function()
    resolver(function() end)
    local fds
    local resolvers = setmetatable({}, { __mode = "v" })
    for i = 1, 20 do
      local r = dns.resolver { servers = { server.addr }, search = {} }
      resolvers[i] = r
      assert.same({ nil, "timeout" }, { r:lookup("gone" .. i .. ".test", { family = 4, timeout = 0.001 }) })
      fds = fds or lp.stats().fds
    end
    helper.eventually(function()
      collectgarbage()
      return next(resolvers) == nil and lp.stats().fds <= fds
    end, "their end")
  end)
end)
