--- Cookies: reading one from a Cookie field, writing a Set-Cookie field.
--
-- A cookie's value may hold neither spaces, quotes, commas, semicolons nor backslashes. Values are percent-encoded on
-- the way out where they need it and decoded on the way in (host/http/cookie.c), so any string survives the round trip.

local ffi = require "ffi"
require "lunapark.cdef"
local number_text = require("lunapark.core.text").number

local C = ffi.C
local ffi_string = ffi.string
local find, format, gsub = string.find, string.format, string.gsub

local cookie = {}

-- Nothing waits while a cookie is read, so all requests of the VM share the room.
local ROOM = 4096
local room = ffi.new("char[?]", ROOM)

--- The value of the first cookie called `name` in a Cookie field.
---@param field string|nil
---@param name string
---@return string|nil
function cookie.get(field, name)
  if not field then return nil end
  local out = #field <= ROOM and room or ffi.new("char[?]", #field)
  local n = C.host_cookie_get(field, #field, name, #name, out)
  if n < 0 then return nil end
  return (ffi_string(out, n))
end

local function escape(c)
  return format("%%%02X", c:byte())
end

local same_sites = { lax = "Lax", strict = "Strict", none = "None" }

-- How each option is written. Names are compared without case, "_" and "-": max_age, maxAge and Max-Age are one.
local writers = {
  path = function(v) return "; Path=" .. v end,
  domain = function(v) return "; Domain=" .. v end,
  maxage = function(v) return type(v) == "number" and format("; Max-Age=%d", v) end,
  expires = function(v)
    return type(v) == "number" and "; Expires=" .. os.date("!%a, %d %b %Y %H:%M:%S GMT", v)
  end,
  secure = function(v) return v and "; Secure" or "" end,
  httponly = function(v) return v and "; HttpOnly" or "" end,
  samesite = function(v) return same_sites[tostring(v):lower()] and "; SameSite=" .. same_sites[v:lower()] end,
}
local order = { "path", "domain", "maxage", "expires", "secure", "httponly", "samesite" }

--- The value of a Set-Cookie field.
---@param name string
---@param value string|number
---@param opts? table  path (default "/"), domain, max_age (seconds), expires (seconds since 1970), secure, http_only,
---same_site ("lax", "strict", "none")
---@param level? integer  as for `error`
---@return string
function cookie.format(name, value, opts, level)
  level = (level or 1) + 1
  if type(name) ~= "string" or not find(name, "^[%w!#$%%&'*+%-.^_`|~]+$") then
    error("cookie: name must be a token, got " .. tostring(name), level)
  end
  if type(value) == "number" then value = number_text(value) end
  if type(value) ~= "string" then error("cookie: value must be a string, got " .. type(value), level) end
  local given = { path = "/" }
  for option, setting in pairs(opts or {}) do
    local key = gsub(tostring(option):lower(), "[_-]", "")
    if not writers[key] then error("cookie: unknown option " .. tostring(option), level) end
    given[key] = setting
  end
  local line = name .. "=" .. gsub(value, '[%z\1-\32"%%,;\\\127-\255]', escape)
  for _, key in ipairs(order) do
    local setting = given[key]
    if setting ~= nil then
      local text = (type(setting) ~= "string" or not find(setting, "[%z\1-\31;\127]")) and type(setting) ~= "table"
        and writers[key](setting)
      if not text then error("cookie: bad value of option " .. key .. ": " .. tostring(setting), level) end
      line = line .. text
    end
  end
  return line
end

return cookie
