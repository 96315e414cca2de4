--- How handlers end otherwise than by what they return: http.abort, errors with a status, not_found, on_done; and which
--- form the answers have that no handler makes.

local http = require "lunapark.http"
local lp = require "lunapark"
local testing = require "lunapark.testing"
local helper = require "spec.helper"

describe("http control", function()
  local app, client

  before_each(function() app, client = http.app(), nil end)
  after_each(function() if client then client:close() end end)

  local function get(target, opts)
    client = client or testing.serve(app)
    return assert(client:get(target, opts))
  end

  describe("abort", function()
    it("ends the handler with an answer, from wherever it is", function()
      local function find() http.abort(404, "no such user", { ["X-Why"] = "gone" }) end
      app:get("/text", function(_, res)
        res:cookie("a", "1")
        res.headers["Content-Type"] = "image/png"
        find()
      end)
      app:get("/table", function() http.abort(422, { field = "name" }) end)
      app:get("/bare", function() http.abort(403) end)
      app:get("/page", function() http.abort(503, http.html "<p>") end)
      app:get("/scope", function() lp.scope(function(s) s:go(find) end) end)
      local log = helper.stderr_of(function()
        local r = get "/text"
        assert.same({ 404, "no such user", "gone", "text/plain; charset=utf-8" },
          { r.status, r.body, r.headers["x-why"], r.headers["content-type"] })
        assert.matches("^a=1", r.headers["set-cookie"])
        assert.same({ 422, '{"field":"name"}' }, { get("/table").status, get("/table").body })
        assert.same({ 403, "Forbidden" }, { get("/bare").status, get("/bare").body })
        assert.same({ 503, "text/html; charset=utf-8" }, { get("/page").status, get("/page").headers["content-type"] })
        assert.same({ 404, "no such user" }, { get("/scope").status, get("/scope").body })
      end)
      assert.equal("", log)
    end)

    it("is not for on_error, passes middleware, and may be caught", function()
      local asked = false
      app:on_error(function() asked = true return "asked" end)
      app:use(function(req, res, next)
        res.headers["X-Before"] = "1"
        if req.path ~= "/caught" then return next() end
        local ok, err = pcall(next)
        return tostring(ok) .. " " .. err.status .. " " .. tostring(err)
      end)
      app:get("/*rest", function() http.abort(404, "no") end)
      local r = get "/a"
      assert.same({ 404, "no", "1", false }, { r.status, r.body, r.headers["x-before"], asked })
      assert.equal("false 404 no", get("/caught").body)
    end)

    it("may stand in on_error", function()
      app:on_error(function() http.abort(418, "tea") end)
      app:get("/", function() error "x" end)
      assert.same({ 418, "tea" }, { get("/").status, get("/").body })
    end)

    it("refuses what is no answer", function()
      for words, args in pairs {
        ["status must be a whole number from 200 to 999, got 42"] = { 42 },
        ['status must be a whole number from 200 to 999, got the string "404"'] = { "404" },
        ["body must be a string, a page or a table, got number"] = { 404, 5 },
        ["headers must be a table, got string"] = { 404, "x", "y" },
      } do
        assert.matches(words, helper.raised(function() http.abort(unpack(args)) end))
      end
      app:get("/json", function() http.abort(404, { print }) end)
      local log = helper.stderr_of(function() assert.equal(500, get("/json").status) end)
      assert.matches("abort: .*no JSON", log)
    end)
  end)

  describe("an error with a status", function()
    before_each(function()
      app:get("/404", function(_, res)
        res:cookie("seen", "1")
        error { status = 404, message = "no such user" }
      end)
      app:get("/503", function() error { status = 503, message = "later", headers = { ["Retry-After"] = "7" } } end)
      app:get("/other", function() error { status = "x" } end)
    end)

    it("is the answer", function()
      local log = helper.stderr_of(function()
        local r = get "/404"
        assert.same({ 404, "no such user" }, { r.status, r.body })
        assert.matches("^seen=1", r.headers["set-cookie"])
      end)
      assert.equal("", log)
      log = helper.stderr_of(function()
        local r = get "/503"
        assert.same({ 503, "later", "7" }, { r.status, r.body, r.headers["retry-after"] })
      end)
      assert.matches("GET /503 .*later\n.*http_control_spec", log)
      helper.stderr_of(function() assert.equal(500, get("/other").status) end)
    end)

    it("is on_error's first", function()
      local seen
      app:on_error(function(_, res, err)
        seen = err
        return "status " .. res.status
      end)
      assert.same({ 404, "status 404" }, { get("/404").status, get("/404").body })
      assert.equal("no such user", seen.message)
    end)
  end)

  it("keeps cookies and other headers that were set before an error", function()
    app:get("/", function(_, res)
      res:cookie("kept", "1")
      res.headers["Access-Control-Allow-Origin"] = "*"
      res.headers["Content-Type"] = "image/png"
      error "broken"
    end)
    helper.stderr_of(function()
      local r = get "/"
      assert.same({ 500, "Internal Server Error", "*", "text/plain; charset=utf-8" },
        { r.status, r.body, r.headers["access-control-allow-origin"], r.headers["content-type"] })
      assert.matches("^kept=1", r.headers["set-cookie"])
    end)
  end)

  describe("not_found", function()
    it("answers where there is no route, also in mounted apps", function()
      local inner, own = http.app(), http.app()
      app:not_found(function(req) return 404, "nothing at " .. req.path end)
      own:not_found(function() return 410, "own" end)
      inner:get("/a", function() return "a" end)
      app:mount("/in", inner)
      app:mount("/own", own)
      app:post("/post", function() return "x" end)
      assert.same({ 404, "nothing at /x" }, { get("/x").status, get("/x").body })
      assert.equal("nothing at /in/x", get("/in/x").body)
      assert.same({ 410, "own" }, { get("/own/x").status, get("/own/x").body })
      assert.same({ 405, "OPTIONS, POST" }, { get("/post").status, get("/post").headers.allow })
      assert.matches("not_found: fn must be a function, got nil", helper.raised(app.not_found, app))
    end)
  end)

  describe("answers that no handler makes", function()
    local function form(accept, target)
      return get(target or "/none", { headers = { Accept = accept } }).headers["content-type"]
    end

    it("are JSON for clients that like it better", function()
      app:get("/error", function() error "x" end)
      app:get("/message", function() error { status = 409, message = 'a "b"' } end)
      local TEXT, JSON = "text/plain; charset=utf-8", "application/json"
      for accept, expected in pairs {
        ["application/json"] = JSON, ["application/json, text/plain, */*"] = JSON, ["application/*"] = JSON,
        ["text/html;q=0.5, Application/JSON ; q=0.9"] = JSON, ["text/*;q=0.1,application/json;q=0.2"] = JSON,
        ["*/*"] = TEXT, [""] = TEXT, ["text/html,application/xhtml+xml,*/*;q=0.8"] = TEXT,
        ["text/plain, application/json"] = TEXT, ["application/json;q=0"] = TEXT, ["image/png"] = TEXT,
        ["application/json;q=x"] = TEXT, [",;,"] = TEXT, ["application/json;q=0.2, text/html"] = TEXT,
      } do
        assert.equal(expected, form(accept), accept)
      end
      local json = { headers = { Accept = "application/json" } }
      assert.same({ error = "Not Found", status = 404 }, get("/none", json):json())
      helper.stderr_of(function()
        assert.same({ error = "Internal Server Error", status = 500 }, get("/error", json):json())
      end)
      assert.same({ error = 'a "b"', status = 409 }, get("/message", json):json())
      assert.equal(404, get("/none", json).status)
      assert.same({ error = "Bad Request", status = 400 }, get("/../..", json):json())
    end)

    it("also those that C makes", function()
      local conn = testing.raw(app)
      conn:write "GET / HTTP/1.1\r\nAccept: application/json\r\nHost: a\r\nHost: b\r\n\r\n"
      local r = assert(testing.read_reply(conn))
      assert.same({ 400, "application/json", '{"error":"Bad Request","status":400}' },
        { r.status, r.headers["content-type"], r.body })
      conn:close()
      conn = testing.raw(app)
      conn:write "NONE / HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n\r\n"
      assert.equal(501, assert(testing.read_reply(conn)):json().status)
      conn:close()
    end)
  end)

  describe("on_done", function()
    it("is called once for each exchange", function()
      local seen, inner = {}, http.app()
      app:on_done(function(req, _, info) seen[#seen + 1] = ("%s %d"):format(req.path, info.status) end)
      inner:on_done(function(_, _, info) seen[#seen + 1] = "inner " .. tostring(info.bytes > 100) end)
      inner:get("/a", function() return ("x"):rep(100) end)
      app:mount("/in", inner)
      local error_text, seconds
      app:on_done(function(_, _, info)
        error_text, seconds = info.error, info.seconds
      end)
      app:get("/", function() lp.sleep(0.01) return 201, "x" end)
      app:get("/error", function() error "oh" end)
      app:get("/stream", function(_, res) res:write "a" end)
      get "/"
      helper.eventually(function() return seconds end)
      assert.is_true(seconds >= 0.01)
      assert.is_nil(error_text)
      get "/in/a"
      get "/none"
      get "/stream"
      helper.stderr_of(function() get "/error" end)
      helper.eventually(function() return error_text end)
      assert.matches("http_control_spec.lua:%d+: oh", error_text)
      assert.same({ "/ 201", "inner true", "/in/a 200", "/none 404", "/stream 200", "/error 500" }, seen)
    end)

    it("that fails is logged", function()
      app:on_done(function() error "no room" end)
      app:get("/", function() return "fine" end)
      local log = helper.stderr_of(function()
        assert.equal("fine", get("/").body)
        client:close() -- waits for its end
        client = nil
        lp.sleep(0.05)
      end)
      assert.matches("on_done failed: .*no room", log)
    end)
  end)
end)
