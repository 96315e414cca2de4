--- `app:static`: the files of a folder.
--
-- What a client can name is what lies in the folder: the kernel lets no path out of it (host/sys/beneath.c), neither by
-- dots, which are resolved before routing, nor by symbolic links. Names that begin with a dot are not there for
-- clients, since such files (.git, .env) are seldom meant to be seen; a folder "/.well-known" is served by a route of
-- its own. Only regular files are there. Whatever is not there is 404, and a client learns no more.
--
-- A folder's path ends with a slash. Without it, relative links in its index would lead elsewhere, so the client is
-- sent to the path with the slash. This path is put together from decoded names: as the client has written it, a path
-- such as "//host/../../folder" would lead to another host.
--
-- Where no middleware surrounds the route, C answers what is asked for every day, by a cache of its own, and leaves all
-- else to the handler here: host/http/static.c.

local base = require "lunapark.core.base"
local core = require "lunapark.core"
local file_cache = require "lunapark.http.file_cache"
local files = require "lunapark.http.file"
local headers = require "lunapark.http.headers"
local response = require "lunapark.http.response"
local as_given = require("lunapark.core.show").given

local find, format, gsub, match = string.find, string.format, string.gsub, string.match

local static = {}

---@class lunapark.StaticOptions: lunapark.FileOptions
---@field index string|false|nil   the file that a folder answers with, "index.html" without it; false: none
---@field fallback string?         the file, counted from the folder, that is the answer where there is none: for pages
---that do their own routing. A path whose name ends as a known type of file (".js") gets no fallback. A fallback says
---`Cache-Control: no-cache`.
---@field cache number?            seconds for which the server remembers small files, and names that are not there: 2
---without it, 0 by --dev
local known = { index = true, fallback = true, cache = true }
local CACHE = 2

local function check_name(opts, name)
  if opts[name] then base.check_text(opts[name], "static", "opts." .. name, 5) end
end

local function check(opts)
  files.check_options(opts, "static", known, 5)
  check_name(opts, "index")
  check_name(opts, "fallback")
  local cache = opts.cache
  if cache ~= nil and not (type(cache) == "number" and cache >= 0 and cache < 2 ^ 31) then
    error("static: opts.cache must be seconds, got " .. as_given(cache), 4)
  end
end

local function escaped(c)
  return format("%%%02X", c:byte())
end

-- The path of the request with a slash at its end.
local function with_slash(req)
  local query = match(req.target, "%?.*") or ""
  return gsub(req.path, "[^%w/._~!$&'()*+,;=:@-]", escaped) .. "/" .. query
end

-- Whether clients may name the file.
local function allowed(path)
  return not find("/" .. path, "/[./]") and not find(path, "\\", 1, true)
end

--- The handler of the paths below a prefix. Its parameter "*" is what follows the prefix; none: the prefix without
--- its slash.
---@param from string  where a relative dir starts
---@param dir string
---@param opts lunapark.StaticOptions
---@return fun(req: lunapark.Request, res: lunapark.Response): any, any, any
---@return lunapark.SiteFiles  what C needs to know to answer in its place
function static.handler(from, dir, opts)
  check(opts)
  dir = files.from(from, dir)
  local index = opts.index == nil and "index.html" or opts.index
  local fallback = opts.fallback
  local age = opts.cache or core.option_value "dev" == 0 and CACHE or 0
  local choice = files.options(opts, true)
  local own = file_cache.new(dir, choice, age)
  local others = file_cache.new(dir, files.options({
    cache_control = "no-cache", precompressed = opts.precompressed,
  }, true), age)

  -- The file, or false and "missing" or "folder", or nil and why not.
  local function look_up(path, accept)
    if not path then return false, "folder" end
    if not allowed(path) then return false, "missing" end
    if path ~= "" and path:sub(-1) ~= "/" then return own:find(path, accept) end
    if not index then return false, "missing" end
    local file, why = own:find(path .. index, accept)
    if file == false then why = "missing" end
    return file, why
  end

  return function(req, res)
    local path = req.params["*"]
    local accept = headers.of_request(req):get "accept-encoding" or ""
    local file, why = look_up(path, accept)
    if file == false and why == "folder" and index then
      res:redirect(with_slash(req), 301)
      return
    end
    if file == false and fallback and not files.has_type(path) and allowed(path) then
      file, why = others:find(fallback, accept)
    end
    if file then return response.note_file(res, file) end
    if file == false then return 404 end
    return nil, why
  end, { dir = dir, index = index or "", choice = choice, age = age }
end

return static
