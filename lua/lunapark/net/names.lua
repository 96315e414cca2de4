--- Host names in addresses: "example.org:80" becomes "[2001:db8::7]:80", "192.0.2.7:80".
--
-- Hosts that C reads by itself (numbers, unix paths, and localhost where a socket is bound) stay as they are and cost
-- one call. The resolver is loaded with the first other name: most programs never need it.

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

--- Whether an address has no name in it where a connection is made. localhost is a name there: of 127.0.0.1, ::1, and
--- what the hosts file says.
---@param addr string
---@return boolean
function names.is_dialed_as_is(addr)
  return C.host_addr_check(addr) == 0 and addr:sub(1, 10) ~= "localhost:"
end

-- Host and port of `name:port`; nil: it is no such address.
local function split(addr)
  local host, port = addr:match "^([^:%[%]/%s]+):(%d+)$"
  if not host or tonumber(port) > 65535 then return nil end
  return host, port
end

-- The addresses of a host with a port.
local function with_port(list, port)
  local addrs = {}
  for i, ip in ipairs(list) do
    addrs[i] = (ip:find(":", 1, true) and "[%s]:%s" or "%s:%s"):format(ip, port)
  end
  return addrs
end

--- The host of an address, without its port: a name or a number; nil: a unix socket's.
---@param addr string
---@return string|nil
function names.host_of(addr)
  return addr:match "^%[([^%]]*)%]:%d+$" or not addr:find("/", 1, true) and addr:match "^([^:]+):%d+$" or nil
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
  return with_port(list, port)
end

-- What a look-up waits for a name server that answers about one family, and is silent about the other one.
local DELAY_S = 0.05

-- The addresses of localhost, of which a hosts file often names one only.
local function with_loopback(list)
  local all = {}
  for _, ip in ipairs(list) do
    all[#all + 1], all[ip] = ip, true
  end
  for _, ip in ipairs { "127.0.0.1", "::1" } do
    if not all[ip] then all[#all + 1] = ip end
  end
  return all
end

--- As resolve, for a caller that can begin with some of the addresses (RFC 8305): if the servers take longer than 50 ms
--- for both families, each is asked about by itself, and the first answer counts. May wait.
---@param s lunapark.Scope    whose Gs look the name up
---@param gs lunapark.G[]     gets these Gs, which the caller cancels
---@param addr string
---@param resolver? lunapark.Resolver
---@return string[]|nil addrs
---@return string? err
---@return nil|fun(): string[]|nil rest  the other addresses, if there may be more. May wait
function names.resolve_soon(s, gs, addr, resolver)
  local lp = require "lunapark"
  local host, port = split(addr)
  if not host then return nil, "invalid argument" end
  resolver = resolver or require "lunapark.dns".default()
  local answers = lp.chan(3)
  local function ask(family)
    gs[#gs + 1] = s:go(function()
      local list, err = resolver:lookup(host, family and { family = family })
      answers:send { list = list, err = err, is_whole = not family }
    end)
  end
  -- The next answer with addresses, or the failure of the look-up for both.
  local function next_answer()
    while true do
      local answer, why = answers:recv()
      if not answer then return { err = why, is_whole = true } end
      if answer.list or answer.is_whole then return answer end
    end
  end
  ask()
  local answer, why = answers:recv(DELAY_S)
  if not answer then
    if why == "canceled" then return nil, why end
    ask(4)
    ask(6)
    answer = next_answer()
  end
  if not answer.list then return nil, answer.err end
  local list = host == "localhost" and with_loopback(answer.list) or answer.list
  return with_port(list, port), nil, not answer.is_whole and function()
    answer = next_answer()
    return answer.list and with_port(answer.list, port)
  end or nil
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
