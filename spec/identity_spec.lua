--- One request never reaches another: what outlives its handler, and the coroutines that handlers run on.

local http = require "lunapark.http"
local lp = require "lunapark"
local testing = require "lunapark.testing"
local child = require "spec.support.child"

-- Everything that a request and its response offer, tried by who has no right to it any more.
local tries = {
  { "req.method", function(req) return req.method end },
  { "req.target", function(req) return req.target end },
  { "req.path", function(req) return req.path end },
  { "req.query", function(req) return req.query end },
  { "req.version", function(req) return req.version end },
  { "req.host", function(req) return req.host end },
  { "req.remote_addr", function(req) return req.remote_addr end },
  { "req:cookie", function(req) return req:cookie "a" end },
  { "req:body", function(req) return req:body() end },
  { "req:read", function(req) return req:read() end },
  { "req:json", function(req) return req:json() end },
  { "req:form", function(req) return req:form() end },
  { "req:multipart", function(req) return req:multipart() end },
  { "req:param", function(req) return req:param "a" end },
  { "req:params_all", function(req) return req:params_all "a" end },
  { "headers:get", function(_, _, headers) return headers:get "authorization" end },
  { "headers:get_all", function(_, _, headers) return headers:get_all "authorization" end },
  { "headers:each", function(_, _, headers) return headers:each() end },
  { "headers:add", function(_, _, headers) return headers:add("a", "b") end },
  { "headers.x = ", function(_, _, headers) headers.x = "y" end },
  { "res:write", function(_, res) return res:write "<script>of another</script>" end },
  { "res:flush", function(_, res) return res:flush() end },
}

-- What was read of a request while it lasted stays readable: its log line reads these two.
local own = { POST = true, ["/first"] = true }

