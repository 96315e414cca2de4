--- `http.limit{ requests = 100, per = 60 }`: so many requests of one client in so many seconds; more are answered 429.
--
-- All VMs count together, in a shared dict. A client's time begins with its first request and lasts `per` seconds; then
-- it begins anew. (So a client may have twice as many answers around the end of a time. Exact counting would cost an
-- entry for each request.) A client is an address (req.ip), unless `by` says who it is: a user, a key of an API. An
-- address of IPv6 counts by its first 64 bits, which one customer has for himself.

local chain = require "lunapark.http.chain"
local log = require "lunapark.log"
local near = require "lunapark.core.near"
local shared = require "lunapark.shared"
local apart = require("lunapark.core").apart
local as_given = require("lunapark.core.show").given

local ceil, concat = math.ceil, table.concat
local find, gmatch, gsub, match, sub = string.find, string.gmatch, string.gsub, string.match, string.sub

local limit = {}

---@class lunapark.LimitOptions
---@field requests integer
---@field per number?   seconds, 60 without it
---@field by (fun(req: lunapark.Request): string|nil)?  who counts as one; nil: is not limited
---@field name string?  limits of the same name count together; without it each has a count of its own

local known = { requests = true, per = true, by = true, name = true }

-- The network of an IPv6 address: the first four of its eight groups. "::" stands for as many zeros as it takes.
local function network(ip)
  local at = find(ip, "::", 1, true)
  local head, tail = at and sub(ip, 1, at - 1) or ip, at and sub(ip, at + 2) or ""
  local groups = {}
  for group in gmatch(head, "[^:]+") do groups[#groups + 1] = group end
  local _, behind = gsub(tail, "[^:]+", "")
  for _ = #groups + behind + 1, 8 do groups[#groups + 1] = "0" end
  for group in gmatch(tail, "[^:]+") do groups[#groups + 1] = group end
  return concat(groups, ":", 1, 4)
end

-- The client of what has a colon.
local function of_v6(ip)
  ip = match(ip, "^::ffff:(%d+%.%d+%.%d+%.%d+)$") or ip
  if find(ip, ":", 1, true) and find(ip, "^[%x:.]+$") then return network(ip) end
  return ip
end

jit.off(network)
jit.off(of_v6)

--- Who a request comes from, for limits: an IPv4 address, or the network of an IPv6 one.
---@param req lunapark.Request
---@return string
function limit.client(req)
  local ip = req.ip
  if not ip then
    local addr = req.remote_addr
    ip = match(addr, "^%[(.*)%]:%d+$") or match(addr, "^(.*):%d+$") or addr
  end
  if not find(ip, ":", 1, true) then return ip end
  return (apart(of_v6, ip))
end

local count = 0

local function check(opts)
  near.check_options(opts, known, "limit", 4)
  local requests, per = opts.requests, opts.per
  if type(requests) ~= "number" or requests < 1 or requests % 1 ~= 0 then
    error("limit: opts.requests must be a whole number, 1 or more, got " .. as_given(requests), 4)
  end
  if per ~= nil and (type(per) ~= "number" or per ~= per or per <= 0) then
    error("limit: opts.per must be a number of seconds, got " .. as_given(per), 4)
  end
  if opts.by ~= nil and type(opts.by) ~= "function" then
    error("limit: opts.by must be a function, got " .. type(opts.by), 4)
  end
  if opts.name ~= nil and type(opts.name) ~= "string" then
    error("limit: opts.name must be a string, got " .. type(opts.name), 4)
  end
end

--- Middleware that counts requests, for app:use.
---@param opts lunapark.LimitOptions
---@return fun(req: lunapark.Request, res: lunapark.Response, next: fun(): any): any
function limit.new(opts)
  check(opts)
  local requests, per, by = opts.requests, opts.per or 60, opts.by or limit.client
  -- All VMs load the same app, and number its limits alike.
  count = count + 1
  local prefix = (opts.name or "#" .. count) .. " "
  local dict
  return (chain.gate(function(req, res, next)
    local who = by(req)
    if who == nil then return next() end
    if not dict then
      local err
      dict, err = shared.dict "lunapark.limit"
      if not dict then error("limit: " .. err) end
    end
    local key = prefix .. who
    local n, err = dict:incr(key, 1, 0, per)
    if not n then log.warn("limit: a request passes uncounted: " .. err) end
    if n and n > requests then
      res.headers:set("Retry-After", ("%d"):format(math.max(ceil(dict:ttl(key) or 0), 1)))
      require("lunapark.http.answer").note_failure(req, res, 429)
      return res
    end
    return next()
  end))
end

return limit
