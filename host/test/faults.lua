-- What a server does without memory, mappings, threads or descriptors:
--
--     build/lunapark run host/test/faults.lua [SECONDS] [SEED] [PHASE] [KIND]
--
-- fault.c makes the Nth allocation, mapping, thread or descriptor of a process fail. Here that is done for N = 1, 2,
-- 3 ... in each phase of a server's life:
--
--   start    it serves, or ends with 1 and says why
--   first    the first requests of a server: its threads, stacks and descriptors are made then
--   request  one request of each kind; what fails is answered or its connection ends; everything is given back
--   record   a profile and a trace: they are answered, also with what is wrong, and the next ones are there
--   reload   the app is loaded anew, or the old one goes on and the log says why; then requests
--   stop     it ends with 0
--
-- After each the server lives, the next request is answered, and it has no more descriptors than before. In the
-- phases of requests and reload not only the Nth alone fails but, in a second run, everything from the Nth on.
-- With SECONDS so much time is shared by all phases and kinds, and N is drawn by the seed; else all N are tried.
-- One line at the end; exit 1 if something was wrong.

local ffi = require "ffi"
local lp = require "lunapark"
local fs = require "lunapark.fs"
local net = require "lunapark.net"
local testing = require "lunapark.testing"
package.path = "./?.lua;" .. package.path
local child = require "spec.support.child"
local reload = require "spec.support.reload"

local seconds, seed = tonumber(arg[1]), tonumber(arg[2] or 1)
local only_phase, only_kind, only_n = arg[3], arg[4], tonumber(arg[5])
local library = (os.getenv "B" or "build") .. "/host/test/fault.so"
math.randomseed(seed)

local KINDS = { memory = 1, mapping = 2, thread = 4, descriptor = 8 }
local FOREVER = 0xffffffff
local PATIENCE = 20
local SPARE_FDS = 6 -- the resolver's, and each P's pipe for copies: they come when they are needed, and stay

-- ---- the plan, as fault.c has it ----

ffi.cdef [[
typedef struct fault_plan { uint32_t kinds, first, last, seen, failed; char at[108]; } fault_plan;
]]

local plan_path = child.file(("\0"):rep(128))
local plan_file = assert(io.open(plan_path, "r+"))
plan_file:setvbuf "no"

-- kinds comes last: from then on the rest counts.
local function arm(kind, first, last)
  local p = ffi.new "fault_plan"
  p.first, p.last = first, last
  plan_file:seek "set"
  plan_file:write(ffi.string(p, 128))
  p.kinds = KINDS[kind]
  plan_file:seek "set"
  plan_file:write(ffi.string(p, 4))
end

local function disarm()
  plan_file:seek "set"
  plan_file:write "\0\0\0\0"
end

local function outcome()
  plan_file:seek "set"
  local p = ffi.new "fault_plan"
  ffi.copy(p, plan_file:read(128), 128)
  return p.seen, p.failed, ffi.string(p.at)
end

-- ---- the server ----

