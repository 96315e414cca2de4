-- Fuzz of apps:   build/lunapark run host/fuzz/apps.lua [SEED] [SECONDS] [ROUND]    LUNAPARK=the binary that serves
--
-- A server of app.lua is used by many clients at once, in every way there is, and reloaded, asked by its admin API, and
-- made to end handlers. It goes by rounds of a second or two. Seed and number of a round decide what is done: which
-- kinds of requests, how many clients, how they send, read and leave, which reloads there are. How the clock lets that
-- meet they do not decide. A round is *wild* if it has handlers that must be ended by force: their VM may be dropped,
-- and its other requests get 502 or lose their stream. In other rounds each request gets the one right answer. After
-- LIFE rounds comes another server. Every second one speaks HTTPS; some of its clients break TLS (tls.lua).
--
-- What must hold:
--   - an answer, whichever it is, has its own request's word and no other;
--   - nothing else is wrong with it, unless the round is wild, or the request has lasted as long as it may;
--   - the server lives, and a sanitizer has nothing to report;
--   - after each round the next request is answered;
--   - when all is quiet, descriptors, VMs and Gs are as many as at the start;
--   - SIGTERM ends it with 0, and what is in flight then is answered.
-- One line at the end. If something was wrong: what, the end of the log, how to do it again, and exit 1.

local fs = require "lunapark.fs"
local json = require "lunapark.json"
local lp = require "lunapark"
local net = require "lunapark.net"
local reply = require "lunapark.testing.reply"
local testing = require "lunapark.testing"
package.path = "./?.lua;" .. package.path
local child = require "spec.support.child"
local generator = require "spec.support.generator"
local reload = require "spec.support.reload"
local requests = require "host.fuzz.requests"
local tls = require "host.fuzz.tls"

local seed, seconds, first = tonumber(arg[1] or os.time()), tonumber(arg[2] or 60), tonumber(arg[3] or 1)
if not seed or not seconds or not first then
  io.stderr:write "usage: apps.lua [seed] [seconds] [first round]\n"
  os.exit(64)
end

local PATIENCE = 60 -- seconds; only what hangs lasts so long
-- Of the server.
local HANDLER_S, DRAIN_S, PROCS = 1.5, 1.5, seed % 3 + 1
local LASTS = math.min(HANDLER_S, DRAIN_S)
local LIFE = 12 -- rounds

-- ---- what is wrong --------------------------------------------------------------------------------------------

local round, wild, failed, n_failed = first, false, nil, 0
local function wrong(...)
  n_failed = n_failed + 1
  if n_failed > 5 then return end -- of the same
  failed = (failed or ("seed %d, round %d:"):format(seed, round)) .. "\n  " .. string.format(...)
end

