-- What a test leaves behind. Each file of specs is run by a process of its own.
local child = require "spec.support.child"

local MODULES = [[local lp, net, fs = require "lunapark", require "lunapark.net", require "lunapark.fs" ]]
  .. [[local exec, testing = require "lunapark.exec", require "lunapark.testing"]] .. "\n"

-- A spec of this text, which begins at line 2: exit code, "successes/failures/errors", stdout.
local function run(text)
  local path = child.script(MODULES .. text)
  local code, out = child.run { "test", "-o", "plainTerminal", path }
  return code, table.concat({ out:match "(%d+) success%w* / (%d+) failures? / (%d+) errors?" }, "/"), out, path
end

local function assert_passes(text)
  local code, result, out = run(text)
  assert.equal(0, code, out)
  assert.matches("/0/0$", result)
end

-- The only test fails with this plain text, in which SPEC stands for the file's path.
local function assert_leaks(text, message)
  local code, result, out, path = run(text)
  assert.same({ 1, "0/1/0" }, { code, result }, out)
  assert.matches(":2: the test has left behind:\n  ", out, 1, true)
  assert.matches(message:gsub("SPEC", function() return path end), out, 1, true)
end

describe("a test that leaves", function()
  after_each(child.clean)

  it("a G", function()
    assert_leaks("it('x', function() lp.go(function()\nlp.sleep(100) end) end)", "made at SPEC:2\nVM 0: ")
    assert_leaks("it('x', function() lp.detach(lp.park) end)", "made at SPEC:2\n")
    assert_leaks("it('x', function() lp.go(function()\nlp.go(lp.park) end) end)", "made at SPEC:3\n")
    assert_passes [[
      it("joins", function() lp.go(function() lp.sleep(0.01) end):join() end)
      it("is about to end", function() lp.go(function() for _ = 1, 10 do lp.yield() end end) end)
      it("is about to end soon", function() lp.go(function() lp.sleep(0.02) end) end)
      describe("after_each", function()
        local g
        after_each(function() g:cancel() end)
        it("ends it", function() g = lp.go(function() lp.sleep(100) end) end)
      end)
    ]]
  end)

  it("a timer", function()
    assert_leaks("it('x', function() lp.every(1, print) end)", "timer ")
    assert_leaks("it('x', function()\nlp.after(100, print) end)", "made at SPEC:3\n")
    assert_passes [[it('x', function() local t = lp.every(1, print)
      t:stop() lp.after(0.001, function() end) lp.sleep(0.01) end)]]
  end)

  it("a socket", function()
    assert_leaks("it('x', function() KEPT = net.listen '127.0.0.1:0' end)", "socket 127.0.0.1:")
    assert_leaks("it('x', function() net.listen '127.0.0.1:0' collectgarbage() collectgarbage() end)",
      "made at SPEC:2\n")
    assert_leaks("it('x', function()\nKEPT = net.udp '127.0.0.1:0' end)", "made at SPEC:3\n")
    assert_leaks([[it('x', function() local ln = net.listen '127.0.0.1:0'
      KEPT = net.dial(ln:addr()) ln:accept():close() ln:close() end)]], "made at SPEC:3\n")
    assert_leaks([[it('x', function() local ln = net.listen '127.0.0.1:0'
      local c = net.dial(ln:addr()) KEPT = ln:accept() ln:close() c:close() end)]], "made at SPEC:3\n")
    assert_passes [[
      it("closes", function() local ln = net.listen '127.0.0.1:0' ln:close() collectgarbage() end)
      describe("after_each", function()
        local ln
        after_each(function() ln:close() end)
        it("closes it", function() ln = net.listen '127.0.0.1:0' end)
      end)
    ]]
  end)

  it("a file", function()
    assert_leaks("it('x', function()\nKEPT = io.open '/etc/passwd' end)", "file /etc/passwd, made at SPEC:3\n")
    assert_leaks("it('x', function() KEPT = io.popen 'true' end)", "file true, made at SPEC:2\n")
    assert_leaks("it('x', function() KEPT = io.tmpfile() end)", "file a temporary file, made at SPEC:2\n")
    assert_leaks("it('x', function() KEPT = fs.open '/etc/passwd' end)", "file /etc/passwd, made at SPEC:2\n")
    assert_passes [[
      it("closes", function() io.open('/etc/passwd'):close() io.popen('true'):close() io.tmpfile():close() end)
      it("closes", function() fs.open('/etc/passwd'):close() assert.is_nil(fs.open '/nonexistent') end)
      it("has none", function()
        local f, err, code = io.open '/nonexistent'
        assert.same({ nil, "/nonexistent: No such file or directory", 2 }, { f, err, code })
        assert.has_error(function() io.open(nil) end)
      end)
    ]]
  end)

  it("a process", function()
    assert_leaks([[it('x', function() local null = { stdin = 'null', stdout = 'null', stderr = 'null' }
      KEPT = exec.spawn({ 'sleep', '5' }, null) end)]], "made at SPEC:3\n")
    assert_passes [[
      it("runs", function() exec.run { 'true' } end)
      it("kills", function()
        local p = exec.spawn({ 'sleep', '5' }, { stdin = 'null', stdout = 'null', stderr = 'null' })
        p:kill()
        p:wait()
      end)
    ]]
  end)

  it("several things, is told of all", function()
    assert_leaks("it('x', function()\nKEPT = io.open '/etc/passwd'\nlp.go(lp.park) end)",
      "made at SPEC:4\n  file /etc/passwd, made at SPEC:3\n")
  end)

  it("what its own before_each or setup has made, has not made it", function()
    assert_passes [[
      describe("outer", function()
        local ln, g, f
        setup(function() f = io.open '/etc/passwd' end)
        before_each(function()
          ln = net.listen '127.0.0.1:0'
          g = lp.go(function()
            while true do
              local c = ln:accept()
              if not c then return end
              KEPT = c
            end
          end)
        end)
        it("uses it", function()
          local c = net.dial(ln:addr())
          while not KEPT do lp.sleep(0.001) end
          c:close()
        end)
      end)
    ]]
  end)

  it("things, and fails otherwise, is told only of that", function()
    local _, result, out = run "it('x', function() KEPT = io.open '/etc/passwd' error 'first' end)"
    assert.equal("0/0/1", result)
    assert.is_nil(out:find("left behind", 1, true))
  end)

  it("a G, has it ended before the next test", function()
    local code, result, out = run [[
      local log = {}
      it("leaves it", function()
        lp.go(function()
          lp.sleep(0.3)
          log[1] = "ran on"
        end)
      end)
      it("comes after", function()
        lp.sleep(0.5)
        assert.same({}, log)
      end)
    ]]
    assert.same({ 1, "1/1/0" }, { code, result }, out)
  end)

  it("things is told in busted's output handlers, and counted once", function()
    local path = child.script "it('x', function() KEPT = io.open '/etc/passwd' end) it('y', function() end)"
    local _, out = child.run { "test", "-o", "TAP", path }
    assert.matches("not ok 1 - x", out, 1, true)
    assert.matches("ok 2 - y", out, 1, true)
    assert.matches("1..2", out, 1, true)
    _, out = child.run { "test", "-o", "junit", path }
    assert.matches("<testsuites [^>]*tests='2'", out)
    assert.matches("<testsuites [^>]*failures='1'", out)
  end)

  it("too many things to name them all is told of the first", function()
    local _, _, out = run [[
      it("x", function()
        KEPT = { io.open "/etc/hostname" }
        for i = 1, 300 do KEPT[i + 1] = io.open "/etc/passwd" end
      end)
    ]]
    assert.matches("file /etc/hostname", out)
  end)
end)

