-- Loops that do not look at what their waits answer, when those fail: they end, and nobody else notices.

local lp = require "lunapark"
local chan = require "lunapark.shared".chan
local net = require "lunapark.net"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local helper = require "spec.helper"
local reload = require "spec.support.reload"

testing.block_timeout(300)

local TEXT = ": this G has waited 100 times since, at "

-- Runs loop() until it raises: how often it had run, and the message.
local function spin(loop)
  local n = 0
  local ok, err = pcall(function()
    while n < 10000 do
      loop()
      n = n + 1
    end
  end)
  return n, not ok and tostring(err) or "it goes on"
end

-- The same in a G of its own that was canceled.
local function spin_canceled(loop)
  local g = lp.go(function()
    lp.sleep(10)
    return spin(loop)
  end)
  lp.yield()
  g:cancel()
  return g:join()
end

describe("a loop over waits that fail", function()
  local ch, lock, job = lp.chan(), lp.mutex(), nil

  local kinds = {
    sleep = function() lp.sleep(0.1) end,
    yield = function() lp.yield() end,
    ["sleep(0)"] = function() lp.sleep(0) end,
    park = function() lp.park() end,
    recv = function() ch:recv() end,
    ["recv with a timeout"] = function() ch:recv(5) end,
    send = function() ch:send(1) end,
    select = function() lp.select { { ch, "recv" }, { ch, "send", 1 } } end,
    ["select of shared channels"] = function()
      lp.select { { chan "spin_spec", "recv" }, { ch, "recv" } }
    end,
    ["shared recv"] = function() chan "spin_spec":recv() end,
    lock = function() lock:lock() end,
    join = function() job:join() end,
    retired = function() lp.retired(10) end,
    ["two of them in turn"] = function()
      if select("#", lp.sleep(1)) == 2 then ch:recv() end
    end,
    ["with deadlines of their own"] = function() lp.deadline(1, lp.sleep, 2) end,
  }
  before_each(function()
    lock:lock()
    job = lp.go(lp.park)
  end)
  after_each(function()
    lock:unlock()
    lp.ready(job)
    job:join()
    chan("spin_spec"):close()
  end)

  for name, loop in pairs(kinds) do
    it("ends, canceled: " .. name, function()
      local n, err = spin_canceled(loop)
      assert.matches("^canceled" .. TEXT .. "spec/spin_spec.lua:%d+$", err)
      assert.is_true(n <= 100 and n >= 48, n)
    end)
    if name ~= "with deadlines of their own" then
      it("ends, past its deadline: " .. name, function()
        local n, err = lp.deadline(0.01, function()
          repeat until not lp.sleep(1)
          return spin(loop)
        end)
        assert.matches("^timeout" .. TEXT .. "spec/spin_spec.lua:%d+$", err)
        assert.is_true(n <= 100 and n >= 48, n)
      end)
    end
  end

  it("names the line that waits", function()
    local line = debug.getinfo(1, "l").currentline + 2
    local _, err = spin_canceled(function()
      lp.sleep(1)
    end)
    assert.equal("canceled" .. TEXT .. "spec/spin_spec.lua:" .. line, err)
  end)

  describe("at an object that fails without a wait:", function()
    local function ends(word, loop)
      local n, err = spin(loop)
      assert.matches("^" .. word .. TEXT .. "spec/spin_spec.lua:%d+$", err)
      assert.equal(100, n)
    end

    local function pair()
      local listener = assert(net.listen "127.0.0.1:0")
      local a = assert(net.dial(listener:addr()))
      local b = assert(listener:accept())
      return a, b, listener
    end

    it("connections", function()
      local a, b, listener = pair()
      b:close()
      ends("eof", function() a:read() end)
      ends("eof", function() a:read_line() end)
      a:close()
      ends("closed", function() a:read_line() end)
      ends("closed", function() a:write "x" end)
      ends("closed", function() a:write { ("x"):rep(20000) } end)
      listener:close()
      ends("closed", function() listener:accept() end)
    end)

    it("a connection whose deadline has passed", function()
      local a, b, listener = pair()
      a:set_deadline(0)
      ends("timeout", function() a:read() end)
      a:close()
      b:close()
      listener:close()
    end)

    it("datagrams", function()
      local u = assert(net.udp "127.0.0.1:0")
      u:close()
      ends("closed", function() u:recv() end)
      ends("closed", function() u:send("x", "127.0.0.1:9") end)
    end)

    it("channels", function()
      local c = lp.chan(1)
      c:close()
      ends("closed", function() c:recv() end)
      ends("closed", function() c:send(1) end)
      local s = chan "spin_spec closed"
      s:close()
      ends("closed", function() s:recv() end)
      ends("closed", function() s:send(1) end)
    end)

    it("but not at many, once each", function()
      local chans = {}
      for i = 1, 150 do
        chans[i] = lp.chan()
        chans[i]:close()
      end
      local i = 0
      assert.same({ 10000, "it goes on" }, { spin(function()
        i = i % 150 + 1
        chans[i]:recv()
      end) })
    end)

    it("but not when it waits in between", function()
      local c = lp.chan()
      c:close()
      local n = 0
      for _ = 1, 300 do
        n = n + (c:recv() == nil and 1 or 0)
        lp.sleep(0.0001)
      end
      assert.equal(300, n)
    end)
  end)

  describe("goes on", function()
    it("when its waits end at times of their own", function()
      for _ = 1, 300 do assert.same({ nil, "timeout" }, { ch:recv(0.0001) }) end
      for _ = 1, 300 do assert.is_true(lp.sleep(0.0001)) end
      for _ = 1, 300 do assert.same({ nil, "timeout" }, { lp.deadline(0.0001, ch.recv, ch) }) end
    end)

    it("when a wait has succeeded in between", function()
      local g = lp.go(function()
        lp.sleep(10)
        for _ = 1, 5 do
          for _ = 1, 90 do assert.same({ nil, "canceled" }, { lp.sleep(1) }) end
          lp.ready(lp.self(), "value")
          assert.equal("value", lp.park())
          lp.scope(function(s) s:go(lp.now) end)
        end
        return "done"
      end)
      lp.yield()
      g:cancel()
      assert.equal("done", g:join())
    end)

    it("when the deadline was left", function()
      for _ = 1, 5 do
        lp.deadline(0.001, function()
          repeat until not lp.sleep(1)
          for _ = 1, 90 do assert.same({ nil, "timeout" }, { lp.sleep(1) }) end
        end)
      end
      lp.deadline(0.001, function()
        repeat until not lp.sleep(1)
        for _ = 1, 99 do lp.sleep(1) end
      end)
      assert.is_true(lp.sleep(0.001))
    end)

    it("when the scope that was canceled was left", function()
      local function fails(s)
        s:go(error, "as told")
        repeat until not lp.sleep(1)
        for _ = 1, 90 do assert.same({ nil, "canceled" }, { lp.sleep(1) }) end
      end
      for _ = 1, 5 do assert.has_error(function() lp.scope(fails) end) end
      assert.is_true(lp.sleep(0.001))
    end)

    it("after the error, for its cleanups", function()
      local g = lp.go(function()
        lp.sleep(10)
        local _, err = spin(function() lp.sleep(1) end)
        for _ = 1, 90 do assert.same({ nil, "canceled" }, { lp.sleep(1) }) end
        return err
      end)
      lp.yield()
      g:cancel()
      assert.matches("^canceled: ", (g:join()))
    end)
  end)

  it("that catches the error is ended wherever it is", function()
    local tries = 0
    local g = lp.go(function()
      lp.sleep(10)
      while true do
        pcall(function()
          tries = tries + 1
          while true do lp.sleep(1) end
        end)
      end
    end)
    lp.yield()
    g:cancel()
    local _, err = g:join()
    assert.matches("ended: it went on with waits that fail", err)
    assert.is_true(tries <= 3, tries)
  end)

  it("leaves a mutex locked when a wait for a condition raises", function()
    local cond, m = lp.cond(), lp.mutex()
    local g = lp.go(function()
      lp.sleep(10)
      return m:with(function()
        local _, err = spin(function() cond:wait(m) end)
        return err, m:try_lock()
      end)
    end)
    lp.yield()
    g:cancel()
    local err, locked_now = g:join()
    assert.matches("^canceled" .. TEXT, err)
    assert.is_false(locked_now)
  end)
end)

