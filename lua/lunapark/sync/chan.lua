--- Channels between the Gs of one VM, and select.
--
--   local ch = lp.chan()                                 -- unbuffered: a send waits for its recv
--   lp.go(function() for i = 1, 3 do ch:send(i) end ch:close() end)
--   for v in ch:iter() do print(v) end
--
--   local i, v, ok = lp.select { { a, "recv" }, { b, "send", 5 }, timeout = 1 }
--
-- Channels are as Go's: values come out in the order in which they went in; the G that has waited longest is served
-- first; a closed channel gives out the values in its buffer and is then ready for ever. Where Go panics, a call
-- answers here: a send on a closed channel and a second close answer nil, "closed". Any value may be sent, nil too:
-- `local v, err = ch:recv()` has received v when err is nil.
--
-- The buffer is a ring in ch[0 .. cap - 1]. It is empty while a G waits to receive, and full while a G waits to send.
-- So the G that comes hands its value straight to the one that waits (waitq.lua), and select needs no second look: when
-- its G is fired, the case is done. A shared channel may have ended a select that waits here too: that G can't be fired
-- then, and q.n has counted one too many.
--
-- select draws among the cases that are ready, each with the same chance, so none starves. It has random numbers of its
-- own; the numbers of math.random belong to the user.
--
-- Channels that VMs share (shared/chan.lua) may stand in a select beside these. select asks of them:
--   can_recv() can_send()   -> boolean: the operation would not wait now. A hint: try_... decides
--   try_recv()              -> false, or true, v, ok
--   try_send(v)             -> false, or true, ok
--   join(index, op, v)      ends the wait that begins, by 2 * index + (ok and 1 or 0), when the operation was done. C
--                           looks again as the wait begins, and ends it without an answer if a case is ready
--   taken()                 -> the value that a wait of join has received

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local base = require "lunapark.core.base"
local waitq = require "lunapark.sync.waitq"

local new_table = require "table.new"
local as_given = require("lunapark.core.show").given

local C = ffi.C
local rest, failed = core.rest, core.failed
local view, check_seconds, deadline_in, heard = base.view, base.check_seconds, base.deadline_in, base.heard
local early = base.early
local handed, slot_of_self, wait = waitq.handed, waitq.slot, waitq.wait
local getmetatable, type, error, floor = getmetatable, type, error, math.floor

local chan = {}

---@class lunapark.Chan
---@field private cap integer    slots of the buffer
---@field private pos integer    the oldest value is at self[pos]
---@field private count integer  values in the buffer
---@field private closed boolean
---@field private receivers lunapark.Waitq
---@field private senders lunapark.Waitq
local Chan = {}
Chan.__index = Chan
Chan.__name = "lunapark.Chan"

local MAX_CAP = 2 ^ 31

--- How many values the buffer of a new channel holds. Raises if n is no such number.
---@param n? integer
---@return integer
function chan.cap(n)
  if n == nil then return 0 end
  if type(n) ~= "number" or not (n >= 0 and n < MAX_CAP) or n % 1 ~= 0 then
    error("chan: n must be a whole number, 0 or more, got " .. as_given(n), 3)
  end
  return n
end

--- A channel with a buffer of n values.
---@param n? integer  0 (the default): unbuffered
---@return lunapark.Chan
function chan.chan(n)
  n = chan.cap(n)
  local self = n > 0 and new_table(n < 1024 and n or 1024, 8) or {}
  self.cap, self.pos, self.count, self.closed = n, 0, 0, false
  self.receivers, self.senders = waitq.new(), waitq.new()
  return setmetatable(self, Chan)
end

local function check_self(self, what)
  if getmetatable(self) ~= Chan then error(what .. ": ch must be a channel, got " .. type(self), 3) end
end

---@private
function Chan:__tostring()
  return ("channel of %d (%d%s)"):format(self.cap, self.count, self.closed and ", closed" or "")
end

-- ---- operations that do not wait -----------------------------------------------------------------------

