-- A VM in which a handler was ended by an error: it answers what it has and ends, and another one takes its place.

local testing = require "lunapark.testing"
local child = require "spec.support.child"
local reload = require "spec.support.reload"

-- /spin is ended after 0.2 s of a loop that is not compiled.
local APP = [[
local lp = require "lunapark"
local state = require("lunapark.shared").dict "state"
local app = require("lunapark.http").app()
local VM, ROUND = lp.stats().vm, %d
local lock = lp.mutex()
local function spin() while true do end end
jit.off(spin)

app:get("/vm", function() return { vm = VM, vms = lp.stats().serving_vms, all = lp.stats().all_vms, round = ROUND } end)
app:get("/spin", function() lp.deadline(0.1, spin) end)
app:get("/spin_retired", function() state:incr("begun", 1, 0) lp.retired(60) lp.deadline(0.1, spin) end)
app:get("/spin_locked", function() lock:with(function() lp.deadline(0.1, spin) end) end)
app:get("/spin_careful", function()
  lock:lock()
  pcall(lp.deadline, 0.1, spin)
  lock:unlock()
end)
app:get("/spin_caught", function()
  lock:lock()
  pcall(lp.deadline, 0.1, spin)
  lp.sleep(60)
end)
app:get("/job", function() return lock:with(function() return "worked in " .. VM end) end)
app:get("/until_retired", function() state:incr("begun", 1, 0) return tostring(lp.retired(60)) .. " " .. VM end)
app:get("/wait/:key", function(req)
  state:incr("begun", 1, 0)
  while not state:get(req.params.key) do
    local ok, err = lp.sleep(0.01)
    if not ok then state:incr(err, 1, 0) return err end
  end
  return "waited in " .. VM
end)
app:get("/set/:key", function(req) state:set(req.params.key, true) return tostring(VM) end)
app:get("/noted/:key", function(req) return tostring(state:get(req.params.key)) end)
app:on_retire(function() state:incr("retired " .. VM, 1, 0) end)
lp.singleton("one", function()
  state:set("singleton", VM)
  lp.sleep(math.huge)
end)
return app
]]

testing.block_timeout(300)

-- On a busy machine 20 ms, as usual, pass in any handler, whose VM then is a stuck one.
local STEADY = { LUNAPARK_DEBUG = "retake=250" }

describe("a VM in which a handler was ended by an error", function()
  local server, client

  local function serve(...)
    server = child.serve { env = STEADY, child.script(APP:format(1)), "--kill-after", "0.1", ... }
    client = child.client(server.addr)
  end

  local function send(path)
    return child.send(server.addr, "GET " .. path .. " HTTP/1.1\r\nHost: x\r\n\r\n")
  end

  local function get(path) return client:get(path).body end

  -- Sends one of those that wait: it has begun.
  local function begin(path)
    local n = tonumber(get "/noted/begun") or 0
    local conn = send(path)
    child.eventually(function() return get "/noted/begun" == tostring(n + 1) end, path)
    return conn
  end

  local function body(conn)
    local text = child.reply(conn).body
    conn:close()
    return text
  end

  -- Ends a handler in the VM that answers now: its number.
  local function spin(path)
    local vm = client:get("/vm"):json().vm
    send(path or "/spin"):close()
    server:logged(("was ended by an error[^\n]*: VM %d is "):format(vm))
    return vm
  end

  local function until_vms(n)
    child.eventually(function()
      local t = client:get("/vm"):json()
      return t.all == n and t.vms == n
    end, n .. " VMs")
  end

  after_each(child.clean)

  for _, how in ipairs { "spin_locked", "spin_careful", "spin_caught" } do
    it("keeps no lock from later requests: " .. how, function()
      serve("--procs", "1", "--handler-timeout", "5")
      assert.equal("worked in 0", get "/job")
      local vm = spin("/" .. how)
      for _ = 1, 3 do
        local text = get "/job"
        assert.matches("^worked in %d+$", text)
        assert.not_equal("worked in " .. vm, text)
      end
    end)
  end

  it("answers the requests that it has, and hears that it retires", function()
    serve("--procs", "1")
    until_vms(2)
    local a, b = begin "/until_retired", begin "/wait/go"
    local vm = spin()
    assert.equal("true " .. vm, body(a))
    child.eventually(function() return get("/noted/retired%20" .. vm) == "1" end, "on_retire")
    assert.not_equal(tostring(vm), get "/set/go")
    assert.equal("waited in " .. vm, body(b))
    until_vms(2)
  end)

  it("gives its singletons to another", function()
    serve("--procs", "1")
    child.eventually(function() return get "/noted/singleton" == "0" end, "the singleton")
    local held = begin "/wait/for_ever"
    assert.equal(0, spin())
    child.eventually(function() return get "/noted/singleton" ~= "0" end, "another one")
    held:close()
  end)

  it("is not retired a second time by a reload", function()
    local s = reload.serve({ ["app.lua"] = APP:format(1) }, "--procs", "1", "--kill-after", "0.1",
      STEADY)
    server, client = s.server, s.client
    local a = begin "/wait/go"
    local vm = spin()
    for round = 2, 3 do s:reload_to(round, { ["app.lua"] = APP:format(round) }) end
    assert.equal("1", get("/noted/retired%20" .. vm))
    assert.equal(3, client:get("/vm"):json().round)
    assert.not_equal(tostring(vm), get "/set/go")
    assert.equal("waited in " .. vm, body(a))
    until_vms(2)
    reload.clean()
  end)

  it("that a reload retires already serves no more anyway", function()
    local s = reload.serve({ ["app.lua"] = APP:format(1) }, "--procs", "1", "--kill-after", "0.1",
      STEADY)
    server, client = s.server, s.client
    local a = begin "/wait/go"
    local conn = begin "/spin_retired"
    s:reload_to(2, { ["app.lua"] = APP:format(2) })
    server:logged "GET /spin_retired was ended by an error: VM 0 is free again"
    conn:close()
    assert.not_equal("0", get "/set/go")
    assert.equal("waited in 0", body(a))
    until_vms(2)
    assert.equal("1", get "/noted/retired%200")
    reload.clean()
  end)

  it("cancels what it runs, when too many end already", function()
    serve("--procs", "1", "--max-vms", "2")
    until_vms(2)
    local conns = {}
    for i = 1, 6 do
      conns[i] = begin(i % 2 == 0 and "/wait/go" or "/until_retired")
      if i % 2 == 0 then spin() end
      assert.is_true(client:get("/vm"):json().all <= 5)
    end
    for i = 1, 5, 2 do assert.matches("^true ", body(conns[i])) end
    assert.equal("canceled", body(conns[6]))
    get "/set/go"
    for i = 2, 4, 2 do assert.matches("^waited in ", body(conns[i])) end
    server:said "ends what it runs: too many that were replaced do so still"
    until_vms(2)
  end)
end)
