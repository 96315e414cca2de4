--- Files: `lunapark.fs`. Only the G that calls waits for the disk.
--
--   local text = assert(fs.read "/etc/hostname")
--   assert(fs.write("state.json", json.encode(state)))      -- whole or not at all
--   local f = assert(fs.open("log.txt", "a"))
--
-- Failures name the path: nil, "no such file or directory: /x". When a deadline or a cancellation ends the wait, what
-- the disk was told to do is done nevertheless.
--
-- How it works: host/fs.c.

local ffi = require "ffi"
require "lunapark.cdef"
local common = require "lunapark.net.sock"
local run = require("lunapark.job").run

local C = ffi.C
local ffi_string = ffi.string
local message = common.message
local note = debug.getregistry()["lunapark.note"]

local fs = {}

---@class lunapark.Stat
---@field type string   "file", "directory", "link", "socket", "fifo", "char" or "block"
---@field size integer  bytes
---@field mode integer  permissions: 420 is 0644
---@field mtime number  seconds since 1970: of the last change of the content
---@field atime number  of the last read
---@field ctime number  of the last change of anything
---@field uid integer
---@field gid integer
---@field links integer
---@field ino number
---@field dev number

local function check_path(path, what)
  if type(path) ~= "string" then error(what .. ": path must be a string, got " .. type(path), 3) end
  if path:find("\0", 1, true) then error(what .. ": path must not contain a NUL byte", 3) end
end

local function check_data(data, what)
  if type(data) ~= "string" then error(what .. ": data must be a string, got " .. type(data), 3) end
end

-- What a job answered: its result, or nil and why not, about that path.
local function outcome(job, path)
  local r = C.host_fs_result_of(job)
  if r.n < 0 then
    local text = message(tonumber(r.n))
    if text == "closed" then return nil, text end
    return nil, text .. ": " .. path
  end
  return r
end

local function text_of(job, path)
  local r, err = outcome(job, path)
  if not r then return nil, err end
  return ffi_string(r.data, r.len)
end

local function success_of(job, path)
  local r, err = outcome(job, path)
  if not r then return nil, err end
  return true
end

--- Reads a whole file. May wait.
---@param path string
---@return string|nil content
---@return string? err
function fs.read(path)
  check_path(path, "read")
  return run(C.host_fs(C.HOST_FS_READ, path, nil, 0), text_of, path)
end

