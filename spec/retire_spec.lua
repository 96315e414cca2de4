--- The end of an old generation after a reload: what is handed over, on_retire, lp.retired, what ends and when.

local ffi = require "ffi"
local lp = require "lunapark"
local net = require "lunapark.net"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local reload = require "spec.support.reload"

local tsan = child.has_tsan

ffi.cdef "int mkfifo(const char *path, unsigned mode); int kill(int pid, int signal);"

-- The app of generation n, with code in it. `note(...)` writes a line to a file of the server's, $NOTES.
local APP = [[
local lp = require "lunapark"
local http = require "lunapark.http"
local app = http.app()
local N = %d
local function note(...)
  local f = assert(io.open(os.getenv "NOTES", "a"))
  f:write(N, " ", table.concat({ ... }, " "), "\n")
  f:close()
end
app:get("/", function() return N .. " " .. lp.stats().vm end)
app:get("/stats", function()
  collectgarbage()
  local s, gs = lp.stats(), 0
  for state, n in pairs(s.gs) do if state ~= "dead" then gs = gs + n end end
  return {
    fds = s.fds, gs = gs, vm = s.vm, vms = s.serving_vms, all_vms = s.all_vms, stuck = s.stuck_vms, spare = s.spare_vms,
  }
end)
%s
return app
]]

testing.block_timeout(300)

