-- What a browser, a headless Chromium (Debian: chromium-headless-shell), makes of answers, and what it sends.

local fs = require "lunapark.fs"
local http = require "lunapark.http"
local testing = require "lunapark.testing"
local browser = require "spec.support.browser"

testing.block_timeout(300)

local TEXT = ("The quick brown fox jumps over the lazy dog.\n"):rep(100)

describe("a browser", function()
  if not browser.path then
    pending "no Chromium"
    return
  end

  local client

  after_each(function() if client then client:close() end client = nil end)
  teardown(browser.close)
  testing.allow_leak("process", "socket") -- the browser, which stays for all of them, and its pipes

  local function show(req)
    local list = {}
    for part in assert(req:multipart()) do
      local kind = part.headers["content-type"]
      list[#list + 1] = ("%s|%s|%s|%s"):format(part.name, part.filename or "-", kind or "-", part:body())
    end
    return table.concat(list, "\n")
  end

  it("reads compressed answers", function()
    local accepted
    local app = http.app()
    app:use(http.compress())
    app:get("/", function(req)
      accepted = req.headers["accept-encoding"]
      return http.html("<!doctype html><title>t</title><pre>" .. TEXT .. "</pre>")
    end)
    app:get("/stream", function(_, res)
      for i = 1, #TEXT, 1000 do
        res:write(TEXT:sub(i, i + 999))
        res:flush()
      end
    end)
    client = testing.serve(app)
    local page = browser.open("http://" .. client.addr .. "/")
    page:wait "!!document.querySelector('pre')"
    assert.equal(TEXT, page:eval "document.querySelector('pre').textContent")
    assert.matches("gzip", accepted)
    assert.equal(TEXT, page:eval "fetch('/stream').then(r => r.text())")
  end)

  it("sends forms in parts", function()
    local app = http.app()
    app:get("/", function() return http.html "<!doctype html><title>t</title>" end)
    app:post("/", show)
    client = testing.serve(app)
    local page = browser.open("http://" .. client.addr .. "/")
    page:wait "document.title == 't'"
    local text = page:eval [[(async () => {
      const form = new FormData()
      form.append('a"b\r\nc', 'line\r\nline "quoted" %22')
      form.append("größe", "☃")
      form.append("f", new File(["data"], 'x"\\☃%22.txt', { type: "text/x" }))
      form.append("e", new File([], ""))
      return (await fetch("/", { method: "POST", body: form })).text()
    })()]]
    assert.equal('a"b\r\nc|-|-|line\r\nline "quoted" %22\ngröße|-|-|☃\nf|☃".txt|text/x|data\n' ..
      "e||application/octet-stream|", text)
  end)

  it("shows a page with assets, keeps them, and uploads a file by a form", function()
    local dir = os.tmpname()
    os.remove(dir)
    assert(fs.mkdir(dir))
    finally(function() fs.remove(dir, { recursive = true }) end)
    for name, text in pairs {
      ["style.css"] = "@font-face { font-family: none; src: url(none.woff2) }\n" ..
        "body { background: rgb(0, 64, 128); color: white; font: 20px sans-serif }",
      ["script.js"] = "document.querySelector('#by').textContent = 'written by a script'",
      ["module.mjs"] = "export const answer = 42",
      ["image.svg"] = '<svg xmlns="http://www.w3.org/2000/svg" width="60" height="60"><circle cx="30" cy="30" r="29"' ..
        ' fill="orange"/></svg>',
    } do
      assert(fs.write(dir .. "/" .. name, text))
    end
    local app, asked = http.app(), {}
    app:use(function(req, _, next)
      asked[#asked + 1] = req.path .. (req.headers["if-none-match"] and " if it has changed" or "")
      return next()
    end)
    app:static("/assets", dir)
    app:get("/", function()
      return http.html [[<!doctype html><title>assets</title><link rel="stylesheet" href="/assets/style.css">
        <img src="/assets/image.svg" alt="no image"><p id="by">by nobody</p>
        <form method="post" action="/upload" enctype="multipart/form-data"><input name="title" value="größer">
        <input type="file" name="file"></form>
        <script src="/assets/script.js"></script>]]
    end)
    app:post("/upload", function(req)
      local form, files = assert(req:form())
      return http.html(("<!doctype html><title>got</title><p>%s: %s of %d bytes</p>"):format(
        http.escape(form.title), http.escape(files.file.filename), files.file.size))
    end)
    client = testing.serve(app)
    local page = browser.open("http://" .. client.addr .. "/")
    page:sees "written by a script"
    page:wait "document.querySelector('img').naturalWidth == 60"
    assert.equal("rgb(0, 64, 128)", page:eval "getComputedStyle(document.body).backgroundColor")
    assert.equal(42, page:eval "import('/assets/module.mjs').then(m => m.answer)")
    page:screenshot "assets"
    asked = {}
    assert.matches("background", page:eval "fetch('/assets/style.css', { cache: 'no-cache' }).then(r => r.text())")
    assert.same({ "/assets/style.css if it has changed" }, asked)
    page:eval [[(() => {
      const files = new DataTransfer()
      files.items.add(new File(["x".repeat(300000)], "☃ & <b>.txt"))
      document.querySelector("input[type=file]").files = files.files
      document.querySelector("form").submit()
    })()]]
    page:sees "größer: ☃ & <b>.txt of 300000 bytes"
    page:screenshot "upload"
  end)

  it("shows a page over TLS, keeps connections, and sends Secure cookies back", function()
    local app, conns = http.app(), {}
    app:use(http.secure_headers {})
    app:get("/", function(req, res)
      conns[req.remote_addr] = true
      res:cookie("seen", "yes", { secure = true })
      return http.html('<!doctype html><title>tls</title><p>' .. req.tls.version .. " " .. req.scheme .. "</p>")
    end)
    app:get("/again", function(req)
      conns[req.remote_addr] = true
      return tostring(req:cookie "seen")
    end)
    client = testing.serve(app, { tls = true })
    local page = browser.open "about:blank"
    page:call("Security.setIgnoreCertificateErrors", { ignore = true }) -- nobody has signed it
    page:go("https://" .. client.addr .. "/")
    page:sees "TLSv1.3 https"
    for _ = 1, 10 do assert.equal("yes", page:eval "fetch('/again').then(r => r.text())") end
    assert.is_true(page:eval "isSecureContext")
    local n = 0
    for _ in pairs(conns) do n = n + 1 end
    assert.is_true(n <= 2, n)
    page:screenshot "tls"
  end)
end)
