--- Fields of queries and of forms that are application/x-www-form-urlencoded: `a=1&b=two+words`.
--
-- A name has one string, the last that was sent. A table for a name that comes twice would let every client decide
-- what type a handler gets, and turn `"Hello " .. req.query.name` into an error. `all` has every value of a name.
--
-- host/http/form.c decodes, several fields in one call. Compiled code goes straight through the first FEW: a loop would
-- be left at another length by each request, and a loop that runs once or twice is given up by the JIT, with the code
-- around it. More fields are taken apart beside compiled code.

local ffi = require "ffi"
require "lunapark.cdef"
local apart = require("lunapark.core").apart

local C = ffi.C
local ffi_string = ffi.string

-- Nothing waits between two fields, so all requests of the VM share the room.
local ROOM, FEW, MANY = 4096, 4, 32
local room = ffi.new("char[?]", ROOM)
local fields = ffi.new("host_field[?]", MANY)
local at = ffi.new "uint32_t[1]"

local form = {}

local function room_for(len)
  return len <= ROOM and room or ffi.new("char[?]", len)
end

local function name_of(out, i)
  return (ffi_string(out + fields[i].name, fields[i].name_len))
end

local function value_of(out, i)
  return (ffi_string(out + fields[i].value, fields[i].value_len))
end

-- Calls fn(name, value) for each field; false: there are more than max.
local function each(s, len, max, fn)
  local out, count = room_for(len), 0
  at[0] = 0
  repeat
    local n = C.host_fields(s, len, at, out, fields, MANY)
    count = count + n
    if count > (max or count) then return false end
    for i = 0, n - 1 do
      fn(name_of(out, i), value_of(out, i))
    end
  until at[0] == len
  return true
end
jit.off(each)

local function parse_many(s, len, max)
  local values = {}
  return each(s, len, max, function(name, value) values[name] = value end) and values or nil
end
jit.off(parse_many, true)

--- The last value of each name.
---@param s string|ffi.cdata*  const char *, which stays where it is
---@param len integer  bytes of s
---@param max? integer  fields at most; without it any number
---@return table<string, string>|nil values  decoded; nil: there are more than max fields
function form.parse(s, len, max)
  if len == 0 then return {} end
  local out = room_for(len)
  at[0] = 0
  local n = C.host_fields(s, len, at, out, fields, FEW)
  if at[0] < len then
    local values = apart(parse_many, s, len, max)
    return values
  end
  if n > (max or n) then return nil end
  if n == 1 then return { [name_of(out, 0)] = value_of(out, 0) } end
  if n == 2 then return { [name_of(out, 0)] = value_of(out, 0), [name_of(out, 1)] = value_of(out, 1) } end
  if n == 3 then
    return {
      [name_of(out, 0)] = value_of(out, 0), [name_of(out, 1)] = value_of(out, 1), [name_of(out, 2)] = value_of(out, 2),
    }
  end
  if n == 4 then
    return {
      [name_of(out, 0)] = value_of(out, 0), [name_of(out, 1)] = value_of(out, 1), [name_of(out, 2)] = value_of(out, 2),
      [name_of(out, 3)] = value_of(out, 3),
    }
  end
  return {}
end

local function all(s, len, name, list)
  each(s, len, nil, function(its, value)
    if its == name then list[#list + 1] = value end
  end)
end
jit.off(all, true)

--- Appends all values of a name, in order.
---@param s string|ffi.cdata*
---@param len integer
---@param name string
---@param list string[]
function form.all(s, len, name, list)
  apart(all, s, len, name, list)
end

return form
