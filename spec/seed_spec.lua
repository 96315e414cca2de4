local child = require "spec.support.child"

-- One that passes in order, and fails under some seed.
local RACE = [[
package.path = "scripts/?.lua;" .. package.path
local race = require "race"
describe("race", function()
  it("unlocked #race", function() assert.equal(20, race.run()) end)
  it("locked", function() assert.equal(20, race.run_locked()) end)
end)
]]

-- Prints in which order 12 Gs ran that were ready at the same time, in all manners of waiting.
local ORDER = [[
local lp, testing = require "lunapark", require "lunapark.testing"
local order = {}
local function note(what) return function(i) order[#order + 1] = what .. i end end
local function several(what, fn)
  lp.scope(function(s)
    for i = 1, 12 do s:go(function() fn(i) note(what)(i) end) end
  end)
end
several("yield", function() lp.yield() end)
testing.virtual(function() several("sleep", function() lp.sleep(1) end) end)
local ch = lp.chan(3)
several("chan", function(i) ch:send(i) ch:recv() end)
local a, b = lp.chan(100), lp.chan(100)
for i = 1, 50 do a:send(i) b:send(i) end
for _ = 1, 30 do order[#order + 1] = "select" .. lp.select { { a, "recv" }, { b, "recv" } } end
local mutex = lp.mutex()
several("mutex", function() mutex:with(function() lp.yield() end) end)
print(table.concat(order, " "))
]]

describe("lunapark test", function()
  after_each(child.clean)

  local function test(...)
    return child.run { "test", "-o", "plainTerminal", ... }
  end

  local function seed_of(err)
    return (assert(err:match "with seed (%d+); it is repeated by\n", err))
  end

  describe("without --seed", function()
    it("runs ready Gs in the order in which they got ready", function()
      local code, out, err = child.run { "run", child.script(ORDER) }
      assert.same({ 0, "" }, { code, err })
      local yields = {}
      for i = 1, 12 do
        yields[i] = "yield" .. i
      end
      assert.equal(table.concat(yields, " "), out:match "^(.-) sleep")
      assert.equal((table.concat(yields, " "):gsub("yield", "sleep")), out:match "(sleep.-) chan")
    end)

    it("passes what only a random order finds, and says nothing of seeds", function()
      local code, out, err = test(child.file(RACE, "_spec.lua"))
      assert.same({ 0, "" }, { code, err })
      assert.matches("2 successes / 0 failures", out)
    end)
  end)

  describe("--seed", function()
    it("runs them in an order that it repeats", function()
      local script, orders = child.script(ORDER), {}
      local _, in_order = child.run { "run", script }
      for seed = 1, 4 do
        local code, out, err = child.run { "run", "--seed", tostring(seed), script }
        assert.same({ 0, "" }, { code, err })
        for _ = 1, 2 do
          assert.same({ 0, out, "" }, { child.run { "run", "--seed=" .. seed, "--procs", "1", script } })
        end
        assert.is_nil(orders[out])
        assert.are_not.equal(in_order, out)
        for _, what in ipairs { "yield", "sleep", "chan", "mutex" } do
          local _, n = out:gsub(what, "")
          assert.equal(12, n, what) -- all did run, and once
        end
        orders[out] = true
      end
    end)

    it("repeats it also in a block that takes so long that its runner wakes meanwhile", function()
      local path = child.file([[
        local lp = require "lunapark"
        it("takes long", function()
          local mark, begin = 0, lp.now()
          lp.scope(function(s)
            for i = 1, 8 do
              s:go(function()
                for turn = 1, 50 do
                  mark = (mark * 31 + i) % 2 ^ 40
                  if turn % 10 == 0 then -- 40 times 15 ms
                    local until_ = lp.now() + 0.015
                    while lp.now() < until_ do end
                  end
                  lp.yield()
                end
              end)
            end
          end)
          assert(lp.now() - begin > 0.5)
          print("mark", mark)
        end)
      ]], "_spec.lua")
      local function mark(seed)
        local code, out, err = test("--seed", seed, path)
        assert.same({ 0, "" }, { code, err })
        return (assert(out:match "mark\t%d+"))
      end
      local first = mark "11"
      assert.equal(first, mark "11")
      assert.are_not.equal(first, mark "12")
    end)

    it("is told by a run that fails, and makes it fail again", function()
      local path = child.file(RACE, "_spec.lua")
      local code, _, err = test("--rounds", "50", path)
      assert.equal(1, code)
      local seed = seed_of(err)
      local again, out, err2 = test("--seed", seed, path)
      assert.equal(1, again)
      assert.equal(("lunapark: seed %s: --seed %s repeats this order\n"):format(seed, seed), err2)
      assert.matches("1 success / 1 failure", out)
      local _, out2 = test("--seed", seed, path)
      assert.equal(out:match "%(number%) %d+", out2:match "%(number%) %d+") -- the same lost updates
      local fixed, _, err3 = test("--seed", seed, "--filter", " locked", path)
      assert.same({ 0, "" }, { fixed, err3 })
    end)

    it("is busted's seed too: it repeats the order of shuffled specs", function()
      local specs = {}
      for i = 1, 20 do
        specs[i] = ("it('n%d', function() end)"):format(i)
      end
      local path = child.file("describe('d', function()\n" .. table.concat(specs, "\n") .. "\nend)", "_spec.lua")
      local function order(seed)
        local code, out = child.run { "test", "-o", "TAP", "--shuffle", "--seed", seed, path }
        assert.equal(0, code)
        return (out:gsub("ok %d+", "ok"))
      end
      assert.equal(order "5", order "5")
      assert.are_not.equal(order "5", order "6")
    end)

    it("lets a wait that need not wait yield, but never one that must not", function()
      local code, out, err = child.run { "run", "--seed", "3", child.script [[
        local lp = require "lunapark"
        local ran = 0
        lp.go(function() while ran < 1e5 do ran = ran + 1 lp.yield() end end)
        local function others_ran(fn, ...)
          local before = ran
          for _ = 1, 200 do fn(...) end
          return ran > before
        end
        local full, mutex = lp.chan(1000), lp.mutex()
        local function lock() mutex:lock() mutex:unlock() end
        local function never()
          full:send(1, 0) full:recv(0) lp.select { { full, "recv" }, timeout = 0 }
          if mutex:try_lock() then mutex:unlock() end
          mutex:lock(0) mutex:unlock()
        end
        print(others_ran(full.send, full, 1), others_ran(lock), others_ran(full.recv, full), others_ran(never))
        ran = 1e5
      ]] }
      assert.same({ 0, "true\ttrue\ttrue\tfalse\n", "" }, { code, out, err })
    end)

    it("must be a whole number", function()
      for _, seed in ipairs { "x", "1.5", "-1", "2147483648" } do
        local code, _, err = test("--seed", seed)
        assert.equal(64, code)
        assert.matches("seed: must be a whole number from 0 to 2147483647, got '" .. seed:gsub("%-", "%%-") .. "'", err)
      end
    end)

    it("is not needed to find what every order finds", function()
      local code, _, err = test("--seed", "0", child.file("it('fails', function() error 'always' end)", "_spec.lua"))
      assert.equal(1, code)
      assert.equal("lunapark: seed 0: --seed 0 repeats this order\n", err)
    end)
  end)

  describe("--rounds", function()
    it("finds a seed, tells how to repeat it, and stops there", function()
      local path = child.file(RACE, "_spec.lua")
      local code, out, err = test("--rounds", "50", "--seed", "1", "--tags", "race", path)
      assert.equal(1, code)
      local round, seed = err:match "lunapark: round (%d+) of 50 failed %(exit code 1%) with seed (%d+);"
      assert.equal(tonumber(seed), tonumber(round))
      assert.equal("lunapark test --seed " .. seed .. " -o plainTerminal --tags race " .. path, err:match "([^\n]+)\n$")
      assert.matches("0 successes / 1 failure", out) -- the output of that round alone
      local _, n = out:gsub("successes", "")
      assert.equal(1, n)
      for earlier = 1, tonumber(seed) - 1 do
        assert.equal(0, (test("--seed", tostring(earlier), "--tags", "race", path)))
      end
    end)

    it("all of which pass ends with 0, the seeds on stderr and one run's output", function()
      local path = child.file(RACE, "_spec.lua")
      local code, out, err = child.run {
        "test", "--rounds=4", "--seed=7", "-o", "TAP", "--filter", "race locked", path,
        env = { LUNAPARK_ROUNDS = "9" },
      }
      assert.equal(0, code)
      assert.equal("lunapark: 4 rounds, none failed (seeds 7 to 10)\n", err)
      assert.equal("ok 1 - race locked\n1..1\n", out)
    end)

    it("gives each round the same options and environment, and a process of its own", function()
      local log = child.file ""
      local path = child.file(([[
        it("notes", function()
          local f = io.open(%q, "a")
          local view = require("ffi").cast("host_view *", require("lunapark.core").view)
          f:write(view.seed - 1, " ", require("lunapark").stats().procs, " ", os.getenv "HERE", " ", loaded or 0, "\n")
          loaded = 1
          f:close()
        end)
      ]]):format(log), "_spec.lua")
      local code, _, err = child.run {
        "test", "--procs", "3", "--rounds", "3", "--seed", "2147483647", path, env = { HERE = "yes" },
      }
      assert.same({ 0, "lunapark: 3 rounds, none failed (seeds 2147483647 to 1)\n" }, { code, err })
      local f = io.open(log)
      assert.equal("2147483647 3 yes 0\n0 3 yes 0\n1 3 yes 0\n", f:read "*a")
      f:close()
    end)

    it("tells of a round that was ended by a signal, or by a deadlock", function()
      local killed = child.file([[
        require("ffi").cdef "int kill(int, int); int getpid(void);"
        it("dies", function() require("ffi").C.kill(require("ffi").C.getpid(), 9) end)
      ]], "_spec.lua")
      local code, _, err = test("--rounds", "3", "--seed", "5", killed)
      assert.equal(1, code)
      assert.matches("round 1 of 3 failed %(ended by SIGKILL%) with seed 5;", err)
      local dead = child.file("it('waits', function() require('lunapark').chan():recv() end)", "_spec.lua")
      code, _, err = test("--rounds", "3", "--seed", "5", dead)
      assert.are_not.equal(0, code)
      assert.matches("round 1 of 3 failed %(exit code %d+%) with seed 5;", err)
    end)

    it("must be a whole number", function()
      local code, _, err = test("--rounds", "0")
      assert.equal(64, code)
      assert.matches("rounds: must be a whole number from 1 to 1000000, got '0'", err)
    end)
  end)

  it("--help tells of both", function()
    local _, out = child.run { "test", "--help" }
    assert.matches("\n  %-%-seed N ", out)
    assert.matches("\n  %-%-rounds N ", out)
  end)

  it("scripts/race.lua says what it has lost", function()
    local code, out = child.run { "run", "scripts/race.lua" }
    assert.same({ 0, "unlocked 20, locked 20, of 20\n" }, { code, out })
  end)
end)
