--- The test client: HTTP/1.1 as a spec wants it. client/*.lua moves requests and responses over a connection.
--
-- The client is strict where a browser is kind, because a test wants to see what the server did. It never repeats a
-- request on another connection. It follows a redirect only when told to, and only to its own server. It decodes
-- nothing. A response that does not end where it says it does is an error. Each request has a deadline
-- (`client.timeout`, 10 seconds), so a server that hangs fails a spec and does not hang it. Several Gs may use one
-- client: each request takes an idle connection, or makes a new one. Cookies that a response sets go back with later
-- requests (cookies.lua).

local cookies = require "lunapark.testing.cookies"
local exchange = require "lunapark.client.exchange"
local net = require "lunapark.net"
local pool = require "lunapark.client.pool"
local reply = require "lunapark.testing.reply"
local request = require "lunapark.client.request"

-- Set under `lunapark test`: see runner.lua, leaks.lua.
local run, note = debug.getregistry()["lunapark.testing"], debug.getregistry()["lunapark.note"]

---@class lunapark.testing.ClientOptions
---@field timeout number?     seconds that one request may take, 10 without it
---@field redirects integer?  how many redirects are followed, none without it
---@field cookies boolean?    false: cookies are not kept
---@field headers table<string, string|string[]>?  sent with each request that does not have these fields itself
---@field tls lunapark.TlsConfig|lunapark.TlsOptions|nil  its connections speak TLS: as for `net.dial`

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
---@field addr string     "127.0.0.1:port", "unix:path"
---@field host string     what its requests say as Host
---@field timeout number  seconds that one request may take; each piece of a streamed response
---@field redirects integer
---@field headers table<string, string|string[]>
---@field cookies lunapark.testing.Jar|nil
---@field private idle lunapark.client.Pool
---@field private streams table<lunapark.Conn, true>  on which a response is being read in pieces
---@field private tls lunapark.TlsConfig|lunapark.TlsOptions|nil
---@field private server table|nil
local Client = {}
local client_mt = { __name = "lunapark.testing.Client", __index = Client }

local client = {}

local client_options = {
  timeout = "number", redirects = "number", cookies = "boolean", headers = "table", tls = "table or boolean",
}
local request_options = {
  headers = "table", query = "table", form = "table", stream = "boolean", redirects = "number", timeout = "number",
}

local function check(opts, kinds, what, level)
  if type(opts) ~= "table" then error(("%s: opts must be a table, got %s"):format(what, type(opts)), level + 1) end
  for name, value in next, opts do
    local kind = kinds[name]
    if kind and not (" " .. kind .. " "):find(" " .. type(value) .. " ", 1, true) then
      error(("%s: opts.%s must be a %s, got %s"):format(what, name, kind, type(value)), level + 1)
    end
    if not kind and name ~= "body" and name ~= "json" or kinds == client_options and not kind then
      error(("%s: unknown option %s"):format(what, tostring(name)), level + 1)
    end
  end
end

--- Raises the mistake in the options of a client, if there is one.
---@param opts lunapark.testing.ClientOptions|nil
---@param what string
---@param level integer
function client.check_options(opts, what, level)
  if opts ~= nil then check(opts, client_options, what, level + 1) end
end

-- A connection lives as long as the client wants, which may be longer than a test.
local function dial(self)
  local conn, err = net.dial(self.addr, { timeout = self.timeout, tls = self.tls })
  if not conn then return nil, err end
  conn:set_deadline(self.timeout)
  conn.server = self.server -- which is stopped when nobody holds it
  if run then note("kept", conn.sock) end
  return conn
end

--- A client of a server that listens on `addr`.
---@param addr string
---@param server? table  stopped by `close`: has a method `stop`
---@param opts? lunapark.testing.ClientOptions
---@return lunapark.testing.Client
function client.new(addr, server, opts)
  opts = opts or {}
  local self = setmetatable({
    addr = addr, host = addr:find "^unix:" and "localhost" or addr, timeout = opts.timeout or 10,
    redirects = opts.redirects or 0, headers = opts.headers or {},
    cookies = opts.cookies ~= false and cookies.new() or nil, streams = {}, server = server,
    tls = opts.tls or nil,
  }, client_mt)
  self.idle = pool.new(function() return dial(self) end)
  return self
end

-- ---- requests -------------------------------------------------------------------------------------------

local function host_of(self, r)
  local host = r.given.host and r.given.host[2] or self.host
  return (tostring(host):gsub(":%d+$", ""):lower())
end

-- Sends a request, reads the response's head, and its body unless that is streamed.
local function exchange_one(self, r, opts)
  local conn, err = self.idle:take()
  if not conn then return nil, err end
  local timeout = opts.timeout or self.timeout
  local jar = not r.given.cookie and self.cookies or nil
  local cookie = jar and jar:field(host_of(self, r), r.target, self.tls ~= nil)
  local x
  x, err = exchange.begin(conn, r, request.format(r, self.host, cookie), timeout)
  if not x then return nil, err end
  local answer = reply.new(x.response, function(_, whole)
    self.streams[conn] = nil
    if x:finish(whole) then self.idle:give(conn) end
  end)
  answer.target = r.target
  if self.cookies then self.cookies:take(answer.headers:get_all "Set-Cookie", host_of(self, r), r.target) end
  if opts.stream then
    answer.timeout = timeout
    self.streams[conn] = true
    return answer
  end
  answer.body, err = answer:read_all()
  if not answer.body then return nil, r.failed or err end
  return answer
end

-- Where a Location leads from a request: a target of the same server, or nil, why not.
local function resolve(self, r, location)
  local host, rest = location:match "^[hH][tT][tT][pP]://([^/?#]*)(.*)$"
  if host then
    local own = r.given.host and r.given.host[2] or self.host
    if host ~= own and host ~= self.host then return nil, "redirect to another server: " .. location end
    location = rest:sub(1, 1) == "/" and rest or "/" .. rest
  elseif location:find "^%a[%w+.-]*:" or location:find "^//" then
    return nil, "redirect to another server: " .. location
  end
  return request.resolve(r.target, location)
end

-- The next request, if the answer is a redirect: else nil, or nil and why it can not be followed.
local function follow(self, r, answer)
  local location = answer.headers.location
  if not request.is_redirect(answer.status) or not location then return nil end
  local target, err = resolve(self, r, location)
  if not target then return nil, err end
  return request.redirected(r, answer.status, target)
end

--- Sends a request and reads the response. May wait, `client.timeout` at most.
---@param method string
---@param target string  path and query, as they are to be sent
---@param opts? lunapark.testing.RequestOptions
---@return lunapark.testing.Reply|nil reply
---@return string? err  "connection refused", "timeout", "eof", "closed", or what is wrong with the response
function Client:request(method, target, opts)
  opts = opts or {}
  check(opts, request_options, "request", 2)
  local r = request.new(method, target, opts, self.headers, 2)
  local most = opts.redirects or self.redirects
  local left = most
  while true do
    local answer, err = exchange_one(self, r, opts)
    if not answer or most == 0 then return answer, err end
    r, err = follow(self, r, answer)
    if not r and not err then return answer end
    answer:close()
    if err then return nil, err end
    if left == 0 then return nil, ("more than %d redirects"):format(most) end
    left = left - 1
  end
end

--- A new connection to the server, for requests written by hand. It has the client's deadline.
---@return lunapark.Conn|nil conn
---@return string? err
function Client:connect()
  local conn, err = self.idle:connect()
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

--- Closes the idle connections and the connections of streamed responses, and stops the server. Requests in flight get
--- their answers. Closing twice is harmless.
function Client:close()
  self.idle:close()
  for conn in next, self.streams do
    conn:close()
  end
  self.streams = {}
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
