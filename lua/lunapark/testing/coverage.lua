--- `lunapark test --coverage`: which lines of the app's Lua were run.
--
-- busted turns coverage on by LuaCov's module, `luacov.runner`. Under Lunapark this module stands in for it
-- (testing/part.lua), so -c, --coverage and `coverage = true` in .busted all work. LuaCov itself hooks each coroutine
-- that is made by coroutine.create or wrap, and knows nothing of Gs. LuaJIT has one hook for a whole VM: ours sees all
-- Gs, of served apps too. Compiled code calls no hooks, so the JIT is off, and specs run several times slower.
--
-- The lines that can be run are not guessed by their text: a file is compiled once more when it is loaded, and its
-- bytecodes name the lines (jit.util). Two bytecodes at the `end` of a function are left out: the making of the
-- function, and the return that ends each function even where it is never reached.
--
-- Files count that are loaded by require, dofile or loadfile after the start, run or not. Spec files, files in a folder
-- `spec` and files below /usr, where busted is, do not count. A configuration, `.luacov` or --coverage-config-file,
-- returns a table as LuaCov's does; its `include` and `exclude` are used, lists of Lua patterns for paths without
-- `.lua`. Other processes that a spec starts are not seen, nor is a run that does not end.

local util = require "jit.util"

local getinfo = debug.getinfo

local coverage = {}

-- Counts by path and line; 0: the line can be run, and was not.

-- Opcodes, taken from functions that are known to have them.
local RET0 = util.funcbc(function() end, 1) % 256
local FNEW = util.funcbc(function() return function() end end, 1) % 256
local UCLO = util.funcbc(function() -- KSHORT, FNEW, UCLO, RET0
  local a = 1
  local _ = function() return a end
end, 3) % 256

local function add_lines(fn, lines)
  local last = util.funcinfo(fn).bytecodes - 1
  if util.funcbc(fn, last) % 256 == RET0 then
    last = last - 1
    if last > 0 and util.funcbc(fn, last) % 256 == UCLO then last = last - 1 end
  end
  for pc = 1, last do
    if util.funcbc(fn, pc) % 256 ~= FNEW then
      local line = util.funcinfo(fn, pc).currentline
      if line and line > 0 then lines[line] = 0 end
    end
  end
  local i = -1
  while true do
    local constant = util.funck(fn, i)
    if constant == nil then return end
    if type(constant) == "proto" then add_lines(constant, lines) end
    i = i - 1
  end
end

--- The lines of a Lua text that can be run, each with a count of 0.
---@param text string
---@return table<integer, integer>|nil lines  nil: the text is no Lua
function coverage.lines(text)
  local chunk = load(text, "=coverage")
  if not chunk then return nil end
  local lines = {}
  add_lines(chunk, lines)
  return lines
end

-- ---- counting ------------------------------------------------------------------------------------------

---@type table<string, table<integer, integer>>
local counts = {}
-- Counts by the name of the chunk; false: the chunk does not count.
local by_source = {}
local specs = {}
local include, exclude = {}, {}

-- The path as seen from the current folder, if it lies below that.
local function short(path)
  local pl = require "pl.path"
  path = pl.normpath(pl.abspath(path))
  local here = pl.currentdir()
  if here:sub(-1) ~= "/" then here = here .. "/" end
  if path:sub(1, #here) == here then return path:sub(#here + 1) end
  return path
end

local function matches(list, path)
  path = path:gsub("%.lua$", "")
  for _, pattern in ipairs(list) do
    if path:find(pattern) then return true end
  end
  return false
end

local function wanted(path)
  if path:sub(1, 5) == "/usr/" or ("/" .. path):find("/spec/", 1, true) then return false end
  if #include > 0 and not matches(include, path) then return false end
  return not matches(exclude, path)
end

local function loaded(path, text)
  if not text then return end
  local source = "@" .. path
  if by_source[source] ~= nil then return end
  local name = short(path)
  by_source[source] = false
  if not wanted(name) then return end
  counts[name] = counts[name] or coverage.lines(text)
  by_source[source] = counts[name] or false
end

local function hook(_, line)
  local lines = by_source[getinfo(2, "S").source]
  local n = lines and lines[line]
  if n then lines[line] = n + 1 end
end

local function configure(path)
  local given = path
  if not path then
    local file = io.open ".luacov"
    if not file then return end
    file:close()
    path = ".luacov"
  end
  local chunk, err = loadfile(path)
  if not chunk then error("coverage: " .. err, 0) end
  local config = chunk()
  if type(config) ~= "table" then
    if not given then return end
    error(("coverage: %s must return a table, got %s"):format(path, type(config)), 0)
  end
  include, exclude = config.include or {}, config.exclude or {}
end

--- Begins to count in all Gs of this VM. The JIT is off from here on.
function coverage.start()
  jit.off()
  jit.flush()
  require("lunapark.std.source").on_load(loaded)
  debug.sethook(hook, "l")
end

--- Ends the counting.
---@return table<string, table<integer, integer>>
function coverage.stop()
  debug.sethook()
  require("lunapark.std.source").on_load(nil)
  for path in next, specs do counts[short(path)] = nil end
  return counts
end

--- Adds the counts of another process to `total`.
---@param total table<string, table<integer, integer>>
---@param more table<string, table<integer, integer>>
function coverage.add(total, more)
  for path, lines in next, more do
    local sum = total[path] or {}
    total[path] = sum
    for line, n in next, lines do sum[line] = (sum[line] or 0) + n end
  end
end

-- ---- as busted calls it ---------------------------------------------------------------------------------

--- Called with the counts when the run ends. In a process of a larger test run it sends them to the process that sums.
---@param total table<string, table<integer, integer>>
function coverage.finish(total)
  coverage.report(total, require("lunapark.core").option_value "coverage_dir")
end

--- LuaCov's module, as far as busted knows it.
coverage.runner = setmetatable({ configuration = { include = {}, exclude = {} } }, {
  __call = function(_, config)
    local busted = require "busted"
    configure(config)
    busted.subscribe({ "register", "file" }, function(path)
      specs[path] = true
      return nil, true
    end, { priority = 1 }) -- busted's own lets nobody hear it after itself
    busted.subscribe({ "exit" }, function()
      coverage.finish(coverage.stop())
      return nil, true
    end)
    coverage.start()
  end,
})

--- Writes the pages, and a table to stderr: stdout may be an output handler's document.
---@param total table<string, table<integer, integer>>
---@param dir string
function coverage.report(total, dir)
  local pages = require "lunapark.testing.coverage_pages"
  local files = pages.sums(total)
  io.stdout:flush()
  io.stderr:write("\n", pages.text(files), "\n")
  local ok, err = pages.write(files, total, dir)
  io.stderr:write(ok and ("Coverage: %s/index.html\n"):format(dir) or ("Coverage: %s\n"):format(err))
end

return coverage
