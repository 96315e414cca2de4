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

  it("says what is wrong with the app's options", function()
    for _, line in ipairs { "app.options = { max_boddy = 1 }", "app:set { max_boddy = 1 }" } do
      local text = APP:gsub("return app", line .. "\n%0")
      local code, _, err = files({ ["app.lua"] = text }):run { "check", "app.lua" }
      assert.equal(1, code)
      assert.matches("unknown option 'max_boddy': did you mean max_body%?", err)
    end
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

  it("names variables that count in each VM for itself", function()
    local p = files { ["app.lua"] = [[
local http = require "lunapark.http"
local M, n, k, shadowed, own = {}, 0, 0, 0, 0
n = n + 1
local function count(k)
  n = n + 1
  k = k + 1
  M.hits.all = M.hits.all + 1
  if n == n + 1 then n = 5 - n end
  for shadowed = 1, 2 do shadowed = shadowed + 1 end
  own = own - 1 -- of this VM: lunapark: ignore
  return function() while true do n = n -1 end end
end
do local inner = 1 inner = inner + 1 end
n = n + 1
return http.app():get("/", function(req) req.n = req.n + 1 M.x = M.y + 1 count(k) return { n = n + 1 } end)
]] }
    local code, out, err = p:run({ "check", "app.lua" }, nil, {
      PATH = "/nowhere", LUNAPARK_LUA = os.getenv "LUNAPARK_LUA", ASAN_OPTIONS = os.getenv "ASAN_OPTIONS",
    })
    local says = "app.lua:%d:%d: (per VM) %s counts in each VM for itself: use lunapark.shared to count for all\n"
    assert.same({ 0, says:format(5, 3, "n") .. says:format(7, 3, "M.hits.all") .. says:format(11, 35, "n"), "" },
      { code, out, err })
  end)

  describe("of what blocks", function()
    local FINDS = [[
local http = require "lunapark.http"
local lp, ffi = require "lunapark", nil
ffi = require("ffi")
local C, lib = require "ffi".C
ffi.cdef "int usleep(unsigned); int flock(int, int); int getpid(void); unsigned sleep(unsigned);"
local nap = C.usleep -- C.sleep(1)
local app = http.app()
app:get("/", function()
  nap(10) C.getpid()
  lp.offload(C.usleep, 10)
  os.exit(1)
  require("ffi").C
    .flock(1, 2)
  C.usleep(1) -- a timer of ours: lunapark: ignore
  return "os.exit()" .. [=[ C.sleep(1)
]=] .. app.os.exit()
end)
app.later = function() return require("socket.http"), require "lib.later", C.sleep end
return app
]]
    -- luacheck: push no max line length
    local SAYS = [[
app.lua:9:3: (blocks) ffi.C.usleep holds this VM with all its requests: use lunapark.sleep
app.lua:11:3: (exit) os.exit raises under serve: use lunapark.stop
app.lua:12:3: (blocks) ffi.C.flock holds this VM with all its requests: use lunapark.offload, which gives it a thread of its own
app.lua:18:31: (blocks) socket waits by itself and holds this VM: use lunapark.net
lib/later.lua:1:10: (blocks) ffi.C.read holds this VM with all its requests: use lunapark.net, or net.fd(fd) and a descriptor that does not block
]]
    -- luacheck: pop
    local later = [[
return { ffi.C.read(0, nil, 0) }
]]

    local function check(...)
      local p = files { ["app.lua"] = FINDS, ["lib/later.lua"] = later }
      return p:run({ "check", ... }, nil, {
        PATH = "/nowhere", LUNAPARK_LUA = os.getenv "LUNAPARK_LUA", ASAN_OPTIONS = os.getenv "ASAN_OPTIONS",
      })
    end

    it("names calls with their lines, and what to use", function()
      assert.same({ 0, SAYS, "" }, { check "app.lua" })
    end)

    it("follows what lp.cdef returns: calls of marked functions do not block", function()
      local p = files { ["app.lua"] = [==[
local lp = require "lunapark"
local cdef = lp.cdef
local c = lp.cdef [[
  /* blocks */ int flock(int fd, int operation);
  int usleep(unsigned us), getpid(void);
]]
local d = cdef("unsigned sleep(unsigned s); /* blocks */ int fsync(int fd);")
local nap, lock, other, text = c.usleep, c.flock, d, "int poll(void);"
local e = lp.cdef(text)
return function()
  c.flock(0, 8)
  lock(0, 8)
  nap(1)
  other.sleep(0) d.fsync(0)
  c.getpid()
  e.poll()
  c.usleep(2) -- lunapark: ignore
  c.flock.usleep()
  lp.offload(c.usleep, 1)
end
]==] }
      local code, out, err = p:run({ "check", "app.lua" }, nil, {
        PATH = "/nowhere", LUNAPARK_LUA = os.getenv "LUNAPARK_LUA", ASAN_OPTIONS = os.getenv "ASAN_OPTIONS",
      })
      local says = "app.lua:%d:3: (blocks) %s, declared without a mark /* blocks */, holds this VM with all its "
        .. "requests: mark it, or use lunapark.sleep\n"
      assert.same({ 0, says:format(13, "usleep") .. says:format(14, "sleep"), "" }, { code, out, err })
    end)

    it("fails with --strict", function()
      local code, out, err = check("--strict", "app.lua")
      assert.same({ 1, SAYS }, { code, out })
      assert.matches("^lunapark: .*luacheck is not installed", err)
    end)
  end)

  it_with_luacheck("fails with --strict for a call that blocks", function()
    local p = files { ["lib/later.lua"] = 'return { y = require("ffi").C.sleep(1) }' }
    local code, out, err = p:run { "check", "--strict", "app.lua" }
    assert.same({ 1, "lib/later.lua:1:14: (blocks) ffi.C.sleep holds this VM with all its requests: use "
      .. "lunapark.sleep\n" }, { code, out })
    assert.equal("lunapark: calls that block count as errors (--strict)\n", err)
    assert.equal(0, (p:run { "check", "app.lua" }))
  end)
end)
