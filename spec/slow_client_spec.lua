--- Clients that read or send slowly, or not at all: what they may hold, how long, and that who is merely slow gets all
--- of it.

local lp = require "lunapark"
local testing = require "lunapark.testing"
local child = require "spec.support.child"

-- More than kernels take for a client that reads nothing.
local MUCH = 24 * 1024 * 1024

local APP = [[
local lp = require "lunapark"
local app = require("lunapark.http").app()
local big = {}
for i = 1, 1024 * 1024 / 8 do big[i] = ("%08d"):format(i) end
big = table.concat(big)
local much = big:rep(24)
local begun, said = 0, "nothing"
app:get("/", function() return "hello" end)
app:get("/fds", function() return tostring(lp.stats().fds) end)
app:get("/begun", function() return tostring(begun) end)
app:get("/vms", function() return tostring(lp.stats().serving_vms) end)
app:get("/said", function() return said end)
app:get("/big", function() begun = begun + 1 return big end)
app:get("/fifty", function() begun = begun + 1 return big:sub(1, 50000) end)
app:get("/much", function() return much end)
app:get("/json", function() return { much = much } end)
app:get("/noted", function(_, res) res.headers["X-A"] = "b" return much end)
app:get("/stream", function(_, res)
  res.headers["Content-Length"] = #much
  local ok, err = res:write(much)
  if ok then ok, err = res:flush() end
  said = tostring(err)
end)
app:get("/spin", function()
  while true do end
end)
app:get("/late", function(_, res)
  lp.go(function() lp.sleep(0.05) said = tostring(res:write "too late") end)
  return much
end)
app:post("/body", function(req)
  local body, err = req:body()
  if not body then return nil, err end
  return "got " .. #body
end)
app:post("/pause", function(req)
  local got = ""
  while not got:find(".", 1, true) do
    got = got .. assert(req:read(1))
  end
  lp.sleep(1.5)
  return got .. (req:read() or "nothing")
end)
app:post("/unread", function() return "unread" end)
return app
]]

testing.block_timeout(60)

