-- What does not wait is compiled, together with the user's loop around it, and stays so: by what jit.v tells of the
-- loops in support/compiled.lua, each in a process of its own.

local child = require "spec.support.child"

local ROUNDS = 20000
local loops = {
  "C functions of lp.cdef", "a chan's buffer", "clock", "form", "mutex, semaphore", "read", "read_exact", "read_line",
  "read_until", "ready", "select, ready", "shared", "write", "write, a list",
}

-- Loops that call no lua_CFunction, at which compiled code ends, to be stitched to what follows.
local whole = { ["C functions of lp.cdef"] = true, ready = true }

-- Where functions stand that have a loop of their own, to which the user's loop is linked.
local inner = { form = "form%.lua" }

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
      if inner[loop] and line:find("^%[TRACE +%d+ " .. inner[loop] .. ":%d+ loop%]$") then compiled = true end
      -- A loop that is left while it is recorded is recorded again. A wait is beneath a pcall, to which code that is
      -- recorded after it cannot return.
      local bad = line:find("NYI", 1, true) and not line:find("return to lower frame", 1, true)
      if bad or line:find("blacklisted", 1, true) then return line end
      if whole[loop] and line:find("compiled.lua:%d+ stitch") then return line end
    end
    if not compiled then return "the loop is not compiled:\n" .. told end
    for line in again:gmatch "[^\n]+" do
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
