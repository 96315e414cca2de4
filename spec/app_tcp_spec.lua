--- app:tcp: other protocols than HTTP, served by all VMs of a process, over reloads, stops and upgrades.

local ffi = require "ffi"
local http = require "lunapark.http"
local lp = require "lunapark"
local net = require "lunapark.net"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local helper = require "spec.helper"
local reload = require "spec.support.reload"

ffi.cdef "int prctl(int option, unsigned long arg, unsigned long, unsigned long, unsigned long);"
local SUBREAPER = 36

-- No client is slower than this while a process stops, however busy the machine is.
local PATIENT = { LUNAPARK_DEBUG = "drainidle=15000" }

-- An echo that says which version it is. NAME, ADDR and MORE are replaced.
local APP = [[
local lp = require "lunapark"
local function crawl() while true do end end
jit.off(crawl)
local app = require("lunapark.http").app()
app:get("/", function() return "NAME" end)
app:get("/connections", function() return lp.stats().connections end)
app:get("/retiring", function()
  local n = 0
  for _, vm in ipairs(lp.stats().vms) do n = n + (vm.state == "retires" and 1 or 0) end
  return tostring(n)
end)
app:tcp("ADDR", function(c)
  for line in function() return c:read_line() end do
    if line == "spin" then while true do end end
    if line == "crawl" then crawl() end
    if line == "fail" then error "a bad line" end
    if line == "last" then
      local _, err = c:read_line()
      c:write("ended by " .. err .. "\n")
      return
    end
    c:write("NAME " .. line .. "\n")
  end
end)
MORE
return app
]]

local function app_of(name, addr, more)
  return (APP:gsub("%u%u%u%u", { NAME = name, ADDR = addr or "127.0.0.1:0", MORE = more or "" }))
end

testing.block_timeout(300)

