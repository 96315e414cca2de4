--- Recursion through C: an error for who recurses, at the worst the end of their VM, and nothing for anybody else.

local ffi = require "ffi"
local lp = require "lunapark"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local helper = require "spec.helper"

local all = helper.all

ffi.cdef "void qsort(void *base, size_t n, size_t size, int (*compare)(const void *, const void *));"

testing.block_timeout(60)

-- Each recurses through C for ever, unless `stop(level)` is true; what it answers comes from the deepest level.
local ways = {}

function ways.wrap(stop)
  local function f(n)
    if stop(n) then return "bottom" end
    return coroutine.wrap(f)(n + 1)
  end
  return f(1)
end

function ways.resume(stop)
  local function f(n)
    if stop(n) then return true, "bottom" end
    local ok, a, b = coroutine.resume(coroutine.create(f), n + 1)
    if not ok then return false, a end
    return a, b
  end
  local ok, answer = f(1)
  if not ok then error(answer, 0) end
  return answer
end

function ways.gsub(stop)
  local function f(n)
    if stop(n) then return "bottom" end
    return (("x"):gsub("x", function() return f(n + 1) end))
  end
  return f(1)
end

function ways.gsub_index(stop)
  local n = 0
  local function f()
    n = n + 1
    if stop(n) then return "bottom" end
    return (("x"):gsub("x", setmetatable({}, { __index = f })))
  end
  return f()
end

function ways.format(stop)
  local function f(n)
    if stop(n) then return "bottom" end
    return ("%s"):format(setmetatable({}, { __tostring = function() return f(n + 1) end }))
  end
  return f(1)
end

function ways.sort(stop)
  local function f(n)
    if stop(n) then return "bottom" end
    local answer
    table.sort({ 1, 2 }, function(a, b)
      answer = answer or f(n + 1)
      return a < b
    end)
    return answer
  end
  return f(1)
end

function ways.sort_lt(stop)
  local n, answer = 0, nil
  local function f()
    n = n + 1
    if stop(n) then
      answer = "bottom"
      return answer
    end
    local meta = {}
    meta.__lt = function()
      if not answer then f() end
      return false
    end
    table.sort { setmetatable({}, meta), setmetatable({}, meta) }
    return answer
  end
  return f()
end

function ways.load(stop)
  local function f(n)
    if stop(n) then return "bottom" end
    local answer, given
    assert(load(function()
      if given then return nil end
      given = true
      answer = f(n + 1)
      return "return 1"
    end))
    return answer
  end
  return f(1)
end

