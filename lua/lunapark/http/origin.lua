--- Origins of pages, as a browser names them in Origin: scheme://host, and a port that is not the scheme's.

local lower = string.lower

local origin = {}

--- The set of these origins, in lower case. Raises if one of them is none.
---@param list string[]
---@param what string   the option, with the function's name before it
---@param level integer  as of error, counted from the caller
---@return table<string, true>
function origin.set(list, what, level)
  local set = {}
  for _, text in ipairs(list) do
    if type(text) ~= "string" or not text:find "^%a[%w+.-]*://[^/]+$" then
      error(("%s: %q is no origin, such as https://example.com"):format(what, tostring(text)), level + 1)
    end
    set[lower(text)] = true
  end
  return set
end

return origin
