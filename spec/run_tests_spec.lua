-- host/build/run_tests.sh: what it counts of C test programs, one after the other and side by side.

local exec = require "lunapark.exec"
local path = require "pl.path"
local helper = require "spec.helper"
local project = require "spec.support.project"
local testing = require "lunapark.testing"

testing.block_timeout(120)

local PASSES = "printf '[ RUN      ] a\\n[       OK ] a\\n[ RUN      ] b\\n[       OK ] b\\n'\n"

describe("host/build/run_tests.sh", function()
  after_each(project.clean)

  local function argv_of(p, programs)
    local argv = { path.abspath "host/build/run_tests.sh" }
    for name, text in pairs(programs) do
      p:write("build/" .. name, "#!/bin/sh\n" .. text)
      argv[#argv + 1] = "build/" .. name
    end
    assert(exec.run { "sh", "-c", "chmod +x " .. p.dir .. "/build/*" })
    return argv
  end

  local function env_of(jobs)
    return { PATH = os.getenv "PATH", B = "build", TEST_JOBS = jobs, TEST_TIMEOUT = "20" }
  end

  -- Its exit code, its lines by what they tell of, and its last line.
  local function run(programs, jobs)
    local p = project.new {}
    local r = assert(exec.run(argv_of(p, programs), { cwd = p.dir, timeout = 100, env = env_of(jobs) }))
    local lines, last = {}, nil
    for line in r.stdout:gmatch "[^\n]+" do
      last = line
      local name, said = line:match "^(%l+) +(%d+ passed.*)$"
      if name then lines[name] = said end
    end
    return r.code, lines, last, r.stdout
  end

  for _, jobs in ipairs { "1", "2" } do
    it("counts what passes, fails, crashes and tests nothing, " .. jobs .. " at once", function()
      local code, lines, last, out = run({
        passes = PASSES,
        fails = "printf '[ RUN      ] a\\n[       OK ] a\\n[ RUN      ] b\\n'; echo the reason; exit 1",
        crashes = "printf '[ RUN      ] a\\n'; kill -SEGV $$",
        ends = PASSES .. "exit 99",
        nothing = "exit 0",
        leaves = PASSES .. "sleep 300 &",
      }, jobs)
      assert.same({
        passes = "2 passed, 0 failed", fails = "1 passed, 1 failed, exit 1", crashes = "0 passed, 1 failed, exit 139",
        ends = "2 passed, 1 failed, exit 99", nothing = "0 passed, 1 failed", leaves = "2 passed, 0 failed",
      }, lines)
      assert.same({ 1, "7 passed, 4 failed" }, { code, last })
      assert.matches("%-%-%-%- build/test%-logs/fails%.log\n.*the reason\n%-%-%-%-\n", out)
      assert.matches("left behind and killed: %d+", out)
    end)
  end

  it("passes when all pass, also when there is nothing to run", function()
    local code, _, last = run({ passes = PASSES }, "2")
    assert.same({ 0, "2 passed, 0 failed" }, { code, last })
    code, _, last = run({}, "2")
    assert.same({ 0, "0 passed, 0 failed" }, { code, last })
  end)

  it("runs as many at once as TEST_JOBS says", function()
    local function awaits(own, other) return ("touch %s; until [ -e %s ]; do sleep 0.05; done\n"):format(own, other) end
    local code, lines = run({ one = awaits("one", "two") .. PASSES, two = awaits("two", "one") .. PASSES }, "2")
    assert.same({ 0, { one = "2 passed, 0 failed", two = "2 passed, 0 failed" } }, { code, lines })
  end)

  it("ends what runs when it is ended", function()
    local p = project.new {}
    local argv = argv_of(p, { one = "echo $$ >one; sleep 300", two = "echo $$ >two; sleep 300" })
    local process = assert(exec.spawn(argv, { cwd = p.dir, env = env_of "2", stdin = "null", stderr = "stdout" }))
    local pids = {}
    for i, name in ipairs { "one", "two" } do
      helper.eventually(function()
        pids[i] = (p:read(name) or ""):match "%d+"
        return pids[i]
      end, name)
    end
    process:kill "TERM"
    process.stdout:set_read_deadline(60)
    process.stdout:read_all() -- the shell may have words for it, and would die of a pipe that is closed
    process.stdout:close()
    assert.equal(130, assert(process:wait(60)).code)
    for _, pid in ipairs(pids) do
      helper.eventually(function() return not path.exists("/proc/" .. pid) end, "the end of " .. pid)
    end
  end)
end)
