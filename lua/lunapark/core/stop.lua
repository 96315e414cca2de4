--- How a program ends itself: `lp.stop`, and what `os.exit` does.
--
-- A script (`run`, `repl`, `check`) has its process for itself: both functions end the process at once, with buffers
-- and log written. An app under `serve` is not alone in its process: other requests are being answered, in its own VM
-- and in others. There `lp.stop` stops the server as SIGTERM does, and `os.exit` raises an error that says so. Under
-- `test` the process is the run of tests: `os.exit` ends the run, `lp.stop` raises.
--
-- lunapark.command.boot says which of these a VM is in.

local ffi = require "ffi"
require "lunapark.cdef"
local as_given = require("lunapark.core.show").given

local registry = debug.getregistry()

local stop = {}

local function refuse_exit()
  error("os.exit: would end the server and all requests that are being answered: use lunapark.stop()", 2)
end

--- Stops the process. Under `serve` it stops gracefully, as by SIGTERM, with all VMs: requests in flight are answered,
--- the caller's too, and then the process ends; `lp.stop` itself returns at once. A call while the app still loads
--- stops the server when it has begun to serve. A second call changes nothing. In a script the process ends at once.
---@param code? integer  exit code of the process, 0 without it
function stop.stop(code)
  if code == nil then code = 0 end
  if type(code) ~= "number" or not (code >= 0 and code <= 255) or code % 1 ~= 0 then
    error("stop: code must be a whole number from 0 to 255, got " .. as_given(code), 2)
  end
  local fn = registry["lunapark.stop"]
  if not fn then error("stop: there is no server to stop under `lunapark test`", 2) end
  fn(code)
end

--- For boot: this VM serves.
function stop.serves()
  registry["lunapark.serves"] = true
  os.exit = refuse_exit -- luacheck: globals os.exit
  registry["lunapark.stop"] = function(code) ffi.C.host_stop(code) end
end

--- For boot: what ends a script's process.
---@param exit fun(code: integer)
function stop.is_script(exit)
  os.exit = exit -- luacheck: globals os.exit
  registry["lunapark.stop"] = exit
end

return stop
