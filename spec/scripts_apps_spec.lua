--- The larger apps of scripts/: a REST API, a site, a live page, a TCP service.

local fs = require "lunapark.fs"
local json = require "lunapark.json"
local lp = require "lunapark"
local net = require "lunapark.net"
local testing = require "lunapark.testing"
local browser = require "spec.support.browser"
local child = require "spec.support.child"
local helper = require "spec.helper"

testing.block_timeout(300)

describe("scripts/", function()
  local folder

  after_each(function()
    child.clean()
    if folder then fs.remove(folder, { recursive = true }) end
    folder = nil
  end)

  for _, name in ipairs { "notes", "album", "live", "queue" } do
    it(name .. " says in two lines what to try", function()
      local text = helper.text_of("scripts/" .. name .. ".lua")
      assert.matches("^%-%- [^\n]+\n%-%- [^\n]+\n\n", text)
    end)
  end

  local function serve(name, env)
    local server = child.serve { "scripts/" .. name .. ".lua", "--procs", "2", env = env }
    return child.client(server.addr), server
  end

  describe("notes", function()
    local client

    before_each(function() client = serve "notes" end)

    local function send(method, path, body)
      local r = client:request(method, path, { body = body and json.encode(body) })
      return r.status, r.body ~= "" and r:json() or nil, r
    end

    it("makes, shows, changes, lists and deletes", function()
      assert.same({ notes = {} }, client:get("/notes"):json())
      assert.matches("%[%]", client:get("/notes").body)
      local status, note, r = send("POST", "/notes", { text = "milk" })
      assert.same({ 201, { id = 1, text = "milk", done = false }, "/notes/1" }, { status, note, r.headers.location })
      send("POST", "/notes", { text = "bread", done = true })
      assert.same({ id = 1, text = "milk", done = true }, (select(2, send("PATCH", "/notes/1", { done = true }))))
      note = select(2, send("PUT", "/notes/1", { text = "oat milk" }))
      assert.same({ id = 1, text = "oat milk", done = false }, note)
      assert.same({ id = 1, text = "oat milk", done = false }, client:get("/notes/1"):json())
      assert.same({ { id = 2, text = "bread", done = true } }, client:get("/notes?done=true"):json().notes)
      assert.equal(2, #client:get("/notes"):json().notes)
      assert.equal(204, (send("DELETE", "/notes/1")))
      assert.equal(404, (send("DELETE", "/notes/1")))
      assert.equal(404, client:get("/notes/1").status)
    end)

    it("answers every failure as JSON", function()
      send("POST", "/notes", { text = "x" })
      for _, case in ipairs {
        { 400, "POST", "/notes", "no" }, { 422, "POST", "/notes", '{"text": ""}' }, { 422, "POST", "/notes", "{}" },
        { 422, "PATCH", "/notes/1", '{"txt": "a"}' }, { 422, "PUT", "/notes/1", '{"done": true}' },
        { 422, "PATCH", "/notes/1", '{"done": 1}' }, { 404, "PATCH", "/notes/9", "{}" },
        { 413, "POST", "/notes", ("x"):rep(70000) }, { 400, "GET", "/%zz" },
      } do
        local status, method, path, body = unpack(case)
        local r = client:request(method, path, { body = body })
        assert.equal(status, r.status, path)
        assert.is_string(r:json().error)
      end
    end)

    it("loses no change of many at a time", function()
      local ids = {}
      helper.all(40, function(i)
        local _, note = send("POST", "/notes", { text = "n" .. i })
        ids[note.id] = true
      end)
      local n = 0
      for _ in pairs(ids) do n = n + 1 end
      assert.equal(40, n)
      assert.equal(40, #client:get("/notes"):json().notes)
    end)
  end)

  describe("album", function()
    local client, server

    local function start(with)
      folder = with or child.file()
      client, server = serve("album", { ALBUM = folder })
      client.redirects = 1
    end

    local function form(fields)
      local parts = {}
      for name, value in pairs(fields) do
        local file = type(value) == "table"
        parts[#parts + 1] = ('--b\r\nContent-Disposition: form-data; name="%s"%s\r\n%s\r\n%s\r\n'):format(name,
          file and '; filename="x"' or "", file and "Content-Type: " .. value.type .. "\r\n" or "",
          file and value.data or value)
      end
      return { body = table.concat(parts) .. "--b--\r\n",
        headers = { ["Content-Type"] = "multipart/form-data; boundary=b" } }
    end

    local function login(name)
      return client:post("/name", {
        body = "name=" .. name, headers = { ["Content-Type"] = "application/x-www-form-urlencoded" },
      })
    end

    it("knows who one is, takes pictures, and keeps both", function()
      start()
      assert.matches("Your name", client:get("/").body)
      assert.equal(422, login("").status)
      local r = login "%3Cb%3EAnn"
      assert.equal(200, r.status) -- after the redirect
      assert.matches("&lt;b&gt;Ann", r.body)
      r = client:post("/pictures", form { title = '"quoted" <i>', picture = { type = "image/png", data = "png" } })
      assert.matches('alt="&quot;quoted&quot; &lt;i&gt;"', r.body)
      local path = r.body:match 'src="(/files/%x+%.png)"'
      local file = client:get(path)
      assert.same({ "png", "image/png" }, { file.body, file.headers["content-type"] })
      r = client:post("/pictures", form { title = "x", picture = { type = "text/html", data = "<script>" } })
      assert.same({ 422, true }, { r.status, r.body:find("PNG or a JPEG", 1, true) ~= nil })
      assert.equal(404, client:get("/files/.album").status)
      assert.equal(404, client:get("/none").status)
      server:kill "TERM"
      assert.equal(0, server:wait())
      start(folder)
      login "bob"
      assert.matches("&quot;quoted&quot;", client:get("/").body)
    end)

    it("takes nothing from those who have not said who they are, or from another site's page", function()
      start()
      local r = client:post("/pictures", form { picture = { type = "image/png", data = "png" } })
      assert.matches("Your name", r.body)
      r = client:post("/name", { body = "name=x", headers = {
        ["Content-Type"] = "application/x-www-form-urlencoded", Origin = "https://evil.example",
      } })
      assert.equal(403, r.status)
      assert.matches("Your name", client:get("/").body)
    end)
  end)

  describe("live", function()
    it("tells each listener of each vote, whichever VM it has", function()
      local client, server = serve "live"
      local listeners = {}
      for i = 1, 6 do
        local conn = child.dial(server.addr)
        listeners[i] = conn
        conn:write "GET /events HTTP/1.1\r\nHost: x\r\n\r\n"
        assert(conn:read_until '"red":0')
      end
      assert.equal(204, client:post("/vote/red").status)
      assert.equal(404, client:post("/vote/pink").status)
      for _, conn in ipairs(listeners) do
        conn:set_deadline(helper.PATIENCE)
        assert(conn:read_until '"red":1')
        assert(conn:read_until '"seconds":2') -- the job
        conn:close()
      end
    end)
  end)

  describe("queue", function()
    local addr, client, server

    before_each(function()
      local ln = assert(net.listen "127.0.0.1:0")
      addr = ln:addr()
      ln:close()
      server = child.serve {
        "scripts/queue.lua", "--procs", "2", "--listen", "127.0.0.1:0", listeners = 1, env = { QUEUE = addr },
      }
      client = child.client(server.addr)
    end)

    local function ask(conn, line)
      conn:set_deadline(helper.PATIENCE)
      assert(conn:write(line .. "\n"))
      return conn:read_line()
    end

    it("hands each message to one taker, in order", function()
      local a, b = child.dial(addr), child.dial(addr)
      assert.equal("ok", ask(a, "put mail hello, all"))
      assert.equal("ok", ask(a, "put mail second"))
      assert.equal("2", ask(b, "len mail"))
      assert.equal("text hello, all", ask(b, "take mail"))
      assert.equal("text second", ask(a, "take mail"))
      assert.equal("nothing", ask(a, "take mail 0.01"))
      local g = lp.go(ask, b, "take mail")
      lp.sleep(0.02)
      ask(a, "put mail late")
      assert.equal("text late", (g:join()))
      assert.matches("^error: ", ask(a, "nonsense"))
      assert.matches("^error: ", ask(a, "put mail"))
      a:close()
      b:close()
      assert.same({ put = 3, taken = 3 }, client:get("/"):json())
    end)

    it("serves many at a time, on all cores", function()
      local got = {}
      helper.all(50, function(i)
        local conn = child.dial(addr)
        assert.equal("ok", ask(conn, "put work " .. i))
        got[tonumber(ask(conn, "take work"):match "%d+")] = true
        conn:close()
      end)
      assert.equal(50, #got)
    end)

    it("ends at a stop, though somebody waits", function()
      local conn = child.dial(addr)
      assert(conn:write "take mail\n")
      lp.sleep(0.05)
      server:kill "TERM"
      assert.equal(0, server:wait())
      conn:close()
    end)
  end)

  describe("in a browser,", function()
    if not browser.path then
      pending "no Chromium"
      return
    end

    teardown(browser.close)
    testing.allow_leak("process", "socket") -- the browser, which stays, and its pipes

    it("album is a site", function()
      folder = child.file()
      local _, server = serve("album", { ALBUM = folder })
      local page = browser.open("http://" .. server.addr .. "/")
      page:sees "Your name"
      page:eval [[(() => { document.querySelector("input").value = "Größe & Co"
        document.querySelector("form").submit() })()]]
      page:sees "Größe & Co"
      page:eval [[(async () => {
        const canvas = document.createElement("canvas")
        canvas.width = 320, canvas.height = 200
        const g = canvas.getContext("2d")
        g.fillStyle = "teal"; g.fillRect(0, 0, 320, 200)
        g.fillStyle = "gold"; g.beginPath(); g.arc(160, 100, 60, 0, 7); g.fill()
        const blob = await new Promise(done => canvas.toBlob(done, "image/png"))
        const files = new DataTransfer()
        files.items.add(new File([blob], "sun.png", { type: "image/png" }))
        document.querySelector("input[type=file]").files = files.files
        document.querySelector("input[name=title]").value = "Sun"
        document.querySelector("form[enctype]").submit()
        return true
      })()]]
      page:sees "Sun, by Größe & Co"
      page:wait "document.querySelector('img').naturalWidth == 320"
      page:screenshot "album"
      page:eval "document.querySelector('nav form').submit()"
      page:sees "Your name"
      page:close()
    end)

    it("live shows the same to several", function()
      local _, server = serve "live"
      local url = "http://" .. server.addr .. "/"
      local pages = { browser.open(url), browser.open(url), browser.open(url, nil, true) }
      for _, page in ipairs(pages) do page:wait "document.querySelector('#red b')?.textContent == '0'" end
      pages[1]:eval "document.querySelector('#green').click()"
      pages[2]:eval "document.querySelector('#green').click()"
      for _, page in ipairs(pages) do
        page:wait "document.querySelector('#green b').textContent == '2'"
        page:wait "Number(document.querySelector('#seconds').textContent) >= 2"
      end
      pages[3]:screenshot "live"
      for _, page in ipairs(pages) do page:close() end
    end)
  end)
end)
