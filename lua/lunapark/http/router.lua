--- Routes: from a method and a path to the route that was registered for them.
--
-- Patterns form a tree by segment. A node has children by literal text, at most one child for ":name" (names belong to
-- the patterns, so "/:a/x" and "/:b/y" share it), and at most one "*rest". A lookup goes down the literal child first,
-- then the named one, then takes the rest; when a way ends without a route for the method it comes back and tries the
-- next, so "/a/:x/c" is found although "/a/b" exists. Each node is reached by one way only, hence a lookup visits no
-- node twice, whatever the path.
--
-- ":name" stands for one segment that is not empty, "*rest" for one or more segments, joined by slashes, and may be
-- empty ("/files/" for "/files/*rest"; "/files" is another path). Patterns are written decoded and compared with
-- decoded segments. Nothing here knows requests or HTTP's rules beyond that GET answers HEAD.
--
-- Patterns without names need no tree at all: `statics` gives them as one table by path, which is what dispatch asks
-- first. That is right because a literal segment beats the others everywhere.

local byte, find, gsub, sub = string.byte, string.find, string.gsub, string.sub
local concat, sort = table.concat, table.sort

local NAME, REST = byte ":", byte "*" -- what a piece begins with that is not literal

---@class lunapark.Route
---@field names (string|false)[]|nil  the name of each segment before the tail; nil: there are neither names nor a tail
---@field rest string|nil  the name of the tail

local router = {}
local methods = {}
local mt = { __index = methods }

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
  local seen
  for i = 1, n do
    local piece = pieces[i]
    local mark = byte(piece)
    if mark == NAME or mark == REST then
      seen = seen or {}
      local wrong = check_name(piece, i, n, seen)
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

local function new_node()
  return { literal = false, name = false, rest = false, leaf = false }
end

--- An empty router.
function router.new()
  return setmetatable({ root = new_node(), by_path = {} }, mt)
end

local function child_for(node, piece)
  if byte(piece) == NAME then
    node.name = node.name or new_node()
    return node.name
  end
  node.literal = node.literal or {}
  local child = node.literal[piece]
  if not child then
    child = new_node()
    node.literal[piece] = child
  end
  return child
end

-- The names of the segments before the tail, and the tail's.
local function names_of(pieces)
  local names = {}
  for i = 1, #pieces do
    local piece = pieces[i]
    local mark = byte(piece)
    if mark == REST then return names, piece == "*" and "*" or sub(piece, 2) end
    names[i] = mark == NAME and sub(piece, 2)
  end
  return names
end

--- Adds a route.
---@param method string      "GET" ..., or "ANY"
---@param pieces string[]    of `parse`
---@param route table        gets the fields of lunapark.Route; `match` answers it
---@return boolean ok        false: there is a route for the same method and paths
function methods:add(method, pieces, route)
  local node, kind, literal = self.root, "leaf", true
  for i = 1, #pieces do
    local mark = byte(pieces[i])
    if mark == REST then
      kind, literal = "rest", false
    else
      node, literal = child_for(node, pieces[i]), literal and mark ~= NAME
    end
  end
  local by_method = node[kind] or {}
  if by_method[method] then return false end
  node[kind], by_method[method] = by_method, route
  if literal then
    self.by_path[router.show(pieces)] = by_method
  else
    route.names, route.rest = names_of(pieces)
  end
  return true
end

local function pick(by_method, method)
  return by_method[method] or method == "HEAD" and by_method.GET or by_method.ANY
end

local function descend(node, segments, i, n, method)
  if i > n then return node.leaf and pick(node.leaf, method) end
  local segment = segments[i]
  local child = node.literal and node.literal[segment]
  local found = child and descend(child, segments, i + 1, n, method)
  if found then return found end
  child = node.name
  found = child and segment ~= "" and descend(child, segments, i + 1, n, method)
  return found or node.rest and pick(node.rest, method)
end

--- The route for a method and a path.
---@param method string
---@param segments string[]  decoded
---@param n integer          how many
---@return table|nil route
function methods:match(method, segments, n)
  return descend(self.root, segments, 1, n, method) or nil
end

--- The names of a route with the segments that they stand for.
---@param route lunapark.Route
---@param segments string[]
---@param n integer
---@return table<string, string>
function router.params(route, segments, n)
  local params, names = {}, route.names
  if not names then return params end
  for i = 1, #names do
    local name = names[i]
    if name then params[name] = segments[i] end
  end
  if route.rest then params[route.rest] = concat(segments, "/", #names + 1, n) end
  return params
end

local function collect(node, segments, i, n, found)
  if i > n then
    for method in pairs(node.leaf or {}) do
      found[method] = true
    end
    return
  end
  local segment = segments[i]
  local child = node.literal and node.literal[segment]
  if child then collect(child, segments, i + 1, n, found) end
  if node.name and segment ~= "" then collect(node.name, segments, i + 1, n, found) end
  for method in pairs(node.rest or {}) do
    found[method] = true
  end
end

--- The value of an Allow field for a path.
---@param segments string[]
---@param n integer
---@return string|nil  nil when no method has a route there
function methods:allowed(segments, n)
  local found = {}
  collect(self.root, segments, 1, n, found)
  if not next(found) then return nil end
  found.OPTIONS = true
  if found.GET then found.HEAD = true end
  local list = {}
  for method in pairs(found) do
    list[#list + 1] = method
  end
  sort(list)
  return concat(list, ", ")
end

--- The routes for a method whose patterns have no names.
---@param method string
---@return table<string, table>  by path
function methods:statics(method)
  local routes = {}
  for path, by_method in pairs(self.by_path) do
    routes[path] = pick(by_method, method) or nil
  end
  return routes
end

return router