-- ---- in a server -------------------------------------------------------------------------------------------

local APP = [[
local lp = require "lunapark"
local app = require("lunapark.http").app()
local VM = lp.stats().vm
local ended = require("lunapark.shared").dict "ended"
app:get("/sleep/:s", function(req) lp.sleep(tonumber(req.params.s)) return "slept in " .. VM end)
app:get("/vm", function() return tostring(VM) end)
app:get("/ended/:key", function(req) return tostring(ended:get(req.params.key)) end)
local function forever() while true do lp.sleep(0.01) end end
local function noted(name, fn, ...)
  local ok, err = pcall(fn, ...)
  ended:set(name, tostring(err))
  error(err, 0)
end
app:get("/loop/:id", function() forever() end)
app:get("/go/:id", function() lp.go(forever) return "started" end)
app:get("/events", function(_, res)
  noted("events", function()
    while true do
      res:write "data: tick\n\n"
      res:flush()
      lp.sleep(0.01)
    end
  end)
end)
app:get("/flood", function(_, res)
  noted("flood", function()
    while true do res:write(("x"):rep(100000)) end
  end)
end)
app:get("/lines", function(_, res)
  noted("lines", function()
    res:write "x"
    res:flush()
    lp.sleep(60)
    while true do res:write "x" end
  end)
end)
app:get("/until_retired", function(_, res)
  ended:set("other", true)
  while not lp.retired(0.01) do
    res:write "."
    res:flush()
  end
  res:write("bye from " .. VM)
end)
app:get("/pcall/:id", function()
  while true do pcall(lp.sleep, 0.01) end
end)
app:get("/ticker", function()
  lp.detach(function()
    while true do
      lp.sleep(0.01)
      lp.go(error, "a tick failed")
      io.stderr:write "tick\n"
    end
  end)
  return "ticks"
end)
return app
]]

