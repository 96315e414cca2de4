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

  it("compares patterns with decoded paths, also those without names", function()
    local find = routes("GET /a%41", "GET /b/c", "GET /b/*rest", "POST /b/d", "GET /:x/d")
    assert.is_nil(find("GET", "/a%41"), "that is /aA")
    assert.equal("GET /a%41", find("GET", "/a%2541"))
    assert.equal("GET /b/c", find("GET", "/b/%63"))
    assert.equal("GET /b/c", find("GET", "/b/x/../c"))
    assert.equal("GET /b/*rest", find("GET", "/b/d"))
    assert.equal("POST /b/d", find("POST", "/b/d"))
    assert.is_nil(find("GET", "/b"))
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

  it("gives names the part of their segment beside the text around them", function()
    local find = routes("GET /u/:id.json", "GET /v:major/x", "GET /f/a:b.tar.gz", "GET /t/:id::stop", "GET /t::u/:x",
      "GET /a::b::", "GET /w/a:::p")
    assert.same({ "GET /u/:id.json", { id = "7" } }, { find("GET", "/u/7.json") })
    assert.same({ "GET /u/:id.json", { id = "a.json" } }, { find("GET", "/u/a.json.json") })
    assert.same({ "GET /u/:id.json", { id = "a/b" } }, { find("GET", "/u/a%2Fb%2ejson") })
    assert.same({ "GET /v:major/x", { major = "12" } }, { find("GET", "/v12/x") })
    assert.same({ "GET /f/a:b.tar.gz", { b = "-" } }, { find("GET", "/f/a-.tar.gz") })
    assert.same({ "GET /t/:id::stop", { id = "7" } }, { find("GET", "/t/7:stop") })
    assert.same({ "GET /t::u/:x", { x = "1" } }, { find("GET", "/t:u/1") })
    assert.same({ "GET /a::b::", {} }, { find("GET", "/a:b:") })
    assert.same({ "GET /w/a:::p", { p = "1" } }, { find("GET", "/w/a:1") })
    for _, path in ipairs {
      "/u/.json", "/u/7", "/u/7.jso", "/u/7.json/", "/v/x", "/12/x", "/v12", "/f/a.tar.gz", "/f/b-.tar.gz", "/t/:stop",
      "/t/7:start", "/a::b::", "/w/1", "/w/a:",
    } do
      assert.is_nil(find("GET", path), path)
    end
  end)

  it("gives names of a kind only what is of it", function()
    local uuid = "01234567-89ab-cdef-ABCD-0123456789ab"
    local fit = {
      int = { "0", "-1", "007", ("9"):rep(40) }, uuid = { uuid }, hex = { "0", "aF9" }, alpha = { "a", "Zed" },
      slug = { "a", "a-b_9", "-", "0" },
    }
    local unfit = {
      int = { "-", "+1", "1.5", "1a", "a1", "--1", "1-", "\195\188", "1 ", "%31%00" },
      uuid = { uuid .. "0", uuid:sub(2), uuid:gsub("-", "0"), uuid:gsub("a", "g"), ("-"):rep(36), "0" },
      hex = { "g", "0x1", "-1", "a b" }, alpha = { "a1", "a-b", "\195\188" },
      slug = { "a.b", "a b", "a%2Fb", "\195\188" },
    }
    for kind, list in pairs(fit) do
      local find = routes("GET /a/:x<" .. kind .. ">", "GET /b/v:x<" .. kind .. ">-end/y")
      for _, s in ipairs(list) do
        assert.same({ x = s }, select(2, find("GET", "/a/" .. s)), kind .. " " .. s)
        assert.same({ x = s }, select(2, find("GET", "/b/v" .. s .. "-end/y")), kind .. " " .. s)
      end
      for _, s in ipairs(unfit[kind]) do
        assert.is_nil(find("GET", "/a/" .. s), kind .. " " .. s)
        assert.is_nil(find("GET", "/b/v" .. s .. "-end/y"), kind .. " " .. s)
      end
      assert.is_nil(find("GET", "/a/"))
      assert.is_nil(find("GET", "/b/v-end/y"))
    end
  end)

  -- Whatever the order in which they were added.
  it("lets literals beat text around names, that beat kinds, narrow ones first, and kinds beat mere names", function()
    local lines = {
      "GET /u/7", "GET /u/:i.json", "GET /u/:i<int>.json", "GET /u/:i.x.json", "GET /u/:i<int>", "GET /u/:i<uuid>",
      "GET /u/:i<hex>", "GET /u/:i<alpha>", "GET /u/:i<slug>", "GET /u/:i", "GET /u/*i", "GET /u/ab:i", "GET /u/a:i.b",
      "GET /u/:i.cd", "GET /u/ab:i<int>",
    }
    local finds = {
      ["7"] = "7", ["8"] = ":i<int>", ["8.json"] = ":i<int>.json", ["e.json"] = ":i.json", ["e.x.json"] = ":i.x.json",
      ["01234567-89ab-cdef-abcd-0123456789ab"] = ":i<uuid>", ["8f"] = ":i<hex>", ["fa"] = ":i<hex>",
      ["fag"] = ":i<alpha>",
      ["fa-g"] = ":i<slug>", ["fa g"] = ":i", ["8/9"] = "*i", [""] = "*i", ["abc"] = "ab:i", ["ab7"] = "ab:i<int>",
      ["abc.cd"] = ":i.cd", ["abc.d"] = "ab:i", ["ac.cd"] = ":i.cd", ["ac.b"] = "a:i.b",
    }
    for _ = 1, 20 do
      for i = #lines, 2, -1 do
        local k = math.random(i)
        lines[i], lines[k] = lines[k], lines[i]
      end
      local find = routes(unpack(lines))
      for s, line in pairs(finds) do
        assert.equal("GET /u/" .. line, (find("GET", "/u/" .. s)), s)
      end
    end
  end)

  it("comes back from kinds and text to mere names, for methods and for what follows", function()
    local find = routes("GET /u/:id<int>", "POST /u/:id", "PUT /u/:id<hex>", "DELETE /u/7", "GET /u/:id<int>/a",
      "GET /u/:name.x/b", "GET /u/:name/c", "HEAD /u/:id<hex>")
    assert.equal("GET /u/:id<int>", find("GET", "/u/7"))
    assert.equal("POST /u/:id", find("POST", "/u/7"))
    assert.equal("PUT /u/:id<hex>", find("PUT", "/u/7"))
    assert.equal("DELETE /u/7", find("DELETE", "/u/7"))
    assert.equal("GET /u/:id<int>", find("HEAD", "/u/7"))
    assert.equal("HEAD /u/:id<hex>", find("HEAD", "/u/f"))
    assert.same({ nil, "DELETE, GET, HEAD, OPTIONS, POST, PUT" }, { find("PATCH", "/u/7") })
    assert.same({ nil, "HEAD, OPTIONS, POST, PUT" }, { find("GET", "/u/f") })
    assert.same({ nil, "OPTIONS, POST" }, { find("GET", "/u/x") })
    assert.same({ "GET /u/:id<int>/a", { id = "7" } }, { find("GET", "/u/7/a") })
    assert.same({ "GET /u/:name.x/b", { name = "7" } }, { find("GET", "/u/7.x/b") })
    assert.same({ "GET /u/:name/c", { name = "7.x" } }, { find("GET", "/u/7.x/c") })
    assert.same({ "GET /u/:name/c", { name = "7" } }, { find("GET", "/u/7/c") })
    assert.is_nil(find("GET", "/u/7/d"))
  end)

  it("takes segments of a kind and mere names for different ones when routes are added", function()
    local find, r = routes("GET /:a<int>", "GET /:a", "GET /:a.json", "GET /x:a")
    for _, pattern in ipairs { "/:b<int>", "/:b", "/:b.json", "/x:b" } do
      local pieces = router.parse(pattern, "test", 1)
      assert.is_false(r:add("GET", pieces, {}))
      assert.equal(router.shape(pieces), router.shape(router.parse(pattern:gsub("b", "c"), "test", 1)))
    end
    assert.equal("GET /:a", (find("GET", "/q")))
  end)

  it("finds among many of one segment, however long it is", function()
    local lines = {}
    for i = 1, 300 do
      lines[i] = ("GET /p%d.:x<int>/y"):format(i)
    end
    local find = routes(unpack(lines))
    for i = 1, 300 do
      assert.same({ lines[i], { x = "7" } }, { find("GET", ("/p%d.7/y"):format(i)) })
    end
    assert.is_nil(find("GET", "/p1." .. ("7"):rep(8000) .. "/z"))
    assert.is_nil(find("GET", "/p1." .. ("7"):rep(8000) .. "x/y"))
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
    assert.matches("must not contain ?, # or NUL", refused "/a\0b", 1, true)
    assert.matches("can never match: // is one slash", refused "/a//b")
    assert.matches("can never match: // is one slash", refused "//")
    assert.matches("has <integer> in :id<integer>, which is none of alpha, hex, int, slug, uuid$",
      refused "/:id<integer>")
    assert.matches("has <itn> in :id<itn>, .*: did you mean int%?$", refused "/:id<itn>")
    assert.matches("has <> in :id<>", refused "/:id<>")
    assert.matches("has <%[0%-9%]%+> in", refused "/:id<[0-9]+>")
    for _, piece in ipairs {
      ":id(%d+)", ":id*", ":id+", ":id<int", ":id<int>*", ":id{int}", "v<:id", ":user-id", ":na\195\175ve",
    } do
      assert.is_truthy(refused("/" .. piece):find("has a bad name: " .. piece, 1, true), piece)
    end
    assert.matches("has two names in one segment: :a%.:b", refused "/:a.:b")
    assert.matches("has two names in one segment: :a:b", refused "/:a:b")
    assert.matches("has the name a twice", refused "/:a<int>/x:a")
    assert.matches("has {id}: names of segments begin with a colon", refused "/{id}.json")
    assert.matches("has <id>: names of segments begin with a colon", refused "/<id>.json")
  end)
end)
