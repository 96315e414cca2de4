-- Specs about specs: each is run by a process of its own.
local lp = require "lunapark"
local child = require "spec.support.child"

-- Runs a spec file with this text: exit code, stdout, stderr.
local function run(text, option)
  local path = child.script("local lp = require 'lunapark'\n" .. text)
  return child.run { "test", "-o", "plainTerminal", path, option }
end

local function counts(out)
  return out:match "(%d+) success%w* / (%d+) failures? / (%d+) errors?"
end

-- The counts, as a string: "1/0/0".
local function result(out)
  return table.concat({ counts(out) }, "/")
end

describe("lunapark test", function()
  after_each(child.clean)

  describe("runs every block in a G", function()
    it("that may wait", function()
      local code, out = run [[
        local list = {}
        local function add(name)
          return function()
            lp.sleep(0.001)
            list[#list + 1] = name
          end
        end
        describe("a body", function()
          add "body" ()
          setup(add "setup")
          lazy_setup(add "lazy_setup")
          before_each(add "before_each")
          it("and a test", function()
            finally(add "finally")
            add "it" ()
          end)
          after_each(add "after_each")
          teardown(add "teardown")
        end)
        teardown(function()
          assert.same({ "body", "setup", "lazy_setup", "before_each", "it", "finally", "after_each", "teardown" }, list)
        end)
      ]]
      assert.same({ 0, "1/0/0" }, { code, result(out) })
    end)

    it("of its own", function()
      local code, out = run [[
        local gs, n = {}, 0
        local function note() n = n + 1 gs[lp.self()] = true end
        before_each(note)
        it("one", note)
        it("two", note)
        teardown(function()
          local different = 0
          for _ in pairs(gs) do different = different + 1 end
          assert.same({ 4, 4 }, { n, different })
        end)
      ]]
      assert.same({ 0, "2/0/0" }, { code, result(out) })
    end)
  end)

  describe("says where an error was raised", function()
    it("in the block, after a wait, beneath a sort", function()
      local path = child.script [[
local lp = require "lunapark"
local function deep() lp.sleep(0.001)
  error "deep down"
end
it("raises", function()
  table.sort({ 1, 2 }, function()
    deep()
  end)
end)
it("fails", function()
  lp.sleep(0.001)
  assert.equal(1, 2)
end)
it("has a G that fails", function()
  local g = lp.go(function() lp.sleep(0.001)
    assert.is_nil(7)
  end)
  assert(g:join())
end)
]]
      local code, out = child.run { "test", "-v", "-o", "plainTerminal", path }
      assert.same({ 1, "0/2/1" }, { code, result(out) })
      assert.matches("\n" .. path .. ":3: deep down\n", out, 1, true)
      local trace = ("stack traceback:\n\t%s:3: in function 'deep'\n\t%s:7: in function"):format(path, path)
      assert.matches(trace, out, 1, true)
      assert.matches("\n" .. path .. ":12: Expected objects to be equal", out, 1, true)
      assert.matches(path .. ":18: " .. path .. ":16: Expected objects to be the same", out, 1, true)
    end)

    it("when it is no string", function()
      local code, out = run [[
        it("raises a table", function() error { "of", "words" } end)
        it("raises nil", function() error() end)
        local object = setmetatable({}, { __tostring = function() return "an object" end })
        it("raises an object", function() error(object) end)
      ]]
      assert.same({ 1, "0/0/3" }, { code, result(out) })
      assert.matches('"of",\n  "words"', out, 1, true)
      assert.matches("Nil error", out)
      assert.matches("an object", out)
    end)
  end)

  describe("fails a test whose G raises and is not joined", function()
    it("with its traceback", function()
      local code, out, err = run [[
        it("starts one", function()
          lp.go(function() error "unseen" end)
        end)
        it("starts one and waits until it is logged", function()
          lp.go(function() error "logged" end)
          lp.sleep(1.1)
        end)
        it("passes", function() end)
      ]]
      assert.same({ 1, "1/2/0" }, { code, result(out) })
      assert.matches("G that nobody has joined, started at [^\n]*:3: [^\n]*:3: unseen\nstack traceback:", out)
      assert.matches("started at [^\n]*:6: [^\n]*:6: logged\nstack traceback:", out)
      assert.is_nil(err:find("unseen", 1, true))
    end)

    it("but not one that is joined, or in a scope that raises", function()
      local code, out = run [[
        it("joins", function()
          local g = lp.go(function() error "seen" end)
          assert.is_nil((g:join()))
        end)
        it("has a scope", function()
          assert.has_error(function() lp.scope(function(s) s:go(function() error "seen" end) end) end)
        end)
      ]]
      assert.same({ 0, "2/0/0" }, { code, result(out) })
    end)
  end)

  it("shows what a test logs only if the test fails", function()
    local code, out, err = run [[
      local log = require "lunapark.log"
      it("passes", function() log.error "of the good one" end)
      it("fails", function() log.info "of the bad one" error "x" end)
      it("asks for it", function() log.info "asked for" log.flush(20) end)
      it("logs much", function() for i = 1, 20000 do log.warn(("much"):rep(20)) end end)
    ]]
    assert.same({ 1, "3/0/1" }, { code, result(out) })
    assert.is_nil(err:find("of the good one", 1, true))
    assert.matches("info of the bad one\n", err)
    assert.matches("info asked for\n", err)
    assert.matches("much", err)
  end)

  describe("--block-timeout", function()
    it("fails the block that waits too long, and goes on", function()
      local code, out = run([[
        local testing = require "lunapark.testing"
        it("waits for long", function() lp.sleep(1000) end)
        it("waits again and again", function() while true do lp.sleep(0.01) end end)
        it("does not hear", function() while true do pcall(lp.sleep, 0.01) end end)
        it("does not hear elsewhere", function()
          while true do
            pcall(table.sort, { 1, 2 }, function() lp.sleep(0.01) end)
            pcall(coroutine.wrap(function() lp.sleep(0.01) end))
          end
        end)
        it("passes", function() testing.block_timeout(60) lp.sleep(0.001) end)
        describe("body", function() lp.sleep(1000) end)
        describe("before", function()
          before_each(function() lp.sleep(1000) end)
          it("does not run", function() end)
        end)
      ]], "--block-timeout=0.3")
      assert.same({ 1, "1/4/2" }, { code, result(out) })
      local _, n = out:gsub("%.lua:%d+: the block has taken longer than 0.3 s %(%-%-block%-timeout%)\nVM 0: ", "")
      assert.equal(6, n)
      assert.matches('G [%d.]+: waiting, sleep, %d+%.%d+ s, created at it "waits for long" %([^\n]*:3%)\n', out)
      assert.matches("sleep'\n      [^\n]*:4: in function", out)
    end)

    it("is 0: no limit; and what testing.block_timeout says", function()
      local text = [[
        local testing = require "lunapark.testing"
        it("takes its time", function() lp.sleep(0.4) end)
        it("may", function() testing.block_timeout(60) lp.sleep(0.4) end)
        describe("here", function()
          testing.block_timeout(60)
          it("all may", function() lp.sleep(0.4) end)
        end)
        it("may less", function() testing.block_timeout(0.1) lp.sleep(1000) end)
        it("needs a number", function()
          testing.block_timeout(60)
          assert.has_error(function() testing.block_timeout "x" end,
            "block_timeout: s must be a number of seconds, got x")
          assert.has_error(function() testing.block_timeout(-1) end, "block_timeout: s must not be negative, got -1")
        end)
      ]]
      local _, out = run(text, "--block-timeout=0")
      assert.equal("4/1/0", result(out))
      assert.matches("longer than 0.1 s", out)
      _, out = run(text, "--block-timeout=0.2")
      assert.equal("3/2/0", result(out))
      local code, _, err = run(text, "--block-timeout=soon")
      assert.equal(64, code)
      assert.matches("block%-timeout: must be a number of seconds", err)
    end)

    it("ends what it has given up: its Gs, and what it would have done next", function()
      local code, out = run([[
        local log = {}
        it("hangs", function()
          lp.go(function() lp.sleep(0.4) log[#log + 1] = "its G" end)
          pcall(lp.sleep, 0.4)
          log[#log + 1] = "it"
        end)
        it("comes after", function()
          lp.sleep(0.5)
          assert.same({}, log)
        end)
      ]], "--block-timeout=0.2")
      assert.same({ 1, "0/2/0" }, { code, result(out) }) -- the second takes too long, and says nothing else
      assert.is_nil(out:find("Expected objects", 1, true))
      out = select(2, run([[
        local log = {}
        it("hangs", function()
          lp.go(function() lp.sleep(0.4) log[#log + 1] = "its G" end)
          pcall(lp.sleep, 0.4)
          log[#log + 1] = "it"
        end)
        it("waits", function() require("lunapark.testing").block_timeout(60) lp.sleep(0.3) end)
        it("comes after", function() assert.same({}, log) end)
      ]], "--block-timeout=0.3"))
      assert.equal("2/1/0", result(out))
    end)

    it("is the block's, not the runner's, which then has to say what all Gs do", function()
      local code, out, err = run([[
        local testing, core = require "lunapark.testing", require "lunapark.core"
        local dump = core.dump
        function core.dump()
          local until_s = lp.now() + 0.3
          while lp.now() < until_s do end
          return dump()
        end
        it("hangs", function() testing.block_timeout(0.1) lp.sleep(1000) end)
        it("passes", function() end)
      ]], "--block-timeout=60")
      assert.same({ 1, "1/1/0", "" }, { code, result(out), err })
    end)

    it("ends a loop without waits in the interpreter", function()
      if child.has_tsan then return pending "no signal reaches the loop" end
      local code, out, err = run([[
        jit.off()
        it("loops", function() while true do end end)
        it("loops and catches", function() while true do pcall(function() while true do end end) end end)
        it("has a G that loops", function()
          lp.go(function() while true do end end):join()
        end)
        it("passes", function() end)
      ]], "--block-timeout=0.3")
      assert.equal(1, code)
      assert.equal("1/1/2", result(out)) -- the error of the G is its own, but the block has taken long
      assert.matches(':3: ended: it ran on past its deadline without waiting', out)
      assert.matches('it "loops" %([^\n]*:3%): runs on, without waiting, after 0.3 s', err)
      assert.matches("VM 0: 2 Gs", err)
    end)

    it("is over while the process gets no CPU: what loops is ended in order all the same", function()
      if child.has_tsan then return pending "no signal reaches the loop" end
      local path = child.script [[
        jit.off()
        it("loops", function()
          io.stderr:write "looping\n"
          while true do end
        end)
        it("passes", function() require("lunapark.testing").block_timeout(60) end)
      ]]
      local c = child.start { "test", "-o", "plainTerminal", path, "--block-timeout=1" }
      c:said "looping"
      c:kill "STOP"
      lp.sleep(7)
      c:kill "CONT"
      assert.same({ 1, "1/0/1" }, { c:wait(), result(c:stdout()) }, c:stderr())
    end)

    it("ends the process when compiled code loops, and says where", function()
      if child.has_tsan then return pending "no signal reaches the loop" end
      local path = child.script [[
        it("passes", function() end)
        describe("a loop", function()
          it("of compiled code", function() while true do end end)
        end)
        it("is lost", function() end)
      ]]
      local code, out, err = child.run { "test", "--block-timeout=0.3", "-o", "TAP", path }
      assert.equal(1, code)
      assert.is_nil(out:find("is lost", 1, true))
      local where = ('it "a loop of compiled code" (%s:3): runs on, without waiting, after 0.3 s'):format(path)
      assert.matches("lunapark: " .. where, err, 1, true)
      assert.matches("stuck for [%d.]+ s: G [%d.]+ runs without waiting", err)
      local why = " (--block-timeout), in compiled code, and could be ended only with its VM\n"
      assert.matches(where .. why, err, 1, true)
    end)
  end)

  it("ends the process when a C function does not come back", function()
    if child.has_tsan then return pending "no signal reaches the call" end
    local code, _, err = run([[local C = require("ffi").C require("ffi").cdef "int system(const char *);"
it("is in C", function() C.system "sleep 12" end)]], "--block-timeout=0.3")
    assert.equal(1, code)
    assert.matches('lunapark: it "is in C" %([^\n]*:3%): runs on, without waiting, after 0.3 s', err)
    assert.matches("%(%-%-block%-timeout%), in C %([^\n]*%), and could not be ended\n$", err)
  end)

  describe("finds deadlocks", function()
    it("of two channels, with both Gs and their lines", function()
      local path = child.script [[
local lp = require "lunapark"
it("waits for itself", function()
  local a, b = lp.chan(), lp.chan()
  local g = lp.go(function()
    b:recv()
    a:send(1)
  end)
  a:recv()
  b:send(1)
  g:join()
end)
it("passes", function() lp.sleep(0.4) end)
]]
      local code, out = child.run { "test", "-o", "plainTerminal", path, "--block-timeout=0" }
      assert.same({ 1, "1/1/0" }, { code, result(out) })
      local text = out:match "(:2: all Gs are asleep %- deadlock!\n.*)"
      assert.is_string(text)
      local first = '  G [%d.]+: waiting, other, %d+%.%d+ s, created at it "waits for itself" %('
      assert.matches(first .. path .. ":2%)\n", text)
      assert.matches("chan.lua:%d+: in function 'recv'\n      " .. path .. ":8: in function", text)
      assert.matches("  G [%d.]+: waiting, other, %d+%.%d+ s, created at " .. path .. ":4\n", text)
      assert.matches("chan.lua:%d+: in function 'recv'\n      " .. path .. ":5: in function", text)
    end)

    it("of park, join, locks and scopes", function()
      local code, out = run [[
        it("parks", function() lp.park() end)
        it("joins", function() lp.go(lp.park):join() end)
        it("locks", function() local m = lp.mutex() m:lock() m:lock() end)
        it("has a scope", function() lp.scope(function(s) s:go(lp.park) end) end)
        it("selects", function() lp.select { { lp.chan(), "recv" }, { lp.chan(), "send", 1 } } end)
        setup(function() end)
        describe("elsewhere", function()
          teardown(function() lp.park() end)
          it("passes", function() end)
        end)
      ]]
      assert.same({ 1, "1/5/1" }, { code, result(out) })
      local _, n = out:gsub("deadlock!\nVM 0", "")
      assert.equal(6, n)
    end)

    it("but takes for none what a timer, a socket, a job, a signal or a client can end", function()
      local code, out = run [[
        local net = require "lunapark.net"
        local testing = require "lunapark.testing"
        it("a timer", function()
          local g = lp.self()
          lp.after(0.7, function() lp.ready(g) end)
          lp.park()
        end)
        it("a deadline", function() lp.deadline(0.7, lp.park) end)
        it("a socket", function()
          local ln = net.listen "127.0.0.1:0"
          lp.deadline(0.7, ln.accept, ln)
          ln:close()
        end)
        it("a program", function() assert(require("lunapark.exec").run { "sleep", "0.7" }) end)
        it("a signal", function()
          local s = require("lunapark.signal").notify "USR1"
          require("lunapark.exec").spawn { "sh", "-c", "sleep 0.7; kill -USR1 $PPID" }
          assert.equal("USR1", s:recv())
          s:stop()
        end)
        it("a client", function()
          local asked = lp.chan()
          local client = testing.serve(function() asked:send(true) return "" end)
          os.execute("(sleep 0.7; curl -s http://" .. client.addr .. "/ >/dev/null) &")
          assert.is_true(asked:recv())
        end)
        it("a shared channel", function()
          assert.same({ nil, "timeout" }, { require("lunapark.shared").chan("x", 1):recv(0.7) })
        end)
      ]]
      assert.same({ 0, "7/0/0" }, { code, result(out) }, out)
    end)
  end)
end)
