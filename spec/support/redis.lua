--- A real Redis for specs: started on a unix socket in a directory of its own, ended by child.clean().
--
--   local redis = require("spec.support.redis").start()
--   redis:command "PING"                                  -- +PONG
--   redis:kill()
--   redis:remove()                                        -- in after_each, after child.clean

local lp = require "lunapark"
local exec = require "lunapark.exec"
local net = require "lunapark.net"
local child = require "spec.support.child"

local redis = {}

local Redis = {}
Redis.__index = Redis

--- Starts one and waits until it answers; `...` are further settings.
function redis.start(...)
  local made = assert(exec.run { "mktemp", "-d" })
  local self = setmetatable({ dir = made.stdout:match "^[^\n]+" }, Redis)
  self.addr = "unix:" .. self.dir .. "/socket"
  self.process = child.start {
    binary = "redis-server", "--port", "0", "--unixsocket", self.dir .. "/socket", "--dir", self.dir, "--save", "",
    "--daemonize", "no", ...,
  }
  child.eventually(function()
    local c = net.dial(self.addr)
    if c then c:close() end
    if self.process:poll() then error("redis-server ended: " .. self.process:stdout(), 0) end
    return c
  end, "redis-server")
  return self
end

--- The first line of the answer to a command of plain words.
function Redis:command(line)
  local c = assert(net.dial(self.addr))
  c:set_deadline(10)
  assert(c:write(line .. "\r\n"))
  local answer = assert(c:read_line())
  c:close()
  return answer
end

--- How many commands it has done.
function Redis:done()
  local c = assert(net.dial(self.addr))
  c:set_deadline(10)
  assert(c:write "INFO stats\r\n")
  local n
  repeat n = assert(c:read_line()):match "^total_commands_processed:(%d+)" until n
  c:close()
  return tonumber(n)
end

function Redis:kill()
  self.process:kill "KILL"
  self.process:wait()
end

function Redis:remove()
  assert(lp.deadline(10, exec.run, { "rm", "-rf", self.dir }))
end

return redis