local server, log_at = nil, 0
-- What the log has got since the last look: a report of a sanitizer, of our own, of LuaJIT.
local function look_at_log()
  local f = assert(io.open(server.err_path))
  f:seek("set", log_at)
  local text = f:read "*a"
  f:close()
  log_at = math.max(0, log_at + #text - 100)
  for _, sign in ipairs { "Sanitizer", "runtime error:", "lunapark: fatal", "PANIC" } do
    if text:find(sign, 1, true) then wrong("the log has a report: %s", text:match("[^\n]*" .. sign .. "[^\n]*")) end
  end
  if server:poll() and server:poll() ~= 0 then wrong("the server has ended: %d", server:poll()) end
end

local calm, harmful, request, timed = requests.calm, requests.harmful, requests.new, requests.timed
local names = {}
for name in pairs(calm) do names[#names + 1] = name end
table.sort(names)

-- ---- answers --------------------------------------------------------------------------------------------------

local counts = { answers = 0, cut = 0, left = 0, reloads = 0, rounds = 0 }

local function has_foreign(text, word)
  for other in text:gmatch "q%d%d%d%d%d%d%d%d%dq" do
    if other ~= word then return other end
  end
  return text:find("MIX", 1, true) and "MIX"
end

local function all_of(r)
  local list = { r.body }
  for _, name, value in r.headers:each() do list[#list + 1] = name .. ": " .. value end
  return table.concat(list, "\n")
end

local function short(text)
  return #text > 300 and text:sub(1, 150) .. " ... " .. text:sub(-150) or text
end

-- Looks at what came for q. Whether the connection goes on.
local function judge(q, r, err, last, since)
  local first_line = q.bytes:match "[^\r]*"
  local excused = wild or q.may or lp.now() - since >= LASTS
  if not r then
    counts.cut = counts.cut + 1
    if not excused and not q.cut then wrong("%s: no answer: %s", first_line, err) end
    return false
  end
  counts.answers = counts.answers + 1
  local foreign = has_foreign(all_of(r), q.word)
  if foreign then
    wrong("%s: has %s in: %s", first_line, foreign, short(all_of(r)))
  elseif q.cut and r.status == 200 then
    wrong("%s: a part is taken for the whole: %s", first_line, short(r.body))
  elseif r.status == q.status then
    local enough = q.old and excused and q.want and q.want:sub(1, #r.body) == r.body
    if q.want and r.body ~= q.want and not enough then
      wrong("%s: %q instead of %q", first_line, short(r.body), short(q.want))
    end
    local in_head = r.headers["x-word"]
    if r.status == 200 and in_head ~= q.word then wrong("%s: X-Word: %s", first_line, in_head) end
  elseif not excused and not r.body:find "its load failed$" then
    wrong("%s: %d %s", first_line, r.status, short(r.body))
  end
  return not last
end

-- A connection that is read slowly.
local function slowly(conn, p)
  local function nap() if p(3) == 1 then lp.sleep(p(10) / 1000) end end
  return {
    read_line = function(_, ...) nap() return conn:read_line(...) end,
    read = function(_, n) nap() return conn:read(math.min(n, p(5000))) end,
    read_exact = function(_, ...) nap() return conn:read_exact(...) end,
  }
end

-- Writes in pieces, or as one. It may fail: the server closes after some answers.
local function write(conn, bytes, p)
  if p(4) > 1 then return conn:write(bytes) end
  local at = 1
  while at <= #bytes do
    local n = p(3) == 1 and p(10) or p(#bytes)
    if not conn:write(bytes:sub(at, at + n - 1)) then return end
    at = at + n
    if p(8) == 1 then lp.sleep(p(5) / 1000) end
  end
end

-- ---- what clients do ------------------------------------------------------------------------------------------

local addr, over_tls
local function dial()
  local conn = assert(net.dial(addr, { timeout = PATIENCE, tls = over_tls and tls.trust or nil }))
  conn:set_deadline(PATIENCE)
  return conn
end

local function some_requests(p, kinds, max)
  local list, bytes = {}, {}
  for i = 1, p(3) == 1 and p(max) or 1 do
    list[i] = kinds[p(#kinds)](p)
    bytes[i] = list[i].bytes
  end
  return list, table.concat(bytes)
end

-- What was asked before on a connection, and when. Its handler may be ended for its time behind an answer that was
-- whole, with the connection.
local asked_before = setmetatable({}, { __mode = "k" })

-- One request, or several that are pipelined. Whether the connection goes on.
local function ask(conn, p, kinds)
  conn:set_deadline(PATIENCE)
  local list, bytes = some_requests(p, kinds, 6)
  local since = lp.now()
  local writer = lp.go(function() write(conn, bytes, p) return true end)
  local from = p(6) == 1 and slowly(conn, p) or conn
  local goes_on = true
  for _, q in ipairs(list) do
    local r, err, last = testing.read_reply(from, q.method)
    local before = asked_before[conn]
    if not r and before then err = ("%s, after %s"):format(err, before.what) end
    local what = q.bytes:match "^.-\r\n\r\n" .. #q.bytes .. " bytes, answer " .. (r and r.status or "none")
    asked_before[conn] = { what = what, since = since }
    goes_on = judge(q, r, err, last, not r and before and before.since or since)
    if not goes_on then break end
  end
  if not goes_on then conn:close() end
  writer:join()
  return goes_on
end

-- Says something and goes: before an answer, within one, without reading what has come, with half of a request.
local function leave(p, kinds)
  local conn = dial()
  local list, bytes = some_requests(p, kinds, 4)
  local how = p(5)
  if how == 1 then bytes = bytes:sub(1, p(#bytes)) end
  conn:set_write_deadline(p(200) / 1000)
  write(conn, bytes, p)
  if how == 2 then conn:close_write() end
  if how <= 3 then
    conn:set_read_deadline(p(300) / 1000)
    local got, why, part = conn:read_exact(p(3) == 1 and p(50) or 1e6)
    if not got and type(part) == "string" then got = part end
    local mine = {}
    for _, q in ipairs(list) do mine[q.word] = true end
    for word in (got or ""):gmatch "q%d%d%d%d%d%d%d%d%dq" do
      if not mine[word] then wrong("%s is in what a client got before it left (%s): %s", word, why, short(got)) end
    end
  elseif how == 4 then
    lp.sleep(p(100) / 1000)
  end
  conn:close()
  counts.left = counts.left + 1
end

-- What is no request.
local nonsense = {
  "GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
  "\0\1\2\3\r\n\r\n", "GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n",
  "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
  "POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX",
  "GET /" .. ("a"):rep(9000) .. " HTTP/1.1\r\n\r\n",
  "GET / HTTP/1.1\r\nHost: x\r\nX: " .. ("a"):rep(17000) .. "\r\n\r\n", "GET /../../x HTTP/1.1\r\nHost: x\r\n\r\n",
  "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n" .. ("a: b\r\n"):rep(101) .. "\r\n",
  "CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n",
}
local function talk_nonsense(p)
  local conn = dial()
  write(conn, nonsense[p(#nonsense)], p)
  local r, err = testing.read_reply(conn)
  if not r then
    if not wild then wrong("nonsense: no answer: %s", err) end
  elseif r.status < 400 or has_foreign(all_of(r)) then
    wrong("nonsense: %d %s", r.status, short(r.body))
  end
  conn:close()
end

-- The right answer or none, and then the server is there for others.
local function break_tls(p)
  local how, why = p(20), nil
  if how == 1 then
    why = tls.new_keys(addr, p)
  elseif how <= 8 then
    why = tls.speak_none(addr, p)
  else
    local q, since = calm.ok(p), lp.now()
    local r = tls.harmed(addr, q, p)
    if r then judge(q, r, nil, true, since) end
  end
  if why then wrong("broken TLS: %s", why) end
  counts.left = counts.left + 1
end

-- /aside: two connections for one request.
local function aside(p)
  local n, conn = p(5), dial()
  local q, since = request(p, timed("/aside", p, n), { cut = true }), lp.now()
  conn:write(q.bytes)
  local function problem()
    local r, err = reply.read_head(conn, "GET")
    if not r then return err end
    if r.status ~= 200 then return r.status .. " " .. (r:read_all() or "") end
    local line
    line, err = r:read()
    local word, far_addr = (line or ""):match "^(%S+) (%S+)\n"
    if word ~= q.word then return ("%s (%s)"):format(line, err) end
    local far
    far, err = net.dial(far_addr, { timeout = PATIENCE })
    if not far then return err end
    far:set_deadline(PATIENCE)
    for i = 1, n do
      far:write(i .. "\n")
      line, err = far:read_line()
      if line ~= q.word .. " " .. i then return ("line %d: %s (%s)"):format(i, line, err), line end
    end
    far:close()
    line, err = r:read_all()
    if line ~= q.word .. " over" then return ("the end: %s (%s)"):format(line, err), line end
  end
  local why, line = problem()
  conn:close()
  local excused = wild or lp.now() - since >= LASTS
  if why and (has_foreign(line or "", q.word) or not excused) then wrong("/aside: %s", why) end
end

-- ---- the admin API, signals, reloads --------------------------------------------------------------------------

local folder, admin_addr
local TOKEN = "s3cret"

local function ask_admin(method, path, token)
  local conn = assert(net.dial(admin_addr, { timeout = PATIENCE }))
  conn:set_deadline(PATIENCE)
  conn:write(("%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n")
    :format(method, path, token or TOKEN))
  local r, err = testing.read_reply(conn, method)
  conn:close()
  if not r then wrong("admin: %s %s: %s", method, path, err) end
  return r
end

local function use_admin(p)
  local what = p(5)
  if what == 1 then
    local r = ask_admin("GET", "/", "wrong")
    if r and r.status ~= 401 then wrong("admin: %d without the token", r.status) end
  elseif what == 2 then
    local conn = assert(net.dial(admin_addr, { timeout = PATIENCE }))
    conn:write("POST /reload HTTP/1.1\r\nHost")
    lp.sleep(p(20) / 1000)
    conn:close()
  elseif what == 3 then
    local r = ask_admin("GET", "/nothing")
    if r and r.status ~= 404 then wrong("admin: /nothing: %d", r.status) end
  else
    local r = ask_admin("GET", "/")
    if r and (r.status ~= 200 or not r:json().stats) then wrong("admin: %d %s", r.status, short(r.body)) end
  end
end

local broken = {
  "syntax error", "more = error 'at load'", "more = require 'nothing'",
  "more = function(app) app:on_start(function() error 'at start' end) end",
  "more = function(app, lp) app:on_start(function() lp.sleep(0.05) error 'at start' end) end",
  "more = function(app) app:take_over(print) app:hand_over(print) error 'late' end",
  "more = function(app) app.options = { no_such = 1 } end",
  "more = function(app, lp) lp.go(lp.sleep, 1e6) lp.every(0.001, function() end) lp.sleep(0.01) error 'late' end",
}
local whole = {
  "", "", "", "more = function(app, lp) app:on_start(function() lp.sleep(0.05) end) end",
  "more = function(app) app.options = { max_vms = 24 } end",
  "more = function(app) app:on_retire(function() error 'is logged' end) end",
  "more = function(app, lp) app:on_retire(function() lp.sleep(1e6) end) end",
  "more = function(app, lp) lp.detach(function() while true do lp.yield() lp.sleep(0.01) end end) end",
  "more = function(app, lp) lp.after(1e5, print) lp.detach(lp.retired, 1e6) lp.detach(lp.chan().recv, lp.chan()) end",
  "more = function(app, lp) app:hand_over(function() return {} end) app:take_over(function() lp.sleep(0.01) end) end",
}

local generation = 0
local function write_tail(text)
  generation = generation + 1
  reload.write(folder, "tail.lua", ("return { dir = %q, n = %d, %s }\n"):format(folder .. "/files", generation, text))
end

local function reload_some(p)
  counts.reloads = counts.reloads + 1
  local good = p(3) > 1
  local text = good and whole[p(#whole)] or broken[p(#broken)]
  write_tail(text)
  if p(2) == 1 then
    server:kill "HUP"
    return lp.sleep(p(300) / 1000)
  end
  local since = lp.now()
  local r = ask_admin("POST", "/reload")
  if r and r.status == 504 and lp.now() - since >= HANDLER_S then return end -- the API is an app, too
  if r and r.status ~= (good and 200 or 500) then wrong("reload of %q: %d %s", text, r.status, short(r.body)) end
end

-- ---- rounds ---------------------------------------------------------------------------------------------------

local at_start

local function serve()
  folder = reload.folder { ["app.lua"] = assert(fs.read "host/fuzz/app.lua"), ["files/none"] = "" }
  write_tail ""
  over_tls = (seed + math.floor(round / LIFE)) % 2 == 0
  log_at, at_start = 0, nil
  local args = { folder .. "/app.lua", "--procs", tostring(PROCS), "--handler-timeout", tostring(HANDLER_S),
    "--kill-after", "0.2", "--drain-timeout", tostring(DRAIN_S), "--load-timeout", "60", "--max-vms", "24",
    "--vm-memory", tostring(64 * 2 ^ 20), "--max-body", "200000", "--admin", "127.0.0.1:0", "--admin-token", TOKEN }
  if over_tls then args[#args + 1] = "--tls-self-signed" end
  server = child.serve(args)
  addr = server.addr
  admin_addr = server:logged "admin on http://(%S+)\n"
end

local function stats()
  local conn = dial()
  conn:write "GET /stats HTTP/1.1\r\nHost: x\r\n\r\n"
  local r = testing.read_reply(conn)
  conn:close()
  return r and r.status == 200 and r:json()
end

-- The next request is answered, at once where nothing had to be ended.
local function look_at_next()
  local till = lp.now() + PATIENCE
  local p = generator(round)
  repeat
    local conn, q = dial(), calm.ok(p)
    conn:write(q.bytes)
    local r, err = testing.read_reply(conn, q.method)
    conn:close()
    if r and r.status == 200 then return judge(q, r, nil, true, lp.now()) end
    if not wild then return wrong("the next request: %s", r and r.status or err) end
    lp.sleep(0.1)
  until failed or lp.now() > till
  wrong "the next request is not answered"
end

-- How many Gs there are besides those in which VMs run, which are kept for the next VM, as a dump tells.
local function count_gs()
  local f = assert(io.open(server.err_path))
  local at, text = f:seek "end", nil
  server:kill "USR1"
  child.eventually(function()
    local before = text
    lp.sleep(0.1)
    f:seek("set", at)
    text = f:read "*a"
    return text == before and text:find "\nVM %-1:"
  end, "a dump")
  f:close()
  local n = 0
  for _ in text:gmatch "\nG %d+ native:" do n = n + 1 end
  for some in text:gmatch "\n(%d+) Gs? in VMs:" do n = n + some end
  return n
end

-- Gs that each VM of the app has.
local OWN_GS = 3
-- After a reload all is as it was after the first one. There may be more spare VMs: on a busy machine VMs that lost
-- their turn have been stuck in the eyes of the pool.
local function look_at_rest()
  write_tail ""
  local r = ask_admin("POST", "/reload")
  if r and r.status ~= 200 then return wrong("a reload when all is quiet: %d %s", r.status, short(r.body)) end
  local till, t = lp.now() + PATIENCE, nil
  repeat
    lp.sleep(0.2)
    t = stats() or t
    local first_time = not at_start
    if t and (first_time and t.others == 1 or not first_time and t.others == at_start.others) then
      t.gs = count_gs()
      if first_time then
        at_start = t
        return
      end
      if t.fds <= at_start.fds + 2 and t.chans == at_start.chans
        and t.gs <= at_start.gs + 2 + OWN_GS * math.max(0, t.vms - at_start.vms) then return end
    end
  until lp.now() > till
  count_gs()
  wrong("when all is quiet: %s, at the start: %s", json.encode(t), json.encode(at_start))
end

local function pick_kinds(p)
  local kinds = {}
  for _, name in ipairs(names) do
    if p(3) == 1 then kinds[#kinds + 1] = calm[name] end
  end
  kinds[#kinds + 1] = calm.ok
  return kinds
end

local function run_round()
  local p = generator(seed * 10007 + round)
  wild = p(3) == 1
  local kinds, gs, stop_at = pick_kinds(p), {}, lp.now() + 0.5 + p(1500) / 1000
  local function client(what)
    local own = generator(seed * 10007 + round * 101 + #gs)
    gs[#gs + 1] = lp.go(function()
      while lp.now() < stop_at and not failed do
        what(own)
        if own(4) == 1 then lp.sleep(own(20) / 1000) end
      end
      return true
    end)
  end
  local conns = {}
  for i = 1, p(20) do
    conns[i] = dial()
    client(function(own)
      if not ask(conns[i], own, kinds) then conns[i] = dial() end
    end)
  end
  for _ = 1, p(4) - 1 do client(function(own) leave(own, kinds) end) end
  if p(3) == 1 then client(talk_nonsense) end
  if p(2) == 1 and over_tls then client(break_tls) end
  if p(3) == 1 then client(aside) end
  if p(3) == 1 then client(use_admin) end
  if p(2) == 1 then client(reload_some) end
  if p(10) == 1 then client(function(own) server:kill "USR1" lp.sleep(own(500) / 1000) end) end
  if wild then
    for _ = 1, p(3) do
      local one = { p(4) == 1 and harmful.hog or harmful.endless }
      client(function(own) local conn = dial() ask(conn, own, one) conn:close() end)
    end
  end
  for _, g in ipairs(gs) do
    local ok, why = g:join(2 * PATIENCE)
    if not ok then wrong("a client: %s", why) end
  end
  for _, conn in ipairs(conns) do conn:close() end
  if not failed then look_at_next() end
  counts.rounds = counts.rounds + 1
end

-- What is in flight is answered.
local function stop()
  local p, since, gs = generator(round), lp.now(), {}
  wild = false
  for i = 1, 8 do
    local conn, q = dial(), calm.sleep(p)
    conn:write(q.bytes)
    gs[i] = lp.go(function()
      local r, why, last = testing.read_reply(conn, q.method)
      judge(q, r, why, last, since)
      conn:close()
      return true
    end)
  end
  lp.sleep(0.05)
  server:kill "TERM"
  for _, g in ipairs(gs) do g:join(PATIENCE) end
  if server:wait() ~= 0 then wrong("the exit code is %d", server:wait()) end
end

-- The life of a server.
local function live(stop_at)
  serve()
  look_at_rest()
  repeat
    run_round()
    look_at_log()
    -- What a wild round has left running would harm the next one.
    if not failed and wild then look_at_rest() end
    if not failed then round = round + 1 end
  until failed or lp.now() > stop_at or round % LIFE == 0
  if not failed then look_at_rest() end
  if not failed then stop() end
  look_at_log()
end

local function main()
  local stop_at = lp.now() + seconds
  repeat live(stop_at) until failed or lp.now() > stop_at
end

local ok, err = xpcall(main, debug.traceback)
if not ok then wrong("%s", err) end
local log = server and server:stderr() or ""
ok, err = pcall(reload.clean)
if not ok then wrong("%s", err) end
if failed then
  io.stderr:write(log:sub(-20000), "\nfuzz-apps: ", failed,
    ("\nagain: make fuzz-apps SEED=%d ROUND=%d\n"):format(seed, round))
  os.exit(1)
end
print(("fuzz-apps: seed %d, %d rounds, %d Ps: %d answers, %d broken off, %d clients that left, %d reloads: all right")
  :format(seed, counts.rounds, PROCS, counts.answers, counts.cut, counts.left, counts.reloads))
