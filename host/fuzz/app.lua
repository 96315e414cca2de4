-- The app that the fuzz of apps (apps.lua) serves: handlers that wait everywhere, stream, raise, hang, take memory, and
-- leave behind whatever they can.
--
-- Each request has a word of its own, in the field X-Word and in the query as `w`. An answer has it in its head, put
-- there by middleware, and in its body; no other request's word may be in either. A wait that the server has ended,
-- since the handler's time is over or its VM retires, is answered "WORD cut: why" with 503. "MIX" is in an answer of a
-- handler that has seen what belongs to another one.

local ffi = require "ffi"
local exec = require "lunapark.exec"
local fs = require "lunapark.fs"
local http = require "lunapark.http"
local json = require "lunapark.json"
local log = require "lunapark.log"
local lp = require "lunapark"
local net = require "lunapark.net"
local shared = require "lunapark.shared"
local tail = require "tail" -- what this generation does besides

ffi.cdef [[
int usleep(unsigned us);
typedef int (*fuzz_compare)(const void *a, const void *b);
void qsort(void *base, size_t n, size_t size, fuzz_compare compare);
]]

local app = http.app()
local dir = tail.dir
local dict, mail = shared.dict("fuzz", { max_bytes = 65536 }), shared.chan("fuzz", 4)

app:use(function(req, res, next)
  res.headers["X-Word"] = req.headers["x-word"]
  return next()
end)
app:on_error(function(req, res, err, text)
  if type(err) == "table" and err.cut then
    res.status = 503
    return err.cut
  end
  log.warn("raised", { path = req.path, error = text:sub(1, 1000) })
end)

-- A wait of the handler has answered this.
local function must(req, ok, why)
  if ok then return ok end
  error({ cut = req.query.w .. " cut: " .. tostring(why) }, 0)
end

local function seconds(req) return tonumber(req.query.s) end
local function sleep(req, share) must(req, lp.sleep(seconds(req) / (share or 1))) end
local function count(req) return tonumber(req.query.n) end
local function answer(req, ...) return table.concat({ req.query.w, ... }, " ") end

-- ---- calm ones: they are answered, whoever else asks for what -------------------------------------------------

app:get("/ok", function(req) return answer(req) end)
app:get("/table", function(req) return { word = req.query.w } end)
app:get("/head/:word", function(req) return 200, req.params.word, { ["X-More"] = req.query.w } end)
app:get("/sleep", function(req)
  sleep(req)
  return answer(req)
end)
app:get("/big", function(req) return answer(req, ("."):rep(count(req)), req.query.w) end)

