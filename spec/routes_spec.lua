-- `lunapark routes`, as child processes.

local exec = require "lunapark.exec"
local json = require "lunapark.json"
local project = require "spec.support.project"

local APP = [[
local http = require "lunapark.http"
local api = require "lib.api"
local app = http.app()
local function log(_, _, next) return next() end
app:use(http.request_id())
app:use(log)
app:get("/", function() return "root" end)
app:post("/users/:id<int>", function() return 201 end)
app:get("/users/:id<int>", function()
  return "user"
end)
app:any("/ünü", function() return "any" end)
app:static("/assets", "public")
app:mount("/api", api)
app:method("QUERY", "/search", tostring)
app:tcp("127.0.0.1:0", function() end)
app:on_start(function() error "is not called" end)
return app
]]

local API = [[
local app = require("lunapark.http").app()
app:use(function(_, _, next) return next() end)
app:get("/", function() return {} end)
app:delete("/things/*rest", function() return 204 end)
return app
]]

local function files(more)
  local p = project.new { ["app.lua"] = APP, ["lib/api.lua"] = API }
  for name, text in pairs(more or {}) do p:write(name, text) end
  return p
end

describe("lunapark routes", function()
  after_each(project.clean)

  it("prints a table", function()
    local expected = [[
METHOD  PATH               HANDLER          MIDDLEWARE
GET     /                  app.lua:7        request_id, app.lua:4
GET     /api/              lib/api.lua:3    request_id, app.lua:4, lib/api.lua:2
DELETE  /api/things/*rest  lib/api.lua:4    request_id, app.lua:4, lib/api.lua:2
GET     /assets            files of public  request_id, app.lua:4
GET     /assets/*          files of public  request_id, app.lua:4
QUERY   /search            a C function     request_id, app.lua:4
POST    /users/:id<int>    app.lua:8        request_id, app.lua:4
GET     /users/:id<int>    app.lua:9        request_id, app.lua:4
ANY     /ünü               app.lua:12       request_id, app.lua:4
TCP     127.0.0.1:0        app.lua:16
]]
    assert.same({ 0, expected, "" }, { files():run { "routes", "app.lua" } })
    assert.same({ 0, expected, "" }, { files():run { "routes", "./app.lua" } })
  end)

  it("prints JSON", function()
    local code, out, err = files():run { "routes", "--json", "app.lua" }
    assert.same({ 0, "" }, { code, err })
    local list = assert(json.decode(out))
    assert.equal(10, #list)
    local around = { "request_id", "app.lua:4" }
    assert.same({ method = "GET", path = "/", file = "app.lua", line = 7, middleware = around }, list[1])
    assert.equal("public", list[4].folder)
    assert.same({ method = "QUERY", path = "/search", middleware = around }, list[6])
    assert.same({ method = "TCP", address = "127.0.0.1:0", file = "app.lua", line = 16, middleware = {} }, list[10])
    assert.matches('"middleware":%[%]', out)
  end)

  it("names hosts", function()
    local p = files {
      ["app.lua"] = [[
local http = require "lunapark.http"
local app = http.app()
app:use(function(_, _, next) return next() end)
app:host("api.example.com", require "lib.api")
app:get("/z", function() return "z" end)
return app
]],
    }
    assert.same({ 0, [[
METHOD  PATH                            HANDLER        MIDDLEWARE
GET     /z                              app.lua:5      app.lua:3
GET     //api.example.com/              lib/api.lua:3  app.lua:3, lib/api.lua:2
DELETE  //api.example.com/things/*rest  lib/api.lua:4  app.lua:3, lib/api.lua:2
]], "" }, { p:run { "routes", "app.lua" } })
    local _, out = p:run { "routes", "--json", "app.lua" }
    local list = json.decode(out)
    assert.same({ nil, "api.example.com", "/" }, { list[1].host, list[2].host, list[2].path })
  end)

  it("takes a function, and an app without routes", function()
    local p = files {
      ["app.lua"] = "\nreturn function() return 'x' end", ["none.lua"] = "return require('lunapark.http').app()",
    }
    assert.same({ 0, "METHOD  PATH  HANDLER    MIDDLEWARE\nANY     /*    app.lua:2\n", "" },
      { p:run { "routes", "app.lua" } })
    assert.same({ 0, "METHOD  PATH  HANDLER  MIDDLEWARE\n", "" }, { p:run { "routes", "none.lua" } })
    assert.same({ 0, "[]\n", "" }, { p:run { "routes", "none.lua", "--json" } })
  end)

  it("shows what no terminal and no JSON may have as paths of requests have it", function()
    local p = files { ["app.lua"] = [[
local app = require("lunapark.http").app()
app:get("/a\27[31m/\255b", function() return "x" end)
return app
]] }
    assert.same({
      0, "METHOD  PATH            HANDLER    MIDDLEWARE\nGET     /a%1B[31m/%FFb  app.lua:2\n", "",
    }, { p:run { "routes", "app.lua" } })
    local _, out = p:run { "routes", "--json", "app.lua" }
    assert.equal("/a%1B[31m/%FFb", json.decode(out)[1].path)
  end)

  it("fails when its output cannot be written", function()
    local p = files()
    local argv = { "sh", "-c", '"$0" routes app.lua > /dev/full', p.binary }
    local r = assert(exec.run(argv, { cwd = p.dir, timeout = 60 }))
    assert.equal(1, r.code)
    assert.matches("routes: No space left on device", r.stderr)
  end)

  it("says what is wrong with the app", function()
    local p = files { ["app.lua"] = "local app", ["broken.lua"] = "\nlocal = 5" }
    local code, out, err = p:run { "routes", "app.lua" }
    assert.same({ 1, "" }, { code, out })
    assert.matches("^lunapark: app%.lua: returned neither an app nor a function, but nil: did you forget", err)
    code, out, err = p:run { "routes", "broken.lua" }
    assert.same({ 1, "" }, { code, out })
    assert.matches("^lunapark: broken%.lua:2: ", err)
    assert.equal(1, (p:run { "routes", "missing.lua" }))
  end)
end)
