--- Reloads under load: what changes, what does not load, what is handed over. How the old generation ends:
--- retire_spec.lua.

local ffi = require "ffi"
local lp = require "lunapark"
local exec = require "lunapark.exec"
local net = require "lunapark.net"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local reload = require "spec.support.reload"

local slow = reload.slow

-- ThreadSanitizer keeps a signal back until the thread calls something of its own: see stuck_spec.lua.
local tsan = child.has_tsan

-- The app of generation n. It says which one it is, and is an error if its parts are of several. `more` is code.
local APP = [[
local lp = require "lunapark"
local app = require("lunapark.http").app()
local N = %d
local part, late = require "part", require "late"
local count = 0
local function now()
  if part ~= N or late ~= N then error(("a mixture: %%d %%d %%d"):format(N, part, late)) end
  count = count + 1
  return N .. " " .. lp.stats().vm
end
app:get("/", now)
app:get("/sleep", function() lp.sleep(0.01) return now() end)
app:get("/stream", function(_, res)
  res:write(N .. " ")
  for _ = 1, 20 do
    lp.sleep(0.002)
    res:write("x")
  end
end)
app:get("/count", function() return tostring(count) end)
app:get("/stats", function()
  collectgarbage()
  local s, live = lp.stats(), 0
  for state, n in pairs(s.gs) do if state ~= "dead" then live = live + n end end
  return {
    fds = s.fds, gs = live, ms = s.ms, vm = s.vm, vms = s.serving_vms, all_vms = s.all_vms, stuck = s.stuck_vms,
    spare = s.spare_vms,
  }
end)
%s
return app
]]

local function files(n, more)
  return {
    ["app.lua"] = APP:format(n, more or ""), ["part.lua"] = "return " .. n, ["late.lua"] = "return " .. n,
  }
end

-- What does not load, and what the log says why. slow: the load timeout ends it.
local BROKEN = {
  { name = "a syntax error", text = "local x = 1\nx = = 2\n", log = "app.lua:2: unexpected symbol near '='" },
  { name = "an error", text = "local x\nx = y.z\n", log = "app.lua:2: attempt to index global 'y'" },
  { name = "an error in a module", part = "local x\nerror 'boom'\n", log = "part.lua:2: boom" },
  { name = "a syntax error in a module", part = "return +\n", log = "part.lua:1: unexpected symbol" },
  { name = "no app", text = "return 5\n", log = "app.lua: returned neither an app nor a function, but number" },
  { name = "an error in on_start", more = "app:on_start(function() error 'no start' end)",
    log = "app.lua:%d+: no start" },
  { name = "an error in on_start after a wait", more = "app:on_start(function() lp.sleep(0.01) error 'late' end)",
    log = "app.lua:%d+: late" },
  { name = "an option that does not exist", more = "app.options = { max_bodies = 5 }",
    log = "unknown option 'max_bodies'" },
  { name = "the same route twice", more = "app:get('/', now)", log = "app.lua:%d+: get: path \"/\" is there already" },
  { name = "a module that is missing", more = "require 'not_there'", log = "module 'not_there' not found" },
  { name = "endless sleep", more = "lp.sleep(1e6)", slow = true,
    log = "app.lua: not loaded after 1?%d s %(%-%-load%-timeout%); it waits" },
  { name = "endless sleep in on_start", more = "app:on_start(function() lp.sleep(1e6) end)", slow = true,
    log = "not loaded after 1?%d s %(%-%-load%-timeout%); it waits" },
  { name = "a compiled loop", more = "while true do end", slow = true, no_tsan = true,
    log = "it runs without waiting, in" },
  { name = "an interpreted loop", more = "local function f() while true do end end jit.off(f) f()", slow = true,
    no_tsan = true,
    log = "it runs without waiting, in Lua, at [^\n]*app.lua:%d+$" },
  { name = "a loop with pcall", slow = true, no_tsan = true, log = "it runs without waiting, in",
    more = "local function f() while true do pcall(function() N = N end) end end jit.off(f, true) f()" },
  { name = "modules without end", slow = true, log = "it runs without waiting, in",
    more = "while true do package.loaded.part = nil require 'part' end" },
  { name = "a C function that blocks", slow = true, no_tsan = true, log = "it runs without waiting, in C %(.*read",
    more = "local f = io.open(os.getenv 'FIFO', 'r+') f:read(1)" },
}

local function broken_files(b, n)
  local set = files(n, b.more)
  if b.text then set["app.lua"] = b.text end
  if b.part then set["part.lua"] = b.part end
  return set
end

