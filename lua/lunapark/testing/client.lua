--- The test client: HTTP/1.1 over lunapark.net, with connections kept alive.
--
-- It is strict where a browser is kind, because a test wants to see what the server did: it never repeats a request on
-- another connection, follows no redirect, decodes nothing, and a response that does not end where it says it does is
-- an error. Each request has a deadline (`client.timeout`, 10 seconds), so a server that hangs fails a spec and does
-- not hang it. Several Gs may use one client: each request takes an idle connection, or makes a new one.

local headers = require "lunapark.http.headers"
local json = require "lunapark.json"
local net = require "lunapark.net"

local concat, sort = table.concat, table.sort
-- Those of `lunapark test`; see runner.lua, leaks.lua.
local run, note = debug.getregistry()["lunapark.testing"], debug.getregistry()["lunapark.note"]

-- No response of a spec is larger; a server gone wild should not take the memory of the machine.
local MAX_BODY = 256 * 1024 * 1024

---@class lunapark.testing.Reply
---@field status integer
---@field reason string
---@field version string            "1.1"
---@field headers lunapark.Headers
---@field trailers lunapark.Headers|nil  what came behind a chunked body
---@field body string
local Reply = {}
local reply_mt = { __name = "lunapark.testing.Reply", __index = Reply }

--- The body parsed as JSON.
---@return any value
---@return string? err
function Reply:json()
  return json.decode(self.body)
end

---@class lunapark.testing.Client
---@field addr string     "127.0.0.1:port"
---@field timeout number  seconds that one request may take
---@field private idle lunapark.Conn[]
---@field private server table|nil
local Client = {}
local client_mt = { __name = "lunapark.testing.Client", __index = Client }

local client = {}

--- A client of a server that listens on `addr`.
---@param addr string
---@param server? table  stopped by `close`: has a method `stop`
---@return lunapark.testing.Client
function client.new(addr, server)
  return setmetatable({ addr = addr, timeout = 10, idle = {}, server = server }, client_mt)
end

--- Reads header lines up to the empty one.
---@param conn lunapark.Conn
---@return lunapark.Headers|nil fields
---@return string? err
local function read_fields(conn)
  local fields = headers.new()
  while true do
    local line, err = conn:read_line()
    if not line then return nil, err end
    if line == "" then return fields end
    local name, value = line:match("^([^%s:]+):[ \t]*(.-)[ \t]*$")
    if not name then return nil, "malformed header line: " .. line end
    fields:add(name, value)
  end
end

