--- `lunapark test --jobs N`: spec files at once, each in a process of its own.
--
-- A file gets a process and not a VM, because specs change state of the process (signals, descriptors, the log, the
-- environment); a process that crashes or ends with a deadlock is one failed file. Each process runs this command line
-- with `--part=FILE` in front, which names the spec file. Its runner is the usual one; its output handler writes
-- busted's events down (testing/record.lua). This process publishes the events again, file by file in the order of
-- files, to the output handler that was asked for. So any handler works: its document is one document, its sums are the
-- sums. The output of a file's specs is kept whole and comes before its results.
--
-- Two things differ from a run without --jobs: each file is insulated, whatever --no-auto-insulate says, and a helper
-- script runs once per file.

local ffi = require "ffi"
local exec = require "lunapark.exec"
local lp = require "lunapark"
local pieces_of = require("lunapark.core.text").pieces
local report = require "lunapark.testing.report"
local signal = require "lunapark.signal"

-- Bytes that a spec file may print; the rest is left out.
local MAX_OUTPUT = 64 * 2 ^ 20
-- Seconds between TERM and KILL for processes that still run at the end.
local GRACE = 2

ffi.cdef "int getpid(void);"

local jobs = {}

-- ---- which files ----------------------------------------------------------------------------------------

--- The command line as busted reads it, with .busted and its own defaults. nil: the command line is wrong, or asks for
--- something else than a run; busted says so itself.
---@param words string[]
---@return table|nil args
function jobs.parse(words)
  local options = { output = jobs.default_output() }
  local cli = require "busted.modules.cli" (options)
  cli:set_name "busted"
  local ok, args = pcall(cli.parse, cli, words)
  if not ok or not args or args.version or args.list then return nil end
  return args
end

--- The name of the output handler that busted takes if none is named.
---@return string
function jobs.default_output()
  local ok, term = pcall(require, "term")
  return ok and io.type(io.stdout) == "file" and term.isatty(io.stdout) and "utfTerminal" or "plainTerminal"
end

-- fn() in the directory of -C.
local function in_directory(args, fn)
  local path = require "pl.path"
  local before = path.currentdir()
  local ok, err = path.chdir(path.normpath(args.directory))
  if not ok then return nil, tostring(err) end
  local results = { pcall(fn) }
  path.chdir(before)
  if not results[1] then error(results[2], 0) end
  return unpack(results, 2)
end

--- The spec files that a command line means, as busted finds them.
---@param args table  of jobs.parse
---@param missing fun(message: string)  called for a root that is not there, and when there is no spec file
---@return string[]|nil paths  relative to the directory of -C
---@return string? err
function jobs.files(args, missing)
  return in_directory(args, function()
    local publisher = { publish = function(_, _, _, message) missing(message) end }
    local _, _, list = require "busted.modules.test_file_loader"(publisher, { "lua" })
    local files = list(args.ROOT, args.pattern, { excludes = args["exclude-pattern"], recursive = args.recursive })
    if #files == 0 then missing("No test files found matching Lua pattern: " .. table.concat(args.pattern, ", ")) end
    return files
  end)
end

-- ---- processes ------------------------------------------------------------------------------------------

