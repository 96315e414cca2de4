--- Routes: from a method and a path to what was registered for them.
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

local concat, sort = table.concat, table.sort

---@class lunapark.Route
---@field names (string[]|false)    the pattern's names
---@field places (integer[]|false)  the segment each of them stands for
---@field rest (string|false)       the name of the tail
---@field first_rest integer        where the tail begins

local router = {}
local methods = {}
local mt = { __index = methods }

--- Takes a pattern apart.
---@param pattern string
---@param what string      begins the error's message: the function that was called
---@param level integer    whom errors blame, as in `error`
---@return table[]  segments: { kind = "literal" | "name" | "rest", text = string }
function router.parse(pattern, what, level)
  level = level + 1
  local function fail(why)
    local shown = type(pattern) == "string" and ("%q"):format(pattern) or tostring(pattern)
    error(("%s: path %s %s"):format(what, shown, why), level + 1)
  end
  if type(pattern) ~= "string" then fail "must be a string" end
  if pattern:sub(1, 1) ~= "/" then fail "must begin with /" end
  if pattern:find("[?#]") then fail "must not contain ? or #" end
  local segments, seen = {}, {}
  for text in pattern:sub(2):gmatch("([^/]*)/?") do
    segments[#segments + 1] = { kind = "literal", text = text }
  end
  -- gmatch finds one more empty match behind the last character, unless that was all there is.
  if #segments > 1 and pattern:sub(-1) ~= "/" then segments[#segments] = nil end
  for i, segment in ipairs(segments) do
    local mark, name = segment.text:match("^([:*])(.*)$")
    if segment.text == "." or segment.text == ".." then fail("can never match: " .. segment.text .. " is resolved") end
    if mark then
      if mark == "*" and name == "" then name = "*" end
      if name ~= "*" and not name:find("^[%a_][%w_]*$") then fail("has a bad name: " .. segment.text) end
      if seen[name] then fail("has the name " .. name .. " twice") end
      seen[name] = true
      if mark == "*" and i < #segments then fail("has " .. segment.text .. " before its end") end
      segments[i] = { kind = mark == "*" and "rest" or "name", text = name }
    end
  end
  return segments
end

--- How segments look where only their kinds matter: the same for patterns that match the same paths.
---@param segments table[]
---@return string
function router.shape(segments)
  local texts = {}
  for i, segment in ipairs(segments) do
    texts[i] = segment.kind == "literal" and segment.text or segment.kind == "name" and ":" or "*"
  end
  return "/" .. concat(texts, "/")
end

--- Segments as a pattern again, for people to read.
---@param segments table[]
---@return string
function router.show(segments)
  local marks, texts = { literal = "", name = ":", rest = "*" }, {}
  for i, segment in ipairs(segments) do
    texts[i] = segment.text == "*" and "*" or marks[segment.kind] .. segment.text
  end
  return "/" .. concat(texts, "/")
end

local function new_node()
  return { literal = {}, name = false, rest = false, leaf = false }
end

--- An empty router.
function router.new()
  return setmetatable({ root = new_node(), by_path = {} }, mt)
end

--- Adds a route.
---@param method string      "GET" ..., or "ANY"
---@param segments table[]   what `parse` gave
---@param route table        gets the fields of lunapark.Route; is what `match` answers
---@return boolean ok        false if there is one for the same method and paths
function methods:add(method, segments, route)
  local node, names, places, texts = self.root, {}, {}, {}
  route.rest, route.first_rest = false, 0
  local by_method
  for i, segment in ipairs(segments) do
    local kind, text = segment.kind, segment.text
    if kind == "rest" then
      node.rest = node.rest or {}
      by_method, route.rest, route.first_rest = node.rest, text, i
    elseif kind == "name" then
      node.name = node.name or new_node()
      node = node.name
      names[#names + 1], places[#places + 1] = text, i
    else
      node.literal[text] = node.literal[text] or new_node()
      node, texts[#texts + 1] = node.literal[text], text
    end
  end
  if not by_method then
    node.leaf = node.leaf or {}
    by_method = node.leaf
  end
  if by_method[method] then return false end
  by_method[method] = route
  route.names, route.places = #names > 0 and names, #names > 0 and places
  if #texts == #segments then self.by_path["/" .. concat(texts, "/")] = by_method end
  return true
end

local function pick(by_method, method)
  return by_method[method] or method == "HEAD" and by_method.GET or by_method.ANY
end

local function descend(node, segments, i, n, method)
  if i > n then return node.leaf and pick(node.leaf, method) end
  local segment = segments[i]
  local child = node.literal[segment]
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

--- The names of a route with what they stand for.
---@param route lunapark.Route
---@param segments string[]
---@param n integer
---@return table<string, string>
function router.params(route, segments, n)
  local params, names = {}, route.names
  if names then
    for k = 1, #names do
      params[names[k]] = segments[route.places[k]]
    end
  end
  if route.rest then params[route.rest] = concat(segments, "/", route.first_rest, n) end
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
  local child = node.literal[segment]
  if child then collect(child, segments, i + 1, n, found) end
  if node.name and segment ~= "" then collect(node.name, segments, i + 1, n, found) end
  for method in pairs(node.rest or {}) do
    found[method] = true
  end
end

--- What an Allow field says for a path.
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
