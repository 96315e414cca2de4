--- A jar for the test client's cookies, which come in Set-Cookie fields and are sent back by the rules of RFC 6265.
--
-- A cookie goes back to the host that has set it, or, with Domain, to that domain and the domains below it; to its path
-- and the paths below it; until Max-Age or Expires. Secure cookies are kept, and sent over TLS alone. Values are as
-- they stand in the field: nothing is decoded.

local trim = require("lunapark.core.text").trim

local concat = table.concat

-- A jar has no more cookies: the one that was set longest ago goes.
local MOST = 1000

---@class lunapark.testing.Cookie
---@field name string
---@field value string
---@field path string
---@field domain string        the host, or what Domain said
---@field host_only boolean    it had no Domain
---@field expires number|nil   seconds since 1970
---@field secure boolean
---@field http_only boolean
---@field package number integer  in the order of making

---@class lunapark.testing.Jar
---@field package list lunapark.testing.Cookie[]
---@field package made integer
local Jar = {}
local jar_mt = { __name = "lunapark.testing.Jar", __index = Jar }

local cookies = {}

--- An empty jar.
---@return lunapark.testing.Jar
function cookies.new()
  return setmetatable({ list = {}, made = 0 }, jar_mt)
end

local months = {
  jan = 1, feb = 2, mar = 3, apr = 4, may = 5, jun = 6, jul = 7, aug = 8, sep = 9, oct = 10, nov = 11, dec = 12,
}

-- Seconds since 1970 of a date in UTC. March is the first month of a year here, so that leap days come last.
local function seconds_of(year, month, day, hour, min, sec)
  if month <= 2 then
    year, month = year - 1, month + 12
  end
  local days = 365 * year + math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
    + math.floor((153 * (month - 3) + 2) / 5) + day - 719469
  return ((days * 24 + hour) * 60 + min) * 60 + sec
end

-- The moment of an Expires attribute; nil: the text is no date.
local function parse_date(text)
  local day, month, year, hour, min, sec = text:match "(%d%d?)[ -](%a%a%a)%a*[ -](%d%d%d?%d?) (%d%d?):(%d%d):(%d%d)"
  month = month and months[month:lower()]
  if not month then return nil end
  year = tonumber(year)
  if year < 70 then year = year + 2000 elseif year < 100 then year = year + 1900 end
  return seconds_of(year, month, tonumber(day), tonumber(hour), tonumber(min), tonumber(sec))
end

local function is_address(host)
  return host:find "^[%d.]+$" ~= nil or host:find(":", 1, true) ~= nil
end

local function in_domain(host, domain)
  return host == domain or not is_address(host) and host:sub(-#domain - 1) == "." .. domain
end

local function in_path(path, prefix)
  if path:sub(1, #prefix) ~= prefix then return false end
  return #path == #prefix or prefix:sub(-1) == "/" or path:sub(#prefix + 1, #prefix + 1) == "/"
end

local function path_of(target)
  return target:match "^[^?#]*"
end

-- The texts before the first "=" and behind it; without one the whole text, and nil.
local function halves(part)
  local at = part:find("=", 1, true)
  if not at then return trim(part) end
  return trim(part:sub(1, at - 1)), trim(part:sub(at + 1))
end

-- name=value; Attribute=value; Flag ... nil: no cookie.
local function parse(field)
  local pair, rest = field:match "^([^;]*)(.*)$"
  local name, value = halves(pair)
  if not value or name == "" then return nil end
  local attributes = {}
  for part in rest:gmatch "[^;]+" do
    local key, setting = halves(part)
    attributes[key:lower()] = setting or ""
  end
  return name, value, attributes
end

local function remove(self, cookie)
  for i, other in ipairs(self.list) do
    if other.name == cookie.name and other.domain == cookie.domain and other.path == cookie.path then
      return table.remove(self.list, i)
    end
  end
end

local function put(self, cookie)
  local old = remove(self, cookie)
  if cookie.expires and cookie.expires <= os.time() then return end
  self.made = self.made + 1
  cookie.number = old and old.number or self.made
  self.list[#self.list + 1] = cookie
  if #self.list > MOST then table.remove(self.list, 1) end
end

--- Takes the cookies that a response has set. A cookie for another domain is refused.
---@param fields string[]  values of Set-Cookie fields
---@param host string      of the request
---@param target string    of the request
function Jar:take(fields, host, target)
  for _, field in ipairs(fields) do
    local name, value, attributes = parse(field)
    local domain = name and (attributes.domain or ""):gsub("^%.", ""):lower()
    if name and (domain == "" or in_domain(host, domain)) then
      local age, path = tonumber(attributes["max-age"]), attributes.path
      if not path or path:sub(1, 1) ~= "/" then path = path_of(target):match "^(/.*)/[^/]*$" or "/" end
      put(self, {
        name = name, value = value, path = path, domain = domain ~= "" and domain or host, host_only = domain == "",
        expires = age and (age <= 0 and 0 or os.time() + age) or attributes.expires and parse_date(attributes.expires),
        secure = attributes.secure ~= nil, http_only = attributes.httponly ~= nil,
      })
    end
  end
end

local function alive(cookie)
  return not cookie.expires or cookie.expires > os.time()
end

--- The Cookie field for a request: longer paths first, then as they were made. nil: none.
---@param host string
---@param target string
---@param secure? boolean  it goes over TLS
---@return string|nil
function Jar:field(host, target, secure)
  local path, found = path_of(target), {}
  for _, cookie in ipairs(self.list) do
    local fits = cookie.host_only and host == cookie.domain or not cookie.host_only and in_domain(host, cookie.domain)
    if fits and in_path(path, cookie.path) and (secure or not cookie.secure) and alive(cookie) then
      found[#found + 1] = cookie
    end
  end
  if #found == 0 then return nil end
  table.sort(found, function(a, b)
    if #a.path ~= #b.path then return #a.path > #b.path end
    return a.number < b.number
  end)
  for i, cookie in ipairs(found) do found[i] = cookie.name .. "=" .. cookie.value end
  return concat(found, "; ")
end

--- The value of a cookie of any path; nil: there is none.
---@param name string
---@return string|nil value
---@return lunapark.testing.Cookie|nil cookie
function Jar:get(name)
  for _, cookie in ipairs(self.list) do
    if cookie.name == name and alive(cookie) then return cookie.value, cookie end
  end
end

--- Puts a cookie into the jar, for all paths of a host.
---@param host string
---@param name string
---@param value string
function Jar:set(host, name, value)
  put(self, {
    name = name, value = value, path = "/", domain = host, host_only = true, secure = false, http_only = false,
  })
end

--- Empties the jar.
function Jar:clear()
  self.list = {}
end

return cookies
