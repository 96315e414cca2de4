-- What a process tells of itself: SIGUSR1, SIGQUIT, and a deadlock list its Gs with their place in Lua.

local core = require "lunapark.core"
local lp = require "lunapark"
local child = require "spec.support.child"

-- Lines are named in the specs.
local APP = [[
local lp = require "lunapark"
local app = require("lunapark.http").app()
app:get("/", function() return "hello" end)
app:get("/sleep", function()
  lp.sleep(30)
end)
app:get("/sort", function()
  table.sort({ 3, 2, 1 }, function(a, b)
    lp.sleep(30)
    return a < b
  end)
end)
app:get("/co", function()
  local f = coroutine.wrap(function()
    lp.sleep(30)
  end)
  f()
end)
app:get("/loop", function()
  local n = 0
  while true do n = n + 1 end
end)
app:get("/match", function()
  return (("a"):rep(4000)):find((".-"):rep(8) .. "b") or "none"
end)
app:get("/crowd/:n", function(req)
  for _ = 1, tonumber(req.params.n) do
    lp.go(function()
      lp.sleep(30)
    end)
  end
  lp.sleep(30)
end)
return app
]]

-- Requests that are answered by nobody.
local function ask(c, ...)
  for _, path in ipairs { ... } do
    lp.go(function()
      local client = child.client(c.addr)
      client.timeout = 60
      client:get(path)
    end)
  end
end

-- Sends the signal until the answer has all of these plain texts, in order; the answer.
local function dump_with(c, signal, texts)
  local said, missing
  local function has_all()
    local at = 1
    for _, text in ipairs(texts) do
      local _, to = said:find(text, at, true)
      if not to then
        missing = text
        return false
      end
      at = to + 1
    end
    return true
  end
  local ok = pcall(child.eventually, function()
    local before = #c:stderr()
    c:kill(signal)
    for _ = 1, 50 do
      lp.sleep(0.02)
      said = c:stderr():sub(before + 1)
      if has_all() then return true end
    end
  end, "the dump")
  assert(ok, ("%q is not in:\n%s"):format(tostring(missing), said))
  return said
end

describe("a dump", function()
  after_each(child.clean)

  local path
  before_each(function() path = child.script(APP) end)
  local function line(n) return ("%s:%d: in function"):format(path, n) end

  it("lists a handler that sleeps, with its traceback", function()
    local c = child.serve { path, "--procs", "2" }
    ask(c, "/sleep")
    dump_with(c, "USR1", {
      "lunapark: 2 Ps", "\n1 G in VMs: waiting, sleep, up to ", "\nVM ", " handler GET /sleep: waiting, sleep, ",
      "in function 'sleep'", line(5),
    })
    assert.equal("hello", child.client(c.addr):get("/").body)
  end)

  it("knows those that wait beneath C and in coroutines of their own", function()
    local c = child.serve { path, "--procs", "1" }
    ask(c, "/sort")
    dump_with(c, "USR1", { "handler GET /sort: waiting, sleep", line(9), "in function 'sort'", line(8) })
    ask(c, "/co")
    dump_with(c, "USR1", {
      "handler GET /co: waiting, sleep", line(15), "in a coroutine of the G, which stands at:", line(17),
    })
  end)

  it("says who holds a VM, and in what", function()
    if child.has_tsan then return end
    local c = child.serve { path, "--procs", "1", "--handler-timeout", "60" }
    ask(c, "/sleep")
    dump_with(c, "USR1", { "handler GET /sleep" })
    ask(c, "/loop")
    dump_with(c, "USR1", {
      "stuck for ", "GET /loop runs without waiting, in compiled code", "handler GET /sleep: waiting, sleep",
    })
    assert.equal("hello", child.client(c.addr):get("/").body)
    ask(c, "/match")
    dump_with(c, "USR1", { "GET /match runs without waiting, in C (" })
  end)

  it("puts 10,000 Gs that do the same in one", function()
    local c = child.serve { path, "--procs", "1" }
    ask(c, "/crowd/10000")
    local said = dump_with(c, "USR1", {
      "\n10001 Gs in VMs: waiting, sleep", "VM 0: 10001 Gs, ", "  10000 Gs: waiting, sleep, ",
      "created at " .. path .. ":28\n", line(29), "handler GET /crowd/10000", line(32),
    })
    assert.is_true(#said < 10000, #said)
  end)

  it("comes with SIGQUIT, which ends the process with 2", function()
    local c = child.serve { path }
    ask(c, "/sleep")
    dump_with(c, "USR1", { "handler GET /sleep" })
    local before = #c:stderr()
    c:kill "QUIT"
    assert.equal(2, c:wait())
    local said = c:stderr():sub(before + 1)
    assert.truthy(said:find("lunapark: SIGQUIT\n", 1, true))
    assert.truthy(said:find(line(5), 1, true), said)
  end)

  it("comes with a deadlock: who waits where, and where they were made", function()
    local script = child.script [[
local lp = require "lunapark"
local a, b
a = lp.go(function()
  b:join()
end)
b = lp.go(function()
  table.sort({ 1, 2, 3 }, function()
    a:join()
  end)
end)
a:join()
]]
    local code, _, err = child.run { "run", script }
    assert.equal(2, code)
    assert.truthy(err:find("all Gs are asleep - deadlock!", 1, true), err)
    for _, text in ipairs {
      "main: waiting, join, ", ":11: in main chunk", "created at " .. script .. ":3\n", ":4: in function",
      "created at " .. script .. ":6\n", ":8: in function",
    } do
      assert.truthy(err:find(text, 1, true), text .. " is not in:\n" .. err)
    end
  end)

  it("is what core.dump returns of its own VM", function()
    local g = lp.go(function() lp.park() end)
    lp.sleep(0)
    local said = core.dump()
    assert.matches("created at [^\n]*dump_spec.lua:%d+\n", said)
    assert.matches("in function 'park'", said)
    assert.matches("running", said)
    lp.ready(g)
    g:join()
  end)
end)
