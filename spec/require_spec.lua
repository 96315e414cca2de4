--- require, by several Gs at once.

local lp = require "lunapark"
local helper = require "spec.helper"
local waits = require "spec.support.waits"

local LONG, pack, raised = waits.LONG, waits.pack, helper.raised

describe("require", function()
  local names = {}

  -- A module that is loaded by fn.
  local function module(name, fn)
    name = "spec.require." .. name
    names[#names + 1] = name
    package.preload[name] = fn
    return name
  end

  after_each(function()
    for _, name in ipairs(names) do package.preload[name], package.loaded[name] = nil, nil end
    names = {}
  end)

  it("waits for a load that another G has begun, and gets the same value", function()
    local loads = 0
    local name = module("once", function(name)
      loads = loads + 1
      lp.sleep(0.002)
      assert.matches("^spec.require.once$", name)
      lp.yield()
      return { loads }
    end)
    local values = {}
    helper.all(50, function(i)
      if i % 3 == 0 then lp.sleep(0.001) end
      values[i] = require(name)
    end)
    for i = 1, 50 do assert.equal(values[1], values[i]) end
    assert.equal(values[1], package.loaded[name])
    assert.equal(values[1], require(name))
    assert.equal(1, loads)
  end)

  it("waits in comparators and coroutines too, and for loads in them", function()
    local name = module("inner", function()
      lp.sleep(0.001)
      return 7
    end)
    local outer = module("outer", function()
      local sum = 0
      table.sort({ 2, 1 }, function(a, b)
        sum = sum + require(name)
        return a < b
      end)
      return coroutine.wrap(function() return sum + require(name) end)()
    end)
    helper.all(20, function(i)
      if i % 2 == 0 then
        assert.equal(14, coroutine.wrap(function() return require(outer) end)())
      else
        table.sort({ 2, 1 }, function(a, b)
          assert.equal(14, require(outer))
          return a < b
        end)
      end
    end)
  end)

  it("gets the error of that load, the same value, and the module stays failed", function()
    local cause = setmetatable({}, { __tostring = function() return "the cause" end })
    local name = module("failing", function()
      lp.sleep(0.001)
      error(cause)
    end)
    local results = {}
    helper.all(10, function(i) results[i] = pack(pcall(require, name)) end)
    for i = 1, 10 do
      assert.is_false(results[i][1])
      assert.equal(cause, results[i][2])
    end
    local again = "^spec/require_spec.lua:%d+: loop or previous error loading module 'spec.require.failing'$"
    for _ = 1, 3 do
      assert.matches(again, raised(function()
        local m = require(name)
        return m
      end))
    end
    package.loaded[name] = nil
    module("failing", function() return "mended" end)
    assert.equal("mended", require(name))
  end)

  it("gets the error of a loader, or that there is none, and looks again the next time", function()
    local function loader(name)
      if not name:find("^spec.require.none") then return end
      lp.sleep(0.001)
      if name:find "bad" then error("a bad loader", 0) end
      return "\n\tnothing here"
    end
    table.insert(package.loaders, loader)
    local results = {}
    helper.all(10, function(i)
      results[i] = raised(function()
        local m = require(i % 2 == 0 and "spec.require.none" or "spec.require.none.bad")
        return m
      end)
    end)
    for i = 1, 10 do
      if i % 2 == 0 then
        assert.matches("^spec/require_spec.lua:%d+: module 'spec.require.none' not found:", results[i])
        assert.matches("\n\tnothing here$", results[i])
      else
        assert.equal("a bad loader", results[i])
      end
    end
    local name = module("none", function() return "found" end)
    assert.equal("found", require(name))
    assert.equal(loader, table.remove(package.loaders))
  end)

  it("shows message handlers where the module raised, before a wait and after", function()
    for _, wait in ipairs { function() end, lp.yield } do
      local name = module("raising", function()
        local function culprit()
          wait()
          error "raised"
        end
        culprit()
      end)
      local function load()
        local m = require(name)
        return m
      end
      local ok, text = xpcall(load, debug.traceback)
      assert.is_false(ok)
      assert.matches("^spec/require_spec.lua:%d+: raised\nstack traceback:", text)
      assert.matches("in function 'culprit'.*%[C%]: in function 'require'.*in function <?'?l?o?a?d?'?spec", text)
      package.loaded[name] = nil
    end
  end)

  it("loads a module of Lunapark again, when a handler had no room for it", function()
    local name, runs = "lunapark.never_there", 0
    package.preload[name] = function()
      runs = runs + 1
      if runs < 3 then error "not enough memory" end
      return "loaded"
    end
    for _ = 1, 2 do assert.matches("not enough memory", raised(require, name)) end
    assert.equal("loaded", require(name))
    assert.equal("loaded", require(name))
    assert.equal(3, runs)
    package.preload[name], package.loaded[name] = nil, nil
  end)

  it("reports a module that requires itself, through whatever chain", function()
    local direct = module("direct", function(name)
      lp.yield()
      local m = require(name)
      return m
    end)
    assert.matches("^spec/require_spec.lua:%d+: loop or previous error loading module 'spec.require.direct'$",
      raised(require, direct))
    module("a", function() lp.yield() return require "spec.require.b" end)
    module("b", function()
      lp.yield()
      return coroutine.wrap(function()
        lp.yield()
        local m = require "spec.require.a"
        return m
      end)()
    end)
    assert.matches("loop or previous error loading module 'spec.require.a'$", raised(require, "spec.require.a"))
  end)

  it("gives its own G, not others, what a module has put into package.loaded so far", function()
    local early = { "not whole" }
    local name = module("early", function(name)
      package.loaded[name] = early
      lp.sleep(0.001)
      assert.equal(early, require(name))
      early[1] = "whole"
    end)
    helper.all(20, function() assert.equal("whole", require(name)[1]) end)
    assert.equal(early, require(name))
  end)

  it("of two Gs whose modules require each other is an error in both that names them", function()
    for n = 2, 4 do
      for i = 1, n do
        module(n .. "in" .. i, function()
          lp.sleep(0.001)
          local m = require("spec.require." .. n .. "in" .. i % n + 1)
          return m
        end)
      end
      local errors = {}
      helper.all(n, function(i) errors[i] = raised(require, "spec.require." .. n .. "in" .. i) end)
      for i = 1, n do
        assert.matches("^spec/require_spec.lua:%d+: deadlock: module '" .. "spec.require.", errors[i])
        assert.matches("', which requires it$", errors[i])
        assert.equal(n - 1, select(2, errors[i]:gsub("waits for", "")))
      end
    end
    -- Each has said early what it is.
    for i = 1, 2 do
      module("pair" .. i, function(name)
        local m = { i }
        package.loaded[name] = m
        lp.sleep(0.001)
        m.other = require("spec.require.pair" .. 3 - i)
        return m
      end)
    end
    helper.all(2, function(i) assert.equal(3 - i, require("spec.require.pair" .. i).other[1]) end)
  end)

  it("that is canceled or too late while it waits says so, and harms nobody", function()
    local go_on
    local name = module("slow", function()
      while not go_on do lp.sleep(0.001) end
      return "value"
    end)
    local first = lp.go(function() return require(name) end)
    lp.yield()
    local second = lp.go(function() return pcall(require, name) end)
    local third = lp.go(function()
      return lp.deadline(0.005, function() return pcall(require, name) end)
    end)
    local fourth = lp.go(function() return require(name) end)
    lp.yield()
    second:cancel()
    local function check(what, ok, err)
      assert.is_false(ok)
      assert.matches("module 'spec.require.slow' is being loaded by another G: " .. what .. "$", err)
    end
    check("canceled", second:join(LONG))
    check("timeout", third:join(LONG))
    go_on = true
    assert.equal("value", first:join(LONG))
    assert.equal("value", fourth:join(LONG))
  end)

  it("in a G that is canceled ends its load, and those who wait hear of it", function()
    local name = module("given up", function()
      local ok, err = lp.sleep(LONG)
      if not ok then error(err, 0) end
    end)
    local first = lp.go(function() return pcall(require, name) end)
    lp.yield()
    local second = lp.go(function() return pcall(require, name) end)
    lp.yield()
    first:cancel()
    assert.same({ false, "canceled" }, { first:join(LONG) })
    assert.same({ false, "canceled" }, { second:join(LONG) })
  end)

  it("raises where a G can't wait: in a finalizer", function()
    local go_on, said
    local name = module("finalized", function()
      while not go_on do lp.sleep(0.001) end
      return "value"
    end)
    local g = lp.go(function() return require(name) end)
    lp.yield()
    getmetatable(newproxy(true)).__gc = function() said = pack(pcall(require, name)) end
    collectgarbage()
    collectgarbage()
    helper.eventually(function() return said end)
    go_on = true
    assert.equal("value", g:join(LONG))
    assert.is_false(said[1])
    assert.matches("cannot wait here: in a finalizer", said[2])
  end)

  it("takes and answers what it always did", function()
    local name = module("nothing", function() end)
    assert.is_true(require(name))
    assert.is_true(package.loaded[name])
    module("5", function() return "five" end)
    package.preload["5"] = function() return "five" end
    assert.equal("five", require(5))
    package.preload["5"], package.loaded["5"] = nil, nil
    local no = module("false", function() return false end)
    assert.is_false(require(no))
    assert.matches("bad argument #1 to", raised(require))
    assert.matches("bad argument #1 to", raised(require, {}))
    local loaders = package.loaders
    package.loaders = 1
    assert.matches("'package.loaders' must be a table$", raised(require, "spec.require.x"))
    package.loaders = loaders
  end)

  it("of a loaded module is compiled", function()
    local name = module("hot", function() return { 1 } end)
    require(name)
    local stops, aborted = 0, {}
    local function watch(what, _, _, _, _, reason)
      if what == "stop" then stops = stops + 1 end
      if what == "abort" then aborted[#aborted + 1] = reason end
    end
    jit.flush()
    jit.attach(watch, "trace")
    local n = 0
    for _ = 1, 5000 do n = n + require(name)[1] end
    jit.attach(watch)
    assert.equal(5000, n)
    assert.same({}, aborted)
    assert.is_true(stops > 0)
  end)
end)
