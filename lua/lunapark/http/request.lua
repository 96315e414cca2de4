--- A request, as a handler sees it.
--
-- No field is made before it is read: the object starts as a table with the connection's host_req; a field comes from
-- the connection's buffer at its first reading, and is kept. A handler that only returns a string pays for nothing
-- else.
--
-- The host_req is this request's until the handler has ended (exchange.lua). Fields that were read before stay readable
-- after that; any other use raises "request is over". A G that outlives its request must take along what it needs.
--
-- A body that cannot be had is no ordinary value: `return 200, req:body()` must not become an empty 200. So `body` and
-- `read` raise an *abort* when the body is too large (413), malformed (400), or more than the VM has room for (503), or
-- when the client went away. dispatch answers the status of the abort; without a client the request ends quietly. A
-- handler that catches an abort may inspect `err.status`. A timeout is a wait's answer like any other: `nil,
-- "timeout"`.
--
-- A body that came and is nonsense (`json`, `form`) is `nil, err`, for the handler to answer in its own words. A
-- handler that stumbles over the nil and raises answers 400 (415), since the client is at fault; the log says where.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local cookie = require "lunapark.http.cookie"
local exchange = require "lunapark.http.exchange"
local form = require "lunapark.http.form"
local headers = require "lunapark.http.headers"
local json = require "lunapark.json"
local near = require "lunapark.core.near"
local path = require "lunapark.http.path"
local text = require "lunapark.core.text"
local as_given = require("lunapark.core.show").given

local C = ffi.C
local find, match, sub = string.find, string.match, string.sub
local ffi_string, lower = ffi.string, string.lower
local apart, live, wait_req = core.apart, exchange.live, core.wait_req

-- The answers of host_req_fill: -errno.
local EAGAIN, ENOMEM, EMSGSIZE, EPROTO = -11, -12, -90, -71

---@class lunapark.ClientCert
---@field verified boolean     it is of whom --tls-client-ca trusts
---@field fingerprint string   SHA-256 of the certificate, in hexadecimal digits
---@field subject string       as RFC 2253 writes it: "CN=ann,O=Example"
---@field sans string[]        its names: "DNS:a.example", "IP:192.0.2.7", "email:ann@a.example", "URI:..."

---@class lunapark.RequestTls
---@field version string       "TLSv1.3"
---@field cipher string
---@field sni string|nil       the name that the client asked for
---@field alpn string|nil      the protocol that was chosen: "http/1.1", "http/1.0"
---@field resumed boolean      the client came back with a ticket
---@field client_cert lunapark.ClientCert|nil  what the client has shown

---@class lunapark.Request: lunapark.Exchange
---@field method string         "GET"
---@field path string           decoded, slashes in a row as one, dot segments resolved, without the query
---@field target string         as the client sent it
---@field query table<string, string>  decoded; of a name that was repeated the last value
---@field params table<string, string>  the segments of the route's :names and *rest, decoded
---@field headers lunapark.Headers
---@field version string        "1.1" or "1.0"
---@field remote_addr string    the "host:port" of who has connected: the client, or a proxy
---@field ip string             the client's address, without port, as trusted proxies say; "unix" by a unix socket
---@field host string|nil       the authority that was asked for, with the port if there was one
---@field scheme string         "http" or "https", of the connection, or what a trusted proxy says
---@field tls lunapark.RequestTls|nil  what the client's connection has agreed on with us; nil: it speaks no TLS
---@field id number|string      counts the requests of this process; or the X-Request-Id of a trusted proxy
---@field ctx table             values that middleware and handlers leave for each other
---@field package whole string?   the body, once it was asked for
---@field package fields table<string, string>?  the form, once it was asked for
---@field package files lunapark.Upload[]?         its files
---@field package uploads lunapark.Uploads?        what has to be closed
---@field package blame integer?  the status if the handler fails now
---@field package was_read boolean?  `read` was given no n, or has told the end of the body
local methods = {}

local request = {}

---@class lunapark.Abort
---@field status integer|nil  what the client gets; nil: the client has left
---@field message string
---@field body any             of http.abort, as the two that follow
---@field fields table|nil
---@field is_answer boolean|nil
local abort_mt = { __name = "lunapark.Abort", __tostring = function(abort) return abort.message end }
request.abort_mt = abort_mt

--- An abort; `is_answer`: it has the whole answer, see answer.lua.
---@param fields { status: integer, message: string, body: any, fields: table?, is_answer: boolean? }
---@return lunapark.Abort
function request.new_abort(fields)
  return (setmetatable(fields, abort_mt)) -- a tail call of a built-in function can be no end of a trace
end

local too_large = setmetatable({ status = 413, message = "request body is too large" }, abort_mt)
local malformed = setmetatable({ status = 400, message = "request body is malformed" }, abort_mt)
local no_room = setmetatable({ status = 503, message = "no memory for the request body" }, abort_mt)
local gone = setmetatable({ message = "the client is gone" }, abort_mt)

-- Number of a method -> name, filled as methods are seen.
local method_names = setmetatable({}, {
  __index = function(names, id)
    local name = ffi_string(C.host_method_name(id))
    names[id] = name
    return name
  end,
})
request.method_names = method_names

local function span(r, field)
  return (ffi_string(r.buf + field.off, field.len))
end

--- The path as sent; "/" when an absolute target has none.
---@param r ffi.cdata*  host_req
---@return string
function request.raw_path(r)
  if r.path.len == 0 then return "/" end
  return span(r, r.path)
end

local address = ffi.new("char[?]", 128)
local told = ffi.new("char[?]", 256)

-- What is known of the client, by trusted proxies (host/http/forwarded.c); nil: nothing.
local function of_client(req, r, what)
  local n = C.host_req_client(r, req.serial, what, told)
  return n > 0 and ffi_string(told, n) or nil
end

-- Fields that are made of the host_req r at their first reading.
local getters = {}

function getters.method(_, r) return method_names[r.method] end
function getters.target(_, r) return span(r, r.target) end
function getters.query(_, r) return form.parse(r.buf + r.query.off, r.query.len) end
function getters.params() return {} end
function getters.headers(req) return headers.of_request(req) end
function getters.version(_, r) return r.minor == 0 and "1.0" or "1.1" end
function getters.ctx() return {} end

function getters.path(_, r)
  local raw = request.raw_path(r)
  if r.plain == 1 then return raw end
  -- dispatch refuses a path that cannot be split and sets a path that is not plain; this is for a bare "*".
  local segments = {}
  local n = path.split(raw, segments)
  return n and path.join(segments, n) or raw
end

function getters.remote_addr(req, r)
  local n = C.host_req_remote(r, req.serial, address, 128)
  return n > 0 and ffi_string(address, n) or ""
end

function getters.ip(req, r) return of_client(req, r, C.HOST_CLIENT_IP) or "" end
function getters.scheme(req, r) return of_client(req, r, C.HOST_CLIENT_SCHEME) or "http" end

local TLS_TEXTS = 16384
local tls_texts

-- host_req_tls's texts, in order.
function getters.tls(req, r)
  tls_texts = tls_texts or ffi.new("char[?]", TLS_TEXTS)
  local n = C.host_req_tls(r, req.serial, tls_texts, TLS_TEXTS)
  if n <= 0 then return nil end
  local list, at = {}, 0
  while at < n do
    list[#list + 1] = ffi_string(tls_texts + at)
    at = at + #list[#list] + 1
  end
  local t = {
    version = list[1], cipher = list[2], sni = list[3] ~= "" and list[3] or nil,
    alpn = list[4] ~= "" and list[4] or nil, resumed = list[5] == "1",
  }
  if list[6] then
    local sans = {}
    for i = 9, #list do
      if list[i] ~= "" then sans[#sans + 1] = list[i] end
    end
    t.client_cert = { verified = list[6] == "1", fingerprint = list[7], subject = list[8], sans = sans }
  end
  return t
end
function getters.id(req, r) return of_client(req, r, C.HOST_CLIENT_ID) or req.serial end

local value_out = ffi.new "host_span"

--- The host that a request names, as `req.host`. The authority of an absolute target wins over the Host field
--- (RFC 9112, 3.2.2).
---@param r ffi.cdata*  host_req
---@param id number
---@return string|nil
function request.host_of(r, id, ...) -- luacheck: ignore
  local n = C.host_req_client(r, id, C.HOST_CLIENT_HOST, told)
  if n > 0 then return (ffi_string(told, n)) end
  if r.target.len == 0 or r.buf[r.target.off] ~= 47 then
    local authority = match(span(r, r.target), "^%a[%w+.-]*://([^/?]+)")
    if authority then return authority end
  end
  if C.host_req_header(r, "host", 4, value_out) == 0 then return nil end
  return (ffi_string(r.buf + value_out.off, value_out.len))
end

function getters.host(req, r) return (request.host_of(r, req.serial)) end

-- Fields that the modules beside this one read when they are not there, and that handlers may have.
local own = {
  whole = true, fields = true, files = true, uploads = true, allow = true, blame = true, session = true, user = true,
  was_read = true,
}

local meant = {
  cookies = 'req:cookie("name")', form_data = "req:form()", post = "req:form()",
  content_type = 'req.headers["content-type"]', uri = "req.target", url = "req.target", args = "req.query",
  remote_ip = "req.remote_addr", header = 'req.headers["name"]', get = 'req.headers["name"]',
}

local unknown = near.index("req", { methods, getters }, own, meant)

request.mt = {
  __name = "lunapark.Request",
  __index = function(req, key)
    local method = methods[key]
    if method then return method end
    local getter = getters[key]
    if getter then
      local value = getter(req, live(req, 2))
      req[key] = value
      return value
    end
    return unknown(req, key)
  end,
}

--- The name of a method of requests.
---@param fn function
---@return string|nil
function request.method_name(fn)
  for name, method in pairs(methods) do
    if method == fn then return name end
  end
end

--- Whether the client likes JSON better than text, for answers that no handler makes.
---@param req lunapark.Request
---@return boolean
function request.likes_json(req)
  local accept = req.headers:get "accept"
  return accept ~= nil and C.host_likes_json(accept, #accept) == 1
end

-- Reads more of the body. true: bytes came, or the body is complete; nil, "timeout".
local function fill(req, r)
  local id = req.serial
  local rc = C.host_req_fill(r, id)
  if rc >= 0 then return true end
  if rc == EMSGSIZE then error(too_large, 0) end
  if rc == EPROTO then error(malformed, 0) end
  if rc == ENOMEM then error(no_room, 0) end
  if rc ~= EAGAIN then error(gone, 0) end
  local why = wait_req(r, id, 1)
  if why == "timeout" then
    req.blame = 408
    return nil, why
  end
  if why then error(gone, 0) end
  return fill(req, r)
end

-- Reads until the body is complete: true, or nil, "timeout".
local function fill_all(req, r)
  if r.body_complete == 1 then return true end
  local ok, err = fill(req, r)
  if not ok then return nil, err end
  return fill_all(req, r)
end

-- Takes the next n bytes that are here.
local function take(r, n)
  local pos = tonumber(r.body_pos)
  local piece = ffi_string(r.body + pos, n)
  r.body_pos = pos + n
  return piece
end

--- The whole body, or the rest that `read(n)` has left. May wait. Raises an abort, see above. Raises after a `read`
--- without n, which leaves a rest of no certain size, most often none, and after a `read` that has told the end.
---@return string|nil body  each call returns it
---@return string? err      "timeout"
function methods:body()
  local whole = type(self) == "table" and rawget(self, "whole")
  if whole then return whole end
  local r = live(self, 2)
  if r.has_body == 0 then return "" end
  if rawget(self, "was_read") then
    error("body: req:read() has taken the body, or its beginning: use one of the two, or read(n) before body()", 2)
  end
  if r.body_complete == 0 then
    local ok, err = fill_all(self, r)
    if not ok then return nil, err end
    live(self, 2)
  end
  whole = take(r, tonumber(r.body_len - r.body_pos))
  self.whole = whole
  return whole
end

-- What `read` answers.
local function take_next(req, r, n)
  local there = tonumber(r.body_len - r.body_pos)
  if there > 0 then return take(r, n and n < there and n or there) end
  if r.body_complete == 1 then return nil end
  local ok, err = fill(req, r)
  if not ok then return nil, err end
  live(req, 3)
  return take_next(req, r, n)
end

--- A piece of the body: the bytes that are there, or the next that come. May wait. Raises an abort, see above.
---@param n? integer   at most so many bytes
---@return string|nil piece  nil at the end of the body
---@return string? err       "timeout"
function methods:read(n)
  if n ~= nil and (type(n) ~= "number" or n < 1) then
    error("read: n must be 1 or more, got " .. as_given(n), 2)
  end
  local r = live(self, 2)
  if r.has_body == 0 then return nil end
  local piece, err = take_next(self, r, n)
  if not n or piece == nil and not err then self.was_read = true end
  return piece, err
end

local size_out = ffi.new "size_t[1]"

--- The fields that a client sent behind a chunked body, once the body was read to its end; before that it raises.
--- They are the sender's afterthoughts, such as a checksum, and are no part of `headers`.
---@return lunapark.Headers
function methods:trailers()
  local r = live(self, 2)
  if r.body_complete == 0 then error("trailers: the body has not been read to its end", 2) end
  local h = headers.new()
  local lines = C.host_req_trailers(r, self.serial, size_out)
  if lines == nil then return h end
  for line in text.pieces(ffi_string(lines, size_out[0]), "\r\n") do
    local colon = find(line, ":", 1, true)
    headers.received(h, sub(line, 1, colon - 1), text.trim(sub(line, colon + 1)))
  end
  return h
end

--- The body parsed as JSON. May wait; raises as `body`.
---@param opts? { big_integers: "text"? }  as for json.decode
---@return any value       json.null for null; nil if the body is not JSON
---@return string? err
function methods:json(opts)
  local body, err = methods.body(self)
  if not body then return nil, err end
  local value
  value, err = json.decode(body, opts)
  if value == nil then self.blame = 400 end
  return value, err
end

-- The fields that a form may have.
local MAX_FIELDS = 1000

-- Content types by what clients send: "form", "parts" or "other". Clients choose the text, so few are kept.
local kinds, kinds_left = {}, 100

local words = { ["application/x-www-form-urlencoded"] = "form", ["multipart/form-data"] = "parts" }

local function new_kind(ctype)
  local kind = words[match(lower(ctype), "^[ \t]*([^; \t]*)")] or "other"
  if kinds_left > 0 then kinds[ctype], kinds_left = kind, kinds_left - 1 end
  return kind
end
jit.off(new_kind)

local function kind_of(ctype)
  local kind = kinds[ctype] or apart(new_kind, ctype)
  return kind
end

local function abort(status, message)
  error(setmetatable({ status = status, message = message }, abort_mt), 0)
end

-- The body as a source: see multipart.lua.
local function source_of(req, multipart)
  local whole = rawget(req, "whole")
  if whole then return multipart.source_of(whole, abort) end
  return {
    fail = abort,
    window = function()
      local r = live(req, 5)
      return r.body + r.body_pos, tonumber(r.body_len - r.body_pos), r.has_body == 0 or r.body_complete == 1
    end,
    skip = function(n)
      local r = live(req, 5)
      r.body_pos = r.body_pos + n
    end,
    more = function() return fill(req, live(req, 5)) end,
  }
end

local function parts_of(req, opts)
  local multipart = require "lunapark.http.multipart" -- most apps take none
  local ctype = req.headers:get "content-type"
  local boundary = ctype and multipart.boundary(ctype)
  if not boundary then
    req.blame = 415
    return nil, "not a multipart body: " .. (ctype or "no Content-Type")
  end
  return multipart.parts(source_of(req, multipart), boundary, kind_of(ctype) == "parts", opts)
end

local function check_limits(opts, what, known)
  if opts == nil then return end
  if type(opts) ~= "table" then error(what .. ": opts must be a table, got " .. type(opts), 3) end
  for name, value in pairs(opts) do
    if not known[name] then error(what .. ": unknown option " .. tostring(name), 3) end
    if type(value) ~= "number" then
      error(("%s: opts.%s must be a number, got %s"):format(what, tostring(name), type(value)), 3)
    end
  end
end

local part_limits = { max_parts = true, max_head = true, max_part = true, max_total = true }
local form_limits = { max_fields = true, max_field = true, memory = true }
for name in pairs(part_limits) do form_limits[name] = true end

--- The parts of a body, one after the other, without ever holding the whole body: see multipart.lua.
---
---   for part in assert(req:multipart()) do ... end
---
--- The loop waits for the client. It raises an abort as `body` does, also for a malformed body (400), for more parts or
--- larger ones than opts allow (413), and when the next part does not come in time (408).
---@param opts? lunapark.PartLimits
---@return (fun(): lunapark.Part?)|nil next
---@return string? err  why the body has no parts; for a handler that stumbles 415
function methods:multipart(opts)
  check_limits(opts, "multipart", part_limits)
  return parts_of(self, opts)
end

---@class lunapark.FormLimits: lunapark.PartLimits
---@field max_fields integer?  fields at most, 1000 without it
---@field max_field integer?   bytes of a field among parts, 1 MiB without it
---@field memory integer?      bytes of all files that are kept in memory, 256 KiB without it; others are on the disk

-- Keeps the form, which each call returns.
local function keep_form(req, fields, files)
  req.fields, req.files = fields, files
  return fields, files
end

--- The body parsed as a form: application/x-www-form-urlencoded, multipart/form-data, or without a Content-Type the
--- former. May wait; raises as `body` and the loop of `multipart`.
---@param opts? lunapark.FormLimits
---@return table<string, string>|nil fields  decoded; of a name that was repeated the last value. Each call returns the
---same tables
---@return lunapark.Upload[]|string files  in order; also by name, of several the last. They end with the request. Or
---why there is no form: it is none (for a handler that stumbles 415), has too many fields (413); "timeout"
function methods:form(opts)
  check_limits(opts, "form", form_limits)
  local fields = rawget(self, "fields")
  if fields then return fields, self.files end
  local ctype = self.headers:get "content-type"
  local kind = not ctype and "form" or kind_of(ctype)
  if kind == "other" then
    self.blame = 415
    return nil, "not a form: " .. ctype
  end
  local max = opts and opts.max_fields or MAX_FIELDS
  if kind == "parts" then
    local parts, err = parts_of(self, opts)
    if not parts then return nil, err end
    local uploads = require("lunapark.http.upload").new()
    self.uploads = uploads
    uploads:collect(parts, max, opts or {}, abort)
    return keep_form(self, uploads.fields, uploads.files)
  end
  local body, err = methods.body(self)
  if not body then return nil, err end
  fields = form.parse(body, #body, max)
  if not fields then
    self.blame = 413
    return nil, ("the form has more than %d fields"):format(max)
  end
  return keep_form(self, fields, {})
end

-- Whether the client says that the body is a form.
local function has_form(req)
  local ctype = live(req, 3).has_body ~= 0 and req.headers:get "content-type"
  return ctype and kind_of(ctype) ~= "other"
end

local function check_name(name, what)
  if type(name) ~= "string" then error(what .. ": name must be a string, got " .. type(name), 3) end
end

--- The value that the form has of a name, else the value that the query has: of several the last. May wait if the body
--- is a form; raises as `body`.
---@param name string
---@return string|nil value
---@return string? err  as `form`
function methods:param(name)
  check_name(name, "param")
  if has_form(self) then
    local fields, err = methods.form(self)
    if not fields then return nil, err end
    if fields[name] then return fields[name] end
  end
  return self.query[name]
end

--- All values of a name: those of the query, then those of the form, each in order. May wait, as `param`.
---@param name string
---@return string[]|nil values  empty if there are none
---@return string? err  as `form`
function methods:params_all(name)
  check_name(name, "params_all")
  local list, whole = {}, nil
  if has_form(self) then
    local fields, err = methods.form(self)
    if not fields then return nil, err end
    whole = not rawget(self, "uploads") and methods.body(self)
  end
  local r = live(self, 2)
  form.all(r.buf + r.query.off, r.query.len, name, list)
  if whole then form.all(whole, #whole, name, list) end
  local uploads = rawget(self, "uploads")
  if uploads then uploads:all(name, list) end
  return list
end

--- The value of a cookie that the client sent.
---@param name string
---@return string|nil
function methods:cookie(name)
  check_name(name, "cookie")
  return cookie.get(self.headers:get "cookie", name)
end

return request
