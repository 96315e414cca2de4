--- Files as answers: what `res:send_file` notes until the answer is sent.
--
-- The file is opened when the handler names it, so that a failure is the handler's to answer. It is sent when the
-- outermost middleware has returned, as every noted answer: the host takes a descriptor of its own then, and the
-- connection sends the file without its handler (host/http/out.c).

local ffi = require "ffi"
require "lunapark.cdef"
local run = require("lunapark.core.job").run
local result = require "lunapark.fs.result"

local C = ffi.C
local RDONLY = 0
local KIND, REGULAR, DIRECTORY = 0xf000, 0x8000, 0x4000

local file = { root_of = result.root_of }

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

---@class lunapark.SentFile
---@field handle ffi.cdata*|nil  host_file; nil: it was sent
---@field size integer           bytes
---@field path string
---@field type string            its content type, by the end of its name
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

local function opened(job, path)
  local r, err = result.outcome(job, path)
  if not r then return nil, err end
  local kind = bit.band(r.mode, KIND)
  if kind == DIRECTORY then return nil, "is a directory: " .. path end
  if kind ~= REGULAR then return nil, "not a regular file: " .. path end
  local ending = path:match "%.([^./]*)$"
  return setmetatable({
    handle = ffi.gc(C.host_fs_take(job), C.host_file_free), size = tonumber(r.size), path = path,
    type = ending and types[ending:lower()] or OTHER,
  }, sent_mt)
end

--- Opens a file that is to be an answer. May wait.
---@param path string
---@param root string|nil  as opts.below of fs.open
---@return lunapark.SentFile|nil
---@return string? err  names the path
function file.open(path, root)
  return run(C.host_fs_open(root, path, RDONLY), opened, path)
end

return file
