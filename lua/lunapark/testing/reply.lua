--- A response as the test client gives it: its head, and its body, whole or in pieces.

local json = require "lunapark.json"
local new_buffer = require("string.buffer").new
local response = require "lunapark.client.response"
local as_given = require("lunapark.core.show").given

local PIECE = 65536

local reply = {}

---@class lunapark.testing.Reply
---@field status integer
---@field reason string
---@field version string            "1.1"
---@field headers lunapark.Headers
---@field trailers lunapark.Headers|nil  what came behind a chunked body
---@field body string|nil           nil: the body is streamed, `read` has it
---@field target string             of the last request, behind all redirects
---@field package conn lunapark.Conn
---@field package last boolean      the connection has no further response
---@field package over boolean|nil  nothing more is read
---@field package failed string|nil  why, if the body has not been read to its end
---@field package timeout number|nil  seconds for each piece; nil: the connection's deadline
---@field package ended fun(self: lunapark.testing.Reply, whole: boolean)|nil  gives the connection back
local Reply = {}
local reply_mt = { __name = "lunapark.testing.Reply", __index = Reply }

--- The body parsed as JSON.
---@return any value
---@return string? err
function Reply:json()
  if not self.body then error("json: the body is streamed: read it first", 2) end
  return json.decode(self.body)
end

--- A response whose head was read.
---@param head lunapark.client.Response  becomes the reply
---@param ended? fun(self: lunapark.testing.Reply, whole: boolean)  called once, when nothing more is read
---@return lunapark.testing.Reply
function reply.new(head, ended)
  head.ended = ended
  return setmetatable(head, reply_mt)
end

--- Reads a response up to its body. May wait.
---@param conn lunapark.Conn
---@param method string  what was asked: a response to HEAD has no body
---@return lunapark.testing.Reply|nil reply
---@return string? err
function reply.read_head(conn, method)
  local head, err = response.read_head(conn, method)
  if not head then return nil, err end
  return reply.new(head)
end

local function finish(self, whole)
  self.over = true
  local ended = self.ended
  self.ended = nil
  if ended then ended(self, whole) end
end

--- A piece of a streamed body, as it comes. May wait, `client.timeout` at most.
---@param n? integer  bytes at most
---@return string|nil piece  nil: the end
---@return string? err       nil at the end; "timeout", "eof", "closed", or what is wrong with the response
function Reply:read(n)
  if n ~= nil and (type(n) ~= "number" or n < 1) then
    error("read: n must be a number, 1 or more, got " .. as_given(n), 2)
  end
  if self.over then return nil, self.failed end
  if self.timeout then self.conn:set_deadline(self.timeout) end
  local piece, err = response.read_piece(self, n or PIECE)
  if piece and piece ~= "" then return piece end
  self.failed = err
  finish(self, piece ~= nil)
  return nil, self.failed
end

--- The rest of a streamed body. May wait, for each piece `client.timeout` at most.
---@return string|nil body
---@return string? err
function Reply:read_all()
  local body = new_buffer()
  while true do
    local piece, err = self:read()
    if not piece then
      if err then return nil, err end
      return body:get()
    end
    body:put(piece)
    if #body > response.MAX_BODY then
      self.failed = "too long"
      finish(self, false)
      return nil, "too long"
    end
  end
end

--- Hangs up before the end of a streamed body. Harmless after it.
function Reply:close()
  if self.over then return end
  self.failed = "closed"
  finish(self, false)
end

return reply
