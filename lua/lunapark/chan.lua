--- Channels between the Gs of one VM, and select.
--
--   local ch = lp.chan()                                 -- unbuffered: a send waits for its recv
--   lp.go(function() for i = 1, 3 do ch:send(i) end ch:close() end)
--   for v in ch:iter() do print(v) end
--
--   local i, v, ok = lp.select { { a, "recv" }, { b, "send", 5 }, timeout = 1 }
--
-- As Go's: values come out in the order they went in; who has waited longest is served first; a closed channel gives
-- out what is in its buffer and is then ready for ever. Where Go panics, failures are answers here: a send on a closed
-- channel is nil, "closed", and so is a second close. Any value may be sent, nil too: `local v, err = ch:recv()` is a
-- value when err is nil.
--
-- A buffer is a ring in ch[0 .. cap - 1]. While somebody waits to receive it is empty, while somebody waits to send it
-- is full: whoever comes hands his value straight to the other one (waitq.lua). Hence select needs no second look: when
-- its G is fired, the case is done.
--
-- select draws among the cases that are ready, each with the same chance, so none starves. Its numbers are its own,
-- not math.random's, which belong to the user.
--
-- Other things than these channels may stand in a select if they have its methods, which never wait:
--   can_recv() can_send()   -> boolean: such an operation would not wait now. A hint: try_... decides
--   try_recv()              -> false, or true, v, ok
--   try_send(v)             -> false, or true, ok
--   enqueue(w, op)          w.owner.slot is to be woken (C.host_wake) when `op`, "recv" or "send", may have become ready.
--                           They then try again; nothing is handed over
--   dequeue(w)              w does not wait any more. If it was woken and others could go on in its stead, they are woken
-- A channel of lp.chan knows more: it does the operation in the waiter's name and fires it.

local core = require "lunapark.core"
local base = require "lunapark.base"
local waitq = require "lunapark.waitq"

local new_table = require "table.new"

local check_seconds, deadline_in = base.check_seconds, base.deadline_in
local pause, OTHER = core.pause, core.reasons.other
local first, fire, push, remove, failed = waitq.first, waitq.fire, waitq.push, waitq.remove, waitq.failed
local waiter, new_waiter, wait_in = waitq.waiter, waitq.new_waiter, waitq.wait
local getmetatable, type, error = getmetatable, type, error

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

--- A channel with a buffer of n values.
---@param n? integer  0 (the default): unbuffered
---@return lunapark.Chan
function chan.chan(n)
  if n == nil then n = 0 end
  if type(n) ~= "number" or not (n >= 0 and n < MAX_CAP) or n % 1 ~= 0 then
    error("chan: n must be a whole number, 0 or more, got " .. tostring(n), 2)
  end
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

--- false: it would have to wait. Else true, the value and true, or true, nil and false: closed and empty.
---@return boolean ready
---@return any v
---@return boolean? ok
local function try_recv(self)
  if self.count > 0 then
    local at = self.pos
    local v = self[at]
    self[at] = nil
    at = at + 1
    self.pos = at < self.cap and at or 0
    self.count = self.count - 1
    local w = self.senders.head and first(self.senders)
    if w then
      append(self, w.value)
      w.value, w.ok = nil, true
      fire(w)
    end
    return true, v, true
  end
  local w = self.senders.head and first(self.senders)
  if w then
    local v = w.value
    w.value, w.ok = nil, true
    fire(w)
    return true, v, true
  end
  if self.closed then return true, nil, false end
  return false
end
Chan.try_recv = try_recv

--- false: it would have to wait. Else true and whether the channel is open.
---@return boolean ready
---@return boolean? ok
local function try_send(self, v)
  if self.closed then return true, false end
  local w = self.receivers.head and first(self.receivers)
  if w then
    w.value, w.ok = v, true
    fire(w)
    return true, true
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
  return self.count > 0 or self.closed or self.senders.head and first(self.senders) and true or false
end

---@private
function Chan:can_send()
  return self.count < self.cap or self.closed or self.receivers.head and first(self.receivers) and true or false
end

---@private
function Chan:enqueue(w, op)
  push(op == "recv" and self.receivers or self.senders, w)
end

---@private
function Chan.dequeue(_, w)
  if w.queue then remove(w) end
end

-- ---- operations that may ---------------------------------------------------------------------------------

local function wait_recv(self, s)
  if s and s <= 0 then return nil, "timeout" end
  local w, at = waiter(), deadline_in(s)
  local ready, v, ok = try_recv(self)
  if not ready then
    local err = wait_in(self.receivers, w, at)
    if err then return failed(err) end
    v, ok = w.value, w.ok
    w.value = nil
  end
  if not ok then return nil, "closed" end
  return v
end

--- Takes the next value. Waits for it if there is none, unless s is 0 or less.
---@param s? number  seconds; without it as long as the G's own deadline allows
---@return any v
---@return string? err  nil: v is a value, though it may be nil. "closed": and empty; "timeout", "canceled"
function Chan:recv(s)
  if getmetatable(self) ~= Chan then check_self(self, "recv") end
  if s ~= nil then check_seconds(s, "recv") end
  local ready, v, ok = try_recv(self)
  if not ready then return wait_recv(self, s) end
  if not ok then return nil, "closed" end
  return v
end

