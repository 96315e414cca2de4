--- Values as text for people: of the log, and of errors.
--
-- Nothing here raises or waits by itself, though a __tostring may do anything: if it fails, the text says so. Tables
-- without __tostring are shown as JSON, cut where they are large, deep or contain themselves.
--
-- Tables are walked by `while` and next, not by `for`: in a finalizer LuaJIT starts no side traces, and a compiled
-- `for` over a table that leaves its trace there enters it again without end.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"

local C = ffi.C
local view = ffi.cast("host_view *", core.view)
local scratch = ffi.cast("char *", view.scratch)
local getmetatable = debug.getmetatable
local type, tostring, pcall, rawget, next = type, tostring, pcall, rawget, next
local floor, concat = math.floor, table.concat

-- Limits of a table as JSON, in bytes and levels. C has a limit of 4096 for the whole line.
local TABLE_MAX, TABLE_STRING_MAX, TABLE_DEPTH = 3000, 500, 8

-- Up to here every whole number is a number of Lua.
local EXACT = 2 ^ 53

local show = {}

-- tostring, which may run anything.
local function text_of(v)
  local ok, text = pcall(tostring, v)
  if ok and type(text) == "string" then return text end
  if ok then text = "it returned a " .. type(text) end
  if type(text) ~= "string" then text = "a " .. type(text) end
  return ("(a %s whose tostring failed: %s)"):format(type(v), text)
end

local function has_tostring(t)
  local mt = getmetatable(t)
  return type(mt) == "table" and rawget(mt, "__tostring") ~= nil
end

local function quote(s)
  return ffi.string(scratch, C.host_log_quote(s, #s, scratch, TABLE_STRING_MAX))
end

local by_text = function(a, b) return a.text < b.text end

-- The keys of t, in order, and whether it is a list.
local function sorted_keys(t)
  local keys, n, list = {}, 0, true
  local k = next(t)
  while k ~= nil do
    n = n + 1
    keys[n] = { key = k }
    if type(k) ~= "number" or k < 1 or floor(k) ~= k then list = false end
    k = next(t, k)
  end
  -- Whole numbers above 0, and as many as the largest of them.
  for i = 1, list and n or 0 do
    if keys[i].key > n then list = false end
  end
  if list then return nil, n end
  for i = 1, n do
    k = keys[i].key
    keys[i].text = type(k) == "string" and k or text_of(k)
  end
  table.sort(keys, by_text)
  return keys, n
end

local add

local function add_table(out, t, depth)
  if out.seen[t] then return out:add '"(itself)"' end
  if depth > TABLE_DEPTH then return out:add '"..."' end
  out.seen[t] = true
  local keys, n = sorted_keys(t)
  local list = not keys and n > 0
  out:add(list and "[" or "{")
  for i = 1, n do
    if i > 1 then out:add "," end
    if out.size > TABLE_MAX then
      local more = ('"%d more"'):format(n - i + 1)
      out:add(list and more or '"...":' .. more)
      break
    end
    if not list then out:add(quote(keys[i].text) .. ":") end
    add(out, rawget(t, list and i or keys[i].key), depth + 1)
  end
  out:add(list and "]" or "}")
  out.seen[t] = nil
end

function add(out, v, depth)
  local kind = type(v)
  if kind == "number" and floor(v) == v and v >= -EXACT and v <= EXACT then
    out:add(("%d"):format(v))
  elseif kind == "number" and v - v == 0 or kind == "boolean" then
    out:add(tostring(v))
  elseif kind == "nil" then
    out:add "null"
  elseif kind == "table" and not has_tostring(v) then
    add_table(out, v, depth)
  elseif kind == "userdata" and text_of(v) == "userdata: NULL" then -- cjson.null
    out:add "null"
  else
    out:add(quote(kind == "string" and v or text_of(v)))
  end
end

local function out_add(out, s)
  out[#out + 1] = s
  out.size = out.size + #s
end

local function json_of(t)
  local out = { size = 0, seen = {}, add = out_add }
  add(out, t, 1)
  return concat(out)
end

--- What tostring makes of a value, or that its __tostring failed.
---@param v any
---@return string
show.text = text_of

--- A table as JSON, for people: cut where it is large, and not necessarily what a parser takes.
---@param t table
---@return string
show.json = json_of

show.has_tostring = has_tostring

--- A value as text, such as an error: a table without __tostring by its content.
---@param v any
---@return string
function show.value(v)
  if type(v) == "string" then return v end
  if type(v) == "table" and not has_tostring(v) then return json_of(v) end
  return text_of(v)
end

--- A value of the wrong type or size, as errors name it: a string that reads as a number would look like one.
---@param v any
---@return string
function show.given(v)
  if type(v) == "string" and tonumber(v) then return ("the string %q"):format(v) end
  return text_of(v)
end

--- The message handler of xpcall that makes a text with a traceback of an error.
---@param err any
---@return string
function show.traceback(err)
  return debug.traceback(show.value(err), 2)
end

return show