--- The command line that runs a part: our own with the part in front.
---@param path string  of the part file
---@return string[]
function jobs.command(path)
  local file = assert(io.open("/proc/self/cmdline", "rb"))
  local text = file:read "*a"
  file:close()
  local argv = {}
  for word in pieces_of(text, "\0") do
    if word:sub(1, 7) ~= "--part=" then argv[#argv + 1] = word end
  end
  argv[1] = "/proc/" .. ffi.C.getpid() .. "/exe"
  table.insert(argv, 3, "--part=" .. path) -- behind "test"
  return argv
end

local function gather(stream)
  local pieces, size = {}, 0
  while true do
    local piece = stream:read()
    if not piece then break end
    if size <= MAX_OUTPUT then pieces[#pieces + 1] = piece end
    size = size + #piece
  end
  stream:close()
  if size > MAX_OUTPUT then pieces[#pieces + 1] = "\n(more than 64 MiB: the rest is left out)\n" end
  return table.concat(pieces)
end

---@class lunapark.testing.FileRun
---@field stdout string
---@field stderr string
---@field records table[]
---@field ended string|nil  how its process ended, if it ended before its last record, or badly though no test failed

-- Removes files that are of no more use, also when the run is ended early.
local temporary = {}

local function drop(...)
  for i = 1, select("#", ...) do
    local path = select(i, ...)
    temporary[path] = nil
    os.remove(path)
  end
end

--- Starts a process for a part.
---@param part table        as in report.lua, without its report
---@param running table<lunapark.Process, true>
---@param opts table         of exec.spawn
---@return lunapark.Process|nil process
---@return string? err
---@return fun(): table[] finish  returns its records; to be called once in any case
function jobs.start(part, running, opts)
  local part_file, report_file = report.new_file(), report.new_file()
  temporary[part_file], temporary[report_file] = true, true
  part.report = report_file
  local writer = report.open(part_file)
  writer:add(part)
  writer:close()
  local process, err = exec.spawn(jobs.command(part_file), opts)
  if process then running[process] = true end
  return process, err, function()
    if process then running[process] = nil end
    local records = report.read(report_file)
    drop(part_file, report_file)
    return records
  end
end

local function has_failed(records)
  for _, record in ipairs(records) do
    local channel = record[1] == "event" and record[2][1]
    if channel == "failure" or channel == "error" then return true end
  end
end

-- Runs one file; `running` holds its process meanwhile.
---@return lunapark.testing.FileRun
local function run_file(part, running)
  part.role = "file"
  local result = { stdout = "", stderr = "", records = {} }
  local process, err, finish = jobs.start(part, running, { stdin = "null" })
  if process then
    local errors = lp.go(gather, process.stderr)
    result.stdout = gather(process.stdout)
    result.stderr = errors:join() or ""
    local how = process:wait() or {}
    result.records = finish()
    local last = result.records[#result.records]
    local whole = last and last[1] == "end"
    -- After its last record the process may still crash, or a sanitizer may report.
    if not whole or how.code ~= 0 and not has_failed(result.records) then
      result.ended = how.signal and "by signal " .. how.signal or "with exit code " .. tostring(how.code)
    end
  else
    finish()
    result.ended = "before it began: " .. err
  end
  return result
end

--- Ends processes by TERM, and by KILL if they do not heed that.
---@param running table<lunapark.Process, true>
function jobs.stop(running)
  for process in next, running do process:kill "TERM" end
  local give_up = lp.now() + GRACE
  for process in next, running do
    if not process:wait(math.max(give_up - lp.now(), 0)) then process:kill "KILL" end
  end
  for path in next, temporary do os.remove(path) end
end

-- Starts a file when one of n turns is free. fetch(i) waits for the i-th.
local function start_all(parts, n, running)
  local results, turns, stopped = {}, lp.semaphore(n), false
  for i = 1, #parts do results[i] = lp.chan(1) end
  lp.detach(function()
    for i, part in ipairs(parts) do
      turns:acquire()
      if stopped then return end
      lp.detach(function()
        results[i]:send(run_file(part, running))
        turns:release()
      end)
    end
  end)
  return function(i) return (results[i]:recv()) end, function() stopped = true end
end

-- ---- events ---------------------------------------------------------------------------------------------

-- Publishes the events of one file. The file's elements become elements here, below the root.
local function replay(busted, path, result)
  local elements, open_test = {}, nil
  local function element_of(copy)
    if not copy then return nil end
    if copy.descriptor == "suite" then return busted.context.get() end
    local parent = element_of(copy.parent)
    local element = elements[copy.id]
    if not element then
      element = {}
      elements[copy.id] = element
      if parent then
        local inside = parent ~= busted.context.get()
        if inside then busted.context.push(parent) end
        busted.context.attach(element)
        if inside then busted.context.pop() end
      end
    end
    for name, value in next, copy do
      if name ~= "parent" and name ~= "id" then element[name] = value end
    end
    element.attributes = {} -- an envmode is for those who run it
    return element
  end
  for _, record in ipairs(result.records) do
    if record[1] == "event" then
      local channel, element = record[2], element_of(record[3])
      local parent = record[4] and busted.context.parent(element)
      if channel[1] == "test" then open_test = channel[2] == "start" and element or nil end
      if not channel[2] then channel = { channel[1], element.descriptor } end
      -- A file that does not load comes without a place, over which busted's TAP handler stumbles.
      local trace = record[6]
      if type(trace) == "table" and next(trace) == nil then
        trace.short_src, trace.currentline = path, tonumber(tostring(record[5]):match "^[^:]+:(%d+):") or 0
      end
      busted.publish(channel, element, parent, unpack(record, 5, record.n))
    end
  end
  if not result.ended then return end
  local message = ("%s: its process ended %s"):format(path, result.ended)
  local trace = { short_src = path, source = "@" .. path, currentline = 0, traceback = "", message = message }
  if open_test then
    local parent = busted.context.parent(open_test)
    busted.publish({ "error", "it" }, open_test, parent, message, open_test.trace or trace)
    open_test.duration = busted.monotime() - (open_test.starttick or busted.monotime())
    busted.publish({ "test", "end" }, open_test, parent, "error")
    return
  end
  local element = { descriptor = "file", name = path, attributes = {}, trace = trace }
  busted.publish({ "error", "file" }, element, nil, message, trace)
end

-- One run of all files; `say(result, path)` sees each.
local function run_once(busted, parts, n, say)
  local running, interrupted = {}, nil
  local fetch, stop_starting = start_all(parts, n, running)
  local stop = signal.notify("INT", "TERM")
  lp.detach(function()
    if not stop:recv() then return end
    interrupted = true
    stop_starting()
    jobs.stop(running)
    os.exit(130)
  end)
  for i, part in ipairs(parts) do
    local result = fetch(i)
    if interrupted then lp.park() end
    io.stdout:write(result.stdout)
    io.stdout:flush()
    io.stderr:write(result.stderr)
    io.stderr:flush()
    replay(busted, part.file, result)
    say(part.file, result)
    if busted.skipAll then
      stop_starting()
      jobs.stop(running)
      break
    end
  end
  stop:stop()
end

---@class lunapark.testing.JobsOptions
---@field jobs integer      how many at once
---@field files string[]?   the spec files; without it the ones of the command line
---@field loads boolean?    each process tells the files that it has loaded
---@field say fun(path: string, result: lunapark.testing.FileRun)?

--- Runs spec files in processes, and prints their results by the output handler.
---@param words string[]  the command line, without our own options
---@param opts lunapark.testing.JobsOptions
---@return integer|nil code  busted's exit code; nil: no file was run, and busted is to say why
function jobs.run(words, opts)
  local args = jobs.parse(words)
  if not args then return nil end
  local busted = require "busted.core" ()
  local utils = require "busted.utils"
  local loader = require "busted.modules.output_handler_loader" ()
  require "busted" (busted)
  local bad = 0
  local function count()
    bad = bad + 1
    busted.skipAll = busted.skipAll or not args["keep-going"]
    return nil, true
  end
  busted.subscribe({ "error", "output" }, function(element, _, message)
    io.stderr:write(("lunapark test: error: Cannot load output library: %s\n%s\n"):format(element.name, message))
    return nil, true
  end)
  busted.subscribe({ "error" }, count)
  busted.subscribe({ "failure" }, count)
  busted.sort, busted.randomize = args["sort-tests"], args["shuffle-tests"]
  busted.randomseed = tonumber(args.seed) or utils.urandom() or os.time()
  loader(busted, args.output, {
    defaultOutput = jobs.default_output(), enableSound = args["enable-sound"], verbose = args.verbose,
    suppressPending = args["suppress-pending"], language = args.lang, deferPrint = args["defer-print"],
    arguments = args.Xoutput,
  })
  local files = opts.files
  if not files then
    local err
    files, err = jobs.files(args, function(message) busted.publish({ "error" }, {}, nil, message, {}) end)
    if not files then
      io.stderr:write("lunapark test: error: ", err, "\n")
      return 1
    end
  end
  if args["sort-files"] then table.sort(files) end
  local runs = args["repeat"]
  for run = 1, runs do
    local root = busted.context.get()
    if run > 1 then
      busted.context.clear()
      root = busted.context.get()
      busted.randomseed = tonumber(args.seed) or utils.urandom() or os.time()
      busted.safe_publish("suite", { "suite", "reset" }, root, run, runs)
    end
    if args["shuffle-files"] and not args["sort-files"] then utils.shuffle(files, busted.randomseed) end
    local parts = {}
    for i, file in ipairs(files) do parts[i] = { file = file, seed = busted.randomseed, loads = opts.loads } end
    busted.safe_publish("suite", { "suite", "start" }, root, run, runs, busted.randomize and busted.randomseed or nil)
    run_once(busted, parts, opts.jobs, opts.say or function() end)
    busted.safe_publish("suite", { "suite", "end" }, root, run, runs)
    if busted.skipAll then break end
  end
  busted.publish { "exit" }
  return bad > 0 and 1 or 0
end

return jobs
