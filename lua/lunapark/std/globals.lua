--- Globals that a function makes while an app is served: all requests of the VM see them, also those of other users, so
-- most are slips for a local. Each is told of once.
--
-- What a file makes outside of functions is a module's own affair, and so is what an app makes while it loads. A
-- program that has given _G a metatable has its own rules.

local log = require "lunapark.log"

local globals = {}

local told = {}

local function note(t, name, value)
  rawset(t, name, value)
  local info = debug.getinfo(2, "Sl")
  if value == nil or told[name] or not info or info.what ~= "Lua" then return end
  told[name] = true
  log.warn(("%s:%d: a function has made the global %s, which all requests of this VM see: did you forget `local`?")
    :format(info.short_src, info.currentline, tostring(name)))
end
jit.off(note)

--- From now on functions that make globals are told of. For the VM of an app that has loaded.
function globals.watch()
  if not getmetatable(_G) then setmetatable(_G, { __newindex = note }) end
end

return globals
