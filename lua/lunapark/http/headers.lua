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
-- Fields live at integer keys (1: name, 2: name in lower case, 3: value, 4: next name ...; 0: how many entries; while
-- lazy, with none, 1 is the request; -1: true if there are fixed fields), so every string key is free for names. Method
-- names win over field names: a field called "add" in lower case is read with `get("add")`.
--
-- Fields that an app's middleware sets in each answer are *fixed*: made once, and one entry for all of them (1: the
-- list of them, 2: their names in lower case as keys, 3: their lines). Fields are added behind such an entry, and lines
-- are made of it. Whatever else is done with one of its fields lays all of them out, as entries of their own.
--
-- An answer has few entries. To set a field of a name that is not there, and to make lines of these, takes no loop, so
-- that all of it can be compiled with what is around it (dispatch.lua).
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
  local x = h[0] == 0 and rawget(h, 1)
  return x and live(x, level + 1)
end

-- Appends an entry that was checked. New keys need rawset, as plain assignment is for names.
local function append(h, name, low, value)
  local n = h[0]
  rawset(h, 3 * n + 1, name)
  rawset(h, 3 * n + 2, low)
  rawset(h, 3 * n + 3, value)
  h[0] = n + 1
end

-- ---- entries of a name --------------------------------------------------------------------------------------

-- So many entries are looked at without a loop; there is room for them from the beginning.
local FEW = 4

-- Whether an entry, by the name it stands under, has a field called `low`.
local function has(names, low)
  return names == low or type(names) == "table" and names[low] == true
end

local function is_in_many(h, low)
  for i = 0, h[0] - 1 do
    if has(h[3 * i + 2], low) then return true end
  end
  return false
end
jit.off(is_in_many)

-- Whether there is a field called `low`. Not for lazy headers.
local function is_there(h, low)
  local n = h[0]
  if n > FEW then return (apart(is_in_many, h, low)) end
  return n > 0 and has(h[2], low) or n > 1 and has(h[5], low) or n > 2 and has(h[8], low) or n > 3 and has(h[11], low)
end

-- Makes entries of their own of the fixed fields.
local function lay_out(h)
  local old = {}
  for i = 1, 3 * h[0] do old[i] = h[i] end
  h[0], h[-1] = 0, false
  for i = 1, #old, 3 do
    local fields = old[i]
    if type(fields) == "table" then
      for k = 1, #fields, 3 do append(h, fields[k], fields[k + 1], fields[k + 2]) end
    else
      append(h, fields, old[i + 1], old[i + 2])
    end
  end
end
jit.off(lay_out)

-- ---- changes ------------------------------------------------------------------------------------------------

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
  if rawget(h, -1) then lay_out(h) end
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

-- Sets a field that is there.
local function replace(h, name, low, value)
  if rawget(h, -1) then lay_out(h) end
  local i = 0
  while h[3 * i + 2] ~= low do i = i + 1 end
  h[3 * i + 1], h[3 * i + 3] = name, value
  remove(h, low, i + 1)
end
jit.off(replace)

local function set(h, name, value, level)
  local low = known[name] or check_name(name, level + 1)
  materialize(h, level)
  if value == nil then
    if is_there(h, low) then apart(remove, h, low, 0) end
  elseif type(value) == "table" then
    local texts = apart(texts_of, name, value, level + 1)
    apart(set_all, h, name, low, texts)
  else
    value = check_value(name, value, level + 1)
    if is_there(h, low) then
      apart(replace, h, name, low, value)
    else
      append(h, name, low, value)
    end
  end
end

-- ---- reading ------------------------------------------------------------------------------------------------

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
  if rawget(h, -1) then lay_out(h) end
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
  local low = known[name] or lower(name)
  if not r and not is_there(self, low) then return nil end
  local value = apart(joined, self, low, r)
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
  append(self, name, low, value)
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
  if rawget(self, -1) then apart(lay_out, self) end
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
  return (setmetatable({
    [0] = 0, [-1] = false, -- and room for FEW entries
    false, false, false, false, false, false, false, false, false, false, false, false,
  }, mt))
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

-- ---- fixed fields and lines ---------------------------------------------------------------------------------

---@class lunapark.FixedHeaders  name, name in lower case, value, name ...
---@field names table<string, true>  in lower case
---@field lines string
---@field meets table<table, boolean>  whether names of other fixed fields are among these, by their `names`

