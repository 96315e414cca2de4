--- Making, renaming and removing files and directories, and walks through what is in them: a part of `lunapark.fs`.
--
-- How it works: host/sys/tree.c, host/sys/walk.c.

local ffi = require "ffi"
require "lunapark.cdef"
local base = require "lunapark.core.base"
local message = require("lunapark.net.sock").message
local root_of = require("lunapark.fs.result").root_of
local run = require("lunapark.core.job").run
local as_given = require("lunapark.core.show").given

local C = ffi.C
local ffi_string = ffi.string
local EXDEV = -18
local MODE, MODE_MAX = 511, 4095 -- 0777, 07777

local tree = {}

local function check_path(path, what, name)
  base.check_text(path, what, name or "path", 4)
end

local function check_flag(opts, name, what)
  local value = opts and opts[name]
  if value ~= nil and type(value) ~= "boolean" then
    error(("%s: opts.%s must be true or false, got %s"):format(what, name, type(value)), 3)
  end
  return value
end

-- host_fs_changed.n, or nil and why not.
local function change_of(job, path)
  local r = C.host_fs_changed_of(job)
  local n = tonumber(r.n)
  if n >= 0 then return n end
  if r.failed ~= nil then path = ffi_string(r.failed) end
  if n == EXDEV then return nil, "leads out of its folder: " .. path end
  if n == C.HOST_FS_EACROSS then return nil, "on two file systems: " .. path end
  return nil, message(n) .. ": " .. path
end

local function change(what, op, root, path, to, mode, flags)
  local n, err = run(C.host_fs_change(op, root, path, to, mode or 0, flags or 0), change_of, what)
  if not n then return nil, err end
  return n
end

--- Makes a directory. May wait.
---@param path string
---@param opts? { mode: integer, parents: boolean, below: string }  mode: permissions, less the process's umask; 511,
---which is 0777, without it. parents: makes the directories on the way that are missing, and a directory that is there
---is no error. below: the folder from which path is counted, and out of which it does not lead
---@return true|nil ok
---@return string? err
function tree.mkdir(path, opts)
  check_path(path, "mkdir")
  local root = root_of(opts, "mkdir", { mode = true, parents = true })
  local mode = opts and opts.mode or MODE
  if type(mode) ~= "number" or mode % 1 ~= 0 or mode < 0 or mode > MODE_MAX then
    error("mkdir: opts.mode must be a whole number from 0 to 4095, got " .. as_given(mode), 2)
  end
  local flags = check_flag(opts, "parents", "mkdir") and C.HOST_FS_PARENTS
  local n, err = change(path, C.HOST_FS_MKDIR, root, path, nil, mode, flags)
  return n and true, err
end

--- Renames a file or a directory, or moves it within its file system. A file of the new name is replaced; an empty
--- directory of the new name is replaced by a directory. A link is renamed itself. May wait.
---@param from string
---@param to string
---@param opts? { below: string }  the folder from which both are counted, and out of which they do not lead
---@return true|nil ok
---@return string? err
function tree.rename(from, to, opts)
  check_path(from, "rename", "from")
  check_path(to, "rename", "to")
  local root = root_of(opts, "rename")
  local n, err = change(from .. " -> " .. to, C.HOST_FS_RENAME, root, from, to)
  return n and true, err
end

--- Removes a file, a link or an empty directory. A link is removed itself, what it leads to stays. May wait; with
--- `recursive` a deadline or a cancellation of the G ends the removal soon, in the midst of the tree.
---@param path string
---@param opts? { recursive: boolean, below: string }  recursive: a directory with all that is in it, following no link;
---the first thing that can't be removed ends that, and is named. below: as `mkdir`
---@return true|nil ok
---@return string? err
function tree.remove(path, opts)
  check_path(path, "remove")
  local root = root_of(opts, "remove", { recursive = true })
  local flags = check_flag(opts, "recursive", "remove") and C.HOST_FS_RECURSIVE
  local n, err
  repeat
    n, err = change(path, C.HOST_FS_REMOVE, root, path, nil, 0, flags)
  until n ~= 1
  return n and true, err
