--- `http.compress{}`: middleware that compresses answers, with the coding that the client likes best.
--
-- The middleware only notes on the response what the client accepts. The rest happens when the answer is sent
-- (response.lua asks `decide`): so middleware inside and outside sees answers as the handler made them, and an answer
-- that streams is compressed as it is written. It leaves at `flush`, when a block is full, and at the end.
--
-- Left alone are: answers that are short, of types that are compressed already, that have a Content-Encoding or are
-- parts (206), events, and `Cache-Control: no-transform`. An answer that might have been compressed says `Vary:
-- Accept-Encoding` also when it was not, since a cache must not hand it to the next client. An ETag becomes weak: the
-- bytes are others.
--
-- Where a page has a secret and text that the client has sent, the length of the compressed page tells how alike the
-- two are, to attackers who see lengths and make a browser send requests (BREACH). So keep tokens out of such pages, or
-- mask them anew in each.

local apart = require("lunapark.core").apart
local chain = require "lunapark.http.chain"
local encoder = require "lunapark.http.encoder"
local headers = require "lunapark.http.headers"
local parameters = require("lunapark.http.multipart").parameters

local find, lower, match = string.find, string.lower, string.match

local MIN = 1024
local CODINGS = { "zstd", "br", "gzip" }
local LEVELS = { gzip = 5, br = 4, zstd = 3 }
local HIGHEST = { gzip = 9, br = 11, zstd = 19 }
-- "text/*": all that begin so; "+json": all that end so.
local TYPES = {
  "text/*", "+json", "+xml", "application/json", "application/javascript", "application/x-javascript",
  "application/xml", "application/x-ndjson", "application/wasm", "application/rtf", "application/sql",
  "application/graphql", "application/yaml", "application/toml", "application/manifest+json",
  "application/vnd.ms-fontobject", "font/ttf", "font/otf", "image/bmp", "image/x-icon",
}
local EVENTS = "text/event-stream"

-- Texts that clients or handlers choose are remembered for so many of each kind.
local KNOWN_MAX = 200

local compress = {}

--- A table of fn's values by text. false stands for nil.
---@param fn fun(text: string): any
---@return table<string, any>
function compress.memory(fn)
  local left = KNOWN_MAX
  jit.off(fn)
  return setmetatable({}, {
    __index = function(known, text)
      local value = apart(fn, text) or false
      if left > 0 then known[text], left = value, left - 1 end
      return value
    end,
  })
end

-- ---- what the client accepts --------------------------------------------------------------------------------

local function quality(params)
  if not params.q then return 1 end
  local q = match(params.q, "^[01]%.?%d*$") and tonumber(params.q)
  return q and q <= 1 and q or 0
end

--- The codings that an Accept-Encoding field asks for, the one that is liked best first.
---@param accept string
---@param codings string[]  the order of those that are liked alike
---@return string[] order    empty: none
---@return boolean identity  whether the answer may be sent as it is
function compress.order(accept, codings)
  local q = {}
  for item in accept:gmatch "[^,]+" do
    local word, params = parameters(item)
    if word == "x-gzip" then word = "gzip" end
    if word and word ~= "" then q[word] = quality(params) end
  end
  local others = q["*"] or 0
  local plain, order = q.identity, {}
  for _, coding in ipairs(codings) do
    local coding_q = q[coding] or others
    if coding_q > 0 and coding_q >= (plain or 0) then
      local at = #order + 1
      while at > 1 and (q[order[at - 1]] or others) < coding_q do at = at - 1 end
      table.insert(order, at, coding)
    end
  end
  return order, plain ~= 0 and not (not plain and q["*"] == 0)
end
jit.off(compress.order)

--- The coding that an Accept-Encoding field asks for: the first of compress.order; nil: none.
---@param accept string
---@param codings string[]
---@return string|nil coding
---@return boolean identity
function compress.choose(accept, codings)
  local order, identity = compress.order(accept, codings)
  return order[1], identity
end
jit.off(compress.choose)

-- ---- what is compressed -------------------------------------------------------------------------------------

---@class lunapark.Compression
---@field private types table<string, boolean>
---@field private min integer
---@field private levels table<string, integer>
---@field private coding string|nil
---@field private identity boolean
local Compression = {}
local compression_mt = { __index = Compression }

