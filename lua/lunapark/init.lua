--- Gs: starting them, waiting, waking.
--
-- Every function here that waits lets the other Gs of the VM run, and nothing else: between two waits
-- a G has its VM for itself, so plain Lua code needs no locks.
--
-- A G's handle is a table. What its coroutine is to C, `slot`, is used again by later Gs, so a handle
-- is alive only while the table of live handles has it in its slot. That table belongs to the VM, not to
-- this module: busted loads modules anew for each spec file.
--
-- `ready` and `park` meet in the handle. ready leaves its values there and wakes the G if it is in park;
-- park takes what is there before it waits. Both run in the same VM, so nothing can come in between,
-- and a ready that comes first is not lost.
--
-- A wakeup tells nothing: whoever waits looks at what it waits for, and waits again. So a note that somebody
-- left behind (a wait that raised because it cannot wait there) does no harm.
--
-- Which Gs end together, and whom a cancellation reaches: scope.lua.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local base = require "lunapark.base"
local scope = require "lunapark.scope"

local C = ffi.C
local now_ns, deadline_in, check_seconds, heard = base.now_ns, base.deadline_in, base.check_seconds, base.heard
local rethrow, real_ns, early = base.rethrow, base.real_ns, base.early
local wait = core.wait
local reasons = core.reasons
local view, live = base.view, base.live
local int32 = ffi.typeof("int32_t")

local registry = debug.getregistry()

local lp = {}

---@class lunapark.G
---@field private slot integer
---@field private serial number     which run of that slot it is
---@field private [1] integer       slot and serial once more, for C (core.ready)
---@field private [2] number
---@field private parked string?    why it waits in lp.park
---@field private joiners lunapark.G[]?
---@field private results table?    what fn returned, with n; when it has ended well
---@field private err string?       why it ended, with traceback
---@field private report_at number?  when its error is logged unless somebody joins
---@field private reported boolean?  its error was logged
---@field private where string?     where it was started; nil: not by lp.go
---@field private scope lunapark.Scope?  where the Gs that it starts belong
---@field private prev lunapark.G?  its neighbours in the scope that it belongs to
---@field private next lunapark.G?
local G = registry["lunapark.G"] or {}
registry["lunapark.G"] = G
G.__index = G
G.__name = "lunapark.G"
core.set_handles(G)

---@private
function G:__tostring()
  return ("G %d.%d (%s)"):format(self.slot, self.serial, self.where or "a request")
end

local function is_g(v)
  return type(v) == "table" and getmetatable(v) and getmetatable(v).__name == G.__name
end

local function check_g(v, what)
  if not is_g(v) then error(what .. ": g must be a G, got " .. type(v), 3) end
end

--- Monotonic seconds: for measuring, not for dates. In testing.virtual those of its clock.
---@return number
function lp.now()
  return now_ns() / 1e9
end

--- The running G.
---@return lunapark.G
function lp.self()
  local slot = view.slot
  local g = live[slot]
  if g and g.serial == view.serial then return g end
  g = setmetatable({ slot, view.serial, slot = slot, serial = view.serial }, G)
  live[slot] = g
  return g
end
local current = lp.self

local function is_live(g)
  return not g.results and not g.err and C.host_serial(g.slot) == g.serial
end

--- Lets the other ready Gs of this VM, and those of others, run first.
---@return true|nil
---@return string? err  "timeout", "canceled": the others did run
function lp.yield()
  core.yield()
  if C.host_canceled() ~= 0 then return heard "canceled" end
  local limit = C.host_deadline()
  if limit ~= 0 and limit <= now_ns() then return nil, "timeout" end
  return true
end

--- Waits `s` seconds. The G's own deadline or a cancellation may end it sooner.
---@param s number  seconds; 0 or less lets the other Gs run once
---@return true|nil
---@return string? err  "timeout", "canceled"
function lp.sleep(s)
  check_seconds(s, "sleep")
  if s <= 0 then return lp.yield() end
  if early then early() end
  local at = deadline_in(s)
  local err
  repeat err = wait(reasons.sleep, at) until err
  if err == "timeout" then
    local limit = C.host_deadline()
    if limit == 0 or limit > at then return true end
  end
  return heard(err)
