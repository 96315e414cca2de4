--- Ranges of a representation that a client asks for (RFC 9110, section 14).
--
-- A range is cheap to ask for, and not to send: a thousand overlapping ranges ask for a thousand times the file. So
-- ranges that overlap, or lie closer together than the head of a part is long, become one, and a client that still asks
-- for more than MAX gets the whole file.

local find, gmatch, lower, match = string.find, string.gmatch, string.lower, string.match

local MAX = 8
local ASKED_MAX = 64
local GAP = 80 -- about what a part's head takes

local ranges = {}

---@class lunapark.Range
---@field at integer   its first byte, from 0
---@field last integer

-- The first and the last byte that one spec asks for; nil: the spec is malformed. false: there is no such byte.
local function bounds(spec, size)
  local first, last = match(spec, "^[ \t]*(%d*)%-(%d*)[ \t]*$")
  if not first or first == "" and last == "" then return nil end
  if first == "" then
    local n = tonumber(last)
    if n == 0 then return false end
    return n < size and size - n or 0, size - 1
  end
  first, last = tonumber(first), last == "" and math.huge or tonumber(last)
  if last < first then return nil end
  if first >= size then return false end
  return first, last < size and last or size - 1
end

-- Puts a range among the others, in the place of the first that it touches.
local function add(list, at, last)
  local place
  for i = #list, 1, -1 do
    local r = list[i]
    if at <= r.last + GAP and r.at <= last + GAP then
      at, last = r.at < at and r.at or at, r.last > last and r.last or last
      table.remove(list, i)
      place = i
    end
  end
  table.insert(list, place or #list + 1, { at = at, last = last })
end

--- The ranges that a Range field means, at most MAX, none of which touches another.
---@param field string
---@param size integer  bytes of the representation
---@return lunapark.Range[]|nil  nil: the field does not count, send the whole. Empty: there are no such bytes (416)
function ranges.parse(field, size)
  local unit, set = match(field, "^[ \t]*([^ \t=]+)[ \t]*=(.*)$")
  if not unit or lower(unit) ~= "bytes" or size == 0 then return nil end
  local list, asked = {}, 0
  for spec in gmatch(set, "[^,]+") do
    if find(spec, "[^ \t]") then
      asked = asked + 1
      local at, last = bounds(spec, size)
      if at == nil or asked > ASKED_MAX then return nil end
      if at then add(list, at, last) end
    end
  end
  if asked == 0 or #list > MAX then return nil end
  return list
end

return ranges
