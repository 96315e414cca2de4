--- Connections: reading and writing.
--
-- The host's sockets do the work through the FFI: a call tries, and says -EAGAIN; then core.wait_sock waits, and the
-- call is tried again. A socket has one buffer for bytes that were read and not yet taken. `read`, `read_line` and the
-- others take from it, so they may be mixed. Bytes that a failed call did not return are still in the buffer. At the
-- end of the stream `read_exact`, `read_line` and `read_until` return them as a third value. `skip` keeps nothing: what
-- it has passed over is gone, also when it fails.
--
-- The two directions are independent: one G may read while another writes. In each, one G works at a time (turn.lua),
-- so that lines and messages written by several Gs come out whole.
--
-- Without a wait no other G comes in between. So each call is first made without a turn, by functions that don't wait.
-- Only when they find that they would have to wait, the call is made again with the turn, by functions that wait. Most
-- calls end before that, and cost no more than their FFI calls.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local base = require "lunapark.core.base"
local number_text = require("lunapark.core.text").number
local common = require "lunapark.net.sock"
local tls = require "lunapark.tls"
local turn = require "lunapark.net.turn"
local as_given = require("lunapark.core.show").given

local C = ffi.C
local concat = table.concat
local ffi_string = ffi.string
local run_turn, leave = turn.run, turn.leave
local wait_sock, writev, word_of = core.wait_sock, core.writev, core.failed
local message, result = common.message, common.result
local check_count = common.check_count

local EAGAIN, READ, WRITE = common.EAGAIN, common.READ, common.WRITE
-- What a function that doesn't wait answers when it would have to.
local AGAIN = {}
-- A line or other delimited piece that is longer is an attack or a mistake, unless the caller says another limit.
local MAX_LINE = 65536
-- A list of so few bytes is joined, which is cheaper than to tell the kernel of each piece.
local JOIN_BYTES = 16384

local conn = {}

---@class lunapark.Conn
---@field package sock ffi.cdata*    host_sock; its finalizer frees it
---@field package buffer ffi.cdata*  its host_rbuf
---@field package reading lunapark.Turn
---@field package writing lunapark.Turn
---@field package on_close? fun(c: lunapark.Conn)  called after a close: pool.lua
---@field set_deadline fun(self: lunapark.Conn, seconds: number|nil)  From this moment on
---reads and writes fail with "timeout", calls that wait already too. Seconds from now; 0: at once; nil: no deadline.
---@field set_read_deadline fun(self: lunapark.Conn, seconds: number|nil)   A deadline for reads alone.
---@field set_write_deadline fun(self: lunapark.Conn, seconds: number|nil)  A deadline for writes alone.
local Conn = {}
local conn_mt = { __name = "lunapark.Conn", __index = Conn }
common.add_deadlines(Conn)

--- A connection from a socket that was accepted or dialed, and has its finalizer.
---@param sock ffi.cdata*  host_sock
---@return lunapark.Conn
function conn.new(sock)
  return setmetatable({
    sock = sock, buffer = C.host_sock_rbuf(sock),
    reading = turn.new(), writing = turn.new(),
  }, conn_mt)
end

--- Whether a value is a connection.
---@param v any
---@return boolean
function conn.is(v)
  local mt = type(v) == "table" and getmetatable(v)
  return mt and mt.__name == "lunapark.Conn" or false
end

-- ---- reading ---------------------------------------------------------------------------------------------

-- How many bytes stand in the buffer.
local function there(buffer)
  return buffer["end"] - buffer.pos
end

-- Takes n bytes, and skips `skip` more.
local function take(buffer, n, skip)
  local pos = buffer.pos
  local text = ffi_string(buffer.data + pos, n)
  buffer.pos = pos + n + skip
  return text
end

