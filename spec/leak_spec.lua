-- 1,000 rounds of each thing that a script can make leave descriptors, Gs and memory where they were.
-- The rounds: support/leak.lua, in a process of their own, after 400 to warm up.

local exec = require "lunapark.exec"
local child = require "spec.support.child"

local kinds = {
  "Gs", "Gs in a comparator", "accepts that are closed", "chan", "coroutines", "deadlines of sockets", "dial by name",
  "dials that fail", "dns", "exec.run", "exec.spawn", "fs", "listen", "locks", "net.copy", "net.fd", "offload",
  "requests", "resolvers", "scopes", "select", "shared", "tcp", "tcp, said and heard", "timers", "udp", "unix",
  "unix datagrams",
}
local leaks = { "leaks: C", "leaks: Gs", "leaks: Lua", "leaks: descriptors", "leaks: forgotten sockets" }

-- KiB that may be added. Without a leak it is 0 to 20 of malloc's and 0 to 120 of Lua's (compiled traces, tables of
-- strings that grow at some time), so in 1,000 rounds more than 130 bytes of C's or 260 of Lua's in each are noticed.
-- The resident size also knows what neither counts. It grows by up to 1,300 without a leak: pages that were never
-- touched before, and those of free stacks, which keep them until the scavenger comes (runtime/stack.c).
local ROOM = { malloc = 128, lua = 256, rss = 2048 }

require("lunapark.testing").block_timeout(300)

describe("nothing leaks:", function()
  local dir

  before_each(function() dir = assert(exec.run { "mktemp", "-d" }).stdout:match "^[^\n]+" end)
  after_each(function()
    child.clean()
    assert(exec.run { "rm", "-rf", dir })
  end)

  -- What has grown.
  local function grown(kind, rounds)
    local c = child.start { "run", "spec/support/leak.lua", kind, tostring(rounds), dir }
    assert.same({ 0, "" }, { c:wait(280), c:stderr() })
    local out = c:stdout()
    local list, seen = {}, 0
    for what, before, after in out:gmatch "(%a+) (%d+) (%d+)" do
      before, after, seen = tonumber(before), tonumber(after), seen + 1
      local room = ROOM[what] or 0
      -- Sanitizers keep what was freed.
      local counts = what ~= "rss" or not (child.has_asan or child.has_tsan)
      if counts and (after > before + room or room == 0 and after < before) then
        list[#list + 1] = ("%s: %d became %d"):format(what, before, after)
      end
    end
    assert.equal(7, seen, out)
    return list
  end

  local rounds = (child.has_asan or child.has_tsan) and 200 or 1000

  for _, kind in ipairs(kinds) do
    it(kind, function() assert.same({}, grown(kind, rounds)) end)
  end

  it("10,000 dials and closes", function() assert.same({}, grown("tcp", 10 * rounds)) end)

  it("and what does leak is noticed", function()
    local expected = {
      ["leaks: descriptors"] = { "fds", "polled" }, ["leaks: forgotten sockets"] = { "forgotten" },
      ["leaks: Gs"] = { "gs" }, ["leaks: Lua"] = { "lua" }, ["leaks: C"] = { "malloc" },
    }
    for _, kind in ipairs(leaks) do
      local what = table.concat(grown(kind, 1000), ", ")
      for _, name in ipairs(expected[kind]) do
        assert.is_truthy(what:find(name .. ": ", 1, true), kind .. ": " .. what)
      end
    end
  end)

  it("and all kinds of rounds are among these", function()
    local _, out = child.run { "run", "spec/support/leak.lua" }
    local all = { unpack(kinds) }
    for _, kind in ipairs(leaks) do all[#all + 1] = kind end
    table.sort(all)
    assert.equal(table.concat(all, "\n") .. "\n", out)
  end)
end)
