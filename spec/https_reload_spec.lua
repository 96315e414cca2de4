--- Certificates that change while `serve` answers, and the keys of session tickets: over reloads, upgrades, machines.

local ffi = require "ffi"
local exec = require "lunapark.exec"
local fs = require "lunapark.fs"
local lp = require "lunapark"
local net = require "lunapark.net"
local testing = require "lunapark.testing"
local certs = require "spec.support.certs"
local child = require "spec.support.child"
local helper = require "spec.helper"

ffi.cdef "int prctl(int option, unsigned long arg, unsigned long, unsigned long, unsigned long);"
local SUBREAPER = 36

-- Exchanges under load: `make cert-swaps` does a thousand.
local AT_ONCE, SWAPS = 64, tonumber(os.getenv "LUNAPARK_SWAPS") or 6
-- Much less than a thousand configs that were never freed would take.
local GROWTH = 16 * 2 ^ 20

testing.block_timeout(300 + SWAPS)

local APP = 'return function(req) return req.tls.resumed and "resumed" or "new" end'
local GET = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
-- No client is slower than this while a process stops, however busy the machine is.
local PATIENT = { LUNAPARK_DEBUG = "drainidle=15000" }

describe("certificates of a server", function()
  local dir

  setup(function()
    ffi.C.prctl(SUBREAPER, 1, 0, 0, 0)
    dir = certs.folder()
    for _, name in ipairs { "one", "two", "other" } do certs.make(dir, name, { "DNS:site.example" }) end
  end)
  teardown(function()
    ffi.C.prctl(SUBREAPER, 0, 0, 0, 0)
    fs.remove(dir, { recursive = true })
  end)
  after_each(child.clean)

  local function copy(from, to) assert(fs.write(dir .. "/" .. to, (assert(fs.read(dir .. "/" .. from))))) end

  -- The present pair is that of `name`.
  local function put(name)
    copy(name .. ".pem", "now.pem")
    copy(name .. ".key", "now.key")
  end

  local function serve(args)
    local all = { child.script(APP), "--procs", "2", "--tls-cert", dir .. "/now.pem", "--tls-key", dir .. "/now.key" }
    for name, arg in pairs(args or {}) do
      if type(name) == "number" then all[#all + 1] = arg else all[name] = arg end
    end
    return child.serve(all)
  end

  local function dial(addr, name)
    local tls = { ca = dir .. "/" .. name .. ".pem", name = "site.example" }
    return net.dial(addr, { tls = tls, timeout = helper.PATIENCE })
  end

  -- Waits until new connections get the certificate of that name.
  local function until_served(addr, name)
    helper.eventually(function()
      local conn = dial(addr, name)
      return conn and conn:close()
    end, "the certificate " .. name)
  end

  it("change when their files do, for connections that begin then", function()
    put "one"
    local c = serve()
    local conn = assert(dial(c.addr, "one"))
    assert.is_nil((dial(c.addr, "two")))
    put "two"
    until_served(c.addr, "two")
    c:said "TLS: certificates loaded anew"
    assert.is_nil((dial(c.addr, "one")))
    assert(conn:write(GET)) -- goes on with the one that it began with
    assert.equal("new", child.reply(conn).body)
    conn:close()
  end)

  it("change when links lead to other files", function()
    for _, ending in ipairs { ".pem", ".key" } do
      fs.remove(dir .. "/now" .. ending)
      helper.link("one" .. ending, dir .. "/now" .. ending)
    end
    local c = serve()
    until_served(c.addr, "one")
    for _, ending in ipairs { ".pem", ".key" } do -- as certbot does
      helper.link("two" .. ending, dir .. "/next")
      assert(fs.rename(dir .. "/next", dir .. "/now" .. ending))
    end
    until_served(c.addr, "two")
    for _, ending in ipairs { ".pem", ".key" } do fs.remove(dir .. "/now" .. ending) end
  end)

  it("stay as they were when the new ones are bad, which the log tells once", function()
    put "one"
    local c = serve()
    copy("other.key", "now.key")
    c:said "now.key: key values mismatch: the certificates stay as they were"
    until_served(c.addr, "one")
    assert(fs.write(dir .. "/now.pem", "no certificate"))
    local log = c:said "now.pem: no start line: the certificates stay as they were"
    assert.equal(1, helper.count(log, "mismatch"))
    until_served(c.addr, "one")
    put "two"
    until_served(c.addr, "two")
  end)

  local function resident(pid)
    return tonumber(fs.read("/proc/" .. pid .. "/status"):match "VmRSS:%s+(%d+) kB") * 1024
  end

  it("lose no request while they are exchanged again and again, and take no more memory", function()
    put "one"
    local c, before = serve(), nil
    local stop, failed, served = false, {}, 0
    local gs = {}
    for i = 1, AT_ONCE do
      gs[i] = lp.go(function()
        while not stop do
          local conn, err = net.dial(c.addr, { tls = { insecure = true }, timeout = helper.PATIENCE })
          for _ = 1, conn and 10 or 0 do
            conn:set_deadline(helper.PATIENCE)
            local r
            if conn:write(GET) then r, err = testing.read_reply(conn) end
            if not r or r.status ~= 200 then
              err = err or "no answer"
              break
            end
            served = served + 1
          end
          if conn then conn:close() end
          failed[#failed + 1] = err
        end
      end)
    end
    for i = 1, SWAPS do
      local name = i % 2 == 1 and "two" or "one"
      put(name)
      c:kill "HUP" -- does not wait for the next look
      until_served(c.addr, name)
      before = i == math.ceil(SWAPS / 10) and resident(c.pid) or before
    end
    local grown = resident(c.pid) - before
    stop = true
    for _, g in ipairs(gs) do g:join() end
    assert.same({}, failed)
    assert.is_true(served > AT_ONCE)
    if SWAPS > 6 then print(("%d swaps, %d requests, grown by %d kB"):format(SWAPS, served, grown / 1024)) end
    if not child.has_asan and not child.has_tsan then assert.is_true(grown < GROWTH, grown) end
  end)

  -- What openssl says of a session that it keeps, or comes back with, and what the app says.
  local function connect(addr, option, session)
    local r = exec.run({ "openssl", "s_client", "-connect", addr, "-ign_eof", option, dir .. "/" .. session },
      { stdin = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", timeout = helper.PATIENCE })
    local body = r.stdout:match "\r\n\r\n(%a+)" -- and what openssl says behind it
    return r.stdout:match "\n(%a+), TLSv1.3", body and (body:match "^new" or body:match "^resumed")
  end

  it("come with what their issuer says of them, as soon as that is there", function()
    put "one"
    local c = serve()
    local function status()
      local r = exec.run({ "openssl", "s_client", "-connect", c.addr, "-status" },
        { stdin = "", timeout = helper.PATIENCE })
      return r.stdout:match "OCSP response: no response sent" or r.stdout:match "OCSP Response Status: %a+"
    end
    assert.equal("OCSP response: no response sent", status())
    certs.staple(dir, "now")
    helper.eventually(function() return status() == "OCSP Response Status: successful" end, "a staple")
    assert(fs.write(dir .. "/now.pem.ocsp", "nothing"))
    c:said "now.pem.ocsp: no OCSP response (DER): the certificates stay as they were"
    assert.equal("OCSP Response Status: successful", status())
    fs.remove(dir .. "/now.pem.ocsp")
    helper.eventually(function() return status() == "OCSP response: no response sent" end, "no staple")
  end)

  it("resume sessions over exchanges and upgrades", function()
    put "one"
    local c = serve { env = PATIENT }
    assert.same({ "New", "new" }, { connect(c.addr, "-sess_out", "session") })
    put "two"
    c:kill "HUP"
    until_served(c.addr, "two")
    assert.same({ "Reused", "resumed" }, { connect(c.addr, "-sess_in", "session") })
    c:kill "USR2"
    local new = child.adopt(tonumber((c:logged "SIGUSR2: process (%d+) serves")), c)
    assert.equal(0, c:wait()) -- only the new one listens
    assert.same({ "Reused", "resumed" }, { connect(c.addr, "-sess_in", "session") })
    assert.is_nil(c:stderr():find("tickets", 1, true))
    new:kill "TERM"
    assert.equal(0, new:wait())
  end)

  it("resume sessions on all machines that share a file of keys", function()
    put "one"
    local function keys(...)
      local text = {}
      for i, byte in ipairs { ... } do text[i] = string.char(byte):rep(80) end
      assert(fs.write(dir .. "/keys", table.concat(text)))
    end
    keys(1)
    local a, b = serve { "--tls-ticket-keys", dir .. "/keys" }, serve { "--tls-ticket-keys", dir .. "/keys" }
    assert.equal("New", (connect(a.addr, "-sess_out", "session")))
    assert.equal("Reused", (connect(b.addr, "-sess_in", "session")))
    keys(2, 1)
    b:kill "HUP"
    b:said "TLS: certificates loaded anew"
    assert.equal("Reused", (connect(b.addr, "-sess_in", "session")))
    keys(3)
    b:kill "HUP"
    b:said("TLS: certificates loaded anew", 2)
    assert.equal("New", (connect(b.addr, "-sess_in", "session")))
  end)
end)
