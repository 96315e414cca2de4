local core = require "lunapark.core"
local dns = require "lunapark.dns"
local exec = require "lunapark.exec"
local ffi = require "ffi"
local fs = require "lunapark.fs"
local lp = require "lunapark"
local net = require "lunapark.net"
local shared = require "lunapark.shared"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local helper = require "spec.helper"

local C = ffi.C

ffi.cdef "int getppid(void);"
local virtual, raised = testing.virtual, helper.raised

-- Where the function stands that is given: for messages.
local function line_of(fn)
  return debug.getinfo(fn, "S").linedefined
end

describe("testing.virtual", function()
  describe("time", function()
    it("jumps to what is waited for: an hour of sleeps takes milliseconds", function()
      local begin, cpu = lp.now(), os.clock()
      local passed = virtual(function()
        local start = lp.now()
        for _ = 1, 3600 do
          assert.is_true(lp.sleep(1))
        end
        return lp.now() - start
      end)
      assert.equal(3600, passed)
      assert.is_true(os.clock() - cpu < 1)
      assert.is_true(lp.now() - begin < 60)
    end)

    it("stands still while a G inside runs", function()
      virtual(function()
        local start = lp.now()
        local g = lp.go(function()
          for _ = 1, 100 do
            lp.yield()
          end
        end)
        g:join()
        assert.equal(start, lp.now())
      end)
    end)

    it("is that of os.time, os.date and os.clock", function()
      virtual(function()
        assert.equal(1e9, os.time())
        assert.equal("2001-09-09 01:46:40", os.date "!%F %T")
        local clock = os.clock()
        lp.sleep(86400.5)
        assert.equal(1e9 + 86400, os.time())
        assert.equal("2001-09-10 01:46:40", os.date "!%F %T")
        assert.equal("1970-01-01", os.date("!%F", 0))
        assert.equal(86400, os.time { year = 1970, month = 1, day = 2 } - os.time { year = 1970, month = 1, day = 1 })
        assert.equal(86400.5, os.clock() - clock)
      end, { start = 1e9 })
      local now = os.time()
      virtual(function() assert.is_true(os.time() - now <= 1) end)
      assert.is_true(math.abs(os.time() - now) <= 10)
    end)

    it("is real for the Gs outside, meanwhile and afterwards", function()
      local seen
      local outside = lp.go(function()
        for _ = 1, 50 do
          seen = { lp.now(), os.time() }
          lp.yield()
        end
        return lp.now()
      end)
      virtual(function()
        for _ = 1, 20 do
          lp.sleep(3600)
          lp.yield()
        end
        return true
      end)
      local last = outside:join()
      assert.is_true(last - seen[1] < 10 and math.abs(os.time() - seen[2]) < 10)
      local start = lp.now()
      lp.sleep(0.002)
      assert.is_true(lp.now() - start < 10)
    end)

    it("begins at a whole second, so fractions are the same in each run", function()
      for _ = 1, 3 do
        virtual(function() assert.equal(0, lp.now() % 1) end)
      end
    end)

    it("is that of TTLs in shared dicts, for calls from inside", function()
      local d = shared.dict "virtual_spec"
      virtual(function()
        d:set("k", 1, 60)
        lp.sleep(59)
        assert.equal(1, d:get "k")
        assert.equal(1, d:ttl "k")
        lp.sleep(1)
        assert.is_nil(d:get "k")
      end)
      d:flush()
    end)
  end)

  describe("waits", function()
    it("that are due at the same time end in the order in which they began", function()
      for _ = 1, 3 do
        virtual(function()
          local order = {}
          lp.scope(function(s)
            for i = 1, 50 do
              s:go(function()
                lp.sleep(i % 2 == 0 and 5 or 7)
                order[#order + 1] = i
              end)
            end
          end)
          for i = 1, 25 do
            assert.equal(2 * i, order[i])
            assert.equal(2 * i - 1, order[25 + i])
          end
        end)
      end
    end)

    it("of all kinds have virtual timeouts", function()
      virtual(function()
        local start, n = lp.now(), 0
        local function after_a_minute(v, err)
          n = n + 1
          assert.same({ nil, "timeout" }, { v, err })
          assert.is_true(math.abs(lp.now() - start - 60 * n) < 1e-6)
        end
        local ch, full = lp.chan(), lp.chan(1)
        full:send(1)
        local mutex, semaphore, group, cond = lp.mutex(), lp.semaphore(1), lp.waitgroup(), lp.cond()
        mutex:lock()
        semaphore:acquire()
        group:add(1)
        after_a_minute(ch:recv(60))
        after_a_minute(full:send(2, 60))
        after_a_minute(lp.select { { ch, "recv" }, { full, "send", 1 }, timeout = 60 })
        after_a_minute(mutex:lock(60))
        after_a_minute(semaphore:acquire(1, 60))
        after_a_minute(group:wait(60))
        after_a_minute(cond:wait(mutex, 60))
        after_a_minute(lp.go(lp.sleep, 1e6):join(60))
        after_a_minute(lp.deadline(60, lp.park))
        after_a_minute(lp.deadline(60, lp.sleep, 1e6))
      end)
    end)

    it("inside of C functions work as anywhere", function()
      virtual(function()
        local start = lp.now()
        local t = { 3, 1, 2 }
        table.sort(t, function(a, b)
          lp.sleep(10)
          return a < b
        end)
        assert.same({ 1, 2, 3 }, t)
        assert.is_true(lp.now() - start >= 20)
      end)
    end)

    it("of timers keep the beat", function()
      virtual(function()
        local start, at = lp.now(), {}
        local t = lp.every(60, function() at[#at + 1] = lp.now() - start end)
        lp.after(90, function() at[#at + 1] = "after" end)
        lp.sleep(200)
        t:stop()
        for i, v in ipairs { 60, "after", 120, 180 } do
          assert.equal(v, at[i])
        end
      end)
    end)

    it("are known to an inherited deadline, which is virtual too", function()
      virtual(function()
        lp.deadline(10, function()
          local g = lp.go(lp.sleep, 100)
          assert.same({ nil, "timeout" }, { g:join() })
        end)
      end)
    end)
  end)

  describe("what it returns", function()
    it("is what fn returned", function()
      assert.same({ n = 3, 1, nil, 3 }, (function(...) return { n = select("#", ...), ... } end)(virtual(function()
        lp.sleep(1)
        return 1, nil, 3
      end)))
    end)

    it("or raised, as it is, with the place", function()
      local fails = function() error "oops" end
      assert.equal(("spec/virtual_spec.lua:%d: oops"):format(line_of(fails)), raised(virtual, fails))
      local err = setmetatable({}, {})
      local ok, got = pcall(virtual, function() error(err) end)
      assert.is_false(ok)
      assert.equal(err, got)
      local _, trace = xpcall(function() virtual(fails) end, debug.traceback)
      assert.matches("oops", trace)
    end)

    it("is an error in the handler of a request, which a real client waits for", function()
      local client = testing.serve(function() return raised(virtual, print) end)
      assert.matches("virtual: called by the handler of a request", client:get("/").body)
      client:close()
    end)

    it("is an error for misuse", function()
      assert.matches("virtual: fn must be a function, got nil", raised(virtual))
      assert.matches("virtual: opts must be a table, got number", raised(virtual, print, 1))
      assert.matches("virtual: opts.start must be seconds since 1970, got x", raised(virtual, print, { start = "x" }))
      assert.matches("virtual: opts.start must be seconds since 1970, got %-1", raised(virtual, print, { start = -1 }))
      assert.matches("virtual_spec.lua:%d+: virtual: called inside of testing.virtual", raised(virtual, function()
        virtual(print)
      end))
      assert.matches("virtual: called inside of testing.virtual", raised(virtual, function()
        assert(lp.go(virtual, print):join())
      end))
    end)
  end)

  it("bubbles follow each other, or stand side by side, each with its own clock", function()
    local function an_hour(n)
      return virtual(function()
        local start = lp.now()
        for _ = 1, n do
          lp.sleep(3600 / n)
        end
        return lp.now() - start
      end)
    end
    for n = 1, 5 do
      assert.is_true(math.abs(an_hour(n) - 3600) < 1e-5)
    end
    helper.all(20, function(i) assert.is_true(math.abs(an_hour(i * 10) - 3600) < 1e-5) end)
  end)

  describe("a deadlock", function()
    it("is told at once, with each G, its line and where it was created", function()
      local begin = lp.now()
      local a, b = lp.chan(), lp.chan()
      local first = function() a:recv() b:send(1) end
      local second = function() b:recv() a:send(1) end
      local main = function()
        lp.go(first)
        lp.go(second):join()
      end
      local err = raised(virtual, main)
      assert.is_true(lp.now() - begin < 10)
      local file = "spec/virtual_spec.lua:"
      assert.matches("virtual: all Gs inside wait for each other %- deadlock!\n", err)
      for _, text in ipairs {
        file .. line_of(first) .. ": in function <", file .. line_of(second) .. ": in function <",
        "created at " .. file .. line_of(main) + 1, "created at " .. file .. line_of(main) + 2,
        file .. line_of(main) + 2 .. ": in function <",
      } do
        assert.is_truthy(err:find(text, 1, true), text .. " in\n" .. err)
      end
    end)

    it("is none as long as a timer runs", function()
      virtual(function()
        local ch = lp.chan()
        lp.after(1e6, function() ch:send "late" end)
        assert.equal("late", ch:recv())
      end)
    end)

    it("ends all inside, and leaves who called it as it was", function()
      local ended = 0
      assert.matches("deadlock", raised(virtual, function()
        lp.scope(function(s)
          for _ = 1, 5 do
            s:go(function()
              assert.same({ nil, "canceled" }, { lp.park() })
              ended = ended + 1
            end)
          end
        end)
      end))
      assert.equal(5, ended)
      assert.is_true(lp.sleep(0.001))
      assert.is_true(lp.go(lp.sleep, 0.001):join()) -- nor are the Gs that it starts cancelled
      assert.equal("after", lp.deadline(10, function()
        return lp.go(function() return "after" end):join()
      end))
    end)

    it("fails a spec run, in less than a second", function()
      local path = child.file([[
        local lp, testing = require "lunapark", require "lunapark.testing"
        it("hangs", function()
          testing.virtual(function()
            local a, b = lp.chan(), lp.chan()
            lp.go(function() a:recv() b:send(1) end)
            b:recv()
            a:send(1)
          end)
        end)
      ]], "_spec.lua")
      local code, out = child.run { "test", "-o", "plainTerminal", path }
      assert.equal(1, code)
      assert.matches("0 successes / 0 failures / 1 error", out)
      for _, text in ipairs {
        path .. ":3: virtual: all Gs inside wait for each other - deadlock!\n", "created at " .. path .. ":5\n",
        path .. ":5: in function", path .. ":6: in function",
      } do
        assert.is_truthy(out:find(text, 1, true), out)
      end
      assert.is_nil(out:find("busted/core.lua", 1, true)) -- main's traceback ends where the bubble begins
      child.clean()
    end)
  end)

  describe("when fn returns", function()
    it("the Gs that are left are cancelled, and have ended", function()
      local heard = {}
      virtual(function()
        for i = 1, 3 do
          lp.go(function()
            heard[i] = { lp.sleep(1e6) }
            lp.sleep(1e6)
          end)
        end
        lp.every(1, function() end)
        lp.sleep(10)
      end)
      assert.same({ { nil, "canceled" }, { nil, "canceled" }, { nil, "canceled" } }, heard)
    end)

    it("those that do not end are named, and end by an error", function()
      testing.allow_leak "error"
      local main, forever
      local err, log
      log = helper.stderr_of(function()
        main = function()
          lp.go(forever)
          lp.sleep(1)
        end
        forever = function() while true do lp.sleep(1) end end
        err = raised(virtual, main)
      end, "testing.virtual is over")
      assert.matches("virtual: Gs that it has started did not end:\n  G [%d.]+, created at spec/virtual_spec.lua:" ..
        line_of(main) + 1 .. ": spec/virtual_spec.lua:" .. line_of(forever) ..
        ": goes on waiting after it was canceled$", err)
      assert.matches("testing.virtual is over: this G was canceled, and goes on waiting", log)
    end)

    it("also those that catch that error, and wait on", function()
      local code, out = child.run { "run", child.script([[
        local lp, testing = require "lunapark", require "lunapark.testing"
        print(pcall(testing.virtual, function()
          lp.go(function() while true do pcall(lp.sleep, 1) end end)
          lp.sleep(1)
        end))
        print(lp.sleep(0.01))
      ]]) }
      assert.equal(0, code)
      assert.matches("did not end:\n  G [%d.]+, created at .-:3: .-goes on waiting after it was canceled\ntrue\n", out)
      child.clean()
    end)
  end)

  describe("real I/O raises at the call:", function()
    local path = "spec/virtual_spec.lua"
    local conn, other

    local function refused(what, fn)
      local err = raised(virtual, fn)
      assert.equal(("%s:%d: real I/O in testing.virtual: %s"):format(path, line_of(fn), what), err)
    end

    it("sockets", function()
      local ln = assert(net.listen "127.0.0.1:0")
      conn = assert(net.dial(ln:addr()))
      other = assert(ln:accept())
      refused("a socket", function() net.listen "127.0.0.1:0" end)
      refused("a socket", function() net.dial "127.0.0.1:1" end)
      refused("a socket", function() net.udp "127.0.0.1:0" end)
      refused("a socket", function() net.fd(0) end)
      refused("a socket", function() ln:accept() end)
      refused("a socket", function() conn:write "x" end)
      refused("a socket", function() conn:read(1) end)
      assert(conn:write "real again")
      assert.equal("real again", other:read(100))
      conn:close()
      other:close()
      ln:close()
    end)

    it("files, programs, names, C functions", function()
      local what = "a file, a program or a name"
      refused(what, function() fs.read(path) end)
      refused(what, function() exec.run { "true" } end)
      refused(what, function() dns.lookup "localhost" end)
      refused("offload", function() lp.offload(C.getppid) end)
    end)

    it("waiting in shared channels", function()
      local ch, own = shared.chan("virtual_spec", 1), lp.chan()
      refused("waiting in a shared channel", function() ch:recv() end)
      refused("waiting in a shared channel", function() lp.select { { own, "recv" }, { ch, "recv" } } end)
      virtual(function()
        assert.is_true(ch:send(1))
        assert.equal(1, ch:recv())
      end)
      ch:close()
    end)

    it("testing.serve", function()
      assert.matches("real I/O in testing.virtual", raised(virtual, function() testing.serve(function() end) end))
    end)
  end)

  describe("the caller's", function()
    it("deadline is real, and ends what is inside", function()
      local begin, heard = lp.now(), nil
      assert.same({ nil, "timeout" }, { lp.deadline(0.05, virtual, function()
        repeat
          local ok, err = lp.sleep(3600)
          heard = err
        until not ok
        return "not this"
      end) })
      assert.equal("canceled", heard)
      assert.is_true(lp.now() - begin >= 0.05)
      assert.equal("fine", lp.deadline(100, virtual, function()
        lp.sleep(3600)
        return "fine"
      end))
      assert.is_true(lp.sleep(0.001))
    end)

    it("deadline comes back afterwards", function()
      lp.deadline(0.05, function()
        virtual(function() assert.is_true(lp.sleep(3600)) end)
        assert.same({ nil, "timeout" }, { lp.sleep(10) })
      end)
    end)

    it("cancellation ends fn's waits", function()
      local heard
      local g = lp.go(function()
        return virtual(function()
          repeat
            local ok, err = lp.sleep(3600)
            heard = err
          until not ok
          return "ended"
        end)
      end)
      lp.sleep(0.01)
      g:cancel()
      assert.equal("ended", g:join(10))
      assert.equal("canceled", heard)
    end)
  end)

  it("an error of a G inside that nobody joins is logged as anywhere", function()
    testing.allow_leak "error"
    local log = helper.stderr_of(function()
      virtual(function()
        lp.go(error, "nobody hears this")
        lp.sleep(3600)
      end)
    end, "nobody hears this")
    assert.matches("ended with an error: .*nobody hears this", log)
  end)

  it("a G outside may wake one inside", function()
    local ch = lp.chan()
    lp.go(function()
      for i = 1, 3 do
        ch:send(i)
      end
      ch:close()
    end)
    local got = virtual(function()
      local sum = 0
      for v in ch:iter() do
        sum = sum + v
        lp.sleep(1)
      end
      return sum
    end)
    assert.equal(6, got)
  end)

  it("many Gs of one bubble", function()
    local n = child.has_tsan and 500 or 5000
    virtual(function()
      local start, ended = lp.now(), 0
      lp.scope(function(s)
        for i = 1, n do
          s:go(function()
            lp.sleep((i * 7919) % n)
            lp.sleep(1)
            ended = ended + 1
          end)
        end
      end)
      assert.equal(n, ended)
      assert.equal(n, math.floor(lp.now() - start + 0.5))
    end)
  end)

  it("can't begin where nothing can wait", function()
    local err
    local p = newproxy(true)
    getmetatable(p).__gc = function() err = raised(virtual, print) end
    p = nil -- luacheck: ignore 311
    collectgarbage()
    collectgarbage()
    assert.matches("cannot wait here: in a finalizer", err)
    assert.is_nil(core.real "nothing")
  end)
end)