-- Two functions read more into the buffer, of which `wanted` bytes are missing; 0: any will do. This one doesn't wait;
-- its third value is for the wait that has to follow.
local function fill_now(sock, wanted)
  local n = C.host_sock_fill(sock, wanted)
  if n > 0 then return true end
  if n == EAGAIN then return nil, AGAIN, wanted end
  return nil, word_of(n == 0 and "eof" or message(n, sock), sock)
end

-- Waits until `wanted` bytes are there, as far as the kernel keeps so many (host/net/sock.c). Returns why the wait was
-- in vain. Fewer bytes may have come in the time, of which the kernel has told nothing: they count.
local function wait_for(sock, wanted)
  local why = wait_sock(sock, READ, nil, wanted)
  if why == "timeout" and wanted and wanted > 1 and C.host_sock_ready(sock, READ) == 1 then return nil end
  return why
end

local function wait_and_fill(sock, wanted, n)
  while true do
    if n > 0 then return true end
    if n ~= EAGAIN then return nil, word_of(n == 0 and "eof" or message(n, sock), sock) end
    local why = wait_for(sock, wanted)
    if why then return nil, why end
    n = C.host_sock_fill(sock, wanted)
  end
end

-- No loop in it, so that LuaJIT compiles it into whatever calls it.
local function fill_wait(sock, wanted)
  local n = C.host_sock_fill(sock, wanted)
  if n > 0 then return true end
  return wait_and_fill(sock, wanted, n)
end
conn.fill = fill_wait

-- The reading functions proper. `fill` is one of the two above.

local function read(self, fill, n)
  local buffer = self.buffer
  local len = there(buffer)
  if len == 0 then
    local ok, err = fill(self.sock, 0)
    if not ok then return nil, err end
    len = there(buffer)
  end
  return take(buffer, n and n < len and n or len, 0)
end

-- At the end of the stream everything that is left is handed out.
local function failed(buffer, err, wanted)
  if err == "eof" then return nil, err, take(buffer, there(buffer), 0) end
  return nil, err, wanted
end

local function read_exact(self, fill, n)
  local buffer = self.buffer
  while true do
    local missing = n - there(buffer)
    if missing <= 0 then return take(buffer, n, 0) end
    local ok, err, wanted = fill(self.sock, missing)
    if not ok then return failed(buffer, err, wanted) end
  end
end

local function peek(self, fill, n)
  local buffer = self.buffer
  while true do
    local missing = n - there(buffer)
    if missing <= 0 then return ffi_string(buffer.data + buffer.pos, n) end
    local ok, err, wanted = fill(self.sock, missing)
    if err == "eof" then wanted = ffi_string(buffer.data + buffer.pos, there(buffer)) end
    if not ok then return nil, err, wanted end
  end
end

-- `passed` counts over both calls of `skip`, with and without a turn.
local function pass_over(self, fill, passed)
  local buffer = self.buffer
  while true do
    local left = passed.wanted - passed.n
    local len = there(buffer)
    if len > left then len = left end
    buffer.pos = buffer.pos + len
    passed.n = passed.n + len
    if len == left then return true end
    local ok, err, wanted = fill(self.sock, 0)
    if not ok then return nil, err, wanted end
  end
end

local function read_until(self, fill, delimiter, max)
  local buffer, searched, width = self.buffer, 0, #delimiter
  while true do
    local at = C.host_rbuf_find(buffer, searched, delimiter, width)
    if at >= 0 then
      if at > max then return nil, "too long" end
      return take(buffer, at, width)
    end
    -- The delimiter may have begun with the last bytes.
    searched = there(buffer) - width + 1
    if searched > max then return nil, "too long" end
    if searched < 0 then searched = 0 end
    local ok, err = fill(self.sock, 0)
    if not ok then return failed(buffer, err) end
  end
end

