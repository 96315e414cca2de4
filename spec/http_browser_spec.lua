-- What a browser, a headless Chromium (Debian: chromium-headless-shell), makes of answers, and what it sends.

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
end)