local function read_chunked(conn, reply)
  local pieces, total = {}, 0
  while true do
    local line, err = conn:read_line()
    if not line then return nil, err end
    local size = tonumber(line:match("^%x+") or "", 16)
    if not size then return nil, "malformed chunk size: " .. line end
    if size == 0 then break end
    total = total + size
    if total > MAX_BODY then return nil, "too long" end
    local piece
    piece, err = conn:read_exact(size)
    if not piece then return nil, err end
    pieces[#pieces + 1] = piece
    line, err = conn:read_exact(2)
    if not line then return nil, err end
    if line ~= "\r\n" then return nil, "chunk does not end where it says" end
  end
  local err
  reply.trailers, err = read_fields(conn)
  if not reply.trailers then return nil, err end
  return concat(pieces)
end

-- Reads the body that the head announces. Its third result: whether the connection ended with it.
local function read_body(conn, method, reply)
  local status, fields = reply.status, reply.headers
  if method == "HEAD" or status == 204 or status == 304 then return "" end
  local coding = fields["transfer-encoding"]
  if coding then
    if coding:lower() ~= "chunked" then return nil, "unknown Transfer-Encoding: " .. coding end
    if fields["content-length"] then return nil, "both Transfer-Encoding and Content-Length" end
    return read_chunked(conn, reply)
  end
  local length = fields["content-length"]
  if not length then
    local body, err = conn:read_all(MAX_BODY)
    return body, err, true
  end
  if not length:find("^%d+$") or tonumber(length) > MAX_BODY then return nil, "bad Content-Length: " .. length end
  return conn:read_exact(tonumber(length))
end

--- Reads one response. May wait.
---@param conn lunapark.Conn
---@param method? string  what was asked: a response to HEAD has no body
---@return lunapark.testing.Reply|nil reply
---@return string? err
---@return boolean? last  the connection has no further response
function client.read_reply(conn, method)
  while true do
    local line, err, partial = conn:read_line()
    if not line then return nil, partial and partial ~= "" and err .. " in " .. partial or err end
    local version, status, reason = line:match("^HTTP/(%d%.%d) (%d%d%d) ?(.*)$")
    if not version then return nil, "malformed status line: " .. line end
    local reply = setmetatable({ version = version, status = tonumber(status), reason = reason }, reply_mt)
    reply.headers, err = read_fields(conn)
    if not reply.headers then return nil, err end
    -- 1xx announce another response; 101 does not, the connection belongs to another protocol then.
    if reply.status >= 200 or reply.status == 101 then
      local last
      reply.body, err, last = read_body(conn, method or "GET", reply)
      if not reply.body then return nil, err end
      local keep = (reply.headers.connection or ""):lower()
      last = last or keep:find("close", 1, true) or reply.version == "1.0" and not keep:find("keep-alive", 1, true)
      return reply, nil, last and true or false
    end
  end
end

local function format_request(self, method, target, opts)
  local names, given = {}, {}
  for name in pairs(opts.headers or {}) do
    names[#names + 1] = name
    given[name:lower()] = true
  end
  sort(names)
  local parts = { method, " ", target, " HTTP/1.1\r\n" }
  local function field(name, value)
    parts[#parts + 1] = name .. ": " .. value .. "\r\n"
  end
  if not given.host then field("Host", self.addr) end
  for _, name in ipairs(names) do
    local values = opts.headers[name]
    for _, value in ipairs(type(values) == "table" and values or { values }) do
      field(name, value)
    end
  end
  local body = opts.body or ""
  if (opts.body or method == "POST" or method == "PUT" or method == "PATCH") and not given["content-length"]
    and not given["transfer-encoding"] then
    field("Content-Length", #body)
  end
  parts[#parts + 1] = "\r\n"
  parts[#parts + 1] = body
  return concat(parts)
end

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

--- Sends a request and reads the response. May wait, at most `client.timeout`.
---@param method string
---@param target string  path and query, as they are to be sent
---@param opts? { headers: table<string, string|string[]>?, body: string? }
---@return lunapark.testing.Reply|nil reply
---@return string? err  "timeout", "eof", "closed", or what is wrong with the response
function Client:request(method, target, opts)
  if type(method) ~= "string" then error("request: method must be a string, got " .. type(method), 2) end
  if type(target) ~= "string" then error("request: target must be a string, got " .. type(target), 2) end
  opts = opts or {}
  if opts.body ~= nil and type(opts.body) ~= "string" then
    error("request: body must be a string, got " .. type(opts.body), 2)
  end
  local conn, err
  if self.idle and self.idle[1] then
    conn = table.remove(self.idle)
  else
    conn, err = dial(self)
  end
  if not conn then return nil, err end
  conn:set_deadline(self.timeout)
  -- A server may answer and close before it has read a body that is too large: the response counts, not the write.
  local _, write_err = conn:write(format_request(self, method, target, opts))
  local reply, last
  reply, err, last = client.read_reply(conn, method)
  if reply and not last and not write_err and self.idle then
    self.idle[#self.idle + 1] = conn
  else
    conn:close()
  end
  return reply, err or not reply and write_err or nil
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

--- Closes the idle connections and stops the server. Closing twice is harmless.
function Client:close()
  for _, conn in ipairs(self.idle or {}) do
    conn:close()
  end
  self.idle = nil
  if self.server then self.server:stop() end
end

return client
