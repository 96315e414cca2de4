--- What may follow where the tab key was pressed, for `lunapark repl`: names of globals and of fields, keywords.
--
-- Nothing is called to find out: fields come from tables, and from metatables whose __index is a table.

local MAX_LISTED = 200

local complete = {}

local keywords = {
  "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in", "local", "nil", "not",
  "or", "repeat", "return", "then", "true", "until", "while",
}

-- The tables in which a value's fields are looked for.
local function tables_of(value)
  local list, seen = {}, {}
  while value ~= nil and not seen[value] and #list < 20 do
    seen[value] = true
    if type(value) == "table" then list[#list + 1] = value end
    local mt = debug.getmetatable(value)
    value = type(mt) == "table" and rawget(mt, "__index") or nil
    if type(value) ~= "table" then break end
  end
  return list
end

local function field(value, name)
  for _, t in ipairs(tables_of(value)) do
    local found = rawget(t, name)
    if found ~= nil then return found end
  end
end

-- Names that begin with `prefix`.
local function names(value, prefix, methods)
  local found, seen = {}, {}
  for _, t in ipairs(tables_of(value)) do
    for key, v in next, t do
      if type(key) == "string" and key:sub(1, #prefix) == prefix and key:find "^[%a_][%w_]*$" and not seen[key]
        and (not methods or type(v) == "function") and (prefix ~= "" or key:sub(1, 2) ~= "__") then
        seen[key] = true
        found[#found + 1] = key
      end
    end
  end
  return found
end

local function common(list)
  local prefix = list[1] or ""
  for _, name in ipairs(list) do
    while name:sub(1, #prefix) ~= prefix do prefix = prefix:sub(1, -2) end
  end
  return prefix
end

--- What to insert, and what to list when there are several and nothing can be inserted.
---@param before string  what stands before the cursor
---@return string insert
---@return string list
function complete.complete(before)
  local path, mark, prefix = before:match "([%a_][%w_%.]*)([%.:])([%w_]*)$"
  local found
  if path then
    local value = _G
    for name in path:gmatch "[^%.]+" do value = field(value, name) end
    found = names(value, prefix, mark == ":")
  else
    prefix = before:match "[%w_]*$"
    if prefix == "" then return "", "" end
    found = names(_G, prefix)
    for _, word in ipairs(keywords) do
      if word:sub(1, #prefix) == prefix then found[#found + 1] = word end
    end
  end
  table.sort(found)
  local insert = common(found):sub(#prefix + 1)
  if insert ~= "" or #found < 2 then return insert, "" end
  local list, more = table.concat(found, "  ", 1, math.min(#found, MAX_LISTED)), #found - MAX_LISTED
  return "", more > 0 and ("%s  ... (%d more)"):format(list, more) or list
end

return complete
