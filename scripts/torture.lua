-- build/lunapark run scripts/torture.lua 7 10             ten seconds of waiting everywhere at random, by seed 7
-- LUNAPARK_PROCS=4 LUNAPARK_DEBUG=gcwait=1 build/lunapark run scripts/torture.lua        1, 5; with much collecting

-- 64 Gs do what spec/support/places.lua lists: each in a place within places, with waits of every kind in the midst of
-- it, errors, deadlines, cancellations and garbage. Every value is checked. One line at the end; exit 1 at the first
-- wrong value. The seed repeats what each G wants to do, not how the clock lets them meet. Every third seed runs with
-- an eager JIT, every third without one.

local lp = require "lunapark"
local net = require "lunapark.net"
local dir = arg[0]:match "^(.*)/[^/]*$" or "."
package.path = dir .. "/../?.lua;" .. package.path
local places = require "spec.support.places"

local seed, seconds = tonumber(arg[1] or 1), tonumber(arg[2] or 5)
if not seed or seed % 1 ~= 0 or not seconds then
  io.stderr:write "usage: torture.lua [seed] [seconds]\n"
  os.exit(64)
end

local GS = 64
local stop_at = lp.now() + seconds
local jit_mode = ({ [0] = "eager", "on", "off" })[seed % 3]
if jit_mode == "eager" then jit.opt.start("hotloop=2", "hotexit=2") end
if jit_mode == "off" then jit.off() end

local counts = { rounds = 0, waits = 0, errors = 0, timeouts = 0, cancels = 0, coroutines = 0, bytes = 0 }

local function wrong(...)
  io.stderr:write("torture: seed ", seed, ": ", string.format(...), "\n", debug.traceback("", 2), "\n")
  os.exit(1)
end

local function same(what, got, want)
  if got ~= want then wrong("%s: %s instead of %s", what, tostring(got), tostring(want)) end
end

-- ---- chance --------------------------------------------------------------------------------------------------

-- Numbers of one's own (minimal standard): math.random is one for all, so its order would be the clock's.
local function generator(state)
  state = state % 2147483646 + 1
  return function(n)
    state = state * 16807 % 2147483647
    return state % n + 1
  end
end

-- ---- one G ---------------------------------------------------------------------------------------------------

---@class torture.Worker
---@field pick fun(n: integer): integer
---@field near lunapark.Conn  at whose other end is an echo
local Worker = {}
Worker.__index = Worker

local function echo(far)
  while true do
    local line = far:read_line()
    if not line then break end
    if #line % 3 == 0 then lp.yield() end
    if not far:write { line, "\n" } then break end
  end
  far:close()
end

local function new_worker(id, listener)
  local self = setmetatable({ id = id, pick = generator(seed * 1000 + id), tokens = 0 }, Worker)
  self.near = assert(net.dial(listener:addr()))
  self.far_g = lp.detach(echo, assert(listener:accept()))
  return self
end

-- A value that no other wait has.
function Worker:token()
  self.tokens = self.tokens + 1
  return self.id * 1e6 + self.tokens
end

local kinds = {}

-- They answer whether they were answered as they should be; a cancellation or deadline around them may end any.
function kinds.sleep(self) return lp.sleep(self.pick(20) * 0.00005) end
function kinds.zero() return lp.sleep(0) end
function kinds.yield() return lp.yield() end

function kinds.park(self)
  local me, token, late = lp.self(), self:token(), self.pick(2) == 1
  lp.detach(function()
    if late then lp.yield() end
    lp.ready(me, token, nil, "third")
  end)
  if self.pick(3) == 1 then lp.yield() end
  local a, b, c = lp.park "torture"
  if a == nil then
    -- The values are still on their way, and must not reach a later park. Now each park answers at once.
    repeat
      lp.yield()
    until lp.park() == token
    return a, b
  end
  same("park", a, token)
  same("park", b, nil)
  same("park", c, "third")
  return true
