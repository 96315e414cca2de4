--- Files: `lunapark.fs`. Only the G that calls waits for the disk.
--
--   local text = assert(fs.read "/etc/hostname")
--   assert(fs.write("state.json", json.encode(state)))      -- whole or not at all
--   local f = assert(fs.open("log.txt", "a"))
--
--   assert(fs.mkdir("a/b/c", { parents = true }))
--   assert(fs.remove("a", { recursive = true }))
--   for path, type, err in fs.walk "public" do ... end
--
-- A FIFO, a terminal and a device are read and written like a file, and waited for like a connection.
--
--   local text, err = fs.read(req.params.rest, { below = "public" })
--
-- With `below` a path is counted from that folder and does not lead out of it, neither by ".." nor by links. Use it for
-- every path that comes from a client.
--
-- Failures name the path: nil, "no such file or directory: /x". When a deadline or a cancellation ends the wait, the
-- disk still does what it was told.
--
-- How it works: host/sys/fs.c, host/sys/beneath.c; fs/tree.lua.

local ffi = require "ffi"
require "lunapark.cdef"
local base = require "lunapark.core.base"
local common = require "lunapark.net.sock"
local run = require("lunapark.core.job").run
local result = require "lunapark.fs.result"
local as_given = require("lunapark.core.show").given

local C = ffi.C
local ffi_string = ffi.string
local outcome, root_of, AGAIN = result.outcome, result.root_of, result.AGAIN
local note = debug.getregistry()["lunapark.note"]

local fs = {}

---@class lunapark.Stat
---@field type string   "file", "directory", "link", "socket", "fifo", "char" or "block"
---@field size integer  bytes
---@field mode integer  permissions: 420 is 0644
---@field mtime number  when the content was changed last, in seconds since 1970
---@field atime number  when it was read last
---@field ctime number  when content, owner, mode or name was changed last
---@field uid integer
---@field gid integer
---@field links integer
---@field ino number
---@field dev number

local function check_path(path, what)
  base.check_text(path, what, "path", 4)
end

local function check_data(data, what)
  if type(data) ~= "string" then error(what .. ": data must be a string, got " .. type(data), 3) end
end

-- Failures of streams in the same words as those of files, with the path.
local waits = { timeout = true, canceled = true, closed = true, eof = true }

local function of_path(path, a, err)
  if a == nil and err and not waits[err] then err = err .. ": " .. path end
  return a, err
end

-- Most programs open none.
local function streams() return require "lunapark.fs.stream" end

-- A path that names no file on a disk was only opened: a lunapark.Stream comes first.
local function text_of(job, path)
  local r, err = outcome(job, path)
  if not r then return nil, err end
  if r.stream ~= 0 then return streams().of_job(job) end
  return ffi_string(r.data, r.len)
end

local function success_of(job, path)
  local r, err = outcome(job, path)
  if not r then return nil, err end
  if r.stream ~= 0 then return streams().of_job(job) end
  return true
end

