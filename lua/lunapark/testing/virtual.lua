--- testing.virtual: time that jumps.
--
--   testing.virtual(function()
--     local start = lp.now()
--     lp.sleep(3600)                     -- takes no time
--     assert.equal(3600, lp.now() - start)
--   end)
--
-- host/vm/bubble.c moves the clock and refuses what can't be done. Here are the function for users, and the clocks of
-- `os`, which are replaced once by functions that ask where they are called. Code that took os.time for itself before
-- this module was loaded has the real clock; `lunapark test` loads the module before any spec.

local ffi = require "ffi"
require "lunapark.cdef"
local base = require "lunapark.core.base"
local core = require "lunapark.core"
local as_given = require("lunapark.core.show").given

local C = ffi.C
local view = base.view
local wait, JOIN = core.wait, core.reasons.join
local EBUSY, EPERM = -16, -1

-- ---- the clocks of os ----------------------------------------------------------------------------------

local registry = debug.getregistry()

local function virtual_time()
  return math.floor(C.host_bubble_start() + C.host_bubble_elapsed())
end

local function install()
  if registry["lunapark.clocks"] then return end
  local clocks = { time = os.time, date = os.date, clock = os.clock }
  registry["lunapark.clocks"] = clocks
  os.time = function(t) -- luacheck: ignore 122
    if t ~= nil or view.virtual_ns == 0 then return clocks.time(t) end
    return virtual_time()
  end
  os.date = function(format, t) -- luacheck: ignore 122
    if t ~= nil or view.virtual_ns == 0 then return clocks.date(format, t) end
    return clocks.date(format or "%c", virtual_time())
  end
  os.clock = function() -- luacheck: ignore 122
    if view.virtual_ns == 0 then return clocks.clock() end
    return C.host_bubble_elapsed()
  end
end

install()

-- ---- the bubble ----------------------------------------------------------------------------------------

-- Ends the Gs that fn has left. Returns the bubble's verdict and text.
local function close()
  C.host_bubble_end()
  C.host_shelter(1)
  while C.host_bubble_others() > 0 do wait(JOIN) end
  C.host_shelter(0)
  local verdict, text = C.host_bubble_verdict(), C.host_bubble_text()
  text = text ~= nil and ffi.string(text) or nil
  C.host_bubble_leave()
  return verdict, text
end

local function finish(ok, ...)
  local verdict, text = close()
  if verdict == C.HOST_BUBBLE_DEADLOCK then
    error("virtual: all Gs inside wait for each other - deadlock!\n" .. text:gsub("\n$", ""), 2)
  end
  if not ok then base.rethrow((...)) end
  if text then error("virtual: Gs that it has started did not end:\n" .. text:gsub("\n$", ""), 2) end
  if verdict == C.HOST_BUBBLE_TIMEOUT then return nil, "timeout" end
  return ...
end

--- Runs fn() in virtual time. Fn and all Gs that it starts have a clock of their own. The clock stands still while one
--- of them runs; when all wait, it jumps to the next moment that one of them waits for. Waits for the same moment end
--- in the order in which they began. `lp.now`, `lp.sleep`, timers, deadlines and timeouts, `os.time`, `os.date` and
--- `os.clock` follow this clock, and so do TTLs in lunapark.shared dicts for calls from inside.
---
--- Real I/O inside raises: sockets, files and programs, names, lunapark.offload, waiting in shared channels. Lua's own
--- io functions work. Raises with a dump of all Gs inside if they wait for each other for ever.
---
--- When fn returns, the Gs that are left are cancelled and must end: virtual raises naming the Gs that do not. A G that
--- was cancelled and begins its 101st wait gets an error there. The caller's own deadline, which is in real time, and a
--- cancellation of the caller end all of it.
---@param fn fun(): ...
---@param opts? { start: number? }  start: what os.time() tells at first, in seconds since 1970; without it the real
---time
---@return any ...  what fn returned; nil, "timeout" if the caller's deadline came
local function virtual(fn, opts)
  if type(fn) ~= "function" then error("virtual: fn must be a function, got " .. type(fn), 2) end
  if opts ~= nil and type(opts) ~= "table" then error("virtual: opts must be a table, got " .. type(opts), 2) end
  local start = opts and opts.start
  if start == nil then start = os.time() end
  if type(start) ~= "number" or start ~= start or start < 0 or start >= 2 ^ 40 then
    error("virtual: opts.start must be seconds since 1970, got " .. as_given(start), 2)
  end
  local why = core.barrier()
  if why then error(why, 2) end
  local rc = C.host_bubble_enter(start)
  if rc == EBUSY then error("virtual: called inside of testing.virtual", 2) end
  if rc == EPERM then error("virtual: called by the handler of a request", 2) end
  if rc < 0 then error("not enough memory", 2) end
  return finish(xpcall(fn, base.note_trace))
end

return virtual
