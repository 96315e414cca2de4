--- Routes: from a method and a path to the route that was registered for them.
--
-- host/http/routes.c has the tree of patterns, and says which route wins. Here patterns are read and checked, and
-- numbers of routes become routes: the walk for a request is one call, and the strings that are made are those of the
-- route's names.
--
--   /users/:id          a segment that is not empty
--   /users/:id<int>     a segment of a kind: int, uuid, hex, alpha, slug
--   /users/:id.json     with text around the name. Text behind a name without a kind begins with one of . , ; = @ ~ !
--   /v:major<int>/x     or with a colon, so that ":user-id" is no silent ":user" before "-id"
--   /files/*rest        all that follows, which may be empty; "*" alone is a name, too
--   /tasks/:id::stop    a doubled colon is a colon
--
-- A segment of a pattern is a *piece*. A piece is kept as it was written. A list of pieces has two fields: `shape`, the
-- pattern as C reads it, and `names`; `parse` sets them, or `shape`, for a list that was put together. Such a list does
-- not change any more.

local ffi = require "ffi"
require "lunapark.cdef"

local C = ffi.C
local core = require "lunapark.core"
local near = require "lunapark.core.near"
local new_table = require "table.new"

local apart, add_route = core.apart, core.add_route
local concat, sort, ffi_string = table.concat, table.sort, ffi.string
local byte, find, gsub, match, sub = string.byte, string.find, string.gsub, string.match, string.sub

local REST, COLON = byte "*", byte ":" -- what a piece for the tail, and one with a name, begins with

-- What a name may be asked to stand for, as C has it.
local kinds = { int = "i", uuid = "u", hex = "h", alpha = "a", slug = "s" }

---@class lunapark.Pieces: { [integer]: string }
---@field shape string?          nil: it was not asked for yet
---@field names string[]|false?  the names of segments, in order, and of the tail; false: there are none

---@class lunapark.Route
---@field names string[]|false  of its pieces

local router = {}
local methods = {}
local mt = { __index = methods }

-- What the last lookup found. Nothing waits between a lookup and a look at this, so all routers of the VM share it.
local found = ffi.new "host_match"
local NAMES_MAX = C.HOST_PARAMS_MAX

local GET, HEAD, OPTIONS = C.host_method_id("GET", 3), C.host_method_id("HEAD", 4), C.host_method_id("OPTIONS", 7)

-- `level` is that of the caller of `parse`, as seen from inside.
local function fail(pattern, what, level, why)
  local shown = type(pattern) == "string" and ("%q"):format(pattern) or tostring(pattern)
  error(("%s: path %s %s"):format(what, shown, why), level + 1)
end

-- The texts around the name of a piece, the name, its kind; nil: there is no name. A NUL in the texts is a colon.
local function take_apart(piece)
  local before, name, behind = match(gsub(piece, "::", "\0"), "^([^:]*):([%a_]?[%w_]*)(.*)$")
  if not before then return nil end
  local kind, rest = match(behind, "^<([^>]*)>(.*)$")
  return before, name, kind, rest or behind
end

-- The name of a piece that is no more than a name, as nearly all are that have one; nil: it is no such piece.
local function mere_name(piece)
  return byte(piece) == COLON and match(piece, "^:([%a_][%w_]*)$") or nil
end

-- A piece as C reads it, and its name, if it has one.
local function encode(piece)
  if byte(piece) == REST then return "\0*", piece == "*" and piece or sub(piece, 2) end
  if not find(piece, ":", 1, true) then return piece end
  local name = mere_name(piece)
  if name then return "\0:", name end
  local before, kind, behind
  before, name, kind, behind = take_apart(piece)
  if not before then return (gsub(piece, "::", ":")) end
  return gsub(before, "%z", ":") .. "\0" .. (kinds[kind] or ":") .. gsub(behind, "%z", ":"), name
end

local function list_of_kinds()
  local list = {}
  for name in pairs(kinds) do list[#list + 1] = name end
  sort(list)
  return concat(list, ", ")
end

-- The mistake in piece i of n that has neither a name nor a tail, or nil.
local function mistake_in_text(piece, i, n)
  if piece == "" and i < n then return "can never match: // is one slash" end
  if piece == "." or piece == ".." then return "can never match: " .. piece .. " is resolved" end
  local braced = match(piece, "{[^{}]*}") or match(piece, "<[^<>]*>")
  if not braced then return nil end
  return ("has %s: names of segments begin with a colon, as in /:%s"):format(braced,
    match(braced, "[%a_][%w_]*") or "name")
end

-- The mistake in a piece that has a name, or nil; and the name.
local function mistake_in_name(piece)
  local before, name, kind, behind = take_apart(piece)
  if name == "" then return "has a bad name: " .. piece end
  if kind and not kinds[kind] then
    return ("has <%s> in %s, which is none of %s%s"):format(kind, piece, list_of_kinds(), near.hint(kind, kinds))
  end
  if find(behind, ":", 1, true) then return ("has two names in one segment: %s (:: is a colon)"):format(piece) end
  if find(before .. behind, "[*(){}<>]") then
    return ("has a bad name: %s (what a name stands for is said as in :%s<int>: %s)"):format(piece, name,
      list_of_kinds())
  end
  if not kind and behind ~= "" and not find(behind, "^[.,;=@~!%z]") then
    return ("has a bad name: %s (a name has letters, digits and _)"):format(piece)
  end
  return nil, name
end

-- Adds a name. The mistake in it, or nil.
local function add_name(names, name)
  for i = 1, #names do
    if names[i] == name then return "has the name " .. name .. " twice" end
  end
  names[#names + 1] = name
  if #names > NAMES_MAX then return ("has more than %d names"):format(NAMES_MAX) end
end

-- The mistake in piece i of n, which is more than a name, or nil. `names` has the names of the pieces before, and gets
-- the name of this one.
local function mistake_in(piece, i, n, names)
  local why, name
  if byte(piece) == REST then
    name = sub(piece, 2)
    if i < n then return "has " .. piece .. " before its end" end
    if name == "" then name = "*" end
    if name ~= "*" and not find(name, "^[%a_][%w_]*$") then return "has a bad name: " .. piece end
  elseif find(piece, "^<.*>$") or not take_apart(piece) then
    return (mistake_in_text(piece, i, n))
  else
    why, name = mistake_in_name(piece)
    if why then return why end
  end
  return (add_name(names, name))
end

-- Takes a pattern apart at its slashes. Also: how many pieces there are. The table has room for most patterns, and for
-- its two fields.
local function split(pattern)
  local pieces, n, pos = new_table(4, 2), 0, 2
  while pos do
    local slash = find(pattern, "/", pos, true)
    n = n + 1
    pieces[n] = sub(pattern, pos, slash and slash - 1)
    pos = slash and slash + 1
  end
  return pieces, n
end

local shaped = {} -- of `parse`, which does not wait

--- Takes a pattern apart.
---@param pattern string
---@param what string      begins the error's message: the function that was called
---@param level integer    as for `error`
---@return lunapark.Pieces  "literal", ":name", "*rest"
function router.parse(pattern, what, level)
  level = level + 1
  if type(pattern) ~= "string" then fail(pattern, what, level, "must be a string") end
  if byte(pattern) ~= 47 then fail(pattern, what, level, "must begin with /") end
  -- Most patterns are of pieces with nothing to check, or begin with such.
  local first, at = find(pattern, "[^%w/_-]") or #pattern + 1, 2
  if find(pattern, "[?#%z]", first) then fail(pattern, what, level, "must not contain ?, # or NUL") end
  local pieces, n = split(pattern)
  if first > #pattern and not find(pattern, "//", 1, true) then
    pieces.shape, pieces.names = pattern, false
    return pieces
  end
  local names = new_table(2, 0)
  for i = 1, n do
    local piece = pieces[i]
    at = at + #piece + 1
    local name, wrong = at > first and mere_name(piece), nil
    if name then
      shaped[i], wrong = "\0:", add_name(names, name)
    elseif piece == "" or at > first and find(piece, "[:*.{<]") then
      wrong = mistake_in(piece, i, n, names)
      shaped[i] = not wrong and encode(piece) or nil
    else
      shaped[i] = piece
    end
    if wrong then fail(pattern, what, level, wrong) end
  end
  pieces.shape, pieces.names = "/" .. concat(shaped, "/", 1, n), names[1] and names or false
  return pieces
end

--- A pattern as C reads it, without its names: patterns that match the same paths have one shape.
---@param pieces lunapark.Pieces
---@return string
function router.shape(pieces)
  if pieces.shape then return pieces.shape end
  local list, names = {}, {}
  for i = 1, #pieces do
    list[i], names[#names + 1] = encode(pieces[i])
  end
  pieces.shape, pieces.names = "/" .. concat(list, "/"), names[1] and names or false
  return pieces.shape
end

--- Without the slash at its end, as a prefix is: the pieces but for a last one that is empty.
---@param pieces lunapark.Pieces
---@return lunapark.Pieces
function router.prefix(pieces)
  local n = #pieces
  if pieces[n] ~= "" then return pieces end
  local list = {}
  for i = 1, n - 1 do list[i] = pieces[i] end
  return list
end

--- Whether a piece is literal.
---@param piece string
---@return string|nil text  what it stands for; nil: it has a name
function router.literal(piece)
  local text, name = encode(piece)
  return not name and text or nil
end

--- Whether a pattern has another spelling, with or without a slash at its end.
---@param pieces lunapark.Pieces
---@return boolean
function router.has_other(pieces)
  local last = pieces[#pieces]
  return byte(last) ~= REST and (last ~= "" or #pieces > 1)
end

--- Pieces as a pattern again.
---@param pieces lunapark.Pieces
---@return string
function router.show(pieces)
  return "/" .. concat(pieces, "/")
end

--- An empty router.
function router.new()
  local tree = C.host_routes_new()
  if tree == nil then error("not enough memory", 0) end
  return setmetatable({ tree = ffi.gc(tree, C.host_routes_free), routes = {} }, mt)
end

-- Numbers of methods, as C has them in routes.
local numbers = { ANY = 0 }

local function number_of(method)
  local number = numbers[method] or C.host_method_add(method, #method)
  numbers[method] = number
  return number
end

local function add(self, method, shape, pieces, route)
  local number = add_route(self.tree, number_of(method), shape)
  if number == 0 then return false end
  self.routes[number] = route
  route.names = pieces.names
  if route.names and #route.names > NAMES_MAX then
    error(("%s has more than %d names"):format(router.show(pieces), NAMES_MAX), 0)
  end
  return true
end

--- Adds a route.
---@param method string      "GET" ..., or "ANY"
---@param pieces lunapark.Pieces
---@param route table        gets the fields of lunapark.Route; `match` answers it
---@return boolean ok        false: there is a route for the same method and paths
function methods:add(method, pieces, route)
  return (add(self, method, router.shape(pieces), pieces, route))
end

--- Adds a route for the other spelling of a pattern: with a slash at the end, which it does not have, or without the
--- one that it has.
---@param method string
---@param pieces lunapark.Pieces  with another spelling: `has_other`
---@param route table
---@return boolean ok
function methods:add_other(method, pieces, route)
  local shape = router.shape(pieces)
  shape = pieces[#pieces] == "" and sub(shape, 1, -2) or shape .. "/"
  return (add(self, method, shape, pieces, route))
end

--- Adds a prefix, whatever the method: it fits its own path and all paths below.
---@param pieces lunapark.Pieces
---@return string shape    what `prefix` answers; a prefix of the same shape has the same
function methods:add_prefix(pieces)
  local shape = router.shape(pieces)
  for _, pattern in ipairs { shape, #pieces == 0 and "/\0*" or shape .. "/\0*" } do
    local number = add_route(self.tree, 0, pattern)
    if number > 0 then self.routes[number] = shape end
  end
  return shape
end

-- What defines routes runs when an app loads, and in each VM once: a trace costs more than it saves there, since each
-- changes the protection of memory, and all threads of the process stop for that.
for _, fn in ipairs {
  take_apart, mere_name, encode, mistake_in_text, mistake_in_name, add_name, mistake_in, split, router.parse,
  router.shape, router.prefix, router.literal, router.has_other, router.show, number_of, add, methods.add,
  methods.add_other, methods.add_prefix,
} do
  jit.off(fn)
end

--- The route for a method and a path. `router.path` and `router.params` then tell of it, until the next lookup of the
--- VM or the next wait.
---@param method integer         its number
---@param raw string|ffi.cdata*  as the client sent it
---@param len integer            bytes of raw
---@return table|nil route  nil: there is none, or raw is no path
---@return integer number   of the route in the tree
function methods:match(method, raw, len)
  local number = C.host_route_find(self.tree, method, raw, len, found)
  return number > 0 and self.routes[number] or nil, number
end

--- The number of its routes.
---@return integer
function methods:count()
  return #self.routes
end

--- What C finds routes with, as `match` does: the tree, and what gets what a path says of its route.
---@return ffi.cdata* tree   host_routes *, as long as it is referred to
---@return ffi.cdata* found  host_match
function methods:parts()
  return self.tree, found
end

--- The prefix that fits a path best.
---@param raw string
---@return string|nil shape  nil: there is none, or raw is no path
function methods:prefix(raw)
  local number = C.host_route_find(self.tree, 0, raw, #raw, found)
  return number > 0 and self.routes[number] or nil
end
jit.off(methods.prefix)

--- The path of the last match, decoded.
---@return string
function router.path()
  return (ffi_string(found.text, found.len))
end

-- The segment that name number i stands for, from 0 on.
local function param(i)
  local span = found.params[i]
  return (ffi_string(found.text + span.off, span.len))
end

local function many_params(names)
  local params = {}
  for i = 1, #names do
    params[names[i]] = param(i - 1)
  end
  return params
end
jit.off(many_params)

--- The names of the route that was matched last, with the segments that they stand for.
---@param route lunapark.Route
---@return table<string, string>
function router.params(route)
  local names = route.names
  if not names then return {} end
  -- A loop would be left at another length by each route: compiled code has none.
  local n = #names
  if n == 1 then return { [names[1]] = param(0) } end
  if n == 2 then return { [names[1]] = param(0), [names[2]] = param(1) } end
  if n == 3 then return { [names[1]] = param(0), [names[2]] = param(1), [names[3]] = param(2) } end
  local params = apart(many_params, names)
  return params
end

local set = ffi.new "uint8_t[256]"

--- The value of an Allow field for a path.
---@param raw string
---@return string|nil  nil when no method has a route there
function methods:allowed(raw)
  if C.host_route_methods(self.tree, raw, #raw, set) ~= 0 then return nil end
  local list = {}
  if set[GET] ~= 0 then set[HEAD] = 1 end
  for id = 1, 255 do
    if set[id] ~= 0 then list[#list + 1] = ffi_string(C.host_method_name(id)) end
  end
  if not list[1] then return nil end
  if set[OPTIONS] == 0 then list[#list + 1] = "OPTIONS" end
  sort(list)
  return concat(list, ", ")
end
jit.off(methods.allowed)

return router
