--- `app:static` where C answers (host/http/static.c): that it answers what Lua would, whatever is asked; when it leaves
--- the answer to Lua; and what it holds.

local ffi = require "ffi"
local exec = require "lunapark.exec"
local fs = require "lunapark.fs"
local http = require "lunapark.http"
local lp = require "lunapark"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local helper = require "spec.helper"
local reload = require "spec.support.reload"

local C = ffi.C

local TEXT, LARGE = ("0123456789"):rep(1000), ("abcdefghij"):rep(5000)

-- Requests that handlers have got.
local function handed()
  local n, p = 0, 0
  repeat
    local of_p = tonumber(C.host_p_requests(p))
    n, p = n + math.max(of_p, 0), p + 1
  until of_p < 0
  return n
end

local function open_fds() return #assert(fs.list "/proc/self/fd") end

testing.block_timeout(300)

describe("static, by C,", function()
  local dir

  local function put(name, text) assert(fs.write(dir .. "/" .. name, text)) end

  -- The bytes of an answer, without its date, its lines sorted.
  local function ask(client, method, path, fields)
    local conn = assert(client:connect())
    conn:set_deadline(helper.PATIENCE)
    assert(conn:write(("%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n"):format(method, path, fields or "")))
    local head, body = assert(conn:read_all()):match "^(.-)\r\n\r\n(.*)$"
    conn:close()
    local lines = {}
    for line in head:gmatch "[^\r\n]+" do
      if not line:find "^Date: " then lines[#lines + 1] = line:gsub("boundary=%x+", "boundary") end
    end
    table.sort(lines)
    return table.concat(lines, "\n"), (body:gsub("\r\n%-%-%x+", "--"))
  end

  -- Whether C answers what fn asks, and what fn returns. C answers what the kernel has in memory. If the kernel has
  -- lost a file, Lua reads it in again.
  local function by_c(fn, ...)
    local a, b
    for _ = 1, 3 do
      local before = handed()
      a, b = fn(...)
      if handed() == before then return true, a, b end
    end
    return false, a, b
  end

  local function get(client, path) return client:get(path) end

  before_each(function()
    dir = os.tmpname()
    os.remove(dir)
    assert(os.execute(("mkdir -p %s/sub/deep %s/.git"):format(dir, dir)) == 0)
    put("a.js", TEXT)
    put("a.js.gz", ("gzip!"):rep(2000))
    put("a.js.br", "brotli")
    put("large.js", LARGE)
    put("large.js.gz", LARGE:sub(1, 30000))
    put("image.png", "png")
    put("UP.PNG", "png")
    put("noend", "")
    put("index.html", "<p>root")
    put("sub/index.html", "<p>sub")
    put("sub/a b+c.txt", "spaced")
    put("sub/\195\188.txt", "umlaut")
    put(".env", "secret")
    put(".git/config", "secret")
    assert.equal(0, os.execute(("cd %s && ln -s a.js link.js && ln -s / out && mkfifo fifo"):format(dir)))
    assert.equal(0, os.execute(("touch -d 2099-01-01 %s/future.txt && touch -d 1970-01-01T00:00:00Z %s/old.txt"):format(
      dir, dir)))
  end)

  after_each(function()
    reload.clean()
    os.execute("rm -rf '" .. dir .. "'")
  end)

  -- Two servers of the same: C answers for one, Lua for the other.
  local function both(opts, more)
    local clients = {}
    for i = 1, 2 do
      local app = http.app()
      if i == 2 then app:use(function(_, _, next) return next() end) end
      if more then more(app) end
      clients[i] = testing.serve(app:static("/s", dir, opts), { redirects = 0 })
    end
    return unpack(clients)
  end

  local PATHS = {
    "/s/a.js", "/s/a%2ejs", "/s/%61.js", "/s/large.js", "/s/image.png", "/s/UP.PNG", "/s/noend", "/s/", "/s/sub/",
    "/s/sub/a%20b+c.txt", "/s/sub/%c3%bc.txt", "/s/sub/\195\188.txt", "/s/link.js", "/s/future.txt", "/s/old.txt",
    "/s/a.js?x=1", "http://x/s/a.js",
  }
  -- Of these C does not know, or there is no file.
  local ODD_PATHS = {
    "/s", "/s/sub", "/s/missing", "/s/.env", "/s/.git/config", "/s/%2egit/config", "/s/sub/../a.js", "/s/./a.js",
    "/s//a.js", "/s/sub%2findex.html", "/s/a.js/", "/s/a.js/x", "/s/a%00.js", "/s/a%zz.js", "/s/a.js%", "/s/a.js%2",
    "/s/out/etc/passwd", "/s/fifo", "/s/sub%5cindex.html", "/s/sub\\index.html", "/s/sub/%2e%2e/a.js", "/s/../s/a.js",
    "/s/" .. ("n"):rep(300), "/S/a.js", "/sa.js",
  }

  it("answers what Lua does to every path", function()
    local c, lua = both()
    for _, list in ipairs { PATHS, ODD_PATHS } do
      for _, path in ipairs(list) do
        for _, method in ipairs { "GET", "HEAD" } do
          local c_did, head, body = by_c(ask, c, method, path)
          assert.same({ path, list == PATHS }, { path, c_did })
          local head_of_lua, body_of_lua = ask(lua, method, path)
          assert.same({ path, head_of_lua, body_of_lua }, { path, head, body })
        end
      end
    end
  end)

  it("answers what Lua does to every condition and range", function()
    local c, lua = both { max_age = 60 }
    for _, path in ipairs { "/s/a.js", "/s/large.js", "/s/image.png", "/s/future.txt", "/s/noend" } do
      local head = ask(lua, "GET", path)
      local etag, date = head:match "ETag: ([^\n]*)", head:match "Last%-Modified: ([^\n]*)" or "none"
      local plain = {
        "", "If-None-Match: " .. etag, "If-None-Match: W/" .. etag, "If-None-Match: *", "If-None-Match: \"x\"",
        "If-Modified-Since: " .. date, "If-None-Match: \"x\"\r\nIf-Modified-Since: " .. date,
        "If-None-Match: " .. etag .. "\r\nRange: bytes=0-1",
      }
      local odd = {
        "If-None-Match: \"x\", " .. etag, "If-None-Match: \"x\"\r\nIf-None-Match: " .. etag,
        "If-None-Match: \"x\", *",
        "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT", "If-Modified-Since: Fri, 06 Nov 2099 08:49:37 GMT",
        "If-Match: " .. etag, "If-Match: \"x\"", "If-Unmodified-Since: " .. date,
        "Range: bytes=0-1\r\nRange: bytes=0-1", "Range: bytes=0-1\r\nIf-Range: x",
        "Range: bytes=0-1\r\nIf-Range: Sun, 06 Nov 1994 08:49:37 GMT",
        "Range: bytes=0-1\r\nIf-Range: \"x\", " .. etag, "Accept-Encoding: gzip;q=0.5, br", "Accept-Encoding: *",
        "Accept-Encoding: identity;q=0",
      }
      for _, field in ipairs {
        "bytes=0-0,2-3", "bytes=0-0,5-6,9000-9001", "bytes=9000-9010, 0-9 ,-5", "bytes=0-0,-99999", "bytes=0-0,99999-",
        "bytes=99998-99999,99999-", "bytes=5-4", "bytes=0-0,5-4", "bytes=99999-", "bytes=-0", "lines=0-1", "bytes=",
        "bytes=-", "bytes=a-b", "bytes= 0-1", "bytes=0-1x", "bytes=1-99999999999999999999", "bytes=,0-0,,200-200,",
        "bytes=" .. ("9000-,"):rep(65), "bytes=" .. ("9000-9001,0-1,"):rep(32), "bytes =0-0,200-200", "x", "=0-1", "",
        "bytes=0-0,1000-1000,2000-2000,3000-3000,4000-4000,5000-5000,6000-6000,7000-7000",
        "bytes=0-0,1000-1000,2000-2000,3000-3000,4000-4000,5000-5000,6000-6000,7000-7000,8000-8000",
        "bytes=0-0,1000-9000,40000-49000",
      } do
        plain[#plain + 1] = "Range: " .. field
        plain[#plain + 1] = "Range: " .. field .. "\r\nAccept-Encoding: gzip\r\nIf-Range: " .. date
      end
      for _, spec in ipairs { "0-0", "0-1", "1-", "-1", "10-20", "9990-99999", "-99999" } do
        plain[#plain + 1] = "Range: bytes=" .. spec
        plain[#plain + 1] = "range: BYTES=" .. spec .. "\r\nIf-Range: " .. etag
        plain[#plain + 1] = "Range: bytes=" .. spec .. "\r\nIf-Range: W/" .. etag
        plain[#plain + 1] = "Range: bytes=" .. spec .. "\r\nIf-Range: \"x\""
        plain[#plain + 1] = "Range: bytes=" .. spec .. "\r\nAccept-Encoding: gzip"
      end
      for _, accept in ipairs {
        "gzip", "br", "GZIP", "gzip, deflate, br, zstd", "zstd", "deflate", "", " ,gzip ,br",
      } do
        plain[#plain + 1] = "Accept-Encoding: " .. accept
      end
      plain[#plain + 1] = "Accept-Encoding: br\r\nAccept-Encoding: gzip"
      for i, list in ipairs { plain, odd } do
        for _, fields in ipairs(list) do
          for _, method in ipairs { "GET", "HEAD" } do
            local what = ("%s %s %s"):format(method, path, fields)
            local c_did, own, body = by_c(ask, c, method, path, fields ~= "" and fields .. "\r\n")
            if i == 1 and path:find "js$" then assert.same({ what, true }, { what, c_did }) end
            local head_of_lua, body_of_lua = ask(lua, method, path, fields ~= "" and fields .. "\r\n")
            assert.same({ what, head_of_lua, body_of_lua }, { what, own, body })
          end
        end
      end
    end
  end)

  it("answers what Lua does with every option", function()
    for _, opts in ipairs {
      { index = false }, { index = "a.js" }, { precompressed = false }, { cache_control = "private" }, { cache = 0 },
      { immutable = true, fallback = "index.html" }, { cache_control = ("x"):rep(2000) },
    } do
      local c, lua = both(opts)
      for _, path in ipairs { "/s/", "/s/a.js", "/s/missing", "/s/large.js", "/s/sub/" } do
        local head, body = ask(c, "GET", path, "Accept-Encoding: gzip\r\n")
        local head_of_lua, body_of_lua = ask(lua, "GET", path, "Accept-Encoding: gzip\r\n")
        assert.same({ path, head_of_lua, body_of_lua }, { path, head, body })
      end
    end
  end)

  it("leaves bodies and other methods to Lua", function()
    local c, lua = both()
    for method, status in pairs { POST = 405, OPTIONS = 204, DELETE = 405 } do
      assert.equal(status, c:request(method, "/s/a.js").status)
    end
    local length = "Content-Length: 3\r\n"
    local conn = assert(c:connect())
    conn:set_deadline(helper.PATIENCE)
    assert(conn:write("GET /s/a.js HTTP/1.1\r\nHost: x\r\n" .. length .. "\r\nabc"))
    assert(conn:write("GET /s/a.js HTTP/1.1\r\nHost: x\r\n\r\n"))
    for _ = 1, 2 do
      local r = assert(testing.read_reply(conn))
      assert.same({ 200, TEXT }, { r.status, r.body })
    end
    conn:close()
    assert.same({ ask(lua, "HEAD", "/s/a.js", length) }, { ask(c, "HEAD", "/s/a.js", length) })
  end)

  it("comes after other routes, as in Lua", function()
    local function more(app)
      app:get("/s/a.js", function() return "route" end)
      app:get("/s/sub/:name", function(req) return "named " .. req.params.name end)
      app:any("/s/x/*rest", function(req) return "rest " .. req.params.rest end)
      app:post("/s/image.png", function() return "posted" end)
      app:head("/s/large.js", function(_, res) res.headers["X-Head"] = "1" end)
      app:get("/:any/image.png", function() return "never" end)
      app:get("/s/noend/", function() return "with a slash" end) -- and without, as /s/sub/:name has one
      app:any("/s/*all", function() return "never" end)
      app:static("/s/deep", dir .. "/sub")
    end
    put("sub/deep/index.html", "deep")
    local c, lua = both(nil, more)
    for path, by in pairs {
      ["/s/noend"] = false, ["/s/sub/deep/"] = false,
      ["/s/a.js"] = false, ["/s/%61.js"] = false, ["/s/sub/index.html"] = false, ["/s/sub/"] = true, ["/s/x/"] = false,
      ["/s/x/a.js"] = false, ["/s/image.png"] = true, ["/s/large.js"] = false, ["/s/deep/index.html"] = true,
      ["/s/deep/"] = true, ["/s/index.html"] = true,
    } do
      for _, method in ipairs { "GET", "HEAD", "POST" } do
        local c_did, head, body = by_c(ask, c, method, path)
        assert.same({ method, path, by and method ~= "POST" }, { method, path, c_did })
        local head_of_lua, body_of_lua = ask(lua, method, path)
        assert.same({ method, path, head_of_lua, body_of_lua }, { method, path, head, body })
      end
    end
  end)

  it("leaves apps with middleware, names in a prefix, and apps that change, to Lua", function()
    local app = http.app():static("/s", dir)
    local client = testing.serve(http.app():mount("/m", app):mount("/:name", app))
    assert.is_true((by_c(get, client, "/m/s/a.js")))
    assert.is_false((by_c(get, client, "/x/s/a.js")))
    app:get("/s/image.png", function() return "route" end)
    local c, r = by_c(get, client, "/m/s/image.png")
    assert.same({ false, "route" }, { c, r.body })
    assert.is_false((by_c(get, client, "/m/s/a.js")))
    local guarded = http.app():use(function(_, res) res.status = 403 end):mount("/in", app)
    client = testing.serve(http.app():mount("/m", guarded):static("/s", dir))
    assert.equal(403, client:get("/m/in/s/a.js").status)
    assert.is_true((by_c(get, client, "/s/a.js")))
  end)

  it("keeps pipelined answers in order, and counts exchanges", function()
    local conn = testing.raw(http.app():static("/s", dir):get("/lua", function() return "lua" end))
    local requests, n = {}, 300
    for i = 1, n do
      requests[i] = ("GET %s HTTP/1.1\r\nHost: x\r\n\r\n"):format(
        i % 7 == 0 and "/s/large.js" or i % 5 == 0 and "/lua" or "/s/a.js")
    end
    local before = lp.stats().exchanges
    local writer = lp.go(function() return conn:write(table.concat(requests)) end)
    for i = 1, n do
      local r = assert(testing.read_reply(conn))
      assert.equal(i % 7 == 0 and LARGE or i % 5 == 0 and "lua" or TEXT, r.body, i)
    end
    assert(writer:join(helper.PATIENCE))
    conn:close()
    helper.eventually(function() return lp.stats().exchanges["2xx"] - before["2xx"] == n end)
    assert.is_true(lp.stats().exchanges.bytes_out - before.bytes_out > 40 * #LARGE + 200 * #TEXT)
  end)

  it("notices at once that a larger file was replaced, written to or removed, and a small one in time", function()
    local client = testing.serve(http.app():static("/s", dir, { cache = 1000 }))
    local function is(path, text)
      local c, r = by_c(get, client, path)
      assert.same({ true, #text, text:sub(1, 20) }, { c, #r.body, r.body:sub(1, 20) })
    end
    is("/s/large.js", LARGE)
    put("large.js", ("new"):rep(9000))
    is("/s/large.js", ("new"):rep(9000))
    local f = assert(io.open(dir .. "/large.js", "r+"))
    f:write(("NEW"):rep(9000))
    f:close()
    is("/s/large.js", ("NEW"):rep(9000))
    os.remove(dir .. "/large.js")
    assert.equal(404, client:get("/s/large.js").status)
    client = testing.serve(http.app():static("/s", dir, { cache = 0.05 }))
    is("/s/a.js", TEXT)
    put("a.js", "new")
    lp.sleep(0.06)
    is("/s/a.js", "new")
  end)

  it("holds no descriptor for long", function()
    local n = 300 -- more than are kept
    for i = 1, n do put(("sub/%d.bin"):format(i), LARGE) end
    local client = testing.serve(http.app():static("/s", dir, { cache = 3 }))
    assert.equal(TEXT, client:get("/s/a.js").body)
    local before = open_fds()
    for i = 1, n do assert.equal(LARGE, client:get(("/s/sub/%d.bin"):format(i)).body) end
    assert.is_true(open_fds() <= before + 260)
    helper.eventually(function() return open_fds() <= before end, "descriptors are closed", 20)
  end)

  local COUNTED = [[
    local ffi, http = require "ffi", require "lunapark.http"
    require "lunapark.cdef"
    local app = http.app()
    app:get("/handed", function()
      local n, p = 0, 0
      repeat
        local of_p = tonumber(ffi.C.host_p_requests(p))
        n, p = n + math.max(of_p, 0), p + 1
      until of_p < 0
      return tostring(n)
    end)
  ]]

  it("changes with a reload, and only if it succeeds", function()
    local s = reload.serve({
      ["app.lua"] = COUNTED .. "app:static('/', 'one') return app",
      ["one/f.txt"] = "one", ["two/f.txt"] = "two", ["one/g.txt"] = "g",
    }, "--procs", "2")
    local function is(text, by)
      local n = tonumber(s.client:get("/handed").body)
      for _ = 1, 20 do assert.equal(text, s.client:get("/f.txt").body) end
      n = tonumber(s.client:get("/handed").body) - n
      if by == "C" then n = n <= 5 and 1 or n end -- as in by_c
      assert.equal(by == "C" and 1 or 21, n)
    end
    is("one", "C")
    assert.matches("reload failed", s:reload { ["app.lua"] = COUNTED .. "app:static('/', 'two') error 'no'" })
    is("one", "C")
    s:reload { ["app.lua"] = COUNTED .. "app:static('/', 'two') return app" }
    is("two", "C")
    local use = "app:use(function(_, _, next) return next() end) "
    local route = "app:get('/f.txt', function() return 'route' end) "
    s:reload { ["app.lua"] = COUNTED .. use .. "app:static('/', 'one') return app" }
    is("one", "Lua")
    s:reload { ["app.lua"] = COUNTED .. route .. "app:static('/', 'one') return app" }
    is("route", "Lua")
    assert.equal("g", s.client:get("/g.txt").body)
    s:reload { ["app.lua"] = COUNTED .. "return app" }
    assert.equal(404, s.client:get("/f.txt").status)
  end)

  it("answers whole files under load while reloads change them", function()
    local app = "return require('lunapark.http').app():static('/', '%s', { cache = 0.01 })"
    local files = { ["app.lua"] = app:format "one" }
    for name, text in pairs { one = "1", two = "2" } do
      files[name .. "/small.txt"] = text:rep(1000)
      files[name .. "/large.txt"] = text:rep(300000)
    end
    local s = reload.serve(files, "--procs", "2")
    local over, n = false, 0
    local function ask_on(i)
      local client = child.client(s.addr)
      while not over do
        local r = client:get(i % 2 == 0 and "/small.txt" or "/large.txt")
        assert.same({ 200, i % 2 == 0 and 1000 or 300000 }, { r.status, #r.body })
        assert.is_nil(r.body:find(r.body:sub(1, 1) == "1" and "2" or "1", 1, true))
        n = n + 1
      end
    end
    local load = lp.go(function()
      helper.all(4, ask_on)
      return true
    end)
    for i = 1, 6 do
      s:reload { ["app.lua"] = app:format(i % 2 == 0 and "one" or "two") .. (" -- %d"):format(i) }
      local before = n
      helper.eventually(function() return n > before + 20 end)
      assert.equal(i % 2 == 0 and "1" or "2", s.client:get("/small.txt").body:sub(1, 1))
    end
    over = true
    assert(load:join(helper.PATIENCE))
  end)

  it("closes the files of an app that was replaced", function()
    local app = "return require('lunapark.http').app():static('/', 'files', { cache = 1000 })"
    local s = reload.serve { ["app.lua"] = app, ["files/f.bin"] = LARGE }
    local function open()
      local r = assert(exec.run { "ls", "-l", ("/proc/%d/fd"):format(s.server.pid) })
      return helper.count(r.stdout, "f.bin")
    end
    assert.equal(LARGE, s.client:get("/f.bin").body)
    helper.eventually(function() return s.client:get("/f.bin").body == LARGE and open() == 1 end)
    s:reload { ["app.lua"] = app .. " --" }
    helper.eventually(function() return open() == 0 end)
  end)

  it("answers while every VM is stuck", function()
    local s = reload.serve({
      ["app.lua"] = [[
        local app = require("lunapark.http").app()
        app:get("/stuck", function() while true do end end)
        return app:static("/", "files")
      ]],
      ["files/f.txt"] = "file",
    }, "--procs", "1", "--max-vms", "1", "--handler-timeout", "1", "--kill-after", "1000")
    local stuck = child.send(s.addr, "GET /stuck HTTP/1.1\r\nHost: x\r\n\r\n")
    lp.sleep(0.1)
    assert.equal("file", s.client:get("/f.txt").body)
    assert.equal(504, child.reply(stuck).status)
    stuck:close()
    assert.equal("file", s.client:get("/f.txt").body)
    s.server:kill "KILL"
    s.server:wait()
  end)

  it("leaves pages to Lua with --dev", function()
    local s = reload.serve({
      ["app.lua"] = COUNTED .. "return app:static('/', 'one')", ["one/f.html"] = "<p>one",
    }, "--dev")
    local n = tonumber(s.client:get("/handed").body)
    assert.matches("^<p>one", s.client:get("/f.html").body)
    assert.equal(2, tonumber(s.client:get("/handed").body) - n)
  end)
end)
