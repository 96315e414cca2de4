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
    assert.matches("body must be a string, got table", helper.raised(client.post, client, "/", { body = {} }))
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

  it("gives connections for bytes of one's own", function()
    local conn = testing.raw(function(req) return req.path end)
    collectgarbage()
    collectgarbage()
    conn:write "GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
    local r, err, last = testing.read_reply(conn)
    assert.equal("/a", r and r.body, err)
    assert.is_false(last)
    conn:close()
  end)
end)
