-- `lunapark repl`: its parts, lines from a pipe, and a terminal.

local ffi = require "ffi"
local complete = require("lunapark.command.repl_complete").complete
local format = require "lunapark.command.repl_format"
local lp = require "lunapark"
local net = require "lunapark.net"
local project = require "spec.support.project"
local repl = require "lunapark.command.repl"

ffi.cdef [[
int posix_openpt(int flags);
int grantpt(int fd);
int unlockpt(int fd);
int ptsname_r(int fd, char *name, size_t size);
ssize_t read(int fd, void *data, size_t size);
ssize_t write(int fd, const char *data, size_t size);
int close(int fd);
]]

describe("repl", function()
  after_each(project.clean)

  describe("compiles", function()
    it("expressions and statements", function()
      assert.same({ 1, 2 }, { repl.compile "1, 2" () })
      assert.same({ 3 }, { repl.compile " = 3 -- three" () })
      assert.same({}, { repl.compile "local x = 1" () })
      assert.same({ 5 }, { repl.compile "return 5" () })
      assert.same({}, { repl.compile "" () })
    end)

    it("and knows what is not complete", function()
      for _, text in ipairs { "for i = 1, 2 do", "f(", "x = {", "local function f()", "if x then\n  y()" } do
        local chunk, err, more = repl.compile(text)
        assert.same({ nil, true }, { chunk, more }, text)
        assert.matches("<eof>", err)
      end
      local chunk, err, more = repl.compile "x = = 1"
      assert.same({ nil, "repl:1: unexpected symbol near '='", false }, { chunk, err, more })
    end)
  end)

  describe("prints", function()
    it("values as one would write them", function()
      assert.equal('nil\ttrue\t1.5\t"a\\n\\"b\\"\\000"', format.values(4, nil, true, 1.5, 'a\n"b"\0'))
      assert.equal('{ 1, 2, [true] = 5, a = { b = {} }, ["c d"] = 3, ["end"] = 4 }',
        format.value { 1, 2, a = { b = {} }, ["c d"] = 3, ["end"] = 4, [true] = 5 })
      assert.equal("T!", format.value(setmetatable({}, { __tostring = function() return "T!" end })))
      assert.matches("__tostring raises", format.value(setmetatable({}, { __tostring = function() error "x" end })))
    end)

    it("within limits", function()
      local t, cycle, deep = {}, {}, {}
      for i = 1, 150 do t[i] = i end
      assert.matches("100,\n  %.%.%. %(50 more%)\n}$", format.value(t))
      cycle.self = cycle
      assert.equal("{ self = <cycle> }", format.value(cycle))
      local at = deep
      for _ = 1, 10 do
        at.x = {}
        at = at.x
      end
      assert.equal("{ x = { x = { x = { x = {...} } } } }", format.value(deep))
      assert.is_true(#format.value(("x"):rep(5000)) < 1100)
      local wide = {}
      for i = 1, 100 do
        wide[i] = {}
        for j = 1, 100 do wide[i][j] = ("x"):rep(900) end
      end
      assert.is_true(#format.value(wide) < 400000)
    end)
  end)

  describe("completes", function()
    it("globals, fields, methods and keywords", function()
      assert.same({ "g", "" }, { complete "x = strin" })
      assert.same({ "at", "" }, { complete "repe" })
      assert.same({ "rmat", "" }, { complete "print(string.fo" })
      assert.same({ "", "find  format" }, { complete "string.f" })
      assert.same({ "", "" }, { complete "nothing.at.all" })
      assert.same({ "", "" }, { complete "" })
      _G.repl_thing = setmetatable({ own = 1, run = print }, { __index = { rut = print, rug = 2 } })
      assert.same({ "", "rug  run  rut" }, { complete "repl_thing.ru" })
      assert.same({ "", "run  rut" }, { complete "repl_thing:ru" })
      _G.repl_thing = nil
    end)

    it("without calling anything", function()
      _G.repl_thing = setmetatable({}, { __index = function() error "called" end })
      assert.same({ "", "" }, { complete "repl_thing.x.y" })
      _G.repl_thing = nil
    end)
  end)

  describe("from a pipe", function()
    local function run(text)
      return project.new({}):run({ "repl" }, text)
    end

    it("runs lines as a script, which may wait", function()
      local code, out, err = run [[
1 + 1
x = "kept"
for i = 1, 2 do
  print(i)
end
lp.sleep(0.01)
x, nil, { 1 }
lp.go(function() lp.sleep(0.01) print "behind" end):join()
= 7]]
      assert.same({ 0, "" }, { code, err })
      assert.equal('2\n1\n2\ntrue\n"kept"\tnil\t{ 1 }\nbehind\n7\n', (out:gsub("behind\n[^\n]*\n7", "behind\n7")))
    end)

    it("lets other Gs run while it waits for a line", function()
      local p = project.new {}
      local exec = require "lunapark.exec"
      local process = assert(exec.spawn({ p.binary, "repl" }, { stderr = "stdout" }))
      process.stdout:set_deadline(30)
      process.stdin:write [[
n = 0; lp.go(function() while true do lp.sleep(0.001) n = n + 1 if n == 5 then print 'five' end end end)
]]
      repeat local line = assert(process.stdout:read_line()) until line == "five"
      process.stdin:write "n >= 5\n"
      assert.equal("true", process.stdout:read_line())
      process.stdin:close()
      assert.same({ code = 0 }, process:wait(30))
      process.stdout:close()
    end)

    it("goes on after errors, and tells them with their lines", function()
      local code, out, err = run [[
error "first"
local function f() error { why = 1 } end f()
x = =
"on"
while true do
]]
      assert.same({ 1, '"on"\n' }, { code, out })
      assert.matches("^repl:1: first\nstack traceback:\n", err)
      assert.matches("\nerror: { why = 1 }\nstack traceback:\n", err)
      assert.matches("\n\trepl:1: in function 'f'\n\trepl:1: in main chunk\n", err)
      assert.matches("\nrepl:1: unexpected symbol near '='\n", err)
      assert.matches("'end' expected near '<eof>'\n$", err)
      assert.not_matches("lunapark/", err)
    end)

    it("ends at a deadlock, and with os.exit", function()
      local code, _, err = run "lp.chan(0):recv()\n"
      assert.equal(2, code)
      assert.matches("all Gs are asleep %- deadlock!", err)
      assert.equal(7, (run "os.exit(7)\n1"))
    end)

    it("takes no arguments", function()
      local code, _, err = project.new({}):run { "repl", "x.lua" }
      assert.equal(64, code)
      assert.matches("repl takes no 'x.lua'", err)
    end)
  end)

  describe("at a terminal", function()
    local master, file, process, seen

    local function start(dir, binary)
      master = ffi.C.posix_openpt(2 + 256 + 2048) -- O_RDWR | O_NOCTTY | O_NONBLOCK
      assert(master >= 0 and ffi.C.grantpt(master) == 0 and ffi.C.unlockpt(master) == 0)
      local name = ffi.new "char[100]"
      assert(ffi.C.ptsname_r(master, name, 100) == 0)
      file, seen = assert(net.fd(master)), ""
      process = assert(require("lunapark.exec").spawn({ "/bin/sh", "-c",
        'exec setsid -c "$1" repl <"$0" >"$0" 2>&1', ffi.string(name), binary }, {
        stdin = "null", stdout = "null", stderr = "inherit",
        env = {
          TERM = "xterm", LC_ALL = "C.UTF-8", PATH = os.getenv "PATH", LUNAPARK_HISTORY = dir .. "/history",
          LUNAPARK_LUA = os.getenv "LUNAPARK_LUA", ASAN_OPTIONS = os.getenv "ASAN_OPTIONS",
        },
      }))
    end

    local function send(text)
      assert.equal(#text, tonumber(ffi.C.write(master, text, #text)))
    end

    -- Reads until this stands there, behind what was awaited before.
    local function await(text)
      local give_up = lp.now() + 30
      local buffer = ffi.new "char[4096]"
      while true do
        local _, to = seen:find(text, 1, true)
        if to then
          seen = seen:sub(to + 1)
          return
        end
        assert(lp.now() < give_up, ("no '%s' in '%s'"):format(text, seen))
        file:wait_read(1)
        local n = tonumber(ffi.C.read(master, buffer, 4096))
        if n > 0 then seen = seen .. ffi.string(buffer, n) end
      end
    end

    local function finish()
      send "\4"
      assert.same({ code = 0 }, process:wait(30))
      file:close()
      ffi.C.close(master)
      process = nil
    end

    after_each(function()
      if process then
        process:kill "KILL"
        process:wait(10)
        file:close()
        ffi.C.close(master)
        process = nil
      end
    end)

    it("edits, completes, remembers; Ctrl-C ends a wait or clears the line", function()
      local p = project.new {}
      start(p.dir, p.binary)
      await "Ctrl-D ends"
      await "> "
      send "lp.sle\t(0.001)\r"
      await "true"
      await "> "
      send "string.f\t"
      await "find  format"
      await "string.f"
      send "\3"
      await "^C"
      await "> "
      send "print('be' .. 'gun') lp.sleep(1000)\r"
      await "begun"
      send "\3"
      await "interrupted"
      await "> "
      send "print('be' .. 'gun') while true do lp.sleep(0.001) end\r"
      await "begun"
      send "\3"
      await "interrupted"
      await "> "
      send "for i = 1, 2 do\r"
      await ">> "
      send "\3"
      await "> "
      send "'\195\164' .. 'x'\r"
      await '"\195\164x"'
      await "> "
      send "lp.go(function() lp.sleep(0.01) print 'from behind' end) and nil\r"
      await "from behind"
      send "error 'no end'\r"
      await "repl:1: no end"
      await "> "
      finish()
      assert.matches("lp%.sleep%(0.001%)", p:read "history")
      start(p.dir, p.binary)
      await "> "
      send "\27[A\27[A\r" -- the line before the last one
      await "from behind"
      finish()
    end)
  end)
end)
