-- The admin listener of `serve`: reloads by HTTP.

local ffi = require "ffi"
local fs = require "lunapark.fs"
local lp = require "lunapark"
local child = require "spec.support.child"

ffi.cdef "int prctl(int option, unsigned long arg, unsigned long, unsigned long, unsigned long);"
local SUBREAPER = 36

local APP = [[
local app = require("lunapark.http").app()
app:get("/", function() return "%s" end)
return app
]]

local function overwrite(path, text)
  local f = assert(io.open(path, "w"))
  f:write(text)
  f:close()
end

-- A server of an app that answers "one", its script, and a client of its admin listener.
local function serve(...)
  local path = child.script(APP:format "one")
  local args = { path, "--admin", "127.0.0.1:0", ... }
  if type(args[#args]) == "table" then args.env = table.remove(args) end
  local c = child.serve(args)
  child.eventually(function() return c:stderr():find "lunapark: admin on " end, "the admin listener")
  local admin = child.client(((c:stderr():match "admin on http://(%S+)\n"):gsub("^0%.0%.0%.0", "127.0.0.1")))
  admin.headers = { ["X-Lunapark"] = "1" }
  return c, path, admin
end

local ID = "^" .. ("%x"):rep(40) .. "$"

describe("the admin listener", function()
  after_each(child.clean)

  it("says what runs", function()
    local _, _, admin = serve()
    local r = admin:get "/"
    assert.equal(200, r.status)
    local t = r:json()
    assert.equal(1, t.generation.number)
    assert.matches(ID, t.generation.id)
    assert.matches("^%d+%.%d+%.%d+$", t.version)
    assert.is_number(t.stats.serving_vms)
  end)

  it("tells of each VM, and of all together", function()
    local BUSY = [[
local lp = require "lunapark"
local app = require("lunapark.http").app()
local kept = {}
app:get("/", function() return "one" end)
app:get("/wait", function() lp.sleep(600) end)
app:get("/keep", function()
  for i = 1, 200000 do kept[i] = { i } end
  return "kept"
end)
app:get("/spin", function() while true do end end)
return app
]]
    local c, path, admin = serve("--procs", "1", "--kill-after", "600", "--drain-timeout", "600")
    overwrite(path, BUSY)
    assert.is_true(admin:post("/reload"):json().changed)
    local client = child.client(c.addr)
    local function until_vm(what, fn)
      local found
      child.eventually(function()
        for _, vm in ipairs(admin:get("/vms"):json()) do
          if fn(vm) then
            found = vm
            return true
          end
        end
      end, what)
      return found
    end
    for _ = 1, 20 do assert.equal(200, client:get("/").status) end
    local vm = until_vm("20 requests", function(vm) return vm.requests == 20 and vm.running == 0 end)
    assert.equal("serves", vm.state)
    assert.equal(1, vm.ps)
    assert.equal(2, vm.generation)
    assert.equal(admin:get("/"):json().generation.id, vm.generation_id)
    assert.is_true(vm.memory.mapped > 0 and vm.memory.lua > 0 and vm.memory.lua <= vm.memory.mapped)
    local spare = until_vm("a spare VM", function(other) return other.state == "spare" end)
    assert.equal(0, spare.requests)
    assert.equal(0, spare.ps)
    local own = until_vm("the admin's VM", function(other) return other.id == -1 end)
    assert.equal("alone", own.state)
    assert.is_nil(own.generation)

    client:get "/keep"
    local kept = until_vm("the heap", function(now)
      return now.id == vm.id and now.memory.lua > vm.memory.lua + 4e6
    end)
    local all = admin:get("/stats"):json()
    assert.is_true(all.memory.lua >= kept.memory.lua + spare.memory.lua)
    assert.is_true(all.memory.mapped >= kept.memory.mapped)
    assert.is_nil(all.vm)

    local waiting = child.client(c.addr)
    lp.go(function() return waiting:get "/wait" end)
    until_vm("a handler that waits", function(now) return now.id == vm.id and now.running == 1 and now.gs >= 1 end)
    lp.go(function() return child.client(c.addr):get "/spin" end)
    local stuck = until_vm("a VM that is stuck", function(now) return now.state == "stuck" and now.stuck > 0.1 end)
    assert.equal(vm.id, stuck.id)
    assert.equal(2, stuck.running)

    overwrite(path, APP:format "three")
    assert.is_true(admin:post("/reload"):json().changed)
    until_vm("the next generation", function(now) return now.state == "serves" and now.generation == 3 end)
  end)

  it("changes the number of Ps, with requests in flight", function()
    local c, _, admin = serve("--procs", "2")
    local client, stop, failed, done = child.client(c.addr), false, 0, lp.waitgroup()
    for _ = 1, 8 do
      done:add(1)
      lp.go(function()
        local own = child.client(c.addr)
        while not stop do
          if own:get("/").body ~= "one" then failed = failed + 1 end
        end
        done:done()
      end)
    end
    local function until_procs(n)
      local stats
      child.eventually(function()
        stats = admin:get("/stats"):json()
        return stats.procs == n
      end, n .. " Ps")
      return stats
    end
    for _, n in ipairs { 1, 4, 2, 6, 1, 3 } do
      local r = admin:post("/procs?n=" .. n)
      assert.equal(200, r.status, r.body)
      assert.equal(n, r:json().procs)
      local stats = until_procs(n)
      for i, p in ipairs(stats.ps) do assert.equal(i > n, p.status == "out", i .. " of " .. n) end
      assert.equal("one", client:get("/").body)
    end
    assert.equal(6, #admin:get("/stats"):json().ps)
    stop = true
    done:wait()
    assert.equal(0, failed)
    assert.is_true(admin:post("/procs?n=0"):json().procs >= 1)
    for _, bad in ipairs { "", "?n=", "?n=x", "?n=-1", "?n=1.5", "?n=257", "?n=1e9" } do
      assert.equal(400, admin:post("/procs" .. bad).status, bad)
    end
    assert.equal(405, admin:get("/procs").status)
  end)

  it("has the number of Ps that it asked for kept over upgrades", function()
    ffi.C.prctl(SUBREAPER, 1, 0, 0, 0)
    local c, _, admin = serve("--procs", "1")
    admin:post "/procs?n=3"
    local addr, served = c:logged "lunapark: admin on http://(%S+)", ""
    for _ = 1, 2 do
      admin:close()
      c:kill "USR2"
      served = served .. ".*SIGUSR2: process (%d+) serves"
      local pids = { c:logged(served) }
      assert.equal(0, c:wait())
      c = child.adopt(tonumber(pids[#pids]), c)
      admin = child.client(addr)
      admin.headers = { ["X-Lunapark"] = "1" }
      assert.equal(3, admin:get("/stats"):json().procs)
    end
    c:kill "TERM"
    assert.equal(0, c:wait())
    ffi.C.prctl(SUBREAPER, 0, 0, 0, 0)
  end)

  it("tells of VMs that retire", function()
    local c, path, admin = serve("--procs", "1", "--drain-timeout", "600")
    overwrite(path, 'local app = require("lunapark.http").app()\n'
      .. 'app:get("/", function() require("lunapark").sleep(600) end)\nreturn app\n')
    admin:post "/reload"
    lp.go(function() return child.client(c.addr):get "/" end)
    local function states()
      local t = {}
      for _, vm in ipairs(admin:get("/vms"):json()) do t[#t + 1] = vm.state .. vm.running end
      return table.concat(t, " ")
    end
    child.eventually(function() return states():find "serves1" end, "the handler")
    overwrite(path, APP:format "three")
    admin:post "/reload"
    child.eventually(function() return states():find "retires1" end, "the VM to retire")
  end)

  it("tells of collections: in idle time, and after the limit was reached", function()
    local c, path, admin = serve("--procs", "1", "--vm-memory", tostring(32 * 1024 * 1024))
    overwrite(path, [[
local app = require("lunapark.http").app()
app:get("/garbage", function()
  collectgarbage "stop"
  local t = {}
  for i = 1, 100000 do t[i % 100] = { tostring(i) } end
  collectgarbage "restart"
  collectgarbage("setpause", 1000)
  return "ok"
end)
app:get("/much", function() return tostring(#("x"):rep(64 * 1024 * 1024)) end)
return app
]])
    admin:post "/reload"
    local client = child.client(c.addr)
    local before = {}
    local function gc()
      for _, vm in ipairs(admin:get("/vms"):json()) do
        if vm.id >= 0 and vm.requests > 0 then return vm.gc, vm.memory end
      end
      return {}
    end
    assert.equal(200, client:get("/garbage").status)
    child.eventually(function()
      before = gc()
      return before.idle and before.idle > 0
    end, "a collection in idle time")
    assert.is_true(before.steps >= before.idle and before.seconds > 0)
    assert.equal(0, before.full)
    assert.equal(32 * 1024 * 1024, select(2, gc()).limit)
    assert.equal(500, client:get("/much").status)
    child.eventually(function() return gc().full > 0 end, "a whole collection")
    assert.is_true(gc().seconds > before.seconds)
  end)

  it("reloads, and answers with the new generation", function()
    local c, path, admin = serve()
    local id = admin:get("/"):json().generation.id
    overwrite(path, APP:format "two")
    local r = admin:post "/reload"
    assert.equal(200, r.status)
    local t = r:json()
    assert.is_true(t.changed)
    assert.equal(2, t.generation.number)
    assert.matches(ID, t.generation.id)
    assert.not_equal(id, t.generation.id)
    assert.equal("two", child.client(c.addr):get("/").body)
  end)

  it("reloads an app that takes longer to load than its handlers may take", function()
    local c, path, admin = serve("--handler-timeout", "0.3")
    overwrite(path, 'require("lunapark").sleep(1)\n' .. APP:format "two")
    local r = admin:post "/reload"
    assert.equal(200, r.status, r.body)
    assert.equal(2, r:json().generation.number)
    assert.equal("two", child.client(c.addr):get("/").body)
  end)

  it("answers at the latest when --load-timeout is over", function()
    local c, path, admin = serve("--handler-timeout", "0.1", "--load-timeout", "0.5")
    overwrite(path, 'require("lunapark").sleep(60)\n' .. APP:format "two")
    local r = admin:post "/reload"
    assert.equal(500, r.status, r.body)
    assert.matches("0%.5 s", r:json().error)
    assert.equal("one", child.client(c.addr):get("/").body)
  end)

  it("has none of the limits of the app's listeners", function()
    local _, _, admin = serve("--max-body", "0", "--handler-timeout", "0.001", "--idle-timeout", "0.001")
    for _ = 1, 3 do
      local r = admin:post("/reload", { body = "x" })
      assert.equal(200, r.status, r.body)
    end
  end)

  it("says that nothing has changed", function()
    local _, _, admin = serve()
    local t = admin:post("/reload"):json()
    assert.is_false(t.changed)
    assert.equal(1, t.generation.number)
  end)

  it("answers with what is wrong, and the old generation goes on", function()
    local c, path, admin = serve()
    overwrite(path, "local x = 1\nlocal = 2\n")
    local r = admin:post "/reload"
    assert.equal(500, r.status)
    local t = r:json()
    assert.matches(":2: ", t.error)
    assert.equal(1, t.generation.number)
    assert.equal("one", child.client(c.addr):get("/").body)
    overwrite(path, APP:format "three")
    assert.equal(200, admin:post("/reload").status)
    assert.equal("three", child.client(c.addr):get("/").body)
  end)

  it("refuses what a page of another site sends", function()
    local _, _, admin = serve()
    assert.equal(403, admin:post("/reload", { headers = { Origin = "http://example.com" } }).status)
    assert.equal(403, admin:get("/", { headers = { ["Sec-Fetch-Site"] = "cross-site" } }).status)
    assert.equal(200, admin:get("/", { headers = { ["Sec-Fetch-Site"] = "none" } }).status)
    assert.equal(405, admin:get("/reload").status)
  end)

  it("wants a header with a POST that a form can't send", function()
    local _, _, admin = serve()
    admin.headers = {}
    for _, headers in ipairs {
      {}, { ["X-Lunapark"] = "0" }, { ["Content-Type"] = "application/x-www-form-urlencoded" },
      { Authorization = "Bearer x" }, { Authorization = "Basic x" },
    } do
      local r = admin:post("/reload", { headers = headers })
      assert.equal(403, r.status)
      assert.matches("wants the header X%-Lunapark: 1", r:json().error)
    end
    assert.equal(1, admin:get("/"):json().generation.number)
    assert.equal(200, admin:post("/reload", { headers = { ["X-Lunapark"] = "1" } }).status)
  end)

  it("answers by address and as localhost, not by the name of a site that leads there", function()
    local _, _, admin = serve()
    for _, host in ipairs {
      "evil.example", "evil.example:9000", "localhost.evil.example", "127.0.0.1.evil.example", "notlocalhost",
      "1.2.3", "0x7f000001",
    } do
      for _, method in ipairs { "GET", "POST" } do
        local r = admin:request(method, method == "GET" and "/" or "/reload", { headers = { Host = host } })
        assert.equal(421, r.status, host)
        assert.is_nil(r:json().stats)
      end
    end
    for _, host in ipairs {
      "127.0.0.1", "127.0.0.1:1", "10.1.2.3:80", "LocalHost", "app.localhost:80", "[::1]", "[::1]:80",
    } do
      assert.equal(200, admin:get("/", { headers = { Host = host } }).status, host)
    end
  end)

  for what, given in pairs {
    ["on the command line"] = { "--admin-token", "s3cret.token" },
    ["in the environment"] = { { LUNAPARK_ADMIN_TOKEN = "s3cret.token" } },
  } do
    it("wants the token " .. what .. ", for everything", function()
      local _, _, admin = serve("--admin", "0.0.0.0:0", unpack(given))
      for _, auth in ipairs {
        "", "Bearer", "Bearer ", "Bearer s3cret.toke", "Bearer s3cret.tokenn", "Bearer S3cret.token", "s3cret.token",
        "Basic s3cret.token", "Bearer s3cret.token x",
      } do
        local headers = { Authorization = auth ~= "" and auth or nil }
        for _, r in ipairs { admin:get("/", { headers = headers }), admin:post("/reload", { headers = headers }) } do
          assert.same({ 401, "Bearer" }, { r.status, r.headers["www-authenticate"] }, auth)
          assert.is_nil(r:json().generation)
        end
      end
      admin.headers = { Authorization = "bearer s3cret.token", Host = "admin.example" }
      assert.equal(1, admin:get("/"):json().generation.number)
      assert.equal(200, admin:post("/reload").status)
      admin.headers.Origin = "http://admin.example"
      assert.equal(403, admin:post("/reload").status)
    end)
  end

  for _, addr in ipairs { "0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:80", "[::ffff:192.0.2.1]:80", "[fe80::1]:80" } do
    it("is not on " .. addr .. " without a token", function()
      local code, _, err = child.run { child.script(APP:format "one"), "--listen", "127.0.0.1:0", "--admin", addr }
      assert.equal(64, code)
      assert.matches("^lunapark: %-%-admin %S+, which other machines can reach, needs %-%-admin%-token", err)
    end)
  end

  it("does not take a token that no header can carry, and does not show it", function()
    for _, token in ipairs { "", "a b", "sécret", "a\n" } do
      local code, _, err = child.run { child.script(APP:format "one"), "--admin-token", token }
      assert.equal(64, code)
      assert.matches("^lunapark: %-%-admin%-token: must be one word of printable ASCII\n", err)
    end
  end)

  it("ends with the server", function()
    local c, _, admin = serve()
    admin:get "/"
    c:kill "TERM"
    assert.equal(0, c:wait())
  end)

  it("can be a socket file for its owner alone", function()
    local socket = child.file()
    local path = child.script(APP:format "one")
    local c = child.serve { path, "--admin", "unix:" .. socket }
    child.eventually(function() return c:stderr():find "lunapark: admin on unix:" end, "the admin listener")
    assert.equal("600", ("%o"):format(fs.stat(socket).mode % 512))
    local admin = child.client("unix:" .. socket) -- whose owner needs neither header nor name
    assert.equal(200, admin:get("/", { headers = { Host = "any.example" } }).status)
    assert.equal(200, admin:post("/reload", { headers = { Host = "any.example" } }).status)
  end)

  it("makes a socket file that was nobody else's for a moment", function()
    local socket = child.file()
    local name = socket:match "[^/]*$"
    ffi.cdef [[
    typedef struct { int wd; uint32_t mask, cookie, len; char name[]; } admin_spec_event;
    int inotify_init1(int flags);
    int inotify_add_watch(int fd, const char *path, uint32_t mask);
    ptrdiff_t read(int fd, void *to, size_t n);
    int close(int fd);
    ]]
    local IN_ATTRIB, IN_CREATE, NONBLOCK = 0x4, 0x100, 0x800
    local fd = ffi.C.inotify_init1(NONBLOCK)
    assert(ffi.C.inotify_add_watch(fd, socket:match "^(.*)/", IN_ATTRIB + IN_CREATE) >= 0)
    local c = child.serve { child.script(APP:format "one"), "--admin", "unix:" .. socket }
    c:said "lunapark: admin on unix:"
    local seen, buffer = {}, ffi.new "char[65536]"
    while true do
      local n, at = tonumber(ffi.C.read(fd, buffer, 65536)), 0
      if n <= 0 then break end
      while at < n do
        local e = ffi.cast("admin_spec_event *", buffer + at)
        if e.len > 0 and ffi.string(e.name) == name then seen[#seen + 1] = e.mask end
        at = at + 16 + e.len
      end
    end
    ffi.C.close(fd)
    assert.same({ IN_CREATE }, seen, "what befell the file: its mode is that of its beginning")
    assert.equal("600", ("%o"):format(fs.stat(socket).mode % 512))
  end)

  for what, case in pairs {
    ["no address"] = { addr = "here", code = 64, says = "%-%-admin: must be HOST:PORT" },
    ["an address that is not ours"] = { addr = "192.0.2.1:80", code = 1, says = "cannot listen on 192.0.2.1:80: " },
  } do
    it("says what is wrong with " .. what, function()
      local code, _, err = child.run {
        child.script(APP:format "one"), "--listen", "127.0.0.1:0", "--admin", case.addr, "--admin-token", "x",
      }
      assert.equal(case.code, code)
      assert.matches(case.says, err)
    end)
  end
end)