describe("testing.serve in a spec", function()
  after_each(child.clean)

  it("is stopped, and its connections are closed, when the test or the describe is over", function()
    assert_passes [[
      local function assert_stopped(addr)
        for _ = 1, 1000 do
          local c = net.dial(addr)
          if not c then return end
          c:close()
          lp.sleep(0.001)
        end
        error "it has not stopped"
      end
      local addr, raw
      it("serves", function()
        local client = testing.serve(function() return "x" end)
        assert.equal("x", client:get("/").body)
        client:connect()
        KEPT = testing.raw(function() end)
        addr, raw = client.addr, KEPT:remote_addr()
        collectgarbage()
      end)
      it("has stopped what raw is for", function() assert_stopped(raw) end)
      it("has stopped", function() assert_stopped(addr) end)
      describe("of a describe", function()
        local client
        setup(function() client = testing.serve(function() return "x" end) addr = client.addr end)
        for i = 1, 2 do it("serves " .. i, function() assert.equal("x", client:get("/").body) end) end
      end)
      it("has stopped that, too", function() assert_stopped(addr) end)
      describe("of a before_each", function()
        local client, before
        before_each(function() before, client = addr, testing.serve(function() return "x" end) addr = client.addr end)
        for i = 1, 2 do
          it("serves " .. i, function()
            assert.equal("x", client:get("/").body)
            assert_stopped(before)
          end)
        end
      end)
    ]]
  end)
end)

