-- `lunapark serve --dev`, as its clients see it: what is told of failures, and what `changed` answers.
-- dev_pages_spec.lua has the pages that load themselves anew, dev_browser_spec.lua a browser.

local exec = require "lunapark.exec"
local lp = require "lunapark"
local child = require "spec.support.child"
local dev = require "spec.support.dev"

local HTML = dev.HTML
local STATE = "^%d+%.%d+%.%d+$"

local APP = [[
local http = require "lunapark.http"
local app = http.app()
app:get("/", function() return "one" end)
app:get("/boom/:what", function(req)
  local what = req.params.what
  error("boom " .. what)
end)
app:post("/boom", function(req) error(req:body(), 0) end)
app:get("/table", function() error { code = 7 } end)
app:get("/bad", function()
  return true
end)
app:get("/json", function() return { f = print } end)
app:post("/parse", function(req) return { req:json().name } end)
app:get("/late", function(_, res) res:write "begun" error "too late" end)
return app
]]

-- The app with a mistake in line 3.
local BROKEN = APP:gsub("app:get%(\"/\", function%(%) return \"one\" end%)", "app:get(\"/\", function() return = end)")

local function write(path, text)
  local f = assert(io.open(path, "w"))
  f:write(text)
  f:close()
end

local function contains(text, part)
  assert.is_truthy(text:find(part, 1, true), ("%q is not in: %s"):format(part, text))
end

local function lacks(text, part)
  assert.is_nil(text:find(part, 1, true), ("%q is in: %s"):format(part, text))
end

