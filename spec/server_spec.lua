--- The server end to end: what goes over the wire, and that whatever a request does, the next one works.

local ffi = require "ffi"
local http = require "lunapark.http"
local lp = require "lunapark"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local helper = require "spec.helper"

ffi.cdef [[
int getpeername(int fd, void *addr, unsigned *len);
int getsockopt(int fd, int level, int name, void *value, unsigned *len);
]]

local IPPROTO_TCP, TCP_NODELAY = 6, 1

-- An option of a TCP connection of this process, by the port of its peer.
local function tcp_option(peer_port, name)
  local addr, value, len = ffi.new "uint8_t[128]", ffi.new "int[1]", ffi.new "unsigned[1]"
  for fd = 3, 4095 do
    len[0] = 128
    if ffi.C.getpeername(fd, addr, len) == 0 and addr[2] * 256 + addr[3] == peer_port then
      len[0] = 4
      assert(ffi.C.getsockopt(fd, IPPROTO_TCP, name, value, len) == 0)
      return value[0]
    end
  end
end

describe("server", function()
  local app, client

  before_each(function()
    app = http.app()
    app:get("/", function() return "Hello" end)
    app:post("/echo", function(req) return 200, req:body(), { ["Content-Type"] = req.headers["content-type"] } end)
    app:get("/hello/:name", function(req) return "Hello, " .. req.params.name end)
    app:get("/raise", function() error "raised" end)
    client = testing.serve(app)
  end)

  after_each(function()
    -- Whatever the spec did: the next request works.
    assert.equal("Hello", assert(client:get("/")).body)
    client:close()
  end)

  -- Sends bytes on a connection of its own.
  local function send(...) return child.send(client.addr, { ... }) end

  local reply = child.reply

  -- The status that these bytes are answered with; the server then closes.
  local function refused(...)
    local conn = send(...)
    local r = reply(conn)
    assert.is_true(r.headers.connection == "close", "no Connection: close with " .. r.status)
    assert.equal("", conn:read_all())
    conn:close()
    return r.status
  end

  it("answers, and says what it must", function()
    local r = client:get "/"
    assert.same({ 200, "OK", "Hello", "5", "text/plain; charset=utf-8" },
      { r.status, r.reason, r.body, r.headers["content-length"], r.headers["content-type"] })
    assert.matches("^%u%l%l, %d%d %u%l%l %d%d%d%d %d%d:%d%d:%d%d GMT$", r.headers.date)
  end)

  it("waits for no ACK before it sends more", function()
    local conn = send "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    assert.equal("Hello", reply(conn).body)
    assert.equal(1, tcp_option(tonumber(conn:local_addr():match "%d+$"), TCP_NODELAY))
    conn:close()
  end)

  it("keeps connections, unless told otherwise", function()
    local conn = send "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    assert.equal("Hello", reply(conn).body)
    lp.sleep(0.01)
    conn:write "GET /hello/ann HTTP/1.1\r\nHost: x\r\n\r\n"
    assert.equal("Hello, ann", reply(conn).body)
    conn:write "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    local r = reply(conn)
    assert.same({ "Hello", "close" }, { r.body, r.headers.connection })
    assert.same({ nil, "eof" }, { conn:read() })
    conn:close()
  end)

  it("closes after HTTP/1.0, unless asked to keep", function()
    local conn = send "GET / HTTP/1.0\r\n\r\n"
    assert.equal("Hello", reply(conn).body)
    assert.same({ nil, "eof" }, { conn:read() })
    conn:close()
    conn = send "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    assert.equal("Hello", reply(conn).body)
    conn:write "GET / HTTP/1.0\r\n\r\n"
    assert.equal("Hello", reply(conn).body)
    conn:close()
  end)

  it("answers pipelined requests in order", function()
    app:get("/slow", function()
      lp.sleep(0.01)
      return "slow"
    end)
    local conn = send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n",
      "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
      "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", "GET /raise HTTP/1.1\r\nHost: x\r\n\r\n",
      "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n",
      "GET /none HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert.equal("slow", reply(conn).body)
    assert.equal("abc", reply(conn).body)
    assert.equal("5", reply(conn, "HEAD").headers["content-length"])
    helper.stderr_of(function() assert.equal(500, reply(conn).status) end)
    assert.equal("de", reply(conn).body)
    assert.equal(404, reply(conn).status)
    assert.equal("Hello", reply(conn).body)
    conn:close()
  end)

  it("answers many pipelined requests", function()
    local conn = send(("GET /hello/x HTTP/1.1\r\nHost: x\r\n\r\n"):rep(500))
    for _ = 1, 500 do
      assert.equal("Hello, x", reply(conn).body)
    end
    conn:close()
  end)

  it("takes heads in any pieces", function()
    local conn = assert(client:connect())
    for c in ("GET /hello/b HTTP/1.1\r\nHost: x\r\n\r\n"):gmatch "." do
      conn:write(c)
      lp.yield()
    end
    assert.equal("Hello, b", reply(conn).body)
    conn:close()
  end)

  it("takes bodies by length and chunked, in any pieces", function()
    local conn = send "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\nContent-Length: 6\r\n\r\nab"
    for c in ("cdef"):gmatch "." do
      lp.sleep(0.001)
      conn:write(c)
    end
    local r = reply(conn)
    assert.same({ "abcdef", "a/b" }, { r.body, r.headers["content-type"] })
    conn:write "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    for c in ("3;ext=1\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n"):gmatch "." do
      conn:write(c)
      lp.yield()
    end
    assert.equal("abc0123456789", reply(conn).body)
    conn:write "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    assert.equal("Hello", reply(conn).body)
    conn:close()
  end)

  it("goes on after a body that the handler did not read", function()
    app:post("/ignore", function() return "ignored" end)
    local conn = send("POST /ignore HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
      "POST /ignore HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert.equal("ignored", reply(conn).body)
    assert.equal("ignored", reply(conn).body)
    assert.equal("Hello", reply(conn).body)
    conn:close()
  end)

  it("tells a client that waits to go on with its body", function()
    local conn = send "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    assert.equal("HTTP/1.1 100 Continue", conn:read_line())
    assert.equal("", conn:read_line())
    conn:write "ok"
    assert.equal("ok", reply(conn).body)
    conn:close()
    conn = send "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: magic\r\nContent-Length: 2\r\n\r\n"
    assert.equal(417, reply(conn).status)
    conn:close()
  end)

  it("resolves and decodes paths before routing", function()
    assert.equal("Hello, a b", client:get("/hello/a%20b").body)
    assert.equal("Hello, a/b", client:get("/hello/a%2Fb").body)
    assert.equal("Hello, %41", client:get("/hello/%2541").body)
    assert.equal("Hello, a+b", client:get("/hello/a+b").body)
    assert.equal("Hello, b", client:get("/x/../hello/./b").body)
    assert.equal("Hello, b", client:get("/hel%6Co/b").body)
    assert.equal("Hello, b", client:get("//hello//b").body)
    for _, target in ipairs { "/../x", "/hello/%", "/hello/%zz", "/hello/%4", "/%2e%2e/x" } do
      assert.equal(400, client:get(target).status, target)
    end
    assert.equal(400, client:get("/hello/a%00b").status)
  end)

  it("answers OPTIONS for all it serves", function()
    local r = assert(client:request("OPTIONS", "*"))
    assert.equal(204, r.status)
  end)

  it("says which methods a path has", function()
    local r = client:post "/"
    assert.same({ 405, "GET, HEAD, OPTIONS" }, { r.status, r.headers.allow })
    r = client:delete "/echo"
    assert.same({ 405, "OPTIONS, POST" }, { r.status, r.headers.allow })
    r = client:options "/echo"
    assert.same({ 204, "OPTIONS, POST", "" }, { r.status, r.headers.allow, r.body })
    assert.equal(404, client:request("PROPFIND", "/none").status)
  end)

  it("never tells the client what an error said, but the log", function()
    local r
    local log = helper.stderr_of(function() r = client:get "/raise" end)
    assert.same({ 500, "Internal Server Error", "text/plain; charset=utf-8" },
      { r.status, r.body, r.headers["content-type"] })
    assert.matches("GET /raise %(GET /raise%): .*server_spec.lua:%d+: raised", log)
    assert.matches("stack traceback", log)
  end)

  it("survives any error value", function()
    local values = { false, 5, {}, io.stdout, print, setmetatable({}, { __tostring = function() error "again" end }) }
    app:get("/value/:n", function(req) error(values[tonumber(req.params.n)]) end)
    app:get("/overflow", function()
      local function deeper() return 1 + deeper() end
      return deeper()
    end)
    helper.stderr_of(function()
      for i = 1, #values + 1 do
        assert.equal(500, client:get("/value/" .. i).status)
      end
      assert.equal(500, client:get("/overflow").status)
    end)
  end)

  it("waits inside pcall, metamethods and iterators", function()
    local function nap(value)
      lp.sleep(0.001)
      return value
    end
    app:get("/wait", function()
      local out = { select(2, pcall(nap, "a")), setmetatable({}, { __index = function(_, k) return nap(k) end }).b }
      for c in function(_, c) return nap(not c and "c" or nil) end do
        out[#out + 1] = c
      end
      return table.concat(out)
    end)
    assert.equal("abc", client:get("/wait").body)
  end)

  it("answers others while some wait", function()
    local gate, begun = lp.chan(), nil
    app:get("/slow", function()
      begun = true
      return gate:recv()
    end)
    local done
    local g = lp.go(function() done = client:get("/slow").body end)
    helper.eventually(function() return begun end)
    assert.equal("Hello", client:get("/").body)
    assert.is_nil(done)
    gate:send "slow"
    g:join()
    assert.equal("slow", done)
  end)

  describe("with bad input", function()
    it("answers 400 to what is no request", function()
      for _, bytes in ipairs {
        "nonsense\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n",
        "GET / HTTP/1.1\nHost: x\n\n", "\0\0\0\0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
      } do
        assert.equal(400, refused(bytes), ("%q"):format(bytes))
      end
    end)

    it("answers 501 to a method that nobody knows", function()
      assert.equal(501, refused "BREW / HTTP/1.1\r\nHost: x\r\n\r\n")
      assert.equal(501, refused "get / HTTP/1.1\r\nHost: x\r\n\r\n")
      assert.equal(400, refused "BREW / HTTP/1.1\r\nHost: x y\r\n\r\n")
    end)

    it("answers 400 to a folded line of a head, before any handler runs", function()
      local ran = 0
      app:use(function(_, _, next)
        ran = ran + 1
        return next()
      end)
      for _, head in ipairs {
        "X-A: abc\r\n def\r\n", "X-A: abc\r\n\tdef\r\n", "X-A: a\r\n b\r\n c\r\n", "X-A: abc\n def\r\n",
        "X-A:\r\n abc\r\n", "A:b\r\nC:d\r\nX-A: abc\r\n def\r\n", "X-A:abc\r\n def\r\nB:c\r\n",
        "X-A: abc\r\n \r\n", "X-A: abc\r\n\t\r\nX-B: c\r\n", " X-A: abc\r\n", "Connection:\r\n close\r\n",
        "Transfer-Encoding:\r\n chunked\r\n", "Content-Length:\r\n 3\r\n", "Expect: 100-\r\n continue\r\n",
        "Content-Length: 31\r\nFoo: aa\r\n bb\r\nZ: \r\n",
      } do
        for _, bytes in ipairs {
          "POST /echo HTTP/1.1\r\nHost: x\r\n" .. head .. "\r\n", "GET / HTTP/1.1\r\n" .. head .. "Host: x\r\n\r\n",
        } do
          assert.equal(400, refused(bytes), ("%q"):format(bytes))
          local conn = assert(client:connect())
          for c in bytes:gmatch "." do
            if not conn:write(c) then break end -- refused already
            lp.yield()
          end
          assert.equal(400, reply(conn).status, ("%q, byte by byte"):format(bytes))
          conn:close()
        end
      end
      assert.equal(0, ran)
      client:get "/"
      assert.equal(1, ran)
    end)

    it("takes what only looks like a folded line", function()
      local conn = send("\r\nPOST /echo HTTP/1.1\r\nHost: x\r\nX-A:  a\t b \r\nX-B:\r\nContent-Length: 8\r\n\r\n",
        " \r\n a\n\tb",
        "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n \r\n \r\n0\r\nX: y \r\nZ:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
      assert.equal(" \r\n a\n\tb", reply(conn).body)
      assert.equal(" \r\n ", reply(conn).body)
      assert.equal("Hello", reply(conn).body)
      conn:close()
    end)

    it("answers 400 to a folded line of the trailers", function()
      local head = "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
      for _, trailers in ipairs {
        "X-A: abc\r\n def\r\n", "X-A:\r\n\tabc\r\n", "X-A: abc\r\nX-B: c\r\n \r\n", " X-A: abc\r\n",
      } do
        assert.equal(400, refused(head, "3\r\nabc\r\n0\r\n", trailers, "\r\n"), ("%q"):format(trailers))
        local conn = send(head)
        for c in ("3\r\nabc\r\n0\r\n" .. trailers .. "\r\n"):gmatch "." do
          if not conn:write(c) then break end
          lp.yield()
        end
        assert.equal(400, reply(conn).status, ("%q, byte by byte"):format(trailers))
        conn:close()
      end
    end)

    it("answers 414 to a target that is too long", function()
      assert.equal(414, refused("GET /", ("a"):rep(8192), " HTTP/1.1\r\nHost: x\r\n\r\n"))
      local conn = send("GET /", ("a"):rep(8000), " HTTP/1.1\r\nHost: x\r\n\r\n")
      assert.equal(404, reply(conn).status)
      conn:close()
    end)

    it("answers 431 to a head that is too large", function()
      assert.equal(431, refused("GET / HTTP/1.1\r\nHost: x\r\nX: ", ("a"):rep(16384), "\r\n\r\n"))
      assert.equal(431, refused("GET / HTTP/1.1\r\nHost: x\r\n", ("X: 1\r\n"):rep(200), "\r\n"))
    end)

    it("answers 413 to a body that is too large", function()
      assert.equal(413, refused "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n")
      assert.equal(413, refused("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n100001\r\n",
        ("x"):rep(1048577)))
      local r = client:post("/echo", { body = ("x"):rep(1048576) })
      assert.same({ 200, 1048576 }, { r.status, #r.body })
    end)

    it("answers 400 to a malformed chunk", function()
      for _, body in ipairs { "zz\r\n", "-1\r\n", "2\r\nabc\r\n0\r\n\r\n", "fffffffffffffffff\r\n" } do
        assert.equal(400, refused("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", body), body)
      end
    end)

    it("lets a handler answer a body that cannot be had", function()
      app:post("/try", function(req)
        local ok, err = pcall(req.body, req)
        return 422, ok and "fine" or "status " .. err.status .. ": " .. tostring(err)
      end)
      local conn = send("POST /try HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n100001\r\n",
        ("x"):rep(1048577))
      local r = reply(conn)
      assert.same({ 422, "status 413: request body is too large" }, { r.status, r.body })
      conn:close()
    end)
  end)

  describe("with a client that vanishes", function()
    it("in a head, forgets it", function()
      local fds = lp.stats().fds
      for _, bytes in ipairs { "", "G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r" } do
        send(bytes):close()
      end
      helper.eventually(function() return lp.stats().fds <= fds end, "the end of the connections")
    end)

    it("in a body, ends the handler quietly", function()
      local reached, finished
      app:post("/body", function(req)
        reached = true
        req:body()
        finished = true
      end)
      local log = helper.stderr_of(function()
        local conn = send "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"
        helper.eventually(function() return reached end)
        conn:close()
        lp.sleep(0.02)
      end)
      assert.is_nil(finished)
      assert.equal("", log)
    end)

    it("in a response, tells the handler", function()
      local result, wrote = nil, 0
      app:get("/endless", function(_, res)
        while true do
          local ok, err = res:write(("x"):rep(65536))
          if not ok then
            result = err
            return
          end
          wrote = wrote + 1
        end
      end)
      local conn = send "GET /endless HTTP/1.1\r\nHost: x\r\n\r\n"
      assert.matches("^HTTP/1.1 200", conn:read_line())
      conn:close()
      helper.eventually(function() return result end)
      assert.is_true(result == "closed" or result == "canceled", result)
      assert.is_true(wrote < 1000)
    end)

    it("while the handler waits, logs no error", function()
      local waits, woke
      app:get("/wait", function()
        waits = true
        woke = { lp.sleep(3600) }
        return ("x"):rep(1000000)
      end)
      local log = helper.stderr_of(function()
        local conn = send "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"
        helper.eventually(function() return waits end)
        conn:close()
        helper.eventually(function() return woke end)
        lp.sleep(0.01)
      end)
      assert.equal("", log)
      assert.same({ nil, "canceled" }, woke)
    end)
  end)

  it("makes a writer wait for a slow reader", function()
    local wrote = 0
    app:get("/large", function(_, res)
      for _ = 1, 400 do
        assert(res:write(("x"):rep(65536)))
        wrote = wrote + 1
      end
    end)
    local conn = send "GET /large HTTP/1.1\r\nHost: x\r\n\r\n"
    lp.sleep(0.05)
    assert.is_true(wrote < 400)
    local r = reply(conn)
    assert.equal(400 * 65536, #r.body)
    conn:close()
  end)

  it("breaks a streamed response off when its handler raises", function()
    app:get("/part", function(_, res)
      res:write "part"
      error "in the middle"
    end)
    local log = helper.stderr_of(function()
      local r, err = client:get "/part"
      assert.is_nil(r)
      assert.equal("eof", err)
    end)
    assert.matches("after the response had begun: .*in the middle", log)
  end)

  it("lets requests in flight end when it stops", function()
    local begun
    app:get("/slow", function()
      begun = true
      lp.sleep(0.03)
      return "done"
    end)
    local other = testing.serve(app)
    local body
    local g = lp.go(function() body = other:get("/slow").body end)
    helper.eventually(function() return begun end)
    other:close()
    g:join()
    assert.equal("done", body)
  end)
end)
