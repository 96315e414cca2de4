-- Reloads at random under random load, by seed:   build/lunapark run host/test/reload.lua [SEED] [SECONDS] [PROCS]
--
-- A server of its own is reloaded all the time, with scripts that load and scripts that do not, while clients ask for
-- what answers at once, sleeps, streams, reads a body, holds its VM for a while or for ever. Every answer must come,
-- whole, from a generation that was current while its request ran. In the end nothing of the old ones is left. One
-- line at the end; exit 1 if something was wrong. The seed repeats what is done, not how the clock lets it meet.

local lp = require "lunapark"
local net = require "lunapark.net"
local testing = require "lunapark.testing"
package.path = "./?.lua;" .. package.path
local child = require "spec.support.child"
local generator = require "spec.support.generator"
local reload = require "spec.support.reload"

local seed, seconds, procs = tonumber(arg[1] or 1), tonumber(arg[2] or 20), tonumber(arg[3])
if not seed or not seconds then
  io.stderr:write "usage: reload.lua [seed] [seconds] [procs]\n"
  os.exit(64)
end
procs = procs or seed % 3 + 1
local slow = reload.slow
-- In every other run handlers loop for ever too. Their VMs are dropped, and what waits there is answered 502 or 504, or
-- its stream is cut off. ThreadSanitizer keeps the signal back by which they are ended.
local loops = seed % 2 == 0 and not child.has_tsan

local pick = generator(seed)

local APP = [[
local lp = require "lunapark"
local net = require "lunapark.net"
local app = require("lunapark.http").app()
local N = %d
local part = require "part"
local function body(...)
  if part ~= N then error "a mixture" end
  return table.concat({ N, ... }, " ")
end
local function seconds(req) return tonumber(req.query.s) end
app:get("/", function() return body() end)
app:get("/sleep", function(req)
  local ok, err = lp.sleep(seconds(req))
  return ok and body() or body(err)
end)
app:get("/stream", function(req, res)
  res:write(body())
  for i = 1, 10 do
    if not lp.sleep(seconds(req) / 10) then return end
    res:write(("x"):rep(i * 1000))
  end
end)
app:post("/up", function(req)
  local n = 0
  for piece in function() return req:read(500) end do n = n + #piece end
  return body(n)
end)
app:get("/spin", function(req)
  local till = lp.now() + seconds(req)
  repeat until lp.now() > till
  return body()
end)
app:get("/loop", function() while true do end end)
local function interpreted() while true do pcall(function() N = N end) end end
jit.off(interpreted, true)
app:get("/interpreted", interpreted)
app:get("/in_sort", function(req)
  local t = { 5, 3, 4, 1, 2 }
  table.sort(t, function(a, b) lp.sleep(seconds(req) / 10) return a < b end)
  return body()
end)
app:get("/leave", function()
  lp.detach(function() lp.sleep(1e6) end)
  lp.detach(function() lp.retired(math.huge) end)
  lp.after(1e5, function() end)
  local ln = net.listen "127.0.0.1:0"
  lp.detach(function() ln:accept() end)
  local ch = lp.chan()
  lp.detach(function() ch:recv() end)
  return body()
end)
local state = { n = 0 }
app:hand_over(function() return state end)
app:take_over(function(v) if v.n >= N then error "from later" end state.n = N end)
app:on_start(function()
  state.n = N
  lp.every(0.01, function() state.t = lp.now() end)
  lp.go(function() while not lp.retired() do lp.sleep(0.01) end end)
end)
app:on_retire(function() lp.sleep(0.01) end)
app:get("/stats", function()
  collectgarbage()
  return { fds = lp.stats().fds, all_vms = lp.stats().all_vms }
end)
%s
return app
]]

local function files(n, more)
  return { ["app.lua"] = APP:format(n, more or ""), ["part.lua"] = "return " .. n }
end