describe("a client", function()
  local server

  local function serve(...)
    server = child.serve { child.script(APP), "--procs", "1", ... }
    return server
  end

  local function send(bytes)
    return child.send(server.addr, bytes)
  end

  local function get(path, version) return ("GET %s HTTP/%s\r\nHost: x\r\n\r\n"):format(path, version or "1.1") end

  local reply = child.reply

  local function rss_mb()
    local f = assert(io.open("/proc/" .. server.pid .. "/statm"))
    local pages = tonumber(f:read("*a"):match "%d+ (%d+)")
    f:close()
    return pages * 4096 / 1048576
  end

  local function assert_much(r)
    assert.same({ 200, MUCH }, { r.status, #r.body })
    assert.is_true(r.body:sub(1, 8) == "00000001" and r.body:sub(-8) == "00131072")
    local piece = r.body:sub(1, MUCH / 24)
    for i = 0, 23 do
      assert.is_true(r.body:sub(i * #piece + 1, (i + 1) * #piece) == piece, "piece " .. i)
    end
  end

  after_each(function()
    if server then assert.equal("hello", child.client(server.addr):get("/").body) end
    server = nil
    child.clean()
  end)

  it("that pipelines and reads nothing is not worked for", function()
    serve()
    for _, path in ipairs { "/big", "/fifty" } do
      local client = child.client(server.addr)
      local before = tonumber(client:get("/begun").body)
      local n = path == "/big" and 100 or 1500
      local conn = send(get(path):rep(n))
      local last, same = before, 0
      child.eventually(function() -- nothing more is begun while others are served
        local now = tonumber(client:get("/begun").body)
        same = now == last and now > before and same + 1 or 0
        last = now
        return same == 100
      end, "an end")
      assert.is_true(last - before < n * 0.7, last - before .. " begun of " .. n)
      for _ = 1, n do
        assert.equal(path == "/big" and 1048576 or 50000, #reply(conn).body)
      end
      conn:close()
      client:close()
    end
  end)

  it("that reads nothing holds no copy of its answers", function()
    -- On a busy machine 20 ms, as usual, pass in any handler, whose VM then is stuck, and another one is made.
    server = child.serve { env = { LUNAPARK_DEBUG = "retake=250" }, child.script(APP), "--procs", "1" }
    local client = child.client(server.addr)
    assert.equal(1048576, #client:get("/big").body)
    -- The spare VM loads what is large, too.
    child.eventually(function() return client:get("/vms").body == "2" end, "the spare VM")
    local before, conns = rss_mb(), {}
    for i = 1, 8 do
      conns[i] = send(i % 2 == 0 and get("/big"):rep(100) or get "/much")
    end
    for _ = 1, 200 do
      client:get "/"
    end
    local grown = rss_mb() - before
    -- ASan keeps what was freed.
    assert.is_true(grown < (child.has_asan and 200 or 40), grown .. " MB")
    for i = 2, 8, 2 do
      conns[i]:close()
    end
    for i = 1, 8, 2 do
      assert_much(reply(conns[i]))
      conns[i]:close()
    end
  end)

  it("that is late gets large answers whole, in whatever way they are told", function()
    serve()
    for _, path in ipairs { "/much", "/noted", "/stream", "/json" } do
      local conn = send(get(path):rep(2) .. get "/")
      lp.sleep(0.02)
      for _ = 1, 2 do
        local r = assert(testing.read_reply(conn), path)
        if path == "/json" then r.body = r.body:match '^{"much":"(.*)"}$' end
        assert_much(r)
      end
      assert.equal("hello", reply(conn).body)
      conn:close()
    end
    for _, path in ipairs { "/much", "/stream" } do
      local conn = send(get(path, "1.0"))
      assert(conn:close_write()) -- no other request will come
      lp.sleep(0.02)
      assert_much(reply(conn))
      conn:close()
    end
  end)

  it("gets nothing between the pieces of a large answer", function()
    serve()
    local conn = send(get "/late")
    local client = child.client(server.addr)
    child.eventually(function() return client:get("/said").body ~= "nothing" end)
    assert.equal("nil", client:get("/said").body)
    assert_much(reply(conn))
    conn:close()
  end)

  it("of a VM that is thrown away does not take a part for the whole", function()
    serve("--handler-timeout", "0.3", "--kill-after", "0.2")
    local conn = send(get "/much")
    assert.matches("200 OK", conn:read_line())
    local spinner = send(get "/spin")
    assert.equal(504, reply(spinner).status)
    server:said "VM"
    local rest, err = conn:read_exact(MUCH)
    assert.is_nil(rest)
    assert.is_truthy(err)
    spinner:close()
    conn:close()
    local client = child.client(server.addr)
    child.eventually(function() return client:get("/").status == 200 end, "another VM")
  end)

  it("that hangs up while a VM is made for it leaves the P to others", function()
    local app = [[
      local lp = require "lunapark"
      lp.sleep(0.7)
      return function(req)
        while req.path == "/spin" do end
        return "hello"
      end]]
    server = child.serve { child.script(app), "--procs", "1", "--max-vms", "30", "--kill-after", "60" }
    local client = child.client(server.addr)
    local spinners = {}
    for i = 1, 3 do -- these use up the VMs that are there, while others are made
      spinners[i] = send(get "/spin")
      local behind = { send(get "/"), send(get "/"), send(get "/") } -- taken out of that VM before they have begun
      lp.sleep(0.06)
      for _, conn in ipairs(behind) do
        conn:close()
      end
    end
    assert.equal("hello", assert(client:get("/")).body)
    for _, conn in ipairs(spinners) do
      conn:close()
    end
  end)

  it("that hangs up in a large answer ends it", function()
    serve "--drain-timeout=20"
    send(get "/much"):close()
    local conn = send(get "/much")
    assert.matches("200 OK", conn:read_line())
    conn:close()
    server:kill "TERM"
    assert.equal(0, server:wait())
    assert.no_match("unfinished", server:stderr())
    server = nil
  end)

  -- Reads a response in small pieces for so many seconds, then the rest, and calls meanwhile(i) before each piece.
  local function read_slowly(path, seconds, meanwhile)
    local conn = send(get(path))
    local until_then, pieces, n = lp.now() + seconds, {}, 0
    while lp.now() < until_then do
      if meanwhile then meanwhile(#pieces) end
      local piece, err = conn:read(16384)
      if not piece then return nil, err end
      n = n + #piece
      pieces[#pieces + 1] = piece
      lp.sleep(0.05)
    end
    local got = table.concat(pieces)
    local _, head_len = got:find("\r\n\r\n", 1, true)
    local rest, err = conn:read_exact(head_len + MUCH - n)
    conn:close()
    if not rest then return nil, err end
    assert_much { status = 200, body = got:sub(head_len + 1) .. rest }
    return true
  end

  it("that reads slowly outlasts --handler-timeout", function()
    serve("--handler-timeout", "2")
    assert.is_true(read_slowly("/stream", 3))
    assert.is_true(read_slowly("/much", 3))
  end)

  it("that reads slowly outlasts a reload", function()
    local path = child.script(APP)
    server = child.serve { path, "--procs", "1", "--drain-timeout", "0.2" }
    assert.is_true(read_slowly("/much", 2, function(i)
      if i ~= 3 then return end
      local f = assert(io.open(path, "a"))
      f:write "\n"
      f:close()
      server:kill "HUP"
      server:logged "generation 2 .* serves"
      lp.sleep(0.5) -- the time of the old one is over
    end))
  end)

  it("that reads less than --min-rate is closed", function()
    serve("--min-rate", "1000000000", "--idle-timeout", "1")
    for _, path in ipairs { "/stream", "/much" } do
      local ok, err = read_slowly(path, 3)
      assert.is_nil(ok)
      assert.is_truthy(err)
    end
    assert.equal("timeout", child.client(server.addr):get("/said").body)
  end)

  -- The server gets as many connections as it had when this was called and n more, for as long as they last: how many
  -- bytes are left tells nothing to who reads none.
  local function counts(client)
    local before = tonumber(client:get("/fds").body)
    return function(n)
      child.eventually(function() return tonumber(client:get("/fds").body) == before + n end, n .. " more connections")
    end
  end

  it("that stops reading a large answer is closed in time", function()
    serve("--min-rate", "240", "--idle-timeout", "1")
    local until_more = counts(child.client(server.addr))
    for _, path in ipairs { "/much", "/stream" } do
      local conn = send(get(path))
      assert.equal("HTTP/1.1 200 OK", conn:read_line())
      until_more(0)
      conn:close()
    end
  end)

  it("that stops in a body that nobody reads is closed in time", function()
    serve("--min-rate", "240", "--idle-timeout", "1", "--handler-timeout", "0")
    local until_more = counts(child.client(server.addr))
    for _, head in ipairs { "Content-Length: 100000", "Transfer-Encoding: chunked" } do
      local conn = send(("POST /unread HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n10\r\n"):format(head))
      local r, err = testing.read_reply(conn)
      assert.equal("unread", assert(r, err).body)
      until_more(0)
      conn:close()
    end
  end)

  it("that sends less than --min-rate is answered 408, or closed where nobody wants its body", function()
    serve("--min-rate", "240", "--idle-timeout", "1", "--handler-timeout", "0")
    local chunked, too_long = "Transfer-Encoding: chunked\r\n\r\n", "Content-Length: 1000000000\r\n\r\n"
    for _, case in ipairs { { "/body", chunked, 408 }, { "/unread", chunked, 200 }, { "/body", too_long, 413 } } do
      local conn = send(("POST %s HTTP/1.1\r\nHost: x\r\n%s"):format(case[1], case[2]))
      local give_up, sent = lp.now() + 20, 0
      repeat
        sent = sent + 1
        lp.sleep(0.05)
      until not conn:write "1\r\nx\r\n" or lp.now() > give_up
      assert.is_true(lp.now() < give_up, "still there after 20 s")
      -- A reset may have taken the answer.
      local r = testing.read_reply(conn)
      if r then assert.equal(case[3], r.status) end
      conn:close()
    end
  end)

  it("that sends more than --min-rate is not closed", function()
    serve("--min-rate", "240", "--idle-timeout", "2", "--handler-timeout", "0")
    for _, path in ipairs { "/body", "/unread" } do
      local conn = send(("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n"):format(path))
      for _ = 1, 60 do
        assert(conn:write(("x"):rep(1000)))
        lp.sleep(0.05)
      end
      assert.equal(path == "/body" and "got 60000" or "unread", reply(conn).body)
      conn:write(get "/")
      assert.equal("hello", reply(conn).body)
      conn:close()
    end
  end)

  it("pays only for the time in which we wait for it", function()
    serve("--min-rate", "240", "--idle-timeout", "1")
    local conn = send "POST /pause HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab"
    lp.sleep(0.05)
    conn:write "c."
    lp.sleep(0.05)
    conn:write "later"
    assert.equal("abc.later", reply(conn).body)
    conn:close()
  end)

  it("that sends all of a body that is too large finds the answer", function()
    serve()
    local piece = ("x"):rep(1048576)
    for _, head in ipairs { "Content-Length: 8388608\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n800000\r\n" } do
      local conn = send("POST /body HTTP/1.1\r\nHost: x\r\n" .. head)
      for _ = 1, 8 do
        assert(conn:write(piece))
        lp.sleep(0.01)
      end
      local r = reply(conn)
      assert.same({ 413, "close" }, { r.status, r.headers.connection })
      assert.same({ nil, "eof" }, { conn:read() })
      conn:close()
    end
  end)
end)
