--- Requests that a page of another site has sent to a listener which is for this machine: DNS rebinding.
--
-- A browser lets a page read answers of its own site only. But a site is a name, and the name's owner may let it lead
-- to 127.0.0.1: then the page talks to the server that listens there, and reads its answers. Such requests carry that
-- name in their Host field. An address, or "localhost", can't be made to lead elsewhere. So only requests that ask for
-- one of these are taken for requests of the machine's owner. Listeners have no other names: --listen wants numbers.

local ffi = require "ffi"
require "lunapark.cdef"

local C = ffi.C
local bytes = ffi.new "uint8_t[16]"

local rebinding = {}

--- Whether a request asks for an address, or for localhost or a name below it.
---@param host string|nil  the request's Host, perhaps with a port; nil: none, which no browser sends
---@return boolean
function rebinding.is_ours(host)
  if host == nil then return true end
  local inner = host:match "^%[([%x:.]+)%]:?%d*$"
  local name = inner or host:match "^([%w.-]+)$" or host:match "^([%w.-]+):%d*$"
  if not name then return false end
  if C.host_ip_bytes(name, bytes) == (inner and 16 or 4) then return true end
  name = name:lower()
  return not inner and (name == "localhost" or name:sub(-10) == ".localhost")
end

return rebinding
