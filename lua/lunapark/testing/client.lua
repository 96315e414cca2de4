--- The test client: HTTP/1.1 over lunapark.net, with connections kept alive.
--
-- It is strict where a browser is kind, because a test wants to see what the server did: it never repeats a request on
-- another connection, follows no redirect unless told to, decodes nothing, and a response that does not end where it
-- says it does is an error. Each request has a deadline (`client.timeout`, 10 seconds), so a server that hangs fails
-- a spec and does not hang it. Several Gs may use one client: each request takes an idle connection, or makes a new
-- one. Cookies that a response sets go back with later requests (cookies.lua).

local ffi = require "ffi"
require "lunapark.cdef"
local cookies = require "lunapark.testing.cookies"
local json = require "lunapark.json"
local lp = require "lunapark"
local net = require "lunapark.net"
local reply = require "lunapark.testing.reply"

local C = ffi.C
local concat, sort = table.concat, table.sort
-- Those of `lunapark test`; see runner.lua, leaks.lua.
local run, note = debug.getregistry()["lunapark.testing"], debug.getregistry()["lunapark.note"]

---@class lunapark.testing.ClientOptions
---@field timeout number?     seconds that one request may take, 10 without it
---@field redirects integer?  so many redirects are followed, none without it
---@field cookies boolean?    false: none are kept
---@field headers table<string, string|string[]>?  sent with each request that does not have them itself

---@class lunapark.testing.RequestOptions
---@field headers table<string, string|string[]>?
---@field query table<string, any>?  added to the target; lists repeat their name
---@field body string|fun(): string|nil?  a function is called for one piece after the other, sent in chunks, until nil
---@field json any                   a body: this value as JSON
---@field form table<string, any>?   a body: these fields as a form
---@field stream boolean?            the body of the response is to be read: reply:read()
---@field redirects integer?
---@field timeout number?

---@class lunapark.testing.Client
---@field addr string     "127.0.0.1:port"
---@field timeout number  seconds that one request may take; of what is streamed, each piece
---@field redirects integer
---@field headers table<string, string|string[]>
---@field cookies lunapark.testing.Jar|nil
---@field private idle lunapark.Conn[]|nil
---@field private busy table<lunapark.Conn, true>
---@field private server table|nil
local Client = {}
local client_mt = { __name = "lunapark.testing.Client", __index = Client }

local client = {}

local client_options = { timeout = "number", redirects = "number", cookies = "boolean", headers = "table" }
local request_options = {
  headers = "table", query = "table", form = "table", stream = "boolean", redirects = "number", timeout = "number",
}

local function check(opts, kinds, what, level)
  if type(opts) ~= "table" then error(("%s: opts must be a table, got %s"):format(what, type(opts)), level + 1) end
  for name, value in next, opts do
    local kind = kinds[name]
    if kind and type(value) ~= kind then
      error(("%s: opts.%s must be a %s, got %s"):format(what, name, kind, type(value)), level + 1)
    end
    if not kind and name ~= "body" and name ~= "json" or kinds == client_options and not kind then
      error(("%s: unknown option %s"):format(what, tostring(name)), level + 1)
    end
  end
end

--- Raises what is wrong with the options of a client.
---@param opts lunapark.testing.ClientOptions|nil
---@param what string
---@param level integer
function client.check_options(opts, what, level)
  if opts ~= nil then check(opts, client_options, what, level + 1) end
end

--- A client of a server that listens on `addr`.
---@param addr string
---@param server? table  stopped by `close`: has a method `stop`
---@param opts? lunapark.testing.ClientOptions
---@return lunapark.testing.Client
function client.new(addr, server, opts)
  opts = opts or {}
  return setmetatable({
    addr = addr, timeout = opts.timeout or 10, redirects = opts.redirects or 0, headers = opts.headers or {},
    cookies = opts.cookies ~= false and cookies.new() or nil, idle = {}, busy = {}, server = server,
  }, client_mt)
end

-- ---- what is sent ---------------------------------------------------------------------------------------

local function escape(text)
  return (tostring(text):gsub("[^%w%-._~]", function(c) return ("%%%02X"):format(c:byte()) end))
end

