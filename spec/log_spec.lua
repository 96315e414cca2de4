local ffi = require "ffi"
local exec = require "lunapark.exec"
local json = require "lunapark.json"
local log = require "lunapark.log"
local lp = require "lunapark"
local child = require "spec.support.child"
local helper = require "spec.helper"

local raised = helper.raised

-- What fn logs, a line per element, without the time.
local function lines_of(fn)
  local list = {}
  for line in helper.stderr_of(fn):gmatch "([^\n]*)\n" do
    list[#list + 1] = line:gsub("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%dZ ", "")
  end
  return list
end

-- The one line that is logged for this call.
local function line_of(...)
  local args = { n = select("#", ...), ... }
  local list = lines_of(function() log.info(unpack(args, 1, args.n)) end)
  assert.equal(1, #list)
  return list[1]
end

-- What a script logs as JSON: a list of objects.
local function objects_of(text, level)
  local code, _, err = child.run { "run", "--log-format", "json", "--log-level", level or "info", child.script(text) }
  assert.equal(0, code, err)
  local list = {}
  for line in err:gmatch "([^\n]*)\n" do
    list[#list + 1] = assert(json.decode(line), line)
  end
  return list, err
end

describe("lunapark.log", function()
  after_each(child.clean)

  local level
  before_each(function() level = log.level() end)
  after_each(function() log.level(level) end)

  describe("as text", function()
    it("is time, level and message", function()
      local text = helper.stderr_of(function()
        log.info "one"
        log.warn "two"
        log.error "three\n"
      end)
      local time = "%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%dZ"
      assert.matches(("^%s info one\n%s warn two\n%s error three\n$"):format(time, time, time), text)
    end)

    it("has pairs behind it, by their keys", function()
      assert.equal('info m a="two words" b=1 c=true d=-1.5 e="" f="say \\"hi\\"" g=plain h=1e+20',
        line_of("m", { h = 1e20, g = "plain", f = 'say "hi"', e = "", d = -1.5, c = true, b = 1, a = "two words" }))
      assert.equal("info m 1=x 2=y true=1", line_of("m", { "x", "y", [true] = 1 }))
      assert.equal('info m "a b"=1 "c=d"=2', line_of("m", { ["a b"] = 1, ["c=d"] = 2 }))
      assert.equal("info m", line_of("m", {}))
      assert.equal("info m big=9007199254740991000 i=-12 nan=nan neg=-inf pos=inf",
        (line_of("m", { big = 9007199254740991e3, i = -12, nan = 0 / 0, pos = math.huge, neg = -math.huge })
          :gsub("9.007199254741e%+18", "9007199254740991000")))
    end)

    it("can't be forged", function()
      assert.same({ "info a x=1", "\tb", "\t2024-01-01T00:00:00.000Z error forged" },
        lines_of(function() log.info("a\nb\n2024-01-01T00:00:00.000Z error forged", { x = 1 }) end))
      assert.equal('info a v="b\\nc\\r\\t\\x1b[31m"', line_of("a", { v = "b\nc\r\t\27[31m" }))
      assert.equal("info a\\rb\tc\\x1b[2J\\x00\\x7f", line_of "a\rb\tc\27[2J\0\127")
      assert.equal("info \\u009b \\u2028 \\xff\\xc3 \195\188", line_of "\194\155 \226\128\168 \255\195 \195\188")
      assert.equal('info a "k\\nv"=1', line_of("a", { ["k\nv"] = 1 }))
    end)

    it("keeps the lines of a traceback, indented", function()
      local list = lines_of(function() log.error(debug.traceback "boom") end)
      assert.same({ "error boom", "\tstack traceback:" }, { list[1], list[2] })
      for i = 3, #list do assert.matches("^\t\t", list[i]) end
      assert.is_true(#list > 3)
    end)
  end)

  describe("as JSON", function()
    it("is an object per line", function()
      local list, text = objects_of [[
        local log = require "lunapark.log"
        log.warn("two\nlines \27\255 \226\130\172", { n = 1.5, s = "a\"b\\\n", t = true, list = { 1, "x", {} },
          i = 2^53, in_t = { 2^53, -2^53, 1e15 } })
        log.info("numbers", { nan = 0/0, inf = 1/0, neg = -1/0 })
        log.error("taken", { time = 1, level = 2, msg = 3, null = require("lunapark.json").null, fn = print })
      ]]
      assert.matches("^{\"time\":\"%d+%-%d+%-%d+T%d+:%d+:%d+%.%d%d%dZ\",\"level\":\"warn\",\"msg\":\"two", text)
      for i = 1, 3 do list[i].time = nil end
      assert.same({ level = "warn", msg = "two\nlines \27\239\191\189 \226\130\172", n = 1.5, s = 'a"b\\\n', t = true,
        list = { 1, "x", {} }, i = 2 ^ 53, in_t = { 2 ^ 53, -2 ^ 53, 1e15 } }, list[1])
      assert.same({ level = "info", msg = "numbers", nan = "nan", inf = "inf", neg = "-inf" }, list[2])
      assert.matches("^function: ", list[3].fn)
      list[3].fn = nil
      assert.same({ level = "error", msg = "taken", ["fields.time"] = 1, ["fields.level"] = 2, ["fields.msg"] = 3,
        null = json.null }, list[3])
    end)

    it("is what C logs, too", function()
      local server = child.serve { child.script [[
        return function() require("lunapark").sleep(20) end
      ]], "--log-format", "json", "--handler-timeout", "0.1" }
      assert.equal(504, child.client(server.addr):get("/").status)
      local line = server:said "no answer":match "\n({[^\n]*no answer[^\n]*)\n"
      local t = assert(json.decode(line))
      assert.same({ "warn", "GET /: no answer in 0.1 s, the client was answered 504" }, { t.level, t.msg })
    end)

    it("survives any bytes", function()
      local list = objects_of [[
        local log = require "lunapark.log"
        math.randomseed(7)
        for i = 1, 300 do
          local bytes = {}
          for j = 1, math.random(0, 60) do bytes[j] = string.char(math.random(0, 255)) end
          local s = table.concat(bytes)
          log.info(s, { [s] = s, nested = { [s] = { s } }, i = i })
        end
      ]]
      assert.equal(300, #list)
      for i = 1, 300 do assert.equal(i, list[i].i) end
    end)

    it("replaces what is no UTF-8, and nothing else", function()
      local list = objects_of [[
        local log = require "lunapark.log"
        log.info "\237\160\128|\192\175|\244\144\128\128|\240\159\152\128|\224\160\128|\225\128"
      ]]
      local bad = "\239\191\189"
      assert.equal(
        bad:rep(3) .. "|" .. bad:rep(2) .. "|" .. bad:rep(4) .. "|\240\159\152\128|\224\160\128|" .. bad:rep(2),
        list[1].msg)
    end)
  end)

  describe("values", function()
    it("that are tables are JSON in both formats", function()
      assert.equal('info m t={"a":[1,2],"b":{"c":"x y"},"d":{},"e":"nan"}',
        line_of("m", { t = { a = { 1, 2 }, b = { c = "x y" }, d = {}, e = 0 / 0 } }))
      assert.equal('info m t={"1":1,"3":3}', line_of("m", { t = { 1, [3] = 3 } }))
      assert.equal('info m t={"2":"b","x":1}', line_of("m", { t = { x = 1, [2] = "b" } }))
    end)

    it("may contain themselves, and be deep and large", function()
      local t = { x = 1 }
      t.t = t
      assert.equal('info m t={"t":"(itself)","x":1}', line_of("m", { t = t }))
      local shared = {}
      assert.equal('info m t=[{},{}]', line_of("m", { t = { shared, shared } }))
      local deep = {}
      for _ = 1, 100 do deep = { deep } end
      assert.equal('info m t=[[[[[[[["..."]]]]]]]]', line_of("m", { t = deep }))
      local large = {}
      for i = 1, 10000 do large[i] = i end
      local line = line_of("m", { t = large })
      assert.is_true(#line < 4096, #line)
      assert.matches('^info m t=%[1,2,3,.*,"%d+ more"%]$', line)
      large = {}
      for i = 1, 1000 do large["k" .. i] = { ("x"):rep(1000) } end
      line = line_of("m", { t = large })
      assert.is_true(#line < 4200, #line)
      assert.equal("table", type(json.decode(line:match "t=(.*)$")), line)
    end)

    it("that are long are cut", function()
      local line = line_of("m", { a = ("x"):rep(10000), b = 1 })
      assert.matches('^info m a="x+%.%.%. %(%d+ bytes more%)" b=1$', line)
      local kept, more = line:match 'a="(x+)%.%.%. %((%d+)'
      assert.equal(10000, #kept + tonumber(more))
      assert.is_true(#line < 4200)
      line = line_of(("\1"):rep(100000))
      assert.is_true(#line < 16384)
      assert.matches("bytes more%)$", line)
      line = line_of("m", { [("k"):rep(1000)] = 1 })
      assert.matches('^info m "k+%.%.%. %(%d+ bytes more%)"=1$', line)
    end)

    it("and pairs that do not fit are counted", function()
      local t = {}
      for i = 1, 10 do t["k" .. i] = ("x y"):rep(1000) end
      local line = line_of("m", t)
      assert.is_true(#line < 16384)
      local _, n = line:gsub(" k%d+=", "")
      assert.matches(" left_out=" .. 10 - n .. "$", line)
      t = {}
      for i = 1, 100 do t[i] = i end
      assert.matches(" left_out=36$", line_of("m", t))
      local list = objects_of [[
        local t = {}
        for i = 1, 20 do t["k" .. i] = ("\1"):rep(3000) end
        require("lunapark.log").info(("\1"):rep(9000), t)
      ]]
      assert.is_true(list[1].left_out > 10)
    end)

    it("are what tostring makes of them, and its errors are none", function()
      local function with(fn) return setmetatable({}, { __tostring = fn }) end
      assert.equal("info m v=V", line_of("m", { v = with(function() return "V" end) }))
      assert.equal('info m v="(a table whose tostring failed: no)"',
        line_of("m", { v = with(function() error("no", 0) end) }))
      assert.matches("tostring failed", line_of("m", { v = with(function() return 5 end) }))
      assert.matches("tostring failed: a table", line_of("m", { v = with(function() error {} end) }))
      assert.matches("tostring failed", line_of("m", { t = { with(function() error {} end) } }))
      assert.matches("=1$", line_of("m", { [with(function() error "no" end)] = 1 }))
      assert.equal("info V", line_of(with(function() return "V" end)))
      assert.equal("info nil", line_of(nil))
      assert.matches("^info m v=5ULL$", line_of("m", { v = 5ULL }))
      assert.matches("^info m v={}$", line_of("m", { v = setmetatable({}, { __metatable = false }) }))
    end)

    it("may log and wait themselves, and change the table", function()
      local t = {}
      t.a = setmetatable({}, { __tostring = function()
        log.info("inner", { x = 1, y = 2 })
        lp.sleep(0.001)
        t.b, t.c = nil, "new"
        return "outer"
      end })
      t.b = "kept"
      local other
      local list = lines_of(function()
        other = lp.go(function() for i = 1, 20 do log.info("other", { i = i }) lp.yield() end end)
        log.info("m", t)
        other:join()
      end)
      local seen = {}
      for _, line in ipairs(list) do seen[line] = true end
      assert.is_true(seen["info inner x=1 y=2"] and seen["info m a=outer b=kept"] and seen["info other i=20"])
      assert.equal(22, #list)
    end)

    it("may be logged by finalizers at any moment", function()
      local path = child.script [[
        local log, ffi = require "lunapark.log", require "ffi"
        local n = 0
        local function finalize() n = n + 1 log.info("final", { n = n, s = "f" .. n }) end
        for i = 1, 3000 do
          ffi.gc(ffi.new "int[100]", finalize)
          log.info("line", { i = i, s = "l" .. i })
        end
        require("lunapark.log").flush(5)
        assert(n > 100)
      ]]
      for _, jit in ipairs { "on", "off" } do
        local text = child.file()
        os.execute(("exec %s run %s 2>%s >&2"):format(child.binary, path, text))
        local i = 0
        for line in io.lines(text) do
          local kind, number, s = line:match "^%S+ info (%a+) [in]=(%d+) s=(%w+)$"
          assert(kind, line)
          assert.equal((kind == "line" and "l" or "f") .. number, s)
          if kind == "line" then
            i = i + 1
            assert.equal(i, tonumber(number))
          end
        end
        assert.equal(3000, i)
        if jit == "on" then
          local f = assert(io.open(path, "a+"))
          local all = f:read "*a"
          f:close()
          f = assert(io.open(path, "w"))
          f:write("jit.off()\n", all)
          f:close()
        end
      end
    end)
  end)

  describe("levels", function()
    it("are logged from the one that is set", function()
      local function all()
        return lines_of(function()
          log.debug "d"
          log.info "i"
          log.warn "w"
          log.error "e"
        end)
      end
      assert.equal(level, log.level "debug")
      assert.same({ "debug d", "info i", "warn w", "error e" }, all())
      assert.equal("debug", log.level "error")
      assert.same({ "error e" }, all())
      assert.equal("error", log.level())
      assert.is_true(log.enabled "error")
      assert.is_false(log.enabled "warn")
    end)

    it("are options of run, and of the environment", function()
      local path = child.script 'require("lunapark.log").debug("x", {a = 1}) require("lunapark.log").error "y"'
      assert.matches("debug x a=1\n.*error y\n$", select(3, child.run { "run", "--log-level", "debug", path }))
      assert.matches("^%S+ error y\n$", select(3, child.run { "run", path }))
      assert.matches('^{.*"debug".*}\n{.*"error","msg":"y"}\n$', select(3, child.run { "run", path,
        env = { LUNAPARK_LOG_LEVEL = "debug", LUNAPARK_LOG_FORMAT = "json" } }))
      local code, _, err = child.run { "run", "--log-format", "xml", path }
      assert.equal(64, code)
      assert.matches("%-%-log%-format: must be text or json, got 'xml'\n", err)
      code, _, err = child.run { "run", path, env = { LUNAPARK_LOG_FORMAT = "x" } }
      assert.equal(64, code)
      assert.matches("LUNAPARK_LOG_FORMAT: log%-format: must be text or json", err)
    end)

    it("are options of an app", function()
      local server = child.serve { child.script [[
        local app = require("lunapark.http").app()
        app.options = { log_format = "json", log_level = "debug" }
        app:get("/", function() require("lunapark.log").debug("asked", { n = 1 }) return "x" end)
        app:get("/raise", function() error "in\nlines" end)
        return app
      ]] }
      child.client(server.addr):get "/"
      assert.matches('\n{"time":"[^"]+","level":"debug","msg":"asked","n":1}\n', server:said '"asked"')
      child.client(server.addr):get "/raise"
      local t = json.decode((server:logged '\n({[^\n]*"traceback"[^\n]*})\n'))
      assert.equal("error", t.level)
      assert.matches("in\nlines$", t.error)
    end)

    it("render nothing of what is off", function()
      local rendered = false
      log.level "info"
      log.debug("off", { v = setmetatable({}, { __tostring = function() rendered = true return "v" end }) })
      assert.is_false(rendered)
    end)
  end)

  it("refuses misuse, naming the argument", function()
    assert.matches("log_spec.lua:%d+: info: pairs must be a table {key = value}, got string",
      raised(function() log.info("m", "oops") end))
    assert.matches("debug: pairs must be a table", raised(log.debug, "m", 5))
    assert.matches("log_spec.lua:%d+: enabled: level must be debug, info, warn or error, got loud",
      raised(function() log.enabled "loud" end))
    assert.matches("level: level must be debug, info, warn or error, got 1", raised(log.level, 1))
    assert.matches("flush: s must be a number of seconds, got x", raised(log.flush, "x"))
  end)

  it("costs little and is compiled", function()
    local util = require "jit.util"
    local aborts = {}
    local function watch(what, _, fn, pc, code)
      if what == "abort" then
        local info = util.funcinfo(fn, pc)
        if tostring(info.source):find "log" then aborts[#aborts + 1] = { info.loc, code } end
      end
    end
    helper.stderr_of(function()
      jit.flush()
      jit.attach(watch, "trace")
      for i = 1, 2000 do
        log.debug("off", { i = i })
        log.info("on", { i = i, s = "x" })
      end
      jit.attach(watch)
    end)
    -- As in chan_spec: loops that are left say so; what can't be compiled would be another reason.
    for _, a in ipairs(aborts) do assert.is_true(a[2] ~= 7, a[1] .. ": not compiled") end
  end)

  describe("flush", function()
    it("waits until all is written", function()
      local before = lp.stats().log
      local text = helper.stderr_of(function()
        for i = 1, 1000 do log.info("line", { i = i }) end
        assert.is_true(log.flush(10))
        assert.equal(0, lp.stats().log.waiting)
      end)
      assert.equal(1000, select(2, text:gsub("\n", "")))
      assert.equal(before.lines + 1000, lp.stats().log.lines)
      assert.equal(before.lost, lp.stats().log.lost)
    end)
  end)

  -- A process whose stderr is a pipe that nobody reads.
  describe("that nobody reads", function()
    local p
    after_each(function()
      if p then
        pcall(p.kill, p, "KILL")
        p:wait(10)
        p = nil
      end
    end)

    local function start(...)
      p = assert(exec.spawn({ child.binary, ... }))
      return p
    end

    it("holds nobody up; lines are lost and counted, and that is said", function()
      start("run", child.script [[
        local log, lp = require "lunapark.log", require "lunapark"
        local sent = 0
        while lp.stats().log.lost < 500 do
          for _ = 1, 1000 do
            sent = sent + 1
            log.info("line", { n = sent, s = ("x"):rep(80) })
          end
          lp.yield()
        end
        print(log.flush(0.05))
        local g = lp.go(log.flush, 60)
        lp.yield()
        g:cancel()
        print(g:join(20))
        local s = lp.stats().log
        print(sent, s.lines, s.lost, s.waiting)
        log.error "beyond the reserve of chatter"
        io.stdout:flush()
        io.read()
        assert(log.flush(20))
        log.info "after"
      ]])
      assert.equal("nil\ttimeout", p.stdout:read_line())
      assert.equal("nil\tcanceled", p.stdout:read_line())
      local sent, queued, lost, waiting = p.stdout:read_line():match "^(%d+)\t(%d+)\t(%d+)\t(%d+)$"
      sent, lost = tonumber(sent), tonumber(lost)
      assert.equal(sent, queued + lost)
      assert.is_true(lost >= 500 and tonumber(waiting) > 0)
      p.stdin:write "go\n"
      p.stdin:close()
      local text = assert(p.stderr:read_all(16 * 2 ^ 20))
      local last, read, told, errors = 0, 0, 0, 0
      for line in text:gmatch "([^\n]*)\n" do
        local n = tonumber(line:match "^%S+ info line n=(%d+) s=x+$")
        if n then
          assert.is_true(n > last)
          last, read = n, read + 1
        else
          told = told + (line:match "^%S+ warn (%d+) lines lost$" or 0)
          if line:find "error beyond the reserve" then errors = errors + 1 end
        end
      end
      assert.equal(sent, read + told)
      assert.equal(lost, told)
      assert.equal(1, errors)
      assert.matches("info after\n$", text)
      assert.equal(0, p:wait(20).code)
    end)

    it("delays no request, and the end of the process by a second at most", function()
      start("serve", child.script [[
        local app = require("lunapark.http").app()
        local log = require "lunapark.log"
        app:get("/", function()
          for i = 1, 300 do log.warn("line", { i = i, s = ("x"):rep(100) }) end
          return tostring(require("lunapark").stats().log.lost)
        end)
        return app
      ]], "--listen", "127.0.0.1:0", "--procs", "1")
      local addr = p.stderr:read_line():match "listening on http://(%S+)$"
      local client = child.client(addr)
      local lost
      for _ = 1, 100 do
        local r = client:get "/"
        assert.equal(200, r.status)
        lost = tonumber(r.body)
      end
      assert.is_true(lost > 0)
      client:close()
      p:kill "TERM"
      local r = p:wait(20)
      assert.equal(0, r and r.code)
    end)

    it("ends a process whose reader has gone away, as any write to stderr does", function()
      start("run", child.script [[
        for i = 1, 2000 do
          require("lunapark.log").info("line", { i = i })
          require("lunapark").sleep(0.01)
        end
      ]])
      p.stderr:close()
      assert.equal("PIPE", p:wait(20).signal)
    end)
  end)

  it("counts what the kernel refuses", function()
    local code, out = child.run { "run", child.script [[
      local ffi, log, lp = require "ffi", require "lunapark.log", require "lunapark"
      ffi.cdef "int open(const char *path, int flags); int dup2(int from, int to); int dup(int fd);"
      local saved = ffi.C.dup(2)
      ffi.C.dup2(ffi.C.open("/dev/full", 1), 2)
      for i = 1, 3 do log.info("line", { i = i }) end
      assert(log.flush(10))
      print(lp.stats().log.lost)
      ffi.C.dup2(saved, 2)
      log.info "back"
    ]] }
    assert.same({ 0, "3\n" }, { code, out })
  end)

  describe("at the end of a process", function()
    local function last_words(how, env)
      local code, _, err = child.run { "run", child.script([[
        local ffi, log, lp = require "ffi", require "lunapark.log", require "lunapark"
        ffi.cdef "int getpid(void); int kill(int, int);"
        for i = 1, 500 do log.info("line", { i = i }) end
      ]] .. how), env = env }
      assert.equal(500, select(2, err:gsub("info line i=", "")), err)
      return code, err
    end

    it("all is written", function()
      assert.equal(0, (last_words ""))
      assert.equal(3, (last_words "os.exit(3)"))
    end)

    it("what was logged stands before the error that ends it", function()
      local code, err = last_words "error 'the end'"
      assert.equal(1, code)
      assert.matches("i=500\nlunapark: [^\n]*the end\n", err)
    end)

    it("also of one that is broken", function()
      local code, err = last_words "require 'spec.support.inside'('rt_throw', 'void (*)(const char *, ...)') 'broken'"
      assert.equal(-6, code)
      assert.matches("i=500\n.*lunapark: fatal: broken\n", err)
      code, err = last_words "lp.park()"
      assert.equal(2, code)
      assert.matches("i=500\n.*deadlock!\n", err)
      code, err = last_words "ffi.C.kill(ffi.C.getpid(), 3) lp.sleep(20)"
      assert.equal(2, code)
      assert.matches("i=500\n.*SIGQUIT\n", err)
      if child.has_asan or child.has_tsan then return end -- they have a handler of their own
      assert.equal(-11, (last_words "ffi.cast('int *', 8)[0] = 1"))
    end)
  end)

  it("holds lines of several VMs apart", function()
    local server = child.serve { child.script [[
      local app = require("lunapark.http").app()
      local log, lp = require "lunapark.log", require "lunapark"
      app:get("/:id", function(req)
        for i = 1, 50 do
          log.info("from " .. req.params.id, { i = i, vm = lp.stats().vm })
          if i % 10 == 0 then lp.yield() end
        end
        return "x"
      end)
      return app
    ]], "--procs", "2" }
    helper.all(20, function(id)
      local client = child.client(server.addr)
      assert.equal(200, client:get("/" .. id).status)
      client:close()
    end)
    server:kill "TERM"
    assert.equal(0, server:wait())
    local next_of = {}
    for line in server:stderr():gmatch "[^\n]*from[^\n]*" do
      local id, i = line:match "^%S+ info from (%d+) i=(%d+) vm=%d+$"
      assert(id, line)
      assert.equal((next_of[id] or 0) + 1, tonumber(i))
      next_of[id] = tonumber(i)
    end
    for id = 1, 20 do assert.equal(50, next_of[tostring(id)]) end
  end)

  it("writes lines that C formats through the FFI in one piece", function()
    local text = ("x\n"):rep(10)
    assert.equal(10, #lines_of(function() ffi.C.host_log(2, text, #text) end))
  end)
end)
