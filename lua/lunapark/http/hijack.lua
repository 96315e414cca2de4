--- `res:hijack()`: a handler takes its connection over, and speaks there what it likes.
--
--   app:get("/echo", function(req, res)
--     local conn = res:hijack()
--     conn:write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
--     for line in function() return conn:read_line() end do conn:write(line .. "\n") end
--   end)
--
-- The connection is one of `lunapark.net`, as `app:tcp` has them: it is closed when the handler ends, it stays over
-- reloads in its VM until --drain-timeout is over, and a stop lets it go on as long as the client is not silent for
-- more than a second.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local common = require "lunapark.net.sock"
local conn = require "lunapark.net.conn"
local exchange = require "lunapark.http.exchange"
local serve = require "lunapark.net.serve"

local C = ffi.C
local EAGAIN, EBUSY, EALREADY, EPIPE, EOPNOTSUPP = -11, -16, -114, -32, -95

local hijack = {}

local code = ffi.new "int[1]"

local function take(r, id)
  local s = C.host_req_hijack(r, id, code)
  if s ~= nil then return s end
  local rc = code[0]
  if rc ~= EAGAIN then return nil, rc end
  local why = core.wait_req(r, id, 2)
  if why then return nil, nil, why end
  return take(r, id)
end

--- Takes over the connection of a response. May wait, until earlier answers on the connection are sent.
---@param res lunapark.Response
---@return lunapark.Conn|nil conn
---@return string? err  "closed": the client is gone or was answered already; "timeout", "canceled"
function hijack.begin(res)
  local r, id = exchange.live(res, 3), res.serial
  local s, rc, why = take(r, id)
  if s then return serve.adopt(conn.new(common.keep(s))) end
  if rc == EALREADY then error("hijack: the answer has begun", 3) end
  if rc == EBUSY then error("hijack: the request has a body that is not read to its end: req:body() reads it", 3) end
  if rc == EOPNOTSUPP then error("hijack: other requests share the connection", 3) end
  if why then return nil, why end
  if rc == EPIPE then return nil, core.failed("closed", r) end
  return nil, common.message(rc)
end

return hijack
