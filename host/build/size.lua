-- What is too long: files above 600 lines, functions above 70.
--
--   luajit host/build/size.lua FILE...        -- .lua, .c, .h; exit 1 and a line for each that is too long
--
-- A function counts from the line of its head to that of its end. What busted's `describe` gets is no function here: it
-- is the spec's own room, and holds functions. In C the layout tells: .clang-format has every function's head and end
-- in the first column.

local util = require "jit.util"

local MOST_IN_FILE, MOST_IN_FUNCTION = 600, 70

local found = 0

local function report(path, line, what, n, most)
    found = found + 1
    print(("%s:%d: %s of %d lines, at most %d"):format(path, line, what, n, most))
end

local function check_function(path, first, last)
    local n = last - first + 1
    if n > MOST_IN_FUNCTION then report(path, first, "function", n, MOST_IN_FUNCTION) end
end

-- The functions in a function, and those in them.
local function check_inside(path, lines, fn)
    for i = -1, -math.huge, -1 do
        local inner = util.funck(fn, i)
        if inner == nil then return end
        if type(inner) == "proto" then
            local info = util.funcinfo(inner)
            if not lines[info.linedefined]:find "^%s*describe%(" then
                check_function(path, info.linedefined, info.lastlinedefined)
            end
            check_inside(path, lines, inner)
        end
    end
end

local function check_lua(path, lines)
    local chunk, err = loadstring(table.concat(lines, "\n"):gsub("^#", "--#"), "@" .. path)
    if not chunk then error(err, 0) end
    check_inside(path, lines, chunk)
end

-- A head begins with a word in the first column and ends with `) {`, or before a line that is `{`. A `;` or `}` at the
-- end of a line ends what was no head.
local function check_c(path, lines)
    local head, first
    for i, line in ipairs(lines) do
        if first then
            if line == "}" then
                check_function(path, first, i)
                head, first = nil, nil
            end
        else
            if line:find "^[%a_]" then head = head or i end
            if head and (line:find "%) {$" or line == "{") then first = head end
            if line:find "[;}]$" or line == "" then head = nil end
        end
    end
end

for _, path in ipairs(arg) do
    local lines = {}
    for line in io.lines(path) do
        lines[#lines + 1] = line
    end
    if #lines > MOST_IN_FILE then report(path, 1, "file", #lines, MOST_IN_FILE) end
    if path:find "%.lua$" then check_lua(path, lines) else check_c(path, lines) end
end
os.exit(found == 0 and 0 or 1)
