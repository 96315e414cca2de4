--- What a VM has ends with it, however it ends: descriptors, programs, socket files, servers, its place among
--- singletons, its waits in shared channels, calls on other threads, memory of C libraries. Nothing is left, round
--- after round.

local lp = require "lunapark"
local fs = require "lunapark.fs"
local net = require "lunapark.net"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local reload = require "spec.support.reload"

testing.block_timeout(300)

-- Each VM of the app has one of everything that ends with a VM, most of it in use by a G that waits. $PLACE is a folder
-- for its socket files.
local APP = [[
local ffi = require "ffi"
local cjson = require "cjson"
local lp = require "lunapark"
local dns = require "lunapark.dns"
local exec = require "lunapark.exec"
local fs = require "lunapark.fs"
local http = require "lunapark.http"
local net = require "lunapark.net"
local shared = require "lunapark.shared"
local testing = require "lunapark.testing"
ffi.cdef "int usleep(unsigned us);"
local app = http.app()
local N, place = %d, os.getenv "PLACE"
local state = shared.dict "state"
local kept = {}
local function keep(...)
  kept[#kept + 1] = assert(...)
  return kept[#kept]
end

lp.singleton("one", function()
  repeat state:incr("ticks", 1, 0) until not lp.sleep(0.005)
end)

app:on_start(function()
  local ln = keep(net.listen "127.0.0.1:0")
  local near = keep(net.dial(ln:addr()))
  keep(ln:accept())
  lp.go(function() ln:accept() end)
  lp.go(function() near:read() end)
  keep(net.listen("unix:" .. place .. "/" .. lp.stats().vm))
  keep(fs.open "/dev/zero")
  keep(io.open "/dev/null")
  keep(io.popen("cat >/dev/null", "w"))
  lp.go(function() exec.run { "sleep", "1000" } end)
  lp.go(function() shared.chan("empty", 1):recv() end)
  local none = net.listen "127.0.0.1:0" -- answers nothing
  lp.go(function() dns.resolver({ servers = { none:addr() }, timeout = 0.1, tries = 1 }):lookup "a.example" end)
  keep(none)
  lp.go(function() lp.offload(ffi.C.usleep, 200000) end)
  keep(lp.signal.notify "WINCH")
  kept.text = #cjson.encode { ("x"):rep(500000) }
  local server = testing.serve(function() return "an own server" end)
  kept.server = server
  state:set("server " .. lp.stats().vm, server.addr)
end)

app:get("/", function() return N .. " " .. lp.stats().vm end)
app:get("/stats", function()
  collectgarbage()
  local t = lp.stats()
  return { fds = t.fds, all_vms = t.all_vms, vms = t.serving_vms, spare = t.spare_vms }
end)
app:get("/ticks", function() return tostring(state:get "ticks") end)
app:get("/server/:vm", function(req) return state:get("server " .. req.params.vm) or "none" end)
app:get("/loop", function() while true do end end)
-- A G that goes on when it is canceled.
app:get("/stay", function()
  lp.detach(function()
    while true do
      if not lp.sleep(0.01) then lp.scope(function(scope) scope:go(lp.now) end) end
    end
  end)
  return "stays"
end)
return app
]]

describe("what a VM has ends with it", function()
  local s, place

  local function app(n) return { ["app.lua"] = APP:format(n) } end

  before_each(function()
    place = os.tmpname()
    os.remove(place)
    assert(os.execute("mkdir " .. place) == 0)
  end)

  after_each(function()
    reload.clean()
    os.execute("rm -rf " .. place)
  end)

  -- How many programs run that the process has started.
  local function programs()
    local n, tasks = 0, ("/proc/%d/task/"):format(s.server.pid)
    for _, thread in ipairs(fs.list(tasks)) do
      for _ in (fs.read(tasks .. thread .. "/children") or ""):gmatch "%d+" do n = n + 1 end
    end
    return n
  end

  local function resident() return tonumber(fs.read("/proc/" .. s.server.pid .. "/status"):match "VmRSS:%s+(%d+)") end
  local function open_fds() return #fs.list("/proc/" .. s.server.pid .. "/fd") end

  local function look()
    local t = s.client:get("/stats"):json()
    t.files, t.programs, t.sockets = open_fds(), programs(), #fs.list(place)
    return t
  end

  local function serve()
    s = reload.serve(app(1), "--procs", "1", "--handler-timeout", "0.4", "--kill-after", "0.2",
      "--drain-timeout", "0.5", { PLACE = place })
    local t
    local alike = 0 -- looks, one after the other
    child.eventually(function()
      local last = t
      t = look()
      local whole = t.vms == 2 and t.spare == 1 and t.programs == 4 and t.sockets == 2
      alike = whole and last and last.fds == t.fds and last.files == t.files and alike + 1 or 0
      lp.sleep(0.3) -- what its Gs have begun is there, and is so still, even if a thread that begins it has no CPU
      return alike >= 4
    end, "a spare")
    return t
  end

  -- As many VMs as before, with no more than they had. They may have had a lookup under way.
  local function until_as(before)
    local now
    local ok = pcall(child.eventually, function()
      now = look()
      for key, n in pairs(before) do
        if now[key] > n or now[key] < n and key ~= "fds" and key ~= "files" then return false end
      end
      return true
    end)
    if ok then return end
    local list = {}
    for key, n in pairs(before) do list[#list + 1] = ("%s: %s, not %s"):format(key, now[key], n) end
    error(table.concat(list, "; "), 2)
  end

  local function until_ticks()
    local ticks = s.client:get("/ticks").body
    child.eventually(function() return s.client:get("/ticks").body ~= ticks end, "the singleton")
  end

  local function check(end_vms)
    local half = child.has_asan and 2 or 6
    local before, n = serve(), 1
    local function some_rounds(count)
      for _ = 1, count do
        n = n + 1
        local vm = s.client:get("/").body:match "%d+$"
        local server = s.client:get("/server/" .. vm).body
        assert.equal("an own server", child.client(server):get("/").body)
        end_vms(n)
        until_as(before)
        until_ticks()
        assert.equal("connection refused", select(2, net.dial(server)))
      end
    end
    some_rounds(half)
    if child.has_asan or child.has_tsan then return some_rounds(half) end
    -- malloc takes some MB more before it is at rest, on a busy machine later than on others. Half a VM in each round
    -- would be 3 MB each time.
    local grown = {}
    repeat
      local was = resident()
      some_rounds(half)
      grown[#grown + 1] = resident() - was
      assert(#grown <= 4, "KiB by which its memory grows: " .. table.concat(grown, ", "))
    until grown[#grown] < 3000
  end

  it("in order", function()
    check(function(n) s:reload_to(n, app(n)) end)
  end)

  it("when its Gs go on after they were canceled", function()
    check(function(n)
      assert.equal("stays", s.client:get("/stay").body)
      s:reload_to(n, app(n))
      s:until_log "of its Gs go on after they were canceled: it is thrown away"
    end)
  end)

  it("when compiled code of it is ended", function()
    if child.has_tsan then return pending "no signal reaches the loop" end
    check(function()
      local conn = s:send "/loop"
      local n = select(2, s:log():gsub("VM %d+ is dropped", ""))
      child.eventually(function() return select(2, s:log():gsub("VM %d+ is dropped", "")) > n end, "its end")
      conn:close()
    end)
  end)
end)
