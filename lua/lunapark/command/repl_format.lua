--- Values as `lunapark repl` prints them: strings in quotes, tables with what is in them, all within limits.

local MAX_DEPTH, MAX_ENTRIES, MAX_STRING, MAX_TEXT, WIDTH = 4, 100, 1000, 64 * 1024, 100

local format = {}

local keywords = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return then true until
  while]]):gmatch "%a+" do
  keywords[word] = true
end

local escapes = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\\"] = "\\\\", ['"'] = '\\"' }

local function quote(text)
  local cut = #text > MAX_STRING and ("... (%d bytes)"):format(#text) or ""
  text = text:sub(1, MAX_STRING):gsub('[%c\\"]', function(c) return escapes[c] or ("\\%03d"):format(c:byte()) end)
  return '"' .. text .. '"' .. cut
end

local function by_kind(a, b)
  local ta, tb = type(a), type(b)
  if ta ~= tb then return ta < tb end
  if ta == "number" or ta == "string" then return a < b end
  return tostring(a) < tostring(b)
end

local function text_of(value)
  local ok, text = pcall(tostring, value)
  return ok and text or ("%s whose __tostring raises: %s"):format(type(value), tostring(text))
end

local show

-- The entries of a table as text, and whether that is all.
local function entries(t, depth, inside, state)
  local out, keys, n = {}, {}, 0
  local length = #t
  for i = 1, math.min(length, MAX_ENTRIES) do
    out[i] = show(rawget(t, i), depth, inside, state)
  end
  for key in next, t do
    if not (type(key) == "number" and key >= 1 and key <= length and key % 1 == 0) then
      n = n + 1
      if n <= 10000 then keys[n] = key end
    end
  end
  table.sort(keys, by_kind)
  for _, key in ipairs(keys) do
    if #out >= MAX_ENTRIES then break end
    local name = type(key) == "string" and key:find "^[%a_][%w_]*$" and not keywords[key] and key
      or "[" .. show(key, MAX_DEPTH, inside, state) .. "]"
    out[#out + 1] = name .. " = " .. show(rawget(t, key), depth, inside, state)
  end
  local left = length + n - #out
  if left > 0 then out[#out + 1] = ("... (%d more)"):format(left) end
  return out
end

local function show_table(t, depth, inside, state)
  if inside[t] then return "<cycle>" end
  if depth >= MAX_DEPTH or state.size > MAX_TEXT then return next(t) == nil and "{}" or "{...}" end
  inside[t] = true
  local out = entries(t, depth + 1, inside, state)
  inside[t] = nil
  if #out == 0 then return "{}" end
  local line = table.concat(out, ", ")
  if #line + depth * 2 < WIDTH and not line:find "\n" then return "{ " .. line .. " }" end
  local indent = ("  "):rep(depth + 1)
  return "{\n" .. indent .. table.concat(out, ",\n" .. indent) .. "\n" .. ("  "):rep(depth) .. "}"
end

function show(value, depth, inside, state)
  local kind = type(value)
  local text
  if kind == "string" then
    text = quote(value)
  elseif kind == "table" and not (debug.getmetatable(value) or {}).__tostring then
    return show_table(value, depth, inside, state)
  else
    text = text_of(value)
  end
  state.size = state.size + #text
  return text
end

--- A value as text.
---@param value any
---@return string
function format.value(value)
  return show(value, 0, {}, { size = 0 })
end

--- n values as text, with tabs between them, or line breaks if any of them takes several lines.
---@param n integer
---@param ... any
---@return string
function format.values(n, ...)
  local out, between = {}, "\t"
  for i = 1, n do
    out[i] = format.value((select(i, ...)))
    if out[i]:find "\n" then between = "\n" end
  end
  return table.concat(out, between)
end

return format
