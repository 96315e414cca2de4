-- --vm-memory: who wants more than his VM may have is told so, and nobody else suffers. Close-on-exec.

local ffi = require "ffi"
local lp = require "lunapark"
local child = require "spec.support.child"

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
    assert.matches("not enough memory", c:stderr())
    assert.is_nil(c:poll())
    c:kill "TERM"
    assert.equal(0, c:wait())
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
      for _ = 1, 10 do sum() end
      local ok = pcall(function() while true do core.go(nothing) end end)
      local s = sum()
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
