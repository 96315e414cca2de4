--- Files as answers: what `res:send_file` notes until the answer is sent.
--
-- The file is opened when the handler names it, so that a failure is the handler's to answer. It is sent when the
-- outermost middleware has returned, as every noted answer: the host takes a descriptor of its own then, and the
-- connection sends the file without its handler (host/http/out.c).
--
-- A file has a strong ETag of its size, the nanosecond of its last change, and its inode. An encoded variant that lies
-- beside the file ("app.js.br") has an ETag of its own, since its bytes are others.

local ffi = require "ffi"
require "lunapark.cdef"
local base = require "lunapark.core.base"
local run = require("lunapark.core.job").run
local compress = require "lunapark.http.compress"
local conditional = require "lunapark.http.conditional"
local result = require "lunapark.fs.result"
local as_given = require("lunapark.core.show").given

local C = ffi.C
local RDONLY, EAGAIN = 0, -11
local KIND, REGULAR, DIRECTORY = 0xf000, 0x8000, 0x4000

local file = {}

local TEXT = "; charset=utf-8"

-- Content types by the end of a file's name, in lower case.
local types = {
  html = "text/html" .. TEXT, htm = "text/html" .. TEXT, css = "text/css" .. TEXT, txt = "text/plain" .. TEXT,
  md = "text/markdown" .. TEXT, csv = "text/csv" .. TEXT, js = "text/javascript" .. TEXT,
  mjs = "text/javascript" .. TEXT, json = "application/json", map = "application/json", xml = "application/xml",
  webmanifest = "application/manifest+json", wasm = "application/wasm", pdf = "application/pdf",
  zip = "application/zip", gz = "application/gzip", tar = "application/x-tar",
  svg = "image/svg+xml", png = "image/png", jpg = "image/jpeg", jpeg = "image/jpeg", gif = "image/gif",
  webp = "image/webp", avif = "image/avif", ico = "image/x-icon",
  woff = "font/woff", woff2 = "font/woff2", ttf = "font/ttf", otf = "font/otf",
  mp3 = "audio/mpeg", ogg = "audio/ogg", wav = "audio/wav", mp4 = "video/mp4", webm = "video/webm",
}
local OTHER = "application/octet-stream"

--- Calls fn(ending, type, whether it is compressed well) for each type, and last with "" for all other endings.
---@param fn fun(ending: string, type: string, compresses: boolean)
function file.each_type(fn)
  for ending, ctype in pairs(types) do
    fn(ending, ctype, compress.types[ctype])
  end
  fn("", OTHER, compress.types[OTHER])
end

-- Codings of variants, in our order, and how their names end.
local CODINGS = { "br", "zstd", "gzip" }
local ENDINGS = { br = ".br", zstd = ".zst", gzip = ".gz" }

local order = compress.memory(function(accept) return (compress.order(accept, CODINGS)) end)
local joined = compress.memory(function(accept) return table.concat(order[accept], ",") end)

--- The codings that an Accept-Encoding field asks for, in order.
---@param accept string
---@return string
function file.codings(accept)
  return joined[accept]
end

--- A path that an app names, counted from the app's folder.
---@param dir string
---@param path string
---@return string
function file.from(dir, path)
  if dir == "." or path:sub(1, 1) == "/" then return path end
  return dir .. "/" .. path
end

-- ---- options ------------------------------------------------------------------------------------------------

---@class lunapark.FileOptions
---@field cache_control string?    the Cache-Control field
---@field max_age number?          seconds: `Cache-Control: public, max-age=N`
---@field immutable boolean?       the file never changes, as its name would: `immutable`, and a year without max_age
---@field precompressed boolean?   texts are sent as the variant `.br`, `.zst` or `.gz` beside the file that the client
---likes best. app:static does so without this option, too; false: not

---@class lunapark.SendFileOptions: lunapark.FileOptions
---@field below string?  the folder from which path is counted, and out of which it does not lead; for every path that
---comes from a client

local YEAR = 365 * 86400
local kinds = { cache_control = "string", max_age = "number", immutable = "boolean", precompressed = "boolean" }

