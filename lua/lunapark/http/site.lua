--- What C is told of an app, to answer for its files: the text of host_site_stage (host/http/http_ffi.h).
--
-- C may answer for a route of `static` around which there is no middleware, and whose prefix has no names. Other routes
-- below the prefix come first where they fit; C takes each of their names for any segment that is not empty. A route
-- that begins otherwise cannot come first: a literal segment beats the others (routes.c), and a route of `static`
-- answers whatever follows its prefix. Nor can `any` of the same paths. Of an app with hosts C answers for nothing.

local ffi = require "ffi"
require "lunapark.cdef"
local dispatch = require "lunapark.http.dispatch"
local files = require "lunapark.http.file"
local router = require "lunapark.http.router"

local C = ffi.C

local site = {}

---@class lunapark.SiteFiles
---@field dir string
---@field index string  "": none
---@field choice lunapark.FileChoice
---@field age number    seconds

-- Methods of the routes that answer GET or HEAD.
local answering = { GET = true, HEAD = true, ANY = true }

local function is_literal(pieces, n)
  for i = 1, n do
    if not router.literal(pieces[i]) then return false end
  end
  return true
end

-- A pattern as C reads it: literal text, ":" for a name, "*" for a tail.
local function simple(pieces)
  local list = {}
  for i, piece in ipairs(pieces) do list[i] = router.literal(piece) or piece:sub(1, 1) == "*" and "*" or ":" end
  return "/" .. table.concat(list, "/")
end

-- The patterns of a route, one for each spelling.
local function spellings(plan, pieces)
  local pattern = simple(pieces)
  if not plan.spelled or not plan.spelled[pieces] then return { pattern } end
  return { pattern, pattern:sub(-1) == "/" and pattern:sub(1, -2) or pattern .. "/" }
end

-- Adds the mount whose folder's paths are those of `route`.
local function add(list, route, plan)
  local own = route.files
  local prefix = simple(route.pieces):sub(1, -3)
  for _, field in ipairs {
    "M", prefix, own.dir, own.index, own.choice.cache_control or "", own.choice.precompressed and "1" or "0",
    ("%.0f"):format(own.age * 1000), ("%d"):format(dispatch.label(route)),
  } do
    list[#list + 1] = field
  end
  for _, other in ipairs(plan.routes) do
    local is_under = other.method == "ANY" and router.shape(other.pieces) == router.shape(route.pieces)
    for _, pattern in ipairs(spellings(plan, other.pieces)) do
      if other ~= route and answering[other.method] and not is_under
        and pattern:sub(1, #prefix + 1) == prefix .. "/" then
        list[#list + 1], list[#list + 2] = "O", pattern:sub(#prefix + 1)
      end
    end
  end
end

--- Describes an app.
---@param app lunapark.App
---@return string  empty: C answers for nothing
function site.describe(app)
  local plan = app.plan or app:compile()
  if plan.hosts then return "" end
  local mounts, list = {}, {}
  for _, route in ipairs(plan.routes) do
    if route.files and is_literal(route.pieces, #route.pieces - 1) then mounts[#mounts + 1] = route end
  end
  if #mounts == 0 then return "" end
  table.sort(mounts, function(a, b) return #simple(a.pieces) > #simple(b.pieces) end)
  files.each_type(function(ending, ctype, compresses)
    for _, field in ipairs { "T", ending, ctype, compresses and "1" or "0" } do list[#list + 1] = field end
  end)
  for _, route in ipairs(mounts) do
    add(list, route, plan)
  end
  return table.concat(list, "\0") .. "\0"
end
jit.off(site.describe) -- as in router.lua

--- C answers for the app of this server: a later definition ends that.
---@param app lunapark.App
---@param server integer  -1: what the generation of this VM serves
function site.given(app, server)
  app.given = app.given or {}
  app.given[#app.given + 1] = server
end

--- C answers for none of the app's files any more.
---@param app lunapark.App
function site.off(app)
  for _, server in ipairs(app.given) do C.host_site_off(server) end
  app.given = nil
end

--- Gives the app, which has loaded, to the generation of this VM.
---@param app lunapark.App
---@param first boolean  the VM is its generation's first: the others have loaded the same
---@return string? message
function site.give(app, first)
  local text = site.describe(app)
  if text == "" then return end
  if first and C.host_site_stage(text, #text) < 0 then return "not enough memory" end
  site.given(app, -1)
end

return site
