--- Finalizers when a VM ends, and those that the collector calls while no G's Lua runs: what they may use, and that
--- nothing they do ends the server.

local lp = require "lunapark"
local fs = require "lunapark.fs"
local net = require "lunapark.net"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local reload = require "spec.support.reload"

testing.block_timeout(90)

-- How many programs run that the process has started, and its memory, in kB.
local function children(pid)
  local n, tasks = 0, ("/proc/%d/task/"):format(pid)
  for _, thread in ipairs(fs.list(tasks)) do
    for _ in (fs.read(tasks .. thread .. "/children") or ""):gmatch "%d+" do n = n + 1 end
  end
  return n
end

local function resident(pid)
  return tonumber(fs.read("/proc/" .. pid .. "/status"):match "VmRSS:%s+(%d+)")
end

-- The app of generation n. note(...) writes a line to $NOTES. at_end(fn) makes an object of each kind that has
-- finalizers, which the VM's end finalizes: what fn returns is noted.
local APP = [[
local ffi = require "ffi"
local lp = require "lunapark"
local http = require "lunapark.http"
local app = http.app()
local N = %d
local open, getenv = io.open, os.getenv
local function note(...)
  local f = assert(open(getenv "NOTES", "a"))
  for i = 1, select("#", ...) do f:write(tostring((select(i, ...))), " ") end
  f:write(N, "\n")
  f:close()
end
kept = {}
local function userdata(fn)
  local u = newproxy(true)
  getmetatable(u).__gc = fn
  return u
end
local function at_end(fn)
  kept[#kept + 1] = userdata(function() note("userdata", fn()) end)
  kept[#kept + 1] = ffi.gc(ffi.new "int[1]", function() note("cdata", fn()) end)
end
app:get("/", function() return tostring(N) end)
app:get("/stats", function()
  collectgarbage()
  local t = lp.stats()
  return { fds = t.fds, all_vms = t.all_vms, vms = t.serving_vms, spare = t.spare_vms }
end)
%s
return app
]]

describe("finalizers", function()
  local s, notes, peer

  local function app(n, code)
    return { ["app.lua"] = APP:format(n, code or "") }
  end

  local function serve(code, ...)
    notes = child.file ""
    peer = assert(net.listen "127.0.0.1:0")
    local args = { "--procs", "1", ... }
    local env = type(args[#args]) == "table" and table.remove(args) or {}
    env.NOTES, env.PEER = notes, peer:addr()
    args[#args + 1] = env
    s = reload.serve(app(1, code), unpack(args))
    child.eventually(function()
      local t = s.client:get("/stats"):json()
      return t.vms == 2 and t.spare == 1
    end, "a spare")
  end

  -- What the finalizers of two VMs have noted, each line once, sorted.
  local function until_noted(n)
    local found, list = {}, {}
    child.eventually(function()
      found = {}
      for line in io.lines(notes) do found[#found + 1] = line end
      return #found >= n
    end, n .. " notes")
    table.sort(found)
    for i, line in ipairs(found) do
      if line ~= found[i - 1] then list[#list + 1] = line end
    end
    return list
  end

  after_each(function()
    if s and not s.server:poll() then assert.equal(200, s.client:get("/").status) end
    local ended = s and s.server:poll()
    s = nil
    if peer then peer:close() end
    reload.clean()
    assert.is_falsy(ended)
  end)

  -- What they do with what C holds for Lua, and what is noted: cdata's finalizers come first.
  local handles = {
    ["a connection"] = { [[
      local c = assert(require("lunapark.net").dial(getenv "PEER"))
      at_end(function()
        local ok, err = c:write "bye\n"
        return ok, err, c:close()
      end)]], { "cdata true nil true 1", "userdata nil closed true 1" } },
    ["a listener"] = { [[
      local ln = assert(require("lunapark.net").listen "127.0.0.1:0")
      at_end(function() return (ln:addr() or "none"):match "^%w+", ln:close() end)]],
      { "cdata 127 true 1", "userdata none true 1" } },
    ["a process"] = { [[
      local p = assert(require("lunapark.exec").spawn { "sleep", "1000" })
      at_end(function() return p:kill(0) end)]], { "cdata true 1", "userdata true 1" } },
    ["a shared channel"] = { [[
      local ch = require("lunapark.shared").chan("c", 100)
      at_end(function() return ch:send("bye", 0), ch:len() > 0 end)]],
      { "cdata true true 1", "userdata true true 1" } },
    ["a timer"] = { [[
      local t = lp.every(1, function() end)
      at_end(function() t:stop() return "stopped" end)]], { "cdata stopped 1", "userdata stopped 1" } },
    ["signals"] = { [[
      local got = lp.signal.notify "WINCH"
      at_end(function() return got:stop() end)]], { "cdata true 1", "userdata nil closed 1" } },
    ["a resolver"] = { [[
      local r = require("lunapark.dns").resolver { servers = { "127.0.0.1:9" } }
      at_end(function() return select(2, pcall(r.lookup, r, "a.example")):match "cannot.*" end)]],
      { "cdata cannot wait here: in a finalizer 1", "userdata cannot wait here: in a finalizer 1" } },
    ["a file"] = { [[
      local f = assert(require("lunapark.fs").open(getenv "NOTES"))
      at_end(function() return select(2, pcall(f.read, f, 1)):match "cannot.*" end)]],
      { "cdata cannot wait here: in a finalizer 1", "userdata cannot wait here: in a finalizer 1" } },
  }
  for what, case in pairs(handles) do
    it("may use " .. what .. " at the end of their VM", function()
      serve("app:on_start(function()\n" .. case[1] .. "\nend)")
      for n = 2, 4 do
        s:reload_to(n, app(n))
      end
      assert.same(case[2], until_noted(4))
      if what ~= "a connection" then return end
      for _ = 1, 2 do
        local conn = assert(peer:accept())
        conn:set_deadline(20)
        assert.equal("bye", conn:read_line())
        assert.equal("eof", (select(2, conn:read_line())))
        conn:close()
      end
    end)
  end

  it("can start no G at the end of their VM, but may use scopes, deadlines and handles of Gs", function()
    serve [[
      at_end(function()
        local ok, err = pcall(lp.go, print)
        local held = lp.scope(function(scope) return scope and lp.deadline(1, lp.now) > 0 end)
        return ok, err:match "no G.*", held, (tostring(lp.self()):gsub("%d+", "0"))
      end)
      kept[#kept + 1] = userdata(function() lp.go(print) end)]]
    s:reload_to(2, app(2))
    local said = "false no G can begin: its VM ends true G 0.0 (a request) 1"
    assert.same({ "cdata " .. said, "userdata " .. said }, until_noted(4))
    s:until_log "error a finalizer raised: .*no G can begin: its VM ends\n"
    s:reload_to(3, app(3))
  end)

  it("that never end are ended at the end of their VM, and the log says where they are", function()
    if child.has_tsan then return pending "no signal reaches the loop" end
    serve("kept[1] = userdata(function() while true do end end)", "--handler-timeout", "0.2", "--kill-after", "0.1",
      "--drain-timeout", "0.2")
    local before = s.client:get("/stats"):json()
    s:reload_to(2, app(2))
    local line = 1 + select(2, APP:match("^(.-)%%s"):gsub("\n", ""))
    for vm = 0, 1 do
      s:until_log(("error a finalizer was ended in .*, in the finalizer at [^\n]*app.lua:%d: VM %d is dropped\n")
        :format(line, vm))
    end
    s:until_vms(2, before.fds)
  end)

  it("that never end are ended where no G's Lua runs: as a coroutine is made for the next request", function()
    if child.has_tsan then return pending "no signal reaches the loop" end
    -- The coroutine that the next request does not get, since Lua has seen it, holds the object; then each allocation
    -- is a whole collection, and the first is that of another coroutine.
    serve([[
      app:get("/arm", function()
        coroutine.running()
        setfenv(0, setmetatable({
          last = userdata(function()
            note(tostring(lp.self()):match "^G 0%.")
            while true do end
          end),
        }, { __index = _G }))
        collectgarbage("setpause", 1)
        collectgarbage("setstepmul", 1000000)
        collectgarbage()
        return "armed"
      end)]], "--handler-timeout", "0.3", "--kill-after", "0.2")
    assert.equal("armed", s.client:get("/arm").body)
    assert.equal(504, s.client:get("/").status)
    child.eventually(function() return s.client:get("/").status == 200 end, "an answer") -- or 504, if busy
    assert.same({ "G 0. 1" }, until_noted(1))
    s:until_log "error a finalizer was ended in .*, in the finalizer at [^\n]*app.lua:%d+: VM 0 is dropped\n"
    s:until_vms(2, s.client:get("/stats"):json().fds)
  end)

  it("that run when no G's Lua does belong to no request: Gs that they start have no deadline and are not canceled",
    function()
      serve([[
        app:get("/garbage", function()
          userdata(function()
            lp.go(function()
              local ok, err = lp.sleep(0.7)
              note(ok, err, require("ffi").C.host_deadline())
            end)
          end)
          return "made"
        end)]], "--handler-timeout", "0.3", { LUNAPARK_DEBUG = "gcforce=100" })
      assert.equal("made", s.client:get("/garbage").body)
      assert.same({ "true nil 0 1" }, until_noted(1))
    end)

  it("and what they may use leave nothing behind, reload after reload", function()
    local code = {}
    for _, case in pairs(handles) do
      code[#code + 1] = "do\n" .. case[1] .. "\nend\n"
    end
    local all = "local note = function() end\napp:on_start(function()\n" .. table.concat(code) .. "\nend)"
    serve(all)
    local taken = lp.go(function()
      while true do
        local conn = peer:accept()
        if not conn then return end
        conn:close()
      end
    end)
    local pid, before = s.server.pid, nil
    local function count()
      return s.client:get("/stats"):json().fds, #fs.list("/proc/" .. pid .. "/fd"), children(pid)
    end
    local n, fds, all_fds, programs = 1, count()
    assert.equal(2, programs)
    for _ = 1, 2 do
      for _ = 1, child.has_asan and 20 or 100 do
        n = n + 1
        s:reload_to(n, app(n, all))
      end
      child.eventually(function()
        local f, a, p = count()
        return f <= fds and a <= all_fds and p <= programs
      end, "as little as before")
      if not before then before = resident(pid) end
    end
    child.eventually(function() return child.has_asan or child.has_tsan or resident(pid) < before * 1.1 end, "memory")
    peer:close()
    taken:join()
  end)

  it("do not move the stack of the coroutine that they run on, however full it is", function()
    local code, out, err = child.run { "run", child.script [[
      jit.off()
      local ended = 0
      local function make()
        getmetatable(newproxy(true)).__gc = function(o)
          local a, b, c = o, 1, 2
          ended = ended + 1
          return a, b, c
        end
      end
      -- The collector runs in it at each table, and nothing that it calls has made room for more.
      local function allocates(...)
        local x, y, z = ...
        for _ = 1, 50 do x = { 1, 2 } end
        return x, y, z
      end
      local list = {}
      for i = 1, 200 do list[i] = i end
      collectgarbage("setpause", 1)
      collectgarbage("setstepmul", 1000000)
      for n = 0, 200 do
        local co = coroutine.create(allocates)
        for _ = 1, 5 do make() end
        assert(coroutine.resume(co, unpack(list, 1, n)))
      end
      print(ended)
    ]] }
    assert.same({ 0, "1005\n", "" }, { code, out, err })
  end)
end)
