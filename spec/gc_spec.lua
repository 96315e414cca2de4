-- Garbage goes when a VM is idle, and an idle server is at rest afterwards.

local lp = require "lunapark"
local child = require "spec.support.child"

local APP = [[
local lp = require "lunapark"
local ffi = require "ffi"
local app = require("lunapark.http").app()
app:get("/kb", function() return tostring(math.floor(collectgarbage "count")) end)
app:get("/burst", function()
  -- No cycle of LuaJIT's own: all of it is left for later.
  collectgarbage "stop"
  local t
  for i = 1, 100000 do t = { i, t = tostring(i) } end
  collectgarbage "restart"
  collectgarbage("setpause", 1000)
  return "ok"
end)
app:get("/little", function()
  local p = newproxy(true)
  getmetatable(p).__gc = function() io.stderr:write "finalized\n" io.stderr:flush() end
  return "ok"
end)
app:get("/endless", function()
  local p = newproxy(true)
  getmetatable(p).__gc = function() while true do end end
  return "ok"
end)
app:get("/stop", function()
  collectgarbage "stop"
  local t
  for i = 1, 100000 do t = { i } end
  return "ok"
end)
return app
]]

-- Wake-ups of all threads until now.
local function switches(pid)
  local n = 0
  local p = io.popen("cat /proc/" .. pid .. "/task/*/status")
  for line in p:lines() do
    n = n + (tonumber(line:match "^voluntary_ctxt_switches:%s*(%d+)") or 0)
  end
  p:close()
  return n
end

require("lunapark.testing").block_timeout(300)

describe("the garbage of a VM", function()
  after_each(child.clean)

  local function serve(debug)
    local c = child.serve { child.script(APP), "--procs", "1", env = { LUNAPARK_DEBUG = debug } }
    return c, child.client(c.addr)
  end

  -- The heap after the next collection of more than 5 MB that the trace tells of: what the load of the app has left
  -- may have one of its own.
  local function after_collection(c, from)
    return child.eventually(function()
      for before, after in c:stderr():sub(from):gmatch "GC VM 0: idle, (%d+) %-> (%d+) kB, [%d.]+ ms in %d+ steps\n" do
        if tonumber(before) > 5000 then return tonumber(after) end
      end
    end, "a collection")
  end

  it("goes without any further request, and the process is at rest then", function()
    local c, client = serve "gctrace=1"
    local from = #c:stderr() + 1
    assert.equal("ok", client:get("/burst").body)
    local after = after_collection(c, from)
    assert.is_true(after < 1000, after)
    if child.has_tsan then return end
    -- Sysmon sleeps deeply after five seconds; nobody else stirs.
    local pid, last, rounds = c.pid, nil, 0
    client:close()
    child.eventually(function()
      lp.sleep(0.5)
      local now = switches(pid)
      rounds = now == last and rounds + 1 or 0
      last = now
      return rounds == 3
    end, "rest")
  end)

  it("goes from a VM that made only a little, when it is due", function()
    local c, client = serve "gctrace=1,gcforce=300"
    assert.equal("ok", client:get("/little").body)
    child.eventually(function() return c:stderr():find("finalized\n", 1, true) end, "the finalizer")
    local said
    child.eventually(function() -- and then there is nothing to do
      local now = c:stderr()
      if now == said then return true end
      said = now
      lp.sleep(0.7)
    end, "rest")
  end)

  it("goes also if it was made while other garbage was being collected", function()
    local c, client = serve "gctrace=1,gcforce=50"
    for i = 1, 30 do
      assert.equal("ok", client:get("/burst").body)
      lp.sleep(0.008 + 0.0005 * i) -- the collection begins 10 ms after the last Lua, and takes some
      assert.equal("ok", client:get("/little").body)
      c:said("finalized\n", i)
    end
  end)

  it("stays if the script has stopped the collector", function()
    local c, client = serve "gctrace=1,gcforce=100"
    assert.equal("ok", client:get("/stop").body)
    local before = #c:stderr()
    lp.sleep(0.5)
    assert.is_nil(c:stderr():find("VM 0: idle", before, true))
    assert.is_true(tonumber(client:get("/kb").body) > 2000)
  end)

  -- A cycle of LuaJIT's own has a line in the trace.
  it("is not looked for while a VM loads, unless there is much", function()
    local c = serve "gctrace=1"
    child.eventually(function() return c:stderr():find("serves\n", 1, true) end, "the app")
    assert.is_nil(c:stderr():find("in Lua", 1, true))
    local greedy = APP:gsub("return app", "for i = 1, 1e5 do last = { tostring(i) } end\n%0")
    c = child.serve { child.script(greedy), "--procs", "1", env = { LUNAPARK_DEBUG = "gctrace=1" } }
    child.eventually(function() return c:stderr():find("GC VM 0: in Lua", 1, true) end, "a cycle")
  end)

  it("may have finalizers that never end, which hold up nobody", function()
    local c = child.serve {
      child.script(APP), "--procs", "1", "--handler-timeout", "0.5", "--kill-after", "0.5",
      env = { LUNAPARK_DEBUG = "gcforce=100" },
    }
    local client = child.client(c.addr)
    assert.equal("ok", client:get("/endless").body)
    child.eventually(function() return c:stderr():find("a finalizer has held VM 0", 1, true) end, "the warning")
    assert.equal(200, client:get("/kb").status)
    assert.is_nil(c:poll())
  end)
end)
