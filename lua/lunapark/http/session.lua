--- `http.session{ secret = ... }`: what a server remembers of a browser, from one request to the next.
--
--   app:use(http.session { secret = os.getenv "SESSION_SECRET" })
--   app:post("/login", function(req, res)
--     req.session:renew()
--     req.session.user = name
--     return res:redirect "/"
--   end)
--
-- req.session is a table; whatever is in it when the head of the answer is made is kept, also when the handler fails.
-- Values are strings, numbers, booleans and tables of these.
--
-- Without `store` all of it is in the cookie, encrypted by AES-256-GCM with a key made of the secret: the browser can
-- neither read nor change it, and all processes and machines with the secret understand it. It holds 3 KB or so, and a
-- session that has ended can be brought back by who has kept the cookie, until it expires. With `store` the cookie is a
-- number that nobody can guess, and the session is in a shared dict of that name: `clear` ends it for good, and `renew`
-- gives it another number.

local chain = require "lunapark.http.chain"
local cookie = require "lunapark.http.cookie"
local crypto = require "lunapark.crypto"
local near = require "lunapark.core.near"

local buffer = require "string.buffer"
local apart = require("lunapark.core").apart
local as_given = require("lunapark.core.show").given

local type = type

local COOKIE_MAX = 4000 -- bytes; browsers drop longer ones without a word
local ID = 24           -- random bytes of a number

local session = {}

---@class lunapark.SessionOptions
---@field secret string|string[]|nil  32 bytes or more; needed without store. Of a list the first makes cookies, the
---others still read old ones
---@field name string?       of the cookie, "session" without it
---@field store string?      the name of a shared dict
---@field max_age number?    seconds for which a session lasts after its last change: 14 days without it
---@field secure boolean?    over HTTPS alone: without it as the request came
---@field same_site string?  "lax" without it; "strict", "none"
---@field domain string?
---@field path string?       "/" without it

local known = {
  secret = true, name = true, store = true, max_age = true, secure = true, same_site = true, domain = true, path = true,
}
local FORTNIGHT = 14 * 86400

-- ---- the table that handlers see ------------------------------------------------------------------------------

-- The key of what the middleware knows of a session: so every other key is free for the handler, but for the names of
-- methods.
local STATE = {}

---@class lunapark.Session
---@field [string] any
local Session = {}
local session_mt = { __name = "lunapark.Session", __index = Session }

--- Forgets all that is in the session; its cookie goes, too.
function Session:clear()
  for name in next, self do
    if name ~= STATE then self[name] = nil end
  end
  self[STATE].renewed = true
end

--- Gives the session another number, where a store has it: when somebody logs in, so that a number that somebody else
--- has planted before is worth nothing. In a cookie there is nothing to do.
function Session:renew()
  self[STATE].renewed = true
end

-- ---- where sessions are ---------------------------------------------------------------------------------------

-- The session as text; nil: there is nothing in it. Of an unchanged table the text is the same each time.
local function text_of(data)
  local plain = {}
  for name, value in next, data do
    if name ~= STATE then plain[name] = value end
  end
  return next(plain) ~= nil and buffer.encode(plain) or nil
end
jit.off(text_of)

-- The data of an encoded session; nil: it is none.
local function decode(text)
  local ok, data = pcall(buffer.decode, text)
  return ok and type(data) == "table" and data or nil
end

local in_cookie, in_store = {}, {}

function in_cookie.load(rules, value)
  local sealed = crypto.base64url_decode(value)
  for _, key in ipairs(sealed and rules.keys or {}) do
    local text = crypto.unseal(key, rules.name, sealed)
    local data = text and decode(text)
    if data and type(data.t) == "number" and data.t > os.time() and type(data.d) == "table" then
      return data.d
    end
  end
end

