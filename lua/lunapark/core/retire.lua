--- VMs that are to end: `lp.retired`.
--
-- A VM is retired when a reload has replaced what it has loaded, or when a handler in it was ended by an error. It gets
-- no more requests. When its requests are over its other Gs are canceled, and the VM ends. A G that does something
-- again and again may leave on its own before that:
--
--   while not lp.retired() do consume(queue:recv(1)) end
--
-- or wait for both, where lp.retired stands for a channel that is closed when the VM is retired:
--
--   while lp.select { { queue, "recv" }, { lp.retired, "recv" } } == 1 do ... end
--
-- lunapark.command.boot calls `begin` for host/generation/generation.c.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local base = require "lunapark.core.base"

local C = ffi.C
local wait, OTHER = core.wait, core.reasons.other
local view = base.view

local registry = debug.getregistry()
local CHANNEL = "lunapark.retire.channel" -- of the VM, as `waiting`
-- Slots of the Gs that wait. The table belongs to the VM, since busted loads modules anew.
local waiting = registry["lunapark.retire"] or {}
registry["lunapark.retire"] = waiting

local retire = {}

--- Whether this VM is retired: a reload has replaced what it has loaded, or another VM has replaced it. No request will
--- come to it any more. With a number of seconds the function waits for that.
---@param s? number  seconds to wait at most; math.huge: as long as it takes
---@return boolean|nil retired
---@return string? err  "timeout" of the G's own deadline, "canceled"
function retire.retired(s)
  base.check_seconds(s, "retired", true)
  if view.retired ~= 0 or s == nil then return view.retired ~= 0 end
  local at = base.deadline_in(s)
  local slot = view.slot
  waiting[slot] = true
  local err
  repeat err = wait(OTHER, at) until err or view.retired ~= 0
  waiting[slot] = nil
  if view.retired ~= 0 then return true end
  if err == "timeout" and base.now_ns() >= at then return false end
  return base.heard(err)
end

--- The channel that lp.retired stands for in lp.select: it is closed when the VM is retired.
---@param new fun(): lunapark.Chan  makes a channel: sync/chan.lua is above this module
---@return lunapark.Chan
function retire.channel(new)
  local ch = registry[CHANNEL]
  if not ch then
    ch = new()
    registry[CHANNEL] = ch
    if view.retired ~= 0 then ch:close() end
  end
  return ch
end

--- For the host: this VM is retired.
function retire.begin()
  view.retired = 1
  for slot in pairs(waiting) do
    C.host_wake(slot)
  end
  local ch = registry[CHANNEL]
  if ch then ch:close() end
end

return retire
