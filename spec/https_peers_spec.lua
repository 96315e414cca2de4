--- HTTPS as programs of others find it: testssl.sh and sslscan, which look for weaknesses; ab, wrk, h2load, Node, Go
--- and openssl(1) as clients. curl: https_spec.lua; Chromium: http_browser_spec.lua. A program that is not installed is
--- pending: `make deps-peers`.

local exec = require "lunapark.exec"
local fs = require "lunapark.fs"
local json = require "lunapark.json"
local lp = require "lunapark"
local testing = require "lunapark.testing"
local certs = require "spec.support.certs"
local child = require "spec.support.child"
local helper = require "spec.helper"
local programs = require "spec.support.programs"

testing.block_timeout(1800)

local APP = [[
local http = require "lunapark.http"
local app = http.app()
app:use(http.secure_headers {})
app:get("/", function() return "hello" end)
app:get("/tls", function(req) return req.tls.version .. (req.tls.resumed and " resumed" or " new") end)
app:post("/echo", function(req) return req:body() end)
return app
]]

-- What testssl.sh says of a certificate that signs itself, for thirty days.
local OF_SELF_SIGNED = {
  cert_chain_of_trust = true, cert_expirationStatus = true, cert_notAfter = true, cert_revocation = true,
}
local BAD = { LOW = true, MEDIUM = true, HIGH = true, CRITICAL = true, FATAL = true }
-- Protocols and ciphers; server preferences; the certificate; headers; known holes.
local PARTS = { "-p -s -f", "-P", "-S", "-h", "-U" }