ffi.cdef "int mkfifo(const char *path, unsigned mode);"

local function fifo()
  local path = child.file()
  assert(ffi.C.mkfifo(path, 384) == 0)
  return path
end

-- Lets who reads from it go on.
local function write_fifo(path)
  local f = assert(io.open(path, "r+"))
  f:write "x"
  f:close()
end

local LOAD_TIMEOUT = tostring(3 * slow)

testing.block_timeout(300)

describe("a reload", function()
  after_each(reload.clean)

  for _, procs in ipairs { "1", "2" } do
    it("loses nothing: 100 under load, 50 of them of broken scripts, with --procs " .. procs, function()
      local path = fifo()
      local s = reload.serve(files(1), "--procs", procs, "--load-timeout", LOAD_TIMEOUT, { FIFO = path })
      local load = s:load(8, "/", "/sleep", "/", "/stream", "/")
      local n, done, turn = 1, 0, 0
      for i = 1, 100 do
        local before = load.n
        if i % 2 == 1 then
          n = n + 1
          s:reload_to(n, files(n))
        else
          local b
          repeat
            turn = turn % #BROKEN + 1
            b = BROKEN[turn]
          until not (b.slow and done >= 16 or b.no_tsan and tsan) -- the slow ones once
          done = done + 1
          local line = s:reload(broken_files(b, n + 1))
          assert.matches("error reload failed, generation " .. n .. " %(%x+%) goes on: ", line)
          assert(line:find(b.log), ("%s: no %q in %s"):format(b.name, b.log, line))
        end
        child.eventually(function() return load.n > before or #load.wrong > 0 end, "an answer")
      end
      write_fifo(path)
      assert.is_true(load:stop() > 500)
      child.eventually(function() return s.client:get("/stats"):json().stuck == 0 end, "the end of what blocked")
    end)
  end

  it("gives back what it took: Gs, descriptors, threads, memory", function()
    local s = reload.serve(files(1), "--procs", "2", "--drain-timeout", "1")
    local function rss()
      for line in io.lines("/proc/" .. s.server.pid .. "/status") do
        local kb = line:match "^VmRSS:%s+(%d+)"
        if kb then return tonumber(kb) end
      end
    end
    local function stats()
      return s.client:get("/stats"):json()
    end
    local load = s:load(4)
    local n = 1
    local function some(count)
      for _ = 1, count do
        n = n + 1
        s:reload_to(n, files(n))
      end
    end
    some(10)
    local function settled()
      local t = stats()
      return t.vms == 3 and t.spare == 1 and t.stuck == 0 and t
    end
    local first = child.eventually(settled, "three VMs")
    lp.sleep(0.2)
    first = settled() or first
    local rss_10 = rss()
    some(50)
    child.eventually(function()
      local t = settled()
      return t and t.gs <= first.gs + 10 and t.fds <= first.fds + 2 and t.all_vms == 3
    end, "the end of what the reloads took")
    local after = stats()
    assert.is_true(after.vm > 100, "numbers of VMs are used once")
    assert.is_true(after.ms < 20, after.ms .. " threads")
    load:stop()
    if not (child.has_asan or child.has_tsan) then
      child.eventually(function() return rss() < rss_10 * 1.3 end, ("RSS %d kB, %d before"):format(rss(), rss_10))
    end
  end)

  it("of unchanged files does nothing, and says so", function()
    local s = reload.serve(files(1))
    local id = s:reload():match "info reload: generation 1 %((%x+)%) has not changed"
    assert.equal(40, #id)
    assert.is_true(s.client:get("/stats"):json().vm <= 2) -- no VM was made
    -- Touched, and written again with the same bytes.
    assert(os.execute(("touch -d '2001-02-03' %s/app.lua"):format(s.folder)) == 0)
    assert.matches("generation 1 %(" .. id .. "%) has not changed", s:reload())
    assert.matches("generation 1 %(" .. id .. "%) has not changed", s:reload(files(1)))
    -- Another file in the folder is none of it.
    assert.matches("generation 1 %(" .. id .. "%) has not changed", s:reload { ["other.lua"] = "x x" })
    local other = s:reload_to(2, files(2)):match "%((%x+)%)"
    assert.not_equal(id, other)
    -- Back to what it was: a new generation of the old id.
    s.low = 1
    assert.matches("generation 3 %(" .. id .. "%) serves", s:reload(files(1)))
    assert.equal("1", s.client:get("/").body:match "^%d+")
  end)

  it("has the id that git gives the same files", function()
    local set = files(1)
    set["lib/deep/more.lua"] = "return 5"
    set["app.lua"] = "require 'late' require 'lib.deep.more'\n" .. set["app.lua"]
    local s = reload.serve(set)
    local id = s:reload():match "generation 1 %((%x+)%)"
    local r = assert(exec.run({ "sh", "-c", [[
      export GIT_DIR=$PWD/.git GIT_CONFIG_NOSYSTEM=1 HOME=$PWD
      git init -q . && git add app.lua part.lua late.lua lib && git write-tree
    ]] }, { cwd = s.folder }))
    assert.equal(id, r.stdout:match "%x+", r.stderr)
  end)

  it("goes on while another is asked for", function()
    local s = reload.serve(files(1), "--procs", "2")
    local load = s:load(4, "/", "/sleep")
    local slow_start = "app:on_start(function() lp.sleep(0.3) end)"
    s.high = 2
    s:write(files(2, slow_start))
    s.server:kill "HUP"
    lp.sleep(0.1)
    s.high = 3
    s:write(files(3))
    for _ = 1, 20 do
      s.server:kill "HUP"
      lp.sleep(0.001)
    end
    -- Signals that come together may be one; the last is served after the last change.
    child.eventually(function() return s.client:get("/").body:find "^3 " end, "generation 3")
    s.low = 3
    load:stop()
    local log = s:log()
    assert.is_nil(log:find(" error ", 1, true), log)
    assert.is_nil(log:find "generation 4", log)
  end)

  -- With one P, which is not taken.
  it("has requests answered between the modules that it loads", function()
    local set, count = files(1), 100
    local function handler(n)
      return files(n, "local shared = require('lunapark.shared').dict 'loads' app:get('/loads', function() "
        .. "return tostring(shared:get 'n' or 0) end)")["app.lua"]
    end
    set["app.lua"] = handler(1)
    local s = reload.serve(set, "--procs", "1", { LUNAPARK_DEBUG = "retake=60000" })
    set = files(2)
    set["app.lua"] = "for i = 1, " .. count .. " do require('m' .. i) end\n" .. handler(2)
    for i = 1, count do
      set["m" .. i .. ".lua"] = [[
        local till = os.clock() + 0.001
        repeat until os.clock() > till
        require("lunapark.shared").dict('loads'):incr("n", 1, 0)]]
    end
    s.high = 2
    s:write(set)
    s.server:kill "HUP"
    local seen, n = {}, 0
    repeat
      local loads = tonumber(s.client:get("/loads").body)
      if loads > 0 and loads < count and not seen[loads] then seen[loads], n = true, n + 1 end
    until loads >= count
    assert.is_true(n >= 3, n .. " answers while it loaded")
    s:verdict()
  end)

  it("that is stopped by SIGTERM, before or after, loses no answer", function()
    for _, order in ipairs { { "HUP", "TERM" }, { "TERM", "HUP" }, { "HUP", 0.05, "TERM" }, { "TERM", 0.05, "HUP" } } do
      local held = child.file ""
      local s = reload.serve(files(1, child.UNTIL_GONE .. ([[
        app:get("/long", function()
          io.stderr:write "begun\n"
          until_gone %q
          return now()
        end)]]):format(held)), "--procs", "2")
      local long = s:send "/long"
      local idle = s:dial()
      s:until_log "begun\n"
      s.high = 2
      s:write(files(2, "app:on_start(function() lp.sleep(0.1) end)"))
      for _, what in ipairs(order) do
        if type(what) == "number" then lp.sleep(what) else s.server:kill(what) end
      end
      child.eventually(function() -- the log's line comes before the stop
        local conn = net.dial(s.addr)
        if conn then conn:close() end
        return not conn
      end, "the stop")
      os.remove(held)
      local r, last = reload.answer(long)
      assert.same({ 200, true, "1" }, { r.status, last, r.body:match "^%d+" })
      idle:close()
      assert.equal(0, s.server:wait())
      assert.is_nil(s:log():find(" error ", 1, true), s:log())
    end
  end)

  it("never mixes files that are saved one after the other", function()
    for _, order in ipairs { { "app.lua", "part.lua" }, { "part.lua", "app.lua" }, { "late.lua", "app.lua" } } do
      local s = reload.serve(files(1), "--procs", "2")
      local load = s:load(4)
      local function save(n, name)
        s:write { [name] = files(n)[name] }
      end
      local third = ({ ["app.lua part.lua"] = "late.lua", ["late.lua app.lua"] = "part.lua" })
        [order[1] .. " " .. order[2]] or "late.lua"
      -- Half of it is there: an error that the check for it raises, or, for a lazy one, only found by a request; so the
      -- app requires all when it starts.
      s:write { ["app.lua"] = files(1, "require 'late' app:on_start(now)")["app.lua"] }
      s.server:kill "HUP"
      assert.matches("generation 2 .* serves", s:verdict())
      local function next_files(n)
        return files(n, "require 'late' app:on_start(now)")
      end
      s.high = 3
      s:write { [order[1]] = next_files(3)[order[1]] }
      assert.matches("reload failed.*a mixture", s:reload())
      s:write { [order[2]] = next_files(3)[order[2]] }
      assert.matches("reload failed.*a mixture", s:reload())
      s:write { [third] = next_files(3)[third] }
      assert.matches("generation 3 .* serves", s:reload())
      s.low = 3
      save(3, "late.lua")
      load:stop()
      reload.clean()
    end
  end)

  it("that is overtaken by a save loads again", function()
    local s = reload.serve(files(1))
    local load, held = s:load(4), child.file ""
    local wait = child.UNTIL_GONE .. ("io.stderr:write 'half loaded\\n' until_gone %q\n"):format(held)
    s.high = 3
    local set = files(2)
    s:write { ["part.lua"] = set["part.lua"], ["late.lua"] = set["late.lua"], ["app.lua"] = set["app.lua"]:gsub(
      "local part", (wait:gsub("%%", "%%%%")) .. "local part") }
    s.server:kill "HUP"
    s:until_log "half loaded\n"
    s:write(files(3)) -- app.lua of 2 is loaded, part.lua would be of 3
    os.remove(held)
    assert.matches("generation 2 .* serves", s:verdict())
    assert.matches("^3 ", s.client:get("/").body)
    s.low = 3
    load:stop()
    assert.is_nil(s:log():find("mixture", 1, true), s:log())
  end)

  it("has the modules that are required later as they were when it loaded", function()
    local LAZY = "app:get('/lazy', function() return N .. ' ' .. require 'lazy' .. ' ' .. dofile(%q) end)"
    local folder = reload.folder {}
    local s = reload.serve({ ["app.lua"] = "" .. APP:format(1, LAZY:format(folder .. "/outside.lua")),
      ["part.lua"] = "return 1", ["late.lua"] = "return 1", ["lazy.lua"] = "return 1" }, "--procs", "1")
    reload.write(folder, "outside.lua", "return 'as it is'")
    reload.write(s.folder, "lazy.lua", "return 2")
    local client = child.client(s.server.addr)
    assert.equal("1 1 as it is", client:get("/lazy").body)
    -- It counts as loaded now.
    assert.matches("generation 2 ", s:reload())
    assert.equal("1 2 as it is", client:get("/lazy").body)
  end)

  it("keeps its files for VMs that are made later", function()
    local s = reload.serve(files(1, [[app:get("/spin", function()
      local till = lp.now() + 2
      while lp.now() < till do end
      return now()
    end)
    require "late"]]), "--procs", "1", "--max-vms", "4")
    -- Not reloaded: what is saved is of another generation.
    s:write(files(2))
    local stuck = { s:send "/spin", s:send "/spin" }
    child.eventually(function() return s.client:get("/stats"):json().vms >= 3 end, "a third VM")
    local seen = {}
    child.eventually(function()
      local n, vm = s.client:get("/").body:match "^(%d+) (%d+)"
      assert.equal("1", n)
      seen[vm] = true
      return seen["2"] or seen["3"]
    end, "a VM that was made later")
    for _, conn in ipairs(stuck) do
      assert.equal("1", reload.answer(conn).body:match "^%d+")
    end
  end)

  it("survives what it does not know: the app is gone, then comes back", function()
    local s = reload.serve(files(1))
    local load = s:load(2)
    assert.matches("reload failed, generation 1 .*app.lua: No such file or directory", s:reload { ["app.lua"] = false })
    s:reload_to(2, files(2))
    load:stop()
  end)

  it("changes the app's options at the switch, and takes them back", function()
    local post = "app:post('/', function(req) return now() .. ' ' .. #req:body() end)\n" ..
      "app:get('/long', function() lp.sleep(20) return 'slept' end)\n"
    local s = reload.serve(files(1, post .. "app.options = { max_body = 100 }"), "--drain-timeout", "5")
    local function size(n)
      return s.client:post("/", { body = ("x"):rep(n) }).status
    end
    assert.same({ 200, 413 }, { size(100), size(101) })
    s:reload_to(2, files(2, post .. "app.options = { max_body = 200, handler_timeout = 0.3 }"))
    assert.same({ 200, 413, 504 }, { size(200), size(201), s.client:get("/long").status })
    -- One that fails changes nothing.
    assert.matches("reload failed", s:reload(files(3, post .. "app.options = { max_body = 5 } error 'no'")))
    assert.matches("reload failed", s:reload(files(3, post .. "app.options = { max_body = 5, max_vms = -1 }")))
    assert.matches("reload failed",
      s:reload(files(3, post .. "app.options = { max_body = 5 } app:on_start(function() error 'no' end)")))
    assert.same({ 200, 413 }, { size(200), size(201) })
    -- Without options they are the defaults; where to listen stays.
    s:reload_to(3, files(3, post))
    assert.same({ 200, 413 }, { size(1048576), size(1048577) })
    s:reload_to(4, files(4, post .. "app.options = { listen = '127.0.0.1:1' }"))
    assert.is_nil(s:log():find("can't be changed by a reload", 1, true), "the command line says where")
    assert.equal(200, size(5))
  end)

  it("warns of options that can't change", function()
    local function set(n, addr)
      return files(n, ("app.options = { listen = '%s' }"):format(addr))
    end
    local folder = reload.folder(set(1, "127.0.0.1:0"))
    local server = child.serve { folder .. "/app.lua", listeners = 1 }
    reload.write(folder, "app.lua", set(1, "127.0.0.1:1")["app.lua"])
    server:kill "HUP"
    server:said "generation 2"
    server:said "warn --listen can't be changed by a reload, but by a restart"
    assert.matches("^1 ", child.client(server.addr):get("/").body)
  end)

  it("keeps what is shared", function()
    local more = [[
    local shared = require "lunapark.shared"
    local dict = shared.dict "things"
    app:get("/incr", function() return N .. " " .. dict:incr("n", 1, 0) end)]]
    local s = reload.serve(files(1, more), "--procs", "2")
    for n = 1, 5 do
      if n > 1 then s:reload_to(n, files(n, more)) end
      assert.equal(n .. " " .. n, s.client:get("/incr").body)
    end
  end)

  it("takes a stream, an upload and sleepers to their ends in the old generation", function()
    local more = [[
    local shared = require "lunapark.shared"
    local begun, gate = shared.dict "begun", shared.chan "gate"
    app:get("/begun", function() return tostring(begun:get "n" or 0) end)
    app:get("/open", function() gate:close() return "open" end)
    app:get("/long", function(_, res)
      begun:incr("n", 1, 0)
      res:write(N .. " ")
      for i = 1, 10 do
        lp.sleep(0.05)
        res:write(i .. ",")
      end
      return
    end)
    app:post("/up", function(req)
      begun:incr("n", 1, 0)
      local n = 0
      for piece in function() return req:read(1000) end do n = n + #piece end
      return now() .. " " .. n
    end)
    app:get("/nap", function()
      begun:incr("n", 1, 0)
      gate:recv()
      return now()
    end)]]
    local s = reload.serve(files(1, more), "--procs", "2", "--max-body", "10000000")
    local stream, up = s:send "/long", s:dial()
    assert(up:write "POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
    for _ = 1, 10 do
      assert(up:write(("x"):rep(1000)))
      lp.sleep(0.002)
    end
    local sleepers = {}
    for i = 1, 1000 do
      sleepers[i] = s:send "/nap"
    end
    child.eventually(function() return s.client:get("/begun").body == "1002" end, "all handlers")
    s:reload_to(2, files(2, more))
    assert.equal("2", s.client:get("/").body:match "^%d+")
    assert.equal("open", s.client:get("/open").body)
    for i = 1, 90 do
      assert(up:write(("x"):rep(1000)))
      if i % 9 == 0 then lp.sleep(0.02) end
    end
    assert.matches("^1 %d+ 100000$", reload.answer(up).body)
    assert.equal("1 1,2,3,4,5,6,7,8,9,10,", reload.answer(stream).body)
    for i = 1, 1000 do
      local r, err, last = testing.read_reply(sleepers[i])
      assert(r, err)
      assert.same({ 200, "1", false }, { r.status, r.body:match "^%d+", last })
    end
    -- Their connections go on, in the new generation.
    for i = 1, 1000, 10 do
      assert(sleepers[i]:write "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
      assert.equal("2", (testing.read_reply(sleepers[i])).body:match "^%d+")
    end
    for i = 1, 1000 do
      sleepers[i]:close()
    end
    child.eventually(function() return s.client:get("/stats"):json().vms == 3 end, "the spare")
  end)
end)
