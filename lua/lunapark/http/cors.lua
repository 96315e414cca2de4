--- `http.cors{}`: lets scripts of other sites read the answers (the Fetch standard, "CORS protocol").
--
-- A browser asks first, by OPTIONS, whether it may send a request that no form could send. The middleware answers this
-- question itself. Fields are set before the handler runs, so they are also in the answers to errors, which a script
-- could not read otherwise. A request from another site than those that are allowed is served all the same: what keeps
-- its sender from reading the answer is the browser, and what keeps it from doing harm is `http.csrf`.

local chain = require "lunapark.http.chain"
local headers = require "lunapark.http.headers"
local near = require "lunapark.core.near"
local origin = require "lunapark.http.origin"

local concat, lower, type = table.concat, string.lower, type

local cors = {}

---@class lunapark.CorsOptions
---@field origins "*"|string[]|(fun(origin: string, req: lunapark.Request): boolean)|nil  "*", every site, without it
---@field methods string[]?      those that may be asked for: GET, HEAD, POST, PUT, PATCH, DELETE without it
---@field headers string[]?      request fields that scripts may set: those that are asked for without it
---@field expose string[]?       fields of answers that scripts may read, beside the few that they always may
---@field credentials boolean?   with cookies: then origins must be named
---@field max_age number?        seconds for which a browser remembers the answer to its question: 600 without it

local known = { origins = true, methods = true, headers = true, expose = true, credentials = true, max_age = true }
local METHODS = { "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE" }

local function fail(words)
  error("cors: " .. words, 5)
end

local function list_of(opts, name, default)
  local list = opts[name]
  if list == nil then list = default end
  if list == nil then return nil end
  if type(list) ~= "table" then fail(("opts.%s must be a list of strings, got %s"):format(name, type(list))) end
  for _, word in ipairs(list) do
    if type(word) ~= "string" then fail(("opts.%s must be a list of strings"):format(name)) end
  end
  return concat(list, ", ")
end

-- A function that says whether an origin may read; true: all may.
local function allowed_by(opts)
  local origins = opts.origins == nil and "*" or opts.origins
  if origins == "*" then
    if opts.credentials then fail 'opts.origins must name the sites, or be a function, for credentials' end
    return true
  end
  if type(origins) == "function" then return origins end
  if type(origins) == "string" then origins = { origins } end
  if type(origins) ~= "table" then fail("opts.origins must be a list of strings, got " .. type(origins)) end
  local set = origin.set(origins, "cors: opts.origins", 4)
  return function(name) return set[lower(name)] == true end
end

-- Answers the browser's question.
local function preflight(req, res, rules)
  local h = res.headers
  h["Access-Control-Allow-Methods"] = rules.methods
  local wanted = rules.headers or req.headers:get "access-control-request-headers"
  if wanted then h["Access-Control-Allow-Headers"] = wanted end
  if not rules.headers then headers.vary(h, "Access-Control-Request-Headers") end
  h["Access-Control-Max-Age"] = rules.max_age
  return 204
end

--- Middleware that sets the fields and answers preflights, for app:use.
---@param opts? lunapark.CorsOptions
---@return fun(req: lunapark.Request, res: lunapark.Response, next: fun(): any): any
function cors.new(opts)
  opts = opts or {}
  near.check_options(opts, known, "cors", 3)
  local allowed = allowed_by(opts)
  local max_age = opts.max_age or 600
  if type(max_age) ~= "number" then error("cors: opts.max_age must be seconds, got " .. type(max_age), 3) end
  local rules = {
    methods = list_of(opts, "methods", METHODS), headers = list_of(opts, "headers"),
    max_age = ("%d"):format(max_age),
  }
  local list = {}
  if allowed == true then list = { "Access-Control-Allow-Origin", "*" } end
  if opts.credentials then list = { "Access-Control-Allow-Credentials", "true" } end
  local expose = list_of(opts, "expose")
  if expose then
    list[#list + 1], list[#list + 2] = "Access-Control-Expose-Headers", expose
  end
  local fixed = headers.fixed(list)
  return (chain.gate(function(req, res, next)
    local h = res.headers
    if allowed ~= true then headers.vary(h, "Origin") end
    local from = req.headers:get "origin"
    if not from then return next() end
    if allowed ~= true then
      if not allowed(from, req) then return next() end
      h["Access-Control-Allow-Origin"] = from
    end
    headers.put_fixed(h, fixed)
    if req.method == "OPTIONS" and req.headers:get "access-control-request-method" then
      return preflight(req, res, rules)
    end
    return next()
  end))
end

return cors
