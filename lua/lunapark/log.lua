--- The log: `lunapark.log`.
--
--   log.info("user logged in", { user = name, ip = req.remote_addr })
--   log.error("payment failed", { error = err, order = order })
--
-- writes to stderr
--
--   2024-05-06T07:08:09.123Z info user logged in ip=10.0.0.7 user="Ann Lee"
--   {"time":"2024-05-06T07:08:09.123Z","level":"info","msg":"user logged in","ip":"10.0.0.7","user":"Ann Lee"}
--
-- the second line with `--log-format json`. `--log-level` is the lowest level that is logged.
--
-- Logging does not wait and does not raise: for a value whose __tostring fails the line says so. A thread of the host
-- writes the lines (host/base/logq.c). If the reader of the log is so slow that a megabyte of lines waits, further
-- lines are
-- lost; the log says how many, and so does `lp.stats().log.lost`.
--
-- Pairs are sorted by their keys. Numbers, booleans and strings are written as such; tables without __tostring as JSON
-- in both formats, cut where they are large, deep or contain themselves; other values by tostring. In JSON a key that
-- the line itself has (time, level, msg) gets "fields." in front.

local ffi = require "ffi"
require "lunapark.cdef"
local base = require "lunapark.core.base"
local job = require "lunapark.core.job"
local show = require "lunapark.core.show"

local new_table = require "table.new"

local C = ffi.C
local STRING, NUMBER, JSON = C.HOST_LOG_STRING, C.HOST_LOG_NUMBER, C.HOST_LOG_JSON
local type, tostring, next, error = type, tostring, next, error
local text_of, json_of, has_tostring = show.text, show.json, show.has_tostring

-- More pairs than this are counted, not written.
local MAX_PAIRS = 64

local log = {}

-- Pairs are walked by `while` and next, not by `for`: in a finalizer LuaJIT starts no side traces, and a compiled
-- `for` over a table that leaves its trace there enters it again without end.

-- ---- values ----------------------------------------------------------------------------------------------

-- The text that C gets for a value that is no number and no string.
local function render(v)
  local kind = type(v)
  if kind == "boolean" then return JSON, v and "true" or "false" end
  if kind == "table" and not has_tostring(v) then return JSON, json_of(v) end
  local text = text_of(v)
  if kind == "userdata" and text == "userdata: NULL" then return JSON, "null" end
  return STRING, text
end

-- ---- lines -----------------------------------------------------------------------------------------------

---@class lunapark.LogWork  the pairs of a call as lists, and as C gets them
---@field keys string[]
---@field values any[]
---@field kinds integer[]
---@field pairs ffi.cdata*

-- The lists of the next call. A call in the midst of another, in a __tostring or a finalizer, has lists of its own.
---@type lunapark.LogWork|nil
local spare

local function new_work()
  return {
    keys = new_table(MAX_PAIRS, 0), values = new_table(MAX_PAIRS, 0), kinds = new_table(MAX_PAIRS, 0),
    pairs = ffi.new("host_log_pair[?]", MAX_PAIRS + 1),
  }
end

-- Sorts three lists by the first. Short ones, nearly always.
local function sort(keys, values, kinds, n)
  for i = 2, n do
    local key, value, kind = keys[i], values[i], kinds[i]
    local at = i
    while at > 1 and key < keys[at - 1] do
      keys[at], values[at], kinds[at] = keys[at - 1], values[at - 1], kinds[at - 1]
      at = at - 1
    end
    keys[at], values[at], kinds[at] = key, value, kind
  end
end

local function fill(p, key, kind, value)
  p.key, p.key_len, p.kind = key, #key, kind
  if kind == NUMBER then
    p.number = value
  else
    p.text, p.text_len = value, #value
  end
end

