--- Doors: where requests enter Lua.
--
-- Each entry of a plan has a door, a function for the requests that it answers (dispatch.lua). The first request of a
-- server goes through the function that dispatch.new has made, which finds the entry. That function also tells C where
-- the plan's routes are: from then on C finds the route (host/http/handler.c), and calls its door, if there is one,
-- without a look at a plan. A route's door is there from its first request on: to make one costs more than most apps
-- need at once.
--
-- An app with hosts has a plan for each, so C is told of none.

local core = require "lunapark.core"
local new_table = require "table.new"

local doors = {}

--- C finds the routes of a plan for the requests of a server, from now on.
---@param plan table
---@param number integer  of the server's handler
function doors.open(plan, number)
  local list = plan.doors
  if not list then
    local own = plan.router
    list = new_table(own:count(), 4)
    list.tree, list.found = own:parts() -- kept as long as C has the list
    list.servers = {}
    plan.doors = list
  end
  list.servers[#list.servers + 1] = number
  core.set_doors(number, list, list.tree, list.found)
end

--- C finds no routes of a plan any more: the app has another one.
---@param plan table
function doors.close(plan)
  if not plan.doors then return end
  for _, number in ipairs(plan.doors.servers) do core.set_doors(number) end
  plan.doors = nil
end

jit.off(doors.open)
jit.off(doors.close)

return doors
