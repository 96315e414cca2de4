--- POST /rollback: an earlier generation serves again, whatever the disk holds.

local lp = require "lunapark"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local reload = require "spec.support.reload"

local APP = [[
local lp = require "lunapark"
local app = require("lunapark.http").app()
local part = require "part"
app:get("/", function()
  if part ~= %d then error "a mixture" end
  return part .. " " .. lp.stats().vm
end)
app:get("/late", function() return tostring(require "late") end)
%s
return app
]]

local function files(n, more)
  return { ["app.lua"] = APP:format(n, more or ""), ["part.lua"] = "return " .. n, ["late.lua"] = "return " .. n }
end

-- A server of these files with an admin listener: `admin` is its client.
local function serve(set, ...)
  local s = reload.serve(set, "--admin", "127.0.0.1:0", ...)
  s.admin = child.client(s.server:logged "admin on http://(%S+)\n")
  s.admin.headers = { ["X-Lunapark"] = "1" }
  function s:generations() return self.admin:get("/generations"):json() end
  function s:post(target)
    local r = self.admin:post(target)
    return r.status, r:json()
  end
  function s:get(path) return self.client:get(path).body end
  return s
end

testing.block_timeout(300)

describe("POST /rollback", function()
  after_each(reload.clean)

  it("loses nothing under load, while the disk holds what does not load", function()
    local s = serve(files(1), "--procs", "2")
    s:reload_to(2, files(2))
    s:reload_to(3, files(3))
    local load = s:load(8)
    for i = 1, 10 do
      local line = s:reload { ["app.lua"] = "local x = 1\nx = = 2\n" }
      assert.matches("reload failed, generation", line)
      s.low = 2
      local status, answer = s:post "/rollback?to=-1"
      assert.same({ 200, true, 3 + i }, { status, answer.changed, answer.generation.number })
      local serves = i % 2 == 1 and 2 or 3 -- the one before the last rollback
      child.eventually(function() return s:get("/"):match "^%d+" == tostring(serves) end, "generation " .. serves)
    end
    assert.is_true(load:stop() > 0)
  end)

  it("is a generation like any other, with the tree of the earlier one", function()
    local s = serve(files(1), "--procs", "1")
    s:reload_to(2, files(2))
    local old = s:generations()
    local status, answer = s:post("/rollback?to=" .. old[2].id)
    assert.equal(200, status)
    local list = s:generations()
    local g = list[1]
    assert.equal(3, #list)
    assert.same({ old[2].tree, old[1].id, "admin", true, 3 }, { g.tree, g.parent, g.who, g.serves, g.number })
    assert.equal("rollback to " .. old[2].id, g.message)
    assert.same({ "app.lua", "part.lua" }, g.changes.changed)
    assert.same({ number = 3, id = g.tree, commit = g.id }, answer.generation)
    assert.matches("^1 ", s:get "/")
    assert.equal(200, (s:post("/rollback?to=-1&message=no,+forward")))
    assert.equal("no, forward", s:generations()[1].message)
    assert.matches("^2 ", s:get "/")
  end)

  it("loads what the generation was: also what is required later, also when the files are gone", function()
    local set = files(1)
    set["part.lua"], set["part/init.lua"] = nil, "return 1"
    local s = serve(set, "--procs", "1")
    s:reload_to(2, files(2)) -- part.lua stands before part/init.lua
    assert.equal("2", s:get "/late")
    s:write { ["late.lua"] = "return 3", ["new.lua"] = "return 3" }
    assert.equal(200, (s:post "/rollback?to=-1"))
    assert.same({ "1 ", "1" }, { s:get("/"):match "^%d+ ", s:get "/late" })
    assert.equal(200, (s:post "/rollback?to=-1"))
    for _, name in ipairs { "app.lua", "part.lua", "late.lua", "new.lua", "part/init.lua" } do
      s:write { [name] = false }
    end
    assert.equal(200, (s:post "/rollback?to=-1"))
    assert.same({ "1 ", "1" }, { s:get("/"):match "^%d+ ", s:get "/late" })
    assert.matches("reload failed, generation 5", s:reload())
    assert.equal("1", s:get "/late")
  end)

  it("is undone by the next reload, which takes what the disk holds", function()
    local s = serve(files(1), "--procs", "1")
    s:reload_to(2, files(2))
    assert.equal(200, (s:post "/rollback?to=-1"))
    assert.matches("^1 ", s:get "/")
    assert.matches("generation 4 .* serves", s:reload())
    assert.matches("^2 ", s:get "/")
    assert.same({}, s:generations()[1].changes.added)
    assert.equal(200, (s:post "/rollback?to=-1"))
    assert.matches("generation 5 .* has not changed", s:reload(files(1)))
  end)

  it("is not undone by --watch before a file changes", function()
    local function app(n, more) -- in one file: a save is one event
      return { ["app.lua"] = ('%s return function() return "%d" end'):format(more or "", n) }
    end
    local s = serve(app(1), "--procs", "1", "--watch")
    local n = 1
    local function generation(first, what)
      n = n + 1
      child.eventually(function() return #s:generations() == n end, what)
      assert.equal(first, s:get("/"):match "^%d+")
    end
    local function stays(first)
      lp.sleep(0.3)
      assert.equal(n, #s:generations())
      assert.equal(first, s:get("/"):match "^%d+")
    end
    s:write(app(2))
    generation("2", "a reload by the watch")
    assert.equal(200, (s:post "/rollback?to=-1"))
    generation("1", "the rollback")
    stays "1"
    s:write(app(2)) -- the same bytes
    stays "1"
    s:write(app(3))
    generation("3", "a reload by the watch")
    assert.equal("watch", s:generations()[1].who)
    s:write { ["broken.lua"] = "= 4" }
    s:write(app(4, "require 'broken'"))
    child.eventually(function() return s:log():find("reload failed", 1, true) end, "a reload by the watch")
    assert.equal(200, (s:post "/rollback?to=-1"))
    generation("1", "the rollback")
    s:write { ["broken.lua"] = "= 4" }
    stays "1"
    s:write { ["broken.lua"] = "return 4" } -- which the generation that serves has never loaded
    generation("4", "a reload by the watch")
  end)

  it("finds generations by the beginnings of ids, of trees, and by numbers", function()
    local s = serve(files(1), "--procs", "1")
    for n = 2, 4 do s:reload_to(n, files(n)) end
    local list = s:generations()
    local function tree_after(to)
      local status, answer = s:post("/rollback?to=" .. to)
      assert.equal(200, status, answer.error)
      return answer.generation.id, answer.changed
    end
    assert.same({ list[1].tree, false }, { tree_after(list[1].id) })
    assert.same({ list[1].tree, false }, { tree_after "-0" })
    assert.equal(list[3].tree, (tree_after(list[3].id:sub(1, 12))))
    assert.equal(list[4].tree, (tree_after(list[4].tree)))
    assert.equal(list[2].tree, (tree_after(list[2].tree:sub(1, 12))))
    assert.equal(list[3].tree, (tree_after "-2"))
    for to, status in pairs {
      [""] = 400, ["a%00"] = 400, ["-99"] = 404, ["-"] = 404, ["-1x"] = 404, ["+1"] = 404, [("0"):rep(40)] = 404,
      [list[1].id .. "0"] = 404, [list[1].id:sub(1, 3)] = 404, ["no-tag"] = 404, ["%27%3B"] = 404,
    } do
      local got, answer = s:post("/rollback?to=" .. to)
      assert.equal(status, got, to)
      assert.is_string(answer.error)
    end
    assert.equal(400, (s:post "/rollback"))
    assert.equal(8, #s:generations())
  end)

  it("changes nothing if the earlier generation does not load any more", function()
    local flag = child.file ""
    local s = serve(files(1, ("assert(io.open %q, 'the flag is gone')"):format(flag)), "--procs", "2")
    s:reload_to(2, files(2))
    os.remove(flag)
    local status, answer = s:post "/rollback?to=-1"
    assert.equal(500, status)
    assert.matches("app.lua:%d+: the flag is gone", answer.error)
    assert.equal(2, answer.generation.number)
    assert.matches("^2 ", s:get "/")
    child.eventually(function()
      return s:log():find "rollback to %x+ failed, generation 2 %(%x+%) goes on: "
    end, "the log")
    assert.equal(2, #s:generations())
  end)

  it("hands state over, and takes the options of the earlier generation", function()
    local more = [[
    local kept = 0
    app:hand_over(function() return kept end)
    app:take_over(function(v) kept = kept + v end) -- of a VM, and of a spare one
    app:get("/more", function() kept = kept + 1 return tostring(kept) end)
    app.options = { max_body = %d }
    app:post("/body", function(req) return tostring(#req:body()) end)
    ]]
    local s = serve(files(1, more:format(10)), "--procs", "1")
    s:get "/more"
    s:reload_to(2, files(2, more:format(1000)))
    assert.equal("2", s:get "/more")
    assert.equal(200, s.client:post("/body", { body = ("x"):rep(100) }).status)
    assert.equal(200, (s:post "/rollback?to=-1"))
    assert.equal("3", s:get "/more")
    assert.equal(413, s.client:post("/body", { body = ("x"):rep(100) }).status)
  end)
end)
