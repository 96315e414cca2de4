local http = require "lunapark.http"
local json = require "lunapark.json"
local lp = require "lunapark"
local testing = require "lunapark.testing"
local helper = require "spec.helper"

describe("http response", function()
  local client

  after_each(function() if client then client:close() end client = nil end)

  local function ask(fn, method)
    if client then client:close() end
    client = testing.serve(fn)
    return assert(client:request(method or "GET", "/"))
  end

  local function check(r, status, body, ctype)
    assert.same({ status, body, ctype }, { r.status, r.body, r.headers["content-type"] })
  end

  local TEXT, HTML, JSON = "text/plain; charset=utf-8", "text/html; charset=utf-8", "application/json"

  it("is what the handler returns", function()
    check(ask(function() return "hi" end), 200, "hi", TEXT)
    check(ask(function() return "" end), 200, "", TEXT)
    check(ask(function() return http.html "<p>" end), 200, "<p>", HTML)
    check(ask(function() return 404, http.html "<p>" end), 404, "<p>", HTML)
    check(ask(function(_, res) res.body = http.html "<p>" end), 200, "<p>", HTML)
    check(ask(function() return { a = 1 } end), 200, '{"a":1}', JSON)
    check(ask(function() return json.empty_array end), 200, "[]", JSON)
    check(ask(function() return 404 end), 404, "Not Found", TEXT)
    check(ask(function() return 204 end), 204, "", nil)
    check(ask(function() return 201, "made" end), 201, "made", TEXT)
    check(ask(function() return 201, { id = 7 } end), 201, '{"id":7}', JSON)
    check(ask(function() return 200, "a,b", { ["content-type"] = "text/csv" } end), 200, "a,b", "text/csv")
    check(ask(function() return 200, "\0\r\n<" end), 200, "\0\r\n<", TEXT)
    check(ask(function() return (("abc"):gsub("b", "x")) end), 200, "axc", TEXT)
    check(ask(function() return "made", 201 end), 201, "made", TEXT)
    check(ask(function() return { id = 7 }, 201 end), 201, '{"id":7}', JSON)
    check(ask(function() return "a,b", 200, { ["content-type"] = "text/csv" } end), 200, "a,b", "text/csv")
    check(ask(function() end), 204, "", nil)
  end)

  it("is text whatever it looks like, and browsers are told not to guess", function()
    for _, body in ipairs { "<p>", "<!doctype html><script>alert(1)</script>", " <html>", "\239\187\191<b>", "{}" } do
      for _, fn in ipairs {
        function() return body end, function() return 201, body end, function(_, res) res:write(body) end,
        function(_, res) res.body = body end, function(_, res) res.headers["X-A"] = "1" return body end,
      } do
        local r = ask(fn)
        assert.same({ body, TEXT }, { r.body, r.headers["content-type"] })
        assert.same({ "nosniff" }, r.headers:get_all "x-content-type-options")
      end
    end
    for _, fn in ipairs {
      function() return http.html "x" end, function() return { 1 } end, function() return 404 end,
      function() error "x" end, function(_, res) res:json { 1 } end,
    } do
      assert.same({ "nosniff" }, ask(fn).headers:get_all "x-content-type-options")
    end
  end)

  it("leaves both to a handler that says the type, or what may be guessed", function()
    local r = ask(function() return 200, "x", { ["Content-Type"] = "image/x" } end)
    assert.same({ "image/x", nil }, { r.headers["content-type"], r.headers["x-content-type-options"] })
    for _, fn in ipairs { function(_, res) res:write "x" end, function() return "x" end } do
      r = ask(function(req, res)
        res.headers["X-Content-Type-Options"] = "mine"
        return fn(req, res)
      end)
      check(r, 200, "x", TEXT)
      assert.same({ "mine" }, r.headers:get_all "x-content-type-options")
    end
    check(ask(function() return 204 end), 204, "", nil)
  end)

  it("can be HTML, which stays so in middleware", function()
    local app = http.app()
    app:use(function(_, res, next)
      local page = next()
      res.headers["X-Body"] = res.body
      return "<!doctype html>" .. page .. "<hr>"
    end)
    app:get("/", function() return http.html("<p>" .. http.escape "<'&\">") end)
    local r = ask(app)
    check(r, 200, "<!doctype html><p>&lt;&#39;&amp;&quot;&gt;<hr>", HTML)
    assert.equal("<p>&lt;&#39;&amp;&quot;&gt;", r.headers["x-body"])
    assert.matches("html: text must be a string, got nil", helper.raised(http.html))
  end)

  it("takes headers of each form", function()
    local r = ask(function() return 302, nil, { Location = "/x", ["Set-Cookie"] = { "a=1", "b=2" }, ["X-N"] = 5 } end)
    assert.same({ 302, "Found", "/x", "5" }, { r.status, r.body, r.headers.location, r.headers["x-n"] })
    assert.same({ "a=1", "b=2" }, r.headers:get_all "set-cookie")
  end)

  it("is what res was told, when nothing is returned", function()
    check(ask(function(_, res) res.status = 202 end), 202, "", nil)
    check(ask(function(_, res) res.headers["X-A"] = "1" end), 204, "", nil)
    check(ask(function(_, res) res.body = "told" end), 200, "told", TEXT)
    check(ask(function(_, res) res:json { 1 } end), 200, "[1]", JSON)
    check(ask(function(_, res) res.status = 201; res:json { 1 } end), 201, "[1]", JSON)
  end)

  it("keeps status and headers told to res with what is returned", function()
    local r = ask(function(_, res)
      res.status = 201
      res.headers["X-A"] = "1"
      res.headers["Content-Type"] = "text/x"
      return "body"
    end)
    check(r, 201, "body", "text/x")
    assert.equal("1", r.headers["x-a"])
    check(ask(function(_, res) res.status = 202 return { a = 1 } end), 202, '{"a":1}', JSON)
    r = ask(function(_, res) res.headers = { ["X-A"] = "2" } return "x" end)
    assert.equal("2", r.headers["x-a"])
  end)

  it("redirects", function()
    local r = ask(function(_, res) return res:redirect "/there" end)
    assert.same({ 302, "/there" }, { r.status, r.headers.location })
    r = ask(function(_, res) res:redirect("/there", 308) end)
    assert.equal(308, r.status)
    r = ask(function(_, res)
      return helper.raised(res.redirect, res, "/x", 200) .. helper.raised(res.redirect, res, "/x\r\nA: b")
        .. helper.raised(res.redirect, res)
    end)
    assert.matches("status must be from 300", r.body)
    assert.matches("contains CR, LF", r.body)
    assert.matches("url must be a string", r.body)
  end)

  it("sets cookies", function()
    local r = ask(function(_, res)
      res:cookie("a", "1 2", { http_only = true })
      res:cookie("b", "3")
      return "x"
    end)
    assert.same({ "a=1%202; Path=/; HttpOnly", "b=3; Path=/" }, r.headers:get_all "set-cookie")
    r = ask(function(_, res) return helper.raised(res.cookie, res, "a b", "1") end)
    assert.matches("name must be a token", r.body)
  end)

  it("leaves framing to the host", function()
    local r = ask(function(_, res)
      res.headers["Content-Length"] = 1
      res.headers["Transfer-Encoding"] = "chunked"
      res.headers["Connection"] = "upgrade"
      return "longer"
    end)
    assert.same({ "longer", "6", nil }, { r.body, r.headers["content-length"], r.headers["transfer-encoding"] })
    assert.same({ "6" }, r.headers:get_all "content-length")
    assert.equal("longer", client:get("/").body)
  end)

  it("answers HEAD without a body, with the length it would have", function()
    local r = ask(function() return "12345" end, "HEAD")
    assert.same({ 200, "", "5" }, { r.status, r.body, r.headers["content-length"] })
    r = ask(function(_, res) res.status = 200; res.headers["Content-Length"] = 99 end, "HEAD")
    assert.same({ 200, "", "99" }, { r.status, r.body, r.headers["content-length"] })
    r = ask(function(_, res) res:write "12345" end, "HEAD")
    assert.same({ 200, "" }, { r.status, r.body })
    assert.equal(200, client:head("/").status)
  end)

  it("streams", function()
    local r = ask(function(_, res)
      for i = 1, 3 do
        assert(res:write("piece " .. i .. "\n"))
        assert(res:write "")
        lp.sleep(0.001)
      end
      res:write(4)
    end)
    check(r, 200, "piece 1\npiece 2\npiece 3\n4", TEXT)
    assert.equal("chunked", r.headers["transfer-encoding"])
    r = ask(function(_, res)
      res.status, res.headers["Content-Type"], res.headers["Content-Length"] = 203, "text/x", 6
      res:write "abc"
      res:flush()
      return res:write "def"
    end)
    check(r, 203, "abcdef", "text/x")
    assert.same({ "6", nil }, { r.headers["content-length"], r.headers["transfer-encoding"] })
    check(ask(function(_, res) res:write "<html>" end), 200, "<html>", TEXT)
    check(ask(function(_, res) return res:flush() end), 200, "", TEXT)
  end)

  it("lets middleware add a header to what was sent already: it goes nowhere", function()
    local app = http.app()
    app:use(function(_, res, next)
      next()
      res.headers["X-Late"] = "1"
      res.status = 500
    end)
    app:get("/", function(_, res) res:write "x" end)
    local r = ask(app)
    check(r, 200, "x", TEXT)
    assert.is_nil(r.headers["x-late"])
  end)

  it("ignores what is returned after writing, and logs it", function()
    local r
    local log = helper.stderr_of(function()
      r = ask(function(_, res)
        res:write "streamed"
        return "lost"
      end)
    end)
    assert.equal("streamed", r.body)
    assert.matches("GET / %(function%): returned a string after it had written", log)
  end)

  it("refuses more than the length that was set", function()
    local err
    ask(function(_, res)
      res.headers["Content-Length"] = 3
      res:write "ab"
      err = helper.raised(res.write, res, "cd")
      res:write "c"
    end)
    assert.matches("more than the Content%-Length", err)
  end)

  it("refuses what is no piece", function()
    local r = ask(function(_, res) return helper.raised(res.write, res, {}) end)
    assert.matches("piece must be a string, got table", r.body)
  end)

  for what, case in pairs {
    ["a boolean"] = { function() return true end, "returned a boolean" },
    ["userdata"] = { function() return io.stdout end, "returned a userdata" },
    ["a function"] = { function() return print end, "returned a function" },
    ["a coroutine"] = { function() return coroutine.create(print) end, "returned a thread" },
    ["a table with a function"] = { function() return { a = { print } } end, "a function at .a%[1%]" },
    ["a table that contains itself"] = { function() local t = {} t.t = t return t end, "contain itself" },
    ["NaN"] = { function() return { 0 / 0 } end, "nan at %[1%]" },
    ["a status that is none"] = { function() return 99 end, "from 200 to 999, got 99" },
    ["a status with a fraction"] = { function() return 200.5 end, "got 200.5" },
    ["a bad status in res"] = { function(_, res) res.status = "200" return "x" end, 'got the string "200"' },
    ["a boolean body"] = { function() return 200, true end, "returned a boolean" },
    ["headers that are no table"] = { function() return 200, "x", "y" end, "headers that are a string" },
    ["headers with a line break"] = { function() return 200, "x", { A = "b\nc" } end, "contains CR, LF" },
    ["nil and an error"] = { function() return nil, "the reason" end, "the reason" },
  } do
    it("is 500 for " .. what .. ", and the log says why", function()
      local r
      local log = helper.stderr_of(function() r = ask(case[1]) end)
      check(r, 500, "Internal Server Error", TEXT)
      assert.matches("GET / %(function%): ", log)
      assert.matches(case[2], log)
    end)
  end

  it("closes the connection if the handler says so", function()
    client = testing.serve(function(_, res) res.headers.Connection = "Close" return "x" end)
    local conn = assert(client:connect())
    conn:write "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    local r, _, last = testing.read_reply(conn)
    assert.same({ "x", "close", true }, { r.body, r.headers.connection, last })
    assert.same({ nil, "eof" }, { conn:read() })
    conn:close()
  end)

  it("has one Date, and it is the server's", function()
    local r = ask(function(_, res) res.headers.Date = "yesterday" return "x" end)
    local dates = r.headers:get_all "date"
    assert.equal(1, #dates)
    assert.matches("^%a%a%a, %d%d %a%a%a %d%d%d%d %d%d:%d%d:%d%d GMT$", dates[1])
  end)

  it("flush waits until the kernel has all", function()
    local pieces, flushed
    client = testing.serve(function(_, res)
      pieces = 0
      local answer
      repeat -- the kernel makes room again, some times, for a connection that has not moved
        while lp.deadline(0.1, res.write, res, ("x"):rep(10000)) do pieces = pieces + 1 end
        answer = { lp.deadline(0.05, res.flush, res) }
      until not answer[1]
      flushed = answer
      lp.sleep(helper.PATIENCE)
    end)
    local conn = assert(client:connect())
    conn:write "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    helper.eventually(function() return flushed end)
    assert.is_true(pieces > 0)
    assert.same({ nil, "timeout" }, flushed)
    conn:close()
  end)
end)
