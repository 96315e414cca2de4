--- Connections to one address that wait for their next use: `net.pool(addr[, opts])`.
--
--   local pool = net.pool("127.0.0.1:6379", { max = 8 })
--   local c = assert(pool:get())
--   c:write "PING\r\n"
--   print(c:read_line())
--   pool:put(c)
--
-- A G takes a connection, speaks, and puts it back when the answer has been read to its end. What is put back must be
-- silent: a connection that is closed, has bytes unread or a G that reads or writes is not kept.
--
-- While a connection waits here a G of the pool waits for it in the poller. If the other side hangs up, says something
-- that nobody asked for, or the time is over, the connection is closed at that moment. So a request is not written into
-- a connection whose end is known already. What the poller has not yet told, `get` asks the kernel for, once, before it
-- hands a connection out. Later than that nobody can know: a peer may hang up while the request is on its way.
--
-- There are `max` places: connections that wait, those that are taken, and those that are being dialed. Who gets none
-- waits in line. A connection that is put back, or the place of one that has ended, goes straight to the G that has
-- waited longest, so that nobody slips past; the wait answers at that moment, and a cancellation that comes later does
-- not take it away again. Hence, while anybody waits in line, no connection waits and no place is free. The latest
-- connection is taken first, and the others grow old.
--
-- A connection that is closed gives its place back at once (Conn:close), whether it is put back or not.
--
-- A pool is its VM's, as its connections are, and ends with it.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local base = require "lunapark.core.base"
local common = require "lunapark.net.sock"
local conn = require "lunapark.net.conn"
local lp = require "lunapark"
local tls = require "lunapark.tls"
local waitq = require "lunapark.sync.waitq"
local as_given = require("lunapark.core.show").given

local C = ffi.C
local READ = common.READ
local handed, wait_sock = waitq.handed, core.wait_sock

local MAX, IDLE = 64, 90

local pool = {}

---@class lunapark.Conn
---@field package idles table?  its entry in the idle ones of a pool

---@class lunapark.Pool
---@field private dial_opts table?
---@field private dial fun(addr: string, opts?: table): lunapark.Conn|nil, string?
---@field private addr string
---@field private max integer
---@field private idle_s number
---@field private idle { conn: lunapark.Conn, g: lunapark.G? }[]  the latest is last
---@field private taken table<lunapark.Conn, true>
---@field private n integer  places that are not free
---@field private queue lunapark.Waitq
---@field private closed boolean
local Pool = {}
Pool.__index = Pool
Pool.__name = "lunapark.Pool"

-- ---- places ----------------------------------------------------------------------------------------------

-- Hands something to the first in line: a connection, or a place (true). Whether there was anybody.
local function hand(self, what)
  if self.queue.n == 0 then return false end
  handed[C.host_queue_fire(self.queue, 1)] = what
  return true
end

local function free_place(self)
  if self.closed or not hand(self, true) then self.n = self.n - 1 end
end

-- Called by Conn:close. The connection is taken, or idle.
local function has_closed(self, c)
  c.on_close = nil
  self.taken[c] = nil
  free_place(self)
end

local function give(self, c)
  self.taken[c] = true
  return c
end

-- For who has a place.
local function connect(self, at)
  local ok, c, err = pcall(lp.deadline, at and (at - base.now_ns()) / 1e9, self.dial, self.addr, self.dial_opts)
  if not ok then -- it can't wait here
    free_place(self)
    error(c, 0)
  end
  if c and self.closed then
    c:close()
    c, err = nil, "closed"
  end
  if not c then
    free_place(self)
    return nil, err
  end
  c.on_close = function(closed) has_closed(self, closed) end
  return give(self, c)
end

-- ---- connections that wait -------------------------------------------------------------------------------

-- Nothing has come, not even the end.
local function is_silent(c)
  local buffer = c.buffer
  return buffer.pos == buffer["end"] and not c.reading.busy and not c.writing.busy
    and C.host_sock_ready(c.sock, READ) == 0
end

local function take_out(self, entry)
  for i = #self.idle, 1, -1 do
    if self.idle[i] == entry then
      table.remove(self.idle, i)
      return
    end
  end
end

-- The G that waits for an idle connection. It has nothing more to do when somebody has taken the connection.
local function watch(self, entry, at)
  local c = entry.conn
  local why
  repeat
    why = wait_sock(c.sock, READ, at)
  until why or c.idles ~= entry or C.host_sock_ready(c.sock, READ) ~= 0 -- else woken for nothing
  if c.idles ~= entry then return end
  take_out(self, entry)
  c.idles = nil
  c:close()
end

