local lp = require "lunapark"
local shared = require "lunapark.shared"
local child = require "spec.support.child"
local helper = require "spec.helper"

describe("shared.dict", function()
  local dict
  local serial = 0

  before_each(function()
    serial = serial + 1
    dict = assert(shared.dict("spec " .. serial))
  end)
  after_each(function()
    dict:flush()
    child.clean()
  end)

  it("is the same one under the same name", function()
    dict:set("k", 1)
    assert.equal(1, shared.dict("spec " .. serial):get "k")
    assert.is_nil(shared.dict("spec other"):get "k")
    assert.matches("dict: name must be a string, got nil", helper.raised(shared.dict))
    assert.matches("dict: opts must be a table, got number", helper.raised(shared.dict, "x", 1))
    assert.matches("dict: opts.max_bytes must be a number", helper.raised(shared.dict, "x", { max_bytes = 0 }))
    assert.matches("dict: opts.max_bytes must be a number", helper.raised(shared.dict, "x", { max_bytes = "1" }))
  end)

  it("keeps values of each type", function()
    local long = ("x"):rep(100000)
    for _, value in ipairs { true, false, 0, -1.5, 1 / 0, "", "text", "a\0b", long } do
      assert.is_true(dict:set("k", value))
      assert.equal(value, dict:get "k")
    end
    for _, value in ipairs { {}, { 1, 2, { x = "y" } }, { [true] = false }, { text = long } } do
      assert.is_true(dict:set("k", value))
      assert.same(value, dict:get "k")
      assert.not_equal(dict:get "k", dict:get "k")
    end
    assert.is_true(dict:set("k", nil))
    assert.is_nil(dict:get "k")
    assert.is_nil(dict:get "never")
    assert.is_true(dict:set("", 1))
    assert.equal(1, dict:get "")
  end)

  it("says what it does not keep", function()
    assert.matches("set: key must be a string, got number", helper.raised(dict.set, dict, 1, 1))
    assert.matches("get: key must be a string, got nil", helper.raised(dict.get, dict))
    assert.matches("set: value must be a boolean, a number, a string or a table, got function",
      helper.raised(dict.set, dict, "k", print))
    assert.matches("set: value cannot be stored: cannot serialize 'function'",
      helper.raised(dict.set, dict, "k", { print }))
    assert.matches("cannot serialize 'function' at .a%.b%[2%]$",
      helper.raised(dict.set, dict, "k", { a = { b = { 1, print } } }))
    assert.matches("cannot serialize 'function' at .a, a key$",
      helper.raised(dict.set, dict, "k", { a = { [print] = 1 } }))
    local round = {}
    round.round = round
    assert.matches("set: value cannot be stored: too deep", helper.raised(dict.set, dict, "k", round))
    assert.matches("too deep to serialize at .a%.round, which contains itself$",
      helper.raised(dict.set, dict, "k", { a = round, 1, 2 }))
    local deep = {}
    for _ = 1, 1000 do deep = { deep, deep } end
    assert.matches("set: value cannot be stored: too deep to serialize at %[1%]%[1%]",
      helper.raised(dict.set, dict, "k", deep))
    for _, ttl in ipairs { -1, "1", 0 / 0 } do
      assert.matches("set: ttl must be a number of seconds", helper.raised(dict.set, dict, "k", 1, ttl))
    end
    assert.is_nil(dict:get "k")
    assert.is_true(dict:set("k", { "it encodes again" }))
  end)

  it("adds where nothing is, and replaces where something is", function()
    assert.same({ nil, "not found" }, { dict:replace("k", 1) })
    assert.is_true(dict:add("k", 1))
    assert.same({ nil, "exists" }, { dict:add("k", 2) })
    assert.is_true(dict:replace("k", "two"))
    assert.equal("two", dict:get "k")
    assert.is_true(dict:replace("k", nil))
    assert.same({ nil, "not found" }, { dict:replace("k", nil) })
    assert.matches("add: value must not be nil", helper.raised(dict.add, dict, "k"))
    assert.matches("replace: key must be a string", helper.raised(dict.replace, dict, {}, 1))
  end)

  it("counts", function()
    assert.same({ nil, "not found" }, { dict:incr("k", 1) })
    assert.equal(11, dict:incr("k", 1, 10))
    assert.equal(8.5, dict:incr("k", -2.5, 100))
    assert.equal(8.5, dict:get "k")
    dict:set("t", "1")
    assert.same({ nil, "not a number" }, { dict:incr("t", 1, 0) })
    assert.equal(1, dict:incr("timed", 1, 0, 1000))
    assert.equal(2, dict:incr("timed", 1, 0, 1e6))
    assert.is_true(dict:ttl "timed" > 0 and dict:ttl "timed" <= 1000)
    assert.matches("incr: by must be a number, got nil", helper.raised(dict.incr, dict, "k"))
    assert.matches("incr: by must be a number, got nan", helper.raised(dict.incr, dict, "k", 0 / 0))
    assert.matches('incr: init must be a number, got the string "1"', helper.raised(dict.incr, dict, "k", 1, "1"))
  end)

  it("deletes", function()
    dict:set("k", "v")
    assert.is_true(dict:delete "k")
    assert.is_false(dict:delete "k")
    assert.is_nil(dict:get "k")
    assert.matches("delete: key must be a string", helper.raised(dict.delete, dict))
  end)

  it("forgets in time", function()
    dict:set("k", "v", 1000)
    dict:set("stays", "v", 0)
    assert.is_true(dict:ttl "k" > 0 and dict:ttl "k" <= 1000)
    assert.equal(0, dict:ttl "stays")
    dict:set("k", "v", 0.01)
    lp.sleep(0.02)
    assert.is_nil(dict:get "k")
    assert.same({ nil, "not found" }, { dict:ttl "k" })
    assert.same({ nil, "not found" }, { dict:expire("k", 1) })
    assert.is_true(dict:add("k", "anew", 1e300))
    assert.is_true(dict:ttl "k" > 1e9)
    assert.is_true(dict:expire("k", 0.001))
    assert.is_true(dict:expire("stays", 50))
    assert.is_true(dict:ttl "stays" > 40)
    assert.is_true(dict:expire("stays", nil))
    assert.equal(0, dict:ttl "stays")
    lp.sleep(0.01)
    assert.same({ "stays" }, dict:keys())
    assert.matches("expire: ttl must be a number of seconds", helper.raised(dict.expire, dict, "k", "1"))
    assert.matches("expire: key must be a string, got nil", helper.raised(dict.expire, dict))
    assert.matches("add: ttl must be a number of seconds", helper.raised(dict.add, dict, "k", 1, -1))
    assert.matches("replace: ttl must be a number of seconds", helper.raised(dict.replace, dict, "k", 1, 0 / 0))
    assert.matches("incr: ttl must be a number of seconds", helper.raised(dict.incr, dict, "k", 1, 1, "1"))
    assert.matches("ttl: key must be a string", helper.raised(dict.ttl, dict, 1))
  end)

  it("lists its keys", function()
    assert.same({}, dict:keys())
    local expected = {}
    for i = 1, 3000 do
      expected[i] = ("key %04d %s"):format(i, ("x"):rep(i % 50))
      dict:set(expected[i], i)
    end
    local keys = dict:keys()
    table.sort(keys)
    assert.same(expected, keys)
    assert.equal(10, #dict:keys(10))
    local long = ("k"):rep(50000)
    dict:flush()
    assert.same({}, dict:keys())
    dict:set(long, 1)
    assert.same({ long }, dict:keys())
    assert.matches("keys: max must be a number", helper.raised(dict.keys, dict, "1"))
  end)

  it("keeps to its budget, and forgets what was not used", function()
    local small = shared.dict("spec small", { max_bytes = 50000 })
    local before = small:stats().evictions
    for i = 1, 1000 do
      assert.is_true(small:set("k" .. i, ("v"):rep(100)))
      assert.is_string(small:get "k1")
    end
    local stats = small:stats()
    assert.is_true(stats.bytes <= 50000 and stats.keys > 100)
    assert.equal(1000 - stats.keys, stats.evictions - before)
    assert.is_nil(small:get "k2")
    assert.is_string(small:get "k1000")
    assert.same({ nil, "too big" }, { small:set("big", ("x"):rep(50000)) })
    assert.same({ nil, "too big" }, { small:add("big", ("x"):rep(50000)) })
    assert.same({ nil, "too big" }, { small:update("big", function() return ("x"):rep(50000) end) })
    assert.is_string(small:get "k1000")
    shared.dict("spec small", { max_bytes = 5000 })
    assert.is_true(small:stats().bytes <= 5000)
    assert.equal(5000, small:stats().max_bytes)
    small:flush()
    assert.equal(0, small:stats().bytes)
  end)

  it("changes a value by a function of it", function()
    assert.same({ 1 }, dict:update("k", function(v)
      assert.is_nil(v)
      return { 1 }
    end))
    assert.same({ 1, 2 }, dict:update("k", function(v)
      v[2] = 2
      return v, 30
    end))
    assert.same({ 1, 2 }, dict:get "k")
    local calls = 0
    assert.equal("new", dict:update("k", function(v)
      calls = calls + 1
      if calls == 1 then dict:set("k", "other", 20) end
      assert.equal(calls == 1 and "table" or "string", type(v))
      return "new"
    end))
    assert.equal(2, calls)
    assert.is_true(dict:ttl "k" > 10 and dict:ttl "k" <= 20)
    assert.is_nil((dict:update("k", function() return nil end)))
    assert.is_nil(dict:get "k")
    calls = 0
    dict:update("k", function(v)
      calls = calls + 1
      if calls == 1 then dict:set("k", 5) end
      return (v or 0) + 1
    end)
    assert.equal(6, dict:get "k")
    assert.matches("update: fn must be a function, got nil", helper.raised(dict.update, dict, "k"))
    assert.matches("update: key must be a string, got nil", helper.raised(dict.update, dict))
    local function wrong() return print end
    assert.matches("update: value must be a boolean", helper.raised(dict.update, dict, "k", wrong))
    assert.matches("add: key must be a string, got number", helper.raised(dict.add, dict, 1, 1))
    assert.matches("add: value must not be nil", helper.raised(dict.add, dict, "k"))
    assert.matches("incr: key must be a string, got boolean", helper.raised(dict.incr, dict, true, 1))
    assert.matches("replace: value must be a boolean", helper.raised(dict.replace, dict, "k", print))
    assert.matches("its own", helper.raised(dict.update, dict, "k", function() error "its own" end))
  end)

  it("loses no change when fn waits", function()
    local gs = {}
    for i = 1, 20 do
      gs[i] = lp.go(function()
        dict:update("n", function(v)
          v = v or 0
          lp.yield()
          return v + 1
        end)
      end)
    end
    for _, g in ipairs(gs) do
      g:join()
    end
    assert.equal(20, dict:get "n")
  end)

  -- The collector would tell: 200,000 strings, or boxes of 64 bits, are megabytes.
  it("makes no garbage for numbers and strings that Lua knows already", function()
    dict:set("n", 1)
    dict:set("s", "short")
    local function work(rounds)
      local sum = 0
      for _ = 1, rounds do
        sum = sum + dict:get "n" + #dict:get "s"
        dict:incr("n", 1)
        dict:set("m", sum)
      end
    end
    work(1000)
    collectgarbage()
    collectgarbage "stop"
    local before = collectgarbage "count"
    work(200000)
    local grown = collectgarbage "count" - before
    collectgarbage "restart"
    assert.is_true(grown < 200, grown .. " KiB")
  end)

  describe("in a server", function()
    local app = [[
      local lp, http = require "lunapark", require "lunapark.http"
      local core, ffi = require "lunapark.core", require "ffi"
      local dict = require("lunapark.shared").dict "hits"
      local id = ffi.cast("host_view *", core.view).vm_id
      local app = http.app()
      app:get("/hit", function()
        dict:incr("vm " .. id, 1, 0)
        return tostring(dict:incr("all", 1, 0))
      end)
      app:get("/loop", function()
        while true do dict:incr("turns", 1, 0) end
      end)
      app:get("/dict", function()
        local t = {}
        for _, key in ipairs(dict:keys()) do t[key] = dict:get(key) end
        return t
      end)
      return app
    ]]

    it("counts together for handlers in two VMs", function()
      local server = child.serve { child.script(app), "--procs", "2" }
      local gs = {}
      local per_client, clients = 200, 8
      for i = 1, clients do
        gs[i] = lp.go(function()
          local client = child.client(server.addr)
          for _ = 1, per_client do
            assert(client:get("/hit").status == 200)
          end
        end)
      end
      for _, g in ipairs(gs) do
        assert(select("#", g:join()) == 0)
      end
      local t = child.client(server.addr):get("/dict"):json()
      assert.equal(per_client * clients, t.all)
      local sum, vms = 0, 0
      for key, n in pairs(t) do
        if key:find "^vm " then sum, vms = sum + n, vms + 1 end
      end
      assert.equal(t.all, sum)
      assert.is_true(vms >= 2, "only one VM has answered")
    end)

    it("is left whole by a VM that is dropped", function()
      local server = child.serve {
        child.script(app), "--procs", "2", "--handler-timeout", "0.1", "--kill-after", "0.2",
      }
      local client = child.client(server.addr)
      client:get "/hit"
      assert.is_true(client:get("/loop").status >= 500)
      child.eventually(function() return server:stderr():find "is dropped" or server:stderr():find "is replaced" end)
      for _ = 1, 20 do
        assert.equal(200, client:get("/hit").status)
      end
      local t = client:get("/dict"):json()
      assert.equal(21, t.all)
      assert.is_true(t.turns > 0)
    end)
  end)

  it("calls fn again when somebody has deleted or changed the key meanwhile", function()
    dict:set("k", 1)
    local seen = {}
    dict:update("k", function(v)
      seen[#seen + 1] = tostring(v)
      if #seen == 1 then dict:delete "k" end
      if #seen == 2 then dict:set("k", 10) end
      return (v or 0) + 1
    end)
    assert.same({ "1", "nil", "10" }, seen)
    assert.equal(11, dict:get "k")
  end)

  it("gives each value its own time, whatever stood there before", function()
    for _, value in ipairs { 1, "text" } do
      dict:set("k", value, 50)
      dict:set("k", value)
      assert.equal(0, dict:ttl "k")
      dict:set("k", value, 50)
      assert.is_true(dict:ttl "k" > 40)
      dict:set("k", value, 0.01)
      lp.sleep(0.02)
      assert.is_nil(dict:get "k")
    end
  end)
end)
