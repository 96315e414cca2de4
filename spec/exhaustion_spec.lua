--- No thread, no stack, no memory, no descriptor: what asked for it fails with words, and the process goes on. What
--- fails the Nth of each is host/test/faults.lua.

local ffi = require "ffi"
local lp = require "lunapark"
local exec = require "lunapark.exec"
local child = require "spec.support.child"
local reload = require "spec.support.reload"

local sanitized = child.has_tsan or child.has_asan -- their shadow memory is outside of any limit
ffi.cdef "unsigned geteuid(void);"

local function limit(server, what)
  local r = assert(exec.run { "prlimit", "--pid", tostring(server.pid), what })
  assert.equal(0, r.code, r.stderr)
end

-- Bytes of address space that it has.
local function address_space(server)
  local f = assert(io.open("/proc/" .. server.pid .. "/statm"))
  local pages = tonumber(f:read "*a":match "^%d+")
  f:close()
  return pages * 4096
end

local NOBODY = 65534

describe("without threads", function()
  after_each(reload.clean)

  local APP = [[
  local ffi = require "ffi"
  local lp = require "lunapark"
  ffi.cdef "int poll(void *fds, unsigned long n, int timeout);"
  local app = require("lunapark.http").app()
  app:get("/", function() return "fine" end)
  app:get("/calls", function()
    local gs = {}
    for i = 1, 150 do gs[i] = lp.go(lp.offload, ffi.C.poll, nil, 0, 100) end
    local done = 0
    for i = 1, 150 do done = done + (gs[i]:join() == 0 and 1 or 0) end
    return tostring(done)
  end)
  app:get("/ms", function() return tostring(lp.stats().ms) end)
  return app]]

  -- Who is limited must not be root.
  local function serve_as_nobody(threads)
    local path = child.script(APP)
    assert(os.execute("chmod 644 " .. path) == 0)
    return child.serve {
      "--reuid=" .. NOBODY, "--regid=" .. NOBODY, "--clear-groups", "prlimit", "--nproc=" .. threads,
      child.binary:find "^/" and child.binary or "./" .. child.binary, path, "--procs", "2",
      binary = "setpriv",
    }
  end

  it("calls on other threads wait for those that there are, and requests are answered meanwhile", function()
    if sanitized or ffi.C.geteuid() ~= 0 then return pending "needs root, and no sanitizer" end
    local c = serve_as_nobody(40)
    local calls = child.client(c.addr)
    local g = lp.go(function() return assert(calls:get "/calls").body end)
    local client = child.client(c.addr)
    for _ = 1, 20 do
      assert.equal("fine", assert(client:get "/").body)
    end
    assert.equal("150", g:join())
    assert.is_true(tonumber(assert(client:get "/ms").body) < 40)
    assert.is_nil(c:poll())
    c:kill "TERM"
    assert.equal(0, c:wait())
  end)
end)

describe("without address space", function()
  after_each(reload.clean)

  local APP = [[
  local app = require("lunapark.http").app()
  app:get("/", function() return "%d" end)
  return app]]

  it("a reload fails with words, and the old generation goes on", function()
    if sanitized then return pending "no sanitizer" end
    local s = reload.serve({ ["app.lua"] = APP:format(1) }, "--procs", "1")
    assert.equal("1", s.client:get("/").body)
    limit(s.server, ("--as=%d:unlimited"):format(address_space(s.server) + 300 * 1024))
    local line = s:reload { ["app.lua"] = APP:format(2) }
    -- "reload failed, generation 1 (...) goes on: ...", or, without a stack for the G that reloads, fewer words.
    assert.matches("reload failed.*: .*memory", line)
    assert.equal("1", s.client:get("/").body)
    limit(s.server, "--as=unlimited:unlimited")
    s:reload_to(2, { ["app.lua"] = APP:format(3) })
    assert.equal("3", s.client:get("/").body)
  end)
end)

describe("without stacks", function()
  after_each(reload.clean)

  it("a wait in the midst of a C function raises, and those that wait there go on", function()
    if sanitized then return pending "no sanitizer" end
    local c = child.serve { child.script [[
    local lp = require "lunapark"
    local app = require("lunapark.http").app()
    app:get("/", function() return "fine" end)
    local go = lp.chan(0)
    local function hold()
      local t = { 2, 1 }
      local first = true
      table.sort(t, function(a, b)
        if first then first = false lp.park() end
        return a < b
      end)
      return t[1]
    end
    app:get("/hold/:n", function(req)
      local gs, why, held = {}, {}, 0
      for i = 1, tonumber(req.params.n) do
        gs[i] = lp.go(function()
          local ok, err = pcall(hold)
          if not ok then why[err] = true end
          return ok
        end)
      end
      lp.sleep(0.01)
      for _, g in ipairs(gs) do lp.ready(g) end
      for _, g in ipairs(gs) do if g:join() == true then held = held + 1 end end
      return { held = held, why = why }
    end)
    return app]], "--procs", "1" }
    local client = child.client(c.addr)
    assert.same({ held = 100, why = {} }, assert(client:get "/hold/100"):json())
    limit(c, ("--as=%d:unlimited"):format(address_space(c) + 200 * 1024 * 1024))
    -- The first one may end for want of memory for Lua. It leaves the VM as large as the second one needs it.
    assert(client:get "/hold/2000")
    local r = assert(client:get "/hold/2000"):json()
    local said
    for why in pairs(r.why) do said = said or why:find("cannot wait here: no memory for a stack", 1, true) end
    assert.is_truthy(said)
    assert.is_true(r.held >= 10 and r.held < 2000, tostring(r.held))
    assert.equal("fine", assert(client:get "/").body)
    limit(c, "--as=unlimited:unlimited")
    assert.same({ held = 500, why = {} }, assert(client:get "/hold/500"):json())
    assert.is_nil(c:poll())
  end)
end)
