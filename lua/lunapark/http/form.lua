--- Fields of queries and of forms that are application/x-www-form-urlencoded: `a=1&b=two+words`.
--
-- A name has one string, the last that was sent. A table for a name that comes twice would let every client decide
-- what type a handler gets, and turn `"Hello " .. req.query.name` into an error. `all` has every value of a name.
--
-- host/http/form.c decodes: what is compiled here goes from field to field.

local ffi = require "ffi"
require "lunapark.cdef"

local C = ffi.C
local ffi_string = ffi.string
local field = ffi.new "host_field"

-- Nothing waits between two fields, so all requests of the VM share the room.
local ROOM = 4096
local room = ffi.new("char[?]", ROOM)

local form = {}

--- The last value of each name.
---@param s string|ffi.cdata*  const char *, which stays where it is
---@param len integer  bytes of s
---@param max? integer  fields at most; without it any number
---@return table<string, string>|nil values  decoded; nil: there are more than max fields
function form.parse(s, len, max)
  local values, n, at = {}, 0, 0
  local out = len <= ROOM and room or ffi.new("char[?]", len)
  while C.host_field_next(s, len, at, out, field) == 1 do
    n = n + 1
    if n > (max or n) then return nil end
    values[ffi_string(out, field.name_len)] = ffi_string(out + field.name_len, field.value_len)
    at = field.next
  end
  return values
end

--- Appends all values of a name, in order.
---@param s string|ffi.cdata*
---@param len integer
---@param name string
---@param list string[]
function form.all(s, len, name, list)
  local at = 0
  local out = len <= ROOM and room or ffi.new("char[?]", len)
  while C.host_field_next(s, len, at, out, field) == 1 do
    if ffi_string(out, field.name_len) == name then
      list[#list + 1] = ffi_string(out + field.name_len, field.value_len)
    end
    at = field.next
  end
end

return form
