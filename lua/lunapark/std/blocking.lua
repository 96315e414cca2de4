--- The calls of the standard library that wait: os.execute, io.popen, reads of stdin, FIFOs and terminals.
-- LuaJIT's own functions block their thread, and with it the VM and all its requests; a few such handlers stop a
-- server. So functions that give the same answers and let only the calling G wait replace them:
--
--   - os.execute and io.popen start their program as lunapark.exec does (exec.shell);
--   - io.open, io.lines, io.input and io.output open a FIFO, a terminal or another such device as lunapark.fs does, and
--     give a file of iofile.lua; stat says what a name leads to;
--   - reads of io.stdin, io.read and io.lines without a name read a file of iofile.lua on descriptor 0, unless stdin is
--     a file on a disk. io.stdin itself stays LuaJIT's, since C functions take it for a FILE *; its method `read` is
--     ours.
--
-- Files on a disk stay LuaJIT's in all respects: they wait for the disk alone, with their VM; lunapark.fs does not stop
-- the VM. Where nothing can wait (beneath finalizers, FFI callbacks, hooks; in virtual time) the original functions run
-- programs, and block.
--
-- A name with a NUL byte is refused: C would see it cut off.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"

local C = ffi.C
local view = ffi.cast("host_view *", core.view)
local find = string.find
local err_out = ffi.new "int[1]"
local EINVAL = 22

local blocking = {}

local original, iofile

-- ---- what is asked everywhere ----------------------------------------------------------------------------

local function can_wait()
  return view.virtual_ns == 0 and not core.barrier()
end

local function is_text(v)
  return type(v) == "string" or type(v) == "number"
end

local function has_nul(v)
  return type(v) == "string" and find(v, "\0", 1, true) ~= nil
end

-- Loaded with the first file of this VM that may wait.
local function files()
  iofile = iofile or require "lunapark.std.iofile"
  return iofile
end

local function is_ours(v)
  return iofile and iofile.type(v) ~= nil
end

-- ---- programs --------------------------------------------------------------------------------------------

local function our_execute(command)
  if has_nul(command) then error("execute: command must not contain a NUL byte", 2) end
  if not is_text(command) or not can_wait() then return original.execute(command) end
  local exec = require "lunapark.exec"
  local p, err = exec.shell(tostring(command), "inherit", "inherit")
  local status
  if p then status, err = exec.status(p) end
  if status then return status end
  return -1, err
end

local function finish_program(p)
  return function()
    local status, err = require("lunapark.exec").status(p)
    if status then return true end
    return nil, err
  end
end

local function our_popen(command, mode)
  if has_nul(command) then error("popen: command must not contain a NUL byte", 2) end
  mode = mode == nil and "r" or mode
  local reads = mode == "r" or mode == "re"
  local writes = mode == "w" or mode == "we"
  if not is_text(command) or not (reads or writes) or not can_wait() then return original.popen(command, mode) end
  io.stdout:flush() -- as LuaJIT does: what was written before stands before it
  local exec = require "lunapark.exec"
  local p, err = exec.shell(tostring(command), reads and "inherit" or "pipe", reads and "pipe" or "inherit")
  if not p then return nil, command .. ": " .. err, 0 end
  local sock = (reads and p.stdout or p.stdin).sock
  return files().new(sock, { reads = reads, writes = writes, begun = true, finish = finish_program(p) })
end

-- ---- files by name ---------------------------------------------------------------------------------------

-- A file of ours, if the name leads to a device that waits; nil: the name is for LuaJIT; false and why not.
local function open_stream(path, mode)
  if not is_text(path) or C.host_fs_may_wait(tostring(path)) == 0 or not can_wait() then return nil end
  if mode ~= nil and not (type(mode) == "string" and find(mode, "^[rwa]%+?b?%+?$")) then return nil end
  path, mode = tostring(path), mode or "r"
  local file, err = require("lunapark.fs").open(path, mode)
  if err == "timeout" or err == "canceled" then return false, path .. ": " .. err end
  if not file then return nil end -- LuaJIT says why
  local sock = file.stream and file.stream.sock
  if not sock then -- a device without another side
    file:close()
    return nil
  end
  local both = find(mode, "+", 1, true) ~= nil
  return files().new(sock, { reads = both or mode:sub(1, 1) == "r", writes = both or mode:sub(1, 1) ~= "r" })
