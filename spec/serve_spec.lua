--- Servers of any protocol, of one VM: net.serve.

local core = require "lunapark.core"
local lp = require "lunapark"
local net = require "lunapark.net"
local child = require "spec.support.child"
local helper = require "spec.helper"
local pairs_of = require "spec.support.pairs"

describe("net.serve", function()
  local open = pairs_of.new()
  local servers = {}
  after_each(function()
    open.close()
    for _, s in ipairs(servers) do s:stop(0) end
    servers = {}
  end)

  local function serve(fn, opts, addr)
    local s = assert(net.serve(addr or "127.0.0.1:0", fn, opts))
    servers[#servers + 1] = s
    return s
  end

  local function connect(s)
    return open.keep(net.dial((s:addr():gsub("^udp:", ""))))
  end

  local function echo(c)
    for line in function() return c:read_line() end do assert(c:write(line .. "\n")) end
  end

  -- Asks an echo; a server that has answered has begun with the connection.
  local function ask(c, text)
    assert(c:write(text .. "\n"))
    return c:read_line()
  end

  it("serves each connection in a G of its own, and closes it", function()
    local s = serve(function(c)
      c:write(c:read_line() .. " to " .. c:remote_addr())
    end)
    assert.matches("^127%.0%.0%.1:%d+$", s:addr())
    local first, second = connect(s), connect(s)
    second:write "two\n"
    assert.equal("two to " .. second:local_addr(), second:read_all())
    first:write "one\n"
    assert.equal("one to " .. first:local_addr(), first:read_all())
  end)

  it("serves unix sockets, and removes their files", function()
    local path = pairs_of.path()
    local s = serve(echo, nil, "unix:" .. path)
    assert.equal("unix:" .. path, s:addr())
    assert.equal("x", ask(connect(s), "x"))
    s:stop(0)
    assert.is_nil(io.open(path))
  end)

  it("says why it can not", function()
    local s = serve(echo)
    assert.same({ nil, "address already in use" }, { net.serve(s:addr(), echo) })
    assert.is_nil((net.serve("127.0.0.1:x", echo)))
    assert.matches("serve: addr must be a string, got nil", helper.raised(net.serve))
    assert.matches("serve: fn must be a function, got nil", helper.raised(net.serve, "127.0.0.1:0"))
    for opts, why in pairs {
      [1] = "opts must be a table, got number",
      [{ idle = 0 }] = "idle must be a number of seconds or false, got 0",
      [{ max = 0 }] = "max must be a whole number, 1 or more, got 0",
      [{ backlog = 1.5 }] = "backlog must be a whole number, 1 or more, got 1.5",
      [{ on_error = 1 }] = "on_error must be a function, got number",
    } do
      assert.matches("serve: " .. why, helper.raised(net.serve, "127.0.0.1:0", echo, opts), 1, true)
    end
  end)

  it("leaves no handler behind", function()
    assert(serve(echo):stop())
    local number = core.new_handler(print)
    core.drop_handler(number)
    for _ = 1, 50 do
      assert.is_nil((net.serve("unix:/nonexistent/x", echo)))
      assert(serve(echo):stop())
    end
    local later = core.new_handler(print)
    core.drop_handler(later)
    assert.is_true(later <= number, later)
  end)

  describe("an error", function()
    it("ends its connection alone, and is logged with place and client", function()
      local s = serve(function(c)
        if c:read_line() == "fail" then error "a bad line" end
        echo(c)
      end)
      local good, bad = connect(s), connect(s)
      good:write "x\n"
      local before = lp.stats().connections.failed
      local text = helper.stderr_of(function()
        bad:write "fail\n"
        assert.equal("", bad:read_all())
      end, "a bad line")
      assert.matches("error tcp 127.0.0.1:%d+, client " .. bad:local_addr():gsub("%p", "%%%0")
        .. ": spec/serve_spec.lua:%d+: a bad line\n%s*stack traceback", text)
      assert.equal("y", ask(good, "y"))
      assert.equal(before + 1, lp.stats().connections.failed)
    end)

    it("goes to on_error in place of the log, before the connection is closed", function()
      local seen
      local s = serve(function() error { code = 7 } end, {
        on_error = function(c, err, traceback)
          seen = { err.code, traceback }
          c:write "sorry"
        end,
      })
      local text = helper.stderr_of(function() assert.equal("sorry", connect(s):read_all()) end)
      assert.equal("", text)
      assert.equal(7, seen[1])
      assert.matches("stack traceback", seen[2])
    end)

    it("of on_error is logged, and so is the first", function()
      local s = serve(function() error "first" end, { on_error = function() error "second" end })
      local text = helper.stderr_of(function() assert.equal("", connect(s):read_all()) end, "first", 1)
      assert.matches("on_error failed: spec/serve_spec.lua:%d+: second", text)
      assert.matches("serve_spec.lua:%d+: first", text)
    end)

    it("that only says that the client left is none", function()
      local s = serve(function(c) error(select(2, c:read_line()), 0) end)
      local before = lp.stats().connections.failed
      local text = helper.stderr_of(function()
        connect(s):close()
        helper.eventually(function() return s:count() == 0 end)
        lp.sleep(0.01)
      end)
      assert.equal("", text)
      assert.equal(before, lp.stats().connections.failed)
    end)
  end)

  describe("opts", function()
    it("idle ends each wait for a silent client", function()
      local answers, written = {}, lp.chan(1)
      local s = serve(function(c)
        written:recv()
        answers[#answers + 1] = { c:read_line() }
        answers[#answers + 1] = { c:read_exact(100) }
        c:set_read_deadline(60) -- later than idle
        answers[#answers + 1] = { c:read() }
      end, { idle = 0.05 })
      local c = connect(s)
      c:write "partial"
      written:send(true)
      assert.equal("", c:read_all())
      assert.same({ { nil, "timeout" }, { nil, "timeout" }, { "partial" } }, answers)
    end)

    it("idle does not end a read of many bytes that come slowly", function()
      local s = serve(function(c) c:write(tostring(#assert(c:read_exact(1000)))) end, { idle = 1 })
      local c = connect(s)
      for _ = 1, 20 do
        c:write(("x"):rep(50))
        lp.sleep(0.07)
      end
      assert.equal("1000", c:read_all())
    end)

    it("idle ends a write that nobody reads", function()
      local answer
      local s = serve(function(c) answer = { c:write(("x"):rep(32 * 2 ^ 20)) } end, { idle = 0.05 })
      connect(s)
      helper.eventually(function() return answer end)
      assert.same({ nil, "timeout" }, answer)
    end)

    it("max refuses further connections", function()
      local s = serve(echo, { max = 2 })
      local a, b = connect(s), connect(s)
      assert.equal("a", ask(a, "a"))
      assert.equal("b", ask(b, "b"))
      local before = lp.stats().connections.refused
      local text = connect(s):read_all()
      assert.is_true(text == "" or text == nil)
      assert.equal(before + 1, lp.stats().connections.refused)
      assert.equal(2, s:count())
      a:close()
      helper.eventually(function()
        local c = connect(s)
        return c:write "c\n" and c:read_line() == "c"
      end)
    end)

    it("backlog bounds the clients that wait to be accepted", function()
      assert.equal("x", ask(connect(serve(echo, { backlog = 1 })), "x"))
    end)
  end)

  describe("stop", function()
    it("accepts no more, and lets connections end between two messages", function()
      local s = serve(echo)
      local c = connect(s)
      assert.equal("x", ask(c, "x"))
      local stopped = lp.go(s.stop, s)
      lp.yield()
      helper.eventually(function()
        local late = net.dial(s:addr())
        return not late or late:close() and false
      end)
      for _ = 1, 4 do -- it goes on for longer than it may be silent
        assert.equal("y", ask(c, "y"))
        lp.sleep(0.4)
      end
      assert.is_nil((stopped:join(0)))
      assert.is_true(stopped:join(helper.PATIENCE))
      assert.same({ nil, "eof" }, { c:read() })
      assert.is_true(s:stop())
      assert.is_true(s:wait())
    end)

    it("waits for a handler that is busy", function()
      local go_on
      local s = serve(function(c)
        c:read_line()
        helper.eventually(function() return go_on end)
        c:write "done"
      end)
      local c = connect(s)
      c:write "go\n"
      helper.eventually(function() return s:count() == 1 end)
      local stopped = lp.go(s.stop, s)
      assert.same({ nil, "timeout" }, { stopped:join(0.05) })
      go_on = true
      assert.equal("done", c:read_all())
      assert.is_true(stopped:join(helper.PATIENCE))
    end)

    it("closes what has not ended in its time, and cancels it", function()
      local heard
      local s = serve(function(c)
        c:write "begun\n"
        local _, err = lp.sleep(100)
        heard = { err, (select(2, c:write "x")) }
      end)
      local c = connect(s)
      assert.equal("begun", c:read_line())
      assert.same({ nil, "timeout" }, { s:stop(0.01) })
      assert.same({ nil, "eof" }, { c:read() })
      assert.is_true(s:wait(helper.PATIENCE))
      assert.same({ "canceled", "closed" }, heard)
    end)

    it("may be called from a connection", function()
      local s
      s = serve(function(c)
        c:write "bye"
        s:stop(0)
      end)
      assert.equal("bye", connect(s):read_all())
      assert.is_true(s:wait(helper.PATIENCE))
    end)

    it("is waited for by wait", function()
      local s = serve(echo)
      assert.same({ nil, "timeout" }, { s:wait(0.01) })
      local g = lp.go(s.wait, s)
      lp.yield()
      s:stop(0)
      assert.is_true(g:join(helper.PATIENCE))
      g = lp.go(serve(echo).wait, servers[2])
      lp.yield()
      g:cancel()
      assert.same({ nil, "canceled" }, { g:join() })
    end)

    it("comes with the process's", function()
      finally(child.clean)
      local busy = child.file ""
      local c = child.serve { child.script(child.UNTIL_GONE .. ([[
        local app = require("lunapark.http").app()
        local addr
        app:on_start(function()
          addr = require("lunapark.net").serve("127.0.0.1:0", function(c)
            c:write "hello\n"
            until_gone(%q)
            c:write "done\n"
          end):addr()
        end)
        app:get("/addr", function() return addr end)
        return app
      ]]):format(busy)), "--procs", "1", "--max-vms", "1", "--drain-timeout", "600" }
      local addr = child.client(c.addr):get("/addr").body
      local conn = child.dial(addr)
      assert.equal("hello", conn:read_line())
      c:kill "TERM"
      child.eventually(function()
        local late = net.dial(addr)
        return not late or late:close() and false
      end, "refused")
      assert.is_nil(c:poll(), "a handler runs")
      os.remove(busy)
      assert.equal("done", conn:read_line())
      conn:close()
      assert.equal(0, c:wait())
    end)
  end)

  it("counts connections in lp.stats", function()
    local before = lp.stats().connections
    local s = serve(echo)
    local a = connect(s)
    ask(a, "x")
    local c = lp.stats().connections
    assert.equal(before.accepted + 1, c.accepted)
    assert.equal(before.open + 1, c.open)
    lp.sleep(0.01)
    a:close()
    s:stop()
    c = lp.stats().connections
    assert.equal(before.open, c.open)
    assert.is_true(c.seconds >= before.seconds + 0.01)
  end)

  it("closes a connection that its handler has kept", function()
    local kept
    local s = serve(function(c) kept = c end)
    assert.equal("", connect(s):read_all())
    assert.same({ nil, "closed" }, { kept:read() })
  end)

  it("serves many at once", function()
    local s = serve(echo)
    helper.all(50, function(i)
      local c = assert(net.dial(s:addr()))
      for k = 1, 20 do assert.equal(i .. "." .. k, ask(c, i .. "." .. k)) end
      c:close()
    end)
    helper.eventually(function() return s:count() == 0 end)
  end)

  describe("of datagrams", function()
    it("answers each in a G of its own", function()
      local s = serve(function(data, from, sock)
        if data == "slow" then lp.sleep(0.02) end
        sock:send(data:upper(), from)
      end, nil, "udp:127.0.0.1:0")
      local u = open.keep(net.udp "127.0.0.1:0")
      u:send("slow", s:addr())
      u:send("fast", s:addr())
      assert.same({ "FAST", s:addr() }, { u:recv() })
      assert.same({ "SLOW", s:addr() }, { u:recv() })
    end)

    it("answers at most max at once, and the others later", function()
      local now, most = 0, 0
      local s = serve(function(data, from, sock)
        now = now + 1
        most = math.max(most, now)
        lp.sleep(0.005)
        now = now - 1
        sock:send(data, from)
      end, { max = 2 }, "udp:127.0.0.1:0")
      local u = open.keep(net.udp "127.0.0.1:0")
      for i = 1, 10 do u:send(tostring(i), s:addr()) end
      local seen = {}
      for _ = 1, 10 do seen[#seen + 1] = u:recv() end
      assert.equal(10, #seen)
      assert.equal(2, most)
    end)

    it("counts them in lp.stats", function()
      local s = serve(function(data)
        if data == "bad" then error "closed" end
        lp.sleep(data == "slow" and 0.02 or 0)
      end, { on_error = function() end }, "udp:127.0.0.1:0")
      local u = open.keep(net.udp "127.0.0.1:0")
      local before = lp.stats().datagrams
      for _, data in ipairs { "slow", "fast", "bad" } do u:send(data, s:addr()) end
      helper.eventually(function() return lp.stats().datagrams.received == before.received + 3 end)
      helper.eventually(function() return lp.stats().datagrams.ended == before.ended + 3 end)
      assert.equal(before.failed + 1, lp.stats().datagrams.failed)
    end)

    it("logs errors with place and client", function()
      local s = serve(function() error "a bad datagram" end, nil, "udp:127.0.0.1:0")
      local u = open.keep(net.udp "127.0.0.1:0")
      local text = helper.stderr_of(function() u:send("x", s:addr()) end, "a bad datagram")
      assert.matches("error udp 127.0.0.1:%d+, client 127.0.0.1:%d+: spec/serve_spec.lua:%d+: a bad datagram", text)
    end)

    it("stops when its handlers have ended, or their time is over", function()
      local s = serve(function(data, from, sock)
        lp.sleep(0.02)
        sock:send(data, from)
      end, nil, "udp:127.0.0.1:0")
      local u = open.keep(net.udp "127.0.0.1:0")
      u:send("x", s:addr())
      helper.eventually(function() return s:count() == 1 end)
      assert.is_true(s:stop())
      assert.same({ "x", s:addr() }, { u:recv() })
      local heard
      s = serve(function() heard = select(2, lp.sleep(100)) end, nil, "udp:127.0.0.1:0")
      u:send("x", s:addr())
      helper.eventually(function() return s:count() == 1 end)
      assert.same({ nil, "timeout" }, { s:stop(0.01) })
      assert.is_true(s:wait(helper.PATIENCE))
      assert.equal("canceled", heard)
    end)
  end)
end)