describe("--dev", function()
  local path, server, client, served, dirs

  before_each(function() dirs = {} end)
  after_each(function()
    child.clean()
    for _, dir in ipairs(dirs) do
      assert(exec.run { "rm", "-rf", dir })
    end
  end)

  local function serve_file(file, ...)
    path, served = file, dev.serve(file, ...)
    server, client = served.server, served.client
  end

  local function serve(text, ...)
    serve_file(child.script(text), ...)
  end

  local function get(target, headers)
    return assert(client:get(target, { headers = headers }))
  end

  local function state() return served:state() end

  -- Saves the app and waits until that has come to something.
  local function save(text) served:save(text) end

  local function folder()
    local made = assert(exec.run { "mktemp", "-d" })
    local dir = made.stdout:gsub("%s+$", "")
    dirs[#dirs + 1] = dir
    return dir
  end

  describe("shows what a handler raises", function()
    it("to browsers as a page: where, the source, the traceback, the request", function()
      serve(APP)
      local r = get("/boom/ann?a=1&a=2", HTML)
      assert.equal(500, r.status)
      assert.equal("text/html; charset=utf-8", r.headers["content-type"])
      assert.equal("no-store", r.headers["cache-control"])
      contains(r.body, "<h1>boom ann</h1>")
      contains(r.body, path .. ":6</p>")
      contains(r.body, '<div class="hit"><i>6</i><span>  error(&quot;boom &quot; .. what)</span></div>')
      contains(r.body, '<div><i>3</i><span>app:get(&quot;/&quot;')
      contains(r.body, "<div><i>9</i>")
      lacks(r.body, "<i>10</i>")
      contains(r.body, '<summary class="frame">' .. path .. ":6: in function")
      assert.matches('<div class="frame own">[^<]*lunapark/http/dispatch%.lua:', r.body)
      contains(r.body, "<tr><td>what</td><td>ann</td></tr>")
      contains(r.body, "<tr><td>a</td><td>1, 2</td></tr>")
      contains(r.body, "<tr><td>target</td><td>/boom/ann?a=1&amp;a=2</td></tr>")
      contains(r.body, "<tr><td>Host</td><td>" .. server.addr .. "</td></tr>")
      assert.matches("generation 1 %(%x+[^)]*%)", r.body)
      assert.matches('data%-state="%d+%.1%.0" data%-method="GET"', r.body)
    end)

    it("to others as text, to programs that ask for it as JSON", function()
      serve(APP)
      for _, accept in ipairs { false, "*/*", "text/plain, text/html", "text/html;q=0, */*" } do
        local r = get("/boom/ann", { Accept = accept or nil })
        assert.equal("text/plain; charset=utf-8", r.headers["content-type"])
        contains(r.body, path .. ":6: boom ann\n")
        contains(r.body, '>    6 |   error("boom " .. what)\n')
        assert.matches("\nstack traceback:\n\t", r.body)
      end
      for _, accept in ipairs { "application/json", "application/problem+json, text/html" } do
        local r = get("/boom/ann", { Accept = accept })
        assert.equal("application/json", r.headers["content-type"])
        local told = r:json()
        assert.same({ 500, path .. ":6: boom ann", path, 6 }, { r.status, told.error, told.file, told.line })
        assert.is_true(#told.traceback > 1)
      end
    end)

    it("with nothing in it that could be taken for HTML", function()
      serve(APP)
      local evil = "</style><script>alert(1)</script>'\""
      local r = get("/boom/%3C%2Fspan%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E?%3Cb%3E=%3Cb%3E", {
        Accept = "text/html", ["X-Evil"] = evil,
      })
      assert.equal(500, r.status)
      contains(r.body, "boom &lt;/span&gt;&lt;script&gt;alert(1)&lt;/script&gt;")
      for _, tag in ipairs { "<script>", "</span><script", "<b>", "<i>&", "</style><" } do
        lacks(r.body, tag)
      end
      contains(r.body, "&lt;/style&gt;&lt;script&gt;alert(1)&lt;/script&gt;&#39;&quot;")
      r = assert(client:post("/boom", { headers = HTML, body = evil }))
      lacks(r.body, "<script>")
      assert.matches("script%-src 'self'", r.headers["content-security-policy"])
    end)

    it("without the values of cookies and credentials", function()
      serve(APP)
      local body = get("/boom/x", {
        Accept = "text/html", Cookie = "id=s3cret1", Authorization = "Basic s3cret2", ["X-Api-Key"] = "s3cret3",
        ["X-Other"] = "shown",
      }).body
      lacks(body, "s3cret")
      contains(body, "<tr><td>Cookie</td><td>(10 bytes, hidden)</td></tr>")
      contains(body, "<tr><td>X-Other</td><td>shown</td></tr>")
    end)

    it("and where the handler begins when its answer is at fault", function()
      serve(APP)
      local r = get "/bad"
      assert.equal(500, r.status)
      contains(r.body, path .. ":10: the handler returned a boolean, which is no answer\n")
      contains(r.body, path .. ":10\n")
      contains(r.body, '>   10 | app:get("/bad", function()\n')
      contains(get "/json".body, path .. ":13: the handler returned a table that is no JSON: ")
    end)

    it("of values that are no strings, and of an app that is a function", function()
      serve(APP)
      contains(get "/table".body, '{"code":7}')
      child.clean()
      serve "return function(req) error('no ' .. req.path) end"
      contains(get("/x", HTML).body, "<h1>no /x</h1>")
    end)

    it("with the status that it has anyway", function()
      serve(APP)
      local r = assert(client:post("/parse", { body = "{" }))
      assert.equal(400, r.status)
      contains(r.body, "400 Bad Request: POST /parse\n")
      contains(r.body, path .. ":14")
      assert.equal(404, get "/nowhere".status)
      r = assert(client:head("/boom/x", { headers = HTML }) or client:request("HEAD", "/boom/x"))
      assert.same({ 500, "" }, { r.status, r.body })
    end)

    it("but not in the midst of a response", function()
      serve(APP)
      local r, err = client:get "/late"
      assert.is_nil(r)
      assert.is_string(err)
      assert.equal("one", get "/".body)
    end)

    it("with pieces of no file that is not the app's", function()
      local secret = child.file("line 1\nthe secret\n")
      serve(APP)
      for _, name in ipairs { secret, "..." .. secret:sub(2), "/etc/passwd" } do
        for _, headers in ipairs { HTML, {} } do
          local r = assert(client:post("/boom", { headers = headers, body = name .. ":2: x\nstack traceback:\n\t"
            .. name .. ":2: in main chunk" }))
          assert.equal(500, r.status)
          lacks(r.body, "the secret")
          lacks(r.body, "daemon:")
        end
      end
    end)

    it("in files with long names, which LuaJIT shortens", function()
      local dir = folder() .. "/" .. ("long"):rep(20)
      assert(exec.run { "mkdir", "-p", dir })
      write(dir .. "/app.lua", APP)
      serve_file(dir .. "/app.lua")
      contains(get "/boom/x".body, dir .. "/app.lua:6\n")
      save(BROKEN)
      contains(get "/".body, dir .. "/app.lua:3\n")
      contains(get "/".body, ">    3 | ")
    end)
  end)

  describe("leaves it to app:on_error", function()
    local WITH = APP:gsub("return app%s*$", [[
app:on_error(function(_, _, err)
  if err:find "quiet" then return end
  if err:find "worse" then error "in on_error" end
  return 418, "sorry"
end)
return app
]])

    it("if that answers", function()
      serve(WITH)
      local r = get("/boom/x", HTML)
      assert.same({ 418, "sorry" }, { r.status, r.body })
    end)

    it("unless it says nothing, or fails", function()
      serve(WITH)
      for _, what in ipairs { "quiet", "worse" } do
        local r = get("/boom/" .. what, HTML)
        assert.equal(500, r.status)
        contains(r.body, "<h1>boom " .. what .. "</h1>")
      end
    end)
  end)

  describe("shows why a reload has failed", function()
    it("to every request, until it is put right; what was loaded goes on", function()
      serve(APP)
      local old = state()
      save(BROKEN)
      for _, target in ipairs { "/", "/boom/x", "/nowhere" } do
        local r = get(target, HTML)
        assert.equal(500, r.status)
        contains(r.body, "500 Internal Server Error: The app does not load")
        contains(r.body, "<h1>unexpected symbol near &#39;=&#39;</h1>")
        contains(r.body, path .. ":3</p>")
        contains(r.body, '<div class="hit"><i>3</i>')
        contains(r.body, "generation 1 (")
        assert.matches('data%-state="%d+%.1%.1"', r.body)
      end
      local r = assert(client:post("/boom", { body = "x" }))
      assert.equal(500, r.status)
      contains(r.body, "The app does not load")
      assert.equal(path, get("/", { Accept = "application/json" }):json().file)

      save(BROKEN .. "\n-- again")
      assert.matches("%.1%.2$", state())
      save((APP:gsub("one", "two")))
      -- The broken one may have been looked at once more before.
      child.eventually(function() return get "/".body == "two" end, "the app")
      assert.matches("%.2%.0$", state())
      assert.not_equal(old, state())
    end)

    it("and lets go of it when the old files are back", function()
      serve(APP)
      local old = state()
      save(BROKEN)
      save(APP)
      assert.equal("one", get "/".body)
      assert.equal(old, state())
    end)

    it("in a module, at load, in on_start, in take_over", function()
      local dir = folder()
      path = dir .. "/app.lua"
      write(dir .. "/mod.lua", "return 'one'")
      local app = "package.loaded.mod = nil\nlocal app = require('lunapark.http').app()\nlocal said = require 'mod'\n"
        .. "app:get('/', function() return said end)\n%s\nreturn app"
      write(path, app:format "")
      serve_file(path)
      assert.equal("one", get "/".body)

      local before = state()
      write(dir .. "/mod.lua", "local x\nreturn return")
      child.eventually(function() return state() ~= before end, "a reload")
      local body = get "/".body
      contains(body, dir .. "/mod.lua:2\n")
      contains(body, ">    2 | return return")
      contains(body, path .. ":3: in main chunk")
      write(dir .. "/mod.lua", "return 'one'")

      save(app:format "error 'at load'")
      contains(get "/".body, path .. ":5: at load")
      save(app:format "app:on_start(function() error 'at start' end)")
      body = get "/".body
      contains(body, ">    5 | app:on_start(function() error 'at start' end)")
      contains(body, "stack traceback:")
      save(app:format "app:hand_over(function() return 1 end)")
      assert.equal("one", get "/".body)
      save(app:format "app:take_over(function() error 'not taken' end)")
      contains(get "/".body, "take_over: " .. path .. ":5: not taken")
      assert.equal("one", (function()
        save(app:format "")
        return get "/".body
      end)())
    end)
  end)

  describe("starts with an app that does not load", function()
    it("and shows why, until it does", function()
      serve(BROKEN)
      child.eventually(function() return server:stderr():find(path .. ":3: unexpected symbol", 1, true) end, "the log")
      local r = get("/", HTML)
      assert.equal(500, r.status)
      contains(r.body, '<div class="hit"><i>3</i>')
      contains(r.body, "no generation serves yet")
      assert.matches("%.0%.1$", state())
      save("return nil")
      contains(get "/".body, "returned neither an app nor a function, but nil")
      save(APP)
      assert.equal("one", get "/".body)
      assert.matches("%.1%.0$", state())
      save(BROKEN)
      contains(get "/".body, path .. ":3\n")
    end)

    it("also if there is no such file yet", function()
      serve_file(child.file(nil, ".lua"))
      contains(get "/".body, path .. ": No such file or directory")
      save(APP)
      assert.equal("one", get "/".body)
    end)

    it("which an upgrade is not: the old process stays", function()
      serve(APP)
      save(BROKEN)
      server:kill "USR2"
      child.eventually(function() return server:stderr():find("this process stays", 1, true) end, "the log")
      save(APP)
      assert.equal("one", get "/".body)
      server:kill "TERM"
      assert.equal(0, server:wait())
    end)

    it("which nobody does without it", function()
      local code, _, err = child.run { child.script(BROKEN), "--listen", "127.0.0.1:0" }
      assert.equal(1, code)
      contains(err, ":3: unexpected symbol")
    end)

    it("and stops when it is told to", function()
      serve(BROKEN)
      server:kill "TERM"
      assert.equal(0, server:wait())
    end)
  end)

  describe("/.lunapark/changed", function()
    local function ask(since)
      local c = child.client(server.addr)
      return lp.go(function() return c:get("/.lunapark/changed?since=" .. since) end)
    end

    it("answers at once when the state is another one", function()
      serve(APP)
      for _, since in ipairs { "", "0.0.0", "%00", "x&since=y" } do
        local r = ask(since):join(10)
        assert.same({ 200, "no-store" }, { r.status, r.headers["cache-control"] })
        assert.matches(STATE, r.body)
      end
    end)

    it("waits for a reload, one that fails, and the end of a failure", function()
      serve(APP)
      for _, text in ipairs { (APP:gsub("one", "two")), BROKEN, APP } do
        local g = ask(state())
        assert.is_nil(g:join(0.3))
        write(path, text)
        local r = assert(g:join(20))
        assert.equal(state(), r.body)
      end
    end)

    it("answers within the time that handlers have, and when the server stops", function()
      serve(APP, "--handler-timeout", "1")
      local now = state()
      local r = assert(ask(now):join(20))
      assert.same({ 200, now }, { r.status, r.body })
      child.clean()
      serve(APP)
      local g = ask(state())
      assert.is_nil(g:join(0.3))
      server:kill "TERM"
      assert.equal(200, assert(g:join(15)).status)
      assert.equal(0, server:wait())
    end)

    it("is of another run after a restart", function()
      serve(APP)
      local before = state()
      server:kill "TERM"
      server:wait()
      serve(APP)
      assert.not_equal(before, state())
    end)
  end)

  it("is not for the name of a site that leads here", function()
    local socket = child.file()
    serve(APP, "--listen", "127.0.0.1:0", "--listen", "unix:" .. socket)
    local by_file = child.client("unix:" .. socket)
    local function all_answer(status, headers)
      for _, target in ipairs { "/", "/nowhere", "/boom/x", "/.lunapark/changed", "/.lunapark/dev.js" } do
        local r = get(target, headers)
        if status == 421 then
          assert.equal(421, r.status, target)
          lacks(r.body, "boom")
        else
          assert.not_equal(421, r.status, target)
        end
      end
    end
    for _, host in ipairs { "evil.example", "localhost.evil.example:80" } do
      all_answer(421, { Host = host })
    end
    for _, host in ipairs { "localhost:3000", "my.localhost", "[::1]:80", "192.168.1.7" } do
      all_answer(200, { Host = host })
    end
    assert.equal("one", by_file:get("/", { headers = { Host = "evil.example" } }).body)
    write(path, "return = 1")
    child.eventually(function() return get "/".status == 500 end, "a reload that fails")
    all_answer(421, { Host = "evil.example", Accept = "text/html" })
  end)

  it("listens where other machines are with --dev=public alone", function()
    local script = child.script(APP)
    for _, addr in ipairs { "0.0.0.0:0", "[::]:0", "192.0.2.1:80" } do
      local code, _, err = child.run { script, "--dev", "--listen", "127.0.0.1:0", "--listen", addr }
      assert.equal(64, code)
      assert.matches("^lunapark: %-%-dev shows the app's source, and other machines can reach ", err)
      contains(err, "--dev=public")
    end
    local own = child.script((APP:gsub("return app%s*$", 'app.options = { listen = "0.0.0.0:0" }\nreturn app')))
    assert.equal(64, (child.run { own, "--dev" }))
    assert.equal("0.0.0.0", child.serve({ own, listeners = 1, env = { LUNAPARK_DEV = "public" } }).addr:match "^[^:]*")
    local c = child.serve { script, "--dev=public", "--listen", "0.0.0.0:0" }
    local there = child.client((c.addr:gsub("^0%.0%.0%.0", "127.0.0.1")))
    local r = there:get("/boom/x", { headers = { Host = "app.example" } })
    assert.equal(500, r.status)
    contains(r.body, 'error("boom " .. what)')
    local code, _, err = child.run { script, "--dev=all" }
    assert.equal(64, code)
    contains(err, "--dev: must be true, false (1 or 0) or public, got 'all'")
  end)

  it("has its paths to itself, and only with --dev", function()
    local own = "local app = require('lunapark.http').app()\n"
      .. "app:get('/*all', function(req) return 'app ' .. req.path end)\n"
      .. "app:get('/boom', function() error 'boom' end)\nreturn app"
    serve(own)
    assert.equal(404, get "/.lunapark/other".status)
    local r = get "/.lunapark/dev.js"
    assert.same({ 200, "text/javascript; charset=utf-8" }, { r.status, r.headers["content-type"] })
    child.clean()
    path = child.script(own)
    server = child.serve { path }
    client = child.client(server.addr)
    assert.equal("app /.lunapark/changed", get "/.lunapark/changed".body)
    assert.equal("Internal Server Error", get("/boom", HTML).body)
  end)

  describe("names handlers that block:", function()
    -- One that reads a FIFO until a byte comes, and one that sleeps in C, half a second each time, until it is told.
    local BLOCKS = [[
local ffi = require "ffi"
ffi.cdef "int open(const char *, int, ...); int64_t read(int, void *, size_t); int usleep(unsigned);"
local app = require("lunapark.http").app()
app:get("/ok", function() return "ok" end)
app:get("/read", function()
  local fd, byte = ffi.C.open(%q, 2), ffi.new "char[1]"
  while ffi.C.read(fd, byte, 1) < 0 do end
  return "read"
end)
local lp, seen = require "lunapark", require("lunapark.shared").dict "seen"
app:get("/naps", function()
  local cut = 0
  repeat
    cut = cut - ffi.C.usleep(500000)
    lp.sleep(0.001)
  until seen:get "it"
  return tostring(cut)
end)
app:get("/seen", function() seen:set("it", true) return "ok" end)
return app
]]

    it("with the line, what they wait for, and when they are back", function()
      dirs[1] = os.tmpname()
      os.remove(dirs[1])
      assert(exec.run { "mkfifo", dirs[1] })
      serve(BLOCKS:format(dirs[1]))
      local g = lp.go(function() return get("/read").body end)
      server:logged "warn GET /read has held VM %d for %d+%.%d s without waiting, in C %([^)]*read"
      assert.equal("ok", get("/ok").body)
      local fifo = assert(io.open(dirs[1], "w"))
      fifo:write "x"
      fifo:close()
      assert.equal("read", g:join())
      contains(server:logged "(warn GET /read came back after [^\n]*)\n", path:match "[^/]*$" .. ":7: VM")
    end)

    it("and ends no sleep early by that", function()
      serve(BLOCKS:format "none")
      local g = lp.go(function() return get("/naps").body end)
      server:logged "warn GET /naps has held VM %d for 0%.%d s without waiting, in a sleep or a poll of C"
      assert.equal("ok", get("/seen").body)
      assert.equal("0", g:join())
    end)
  end)
end)
