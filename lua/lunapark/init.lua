--- Gs: starting them, waiting, waking.
--
-- A function that waits lets the other Gs of its VM run. Between two waits a G has its VM for itself, so plain Lua code
-- needs no locks.
--
-- A G's handle is a table. C knows the G's coroutine by its slot. Later Gs use the slot again, so a handle is alive
-- only while the table of live handles has it in its slot. That table belongs to the VM and not to this module: busted
-- loads modules anew for each spec file.
--
-- `ready` and `park` meet in the handle. `ready` leaves its values there and wakes the G if the G is in `park`. `park`
-- takes the values that are there before it waits. Both run in one VM, so nothing comes in between, and a `ready` that
-- comes first is not lost.
--
-- A wakeup carries no meaning: a G that wakes looks at what it waits for, and waits again if that is not there. So a
-- wakeup that is left over from a wait that raised does no harm.
--
-- core/scope.lua says which Gs end together and which Gs a cancellation reaches. host/vm/spin.c ends a G whose waits
-- fail
-- again and again for one reason.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local base = require "lunapark.core.base"
local scope = require "lunapark.core.scope"
local show = require "lunapark.core.show"

local C = ffi.C
local now_ns, deadline_in, check_seconds, heard = base.now_ns, base.deadline_in, base.check_seconds, base.heard
local rethrow, real_ns, early = base.rethrow, base.real_ns, base.early
local wait, failed = core.wait, core.failed
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
---@field private joiners lunapark.G[]?  Gs that wait in join
---@field private results table?    what fn returned, with n; when it has ended well
---@field private err string?       why it ended, with traceback
---@field private report_at number?  when its error is logged unless somebody joins
---@field private route string?     for that: the request in which it was started
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

--- Monotonic seconds: for measuring, not for dates. Inside testing.virtual they are those of the virtual clock.
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

--- Lets the other ready Gs run first, in this VM and in other VMs.
---@return true|nil
---@return string? err  "timeout", "canceled": also after the other Gs have run
function lp.yield()
  core.yield()
  if C.host_canceled() ~= 0 then return heard(failed "canceled") end
  local limit = C.host_deadline()
  if limit ~= 0 and limit <= now_ns() then return nil, failed "timeout" end
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

local park, again, core_ready = core.park, core.again, core.ready
local TIMEOUT = C.HOST_PARK_TIMEOUT

local function unparked(reason, ...)
  if (...) ~= again then return ... end
  local how = C.host_park_end()
  if how == 0 then return lp.park(reason) end -- woken by something else
  return heard(how == TIMEOUT and "timeout" or "canceled")
end

local function parked_for(g, ...)
  g.parked = nil
  return ...
end

--- Waits until `lp.ready(g, ...)` is called with the running G, and returns the values of that call. A call that came
--- before is not lost.
---@param reason? string  shown in dumps
---@return any ...
function lp.park(reason)
  if early then early() end
  if reason == nil then return unparked(nil, park()) end
  if type(reason) ~= "string" then error("park: reason must be a string, got " .. type(reason), 2) end
  if C.host_park_begin() == 0 then return end
  local g = current()
  g.parked = reason
  return parked_for(g, unparked(reason, park()))
end

-- Without variable arguments, unlike lp.ready, so LuaJIT compiles this function for itself: then it is compiled code
-- also where the caller is not, as what follows a wait often is. Interpreted, it costs twice what core.ready does.
local function ready(g)
  if getmetatable(g) == G then return C.host_ready(g[1], g[2]) ~= 0 end
  return core_ready(g)
end

--- Wakes a G from `lp.park`, now or when the G gets there. Of several calls before that the latest counts.
---@param g lunapark.G
---@param ... any  what `lp.park` returns
---@return boolean alive  false: g has ended
function lp.ready(g, ...)
  if select("#", ...) == 0 then return ready(g) end
  return core_ready(g, ...)
end

-- Under `lunapark test` this function is told of each G that is made: testing/leaks.lua.
local note = registry["lunapark.note"]

