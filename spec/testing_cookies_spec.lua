local lp = require "lunapark"
local cookies = require "lunapark.testing.cookies"
local testing = require "lunapark.testing"

local function jar_with(fields, host, target)
  local jar = cookies.new()
  jar:take(type(fields) == "table" and fields or { fields }, host or "127.0.0.1", target or "/")
  return jar
end

describe("testing's cookie jar", function()
  it("sends a cookie to its host only", function()
    local jar = jar_with("a=1", "one.test")
    assert.equal("a=1", jar:field("one.test", "/"))
    assert.is_nil(jar:field("two.test", "/"))
    assert.is_nil(jar:field("sub.one.test", "/"))
  end)

  it("sends one with a domain to hosts below it, and takes none for others", function()
    local jar = jar_with({ "a=1; Domain=.One.test", "b=2; domain=other.test", "c=3; domain=ne.test" }, "www.one.test")
    for _, host in ipairs { "one.test", "www.one.test", "x.y.one.test" } do
      assert.equal("a=1", jar:field(host, "/"))
    end
    assert.is_nil(jar:field("other.test", "/"))
    assert.is_nil(jar:field("none.test", "/"))
    assert.is_nil(jar_with("a=1; Domain=0.0.1", "127.0.0.1"):field("127.0.0.1", "/"))
    assert.equal("a=1", jar_with("a=1; Domain=127.0.0.1", "127.0.0.1"):field("127.0.0.1", "/"))
  end)

  it("knows paths, and which comes first", function()
    local fields = { "a=1", "b=2; Path=/x", "c=3; Path=/", "d=4; Path=relative", "a=5; Path=/x/y" }
    local jar = jar_with(fields, nil, "/x/y?q=/z")
    assert.equal("a=5; a=1; b=2; d=4; c=3", jar:field("127.0.0.1", "/x/y/z"))
    assert.equal("a=1; b=2; d=4; c=3", jar:field("127.0.0.1", "/x?q"))
    assert.equal("c=3", jar:field("127.0.0.1", "/xy"))
  end)

  it("replaces and forgets", function()
    local jar = jar_with { "a=1", "b=2" }
    jar:take({ "a=3" }, "127.0.0.1", "/")
    assert.equal("a=3; b=2", jar:field("127.0.0.1", "/"))
    jar:take({ "a=; Max-Age=0", "b=; Expires=Thu, 01 Jan 1970 00:00:00 GMT" }, "127.0.0.1", "/")
    assert.is_nil(jar:field("127.0.0.1", "/"))
    jar:set("127.0.0.1", "c", "4")
    assert.equal("c=4", jar:field("127.0.0.1", "/"))
    jar:clear()
    assert.is_nil(jar:get "c")
  end)

  it("understands dates, and lets Max-Age win", function()
    local function expires(field)
      local _, cookie = jar_with(field):get "a"
      return cookie and cookie.expires
    end
    assert.equal(2000000000, expires "a=1; Expires=Wed, 18 May 2033 03:33:20 GMT")
    assert.equal(2000000000, expires "a=1; expires=Wednesday, 18-May-33 03:33:20 GMT")
    assert.equal(2019686399, expires "a=1; Expires=Fri, 31 Dec 2033 23:59:59 GMT")
    assert.equal(2087078400, expires "a=1; Expires=Wed, 20 Feb 2036 00:00:00 GMT")
    assert.is_nil(expires "a=1; Expires=soon")
    local at = expires "a=1; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
    assert.is_true(math.abs(at - os.time() - 60) <= 5)
  end)

  it("keeps secure cookies to itself, and leaves nonsense", function()
    local jar = jar_with { "a=1; Secure; HttpOnly", "nonsense", "=x", "b=x=y; ; =" }
    assert.equal("b=x=y", jar:field("127.0.0.1", "/"))
    local value, cookie = jar:get "a"
    assert.equal("1", value)
    assert.is_true(cookie.secure and cookie.http_only)
  end)

  it("keeps the 1,000 cookies that were set last", function()
    local fields = {}
    for i = 1, 1001 do fields[i] = ("c%d=%d"):format(i, i) end
    local jar = cookies.new()
    jar:take(fields, "h", "/")
    assert.is_nil((jar:get "c1"))
    assert.equal("2", (jar:get "c2"))
    jar:take({ "c2=again" }, "h", "/") -- takes no place of another
    jar:take({ "new=1" }, "h", "/")
    assert.is_nil((jar:get "c3"))
    assert.equal("again", (jar:get "c2"))
    assert.equal("1", (jar:get "new"))
  end)

  it("sends a cookie until it expires", function()
    testing.virtual(function()
      local jar = cookies.new()
      jar:take({ "a=1; Max-Age=10" }, "h", "/")
      lp.sleep(9)
      assert.equal("a=1", jar:field("h", "/"))
      lp.sleep(2)
      assert.is_nil(jar:field("h", "/"))
    end)
  end)
end)