local function write(level, msg, t)
  local work = spare or new_work()
  spare = nil
  local keys, values, kinds, list = work.keys, work.values, work.kinds, work.pairs
  local n, more = 0, 0
  local k, v = next(t)
  while k ~= nil do
    if n < MAX_PAIRS then
      n = n + 1
      keys[n], values[n] = k, v
    else
      more = more + 1
    end
    k, v = next(t, k)
  end
  -- From here on code of the user may run and change t.
  for i = 1, n do
    k, v = keys[i], values[i]
    local kind = type(v)
    if type(k) ~= "string" then keys[i] = text_of(k) end
    if kind == "number" then
      kinds[i] = NUMBER
    elseif kind == "string" then
      kinds[i] = STRING
    else
      kinds[i], values[i] = render(v)
    end
  end
  sort(keys, values, kinds, n)
  -- C gets pointers: the strings are held by the lists.
  for i = 1, n do fill(list[i - 1], keys[i], kinds[i], values[i]) end
  if more > 0 then fill(list[n], "left_out", NUMBER, more) end
  C.host_log_pairs(level, msg, #msg, list, more > 0 and n + 1 or n)
  for i = 1, n do
    keys[i], values[i] = nil, nil
  end
  spare = work
end

local function check_pairs(t, what)
  error(("%s: pairs must be a table {key = value}, got %s"):format(what, type(t)), 3)
end

local function logger(level, what)
  return function(msg, t)
    if t ~= nil and type(t) ~= "table" then check_pairs(t, what) end
    if C.host_log_enabled(level) == 0 then return end
    if type(msg) ~= "string" then msg = text_of(msg) end
    if t == nil then
      C.host_log(level, msg, #msg)
    else
      write(level, msg, t)
    end
  end
end

--- Logs a line at level debug, if that level is logged. Does not wait.
---@type fun(msg: any, pairs?: table)  msg: text, else what tostring makes of it; pairs: {key = value}
log.debug = logger(0, "debug")
--- Logs a line at level info, if that level is logged. Does not wait.
---@type fun(msg: any, pairs?: table)  as for log.debug
log.info = logger(1, "info")
--- Logs a line at level warn, if that level is logged. Does not wait.
---@type fun(msg: any, pairs?: table)  as for log.debug
log.warn = logger(2, "warn")
--- Logs a line at level error, if that level is logged. Does not wait.
---@type fun(msg: any, pairs?: table)  as for log.debug
log.error = logger(3, "error")

-- ---- levels ----------------------------------------------------------------------------------------------

local names = { [0] = "debug", "info", "warn", "error" }
local numbers = { debug = 0, info = 1, warn = 2, error = 3 }

local function number_of(level, what)
  local n = numbers[level]
  if not n then error(what .. ": level must be debug, info, warn or error, got " .. tostring(level), 3) end
  return n
end

--- Whether lines of this level are logged. For values that are costly to find out.
---@param level "debug"|"info"|"warn"|"error"
---@return boolean
function log.enabled(level)
  return C.host_log_enabled(number_of(level, "enabled")) ~= 0
end

--- The lowest level that is logged, in all VMs of the process.
---@param new? "debug"|"info"|"warn"|"error"  the level from now on, in place of --log-level
---@return string level  what it was before
function log.level(new)
  local old = names[C.host_log_level()]
  if new ~= nil then C.host_log_set_level(number_of(new, "level")) end
  return old
end

-- ---- flushing --------------------------------------------------------------------------------------------

local function flushed(j)
  if C.host_log_flushed(j) == 1 then return true end
  return nil, "timeout"
end

--- Waits until all lines that the process has logged so far are written, or lost. A process that ends does so by
--- itself, for a second at most.
---@param s? number  seconds; 1 without it
---@return true|nil
---@return string? err  "timeout", "canceled"
function log.flush(s)
  base.check_seconds(s, "flush", true)
  if C.host_log_count(2) == 0 then return true end
  s = s or 1
  if s <= 0 then return nil, "timeout" end
  return job.run(C.host_log_flush(s < 3600 and s * 1e9 or 3600e9), flushed)
end

return log
