--- Where Lua source calls find, match, gmatch and gsub, and with which patterns.
--
--   for _, call in ipairs(calls.of(text)) do ... call.line, call.name, call.pattern, call.plain, call.given

local calls = {}

-- Where a long bracket that begins at `at` ends; nil: there is none.
local function long_bracket(text, at)
  local level = text:match("^%[(=*)%[", at)
  if not level then return nil end
  local _, stop = text:find("]" .. level .. "]", at, true)
  return stop
end

-- Where the string that begins at `at` ends; nil: there is none.
local function string_end(text, at)
  local quote = text:sub(at, at)
  if quote ~= '"' and quote ~= "'" then return long_bracket(text, at) end
  local i = at + 1
  while text:sub(i, i) ~= quote do
    i = i + (text:sub(i, i) == "\\" and 2 or 1)
    assert(i <= #text, "a string without an end")
  end
  return i
end

-- The text with comments made blanks.
local function without_comments(text)
  local out, i = {}, 1
  while i <= #text do
    local stop = string_end(text, i)
    if stop then
      out[#out + 1] = text:sub(i, stop)
    elseif text:sub(i, i + 1) == "--" then
      stop = long_bracket(text, i + 2) or (text:find("\n", i, true) or #text + 1) - 1
      out[#out + 1] = text:sub(i, stop):gsub("[^\n]", " ")
    else
      stop = i
      out[#out + 1] = text:sub(i, i)
    end
    i = stop + 1
  end
  return table.concat(out)
end

-- The arguments of a call whose parenthesis or string stands at `at`.
local function arguments(text, at)
  local stop = string_end(text, at)
  if stop then return { text:sub(at, stop) } end
  local list, depth, from, i = {}, 0, at + 1, at
  while true do
    local c = text:sub(i, i)
    stop = string_end(text, i)
    if stop then
      i = stop
    elseif c:find "[%(%[{]" then
      depth = depth + 1
    elseif c:find "[%)%]}]" then
      depth = depth - 1
    end
    if depth == 0 or depth == 1 and c == "," then
      list[#list + 1] = text:sub(from, i - 1):match "^%s*(.-)%s*$"
      from = i + 1
    end
    if depth == 0 then return list end
    i = i + 1
    assert(i <= #text, "a call without an end")
  end
end

-- The value of an expression that is a string and nothing else.
local function literal(expression)
  local stop = expression and string_end(expression, 1)
  return stop == #expression and assert(loadstring("return " .. expression))() or nil
end

---@class calls.Call
---@field line integer
---@field name string
---@field pattern string|nil  nil: it is not written there
---@field given string        the expression
---@field plain boolean       no pattern, but text

local names = { find = true, match = true, gmatch = true, gsub = true }

--- All calls.
---@param text string
---@return calls.Call[]
function calls.of(text)
  text = without_comments(text)
  local list = {}
  for before, at, name, open in text:gmatch "([^%w_-])()(%a+)%s*()[%(\"'%[]" do -- not "if-match"
    local defines = text:sub(1, at - 1):match "function%s+[%w_.]*[:.]?$"
    local owner = before == "." and text:sub(1, at - 2):match "[%w_]+$" or "string" -- another module's is no search
    if names[name] and owner == "string" and not defines then
      local args = arguments(text, open)
      local pattern = args[before == ":" and 1 or 2]
      local _, line = text:sub(1, at):gsub("\n", "")
      list[#list + 1] = {
        line = line + 1, name = name, given = pattern or "", pattern = pattern and literal(pattern),
        plain = name == "find" and args[#args] == "true",
      }
    end
  end
  return list
end

return calls
