--- Files of the `io` library that may have to be waited for: files of io.popen, FIFOs and terminals by io.open, and our
-- stdin. They are used as LuaJIT's files: with their methods, formats, results and errors. Only the calling G waits.
-- When the G's deadline or a cancellation ends the wait, the call answers as for an error of the kernel: nil,
-- "timeout".
--
-- Bytes are read into the buffer of the socket (host/net/sock.c) and taken from there. Written bytes go out at once.
-- One G reads at a time, the others wait for their turn: so the bytes that a read has looked at are still there when it
-- takes them.
--
-- Beneath a finalizer, an FFI callback or a hook nothing can wait: a read that would have to wait raises "cannot wait
-- here". A read of stdin, whose descriptor blocks, blocks there.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local common = require "lunapark.net.sock"
local turn = require "lunapark.net.turn"

local C = ffi.C
local ffi_string = ffi.string
local message, EAGAIN, READ, WRITE = common.message, common.EAGAIN, common.READ, common.WRITE
local NUMBER_MAX = 200

local iofile = {}

---@class lunapark.IoFile
---@field private sock ffi.cdata*?     host_sock, until it is closed
---@field private reads boolean
---@field private writes boolean
---@field private shared boolean?      the descriptor blocks, so each read first asks whether bytes are there
---@field private begun boolean?       the other side was open: see stream.lua
---@field private finish (fun(): ...)?  what close answers
---@field private reading lunapark.Turn

-- The files by their userdata, which a user holds in place of LuaJIT's.
local states = setmetatable({}, { __mode = "k" })
local methods = {}
local model = newproxy(true)
local mt = getmetatable(model)
mt.__index, mt.__name = methods, "FILE*"

--- A file of a socket, which has its finalizer.
---@param sock ffi.cdata*
---@param opts { reads: boolean?, writes: boolean?, shared: boolean?, finish: function? }
---@return userdata
function iofile.new(sock, opts)
  local file = newproxy(model)
  states[file] = {
    sock = sock, buffer = C.host_sock_rbuf(sock), reads = opts.reads, writes = opts.writes, shared = opts.shared,
    finish = opts.finish, reading = turn.new(),
  }
  return file
end

--- "file" or "closed file"; nil: v is no file of ours.
---@param v any
---@return string?
function iofile.type(v)
  local state = states[v]
  return state and (state.sock and "file" or "closed file")
end

local function state_of(file)
  local state = states[file]
  if not state then error("bad argument #1 (FILE* expected, got " .. type(file) .. ")", 3) end
  if not state.sock then error("attempt to use a closed file", 3) end
  return state
end

-- Failures of the kernel as the io library tells them.
local function failure(rc)
  return nil, (message(rc):gsub("^%l", string.upper)), -rc
end

-- ---- reading ---------------------------------------------------------------------------------------------

local function there(state)
  return state.buffer["end"] - state.buffer.pos
end

local function take(state, n, skip)
  local buffer = state.buffer
  local text = n > 0 and ffi_string(buffer.data + buffer.pos, n) or ""
  buffer.pos = buffer.pos + n + (skip or 0)
  return text
end

-- Waits until a read answers at once. Returns nothing, or why not.
local function wait_readable(state)
  while true do
    local rc = C.host_sock_ready(state.sock, READ)
    if rc < 0 then return failure(rc) end
    if rc == 1 then return true end
    local why = core.wait_sock(state.sock, READ)
    if why then return nil, why end
  end
end

-- Reads more into the buffer: true; nil at the end; nil and why not.
local function fill(state, wanted)
  while true do
    if (state.shared and not core.barrier()) or not (state.shared or state.begun) then
      local ok, err, code = wait_readable(state)
      if not ok then return nil, err, code end
      state.begun = true
    end
    local n = C.host_sock_fill(state.sock, wanted)
    if n > 0 then return true end
    if n == 0 then return nil end
    if n ~= EAGAIN then return failure(n) end
    local why = core.wait_sock(state.sock, READ)
    if why then return nil, why end
    if not state.sock then return nil, "closed" end
  end
end

-- A function for each format. It answers what was read; nil at the end; nil and why not.

local function read_line(state, keep)
  local searched = 0
  while true do
    local at = C.host_rbuf_find(state.buffer, searched, "\n", 1)
    if at >= 0 then
      if keep then return take(state, at + 1) end
      return take(state, at, 1)
    end
    searched = there(state)
    local ok, err, code = fill(state, 0)
    if not ok then
      if err or searched == 0 then return nil, err, code end
      return take(state, searched)
    end
  end
end

local function read_all(state)
  while true do
    local ok, err, code = fill(state, 0)
    if not ok then
      if err then return nil, err, code end
      return take(state, there(state))
    end
  end
end

local function read_bytes(state, n)
  while true do
    local missing = n - there(state)
    if n > 0 and missing <= 0 then return take(state, n) end
    if n == 0 and there(state) > 0 then return "" end
    local ok, err, code = fill(state, n == 0 and 0 or missing)
    if not ok then
      if err or there(state) == 0 then return nil, err, code end
      return take(state, there(state))
    end
  end
