-- `lunapark serve --dev`: which answers become pages that load themselves anew.

local lp = require "lunapark"
local child = require "spec.support.child"
local dev = require "spec.support.dev"

local HTML, NAVIGATES = dev.HTML, dev.NAVIGATES

local function lacks(text, part)
  assert.is_nil(text:find(part, 1, true), ("%q is in: %s"):format(part, text))
end

describe("--dev has pages load themselves anew", function()
  after_each(child.clean)

  local served

  local function serve(text, ...) served = dev.serve(child.script(text), ...) end

  local function get(target, headers) return served:get(target, headers) end

  local PAGES = [[
local http = require "lunapark.http"
local app = http.app()
local WHOLE = "<!doctype html>\n<html><body><p>a</body> is not the end</p></BODY></html>"
local function page(path, fn) app:get(path, fn) app:post(path, fn) end
page("/whole", function() return http.html(WHOLE) end)
page("/fragment", function() return http.html "<p>part</p>" end)
page("/text", function() return "a <b> c" end)
app:get("/latin", function() return 200, "\228", { ["Content-Type"] = "text/plain; charset=iso-8859-1" } end)
app:get("/json", function() return { html = WHOLE } end)
app:get("/js", function() return 200, "<html>", { ["Content-Type"] = "text/javascript" } end)
app:get("/typed", function() return 200, "x</body>", { ["Content-Type"] = "TEXT/HTML;charset=utf-8", ETag = '"1"' } end)
app:get("/plain", function(_, res) res.headers = { ["Content-Type"] = "text/html" } return WHOLE end)
app:get("/file", function() return 200, http.html(WHOLE), { ["Content-Disposition"] = "attachment" } end)
app:get("/gzip", function() return 200, http.html(WHOLE), { ["Content-Encoding"] = "gzip" } end)
app:get("/part", function() return 206, http.html(WHOLE) end)
app:get("/stream", function(_, res) res.headers["Content-Type"] = "text/html" res:write(WHOLE) end)
app:get("/missing", function() return 404, http.html(WHOLE) end)
app:get("/redirect", function(_, res) res:redirect "/whole" end)
app:get("/error", function() error "x" end)
local lp = require "lunapark"
local dict = require("lunapark.shared").dict "waiting"
app:get("/waits", function()
  dict:set("n", 1)
  lp.retired(15)
  return http.html "<p>old</p>"
end)
app:get("/waiting", function() return tostring(dict:get "n") end)
app:on_error(function() return 500, http.html(WHOLE) end)
return app
]]
  local TAG = '<script src="/%.lunapark/dev%.js" data%-state="%d+%.1%.0" data%-method="(%u+)" async></script>'

  it("if they are pages", function()
    serve(PAGES)
    local r = get("/whole", NAVIGATES)
    assert.matches("^<!doctype html>\n<html><body><p>a</body> is not the end</p>" .. TAG .. "</BODY></html>$", r.body)
    assert.equal("no-store", r.headers["cache-control"])
    assert.equal("GET", (get("/whole", HTML).body:match(TAG)))
    assert.matches("^<p>part</p>" .. TAG .. "$", get("/fragment", NAVIGATES).body)
    assert.matches(TAG, get("/plain", NAVIGATES).body)
    assert.matches(TAG, get("/error", NAVIGATES).body)
    assert.matches("^x" .. TAG .. "</body>$", get("/typed", NAVIGATES).body)
    assert.is_nil(get("/typed", NAVIGATES).headers.etag)
    r = get("/missing", NAVIGATES)
    assert.equal(404, r.status)
    assert.matches(TAG, r.body)
    r = assert(served.client:post("/whole", { headers = NAVIGATES }))
    assert.equal("POST", (r.body:match(TAG)))
  end)

  it("if a window of its own shows text", function()
    serve(PAGES)
    local r = get("/text", NAVIGATES)
    assert.equal("text/html; charset=utf-8", r.headers["content-type"])
    assert.same({ "nosniff" }, r.headers:get_all "x-content-type-options")
    assert.matches("<pre[^>]*>a &lt;b&gt; c</pre>" .. TAG, r.body)
    for _, headers in ipairs { HTML, {}, { ["Sec-Fetch-Dest"] = "empty" }, { ["Sec-Fetch-Dest"] = "iframe" } } do
      r = get("/text", headers)
      assert.same({ "a <b> c", "text/plain; charset=utf-8" }, { r.body, r.headers["content-type"] })
    end
  end)

  it("and nothing else", function()
    serve(PAGES)
    for _, target in ipairs { "/json", "/js", "/latin", "/file", "/gzip", "/part", "/stream", "/redirect" } do
      lacks(get(target, NAVIGATES).body, "/.lunapark/")
    end
    for _, headers in ipairs {
      {}, { Accept = "*/*" }, { Accept = "text/html", ["Sec-Fetch-Dest"] = "empty" },
      { Accept = "text/html", ["Sec-Fetch-Dest"] = "script" },
    } do
      lacks(get("/whole", headers).body, "/.lunapark/")
      lacks(get("/fragment", headers).body, "/.lunapark/")
    end
    lacks(get("/fragment", HTML).body, "/.lunapark/")
  end)

  it("so that HEAD says what GET says", function()
    serve(PAGES)
    for _, target in ipairs { "/whole", "/text", "/json" } do
      local g, h = get(target, NAVIGATES), assert(served.client:request("HEAD", target, { headers = NAVIGATES }))
      assert.same({ 200, "" }, { h.status, h.body })
      for _, name in ipairs { "content-length", "content-type", "cache-control" } do
        assert.equal(g.headers[name], h.headers[name])
      end
    end
  end)

  it("as of the generation that has made them, not of the one that serves by then", function()
    serve(PAGES)
    local c = child.client(served.server.addr)
    local g = lp.go(function() return c:get("/waits", { headers = NAVIGATES }) end)
    child.eventually(function() return get "/waiting".body == "1" end, "the request")
    served:save(PAGES .. "-- changed")
    assert.matches("%.2%.0$", served:state())
    assert.matches("^<p>old</p>" .. TAG .. "$", assert(g:join(20)).body)
  end)

  it("unless --live-reload=0, or the app, says no", function()
    serve(PAGES, "--live-reload=0")
    lacks(get("/whole", NAVIGATES).body, "/.lunapark/")
    assert.equal("a <b> c", get("/text", NAVIGATES).body)
    child.clean()
    serve((PAGES:gsub("return app%s*$", "app.options = { live_reload = false }\nreturn app")))
    lacks(get("/whole", NAVIGATES).body, "/.lunapark/")
  end)
end)
