--- The history of generations: commits as git has them, and what the admin API tells of them.

local exec = require "lunapark.exec"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local helper = require "spec.helper"
local reload = require "spec.support.reload"

local APP = [[
local app = require("lunapark.http").app()
local part = require "part"
app:get("/", function() return "%d " .. part end)
return app
]]

local function files(n)
  return { ["app.lua"] = APP:format(n), ["part.lua"] = "return " .. n }
end

-- A server of these files with an admin listener: `admin` is its client.
local function serve(set, ...)
  local s = reload.serve(set, "--admin", "127.0.0.1:0", "--procs", "1", ...)
  s.admin = child.client(s.server:logged "admin on http://(%S+)\n")
  s.admin.headers = { ["X-Lunapark"] = "1" }
  function s:generations()
    local r = self.admin:get "/generations"
    assert.equal(200, r.status, r.body)
    return r:json()
  end
  return s
end

local function post(s, target)
  local r = s.admin:post(target)
  return r.status, r:json()
end

-- What git says: the output of a command, in a repository of its own.
local function git(folder, command)
  local r = assert(exec.run({ "sh", "-ec", command }, {
    cwd = folder, env = { PATH = os.getenv "PATH", GIT_CONFIG_GLOBAL = "/dev/null", GIT_CONFIG_NOSYSTEM = "1" },
  }))
  assert.equal(0, r.code, r.stderr)
  return (r.stdout:gsub("\n$", ""))
end

-- The id that git gives to this commit.
local function commit_id(g)
  local who = ("%s <%s@lunapark> %d +0000"):format(g.who, g.who, g.time)
  local text = ("tree %s\n%sauthor %s\ncommitter %s\n\n%s"):format(
    g.tree, g.parent and "parent " .. g.parent .. "\n" or "", who, who, g.message and g.message .. "\n" or "")
  local path = child.file(text)
  return git("/tmp", "git hash-object --literally -t commit " .. path)
end

testing.block_timeout(300)

describe("GET /generations", function()
  after_each(reload.clean)

  it("tells of the generation that serves", function()
    local s = serve(files(1))
    local list = s:generations()
    assert.equal(1, #list)
    local g = list[1]
    assert.is_true(g.serves)
    assert.same({ "start", 1 }, { g.who, g.number })
    assert.is_nil(g.parent)
    assert.is_nil(g.message)
    assert.is_true(math.abs(os.time() - g.time) < 300)
    assert.same({ added = { "app.lua", "part.lua" }, changed = {}, removed = {} }, g.changes)
    local now = s.admin:get("/"):json().generation
    assert.same({ g.id, g.tree }, { now.commit, now.id })
  end)

  it("tells what each has changed, and by whom it came", function()
    local s = serve(files(1), "--watch")
    local first = s:generations()[1]
    s:write { ["part.lua"] = "return 2" }
    child.eventually(function() return #s:generations() == 2 end, "a reload by the watch")
    local status, answer = post(s, "/reload") -- of unchanged files: no generation
    assert.same({ 200, false }, { status, answer.changed })
    assert.equal(2, #s:generations())
    s:write { ["other.lua"] = "return 3", ["app.lua"] = APP:format(3):gsub("part", "other") }
    child.eventually(function() return #s:generations() == 3 end, "a reload by the watch")
    local list = s:generations()
    assert.same({ false, false, true }, { list[3].serves, list[2].serves, list[1].serves })
    assert.same({ "watch", "watch", "start" }, { list[1].who, list[2].who, list[3].who })
    assert.same({ added = {}, changed = { "part.lua" }, removed = {} }, list[2].changes)
    assert.same({ added = { "other.lua" }, changed = { "app.lua" }, removed = { "part.lua" } }, list[1].changes)
    assert.same({ first.id, list[2].id }, { list[2].parent, list[1].parent })
  end)

  it("has ids as git computes them", function()
    local s = serve(files(1))
    s:reload_to(2, files(2))
    s:write(files(3))
    local status, answer = post(s, "/reload?message=prices%0A%0Awith+%C3%A4")
    assert.equal(200, status)
    local list = s:generations()
    assert.equal("prices\n\nwith \195\164", list[1].message)
    assert.same({ "admin", "signal", "start" }, { list[1].who, list[2].who, list[3].who })
    assert.same({ list[1].id, list[1].tree }, { answer.generation.commit, answer.generation.id })
    for _, g in ipairs(list) do assert.equal(commit_id(g), g.id) end
    assert.equal(list[1].tree, git(s.folder, "git init -q && git add app.lua part.lua && git write-tree"))
  end)

  it("keeps the last 20", function()
    local s = serve(files(1))
    for n = 2, 23 do
      s:write(files(n))
      assert.equal(200, (post(s, "/reload")))
    end
    local list = s:generations()
    assert.equal(20, #list)
    assert.same({ 23, 4 }, { list[1].number, list[20].number })
    assert.equal(list[20].id, list[19].parent)
    assert.is_string(list[20].parent)
  end)

  it("does not tell of what did not load", function()
    local s = serve(files(1))
    s:write { ["part.lua"] = "return = 2" }
    assert.equal(500, (post(s, "/reload")))
    assert.equal(1, #s:generations())
  end)

  it("takes no message that git could not hold", function()
    local s = serve(files(1))
    for _, message in ipairs { ("x"):rep(4097), "a%00b" } do
      local status, answer = post(s, "/reload?message=" .. message)
      assert.equal(400, status)
      assert.matches("^message: ", answer.error)
    end
    assert.equal(0, helper.count(s:log(), " reload"))
  end)
end)
