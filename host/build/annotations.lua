--- Reads the LuaLS annotations of a Lua file: what docs.lua makes the reference from.
--
--   local file = annotations.read("lua/lunapark/net/init.lua")
--   file.head                   -- the comment on top, lines
--   file.classes["lunapark.Listener"].methods[1].name
--   file.functions[1]           -- functions of tables that are no classes, and local ones
--
-- It knows the language as far as our own sources need it, and relies on how they are laid out: a function's
-- parameters stand on one line, its last statement is indented by two more than its head.

local annotations = {}

---@class annotations.Item
---@field name string       of the function; of a parameter, field or result
---@field text string[]     lines of the comment
---@field line integer
---@field owner string?     the table that it is put into, or nil: a local function
---@field given string[]?   a function's parameters by the code; nil: it is no function that stands here
---@field params table[]    { name, type, optional, text }
---@field returns table[]   { name, type, text }
---@field answers boolean?  it ends with `return` and a value
---@field hidden boolean?   private or package
---@field see string?
---@field type string?

---@class annotations.Class
---@field name string
---@field var string?       the local variable that has its methods
---@field text string[]
---@field fields table[]    { name, type, text }, those that are public
---@field methods annotations.Item[]
---@field line integer

-- A type and what follows it: spaces belong to it within brackets, behind a comma or colon, and before a bar.
local function split_type(s)
  local depth, i = 0, 1
  while i <= #s do
    local c = s:sub(i, i)
    if c:find "[%(%[{<]" then
      depth = depth + 1
    elseif c:find "[%)%]}>]" then
      depth = depth - 1
    elseif c == " " and depth == 0 and not s:sub(1, i):find "[,:|] $" and not s:find("^ *|", i) then
      break
    end
    i = i + 1
  end
  return s:sub(1, i - 1), s:sub(i)
end

local function trim(s)
  return (s:gsub("^%s+", ""):gsub("%s+$", ""))
end

local read_tag = {}

function read_tag.param(item, s)
  local name, optional, rest = s:match "^([%w_%.]+)(%??)%s+(.*)$"
  local kind, text = split_type(rest)
  item.params[#item.params + 1] = { name = name, type = kind, optional = optional == "?", text = trim(text) }
end

read_tag["return"] = function(item, s)
  local kind, rest = split_type(s)
  local name, text = rest:match "^ ([%w_%.]+)%s%s+(.*)$"
  if not name then name = rest:match "^ ([%w_%.]+)$" end
  item.returns[#item.returns + 1] = { name = name, type = kind, text = trim(text or not name and rest or "") }
end

function read_tag.field(item, s)
  local access = s:match "^(%a+) "
  if access == "private" or access == "package" or access == "protected" then return end
  local name, rest = s:match "^(%b[])%s+(.*)$"
  if not name then name, rest = s:match "^([%w_]+%??)%s+(.*)$" end
  local kind, text = split_type(rest)
  local optional = name:sub(-1) == "?"
  item.fields[#item.fields + 1] = { name = name:gsub("%?$", ""), type = kind, optional = optional, text = trim(text) }
end

function read_tag.class(item, s)
  item.class = s:match "^[%w_%.]+"
end

function read_tag.type(item, s)
  local kind, text = split_type(s)
  item.type, item.type_text = kind, trim(text)
end

function read_tag.see(item, s) item.see = s end
function read_tag.private(item) item.hidden = true end
read_tag.package = read_tag.private

-- The block of comments that ends before line `last`, as an item.
local function read_block(lines, first, last)
  local item = { text = {}, params = {}, returns = {}, fields = {}, line = first }
  local tags = {}
  for i = first, last do
    local text = lines[i]:match "^%s*%-%-%-(.*)$"
    if text:sub(1, 1) == "@" then
      tags[#tags + 1] = text:sub(2)
    elseif tags[1] then
      tags[#tags] = tags[#tags] .. " " .. trim(text) -- goes on
    else
      item.text[#item.text + 1] = text:gsub("^ ", "")
    end
  end
  for _, tag in ipairs(tags) do
    local name, rest = tag:match "^(%a+)%s*(.*)$"
    if not read_tag[name] then return nil, ("%d: unknown tag: @%s"):format(first, tag) end
    read_tag[name](item, rest)
  end
  return item
end

local function parameters(list)
  local names = {}
  for name in list:gmatch "[%w_%.]+" do
    names[#names + 1] = name
  end
  return names
end

-- Whether the function that begins in line i ends with a value.
local function answers(lines, i)
  local indent = lines[i]:match "^%s*"
  if lines[i]:find "%Wend%)?$" then return lines[i]:find "%) return " ~= nil end
  for k = i + 1, #lines do
    if lines[k]:find("^" .. indent .. "end") then return false end
    if lines[k]:find("^" .. indent .. "  return %S") then return true end
  end
end

-- Notes in the item what stands in line i; false: nothing that is documented.
local function read_code(item, lines, i)
  local line = lines[i] or ""
  local owner, name, list = line:match "^%s*function ([%w_]+)[%.:]([%w_]+)%((.-)%)"
  if not owner then name, list = line:match "^%s*local function ([%w_]+)%((.-)%)" end
  if name then
    item.name, item.owner, item.given, item.line = name, owner, parameters(list), i
    item.answers = answers(lines, i)
    return true
  end
  owner, name = line:match "^([%w_]+)%.([%w_]+) = "
  if name then
    item.name, item.owner, item.line = name, owner, i
    return true
  end
end

local function read_head(lines)
  local head = {}
  for _, line in ipairs(lines) do
    local text = line:match "^%-%-%-?(.*)$"
    if not text then break end
    head[#head + 1] = text:gsub("^ ", "")
  end
  return head
end

---@class annotations.File
---@field path string
---@field head string[]
---@field classes table<string, annotations.Class>
---@field functions annotations.Item[]
---@field by_line table<integer, annotations.Item>

--- Reads a file. Raises when it finds a tag that it does not know.
---@param path string
---@return annotations.File
function annotations.read(path)
  local lines = {}
  for line in io.lines(path) do
    lines[#lines + 1] = line
  end
  local file = { path = path, head = read_head(lines), classes = {}, functions = {}, by_line = {} }
  local of_var, methods = {}, {}
  local i = #file.head + 1
  while i <= #lines do
    local first = i
    while lines[i] and lines[i]:find "^%s*%-%-%-" do
      i = i + 1
    end
    local item, err
    if i > first then
      item, err = read_block(lines, first, i - 1)
      if not item then error(path .. ":" .. err, 0) end
      item.documented = true
    else
      item = { text = {}, params = {}, returns = {} }
    end
    if item.class then
      item.name, item.methods, item.var = item.class, {}, lines[i]:match "^%s*local ([%w_]+) ="
      file.classes[item.name] = item
      if item.var then of_var[item.var] = item end
    elseif read_code(item, lines, i) and (item.given or item.documented) then
      methods[#methods + 1], file.by_line[i] = item, item
    end
    i = i + 1
  end
  for _, item in ipairs(methods) do
    local class = of_var[item.owner]
    if class then
      if not item.hidden and item.name:sub(1, 2) ~= "__" then class.methods[#class.methods + 1] = item end
    else
      file.functions[#file.functions + 1] = item
    end
  end
  return file
end

return annotations
