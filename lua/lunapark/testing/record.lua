--- The output handler of a process that runs one spec file for another process: it writes busted's events to a report
--- (testing/report.lua), and prints nothing. testing/jobs.lua makes events of them again.

local report = require "lunapark.testing.report"

local record = {}

---@type lunapark.testing.Report  of this process
local out
-- The numbers of busted's elements.
local ids, last_id = {}, 0

-- The names and times of an element, without what it contains.
local function describe(element)
  local copy = { id = ids[element] }
  for name, value in next, element do
    local kind = type(value)
    if kind == "string" or kind == "number" or kind == "boolean" then
      copy[name] = value
    elseif name == "trace" or name == "attributes" then
      copy[name] = report.plain(value)
    elseif name == "message" then
      copy[name] = report.plain(value)
    end
  end
  return copy
end

local function chain(busted, element)
  if not element then return nil end
  if not ids[element] then
    last_id = last_id + 1
    ids[element] = last_id
  end
  local copy = describe(element)
  local parent = busted.parent(element)
  if parent then copy.parent = chain(busted, parent) end
  return copy
end

local channels = {
  { "file", "start" }, { "file", "end" }, { "describe", "start" }, { "describe", "end" }, { "test", "start" },
  { "test", "end" }, { "failure" }, { "error" }, { "pending" },
}

--- Begins to report.
---@param path string
---@return lunapark.testing.Report
function record.open(path)
  out = report.open(path)
  return out
end

--- As busted calls an output handler: `-o lunapark.testing.recorder`, a name that testing/part.lua makes known.
function record.handler()
  local busted = require "busted"
  return {
    subscribe = function()
      for _, channel in ipairs(channels) do
        busted.subscribe(channel, function(element, parent, ...)
          local rest = { n = select("#", ...), ... }
          for i = 1, rest.n do rest[i] = report.plain(rest[i]) end
          local parent_id = parent and chain(busted, parent).id
          out:add("event", channel, chain(busted, element), parent_id, unpack(rest, 1, rest.n))
          return nil, true
        end, { priority = 1 })
      end
      busted.subscribe({ "exit" }, function()
        if out.before_end then out.before_end() end
        out:add "end"
        return nil, true
      end)
    end,
  }
end

return record
