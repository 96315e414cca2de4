--- --state: generations over a restart, as git sees them. Tags.

local ffi = require "ffi"
local exec = require "lunapark.exec"
local lp = require "lunapark"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local helper = require "spec.helper"
local reload = require "spec.support.reload"

ffi.cdef "int prctl(int option, unsigned long arg, unsigned long, unsigned long, unsigned long);"
local SUBREAPER = 36

local APP = [[
local app = require("lunapark.http").app()
local part = require "part"
app:get("/", function() return %d + part .. "" end)
app:get("/late", function() return tostring(require "late") end)
%s
return app
]]

local function files(n, more)
  return {
    ["app.lua"] = APP:format(n * 10, more or ""), ["part.lua"] = "return " .. n, ["late.lua"] = "return " .. n,
    ["lib/a/b.lua"] = "return " .. n,
  }
end

local function shell(folder, command)
  local r = assert(exec.run({ "sh", "-ec", command }, {
    cwd = folder, env = { PATH = os.getenv "PATH", GIT_CONFIG_GLOBAL = "/dev/null", GIT_CONFIG_NOSYSTEM = "1" },
  }))
  return r.code, (r.stdout:gsub("\n$", "")), r.stderr
end

local function run(folder, command)
  local code, out, err = shell(folder, command)
  assert.equal(0, code, command .. ": " .. out .. err)
  return out
end

-- A server of the folder, whose generations are in folder/state, with a client of its admin API.
local function serve(folder, ...)
  local s = { folder = folder, state = folder .. "/state" }
  s.server = child.serve { folder .. "/app.lua", "--admin", "127.0.0.1:0", "--procs", "1", "--state", s.state, ... }
  s.client = child.client(s.server.addr)
  s.admin_addr = s.server:logged "admin on http://(%S+)\n"
  s.admin = child.client(s.admin_addr)
  s.admin.headers = { ["X-Lunapark"] = "1" }
  function s:generations() return self.admin:get("/generations"):json() end
  function s:post(target)
    local r = self.admin:post(target)
    return r.status, r:json()
  end
  function s:reload(set)
    for name, text in pairs(set) do reload.write(folder, name, text) end
    local status, answer = self:post "/reload"
    assert.equal(200, status, answer.error)
    return answer.generation.commit
  end
  function s:get(path) return self.client:get(path).body end
  function s:git(command) return run(self.state, "git --git-dir=. " .. command) end
  function s:stop()
    self.server:kill "TERM"
    assert.equal(0, self.server:wait())
  end
  return s
end

local function ids(list)
  local t = {}
  for i, g in ipairs(list) do t[i] = g.id end
  return t
end

testing.block_timeout(300)

