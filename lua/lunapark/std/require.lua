--- `require` for Gs: a module may wait while it loads, and other Gs may require it meanwhile.
--
-- LuaJIT's own require says "loop or previous error" of a module whose load has begun and not ended. That is right when
-- a module requires itself, through whatever chain. When another G loads the module there is no loop: the second G
-- waits for the end of the first load, and gets its value or its error. A value that a module has put into
-- package.loaded before it waits is for its own G only until the module has loaded.
--
-- Two Gs whose modules require each other would wait for ever. The G that would close the circle gets the value that
-- the other's module has put into package.loaded so far, as within one G, or else an error that names the modules.
--
-- A module of a user that has raised can't be loaded again, as in LuaJIT. A module of ours can: it raised for lack of
-- memory or C stack in the handler that wanted it first, and the next handler may need it.
--
-- All else is as in LuaJIT: package.preload, package.loaders, the texts of errors and their tracebacks
-- (host/vm/load.c).
-- A module that is loaded costs two looks into tables, which are compiled.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local base = require "lunapark.core.base"
local waitq = require "lunapark.sync.waitq"

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
---@field waiters integer  Gs that wait for its end

---@type table<string, lunapark.Load>  by name; some may have ended
local loading = {}
---@type table<integer, lunapark.Load>  what the G of a slot waits for
local waiting = {}
-- The key in the registry of the latest load's value or error; each load has a key of its own.
local last_key = -1000

local function drop(load)
  if loading[load.name] == load then loading[load.name] = nil end
  registry[load.cell.key] = nil
end

-- `look` ends with tail calls, so that level 2 of an error is the caller of require.
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

-- Why the G of slot `me` can't wait for the load: the load waits, through whatever chain, for a load of that G. Else
-- nil.
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
  local waited, answer = pcall(waitq.wait, cell, 0) -- it begins with its queue
  waiting[me] = nil
  load.waiters = load.waiters - 1
  if not waited then return false, answer end
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
  if name:find("\0", 1, true) then return fail("the name of a module must not contain a NUL byte") end
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
  if load or value == MARK and name ~= "lunapark" and name:sub(1, 9) ~= "lunapark." then
    return fail(("loop or previous error loading module '%s'"):format(name))
  end
  return begin(name)
end

--- The value of a module. A module that is not loaded yet is loaded. Waits while another G loads it.
---@param name string
---@return any
function _G.require(name)
  local value = loaded[name]
  if value and value ~= MARK and not loading[name] then return value end
  return look(name)
end

return _G.require
