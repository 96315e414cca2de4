--- `lunapark repl`: reads a line, runs it in a G, prints its values.
--
-- A line is an expression, whose values are printed, or statements; `= expr` is the old way to write an expression.
-- Text that is not complete goes on with the next line. Locals end with their line. Each line runs in a G of its own,
-- so it may wait, and Gs that it starts go on behind the prompt: reading happens on another thread
-- (host/command/repl.c).
--
-- Ctrl-C clears the line. While a line runs Ctrl-C ends its G: the wait of the G ends and its Lua goes on no more,
-- since a loop around a wait that only answers "canceled" would never end. A G that does not wait can't be ended so:
-- Ctrl-\ ends the process. Ctrl-D at an empty line is the end.
--
-- When stdin or stdout is no terminal, there is no prompt and no editing, and the exit code is 1 if any line failed.

local ffi = require "ffi"
require "lunapark.cdef"
local complete = require("lunapark.command.repl_complete").complete
local format = require "lunapark.command.repl_format"
local lp = require "lunapark"
local pieces = require("lunapark.core.text").pieces
local run_job = require("lunapark.core.job").run
local signal = require "lunapark.signal"

local C = ffi.C

local repl = {}

local line_out, len_out = ffi.new "const char *[1]", ffi.new "size_t[1]"

-- The G of the line that runs, if one does; and whether Ctrl-C ends it.
local evaluating, interrupted
local failed = false

local function fail(message)
  failed = true
  io.stdout:flush()
  io.stderr:write(message, "\n")
end

-- A line; or nil and "eof", "interrupted" or another failure.
local function read_line(prompt)
  return run_job(C.host_repl_read(prompt), function(job)
    local how = C.host_repl_line(job, line_out, len_out)
    if how == 1 then return ffi.string(line_out[0], len_out[0]) end
    if how == 0 then return nil, "eof" end
    return nil, how == -4 and "interrupted" or ffi.string(C.host_strerror(how)) -- 4: EINTR
  end)
end

--- A chunk from what was typed so far.
---@param text string
---@return function|nil chunk
---@return string? err   what is wrong with it
---@return boolean? more  the text may become right with another line
function repl.compile(text)
  text = text:gsub("^%s*=", "return ", 1)
  local chunk = load("return " .. text, "=repl")
  -- Not as a tail call, which would leave no frame of the line in tracebacks.
  if chunk then return load("return (function(...) return ... end)(" .. text .. "\n)", "=repl") or chunk end
  local err
  chunk, err = load(text, "=repl")
  if chunk then return chunk end
  return nil, err, err:find "near '<eof>'$" ~= nil
end

-- The traceback without the frames below the line's own, which every line has.
local function traceback(err)
  if type(err) ~= "string" then err = "error: " .. format.value(err) end
  local lines, own = {}, 0
  for line in pieces(debug.traceback(err, 2) .. "\n", "\n") do
    lines[#lines + 1] = line
    if line:find "^\trepl:" then own = #lines end
  end
  return table.concat(lines, "\n", 1, own > 0 and own or #lines)
end

local function evaluate(chunk)
  local g = lp.go(function() return xpcall(chunk, traceback) end)
  evaluating, interrupted = g, false
  local function done(joined, ...)
    evaluating = nil
    if interrupted then return fail "interrupted" end
    if not joined then return fail(tostring((...))) end
    local n = select("#", ...)
    if n > 0 then io.stdout:write(format.values(n, ...), "\n") end
    io.stdout:flush()
  end
  done(g:join())
end

-- Ctrl-C, in a G of its own.
local function hear_interrupts()
  local interrupts = signal.notify "INT"
  lp.detach(function()
    while interrupts:recv() do
      local g = evaluating
      if g and C.host_serial(g[1]) == g[2] then
        interrupted = true
        C.host_block_doom(g[1])
      elseif not g then
        C.host_repl_interrupt()
      end
    end
  end)
end

-- Answers the tab key, in a G of its own.
local function answer_questions()
  lp.detach(function()
    while true do
      local before = run_job(C.host_repl_question(), function(job)
        local text = C.host_repl_before(job, len_out)
        return ffi.string(text, len_out[0])
      end)
      if not before then return end
      local ok, insert, list = pcall(complete, before)
      C.host_repl_answer(ok and insert or "", ok and list or "")
    end
  end)
end

local function history_file()
  local given = os.getenv "LUNAPARK_HISTORY"
  if given then return given ~= "" and given or nil end
  local home = os.getenv "HOME"
  return home and home .. "/.lunapark_history"
end

--- Reads and runs until the end of stdin. May wait.
---@return boolean ok  no line has failed; always true at a terminal
function repl.run()
  local tty = C.host_repl_open(history_file()) == 1
  _G.lp = lp
  io.stdout:setvbuf "line" -- for what Gs print while nothing is typed
  if tty then
    hear_interrupts()
    answer_questions()
    io.stdout:write("lunapark ", ffi.string(C.host_version()), ": lp is the module lunapark; Ctrl-D ends\n")
    io.stdout:flush()
  end
  local text
  while true do
    local line, err = read_line(text and ">> " or "> ")
    if line then
      text = text and text .. "\n" .. line or line
      local chunk, wrong, more = repl.compile(text)
      if chunk then
        evaluate(chunk)
        text = nil
      elseif not more then
        fail(wrong)
        text = nil
      end
    elseif err == "interrupted" then
      text = nil
    else
      if text and not tty then fail(select(2, repl.compile(text))) end
      if err ~= "eof" then fail("stdin: " .. err) end
      return tty or not failed
    end
  end
end

return repl
