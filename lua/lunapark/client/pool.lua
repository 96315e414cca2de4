--- Connections to one server that wait for their next request.
--
-- A G takes a connection for a request and gives it back when the response has been read; several Gs may do so at once.
-- A connection that the server has closed meanwhile is not handed out. So a request is never sent twice.

local ffi = require "ffi"
require "lunapark.cdef"

local C = ffi.C

local pool = {}

-- So many wait; what comes back beyond them is closed.
local MOST = 256

---@class lunapark.client.Pool
---@field [integer] lunapark.Conn  idle connections; the last one is taken first
---@field private dial fun(): lunapark.Conn|nil, string?
---@field private closed boolean
local Pool = {}
local pool_mt = { __name = "lunapark.client.Pool", __index = Pool }

--- An empty pool.
---@param dial fun(): lunapark.Conn|nil, string?  makes a connection; may wait
---@return lunapark.client.Pool
function pool.new(dial)
  return setmetatable({ dial = dial, closed = false }, pool_mt)
end

--- A connection that waited, or a new one. Waits as `dial` does.
---@return lunapark.Conn|nil
---@return string? err  "closed", or why there is no new one
function Pool:take()
  while self[1] do
    local conn = table.remove(self)
    local buffer = conn.buffer
    if buffer.pos == buffer["end"] and C.host_sock_ready(conn.sock, 1) == 0 then return conn end
    conn:close()
  end
  return self:connect()
end

--- A new connection, which may be given to the pool later. Waits as `dial` does.
---@return lunapark.Conn|nil
---@return string? err
function Pool:connect()
  if self.closed then return nil, "closed" end
  return self.dial()
end

--- Keeps a connection on which the next request can be sent. A closed pool closes it.
---@param conn lunapark.Conn
function Pool:give(conn)
  if self.closed or #self >= MOST then return conn:close() end
  self[#self + 1] = conn
end

--- Closes the idle connections. From now on `take` says "closed". Harmless when called again.
function Pool:close()
  self.closed = true
  for i = #self, 1, -1 do
    self[i]:close()
    self[i] = nil
  end
end

return pool
