-- The commands as a shell sees them: real child processes of the binary.

local net = require "lunapark.net"
local child = require "spec.support.child"

local run, script, serve = child.run, child.script, child.serve

local HELLO = [[
local http = require "lunapark.http"
local app = http.app()
app:get("/", function() return "hello" end)
app:post("/", function(req) return tostring(#req:body()) end)
return app
]]

-- Scripts that are no apps, and what is said of them. %s is the path.
local BAD = {
  ["a syntax error"] = {
    text = "local x = 1\nlocal = 2\n",
    says = { "^lunapark: ", ":2: ", "expected near" },
  },
  ["an error while loading"] = {
    text = "local function boom()\n  error 'at load'\nend\nboom()\n",
    says = { ":2: at load\n", "stack traceback:", ":4: in main chunk" },
  },
  ["an error value that is no string"] = {
    text = "error { code = 5 }",
    says = { 'error: {"code":5}', "stack traceback:" },
  },
  ["a module that is not there"] = {
    text = "require 'no.such.module'",
    says = { "module 'no.such.module' not found", "stack traceback:" },
  },
  ["a module that is not in the box"] = {
    text = "\nrequire 'lunapark.shraed'",
    says = { ":2: module 'lunapark.shraed' not found: Lunapark has none of this name: did you mean shared%?\n"
      .. "Its modules are .* http, json, log, " },
  },
  ["nothing that it returns"] = {
    text = "local x = 1",
    says = { "returned neither an app nor a function, but nil" },
  },
  ["something else that it returns"] = {
    text = "return 5",
    says = { "returned neither an app nor a function, but number" },
  },
  ["a table that is no app"] = {
    text = "return {}",
    says = { "returned neither an app nor a function, but table" },
  },
  ["an unknown option in app.options"] = {
    text = "local app = require('lunapark.http').app()\napp.options = { max_boddy = 1 }\nreturn app",
    says = { "app.options: unknown option 'max_boddy': did you mean max_body%?" },
  },
  ["a bad value in app.options"] = {
    text = "local app = require('lunapark.http').app()\napp.options = { max_body = 'big' }\nreturn app",
    says = { "app.options: max.body: must be a whole number from 0 to .*, got 'big'" },
  },
  ["app.options that are no table"] = {
    text = "local app = require('lunapark.http').app()\napp.options = 5\nreturn app",
    says = { "app.options must be a table, got number" },
  },
}

local function check_says(err, path, says)
  assert.is_truthy(err:find(path:match "[^/]*$", 1, true), err)
  for _, pattern in ipairs(says) do
    assert.matches(pattern, err)
  end
end

local function body_status(addr, n)
  local client = child.client(addr)
  local r = assert(client:post("/", { body = ("x"):rep(n) }))
  client:close()
  return r.status
end

describe("lunapark", function()
  after_each(child.clean)

  describe("--help", function()
    it("lists the commands", function()
      for _, args in ipairs { { "--help" }, { "-h" }, { "help" } } do
        local code, out, err = run(args)
        assert.same({ 0, "" }, { code, err })
        for _, command in ipairs {
          "[serve] APP.lua", "run ", "test ", "check ", "routes ", "repl", "tag ", "version",
        } do
          assert.is_truthy(out:find("lunapark " .. command, 1, true), command)
        end
      end
    end)

    it("of each command tells its options", function()
      local options = {
        serve = { "listen", "procs", "max-body", "header-timeout", "idle-timeout", "handler-timeout",
          "drain-timeout", "pid-file" },
        run = { "procs", "max-body" }, check = { "procs", "strict" }, routes = { "json" }, version = {},
        repl = { "vm-memory" },
        test = { "procs", "filter", "output", "tags", "jobs", "watch", "coverage", "coverage-dir" }, -- busted's, too
      }
      for command, names in pairs(options) do
        local code, out, err = run { command, "--help" }
        assert.same({ 0, "" }, { code, err }, command)
        assert.matches("^usage: lunapark " .. (command == "serve" and "%[serve%]" or command), out)
        for _, name in ipairs(names) do
          assert.is_truthy(out:find("--" .. name, 1, true), command .. " --" .. name)
        end
        if command ~= "test" then assert.equal(out, select(2, run { "help", command })) end
      end
      -- Also behind a script, which is not looked at.
      assert.equal(0, (run { "nowhere.lua", "--help" }))
    end)
  end)

  it("version names what is in it", function()
    for _, arg in ipairs { "version", "--version", "-v" } do
      local code, out, err = run { arg }
      assert.same({ 0, "" }, { code, err })
      assert.matches("^lunapark %S+\n", out)
      assert.matches("LuaJIT 2", out)
      assert.matches("c%-ares %d+%.%d+%.%d+", out)
      assert.matches("OpenSSL 3%.%d+%.%d+\n", out)
      assert.matches("zlib %d+%.%d+%.%d+%S*\nbrotli %d+%.%d+%.%d+\nzstd %d+%.%d+%.%d+\n$", out)
    end
  end)

  describe("with a mistake in its arguments", function()
    local function usage(args, pattern)
      local code, out, err = run(args)
      assert.same({ 64, "" }, { code, out }, err)
      assert.matches("^lunapark: " .. pattern, err)
    end

    it("says what and ends with 64", function()
      local app = script(HELLO)
      usage({}, "which script%?\n")
      for _, command in ipairs { "serve", "run", "check", "routes" } do
        usage({ command }, "which script%?\n")
        usage({ command, "--nope", app }, "unknown option %-%-nope\ntry: lunapark " .. command .. " %-%-help\n")
        usage({ command, "-x", app }, "unknown option %-x\n")
        usage({ command, "--procs" }, "%-%-procs wants a value %(N%)\n")
      end
      usage({ app, "--nope" }, "unknown option %-%-nope\ntry: lunapark serve")
      for given, meant in pairs {
        ["--prcs"] = "--procs", ["--max_boddy=5"] = "--max-body", ["--hander-timeuot"] = "--handler-timeout",
        ["--lsiten"] = "--listen", ["--procss=2"] = "--procs",
      } do
        usage({ app, given, "2" }, ("unknown option " .. given .. ": did you mean " .. meant .. "?\ntry: "):gsub(
          "%p", "%%%0"))
      end
      usage({ "check", app, "--lsiten" }, "unknown option %-%-lsiten\ntry: ") -- no option of check's is near
      usage({ app, "--" .. ("x"):rep(500) }, "unknown option %-%-x+\ntry: ")
      for given, meant in pairs {
        servee = "serve", chekc = "check", vesion = "version", tst = "test", rpl = "repl", route = "routes",
      } do
        usage({ given, app }, ("'%s' is neither a command nor a file: did you mean %s%%?\ntry: lunapark %%-%%-help\n")
          :format(given, meant))
      end
      usage({ "unheard", "myapp" }, "'unheard' is neither a command nor a file\ntry: lunapark %-%-help\n")
      usage({ ("n"):rep(50) }, "'n+' is neither a command nor a file\n")
      usage({ app, "--listen" }, "%-%-listen wants a value %(ADDR%)\n")
      usage({ app, app }, "one script, not '" .. app:gsub("%p", "%%%0") .. "' too\n")
      usage({ "check", app, "--listen", ":0" }, "unknown option %-%-listen\n")
    end)

    it("names the option and the value that it does not take", function()
      for _, value in ipairs { "x", "", "0", "257", "1.5", "-1", "nan", "inf", "0x", "1 2", "1e999" } do
        usage({ "check", "--procs", value, "x.lua" }, "%-%-procs: must be a whole number from 1 to 256, got '"
          .. value:gsub("%p", "%%%0") .. "'\n")
      end
      for _, value in ipairs { "x", "", "0", "-1", "nan", "1e7", "inf" } do
        usage({ "x.lua", "--idle-timeout=" .. value }, "%-%-idle%-timeout: must be a number of seconds from 0.001 to "
          .. "1000000, got '" .. value:gsub("%p", "%%%0") .. "'\n")
      end
      usage({ "x.lua", "--max-body=-1" }, "%-%-max%-body: must be a whole number from 0 to 1e%+15, got '%-1'\n")
      usage({ "x.lua", "--log-level", "loud" }, "%-%-log%-level: must be debug, info, warn or error, got 'loud'\n")
      for _, value in ipairs { "", "x", "127.0.0.1", "127.0.0.1:99999", "127.0.0.1:x", "[::1", "unix:" } do
        usage({ "x.lua", "--listen", value }, "%-%-listen: must be HOST:PORT, .*, got '" .. value:gsub("%p", "%%%0"))
      end
      usage({ "x.lua", "--listen", "8080" }, "%-%-listen: must be HOST:PORT, .*, got '8080': did you mean "
        .. "127%.0%.0%.1:8080, or :8080 for all addresses%?\n")
    end)

    it("names the variable of the environment", function()
      usage({ "check", "x.lua", env = { LUNAPARK_PROCS = "many" } }, "environment: LUNAPARK_PROCS: procs: must be")
      usage({ "check", "x.lua", env = { LUNAPARK_IDLE_TIMEOUT = "0" } }, "environment: LUNAPARK_IDLE_TIMEOUT: ")
    end)
  end)

  describe("check", function()
    it("says nothing of a good app", function()
      local texts = {
        HELLO, "return function() end",
        "local lp = require 'lunapark'\nlp.sleep(0.01)\nreturn function() end", -- it may wait while it loads
        "#!/usr/bin/env lunapark\n" .. HELLO,
        "local app = require('lunapark.http').app()\napp.options = { max_body = 5, listen = { ':0' } }\nreturn app",
      }
      for _, text in ipairs(texts) do
        assert.same({ 0, "", "" }, { run { "check", script(text) } }, text)
      end
    end)

    for name, bad in pairs(BAD) do
      it("reports " .. name, function()
        local path = script(bad.text)
        local code, out, err = run { "check", path }
        assert.same({ 1, "" }, { code, out })
        check_says(err, path, bad.says)
        assert.is_nil(err:find("boot", 1, true), "the traceback shows what is none of the user's business: " .. err)
      end)
    end

    it("reports a file that is not there", function()
      local code, out, err = run { "check", "/nonexistent/app.lua" }
      assert.same({ 1, "" }, { code, out })
      assert.matches("cannot open /nonexistent/app.lua", err)
    end)
  end)

  describe("serve", function()
    it("says where it listens, in exactly one line, which comes first, and answers there", function()
      local c = serve { script(HELLO), "--procs", "2" }
      assert.matches("^127%.0%.0%.1:%d+$", c.addr)
      assert.equal("hello", child.client(c.addr):get("/").body)
      local lines, rest = 0, c:said(" serves\n"):gsub("^lunapark: listening on http://" .. c.addr .. "\n", "")
      for _ in rest:gmatch "\n" do lines = lines + 1 end
      assert.equal(1, lines)
      assert.matches("^%S+ info generation 1 %(%x+%) serves\n$", rest)
      assert.equal("", c:stdout())
    end)

    it("may be said, or not", function()
      local c = serve { "serve", script(HELLO) }
      assert.equal("hello", child.client(c.addr):get("/").body)
    end)

    it("serves a bare function", function()
      local c = serve { script "return function(req) return req.path end" }
      assert.equal("/any", child.client(c.addr):get("/any").body)
    end)

    it("finds modules beside the script", function()
      local path = script "return function() return require(MODULE) end"
      local dir, name = path:match "^(.*)/([^/]*)%.lua$"
      local f = assert(io.open(path, "w"))
      f:write(("return function() return require %q end"):format(name .. "_module"))
      f:close()
      local module = dir .. "/" .. name .. "_module.lua"
      f = assert(io.open(module, "w"))
      f:write "return 'from beside'"
      f:close()
      local c = serve { path }
      local body = child.client(c.addr):get("/").body
      os.remove(module)
      assert.equal("from beside", body)
    end)

    for name, bad in pairs(BAD) do
      it("does not begin with " .. name, function()
        local path = script(bad.text)
        local ln = net.listen "127.0.0.1:0"
        local addr = ln:addr()
        ln:close()
        local code, out, err = run { path, "--listen", addr, "--procs", "2" }
        assert.same({ 1, "" }, { code, out })
        check_says(err, path, bad.says)
        assert.is_nil(err:find("listening", 1, true))
        assert.same({ nil, "connection refused" }, { net.dial(addr) })
      end)
    end

    it("does not begin when the app cannot start", function()
      local code, _, err = run { script [[
        local app = require("lunapark.http").app()
        app:on_start(function() error "no database" end)
        return app
      ]], "--listen", "127.0.0.1:0" }
      assert.equal(1, code)
      assert.matches("no database", err)
    end)

    it("names the address that is in use", function()
      local ln = net.listen "127.0.0.1:0"
      local code, out, err = run { script(HELLO), "--listen", "127.0.0.1:0", "--listen", ln:addr() }
      assert.same({ 1, "" }, { code, out })
      assert.matches("^lunapark: cannot listen on " .. ln:addr():gsub("%p", "%%%0") .. ": [Aa]ddress already in use\n$",
        err)
      ln:close()
    end)

    it("names the address that is not this machine's, and the file that cannot be", function()
      local code, out, err = run { script(HELLO), "--listen", "192.0.2.1:0" }
      assert.same({ 1, "", 1 }, { code, out, select(2, err:gsub("\n", "")) })
      assert.matches("cannot listen on 192.0.2.1:0: ", err)
      code, out, err = run { script(HELLO), "--listen", "unix:/nonexistent/socket" }
      assert.same({ 1, "", 1 }, { code, out, select(2, err:gsub("\n", "")) })
      assert.matches("cannot listen on unix:/nonexistent/socket: ", err)
    end)

    it("listens on several addresses, unix sockets too", function()
      local path = child.file()
      local c = serve { script(HELLO), "--listen", "127.0.0.1:0", "--listen=unix:" .. path, "--listen", ":0" }
      assert.equal(3, #c.addrs)
      assert.equal("unix:" .. path, c.addrs[2])
      assert.matches(":%d+$", c.addrs[3])
      for _, addr in ipairs { c.addrs[1], c.addrs[2], "127.0.0.1:" .. c.addrs[3]:match "%d+$" } do
        assert.equal("hello", child.client(addr):get("/", { headers = { Host = "x" } }).body)
      end
      c:kill "TERM"
      assert.equal(0, c:wait())
      assert.is_nil(io.open(path), "the socket's file is still there")
      assert.equal(3, select(2, c:stderr():gsub("listening on", "")))
    end)

    it("takes over a socket file that nobody listens on", function()
      local path = child.file()
      local c = serve { script(HELLO), "--listen", "unix:" .. path }
      local code, _, err = run { script(HELLO), "--listen", "unix:" .. path }
      assert.equal(1, code)
      assert.matches("in use", err)
      c:kill "KILL"
      assert.equal(-9, c:wait())
      c = serve { script(HELLO), "--listen", "unix:" .. path }
      assert.equal("hello", child.client(c.addr):get("/").body)
    end)
  end)

  describe("options", function()
    local app = [[
      local app = require("lunapark.http").app()
      app.options = { max_body = 10, listen = { "127.0.0.1:0", "127.0.0.1:0" } }
      app:post("/", function(req) return tostring(#req:body()) end)
      return app
    ]]

    it("may stand in the app, once for all its VMs", function()
      local c = serve { script(app), "--procs", "3", listeners = 2 }
      for _, addr in ipairs(c.addrs) do
        assert.equal(200, body_status(addr, 10))
        assert.equal(413, body_status(addr, 11))
      end
      c:kill "TERM"
      assert.equal(0, c:wait())
      assert.equal(2, select(2, c:stderr():gsub("listening on", "")))
    end)

    it("of the environment win over the app's, those of the command line over both", function()
      local env = { LUNAPARK_MAX_BODY = "20", LUNAPARK_LISTEN = "127.0.0.1:0" }
      local c = serve { script(app), listeners = 1, env = env }
      assert.equal(200, body_status(c.addr, 20))
      assert.equal(413, body_status(c.addr, 21))
      local path = child.file()
      local d = serve { script(app), "--max-body", "30", "--listen", "unix:" .. path, env = env }
      assert.equal(200, body_status(d.addr, 30))
      assert.equal(413, body_status(d.addr, 31))
      for _, server in ipairs { c, d } do
        server:kill "TERM"
        assert.equal(0, server:wait())
        assert.equal(1, select(2, server:stderr():gsub("listening on", "")))
      end
    end)

    it("say how large a request's head may be, and how many fields it and its trailers may have", function()
      local c = serve { script [[
        local app = require("lunapark.http").app()
        app.options = { max_head = 40000, max_headers = 3 }
        app:any("/", function(req)
          req:body()
          return tostring(#(req.headers.a or req:trailers().a))
        end)
        return app
      ]], env = { LUNAPARK_MAX_HEADERS = "150" } }
      local function ask(request)
        local conn = child.send(c.addr, request)
        local r = child.reply(conn)
        conn:close()
        return { r.status, r.status == 200 and r.body or nil }
      end
      local host, many = "Host: x\r\n", ("B: 1\r\n"):rep(148)
      local chunked = "POST / HTTP/1.1\r\n" .. host .. "Transfer-Encoding: chunked\r\n\r\n0\r\n"
      assert.same({ 200, "30000" }, ask("GET / HTTP/1.1\r\n" .. host .. "A: " .. ("a"):rep(30000) .. "\r\n\r\n"))
      assert.same({ 431 }, ask("GET / HTTP/1.1\r\n" .. host .. "A: " .. ("a"):rep(40000) .. "\r\n\r\n"))
      assert.same({ 200, "1" }, ask("GET / HTTP/1.1\r\n" .. host .. many .. "A: 1\r\n\r\n"))
      assert.same({ 431 }, ask("GET / HTTP/1.1\r\n" .. host .. many .. "A: 1\r\nB: 1\r\n\r\n"))
      assert.same({ 200, "30000" }, ask(chunked .. "A: " .. ("a"):rep(30000) .. "\r\n\r\n"))
      assert.same({ 400 }, ask(chunked .. "A: " .. ("a"):rep(40000) .. "\r\n\r\n"))
      assert.same({ 200, "1" }, ask(chunked .. "B: 1\r\n" .. many .. "A: 1\r\n\r\n"))
      assert.same({ 400 }, ask(chunked .. "B: 1\r\n" .. many .. "A: 1\r\nB: 1\r\n\r\n"))
    end)

    it("may be said twice: the last counts", function()
      local c = serve { "--max-body=1", script(app), "--max-body", "2" }
      assert.equal(200, body_status(c.addr, 2))
      assert.equal(413, body_status(c.addr, 3))
    end)
  end)

  describe("run", function()
    it("gives the arguments in arg and ..., and ends when the script returns", function()
      local path = script [[
        print(arg[0], #arg, arg[1], arg[2], arg[3])
        print(select("#", ...), ...)
        require("lunapark").go(function() require("lunapark").park() end) -- which nobody waits for
        io.stdout:write "no line end"
      ]]
      local code, out, err = run { "run", "--procs", "1", path, "--procs", "a b", "" }
      assert.same({ 0, "" }, { code, err })
      assert.equal(path .. "\t3\t--procs\ta b\t\n3\t--procs\ta b\t\nno line end", out)
      assert.equal(path .. "\t0\tnil\tnil\tnil\n0\nno line end", select(2, run { "run", path }))
      assert.equal("-- x\n", select(2, run { "run", script "print(...)", "--", "x" }):gsub("\t", " "))
    end)

    it("lets the script wait, start Gs and use the network", function()
      local code, out = run { "run", script [[
        local lp, net = require "lunapark", require "lunapark.net"
        local ln = assert(net.listen "127.0.0.1:0")
        local g = lp.go(function() return ln:accept():read_line() end)
        lp.sleep(0.01)
        net.dial(ln:addr()):write "over the wire\n"
        print((g:join()))
      ]] }
      assert.same({ 0, "over the wire\n" }, { code, out })
    end)

    it("ends with 1 and a traceback when the script raises", function()
      local code, out, err = run { "run", script "print 'begun'\nlocal function f()\n  error 'raised'\nend\nf()" }
      assert.same({ 1, "begun\n" }, { code, out })
      assert.matches("^lunapark: .*:3: raised\nstack traceback:\n.*:5: in main chunk", err)
      assert.is_nil(err:find("boot", 1, true), err)
      code, out, err = run { "run", script "return +" }
      assert.same({ 1, "" }, { code, out })
      assert.matches(":1: ", err)
      code, out, err = run { "run", "/nonexistent.lua" }
      assert.same({ 1, "" }, { code, out })
      assert.matches("cannot open /nonexistent.lua", err)
    end)

    it("ends with the code of os.exit, from any G, with what is buffered written", function()
      for text, code in pairs {
        ["io.write 'x' os.exit(3)"] = 3, ["io.write 'x' os.exit()"] = 0, ["io.write 'x' os.exit(true)"] = 0,
        ["io.write 'x' os.exit(false)"] = 1,
        ["local lp = require 'lunapark' lp.go(function() io.write 'x' os.exit(4) end) lp.park()"] = 4,
      } do
        assert.same({ code, "x", "" }, { run { "run", script(text) } }, text)
      end
    end)

    it("tells a deadlock, and ends with 2", function()
      for _, text in ipairs {
        "require('lunapark').park 'a miracle'",
        "local lp = require 'lunapark' local g = lp.go(lp.park) lp.sleep(0.01) g:join()",
        "local lp = require 'lunapark' local g g = lp.go(function() lp.yield() g:join() end) local me = lp.self()"
          .. "lp.go(function() me:join() end) lp.park()",
      } do
        for procs = 1, 2 do
          local code, out, err = run { "run", "--procs", tostring(procs), script(text) }
          assert.same({ 2, "" }, { code, out }, text)
          assert.matches("all Gs are asleep %- deadlock!\n", err)
          assert.matches("\nG %d+ ", err)
        end
      end
    end)

    it("reads Lunapark's modules from the folder LUNAPARK_LUA, wherever the script goes", function()
      local project = require "spec.support.project"
      finally(project.clean)
      local p = project.new {
        ["lua/lunapark/dns.lua"] = "return 'mine'\n",
        ["s.lua"] = [[
          require("ffi").cdef "int chdir(const char *path);"
          require("ffi").C.chdir "/"
          print(require "lunapark.dns")
        ]],
      }
      local environment = { LUNAPARK_LUA = "lua", PATH = os.getenv "PATH" }
      local status, out = p:run({ "run", "s.lua" }, nil, environment)
      assert.same({ 0, "mine\n" }, { status, out })
    end)
  end)

  describe("test", function()
    local good, bad = [[
      local lp = require "lunapark"
      describe("outer", function()
        it("passes", function() lp.sleep(0.001) assert.is_true(lp.now() > 0) end)
        it("passes too", function() end)
      end)
    ]], [[
      describe("outer", function()
        it("passes", function() end)
        it("fails", function() assert.equal(1, 2) end)
        it("raises", function() error "inside" end)
      end)
    ]]

    it("ends with 0 when all pass, else not", function()
      local code, out = run { "test", "--procs=2", script(good) }
      assert.equal(0, code)
      assert.matches("2 successes / 0 failures / 0 errors", out)
      code, out = run { "test", script(bad) }
      assert.equal(1, code)
      assert.matches("1 success / 1 failure / 1 error", out)
      assert.matches("inside", out)
      code = run { "test", script "this is no Lua" }
      assert.are_not.equal(0, code)
      code = run { "test", "/nonexistent/path" }
      assert.are_not.equal(0, code)
    end)

    it("has busted's options", function()
      local code, out = run { "test", "-o", "TAP", script(bad) }
      assert.equal(1, code)
      assert.matches("\nok 1 %- outer passes", "\n" .. out)
      assert.matches("not ok 2 %- outer fails", out)
      code, out = run { "test", "--filter", "passes", "--procs", "1", "--output=TAP", script(bad) }
      assert.equal(0, code)
      assert.is_nil(out:find("fails", 1, true))
      code, out = run { "test", "--list", script(good) }
      assert.equal(0, code)
      assert.matches("outer passes too", out)
      local err
      code, out, err = run { "test", "--no-such-option", script(good) }
      assert.are_not.equal(0, code)
      assert.matches("no%-such%-option", out .. err)
    end)

    it("says that busted is not installed", function()
      local env = { LUA_PATH = "/nonexistent/?.lua", LUA_CPATH = "/nonexistent/?.so" }
      local code, out, err = run { "test", script "", env = env }
      local says = "lunapark: busted is not installed (Debian: lua-busted): there is no module busted.runner\n"
      assert.same({ 1, "", says }, { code, out, err })
    end)

    it("ends with the code of os.exit", function()
      assert.equal(7, (run { "test", script "it('ends', function() os.exit(7) end)" }))
    end)

    it("fails when os.exit leaves tests undone, with --jobs or without", function()
      for _, call in ipairs { "os.exit(0)", "os.exit()", "os.exit(true)" } do
        local path = script("it('ends', function() " .. call .. " end) it('is left', function() error 'x' end)")
        for _, jobs in ipairs { "1", "2" } do assert.equal(1, (run { "test", "--jobs", jobs, path })) end
      end
      local _, _, err = run { "test", script "it('ends', function() os.exit(0) end)" }
      assert.matches('lunapark test: it "ends" %(%S+:1%) calls os.exit: the tests behind it did not run\n', err)
      assert.equal(1, (run { "test", script "os.exit(0)" }))
    end)

    it("says that every G of a spec waits for ever, and runs the others", function()
      local text = "it('hangs', function() require('lunapark').park() end) it('passes', function() end)"
      local code, out = run { "test", script(text) }
      assert.equal(1, code)
      assert.matches("deadlock!", out)
      assert.matches("1 success / 1 failure / 0 errors", out)
    end)
  end)

  it("LUNAPARK_LUA=lua names the modules as the binary does", function()
    local where = script [[
      print(debug.getinfo(require("lunapark").go).source)
      print(debug.getinfo(require("lunapark.http").app).source)
    ]]
    -- What that directory has not comes from the binary. In messages both have one name.
    for _, dir in ipairs { "lua", "/nonexistent", false } do
      local code, out = run { "run", where, env = { LUNAPARK_LUA = dir } }
      assert.equal(0, code)
      assert.matches("^@lunapark/init.lua\n@lunapark/http/init.lua\n", out)
    end
  end)
end)
