-- C finds the routes of an app's requests (lua/lunapark/http/doors.lua), as Lua would.

local http = require "lunapark.http"
local router = require "lunapark.http.router"
local testing = require "lunapark.testing"

describe("doors:", function()
  local methods = getmetatable(router.new()).__index
  local match = methods.match
  local looks, app

  before_each(function()
    looks, app = 0, http.app()
    function methods.match(...)
      looks = looks + 1
      return match(...)
    end
  end)
  after_each(function() methods.match = match end)

  -- Asks for a path a few times: the answer, which is the same each time, and how often Lua has looked for the route.
  local function asked(client, target, method)
    local before, first = looks, nil
    for _ = 1, 3 do
      local r = assert(client:request(method or "GET", target))
      first = first or r
      assert.same({ first.status, first.body }, { r.status, r.body })
    end
    return first.body, looks - before
  end

  it("Lua looks for a route once", function()
    app:get("/", function() return "root" end)
    app:get("/a/:x/*rest", function(req) return req.path .. " " .. req.params.x .. " " .. req.params.rest end)
    local client = testing.serve(app)
    assert.same({ "root", 1 }, { asked(client, "/") })
    assert.same({ "/a/1/2/3 1 2/3", 1 }, { asked(client, "/a/1/2/3") })
    assert.same({ "/a/b c/d/e b c d/e", 0 }, { asked(client, "//a/b%20c/./d//e") })
    assert.same({ "root", 0 }, { asked(client, "/") })
    assert.same({ "", 0 }, { asked(client, "/", "HEAD") })
  end)

  it("and always for what has none", function()
    app:get("/", function() return "root" end)
    local client = testing.serve(app)
    assert.same({ "Not Found", 3 }, { asked(client, "/a") })
    assert.same({ "Method Not Allowed", 3 }, { asked(client, "/", "PUT") })
    assert.same({ "root", 1 }, { asked(client, "/") })
    assert.same({ "Bad Request", 3 }, { asked(client, "/%zz") })
  end)

  it("also for a function, and for each server of an app", function()
    local client = testing.serve(function(req) return req.path end)
    assert.same({ "/a", 1 }, { asked(client, "/a") })
    assert.same({ "/b", 0 }, { asked(client, "/b") })
    app:get("/a", function() return "app" end)
    local one, two = testing.serve(app), testing.serve(app)
    assert.same({ "app", 1 }, { asked(one, "/a") })
    assert.same({ "app", 1 }, { asked(two, "/a") })
    app:get("/b", function() return "b" end)
    assert.same({ "app", 1 }, { asked(one, "/a") })
    assert.same({ "b", 1 }, { asked(two, "/b") })
    assert.same({ "/c", 0 }, { asked(client, "/c") })
  end)

  it("a change of the app holds from the next request on", function()
    app:get("/a", function() return "a" end)
    local inner = http.app()
    inner:get("/*rest", function(req) return "inner " .. req.params.rest end)
    app:mount("/inner", inner)
    local client = testing.serve(app)
    assert.same({ "a", 1 }, { asked(client, "/a") })
    assert.same({ "inner b", 1 }, { asked(client, "/inner/b") })
    inner:get("/b", function() return "b" end)
    assert.equal("b", (asked(client, "/inner/b")))
    app:use(function(_, _, next) return next() .. "!" end)
    assert.same({ "a!", 1 }, { asked(client, "/a") })
    assert.same({ "b!", 1 }, { asked(client, "/inner/b") })
    app:compile()
    assert.same({ "a!", 1 }, { asked(client, "/a") })
    app:set { slash = "strict" }
    assert.same({ "Not Found!", 3 }, { asked(client, "/a/") })
  end)

  it("where hosts have apps, Lua looks for each", function()
    local other = http.app()
    other:get("/a", function() return "other" end)
    app:get("/a", function() return "a" end)
    app:host("other.example", other)
    local client = testing.serve(app)
    assert.same({ "a", 3 }, { asked(client, "/a") })
    assert.equal("other", client:get("/a", { headers = { Host = "other.example" } }).body)
    assert.same({ "a", 3 }, { asked(client, "/a") })
  end)

  it("a handler whose number is another's calls what it did", function()
    for i = 1, 5 do
      local own = http.app()
      own:get("/a", function() return "app " .. i end)
      local client = testing.serve(own)
      assert.same({ "app " .. i, 1 }, { asked(client, "/a") })
      client:close()
    end
  end)

  it("garbage is collected but not what C needs", function()
    app:get("/:a", function(req) return req.params.a end)
    local client = testing.serve(app)
    app = nil
    assert.same({ "x", 1 }, { asked(client, "/x") })
    collectgarbage()
    collectgarbage()
    assert.same({ "y", 0 }, { asked(client, "/y") })
  end)
end)