end

local function our_open(path, mode)
  if has_nul(path) then return nil, path .. ": Invalid argument", EINVAL end
  local file, err = open_stream(path, mode)
  if file == nil then return original.open(path, mode) end
  if not file then return nil, err, 0 end
  return file
end

local function our_remove(path)
  if has_nul(path) then return nil, path .. ": Invalid argument", EINVAL end
  return original.remove(path)
end

local function our_rename(from, to)
  if has_nul(from) or has_nul(to) then return nil, from .. ": Invalid argument", EINVAL end
  return original.rename(from, to)
end

-- ---- stdin -----------------------------------------------------------------------------------------------

local stdin -- our file on descriptor 0; false: it is a file on a disk; nil: nobody has read it

local function stdin_file()
  if stdin == nil then
    local sock = C.host_sock_stdin(err_out)
    if sock == nil and err_out[0] == C.HOST_EVIRTUAL then return nil end
    stdin = sock ~= nil and files().new(ffi.gc(sock, C.host_sock_free), { reads = true, shared = true })
  end
  return stdin
end

-- LuaJIT's file, or ours in place of a stdin that waits.
local function reader_of(file)
  return file == original.stdin and stdin_file() or nil
end

local function our_file_read(file, ...)
  local ours = reader_of(file)
  if ours and original.type(file) == "file" then return ours:read(...) end
  return original.file_read(file, ...)
end

local function our_file_lines(file, ...)
  local ours = reader_of(file)
  if ours and original.type(file) == "file" then return ours:lines(...) end
  return original.file_lines(file, ...)
end

-- ---- default files ---------------------------------------------------------------------------------------

local default_in, default_out -- if they are ours

local function our_input(file)
  if file == nil then return default_in or original.input() end
  if is_text(file) then
    local ours, err = open_stream(file, "r")
    if ours == false then error(err, 2) end
    file = ours or file
  end
  default_in = is_ours(file) and file or nil
  if default_in then return default_in end
  return original.input(file)
end

local function our_output(file)
  if file == nil then return default_out or original.output() end
  if is_text(file) then
    local ours, err = open_stream(file, "w")
    if ours == false then error(err, 2) end
    file = ours or file
  end
  default_out = is_ours(file) and file or nil
  if default_out then return default_out end
  return original.output(file)
end

local function our_read(...)
  return our_input():read(...)
end

local function our_write(...)
  if default_out then return default_out:write(...) end
  return original.write(...)
end

local function our_lines(path, ...)
  if path == nil then return our_input():lines(...) end
  if has_nul(path) then error(path .. ": Invalid argument", 2) end
  local file, err = open_stream(path, "r")
  if file == nil then return original.lines(path, ...) end
  if not file then error(err, 2) end
  local step = file:lines(...)
  local function close_at_end(first, ...)
    if first == nil then file:close() end
    return first, ...
  end
  return function() return close_at_end(step()) end
end

local function our_close(file)
  if file == nil then file = default_out or original.output() end
  return file:close()
end

local function our_type(v)
  return iofile and iofile.type(v) or original.type(v)
end

--- Puts the functions in their places in this VM. A second call does nothing.
function blocking.install()
  local registry = debug.getregistry()
  if registry["lunapark.blocking"] then return end
  local file_mt = getmetatable(io.stdin)
  local file_methods = file_mt.__index
  original = {
    execute = os.execute, remove = os.remove, rename = os.rename, popen = io.popen, open = io.open, lines = io.lines,
    input = io.input, output = io.output, write = io.write, type = io.type, stdin = io.stdin,
    file_read = file_methods.read, file_lines = file_methods.lines,
  }
  registry["lunapark.blocking"] = original
  -- luacheck: push globals os io
  os.execute, os.remove, os.rename = our_execute, our_remove, our_rename
  io.popen, io.open, io.lines, io.read, io.write = our_popen, our_open, our_lines, our_read, our_write
  io.input, io.output, io.close, io.type = our_input, our_output, our_close, our_type
  file_methods.read, file_methods.lines = our_file_read, our_file_lines
  -- luacheck: pop
end

return blocking
