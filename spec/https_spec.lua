--- HTTP over TLS: `serve` with --tls-cert and its kin, as curl, openssl(1) and our own client see it. TLS itself:
--- tls_spec.lua, host/test/test_tls.c. Certificates that change: https_reload_spec.lua.

local exec = require "lunapark.exec"
local fs = require "lunapark.fs"
local lp = require "lunapark"
local net = require "lunapark.net"
local testing = require "lunapark.testing"
local certs = require "spec.support.certs"
local child = require "spec.support.child"
local flood = require "spec.support.flood"
local helper = require "spec.helper"

testing.block_timeout(120)

local APP = [[
local http = require "lunapark.http"
local app = http.app()
app:use(http.secure_headers {})
app:get("/", function() return "hello" end)
app:get("/scheme", function(req) return req.scheme end)
app:get("/tls", function(req) return { tls = req.tls } end)
app:post("/echo", function(req) return 200, req:body() end)
require("ffi").cdef "int prctl(int option, unsigned long arg, unsigned long, unsigned long, unsigned long);"
app:get("/handshakes", function()
  local h = require("lunapark").stats().handshakes
  h.dumpable = require("ffi").C.prctl(3, 0, 0, 0, 0)
  return h
end)
app:get("/long/:n", function(req) return (("0123456789abcdef"):rep(req.params.n / 16)) end)
app:get("/late/:n", function(req)
  require("lunapark").sleep(tonumber(req.params.n))
  return "late"
end)
return app
]]
local GET_SCHEME = "GET /scheme HTTP/1.1\r\nHost: x\r\n\r\n"
local LAST = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

