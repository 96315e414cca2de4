--- Copying a stream: `net.copy(dst, src[, n])`.
--
--   connection -> connection     splice, through a pipe: the bytes never come to this process
--   file -> connection           sendfile
--   anything else                a loop of reads and writes
--
-- Bytes in the source's buffer go first. The copy holds the source's reading turn to the end, and the destination's
-- writing turn while the bytes of one read are written: other Gs may write while the source is silent.
--
-- No byte is lost: bytes that were taken from a connection and not written go back into its buffer, and a file's
-- position moves by the bytes that were written. Other sources have no way back. When the kernel refuses splice or
-- sendfile, the loop goes on from the byte that was reached.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local common = require "lunapark.net.sock"
local conn = require "lunapark.net.conn"
local turn = require "lunapark.net.turn"

local C = ffi.C
local wait_sock = core.wait_sock
local message = common.message

local EAGAIN, READ, WRITE = common.EAGAIN, common.READ, common.WRITE
local CHUNK = 65536
-- The kernel refuses splice or sendfile with these: EPERM, EINVAL, ENOSYS, EOPNOTSUPP, EOVERFLOW.
local refusals = { [-1] = true, [-22] = true, [-38] = true, [-95] = true, [-75] = true }

local copy = {}

local err_out = ffi.new("int[1]")
local kept -- an empty pipe of a copy that has ended

-- A copy under way: `left` bytes are wanted (math.huge: all), `moved` have arrived, `err` ends it.
-- Every step returns true when it has failed; c.err says why.

local function count(c, n)
  c.moved, c.left = c.moved + n, c.left - n
end

local function fail(c, err)
  c.err = err
  return true
end

-- Waits for a socket. True: the wait failed.
local function wait(c, sock, mode)
  local why = wait_sock(sock, mode)
  if why then return fail(c, why) end
end

-- ---- from a connection -----------------------------------------------------------------------------------

-- Writes the buffer's bytes to a connection, straight from the buffer. In dst's turn.
local function put_buffer(c, dst, buffer)
  while c.left > 0 do
    local len = buffer["end"] - buffer.pos
    if len == 0 then return end
    local n = C.host_sock_write(dst.sock, buffer.data + buffer.pos, len < c.left and len or c.left)
    if n >= 0 then
      buffer.pos = buffer.pos + n
      count(c, n)
    elseif n ~= EAGAIN then
      return fail(c, message(n, dst.sock))
    elseif wait(c, dst.sock, WRITE) then -- may close the source: the buffer is empty then
      C.host_sock_abandon(dst.sock)
      return true
    end
  end
end

-- Gives the buffer's bytes to a dst with a method `write`, which takes all of them or none.
local function give_buffer(c, dst, buffer)
  local len = buffer["end"] - buffer.pos
  if len > c.left then len = c.left end
  if len > CHUNK then len = CHUNK end
  if len == 0 then return end
  local ok, err = dst:write(ffi.string(buffer.data + buffer.pos, len))
  if not ok then return fail(c, tostring(err)) end
  if buffer["end"] - buffer.pos >= len then buffer.pos = buffer.pos + len end -- unless it was closed meanwhile
  count(c, len)
end

-- Calls fn(c, dst, ...) in dst's turn. A turn that can't be had is a failure, too.
local function in_turn(c, dst, fn, ...)
  local ok, err = turn.run(dst.writing, function(...)
    fn(...)
    return true
  end, c, dst, ...)
  if not ok then fail(c, err) end
  return c.err
end

local function empty_buffer(c, dst, src)
  local buffer = src.buffer
  while c.left > 0 and buffer["end"] > buffer.pos do
    if conn.is(dst) then
      if in_turn(c, dst, put_buffer, buffer) then return true end
    elseif give_buffer(c, dst, buffer) then
      return true
    end
  end
end

local function by_buffer(c, dst, src)
  while not empty_buffer(c, dst, src) and c.left > 0 do
    local ok, err = conn.fill(src.sock, 0)
    if not ok then
      if err ~= "eof" then c.err = err end
      return
    end
  end
end

-- Takes note of a step towards dst: n bytes were moved, or n says why not. True: the copy ends here.
local function stepped(c, dst, n)
  if n > 0 then
    count(c, n)
  elseif refusals[n] then
    c.refused = true
    return true
  elseif n ~= EAGAIN then
    fail(c, message(n))
    return true
  else
    return wait(c, dst.sock, WRITE)
  end
end

-- Moves all bytes of the pipe to dst. In dst's turn.
local function pump(c, dst, pipe)
  while C.host_pipe_len(pipe) > 0 do
    if stepped(c, dst, C.host_pipe_pump(pipe, dst.sock)) then return true end
  end
end

