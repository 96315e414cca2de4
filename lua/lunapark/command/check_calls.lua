--- Calls that block a thread, as `lunapark check` finds them in a file: calls of C by ffi, and C modules that wait by
-- themselves. The calls of the standard library wait (std/blocking.lua), except the ones named here.
--
-- The text is read as tokens, not run: a call is found by the name that it has in the file. `local C = ffi.C`,
-- `local sleep = C.sleep`, `require("ffi").C` and libraries of ffi.load are followed; a function that comes out of a
-- table or an argument is not. A function that is handed to lunapark.offload is not named: it is not called here.
-- Of `local c = lunapark.cdef [[...]]` functions that are marked /* blocks */ are called elsewhere, the others here.
-- A line with the comment `lunapark: ignore` is left alone: say, a read of a descriptor that does not block.

local cdef = require "lunapark.core.cdef"

local find, sub = string.find, string.sub

local check_calls = {}

---@class lunapark.CheckFinding
---@field line integer
---@field column integer
---@field message string

local OFFLOAD = "lunapark.offload, which gives it a thread of its own"

local instead = {}
local function of_c(words, what)
  for word in words:gmatch "%S+" do instead["ffi.C." .. word] = what end
end
of_c("sleep usleep nanosleep clock_nanosleep", "lunapark.sleep")
of_c("poll ppoll select pselect epoll_wait epoll_pwait", "net.fd(fd):wait_read, or lunapark.select")
of_c("read readv recv recvfrom recvmsg write writev send sendto sendmsg accept accept4 connect",
  "lunapark.net, or net.fd(fd) and a descriptor that does not block")
of_c("splice tee sendfile", "net.copy")
of_c("getaddrinfo getnameinfo gethostbyname gethostbyaddr", "lunapark.dns")
of_c("system popen pclose wait wait3 wait4 waitid waitpid", "lunapark.exec")
of_c("fread fgets fgetc getc getchar gets getline scanf fscanf fsync fdatasync sync",
  "lunapark.fs, or lunapark.offload")
of_c("pause sigwait sigwaitinfo sigtimedwait sigsuspend", "lunapark.signal")
of_c("flock lockf sem_wait sem_timedwait pthread_join pthread_mutex_lock pthread_cond_wait mq_receive msgrcv semop",
  OFFLOAD)

-- Calls that do not block and are no better.
local ends = { ["os.exit"] = true }
for word in ("exit _exit _Exit quick_exit abort"):gmatch "%S+" do ends["ffi.C." .. word] = true end

-- C modules by the first part of their names.
local modules = {
  socket = "lunapark.net", ssl = "lunapark.net", luasql = OFFLOAD, lsqlite3 = OFFLOAD,
  lsqlite3complete = OFFLOAD, pgsql = OFFLOAD, posix = "lunapark.exec, lunapark.fs or lunapark.sleep",
  system = "lunapark.sleep", sleep = "lunapark.sleep", cqueues = "lunapark.net", copas = "lunapark.net",
  luv = "lunapark.net", uv = "lunapark.net", ev = "lunapark.net", event = "lunapark.net", lzmq = "net.fd",
  zmq = "net.fd", cURL = "lunapark.net", lcurl = "lunapark.net", curl = "lunapark.net", redis = "lunapark.net",
  readline = "io.read", linenoise = "io.read", lanes = OFFLOAD, effil = OFFLOAD,
}

-- ---- tokens ---------------------------------------------------------------------------------------------------

