local cookie = require "lunapark.http.cookie"
local path = require "lunapark.http.path"
local helper = require "spec.helper"

describe("http paths", function()
  local function split(raw)
    local segments = {}
    local n, err = path.split(raw, segments)
    if not n then return nil, err end
    return table.concat(segments, "|", 1, n)
  end

  it("are cut at raw slashes and decoded once per segment", function()
    assert.equal("", split "/")
    assert.equal("a|b", split "/a/b")
    assert.equal("a|", split "/a/")
    assert.equal("a/b|c", split "/a%2Fb/c")
    assert.equal("a%2Fb", split "/a%252Fb")
    assert.equal("a b+c", split "/a%20b+c")
  end)

  it("have one slash where several are in a row, before dots are resolved", function()
    for raw, segments in pairs {
      ["//"] = "", ["///"] = "", ["//a"] = "a", ["/a//b"] = "a|b", ["/a///b//"] = "a|b|", ["//a%20b"] = "a b",
      ["/a//../b"] = "b", ["/a//."] = "a|", ["//./a"] = "a", ["/a/%2e//b"] = "a|b", ["/a%2F%2Fb"] = "a//b",
    } do
      assert.same({ raw, segments }, { raw, split(raw) })
    end
    assert.same({ nil, "above the root" }, { split "//.." })
  end)

  it("have their dots resolved", function()
    assert.equal("b", split "/a/../b")
    assert.equal("a|b", split "/a/./b")
    assert.equal("", split "/a/..")
    assert.equal("a|", split "/a/b/..")
    assert.equal("a|", split "/a/.")
    assert.equal("b", split "/a/%2e%2E/b")
    assert.equal("...", split "/...")
  end)

  it("with a separator and dots in one segment are errors, however they are spelled", function()
    for _, raw in ipairs {
      "/..%2Fx", "/..%2fx", "/%2e%2e%2fx", "/%2E.%2Fx", "/.%2Fx", "/x%2F..", "/x%2F.", "/a%2F..%2Fb",
      "/a/b/..%2F..%2Fc",
      "/..%5Cx", "/..\\x", "/x\\..", "/a\\..\\b", "/a%5C.%2Fb", "/%2F..", "/..%2F", "/a/..%2F..",
    } do
      assert.same({ nil, "dots behind an escaped slash" }, { split(raw) }, raw)
    end
    assert.equal("a/b|c", split "/a%2fb/c")
    assert.equal("a\\b", split "/a%5Cb")
    assert.equal("a\\b", split "/a\\b")
    assert.equal("/", split "/%2F")
    assert.equal("..a/b..|.../c", split "/..a%2Fb../...%2Fc")
    assert.equal("..%2Fx", split "/..%252Fx")
  end)

  it("above the root, with bad escapes or NULs are errors", function()
    for _, raw in ipairs { "/..", "/../a", "/a/../..", "/%2e%2e/a" } do
      assert.same({ nil, "above the root" }, { split(raw) })
    end
    for _, raw in ipairs { "/%", "/%2", "/%zz", "/a/%2/b", "/%%30" } do
      assert.same({ nil, "bad percent escape" }, { split(raw) })
    end
    assert.same({ nil, "NUL in path" }, { split "/a%00b" })
  end)

  it("do not see what an earlier, longer path left behind", function()
    local segments = {}
    path.split("/a/b/c", segments)
    local n = path.split("/d", segments)
    assert.equal("/d", path.join(segments, n))
  end)
end)

describe("http cookies", function()
  it("are found by name", function()
    assert.equal("2", cookie.get("a=1; b=2;c = 3 ", "b"))
    assert.equal("3", cookie.get("a=1; b=2;c = 3 ", "c"))
    assert.equal("", cookie.get("a=", "a"))
    assert.equal("x y", cookie.get('a="x y"', "a"))
    assert.is_nil(cookie.get("a=1", "b"))
    assert.is_nil(cookie.get(nil, "b"))
    assert.equal("%zz", cookie.get("a=%zz", "a"))
    assert.equal("1", cookie.get("ab=2; a=1; a=3", "a"))
    assert.equal("b=c", cookie.get("a = b=c", "a"))
    assert.equal('"', cookie.get('a="', "a"))
    assert.equal(("x"):rep(9000), cookie.get("b=1; a=" .. ("x"):rep(9000), "a"))
    for _, name in ipairs { "", "a b", "a=", "a;" } do
      assert.is_nil(cookie.get("a b=1; a==2; a;=3; =4", name))
    end
  end)

  it("survive the round trip, whatever is in them", function()
    local all = {}
    for i = 0, 255 do
      all[i + 1] = string.char(i)
    end
    local value = table.concat(all)
    local line = cookie.format("a", value)
    assert.is_nil(line:find "[%z\r\n]")
    assert.equal(value, cookie.get(line:match "^[^;]*", "a"))
  end)

  it("have options, in any spelling", function()
    assert.equal("a=1; Path=/", cookie.format("a", 1))
    assert.equal("a=1; Path=/x; Domain=d.org; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Secure; HttpOnly; "
      .. "SameSite=Lax", cookie.format("a", "1", {
        path = "/x", domain = "d.org", max_age = 60, expires = 0, secure = true, httpOnly = true, ["same-site"] = "lax",
      }))
    assert.equal("a=1; Path=/", cookie.format("a", "1", { secure = false }))
  end)

  it("refuse misuse", function()
    assert.matches("name must be a token", helper.raised(cookie.format, "a b", "1"))
    assert.matches("value must be a string", helper.raised(cookie.format, "a", nil))
    assert.matches("unknown option max", helper.raised(cookie.format, "a", "1", { max = 1 }))
    assert.matches("bad value of option path", helper.raised(cookie.format, "a", "1", { path = "/; Secure" }))
    assert.matches("bad value of option samesite", helper.raised(cookie.format, "a", "1", { same_site = "some" }))
    assert.matches("bad value of option maxage", helper.raised(cookie.format, "a", "1", { max_age = "1" }))
  end)
end)
