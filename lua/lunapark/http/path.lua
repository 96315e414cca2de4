--- Paths: where raw bytes become names.
--
-- A path is cut at its raw slashes first and each piece is percent-decoded once afterwards, so that an escaped slash
-- (%2F) stays inside its segment and nothing is ever decoded twice. Then "." and ".." are resolved, escaped ones
-- (%2e%2e) included: what a route or a handler sees is what a file server further down would see, and there is no
-- second spelling that slips past a check. Empty segments ("//") are segments; only the routes decide what they mean.
--
-- A segment whose slash was escaped is a name with a slash in it, and handlers put names together to paths of files:
-- "..%2Fetc" would climb there, where dots are not resolved any more. So a segment that holds a separator (a slash, or
-- a backslash, which is one to other systems) and beside it "." or ".." is an error. "a%2Fb" stays as it is.
--
-- A "+" is a plus and a bad escape is an error, other than in queries (form.lua), by which nothing is routed.

local char, find, gsub, sub = string.char, string.find, string.gsub, string.sub
local concat = table.concat

local path = {}

local function byte_of(hex)
  return char(tonumber(hex, 16))
end

--- Percent-decodes `s` once.
---@param s string
---@return string|nil decoded  nil when an escape is not "%" and two hex digits
local function decode(s)
  local decoded, escapes = gsub(s, "%%(%x%x)", byte_of)
  local _, percents = gsub(s, "%%", "%%")
  return escapes == percents and decoded or nil
end
path.decode = decode

-- Whether a segment has "." or ".." between separators of its own.
local function hides_dots(segment)
  if not find(segment, "[/\\]") then return false end
  return find("/" .. gsub(segment, "\\", "/") .. "/", "/%.%.?/") ~= nil
end

--- Splits a raw path that begins with "/" into decoded segments with "." and ".." resolved. "/" has one segment, "".
---@param raw string
---@param out string[]  gets the segments at 1 .. n; its other elements are left as they are
---@return integer|nil n  how many
---@return string? err    "bad percent escape", "NUL in path", "dots behind an escaped slash" or "above the root"
function path.split(raw, out)
  local n, pos = 0, 2
  local odd = find(raw, "[%%\\]") ~= nil
  while true do
    local slash = find(raw, "/", pos, true)
    local segment = sub(raw, pos, slash and slash - 1 or -1)
    if odd then
      segment = decode(segment)
      if not segment then return nil, "bad percent escape" end
      if hides_dots(segment) then return nil, "dots behind an escaped slash" end
      -- C ends a file name at a NUL; what comes after it would be checked and then not be used.
      if find(segment, "\0", 1, true) then return nil, "NUL in path" end
    end
    -- At the end of a path a dot segment names a directory: "/a/." is "/a/", not "/a".
    if segment == ".." then
      if n == 0 then return nil, "above the root" end
      n = n - 1
      if not slash then n, out[n + 1] = n + 1, "" end
    elseif segment ~= "." then
      n = n + 1
      out[n] = segment
    elseif not slash then
      n = n + 1
      out[n] = ""
    end
    if not slash then return n end
    pos = slash + 1
  end
end

--- The path of n segments.
---@param segments string[]
---@param n integer
---@return string
function path.join(segments, n)
  return "/" .. concat(segments, "/", 1, n)
end

return path
