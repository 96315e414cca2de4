local http = require "lunapark.http"
local lp = require "lunapark"
local testing = require "lunapark.testing"
local helper = require "spec.helper"

describe("http app", function()
  local app, client

  before_each(function() app, client = http.app(), nil end)
  after_each(function() if client then client:close() end end)

  local function get(target)
    client = client or testing.serve(app)
    return assert(client:get(target))
  end

  it("is told from other values", function()
    assert.is_true(http.is_app(app))
    assert.is_true(http.is_app(function() end))
    for _, value in ipairs { {}, "app", 1, true } do
      assert.is_false(http.is_app(value))
      assert.matches("app must be an app or a function", helper.raised(http.handler, value))
    end
    assert.is_false(http.is_app(nil))
  end)

  it("refuses misuse where it is defined, naming the argument", function()
    assert.matches("get: path \"a\" must begin with /", helper.raised(app.get, app, "a", print))
    assert.matches("post /a: fn must be a function, got nil", helper.raised(app.post, app, "/a"))
    assert.matches("use: fn must be a function, got table", helper.raised(app.use, app, {}))
    assert.matches("on_error: fn must be", helper.raised(app.on_error, app, 1))
    assert.matches("on_start: fn must be", helper.raised(app.on_start, app, 1))
    assert.matches("call it with a colon", helper.raised(app.get, "/a", print))
    assert.matches("mount /a: app must be an app, got function", helper.raised(app.mount, app, "/a", print))
    assert.matches("cannot have a %*rest", helper.raised(app.mount, app, "/*a", http.app()))
    assert.matches("http_app_spec", helper.raised(function() app:get("a", print) end))
    assert.matches("http_app_spec", helper.raised(function() app:get("/a") end))
  end)

  it("takes methods of any name, which are then known to all", function()
    app:method("SPEC-1", "/a/:b", function(req) return req.method .. " " .. req.params.b end)
    app:method("GET", "/a", function() return "got" end)
    app:any("/any", function(req) return req.method end)
    client = testing.serve(app)
    assert.equal("SPEC-1 x", client:request("SPEC-1", "/a/x").body)
    assert.equal("got", get("/a").body)
    assert.equal("SPEC-1", client:request("SPEC-1", "/any").body)
    local r = client:request("SPEC-1", "/a")
    assert.same({ 405, "GET, HEAD, OPTIONS" }, { r.status, r.headers.allow })
    r = client:request("POST", "/a/x")
    assert.same({ 405, "OPTIONS, SPEC-1" }, { r.status, r.headers.allow })
    assert.equal(501, client:request("SPEC-2", "/any").status)
    app:method("SPEC-2", "/a", function() return "two" end)
    assert.equal("two", client:request("SPEC-2", "/a").body)
    for _, name in ipairs { "", "A B", "A:", "caf\233", ("M"):rep(65) } do
      assert.matches("is no name of a method", helper.raised(app.method, app, name, "/b", print))
    end
    assert.matches("method must be a string, got nil", helper.raised(app.method, app))
    assert.matches("app:any", helper.raised(app.method, app, "ANY", "/b", print))
    assert.matches("refused before routing", helper.raised(app.method, app, "CONNECT", "/b", print))
    assert.matches('is there already, as "/a"', helper.raised(app.method, app, "SPEC-2", "/a", print))
    assert.matches("http_app_spec", helper.raised(function() app:method("SPEC-2", "b", print) end))
  end)

  it("refuses a route that is there already", function()
    app:get("/u/:id", print)
    assert.matches('get: path "/u/:name" is there already, as "/u/:id"',
      helper.raised(function() app:get("/u/:name", print) end))
    app:post("/u/:name", print)
    local other = http.app()
    other:get("/:x", print)
    assert.matches("mount /u: GET /u/:x is there twice", helper.raised(app.mount, app, "/u", other))
  end)

  it("refuses to contain itself", function()
    local other = http.app()
    app:mount("/a", other)
    assert.matches("would contain itself", helper.raised(app.mount, other, "/b", app))
    assert.matches("would contain itself", helper.raised(app.mount, app, "/b", app))
  end)

  it("takes routes while it serves", function()
    assert.equal(404, get("/a").status)
    app:get("/a", function() return "a" end)
    assert.equal("a", get("/a").body)
  end)

  describe("middleware", function()
    it("surrounds handlers in the order of use, whenever they were defined", function()
      local trace = {}
      app:get("/", function() trace[#trace + 1] = "handler" return "x" end)
      for i = 1, 3 do
        app:use(function(_, _, next)
          trace[#trace + 1] = "in" .. i
          local text = next()
          trace[#trace + 1] = "out" .. i
          return text
        end)
      end
      assert.equal("x", get("/").body)
      assert.equal("in1 in2 in3 handler out3 out2 out1", table.concat(trace, " "))
    end)

    it("may hand on, drop, replace or answer itself", function()
      app:use(function(req, _, next)
        local mode = req.query.mode
        if mode == "stop" then return 403, "no" end
        if mode == "return" then return next() end
        if mode == "replace" then return next() .. "!" end
        if mode == "silent" then next() end
      end)
      app:get("/", function() return "body" end)
      assert.equal("body", get("/?mode=return").body)
      assert.equal("body", get("/?mode=silent").body)
      assert.equal("body!", get("/?mode=replace").body)
      assert.same({ 403, "no" }, { get("/?mode=stop").status, client:get("/?mode=stop").body })
      assert.equal(204, get("/").status)
    end)

    it("sees the answer as it stands after next, and may change it", function()
      local seen
      app:use(function(_, res, next)
        local results = { next() }
        seen = { status = res.status, body = res.body, is_res = results[1] == res, n = #results }
        res.headers["X-Length"] = #res.body
        res.status = 418
      end)
      app:get("/", function() return 201, { a = 1 } end)
      local r = get("/")
      assert.equal(201, seen.status)
      assert.equal('{"a":1}', seen.body)
      assert.is_true(seen.is_res)
      assert.equal(1, seen.n)
      assert.same({ 418, "7", '{"a":1}', "application/json" },
        { r.status, r.headers["x-length"], r.body, r.headers["content-type"] })
    end)

    it("surrounds 404, 405 and OPTIONS too", function()
      app:use(function(_, res, next)
        res.headers["X-Seen"] = "yes"
        return next()
      end)
      app:post("/a", function() return "a" end)
      assert.same({ 404, "yes" }, { get("/b").status, client:get("/b").headers["x-seen"] })
      local r = get("/a")
      assert.same({ 405, "yes", "OPTIONS, POST" }, { r.status, r.headers["x-seen"], r.headers.allow })
      r = assert(client:options("/a"))
      assert.same({ 204, "yes", "OPTIONS, POST" }, { r.status, r.headers["x-seen"], r.headers.allow })
    end)

    it("may wait, raise, catch, and call next once", function()
      local caught
      app:use(function(_, _, next)
        lp.sleep(0.001)
        local ok, err = pcall(next)
        if not ok then
          caught = err
          return 409, "caught"
        end
      end)
      app:use(function(req, _, next)
        if req.path == "/twice" then next() end
        if req.path == "/next" then next("given to next") end
        return next()
      end)
      app:any("/*rest", function(req) if req.path == "/raise" then error("raised", 0) end return "fine" end)
      assert.equal("fine", get("/").body)
      assert.equal("caught", get("/raise").body)
      assert.equal("raised", caught)
      assert.equal("caught", get("/twice").body)
      assert.matches("next: called twice", caught)
      assert.equal("caught", get("/next").body)
      assert.equal("given to next", caught)
    end)

    it("leaves things for others in ctx", function()
      app:use(function(req, _, next)
        req.ctx.user = "ann"
        return next()
      end)
      app:get("/", function(req) return req.ctx.user end)
      assert.equal("ann", get("/").body)
    end)
  end)

  describe("mount", function()
    it("puts an app below a prefix, with its own middleware", function()
      local api = http.app()
      app:use(function(_, res, next) res.headers["X-Outer"] = "1" return next() end)
      api:use(function(_, res, next) res.headers["X-Inner"] = "1" return next() end)
      api:get("/", function() return "root" end)
      api:get("/users/:id", function(req) return req.params.id .. " " .. req.path end)
      app:get("/", function() return "home" end)
      app:mount("/api/:version", api)
      assert.equal("home", get("/").body)
      assert.is_nil(get("/").headers["x-inner"])
      assert.equal("root", get("/api/1").body)
      assert.equal("root", get("/api/1/").body)
      local r = get("/api/1/users/7")
      assert.same({ "7 /api/1/users/7", "1", "1" }, { r.body, r.headers["x-outer"], r.headers["x-inner"] })
      r = get("/api/1/none")
      assert.same({ 404, "1" }, { r.status, r.headers["x-inner"] })
      r = get("/none")
      assert.same({ 404, "1", nil }, { r.status, r.headers["x-outer"], r.headers["x-inner"] })
    end)

    it("sees routes that are added to a mounted app later", function()
      local inner, middle = http.app(), http.app()
      middle:mount("/b", inner)
      app:mount("/a", middle)
      assert.equal(404, get("/a/b/c").status)
      inner:get("/c", function() return "c" end)
      assert.equal("c", get("/a/b/c").body)
    end)

    it("leaves the prefix itself to the outer app, if it wants it", function()
      local api = http.app()
      api:get("/", function() return "inner" end)
      app:get("/api", function() return "outer" end)
      app:mount("/api", api)
      assert.equal("outer", get("/api").body)
      assert.equal("inner", get("/api/").body)
    end)

    it("has the deepest app that a path leads to answer 404", function()
      local deep, shallow = http.app(), http.app()
      deep:use(function(_, res, next) res.headers["X-App"] = "deep" return next() end)
      shallow:use(function(_, res, next) res.headers["X-App"] = "shallow" return next() end)
      app:mount("/a/b", deep)
      app:mount("/a", shallow)
      client = testing.serve(app)
      assert.equal("deep", client:get("/a/b/none").headers["x-app"])
      assert.equal("shallow", client:get("/a/none").headers["x-app"])
    end)

    it("leaves the app as it was if it fails", function()
      local other = http.app()
      app:get("/u/:x", function() return "fine" end)
      other:get("/:y", function() return "other" end)
      helper.raised(app.mount, app, "/u", other)
      client = testing.serve(app)
      assert.equal("fine", client:get("/u/1").body)
    end)
  end)

  describe("on_error", function()
    it("answers for handlers that raise, with what they raised", function()
      local seen, where
      app:on_error(function(_, res, err, traceback)
        seen, where = err, traceback
        return { status = res.status, err = tostring(err) }
      end)
      local thing = setmetatable({}, { __tostring = function() return "a thing" end })
      app:get("/text", function() error("broken", 0) end)
      app:get("/thing", function(_, res)
        res.headers["X-Kept"] = "1"
        res.headers["Content-Type"] = "image/png"
        error(thing)
      end)
      app:get("/returned", function() return nil, "went wrong" end)
      local r = get("/text")
      assert.same({ 500, { status = 500, err = "broken" } }, { r.status, r:json() })
      assert.matches("http_app_spec", where)
      r = get("/thing")
      assert.equal(thing, seen)
      assert.same({ 500, "a thing", "1", "application/json" },
        { r.status, r:json().err, r.headers["x-kept"], r.headers["content-type"] })
      assert.equal("went wrong", get("/returned"):json().err)
    end)

    it("may leave the plain answer, or raise", function()
      app:on_error(function(_, _, err)
        if err == "again" then error("on_error is broken") end
      end)
      app:get("/once", function() error("once", 0) end)
      app:get("/again", function() error("again", 0) end)
      assert.same({ 500, "Internal Server Error" }, { get("/once").status, get("/once").body })
      local log = helper.stderr_of(function()
        assert.same({ 500, "Internal Server Error" }, { get("/again").status, get("/again").body })
      end)
      assert.matches("on_error failed: .*on_error is broken", log)
      assert.matches("GET /again %(GET /again%): again", log)
    end)

    it("of the app of the route comes first, then outwards", function()
      local inner = http.app()
      app:on_error(function() return "outer" end)
      inner:on_error(function(req) if req.path == "/in/pass" then error "pass" end return "inner" end)
      inner:get("/a", function() error "a" end)
      inner:get("/pass", function() error "a" end)
      app:get("/a", function() error "a" end)
      app:mount("/in", inner)
      assert.equal("outer", get("/a").body)
      assert.equal("inner", get("/in/a").body)
      helper.stderr_of(function() assert.equal("outer", get("/in/pass").body) end)
    end)
  end)

  it("calls on_start once, of mounted apps too", function()
    local calls = {}
    local inner = http.app()
    inner:on_start(function() calls[#calls + 1] = "inner" end)
    app:on_start(function() lp.sleep(0.001) calls[#calls + 1] = "outer" end)
    app:mount("/in", inner)
    app:get("/", function() return "x" end)
    get("/")
    get("/")
    assert.same({ "outer", "inner" }, calls)
  end)

  it("calls on_retire when told to", function()
    local calls = 0
    app:on_retire(function() calls = calls + 1 end)
    app:retire()
    assert.equal(1, calls)
  end)

  it("answers 404, not 405, where a name would be empty", function()
    app:post("/u/:id", function() return "" end)
    assert.equal(404, get("/u/").status)
    assert.equal(405, get("/u/1").status)
  end)
end)

describe("a slash at the end of a path", function()
  local function serve(opts, change)
    local app = http.app(opts)
    app:get("/a", function(req) return "a of " .. req.path end)
    app:post("/a", function(req) return "posted " .. req:body() end)
    app:get("/dir/", function() return "dir" end)
    app:get("/u/:id", function(req) return "user " .. req.params.id end)
    app:get("/both", function() return "without" end)
    app:get("/both/", function() return "with" end)
    app:get("/files", function() return "files" end)
    app:get("/files/*rest", function(req) return "<" .. req.params.rest .. ">" end)
    local sub = http.app()
    sub:get("/", function() return "root" end)
    sub:get("/x", function() return "x" end)
    app:mount("/sub", sub)
    if change then change(app, sub) end
    return testing.serve(app, { redirects = 0 })
  end

  it("is ignored, unless there is a route of its own", function()
    local client = serve()
    for path, body in pairs {
      ["/a"] = "a of /a", ["/a/"] = "a of /a/", ["/dir/"] = "dir", ["/dir"] = "dir", ["/u/7"] = "user 7",
      ["/u/7/"] = "user 7", ["/both"] = "without", ["/both/"] = "with", ["/files"] = "files", ["/files/"] = "<>",
      ["/files/x/"] = "<x/>", ["/sub"] = "root", ["/sub/"] = "root", ["/sub/x/"] = "x",
    } do
      assert.equal(body, client:get(path).body, path)
    end
    assert.equal("posted body", client:post("/a/", { body = "body" }).body)
    assert.equal(404, client:get("/u/").status)
    assert.equal("a of /a/", client:get("/a//").body)
    local r = client:put "/a/"
    assert.equal(405, r.status)
    assert.equal("GET, HEAD, OPTIONS, POST", r.headers.allow)
  end)

  it("is a redirect that keeps method and query, and names no other host", function()
    local client = serve { slash = "redirect" }
    for path, to in pairs {
      ["/a/?x=1"] = "/a?x=1", ["//a//"] = "/a", ["/dir"] = "/dir/", ["/u/%2Fx/"] = "/u/%2Fx", ["/sub/x/"] = "/sub/x",
    } do
      local r = client:get(path)
      assert.equal(308, r.status, path)
      assert.equal(to, r.headers.location)
    end
    assert.equal(308, client:post("/a/", { body = "x" }).status)
    assert.equal("posted x", client:post("/a/", { body = "x", redirects = 5 }).body)
    assert.equal("root", client:get("/sub").body)
  end)

  it("makes another path, if the app is strict; a mounted app may differ", function()
    local client = serve({ slash = "strict" }, function(_, sub) sub:set { slash = "ignore" } end)
    for path, status in pairs { ["/a/"] = 404, ["/dir"] = 404, ["/a"] = 200, ["/u/7/"] = 404, ["/sub/x/"] = 200 } do
      assert.equal(status, client:get(path).status, path)
    end
    local app = http.app()
    assert.error_matches(function() app:set { slash = "no" } end,
      'slash must be "strict", "ignore" or "redirect", got no')
  end)
end)
