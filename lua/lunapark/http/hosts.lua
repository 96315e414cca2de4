--- Hosts: which app answers for the host that a request names, `app:host("api.example.com", api)`.
--
-- "*.example.com" stands for all hosts below example.com, at any depth, and not for example.com itself. A host's own
-- name comes first, then the longest of the others. Ports, the case of letters and a dot at the end make no difference.
--
-- Each host has a plan of its own (plan.lua), so an app without hosts pays for none.

local match, find, lower, sub = string.match, string.find, string.lower, string.sub

local hosts = {}

-- As DNS has it; longer ones are not looked for.
local NAME_MAX = 253

--- Reads what a user writes for hosts. Raises if no request can name such a host.
---@param name any
---@param level integer  as for `error`
---@return string  as `find` needs it
function hosts.parse(name, level)
  if type(name) ~= "string" then error("host: name must be a string, got " .. type(name), level + 1) end
  local plain = lower(name)
  local rest = match(plain, "^%*%.(.*)$") or plain
  local ok = match(rest, "^%[[%x:.]+%]$") and rest == plain
    or match(rest, "^[%w_.-]+$") and not find("." .. rest .. ".", "..", 1, true)
  if not ok or #plain > NAME_MAX then
    local why = match(name, "/") and " (without a scheme or a path)" or match(name, ":%d+$") and " (without a port)"
      or ""
    error(('host: name must be like "a.example.com" or "*.example.com", got %q%s'):format(name, why), level + 1)
  end
  return plain
end

--- The value for a host.
---@param list table<string, any>  by name as `parse` returns it
---@param host string|nil  as a request names it
---@return any
function hosts.find(list, host)
  local name = host and (match(host, "^%[.*%]") or match(host, "^([^:]*[^:.])"))
  if not name or #name > NAME_MAX then return nil end
  name = lower(name)
  local value, dot = list[name], 0
  while not value do
    dot = find(name, ".", dot + 1, true)
    if not dot then return nil end
    value = list["*" .. sub(name, dot)]
  end
  return value
end

jit.off(hosts.find)

return hosts
