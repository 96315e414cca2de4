-- Many clients at once, and bad ones, against a server in a process of its own.

local lp = require "lunapark"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local all = require("spec.helper").all

local APP = [[
local lp = require "lunapark"
local app = require("lunapark.http").app()
app:get("/", function() return "hello" end)
app:get("/n/:n", function(req) return req.params.n end)
app:get("/sleep", function() lp.sleep(1) return "slept" end)
app:get("/sleepers", function() lp.sleep(4) return "slept" end)
app:post("/echo", function(req)
  local body, got = req:body(), {}
  lp.sleep(0.01)
  for _, name, value in req.headers:each() do
    got[#got + 1] = name .. "=" .. value
  end
  return table.concat(got, " ") .. " " .. body
end)
app:get("/nap", function() lp.sleep(0.05) return ("x"):rep(100000) end)
app:get("/large", function() return ("x"):rep(8 * 1024 * 1024) end)
app:get("/stream", function(_, res)
  for _ = 1, 200 do
    if not res:write(("x"):rep(65536)) then return end
  end
end)
app:post("/body", function(req) return tostring(#req:body()) end)
app:get("/stats", function()
  local s = lp.stats()
  s.ps = nil
  return s
end)
return app
]]

local GET = "GET %s HTTP/1.1\r\nHost: x\r\n\r\n"

-- Files that a process may have open; the runtime takes as many as it is allowed.
local function descriptors()
  for line in io.lines "/proc/self/limits" do
    local soft = line:match "^Max open files%s+(%S+)"
    if soft then return tonumber(soft) or 1e9 end
  end
end

describe("under load", function()
  local server

  local function serve(...)
    server = child.serve { child.script(APP), ... }
    return server
  end

  local function dial()
    return child.dial(server.addr)
  end

  local function send(bytes)
    return child.send(server.addr, bytes)
  end

  after_each(child.clean)

  it("2,000 keep-alive connections at once are all answered, twice", function()
    local n = math.min(2000, descriptors() - 200)
    serve()
    local conns = {}
    all(n, function(i) conns[i] = dial() end)
    local control = child.client(server.addr)
    child.eventually(function() return control:get("/stats"):json().fds >= n end, "all connections")
    for round = 1, 2 do
      all(n, function(i)
        local wanted = tostring(i * round)
        assert(conns[i]:write(GET:format("/n/" .. wanted)))
        local r, err, last = testing.read_reply(conns[i])
        assert(r, err)
        assert(r.status == 200 and r.body == wanted and not last, r.body)
      end)
    end
    for _, conn in ipairs(conns) do
      conn:close()
    end
    child.eventually(function() return control:get("/stats"):json().fds < 100 end, "the end of the connections")
    server:kill "TERM"
    assert.equal(0, server:wait())
    assert.is_nil(server:stderr():find("error", 1, true), server:stderr())
  end)

  it("1,000 handlers sleep a second at once on one P", function()
    local n = math.min(1000, descriptors() - 200)
    serve("--procs", "1")
    local conns = {}
    all(n, function(i) conns[i] = dial() end)
    local start = lp.now()
    all(n, function(i)
      assert(conns[i]:write(GET:format "/sleep"))
      local r, err = testing.read_reply(conns[i])
      assert(r and r.body == "slept", err)
    end)
    local took = lp.now() - start
    for _, conn in ipairs(conns) do
      conn:close()
    end
    assert.is_true(took >= 1 and took < 60, took .. " s") -- not 1,000 s
  end)

  it("2,000 handlers in sleep take less than 4 kB each", function()
    if child.has_asan or child.has_tsan then return pending "sanitizers take more" end
    local n = math.min(2000, descriptors() - 200)
    serve("--procs", "1")
    local control = child.client(server.addr)
    local function memory()
      for line in io.lines("/proc/" .. server.pid .. "/status") do
        local kb = line:match "^VmRSS:%s+(%d+)"
        if kb then return tonumber(kb) * 1024 end
      end
    end
    local before_gs = control:get("/stats"):json().lua_gs
    local before = memory()
    local conns = {}
    all(n, function(i) conns[i] = send(GET:format "/sleepers") end)
    child.eventually(function() return control:get("/stats"):json().lua_gs >= before_gs + n end, "all handlers")
    local each = (memory() - before) / n
    for _, conn in ipairs(conns) do
      conn:close()
    end
    assert.is_true(each < 4096, each .. " bytes each")
  end)

  it("heads and bodies of all sizes are kept while their handlers sleep", function()
    serve("--procs", "1")
    local function request(n_headers, size, body)
      local lines, expected = { "POST /echo HTTP/1.1", "Host: x" }, {}
      for i = 1, n_headers do
        local value = ("v"):rep(size) .. i
        lines[#lines + 1] = ("h%d: %s"):format(i, value)
        expected[i] = ("h%d=%s"):format(i, value)
      end
      lines[#lines + 1] = "Content-Length: " .. #body
      return table.concat(lines, "\r\n") .. "\r\n\r\n" .. body, expected
    end
    local function check(r, err, expected, body)
      assert(r, err)
      assert(r.status == 200, r.status)
      for _, field in ipairs(expected) do
        assert(r.body:lower():find(field, 1, true), field .. " in " .. r.body)
      end
      assert(r.body:sub(-#body - 1) == " " .. body)
    end
    local cases = {}
    for _, n in ipairs { 0, 1, 2, 3, 5, 12, 13, 14, 29, 30, 31, 98 } do
      for _, size in ipairs { 1, 8, 20, 100 } do
        for _, length in ipairs { 1, 100, 5000, 40000 } do
          cases[#cases + 1] = { n, size, ("b"):rep(length - 1) .. "e" }
        end
      end
    end
    all(8, function(k)
      local conn = dial()
      for i = k, #cases, 8 do
        local bytes, expected = request(unpack(cases[i]))
        local body, pieces = cases[i][3], i % 3
        -- Whole; in two pieces; two at once, so that the second one stands behind the first.
        if pieces == 0 then
          assert(conn:write(bytes))
        elseif pieces == 1 then
          local cut = i * 37 % (#bytes - 1) + 1
          assert(conn:write(bytes:sub(1, cut)))
          lp.sleep(0.002)
          assert(conn:write(bytes:sub(cut + 1)))
        else
          assert(conn:write(bytes .. bytes))
          local r, err = testing.read_reply(conn)
          check(r, err, expected, body)
        end
        local r, err = testing.read_reply(conn)
        check(r, err, expected, body)
      end
      conn:close()
    end)
  end)

  it("clients that vanish leave nothing behind", function()
    serve("--max-vms", "64") -- with a sanitizer /large holds a VM for more than 20 ms
    local control = child.client(server.addr)
    local function stats() return control:get("/stats"):json() end
    stats()
    local before = stats()
    local ways = {
      function() return dial() end,
      function() return send "GET / HT" end,
      function() return send(GET:format "/") end,
      function() return send(GET:format("/nap"):rep(5)) end, -- in a handler, with more requests behind
      function() return send(GET:format "/large") end, -- in a response that the kernel does not take at once
      function()
        local conn = send(GET:format "/stream")
        assert.matches("200", conn:read_line())
        return conn
      end,
      function() return send "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc" end,
      function() return send "POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab" end,
      function()
        local conn = send(GET:format "/stream")
        conn:close_write()
        return conn
      end,
    }
    for _ = 1, 3 do
      all(10 * #ways, function(i) ways[i % #ways + 1]():close() end)
    end
    child.eventually(function() return stats().fds <= before.fds end, "the end of the connections")
    assert.equal(before.fds, stats().fds)
    child.eventually(function() return stats().lua_gs <= before.lua_gs end, "the end of the handlers")
    assert.equal("hello", control:get("/").body)
    server:kill "TERM"
    assert.equal(0, server:wait())
    assert.is_nil(server:stderr():find(" error ", 1, true), server:stderr())
  end)

  it("a head that comes byte by byte is answered", function()
    serve("--header-timeout", "10")
    all(20, function(k)
      local conn = dial()
      for c in ("GET /n/" .. k .. " HTTP/1.1\r\nHost: x\r\nX-Slow: yes\r\n\r\n"):gmatch "." do
        assert(conn:write(c))
        lp.sleep(0.001)
      end
      assert(testing.read_reply(conn).body == tostring(k))
      conn:close()
    end)
  end)

  it("a head that is not whole in --header-timeout gets 408, however busily it comes", function()
    serve("--header-timeout", "0.3", "--idle-timeout", "60")
    local start = lp.now()
    all(20, function(k)
      local conn = send "GET / HTTP/1.1\r\nHost: x\r\n"
      local writer = lp.go(function()
        while k % 2 == 0 and conn:write "X: y\r\n" do
          lp.sleep(0.01)
        end
      end)
      local r, err, last = testing.read_reply(conn)
      assert(r, err)
      assert(r.status == 408 and last, r.status)
      conn:close()
      writer:join()
    end)
    local took = lp.now() - start
    assert.is_true(took >= 0.3 and took < 20, took .. " s")
    -- Also behind a request that was answered.
    local conn = send(GET:format "/" .. "GET /")
    assert.equal("hello", testing.read_reply(conn).body)
    assert.equal(408, testing.read_reply(conn).status)
    conn:close()
  end)

  it("a connection without a request is closed after --idle-timeout, a busy one is not", function()
    serve("--idle-timeout", "0.3", "--header-timeout", "60")
    local start = lp.now()
    all(20, function(k)
      local conn = dial()
      if k % 2 == 0 then
        assert(conn:write(GET:format "/"))
        assert(testing.read_reply(conn).body == "hello")
      end
      local bytes, err = conn:read()
      assert(not bytes and err == "eof", bytes or err)
      conn:close()
    end)
    local took = lp.now() - start
    assert.is_true(took >= 0.3 and took < 20, took .. " s")
    -- A handler that takes longer than that is no idle connection.
    local conn = send(GET:format "/sleep")
    assert.equal("slept", testing.read_reply(conn).body)
    conn:close()
  end)

  it("a body that stops coming ends the request after --idle-timeout", function()
    serve("--idle-timeout", "0.2")
    local conn = send "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"
    local r, err = testing.read_reply(conn)
    assert.equal(408, r and r.status, err)
    conn:close()
    conn = send(GET:format "/")
    assert.equal("hello", testing.read_reply(conn).body)
    conn:close()
  end)

  it("1,000 pipelined requests are answered in order", function()
    serve()
    for _, pause in ipairs { 0, 100 } do
      local conn = dial()
      local writer = lp.go(function()
        local batch = {}
        for i = 1, 1000 do
          batch[#batch + 1] = GET:format("/n/" .. i)
          if pause > 0 and i % pause == 0 then
            assert(conn:write(batch))
            batch = {}
            lp.sleep(0.001)
          end
        end
        return conn:write(batch)
      end)
      for i = 1, 1000 do
        local r, err = testing.read_reply(conn)
        assert(r and r.body == tostring(i), err or r.body)
      end
      assert.is_true(writer:join())
      conn:close()
    end
  end)
end)
