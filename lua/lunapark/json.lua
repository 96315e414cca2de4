--- JSON: `json.encode`, `json.decode`.
--
-- `encode` raises, because its value is the program's own; the message says where in the value the trouble is ("cannot
-- encode a function at .user.callback"). `decode` returns `nil, err`, because its text comes from outside:
--
--   local t, err = json.decode(text)
--   if t == nil then return 400, err end        -- null decodes to json.null, never to nil
--
-- What was decoded is encoded to the same values. Whole numbers up to 2^53 come out digit by digit, other numbers as
-- the shortest text that reads back as the same number. A larger id of 64 bits is not a number of Lua: `decode(text,
-- { big_integers = "text" })` makes it a string of its digits. An array stays an array when it is empty, since decode
-- marks arrays; `json.array(t)` marks a table too. A table without the mark is an array if all its keys are whole
-- numbers above 0; holes are null. Other tables are objects, and so is {}.
--
-- How it works: host/vm/json_encode.c, host/vm/json_decode.c.

local core = require "lunapark.core"

local format = string.format
local core_decode, core_encode = core.json_decode, core.json_encode

local MAX_DEPTH = 128 -- as in C

local array_mt = { __name = "lunapark.json.array" }
local kept = {} -- C's

---@class lunapark.json
---@field null lightuserdata  what null decodes to; encodes as null
---@field empty_array table   encodes as []
local json = { null = core_decode("null", array_mt), empty_array = setmetatable({}, array_mt) }

-- What C says of tables; the rest it says in words.
local of_tables = {
  depth = "a table nested more than 128 deep (does it contain itself?)",
  holes = "a sparse array: a list with more than 65536 holes (ids that are keys belong in strings)",
}

-- What is wrong with a value that holds no other one; nil: nothing.
local function wrong_scalar(value)
  local _, wrong = core_encode(value, array_mt)
  return wrong == "type" and "a " .. type(value) or wrong
end

-- Finds the value that C refused: what is wrong, and the way to it.
local function culprit(value, where, depth)
  if type(value) ~= "table" then return wrong_scalar(value), where end
  if depth > MAX_DEPTH then return of_tables.depth, "" end
  for key, element in next, value do
    if type(key) ~= "string" and type(key) ~= "number" then return "a key of type " .. type(key), where end
    local wrong = wrong_scalar(key)
    if wrong then return "a key that is " .. wrong, where end
    local step = type(key) == "number" and format("[%s]", key) or "." .. key
    local what, place = culprit(element, where .. step, depth + 1)
    if what then return what, place end
  end
  local _, wrong = core_encode(value, array_mt)
  if wrong then return of_tables[wrong] or wrong, where end
end

local function explain(value)
  local what, where = culprit(value, "", 1)
  if not what then return "cannot encode as JSON: a table that a finalizer has changed meanwhile" end
  if #where > 200 then where = where:sub(1, 200) .. "..." end
  return "cannot encode as JSON: " .. what .. (where ~= "" and " at " .. where or "")
end

--- Encodes a value, and does not raise unless there is no memory. For callers that answer with the reason.
---@param value any
---@return string|nil text
---@return string? err
function json.try_encode(value)
  local text = core_encode(value, array_mt, kept)
  if text then return text end
  return nil, explain(value)
end

--- Encodes a value. Raises when it contains a function, a cycle, NaN, a string that is not UTF-8, or anything else that
--- JSON has no words for.
---@param value any
---@return string
function json.encode(value)
  local text = core_encode(value, array_mt, kept)
  if not text then error(explain(value), 2) end
  return text
end

--- Decodes a text.
---@param text string
---@param opts? { big_integers: "text"? }  "text": whole numbers beyond 2^53 become strings of their digits
---@return any value    json.null for null; nil if the text is not JSON
---@return string? err  the mistake and its place
function json.decode(text, opts)
  if type(text) ~= "string" then error("json.decode: text must be a string, got " .. type(text), 2) end
  local big = opts and opts.big_integers
  if big ~= nil and big ~= "text" then
    error('json.decode: opts.big_integers must be "text", got ' .. tostring(big), 2)
  end
  local value, err = core_decode(text, array_mt, big ~= nil)
  return value, err
end

--- Marks a table, which is written as an array also when it is empty.
---@param t? table  a new one without it
---@return table t
function json.array(t)
  if t ~= nil and type(t) ~= "table" then error("json.array: t must be a table, got " .. type(t), 2) end
  return setmetatable(t or {}, array_mt)
end

return json
