-- The access log and the files of both logs: what stands in a line, whoever has answered; that files can be renamed.

local fs = require "lunapark.fs"
local json = require "lunapark.json"
local lp = require "lunapark"
local child = require "spec.support.child"
local helper = require "spec.helper"

local APP = [[
local lp, http = require "lunapark", require "lunapark.http"
local app = http.app()
app:get("/hello/:name", function(req) return "Hello, " .. req.params.name end)
app:get("/slow", function() lp.sleep(60) end)
app:get("/log/:text", function(req) require("lunapark.log").info(req.params.text) return 204 end)
app:get("/fail", function() error "oh\nno" end)
app:get("/fail_table", function() error { code = 7, why = "table" } end)
app:get("/fail_tostring", function()
  error(setmetatable({}, { __tostring = function() error "inside" end }))
end)
app:post("/post", function(req) return req:body() end)
return app
]]

-- Sends bytes on a connection of their own, and reads the answer.
local function ask(addr, bytes)
  local conn = child.send(addr, bytes)
  local r = child.reply(conn)
  conn:close()
  return r
end

local function lines_in(path)
  local list = {}
  for line in (fs.read(path) or ""):gmatch "([^\n]*)\n" do list[#list + 1] = line end
  return list
end

-- Waits until a file has n lines.
local function lines_of(path, n)
  return child.eventually(function()
    local list = lines_in(path)
    return #list >= n and list
  end, function() return ("%d lines in: %s"):format(n, fs.read(path) or "no file") end)
end

describe("--access-log", function()
  after_each(child.clean)

  local path, server

  local function serve(...)
    path = child.file()
    server = child.serve { child.script(APP), "--access-log", path, ... }
  end

  it("is a line in the combined format for each request", function()
    serve()
    local client = child.client(server.addr)
    client:get("/hello/ann?x=1", { headers = { ["User-Agent"] = 'the "agent"', Referer = "http://r/\255" } })
    client:get "/none"
    local list = lines_of(path, 2)
    local stamp = "%[%d%d/%a%a%a/%d%d%d%d:%d%d:%d%d:%d%d %+0000%]"
    local bytes = list[1]:match('^127%.0%.0%.1 %- %- ' .. stamp
      .. ' "GET /hello/ann%?x=1 HTTP/1%.1" 200 (%d+) "http://r/\\xff" "the \\"agent\\""$')
    assert(bytes, list[1])
    assert.is_true(tonumber(bytes) > #"Hello, ann")
    assert.matches('"GET /none HTTP/1%.1" 404 %d+ "%-" "', list[2])
    assert.equal(2, #list)
  end)

  it("has what C answers, and requests without an answer", function()
    serve("--handler-timeout", "0.1", "--max-body", "10")
    ask(server.addr, "nonsense \27\r\n\r\n")
    lines_of(path, 1)
    ask(server.addr, "GET /slow?a HTTP/1.1\r\nHost: x\r\nUser-Agent: me\r\n\r\n")
    lines_of(path, 2)
    ask(server.addr, "POST /post HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n")
    lines_of(path, 3)
    child.send(server.addr, "GET /part"):close()
    local list = lines_of(path, 4)
    assert.matches('^127%.0%.0%.1 .* "nonsense \\x1b" 400 %d+ "%-" "%-"$', list[1])
    assert.matches('^127%.0%.0%.1 .* "GET /slow%?a HTTP/1%.1" 504 %d+ "%-" "me"$', list[2])
    assert.matches('"POST /post HTTP/1%.1" 413 %d+ ', list[3])
    assert.matches('^127%.0%.0%.1 .* "GET /part" 499 0 "%-" "%-"$', list[4])
  end)

  it("keeps the address of a client that has reset its connection", function()
    serve()
    local conn = child.send(server.addr, { ("GET /hello/ann HTTP/1.1\r\nHost: x\r\n\r\n"):rep(50) })
    conn:read(1) -- the rest unread: the close is a reset
    conn:close()
    for _, line in ipairs(lines_of(path, 1)) do assert.matches("^127%.0%.0%.1 ", line) end
  end)

  it("is JSON with --log-format json", function()
    serve("--log-format", "json", "--procs", "1")
    local client = child.client(server.addr)
    local r = client:get("/hello/a%22b", { headers = { ["User-Agent"] = "t\195\188" } })
    assert.equal(200, r.status)
    lines_of(path, 1)
    ask(server.addr, "bad\r\n\r\n")
    local list = lines_of(path, 2)
    local t = assert(json.decode(list[1]))
    assert.matches("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%dZ$", t.time)
    assert.matches("^%d+$", t.id)
    assert.is_true(t.seconds > 0 and t.seconds < helper.PATIENCE)
    assert.is_true(t.bytes > 10 and t.bytes_in > 50 and t.vm >= 0)
    t.time, t.id, t.seconds, t.bytes, t.bytes_in, t.vm = nil, nil, nil, nil, nil, nil
    assert.same({ ip = "127.0.0.1", method = "GET", target = "/hello/a%22b", version = "1.1", status = 200,
      route = "GET /hello/:name", host = server.addr, agent = "t\195\188" }, t)
    t = assert(json.decode(list[2]))
    assert.same({ "bad", 400, "127.0.0.1" }, { t.request, t.status, t.ip })
  end)

  it("has the pattern of app:static as the route of its files, whether C has answered or Lua", function()
    local folder = child.file()
    assert(fs.mkdir(folder))
    finally(function() fs.remove(folder, { recursive = true }) end)
    assert(fs.write(folder .. "/a.txt", "a"))
    path = child.file()
    server = child.serve {
      child.script(('local app = require("lunapark.http").app()\napp:static("/files", %q)\nreturn app'):format(folder)),
      "--access-log", path, "--log-format", "json", "--procs", "1",
    }
    local client = child.client(server.addr)
    local by_c = 0
    for i = 1, 20 do
      assert.equal("a", client:get("/files/a.txt").body)
      local line = json.decode(lines_of(path, i)[i])
      assert.equal("GET /files/*", line.route)
      if not line.vm then by_c = by_c + 1 end
    end
    assert.is_true(by_c > 0)
    assert.equal(404, client:get("/files/none").status)
    local line = json.decode(lines_of(path, 21)[21])
    assert.same({ "GET /files/*", true }, { line.route, line.vm ~= nil })
  end)

  it("goes to stdout as -", function()
    server = child.serve { child.script(APP), "--access-log", "-" }
    child.client(server.addr):get "/hello/ann"
    child.eventually(function() return server:stdout():find "GET /hello/ann" end, "the line")
    server:kill "HUP"
    server:said "has not changed"
    child.client(server.addr):get "/hello/bob"
    child.eventually(function() return server:stdout():find "GET /hello/bob" end, "the line")
  end)

  it("has no line of the admin API", function()
    serve("--admin", "127.0.0.1:0")
    local admin = server:logged "admin on http://(%S+)\n"
    child.client(admin):get "/"
    child.client(server.addr):get "/hello/ann"
    local list = lines_of(path, 1)
    assert.equal(1, #list)
    assert.matches("/hello/ann", list[1])
  end)

  it("is an option of the app, and of the environment", function()
    path = child.file()
    local app = APP:gsub("return app\n$", ("app.options = { access_log = %q }\nreturn app\n"):format(path))
    server = child.serve { child.script(app) }
    child.client(server.addr):get "/hello/ann"
    lines_of(path, 1)
    path = child.file()
    server = child.serve { child.script(APP), env = { LUNAPARK_ACCESS_LOG = path } }
    child.client(server.addr):get "/hello/ann"
    lines_of(path, 1)
  end)

  it("that can't be opened fails the start", function()
    local code, _, err = child.run { child.script(APP), "--access-log", "/nonexistent/log", "--listen", "127.0.0.1:0" }
    assert.equal(1, code)
    assert.matches("lunapark: %-%-access%-log /nonexistent/log: No such file or directory\n", err)
    code, _, err = child.run { child.script(APP), "--log-file", "/nonexistent/log", "--listen", "127.0.0.1:0" }
    assert.equal(1, code)
    assert.matches("lunapark: %-%-log%-file /nonexistent/log: No such file or directory\n", err)
  end)

  it("loses no line, and has none twice, when it is renamed under load", function()
    serve()
    local names, n, stop = { path }, 0, false
    local gs = {}
    for i = 1, 4 do
      gs[i] = lp.go(function()
        local client = child.client(server.addr)
        while not stop do
          n = n + 1
          local r = client:get("/hello/" .. n .. ";")
          assert(r.status == 200, r.status)
        end
        return true
      end)
    end
    for i = 1, 8 do
      local before = n
      child.eventually(function() return n > before + 20 and #lines_in(path) > 0 end, "requests")
      names[#names + 1] = child.file()
      assert(os.rename(path, names[#names]))
      server:kill "HUP"
      child.eventually(function() return io.open(path) end, "a new file"):close()
      server:said("has not changed", i)
    end
    lines_of(path, 1)
    stop = true
    for _, g in ipairs(gs) do assert(g:join()) end
    server:kill "TERM"
    assert.equal(0, server:wait())
    local seen, count = {}, 0
    for _, name in ipairs(names) do
      local list = lines_in(name)
      assert.is_true(#list > 0)
      for _, line in ipairs(list) do
        local number = line:match '^127%.0%.0%.1 %- %- %[[^%]]*%] "GET /hello/(%d+); HTTP/1%.1" 200 %d+ "%-" "[^"]*"$'
        assert(number, line)
        assert.is_nil(seen[number])
        seen[number], count = true, count + 1
      end
    end
    assert.equal(n, count)
  end)

  it("stays in its file when that can't be opened anew", function()
    local dir = child.file()
    assert(fs.mkdir(dir))
    path = dir .. "/log"
    server = child.serve { child.script(APP), "--access-log", path }
    child.client(server.addr):get "/hello/ann"
    lines_of(path, 1)
    local moved = child.file()
    assert(os.rename(path, moved))
    assert(fs.remove(dir))
    server:kill "HUP"
    server:said "can't be opened anew, the old file stays in use"
    child.client(server.addr):get "/hello/bob"
    lines_of(moved, 2)
  end)
end)

describe("http.access_log", function()
  after_each(child.clean)

  it("logs the requests of an app", function()
    local app = APP:gsub("local app = http.app%(%)\n", [[%0
      app:use(http.access_log { skip = function(req) return req.path == "/hello/skipped" end })
      app:use(http.access_log { level = "warn", skip = function(_, _, info) return info.status < 500 end })
    ]])
    local server = child.serve { child.script(app) }
    local client = child.client(server.addr)
    for _, path in ipairs { "/hello/skipped", "/hello/ann?q=1", "/none", "/fail" } do client:get(path) end
    server:said "warn GET /fail 500"
    local text = server:stderr()
    assert.matches("info GET /hello/ann%?q=1 200 bytes=%d+ id=%d+ ip=127%.0%.0%.1 ms=[%d.]+\n", text)
    assert.matches("info GET /none 404 ", text)
    assert.matches("info GET /fail 500 ", text)
    assert.is_nil(text:find("GET /hello/skipped", 1, true))
    assert.equal(1, select(2, text:gsub("warn GET ", "")))
  end)

  it("refuses misuse", function()
    local http = require "lunapark.http"
    assert.matches("access_log: unknown option levle: did you mean level%?",
      helper.raised(http.access_log, { levle = 1 }))
    assert.matches("level must be debug, info, warn or error, got loud",
      helper.raised(http.access_log, { level = "loud" }))
  end)
end)

describe("--log-file", function()
  after_each(child.clean)

  it("has the log, and is opened anew at a SIGHUP", function()
    local path = child.file()
    local server = child.serve { child.script(APP), "--log-file", path }
    child.client(server.addr):get "/log/first"
    child.eventually(function() return (fs.read(path) or ""):find "info first\n" end, "the line")
    local moved = child.file()
    assert(os.rename(path, moved))
    server:kill "HUP"
    child.eventually(function() return (fs.read(path) or ""):find "has not changed" end, "a new file")
    child.client(server.addr):get "/log/second"
    child.eventually(function() return fs.read(path):find "info second\n" end, "the line")
    assert.is_nil(fs.read(moved):find("second", 1, true))
    assert.equal("lunapark: listening on http://" .. server.addr .. "\n", server:stderr())
  end)

  it("gets all lines in the end", function()
    local path = child.file()
    local server = child.serve { child.script(APP), "--log-file", path }
    for i = 1, 50 do child.client(server.addr):get("/log/line" .. i) end
    server:kill "TERM"
    assert.equal(0, server:wait())
    assert.equal(50, select(2, helper.text_of(path):gsub("info line%d+\n", "")))
  end)
end)

describe("the log as JSON", function()
  after_each(child.clean)

  local server

  -- The line that a request for this path leaves.
  local function line_after(path)
    assert.equal(500, child.client(server.addr):get(path).status)
    local line = server:logged('({"time"[^\n]*"path":"' .. path .. '"[^\n]*)\n')
    return assert(json.decode(line))
  end

  it("has the fields of an error", function()
    server = child.serve { child.script(APP), "--log-format", "json" }
    local t = line_after "/fail"
    assert.same({ "error", "GET", "/fail", "GET /fail" }, { t.level, t.method, t.path, t.route })
    assert.matches("^.*%.lua:%d+: oh\nno$", t.error)
    assert.matches("^stack traceback:\n", t.traceback)
    assert.matches("^%d+$", t.id)
    assert.matches("^GET /fail %(GET /fail%): .*oh$", t.msg)
    t = line_after "/fail_table"
    assert.equal('{"code":7,"why":"table"}', t.error)
    t = line_after "/fail_tostring"
    assert.matches("a table whose tostring failed: .*inside", t.error)
  end)

  it("has an object in each line", function()
    server = child.serve { child.script(APP), "--log-format", "json", "--handler-timeout", "0.1" }
    local client = child.client(server.addr)
    client:get "/fail"
    child.client(server.addr):get "/slow"
    server:kill "HUP"
    server:said "has not changed"
    server:kill "TERM"
    assert.equal(0, server:wait())
    local n = 0
    for line in server:stderr():gmatch "([^\n]*)\n" do
      if not line:find "^lunapark: listening" then
        assert(json.decode(line), line)
        n = n + 1
      end
    end
    assert.is_true(n >= 4)
  end)
end)

describe("the log as text", function()
  after_each(child.clean)

  it("has the content of errors that are tables, and of those whose __tostring fails", function()
    local server = child.serve { child.script(APP) }
    local client = child.client(server.addr)
    assert.equal(500, client:get("/fail_table").status)
    server:said '{"code":7,"why":"table"}\n'
    assert.equal(500, client:get("/fail_tostring").status)
    server:said "a table whose tostring failed"
    local code, _, err = child.run { "run", child.script [[
      local lp = require "lunapark"
      lp.go(function() error { n = 1 } end)
      lp.after(0, function() error { n = 2 } end)
      lp.sleep(0.05)
      error { n = 3 }
    ]] }
    assert.equal(1, code)
    for i = 1, 3 do assert.matches('{"n":' .. i .. "}", err) end
  end)
end)

describe("print", function()
  after_each(child.clean)

  it("reaches a file line by line", function()
    local c = child.start { "run", child.script "print('begun') require('lunapark').sleep(60)" }
    child.eventually(function() return c:stdout() == "begun\n" end, "the line")
  end)
end)
