local ffi = require "ffi"
local lp = require "lunapark"
local exec = require "lunapark.exec"
local testing = require "lunapark.testing"
local helper = require "spec.helper"
local child = require "spec.support.child"

ffi.cdef "void __tsan_init(void);"
local tsan = pcall(function() return ffi.C.__tsan_init end)

local function exists(pid)
  local f = io.open("/proc/" .. pid .. "/stat")
  if not f then return false end
  local text = f:read "*a"
  f:close()
  return text ~= nil and not text:find ") Z " -- nil: it went in between
end

local function zombies()
  local mine, n = helper.text_of("/proc/self/stat"):match "^%d+", 0
  local text = exec.run("cat /proc/[0-9]*/stat 2>/dev/null", { shell = true }).stdout
  for line in text:gmatch "[^\n]+" do
    local state, parent = line:match "^.*%) (%a) (%d+)"
    if state == "Z" and parent == mine then n = n + 1 end
  end
  return n
end

describe("exec.run", function()
  after_each(function() child.clean() end)

  it("returns when the program ends, though another process holds its streams", function()
    local pid = child.file()
    local r = exec.run({ "sh", "-c", "sleep 600 & echo $! >" .. pid .. "; echo started; echo too >&2; exit 3" },
      { stdin = "text" })
    assert.same({ code = 3, stdout = "started\n", stderr = "too\n" }, r)
    local text = ("x"):rep(60000)
    r = exec.run({ "sh", "-c", "sleep 600 & echo $! >>" .. pid .. "; cat" }, { stdin = text })
    assert.same({ 0, text }, { r.code, r.stdout })
    for number in helper.text_of(pid):gmatch "%d+" do exec.run { "kill", "-9", number } end
  end)

  it("runs a program and collects what it writes", function()
    assert.same({ code = 0, stdout = "a  b *\n", stderr = "" }, exec.run { "echo", "a  b", "*" })
    assert.same({ code = 3, stdout = "out\n", stderr = "err\n" },
      exec.run({ "sh", "-c", "echo out; echo err >&2; exit 3" }))
    assert.same({ signal = "KILL", stdout = "", stderr = "" }, exec.run { "sh", "-c", "kill -9 $$" })
    assert.equal("1\n", exec.run({ "echo", 1 }).stdout)
    assert.equal("", exec.run({ "echo", "-n", "" }).stdout)
  end)

  it("starts it with the limit of descriptors that we were given", function()
    local script = child.script [[
      local exec = require "lunapark.exec"
      io.write(exec.run({ "sh", "-c", "ulimit -Sn; ulimit -Hn" }).stdout, exec.run({ "sh", "-c", "ulimit -Sn" }).stdout)
      io.write(tostring(os.execute "test $(ulimit -Sn) = 77"), io.popen("ulimit -Sn"):read "*l")
    ]]
    local r = exec.run { "sh", "-c", "ulimit -Sn 77; ulimit -Hn; exec " .. child.binary .. " run " .. script }
    local hard = r.stdout:match "^%w+"
    assert.same({ 0, ("%s\n77\n%s\n77\n077"):format(hard, hard), "" }, { r.code, r.stdout, r.stderr })
  end)

  it("uses a shell only when told to", function()
    assert.equal("3\n", exec.run("echo a b c | wc -w | tr -d ' '", { shell = true }).stdout)
    assert.equal("x y\n", exec.run({ "echo $1 $2", "sh", "x", "y" }, { shell = true }).stdout)
    assert.matches("run: argv must be a list of strings, got string", helper.raised(exec.run, "echo"))
  end)

  it("gives it stdin", function()
    assert.equal("", exec.run({ "cat" }).stdout)
    local text = ("0123456789"):rep(100000)
    assert.equal(text, exec.run({ "cat" }, { stdin = text }).stdout)
    -- One that does not read it.
    assert.equal(0, exec.run({ "true" }, { stdin = text }).code)
  end)

  it("sends its output where it is told to", function()
    local r = exec.run({ "sh", "-c", "echo a; echo b >&2" }, { stderr = "stdout" })
    assert.same({ code = 0, stdout = "a\nb\n" }, r)
    assert.same({ code = 0, stderr = "" }, exec.run({ "echo", "a" }, { stdout = "null" }))
    local log = helper.stderr_of(function()
      assert.same({ code = 0, stdout = "" }, exec.run({ "sh", "-c", "echo ours >&2" }, { stderr = "inherit" }))
    end)
    assert.equal("ours\n", log)
  end)

  it("sets its directory and its environment", function()
    assert.equal("/\n", exec.run({ "pwd" }, { cwd = "/" }).stdout)
    local env = { A = 1, B = "x=y", PATH = os.getenv "PATH" }
    assert.equal("A=1\nB=x=y\n", exec.run("env | grep '^[AB]=' | sort", { shell = true, env = env }).stdout)
    assert.equal("A=1\n", exec.run({ "/usr/bin/env" }, { env = { A = "1" } }).stdout)
    assert.equal(os.getenv "PATH" .. "\n", exec.run("echo $PATH", { shell = true }).stdout)
  end)

  it("says why it cannot start", function()
    assert.same({ nil, "no such file or directory: nosuchprogram" }, { exec.run { "nosuchprogram" } })
    assert.same({ nil, "permission denied: /etc/passwd" }, { exec.run { "/etc/passwd" } })
    assert.same({ nil, "no such file or directory: /nosuchdir" }, { exec.run({ "true" }, { cwd = "/nosuchdir" }) })
  end)

  it("gives it the usual turns on the CPU, and has shorter ones itself", function()
    local major, minor = helper.text_of("/proc/sys/kernel/osrelease"):match "^(%d+)%.(%d+)"
    local function turn_of(text) return text and tonumber(text:match "se%.slice%s*:%s*(%d+)") end
    local own = turn_of(helper.text_of "/proc/thread-self/sched")
    if not own or major * 100 + minor < 612 then return pending "a kernel without turns, or that does not show them" end
    assert.equal(100000, own)
    assert.is_true(turn_of(assert(exec.run { "cat", "/proc/self/sched" }).stdout) > own)
    assert.equal(own, turn_of(helper.text_of "/proc/thread-self/sched"))
  end)

  it("starts it with no descriptors but its own, and no signal blocked or ignored", function()
    local file = io.open "/etc/passwd"
    local fds = exec.run("ls /proc/$$/fd", { shell = true }).stdout
    file:close()
    assert.equal("0\n1\n2\n", fds)
    local status = exec.run({ "cat", "/proc/self/status" }).stdout
    assert.matches("SigBlk:%s+0+\n", status)
    assert.matches("SigIgn:%s+0+\n", status)
  end)

  it("leaves no descriptors behind", function()
    local function count()
      local mine = helper.text_of("/proc/self/stat"):match "^%d+"
      return #exec.run({ "ls", "/proc/" .. mine .. "/fd" }).stdout
    end
    count()
    collectgarbage()
    collectgarbage()
    local before = count()
    for _ = 1, 20 do
      exec.run { "true" }
      exec.run { "nosuchprogram" }
    end
    collectgarbage()
    collectgarbage()
    assert.is_true(count() <= before + 8)
  end)

  local function close(p)
    for _, name in ipairs { "stdin", "stdout", "stderr" } do p[name]:close() end
  end

  -- Calls run(seconds) with more and more time until the program has begun, which on a busy machine may take any time:
  -- begun(results) tells. Returns the results.
  local function once_begun(run, begun)
    local s = 0.1
    while true do
      local results = { run(s) }
      assert.same({ nil, "timeout" }, { results[1], results[2] })
      if begun(results) then return results end
      s = 2 * s
    end
  end

  -- What a command line that its timeout has ended had written and how it was ended.
  local function ended(line, grace)
    return once_begun(function(s)
      return exec.run(line, { shell = true, timeout = s, grace = grace })
    end, function(results) return results[3].stdout ~= "" end)[3]
  end

  it("ends it and all it has started when its time is over", function()
    local partial = ended "echo $$; sleep 1000 & sleep 1000"
    assert.equal("TERM", partial.signal)
    local group = partial.stdout:match "%d+"
    helper.eventually(function()
      return exec.run("kill -0 -" .. group .. " 2>/dev/null", { shell = true }).code ~= 0
    end)
  end)

  it("kills what does not care about TERM", function()
    local partial = ended("trap '' TERM; echo on; while :; do sleep 0.05; done", 0.1)
    assert.same({ signal = "KILL", stdout = "on\n", stderr = "" }, partial)
  end)

  it("ends with the caller's deadline, or its cancellation", function()
    local path = child.file ""
    local script = "echo $$ >" .. path .. "; sleep 1000"
    local function pid()
      return helper.text_of(path):match "^(%d+)\n"
    end
    once_begun(function(s) return lp.deadline(s, exec.run, script, { shell = true }) end, pid)
    helper.eventually(function() return not exists(pid()) end)
    io.open(path, "w"):close()
    local g = lp.go(function()
      return (select(2, exec.run(script, { shell = true })))
    end)
    helper.eventually(pid)
    g:cancel()
    assert.equal("canceled", g:join(5))
    helper.eventually(function() return not exists(pid()) end)
  end)

  it("does not collect without end", function()
    local r, err, partial = exec.run({ "yes" }, { max_output = 10000 })
    assert.same({ nil, "too much output" }, { r, err })
    assert.is_true(#partial.stdout <= 10000)
    assert.equal(10000, #exec.run({ "head", "-c", "10000", "/dev/zero" }, { max_output = 10000 }).stdout)
  end)

  -- Says "on", and ends with 7 by TERM, some time after it.
  local ORDERLY = "trap 'sleep 0.1; exit 7' TERM; exec 2>/dev/null; echo on; while :; do sleep 0.01; done"

  it("gives a program `grace` to end in order when its time is over", function()
    assert.same({ code = 7, stdout = "on\n", stderr = "" }, ended(ORDERLY, helper.PATIENCE))
    for s = 0, 10 do
      local p = assert(exec.spawn(ORDERLY, { shell = true, timeout = 0.1 * 2 ^ s, grace = helper.PATIENCE }))
      local began, r = p.stdout:read_line(), p:wait(helper.PATIENCE)
      close(p)
      if began then return assert.same({ code = 7 }, r) end
    end
  end)

  it("gives none to a program that writes too much", function()
    local r, err, partial = exec.run("trap '' TERM; while :; do echo on; done",
      { shell = true, max_output = 1000, grace = 1e6 })
    assert.same({ nil, "too much output", "KILL" }, { r, err, partial.signal })
  end)

  it("lets others run meanwhile", function()
    local path = child.file()
    local g = lp.go(function()
      for _ = 1, 5 do lp.sleep(0.01) end
      assert(io.open(path, "w")):close()
      return "others"
    end)
    local r = exec.run("while ! [ -e " .. path .. " ]; do sleep 0.01; done; echo seen",
      { shell = true, timeout = helper.PATIENCE })
    assert.equal("seen\n", r and r.stdout)
    assert.equal("others", g:join())
  end)

  it("runs many at a time, and none stays a zombie", function()
    local gs = {}
    for i = 1, 40 do
      gs[i] = lp.go(function() return exec.run({ "echo", i }).stdout end)
    end
    for i, g in ipairs(gs) do
      assert.equal(i .. "\n", g:join())
    end
    testing.allow_leak "process" -- they may run when their handles go
    local pids = {}
    for i = 1, 5 do pids[i] = exec.spawn({ "true" }, { stdin = "null", stdout = "null", stderr = "null" }).pid end
    collectgarbage()
    collectgarbage()
    for _, pid in ipairs(pids) do
      helper.eventually(function() return not exists(pid) end)
    end
    helper.eventually(function() return zombies() == 0 end)
  end)

  it("names what is wrong with its arguments", function()
    for expected, args in pairs {
      ["run: argv must be a list of strings, got nil"] = {},
      ["run: argv must not be empty"] = { {} },
      ["run: argv%[2%] must be a string, got table"] = { { "a", {} } },
      ["run: argv%[1%] must not contain a NUL byte"] = { { "a\0b" } },
      ["run: opts must be a table, got number"] = { { "a" }, 1 },
      ["run: opts.timeout must be a number, 0 or more, got %-1"] = { { "a" }, { timeout = -1 } },
      ["run: opts.max_output must be a number"] = { { "a" }, { max_output = "1" } },
      ["run: opts.cwd must be a string, got number"] = { { "a" }, { cwd = 1 } },
      ["run: opts.stdin must be a string, got table"] = { { "a" }, { stdin = {} } },
      ["run: opts.stdout must be one of pipe null inherit, got file"] = { { "a" }, { stdout = "file" } },
      ["run: opts.env must be a table, got string"] = { { "a" }, { env = "A=1" } },
      ["run: opts.env has a name that is none: 'A=B'"] = { { "a" }, { env = { ["A=B"] = "1" } } },
      ["run: opts.env.A must be a string, got boolean"] = { { "a" }, { env = { A = true } } },
    } do
      local message = helper.raised(function()
        local r = exec.run(unpack(args))
        return r
      end)
      assert.matches("exec_spec.lua:%d+: " .. expected, message)
    end
  end)

  -- ThreadSanitizer keeps the signal back that ends the loop.
  if tsan then return end

  it("is killed when its VM is dropped", function()
    local path = child.file ""
    local server = child.serve {
      child.script(([[
        local exec, http = require "lunapark.exec", require "lunapark.http"
        local app = http.app()
        app:get("/run", function() return exec.run("echo $$ >%s; exec sleep 60", { shell = true }) and "" end)
        app:get("/spawned", function()
          exec.spawn({ "sleep", "0.3" })
          return tostring(exec.spawn({ "sleep", "60" }).pid)
        end)
        app:get("/loop", function() while true do end end)
        app:get("/", function() return "hello" end)
        return app
      ]]):format(path)), "--procs", "1", "--handler-timeout", "1", "--kill-after", "0.2",
      env = { LUNAPARK_DEBUG = "retake=250" }, -- on a busy machine 20 ms pass in any handler: another VM would answer
    }
    local g = lp.go(function() return child.client(server.addr):get("/run").status end)
    local pid = child.eventually(function() return helper.text_of(path):match "^(%d+)\n" end)
    local spawned = child.client(server.addr):get("/spawned").body
    child.eventually(function() -- on a busy machine its time may be over before it has begun
      child.client(server.addr):get "/loop"
      return server:stderr():find "VM %d+ is dropped"
    end, "the end of the VM")
    assert.is_true(g:join(20) >= 500)
    child.eventually(function() return not exists(pid) end)
    assert.equal("hello", child.client(server.addr):get("/").body)
    assert.is_true(exists(spawned))
    exec.run { "kill", spawned }
    child.eventually(function() return not exists(spawned) end)
    child.eventually(function()
      local f = io.open("/proc/" .. spawned .. "/stat") -- a zombie's, too
      if f then f:close() end
      return not f
    end)
  end)

  it("reads our stdin for stdin = 'inherit', and whatever words input has", function()
    local project = require "spec.support.project"
    finally(project.clean)
    local code, out = project.new({ ["s.lua"] = [[
      local run = require("lunapark.exec").run
      io.write(run({ "cat" }, { stdin = "inherit" }).stdout)
      io.write(run({ "cat" }, { input = "inherit" }).stdout)
    ]] }):run({ "run", "s.lua" }, "given\n")
    assert.same({ 0, "given\ninherit" }, { code, out })
    assert.matches("exec_spec.lua:%d+: run: opts.input and opts.stdin are both set",
      helper.raised(function() exec.run({ "cat" }, { input = "a", stdin = "b" }) end))
  end)

  it("gives a program that others end time to write, and to end in order", function()
    local path = child.file ""
    local script = ("trap 'echo heard; echo term >%s; exit' TERM; echo on >%s; while :; do sleep 0.01; echo on; done")
      :gsub("%%s", path)
    once_begun(function(s) return lp.deadline(s, exec.run, script, { shell = true }) end,
      function() return helper.text_of(path) ~= "" end)
    helper.eventually(function() return helper.text_of(path) == "term\n" end)
  end)
end)

describe("exec.spawn", function()
  it("has the streams as connections", function()
    local p = assert(exec.spawn { "cat" })
    assert.is_true(p.pid > 1)
    p.stdin:write "one\ntwo\n"
    assert.equal("one", p.stdout:read_line())
    assert.equal("two", p.stdout:read_line())
    p.stdout:set_read_deadline(0.01)
    assert.same({ nil, "timeout" }, { p.stdout:read() })
    p.stdout:set_read_deadline(nil)
    p.stdin:write "end"
    assert.is_true(p.stdin:close_write())
    assert.equal("end", p.stdout:read_all())
    assert.equal("", p.stderr:read_all())
    assert.same({ nil, "closed" }, { p.stdin:write "x" })
    assert.same({ code = 0 }, p:wait())
    assert.same({ code = 0 }, p:wait(0))
  end)

  it("moves a lot through pipes in both directions", function()
    local p = assert(exec.spawn { "cat" })
    local text = ("0123456\n"):rep(250000)
    local g = lp.go(function()
      p.stdin:write(text)
      p.stdin:close()
    end)
    local got = p.stdout:read_all()
    assert.is_true(got == text)
    g:join()
    p:wait()
  end)

  it("says broken pipe when nobody reads any more", function()
    local p = assert(exec.spawn { "true" })
    p:wait()
    assert.same({ nil, "broken pipe" }, { p.stdin:write "x" })
  end)

  it("waits, and several may", function()
    local p = assert(exec.spawn({ "sleep", "60" }, { stdin = "null", stdout = "null", stderr = "null" }))
    assert.is_nil(p.stdin or p.stdout or p.stderr)
    assert.same({ nil, "timeout" }, { p:wait(0.01) })
    assert.same({ nil, "timeout" }, { lp.deadline(0.01, p.wait, p) })
    local gs = {}
    for i = 1, 3 do
      gs[i] = lp.go(function() return p:wait().signal end)
    end
    local canceled = lp.go(function() return select(2, p:wait()) end)
    lp.sleep(0.01)
    canceled:cancel()
    assert.equal("canceled", canceled:join(5))
    assert.is_true(p:kill "SIGINT")
    for i = 1, 3 do
      assert.equal("INT", gs[i]:join(5))
    end
    assert.same({ nil, "no such process" }, { p:kill() })
  end)

  it("kills by name, by number, and by TERM", function()
    for sig, name in pairs { KILL = "KILL", SIGHUP = "HUP", [10] = "USR1" } do
      local p = assert(exec.spawn { "sleep", "60" })
      assert.is_true(p:kill(sig))
      assert.same({ signal = name }, p:wait(5))
    end
    local p = assert(exec.spawn { "sleep", "60" })
    p:kill()
    assert.same({ signal = "TERM" }, p:wait(5))
    assert.matches("kill: sig must be a signal's name or number, got NONE", helper.raised(p.kill, p, "NONE"))
    assert.matches("kill: sig must be", helper.raised(p.kill, p, {}))
    assert.matches("wait: s must be a number", helper.raised(p.wait, p, "1"))
  end)

  it("ends it when its time is over", function()
    local p = assert(exec.spawn({ "sleep", "60" }, { timeout = 0.05 }))
    assert.same({ signal = "TERM" }, p:wait(5))
  end)

  it("is not waited for beyond a deadline or a cancellation", function()
    assert.same({ nil, "timeout" }, { lp.deadline(0, exec.spawn, { "true" }) })
    local g = lp.go(exec.spawn, { "true" })
    g:cancel()
    assert.same({ nil, "canceled" }, { g:join(5) })
    helper.eventually(function() return zombies() == 0 end)
  end)

  it("says why it cannot, and what is wrong", function()
    assert.same({ nil, "no such file or directory: nosuchprogram" }, { exec.spawn { "nosuchprogram" } })
    assert.matches("spawn: argv must be a list of strings, got nil", helper.raised(exec.spawn))
    assert.matches("spawn: opts.stdin must be one of pipe null inherit, got text",
      helper.raised(exec.spawn, { "a" }, { stdin = "text" }))
    assert.matches("spawn: opts.stderr must be one of pipe null inherit stdout, got 1",
      helper.raised(exec.spawn, { "a" }, { stderr = 1 }))
  end)

  it("cannot be waited for where nothing can wait", function()
    local message
    local callback = ffi.cast("int (*)(void)", function()
      message = helper.raised(exec.run, { "true" })
      return 0
    end)
    callback()
    callback:free()
    assert.matches("cannot wait here", message)
  end)
end)
