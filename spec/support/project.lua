--- A folder with files, for specs about `lunapark test` and the like, in which the binary is run.
--
--   local p = project.new { ["spec/a_spec.lua"] = "..." }
--   local code, out, err = p:run { "test", "--jobs", "2" }
--
-- `project.clean()`, in after_each, removes all of them and ends what still runs.

local child = require "spec.support.child"
local exec = require "lunapark.exec"
local lp = require "lunapark"
local path = require "pl.path"

local project = {}
local Project = {}
Project.__index = Project

local folders, processes = {}, {}

-- Generous: sanitizer builds on a busy machine are slow, and only a failing spec waits so long.
local PATIENCE = 60

--- Puts files there.
function Project:write(name, text)
  local file = self.dir .. "/" .. name
  assert(require("pl.dir").makepath(path.dirname(file)))
  local f = assert(io.open(file, "w"))
  f:write(text)
  f:close()
end

function Project:read(name)
  local f = io.open(self.dir .. "/" .. name)
  local text = f and f:read "*a"
  if f then f:close() end
  return text
end

function Project:remove(name)
  os.remove(self.dir .. "/" .. name)
end

function project.new(files)
  local dir = os.tmpname()
  os.remove(dir)
  assert(path.mkdir(dir))
  folders[#folders + 1] = dir
  local self = setmetatable({ dir = dir, binary = path.abspath(child.binary) }, Project)
  for name, text in pairs(files) do self:write(name, text) end
  return self
end

local function argv_of(self, args)
  local argv = { self.binary }
  for _, word in ipairs(args) do argv[#argv + 1] = word end
  return argv
end

--- Runs it to its end: its exit code, stdout, stderr.
function Project:run(args, stdin, env)
  local r, err = exec.run(argv_of(self, args), { cwd = self.dir, timeout = PATIENCE, stdin = stdin, env = env })
  assert(r, err)
  return r.code or r.signal, r.stdout, r.stderr
end

--- Starts it. What it writes is gathered: p.out.
function Project:start(args)
  local p = assert(exec.spawn(argv_of(self, args), { cwd = self.dir, stderr = "stdout", stdin = "null" }))
  processes[#processes + 1] = p
  local started = { process = p, out = "" }
  started.reader = lp.go(function()
    while true do
      local piece = p.stdout:read()
      if not piece then break end
      started.out = started.out .. piece
    end
    p.stdout:close()
  end)
  return started
end

--- Waits until it has written this, behind what was there before.
function project.await(started, text, from)
  local at
  child.eventually(function()
    at = started.out:find(text, from or 1, true)
    return at
  end, ("'%s' in\n%s\n"):format(text, started.out))
  return at + #text
end

function project.clean()
  for _, p in ipairs(processes) do
    p:kill "KILL"
    p:wait(10)
    if p.stdout then p.stdout:close() end
  end
  for _, dir in ipairs(folders) do require("pl.dir").rmtree(dir) end
  folders, processes = {}, {}
end

return project
