--- `lunapark tag NAME [ID]`: asks a running server by its --admin (generations.lua).

local client = require "lunapark.testing.client"
local core = require "lunapark.core"

local tag = {}

--- Gives a generation a name, or takes it away. Prints the generation's id.
---@param name string
---@param id string|nil
---@return string? message  what is wrong
function tag.run(name, id)
  local addr = core.option_value "admin"
  if not addr then return "tag: which server? --admin says where its admin API listens (or LUNAPARK_ADMIN)" end
  local token, remove = core.option_value "admin-token", core.option_value "delete" ~= 0
  local server = client.new(addr, nil, { timeout = 30 })
  local answer, err = server:request(remove and "DELETE" or "POST", "/tag", {
    query = { name = name, id = id },
    headers = { ["X-Lunapark"] = "1", Authorization = token and "Bearer " .. token or nil },
  })
  server:close()
  if not answer then return ("tag: %s: %s"):format(addr, err) end
  local t = answer:json()
  if answer.status ~= 200 then return ("tag: %s"):format(type(t) == "table" and t.error or answer.body) end
  print(t.id)
end

return tag