describe("app:tcp", function()
  after_each(function()
    reload.clean()
    child.clean()
  end)

  -- A free port: somebody else may take it, but hardly does.
  local function free_addr()
    local ln = assert(net.listen "127.0.0.1:0")
    local addr = ln:addr()
    ln:close()
    return addr
  end

  local function start(folder, ...)
    local args = { folder .. "/app.lua", "--listen", "127.0.0.1:0", ... }
    args.env = type(args[#args]) == "table" and table.remove(args) or nil
    args.listeners = 1
    local server = child.serve(args)
    server.tcp = server.addrs[2]:gsub("^tcp://", "")
    return server
  end

  local dial = child.dial

  local function ask(c, text)
    assert(c:write(text .. "\n"))
    return c:read_line()
  end

  -- Reloads, and waits for the n-th line about it.
  local function reload_to(server, folder, text, n, result)
    reload.write(folder, "app.lua", text)
    server:kill "HUP"
    return server:said(result or "serves, loaded in", n)
  end

  it("serves connections beside HTTP, in any VM", function()
    local server = start(reload.folder { ["app.lua"] = app_of "one" }, "--procs", "2")
    assert.matches("listening on http://127.0.0.1:%d+\nlunapark: listening on tcp://127.0.0.1:%d+\n", server:stderr())
    local first = dial(server.tcp)
    assert.equal("one 1", ask(first, 1))
    for i = 2, 20 do assert.equal("one " .. i, ask(dial(server.tcp), i)) end
    local client = child.client(server.addr)
    assert.equal("one", client:get("/").body)
    local counts = client:get("/connections"):json()
    assert.same({ 20, 20, 0 }, { counts.accepted, counts.open, counts.failed })
    assert.equal("one again", ask(first, "again"))
  end)

  it("logs errors, and closes", function()
    local server = start(reload.folder { ["app.lua"] = app_of "one" })
    local c = dial(server.tcp)
    assert.is_nil((ask(c, "fail")))
    local text = server:said "a bad line"
    local client = c:local_addr():gsub("%p", "%%%0")
    assert.matches("error tcp 127.0.0.1:0, client " .. client .. ": [^\n]*app.lua:16: a bad line", text)
  end)

  describe("over a reload", function()
    it("gives new connections to the new generation; the others stay", function()
      local folder = reload.folder { ["app.lua"] = app_of "one" }
      local server = start(folder, "--procs", "2")
      local old = dial(server.tcp)
      assert.equal("one a", ask(old, "a"))
      reload_to(server, folder, app_of "two", 1)
      assert.equal("one b", ask(old, "b"))
      for i = 1, 10 do assert.equal("two " .. i, ask(dial(server.tcp), i)) end
      lp.sleep(1.2) -- longer than a stop would leave it in peace
      assert.equal("one c", ask(old, "c"))
      local client = child.client(server.addr)
      assert.not_equal("0", client:get("/retiring").body)
      old:close()
      child.eventually(function() return client:get("/retiring").body == "0" end, "the end of the old VMs")
    end)

    it("cancels old connections when --drain-timeout is over", function()
      local folder = reload.folder { ["app.lua"] = app_of "one" }
      local server = start(folder, "--drain-timeout", "0.3")
      local old = dial(server.tcp)
      assert.equal("one a", ask(old, "a"))
      old:write "last\n"
      reload_to(server, folder, app_of "two", 1)
      assert.equal("ended by canceled", old:read_line())
      assert.same({ nil, "eof" }, { old:read() })
    end)

    it("opens what is new, and closes what is no more", function()
      local folder = reload.folder { ["app.lua"] = app_of "one" }
      local server = start(folder)
      local first, second = dial(server.tcp), free_addr()
      assert.equal("one a", ask(first, "a"))
      reload_to(server, folder, app_of("two", second), 1)
      assert.equal("two b", ask(dial(second), "b"))
      assert.equal("one c", ask(first, "c"))
      server:said(server.tcp .. ": not listened on any more")
      child.eventually(function()
        local late = net.dial(server.tcp)
        return not late or late:close() and false
      end, "refused")
      reload_to(server, folder, app_of "three", 2)
      child.eventually(function()
        local late = net.dial(second)
        return not late or late:close() and false
      end, "refused")
    end)

    it("changes nothing when an address can not be had", function()
      local folder = reload.folder { ["app.lua"] = app_of "one" }
      local server = start(folder)
      local taken = assert(net.listen "127.0.0.1:0")
      local free = free_addr()
      local two = ('app:tcp("%s", print)'):format(free)
      local text = reload_to(server, folder, app_of("two", taken:addr(), two), 1, "reload failed")
      assert.matches("app:tcp: cannot listen on " .. taken:addr() .. ": Address already in use", text, 1, true)
      assert.equal("one a", ask(dial(server.tcp), "a"))
      assert.is_nil((net.dial(free)))
      local addr = taken:addr()
      taken:close()
      reload_to(server, folder, app_of("two", addr, two), 1)
      assert.equal("two b", ask(dial(addr), "b"))
    end)
  end)

  it("says at the start what can not be had", function()
    local taken = assert(net.listen "127.0.0.1:0")
    local code, _, text = child.run { "serve", child.script(app_of("one", taken:addr())), "--listen", "127.0.0.1:0" }
    taken:close()
    assert.equal(1, code)
    assert.matches("app:tcp: cannot listen on 127.0.0.1:%d+: Address already in use", text)
    for addr, why in pairs {
      ["127.0.0.1"] = "app:tcp 127.0.0.1: invalid argument", ["no.such:1"] = "app:tcp no.such:1: invalid argument",
    } do
      code, _, text = child.run { "serve", child.script(app_of("one", addr)), "--listen", "127.0.0.1:0" }
      assert.equal(1, code)
      assert.matches(why, text:lower(), 1, true)
    end
  end)

  describe("a stop", function()
    it("lets connections end between two messages", function()
      local server = start(reload.folder { ["app.lua"] = app_of "one" }, "--drain-timeout", "60",
        { LUNAPARK_DEBUG = "drainidle=2000" })
      local c, silent = dial(server.tcp), dial(server.tcp)
      assert.equal("one a", ask(c, "a"))
      assert.equal("one b", ask(silent, "b"))
      silent:write "last\n"
      server:kill "TERM"
      server:said "SIGTERM: stopping"
      child.eventually(function()
        local late = net.dial(server.tcp)
        return not late or late:close() and false
      end, "refused")
      assert.equal("ended by timeout", silent:read_line())
      c:write "x\n"
      assert.equal(0, server:wait())
    end)

    it("waits no longer than --drain-timeout", function()
      local server = start(reload.folder { ["app.lua"] = app_of "one" }, "--drain-timeout", "0.3", PATIENT)
      local c = dial(server.tcp)
      assert.equal("one a", ask(c, "a"))
      server:kill "TERM"
      assert.equal(0, server:wait())
      assert.matches("unfinished after 0.3 s", server:stderr())
    end)
  end)

  for _, way in ipairs { "spin", "crawl" } do
    it("ends a handler that never waits, and its connection: " .. way, function()
      if child.has_tsan then return pending "no signal reaches the loop" end
      local server = start(reload.folder { ["app.lua"] = app_of "one" }, "--procs", "1", "--handler-timeout", "0.2",
        "--kill-after", "0.2")
      local bad, other = dial(server.tcp), dial(server.tcp)
      assert.equal("one a", ask(bad, "a"))
      assert.is_nil((ask(bad, way)))
      server:said "was ended"
      child.eventually(function()
        local c = dial(server.tcp)
        return ask(c, "b") == "one b"
      end)
      other:close()
      local counts = child.client(server.addr):get("/connections"):json()
      assert.is_true(counts.open < counts.accepted)
    end)
  end

  it("counts for --max-conns", function()
    local server = start(reload.folder { ["app.lua"] = app_of "one" }, "--procs", "1", "--max-conns", "3")
    local first = dial(server.tcp)
    assert.equal("one 1", ask(first, 1))
    for i = 2, 3 do assert.equal("one " .. i, ask(dial(server.tcp), i)) end
    local text = dial(server.tcp):read_all()
    assert.is_true(text == nil or text == "")
    local c = dial(server.addr)
    c:write "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    assert.equal(503, child.reply(c).status)
    server:said "new clients are refused"
    first:close()
    child.eventually(function()
      return ask(dial(server.tcp), "again") == "one again"
    end)
  end)

  describe("an upgrade", function()
    setup(function() ffi.C.prctl(SUBREAPER, 1, 0, 0, 0) end)
    teardown(function() ffi.C.prctl(SUBREAPER, 0, 0, 0, 0) end)

    it("hands the listener over, and lets connections end", function()
      local server = start(reload.folder { ["app.lua"] = app_of "one" }, "--drain-timeout", "60", PATIENT)
      local old = dial(server.tcp)
      assert.equal("one a", ask(old, "a"))
      old:write "last\n"
      server:kill "USR2"
      local pid = server:logged "SIGUSR2: process (%d+) serves, this one stops"
      local next_one = child.adopt(tonumber(pid), server)
      for i = 1, 10 do assert.equal("one " .. i, ask(dial(server.tcp), i)) end
      assert.is_nil(server:poll())
      old:write "end\n"
      old:close()
      assert.equal(0, server:wait())
      assert.equal("one b", ask(dial(server.tcp), "b"))
      next_one:kill "TERM"
    end)
  end)

  it("belongs to mounted apps, too, and not to two at once", function()
    local server = start(reload.folder { ["app.lua"] = app_of("one", nil, [[
      local other = require("lunapark.http").app()
      other:tcp("127.0.0.2:0", function(c) c:write "other" end)
      app:mount("/other", other)
    ]]) })
    assert.equal("one a", ask(dial(server.tcp), "a"))
    child.eventually(function() return server:stderr():match "tcp://(127.0.0.2:%d+)" end)
    assert.equal("other", dial((server:stderr():match "tcp://(127.0.0.2:%d+)")):read_all())
    local code, _, text = child.run { "serve", child.script(app_of("one", "127.0.0.1:0", [[
      local other = require("lunapark.http").app()
      other:tcp("127.0.0.1:0", print)
      app:mount("/other", other)
    ]])), "--listen", "127.0.0.1:0" }
    assert.equal(1, code)
    assert.matches("app:tcp 127.0.0.1:0: two apps ask for it", text, 1, true)
  end)

  it("names what is no argument", function()
    local app = http.app()
    assert.matches("tcp: addr must be a string, got nil", helper.raised(app.tcp, app))
    assert.matches("tcp 127.0.0.1:1: fn must be a function, got nil", helper.raised(app.tcp, app, "127.0.0.1:1"))
    assert.matches("tcp: max must be", helper.raised(app.tcp, app, "127.0.0.1:1", print, { max = 0 }))
    app:tcp("127.0.0.1:1", print)
    assert.matches("tcp: 127.0.0.1:1 is there already", helper.raised(app.tcp, app, "127.0.0.1:1", print))
  end)
end)
