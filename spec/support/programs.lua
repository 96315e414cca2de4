--- Programs of others, for specs in which those that are not installed are pending.

local exec = require "lunapark.exec"

local programs = {}

--- What a program says, on both outputs, and its exit code; nil: it is not installed.
---@param ... string  its name and arguments
---@return string|nil text
---@return integer? code
function programs.run(...)
  local r, err = exec.run({ ... }, { timeout = 300 })
  if not r then
    if err:find("no such file", 1, true) then return nil end
    error(err)
  end
  return r.stdout .. r.stderr, r.code
end

---@param name string
---@return boolean
function programs.installed(name)
  local r = exec.run { "sh", "-c", "command -v " .. name }
  return r ~= nil and r.code == 0
end

return programs
