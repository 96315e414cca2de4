-- What is different in a container: the process has number 1; resolv.conf changes under it. Each spec makes itself
-- namespaces for that, which root alone may, and is pending otherwise.

local exec = require "lunapark.exec"
local child = require "spec.support.child"

local function may(...)
  local r = exec.run { "unshare", ... }
  return r and r.code == 0
end

describe("process 1", function()
  after_each(child.clean)

  local APP = [[
    local exec = require "lunapark.exec"
    local app = require("lunapark.http").app()
    -- The shell ends at once, and what it has started becomes a child of process 1.
    app:get("/orphan", function()
      return exec.run({ "sh", "-c", "sleep 0.05 & echo $!" }, { stderr = "null" }).stdout
    end)
    app:get("/stat/:pid", function(req)
      local f = io.open("/proc/" .. req.params.pid .. "/stat")
      return f and f:read "*a" or "gone"
    end)
    app:get("/pid", function() return require("ffi").C.getpid() .. "" end)
    require("ffi").cdef "int getpid(void);"
    return app
  ]]

  local function serve()
    return child.serve { binary = "unshare", "-pf", "--mount-proc", child.binary, child.script(APP),
      "--listen", "127.0.0.1:0" }
  end

  it("reaps orphans, and hands signals on to the server", function()
    if not may("-pf", "--mount-proc", "true") then return pending "no namespaces here" end
    local server = serve()
    local client = child.client(server.addr)
    assert.is_true(tonumber(client:get("/pid").body) > 1)
    for _ = 1, 3 do
      local pid = client:get("/orphan").body:match "%d+"
      child.eventually(function() return client:get("/stat/" .. pid).body == "gone" end, "the end of the orphan")
    end
    local first = exec.run { "pgrep", "-P", tostring(server.pid) }.stdout:match "%d+"
    exec.run { "kill", "-HUP", first }
    server:said "has not changed"
    exec.run { "kill", "-TERM", first }
    assert.equal(0, server:wait())
    server:said "SIGTERM: stopping"
  end)

  it("ends as what it runs", function()
    if not may("-pf", "--mount-proc", "true") then return pending "no namespaces here" end
    local function run(text)
      return (child.run { binary = "unshare", "-pf", "--mount-proc", child.binary, "run", child.script(text) })
    end
    assert.equal(0, run "")
    assert.equal(7, run "os.exit(7)")
    assert.equal(1, run "error 'x'")
    assert.equal(137, run [[
      local C = require("ffi").C
      require("ffi").cdef "int kill(int, int); int getpid(void);"
      C.kill(C.getpid(), 9)
    ]])
  end)
end)

describe("resolv.conf", function()
  after_each(child.clean)

  it("is read anew when it has changed, also for who waits already", function()
    local settings = child.file "nameserver 127.8.8.8\n"
    if not may("-m", "true") then return pending "no namespaces here" end
    local code, out, err = child.run { binary = "unshare", "-m", "sh", "-c",
      'mount --bind "$0" /etc/resolv.conf && exec "$1" run "$2" "$0"', settings, child.binary, child.script [[
        local dns, lp, net = require "lunapark.dns", require "lunapark", require "lunapark.net"
        local silent, server = net.udp "127.8.8.8:53", net.udp "127.9.9.9:53"
        if not silent or not server then return print "no port 53" end
        lp.go(function()
          while true do
            local q, from = server:recv()
            if not q then return end
            local at = 13
            while q:byte(at) ~= 0 do at = at + 1 + q:byte(at) end
            local is_a = q:byte(at + 2) == 1
            server:send(q:sub(1, 2) .. "\129\128\0\1\0" .. (is_a and "\1" or "\0") .. "\0\0\0\0" .. q:sub(13, at + 4)
              .. (is_a and "\192\12\0\1\0\1\0\0\0\4\0\4\127\0\0\7" or ""), from)
          end
        end)
        local early = lp.go(function() return dns.lookup "early.example.test" end)
        print(dns.lookup("first.example.test", { timeout = 0.2 }))
        local f = assert(io.open(arg[1], "w"))
        f:write "nameserver 127.9.9.9\n"
        f:close()
        local list
        repeat list = dns.lookup("second.example.test", { timeout = 0.3 }) until list
        print(list[1])
        print(early:join()[1])
        os.exit(0)
      ]] }
    if out == "no port 53\n" then return pending "port 53 can not be had" end
    assert.equal("nil\ttimeout\n127.0.0.7\n127.0.0.7\n", out, err)
    assert.equal(0, code)
  end)
end)
