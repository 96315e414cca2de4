local http = require "lunapark.http"
local lp = require "lunapark"
local net = require "lunapark.net"
local testing = require "lunapark.testing"
local helper = require "spec.helper"

-- A listener that gives every connection `text` once a request head came, and closes.
local function canned(text)
  local ln = assert(net.listen "127.0.0.1:0")
  lp.go(function()
    while true do
      local conn = ln:accept()
      if not conn then return end
      conn:set_deadline(5)
      conn:read_until "\r\n\r\n"
      conn:write(text)
      conn:close_write()
      conn:read_all()
      conn:close()
    end
  end)
  local client = require("lunapark.testing.client").new(ln:addr(), { stop = function() ln:close() end })
  client.timeout = 2
  return client
end

describe("testing", function()
  local client

  after_each(function() if client then client:close() end client = nil end)

  it("serves an app, a function or a script", function()
    local app = http.app()
    app:get("/", function() return "app" end)
    client = testing.serve(app)
    assert.matches("^127%.0%.0%.1:%d+$", client.addr)
    assert.equal("app", client:get("/").body)
    client:close()
    client = testing.serve(function() return "function" end)
    assert.equal("function", client:get("/").body)
    client:close()
    client = testing.serve "scripts/hello.lua"
    assert.equal("Hello, World!", client:get("/").body)
  end)

  it("refuses what is no app", function()
    assert.matches("app must be an app, a function or a path, got number", helper.raised(testing.serve, 5))
    assert.matches("no/such.lua", helper.raised(testing.serve, "no/such.lua"))
    local path = os.tmpname()
    local function script(text)
      local file = assert(io.open(path, "w"))
      file:write(text)
      file:close()
      return helper.raised(testing.serve, path)
    end
    assert.matches("returned neither an app nor a function, but a number", script "return 1")
    assert.matches(":1: ", script "return return")
    assert.matches(":2: on the way", script "\nerror 'on the way'")
    os.remove(path)
  end)

  it("has a client for every method, with headers and body", function()
    client = testing.serve(function(req) return { req.method, req.headers["x-a"] or "", req:body() } end)
    for _, method in ipairs { "get", "post", "put", "patch", "delete", "options" } do
      local r = client[method](client, "/", { headers = { ["X-A"] = "1" }, body = "b" })
      assert.same({ method:upper(), "1", "b" }, r:json())
    end
    assert.equal("", client:head("/").body)
    assert.same({ "PROPFIND", "", "" }, client:request("PROPFIND", "/"):json())
    assert.same({ "GET", "1, 2", "" }, client:get("/", { headers = { ["X-A"] = { 1, 2 } } }):json())
    assert.matches("method must be a string", helper.raised(client.request, client))
    assert.matches("target must be a string", helper.raised(client.get, client))
    assert.matches("body must be a string or a function, got table",
      helper.raised(client.post, client, "/", { body = {} }))
  end)

  it("gives headers of the server's type", function()
    client = testing.serve(function() return 200, "x", { ["Set-Cookie"] = { "a=1", "b=2" } } end)
    local r = client:get "/"
    assert.equal(getmetatable(r.headers), require("lunapark.http.headers").mt)
    assert.same({ "a=1", "b=2" }, r.headers:get_all "SET-COOKIE")
    assert.equal("1.1", r.version)
    assert.equal("OK", r.reason)
  end)

  it("keeps its connection alive, and uses several when several Gs ask", function()
    client = testing.serve(function(req)
      if req.path == "/slow" then lp.sleep(0.01) end
      return req.remote_addr
    end)
    local first = client:get("/").body
    assert.equal(first, client:get("/").body)
    local peers, gs, n = {}, {}, 0
    for i = 1, 5 do
      gs[i] = lp.go(function() peers[client:get("/slow").body] = true end)
    end
    for _, g in ipairs(gs) do
      g:join()
    end
    for _ in pairs(peers) do n = n + 1 end
    assert.equal(5, n)
  end)

  it("reads bodies of every framing", function()
    for text, body in pairs {
      ["HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"] = "abc",
      ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\nT: 1\r\n\r\n"] = "abc",
      ["HTTP/1.1 200 OK\r\n\r\nto the end"] = "to the end",
      ["HTTP/1.0 200\r\n\r\n"] = "",
      ["HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"] = "ok",
      ["HTTP/1.1 204 No Content\r\n\r\n"] = "",
      ["HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"] = "",
    } do
      client = canned(text)
      local r, err = client:get "/"
      assert.equal(body, r and r.body, err)
      client:close()
    end
    client = canned "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"
    assert.equal("", client:head("/").body)
  end)

  it("does not take a broken response for a good one", function()
    for text, err in pairs {
      [""] = "eof",
      ["HTTP/1.1 200 OK\r\nContent-Le"] = "eof",
      ["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"] = "eof",
      ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"] = "eof",
      ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxx\r\n"] = "malformed chunk size: xx",
      ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n"] = "chunk does not end where it says",
      ["HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"] =
        "both Transfer-Encoding and Content-Length",
      ["HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n"] = "bad Content-Length: 1, 1",
      ["HTTP/1.1 200 OK\r\nno colon\r\n\r\n"] = "malformed header line: no colon",
      ["HTTP/1.1 200 OK\r\nno(token): x\r\n\r\n"] = "malformed header line: no(token): x",
      ["HTTP/1.1 200 OK\r\na: b\rc\r\n\r\n"] = "malformed header line: a: b\rc",
      ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2x\r\nab\r\n0\r\n\r\n"] = "malformed chunk size: 2x",
      ["HTTP/1.1 200 OK\r\n" .. (("a: %s\r\n"):format(("b"):rep(1000))):rep(300) .. "\r\n"] = "the head is too long",
      [("HTTP/1.1 100 Continue\r\n\r\n"):rep(12000)] = "the head is too long",
      ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" .. ("a: b\r\n"):rep(50000) .. "\r\n"] =
        "the head is too long",
      ["nonsense\r\n\r\n"] = "malformed status line: nonsense",
    } do
      client = canned(text)
      assert.same({ nil, err }, { client:get "/" })
      client:close()
    end
  end)

  it("does not wait for ever", function()
    client = testing.serve(function() lp.sleep(0.2) return "late" end)
    client.timeout = 0.02
    assert.same({ nil, "timeout" }, { client:get "/" })
  end)

  it("says closed after close", function()
    client = testing.serve(function() return "x" end)
    client:get "/"
    client:close()
    client:close()
    assert.same({ nil, "closed" }, { client:get "/" })
    -- The listener ends when the Gs that accept for it have noticed.
    helper.eventually(function()
      local conn = net.dial(client.addr)
      if conn then conn:close() end
      return not conn
    end)
  end)

  it("stops a server that nobody holds", function()
    local addr
    do
      local c = testing.serve(function() return "x" end)
      addr = c.addr
      assert.equal("x", c:get("/").body)
    end
    helper.eventually(function()
      collectgarbage()
      local conn = net.dial(addr)
      if conn then conn:close() end
      return not conn
    end)
  end)

  describe("of a block", function()
    local addrs

    it("is there in that block", function()
      addrs = { testing.serve(function() return "x" end).addr, testing.serve(function() return "y" end).addr }
      assert.not_equal(addrs[1], addrs[2])
      for _, addr in ipairs(addrs) do assert(net.dial(addr)):close() end
    end)

    teardown(function()
      for _, addr in ipairs(addrs) do
        helper.eventually(function()
          local conn, err = net.dial(addr)
          if conn then conn:close() end
          return err == "connection refused"
        end, "its end after the block")
      end
    end)
  end)

  it("says that nobody listens", function()
    client = testing.serve(function() return "x" end)
    local gone = client.addr
    client:close()
    helper.eventually(function()
      local _, err = require("lunapark.testing.client").new(gone):get "/"
      return err == "connection refused"
    end)
  end)

  it("refuses unknown options, and what is none", function()
    local app = function() return "x" end
    assert.matches("serve: unknown option tiemout", helper.raised(testing.serve, app, { tiemout = 1 }))
    assert.matches("serve: opts.timeout must be a number, got string",
      helper.raised(testing.serve, app, { timeout = "1" }))
    assert.matches("serve: opts must be a table, got number", helper.raised(testing.serve, app, 5))
    client = testing.serve(app)
    assert.matches("request: unknown option bdy", helper.raised(client.get, client, "/", { bdy = "x" }))
    assert.matches("only one of body, json and form",
      helper.raised(client.post, client, "/", { body = "x", json = 1 }))
    assert.matches("opts.json: cannot encode as JSON: a function",
      helper.raised(client.post, client, "/", { json = print }))
    assert.matches("opts.query must be a table, got string",
      helper.raised(client.get, client, "/", { query = "a=1" }))
  end)

  it("sends JSON, forms, queries and headers of its own", function()
    client = testing.serve(function(req)
      local kind = req.headers["content-type"]
      if kind == "application/json" then return { json = req:json(), all = req.headers["x-all"] } end
      if kind then return { form = req:form(), body = req:body() } end
      return { query = req.query, target = req.target }
    end, { headers = { ["X-All"] = "yes" } })
    assert.same({ json = { a = { 1, 2 } }, all = "yes" }, client:post("/", { json = { a = { 1, 2 } } }):json())
    assert.equal("no", client:post("/", { json = {}, headers = { ["x-all"] = "no" } }):json().all)
    local r = client:post("/", { form = { name = "a b&c", n = { 1, 2 } } }):json()
    assert.equal("n=1&n=2&name=a%20b%26c", r.body)
    assert.equal("a b&c", r.form.name)
    assert.equal("/?z=0&q=%C3%A4", client:get("/?z=0", { query = { q = "ä" } }):json().target)
    assert.equal("/", client:get("/", { query = {} }):json().target)
  end)

  describe("streams", function()
    it("a response in pieces as they come", function()
      local go_on = lp.chan(0)
      client = testing.serve(function(_, res)
        for i = 1, 3 do
          res:write("piece " .. i)
          res:flush()
          go_on:recv(5)
        end
      end)
      local r = assert(client:get("/", { stream = true }))
      assert.is_nil(r.body)
      assert.equal(200, r.status)
      for i = 1, 3 do
        assert.equal("piece " .. i, r:read())
        go_on:send(true, 5)
      end
      assert.same({}, { r:read() })
      assert.same({}, { r:read() })
      assert.matches("streamed", helper.raised(r.json, r))
      assert.equal(1, #client.idle) -- and the connection is used again
      assert.matches("n must be a number, 1 or more", helper.raised(r.read, r, 0))
    end)

    it("a body of known length in pieces no larger than asked for", function()
      client = testing.serve(function() return ("x"):rep(10) end)
      local r = assert(client:get("/", { stream = true }))
      assert.same({ "xxxx", "xxxx", "xx" }, { r:read(4), r:read(4), r:read(4) })
      assert.same({}, { r:read() })
      assert.equal("xxxxxxxxxx", assert(client:get("/", { stream = true })):read_all())
    end)

    it("a request's body, and its response meanwhile", function()
      client = testing.serve(function(req, res)
        local piece = req:read()
        while piece do
          res:write("got " .. piece)
          res:flush()
          piece = req:read()
        end
      end)
      local ask, n = lp.chan(0), 0
      local r = assert(client:post("/", { stream = true, body = function()
        n = n + 1
        if n > 1 then ask:recv(5) end
        return n <= 3 and tostring(n) or nil
      end }))
      for i = 1, 3 do
        assert.equal("got " .. i, r:read())
        ask:send(true, 5)
      end
      assert.same({}, { r:read() })
      assert.equal(1, #client.idle)
    end)

    it("a request's body with a Content-Length", function()
      client = testing.serve(function(req) return { req.headers["content-length"], req:body() } end)
      local pieces = { "ab", "cd" }
      local function body() return table.remove(pieces, 1) end
      local r = client:put("/", { headers = { ["Content-Length"] = 4 }, body = body })
      assert.same({ "4", "abcd" }, r:json())
    end)

    it("a request's body no further when the response has come", function()
      client = testing.serve(function() return "early" end)
      local pieces, heard = 0, nil
      local r = assert(client:post("/", { timeout = 1000, body = function()
        pieces = pieces + 1
        if pieces == 1 then return "x" end
        heard = { lp.sleep(1e6) }
      end }))
      assert.equal("early", r.body)
      assert.same({ nil, "canceled" }, heard)
      assert.equal(0, #client.idle)
    end)

    it("a request's body no further when a write of it has failed", function()
      local ln = assert(net.listen "127.0.0.1:0")
      lp.go(function()
        for _ = 1, 2 do
          local conn = ln:accept()
          conn:read_until "\r\n\r\n"
          conn:close()
        end
      end)
      client = require("lunapark.testing.client").new(ln:addr())
      for _, headers in ipairs { {}, { ["Content-Length"] = "99999999" } } do
        local pieces = 0
        local r = client:post("/", { headers = headers, body = function()
          pieces = pieces + 1
          if pieces < 5 then return ("x"):rep(32 * 2 ^ 20) end -- more than kernels take for somebody who reads nothing
        end })
        assert.is_nil(r)
        assert.equal(1, pieces)
      end
      ln:close()
    end)

    it("and says what is wrong with the body", function()
      client = testing.serve(function(req) return req:body() end)
      assert.same({ nil, "body: a piece must be a string, got number" },
        { client:post("/", { body = function() return 5 end }) })
      local _, err = client:post("/", { body = function() error "boom" end })
      assert.matches("^body: .*boom$", err)
      assert.equal("fine", client:post("/", { body = "fine" }).body)
    end)

    it("until it hangs up, or the server does", function()
      local over = lp.chan(1)
      client = testing.serve(function(_, res)
        res:write "first"
        res:flush()
        local _, err = lp.sleep(5)
        over:send(err)
      end)
      local r = assert(client:get("/", { stream = true }))
      assert.equal("first", r:read())
      r:close()
      r:close()
      assert.same({ nil, "closed" }, { r:read() })
      assert.equal("canceled", over:recv(5))
      client:close()
      client = canned "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"
      r = assert(client:get("/", { stream = true }))
      assert.equal("abc", r:read())
      assert.same({ nil, "eof" }, { r:read() })
      assert.same({ nil, "eof" }, { r:read() })
    end)

    it("and does not wait for ever", function()
      client = testing.serve(function(_, res)
        res:write "first"
        res:flush()
        lp.sleep(1e6)
      end, { timeout = 0.05 })
      local r
      helper.eventually(function() -- on a busy machine the head may take longer
        r = client:get("/", { stream = true })
        if r and r:read() == "first" then return true end
        client.timeout = 2 * client.timeout
      end, "the first piece")
      assert.same({ nil, "timeout" }, { r:read() })
    end)
  end)

  it("ends streams when it is closed", function()
    client = testing.serve(function(_, res)
      res:write "first"
      res:flush()
      lp.sleep(5)
    end)
    local r = assert(client:get("/", { stream = true }))
    assert.equal("first", r:read())
    client:close()
    assert.same({ nil, "closed" }, { r:read() })
  end)

  it("takes another connection when the server has closed the idle one", function()
    local served = 0
    local ln = assert(net.listen "127.0.0.1:0")
    lp.go(function()
      while true do
        local conn = ln:accept()
        if not conn then return end
        conn:set_deadline(5)
        conn:read_until "\r\n\r\n"
        served = served + 1
        conn:write "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        conn:close()
      end
    end)
    client = require("lunapark.testing.client").new(ln:addr(), { stop = function() ln:close() end })
    for i = 1, 3 do
      local r, err = client:get "/"
      assert.equal("ok", r and r.body, err)
      assert.equal(i, served)
      helper.eventually(function()
        return require("ffi").C.host_sock_ready(client.idle[1].sock, 1) == 1
      end)
    end
  end)

  it("follows redirects when told to", function()
    local app = http.app()
    app:get("/a/b", function(req) return { "b", req.query.x or "" } end)
    app:get("/rel", function(_, res) return res:redirect("a/b?x=1", 302) end)
    app:get("/abs", function(req, res) return res:redirect("http://" .. req.headers.host .. "/a/b#f", 301) end)
    app:get("/away", function(_, res) return res:redirect("http://example.com/", 302) end)
    app:get("/loop", function(_, res) return res:redirect("/loop", 302) end)
    app:post("/see", function(req, res) req:body() return res:redirect("/a/b?x=see", 303) end)
    app:post("/same", function(_, res) return res:redirect("/echo", 307) end)
    app:post("/echo", function(req) return { req.method, req:body(), req.headers["content-type"] } end)
    client = testing.serve(app)
    assert.equal(302, client:get("/rel").status)
    client.redirects = 3
    local r = client:get "/rel"
    assert.same({ "b", "1" }, r:json())
    assert.equal("/a/b?x=1", r.target)
    assert.same({ "b", "" }, client:get("/abs"):json())
    assert.same({ "b", "see" }, client:post("/see", { body = "x" }):json())
    assert.same({ "POST", '{"a":1}', "application/json" }, client:post("/same", { json = { a = 1 } }):json())
    assert.same({ nil, "redirect to another server: http://example.com/" }, { client:get "/away" })
    assert.same({ nil, "more than 3 redirects" }, { client:get "/loop" })
    assert.equal(302, client:get("/loop", { redirects = 0 }).status)
  end)

  it("keeps cookies and sends them back", function()
    local app = http.app()
    app:get("/login", function(_, res)
      res:cookie("id", "a b", { path = "/" })
      res:cookie("deep", "1", { path = "/deep" })
      res:cookie("secure", "1", { secure = true })
      return "in"
    end)
    app:get("/logout", function(_, res) res:cookie("id", "", { max_age = 0 }) return "out" end)
    app:any("/*rest", function(req) return { req.headers.cookie or "none" } end)
    client = testing.serve(app)
    local function sent(target, opts) return client:get(target, opts):json()[1] end
    assert.equal("none", sent "/x")
    client:get "/login"
    assert.equal("id=a%20b", sent "/x")
    assert.equal("deep=1; id=a%20b", sent "/deep/er")
    assert.equal("id=a%20b", sent "/deeper")
    assert.equal("a%20b", (client.cookies:get "id"))
    assert.equal("own=1", sent("/x", { headers = { Cookie = "own=1" } }))
    client:get "/logout"
    assert.equal("none", sent "/x")
    client.cookies:clear()
    assert.equal("none", sent "/deep")
    client:close()
    client = testing.serve(app, { cookies = false })
    client:get "/login"
    assert.equal("none", sent "/x")
  end)

  it("gives connections for bytes of one's own", function()
    local conn = testing.raw(function(req) return req.path end)
    collectgarbage()
    collectgarbage()
    conn:write "GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
    local r, err, last = testing.read_reply(conn)
    assert.equal("/a", r and r.body, err)
    assert.is_false(last)
    conn:write "GET / HTTP/1.1\r\nno colon\r\n\r\n"
    assert.matches("^HTTP/1.1 400 Bad Request\r\n", (conn:read_until "\r\n\r\n"))
    conn:close()
  end)

  it("follows a POST that was sent elsewhere by a GET", function()
    local app = http.app()
    app:post("/old", function(_, res) return res:redirect "/new" end)
    app:any("/new", function(req) return req.method end)
    client = testing.serve(app)
    assert.equal("GET", client:post("/old", { body = "x", redirects = 1 }).body)
  end)

  it("gives up a request at its timeout", function()
    client = testing.serve(function() lp.sleep(1e6) end)
    client.timeout = 1e6
    assert.same({ nil, "timeout" }, { client:get("/", { timeout = 0.02 }) })
  end)

  it("keeps no connection that the server closes", function()
    client = testing.serve(function(_, res) res.headers.Connection = "close" return "x" end)
    client:get "/"
    assert.equal(0, #client.idle)
  end)
end)
