-- The scripts that are programs, not apps: run as a user runs them, and what they print.

local http = require "lunapark.http"
local lp = require "lunapark"
local net = require "lunapark.net"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local redis = require "spec.support.redis"

describe("scripts/", function()
  local things

  before_each(function() things = {} end)
  after_each(function()
    for _, thing in ipairs(things) do
      thing:close()
    end
    child.clean()
  end)

  local function keep(thing, err)
    assert(thing, err)
    things[#things + 1] = thing
    if thing.set_deadline then thing:set_deadline(20) end
    return thing
  end

  local function run(name, ...)
    return child.run { "run", "scripts/" .. name .. ".lua", ... }
  end

  -- Starts one that goes on until it is ended, and waits for its first line: the child, and what the line tells.
  local function start(pattern, name, ...)
    local c = child.start { "run", "scripts/" .. name .. ".lua", ... }
    local found
    child.eventually(function()
      if c:poll() then error(name .. " ended: " .. c:stderr(), 0) end
      found = c:stdout():match(pattern)
      return found
    end, name .. "'s first line")
    return c, found
  end

  local function printed(c, pattern)
    child.eventually(function() return c:stdout():find(pattern) end, "the line " .. pattern)
  end

  for _, name in ipairs { "echo", "pipeline", "fanout", "proxy", "crawler", "exec", "redis" } do
    it(name .. " says in two lines what to try", function()
      local lines = {}
      for line in io.lines("scripts/" .. name .. ".lua") do
        lines[#lines + 1] = line
      end
      assert.matches("^%-%- build/lunapark run scripts/" .. name .. "%.lua", lines[1])
      assert.matches("^%-%- %S", lines[2])
      assert.equal("", lines[3])
    end)
  end

  describe("echo", function()
    it("gives back what comes, to several at once, and says who came and why they went", function()
      local c, addr = start("^echo: listening on (%S+)\n", "echo", "127.0.0.1:0")
      local a, b = keep(net.dial(addr)), keep(net.dial(addr))
      a:write "to be cont"
      b:write "all\n"
      assert.equal("all", b:read_line())
      a:write "inued\n"
      assert.equal("to be continued", a:read_line())
      local long = ("0123456789"):rep(100000)
      local writer = lp.go(function()
        a:write(long)
        a:close_write()
      end)
      assert.is_true(a:read_all() == long)
      writer:join()
      printed(c, "\necho: 1 ended: eof\n")
      assert.matches("\necho: 1 from " .. a:local_addr():gsub("%.", "%%."), c:stdout())
      c:kill "TERM"
      assert.equal(-15, c:wait())
      assert.equal("", c:stderr())
    end)

    it("says that its address is taken", function()
      local ln = keep(net.listen "127.0.0.1:0")
      local err = "echo: " .. ln:addr() .. ": address already in use\n"
      assert.same({ 1, "", err }, { run("echo", ln:addr()) })
    end)
  end)

  describe("pipeline", function()
    it("finds the longest", function()
      local line = "pipeline: 100000 numbers by 4 workers: 77031 takes 350 steps\n"
      assert.same({ 0, line, "" }, { run "pipeline" })
      assert.same({ 0, (line:gsub("100000", "27"):gsub("77031 takes 350", "27 takes 111")), "" },
        { run("pipeline", "27") })
    end)

    it("ends when its time is over", function()
      local code, out, err = run("pipeline", "1e12", "0.1")
      assert.same({ 0, "" }, { code, err })
      local count = tonumber(out:match "^pipeline: (%d+) numbers by 4 workers: %d+ takes %d+ steps\n$")
      assert.is_true(count > 0 and count < 1e12, out)
    end)

    it("says what its arguments are", function()
      assert.same({ 64, "", "usage: pipeline.lua [limit] [seconds]\n" }, { run("pipeline", "many") })
    end)
  end)

  describe("fanout", function()
    it("has all answers, and no more connections at once than it says", function()
      for _, n in ipairs { { 1000, 64 }, { 200, 1, "200", "1" } } do
        local code, out, err = run("fanout", unpack(n, 3))
        assert.same({ 0, "" }, { code, err })
        local line = "^fanout: (%d+) answers, all right; (%d+) connections at once at most; [%d.]+ s\n$"
        local total, most = out:match(line)
        assert.same({ n[1], n[2] }, { tonumber(total), tonumber(most) })
      end
    end)

    it("says what its arguments are", function()
      assert.same({ 64, "", "usage: fanout.lua [dials] [at once]\n" }, { run("fanout", "10", "0") })
    end)
  end)

  describe("proxy", function()
    it("passes requests and answers on, in pieces and whole, and counts", function()
      local app = http.app()
      app:get("/hello", function() return "Hello through it!" end)
      app:post("/size", function(req) return tostring(#req:body()) end)
      local behind = keep(testing.serve(app))
      local c, addr = start("^proxy: listening on (%S+) for %S+\n", "proxy", "127.0.0.1:0", behind.addr)
      local client = child.client(addr)
      assert.equal("Hello through it!", client:get("/hello").body)
      assert.equal("1000000", client:post("/size", { body = ("x"):rep(1000000) }).body)
      client:close()
      printed(c, "\nproxy: 127%.0%.0%.1:%d+: 1000%d+ bytes up, %d+ down\n")
      assert.equal("", c:stderr())
    end)

    it("says why it can't, and goes on", function()
      local ln = net.listen "127.0.0.1:0"
      local there = ln:addr()
      ln:close()
      local c, addr = start("^proxy: listening on (%S+) for %S+\n", "proxy", "127.0.0.1:0", there)
      for i = 1, 2 do
        assert.same({ nil, "eof" }, { keep(net.dial(addr)):read() })
        printed(c, ("\nproxy: [^\n]+: %s: connection refused"):format(there):rep(i))
      end
      ln = keep(net.listen(there))
      local near = keep(net.dial(addr))
      local far = keep(ln:accept())
      far:write "hello"
      assert.equal("hello", near:read())
      assert.equal("", c:stderr())
    end)

    it("ends both ways when one breaks", function()
      local ln = keep(net.listen "127.0.0.1:0")
      local c, addr = start("^proxy: listening on (%S+) for %S+\n", "proxy", "127.0.0.1:0", ln:addr())
      local near = keep(net.dial(addr))
      local far = keep(ln:accept())
      near:write(("x"):rep(1000000))
      far:read(1)
      far:close() -- with bytes unread: a reset
      assert.is_nil((near:read()))
      child.eventually(function()
        local why = c:stdout():match "\nproxy: 127%.0%.0%.1:%d+: ([^\n]+)\n"
        return why == "connection reset by peer" or why == "broken pipe"
      end, "the line that says why")
    end)

    it("says what its arguments are", function()
      assert.same({ 64, "", "usage: proxy.lua HERE THERE\n" }, { run("proxy", "127.0.0.1:0") })
    end)
  end)

  describe("crawler", function()
    it("finds every page of its own, and the dead link", function()
      local code, out, err = run "crawler"
      assert.same({ 0, "" }, { code, err })
      assert.matches("^dead link: /page/201 %(on /page/100%): 404\n"
        .. "crawler: 201 pages, %d+ bytes, dead links: 1, [%d.]+ s\n$", out)
    end)

    it("crawls another site", function()
      local app = http.app()
      app:get("/", function()
        return '<a href="/a">a</a> <a href="/b?x=1#part">b</a> <a href="http://elsewhere/">c</a>'
      end)
      app:get("/a", function() return '<a href="/">back</a>' end)
      app:get("/b", function(req) return req.query.x == "1" and "<p>the end" or 500 end)
      local site = keep(testing.serve(app))
      local code, out, err = run("crawler", site.addr, "/")
      assert.same({ 0, "" }, { code, err })
      assert.matches("^crawler: 3 pages, %d+ bytes, dead links: 0, [%d.]+ s\n$", out)
      site:close()
      child.eventually(function()
        local conn = net.dial(site.addr)
        if conn then conn:close() end
        return not conn
      end, "the end of the site")
      code, out = run("crawler", site.addr)
      assert.equal(0, code)
      assert.matches("^dead link: / %(on the command line%): connection refused\ncrawler: 0 pages, ", out)
    end)
  end)

  describe("exec", function()
    it("says how each has ended", function()
      local code, out, err = run "exec"
      assert.same({ 0, "" }, { code, err })
      local lines = {}
      for line in out:gmatch "[^\n]+" do
        lines[#lines + 1] = line:gsub("%s+", " ")
      end
      assert.same({
        "echo no shell $HOME exit 0: no shell $HOME",
        "sort exit 0: apple",
        "sh -c sleep 0.2; echo to stderr >&2; exit 3 exit 3: to stderr",
        "sleep 9 timeout",
        "no-such-program no such file or directory: no-such-program",
        "cat exit 0, after two answers",
      }, { unpack(lines, 1, 6) })
      local took = tonumber(lines[7]:match "^all in ([%d.]+) s$")
      assert.is_true(took >= 2 and took < 9, took)
    end)

    it("takes command lines", function()
      local code, out, err = run("exec", "echo $((6 * 7))", "kill $$", "exit 3")
      assert.same({ 0, "" }, { code, err })
      assert.matches("^echo %$%(%(6 %* 7%)%) +exit 0: 42\nkill %$%$ +ended by TERM\nexit 3 +exit 3\ncat ", out)
    end)
  end)

  describe("redis", function()
    local server

    after_each(function()
      if server then server:remove() end
      server = nil
    end)

    it("is short", function()
      local n = 0
      for _ in io.lines "scripts/redis.lua" do
        n = n + 1
      end
      assert.is_true(n < 60, n)
    end)

    it("has 100,000 commands answered by a real one, rightly, each time", function()
      server = redis.start()
      for _ = 1, 2 do
        local code, out, err = run("redis", server.addr)
        assert.same({ 0, "" }, { code, err })
        assert.matches("^redis: 100000 commands, all answers right, [%d.]+ s\n$", out)
      end
      assert.is_true(server:done() >= 200000)
      assert.equal(":1000", server:command "HLEN lunapark:numbers")
      -- Field f is set for the last time by the last i = 3 * (1000 * k + f) below 100,000.
      assert.equal("$5", server:command "HGET lunapark:numbers 332")
    end)

    it("says what Redis does not like", function()
      server = redis.start()
      assert.equal(":1", server:command "RPUSH lunapark:numbers x")
      assert.same({
        1, "", "redis: HMSET lunapark:numbers 0 0: WRONGTYPE Operation against a key holding the wrong kind of value\n",
      }, { run("redis", server.addr, "100") })
    end)

    it("says that it wants a password", function()
      server = redis.start("--requirepass", "secret")
      assert.same({ 1, "", "redis: HMSET lunapark:numbers 0 0: NOAUTH Authentication required.\n" },
        { run("redis", server.addr, "100") })
    end)

    it("says that Redis has gone in the midst of it", function()
      server = redis.start()
      local c = child.start { "run", "scripts/redis.lua", server.addr, "1e9" }
      child.eventually(function() return server:done() > 1000 end, "a thousand commands")
      server:kill()
      assert.equal(1, c:wait())
      assert.equal("", c:stdout())
      local why = c:stderr():match "^redis: H%u+ lunapark:numbers %d+[ %d]*: no answer: ([^\n]+)\n$"
      assert.is_true(why == "eof" or why == "connection reset by peer", c:stderr())
    end)

    it("says that Redis hangs", function()
      server = redis.start()
      local c = child.start { "run", "scripts/redis.lua", server.addr, "1e9" }
      child.eventually(function() return server:done() > 1000 end, "a thousand commands")
      server.process:kill "STOP"
      assert.equal(1, c:wait())
      assert.matches("^redis: .*: no answer: timeout\n$", c:stderr())
    end)

    it("says that there is none", function()
      assert.same({ 1, "", "redis: unix:/nowhere/socket: no such file or directory\n" },
        { run("redis", "unix:/nowhere/socket") })
      assert.same({ 1, "", "redis: usage: redis.lua [address] [commands]\n" }, { run("redis", "127.0.0.1:1", "many") })
    end)
  end)
end)
