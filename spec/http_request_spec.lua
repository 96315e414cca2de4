local http = require "lunapark.http"
local lp = require "lunapark"
local testing = require "lunapark.testing"
local helper = require "spec.helper"

describe("http request", function()
  local client, app

  before_each(function() app = http.app() end)
  after_each(function() if client then client:close() end client = nil end)

  -- Serves fn for everything and asks once.
  local function ask(fn, method, target, opts)
    client = testing.serve(fn)
    return assert(client:request(method or "GET", target or "/", opts))
  end

  it("has the parts of its head", function()
    local seen
    client = testing.serve(function(req)
      seen = {
        method = req.method, path = req.path, target = req.target, query = req.query, params = req.params,
        version = req.version, host = req.host, scheme = req.scheme, agent = req.headers["user-agent"],
      }
      assert(req.remote_addr:find "^127%.0%.0%.1:%d+$", req.remote_addr)
      assert(type(req.id) == "number")
      assert(req.ctx == req.ctx and req.headers == req.headers)
      return 204
    end, { tls = false })
    local r = client:request("PATCH", "/a%20b/./c?x=1&y=a+b", { headers = { ["User-Agent"] = "spec" } })
    assert.equal(204, r.status)
    assert.same({
      method = "PATCH", path = "/a b/c", target = "/a%20b/./c?x=1&y=a+b", query = { x = "1", y = "a b" }, params = {},
      version = "1.1", host = client.addr, scheme = "http", agent = "spec",
    }, seen)
  end)

  it("has the trailers of a chunked body, once the body is read", function()
    local app_ = http.app()
    app_:post("/", function(req)
      local early = helper.raised(req.trailers, req)
      local body, list = req:body(), {}
      local t = req:trailers()
      for _, name, value in t:each() do list[#list + 1] = name .. "=" .. value end
      return { early = early, body = body, sum = t["x-sum"], all = list, header = req.headers["x-sum"] }
    end)
    app_:get("/none", function(req) return tostring(req:trailers()["x-sum"]) end)
    client = testing.serve(app_)
    local conn = assert(client:connect())
    assert(conn:write("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Su"))
    lp.sleep(0.01)
    assert(conn:write("m: 1\r\nX-B:\r\nX-SUM: 2\r\n\r\nGET /none HTTP/1.1\r\nHost: x\r\n\r\n"))
    local r = assert(testing.read_reply(conn)):json()
    assert.matches("trailers: the body has not been read", r.early)
    assert.same({ "abc", "1, 2", { "X-Sum=1", "X-B=", "X-SUM=2" } }, { r.body, r.sum, r.all })
    assert.is_nil(r.header)
    assert.equal("nil", assert(testing.read_reply(conn)).body)
    conn:close()
  end)

  it("has the host of an absolute target", function()
    local r = ask(function(req) return req.host .. " " .. req.path end, "GET", "http://example.org:81/x?y")
    assert.equal("example.org:81 /x", r.body)
  end)

  it("counts: ids differ", function()
    client = testing.serve(function(req) return tostring(req.id) end)
    assert.not_equal(client:get("/").body, client:get("/").body)
  end)

  it("has headers without case, joined, in order, and changeable", function()
    local seen
    ask(function(req)
      local h = req.headers
      seen = { h.accept, h["X-A"], h["x-none"] or "none", h.cookie, h:get_all "x-a" }
      h["X-New"] = "n"
      seen[6], seen[7] = h["x-new"], h["x-a"]
      h["X-A"] = nil
      seen[8] = h["x-a"] or "gone"
      local names = {}
      for _, name in h:each() do
        names[#names + 1] = name:lower()
      end
      seen[9] = table.concat(names, " ")
      return 204
    end, "GET", "/", { headers = { ACCEPT = "*/*", ["x-a"] = { "1", "2" }, Cookie = { "a=1", "b=2" } } })
    assert.same({ "*/*", "1, 2", "none", "a=1; b=2", { "1", "2" }, "n", "1, 2", "gone",
      "host accept cookie cookie x-new" }, seen)
  end)

  it("cannot climb out of a folder by its path", function()
    app:get("/files/*rest", function(req) return req.params.rest end)
    app:get("/one/:name", function(req) return req.params.name end)
    for _, served in ipairs { app, function(req) return req.path end } do
      for _, target in ipairs {
        "/files/..%2f..%2fetc%2fpasswd", "/files/a/%2e%2e%2Fb", "/files/x%2f..%2f..%2f..", "/one/..%2f..%2fx",
        "/files/..%5c..%5cx", "/files/a%2f.%2fb",
      } do
        if client then client:close() end
        local r = ask(served, "GET", target)
        assert.same({ 400, "Bad Request" }, { r.status, r.body }, target)
      end
    end
    assert.equal("a/b/c", ask(app, "GET", "/files/a%2Fb/c").body)
    assert.equal("a/b", ask(app, "GET", "/one/a%2Fb").body)
  end)

  it("has cookies", function()
    local r = ask(function(req) return req:cookie "b" .. req:cookie "c" .. tostring(req:cookie "d") end, "GET", "/",
      { headers = { Cookie = { "a=1; b=two%20words", "c=3" } } })
    assert.equal("two words3nil", r.body)
  end)

  it("has a body, the same at each call", function()
    local body = ("x"):rep(300000)
    local r = ask(function(req)
      local whole = req:body()
      assert(whole == req:body() and req:read() == nil)
      return whole
    end, "POST", "/", { body = body })
    assert.is_true(r.body == body)
    assert.equal("", ask(function(req) return "" .. req:body() end).body)
    assert.equal("nil", ask(function(req) return tostring(req:read()) end).body)
  end)

  it("can be read in pieces, and the rest as a whole", function()
    local r = ask(function(req)
      local head, pieces = req:read(5), 0
      assert(#head <= 5 and #head > 0)
      for _ = 1, 3 do
        head, pieces = head .. req:read(1000), pieces + 1
      end
      return head .. req:body()
    end, "POST", "/", { body = ("0123456789"):rep(5000) })
    assert.equal(("0123456789"):rep(5000), r.body)
    r = ask(function(req)
      local n = 0
      for piece in function() return req:read() end do
        n = n + #piece
      end
      return tostring(n)
    end, "PUT", "/", { body = ("x"):rep(200000) })
    assert.equal("200000", r.body)
  end)

  it("refuses a bad n", function()
    local r = ask(function(req) return helper.raised(req.read, req, 0) end)
    assert.matches("read: n must be 1 or more, got 0", r.body)
  end)

  it("parses JSON, or says why not", function()
    client = testing.serve(function(req)
      local value, err = req:json()
      if value == nil then return 422, err end
      return { got = value }
    end)
    assert.same({ got = { 1, 2 } }, client:post("/", { body = "[1,2]" }):json())
    local r = client:post("/", { body = "[1," })
    assert.equal(422, r.status)
    assert.matches("bad JSON", r.body)
  end)

  it("answers 400 for a handler that stumbles over bad JSON, and logs it", function()
    client = testing.serve(function(req) return { sum = req:json().a } end)
    local r
    local log = helper.stderr_of(function() r = client:post("/", { body = "no" }) end)
    assert.same({ 400, "Bad Request" }, { r.status, r.body })
    assert.matches("attempt to index", log)
  end)

  it("parses forms", function()
    client = testing.serve(function(req)
      local form, err = req:form()
      return form and { form = form } or { err = err }
    end)
    local function form(body, ctype)
      return client:post("/", { body = body, headers = { ["Content-Type"] = ctype } }):json()
    end
    assert.same({ form = { a = "1 2", b = "y" } }, form("a=1+2&b=x&b=y", "application/x-www-form-urlencoded"))
    assert.same({ form = { a = "ü" } }, form("a=%C3%BC", "Application/X-WWW-Form-Urlencoded; charset=utf-8"))
    assert.matches("not a form", form("a=1", "text/plain").err)
  end)

  it("times out as a wait does", function()
    local seen
    client = testing.serve(function(req)
      seen = { lp.deadline(0.01, req.body, req) }
      return "late"
    end)
    local conn = assert(client:connect())
    conn:write "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab"
    helper.eventually(function() return seen end)
    conn:write "cde"
    assert.equal("late", testing.read_reply(conn).body)
    assert.same({ nil, "timeout" }, { seen[1], seen[2] })
    conn:close()
  end)

  it("is over when its handler has returned", function()
    local kept
    app:post("/:name", function(req, res)
      kept = { req = req, res = res, headers = req.headers, path = req.path }
      return "x"
    end)
    client = testing.serve(app)
    assert.equal("x", client:post("/ann?a=1", { body = "abc" }).body)
    local req, res, headers = kept.req, kept.res, kept.headers
    assert.equal("/ann", req.path)
    assert.equal("ann", req.params.name)
    for _, misuse in ipairs {
      function() return req.query end, function() return req.remote_addr end, function() return req:body() end,
      function() return req:read() end, function() return req:cookie "a" end, function() return headers.host end,
      function() return headers:each() end, function() return headers:get_all "host" end,
      function() return res:write "x" end, function() return res:flush() end,
    } do
      assert.matches("request is over", helper.raised(misuse))
    end
    assert.equal("x", client:post("/bob", { body = "abc" }).body)
  end)

  it("may be gone while a G that it started lives on", function()
    local seen
    client = testing.serve(function(req)
      lp.go(function()
        lp.sleep(0.005)
        seen = helper.raised(req.body, req)
      end)
      return "x"
    end)
    assert.equal("x", client:get("/").body)
    helper.eventually(function() return seen end)
    assert.matches("request is over", seen)
  end)

  it("whose body does not come in time is the client's fault: 408, and a warning", function()
    client = testing.serve(function(req) return assert(lp.deadline(0.01, req.body, req)) end)
    local conn = assert(client:connect())
    conn:write "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab"
    local log = helper.stderr_of(function() assert.equal(408, testing.read_reply(conn).status) end)
    assert.matches("warn POST /", log)
    conn:close()
  end)

  it("says which version of HTTP it is", function()
    client = testing.serve(function(req) return req.version end)
    for _, version in ipairs { "1.0", "1.1" } do
      local conn = assert(client:connect())
      conn:write(("GET / HTTP/%s\r\nHost: x\r\n\r\n"):format(version))
      assert.equal(version, testing.read_reply(conn).body)
      conn:close()
    end
  end)
end)
