-- What does not wait is compiled, together with the user's loop around it, and stays so: by what jit.v tells of the
-- loops in support/compiled.lua, each in a process of its own.

local child = require "spec.support.child"

local ROUNDS = 20000
local loops = {
  "C functions of lp.cdef", "a chan's buffer", "clock", "form", "mutex, semaphore", "read", "read_exact", "read_line",
  "read_until", "ready", "select, ready", "shared", "write", "write, a list",
}

-- Loops that call no lua_CFunction, at which compiled code ends, to be stitched to what follows.
local whole = { ["C functions of lp.cdef"] = true, form = true, ready = true }

describe("compiled code:", function()
  after_each(child.clean)

  -- What is wrong with what jit.v says; nil: nothing.
  local function fault_of(loop)
    local code, out, err = child.run { "run", "spec/support/compiled.lua", loop, tostring(ROUNDS) }
    assert.same({ 0, "" }, { code, err })
    local first, last, told, again, exits = out:match "^lines (%d+) (%d+)\n(.*)\nagain\n(.*)exits (%d+)\n$"
    assert.is_string(exits, out)
    local compiled = false
    for line in (told .. "\n" .. again):gmatch "[^\n]+" do
      local at, link = line:match "^%[TRACE +%d+ compiled%.lua:(%d+) (.*)%]$"
      at = (link == "loop" or (link or ""):find "^%-> %d+$") and tonumber(at) -- there may be a loop in it
      if at and at >= tonumber(first) and at <= tonumber(last) then compiled = true end
      -- A loop that is left while it is recorded is recorded again. A wait is beneath a pcall, to which code that is
      -- recorded after it cannot return.
      local bad = line:find("NYI", 1, true) and not line:find("return to lower frame", 1, true)
      if bad or line:find("blacklisted", 1, true) then return line end
      if whole[loop] and line:find("compiled.lua:%d+ stitch") then return line end
    end
    if not compiled then return "the loop is not compiled:\n" .. told end
    for line in again:gmatch "[^\n]+" do -- of the last call
      if line:find("compiled.lua:", 1, true) then return "not at rest: " .. line end
    end
    -- The end of the loop is one, and each wait has a few.
    exits = tonumber(exits)
    if exits < 1 or exits > ROUNDS / 100 then return exits .. " exits" end
  end

  for _, loop in ipairs(loops) do
    it(loop, function() assert.is_nil(fault_of(loop)) end)
  end

  it("and what is not compiled is noticed", function()
    assert.matches("NYI: bytecode %d+ at compiled%.lua:", fault_of "not: a closure")
  end)

  it("and all loops are among these", function()
    local _, out = child.run { "run", "spec/support/compiled.lua" }
    local all = { unpack(loops) }
    all[#all + 1] = "not: a closure"
    table.sort(all)
    assert.equal(table.concat(all, "\n") .. "\n", out)
  end)
end)

-- Whatever a VM has served before, and whatever its handlers do: what lunapark does for a request is compiled, or in C.
-- support/traces.lua tells what the JIT gave up on.
describe("requests:", function()
  after_each(child.clean)

  local function pairs_of(n)
    local list = {}
    for i = 1, n do
      list[i] = ("n%d=%d"):format(i, i)
    end
    return table.concat(list, "&")
  end

  local many, plain = pairs_of(9), { ["Content-Type"] = "application/x-www-form-urlencoded" }
  local kinds = {
    { "GET", "/hello" }, { "GET", "/json" }, { "GET", "/html" }, { "GET", "/status" }, { "GET", "/fields" },
    { "GET", "/more-fields" }, { "GET", "/one/7" }, { "GET", "/one/%41" }, { "GET", "/kind/7" },
    { "GET", "//one//7" }, { "GET", "/two/7/8" },
    { "GET", "/five/1/2/3/4/5" }, { "GET", "/rest/a/b" }, { "GET", "/rest/a/../%2e/b" }, { "GET", "/query" },
    { "GET", "/query?a=1" }, { "GET", "/query?a=1&b=%20" }, { "GET", "/query?" .. many },
    { "GET", "/param?a=1&" .. many },
    { "GET", "/header" }, { "GET", "/header", { ["X-One"] = "1" } }, { "GET", "/header", { ["X-Two"] = { "1", "2" } } },
    { "GET", "/host" }, { "GET", "/cookie" }, { "GET", "/cookie", { Cookie = "a=1; b=%20" } },
    { "GET", "/cookie", { Cookie = { "a=1", "b=2" } } }, { "POST", "/echo", nil, "" },
    { "POST", "/echo", nil, ("x"):rep(1024) }, { "POST", "/echo", nil, ("x"):rep(40000) },
    { "POST", "/pieces", nil, ("x"):rep(1000) }, { "POST", "/form", plain, "a=1" },
    { "POST", "/form", plain, "a=1&" .. many }, { "POST", "/json", nil, "[1]" }, { "GET", "/stream" },
    { "GET", "/sleep" }, { "GET", "/loop" }, { "GET", "/inner/7" }, { "GET", "/deep/7" }, { "GET", "/box/7" },
    { "GET", "/box/7", { Origin = "https://a.example", ["Accept-Encoding"] = "gzip" } },
    { "GET", "/nowhere" }, { "PUT", "/hello" }, { "HEAD", "/hello" }, { "OPTIONS", "/hello" }, { "GET", "/%zz" },
  }
  local firsts = #kinds
  for i = 1, 30 do
    kinds[#kinds + 1] = { "GET", ("/many%d/x"):format(i) }
  end

  local TIMES = 150

  -- What the JIT gives up on in a VM that is asked so: list after list, each TIMES times.
  local function told_of(lists, env, times)
    local server = child.serve { "spec/support/traces.lua", "--procs", "1", "--max-vms", "1", env = env }
    local client = child.client(server.addr)
    client:get "/begin"
    for _, list in ipairs(lists) do
      for _ = 1, times or TIMES do
        for _, kind in ipairs(list) do
          client:request(kind[1], kind[2], { headers = kind[3], body = kind[4] })
        end
      end
    end
    local told = client:get("/told").body
    child.clean()
    return told
  end

  local function shown(kind)
    return kind[1] .. " " .. kind[2]:sub(1, 30)
  end

  -- Each kind of request is the first that a VM gets warm by.
  for i, kind in ipairs(kinds) do
    if i <= firsts or i == #kinds then
      it("nothing of lunapark is given up by " .. shown(kind) .. ", then hello", function()
        assert.equal("", told_of { { kind }, { kinds[1] } })
      end)
    end
  end

  it("nor by all of them, one by one", function()
    local lists = {}
    for i, kind in ipairs(kinds) do lists[i] = { kind } end
    assert.equal("", told_of(lists))
  end)

  it("nor by all of them in turn", function()
    assert.equal("", told_of { kinds })
  end)

  it("nor when all is hot at once", function()
    local env, forth, back = { TRACES_HOT = "1" }, {}, {}
    for i, kind in ipairs(kinds) do
      forth[i], back[#kinds + 1 - i] = { kind }, { kind }
    end
    assert.equal("", told_of(forth, env, 4))
    assert.equal("", told_of(back, env, 4))
  end)

  it("nor where another app answers for a host", function()
    local env, other = { TRACES_HOST = "other.example" }, { Host = "other.example" }
    assert.equal("", told_of({ { kinds[1] }, { { "GET", "/hello", other } }, { { "GET", "/nowhere", other } } }, env))
    assert.equal("", told_of({ { { "GET", "/hello", other }, { "GET", "/one/7", other }, kinds[1] }, kinds }, env))
  end)

  it("nor by all of them in turn, backwards", function()
    local list = {}
    for i = #kinds, 1, -1 do list[#list + 1] = kinds[i] end
    assert.equal("", told_of { list })
  end)
end)

describe("a request whose handler returns a text", function()
  after_each(child.clean)

  it("leaves no garbage when it is compiled", function()
    local server = child.serve { child.script [[
      local app = require("lunapark.http").app()
      app:get("/", function() return "hello" end)
      app:get("/garbage", function()
        collectgarbage "stop"
        return tostring(collectgarbage "count" * 1024)
      end)
      return app
    ]], "--procs", "1", "--max-vms", "1" }
    local client, n = child.client(server.addr), 500
    local least = math.huge
    for _ = 1, 8 do
      local before = client:get("/garbage").body
      for _ = 1, n do assert.equal("hello", client:get("/").body) end
      least = math.min(least, (client:get("/garbage").body - before) / n)
    end
    assert.is_true(least < 64, least .. " bytes a request")
  end)
end)
