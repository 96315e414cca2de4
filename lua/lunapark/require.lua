--- `require` for Gs: a module may wait while it loads, and other Gs may require it meanwhile.
--
-- LuaJIT's own require, asked for a module whose load has begun and not ended, says "loop or previous error". So it
-- is when a module requires itself, through whatever chain. But when another G loads it, that is no loop: who comes
-- second waits for the end of the first load, and gets what that gets, its value or its error. What a
-- module has put into package.loaded before it waits is for its own G only until it has loaded.
--
-- Two Gs whose modules require each other would wait for ever: the one that would close the circle gets an error that
-- names the modules, or what the other's module has put into package.loaded so far, as within one G.
--
-- All else is as in LuaJIT: package.preload, package.loaders, the texts of errors and their tracebacks (host/load.c).
-- For a module that is loaded this is two looks into tables, and compiled.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local base = require "lunapark.base"
local waitq = require "lunapark.waitq"

local C = ffi.C
local view = base.view
local load_module, MARK = core.load, core.load_mark
local original = require
local registry = debug.getregistry()
local loaded = registry._LOADED
local new_cell = ffi.typeof "host_load"

---@class lunapark.Load
---@field name string
---@field slot integer   of the G that loads
---@field cell ffi.cdata*  host_load
---@field waiters integer  Gs that want to know how it ends

---@type table<string, lunapark.Load>  by name; some have ended, and nobody has looked since
local loading = {}
---@type table<integer, lunapark.Load>  what the G of a slot waits for
local waiting = {}
-- The registry has the value of a load, or its error, below a number of its own.
local last_key = -1000

local function drop(load)
  if loading[load.name] == load then loading[load.name] = nil end
  registry[load.cell.key] = nil
end

-- Whatever `look` calls to end with is a tail call, so that 2 is, for the messages, who called require.
local function fail(message)
  error(message, 2)
end

local function begin(name)
  local load = { name = name, slot = view.slot, cell = new_cell(), waiters = 0 }
  waiting[load.slot] = nil -- left behind, if a wait was ended by an error
  last_key = last_key - 1
  load.cell.key = last_key
  registry[last_key] = load
  loading[name] = load
  return load_module(name, load.cell)
end

-- Why the G of slot `me` can't wait for the load: that waits, through whatever chain, for one of its own. Else nil.
local function circle(load, me)
  local text = ("deadlock: module '%s' waits for '"):format(load.name)
  local at = waiting[load.slot]
  while at do
    text = text .. at.name
    if at.slot == me then return text .. "', which requires it" end
    text = text .. "', which waits for '"
    at = waiting[at.slot]
  end
end

-- true and the value, or false and the error.
local function wait_for(load)
  local me, cell = view.slot, load.cell
  load.waiters = load.waiters + 1
  waiting[me] = load
  local answer = waitq.wait(cell, 0) -- it begins with its queue
  waiting[me] = nil
  load.waiters = load.waiters - 1
  if cell.state == C.HOST_LOADING then
    local _, err = base.heard(answer)
    return false, ("module '%s' is being loaded by another G: %s"):format(load.name, err)
  end
  local value = registry[cell.key]
  if load.waiters == 0 then drop(load) end
  return cell.state == C.HOST_LOADED, value
end

-- All but the common case.
local function look(name)
  if type(name) == "number" then name = tostring(name) end
  if type(name) ~= "string" then return original(name) end
  local load, value = loading[name], loaded[name]
  if load and load.cell.state ~= C.HOST_LOADING then
    if load.waiters == 0 then drop(load) end
    load = nil
  end
  local why = load and load.slot ~= view.slot and (core.barrier() or circle(load, view.slot))
  if load and load.slot ~= view.slot and not why then
    local ok, result = wait_for(load)
    if ok then return result end
    return base.rethrow(result)
  end
  if value and value ~= MARK then return value end
  if why then return fail(why) end
  if load or value == MARK then return fail(("loop or previous error loading module '%s'"):format(name)) end
  return begin(name)
end

--- The value of a module, which is loaded if it is not yet. Waits while another G loads it.
---@param name string
---@return any
function _G.require(name)
  local value = loaded[name]
  if value and value ~= MARK and not loading[name] then return value end
  return look(name)
end

return _G.require
