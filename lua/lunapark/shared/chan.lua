--- Channels between VMs: `shared.chan`.
--
--   local jobs = shared.chan("jobs", 100)
--   jobs:send { id = 5 }                              -- in one VM
--   for job in jobs:iter() do work(job.id) end        -- in another
--   local i, v, ok = lp.select { { jobs, "recv" }, { stop, "recv" }, timeout = 1 }
--
-- A channel belongs to the process: a name is one channel in all VMs, which lives on when a VM ends. It behaves as a
-- channel of one VM (sync/chan.lua), and both may stand in one select. Two things differ: values are copied, as with
-- dicts; and the buffer has a budget of bytes (16 MiB, or opts.max_bytes), for which a send may also wait.
--
-- The name of a channel is free when the channel is closed and its buffer is empty: the next shared.chan makes another
-- one. Close a channel that is made for one use; a channel that is not closed stays as long as the process.
--
-- A value that was handed to a G whose VM was dropped before the G ran goes back to the front, though its sender was
-- told that it was sent. A value that a G has received when the G is ended is gone.
--
-- How it works: host/shared/chan.c.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local base = require "lunapark.core.base"
local value = require "lunapark.shared.value"
local sync = require "lunapark.sync.chan"
local as_given = require("lunapark.core.show").given

local C = ffi.C
local rest, failed = core.rest, core.failed
local check_seconds, deadline_in, heard = base.check_seconds, base.deadline_in, base.heard
local check_real = base.check_real
local parts, value_of, scratch, SCRATCH = value.parts, value.of, value.scratch, value.SCRATCH
local getmetatable, type, error = getmetatable, type, error
local RECV, SEND = C.HOST_CHAN_RECV, C.HOST_CHAN_SEND
local EAGAIN = -11

local found = ffi.new "host_chan_value"
local has_cap = ffi.new "double[1]"
local errors = { [-10002] = "closed", [-12] = "no memory", [-27] = "too big" }

---@class lunapark.SharedChan
---@field private chan ffi.cdata*  host_chan
---@field private name string
---@field private cap integer
local SharedChan = {}
SharedChan.__index = SharedChan
SharedChan.__name = "lunapark.SharedChan"

local function check_self(self, what)
  if getmetatable(self) ~= SharedChan then
    error(what .. ": ch must be a shared channel, got " .. type(self), 3)
  end
end

---@private
function SharedChan:__tostring()
  local closed = C.host_chan_closed(self.chan) ~= 0
  return ("shared channel %q of %d (%d%s)"):format(self.name, self.cap, C.host_chan_len(self.chan),
    closed and ", closed" or "")
end

