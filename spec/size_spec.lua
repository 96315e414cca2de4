-- What `make lint-size` says.

local child = require "spec.support.child"
local exec = require "lunapark.exec"

describe("host/build/size.lua", function()
  after_each(child.clean)

  -- Its exit code and what it says of a file with this text, without the file's name.
  local function said(text, suffix)
    local path = child.file(text, suffix)
    local r = assert(exec.run({ "luajit", "host/build/size.lua", path }, { timeout = 60 }))
    return r.code, (r.stdout:gsub(path:gsub("%p", "%%%0"), ""))
  end

  local function lua_function(head, n) return head .. ("\n"):rep(n - 1) .. "end" end

  it("passes what is as long as it may be", function()
    assert.same({ 0, "" }, { said(("\n"):rep(600), ".lua") })
    assert.same({ 0, "" }, { said(lua_function("local function f()", 70), ".lua") })
    assert.same({ 0, "" }, { said("int f(void) {" .. ("\n"):rep(69) .. "}\n", ".c") })
  end)

  it("names files that are too long", function()
    assert.same({ 1, ":1: file of 601 lines, at most 600\n" }, { said(("\n"):rep(601), ".lua") })
    assert.same({ 1, ":1: file of 601 lines, at most 600\n" }, { said(("\n"):rep(601), ".h") })
  end)

  it("names functions of Lua that are too long, wherever they are, but for what describe gets", function()
    assert.same({ 1, ":1: function of 71 lines, at most 70\n" },
      { said(lua_function("local function f()", 71), ".lua") })
    local inner = lua_function("it('x', function()", 71) .. ")"
    assert.same({ 1, ":2: function of 71 lines, at most 70\n" },
      { said("describe('x', function()\n" .. inner .. "\nend)", ".lua") })
    assert.same({ 1, ":2: function of 71 lines, at most 70\n" },
      { said("return { f =\n" .. lua_function("function()", 71) .. "}", ".lua") })
  end)

  it("names functions of C that are too long, from their heads on", function()
    assert.same({ 1, ":3: function of 71 lines, at most 70\n" }, {
      said("#include <x.h>\n\nstatic int f(int a,\n             int b) {" .. ("\n"):rep(69) .. "}\n", ".c"),
    })
    local struct = "struct s {" .. ("    int a;\n"):rep(80) .. "};\n"
    local array = "static const int a[] = {\n" .. ("    1,\n"):rep(80) .. "};\n"
    assert.same({ 0, "" }, { said(struct .. array .. "int f(void) {\n    return 1;\n}\n", ".c") })
  end)
end)
