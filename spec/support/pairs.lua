--- Connections for specs, closed after each test:
--
--   local pairs = require("spec.support.pairs").new()
--   after_each(pairs.close)
--   local a, b = pairs.pair()

local net = require "lunapark.net"

local support = {}

function support.new()
  local open = {}
  local self = {}

  --- The thing, to be closed after the test; what waits for it ends after ten seconds.
  function self.keep(thing, err)
    assert(thing, err)
    open[#open + 1] = thing
    if thing.set_deadline then thing:set_deadline(10) end
    return thing
  end

  --- Two ends of a connection.
  function self.pair(addr)
    local ln = self.keep(net.listen(addr or "127.0.0.1:0"))
    local a = self.keep(net.dial(ln:addr()))
    return a, self.keep(ln:accept())
  end

  function self.close()
    for _, thing in ipairs(open) do
      thing:close()
    end
    open = {}
  end

  return self
end

--- A path for a unix socket.
function support.path()
  local path = os.tmpname()
  os.remove(path)
  return path
end

--- How many descriptors the process has; others of its threads may have some for a moment.
function support.descriptors()
  local list = assert(io.popen "ls /proc/$PPID/fd | wc -l")
  local n = tonumber(list:read "*l")
  list:close()
  return n
end

return support
