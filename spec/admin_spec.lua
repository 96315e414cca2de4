-- The admin listener of `serve`: reloads by HTTP.

local fs = require "lunapark.fs"
local child = require "spec.support.child"

local APP = [[
local app = require("lunapark.http").app()
app:get("/", function() return "%s" end)
return app
]]

local function overwrite(path, text)
  local f = assert(io.open(path, "w"))
  f:write(text)
  f:close()
end

-- A server of an app that answers "one", its script, and a client of its admin listener.
local function serve(...)
  local path = child.script(APP:format "one")
  local c = child.serve { path, "--admin", "127.0.0.1:0", ... }
  child.eventually(function() return c:stderr():find "lunapark: admin on " end, "the admin listener")
  return c, path, child.client(c:stderr():match "admin on http://(%S+)\n")
end

local ID = "^" .. ("%x"):rep(40) .. "$"

describe("the admin listener", function()
  after_each(child.clean)

  it("says what runs", function()
    local _, _, admin = serve()
    local r = admin:get "/"
    assert.equal(200, r.status)
    local t = r:json()
    assert.equal(1, t.generation.number)
    assert.matches(ID, t.generation.id)
    assert.matches("^%d+%.%d+%.%d+$", t.version)
    assert.is_number(t.stats.vms)
  end)

  it("reloads, and answers with the new generation", function()
    local c, path, admin = serve()
    local id = admin:get("/"):json().generation.id
    overwrite(path, APP:format "two")
    local r = admin:post "/reload"
    assert.equal(200, r.status)
    local t = r:json()
    assert.is_true(t.changed)
    assert.equal(2, t.generation.number)
    assert.matches(ID, t.generation.id)
    assert.not_equal(id, t.generation.id)
    assert.equal("two", child.client(c.addr):get("/").body)
  end)

  it("says that nothing has changed", function()
    local _, _, admin = serve()
    local t = admin:post("/reload"):json()
    assert.is_false(t.changed)
    assert.equal(1, t.generation.number)
  end)

  it("answers with what is wrong, and the old generation goes on", function()
    local c, path, admin = serve()
    overwrite(path, "local x = 1\nlocal = 2\n")
    local r = admin:post "/reload"
    assert.equal(500, r.status)
    local t = r:json()
    assert.matches(":2: ", t.error)
    assert.equal(1, t.generation.number)
    assert.equal("one", child.client(c.addr):get("/").body)
    overwrite(path, APP:format "three")
    assert.equal(200, admin:post("/reload").status)
    assert.equal("three", child.client(c.addr):get("/").body)
  end)

  it("refuses what a page of another site sends", function()
    local _, _, admin = serve()
    assert.equal(403, admin:post("/reload", { headers = { Origin = "http://example.com" } }).status)
    assert.equal(403, admin:get("/", { headers = { ["Sec-Fetch-Site"] = "cross-site" } }).status)
    assert.equal(200, admin:get("/", { headers = { ["Sec-Fetch-Site"] = "none" } }).status)
    assert.equal(405, admin:get("/reload").status)
  end)

  it("ends with the server", function()
    local c, _, admin = serve()
    admin:get "/"
    c:kill "TERM"
    assert.equal(0, c:wait())
  end)

  it("can be a socket file for its owner alone", function()
    local socket = child.file()
    local path = child.script(APP:format "one")
    local c = child.serve { path, "--admin", "unix:" .. socket }
    child.eventually(function() return c:stderr():find "lunapark: admin on unix:" end, "the admin listener")
    assert.equal("600", ("%o"):format(fs.stat(socket).mode % 512))
  end)

  for what, case in pairs {
    ["no address"] = { addr = "here", code = 64, says = "%-%-admin: must be HOST:PORT" },
    ["an address that is not ours"] = { addr = "192.0.2.1:80", code = 1, says = "cannot listen on 192.0.2.1:80: " },
  } do
    it("says what is wrong with " .. what, function()
      local code, _, err = child.run { child.script(APP:format "one"), "--listen", "127.0.0.1:0", "--admin", case.addr }
      assert.equal(case.code, code)
      assert.matches(case.says, err)
    end)
  end
end)
