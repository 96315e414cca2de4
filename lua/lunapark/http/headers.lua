--- Header fields: one type for requests, responses, and responses that a client has received.
--
-- `headers["content-type"]` finds a field whatever the case of its name; `headers["X-Id"] = "7"` sets one. Order is
-- kept, repeats are joined on reading as HTTP says: with ", ", cookies with "; ", and Set-Cookie never (its values
-- contain commas): reading it by index gives the first one, `get_all` gives all.
--
-- A request brings ten fields of which a handler reads one or none, so making Lua strings of all of them would cost
-- more than the rest of the request. A request's Headers therefore start out *lazy*: they hold the request, and a
-- lookup compares bytes in the connection's buffer. The first change or iteration copies all fields into a plain list.
-- While lazy they end with the request: then reading raises "request is over", as with every other part of it.
--
-- Fields live at integer keys (1: name, 2: name in lower case, 3: value, 4: next name ...; 0: how many fields; -1: the
-- request while lazy, else false), so every string key is free for names. Method names win over
-- field names: a field called "add" in lower case is read with `get("add")`.
--
-- Fields that a program sets are validated, because a line break in a value would let a client write headers of its
-- own.

local ffi = require "ffi"
require "lunapark.cdef"
local number_text = require("lunapark.core.text").number
local live = require("lunapark.http.exchange").live

local C = ffi.C
local band, bor = require("bit").band, require("bit").bor
local byte, find, gsub, lower = string.byte, string.find, string.gsub, string.lower
local concat, ffi_string = table.concat, ffi.string

---@class lunapark.Headers
---@field [string] string|number|(string|number)[]|nil  reading gives a string or nil
local methods = {}
local mt = { __name = "lunapark.Headers" }

local headers = { mt = mt }

-- Valid names that were set before and their lower case. Programs set few names; the limit is for programs
-- that make names from data.
local known, known_left = {}, 1000

-- Fields that people write with "_", since `headers.Content_Type` is a name of Lua's.
local standard = {}
for name in ([[
  accept accept-encoding accept-language accept-ranges access-control-allow-credentials access-control-allow-headers
  access-control-allow-methods access-control-allow-origin access-control-expose-headers access-control-max-age
  cache-control content-disposition content-encoding content-language content-length content-location content-range
  content-security-policy content-type cross-origin-opener-policy if-match if-modified-since if-none-match
  if-unmodified-since last-modified permissions-policy referrer-policy retry-after sec-fetch-site set-cookie
  strict-transport-security transfer-encoding user-agent www-authenticate x-content-type-options x-forwarded-for
  x-frame-options x-request-id x-requested-with
]]):gmatch "%S+" do standard[name] = true end

-- In all of these functions `level` says whom an error blames, as seen from inside the function that gets it.
local function check_name(name, level)
  if type(name) ~= "string" or not find(name, "^[%w!#$%%&'*+%-.^_`|~]+$") then
    error("headers: name must be a token, got " .. (type(name) == "string" and ("%q"):format(name) or type(name)),
      level)
  end
  local low = lower(name)
  local dashed = find(name, "_", 1, true) and (gsub(low, "_", "-"))
  if dashed and standard[dashed] then
    error(('headers: no client knows %s: did you mean headers["%s"]?'):format(name, (gsub(name, "_", "-"))), level)
  end
  if known_left > 0 then
    known_left = known_left - 1
    known[name] = low
  end
  return low
end

