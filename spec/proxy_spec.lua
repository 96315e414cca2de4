-- Proxies in front: the fields in which they say whom a request is from, and the header in which they say whom a
-- connection is for. Who is not trusted says nothing.

local fs = require "lunapark.fs"
local json = require "lunapark.json"
local lp = require "lunapark"
local net = require "lunapark.net"
local child = require "spec.support.child"
local helper = require "spec.helper"

local APP = [[
local app = require("lunapark.http").app()
app:get("/", function(req)
  return { ip = req.ip, remote = req.remote_addr, scheme = req.scheme, host = req.host, id = req.id }
end)
return app
]]

describe("--trusted-proxy", function()
  after_each(child.clean)

  local server

  -- What the app sees of a request with these fields.
  local function seen(fields)
    local conn = child.send(server.addr, ("GET / HTTP/1.1\r\nHost: own\r\n%s\r\n"):format(fields))
    local r = child.reply(conn)
    conn:close()
    assert.equal(200, r.status)
    return r:json()
  end

  local function ip_of(fields) return seen(fields).ip end

  it("is nobody without the option", function()
    server = child.serve { child.script(APP) }
    local t = seen("X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: other\r\n"
      .. "Forwarded: for=203.0.113.9;proto=https;host=other\r\nX-Request-Id: abc\r\n")
    assert.same({ "127.0.0.1", "http", "own", "number" }, { t.ip, t.scheme, t.host, type(t.id) })
    assert.matches("^127%.0%.0%.1:%d+$", t.remote)
  end)

  it("is nobody but the addresses that are named", function()
    server = child.serve { child.script(APP), "--trusted-proxy", "127.0.0.2", "--trusted-proxy", "10.0.0.0/8" }
    local t = seen "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Request-Id: abc\r\n"
    assert.same({ "127.0.0.1", "http", "number" }, { t.ip, t.scheme, type(t.id) })
  end)

  describe("of a list", function()
    before_each(function()
      server = child.serve { child.script(APP), "--trusted-proxy", "127.0.0.0/8", "--trusted-proxy", "10.0.0.0/8",
        "--trusted-proxy", "2001:db8::/32" }
    end)

    it("tells of the client", function()
      local t = seen("X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: HTTPS\r\nX-Forwarded-Host: a.example:8443\r\n"
        .. "X-Request-Id: abc-1\r\n")
      assert.same({ "203.0.113.9", "https", "a.example:8443", "abc-1" }, { t.ip, t.scheme, t.host, t.id })
      assert.matches("^127%.0%.0%.1:%d+$", t.remote)
    end)

    it("is believed as far as trusted proxies have written it", function()
      assert.equal("127.0.0.1", ip_of "")
      assert.equal("203.0.113.9", ip_of "X-Forwarded-For: 1.1.1.1, 203.0.113.9\r\n")
      assert.equal("203.0.113.9", ip_of "X-Forwarded-For: 1.1.1.1, 203.0.113.9, 10.0.0.2,10.9.9.9\r\n")
      assert.equal("203.0.113.9", ip_of "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 203.0.113.9, 10.1.1.1\r\n")
      assert.equal("2001:db9::1", ip_of "X-Forwarded-For: 2001:db9::1, [2001:db8::7]:443\r\n")
      assert.equal("203.0.113.9", ip_of "X-Forwarded-For: 203.0.113.9:4711\r\n")
      assert.equal("203.0.113.9", ip_of "X-Forwarded-For: ::ffff:203.0.113.9\r\n")
      assert.equal("10.0.0.2", ip_of "X-Forwarded-For: 10.0.0.2\r\n")
      assert.equal("10.0.0.2", ip_of "X-Forwarded-For: unknown, 10.0.0.2\r\n")
      assert.equal("127.0.0.1", ip_of "X-Forwarded-For: 203.0.113.9, junk\r\n")
      assert.equal("127.0.0.1", ip_of "X-Forwarded-For: \r\n")
      assert.equal("203.0.113.9", ip_of("X-Forwarded-For: " .. ("1.1.1.1, "):rep(900) .. "203.0.113.9\r\n"))
    end)

    it("takes scheme and host from the same place", function()
      local t = seen("X-Forwarded-For: 9.9.9.9, 203.0.113.9, 10.0.0.2\r\nX-Forwarded-Proto: ftp, https, http\r\n"
        .. "X-Forwarded-Host: bad, good, inner\r\n")
      assert.same({ "203.0.113.9", "https", "good" }, { t.ip, t.scheme, t.host })
      t = seen "X-Forwarded-For: 203.0.113.9, 10.0.0.2\r\nX-Forwarded-Proto: gopher\r\nX-Forwarded-Host: a/b\r\n"
      assert.same({ "http", "own" }, { t.scheme, t.host })
    end)

    it("knows Forwarded, unless there is an X-Forwarded-For", function()
      local t = seen 'Forwarded: for=9.9.9.9, For="203.0.113.9:80";Proto=https;host="a.example";by=x, for=10.0.0.2\r\n'
      assert.same({ "203.0.113.9", "https", "a.example" }, { t.ip, t.scheme, t.host })
      assert.equal("2001:db9::1", ip_of 'Forwarded: for="[2001:db9::1]:1"\r\n')
      assert.equal("127.0.0.1", ip_of "Forwarded: for=_hidden;proto=https\r\n")
      assert.equal("https", seen("Forwarded: for=_hidden;proto=https\r\n").scheme)
      t = seen "Forwarded: for=6.6.6.6;proto=https;host=evil\r\nX-Forwarded-For: 203.0.113.9\r\n"
      assert.same({ "203.0.113.9", "http", "own" }, { t.ip, t.scheme, t.host })
    end)

    it("takes no id that is no word", function()
      assert.equal("number", type(seen("X-Request-Id: a b\r\n").id))
      assert.equal("number", type(seen("X-Request-Id: " .. ("x"):rep(256) .. "\r\n").id))
    end)
  end)

  it("is whoever comes by a unix socket, as unix", function()
    local path = child.file()
    server = child.serve { child.script(APP), "--listen", "unix:" .. path, "--trusted-proxy", "unix" }
    assert.equal("unix", ip_of "")
    assert.equal("203.0.113.9", ip_of "X-Forwarded-For: 203.0.113.9\r\n")
    server = child.serve { child.script(APP), "--listen", "unix:" .. child.file() }
    assert.equal("unix", ip_of "X-Forwarded-For: 203.0.113.9\r\n")
  end)

  it("counts for the access log", function()
    local path = child.file()
    server = child.serve { child.script(APP), "--trusted-proxy", "127.0.0.1", "--access-log", path,
      "--log-format", "json" }
    seen "X-Forwarded-For: 203.0.113.9\r\nX-Request-Id: abc\r\n"
    local line = child.eventually(function() return (fs.read(path) or ""):match "^([^\n]*)\n" end, "a line")
    local t = json.decode(line)
    assert.same({ "203.0.113.9", "abc" }, { t.ip, t.id })
  end)

  it("refuses what is no network", function()
    for _, bad in ipairs { "10.0.0.1/8", "10.0.0.0/33", "::1/129", "example.org", "10.0.0.0/", "10.0.0.0/x", "" } do
      local code, _, err = child.run { child.script(APP), "--trusted-proxy", bad }
      assert.equal(64, code)
      assert.matches("trusted%-proxy: must be ADDR, ADDR/BITS", err)
    end
  end)

  it("is an option of the app", function()
    local app = APP:gsub("return app\n$", [[
      app.options = { trusted_proxy = { "10.0.0.0/8", "127.0.0.1" } }
      return app
    ]])
    server = child.serve { child.script(app) }
    assert.equal("203.0.113.9", ip_of "X-Forwarded-For: 203.0.113.9, 10.0.0.1\r\n")
  end)
end)

