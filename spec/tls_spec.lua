--- TLS for sockets of Lua: dialing, listening, STARTTLS, certificates of both sides, what goes wrong and in which
--- words. The other side is ours or openssl(1). Bytes cut anywhere, floods, limits: host/test/test_tls.c.

local exec = require "lunapark.exec"
local fs = require "lunapark.fs"
local lp = require "lunapark"
local net = require "lunapark.net"
local testing = require "lunapark.testing"
local tls = require "lunapark.tls"
local certs = require "spec.support.certs"
local child = require "spec.support.child"
local flood = require "spec.support.flood"
local helper = require "spec.helper"

testing.block_timeout(60)

describe("lunapark.tls", function()
  local dir, site, client, ln

  setup(function()
    dir = certs.folder()
    certs.make(dir, "site", { "DNS:site.example", "IP:127.0.0.1" })
    certs.make(dir, "me", { "DNS:me.example" })
    site = { cert = dir .. "/site.pem", key = dir .. "/site.key" }
    client = tls.config { ca = dir .. "/site.pem" }
  end)
  teardown(function() fs.remove(dir, { recursive = true }) end)
  after_each(function()
    if ln then ln:close() end
    ln = nil
    child.clean()
  end)

  -- A server that answers each line with itself in upper case.
  local function listen(opts)
    ln = assert(net.listen("127.0.0.1:0", { tls = opts or site }))
    lp.detach(function()
      for c in function() return (ln:accept()) end do
        lp.detach(function()
          local line, err = c:read_line()
          while line do
            c:write(line:upper() .. "\n")
            line, err = c:read_line()
          end
          if err ~= "eof" then c:write(err) end
          c:close()
        end)
      end
    end)
    return ln:addr()
  end

  local function ask(c, line)
    assert(c:write(line .. "\n"))
    return c:read_line()
  end

  it("dials and listens", function()
    local addr = listen()
    local c = assert(net.dial(addr, { tls = client, timeout = 10 }))
    assert.equal("HELLO", ask(c, "hello"))
    assert.equal("AGAIN", ask(c, "again"))
    local agreed = c:tls()
    assert.equal("TLSv1.3", agreed.version)
    assert.matches("^TLS_", agreed.cipher)
    assert.is_nil(agreed.alpn)
    assert(c:close_write())
    assert.same({ nil, "eof" }, { c:read(1) })
    c:close()
  end)

  it("moves much, in pieces of any size", function()
    local piece = ("0123456789abcdef"):rep(1000)
    ln = assert(net.listen("127.0.0.1:0", { tls = site }))
    local server = lp.go(function()
      local c = assert(ln:accept())
      local got = assert(c:read_all())
      local ok, err = c:write { got, "end" }
      c:close()
      return ok, err
    end)
    local c = assert(net.dial(ln:addr(), { tls = client }))
    local sizes, sent = { 1, 10, 100, 1349, 1350, 1351, 16000, 5 }, {}
    for i = 1, 200 do
      sent[i] = piece:sub(1, sizes[i % #sizes + 1])
      assert(c:write(sent[i]))
    end
    assert(c:write { piece:rep(100), "x", piece })
    sent = table.concat(sent) .. piece:rep(100) .. "x" .. piece .. "end"
    assert(c:close_write())
    assert.is_true(sent == c:read_all())
    c:close()
    assert(server:join())
  end)

  it("copies files and connections", function()
    local path = dir .. "/file"
    local text = ("a line of a file\n"):rep(50000)
    assert(fs.write(path, text))
    ln = assert(net.listen("127.0.0.1:0", { tls = site }))
    local server = lp.go(function()
      local c = assert(ln:accept())
      local f = assert(fs.open(path))
      assert(net.copy(c, f))
      f:close()
      c:close()
    end)
    local c = assert(net.dial(ln:addr(), { tls = client }))
    assert.is_true(text == c:read_all())
    c:close()
    server:join()
  end)

  it("says in words whom it does not trust", function()
    local addr = listen()
    local function why(opts)
      local c, err = net.dial(addr, { tls = opts, timeout = 10 })
      assert.is_nil(c)
      return err
    end
    assert.matches("^certificate is not trusted: ", why(true))
    assert.equal("name does not match: the certificate is for site.example",
      why { ca = dir .. "/site.pem", name = "other.example" })
    assert.equal("the server's key is not the pinned one", why { insecure = true, pin = ("00"):rep(32) })
    local c = assert(net.dial(addr, { tls = { insecure = true } }))
    assert.equal("X", ask(c, "x"))
    c:close()
    local command = ("openssl x509 -in %s/site.pem -noout -pubkey | openssl pkey -pubin -outform der |" ..
      " openssl dgst -sha256 -hex | sed 's/.* //'"):format(dir)
    local pin = exec.run { "sh", "-c", command }.stdout:gsub("%s", "")
    c = assert(net.dial(addr, { tls = { insecure = true, pin = pin } }))
    assert.equal("X", ask(c, "x"))
    c:close()
  end)

  it("asks clients for certificates", function()
    local addr = listen { cert = site.cert, key = site.key, ca = dir .. "/me.pem", server = true }
    local c = assert(net.dial(addr, { tls = client })) -- TLS 1.3: the server's refusal comes later
    local line, err = ask(c, "x")
    assert.is_nil(line)
    assert.matches("the peer refused: ", err)
    c:close()
    c = assert(net.dial(addr, {
      tls = { ca = dir .. "/site.pem", cert = dir .. "/me.pem", key = dir .. "/me.key" } }))
    assert.equal("X", ask(c, "x"))
    c:close()
  end)

  it("begins after words in the clear", function()
    ln = assert(net.listen "127.0.0.1:0")
    local server = lp.go(function()
      local c = assert(ln:accept())
      assert.equal("STARTTLS", c:read_line())
      c:write "go on\n"
      local ok, err = c:start_tls(tls.config(site))
      local line = ok and c:read_line()
      if line then c:write(line:upper() .. "\n") end
      c:close()
      return ok, err
    end)
    local c = assert(net.dial(ln:addr()))
    assert.is_nil(c:tls())
    assert.equal("go on", ask(c, "STARTTLS"))
    assert(c:start_tls(client, "site.example"))
    assert.equal("X", ask(c, "x"))
    assert.equal("site.example", c:tls().sni)
    assert.matches("already", select(2, c:start_tls(client, "site.example")))
    c:close()
    assert(server:join())
  end)

  it("takes no bytes for encrypted ones that came before the handshake", function()
    ln = assert(net.listen "127.0.0.1:0")
    local server = lp.go(function()
      local c = assert(ln:accept())
      c:read_line()
      c:write "go on\n250 an attacker's word\n"
      c:read()
      c:close()
    end)
    local c = assert(net.dial(ln:addr()))
    assert.equal("go on", ask(c, "STARTTLS"))
    assert(c:peek(1))
    assert.same({ nil, "bytes were read that nobody has taken" }, { c:start_tls(client, "site.example") })
    c:close()
    server:join()
  end)

  it("chooses protocols", function()
    local addr = listen { cert = site.cert, key = site.key, alpn = { "two", "one" } }
    local c = assert(net.dial(addr, { tls = { ca = dir .. "/site.pem", alpn = { "one", "three" } } }))
    assert.equal("one", c:tls().alpn)
    c:close()
    local err = select(2, net.dial(addr, { tls = { ca = dir .. "/site.pem", alpn = { "three" } } }))
    assert.matches("the peer refused: .*no application protocol", err)
  end)

  it("ends a handshake with the deadline, and tells the end of a peer", function()
    ln = assert(net.listen "127.0.0.1:0")
    assert.same({ nil, "timeout" }, { net.dial(ln:addr(), { tls = client, timeout = 0.05 }) })
    local c = assert(ln:accept())
    c:close()
    local g = lp.go(net.dial, ln:addr(), { tls = client })
    c = assert(ln:accept())
    assert(c:read()) -- ClientHello
    c:close()
    local _, err = select(2, g:join())
    assert.is_string(err or select(2, g:join()))
  end)

  it("speaks with openssl, as server and as client", function()
    local once = assert(net.serve("127.0.0.1:0", function(c) c:write(c:read_line():upper()) end, { tls = site }))
    local r = exec.run({ "openssl", "s_client", "-quiet", "-verify_return_error", "-CAfile", site.cert,
      "-connect", once:addr(), "-servername", "site.example" }, { stdin = "hello\n", timeout = 20 })
    assert.equal("HELLO", r.stdout)
    once:stop()
    local addr = listen()
    for _, version in ipairs { "-tls1_2", "-tls1_3" } do
      r = exec.run({ "openssl", "s_client", "-brief", version, "-CAfile", site.cert, "-connect", addr },
        { stdin = "", timeout = 20 })
      assert.matches("Verification: OK", r.stdout .. r.stderr, 1, true)
    end
    r = exec.run({ "openssl", "s_client", "-brief", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", "-connect", addr },
      { stdin = "", timeout = 20 })
    assert.not_equal(0, r.code)
  end)

  it("resumes sessions by tickets", function()
    local once = assert(net.serve("127.0.0.1:0", function(c) c:write(c:read_line():upper()) end, { tls = site }))
    local session = dir .. "/session"
    for _, version in ipairs { "-tls1_2", "-tls1_3" } do
      local function connect(option)
        return exec.run({ "openssl", "s_client", version, "-ign_eof", "-CAfile", site.cert, "-connect", once:addr(),
          option, session }, { stdin = "x\n", timeout = 20 }).stdout
      end
      assert.matches("\nNew, TLSv1", connect "-sess_out")
      assert.matches("\nReused, TLSv1", connect "-sess_in")
    end
    once:stop()
  end)

  it("resumes no session where other clients are trusted", function()
    local function serve(opts)
      return assert(net.serve("127.0.0.1:0", function(c)
        local line = c:read_line()
        if line then c:write("served " .. line) end
      end, { tls = opts }))
    end
    local open, closed = serve(site), serve { cert = site.cert, key = site.key, ca = dir .. "/me.pem", server = true }
    local session = dir .. "/session"
    for _, version in ipairs { "-tls1_2", "-tls1_3" } do
      local function connect(server, option)
        return exec.run({ "openssl", "s_client", version, "-ign_eof", "-CAfile", site.cert, "-connect", server:addr(),
          option, session }, { stdin = "x\n", timeout = 20 }).stdout
      end
      assert.matches("served x", connect(open, "-sess_out"))
      assert.is_nil(connect(closed, "-sess_in"):find("served", 1, true))
    end
    open:stop()
    closed:stop()
  end)

  it("says nothing to a peer whose key is not the pinned one", function()
    ln = assert(net.listen("127.0.0.1:0", { tls = site }))
    local server = lp.go(function()
      local c = assert(ln:accept())
      local got = c:read()
      c:close()
      return got or "nothing"
    end)
    local c = assert(net.dial(ln:addr()))
    local why = "the server's key is not the pinned one"
    assert.same({ nil, why }, { c:start_tls { insecure = true, pin = ("00"):rep(32) } })
    assert.same({ nil, why }, { c:write "secret" })
    assert.same({ nil, why }, { c:read() })
    assert.is_nil(c:tls())
    c:close()
    assert.equal("nothing", server:join())
  end)

  it("keeps connections in a pool that a ticket does not end", function()
    local addr = listen()
    local pool = net.pool(addr, { tls = client })
    local c = assert(pool:get())
    assert.equal("X", ask(c, "x"))
    pool:put(c)
    lp.sleep(0.01)
    local again = assert(pool:get())
    assert.equal(c, again)
    assert.equal("Y", ask(again, "y"))
    pool:put(again)
    pool:close()
  end)

  it("serves", function()
    local server = assert(net.serve("127.0.0.1:0", function(c)
      c:write((c:read_line() or "nothing"):upper() .. "\n")
    end, { tls = site }))
    local c = assert(net.dial(server:addr(), { tls = client }))
    assert.equal("X", ask(c, "x"))
    c:close()
    server:stop()
  end)

  it("calls the function of net.serve after the handshake, and never if that fails", function()
    local called = {}
    local server = assert(net.serve("127.0.0.1:0", function(c)
      called[#called + 1] = c:tls().version
      c:write "hello\n"
    end, { tls = site }))
    local before = lp.stats().handshakes
    local plain = assert(net.dial(server:addr()))
    assert(plain:write "GET / HTTP/1.1\r\n\r\n")
    plain:set_deadline(10)
    plain:read_all()
    plain:close()
    assert.same({}, called)
    local c = assert(net.dial(server:addr(), { tls = client }))
    assert.equal("hello", c:read_line())
    c:close()
    assert.same({ "TLSv1.3" }, called)
    local now = lp.stats().handshakes
    assert.same({ 1, 1 }, { now.done - before.done, now.failed - before.failed })
    assert.is_true(server:stop())
  end)

  it("answers established connections of net.serve before the handshakes of a flood", function()
    local script = child.script(([[
      local server = assert(require("lunapark.net").serve("127.0.0.1:0", function(c)
        for line in function() return c:read_line() end do c:write(line .. "\n") end
      end, { tls = { cert = %q, key = %q } }))
      print(server:addr())
      io.stdout:flush()
      server:wait()
    ]]):format(site.cert, site.key))
    local c = child.start { "run", "--procs", "1", script }
    helper.eventually(function()
      c.addr = c:stdout():match "^(%S+)\n"
      return c.addr
    end, "an address")
    local conn = assert(net.dial(c.addr, { tls = client, timeout = helper.PATIENCE }))
    local before, n = flood.answered_before(c, client, function() assert.equal("x", ask(conn, "x")) end)
    assert.is_true(before < n / 4, before)
    conn:close()
  end)

  it("names what is wrong with a config", function()
    local raised = helper.raised
    local other = dir .. "/me.key"
    assert.matches("tls.config: key .*me%.key: .*mismatch", raised(tls.config, { cert = site.cert, key = other }))
    assert.matches("certificate .*/none: no such file", raised(tls.config, { cert = dir .. "/none", key = site.key }))
    assert.matches("cert and key belong together", raised(tls.config, { cert = site.cert }))
    assert.matches("unknown option \"certt\"", raised(tls.config, { certt = "x" }))
    assert.matches("pin: not a SHA%-256", raised(tls.config, { pin = "abc" }))
    local opts = { tls = { ca = site.cert } }
    assert.matches("listen: tls: a server needs cert and key", raised(net.listen, "127.0.0.1:0", opts))
    assert.matches("serve: tls: a server needs cert and key", raised(net.serve, "127.0.0.1:0", print, opts))
  end)
end)
