--- Functions of the binary that it does not export, for scripts of specs that bring about what a script can not:
--
--   local inside = require "spec.support.inside"
--   inside("rt_throw", "void (*)(const char *, ...)") "broken"
--
-- They are found by the binary's table of symbols, which nm reads.

local ffi = require "ffi"

-- The path of the binary, and where it lies in memory.
local function binary()
  for line in io.lines "/proc/self/maps" do
    local at, path = line:match "^(%x+)%-%x+ %S+ 0+ %S+ %S+ +(/.*)$"
    if at then return path, tonumber(at, 16) end
  end
end

---@param name string
---@param kind string  C's name for a pointer to such a function
---@return ffi.cdata*
return function(name, kind)
  local path, base = binary()
  local nm = assert(io.popen(("nm '%s'"):format(path)))
  local found
  for line in nm:lines() do
    local at, symbol = line:match "^(%x+) [TtW] (.*)$"
    if symbol == name then found = tonumber(at, 16) end
  end
  nm:close()
  -- A binary that is not relocated has its own addresses in the table.
  return ffi.cast(kind, assert(found, name) >= base and found or base + found)
end
