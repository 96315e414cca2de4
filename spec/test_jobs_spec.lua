-- `lunapark test --jobs N`, as child processes.

local json = require "lunapark.json"
local project = require "spec.support.project"
local helper = require "spec.helper"

local A = [[
describe("a", function()
  it("passes", function() print "said by a" end)
  it("fails", function() assert.equal(1, 2) end)
  pending("later")
end)
]]
local B = [[
local lp = require "lunapark"
it("b waits", function() lp.sleep(0.05) end)
it("b raises", function() error { code = 5 } end)
]]
local C = "it('c passes', function() end)"

-- What differs from run to run.
local function steady(out)
  return (out:gsub("[%d.]+ seconds", "N seconds"))
end

describe("lunapark test --jobs", function()
  after_each(project.clean)

  -- How often it says the word, which must be there.
  local function count(out, word)
    local n = helper.count(out, word)
    assert.is_true(n > 0, word .. " is not in " .. out)
    return n
  end

  it("says the same as one process", function()
    local p = project.new { ["spec/a_spec.lua"] = A, ["spec/b_spec.lua"] = B, ["spec/c_spec.lua"] = C }
    for _, output in ipairs { "TAP", "plainTerminal", "junit", "gtest" } do
      local code, out = p:run { "test", "-o", output }
      local many_code, many_out = p:run { "test", "-o", output, "--jobs", "3" }
      assert.same({ 1, 1 }, { code, many_code })
      if output == "junit" then
        -- The order of attributes is that of a table: compare how often each thing is there.
        for _, word in ipairs { "<testcase", "<failure>", "<error>", "<skipped/>", "tests='6'", "</testsuites>" } do
          assert.equal(count(out, word), count(many_out, word), word)
        end
      elseif output == "gtest" then
        for _, word in ipairs { "[       OK ]", "[  FAILED  ]", "a passes" } do
          assert.equal(count(out, word), count(many_out, word), word)
        end
      else
        local function sorted(text) -- print comes before a file's results, not between them
          local lines = {}
          for line in steady(text):gmatch "[^\n]+" do
            lines[#lines + 1] = line:gsub("^said by a", ""):gsub("^[+-.*]+$", "")
          end
          table.sort(lines)
          return lines
        end
        assert.same(sorted(out), sorted(many_out))
      end
    end
  end)

  it("gives one JSON document", function()
    local p = project.new { ["spec/b_spec.lua"] = B, ["spec/c_spec.lua"] = C }
    local code, out, err = p:run { "test", "-o", "json", "--jobs", "2" }
    assert.same({ 1, "" }, { code, err })
    local t = assert(json.decode(out))
    assert.same({ 2, 1, 0, 0 }, { #t.successes, #t.errors, #t.failures, #t.pendings })
    assert.equal("b raises", t.errors[1].name)
    assert.equal("spec/b_spec.lua", t.errors[1].trace.short_src)
  end)

  it("runs them at once, and keeps their order and output whole", function()
    local files = {}
    for i = 1, 4 do
      -- None ends before all have begun.
      files[("spec/%d_spec.lua"):format(i)] = ([[
        local lp = require "lunapark"
        it("file %d", function()
          print "begin %d"
          io.open("began%d", "w"):close()
          for n = 1, 4 do
            local file
            repeat
              file = io.open("began" .. n)
              lp.sleep(0.01)
            until file
            file:close()
          end
          print "end %d"
        end)]]):format(i, i, i, i)
    end
    local p = project.new(files)
    local code, out = p:run { "test", "-o", "TAP", "--jobs=4", "--block-timeout", "30" }
    local expected = ""
    for i = 1, 4 do expected = expected .. ("begin %d\nend %d\nok %d - file %d\n"):format(i, i, i, i) end
    assert.same({ 0, expected .. "1..4\n" }, { code, out })
  end)

  it("fails a file whose process ends badly after its last test", function()
    local at_end = "require 'busted'.subscribe({ 'exit' }, function() %s end) it('passes', function() end)"
    local p = project.new {
      ["spec/a_spec.lua"] = at_end:format "require('lunapark.core').exit(99)",
      ["spec/b_spec.lua"] = "local ffi = require 'ffi' ffi.cdef 'int raise(int)'\n" .. at_end:format "ffi.C.raise(9)",
      ["spec/c_spec.lua"] = C,
    }
    local code, out = p:run { "test", "-o", "TAP", "--jobs", "2" }
    assert.equal(1, code)
    assert.matches("spec/a_spec.lua: its process ended with exit code 99", out)
    assert.matches("spec/b_spec.lua: its process ended by signal KILL", out)
    assert.matches("ok %d %- c passes\n", out)
  end)

  it("fails a file whose process ends before its time", function()
    local p = project.new {
      ["spec/a_spec.lua"] = "it('leaves', function() os.exit(0) end)",
      ["spec/b_spec.lua"] = [[
        local ffi = require "ffi"
        ffi.cdef "int raise(int)"
        it('dies', function() ffi.C.raise(9) end)]],
      ["spec/c_spec.lua"] = C,
      ["spec/d_spec.lua"] = "os.exit(3)",
      ["spec/e_spec.lua"] = "this is no Lua",
    }
    local code, out = p:run { "test", "-o", "TAP", "--jobs", "2" }
    assert.equal(1, code)
    assert.matches("not ok 1 %- leaves\n", out)
    assert.matches("spec/a_spec.lua: its process ended with exit code 0", out)
    assert.matches("not ok 2 %- dies\n", out)
    assert.matches("spec/b_spec.lua: its process ended by signal KILL", out)
    assert.matches("\nok 3 %- c passes\n", out)
    assert.matches("spec/d_spec.lua: its process ended with exit code 3", out)
    assert.matches("spec/e_spec.lua:1:", out)
  end)

  it("heeds filters, tags, repeats, helpers, .busted and -C", function()
    local p = project.new {
      ["sub/tests/a_spec.lua"] = "it('one #x', function() assert(HELPED) end) it('two', function() error 'no' end)",
      ["sub/tests/b_spec.lua"] = "it('three #x', function() end)",
      ["sub/.busted"] = "return { default = { ROOT = { 'tests' }, helper = 'help.lua', output = 'TAP' } }",
      ["sub/help.lua"] = "HELPED = true",
    }
    local code, out = p:run { "test", "-C", "sub", "--tags=x", "--jobs", "2", "--repeat", "2" }
    assert.equal(0, code)
    assert.equal(("ok 1 - one #x\nok 2 - three #x\n1..2\n"):rep(2), out)
    code, out = p:run { "test", "-C", "sub", "--filter", "two", "--jobs", "2" }
    assert.equal(1, code)
    assert.matches("^not ok 1 %- two\n", out)
    assert.not_matches("three", out)
  end)

  it("shuffles as one process does with that seed", function()
    local files = {}
    for i = 1, 4 do
      files[("spec/%d_spec.lua"):format(i)] = ("for i = 1, 4 do it('%d ' .. i, function() end) end"):format(i)
    end
    local p = project.new(files)
    for _, seed in ipairs { "1", "77" } do
      local args = { "test", "-o", "TAP", "--shuffle", "--seed", seed }
      local code, out = p:run(args)
      args[#args + 1] = "--jobs=2"
      local many_code, many_out = p:run(args)
      assert.same({ 0, 0, out }, { code, many_code, many_out })
    end
  end)

  it("stops after a failure when told to", function()
    local p = project.new {
      ["spec/a_spec.lua"] = "it('bad', function() error 'no' end) it('skipped', function() end)",
      ["spec/b_spec.lua"] = C,
    }
    local code, out = p:run { "test", "-o", "TAP", "--no-keep-going", "--jobs", "2" }
    assert.equal(1, code)
    assert.not_matches("skipped", out)
    assert.not_matches("c passes", out)
  end)

  it("leaves what is no run, and what is wrong, to busted", function()
    local p = project.new { ["spec/c_spec.lua"] = C }
    local code, out = p:run { "test", "--jobs", "2", "--list" }
    assert.same({ 0, "c passes\n" }, { code, out })
    local err
    code, out, err = p:run { "test", "--jobs", "2", "--nonsense" }
    assert.equal("", out)
    assert.equal(1, code)
    assert.matches("unknown/bad flag: %-%-nonsense", err)
    code, out = p:run { "test", "--jobs", "2", "nowhere" }
    assert.equal(1, code)
    assert.matches("Cannot find file or directory: nowhere", out)
    code, out, err = p:run { "test", "--jobs", "0" }
    assert.same({ 64, "" }, { code, out })
    assert.matches("jobs: must be a whole number from 1 to", err)
  end)

  it("ends its processes when it is interrupted", function()
    local p = project.new {
      ["spec/a_spec.lua"] = [[
        it("hangs", function()
          local f = io.open("pid", "w")
          f:write(require("ffi").C.getpid())
          f:close()
          require("lunapark").sleep(60)
        end)]],
      ["spec/b_spec.lua"] = C,
    }
    p:write("help.lua", "require('ffi').cdef 'int getpid(void)'")
    local started = p:start { "test", "--jobs", "2", "--helper", "help.lua", "--block-timeout", "60" }
    local child = require "spec.support.child"
    child.eventually(function() return (p:read "pid" or "") ~= "" end, "a pid")
    started.process:kill "INT"
    assert.same({ code = 130 }, started.process:wait(30))
    child.eventually(function() return not io.open("/proc/" .. p:read "pid" .. "/exe") end, "the end of the child")
  end)

  it("passes on what spec files say on stderr", function()
    local p = project.new { ["spec/a_spec.lua"] = "it('a', function() io.stderr:write 'words of a' end)" }
    local _, _, err = p:run { "test", "--jobs", "2" }
    assert.matches("words of a", err)
  end)
end)
