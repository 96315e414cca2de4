local ffi = require "ffi"
local headers = require "lunapark.http.headers"
local helper = require "spec.helper"

local function list(h)
  local lines = {}
  for _, name, value in h:each() do
    lines[#lines + 1] = name .. "=" .. value
  end
  return table.concat(lines, " ")
end

describe("http headers", function()
  local h
  before_each(function() h = headers.new() end)

  it("find a field whatever the case of its name", function()
    h["Content-Type"] = "text/css"
    assert.equal("text/css", h["content-type"])
    assert.equal("text/css", h["CONTENT-TYPE"])
    assert.equal("text/css", h:get "Content-type")
    assert.is_nil(h["content-length"])
  end)

  it("keep order and the case they were set with", function()
    h["B"] = "1"
    h["a"] = "2"
    h:add("C", 3)
    assert.equal("B=1 a=2 C=3", list(h))
  end)

  it("replace in place, whatever the case, and drop repeats", function()
    h:add("A", "1")
    h:add("B", "2")
    h:add("a", "3")
    h["A"] = "4"
    assert.equal("A=4 B=2", list(h))
  end)

  it("remove with nil, and may be filled again", function()
    h:add("A", "1")
    h:add("B", "2")
    h:add("A", "3")
    h.a = nil
    assert.equal("B=2", list(h))
    h.A = "5"
    assert.equal("B=2 A=5", list(h))
  end)

  it("join repeats as HTTP says", function()
    h:add("Accept", "a")
    h:add("accept", "b")
    h:add("Cookie", "x=1")
    h:add("Cookie", "y=2")
    h["Set-Cookie"] = { "a=1, 2", "b=3" }
    assert.equal("a, b", h.accept)
    assert.equal("x=1; y=2", h.cookie)
    assert.equal("a=1, 2", h["set-cookie"])
    assert.same({ "a=1, 2", "b=3" }, h:get_all "Set-Cookie")
    assert.same({}, h:get_all "nothing")
  end)

  it("refuse what would break the head, naming it", function()
    for _, value in ipairs { "a\r\nX: 1", "a\n", "\r", "a\0b", "\1", "a\27[0m", "\127" } do
      assert.matches("value of X contains CR, LF or NUL", helper.raised(function() h.X = value end))
      assert.matches("value of X contains", helper.raised(h.add, h, "X", value))
      assert.matches("value of X contains", helper.raised(function() h.X = { "fine", value } end))
    end
    h.X = "a\tb caf\233 \"~\""
    assert.equal("a\tb caf\233 \"~\"", h.X)
    h.X = nil
    for _, name in ipairs { "", "a b", "a:", "a\n", "ä", "a(b)" } do
      assert.matches("name must be a token", helper.raised(h.set, h, name, "1"))
    end
    assert.matches("name must be a token, got number", helper.raised(function() h[1] = "x" end))
    assert.matches("got boolean", helper.raised(function() h.X = true end))
    assert.equal("", list(h))
  end)

  it("blame the line that misused them", function()
    assert.matches("http_headers_spec", helper.raised(function() h.X = true end))
    assert.matches("http_headers_spec", helper.raised(function() h:set("X", "\n") end))
    assert.matches("http_headers_spec", helper.raised(function() h:add("\n", "x") end))
  end)

  it("take over what a table or other headers say", function()
    local other = headers.new()
    other:add("Set-Cookie", "a=1")
    other:add("Set-Cookie", "b=2")
    headers.merge(h, { ["X-A"] = 1 })
    h["Set-Cookie"] = "old=0"
    headers.merge(h, other)
    assert.equal("X-A=1 Set-Cookie=a=1 Set-Cookie=b=2", list(h))
  end)

  describe("that are fixed", function()
    local fixed, other

    before_each(function()
      fixed = headers.fixed { "X-One", "1", "X-Content-Type-Options", "nosniff", "X-Two", "2" }
      other = headers.fixed { "X-Two", "other", "X-Three", "3" }
    end)

    local ALL = "X-One=1 X-Content-Type-Options=nosniff X-Two=2"

    it("stand where they were put, and are read as all others", function()
      h.A = "a"
      headers.put_fixed(h, fixed)
      h.B = "b"
      assert.same({ "1", "2", "nosniff" }, { h["x-one"], h:get "X-TWO", h:get_all("x-content-type-options")[1] })
      assert.is_nil(h["x-three"])
      assert.equal("A=a " .. ALL .. " B=b", list(h))
    end)

    it("are changed and removed as all others", function()
      headers.put_fixed(h, fixed)
      h["x-one"] = "mine"
      h:add("X-Two", "more")
      h["X-Content-Type-Options"] = nil
      assert.equal("x-one=mine X-Two=2 X-Two=more", list(h))
      headers.put_fixed(h, fixed)
      assert.equal("x-one=mine X-Two=2 X-Two=more X-Content-Type-Options=nosniff", list(h))
      local again = headers.new()
      headers.put_fixed(again, fixed)
      assert.equal(ALL, list(again))
      again["X-Two"] = { "a", "b" }
      assert.same({ "a", "b" }, again:get_all "x-two")
    end)

    it("may be none", function()
      local none = headers.fixed {}
      headers.put_fixed(h, none)
      assert.equal("", list(h))
      h.A = "a"
      headers.put_fixed(h, none)
      assert.same({ "a" }, { h.a, h.b })
      assert.equal("A=a", list(h))
    end)

    it("are not put where such a field is", function()
      headers.put_fixed(h, fixed)
      headers.put_fixed(h, other)
      headers.put_fixed(h, other)
      headers.put_fixed(h, fixed)
      assert.equal(ALL .. " X-Three=3", list(h))
      local own = headers.new()
      own["x-TWO"] = "own"
      headers.put_fixed(own, other)
      assert.equal("x-TWO=own X-Three=3", list(own))
    end)

    it("may stand beside many, and be several", function()
      local expected = {}
      for i = 1, 9 do
        h["A" .. i] = i
        expected[i] = ("A%d=%d"):format(i, i)
        if i == 3 then
          headers.put_fixed(h, fixed)
          headers.put_fixed(h, headers.fixed { "X-Four", "4" })
          expected[i] = expected[i] .. " " .. ALL .. " X-Four=4"
        end
      end
      assert.same({ "1", "4", "9" }, { h["X-One"], h["X-Four"], h.a9 })
      headers.put_fixed(h, other)
      assert.equal(table.concat(expected, " ") .. " X-Three=3", list(h))
    end)

    it("become lines with the others, unless the host has to know of one", function()
      local function lines_of(of)
        local n, guarded = headers.put_lines(of)
        return n and ffi.string(headers.room, n), guarded
      end
      assert.same({ "", false }, { lines_of(h) })
      h.A = "a"
      assert.same({ "A: a\r\n", false }, { lines_of(h) })
      headers.put_fixed(h, fixed)
      h.B = "b"
      local lines, guarded = lines_of(h)
      assert.equal("A: a\r\nX-One: 1\r\nX-Content-Type-Options: nosniff\r\nX-Two: 2\r\nB: b\r\n", lines)
      assert.is_true(guarded)
      h.C = ("c"):rep(4096)
      assert.is_nil((lines_of(h)))
      for _, name in ipairs { "Content-Type", "Content-Length", "Connection", "Transfer-Encoding", "Date" } do
        local own = headers.new()
        headers.put_fixed(own, fixed)
        own[name] = "1"
        assert.is_nil((lines_of(own)))
        assert.equal(ALL .. " " .. name .. "=1", list(own))
      end
    end)
  end)

  it("do not keep for ever which names clients have made up", function()
    local function make_up(from, to)
      for i = from, to do
        h["A" .. i] = "1"
        h["A" .. i] = nil
      end
      collectgarbage()
      collectgarbage()
      return collectgarbage "count"
    end
    local before = make_up(1, 2000)
    assert.is_true(make_up(2001, 22000) - before < 200)
  end)
end)
