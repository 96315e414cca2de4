-- Servers and signals: real child processes of the binary.

local lp = require "lunapark"
local net = require "lunapark.net"
local child = require "spec.support.child"
local helper = require "spec.helper"

local run, script, serve = child.run, child.script, child.serve

describe("signals of a server:", function()
  after_each(child.clean)

  local sleeper = child.UNTIL_GONE .. [[
    local lp = require "lunapark"
    local gate = require("lunapark.shared").chan "gate"
    local app = require("lunapark.http").app()
    app:get("/", function() return "hello" end)
    app:get("/while", function(req) until_gone(req.query.file) return "gone" end)
    app:get("/held", function() gate:recv() return "held" end)
    app:get("/open", function() gate:close() return "open" end)
    app:get("/sleep/:s", function(req) lp.sleep(tonumber(req.params.s)) return "slept" end)
    app:get("/requests", function()
      local sum = 0
      for _, p in ipairs(lp.stats().ps) do sum = sum + p.requests end
      return tostring(sum)
    end)
    return app
  ]]

  -- n requests for a path, all of them in their handlers: the Gs that wait for the responses.
  local function requests(c, n, path)
    local gs = {}
    for i = 1, n do
      gs[i] = lp.go(function()
        local client = child.client(c.addr)
        local r, err = client:get(path)
        client:close()
        return r and r.status .. " " .. r.body, err
      end)
    end
    local client, asked = child.client(c.addr), 0
    child.eventually(function()
      asked = asked + 1
      return tonumber(client:get("/requests").body) >= n + asked
    end, "all requests")
    return gs, client
  end

  for signal, n in pairs { TERM = 100, INT = 20 } do
    it("SIG" .. signal .. " answers " .. n .. " requests that wait, refuses new ones, and ends with 0", function()
      local c, held = serve { script(sleeper) }, child.file ""
      local gs, idle = requests(c, n, "/while?file=" .. held)
      c:kill(signal)
      child.eventually(function()
        local conn, err = net.dial(c.addr)
        if conn then conn:close() end
        return err == "connection refused"
      end, "refusing")
      assert.is_nil(c:poll())
      os.remove(held)
      for _, g in ipairs(gs) do
        assert.equal("200 gone", g:join())
      end
      assert.equal(0, c:wait())
      assert.matches("SIG" .. signal .. ": stopping\n", c:stderr())
      assert.is_nil((idle:get "/"))
    end)
  end

  it("SIGTERM closes idle connections, and gives up after --drain-timeout", function()
    local c = serve { script(sleeper), "--drain-timeout", "0.2" }
    local gs, idle = requests(c, 1, "/sleep/30")
    assert.equal("hello", idle:get("/").body)
    local start = lp.now()
    c:kill "TERM"
    assert.equal(0, c:wait())
    assert.is_true(lp.now() - start >= 0.2)
    assert.matches("stopped with requests unfinished after 0.2 s", c:stderr())
    assert.is_nil((gs[1]:join()))
  end)

  it("SIGTERM without requests ends at once", function()
    local c = serve { script(sleeper) }
    local conn = assert(net.dial(c.addr))
    c:kill "TERM"
    assert.equal(0, c:wait())
    conn:set_deadline(10)
    assert.same({ nil, "eof" }, { conn:read() })
    conn:close()
  end)

  it("SIGTERM as soon as it listens is not too early", function()
    local path, pid_file = script(sleeper), child.file()
    for _ = 1, 5 do
      local c = serve { path, "--procs", "1", "--pid-file", pid_file }
      c:kill "TERM"
      assert.equal(0, c:wait())
      assert.is_nil(io.open(pid_file))
    end
  end)

  it("a second SIGTERM ends at once", function()
    local pid_file = child.file()
    local c = serve { script(sleeper), "--pid-file", pid_file }
    local gs = requests(c, 5, "/sleep/30")
    c:kill "TERM"
    child.eventually(function() return c:stderr():find("stopping", 1, true) end, "stopping")
    assert.is_nil(c:poll())
    c:kill "TERM"
    assert.equal(0, c:wait())
    for _, g in ipairs(gs) do
      assert.is_nil((g:join()))
    end
    assert.is_nil(io.open(pid_file))
  end)

  it("SIGUSR1 prints every G, and the server goes on", function()
    local c = serve { script(sleeper) }
    local gs = requests(c, 3, "/held")
    for _ = 1, 2 do
      local before = #c:stderr()
      child.eventually(function() -- a dump may come before a handler has begun to wait
        c:kill "USR1"
        for _ = 1, 50 do
          lp.sleep(0.02)
          if c:stderr():find("\n  [^\n]*: waiting, other, ", before + 1) then return true end
        end
      end, "the dump")
      assert.equal("hello", child.client(c.addr):get("/").body)
    end
    assert.equal("open", child.client(c.addr):get("/open").body)
    for _, g in ipairs(gs) do
      assert.equal("200 held", g:join())
    end
    assert.is_nil(c:poll())
  end)

  it("--pid-file holds the process id while it serves", function()
    local path = child.file()
    local c = serve { script(sleeper), "--pid-file", path }
    assert.equal(c.pid .. "\n", helper.text_of(path))
    c:kill "TERM"
    assert.equal(0, c:wait())
    assert.is_nil(io.open(path))
    local code, _, err = run { script(sleeper), "--pid-file", "/nonexistent/pid", "--listen", "127.0.0.1:0" }
    assert.equal(1, code)
    assert.matches("^lunapark: /nonexistent/pid: No such file or directory\n$", err)
  end)
end)
