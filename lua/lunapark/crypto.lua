--- Hashes, random bytes and passwords: `local crypto = require "lunapark.crypto"`.
--
--   crypto.sha256 "text"                            -- 64 hexadecimal digits
--   crypto.equal(crypto.hmac("sha256", key, body), signature)
--   local stored = crypto.password_hash(password)   -- "$scrypt$ln=15,r=8,p=3$...", for a database
--   if crypto.password_verify(password, stored) then ...
--
-- All of it is OpenSSL's libcrypto (host/sys/crypto.c); nothing here is of our own making. Functions compute at once,
-- but for those of passwords: these take a tenth of a second and 32 MiB on purpose, on another thread, while the VM
-- serves others. At most two of them run at a time in a VM; others wait for their turn.

local ffi = require "ffi"
require "lunapark.cdef"
local as_given = require("lunapark.core.show").given

local C = ffi.C
local find, format, gsub, match = string.find, string.format, string.gsub, string.match
local ffi_string = ffi.string

---@class lunapark.crypto
local crypto = {}

-- In all of these functions `level` is that of the caller of our function, as seen from inside.
local function check_string(s, what, name, level)
  if type(s) ~= "string" then
    error(("%s: %s must be a string, got %s"):format(what, name, type(s)), level)
  end
end

local function check_count(n, what)
  if type(n) ~= "number" or n < 1 or n > 2 ^ 20 or n % 1 ~= 0 then
    error(("%s: n must be a whole number from 1 to %d, got %s"):format(what, 2 ^ 20, as_given(n)), 3)
  end
end

-- ---- texts --------------------------------------------------------------------------------------------------

local digits = {}
for i = 0, 255 do digits[string.char(i)] = format("%02x", i) end

local function hex(s)
  return (gsub(s, ".", digits))
end

--- The bytes as hexadecimal digits in lower case.
---@param s string
---@return string
function crypto.hex(s)
  check_string(s, "hex", "s", 3)
  return hex(s)
end

--- The bytes that hexadecimal digits stand for.
---@param s string
---@return string|nil bytes
---@return string? err  "not hexadecimal"
function crypto.hex_decode(s)
  check_string(s, "hex_decode", "s", 3)
  if #s % 2 == 1 or find(s, "%X") then return nil, "not hexadecimal" end
  return (gsub(s, "..", function(two) return string.char(tonumber(two, 16)) end))
end

local LONGEST = 2 ^ 30