-- Whether two sets of names have one in common.
local function meet(names, others)
  local common = false
  for name in pairs(others) do common = common or names[name] == true end
  return common
end
jit.off(meet)

-- Whether a set of names and another one have one in common, by the other set.
local function meeting(names)
  return setmetatable({}, {
    __mode = "k",
    __index = function(known_sets, others)
      local common = apart(meet, names, others)
      known_sets[others] = common
      return common
    end,
  })
end

--- Fields that middleware sets in each answer: checked, and made lines of, once. None of them is about the length of
--- the body or the connection.
---@param list string[]  name, value, name, value ...
---@return lunapark.FixedHeaders fixed  for `put_fixed`
function headers.fixed(list)
  local fixed, lines, names = {}, {}, {}
  for i = 1, #list, 2 do
    local low, value = check_name(list[i], 3), check_value(list[i], list[i + 1], 3)
    local n = #fixed
    fixed[n + 1], fixed[n + 2], fixed[n + 3] = list[i], low, value
    lines[#lines + 1] = list[i] .. ": " .. value .. "\r\n"
    names[low] = true
  end
  fixed.names, fixed.lines, fixed.meets = names, concat(lines), meeting(names)
  return fixed
end

local function add_fixed(h, fixed)
  if rawget(h, -1) then lay_out(h) end
  for i = 1, #fixed, 3 do
    if not is_there(h, fixed[i + 1]) then append(h, fixed[i], fixed[i + 1], fixed[i + 2]) end
  end
end
jit.off(add_fixed)

-- Whether entry number i has a name of the fixed fields.
local function is_in(h, i, fixed)
  local names = h[3 * i + 2]
  if type(names) == "table" then return fixed.meets[names] end
  return fixed.names[names] == true
end

--- Sets fixed fields, where there are none of these names.
---@param h lunapark.Headers  that are no request's
---@param fixed lunapark.FixedHeaders
function headers.put_fixed(h, fixed)
  if fixed.lines == "" then return end -- an entry without fields would be taken for a lazy object's request
  local n = h[0]
  if n >= FEW or n > 0 and is_in(h, 0, fixed) or n > 1 and is_in(h, 1, fixed) or n > 2 and is_in(h, 2, fixed) then
    apart(add_fixed, h, fixed)
  else
    append(h, fixed, fixed.names, fixed.lines)
    rawset(h, -1, true)
  end
end

-- Fields that the host writes, or has to know of.
local special = {
  ["content-type"] = true, ["content-length"] = true, ["transfer-encoding"] = true, connection = true, date = true,
  ["x-content-type-options"] = true,
}

-- Lines are made here, not as a Lua string, which would be interned: an answer is like the one before, but for a few
-- bytes.
local ROOM = 4096
local room = ffi.new("char[?]", ROOM)

--- The lines of `put_lines`, until its next call.
headers.room = room

local function put(at, text)
  ffi.copy(room + at, text, #text)
  return at + #text
end

-- Puts the lines of entry number i at `at`. Returns the end; nil: it is special, or there is no room.
local function put_entry(h, i, at)
  if not at or i >= h[0] then return at end
  local name, low, value = h[3 * i + 1], h[3 * i + 2], h[3 * i + 3]
  if at + #value + #name + 4 > ROOM then return nil end
  if type(low) == "table" then return (put(at, value)) end
  if special[low] then return nil end
  return (put(put(put(put(at, name), ": "), value), "\r\n"))
end

--- Puts the fields as lines into `room`, if they are few and the host need not know of any but X-Content-Type-Options
--- among fixed ones.
---@param h lunapark.Headers|table
---@return integer|nil n     bytes, with CRLFs; nil: look at each field; none is fixed any more
---@return boolean guarded   whether there is an X-Content-Type-Options
function headers.put_lines(h)
  if getmetatable(h) ~= mt then return nil, false end
  local n = h[0] <= FEW and put_entry(h, 3, put_entry(h, 2, put_entry(h, 1, put_entry(h, 0, 0))))
  if n then return n, rawget(h, -1) == true and is_there(h, "x-content-type-options") end
  if rawget(h, -1) then apart(lay_out, h) end
  return nil, false
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
