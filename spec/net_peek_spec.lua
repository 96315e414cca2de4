--- What a reader does without taking: peek and skip; and how often one wakes that wants many bytes.

local ffi = require "ffi"
local lp = require "lunapark"
local helper = require "spec.helper"
local pairs_of = require "spec.support.pairs"

local function poll_events()
  local n = 0
  for _, p in ipairs(lp.stats().ps) do n = n + p.poll_events end
  return n
end

describe("a connection", function()
  local open = pairs_of.new()
  after_each(open.close)
  local pair = open.pair

  -- Writes text in pieces, each of which the other side could be woken for.
  local function drip(a, text, size)
    return lp.go(function()
      for i = 1, #text, size do
        assert(a:write(text:sub(i, i + size - 1)))
        lp.sleep(0.001)
      end
    end)
  end

  describe("peeks", function()
    it("at bytes that the next read still gets", function()
      local a, b = pair()
      a:write "hello\n"
      assert.equal("hel", b:peek(3))
      assert.equal("hello\n", b:peek(6))
      assert.equal("", b:peek(0))
      assert.equal("hello", b:read_line())
    end)

    it("and waits for them", function()
      local a, b = pair()
      local g = drip(a, "0123456789", 3)
      assert.equal("01234567", b:peek(8))
      assert.equal("0123456789", b:read_exact(10))
      g:join()
    end)

    it("at a stream that ends before, or says nothing in time, and loses nothing", function()
      local a, b = pair()
      a:write "abc"
      assert.same({ nil, "timeout" }, { lp.deadline(0.01, b.peek, b, 4) })
      a:close()
      assert.same({ nil, "eof", "abc" }, { b:peek(4) })
      assert.same({ nil, "eof", "abc" }, { b:peek(4) })
      assert.equal("abc", b:read_all())
    end)

    it("in turn with other readers", function()
      local a, b = pair()
      local first, second = lp.go(b.peek, b, 2), lp.go(b.read_line, b)
      lp.yield()
      a:write "xy\n"
      assert.equal("xy", first:join(helper.PATIENCE))
      assert.equal("xy", second:join(helper.PATIENCE))
    end)
  end)

  describe("skips", function()
    it("bytes that are there, and bytes that come", function()
      local a, b = pair()
      a:write "hello\n"
      assert.equal("hell", b:peek(4))
      assert.is_true(b:skip(2))
      assert.is_true(b:skip(0))
      local g = drip(a, "0123456789", 3)
      assert.is_true(b:skip(4 + 5))
      assert.equal("56789", b:read_exact(5))
      g:join()
    end)

    it("more than there is room for", function()
      local a, b = pair()
      local g = lp.go(function()
        for _ = 1, 64 do assert(a:write(("x"):rep(2 ^ 20))) end
        assert(a:write "rest")
      end)
      collectgarbage()
      local before = lp.stats().memory.lua
      assert.is_true(b:skip(64 * 2 ^ 20))
      assert.is_true(lp.stats().memory.lua < before + 8 * 2 ^ 20)
      assert.equal("rest", b:read_exact(4))
      g:join()
    end)

    it("up to an error, and says how far it came", function()
      local a, b = pair()
      a:write "abc"
      assert.same({ nil, "timeout", 3 }, { lp.deadline(0.05, b.skip, b, 10) })
      a:write "de"
      a:close()
      assert.same({ nil, "eof", 2 }, { b:skip(10) })
    end)
  end)

  it("names an argument that is none", function()
    local _, b = pair()
    assert.matches("peek: n must be a whole number, 0 or more, got %-1", helper.raised(b.peek, b, -1))
    assert.matches("skip: n must be a whole number, 0 or more, got x", helper.raised(b.skip, b, "x"))
  end)

  describe("that is to bring many bytes", function()
    -- How often Gs were woken by the poller while fn ran, with a writer beside it.
    local function wakes_of(a, text, size, fn)
      local before = poll_events()
      local g = drip(a, text, size)
      fn()
      local n = poll_events() - before
      g:join()
      return n
    end

    it("wakes its reader once, when they are there", function()
      local a, b = pair()
      local text = ("0123456789"):rep(1000)
      for _, call in ipairs { "read_exact", "peek", "read_exact" } do
        local n = wakes_of(a, call == "peek" and text or text .. text, 100, function()
          assert.is_true(b[call](b, #text) == text)
          if call == "read_exact" then assert.is_true(b:peek(#text) == text) end
        end)
        assert.is_true(n <= 8, call .. ": " .. n)
        b:skip(#text)
      end
    end)

    it("wakes it a few times for more than the kernel keeps", function()
      local a, b = pair()
      local text = ("0123456789"):rep(30000)
      local n = wakes_of(a, text, 1000, function() assert.is_true(b:read_exact(#text) == text) end)
      assert.is_true(n <= 100, n)
    end)

    it("wakes it for what one read wants that comes after", function()
      local a, b = pair()
      local exact = lp.go(b.read_exact, b, 10000)
      lp.yield()
      exact:cancel()
      assert.same({ nil, "canceled" }, { exact:join() })
      a:write "x"
      assert.equal("x", b:read())
      assert.same({ nil, "timeout" }, { lp.deadline(0.01, b.read_exact, b, 10000) })
      local line = lp.go(b.read_line, b)
      lp.sleep(0.005)
      a:write "a line\n"
      assert.equal("a line", line:join(helper.PATIENCE))
      b:set_read_deadline(0.01)
      assert.same({ nil, "timeout" }, { b:read_exact(10000) })
      b:set_read_deadline(10)
      a:write "y" -- comes between two waits
      helper.eventually(function() return ffi.C.host_sock_ready(b.sock, 1) == 1 end)
      lp.sleep(0.005)
      assert.equal("y", b:read())
    end)

    it("wakes it when less has come and no more will", function()
      local a, b = pair()
      local g = lp.go(b.read_exact, b, 10000)
      lp.yield()
      a:write "some"
      lp.sleep(0.005)
      a:close()
      assert.same({ nil, "eof", "some" }, { g:join(helper.PATIENCE) })
    end)

    it("wakes it when the connection is reset", function()
      local a, b = pair()
      a:write "x"
      helper.eventually(function() return a:peek(0) end)
      b:write "never read"
      lp.sleep(0.005)
      local g = lp.go(b.read_exact, b, 10000)
      lp.yield()
      a:close() -- with bytes unread: a reset
      local _, err = g:join(helper.PATIENCE)
      assert.equal("connection reset by peer", err)
    end)

    it("brings all to a slow reader beside a fast writer", function()
      local a, b = pair()
      local text = ("0123456789abcdef"):rep(2 ^ 16)
      local g = lp.go(function()
        for _ = 1, 4 do assert(a:write(text)) end
        a:close_write()
      end)
      for _ = 1, 4 do
        assert.is_true(b:read_exact(#text) == text)
        lp.sleep(0.001)
      end
      assert.same({ nil, "eof", "" }, { b:read_exact(1) })
      g:join()
    end)
  end)
end)