end

-- ---- walks ------------------------------------------------------------------------------------------------

---@class lunapark.Walk
---@field private walk ffi.cdata*?  host_walk; nil: it is over
---@field private path string
---@field private records string[]  of the last batch
---@field private n integer  of them, how many were told
---@field private reads boolean?  a G waits for the next batch
local Walk = {}
local walk_mt = { __name = "lunapark.Walk", __index = Walk }

local types = {
  f = "file", d = "directory", l = "link", s = "socket", p = "fifo", c = "char", b = "block", ["?"] = "unknown",
}

local function records_of(job)
  local b = C.host_walk_batch_of(job)
  if b.err < 0 then return nil, message(b.err) end
  local records, n, at, stop = {}, 0, b.text, b.text + b.len
  while at < stop do
    n = n + 1
    records[n] = ffi_string(at)
    at = at + #records[n] + 1
  end
  return records
end

local function whole(self, rel)
  local path = self.path
  if rel == "" then return path end
  if path == "" then return rel end
  return path .. (path:sub(-1) == "/" and "" or "/") .. rel
end

-- True: there are records. False: the walk is over; nil, err: it can't go on.
local function read_on(self)
  if self.reads then error("walk: another G goes on with this walk", 3) end
  self.reads = true
  local records, err = run(C.host_walk_next(self.walk), records_of)
  self.reads = false
  if not records then return nil, err end
  self.records, self.n = records, 0
  return records[1] ~= nil
end

--- What the walk finds next. May wait.
---@return string|nil path  nil: there is no more
---@return string|nil type  nil: what is in the directory path can't be told
---@return string? err      why not
function walk_mt:__call()
  local record = self.records[self.n + 1]
  if not record then
    if not self.walk then return nil end
    local more, err = read_on(self)
    if not more then
      self:close()
      if err then return self.path, nil, err end
      return nil
    end
    record = self.records[1]
  end
  self.n = self.n + 1
  local letter = record:sub(1, 1)
  if letter ~= "e" then return whole(self, record:sub(2)), types[letter] end
  local errno, rel = record:match "^e(%d+) (.*)$"
  local path = whole(self, rel)
  errno = -tonumber(errno)
  if errno == EXDEV then return path, nil, "leads out of its folder: " .. path end
  return path, nil, message(errno) .. ": " .. path
end

--- Ends a walk that was left before its end, whose directories the collector would have to close. Closing twice is
--- harmless.
function Walk:close()
  self.records, self.n = {}, 0
  if self.walk then C.host_walk_free(ffi.gc(self.walk, nil)) end
  self.walk = nil
end

--- Goes through a directory and all those in it:
---
---   for path, type, err in fs.walk "public" do
---     if err then log.warn(err) elseif type == "file" then ... end
---   end
---
--- Tells each name: its path, which begins with the one that was given, and its type as `stat` has it; a directory
--- before what is in it, otherwise in the order of the disk. The walk follows no link, except `path` itself. A
--- directory that can't be read is told with an error, and the walk goes on beside it. A deadline or a cancellation of
--- the G ends the walk, and is told as an error of `path`. Whatever the tree, a walk has few descriptors open, and the
--- names of one batch in memory. May wait, in the loop.
---@param path string
---@param opts? { below: string }  the folder from which path is counted, and out of which it does not lead
---@return lunapark.Walk  to be called, as `for` does
function tree.walk(path, opts)
  check_path(path, "walk")
  local walk = C.host_walk_new(root_of(opts, "walk"), path)
  if walk == nil then error("walk: no memory", 2) end
  return setmetatable({ walk = ffi.gc(walk, C.host_walk_free), path = path, records = {}, n = 0 }, walk_mt)
end

return tree
