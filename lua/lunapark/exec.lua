--- Other programs: `lunapark.exec`. Only the G that calls waits.
--
--   local r = assert(exec.run({ "git", "log", "-1" }, { cwd = "/srv/app", timeout = 5 }))
--   print(r.code, r.stdout)
--
-- A program is a list of its name and its arguments. No shell looks at the list, unless `opts.shell` is true. A program
-- starts with all signals at their defaults, no descriptors but 0 to 2, and as the leader of a process group: `kill`
-- and timeouts also reach the processes that it has started.
--
-- `run` collects the output of a program and returns when the program has ended. `spawn` returns at once, with the
-- program's streams as connections of lunapark.net. A process that is not waited for is no zombie for long, and goes on
-- when its handle is gone. When the VM of an app ends after a reload, the processes that it has handles of are killed.
--
-- How it works: host/sys/exec.c.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local base = require "lunapark.core.base"
local number_text = require("lunapark.core.text").number
local common = require "lunapark.net.sock"
local conn = require "lunapark.net.conn"
local run_job = require("lunapark.core.job").run
local lp = require "lunapark"
local as_given = require("lunapark.core.show").given

local C = ffi.C
local concat = table.concat
local message = common.message
local note = debug.getregistry()["lunapark.note"]
local err_out = ffi.new "int[1]"
local READ = 1
local MAX_OUTPUT, GRACE = 16 * 2 ^ 20, 2

local exec = {}

local how = { pipe = C.HOST_PIPE, inherit = C.HOST_INHERIT, null = C.HOST_NOTHING, stdout = C.HOST_STDOUT }

---@class lunapark.ExecResult
---@field code integer?    its exit code
---@field signal string?   or the name of the signal that has ended it: "TERM"
---@field stdout string?   of exec.run: its output
---@field stderr string?

---@class lunapark.SpawnOptions
---@field env table<string, string|number>?  its whole environment; without it ours
---@field cwd string?      its directory
---@field shell boolean?   the program is a command line for /bin/sh; further words are its $0, $1 ...
---@field timeout number?  seconds until its process group gets TERM
---@field grace number?    seconds from TERM until the group gets KILL; 2 without it
---@field stdin string?    "pipe" (the default), "null" or "inherit"
---@field stdout string?   "pipe" (the default), "null" or "inherit"
---@field stderr string?   "pipe" (the default), "null", "inherit", or "stdout": it goes where stdout goes

---@class lunapark.RunOptions: lunapark.SpawnOptions
---@field stdin string?      the program's input; "inherit": our stdin; without it nothing
---@field input string?      the program's input, also if it is the word "inherit"; instead of stdin
---@field stdout string?     "inherit" or "null"; without it collected
---@field stderr string?     "inherit", "null" or "stdout"; without it collected
---@field max_output number? bytes of each stream; a program that writes more is killed; 16 MiB without it

-- ---- arguments ------------------------------------------------------------------------------------------

local function check_number(n, what, name, level)
  if n ~= nil and (type(n) ~= "number" or n ~= n or n < 0) then
    error(("%s: %s must be a number, 0 or more, got %s"):format(what, name, as_given(n)), level + 1)
  end
end

