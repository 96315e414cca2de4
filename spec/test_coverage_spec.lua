-- `lunapark test --coverage`, as child processes; and which lines count.

local coverage = require "lunapark.testing.coverage"
local project = require "spec.support.project"

local LIB = [[
local lp = require "lunapark"
local lib = {}

function lib.sign(n)
  if n < 0 then
    return "minus"
  else
    return "plus"
  end
end

function lib.in_gs()
  local done = 0
  local g = lp.go(function()
    lp.sleep(0)
    done = done + 1
  end)
  g:join()
  coroutine.wrap(function()
    done = done + 1
  end)()
  return done
end

return lib
]]

local SPEC = [[
local lib = require "lib"
local testing = require "lunapark.testing"
it("covers", function()
  assert.equal("plus", lib.sign(1))
  for _ = 1, 200 do lib.sign(2) end
  assert.equal(2, lib.in_gs())
  assert.equal("served", testing.serve("app.lua"):get("/").body)
  assert(loadfile "never_run.lua")
  require "spec.help"
end)
]]

local function files()
  return project.new {
    ["lib.lua"] = LIB, ["spec/lib_spec.lua"] = SPEC, ["spec/help.lua"] = "return 1",
    ["app.lua"] = "return function()\n  return 'served'\nend\n", ["never_run.lua"] = "print(1)\nprint(2)\n",
  }
end

local function lines_of(text)
  local list = {}
  for line in pairs(coverage.lines(text)) do list[#list + 1] = line end
  table.sort(list)
  return list
end

describe("coverage", function()
  after_each(project.clean)

  it("knows which lines can be run", function()
    assert.same({ 1, 2, 4, 5, 7, 10, 11 }, lines_of [[
local a = 1
if a == 1 then
  -- a comment
  a = 2
  a = a + a
else
  a = 3
end
local function f() -- its end is none
  local _ = "a string"
  return a
end
]])
    assert.same({ 3 }, lines_of "local f = function()\n\n  return 1\nend\n")
    assert.same({ 2, 4 }, lines_of "local function f(x)\n  if x then return 1\n  else\n    return 2\n  end\nend\n")
    assert.same({}, lines_of "-- nothing\n")
    assert.is_nil(coverage.lines "no Lua at all")
  end)

  it("counts lines in Gs, coroutines and served apps, compiled or not", function()
    local p = files()
    local code, _, err = p:run { "test", "--coverage", "-o", "TAP" }
    assert.equal(0, code, err)
    assert.matches("\nCoverage +lines +missed +run\n", err)
    assert.matches("\nlib.lua +%d+ +1 +9%d.%d %%\n", err) -- "minus"
    assert.matches("\napp.lua +2 +0 +100.0 %%\n", err)
    assert.matches("\nnever_run.lua +2 +2 +0.0 %%\n", err)
    assert.matches("\ntotal ", err)
    assert.not_matches("spec/", err)
    assert.not_matches("/usr/", err)
    assert.not_matches("lunapark/", err)
    local page = p:read "build/coverage/lib.lua.html"
    assert.matches('<span class="line miss" id="6">.->0</span>    return &quot;minus&quot;</span>', page)
    assert.matches('<span class="line hit" id="8">.->201</span>    return &quot;plus&quot;</span>', page)
    local index = p:read "build/coverage/index.html"
    assert.matches('<a href="lib.lua.html">lib.lua</a>', index)
    assert.matches('<a href="never_run.lua.html">never_run.lua</a><td>2<td>2<td>0.0 %%', index)
  end)

  it("is added up over --jobs, goes where --coverage-dir says, and heeds .luacov", function()
    local p = files()
    p:write("spec/minus_spec.lua", "it('is', function() assert.equal('minus', require('lib').sign(-1)) end)")
    p:write(".luacov", "return { exclude = { 'never' } }")
    p:write("out/stale.lua.html", "old")
    p:write("out/mine.txt", "mine")
    local code, _, err = p:run { "test", "-c", "--jobs", "2", "--coverage-dir", "out" }
    assert.equal(0, code)
    assert.matches("\nlib.lua +%d+ +0 +100.0 %%\n", err)
    assert.not_matches("never_run", err)
    assert.equal(1, select(2, err:gsub("\ntotal ", "")))
    assert.is_truthy(p:read "out/lib.lua.html")
    assert.is_nil(p:read "out/stale.lua.html")
    assert.equal("mine", p:read "out/mine.txt")
    assert.is_nil(p:read "build/coverage/index.html")
  end)

  it("says where its pages can't be written", function()
    local p = files()
    p:write("file", "")
    local code, _, err = p:run { "test", "-c", "--coverage-dir", "file/x" }
    assert.equal(0, code)
    assert.matches("Coverage: cannot make file/x: ", err)
  end)

  it("counts how often a line ran, compiled too; not spec files, nor what .luacov leaves out", function()
    local p = project.new {
      ["lib.lua"] = "return function()\n  local n = 0\n  for i = 1, 10000 do\n    n = n + 1\n  end\n  return n\nend\n",
      ["other.lua"] = "return 1\n",
      ["tests/a_spec.lua"] = "it('a', function() require 'lib' () require 'other' end)\n",
    }
    p:run { "test", "--coverage", "tests" }
    assert.matches("10000", p:read "build/coverage/lib.lua.html" or "")
    local index = p:read "build/coverage/index.html"
    assert.is_truthy(index:find("other.lua", 1, true))
    assert.is_nil(index:find("a_spec", 1, true))
    p:write(".luacov", "return { include = { '^lib$' } }")
    p:run { "test", "--coverage", "tests" }
    assert.is_nil((p:read "build/coverage/index.html"):find("other.lua", 1, true))
  end)
end)