describe("--proxy-protocol", function()
  after_each(child.clean)

  local server
  local GET = "GET / HTTP/1.1\r\nHost: own\r\n\r\n"
  local SIGNATURE = "\r\n\r\n\0\r\nQUIT\n"

  before_each(function() server = child.serve { child.script(APP), "--proxy-protocol", "--header-timeout", "1" } end)

  local function v2(command, family, rest)
    return SIGNATURE .. string.char(0x20 + command, family, math.floor(#rest / 256), #rest % 256) .. rest
  end

  local FOUR = "\203\0\113\9\192\0\2\1" .. "\18\103\0\80"
  local SIX = ("\32\1\13\184" .. ("\0"):rep(11) .. "\1"):rep(2) .. "\18\103\0\80"

  local function remote_after(...)
    local conn = child.dial(server.addr)
    for _, piece in ipairs { ... } do
      assert(conn:write(piece))
      lp.sleep(0.001)
    end
    local r = child.reply(conn)
    conn:close()
    assert.equal(200, r.status)
    local t = r:json()
    return t.remote, t.ip
  end

  -- What has come unread makes the close a reset.
  local function assert_closed(conn)
    local got, err = conn:read()
    assert.is_nil(got)
    assert.is_true(err == "eof" or err == "connection reset by peer", err)
    conn:close()
  end

  it("tells whom a connection is for, as text", function()
    assert.same({ "203.0.113.9:4711", "203.0.113.9" },
      { remote_after("PROXY TCP4 203.0.113.9 192.0.2.1 4711 80\r\n" .. GET) })
    assert.same({ "[2001:db8::1]:4711", "2001:db8::1" },
      { remote_after("PROXY TCP6 2001:db8::1 2001:db8::2 4711 80\r\n" .. GET) })
    assert.matches("^127%.0%.0%.1:%d+$", (remote_after("PROXY UNKNOWN\r\n" .. GET)))
    assert.matches("^127%.0%.0%.1:%d+$", (remote_after("PROXY UNKNOWN ffff:: what ever\r\n" .. GET)))
  end)

  it("tells whom a connection is for, as bytes", function()
    assert.equal("203.0.113.9:4711", (remote_after(v2(1, 0x11, FOUR) .. GET)))
    assert.equal("[2001:db8::1]:4711", (remote_after(v2(1, 0x21, SIX) .. GET)))
    assert.equal("203.0.113.9:4711", (remote_after(v2(1, 0x11, FOUR .. "\3\0\4abcd") .. GET)))
    assert.equal("203.0.113.9:4711", (remote_after(v2(1, 0x11, FOUR .. ("x"):rep(60000)) .. GET)))
    for _, header in ipairs { v2(0, 0, ""), v2(0, 0x11, FOUR), v2(1, 0, "what ever"), v2(1, 0x31, ("x"):rep(216)) } do
      assert.matches("^127%.0%.0%.1:%d+$", (remote_after(header .. GET)))
    end
  end)

  it("may come in pieces, with the request or before it", function()
    for _, header in ipairs { "PROXY TCP4 203.0.113.9 192.0.2.1 4711 80\r\n", v2(1, 0x11, FOUR .. "\4\0\0") } do
      local all, pieces = header .. GET, {}
      for i = 1, #all do pieces[i] = all:sub(i, i) end
      assert.equal("203.0.113.9:4711", (remote_after(unpack(pieces))))
      assert.equal("203.0.113.9:4711", (remote_after(header, GET)))
    end
  end)

  it("serves several requests behind one header", function()
    local conn = child.send(server.addr, "PROXY TCP4 203.0.113.9 192.0.2.1 4711 80\r\n" .. GET .. GET)
    for _ = 1, 2 do assert.equal("203.0.113.9:4711", child.reply(conn):json().remote) end
    assert(conn:write(GET))
    assert.equal("203.0.113.9:4711", child.reply(conn):json().remote)
    conn:close()
  end)

  it("closes a connection that begins with anything else", function()
    for _, bytes in ipairs {
      GET, "PROXY\r\n", "PROXY TCP4 203.0.113.9 192.0.2.1 4711\r\n", "PROXY TCP4 203.0.113.9 192.0.2.1 4711 80 1\r\n",
      "PROXY TCP4 203.0.113.9 192.0.2.1 4711 80\n", "PROXY TCP4  203.0.113.9 192.0.2.1 4711 80\r\n",
      "PROXY TCP4 2001:db8::1 192.0.2.1 4711 80\r\n", "PROXY TCP6 203.0.113.9 192.0.2.1 4711 80\r\n",
      "PROXY TCP4 203.0.113.9 192.0.2.1 65536 80\r\n", "PROXY TCP4 203.0.113.9 192.0.2.1 04711 80\r\n",
      "PROXY UDP4 203.0.113.9 192.0.2.1 4711 80\r\n", "PROXY " .. ("x"):rep(200), "proxy UNKNOWN\r\n",
      v2(1, 0x11, "short"), v2(1, 0x21, FOUR), v2(2, 0x11, FOUR), SIGNATURE .. "\17\17\0\12" .. FOUR,
    } do
      local conn = child.dial(server.addr)
      assert(conn:write(bytes))
      assert_closed(conn)
    end
    server:said("begins without the header of --proxy-protocol", 17)
    assert.equal("203.0.113.9:4711", (remote_after(v2(1, 0x11, FOUR) .. GET)))
  end)

  it("does not wait for ever, nor for a client that has gone", function()
    local conn = child.send(server.addr, "PROXY TCP4 203")
    assert_closed(conn)
    conn = child.send(server.addr, SIGNATURE)
    conn:close_write()
    assert_closed(conn)
  end)

  it("does not hold up a stop", function()
    server = child.serve { child.script(APP), "--proxy-protocol", "--header-timeout", "60" }
    local conn = child.dial(server.addr)
    assert(conn:write "PROXY TCP4")
    assert.equal("203.0.113.9:4711", (remote_after(v2(1, 0x11, FOUR) .. GET)))
    server:kill "TERM"
    assert.equal(0, server:wait())
    assert.is_nil(server:stderr():find "unfinished")
    conn:close()
  end)

  it("counts connections of the client's address", function()
    server = child.serve { child.script(APP), "--proxy-protocol", "--max-conns-per-addr", "1" }
    local line = "PROXY TCP4 203.0.113.%d 192.0.2.1 4711 80\r\n"
    local first = child.send(server.addr, line:format(1) .. GET)
    assert.equal(200, child.reply(first).status)
    local second = child.send(server.addr, line:format(1) .. GET)
    assert.equal(503, child.reply(second).status)
    local third = child.send(server.addr, line:format(2) .. GET)
    assert.equal(200, child.reply(third).status)
    for _, conn in ipairs { first, second, third } do conn:close() end
  end)
end)

describe("addresses", function()
  after_each(child.clean)

  it("of IPv4 by a socket of IPv6 are IPv4", function()
    local ln = net.listen "[::]:0"
    if not ln then return pending "no IPv6 here" end
    local port = ln:addr():match "%d+$"
    local c = assert(net.dial("127.0.0.1:" .. port))
    local s = assert(ln:accept())
    assert.matches("^127%.0%.0%.1:%d+$", s:remote_addr())
    assert.equal("127.0.0.1:" .. port, s:local_addr())
    s:close()
    c:close()
    ln:close()
  end)

  it("[::] and 0.0.0.0 may have the same port", function()
    local free = net.listen "[::]:0"
    if not free then return pending "no IPv6 here" end
    local port = free:addr():match "%d+$"
    free:close()
    for _, order in ipairs { { "[::]", "0.0.0.0" }, { "0.0.0.0", "[::]" } } do
      local server = child.serve { child.script(APP), "--listen", order[1] .. ":" .. port,
        "--listen", order[2] .. ":" .. port }
      assert.equal("127.0.0.1", child.client("127.0.0.1:" .. port):get("/"):json().ip)
      assert.equal("::1", child.client("[::1]:" .. port):get("/"):json().ip)
      server:kill "TERM"
      assert.equal(0, server:wait())
    end
  end)
end)

describe("--socket-mode", function()
  after_each(child.clean)

  it("is the mode of a unix socket's file", function()
    for _, mode in ipairs { "0660", "0600", "0666", "777" } do
      local path, admin = child.file(), child.file()
      local server = child.serve { child.script(APP), "--listen", "unix:" .. path, "--admin", "unix:" .. admin,
        "--socket-mode", mode }
      assert.equal(tonumber(mode, 8), fs.stat(path).mode % 512)
      assert.equal(tonumber("600", 8), fs.stat(admin).mode % 512)
      assert.equal(200, child.client(server.addr):get("/").status)
      server:kill "TERM"
      assert.equal(0, server:wait())
      assert.is_nil(fs.stat(path))
    end
  end)

  it("must be a mode", function()
    for _, bad in ipairs { "0", "8", "1777", "rw", "" } do
      local code, _, err = child.run { child.script(APP), "--socket-mode", bad }
      assert.equal(64, code)
      assert.matches("socket%-mode: must be an octal mode", err)
    end
  end)
end)

describe("the file that a crash has left", function()
  after_each(child.clean)

  it("is replaced by net.listen and net.udp, if nobody answers there", function()
    for _, how in ipairs { "listen", "udp" } do
      local path = child.file()
      local c = child.start { "run", child.script(([[
        local s = assert(require("lunapark.net").%s("unix:%s"))
        print "bound"
        require("lunapark").sleep(60)
        s:close()
      ]]):format(how, path)) }
      child.eventually(function() return c:stdout() == "bound\n" end, "bound")
      assert.same({ nil, "address already in use" }, { net[how]("unix:" .. path) })
      c:kill "KILL"
      c:wait()
      assert.equal("socket", fs.stat(path).type)
      local s = assert(net[how]("unix:" .. path))
      s:close()
      assert(fs.write(path, "precious"))
      assert.is_nil((net[how]("unix:" .. path)))
      assert.equal("precious", helper.text_of(path))
    end
  end)
end)
