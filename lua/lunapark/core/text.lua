--- Numbers as text; taking apart texts that come from strangers, in time that grows with their length.
--
-- Lua's patterns backtrack: `^%s*(.-)%s*$` tries a run of blanks anew for each of its bytes, `(.-)\n` a text without a
-- line break for each of its bytes, so that a field of 16 KB costs a second. The functions here go through a text once.

local ffi = require "ffi"
require "lunapark.cdef"

local C = ffi.C
local byte, find, sub = string.byte, string.find, string.sub
local digits = ffi.new("char[?]", C.HOST_NUMBER_MAX)

local text = {}

--- A number as JSON has it, for whatever takes "a string or a number": tostring knows 14 digits alone.
---@param n number
---@return string
function text.number(n)
  return ffi.string(digits, C.host_number_text(n, digits))
end

--- The text without the blanks and tabs at both ends.
---@param s string
---@return string
function text.trim(s)
  local from = find(s, "[^ \t]")
  if not from then return "" end
  local to = #s
  local last = byte(s, to)
  while last == 32 or last == 9 do
    to = to - 1
    last = byte(s, to)
  end
  return sub(s, from, to)
end

--- Goes through the pieces that end with `stop`: for piece in text.pieces("a\nb\n", "\n"). The rest behind the last
--- `stop` is no piece.
---@param s string
---@param stop string
---@return fun(): string?
function text.pieces(s, stop)
  local at = 1
  return function()
    local first, last = find(s, stop, at, true)
    if not first then return nil end
    local piece = sub(s, at, first - 1)
    at = last + 1
    return piece
  end
end

return text
