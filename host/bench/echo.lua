-- A TCP echo server in Lua, for host/bench/echo.sh: prints its port, and echoes until it is killed.
local lp = require "lunapark"
local net = require "lunapark.net"

local function serve(c)
  while true do
    local data = c:read()
    if not data or not c:write(data) then break end
  end
  c:close()
end

local ln = assert(net.listen "127.0.0.1:0")
print(ln:addr():match "%d+$")
io.stdout:flush()
while true do
  lp.go(serve, (assert(ln:accept())))
end
