--- Paths, for Lua that does not ask for a request's route: see host/http/path.c.

local ffi = require "ffi"
require "lunapark.cdef"

local C = ffi.C
local concat, ffi_string = table.concat, ffi.string

local path = {}

--- Percent-decodes `s` once.
---@param s string
---@return string|nil decoded  nil when an escape is not "%" and two hex digits
function path.decode(s)
  local out = ffi.new("char[?]", #s + 1)
  local n = C.host_path_decode(s, #s, out)
  return n >= 0 and ffi_string(out, n) or nil
end

local errors = {
  [C.HOST_PATH_NONE] = "does not begin with a slash",
  [C.HOST_PATH_ESCAPE] = "bad percent escape",
  [C.HOST_PATH_NUL] = "NUL in path",
  [C.HOST_PATH_DOTS] = "dots behind an escaped slash",
  [C.HOST_PATH_ABOVE] = "above the root",
}

--- Splits a raw path that begins with "/" into decoded segments. Slashes in a row are one; "." and ".." are resolved.
--- "/" has one segment, "".
---@param raw string
---@param out string[]  gets the segments at 1 .. n; its other elements are left as they are
---@return integer|nil n  how many
---@return string? err    "bad percent escape", "NUL in path", "dots behind an escaped slash" or "above the root"
function path.split(raw, out)
  local text, at = ffi.new("char[?]", #raw + 1), ffi.new("uint32_t[?]", #raw + 1)
  local n = C.host_path_split(raw, #raw, text, at)
  if n < 0 then return nil, errors[n] end
  for i = 1, n do
    out[i] = ffi_string(text + at[i - 1], at[i] - 1 - at[i - 1])
  end
  return n
end

--- The path of n segments.
---@param segments string[]
---@param n integer
---@return string
function path.join(segments, n)
  return "/" .. concat(segments, "/", 1, n)
end

jit.off(path.split)
jit.off(path.join)

return path
