--- `lunapark test --watch`: runs the spec files that changed files reach, again and again, until Ctrl-C.
--
-- Each round is a process, `lunapark test --part=FILE`. It runs the spec files that it is told (in processes of their
-- own, testing/jobs.lua), and tells for each which files it has loaded, or looked for, and their contents. This process
-- watches these files (host/generation/changes.c), together with the folders of the spec files and .busted. After an
-- event files
-- are compared by their contents, so a file that was only touched starts no round.
--
-- Files count that are loaded by require, dofile or loadfile. Files that a spec reads otherwise, or that programs load
-- which it starts, are not known.

local ffi = require "ffi"
require "lunapark.cdef"
local fs = require "lunapark.fs"
local jobs = require "lunapark.testing.jobs"
local lp = require "lunapark"
local part = require "lunapark.testing.part"
local run_job = require("lunapark.core.job").run
local signal = require "lunapark.signal"

local C = ffi.C

local watch = {}

-- The files that each spec file has loaded: { [path] = digest or false }.
local known = {}
local running = {}

local function say(...)
  io.stdout:flush()
  io.stderr:write("lunapark: ", ...)
  io.stderr:write "\n"
end

local function digest_of(path)
  local bytes = fs.read(path)
  return bytes and part.digest(bytes) or false
end

-- The spec files that changed files reach, or that have not been run; and the changed files.
local function reached(files)
  local now, changed, list = {}, {}, {}
  for _, file in ipairs(files) do
    local again = known[file] == nil
    for path, was in next, known[file] or {} do
      if now[path] == nil then now[path] = digest_of(path) end
      if now[path] ~= was then
        again = true
        changed[path] = true
      end
    end
    if again then list[#list + 1] = file end
  end
  return list, changed
end

local function short(path)
  local here = require("pl.path").currentdir()
  if here:sub(-1) ~= "/" then here = here .. "/" end
  return path:sub(1, #here) == here and path:sub(#here + 1) or path
end

local function names_of(changed)
  local names = {}
  for path in next, changed do names[#names + 1] = short(path) end
  table.sort(names)
  return table.concat(names, ", ")
end

-- One round. A spec file that tells no loads has loaded itself alone.
local function round(files, base)
  for _, file in ipairs(files) do
    local path = part.absolute(base .. "/" .. file)
    known[file] = { [path] = digest_of(path) }
  end
  local process, err, finish = jobs.start({ role = "run", files = files }, running,
    { stdin = "null", stdout = "inherit", stderr = "inherit" })
  if process then
    process:wait()
  else
    say(err)
  end
  for _, record in ipairs(finish()) do
    if record[1] == "file" then
      for path, digest in next, record[3] do known[record[2]][path] = digest end
    end
  end
end

-- Watches all known files, and the folders in which spec files may come.
local function watch_all(args, base)
  local seen, list = {}, {}
  local function add(path)
    path = part.absolute(path)
    if not seen[path] then
      seen[path] = true
      list[#list + 1] = path
    end
  end
  for _, loads in next, known do
    for path in next, loads do add(path) end
  end
  for _, root in ipairs(args.ROOT) do add(base .. "/" .. root) end
  add(base .. "/.busted")
  local text = table.concat(list, "\0") .. "\0"
  local ok, err = run_job(C.host_changes_watch(text, #text, #list), function() return true end)
  if not ok then error("watch: " .. tostring(err), 0) end
end

local function list_files(words)
  local args = jobs.parse(words)
  if not args then return nil end
  local missing
  local files, err = jobs.files(args, function(message) missing = message end)
  if files and #files > 0 then missing = nil end
  return args, files or {}, err or missing
end

--- Runs until Ctrl-C.
---@param words string[]  the command line, without our own options
---@return integer|nil code  nil: the command line is wrong, and busted is to say so
function watch.run(words)
  if not jobs.parse(words) then return nil end
  local stop = signal.notify("INT", "TERM")
  lp.detach(function()
    stop:recv()
    jobs.stop(running)
    os.exit(0)
  end)
  local config
  while true do
    local args, files, problem = list_files(words)
    if not args then
      say "the command line or .busted is wrong"
      args, files = { ROOT = { "spec" }, directory = "./" }, {}
    end
    local base = args.directory
    local now = digest_of(part.absolute(base .. "/.busted"))
    if now ~= config then known = {} end -- it decides about all of them
    config = now
    local again, changed = reached(files)
    if #again > 0 then
      local first = next(changed) == nil
      say(first and "" or "changed: " .. names_of(changed) .. "; ",
        ("running %d of %d spec files: "):format(#again, #files), table.concat(again, " "))
      round(again, base)
    end
    if problem then say(problem) end
    watch_all(args, base)
    -- Files may have changed after they were loaded and before they were watched.
    local args_now, files_now = list_files(words)
    if #(args_now and reached(files_now) or {}) == 0 then
      if #again > 0 or problem then say "waiting for changes; Ctrl-C ends" end
      run_job(C.host_changes_wait(), function() return true end)
    end
  end
end

return watch
