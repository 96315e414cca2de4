-- Does ending runaways leave anything behind? Many of them in one server under light load, one after the other.
--
--   build/lunapark run host/bench/runaways.lua [rounds=100]
--
-- Prints the server's figures after a warm-up of 10 rounds and at the end, when they should be the same again.

local lp = require "lunapark"
local testing = require "lunapark.testing"
local child = require "spec.support.child"

local APP = [[
local ffi = require "ffi"
local lp = require "lunapark"
require "lunapark.cdef"
local app = require("lunapark.http").app()
local function interpreted()
  local t = {}
  while true do pcall(function() t[1] = (t[1] or 0) + 1 end) end
end
jit.off(interpreted, true)
app:get("/interpreted", interpreted)
app:get("/loop", function() while true do end end)
app:get("/calls", function()
  local t, x = {}, 0
  for i = 1, 100000 do t[i] = { i } end
  while true do x = x + math.sin(x) end
end)
app:get("/", function() return "hello" end)
app:get("/figures", function()
  local s, gs = lp.stats(), 0
  for state, n in pairs(s.gs) do if state ~= "dead" then gs = gs + n end end
  return {
    gs = gs, dead_gs = s.gs.dead, polled = s.fds, stacks_kb = s.memory.stacks / 1024, vms = ffi.C.host_vms(0),
    stuck = ffi.C.host_vms(1), spare = ffi.C.host_vms(2),
  }
end)
return app
]]

local rounds = tonumber((...)) or 100
local kinds = { "loop", "calls", "interpreted" }
local server = child.serve {
  child.script(APP), "--procs", "2", "--handler-timeout", "0.4", "--kill-after", "0.1",
}
local client = child.client(server.addr)

local load_on, answered, failed = true, 0, 0
for _ = 1, 4 do
  lp.go(function()
    local c = child.client(server.addr)
    while true do
      if load_on then
        local r, err = c:get "/"
        if r and r.status == 200 and r.body == "hello" then
          answered = answered + 1
        else
          failed = failed + 1
          print("a request failed: " .. tostring(r and r.status or err))
        end
      end
      lp.sleep(0.02)
    end
  end)
end

local function figures()
  load_on = false
  local f
  child.eventually(function()
    f = client:get("/figures"):json()
    return f.stuck == 0 and f.spare > 0
  end, "the end of the runaways")
  lp.sleep(2.5) -- the scavenger's turn
  f = client:get("/figures"):json()
  for line in io.lines("/proc/" .. server.pid .. "/status") do
    local name, value = line:match "^(%w+):%s+(%d+)"
    if name == "VmRSS" then f.rss_kb = tonumber(value) end
    if name == "VmSize" then f.size_kb = tonumber(value) end
    if name == "Threads" then f.threads = tonumber(value) end
  end
  local p = assert(io.popen("ls /proc/" .. server.pid .. "/fd | wc -l"))
  f.descriptors = p:read "*n"
  p:close()
  load_on = true
  return f
end

local function show(what, f)
  local names, parts = {}, {}
  for name in pairs(f) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do parts[#parts + 1] = ("%s=%d"):format(name, f[name]) end
  print(("%-12s %s"):format(what, table.concat(parts, " ")))
end

local function round()
  for _, kind in ipairs(kinds) do
    local conn = assert(client:connect())
    assert(conn:write("GET /" .. kind .. " HTTP/1.1\r\nHost: x\r\n\r\n"))
    local r = assert(testing.read_reply(conn))
    if r.status < 500 then -- 504; on a busy machine its end may be there first
      failed = failed + 1
      print(kind .. ": " .. r.status)
    end
    conn:close()
  end
end

for _ = 1, 10 do round() end
show("after 10", figures())
for i = 1, rounds do
  round()
  if i % 50 == 0 and i < rounds then show("after " .. 10 + i, figures()) end
end
show("after " .. 10 + rounds, figures())
local log, ended = server:stderr(), 0
for _ in log:gmatch " was ended " do ended = ended + 1 end
print(("%d of %d runaways ended; %d requests answered, %d failed"):format(
  ended, (rounds + 10) * #kinds, answered, failed))
child.clean()
os.exit(failed == 0 and 0 or 1)
