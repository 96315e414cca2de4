--- Certificates for specs, made by openssl(1).

local exec = require "lunapark.exec"
local fs = require "lunapark.fs"

local certs = {}

--- A folder for them, which its maker removes.
---@return string path
function certs.folder()
  local dir = os.tmpname()
  os.remove(dir)
  assert(fs.mkdir(dir))
  return dir
end

--- Makes dir/name.pem and dir/name.key: a certificate that signs itself.
---@param dir string
---@param name string
---@param names string[]  "DNS:...", "IP:..."
---@param key? "rsa"|"ec"  its kind, ec without it
function certs.make(dir, name, names, key)
  local kind = key == "rsa" and { "-newkey", "rsa:2048" }
    or { "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256" }
  local argv = { "openssl", "req", "-x509", kind[1], kind[2], "-nodes", "-days", "30", "-subj", "/CN=" .. name,
    "-addext", "subjectAltName=" .. table.concat(names, ","), "-keyout", dir .. "/" .. name .. ".key",
    "-out", dir .. "/" .. name .. ".pem" }
  for i = 3, #kind do argv[#argv + 1] = kind[i] end
  local r = assert(exec.run(argv))
  assert(r.code == 0, r.stderr)
end

--- Makes dir/name.pem.ocsp: what the certificate of that name says of itself, good for a day.
---@param dir string
---@param name string
function certs.staple(dir, name)
  local command = [[
    serial=$(openssl x509 -in "$0.pem" -noout -serial) && serial=${serial#serial=} &&
    printf 'V\t491231235959Z\t\t%s\tunknown\t/CN=x\n' "$serial" >"$0.index" &&
    openssl ocsp -index "$0.index" -CA "$0.pem" -rsigner "$0.pem" -rkey "$0.key" -issuer "$0.pem" -cert "$0.pem" \
      -ndays 1 -respout "$0.pem.ocsp"
  ]]
  local r = assert(exec.run { "sh", "-c", command, dir .. "/" .. name })
  assert(r.code == 0, r.stderr)
end

return certs
