--- TLS: `lunapark.tls`. Whom to trust, and who we are, for connections of `lunapark.net`.
--
--   local c = assert(net.dial("example.com:443", { tls = true }))        -- trusts what the system trusts
--   local ln = assert(net.listen("127.0.0.1:0", { tls = { cert = "site.pem", key = "site.key" } }))
--   local config = tls.config { ca = "company.pem", cert = "me.pem", key = "me.key" }
--   assert(conn:start_tls(config, "mail.example.com"))                   -- STARTTLS
--
-- A config reads its files when it is made and never changes: make it once, and use it for all connections. How TLS is
-- spoken: host/net/tls.c.

local ffi = require "ffi"
require "lunapark.cdef"

local C = ffi.C

local tls = {}

---@class lunapark.TlsOptions
---@field server boolean?        a server's; without it: `cert` is given, and none of `ca`, `name`, `pin`, `insecure`
---@field cert string?           file with a certificate and its chain, PEM
---@field key string?            file with its key, PEM
---@field certs { cert: string, key: string }[]?  several, of a server: clients choose by the name they ask for
---@field ca string?             file with certificates to trust. A client without it trusts the system's; a server
---with it asks clients for certificates
---@field optional boolean?      a server with `ca`: clients without a certificate are served, too
---@field insecure boolean?      a client: any certificate will do. For tests
---@field pin string?            a client: SHA-256 of the server's public key, as 64 hexadecimal digits
---@field name string?           a client: the name that the certificate has to have; without it that of the address
---@field alpn string[]?         protocols to offer or accept, the best first

---@class lunapark.TlsConfig
---@field package handle ffi.cdata*
---@field server boolean
---@field insecure boolean
---@field name string?
local config_mt = { __name = "lunapark.TlsConfig" }

local KINDS = {
  server = "boolean", cert = "string", key = "string", certs = "table", ca = "string", optional = "boolean",
  insecure = "boolean", pin = "string", name = "string", alpn = "table",
}

local function check(opts, what, level)
  for name, v in pairs(opts) do
    local kind = KINDS[name]
    if not kind then error(("%s: unknown option %q"):format(what, tostring(name)), level) end
    if type(v) ~= kind then
      error(("%s: %s must be a %s, got %s"):format(what, name, kind, type(v)), level)
    end
    if kind == "string" and v:find "%z" then error(("%s: %s contains NUL"):format(what, name), level) end
  end
  if (opts.cert == nil) ~= (opts.key == nil) then
    error(what .. ": cert and key belong together", level)
  end
end

-- The pairs of cert and key.
local function pairs_of(opts, what, level)
  local list = {}
  if opts.cert then list[1] = { cert = opts.cert, key = opts.key } end
  for i, pair in ipairs(opts.certs or {}) do
    if type(pair) ~= "table" or type(pair.cert) ~= "string" or type(pair.key) ~= "string" then
      error(("%s: certs[%d] must be a table with cert and key"):format(what, i), level)
    end
    list[#list + 1] = pair
  end
  return list
end

local function alpn_of(opts, what, level)
  if not opts.alpn then return nil end
  for i, name in ipairs(opts.alpn) do
    if type(name) ~= "string" or name == "" or #name > 255 or name:find "[,%z]" then
      error(("%s: alpn[%d] must be the name of a protocol"):format(what, i), level)
    end
  end
  return table.concat(opts.alpn, ",")
end

local why = ffi.new "char[512]"

local function make(opts, what, level)
  if type(opts) ~= "table" then error(("%s: must be a table, got %s"):format(what, type(opts)), level) end
  check(opts, what, level + 1)
  local list = pairs_of(opts, what, level + 1)
  local server = opts.server
  if server == nil then server = #list > 0 and not (opts.ca or opts.name or opts.pin or opts.insecure) end
  local array = ffi.new("host_tls_pair[?]", #list + 1)
  for i, pair in ipairs(list) do
    array[i - 1].cert, array[i - 1].key = pair.cert, pair.key
  end
  local alpn = alpn_of(opts, what, level + 1)
  local settings = ffi.new("host_tls_settings", {
    server = server, pairs = array, n_pairs = #list, ca = opts.ca, optional = opts.optional or false,
    insecure = opts.insecure or false, pin = opts.pin, alpn = alpn,
  })
  local handle = C.host_tls_new(settings, why)
  if handle == nil then error(("%s: %s"):format(what, ffi.string(why)), level) end
  return setmetatable({
    handle = ffi.gc(handle, C.host_tls_free), server = server, insecure = opts.insecure or false, name = opts.name,
  }, config_mt)
end

--- A config. Reads files. Raises if they can't be used, with the file's name.
---@param opts lunapark.TlsOptions
---@return lunapark.TlsConfig
function tls.config(opts)
  return make(opts, "tls.config", 3)
end

local own

--- A server's config with a certificate for localhost that the process has made itself, for specs.
---@return lunapark.TlsConfig
function tls.self_signed()
  if not own then
    local settings = ffi.new("host_tls_settings", { server = true, self_signed = true, alpn = "http/1.1,http/1.0" })
    local handle = C.host_tls_new(settings, why)
    if handle == nil then error("tls: " .. ffi.string(why), 2) end
    own = setmetatable({ handle = ffi.gc(handle, C.host_tls_free), server = true, insecure = false }, config_mt)
  end
  return own
end

local default

--- The config that `tls = v` means. For modules that take one; `what`: the name of their function.
---@param v lunapark.TlsConfig|lunapark.TlsOptions|true
---@param what string
---@return lunapark.TlsConfig
function tls.of(v, what)
  if getmetatable(v) == config_mt then return v end
  if v == true then
    default = default or make({}, "tls", 4)
    return default
  end
  return make(v, what .. ": tls", 4)
end

return tls