local function read_line(self, fill, max)
  local buffer, searched = self.buffer, 0
  while true do
    local at = C.host_rbuf_find(buffer, searched, "\n", 1)
    if at >= 0 then
      local len = at
      if at > 0 and buffer.data[buffer.pos + at - 1] == 13 then len = at - 1 end
      if len > max then return nil, "too long" end
      return take(buffer, len, at - len + 1)
    end
    searched = there(buffer)
    -- One byte more than the line may have, for the CR.
    if searched > max + 1 then return nil, "too long" end
    local ok, err = fill(self.sock, 0)
    if not ok then return failed(buffer, err) end
  end
end

local function read_all(self, fill, max)
  local buffer = self.buffer
  while true do
    local len = there(buffer)
    if max and len > max then return nil, "too long" end
    local ok, err = fill(self.sock, 0)
    if not ok then
      if err == "eof" then return take(buffer, len, 0) end
      return nil, err
    end
  end
end

local function wait_and(self, wanted, fn, a, b)
  local why = wait_for(self.sock, wanted)
  if why then return nil, why end
  local text, err, partial = fn(self, fill_wait, a, b)
  return text, err, partial
end

-- Runs a reading function, in its turn if it has to wait. turn.run is written out here: most reads wait once.
local function reading(self, fn, a, b)
  local t = self.reading
  if t.busy then return run_turn(t, fn, self, fill_wait, a, b) end
  local text, err, partial = fn(self, fill_now, a, b)
  if err ~= AGAIN then return text, err, partial end
  t.busy = true
  local ok
  ok, text, err, partial = pcall(wait_and, self, partial, fn, a, b)
  leave(t)
  if not ok then error(text, 0) end
  return text, err, partial
end

local function check_max(max, what)
  if max ~= nil and (type(max) ~= "number" or max < 0 or max ~= max) then
    error(("%s: max must be a number, 0 or more, got %s"):format(what, as_given(max)), 3)
  end
end

--- Reads the bytes that are there, at least one. May wait.
---@param n? integer  at most so many bytes
---@return string|nil bytes
---@return string? err  "eof" at the end of the stream
function Conn:read(n)
  if n ~= nil then check_count(n, "read", "n", 1) end
  return reading(self, read, n)
end

--- Reads n bytes. May wait.
---@param n integer
---@return string|nil bytes
---@return string? err
---@return string? partial  with "eof": what came before
function Conn:read_exact(n)
  check_count(n, "read_exact", "n", 0)
  return reading(self, read_exact, n)
end

--- The next n bytes, which stay there for the next read. May wait.
---@param n integer
---@return string|nil bytes
---@return string? err
---@return string? partial  with "eof": what there is, which stays there as well
function Conn:peek(n)
  check_count(n, "peek", "n", 0)
  return reading(self, peek, n)
end

--- Passes over the next n bytes, however many, without keeping them. May wait.
---@param n integer
---@return true|nil ok
---@return string? err
---@return integer? passed  with an error: how many bytes were passed over before it
function Conn:skip(n)
  check_count(n, "skip", "n", 0)
  local passed = { wanted = n, n = 0 }
  local ok, err = reading(self, pass_over, passed)
  if ok then return true end
  return nil, err, passed.n
end

--- Reads a line that ends with LF or CRLF, and returns it without that end. May wait.
---@param max? integer  the longest line accepted, 65536 without it
---@return string|nil line
---@return string? err      "too long": the line is still there
---@return string? partial  with "eof": what came before
function Conn:read_line(max)
  check_max(max, "read_line")
  return reading(self, read_line, max or MAX_LINE)
end

--- Reads up to a delimiter, takes the delimiter too, and returns the bytes before it. May wait.
---@param delimiter string
---@param max? integer  the most bytes accepted before it, 65536 without it
---@return string|nil bytes
---@return string? err      "too long": it is all still there
---@return string? partial  with "eof": what came before
function Conn:read_until(delimiter, max)
  if type(delimiter) ~= "string" or delimiter == "" then
    error("read_until: delimiter must be a string that is not empty, got " .. tostring(delimiter), 2)
  end
  check_max(max, "read_until")
  return reading(self, read_until, delimiter, max or MAX_LINE)
