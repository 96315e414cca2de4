--- Values as C keeps them for all VMs: nil, booleans, numbers, strings, and tables of these as string.buffer writes
--- them.

local ffi = require "ffi"
local string_buffer = require "string.buffer"
require "lunapark.cdef"
local core = require "lunapark.core"

local C = ffi.C
local ffi_string = ffi.string
local NIL, BOOLEAN, NUMBER, STRING, TABLE = C.HOST_NIL, C.HOST_BOOLEAN, C.HOST_NUMBER, C.HOST_STRING, C.HOST_TABLE

local view = ffi.cast("host_view *", core.view)
local encoder = string_buffer.new()

local value = {
  --- Where C writes the bytes of a value first: a pointer, and how many fit.
  scratch = view.scratch, SCRATCH = tonumber(view.scratch_size),
}

-- Raises the buffer's words for a value that it can't take.
local function encode(v)
  encoder:reset()
  encoder:encode(v)
end

-- Deeper tables are refused, too.
local DEPTH_MAX = 100

-- The way to what the buffer does not take, and what more there is to say of it; nil: nothing is wrong below.
local function culprit(v, where, on_way, depth)
  if type(v) ~= "table" then return not pcall(encode, v) and where or nil, "" end
  if on_way[v] then return where, ", which contains itself" end
  if depth > DEPTH_MAX then return where, "" end
  on_way[v] = true
  for key, element in next, v do
    local step = type(key) == "string" and "." .. key or ("[%s]"):format(tostring(key))
    local found, words = culprit(key, where .. ", a key", on_way, depth + 1)
    if not found then found, words = culprit(element, where .. step, on_way, depth + 1) end
    if found then return found, words end
  end
  on_way[v] = nil
end

-- Why a table is refused, with the place in it.
local function explain(v, err)
  local where, words = culprit(v, "", {}, 1)
  if where and #where > 200 then where = where:sub(1, 200) .. "..." end
  return tostring(err):gsub("^%S+:%d+: ", "") .. (where and " at " .. where .. words or "")
end
jit.off(culprit)

--- A value as C takes it. The bytes stay where they are until the next call.
---@param v any
---@param what string  the name of the public function that was given it
---@param level? integer  of that function's caller, for errors; 3: the function calls this one
---@return integer type
---@return number number
---@return string|ffi.cdata*|nil bytes
---@return integer len
function value.parts(v, what, level)
  local kind = type(v)
  if kind == "number" then return NUMBER, v, nil, 0 end
  if kind == "string" then return STRING, 0, v, #v end
  if kind == "boolean" then return BOOLEAN, v and 1 or 0, nil, 0 end
  if kind == "nil" then return NIL, 0, nil, 0 end
  if kind ~= "table" then
    error(what .. ": value must be a boolean, a number, a string or a table, got " .. kind, level or 3)
  end
  local ok, err = pcall(encode, v)
  if not ok then
    error(("%s: value cannot be stored: %s"):format(what, explain(v, err)), level or 3)
  end
  return TABLE, 0, encoder:ref()
end

--- The value that C's type, number and bytes make.
---@param kind integer
---@param number number
---@param data ffi.cdata*
---@param len number
---@return any
function value.of(kind, number, data, len)
  if kind == NUMBER then return number end
  if kind == STRING then return ffi_string(data, len) end
  if kind == NIL then return nil end
  if kind == BOOLEAN then return number ~= 0 end
  local text = ffi_string(data, len)
  return (string_buffer.decode(text))
end

return value
