-- Checks that includes point one way:
--
--     luajit edges.lua                 prints the edges between the folders of host/, and fails where one points up
--
-- A folder ("room") may include what stands below it in ORDER, and RUNTIME. A function that a header declares is
-- defined in the header's own room, and no source declares a function by hand: so a call goes no other way than an
-- include. A room that needs something of a room above is given it: a function, by a table or a list of hooks.

-- What each room may include.
local ORDER = {
    { "base" },
    { "vm", "base" },
    { "net", "vm", "base" },
    { "shared", "vm", "base" },
    { "sys", "net", "vm", "base" },
    { "serve", "net", "vm", "base" },
    { "http", "serve", "sys", "net", "vm", "base" },
    { "generation", "http", "serve", "net", "sys", "shared", "vm", "base" },
    { "command", "generation", "http", "serve", "net", "sys", "shared", "vm", "base" },
}

-- The headers of runtime/ that are for others.
local RUNTIME = { ["runtime.h"] = true, ["io.h"] = true, ["lock.h"] = true, ["note.h"] = true, ["sanitizers.h"] = true }

local may, rank = {}, {}
for i, row in ipairs(ORDER) do
    local room = row[1]
    rank[room] = i
    may[room] = { [room] = true, runtime = true }
    for k = 2, #row do
        assert(rank[row[k]] and row[k] ~= room, "ORDER: a room includes only rooms that stand before it")
        may[room][row[k]] = true
    end
end

local bad = 0
local function complain(fmt, ...)
    bad = bad + 1
    io.stderr:write(fmt:format(...), "\n")
end

local function read(path)
    local f = assert(io.open(path, "rb"))
    local s = f:read "*a"
    f:close()
    return s
end

-- Without comments and strings; the line breaks stay.
local function code_of(text)
    return (text:gsub("/%*.-%*/", function(c) return (c:gsub("[^\n]", "")) end)
        :gsub("//[^\n]*", ""):gsub('"[^"\n]*"', '""'))
end

-- host/vm/luag.h is in the room vm. What is in no room may include all: tests, tools.
local function room_of(path)
    if path:find "^runtime/" then return "runtime" end
    local folder = path:match "^host/([^/]+)/"
    return may[folder] and folder
end

local files = {}
for path in io.popen("LC_ALL=C ls host/*.[ch] host/*/*.[ch] host/*/*.cc 2>/dev/null"):lines() do
    files[#files + 1] = path
end
assert(#files > 0, "edges.lua runs in the project's folder")

-- "host/vm" and "../base/log.h" is "host/base/log.h".
local function resolve(folder, name)
    local parts = {}
    for part in (folder .. "/" .. name):gmatch "[^/]+" do
        if part == ".." then parts[#parts] = nil else parts[#parts + 1] = part end
    end
    return table.concat(parts, "/")
end

-- edges[from][to]: a list of "file includes file".
local edges = {}
local function add_edge(from, to, what)
    edges[from] = edges[from] or {}
    edges[from][to] = edges[from][to] or {}
    table.insert(edges[from][to], what)
end

local declared, defined = {}, {} -- name of a function -> path

-- Calls f(name, is_definition, is_static) for each function that is declared or defined at the top level.
local function each_function(code, f)
    local plain = ("\n" .. code):gsub("\n[ \t]*#[^\n]*", function(s) return s:find "\\$" and s or "\n" end)
    local depth, start = 0, 1
    for at, ch in plain:gmatch "()([{};])" do
        if ch == "{" then
            if depth == 0 then
                local head = plain:sub(start, at - 1)
                local name = not head:find "^%s*typedef" and head:match "^[%s%w_%*]-([%a_][%w_]*)%s*%(.*%)%s*$"
                if name then f(name, true, head:find "%f[%w]static%f[%W]") end
            end
            depth = depth + 1
        elseif ch == "}" then
            depth = depth - 1
            if depth == 0 then start = at + 1 end
        elseif depth == 0 then
            local head = plain:sub(start, at - 1):gsub("__attribute__%s*%(%(.-%)%)%)?", "")
            local name = not head:find "=" and not head:find "^%s*typedef" and
                head:match "^[%s%w_%*]-([%a_][%w_]*)%s*%(.*%)%s*$"
            if name then f(name, false, head:find "%f[%w]static%f[%W]") end
            start = at + 1
        end
    end
end

for _, path in ipairs(files) do
    local room = room_of(path)
    if room then
        local text = read(path)
        for name in ("\n" .. text):gmatch '\n#include "([^"]+)"' do
            local to = room_of(resolve(path:match "^(.*)/", name))
            if to == "runtime" and not RUNTIME[name:match "[^/]+$"] then
                complain("%s includes %s, which is the runtime's own", path, name)
            end
            if to and to ~= room and to ~= "runtime" then add_edge(room, to, path .. " includes " .. name) end
        end
        each_function(code_of(text), function(name, is_definition, is_static)
            if is_static then return end
            if is_definition then
                defined[name] = path
            elseif path:find "%.h$" then
                declared[name] = path
            end
        end)
    end
end

for path in io.popen("LC_ALL=C ls runtime/*.c 2>/dev/null"):lines() do
    each_function(code_of(read(path)), function(name, is_definition, is_static)
        if is_definition and not is_static then defined[name] = path end
    end)
end

for name, header in pairs(declared) do
    local source = defined[name]
    if source and room_of(source) ~= room_of(header) then
        add_edge(room_of(header), room_of(source), ("%s declares %s of %s"):format(header, name, source))
    end
end
for _, path in ipairs(files) do
    local room = room_of(path)
    if room and path:find "%.c$" then
        each_function(code_of(read(path)), function(name, is_definition, is_static)
            local source = defined[name]
            if not is_definition and not is_static and source and source ~= path then
                complain("%s declares %s of %s by hand", path, name, source)
            end
        end)
    end
end

local rooms = {}
for room in pairs(may) do rooms[#rooms + 1] = room end
table.sort(rooms, function(a, b) return rank[a] > rank[b] end)
for _, from in ipairs(rooms) do
    local line = {}
    for _, to in ipairs(rooms) do
        local list = edges[from] and edges[from][to]
        if list then
            line[#line + 1] = ("%s %d"):format(to, #list)
            table.sort(list)
            for _, what in ipairs(list) do
                if not may[from][to] then complain("%s -> %s: %s", from, to, what) end
            end
        end
    end
    print(("%-10s -> %s"):format(from, table.concat(line, ", ")))
end
if bad > 0 then
    io.stderr:write(bad, " in all\n")
    os.exit(1)
end