end

function kinds.join(self)
  local token, naps = self:token(), self.pick(3)
  local g = lp.detach(function(v)
    for _ = 1, naps do
      lp.yield()
    end
    return v, nil, v
  end, token)
  local a, b, c = g:join()
  if a == nil then return a, b end
  same("join", a, token)
  same("join", b, nil)
  same("join", c, token)
  return true
end

-- An answer that was not waited for comes before the next one: so lines carry tokens, and old ones are passed over.
function kinds.read(self)
  local token, size = self:token(), self.pick(4) == 1 and self.pick(20000) or self.pick(50)
  local text = ("%d %s"):format(token, ("x"):rep(size))
  local ok, err = self.near:write(text .. "\n")
  if not ok then
    self.torn = true -- part of a line may have gone out
    return nil, err
  end
  while true do
    local line
    line, err = self.near:read_line()
    if not line then return nil, err end
    counts.bytes = counts.bytes + #line
    if line == text then return true end
    local first = tonumber(line:match "^%d+")
    if not self.torn and not (first and first < token) then wrong("read: %.60s instead of %.60s", line, text) end
    if first == token then return true end
  end
end

function kinds.scope(self)
  local token, n, ended = self:token(), self.pick(3), 0
  local value = lp.scope(function(s)
    for _ = 1, n do
      s:go(function()
        lp.yield()
        ended = ended + 1
      end)
    end
    return token
  end)
  same("scope", value, token)
  same("Gs of a scope", ended, n)
  return true
end

function kinds.failing_scope(self)
  local token = self:token()
  local ok, err = pcall(lp.scope, function(s)
    s:go(lp.sleep, 60)
    s:go(function()
      lp.yield()
      error({ token })
    end)
    lp.sleep(60)
    return "not this"
  end)
  same("scope that fails", ok, false)
  same("its error", type(err) == "table" and err[1], token)
  return true
end

