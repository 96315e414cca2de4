--- `http.csrf{}`: refuses what pages of other sites make a browser send in its user's name.
--
-- A browser says where a request comes from: in Sec-Fetch-Site, and in Origin, which a page can neither set nor leave
-- out. So no token is needed in forms. Requests that must not change anything (GET, HEAD, OPTIONS) pass, and so do
-- requests with neither field: these come from programs, which have no user's cookies.

local answer = require "lunapark.http.answer"
local chain = require "lunapark.http.chain"
local near = require "lunapark.core.near"
local origins = require "lunapark.http.origin"

local lower, match = string.lower, string.match

local csrf = {}

---@class lunapark.CsrfOptions
---@field trusted string[]?  origins that may send all the same: "https://partner.example"

local safe = { GET = true, HEAD = true, OPTIONS = true, TRACE = true }
local good_sites = { ["same-origin"] = true, none = true }

--- Whether a request comes from our own page, from a trusted one, or from no page at all.
---@param req lunapark.Request
---@param trusted table<string, true>
---@return boolean
local function is_ours(req, trusted)
  local h = req.headers
  local site, origin = h:get "sec-fetch-site", h:get "origin"
  if origin and trusted[lower(origin)] then return true end
  if site then return good_sites[site] == true end
  if not origin then return true end
  local host = match(origin, "^%a[%w+.-]*://(.+)$")
  return host ~= nil and req.host ~= nil and lower(host) == lower(req.host)
end

--- Middleware that refuses requests of other sites' pages with 403, for app:use.
---@param opts? lunapark.CsrfOptions
---@return fun(req: lunapark.Request, res: lunapark.Response, next: fun(): any): any
function csrf.new(opts)
  opts = opts or {}
  near.check_options(opts, { trusted = true }, "csrf", 3)
  local trusted = origins.set(opts.trusted or {}, "csrf: opts.trusted", 3)
  return (chain.gate(function(req, res, next)
    if safe[req.method] or is_ours(req, trusted) then return next() end
    answer.note_failure(req, res, 403, "this request was sent by a page of another site")
    return res
  end))
end

return csrf
