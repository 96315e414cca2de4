--- Connections: reading and writing.
--
-- The work is done by the host's sockets through the FFI: they try, and say -EAGAIN; then core.wait_sock waits, and the
-- call is tried again. A socket has one buffer for what was read and not yet taken; `read`, `read_line` and the others
-- take from it, so they may be mixed. What a failed call did not return is still in the buffer, except at the end of
-- the stream, where `read_exact`, `read_line` and `read_until` hand it out as a third value.
--
-- The two directions are independent. In each, one G works at a time (turn.lua), so that lines and messages written by
-- several Gs come out whole.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local turn = require "lunapark.net.turn"

local C = ffi.C
local byte = string.byte
local concat, ffi_string = table.concat, ffi.string
local enter, leave = turn.enter, turn.leave
local wait_sock = core.wait_sock

local EAGAIN = -11
local READ, WRITE, BOTH = 1, 2, 3
-- A read call of the kernel gets room for so much, whatever the caller wants: the rest waits in the buffer.
local CHUNK = 65536
-- Lines and other delimited pieces longer than this are somebody's attack or mistake, unless the caller knows better.
local MAX_LINE = 65536

local conn = {}

local messages = {} -- by code, so that a failure makes no string twice

--- What a negative answer of the host means, in words.
---@param rc integer
---@return string
local function message(rc)
  local text = messages[rc]
  if not text then
    -- "Connection refused" stands in the middle of sentences here.
    text = ffi_string(C.host_strerror(rc)):gsub("^%u%l", string.lower)
    messages[rc] = text
  end
  return text
end
conn.message = message

local address = ffi.new("char[?]", 256)

--- An address of a socket.
---@param sock ffi.cdata*  host_sock
---@param peer integer     0: its own, 1: the other side's
---@return string|nil addr
---@return string? err
local function address_of(sock, peer)
  local n = C.host_sock_addr(sock, peer, address, 256)
  if n < 0 then return nil, message(n) end
  return ffi_string(address, n)
end
conn.address_of = address_of

---@class lunapark.Conn
---@field private sock ffi.cdata*    host_sock; its finalizer frees it
---@field private buffer ffi.cdata*  its host_rbuf
---@field private reading lunapark.Turn
---@field private writing lunapark.Turn
local Conn = {}
local conn_mt = { __name = "lunapark.Conn", __index = Conn }

--- A connection from a socket that was accepted or dialed, and has its finalizer.
---@param sock ffi.cdata*  host_sock
---@return lunapark.Conn
function conn.new(sock)
  return setmetatable({
    sock = sock, buffer = C.host_sock_rbuf(sock),
    reading = turn.new(), writing = turn.new(),
  }, conn_mt)
end

-- How many bytes stand in the buffer.
local function there(buffer)
  return tonumber(buffer["end"] - buffer.pos)
end

-- Takes n bytes, and skips `skip` more.
local function take(buffer, n, skip)
  local text = ffi_string(buffer.data + buffer.pos, n)
  buffer.pos = buffer.pos + n + (skip or 0)
  return text
end

-- Reads more into the buffer. May wait.
local function fill(self, max)
  while true do
    local n = C.host_sock_fill(self.sock, max)
    if n > 0 then return true end
    if n == 0 then return nil, "eof" end
    if n ~= EAGAIN then return nil, message(tonumber(n)) end
    local why = wait_sock(self.sock, READ)
    if why then return nil, why end
  end
end

-- The reading functions proper, called by the one G that reads.

local function read(self, n)
  local buffer = self.buffer
  if there(buffer) == 0 then
    local ok, err = fill(self, CHUNK)
    if not ok then return nil, err end
  end
  local len = there(buffer)
  return take(buffer, n and n < len and n or len)
end

local function read_exact(self, n)
  local buffer = self.buffer
  while there(buffer) < n do
    local missing = n - there(buffer)
    local ok, err = fill(self, missing > CHUNK and missing or CHUNK)
    if not ok then
      if err == "eof" then return nil, err, take(buffer, there(buffer)) end
      return nil, err
    end
  end
  return take(buffer, n)
