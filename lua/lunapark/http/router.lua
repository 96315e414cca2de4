--- Routes: from a method and a path to the route that was registered for them.
--
-- host/http/routes.c has the tree of patterns, and says what a pattern means and which route wins. Here patterns are
-- checked, and numbers of routes become routes: the walk for a request is one call, and the strings that are made are
-- those of the route's names.

local ffi = require "ffi"
require "lunapark.cdef"

local C = ffi.C
local apart = require("lunapark.core").apart
local concat, sort, ffi_string = table.concat, table.sort, ffi.string
local byte, find, gsub, sub = string.byte, string.find, string.gsub, string.sub

local NAME, REST = byte ":", byte "*" -- what a piece begins with that is not literal

---@class lunapark.Route
---@field names string[]|nil  the names of segments, in order, and of the tail; nil: there are none

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

-- The mistake in piece i of n, or nil. `seen` has the names of the pieces before, and gets the name of this one.
local function check_name(piece, i, n, seen)
  local name = sub(piece, 2)
  if byte(piece) == REST then
    if name == "" then name = "*" end
    if i < n then return "has " .. piece .. " before its end" end
  end
  if name ~= "*" and not find(name, "^[%a_][%w_]*$") then return "has a bad name: " .. piece end
  if seen[name] then return "has the name " .. name .. " twice" end
  seen[name] = true
end

--- Takes a pattern apart.
---@param pattern string
---@param what string      begins the error's message: the function that was called
---@param level integer    as for `error`
---@return string[]  its pieces: "literal", ":name", "*rest"
function router.parse(pattern, what, level)
  level = level + 1
  if type(pattern) ~= "string" then fail(pattern, what, level, "must be a string") end
  if byte(pattern) ~= 47 then fail(pattern, what, level, "must begin with /") end
  if find(pattern, "[?#]") then fail(pattern, what, level, "must not contain ? or #") end
  local pieces, n, pos = {}, 0, 2
  while pos do
    local slash = find(pattern, "/", pos, true)
    n = n + 1
    pieces[n] = sub(pattern, pos, slash and slash - 1)
    pos = slash and slash + 1
  end
  local seen, names = nil, 0
  for i = 1, n do
    local piece = pieces[i]
    local mark = byte(piece)
    if mark == NAME or mark == REST then
      seen, names = seen or {}, names + 1
      local wrong = names > NAMES_MAX and ("has more than %d names"):format(NAMES_MAX) or check_name(piece, i, n, seen)
      if wrong then fail(pattern, what, level, wrong) end
    elseif find(piece, "^{.*}$") or find(piece, "^<.*>$") then
      fail(pattern, what, level, ("has %s: names of segments begin with a colon, as in /:%s"):format(piece,
        piece:match "[%a_][%w_]*" or "name"))
    elseif piece == "." or piece == ".." then
      fail(pattern, what, level, "can never match: " .. piece .. " is resolved")
    end
  end
  return pieces
end

--- The shape of a pattern, without its names: patterns that match the same paths have one shape.
---@param pattern string  valid for `parse`
---@return string
function router.shape(pattern)
  return (gsub(pattern, "/([:*])[^/]*", "/%1"))
end

--- Pieces as a pattern again.
---@param pieces string[]
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

-- The names of a pattern's pieces; nil: there are none.
local function names_of(pieces)
  local names = {}
  for i = 1, #pieces do
    local piece = pieces[i]
    local mark = byte(piece)
    if mark == NAME or mark == REST then names[#names + 1] = piece == "*" and "*" or sub(piece, 2) end
  end
  return names[1] and names
end

-- The number of a method, as C has it in routes.
local function number_of(method)
  return method == "ANY" and 0 or C.host_method_add(method, #method)
end

--- Adds a route.
---@param method string      "GET" ..., or "ANY"
---@param pieces string[]    of `parse`
---@param route table        gets the fields of lunapark.Route; `match` answers it
---@return boolean ok        false: there is a route for the same method and paths
function methods:add(method, pieces, route)
  local pattern = router.show(pieces)
  local number = C.host_route_add(self.tree, number_of(method), pattern, #pattern)
  if number < 0 then error("not enough memory", 0) end
  if number == 0 then return false end
  self.routes[number] = route
  route.names = names_of(pieces)
  if route.names and #route.names > NAMES_MAX then
    error(("%s has more than %d names"):format(pattern, NAMES_MAX), 0)
  end
  return true
end

--- The route for a method and a path. `router.path` and `router.params` then tell of it, until the next lookup of the
--- VM or the next wait.
---@param method integer         its number
---@param raw string|ffi.cdata*  as the client sent it
---@param len integer            bytes of raw
---@return table|nil route  nil: there is none, or raw is no path
function methods:match(method, raw, len)
  local number = C.host_route_find(self.tree, method, raw, len, found)
  return number > 0 and self.routes[number] or nil
end

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
