-- lp.singleton: one G in all VMs of a server, whatever becomes of them.

local lp = require "lunapark"
local child = require "spec.support.child"

-- Counts in shared dicts: which VM runs it, how many at a time at most, how often it was begun.
local APP = [[
local lp = require "lunapark"
local state = require("lunapark.shared").dict "state"
local app = require("lunapark.http").app()
local GENERATION = %q
state:add("now", 0)
lp.singleton("one", function()
  local now = state:incr("now", 1, 0)
  if now > 1 then state:set("too many", now) end
  state:incr("begun", 1, 0)
  state:set("vm", lp.stats().vm)
  state:set("generation", GENERATION)
  local fail = state:get "fail"
  while true do
    local ok, err = lp.sleep(0.005)
    if not ok then state:set("ended by", err) break end
    state:incr("ticks", 1, 0)
    if state:get "fail" ~= fail then state:incr("now", -1) error "as told" end
    if state:get "return" then break end
  end
  state:incr("now", -1)
end)
app:get("/state", function()
  local t = {}
  for _, key in ipairs { "now", "begun", "vm", "generation", "ticks", "too many", "ended by" } do
    t[key] = state:get(key)
  end
  return t
end)
app:post("/set/:key", function(req) state:set(req.params.key, req:body()) return 204 end)
app:get("/stick", function() if lp.stats().vm == state:get "vm" then while true do end end return "not here" end)
return app
]]

local function serve(...)
  local path = child.script(APP:format "first")
  local c = child.serve { path, "--procs", "2", ... }
  local client = child.client(c.addr)
  local function state() return client:get("/state"):json() end
  child.eventually(function() return (state().ticks or 0) > 2 end, "the singleton")
  return c, path, client, state
end

local function overwrite(path, text)
  local f = assert(io.open(path, "w"))
  f:write(text)
  f:close()
end

describe("lp.singleton", function()
  after_each(child.clean)

  it("runs in one VM of several", function()
    local _, _, _, state = serve()
    local s = state()
    assert.equal(1, s.begun)
    assert.equal(1, s.now)
    assert.is_nil(s["too many"])
  end)

  it("moves to the new generation, when it has ended in the old one", function()
    local c, path, _, state = serve()
    for _, generation in ipairs { "second", "third" } do
      overwrite(path, APP:format(generation))
      c:kill "HUP"
      child.eventually(function() return state().generation == generation end, "the " .. generation .. " generation")
    end
    local s = state()
    assert.equal(3, s.begun)
    assert.equal("canceled", s["ended by"])
    assert.equal(1, s.now)
    assert.is_nil(s["too many"])
  end)

  it("runs again after an error, which is logged", function()
    local c, _, client, state = serve()
    client:post("/set/fail", { body = "now" })
    child.eventually(function() return state().begun == 2 end, "the second run")
    child.eventually(function()
      return c:stderr():find "error singleton one: .-: as told\n%s*stack traceback"
    end, "a line")
    assert.equal(1, state().now)
  end)

  it("is done when it returns, until the next reload", function()
    local c, path, client, state = serve()
    client:post("/set/return", { body = "yes" })
    child.eventually(function() return state().now == 0 end, "the return")
    lp.sleep(0.1)
    assert.equal(1, state().begun)
    overwrite(path, APP:format "second")
    c:kill "HUP"
    child.eventually(function() return state().begun == 2 end, "the second generation's")
  end)

  it("moves to another VM when its own is stuck", function()
    if child.has_tsan then return pending "no signal reaches the loop" end
    local c, _, client, state = serve("--handler-timeout", "1", "--kill-after", "1")
    local first = state().vm
    -- Which VM a connection's requests meet depends on which P has it.
    local sticks = lp.go(function()
      while state().vm == first do
        for _ = 1, 8 do lp.go(function() child.client(c.addr):get "/stick" end) end
        lp.sleep(0.2)
      end
    end)
    child.eventually(function() return state().vm ~= first end, "another VM's turn")
    child.eventually(function()
      return c:stderr():find "singleton one: VM %d+ is stuck, another one runs it"
    end, "a line")
    sticks:join()
    child.eventually(function() return c:stderr():find "is dropped" end, "the end of the stuck one")
    local ticks = state().ticks
    child.eventually(function() return state().ticks > ticks + 2 end, "further ticks")
    assert.is_true(client:get("/state"):json().begun >= 2)
  end)

  it("runs in a script too, and ends by cancel", function()
    local seen
    local g = lp.singleton("of this spec", function()
      seen = select(2, lp.sleep(100))
    end)
    lp.sleep(0.01)
    g:cancel()
    g:join()
    assert.equal("canceled", seen)
    local ran = false
    assert(lp.singleton("of this spec", function() ran = true end):join(5) == nil)
    assert.is_true(ran)
  end)

  it("refuses what it can't use", function()
    assert.error_matches(function() lp.singleton(5, print) end, "name must be a string that is not empty, got number")
    assert.error_matches(function() lp.singleton("", print) end, "name must be a string that is not empty, got ''")
    assert.error_matches(function() lp.singleton "x" end, "fn must be a function, got nil")
    local g = lp.singleton("twice", function() lp.sleep(100) end)
    assert.error_matches(function() lp.singleton("twice", print) end, "this VM has one named \"twice\" already")
    g:cancel()
    g:join()
  end)

  it("runs again after an error where there is one VM", function()
    local server = child.serve { child.script [[
      local state = require("lunapark.shared").dict "s"
      require("lunapark").singleton("one", function()
        if state:incr("n", 1, 0) == 1 then error "first" end
      end)
      return function() return tostring(state:get "n") end
    ]], "--procs", "1", "--max-vms", "1" }
    child.eventually(function() return child.client(server.addr):get("/").body == "2" end, "the second run")
  end)
end)
