--- Reports of a process of a test run to the process that has started it: records in a file, one behind another.
--
-- A record is a list of plain values (string.buffer's format), with its length in front. It is written at once, so when
-- the process dies, all earlier records can be read. A process also gets its task in a file of this kind: a part file.
--
-- Part: { role = "file", file = PATH, report = PATH, run = N, runs = N, seed = N?, loads = true? }: run this spec file
-- alone; { role = "run", files = PATHS, report = PATH }: run these, and tell what each has loaded.
--
-- Records: { "event", channel, element, parent, ... } of busted; { "loads", { [path] = sha1 or false } };
-- { "coverage", counts }; { "file", path, loads } of role run; { "end" }: all has been said.

local buffer = require "string.buffer"

local report = {}

--- A new empty file.
---@return string path
function report.new_file()
  local path = os.tmpname()
  return path
end

---@class lunapark.testing.Report
---@field file file*
---@field before_end fun()|nil  called when the run ends
local Report = {}
local report_mt = { __name = "lunapark.testing.Report", __index = Report }

--- A file to write records to.
---@param path string
---@return lunapark.testing.Report
function report.open(path)
  local file = assert(io.open(path, "wb"))
  file:setvbuf "full"
  return setmetatable({ file = file }, report_mt)
end

--- Adds a record, whole and at once. Does not wait.
---@param ... any  plain values
function Report:add(...)
  local text = buffer.encode { n = select("#", ...), ... }
  self.file:write(("%08x"):format(#text), text)
  self.file:flush()
end

function Report:close()
  self.file:close()
end

--- The records in a file, up to the first that is not whole.
---@param path string
---@return table[] records  each with `n`
function report.read(path)
  local records = {}
  local file = io.open(path, "rb")
  if not file then return records end
  while true do
    local size = tonumber(file:read(8) or "", 16)
    local text = size and file:read(size)
    if not text or #text < size then break end
    records[#records + 1] = buffer.decode(text)
  end
  file:close()
  return records
end

--- A copy of a value that can be written: functions, userdata and threads by their names, tables to a depth of 8.
---@param value any
---@param depth? integer
---@return any
function report.plain(value, depth)
  local kind = type(value)
  if kind == "string" or kind == "number" or kind == "boolean" or kind == "nil" then return value end
  local mt = debug.getmetatable(value)
  if kind ~= "table" or (depth or 0) == 8 or mt and mt.__tostring then
    local ok, text = pcall(tostring, value)
    return ok and text or kind
  end
  local copy = {}
  for k, v in next, value do
    if type(k) == "string" or type(k) == "number" then copy[k] = report.plain(v, (depth or 0) + 1) end
  end
  return copy
end

return report
