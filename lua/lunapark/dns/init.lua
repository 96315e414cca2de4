--- Names and addresses: `lunapark.dns`. Only the G that calls waits.
--
--   local addrs = assert(dns.lookup "example.org")              -- { "2001:db8::1", "192.0.2.7" }
--   for _, r in ipairs(assert(dns.query("_xmpp-client._tcp.example.org", "SRV"))) do
--     print(r.priority, r.weight, r.port, r.target, r.ttl)
--   end
--   local mine = dns.resolver { servers = { "127.0.0.1:5353" }, timeout = 0.5, tries = 2 }
--
-- `lookup` finds the addresses of a host as other programs do: the hosts file, then the name servers, with the domains
-- of the search list. `query` asks the name servers for the records of exactly this name.
--
-- The system's settings (resolv.conf) are read when a resolver is first used. The environment variable LUNAPARK_DNS
-- ("10.0.0.1,10.0.0.2:5353") names other servers for the default one.
--
-- Answers are kept as long as their records allow, a day at most, in a dict of 2 MiB that all VMs share; the answers
-- that were asked for longest ago go first. That `query` found nothing is kept as long as the SOA record of the reply
-- allows. Other failures, those of `lookup`, and names of the hosts file are not kept.
--
-- A wait that ends early drops the answer. How it works: host/net/dns.c. How connections are made to names:
-- net/dial.lua.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local base = require "lunapark.core.base"
local message = require "lunapark.dns.message"
local shared = require "lunapark.shared"
local pieces = require("lunapark.core.text").pieces

local C = ffi.C
local CACHE_BYTES, DAY = 2 * 2 ^ 20, 86400
local TIMEOUT, TRIES = 2, 3
-- That there is no such record is kept under the key of the record with this behind it, for three hours at most.
local NONE, NONE_MAX = " none", 10800

local dns = {}

local cache = assert(shared.dict("lunapark.dns", { max_bytes = CACHE_BYTES }))
local len_out = ffi.new "size_t[1]"
local bytes = ffi.new "uint8_t[16]"

---@class lunapark.Resolver
---@field private resolver ffi.cdata*  host_resolver
---@field private id integer
local Resolver = {}
local resolver_mt = { __name = "lunapark.Resolver", __index = Resolver }

---@class lunapark.DnsRecord
---@field name string        the name that the record belongs to; behind a CNAME not the name that was asked for
---@field ttl integer        seconds that the record may be kept, as the server said
---@field address string?    A, AAAA
---@field target string?     SRV, PTR, MX, CNAME, NS: a name
---@field port integer?      SRV
---@field priority integer?  SRV: the lowest first
---@field weight integer?    SRV: how often, among the records of one priority
---@field preference integer?  MX: the lowest first
---@field text string?       TXT: its strings joined
---@field strings string[]?  TXT

local function check_opts(opts, what)
  if opts == nil then return nil end
  if type(opts) ~= "table" then
    error(("%s: opts must be a table, got %s"):format(what, type(opts)), 3)
  end
  local timeout = opts.timeout
  if timeout ~= nil and (type(timeout) ~= "number" or timeout ~= timeout) then
    error(("%s: opts.timeout must be a number of seconds, got %s"):format(what, tostring(timeout)), 3)
  end
  return timeout
end

local function check_name(name, what)
  if type(name) ~= "string" then error(("%s: name must be a string, got %s"):format(what, type(name)), 3) end
end

-- Waits for an answer: it; or nil, why there is none, and perhaps the reply that says so.
local function ask(job, name, timeout)
  if job == nil then return nil, "no memory" end
  ffi.gc(job, C.host_job_free)
  local at = timeout and base.deadline_in(timeout) or nil
  repeat
    local why = core.wait_job(job, at)
    if why and C.host_job_done(job) == 0 then
      C.host_job_free(ffi.gc(job, nil))
      return base.heard(why)
    end
  until C.host_job_done(job) == 1
  local answer, err
  local why = C.host_dns_error(job)
  local data = C.host_dns_answer(job, len_out)
  if data ~= nil then answer = ffi.string(data, len_out[0]) end
  if why ~= nil then
    err = ffi.string(why)
    if err ~= "timeout" then err = err .. ": " .. name end
  end
  C.host_job_free(ffi.gc(job, nil))
  if err then return nil, err, answer end
  return answer