--- Writes a file, in the place of the one that is there: others see the old content or the new one, never a part, and
--- so they do after a power failure. Permissions stay, the owner becomes ours. May wait.
---@param path string
---@param data string
---@return true|nil ok
---@return string? err
function fs.write(path, data)
  check_path(path, "write")
  check_data(data, "write")
  return run(C.host_fs(C.HOST_FS_REPLACE, path, data, #data), success_of, path)
end

--- Adds to the end of a file, which is made if there is none. May wait.
---@param path string
---@param data string
---@return true|nil ok
---@return string? err
function fs.append(path, data)
  check_path(path, "append")
  check_data(data, "append")
  return run(C.host_fs(C.HOST_FS_APPEND, path, data, #data), success_of, path)
end

local types = {
  [0x1] = "fifo", [0x2] = "char", [0x4] = "directory", [0x6] = "block", [0x8] = "file", [0xa] = "link",
  [0xc] = "socket",
}

local function stat_of(job, path)
  local r, err = outcome(job, path)
  if not r then return nil, err end
  return {
    type = types[bit.rshift(r.mode, 12)] or "unknown", size = tonumber(r.size), mode = bit.band(r.mode, 4095),
    mtime = r.mtime, atime = r.atime, ctime = r.ctime, uid = r.uid, gid = r.gid, links = r.links,
    ino = r.ino, dev = r.dev,
  }
end

--- What is known of a file, or of what a symbolic link leads to. May wait.
---@param path string
---@return lunapark.Stat|nil stat
---@return string? err
function fs.stat(path)
  check_path(path, "stat")
  return run(C.host_fs(C.HOST_FS_STAT, path, nil, 0), stat_of, path)
end

local function names_of(job, path)
  local r, err = outcome(job, path)
  if not r then return nil, err end
  local names, at = {}, r.data
  for i = 1, tonumber(r.n) do
    names[i] = ffi_string(at)
    at = at + #names[i] + 1
  end
  return names
end

--- The names in a directory, sorted by their bytes, without "." and "..". May wait.
---@param path string
---@return string[]|nil names
---@return string? err
function fs.list(path)
  check_path(path, "list")
  return run(C.host_fs(C.HOST_FS_LIST, path, nil, 0), names_of, path)
end

-- ---- open files -------------------------------------------------------------------------------------------

---@class lunapark.File
---@field private file ffi.cdata*  host_file
---@field private path string
---@field private noted table?  under `lunapark test`: see testing/leaks.lua
local File = {}
local file_mt = { __name = "lunapark.File", __index = File }

local RDONLY, WRONLY, RDWR, CREAT, EXCL, TRUNC, APPEND = 0, 1, 2, 0x40, 0x80, 0x200, 0x400
local modes = {
  r = RDONLY, ["r+"] = RDWR,
  w = WRONLY + CREAT + TRUNC, ["w+"] = RDWR + CREAT + TRUNC,
  a = WRONLY + CREAT + APPEND, ["a+"] = RDWR + CREAT + APPEND,
  x = WRONLY + CREAT + EXCL, ["x+"] = RDWR + CREAT + EXCL,
}

local function file_of(job, path)
  local r, err = outcome(job, path)
  if not r then return nil, err end
  local file = ffi.gc(C.host_fs_take(job), C.host_file_free)
  local self = setmetatable({ file = file, path = path }, file_mt)
  if note then note("file", self) end
  return self
end

--- Opens a file. May wait.
---@param path string
---@param mode? string  "r" (what it is without one), "w", "a", each with "+" to read and write; "x": as "w", but there
---must be none yet
---@return lunapark.File|nil file
---@return string? err
function fs.open(path, mode)
  check_path(path, "open")
  local flags = type(mode or "r") == "string" and modes[((mode or "r"):gsub("b", ""))]
  if not flags then
    error("open: mode must be r, w, a or x, with + or without, got " .. tostring(mode), 2)
  end
  return run(C.host_fs_open(path, flags), file_of, path)
end

local function on_file(self, fn, op, data, n, whence)
  return run(C.host_file_job(self.file, op, data, data and #data or 0, n or 0, whence or 0), fn, self.path)
end

local function piece_of(job, path)
  local r, err = outcome(job, path)
  if not r then return nil, err end
  if r.n == 0 then return nil, "eof" end
  return ffi_string(r.data, r.len)
end

--- Reads on from where it stands. May wait.
---@param n? integer  bytes, fewer only at the end; without it all that is left
---@return string|nil bytes
---@return string? err  "eof" at the end
function File:read(n)
  if n ~= nil then common.check_count(n, "read", "n", 1) end
  return on_file(self, piece_of, C.HOST_FILE_READ, nil, n or 2 ^ 53)
end

--- Writes where it stands, or, opened with "a", at the end. May wait.
---@param data string
---@return true|nil ok
---@return string? err
function File:write(data)
  check_data(data, "write")
  return on_file(self, success_of, C.HOST_FILE_WRITE, data)
end

local whences = { set = 0, cur = 1, ["end"] = 2 }

local function offset_of(job, path)
  local r, err = outcome(job, path)
  if not r then return nil, err end
  return tonumber(r.n)
end

--- Moves to another place, or says where it stands. May wait.
---@param whence? string   offset counts from: "set" the beginning, "cur" (without it) here, "end" the end
---@param offset? integer  0 without it
---@return integer|nil position  from the beginning
---@return string? err
function File:seek(whence, offset)
  local from = whences[whence or "cur"]
  if not from then error("seek: whence must be set, cur or end, got " .. tostring(whence), 2) end
  if offset ~= nil and (type(offset) ~= "number" or offset % 1 ~= 0) then
    error("seek: offset must be a whole number, got " .. tostring(offset), 2)
  end
  return on_file(self, offset_of, C.HOST_FILE_SEEK, nil, offset, from)
end

--- Waits until the disk has what was written. May wait.
---@return true|nil ok
---@return string? err
function File:sync()
  return on_file(self, success_of, C.HOST_FILE_SYNC)
end

--- Closes it. Closing twice is harmless. May wait.
---@return true|nil ok
---@return string? err
function File:close()
  local ok, err = on_file(self, success_of, C.HOST_FILE_CLOSE)
  if self.noted then self.noted.closed = true end
  if err == "closed" then return true end
  return ok, err
end

return fs
