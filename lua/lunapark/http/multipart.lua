--- Bodies in parts: multipart/form-data (RFC 7578) and its kin, read part by part, piece by piece.
--
--   for part in req:multipart() do
--     if part.filename then assert(part:save("uploads/" .. id)) else fields[part.name] = part:body() end
--   end
--
-- A body is never in memory as a whole: a reader looks at the bytes that have come (a *source*), hands out the bytes
-- that are surely data of the part, and asks for more. host/http/multipart.c finds the delimiters. What a handler does
-- not read of a part is skipped.
--
-- A source has `window() -> bytes, length, whether the body ends there`, `skip(n)`, `more() -> true or nil, err`, and
-- `fail(status, message)`, which raises.
--
-- A loop over parts can not be told of a failure but by an error, and a body that ends early must not look like a whole
-- one. So malformed bodies and limits raise aborts, as req:body() does: 400 and 413.
--
-- Names of fields and files are as browsers write them: bytes of UTF-8 between quotes, in which %22, %0D and %0A stand
-- for a quote and line breaks (HTML), or \" for a quote (curl --form-escape, older browsers). `filename*` (RFC 8187)
-- wins over `filename`. Of a path the last piece counts: clients must not choose folders.

local ffi = require "ffi"
require "lunapark.cdef"
local headers = require "lunapark.http.headers"
local path = require "lunapark.http.path"
local text = require "lunapark.core.text"
local as_given = require("lunapark.core.show").given

local C = ffi.C
local ffi_string = ffi.string
local byte, find, gsub, match, sub = string.byte, string.find, string.gsub, string.match, string.sub
local concat, lower = table.concat, string.lower

local MORE, PART = C.HOST_MULTIPART_MORE, C.HOST_MULTIPART_PART
local START, WHOLE = C.HOST_MULTIPART_START, C.HOST_MULTIPART_WHOLE
local found = ffi.new "host_multipart"

-- Where a reader stands.
local AT_START, IN_HEAD, IN_DATA, OVER = 0, 1, 2, 3

local BOUNDARY_MAX = 200 -- RFC 2046 says 70

local multipart = {}

-- ---- fields with parameters ---------------------------------------------------------------------------------

