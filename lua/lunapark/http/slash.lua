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
---@param route table
---@param scope table
---@param entry table  answers the route
function slash.note(plan, route, scope, entry)
  local noted = plan.noted
  if not noted then
    noted = { tails = {} }
    plan.noted = noted
  end
  noted[#noted + 1] = { route = route, scope = scope, entry = entry }
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

--- Adds the other spellings of the routes that were noted.
---@param plan table
---@param add_route fun(plan: table, route: table, scope: table, entry: table?)
function slash.add(plan, add_route)
  local noted = plan.noted or {}
  for i, added in ipairs(noted) do
    local route, kind = added.route, added.scope.slash
    local pieces = kind ~= "strict" and router.other_spelling(route.pieces)
    if pieces and not (pieces[#pieces] == "" and has_tail(noted.tails, route)) then
      local ignored = kind ~= "redirect" and added.entry or nil
      add_route(plan, { method = route.method, pieces = pieces, fn = redirect }, added.scope, ignored)
    end
    if i % 32 == 0 then core.share() end
  end
  plan.noted = nil
end
jit.off(slash.add)

return slash
