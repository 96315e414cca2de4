--- What an app does by the clock, once in the process: `app:every`, `app:cron`.
--
-- Each of them is a singleton (core/singleton.lua): one VM runs it, and a VM of the new generation goes on with it
-- after a reload. It runs when the app is served. An error is logged, and the next run comes when it is due. A run that
-- is due while the last one still runs is left out.
--
-- Times of cron are those of the machine's clock, in its time zone. A time that the clock leaves out, when summer
-- begins, is left out.

local ffi = require "ffi"
require "lunapark.cdef"
local base = require "lunapark.core.base"
local pieces = require("lunapark.core.text").pieces
local lp = require "lunapark"
local as_given = require("lunapark.core.show").given

local C = ffi.C
local ERROR = 3

local schedule = {}

local function traceback(err)
  return debug.traceback(tostring(err), 2)
end

local function run(label, fn)
  local ok, err = xpcall(fn, traceback)
  if ok then return end
  local msg = label .. ": " .. err
  C.host_log(ERROR, msg, #msg)
end

--- The function of a singleton that calls fn every s seconds.
---@param label string
---@param s number
---@param fn function
---@return fun()
function schedule.every(label, s, fn)
  return function()
    local due = lp.now() + s
    while lp.sleep(math.max(due - lp.now(), 0)) do
      run(label, fn)
      due = due + s
      local late = lp.now() - due
      if late > 0 then due = due + math.ceil(late / s) * s end
    end
  end
end

-- ---- cron ------------------------------------------------------------------------------------------------

local function names_of(text, first)
  local names = {}
  for name in text:gmatch "%l+" do
    names[name], first = first, first + 1
  end
  return names
end

local fields = {
  { name = "minute", from = 0, to = 59 },
  { name = "hour", from = 0, to = 23 },
  { name = "day", from = 1, to = 31 },
  { name = "month", from = 1, to = 12, names = names_of("jan feb mar apr may jun jul aug sep oct nov dec", 1) },
  { name = "weekday", from = 0, to = 7, names = names_of("sun mon tue wed thu fri sat", 0) }, -- 7 is Sunday, too
}

local words = {
  ["@hourly"] = "0 * * * *", ["@daily"] = "0 0 * * *", ["@midnight"] = "0 0 * * *", ["@weekly"] = "0 0 * * 0",
  ["@monthly"] = "0 0 1 * *", ["@yearly"] = "0 0 1 1 *", ["@annually"] = "0 0 1 1 *",
}

local function number_of(text, field)
  local n = field.names and field.names[text:lower()] or text:find "^%d+$" and tonumber(text)
  return n and n >= field.from and n <= field.to and n
end

-- Adds the numbers of "*", "5", "1-5", "*/10", "1-30/2". False: it is none of these.
local function add_range(set, text, field)
  local range, step = text:match "^([^/]+)/?(.*)$"
  local stepped = text:find("/", 1, true) ~= nil
  step = stepped and step:find "^%d+$" and tonumber(step) or not stepped and 1
  if not range or not step or step < 1 then return false end
  local from, to = field.from, field.to
  if range ~= "*" then
    local first, last = range:match "^(%w+)%-(%w+)$"
    from = number_of(first or range, field)
    to = first and number_of(last, field) or not first and (stepped and field.to or from)
    if not from or not to or from > to then return false end
  end
  for n = from, to, step do set[n] = true end
  return true
end

--- What is to match, by the names of the fields; nil and what is wrong.
---@param text string
---@return table|nil times
---@return string? err
function schedule.parse(text)
  local times, i = {}, 0
  for part in (words[text] or text):gmatch "%S+" do
    i = i + 1
    local field = fields[i]
    if not field then return nil, "has more than five fields" end
    local set = {}
    for range in pieces(part .. ",", ",") do
      if not add_range(set, range, field) then return nil, ("has a bad %s: %s"):format(field.name, part) end
    end
    times[field.name] = set
    if part:sub(1, 1) == "*" then times[field.name .. "_any"] = true end
  end
  if i < 5 then return nil, "must have five fields: minute, hour, day, month, weekday" end
  if times.weekday[7] then times.weekday[0] = true end
  return times
end

-- A day and a weekday that are both given: either.
local function is_day(times, d)
  local day, weekday = times.day[d.day], times.weekday[d.wday - 1]
  if times.day_any or times.weekday_any then return day and weekday end
  return day or weekday
end

local YEARS = 30 -- February 29th on a given weekday

--- The first time after `now` that matches; nil: none does.
---@param times table  of `parse`
---@param now integer  seconds since 1970
---@return integer|nil
function schedule.next(times, now)
  local t = now - now % 60 + 60
  local last = t + YEARS * 366 * 86400
  while t < last do
    local d = os.date("*t", t)
    local later
    if not times.month[d.month] then
      later = os.time { year = d.year, month = d.month + 1, day = 1, hour = 0 }
    elseif not is_day(times, d) then
      later = os.time { year = d.year, month = d.month, day = d.day + 1, hour = 0 }
    elseif not times.hour[d.hour] then
      later = t + (60 - d.min) * 60
    elseif not times.minute[d.min] then
      later = t + 60
    else
      return t
    end
    t = math.max(later, t + 60) -- where the clock is set back at midnight
  end
end

-- The clock may be set meanwhile, so it is looked at each minute.
local LOOK_S = 60

-- Waits until the clock shows t. nil: canceled.
local function sleep_until(t)
  while true do
    local left = t - os.time()
    if left <= 0 then return true end
    if not lp.sleep(math.min(left, LOOK_S)) then return nil end
  end
end

--- The function of a singleton that calls fn at the times that match.
---@param label string
---@param times table  of `parse`
---@param fn function
---@return fun()
function schedule.cron(label, times, fn)
  return function()
    local now = os.time()
    while true do
      local t = schedule.next(times, now)
      if not t or not sleep_until(t) then return end
      run(label, fn)
      now = math.max(os.time(), t)
    end
  end
end

-- ---- what App:every and App:cron do, by tail calls ----------------------------------------------------------

-- Notes what App:start is to run, once in the process. `level` is that of the app's file.
local function add(app, what, level, make)
  local info = debug.getinfo(level, "Sl")
  local label = ("%s, %s:%d"):format(what, info.short_src, info.currentline)
  local n = #app.jobs + 1
  app.jobs[n] = { name = ("app %d, %s"):format(n, label), fn = make(label) }
  return app
end

local function check_function(fn, what)
  if type(fn) ~= "function" then error(what .. ": fn must be a function, got " .. type(fn), 3) end
end

--- As App:every.
function schedule.add_every(app, s, fn)
  base.check_seconds(s, "every")
  if s <= 0 then error("every: s must be more than 0, got " .. as_given(s), 2) end
  check_function(fn, "every")
  return (add(app, "every", 3, function(label) return schedule.every(label, s, fn) end))
end

--- As App:cron.
function schedule.add_cron(app, times, fn)
  if type(times) ~= "string" then error("cron: times must be a string, got " .. type(times), 2) end
  check_function(fn, "cron " .. times)
  local parsed, err = schedule.parse(times)
  if parsed and not schedule.next(parsed, os.time()) then err = "never comes" end
  if err then error(("cron: %q %s"):format(times, err), 2) end
  return (add(app, "cron " .. times, 3, function(label) return schedule.cron(label, parsed, fn) end))
end

return schedule
