-- /profile and /trace of the admin listener.

local json = require "lunapark.json"
local lp = require "lunapark"
local testing = require "lunapark.testing"
local child = require "spec.support.child"

-- Handlers that compute until they are told to stop, or the client has gone. Each waits now and then.
local APP = [[
local lp = require "lunapark"
local http = require "lunapark.http"
local app = http.app()
local function inner(n) local x = 0 for i = 1, n do x = x + i % 7 end return x end
local function interpreted(n) return inner(n) + 1 end
local function loops(n) local x = 0 for i = 1, n do x = x + i % 7 end return x end
local function searches() return (("ab"):rep(3000):find("a-b-c", 1)) end
local function nests(n) if n == 0 then return inner(2000) end return (nests(n - 1)) end
jit.off(inner) jit.off(interpreted) jit.off(nests)
local work = {
  interpreted = function() interpreted(20000) end,
  compiled = function() loops(1000000) end,
  native = function() searches() end,
  coroutine = function() coroutine.wrap(function() interpreted(20000) end)() end,
  nested = function() nests(300) end,
}
app:get("/:what", function(req)
  local fn = work[req.params.what]
  for _ = 1, 100000 do
    fn()
    local _, err = lp.sleep(0)
    if err then break end
  end
  return "done"
end)
return app
]]
local LINE = {} -- of each function
do
  local n = 0
  for line in APP:gmatch "([^\n]*)\n" do
    n = n + 1
    local name = line:match "^local function (%w+)"
    if name then LINE[name] = n end
  end
end

-- ThreadSanitizer calls handlers later, when the stack is another.
local it_if_exact = child.has_tsan and pending or it

testing.block_timeout(300)