describe("HTTP over TLS", function()
  local dir, site, trust

  setup(function()
    dir = certs.folder()
    certs.make(dir, "site", { "DNS:site.example", "DNS:localhost", "IP:127.0.0.1" })
    certs.make(dir, "other", { "DNS:other.example" }, "rsa")
    certs.make(dir, "me", { "DNS:me.example", "IP:192.0.2.7", "email:me@me.example" })
    site = { "--tls-cert", dir .. "/site.pem", "--tls-key", dir .. "/site.key" }
    trust = { ca = dir .. "/site.pem", name = "site.example" }
  end)
  teardown(function() fs.remove(dir, { recursive = true }) end)
  after_each(child.clean)

  -- A server with these further arguments.
  local function serve(args)
    local all = { child.script(APP), "--procs", "2", unpack(site) }
    for name, arg in pairs(args or {}) do
      if type(name) == "number" then all[#all + 1] = arg else all[name] = arg end
    end
    return child.serve(all)
  end

  local function dial(addr, opts)
    local conn = assert(net.dial(addr, { tls = opts or trust, timeout = helper.PATIENCE }))
    conn:set_deadline(helper.PATIENCE)
    return conn
  end

  local function client(addr, opts) return child.client(addr, { tls = opts or trust }) end

  local function openssl(addr, ...)
    local r = exec.run({ "openssl", "s_client", "-connect", addr, ... }, { stdin = "", timeout = helper.PATIENCE })
    return r.stdout .. r.stderr, r.code
  end

  local function fingerprint(file)
    return exec.run({ "openssl", "x509", "-in", file, "-noout", "-fingerprint", "-sha256" }).stdout:match "=(%S+)"
  end

  it("answers curl", function()
    local c = serve()
    assert.matches("lunapark: listening on https://127.0.0.1:%d+\n", c:stderr())
    local url = "https://localhost:" .. c.addr:match "%d+$"
    local r = exec.run { "curl", "-sS", "--cacert", dir .. "/site.pem", "-w", " %{http_version} %{ssl_verify_result}",
      url .. "/", url .. "/scheme" }
    assert.equal("hello 1.1 0https 1.1 0", r.stdout, r.stderr)
    assert.equal(60, exec.run({ "curl", "-sS", url }).code) -- nobody whom curl trusts has signed
  end)

  it("makes itself a certificate for localhost", function()
    local file = dir .. "/own.pem"
    local c = child.serve { child.script(APP), "--tls-self-signed=" .. file }
    assert.equal("-rw-r--r--", exec.run({ "stat", "-c", "%A", file }).stdout:match "%S+")
    assert.is_nil(fs.read(file):find("PRIVATE", 1, true))
    for _, host in ipairs { "localhost", "127.0.0.1" } do
      local r = exec.run { "curl", "-sS", "--cacert", file, "https://" .. host .. ":" .. c.addr:match "%d+$" }
      assert.equal("hello", r.stdout, r.stderr)
    end
    assert.is_truthy(c:said("the certificate's SHA-256 is " .. fingerprint(file)))
    c = child.serve { child.script(APP), "--tls-self-signed" }
    assert.equal("hello", client(c.addr, { insecure = true }):get("/").body)
    local code, _, err = child.run { child.script(APP), "--tls-self-signed=/nowhere/x.pem", "--listen", "127.0.0.1:0" }
    assert.equal(1, code)
    assert.matches("%-%-tls%-self%-signed: /nowhere/x.pem: No such file", err)
  end)

  it("says https to the app, unless a trusted proxy knows better", function()
    local cl = client(serve({ "--trusted-proxy", "127.0.0.0/8" }).addr)
    local r = cl:get "/scheme"
    assert.equal("https", r.body)
    assert.equal("max-age=15552000", r.headers["strict-transport-security"])
    assert.equal("http", cl:get("/scheme", { headers = { ["X-Forwarded-Proto"] = "http" } }).body)
    assert.is_nil(testing.serve(function(req) return { tls = req.tls } end, { tls = false }):get("/"):json().tls)
  end)

  it("tells the app what was agreed on", function()
    local t = client(serve().addr):get("/tls"):json().tls
    assert.same({ "TLSv1.3", "site.example", false }, { t.version, t.sni, t.resumed })
    assert.matches("^TLS_", t.cipher)
    assert.is_nil(t.client_cert)
  end)

  it("asks clients for certificates, and tells the app who they are", function()
    local c = serve { "--tls-client-ca", dir .. "/me.pem" }
    local opts = { ca = trust.ca, name = trust.name, cert = dir .. "/me.pem", key = dir .. "/me.key" }
    local cert = client(c.addr, opts):get("/tls"):json().tls.client_cert
    assert.same({
      verified = true, subject = "CN=me", sans = { "DNS:me.example", "IP:192.0.2.7", "email:me@me.example" },
      fingerprint = fingerprint(dir .. "/me.pem"):gsub(":", ""):lower(),
    }, cert)
    local r, err = client(c.addr):get "/"
    assert.is_nil(r)
    assert.matches("the peer refused: .*certificate required", err)
    -- A session goes on with the certificate that it began with.
    local session = dir .. "/session"
    for _, how in ipairs { { "-sess_out", "New" }, { "-sess_in", "Reused" } } do
      local argv = { "openssl", "s_client", "-connect", c.addr, "-ign_eof", "-cert", opts.cert, "-key", opts.key }
      argv[#argv + 1], argv[#argv + 2] = how[1], session
      r = exec.run(argv, { stdin = LAST:gsub("/", "/tls", 1), timeout = helper.PATIENCE }).stdout
      assert.matches("\n" .. how[2] .. ", TLSv1.3", r)
      assert.is_truthy(r:find('"subject":"CN=me"', 1, true), r)
    end
  end)

  it("chooses among certificates by the name that is asked for", function()
    local c = serve { "--tls-cert", dir .. "/other.pem", "--tls-key", dir .. "/other.key" }
    assert.matches("subject=CN = site", (openssl(c.addr, "-servername", "nobody.example")))
    assert.matches("subject=CN = other", (openssl(c.addr, "-servername", "other.example")))
    assert.matches("ALPN protocol: http/1.1", (openssl(c.addr, "-alpn", "h2,http/1.1")))
    assert.matches("ALPN protocol: http/1.1", (openssl(c.addr, "-alpn", "http/1.0,http/1.1")))
    assert.matches("ALPN protocol: http/1.0", (openssl(c.addr, "-alpn", "http/1.0"))) -- curl --http1.0
    assert.matches("no application protocol", (openssl(c.addr, "-alpn", "h2")))
    assert.matches("alert protocol version", (openssl(c.addr, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")))
  end)

  it("moves large bodies both ways, also to a client that reads late", function()
    local cl = client(serve({ "--max-body", "8388608" }).addr)
    local body = ("0123456789abcdef"):rep(250000)
    assert.is_true(cl:post("/echo", { body = body }).body == body)
    local conn = dial(cl.addr)
    assert(conn:write("GET /long/8000000 HTTP/1.1\r\nHost: x\r\n\r\n" .. LAST))
    lp.sleep(0.2) -- the kernel's buffers are full
    assert.equal(8000000, #child.reply(conn).body)
    assert.equal("hello", child.reply(conn).body)
    assert.same({ nil, "eof" }, { conn:read() })
    conn:close()
  end)

  it("answers requests that were sent together, and ends in order", function()
    local c = serve { "--idle-timeout", "0.2" }
    local conn = dial(c.addr)
    assert(conn:write(GET_SCHEME:rep(20) .. LAST))
    for _ = 1, 20 do assert.equal("https", child.reply(conn).body) end
    assert.equal("hello", child.reply(conn).body)
    assert.same({ nil, "eof" }, { conn:read() }) -- not: bytes may be missing
    conn:close()
    conn = dial(c.addr) -- silent for --idle-timeout
    assert.same({ nil, "eof" }, { conn:read() })
    conn:close()
  end)

  it("does not say of a response that was cut that it has ended", function()
    local app = child.script [[return function(_, res)
      res:write "begin "
      res:flush()
      require("lunapark").sleep(600)
    end]]
    local c = child.serve { app, "--handler-timeout", "0.2", unpack(site) }
    local conn = dial(c.addr)
    -- HTTP/1.0: the end of the connection marks the end of the body.
    assert(conn:write "GET / HTTP/1.0\r\n\r\n")
    local text, piece, err = "", "", nil
    while piece do
      text = text .. piece
      piece, err = conn:read()
    end
    assert.matches("begin $", text)
    assert.equal("the peer ended the stream without saying so: bytes may be missing", err)
    conn:close()
  end)

  it("tells clients that speak plain HTTP, and none else", function()
    local c = serve { "--log-level", "debug" }
    for _, start in ipairs { "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "POST / HTTP/1.1\r\nContent-Length: 50000\r\n\r\n" ..
      ("x"):rep(50000) } do
      local conn = child.send(c.addr, start)
      local r = child.reply(conn)
      assert.same({ 400, "close" }, { r.status, r.headers.connection })
      assert.matches("speaks HTTPS", r.body)
      assert.same({ nil, "eof" }, { conn:read() })
      conn:close()
    end
    c:said("a connection ends in the handshake: the client speaks plain HTTP", 2)
    local conn = child.send(c.addr, ("SSH-2.0-x\r\n"):rep(3))
    local got = conn:read() or ""
    assert.is_nil(got:find("HTTP", 1, true))
    conn:close()
    assert.equal("hello", client(c.addr):get("/").body)
  end)

  it("gives a handshake --header-timeout in all, and an end to who leaves in its midst", function()
    local c = serve { "--header-timeout", "0.5" }
    local start = lp.now()
    local silent, slow = child.dial(c.addr), child.dial(c.addr)
    local drip = lp.go(function() -- a byte now and then does not make it longer
      for i = 1, 200 do
        if not slow:write(("\22\3\1\2\0\1"):sub(i, i) .. (i > 6 and "\0" or "")) then break end
        lp.sleep(0.05)
      end
    end)
    for _, conn in ipairs { silent, slow } do
      local got, err = conn:read()
      assert.not_equal("timeout", err)
      assert.is_true(got == nil or #got < 10) -- an alert at most
      conn:close()
    end
    assert.is_true(lp.now() - start >= 0.49)
    drip:join()
    child.send(c.addr, "\22\3\1"):close()
    assert.equal("hello", client(c.addr):get("/").body)
  end)

  it("understands bytes that are cut anywhere", function()
    local c = serve()
    local ln = assert(net.listen "127.0.0.1:0")
    local relay = lp.go(function()
      local near = assert(ln:accept())
      local far = child.dial(c.addr)
      local function by_bytes(from, to)
        for piece in function() return (from:read()) end do
          for i = 1, #piece do
            if not to:write(piece:sub(i, i)) then return end
            lp.yield()
          end
        end
        to:close_write()
      end
      local back = lp.go(by_bytes, far, near)
      by_bytes(near, far)
      back:join()
      near:close()
      far:close()
    end)
    local conn = dial(ln:addr())
    assert(conn:write "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
    assert.equal("hello", child.reply(conn).body)
    assert(conn:write(LAST))
    assert.equal("hello", child.reply(conn).body)
    assert.same({ nil, "eof" }, { conn:read() })
    conn:close()
    ln:close()
    relay:join()
  end)

  it("counts handshakes, and is in no dump", function()
    local c = serve()
    local cl = client(c.addr)
    local function now() return cl:get("/handshakes"):json() end
    assert.same({ done = 1, resumed = 0, failed = 0, dumpable = 0 }, now())
    local session = dir .. "/counted"
    openssl(c.addr, "-sess_out", session)
    openssl(c.addr, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    child.send(c.addr, "\22\3\1"):close()
    local plain = child.send(c.addr, LAST)
    child.reply(plain)
    plain:close()
    local r = exec.run({ "openssl", "s_client", "-connect", c.addr, "-ign_eof", "-sess_out", session },
      { stdin = LAST, timeout = helper.PATIENCE })
    assert.equal(0, r.code)
    openssl(c.addr, "-sess_in", session)
    helper.eventually(function() return now().failed >= 3 and now().done >= 4 end, "seven handshakes")
    assert.same({ done = 4, resumed = 1, failed = 3, dumpable = 0 }, now())
  end)

  it("refuses with a handshake and a 503 who finds no room", function()
    local c = serve { "--max-conns", "2" }
    local busy = {}
    for i = 1, 2 do
      busy[i] = dial(c.addr)
      assert(busy[i]:write("GET /late/60 HTTP/1.1\r\nHost: x\r\n\r\n"))
    end
    helper.eventually(function()
      local conn = net.dial(c.addr, { tls = trust, timeout = helper.PATIENCE })
      local r = conn and conn:write(LAST) and testing.read_reply(conn)
      if conn then conn:close() end
      return r and r.status == 503
    end, "a 503")
    for i = 1, 2 do busy[i]:close() end
  end)

  it("comes behind the header of --proxy-protocol", function()
    local c = serve { "--proxy-protocol" }
    local conn = child.send(c.addr, "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n")
    assert(conn:start_tls(trust))
    assert(conn:write(LAST))
    assert.equal("hello", child.reply(conn).body)
    conn:close()
  end)

  it("answers established connections before the handshakes of a flood", function()
    local c = serve { "--procs", "1" }
    local conn = dial(c.addr)
    local before, n = flood.answered_before(c, trust, function()
      assert(conn:write(GET_SCHEME))
      assert.equal("https", child.reply(conn).body)
    end)
    assert.is_true(before < n / 4, before)
    conn:close()
  end)

  it("stops while clients shake hands", function()
    local c = serve { "--header-timeout", "600" }
    local silent, conn = child.dial(c.addr), dial(c.addr)
    assert(conn:write("GET /late/0.3 HTTP/1.1\r\nHost: x\r\n\r\n"))
    lp.sleep(0.1)
    c:kill "TERM"
    assert.equal("late", child.reply(conn).body)
    assert.equal(0, c:wait())
    assert.is_nil(c:stderr():find("unfinished", 1, true), c:stderr())
    silent:close()
    conn:close()
  end)

  it("names the files and options that are wrong", function()
    local function fails(code, pattern, ...)
      local got, _, err = child.run { child.script(APP), "--listen", "127.0.0.1:0", ... }
      assert.equal(code, got, err)
      assert.matches(pattern, err)
    end
    local key = dir .. "/site.key"
    fails(64, "%-%-tls%-cert and %-%-tls%-key come in pairs", "--tls-cert", trust.ca)
    fails(64, "need %-%-tls%-cert", "--tls-client-ca", trust.ca)
    fails(1, "TLS: certificate /nowhere/a.pem: no such file", "--tls-cert", "/nowhere/a.pem", "--tls-key", key)
    fails(1, "TLS: key /nowhere/a.key: no such file", "--tls-cert", trust.ca, "--tls-key", "/nowhere/a.key")
    fails(1, "TLS: key .*me%.key: .*mismatch", "--tls-cert", trust.ca, "--tls-key", dir .. "/me.key")
    fails(1, "TLS: CA file /nowhere/ca: ", "--tls-client-ca", "/nowhere/ca", unpack(site))
    fails(1, "TLS: ticket keys /nowhere/k: No such file", "--tls-ticket-keys", "/nowhere/k", unpack(site))
    fails(1, "ticket keys .*site%.key: must be 1 to 16 keys of 80 bytes", "--tls-ticket-keys", key, unpack(site))
    local app = child.script "local a = require('lunapark.http').app() a.options = { tls_cert = 'x' } return a"
    local code, _, err = child.run { app, "--listen", "127.0.0.1:0" }
    assert.equal(1, code)
    assert.matches("tls.cert: can't be set by the app", err)
  end)

  it("serves specs", function()
    local cl = testing.serve(function(req, res)
      res:cookie("a", "1", { secure = true })
      return req.scheme .. " " .. tostring(req:cookie "a")
    end, { tls = { cert = dir .. "/site.pem", key = dir .. "/site.key" } })
    assert.equal("https nil", cl:get("/").body)
    assert.equal("https 1", cl:get("/").body)
    assert.matches("a server needs cert and key", helper.raised(testing.serve, print, { tls = { ca = trust.ca } }))
  end)
end)
