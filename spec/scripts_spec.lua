local lp = require "lunapark"
local helper = require "spec.helper"
local testing = require "lunapark.testing"
local child = require "spec.support.child"

describe("scripts/", function()
  local client

  local function serve(name)
    client = testing.serve("scripts/" .. name .. ".lua")
    return client
  end

  after_each(function()
    if client then client:close() end
    client = nil
    child.clean()
  end)

  for _, name in ipairs { "hello", "json", "sleep", "chat_log", "stuck" } do
    it(name .. " says in two lines what to try", function()
      local lines = {}
      for line in io.lines("scripts/" .. name .. ".lua") do
        lines[#lines + 1] = line
      end
      assert.matches("^%-%- .*curl ", lines[1])
      assert.matches("^%-%- .*curl ", lines[2])
      assert.equal("", lines[3])
    end)
  end

  it("wait_anywhere prints a line for each place, the same each time", function()
    local code, out, err = child.run { "run", "scripts/wait_anywhere.lua" }
    assert.same({ 0, "" }, { code, err })
    local lines = {}
    for line in out:gmatch "[^\n]+" do
      assert.matches("^.+ waited for .+ and has .+$", line)
      lines[#lines + 1] = line
    end
    assert.equal(24, #lines)
    assert.matches("and has 1 2 3$", lines[1])
    assert.same({ 0, out, "" }, { child.run { "run", "scripts/wait_anywhere.lua" } })
  end)

  it("torture finds nothing wrong, says so in a line, and what is wrong with its arguments", function()
    for seed = 1, 3 do
      local code, out, err = child.run { "run", "scripts/torture.lua", tostring(seed), "0.3" }
      assert.same({ 0, "" }, { code, err })
      assert.matches("^torture: seed " .. seed .. ", 0.3 s, 64 Gs.* all right\n$", out)
    end
    local code, _, err = child.run { "run", "scripts/torture.lua", "x" }
    assert.same({ 64, "usage: torture.lua [seed] [seconds]\n" }, { code, err })
  end)

  it("stuck answers where it is not stuck", function()
    serve "stuck"
    assert.equal("Hello, World!\n", client:get("/hello").body)
    assert.same({ blocked = 0.05 }, client:get("/block?s=0.05"):json())
    assert.same({ replaced = 0 }, client:get("/gsub?n=500"):json())
  end)

  it("hello greets", function()
    serve "hello"
    assert.equal("Hello, World!", client:get("/").body)
    assert.equal("Hello, ann", client:get("/hello/ann").body)
    assert.equal("Hello, bob", client:get("/hello?name=bob").body)
    assert.equal("Hello, stranger", client:get("/hello").body)
  end)

  it("json answers and adds", function()
    serve "json"
    assert.equal("lunapark", client:get("/about"):json().name)
    assert.same({ sum = 42 }, client:post("/sum", { body = '{"numbers": [1, 2, 39]}' }):json())
    for _, body in ipairs { "no", "[1]", "5", "null", '{"numbers": ["x"]}' } do
      local r = client:post("/sum", { body = body })
      assert.equal(400, r.status, body)
      assert.is_string(r:json().error)
    end
  end)

  it("sleep sleeps, many at once", function()
    serve "sleep"
    assert.same({ slept = 0.01 }, client:get("/sleep?s=0.01"):json())
    local start = lp.now()
    local many = client:get("/many?n=500&s=0.05"):json()
    assert.equal(500, many.sleepers)
    assert.is_true(many.took >= 0.05)
    assert.is_true(lp.now() - start < 20) -- not 25 s
  end)

  it("chat_log gives each listener the next message", function()
    serve "chat_log"
    local heard, gs, before = {}, {}, lp.stats().lua_gs
    -- Each is a G here and a handler that waits.
    local function until_listening(n)
      helper.eventually(function() return lp.stats().lua_gs == before + 2 * n end, n .. " listeners")
      lp.sleep(0.01)
    end
    for i = 1, 3 do
      gs[i] = lp.go(function() heard[i] = client:get("/next").body end)
    end
    until_listening(3)
    assert.same({}, heard)
    assert.equal(204, client:post("/say", { body = "hello, all" }).status)
    for _, g in ipairs(gs) do
      g:join()
    end
    assert.same({ "hello, all\n", "hello, all\n", "hello, all\n" }, heard)
    local later = lp.go(function() heard[4] = client:get("/next").body end)
    until_listening(1)
    assert.equal(202, client:post("/say?in=0.02", { body = "later" }).status)
    later:join()
    assert.equal("later\n", heard[4])
    assert.equal("hello, all\nlater\n", client:get("/log").body)
  end)

  it("chat_log shows what was said as text, whoever said it", function()
    serve "chat_log"
    assert.equal(204, client:post("/say", { body = "<script>alert(1)</script>" }).status)
    local r = client:get "/log"
    assert.same({ "<script>alert(1)</script>\n", "text/plain; charset=utf-8", "nosniff" },
      { r.body, r.headers["content-type"], r.headers["x-content-type-options"] })
  end)
end)
