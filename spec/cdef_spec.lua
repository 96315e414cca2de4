-- The declarations that LuaJIT parses against what the C compiler made of the same text (host/base/abi.h).

local ffi = require "ffi"
local early, cdef = require "lunapark.cdef.early", require "lunapark.cdef"
local fs = require "lunapark.fs"
local C = ffi.C

local KIND = { [0] = "struct", "field", "function", "constant" }

local function entries()
    local n = ffi.new "int32_t[1]"
    local table_ = C.host_abi_table(n)
    local list = {}
    for i = 0, n[0] - 1 do
        local e = table_[i]
        list[#list + 1] = {
            kind = KIND[e.kind],
            name = ffi.string(e.name),
            field = ffi.string(e.field),
            type = ffi.string(e.type),
            size = tonumber(e.size),
            offset = tonumber(e.offset),
            address = e.address,
        }
    end
    return list
end

-- The entries of one kind; fails when there is none, so that no comparison below is empty.
local function of_kind(kind)
    local list = {}
    for _, e in ipairs(entries()) do
        if e.kind == kind then list[#list + 1] = e end
    end
    assert.is_true(#list > 0)
    return list
end

describe("lunapark.cdef", function()
    it("returns the text it declared, and may be loaded again", function()
        assert.truthy(early:find("rt_nanotime", 1, true))
        assert.truthy(early:find("host_req", 1, true))
        assert.truthy(cdef:find("host_sock", 1, true))
        package.loaded["lunapark.cdef"], package.loaded["lunapark.cdef.early"] = nil, nil
        assert.equal(cdef, require "lunapark.cdef")
        assert.equal(early, require "lunapark.cdef.early")
    end)

    -- All is declared in the VM of a test, so a name that a server lacks would not be missed there.
    it("is loaded by each module that uses what lunapark.cdef.early lacks", function()
        local late, n = {}, 0
        for name in cdef:gmatch "[%a_][%w_]*" do
            local ours = name:lower():find "^host_" or name:lower():find "^rt_"
            if ours and not early:find("%f[%w_]" .. name .. "%f[^%w_]") then late[name] = true end
        end
        for path, kind in fs.walk "lua" do
            local code = kind == "file" and assert(fs.read(path)) or ""
            code = code:gsub("%-%-[^\n]*", "")
            local all = code:find('require "lunapark.cdef"', 1, true)
            n = n + (code:find("lunapark.cdef.early", 1, true) and 1 or 0)
            for name in code:gmatch "[%a_][%w_]*" do
                assert.is_true(all ~= nil or not late[name], ("%s uses %s"):format(path, name))
            end
        end
        assert.is_true(n > 10)
    end)

    it("agrees with C on the size of every struct", function()
        for _, e in ipairs(of_kind "struct") do
            assert.equal(e.size, ffi.sizeof(e.name), e.name)
        end
    end)

    it("agrees with C on offset and size of every field", function()
        for _, e in ipairs(of_kind "field") do
            local where = e.name .. "." .. e.field
            assert.equal(e.offset, ffi.offsetof(e.name, e.field), where)
            assert.equal(e.size, ffi.sizeof(e.type), where)
        end
    end)

    it("finds every function where C has it", function()
        for _, e in ipairs(of_kind "function") do
            local found, fn = pcall(function() return C[e.name] end)
            assert.is_true(found, e.name .. ": " .. tostring(fn))
            assert.equal(ffi.cast("intptr_t", e.address), ffi.cast("intptr_t", fn), e.name)
        end
    end)

    it("agrees with C on the value of every constant", function()
        for _, e in ipairs(entries()) do
            if e.kind == "constant" then assert.equal(e.offset, tonumber(C[e.name]), e.name) end
        end
    end)
end)