local function append(self, v)
  local count, cap = self.count, self.cap
  local at = self.pos + count
  if at >= cap then at = at - cap end
  self[at] = v
  self.count = count + 1
end

-- Ends the wait of the first sender: true and its value. false: no G waits any more.
local function take_from(senders)
  local slot = C.host_queue_fire(senders, 1)
  if slot < 0 then return false end
  local v = handed[slot]
  handed[slot] = false
  local index = view.index
  if index > 0 then return true, v[index] end -- a select
  return true, v
end

--- Receives without a wait. false: it would have to wait. true, the value and true; or true, nil and false: the channel
--- is closed and empty.
---@return boolean ready
---@return any v
---@return boolean? ok
local function try_recv(self)
  local count, senders = self.count, self.senders
  if count > 0 then
    local at = self.pos
    local v = self[at]
    self[at] = nil
    at = at + 1
    self.pos = at < self.cap and at or 0
    self.count = count - 1
    if senders.n > 0 then
      local taken, next_v = take_from(senders)
      if taken then append(self, next_v) end
    end
    return true, v, true
  end
  if senders.n > 0 then
    local taken, v = take_from(senders)
    if taken then return true, v, true end
  end
  if self.closed then return true, nil, false end
  return false
end
Chan.try_recv = try_recv

--- Sends without a wait. false: it would have to wait. Else true and whether the channel is open.
---@return boolean ready
---@return boolean? ok
local function try_send(self, v)
  if self.closed then return true, false end
  local receivers = self.receivers
  if receivers.n > 0 then
    local slot = C.host_queue_fire(receivers, 1)
    if slot >= 0 then
      handed[slot] = v
      return true, true
    end
  end
  if self.count < self.cap then
    append(self, v)
    return true, true
  end
  return false
end
Chan.try_send = try_send

---@private
function Chan:can_recv()
  return self.count > 0 or self.senders.n > 0 or self.closed
end

---@private
function Chan:can_send()
  return self.count < self.cap or self.receivers.n > 0 or self.closed
end

-- ---- operations that may ---------------------------------------------------------------------------------

local function wait_recv(self, s)
  local at = 0
  if s then
    if s <= 0 then return nil, "timeout" end
    at = deadline_in(s)
    local ready, v, ok = try_recv(self)
    if ready then
      if ok then return v end
      return nil, "closed"
    end
  end
  local slot = slot_of_self()
  local answer = wait(self.receivers, at)
  if answer == 1 then
    local v = handed[slot]
    handed[slot] = false
    return v
  end
  if answer == 0 then return nil, "closed" end
  return heard(answer)
end

--- Takes the next value. Waits for it if there is none, unless s is 0 or less.
---@param s? number  seconds; without it as long as the G's own deadline allows
---@return any v
---@return string? err  nil: v was received, though v may be nil; "closed": the channel is closed and empty; "timeout",
---"canceled"
function Chan:recv(s)
  if getmetatable(self) ~= Chan then check_self(self, "recv") end
  if s ~= nil then check_seconds(s, "recv") end
  if early and not (s and s <= 0) then early() end
  local ready, v, ok = try_recv(self)
  if not ready then return wait_recv(self, s) end
  if not ok then return nil, failed("closed", self) end
  return v
end

local function wait_send(self, v, s)
  local at = 0
  if s then
    if s <= 0 then return nil, "timeout" end
    at = deadline_in(s)
    local ready, ok = try_send(self, v)
    if ready then
      if ok then return true end
      return nil, "closed"
    end
  end
  local slot = slot_of_self()
  handed[slot] = v
  local answer = wait(self.senders, at)
  if answer == 1 then return true end
  handed[slot] = false
  if answer == 0 then return nil, "closed" end
  return heard(answer)
end

