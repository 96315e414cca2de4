--- HTTP/1 byte by byte: what must stand on the wire, and must not, where a client's next byte would be misread.

local http = require "lunapark.http"
local lp = require "lunapark"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local helper = require "spec.helper"

local OK = "GET /ok HTTP/1.1\r\nHost: x\r\n\r\n"
local LAST = "GET /ok HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

describe("on the wire", function()
  local client

  after_each(function()
    if client then client:close() end
    client = nil
    child.clean()
  end)

  local function serve(app)
    app:get("/ok", function() return "ok" end)
    client = testing.serve(app)
  end

  -- A connection on which this was sent.
  local function send(bytes)
    local conn = assert(client:connect())
    conn:set_deadline(3 * helper.PATIENCE)
    assert(conn:write(bytes))
    return conn
  end

  -- Everything that the server says to these bytes until it closes.
  local function talk(bytes)
    local conn = send(bytes)
    local all = assert(conn:read_all())
    conn:close()
    return all
  end

  -- The heads and bodies of answers that have no length but 0, or one: head, body, head, body ...
  local function heads_of(all)
    local list = {}
    for head in all:gmatch "HTTP/1%.1 %d%d%d [^\r\n]*\r\n.-\r\n\r\n" do list[#list + 1] = head end
    return list
  end

  describe("a 204 or 304", function()
    it("has no body whatever the handler says, so the next answer begins where it ends", function()
      local app = http.app()
      app:get("/204", function() return 204, "body" end)
      app:get("/304", function() return 304, "body" end)
      app:get("/streamed/:status", function(req, res)
        res.status = tonumber(req.params.status)
        res:write "streamed"
      end)
      app:get("/empty/:status", function(req) return tonumber(req.params.status), "" end)
      app:get("/said", function(_, res) res.headers["Content-Length"] = 4 return 304, "body" end)
      serve(app)
      for _, target in ipairs {
        "/204", "/304", "/streamed/204", "/streamed/304", "/empty/204", "/empty/304", "/said",
      } do
        local all = talk(OK:gsub("/ok", target) .. LAST)
        local first, rest = all:match "^(HTTP/1%.1 %d04 .-\r\n\r\n)(.*)$"
        assert(first, target .. ": " .. all)
        assert.matches("^HTTP/1%.1 200 OK\r\n.*\r\n\r\nok$", rest)
        assert.is_nil(first:lower():find("content-length", 1, true), target)
        assert.is_nil(first:lower():find("transfer-encoding", 1, true), target)
      end
    end)
  end)

  describe("a large answer", function()
    -- Bytes that tell where they stand.
    local function numbered(n)
      local parts = {}
      for i = 1, n do parts[i] = ("%08d\n"):format(i) end
      return table.concat(parts)
    end

    -- Reads n bytes as a slow client does: at first not at all, then in small pieces with waits between them.
    local function read_slowly(conn, n)
      local parts, got = {}, 0
      lp.sleep(0.1)
      while got < n do
        local piece = assert(conn:read(math.min(n - got, 50000)))
        parts[#parts + 1], got = piece, got + #piece
        if #parts % 16 == 0 then lp.sleep(0.002) end
      end
      return table.concat(parts)
    end

    it("arrives byte for byte at a slow reader, and so do three in a row", function()
      local text = numbered(400000)
      local app = http.app()
      app:get("/big", function() return text end)
      serve(app)
      local conn = send(OK:gsub("/ok", "/big"):rep(3) .. OK)
      for _ = 1, 3 do
        local head = assert(conn:read_until "\r\n\r\n")
        assert.matches("\r\nContent%-Length: 3600000\r\n", head .. "\r\n")
        assert.is_true(read_slowly(conn, #text) == text)
      end
      assert.equal("ok", testing.read_reply(conn).body)
      conn:close()
    end)
  end)

  describe("what a request says twice or too much of", function()
    local app
    before_each(function()
      app = http.app()
      app:post("/echo", function(req)
        local body, err = req:body()
        if not body then return nil, err end
        return body .. "|" .. tostring(req.headers["x-trailer"]) .. "|" .. (req.query.a or "none")
      end)
      app:get("/", function(req) return "root|" .. (req.query.a or "none") end)
      serve(app)
    end)

    it("two Host fields are 400", function()
      assert.matches("^HTTP/1%.1 400 ", talk "GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n")
      assert.matches("^HTTP/1%.1 400 ", talk "GET / HTTP/1.0\r\nHost: x\r\nhost: y\r\n\r\n")
    end)

    it("a trailer is no header", function()
      local all = talk("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        .. "2\r\nab\r\n0\r\nX-Trailer: evil\r\nHost: y\r\n\r\n" .. LAST)
      assert.matches("\r\n\r\nab|nil|none", all)
      assert.equal(2, #heads_of(all))
    end)

    it("floods of chunk extensions and of trailers are 400", function()
      local head = "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
      local conn = send(head)
      helper.stderr_of(function()
        for _ = 1, 100 do
          if not conn:write("1;" .. ("e"):rep(10000) .. "\r\na\r\n") then break end
        end
        assert.equal(400, testing.read_reply(conn).status)
      end)
      conn:close()
      conn = send(head .. "1\r\na\r\n0\r\n")
      helper.stderr_of(function()
        for i = 1, 20000 do
          if not conn:write("T" .. i .. ": " .. ("e"):rep(100) .. "\r\n") then break end
        end
        assert.equal(400, testing.read_reply(conn).status)
      end)
      conn:close()
    end)

    it("CONNECT is 405, and closes", function()
      local all = talk("CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n" .. OK)
      assert.matches("^HTTP/1%.1 405 ", all)
      assert.matches("\r\nAllow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n", all)
      assert.matches("\r\nConnection: close\r\n", all)
      assert.equal(1, #heads_of(all))
    end)

    it("an Upgrade that nobody here speaks leaves the connection in step", function()
      local all = talk("POST /echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: other/1\r\n"
        .. "Content-Length: 3\r\n\r\nabc"
        .. OK:gsub("\r\n\r\n$", "\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n") .. LAST)
      local heads = heads_of(all)
      assert.equal(3, #heads)
      for _, head in ipairs(heads) do assert.matches("^HTTP/1%.1 200 ", head) end
      assert.matches("\r\n\r\nabc|nil|noneHTTP", all)
    end)

    it("an absolute target has its path, its query, its dots", function()
      assert.matches("root|1$", talk "GET http://x?a=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
      assert.matches("root|1$", talk "GET http://x/?a=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
      assert.matches("root|none$", talk "GET http://x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
      assert.matches("\r\n\r\nok$", talk "GET http://x/a/../ok HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
      assert.matches("\r\n\r\nok$", talk "GET /a/./b/../../ok HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    end)
  end)

  describe("the end of a body", function()
    local app
    before_each(function()
      app = http.app()
      app:get("/short", function(_, res)
        res.headers["Content-Length"] = 10
        res:write "abc"
      end)
      app:get("/stream", function(_, res) res:write "abc" res:write "def" end)
      serve(app)
    end)

    it("of a stream that is shorter than it said is the end of the connection", function()
      local all
      helper.stderr_of(function() all = talk(OK:gsub("/ok", "/short") .. OK) end)
      assert.matches("\r\nContent%-Length: 10\r\n", all)
      assert.matches("\r\n\r\nabc$", all)
    end)

    it("of a stream to HTTP/1.0 is the end of the connection, also one that would be kept", function()
      local all = talk "GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /ok HTTP/1.0\r\n\r\n"
      assert.matches("\r\nConnection: close\r\n", all)
      assert.matches("\r\n\r\nabcdef$", all)
      assert.is_nil(all:lower():find("transfer-encoding", 1, true))
    end)

    it("is told to HTTP/1.0 with keep-alive, and the connection is kept", function()
      local all = talk "GET /ok HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /ok HTTP/1.0\r\n\r\n"
      assert.equal(2, #heads_of(all))
      assert.matches("^HTTP/1%.1 200 OK\r\n.-\r\nConnection: keep%-alive\r\n", all)
    end)
  end)

  describe("Expect: 100-continue", function()
    before_each(function()
      local app = http.app()
      app:post("/echo", function(req) return req:body() end)
      app:post("/unread", function() return "unread" end)
      serve(app)
    end)

    it("is not answered with a 100 on HTTP/1.0", function()
      local conn = send "POST /echo HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
      assert.same({ nil, "timeout" }, { lp.deadline(0.1, conn.read, conn, 1) })
      conn:write "ok"
      assert.matches("^HTTP/1%.1 200 OK\r\n.*\r\n\r\nok$", conn:read_all())
      conn:close()
    end)

    it("for a body that nobody reads gets Connection: close, since it may come or not", function()
      local conn = send "POST /unread HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
      local r = testing.read_reply(conn)
      assert.same({ 200, "unread", "close" }, { r.status, r.body, r.headers.connection })
      conn:close()
    end)
  end)

  describe("the Date of an answer", function()
    local months = { Jan = 1, Feb = 2, Mar = 3, Apr = 4, May = 5, Jun = 6, Jul = 7, Aug = 8, Sep = 9, Oct = 10,
      Nov = 11, Dec = 12 }
    local days = { "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat" }

    -- Seconds since 1970 of a date as HTTP writes it.
    local function seconds_of(date)
      local day, d, m, y, hour, min, sec = date:match "^(%a%a%a), (%d%d) (%a%a%a) (%d%d%d%d) (%d%d):(%d%d):(%d%d) GMT$"
      assert(day, date)
      local local_time = os.time {
        year = y, month = months[m], day = d, hour = hour, min = min, sec = sec, isdst = false,
      }
      local offset = os.time(os.date("!*t", local_time)) - local_time
      local t = local_time - offset
      assert.equal(days[os.date("!*t", t).wday], day)
      return t
    end

    it("is the time of the answer, and moves", function()
      serve(http.app())
      for _ = 1, 3 do
        for _ = 1, 100 do -- by whichever thread
          local before = os.time()
          local date = seconds_of(client:get("/ok").headers.date)
          assert.is_true(before <= date and date <= os.time(), date)
        end
        lp.sleep(1.1)
      end
    end)
  end)

  describe("a response that is broken off", function()
    local SIZE = 4e6

    -- Behind a large answer, with more behind it that is never read: the large one whole, and a part.
    local function check(target)
      local conn = send(OK:gsub("/ok", "/big") .. OK:gsub("/ok", target) .. OK:rep(200)
        .. "POST /ok HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n" .. ("x"):rep(50000))
      lp.sleep(0.2)
      assert(conn:read_until "\r\n\r\n")
      assert.equal(SIZE, #assert(conn:read_exact(SIZE)))
      local rest, err = conn:read_all()
      assert(rest, err)
      assert.matches("^HTTP/1%.1 200 OK\r\n.*\r\n\r\n4\r\npart\r\n$", rest)
      conn:close()
    end

    -- HTTP/1.0 knows no chunks: the end of the connection is that of the answer.
    local function check_1_0(before)
      local conn = send(("GET %s HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /part HTTP/1.0\r\n\r\n"):format(before))
      lp.sleep(0.2)
      local head = assert(conn:read_until "\r\n\r\n")
      assert(conn:read_exact(tonumber(head:match "Content%-Length: (%d+)")))
      local rest, err = conn:read_all()
      if child.over_tls then -- which tells a cut from an end
        assert.matches("without saying so", err)
        rest = conn:read()
      end
      assert.matches("^HTTP/1%.1 200 OK\r\n.*\r\n\r\npart$", rest)
      conn:close()
    end

    it("takes no answer before it along: by an error", function()
      local app = http.app()
      app:get("/big", function() return ("x"):rep(SIZE) end)
      app:get("/part", function(_, res) res:write "part" error "in the middle" end)
      serve(app)
      helper.stderr_of(function() check "/part" end, "in the middle")
      for _, before in ipairs { "/ok", "/big" } do
        helper.stderr_of(function() check_1_0(before) end, "in the middle")
      end
    end)

    it("takes no answer before it along: at the handler's time", function()
      local server = child.serve { child.script(([[
        local app = require("lunapark.http").app()
        app:get("/big", function() return ("x"):rep(%d) end)
        app:get("/part", function(_, res) res:write "part" require("lunapark").sleep(1e6) end)
        app:get("/ok", function() return "ok" end)
        return app]]):format(SIZE)), "--handler-timeout", "1.5" }
      client = child.client(server.addr)
      check "/part"
      check_1_0 "/ok"
      check_1_0 "/big"
      server:said("the response was broken off", 3)
    end)
  end)

  describe("an answer that comes early", function()
    -- Writes 100 kB of body, with the head and when the server has answered already: the status that it gets to see.
    local function status_of_upload(head)
      local status
      for _, first in ipairs { 0, 50000, 100000 } do
        local conn = send(head .. ("x"):rep(first))
        lp.sleep(0.05)
        for _ = first + 1, 100000, 10000 do assert(conn:write(("x"):rep(10000))) end
        lp.sleep(0.05)
        local r, err = testing.read_reply(conn)
        assert(r, err)
        local rest, why = conn:read_all()
        assert.equal("", rest, why)
        conn:close()
        status = r.status
      end
      return status
    end

    it("reaches a client that goes on writing: no reset takes it away", function()
      local app = http.app()
      app:post("/early", function(_, res) res.headers.Connection = "close" return 403, "no" end)
      serve(app)
      assert.equal(403, status_of_upload("POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"))
      assert.equal(400, status_of_upload("POST /ok HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n"))
      local huge = "POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"
      assert.equal(413, status_of_upload(huge))
    end)
  end)

  describe("an answer that is queued for the next one", function()
    local SLEEP = "GET /sleep HTTP/1.1\r\nHost: x\r\n\r\n"
    local gate

    before_each(function()
      gate = lp.chan(0)
      local app = http.app()
      app:get("/sleep", function() return gate:recv() end)
      app:post("/body", function(req) return req:body() end)
      app:get("/stream", function(_, res)
        res:write "part"
        gate:recv()
      end)
      serve(app)
    end)

    it("leaves before the next handler waits, whatever for", function()
      local conn = send(OK .. OK .. SLEEP .. OK)
      assert.equal("ok", testing.read_reply(conn).body)
      assert.equal("ok", testing.read_reply(conn).body)
      gate:send "slept"
      assert.equal("slept", testing.read_reply(conn).body)
      assert.equal("ok", testing.read_reply(conn).body)
      conn:close()
    end)

    it("leaves before the next request's body is waited for", function()
      local conn = send(OK .. "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na")
      assert.equal("ok", testing.read_reply(conn).body)
      assert(conn:write "bc")
      assert.equal("abc", testing.read_reply(conn).body)
      conn:close()
    end)

    it("and what a handler has written leave when it waits", function()
      local conn = send(OK .. OK:gsub("/ok", "/stream"))
      assert.equal("ok", testing.read_reply(conn).body)
      assert.matches("\r\nTransfer%-Encoding: chunked\r\n", assert(conn:read_until "\r\n\r\n") .. "\r\n")
      assert.equal("4\r\npart\r\n", conn:read_exact(9))
      gate:send "on"
      assert.equal("0\r\n\r\n", conn:read_exact(5))
      conn:close()
    end)

    it("leaves with the others if none of them waits", function()
      local n = 8 -- which fit into a record
      local alone = #talk(LAST) - #"Connection: close\r\n"
      for _ = 1, 50 do -- the client may read while the server writes
        local conn = send(OK:rep(n))
        local got = #assert(conn:read(65536))
        conn:close()
        if got == n * alone then return end
      end
      error "they never came together"
    end)
  end)

  it("line ends before and behind a request start no clock", function()
    local server = child.serve { child.script [[
      local app = require("lunapark.http").app()
      app:get("/ok", function() return "ok" end)
      app:post("/body", function(req) return req:body() end)
      return app
    ]], "--header-timeout", "0.2", plain = true } -- a handshake takes longer on a busy machine
    for _, bytes in ipairs {
      OK .. "\r\n", "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok\r\n", "\r\n\r", ("\r\n"):rep(5000),
    } do
      local conn = child.send(server.addr, bytes)
      if bytes:find "ok" then assert.equal("ok", testing.read_reply(conn).body) end
      lp.sleep(0.5)
      assert(conn:write("\r\n" .. OK))
      assert.equal("ok", testing.read_reply(conn).body)
      conn:close()
    end
    local conn = child.send(server.addr, OK .. "\r\nGET")
    assert.equal("ok", testing.read_reply(conn).body)
    assert.equal(408, testing.read_reply(conn).status)
    conn:close()
  end)

  it("the answer to a whole request does not wait for the rest of the next one", function()
    serve(http.app())
    local conn = send(OK .. OK:sub(1, 12))
    assert.equal("ok", testing.read_reply(conn).body)
    assert(conn:write(OK:sub(13)))
    assert.equal("ok", testing.read_reply(conn).body)
    conn:close()
  end)

  it("a handler that goes on after its answer keeps no connection that is to close beyond --handler-timeout", function()
    local server = child.serve { child.script [[
      local lp = require "lunapark"
      local app = require("lunapark.http").app()
      app:get("/late", function(_, res)
        res.headers["Content-Length"] = 4
        res:write "done"
        res:flush()
        lp.sleep(1e6)
      end)
      app:get("/", function() return "hello" end)
      return app
    ]], "--procs", "1", "--handler-timeout", "0.5" }
    local c = child.client(server.addr)
    local conn = assert(c:connect())
    assert(conn:write "GET /late HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert.equal("done", testing.read_reply(conn).body)
    assert.same({ nil, "eof" }, { conn:read() }) -- child's client gives up after 10 s
    conn:close()
    assert.equal("hello", c:get("/").body)
    c:close()
  end)

  describe("the memory of a server", function()
    -- Bytes of a process that stand in memory.
    local function rss(pid)
      return tonumber(helper.text_of("/proc/" .. pid .. "/statm"):match "^%d+ (%d+)") * 4096
    end

    -- Sends `pieces` of the same bytes, and reads as many answers per piece.
    local function drive(conn, pieces, bytes, answers)
      for _ = 1, pieces do
        local writer = lp.go(function() return conn:write(bytes) end)
        for _ = 1, answers do assert(testing.read_reply(conn)) end
        assert(writer:join())
      end
    end

    it("does not grow by pipelined bodies, nor by requests with many fields", function()
      if child.has_asan or child.has_tsan then return pending "sanitizers keep what is freed" end
      local server = child.serve { child.script [[
        local app = require("lunapark.http").app()
        app:post("/", function(req) return req:body() end)
        app:get("/", function(req) return req.headers["x-7"] end)
        return app
      ]], "--procs", "1", "--max-vms", "1" }
      local c = child.client(server.addr)
      c.timeout = 1e3
      local conn = assert(c:connect())
      conn:set_deadline(nil)
      local posts = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 300\r\n\r\n" .. ("b"):rep(300)
      local fields = {}
      for i = 1, 60 do fields[i] = ("X-%d: value of it\r\n"):format(i) end
      local get = "GET / HTTP/1.1\r\nHost: x\r\n" .. table.concat(fields) .. "\r\n"
      local function round()
        drive(conn, 50, posts:rep(100), 100)
        drive(conn, 1000, get, 1)
      end
      round()
      local before = rss(server.pid)
      for _ = 1, 5 do round() end
      local grown = rss(server.pid) - before
      assert.is_true(grown < 3 * 2 ^ 20, grown) -- 25,000 bodies of 300 bytes, 5,000 lists of fields
      conn:close()
      c:close()
    end)
  end)
end)
