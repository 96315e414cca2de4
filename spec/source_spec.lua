--- loadfile, dofile and require: as LuaJIT has them. Each case runs in plain LuaJIT and in Lunapark, and both must
--- print the same. What a generation's VMs load is in host/test/test_source.c.

local exec = require "lunapark.exec"
local child = require "spec.support.child"
local helper = require "spec.helper"
local source = require "lunapark.std.source"

local dir -- of the files below

-- By name; what is true is a folder.
local FILES = {
  ["syntax.lua"] = "local x = 1\nx = = 2\n",
  ["shebang.lua"] = "#!/usr/bin/lua\nlocal i = debug.getinfo(1, 'Sl')\n" ..
    "return i.source, i.short_src, i.currentline, ...",
  ["only_shebang.lua"] = "#!/usr/bin/lua",
  ["empty.lua"] = "",
  ["bom.lua"] = "\239\187\191return 'bom'",
  ["values.lua"] = "return 1, nil, 3, nil",
  ["env.lua"] = "return y",
  ["raises.lua"] = "local x\nerror('boom')",
  ["raises_table.lua"] = "error { 5 }",
  ["nul.lua"] = "return 'a\0b'",
  ["bytecode.lua"] = string.dump(assert(loadstring("return 42", "@orig.lua"))),
  ["truncated.lua"] = string.dump(assert(loadstring("return 42"))):sub(1, 20),
  ["shebang_bytecode.lua"] = "#!x\n" .. string.dump(assert(loadstring("return 42"))),
  ["100%1.lua"] = "return 'percent'",
  ["folder.lua"] = true,
  ["sub"] = true,
  ["sub/init.lua"] = "return ...",
  ["sub/mod.lua"] = "return { name = ... }",
  ["5"] = "return 'five'",
}

