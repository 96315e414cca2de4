--- Lua's hold on an exchange: the place of its host_req, and the id of its request.
--
-- A request, a response and lazy headers all reach the host through `ptr` and `serial`. The host_req serves another
-- client as soon as the handler has ended: by a return, an error, for lack of memory, by force. So each use compares
-- the serial with the id that stands there now: here before fields are read, in C in each call. Nothing has to be
-- cleared at a request's end, and nothing that outlives a request reaches the next one.

local exchange = {}

---@class lunapark.Exchange
---@field package ptr ffi.cdata*  the host_req
---@field package serial number   its id while the request lasts

--- The host_req of a request that is not over; raises if it is. Good until the next wait.
---@param x lunapark.Exchange
---@param level integer  whom the error blames, as seen from the caller: 1 the caller, 2 the caller's caller
---@return ffi.cdata*
function exchange.live(x, level)
  local r = type(x) == "table" and x.ptr
  if not r then error("call it with a colon, as in req:body() and res:json(t)", level + 1) end
  if r.id ~= x.serial then error("request is over", level + 1) end
  return r
end

return exchange
