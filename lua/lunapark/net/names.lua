--- Host names in addresses: "example.org:80" becomes "[2001:db8::7]:80", "192.0.2.7:80".
--
-- Hosts that C reads by itself (numbers, localhost, unix paths) stay as they are and cost one call. The resolver is
-- loaded with the first other name: most programs never need it.

local ffi = require "ffi"
require "lunapark.cdef"

local C = ffi.C

local names = {}

--- Whether an address has no name in it that must be looked up.
---@param addr string
---@return boolean
function names.is_plain(addr)
  return C.host_addr_check(addr) == 0
end

-- Host and port of `name:port`; nil: it is no such address.
local function split(addr)
  local host, port = addr:match "^([^:%[%]/%s]+):(%d+)$"
  if not host or tonumber(port) > 65535 then return nil end
  return host, port
end

--- The addresses that an address with a name stands for, in the order in which to try them. May wait.
---@param addr string
---@param resolver? lunapark.Resolver  the default one without it
---@return string[]|nil addrs
---@return string? err  "no such host: NAME", "invalid argument", "timeout" ...
function names.resolve(addr, resolver)
  local host, port = split(addr)
  if not host then return nil, "invalid argument" end
  local list, err = (resolver or require "lunapark.dns".default()):lookup(host)
  if not list then return nil, err end
  local addrs = {}
  for i, ip in ipairs(list) do
    addrs[i] = (ip:find(":", 1, true) and "[%s]:%s" or "%s:%s"):format(ip, port)
  end
  return addrs
end

--- The first address that an address with a name stands for, or the address itself, if it has no name. May wait for the
--- look-up of the name.
---@param addr string
---@return string|nil addr
---@return string? err
function names.first(addr)
  if names.is_plain(addr) then return addr end
  local addrs, err = names.resolve(addr)
  return addrs and addrs[1], err
end

return names