local function check_value(name, value, level)
  if type(value) == "number" then value = number_text(value) end
  if type(value) ~= "string" then
    error("headers: value of " .. name .. " must be a string, a number or a list of them, got " .. type(value), level)
  end
  if C.host_is_field_value(value, #value) == 0 then
    error("headers: value of " .. name .. " contains CR, LF or NUL, or another control character", level)
  end
  return value
end

-- Whether buf[off .. off + #low) is `low`, which is in lower case.
local function same_name(buf, off, low)
  for i = 1, #low do
    local c = band(buf[off + i - 1], 0xff)
    if c >= 65 and c <= 90 then c = bor(c, 32) end
    if c ~= byte(low, i) then return false end
  end
  return true
end

-- A lazy object's request, as cdata. Raises when the request is over.
local function request_of(h, level)
  local x = h[-1]
  return x and live(x, level + 1)
end

-- Appends a field that was checked. New keys need rawset, as plain assignment is for names.
local function append(h, name, low, value)
  local n = h[0]
  rawset(h, 3 * n + 1, name)
  rawset(h, 3 * n + 2, low)
  rawset(h, 3 * n + 3, value)
  h[0] = n + 1
end

-- Copies the fields of a lazy object.
local function materialize(h, level)
  local r = request_of(h, level + 1)
  if not r then return end
  local buf = r.buf
  h[-1] = false
  for i = 0, r.nheaders - 1 do
    local field = r.headers[i]
    local name = ffi_string(buf + field.name.off, field.name.len)
    append(h, name, lower(name), ffi_string(buf + field.value.off, field.value.len))
  end
end

-- Removes the fields called `low` from field number `from` on, counted from 0.
local function remove(h, low, from)
  local n, kept = h[0], from
  for i = from, n - 1 do
    if h[3 * i + 2] ~= low then
      h[3 * kept + 1], h[3 * kept + 2], h[3 * kept + 3] = h[3 * i + 1], h[3 * i + 2], h[3 * i + 3]
      kept = kept + 1
    end
  end
  for i = 3 * kept + 1, 3 * n do
    h[i] = nil
  end
  h[0] = kept
end

local function set(h, name, value, level)
  local low = known[name] or check_name(name, level + 1)
  materialize(h, level)
  if value == nil then return remove(h, low, 0) end
  if type(value) == "table" then
    local values = {}
    for i = 1, #value do
      values[i] = check_value(name, value[i], level + 1)
    end
    remove(h, low, 0)
    for i = 1, #values do
      append(h, name, low, values[i])
    end
    return
  end
  value = check_value(name, value, level + 1)
  for i = 0, h[0] - 1 do
    if h[3 * i + 2] == low then
      h[3 * i + 1], h[3 * i + 3] = name, value
      return remove(h, low, i + 1)
    end
  end
  append(h, name, low, value)
end

-- The i-th value of `low`, counted from where a search stands: the value and the place to go on from, or nil.
local function next_lazy(r, low, i)
  local buf, len = r.buf, #low
  for k = i, r.nheaders - 1 do
    local name = r.headers[k].name
    if name.len == len and same_name(buf, name.off, low) then
      local value = r.headers[k].value
      return ffi_string(buf + value.off, value.len), k + 1
    end
  end
end

local function next_listed(h, low, i)
  for k = i, h[0] - 1 do
    if h[3 * k + 2] == low then return h[3 * k + 3], k + 1 end
  end
end

--- All values of a field, in order.
---@param name string
---@return string[]  empty if there is none
function methods:get_all(name)
  local low, r = lower(name), request_of(self, 2)
  local search, from = r and next_lazy or next_listed, r or self
  local values = {}
  local value, place = search(from, low, 0)
  while value do
    values[#values + 1] = value
    value, place = search(from, low, place)
  end
  return values
end

--- The value of a field; repeats are joined as HTTP says.
---@param name string
---@return string|nil
function methods:get(name)
  local low, r = lower(name), request_of(self, 2)
  local search, from = r and next_lazy or next_listed, r or self
  local value, place = search(from, low, 0)
  if not value or low == "set-cookie" or not search(from, low, place) then return value end
  return concat(methods.get_all(self, low), low == "cookie" and "; " or ", ")
end

--- Sets a field, in place of all fields of that name; nil removes them. `headers[name] = value` does this, too.
---@param name string
---@param value string|number|(string|number)[]|nil  a list gives one line for each
function methods:set(name, value)
  set(self, name, value, 3)
end

--- Adds a field, and keeps the fields of that name.
---@param name string
---@param value string|number
function methods:add(name, value)
  local low = known[name] or check_name(name, 3)
  value = check_value(name, value, 3)
  materialize(self, 2)
  append(self, name, low, value)
end

--- Adds a field that a peer has sent, whose name is a token and whose value has no CR, LF or NUL. Nothing is remembered
--- of the name.
---@param h lunapark.Headers  that are no request's
---@param name string
---@param value string
function headers.received(h, name, value)
  append(h, name, lower(name), value)
end

local function iterate(h, i)
  if i < h[0] then return i + 1, h[3 * i + 1], h[3 * i + 3] end
end

--- Goes through all fields: `for i, name, value in headers:each() do`.
---@return fun(h: lunapark.Headers, i: integer): integer?, string?, string?
---@return lunapark.Headers
---@return integer
function methods:each()
  materialize(self, 2)
  return iterate, self, 0
end

function mt.__index(h, key)
  local method = methods[key]
  if method then return method end
  if type(key) ~= "string" then return nil end
  local value = methods.get(h, key)
  if value == nil and find(key, "_", 1, true) and standard[(gsub(lower(key), "_", "-"))] then
    error(('headers: there is no %s: did you mean headers["%s"]?'):format(key, (gsub(key, "_", "-"))), 2)
  end
  return value
end

function mt.__newindex(h, key, value)
  set(h, key, value, 3)
end

--- Empty headers.
---@return lunapark.Headers
function headers.new()
  return setmetatable({ [0] = 0, [-1] = false }, mt)
end

--- The headers of a request, read from its connection's buffer when asked for.
---@param x lunapark.Exchange  its request or response
---@return lunapark.Headers
function headers.of_request(x)
  return setmetatable({ [0] = 0, [-1] = x }, mt)
end

--- Sets the fields of a table (name -> value or list of values) or of other headers.
---@param h lunapark.Headers
---@param fields table|lunapark.Headers
function headers.merge(h, fields)
  if getmetatable(fields) == mt then
    local first = {}
    for _, name, value in methods.each(fields) do
      local low = lower(name)
      if first[low] then
        methods.add(h, name, value)
      else
        set(h, name, value, 2)
        first[low] = true
      end
    end
    return
  end
  for name, value in pairs(fields) do
    set(h, name, value, 2)
  end
end

--- Fields that middleware sets in each answer: checked once, here.
---@param list string[]  name, value, name, value ...
---@return string[]  for `put_fixed`
function headers.fixed(list)
  local fixed = {}
  for i = 1, #list, 2 do
    local low = check_name(list[i], 3)
    local n = #fixed
    fixed[n + 1], fixed[n + 2], fixed[n + 3] = list[i], low, check_value(list[i], list[i + 1], 3)
  end
  return fixed
end

--- Sets fixed fields, where there are none of these names.
---@param h lunapark.Headers  that are no request's
---@param fixed string[]
function headers.put_fixed(h, fixed)
  local n = h[0]
  for i = 1, #fixed, 3 do
    local low, k = fixed[i + 1], 0
    while k < n and h[3 * k + 2] ~= low do k = k + 1 end
    if k == n then append(h, fixed[i], low, fixed[i + 2]) end
  end
end

--- Adds a word to Vary, unless it is there.
---@param h lunapark.Headers
---@param word string
function headers.vary(h, word)
  local vary = methods.get(h, "vary")
  if not vary then
    set(h, "Vary", word, 2)
  elseif not find(lower(vary), lower(word), 1, true) and not find(vary, "*", 1, true) then
    set(h, "Vary", vary .. ", " .. word, 2)
  end
end

return headers