local broken = {
  "syntax error", "error 'at load'", "app:on_start(function() error 'at start' end)",
  "app:on_start(function() lp.sleep(0.02) error 'at start' end)", "require 'nothing'", "lp.sleep(1e6)",
  "app:take_over(function() error 'no' end)", "app.options = { no_such = 1 }",
  "app:on_start(function() lp.go(lp.sleep, 1e6) lp.every(0.001, function() end) lp.sleep(0.01) error 'late' end)",
  "return 5",
}
if not child.has_tsan then
  broken[#broken + 1] = "while true do end"
  broken[#broken + 1] = "local function f() while true do pcall(function() N = N end) end end jit.off(f, true) f()"
end

local good = {
  "", "", "", "app:on_start(function() lp.sleep(0.02) end)", "app.options = { max_vms = 32, max_body = 1000000 }",
  "app:on_retire(function() error 'is logged' end)", "app:on_retire(function() lp.sleep(1e6) end)",
  "for i = 1, 1e5 do N = N + 0 end",
  "app:on_start(function() lp.go(function() while true do lp.yield() lp.sleep(0.01) end end) end)",
}

local s = reload.serve(files(1), "--procs", tostring(procs), "--handler-timeout", tostring(2 * slow),
  "--kill-after", "0.2", "--drain-timeout", "1", "--load-timeout", tostring(2 + slow), "--max-vms", "32")
local fds = s.client:get("/stats"):json().fds

local failed
local function wrong(...)
  failed = failed or ("seed %d: "):format(seed) .. string.format(...)
end

local counts = { answers = 0, good = 0, broken = 0, same = 0 }
local stop_at = lp.now() + seconds

-- What clients ask: path, and the statuses that may come. A drain timeout may cancel what lasts.
local function plain(path) return path, { [200] = true } end
local asks = {
  function() return plain "/" end, function() return plain "/" end, function() return plain "/leave" end,
  function(p) return plain("/sleep?s=" .. p(50) / 1000) end,
  function(p) return plain("/in_sort?s=" .. p(50) / 1000) end,
  function(p) return plain("/stream?s=" .. p(100) / 1000) end,
  function(p) return "/spin?s=" .. p(60) / 1000, { [200] = true, [503] = true } end,
}

local function check(path, r, may, low)
  counts.answers = counts.answers + 1
  if loops and (r.status == 502 or r.status == 504) then return end
  if not may[r.status] then return wrong("%s: %d %s", path, r.status, r.body:sub(1, 300)) end
  if r.status ~= 200 then return end
  local n = tonumber(r.body:match "^%d+")
  if not n or n < low or n > s.high then wrong("%s: %s, not %d to %d", path, r.body:sub(1, 60), low, s.high) end
end

-- True: the connection has ended with its stream, as it may.
local function one(conn, p)
  conn:set_deadline(30 * slow)
  local low = s.low
  if p(8) == 1 then
    local size = p(5000)
    conn:write(("POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"):format(size))
    for at = 1, size, 700 do
      conn:write(("x"):rep(math.min(700, size - at + 1)))
      if p(3) == 1 then lp.sleep(p(20) / 1000) end
    end
    local r, err, last = testing.read_reply(conn)
    if not r then return wrong("/up: %s", err) end
    check("/up", r, { [200] = true }, low)
    if r.status == 200 and not r.body:find(" " .. size, 1, true) then wrong("/up: %s, sent %d", r.body, size) end
    if last and not loops then wrong "/up: the connection ends" end
    return last
  end
  local path, may = asks[p(#asks)](p)
  local n = p(4) == 1 and 3 or 1 -- pipelined
  conn:write((("GET %s HTTP/1.1\r\nHost: x\r\n\r\n"):format(path)):rep(n))
  for i = 1, n do
    local r, err, last = testing.read_reply(conn)
    if not r and loops and path:find "stream" then return true end
    if not r then return wrong("%s, %d of %d: %s", path, i, n, err) end
    check(path, r, may, low)
    if last and loops and r.status >= 500 then return true end
    if last then return wrong("%s: the connection ends", path) end
  end
end

local gs = {}
for i = 1, 12 do
  gs[i] = lp.go(function()
    local p = generator(seed * 100 + i)
    local conn = s:dial()
    while lp.now() < stop_at and not failed do
      if one(conn, p) then
        conn:close()
        conn = s:dial()
      end
      if p(4) == 1 then lp.sleep(p(10) / 1000) end
    end
    conn:close()
    return true
  end)
end
if loops then
  -- One at a time: more than so many VMs there are not.
  gs[#gs + 1] = lp.go(function()
    local p = generator(seed * 100 + 99)
    while lp.now() < stop_at and not failed do
      local conn = assert(net.dial(s.addr, { timeout = 30 }))
      conn:set_deadline(30 * slow)
      local path, low = p(2) == 1 and "/loop" or "/interpreted", s.low
      conn:write(("GET %s HTTP/1.1\r\nHost: x\r\n\r\n"):format(path))
      local r, err = testing.read_reply(conn)
      if not r then
        wrong("%s: %s", path, err)
      else
        check(path, r, { [500] = true, [502] = true, [504] = true, [503] = true }, low)
      end
      conn:close()
      lp.sleep(p(200) / 1000)
    end
    return true
  end)
end

local n = 1
local function more_reloads()
  local what = pick(10)
  if what == 1 then
    counts.same = counts.same + 1
    local line = s:reload()
    if not line:find("has not changed", 1, true) and not line:find("reload failed", 1, true) then wrong("%s", line) end
  elseif what <= 5 then
    counts.broken = counts.broken + 1
    local text = broken[pick(#broken)]
    local line = s:reload(files(n + 1, text))
    if not line:find("reload failed", 1, true) then wrong("%s loads: %s", text, line) end
  else
    counts.good = counts.good + 1
    n = n + 1
    s.high = n
    s:write(files(n, good[pick(#good)]))
    local line = s:reload()
    if not line:find("serves", 1, true) then wrong("does not load: %s", line) end
    s.low = n
  end
end
while lp.now() < stop_at and not failed do
  more_reloads()
  if pick(3) == 1 then lp.sleep(pick(100) / 1000) end
end
for _, g in ipairs(gs) do
  local ok, err = g:join()
  if not ok then wrong("%s", err) end
end
s.high = n + 1
s:reload(files(n + 1))
local ok, err = pcall(s.until_vms, s, procs + 1, fds + 2)
if not ok then wrong("in the end: %s", err) end
s.server:kill "TERM"
local code = s.server:wait()
if code ~= 0 then wrong("exit code %d", code) end
local log = s:log()
ok, err = pcall(reload.clean)
if not ok then wrong("%s", err) end
if failed then
  io.stderr:write(log, "reload: ", failed, "\n")
  os.exit(1)
end
print(("reload: seed %d, %g s, %d Ps: %d answers, %d generations, %d that did not load, %d unchanged: all right")
  :format(seed, seconds, procs, counts.answers, counts.good, counts.broken, counts.same))
