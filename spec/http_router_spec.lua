local router = require "lunapark.http.router"
local helper = require "spec.helper"

local ffi = require "ffi"
require "lunapark.cdef"

local function id_of(method)
  return ffi.C.host_method_id(method, #method)
end

-- A router with these "METHOD pattern" lines, and what it finds: the line and its params.
local function routes(...)
  local r = router.new()
  for _, line in ipairs { ... } do
    local method, pattern = line:match "^(%u+) (.*)$"
    assert.is_true(r:add(method, router.parse(pattern, "test", 1), { line = line }))
  end
  return function(method, raw)
    local route = r:match(id_of(method), raw, #raw)
    if not route then return nil, r:allowed(raw) end
    return route.line, router.params(route)
  end, r
end

describe("http router", function()
  it("matches literal paths exactly", function()
    local find = routes("GET /", "GET /a", "GET /a/b", "GET /a/b/")
    assert.equal("GET /", find("GET", "/"))
    assert.equal("GET /a", find("GET", "/a"))
    assert.equal("GET /a/b", find("GET", "/a/b"))
    assert.equal("GET /a/b/", find("GET", "/a/b/"))
    assert.is_nil(find("GET", "/a/"))
    assert.is_nil(find("GET", "/b"))
    assert.equal("GET /a", find("GET", "//a"))
    assert.equal("GET /a/b/", find("GET", "/a///b//"))
  end)

  it("gives names their segments and tails the rest", function()
    local find = routes("GET /u/:id", "GET /u/:id/posts/:post", "GET /f/*path")
    local line, params = find("GET", "/u/a%2Fb")
    assert.equal("GET /u/:id", line)
    assert.same({ id = "a/b" }, params)
    assert.same({ id = "7", post = "8" }, select(2, find("GET", "/u/7/posts/8")))
    assert.same({ path = "x/y z" }, select(2, find("GET", "/f/x/y%20z")))
    assert.same({ path = "" }, select(2, find("GET", "/f/")))
    assert.is_nil(find("GET", "/f"))
    assert.is_nil(find("GET", "/u/"))
    assert.same({ id = "7", post = "8" }, select(2, find("GET", "//u//7/posts//8")))
    assert.same({ path = "a/b" }, select(2, find("GET", "/f//a//b")))
  end)

  it("lets literals beat names and names beat tails", function()
    local find = routes("GET /a/b", "GET /a/:x", "GET /a/*y", "GET /*z")
    assert.equal("GET /a/b", find("GET", "/a/b"))
    assert.equal("GET /a/:x", find("GET", "/a/c"))
    assert.equal("GET /a/*y", find("GET", "/a/b/c"))
    assert.equal("GET /a/*y", find("GET", "/a/"))
    assert.equal("GET /*z", find("GET", "/q"))
  end)

  it("comes back from ways that end", function()
    local find = routes("GET /a/b/d", "GET /a/:x/c", "GET /:p/b/*r", "POST /a/b/e", "GET /:p/:q/e")
    assert.equal("GET /a/:x/c", find("GET", "/a/b/c"))
    assert.equal("GET /a/b/d", find("GET", "/a/b/d"))
    assert.equal("GET /:p/b/*r", find("GET", "/a/b/e"))
    assert.equal("POST /a/b/e", find("POST", "/a/b/e"))
    assert.equal("GET /:p/:q/e", find("GET", "/a/x/e"))
  end)

  it("lets patterns name the same segment differently", function()
    local find = routes("GET /:a/x", "GET /:b/y")
    assert.same({ a = "1" }, select(2, find("GET", "/1/x")))
    assert.same({ b = "1" }, select(2, find("GET", "/1/y")))
  end)

  it("answers HEAD from GET unless it has its own route", function()
    local find = routes("GET /a", "GET /b", "HEAD /b", "POST /c")
    assert.equal("GET /a", find("HEAD", "/a"))
    assert.equal("HEAD /b", find("HEAD", "/b"))
    assert.is_nil(find("HEAD", "/c"))
  end)

  it("answers any method from ANY, but a method's own route first", function()
    local find = routes("ANY /a", "POST /a")
    assert.equal("ANY /a", find("GET", "/a"))
    assert.equal("ANY /a", find("PROPFIND", "/a"))
    assert.equal("POST /a", find("POST", "/a"))
  end)

  it("knows which methods a path has", function()
    local find = routes("GET /a", "POST /a", "DELETE /:x", "PUT /b")
    assert.same({ nil, "DELETE, GET, HEAD, OPTIONS, POST" }, { find("PATCH", "/a") })
    assert.same({ nil, "DELETE, OPTIONS" }, { find("GET", "/z") })
    assert.same({ nil, nil }, { find("GET", "/a/b") })
  end)

  it("gives the path, decoded", function()
    local find = routes "GET /*r"
    find("GET", "/a%20b/../c/./d%2Fe")
    assert.equal("/c/d/e", router.path())
    find("GET", "")
    assert.equal("/", router.path())
    find("PUT", "/a/b")
    assert.equal("/a/b", router.path())
    find("GET", "//evil.example//b")
    assert.equal("/evil.example/b", router.path())
    assert.is_nil(find("GET", "/%"))
    assert.equal("", router.path())
  end)

  it("takes many names, and says how many are too many", function()
    local pieces, names, segments = {}, {}, {}
    for i = 1, 32 do
      pieces[i], segments[i], names["n" .. i] = ":n" .. i, tostring(i), tostring(i)
    end
    local find = routes("GET /" .. table.concat(pieces, "/"))
    assert.same(names, select(2, find("GET", "/" .. table.concat(segments, "/"))))
    pieces[33] = "*"
    assert.matches("has more than 32 names", helper.raised(router.parse, "/" .. table.concat(pieces, "/"), "get", 1))
    local _, r = routes()
    assert.matches("has more than 32 names", helper.raised(r.add, r, "GET", pieces, {}))
  end)

  it("finds each of many routes, and nothing else", function()
    local lines = {}
    for i = 1, 3000 do
      lines[i] = ("GET /a%d/:x/b%d"):format(i % 50, i)
    end
    local find = routes(unpack(lines))
    for i = 1, 3000 do
      assert.equal(lines[i], find("GET", ("/a%d/x/b%d"):format(i % 50, i)))
      assert.is_nil(find("GET", ("/a%d/x/b%d"):format((i + 1) % 50, i)))
    end
  end)

  it("says when a route is there already", function()
    local _, r = routes("GET /:a/x")
    assert.is_false(r:add("GET", router.parse("/:b/x", "test", 1), {}))
    assert.is_true(r:add("POST", router.parse("/:b/x", "test", 1), {}))
  end)

  it("comes back from long ways that end", function()
    local lines = {}
    for i = 0, 9 do
      for bits = 0, 2 ^ math.min(i, 6) - 1 do
        local pattern = ""
        for k = 1, i do
          pattern = pattern .. (bit.band(bit.rshift(bits, k), 1) == 1 and "/a" or "/:n" .. k)
        end
        lines["GET " .. pattern .. "/end"] = true
      end
    end
    local r = router.new()
    for line in pairs(lines) do
      r:add("GET", router.parse(line:sub(5), "test", 1), { line = line })
    end
    local raw = ("/a"):rep(4000)
    assert.is_nil(r:match(id_of "GET", raw, #raw))
    assert.is_nil(r:allowed(raw))
    raw = ("/a"):rep(9) .. "/end"
    assert.is_not_nil(r:match(id_of "GET", raw, #raw))
  end)

  it("refuses bad patterns, naming them", function()
    local function refused(pattern) return helper.raised(router.parse, pattern, "get", 1) end
    assert.matches('get: path "a" must begin with /', refused "a")
    assert.matches('get: path "" must begin with /', refused "")
    assert.matches("get: path nil must be a string", refused(nil))
    assert.matches("has a bad name: :", refused "/:")
    assert.matches("has a bad name: :a%-b", refused "/:a-b")
    assert.matches("has a bad name: %*1", refused "/*1")
    assert.matches("has the name a twice", refused "/:a/:a")
    assert.matches("has %*a before its end", refused "/*a/b")
    assert.matches("can never match: %.%.", refused "/a/../b")
    assert.matches("must not contain", refused "/a?b")
  end)
end)