-- Fields of a form or query, by name.
local function encode_fields(fields)
  local names, out = {}, {}
  for name in next, fields do names[#names + 1] = name end
  sort(names, function(a, b) return tostring(a) < tostring(b) end)
  for _, name in ipairs(names) do
    local values = fields[name]
    for _, value in ipairs(type(values) == "table" and values or { values }) do
      out[#out + 1] = escape(name) .. "=" .. escape(value)
    end
  end
  return concat(out, "&")
end

---@class lunapark.testing.Request
---@field method string
---@field target string
---@field body string|function|nil
---@field type string|nil  Content-Type, if the body brings one
---@field given table<string, { [1]: string, [2]: any }>  fields by lower case, with their name

-- What opts say of the body.
local function body_of(opts)
  local n = (opts.body ~= nil and 1 or 0) + (opts.json ~= nil and 1 or 0) + (opts.form and 1 or 0)
  if n > 1 then error("request: only one of body, json and form can be sent", 4) end
  if opts.json ~= nil then
    local ok, text = pcall(json.encode, opts.json)
    if not ok then error("request: opts.json: " .. text, 4) end
    return text, "application/json"
  end
  if opts.form then return encode_fields(opts.form), "application/x-www-form-urlencoded" end
  local kind = type(opts.body)
  if opts.body ~= nil and kind ~= "string" and kind ~= "function" then
    error("request: body must be a string or a function, got " .. kind, 4)
  end
  return opts.body
end

local function new_request(self, method, target, opts)
  if type(method) ~= "string" then error("request: method must be a string, got " .. type(method), 3) end
  if type(target) ~= "string" then error("request: target must be a string, got " .. type(target), 3) end
  check(opts, request_options, "request", 3)
  local given = {}
  for _, fields in ipairs { self.headers, opts.headers or {} } do
    for name, value in next, fields do given[name:lower()] = { name, value } end
  end
  if opts.query and next(opts.query) ~= nil then
    target = target .. (target:find("?", 1, true) and "&" or "?") .. encode_fields(opts.query)
  end
  local request = { method = method, target = target, given = given }
  request.body, request.type = body_of(opts)
  return request
end

local function host_of(self, request)
  local host = request.given.host and request.given.host[2] or self.addr
  return (tostring(host):gsub(":%d+$", ""):lower())
end

-- The head, and the body if it is a string.
local function format_request(self, request)
  local given, body = request.given, request.body
  local parts, names = { request.method, " ", request.target, " HTTP/1.1\r\n" }, {}
  local function field(name, value)
    parts[#parts + 1] = name .. ": " .. value .. "\r\n"
  end
  if not given.host then field("Host", self.addr) end
  for low in next, given do names[#names + 1] = low end
  sort(names)
  for _, low in ipairs(names) do
    local name, values = given[low][1], given[low][2]
    for _, value in ipairs(type(values) == "table" and values or { values }) do field(name, value) end
  end
  if request.type and not given["content-type"] then field("Content-Type", request.type) end
  local jar = self.cookies and not given.cookie and self.cookies:field(host_of(self, request), request.target)
  if jar then field("Cookie", jar) end
  local framed = given["content-length"] or given["transfer-encoding"]
  request.chunked = type(body) == "function" and not given["content-length"]
  if type(body) == "function" then
    if not framed then field("Transfer-Encoding", "chunked") end
  else
    local method = request.method
    if (body or method == "POST" or method == "PUT" or method == "PATCH") and not framed then
      field("Content-Length", #(body or ""))
    end
  end
  parts[#parts + 1] = "\r\n"
  if type(body) == "string" then parts[#parts + 1] = body end
  return concat(parts)
end

-- The next piece, nil at the end; or false: what the function did is wrong, and the request fails with it.
local function next_piece(request)
  local ok, piece = pcall(request.body)
  if ok and (piece == nil or type(piece) == "string") then return piece end
  request.failed = "body: " .. (ok and "a piece must be a string, got " .. type(piece) or tostring(piece))
  return false
end

-- Sends a body in pieces: true, if all was sent. In a G of its own, since an answer may come before the end.
local function send_pieces(conn, request, timeout)
  while true do
    local piece = next_piece(request)
    if piece == false then
      conn:close()
      return false
    end
    if piece == nil then break end
    conn:set_write_deadline(timeout)
    local ok = true
    if not request.chunked then
      ok = conn:write(piece)
    elseif piece ~= "" then
      ok = conn:write { ("%x\r\n"):format(#piece), piece, "\r\n" }
    end
    if not ok then return false end
  end
  return not request.chunked or conn:write "0\r\n\r\n" ~= nil
end

-- ---- connections ----------------------------------------------------------------------------------------

-- It lives as long as the client wants, which may be longer than a test.
local function dial(self)
  if not self.idle then return nil, "closed" end
  local conn, err = net.dial(self.addr, { timeout = self.timeout })
  if not conn then return nil, err end
  conn:set_deadline(self.timeout)
  conn.server = self.server -- which is stopped when nobody holds it
  if run then note("kept", conn.sock) end
  return conn
end

-- An idle one that the server has closed meanwhile is none: nothing was sent on it, so nothing is repeated.
local function take_conn(self)
  while self.idle and self.idle[1] do
    local conn = table.remove(self.idle)
    local buffer = conn.buffer
    if buffer.pos == buffer["end"] and C.host_sock_ready(conn.sock, 1) == 0 then return conn end
    conn:close()
  end
  return dial(self)
end

-- ---- requests -------------------------------------------------------------------------------------------

-- Reads the response's head, and its body unless that is streamed.
local function exchange(self, request, opts)
  local conn, err = take_conn(self)
  if not conn then return nil, err end
  local timeout = opts.timeout or self.timeout
  conn:set_deadline(timeout)
  self.busy[conn] = true
  -- A server may answer and close before it has read a body that is too large: the response counts, not the write.
  local written, write_err = conn:write(format_request(self, request))
  local sender
  if written and type(request.body) == "function" then sender = lp.go(send_pieces, conn, request, timeout) end
  local r
  r, err = reply.read_head(conn, request.method)
  local function ended(_, ok)
    self.busy[conn] = nil
    local all_sent = written
    if sender then
      all_sent = sender:join(0)
      if not all_sent then -- it is late: of no use any more, as its connection
        conn:close()
        sender:cancel()
        sender:join(timeout)
      end
    end
    if ok and all_sent and not r.last and self.idle then
      self.idle[#self.idle + 1] = conn
    else
      conn:close()
    end
  end
  if not r then
    conn:close()
    ended(nil, false)
    return nil, request.failed or err or write_err
  end
  r.target, r.ended = request.target, ended
  if self.cookies then
    self.cookies:take(r.headers:get_all "Set-Cookie", host_of(self, request), request.target)
  end
  r.timeout = opts.stream and timeout or nil
  if opts.stream then return r end
  r.body, err = r:read_all()
  if not r.body then return nil, request.failed or err end
  return r
end

-- Where a Location leads from a target: a target of the same server, or nil, why not.
local function resolve(self, request, location)
  local host, rest = location:match "^[hH][tT][tT][pP]://([^/?#]*)(.*)$"
  local own = request.given.host and request.given.host[2] or self.addr
  if host then
    if host ~= own and host ~= self.addr then return nil, "redirect to another server: " .. location end
    location = rest:sub(1, 1) == "/" and rest or "/" .. rest
  elseif location:find "^%a[%w+.-]*:" or location:find "^//" then
    return nil, "redirect to another server: " .. location
  end
  location = location:gsub("#.*$", "")
  if location:sub(1, 1) == "/" then return location end
  local path = request.target:match "^[^?]*"
  if location == "" then return request.target end
  if location:sub(1, 1) == "?" then return path .. location end
  return path:match "^(.*/)" .. location
end

-- The next request, if the response is a redirect: else nil, or nil and why it can not be followed.
local function follow(self, request, r)
  local status, location = r.status, r.headers.location
  local moved = status == 301 or status == 302 or status == 303 or status == 307 or status == 308
  if not moved or not location then return nil end
  local target, err = resolve(self, request, location)
  if not target then return nil, err end
  local get = status == 303 and request.method ~= "HEAD" or status < 303 and request.method == "POST"
  local given = {}
  for name, field in next, request.given do
    if not (get and name:find "^content%-") then given[name] = field end
  end
  if get then return { method = "GET", target = target, given = given } end
  if type(request.body) == "function" then return nil, "redirect of a body that can't be sent again" end
  return { method = request.method, target = target, given = given, body = request.body, type = request.type }
end

--- Sends a request and reads the response. May wait, at most `client.timeout`.
---@param method string
---@param target string  path and query, as they are to be sent
---@param opts? lunapark.testing.RequestOptions
---@return lunapark.testing.Reply|nil reply
---@return string? err  "connection refused", "timeout", "eof", "closed", or what is wrong with the response
function Client:request(method, target, opts)
  opts = opts or {}
  local request = new_request(self, method, target, opts)
  local most = opts.redirects or self.redirects
  local left = most
  while true do
    local r, err = exchange(self, request, opts)
    if not r or most == 0 then return r, err end
    request, err = follow(self, request, r)
    if not request and not err then return r end
    r:close()
    if err then return nil, err end
    if left == 0 then return nil, ("more than %d redirects"):format(most) end
    left = left - 1
  end
end

--- A new connection to the server, for bytes of one's own. It has the client's deadline.
---@return lunapark.Conn|nil conn
---@return string? err
function Client:connect()
  local conn, err = dial(self)
  if conn and run then run.close_later(conn) end
  return conn, err
end

---@see lunapark.testing.Client.request
function Client:get(target, opts) return self:request("GET", target, opts) end

---@see lunapark.testing.Client.request
function Client:post(target, opts) return self:request("POST", target, opts) end

---@see lunapark.testing.Client.request
function Client:put(target, opts) return self:request("PUT", target, opts) end

---@see lunapark.testing.Client.request
function Client:patch(target, opts) return self:request("PATCH", target, opts) end

---@see lunapark.testing.Client.request
function Client:delete(target, opts) return self:request("DELETE", target, opts) end

---@see lunapark.testing.Client.request
function Client:head(target, opts) return self:request("HEAD", target, opts) end

---@see lunapark.testing.Client.request
function Client:options(target, opts) return self:request("OPTIONS", target, opts) end

--- Closes all connections, those that a response is read from too, and stops the server. Closing twice is harmless.
function Client:close()
  for _, conn in ipairs(self.idle or {}) do
    conn:close()
  end
  for conn in next, self.busy do
    conn:close()
  end
  self.idle, self.busy = nil, {}
  if self.server then self.server:stop() end
end

--- Reads one response from a connection. May wait.
---@param conn lunapark.Conn
---@param method? string  what was asked: a response to HEAD has no body
---@return lunapark.testing.Reply|nil reply
---@return string? err
---@return boolean? last  the connection has no further response
function client.read_reply(conn, method)
  local r, err = reply.read_head(conn, method or "GET")
  if not r then return nil, err end
  r.body, err = r:read_all()
  if not r.body then return nil, err end
  return r, nil, r.last
end

return client
