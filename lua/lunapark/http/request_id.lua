--- `http.request_id{}`: names each request, and tells the client the name, in X-Request-Id.
--
-- The name is req.id as text from then on. What a client sends is not taken over: only a proxy that is trusted may name
-- requests. Names of one process begin alike and count; others cannot guess from which number on.

local chain = require "lunapark.http.chain"
local crypto = require "lunapark.crypto"
local near = require "lunapark.core.near"

local format = string.format

local request_id = {}

---@class lunapark.RequestIdOptions
---@field header string?  the field of the answer, "X-Request-Id" without it

--- Middleware that names requests, for app:use.
---@param opts? lunapark.RequestIdOptions
---@return fun(req: lunapark.Request, res: lunapark.Response, next: fun(): any): any
function request_id.new(opts)
  opts = opts or {}
  near.check_options(opts, { header = true }, "request_id", 3)
  local header = opts.header or "X-Request-Id"
  local first
  return (chain.gate(function(req, res, next)
    local id = req.id
    if type(id) ~= "string" then
      first = first or crypto.random_hex(8)
      id = format("%s-%d", first, id)
      req.id = id
    end
    res.headers:set(header, id)
    return next()
  end))
end

return request_id
