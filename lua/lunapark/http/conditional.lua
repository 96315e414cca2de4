--- Conditional requests (RFC 9110, section 13): whether a client has a representation already; and dates as HTTP has
--- them.
--
-- A date has whole seconds, and a file may change twice in one. So entity tags decide where a client sends one, and
-- dates only where it does not.

local date = os.date
local floor, format, gmatch, match = math.floor, string.format, string.gmatch, string.match

local conditional = {}

local DAYS = { "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat" }
local MONTHS = { "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" }
local month_of = {}
for i, name in ipairs(MONTHS) do
  month_of[name] = i
end

--- A time as HTTP writes it.
---@param t integer  seconds since 1970
---@return string
function conditional.date(t)
  local d = date("!*t", t)
  return format("%s, %02d %s %04d %02d:%02d:%02d GMT", DAYS[d.wday], d.day, MONTHS[d.month], d.year, d.hour, d.min,
    d.sec)
end

-- Days from 1970-01-01 to a day of the Gregorian calendar. Years begin in March here, so that leap days end them.
local function days(y, m, d)
  if m <= 2 then
    y, m = y - 1, m + 12
  end
  return 365 * y + floor(y / 4) - floor(y / 100) + floor(y / 400) + floor((153 * (m - 3) + 2) / 5) + d - 719469
end

-- The year that two digits mean: none that is more than 50 years ahead.
local function whole_year(digits)
  local now = date("!*t").year
  local y = now - now % 100 + digits
  return y > now + 50 and y - 100 or y
end

--- The time that a date of HTTP means, in each of its three forms.
---@param text string
---@return integer|nil  seconds since 1970; nil: it is no date
function conditional.time(text)
  local d, mon, y, h, m, s = match(text, "^%a%a%a, (%d%d) (%a%a%a) (%d%d%d%d) (%d%d):(%d%d):(%d%d) GMT$")
  if not d then
    d, mon, y, h, m, s = match(text, "^%a+, (%d%d)%-(%a%a%a)%-(%d%d) (%d%d):(%d%d):(%d%d) GMT$")
    y = y and whole_year(tonumber(y))
  end
  if not d then
    mon, d, h, m, s, y = match(text, "^%a%a%a (%a%a%a) ([ %d]%d) (%d%d):(%d%d):(%d%d) (%d%d%d%d)$")
  end
  local month = month_of[mon]
  if not month then return nil end
  return days(tonumber(y), month, tonumber(d)) * 86400 + h * 3600 + m * 60 + s
end

local function opaque(etag)
  return match(etag, '^W/(.*)') or etag
end

-- Whether a list of entity tags has this one. strong: a weak one equals none.
local function listed(list, etag, strong)
  if match(list, "^[ \t]*%*[ \t]*$") then return true end
  if not etag then return false end
  if strong and match(etag, "^W/") then return false end
  local wanted = opaque(etag)
  for weak, tag in gmatch(list, '(W?/?)("[^"]*")') do
    if tag == wanted and not (strong and weak ~= "") then return true end
  end
  return false
end

--- What a GET or HEAD request for a representation is answered, that is there.
---@param h lunapark.Headers       of the request
---@param etag string|nil
---@param modified integer|nil     when it was changed: seconds since 1970
---@return integer|nil status      304 or 412; nil: the representation
function conditional.check(h, etag, modified)
  local field = h:get "if-match"
  if field then
    if not listed(field, etag, true) then return 412 end
  else
    field = modified and h:get "if-unmodified-since"
    local t = field and conditional.time(field)
    if t and modified > t then return 412 end
  end
  field = h:get "if-none-match"
  if field then return listed(field, etag, false) and 304 or nil end
  field = modified and h:get "if-modified-since"
  local t = field and conditional.time(field)
  return t and modified <= t and 304 or nil
end

--- Whether a Range field counts: the client has no part of another representation.
---@param h lunapark.Headers
---@param etag string|nil
---@param modified integer|nil
---@return boolean
function conditional.in_range(h, etag, modified)
  local field = h:get "if-range"
  if not field then return true end
  if match(field, '^%s*W?/?"') then return listed(field, etag, true) end
  local t = conditional.time(field)
  return t ~= nil and t == modified
end

return conditional
