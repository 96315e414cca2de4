local ffi = require "ffi"
local lp = require "lunapark"
local signal = require "lunapark.signal"
local child = require "spec.support.child"
local helper = require "spec.helper"

local raised = helper.raised

ffi.cdef "int getpid(void); int raise(int);"
local USR1, USR2, WINCH, CONT = 10, 12, 28, 18

local function send(number) assert(ffi.C.kill(ffi.C.getpid(), number) == 0) end

-- The dispositions of this process: is the signal caught?
local function is_caught(number)
  for line in io.lines "/proc/self/status" do
    local mask = line:match "^SigCgt:%s*(%x+)"
    if mask then
      local low = tonumber(mask:sub(-8), 16)
      return bit.band(bit.rshift(low, number - 1), 1) == 1
    end
  end
end

describe("lunapark.signal", function()
  after_each(function()
    signal.reset()
    child.clean()
  end)

  it("notify gives a receiver of names", function()
    local s = signal.notify("USR2", "SIGWINCH")
    assert.same({ nil, "timeout" }, { s:recv(0) })
    send(USR2)
    assert.equal("USR2", s:recv(20))
    send(WINCH)
    assert.equal("WINCH", s:recv(20))
    assert.same({ nil, "timeout" }, { s:recv(0.001) })
  end)

  it("is lp.signal, too", function() assert.equal(signal, lp.signal) end)

  it("wakes who waits, and ends waits as others", function()
    local s = signal.notify "USR2"
    local g = lp.go(function() return s:recv() end)
    lp.yield()
    send(USR2)
    assert.equal("USR2", g:join(20))
    g = lp.go(function() return s:recv() end)
    lp.yield()
    g:cancel()
    assert.same({ nil, "canceled" }, { g:join(20) })
    g = lp.go(function() return s:recv() end)
    lp.yield()
    assert.is_true(s:stop())
    assert.same({ nil, "closed" }, { g:join(20) })
    assert.same({ nil, "timeout" }, { lp.deadline(0.01, function() return signal.notify("USR2"):recv() end) })
  end)

  it("stands in a select, and in a loop", function()
    local s, jobs = signal.notify("USR2", "CONT"), lp.chan()
    local g = lp.go(function() return lp.select { { jobs, "recv" }, { s, "recv" }, timeout = 20 } end)
    lp.yield()
    send(CONT)
    local i, name, ok = g:join(20)
    assert.same({ 2, "CONT", true }, { i, name, ok })
    g = lp.go(function()
      local names = {}
      for n in s:iter() do
        names[#names + 1] = n
        if n == "CONT" then s:stop() end
      end
      return names
    end)
    send(USR2)
    helper.eventually(function() return s:len() == 0 and g ~= nil end)
    lp.sleep(0.01)
    send(CONT)
    assert.same({ "USR2", "CONT" }, (g:join(20)))
  end)

  it("reports a signal that comes again before it was received once, and none is lost for it", function()
    local s = signal.notify("USR2", "WINCH")
    for _ = 1, 50 do send(USR2) end
    helper.eventually(function() return s:len() == 1 end)
    for _ = 1, 50 do
      send(USR2)
      send(WINCH)
    end
    helper.eventually(function() return s:len() == 2 end)
    assert.same({ "USR2", "WINCH" }, { s:recv(20), s:recv(20) })
    assert.same({ nil, "timeout" }, { s:recv(0.01) })
  end)

  it("tells everybody who asked", function()
    local a, b, c = signal.notify "USR2", signal.notify("WINCH", "USR2", "SIGUSR2"), signal.notify "WINCH"
    send(USR2)
    assert.equal("USR2", a:recv(20))
    assert.equal("USR2", b:recv(20))
    assert.same({ nil, "timeout" }, { c:recv(0.01) })
    assert.same({ nil, "timeout" }, { b:recv(0) })
  end)

  it("stop ends it for one, and the last gives the default action back", function()
    assert.is_false(is_caught(WINCH))
    local a, b = signal.notify "WINCH", signal.notify "WINCH"
    assert.is_true(is_caught(WINCH))
    send(WINCH)
    helper.eventually(function() return a:len() == 1 and b:len() == 1 end)
    assert.is_true(a:stop())
    assert.is_true(is_caught(WINCH))
    assert.equal("WINCH", a:recv())
    assert.same({ nil, "closed" }, { a:recv() })
    assert.same({ nil, "closed" }, { a:stop() })
    assert.equal("WINCH", b:recv())
    send(WINCH)
    assert.equal("WINCH", b:recv(20))
    assert.is_true(signal.stop(b))
    assert.is_false(is_caught(WINCH))
    local d = signal.notify "WINCH"
    assert.is_true(d:close())
    assert.is_false(is_caught(WINCH))
  end)

  it("reset takes signals from all", function()
    local a, b = signal.notify("WINCH", "CONT"), signal.notify "WINCH"
    signal.reset "WINCH"
    assert.is_false(is_caught(WINCH))
    assert.same({ nil, "closed" }, { b:recv(20) })
    send(CONT)
    assert.equal("CONT", a:recv(20))
    signal.reset("WINCH", "CONT", "USR2")
    assert.same({ nil, "closed" }, { a:recv(20) })
    signal.notify "CONT"
    signal.notify("WINCH", "CONT")
    signal.reset()
    assert.is_false(is_caught(WINCH) or is_caught(CONT))
  end)

  it("replaces the dump of USR1, until it is stopped", function()
    local log = helper.stderr_of(function()
      local s = signal.notify "USR1"
      send(USR1)
      assert.equal("USR1", s:recv(20))
      s:stop()
    end)
    assert.equal("", log)
    assert.is_true(is_caught(USR1))
  end)

  it("refuses misuse, naming the argument", function()
    assert.matches("signal_spec.lua:%d+: notify: the name of a signal is missing",
      raised(function() signal.notify() end))
    assert.matches("signal_spec.lua:%d+: notify: name must be that of a signal, as \"TERM\", got 'NOPE'",
      raised(function() signal.notify "NOPE" end))
    assert.matches("notify: name must be .*, got number", raised(signal.notify, 15))
    assert.matches("notify: name must be .*, got 'term'", raised(signal.notify, "term"))
    assert.matches("reset: name must be .*, got nil", raised(signal.reset, nil))
    assert.matches("stop: s must be what notify returned, got table", raised(signal.stop, {}))
    assert.matches("stop: s must be what notify returned, got nil", raised(signal.stop))
    for _, name in ipairs { "KILL", "STOP", "SEGV", "BUS", "FPE", "ILL", "URG", "PROF" } do
      assert.matches("signal_spec.lua:%d+: notify: " .. name .. " can't be caught",
        raised(function() signal.notify("WINCH", name) end))
      assert.is_false(is_caught(WINCH))
    end
  end)

  describe("in run", function()
    it("catches INT and TERM, and gives them back", function()
      local c = child.start { "run", child.script [[
        local lp, signal = require "lunapark", require "lunapark.signal"
        local s = signal.notify("INT", "TERM")
        print "ready"
        io.stdout:flush()
        print(s:recv())
        io.stdout:flush()
        print(s:recv())
        s:stop()
        print "default"
        io.stdout:flush()
        lp.sleep(60)
      ]] }
      local function said(text)
        child.eventually(function() return c:stdout():find(text, 1, true) end, text)
      end
      said "ready\n"
      c:kill "TERM"
      said "TERM\n"
      c:kill "INT"
      said "INT\ndefault\n"
      c:kill "TERM"
      assert.equal(-15, c:wait())
    end)

    it("is no deadlock while somebody waits for a signal, but after it", function()
      local c = child.start { "run", child.script [[
        local lp, signal = require "lunapark", require "lunapark.signal"
        local s = signal.notify "USR2"
        print "ready"
        io.stdout:flush()
        print(s:recv())
        s:stop()
        io.stdout:flush()
        lp.park()
      ]] }
      child.eventually(function() return c:stdout() == "ready\n" end, "ready")
      lp.sleep(0.1)
      assert.is_nil(c:poll())
      c:kill "USR2"
      assert.equal(2, c:wait())
      assert.equal("ready\nUSR2\n", c:stdout())
      assert.matches("deadlock", c:stderr())
    end)
  end)

  describe("under serve", function()
    local APP = [[
      local lp, signal = require "lunapark", require "lunapark.signal"
      local dict = require("lunapark.shared").dict "seen"
      local app = require("lunapark.http").app()
      app:on_start(function()
        local s = signal.notify("USR1", "WINCH")
        lp.detach(function()
          for name in s:iter() do dict:incr(name .. lp.stats().vm, 1, 0) end
        end)
      end)
      app:get("/seen/:key", function(req) return tostring(dict:get(req.params.key) or 0) end)
      app:get("/ask/:name", function(req) return tostring(select(2, pcall(signal.notify, req.params.name))) end)
      app:get("/loop", function() while true do end end)
      app:get("/vm", function() return tostring(lp.stats().vm) end)
      return app
    ]]

    it("each VM gets it; the host's own are refused, and say why", function()
      local c = child.serve { child.script(APP), "--procs", "2" }
      local client = child.client(c.addr)
      local function seen(key) return tonumber(client:get("/seen/" .. key).body) end
      c:kill "USR1"
      helper.eventually(function() return seen "USR10" == 1 and seen "USR11" == 1 end)
      for name, why in pairs { TERM = "stops the server", INT = "stops the server", HUP = "for a reload",
        USR2 = "for an upgrade" } do
        assert.matches("notify: " .. name .. " is the host's under serve: .*" .. why, client:get("/ask/" .. name).body)
      end
      assert.matches("^channel", client:get("/ask/ALRM").body)
      client:close()
      c:kill "TERM"
      assert.equal(0, c:wait())
      assert.is_nil(c:stderr():find("lunapark: 2 Ps", 1, true)) -- no dump
    end)

    it("a VM that is dropped wants nothing any more", function()
      if child.has_tsan then return end
      local c = child.serve { child.script(APP), "--procs", "1", "--max-vms", "2", "--handler-timeout", "0.2",
        "--kill-after", "0.2" }
      local client = child.client(c.addr)
      local first = client:get("/vm").body
      assert.equal(504, client:get("/loop").status)
      c:said "is dropped"
      client:close()
      client = child.client(c.addr)
      local second
      child.eventually(function()
        local r = client:get "/vm"
        second = r and r.status == 200 and r.body ~= first and r.body
        return second
      end, "another VM")
      c:kill "USR1"
      helper.eventually(function() return client:get("/seen/USR1" .. second).body == "1" end)
      assert.equal("0", client:get("/seen/USR1" .. first).body)
      c:kill "TERM"
      assert.equal(0, c:wait())
    end)

    it("an app that asks for the host's does not load, nor does check accept it", function()
      local path = child.script [[
        require("lunapark.signal").notify "TERM"
        return function() return "x" end
      ]]
      for _, command in ipairs { "serve", "check" } do
        local code, _, err = child.run { command, path }
        assert.equal(1, code)
        assert.matches(":1: notify: TERM is the host's under serve: it stops the server\n", err)
      end
    end)
  end)

  it("leaves nothing behind", function()
    local before = lp.stats()
    for _ = 1, 1000 do
      local s = signal.notify("USR2", "WINCH")
      send(USR2)
      s:recv(20)
      s:stop()
    end
    local after = lp.stats()
    assert.equal(before.fds, after.fds)
    assert.is_true(after.lua_gs <= before.lua_gs and after.gs.waiting <= before.gs.waiting + 5)
    assert.is_false(is_caught(WINCH))
  end)
end)