--- Raises what is wrong with options.
---@param opts table
---@param what string  the function that got them
---@param others table<string, boolean>  options that it knows besides
---@param level integer
function file.check_options(opts, what, others, level)
  if type(opts) ~= "table" then error(what .. ": opts must be a table, got " .. type(opts), level) end
  for name, value in pairs(opts) do
    local kind = kinds[name]
    if not kind and not others[name] then error(what .. ": unknown option " .. tostring(name), level) end
    if kind and type(value) ~= kind then
      error(("%s: opts.%s must be a %s, got %s"):format(what, name, kind, type(value)), level)
    end
  end
  local age = opts.max_age
  if age and not (age >= 0 and age < 2 ^ 31) then
    error(what .. ": opts.max_age must be seconds, got " .. as_given(age), level)
  end
  if opts.cache_control and opts.cache_control:find "[%c]" then
    error(what .. ": opts.cache_control has control characters", level)
  end
end

---@class lunapark.FileChoice
---@field cache_control string|nil
---@field precompressed boolean

--- What options mean.
---@param opts lunapark.FileOptions  checked
---@param precompressed boolean      without the option
---@return lunapark.FileChoice
function file.options(opts, precompressed)
  local cache, age = opts.cache_control, opts.max_age or opts.immutable and YEAR
  if not cache and age then
    cache = ("public, max-age=%d%s"):format(age, opts.immutable and ", immutable" or "")
  end
  if opts.precompressed ~= nil then precompressed = opts.precompressed end
  return { cache_control = cache, precompressed = precompressed }
end

local NO_OPTIONS, below_too = file.options({}, false), { below = true }

--- The options of send_file.
---@param opts any
---@return string|nil below
---@return lunapark.FileChoice
function file.send_options(opts)
  if opts == nil then return nil, NO_OPTIONS end
  file.check_options(opts, "send_file", below_too, 4)
  if opts.below ~= nil then base.check_text(opts.below, "send_file", "opts.below", 4) end
  return opts.below, file.options(opts, false)
end

-- ---- open files ---------------------------------------------------------------------------------------------

---@class lunapark.SentFile
---@field handle ffi.cdata*|nil  host_file; nil: it was sent, or
---@field bytes string|nil       the file is in memory
---@field size integer           bytes
---@field path string
---@field type string            its content type, by the end of its name
---@field fields string[]        header fields of an answer with it: name, value, name, value ...
---@field private head string|nil  fields, and those of the type, as lines
---@field private modified number  seconds since 1970
---@field private tag string
local SentFile = {}
local sent_mt = { __name = "lunapark.SentFile", __index = SentFile }

--- Closes the file. Does not wait.
function SentFile:drop()
  if self.handle then C.host_file_free(ffi.gc(self.handle, nil)) end
  self.handle = nil
end

local PIECE = 65536

local function piece_of(job, path)
  local r, err = result.outcome(job, path)
  if not r then return nil, err end
  if r.n == 0 then return nil, "has become shorter: " .. path end
  return ffi.string(r.data, r.len)
end

--- The next bytes of the file, n at most. May wait.
---@param n integer
---@return string|nil piece
---@return string? err
function SentFile:read(n)
  return run(C.host_file_job(self.handle, C.HOST_FILE_READ, nil, 0, math.min(n, PIECE), 0), piece_of, self.path)
end

local function sought(job, path)
  local r, err = result.outcome(job, path)
  return r and true, err
end

--- Sets where `read` goes on. May wait.
---@param at integer
---@return true|nil ok
---@return string? err
function SentFile:seek(at)
  return run(C.host_file_job(self.handle, C.HOST_FILE_SEEK, nil, 0, at, 0), sought, self.path)
end

--- A copy of the file in memory, in whose favour the file is closed. May wait.
---@return lunapark.SentFile|nil  nil: it cannot be read, or has changed; then the file is as it was
function SentFile:in_memory()
  local bytes = self.size == 0 and "" or self:read(self.size)
  if not bytes or #bytes ~= self.size then return nil end
  self:drop()
  return setmetatable({
    bytes = bytes, size = self.size, path = self.path, type = self.type, fields = self.fields,
  }, sent_mt)
end

