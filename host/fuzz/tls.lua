--- Clients of an HTTPS server that break TLS, for apps.lua: what they say is none, or is harmed on its way.
--
-- A harmed client is a good one behind a relay. The relay passes bytes on, and harms those of the client at one place,
-- anywhere between the first byte of the handshake and the last one of the request. TLS promises that such a client
-- gets the right answer or none.

local bit = require "bit"
local exec = require "lunapark.exec"
local lp = require "lunapark"
local net = require "lunapark.net"
local testing = require "lunapark.testing"
local tls = require "lunapark.tls"

local fuzz = {}

local PATIENCE = 60 -- seconds; only what hangs lasts so long

--- What good clients trust: nobody has signed the certificate.
fuzz.trust = tls.config { insecure = true, alpn = { "http/1.1" } }

---@param addr string
---@param config? lunapark.TlsConfig
local function dial(addr, config)
  local conn, err = net.dial(addr, { timeout = PATIENCE, tls = config })
  if conn then conn:set_deadline(PATIENCE) end
  return conn, err
end

local function random_bytes(p, n)
  local list = {}
  for i = 1, n do list[i] = string.char(p(256) - 1) end
  return table.concat(list)
end

-- ---- no TLS -------------------------------------------------------------------------------------------------------

local HTTP = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

local no_tls = {
  function() return "" end,
  function() return "\22\3\1" end,
  function() return ("\22\3\1\0\0"):rep(50) end, -- records of nothing
  function() return "\22\3\1\255\255" .. ("x"):rep(3000) end, -- longer than a record may be
  function() return "\22\3\1\0\4\1\0\0\0" end, -- a ClientHello of nothing
  function() return "\22\3\1\0\4\1\255\255\255" end, -- one of 16 MB
  function() return "\21\3\1\0\2\2\40" end, -- a fatal alert
  function() return ("\21\3\1\0\2\1\90"):rep(20) end,
  function() return "\20\3\3\0\1\1\23\3\3\0\5hello" end, -- what comes later
  function() return "\24\3\2\0\3\1\64\0" end, -- a heartbeat
  function() return "\128\46\1\0\2\0\21\0\0\0\16" .. ("\1"):rep(37) end, -- SSL 2
  function(p) return random_bytes(p, p(300)) end,
  function(p)
    local n = p(300)
    return "\22\3\1" .. string.char(bit.rshift(n, 8), bit.band(n, 255)) .. random_bytes(p, n)
  end,
}

--- Says what is no TLS. What is wrong with the answer; nil: nothing.
---@return string? problem
function fuzz.speak_none(addr, p)
  local http = p(6) == 1
  local bytes = http and HTTP or no_tls[p(#no_tls)](p)
  local conn = assert(dial(addr))
  local at = p(#bytes + 1) - 1
  conn:write(bytes:sub(1, at))
  if p(3) == 1 then lp.sleep(p(20) / 1000) end
  conn:write(bytes:sub(at + 1))
  if not http and p(2) == 1 then conn:close_write() end
  if not http then conn:set_read_deadline(p(300) / 1000) end
  local text = conn:read_all() or ""
  conn:close()
  if http and not text:find "^HTTP/1%.1 400 " then return "HTTP on a TLS port is answered " .. text end
  if text:find "^HTTP/1%.1 200" then return "an answer without TLS: " .. text end
end

-- ---- TLS that is harmed -------------------------------------------------------------------------------------------

-- What goes on instead of these bytes, of which the n-th is to be harmed, and what the relay does then.
local harms = {
  function(bytes, n) return bytes:sub(1, n), "close" end,
  function(bytes, n) return bytes:sub(1, n), "end" end,
  function(bytes, n) return bytes:sub(1, n), "stall" end,
  function(bytes, n, p)
    return bytes:sub(1, n - 1) .. string.char(bit.bxor(bytes:byte(n), bit.lshift(1, p(8) - 1))) .. bytes:sub(n + 1)
  end,
  function(bytes, n) return bytes:sub(1, n - 1) .. bytes:sub(n + 1) end,
  function(bytes, n, p) return bytes:sub(1, n) .. random_bytes(p, p(40)) .. bytes:sub(n + 1) end,
  function(bytes, n) return bytes:sub(1, n) .. "\21\3\3\0\2\1\0" .. bytes:sub(n + 1) end, -- the end, and yet more
  function(bytes) return bytes .. bytes end,
}

-- What the server says to the client.
local function carry_back(far, near)
  repeat
    local bytes = far:read()
  until not bytes or not near:write(bytes)
  near:close_write()
end

-- Carries one connection from ln to addr, and harms it.
local function carry(ln, addr, p)
  local near = ln:accept()
  if not near then return end
  local far = assert(dial(addr))
  near:set_deadline(PATIENCE)
  local back = lp.go(carry_back, far, near)
  local harm, at, passed, then_what = harms[p(#harms)], p(1000), 0, nil
  repeat
    local bytes = near:read()
    if not bytes then break end
    if passed < at and at <= passed + #bytes then
      passed = passed + #bytes
      bytes, then_what = harm(bytes, at - passed + #bytes, p)
    else
      passed = passed + #bytes
    end
  until not far:write(bytes) or then_what
  if then_what == "end" then far:close_write() end
  if then_what ~= "close" then lp.sleep(p(200) / 1000) end
  far:close()
  near:close()
  back:join()
end

--- Sends q by a client that is harmed. Its answer, if it gets one.
---@param q fuzz.Request
---@return lunapark.testing.Reply|nil
function fuzz.harmed(addr, q, p)
  local ln = assert(net.listen "127.0.0.1:0")
  local relay = lp.go(carry, ln, addr, p)
  local patience, r = 0.2 + p(500) / 1000, nil -- the server may wait for bytes that were lost
  local conn = net.dial(ln:addr(), { timeout = patience, tls = fuzz.trust })
  if conn then
    conn:set_deadline(patience)
    conn:write(q.bytes)
    r = testing.read_reply(conn, q.method)
    conn:close()
  end
  ln:close()
  relay:join()
  return r
end

--- A client that asks for new keys: by a renegotiation, which is refused, or by TLS 1.3's KeyUpdate.
function fuzz.new_keys(addr, p)
  local old = p(2) == 1
  local r, err = exec.run({ "openssl", "s_client", "-connect", addr, old and "-tls1_2" or "-tls1_3" },
    { stdin = old and "R\n" or "K\n", timeout = PATIENCE })
  if not r then return "openssl s_client: " .. err end
end

return fuzz
