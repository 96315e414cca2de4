--- `app:static`, and what it shares with `res:send_file`: which files of a folder clients get, conditional requests,
--- ranges, variants, and that no name leads out.

local fs = require "lunapark.fs"
local http = require "lunapark.http"
local lp = require "lunapark"
local testing = require "lunapark.testing"
local conditional = require "lunapark.http.conditional"
local ranges = require "lunapark.http.ranges"

local TEXT = ("0123456789"):rep(1000)
local NAME = "abc.js"

testing.block_timeout(300)

describe("static", function()
  local dir, client

  local function put(name, text) assert(fs.write(dir .. "/" .. name, text)) end

  local function serve(prefix, opts, more)
    local app = http.app()
    if more then more(app) end
    app:static(prefix, dir, opts)
    client = testing.serve(app)
    return client
  end

  local function get(path, fields, method) return client:request(method or "GET", path, { headers = fields }) end

  before_each(function()
    dir = os.tmpname()
    os.remove(dir)
    assert(os.execute(("mkdir -p %s/sub/deep %s/bare %s/.git"):format(dir, dir, dir)) == 0)
    put(NAME, TEXT)
    put("index.html", "<p>root")
    put("sub/index.html", "<p>sub")
    put("sub/a b.txt", "spaced")
    put(".git/config", "secret")
    put(".env", "secret")
    put("image.png", "png")
  end)

  after_each(function() os.execute("rm -rf '" .. dir .. "'") end)

  it("answers with files, types and validators", function()
    serve "/assets"
    local r = get("/assets/" .. NAME)
    assert.same({ 200, TEXT, "text/javascript; charset=utf-8", "nosniff", "bytes", "Accept-Encoding" }, {
      r.status, r.body, r.headers["content-type"], r.headers["x-content-type-options"], r.headers["accept-ranges"],
      r.headers.vary,
    })
    assert.matches('^"%x+%-%x+%-%x+"$', r.headers.etag)
    assert.is_number(conditional.time(r.headers["last-modified"]))
    local head = get("/assets/" .. NAME, nil, "HEAD")
    assert.same({ 200, "", "10000", r.headers.etag }, {
      head.status, head.body, head.headers["content-length"], head.headers.etag,
    })
    assert.equal("spaced", get("/assets/sub/a%20b.txt").body)
    assert.is_nil(get("/assets/image.png").headers.vary)
    r = get("/assets/" .. NAME, nil, "POST")
    assert.same({ 405, "GET, HEAD, OPTIONS" }, { r.status, r.headers.allow })
  end)

  it("has indexes, and sends clients to the path with a slash", function()
    client = testing.serve(http.app():static("/assets", dir), { redirects = 0 })
    assert.equal("<p>root", get("/assets/").body)
    assert.equal("<p>sub", get("/assets/sub/").body)
    for path, to in pairs {
      ["/assets"] = "/assets/", ["/assets/sub?q=1"] = "/assets/sub/?q=1", ["/assets/x/../sub"] = "/assets/sub/",
      ["//evil.example/../assets/sub"] = "/assets/sub/",
    } do
      local r = get(path)
      assert.same({ path, 301, to }, { path, r.status, r.headers.location })
    end
    assert.equal("<p>sub", get("//assets//sub//index.html").body)
    assert.equal(404, get("/assets/bare/").status)
    assert.equal(404, get("/assets/missing/").status)
    serve("/", { index = false })
    assert.equal(404, get("/").status)
    assert.equal(404, get("/sub").status)
    assert.equal(TEXT, get("/" .. NAME).body)
    serve("/", { index = NAME })
    assert.equal(TEXT, get("/").body)
  end)

  it("can be all of an app that is mounted", function()
    client = testing.serve(http.app():mount("/m", http.app():static("/", dir)), { redirects = 0 })
    assert.equal("<p>root", get("/m/").body)
    assert.equal(TEXT, get("/m/" .. NAME).body)
    assert.same({ 301, "/m/" }, { get("/m").status, get("/m").headers.location })
    assert.same({ 301, "/m/sub/" }, { get("/m/sub").status, get("/m/sub").headers.location })
  end)

  it("leaves other routes alone", function()
    serve("/", nil, function(app)
      app:get("/api", function() return "api" end)
      app:post("/" .. NAME, function() return "posted" end)
    end)
    assert.equal("api", get("/api").body)
    assert.equal("posted", get("/" .. NAME, nil, "POST").body)
    assert.equal("<p>root", get("/").body)
  end)

  it("has nothing that is hidden, outside, or no file", function()
    local outside = os.tmpname()
    assert(fs.write(outside, "outside"))
    local make = "cd %s && ln -s %s out && ln -s / root && ln -s %s link && mkfifo fifo && ln -s loop loop"
    assert.equal(0, os.execute(make:format(dir, outside, NAME)))
    serve "/s"
    assert.equal(TEXT, get("/s/link").body)
    for _, path in ipairs {
      "out", "root/etc/passwd", "fifo", "loop", ".env", ".git/config", "sub/%2e%2e/.env", "/etc/passwd",
      "/.env",
      "%2fetc%2fpasswd", "missing", NAME .. "/", NAME .. "/x", "sub%5cindex.html", ("n"):rep(300), "sub%2f.hidden",
      "x/../../s/.env",
    } do
      assert.same({ path, 404 }, { path, get("/s/" .. path).status })
    end
    for _, path in ipairs { "..%2f..%2fetc%2fpasswd", "a%00b", "../../etc/passwd", "/../../etc/passwd" } do
      assert.same({ path, 400 }, { path, get("/s/" .. path).status })
    end
    os.remove(outside)
  end)

  it("answers conditional requests", function()
    serve("/", { max_age = 60 })
    local r = get("/" .. NAME)
    local etag, date = r.headers.etag, r.headers["last-modified"]
    assert.equal("public, max-age=60", r.headers["cache-control"])
    local before, after = conditional.date(conditional.time(date) - 1), conditional.date(conditional.time(date) + 1)
    for _, case in ipairs {
      { 304, { ["If-None-Match"] = etag } }, { 304, { ["If-None-Match"] = "*" } },
      { 304, { ["If-None-Match"] = '"x", W/' .. etag } }, { 200, { ["If-None-Match"] = '"x"' } },
      { 200, { ["If-None-Match"] = '"x"', ["If-Modified-Since"] = after } },
      { 304, { ["If-Modified-Since"] = date } }, { 304, { ["If-Modified-Since"] = after } },
      { 200, { ["If-Modified-Since"] = before } }, { 200, { ["If-Modified-Since"] = "yesterday" } },
      { 412, { ["If-Match"] = '"x"' } }, { 412, { ["If-Match"] = "W/" .. etag } }, { 200, { ["If-Match"] = etag } },
      { 200, { ["If-Match"] = "*" } }, { 412, { ["If-Unmodified-Since"] = before } },
      { 200, { ["If-Unmodified-Since"] = date } }, { 304, { ["If-None-Match"] = etag, Range = "bytes=0-1" } },
    } do
      for _, method in ipairs { "GET", "HEAD" } do
        r = get("/" .. NAME, case[2], method)
        assert.same({ case[2], case[1] }, { case[2], r.status })
        if r.status == 304 then
          assert.same({ "", etag, "Accept-Encoding", "public, max-age=60" }, {
            r.body, r.headers.etag, r.headers.vary, r.headers["cache-control"],
          })
          assert.is_nil(r.headers["content-type"])
          assert.is_nil(r.headers["content-length"])
        end
      end
    end
    put(NAME, TEXT)
    serve "/"
    assert.equal(200, get("/" .. NAME, { ["If-None-Match"] = etag }).status)
  end)

  it("says how long answers may be kept", function()
    for _, case in ipairs {
      { { immutable = true }, "public, max-age=31536000, immutable" }, { { cache_control = "private" }, "private" },
      { { immutable = true, max_age = 5 }, "public, max-age=5, immutable" }, { {}, nil },
    } do
      serve("/", case[1])
      assert.equal(case[2], get("/" .. NAME).headers["cache-control"])
    end
  end)

  it("says nothing of a change in the future", function()
    os.execute(("touch -d 2099-01-01 %s/%s"):format(dir, NAME))
    serve "/"
    assert.is_nil(get("/" .. NAME).headers["last-modified"])
  end)

  it("answers with a range", function()
    serve "/"
    local etag, date = get("/" .. NAME).headers.etag, get("/" .. NAME).headers["last-modified"]
    for spec, want in pairs {
      ["0-0"] = { 0, 0 }, ["10-19"] = { 10, 19 }, ["9990-"] = { 9990, 9999 }, ["9990-20000"] = { 9990, 9999 },
      ["-5"] = { 9995, 9999 }, ["-20000"] = { 0, 9999 }, ["0-9,10-19"] = { 0, 19 }, ["5-6,20000-"] = { 5, 6 },
    } do
      local r = get("/" .. NAME, { Range = "bytes=" .. spec })
      assert.same({ spec, 206, ("bytes %d-%d/10000"):format(want[1], want[2]), etag }, {
        spec, r.status, r.headers["content-range"], r.headers.etag,
      })
      assert.equal(TEXT:sub(want[1] + 1, want[2] + 1), r.body)
    end
    for _, spec in ipairs { "bytes=10000-", "bytes=-0", "bytes=20000-30000" } do
      local r = get("/" .. NAME, { Range = spec })
      assert.same({ spec, 416, "bytes */10000" }, { spec, r.status, r.headers["content-range"] })
    end
    for _, spec in ipairs { "bytes=2-1", "bytes=a-b", "bytes=-", "lines=1-2", "bytes", "bytes=,", "bytes=1-2,x" } do
      assert.same({ spec, 200 }, { spec, get("/" .. NAME, { Range = spec }).status })
    end
    for status, list in pairs { [206] = { etag, date }, [200] = { "W/" .. etag, '"x"', conditional.date(0), "x" } } do
      for _, field in ipairs(list) do
        assert.same({ field, status }, {
          field, get("/" .. NAME, { Range = "bytes=0-1", ["If-Range"] = field }).status,
        })
      end
    end
    local r = get("/" .. NAME, { Range = "bytes=0-1" }, "HEAD")
    assert.same({ 200, "10000" }, { r.status, r.headers["content-length"] })
    put("empty.txt", "")
    assert.equal(200, get("/empty.txt", { Range = "bytes=0-" }).status)
  end)

  it("answers with several ranges", function()
    serve "/"
    local r = get("/" .. NAME, { Range = "bytes=5000-5009, 0-9,-10" })
    assert.equal(206, r.status)
    local mark = r.headers["content-type"]:match "^multipart/byteranges; boundary=(%x+)$"
    local want = {}
    for _, at in ipairs { 5000, 0, 9990 } do
      want[#want + 1] = ("\r\n--%s\r\nContent-Type: text/javascript; charset=utf-8\r\nContent-Range: bytes %d-%d/10000"
        .. "\r\n\r\n0123456789"):format(mark, at, at + 9)
    end
    assert.equal(table.concat(want) .. "\r\n--" .. mark .. "--\r\n", r.body)
    local many = {}
    for i = 0, 8 do many[#many + 1] = ("%d-%d"):format(i * 1000, i * 1000) end
    assert.equal(200, get("/" .. NAME, { Range = "bytes=" .. table.concat(many, ",") }).status)
    many[#many] = nil
    assert.equal(206, get("/" .. NAME, { Range = "bytes=" .. table.concat(many, ",") }).status)
  end)

  it("makes one range of those that touch, and refuses to look at very many", function()
    assert.same({ { at = 0, last = 99 } }, ranges.parse("bytes=0-49,40-99", 1000))
    assert.same({ { at = 0, last = 999 } }, ranges.parse("bytes=500-999,0-200,100-600", 1000))
    assert.same({ { at = 900, last = 909 }, { at = 0, last = 9 } }, ranges.parse("bytes=900-909,0-9", 1000))
    assert.is_nil(ranges.parse("bytes=" .. ("0-,"):rep(65), 1000))
    assert.same({ { at = 0, last = 999 } }, ranges.parse("bytes=" .. ("0-,"):rep(64), 1000))
  end)

  it("answers with variants", function()
    put(NAME .. ".br", "brotli")
    put(NAME .. ".gz", "gzip!")
    put("image.png.gz", "no text")
    serve "/"
    local etags = {}
    for accept, want in pairs {
      ["gzip, br"] = { "br", "brotli" }, ["gzip"] = { "gzip", "gzip!" }, ["zstd"] = { nil, TEXT },
      ["gzip;q=1, br;q=0.5"] = { "gzip", "gzip!" }, ["*"] = { "br", "brotli" }, ["br;q=0, *"] = { "gzip", "gzip!" },
      ["identity;q=0, zstd"] = { nil, TEXT }, ["identity;q=1, br;q=0.1"] = { nil, TEXT }, [""] = { nil, TEXT },
    } do
      local r = get("/" .. NAME, { ["Accept-Encoding"] = accept })
      assert.same({ accept, want[1], want[2], "text/javascript; charset=utf-8", "Accept-Encoding" }, {
        accept, r.headers["content-encoding"], r.body, r.headers["content-type"], r.headers.vary,
      })
      etags[r.headers.etag] = want[2]
      r = get("/" .. NAME, { ["Accept-Encoding"] = accept, Range = "bytes=0-1" })
      assert.same({ 206, want[2]:sub(1, 2) }, { r.status, r.body })
      r = get("/" .. NAME, { ["Accept-Encoding"] = accept, ["If-None-Match"] = r.headers.etag })
      assert.same({ 304, "Accept-Encoding" }, { r.status, r.headers.vary })
    end
    local n = 0
    for _ in pairs(etags) do n = n + 1 end
    assert.equal(3, n)
    assert.equal("png", get("/image.png", { ["Accept-Encoding"] = "gzip" }).body)
    serve("/", { precompressed = false })
    local r = get("/" .. NAME, { ["Accept-Encoding"] = "br" })
    assert.same({ TEXT, nil }, { r.body, r.headers.vary })
  end)

  it("has a fallback for pages that route by themselves", function()
    serve("/", { fallback = "index.html", immutable = true })
    for _, path in ipairs { "/users/7", "/users/jo.doe", "/bare/", "/bare/x" } do
      local r = get(path)
      assert.same({ path, 200, "<p>root", "no-cache" }, { path, r.status, r.body, r.headers["cache-control"] })
    end
    for _, path in ipairs { "/gone.js", "/.env", "/a/.b" } do
      assert.same({ path, 404 }, { path, get(path).status })
    end
    assert.equal("public, max-age=31536000, immutable", get("/" .. NAME).headers["cache-control"])
  end)

  it("works with compression, on top of which ranges count, and with middleware that sets headers", function()
    serve("/", nil, function(app)
      app:use(http.compress())
      app:use(function(_, res, next)
        next()
        res.headers["X-Mine"], res.headers.Vary = "1", "Origin"
      end)
    end)
    local r = get("/" .. NAME, { ["Accept-Encoding"] = "gzip" })
    assert.same({ 200, "gzip", "1", "Origin, Accept-Encoding" }, {
      r.status, r.headers["content-encoding"], r.headers["x-mine"], r.headers.vary,
    })
    local weak = r.headers.etag
    assert.matches('^W/"', weak)
    r = get("/" .. NAME, { ["Accept-Encoding"] = "gzip", ["If-None-Match"] = weak })
    assert.same({ 304, weak, "Origin, Accept-Encoding" }, { r.status, r.headers.etag, r.headers.vary })
    r = get("/" .. NAME, { ["Accept-Encoding"] = "gzip", Range = "bytes=0-1" })
    assert.same({ 206, "01", nil }, { r.status, r.body, r.headers["content-encoding"] })
    r = get("/" .. NAME, { ["Accept-Encoding"] = "gzip", Range = "bytes=0-1,5000-5001" })
    assert.same({ 206, nil, "1" }, { r.status, r.headers["content-encoding"], r.headers["x-mine"] })
  end)

  it("remembers small files and missing ones for the time of opts.cache", function()
    put("large.txt", ("x"):rep(16385))
    local function changes(opts, sleep)
      serve("/", opts)
      put("small.txt", "one")
      os.remove(dir .. "/late.txt")
      assert.same({ "one", 404, 16385 }, { get("/small.txt").body, get("/late.txt").status, #get("/large.txt").body })
      put("small.txt", "three")
      put("late.txt", "late")
      put("large.txt", ("x"):rep(16386))
      lp.sleep(sleep or 0)
      local seen = { get("/small.txt").body, get("/late.txt").status, #get("/large.txt").body }
      put("large.txt", ("x"):rep(16385))
      return seen
    end
    assert.same({ "one", 404, 16386 }, changes { cache = 1000 })
    assert.same({ "three", 200, 16386 }, changes { cache = 0 })
    assert.same({ "three", 200, 16386 }, changes({ cache = 0.01 }, 0.02))
    serve("/", { cache = 1000 })
    put("empty.txt", "")
    for _ = 1, 2 do
      local r = get("/" .. NAME, nil, "HEAD")
      assert.same({ 200, "", "10000" }, { r.status, r.body, r.headers["content-length"] })
      assert.same({ 206, "12" }, { get("/" .. NAME, { Range = "bytes=1-2" }).status,
        get("/" .. NAME, { Range = "bytes=1-2" }).body })
      assert.same({ 200, "" }, { get("/empty.txt").status, get("/empty.txt").body })
    end
  end)

  it("keeps no more than fits", function()
    serve("/", { cache = 1000 })
    for i = 1, 1100 do assert.equal(404, get("/missing/" .. i).status) end
    local text = ("y"):rep(16384)
    for i = 1, 300 do put(("bare/%d.txt"):format(i), text) end
    for round = 1, 2 do
      for i = 1, 300 do assert.equal(text, get(("/bare/%d.txt"):format(i)).body, round) end
    end
  end)

  describe("of a file that changes while it is sent", function()
    local SIZE = 16 * 2 ^ 20
    local path, conn

    -- Requests the file, and returns when the answer has begun.
    local function begin(range)
      path = dir .. "/long.bin"
      assert(fs.write(path, ("l"):rep(SIZE)))
      conn = testing.raw(http.app():static("/", dir))
      conn:write("GET /long.bin HTTP/1.1\r\nHost: x\r\n" .. (range or "") .. "\r\n")
      assert.is_truthy(conn:read_line())
      local length
      repeat
        local line = assert(conn:read_line())
        length = line:match "^Content%-Length: (%d+)" or length
      until line == ""
      return tonumber(length)
    end

    it("sends all of it, if it was removed", function()
      assert.equal(SIZE, begin())
      os.remove(path)
      assert.equal(SIZE, #assert(conn:read_exact(SIZE)))
      conn:close()
    end)

    for what, range in pairs {
      ["the file"] = "", ["a range"] = "Range: bytes=1-\r\n", ["ranges"] = "Range: bytes=0-9000000,10000000-\r\n",
    } do
      it("ends the connection, if it became shorter: " .. what, function()
        local length = begin(range)
        assert(io.open(path, "w")):close()
        local all, err = conn:read_exact(length)
        assert.is_nil(all)
        assert.not_equal("timeout", err)
        conn:close()
      end)
    end
  end)

  it("shares all this with send_file", function()
    local app = http.app()
    app:get("/file", function(_, res)
      return res:send_file(NAME, { below = dir, max_age = 5, precompressed = true })
    end)
    app:get("/mine", function(_, res)
      res.headers.ETag, res.headers["Accept-Ranges"] = '"mine"', "none"
      return res:send_file(dir .. "/" .. NAME)
    end)
    app:get("/text", function(_, res)
      res:send_file(dir .. "/" .. NAME, { max_age = 5 })
      return "text"
    end)
    client = testing.serve(app)
    put(NAME .. ".gz", "gzip!")
    local r = get("/file", { ["Accept-Encoding"] = "gzip", Range = "bytes=1-2" })
    assert.same({ 206, "zi", "public, max-age=5" }, { r.status, r.body, r.headers["cache-control"] })
    assert.equal(304, get("/file", { ["If-None-Match"] = get("/file").headers.etag }).status)
    assert.equal(304, get("/mine", { ["If-None-Match"] = '"mine"' }).status)
    assert.equal(200, get("/mine", { Range = "bytes=0-1" }).status)
    r = get "/text"
    assert.same({ "text", nil, nil }, { r.body, r.headers.etag, r.headers["cache-control"] })
  end)

  it("knows the three forms of dates", function()
    for _, text in ipairs {
      "Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994",
    } do
      assert.equal(784111777, conditional.time(text))
    end
    assert.equal("Sun, 06 Nov 1994 08:49:37 GMT", conditional.date(784111777))
    assert.equal(951782400, conditional.time "Tue, 29 Feb 2000 00:00:00 GMT")
    assert.is_nil(conditional.time "Sun, 06 Nox 1994 08:49:37 GMT")
    for t = 0, 4e9, 12345678 do assert.equal(t, conditional.time(conditional.date(t))) end
  end)

  it("says what is wrong with its arguments", function()
    local app = http.app()
    for _, case in ipairs {
      { "dir must be a string", "/a", 1 }, { "unknown option x", "/a", "d", { x = 1 } },
      { "opts must be a table", "/a", "d", 1 }, { "opts.index must be a string", "/a", "d", { index = 1 } },
      { "opts.max_age must be a number", "/a", "d", { max_age = "1" } }, { "cannot have a *rest", "/a/*b", "d" },
      { "opts.cache_control has control", "/a", "d", { cache_control = "a\nb" } }, { "must begin with /", "a", "d" },
      { "opts.cache must be seconds", "/a", "d", { cache = true } },
      { "opts.max_age must be seconds", "/a", "d", { max_age = -1 } },
    } do
      local ok, err = pcall(app.static, app, unpack(case, 2))
      assert.is_false(ok)
      assert.is_truthy(err:find(case[1], 1, true), err)
    end
    app:static("/b", "d")
    assert.is_false(pcall(app.static, app, "/b/", "d"))
  end)
end)
