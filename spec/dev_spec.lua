-- `lunapark serve --dev`, as its clients see it: what is told of failures, what `changed` answers, and which answers
-- become pages that load themselves anew. spec/dev_browser_spec.lua has a browser.

local exec = require "lunapark.exec"
local lp = require "lunapark"
local child = require "spec.support.child"

local HTML = { Accept = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8" }
local NAVIGATES = { Accept = "text/html,*/*;q=0.8", ["Sec-Fetch-Dest"] = "document" }
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
  local path, server, client, dirs

  before_each(function() dirs = {} end)
  after_each(function()
    child.clean()
    for _, dir in ipairs(dirs) do
      assert(exec.run { "rm", "-rf", dir })
    end
  end)

  local function serve_file(file, ...)
    path = file
    server = child.serve { path, "--dev", ... }
    client = child.client(server.addr)
  end

  local function serve(text, ...)
    serve_file(child.script(text), ...)
  end

  local function get(target, headers)
    return assert(client:get(target, { headers = headers }))
  end

  local function state()
    local r = get "/.lunapark/changed"
    assert.equal(200, r.status)
    return r.body
  end

  -- Saves the app and waits until that has come to something.
  local function save(text)
    local before = state()
    write(path, text)
    child.eventually(function() return state() ~= before end, "a reload")
  end

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
        Accept = "text/html", ["X-Evil"] = evil, Host = "<i>&host",
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
      contains(r.body, "handler returned a boolean, which is no answer")
      contains(r.body, path .. ":10, where the handler begins\n")
      contains(r.body, '>   10 | app:get("/bad", function()\n')
      contains(get "/json".body, path .. ":13, where the handler begins\n")
    end)

    it("of values that are no strings, and of an app that is a function", function()
      serve(APP)
      contains(get "/table".body, "table: 0x")
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

  describe("has pages load themselves anew", function()
    local PAGES = [[
local http = require "lunapark.http"
local app = http.app()
local WHOLE = "<!doctype html>\n<html><body><p>a</body> is not the end</p></BODY></html>"
local function page(path, fn) app:get(path, fn) app:post(path, fn) end
page("/whole", function() return WHOLE end)
page("/fragment", function() return "<p>part</p>" end)
page("/text", function() return "a <b> c" end)
app:get("/latin", function() return 200, "\228", { ["Content-Type"] = "text/plain; charset=iso-8859-1" } end)
app:get("/json", function() return { html = WHOLE } end)
app:get("/js", function() return 200, "<html>", { ["Content-Type"] = "text/javascript" } end)
app:get("/typed", function() return 200, "x</body>", { ["Content-Type"] = "TEXT/HTML;charset=utf-8", ETag = '"1"' } end)
app:get("/plain", function(_, res) res.headers = { ["Content-Type"] = "text/html" } return WHOLE end)
app:get("/file", function() return 200, WHOLE, { ["Content-Disposition"] = "attachment" } end)
app:get("/gzip", function() return 200, WHOLE, { ["Content-Encoding"] = "gzip" } end)
app:get("/part", function() return 206, WHOLE end)
app:get("/stream", function(_, res) res:write(WHOLE) end)
app:get("/missing", function() return 404, WHOLE end)
app:get("/redirect", function(_, res) res:redirect "/whole" end)
app:get("/error", function() error "x" end)
local lp = require "lunapark"
local dict = require("lunapark.shared").dict "waiting"
app:get("/waits", function()
  dict:set("n", 1)
  lp.retired(15)
  return "<p>old</p>"
end)
app:get("/waiting", function() return tostring(dict:get "n") end)
app:on_error(function() return 500, WHOLE end)
return app
]]
    local TAG = '<script src="/%.lunapark/dev%.js" data%-state="%d+%.1%.0" data%-method="(%u+)" async></script>'

    it("if they are pages", function()
      serve(PAGES)
      local r = get("/whole", NAVIGATES)
      assert.matches("^<!doctype html>\n<html><body><p>a</body> is not the end</p>" .. TAG .. "</BODY></html>$", r.body)
      assert.equal("no-store", r.headers["cache-control"])
      assert.equal("GET", (get("/whole", HTML).body:match(TAG)))
      assert.matches("^<p>part</p>" .. TAG .. "$", get("/fragment", NAVIGATES).body)
      assert.matches(TAG, get("/plain", NAVIGATES).body)
      assert.matches(TAG, get("/error", NAVIGATES).body)
      assert.matches("^x" .. TAG .. "</body>$", get("/typed", NAVIGATES).body)
      assert.is_nil(get("/typed", NAVIGATES).headers.etag)
      r = get("/missing", NAVIGATES)
      assert.equal(404, r.status)
      assert.matches(TAG, r.body)
      r = assert(client:post("/whole", { headers = NAVIGATES }))
      assert.equal("POST", (r.body:match(TAG)))
    end)

    it("if a window of its own shows text", function()
      serve(PAGES)
      local r = get("/text", NAVIGATES)
      assert.equal("text/html; charset=utf-8", r.headers["content-type"])
      assert.matches("<pre[^>]*>a &lt;b&gt; c</pre>" .. TAG, r.body)
      for _, headers in ipairs { HTML, {}, { ["Sec-Fetch-Dest"] = "empty" }, { ["Sec-Fetch-Dest"] = "iframe" } } do
        r = get("/text", headers)
        assert.same({ "a <b> c", "text/plain; charset=utf-8" }, { r.body, r.headers["content-type"] })
      end
    end)

    it("and nothing else", function()
      serve(PAGES)
      for _, target in ipairs { "/json", "/js", "/latin", "/file", "/gzip", "/part", "/stream", "/redirect" } do
        lacks(get(target, NAVIGATES).body, "/.lunapark/")
      end
      for _, headers in ipairs {
        {}, { Accept = "*/*" }, { Accept = "text/html", ["Sec-Fetch-Dest"] = "empty" },
        { Accept = "text/html", ["Sec-Fetch-Dest"] = "script" },
      } do
        lacks(get("/whole", headers).body, "/.lunapark/")
        lacks(get("/fragment", headers).body, "/.lunapark/")
      end
      lacks(get("/fragment", HTML).body, "/.lunapark/")
      local r = assert(client:request("HEAD", "/whole", { headers = NAVIGATES }))
      assert.same({ 200, "" }, { r.status, r.body })
    end)

    it("as of the generation that has made them, not of the one that serves by then", function()
      serve(PAGES)
      local c = child.client(server.addr)
      local g = lp.go(function() return c:get("/waits", { headers = NAVIGATES }) end)
      child.eventually(function() return get "/waiting".body == "1" end, "the request")
      save(PAGES .. "-- changed")
      assert.matches("%.2%.0$", state())
      assert.matches("^<p>old</p>" .. TAG .. "$", assert(g:join(20)).body)
    end)

    it("unless --live-reload=0, or the app, says no", function()
      serve(PAGES, "--live-reload=0")
      lacks(get("/whole", NAVIGATES).body, "/.lunapark/")
      assert.equal("a <b> c", get("/text", NAVIGATES).body)
      child.clean()
      serve((PAGES:gsub("return app%s*$", "app.options = { live_reload = false }\nreturn app")))
      lacks(get("/whole", NAVIGATES).body, "/.lunapark/")
    end)
  end)
end)
