--- `lunapark test`: busted, whose blocks run in Gs.
--
-- busted is as it was installed; its options, outputs and exit code are its own. We replace functions of its core,
-- which its runner makes once for the whole run (`install`):
--
--   * busted.safe runs a block. Each block (it, before_each, setup, a describe's body, a file ...) gets a G of its own,
--     and the runner's G waits for it, at most --block-timeout, and not longer than it can still be woken
--     (host/vm/block.c). Then the block fails, with a dump of all Gs of the VM, and is ended with the Gs that it
--     started.
--   * busted.getTrace says where an error was raised. The block's G knows; the runner's G raises the error again.
--   * busted.register gets the executors of `it`, `describe` and files. Around them we note the objects that are made:
--     they are closed when the element ends, or are leaks (leaks.lua).
--   * busted.safe_publish tells that a test has ended. When objects of a test are left by then, its after_each blocks
--     may tidy up: so the news of its end is held back until they have run. For all other tests the order stays
--     busted's.
--
-- A leak, a deadlock and a block that takes too long are failures of an `it`, and errors elsewhere, as busted counts
-- what assert raises.
--
-- A run that a block ends by os.exit(0) fails, as it does with --jobs: the tests behind it did not run, and the code
-- would say that they passed.

local ffi = require "ffi"
require "lunapark.cdef"
local base = require "lunapark.core.base"
local core = require "lunapark.core"
local leaks = require "lunapark.testing.leaks"
local lp = require "lunapark"

local C = ffi.C
local registry = debug.getregistry()

local runner = {}

-- Seconds between two looks at whether all Gs are asleep. They are if nothing has moved from one to the next.
local LOOK = 0.15

---@class lunapark.testing.Frame
---@field element table    of busted: an it, a describe or a file
---@field closers table[]  objects to close when it ends, without the collected ones
---@field n_closers integer  how many were put into closers
---@field allowed table    by testing.allow_leak
---@field limit number?    by testing.block_timeout
---@field owner lunapark.testing.Owner?  of an it
---@field held table?      of an it: the arguments of the news of its end

---@type lunapark.testing.Frame[]
local frames = {}

local busted -- the run's own core

local function pack(...)
  return { n = select("#", ...), ... }
end

-- ---- names and places ------------------------------------------------------------------------------------

local function place_of(element)
  local trace = element.trace
  if trace then return trace.short_src, trace.currentline end
  return element.name or "?", 1
end

-- `it "waits" (spec/x_spec.lua:12)`
local function name_of(element, descriptor)
  local names = {}
  local at = element
  while at and at.descriptor ~= "file" and at.descriptor ~= "suite" do
    if at.name then table.insert(names, 1, tostring(at.name)) end
    at = busted.context.parent(at)
  end
  local name = #names > 0 and (' "%s"'):format(table.concat(names, " ")) or ""
  return ("%s%s (%s:%d)"):format(descriptor, name, place_of(element))
end

-- busted's form of an error that belongs to the element as a whole.
local function trace_of(element)
  local file, line = place_of(element)
  return { short_src = file, source = "@" .. file, currentline = line, traceback = "", what = "Lua" }
end

-- A dump of all Gs of the VM except this one, the runner's.
local function dump()
  local lines, ours = {}, false
  for line in core.dump():gmatch "[^\n]+" do
    if line:find "^  %S" then ours = line:find "^  G [%d.][^:]*: running" ~= nil end
    if not ours then lines[#lines + 1] = line end
  end
  return table.concat(lines, "\n")
end

-- ---- a block in a G --------------------------------------------------------------------------------------

local get_trace -- busted's
local relayed   -- what the next call of it answers

local function relay(err, trace)
  relayed = trace
  error(err, 0)
end

-- Raises in busted's words for a failed assertion.
local function fail(element, message)
  local ok, failure = pcall(busted.fail, message, 0)
  assert(not ok)
  relay(failure, trace_of(element))
end

local function body(block, run, element)
  local results = pack(xpcall(run, function(err)
    block.err = err
    local ok, trace = pcall(get_trace, element, 4, err)
    block.trace = ok and trace or trace_of(element)
    return err
  end))
  if not block.given_up then block.results = results end
end

---@class lunapark.testing.Block
---@field name string
---@field limit number    seconds that it may take; 0: no limit
---@field give_up number  the moment at which the limit is over
---@field given_up boolean?
---@field results table?  of xpcall, when it has ended
---@field err any?
---@field trace table?    where that was raised

---@type lunapark.testing.Block?
local running

local function set_limit(block, seconds)
  block.limit = seconds
  block.give_up = seconds > 0 and base.real_ns() * 1e-9 + seconds or math.huge -- a block may call it in virtual time
  C.host_block_limit(seconds > 0 and block.give_up * 1e9 or 0)
end

-- The limit of the innermost element that has one.
local function limit_here()
  for i = #frames, 1, -1 do
    if frames[i].limit then return frames[i].limit end
  end
  return C.host_block_timeout()
end

local function too_long(block)
  return ("the block has taken longer than %g s (--block-timeout)"):format(block.limit)
end

-- Waits for g. Returns nothing when g has ended; else why not, with a dump of all Gs.
local function await(g, block)
  local mark
  while true do
    g:join(math.min(LOOK, math.max(block.give_up - lp.now(), 0)))
    if block.results or g.results or g.err then return end
    if lp.now() >= block.give_up then return too_long(block) .. "\n" .. dump() end
    local signals = registry["lunapark.signals"]
    local last = mark
    mark = C.host_block_asleep()
    if mark ~= 0 and mark == last and not (signals and next(signals.by_number)) then
      return "all Gs are asleep - deadlock!\n" .. dump()
    end
  end
end

-- Runs a block, and returns its results or raises its error.
local function run_in_g(run, element, descriptor)
  local frame = frames[#frames]
  local is_test = descriptor == "it" or descriptor == "finally"
  local owner = is_test and frame and frame.owner or leaks.owner()
  local block = { name = name_of(element, descriptor) }
  local g = lp.detach(body, block, run, element)
  g.where = block.name
  leaks.own(g, owner)
  C.host_block_begin(block.name)
  set_limit(block, limit_here())
  running = block
  local why = await(g, block)
  running = nil
  C.host_block_begin ""
  if why then
    block.given_up = true
    leaks.end_gs(owner, {}, g)
    fail(element, why)
  end
  local results = block.results
  if not results then relay(g.err, trace_of(element)) end
  if not results[1] then relay(block.err, block.trace) end
  -- Nothing could look at the clock meanwhile: code has run without waiting.
  if lp.now() >= block.give_up then fail(element, too_long(block)) end
  return unpack(results, 2, results.n)
end

-- ---- what an element makes -------------------------------------------------------------------------------

-- The leaks that are allowed in the running elements.
local function all_allowed()
  local list = {}
  for _, frame in ipairs(frames) do
    for _, what in ipairs(frame.allowed) do list[#list + 1] = what end
  end
  return list
end

local function close_all(frame)
  for i = frame.n_closers, 1, -1 do
    local obj = frame.closers[i]
    if obj then pcall(obj.close, obj) end
  end
end

-- The end of a test that has left objects: true if they are leaks.
local function look_for_leaks(frame)
  local owner, allowed = frame.owner, all_allowed()
  leaks.settle(owner)
  local lines, gs = leaks.left(owner, allowed)
  if #lines == 0 then return false end
  leaks.said(owner)
  local text = "the test has left behind:\n  " .. table.concat(lines, "\n  ")
  if gs then text = text .. "\n" .. dump() end
  busted.safe("it", function() fail(frame.element, text) end, frame.element)
  return true
end

local function end_test(frame)
  close_all(frame)
  local status = frame.held and look_for_leaks(frame) and "failure" or "success"
  leaks.end_gs(frame.owner, all_allowed())
  if frame.held then
    local held = frame.held
    frame.held, frame.owner = nil, nil
    busted.safe_publish(held[1], held[2], frame.element, held[3], status)
  end
end

local function in_frame(executor, is_test)
  return function(element)
    local frame = {
      element = element, closers = setmetatable({}, { __mode = "v" }), n_closers = 0, allowed = {},
      owner = is_test and leaks.owner() or nil,
    }
    table.insert(frames, frame)
    executor(element)
    if is_test then end_test(frame) else close_all(frame) end
    table.remove(frames)
  end
end

-- The news of a test's end. Held back if the test has left objects; then true.
local function hold_back(descriptor, channel, element, parent, status)
  local frame = frames[#frames]
  if channel[1] ~= "test" or channel[2] ~= "end" or status ~= "success" then return false end
  if not frame or frame.element ~= element or not frame.owner then return false end
  leaks.settle(frame.owner, true)
  if #leaks.left(frame.owner, all_allowed()) == 0 then return false end
  frame.held = { descriptor, channel, parent }
  return true
end

-- What a test logs, its app's lines above all, is shown only if it fails.
local function hold_log(moment, status)
  if moment == "start" then
    C.host_log_hold()
  elseif moment == "end" then
    C.host_log_show((status == "failure" or status == "error") and 1 or 0)
  end
end

-- ---- putting it into busted ------------------------------------------------------------------------------

local function hook(b)
  busted = b
  local safe, safe_publish, register = b.safe, b.safe_publish, b.register
  get_trace = b.getTrace

  function b.getTrace(element, level, msg)
    if not relayed then return get_trace(element, level, msg) end
    local trace = relayed
    relayed = nil
    trace.message = msg
    return trace
  end

  function b.safe(descriptor, run, element)
    if run ~= element.run and descriptor ~= "finally" then return safe(descriptor, run, element) end
    return safe(descriptor, function() return run_in_g(run, element, descriptor) end, element)
  end

  function b.safe_publish(descriptor, channel, element, ...)
    if hold_back(descriptor, channel, element, ...) then return true end
    if channel[1] == "test" then hold_log(channel[2], select(2, ...)) end
    return safe_publish(descriptor, channel, element, ...)
  end

  function b.register(descriptor, executor, attributes)
    local ours = descriptor == "it" or descriptor == "describe" or descriptor == "file"
    if ours and type(executor) == "function" then executor = in_frame(executor, descriptor == "it") end
    return register(descriptor, executor, attributes)
  end
  return b
end

-- For lunapark.testing, which each spec file loads anew.
local testing = {}

--- obj:close() is called when the running it, describe or file ends.
function testing.close_later(obj)
  local frame = frames[#frames]
  if not frame then return end
  frame.n_closers = frame.n_closers + 1
  frame.closers[frame.n_closers] = obj
end

--- testing.allow_leak
function testing.allow_leak(...)
  local frame = frames[#frames]
  if not frame then error("allow_leak: no spec runs", 3) end
  for _, what in ipairs(leaks.allowed(...)) do table.insert(frame.allowed, what) end
end

--- testing.block_timeout
function testing.block_timeout(s)
  if frames[1] then frames[#frames].limit = s end
  if running then set_limit(running, s) end
end

--- The code of an os.exit: of one that leaves tests undone it is not 0.
---@param code? integer|boolean
---@return integer|boolean|nil
function runner.exit_code(code)
  if not running or code and code ~= true and code ~= 0 then return code end
  io.stderr:write(("lunapark test: %s calls os.exit: the tests behind it did not run\n"):format(running.name))
  return 1
end

--- Prepares the run: before busted and any spec are loaded. Once per VM.
function runner.install()
  registry["lunapark.testing"] = testing
  leaks.install()
  local new_core = require "busted.core"
  package.loaded["busted.core"] = function()
    package.loaded["busted.core"] = new_core
    return hook(new_core())
  end
end

return runner
