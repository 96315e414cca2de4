-- build/lunapark run scripts/echo.lua                     gives back what comes to 127.0.0.1:7007, until it is ended
-- nc 127.0.0.1 7007                                       says something to it; another address may be its argument

local lp = require "lunapark"
local net = require "lunapark.net"

local IDLE = 60 -- seconds without a word, after which a connection is closed

-- Until the client has said its last: why it ended.
local function echo(conn)
  while true do
    conn:set_deadline(IDLE)
    local data, err = conn:read()
    if not data then return err end
    local ok
    ok, err = conn:write(data)
    if not ok then return err end
  end
end

local function serve(conn, id)
  print(("echo: %d from %s"):format(id, conn:remote_addr()))
  print(("echo: %d ended: %s"):format(id, echo(conn)))
  conn:close()
end

local addr = arg[1] or "127.0.0.1:7007"
local listener, err = net.listen(addr)
if not listener then
  io.stderr:write("echo: ", addr, ": ", err, "\n")
  os.exit(1)
end
io.stdout:setvbuf "line"
print("echo: listening on " .. listener:addr())

local n = 0
while true do
  n = n + 1
  lp.go(serve, assert(listener:accept()), n)
end
