--- Errors without data: they end waits, with words.

local lp = require "lunapark"
local net = require "lunapark.net"
local helper = require "spec.helper"
local pairs_of = require "spec.support.pairs"

describe("an error of a descriptor, without data,", function()
  local open = pairs_of.new()
  after_each(open.close)
  local pair, keep = open.pair, open.keep

  -- Closes a connection that has bytes unread, so that its peer is reset.
  local function reset(conn, peer)
    assert(peer:write "unread")
    helper.eventually(function() return conn:peek(1) end)
    assert(peer:write "also unread")
    lp.sleep(0.005)
    conn:close()
  end

  it("ends a wait for a datagram", function()
    local a, gone = keep(net.udp "127.0.0.1:0"), net.udp "127.0.0.1:0"
    a:connect(gone:local_addr())
    gone:close()
    local g = lp.go(a.recv, a)
    lp.sleep(0.005)
    assert(a:send "x")
    assert.same({ nil, "connection refused" }, { g:join(helper.PATIENCE) })
    local waits = lp.go(a.recv, a)
    assert.same({ nil, "timeout" }, { waits:join(0.01) }) -- the error is over
    waits:cancel()
  end)

  it("ends each read of a connection", function()
    for _, call in ipairs { "read", "read_line", "read_all", "skip" } do
      local a, b = pair()
      local g = lp.go(b[call], b, call == "skip" and 100 or nil)
      lp.yield()
      reset(a, b)
      local _, err = g:join(helper.PATIENCE)
      assert.equal("connection reset by peer", err, call)
    end
  end)

  it("ends a write", function()
    local a, b = pair()
    local g = lp.go(b.write, b, ("x"):rep(16 * 2 ^ 20))
    helper.eventually(function() return a:peek(1) end)
    lp.sleep(0.005)
    a:close()
    local _, err = g:join(helper.PATIENCE)
    assert.is_true(err == "connection reset by peer" or err == "broken pipe", err)
  end)
end)