-- The text between quotes that begins at `at`, behind the opening quote; where what follows begins.
local function quoted(s, at)
  local parts, from = {}, at
  while true do
    at = find(s, '["\\]', at)
    if not at then return nil end
    if byte(s, at) == 34 then break end
    local c = byte(s, at + 1)
    -- A name that ends with a backslash: its quote ends the field.
    if c == 34 and at + 1 < #s or c == 92 then
      parts[#parts + 1] = sub(s, from, at - 1)
      from, at = at + 1, at + 2
    else
      at = at + 1
    end
  end
  parts[#parts + 1] = sub(s, from, at - 1)
  return concat(parts), at + 1
end

--- Takes a field apart: `form-data; name="a"`.
---@param s string
---@return string|nil word  in lower case; nil: the field is malformed
---@return table<string, string> params  by name in lower case; of a name that is repeated the first
function multipart.parameters(s)
  local params = {}
  local word, at = match(s, "^[ \t]*([^; \t]*)[ \t]*()")
  while at <= #s do
    if byte(s, at) ~= 59 then return nil, params end
    at = match(s, "^;[ \t]*()", at)
    local name, next_at = match(s, '^([^=;" \t]+)[ \t]*=[ \t]*()', at)
    if name then
      local value
      if byte(s, next_at) == 34 then
        value, at = quoted(s, next_at + 1)
        if not value then return nil, params end
        at = match(s, "^[ \t]*()", at)
      else
        value, at = match(s, "^([^;]*)()", next_at)
        value = text.trim(value)
      end
      name = lower(name)
      params[name] = params[name] or value
    elseif at <= #s and byte(s, at) ~= 59 then
      return nil, params
    end
  end
  return lower(word), params
end

local escapes = { ["22"] = '"', ["0D"] = "\r", ["0d"] = "\r", ["0A"] = "\n", ["0a"] = "\n" }

local function unescape(s)
  return find(s, "%", 1, true) and (gsub(s, "%%(%x%x)", escapes)) or s
end

local function of_latin1(c)
  local b = byte(c)
  return string.char(0xc0 + math.floor(b / 64), 0x80 + b % 64)
end

-- The text of an RFC 8187 value: UTF-8'en'%e2%82%ac. nil: another charset, or a bad escape.
local function extended(s)
  local charset, value = match(s, "^([%w-]+)'[%w-]*'([^']*)$")
  value = value and path.decode(value)
  if not value or find(value, "\0", 1, true) then return nil end
  charset = lower(charset)
  if charset == "utf-8" or charset == "us-ascii" then return value end
  return charset == "iso-8859-1" and gsub(value, "[\128-\255]", of_latin1) or nil
end

local function file_name(params)
  local name = params["filename*"] and extended(params["filename*"]) or params.filename and unescape(params.filename)
  if not name then return nil end
  local at = #name
  while at > 0 and byte(name, at) ~= 47 and byte(name, at) ~= 92 do at = at - 1 end
  name = sub(name, at + 1)
  return (name == "." or name == "..") and "" or name
end

--- The boundary that a Content-Type names.
---@param ctype string
---@return string|nil boundary  nil: it is no multipart type, or names none that could be one
function multipart.boundary(ctype)
  local word, params = multipart.parameters(ctype)
  if not word or sub(word, 1, 10) ~= "multipart/" then return nil end
  local boundary = params.boundary
  if not boundary or boundary == "" or #boundary > BOUNDARY_MAX or find(boundary, "[^\32-\126]")
    or byte(boundary, -1) == 32 then
    return nil
  end
  return boundary
end

-- ---- parts --------------------------------------------------------------------------------------------------

---@class lunapark.Part
---@field name string|nil      of the form's field; nil in other kinds of multipart
---@field filename string|nil  the last piece of the file's name; "" if there is none in it; nil: it is no file
---@field headers lunapark.Headers
---@field private reader table
---@field private over boolean|nil
local Part = {}
local part_mt = { __name = "lunapark.Part", __index = Part }

local function malformed(reader, why)
  reader.source.fail(400, "request body is malformed: " .. why)
end

-- Counts n bytes of the part, and takes them.
local function take(reader, n)
  reader.part_bytes, reader.total = reader.part_bytes + n, reader.total + n
  if reader.part_bytes > reader.max_part then
    reader.source.fail(413, ("a part is larger than %d bytes"):format(reader.max_part))
  end
  if reader.total > reader.max_total then
    reader.source.fail(413, ("the parts are larger than %d bytes"):format(reader.max_total))
  end
  reader.source.skip(n)
  reader.sure = reader.sure - n
end

-- How many of the next bytes are data; 0: no more are, and the state is another; nil: why not.
local function data(reader)
  if reader.sure > 0 then return reader.sure end
  local source = reader.source
  while true do
    local bytes, len, whole = source.window()
    local flags = (whole and WHOLE or 0) + (reader.untouched and START or 0)
    local kind = C.host_multipart_find(bytes, len, reader.delimiter, #reader.delimiter, flags, found)
    if found.at > 0 then
      reader.sure, reader.untouched = found.at, false
      return found.at
    end
    if kind ~= MORE then
      source.skip(found.stop)
      reader.state, reader.untouched = kind == PART and IN_HEAD or OVER, false
      return 0
    end
    if whole then malformed(reader, "it ends before its last boundary") end
    local ok, err = source.more()
    if not ok then return nil, err end
  end
end

-- Reads the rest of the preamble or of a part that nobody wants.
local function skip_data(reader)
  while reader.state == IN_DATA or reader.state == AT_START do
    local n = data(reader)
    if not n then reader.source.fail(408, "request body did not come in time") end
    if n > 0 then
      if reader.state == AT_START then
        reader.source.skip(n)
        reader.sure = 0
      else
        take(reader, n)
      end
    end
  end
end

-- The lines of a head as headers.
local function headers_of(reader, head)
  local h = headers.new()
  for line in text.pieces(head, "\r\n") do
    local colon = find(line, ":", 1, true)
    local name = colon and sub(line, 1, colon - 1)
    if not name or not find(name, "^[%w!#$%%&'*+%-.^_`|~]+$") or find(line, "[%z\r\n]") then
      malformed(reader, "a part has a bad header line")
    end
    headers.received(h, name, text.trim(sub(line, colon + 1)))
  end
  return h
end

-- The headers of the part that begins.
local function read_head(reader)
  local source = reader.source
  while true do
    local bytes, len, whole = source.window()
    local n = C.host_multipart_head(bytes, len)
    if n > reader.max_head or n == 0 and len > reader.max_head then
      source.fail(413, ("a part has more than %d bytes of headers"):format(reader.max_head))
    end
    if n > 0 then
      local head = ffi_string(bytes, n - 2) -- without the empty line
      source.skip(n)
      return headers_of(reader, head)
    end
    if whole then malformed(reader, "it ends in the headers of a part") end
    if not source.more() then source.fail(408, "request body did not come in time") end
  end
end

-- The next part; nil: there is none.
local function next_part(reader)
  skip_data(reader)
  reader.part = nil
  if reader.state == OVER then return nil end
  reader.n = reader.n + 1
  if reader.n > reader.max_parts then
    reader.source.fail(413, ("the request has more than %d parts"):format(reader.max_parts))
  end
  local h = read_head(reader)
  local disposition = h:get "content-disposition"
  local word, params = multipart.parameters(disposition or "")
  if disposition and not word then malformed(reader, "a part has a bad Content-Disposition") end
  local name = params.name and unescape(params.name)
  if reader.form and (word ~= "form-data" or not name) then malformed(reader, "a part has no name") end
  local part = setmetatable({ name = name, filename = file_name(params), headers = h, reader = reader }, part_mt)
  reader.part, reader.state, reader.part_bytes = part, IN_DATA, 0
  return part
end

--- A piece of the part: the bytes that are there, or the next that come. May wait. Raises an abort, as req:read does.
---@param n? integer  at most so many bytes
---@return string|nil piece  nil at the end of the part
---@return string? err       "timeout"; "closed": the loop is at a later part
function Part:read(n)
  if n ~= nil and (type(n) ~= "number" or n < 1) then
    error("read: n must be 1 or more, got " .. as_given(n), 2)
  end
  if self.over then return nil end
  local reader = self.reader
  if reader.part ~= self then return nil, "closed" end
  local there, err = data(reader)
  if not there then return nil, err end
  if there == 0 then
    self.over = true
    return nil
  end
  if n and n < there then there = n - n % 1 end
  local piece = ffi_string((reader.source.window()), there)
  take(reader, there)
  return piece
end

--- The whole part, or the rest that `read` has left. May wait. Raises an abort, as req:body does.
---@return string|nil body  "" when nothing is left
---@return string? err      as `read`
function Part:body()
  local pieces = {}
  while true do
    local piece, err = self:read()
    if err then return nil, err end
    if not piece then return concat(pieces) end
    pieces[#pieces + 1] = piece
  end
end

--- Writes the part, or the rest that `read` has left, to a file. Others see the file when it is whole; a file that was
--- there before is replaced then. May wait, for the client and the disk. Raises an abort, as req:read does.
---@param to string  a path of the handler's own; of part.filename at most a part of it
---@return true|nil ok
---@return string? err  of the disk, with the path; as `read`
function Part:save(to)
  return require("lunapark.http.upload").save(to, function() return self:read() end)
end

---@class lunapark.PartLimits
---@field max_parts integer?  parts at most, 1000 without it
---@field max_head integer?   bytes of a part's headers, 16384 without it
---@field max_part integer?   bytes of a part
---@field max_total integer?  bytes of all parts together
-- What max_body leaves is the last limit of all.
local limits = { max_parts = 1000, max_head = 16384, max_part = math.huge, max_total = math.huge }

--- The parts of a body, for a loop.
---@param source table     see above
---@param boundary string
---@param form boolean     each part must have a name, as multipart/form-data says
---@param opts? lunapark.PartLimits
---@return fun(): lunapark.Part?
function multipart.parts(source, boundary, form, opts)
  local reader = {
    source = source, delimiter = "\r\n--" .. boundary, form = form, state = AT_START, untouched = true, sure = 0,
    n = 0, part_bytes = 0, total = 0,
  }
  for name, limit in pairs(limits) do
    reader[name] = opts and opts[name] or limit
  end
  return function() return next_part(reader) end
end

--- A source for a body that is here as a string.
---@param s string
---@param fail fun(status: integer, message: string)
---@return table
function multipart.source_of(s, fail)
  local bytes, pos = ffi.cast("const uint8_t *", s), 0
  return {
    anchor = s, fail = fail,
    window = function() return bytes + pos, #s - pos, true end,
    skip = function(n) pos = pos + n end,
  }
end

return multipart
