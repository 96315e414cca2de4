-- The declarations that LuaJIT parses against what the C compiler made of the same text (host/base/abi.h).

local ffi = require "ffi"
local cdef = require "lunapark.cdef"
local child = require "spec.support.child"
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
        assert.truthy(cdef:find("rt_nanotime", 1, true))
        assert.truthy(cdef:find("host_req", 1, true))
        package.loaded["lunapark.cdef"] = nil
        assert.equal(cdef, require "lunapark.cdef")
    end)

    it("is declared in a script that has loaded none of our modules", function()
        local script = child.script [[
            print(require("ffi").C.host_sock_listen ~= nil, package.loaded["lunapark"] == nil)
        ]]
        local code, out, err = child.run { "run", script }
        child.clean()
        assert.same({ 0, "true\ttrue\n", "" }, { code, out, err })
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