end

-- Byte i of the buffer, counted from 0.
local function byte_at(state, i)
  while there(state) <= i do
    local ok, err, code = fill(state, 0)
    if not ok then return nil, err, code end
  end
  return string.char(state.buffer.data[state.buffer.pos + i])
end

local function read_number(state)
  while true do
    local c, err, code = byte_at(state, 0)
    if not c then return nil, err, code end
    if not c:find "%s" then break end
    take(state, 1)
  end
  local n, text = 0, ""
  while n < NUMBER_MAX do
    local c, err, code = byte_at(state, n)
    if err then return nil, err, code end
    if not c or not c:find "[%w%.%+%-]" then break end
    n, text = n + 1, text .. c
  end
  -- "12-3" is the number 12, and more.
  for len = n, 1, -1 do
    local value = tonumber(text:sub(1, len))
    if value then
      take(state, len)
      return value
    end
  end
  return nil
end

local readers = {
  l = function(state) return read_line(state, false) end,
  L = function(state) return read_line(state, true) end,
  a = read_all,
  n = read_number,
}

local function reader_of(format)
  if type(format) == "number" then return read_bytes end
  return type(format) == "string" and readers[format:gsub("^%*", ""):sub(1, 1)]
end

-- The results, up to the first that is nil.
local function read_formats(state, ...)
  local n = select("#", ...)
  if not state.sock then return nil, "closed" end -- while it waited for its turn
  if n == 0 then
    local line, err, code = read_line(state)
    if err then return nil, err, code end
    return line
  end
  local results = {}
  for i = 1, n do
    local format = select(i, ...)
    local value, err, code = reader_of(format)(state, format)
    if err then return nil, err, code end
    results[i] = value
    if value == nil then return unpack(results, 1, i) end
  end
  return unpack(results, 1, n)
end

--- Reads by formats: "*l", "*L", "*a", "*n" or a number of bytes. May wait.
---@param ... string|integer
---@return string|number|nil ...
function methods:read(...)
  local state = state_of(self)
  if not state.reads then return nil, "Bad file descriptor", 9 end
  for i = 1, select("#", ...) do
    if not reader_of((select(i, ...))) then error(("bad argument #%d to 'read' (invalid format)"):format(i), 2) end
  end
  return turn.run(state.reading, read_formats, state, ...)
end

--- An iterator over what `read(...)` answers, up to the first nil. Each step may wait.
---@param ... string|integer
---@return function
function methods:lines(...)
  state_of(self)
  local formats, n = { ... }, select("#", ...)
  local function step(first, err, ...)
    if first == nil and err then error(err, 3) end
    return first, err, ...
  end
  return function()
    if not states[self].sock then error("file is already closed", 2) end
    return step(methods.read(self, unpack(formats, 1, n)))
  end
end

-- ---- the rest --------------------------------------------------------------------------------------------

local function write_all(state, data)
  local bytes, len, sent = ffi.cast("const char *", data), #data, 0
  while sent < len do
    local n = C.host_sock_write(state.sock, bytes + sent, len - sent)
    if n >= 0 then
      sent = sent + n
    elseif n == EAGAIN then
      local why = core.wait_sock(state.sock, WRITE)
      if why then return nil, why end
    else
      return failure(n)
    end
  end
  return true
end

--- Writes strings and numbers. May wait.
---@param ... string|number
---@return true|nil ok
---@return string? err
---@return integer? errno
function methods:write(...)
  local state = state_of(self)
  if not state.writes then return nil, "Bad file descriptor", 9 end
  for i = 1, select("#", ...) do
    local piece = select(i, ...)
    if type(piece) ~= "string" and type(piece) ~= "number" then
      error(("bad argument #%d to 'write' (string expected, got %s)"):format(i, type(piece)), 2)
    end
    local ok, err, code = write_all(state, tostring(piece))
    if not ok then return nil, err, code end
  end
  return true
end

--- Does nothing, since written bytes have gone out.
---@return true
function methods:flush()
  state_of(self)
  return true
end

--- Does nothing, since written bytes are not buffered.
---@return true
function methods:setvbuf()
  state_of(self)
  return true
end

--- Fails, since the file has no positions.
---@return nil
---@return string err
---@return integer errno
function methods:seek()
  state_of(self)
  return nil, "Illegal seek", 29
end

--- Closes the file. A file of io.popen waits for the end of its program. May wait.
---@return true|nil ok
---@return string? err
function methods:close()
  local state = state_of(self)
  C.host_sock_close(state.sock)
  state.sock, state.buffer = nil, nil
  if state.finish then return state.finish() end
  return true
end

---@private
function mt.__tostring(file)
  local state = states[file]
  if not state or not state.sock then return "file (closed)" end
  return ("file (%p)"):format(file)
end

return iofile
