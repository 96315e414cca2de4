--- Ranges of a representation that a client asks for: host/http/ranges.c.

local ffi = require "ffi"
require "lunapark.cdef"

local C = ffi.C

local found = ffi.new("host_range[?]", C.HOST_RANGES)

local ranges = {}

---@class lunapark.Range
---@field at integer   its first byte, from 0
---@field last integer

--- The ranges that a Range field means, none of which touches another.
---@param field string
---@param size integer  bytes of the representation
---@return lunapark.Range[]|nil  nil: the field does not count, send the whole. Empty: there are no such bytes (416)
function ranges.parse(field, size)
  local n = C.host_ranges(field, #field, size, found)
  if n < 0 then return nil end
  local list = {}
  for i = 1, n do
    list[i] = { at = found[i - 1].at, last = found[i - 1].last }
  end
  return list
end

return ranges