local kind_names = {}
for name in pairs(kinds) do
  kind_names[#kind_names + 1] = name
end
table.sort(kind_names)

-- What stands in the places: waits and returns its arguments. `self.ending` is what may end the wait.
function Worker:wait(...)
  counts.waits = counts.waits + 1
  local name = kind_names[self.pick(#kind_names)]
  local ok, err = kinds[name](self)
  if not ok and not (self.ending and self.ending[err]) then wrong("%s: %s", name, tostring(err)) end
  if ok ~= nil and ok ~= true then wrong("%s: %s", name, tostring(ok)) end
  if err == "timeout" then counts.timeouts = counts.timeouts + 1 end
  if err == "canceled" then counts.cancels = counts.cancels + 1 end
  local litter = self.pick(8)
  if litter == 1 then
    self.litter = { ("%d"):rep(self.pick(100)), {}, function() return self.litter end, coroutine.create(print) }
  elseif litter == 2 then
    collectgarbage("step", 10)
  end
  return ...
end

-- A place within places.
function Worker:nest(depth, outer, w)
  local place
  repeat place = places.list[self.pick(#places.list)] until not outer or places.may_nest(outer, place)
  local inside, calls, at = places.outer(outer, place), 0, self.pick(3)
  place.run(function(...)
    calls = calls + 1
    if depth > 1 and calls == at then
      self:nest(depth - 1, inside, w)
    elseif calls <= 4 then
      return w(...)
    end
    return ...
  end)
end

local function plain(self)
  self:nest(self.pick(3), nil, function(...) return self:wait(...) end)
end

-- An error comes out of all the places, whichever wait it follows.
local function failing(self)
  local token, left = "token " .. self:token(), self.pick(4)
  local ok, err = pcall(function()
    self:nest(self.pick(3), nil, function(...)
      left = left - 1
      if left == 0 then
        lp.yield()
        error(token, 0)
      end
      return self:wait(...)
    end)
  end)
  if left > 0 then
    if not ok then wrong("an error out of nowhere: %s", tostring(err)) end
    return
  end
  counts.errors = counts.errors + 1
  if ok then wrong "an error was lost" end
  err = tostring(err)
  -- In a message handler LuaJIT puts another in its place.
  if not err:find(token, 1, true) and not err:find "error in error handling" then
    wrong("%s instead of %s", err, token)
  end
end

local function timed(self)
  local before = self.ending
  self.ending = { timeout = true, canceled = before and before.canceled }
  lp.deadline(self.pick(30) * 0.00005, plain, self)
  self.ending = before
end

-- Another G does it, and is cancelled meanwhile.
local function canceled(self, listener)
  local other = new_worker(self.id + 500 + self.pick(400), listener)
  other.pick = generator(self.pick(1e9))
  other.ending = { canceled = true }
  local g = lp.detach(function()
    plain(other)
    plain(other)
    return "ended"
  end)
  lp.sleep(self.pick(20) * 0.00005)
  g:cancel()
  local result, err = g:join(60)
  if result ~= "ended" then wrong("a cancelled G: %s", tostring(err)) end
  other.near:close()
  other.far_g:join()
end

-- A generator that waits, goes from G to G, and is sometimes left where it stands.
local function generator_round(self)
  counts.coroutines = counts.coroutines + 1
  local n = self.pick(5)
  local co = coroutine.wrap(function(a)
    for i = 1, n do
      self:wait()
      a = coroutine.yield(a + i)
    end
    return "ended"
  end)
  local value, leave = self.pick(100), self.pick(8)
  for i = 1, n do
    if i == leave then return end
    local got
    if self.pick(3) == 1 then
      got = lp.detach(co, value):join()
    else
      got = co(value)
    end
    same("a generator", got, value + i)
    value = got
  end
  same("a generator", co(value), "ended")
end

local rounds = { plain, plain, plain, failing, timed, canceled, generator_round }

local function work(id, listener)
  local self = new_worker(id, listener)
  while lp.now() < stop_at do
    rounds[self.pick(#rounds)](self, listener)
    counts.rounds = counts.rounds + 1
    -- Tokens of reads that a deadline has ended are passed over; a torn line ends the connection.
    if self.torn then
      self.near:close()
      self.far_g:join()
      self.near, self.torn = assert(net.dial(listener:addr())), false
      self.far_g = lp.detach(echo, assert(listener:accept()))
    end
  end
  self.near:close()
  self.far_g:join()
  if self.pick(2) == 1 then lp.yield() end
  return id
end

-- ---- all of them ---------------------------------------------------------------------------------------------

-- Accepts in the order of the dials: between the two nobody else may come, so each worker has a listener of its own,
-- half of them on unix sockets.
local workers, listeners, paths = {}, {}, {}
for id = 1, GS do
  local addr = "127.0.0.1:0"
  if id % 2 == 0 then
    local path = os.tmpname()
    os.remove(path)
    paths[id], addr = path, "unix:" .. path
  end
  listeners[id] = assert(net.listen(addr))
  workers[id] = lp.go(work, id, listeners[id])
end
for id, g in ipairs(workers) do
  local result, err = g:join(seconds + 60)
  if result ~= id then wrong("G %d: %s", id, tostring(err)) end
  listeners[id]:close()
  if paths[id] then os.remove(paths[id]) end
end
collectgarbage()
local gs = lp.stats().lua_gs
if gs > 1 then
  lp.sleep(0.1)
  gs = lp.stats().lua_gs
  if gs > 1 then wrong("%d Gs are left", gs - 1) end
end
print(("torture: seed %d, %g s, %d Gs, JIT %s: %d rounds, %d waits, %d errors, %d timeouts, %d cancels, "
  .. "%d generators, %d bytes: all right"):format(seed, seconds, GS, jit_mode, counts.rounds, counts.waits,
    counts.errors, counts.timeouts, counts.cancels, counts.coroutines, counts.bytes))
