--- A flood of clients that begin a TLS handshake, all at once.

local lp = require "lunapark"
local net = require "lunapark.net"
local child = require "spec.support.child"
local helper = require "spec.helper"

local flood = {}

-- A client's first words, which may be said again.
local function hello_of(trust)
  local ln = assert(net.listen "127.0.0.1:0")
  local g = lp.go(function() return (net.dial(ln:addr(), { tls = trust, timeout = helper.PATIENCE })) end)
  local near = assert(ln:accept())
  local hello = assert(near:read())
  near:close()
  ln:close()
  g:join()
  return hello
end

-- How many of n handshakes are answered before a request that comes when the first of them is. The server stands still
-- while they come.
local function answered_before(server, hello, n, ask)
  local conns, first, answered = {}, lp.chan(1), 0
  for i = 1, n do conns[i] = child.dial(server.addr) end
  ask() -- all are accepted
  server:kill "STOP"
  for i = 1, n do assert(conns[i]:write(hello)) end
  local gs = {}
  for i = 1, n do
    gs[i] = lp.go(function()
      conns[i]:read()
      answered = answered + 1
      if answered == 1 then first:send(true) end
    end)
  end
  server:kill "CONT"
  first:recv()
  ask()
  local before = answered
  for i = 1, n do
    gs[i]:join()
    conns[i]:close()
  end
  return before
end

--- How many of 100 handshakes a server (a child with `addr`) answers before a request on an established connection, in
--- the best of some tries: this process may stand still, too.
---@param server table
---@param trust lunapark.TlsOptions  of its clients
---@param ask fun()  a request and its answer, on an established connection
---@return integer before
---@return integer n      of so many
function flood.answered_before(server, trust, ask)
  local n, hello = 100, hello_of(trust)
  local best = n
  for _ = 1, 10 do
    best = math.min(best, answered_before(server, hello, n, ask))
    if best < n / 4 then break end
  end
  return best, n
end

return flood