function ways.require(stop)
  local names = {}
  local function f(n)
    if stop(n) then return "bottom" end
    local name = "spec.stack.level" .. n
    names[#names + 1] = name
    package.preload[name] = function() return f(n + 1) end
    return require(name)
  end
  local ok, answer = pcall(f, 1)
  for _, name in ipairs(names) do
    package.preload[name], package.loaded[name] = nil, nil
  end
  if not ok then error(answer, 0) end
  return answer
end

function ways.callback(stop)
  local n, answer = 0, nil
  local compare
  local function f()
    n = n + 1
    if stop(n) then
      answer = "bottom"
      return
    end
    ffi.C.qsort(ffi.new("int[2]", 2, 1), 2, 4, compare)
  end
  jit.off(f)
  compare = ffi.cast("int (*)(const void *, const void *)", function()
    if not answer then f() end
    return 0
  end)
  local ok, err = pcall(f)
  compare:free()
  if not ok then error(err, 0) end
  return answer
end

local names = {}
for name in pairs(ways) do names[#names + 1] = name end
table.sort(names)

local function never() return false end

-- ThreadSanitizer keeps an entry for each frame of our C code, or of its own qsort, that an error passes, and reads all
-- of them at each lock from then on.
local function endless(name)
  return not (child.has_tsan and (name == "require" or name == "callback"))
end

-- How deep it goes until it is refused.
local function depth_of(way, ...)
  local deepest = 0
  local ok, err = pcall(way, function(n)
    deepest = n
    return false
  end, ...)
  assert.is_false(ok)
  return deepest, err
end

local function still_works()
  assert.equal("[a][b]", (("ab"):gsub(".", function(c) return "[" .. c .. "]" end)))
  assert.equal(3, coroutine.wrap(function() return 3 end)())
  assert.is_true(lp.sleep(0.001))
end

describe("recursion through C", function()
  after_each(still_works)

  for _, name in ipairs(names) do
    it("by " .. name .. " raises at its end, and in nobody else's stack", function()
      for _ = 1, endless(name) and 2 or 0 do
        local ok, err = pcall(ways[name], never)
        assert.is_false(ok)
        assert.matches("stack overflow", tostring(err))
      end
    end)

    it("by " .. name .. " goes 200 levels deep", function()
      assert.equal("bottom", ways[name](function(n) return n == 200 end))
    end)
  end

  it("says what overflowed and where", function()
    local ok, err = pcall(ways.gsub, never)
    assert.is_false(ok)
    assert.matches("^spec/stack_spec%.lua:%d+: C stack overflow$", err)
    ok, err = coroutine.resume(coroutine.create(ways.resume), never)
    assert.same({ false, "C stack overflow" }, { ok, err })
  end)

  it("is as deep the second time: an error leaves nothing on the stack", function()
    for _, name in ipairs { "gsub", "sort", "resume" } do
      local first = depth_of(ways[name])
      for _ = 1, 4 do
        local again = depth_of(ways[name])
        assert.is_true(math.abs(again - first) <= 2, name .. ": " .. first .. ", then " .. again)
      end
    end
  end)

  it("expands 800 brackets within each other, whatever lies between", function()
    local function expand(s)
      return (s:gsub("%b()", function(p) return "[" .. expand(p:sub(2, -2)) .. "]" end))
    end
    for n = 200, 800, 3 do
      assert.equal(("["):rep(n) .. "x" .. ("]"):rep(n), expand(("("):rep(n) .. "x" .. (")"):rep(n)))
    end
  end)

  it("by 100,000 coroutines within each other raises or comes back", function()
    local function nest(n)
      if n == 0 then return "bottom" end
      return coroutine.wrap(nest)(n - 1)
    end
    assert.equal("bottom", nest(10000))
    local ok, answer = pcall(nest, 100000)
    assert.matches(ok and "^bottom$" or "C stack overflow", answer)
  end)

  it("is caught at any level, and the level below is tried again", function()
    local caught = 0
    local function f(n)
      if n > 10000 then return end
      local ok, err = pcall(string.gsub, "x", "x", function() f(n + 1) end)
      if not ok then
        assert.matches("stack overflow", err)
        caught = caught + 1
        if caught < 20 then pcall(string.gsub, "x", "x", function() f(n + 1) end) end
        error(err, 0)
      end
    end
    pcall(f, 1)
    assert.is_true(caught >= 20)
  end)

  it("leaves a message handler room for a traceback", function()
    local ok, text = xpcall(function() return ways.gsub(never) end, debug.traceback)
    assert.is_false(ok)
    assert.matches("C stack overflow", text)
    assert.matches("stack traceback:\n", text)
    ok, text = xpcall(function() return ways.gsub(never) end, function(err)
      return (("<e>"):gsub("e", function() return err:match "C stack overflow" end))
    end)
    assert.same({ false, "<C stack overflow>" }, { ok, text })
  end)

  it("in a message handler ends", function()
    local function handler() return ways.gsub(never) end
    local ok, err = xpcall(error, handler)
    assert.is_false(ok)
    assert.matches("error in error handling", tostring(err))
    ok, err = xpcall(function() return ways.gsub(never) end, handler)
    assert.is_false(ok)
    assert.matches("error in error handling", tostring(err))
  end)

  it("leaves finalizers room", function()
    local ran = 0
    local function f()
      local ok, err = pcall(string.gsub, "x", "x", f)
      if ok or ran > 0 then return end
      assert.matches("C stack overflow", err)
      getmetatable(newproxy(true)).__gc = function()
        ran = ran + #(("x"):gsub("x", "y"))
      end
      collectgarbage()
    end
    f()
    assert.equal(1, ran)
  end)

  it("in a finalizer ends", function()
    local err
    getmetatable(newproxy(true)).__gc = function() err = select(2, pcall(ways.gsub, never)) end
    collectgarbage()
    assert.matches("C stack overflow", err)
  end)

  it("leaves room for what C does by itself", function()
    local nested = "return " .. ("function() return "):rep(90) .. "1" .. (" end"):rep(90)
    local pattern = "^" .. ("(.-)"):rep(30) .. "$"
    local done = 0
    local function f()
      local ok = pcall(string.gsub, "x", "x", f)
      if ok then return end
      if done < 5 then
        done = done + 1
        assert(loadstring(nested))
        assert(("x"):rep(2000):find(pattern))
        assert.equal(99, #("%99.14f"):format(1 / 3))
        assert.is_false(pcall(error, {}))
      end
      error "enough"
    end
    pcall(f)
    assert.equal(5, done)
  end)

  it("waits at the bottom", function()
    local woken = 0
    all(3, function(i)
      local answer = ways.gsub(function(n)
        if n < 700 then return false end
        lp.sleep(0.001 * i)
        woken = woken + 1
        return true
      end)
      assert.equal("bottom", answer)
    end)
    assert.equal(3, woken)
  end)

  it("starts Gs at the bottom", function()
    local ran = 0
    lp.scope(function(s)
      pcall(ways.gsub, function()
        s:go(function() ran = ran + 1 end)
        return false
      end)
    end)
    assert.is_true(ran > 500)
  end)

  -- Between two levels of wrap lies less of the stack than what waits and lp.go take by themselves.
  for what, call in pairs {
    ["waits"] = function() return lp.sleep(0) end,
    ["starts Gs"] = function() return lp.go(function() end) end,
  } do
    it(what .. " down to where calls are refused", function()
      if not endless "wrap" then return end
      local view = ffi.cast("host_view *", require("lunapark.core").view)
      local live, errors, levels = view.n_live, {}, 0
      local function f()
        levels = levels + 1
        local ok, err = pcall(call)
        if not ok then errors[#errors + 1] = err end
        return coroutine.wrap(f)()
      end
      assert.is_false(pcall(f))
      assert.is_true(levels > 1000)
      assert.same({}, errors)
      child.eventually(function() return view.n_live <= live end, "the Gs' end")
    end)
  end

  it("is as deep on a stack that was left and gone back to", function()
    local usual = depth_of(ways.gsub)
    local depths = {}
    all(8, function(i)
      local depth
      table.sort({ 1, 2 }, function(a, b)
        for _ = 1, 5 do
          lp.sleep(0.001 * (i % 3))
          depth = depth_of(ways.gsub)
        end
        return a < b
      end)
      depths[i] = depth
    end)
    for i = 1, 8 do
      assert.is_true(math.abs(depths[i] - usual) <= 5, depths[i] .. " instead of " .. usual)
    end
  end)
end)

-- regcomp recurses for each parenthesis, in C alone.
local APP = [[
local ffi = require "ffi"
local lp = require "lunapark"
ffi.cdef "int regcomp(void *re, const char *pattern, int flags);"
ffi.cdef "void qsort(void *base, size_t n, size_t size, int (*compare)(const int *, const int *));"
local function overflow()
  return ffi.C.regcomp(ffi.new "char[512]", ("("):rep(3e5), 1)
end
if os.getenv "AT_LOAD" then overflow() end

local function sort_with(inner)
  table.sort({ 1, 2 }, function(a, b)
    inner()
    return a < b
  end)
end
local compare = ffi.cast("int (*)(const int *, const int *)", function(a, b) return a[0] - b[0] end)
local calling = ffi.cast("int (*)(const int *, const int *)", function() overflow() return 0 end)
local numbers = ffi.new("int[4]", 4, 3, 2, 1)
-- LuaJIT does not know that it may call back, and compiles it while no callback is called.
ffi.cdef 'void sort(void *base, size_t n, size_t size, void *compare) __asm__("qsort");'
local function sort_all(sizes)
  for i = 1, #sizes do ffi.C.sort(numbers, sizes[i], 4, ffi.cast("void *", compare)) end
end
local function sizes(last)
  local t = {}
  for i = 1, 500 do t[i] = i == 500 and last or 1 end
  return t
end

local kinds = {
  c = overflow,
  held = function()
    sort_with(function()
      lp.sleep(0.001)
      overflow()
    end)
  end,
  coroutine = function() coroutine.wrap(overflow)() end,
  callback = function() ffi.C.qsort(numbers, 4, 4, calling) end,
  finalizer = function()
    getmetatable(newproxy(true)).__gc = overflow
    collectgarbage()
  end,
  bad_callback = function()
    for _ = 1, 20 do sort_all(sizes(1)) end
    sort_all(sizes(4))
  end,
  offload = function()
    local pattern = ("("):rep(3e5)
    lp.offload(ffi.C.regcomp, ffi.new "char[512]", pattern, 1)
  end,
}
jit.off(kinds.callback)
local dict = require("lunapark.shared").dict "stack"
local last_words = {
  lua = function()
    local n = 0
    local function f()
      n = n + 1
      return (("x"):gsub("x", f))
    end
    local _, err = pcall(f)
    dict:set("last", n .. " " .. err)
  end,
  c = overflow,
}
LAST = newproxy(true)
getmetatable(LAST).__gc = last_words[os.getenv "LAST"]

local app = require("lunapark.http").app()
app:get("/last", function() return dict:get "last" or "nothing" end)
for name, fn in pairs(kinds) do
  app:get("/" .. name, function()
    fn()
    return "came back"
  end)
end
local begun = 0
app:get("/sleep", function(req)
  begun = begun + 1
  return tostring(lp.sleep(tonumber(req.query.s) or 1)) .. lp.stats().vm
end)
app:get("/begun", function() return tostring(begun) end)
app:get("/vm", function() return tostring(lp.stats().vm) end)
return app
]]

local GET = "GET %s HTTP/1.1\r\nHost: x\r\n\r\n"

describe("a C stack that is full", function()
  after_each(child.clean)

  -- The app has changed, so its VMs are replaced.
  local function reload(server, path, n)
    local f = assert(io.open(path, "w"))
    f:write(APP .. "-- " .. n)
    f:close()
    server:kill "HUP"
  end

  for _, kind in ipairs { "c", "held", "coroutine", "callback", "finalizer" } do
    it("in " .. kind .. " ends the VM, 502 for its requests, and another one serves", function()
      local server = child.serve { child.script(APP), "--procs", "1" }
      local client = child.client(server.addr)
      for i = 0, 2 do
        local conn = child.send(server.addr, GET:format "/sleep?s=600")
        child.eventually(function() return client:get("/begun").body == "1" end, "the sleeper")
        local status = client:get("/" .. kind).status
        assert.equal(502, status)
        assert.equal(502, child.reply(conn).status)
        conn:close()
        local said = server:said("was ended by an overflow of the C stack", i + 1)
        assert.is_nil(said:find(": VM " .. client:get("/vm").body .. " is dropped", 1, true))
      end
      assert.is_nil(server:poll())
    end)
  end

  it("hurts no request of another VM", function()
    local server = child.serve { child.script(APP), "--procs", "2" }
    local client = child.client(server.addr)
    for _ = 1, 5 do
      local conns, answers = {}, { [200] = 0, [502] = 0 }
      for i = 1, 10 do conns[i] = child.send(server.addr, GET:format "/sleep") end
      lp.sleep(0.05)
      assert.equal(502, client:get("/c").status)
      for i = 1, 10 do
        local status = child.reply(conns[i]).status
        answers[status] = answers[status] + 1
        conns[i]:close()
      end
      assert.equal(10, answers[200] + answers[502])
      assert.equal(200, client:get("/vm").status)
    end
    assert.is_nil(server:poll())
  end)

  it("is as large for finalizers of a VM that ends", function()
    local path = child.script(APP)
    local server = child.serve { path, "--procs", "1", env = { LAST = "lua" } }
    local client = child.client(server.addr)
    reload(server, path, 1)
    local depth
    child.eventually(function()
      depth = client:get("/last").body:match "^(%d+) .*C stack overflow$"
      return depth
    end, "the finalizer")
    assert.is_true(tonumber(depth) > 700, depth)
    assert.is_nil(server:poll())
  end)

  it("in a finalizer of a VM that ends hurts nobody", function()
    local path = child.script(APP)
    local server = child.serve { path, "--procs", "1", env = { LAST = "c" } }
    local client = child.client(server.addr)
    for i = 1, 3 do
      reload(server, path, i)
      server:said("was ended by an overflow of the C stack, in the finalizer at ", i)
      assert.equal(200, client:get("/vm").status)
    end
    assert.is_nil(server:poll())
  end)

  it("while an app is loaded fails the load", function()
    local code, _, err = child.run { "serve", child.script(APP), "--listen", "127.0.0.1:0", "--procs", "1",
      env = { AT_LOAD = "1" } }
    assert.equal(1, code)
    assert.matches("was ended by an overflow of the C stack", err)
  end)

  it("ends a script that is run, with an error", function()
    local script = child.script("print(pcall(function() " .. APP .. " end))")
    local code, out, err = child.run { "run", script, env = { AT_LOAD = "1" } }
    assert.same({ 1, "" }, { code, out })
    assert.matches("was ended by an overflow of the C stack: VM 0 is dropped\n", err)
  end)

  if not child.has_asan and not child.has_tsan then
    it("that is no VM's is a fault of the process, which says whose", function()
      local server = child.serve { child.script(APP), "--procs", "1" }
      local conn = child.send(server.addr, GET:format "/offload")
      assert.equal(-6, server:wait())
      assert.matches("lunapark: fatal: stack overflow: G %d+, stack of 1048576 bytes", server:stderr())
      conn:close()
    end)
  end
end)

describe("an error that nothing can catch", function()
  after_each(child.clean)

  it("ends the VM, 502 for its requests, and another one serves", function()
    local server = child.serve { child.script(APP), "--procs", "1" }
    local client = child.client(server.addr)
    for i = 1, 3 do
      assert.equal(502, client:get("/bad_callback").status)
      server:said("GET /bad_callback was ended by an error that nothing can catch (bad callback): VM", i)
      assert.equal(200, client:get("/vm").status)
    end
    assert.is_nil(server:poll())
  end)
end)
