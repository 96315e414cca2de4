--- A response, as a handler and the middleware around it see it.
--
-- Most handlers just return a value, and this object stays an empty table. Handlers use it to say more: a status,
-- headers, a cookie, or a body in pieces. Status, headers and body are only *noted* here, and sent when the outermost
-- middleware has returned, so that middleware can look at an answer and change it after `next()`. The results of a
-- handler are noted in these three fields, too (answer.lua).
--
-- `write` ends that: the head goes out with the first piece. Headers that are set later are dropped, without an error:
-- middleware that adds a header after `next()` cannot know which handlers stream. With a Content-Length among the
-- headers the body must have that length, without one it is chunked.
--
-- Framing belongs to the host: Content-Length and Transfer-Encoding decide where the next response on the connection
-- begins, Connection whether there is one. So these fields of a handler (or of a proxy that hands headers on) are left
-- out, and the host writes its own; and so with Date. With the type that it names the host says
-- `X-Content-Type-Options: nosniff` (html.lua); a handler that sets this field has its own word sent.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local base = require "lunapark.core.base"
local number_text = require("lunapark.core.text").number
local cookie = require "lunapark.http.cookie"
local exchange = require "lunapark.http.exchange"
local headers = require "lunapark.http.headers"
local html = require "lunapark.http.html"
local json = require "lunapark.json"
local near = require "lunapark.core.near"
local as_given = require("lunapark.core.show").given

local C = ffi.C
local concat, ffi_string = table.concat, ffi.string
local live, wait_req, failed = exchange.live, core.wait_req, core.failed
local apart, barrier = core.apart, core.barrier

-- How many bytes of a stream are compressed at once.
local CODED = 2 ^ 20

local EAGAIN, E2BIG, ETIMEDOUT, EPIPE = -11, -7, -110, -32

local response = {}

-- What host_respond calls its content types. With ALONE added: without its nosniff.
local NONE, TEXT, HTML, JSON, ALONE = 0, 1, 2, 3, C.HOST_TYPE_ALONE
response.NONE, response.TEXT, response.HTML, response.JSON = NONE, TEXT, HTML, JSON

---@class lunapark.Response: lunapark.Exchange
---@field status integer|nil            nil until it is set: 200 with a body, 204 without
---@field headers lunapark.Headers
---@field body string|lunapark.Html|lunapark.SentFile|nil  a body that is noted, not sent
---@field package ctype integer|nil     the content type noted with body, unless headers have one
---@field package compression lunapark.Compression|nil  see compress.lua
---@field package encoder lunapark.Encoder|nil  of a stream that is compressed
---@field package events lunapark.Events|nil    see sse.lua
---@field package before_head fun(res: lunapark.Response)|nil  called once, before the head is made: it may set headers
---@field package culprit function|nil  returned nil and culprit_err: answer.lua
local methods = {}

-- Fields that may be nil.
local maybe = {
  status = true, body = true, ctype = true, compression = true, encoder = true, opened = true, culprit = true,
  culprit_err = true, before_head = true, events = true, session = true, ptr = true, serial = true,
}

local meant = {
  send = "`return body`, or res:write(piece)", set = "res.headers[name] = value", finish = "`return`",
  setHeader = "res.headers[name] = value", header = "res.headers[name] = value", ["end"] = "`return`",
  text = "`return text`", html = "`return http.html(text)`", render = "`return http.html(text)`",
  code = "res.status = number", set_cookie = "res:cookie(name, value)", sendFile = "res:send_file(path)",
}

local unknown = near.index("res", { methods, { status = true, headers = true, body = true } }, maybe, meant)

local function text_of_body(v)
  if getmetatable(v) ~= response.mt then return tostring(v) end
  local body = v.body
  if type(body) == "string" then return body end
  error(body == nil and "the answer has no body: it was streamed, or has none" or "the body of the answer is a file", 3)
end

response.mt = {
  __name = "lunapark.Response",
  __index = function(res, key)
    local method = methods[key]
    if method then return method end
    if key == "headers" then
      local h = headers.new()
      res.headers = h
      return h
    end
    return unknown(res, key)
  end,
  -- The body that is noted and a text: what middleware returns for `next() .. footer`.
  __concat = function(a, b)
    local ctype = (getmetatable(a) == response.mt and a or b).ctype
    local text = text_of_body(a) .. text_of_body(b)
    return ctype == HTML and html.new(text) or text
  end,
  __tostring = function(res)
    return type(res.body) == "string" and res.body or "lunapark.Response"
  end,
}