describe("testing.allow_leak", function()
  after_each(child.clean)

  it("allows kinds, objects, or all", function()
    assert_passes [[
      it("a kind", function() testing.allow_leak "G" lp.go(lp.park) end)
      it("kinds", function() testing.allow_leak("timer", "file") lp.after(100, print) KEPT = io.open '/etc/passwd' end)
      it("a process", function()
        testing.allow_leak "process"
        KEPT = exec.spawn({ 'sleep', '1' }, { stdin = 'null', stdout = 'null', stderr = 'null' })
      end)
      it("an error", function() testing.allow_leak "error" lp.go(error, "x") end)
      it("a G", function() testing.allow_leak(lp.go(lp.park)) end)
      it("a timer", function() testing.allow_leak(lp.after(100, print)) end)
      it("a listener", function() KEPT = net.listen '127.0.0.1:0' testing.allow_leak(KEPT) end)
      it("a file", function() KEPT = fs.open '/etc/passwd' testing.allow_leak(KEPT) end)
      it("an io file", function() KEPT = io.open '/etc/passwd' testing.allow_leak(KEPT) end)
      it("all", function() testing.allow_leak() lp.go(lp.park) KEPT = io.open '/etc/passwd' end)
      describe("in all tests", function()
        testing.allow_leak "G"
        it("of a describe", function() lp.go(lp.park) end)
        it("as often as it likes", function() lp.go(lp.park) end)
      end)
    ]]
  end)

  it("allows no more than that", function()
    assert_leaks("it('x', function() testing.allow_leak 'file'\nlp.go(lp.park) end)", "made at SPEC:3\n")
    assert_leaks("it('x', function() testing.allow_leak(lp.go(lp.park))\nlp.go(lp.park) end)", "made at SPEC:3\n")
    local code, result = run "it('x', function() testing.allow_leak() end) it('y', function() lp.go(lp.park) end)"
    assert.same({ 1, "1/1/0" }, { code, result })
  end)

  it("refuses what is no kind", function()
    local testing = require "lunapark.testing"
    assert.has_error(function() testing.allow_leak "goroutine" end,
      'allow_leak: what must be "G", "timer", "socket", "file", "process", "error" or an object, got "goroutine"')
    local wrong = "allow_leak: what must be a kind of leak or an object, got "
    assert.has_error(function() testing.allow_leak(5) end, wrong .. "number")
    assert.has_error(function() testing.allow_leak(nil) end, wrong .. "nil")
  end)
end)
