--- One request and its response on a connection.
--
-- A body that is a function is sent by a G of its own while the response is read, since an answer may come before the
-- body's end. Both must be over before the connection can carry another request.

local lp = require "lunapark"
local request = require "lunapark.client.request"
local response = require "lunapark.client.response"

local exchange = {}

---@class lunapark.client.Exchange
---@field response lunapark.client.Response
---@field private conn lunapark.Conn
---@field private sent boolean          the head was, and the body if that is a string
---@field private sender lunapark.G|nil  sends the body
---@field private timeout number
local Exchange = {}
local exchange_mt = { __name = "lunapark.client.Exchange", __index = Exchange }

--- Sends a request and reads the head of its response. If it fails the connection is closed. Waits.
---@param conn lunapark.Conn
---@param r lunapark.client.Request
---@param text string     its bytes: request.format
---@param timeout number  seconds up to the response's head; for each piece of a body that is a function
---@return lunapark.client.Exchange|nil
---@return string? err
function exchange.begin(conn, r, text, timeout)
  conn:set_deadline(timeout)
  -- A server may answer and close before it has read a body that is too large: the response counts, not the write.
  local sent, write_err = conn:write(text)
  local self = setmetatable({ conn = conn, sent = sent ~= nil, timeout = timeout }, exchange_mt)
  if sent and type(r.body) == "function" then self.sender = lp.go(request.send_pieces, conn, r, timeout) end
  local err
  self.response, err = response.read_head(conn, r.method)
  if self.response then return self end
  self:finish(false)
  return nil, r.failed or err or write_err
end

--- Ends it. Waits for what still sends the body, if at all; for an answer that came before the body's end the rest of
--- the body is of no use any more.
---@param whole boolean  the response has been read to its end
---@return boolean  the connection can carry another request; else it is closed
function Exchange:finish(whole)
  local conn, sender = self.conn, self.sender
  if not whole then conn:close() end
  local sent = self.sent
  if sender then
    sent = sender:join(0)
    if not sent then
      conn:close()
      sender:cancel()
      sender:join(self.timeout)
    end
  end
  if whole and sent and not self.response.last then return true end
  conn:close()
  return false
end

return exchange
