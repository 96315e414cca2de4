--- Connections that handlers take over: res:hijack.

local fs = require "lunapark.fs"
local lp = require "lunapark"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local reload = require "spec.support.reload"

testing.block_timeout(300)

-- NAME and MORE are replaced.
local APP = [[
local lp = require "lunapark"
local app = require("lunapark.http").app()
local done = {}
local function crawl() while true do end end
jit.off(crawl)
local function note(req, _, info) done[#done + 1] = req.path .. " " .. info.status end
MORE
app:get("/", function() return "NAME" end)
app:get("/fds", function() return tostring(lp.stats().fds) end)
app:get("/done", function() return table.concat(done, ", ") end)
app:post("/unread", function(_, res) res:hijack() end)
app:get("/begun", function(_, res)
  res:write "begun"
  local _, err = pcall(res.hijack, res)
  res:write(err)
end)
app:any("/echo", function(req, res)
  local body = req:body()
  local conn = assert(res:hijack())
  conn:write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
  if body ~= "" then conn:write(body .. "\n") end
  while true do
    local line, err = conn:read_line()
    if line == "wait" then
      _, err = conn:read_line()
      conn:write("ended by " .. err .. "\n")
    end
    if not line or line == "wait" then return "goes nowhere" end
    if line == "fail" then error "a bad line" end
    if line == "spin" then crawl() end
    if line == "again" then line = select(2, pcall(res.hijack, res)) end
    if line == "write" then line = tostring(select(2, res:write "x")) end
    if line == "path" then line = req.path .. " " .. req.headers["user-agent"] end
    if line == "nap" then lp.sleep(0.4) end
    if line == "leave" then lp.go(function() lp.sleep(0.05) conn:write "late" end) return end
    conn:write("NAME " .. line .. "\n")
  end
end)
return app
]]

local function app_of(name, more)
  return (APP:gsub("%u%u%u%u", { NAME = name, MORE = more or "" }))
end

local UPGRADE = "GET /echo HTTP/1.1\r\nHost: x\r\nUser-Agent: me\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
local HEAD = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n"

describe("res:hijack", function()
  after_each(function()
    reload.clean()
    child.clean()
  end)

  local function serve(...)
    return child.serve { child.script(app_of "one"), "--procs", "1", ... }
  end

  local function send(server, bytes) return child.send(server.addr, bytes) end

  -- A connection that is taken over.
  local function taken(server)
    local c = send(server, UPGRADE)
    assert.equal(HEAD, c:read_exact(#HEAD))
    return c
  end

  local function ask(c, text)
    assert(c:write(text .. "\n"))
    return c:read_line()
  end

  it("gives the handler the connection, and what came behind the request", function()
    local server = serve()
    local c = send(server, UPGRADE .. "a\nb")
    assert.equal(HEAD .. "one a\n", c:read_exact(#HEAD + 6))
    assert.equal("one b!", ask(c, "!"))
    assert.equal("one /echo me", ask(c, "path"))
    assert.equal("one closed", ask(c, "write"))
    assert.matches("one .*hijack: the answer has begun", ask(c, "again"))
    c:close_write()
    assert.same({ nil, "eof" }, { c:read() })
  end)

  it("sends what was asked for before", function()
    local server = serve()
    local c = send(server, "GET / HTTP/1.1\r\nHost: x\r\n\r\n" .. UPGRADE .. "a\n")
    assert.equal("one", child.reply(c).body)
    assert.equal(HEAD .. "one a\n", c:read_exact(#HEAD + 6))
  end)

  it("takes a request with a body when the body is read", function()
    local server = serve()
    local post = "POST /%s HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"
    local c = send(server, post:format "echo" .. "a\n")
    assert.equal(HEAD .. "body\none a\n", c:read_exact(#HEAD + 11))
    assert.equal(500, child.reply(send(server, post:format("unread"):sub(1, -2))).status)
    server:said "hijack: the request has a body that is not read to its end: req:body() reads it"
    local begun = child.reply(send(server, "GET /begun HTTP/1.1\r\nHost: x\r\n\r\n"))
    assert.matches("^begun.*hijack: the answer has begun", begun.body)
  end)

  it("closes the connection when the handler ends, in whatever way", function()
    local server = serve("--handler-timeout", "5", "--kill-after", "0.2")
    local client = child.client(server.addr)
    local fds = client:get("/fds").body
    for _, way in ipairs { "leave", "fail" } do
      local c = taken(server)
      c:write(way .. "\n")
      assert.same({ nil, "eof" }, { c:read() })
    end
    server:said "a bad line"
    local c = taken(server)
    c:close()
    child.eventually(function() return client:get("/fds").body == fds end, "as many descriptors as before")
  end)

  it("closes the connection when its VM is dropped", function()
    if child.has_tsan then return pending "no signal reaches the loop" end
    local server = serve("--handler-timeout", "0.3", "--kill-after", "0.2")
    local c, other = taken(server), taken(server)
    assert.equal("one a", ask(other, "a"))
    assert.is_nil((ask(c, "spin")))
    server:said "was ended"
    child.eventually(function() return child.client(server.addr):get("/").status == 200 end)
  end)

  -- Hundredths of a second.
  local function cpu_ticks(server)
    local behind_name = fs.read(("/proc/%d/stat"):format(server.pid)):match "%) %S (.*)"
    local user, system = behind_name:match(("%S+ "):rep(10) .. "(%d+) (%d+)")
    return user + system
  end

  it("has no deadline but the client's silence", function()
    local server = serve("--handler-timeout", "0.3", "--idle-timeout", "0.8")
    local c = taken(server)
    for _ = 1, 3 do assert.equal("one nap", ask(c, "nap")) end
    local before = cpu_ticks(server)
    lp.sleep(0.5)
    assert.is_true(cpu_ticks(server) - before < 10, "nobody looks again and again whether the time is over")
    assert.equal("ended by timeout", ask(c, "wait"))
  end)

  it("is a line of the access log, and one call of on_done", function()
    local path = child.file()
    local app = child.script(app_of("one", "app:on_done(note)"))
    local server = child.serve { app, "--procs", "1", "--access-log", path }
    local c = taken(server)
    assert.equal("one a", ask(c, "a"))
    c:close()
    child.eventually(function()
      return (fs.read(path) or ""):match '^127%.0%.0%.1 %S+ %S+ %[.-%] "GET /echo HTTP/1%.1" 101 '
    end, function() return "a line, not " .. tostring(fs.read(path)) end)
    child.eventually(function() return child.client(server.addr):get("/done").body:find("^/echo 101") end)
  end)

  it("counts for --max-conns", function()
    local server = serve("--max-conns", "2")
    local c, _ = taken(server), taken(server)
    assert.equal(503, child.reply(send(server, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")).status)
    c:close()
    child.eventually(function()
      local again = send(server, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
      local r = child.reply(again)
      again:close()
      return r and r.status == 200
    end)
  end)

  it("stays over a reload, in its VM", function()
    local folder = reload.folder { ["app.lua"] = app_of "one" }
    local server = child.serve { folder .. "/app.lua", "--procs", "1", "--drain-timeout", "60" }
    local c = taken(server)
    reload.write(folder, "app.lua", app_of "two")
    server:kill "HUP"
    server:said "serves, loaded in"
    assert.equal("one a", ask(c, "a"))
    assert.equal("two a", ask(taken(server), "a"))
    assert.equal("one b", ask(c, "b"))
  end)

  it("is canceled when --drain-timeout is over", function()
    local folder = reload.folder { ["app.lua"] = app_of "one" }
    local server = child.serve { folder .. "/app.lua", "--procs", "1", "--drain-timeout", "0.3" }
    local c = taken(server)
    c:write "wait\n"
    reload.write(folder, "app.lua", app_of "two")
    server:kill "HUP"
    assert.equal("ended by canceled", c:read_line())
    assert.same({ nil, "eof" }, { c:read() })
  end)

  it("goes on while the server stops, as long as the client talks", function()
    local server = child.serve {
      child.script(app_of "one"), "--procs", "1", "--drain-timeout", "60", env = { LUNAPARK_DEBUG = "drainidle=2000" },
    }
    local c, silent = taken(server), taken(server)
    silent:write "wait\n"
    server:kill "TERM"
    server:said "SIGTERM: stopping"
    for i = 1, 3 do
      assert.equal("one " .. i, ask(c, i))
      lp.sleep(0.2)
    end
    assert.equal("ended by timeout", silent:read_line())
    assert.equal(0, server:wait())
  end)

  it("works within TLS", function()
    local server = child.serve { child.script(app_of "one"), "--procs", "1", "--tls-self-signed" }
    local c = child.dial(server.addr, { insecure = true })
    c:write(UPGRADE .. "a\n")
    assert.equal(HEAD .. "one a\n", c:read_exact(#HEAD + 6))
    local long = ("x"):rep(30000)
    assert.equal("one " .. long, ask(c, long))
    c:close_write()
    assert.same({ nil, "eof" }, { c:read() })
  end)
end)
