--- What a client of HTTP/1 sends: a request's head, and its body, whole or in pieces.
--
-- A request is a table without a connection, so it can be sent again, on another connection or to another server.
-- Nothing here knows servers, cookies or policies: the sender decides which fields the request has besides.

local number_text = require("lunapark.core.text").number
local json = require "lunapark.json"

local concat, sort = table.concat, table.sort

local request = {}

---@class lunapark.client.Request
---@field method string
---@field target string    path and query, as they are sent
---@field given table<string, { [1]: string, [2]: any }>  fields by their names in lower case: name, value or values
---@field body string|fun(): string?|nil
---@field type string?     Content-Type, if the body brings one
---@field chunked boolean? the body is sent in chunks; known once the head was written
---@field failed string?   what was wrong with the body's function

-- A value as text.
local function text_of(value)
  return type(value) == "number" and number_text(value) or tostring(value)
end

local function escape(value)
  return (text_of(value):gsub("[^%w%-._~]", function(c) return ("%%%02X"):format(c:byte()) end))
end

-- Fields of a form or query, by name.
local function encode_fields(fields)
  local names, out = {}, {}
  for name in next, fields do names[#names + 1] = name end
  sort(names, function(a, b) return tostring(a) < tostring(b) end)
  for _, name in ipairs(names) do
    local values = fields[name]
    for _, value in ipairs(type(values) == "table" and values or { values }) do
      out[#out + 1] = escape(name) .. "=" .. escape(value)
    end
  end
  return concat(out, "&")
end

-- What opts say of the body: it, and its type.
local function body_of(opts, level)
  local n = (opts.body ~= nil and 1 or 0) + (opts.json ~= nil and 1 or 0) + (opts.form and 1 or 0)
  if n > 1 then error("request: only one of body, json and form can be sent", level) end
  if opts.json ~= nil then
    local ok, text = pcall(json.encode, opts.json)
    if not ok then error("request: opts.json: " .. text, level) end
    return text, "application/json"
  end
  if opts.form then return encode_fields(opts.form), "application/x-www-form-urlencoded" end
  local kind = type(opts.body)
  if opts.body ~= nil and kind ~= "string" and kind ~= "function" then
    error("request: body must be a string or a function, got " .. kind, level)
  end
  return opts.body
end

--- A request. Raises what is wrong with it.
---@param method string
---@param target string
---@param opts table     headers, query, and body, json or form
---@param fields table<string, string|string[]>  sent unless opts.headers have the same names
---@param level integer  as for an `error` in place of this call
---@return lunapark.client.Request
function request.new(method, target, opts, fields, level)
  if type(method) ~= "string" then error("request: method must be a string, got " .. type(method), level + 1) end
  if type(target) ~= "string" then error("request: target must be a string, got " .. type(target), level + 1) end
  local given = {}
  for _, list in ipairs { fields, opts.headers or {} } do
    for name, value in next, list do given[name:lower()] = { name, value } end
  end
  if opts.query and next(opts.query) ~= nil then
    target = target .. (target:find("?", 1, true) and "&" or "?") .. encode_fields(opts.query)
  end
  local r = { method = method, target = target, given = given }
  r.body, r.type = body_of(opts, level + 2)
  return r
end

-- ---- what goes over the wire -----------------------------------------------------------------------------

--- The bytes of a request: its head, and its body if that is a string. Without a Host of its own it goes to `host`.
---@param r lunapark.client.Request
---@param host string
---@param cookie string?  the Cookie field, if it has none of its own
---@return string
function request.format(r, host, cookie)
  local given, body = r.given, r.body
  local parts, names = { r.method, " ", r.target, " HTTP/1.1\r\n" }, {}
  local function field(name, value)
    parts[#parts + 1] = name .. ": " .. text_of(value) .. "\r\n"
  end
  if not given.host then field("Host", host) end
  for low in next, given do names[#names + 1] = low end
  sort(names)
  for _, low in ipairs(names) do
    local name, values = given[low][1], given[low][2]
    for _, value in ipairs(type(values) == "table" and values or { values }) do field(name, value) end
  end
  if r.type and not given["content-type"] then field("Content-Type", r.type) end
  if cookie and not given.cookie then field("Cookie", cookie) end
  local framed = given["content-length"] or given["transfer-encoding"]
  r.chunked = type(body) == "function" and not given["content-length"]
  if type(body) == "function" then
    if not framed then field("Transfer-Encoding", "chunked") end
  else
    local method = r.method
    if (body or method == "POST" or method == "PUT" or method == "PATCH") and not framed then
      field("Content-Length", #(body or ""))
    end
  end
  parts[#parts + 1] = "\r\n"
  if type(body) == "string" then parts[#parts + 1] = body end
  return concat(parts)
end

-- The next piece, nil at the end; or false: what the function did is wrong, and the request fails with it.
local function next_piece(r)
  local ok, piece = pcall(r.body)
  if ok and (piece == nil or type(piece) == "string") then return piece end
  r.failed = "body: " .. (ok and "a piece must be a string, got " .. type(piece) or tostring(piece))
  return false
end

--- Sends a body that is a function, piece by piece. If that fails the connection is closed. Waits; `timeout` seconds at
--- most for each piece.
---@param conn lunapark.Conn
---@param r lunapark.client.Request
---@param timeout number
---@return boolean  all was sent
function request.send_pieces(conn, r, timeout)
  while true do
    local piece = next_piece(r)
    if piece == false then
      conn:close()
      return false
    end
    if piece == nil then break end
    conn:set_write_deadline(timeout)
    local ok = true
    if not r.chunked then
      ok = conn:write(piece)
    elseif piece ~= "" then
      ok = conn:write { ("%x\r\n"):format(#piece), piece, "\r\n" }
    end
    if not ok then return false end
  end
  return not r.chunked or conn:write "0\r\n\r\n" ~= nil
end

-- ---- redirects -------------------------------------------------------------------------------------------

--- The target that a reference without scheme and host names, as seen from another target.
---@param target string
---@param reference string  "/a", "b?c", "?d", "", with a fragment or not
---@return string
function request.resolve(target, reference)
  reference = reference:match "^[^#]*"
  if reference:sub(1, 1) == "/" then return reference end
  local path = target:match "^[^?]*"
  if reference == "" then return target end
  if reference:sub(1, 1) == "?" then return path .. reference end
  return (path:match "^(.*/)" or "/") .. reference
end

--- Whether a status is a redirect that a client may follow by itself.
---@param status integer
---@return boolean
function request.is_redirect(status)
  return status == 301 or status == 302 or status == 303 or status == 307 or status == 308
end

--- The request that a redirect asks for: by GET after a 303, and after a POST that was sent elsewhere.
---@param r lunapark.client.Request
---@param status integer
---@param target string  where it leads
---@return lunapark.client.Request|nil
---@return string? err   the body is gone
function request.redirected(r, status, target)
  local get = status == 303 and r.method ~= "HEAD" or status < 303 and r.method == "POST"
  local given = {}
  for name, field in next, r.given do
    if not (get and name:find "^content%-") then given[name] = field end
  end
  if get then return { method = "GET", target = target, given = given } end
  if type(r.body) == "function" then return nil, "redirect of a body that can't be sent again" end
  return { method = r.method, target = target, given = given, body = r.body, type = r.type }
end

return request
