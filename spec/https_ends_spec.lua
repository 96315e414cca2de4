--- HTTPS connections that end in their midst: at each byte, in one direction, without TLS's word that they end. What
--- was whole by then counts, and no part is taken for a whole.

local fs = require "lunapark.fs"
local lp = require "lunapark"
local net = require "lunapark.net"
local testing = require "lunapark.testing"
local certs = require "spec.support.certs"
local child = require "spec.support.child"
local helper = require "spec.helper"

testing.block_timeout(300)

local APP = [[
local lp = require "lunapark"
local app = require("lunapark.http").app()
local last = "none"
app:get("/", function() return "hello" end)
app:get("/fds", function() return tostring(lp.stats().fds) end)
app:get("/last", function() return last end)
app:post("/echo", function(req)
  local body, err = req:body()
  last = body or err
  return 200, body
end)
return app
]]
local GET = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
local AT_ONCE = 8
local ALL = 2 ^ 30 -- bytes

describe("an HTTPS connection that ends in its midst", function()
  local dir, trust, site

  setup(function()
    dir = certs.folder()
    certs.make(dir, "site", { "DNS:site.example" })
    site = { cert = dir .. "/site.pem", key = dir .. "/site.key" }
    trust = { ca = site.cert, name = "site.example" }
  end)
  teardown(function() fs.remove(dir, { recursive = true }) end)
  after_each(child.clean)

  local function serve(...)
    return child.serve { child.script(APP), "--procs", "1", "--tls-cert", site.cert, "--tls-key", site.key, ... }
  end

  -- Relays a connection to addr: an address, and a function that waits for the relay's end and answers how many bytes
  -- went up. After `up` bytes that way the server reads an end of which TLS knows nothing, as after a call of `cut`;
  -- what the server says comes back all the same. `down`: so does the client, when `cut` is called.
  local function relay(addr, up, down)
    local ln = assert(net.listen "127.0.0.1:0")
    local near, far, sent
    local g = lp.go(function()
      near, far, sent = assert(ln:accept()), child.dial(addr), 0
      ln:close()
      local back = lp.go(function()
        for piece in function() return (far:read()) end do
          if not near:write(piece) then break end
        end
        near:close_write()
      end)
      while sent < up do
        local piece = near:read()
        piece = piece and piece:sub(1, up - sent)
        if not piece or not far:write(piece) then break end
        sent = sent + #piece
      end
      far:close_write()
      back:join()
      near:close()
      far:close()
      return sent
    end)
    return ln:addr(), function() return g:join() end, function()
      if down then near:close_write() else far:close_write() end
    end
  end

  -- Sends a request by a relay that ends it after so many bytes: the answer, and how many bytes it took.
  local function ask(addr, request, up)
    local via, ended, cut = relay(addr, up)
    local conn = net.dial(via, { tls = trust, timeout = helper.PATIENCE })
    local r
    if conn then
      conn:set_deadline(helper.PATIENCE)
      conn:write(request)
      r = testing.read_reply(conn)
      if up == ALL then cut() end
      conn:close()
    end
    return r, ended()
  end

  it("is answered if the request is whole, and else never, at each byte", function()
    local c = serve("--header-timeout", "600")
    local cl = child.client(c.addr, { tls = trust })
    local fds = tonumber(cl:get("/fds").body)
    local r, whole = ask(c.addr, GET, ALL)
    assert.equal("hello", r.body)
    local wrong, at = {}, -1
    helper.all(AT_ONCE, function()
      while at < whole do
        at = at + 1
        local up = at
        r = ask(c.addr, GET, up)
        if (r and r.body) ~= (up == whole and "hello" or nil) then
          wrong[#wrong + 1] = ("%d of %d: %s"):format(up, whole, r and r.status or "no answer")
        end
      end
    end)
    assert.same({}, wrong)
    helper.eventually(function() return tonumber(cl:get("/fds").body) <= fds end, "the end of all connections")
  end)

  it("brings a body whose length was said, and no part of one", function()
    local c = serve()
    local cl = child.client(c.addr, { tls = trust })
    local head = "POST /echo HTTP/1.1\r\nHost: x\r\n"
    local length, chunks = head .. "Content-Length: 9\r\n\r\nthe whole", head ..
      "Transfer-Encoding: chunked\r\n\r\n9\r\nthe whole\r\n0\r\n\r\n"
    for _, request in ipairs { length, chunks } do
      local r, whole = ask(c.addr, request, ALL)
      assert.equal("the whole", r.body)
      assert.equal("the whole", ask(c.addr, request, whole).body)
      assert.is_nil((ask(c.addr, request, whole - 1)))
    end
    -- The record that has the last bytes is whole, and the body is not.
    local cut = length:sub(1, -2)
    local up = select(2, ask(c.addr, length, ALL)) - 1
    assert.is_nil((ask(c.addr, cut, up)))
    assert.equal("the whole", cl:get("/last").body)
  end)

  -- What a client reads of a response of ours whose connection is cut behind these bytes: its body, or the error; and
  -- what it reads then.
  local function read_cut(text)
    local server = assert(net.serve("127.0.0.1:0", function(conn)
      conn:read_line()
      conn:write(text)
      lp.park() -- until the stop
    end, { tls = site }))
    local via, ended, cut = relay(server:addr(), ALL, true)
    local conn = assert(net.dial(via, { tls = trust, timeout = helper.PATIENCE }))
    conn:set_deadline(helper.PATIENCE)
    assert(conn:write "GET\n")
    assert(conn:peek(#text))
    cut()
    local r, err = testing.read_reply(conn)
    local _, behind = conn:read()
    conn:close()
    server:stop(0)
    ended()
    return r and r.body or err, behind
  end

  it("brings a response whose length was said, and is an error for one that ends with the connection", function()
    local missing = "the peer ended the stream without saying so: bytes may be missing"
    assert.same({ "whole", missing }, { read_cut "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole" })
    assert.equal(missing, (read_cut "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nwhole?"))
    assert.equal(missing, (read_cut "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\npart"))
  end)
end)