local function splice(c, dst, src, pipe)
  while c.left > 0 do
    local n = C.host_pipe_drain(pipe, src.sock, c.left)
    if n == 0 then return end
    if n > 0 then
      in_turn(c, dst, pump, pipe)
      if c.err or c.refused then return end
    elseif refusals[n] then
      c.refused = true
      return
    elseif n ~= EAGAIN then
      return fail(c, message(n))
    elseif wait(c, src.sock, READ) then
      return true
    end
  end
end

local function by_splice(c, dst, src)
  local pipe = kept
  kept = nil
  if not pipe then
    pipe = C.host_pipe_open(err_out)
    -- No descriptor is left; the loop needs none.
    if pipe == nil then return by_buffer(c, dst, src) end
    ffi.gc(pipe, C.host_pipe_free)
  end
  local ok, err = pcall(splice, c, dst, src, pipe)
  if C.host_pipe_len(pipe) > 0 then C.host_pipe_unread(pipe, src.sock) end
  if C.host_pipe_len(pipe) == 0 and not kept then
    kept = pipe
  else -- the source is closed: its bytes in the pipe go with it
    C.host_pipe_free(ffi.gc(pipe, nil))
  end
  if not ok then error(err, 0) end
  if c.refused and not c.err then by_buffer(c, dst, src) end
end

local function from_conn(c, dst, src)
  if empty_buffer(c, dst, src) or c.left <= 0 then return end
  if conn.is(dst) then return by_splice(c, dst, src) end
  by_buffer(c, dst, src)
end

-- ---- from something else ---------------------------------------------------------------------------------

local function write_some(c, dst, text)
  local sent = 0
  local ok, err = turn.run(dst.writing, function()
    local done, why, n = conn.write_rest(dst.sock, text, 0)
    sent = n
    return done, why
  end)
  count(c, sent)
  if not ok then return fail(c, err) end
end

local function by_loop(c, dst, src)
  while c.left > 0 do
    local text, err = src:read(c.left < CHUNK and c.left or CHUNK)
    if not text then
      if err and err ~= "eof" then c.err = tostring(err) end
      return
    end
    if conn.is(dst) then
      if write_some(c, dst, text) then
        -- A file's position goes back, if it can.
        if io.type(src) == "file" then src:seek("cur", -(#text - (c.moved - c.before))) end
        return
      end
    else
      local ok
      ok, err = dst:write(text)
      if not ok then
        c.err = tostring(err)
        return
      end
      count(c, #text)
    end
    c.before = c.moved
  end
end

-- In dst's turn.
local function sendfile(c, dst, file, offset)
  while c.left > 0 do
    local n = C.host_sock_sendfile(dst.sock, file, offset + c.moved, c.left)
    if n == 0 or stepped(c, dst, n) then return end
  end
end

local function by_sendfile(c, dst, file)
  local offset = file:seek "cur" -- and writes what its own buffer holds
  if not offset then return by_loop(c, dst, file) end -- a pipe
  local ok, err = pcall(in_turn, c, dst, sendfile, file, offset)
  file:seek("set", offset + c.moved)
  if not ok then error(err, 0) end
  c.before = c.moved
  if c.refused and not c.err then by_loop(c, dst, file) end
end

-- ---- for users -------------------------------------------------------------------------------------------

local function check(v, what, method)
  local kind = io.type(v)
  if kind == "file" or conn.is(v) then return end
  if kind == "closed file" then error(("copy: %s is a closed file"):format(what), 3) end
  local readable, fn = pcall(function() return v[method] end)
  if not readable or type(fn) ~= "function" then
    error(("copy: %s must be a connection, a file, or what has %s, got %s"):format(what, method, type(v)), 3)
  end
end

--- Copies n bytes, or all up to the end, from one stream to another. May wait.
---@param dst lunapark.Conn|file*|table  a table has `dst:write(string)` -> true | nil, err
---@param src lunapark.Conn|file*|table  a table has `src:read(n)` -> string | nil, err
---@param n? integer  the most bytes that are copied; all without it
---@return integer|nil count  less than n if the source has ended before
---@return string? err
---@return integer? count  with an error: how many bytes have been copied
function copy.copy(dst, src, n)
  check(dst, "dst", "write")
  check(src, "src", "read")
  if n ~= nil then common.check_count(n, "copy", "n", 0) end
  local c = { left = n or math.huge, moved = 0, before = 0 }
  if conn.is(src) then
    local ok, err = turn.run(src.reading, function()
      from_conn(c, dst, src)
      return true
    end)
    if not ok then c.err = err end
  elseif io.type(src) and conn.is(dst) then
    by_sendfile(c, dst, src)
  else
    by_loop(c, dst, src)
  end
  if c.err then return nil, c.err, c.moved end
  return c.moved
end

return copy
