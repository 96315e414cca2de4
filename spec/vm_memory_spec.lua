-- --vm-memory: who wants more than his VM may have is told so, and nobody else suffers. Close-on-exec.

local ffi = require "ffi"
local lp = require "lunapark"
local child = require "spec.support.child"

require("lunapark.testing").block_timeout(300)

local LIMIT = 32 * 1024 * 1024

local APP = [[
local ffi = require "ffi"
local http = require "lunapark.http"
local lp = require "lunapark"
local app = http.app()

local greedy = {
  tables = function() local t = {} while true do t[#t + 1] = { #t } end end,
  strings = function() local t = {} for i = 1, 1e9 do t[i] = ("%d"):format(i):rep(100) end end,
  doubling = function() local s = "x" while true do s = s .. s end end,
  huge = function() return ("x"):rep(1e9) end,
  cdata = function() local t = {} while true do t[#t + 1] = ffi.new("char[?]", 10000) end end,
  caught = function()
    local t = {}
    while true do
      pcall(function() while true do t[#t + 1] = {} end end)
      t[#t + 1] = {}
    end
  end,
  gs = function()
    local list = {}
    local ok, err = pcall(function()
      while true do list[#list + 1] = lp.go(lp.park) end
    end)
    for _, g in ipairs(list) do g:cancel() end
    if not ok then error(err, 0) end
  end,
  waiting = function() local t = {} while true do for _ = 1, 1e4 do t[#t + 1] = {} end lp.sleep(0) end end,
}

app:get("/greedy/:how", function(req) return greedy[req.params.how]() end)
app:get("/hello", function() return "hello" end)
app:get("/mapped", function()
  local view = ffi.cast("host_view *", require("lunapark.core").view)
  return tostring(tonumber(view.mapped))
end)
return app
]]

local HELD = [[
local fs = require "lunapark.fs"
local http = require "lunapark.http"
local json = require "lunapark.json"
local lp = require "lunapark"
local net = require "lunapark.net"
local app = http.app()

app:get("/held", function() collectgarbage() return tostring(lp.stats().memory.held) end)
-- Each string stands a hundred times in the text.
app:get("/json/:mb", function(req)
  local s, list = ("x"):rep(tonumber(req.params.mb) * 1e4), {}
  for i = 1, 100 do list[i] = s end
  local ok, err = pcall(json.encode, list)
  json.encode {}
  return ok and "fits" or err
end)
app:post("/whole", function(req) return tostring(#req:body()) end)
app:get("/file", function(req) local s, err = fs.read(req.query.path) return s and #s .. " bytes" or err end)
app:get("/endless", function(req)
  local c = assert(net.dial(req.query.addr))
  local s, err = c:read_until("\n", 1e9)
  c:close()
  return s and "a line" or err
end)
return app
]]

describe("--vm-memory", function()
  after_each(child.clean)

  local function serve(...)
    local c = child.serve { child.script(HELD), "--vm-memory", tostring(LIMIT), "--procs", "1", ... }
    local client = child.client(c.addr)
    return c, client, function(path)
      local r = assert(client:get(path))
      return r.body, r.status
    end
  end

  it("counts the text that cjson writes, and raises where there is no room for it", function()
    local c, _, get = serve()
    assert.equal("fits", (get "/json/2"))
    for _ = 1, 3 do
      assert.matches("not enough memory", (get "/json/40"))
      assert.equal("fits", (get "/json/2"))
      assert.is_true(tonumber((get "/held")) < 1e6, "what is not needed any more goes")
    end
    assert.is_nil(c:poll())
  end)

  it("counts the bodies of all its requests: those that have no room get 503", function()
    local c, client, get = serve("--max-body", tostring(100e6))
    local body = ("b"):rep(10e6)
    local statuses, gs = {}, {}
    for i = 1, 6 do
      local one = child.client(c.addr)
      gs[i] = lp.go(function()
        local status = assert(one:post("/whole", { body = body })).status
        statuses[status] = (statuses[status] or 0) + 1
      end)
      gs[i]:join()
    end
    assert.same({ [200] = 6 }, statuses, "one after another they fit")
    local r = assert(client:post("/whole", { body = ("b"):rep(40e6) }))
    assert.equal(503, r.status)
    local held = child.eventually(function()
      local n = tonumber((get "/held"))
      return n < 1e6 and n
    end, "the end of what was held")
    assert.is_true(held < 1e6)
  end)

  it("bounds what a socket reads ahead, and a file", function()
    local _, _, get = serve()
    local net = require "lunapark.net"
    local ln = assert(net.listen "127.0.0.1:0")
    local g = lp.go(function()
      local conn = assert(ln:accept())
      local piece = ("e"):rep(65536)
      while conn:write(piece) do end
      conn:close()
    end)
    assert.matches("memory", (get("/endless?addr=" .. ln:addr())))
    g:join()
    ln:close()
    local path = child.file ""
    local f = assert(io.open(path, "w"))
    f:seek("set", 4 * LIMIT)
    f:write "end"
    f:close()
    assert.matches("memory", (get("/file?path=" .. path)))
    f = assert(io.open(path, "w"))
    f:write "short"
    f:close()
    assert.equal("5 bytes", (get("/file?path=" .. path)))
    assert.is_true(tonumber((get "/held")) < 1e6)
  end)
end)

describe("--vm-memory", function()
  after_each(child.clean)

  it("gives a handler that wants more a 500, and the VM serves on", function()
    local c = child.serve { child.script(APP), "--vm-memory", tostring(LIMIT), "--procs", "1", "--log-level", "error" }
    local client = child.client(c.addr)
    local function get(path)
      local r = assert(client:get(path))
      return r.status, r.body
    end
    for round = 1, 2 do
      for _, how in ipairs { "tables", "strings", "doubling", "huge", "cdata", "caught", "waiting", "gs" } do
        assert.equal(500, (get("/greedy/" .. how)), how)
        for _ = 1, 3 do
          local status, body = get "/hello"
          assert.same({ 200, "hello" }, { status, body }, how .. " " .. round)
        end
        local code, mapped = get "/mapped"
        assert.equal(200, code, c:stderr())
        assert.is_true(tonumber(mapped) <= LIMIT * 17 / 16, mapped)
      end
    end
    c:said "not enough memory"
    assert.is_nil(c:poll())
    c:kill "TERM"
    assert.equal(0, c:wait())
  end)

  it("answers a request once, whatever the finalizers do of what its handler leaves", function()
    local c = child.serve { child.script [[
local http = require "lunapark.http"
local dict = require("lunapark.shared").dict "served"
local app = http.app()
app:get("/greedy", function()
  dict:incr("n", 1, 0)
  local object = newproxy(true)
  getmetatable(object).__gc = function() while true do end end
  local t = {}
  pcall(function() while true do t[#t + 1] = { object } end end)
  t = nil
  error "greedy"
end)
app:get("/served", function() return tostring(dict:get "n") end)
return app
]], "--vm-memory", tostring(LIMIT), "--procs", "1", "--handler-timeout", "1", "--kill-after", "0.1",
      "--drain-timeout", "3" }
    local client = child.client(c.addr)
    assert.is_true(client:get("/greedy").status >= 500)
    c:logged "a finalizer was ended in [%w ]+, in the finalizer at [^\n]+:7: VM %d+ is dropped"
    assert.equal("1", client:get("/served").body)
    c:kill "TERM"
    assert.equal(0, c:wait())
    assert.is_nil(c:stderr():find "unfinished", "nothing of it goes on")
  end)

  it("hurts no handler that waits meanwhile", function()
    local c = child.serve { child.script(APP), "--vm-memory", tostring(LIMIT), "--procs", "1",
      "--log-level", "error" }
    local gs = {}
    for i = 1, 8 do
      gs[i] = lp.go(function()
        local client = child.client(c.addr)
        local statuses = {}
        for n = 1, 6 do
          statuses[n] = assert(client:get(i % 4 == 0 and "/greedy/tables" or "/hello")).status
        end
        return table.concat(statuses, " ")
      end)
    end
    for i = 1, 8 do
      local status = i % 4 == 0 and "500" or "200"
      assert.equal((status .. " "):rep(5) .. status, (assert(gs[i]:join())))
    end
  end)

  it("ends a script of `run` that does not catch it with exit code 1", function()
    for _, how in ipairs {
      "local t = {} while true do t[#t + 1] = {} end",
      "local s = 'x' while true do s = s .. s end",
      "local lp = require 'lunapark' while true do lp.go(lp.park) end",
    } do
      local code, _, err = child.run { "run", "--vm-memory", tostring(LIMIT), child.script(how) }
      assert.equal(1, code)
      assert.matches("^lunapark: .*not enough memory", err)
    end
  end)

  it("lets a script of `run` catch it and go on", function()
    local code, out, err = child.run { "run", "--vm-memory", tostring(LIMIT), child.script [[
      for i = 1, 5 do
        local ok, why = pcall(function() local t = {} while true do t[#t + 1] = { i } end end)
        assert(not ok and why == "not enough memory", why)
        collectgarbage()
      end
      require("lunapark").sleep(0.001)
      print "on"
    ]] }
    assert.same({ 0, "on\n", "" }, { code, out, err })
  end)

  -- LuaJIT must know which coroutine runs when the error for a G that can not be made is raised.
  it("leaves compiled code in the right coroutine", function()
    local code, out, err = child.run { "run", "--vm-memory", tostring(LIMIT), child.script [[
      local lp = require "lunapark"
      local core = require "lunapark.core"
      local numbers = {}
      for i = 1, 1000 do numbers[i] = i end
      local function sum()
        local s = 0
        for i = 1, #numbers do s = s + numbers[i] end
        return s
      end
      local function nothing() end
      local spare = ("x"):rep(2e6)
      for _ = 1, 10 do sum() end
      local ok = pcall(function() while true do core.go(nothing) end end)
      local s = sum()
      spare = nil -- what the end of the script needs
      collectgarbage()
      lp.sleep(0.01)
      print(ok, s)
    ]] }
    assert.same({ 0, "false\t500500\n", "" }, { code, out, err })
  end)

  it("counts what lives, not garbage, and 0 is no limit", function()
    local text = [[
      local keep = {}
      while collectgarbage "count" < 22 * 1024 do keep[#keep + 1] = { #keep } end
      for i = 1, 3e5 do garbage = { i, "string " .. i } end
      print(#keep > 1e5)
    ]]
    for _, limit in ipairs { tostring(LIMIT), "0" } do
      local code, out, err = child.run { "run", "--vm-memory", limit, child.script(text) }
      assert.same({ 0, "true\n", "" }, { code, out, err })
    end
  end)

  it("must be 0 or at least 8 MiB", function()
    for _, value in ipairs { "1", "-1", "8388607", "8388608.5", "1g", "nan" } do
      local code, _, err = child.run { "run", "--vm-memory", value, "x.lua" }
      assert.equal(64, code)
      local says = ("vm-memory: must be 0 or a whole number from 8388608 to 1e+15, got '%s'"):format(value)
      assert.is_truthy(err:find(says, 1, true), err)
    end
  end)
end)

describe("host_view.mapped", function()
  it("grows with the heap", function()
    local view = ffi.cast("host_view *", require("lunapark.core").view)
    local size = 100000000 -- more than the heap has free from other specs
    local before = tonumber(view.mapped)
    local block = ffi.new("uint8_t[?]", size)
    local grown = tonumber(view.mapped) - before
    assert.is_true(grown >= size and grown < size * 1.2, tostring(grown))
    assert.equal(0, block[0])
    assert.is_true(before >= collectgarbage "count" * 1024 - size)
  end)
end)

describe("what io opens", function()
  -- /proc/self/fd of a child that inherits whatever is not close-on-exec.
  local function inherited()
    local p = assert(io.popen "ls -l /proc/self/fd")
    local text = p:read "*a"
    p:close()
    return text
  end

  it("is not inherited by children", function()
    local path = os.tmpname()
    local f, tmp, other = assert(io.open(path, "w+b")), assert(io.tmpfile()), assert(io.popen("cat", "w"))
    tmp:write "x"
    local seen = inherited()
    assert.is_nil(seen:find(path, 1, true))
    assert.is_nil(seen:find("deleted", 1, true), seen)
    local pipes = select(2, seen:gsub("pipe:", ""))
    other:close()
    assert.equal(pipes, (select(2, inherited():gsub("pipe:", ""))))
    f:close()
    tmp:close()
    os.remove(path)
  end)

  it("reads and writes as ever", function()
    local tmp = assert(io.tmpfile())
    tmp:write("a line\n", 12, "\n")
    tmp:seek "set"
    assert.equal("a line", tmp:read "*l")
    assert.equal(12, tmp:read "*n")
    assert.is_true(tmp:close())
    local p = assert(io.popen "echo said; exit 3")
    assert.equal("said\n", p:read "*a")
    p:close()
    local f, err = io.open("/no/such/file", "r")
    assert.is_nil(f)
    assert.matches("No such file", err)
    f, err = io.open("/dev/null", "x")
    assert.is_nil(f)
    assert.matches("Invalid argument", err)
  end)
end)
