--- Forms in parts, for req:form(): fields as strings; files in memory or, if they are large, in temporary files without
--- a name, which are gone with the request. And how parts and files are saved.
--
-- A file is saved beside its place, under a name of its own, and renamed when it is whole and on the disk: nobody sees
-- a part of it. A handler that is ended by force leaves that file behind, `.lunapark-` in front.

local ffi = require "ffi"
require "lunapark.cdef"
local base = require "lunapark.core.base"
local fs = require "lunapark.fs"
local as_given = require("lunapark.core.show").given

local C = ffi.C
local sub = string.sub

local PIECE = 65536
local FIELD_MAX, MEMORY = 2 ^ 20, 2 ^ 18

local upload = {}

-- ---- saving -------------------------------------------------------------------------------------------------

local count = 0

-- Opens a file beside `to`, under a name that no other has.
local function open_beside(to)
  local dir, file, err = to:match "^.*/" or ""
  for _ = 1, 100 do
    count = count + 1
    local name = ("%s.lunapark-%x-%x-%x"):format(dir, base.view.vm_id, count, tonumber(C.rt_nanotime() % 2 ^ 52))
    file, err = fs.open(name, "x")
    if file then return file, name end
    if not err:find("file exists", 1, true) then break end
  end
  return nil, err
end

-- Writes all pieces.
local function fill(file, next_piece)
  while true do
    local piece, err = next_piece()
    if err then return nil, err end
    if not piece then return file:sync() end
    local ok
    ok, err = file:write(piece)
    if not ok then return nil, err end
  end
end

--- Makes a file of pieces, or replaces one. May wait. Raises what next_piece raises.
---@param to string
---@param next_piece fun(): string?, string?  nil at the end; nil and an error
---@return true|nil ok
---@return string? err
function upload.save(to, next_piece)
  base.check_text(to, "save", "path", 3)
  local file, name = open_beside(to)
  if not file then return nil, name end
  local went, ok, err = pcall(fill, file, next_piece)
  file:close()
  if went and ok then ok, err = fs.rename(name, to) end
  if went and ok then return true end
  os.remove(name)
  if not went then error(ok, 0) end
  return nil, err
end

-- ---- files --------------------------------------------------------------------------------------------------

---@class lunapark.Upload
---@field name string       of the form's field
---@field filename string   as part.filename
---@field headers lunapark.Headers
---@field size integer      bytes
---@field private data string|nil         the bytes, or
---@field private file lunapark.File|nil  the temporary file
---@field private at integer              how many bytes were read
local Upload = {}
local upload_mt = { __name = "lunapark.Upload", __index = Upload }

--- Reads on. May wait for the disk.
---@param n? integer  bytes at most, 65536 without it
---@return string|nil piece  nil at the end
---@return string? err       of the disk; "closed": the request is over
function Upload:read(n)
  if n ~= nil and (type(n) ~= "number" or n < 1) then
    error("read: n must be 1 or more, got " .. as_given(n), 2)
  end
  if self.at >= self.size then return nil end
  local piece, err
  if self.data then
    piece = sub(self.data, self.at + 1, self.at + (n or PIECE))
  elseif self.file then
    piece, err = self.file:read(n or PIECE)
    if not piece then return nil, err end
  else
    return nil, "closed"
  end
  self.at = self.at + #piece
  return piece
end

-- Goes back to the first byte.
local function rewind(self)
  self.at = 0
  if self.file then return self.file:seek("set", 0) end
  return true
end

--- Writes the whole file to a path. Others see the file when it is whole; a file that was there before is replaced
--- then. May wait for the disk.
---@param to string  a path of the handler's own; of filename at most a part of it
---@return true|nil ok
---@return string? err
function Upload:save(to)
  local ok, err = rewind(self)
  if ok then
    ok, err = upload.save(to, function() return self:read() end)
  end
  if ok then
    ok, err = rewind(self)
  end
  return ok and true, err
end

-- ---- forms --------------------------------------------------------------------------------------------------

---@class lunapark.Uploads
---@field fields table<string, string>
---@field files lunapark.Upload[]
---@field private list string[]   name, value, name, value ...
---@field private in_memory integer  bytes of files
local Uploads = {}
local uploads_mt = { __name = "lunapark.Uploads", __index = Uploads }

---@return lunapark.Uploads
function upload.new()
  return setmetatable({ fields = {}, files = {}, list = {}, in_memory = 0 }, uploads_mt)
end

local function no_disk(err, abort)
  abort(503, "no room for an upload: " .. tostring(err))
end

-- Puts the pieces into a temporary file, and then the rest of the part.
local function spool(self, file, part, pieces, abort)
  local temporary, err = fs.temporary()
  if not temporary then no_disk(err, abort) end
  file.file = temporary
  self.files[#self.files + 1] = file -- from now on `close` finds it
  local piece = table.concat(pieces)
  while piece do
    local ok
    ok, err = temporary:write(piece)
    if not ok then no_disk(err, abort) end
    file.size = file.size + #piece
    piece, err = part:read()
    if err then abort(408, "request body did not come in time") end
  end
  local ok
  ok, err = rewind(file)
  if not ok then no_disk(err, abort) end
end

local function take_file(self, part, memory, abort)
  local file = setmetatable({
    name = part.name, filename = part.filename, headers = part.headers, size = 0, at = 0,
  }, upload_mt)
  local pieces, n = {}, 0
  while true do
    local piece, err = part:read()
    if err then abort(408, "request body did not come in time") end
    if not piece then break end
    pieces[#pieces + 1], n = piece, n + #piece
    if self.in_memory + n > memory then
      spool(self, file, part, pieces, abort)
      return file
    end
  end
  -- A file input that was left empty is sent as a file without name and bytes.
  if n == 0 and part.filename == "" then return nil end
  file.data, file.size, self.in_memory = table.concat(pieces), n, self.in_memory + n
  self.files[#self.files + 1] = file
  return file
end

local function take_field(part, max, abort)
  local pieces, n = {}, 0
  while true do
    local piece, err = part:read()
    if err then abort(408, "request body did not come in time") end
    if not piece then return table.concat(pieces) end
    pieces[#pieces + 1], n = piece, n + #piece
    if n > max then abort(413, ("a field is larger than %d bytes"):format(max)) end
  end
end

--- Reads all parts. May wait. Raises aborts.
---@param parts fun(): lunapark.Part?
---@param max_fields integer
---@param opts lunapark.FormLimits
---@param abort fun(status: integer, message: string)
function Uploads:collect(parts, max_fields, opts, abort)
  local list, fields, files = self.list, self.fields, self.files
  for part in parts do
    if part.filename then
      local file = take_file(self, part, opts.memory or MEMORY, abort)
      if file then files[part.name] = file end
    else
      if #list >= 2 * max_fields then abort(413, ("the form has more than %d fields"):format(max_fields)) end
      local value = take_field(part, opts.max_field or FIELD_MAX, abort)
      list[#list + 1], list[#list + 2] = part.name, value
      fields[part.name] = value
    end
  end
end

--- Appends all values of a field, in order.
---@param name string
---@param to string[]
function Uploads:all(name, to)
  for i = 1, #self.list, 2 do
    if self.list[i] == name then to[#to + 1] = self.list[i + 1] end
  end
end

--- Closes the temporary files. May wait.
function Uploads:close()
  for _, file in ipairs(self.files) do
    if file.file then file.file:close() end
    file.file = nil
  end
end

return upload
