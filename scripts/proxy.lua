-- build/lunapark run scripts/proxy.lua 127.0.0.1:8081 127.0.0.1:8080     passes on what comes to the first address
-- curl http://127.0.0.1:8081/      goes through it to what `make run` serves; it prints how many bytes went each way

local lp = require "lunapark"
local net = require "lunapark.net"

local here, there = arg[1], arg[2]
if not there then
  io.stderr:write "usage: proxy.lua HERE THERE\n"
  os.exit(64)
end

-- One direction: the end of what comes is passed on, too. The bytes do not come into this process (splice).
local function pass(from, to)
  local count, err = net.copy(to, from)
  if not count then error(err, 0) end
  to:close_write()
  return count
end

-- Both directions end by themselves. If one fails, the scope ends the other and raises why.
local function join(client, server)
  local up, down
  lp.scope(function(s)
    up, down = s:go(pass, client, server), s:go(pass, server, client)
  end)
  return ("%d bytes up, %d down"):format(up:join(), down:join())
end

local function serve(client)
  local who, text = client:remote_addr(), nil
  local server, err = net.dial(there, { timeout = 5 })
  if server then
    local _
    _, text = pcall(join, client, server)
    server:close()
  end
  client:close()
  print(("proxy: %s: %s"):format(who, text or there .. ": " .. err))
end

local listener, err = net.listen(here)
if not listener then
  io.stderr:write("proxy: ", here, ": ", err, "\n")
  os.exit(1)
end
io.stdout:setvbuf "line"
print(("proxy: listening on %s for %s"):format(listener:addr(), there))
while true do
  lp.go(serve, assert(listener:accept()))
end
