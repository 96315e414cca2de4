--- What `app:static` remembers of its folder for a moment: the bytes of small files, and which names are not there.
--
-- A small file is opened, looked at and read more slowly than it is sent, and a page asks for many. So the bytes of a
-- file of SMALL bytes at most are kept, with its header fields, and such an answer leaves in one write. A file that has
-- changed is noticed when its entry is older than the option `cache` says. Larger files are opened each time: sending
-- them takes most of the time, and an open descriptor would keep the space of a file that was removed.
--
-- A cache that is full forgets everything, which costs a moment's openings. Names that are not there have a table of
-- their own, since clients can make up many: they do not drive files out.
--
-- Each VM has its own cache. Gs that ask for a file that is not remembered, open it, each for itself.

local base = require "lunapark.core.base"
local files = require "lunapark.http.file"

local now_ns = base.now_ns

local SMALL = 16384         -- bytes of a file that is kept
local BYTES_MAX = 4 * 2 ^ 20 -- of all files
local FILES_MAX = 1000
local MISSES_MAX = 1000
local NAME_MAX = 256 -- bytes of a path that is remembered

local file_cache = {}

---@class lunapark.FileCache
---@field private dir string
---@field private choice lunapark.FileChoice
---@field private age number  nanoseconds
---@field private files table<string, table<string, table>>  by codings, by path
---@field private misses table<string, table>
---@field private n_files integer
---@field private n_misses integer
---@field private bytes integer
local Cache = {}
local cache_mt = { __name = "lunapark.FileCache", __index = Cache }

local function clear_files(self)
  self.files, self.n_files, self.bytes = {}, 0, 0
end

local function clear_misses(self)
  self.misses, self.n_misses = {}, 0
end

--- A cache of a folder.
---@param dir string
---@param choice lunapark.FileChoice
---@param age number  seconds; 0: nothing is remembered
---@return lunapark.FileCache
function file_cache.new(dir, choice, age)
  local self = setmetatable({ dir = dir, choice = choice, age = age * 1e9 }, cache_mt)
  clear_files(self)
  clear_misses(self)
  return self
end

local function keep_miss(self, path, why)
  if self.n_misses >= MISSES_MAX then clear_misses(self) end
  if not self.misses[path] then self.n_misses = self.n_misses + 1 end
  self.misses[path] = { why = why, ends = now_ns() + self.age }
end

local function keep_file(self, codings, path, file)
  if self.n_files >= FILES_MAX or self.bytes + file.size > BYTES_MAX then clear_files(self) end
  local by_path = self.files[codings]
  if not by_path then
    by_path = {}
    self.files[codings] = by_path
  end
  local earlier = by_path[path]
  if earlier then
    self.bytes = self.bytes - earlier.file.size
  else
    self.n_files = self.n_files + 1
  end
  self.bytes = self.bytes + file.size
  by_path[path] = { file = file, ends = now_ns() + self.age }
end

--- As file.find in the folder. May wait.
---@param path string
---@param accept string
---@return lunapark.SentFile|false|nil
---@return string? why
function Cache:find(path, accept)
  local codings = self.choice.precompressed and files.codings(accept) or ""
  local by_path = self.files[codings]
  local entry = by_path and by_path[path] or self.misses[path]
  if entry and now_ns() < entry.ends then return entry.file or false, entry.why end
  local file, why = files.find(path, self.dir, accept, self.choice)
  if self.age == 0 or #path > NAME_MAX then return file, why end
  if file == false then keep_miss(self, path, why) end
  if not file or file.size > SMALL then return file, why end
  local kept = file:in_memory()
  if not kept then return file end
  keep_file(self, codings, path, kept)
  return kept
end

return file_cache
