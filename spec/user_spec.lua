-- `serve --user`: root binds, another user serves. Needs root.

local exec = require "lunapark.exec"
local fs = require "lunapark.fs"
local lp = require "lunapark"
local net = require "lunapark.net"
local testing = require "lunapark.testing"
local child = require "spec.support.child"

local function output(...)
  return assert(exec.run { ... }).stdout
end

local is_root = output("id", "-u") == "0\n"
local NOBODY, NOGROUP = output("id", "-u", "nobody"):match "%d+", output("id", "-g", "nobody"):match "%d+"
local DAEMON = output("getent", "group", "daemon"):match "^[^:]*:[^:]*:(%d+)"

local APP = [[
local lp = require "lunapark"
local ffi = require "ffi"
ffi.cdef "int usleep(unsigned us);"
local app = require("lunapark.http").app()
app:get("/", function() return "%s" end)
app:get("/busy", function()
  lp.scope(function(s)
    for _ = 1, 6 do s:go(function() lp.offload(ffi.C.usleep, 200000) end) end
  end)
  return "done"
end)
return app
]]

testing.block_timeout(300)

describe("--user", function()
  if not is_root then
    pending "needs root"
    return
  end

  local folders = {}

  after_each(function()
    child.clean()
    for _, dir in ipairs(folders) do
      assert(os.execute("rm -rf " .. dir))
    end
    folders = {}
  end)

  -- A folder that everybody can look into, with the server's binary, which may lie where only root can.
  local function folder(mode, owner)
    local dir = child.file() .. ".d"
    folders[#folders + 1] = dir
    output("mkdir", dir)
    output("cp", child.binary, dir .. "/lunapark")
    output("chmod", mode or "755", dir)
    if owner then output("chown", owner, dir) end
    return dir
  end

  local function write(path, text, mode)
    assert(fs.write(path, text))
    output("chmod", mode or "644", path)
    return path
  end

  local function serve(dir, args)
    args.binary = dir .. "/lunapark"
    table.insert(args, 1, write(dir .. "/app.lua", APP:format "one"))
    return child.serve(args)
  end

  -- The lines of these names in the status of each thread of a process, as one text, which all must have in common; and
  -- how many threads there are.
  local function ids_of(pid)
    local text, n = nil, 0
    for _, tid in ipairs(assert(fs.list("/proc/" .. pid .. "/task"))) do
      local status = fs.read("/proc/" .. pid .. "/task/" .. tid .. "/status")
      if status then -- else it has just ended
        local found = {}
        for line in status:gmatch "[^\n]+" do
          local name, value = line:match "^(%a+):%s*(.-)%s*$"
          if name == "Uid" or name == "Gid" or name == "Groups" or name == "NoNewPrivs" then
            found[#found + 1] = name .. " " .. value:gsub("%s+", " ")
          end
        end
        local ids = table.concat(found, ", ")
        assert.equal(text or ids, ids)
        text, n = ids, n + 1
      end
    end
    return text, n
  end

  local function expected(uid, gid, groups)
    return ("Uid %s %s %s %s, Gid %s %s %s %s, Groups %s, NoNewPrivs 1"):format(uid, uid, uid, uid, gid, gid, gid, gid,
      groups)
  end

  local function get(c, path)
    return assert(child.client(c.addr):get(path or "/"))
  end

  -- A port of root's that nobody has, below this one.
  local function low_port(below)
    for port = below - 1, 1, -1 do
      local ln = net.listen("127.0.0.1:" .. port)
      if ln then
        ln:close()
        return port
      end
    end
  end

  local OWN = [[
app.options = { listen = "127.0.0.1:%d" }
app:tcp("127.0.0.1:%d", function(c) c:write "raw\n" end)
app:tcp("unix:%s", function(c) c:write "file\n" end)
return app]]

  it("binds what --bind says for the app: listeners of app:tcp and app.options", function()
    local dir = folder()
    local http = low_port(1024)
    local raw = low_port(http)
    local own = OWN:format(http, raw, dir .. "/raw")
    local path = write(dir .. "/app.lua", (APP:format "one":gsub("return app%s*$", own)))
    local args = { path, "--user", "nobody", binary = dir .. "/lunapark", listeners = 3 }
    for _, addr in ipairs { "127.0.0.1:" .. http, "127.0.0.1:" .. raw, "unix:" .. dir .. "/raw", "127.0.0.1:0" } do
      args[#args + 1] = "--bind"
      args[#args + 1] = addr
    end
    local function line_of(addr)
      local conn = child.dial(addr)
      local line = conn:read_line()
      conn:close()
      return line
    end
    local c = child.serve(args)
    local function check(pid)
      assert.equal(expected(NOBODY, NOGROUP, NOGROUP), (ids_of(pid)))
      assert.equal("one", get { addr = "127.0.0.1:" .. http }.body)
      assert.equal("raw", line_of("127.0.0.1:" .. raw))
      assert.equal("file", line_of("unix:" .. dir .. "/raw"))
    end
    check(c.pid)
    assert.equal(tonumber(NOBODY), assert(fs.stat(dir .. "/raw")).uid)
    c:logged "127.0.0.1:%d+: not listened on any more" -- of --bind, and the app does not name it
    write(path, (APP:format "one":gsub("return app%s*$", own)) .. " -- again")
    c:kill "HUP"
    c:said "generation 2"
    check(c.pid)
    -- Without --bind the app's port is the user's to bind, and the user can't.
    c:kill "TERM"
    assert.equal(0, c:wait())
    local code, _, err = child.run { path, "--user", "nobody", binary = dir .. "/lunapark" }
    assert.equal(1, code)
    assert.matches("cannot listen on .*permission denied", err:lower())
  end)

  it("binds a port of root's, and each thread is the user's, also those that start later", function()
    local port = low_port(1024)
    local c = serve(folder(), { "--user", "nobody", "--listen", "127.0.0.1:" .. port, "--procs", "2" })
    assert.equal("127.0.0.1:" .. port, c.addr)
    assert.equal("one", get(c).body)
    local ids, before = ids_of(c.pid)
    assert.equal(expected(NOBODY, NOGROUP, NOGROUP), ids)
    local g = lp.go(function() return get(c, "/busy").body end)
    child.eventually(function()
      local now, n = ids_of(c.pid)
      assert.equal(expected(NOBODY, NOGROUP, NOGROUP), now)
      return n > before
    end, "more threads")
    assert.equal("done", g:join())
  end)

  it("takes a group", function()
    local c = serve(folder(), { "--user", "nobody:daemon" })
    assert.equal(expected(NOBODY, DAEMON, DAEMON), (ids_of(c.pid)))
  end)

  it("can be said in the environment", function()
    local c = serve(folder(), { env = { LUNAPARK_USER = "nobody" } })
    assert.equal(expected(NOBODY, NOGROUP, NOGROUP), (ids_of(c.pid)))
  end)

  it("gives the user the files that root has made, in a folder that is root's", function()
    local dir = folder()
    local socket, admin, pid_file = dir .. "/s", dir .. "/a", dir .. "/pid"
    local args = { "--user", "nobody", "--pid-file", pid_file }
    for _, more in ipairs { "--listen", "unix:" .. socket, "--admin", "unix:" .. admin } do
      args[#args + 1] = more
    end
    local c = serve(dir, args)
    c:said "lunapark: admin on unix:"
    for _, path in ipairs { socket, admin, pid_file } do
      local st = assert(fs.stat(path))
      assert.same({ tonumber(NOBODY), tonumber(NOGROUP) }, { st.uid, st.gid }, path)
    end
    assert.equal(c.pid .. "\n", fs.read(pid_file))
    assert.equal("600", ("%o"):format(fs.stat(admin).mode % 512))
    assert.equal("one", get(c).body)
    assert.equal(200, child.client("unix:" .. admin):post("/reload").status)
    c:kill "TERM"
    assert.equal(0, c:wait())
    -- They can't be removed. A number that is not there is nobody's; a socket is replaced by the next start.
    assert.equal("", fs.read(pid_file))
    table.remove(args, 1)
    c = serve(dir, args)
    assert.equal("one", get(c).body)
    assert.equal(c.pid .. "\n", fs.read(pid_file))
  end)

  it("removes them from a folder that is the user's", function()
    local dir = folder("755", "nobody")
    local c = serve(dir, { "--user", "nobody", "--listen", "unix:" .. dir .. "/s", "--pid-file", dir .. "/pid" })
    assert.equal(c.pid .. "\n", fs.read(dir .. "/pid"))
    c:kill "TERM"
    assert.equal(0, c:wait())
    assert.is_nil(fs.stat(dir .. "/s"))
    assert.is_nil(fs.stat(dir .. "/pid"))
  end)

  it("does not follow a link in the pid file's place, nor write to what is somebody else's", function()
    local dir = folder()
    write(dir .. "/precious", "precious")
    output("ln", "-s", "precious", dir .. "/pid")
    local c = serve(dir, { "--user", "nobody", "--pid-file", dir .. "/pid" })
    assert.equal("precious", fs.read(dir .. "/precious"))
    assert.equal(0, fs.stat(dir .. "/precious").uid)
    assert.equal(c.pid .. "\n", fs.read(dir .. "/pid"))
    output("rm", dir .. "/pid")
    write(dir .. "/precious", c.pid .. "\n")
    output("chown", "nobody", dir .. "/precious")
    output("ln", dir .. "/precious", dir .. "/pid")
    c:kill "TERM"
    assert.equal(0, c:wait())
    assert.equal(c.pid .. "\n", fs.read(dir .. "/precious"))
  end)

  it("reloads what the user can read, and goes on where it can not", function()
    local dir = folder()
    local c = serve(dir, { "--user", "nobody" })
    write(dir .. "/app.lua", APP:format "two")
    c:kill "HUP"
    c:said "generation 2"
    assert.equal("two", get(c).body)
    write(dir .. "/app.lua", APP:format "three", "600")
    c:kill "HUP"
    c:said "reload failed"
    assert.equal("two", get(c).body)
  end)

  it("loads no app that the user can not read", function()
    local dir = folder()
    local path = write(dir .. "/secret.lua", APP:format "one", "600")
    local code, _, err = child.run { path, "--user", "nobody", "--listen", "127.0.0.1:0" }
    assert.equal(1, code)
    assert.matches("[Pp]ermission denied", err)
  end)

  it("is upgraded, as that user, with root's port and a pid file in root's folder", function()
    local dir = folder()
    local c = serve(dir, { "--user", "nobody", "--pid-file", dir .. "/pid" })
    c:kill "USR2"
    local pid = tonumber((c:logged "SIGUSR2: process (%d+) serves"))
    assert.equal(0, c:wait())
    assert.equal(expected(NOBODY, NOGROUP, NOGROUP), (ids_of(pid)))
    assert.equal(pid .. "\n", fs.read(dir .. "/pid"))
    assert.equal("one", get(c).body)
    output("kill", "-TERM", tostring(pid))
    child.eventually(function() return fs.read(dir .. "/pid") == "" end, "the end of the new process")
  end)

  -- Run by setpriv as nobody.
  local function as_nobody(dir, ...)
    return {
      "--reuid", NOBODY, "--regid", NOGROUP, "--clear-groups", dir .. "/lunapark",
      write(dir .. "/app.lua", APP:format "one"), "--listen", "127.0.0.1:0", binary = "setpriv", ...,
    }
  end

  it("has nothing to do for the user who starts it", function()
    local c = child.serve(as_nobody(folder(), "--user", "nobody"))
    assert.equal("one", get(c).body)
    assert.equal(expected(NOBODY, NOGROUP, ""):gsub("Groups ,", "Groups ,"), (ids_of(c.pid)))
  end)

  for what, case in pairs {
    ["no such user"] = { user = "no-such-user", says = "no such user: no-such-user" },
    ["no such group"] = { user = "nobody:no-such-group", says = "no such group: no-such-group" },
    ["no name"] = { user = "", says = "no such user: " },
    ["no number in place of a name"] = { user = NOBODY .. ":" .. NOGROUP, says = "no such user: " .. NOBODY },
    ["a group alone"] = { user = ":daemon", says = "no such user: " },
    ["one thing too many"] = { user = "nobody:daemon:x", says = "no such group: daemon:x" },
    ["no name of a group"] = { user = "nobody:", says = "no such group: " },
  } do
    it("says that there is " .. what, function()
      local code, _, err = child.run { child.script(APP:format "one"), "--listen", "127.0.0.1:0", "--user", case.user }
      assert.equal(64, code)
      assert.equal("lunapark: --user " .. case.user .. ": " .. case.says .. "\n", err)
    end)
  end

  -- AddressSanitizer looks for leaks as a debugger does, and the kernel lets nobody trace such a process.
  local it_if_plain = child.has_asan and pending or it

  it_if_plain("is not for a process that can be root again", function()
    local dir = folder()
    for _, who in ipairs { { "--euid", NOBODY, "--regid", NOGROUP }, { "--reuid", NOBODY, "--egid", NOGROUP } } do
      local args = as_nobody(dir, "--user", "nobody")
      for i, word in ipairs(who) do args[i] = word end
      local code, _, err = child.run(args)
      assert.equal("lunapark: --user nobody: only root can become another user\n", err)
      assert.equal(64, code)
    end
  end)

  it("says that only root can, before anything is made", function()
    local dir = folder("755", "nobody")
    local code, _, err = child.run(as_nobody(dir, "--user", "daemon", "--pid-file", dir .. "/pid"))
    assert.equal(64, code)
    assert.equal("lunapark: --user daemon: only root can become another user\n", err)
    assert.is_nil(fs.stat(dir .. "/pid"))
  end)

  it("says which address can't be bound", function()
    local c = serve(folder(), { "--user", "nobody" })
    local code, _, err = child.run { child.script(APP:format "one"), "--listen", c.addr, "--user", "nobody" }
    assert.equal(1, code)
    assert.equal("lunapark: cannot listen on " .. c.addr .. ": address already in use\n", err:lower())
  end)

  it("has --bind alone refused", function()
    local code, _, err = child.run { child.script(APP:format "one"), "--bind", "127.0.0.1:0" }
    assert.equal(64, code)
    assert.equal("lunapark: --bind is for --user, where root binds for another user\n", err)
  end)

  it("is not the app's to say", function()
    local text = 'local app = require("lunapark.http").app() app.options = { user = "nobody" } return app'
    local code, _, err = child.run { child.script(text), "--listen", "127.0.0.1:0" }
    assert.equal(1, code)
    assert.matches("user: can't be set by the app, but by who starts it", err)
  end)
end)