end

local function key_of(self, kind, name)
  return ("%d %s %s"):format(self.id, kind, name:lower())
end

-- Keeps an answer while its records live. An answer with a time of 0 is not kept.
local function keep(key, answer, ttl, most)
  if ttl >= 1 then cache:set(key, answer, math.min(ttl, most or DAY)) end
end

-- The bytes of an IP address, in `bytes`: how many; 0: s is none. C would look at s up to its first NUL only.
local function ip_bytes(s)
  return s:find("\0", 1, true) and 0 or C.host_ip_bytes(s, bytes)
end

-- Names go to C with a NUL behind them, and c-ares takes anything that long.
local function is_name(name)
  return name ~= "" and #name <= 255 and not name:find "%z"
end

-- The family of an address: 4 or 6; nil: s is none.
local function family_of(s)
  local n = ip_bytes(s)
  return n == 4 and 4 or n == 16 and 6 or nil
end

--- The addresses of a host, in the order in which to try them. An address in place of a name answers itself. May wait.
---@param name string
---@param opts? { timeout: number?, family: integer? }  seconds in all; 4 or 6: addresses of that kind alone
---@return string[]|nil addresses  "192.0.2.7", "2001:db8::1"; at least one
---@return string? err  "no such host: NAME", "no IPv6 address: 192.0.2.7", "timeout", "canceled" ...
function Resolver:lookup(name, opts)
  check_name(name, "lookup")
  local timeout = check_opts(opts, "lookup")
  local family = opts and opts.family or 0
  if family ~= 0 and family ~= 4 and family ~= 6 then
    error("lookup: opts.family must be 4 or 6, got " .. tostring(family), 2)
  end
  if not is_name(name) then return nil, "not a host name: " .. name end
  local own = family_of(name)
  if own then
    if family ~= 0 and own ~= family then return nil, ("no IPv%d address: %s"):format(family, name) end
    return { name }
  end
  local key = key_of(self, "host" .. family, name)
  local answer = cache:get(key)
  if not answer then
    local err
    answer, err = ask(C.host_dns_lookup(self.resolver, name, family), name, timeout)
    if not answer then return nil, err end
    keep(key, answer, tonumber(answer:match " (%d+)\n") or 0)
  end
  local list = {}
  for line in pieces(answer, "\n") do
    list[#list + 1] = line:match "^%S+"
  end
  return list
end

-- The name of an address in a PTR question (RFC 1035, 3596).
local function name_of_address(text)
  local n = ip_bytes(text)
  if n == 0 then return text end
  local parts = {}
  for i = n - 1, 0, -1 do
    local b = bytes[i]
    parts[#parts + 1] = n == 4 and tostring(b) or ("%x.%x"):format(b % 16, math.floor(b / 16))
  end
  return table.concat(parts, ".") .. (n == 4 and ".in-addr.arpa" or ".ip6.arpa")
end

--- The records of a name. May wait.
---@param name string  the whole name, without a search list; for PTR an address will do
---@param type_name "A"|"AAAA"|"SRV"|"TXT"|"PTR"|"MX"|"CNAME"|"NS"
---@param opts? { timeout: number? }  seconds in all
---@return lunapark.DnsRecord[]|nil records  in the server's order; at least one
---@return string? err  "no such host: NAME"; "no such record: NAME": the name has others; "timeout", "canceled" ...
function Resolver:query(name, type_name, opts)
  check_name(name, "query")
  local number = message.types[type_name]
  if not number then
    error("query: type must be A, AAAA, SRV, TXT, PTR, MX, CNAME or NS, got " .. tostring(type_name), 2)
  end
  local timeout = check_opts(opts, "query")
  if type_name == "PTR" then name = name_of_address(name) end
  if not is_name(name) then return nil, "not a host name: " .. name end
  local key = key_of(self, type_name, name)
  local reply = cache:get(key)
  local kept = reply ~= nil
  if not kept then
    local none = cache:get(key .. NONE)
    if none then return nil, none end
    local err, said
    reply, err, said = ask(C.host_dns_query(self.resolver, name, number), name, timeout)
    if not reply then
      if said then keep(key .. NONE, err, message.none_for(said), NONE_MAX) end
      return nil, err
    end
  end
  local records, ttl = message.parse(reply, type_name)
  if not records then return nil, "the name server's reply is malformed: " .. name end
  if not records[1] then return nil, "no such record: " .. name end
  if not kept then keep(key, reply, ttl) end
  return records
end

-- ---- making one -----------------------------------------------------------------------------------------

local function list_of(value, name, check)
  if value == nil then return nil end
  if type(value) ~= "table" then
    error(("resolver: %s must be a list of strings, got %s"):format(name, type(value)), 3)
  end
  for i, s in ipairs(value) do
    if type(s) ~= "string" or not check(s) then
      error(("resolver: %s[%d] is not right: %s"):format(name, i, tostring(s)), 3)
    end
  end
  return value
end

local function is_server(s)
  return ip_bytes(s) ~= 0 or s:find "^[%d%.:%[%]%x]+:%d+$" and C.host_addr_check(s) == 0
end

local function is_domain(s)
  return s:find "^[%w_%-%.]+$" ~= nil
end

local function number_of(value, name, default, least, most)
  if value == nil then return default end
  if type(value) ~= "number" or not (value >= least and value <= most) then
    error(("resolver: %s must be a number from %g to %g, got %s"):format(name, least, most, tostring(value)), 3)
  end
  return value
end

--- A resolver with settings of its own. A setting that is left out is the system's. Does not wait.
---@param opts? { servers: string[]?, timeout: number?, tries: integer?, search: string[]?, ndots: integer? }
---servers: "address" or "address:port"; timeout: seconds for the first try of each server, 2 without it, later tries
---have more; tries: of each server, 3 without it; search: domains to complete names with, {}: none; ndots: names with
---so many dots are first tried as they are
---@return lunapark.Resolver
function dns.resolver(opts)
  if opts ~= nil and type(opts) ~= "table" then error("resolver: opts must be a table, got " .. type(opts), 2) end
  opts = opts or {}
  local servers = list_of(opts.servers, "servers", is_server)
  if servers and not servers[1] then error("resolver: servers is empty", 2) end
  local search = list_of(opts.search, "search", is_domain)
  if search and #search > 16 then error("resolver: search has more than 16 domains", 2) end
  local timeout = number_of(opts.timeout, "timeout", TIMEOUT, 0.001, 3600)
  local tries = number_of(opts.tries, "tries", TRIES, 1, 100)
  local ndots = number_of(opts.ndots, "ndots", -1, 0, 15)
  local resolver = C.host_resolver_new(servers and table.concat(servers, ","), search and table.concat(search, " "),
    timeout * 1000, tries, ndots)
  if resolver == nil then error("not enough memory", 2) end
  ffi.gc(resolver, C.host_resolver_free)
  return setmetatable({ resolver = resolver, id = C.host_resolver_id(resolver) }, resolver_mt)
end

local default

--- The default resolver, by LUNAPARK_DNS or the system's settings. The functions of this module ask it.
---@return lunapark.Resolver
local function default_resolver()
  if not default then
    local resolver = C.host_resolver_default()
    if resolver == nil then error("not enough memory", 0) end
    default = setmetatable({ resolver = resolver, id = C.host_resolver_id(resolver) }, resolver_mt)
  end
  return default
end

dns.default = default_resolver

--- The addresses of a host, from the default resolver: see lunapark.Resolver.lookup. May wait.
---@param name string
---@param opts? { timeout: number?, family: integer? }
---@return string[]|nil addresses
---@return string? err
function dns.lookup(name, opts)
  return default_resolver():lookup(name, opts)
end

--- The records of a name, from the default resolver: see lunapark.Resolver.query. May wait.
---@param name string
---@param type_name "A"|"AAAA"|"SRV"|"TXT"|"PTR"|"MX"|"CNAME"|"NS"
---@param opts? { timeout: number? }
---@return lunapark.DnsRecord[]|nil records
---@return string? err
function dns.query(name, type_name, opts)
  return default_resolver():query(name, type_name, opts)
end

return dns