--- Sends v. Waits until it is received or there is room for it in the buffer, unless s is 0 or less.
---@param v any
---@param s? number  seconds; without it as long as the G's own deadline allows
---@return true|nil
---@return string? err  "closed", also if the channel is closed during the wait; "timeout", "canceled": v was not sent
function Chan:send(v, s)
  if getmetatable(self) ~= Chan then check_self(self, "send") end
  if s ~= nil then check_seconds(s, "send") end
  if early and not (s and s <= 0) then early() end
  local ready, ok = try_send(self, v)
  if not ready then return wait_send(self, v, s) end
  if not ok then return nil, failed("closed", self) end
  return true
end

--- Closes the channel. The values in its buffer can still be received. Gs that wait to send or to receive get "closed".
---@return true|nil
---@return string? err  "closed": it was closed before
function Chan:close()
  check_self(self, "close")
  if self.closed then return nil, "closed" end
  self.closed = true
  local receivers, senders = self.receivers, self.senders
  while receivers.n > 0 do
    C.host_queue_fire(receivers, 0)
  end
  while senders.n > 0 do
    C.host_queue_fire(senders, 0)
  end
  return true
end

--- How many values are in the buffer.
---@return integer
function Chan:len()
  check_self(self, "len")
  return self.count
end

--- The iterator of `iter`, also of shared channels.
---@param self lunapark.Chan|lunapark.SharedChan
---@return any
function chan.next_value(self)
  local v, err = self:recv()
  if v == nil and err == nil then error("iter: a nil was received; recv tells it from the end", 2) end
  return v
end

--- For `for v in ch:iter() do`: receives until the channel is closed and empty. The G's deadline or a cancellation ends
--- the loop, too; the G's next wait tells which. A nil that is received raises, since it would end the loop.
---@return fun(self: lunapark.Chan): any
---@return lunapark.Chan
function Chan:iter()
  check_self(self, "iter")
  return chan.next_value, self
end

-- ---- select ----------------------------------------------------------------------------------------------

-- A linear congruential generator; the low bits of its states are the poorer ones.
local state = (view.seed ~= 0 and view.seed or tonumber(base.real_ns())) % 2147483646 + 1

--- Sets the seed of select's choices, so that they can be repeated.
---@param n integer
---@return integer  the seed with which they would have gone on
function chan.seed(n)
  local before = state - 1
  state = n % 2147483646 + 1
  return before
end

local function random(n)
  state = state * 48271 % 2147483647
  return state % n
end

local function bad_case(i, case)
  if type(case) ~= "table" then
    error(("select: case %d must be a table {ch, op[, v]}, got %s"):format(i, type(case)), 5)
  end
  local ch, op = case[1], case[2]
  if op ~= "recv" and op ~= "send" then
    error(('select: op of case %d must be "recv" or "send", got %s'):format(i, tostring(op)), 5)
  end
  error(("select: ch of case %d must be a channel, got %s"):format(i, type(ch)), 5)
end

-- Whether the case is ready.
local function can(i, case)
  if type(case) ~= "table" then bad_case(i, case) end
  local ch, op = case[1], case[2]
  if op ~= "recv" and op ~= "send" then bad_case(i, case) end
  if not ch then return false end
  if getmetatable(ch) ~= Chan and (type(ch) ~= "table" or not ch.can_recv) then bad_case(i, case) end
  if op == "recv" then return ch:can_recv() end
  return ch:can_send()
end

local function try_case(case)
  local ch = case[1]
  if not ch then return false end
  if case[2] == "recv" then return ch:try_recv() end
  local done, ok = ch:try_send(case[3])
  return done, nil, ok
end

-- Does one of the cases that are ready, chosen at random: its index, value, ok. nil: none is ready.
local function try(cases, n)
  local found, ready = 0, 0
  for i = 1, n do
    if can(i, cases[i]) then
      ready = ready + 1
      if ready == 1 or random(ready) == 0 then found = i end
    end
  end
  if ready == 0 then return nil end
  for _ = 1, n do
    local done, v, ok = try_case(cases[found])
    if done then return found, v, ok end
    found = found < n and found + 1 or 1 -- somebody in another VM was faster, or there is no room for so large a value
  end
