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
    error(("%s: value cannot be stored: %s"):format(what, tostring(err):gsub("^%S+:%d+: ", "")), level or 3)
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
