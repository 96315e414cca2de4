--- The work of `lunapark test` around a run of busted: --jobs, --watch, --coverage; and the run of a part that another
--- process of the test run has asked for (testing/jobs.lua, testing/watch.lua).

local core = require "lunapark.core"
local coverage = require "lunapark.testing.coverage"
local ffi = require "ffi"
local report = require "lunapark.testing.report"

ffi.cdef "char *SHA1Data(const uint8_t *data, size_t len, char *text);"

local part = {}

-- Loads a module of busted as it would be found without our package.preload.
local function original(name)
  for i = 2, #package.loaders do
    local found = package.loaders[i](name)
    if type(found) == "function" then return found(name) end
  end
  error(("module '%s' not found"):format(name), 0)
end

-- Makes busted's runner find this file alone, with this seed.
local function narrow(given)
  local name = "busted.modules.test_file_loader"
  package.preload[name] = function()
    local loader = original(name)
    return function(busted, loaders)
      local load_files, load_file, list = loader(busted, loaders)
      if given.seed then busted.randomseed = given.seed end
      return function(_, patterns, options) return load_files({ given.file }, patterns, options) end, load_file, list
    end
  end
end

--- The digest of a file's content.
---@param bytes string
---@return string
function part.digest(bytes)
  local text = ffi.new "char[41]"
  return ffi.string(ffi.C.SHA1Data(bytes, #bytes, text))
end

--- An absolute path without ./ and ../ in it.
---@param path string
---@return string
function part.absolute(path)
  local pl = require "pl.path"
  return pl.normpath(pl.abspath(path))
end

-- Notes the files that are asked for, with their content. Files of the system do not change during a test run.
local function note_loads()
  local loads = {}
  local absolute, digest = part.absolute, part.digest
  require("lunapark.std.source").on_load(function(path, bytes)
    path = absolute(path)
    if path:sub(1, 5) ~= "/usr/" and loads[path] == nil then loads[path] = bytes and digest(bytes) or false end
  end)
  return loads
end

local function run_file(given, words)
  local record = require "lunapark.testing.record"
  local recorder = record.open(given.report)
  package.preload["lunapark.testing.recorder"] = function() return record.handler end
  narrow(given)
  words[#words + 1] = "--output=lunapark.testing.recorder"
  words[#words + 1] = "--repeat=1"
  coverage.finish = function(counts) recorder:add("coverage", counts) end
  local loads = given.loads and note_loads()
  if loads then recorder.before_end = function() recorder:add("loads", loads) end end
end

-- Runs files in processes, and makes one report of their coverage.
local function run_jobs(words, opts)
  local total, say = nil, opts.say
  opts.say = function(path, result)
    for _, record in ipairs(result.records) do
      if record[1] == "coverage" then
        total = total or {}
        coverage.add(total, record[2])
      end
    end
    if say then say(path, result) end
  end
  opts.loads = say and true
  local code = require("lunapark.testing.jobs").run(words, opts)
  if total then coverage.report(total, core.option_value "coverage_dir") end
  return code
end

local function run_some(given, words)
  local writer = report.open(given.report)
  local code = run_jobs(words, {
    jobs = core.option_value "jobs", files = given.files,
    say = function(path, result)
      local loads = {}
      for _, record in ipairs(result.records) do
        if record[1] == "loads" then loads = record[2] end
      end
      writer:add("file", path, loads, result.ended)
    end,
  })
  writer:add("end", code)
  writer:close()
  return code
end

-- Words that make busted print something and run nothing.
local function asks(words)
  for _, word in ipairs(words) do
    if word == "--list" or word == "-l" or word == "--version" then return true end
  end
end

--- Handles our own options, before busted's runner.
---@param words string[]  the command line as options.c has left it; changed
---@return integer|nil code  the run is over; nil: busted's runner is to run here
---@return boolean? whole    it is to run all tests that were asked for, and not a part for another process
function part.enter(words)
  package.preload["luacov.runner"] = function() return coverage.runner end
  local path = words[1] and words[1]:match "^%-%-part=(.*)"
  if path then
    table.remove(words, 1)
    local given = report.read(path)[1]
    if not given then error("--part is for lunapark itself: " .. path .. " is no part", 0) end
    given = given[1]
    if given.role == "run" then return run_some(given, words) end
    run_file(given, words)
    return nil
  end
  if asks(words) then return nil end
  if core.option_value "watch" == 1 then return require("lunapark.testing.watch").run(words) end
  local n = core.option_value "jobs"
  if n > 1 then return run_jobs(words, { jobs = n }) end
  return nil, true
end

return part