end

local park, again = core.park, core.again

local function unparked(reason, ...)
  local first, err = ...
  if first ~= again then return ... end
  if err then return heard(err) end
  return lp.park(reason) -- woken by something else
end

local function parked_for(g, ...)
  g.parked = nil
  return ...
end

--- Waits until somebody calls `lp.ready(g, ...)` for the running G, and returns those values. A ready
--- that came before is not lost.
---@param reason? string  shown in dumps
---@return any ...
function lp.park(reason)
  if early then early() end
  if reason == nil then return unparked(nil, park()) end
  if type(reason) ~= "string" then error("park: reason must be a string, got " .. type(reason), 2) end
  local g = current()
  g.parked = reason
  return parked_for(g, unparked(reason, park()))
end

--- Wakes a G from `lp.park`, now or when it gets there. Only the latest call before that counts.
---@type fun(g: lunapark.G, ...: any): boolean  the values are what its park returns; false if g has ended
lp.ready = core.ready

-- Told of what is made, under `lunapark test` only: testing/leaks.lua.
local note = registry["lunapark.note"]

-- ---- starting and ending -------------------------------------------------------------------------

-- Errors that nobody has joined yet, in the order of their times: pending[first .. last] are Gs.
local pending = registry["lunapark.unreported"] or { first = 1, last = 0, reporting = false }
registry["lunapark.unreported"] = pending