local function wait_send(self, v, s)
  if s and s <= 0 then return nil, "timeout" end
  local w, at = waiter(), deadline_in(s)
  local ready, ok = try_send(self, v)
  if not ready then
    w.value = v
    local err = wait_in(self.senders, w, at)
    w.value = nil
    if err then return failed(err) end
    ok = w.ok
  end
  if not ok then return nil, "closed" end
  return true
end

--- Sends v. Waits until it is received or there is room for it in the buffer, unless s is 0 or less.
---@param v any
---@param s? number  seconds; without it as long as the G's own deadline allows
---@return true|nil
---@return string? err  "closed", also when it is closed meanwhile; "timeout", "canceled": v was not sent
function Chan:send(v, s)
  if getmetatable(self) ~= Chan then check_self(self, "send") end
  if s ~= nil then check_seconds(s, "send") end
  local ready, ok = try_send(self, v)
  if not ready then return wait_send(self, v, s) end
  if not ok then return nil, "closed" end
  return true
end

--- Closes it: what is in the buffer can still be received; Gs that wait to send, or to receive, get "closed".
---@return true|nil
---@return string? err  "closed": it was
function Chan:close()
  check_self(self, "close")
  if self.closed then return nil, "closed" end
  self.closed = true
  for _, q in ipairs { self.receivers, self.senders } do
    local w = first(q)
    while w do
      w.value, w.ok = nil, false
      fire(w)
      w = first(q)
    end
  end
  return true
end

--- How many values are in the buffer.
---@return integer
function Chan:len()
  check_self(self, "len")
  return self.count
end

local function next_value(self)
  local v, err = self:recv()
  if v == nil and err == nil then error("iter: a nil was received; recv tells it from the end", 2) end
  return v
end

--- For `for v in ch:iter() do`: receives until the channel is closed and empty, or the G's deadline or a cancellation
--- ends the wait, which its next wait will tell. A nil ends no loop, but raises.
---@return fun(self: lunapark.Chan): any
---@return lunapark.Chan
function Chan:iter()
  check_self(self, "iter")
  return next_value, self
end

-- ---- select ----------------------------------------------------------------------------------------------

-- A linear congruential generator; the low bits of its states are the poorer ones.
local state = tonumber(base.now_ns() % 2147483646) + 1

--- Sets what select's choices come from, so that they can be repeated.
---@param n integer
function chan.seed(n)
  state = n % 2147483646 + 1
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

-- Does one of the cases that are ready, chosen at random: its index, value, ok. nil: there is none.
local function try(cases, n)
  local found, ready = 0, 0
  for i = 1, n do
    if can(i, cases[i]) then
      ready = ready + 1
      if ready == 1 or random(ready) == 0 then found = i end
    end
  end
  if ready == 0 then return nil end
  local case = cases[found]
  if case[2] == "recv" then
    local done, v, ok = case[1]:try_recv()
    if done then return found, v, ok end
  else
    local done, ok = case[1]:try_send(case[3])
    if done then return found, nil, ok end
  end
  return try(cases, n) -- somebody in another VM was faster
end

-- So many waiters, whose owner is w. They are kept with it.
local function waiters_of(w, n)
  local list = w.cases
  if not list then
    list = {}
    w.cases = list
  end
  for i = #list + 1, n do
    local one = new_waiter()
    one.owner, one.index = w, i
    list[i] = one
  end
  return list
end

-- From now on until dequeue_all, what stands in `cases` does not matter.
local function enqueue_all(cases, n, list)
  for i = 1, n do
    local case, one = cases[i], list[i]
    local ch, op = case[1], case[2]
    if ch then
      one.ch = ch
      if op == "send" then one.value = case[3] end
      ch:enqueue(one, op)
    end
  end
end

local function dequeue_all(n, list)
  for i = 1, n do
    local one = list[i]
    local ch = one.ch
    if ch then
      one.ch = nil
      ch:dequeue(one)
    end
  end
end

local function wait_any(cases, n, s)
  local w, at = waiter(), deadline_in(s)
  local list = waiters_of(w, n)
  while true do
    local i, v, ok = try(cases, n)
    if i then return i, v, ok end
    w.busy, w.fired = true, false
    enqueue_all(cases, n, list)
    local err = pause(OTHER, at)
    dequeue_all(n, list)
    w.busy = false
    local fired = w.fired
    i, v, ok = fired and fired.index, fired and fired.value, fired and fired.ok
    for k = 1, n do
      list[k].value = nil
    end
    if fired then return i, v, ok end
    if err then return failed(err) end
  end
end

--- Waits until one of the cases can be done and does it: a random one if there are several.
---
---   local i, v, ok = lp.select { { jobs, "recv" }, { results, "send", r }, timeout = 1 }
---
--- A closed channel is always ready, for "send" too; a case whose channel is nil (or false) never is.
---@param cases table  cases {ch, "recv"} and {ch, "send", v}; timeout = seconds, 0: does not wait
---@return integer|nil index  which case was done
---@return any v   what was received; if there is no index, "timeout" or "canceled"
---@return boolean ok  false: the channel is closed
function chan.select(cases)
  if type(cases) ~= "table" then error("select: cases must be a table, got " .. type(cases), 2) end
  local s = cases.timeout
  if s ~= nil and (type(s) ~= "number" or s ~= s) then
    error("select: timeout must be a number of seconds, got " .. tostring(s), 2)
  end
  local n = #cases
  local i, v, ok = try(cases, n)
  if i then return i, v, ok end
  if s and s <= 0 then return nil, "timeout" end
  return wait_any(cases, n, s)
end

return chan
