-- `lunapark check`, as child processes.

local project = require "spec.support.project"

local APP = [[
local http = require "lunapark.http"
local lib = require "lib.first"
local app = http.app()
app:get("/", function() return lib.x .. require("lib.later").y end)
return app
]]

local function files(more)
  local p = project.new {
    ["app.lua"] = APP, ["lib/first.lua"] = "return { x = 1 }", ["lib/later.lua"] = "return { y = 1 }",
  }
  for name, text in pairs(more or {}) do p:write(name, text) end
  return p
end

local has_luacheck = os.execute "command -v luacheck >/dev/null" == 0
local it_with_luacheck = has_luacheck and it or pending

describe("lunapark check", function()
  after_each(project.clean)

  it("says nothing of an app that is all right", function()
    assert.same({ 0, "", "" }, { files():run { "check", "app.lua" } })
    assert.same({ 0, "", "" }, { files():run { "check", "./app.lua" } })
  end)

  it("says what is wrong with a module that is required later", function()
    local code, out, err = files({ ["lib/later.lua"] = "\nreturn = 5" }):run { "check", "app.lua" }
    assert.same({ 1, "" }, { code, out })
    assert.matches("^lunapark: %./lib/later.lua:2: unexpected symbol near '='\n$", err)
  end)

  it("says what is wrong with one that is loaded", function()
    local code, _, err = files({ ["lib/first.lua"] = "error 'at load'" }):run { "check", "app.lua" }
    assert.equal(1, code)
    assert.matches("lib/first.lua:1: at load", err)
  end)

  it_with_luacheck("tells luacheck's warnings, which fail with --strict", function()
    local p = files { ["lib/later.lua"] = "local unused\nreturn { y = undefined }" }
    for _, path in ipairs { "app.lua", p.dir .. "/app.lua" } do
      local prefix = path:match "^(.*/)" or ""
      local expected = prefix .. "lib/later.lua:1:7: (W211) unused variable 'unused'\n" .. prefix
        .. "lib/later.lua:2:14: (W113) accessing undefined variable 'undefined'\n"
      assert.same({ 0, expected, "" }, { p:run { "check", path } })
      local code, out, err = p:run { "check", "--strict", path }
      assert.same({ 1, expected }, { code, out })
      assert.matches("^lunapark: luacheck finds warnings, which count as errors %(%-%-strict%)\n$", err)
    end
  end)

  it_with_luacheck("heeds .luacheckrc, and leaves files elsewhere", function()
    local p = files {
      [".luacheckrc"] = "ignore = { '211' }", ["app/app.lua"] = APP, ["lib/first.lua"] = "local z = 1 return { x = z }",
    }
    p:write("app/lib/later.lua", "local unused\nreturn { y = 1 }")
    assert.same({ 0, "", "" }, { p:run { "check", "app/app.lua" } })
  end)

  it("works without luacheck, unless its findings are asked for", function()
    local p = files()
    local env = {
      PATH = "/nowhere", LUNAPARK_LUA = os.getenv "LUNAPARK_LUA", ASAN_OPTIONS = os.getenv "ASAN_OPTIONS",
    }
    assert.same({ 0, "", "" }, { p:run({ "check", "app.lua" }, nil, env) })
    local code, _, err = p:run({ "check", "--strict", "app.lua" }, nil, env)
    assert.equal(1, code)
    assert.matches("luacheck is not installed", err)
  end)
end)