-- ---- starting and ending -------------------------------------------------------------------------

-- Errors that nobody has joined yet, in the order of their times: pending[first .. last] are Gs.
local pending = registry["lunapark.unreported"] or { first = 1, last = 0, reporting = false }
registry["lunapark.unreported"] = pending

local function report(g)
  if not g.report_at then return end
  g.report_at, g.reported = nil, true
  local msg = ("%s%s, ended with an error: %s"):format(scope.describe(g), g.route, show.value(g.err))
  C.host_log(3, msg, #msg)
end

--- Logs the errors of Gs that nobody has joined; the host calls it before the process ends.
function lp.report_errors()
  for i = pending.first, pending.last do report(pending[i]) end
end

-- One G reports all of them. The deadline of the G that failed first does not count for it. In a VM that ends the
-- errors are reported at once, since no G of it will join.
local function reporter()
  C.host_set_deadline(0)
  while pending.first <= pending.last do
    local g = pending[pending.first]
    while g.report_at and g.report_at > real_ns() and wait(reasons.sleep, g.report_at) ~= "canceled" do end
    report(g)
    pending[pending.first] = nil
    pending.first = pending.first + 1
  end
  pending.reporting = false
end

-- A G that wants the error has a second to call join.
local function report_later(g)
  g.report_at = real_ns() + 1e9
  local route = ffi.string(C.host_route())
  g.route = route ~= "" and ", in " .. route or ""
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
  local mt = getmetatable(err)
  -- The answer of a request: http/answer.lua.
  if type(mt) == "table" and mt.__name == "lunapark.Abort" then return err end
  if type(err) == "table" and not getmetatable(err) or type(err) == "userdata" then return err end
  local trace = base.take_trace()
  if trace then return show.value(err) .. trace end
  return debug.traceback(show.value(err), 2)
end

local function body(g, fn, ...)
  finish(g, xpcall(fn, traceback, ...))
end

-- What Gs that host_go has started are to run, by slot.
local begins = registry["lunapark.begins"] or {}
registry["lunapark.begins"] = begins

core.set_body(function(slot)
  local fn = begins[slot]
  begins[slot] = nil
  if fn then body(live[slot], fn) end
end)

-- "file:line" of the Lua code that called into our modules; where none has, of our outermost. Called by a function that
-- users call.
local function place()
  local level, found = 3, "?"
  while true do
    local info = debug.getinfo(level, "Sl")
    if not info then return found end
    if info.what ~= "C" and info.currentline > 0 then
      found = info.short_src .. ":" .. info.currentline
      if info.source:sub(1, 10) ~= "@lunapark/" then return found end
    end
    level = level + 1
  end
end

-- C's numbers of the places where Gs were started, by place.
local places = {}

local function start(s, where, fn, ...)
  local g = setmetatable({ 0, 0, where = where }, G)
  local number = places[where]
  if not number then
    number = C.host_label(where, #where)
    places[where] = number ~= 0 and number or nil
  end
  local slot = select("#", ...) == 0 and C.host_go(number) or -1
  if slot >= 0 then
    begins[slot] = fn
  else
    slot = core.go(body, g, fn, ...)
    C.host_set_place(slot, number)
  end
  local serial = view.started
  g[1], g[2], g.slot, g.serial = slot, serial, slot, serial
  live[slot] = g
  if note then note("G", g) end
  if s then scope.add(s, g) end
  return g
end

scope.setup(place, start)

--- Starts fn(...) as a G of this VM. The G runs when the caller waits, inherits the caller's deadline and scope, and
--- ends when fn returns. An error ends this G alone, unless the G belongs to an `lp.scope`. `join` returns the error;
--- an error that is not joined within a second is logged.
---
--- When the client of a request goes away, the Gs that its handler has started are cancelled with the handler. When the
--- handler has returned, these Gs go on, to the handler's deadline at most.
---@param fn fun(...): ...
---@param ... any
---@return lunapark.G
function lp.go(fn, ...)
  if type(fn) ~= "function" then error("go: fn must be a function, got " .. type(fn), 2) end
  return start(scope.of(current()), place(), fn, ...)
end

--- Starts fn(...) as a G of this VM with neither the caller's deadline nor its scope: for work that goes on when the
--- caller's request or scope is over. Otherwise the G is as one that `lp.go` starts.
---@param fn fun(...): ...
---@param ... any
---@return lunapark.G
function lp.detach(fn, ...)
  if type(fn) ~= "function" then error("detach: fn must be a function, got " .. type(fn), 2) end
  local g = start(nil, place(), fn, ...)
  C.host_detach(g.slot)
  return g
end

--- Runs fn(s) and returns when all Gs of the scope have ended. To the scope belong the Gs that `s:go(f, ...)` starts,
--- the Gs that fn starts by `lp.go`, and all Gs that these start, except by `lp.detach`. The scope's Gs have the
--- caller's deadline, too; `lp.scope` waits for their end even if that takes longer than the deadline.
---
--- The first error, of a G or of fn, ends the waits of the other Gs and of fn: they answer nil, "canceled". When all
--- have ended, `lp.scope` raises that error; a string gets the traceback of where it was raised and the name of its G.
--- Cancelling the G that calls `lp.scope` cancels the scope's Gs. Nothing is ended between two waits.
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
---@return any ...  what the G's function returned; nil and the error with its traceback if the function raised; nil
---and "timeout" or "canceled" if the G has not ended
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
    local ok, err
    repeat ok, err = pcall(wait, reasons.join, at) until not ok or err or self.results or self.err
    if not ok then
      leave_joiners(self, me)
      error(err, 0)
    end
    if not self.results and not self.err then
      leave_joiners(self, me)
      return heard(err)
    end
  end
  self.report_at = nil
  if self.err then return nil, self.err end
  return unpack(self.results, 1, self.results.n)
end

--- Ends the wait that the G is in, or else its next wait: it answers nil, "canceled". Every later wait of the G answers
--- that at once. The Gs of the scopes that the G stands in are cancelled with it; with a handler all Gs that it
--- started. Nothing is ended between two waits.
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

--- Runs fn(...) with a deadline. When the deadline has passed, every wait in fn answers nil, "timeout". Of nested
--- deadlines the nearest counts. Gs that fn starts inherit the deadline.
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
local exchanges_t = ffi.typeof("host_exchanges")
local p_status = { [0] = "idle", "running", "foreign", "syscall", "out" }

local function exchanges()
  local e = exchanges_t()
  C.host_read_exchanges(e)
  return {
    none = e.by_status[0], other = e.by_status[1], ["2xx"] = e.by_status[2], ["3xx"] = e.by_status[3],
    ["4xx"] = e.by_status[4], ["5xx"] = e.by_status[5],
    bytes_in = e.bytes_in, bytes_out = e.bytes_out, seconds = e.seconds, answer_seconds = e.answer_seconds,
  }
end

local connections_t = ffi.typeof("host_connections")

local function connections()
  local c = connections_t()
  C.host_read_connections(c)
  return {
    accepted = c.accepted, open = c.accepted - c.ended, refused = c.refused, failed = c.failed, seconds = c.seconds,
  }
end

local datagrams_t = ffi.typeof("host_datagrams")

local function datagrams()
  local d = datagrams_t()
  C.host_read_datagrams(d)
  return { received = d.received, ended = d.ended, failed = d.failed }
end

local handshakes_t = ffi.typeof("host_handshakes")

local function handshakes()
  local h = handshakes_t()
  C.host_read_handshakes(h)
  return { done = h.done, resumed = h.resumed, failed = h.failed }
end

---@class lunapark.VmStats
---@field id integer           -1: the VM of the admin listener
---@field state string         "loads", "serves", "spare", "stuck", "retires", or "alone": it is of no generation
---@field generation integer?  the number of its generation, once that serves
---@field generation_id string?
---@field ps integer           number of Ps whose requests it answers
---@field gs integer           its Gs
---@field stuck number         for so many seconds it has been stuck
---@field requests integer     that it has begun to answer
---@field running integer      of these, handlers that have not ended
---@field memory { lua: integer, mapped: integer, held: integer, limit: integer? }  bytes: Lua's heap, counted up to
---10 ms ago, or when the VM last waited; what LuaJIT has mapped for it; what the VM holds elsewhere; --vm-memory
---@field gc { steps: integer, idle: integer, full: integer, seconds: number }  the collector: steps in idle time, and
---the collections that these have ended; whole collections, after the limit was reached; the time of both

local vm_state = { [0] = "loads", "serves", "spare", "stuck", "retires", "alone" }

local function vm_of(f)
  local named = f.generation > 0
  return {
    id = f.id, state = vm_state[f.state], generation = named and f.generation or nil,
    generation_id = named and ffi.string(f.id_of) or nil, ps = f.ps, gs = f.gs, stuck = f.stuck_s,
    requests = f.begun, running = f.running,
    memory = { lua = f.heap, mapped = f.mapped, held = f.held, limit = f.limit > 0 and f.limit or nil },
    gc = { steps = f.gc_steps, idle = f.gc_idle, full = f.gc_full, seconds = f.gc_s },
  }
end

local function by_id(a, b) return a.id < b.id end

local function vms()
  local max = 32
  local figures = ffi.new("host_vm_figures[?]", max)
  local n = C.host_read_vms(figures, max)
  while n > max do -- others may be made meanwhile
    max = n * 2
    figures = ffi.new("host_vm_figures[?]", max)
    n = C.host_read_vms(figures, max)
  end
  local list = {}
  for i = 1, n do list[i] = vm_of(figures[i - 1]) end
  table.sort(list, by_id)
  return list
end

--- Figures of the process: Gs by state; Ps and what each has done; Ms; steals; polls; timers; memory of this VM; all
--- VMs in `vms`, a lunapark.VmStats each, and how many serve, are stuck or spare, and are there in all, with those that
--- load or were replaced by a reload; stacks held by Gs that wait in the midst of a C function; sockets that the
--- collector had to close; lines of the log: written, waiting, lost; channels that VMs share; exchanges (a request and
--- its answer) that are over: how many by the class of their status (`none`: no answer; `other`: from 600 on), bytes,
--- seconds in all and those until the answers began; connections of other protocols (`app:tcp`, `net.serve`): those
--- given to a handler, those of them that are open, those refused since there were too many, those that ended by an
--- error, and the seconds that ended ones took; datagrams of `net.serve("udp:...")`: those given to a handler, those
--- whose handler has ended, and those of them that ended by an error; handshakes of TLS servers: `done`, of these
--- `resumed`, and `failed`: those that were broken off, and connections that ended before.
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
      lua = collectgarbage("count") * 1024, mapped = tonumber(view.mapped), held = C.host_charged(),
      stacks = tonumber(s.stack_bytes),
    },
    vm = view.vm_id, lua_gs = view.n_live,
    vms = vms(),
    serving_vms = C.host_vms(0), stuck_vms = C.host_vms(1), spare_vms = C.host_vms(2), all_vms = C.host_vms(3),
    away = s.away,
    held_stacks = s.held_stacks, forgotten = C.host_forgotten(), shared_chans = C.host_chans(),
    log = { lines = C.host_log_count(0), waiting = C.host_log_count(2), lost = C.host_log_count(1) },
    exchanges = exchanges(),
    connections = connections(),
    datagrams = datagrams(),
    handshakes = handshakes(),
    ps = {},
  }
  for id = 0, s.all_ps - 1 do
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
  chan = "sync.chan", select = "sync.chan",
  mutex = "sync.locks", rwlock = "sync.locks", semaphore = "sync.locks", waitgroup = "sync.locks", cond = "sync.locks",
  once = "sync.locks",
  after = "sync.timer", every = "sync.timer",
  cdef = "core.cdef", offload = "core.offload", retired = "core.retire", singleton = "core.singleton",
  stop = "core.stop",
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