describe("--state", function()
  after_each(reload.clean)

  it("is a repository in which git finds all that /generations tells", function()
    local set = files(1, 'app:watch(debug.getinfo(1, "S").source:match "^@(.*)/" .. "/templates")')
    set["templates/a.html"] = "one"
    local s = serve(reload.folder(set))
    s:get "/late"
    s:reload { ["part.lua"] = "return 2" }
    local status = s:post "/rollback?to=-1" -- to a set that has loaded more since
    assert.equal(200, status)
    s:reload { ["templates/a.html"] = "two", ["lib/a/b.lua"] = "return 5" }
    local list = s:generations()
    assert.equal(4, #list)
    for _, g in ipairs(list) do
      assert.equal("commit", s:git("cat-file -t " .. g.id))
      local text = s:git("cat-file -p " .. g.id)
      assert.equal(("tree %s\n%sauthor %s <%s@lunapark> %d +0000"):format(
        g.tree, g.parent and "parent " .. g.parent .. "\n" or "", g.who, g.who, g.time),
        text:match "^(.-)\ncommitter")
      local listed = "tr '\\0' '\\n' <generations/%s | grep -E '^(file|watched) ' | cut -d' ' -f4- | sort"
      assert.equal(s:git("ls-tree -r --name-only " .. g.id .. " | sort"), run(s.state, listed:format(g.id)))
      for id in s:git("rev-list --objects --no-walk " .. g.id):gmatch "%x+" do
        if #id == 40 then s:git("cat-file -e " .. id) end
      end
    end
    assert.equal(table.concat(ids(list), "\n"), s:git "rev-list main")
    assert.equal("two", s:git("show " .. list[1].id .. ":templates/a.html"))
    assert.equal("return 1", s:git("show " .. list[2].id .. ":part.lua"))
    s:git "fsck --strict"
    run(s.folder, "test $(stat -c %a state) = 700")
  end)

  it("keeps generations over a restart, and goes back to them when the files are gone", function()
    local folder = reload.folder(files(1))
    local s = serve(folder)
    s:reload(files(2))
    local before = s:generations()
    s:stop()
    for name, text in pairs(files(3)) do reload.write(folder, name, text) end
    s = serve(folder)
    assert.equal("33", s:get "/")
    local list = s:generations()
    assert.same({ before[1].id, before[2].id }, { list[2].id, list[3].id })
    assert.same({ before[1].id, "start", true, false, false }, {
      list[1].parent, list[1].who, list[1].serves, list[2].serves, list[3].serves,
    })
    for i = 1, 2 do
      assert.same({ before[i].tree, before[i].time, before[i].who, before[i].changes },
        { list[i + 1].tree, list[i + 1].time, list[i + 1].who, list[i + 1].changes })
    end
    run(folder, "rm -r *.lua lib")
    assert.equal(200, (s:post("/rollback?to=" .. before[2].id)))
    assert.same({ "11", "1" }, { s:get "/", s:get "/late" })
    assert.equal(200, (s:post "/rollback?to=-1"))
    assert.same({ "33", "3" }, { s:get "/", s:get "/late" })
    s:git "fsck --strict"
    s:stop()
    reload.write(folder, "app.lua", "return function() return 'new' end")
    s = serve(folder)
    assert.equal(200, (s:post "/rollback?to=-1"))
    assert.equal("33", s:get "/")
    assert.equal(7, #s:generations())
    s:git "fsck --strict"
  end)

  it("can be of an app in another folder", function()
    local s = serve(reload.folder(files(1)))
    local state = s.state
    s:stop()
    local other = serve(reload.folder(files(2)), "--state", state)
    assert.equal("22", other:get "/")
    assert.equal(200, (other:post "/rollback?to=-1"))
    assert.same({ "11", "1" }, { other:get "/", other:get "/late" })
    other:stop()
    local folder = reload.folder { ["main.lua"] = "return function() return 'main' end" }
    local main = child.serve { folder .. "/main.lua", "--admin", "127.0.0.1:0", "--state", state }
    local admin = child.client(main:logged "admin on http://(%S+)\n")
    local r = admin:post("/rollback?to=-1", { headers = { ["X-Lunapark"] = "1" } })
    assert.equal(500, r.status)
    assert.matches("did not load .*/main.lua", r:json().error)
  end)

  it("holds the last 20 generations and those with tags, and nothing else", function()
    local s = serve(reload.folder(files(1)))
    assert.equal(200, (s:post "/tag?name=first"))
    for n = 2, 24 do s:reload { ["part.lua"] = "return " .. n } end
    local list = s:generations()
    assert.equal(21, #list)
    assert.same({ "first" }, list[21].tags)
    run(s.state, "test $(ls generations | wc -l) = 21")
    s:git "fsck --strict"
    -- Of each a commit, a tree and part.lua, and app.lua; the other two have the bytes of the first part.lua.
    run(s.state, "test $(find objects -type f | wc -l) = 64")
    assert.equal(table.concat(ids(list), "\n", 1, 20), s:git "rev-list main")
    s:stop()
    s = serve(s.folder)
    assert.same(21, #s:generations())
    assert.equal(200, (s:post "/rollback?to=first"))
    assert.equal("11", s:get "/")
    assert.equal(200, s.admin:delete("/tag?name=first").status)
    s:reload { ["part.lua"] = "return 25" }
    assert.equal(20, #s:generations())
    run(s.state, "test $(ls generations | wc -l) = 20")
    s:git "fsck --strict"
  end)

  it("is not filled by a process that starts over and over", function()
    local folder = reload.folder(files(1))
    for _ = 1, 4 do serve(folder):stop() end
    local s = serve(folder)
    local list = s:generations()
    assert.equal(2, #list)
    assert.same({ "start", "start", list[2].id }, { list[1].who, list[2].who, list[1].parent })
    run(s.state, "test $(ls generations | wc -l) = 2")
    s:git "fsck --strict"
  end)

  it("survives the death of the process at any time", function()
    local folder = reload.folder(files(1))
    for round = 1, 8 do
      local s = serve(folder)
      s:git "fsck --strict"
      local goes_on = true
      local writer = lp.go(function()
        local n = 0
        while goes_on do
          n = n + 1
          for _, name in ipairs { "part.lua", "late.lua", "lib/a/b.lua" } do
            reload.write(folder, name, "return " .. round * 1000 + n)
          end
          if not pcall(s.admin.post, s.admin, "/reload") then break end
        end
        return true
      end)
      lp.sleep(0.05 * round)
      s.server:kill "KILL"
      s.server:wait()
      goes_on = false
      assert.is_true(writer:join())
    end
    local s = serve(folder)
    local list = s:generations()
    assert.equal(200, (s:post("/rollback?to=" .. list[math.min(#list, 5)].id)))
    s:git "fsck --strict"
    assert.is_nil(s.server:stderr():find("--state", 1, true))
  end)

  it("goes over to the new process of an upgrade", function()
    ffi.C.prctl(SUBREAPER, 1, 0, 0, 0)
    finally(function() ffi.C.prctl(SUBREAPER, 0, 0, 0, 0) end)
    local folder = reload.folder(files(1))
    local s = serve(folder)
    s:reload(files(2))
    s.server:kill "USR2"
    local pid = s.server:logged "SIGUSR2: process (%d+) serves, this one stops"
    local new = child.adopt(tonumber(pid), s.server)
    assert.equal(0, s.server:wait())
    local admin = child.client(s.admin_addr)
    admin.headers = { ["X-Lunapark"] = "1" }
    local list = admin:get("/generations"):json()
    assert.same({ 3, "start" }, { #list, list[1].who })
    assert.equal(200, admin:post("/rollback?to=-2").status)
    assert.equal("11", child.client(s.server.addr):get("/").body)
    s:git "fsck --strict"
    new:kill "TERM"
    assert.equal(0, new:wait())
  end)
end)

describe("--state that is not as it should be", function()
  after_each(reload.clean)

  -- What is in the folder, with contents.
  local function contents(folder)
    return run(folder, "find . -printf '%p %y %s\\n' | sort; find . -type f -exec sha1sum {} + | sort")
  end

  local function refused(folder, says)
    local before = contents(folder)
    local code, _, err = child.run { folder .. "/app.lua", "--listen", "127.0.0.1:0", "--state", folder .. "/state" }
    assert.equal(1, code)
    assert.matches("^lunapark: %-%-state: .*/state", err)
    assert.matches(says, err)
    assert.equal(before, contents(folder))
  end

  for what, case in pairs {
    ["a folder of somebody else's"] = { "mkdir state; echo mine >state/notes", "neither empty nor a state directory" },
    ["a repository"] = { "git init -q --bare state", "neither empty nor a state directory" },
    ["a file"] = { "echo mine >state", "Not a directory" },
    ["a folder of another version's"] = { "mkdir state; echo 'lunapark state 2' >state/lunapark", "another version" },
    ["a link that leads nowhere"] = { "ln -s /nowhere/at/all state", "No such file" },
  } do
    it("is refused: " .. what, function()
      local folder = reload.folder(files(1))
      run(folder, case[1])
      refused(folder, case[2])
    end)
  end

  it("is refused where it can't be made", function()
    local folder = reload.folder(files(1))
    local code, _, err = child.run { folder .. "/app.lua", "--listen", "127.0.0.1:0", "--state", folder .. "/no/state" }
    assert.equal(1, code)
    assert.matches("^lunapark: %-%-state: .*/no/state: No such file or directory\n$", err)
  end)

  it("can't be said by the app", function()
    local folder = reload.folder {
      ["app.lua"] = "local a = require('lunapark.http').app() a.options = { state = 'x' } return a",
    }
    local code, _, err = child.run { folder .. "/app.lua", "--listen", "127.0.0.1:0" }
    assert.equal(1, code)
    assert.matches("state: can't be set by the app", err)
  end)

  it("loses nothing that is whole when something is damaged", function()
    local folder = reload.folder(files(1))
    local s = serve(folder)
    for n = 2, 4 do s:reload(files(n)) end
    local list = s:generations()
    local blob = s:git("rev-parse " .. list[4].id .. ":part.lua")
    s:stop()
    run(s.state, ("f=objects/%s/%s; chmod 644 $f; echo x >$f"):format(blob:sub(1, 2), blob:sub(3)))
    run(s.state, ("head -c 100 generations/%s >x; cat x >generations/%s; rm x"):format(list[2].id, list[2].id))
    s = serve(folder)
    s.server:said(("--state: generation %s can not be read (it is damaged); it stays in"):format(list[2].id))
    assert.equal(4, #s:generations())
    local status, answer = s:post("/rollback?to=" .. list[4].id)
    assert.equal(500, status)
    assert.matches("object " .. blob .. ": is damaged", answer.error)
    assert.equal("44", s:get "/")
    assert.equal(200, (s:post("/rollback?to=" .. list[3].id)))
    assert.equal("22", s:get "/")
    for n = 5, 26 do s:reload { ["part.lua"] = "return " .. n } end
    run(s.state, "test $(ls generations | wc -l) = 28") -- none is removed beside one that can't be read
    run(s.state, "rm generations/" .. list[2].id)
    s:reload { ["part.lua"] = "return 27" }
    run(s.state, "test $(ls generations | wc -l) = 20")
    s:git "fsck --strict"
  end)

  it("that goes away is told in the log; the generations of the process are there", function()
    local folder = reload.folder(files(1))
    local s = serve(folder)
    run(folder, "mv state gone")
    s:reload(files(2))
    s.server:said "error generation 2 is not in --state: "
    assert.equal("22", s:get "/")
    run(folder, "mv gone state")
    s:reload(files(3))
    s:git "fsck --strict"
    run(s.state, "test $(ls generations | wc -l) = 3")
    assert.equal(200, (s:post "/rollback?to=-1"))
    assert.equal("22", s:get "/")
  end)
end)

describe("tags", function()
  after_each(reload.clean)

  it("name generations, until they are taken away", function()
    local s = serve(reload.folder(files(1)))
    local first = s:generations()[1].id
    s:reload(files(2))
    assert.same({ 200, { name = "v1.0", id = first } }, { s:post("/tag?name=v1.0&id=" .. first:sub(1, 12)) })
    local status, answer = s:post "/tag?name=good"
    assert.same({ 200, s:generations()[1].id }, { status, answer.id })
    assert.equal(200, (s:post "/tag?name=good"))
    assert.same({ "good" }, s:generations()[1].tags)
    assert.equal(first, s:git "rev-parse v1.0")
    for target, code in pairs {
      ["/tag"] = 400, ["/tag?name="] = 400, ["/tag?name=a/b"] = 400, ["/tag?name=.."] = 400, ["/tag?name=-1"] = 400,
      ["/tag?name=deadbeef"] = 400, ["/tag?name=x.lock"] = 400, ["/tag?name=" .. ("x"):rep(101)] = 400,
      ["/tag?name=a%00"] = 400, ["/tag?name=new&id=0000000"] = 404, ["/tag?name=v1.0"] = 409,
    } do
      status, answer = s:post(target)
      assert.equal(code, status, target)
      assert.is_string(answer.error)
    end
    assert.equal(200, (s:post "/rollback?to=v1.0"))
    assert.equal("11", s:get "/")
    assert.equal(404, s.admin:delete("/tag?name=new").status)
    assert.equal(200, s.admin:delete("/tag?name=v1.0").status)
    assert.equal(404, (s:post "/rollback?to=v1.0"))
    assert.equal("good", s:git "tag")
    s.admin.headers = {}
    assert.equal(403, s.admin:delete("/tag?name=good").status)
    s:stop()
    s = serve(s.folder)
    assert.equal(404, (s:post "/rollback?to=v1.0"))
    assert.equal(200, (s:post "/rollback?to=good"))
    assert.equal("22", s:get "/")
  end)

  it("are given by `lunapark tag` too", function()
    local s = serve(reload.folder(files(1)), "--admin-token", "secret.token")
    s.admin.headers.Authorization = "Bearer secret.token"
    local first = s:generations()[1].id
    local function tag(...)
      local args = { "tag", ... }
      args.env = { LUNAPARK_ADMIN = s.admin_addr, LUNAPARK_ADMIN_TOKEN = "secret.token" }
      return child.run(args)
    end
    assert.same({ 0, first .. "\n", "" }, { tag "good" })
    assert.same({ 0, first .. "\n", "" }, { tag("better", first) })
    assert.same({ "good", "better" }, s:generations()[1].tags)
    assert.same({ 0, first .. "\n", "" }, { tag("--delete", "better") })
    assert.same({ "good" }, s:generations()[1].tags)
    local code, _, err = tag("--delete", "better")
    assert.same({ 1, "lunapark: tag: better: no such tag\n" }, { code, err })
    code, _, err = tag("x", "--admin-token", "other")
    assert.equal(1, code)
    assert.matches("^lunapark: tag: the admin API wants Authorization", err)
    code, _, err = child.run { "tag", "x", env = { LUNAPARK_ADMIN = false } }
    assert.equal(1, code)
    assert.matches("which server", err)
    code, _, err = child.run { "tag", "x", "--admin", "127.0.0.1:1" }
    assert.same({ 1, "lunapark: tag: 127.0.0.1:1: connection refused\n" }, { code, err })
    for _, args in ipairs { { "tag" }, { "tag", "a", "b", "c" } } do assert.equal(64, (child.run(args))) end
    assert.equal(0, helper.count(s.server:stderr(), "error"))
  end)
end)