--- The name of a method of responses.
---@param fn function
---@return string|nil
function response.method_name(fn)
  for name, method in pairs(methods) do
    if method == fn then return name end
  end
end

--- The reason phrase of a status.
---@param status integer
---@return string
local function reason(status)
  return (ffi_string(C.host_status_reason(status)))
end
response.reason = reason

local function check_status(status, level)
  if type(status) ~= "number" or status < 200 or status > 999 or status % 1 ~= 0 then
    local shown = type(status) == "string" and ("the string %q"):format(status) or tostring(status)
    error("status must be a whole number from 200 to 999, got " .. shown, level)
  end
end

local framing = { ["content-length"] = true, ["transfer-encoding"] = true, connection = true, date = true }

-- The lines of the headers that were set, with CRLFs; whether there is a Content-Type; the Content-Length if there is
-- one; whether there is an X-Content-Type-Options.
local function lines_of(res, h)
  if getmetatable(h) ~= headers.mt then
    local own = headers.new()
    headers.merge(own, h)
    h = own
  end
  local parts, n, typed, length, guarded = {}, 0, false, nil, false
  for i = 0, h[0] - 1 do
    local low = h[3 * i + 2]
    if low == "content-length" then
      length = tonumber(h[3 * i + 3])
    elseif low == "content-type" then
      typed = true
    elseif low == "x-content-type-options" then
      guarded = true
    elseif low == "connection" and h[3 * i + 3]:lower() == "close" then
      live(res, 1).close = 1 -- the one thing about the connection that a handler may decide
    end
    if not framing[low] then
      parts[n + 1], parts[n + 2], parts[n + 3], parts[n + 4] = h[3 * i + 1], ": ", h[3 * i + 3], "\r\n"
      n = n + 4
    end
  end
  return concat(parts), typed, length, guarded
end
jit.off(lines_of)

-- The lines of the headers for the next call of C, and their bytes; then as lines_of.
local function head_of(res)
  local before = rawget(res, "before_head")
  if before then
    res.before_head = nil
    before(res)
  end
  local h = rawget(res, "headers")
  if not h then return "", 0, false end
  local n, guarded = headers.put_lines(h)
  if n then return headers.room, n, false, nil, guarded end
  local lines, typed, length
  lines, typed, length, guarded = apart(lines_of, res, h)
  return lines, #lines, typed, length, guarded
end

--- The lines of the headers of an answer.
---@param res lunapark.Response
---@return string
function response.head_of(res)
  local head, n = head_of(res)
  return type(head) == "string" and head or ffi_string(head, n)
end

-- `opened`, a field of a response: the file that was opened for it. Its name is a constant: a lookup by anything else
-- makes compiled code allocate the response, of which nothing else needs to be there.

-- The file that was noted as the body.
local function noted_file(res)
  local body = res.body
  return type(body) == "table" and (body.handle or body.bytes) and body
end
response.noted_file = noted_file

--- The handler has ended: closes the file that was opened for its answer, also when something else was answered, and
--- the compressor of a stream that was broken off. The garbage collector would let descriptors and memory wait.
---@param res lunapark.Response
function response.done(res)
  local file = rawget(res, "opened")
  if file then file:drop() end
  local encoder = rawget(res, "encoder")
  if encoder then encoder:close() end
  local events = rawget(res, "events")
  if events then require("lunapark.http.sse").finish(events) end
end

-- A body that was noted as a page becomes its text.
local function unwrap(res)
  local body = res.body
  if getmetatable(body) == html.mt then
    res.body, res.ctype = body.text, HTML
  end
end
response.unwrap = unwrap

-- The type that the host writes for a response whose headers have none, as text.
local names = { [TEXT] = "text/plain", [HTML] = "text/html", [JSON] = "application/json" }

-- Sees to it that a streamed response is compressed, if it is to be. Returns its length, as far as it is known.
local function compress_stream(res, status, ctype)
  local length = tonumber(res.headers["Content-Length"] or nil)
  local compression = res.compression
  local coding = compression:decide(res, status, names[ctype], length)
  if not coding then return length end
  if not response.is_head(res) then
    local encoder = compression:encoder(coding)
    if not encoder then return length end
    encoder.left = length
    res.encoder = encoder
  end
  compression:mark(res, coding)
  return nil