-- A function that says whether a Content-Type is one of the patterns.
local function type_test(patterns)
  local whole, starts, ends = {}, {}, {}
  for _, pattern in ipairs(patterns) do
    pattern = lower(pattern)
    if pattern:sub(-1) == "*" then
      starts[#starts + 1] = pattern:sub(1, -2)
    elseif pattern:sub(1, 1) == "+" then
      ends[#ends + 1] = pattern
    else
      whole[pattern] = true
    end
  end
  return function(ctype)
    local name = lower(match(ctype, "^[ \t]*([^; \t]*)"))
    if name == EVENTS then return false end
    if whole[name] then return true end
    for _, start in ipairs(starts) do
      if name:sub(1, #start) == start then return true end
    end
    for _, ending in ipairs(ends) do
      if name:sub(-#ending) == ending then return true end
    end
    return false
  end
end

-- The headers of an answer; a table that the handler has put in their place becomes headers.
local function headers_of(res)
  local h = res.headers
  if getmetatable(h) == headers.mt then return h end
  local own = headers.new()
  headers.merge(own, h)
  res.headers = own
  return own
end

--- Which coding an answer gets. Adds Vary to what might have had one.
---@param res lunapark.Response
---@param status integer
---@param ctype string|nil     the type if the headers name none; nil: text
---@param length integer|nil   bytes of the body, if they are known
---@return string|nil coding
function Compression:decide(res, status, ctype, length)
  if status == 204 then return nil end
  local h = headers_of(res)
  ctype = h:get "content-type" or ctype
  if status ~= 304 and ctype and not self.types[ctype] or h:get "content-encoding" then return nil end
  local cache = h:get "cache-control"
  if cache and find(lower(cache), "no-transform", 1, true) then return nil end
  headers.vary(h, "Accept-Encoding")
  if status == 304 or status == 206 or h:get "content-range" then return nil end
  if length and length < self.min and (self.identity or length == 0) then return nil end
  return self.coding or nil
end

--- The headers of an answer that is compressed.
---@param res lunapark.Response
---@param coding string
function Compression.mark(_, res, coding)
  local h = headers_of(res)
  h["Content-Encoding"] = coding
  local etag = h.etag
  if etag and etag:sub(1, 2) ~= "W/" then h.ETag = "W/" .. etag end
  h["Accept-Ranges"], h["Content-MD5"], h["Content-Digest"] = nil, nil, nil
end

--- A compressor for an answer that streams.
---@param coding string
---@return lunapark.Encoder|nil
function Compression:encoder(coding)
  return encoder.new(coding, self.levels[coding])
end

--- A whole body, compressed; nil: there is no memory for that, or it would not be shorter. May wait.
---@param coding string
---@param body string
---@return string|nil
function Compression:whole(coding, body)
  local e = self:encoder(coding)
  local out = e and e:finish(body)
  return out and (#out < #body or not self.identity) and out or nil
end

--- Whether answers of a type become shorter by compression.
compress.types = compress.memory(type_test(TYPES))

-- ---- the middleware -----------------------------------------------------------------------------------------

local function fail(what, value)
  error(("compress: %s, got %s"):format(what, type(value) == "string" and ("%q"):format(value) or tostring(value)), 4)
end

local function check_list(list, name)
  if type(list) ~= "table" or #list == 0 then fail("opts." .. name .. " must be a list of strings", list) end
  for _, value in ipairs(list) do
    if type(value) ~= "string" then fail("opts." .. name .. " must be a list of strings", value) end
  end
  return list
end

local checks = {
  min = function(n)
    if type(n) ~= "number" or n < 0 then fail("opts.min must be a number of bytes", n) end
  end,
  types = function(list) check_list(list, "types") end,
  codings = function(list)
    for _, coding in ipairs(check_list(list, "codings")) do
      if not LEVELS[coding] then fail("opts.codings must be of gzip, br and zstd", coding) end
    end
  end,
  levels = function(levels)
    if type(levels) ~= "table" then fail("opts.levels must be a table", levels) end
    for coding, level in pairs(levels) do
      if not LEVELS[coding] then fail("opts.levels must be of gzip, br and zstd", coding) end
      if type(level) ~= "number" or level % 1 ~= 0 or level < 1 or level > HIGHEST[coding] then
        fail(("opts.levels.%s must be a whole number from 1 to %d"):format(coding, HIGHEST[coding]), level)
      end
    end
  end,
}

---@class lunapark.CompressOptions
---@field min integer?       bytes from which bodies are compressed, 1024 without it; streams always are
---@field types string[]?    content types: "text/*", "+json" (what ends so), whole names; those of texts without it
---@field codings string[]?  of "zstd", "br", "gzip", which is the order without it: the first of those that a client
---likes alike
---@field levels table<string, integer>?  gzip 1 to 9 (5 without it), br 1 to 11 (4), zstd 1 to 19 (3)

local function check(opts)
  if type(opts) ~= "table" then fail("opts must be a table", opts) end
  for name, value in pairs(opts) do
    if not checks[name] then fail("opts must have min, types, codings or levels", name) end
    checks[name](value)
  end
end

--- Middleware that compresses answers, for app:use.
---@param opts? lunapark.CompressOptions
---@return fun(req: lunapark.Request, res: lunapark.Response, next: fun(): any, any, any): any, any, any
function compress.new(opts)
  opts = opts or {}
  check(opts)
  local codings, levels = opts.codings or CODINGS, {}
  for coding, level in pairs(LEVELS) do
    levels[coding] = opts.levels and opts.levels[coding] or level
  end
  local types = opts.types and compress.memory(type_test(opts.types)) or compress.types
  local by_accept = compress.memory(function(accept)
    local coding, identity = compress.choose(accept, codings)
    return setmetatable({
      types = types, min = opts.min or MIN, levels = levels, coding = coding or false, identity = identity,
    }, compression_mt)
  end)
  return (chain.gate(function(req, res, next)
    res.compression = by_accept[req.headers:get "accept-encoding" or ""]
    local _ = res.headers -- an answer with headers takes the way through response.lua
    return next()
  end))
end

return compress
