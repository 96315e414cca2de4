-- What the binary exports: LuaJIT's functions, for C modules, and those of ours that lunapark.cdef declares, for the
-- FFI. The latter try and return, so a script may call them; the others are not found.

local exec = require "lunapark.exec"
local ffi = require "ffi"
local child = require "spec.support.child"
local helper = require "spec.helper"

local C = ffi.C
local raised = helper.raised

-- Functions of ours that lunapark.cdef declares.
local function declared()
  local n = ffi.new "int32_t[1]"
  local entries, set = C.host_abi_table(n), {}
  for i = 0, n[0] - 1 do
    if entries[i].address ~= nil then set[ffi.string(entries[i].name)] = true end
  end
  return set
end

-- Functions of the binary: only those that others find, or all that are not static.
local function functions_of(binary, option)
  local r = assert(exec.run({ "nm", option, "--defined-only", binary }, { timeout = 60 }))
  assert.equal(0, r.code, r.stderr)
  local list = {}
  for name in r.stdout:gmatch "%x+ [TWi] ([%w_]+)" do list[#list + 1] = name end
  return list
end

describe("the binary", function()
  after_each(child.clean)

  it("exports LuaJIT's functions, what lunapark.cdef declares, and nothing else", function()
    local ours, exported, others = declared(), {}, {}
    for _, name in ipairs(functions_of(child.binary, "-D")) do
      exported[name] = true
      local of_luajit = name:find "^lua_" or name:find "^luaL_" or name:find "^luaJIT_" or name:find "^luaopen_"
      -- Sanitizers see to themselves.
      if not of_luajit and not ours[name] and not name:find "^_" then others[#others + 1] = name end
    end
    assert.same({}, others)
    for name in pairs(ours) do assert.is_true(exported[name], name) end
    for _, name in ipairs { "lua_call", "lua_yieldk", "luaL_checklstring", "luaL_openlib", "luaopen_ffi" } do
      assert.equal(name ~= "lua_yieldk", exported[name] or false, name)
    end
    assert.is_nil(exported.luaopen_lunapark_core)
  end)

  it("has no other function for the FFI: not one that waits, or leaves the stack", function()
    local ours, n = declared(), 0
    for _, name in ipairs(functions_of(child.binary, "--extern-only")) do
      if (name:find "^rt_" or name:find "^host_" or name:find "^luag_") and not ours[name] then
        n = n + 1
        assert(pcall(ffi.cdef, ("void %s(void);"):format(name)), name)
        assert.matches("undefined symbol", raised(function() return C[name] end))
      end
    end
    assert.is_true(n > 100)
    for _, call in ipairs {
      "rt_yield()", "rt_sleep(1000)", "rt_park(nil, nil, 0)", "rt_leave_stack(0)", "rt_ready(nil)", "rt_share()",
      "rt_entersyscall()", "rt_throw 'broken'",
    } do
      local name = call:match "^[%w_]+"
      local code, out, err = child.run { "run", child.script(([[
        local ffi = require "ffi"
        ffi.cdef "int %s();"
        print(pcall(function() return ffi.C.%s end))
      ]]):format(name, call)) }
      assert.same({ 0, "" }, { code, err })
      assert.matches("^false\t.*undefined symbol: " .. name, out)
    end
  end)

  it("lives on when a script calls any of its functions", function()
    local code, out, err = child.run { "run", "spec/support/exported.lua" }
    assert.equal(0, code, out .. err)
    assert.matches("\nalive\n$", out)
    local called, missing = 0, {}
    for line in out:gmatch "[^\n]+" do
      local name, why = line:match "^([%w_]+):? ?(.*)$"
      if declared()[name] then
        called = called + 1
        if why == "no such object" then
          missing[#missing + 1] = name
        else
          assert.equal("", why, name)
        end
      end
    end
    assert.is_true(called > 150)
    -- A handler alone has a request.
    for _, name in ipairs(missing) do
      local has = name:find "^host_req_" or name:find "^host_respond" or name:find "^host_stream_"
      assert(has, name .. ": spec/support/exported.lua does not know how to make its object")
    end
  end)

  -- A library's call of its own function would come to ours: the linker exports what a library names, too.
  it("gives nothing of its own the name of a library's function", function()
    local theirs, n = {}, 0
    for library in assert(exec.run { "ldd", child.binary }).stdout:gmatch "(/%S+)" do
      -- libstdc++ stands in the binary; AddressSanitizer brings it as a library, too.
      if not library:find "/lib[a-z]+san" and not library:find("/libstdc++", 1, true) then
        for _, name in ipairs(functions_of(library, "-D")) do
          theirs[name], n = library, n + 1
        end
      end
    end
    assert.is_true(n > 1000)
    local r, both = assert(exec.run { "nm", "--extern-only", "--defined-only", child.binary }), {}
    for name in r.stdout:gmatch "%x+ [TDBR] ([%w_]+)" do both[name] = theirs[name] end
    assert.same({}, both)
  end)
end)
