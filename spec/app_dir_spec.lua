--- `app.dir`: where the relative paths of an app start.

local fs = require "lunapark.fs"
local http = require "lunapark.http"
local testing = require "lunapark.testing"
local project = require "spec.support.project"
local reload = require "spec.support.reload"

describe("app.dir", function()
  after_each(reload.clean)
  after_each(project.clean)

  it("is the folder of the file that made the app, where relative paths of static and send_file start", function()
    local s = reload.serve({
      ["app.lua"] = [[
        local http = require "lunapark.http"
        local app = http.app()
        app:get("/dir", function() return app.dir end)
        app:get("/file", function(_, res) return res:send_file "data/f.txt" end)
        app:get("/below/*rest", function(req, res) return res:send_file(req.params.rest, { below = "data" }) end)
        app:get("/absolute", function(_, res) return res:send_file(app.dir .. "/data/f.txt") end)
        app:static("/static", "data")
        return app:mount("/inner", require "inner.app")
      ]],
      ["inner/app.lua"] = [[
        local app = require("lunapark.http").app()
        app:static("/static", "files"):get("/file", function(_, res) return res:send_file "files/f.txt" end)
        return app
      ]],
      ["data/f.txt"] = "outer", ["inner/files/f.txt"] = "inner",
    })
    assert.equal(s.folder, s.client:get("/dir").body)
    for path, text in pairs {
      ["/file"] = "outer", ["/below/f.txt"] = "outer", ["/absolute"] = "outer", ["/static/f.txt"] = "outer",
      ["/inner/static/f.txt"] = "inner", ["/inner/file"] = "inner",
    } do
      assert.same({ path, text }, { path, s.client:get(path).body })
    end
    local path = s.folder .. "/bare.lua"
    assert(fs.write(path, "return function(_, res) return res:send_file 'data/f.txt' end"))
    assert.equal("outer", testing.serve(path):get("/").body)
    assert.matches("spec$", http.app().dir)
  end)

  it("is absolute, so that a path that begins with it is one file for static and for fs", function()
    local p = project.new {
      ["in/app.lua"] = [[
        local http, fs = require "lunapark.http", require "lunapark.fs"
        local app = http.app()
        assert(fs.write(app.dir .. "/f.txt", "x"))
        return app:static("/files", app.dir)
      ]],
      ["run.lua"] = "for _, path in ipairs(arg) do print(dofile(path).dir) end",
    }
    local code, out = p:run { "run", "run.lua", "in/app.lua", "./in/app.lua", p.dir .. "/in/app.lua" }
    assert.same({ 0, (p.dir .. "/in\n"):rep(3) }, { code, out })
    assert.equal("x", p:read "in/f.txt")
    p:write("app.lua", p:read "in/app.lua")
    assert.matches("GET +/files/%* +files of " .. p.dir:gsub("%p", "%%%0") .. "\n", select(2, p:run {
      "routes", "app.lua",
    }))
  end)
end)
