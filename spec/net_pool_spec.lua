--- Connections that are used again: net.pool.

local lp = require "lunapark"
local net = require "lunapark.net"
local pool_of = require "lunapark.net.pool"
local helper = require "spec.helper"
local pairs_of = require "spec.support.pairs"

describe("net.pool", function()
  local open = pairs_of.new()
  local server, pool, there

  -- A server whose side of each connection is in `there`, by number.
  before_each(function()
    there = {}
    server = assert(net.serve("127.0.0.1:0", function(c)
      local n = #there + 1
      there[n] = c
      for line in function() return c:read_line() end do
        if line == "hang up" then return end
        c:write(n .. " " .. line .. "\n")
      end
    end))
  end)
  after_each(function()
    if pool then pool:close() end
    server:stop(0)
    open.close()
    pool = nil
  end)

  local function new(opts)
    pool = net.pool(server:addr(), opts)
    return pool
  end

  local function ask(c, text)
    assert(c:write(text .. "\n"))
    return c:read_line()
  end

  -- A connection that its server has begun with, so that the server counts them in this order.
  local function get(s)
    local c = open.keep(pool:get(s))
    assert(ask(c, "begin"))
    return c
  end

  local function counts(idle, taken, waiting)
    assert.same({ idle, taken, waiting or 0 }, { pool:count() })
  end

  it("makes connections, and hands them out again, the latest first", function()
    new()
    counts(0, 0)
    local a, b = get(), get()
    assert.equal("1 x", ask(a, "x"))
    assert.equal("2 x", ask(b, "x"))
    counts(0, 2)
    assert.is_true(pool:put(a))
    assert.is_true(pool:put(b))
    counts(2, 0)
    assert.equal("2 y", ask(get(), "y"))
    assert.equal("1 y", ask(get(), "y"))
    assert.equal("3 y", ask(get(), "y"))
    counts(0, 3)
  end)

  it("uses one connection for requests one after another", function()
    new()
    for i = 1, 100 do
      local c = assert(pool:get())
      assert.equal("1 " .. i, ask(c, i))
      pool:put(c)
    end
    counts(1, 0)
  end)

  it("lets a G read as soon as it has a connection", function()
    new()
    for i = 1, 20 do
      local c = assert(pool:get())
      c:write "a\n"
      assert.equal("1 a", lp.deadline(helper.PATIENCE, c.read_line, c), i)
      pool:put(c)
      if i % 2 == 0 then lp.sleep(0.001) end -- the pool's G has begun to wait
    end
  end)

  describe("drops a connection that waits", function()
    it("when its peer hangs up, before anybody asks for it", function()
      new()
      local a, b = get(), get()
      assert.equal("1 x", ask(a, "x"))
      assert.equal("2 x", ask(b, "x"))
      pool:put(a)
      pool:put(b)
      lp.yield()
      there[1]:close_write() -- its end, but no more than that
      helper.eventually(function() return pool:count() == 1 end)
      assert.same({ nil, "closed" }, { a:read() })
      there[2]:close()
      helper.eventually(function() return pool:count() == 0 end)
      counts(0, 0)
      assert.equal("3 x", ask(get(), "x"))
    end)

    it("when its peer has hung up at this very moment", function()
      new()
      for i = 1, 20 do
        local c = assert(pool:get())
        assert.equal(i .. " x", ask(c, "x"))
        pool:put(c)
        there[i]:close()
      end
    end)

    it("when it says something that nobody asked for", function()
      new()
      local a = get()
      assert.equal("1 x", ask(a, "x"))
      pool:put(a)
      there[1]:write "by the way\n"
      helper.eventually(function() return pool:count() == 0 end)
      assert.equal("2 x", ask(get(), "x"))
    end)

    it("after its time", function()
      new { idle = 0.02 }
      pool:put(get())
      counts(1, 0)
      helper.eventually(function() return pool:count() == 0 end)
      counts(0, 0)
    end)
  end)

  describe("put", function()
    it("keeps no connection that is not silent", function()
      new()
      local a, b, c = get(), get(), get()
      assert.equal("1 x", ask(a, "x"))
      assert.equal("2 x", ask(b, "x"))
      a:write "unread\n"
      helper.eventually(function() return a:peek(1) end)
      assert.is_false(pool:put(a))
      local reader = lp.go(b.read, b)
      lp.yield()
      assert.is_false(pool:put(b))
      assert.same({ nil, "closed" }, { reader:join() })
      ask(c, "x")
      assert(c:write "hang up\n")
      assert.same({ nil, "eof", "" }, { c:peek(1) })
      assert.is_false(pool:put(c))
      counts(0, 0)
    end)

    it("clears deadlines", function()
      new()
      local a = get()
      a:set_deadline(0.01)
      pool:put(a)
      lp.sleep(0.02)
      counts(1, 0)
      assert.equal("1 x", ask(assert(pool:get()), "x"))
    end)

    it("takes what get has returned, once", function()
      new()
      local a = get()
      pool:put(a)
      assert.matches("put: c must be a connection that get returned", helper.raised(pool.put, pool, a))
      local other = open.keep(net.dial(server:addr()))
      assert.matches("put: c must be a connection that get returned", helper.raised(pool.put, pool, other))
      assert.matches("put: c must be a connection, got nil", helper.raised(pool.put, pool))
      a = get()
      a:close()
      a:close()
      counts(0, 0)
      assert.is_false(pool:put(a))
      counts(0, 0)
    end)
  end)

  describe("max", function()
    it("bounds connections, and those who wait come first who came first", function()
      new { max = 1 }
      local a = get()
      local order, gs = {}, {}
      for i = 1, 5 do
        gs[i] = lp.go(function()
          local c = assert(pool:get())
          order[#order + 1] = i
          lp.sleep(0.001)
          pool:put(c)
        end)
        lp.yield()
      end
      counts(0, 1, 5)
      assert.is_true(pool:put(a))
      counts(0, 1, 4) -- the first has it already: nobody slips past
      assert.same({ nil, "timeout" }, { pool:get(0) })
      for i = 1, 5 do gs[i]:join() end
      assert.same({ 1, 2, 3, 4, 5 }, order)
      counts(1, 0)
    end)

    it("gives the place of a connection that is closed to the first who waits", function()
      new { max = 2 }
      local a, b = get(), get()
      local first, second = lp.go(pool.get, pool), lp.go(pool.get, pool)
      lp.yield()
      b:close()
      counts(0, 2, 1)
      pool:put(a)
      assert.equal(a, (second:join()))
      assert.equal("3 x", ask(open.keep(first:join(helper.PATIENCE)), "x"))
      counts(0, 2, 0)
    end)

    it("has no place lost by who gives up", function()
      new { max = 1 }
      local a = get()
      assert.same({ nil, "timeout" }, { pool:get(0.005) })
      assert.same({ nil, "timeout" }, { lp.deadline(0.005, pool.get, pool) })
      local g = lp.go(pool.get, pool)
      lp.yield()
      g:cancel()
      assert.same({ nil, "canceled" }, { g:join() })
      counts(0, 1, 0)
      -- Canceled at the moment at which it gets the connection: it has it.
      g = lp.go(pool.get, pool)
      lp.yield()
      pool:put(a)
      g:cancel()
      assert.equal(a, (g:join()))
      counts(0, 1, 0)
      -- Or the place of one that has ended, with which it can do nothing: the next one gets it.
      local second, third = lp.go(pool.get, pool), lp.go(pool.get, pool)
      lp.yield()
      a:close()
      second:cancel()
      assert.same({ nil, "canceled" }, { second:join() })
      pool:put(assert(third:join(helper.PATIENCE)))
      counts(1, 0)
    end)

    it("counts connections that are being made, and frees the place of those that fail", function()
      new { max = 1 }
      assert(server:stop())
      for _ = 1, 3 do assert.same({ nil, "connection refused" }, { pool:get() }) end
      counts(0, 0)
      local gs = {}
      for i = 1, 3 do gs[i] = lp.go(pool.get, pool) end
      for i = 1, 3 do assert.same({ nil, "connection refused" }, { gs[i]:join(helper.PATIENCE) }) end
      counts(0, 0)
    end)

    it("is kept by many Gs, who lose nothing", function()
      new { max = 3 }
      local now, most = 0, 0
      helper.all(30, function(i)
        for k = 1, 10 do
          local c = assert(pool:get(helper.PATIENCE))
          now = now + 1
          most = math.max(most, now)
          if (i + k) % 7 == 0 then
            c:write "hang up\n"
            assert.equal("", c:read_all())
          else
            assert.matches("^%d+ " .. i .. "$", ask(c, i))
          end
          now = now - 1
          if k % 5 == 0 then c:close() end
          pool:put(c)
        end
      end)
      assert.is_true(most <= 3, most)
      helper.eventually(function() return select(2, pool:count()) == 0 end)
      assert.is_true(pool:count() <= 3)
    end)
  end)

  describe("close", function()
    it("ends what waits, and what will be put back", function()
      new { max = 2 }
      local a, b = get(), get()
      pool:put(a)
      assert.equal(a, get())
      local g = lp.go(pool.get, pool)
      lp.yield()
      pool:put(b)
      assert.equal(b, (g:join()))
      pool:put(b)
      g = lp.go(function()
        local c = pool:get()
        return { c, pool:get() }
      end)
      lp.yield()
      pool:close()
      assert.same({ b, nil, "closed" }, g:join())
      assert.same({ nil, "closed" }, { pool:get() })
      assert.is_false(pool:put(a))
      assert.same({ nil, "closed" }, { a:read() })
      b:close()
      assert.is_true(pool:close())
      counts(0, 0)
    end)

    it("closes a connection that comes too late", function()
      local addr = server:addr()
      pool = pool_of.new(function(...)
        lp.sleep(0.01)
        return net.dial(...)
      end, addr)
      local g = lp.go(pool.get, pool)
      lp.yield()
      counts(0, 1)
      pool:close()
      assert.same({ nil, "closed" }, { g:join(helper.PATIENCE) })
      counts(0, 0)
    end)
  end)

  it("names what is no argument", function()
    assert.matches("pool: addr must be a string, got nil", helper.raised(net.pool))
    assert.matches("pool: opts must be a table, got number", helper.raised(net.pool, "x", 1))
    assert.matches("pool: max must be a whole number, 1 or more, got 0", helper.raised(net.pool, "x", { max = 0 }))
    assert.matches("pool: idle must be a number of seconds, got 0", helper.raised(net.pool, "x", { idle = 0 }))
    new()
    assert.matches("get: call it with a colon", helper.raised(pool.get))
    assert.matches("get: ", helper.raised(pool.get, pool, "x"))
  end)
end)
