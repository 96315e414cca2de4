-- Makes the FFI's declarations from C headers: what stands between /* ffi:begin */ and /* ffi:end */.
--
--     luajit cdef.lua OUT.lua OUT.c OUT.exports HEADER...
--
-- OUT.lua is the module lunapark.cdef: it declares them once and returns the text. OUT.c is the table
-- of host/base/abi.h: the same names with the sizes, offsets and addresses that the C compiler gives them. OUT.exports
-- is for the linker: what the FFI finds in the process, and C modules.
--
-- Nothing else is exported. Of the other functions many may be called only where C runs as a G: rt_sleep would leave
-- the stack of the Lua that calls it, from beneath LuaJIT. A script that declares one by hand gets "undefined symbol".
--
-- What this script does not understand is an error, never left out: else the comparison of the two
-- would have holes that nobody sees.

local ffi = require "ffi"

local out_lua, out_c, out_exports = arg[1], arg[2], arg[3]
local headers = { unpack(arg, 4) }

-- What C modules bind to (LuaJIT's lua.h, lauxlib.h, lualib.h, luajit.h); none of ours is named so.
local LUAJIT = {
    "lua_*", "luaL_*", "luaJIT_*", "luaopen_base", "luaopen_bit", "luaopen_debug", "luaopen_ffi", "luaopen_io",
    "luaopen_jit", "luaopen_math", "luaopen_os", "luaopen_package", "luaopen_string", "luaopen_string_buffer",
    "luaopen_table",
}

local function fail(where, fmt, ...)
    io.stderr:write(where, ": ", fmt:format(...), "\n")
    os.exit(1)
end

local function read(path)
    local f = assert(io.open(path, "rb"))
    local s = f:read "*a"
    f:close()
    return s
end

local function write(path, text)
    local f = assert(io.open(path, "wb"))
    f:write(text)
    f:close()
end

local function trim(s)
    return (s:gsub("%s+", " "):match "^%s*(.-)%s*$")
end

-- The marked part without comments; the line breaks stay, so that line numbers do.
local function marked(path)
    local text = read(path)
    local parts, from = {}, 1
    while true do
        local _, begin = text:find("/* ffi:begin */", from, true)
        if not begin then break end
        local stop, next_from = text:find("/* ffi:end */", begin, true)
        if not stop then fail(path, "ffi:begin without ffi:end") end
        local _, lines_before = text:sub(1, begin):gsub("\n", "")
        local part = text:sub(begin + 1, stop - 1)
            :gsub("/%*.-%*/", function(comment) return (comment:gsub("[^\n]", "")) end)
            :gsub("//[^\n]*", "")
        parts[#parts + 1] = { text = part, line = lines_before + 1 }
        from = next_from
    end
    if #parts == 0 then fail(path, "no /* ffi:begin */") end
    return parts
end

-- Calls f(declaration, line) for everything that ends with a semicolon outside braces.
local function each_declaration(part, f)
    local depth, start, line, start_line = 0, 1, part.line, nil
    for i = 1, #part.text do
        local ch = part.text:sub(i, i)
        if ch == "\n" then line = line + 1 end
        if not start_line and not ch:find "%s" then start_line = line end
        if ch == "{" then depth = depth + 1 end
        if ch == "}" then depth = depth - 1 end
        if ch == ";" and depth == 0 then
            f(trim(part.text:sub(start, i - 1)), start_line)
            start, start_line = i + 1, nil
        end
    end
    if start_line then fail(part.path .. ":" .. start_line, "declaration without an end") end
end

local entries, functions = {}, {}
local function entry(kind, name, field, ctype, size, offset, address)
    entries[#entries + 1] = ('    {HOST_ABI_%s, "%s", "%s", "%s", %s, %s, %s},'):format(
        kind, name, field, ctype, size, offset, address)
end

-- Name and type of each field of "const char *data[4], n".
local function declared(where, declaration)
    if declaration:find "[{}:]" then
        fail(where, "nested structs and bit-fields are not supported: %s", declaration)
    end
    local pointer = declaration:match "%(%s*%*%s*([%a_][%w_]*)%s*%)%s*%(" -- to a function
    if pointer then return { { name = pointer, type = "void *" } } end
    local list, base = {}, nil
    for one in declaration:gmatch "[^,]+" do
        local head, array = one:match "^(.-)%s*(%[.*%])%s*$"
        head, array = trim(head or one), array or ""
        local stars, name
        if not base then
            base, stars, name = head:match "^(.-)([%*%s]+)([%a_][%w_]*)$"
        else
            stars, name = head:match "^([%*%s]*)([%a_][%w_]*)$"
        end
        if not name then fail(where, "not understood: %s", declaration) end
        list[#list + 1] = { name = name, type = trim(base .. " " .. stars .. array) }
    end
    return list
end

local function add_struct(where, struct, body)
    entry("STRUCT", struct, "", "", ("sizeof(%s)"):format(struct), "0", "NULL")
    for declaration in body:gmatch "([^;]+);" do
        for _, f in ipairs(declared(where, trim(declaration))) do
            entry("FIELD", struct, f.name, f.type, ("sizeof(((%s *)0)->%s)"):format(struct, f.name),
                ("offsetof(%s, %s)"):format(struct, f.name), "NULL")
        end
    end
end

local function add(where, d)
    if d:find "#" then fail(where, "no preprocessor lines between the marks: LuaJIT reads none") end
    local body, name = d:match "^typedef struct [%w_]* ?{(.*)} ([%w_]+)$"
    if body then return add_struct(where, name, body) end
    name, body = d:match "^struct ([%w_]+) {(.*)}$"
    if body then return add_struct(where, "struct " .. name, body) end
    body = d:match "^enum [%w_]* ?{(.*)}$" or d:match "^typedef enum [%w_]* ?{(.*)} [%w_]+$"
    if body then
        for constant in (body .. ","):gmatch "%s*([%a_][%w_]*)[^,]*," do
            entry("CONSTANT", constant, "", "", "0", constant, "NULL")
        end
        return
    end
    if d:find "^typedef " and not d:find "{" then return end -- another name for something
    name = not d:find "{" and d:match "^[%w_%s%*]-([%a_][%w_]*)%s*%(.*%)$"
    if not name then fail(where, "not understood: %s", d) end
    functions[#functions + 1] = name
    entry("FUNCTION", name, "", "", "0", "0", ("(const void *)%s"):format(name))
end

local texts, first_type = {}, nil
for _, path in ipairs(headers) do
    for _, part in ipairs(marked(path)) do
        part.path = path
        each_declaration(part, function(d, line)
            add(path .. ":" .. line, d)
            first_type = first_type or d:match "^typedef .-([%w_]+)$"
        end)
        -- LuaJIT says "at line N" of what it was given: that many line breaks make N the file's.
        local ok, err = pcall(ffi.cdef, ("\n"):rep(part.line - 1) .. part.text)
        if not ok then fail(path, "LuaJIT: %s", err) end
        texts[#texts + 1] = part.text:gsub("[ \t]+\n", "\n"):gsub("\n\n+", "\n"):gsub("^\n", "")
    end
end

write(out_lua, ([==[
-- Generated from %s by host/build/cdef.lua.
local ffi = require "ffi"

local text = [=[
%s]=]

-- Once per VM, even if somebody empties package.loaded: a struct cannot be declared twice.
if not pcall(ffi.typeof, "%s *") then ffi.cdef(text) end

return text
]==]):format(table.concat(headers, ", "), table.concat(texts), first_type))

local includes = {}
for _, path in ipairs(headers) do includes[#includes + 1] = ('#include "%s"\n'):format(path) end
write(out_c, ([[
/* Generated by host/build/cdef.lua. */
#include <stddef.h>

%s
static const host_abi_entry entries[] = {
%s
};

const host_abi_entry *host_abi_table(int32_t *n) {
    *n = sizeof entries / sizeof entries[0];
    return entries;
}
]]):format(table.concat(includes), table.concat(entries, "\n")))
write(out_exports, ("{\n    %s;\n    %s;\n};\n"):format(table.concat(LUAJIT, "; "), table.concat(functions, ";\n    ")))