-- The token at a position: its kind ("name", "string", "comment", a character), where it ends, a string's content; nil,
-- where to go on, for what is between tokens.
local function token(text, at)
  local _, stop, level = find(text, "^%-%-%[(=*)%[", at)
  if not stop then
    _, stop = find(text, "^%-%-[^\n]*", at)
    if stop then return "comment", stop end
  end
  local long = stop and "comment"
  if not stop then
    _, stop, level = find(text, "^%[(=*)%[", at)
    long = stop and "string"
  end
  if long then
    local close, last = find(text, "]" .. level .. "]", stop + 1, true)
    return long, last or #text, sub(text, stop + 1, (close or #text + 1) - 1)
  end
  local quote = sub(text, at, at)
  if quote == '"' or quote == "'" then
    local i = at + 1
    while i <= #text and sub(text, i, i) ~= quote do
      i = i + (sub(text, i, i) == "\\" and 2 or 1)
    end
    return "string", math.min(i, #text), sub(text, at + 1, i - 1)
  end
  _, stop = find(text, "^[%a_][%w_]*", at)
  if stop then return "name", stop, sub(text, at, stop) end
  _, stop = find(text, "^%.?%d[%w_.]*", at)
  if stop then return "number", stop end
  return quote, at
end

--- The tokens of a file.
---@param text string
---@return table[] list                 all except comments: { kind =, value =, line =, column = }
---@return table<integer, true> ignored  the lines whose comment says that they are left alone
function check_calls.scan(text)
  local list, ignored, line, begins, at = {}, {}, 1, 1, 1
  while true do
    -- Lines are counted up to the next token, and behind tokens of several lines.
    local stop = find(text, "%S", at) or #text + 1
    local newline = find(text, "\n", at, true)
    while newline and newline < stop do
      line, begins = line + 1, newline + 1
      newline = find(text, "\n", newline + 1, true)
    end
    if stop > #text then return list, ignored end
    local kind, last, value = token(text, stop)
    if kind == "comment" then
      if find(sub(text, stop, last), "lunapark: ignore", 1, true) then ignored[line] = true end
    else
      list[#list + 1] = { kind = kind, value = value, line = line, column = stop - begins + 1 }
    end
    at = stop
    newline = find(text, "\n", at, true)
    while newline and newline <= last do
      line, begins = line + 1, newline + 1
      newline = find(text, "\n", newline + 1, true)
    end
    at = last + 1
  end
end

-- ---- names ----------------------------------------------------------------------------------------------------

local none = {}

-- Reads the expression that begins with the name at list[i]: what it stands for ("ffi.C.sleep"), and what comes next.
local function chain(list, i, known)
  local name = known[list[i].value] or list[i].value
  i = i + 1
  if name == "require" then
    local open = list[i] and list[i].kind == "("
    local module = list[open and i + 1 or i]
    if module and module.kind == "string" then
      name, i = module.value, i + (open and 3 or 1)
    end
  end
  while (list[i] or none).kind == "." and (list[i + 1] or none).kind == "name" do
    name, i = name .. "." .. list[i + 1].value, i + 2
  end
  return name, i
end

local calls = { ["("] = true, string = true, ["{"] = true }
local continues = { ["("] = true, string = true, ["{"] = true, ["."] = true, [":"] = true, ["["] = true }

-- What the table of a call of lunapark.cdef stands for, whose arguments begin at list[i]: "cdef" and a number of
-- `tables`, which get the marks of its functions. Nil: the text is not there to be read.
local function table_of_cdef(list, i, tables)
  local text = list[(list[i] or none).kind == "(" and i + 1 or i] or none
  local ok, marks = pcall(cdef.marks, text.kind == "string" and text.value or nil)
  if not ok then return end
  tables[#tables + 1] = marks
  return "cdef" .. #tables
end

-- `local NAME, NAME = EXPRESSION, EXPRESSION` at list[i]: what each name stands for from there on.
local function learn(list, i, known, tables)
  local names = {}
  repeat
    i = i + 1
    local name = list[i] or none
    if name.kind ~= "name" then return end
    names[#names + 1], i = name.value, i + 1
  until (list[i] or none).kind ~= ","
  if (list[i] or none).kind ~= "=" then return end
  for _, name in ipairs(names) do
    if (list[i + 1] or none).kind ~= "name" then return end
    local what
    what, i = chain(list, i + 1, known)
    local kind = (list[i] or none).kind
    if what == "ffi.load" then
      known[name] = "ffi.C"
      return
    end
    if what == "lunapark.cdef" and calls[kind] then
      known[name] = table_of_cdef(list, i, tables)
      return
    end
    if continues[kind] then return end
    known[name] = what
    if kind ~= "," then return end
  end
end

-- A function of a table of lunapark.cdef: what is wrong with calling it.
local function problem_of_declared(number, name, tables)
  local marks, use = tables[tonumber(number)], instead["ffi.C." .. name]
  if not use or marks[name] ~= false then return end
  return ("(blocks) %s, declared without a mark /* blocks */, holds this VM with all its requests: mark it, or use %s")
    :format(name, use)
end

local function problem_of(what, tables)
  local number, name = what:match "^cdef(%d+)%.([%w_]+)$"
  if number then return problem_of_declared(number, name, tables) end
  if instead[what] then
    return ("(blocks) %s holds this VM with all its requests: use %s"):format(what, instead[what])
  end
  if ends[what] then
    return ("(exit) %s %s: use lunapark.stop"):format(what,
      what == "os.exit" and "raises under serve" or "ends the process with all its requests")
  end
  if what == "debug.debug" then return "(blocks) debug.debug reads from the terminal: use lunapark repl" end
end

--- The calls in a file that block.
---@param list table[]  its tokens
---@param ignored table<integer, true>
---@return lunapark.CheckFinding[]
function check_calls.find(list, ignored)
  local found, known, tables = {}, {}, {}
  local function say(at, message)
    if not message or ignored[at.line] then return end
    found[#found + 1] = { line = at.line, column = at.column, message = message }
  end
  for i, t in ipairs(list) do
    local before = (list[i - 1] or none).kind
    if t.kind == "name" and before ~= "." and before ~= ":" then
      if t.value == "local" then learn(list, i, known, tables) end
      local what, next_i = chain(list, i, known)
      local module = t.value == "require" and what:match "^[^.]+"
      if module and modules[module] and what ~= "require" then
        say(t, ("(blocks) %s waits by itself and holds this VM: use %s"):format(module, modules[module]))
      elseif calls[(list[next_i] or none).kind] then
        say(t, problem_of(what, tables))
      end
    end
  end
  return found
end

return check_calls