end

--- Reads up to the end of the stream. May wait.
---@param max? integer  the most bytes accepted; no limit without it
---@return string|nil bytes
---@return string? err  "too long": all bytes are still there
function Conn:read_all(max)
  check_max(max, "read_all")
  return reading(self, read_all, max)
end

-- ---- writing ---------------------------------------------------------------------------------------------

-- Writes a string from byte `sent` on. The third value is how many of its bytes were sent.
local function write_rest(sock, data, sent)
  local bytes, len = ffi.cast("const char *", data), #data
  while sent < len do
    local n = C.host_sock_write(sock, bytes + sent, len - sent)
    if n >= 0 then
      sent = sent + n
    elseif n == EAGAIN then
      local why = wait_sock(sock, WRITE)
      if why then
        C.host_sock_abandon(sock)
        return nil, why, sent
      end
    else
      return nil, word_of(message(n, sock), sock), sent
    end
  end
  return true, nil, #data -- and keeps the string alive until here
end

-- Writes a list of strings, from byte `skip` of string `first` on.
local function write_list(sock, list, first, skip)
  local rc
  while true do
    rc, first, skip = writev(sock, list, first, skip)
    if rc == 0 then
      if first > #list then return true end
    elseif rc == EAGAIN then
      local why = wait_sock(sock, WRITE)
      if why then
        C.host_sock_abandon(sock)
        return nil, why
      end
    else
      return nil, word_of(message(rc, sock), sock)
    end
  end
end

local function write_string(self, data)
  local t, sock, len = self.writing, self.sock, #data
  local sent = 0
  if not t.busy then
    local n = C.host_sock_write(sock, data, len)
    if n == len then return true end
    if n >= 0 then
      sent = n
    elseif n ~= EAGAIN then
      return nil, word_of(message(n, sock), sock)
    end
  end
  return run_turn(t, write_rest, sock, data, sent)
end

-- A copy of the list, as strings, and how many bytes that are. The user may change the list during a wait.
local function strings_of(list)
  local copy, bytes = {}, 0
  for i = 1, #list do
    local piece = list[i]
    local kind = type(piece)
    if kind == "number" then
      piece = number_text(piece)
    elseif kind ~= "string" then
      error(("write: data[%d] must be a string or a number, got %s"):format(i, kind), 3)
    end
    copy[i], bytes = piece, bytes + #piece
  end
  return copy, bytes
end

--- Writes everything. May wait.
---@param data string|(string|number)[]  a list is written as one piece
---@return true|nil ok
---@return string? err  after a failure an unknown part may have been sent
function Conn:write(data)
  local ok, err
  if type(data) == "string" then
    ok, err = write_string(self, data)
    return ok, err
  end
  if type(data) ~= "table" then
    error("write: data must be a string or a list of strings, got " .. type(data), 2)
  end
  local pieces, bytes = strings_of(data)
  if bytes <= JOIN_BYTES then
    ok, err = write_string(self, concat(pieces))
  else
    ok, err = run_turn(self.writing, write_list, self.sock, pieces, 1, 0)
  end
  return ok, err
end

-- ---- TLS -------------------------------------------------------------------------------------------------

-- Servers' handshakes: one step at a time in a VM. A step takes most of a millisecond, a request takes microseconds,
-- and a poll may bring dozens of clients. So all but one of them stand in line, not among the Gs that are ready, and
-- what has come by the end of a step runs before the next one does (as host/http/shakes.c for HTTP).
local stepping = turn.new()

local function step(sock)
  local rc = C.host_sock_shake(sock)
  core.look()
  return rc
end

-- Reads and writes shake hands by themselves; this is for who wants to know how it ended.
local function shake(self, serves)
  local sock = self.sock
  while true do
    local rc, why_not
    if serves then rc, why_not = run_turn(stepping, step, sock) else rc = C.host_sock_shake(sock) end
    if not rc then return nil, why_not end
    if rc == 0 then return true end
    if rc ~= EAGAIN then return nil, word_of(message(rc, sock), sock) end
    local why = wait_sock(sock, READ)
    if why then return nil, why end
  end