--- The channel of that name in all VMs. The first call makes it. A call with another n than the first one raises.
---@param name string
---@param n? integer  values that its buffer holds; 0 (the default): unbuffered
---@param opts? { max_bytes: integer? }  the buffer's budget from now on; 16 MiB unless a call says otherwise
---@return lunapark.SharedChan|nil
---@return string? err  "no memory"
local function open(name, n, opts)
  if type(name) ~= "string" then error("chan: name must be a string, got " .. type(name), 2) end
  n = sync.cap(n)
  if opts ~= nil and type(opts) ~= "table" then error("chan: opts must be a table, got " .. type(opts), 2) end
  local max = opts and opts.max_bytes
  if max ~= nil and (type(max) ~= "number" or not (max >= 1 and max <= 2 ^ 46)) then
    error("chan: opts.max_bytes must be a number of bytes, 1 or more, got " .. as_given(max), 2)
  end
  local chan = C.host_chan_open(name, #name, n, max or 0, has_cap)
  if chan == nil then return nil, "no memory" end
  local has = has_cap[0]
  chan = ffi.gc(chan, C.host_chan_free)
  if has ~= n then error(("chan: n of %q is %d since it was made, got %d"):format(name, has, n), 2) end
  return setmetatable({ chan = chan, name = name, cap = n }, SharedChan)
end

-- ---- operations that do not wait -----------------------------------------------------------------------

-- The value that kind = read(buf, room) finds, of more bytes than scratch has. nil: it is gone.
local function read_long(self, read)
  local kind, buf, room
  repeat
    room = found.len
    buf = ffi.new("uint8_t[?]", room)
    kind = read(self, buf, room)
  until kind < 0 or found.len <= room
  return kind, buf
end

local function recv_into(self, buf, room)
  return C.host_chan_recv(self.chan, buf, room, found)
end

-- The operations that select asks of a channel: see sync/chan.lua.
local function try_recv(self)
  local kind, data = C.host_chan_recv(self.chan, scratch, SCRATCH, found), scratch
  if kind >= 0 and found.len > SCRATCH then
    kind, data = read_long(self, recv_into)
  end
  if kind >= 0 then return true, value_of(kind, found.number, data, found.len), true end
  if kind ~= EAGAIN then return true, nil, false end
  return false
end
SharedChan.try_recv = try_recv

local function refused(rc, level)
  error(rc == -27 and "select: value is too big for its channel" or "select: " .. errors[rc], level)
end

---@private
function SharedChan:try_send(v)
  local rc = C.host_chan_send(self.chan, parts(v, "select", 6))
  if rc == 0 then return true, true end
  if rc == EAGAIN then return false end
  if errors[rc] == "closed" then return true, false end
  refused(rc, 6)
end

---@private
function SharedChan:can_recv()
  return C.host_chan_can(self.chan, RECV) ~= 0
end

---@private
function SharedChan:can_send()
  return C.host_chan_can(self.chan, SEND) ~= 0
end

-- ---- operations that may ---------------------------------------------------------------------------------

local function take_into(_, buf, room)
  return C.host_chan_take(buf, room, found)
end

---@private
--- The value that was handed to a wait.
function SharedChan:taken()
  local kind, data = C.host_chan_take(scratch, SCRATCH, found), scratch
  if found.len > SCRATCH then
    kind, data = read_long(self, take_into)
  end
  return value_of(kind, found.number, data, found.len)
end

---@private
--- The running G will wait for the channel: see sync/chan.lua.
function SharedChan:join(index, op, v)
  check_real "waiting in a shared channel"
  local rc
  if op == "recv" then
    rc = C.host_chan_join_recv(self.chan, index)
  else
    rc = C.host_chan_join_send(self.chan, index, parts(v, "select", 5))
  end
  if rc ~= 0 then refused(rc, 5) end
end

local function wait_recv(self, s)
  if s and s <= 0 then return nil, "timeout" end
  check_real "waiting in a shared channel"
  local at = deadline_in(s)
  while true do
    if C.host_chan_join_recv(self.chan, 0) ~= 0 then return nil, "no memory" end
    local answer = rest(at)
    if answer == 1 then return self:taken() end
    if answer == 0 then return nil, "closed" end
    if answer then return heard(answer) end
    local ready, v, ok = try_recv(self)
    if ready then
      if ok then return v end
      return nil, "closed"
    end
  end
end

--- Takes the next value, a copy. Waits for it if there is none, unless s is 0 or less.
---@param s? number  seconds; without it as long as the G's own deadline allows
---@return boolean|number|string|table|nil v
---@return string? err  nil: v was received, though v may be nil; "closed": the channel is closed and empty; "timeout",
---"canceled"
function SharedChan:recv(s)
  if getmetatable(self) ~= SharedChan then check_self(self, "recv") end
  if s ~= nil then check_seconds(s, "recv") end
  local ready, v, ok = try_recv(self)
  if not ready then return wait_recv(self, s) end
  if not ok then return nil, failed("closed", self) end
  return v
end

local function wait_send(self, v, s)
  if s and s <= 0 then return nil, "timeout" end
  check_real "waiting in a shared channel"
  local at = deadline_in(s)
  while true do
    local rc = C.host_chan_join_send(self.chan, 0, parts(v, "send"))
    if rc ~= 0 then return nil, errors[rc] end
    local answer = rest(at)
    if answer == 1 then return true end
    if answer == 0 then return nil, "closed" end
    if answer then return heard(answer) end
    rc = C.host_chan_send(self.chan, parts(v, "send"))
    if rc == 0 then return true end
    if rc ~= EAGAIN then return nil, errors[rc] end
  end
end

--- Sends a copy of v. Waits until it is received or there is room for it in the buffer, unless s is 0 or less.
---@param v boolean|number|string|table|nil
---@param s? number  seconds; without it as long as the G's own deadline allows
---@return true|nil
---@return string? err  v was not sent: "closed", also if the channel is closed during the wait; "timeout", "canceled";
---"too big": v is larger than the whole budget; "no memory"
function SharedChan:send(v, s)
  if getmetatable(self) ~= SharedChan then check_self(self, "send") end
  if s ~= nil then check_seconds(s, "send") end
  local rc = C.host_chan_send(self.chan, parts(v, "send"))
  if rc == 0 then return true end
  if rc == EAGAIN then return wait_send(self, v, s) end
  local err = errors[rc]
  return nil, err == "closed" and failed(err, self) or err
end

--- Closes the channel for all VMs. The values in its buffer can still be received. Gs that wait to send or to receive
--- get "closed".
---@return true|nil
---@return string? err  "closed": it was closed before
function SharedChan:close()
  check_self(self, "close")
  if C.host_chan_close(self.chan) ~= 0 then return nil, "closed" end
  return true
end

--- How many values are in the buffer.
---@return integer
function SharedChan:len()
  check_self(self, "len")
  return C.host_chan_len(self.chan)
end

--- For `for v in ch:iter() do`: receives until the channel is closed and empty. The G's deadline or a cancellation ends
--- the loop, too; the G's next wait tells which. A nil that is received raises, since it would end the loop.
---@return fun(self: lunapark.SharedChan): any
---@return lunapark.SharedChan
function SharedChan:iter()
  check_self(self, "iter")
  return sync.next_value, self
end

return open