end

-- Where the delimiter begins in bytes from .. len of the buffer, counted from 0; nil if it is not there.
local function find_delimiter(buffer, from, len, delimiter)
  local data, first, last = buffer.data + buffer.pos, byte(delimiter), #delimiter - 1
  for i = from, len - #delimiter do
    if data[i] == first then
      local k = 1
      while k <= last and data[i + k] == byte(delimiter, k + 1) do
        k = k + 1
      end
      if k > last then return i end
    end
  end
end

local function read_until(self, delimiter, max)
  local buffer, searched = self.buffer, 0
  while true do
    local len = there(buffer)
    local at = find_delimiter(buffer, searched, len, delimiter)
    if (at or len - #delimiter + 1) > max then return nil, "too long" end
    if at then return take(buffer, at, #delimiter) end
    searched = len - #delimiter + 1
    if searched < 0 then searched = 0 end
    local ok, err = fill(self, CHUNK)
    if not ok then
      if err == "eof" then return nil, err, take(buffer, there(buffer)) end
      return nil, err
    end
  end
end

local function read_line(self, max)
  -- One byte more than the line may have, for the CR.
  local line, err, partial = read_until(self, "\n", max + 1)
  if not line then return nil, err, partial end
  local len = #line - (byte(line, -1) == 13 and 1 or 0)
  if len > max then
    self.buffer.pos = self.buffer.pos - (#line + 1)
    return nil, "too long"
  end
  return len < #line and line:sub(1, len) or line
end

local function read_all(self, max)
  local buffer = self.buffer
  while true do
    if max and there(buffer) > max then return nil, "too long" end
    local ok, err = fill(self, CHUNK)
    if not ok then
      if err == "eof" then return take(buffer, there(buffer)) end
      return nil, err
    end
  end
end

-- Runs one of them in its turn.
local function reading(self, fn, a, b)
  local t = self.reading
  local ok, err = enter(t)
  if not ok then return nil, err end
  local text, why, partial = fn(self, a, b)
  leave(t)
  return text, why, partial
end

local function check_size(n, what, name, least)
  if type(n) ~= "number" or n < least or n % 1 ~= 0 then
    error(("%s: %s must be a whole number, %d or more, got %s"):format(what, name, least, tostring(n)), 3)
  end
end

local function check_max(max, what)
  if max ~= nil and (type(max) ~= "number" or max < 0) then
    error(("%s: max must be a number, 0 or more, got %s"):format(what, tostring(max)), 3)
  end
end

--- Reads what there is, at least one byte. May wait.
---@param n? integer  at most so many bytes
---@return string|nil bytes
---@return string? err  "eof" at the end of the stream
function Conn:read(n)
  if n ~= nil then check_size(n, "read", "n", 1) end
  return reading(self, read, n)
end

--- Reads n bytes. May wait.
---@param n integer
---@return string|nil bytes
---@return string? err
---@return string? partial  with "eof": what came before
function Conn:read_exact(n)
  check_size(n, "read_exact", "n", 0)
  return reading(self, read_exact, n)
end

--- Reads a line that ends with LF or CRLF, and returns it without. May wait.
---@param max? integer  the longest line accepted, 65536 without it
---@return string|nil line
---@return string? err      "too long": the line is still there
---@return string? partial  with "eof": what came before
function Conn:read_line(max)
  check_max(max, "read_line")
  return reading(self, read_line, max or MAX_LINE)
end

--- Reads up to a delimiter, takes that too, and returns what stands before it. May wait.
---@param delimiter string
---@param max? integer  the most bytes accepted before it, 65536 without it
---@return string|nil bytes
---@return string? err      "too long": it is all still there
---@return string? partial  with "eof": what came before
function Conn:read_until(delimiter, max)
  if type(delimiter) ~= "string" or delimiter == "" then
    error("read_until: s must be a string that is not empty, got " .. tostring(delimiter), 2)
  end
  check_max(max, "read_until")
  return reading(self, read_until, delimiter, max or MAX_LINE)
end

--- Reads up to the end of the stream. May wait.
---@param max? integer  the most bytes accepted; no limit without it
---@return string|nil bytes
---@return string? err  "too long": it is all still there
function Conn:read_all(max)
  check_max(max, "read_all")
  return reading(self, read_all, max)
end

local function write(self, text)
  local sock, len = self.sock, #text
  local n = C.host_sock_write(sock, text, len)
  if n == len then return true end
  local bytes, sent = ffi.cast("const char *", text), 0
  while true do
    if n >= 0 then
      sent = sent + tonumber(n)
      if sent >= #text then return true end -- and keeps the string alive until here
    elseif n == EAGAIN then
      local why = wait_sock(sock, WRITE)
      if why then return nil, why end
    else
      return nil, message(tonumber(n))
    end
    n = C.host_sock_write(sock, bytes + sent, len - sent)
  end
end

-- A list as one string.
local function joined(list)
  for i = 1, #list do
    local kind = type(list[i])
    if kind ~= "string" and kind ~= "number" then
      error(("write: data[%d] must be a string or a number, got %s"):format(i, kind), 3)
    end
  end
  return concat(list)
end

--- Writes everything. May wait.
---@param data string|(string|number)[]  a list is written as one piece
---@return true|nil ok
---@return string? err  after a failure an unknown part may have been sent
function Conn:write(data)
  if type(data) == "table" then
    data = joined(data)
  elseif type(data) ~= "string" then
    error("write: data must be a string or a list of strings, got " .. type(data), 2)
  end
  local t = self.writing
  local ok, err = enter(t)
  if not ok then return nil, err end
  ok, err = write(self, data)
  leave(t)
  return ok, err
end

-- true, or nil and what a negative code means.
local function result(rc)
  if rc < 0 then return nil, message(rc) end
  return true
end

--- Says that nothing more will be written; the other side reads "eof".
---@return true|nil ok
---@return string? err
function Conn:close_write()
  return result(C.host_sock_close_write(self.sock))
end

--- Closes at once. Gs that wait get "closed". Closing twice is harmless.
---@return true
function Conn:close()
  self.buffer.pos = self.buffer["end"] -- what was not taken is not read any more
  C.host_sock_close(self.sock)
  return true
end

--- The own address.
---@return string|nil addr  "host:port" or "unix:path"
---@return string? err
function Conn:local_addr() return address_of(self.sock, 0) end

--- The other side's address.
---@return string|nil addr  "host:port" or "unix:path"
---@return string? err
function Conn:remote_addr() return address_of(self.sock, 1) end

local function set_deadline(sock, mode, seconds, what)
  if seconds ~= nil and (type(seconds) ~= "number" or seconds ~= seconds) then
    error(what .. ": seconds must be a number or nil, got " .. tostring(seconds), 3)
  end
  local delay_ns = -1
  -- Beyond 9e9 seconds the nanoseconds leave 63 bits; that far away is never.
  if seconds and seconds < 9e9 then delay_ns = seconds > 0 and seconds * 1e9 or 0 end
  C.host_sock_set_deadline(sock, mode, delay_ns)
end

--- Makes reads and writes fail with "timeout" from a moment on.
---@param seconds number|nil  from now; 0: at once; nil: no deadline
function Conn:set_deadline(seconds) set_deadline(self.sock, BOTH, seconds, "set_deadline") end

--- The same for reads alone.
---@param seconds number|nil
function Conn:set_read_deadline(seconds) set_deadline(self.sock, READ, seconds, "set_read_deadline") end

--- The same for writes alone.
---@param seconds number|nil
function Conn:set_write_deadline(seconds) set_deadline(self.sock, WRITE, seconds, "set_write_deadline") end

--- Whether small pieces are sent at once, without waiting for more (TCP_NODELAY).
---@param on boolean
---@return true|nil ok
---@return string? err
function Conn:set_nodelay(on) return result(C.host_sock_set_nodelay(self.sock, on and 1 or 0)) end

return conn