local APP = [[
local lp = require "lunapark"
local ffi = require "ffi"
local exec = require "lunapark.exec"
local fs = require "lunapark.fs"
local json = require "lunapark.json"
local log = require "lunapark.log"
local net = require "lunapark.net"
local shared = require "lunapark.shared"
local app = require("lunapark.http").app()
local N = %d
ffi.cdef "int usleep(unsigned us);"
local name = os.tmpname()
app:get("/", function() return "fine " .. N end)
app:get("/sleep", function() lp.sleep(0.001) return "slept" end)
app:get("/sort", function()
  local gs = {}
  for i = 1, 8 do
    gs[i] = lp.go(function()
      local t = { 3, 1, 2 }
      table.sort(t, function(a, b) lp.sleep(0.001) return a < b end)
      return t[1]
    end)
  end
  for i = 1, 8 do assert(gs[i]:join()) end
  return "sorted"
end)
app:get("/go", function()
  local ch, gs = lp.chan(2), {}
  for i = 1, 100 do gs[i] = lp.go(function() lp.sleep(0.0001) ch:send(i) end) end
  for _ = 1, 100 do assert(ch:recv(5)) end
  lp.scope(function(s) s:go(lp.sleep, 0.001) end)
  lp.deadline(0.001, lp.sleep, 1)
  lp.select { { ch, "recv" }, timeout = 0.001 }
  lp.after(0.001, function() end)
  return "gone"
end)
app:get("/offload", function()
  local gs = {}
  for i = 1, 6 do gs[i] = lp.go(lp.offload, ffi.C.usleep, 2000) end
  for i = 1, 6 do assert(gs[i]:join()) end
  return "called"
end)
app:get("/files", function()
  assert(fs.write(name, ("x"):rep(100000)))
  assert(fs.append(name, "y"))
  assert(#fs.read(name) == 100001)
  assert(fs.stat(name))
  assert(fs.list "/proc/self/task")
  local f = assert(fs.open(name))
  f:read(10)
  f:close()
  assert(os.remove(name))
  return "written"
end)
app:get("/exec", function()
  local r = assert(exec.run({ "cat" }, { input = ("z"):rep(10000) }))
  return tostring(#r.stdout)
end)
app:get("/shared", function()
  local d = shared.dict("numbers", { max_bytes = 1e6 })
  for i = 1, 50 do d:set("key" .. i, ("v"):rep(i)) end
  for i = 1, 50 do d:get("key" .. i) end
  d:incr("n", 1, 0)
  local c = shared.chan("news", 4)
  c:send "a"
  c:recv(0.01)
  return "shared"
end)
app:post("/body", function(req)
  local t = json.decode(req:body())
  return json.encode(t)
end)
app:get("/stream", function(req, res)
  for i = 1, 20 do res:write(("s"):rep(10000)) end
end)
app:get("/net", function()
  local ln = assert(net.listen "127.0.0.1:0")
  local g = lp.go(function()
    local c = assert(ln:accept())
    net.copy(c, c)
    c:close()
  end)
  local c = assert(net.dial(ln:addr(), { timeout = 5 }))
  assert(c:write(("q"):rep(50000)))
  c:close_write()
  local all = assert(c:read_all())
  c:close()
  ln:close()
  g:join()
  local u = assert(net.udp "127.0.0.1:0")
  u:close()
  return tostring(#all)
end)
app:get("/names", function()
  local c, err = net.dial("localhost:1", { timeout = 1 })
  if c then c:close() end
  return err or "?"
end)
app:get("/log", function()
  for i = 1, 3 do log.info("a line", { i = i }) end
  return "logged"
end)
app:get("/lua", function()
  local f = io.open("/dev/null")
  if f then f:close() end
  local p = io.popen "true"
  if p then p:close() end
  local t = {}
  for i = 1, 20000 do t[i] = { i } end
  return tostring(#t)
end)
app:on_start(function() lp.every(0.05, function() end) end)
return app
]]

local ASKS = {
  "GET /", "GET /sleep", "GET /sort", "GET /go", "GET /offload", "GET /files", "GET /exec", "GET /shared", "POST /body",
  "GET /stream", "GET /net", "GET /names", "GET /log", "GET /lua", "GET /",
}
local BODY = '{"list":[' .. ("12345,"):rep(20000) .. '0]}'

local function request(ask)
  local method, path = ask:match "^(%u+) (.*)"
  local body = method == "POST" and BODY or ""
  return ("%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s"):format(method, path, #body, body)
end

local faults, tried = {}, 0

local function report(what, server, ...)
  local _, _, at = outcome()
  local line = ("%s; the last call that failed: %s"):format(what:format(...), at)
  faults[#faults + 1] = line
  io.stderr:write("faults: ", line, "\n")
  if server then io.stderr:write("---- its stderr\n", server:stderr():sub(-3000), "\n----\n") end
end

-- Everybody asks at once, at their addresses. What is answered, and what is not, is up to the server, but not for how
-- long. all_well: each must be answered with 200. `patience`: seconds; without it all must be answered, or cut off.
local function ask_each(asks, all_well, patience)
  local gs = {}
  for i, ask in ipairs(asks) do
    gs[i] = lp.go(function()
      local conn = net.dial(ask.addr, { timeout = patience or PATIENCE })
      if not conn then return end
      conn:set_deadline(patience or PATIENCE)
      local ok = conn:write(request(ask.what))
      local r, err = nil, "not sent"
      if ok then r, err = testing.read_reply(conn) end
      conn:close()
      if err == "timeout" and not patience then return ask.what .. " is not answered" end
      if all_well and (not r or r.status ~= 200) then
        return ("%s: %s %s"):format(ask.what, r and r.status or err, r and r.body or "")
      end
    end)
  end
  local wrong
  for _, g in ipairs(gs) do
    local late, err = g:join()
    wrong = wrong or late or err
  end
  return wrong
end

local function asks_of(list, addr, to)
  to = to or {}
  for _, what in ipairs(list) do to[#to + 1] = { addr = addr, what = what } end
  return to
end

local function ask_all(addr, all_well, patience)
  return ask_each(asks_of(ASKS, addr), all_well, patience)
end

-- The next request. Returns what is wrong.
local function is_well(server)
  local r, err
  for _ = 1, 3 do -- an answer of 502 or 503 may still be due to the fault
    local conn = net.dial(server.addr, { timeout = PATIENCE })
    if not conn then return "it does not accept" end
    conn:set_deadline(PATIENCE)
    conn:write(request "GET /")
    r, err = testing.read_reply(conn)
    conn:close()
    if r and r.status == 200 then return nil end
    if server:poll() then return ("it has ended with %d"):format(server.code) end
    lp.sleep(0.05)
  end
  return ("the next request: %s %s"):format(r and r.status or err, r and r.body:sub(1, 200) or "")
end

local function count_fds(server)
  local list = fs.list("/proc/" .. server.pid .. "/fd")
  return list and #list or 0
end

-- Waits until it has at most so many; how many it has.
local function settle_fds(server, most)
  local n
  local give_up = lp.now() + PATIENCE
  repeat
    n = count_fds(server)
    if n <= most then return n end
    lp.sleep(0.01)
  until lp.now() > give_up
  return n
end

-- What a handler leaves to the collector must not wait two minutes for it.
local env = { FAULT_FILE = plan_path, LD_PRELOAD = library, LUNAPARK_DEBUG = "gcforce=20" }
local folder, generation

local function start_server(cold)
  generation = 1
  folder = reload.folder { ["app.lua"] = APP:format(1) }
  disarm()
  local server = child.serve { folder .. "/app.lua", "--procs", "2", "--drain-timeout", "2", "--handler-timeout", "5",
    "--load-timeout", "10", "--admin", "127.0.0.1:0", env = env }
  server.admin = server:logged "admin on http://(%S+)\n"
  for _ = 1, cold and 0 or 2 do
    local wrong = ask_all(server.addr, true)
    if wrong then error(wrong .. "\n" .. server:stderr(), 0) end
  end
  server.fds = count_fds(server) + SPARE_FDS
  return server
end

-- ---- the phases: each runs once with what is armed, and returns what is wrong ----

local server -- of the phases of request and reload

local function living()
  if server and server:poll() then server = nil end
  server = server or start_server()
  return server
end

-- Without descriptors nothing is accepted any more.
local function patience_for(kind, first, last)
  return kind == "descriptor" and last > first and 0.3 or nil
end

local function check(s)
  local wrong = is_well(s)
  if wrong then return wrong end
  local n = settle_fds(s, s.fds)
  if n > s.fds then return ("%d descriptors, there were %d"):format(n, s.fds) end
end

local phases = {}

function phases.first(kind, first, last)
  local s = start_server(true)
  arm(kind, first, last)
  local wrong = ask_all(s.addr, false, patience_for(kind, first, last))
  disarm()
  if s:poll() then wrong = ("it has ended with %d"):format(s.code) end
  return wrong or ask_all(s.addr) or is_well(s), s
end

function phases.request(kind, first, last)
  local s = living()
  arm(kind, first, last)
  local wrong = ask_all(s.addr, false, patience_for(kind, first, last))
  disarm()
  return wrong or check(s), s
end

local RECORDINGS = { "GET /profile?s=0.05", "GET /trace?s=0.05" }

function phases.record(kind, first, last)
  local s = living()
  arm(kind, first, last)
  local wrong = ask_each(asks_of(RECORDINGS, s.admin, asks_of(ASKS, s.addr)), false, patience_for(kind, first, last))
  disarm()
  if wrong then return wrong, s end
  local ok = pcall(child.eventually, function() -- one whose client has gone may have to end first
    wrong = ask_each(asks_of(RECORDINGS, s.admin), true)
    return not wrong
  end, "recordings")
  return not ok and wrong or check(s), s
end

function phases.reload(kind, first, last)
  local s = living()
  generation = generation + 1
  reload.write(folder, "app.lua", APP:format(generation))
  local before = s:stderr()
  arm(kind, first, last)
  s:kill "HUP"
  local ok, wrong = pcall(child.eventually, function()
    if s:poll() then error "it has ended" end
    local more = s:stderr():sub(#before + 1)
    return more:find("reload: ", 1, true) or more:find("reload failed", 1, true)
  end, "the reload")
  wrong = not ok and wrong or ask_all(s.addr, false, patience_for(kind, first, last))
  disarm()
  if not wrong then
    local again = s:stderr()
    s:kill "HUP" -- what may have failed goes well now
    ok, wrong = pcall(child.eventually, function()
      if s:poll() then error "it has ended" end
      return s:stderr():sub(#again + 1):find " reload: "
    end, "the reload after it")
    wrong = not ok and wrong or nil
  end
  return wrong or check(s), s
end

local function ends(s)
  return pcall(child.eventually, function() return s:poll() end, "the end of the process")
end

function phases.stop(kind, first, last)
  local s = start_server()
  arm(kind, first, last)
  s:kill "TERM"
  local ok, wrong = ends(s)
  disarm()
  if ok and s.code ~= 0 then wrong = ("it has ended with %d"):format(s.code) elseif ok then wrong = nil end
  return wrong, s
end

function phases.start(kind, first, last)
  local path = child.script(APP:format(1))
  arm(kind, first, last)
  local s = child.start { path, "--procs", "2", "--listen", "127.0.0.1:0", env = env }
  local ok, wrong = pcall(child.eventually, function()
    s.addr = s:stderr():match "lunapark: listening on http://([^\n]+)\n"
    return s.addr or s:poll()
  end, "neither end nor start")
  disarm()
  if not ok then return wrong, s end
  if s:poll() then
    if s.code ~= 1 or s:stderr() == "" then return ("it has ended with %d"):format(s.code), s end
    return nil, s
  end
  wrong = is_well(s)
  s:kill "TERM"
  ok = ends(s)
  if not wrong and (not ok or s.code ~= 0) then wrong = ("its end: %s"):format(ok and s.code or "none") end
  return wrong, s
end

-- ---- all of them ----

local function shuffled(n)
  local list = {}
  for i = 1, n do list[i] = i end
  if seconds then
    for i = n, 2, -1 do
      local k = math.random(i)
      list[i], list[k] = list[k], list[i]
    end
  end
  return list
end

local function try(phase, kind, n, last)
  tried = tried + 1
  local ok, wrong, s = pcall(phases[phase], kind, n, last)
  if not ok then wrong = tostring(wrong) end
  if wrong then
    report("%s, %s %d%s: %s", s or server, phase, kind, n, last > n and " and all after it" or "", wrong)
    if server then server:kill "KILL" end
    server = nil
  end
  if s and s ~= server then
    s:kill "KILL"
    s:wait()
  end
end

local ORDER = { "start", "first", "request", "record", "reload", "stop" }
local kinds = { "thread", "descriptor", "mapping", "memory" }
local slice = seconds and seconds / #ORDER / #kinds

local function run(phase, kind)
  local began = lp.now()
  local _, counted = phases[phase](kind, FOREVER, FOREVER) -- nothing fails, all are counted
  if counted and counted ~= server then counted:kill "KILL" end
  local total = outcome()
  local before = tried
  if only_n then return try(phase, kind, only_n, arg[6] and FOREVER or only_n) end
  for _, n in ipairs(shuffled(total)) do
    if slice and lp.now() - began > slice then break end
    try(phase, kind, n, n)
    if phase ~= "start" and phase ~= "stop" then try(phase, kind, n, FOREVER) end
  end
  print(("faults: %s, %s: %d calls, %d runs, %.0f s"):format(phase, kind, total, tried - before, lp.now() - began))
end

for _, phase in ipairs(ORDER) do
  for _, kind in ipairs(kinds) do
    if (not only_phase or only_phase == phase or only_phase == "all") and (not only_kind or only_kind == kind) then
      local ok, err = pcall(run, phase, kind)
      disarm()
      if not ok then report("%s, %s: %s", server, phase, kind, tostring(err)) end
    end
  end
end
if server then server:kill "KILL" end
pcall(reload.clean)
if #faults > 0 then
  io.stderr:write(("faults: %d of %d runs were wrong, seed %d\n"):format(#faults, tried, seed))
  os.exit(1)
end
print(("faults: %d runs, seed %d: all right"):format(tried, seed))
