--- A slash at the end of a path: `app:set { slash = "ignore" | "redirect" | "strict" }`.
--
-- When a plan has all its routes, each of them is added once more with the slash that it does not have, or without the
-- one that it has, unless there is a route for that path already: one of its own, or a tail that begins there. So a
-- lookup costs what it did.

local core = require "lunapark.core"
local router = require "lunapark.http.router"

local byte = string.byte
local REST = byte "*" -- what a piece for the tail begins with

local slash = {}

local kinds = { strict = true, ignore = true, redirect = true }

--- Raises if it is no value of the option.
---@param value any
---@param level integer  as for `error`
---@return string
function slash.check(value, level)
  if not kinds[value] then
    error('set: slash must be "strict", "ignore" or "redirect", got ' .. tostring(value), level)
  end
  return value
end

--- Notes a route of a plan.
---@param plan table
---@param scope table
---@param entry table  answers the route
function slash.note(plan, scope, entry)
  local noted = plan.noted
  if not noted then
    noted = { entries = {}, scopes = {}, tails = {} }
    plan.noted = noted
  end
  local n = #noted.entries + 1
  noted.entries[n], noted.scopes[n] = entry, scope
  local route = entry.route
  local pieces = route.pieces
  if byte(pieces[#pieces]) == REST then noted.tails[route.method .. router.shape(pieces)] = true end
end

-- Sends a client to the other spelling of the path. Slashes in a row become one, as for routes: two at the beginning
-- would name a host.
local function redirect(req)
  local path, query = req.target:match "^([^?]*)(.*)$"
  path = path:gsub("^%a[%w+.-]*://[^/]*", ""):gsub("/+", "/")
  path = path:sub(-1) == "/" and path:sub(1, -2) or path .. "/"
  return 308, nil, { Location = path .. query }
end

-- Is there a tail that begins with the slash of this route's other spelling?
local function has_tail(tails, route)
  if not next(tails) then return false end
  local tail = router.shape(route.pieces) .. router.shape { "*" }
  return tails[route.method .. tail] or tails["ANY" .. tail]
end

jit.off(slash.note) -- as in router.lua
jit.off(has_tail)

-- The pieces of the other spelling.
local function spelled_otherwise(pieces)
  local n, other = #pieces, {}
  for i = 1, n do other[i] = pieces[i] end
  other[pieces[n] == "" and n or n + 1] = pieces[n] ~= "" and "" or nil
  return other
end

-- Does this route get its other spelling?
local function gets_other(noted, route, kind)
  local pieces = route.pieces
  if kind == "strict" or not router.has_other(pieces) then return false end
  return pieces[#pieces] == "" or not has_tail(noted.tails, route)
end

--- Adds the other spellings of the routes that were noted. plan.spelled: the pieces of routes that have two, if the
--- plan has files (site.lua).
---@param plan table
---@param add_route fun(plan: table, route: table, scope: table): table?
function slash.add(plan, add_route)
  local own, spelled = plan.own, plan.has_files and {} or nil
  local noted = plan.noted or { entries = {} }
  for i, entry in ipairs(noted.entries) do
    local route, scope = entry.route, noted.scopes[i]
    local kind = scope.slash
    local wanted = gets_other(noted, route, kind)
    if wanted and kind == "redirect" then
      local pieces = spelled_otherwise(route.pieces)
      add_route(plan, { method = route.method, pieces = pieces, fn = redirect }, scope)
    elseif wanted then
      own:add_other(route.method, route.pieces, entry)
      if spelled then spelled[route.pieces] = true end
    end
    if i % 32 == 0 then core.share() end
  end
  plan.noted, plan.spelled = nil, spelled
end
jit.off(spelled_otherwise)
jit.off(gets_other)
jit.off(slash.add)

return slash