end

--- Speaks TLS from now on, after both sides have agreed on it in clear text (STARTTLS), or at once. May wait, for the
--- handshake. What was read before must have been taken: bytes behind it could be an attacker's.
---@param config? lunapark.TlsConfig|lunapark.TlsOptions|true  see `lunapark.tls`; true, nil: a client's, which trusts
---the certificates of the system
---@param name? string  of a client: the name or address that the server's certificate has to have; without it that of
---the config
---@return true|nil ok
---@return string? err
function Conn:start_tls(config, name)
  config = tls.of(config == nil or config, "start_tls")
  if name ~= nil then base.check_text(name, "start_tls", "name", 3) end
  if not config.server then
    name = name or config.name
    if not name and not config.insecure then error("start_tls: name is missing: which server is it?", 2) end
  end
  local rc = C.host_sock_tls(self.sock, config.handle, not config.server and name or nil)
  if rc == -16 then return nil, "bytes were read that nobody has taken" end
  if rc < 0 then return nil, word_of(message(rc), self.sock) end
  return run_turn(self.reading, shake, self, config.server)
end

local agreed = ffi.new "host_tls_agreed"

--- What both sides have agreed on; nil: the connection does not speak TLS, or not yet. Does not wait.
---@return { version: string, cipher: string, sni: string?, alpn: string?, resumed: boolean }|nil
function Conn:tls()
  if not C.host_sock_tls_agreed(self.sock, agreed) then return nil end
  return {
    version = ffi_string(agreed.version), cipher = ffi_string(agreed.cipher), resumed = agreed.resumed,
    sni = agreed.sni ~= nil and ffi_string(agreed.sni) or nil,
    alpn = agreed.alpn ~= nil and ffi_string(agreed.alpn, agreed.alpn_len) or nil,
  }
end

-- ---- the rest --------------------------------------------------------------------------------------------

--- Ends the writing direction: the other side reads "eof".
---@return true|nil ok
---@return string? err
function Conn:close_write()
  return result(C.host_sock_close_write(self.sock))
end

--- Closes the connection at once. Gs that wait get "closed". Closing twice is harmless.
---@return true
function Conn:close()
  C.host_sock_close(self.sock) -- what was not taken is not read any more
  local on_close = self.on_close
  if on_close then on_close(self) end
  return true
end

--- The address of this side.
---@return string|nil addr  "host:port" or "unix:path"
---@return string? err
function Conn:local_addr() return common.address_of(self.sock, 0) end

--- The address of the other side.
---@return string|nil addr  "host:port" or "unix:path"
---@return string? err
function Conn:remote_addr() return common.address_of(self.sock, 1) end

--- Sets whether small pieces are sent at once, without waiting for more (TCP_NODELAY). A new connection sends them at
--- once.
---@param on boolean
---@return true|nil ok
---@return string? err
function Conn:set_nodelay(on)
  if type(on) ~= "boolean" then error("set_nodelay: on must be a boolean, got " .. type(on), 2) end
  return result(C.host_sock_set_nodelay(self.sock, on and 1 or 0))
end

--- Probes the other side after so many seconds of silence, and at such intervals again, so that a dead side is found
--- out. Does not wait.
---@param seconds integer|nil  1 .. 32767; nil: no probes
---@return true|nil ok
---@return string? err
function Conn:set_keepalive(seconds)
  if seconds ~= nil then
    check_count(seconds, "set_keepalive", "seconds", 1)
    if seconds > 32767 then error("set_keepalive: seconds must be 32767 or less, got " .. seconds, 2) end
  end
  return result(C.host_sock_set_keepalive(self.sock, seconds or 0))
end

conn.write_rest = write_rest

return conn
