-- `lunapark serve --dev` in a browser, a headless Chromium (Debian: chromium-headless-shell): edit, save, see it; break
-- it, see the page with the line; fix it, the page comes back. The browser is told to load the first page, no other.
--
-- LUNAPARK_SCREENSHOTS=/tmp/shots build/lunapark test spec/dev_browser_spec.lua     keeps pictures, for looking at

local testing = require "lunapark.testing"
local child = require "spec.support.child"
local browser = require "spec.support.browser"

local function read(path)
  local f = assert(io.open(path))
  local text = f:read "*a"
  f:close()
  return text
end

local function write(path, text)
  local f = assert(io.open(path, "w"))
  f:write(text)
  f:close()
end

local HELLO = read "scripts/hello.lua"

local PAGES = [[
local http = require "lunapark.http"
local app = http.app()
local function find(id)
  if id == "7" then error("no user " .. id) end
  return id
end
app:get("/", function() return http.html "<!doctype html><title>t</title><h1>one</h1>" end)
app:get("/form", function()
  return http.html '<!doctype html><form method="post" action="/send?s=1"><button id="b">Send</button></form>'
end)
app:post("/send", function(req) return http.html("<!doctype html><h1>sent " .. req.query.s .. "</h1>") end)
app:get("/users/:id", function(req)
  local user = find(req.params.id)
  return http.html("<h1>user " .. user .. "</h1>")
end)
return app
]]

describe("--dev in a browser", function()
  local path, server, url

  after_each(child.clean)
  teardown(browser.close)
  testing.allow_leak("process", "socket") -- the browser, which stays for all of them, and its pipes

  local function serve(text)
    path = child.script(text)
    server = child.serve { path, "--dev" }
    url = "http://" .. server.addr
  end

  -- True until the page is another one: nobody reloads it by hand here, and it shows that it was loaded anew.
  local function mark(page)
    page:eval "window.marked = true"
  end

  local function test(name, fn)
    it(name, function()
      if not browser.path then return pending "there is no Chromium" end
      fn()
    end)
  end

  test("hello.lua: edit, save, see it; break it, see the line; fix it, the page comes back", function()
    serve(HELLO)
    local page = browser.open(url .. "/")
    page:sees "Hello, World!"
    page:screenshot "1-hello"

    write(path, (HELLO:gsub("Hello, World!", "Hello, Moon!")))
    page:sees "Hello, Moon!"
    page:screenshot "2-edited"

    write(path, (HELLO:gsub("return \"Hello, World!\" end", "return \"Hello, World! end")))
    page:sees "The app does not load"
    page:sees "unfinished string"
    page:sees(path .. ":7")
    assert.equal('  app:get("/", function() return "Hello, World! end)',
      "  " .. page:eval "document.querySelector('.hit span').textContent":gsub("^%s+", ""))
    assert.equal("7", page:eval "document.querySelector('.hit i').textContent")
    page:screenshot "3-broken"
    page:set_dark(true)
    page:screenshot "3-broken-dark"

    write(path, (HELLO:gsub("Hello, World!", "Hello, Mars!")))
    page:sees "Hello, Mars!"
    assert.equal("/", page:eval "location.pathname")
    page:screenshot "4-fixed"
    page:close()
  end)

  test("a handler that raises: the page comes back when it is put right", function()
    serve(PAGES)
    local page = browser.open(url .. "/users/7?from=%3Cscript%3Edocument.title%3D1%3C/script%3E")
    page:sees "no user 7"
    page:sees(path .. ":4")
    page:sees "<script>document.title=1</script>"
    assert.matches("^500 no user 7", page:eval "document.title")
    page:screenshot "5-error"
    page:eval "document.querySelectorAll('details')[1].open = true"
    page:set_dark(true)
    page:screenshot "5-error-dark"
    page:call("Emulation.setDeviceMetricsOverride", { width = 400, height = 800, deviceScaleFactor = 1, mobile = true })
    page:screenshot "5-error-narrow"
    -- Nothing sticks out of a narrow window.
    assert.is_true(page:eval "document.documentElement.scrollWidth <= 400")

    write(path, (PAGES:gsub('if id == "7" then', "if false then")))
    page:sees "user 7"
    page:close()
  end)

  test("pages of HTML load themselves anew, also after a restart", function()
    serve(PAGES)
    local page = browser.open(url .. "/")
    page:sees "one"
    mark(page)
    write(path, (PAGES:gsub("one", "two")))
    page:sees "two"
    assert.is_nil(page:eval "window.marked")

    mark(page)
    server:kill "TERM"
    assert.equal(0, server:wait())
    write(path, (PAGES:gsub("one", "three")))
    server = child.serve { path, "--dev", "--listen", server.addr }
    page:sees "three"
    -- It is the state that counts: nothing has changed since.
    mark(page)
    assert.is_true(page:eval "new Promise(function (done) { setTimeout(function () { done(window.marked) }, 1500) })")
    page:close()
  end)

  test("the answer to a POST says that it is out of date, and sends nothing again", function()
    serve(PAGES)
    local page = browser.open(url .. "/form")
    page:wait "!!document.getElementById('b')"
    page:eval "document.getElementById('b').click()"
    page:sees "sent 1"
    page:wait "document.querySelector('script').dataset.method === 'POST'"
    mark(page)
    write(path, (PAGES:gsub("one", "two")))
    page:sees "The app has changed. This page is the answer to a POST"
    assert.is_true(page:eval "window.marked")
    page:screenshot "6-post"
    page:close()
  end)
end)
