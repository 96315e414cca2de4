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

return certs
