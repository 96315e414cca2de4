--- A response as the test client reads it: its head, then its body, whole or in pieces.
--
-- Strict where a browser is kind: a response that does not end where it says it does is an error, in words.

local headers = require "lunapark.http.headers"
local json = require "lunapark.json"

local concat = table.concat

-- No response of a spec is larger; a server gone wild should not take the memory of the machine.
local MAX_BODY = 256 * 1024 * 1024
local PIECE = 65536

local reply = {}

---@class lunapark.testing.Reply
---@field status integer
---@field reason string
---@field version string            "1.1"
---@field headers lunapark.Headers
---@field trailers lunapark.Headers|nil  what came behind a chunked body
---@field body string|nil           nil: it is streamed, and to be read
---@field target string             to which the request went, behind all redirects
---@field package conn lunapark.Conn
---@field package left integer|nil  bytes of the body, or of its chunk, that are to come
---@field package framing string    "none", "length", "chunked", "close"; "ended": all has been read
---@field package last boolean      the connection has no further response
---@field package ended fun(self: lunapark.testing.Reply, ok: boolean)|nil  gives the connection back
local Reply = {}
local reply_mt = { __name = "lunapark.testing.Reply", __index = Reply }

--- The body parsed as JSON.
---@return any value
---@return string? err
function Reply:json()
  if not self.body then error("json: the body is streamed: read it first", 2) end
  return json.decode(self.body)
end

-- Header lines up to the empty one.
local function read_fields(conn)
  local fields = headers.new()
  while true do
    local line, err = conn:read_line()
    if not line then return nil, err end
    if line == "" then return fields end
    local name, value = line:match("^([^%s:]+):[ \t]*(.-)[ \t]*$")
    if not name then return nil, "malformed header line: " .. line end
    fields:add(name, value)
  end
end

-- How long the body is: sets framing and left; or nil, what is wrong.
local function find_framing(self, method)
  local status, fields = self.status, self.headers
  if method == "HEAD" or status == 204 or status == 304 or status == 101 then
    self.framing = "none"
    return true
  end
  local coding, length = fields["transfer-encoding"], fields["content-length"]
  if coding then
    if coding:lower() ~= "chunked" then return nil, "unknown Transfer-Encoding: " .. coding end
    if length then return nil, "both Transfer-Encoding and Content-Length" end
    self.framing = "chunked"
  elseif not length then
    self.framing, self.last = "close", true
  else
    if not length:find("^%d+$") or tonumber(length) > MAX_BODY then return nil, "bad Content-Length: " .. length end
    self.framing, self.left = "length", tonumber(length)
  end
  return true
end

--- Reads a response up to its body; 1xx that announce another one are passed over. May wait.
---@param conn lunapark.Conn
---@param method string  what was asked: a response to HEAD has no body
---@return lunapark.testing.Reply|nil reply
---@return string? err
function reply.read_head(conn, method)
  while true do
    local line, err, partial = conn:read_line()
    if not line then return nil, partial and partial ~= "" and err .. " in " .. partial or err end
    local version, status, reason = line:match("^HTTP/(%d%.%d) (%d%d%d) ?(.*)$")
    if not version then return nil, "malformed status line: " .. line end
    local self = setmetatable({ version = version, status = tonumber(status), reason = reason, conn = conn }, reply_mt)
    self.headers, err = read_fields(conn)
    if not self.headers then return nil, err end
    -- 101: the connection belongs to another protocol then.
    if self.status >= 200 or self.status == 101 then
      local keep = (self.headers.connection or ""):lower()
      self.last = keep:find("close", 1, true) ~= nil or version == "1.0" and not keep:find("keep-alive", 1, true)
      local ok
      ok, err = find_framing(self, method)
      if not ok then return nil, err end
      return self
    end
  end
end

local function finish(self, ok)
  self.framing = "ended"
  local ended = self.ended
  self.ended = nil
  if ended then ended(self, ok) end
end

-- The next chunk's size into left; 0: the end, with its trailers.
local function next_chunk(self)
  local conn = self.conn
  local line, err = conn:read_line()
  if not line then return nil, err end
  local size = tonumber(line:match("^%x+") or "", 16)
  if not size or size > MAX_BODY then return nil, "malformed chunk size: " .. line end
  self.left = size
  if size > 0 then return true end
  self.trailers, err = read_fields(conn)
  if not self.trailers then return nil, err end
  return true
end

-- A piece of at most n bytes, "" at the end; or nil, what is wrong.
local function read_piece(self, n)
  local framing, conn = self.framing, self.conn
  if framing == "none" then return "" end
  if framing == "close" then
    local piece, err = conn:read(n)
    if not piece and err == "eof" then return "" end
    return piece, err
  end
  if framing == "chunked" and not self.left then
    local ok, err = next_chunk(self)
    if not ok then return nil, err end
  end
  if self.left == 0 then return "" end
  local piece, err = conn:read(math.min(n, self.left))
  if not piece then return nil, err end
  self.left = self.left - #piece
  if framing == "chunked" and self.left == 0 then
    local line
    line, err = conn:read_exact(2)
    if not line then return nil, err end
    if line ~= "\r\n" then return nil, "chunk does not end where it says" end
    self.left = nil
  end
  return piece
end

--- A piece of a streamed body, as it comes. May wait, at most `client.timeout`.
---@param n? integer  bytes at most
---@return string|nil piece  nil: the end
---@return string? err       nil at the end; "timeout", "eof", "closed", or what is wrong with the response
function Reply:read(n)
  if n ~= nil and (type(n) ~= "number" or n < 1) then
    error("read: n must be a number, 1 or more, got " .. tostring(n), 2)
  end
  if self.framing == "ended" then return nil, self.failed end
  if self.timeout then self.conn:set_deadline(self.timeout) end
  local piece, err = read_piece(self, n or PIECE)
  if piece and piece ~= "" then return piece end
  self.failed = err
  finish(self, piece ~= nil)
  return nil, self.failed
end

--- What is left of a streamed body. May wait; each piece of it at most `client.timeout`.
---@return string|nil body
---@return string? err
function Reply:read_all()
  local pieces, total = {}, 0
  while true do
    local piece, err = self:read()
    if not piece then
      if err then return nil, err end
      return concat(pieces)
    end
    total = total + #piece
    if total > MAX_BODY then
      self.failed = "too long"
      finish(self, false)
      return nil, "too long"
    end
    pieces[#pieces + 1] = piece
  end
end

--- Hangs up before the end of a streamed body. Harmless after it.
function Reply:close()
  if self.framing == "ended" then return end
  self.failed = "closed"
  finish(self, false)
end

return reply