local function report(g)
  if not g.report_at then return end
  g.report_at, g.reported = nil, true
  local msg = ("%s, ended with an error: %s"):format(scope.describe(g), tostring(g.err))
  C.host_log(3, msg, #msg)
end

--- Logs the errors of Gs that nobody has joined; the host calls it before the process ends.
function lp.report_errors()
  for i = pending.first, pending.last do report(pending[i]) end
end

-- One G for all of them. It has not the deadline of the G that failed first.
local function reporter()
  C.host_set_deadline(0)
  while pending.first <= pending.last do
    local g = pending[pending.first]
    while g.report_at and g.report_at > real_ns() do wait(reasons.sleep, g.report_at) end
    report(g)
    pending[pending.first] = nil
    pending.first = pending.first + 1
  end
  pending.reporting = false
end

-- Whoever wants the error has a second to call join.
local function report_later(g)
  g.report_at = real_ns() + 1e9
  if note then note("error", g) end
  pending.last = pending.last + 1
  pending[pending.last] = g
  if not pending.reporting then
    pending.reporting = true
    C.host_bubble_put_out(core.go(reporter))
  end
end

local function finish(g, ok, ...)
  if live[g.slot] == g then live[g.slot] = nil end
  if ok then
    g.results = { n = select("#", ...), ... }
  else
    g.err = (...)
  end
  local taken = g.scope and scope.leave(g, ok, g.err)
  if not ok and not taken and (not g.joiners or #g.joiners == 0) then report_later(g) end
  if note then note("ended", g) end
  local joiners = g.joiners
  if not joiners then return end
  for i = 1, #joiners do C.host_wake(joiners[i].slot) end
end

-- From C: the G of this slot has ended without our knowing, by a yield that nobody resumes.
registry["lunapark.lost"] = function(slot, err)
  local g = live[slot]
  if not g or not is_live(g) then return false end
  finish(g, false, err)
  return true
end

-- The message handler of Gs.
local function traceback(err)
  if type(err) == "table" and not getmetatable(err) or type(err) == "userdata" then return err end
  local trace = base.take_trace()
  if trace then return tostring(err) .. trace end
  return debug.traceback(tostring(err), 2)
end

local function body(g, fn, ...)
  finish(g, xpcall(fn, traceback, ...))
end

-- "file:line" of the Lua code that called into this module. Called by a function that users call.
local function place()
  local level = 3
  while true do
    local info = debug.getinfo(level, "Sl")
    if not info then return "?" end
    if info.what ~= "C" and info.currentline > 0 and not info.source:find("^@lunapark/[%w]+%.lua$") then
      return info.short_src .. ":" .. info.currentline
    end
    level = level + 1
  end
end

local function start(s, where, fn, ...)
  local g = setmetatable({ 0, 0, where = where }, G)
  local slot = core.go(body, g, fn, ...)
  local serial = C.host_serial(slot)
  g[1], g[2], g.slot, g.serial = slot, serial, slot, serial
  live[slot] = g
  if note then note("G", g) end
  if s then scope.add(s, g) end
  return g
end

scope.setup(place, start)

--- Starts fn(...) as a G of this VM. It runs when the caller waits, inherits the caller's deadline and scope,
--- and ends when fn returns. An error in it ends it alone, unless it belongs to an `lp.scope`: `join` returns it, and
--- if nobody joins within a second it is logged.
---
--- Gs that the handler of a request starts are cancelled with it, when its client goes away. When the handler has
--- returned they go on, to the handler's deadline at most.
---@param fn fun(...): ...
---@param ... any
---@return lunapark.G
function lp.go(fn, ...)
  if type(fn) ~= "function" then error("go: fn must be a function, got " .. type(fn), 2) end
  return start(scope.of(current()), place(), fn, ...)
end

--- Starts fn(...) as `lp.go` does, but with neither the caller's deadline nor its scope: for what is to go on when
--- the request or the scope that it was started from is over.
---@param fn fun(...): ...
---@param ... any
---@return lunapark.G
function lp.detach(fn, ...)
  if type(fn) ~= "function" then error("detach: fn must be a function, got " .. type(fn), 2) end
  local g = start(nil, place(), fn, ...)
  C.host_detach(g.slot)
  return g
end

--- Runs fn(s), where `s:go(f, ...)` starts Gs, and returns when all Gs of the scope have ended: those, the ones that fn
--- started by `lp.go`, and all that they started, except by `lp.detach`. May wait, longer than the caller's deadline
--- if need be: the Gs have that deadline, too, but it is they who end.
---
--- The first error, of a G or of fn, ends the waits of all others (they answer nil, "canceled"), those of fn included,
--- and is raised here when they have ended: a string has the traceback of where it was raised and names the G.
--- Cancelling the G that calls lp.scope cancels the scope's Gs. Between two waits nothing is ended.
---@param fn fun(s: lunapark.Scope): ...
---@return any ...  what fn returned
function lp.scope(fn)
  if type(fn) ~= "function" then error("scope: fn must be a function, got " .. type(fn), 2) end
  return scope.run(current(), place(), traceback, fn)
end

local function leave_joiners(g, me)
  local joiners = g.joiners
  for i = 1, #joiners do
    if joiners[i] == me then return table.remove(joiners, i) end
  end
end

--- Waits until the G has ended.
---@param s? number  seconds; without it as long as the caller's deadline allows
---@return any ...  what its function returned; nil and the error with its traceback if it raised; nil and
---"timeout" or "canceled" if it has not ended
function G:join(s)
  check_g(self, "join")
  check_seconds(s, "join", true)
  local me = current()
  if self == me then error("join: a G can't wait for its own end", 2) end
  if early and not (s and s <= 0) then early() end
  if not self.results and not self.err then
    if not is_live(self) then return nil, "ended" end
    self.joiners = self.joiners or {}
    table.insert(self.joiners, me)
    local at = deadline_in(s)
    local err
    repeat err = wait(reasons.join, at) until err or self.results or self.err
    if not self.results and not self.err then
      leave_joiners(self, me)
      return heard(err)
    end
  end
  self.report_at = nil
  if self.err then return nil, self.err end
  return unpack(self.results, 1, self.results.n)
end

--- Ends the wait that the G is in, or its next one: it answers nil, "canceled", and so does every later
--- one, at once. So do those of the Gs in the scopes that it stands in, and in a request of all that it started.
--- Nothing is ended between two waits.
function G:cancel()
  check_g(self, "cancel")
  if not is_live(self) then return end
  C.host_cancel(self.slot)
  scope.cancel(self)
end

local function leave_deadline(old, ok, ...)
  C.host_set_deadline(old)
  if not ok then rethrow((...)) end
  return ...
end

--- Runs fn(...) with a deadline: from then on every wait in it answers nil, "timeout". Of nested
--- deadlines the nearest counts. Gs that fn starts inherit it.
---@param s number|nil  seconds from now; nil: none of its own
---@param fn fun(...): ...
---@param ... any
---@return any ...  what fn returned
function lp.deadline(s, fn, ...)
  check_seconds(s, "deadline", true)
  if type(fn) ~= "function" then error("deadline: fn must be a function, got " .. type(fn), 2) end
  if not s then return fn(...) end
  local old, at = C.host_own_deadline(), deadline_in(s)
  C.host_set_deadline(old ~= 0 and old < at and old or at)
  return leave_deadline(old, xpcall(fn, base.note_trace, ...))
end

-- ---- figures ------------------------------------------------------------------------------------------

local stats_t = ffi.typeof("rt_stats")
local p_stats_t = ffi.typeof("rt_p_stats")
local p_status = { [0] = "idle", "running", "foreign", "syscall", "dead" }

--- What the process does: Gs by state, Ps with what each has done, Ms, steals, polls, timers, memory; VMs that
--- serve, those that are stuck, those that serve and are spare, all that there are, which may be such as load and such
--- as a reload has replaced; stacks held by Gs that wait in the midst of a C function; sockets that
--- the collector has closed since nobody did; lines that were logged, those of them that wait to be written, and lines
--- that were lost; channels that VMs share.
---@return table
function lp.stats()
  local s, p = stats_t(), p_stats_t()
  C.rt_read_stats(s)
  local t = {
    gs = {
      runnable = s.g_runnable, running = s.g_running, syscall = s.g_syscall, waiting = s.g_waiting,
      dead = s.g_dead,
    },
    procs = s.procs, idle_ps = s.idle_ps, ms = s.ms, idle_ms = s.idle_ms, spinning_ms = s.spinning_ms,
    switches = tonumber(s.switches), steals = tonumber(s.steals), polls = tonumber(s.polls),
    poll_events = tonumber(s.poll_events), timers = tonumber(s.timers),
    timers_fired = tonumber(s.timers_fired), handoffs = tonumber(s.handoffs), fds = tonumber(s.fds),
    memory = {
      lua = collectgarbage("count") * 1024, mapped = tonumber(view.mapped), stacks = tonumber(s.stack_bytes),
    },
    vm = view.vm_id, lua_gs = view.n_live,
    vms = C.host_vms(0), stuck_vms = C.host_vms(1), spare_vms = C.host_vms(2), all_vms = C.host_vms(3),
    away = s.away,
    held_stacks = s.held_stacks, forgotten = C.host_forgotten(), shared_chans = C.host_chans(),
    log = { lines = C.host_log_count(0), waiting = C.host_log_count(2), lost = C.host_log_count(1) },
    ps = {},
  }
  for id = 0, s.procs - 1 do
    C.rt_read_p_stats(int32(id), p)
    t.ps[id + 1] = {
      status = p_status[p.status], runq = p.runq, switches = tonumber(p.switches),
      steals = tonumber(p.steals), polls = tonumber(p.polls), poll_events = tonumber(p.poll_events),
      fds = tonumber(p.fds), requests = tonumber(C.host_p_requests(id)),
    }
  end
  return t
end

-- ---- what else lp has: each module is loaded when one of its functions is first used -----------------------

local module_of = {
  chan = "chan", select = "chan",
  mutex = "sync", rwlock = "sync", semaphore = "sync", waitgroup = "sync", cond = "sync", once = "sync",
  after = "timer", every = "timer",
  offload = "offload", retired = "retire", singleton = "singleton",
}

return setmetatable(lp, {
  __index = function(_, name)
    if name == "signal" then
      lp.signal = require "lunapark.signal"
      return lp.signal
    end
    local module = module_of[name]
    if not module then return end
    local fn = require("lunapark." .. module)[name]
    lp[name] = fn
    return fn
  end,
})
