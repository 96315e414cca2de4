local lp = require "lunapark"
local testing = require "lunapark.testing"
local helper = require "spec.helper"

describe("lunapark", function()
  describe("stats", function()
    it("has the fields", function()
      local s = lp.stats()
      for _, state in ipairs { "runnable", "running", "syscall", "waiting", "dead" } do
        assert.is_number(s.gs[state], state)
      end
      for _, name in ipairs {
        "procs", "idle_ps", "ms", "idle_ms", "spinning_ms", "switches", "steals", "polls", "poll_events", "timers",
        "timers_fired", "handoffs", "fds", "vm", "lua_gs",
      } do
        assert.is_number(s[name], name)
      end
      assert.is_true(s.memory.lua > 0)
      assert.is_true(s.memory.stacks > 0)
      assert.is_true(s.ms >= 1 and s.gs.running >= 1 and s.lua_gs >= 1)
      assert.equal(s.procs, #s.ps)
      for _, p in ipairs(s.ps) do
        assert.is_string(p.status)
        for _, name in ipairs { "runq", "switches", "steals", "polls", "poll_events", "fds", "requests" } do
          assert.is_number(p[name], name)
        end
      end
    end)

    it("tells of each VM", function()
      local s = lp.stats()
      local own
      for _, vm in ipairs(s.vms) do
        assert.is_string(vm.state)
        for _, name in ipairs { "id", "ps", "gs", "stuck", "requests", "running" } do
          assert.is_number(vm[name], name)
        end
        for _, name in ipairs { "lua", "mapped", "held" } do assert.is_number(vm.memory[name], name) end
        for _, name in ipairs { "steps", "idle", "full", "seconds" } do assert.is_number(vm.gc[name], name) end
        if vm.id == s.vm then own = vm end
      end
      assert.equal(s.all_vms, #s.vms)
      assert.equal("alone", own.state)
      assert.is_nil(own.generation)
      assert.equal(s.lua_gs, own.gs)
      assert.is_true(own.memory.lua > 0 and own.memory.mapped >= own.memory.lua / 2)
      local client = testing.serve(function() return "x" end)
      for _ = 1, 3 do client:get "/" end
      client:close()
      local after
      for _, vm in ipairs(lp.stats().vms) do
        if vm.id == s.vm then after = vm end
      end
      assert.equal(own.requests + 3, after.requests)
      assert.equal(own.running, after.running)
    end)

    it("counts sleepers", function()
      local before, gs = lp.stats(), {}
      for i = 1, 500 do
        gs[i] = lp.go(lp.park)
      end
      local during
      helper.eventually(function()
        during = lp.stats()
        -- A few others, of specs before this one, may end meanwhile.
        return during.gs.waiting >= before.gs.waiting + 450
      end, "sleepers")
      assert.is_true(during.lua_gs >= before.lua_gs + 450)
      for _, g in ipairs(gs) do
        lp.ready(g)
      end
      for _, g in ipairs(gs) do
        g:join()
      end
      assert.is_true(lp.stats().lua_gs <= during.lua_gs - 450)
    end)

    it("counts the requests of each P", function()
      local function requests()
        local sum = 0
        for _, p in ipairs(lp.stats().ps) do
          sum = sum + p.requests
        end
        return sum
      end
      local client = testing.serve(function() return "x" end)
      local before = requests()
      for _ = 1, 10 do
        client:get "/"
      end
      assert.equal(before + 10, requests())
      client:close()
    end)

    it("counts exchanges that are over, by status, and their bytes and seconds", function()
      local client = testing.serve(function(req)
        lp.sleep(0.05)
        return tonumber(req.path:sub(2)), "answer"
      end)
      local before, now = lp.stats().exchanges, nil
      for _, status in ipairs { 200, 204, 303, 404, 404, 501, 700, 999 } do client:get("/" .. status) end
      client:close()
      local more = { ["2xx"] = 2, ["3xx"] = 1, ["4xx"] = 2, ["5xx"] = 1, other = 2 }
      helper.eventually(function()
        now = lp.stats().exchanges
        for class, n in pairs(more) do
          if now[class] ~= before[class] + n then return false end
        end
        return true
      end, "the end of all")
      assert.is_true(now.bytes_in >= before.bytes_in + 8 * #"GET / HTTP/1.1\r\n\r\n")
      assert.is_true(now.bytes_out >= before.bytes_out + 8 * #"HTTP/1.1 200 OK\r\n\r\n")
      assert.is_true(now.seconds >= before.seconds + 8 * 0.05)
      assert.is_true(now.answer_seconds >= before.answer_seconds + 8 * 0.05)
      assert.is_true(now.none >= before.none)
    end)
  end)

  describe("memory does not grow", function()
    local function collected()
      collectgarbage()
      collectgarbage()
      return lp.stats()
    end

    local function check(before, after)
      assert.is_true(after.memory.lua < before.memory.lua + 64 * 1024,
        ("%d bytes became %d"):format(before.memory.lua, after.memory.lua))
      assert.is_true(after.memory.stacks <= before.memory.stacks + 256 * 1024)
      -- Each P may keep 64 for itself, whichever ran the VM, and they are made by 64.
      assert.is_true(after.gs.dead <= before.gs.dead + 64 * (after.procs + 1), after.gs.dead - before.gs.dead)
      assert.is_true(after.lua_gs <= before.lua_gs)
    end

    local function round(fn)
      local gs = {}
      for i = 1, 1000 do
        gs[i] = lp.go(fn, i)
      end
      for i = 1, 1000 do
        gs[i]:join()
      end
    end

    it("with Gs that wait in comparators: their stacks are counted, and given back", function()
      local gate
      local function sort()
        table.sort({ 2, 1 }, function(a, b)
          gate:recv()
          return a < b
        end)
      end
      local stacks
      for _ = 1, 3 do
        local gs = {}
        gate = lp.chan()
        for i = 1, 100 do gs[i] = lp.go(sort) end
        lp.yield()
        assert.equal(100, lp.stats().held_stacks)
        gate:close()
        for i = 1, 100 do gs[i]:join() end
        local s = lp.stats()
        assert.equal(0, s.held_stacks)
        stacks = stacks or s.memory.stacks
        assert.equal(stacks, s.memory.stacks)
      end
    end)

    it("with Gs that end", function()
      local function nap(n)
        lp.sleep(n % 3 * 0.0001)
        return n
      end
      for _ = 1, 3 do
        round(nap)
      end
      local before = collected()
      for _ = 1, 20 do
        round(nap)
      end
      check(before, collected())
    end)

    it("with Gs that fail", function()
      round(error)
      lp.sleep(1.05) -- so long, or a little longer, errors are kept for a join
      local before, failed = collected(), nil
      for _ = 1, 5 do
        round(error)
      end
      if not pcall(helper.eventually, function()
        failed = select(2, pcall(check, before, collected()))
        return failed == nil
      end) then error(failed, 0) end
    end)
  end)
end)