--- The header lines of an answer with the file, its type's too.
---@return string
function SentFile:lines()
  local head = self.head
  if not head then
    local list = {}
    for i = 1, #self.fields, 2 do
      list[#list + 1] = self.fields[i] .. ": " .. self.fields[i + 1]
    end
    list[#list + 1] = "Content-Type: " .. self.type
    head = table.concat(list, "\r\n") .. "\r\nX-Content-Type-Options: nosniff\r\n"
    self.head = head
  end
  return head
end

local function type_of(path)
  local ending = path:match "%.([^./]*)$"
  return ending and types[ending:lower()]
end

--- Whether the end of a name tells a type.
---@param path string|nil
---@return boolean
function file.has_type(path)
  return path ~= nil and type_of(path) ~= nil
end

-- The header fields of a file.
local function fields_of(f, coding, choice)
  local list = { "ETag", ('"%s%s"'):format(f.tag, coding and "-" .. coding or ""), "Accept-Ranges", "bytes" }
  local function add(name, value)
    if value then list[#list + 1], list[#list + 2] = name, value end
  end
  -- A date after that of the answer would be wrong (RFC 9110, section 8.8.2.1).
  if f.modified <= os.time() then add("Last-Modified", conditional.date(math.floor(f.modified))) end
  add("Cache-Control", choice.cache_control)
  add("Content-Encoding", coding)
  if choice.precompressed and compress.types[f.type] then add("Vary", "Accept-Encoding") end
  f.fields = list
  return f
end

local missing = {}
for _, errno in ipairs { 2, 6, 13, 18, 20, 36, 40 } do -- ENOENT ENXIO EACCES EXDEV ENOTDIR ENAMETOOLONG ELOOP
  missing[-errno] = true
end

-- The file of a host_fs_result, with its handle; or false, a text, "missing" or "folder"; or nil and why not.
local function file_of(outcome, path, handle)
  local r, err = result.of(outcome, path)
  if not r then
    if missing[tonumber(outcome.n)] then return false, { err, "missing" } end
    return nil, err
  end
  local kind = bit.band(r.mode, KIND)
  if kind == DIRECTORY then return false, { "is a directory: " .. path, "folder" } end
  if kind ~= REGULAR then return false, { "not a regular file: " .. path, "missing" } end
  return setmetatable({
    handle = ffi.gc(handle, C.host_file_free), size = tonumber(r.size), path = path,
    type = type_of(path) or OTHER, modified = tonumber(r.mtime_ns / 1000000000),
    tag = ("%x-%s-%x"):format(tonumber(r.size), bit.tohex(r.mtime_ns):gsub("^0+", ""), r.ino),
  }, sent_mt)
end

local function opened(job, path)
  local r = C.host_fs_result_of(job)
  local regular = r.n == 0 and bit.band(r.mode, KIND) == REGULAR
  local f, why = file_of(r, path, regular and C.host_fs_take(job))
  return f, why
end

local at_once = ffi.new "host_fs_result"

-- Opens the file `name`, which errors call `path`. As file_of. May wait, if the disk has to be asked.
local function open_one(name, root, path)
  if root then
    local handle = C.host_fs_open_cached(root, name, at_once)
    if at_once.n ~= EAGAIN then
      local f, why = file_of(at_once, path, handle)
      return f, why
    end
  end
  return run(C.host_fs_open(root, name, RDONLY), opened, path)
end

-- As open_one; the variant that is liked best. May wait.
local function open(path, root, accept, choice)
  local plain, why = open_one(path, root, path)
  if not plain then return plain, why end
  if choice.precompressed and compress.types[plain.type] then
    for _, coding in ipairs(order[accept]) do
      local variant = open_one(path .. ENDINGS[coding], root, path)
      if variant then
        variant.type = plain.type
        plain:drop()
        return fields_of(variant, coding, choice)
      end
    end
  end
  return fields_of(plain, nil, choice)
end

--- Opens a file that is to be an answer, or a variant of it. May wait.
---@param path string
---@param root string|nil  as opts.below of fs.open
---@param accept string    the Accept-Encoding field
---@param choice lunapark.FileChoice
---@return lunapark.SentFile|nil
---@return string? err  names the path
function file.open(path, root, accept, choice)
  local f, why = open(path, root, accept, choice)
  if f == false then return nil, why[1] end
  return f, why
end

--- As file.open, for paths that clients choose.
---@param path string
---@param root string
---@param accept string
---@param choice lunapark.FileChoice
---@return lunapark.SentFile|false|nil  false: there is no such file
---@return string? why  "missing"; "folder": it is one; else why it could not be opened
function file.find(path, root, accept, choice)
  local f, why = open(path, root, accept, choice)
  if f == false then return false, why[2] end
  return f, why
end

return file