describe("a handler that loops over waits that fail", function()
  local server, client

  local function serve(...)
    -- On a busy machine 20 ms, as usual, pass in any handler, and the one VM then is a stuck one.
    local env = { LUNAPARK_DEBUG = "retake=250" }
    server = child.serve { env = env, child.script(APP), "--procs", "1", "--max-vms", "1", ... }
    client = child.client(server.addr)
  end

  local function send(path)
    return child.send(server.addr, "GET " .. path .. " HTTP/1.1\r\nHost: x\r\n\r\n")
  end

  local function noted(key)
    return child.eventually(function()
      local text = client:get("/ended/" .. key).body
      return text ~= "nil" and text
    end, key)
  end

  after_each(child.clean)

  for _, path in ipairs { "loop", "go" } do
    it("ends past its deadline, and holds up nobody: " .. path, function()
      serve("--handler-timeout", "0.5", "--kill-after", "30")
      for i = 1, 4 do client:get(("/%s/%d"):format(path, i)) end
      local text = server:said("timeout" .. TEXT, 4)
      local place = "/[^\n]+%.lua:%d+"
      assert.matches(path == "loop"
        and "error GET /loop/%d %(GET /loop/:id%): after the client was answered 504: timeout" .. TEXT .. place
        or "error G [%d.]+, started at " .. place .. ", in GET /go/:id, " .. place .. ", ended with an error: timeout"
          .. TEXT .. place, text)
      assert.is_nil(text:find(" has held ", 1, true), text)
      assert.equal("slept in 0", client:get("/sleep/0.1").body)
    end)
  end

  it("ends when its client has left", function()
    serve("--handler-timeout", "100", "--kill-after", "0.1")
    local others = {}
    for i = 1, 5 do others[i] = send "/sleep/1" end
    for _, path in ipairs { "events", "flood", "lines" } do
      local conn = send("/" .. path)
      assert(conn:read(1))
      conn:close()
      assert.matches("^%w+" .. TEXT .. "/.*%.lua:%d+$", noted(path))
    end
    for i = 1, 5 do
      assert.equal("slept in 0", child.reply(others[i]).body)
      others[i]:close()
    end
    assert.equal("0", client:get("/vm").body)
    for _, path in ipairs { "events", "flood", "lines" } do
      server:logged(("%%a+ GET /%s %%(GET /%s%%): [^\n]*%s/"):format(path, path, TEXT))
    end
  end)

  it("and catches the errors: its VM is replaced, and answers the others", function()
    serve("--handler-timeout", "1", "--kill-after", "30")
    local other = send "/until_retired"
    child.eventually(function() return client:get("/ended/other").body == "true" end, "the other one")
    local conn = send "/pcall/1"
    assert.equal(504, child.reply(conn).status)
    conn:close()
    server:logged("error GET /pcall/1[^\n]* was ended, since it went on with waits that fail: VM 0 is replaced "
      .. "%(GET /pcall/:id, /[^\n]+%.lua:%d+%)\n")
    assert.matches("^%.+bye from 0$", child.reply(other).body)
    other:close()
    child.eventually(function() return client:get("/vm").body == "1" end, "VM 1")
  end)

  it("ends in a VM that retires, with a few lines in the log", function()
    local s = reload.serve({ ["app.lua"] = APP }, "--procs", "1")
    server, client = s.server, s.client
    client:get "/ticker"
    child.eventually(function() return server:stderr():find "tick\n" end, "a tick")
    s:reload_to(2, { ["app.lua"] = APP .. " " })
    child.eventually(function()
      local text = server:stderr()
      return text:find("canceled" .. TEXT, 1, true) and not text:find " goes? on after "
    end, "its end")
    assert.is_true(helper.count(server:stderr():match "generation 2 .*$", "tick\n") <= 101)
    reload.clean()
  end)
end)
