--- `res:send_file`: what the client gets of a file, whatever its size, how slowly the client reads, and what becomes of
--- the file meanwhile; and that no descriptor stays.

local fs = require "lunapark.fs"
local lp = require "lunapark"
local testing = require "lunapark.testing"
local child = require "spec.support.child"

local APP = [[
local fs = require "lunapark.fs"
local lp = require "lunapark"
local app = require("lunapark.http").app()
local dir, said = %q, "nothing"
app:get("/said", function() return said end)
app:get("/fds", function()
  collectgarbage()
  return tostring(#fs.list "/proc/self/fd")
end)
-- Files are closed without it.
app:get("/collect/:what", function(req)
  collectgarbage(req.params.what)
  return tostring(#fs.list "/proc/self/fd")
end)
local function noted(path, f)
  app:get(path, function(_, res)
    assert(res:send_file(dir .. "/hello.txt"))
    return f(res)
  end)
end
noted("/instead/text", function() return "text" end)
noted("/instead/status", function() return 404 end)
noted("/instead/json", function(res) res:json {} end)
noted("/instead/none", function(res) res.body = nil end)
noted("/instead/stream", function(res) res:write "piece" end)
noted("/instead/error", function() error "after all" end)
noted("/instead/file", function(res) return res:send_file(dir .. "/hello.txt") end)
local late = "nothing"
noted("/instead/late", function(res)
  lp.go(function()
    lp.sleep(0.05)
    late = select(2, pcall(res.send_file, res, dir .. "/hello.txt"))
  end)
  return true
end)
app:get("/late", function() return late end)
app:get("/file/:name", function(req, res)
  local ok, err = res:send_file(dir .. "/" .. req.params.name)
  said = tostring(err)
  if not ok then return 404, err end
end)
app:get("/straight/:name", function(req, res) return res:send_file(dir .. "/" .. req.params.name) end)
app:get("/below/*rest", function(req, res) return res:send_file(req.params.rest, { below = dir }) end)
app:get("/noted/:name", function(req, res)
  res.status = 203
  res.headers["Content-Type"] = "text/x-mine"
  res.headers["X-Before"] = "1"
  assert(res:send_file(dir .. "/" .. req.params.name))
end)
app:get("/twice/:name", function(req, res)
  assert(res:send_file(dir .. "/hello.txt"))
  return res:send_file(dir .. "/" .. req.params.name)
end)
app:get("/nobody/:name", function(req, res)
  res.status = 304
  return res:send_file(dir .. "/" .. req.params.name)
end)
app:get("/raises/:name", function(req, res)
  assert(res:send_file(dir .. "/" .. req.params.name))
  error "after all"
end)
app:get("/shrinks", function(_, res)
  local f = assert(io.open(dir .. "/shrinks", "w"))
  f:write(("s"):rep(8 * 1024 * 1024))
  f:close()
  assert(res:send_file(dir .. "/shrinks"))
  f = assert(io.open(dir .. "/shrinks", "w"))
  f:write(("s"):rep(1000))
  f:close()
end)
app:get("/hello", function() return "hello" end)
app:use(function(_, res, next)
  local a, b, c = next()
  res.headers["X-After"] = "2"
  return a, b, c
end)
return app
]]

-- The last is more than kernels take for a client that reads nothing.
local SIZES = { 0, 1, 100, 16383, 16384, 16385, 65536, 70000, 524288, 524289, 1048577, 3000000, 24 * 1024 * 1024 }
local MUCH = SIZES[#SIZES]

-- Bytes that differ from those around them, also a page further.
local PIECE = {}
for i = 1, 10007 do PIECE[i] = string.char((i * 31 + math.floor(i / 251)) % 256) end
PIECE = table.concat(PIECE)

local function content(n) return PIECE:rep(math.ceil(n / #PIECE)):sub(1, n) end

testing.block_timeout(120)

describe("send_file", function()
  local dir, server

  local function serve(...)
    dir = os.tmpname()
    os.remove(dir)
    assert(os.execute("mkdir " .. dir))
    for _, n in ipairs(SIZES) do assert(fs.write(dir .. "/" .. n .. ".bin", content(n))) end
    assert(fs.write(dir .. "/hello.txt", "hello file"))
    server = child.serve { child.script(APP:format(dir)), "--procs", "1", ... }
    return server
  end

  after_each(function()
    child.clean()
    if dir then os.execute("rm -rf " .. dir) end
    dir = nil
  end)

  local function get(path, method, version)
    return ("%s %s HTTP/%s\r\nHost: x\r\n\r\n"):format(method or "GET", path, version or "1.1")
  end

  local function send(bytes) return child.send(server.addr, bytes) end

  -- assert.equal would print both.
  local function assert_content(n, r)
    assert.equal(200, r.status)
    assert.equal(tostring(n), r.headers["content-length"])
    assert.equal(n, #r.body)
    assert.is_true(r.body == content(n), "the content of " .. n .. " bytes")
  end

  it("sends files of all sizes, on one connection", function()
    serve()
    local conn = child.dial(server.addr)
    for _, n in ipairs(SIZES) do
      conn:write(get("/file/" .. n .. ".bin"))
      local r = child.reply(conn)
      assert_content(n, r)
      assert.equal("application/octet-stream", r.headers["content-type"])
      assert.equal("nosniff", r.headers["x-content-type-options"])
      assert.equal("2", r.headers["x-after"])
      conn:write(get("/file/" .. n .. ".bin", "HEAD"))
      r = child.reply(conn, "HEAD")
      assert.same({ 200, tostring(n), "" }, { r.status, r.headers["content-length"], r.body })
    end
    conn:close()
  end)

  it("sends pipelined files, and what is asked for between them, in order", function()
    serve()
    local conn = send(get "/hello" .. get "/file/100.bin" .. get "/file/3000000.bin" .. get "/hello"
      .. get "/file/0.bin" .. get "/file/16384.bin" .. get "/file/1048577.bin" .. get("/file/70000.bin", "HEAD")
      .. get "/hello" .. get "/file/nothing" .. get("/file/70000.bin", nil, "1.0"))
    lp.sleep(0.1)
    assert.equal("hello", child.reply(conn).body)
    for _, n in ipairs { 100, 3000000, -1, 0, 16384, 1048577 } do
      if n < 0 then assert.equal("hello", child.reply(conn).body) else assert_content(n, child.reply(conn)) end
    end
    assert.equal("70000", child.reply(conn, "HEAD").headers["content-length"])
    assert.equal("hello", child.reply(conn).body)
    assert.equal(404, child.reply(conn).status)
    assert_content(70000, child.reply(conn))
    assert.same({ nil, "eof" }, { conn:read() })
    conn:close()
  end)

  it("tells the type by the end of the name, and leaves the rest to the headers", function()
    serve()
    local client = child.client(server.addr)
    for name, ctype in pairs {
      ["a.html"] = "text/html; charset=utf-8", ["a.CSS"] = "text/css; charset=utf-8", ["a.tar.gz"] = "application/gzip",
      ["a.js"] = "text/javascript; charset=utf-8", ["a.json"] = "application/json", ["a.svg"] = "image/svg+xml",
      ["html"] = "application/octet-stream", ["a.unknown"] = "application/octet-stream",
    } do
      assert(fs.write(dir .. "/" .. name, "x"))
      local r = client:get("/straight/" .. name)
      assert.same({ 200, "x", ctype }, { r.status, r.body, r.headers["content-type"] })
      assert.same({ "nosniff" }, r.headers:get_all "x-content-type-options")
    end
    local r = client:get "/noted/a.html"
    assert.same({ 203, "x", { "text/x-mine" }, "1", "2" }, {
      r.status, r.body, r.headers:get_all "content-type", r.headers["x-before"], r.headers["x-after"],
    })
    assert.is_nil(r.headers["x-content-type-options"])
    assert.equal(content(100), client:get("/twice/100.bin").body)
    assert.same({ 304, "" }, { client:get("/nobody/a.html").status, client:get("/nobody/a.html").body })
  end)

  it("tells the handler why there is none", function()
    serve()
    assert(fs.write(dir .. "/secret.txt", "x"))
    os.execute(("mkdir %s/folder && mkfifo %s/fifo && ln -s /etc/passwd %s/out && ln -s %s/hello.txt %s/link"):format(
      dir, dir, dir, dir, dir))
    local client = child.client(server.addr)
    for name, why in pairs {
      missing = "no such file or directory", folder = "is a directory", fifo = "not a regular file",
    } do
      local r = client:get("/file/" .. name)
      assert.same({ 404, ("%s: %s/%s"):format(why, dir, name) }, { r.status, r.body })
    end
    assert.equal("hello file", client:get("/file/link").body)
    assert.equal(500, client:get("/straight/missing").status)
    server:logged("no such file or directory: " .. dir)
    assert.equal("hello file", client:get("/below/hello.txt").body)
    assert.equal(500, client:get("/below/out").status)
    server:logged "leads out of its folder: out"
    assert.equal(500, client:get("/raises/hello.txt").status)
  end)

  it("refuses what is no path and no option", function()
    local app = require("lunapark.http").app()
    local function raises(what, ...)
      local args = { ... }
      app:get("/" .. what, function(_, res)
        local ok, err = pcall(res.send_file, res, unpack(args))
        return tostring(ok) .. " " .. err
      end)
    end
    raises("path", 1)
    raises("nul", "a\0b")
    raises("opts", "a", 1)
    raises("option", "a", { above = "b" })
    local client = testing.serve(app)
    assert.matches("^false send_file: path must be a string, got number", client:get("/path").body)
    assert.matches("^false send_file: path must not contain a NUL byte", client:get("/nul").body)
    assert.matches("^false send_file: opts must be a table, got number", client:get("/opts").body)
    assert.matches("^false send_file: unknown option above", client:get("/option").body)
    client:close()
  end)

  -- The number of descriptors of the server, whose client is the only one.
  local function fds(client) return tonumber(client:get("/fds").body) end

  it("keeps no descriptor", function()
    serve()
    local client = child.client(server.addr)
    local before = fds(client)
    for i = 1, 100 do
      assert.equal(content(70000), client:get("/file/70000.bin").body)
      assert.equal(404, client:get("/file/missing").status)
      if i % 10 == 0 then client:get "/raises/100.bin" end
      if i % 10 == 1 then client:get "/twice/100.bin" end
    end
    child.eventually(function() return fds(client) == before end, "no descriptor more than before")
    -- Clients that go before they have read it all.
    for i = 1, 20 do
      local conn = send(get("/file/" .. MUCH .. ".bin"):rep(3))
      assert(conn:read_exact(i * 1000))
      conn:close()
    end
    child.eventually(function() return fds(client) == before end, "no descriptor more than before")
  end)

  it("closes a file in whose place something else was answered", function()
    serve()
    local client = child.client(server.addr)
    local before = tonumber(client:get("/collect/stop").body)
    for path, status in pairs {
      text = 200, status = 404, json = 200, none = 204, stream = 200, error = 500, file = 200, late = 200,
    } do
      for _ = 1, 5 do assert.equal(status, client:get("/instead/" .. path).status) end
    end
    child.eventually(function() return client:get("/late").body:find "request is over" end)
    assert.equal(before, tonumber(client:get("/collect/count").body))
  end)

  -- Reads n bytes, a piece each tenth of a second for `seconds`, and then as fast as it can.
  local function read_slowly(conn, n, seconds)
    local begun = lp.now()
    while n > 0 and lp.now() - begun < seconds do
      local piece, err = conn:read(math.min(n, 200000))
      if not piece then return nil, err end
      n = n - #piece
      lp.sleep(0.1)
    end
    return conn:read_exact(n)
  end

  it("does without its handler while the client reads, however slowly", function()
    serve("--handler-timeout", "1")
    local client = child.client(server.addr)
    local conn = send(get("/file/" .. MUCH .. ".bin") .. get "/hello")
    child.eventually(function() return client:get("/said").body == "nil" end, "the end of the handler")
    assert.equal("HTTP/1.1 200 OK", conn:read_line())
    repeat
      local line = assert(conn:read_line())
    until line == ""
    assert.is_truthy(read_slowly(conn, MUCH, 2))
    assert.equal("hello", child.reply(conn).body)
    conn:close()
  end)

  it("closes a client that reads less than --min-rate", function()
    serve("--min-rate", "1000000000", "--idle-timeout", "1")
    local conn = send(get("/file/" .. MUCH .. ".bin"))
    local all, err = read_slowly(conn, MUCH, 4)
    assert.is_nil(all)
    assert.is_truthy(err)
    conn:close()
  end)

  it("closes a client that reads nothing", function()
    serve("--idle-timeout", "1")
    local client = child.client(server.addr)
    local before = fds(client)
    local conn = send(get("/file/" .. MUCH .. ".bin"):rep(2))
    child.eventually(function() return client:get("/said").body == "nil" end)
    child.eventually(function() return fds(client) == before end, "the end of the connection")
    conn:close()
  end)

  it("ends the connection when a file becomes shorter", function()
    serve()
    local conn = send(get "/shrinks" .. get "/hello")
    assert.equal("HTTP/1.1 200 OK", conn:read_line())
    repeat
      local line = assert(conn:read_line())
      if line:find "Length" then assert.equal("Content-Length: 8388608", line) end
    until line == ""
    local all, err, part = conn:read_exact(8388608)
    assert.is_nil(all)
    assert.is_truthy(err)
    if part then assert.is_true(#part < 8388608) end
    server:logged "GET /shrinks: a file has become shorter, the response was broken off"
    conn:close()
  end)

  it("of a server that stops is sent to its end", function()
    serve()
    local conn = send(get("/file/" .. MUCH .. ".bin"))
    assert.equal("HTTP/1.1 200 OK", conn:read_line())
    server:kill "TERM"
    repeat
      local line = assert(conn:read_line())
    until line == ""
    assert.is_true(read_slowly(conn, MUCH, 0.5) ~= nil)
    conn:close()
    assert.equal(0, (server:wait()))
  end)
end)
