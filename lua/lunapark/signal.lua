--- Signals of the process: `lunapark.signal`, which is `lp.signal` too.
--
--   local hup = signal.notify "HUP"
--   lp.go(function()
--     while hup:recv() do reload() end
--   end)
--
--   local stop = signal.notify("INT", "TERM")
--   local i = lp.select { { stop, "recv" }, { jobs, "recv" } }
--
-- notify returns a channel (lp.chan) on which the names of signals arrive; the channel has a method `stop` besides. As
-- in Go, the default action of a signal is off while a receiver wants it: a script that asks for INT is not ended by
-- INT. Every receiver that wants the signal gets it. When the last of them stops, or its VM ends, the default action is
-- back. As in the kernel, a signal that comes again before its name was received is received once.
--
-- Each VM has receivers of its own: a server's app is loaded in several VMs, and each of these gets the signal.
--
-- Names are as in signal(7), "TERM" or "SIGTERM". notify raises for signals that can't be had: KILL and STOP, which no
-- process can catch; SEGV, BUS, FPE, ILL, URG and PROF, which the runtime uses; and under `serve` and `check` the
-- signals of the host: TERM and INT stop the server, HUP reloads it, USR2 upgrades it. USR1 and QUIT can be had; they
-- then do not print all Gs.

local ffi = require "ffi"
require "lunapark.cdef"
local chan = require "lunapark.sync.chan"

local C = ffi.C
local EBUSY = -16

local registry = debug.getregistry()

local signal = {}

---@class lunapark.SignalReceiver: lunapark.Chan
---@field stop fun(self: lunapark.SignalReceiver): true|nil, string?
---@field signals table<integer, string>  the signals that it still wants, by number

-- The receivers of this VM by the signals that they want. The table belongs to the VM and not to this module: busted
-- loads modules anew for each spec file.
local state = registry["lunapark.signals"]

local function vm_state()
  if state then return state end
  local handle = C.host_signals_new()
  if handle == nil then error "not enough memory" end
  state = { handle = ffi.gc(handle, C.host_signals_free), by_number = {} }
  registry["lunapark.signals"] = state
  return state
end

local function has(ch, name)
  for i = 0, ch.cap - 1 do
    if ch[i] == name then return true end
  end
  return false
end

-- From C, in the VM, between two Gs.
registry["lunapark.signaled"] = function(number)
  for ch in next, registry["lunapark.signals"].by_number[number] or {} do
    local name = ch.signals[number]
    if not has(ch, name) then ch:try_send(name) end
  end
end

-- ---- names -----------------------------------------------------------------------------------------------

local numbers

local function number_of(name, what)
  if not numbers then
    numbers = {}
    for n = 1, 64 do
      local known = C.host_signal_name(n)
      if known ~= nil then numbers[ffi.string(known)] = n end
    end
  end
  local n = type(name) == "string" and numbers[(name:gsub("^SIG", ""))]
  if n then return n end
  local got = type(name) == "string" and "'" .. name .. "'" or type(name)
  error(('%s: name must be that of a signal, as "TERM", got %s'):format(what, got), 3)
end

local hosts = {
  TERM = "it stops the server", INT = "it stops the server", HUP = "it is for a reload", USR2 = "it is for an upgrade",
}

local function refusal(rc, name)
  if rc ~= EBUSY then return name .. " can't be caught" end
  return ("%s is the host's under serve: %s"):format(name, hosts[name])
end

-- ---- wanting ---------------------------------------------------------------------------------------------

local function unwant(ch, number)
  local list = state.by_number[number]
  list[ch], ch.signals[number] = nil, nil
  if next(list) == nil then
    state.by_number[number] = nil
    C.host_signals_want(state.handle, number, 0)
  end
end

local function stop(ch)
  for number in next, ch.signals do unwant(ch, number) end
  return getmetatable(ch).close(ch)
end

--- Makes a receiver of signals: a channel on which their names arrive.
---
--- The channel has the methods of lp.chan's channels: `s:recv([seconds])` answers a name, or nil and "timeout",
--- "canceled" or, after `s:stop()`, "closed"; `s:iter()`; `lp.select { { s, "recv" } }`.
---@param ... string  names of signals, one at least
---@return lunapark.SignalReceiver
function signal.notify(...)
  local n, wanted, count = select("#", ...), {}, 0
  if n == 0 then error("notify: the name of a signal is missing", 2) end
  for i = 1, n do
    local number = number_of((select(i, ...)), "notify")
    if not wanted[number] then count = count + 1 end
    wanted[number] = ffi.string(C.host_signal_name(number))
  end
  local ch = chan.chan(count)
  ch.signals, ch.stop, ch.close = {}, stop, stop
  local vm = vm_state()
  for number, name in next, wanted do
    local rc = C.host_signals_want(vm.handle, number, 1)
    if rc < 0 then
      stop(ch)
      error("notify: " .. refusal(rc, name), 2)
    end
    vm.by_number[number] = vm.by_number[number] or {}
    vm.by_number[number][ch] = true
    ch.signals[number] = name
  end
  return ch
end

--- Stops a receiver, as `s:stop()` does: it gets no more signals. Names that arrived before can still be received, then
--- recv answers "closed". Gs that wait in recv get "closed" at once.
---@param s lunapark.SignalReceiver
---@return true|nil
---@return string? err  "closed": the receiver was stopped before
function signal.stop(s)
  if type(s) ~= "table" or type(s.signals) ~= "table" or s.stop ~= stop then
    error("stop: s must be what notify returned, got " .. type(s), 2)
  end
  return stop(s)
end

--- Takes signals from all receivers of this VM. A receiver that has none left is stopped. Signals that no other VM
--- wants have their default action again.
---@param ... string  names of signals; without any: all signals
function signal.reset(...)
  local list = {}
  for i = 1, select("#", ...) do list[i] = number_of((select(i, ...)), "reset") end
  if not state then return end
  if #list == 0 then
    for number in next, state.by_number do list[#list + 1] = number end
  end
  for _, number in ipairs(list) do
    for ch in next, state.by_number[number] or {} do
      unwant(ch, number)
      if next(ch.signals) == nil then stop(ch) end
    end
  end
end

return signal