app:get("/stream", function(req, res)
  for i = 1, count(req) do
    res:write(("%s %d\n"):format(req.query.w, i))
    if not lp.sleep(seconds(req) / count(req)) then error "cut" end
  end
end)
app:get("/sized", function(req, res)
  local piece = req.query.w .. " "
  res.headers["Content-Length"] = tostring(#piece * count(req))
  for _ = 1, count(req) do
    res:write(piece)
    if not lp.sleep(seconds(req) / count(req)) then error "cut" end
  end
end)

app:get("/hijack", function(req, res)
  local conn, lines = must(req, res:hijack()), {}
  for i = 1, count(req) do lines[i] = answer(req, i) .. "\n" end
  conn:write(("HTTP/1.1 200 OK\r\nX-Word: %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n")
    :format(req.headers["x-word"], #table.concat(lines)))
  for _, line in ipairs(lines) do
    sleep(req, count(req))
    conn:write(line)
  end
end)

app:post("/body", function(req)
  local body = must(req, req:body())
  return answer(req, #body, body:sub(-20))
end)
app:post("/pieces", function(req)
  local n, last = 0, ""
  for piece in function() return req:read(700) end do
    n, last = n + #piece, (last .. piece):sub(-20)
    sleep(req, 20)
  end
  return answer(req, n, last)
end)
app:post("/early", function(req) return answer(req) end) -- the body stays where it is
app:post("/json", function(req) return { word = must(req, req:json()).word } end)
app:post("/form", function(req) return must(req, req:form()).word end)
-- Both directions at once.
app:post("/echo", function(req, res)
  for piece in function() return req:read(500) end do
    if not res:write(piece) then error "cut" end
  end
end)

local places = {}
function places.sort(req)
  table.sort({ 5, 3, 4, 1, 2 }, function(a, b)
    sleep(req, 10)
    return a < b
  end)
end
function places.gsub(req) ("abc"):gsub(".", function() sleep(req, 3) end) end
function places.wrap(req)
  for _ in coroutine.wrap(function()
    for i = 1, 3 do
      sleep(req, 3)
      coroutine.yield(i)
    end
  end) do end
end
function places.index(req) return setmetatable({}, { __index = function() sleep(req) end }).x end
function places.concat(req)
  return setmetatable({}, { __concat = function() sleep(req) return "" end }) .. ""
end
function places.pcall(req) must(req, pcall(sleep, req)) end
function places.tostring(req)
  return ("%s"):format(tostring(setmetatable({}, { __tostring = function() sleep(req) return "" end })))
end
function places.load(req)
  local i = 0
  return load(function()
    i = i + 1
    sleep(req, 3)
    return i < 3 and "local a = 1 " or nil
  end)
end
function places.require(req)
  package.loaded.slow, package.preload.slow = nil, function() sleep(req) return {} end
  -- Who requires a module that another request loads, waits for that one's load, and gets its error.
  if not pcall(require, "slow") then error({ cut = req.query.w .. " cut: its load failed" }, 0) end
end
app:get("/in/:place", function(req)
  places[req.params.place](req)
  return answer(req)
end)

-- Several Gs for one answer.
app:get("/scope", function(req)
  local sum = 0
  lp.scope(function(s)
    for i = 1, count(req) do
      s:go(function()
        sleep(req, i)
        sum = sum + i
      end)
    end
  end)
  return answer(req, sum)
end)
app:get("/scope-fails", function(req)
  local ok, err = pcall(lp.scope, function(s)
    s:go(lp.sleep, 1e6)
    s:go(function() lp.sleep(seconds(req)) error(req.query.w, 0) end)
  end)
  return answer(req, tostring(ok), tostring(err):match "^[^\n]*")
end)
app:get("/chans", function(req)
  local ch, done, sum = lp.chan(count(req) % 3), lp.chan(), 0
  for i = 1, count(req) do
    lp.go(function() ch:send(i) end)
  end
  lp.go(function()
    for _ = 1, count(req) do sum = sum + (ch:recv() or 0) end
    done:send(true)
  end)
  must(req, lp.select { { done, "recv" } })
  return answer(req, sum)
end)
local mutex, inside = lp.mutex(), 0
app:get("/mutex", function(req)
  must(req, mutex:lock())
  inside = inside + 1
  local alone = inside == 1
  local ok, why = lp.sleep(seconds(req) / 10)
  inside = inside - 1
  mutex:unlock()
  must(req, ok, why)
  return answer(req, alone and "alone" or "MIX")
end)
app:get("/deadline", function(req)
  local ok, why = lp.deadline(seconds(req) / 10, function() return lp.sleep(1e6) end)
  return answer(req, tostring(ok), why == "timeout" and why or must(req, nil, why))
end)
app:get("/cancel", function(req)
  local g = lp.go(function() return select(2, lp.sleep(1e6)) end)
  sleep(req, 10)
  g:cancel()
  return answer(req, (must(req, g:join())))
end)
app:get("/timers", function(req)
  local n, ch = 0, lp.chan(1)
  local t = lp.every(seconds(req) / 20, function()
    n = n + 1
    if n == 3 then ch:send(true, 0) end
  end)
  local ok, why = ch:recv()
  t:stop()
  must(req, ok, why)
  return answer(req)
end)

-- What all VMs share.
app:get("/dict", function(req)
  local key = "n" .. req.query.w
  for _ = 1, 20 do
    dict:incr("all", 1, 0)
    dict:set(key, req.query.w)
    local got = dict:get(key) -- or it was evicted
    if got ~= nil and got ~= req.query.w then return answer(req, "MIX") end
    sleep(req, 20)
  end
  dict:delete(key)
  return answer(req)
end)
app:get("/mail", function(req)
  local text = ("m"):rep(count(req))
  lp.go(function() mail:send({ n = #text, text = text }, seconds(req)) end)
  local got, why = mail:recv(seconds(req))
  if not got and why ~= "timeout" then must(req, nil, why) end
  return answer(req, got and #got.text ~= got.n and "MIX" or nil)
end)

-- Files, programs, other threads, sockets.
app:get("/fs", function(req)
  local name = dir .. "/" .. req.query.w
  local text = req.query.w:rep(count(req))
  must(req, fs.write(name, text))
  local got, why = fs.read(req.query.w, { below = dir })
  os.remove(name)
  must(req, got, why)
  return answer(req, got == text and #got or "MIX")
end)
app:get("/exec", function(req)
  local r, why = exec.run({ "cat" }, { stdin = req.query.w })
  return answer(req, must(req, r, why).stdout)
end)
app:get("/popen", function(req)
  local p = must(req, io.popen("echo " .. req.query.w))
  local line, why = p:read()
  p:close()
  return answer(req, must(req, line, why))
end)
app:get("/exec-ends", function(req)
  local r, why = exec.run({ "sleep", "60" }, { timeout = seconds(req) / 5, grace = 1 })
  if r or why ~= "timeout" then must(req, nil, why) end
  return answer(req, why)
end)
app:get("/offload", function(req)
  must(req, lp.offload(ffi.C.usleep, seconds(req) * 1e5)) -- 0, or -1: a signal has ended it
  return answer(req)
end)
app:get("/dial", function(req)
  local ln = must(req, net.listen "127.0.0.1:0")
  lp.go(function()
    local far = ln:accept()
    if far then net.copy(far, far) end
    if far then far:close() end
  end)
  local near, why = net.dial(ln:addr())
  local got
  if near then
    near:write(req.query.w .. "\n")
    sleep(req, 10)
    got, why = near:read_line()
    near:close()
  end
  ln:close()
  return answer(req, must(req, got, why))
end)
-- The handler speaks with its client on a second connection, whose address it has streamed.
app:get("/aside", function(req, res)
  local ln = must(req, net.listen "127.0.0.1:0")
  res:write(req.query.w .. " " .. ln:addr() .. "\n")
  res:flush()
  local far = ln:accept()
  ln:close()
  if not far then error "cut" end
  for _ = 1, count(req) do
    local line = far:read_line()
    if not line then break end
    lp.go(far.write, far, req.query.w .. " " .. line .. "\n")
    lp.yield()
  end
  far:close()
  res:write(req.query.w .. " over")
end)

-- ---- what a handler leaves behind -----------------------------------------------------------------------------

local stash
-- Uses what an earlier request has left. Its request is over, or still the one that left it.
local function look_at_stash()
  local left = stash
  stash = nil
  if not left then return end
  for _, look in ipairs {
    function() return left.req.headers["x-word"] end, function() return left.req.query.w end,
    function() return left.req:cookie "word" end,
    function() return left.headers["x-word"] end,
  } do
    local ok, got = pcall(look)
    if ok and got ~= nil and got ~= left.word then return "MIX" end
  end
  if left.over() then
    pcall(function() left.res:write(left.word) left.res:flush() end)
    pcall(function() left.req:body() end)
  end
end
app:get("/leave", function(req, res)
  local mix, over = look_at_stash(), false
  stash = {
    req = req, res = res, headers = count(req) % 2 == 0 and req.headers or {}, word = req.query.w,
    over = function() return over end,
  }
  lp.detach(function()
    lp.sleep(seconds(req))
    over = true
  end)
  return answer(req, mix)
end)
-- Gs that write to their request when that has been answered.
app:get("/late", function(req, res)
  local word = req.query.w
  lp[count(req) % 2 == 0 and "go" or "detach"](function()
    lp.yield()
    for _ = 1, 5 do
      lp.sleep(0.01)
      pcall(function() res:write(word) res:flush() end)
      pcall(function() return req:read(10) end)
    end
  end)
  return answer(req)
end)
app:get("/garbage", function(req)
  local p = newproxy(true)
  local what = count(req) % 4
  getmetatable(p).__gc = function()
    if what == 0 then error "in a finalizer" end
    if what == 1 then lp.sleep(1) end -- it can't
    if what == 2 then lp.go(function() end) end
    collectgarbage "step"
  end
  net.listen "127.0.0.1:0" -- closed by the collector
  lp.chan(1):send(ffi.gc(ffi.new "char[1000]", function() end))
  p = nil -- luacheck: ignore 311
  collectgarbage(what == 3 and "step" or "collect")
  return answer(req)
end)
-- Its coroutine stays in other hands.
local coroutines = {}
app:get("/coroutine", function(req)
  coroutines[count(req) % 4 + 1] = coroutine.running()
  for _, co in pairs(coroutines) do
    if co ~= coroutine.running() and coroutine.resume(co, "MIX") then return answer(req, "MIX") end
  end
  if pcall(coroutine.yield, req.query.w) then return answer(req, "MIX") end
  local env = setmetatable({}, { __index = _G })
  setfenv(0, env)
  sleep(req, 10)
  if getfenv(0) ~= env then return answer(req, "MIX") end
  return answer(req)
end)
app:get("/hook", function(req)
  debug.sethook(function() end, "l")
  sleep(req, 10)
  debug.sethook()
  return answer(req)
end)
app:get("/callback", function(req)
  local list, n = ffi.new("int[4]", 4, 2, 3, 1), 0
  local compare = ffi.cast("fuzz_compare", function(a, b)
    n = n + (pcall(lp.sleep, 0.01) and 1 or 0) -- it can't
    return ffi.cast("int *", a)[0] - ffi.cast("int *", b)[0]
  end)
  ffi.C.qsort(list, 4, 4, compare)
  compare:free()
  return answer(req, list[0], list[3], n)
end)

-- ---- those that fail by themselves ----------------------------------------------------------------------------

local raisers = {
  function(req) error(req.query.w) end,
  function() error() end,
  function() error(setmetatable({}, { __tostring = function() error "no words" end })) end,
  function() local function f() return 1 + f() end return f() end,
  function() return nil, "as functions say that they fail" end,
  function() return print end,
  function() return 12 end,
  function() return { cyclic = newproxy() } end,
  function() local f = coroutine.wrap(function() lp.sleep(0.001) error "inside" end) f() end,
  function(req) lp.go(function() error(req.query.w) end) lp.sleep(0.01) error "and outside" end,
  function() os.exit(7) end,
  function(req) error(req.query.w:rep(20000)) end,
  -- Through C, without an end.
  function() local function f() return (("x"):gsub("x", f)) end return f() end,
  function() local function f() return coroutine.wrap(f)() end return f() end,
  function() local t = {} setmetatable(t, { __tostring = function() return tostring(t) end }) return tostring(t) end,
  function(_, res) res.headers["X-Bad"] = "a\r\nX-Word: q0q" end,
}
app:get("/raise", function(req, res) return raisers[count(req) % #raisers + 1](req, res) end)
-- After its answer has begun.
app:get("/raise-late", function(req, res)
  res:write(req.query.w)
  res:flush()
  sleep(req, 10)
  error(req.query.w)
end)
app:get("/hog", function(req)
  local list, size = {}, count(req)
  if size % 3 == 0 then return answer(req, #("x"):rep(2e9)) end
  if size % 3 == 1 then return answer(req, #json.encode(("x"):rep(5e7))) end
  while true do list[#list + 1] = ("x"):rep(size * 1000) .. #list end
end)

-- ---- those that have to be ended ------------------------------------------------------------------------------

local function interpreted(fn)
  jit.off(fn, true)
  return fn
end
-- luacheck: ignore 542
local endless = {
  function() while true do end end,
  interpreted(function() while true do end end),
  interpreted(function() while true do pcall(function() while true do end end) end end),
  function() local x = 1 while true do x = math.sin(x) + #("x"):rep(10) end end,
  function() while true do ffi.C.usleep(20000) end end,
  function() table.sort({ 3, 2, 1 }, function() while true do end end) end,
  function() coroutine.wrap(function() while true do end end)() end,
  function() xpcall(error, function() while true do end end) end,
  function()
    getmetatable(newproxy(true)).__gc = function() while true do end end
    collectgarbage()
    collectgarbage()
  end,
  function() lp.go(function() while true do end end) lp.sleep(10) end,
  function(_, res) res:write "q" res:flush() while true do end end,
  function() return setmetatable({}, { __index = function() while true do end end }).x end,
  function() debug.sethook(function() while true do end end, "l") return 1 end,
  function() local t = {} while true do pcall(function() t[#t + 1] = ("x"):rep(1000) .. #t end) end end,
  function() ("a"):gsub(".", function() while true do end end) end,
  function() ffi.C.usleep(300000) return 200 end,
  function() return #(("x"):rep(20000):gsub("x-y", "")) end,
  function() while true do lp.yield() end end,
  function() while true do lp.sleep(0.001) end end,
  function()
    mutex:lock()
    while true do end
  end,
  function() lp.detach(function() while true do end end) lp.yield() return 200 end,
  function() lp.after(0.001, function() while true do end end) lp.sleep(0.1) return 200 end,
}
app:get("/endless", function(req, res) return endless[count(req) % #endless + 1](req, res) end)

app:get("/stats", function()
  collectgarbage()
  collectgarbage()
  local t = lp.stats()
  return { fds = t.fds, vms = t.serving_vms, others = t.all_vms - t.serving_vms, chans = t.shared_chans }
end)

lp.singleton("fuzz", function() while lp.sleep(0.05) do dict:incr("beats", 1, 0) end end)
app:on_start(function() lp.every(0.05, function() end) end)
if tail.more then tail.more(app, lp) end

return app
