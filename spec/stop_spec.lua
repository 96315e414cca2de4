-- os.exit and lunapark.stop: a handler ends nobody else's request.

local lp = require "lunapark"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local helper = require "spec.helper"

local APP = [[
local lp = require "lunapark"
local app = require("lunapark.http").app()
local exit = os.exit
local seen = {}
app:get("/", function() return "hello" end)
app:get("/exit", function() os.exit(3) end)
app:get("/inside", function()
  return table.concat({ tostring(pcall(os.exit)), tostring(pcall(coroutine.wrap(function() exit(true) end))) }, " ")
end)
app:get("/seen", function() return table.concat(seen, "\n") end)
app:get("/slow", function(_, res)
  res:write "begun"
  res:flush()
  lp.sleep(0.2)
  res:write "done"
end)
app:get("/stop", function() lp.stop(7) lp.stop(8) return "stopping" end)
app:on_start(function()
  seen[1] = select(2, pcall(function() os.exit(3) end))
  lp.after(0, function() seen[2] = select(2, pcall(function() os.exit(3) end)) end)
end)
return app
]]

describe("os.exit in an app", function()
  after_each(child.clean)

  it("raises, and the server goes on", function()
    local path = child.script(APP)
    local c = child.serve { path, "--procs", "1" }
    local client = child.client(c.addr)
    assert.equal(500, client:get("/exit").status)
    local said = path:gsub("%p", "%%%0") .. ":6: os.exit: would end the server and all .-: use lunapark.stop%(%)"
    assert.matches(said, c:said "lunapark.stop()")
    assert.equal("false false", client:get("/inside").body)
    child.eventually(function() return client:get("/seen").body:find("\n", 1, true) end, "the timer")
    assert.matches("^%S+:19: os.exit: .-\n%S+:20: os.exit: ", client:get("/seen").body)
    assert.equal("hello", client:get("/").body)
    c:kill "TERM"
    assert.equal(0, c:wait())
  end)

  it("is an error with its place while the app loads", function()
    local code, _, err = child.run { child.script "\nos.exit(0)", "--listen", "127.0.0.1:0" }
    assert.equal(1, code)
    assert.matches("^lunapark: %S+:2: os.exit: would end the server", err)
  end)

  it("ends `check`", function()
    assert.equal(5, (child.run { "check", child.script "os.exit(5)" }))
  end)
end)

describe("lunapark.stop", function()
  after_each(child.clean)

  it("stops a server when what is in flight has been answered, with the code", function()
    local c = child.serve { child.script(APP), "--procs", "2" }
    local slow = child.dial(c.addr)
    slow:write "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"
    slow:read_until "begun"
    assert.equal("stopping", child.client(c.addr):get("/stop").body)
    assert.matches("done", slow:read_all())
    slow:close()
    assert.equal(7, c:wait())
    assert.equal(1, select(2, c:stderr():gsub("lunapark.stop: stopping", "%0")))
  end)

  it("called while the app loads stops the server as soon as it serves", function()
    local app = child.script "require('lunapark').stop(6) return function() end"
    local code, _, err = child.run { app, "--listen", "127.0.0.1:0" }
    assert.equal(6, code)
    assert.matches("listening on", err)
  end)

  it("ends a script, with what is buffered written", function()
    for text, code in pairs {
      ["io.write 'x' lp.stop()"] = 0, ["io.write 'x' lp.stop(4)"] = 4,
      ["lp.go(function() io.write 'x' lp.stop(255) end) lp.park()"] = 255,
    } do
      local rc, out = child.run { "run", child.script("local lp = require 'lunapark' " .. text) }
      assert.same({ code, "x" }, { rc, out })
    end
  end)

  it("names what is wrong", function()
    for _, code in ipairs { -1, 256, 1.5, 0 / 0, "0", true } do
      assert.matches("stop_spec.lua:%d+: stop: code must be a whole number from 0 to 255", helper.raised(function()
        lp.stop(code)
      end))
    end
    assert.matches("stop_spec.lua:%d+: stop: there is no server to stop under `lunapark test`", helper.raised(function()
      lp.stop()
    end))
  end)

  it("by SIGTERM is in order with idle connections, however short --drain-timeout is", function()
    local server = child.serve { child.script "return function() return 'x' end", "--drain-timeout", "0.3" }
    local conns = {}
    for i = 1, 5 do
      conns[i] = assert(child.client(server.addr):connect())
      conns[i]:write "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
      assert.equal("x", testing.read_reply(conns[i]).body)
    end
    server:kill "TERM"
    assert.equal(0, server:wait())
    assert.is_nil(server:stderr():find("unfinished", 1, true), server:stderr())
    for _, conn in ipairs(conns) do
      assert.same({ nil, "eof" }, { conn:read() })
      conn:close()
    end
  end)

  it("by SIGTERM leaves no client in the kernel's queue", function()
    local server = child.serve { child.script "return function() return 'x' end", "--procs", "1" }
    server:kill "STOP" -- clients wait in the queue with a request each when it goes on, with the signal
    local conns = {}
    for i = 1, 300 do -- more than are accepted at a stretch
      conns[i] = child.send(server.addr, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    end
    server:kill "TERM"
    server:kill "CONT"
    for _, conn in ipairs(conns) do
      local r, err = testing.read_reply(conn)
      assert.equal("x", assert(r, err).body)
      conn:close()
    end
    assert.equal(0, server:wait())
  end)
end)