local PRINT = [[
local function show(...)
  local t = {}
  for i = 1, select("#", ...) do
    local v = select(i, ...)
    t[i] = (tostring(v):gsub("^(%a+): 0x%x+", "%1"):gsub("\n\tno module [^\n]* in lunapark", ""))
  end
  print(#t, unpack(t))
end
local function try(fn, ...) show(pcall(fn, ...)) end
]]

local CASES = {
  ["loadfile"] = [[
    for _, name in ipairs { "shebang", "only_shebang", "empty", "bom", "values", "bytecode", "nul" } do
      show(assert(loadfile(name .. ".lua"))("arg", nil))
    end
    try(loadfile(5)) try(loadfile "raises.lua") try(loadfile "raises_table.lua")]],
  ["loadfile of what is no chunk"] = [[
    for _, name in ipairs { "none", "none/none", "syntax", "folder", "truncated", "shebang_bytecode" } do
      show(loadfile(name .. ".lua"))
    end
    show(loadfile "")]],
  ["loadfile with a mode"] = [[
    for _, mode in ipairs { "t", "b", "bt", "x", "", 5 } do
      show(loadfile("empty.lua", mode)) show(loadfile("bytecode.lua", mode))
    end]],
  ["loadfile with an environment"] = [[
    y = "global"
    show(loadfile("env.lua")()) show(loadfile("env.lua", nil, { y = 3 })()) show(loadfile("env.lua", "t", {})())
    try(function() return loadfile("env.lua", nil, nil)() end)
    try(function() return loadfile("env.lua", "t", 5)() end)]],
  ["misuse"] = [[
    for _, bad in ipairs { {}, print, true, io.stdout } do
      try(loadfile, bad) try(dofile, bad) try(loadfile, "empty.lua", bad)
    end]],
  ["dofile"] = [[
    show(dofile "values.lua") show(dofile "shebang.lua") show(dofile(5))
    for _, name in ipairs { "none.lua", "syntax.lua", "folder.lua", "raises.lua", "raises_table.lua" } do
      try(dofile, name)
    end]],
  ["require"] = [[
    package.path = "./?.lua;./?/init.lua"
    show(require "values") show(require "sub") show(require "sub.mod".name) show(require "sub.mod" == require "sub.mod")
    show(require "100%1") show(require "bytecode")
    for _, name in ipairs { "none", "none.sub", "syntax", "raises", "raises_table", "truncated", "", "a%1b" } do
      try(require, name)
    end]],
  ["require of a folder"] = [[package.path = "./?.lua;./?/init.lua" try(require, "folder")]],
  ["package.path"] = [[
    for _, path in ipairs { "", ";;", "?.lua", ";./sub/?.lua;;./?.lua;", "x?y?z", "empty.lua", "./%?.lua" } do
      package.path = path
      package.loaded.mod, package.loaded.bom = nil, nil
      show(path) try(require, "mod") try(require, "bom")
    end
    package.path = 5 try(require, "nothing")
    package.path = {} try(require, "nothing")
    package.path = nil try(require, "nothing")]],
  ["functions that are replaced"] = [[
    table.insert(package.loaders, 1, function(name) return name == "mine" and function() return "mine" end or nil end)
    show(require "mine")
    local file = package.searchpath("sub.mod", "./?.lua")
    show(file, loadfile(file)("x").name)]],
}

local function run(binary, name, stdin)
  local r = assert(exec.run(binary, { cwd = dir, stdin = stdin, timeout = 20 }))
  assert.equal(0, r.code, name .. ": " .. r.stderr)
  return r.stdout
end

local function both(name, text, stdin)
  local f = assert(io.open(dir .. "/case.lua", "w"))
  f:write(PRINT, text)
  f:close()
  local expected = run({ "luajit", "case.lua" }, name, stdin)
  assert.is_true(#expected > 0)
  local binary = child.binary:find "^/" and child.binary or exec.run({ "realpath", child.binary }).stdout:match "[^\n]+"
  assert.equal(expected, run({ binary, "run", "case.lua" }, name, stdin))
end

describe("source", function()
  setup(function()
    dir = exec.run({ "mktemp", "-d" }).stdout:match "[^\n]+"
    for name, text in pairs(FILES) do
      if text == true then assert(os.execute("mkdir -p '" .. dir .. "/" .. name .. "'") == 0) end
    end
    for name, text in pairs(FILES) do
      if text ~= true then
        local f = assert(io.open(dir .. "/" .. name, "wb"))
        f:write(text)
        f:close()
      end
    end
  end)
  teardown(function() exec.run { "rm", "-r", dir } end)

  for name, text in pairs(CASES) do
    it("is as LuaJIT: " .. name, function() both(name, text) end)
  end

  it("is as LuaJIT: stdin", function()
    both("loadfile()", "show(assert(loadfile())(1))", "return 'from stdin', debug.getinfo(1, 'S').source")
    both("dofile()", "show(dofile())", "#!x\nreturn 'from stdin'")
    both("dofile(nil)", "try(dofile, nil)", "x = = 1")
  end)

  it("lets a chunk wait while it loads", function()
    local f = assert(io.open(dir .. "/waits.lua", "w"))
    f:write("require('lunapark').sleep(0.001) return ... or 'done'")
    f:close()
    assert.equal("done", dofile(dir .. "/waits.lua"))
    assert.equal("x", loadfile(dir .. "/waits.lua")("x"))
    local path = package.path
    package.path = dir .. "/?.lua"
    local ok, name = pcall(require, "waits")
    package.path, package.loaded.waits = path, nil
    assert.same({ true, "waits" }, { ok, name })
  end)

  it("is installed once, whoever asks", function()
    local load_file, searcher = loadfile, package.loaders[3]
    source.install()
    package.loaded["lunapark.std.source"] = nil
    require("lunapark.std.source").install()
    package.loaded["lunapark.std.source"] = source
    assert.equal(load_file, loadfile)
    assert.equal(searcher, package.loaders[3])
  end)

  it("watches nothing where nothing is served", function()
    assert.is_true(source.watch(dir))
    assert.is_true(source.watch "/no/such/file")
    assert.matches("watch: path must be a string, got nil", helper.raised(source.watch))
  end)
end)
