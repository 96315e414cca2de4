-- What a handler that takes too long, or whose client is gone, can and can't do; against servers in processes of their
-- own.

local lp = require "lunapark"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local helper = require "spec.helper"

local all, count, reply = helper.all, helper.count, child.reply

local APP = [[
local lp = require "lunapark"
local app = require("lunapark.http").app()
local seen = {}
local function note(name, value) seen[name] = tostring(value) end
app:get("/", function() return "hello" end)
app:get("/seen/:name", function(req) return seen[req.params.name] or "nothing" end)
app:get("/sleep", function(req)
  local s = tonumber(req.query.s) or 5
  note("sleep", select(2, lp.sleep(s)))
  if req.query.after then lp.sleep(0) end
  return "slept"
end)
app:get("/often", function()
  local answers = {}
  for i = 1, 3 do answers[i] = tostring(select(2, lp.sleep(5))) end
  note("often", table.concat(answers, " "))
end)
app:get("/raise", function()
  lp.sleep(5)
  error "raised too late"
end)
app:get("/assert", function()
  local ok, err = lp.sleep(5)
  note("assert", err)
  assert(ok, err)
end)
app:get("/nested", function(req)
  local inner = tonumber(req.query.s)
  local err = lp.deadline(inner, function() return select(2, lp.sleep(5)) end)
  note("nested", err)
  return tostring(err)
end)
app:get("/nested_stream", function(req, res)
  -- Writing renews the request's deadline, but not that of lp.deadline.
  local start = lp.now()
  local err = lp.deadline(1.8, function()
    while true do
      res:write "x"
      res:flush()
      local ok, why = lp.sleep(0.05)
      if not ok then return why end
    end
  end)
  res:write((" %s %.1f"):format(err, lp.now() - start))
  for _ = 1, 5 do
    if not lp.sleep(0.4) then return end
    res:write "."
    res:flush()
  end
  res:write "end"
end)
app:get("/stream", function(req, res)
  for i = 1, tonumber(req.query.n) do
    if not res:write(i .. " ") or not res:flush() then return end
    local ok, err = lp.sleep(tonumber(req.query.s))
    if not ok then
      note("stream", err)
      return
    end
  end
  res:write "end"
end)
app:get("/silent", function(_, res)
  res:write "begun"
  res:flush()
  note("silent", select(2, lp.sleep(5)))
  note("silent_write", select(2, res:write "late"))
end)
app:get("/flood", function(_, res)
  local err
  repeat err = select(2, res:write(("x"):rep(65536))) until err
  note("flood", err)
end)
app:get("/half", function(_, res)
  note("half", select(2, lp.sleep(5)))
  for _ = 1, 100 do
    local ok, err = res:write(("x"):rep(65536))
    if not ok then return note("half_write", err) end
  end
  note("half_write", "all")
end)
app:get("/early", function(_, res)
  res.headers:set("Content-Length", "4")
  res:write "done"
  res:flush()
  require("ffi").C.host_stream_end(rawget(res, "ptr"), rawget(res, "serial"))
  note("early", select(2, lp.sleep(5)))
end)
app:get("/go", function()
  local g = lp.go(function()
    note("go", select(2, lp.sleep(5)))
    return "over"
  end)
  return tostring(g:join())
end)
app:post("/body", function(req)
  local body, err = req:body()
  note("body", err or #body)
  return body and "read" or nil
end)
app:post("/late_body", function(req)
  note("late_body", select(2, lp.sleep(0.2)))
  local body = req:body()
  note("late_body_len", body and #body)
  return tostring(#body) .. " " .. tostring(select(2, lp.sleep(0.01)))
end)
app:get("/closed", function(req, res)
  lp.sleep(5)
  note("closed", select(2, res:write "late"))
  note("closed_addr", req.remote_addr)
end)
app:get("/spin", function(req)
  local till = lp.now() + tonumber(req.query.s)
  while lp.now() < till do end
  return "spun"
end)
app:get("/stats", function()
  local s = lp.stats()
  return { lua_gs = s.lua_gs, fds = s.fds }
end)
return app
]]

local GET = "GET %s HTTP/1.1\r\nHost: x\r\n\r\n"

-- What a handler has noted under that name, when it has.
local function seen_by(client, name)
  local value
  child.eventually(function()
    local r = client:get("/seen/" .. name)
    value = r.body
    return r.status == 200 and value ~= "nothing"
  end, "what " .. name .. " saw")
  return value
end

describe("--handler-timeout", function()
  local server, client

  local function serve(timeout, ...)
    -- One VM: handlers leave notes for each other.
    server = child.serve {
      child.script(APP), "--procs", "1", "--max-vms", "1", "--handler-timeout", timeout, ...
    }
    client = child.client(server.addr)
  end

  local function dial()
    return child.dial(server.addr)
  end

  local function send(bytes)
    return child.send(server.addr, bytes)
  end

  local function seen(name)
    return seen_by(client, name)
  end

  local function descriptors()
    local n = 0
    local p = assert(io.popen("ls /proc/" .. server.pid .. "/fd"))
    for _ in p:lines() do n = n + 1 end
    p:close()
    return n
  end

  after_each(function()
    if server and not server:poll() then
      child.eventually(function() -- a busy machine may let even this handler be late
        local r = assert(client:get "/")
        assert.is_true(r.status == 504 or r.body == "hello")
        return r.status == 200
      end, "an answer")
    end
    server = nil
    child.clean()
  end)

  it("answers 504 for a handler that sleeps, at the time, and closes", function()
    serve "0.3"
    local conn = send(GET:format "/sleep?after=1")
    local start = lp.now()
    local r, last = reply(conn)
    local took = lp.now() - start
    assert.same({ 504, "Gateway Timeout", true }, { r.status, r.body, last })
    assert.is_true(took > 0.25, took .. " s")
    assert.same({ nil, "eof" }, { conn:read() })
    conn:close()
    assert.equal("timeout", seen "sleep")
    local log = server:said "GET /sleep"
    assert.equal(1, count(log, "GET /sleep"), log)
    assert.matches("warn GET /sleep: no answer in 0.3 s, the client was answered 504\n", log)
  end)

  it("lets a handler that is fast enough alone, also on the same connection", function()
    serve "1.5"
    local conn = dial()
    for _ = 1, 4 do
      conn:write(GET:format "/sleep?s=0.5")
      local r, last = reply(conn)
      assert.same({ 200, "slept", false }, { r.status, r.body, last })
    end
    conn:write(GET:format "/sleep")
    assert.equal(504, (reply(conn)).status)
    conn:close()
  end)

  it("0 is no limit", function()
    serve "0"
    assert.equal("slept", client:get("/sleep?s=0.5").body)
  end)

  it("ends every later wait of the handler, and its calls say that nobody is there", function()
    serve "0.2"
    assert.equal(504, client:get("/often").status)
    assert.equal("timeout timeout timeout", seen "often")
    assert.equal(504, client:get("/closed").status)
    assert.equal("closed", seen "closed")
    assert.equal("", client:get("/seen/closed_addr").body)
    assert.equal(504, client:get("/go").status)
    assert.equal("timeout", seen "go")
  end)

  it("logs what is raised after it", function()
    serve "0.2"
    assert.equal(504, client:get("/raise").status)
    child.eventually(function() return server:stderr():find("raised too late", 1, true) end)
    assert.matches("error GET /raise %(GET /raise%): after the client was answered 504: .*raised too late",
      server:stderr())
  end)

  it("does not send what came before it after it, and drops requests behind it", function()
    serve "1.5"
    local conn = send(GET:format "/" .. GET:format "/seen/x" .. GET:format "/sleep" .. GET:format "/")
    assert.equal("hello", reply(conn).body)
    assert.equal("nothing", reply(conn).body)
    local r, last = reply(conn)
    assert.same({ 504, true }, { r.status, last })
    assert.same({ nil, "eof" }, { conn:read() })
    conn:close()
  end)

  it("answers HEAD and HTTP/1.0 as they want it", function()
    serve "0.2"
    local conn = send "HEAD /sleep HTTP/1.1\r\nHost: x\r\n\r\n"
    local r = assert(testing.read_reply(conn, "HEAD"))
    assert.same({ 504, "15" }, { r.status, r.headers["content-length"] })
    assert.same({ nil, "eof" }, { conn:read() })
    conn:close()
    conn = send "GET /sleep HTTP/1.0\r\n\r\n"
    assert.equal(504, (reply(conn)).status)
    conn:close()
  end)

  it("counts for a body that stalls", function()
    serve "0.3"
    local conn = send "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"
    assert.equal(504, (reply(conn)).status)
    assert.same({ nil, "eof" }, { conn:read() })
    conn:close()
    assert.equal("timeout", seen "body")
    -- Also while it still comes.
    conn = send "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\nabc"
    local writer = lp.go(function()
      while conn:write "x" do lp.sleep(0.01) end
    end)
    assert.equal(504, (reply(conn)).status)
    conn:close()
    writer:join()
  end)

  it("of nested deadlines the nearer one counts", function()
    serve "1.5"
    local r = client:get "/nested?s=0.1"
    assert.same({ 200, "timeout" }, { r.status, r.body })
    assert.equal(504, client:get("/nested?s=3").status)
    assert.equal("timeout", seen "nested")
  end)

  it("is renewed by what is written, and cuts off who writes nothing more", function()
    serve "1.5"
    local r = client:get "/stream?n=5&s=0.4"
    assert.same({ 200, "1 2 3 4 5 end" }, { r.status, r.body })
    local start = lp.now()
    local err
    r, err = client:get "/silent"
    local took = lp.now() - start
    assert.same({ nil, "eof" }, { r, err })
    assert.is_true(took > 1.4, took .. " s")
    assert.equal("timeout", seen "silent")
    assert.equal("closed", seen "silent_write")
    assert.matches("warn GET /silent: nothing written for 1.5 s, the response was broken off\n",
      server:said "broken off\n")
    r, err = client:get "/stream?n=3&s=600"
    assert.same({ nil, "eof" }, { r, err })
    assert.equal("timeout", seen "stream")
  end)

  it("renewed, does not renew lp.deadline", function()
    serve "1.5"
    local r = assert(client:get "/nested_stream")
    local took = r.body:match "^x+ timeout (%d+%.%d)%.....end$"
    assert.is_true(took and tonumber(took) >= 1.8, r.body)
  end)

  it("cuts a client off that reads nothing", function()
    serve "0.3"
    local conn = send(GET:format "/flood")
    assert.matches("200", conn:read_line())
    local err = seen "flood"
    assert.is_true(err == "timeout" or err == "closed", err)
    conn:close()
  end)

  it("leaves a connection alone whose response is complete", function()
    serve "1.5"
    local conn = send(GET:format "/early" .. GET:format "/")
    assert.equal("done", reply(conn).body)
    assert.equal("hello", reply(conn).body)
    conn:write(GET:format "/seen/early")
    assert.equal("timeout", reply(conn).body)
    conn:close()
    assert.is_nil(server:stderr():find("early", 1, true))
  end)

  it("answers for handlers that never wait, on time, and others meanwhile", function()
    server = child.serve { child.script(APP), "--procs", "1", "--handler-timeout", "0.3", "--kill-after", "600" }
    client = child.client(server.addr)
    local start = lp.now()
    local conns = {}
    for i = 1, 3 do conns[i] = send(GET:format "/spin?s=600") end
    for _, conn in ipairs(conns) do
      assert.equal(504, (reply(conn)).status) -- while they spin
      conn:close()
    end
    assert.is_true(lp.now() - start > 0.25)
  end)

  it("counts for 1,000 at once, and leaves nothing behind", function()
    serve "5"
    local control = dial()
    local function stats()
      assert(control:write(GET:format "/stats"))
      return reply(control):json()
    end
    local before, fds = stats(), descriptors()
    local n = 1000
    local conns = {}
    all(n, function(i) conns[i] = dial() end)
    all(n, function(i)
      assert(conns[i]:write(GET:format "/sleep?after=1"))
      local r = reply(conns[i])
      assert(r.status == 504, r.status)
      conns[i]:close()
    end)
    child.eventually(function() return stats().lua_gs <= before.lua_gs end, "the end of the handlers")
    child.eventually(function() return descriptors() <= fds end, "the end of the connections")
    assert.equal(n, count(server:said("answered 504", n), "answered 504"))
    control:close()
    server:kill "TERM"
    assert.equal(0, server:wait())
  end)

  it("each client gets one answer, when handlers end at just that time", function()
    serve("0.05", "--procs", "2")
    local ok, late = 0, 0
    all(40, function(i)
      for round = 1, 15 do
        local conn = send(GET:format(("/spin?s=%.4f"):format(0.0001)) ..
          GET:format(("/sleep?s=%.4f"):format(0.05 + ((i * 15 + round) % 21 - 10) * 0.0002)) .. GET:format "/")
        local expected, n = { "spun", "slept", "hello" }, 0
        repeat
          local r, last = reply(conn)
          n = n + 1
          assert(r.status == 504 and last or r.status == 200 and r.body == expected[n], r.status)
        until n == 3 or last
        if n == 3 then ok = ok + 1 else late = late + 1 end
        conn:close()
      end
    end)
    assert.equal(600, ok + late)
    assert.is_true(late > 0)
  end)

  it("does not make a stop wait for handlers that have lost their clients", function()
    serve("1", "--drain-timeout", "10")
    local gs = client:get("/stats"):json().lua_gs
    local conn = send(GET:format "/sleep")
    local g = lp.go(function() return reply(conn).status end)
    child.eventually(function() return client:get("/stats"):json().lua_gs > gs end, "the handler")
    server:kill "TERM"
    assert.equal(504, (g:join()))
    conn:close()
    assert.equal(0, server:wait())
    assert.is_nil(server:stderr():find("unfinished", 1, true))
  end)

  it("is each handler's own, not that of one which had its coroutine before", function()
    server = child.serve { child.script [[
      local lp = require "lunapark"
      local app = require("lunapark.http").app()
      app:get("/join", function() return tostring(lp.go(lp.sleep, 0.3):join()) end)
      app:get("/sleep", function() return tostring(lp.sleep(0.7)) end)
      app:get("/", function() return "hello" end)
      return app
    ]], "--procs", "1", "--max-vms", "1", "--handler-timeout", "2" }
    client = child.client(server.addr)
    all(4, function() assert.equal("true", child.client(server.addr):get("/join").body) end)
    lp.sleep(1.5) -- the deadlines of those four pass while the next ones sleep
    all(12, function() assert.equal("true", child.client(server.addr):get("/sleep").body) end)
  end)
end)

describe("a client that hangs up", function()
  local server, client

  local function serve(...)
    server = child.serve { child.script(APP), "--procs", "1", "--max-vms", "1", ... }
    client = child.client(server.addr)
  end

  local function send(bytes)
    return child.send(server.addr, bytes)
  end

  local function seen(name)
    return seen_by(client, name)
  end

  after_each(child.clean)

  it("cancels its handler, quietly", function()
    serve()
    local conn = send(GET:format "/sleep")
    lp.sleep(0.05)
    conn:close()
    assert.equal("canceled", seen "sleep")
    conn = send(GET:format "/often")
    lp.sleep(0.05)
    conn:close()
    assert.equal("canceled canceled canceled", seen "often")
    conn = send(GET:format "/assert")
    lp.sleep(0.05)
    conn:close()
    assert.equal("canceled", seen "assert")
    lp.sleep(0.05)
    assert.is_nil(server:stderr():find("error", 1, true), server:stderr())
    assert.is_nil(server:stderr():find("warn", 1, true), server:stderr())
  end)

  it("cancels a handler that has not begun when it does", function()
    serve()
    for _ = 1, 20 do -- by the time that the server reads it, mostly
      send(GET:format "/sleep"):close()
      assert.equal("canceled", seen "sleep")
    end
  end)

  it("on its side alone gets its answer, however long", function()
    serve()
    local conn = send(GET:format "/sleep")
    lp.sleep(0.02)
    assert(conn:close_write())
    assert.equal("slept", assert(testing.read_reply(conn)).body)
    assert.same({ nil, "eof" }, { conn:read() })
    conn:close()
    conn = send(GET:format "/half")
    assert(conn:close_write())
    assert.equal("canceled", seen "half")
    lp.sleep(0.05)
    assert.equal(6553600, #assert(testing.read_reply(conn)).body)
    conn:close()
    assert.equal("all", seen "half_write")
  end)

  it("does not cancel if its connection ends with the answer: it may wait so", function()
    serve()
    for _, rest in ipairs { "HTTP/1.0\r\n\r\n", "HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" } do
      local conn = send("GET /sleep?s=0.1 " .. rest)
      assert(conn:close_write())
      assert.equal("slept", assert(testing.read_reply(conn)).body)
      assert.same({ nil, "eof" }, { conn:read() })
      conn:close()
      assert.equal("nil", seen "sleep")
    end
  end)

  it("cancels by a reset, also if its connection ends with the answer", function()
    serve()
    local conn = send "GET /silent HTTP/1.0\r\n\r\n"
    lp.sleep(0.05)
    conn:close() -- with bytes unread, or before they come
    assert.equal("canceled", seen "silent")
  end)

  it("does not cancel while its body or another request is still to be read", function()
    serve()
    local conn = send("POST /late_body HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
    assert(conn:close_write())
    assert.equal("5 canceled", assert(testing.read_reply(conn)).body)
    conn:close()
    assert.equal("nil", seen "late_body")
    conn = send(GET:format "/sleep?s=0.1" .. GET:format "/seen/sleep")
    assert(conn:close_write())
    assert.equal("slept", assert(testing.read_reply(conn)).body)
    assert.equal("nil", assert(testing.read_reply(conn)).body)
    conn:close()
  end)
end)
