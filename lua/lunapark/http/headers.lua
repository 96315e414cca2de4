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
-- Fields live at integer keys (1: name, 2: name in lower case, 3: value, 4: next name ...; 0: how many fields; while
-- lazy 1 is the request), so every string key is free for names. Method names win over field names: a field called
-- "add" in lower case is read with `get("add")`.
--
-- Fields that a program sets are validated, because a line break in a value would let a client write headers of its
-- own.

local ffi = require "ffi"
require "lunapark.cdef"
local apart = require("lunapark.core").apart
local number_text = require("lunapark.core.text").number
local live = require("lunapark.http.exchange").live

local C = ffi.C
local find, gsub, lower = string.find, string.gsub, string.lower
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
    local hint = type(name) == "number" and ': write them by name, { ["X-Name"] = "value" }' or ""
    error("headers: name must be a token, got " .. (type(name) == "string" and ("%q"):format(name) or type(name))
      .. hint, level)
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

-- A lazy object's request, as cdata. Raises when the request is over.
local function request_of(h, level)
  local x = rawget(h, 1)
  return type(x) == "table" and live(x, level + 1)
end

-- Appends a field that was checked. New keys need rawset, as plain assignment is for names.
local function append(h, name, low, value)
  local n = h[0]
  rawset(h, 3 * n + 1, name)
  rawset(h, 3 * n + 2, low)
  rawset(h, 3 * n + 3, value)
  h[0] = n + 1
end
jit.off(append)

local function copy_fields(h, r)
  local buf = r.buf
  h[1] = nil
  for i = 0, r.nheaders - 1 do
    local field = r.headers[i]
    local name = ffi_string(buf + field.name.off, field.name.len)
    append(h, name, lower(name), ffi_string(buf + field.value.off, field.value.len))
  end
end
jit.off(copy_fields)

-- Copies the fields of a lazy object.
local function materialize(h, level)
  local r = request_of(h, level + 1)
  if r then apart(copy_fields, h, r) end
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
jit.off(remove)

-- Takes values that were checked.
local function set_all(h, name, low, values)
  remove(h, low, 0)
  for i = 1, #values do
    append(h, name, low, values[i])
  end
end
jit.off(set_all)

-- The values of a list as text. An error blames who called set's caller.
local function texts_of(name, list, level)
  local values = {}
  for i = 1, #list do
    values[i] = check_value(name, list[i], level + 2)
  end
  return values
end
jit.off(texts_of)

local function set_one(h, name, low, value)
  for i = 0, h[0] - 1 do
    if h[3 * i + 2] == low then
      h[3 * i + 1], h[3 * i + 3] = name, value
      return remove(h, low, i + 1)
    end
  end
  append(h, name, low, value)
end
jit.off(set_one)

local function set(h, name, value, level)
  local low = known[name] or check_name(name, level + 1)
  materialize(h, level)
  if value == nil then
    apart(remove, h, low, 0)
  elseif type(value) == "table" then
    local texts = apart(texts_of, name, value, level + 1)
    apart(set_all, h, name, low, texts)
  else
    value = check_value(name, value, level + 1)
    apart(set_one, h, name, low, value)
  end
end

local value_out = ffi.new "host_span"

-- All values of a field.
local function all_values(h, low, r)
  local values = {}
  if r then
    local buf = r.buf
    for i = 0, r.nheaders - 1 do
      local field = r.headers[i]
      if field.name.len == #low and lower(ffi_string(buf + field.name.off, #low)) == low then
        values[#values + 1] = ffi_string(buf + field.value.off, field.value.len)
      end
    end
    return values
  end
  for i = 0, h[0] - 1 do
    if h[3 * i + 2] == low then values[#values + 1] = h[3 * i + 3] end
  end
  return values
end
jit.off(all_values)

-- The values of a field as one.
local function joined(h, low, r)
  local values = all_values(h, low, r)
  if not values[2] or low == "set-cookie" then return values[1] end
  return concat(values, low == "cookie" and "; " or ", ")
end
jit.off(joined)

--- All values of a field, in order.
---@param name string
---@return string[]  empty if there is none
function methods:get_all(name)
  local values = apart(all_values, self, lower(name), request_of(self, 2))
  return values
end

--- The value of a field; repeats are joined as HTTP says.
---@param name string
---@return string|nil
function methods:get(name)
  local r = request_of(self, 2)
  if r and type(name) == "string" then
    local n = C.host_req_header(r, name, #name, value_out)
    if n == 0 then return nil end
    if n == 1 then return (ffi_string(r.buf + value_out.off, value_out.len)) end
  elseif self[0] == 0 then
    return nil
  end
  local value = apart(joined, self, lower(name), r)
  return value
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
  apart(append, self, name, low, value)
end

--- Adds a field that a peer has sent, whose name is a token and whose value has no CR, LF or NUL. Nothing is remembered
--- of the name.
---@param h lunapark.Headers  that are no request's
---@param name string
---@param value string
function headers.received(h, name, value)
  apart(append, h, name, lower(name), value)
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
  return (setmetatable({ [0] = 0 }, mt))
end

--- The headers of a request, read from its connection's buffer when asked for.
---@param x lunapark.Exchange  its request or response
---@return lunapark.Headers
function headers.of_request(x)
  return (setmetatable({ [0] = 0, x }, mt))
end

-- Calls set from a function for which the JIT is off: what is recorded in set ends in a vararg function (dispatch.lua).
function headers.set_from(...)
  set(...)
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
        headers.set_from(h, name, value, 2)
        first[low] = true
      end
    end
    return
  end
  for name, value in pairs(fields) do
    headers.set_from(h, name, value, 2)
  end
end

jit.off(headers.merge)

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

local function add_fixed(h, fixed)
  local n = h[0]
  for i = 1, #fixed, 3 do
    local low, k = fixed[i + 1], 0
    while k < n and h[3 * k + 2] ~= low do k = k + 1 end
    if k == n then append(h, fixed[i], low, fixed[i + 2]) end
  end
end
jit.off(add_fixed)

--- Sets fixed fields, where there are none of these names.
---@param h lunapark.Headers  that are no request's
---@param fixed string[]
function headers.put_fixed(h, fixed)
  apart(add_fixed, h, fixed)
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