function in_cookie.save(rules, _, text)
  local whole = buffer.encode { t = os.time() + rules.max_age, d = decode(text) }
  local value = crypto.base64url(crypto.seal(rules.keys[1], rules.name, whole))
  if #value > COOKIE_MAX then
    error(("session: %d bytes are too many for a cookie: keep less, or use a store"):format(#value), 0)
  end
  return value
end

function in_cookie.drop() end

local function dict_of(rules)
  if not rules.dict then
    local dict, err = require("lunapark.shared").dict(rules.store)
    if not dict then error("session: " .. err, 0) end
    rules.dict = dict
  end
  return rules.dict
end

function in_store.load(rules, value)
  if not value:find "^[%w_-]+$" or #value ~= ID / 3 * 4 then return nil end
  local text = dict_of(rules):get(value)
  local data = type(text) == "string" and decode(text)
  if data then return data, value end
end

function in_store.save(rules, state, text)
  local id = state.id
  if not id or state.renewed then
    in_store.drop(rules, state)
    id = crypto.base64url(crypto.random(ID))
  end
  local ok, err = dict_of(rules):set(id, text, rules.max_age)
  if not ok then error("session: " .. err, 0) end
  return id
end

function in_store.drop(rules, state)
  if state.id then dict_of(rules):delete(state.id) end
end

-- ---- the middleware -------------------------------------------------------------------------------------------

-- Called before the head of the answer is made.
local function save(res)
  local data = res.session
  local state = data[STATE]
  local rules, before = state.rules, state.text
  local ok, text = apart(pcall, text_of, data)
  if not ok then error("session: a value cannot be kept: " .. tostring(text), 0) end
  if text == before and not (state.renewed and text) then return end
  local value = text and rules.kind.save(rules, state, text) or ""
  if not text then rules.kind.drop(rules, state) end
  local opts = {
    path = rules.path, domain = rules.domain, http_only = true, same_site = rules.same_site,
    max_age = text and rules.max_age or 0, secure = state.secure,
  }
  res.headers:add("Set-Cookie", cookie.format(rules.name, value, opts))
  if not res.headers["Cache-Control"] then res.headers["Cache-Control"] = "private" end
end

local function keys_of(secret)
  local list = type(secret) == "table" and secret or { secret }
  local keys = {}
  for i, text in ipairs(list) do
    if type(text) ~= "string" or #text < 32 then
      error("session: opts.secret must be a string of 32 bytes or more", 4)
    end
    keys[i] = crypto.hmac("sha256", text, "lunapark session", true)
  end
  if #keys == 0 then error("session: opts.secret is missing: a string of 32 bytes or more", 4) end
  return keys
end

--- Middleware that gives each request its session, for app:use.
---@param opts lunapark.SessionOptions
---@return fun(req: lunapark.Request, res: lunapark.Response, next: fun(): any): any
function session.new(opts)
  opts = opts or {}
  near.check_options(opts, known, "session", 3)
  local rules = {
    name = opts.name or "session", max_age = opts.max_age or FORTNIGHT, path = opts.path or "/", domain = opts.domain,
    same_site = opts.same_site or "lax", store = opts.store, kind = opts.store and in_store or in_cookie,
    keys = not opts.store and keys_of(opts.secret) or nil,
  }
  if type(rules.max_age) ~= "number" or rules.max_age ~= rules.max_age or rules.max_age < 1 then
    error("session: opts.max_age must be seconds, 1 or more, got " .. as_given(rules.max_age), 3)
  end
  cookie.format(rules.name, "", { same_site = rules.same_site, domain = rules.domain, path = rules.path }, 3)
  local find, load = rules.name .. "=", rules.kind.load
  return (chain.gate(function(req, res, next)
    local field = req.headers:get "cookie"
    local data, id
    if field and field:find(find, 1, true) then
      local value = cookie.get(field, rules.name)
      if value then data, id = load(rules, value) end
    end
    local text = data and apart(text_of, data)
    local s = setmetatable(data or {}, session_mt)
    local secure = opts.secure
    if secure == nil then secure = req.scheme == "https" end
    s[STATE] = { rules = rules, text = text, id = id, secure = secure, renewed = false }
    req.session, res.session, res.before_head = s, s, save
    local _ = res.headers -- an answer with headers takes the way through response.lua
    return next()
  end))
end

return session