local function keep(self, c)
  local entry = { conn = c }
  c.idles = entry
  self.idle[#self.idle + 1] = entry
  -- Beyond 9e9 seconds the nanoseconds leave 63 bits; that far away is never.
  local at = self.idle_s < 9e9 and base.real_ns() + self.idle_s * 1e9 or 0
  entry.g = lp.detach(watch, self, entry, at)
end

-- The latest idle connection, with which all is well; nil: there is none.
local function take(self)
  while true do
    local entry = table.remove(self.idle)
    if not entry then return nil end
    local c = entry.conn
    c.idles = nil
    entry.g:cancel()
    if is_silent(c) then return give(self, c) end
    c:close()
  end
end

-- ---- what users call -------------------------------------------------------------------------------------

local function check_self(self, what)
  if getmetatable(self) ~= Pool then error(what .. ": call it with a colon, pool:" .. what .. "(...)", 3) end
end

--- A connection: one that waits in the pool, or a new one. Waits for a place if all are taken, and while it connects;
--- at most `s` seconds, and as long as the G's own deadline allows.
---@param s? number  seconds
---@return lunapark.Conn|nil conn
---@return string? err  "timeout", "canceled", "closed", or why it can't connect
function Pool:get(s)
  check_self(self, "get")
  base.check_seconds(s, "get", true)
  if self.closed then return nil, "closed" end
  local c = take(self)
  if c then return c end
  local at = s and base.deadline_in(s)
  if self.n < self.max then
    self.n = self.n + 1
    return connect(self, at)
  end
  local slot = waitq.slot()
  local answer = waitq.wait(self.queue, at or 0)
  if answer == 0 then return nil, "closed" end
  if answer ~= 1 then return base.heard(answer) end
  local what = handed[slot]
  handed[slot] = false
  if what == true then return connect(self, at) end
  return what
end

--- Puts back a connection that `get` returned, for the next G. It is closed instead if bytes are unread, if somebody
--- still reads or writes, or if the pool is closed. Its deadlines are cleared. Putting back a closed connection is
--- harmless. Does not wait.
---@param c lunapark.Conn
---@return boolean kept
function Pool:put(c)
  check_self(self, "put")
  if not conn.is(c) then error("put: c must be a connection, got " .. type(c), 2) end
  if not self.taken[c] then
    if C.host_sock_ready(c.sock, READ) < 0 then return false end -- it is closed
    error("put: c must be a connection that get returned and that was not put back since", 2)
  end
  c:set_deadline(nil)
  if self.closed or not is_silent(c) then
    c:close()
    return false
  end
  self.taken[c] = nil
  if self.queue.n > 0 then
    give(self, c)
    hand(self, c)
  else
    keep(self, c)
  end
  return true
end

--- Closes the connections that wait. From now on `get` says "closed", also to Gs that wait in it, and `put` closes.
--- Connections that are taken go on. Closing twice is harmless.
---@return true
function Pool:close()
  check_self(self, "close")
  self.closed = true
  while self.queue.n > 0 do C.host_queue_fire(self.queue, 0) end
  for i = #self.idle, 1, -1 do
    local entry = self.idle[i]
    self.idle[i] = nil
    entry.conn.idles = nil
    entry.conn:close()
  end
  return true
end

--- How many connections wait in the pool, how many places are taken, and how many Gs wait in line.
---@return integer idle
---@return integer taken  with those that are being dialed
---@return integer waiting
function Pool:count()
  check_self(self, "count")
  return #self.idle, self.n - #self.idle, self.queue.n
end

--- A pool of connections to one address, without any yet. Does not wait.
---@param dial fun(addr: string, opts?: table): lunapark.Conn|nil, string?  net.dial
---@param addr string
---@param opts? { max: integer?, idle: number?, tls: lunapark.TlsConfig|lunapark.TlsOptions|true|nil }  max: connections
---at once, 64 without it; idle: seconds that one waits before it is closed, 90 without it; tls: as for `net.dial`
---@return lunapark.Pool
function pool.new(dial, addr, opts)
  common.check_addr(addr, "pool")
  if opts ~= nil and type(opts) ~= "table" then error("pool: opts must be a table, got " .. type(opts), 2) end
  local max, idle = opts and opts.max or MAX, opts and opts.idle or IDLE
  common.check_count(max, "pool", "max", 1)
  if type(idle) ~= "number" or idle <= 0 or idle ~= idle then
    error("pool: idle must be a number of seconds, got " .. as_given(idle), 2)
  end
  local config = opts and opts.tls and tls.of(opts.tls, "pool")
  return setmetatable({
    dial = dial, addr = addr, dial_opts = config and { tls = config },
    max = max, idle_s = idle, idle = {}, taken = {}, n = 0, queue = waitq.new(),
    closed = false,
  }, Pool)
end

return pool