local function base64(s, what)
  check_string(s, what, "s", 4)
  if #s > LONGEST then error(what .. ": s is longer than 1 GiB", 3) end
  local out = ffi.new("char[?]", 4 * math.floor((#s + 2) / 3) + 1)
  return ffi_string(out, C.host_base64(s, #s, out))
end

--- The bytes as base64, with "=" at the end.
---@param s string
---@return string
function crypto.base64(s)
  return (base64(s, "base64"))
end

local to_url = { ["+"] = "-", ["/"] = "_", ["="] = "" }
local from_url = { ["-"] = "+", ["_"] = "/" }

--- The bytes as base64 for URLs, cookies and file names: with "-" and "_", without "=".
---@param s string
---@return string
function crypto.base64url(s)
  return (gsub(base64(s, "base64url"), "[+/=]", to_url))
end

local function unbase64(s)
  if find(s, "[^%w+/=]") or find(s, "=[^=]") or find(s, "===", 1, true) or #s % 4 ~= 0 then return nil, "not base64" end
  local out = ffi.new("uint8_t[?]", #s + 1)
  local n = tonumber(C.host_unbase64(s, #s, out))
  if n < 0 then return nil, "not base64" end
  return ffi_string(out, n)
end

--- The bytes that base64 stands for.
---@param s string  without blanks and line breaks
---@return string|nil bytes
---@return string? err  "not base64"
function crypto.base64_decode(s)
  check_string(s, "base64_decode", "s", 3)
  return unbase64(s)
end

--- The bytes that the text of `base64url` stands for.
---@param s string
---@return string|nil bytes
---@return string? err  "not base64"
function crypto.base64url_decode(s)
  check_string(s, "base64url_decode", "s", 3)
  if find(s, "[^%w_-]") then return nil, "not base64" end
  return unbase64(gsub(s, "[-_]", from_url) .. ("="):rep(-#s % 4))
end

-- ---- hashes -------------------------------------------------------------------------------------------------

local algorithms = {
  md5 = C.HOST_MD5, sha1 = C.HOST_SHA1, sha256 = C.HOST_SHA256, sha384 = C.HOST_SHA384, sha512 = C.HOST_SHA512,
}
local out = ffi.new("uint8_t[?]", C.HOST_DIGEST_MAX)

local function text_of(n, what, raw)
  if n < 0 then error(what .. ": libcrypto does not do this here", 3) end
  local bytes = ffi_string(out, n)
  return raw and bytes or hex(bytes)
end

local function digest(alg, s, raw)
  check_string(s, alg, "s", 4)
  return text_of(C.host_digest(algorithms[alg], s, #s, out), alg, raw)
end

--- The hash of a text. MD5 and SHA-1 are for what others ask for: who wants to can make two texts with one hash.
---@param s string
---@param raw? boolean  bytes in place of hexadecimal digits
---@return string
function crypto.md5(s, raw) return (digest("md5", s, raw)) end

---@see lunapark.crypto.md5
function crypto.sha1(s, raw) return (digest("sha1", s, raw)) end

--- The hash of a text.
---@param s string
---@param raw? boolean  bytes in place of hexadecimal digits
---@return string
function crypto.sha256(s, raw) return (digest("sha256", s, raw)) end

---@see lunapark.crypto.sha256
function crypto.sha384(s, raw) return (digest("sha384", s, raw)) end

---@see lunapark.crypto.sha256
function crypto.sha512(s, raw) return (digest("sha512", s, raw)) end

--- The code by which somebody who knows the key recognizes a text as unchanged.
---@param alg string   "sha256", "sha512", "sha384", "sha1", "md5"
---@param key string
---@param s string
---@param raw? boolean  bytes in place of hexadecimal digits
---@return string
function crypto.hmac(alg, key, s, raw)
  local number = algorithms[alg]
  if not number then
    error("hmac: alg must be md5, sha1, sha256, sha384 or sha512, got " .. tostring(alg), 2)
  end
  check_string(key, "hmac", "key", 3)
  check_string(s, "hmac", "s", 3)
  return (text_of(C.host_hmac(number, key, #key, s, #s, out), "hmac", raw))
end

--- Whether two texts are alike. The time that it takes does not tell where they differ: for signatures, tokens and
--- whatever else a client might guess byte by byte.
---@param a string
---@param b string
---@return boolean
function crypto.equal(a, b)
  check_string(a, "equal", "a", 3)
  check_string(b, "equal", "b", 3)
  return #a == #b and C.host_equal(a, b, #a) == 1
end

-- ---- random bytes -------------------------------------------------------------------------------------------

local function random(n, what)
  local bytes = ffi.new("uint8_t[?]", n)
  if C.host_random(bytes, n) ~= 0 then error(what .. ": the system gives no random bytes", 3) end
  return ffi_string(bytes, n)
end

--- n bytes that nobody can guess.
---@param n integer  1 to 1048576
---@return string
function crypto.random(n)
  check_count(n, "random")
  return (random(n, "random"))
end

--- n bytes that nobody can guess, as 2 n hexadecimal digits.
---@param n integer  1 to 1048576
---@return string
function crypto.random_hex(n)
  check_count(n, "random_hex")
  return crypto.hex(random(n, "random_hex"))
end

--- A random UUID (RFC 9562, version 4).
---@return string  "0b2d8f0e-4e0d-4a3c-9d59-0a3f4c0a7d52"
function crypto.uuid()
  local h = crypto.hex(random(16, "uuid"))
  local variant = format("%x", 8 + tonumber(h:sub(17, 17), 16) % 4)
  return ("%s-%s-4%s-%s%s-%s"):format(h:sub(1, 8), h:sub(9, 12), h:sub(14, 16), variant, h:sub(18, 20), h:sub(21))
end

-- ---- passwords ----------------------------------------------------------------------------------------------

-- As OWASP says, in 32 MiB. Hashes keep their numbers: new ones may be made by others.
local LN, R, P = 15, 8, 3
local SALT, LENGTH = 16, 32
-- What a hash from elsewhere may ask for: 256 MiB.
local BLOCKS_MAX, LENGTH_MAX = 2 ^ 18, 64

local turn

-- The bytes of scrypt, or nil and an error. Waits.
local function scrypt(password, salt, ln, r, p, n)
  local lp = require "lunapark"
  turn = turn or lp.semaphore(2)
  local key = ffi.new("uint8_t[?]", n)
  local rc, err = turn:with(lp.offload, C.host_scrypt, password, #password, salt, #salt, 2 ^ ln, r, p, key, n)
  if not rc then return nil, err end
  if rc ~= 0 then return nil, "not enough memory" end
  return ffi_string(key, n)
end

local function unpadded(s)
  return (gsub(crypto.base64(s), "=", ""))
end

local function padded(s)
  return unbase64(s .. ("="):rep(-#s % 4))
end

--- What to keep of a password: from it nobody learns the password, and two users with the same password differ. Waits
--- for about a tenth of a second.
---@param password string
---@return string|nil hash  "$scrypt$ln=15,r=8,p=3$salt$key"
---@return string? err       "timeout", "canceled", "not enough memory"
function crypto.password_hash(password)
  check_string(password, "password_hash", "password", 3)
  local salt = random(SALT, "password_hash")
  local key, err = scrypt(password, salt, LN, R, P, LENGTH)
  if not key then return nil, err end
  return ("$scrypt$ln=%d,r=%d,p=%d$%s$%s"):format(LN, R, P, unpadded(salt), unpadded(key))
end

--- Whether a password is the one of which `password_hash` has made the hash. Waits as long.
---@param password string
---@param hash string
---@return boolean|nil same
---@return string? err  "timeout", "canceled", "not enough memory"; "not a hash of password_hash"
function crypto.password_verify(password, hash)
  check_string(password, "password_verify", "password", 3)
  check_string(hash, "password_verify", "hash", 3)
  local ln, r, p, salt, key = match(hash, "^%$scrypt%$ln=(%d%d?),r=(%d%d?),p=(%d%d?)%$([%w+/]+)%$([%w+/]+)$")
  salt, key = salt and padded(salt), key and padded(key)
  ln, r, p = tonumber(ln), tonumber(r), tonumber(p)
  if not salt or not key or #key > LENGTH_MAX or ln < 1 or r < 1 or p < 1 or 2 ^ ln * r > BLOCKS_MAX * 8 then
    return nil, "not a hash of password_hash"
  end
  local found, err = scrypt(password, salt, ln, r, p, #key)
  if not found then return nil, err end
  return crypto.equal(found, key)
end

-- ---- sealed texts, for sessions --------------------------------------------------------------------------------

local SEAL = C.HOST_SEAL_NONCE + C.HOST_SEAL_TAG

--- Encrypts a text, so that only who knows the key can read or change it.
---@param key string    32 bytes
---@param about string  must be the same at `unseal`; is not encrypted
---@param s string
---@return string
function crypto.seal(key, about, s)
  if #key ~= C.HOST_SEAL_KEY then error("seal: key must have 32 bytes, got " .. #key, 2) end
  local bytes = ffi.new("uint8_t[?]", #s + SEAL)
  local n = tonumber(C.host_seal(key, about, #about, s, #s, bytes))
  if n < 0 then error("seal: libcrypto does not do this here", 2) end
  return ffi_string(bytes, n)
end

--- The text that was sealed; nil: by another key, about something else, or it was changed.
---@param key string
---@param about string
---@param s string
---@return string|nil
function crypto.unseal(key, about, s)
  if #key ~= C.HOST_SEAL_KEY then error("unseal: key must have 32 bytes, got " .. #key, 2) end
  local bytes = ffi.new("uint8_t[?]", #s + 1)
  local n = tonumber(C.host_unseal(key, about, #about, s, #s, bytes))
  return n >= 0 and ffi_string(bytes, n) or nil
end

return crypto