end

-- Sends the head of a streamed response.
local function begin(res)
  local r = res.ptr
  local status = res.status or 200
  check_status(status, 3)
  local known
  if rawget(res, "compression") then known = compress_stream(res, status, res.ctype or TEXT) end
  local head, n, typed, length, guarded = head_of(res)
  if rawget(res, "compression") then length = known end
  local ctype = (typed or status == 204 or status == 304) and NONE or res.ctype or TEXT
  if guarded then ctype = ctype + ALONE end
  return (C.host_stream_begin(r, res.serial, status, ctype, head, n, length or -1))
end

local function forget_body(h)
  for _, name in ipairs { "Content-Type", "Content-Length", "Content-Encoding", "Cache-Control", "ETag" } do
    headers.set_from(h, name, nil, 2)
  end
end
jit.off(forget_body)

--- Takes back the noted answer, for an error's answer. Headers about the body go, too. Other headers stay, such as
--- the ones that a browser needs before it shows an answer to a script.
---@param res lunapark.Response
---@param status integer
function response.reset(res, status)
  local file = noted_file(res)
  if file then file:drop() end
  res.status, res.body, res.ctype = status, nil, nil
  local h = rawget(res, "headers")
  if not h then return end
  apart(forget_body, h)
end

--- Goes on with a whole response of which host_respond said -EAGAIN: waits until the client has read most of it. When
--- the wait is ended early (the VM retires), or nothing can wait here, the connection gets a copy of the rest.
---@param x lunapark.Exchange  the request or the response
---@param body string          the body that host_respond got
---@return integer rc   0, or why the client does not get the response
function response.send_rest(x, body)
  local r, id = x.ptr, x.serial
  local why = barrier() or wait_req(r, id, 2)
  local rc = C.host_respond_rest(r, id, body, #body, why and 1 or 0)
  if rc == EAGAIN then return response.send_rest(x, body) end
  return rc
end

-- Sends a file as the answer.
local function send_file(res, file)
  local status = res.status or 200
  check_status(status, 0)
  return require("lunapark.http.file_answer").send(res, file, status)
end

-- The body of a response, compressed if it is to be, and whether it is, or would be if this were no HEAD request that
-- knows the length of GET's body.
local function compressed(res, status, body)
  local compression, length = res.compression, #body
  local without = body == "" and response.is_head(res)
  if without then length = tonumber(res.headers["Content-Length"] or nil) or 0 end
  local coding = (without or res.body) and compression:decide(res, status, names[res.ctype], length)
  local out = coding and (without and "" or compression:whole(coding, body))
  if not out then return body, false end
  compression:mark(res, coding)
  return out, true
end

--- Sends the noted answer. May wait, as send_rest.
---@param res lunapark.Response
---@return integer rc  of host_respond: 0, or -EPIPE when the client is gone
function response.send(res)
  local r, id = res.ptr, res.serial
  unwrap(res)
  local body = res.body or ""
  local file = noted_file(res)
  if file then return send_file(res, file) end
  local status = res.status or (res.body and 200 or 204)
  check_status(status, 0)
  local coded = false
  if rawget(res, "compression") then body, coded = compressed(res, status, body) end
  local head, n, typed, length, guarded = head_of(res)
  if body == "" and length and length > 0 and response.is_head(res) then
    -- An answer to HEAD that knows the length of the body it does not have.
    if coded then length = -1 end
    local rc = C.host_stream_begin(r, id, status, typed and NONE or res.ctype or NONE, head, n, length)
    return rc == 0 and C.host_stream_end(r, id) or rc
  end
  local bare = typed or not res.body or status == 204 or status == 304
  local ctype = bare and NONE or res.ctype or TEXT
  if guarded then ctype = ctype + ALONE end
  local rc = C.host_respond(r, id, status, ctype, head, n, body, #body)
  return rc == EAGAIN and response.send_rest(res, body) or rc
end

local head_id

--- Whether a request is a HEAD request.
---@param res lunapark.Response
---@return boolean
function response.is_head(res)
  head_id = head_id or C.host_method_id("HEAD", 4)
  return live(res, 2).method == head_id
end

-- Waits until there is room for more of the body: what host_stream_write says then, or nil and why the wait has ended.
local function put_rest(r, id)
  local why = wait_req(r, id, 2)
  if why then return nil, why end
  local rc = C.host_stream_write(r, id, "", 0)
  if rc == EAGAIN then return put_rest(r, id) end
  return rc
end

-- Sends bytes of the body as they are.
local function put(r, id, piece)
  if piece == "" then return true end -- an empty chunk would mean the end
  local rc = C.host_stream_write(r, id, piece, #piece)
  if rc == EAGAIN then
    local why
    rc, why = put_rest(r, id)
    if why then return nil, why end
  end
  if rc == 0 then return true end
  if rc == E2BIG then error("write: more than the Content-Length that was set", 3) end
  return nil, failed(rc == ETIMEDOUT and "timeout" or "closed", r)
end

-- Sends what a compressor has put out. Raises what it failed with: the response can't go on.
local function put_coded(res, r, id, out, err)
  if not out and err == "not enough memory" then error(err, 3) end
  if not out then return nil, err end
  live(res, 3)
  return put(r, id, out)
end

-- Compresses a piece of the body from byte `at` on, and sends what comes of it.
local function write_coded(res, r, id, encoder, piece, at)
  if at > #piece then return true end
  local ok, err = put_coded(res, r, id, encoder:write(#piece <= CODED and piece or piece:sub(at, at + CODED - 1)))
  if not ok then return nil, err end
  return write_coded(res, r, id, encoder, piece, at + CODED)
end

--- Sends a piece of the body. The first piece sends the head, too. May wait until the client has taken earlier pieces.
---@param piece string|number
---@return true|nil ok
---@return string? err  "closed": the client is gone or was answered already; "timeout", also when the client reads less
---                     than --min-rate; "canceled"
function methods:write(piece)
  local r, id = live(self, 2), self.serial
  if type(piece) == "number" then piece = number_text(piece) end
  if type(piece) ~= "string" then error("write: piece must be a string, got " .. type(piece), 2) end
  if r.state == 0 then
    local rc = begin(self)
    if rc < 0 then return nil, failed("closed", r) end
  end
  local encoder = rawget(self, "encoder")
  if not encoder then
    local ok, err = put(r, id, piece)
    return ok, err
  end
  if encoder.left then
    if #piece > encoder.left then error("write: more than the Content-Length that was set", 2) end
    encoder.left = encoder.left - #piece
  end
  local ok, err = write_coded(self, r, id, encoder, piece, 1)
  return ok, err
end

-- Waits until the kernel has everything: as `flush`.
local function flush_rest(r, id)
  local rc = C.host_stream_flush(r, id)
  if rc == 0 then return true end
  if rc ~= EAGAIN then return nil, failed(rc == ETIMEDOUT and "timeout" or "closed", r) end
  local why = wait_req(r, id, 2)
  if why then return nil, why end
  return flush_rest(r, id)
end

--- Sends the head, unless it was sent, and waits until the kernel has everything that was written.
---@return true|nil ok
---@return string? err  as `write`
function methods:flush()
  local r, id = live(self, 2), self.serial
  if r.state == 0 then
    local rc = begin(self)
    if rc < 0 then return nil, failed("closed", r) end
  end
  local encoder = rawget(self, "encoder")
  if encoder then
    local ok, err = put_coded(self, r, id, encoder:flush())
    if not ok then return nil, err end
  end
  local ok, err = flush_rest(r, id)
  return ok, err
end

--- Ends a streamed response. One that is shorter than its Content-Length stays without an end: the client notices.
--- May wait, as `write`.
---@param res lunapark.Response
---@return integer rc  0 or -EPIPE
function response.finish(res)
  local r, id = res.ptr, res.serial
  local encoder = rawget(res, "encoder")
  if encoder then
    if encoder.left and encoder.left > 0 then return 0 end
    if not put_coded(res, r, id, encoder:finish()) then return EPIPE end
  end
  return (C.host_stream_end(r, id))
end

--- Writes n bytes of a file, from `at` on. May wait, also for the disk.
---@param res lunapark.Response
---@param file lunapark.SentFile
---@param at integer
---@param n integer
---@return boolean ok  false: the client is gone
function response.copy(res, file, at, n)
  if file.bytes then
    return n == 0 or methods.write(res, file.bytes:sub(at + 1, at + n)) == true
  end
  local ok, err = file:seek(at)
  if not ok then error("send_file: " .. err, 0) end
  while n > 0 do
    local piece
    piece, err = file:read(n)
    if not piece then error("send_file: " .. err, 0) end
    n = n - #piece
    if not methods.write(res, piece) then return false end
  end
  return true
end

--- Sends a file as a streamed response, which is compressed. May wait, also for the disk.
---@param res lunapark.Response  whose headers are those of the file
---@param file lunapark.SentFile
---@return integer rc  as `finish`
function response.pipe(res, file)
  res.headers["Content-Length"] = file.size
  if begin(res) < 0 then return EPIPE end
  if not response.is_head(res) and not response.copy(res, file, 0, file.size) then return EPIPE end
  return response.finish(res)
end

--- Notes a value as the answer, as JSON. Raises what json.encode raises.
---@param value any
function methods:json(value)
  live(self, 2)
  local text, err = json.try_encode(value)
  if not text then error(err, 2) end
  self.body, self.ctype = text, JSON
end

--- Notes an open file as the answer.
---@param res lunapark.Response
---@param file lunapark.SentFile
---@return true
function response.note_file(res, file)
  if res.ptr.id ~= res.serial then file:drop() end
  live(res, 3)
  local earlier = rawget(res, "opened")
  if earlier then earlier:drop() end
  rawset(res, "opened", file)
  res.body = file
  return true
end

---@type table<integer, string>  by the label of a route: its app's folder. dispatch fills it
response.folders = {}

--- Notes a file as the answer, with the size that it has now. Its content type is told by the end of its name, unless
--- the headers have a Content-Type. With status 200 the file answers conditional requests, and requests for ranges: see
--- file_answer.lua. The connection sends the file when the handler has ended, as the file is then. A file that becomes
--- shorter meanwhile ends the connection.
---
--- `return res:send_file(path)` answers a failure as every `nil, err`: with status 500. May wait for the disk.
---@param path string  a relative one starts at the folder of the route's app, or at `opts.below`
---@param opts? lunapark.SendFileOptions
---@return true|nil ok
---@return string? err  such as "no such file or directory: /x", "is a directory: /x", "not a regular file: /x"
function methods:send_file(path, opts)
  live(self, 2)
  base.check_text(path, "send_file", "path", 3)
  local files = require "lunapark.http.file" -- most apps send none
  local below, choice = files.send_options(opts)
  local accept = choice.precompressed and headers.of_request(self):get "accept-encoding" or ""
  local dir = response.folders[live(self, 2).label] or "."
  if below then
    below = files.from(dir, below)
  else
    path = files.from(dir, path)
  end
  local file, err = files.open(path, below, accept, choice)
  if not file then return nil, err end
  return (response.note_file(self, file))
end

--- Notes a redirect as the answer.
---@param url string       goes into Location as it is
---@param status? integer  301, 302 (without it), 303, 307, 308
function methods:redirect(url, status)
  live(self, 2)
  status = status or 302
  if type(url) ~= "string" then error("redirect: url must be a string, got " .. type(url), 2) end
  if type(status) ~= "number" or status < 300 or status > 399 or status % 1 ~= 0 then
    error("redirect: status must be from 300 to 399, got " .. as_given(status), 2)
  end
  self.headers:set("Location", url)
  self.status, self.body, self.ctype = status, reason(status), TEXT
end

--- Begins a stream of events, for `new EventSource(url)` in a page. May wait. See sse.lua.
---@param opts? { heartbeat: number? }
---@return lunapark.Events
function methods:sse(opts)
  live(self, 2)
  return (require("lunapark.http.sse").begin(self, opts))
end

--- Takes the connection over: from now on the handler speaks there what it likes, and has no deadline. The connection
--- is closed when the handler ends. A wait for the client ends with "timeout" after --idle-timeout. What is noted as
--- the answer, and what the handler returns, goes nowhere. May wait. See hijack.lua.
---@return lunapark.Conn|nil conn  reads first what came behind the request
---@return string? err             "closed": the client is gone or was answered already; "timeout", "canceled"
function methods:hijack()
  live(self, 2)
  local conn, err = require("lunapark.http.hijack").begin(self)
  return conn, err
end

--- Adds a Set-Cookie field.
---@param name string
---@param value string|number  any text; percent-encoded where a cookie needs it, `req:cookie` decodes it
---@param opts? table          path (default "/"), domain, max_age, expires, secure, http_only, same_site
function methods:cookie(name, value, opts)
  live(self, 2)
  self.headers:add("Set-Cookie", cookie.format(name, value, opts, 2))
end

return response
