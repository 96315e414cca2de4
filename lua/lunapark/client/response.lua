--- A response of HTTP/1 as a client reads it from a connection: its head, then its body piece by piece.
--
-- A browser forgives a response that does not end where it says it does; here that is an error, in words. The bytes
-- come from a stranger. So all that is kept of them is bounded: MAX_HEAD bounds a head with its interim responses, and
-- the trailers; the caller bounds a piece of the body. Every pattern takes time in proportion to the line that it looks
-- at.

local headers = require "lunapark.http.headers"
local trim = require("lunapark.core.text").trim

local response = {}

-- Bytes of all lines of a head and of the interim responses before it; as many again for the trailers.
local MAX_HEAD = 256 * 1024
--- Bytes of a body: no Content-Length and no chunk may say more, and nobody should collect more.
response.MAX_BODY = 256 * 1024 * 1024

---@class lunapark.client.Response
---@field status integer
---@field reason string
---@field version string            "1.1"
---@field headers lunapark.Headers
---@field trailers lunapark.Headers|nil  what came behind a chunked body; when that has been read
---@field conn lunapark.Conn
---@field last boolean              the connection has no further response
---@field framing string            "none", "length", "chunked", "close"
---@field left integer|nil          bytes of the body, or of its chunk, that are to come

-- The next line of a head of which `room.left` bytes may come; or nil, what is wrong, and what came of the line.
local function read_line(conn, room)
  local line, err, partial = conn:read_line()
  if not line then return nil, err, partial end
  room.left = room.left - #line - 2
  if room.left < 0 then return nil, "the head is too long" end
  return line
end

-- Header lines up to the empty one.
local function read_fields(conn, room)
  local fields = headers.new()
  while true do
    local line, err = read_line(conn, room)
    if not line then return nil, err end
    if line == "" then return fields end
    local name, at = line:match "^([%w!#$%%&'*+%-.^_`|~]+):()"
    if not name or line:find "[%z\r]" then return nil, "malformed header line: " .. line end
    headers.received(fields, name, trim(line:sub(at)))
  end
end

-- How long the body is: sets framing and left; or nil, what is wrong.
local function find_framing(r, method)
  local status, fields = r.status, r.headers
  if method == "HEAD" or status == 204 or status == 304 or status == 101 then
    r.framing = "none"
    return true
  end
  local coding, length = fields["transfer-encoding"], fields["content-length"]
  if coding then
    if coding:lower() ~= "chunked" then return nil, "unknown Transfer-Encoding: " .. coding end
    if length then return nil, "both Transfer-Encoding and Content-Length" end
    r.framing = "chunked"
  elseif not length then
    r.framing, r.last = "close", true
  else
    if not length:find "^%d+$" or tonumber(length) > response.MAX_BODY then
      return nil, "bad Content-Length: " .. length
    end
    r.framing, r.left = "length", tonumber(length)
  end
  return true
end

--- Reads a response up to its body; 1xx that announce another one are passed over. Waits, to the connection's deadline.
---@param conn lunapark.Conn
---@param method string  what was asked: a response to HEAD has no body
---@return lunapark.client.Response|nil
---@return string? err
function response.read_head(conn, method)
  local room = { left = MAX_HEAD }
  while true do
    local line, err, partial = read_line(conn, room)
    if not line then return nil, partial and partial ~= "" and err .. " in " .. partial or err end
    local version, status, reason = line:match "^HTTP/(%d%.%d) (%d%d%d) ?(.*)$"
    if not version then return nil, "malformed status line: " .. line end
    local r = { version = version, status = tonumber(status), reason = reason, conn = conn }
    r.headers, err = read_fields(conn, room)
    if not r.headers then return nil, err end
    -- 101: the connection belongs to another protocol then.
    if r.status >= 200 or r.status == 101 then
      local keep = (r.headers.connection or ""):lower()
      r.last = keep:find("close", 1, true) ~= nil or version == "1.0" and not keep:find("keep-alive", 1, true)
      local ok
      ok, err = find_framing(r, method)
      if not ok then return nil, err end
      return r
    end
  end
end

-- The next chunk's size into left; 0: the end, with its trailers.
local function next_chunk(r)
  local line, err = r.conn:read_line()
  if not line then return nil, err end
  local digits, rest = line:match "^(%x+)[ \t]*(.?)"
  local size = digits and (rest == "" or rest == ";") and tonumber(digits, 16)
  if not size or size > response.MAX_BODY then return nil, "malformed chunk size: " .. line end
  r.left = size
  if size > 0 then return true end
  r.trailers, err = read_fields(r.conn, { left = MAX_HEAD })
  if not r.trailers then return nil, err end
  return true
end

--- The next piece of the body, as it comes. Waits, to the connection's deadline.
---@param r lunapark.client.Response
---@param n integer  bytes at most
---@return string|nil piece  "": the end, here and whenever it is asked again
---@return string? err
function response.read_piece(r, n)
  local framing, conn = r.framing, r.conn
  if framing == "none" then return "" end
  if framing == "close" then
    local piece, err = conn:read(n)
    if not piece and err == "eof" then return "" end
    return piece, err
  end
  if framing == "chunked" and not r.left then
    local ok, err = next_chunk(r)
    if not ok then return nil, err end
  end
  if r.left == 0 then return "" end
  local piece, err = conn:read(math.min(n, r.left))
  if not piece then return nil, err end
  r.left = r.left - #piece
  if framing == "chunked" and r.left == 0 then
    local line
    line, err = conn:read_exact(2)
    if not line then return nil, err end
    if line ~= "\r\n" then return nil, "chunk does not end where it says" end
    r.left = nil
  end
  return piece
end

return response
