local http = require "lunapark.http"
local testing = require "lunapark.testing"
local helper = require "spec.helper"

describe("hosts:", function()
  local client

  after_each(function()
    if client then client:close() end
    client = nil
  end)

  local function named(name)
    local app = http.app()
    app:get("/", function(req) return name .. " " .. tostring(req.host) end)
    return app
  end

  local function ask(host, path, method)
    return assert(client:request(method or "GET", path or "/", { headers = { Host = host } }))
  end

  it("an app answers for its host, and the app itself for all others", function()
    local app = named "own"
    app:host("API.example.com", named "api"):host("*.example.com", named "any"):host("*.b.example.com", named "b")
    app:host("[::1]", named "v6")
    client = testing.serve(app)
    for host, name in pairs {
      ["api.example.com"] = "api", ["API.Example.COM"] = "api", ["api.example.com:8080"] = "api",
      ["api.example.com."] = "api", ["api.example.com.:80"] = "api", ["x.example.com"] = "any",
      ["x.y.example.com"] = "any", ["a.b.example.com"] = "b", ["b.example.com"] = "any", ["example.com"] = "own",
      ["xexample.com"] = "own", ["api.example.com.org"] = "own", ["[::1]"] = "v6", ["[::1]:80"] = "v6",
      ["[::2]"] = "own", ["127.0.0.1"] = "own", [("a."):rep(120) .. "example.com"] = "any",
      [("a."):rep(130) .. "example.com"] = "own", ["."] = "own", ["%61pi.example.com"] = "any",
    } do
      assert.equal(name .. " " .. host, ask(host).body)
    end
  end)

  it("the authority of an absolute target counts, as for req.host", function()
    client = testing.serve(named("own"):host("a.org", named "a"))
    assert.equal("a a.org:81", ask("b.org", "http://a.org:81/").body)
    assert.equal("own b.org", ask("a.org", "http://b.org").body)
  end)

  it("a host's app has its own 404, 405 and paths", function()
    local app, sub, inner = http.app(), http.app(), named "inner"
    app:get("/only-own", function() return "own" end)
    app:post("/x", function() return "posted" end)
    sub:get("/x", function(req) return "x of " .. req.host end)
    sub:get("/u/:id", function(req) return req.params.id end)
    sub:not_found(function() return 404, "nothing at the sub" end)
    sub:mount("/inner", inner)
    client = testing.serve(app:host("a.org", sub))
    assert.equal("x of a.org", ask("a.org", "/x").body)
    assert.equal("7", ask("a.org", "/u/7/").body)
    assert.equal("inner a.org", ask("a.org", "/inner").body)
    assert.same({ 404, "nothing at the sub" }, { ask("a.org", "/only-own").status, ask("a.org", "/only-own").body })
    local r = ask("a.org", "/x", "POST")
    assert.same({ 405, "GET, HEAD, OPTIONS" }, { r.status, r.headers.allow })
    assert.equal(200, ask("a.org", "/x", "HEAD").status)
    assert.equal("posted", ask("b.org", "/x", "POST").body)
    assert.same({ 404, "Not Found" }, { ask("b.org", "/u/7").status, ask("b.org", "/u/7").body })
    sub:get("/later", function() return "later" end)
    assert.equal("later", ask("a.org", "/later").body)
  end)

  it("the middleware, on_error and on_start of the app are around those of a host's app", function()
    local app, sub, told = http.app(), http.app(), {}
    app:use(function(_, res, next) res.headers["X-Outer"] = "1" return next() end)
    sub:use(function(_, res, next) res.headers["X-Inner"] = "1" return next() end)
    sub:get("/broken", function() error "broken" end)
    app:on_error(function() return 500, "outer" end)
    app:on_start(function() told[#told + 1] = "app" end)
    sub:on_start(function() told[#told + 1] = "sub" end)
    client = testing.serve(app:host("a.org", sub))
    local r = ask("a.org", "/broken")
    assert.same({ "outer", "1", "1" }, { r.body, r.headers["x-outer"], r.headers["x-inner"] })
    r = ask("b.org", "/broken")
    assert.same({ 404, "1", nil }, { r.status, r.headers["x-outer"], r.headers["x-inner"] })
    assert.same({ "app", "sub" }, told)
  end)

  it("the log names the host of a route", function()
    local sub = http.app()
    sub:get("/u/:id", function() error "no such user" end)
    client = testing.serve(http.app():host("*.a.org", sub))
    local log = helper.stderr_of(function() ask("x.a.org", "/u/7") end)
    assert.matches("GET /u/7 %(GET %*%.a%.org/u/:id%)", log)
  end)

  it("files of the app are not answered to a host that has an app", function()
    local app = http.app():static("/", ".")
    client = testing.serve(app:host("a.org", named "a"))
    assert.equal(200, ask("b.org", "/http_hosts_spec.lua").status)
    assert.equal(404, ask("a.org", "/http_hosts_spec.lua").status)
  end)

  it("names that no request can have are refused, as are apps that have no place there", function()
    local app = http.app()
    local function refused(...) return helper.raised(app.host, app, ...) end
    for _, name in ipairs {
      "", "*", "*.", "a..b", ".a", "a.", "a b", "*.*.a", "a.*", "http://a.org", "a.org:80", "a.org/x", "[::1",
      "*.[::1]",
    } do
      assert.matches("host: name must be like", refused(name, http.app()), name)
    end
    assert.matches("without a port", refused("a.org:80", http.app()))
    assert.matches("without a scheme or a path", refused("http://a.org:80", http.app()))
    assert.matches("host: name must be a string, got nil", refused())
    assert.matches("host a.org: app must be an app, got function", refused("a.org", print))
    assert.matches("host a.org: app would contain itself", refused("a.org", app))
    assert.matches("app has options", refused("a.org", http.app { max_body = 1 }))
    app:host("a.org", http.app())
    assert.matches("host a.org: there is an app for it already", refused("A.org", http.app()))
    assert.matches("app has hosts", helper.raised(function() http.app():mount("/x", app) end))
    assert.matches("app has hosts", helper.raised(function() http.app():host("b.org", app) end))
    local inner = http.app()
    http.app():mount("/x", inner)
    assert.matches("this app is in another", helper.raised(inner.host, inner, "a.org", http.app()))
    assert.matches("http_hosts_spec", helper.raised(function() app:host("a.org:80", http.app()) end))
    assert.matches("http_hosts_spec", helper.raised(function() app:host("a.org", http.app()) end))
    assert.matches("http_hosts_spec", helper.raised(function() app:host("c.org", print) end))
    assert.matches("call it with a colon", helper.raised(app.host, "a.org", http.app()))
  end)
end)
