--- Files that are no files on a disk: FIFOs, terminals, devices that can be waited for. What `lunapark.fs` and the `io`
-- library share (host/sys/fs.c says why they are not read by jobs).
--
-- Each is a connection of lunapark.net, so that waits for it end with the deadline and the cancellation of the G. Two
-- things are as with files: a G that reads a FIFO waits until somebody has opened it to write, and a G that opens a
-- FIFO to write waits until somebody has opened it to read. The kernel does not tell when that happens, so the open is
-- tried again and again.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local common = require "lunapark.net.sock"
local conn = require "lunapark.net.conn"
local lp = require "lunapark"

local C = ffi.C
local message, READ = common.message, common.READ
local err_out = ffi.new "int[1]"
local PAUSE, PAUSE_MAX = 0.001, 0.05

local stream = {}

---@class lunapark.Stream
---@field conn lunapark.Conn
---@field private sock ffi.cdata*
---@field private begun boolean?  somebody was at the other side
local Stream = {}
local stream_mt = { __name = "lunapark.Stream", __index = Stream }

--- The stream of a socket that has no owner yet.
---@param sock ffi.cdata*  host_sock
---@return lunapark.Stream
function stream.new(sock)
  return setmetatable({ sock = sock, conn = conn.new(common.keep(sock)) }, stream_mt)
end

--- The stream that a job of host/sys/fs.c has opened.
---@param job ffi.cdata*
---@return lunapark.Stream|nil
---@return string? err
function stream.of_job(job)
  local sock = C.host_fs_stream(job, err_out)
  if sock == nil then return nil, message(err_out[0]) end
  return stream.new(sock)
end

--- Calls `try` until it answers something else than nil, "again": a FIFO that nobody reads yet. May wait.
---@param try fun(): any, string?
---@return any
---@return string? err
function stream.patiently(try)
  local pause = PAUSE
  while true do
    local a, err = try()
    if a ~= nil or err ~= "again" then return a, err end
    local ok, why = lp.sleep(pause)
    if not ok then return nil, why end
    pause = math.min(pause * 2, PAUSE_MAX)
  end
end

--- Waits until there is something to read, or the end: true. Without a writer there is neither.
---@return true|nil
---@return string? err
function Stream:wait_begun()
  while not self.begun do
    local rc = C.host_sock_ready(self.sock, READ)
    if rc < 0 then return nil, common.words(rc, self.sock) end
    self.begun = rc == 1
    local why = rc == 0 and core.wait_sock(self.sock, READ)
    if why then return nil, why end
  end
  return true
end

--- Reads n bytes, fewer only at the end; without n up to the end. May wait.
---@param n? number
---@return string|nil bytes  not empty
---@return string? err  "eof" at the end
function Stream:read(n)
  local ok, err = self:wait_begun()
  if not ok then return nil, err end
  local text, partial
  if n then
    text, err, partial = self.conn:read_exact(n)
  else
    text, err = self.conn:read_all()
  end
  if err == "eof" then text = partial end
  if text == "" then return nil, "eof" end
  return text, not text and err or nil
end

--- Writes all of it. May wait.
---@param data string
---@return true|nil ok
---@return string? err
function Stream:write(data)
  return self.conn:write(data)
end

--- Closes it. Closing twice is harmless.
---@return true
function Stream:close()
  return self.conn:close()
end

return stream
