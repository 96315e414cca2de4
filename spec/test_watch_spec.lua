-- `lunapark test --watch`, as child processes.

local project = require "spec.support.project"

local await = project.await
local WAITING = "waiting for changes; Ctrl-C ends\n"

describe("lunapark test --watch", function()
  after_each(project.clean)

  local p, started, at

  -- The next round: what it has written.
  local function round()
    local from = at
    at = await(started, WAITING, from)
    return started.out:sub(from, at - 1)
  end

  local function begin(files, args)
    p = project.new(files)
    started = p:start(args or { "test", "--watch", "-o", "TAP" })
    at = 1
    return round()
  end

  it("runs again what changed files reach", function()
    local out = begin {
      ["spec/a_spec.lua"] = "it('a is ' .. require('one').word, function() end)",
      ["spec/b_spec.lua"] = "it('b is ' .. dofile('two.lua'), function() end)",
      ["one.lua"] = "return { word = require 'deep.three' }", ["two.lua"] = "return 'two'",
      ["deep/three.lua"] = "return 3",
    }
    assert.matches("running 2 of 2 spec files: spec/a_spec.lua spec/b_spec.lua\n", out)
    assert.matches("ok 1 %- a is 3\n.*ok 2 %- b is two\n", out)

    p:write("deep/three.lua", "return 33")
    out = round()
    assert.matches("changed: deep/three.lua; running 1 of 2 spec files: spec/a_spec.lua\n", out)
    assert.matches("ok 1 %- a is 33\n", out)

    p:write("two.lua", "return 'two'") -- nothing but touched
    p:write("spec/b_spec.lua", "it('b is new', function() end)")
    out = round()
    assert.matches("changed: spec/b_spec.lua; running 1 of 2 spec files: spec/b_spec.lua\n", out)

    p:write("spec/c_spec.lua", "it('c has come', function() end)")
    assert.matches("running 1 of 3 spec files: spec/c_spec.lua\n.*ok 1 %- c has come", round())
  end)

  it("goes on after failures and files that do not load", function()
    local out = begin { ["spec/a_spec.lua"] = "it('a', function() assert.equal(1, require 'lib') end)" }
    assert.matches("not ok 1", out) -- there is no lib yet
    p:write("lib.lua", "return (")
    out = round()
    assert.matches("changed: lib.lua;", out)
    assert.matches("near '<eof>'", out)
    p:write("lib.lua", "return 1")
    assert.matches("\nok 1 %- a\n", round())
    p:write("spec/a_spec.lua", "it('a', function() os.exit(5) end)")
    assert.matches("its process ended with exit code 5", round())
    p:write("spec/a_spec.lua", "it('fine', function() end)")
    assert.matches("\nok 1 %- fine\n", round())
  end)

  it("works with filters, several jobs and folders", function()
    local out = begin({
      ["tests/a_spec.lua"] = "it('one', function() end) it('two', function() end)",
      ["tests/b_spec.lua"] = "it('one of b', function() end)",
    }, { "test", "--watch", "-o", "TAP", "--jobs", "2", "--filter", "one", "tests" })
    assert.matches("ok 1 %- one\nok 2 %- one of b\n1..2", out)
    p:write("tests/b_spec.lua", "it('one more', function() end) it('two', function() end)")
    out = round()
    assert.matches("ok 1 %- one more\n1..1", out)
    assert.not_matches("two", out)
  end)

  it("works from another folder, and heeds .busted when that changes", function()
    local out = begin({
      ["sub/tests/a_spec.lua"] = "it('a ' .. require 'lib', function() end) it('other', function() end)",
      ["sub/lib.lua"] = "return 1", ["sub/.busted"] = "return { default = { ROOT = { 'tests' }, output = 'TAP' } }",
    }, { "test", "--watch", "-C", "sub" })
    assert.matches("ok 1 %- a 1\nok 2 %- other\n", out)
    p:write("sub/lib.lua", "return 2")
    assert.matches("changed: sub/lib.lua; running 1 of 1 spec files: tests/a_spec.lua\nok 1 %- a 2\n", round())
    p:write("sub/.busted", "return { default = { ROOT = { 'tests' }, output = 'TAP', filter = 'other' } }")
    assert.matches("running 1 of 1 spec files: tests/a_spec.lua\nok 1 %- other\n1..1\n", round())
  end)

  it("ends by Ctrl-C, also while it runs", function()
    begin { ["spec/a_spec.lua"] = "it('a', function() end)" }
    started.process:kill "INT"
    assert.same({ code = 0 }, started.process:wait(30))
    p = project.new {
      ["spec/a_spec.lua"] = "it('a', function() io.open('began', 'w'):close() require('lunapark').sleep(60) end)",
    }
    started = p:start { "test", "--watch", "--block-timeout", "60" }
    require("spec.support.child").eventually(function() return p:read "began" end, "the beginning")
    started.process:kill "INT"
    assert.same({ code = 0 }, started.process:wait(30))
  end)
end)
