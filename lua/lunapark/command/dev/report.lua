--- Reports of failures: the message and traceback, their places in the source, and the source there.
--
-- Failures come as text, as they go to the log: a message, with `file:line:` in front perhaps, and a traceback. A
-- client may have a say in both (`error(req.query.x)`), so only files that were loaded as a part of the app are looked
-- into. The caller knows which files these are, and their bytes.

local pieces = require("lunapark.core.text").pieces

local report = {}

-- Lines shown before and behind the one that failed.
local AROUND = 3
-- Limits of what is shown: bytes of a line, of a message; frames.
local MAX_LINE, MAX_MESSAGE, MAX_FRAMES = 300, 16384, 100

---@class lunapark.dev.Line
---@field number integer
---@field text string
---@field hit boolean  the failure is in this line

---@class lunapark.dev.Place
---@field file string
---@field line integer
---@field excerpt lunapark.dev.Line[]

---@class lunapark.dev.Frame
---@field text string                a line of the traceback
---@field own boolean                not the app's: of Lunapark or LuaJIT
---@field place lunapark.dev.Place?

---@class lunapark.dev.Report
---@field message string
---@field says string                the message without the `file:line:` of `place` at its beginning
---@field place lunapark.dev.Place?
---@field defined boolean?           `place` is where the handler begins, since no better place is known
---@field frames lunapark.dev.Frame[]

local function cut(text, max)
  if #text <= max then return text end
  return text:sub(1, max) .. " ..."
end

local function excerpt(bytes, line)
  local lines, n = {}, 0
  for text in pieces(bytes .. "\n", "\n") do
    n = n + 1
    if n > line + AROUND then break end
    if n >= line - AROUND then
      lines[#lines + 1] = { number = n, text = cut(text:gsub("\r$", ""), MAX_LINE), hit = n == line }
    end
  end
  -- What ends in a line break has no line behind it.
  local last = lines[#lines]
  if last and last.text == "" and not last.hit and n <= line + AROUND then lines[#lines] = nil end
  return lines
end

--- A line of a file of the app; nil if it is none.
---@param name string  of the file, as LuaJIT has it
---@param line integer
---@param read fun(name: string): string?, string?  the bytes of a file, and its whole name
---@return lunapark.dev.Place|nil
function report.place(name, line, read)
  local bytes, file = read(name)
  if not bytes then return nil end
  return { file = file or name, line = line, excerpt = excerpt(bytes, line) }
end

-- The first `file:line:` at the beginning of a line that is one of the app's; what follows it, if that is all.
local function find_place(message, read)
  local at, first = 1, true
  for line in pieces(message .. "\n", "\n") do
    local from = line:find "%S"
    if from then
      local name, number, rest = line:match("^(.-):(%d+): ?()", from)
      local place = name and report.place(name, tonumber(number), read)
      if place then return place, first and message:sub(at + rest - 1) or nil end
      first = false
    end
    at = at + #line + 1
  end
end

local function is_own(name)
  return name:sub(1, 9) == "lunapark/"
end

local function frame_of(line, read)
  local name, number, what = line:match "^(.-):(%d+): (.*)$"
  local place = name and report.place(name, tonumber(number), read)
  if place then return { text = ("%s:%d: %s"):format(place.file, place.line, what), own = false, place = place } end
  return { text = line, own = not name or is_own(name) }
end

--- The report of a failure.
---@param text string  message and traceback
---@param read fun(name: string): string?, string?  see report.place
---@param handler? function  the handler that failed, for failures without a place
---@return lunapark.dev.Report
function report.new(text, read, handler)
  local message, trace = text:match "^(.-)\nstack traceback:\n(.*)$"
  message = cut(message or text, MAX_MESSAGE)
  local place, says = find_place(message, read)
  local self = { message = message, says = says or message, frames = {}, place = place }
  for line in (trace or ""):gmatch "[^\n]+" do
    if #self.frames == MAX_FRAMES then break end
    local frame = frame_of(line:match "^%s*(.*)$", read)
    self.frames[#self.frames + 1] = frame
    self.place = self.place or frame.place
  end
  if not self.place and handler then
    local info = debug.getinfo(handler, "S")
    self.place = report.place(info.source:match "^@(.*)$" or "", info.linedefined, read)
    self.defined = self.place ~= nil
  end
  return self
end

return report
