--- The middleware in the box: request_id, cors, limit, basic_auth, bearer_auth, session, csrf, secure_headers.

local crypto = require "lunapark.crypto"
local http = require "lunapark.http"
local lp = require "lunapark"
local shared = require "lunapark.shared"
local testing = require "lunapark.testing"
local helper = require "spec.helper"

testing.block_timeout(120)

describe("middleware in the box:", function()
  local app, client

  before_each(function() app, client = http.app(), nil end)
  after_each(function() if client then client:close() end end)

  local function ask(method, target, headers, opts)
    client = client or testing.serve(app)
    opts = opts or {}
    opts.headers = headers
    return assert(client:request(method, target, opts))
  end

  local function get(target, headers) return ask("GET", target, headers) end

  local function hello() return "hello" end

  describe("request_id", function()
    it("names each request", function()
      app:use(http.request_id())
      app:get("/", function(req) return req.id end)
      local seen = {}
      for _ = 1, 3 do
        local r = get("/", { ["X-Request-Id"] = "mine" })
        assert.equal(r.body, r.headers["x-request-id"])
        assert.matches("^%x+%-%d+$", r.body)
        assert.is_nil(seen[r.body])
        seen[r.body] = true
      end
      assert.matches("^%x+%-%d+$", get("/none").headers["x-request-id"])
    end)
  end)

  describe("secure_headers", function()
    it("are there, and a handler has its own word", function()
      app:use(http.secure_headers { frame = "DENY", opener = false, csp = "default-src 'self'" })
      app:get("/", hello)
      app:get("/own", function(_, res) res.headers["referrer-policy"] = "no-referrer" return "x" end)
      app:get("/error", function() error "x" end)
      client = testing.serve(app, { tls = false })
      local h = get("/").headers
      assert.same({ "nosniff", "DENY", "default-src 'self'", "strict-origin-when-cross-origin" },
        { h["x-content-type-options"], h["x-frame-options"], h["content-security-policy"], h["referrer-policy"] })
      assert.is_nil(h["cross-origin-opener-policy"])
      assert.is_nil(h["strict-transport-security"])
      assert.same({ "no-referrer" }, get("/own").headers:get_all "referrer-policy")
      assert.equal("text/plain; charset=utf-8", get("/").headers["content-type"])
      helper.stderr_of(function() assert.equal("DENY", get("/error").headers["x-frame-options"]) end)
    end)

    it("refuses bad options", function()
      assert.matches("unknown option hst: did you mean hsts", helper.raised(http.secure_headers, { hst = 1 }))
      assert.matches("hsts must be seconds", helper.raised(http.secure_headers, { hsts = "1" }))
      assert.matches("contains CR, LF", helper.raised(http.secure_headers, { csp = "a\nb" }))
    end)
  end)

  describe("cors", function()
    it("lets every site read, without options", function()
      app:use(http.cors())
      app:get("/", hello)
      app:get("/error", function() error "x" end)
      assert.equal("*", get("/", { Origin = "https://a.example" }).headers["access-control-allow-origin"])
      assert.is_nil(get("/").headers["access-control-allow-origin"])
      helper.stderr_of(function()
        local r = get("/error", { Origin = "https://a.example" })
        assert.same({ 500, "*" }, { r.status, r.headers["access-control-allow-origin"] })
      end)
      local r = ask("OPTIONS", "/", {
        Origin = "https://a.example", ["Access-Control-Request-Method"] = "PUT",
        ["Access-Control-Request-Headers"] = "x-a, x-b",
      })
      assert.same({ 204, "GET, HEAD, POST, PUT, PATCH, DELETE", "x-a, x-b", "600" }, {
        r.status, r.headers["access-control-allow-methods"], r.headers["access-control-allow-headers"],
        r.headers["access-control-max-age"],
      })
      assert.matches("Access%-Control%-Request%-Headers", r.headers.vary)
      r = ask("OPTIONS", "/", { Origin = "https://a.example" }) -- no question of a browser
      assert.equal("GET, HEAD, OPTIONS", r.headers.allow)
    end)

    it("lets some sites read, with cookies", function()
      app:use(http.cors {
        origins = { "https://a.example", "http://localhost:3000" }, credentials = true, expose = { "X-A", "X-B" },
        methods = { "GET", "POST" }, headers = { "X-C" }, max_age = 5,
      })
      app:get("/", hello)
      local h = get("/", { Origin = "HTTPS://A.example" }).headers
      assert.same({ "HTTPS://A.example", "true", "X-A, X-B", "Origin" }, {
        h["access-control-allow-origin"], h["access-control-allow-credentials"], h["access-control-expose-headers"],
        h.vary,
      })
      for _, origin in ipairs { "https://b.example", "null", "https://a.example.evil", "https://a.example:444" } do
        local r = get("/", { Origin = origin })
        assert.same({ 200, nil, "Origin" }, { r.status, r.headers["access-control-allow-origin"], r.headers.vary })
      end
      assert.equal("Origin", get("/").headers.vary)
      local r = ask("OPTIONS", "/", { Origin = "http://localhost:3000", ["Access-Control-Request-Method"] = "POST" })
      assert.same({ 204, "GET, POST", "X-C", "5" }, {
        r.status, r.headers["access-control-allow-methods"], r.headers["access-control-allow-headers"],
        r.headers["access-control-max-age"],
      })
    end)

    it("asks a function", function()
      app:use(http.cors { origins = function(origin, req) return origin == req.query.may end, credentials = true })
      app:get("/", hello)
      assert.equal("x://y", get("/?may=x://y", { Origin = "x://y" }).headers["access-control-allow-origin"])
      assert.is_nil(get("/?may=x://z", { Origin = "x://y" }).headers["access-control-allow-origin"])
    end)

    it("refuses what no browser takes", function()
      assert.matches("must name the sites", helper.raised(http.cors, { credentials = true }))
      assert.matches('"a.example" is no origin', helper.raised(http.cors, { origins = { "a.example" } }))
      assert.matches('"https://a.b/" is no origin', helper.raised(http.cors, { origins = { "https://a.b/" } }))
      assert.matches("methods must be a list of strings, got string", helper.raised(http.cors, { methods = "GET" }))
      for _, make in ipairs {
        function() return (http.cors { methods = "GET" }) end, function() return (http.cors { origins = { "x" } }) end,
        function() return (http.csrf { trusted = { "x" } }) end,
      } do
        assert.matches("^spec/http_box_spec.lua:%d+: c%a+: opts", helper.raised(make))
      end
    end)
  end)

  describe("limit", function()
    it("answers 429 when there were too many, until the time is over", function()
      app:use(http.limit { requests = 2, per = 0.3, name = "spec-429" })
      app:get("/", hello)
      shared.dict("lunapark.limit"):flush()
      helper.eventually(function()
        -- Three requests within the time; on a busy machine not at the first attempt.
        local first, second, third = get "/", get "/", get "/"
        assert.equal(200, first.status)
        if second.status ~= 200 or third.status ~= 429 then
          lp.sleep(0.31)
          return false
        end
        assert.same({ "1", "Too Many Requests" }, { third.headers["retry-after"], third.body })
        return true
      end)
      helper.eventually(function() return get("/").status == 200 end)
    end)

    it("counts clients apart, and those that are told to be one together", function()
      app:use(http.limit { requests = 1, per = 600, by = function(req) return req.headers["x-key"] end })
      app:get("/", hello)
      shared.dict("lunapark.limit"):flush()
      assert.same({ 200, 429, 200, 429 }, {
        get("/", { ["X-Key"] = "a" }).status, get("/", { ["X-Key"] = "a" }).status,
        get("/", { ["X-Key"] = "b" }).status, get("/", { ["X-Key"] = "b" }).status,
      })
      assert.same({ 200, 200 }, { get("/").status, get("/").status }) -- no key: no limit
    end)

    it("counts the network of an IPv6 address", function()
      local limit = require "lunapark.http.limit"
      for addr, expected in pairs {
        ["127.0.0.1:80"] = "127.0.0.1", ["[::1]:80"] = "0:0:0:0", ["[2001:db8:1:2:3:4:5:6]:80"] = "2001:db8:1:2",
        ["[2001:db8::6]:80"] = "2001:db8:0:0", ["[2001:db8:1:2::]:80"] = "2001:db8:1:2",
        ["[::ffff:10.0.0.1]:80"] = "10.0.0.1", ["unix:"] = "unix:", ["[fe80::1:2:3:4:5]:1"] = "fe80:0:0:1",
      } do
        assert.equal(expected, limit.client { remote_addr = addr })
      end
      assert.equal("10.1.1.1", limit.client { ip = "10.1.1.1", remote_addr = "127.0.0.1:80" })
    end)

    it("refuses bad options", function()
      assert.matches("requests must be a whole number, 1 or more, got nil", helper.raised(http.limit, {}))
      assert.matches("per must be a number of seconds, got 0", helper.raised(http.limit, { requests = 1, per = 0 }))
      assert.matches("opts must be a table, got nil", helper.raised(http.limit))
    end)
  end)

  describe("basic_auth", function()
    local function basic(text) return { Authorization = "Basic " .. crypto.base64(text) } end

    it("lets in who has the password", function()
      -- As crypto.password_hash makes it of "hidden", but in a moment.
      local hash = "$scrypt$ln=4,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$NBLmTUHKrR9HWJTVL6wCyw8aGYS3BUJQfd5N+FmionI"
      app:use(http.basic_auth { users = { ann = "secret:1", bob = hash }, realm = "spec" })
      app:get("/", function(req) return req.user end)
      local r = get "/"
      assert.same({ 401, 'Basic realm="spec", charset="UTF-8"', "Unauthorized" },
        { r.status, r.headers["www-authenticate"], r.body })
      assert.equal("ann", get("/", basic "ann:secret:1").body)
      assert.equal("bob", get("/", basic "bob:hidden").body)
      assert.equal("bob", get("/", basic "bob:hidden").body)
      for _, text in ipairs { "ann:secret", "ann:", "ann", ":", "", "bob:secret:1", "eve:hidden", "eve:secret:1" } do
        assert.equal(401, get("/", basic(text)).status, text)
      end
      local bearer = "Bearer " .. crypto.base64 "ann:secret:1"
      for _, field in ipairs { "Basic", "Basic !", "Basic  ", bearer, "Basic YQ== YQ==" } do
        assert.equal(401, get("/", { Authorization = field }).status)
      end
      assert.equal("ann", get("/", { Authorization = "bASIC  " .. crypto.base64 "ann:secret:1" }).body)
    end)

    it("asks a function", function()
      app:use(http.basic_auth { check = function(name, password) return password == "x" and { id = name } end })
      app:get("/", function(req) return req.user.id end)
      assert.equal("ann", get("/", basic "ann:x").body)
      assert.equal(401, get("/", basic "ann:y").status)
      assert.matches("users or opts.check is missing", helper.raised(http.basic_auth, {}))
      local bad = { users = {}, realm = '"' }
      assert.matches("realm must be a string without quotes", helper.raised(http.basic_auth, bad))
    end)
  end)

  describe("bearer_auth", function()
    it("lets in who has a token", function()
      app:use(http.bearer_auth { tokens = { "t1", t2 = "ann" } })
      app:get("/", function(req) return tostring(req.user) end)
      local r = get "/"
      assert.same({ 401, 'Bearer realm="private"' }, { r.status, r.headers["www-authenticate"] })
      r = get("/", { Authorization = "Bearer wrong" })
      assert.same({ 401, 'Bearer realm="private", error="invalid_token"' }, { r.status, r.headers["www-authenticate"] })
      assert.equal("true", get("/", { Authorization = "Bearer t1" }).body)
      assert.equal("ann", get("/", { Authorization = "bearer t2" }).body)
      assert.equal(401, get("/", { Authorization = "Bearer 1" }).status)
    end)

    it("asks a function", function()
      app:use(http.bearer_auth { check = function(token) return token == "x" and { id = 7 } or nil end })
      app:get("/", function(req) return tostring(req.user.id) end)
      assert.equal("7", get("/", { Authorization = "Bearer x" }).body)
      assert.equal(401, get("/", { Authorization = "Bearer y" }).status)
      assert.matches("tokens or opts.check is missing", helper.raised(http.bearer_auth, {}))
      assert.matches("which is not empty", helper.raised(http.bearer_auth, { tokens = { os.getenv "NO_SUCH_TOKEN" } }))
    end)
  end)

  describe("csrf", function()
    it("refuses what pages of other sites send", function()
      app:use(http.csrf { trusted = { "https://partner.example" } })
      app:any("/", hello)
      local host = { Host = "me.example:8080" }
      local function post(headers)
        for name, value in pairs(host) do headers[name] = value end
        return ask("POST", "/", headers).status
      end
      assert.equal(200, get("/", { Origin = "https://evil.example", ["Sec-Fetch-Site"] = "cross-site" }).status)
      assert.equal(200, post {})
      assert.equal(200, post { ["Sec-Fetch-Site"] = "same-origin" })
      assert.equal(200, post { ["Sec-Fetch-Site"] = "none" })
      assert.equal(403, post { ["Sec-Fetch-Site"] = "same-site" })
      assert.equal(403, post { ["Sec-Fetch-Site"] = "cross-site", Origin = "http://me.example:8080" })
      assert.equal(200, post { Origin = "http://ME.example:8080" })
      assert.equal(403, post { Origin = "http://me.example" })
      assert.equal(403, post { Origin = "null" })
      assert.equal(403, post { Origin = "https://evil.example" })
      assert.equal(200, post { Origin = "https://partner.example", ["Sec-Fetch-Site"] = "cross-site" })
      assert.equal(403, ask("DELETE", "/", { Origin = "https://evil.example" }).status)
      assert.matches("is no origin", helper.raised(http.csrf, { trusted = { "partner.example" } }))
    end)
  end)

  for kind, opts in pairs {
    ["session in a cookie"] = { secret = ("s"):rep(32) },
    ["session in a dict"] = { store = "spec-sessions" },
  } do
    describe(kind, function()
      local in_dict = opts.store ~= nil

      before_each(function()
        app:use(http.session(opts))
        app:get("/set", function(req)
          req.session.user = { name = req.query.name, roles = { "a", "b" } }
          return "set"
        end)
        app:get("/get", function(req) return req.session.user or {} end)
        app:get("/error", function(req)
          req.session.user = { name = "error" }
          error "x"
        end)
        app:get("/stream", function(req, res)
          req.session.user = { name = "stream" }
          res:write "x"
          req.session.user = { name = "too late" }
        end)
        app:get("/clear", function(req) req.session:clear() return "x" end)
        app:get("/login", function(req)
          req.session:renew()
          req.session.user = { name = "in" }
          return "x"
        end)
        app:get("/bad", function(req) req.session.fn = print return "x" end)
        app:get("/none", hello)
        client = testing.serve(app, { cookies = false, tls = false }) -- TLS makes them Secure
      end)

      -- The Cookie field of what an answer has set, and the line.
      local function cookie_of(r)
        local line = r.headers["set-cookie"]
        return line and { Cookie = line:match "^[^;]+" }, line
      end

      it("is kept from one request to the next", function()
        local cookie, line = cookie_of(get "/set?name=ann")
        assert.matches("; Path=/; Max%-Age=1209600; HttpOnly; SameSite=Lax$", line)
        local r = get("/get", cookie)
        assert.same({ name = "ann", roles = { "a", "b" } }, r:json())
        assert.is_nil(r.headers["set-cookie"]) -- nothing has changed
        assert.equal("private", get("/set?name=b").headers["cache-control"])
        assert.is_nil(get("/none").headers["set-cookie"])
        assert.is_nil(get("/none", cookie).headers["set-cookie"])
      end)

      it("is kept when the handler fails or streams", function()
        helper.stderr_of(function()
          assert.equal("error", get("/get", (cookie_of(get "/error"))):json().name)
        end)
        assert.equal("stream", get("/get", (cookie_of(get "/stream"))):json().name)
      end)

      it("can be cleared and renewed", function()
        local cookie = cookie_of(get "/set?name=ann")
        local _, line = cookie_of(get("/clear", cookie))
        assert.matches("^session=; Path=/; Max%-Age=0", line)
        if in_dict then assert.equal("{}", get("/get", cookie).body) end
        local old = cookie_of(get "/set?name=old")
        local new = cookie_of(get("/login", old))
        assert.equal("in", get("/get", new):json().name)
        assert.not_same(old, new)
        if in_dict then assert.equal("{}", get("/get", old).body) end
      end)

      it("takes no cookie that is not its own", function()
        local value = cookie_of(get "/set?name=ann").Cookie
        for _, cookie in ipairs {
          "session=", "session=x", "session=" .. ("A"):rep(60), value .. "A", value:sub(1, -2),
          (value:gsub("=.", "=%%", 1)), "other" .. value, (value:gsub("session", "Session")),
          "session=" .. ("%00"):rep(20), "session=" .. ("A"):rep(32),
        } do
          assert.equal("{}", get("/get", { Cookie = cookie }).body, cookie)
        end
        assert.equal("ann", get("/get", { Cookie = "a=b; " .. value .. "; c=d" }):json().name)
      end)

      it("says what can not be kept", function()
        local log = helper.stderr_of(function() assert.equal(500, get("/bad").status) end)
        assert.matches("session: a value cannot be kept: ", log)
      end)
    end)
  end

  describe("session", function()
    it("reads cookies of older secrets, and of the same name only", function()
      local function served(more)
        local a = http.app()
        a:use(http.session(more))
        a:get("/", function(req)
          req.session.n = (req.session.n or 0) + 1
          return tostring(req.session.n)
        end)
        return testing.serve(a, { cookies = false })
      end
      local old, new = ("o"):rep(32), ("n"):rep(40)
      local value = served({ secret = old }):get("/").headers["set-cookie"]:match "^[^;]+"
      local function count(more, cookie)
        return assert(served(more):get("/", { headers = { Cookie = cookie or value } })).body
      end
      assert.equal("2", count { secret = { new, old } })
      assert.equal("1", count { secret = new })
      assert.equal("1", count({ secret = old, name = "other" }, (value:gsub("session", "other"))))
    end)

    it("ends", function()
      app:use(http.session { secret = ("s"):rep(32), max_age = 1 })
      app:get("/", function(req)
        local was = req.session.n or 0
        req.session.n = was + 1
        return tostring(was)
      end)
      client = testing.serve(app, { cookies = false })
      local cookie = { Cookie = get("/").headers["set-cookie"]:match "^[^;]+" }
      helper.eventually(function()
        lp.sleep(0.1)
        return get("/", cookie).body == "0"
      end)
    end)

    it("is refused when it does not fit, or has no secret", function()
      app:use(http.session { secret = ("s"):rep(32) })
      app:get("/", function(req) req.session.x = ("x"):rep(5000) return "x" end)
      local log = helper.stderr_of(function() assert.equal(500, get("/").status) end)
      assert.matches("bytes are too many for a cookie", log)
      assert.matches("secret is missing", helper.raised(http.session, {}))
      assert.matches("32 bytes or more", helper.raised(http.session, { secret = "short" }))
      assert.matches("max_age must be seconds", helper.raised(http.session, { store = "x", max_age = "1" }))
      assert.matches("bad value of option samesite", helper.raised(http.session, { store = "x", same_site = "x" }))
    end)
  end)

  it("may be called by other middleware", function()
    local limit = http.limit { requests = 1, per = 600, by = function() return "one" end }
    local cors = http.cors()
    shared.dict("lunapark.limit"):flush()
    app:use(function(req, res, next)
      local r = limit(req, res, function() return cors(req, res, next) end)
      res.headers["X-Status"] = res.status
      return r
    end)
    app:get("/", function() return 201, "made" end)
    local r = get("/", { Origin = "https://a.example" })
    assert.same({ 201, "made", "201", "*" },
      { r.status, r.body, r.headers["x-status"], r.headers["access-control-allow-origin"] })
    r = get("/", { Origin = "https://a.example" })
    assert.same({ 429, "429", nil }, { r.status, r.headers["x-status"], r.headers["access-control-allow-origin"] })
  end)

  it("are asked in their order, among other middleware", function()
    local trace = {}
    local function note(name)
      return http.limit { requests = 1e6, by = function() trace[#trace + 1] = name end }
    end
    for i = 1, 6 do app:use(note(i)) end
    app:use(function(_, _, next)
      trace[#trace + 1] = "in"
      local r = next()
      trace[#trace + 1] = "out " .. r.body
      return r
    end)
    app:use(note "last")
    app:get("/", function()
      trace[#trace + 1] = "handler"
      return "x"
    end)
    assert.equal("x", get("/").body)
    assert.equal("1 2 3 4 5 6 in last handler out x", table.concat(trace, " "))
  end)

  it("all stand together", function()
    app:use(http.request_id())
    app:use(http.secure_headers())
    app:use(http.cors())
    app:use(http.csrf())
    app:use(http.limit { requests = 1e6 })
    app:use(http.session { secret = ("s"):rep(32) })
    app:use(http.compress())
    app:get("/", function() return ("hello "):rep(1000) end)
    local r = get("/", { Origin = "https://a.example" })
    assert.same({ 200, 6000, "*" }, { r.status, #r.body, r.headers["access-control-allow-origin"] })
  end)
end)
