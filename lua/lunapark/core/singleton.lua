--- One G for all VMs: `lp.singleton`.
--
--   lp.singleton("nightly", function()
--     while lp.sleep(seconds_to_midnight()) do clean_up() end
--   end)
--
-- An app is loaded by several VMs, and again by each reload. A function that the app starts by lp.go runs in each of
-- them, a function that it starts by lp.singleton in one. host/generation/singleton.c chooses the VM.

local ffi = require "ffi"
require "lunapark.cdef"
local lp = require "lunapark"
local job = require "lunapark.core.job"
local show = require "lunapark.core.show"

local C = ffi.C
local ERROR, RETRY_S = 3, 1

local singleton = {}

-- What stands before the names of singletons that are made now: see `apart`.
local prefix = ""

local registry = debug.getregistry()
-- The names of this VM. The table belongs to the VM, since busted loads modules anew.
local names = registry["lunapark.singletons"] or {}
registry["lunapark.singletons"] = names

local function yes()
  return true
end

-- Runs fn when it is this VM's turn. Returns whether to stand for the name again.
local function run_once(name, fn)
  local held = job.run(C.host_singleton_stand(name, #name), yes)
  local ok, err = true, nil
  if held then ok, err = xpcall(fn, show.traceback) end
  local ends = not held or C.host_canceled() ~= 0
  C.host_singleton_leave(name, #name, ok and not ends and 1 or 0)
  if not ok then
    local msg = ("singleton %s: %s"):format(name, err)
    C.host_log(ERROR, msg, #msg)
  end
  return not ok and not ends
end

local function main(name, fn)
  while run_once(name, fn) and lp.sleep(RETRY_S) do end -- luacheck: ignore 542
  names[name] = nil
end

--- Runs fn in a G of one VM among all VMs that call `lp.singleton` with this name. When a reload has replaced what
--- that VM has loaded, the waits of the G answer "canceled"; as soon as the G has ended, a VM of the new generation
--- runs its own fn. When the VM is thrown away, or stuck for a second, another VM runs its fn at once: the stuck fn may
--- then run beside it until its next wait, which answers "canceled".
---
--- An error of fn is logged, and fn is run again a second later, perhaps in another VM. A fn that has returned is not
--- run again before the next reload. Call `lp.singleton` when the app is loaded, in every VM that may run fn. Does not
--- wait.
---@param name string
---@param fn fun()
---@return lunapark.G g  stands for the name in this VM, or runs fn; `g:cancel()` ends that
function singleton.singleton(name, fn)
  if type(name) ~= "string" or name == "" then
    error("singleton: name must be a string that is not empty, got " .. (name == "" and "''" or type(name)), 2)
  end
  if type(fn) ~= "function" then error("singleton: fn must be a function, got " .. type(fn), 2) end
  name = prefix .. name
  if names[name] then error(("singleton: this VM has one named %q already"):format(name), 2) end
  names[name] = true
  return lp.detach(main, name, fn)
end

--- Calls fn(...). Names of singletons that are made meanwhile are no others' names: for an app that this VM serves
--- beside others, in specs. Does not wait unless fn does.
---@param which string
---@param fn function
---@param ... any
---@return any ...  what fn returns
function singleton.apart(which, fn, ...)
  local function back(before, ok, ...)
    prefix = before
    if not ok then error(..., 0) end
    return ...
  end
  local before = prefix
  prefix = which
  return back(before, pcall(fn, ...))
end

return singleton