describe("an old generation", function()
  local s, notes

  local function app(n, code)
    return { ["app.lua"] = APP:format(n, code or "") }
  end

  local function serve(code, ...)
    notes = child.file ""
    local args = { ... }
    args[#args + 1] = { NOTES = notes }
    s = reload.serve(app(1, code), unpack(args))
    return s
  end

  -- What was noted, sorted.
  local function noted()
    local lines = {}
    for line in io.lines(notes) do lines[#lines + 1] = line end
    table.sort(lines)
    return lines
  end

  local function count(line)
    local found = 0
    for _, l in ipairs(noted()) do
      if l == line then found = found + 1 end
    end
    return found
  end

  local function until_noted(line, n)
    if not pcall(child.eventually, function() return count(line) >= (n or 1) end) then
      error(("no %q among: %s"):format(line, table.concat(noted(), "; ")), 2)
    end
  end

  -- The VMs that answer are those of generation n, and there is one spare.
  local function until_spare(n)
    child.eventually(function()
      local t = s.client:get("/stats"):json()
      return t.vms == n and t.spare == 1
    end, n .. " VMs")
  end

  local function vm_count() return s.client:get("/stats"):json().vm end

  after_each(function()
    if s and not s.server:poll() then assert.equal(200, s.client:get("/").status) end
    s = nil
    reload.clean()
  end)

  describe("hands over", function()
    it("once per VM, to one VM each", function()
      local give = [[
        local mine = { vm = lp.stats().vm, text = "x\0y", list = { 1, 2, 3 }, yes = true }
        app:hand_over(function() lp.sleep(0.01) return mine end)
        app:take_over(function(v)
          lp.sleep(0.01)
          note("took", v.vm, #v.text, #v.list, tostring(v.yes))
        end)
        app:on_start(function() note "start" end)]]
      serve(give, "--procs", "2")
      until_spare(3)
      s:reload_to(2, app(2, give))
      assert.same({ "1 start", "1 start", "1 start" }, { unpack(noted(), 1, 3) })
      local took = {}
      for _, line in ipairs(noted()) do
        if line:find "took" then took[#took + 1] = line end
      end
      assert.same({ "2 took 0 3 3 true", "2 took 1 3 3 true", "2 took 2 3 3 true" }, took)
    end)

    it("nothing where nobody gives or takes, and nil or false as such", function()
      serve("app:hand_over(function() return 5 end)")
      s:reload_to(2, app(2))
      s:reload_to(3, app(3, "app:take_over(function() note 'took' end)"))
      s:reload_to(4, app(4, "app:take_over(function() note 'took' end) app:hand_over(function() end)"))
      s:reload_to(5, app(5, "app:take_over(function() note 'took' end) app:hand_over(function() return false end)"))
      assert.same({}, noted())
      s:reload_to(6, app(6, "app:take_over(function(v) note(tostring(v)) end)"))
      assert.equal("6 false", noted()[1])
    end)

    it("of mounted apps by their prefixes", function()
      local give = [[
        local function sub(name)
          local a = http.app()
          a:hand_over(function() return { from = name } end)
          a:take_over(function(v) note(name, "from", v.from) end)
          return a
        end
        local outer = sub "outer"
        outer:mount("/inner", sub "inner")
        app:mount("/outer", outer)
        app:mount("/%s", sub "%s")
        app:hand_over(function() return { from = "top" } end)
        app:take_over(function(v) note("top from", v.from) end)]]
      serve(give:format("one", "one"), "--procs", "1")
      s:reload_to(2, app(2, give:format("two", "two")))
      local seen = {}
      for _, line in ipairs(noted()) do
        seen[line] = true
      end
      assert.same({ ["2 top from top"] = true, ["2 outer from outer"] = true, ["2 inner from inner"] = true }, seen)
    end)

    for name, case in pairs {
      ["an error in hand_over"] = { give = "error 'will not give'", log = "hand_over: .*app.lua:%d+: will not give" },
      ["a function"] = { give = "return { f = print }", log = "hand_over: the value can't be copied" },
      ["itself"] = { give = "local t = {} t.t = t return t", log = "hand_over: the value can't be copied" },
      ["a coroutine"] = { give = "return coroutine.create(print)", log = "hand_over: the value can't be copied" },
      ["an error in take_over"] = { give = "return 1", take = "error 'will not take'",
        log = "take_over: .*app.lua:%d+: will not take" },
      ["an error after a wait"] = { give = "return 1", take = "lp.sleep(0.05) error { 'table' }",
        log = "take_over: .*table" },
    } do
      it("not " .. name .. ": the old generation goes on", function()
        serve("app:hand_over(function() " .. case.give .. " end)")
        local load = s:load(2)
        local failed = s:reload(app(2, "app:take_over(function() " .. (case.take or "") .. " end)"))
        assert.matches("reload failed, generation 1 %(%x+%) goes on: " .. case.log, failed)
        load:stop()
        assert.is_nil(s:log():find("retire", 1, true), s:log())
      end)
    end

    it("nothing from a VM that is stuck", function()
      if tsan then return pending "no signal reaches the loop" end
      serve([[app:hand_over(function() return lp.stats().vm end)
        app:get("/loop", function() while true do end end)]], "--procs", "1", "--handler-timeout", "60")
      until_spare(2)
      local conn = s:send "/loop"
      child.eventually(function() return s.client:get("/stats"):json().stuck == 1 end, "a stuck VM")
      until_spare(3)
      local start = lp.now()
      s:reload_to(2, app(2, "app:take_over(function(v) note('from', v) end)"))
      assert.is_true(lp.now() - start < 30, "it does not wait for the stuck one") -- which has 60 s
      s.server:logged "warn VM %d+ hands nothing over: it is stuck"
      assert.equal(2, #noted())
      conn:close()
    end)
  end)

  describe("has its on_retire called", function()
    it("once per VM, in the old VM, while its requests run", function()
      serve([[
        local running = 0
        app:get("/nap", function()
          note "begun"
          running = running + 1
          repeat lp.sleep(0.01) until lp.retired()
          lp.sleep(0.2)
          running = running - 1
          return N .. " napped"
        end)
        app:on_retire(function()
          note("retired", tostring(lp.retired()), running > 0 and "running" or "idle")
          lp.sleep(0.05)
          note "still"
        end)
        local sub = http.app()
        sub:on_retire(function() note "sub" end)
        app:mount("/sub", sub)]], "--procs", "1")
      until_spare(2)
      local nap = s:send "/nap"
      until_noted "1 begun"
      s:reload_to(2, app(2))
      assert.equal("1 napped", reload.answer(nap).body)
      until_noted("1 sub", 2)
      until_noted("1 still", 2)
      assert.same({
        "1 begun", "1 retired true idle", "1 retired true running", "1 still", "1 still", "1 sub", "1 sub",
      }, noted())
    end)

    it("also if one raises, which is logged", function()
      serve([[
        app:on_retire(function() error "no" end)
        app:on_retire(function() lp.sleep(0.01) error({}) end)
        app:on_retire(function() note "third" end)]], "--procs", "1")
      s:reload_to(2, app(2))
      until_noted "1 third"
      s:until_log "error on_retire: [^\n]*app.lua:%d+: no"
    end)

    it("and not if it loops for ever: it is ended, as handlers are", function()
      if tsan then return pending "no signal reaches the loop" end
      serve("app:on_retire(function() while true do end end)", "--procs", "1", "--drain-timeout", "0.5",
        "--kill-after", "0.3", "--handler-timeout", "0")
      until_spare(2)
      s:reload_to(2, app(2))
      s:until_log "was ended in compiled code: VM %d is dropped"
      child.eventually(function() return s.client:get("/stats"):json().stuck == 0 end, "the end of the loops")
    end)

    it("not where it failed to load, though for what had loaded of it", function()
      serve("app:on_retire(function() note 'retired' end)", "--procs", "2")
      assert.matches("reload failed", s:reload(app(2, [[
        app:on_retire(function() note "retired" end)
        app:on_start(function()
          local f = assert(io.open(os.getenv "NOTES"))
          local first = f:read "*a" == ""
          f:close()
          if not first then error "the second" end
          note "started"
        end)]])))
      until_noted "2 retired"
      assert.same({ "2 retired", "2 started" }, noted())
    end)
  end)

  describe("tells by lp.retired", function()
    it("at once, after a time, at a deadline, when canceled", function()
      serve([[
        app:get("/now", function() return tostring(lp.retired()) end)
        app:get("/wait", function(req)
          if req.query.note then note "waits" end
          local ok, err = lp.retired(tonumber(req.query.s))
          return tostring(ok) .. " " .. tostring(err)
        end)
        app:get("/deadline", function()
          local ok, err = lp.deadline(0.05, lp.retired, 100)
          return tostring(ok) .. " " .. tostring(err)
        end)
        app:get("/cancel", function()
          local g = lp.go(function() return lp.retired(math.huge) end)
          lp.sleep(0.01)
          g:cancel()
          local ok, err = g:join()
          return tostring(ok) .. " " .. tostring(err)
        end)
        app:get("/misuse", function()
          local list = {}
          for _, v in ipairs { "x", {}, 0 / 0 } do
            local ok, err = pcall(lp.retired, v)
            list[#list + 1] = tostring(ok) .. ": " .. tostring(err)
          end
          return list
        end)]], "--procs", "1")
      local function get(path) return s.client:get(path).body end
      assert.equal("false", get "/now")
      assert.same({ "false nil", "false nil", "false nil" }, { get "/wait?s=0", get "/wait?s=-1", get "/wait?s=0.05" })
      assert.equal("nil timeout", get "/deadline")
      assert.equal("nil canceled", get "/cancel")
      for _, msg in ipairs(s.client:get("/misuse"):json()) do
        assert.matches("^false: .*retired: ", msg)
      end
      local waiters = {}
      for i = 1, 20 do
        waiters[i] = s:send("/wait?note=1&s=" .. (i % 2 == 0 and "60" or "1e300"))
      end
      until_noted("1 waits", 20)
      s:reload_to(2, app(2))
      for i = 1, 20 do
        assert.equal("true nil", reload.answer(waiters[i]).body)
      end
    end)
  end)

  describe("ends, and with it", function()
    -- An app that leaves waits of all kinds, sockets and a child behind.
    local LEAVES_MUCH = [[
        local net, exec = require "lunapark.net", require "lunapark.exec"
        app:on_start(function()
          lp.every(0.01, function() note "tick" end)
          local function empty() return lp.chan() end
          for _, wait in ipairs {
            function() return lp.sleep(1e6) end,
            function() return empty():recv() end,
            function() return empty():send(5) end,
            function() return lp.park() end,
            function() return lp.select { { empty(), "recv" } } end,
            function() return lp.deadline(1e5, lp.sleep, 1e6) end,
          } do
            lp.go(function()
              local ok, err = wait()
              note("ended", tostring(err))
            end)
          end
          local g = lp.go(function()
            local ln = net.listen "127.0.0.1:0"
            note("addr", ln:addr())
            while true do
              local conn, err = ln:accept()
              if not conn then return note("accept", err) end
              lp.go(function() note("read", select(2, conn:read(1))) end)
            end
          end)
          local p = assert(exec.spawn { "sleep", "1000" })
          note("pid", p.pid)
          lp.go(function()
            local code, err = p:wait()
            note("wait", tostring(err))
          end)
        end)]]

    it("timers, Gs, channels' waiters, sockets and children", function()
      serve(LEAVES_MUCH, "--procs", "1")
      until_noted("1 tick", 20)
      local before = s.client:get("/stats"):json()
      local conns, pids = {}, {}
      for _, line in ipairs(noted()) do
        local addr, pid = line:match "^1 addr (.+)", tonumber(line:match "^1 pid (%d+)")
        if addr then
          conns[#conns + 1] = assert(net.dial(addr))
          conns[#conns]:set_deadline(20)
        end
        if pid then pids[#pids + 1] = pid end
      end
      assert.is_true(#conns >= 1 and #pids >= 1)
      local n = #conns
      s:reload_to(2, app(2))
      until_noted("1 accept canceled", n)
      until_noted("1 read canceled", n)
      until_noted("1 wait canceled", n)
      until_noted("1 ended canceled", n * 6)
      for _, conn in ipairs(conns) do
        assert.same({ nil, "eof" }, { conn:read(1) })
        conn:close()
      end
      for _, pid in ipairs(pids) do
        child.eventually(function() return ffi.C.kill(pid, 0) ~= 0 end, "the end of child " .. pid)
      end
      child.eventually(function()
        local t = s.client:get("/stats"):json()
        return t.gs < before.gs and t.fds < before.fds
      end, "the end of its Gs")
      s:until_vms(2, before.fds)
      -- No timer goes on.
      local ticks = count "1 tick"
      lp.sleep(0.2)
      assert.equal(ticks, count "1 tick")
    end)

    it("a G that goes on after it was canceled: thrown away after a second", function()
      serve([[app:on_start(function()
        lp.go(function()
          while true do
            if not lp.sleep(0.01) then lp.scope(function(s) s:go(lp.now) end) end
          end
        end)
      end)]], "--procs", "1")
      until_spare(2)
      local load = s:load(2)
      s:reload_to(2, app(2))
      s:until_log "warn VM %d+: [12] of its Gs go on after they were canceled: it is thrown away"
      load:stop()
    end)

    it("not before a request has ended, though a G started by it may go on", function()
      serve([[
        app:get("/nap", function()
          lp.detach(function() local _, err = lp.sleep(1e6) note("detached", err) end)
          lp.go(function()
            repeat lp.sleep(0.01) until lp.retired()
            lp.sleep(0.6)
            note "went"
          end)
          note "begun"
          repeat lp.sleep(0.01) until lp.retired()
          lp.sleep(0.2)
          return N .. " napped"
        end)]], "--procs", "1")
      local nap = s:send "/nap"
      until_noted "1 begun"
      s:reload_to(2, app(2))
      assert.equal("1 napped", reload.answer(nap).body)
      until_noted "1 detached canceled"
      assert.same({ "1 begun", "1 detached canceled", "1 went" }, noted())
    end)

    it("after the drain timeout: waits answer \"canceled\", clients get what comes of it", function()
      serve([[
        app:use(function(req, _, next)
          if req.path ~= "/" then note "begun" end
          return next()
        end)
        app:get("/nap", function() local _, err = lp.sleep(1e3) return 200, "woken: " .. tostring(err) end)
        app:get("/raise", function() assert(lp.sleep(1e3)) end)
        app:get("/stream", function(_, res)
          res:write "a"
          while res:write "b" and lp.sleep(0.01) do end
          res:write "c"
        end)
        app:get("/deaf", function()
          while true do
            if not lp.sleep(0.01) then lp.scope(function(s) s:go(lp.now) end) end
          end
        end)
        app:post("/body", function(req)
          local body, err = req:body()
          return body or err
        end)]], "--procs", "1", "--drain-timeout", "0.5")
      local nap, raise, stream, deaf, body = s:send "/nap", s:send "/raise", s:send "/stream", s:send "/deaf", s:dial()
      assert(body:write "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
      until_noted("1 begun", 5)
      local start = lp.now()
      s:reload_to(2, app(2))
      assert.equal("woken: canceled", reload.answer(nap).body)
      assert.is_true(lp.now() - start >= 0.45)
      assert.equal(500, reload.answer(raise).status)
      assert.matches("^ab+c?$", reload.answer(stream).body)
      assert.equal(502, reload.answer(deaf).status)
      local r = testing.read_reply(body)
      assert(r and (r.body == "canceled" or r.status >= 400), r and r.body)
      body:close()
      s:until_log "VM %d+: %d of its Gs go on after they were canceled"
    end)

    it("when its stuck handler has ended", function()
      if tsan then return pending "no signal reaches the loop" end
      serve([[
        app:get("/loop", function() while true do end end)
        local function interpreted() while true do pcall(function() N = N end) end end
        jit.off(interpreted, true)
        app:get("/interpreted", interpreted)]], "--procs", "2", "--drain-timeout", "0.5", "--kill-after", "0.3",
        "--handler-timeout", "0")
      until_spare(3)
      local before = s.client:get("/stats"):json()
      local loop, interpreted = s:send "/loop", s:send "/interpreted"
      child.eventually(function() return s.client:get("/stats"):json().stuck == 2 end, "two stuck VMs")
      local load = s:load(4)
      for n = 2, 4 do
        s:reload_to(n, app(n))
      end
      assert.equal(502, reload.answer(loop).status)
      assert.is_true(reload.answer(interpreted).status >= 500)
      load:stop()
      s:until_vms(3, before.fds)
    end)

    it("when what blocks in C comes back", function()
      if tsan then return pending "a signal that meets the blocked thread waits for it" end
      local path = child.file()
      assert(ffi.C.mkfifo(path, 384) == 0)
      serve(([[
        local C, buf = require("ffi").C, require("ffi").new "char[1]"
        require("ffi").cdef "int open(const char *, int, ...); int64_t read(int, void *, size_t);"
        app:get("/block", function()
          C.read(C.open(%q, 2), buf, 1) -- O_RDWR: only read waits
          return N .. string.char(buf[0])
        end)]]):format(path), "--procs", "1", "--drain-timeout", "0.3")
      until_spare(2)
      local before = s.client:get("/stats"):json()
      local block = s:send "/block"
      child.eventually(function() return s.client:get("/stats"):json().stuck == 1 end, "a stuck VM")
      local load = s:load(4)
      for n = 2, 4 do
        s:reload_to(n, app(n))
      end
      lp.sleep(1)
      local f = assert(io.open(path, "r+"))
      f:write "xx"
      f:close()
      assert.equal("1x", reload.answer(block).body)
      load:stop()
      s:until_vms(2, before.fds)
    end)

    it("many at once, when reloads come faster than they end", function()
      local code = [[app:get("/nap", function() lp.sleep(1) return N .. " napped" end)]]
      serve(code, "--procs", "2")
      until_spare(3)
      local before = s.client:get("/stats"):json()
      local load, naps = s:load(4), {}
      for n = 2, 20 do
        naps[n] = s:send "/nap"
        s.high = n
        lp.sleep(0.01)
        s:reload_to(n, app(n, code))
      end
      for n = 2, 20 do
        local k = tonumber(reload.answer(naps[n]).body:match "^(%d+) napped$")
        assert.is_true(k == n - 1 or k == n, k)
      end
      load:stop()
      s:until_vms(3, before.fds)
      assert.is_true(vm_count() >= 40)
    end)

    it("of itself: a G that it starts late is canceled like the others, and nothing is thrown away", function()
      serve([[
        lp.detach(function()
          lp.sleep(1e6) -- the end of the VM cancels it
          lp.detach(function()
            local _, err = lp.sleep(1e6)
            note("late", err)
          end)
        end)]], "--procs", "1")
      until_spare(2)
      local before = s.client:get("/stats"):json()
      s:reload_to(2, app(2))
      until_noted("1 late canceled", 2)
      s:until_vms(2, before.fds)
      assert.is_nil(s:log():find("thrown away", 1, true), s:log())
    end)
  end)

  it("closes the files that were left open", function()
    local more = [[
    local kept = assert(require("lunapark.fs").open("/proc/self/status"))
    app:get("/kept", function() return #kept:read(10) .. "" end)]]
    serve(more, "--procs", "1")
    assert.equal("10", s.client:get("/kept").body)
    s:reload_to(2, app(2, more))
    s:reload_to(3, app(3, more))
    s:until_vms(2, 1000)
    assert.equal("10", s.client:get("/kept").body)
    assert.is_nil(s.server:poll())
  end)

  for where, code in pairs {
    ["while its second VM loads"] = "if is_second then error 'no' end",
    ["in take_over"] = "app:take_over(function() error 'no' end)",
    ["in on_start of its second VM"] = "app:on_start(function() if is_second then error 'no' end end)",
  } do
    it("goes on alone after one that failed " .. where .. ": its timers, Gs and sockets end", function()
      serve("app:hand_over(function() return 1 end)", "--procs", "2")
      until_spare(3)
      local before, rounds = s.client:get("/stats"):json(), 7
      local gs
      for n = 1, rounds do
        assert.matches("reload failed", s:reload(app(2, ([[
          local ln = require("lunapark.net").listen "127.0.0.1:0"
          lp.go(function() ln:accept() note "accept" end)
          lp.every(0.01, function() note "tick" end)
          lp.go(function() note("ended", select(2, lp.sleep(1e6))) end)
          local is_second = require("lunapark.shared").dict("loads"):incr("round %d", 1, 0) == 2
          lp.sleep(0.05)
          %s]]):format(n, code))))
        s:until_vms(3, before.fds)
        gs = gs or s.client:get("/stats"):json().gs
      end
      local n = #noted()
      lp.sleep(0.1)
      assert.equal(n, #noted())
      -- Each of the three VMs may have begun to collect garbage meanwhile, by a G of its own.
      child.eventually(function() return s.client:get("/stats"):json().gs < gs + rounds - 1 end, "the end of the Gs")
    end)
  end

  it("says that no spare VM loads any more, and does not say it all the time", function()
    if tsan then return pending "no signal reaches the loop" end
    serve([[
      if require("lunapark.shared").dict("loads"):incr("n", 1, 0) > 2 then error "no third one" end
      app:get("/loop", function() while true do end end)]], "--procs", "1", "--handler-timeout", "0.2",
      "--kill-after", "0.2")
    until_spare(2)
    local start = lp.now()
    local conn = s:send "/loop"
    s:until_log "is dropped"
    s.client:get "/"
    s:until_log "can not load the app"
    lp.sleep(2)
    local lines = select(2, s:log():gsub("can not load the app", ""))
    assert.is_true(lines <= 2 + 2 * (lp.now() - start), lines .. " lines")
    conn:close()
  end)
end)
