-- busted is as it is elsewhere: what `lunapark test` does with its options, against what plain busted does.
local exec = require "lunapark.exec"
local fs = require "lunapark.fs"
local testing = require "lunapark.testing"
local child = require "spec.support.child"

local SPEC = [[
describe("outer #slow", function()
  it("passes", function() assert.is_true(true) end)
  it("fails #bad", function() assert.equal(1, 2) end)
  it("raises #bad", function() error "inside" end)
  it("is pending", function() pending "later" end)
  pending("is too")
end)
describe("other #quick", function()
  it("passes, too", function() end)
end)
]]

-- Plain busted's arguments to luajit. Debian's script asks for another Lua, and may not find specs' own modules.
local PLAIN = { "-e", [[package.path = "./?.lua;./?/init.lua;" .. package.path]], "/usr/bin/busted" }

-- What differs from run to run, or names the runner.
local function normal(text)
  text = text:gsub("%d+%.%d+e?%-?%d* seconds?", "N seconds"):gsub("%([%d.]+ ms", "(N ms"):gsub("0x%x+", "0x")
  text = text:gsub("(%a)ime(%a*)='[^']*'", "%1ime%2=''")
  return (text:gsub("<(%a+) ([^<>]-)(/?)>", function(tag, attributes, close) -- in no particular order
    local list = {}
    for attribute in attributes:gmatch "[%w]+='[^']*'" do list[#list + 1] = attribute end
    table.sort(list)
    return ("<%s %s%s>"):format(tag, table.concat(list, " "), close)
  end))
end

describe("busted under lunapark test", function()
  after_each(child.clean)

  local function plain(...)
    local args = { binary = "luajit", unpack(PLAIN) }
    for i = 1, select("#", ...) do args[#args + 1] = (select(i, ...)) end
    return child.run(args)
  end

  -- Runs both with these arguments; they print the same and end with the same code, which is returned with the output.
  local function same(...)
    local code, out, err = child.run { "test", ... }
    local plain_code, plain_out = plain(...)
    assert.equal(normal(plain_out), normal(out), err)
    assert.equal(plain_code, code)
    return code, out
  end

  it("has its outputs", function()
    local path = child.script(SPEC)
    for _, output in ipairs { "TAP", "plainTerminal", "utfTerminal", "gtest" } do
      assert.equal(1, (same("-o", output, path)))
      assert.equal(1, (same("--output=" .. output, "--verbose", path)))
    end
    local _, out = same("-o", "TAP", path)
    assert.matches("\nok 1 %- outer #slow passes\n", "\n" .. out)
    assert.matches("\nnot ok 2 %- outer #slow fails #bad\n", "\n" .. out)
  end)

  it("writes JUnit's XML", function()
    local path = child.script(SPEC)
    local _, out = same("-o", "junit", path)
    assert.matches("<testsuite [^>]*tests='6'", out)
    assert.matches("errors='1'", out)
    assert.matches("failures='1'", out)
    assert.matches("skip='2'", out)
    local file = child.file()
    assert.equal(1, (child.run { "test", "-o", "junit", "-Xoutput", file, path }))
    assert.matches("<testcase [^>]*name='outer #slow fails #bad'", assert(fs.read(file)))
  end)

  it("writes JSON", function()
    -- Without a block `pending`, for which busted 2.1.1 writes nothing at all.
    local code, out = child.run { "test", "-o", "json", child.script((SPEC:gsub('\n  pending%b()', ""))) }
    assert.equal(1, code)
    local report = assert(require("lunapark.json").decode(out))
    assert.same({ 2, 1, 1, 1 }, { #report.successes, #report.failures, #report.errors, #report.pendings })
    assert.equal("outer #slow fails #bad", report.failures[1].name)
  end)

  it("takes an output handler of one's own", function()
    local handler = child.script [[
      return function(options)
        local busted = require "busted"
        local handler = require "busted.outputHandlers.base"()
        busted.subscribe({ "test", "end" }, function(element, _, status) io.write(element.name, ": ", status, "\n") end)
        handler:subscribe(options)
        return handler
      end
    ]]
    local _, out = child.run { "test", "-o", handler, child.script(SPEC) }
    assert.matches("passes: success\nfails #bad: failure\nraises #bad: error\nis pending: pending\n", out, 1, true)
  end)

  it("chooses by tags, names and patterns", function()
    local path = child.script(SPEC)
    for _, args in ipairs {
      { "--tags=quick" }, { "-t", "slow", "--exclude-tags", "bad" }, { "--exclude-tags=slow" }, { "--filter=passes" },
      { "--filter", "passes", "--filter-out", "too" }, { "--list" }, { "--tags=bad" }, { "--suppress-pending" },
      { "--no-keep-going" }, { "--sort" }, { "--lazy" }, { "--no-auto-insulate" }, { "--defer-print" },
    } do
      args[#args + 1] = path
      same("-o", "TAP", unpack(args))
    end
    assert.equal(0, (same("-o", "TAP", "--tags=quick", path)))
    assert.matches("^ok 1 %- other #quick passes, too\n1%.%.1\n$", select(2, same("-o", "TAP", "--tags=quick", path)))
    assert.equal("1..0\n", select(2, same("-o", "TAP", "--tags=nothing", path)))
  end)

  it("repeats and shuffles", function()
    local path = child.script [[for i = 1, 9 do it("test " .. i, function() end) end]]
    local _, out = same("-o", "TAP", "--repeat=3", path)
    local _, n = out:gsub("ok %d+ %- test 1\n", "")
    assert.equal(3, n)
    _, out = same("-o", "TAP", "--shuffle", "--seed=12345", path)
    local _, again = same("-o", "TAP", "--shuffle", "--seed=12345", path)
    assert.equal(out, again)
    local _, other = same("-o", "TAP", "--shuffle", "--seed=54321", path)
    assert.are_not.equal(out, other)
  end)

  it("reads .busted, and obeys helpers, -e and paths", function()
    local dir = os.tmpname()
    os.remove(dir)
    os.execute(("mkdir -p %s/tests %s/lib"):format(dir, dir))
    finally(function() os.execute("rm -r " .. dir) end)
    local function write(name, text) assert(fs.write(dir .. "/" .. name, text)) end
    write(".busted", [[return {
      default = { ROOT = { "tests" }, pattern = "_t%.lua$", output = "TAP", lpath = "./lib/?.lua", helper = "helper" },
      quick = { tags = "quick" },
    }]])
    write("helper.lua", [[HELPED = true]])
    write("lib/mine.lua", [[return "mine"]])
    write("tests/one_t.lua", [[
      it("finds", function() assert.equal("mine", require "mine") assert.is_true(HELPED) end)
      it("quick #quick", function() end)
      it("sees -e", function() assert.is_nil(SAID) end)
    ]])
    write("tests/other.lua", [[error "not loaded"]])
    local code, out = same("-C", dir)
    assert.equal("ok 1 - finds\nok 2 - quick #quick\nok 3 - sees -e\n1..3\n", out)
    assert.equal(0, code)
    out = select(2, same("-C", dir, "--run=quick"))
    assert.is_nil(out:find("finds", 1, true))
    code, out = same("-C", dir, "-e", "SAID = true")
    assert.equal(1, code)
    assert.matches("not ok 3 - sees -e", out, 1, true)
  end)

  it("has luassert's spies, stubs, mocks, snapshots, matchers and further assertions, also across waits", function()
    local path = child.script [[
      local wait = package.loaded["lunapark.core"] and require("lunapark").yield or function() end
      it("has them", function()
        local t = { f = function(x) return x end, g = { h = function() return 1 end } }
        local s = spy.on(t, "f")
        wait()
        assert.equal(5, t.f(5))
        assert.spy(s).was.called_with(match.is_number())
        local snapshot = assert:snapshot()
        stub(t, "f").returns(7)
        wait()
        assert.equal(7, t.f(5))
        snapshot:revert()
        local m = mock(t, true)
        wait()
        assert.is_nil(m.g.h())
        assert.stub(m.g.h).was.called(1)
        mock.revert(t)
        require("say"):set("assertion.even.positive", "Expected %s to be even")
        assert:register("assertion", "even", function(_, arguments) wait() return arguments[1] % 2 == 0 end,
          "assertion.even.positive")
        assert.even(2)
        assert.error_matches(function() wait() assert.even(3) end, "Expected %(number%) 3 to be even")
      end)
      insulate("in a block of its own", function() X = 1 it("is set", function() wait() assert.equal(1, X) end) end)
      it("is gone", function() assert.is_nil(X) end)
      expose("for all", function() it("sets", function() end) end)
      it("finally", function()
        local n = 0
        finally(function() wait() n = n + 1 end)
        wait()
      end)
    ]]
    assert.equal(0, (same("-o", "TAP", path)))
  end)

  it("ends with the code that its manual says", function()
    for _, args in ipairs {
      { child.script "it('x', function() end)" }, { child.script "it('x', function() error 'x' end)" },
      { child.script "this is no Lua" }, { "/nonexistent" }, { "--no-such-option" }, { "--version" },
      { child.script "error 'while it loads'" }, { child.script "describe('x', function() error 'x' end)" },
      { child.script "setup(function() error 'x' end) it('x', function() end)" }, { child.script "pending 'x'" },
      { "--helper=nonexistent", child.script "" }, { "-o", "nonexistent", child.script "" },
      { child.script "it('x', function() os.exit(7) end)" },
    } do
      local code = child.run { "test", unpack(args) }
      local expected = plain(unpack(args))
      assert.equal(expected, code, table.concat(args, " "))
    end
  end)
end)

-- ---- the suites of others ----------------------------------------------------------------------------------

local SUITES = os.getenv "LUNAPARK_SUITES" or "build/suites"

describe("of the specs of others, as many pass as under plain luajit:", function()
  testing.block_timeout(300)

  -- Counts and the names of those that fail.
  local function outcome(argv, dir)
    local r = assert(exec.run(argv, { cwd = dir, timeout = 110 }))
    local counts = r.stdout:match "\n(%d+ success%w* / %d+ failures? / %d+ errors? / %d+ pending)"
    assert(counts, r.stdout .. r.stderr)
    local failing = {}
    for line, name in r.stdout:gmatch "\n%u%l+ %-> ([^\n]+)\n([^\n]+)" do
      failing[#failing + 1] = line .. " " .. name
    end
    table.sort(failing)
    return counts .. "\n" .. table.concat(failing, "\n")
  end

  for _, name in ipairs { "lua-busted", "lua-penlight" } do
    it(name, function()
      local found
      for _, entry in ipairs(fs.list(SUITES) or {}) do
        local path = SUITES .. "/" .. entry
        if entry:sub(1, #name + 1) == name .. "-" and fs.stat(path .. "/spec") then found = path end
      end
      if not found then pending("host/build/suites.sh has not fetched it to " .. SUITES) end
      local binary = child.binary
      if binary:sub(1, 1) ~= "/" then binary = os.getenv "PWD" .. "/" .. binary end
      local ours = outcome({ binary, "test", "-o", "plainTerminal" }, found)
      local theirs = outcome({ "luajit", PLAIN[1], PLAIN[2], PLAIN[3], "-o", "plainTerminal" }, found)
      assert.equal(theirs, ours)
      assert.matches("^[1-9]%d+ success", ours)
    end)
  end
end)
