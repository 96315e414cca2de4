--- A function that waits, in another way each time, and checks what each wait answers.

local lp = require "lunapark"
local net = require "lunapark.net"

local waiter = {}

local token = 0

local function check(got, want, what)
  if got ~= want then
    error(("%s answered %s instead of %s"):format(what, tostring(got), tostring(want)), 3)
  end
end

local kinds = {
  sleep = function() check(lp.sleep(0.0001), true, "sleep") end,
  ["sleep(0)"] = function() check(lp.sleep(0), true, "sleep(0)") end,
  yield = function() check(lp.yield(), true, "yield") end,
  park = function(_, t)
    local me = lp.self()
    lp.go(function()
      lp.yield()
      lp.ready(me, t, nil)
    end)
    check(lp.park "spec", t, "park")
  end,
  ["park, ready before"] = function(_, t)
    lp.ready(lp.self(), t)
    check(lp.park(), t, "park")
    lp.yield()
  end,
  join = function(_, t)
    local g = lp.go(function(v)
      lp.yield()
      return v
    end, t)
    check(g:join(), t, "join")
  end,
  read = function(self, t)
    self.near:write(t .. "\n")
    check(self.near:read_line(), tostring(t), "read_line")
  end,
  deadline = function()
    local ok, err = lp.deadline(0.0002, lp.park)
    check(ok, nil, "park past its deadline")
    check(err, "timeout", "park past its deadline")
  end,
  scope = function(_, t)
    check(lp.scope(function(s)
      s:go(lp.yield)
      return t
    end), t, "scope")
  end,
}
local names = { "sleep", "yield", "park", "join", "read", "sleep(0)", "park, ready before", "deadline", "scope" }
waiter.names = names

local Waiter = {}
Waiter.__index = Waiter

--- One for a G: `w.wait(v)` waits and returns v. To be closed.
---@param pick? fun(n: integer): integer  which kind is next; without it one after the other
function waiter.new(pick)
  local self = setmetatable({ count = 0 }, Waiter)
  local ln = assert(net.listen "127.0.0.1:0")
  self.near = assert(net.dial(ln:addr()))
  local far = assert(ln:accept())
  ln:close()
  self.echo = lp.detach(function()
    while true do
      local line = far:read_line()
      if not line then break end
      lp.yield()
      far:write(line .. "\n")
    end
    far:close()
  end)
  self.wait = function(...)
    self.count = self.count + 1
    token = token + 1
    local name = names[pick and pick(#names) or self.count % #names + 1]
    self.last = name
    kinds[name](self, token)
    return ...
  end
  return self
end

function Waiter:close()
  self.near:close()
  self.echo:join()
end

return waiter
