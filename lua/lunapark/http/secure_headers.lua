--- `http.secure_headers{}`: fields that make browsers careful with an answer.
--
-- Without options: pages of other sites cannot frame ours, nor keep a hand on those that they open. Plugins are off.
-- Links to elsewhere tell the origin alone. Over HTTPS the browser comes back by HTTPS. A handler that sets one of
-- these fields has its own word sent. Scripts and styles may come from anywhere, unless `csp` says otherwise.

local chain = require "lunapark.http.chain"
local headers = require "lunapark.http.headers"
local near = require "lunapark.core.near"

local secure_headers = {}

---@class lunapark.SecureHeadersOptions
---@field csp string|false|nil    Content-Security-Policy
---@field frame string|false|nil  X-Frame-Options: "SAMEORIGIN" without it
---@field referrer string|false|nil  Referrer-Policy
---@field opener string|false|nil    Cross-Origin-Opener-Policy
---@field permissions string|false|nil  Permissions-Policy: none without it
---@field hsts number|false|nil   seconds of Strict-Transport-Security, in answers over HTTPS: half a year without it

local fields = {
  { "csp", "Content-Security-Policy", "base-uri 'self'; frame-ancestors 'self'; object-src 'none'" },
  { "frame", "X-Frame-Options", "SAMEORIGIN" },
  { "referrer", "Referrer-Policy", "strict-origin-when-cross-origin" },
  { "opener", "Cross-Origin-Opener-Policy", "same-origin" },
  { "permissions", "Permissions-Policy", false },
}
local HALF_A_YEAR = 15552000

local known = { hsts = true }
for _, field in ipairs(fields) do known[field[1]] = true end

--- Middleware that sets the fields, for app:use.
---@param opts? lunapark.SecureHeadersOptions
---@return fun(req: lunapark.Request, res: lunapark.Response, next: fun(): any): any
function secure_headers.new(opts)
  opts = opts or {}
  near.check_options(opts, known, "secure_headers", 3)
  local list = { "X-Content-Type-Options", "nosniff" }
  for _, field in ipairs(fields) do
    local value = opts[field[1]]
    if value == nil then value = field[3] end
    if value then
      list[#list + 1], list[#list + 2] = field[2], value
    end
  end
  local age = opts.hsts == nil and HALF_A_YEAR or opts.hsts
  if age and type(age) ~= "number" then
    error("secure_headers: opts.hsts must be seconds or false, got " .. type(age), 3)
  end
  local plain = headers.fixed(list)
  if age then
    list[#list + 1], list[#list + 2] = "Strict-Transport-Security", ("max-age=%d"):format(age)
  end
  local safe = headers.fixed(list)
  return (chain.gate(function(req, res, next)
    headers.put_fixed(res.headers, req.scheme == "https" and safe or plain)
    return next()
  end))
end

return secure_headers