-- Writes a file, or opens a stream and writes to it.
local function write(op, root, path, data)
  local function try() return run(C.host_fs(op, root, path, data, #data), success_of, path) end
  local ok, err = try()
  if err == AGAIN then ok, err = streams().patiently(try) end
  if type(ok) ~= "table" then return ok, err end
  local s = ok
  ok, err = s:write(data)
  s:close()
  return of_path(path, ok, err)
end

--- Reads a whole file. May wait.
---@param path string
---@param opts? { below: string }  below: the folder from which path is counted, and out of which it does not lead
---@return string|nil content
---@return string? err
function fs.read(path, opts)
  check_path(path, "read")
  local text, err = run(C.host_fs(C.HOST_FS_READ, root_of(opts, "read"), path, nil, 0), text_of, path)
  if type(text) ~= "table" then return text, err end
  local s = text
  text, err = s:read()
  s:close()
  if err == "eof" then return "" end
  return of_path(path, text, err)
end

--- Replaces the content of a file, or makes the file. Others see the old content or the new content, never a part; so
--- it is after a power failure. Owner, group, permissions, access lists and extended attributes stay. Setuid and setgid
--- bits and capabilities go, for they were given to the old content. Links are followed.
---
--- A file is written in place if it is a mount, stands in a folder that we may not write to, or has an owner whom we
--- may not give another file. Then a reader may see a part of the content, and a power failure may leave a part. Other
--- hard links of a file that is replaced keep the old content. May wait.
---@param path string
---@param data string
---@return true|nil ok
---@return string? err
function fs.write(path, data)
  check_path(path, "write")
  check_data(data, "write")
  return write(C.HOST_FS_REPLACE, nil, path, data)
end

--- Adds to the end of a file. A file that is not there is made. May wait.
---@param path string
---@param data string
---@param opts? { below: string }  as `read`
---@return true|nil ok
---@return string? err
function fs.append(path, data, opts)
  check_path(path, "append")
  check_data(data, "append")
  return write(C.HOST_FS_APPEND, root_of(opts, "append"), path, data)
end

local function joined(job, whole, path)
  local r, err = outcome(job, path)
  if not r then return nil, err end
  return whole
end

--- Joins a folder and a path below it, for the functions here that do not know `below`. The file is there, or it can be
--- made: its own folder is there. The answer is nil if the path leads out of the folder, by "..", by a link, or by a
--- slash at its beginning.
---
--- Where others may put links into the folder they can do so between this call and the use of the path. There use
--- `read`, `append` and `open` with `below`, which look and open in one step. May wait.
---@param root string
---@param path string    from a client, say; "" is root itself
---@return string|nil joined
---@return string? err
function fs.join_below(root, path)
  base.check_text(root, "join_below", "root", 3)
  if type(path) ~= "string" then error("join_below: path must be a string, got " .. type(path), 2) end
  if path:find("\0", 1, true) then return nil, "NUL byte in a path" end
  local whole = path == "" and root or root .. (root:sub(-1) == "/" and "" or "/") .. path
  return run(C.host_fs(C.HOST_FS_CHECK, root, path, nil, 0), joined, whole, path)
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

--- What is known of a file. A symbolic link is followed. May wait.
---@param path string
---@return lunapark.Stat|nil stat
---@return string? err
function fs.stat(path)
  check_path(path, "stat")
  return run(C.host_fs(C.HOST_FS_STAT, nil, path, nil, 0), stat_of, path)
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
  return run(C.host_fs(C.HOST_FS_LIST, nil, path, nil, 0), names_of, path)
end

local tree = require "lunapark.fs.tree"
fs.mkdir, fs.rename, fs.remove, fs.walk = tree.mkdir, tree.rename, tree.remove, tree.walk

-- ---- open files -------------------------------------------------------------------------------------------

---@class lunapark.File
---@field private file ffi.cdata*  host_file, or
---@field private stream lunapark.Stream
---@field private path string
---@field private noted table?  under `lunapark test`: see testing/leaks.lua
local File = {}
local file_mt = { __name = "lunapark.File", __index = File }

local RDONLY, WRONLY, RDWR, CREAT, EXCL, TRUNC, APPEND = 0, 1, 2, 0x40, 0x80, 0x200, 0x400
local TMPFILE = ffi.arch == "arm64" and 0x404000 or 0x410000 -- with O_DIRECTORY
local modes = {
  r = RDONLY, ["r+"] = RDWR,
  w = WRONLY + CREAT + TRUNC, ["w+"] = RDWR + CREAT + TRUNC,
  a = WRONLY + CREAT + APPEND, ["a+"] = RDWR + CREAT + APPEND,
  x = WRONLY + CREAT + EXCL, ["x+"] = RDWR + CREAT + EXCL,
}

local function file_of(job, path)
  local r, err = outcome(job, path)
  if not r then return nil, err end
  local self = setmetatable({ path = path }, file_mt)
  if r.stream ~= 0 then
    self.stream, err = streams().of_job(job)
    return of_path(path, self.stream and self, err)
  end
  self.file = ffi.gc(C.host_fs_take(job), C.host_file_free)
  if note then note("file", self) end
  return self
end

--- Opens a file. May wait.
---@param path string
---@param mode? string  "r" (the default), "w", "a", each with "+" to read and write; "x": as "w", for a file that must
---not be there yet
---@param opts? { below: string }  as `read`
---@return lunapark.File|nil file
---@return string? err
function fs.open(path, mode, opts)
  check_path(path, "open")
  local root = root_of(opts, "open")
  local flags = type(mode or "r") == "string" and modes[((mode or "r"):gsub("b", ""))]
  if not flags then
    error("open: mode must be r, w, a or x, with + or without, got " .. tostring(mode), 2)
  end
  local function try() return run(C.host_fs_open(root, path, flags), file_of, path) end
  local file, err = try()
  if err == AGAIN then file, err = streams().patiently(try) end
  return file, err
end

--- Opens a new file that has no name, to read and write it: for what is too large for memory. The file is gone when it
--- is closed. May wait.
---@param dir? string  a folder of the file system that holds the bytes; without it TMPDIR, or /tmp
---@return lunapark.File|nil file
---@return string? err
function fs.temporary(dir)
  if dir == nil then dir = os.getenv "TMPDIR" or "/tmp" end
  check_path(dir, "temporary")
  return run(C.host_fs_open(nil, dir .. "/", TMPFILE + RDWR), file_of, dir)
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

--- Reads on from the current position. May wait.
---@param n? integer  bytes, fewer only at the end; without it all that are left
---@return string|nil bytes
---@return string? err  "eof" at the end
function File:read(n)
  if n ~= nil then common.check_count(n, "read", "n", 1) end
  if self.stream then return of_path(self.path, self.stream:read(n)) end
  return on_file(self, piece_of, C.HOST_FILE_READ, nil, n or 2 ^ 53)
end

--- Writes at the current position; at the end, if the file was opened with "a". May wait.
---@param data string
---@return true|nil ok
---@return string? err
function File:write(data)
  check_data(data, "write")
  if self.stream then return of_path(self.path, self.stream:write(data)) end
  return on_file(self, success_of, C.HOST_FILE_WRITE, data)
end

local whences = { set = 0, cur = 1, ["end"] = 2 }

local function offset_of(job, path)
  local r, err = outcome(job, path)
  if not r then return nil, err end
  return tonumber(r.n)
end

--- Moves the current position, or says what it is. May wait.
---@param whence? string   offset counts from: "set" the beginning, "cur" (the default) here, "end" the end
---@param offset? integer  0 without it
---@return integer|nil position  from the beginning
---@return string? err
function File:seek(whence, offset)
  local from = whences[whence or "cur"]
  if not from then error("seek: whence must be set, cur or end, got " .. tostring(whence), 2) end
  if offset ~= nil and (type(offset) ~= "number" or offset % 1 ~= 0) then
    error("seek: offset must be a whole number, got " .. as_given(offset), 2)
  end
  if self.stream then return nil, "illegal seek: " .. self.path end
  return on_file(self, offset_of, C.HOST_FILE_SEEK, nil, offset, from)
end

--- Waits until the disk has everything that was written.
---@return true|nil ok
---@return string? err
function File:sync()
  if self.stream then return nil, "invalid argument: " .. self.path end
  return on_file(self, success_of, C.HOST_FILE_SYNC)
end

--- Closes the file. Closing twice is harmless. May wait.
---@return true|nil ok
---@return string? err
function File:close()
  if self.stream then return self.stream:close() end
  local ok, err = on_file(self, success_of, C.HOST_FILE_CLOSE)
  if self.noted then self.noted.closed = true end
  if err == "closed" then return true end
  return ok, err
end

return fs
