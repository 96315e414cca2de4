--- Shared by init.lua and the modules beside it: the clock, checks of arguments, the answers of waits.
--
-- Nothing here waits. This is no part of init.lua, since init.lua loads these modules itself.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local scope = require "lunapark.core.scope"
local as_given = require("lunapark.core.show").given

local C = ffi.C
local find = string.find
local view = ffi.cast("host_view *", core.view)

local base = { view = view }

local registry = debug.getregistry()
registry["lunapark.gs"] = registry["lunapark.gs"] or {}
---@type table<integer, lunapark.G>  live handles by slot; of the VM, since busted loads modules anew for each spec file
base.live = registry["lunapark.gs"]

-- C's deadlines are int64_t: this one is 285 years away.
local FAR_NS = 9e18

-- Real time, also inside of testing.virtual.
local function real_ns()
  return (tonumber(C.rt_nanotime()))
end
base.real_ns = real_ns

local function now_ns()
  local virtual_ns = view.virtual_ns
  if virtual_ns ~= 0 then return virtual_ns end
  return (tonumber(C.rt_nanotime()))
end
base.now_ns = now_ns

--- With --seed a function that functions which may wait call first: now and then it lets other Gs run. Without --seed
--- false. It never changes, so compiled code has no check of it.
---@type function|false
base.early = view.seed ~= 0 and core.early

--- Raises inside testing.virtual, where there is no `what`. The error is at the caller of our modules.
---@param what string
function base.check_real(what)
  if view.virtual_ns ~= 0 then core.real(what) end
end

--- The process's folder as an absolute path; nil: it has none that this user may use.
---@return string|nil
function base.cwd()
  local path = ffi.new "char[4096]"
  local n = C.host_cwd(path, 4096)
  return n > 0 and ffi.string(path, n) or nil
end

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
    error(what .. ": s must be a number of seconds, got " .. as_given(s), 3)
  end
end

--- Raises unless s is a string that C sees whole. C's strings end at their first NUL byte, so a string that Lua has
--- checked and C gets by its pointer alone would be another text there. Every such string comes through here.
---@param s any
---@param what string   the function's name
---@param name string   the argument's name
---@param level integer  as for an `error` in place of this call
function base.check_text(s, what, name, level)
  if type(s) ~= "string" then error(("%s: %s must be a string, got %s"):format(what, name, type(s)), level) end
  if find(s, "\0", 1, true) then error(("%s: %s must not contain a NUL byte"):format(what, name), level) end
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

-- ---- errors that are raised again --------------------------------------------------------------------

-- Some functions catch an error to put something back, and raise it again. Where it came from is kept meanwhile:
--
--   local function leave(self, ok, ...)
--     self:unlock()
--     if not ok then base.rethrow((...)) end
--     return ...
--   end
--   return leave(self, xpcall(fn, base.note_trace, ...))
local trace_of_last

local function rethrow(err)
  error(err, 0)
end
base.rethrow = rethrow

-- Whether the error that a message handler was called for is raised again. `level` is the stack level, as seen from
-- here, of the function that called error.
local function is_rethrown(level)
  local raiser = trace_of_last and debug.getinfo(level, "f")
  return raiser and raiser.func == rethrow
end

--- The message handler to catch an error with: it changes nothing.
function base.note_trace(err)
  if not is_rethrown(4) then
    trace_of_last = type(err) ~= "table" and debug.traceback("", 2) or nil
  end
  return err
end

--- For a message handler that adds tracebacks: the one of where the error was raised first, if it is raised again.
---@return string|nil
function base.take_trace()
  local trace = is_rethrown(5) and trace_of_last or nil
  trace_of_last = nil
  return trace
end

return base
