local form = require "lunapark.http.form"
local http = require "lunapark.http"
local testing = require "lunapark.testing"
local helper = require "spec.helper"

describe("fields", function()
  local function parse(s, max) return form.parse(s, #s, max) end

  it("are decoded, with + as a space", function()
    assert.same({ a = "1 2", ["b c"] = "+&=", d = "" }, parse "a=1+2&b%20c=%2B%26%3D&d")
    assert.same({}, parse "")
    assert.same({}, parse "&&")
    assert.same({ a = "b=c", [""] = "x" }, parse "&a=b=c&&=x&")
    assert.same({ a = "\0\255", u = "ü" }, parse "a=%00%fF&u=%C3%BC")
  end)

  it("keep bad escapes as they are, and decode nothing twice", function()
    assert.same({ a = "100%", b = "%zz", c = "%4", d = "%%", e = "%A", f = "%41" },
      parse "a=100%&b=%zz&c=%4&d=%%&e=%%41&f=%2541")
    assert.same({ ["%"] = "%", ["a%4"] = "1" }, parse "%=%&a%4=1")
  end)

  it("have the last of several values, as a string, and all by `all`", function()
    local s = "a=1&b=x&a=2&%61=3&A=4"
    assert.same({ a = "3", b = "x", A = "4" }, parse(s))
    local list = { "before" }
    form.all(s, #s, "a", list)
    assert.same({ "before", "1", "2", "3" }, list)
    form.all(s, #s, "none", list)
    assert.equal(4, #list)
  end)

  it("may be long, and many, up to a limit", function()
    local long = ("%41"):rep(20000)
    assert.same({ [("A"):rep(20000)] = ("A"):rep(20000) }, parse(long .. "=" .. long))
    assert.same({ a = "1" }, parse(("a=1&"):rep(5), 5))
    assert.is_nil(parse(("a=1&"):rep(6), 5))
  end)
end)

describe("req", function()
  local client

  after_each(function() if client then client:close() end client = nil end)

  local FORM = "application/x-www-form-urlencoded"

  local function post(body, ctype, target)
    return client:post(target or "/", { body = body, headers = { ["Content-Type"] = ctype } })
  end

  it("has one string of a name that comes twice, in query and form", function()
    local app = http.app()
    app:get("/", function(req) return "Hello, " .. req.query.name end)
    app:post("/", function(req) return "Hello, " .. assert(req:form()).name:upper() end)
    client = testing.serve(app)
    assert.equal("Hello, bob", client:get("/?name=ann&name=bob").body)
    assert.equal("Hello, BOB", post("name=ann&name=bob", FORM).body)
  end)

  it("has param and params_all, of query and form together", function()
    client = testing.serve(function(req)
      return { one = req:param "n", all = req:params_all "n", again = req:param "n", none = tostring(req:param "x"),
        empty = #req:params_all "x" }
    end)
    local none = { none = "nil", empty = 0 }
    local function with(t)
      t.none, t.empty = none.none, none.empty
      return t
    end
    assert.same(with { one = "2", again = "2", all = { "1", "2" } }, client:get("/?n=1&n=2"):json())
    assert.same(with { one = "4", again = "4", all = { "1", "2", "3", "4" } },
      post("n=3&m=0&n=4", FORM, "/?n=1&n=2"):json())
    assert.same(with { one = "2", again = "2", all = { "1", "2" } }, post("m=3", FORM, "/?n=1&n=2"):json())
    -- What is no form is not looked at.
    assert.same(with { one = "1", again = "1", all = { "1" } }, post("n=3", "text/plain", "/?n=1"):json())
    assert.same(with { one = "1", again = "1", all = { "1" } }, client:post("/?n=1", { body = "n=3" }):json())
    assert.same({ none = "nil", empty = 0, all = {} }, client:get("/"):json())
  end)

  it("refuses a name that is no string", function()
    client = testing.serve(function(req)
      return helper.raised(req.param, req, nil) .. "\n" .. helper.raised(req.params_all, req, {})
    end)
    local r = client:get "/"
    assert.matches("param: name must be a string, got nil", r.body)
    assert.matches("params_all: name must be a string, got table", r.body)
  end)

  it("answers 413 for a form with too many fields if the handler stumbles", function()
    client = testing.serve(function(req) return assert(req:form { max_fields = tonumber(req.query.max) }).a end)
    local log = helper.stderr_of(function()
      assert.equal(200, post(("a=1&"):rep(1000), FORM).status)
      assert.equal(413, post(("a=1&"):rep(1001), FORM).status)
      assert.equal(413, post("a=1&b=2", FORM, "/?max=1").status)
      assert.equal(415, post("a=1", "text/plain").status)
    end)
    assert.matches("the form has more than 1000 fields", log)
  end)

  it("has the same form at each call, with a body that was read before", function()
    client = testing.serve(function(req)
      local body = req:body()
      local fields = req:form()
      return { body == "a=1", rawequal(fields, req:form()), fields.a, req:param "a" }
    end)
    assert.same({ true, true, "1", "1" }, post("a=1", FORM .. " ; charset=utf-8"):json())
    assert.same({ true, true, "1", "1" }, post("a=1", " Application/X-WWW-form-urlencoded"):json())
  end)
end)