describe("the admin listener records", function()
  local gs = {}

  after_each(function()
    child.clean()
    for _, g in ipairs(gs) do
      g:join()
    end
    gs = {}
  end)

  local function serve(...)
    local path = child.script(APP)
    local c = child.serve { path, "--admin", "127.0.0.1:0", ... }
    local admin = child.client((c:logged "admin on http://(%S+)\n"))
    admin.headers = { ["X-Lunapark"] = "1" }
    return c, admin, path
  end

  -- A request that goes on until the server is killed.
  local function keep_busy(c, what)
    gs[#gs + 1] = lp.go(function()
      local conn = child.send(c.addr, "GET /" .. what .. " HTTP/1.1\r\nHost: x\r\n\r\n")
      conn:read(1)
      conn:close()
    end)
  end

  -- Profiles until one has a line that this finds: that line. However little of the CPU we get.
  local function profile_with(c, admin, find)
    local last
    return child.eventually(function()
      local r = admin:post "/profile?s=0.3"
      assert.equal(200, r.status, r.body)
      last = r.body
      for line in r.body:gmatch "[^\n]+" do
        if find(line) then return line end
      end
    end, function() return "such a stack in:\n" .. last .. c:stderr() end)
  end

  local function in_order(line, names)
    local at = 1
    for _, name in ipairs(names) do
      local _, stop = line:find(name, at, true)
      if not stop then return false end
      at = stop + 1
    end
    return true
  end

  for what, names in pairs {
    interpreted = function(at) return { "GET /:what, ", at "interpreted" .. ";", at "inner" } end,
    compiled = function(at) return { "GET /:what, ", at "loops" .. ";", "trace at " .. at "loops" } end,
    native = function(at) return { "GET /:what, ", at "searches" .. ";", "str_find_aux;", "match" } end,
    coroutine = function(at) return { "GET /:what, ", at "interpreted" .. ";", at "inner" } end,
    nested = function(at) return { ";...;", (at "nests" .. ";"):rep(30), at "inner" } end,
  } do
    it_if_exact("where CPU time goes in Lua: " .. what, function()
      local c, admin, path = serve()
      keep_busy(c, what)
      names = names(function(name) return path .. ":" .. LINE[name] end)
      local line = profile_with(c, admin, function(line) return in_order(line, names) end)
      assert.matches("^[^;]+;.* %d+$", line)
    end)
  end

  it_if_exact("a flame graph for browsers", function()
    local c, admin, path = serve()
    keep_busy(c, "interpreted")
    profile_with(c, admin, function(line) return line:find(path .. ":" .. LINE.inner, 1, true) end)
    for _, how in ipairs { { "", "text/html,*/*;q=0.8" }, { "&format=svg" } } do
      local r = admin:get("/profile?s=0.5" .. how[1], { headers = { Accept = how[2] } })
      assert.same({ 200, "image/svg+xml" }, { r.status, r.headers["content-type"] })
      assert.matches("^<svg xmlns.*</svg>\n$", r.body)
      assert.equal(select(2, r.body:gsub("<g>", "")), select(2, r.body:gsub("</g>", "")))
      assert.matches("<title>all %(%d+ samples, 100%.0 %%%)</title>", r.body)
      assert.truthy(r.body:find("<title>" .. path .. ":" .. LINE.inner .. " (", 1, true), r.body)
    end
    assert.equal(400, admin:get("/profile?s=0.1&format=pdf").status)
  end)

  it("what the scheduler does", function()
    local c, admin = serve()
    keep_busy(c, "interpreted")
    local events = child.eventually(function()
      local r = admin:post "/trace?s=0.3"
      assert.equal(200, r.status, r.body)
      local t = json.decode(r.body)
      local seen = {}
      for _, e in ipairs(t.traceEvents) do
        seen[e.name:match "^%a+"] = true
      end
      return seen.G and seen.poll and t.traceEvents
    end, "a trace with Gs and polls")
    assert.is_nil(c:stderr():find " warn ")
    for _, e in ipairs(events) do
      assert.is_string(e.ph)
      assert.is_number(e.pid)
    end
  end)

  for _, path in ipairs { "/profile", "/trace" } do
    it("for a time that is bounded: " .. path, function()
      local _, admin = serve()
      for _, s in ipairs { "0", "-1", "nan", "inf", "x", "", "60.5", "61" } do
        local r = admin:post(path .. "?s=" .. s)
        assert.equal(400, r.status, s)
        assert.equal("s: must be a number of seconds, more than 0, 60 at most", r:json().error)
      end
    end)

    it("for longer than the app's handlers may take: " .. path, function()
      local _, admin = serve("--handler-timeout", "0.3")
      local start = lp.now()
      local r = admin:post(path .. "?s=1")
      assert.equal(200, r.status, r.body)
      assert.is_true(lp.now() - start >= 1)
    end)

    it("one at a time, and ends when its client has gone: " .. path, function()
      local c, admin = serve()
      local start = lp.now()
      local request = "POST " .. path .. "?s=60 HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Lunapark: 1\r\n\r\n"
      local conn
      child.eventually(function()
        if conn then conn:close() end -- which may have been the second
        conn = child.send(c:logged "admin on http://(%S+)\n", request)
        for _ = 1, 20 do
          local r = admin:post(path .. "?s=0.01")
          if r.status == 409 then return r:json().error:find "^another %a+ is being taken$" end
        end
      end, "409")
      conn:close()
      child.eventually(function() return admin:post(path .. "?s=0.01").status == 200 end, "the end of the first")
      assert.is_true(lp.now() - start < 55)
    end)

    it("for whom one trusts: " .. path, function()
      local _, admin = serve()
      assert.equal(403, admin:post(path .. "?s=0.01", { headers = { Origin = "http://example.com" } }).status)
      admin.headers = {}
      assert.equal(403, admin:post(path .. "?s=0.01").status)
      local _, other = serve("--admin-token", "s3cret")
      assert.equal(401, other:get(path .. "?s=0.01").status)
      assert.equal(200, other:get(path .. "?s=0.01", { headers = { Authorization = "Bearer s3cret" } }).status)
    end)
  end

  it("until the process stops", function()
    local c, admin = serve("--drain-timeout", "600")
    local recordings = {}
    for _, path in ipairs { "/profile", "/trace" } do
      local client = child.client((c:logged "admin on http://(%S+)\n"))
      client.headers = admin.headers
      recordings[path] = lp.go(function()
        local r
        repeat r = client:post(path .. "?s=60") until r.status ~= 409 -- that of one that asks whether it records
        return r
      end)
      child.eventually(function() return admin:post(path .. "?s=0.001").status == 409 end, "a recording")
    end
    local start = lp.now()
    c:kill "TERM"
    for path, g in pairs(recordings) do
      assert.equal(200, assert(g:join()).status, path)
    end
    assert.equal(0, c:wait())
    assert.is_true(lp.now() - start < 45)
  end)

  it("in a process that may write no large files", function()
    local path = child.script(APP)
    local c = child.serve { "--fsize=4096", child.binary, path, "--admin", "127.0.0.1:0", "--listen", "127.0.0.1:0",
      binary = "prlimit" }
    local admin = child.client((c:logged "admin on http://(%S+)\n"))
    admin.headers = { ["X-Lunapark"] = "1" }
    keep_busy(c, "interpreted")
    child.eventually(function()
      local r = admin:post "/trace?s=0.3"
      return r.status == 500 and r:json().error == "Input/output error"
    end, "a trace that is too long")
    assert.equal(200, admin:get("/").status)
  end)

  it("while generations come and go, and names functions of those that have gone", function()
    local c, admin, path = serve("--procs", "2", "--drain-timeout", "0.2", "--handler-timeout", "0")
    for what in pairs { interpreted = 1, compiled = 1, native = 1, coroutine = 1, nested = 1 } do
      keep_busy(c, what)
    end
    local g = lp.go(function() return admin:post "/profile?s=3" end)
    local other = child.client((c:logged "admin on http://(%S+)\n"))
    other.headers = admin.headers
    for i = 1, 6 do
      local f = assert(io.open(path, "w"))
      f:write(("-- %d\n"):format(i):rep(i), APP)
      f:close()
      assert.equal(200, other:post("/reload").status)
      for what in pairs { interpreted = 1, compiled = 1, native = 1 } do
        keep_busy(c, what)
      end
      lp.sleep(0.2)
    end
    local r = assert(g:join())
    assert.equal(200, r.status)
    assert.truthy(r.body:find(path, 1, true), r.body)
    assert.is_nil(c:poll())
  end)

  -- By the C functions themselves, which sample as often as the kernel can: the torture is a script, and no app.
  for seed = 1, 3 do -- compiled, interpreted, compiled as soon as possible
    it("while scripts/torture.lua stands in every place where Lua can wait, seed " .. seed, function()
      local code, out, err = child.run { "run", child.script [[
        local ffi = require "ffi"
        local inside = require "spec.support.inside"
        local stop = inside("rt_prof_stop", "int (*)(void *file, int64_t *result)")
        inside("recording_init", "void (*)(void)")()
        assert(inside("rt_prof_start", "int (*)(int hz)")(1000) == 0)
        assert(loadfile "scripts/torture.lua")(...)
        local result, path = ffi.new "int64_t[2]", os.tmpname()
        local file = assert(io.open(path, "w+"))
        assert(stop(file, result) == 0)
        file:seek "set"
        local named, all = 0, 0
        for stack, n in file:read("*a"):gmatch "([^\n]*) (%d+)\n" do
          if stack:find("places.lua:", 1, true) then named = named + tonumber(n) end
          all = all + tonumber(n)
        end
        os.remove(path)
        print(result[0] == all, named > all / 10, all)
      ]], tostring(seed), "2" }
      assert.matches(": all right\n", err .. out)
      assert.matches("true%s+true", out, err)
      assert.equal(0, code)
    end)
  end
end)
