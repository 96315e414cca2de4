--- One G for all VMs: `lp.singleton`.
--
--   lp.singleton("nightly", function()
--     while lp.sleep(seconds_to_midnight()) do clean_up() end
--   end)
--
-- An app is loaded by several VMs, and again by each reload. What it starts by lp.go runs in each of them; what it
-- starts by lp.singleton runs in one. Who that is: host/singleton.c.

local ffi = require "ffi"
require "lunapark.cdef"
local lp = require "lunapark"
local job = require "lunapark.job"

local C = ffi.C
local ERROR, RETRY_S = 3, 1

local singleton = {}

local registry = debug.getregistry()
-- The names of this VM; of the VM, since busted loads modules anew.
local names = registry["lunapark.singletons"] or {}
registry["lunapark.singletons"] = names

local function traceback(err)
  return debug.traceback(tostring(err), 2)
end

local function yes()
  return true
end

-- Runs fn when it is this VM's turn. Whether to stand again.
local function run_once(name, fn)
  local held = job.run(C.host_singleton_stand(name, #name), yes)
  local ok, err = true, nil
  if held then ok, err = xpcall(fn, traceback) end
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

--- Runs fn in one VM of all that call this with the same name, in a G of its own. When a reload has replaced what that
--- VM has loaded, the waits of that G answer "canceled"; as soon as it has ended, a VM of the new generation runs its
--- own fn. When the VM is thrown away, or stuck for a second, another one runs it at once: a fn that got stuck may then
--- run beside it until its next wait, which answers "canceled".
---
--- What fn raises is logged, and it is run again a second later, perhaps in another VM. When it returns it is done,
--- until the next reload. Does not wait. Call it when the app is loaded, in every VM that may run it.
---@param name string
---@param fn fun()
---@return lunapark.G g  that stands for the name in this VM, or runs fn; its cancel ends that
function singleton.singleton(name, fn)
  if type(name) ~= "string" or name == "" then
    error("singleton: name must be a string that is not empty, got " .. (name == "" and "''" or type(name)), 2)
  end
  if type(fn) ~= "function" then error("singleton: fn must be a function, got " .. type(fn), 2) end
  if names[name] then error(("singleton: this VM has one named %q already"):format(name), 2) end
  names[name] = true
  return lp.detach(main, name, fn)
end

return singleton