end

local function join_shared(ops, chans, values, n)
  for i = 1, n do
    local ch = chans[i]
    if ch and getmetatable(ch) ~= Chan then ch:join(i, ops[i], values[i]) end
  end
end

local function join_own(ops, chans, n)
  for i = 1, n do
    local ch = chans[i]
    if ch and getmetatable(ch) == Chan then C.host_queue_join(ops[i] == "recv" and ch.receivers or ch.senders, i) end
  end
end

local function cases_of(ops, chans, values, n)
  local cases = new_table(n, 0)
  for i = 1, n do
    cases[i] = { chans[i], ops[i], values[i] }
  end
  return cases
end

local function wait_any(cases, n, s)
  local barrier = core.barrier()
  if barrier then error(barrier, 2) end
  local at, slot = deadline_in(s), slot_of_self()
  -- Copies: the user's tables may change during the wait.
  local ops, chans, values = new_table(n, 0), new_table(n, 0), new_table(n, 0)
  local shared = false
  for i = 1, n do
    local case = cases[i]
    local ch = case[1] or false
    chans[i], ops[i], values[i] = ch, case[2], case[3]
    if ch and getmetatable(ch) ~= Chan then shared = true end
  end
  while true do
    if C.host_queue_prepare(n) < 0 then error "not enough memory" end
    if shared then join_shared(ops, chans, values, n) end
    local i, v, ok = try(cases, n)
    if i then
      if shared then C.host_queue_leave() end
      return i, v, ok
    end
    handed[slot] = values
    join_own(ops, chans, n)
    local answer = rest(at)
    v = handed[slot]
    handed[slot] = false
    if type(answer) == "number" then
      i = floor(answer / 2)
      if answer % 2 == 0 then return i, nil, false end
      if ops[i] == "send" then return i, nil, true end
      if getmetatable(chans[i]) == Chan then return i, v, true end
      return i, chans[i]:taken(), true
    end
    if answer then return heard(answer) end
    cases = cases_of(ops, chans, values, n)
  end
end

-- The cases, with channels in place of lp.retired.
local function resolved(cases, n)
  local retire = require "lunapark.core.retire"
  local found = new_table(n, 0)
  for i = 1, n do
    local case = cases[i]
    if type(case) == "table" and case[1] == retire.retired then
      case = { retire.channel(chan.chan), case[2], case[3] }
    end
    found[i] = case
  end
  return found
end

--- Waits until one of the cases can be done, and does it. If several can be done, it does a random one of them.
---
---   local i, v, ok = lp.select { { jobs, "recv" }, { results, "send", r }, timeout = 1 }
---
--- A closed channel is always ready, for "send" too. A case whose channel is nil (or false) is never ready. Channels
--- that VMs share (lunapark.shared) may stand beside those of this VM; a value that such a channel can't take raises.
--- `{ lp.retired, "recv" }` is ready when this VM is retired: by a reload or a stop.
---@param cases table  cases {ch, "recv"} and {ch, "send", v}; timeout = seconds, 0: does not wait
---@return integer|nil index  of the case that was done
---@return any v   the value that was received; without an index "timeout" or "canceled"
---@return boolean ok  false: the channel is closed
function chan.select(cases)
  if type(cases) ~= "table" then error("select: cases must be a table, got " .. type(cases), 2) end
  local s = cases.timeout
  if s ~= nil and (type(s) ~= "number" or s ~= s) then
    error("select: timeout must be a number of seconds, got " .. as_given(s), 2)
  end
  if early and not (s and s <= 0) then early() end
  local n = #cases
  for i = 1, n do
    local case = cases[i]
    if type(case) == "table" and type(case[1]) == "function" then
      cases = resolved(cases, n)
      break
    end
  end
  local i, v, ok = try(cases, n)
  if i then return i, v, ok end
  if s and s <= 0 then return nil, "timeout" end
  return wait_any(cases, n, s)
end

return chan