-- What each of them says: the list of those that did not raise "request is over", in words.
local function reached(req, res, headers)
  local list = {}
  for _, try in ipairs(tries) do
    local ok, err = pcall(try[2], req, res, headers)
    local over = not ok and tostring(err):find("request is over", 1, true)
    if not over and not own[err] then list[#list + 1] = try[1] .. ": " .. tostring(err) end
  end
  return table.concat(list, "\n")
end

describe("a request that is over", function()
  -- A handler leaves a G behind, which tries all of it while the next request's handler runs, in the same memory.
  local ways = {
    ["by a return"] = function() return "x" end,
    ["by an error"] = function() error "on purpose" end,
    ["by coroutine.yield"] = function() coroutine.yield() end,
    ["by an error in a coroutine of its own"] = function() coroutine.wrap(error)("on purpose") end,
    ["with a response that has begun"] = function(_, res)
      res:write "a"
      error "on purpose"
    end,
  }

  for name, leave in pairs(ways) do
    it("that ended " .. name .. " is out of reach for who kept it", function()
      local go_on, told = lp.chan(1), lp.chan(1)
      local app = http.app()
      app:post("/first", function(req, res)
        local headers = req.headers
        lp.detach(function()
          go_on:recv()
          told:send(reached(req, res, headers))
        end)
        return leave(req, res)
      end)
      app:put("/victim", function(req)
        go_on:send(true)
        local report = told:recv(30)
        return report .. "|" .. req.headers.authorization .. "|" .. req:body()
      end)
      local client = testing.serve(app)
      local function send(method, path)
        return client[method](client, path, { body = "the body", headers = { Authorization = "secret of " .. path } })
      end
      send("post", "/first")
      local r = assert(send("put", "/victim"))
      assert.equal(200, r.status)
      assert.equal("|secret of /victim|the body", r.body)
    end)
  end

  it("answers nobody, whatever of the host's functions is called with it", function()
    local C = require("ffi").C
    local serials, told = {}, nil
    local client = testing.serve(function(req)
      local ptr, serial = rawget(req, "ptr"), rawget(req, "serial")
      local old = serials[tostring(ptr)]
      serials[tostring(ptr)] = serial
      if not old then return "first" end
      told = {
        C.host_respond(ptr, old, 200, 1, "", 0, "stolen", 6),
        C.host_stream_begin(ptr, old, 200, 1, "", 0, -1),
        C.host_stream_write(ptr, old, "stolen", 6),
        C.host_stream_flush(ptr, old),
        C.host_stream_end(ptr, old),
        C.host_req_fill(ptr, old),
        C.host_req_remote(ptr, old, require("ffi").new "char[128]", 128),
        C.host_req_lost(ptr, old),
        (require("lunapark.core").wait_req(ptr, old, 1)),
      }
      return "second"
    end)
    -- Requests live in memory that is used again, sooner or later.
    local body
    for _ = 1, 1000 do
      body = client:get("/").body
      if told then break end
    end
    assert.equal("second", body)
    assert.same({ -32, -32, -32, -32, -32, -104, -32, 1, "closed" }, told)
  end)

  it("is out of reach when its handler ran out of memory before it could say so", function()
    local c = child.serve {
      child.script [[
        local http = require "lunapark.http"
        local lp = require "lunapark"
        local app = http.app()
        local go_on, told = lp.chan(1), lp.chan(1)
        app:get("/first", function(req, res)
          local headers = req.headers
          lp.detach(function()
            go_on:recv()
            local ok, target = pcall(function() return req.target end)
            local ok2, secret = pcall(headers.get, headers, "authorization")
            local ok3, written = pcall(res.write, res, "stolen")
            told:send(table.concat({ tostring(ok), tostring(ok2), tostring(ok3) }, " "))
          end)
          local t = {}
          for i = 1, 1e9 do t[i] = ("x"):rep(100) .. i end
        end)
        app:get("/victim", function(req)
          go_on:send(true)
          return told:recv(30) .. " " .. req.headers.authorization
        end)
        return app
      ]], "--vm-memory", tostring(16 * 2 ^ 20), "--procs", "1", "--max-vms", "1", "--log-level", "error" }
    local client = child.client(c.addr)
    assert.equal(500, client:get("/first", { headers = { Authorization = "secret" } }).status)
    assert.equal("false false false mine", client:get("/victim", { headers = { Authorization = "mine" } }).body)
    child.clean()
  end)
end)

describe("the coroutine that a G runs on", function()
  -- One G after another: they use the same coroutine if they may.
  local function one_by_one(n, fn)
    for i = 1, n do assert(lp.go(fn, i):join()) end
  end

  it("is not another G's if a script has seen it: nobody finds what was kept by it", function()
    local kept, found = setmetatable({}, { __mode = "k" }), 0
    one_by_one(50, function(i)
      local co = coroutine.running()
      if kept[co] then found = found + 1 end
      kept[co] = i
      return true
    end)
    assert.equal(0, found)
  end)

  it("is a new one for requests too", function()
    local kept = setmetatable({}, { __mode = "k" })
    local client = testing.serve(function(req)
      local co = coroutine.running()
      local before = kept[co]
      kept[co] = req.target
      return before or "nothing"
    end)
    for i = 1, 5 do assert.equal("nothing", client:get("/" .. i).body) end
  end)

  it("has the VM's globals again after setfenv(0)", function()
    one_by_one(1, function()
      setfenv(0, setmetatable({ left_behind = true }, { __index = _G }))
      assert.is_true(loadstring "return left_behind"())
      return true
    end)
    local found = 0
    one_by_one(50, function()
      -- luacheck: ignore
      if loadstring "return left_behind"() then found = found + 1 end
      return true
    end)
    assert.equal(0, found)
  end)

  it("is kept for the next G if no script has seen it, and given back if one has", function()
    local function threads()
      local n = 0
      for _, value in pairs(debug.getregistry()) do
        if type(value) == "thread" then n = n + 1 end
      end
      return n
    end
    one_by_one(5, function() return true end)
    local before = threads()
    one_by_one(20, function() return true end)
    assert.equal(before, threads())
    one_by_one(1, function() return coroutine.running() end)
    assert.equal(before - 1, threads())
    one_by_one(20, function() return coroutine.running() end)
    assert.equal(before - 1, threads())
    one_by_one(20, function() return true end)
    assert.equal(before, threads())
  end)

  it("setfenv means the same function as ever", function()
    local function level_1()
      local set = setfenv
      set(1, { place = "level 1" })
      return place -- luacheck: ignore
    end
    assert.equal("level 1", level_1())
    local function level_2()
      local set = setfenv
      local function inner() set(2, { place = "level 2" }) end
      inner()
      return place -- luacheck: ignore
    end
    assert.equal("level 2", level_2())
    local f = setfenv(function() return place end, { place = "given" }) -- luacheck: ignore
    assert.equal("given", f())
    assert.has_error(function() setfenv(99, {}) end)
  end)
end)

describe("coroutine.yield outside of a coroutine of one's own", function()
  it("raises there: pcall catches it, and cleanups see it", function()
    local m = lp.mutex()
    local g = lp.go(function()
      local ok, err = pcall(m.with, m, function() coroutine.yield() end)
      return ok, err, m:try_lock()
    end)
    local ok, err, locked = g:join(30)
    assert.is_false(ok)
    assert.matches("identity_spec.lua:%d+: attempt to yield outside of a coroutine", err)
    assert.is_true(locked)
  end)

  it("ends the G that does not catch it, with its place, and a handler with a 500", function()
    local _, err = lp.go(function() coroutine.yield(1) end):join(30)
    assert.matches("identity_spec.lua:%d+: attempt to yield outside of a coroutine", err)
    local lock = lp.mutex()
    local client = testing.serve(function(req)
      return lock:with(function()
        if req.path == "/yield" then coroutine.yield() end
        return "worked"
      end)
    end)
    assert.equal(500, client:get("/yield").status)
    assert.equal("worked", client:get("/work").body)
  end)

  it("is what isyieldable says", function()
    assert.is_false(coroutine.isyieldable())
    assert.is_true((coroutine.wrap(coroutine.isyieldable)()))
    local co = coroutine.wrap(function() coroutine.yield(coroutine.isyieldable()) end)
    assert.is_true(co())
    co()
  end)
end)