-- The words as one block of C strings, and how many there are.
local function argv_block(argv, shell, what)
  if shell and type(argv) == "string" then argv = { argv } end
  if type(argv) ~= "table" then
    error(("%s: argv must be a list of strings, got %s"):format(what, type(argv)), 4)
  end
  local words = shell and { "/bin/sh", "-c" } or {}
  if #argv == 0 then error(what .. ": argv must not be empty", 4) end
  for i, word in ipairs(argv) do
    if type(word) == "number" then word = number_text(word) end
    base.check_text(word, what, ("argv[%d]"):format(i), 5)
    words[#words + 1] = word
  end
  return concat(words, "\0") .. "\0", #words, words[1]
end

local function env_block(env, what)
  if env == nil then return "", -1 end
  if type(env) ~= "table" then error(("%s: opts.env must be a table, got %s"):format(what, type(env)), 4) end
  local list = {}
  for name, value in pairs(env) do
    base.check_text(name, what, "a name in opts.env", 5)
    if name == "" or name:find("=", 1, true) then
      error(("%s: opts.env has a name that is none: '%s'"):format(what, name), 4)
    end
    if type(value) == "number" then value = number_text(value) end
    base.check_text(value, what, "opts.env." .. name, 5)
    list[#list + 1] = name .. "=" .. value .. "\0"
  end
  return concat(list), #list
end

local function stream(opts, name, default, allowed, what)
  local word = opts[name] or default
  if type(word) ~= "string" or not allowed:find(" " .. word .. " ", 1, true) then
    error(("%s: opts.%s must be one of%sgot %s"):format(what, name, allowed:gsub(" $", ", "), tostring(word)), 3)
  end
  return how[word]
end

local function check_opts(opts, what)
  if opts ~= nil and type(opts) ~= "table" then
    error(("%s: opts must be a table, got %s"):format(what, type(opts)), 3)
  end
  opts = opts or {}
  check_number(opts.timeout, what, "opts.timeout", 3)
  check_number(opts.grace, what, "opts.grace", 3)
  check_number(opts.max_output, what, "opts.max_output", 3)
  if opts.cwd ~= nil then base.check_text(opts.cwd, what, "opts.cwd", 4) end
  return opts
end

-- ---- processes ------------------------------------------------------------------------------------------

---@class lunapark.Process
---@field pid integer
---@field stdin lunapark.Conn?   to write to; closing it is the end of the program's input
---@field stdout lunapark.Conn?  to read from
---@field stderr lunapark.Conn?
---@field private proc ffi.cdata*  host_proc
---@field private result lunapark.ExecResult?
local Process = {}
local process_mt = { __name = "lunapark.Process", __index = Process }

-- Seconds as a moment for core's waits; nil: never.
local function moment(s)
  return s and s < 9e9 and tonumber(C.rt_nanotime()) + s * 1e9 or nil
end

local function take_stream(proc, i)
  local sock = C.host_proc_stream(proc, i, err_out)
  if sock ~= nil then return conn.new(ffi.gc(sock, C.host_sock_free)) end
  if err_out[0] ~= 0 then return nil, message(err_out[0]) end
end

local function take_process(job, program, cwd)
  local proc = C.host_exec_take(job, err_out)
  if proc == nil then
    local about = C.host_exec_bad_cwd(job) == 1 and cwd or program
    return nil, message(err_out[0]) .. ": " .. about
  end
  ffi.gc(proc, C.host_proc_free)
  local self = setmetatable({ proc = proc, pid = C.host_proc_pid(proc) }, process_mt)
  local err
  for i, name in ipairs { "stdin", "stdout", "stderr" } do
    local why
    self[name], why = take_stream(proc, i - 1)
    err = err or why
  end
  if err then
    C.host_proc_kill(proc, 9)
    return nil, err
  end
  return self
end

-- Starts a program; the streams are C's numbers. May wait. Called by a function that users call.
local function start(argv, opts, what, stdin, stdout, stderr)
  local words, argc, program = argv_block(argv, opts.shell, what)
  local env, envc = env_block(opts.env, what)
  local job = C.host_exec(words, #words, argc, env, #env, envc, opts.cwd, stdin, stdout, stderr, 1)
  local p, err = run_job(job, take_process, program, opts.cwd)
  if p and note then note("process", p) end
  return p, err
end

-- Waits until the process is a zombie.
local function wait_end(self, at)
  while not self.result and C.host_proc_ended(self.proc) == 0 do
    local watch = C.host_proc_watch(self.proc, err_out)
    if watch == nil then return nil, message(err_out[0]) end
    local why = core.wait_sock(watch, READ, at)
    if why and why ~= "closed" then return nil, why end
  end
  return true
end

local function reap(self)
  if not self.result then
    local status = C.host_proc_reap(self.proc)
    if status >= 0 then
      self.result = { code = status }
    else
      local name = C.host_signal_name(-status)
      self.result = { signal = name ~= nil and ffi.string(name) or tostring(-status) }
    end
  end
  return self.result
end

--- Waits until the process has ended.
---@param s? number  seconds; without it as long as the caller's deadline allows
---@return lunapark.ExecResult|nil result  its code or signal
---@return string? err  "timeout", "canceled": the process runs on
function Process:wait(s)
  check_number(s, "wait", "s", 2)
  local ok, err = wait_end(self, moment(s))
  if not ok then return base.heard(err) end
  local r = reap(self)
  return { code = r.code, signal = r.signal }
end

local signals -- numbers by name

local function signal_number(sig)
  if sig == nil then return 15 end
  if type(sig) == "number" and sig % 1 == 0 and sig >= 0 and sig <= 64 then return sig end
  if not signals then
    signals = {}
    for n = 1, 64 do
      local name = C.host_signal_name(n)
      if name ~= nil then signals[ffi.string(name)] = n end
    end
  end
  return type(sig) == "string" and signals[(sig:gsub("^SIG", ""))]
end

--- Sends a signal to the process and its process group.
---@param sig? string|integer  "TERM" without it; "KILL", "SIGHUP", 9
---@return true|nil ok
---@return string? err  "no such process": the process has ended
function Process:kill(sig)
  local n = signal_number(sig)
  if not n then error("kill: sig must be a signal's name or number, got " .. as_given(sig), 2) end
  local rc = C.host_proc_kill(self.proc, n)
  if rc < 0 then return nil, message(rc) end
  return true
end

-- Ends the process group: TERM, later KILL for the processes that are left. Reaps the process unless our waits are
-- ended.
local function terminate(self, grace)
  C.host_proc_kill(self.proc, 15)
  wait_end(self, moment(grace))
  C.host_proc_kill(self.proc, 9)
  if wait_end(self, moment(10)) then reap(self) end
end

-- ---- what os.execute and io.popen need (std/blocking.lua) ---------------------------------------------------

--- Starts a command line. In a script it is started as LuaJIT would start it: in our process group and with our stdin.
--- Under `serve`, where it must end with its request and no terminal is its own, it gets a process group of its own and
--- no input. May wait.
---@param line string
---@param stdin string   as in lunapark.SpawnOptions
---@param stdout string
---@return lunapark.Process|nil process
---@return string? err
function exec.shell(line, stdin, stdout)
  local serves = debug.getregistry()["lunapark.serves"]
  if serves and stdin == "inherit" then stdin = "null" end
  local words, argc = argv_block(line, true, "shell")
  local group = serves and 1 or 0
  local job = C.host_exec(words, #words, argc, "", 0, -1, nil, how[stdin], how[stdout], C.HOST_INHERIT, group)
  return run_job(job, take_process, "/bin/sh")
end

--- Waits for the end of a process of exec.shell. When the wait is ended early the process gets TERM, and later KILL.
---@param p lunapark.Process
---@return integer|nil status  as waitpid has it: 256 times the exit code, or the signal that has ended the process
---@return string? err  "timeout", "canceled"
function exec.status(p)
  C.host_proc_bind(p.proc, 1)
  local ok, err = wait_end(p)
  if not ok then
    lp.detach(terminate, p, GRACE)
    return base.heard(err)
  end
  local status = C.host_proc_reap(p.proc)
  return status < 0 and -status or status * 256
end

--- Starts a program. May wait until the program's file is read.
---@param argv string[]|string  its name, found by PATH, and its arguments; a string only with opts.shell
---@param opts? lunapark.SpawnOptions
---@return lunapark.Process|nil process
---@return string? err  "no such file or directory: nosuchprogram"
function exec.spawn(argv, opts)
  opts = check_opts(opts, "spawn")
  local stdin = stream(opts, "stdin", "pipe", " pipe null inherit ", "spawn")
  local stdout = stream(opts, "stdout", "pipe", " pipe null inherit ", "spawn")
  local stderr = stream(opts, "stderr", "pipe", " pipe null inherit stdout ", "spawn")
  local p, err = start(argv, opts, "spawn", stdin, stdout, stderr)
  if p and opts.timeout then
    lp.detach(function()
      local ended = wait_end(p, moment(opts.timeout))
      if not ended then terminate(p, opts.grace or GRACE) end
    end)
  end
  return p, err
end

-- ---- run ------------------------------------------------------------------------------------------------

-- The largest pipe that the kernel makes without being asked by root: what an ended program may have left in one.
local PIPE_MAX = 2 ^ 20

-- The next piece that is there without a wait, after the deadline of the reads has come; nil: there is none.
local function left_in(c)
  c:set_read_deadline(nil)
  return C.host_sock_fill(c.sock, 65536) > 0 and c:read() or nil
end

-- Reads to the end into list, or, when the program has ended (`ends`), what it has written: a process that it has
-- started may hold the stream for as long as it likes.
local function gather(c, list, max, ends)
  local size, left = 0, 0
  while true do
    local piece, err
    if not ends.now then piece, err = c:read() end
    if ends.now and not piece and err ~= "eof" and left < PIPE_MAX then
      piece, err = left_in(c), "eof"
      left = left + (piece and #piece or 0)
    end
    if not piece then return err == "eof" or nil, err end
    size = size + #piece
    if size > max then return nil, "too much output" end
    list[#list + 1] = piece
  end
end

-- That a program ends, or closes its stdin, before it has read everything is no failure.
local function feed(c, text)
  c:write(text)
  c:close()
  return true
end

local function close_streams(p)
  for _, name in ipairs { "stdin", "stdout", "stderr" } do
    if p[name] then p[name]:close() end
  end
end

-- The program's input; nil: none of ours.
local function input_of(opts)
  for _, name in ipairs { "stdin", "input" } do
    local text = opts[name]
    if text ~= nil and type(text) ~= "string" then
      error(("run: opts.%s must be a string, got %s"):format(name, type(text)), 3)
    end
  end
  if opts.input and opts.stdin then error("run: opts.input and opts.stdin are both set", 3) end
  return opts.input or opts.stdin ~= "inherit" and opts.stdin or nil
end

-- Ends a program that is not waited for any more. Its output is read meanwhile, or else it would die of SIGPIPE.
local function terminate_alone(p, grace)
  if p.stdin then p.stdin:close() end
  local function drain(c)
    while c:read() do end
  end
  if p.stdout then lp.go(drain, p.stdout) end
  if p.stderr then lp.go(drain, p.stderr) end
  terminate(p, grace)
  close_streams(p)
end

-- As gather; a program of which no more can be taken is ended, which ends the wait for it.
local function gather_or_kill(p, ...)
  local ok, err = gather(...)
  if err == "too much output" then C.host_proc_kill(p.proc, 9) end
  return ok, err
end

-- Waits until the process has ended and what it has written is read: true; or nil, why not.
local function attend(p, opts, text, at, out, err)
  local gs, max, ends = {}, opts.max_output or MAX_OUTPUT, { now = false }
  if p.stdin then gs[1] = lp.go(feed, p.stdin, text) end
  if p.stderr then gs[#gs + 1] = lp.go(gather_or_kill, p, p.stderr, err, max, ends) end
  if p.stdout then gs[#gs + 1] = lp.go(gather_or_kill, p, p.stdout, out, max, ends) end
  local ended, why = wait_end(p, at and at * 1e9)
  if not ended then return base.heard(why) end
  ends.now = true
  if p.stdin then p.stdin:close() end
  for _, c in ipairs { p.stdout or p.stderr, p.stderr } do c:set_read_deadline(0) end
  for i = #gs, 1, -1 do
    local ok, failed = gs[i]:join()
    if not ok then return nil, failed end
  end
  return true
end

--- Runs a program to its end. May wait. A process that the program leaves behind is not waited for, though it may hold
--- the program's stdout: what the program itself has written is there.
---
--- When the program's time is over, its process group gets TERM, and after `opts.grace` KILL; then `run` answers nil,
--- "timeout" and the output until then. When the caller's deadline or a cancellation ends the wait, the program is
--- ended in the same way, but `run` does not wait for it.
---@param argv string[]|string  its name, found by PATH, and its arguments; a string only with opts.shell
---@param opts? lunapark.RunOptions
---@return lunapark.ExecResult|nil result
---@return string? err  "timeout", "canceled", "too much output", "no such file or directory: nosuchprogram"
---@return lunapark.ExecResult? partial
function exec.run(argv, opts)
  opts = check_opts(opts, "run")
  local text = input_of(opts)
  local stdin = how[text and "pipe" or opts.stdin and "inherit" or "null"]
  local stdout = stream(opts, "stdout", "pipe", " pipe null inherit ", "run")
  local stderr = stream(opts, "stderr", "pipe", " pipe null inherit stdout ", "run")
  local at = opts.timeout and opts.timeout < 9e9 and lp.now() + opts.timeout
  local p, err = start(argv, opts, "run", stdin, stdout, stderr)
  if not p then return nil, err end
  C.host_proc_bind(p.proc, 1)
  local out, errors = {}, {}
  local ok
  ok, err = attend(p, opts, text, at, out, errors)
  local interrupted = err == "canceled" or err == "timeout" and not (at and lp.now() >= at)
  if interrupted then
    lp.detach(terminate_alone, p, opts.grace or GRACE)
  else
    if ok then
      reap(p)
    else
      terminate(p, err == "timeout" and (opts.grace or GRACE) or 0)
    end
    close_streams(p)
  end
  local r = p.result or {}
  local result = {
    code = r.code, signal = r.signal, stdout = stdout == how.pipe and concat(out) or nil,
    stderr = stderr == how.pipe and concat(errors) or nil,
  }
  if ok then return result end
  return nil, err, result
end

return exec
