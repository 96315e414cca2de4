-- How scopes end: by deadlines, by the cancellation of the G that stands in one, with a request.

local lp = require "lunapark"
local testing = require "lunapark.testing"
local helper = require "spec.helper"
local waits = require "spec.support.waits"

local LONG, soon = waits.LONG, waits.soon

-- A test in virtual time: what is due at 2 s comes before what is due at 3 s, however busy the machine is.
local function virtual_it(title, fn)
  it(title, function() testing.virtual(fn) end)
end

describe("lunapark.scope", function()
  describe("and deadlines", function()
    virtual_it("the caller's holds inside, for Gs that others start in it too", function()
      local seen, s1 = {}, nil
      local outsider = lp.go(function()
        lp.park()
        s1:go(function() seen.by_outsider = { lp.sleep(LONG) } end)
      end)
      soon(lp.deadline, 0.02, lp.scope, function(s)
        s1 = s
        s:go(function() seen.go = { lp.sleep(LONG) } end)
        lp.go(function() seen.lp_go = { lp.go(lp.sleep, LONG):join() } end)
        lp.ready(outsider)
        seen.fn = { lp.sleep(LONG) }
      end)
      outsider:join()
      for _, name in ipairs { "go", "lp_go", "by_outsider", "fn" } do
        assert.same({ nil, "timeout" }, seen[name], name)
      end
      assert.is_true(lp.sleep(0.001))
    end)

    virtual_it("one set inside counts for the Gs started in it alone", function()
      local seen = {}
      lp.scope(function(s)
        lp.deadline(0.005, function() s:go(function() seen.near = { lp.sleep(LONG) } end) end)
        s:go(function() seen.none = { lp.sleep(0.02) } end)
      end)
      assert.same({ near = { nil, "timeout" }, none = { true } }, seen)
    end)

    virtual_it("it waits for its Gs beyond it, and gives it back", function()
      local ended
      local value = lp.deadline(0.005, function()
        local v = lp.scope(function(s)
          s:go(function() lp.detach(function() lp.sleep(0.03) ended = true end):join() end)
          s:go(function()
            lp.sleep(LONG)
            for _ = 1, 90 do lp.yield() end
          end)
          return "value"
        end)
        assert.same({ nil, "timeout" }, { lp.sleep(LONG) })
        return v
      end)
      assert.equal("value", value)
      assert.is_nil(ended)
      lp.sleep(0.04)
      assert.is_true(ended)
    end)

    it("stays with the scope: a G from outside that starts one in it has none of it", function()
      testing.virtual(function()
        local scope
        local outsider = lp.go(function()
          lp.park()
          scope:go(lp.sleep, 100)
          return lp.sleep(50)
        end)
        lp.deadline(10, lp.scope, function(s)
          scope = s
          lp.ready(outsider)
          lp.sleep(1)
        end)
        assert.same({ true }, { outsider:join() })
      end)
    end)

    it("does not spin for a G of it that ends later than the deadline", function()
      local mutex, cond = lp.mutex(), lp.cond()
      local holder
      local steps = 0
      lp.deadline(0.01, lp.scope, function(s)
        s:go(function()
          mutex:lock()
          cond:wait(mutex) -- which locks it again, whatever the deadline
          mutex:unlock()
        end)
        holder = lp.detach(function() mutex:with(lp.sleep, 0.3) end)
        jit.off()
        debug.sethook(function() steps = steps + 1 end, "", 1000)
      end)
      debug.sethook()
      jit.on()
      assert.is_true(steps < 50, steps)
      holder:join()
    end)
  end)

  describe("and cancellation of the G that stands in it", function()
    local function canceled_in(fn)
      local seen = {}
      local g = lp.go(fn, seen)
      lp.sleep(0.003)
      g:cancel()
      return seen, { soon(g.join, g) }
    end

    virtual_it("reaches its Gs while the function runs", function()
      local seen, results = canceled_in(function(seen)
        local value, err = lp.scope(function(s)
          s:go(function()
            seen.g = { lp.sleep(LONG) }
            seen.late = { s:go(lp.sleep, LONG):join() }
          end)
          return lp.sleep(LONG)
        end)
        seen.after = { lp.sleep(LONG) }
        seen.new = {}
        lp.scope(function(s) s:go(function() seen.new = { lp.park() } end) end)
        return value, err
      end)
      assert.same({ nil, "canceled" }, results)
      for _, name in ipairs { "g", "late", "after", "new" } do
        assert.same({ nil, "canceled" }, seen[name], name)
      end
    end)

    virtual_it("reaches its Gs while it waits for them, at any depth, but not detached ones", function()
      local detached
      local seen, results = canceled_in(function(seen)
        lp.scope(function(s)
          detached = lp.detach(lp.sleep, 0.02)
          s:go(function()
            lp.scope(function(t) t:go(function() seen.deep = { lp.sleep(LONG) } end) end)
            seen.g = { lp.sleep(LONG) }
          end)
          lp.go(lp.go, function() seen.grandchild = { lp.sleep(LONG) } end)
        end)
        return lp.sleep(LONG)
      end)
      assert.same({ nil, "canceled" }, results)
      for _, name in ipairs { "deep", "g", "grandchild" } do
        assert.same({ nil, "canceled" }, seen[name], name)
      end
      assert.is_true(detached:join())
    end)

    virtual_it("does not reach the Gs of one outside of scopes: they are nobody's", function()
      local grandchild
      local g = lp.detach(function()
        grandchild = lp.go(lp.sleep, 0.02)
        return lp.sleep(LONG)
      end)
      lp.yield()
      g:cancel()
      assert.same({ nil, "canceled" }, { g:join() })
      assert.is_true(grandchild:join())
    end)

    virtual_it("of one of its Gs does nothing to the others", function()
      local ok = lp.scope(function(s)
        local victim, other = s:go(lp.sleep, LONG), s:go(lp.sleep, 0.01)
        lp.yield()
        victim:cancel()
        assert.same({ nil, "canceled" }, { soon(victim.join, victim) })
        return other:join()
      end)
      assert.is_true(ok)
    end)
  end)

  describe("of a request", function()
    local client
    after_each(function()
      if client then client:close() end
      client = nil
    end)

    it("ends with the handler's G: what the handler started is cancelled with it, at any depth", function()
      local seen, handler, handlers_end = {}, nil, nil
      client = testing.serve(function()
        handler = lp.self()
        lp.go(function()
          lp.go(function() seen.grandchild = { lp.sleep(LONG) } end)
          seen.child = { lp.sleep(LONG) }
        end)
        lp.detach(function() seen.detached = { lp.sleep(0.02) } end)
        local ok, err = lp.sleep(LONG)
        lp.go(function() seen.later = { lp.sleep(LONG) } end)
        handlers_end = { ok, err }
        return "cancelled"
      end)
      local canceler = lp.go(function()
        helper.eventually(function() return handler end)
        lp.sleep(0.005)
        handler:cancel()
      end)
      assert.equal("cancelled", client:get("/").body)
      canceler:join()
      helper.eventually(function() return seen.child and seen.grandchild and seen.later and seen.detached end)
      assert.same({ nil, "canceled" }, handlers_end)
      for _, name in ipairs { "child", "grandchild", "later" } do
        assert.same({ nil, "canceled" }, seen[name], name)
      end
      assert.same({ true }, seen.detached)
    end)

    it("has ended before its first G: the G is cancelled", function()
      local heard
      client = testing.serve(function()
        lp.self():cancel()
        lp.sleep(LONG)
        lp.go(function() heard = { lp.sleep(LONG) } end)
        return "cancelled"
      end)
      assert.equal("cancelled", client:get("/").body)
      helper.eventually(function() return heard end)
      assert.same({ nil, "canceled" }, heard)
    end)

    it("and lp.scope in it end when the client goes away", function()
      local seen, began = {}, false
      client = testing.serve(function()
        lp.go(function() seen.child = { lp.sleep(LONG) } end)
        lp.scope(function(s)
          s:go(function() seen.scoped = { lp.sleep(LONG) } end)
          began = true
        end)
        seen.after = { lp.sleep(LONG) }
        return "nobody hears it"
      end)
      local conn = assert(client:connect())
      conn:write "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
      helper.eventually(function() return began end)
      lp.sleep(0.005)
      conn:close()
      helper.eventually(function() return seen.child and seen.scoped and seen.after end)
      for _, name in ipairs { "child", "scoped", "after" } do
        assert.same({ nil, "canceled" }, seen[name], name)
      end
    end)

    it("is left by a handler that returns: its Gs go on", function()
      local seen, gate = {}, lp.chan()
      client = testing.serve(function()
        lp.go(function() table.insert(seen, gate:recv() or "nothing") end)
        return "answered"
      end)
      assert.equal("answered", client:get("/").body)
      client:get "/" -- another request on the same coroutine
      assert.same({}, seen)
      for _ = 1, 2 do gate:send "received" end
      helper.eventually(function() return #seen == 2 end)
      assert.same({ "received", "received" }, seen)
    end)

    it("does not fail by an error of a G that it started", function()
      local log = helper.stderr_of(function()
        client = testing.serve(function()
          lp.go(error, "of a child", 0)
          lp.sleep(0.005)
          return tostring(lp.sleep(0))
        end)
        assert.equal("true", client:get("/").body)
      end, "of a child")
      assert.matches("started at spec/scope_end_spec.lua:%d+, in function, spec/scope_end_spec.lua:%d+, "
        .. "ended with an error: of a child", log)
    end)

    it("raises an error of an inner scope in the handler", function()
      local log = helper.stderr_of(function()
        client = testing.serve(function()
          lp.scope(function(s) s:go(error, "within", 0) end)
          return "no"
        end)
        assert.equal(500, client:get("/").status)
      end)
      assert.matches("within", log)
      assert.matches("started at spec/scope_end_spec.lua:%d+ in the scope of", log)
    end)
  end)
end)
