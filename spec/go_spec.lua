local core = require "lunapark.core"
local ffi = require "ffi"
local lp = require "lunapark"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local waits = require "spec.support.waits"
local helper = require "spec.helper"

local C = ffi.C
local LONG, pack, timed, raised = waits.LONG, waits.pack, waits.timed, helper.raised

describe("lunapark", function()
  after_each(child.clean)

  describe("go and join", function()
    it("hand arguments in and results out, nils too", function()
      local g = lp.go(function(...) return select("#", ...), ... end, nil, 1, nil)
      assert.same({ 3, nil, 1, nil, n = 4 }, pack(g:join()))
      assert.same({ n = 0 }, pack(lp.go(function() end):join()))
      assert.same({ n = 3 }, pack(lp.go(function() return nil, nil, nil end):join()))
      assert.same({ false, n = 1 }, pack(lp.go(function() return false end):join()))
    end)

    it("begin by an FFI call where a coroutine is left over and there are no arguments", function()
      local by_c, go = 0, core.go
      finally(function() core.go = go end)
      core.go = function(...) -- luacheck: ignore 122
        by_c = by_c + 1
        return go(...)
      end
      -- Not each time: the collector takes coroutines that are left over, when the process is idle.
      helper.eventually(function()
        lp.go(lp.yield):join()
        by_c = 0
        local g = lp.go(function() return lp.self() end)
        assert.equal(g, g:join())
        return by_c == 0
      end)
      assert.equal(7, lp.go(function(n) return n end, 7):join())
      assert.equal(1, by_c)
      assert.same({ nil, "timeout" }, { lp.deadline(0.001, function() return lp.go(lp.park):join() end) })
      -- Nobody has said what this one is to run.
      local slot
      helper.eventually(function()
        lp.go(lp.yield):join()
        slot = C.host_go(0)
        return slot >= 0
      end)
      lp.yield()
      assert.equal(0, C.host_serial(slot))
    end)

    it("start when the caller waits, in order", function()
      local order = {}
      local gs = {}
      for i = 1, 5 do
        gs[i] = lp.go(function() order[#order + 1] = i end)
      end
      assert.same({}, order)
      for _, g in ipairs(gs) do
        g:join()
      end
      assert.same({ 1, 2, 3, 4, 5 }, order)
    end)

    it("return an error with its traceback", function()
      local function inner() error "went wrong" end
      local ok, err = lp.go(function() inner() end):join()
      assert.is_nil(ok)
      assert.matches("^spec/go_spec.lua:%d+: went wrong\n", err)
      assert.matches("stack traceback:", err)
      assert.matches("in function 'inner'", err)
    end)

    it("return an error that is raised after a wait", function()
      local ok, err = lp.go(function()
        lp.sleep(0.001)
        error "later"
      end):join()
      assert.is_nil(ok)
      assert.matches("later", err)
    end)

    it("survive any error value", function()
      local plain = { code = 5 }
      assert.same({ nil, plain }, { lp.go(error, plain):join() })
      local named = setmetatable({}, { __tostring = function() return "named" end })
      assert.matches("^named", select(2, lp.go(error, named):join()))
      for _, value in ipairs { false, 5, print, setmetatable({}, { __tostring = function() error "again" end }) } do
        local ok, err = lp.go(error, value):join()
        assert.is_nil(ok)
        assert.is_string(err)
      end
      assert.is_string(select(2, lp.go(error):join()))
      local ok, err = lp.go(function()
        local function deeper() return 1 + deeper() end
        return deeper()
      end):join()
      assert.is_nil(ok)
      -- LuaJIT may find no room left for the traceback.
      assert.is_true(err:find("stack overflow", 1, true) ~= nil or err == "error in error handling", err)
    end)

    it("work twice, for several joiners, and after the end", function()
      local g = lp.go(function()
        lp.sleep(0.005)
        return 1, nil, 3
      end)
      local joiners = {}
      for i = 1, 5 do
        joiners[i] = lp.go(g.join, g)
      end
      for i = 1, 5 do
        assert.same({ 1, nil, 3, n = 3 }, pack(joiners[i]:join()))
      end
      assert.same({ 1, nil, 3, n = 3 }, pack(g:join()))
      assert.same({ 1, nil, 3, n = 3 }, pack(g:join(0)))
      local bad = lp.go(error, "bad", 0)
      local _, err = bad:join()
      assert.matches("^bad", err)
      assert.same({ nil, err }, { bad:join() })
    end)

    it("time out, and join again", function()
      local g = lp.go(function()
        lp.park "a word"
        return "done"
      end)
      local seconds, ok, err = timed(g.join, g, 0.02)
      assert.same({ nil, "timeout" }, { ok, err })
      assert.is_true(seconds >= 0.02)
      assert.same({ nil, "timeout" }, { g:join(0) })
      assert.same({ nil, "timeout" }, { g:join(-1) })
      lp.ready(g)
      assert.equal("done", g:join(LONG))
    end)

    it("join a G from one that it started itself", function()
      local outer = lp.go(function()
        return lp.go(function()
          lp.sleep(0.001)
          return "inner"
        end):join() .. " and outer"
      end)
      assert.equal("inner and outer", outer:join())
    end)

    it("never wake a G that has given up joining", function()
      local g = lp.go(lp.sleep, 0.02)
      assert.same({ nil, "timeout" }, { g:join(0.001) })
      local seconds, ok = timed(lp.sleep, 0.06)
      assert.is_true(ok)
      assert.is_true(seconds >= 0.06)
      assert.is_true(g:join())
    end)

    it("refuse misuse, naming the argument", function()
      assert.matches("go_spec.lua:%d+: go: fn must be a function, got string", raised(function() lp.go "x" end))
      assert.matches("go: fn must be a function, got nil", raised(lp.go))
      local g = lp.go(function() return raised(function() lp.self():join() end) end)
      assert.matches("go_spec.lua:%d+: join: a G can't wait for its own end", g:join())
      assert.matches("join: s must be a number of seconds, got x", raised(function() g:join "x" end))
      assert.matches("join: s must be", raised(function() g:join(0 / 0) end))
      assert.matches("join: g must be a G, got table", raised(g.join, {}))
    end)

    it("do not log an error that is joined within the second, whatever the deadline of the G", function()
      local log = helper.stderr_of(function()
        local g = lp.deadline(0.001, lp.go, function()
          lp.sleep(LONG)
          error "after its deadline"
        end)
        lp.sleep(0.02)
        assert.matches("after its deadline", select(2, g:join()))
      end)
      assert.equal("", log)
    end)

    it("log the error of a G that nobody joins, after a second or at the end", function()
      local code, out, err = child.run { "run", child.script [[
        local lp = require "lunapark"
        local joined = lp.go(function() error "fetched" end)
        local given_up = lp.go(function() lp.sleep(0.1) error "after a timeout" end)
        given_up:join(0.01)
        lp.go(function() error "lost" end)
        lp.sleep(0.5)
        joined:join()
        io.stderr:write "half a second\n"
        lp.sleep(0.9)
        io.stderr:write "and more\n"
        lp.go(function() error "in the end" end)
        lp.yield()
        print "done"
      ]] }
      assert.same({ 0, "done\n" }, { code, out })
      assert.matches("^half a second\n.*ended with an error: .*lost\n.*stack traceback", err)
      assert.matches("half a second\n.*after a timeout.*and more\n", err)
      assert.matches("and more\n.*in the end", err)
      assert.is_nil(err:find("fetched", 1, true))
      assert.equal(1, select(2, err:gsub("ended with an error: [^\n]*lost", "")))
    end)
  end)

  it("self is one handle for each G", function()
    local g
    g = lp.go(function()
      local before = lp.self()
      lp.sleep(0.001)
      assert(before == lp.self() and before == g)
      return before
    end)
    local other = lp.go(function()
      lp.yield()
      return lp.self()
    end)
    assert.equal(g, g:join())
    assert.equal(other, other:join())
    assert.are_not.equal(g, other)
    assert.are_not.equal(g, lp.self())
    assert.equal(lp.self(), lp.self())
    -- It runs on the coroutine of one that has ended, and is another G all the same.
    local later = lp.go(function() return lp.self() end)
    assert.equal(later, later:join())
    assert.is_true(later ~= g and later ~= other)
    assert.matches("^G %d+%.%d+ %(spec/go_spec.lua:%d+%)$", tostring(g))
    assert.are_not.equal(tostring(g), tostring(later))
  end)

  it("is named by the line that called into our modules, however deep in them it is started", function()
    local started
    local client = testing.serve(function(req) return req:body() end)
    client:post("/", { body = function()
      started = started or tostring(lp.self())
    end })
    client:close()
    assert.matches("^G %d+%.%d+ %(spec/go_spec.lua:%d+%)$", started)
    -- Without such a line, by our own outermost.
    assert.matches("^G %d+%.%d+ %(lunapark/init.lua:%d+%)$", tostring(lp.go(lp.go, lp.yield):join()))
  end)

  it("takes more arguments than a new coroutine has room for", function()
    local many = {}
    for i = 1, 5000 do many[i] = i end
    for _ = 1, 20 do
      local g = lp.go(function(...)
        collectgarbage()
        return select("#", ...), (select(5000, ...))
      end, unpack(many))
      assert.same({ 5000, 5000 }, { g:join() })
    end
    local ok, err = pcall(function() lp.go(function() end, unpack({}, 1, 7900)) end)
    assert.is_true(ok or err:find("not enough memory", 1, true) ~= nil, err)
  end)
end)
