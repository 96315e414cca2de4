--- How many connections there may be, and who makes room for whom.

local lp = require "lunapark"
local net = require "lunapark.net"
local testing = require "lunapark.testing"
local child = require "spec.support.child"

local APP = [[
local fs = require "lunapark.fs"
local lp = require "lunapark"
local app = require("lunapark.http").app()
local go_on = false
app:get("/", function() return "hello" end)
app:get("/file", function() return assert(fs.read "/proc/self/comm") end)
app:get("/hold", function() while not go_on do lp.sleep(0.001) end return "held" end)
app:get("/go_on", function() go_on = true return "gone on" end)
return app
]]

local GET = "GET %s HTTP/1.1\r\nHost: x\r\n\r\n"

describe("--max-conns", function()
  local server, conns

  before_each(function() conns = {} end)
  after_each(function()
    for _, conn in ipairs(conns) do
      conn:close()
    end
    child.clean()
  end)

  local function serve(...) server = child.serve { child.script(APP), "--procs", "1", ... } end

  local function connect()
    local conn = child.dial(server.addr)
    conns[#conns + 1] = conn
    return conn
  end

  local function ask(conn, path)
    assert(conn:write(GET:format(path)))
    return child.reply(conn).body
  end

  local function assert_closed(conn) assert.same({ nil, "eof" }, { conn:read() }) end

  it("closes the connection that has been idle for longest, for a new one", function()
    serve("--max-conns", "3")
    local a, b, c = connect(), connect(), connect()
    for _, conn in ipairs { a, b, c, a } do
      assert.equal("hello", ask(conn, "/"))
      lp.sleep(0.002)
    end
    local d = connect()
    assert.equal("hello", ask(d, "/"))
    assert_closed(b)
    assert.equal("hello", ask(connect(), "/"))
    assert_closed(c)
    for _, conn in ipairs { a, d, conns[5] } do
      assert.equal("hello", ask(conn, "/"))
    end
  end)

  it("prefers those that never said anything", function()
    serve("--max-conns", "3")
    local used, silent = connect(), nil
    assert.equal("hello", ask(used, "/"))
    for _ = 1, 300 do
      silent = connect()
    end
    assert.equal("hello", ask(silent, "/"))
    assert_closed(conns[2])
    assert.equal("hello", ask(used, "/"))
    assert.no_match("refused", server:stderr())
  end)

  it("serves each new client, however many stay", function()
    serve("--max-conns", "5")
    for i = 1, 400 do
      assert.equal("hello", ask(connect(), "/"), i)
    end
    for i = 1, 395 do
      assert_closed(conns[i])
    end
    for i = 396, 400 do
      assert.equal("hello", ask(conns[i], "/"))
    end
  end)

  it("answers 503 when none is idle, and serves again when one is", function()
    serve("--max-conns", "3")
    local last = connect()
    for i = 1, 2 do
      connect():write(GET:format "/hold")
      assert.equal("hello", ask(last, "/"), i) -- the one before is accepted
    end
    last:write(GET:format("/"):sub(1, -3)) -- not idle either
    child.eventually(function()
      local conn = connect()
      conn:write(GET:format "/")
      local r = assert(testing.read_reply(conn))
      if r.status == 503 then
        assert.same({ "close", "1" }, { r.headers.connection, r.headers["retry-after"] })
        assert_closed(conn)
      end
      conn:close()
      return r.status == 503
    end)
    assert.equal(1, select(2, server:said "new clients are refused":gsub("new clients are refused", "")))
    -- Many at once.
    local many = {}
    for i = 1, 50 do
      many[i] = connect()
    end
    for _, conn in ipairs(many) do
      assert.matches("^HTTP/1.1 503 ", assert(conn:read_all()))
      conn:close()
    end
    last:write "\r\n"
    assert.equal("hello", assert(testing.read_reply(last)).body)
    child.eventually(function() -- the refused ones go
      local conn = connect()
      conn:write(GET:format "/go_on")
      local r = testing.read_reply(conn)
      return r and r.status == 200
    end)
    assert.equal("held", assert(testing.read_reply(conns[2])).body)
    assert.equal("held", assert(testing.read_reply(conns[3])).body)
  end)

  it("leaves descriptors to handlers, without being told", function()
    server = child.serve {
      "-c", 'ulimit -n 120; exec "$0" "$@"', child.binary, child.script(APP), "--procs", "1", binary = "/bin/sh",
    }
    local used = connect()
    assert.equal("hello", ask(used, "/"))
    for _ = 1, 150 do
      connect()
    end
    assert.equal("lunapark\n", ask(conns[#conns], "/file"))
    assert.equal("lunapark\n", ask(used, "/file"))
    assert.no_match("accept", server:stderr())
    assert.no_match("refused", server:stderr())
  end)

  it("counts the connections of one address, with --max-conns-per-addr", function()
    local path = child.file(nil, ".sock")
    serve("--max-conns-per-addr", "3", "--listen", "127.0.0.1:0", "--listen", "unix:" .. path)
    for _ = 1, 3 do
      assert.equal("hello", ask(connect(), "/"))
    end
    for _ = 1, 20 do
      local conn = child.dial(server.addr)
      assert.matches("^HTTP/1.1 503 .*\r\nRetry%-After: 1\r\n", assert(conn:read_all()))
      conn:close()
    end
    assert.equal(1, select(2, server:said "of 127.0.0.1 are refused":gsub("are refused", "")))
    for i = 1, 50 do -- each goes when the next comes
      conns[i % 3 + 1]:close()
      child.eventually(function()
        conns[i % 3 + 1] = child.dial(server.addr)
        conns[i % 3 + 1]:write(GET:format "/")
        local r = testing.read_reply(conns[i % 3 + 1])
        if r and r.status == 200 then return true end
        conns[i % 3 + 1]:close()
      end)
    end
    for _ = 1, 10 do
      local conn = assert(net.dial("unix:" .. path, { timeout = 10 }))
      conns[#conns + 1] = conn
      assert.equal("hello", ask(conn, "/"))
    end
  end)

  it("can be told by the app", function()
    server = child.serve { child.script(APP:gsub("return app\n", "app.options = { max_conns = 2 }\nreturn app\n")) }
    for _ = 1, 3 do
      assert.equal("hello", ask(connect(), "/"))
      lp.sleep(0.002)
    end
    assert_closed(conns[1])
  end)
end)
