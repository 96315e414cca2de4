--- What init.lua and the modules beside it share: the clock, checks of arguments, and what every wait answers.
--
-- Nothing here waits. init.lua cannot be asked for it, since it loads those modules itself.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local scope = require "lunapark.scope"

local C = ffi.C
local view = ffi.cast("host_view *", core.view)

local base = { view = view }

local registry = debug.getregistry()
registry["lunapark.gs"] = registry["lunapark.gs"] or {}
---@type table<integer, lunapark.G>  live handles by slot; of the VM, since busted loads modules anew for each spec file
base.live = registry["lunapark.gs"]

-- C's deadlines are int64_t: this one is 285 years away.
local FAR_NS = 9e18

local function now_ns()
  return tonumber(C.rt_nanotime())
end
base.now_ns = now_ns

--- A timeout in seconds as a moment; 0 means no deadline to core.wait.
---@param s number|nil
---@return number
function base.deadline_in(s)
  if not s then return 0 end
  local at = now_ns() + s * 1e9
  return at < 1 and 1 or at > FAR_NS and FAR_NS or at
end

--- Raises, two levels up, if s is no number of seconds.
---@param s any
---@param what string  the function's name
---@param optional? boolean  s may be nil
function base.check_seconds(s, what, optional)
  if s == nil and optional then return end
  if type(s) ~= "number" or s ~= s then
    error(what .. ": s must be a number of seconds, got " .. tostring(s), 3)
  end
end

--- What a wait that ended with err answers. The host cancels a request's G by itself: the Gs of its scope are to hear
--- of it.
---@param err string
---@return nil
---@return string err
function base.heard(err)
  if err == "canceled" and scope.is_canceled() then
    local g = base.live[view.slot]
    if g and g.serial == view.serial then scope.cancel(g) end
  end
  return nil, err
end

return base
