--- JSON by lua-cjson, with settings that a `require "cjson"` elsewhere does not change.
--
-- `encode` raises, because its value is the program's own; the message says where in the value the trouble is ("cannot
-- encode a function at .user.callback"). `decode` returns `nil, err`, because its text comes from outside:
--
--   local t, err = json.decode(text)
--   if t == nil then return 400, err end        -- null decodes to json.null, never to nil
--
-- An empty Lua table is the object {}. lua-cjson 2.1 cannot write an empty array at all. So `json.empty_array` is a
-- table whose only element is a string that no one else can know; cjson writes it, and encode replaces it by []. The
-- search for it is only paid for once a program has asked for `json.empty_array`.
--
-- Numbers are written with cjson's 14 digits; a larger integer, such as an id of 64 bits, belongs in a string.

local cjson = require("cjson").new()

local find, format, gsub = string.find, string.format, string.gsub
local cjson_decode, cjson_encode = cjson.decode, cjson.encode

-- A document nested deeper than this is an attack on the stack, not data.
cjson.decode_max_depth(128)
cjson.encode_max_depth(128)
-- NaN and Infinity are no JSON; reading or writing them would only move the error to another program.
cjson.decode_invalid_numbers(false)
cjson.encode_invalid_numbers(false)
-- { [1000000] = 1 } as an array would be a million nulls: refuse instead of turning it into an object with string keys.
cjson.encode_sparse_array(false, 2, 10)

---@class lunapark.json
---@field null lightuserdata  what null decodes to; encodes as null
---@field empty_array table   encodes as []
local json = { null = cjson.null }

local empty_text -- what cjson makes of json.empty_array, quoted for gsub; nil until it was asked for

setmetatable(json, {
  __index = function(_, key)
    if key ~= "empty_array" then return nil end
    local random = assert(io.open("/dev/urandom", "rb"))
    local marker = gsub(random:read(16), ".", function(c) return format("%02x", c:byte()) end)
    random:close()
    json.empty_array = { marker }
    empty_text = '%["' .. marker .. '"%]'
    return json.empty_array
  end,
})

local scalars = { ["nil"] = true, boolean = true, string = true }

-- Finds the value that cjson refused: its type, and the way to it.
local function culprit(value, where, depth)
  local kind = type(value)
  if scalars[kind] or value == json.null then return nil end
  if kind == "number" then
    if value ~= value or value == math.huge or value == -math.huge then return tostring(value), where end
    return nil
  end
  if kind ~= "table" then return "a " .. kind, where end
  if depth > 128 then return "a table nested more than 128 deep (does it contain itself?)", "" end
  for key, element in next, value do
    if type(key) ~= "string" and type(key) ~= "number" then return "a key of type " .. type(key), where end
    local step = type(key) == "number" and format("[%s]", key) or "." .. key
    local what, place = culprit(element, where .. step, depth + 1)
    if what then return what, place end
  end
end

local function explain(value, message)
  local what, where = culprit(value, "", 1)
  if not what then return "cannot encode as JSON: " .. gsub(tostring(message), "^Cannot serialise %a+: ", "") end
  if #where > 200 then where = where:sub(1, 200) .. "..." end
  return "cannot encode as JSON: " .. what .. (where ~= "" and " at " .. where or "")
end

--- Encodes a value and does not raise. For callers that answer with the reason.
---@param value any
---@return string|nil text
---@return string? err
function json.try_encode(value)
  local ok, text = pcall(cjson_encode, value)
  if not ok then return nil, explain(value, text) end
  if empty_text and find(text, "[", 1, true) then text = gsub(text, empty_text, "[]") end
  return text
end

--- Encodes a value. Raises when it contains a function, a cycle, NaN or anything else that JSON has no words for.
---@param value any
---@return string
function json.encode(value)
  local text, err = json.try_encode(value)
  if not text then error(err, 2) end
  return text
end

--- Decodes a text.
---@param text string
---@return any value    json.null for null; nil if the text is not JSON
---@return string? err  the mistake and its place
function json.decode(text)
  if type(text) ~= "string" then error("json.decode: text must be a string, got " .. type(text), 2) end
  local ok, value = pcall(cjson_decode, text)
  if ok then return value end
  return nil, (gsub(tostring(value), "^Expected", "bad JSON: expected"))
end

return json
