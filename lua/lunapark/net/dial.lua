--- Connecting: to one address, or to the first of several that answers (RFC 8305, "Happy Eyeballs").
--
-- A name may have addresses that are dead, or of a family that leads nowhere from here, and a dead address says nothing
-- for minutes. So the addresses are tried one after another with a head start of 250 ms each, or less when an earlier
-- attempt has failed. The first connection wins; the others are closed. The addresses alternate between the families,
-- IPv6 first, unless the resolver has put IPv4 first: it sorts by RFC 6724, and knows if there is a way for IPv6 at
-- all.
--
-- Each attempt is a G in a scope. A cancellation of the caller, or its deadline, ends all attempts, and the scope does
-- not return before the last socket is closed. An attempt that connects after another has won closes its connection.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local base = require "lunapark.core.base"
local common = require "lunapark.net.sock"
local conn = require "lunapark.net.conn"
local lp = require "lunapark"

local C = ffi.C
local message, WRITE, EAGAIN = common.message, common.WRITE, common.EAGAIN
local wait, wait_sock, CONNECT = core.wait, core.wait_sock, core.reasons.connect

local HEAD_START_NS = 250e6

local dial = {}

local err_out = ffi.new("int[1]")

--- Connects to one address that has no name. May wait.
---@param addr string
---@param timeout? number  seconds
---@return lunapark.Conn|nil conn
---@return string? err
local function connect(addr, timeout)
  local sock = C.host_sock_dial(addr, err_out)
  if sock == nil then return nil, message(err_out[0]) end
  common.keep(sock)
  if timeout then common.set_deadline(sock, WRITE, timeout) end
  local why = wait_sock(sock, WRITE)
  local rc = why and 0 or C.host_sock_connected(sock)
  while not why and rc == EAGAIN do -- a wakeup without cause
    why = wait_sock(sock, WRITE)
    rc = why and 0 or C.host_sock_connected(sock)
  end
  if why or rc < 0 then
    C.host_sock_close(sock)
    return nil, why or message(rc)
  end
  if timeout then common.set_deadline(sock, WRITE, nil) end
  return conn.new(sock)
end
dial.connect = connect

--- The addresses in an order that alternates between the families, beginning with the family of the first.
---@param addrs string[]
---@return string[]
function dial.alternate(addrs)
  local first, second, list = {}, {}, {}
  local v6 = addrs[1]:sub(1, 1) == "["
  for _, addr in ipairs(addrs) do
    local same = (addr:sub(1, 1) == "[") == v6
    table.insert(same and first or second, addr)
  end
  for i = 1, math.max(#first, #second) do
    list[#list + 1] = first[i]
    list[#list + 1] = second[i]
  end
  return list
end

---@class lunapark.Race
---@field slot integer   of the G that waits for its end
---@field ended integer  how many attempts have ended
---@field conn lunapark.Conn?  the winner
---@field err string?    why the first attempt that failed has failed

local function attempt(race, addr)
  local c, err = connect(addr)
  if not c then
    race.err = race.err or err
  elseif race.conn or race.over then
    c:close()
  else
    race.conn = c
  end
  race.ended = race.ended + 1
  C.host_wake(race.slot)
end

-- Waits for a winner, for the end of more than `ended` attempts, or until at_ns (nil: no such moment). Returns nil, or
-- why the caller's own time is over.
local function watch(race, ended, at_ns)
  while not race.conn and race.ended <= ended do
    local err = wait(CONNECT, at_ns)
    if err == "canceled" then return err end
    if err then
      local limit = C.host_deadline()
      return limit ~= 0 and limit <= base.now_ns() and err or nil
    end
  end
end

local function run(race, s, addrs)
  local gs, err = {}, nil
  for i, addr in ipairs(addrs) do
    local ended = race.ended
    gs[i] = s:go(attempt, race, addr)
    if i == #addrs then ended = #addrs - 1 end -- nobody is left to start: until the end
    err = watch(race, ended, i < #addrs and base.now_ns() + HEAD_START_NS or nil)
    if race.conn or err then break end
  end
  race.over = true
  for _, g in ipairs(gs) do
    g:cancel()
  end
  if not race.conn then race.err = err or race.err end
end

--- Connects to the first of several addresses that answers. May wait.
---@param addrs string[]  at least one; without names
---@return lunapark.Conn|nil conn
---@return string? err  "timeout", "canceled", or why the first attempt failed
function dial.first(addrs)
  if #addrs == 1 then return connect(addrs[1]) end
  local race = { slot = base.view.slot, ended = 0 }
  lp.scope(function(s)
    run(race, s, dial.alternate(addrs))
  end)
  if race.conn then return race.conn end
  return nil, race.err
end

return dial
