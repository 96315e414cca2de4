--- What a file answers to a request: all of it, parts of it, or only that the client has it already.
--
-- A field that the handler or middleware has set comes before the one that the file would have. So a handler chooses
-- another ETag, or turns ranges off by `Accept-Ranges: none`.

local ffi = require "ffi"
require "lunapark.cdef"
local conditional = require "lunapark.http.conditional"
local exchange = require "lunapark.http.exchange"
local headers = require "lunapark.http.headers"
local ranges = require "lunapark.http.ranges"
local response = require "lunapark.http.response"

local C = ffi.C
local ffi_string = ffi.string
local EAGAIN, EPIPE = -11, -32
local NONE, TEXT = response.NONE, response.TEXT

local answer = {}

local methods = {}

-- "GET", "HEAD", or false for another method.
local function method_of(res)
  local number = exchange.live(res, 2).method
  local name = methods[number]
  if name == nil then
    name = ffi_string(C.host_method_name(number))
    name = (name == "GET" or name == "HEAD") and name
    methods[number] = name
  end
  return name
end

local function sent(rc)
  if rc < 0 and rc ~= EPIPE then error("send_file: " .. ffi_string(C.host_strerror(rc)), 0) end
  return rc
end

-- The headers of the answer, with the fields of the file that they lack.
local function headers_with(res, file)
  local h = res.headers
  if getmetatable(h) ~= headers.mt then
    local own = headers.new()
    headers.merge(own, h)
    h, res.headers = own, own
  end
  local fields = file.fields
  for i = 1, #fields, 2 do
    local name, value = fields[i], fields[i + 1]
    if h:get(name) == nil then
      h[name] = value
    elseif name == "Vary" then
      headers.vary(h, value)
    end
  end
  if not h:get "content-type" then
    h["Content-Type"] = file.type
    h["X-Content-Type-Options"] = h:get "x-content-type-options" or "nosniff"
  end
  return h
end

local function drop(h, ...)
  for _, name in ipairs { ... } do
    h[name] = nil
  end
end

-- Answers with n bytes of the file, from `at` on. May wait.
local function respond_range(res, file, status, head, at, n)
  local bytes = file.bytes
  if not bytes then
    return sent(C.host_respond_file(res.ptr, res.serial, status, NONE, head, #head, C.host_file_fd(file.handle), at, n))
  end
  if n < #bytes then bytes = bytes:sub(at + 1, at + n) end
  local rc = C.host_respond(res.ptr, res.serial, status, NONE, head, #head, bytes, #bytes)
  return rc == EAGAIN and response.send_rest(res, bytes) or rc
end

-- An answer without the file: 304, 412, 416.
local function without(res, h, status)
  drop(h, "Content-Type", "Content-Encoding", "Last-Modified", "Accept-Ranges", "X-Content-Type-Options")
  local text = ""
  if status ~= 304 then
    drop(h, "ETag", "Cache-Control")
    text = response.reason(status)
  end
  local head = response.head_of(res)
  return C.host_respond(res.ptr, res.serial, status, status == 304 and NONE or TEXT, head, #head, text, #text)
end

local function boundary()
  return ("%08x%08x%08x"):format(math.random(0, 2 ^ 31), math.random(0, 2 ^ 31), os.time() % 2 ^ 31)
end

-- Several ranges as one body. May wait, also for the disk.
local function respond_ranges(res, file, h, list)
  local mark, ctype, length, heads = boundary(), h:get "content-type", 0, {}
  for i, r in ipairs(list) do
    heads[i] = ("\r\n--%s\r\nContent-Type: %s\r\nContent-Range: bytes %d-%d/%d\r\n\r\n"):format(
      mark, ctype, r.at, r.last, file.size)
    length = length + #heads[i] + r.last - r.at + 1
  end
  local last = "\r\n--" .. mark .. "--\r\n"
  h["Content-Type"], h["Content-Length"] = "multipart/byteranges; boundary=" .. mark, tostring(length + #last)
  res.status = 206
  for i, r in ipairs(list) do
    if not res:write(heads[i]) or not response.copy(res, file, r.at, r.last - r.at + 1) then return EPIPE end
  end
  return res:write(last) and response.finish(res) or EPIPE
end

-- An answer to the Range field; nil: it does not count.
local function in_parts(res, file, h, field)
  if h:get "accept-ranges" ~= "bytes" then return nil end
  local list = ranges.parse(field, file.size)
  if not list then return nil end
  local compression = rawget(res, "compression")
  if compression then compression:decide(res, 206, file.type, nil) end -- for Vary
  if not list[1] then
    h["Content-Range"] = "bytes */" .. file.size
    return without(res, h, 416)
  end
  if list[2] then
    res.compression = nil
    return respond_ranges(res, file, h, list)
  end
  local r = list[1]
  h["Content-Range"] = ("bytes %d-%d/%d"):format(r.at, r.last, file.size)
  return respond_range(res, file, 206, response.head_of(res), r.at, r.last - r.at + 1)
end

-- An answer to a GET or HEAD request that wants less than the file; nil: it wants the file.
local function partly(res, file, h, asked, method)
  local etag, date = h:get "etag", h:get "last-modified"
  local modified = date and conditional.time(date)
  local status = conditional.check(asked, etag, modified)
  if status then
    local compression = rawget(res, "compression")
    local coding = compression and compression:decide(res, 200, file.type, file.size)
    if coding then compression:mark(res, coding) end -- the ETag of a 304 is that of the 200
    return without(res, h, status)
  end
  local field = method == "GET" and asked:get "range"
  if field and conditional.in_range(asked, etag, modified) then return in_parts(res, file, h, field) end
end

-- Whether a GET or HEAD request has none of the fields that `partly` looks at.
local function wants_all(asked)
  return not (asked:get "if-none-match" or asked:get "if-modified-since" or asked:get "range"
    or asked:get "if-match" or asked:get "if-unmodified-since")
end

--- Sends a file as the answer, or as much of it as the client needs. May wait.
---@param res lunapark.Response
---@param file lunapark.SentFile
---@param status integer  that the handler has set
---@return integer rc  as response.send
function answer.send(res, file, status)
  local method, asked = status == 200 and method_of(res), headers.of_request(res)
  local bare = rawget(res, "headers") == nil and rawget(res, "compression") == nil
  if bare and (not method or wants_all(asked)) then
    local rc = respond_range(res, file, status, file:lines(), 0, file.size)
    file:drop()
    return rc
  end
  local h = headers_with(res, file)
  local rc = method and partly(res, file, h, asked, method)
  if not rc then
    local compression = rawget(res, "compression")
    if compression and compression:decide(res, status, file.type, file.size) then
      rc = response.pipe(res, file)
    else
      rc = respond_range(res, file, status, response.head_of(res), 0, file.size)
    end
  end
  file:drop()
  return rc
end

return answer