describe("HTTPS", function()
  local dir, server, url

  setup(function()
    dir = certs.folder()
    certs.make(dir, "site", { "DNS:site.example", "DNS:localhost", "IP:127.0.0.1" })
    certs.make(dir, "rsa", { "DNS:site.example", "DNS:localhost", "IP:127.0.0.1" }, "rsa")
    certs.staple(dir, "site")
    certs.staple(dir, "rsa")
  end)
  teardown(function() fs.remove(dir, { recursive = true }) end)
  before_each(function()
    server = child.serve { child.script(APP), "--procs", "2", "--tls-cert", dir .. "/site.pem",
      "--tls-key", dir .. "/site.key", "--tls-cert", dir .. "/rsa.pem", "--tls-key", dir .. "/rsa.key" }
    url = "https://" .. server.addr
  end)
  after_each(child.clean)

  -- An `it` that needs a program.
  local function with(name, what, fn)
    if programs.installed(name) then it(name .. " " .. what, fn) else pending(name .. " is not installed") end
  end

  -- It takes minutes of the CPU: `make testssl`.
  if os.getenv "LUNAPARK_TESTSSL" then
    with("testssl", "finds nothing of severity LOW or above but what a self-signed certificate brings", function()
      local gs, found = {}, {}
      for i, part in ipairs(PARTS) do
        gs[i] = lp.go(function()
          local file = child.file(nil, ".json")
          local command = ("testssl --quiet --color 0 --warnings off --nodns none --ip 127.0.0.1 --jsonfile %s %s %s")
            :format(file, part, "localhost:" .. server.addr:match "%d+$")
          local r = assert(exec.run({ "sh", "-c", command }, { timeout = 1700 }))
          return assert(json.decode(assert(fs.read(file)))), r.stdout
        end)
      end
      for i, g in ipairs(gs) do
        local findings, shown = g:join()
        assert.is_true(#findings >= 4, PARTS[i])
        assert.matches(" Done ", shown, 1, true)
        for _, finding in ipairs(findings) do
          if BAD[finding.severity] and not OF_SELF_SIGNED[finding.id:match "^[^ <]+"] then
            found[#found + 1] = ("%s %s: %s"):format(finding.severity, finding.id, finding.finding)
          end
        end
      end
      assert.equal("", table.concat(found, "\n"))
    end)
  end

  with("sslscan", "finds TLS 1.2 and 1.3 with strong ciphers, and none of the known holes", function()
    local text = programs.run("sslscan", "--no-colour", "--xml=-", server.addr)
    local enabled, ciphers = {}, 0
    for kind, version, on in text:gmatch '<protocol type="(%a+)" version="([%d.]+)" enabled="(%d)"' do
      if on == "1" then enabled[#enabled + 1] = kind .. version end
    end
    table.sort(enabled)
    assert.same({ "tls1.2", "tls1.3" }, enabled, text)
    for strength in text:gmatch '<cipher [^>]*strength="(%a+)"' do
      ciphers = ciphers + 1
      assert.is_true(strength == "strong" or strength == "acceptable", text)
    end
    assert.is_true(ciphers >= 6, text)
    assert.matches('<renegotiation supported="0"', text, 1, true)
    assert.is_nil(text:find('<compression supported="1"', 1, true), text)
    assert.matches('<heartbleed sslversion="TLSv1.2" vulnerable="0"', text, 1, true)
    assert.is_nil(text:find('vulnerable="1"', 1, true), text)
  end)

  with("ab", "gets all answers, on kept connections and with a handshake for each", function()
    for _, options in ipairs { { "-k" }, {}, { "-f", "TLS1.2" } } do
      local argv = { "ab", "-q", "-n", "400", "-c", "20", unpack(options) }
      argv[#argv + 1] = url .. "/"
      local text, code = programs.run(unpack(argv))
      assert.equal(0, code, text)
      assert.matches("Complete requests: +400\n", text)
      assert.matches("Failed requests: +0\n", text)
      assert.is_nil(text:find "Non%-2xx responses")
    end
  end)

  with("wrk", "gets answers without an error", function()
    local text, code = programs.run("wrk", "-t1", "-c20", "-d1s", url .. "/")
    assert.equal(0, code, text)
    assert.is_true(tonumber(text:match "(%d+) requests in") > 0, text)
    assert.is_nil(text:find "Socket errors", text)
    assert.is_nil(text:find "Non%-2xx", text)
  end)

  -- Of its ALPN it offers h2 first, unless told otherwise.
  with("h2load", "gets all answers by HTTP/1.1, pipelined too", function()
    for _, options in ipairs { { "-m1" }, { "-m8" }, { "-m1", "--npn-list=h2,http/1.1" } } do
      local argv = { "h2load", "-n", "400", "-c", "20", unpack(options) }
      if #options == 1 then argv[#argv + 1] = "--h1" end
      argv[#argv + 1] = url .. "/"
      local text, code = programs.run(unpack(argv))
      assert.equal(0, code, text)
      assert.matches("Application protocol: http/1.1", text, 1, true)
      assert.matches("400 succeeded, 0 failed, 0 errored, 0 timeout", text, 1, true)
      assert.matches("status codes: 400 2xx", text, 1, true)
    end
  end)

  with("node", "sends bodies and reads answers, and trusts the certificate", function()
    local script = child.file([[
      const https = require("https"), fs = require("fs")
      const [port, ca] = process.argv.slice(2)
      const trust = { ca: fs.readFileSync(ca), servername: "site.example" }
      const agent = new https.Agent({ ...trust, keepAlive: true, maxSockets: 4 })
      const body = "0123456789abcdef".repeat(16384)
      const ports = new Set()
      function post() {
        return new Promise((resolve, reject) => {
          const r = https.request({ host: "127.0.0.1", port, path: "/echo", method: "POST", agent }, answer => {
            let got = "", version = answer.socket.getProtocol()
            ports.add(answer.socket.localPort)
            answer.on("data", d => got += d)
            answer.on("end", () => resolve(answer.statusCode == 200 && got == body && version))
          })
          r.on("error", reject)
          r.end(body)
        })
      }
      Promise.all(Array.from({ length: 20 }, post)).then(list => {
        console.log(list.filter(v => v == "TLSv1.3").length, ports.size)
        agent.destroy()
      })
    ]], ".js")
    local text = programs.run("node", script, server.addr:match "%d+$", dir .. "/site.pem")
    assert.equal("20 4\n", text)
  end)

  with("go", "sends bodies, and comes back by tickets", function()
    local source = child.file([[
      package main

      import ("crypto/tls"; "crypto/x509"; "fmt"; "io"; "net/http"; "os"; "strings")

      func main() {
        pem, _ := os.ReadFile(os.Args[2])
        pool := x509.NewCertPool()
        pool.AppendCertsFromPEM(pem)
        config := &tls.Config{RootCAs: pool, ServerName: "site.example"}
        config.ClientSessionCache = tls.NewLRUClientSessionCache(8)
        client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
        body, whole, resumed := strings.Repeat("0123456789abcdef", 16384), 0, 0
        for i := 0; i < 10; i++ {
          r, err := client.Post(os.Args[1] + "/echo", "text/plain", strings.NewReader(body))
          if err != nil {
            fmt.Println(err)
            return
          }
          got, _ := io.ReadAll(r.Body)
          r.Body.Close()
          if string(got) == body { whole++ }
          if r.TLS.DidResume { resumed++ }
        }
        fmt.Println(whole, resumed)
      }
    ]], ".go")
    local r = assert(exec.run({ "go", "run", source, url, dir .. "/site.pem" }, {
      env = { PATH = os.getenv "PATH", HOME = dir, GOCACHE = dir .. "/cache", GOFLAGS = "-mod=mod" }, timeout = 300 }))
    assert.equal("10 9\n", r.stdout, r.stderr)
  end)

  -- openssl(1) as a client to which one can say something while it runs. ask(text): what it has shown since, once it
  -- has shown `pattern`.
  local function s_client(...)
    local p = assert(exec.spawn({ "openssl", "s_client", "-connect", server.addr, ... }, { stderr = "stdout" }))
    p.stdout:set_deadline(helper.PATIENCE)
    local shown = ""
    return p, function(text, pattern)
      if text then assert(p.stdin:write(text)) end
      while not shown:find(pattern) do
        local piece, err = p.stdout:read()
        if not piece then error(("%s before %q: %s"):format(err, pattern, shown)) end
        shown = shown .. piece
      end
      local all = shown
      shown = ""
      return all
    end
  end

  it("has new keys when openssl asks for them, and goes on", function()
    local p, ask = s_client("-tls1_3")
    ask(nil, "Verify return code.-\n%-%-%-\n")
    for _, key in ipairs { "k", "K", "K", "k" } do ask(key .. "\n", "KEYUPDATE") end
    assert.matches("TLSv1.3 new", ask("GET /tls HTTP/1.1\r\nHost: x\r\n\r\n", "TLSv1.3 %a+"))
    p.stdin:close()
    p:wait()
    p.stdout:close()
  end)

  it("does not renegotiate", function()
    local p, ask = s_client("-tls1_2")
    ask(nil, "Extended master secret.-\n%-%-%-\n")
    ask("R\n", "RENEGOTIATING.*no renegotiation")
    p:wait()
    p.stdout:close()
    p.stdin:close()
    assert.equal("hello", child.client(server.addr, { tls = { insecure = true } }):get("/").body)
  end)
end)
