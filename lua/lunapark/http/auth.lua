--- `http.basic_auth{}` and `http.bearer_auth{}`: who may come in.
--
--   app:use(http.basic_auth { users = { ann = crypto.password_hash "..." } })
--   app:use(http.bearer_auth { tokens = { os.getenv "API_TOKEN" } })
--   app:use(http.bearer_auth { check = function(token) return users_by_token[token] end })
--
-- Who came in is req.user: a name, or what `check` returned. Comparisons do not tell how near a guess was.

local answer = require "lunapark.http.answer"
local chain = require "lunapark.http.chain"
local crypto = require "lunapark.crypto"
local near = require "lunapark.core.near"

local find, match, sub = string.find, string.match, string.sub

local auth = {}

local function quoted(realm, what)
  realm = realm == nil and "private" or realm
  if type(realm) ~= "string" or find(realm, '[%c"\\]') then
    error(what .. ": opts.realm must be a string without quotes", 4)
  end
  return ('realm="%s"'):format(realm)
end

local function check_check(fn, what)
  if fn ~= nil and type(fn) ~= "function" then
    error(("%s: opts.check must be a function, got %s"):format(what, type(fn)), 4)
  end
end

-- The words behind "Basic" or "Bearer" in the Authorization field.
local function given(req, scheme)
  local field = req.headers:get "authorization"
  if not field then return nil end
  local word, rest = match(field, "^(%a+) +(%S+) *$")
  return word and word:lower() == scheme and rest or nil
end

local function refuse(req, res, challenge)
  res.headers:set("WWW-Authenticate", challenge)
  answer.note_failure(req, res, 401)
  return res
end

-- ---- basic --------------------------------------------------------------------------------------------------

---@class lunapark.BasicAuthOptions
---@field users table<string, string>?  name -> password, or what crypto.password_hash has made of it
---@field check (fun(name: string, password: string, req: lunapark.Request): any)?  true or a user; nil: not known
---@field realm string?  what the browser shows, "private" without it

-- Passwords that were verified, since a hash takes a tenth of a second: as codes by a key of this VM. Few are kept.
local VERIFIED_MAX = 1000
local verified, n_verified, key = {}, 0, nil

local function is_password(password, stored)
  if sub(stored, 1, 8) ~= "$scrypt$" then return crypto.equal(password, stored) end
  key = key or crypto.random(32)
  local code = crypto.hmac("sha256", key, stored .. "\0" .. password, true)
  if verified[code] then return true end
  local ok, err = crypto.password_verify(password, stored)
  if ok == nil then error("basic_auth: " .. err) end
  if not ok then return false end
  if n_verified >= VERIFIED_MAX then
    verified, n_verified = {}, 0
  end
  verified[code], n_verified = true, n_verified + 1
  return true
end

local function by_users(users)
  if type(users) ~= "table" then error("basic_auth: opts.users must be a table, got " .. type(users), 4) end
  local nobody
  for name, password in pairs(users) do
    if type(name) ~= "string" or type(password) ~= "string" or find(name, ":", 1, true) then
      error("basic_auth: opts.users must have names without ':' and passwords", 4)
    end
    nobody = nobody or password
  end
  return function(name, password)
    -- A name that does not exist takes as long as one that does.
    local stored = users[name]
    local ok = nobody and is_password(password, stored or nobody)
    return stored and ok and name or nil
  end
end

--- Middleware that asks for a name and a password (RFC 7617), for app:use.
---@param opts lunapark.BasicAuthOptions  users or check
---@return fun(req: lunapark.Request, res: lunapark.Response, next: fun(): any): any
function auth.basic(opts)
  near.check_options(opts, { users = true, check = true, realm = true }, "basic_auth", 3)
  check_check(opts.check, "basic_auth")
  if not opts.check and not opts.users then error("basic_auth: opts.users or opts.check is missing", 3) end
  local check = opts.check or by_users(opts.users)
  local challenge = "Basic " .. quoted(opts.realm, "basic_auth") .. ', charset="UTF-8"'
  return (chain.gate(function(req, res, next)
    local words = given(req, "basic")
    local text = words and crypto.base64_decode(words)
    local name, password = match(text or "", "^([^:]*):(.*)$")
    local user = name and check(name, password, req)
    if not user then return refuse(req, res, challenge) end
    req.user = user == true and name or user
    return next()
  end))
end

-- ---- bearer -------------------------------------------------------------------------------------------------

---@class lunapark.BearerAuthOptions
---@field tokens string[]|table<string, any>|nil  those that are good; in a table by token the users they stand for
---@field check (fun(token: string, req: lunapark.Request): any)?  true or a user; nil: not known
---@field realm string?

-- Tokens are looked up by their hash: the time of a lookup tells nothing about a token then.
local function by_tokens(tokens)
  if type(tokens) ~= "table" or next(tokens) == nil then
    error("bearer_auth: opts.tokens must be a list of strings, which is not empty", 4)
  end
  local users = {}
  for token, user in pairs(tokens) do
    if type(token) == "number" then token, user = user, true end
    if type(token) ~= "string" or #token < 1 then error("bearer_auth: opts.tokens must be strings", 4) end
    users[crypto.sha256(token, true)] = user
  end
  return function(token) return users[crypto.sha256(token, true)] end
end

--- Middleware that asks for a token (RFC 6750), for app:use.
---@param opts lunapark.BearerAuthOptions  tokens or check
---@return fun(req: lunapark.Request, res: lunapark.Response, next: fun(): any): any
function auth.bearer(opts)
  near.check_options(opts, { tokens = true, check = true, realm = true }, "bearer_auth", 3)
  check_check(opts.check, "bearer_auth")
  if not opts.check and not opts.tokens then error("bearer_auth: opts.tokens or opts.check is missing", 3) end
  local check = opts.check or by_tokens(opts.tokens)
  local challenge = "Bearer " .. quoted(opts.realm, "bearer_auth")
  return (chain.gate(function(req, res, next)
    local token = given(req, "bearer")
    local user = token and check(token, req)
    if not user then return refuse(req, res, token and challenge .. ', error="invalid_token"' or challenge) end
    req.user = user
    return next()
  end))
end

return auth
