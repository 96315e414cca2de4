-- curl http://127.0.0.1:8080/spin & curl http://127.0.0.1:8080/hello       one handler hangs, the others answer as ever
-- curl "http://127.0.0.1:8080/block?s=2"                  /spin-call /spin-interp /gsub?n=100000 and /pipe hang, too

local ffi = require "ffi"
local http = require "lunapark.http"
local app = http.app()

ffi.cdef [[
int usleep(unsigned us);
int pipe(int *fds);
int64_t read(int fd, void *data, size_t size);
int close(int fd);
]]

app:get("/hello", function() return "Hello, World!\n" end)

-- Compiled after a moment: no call, no allocation, nothing that could look up.
app:get("/spin", function()
  while true do end -- luacheck: ignore 542
end)

local function half(x) return x * 0.5 end

-- Compiled too, with calls of Lua and of C.
app:get("/spin-call", function()
  local x = 1
  while true do
    x = half(x) + math.sin(x)
  end
end)

local function spin()
  while true do end -- luacheck: ignore 542
end
jit.off(spin)

app:get("/spin-interp", function() spin() end)

-- One call of a C function of Lua's own; twice the n takes four times as long.
app:get("/gsub", function(req)
  local text = ("x"):rep(tonumber(req.query.n) or 1e5)
  return { replaced = select(2, text:gsub("x-y", "")) }
end)

-- Calls of C that stop the thread, in pieces of 50 ms.
app:get("/block", function(req)
  local seconds = tonumber(req.query.s) or 1
  for _ = 1, math.ceil(seconds / 0.05) do
    ffi.C.usleep(50000)
  end
  return { blocked = seconds }
end)

-- One that never comes back: nobody writes to this pipe. A signal ends the call, but not the loop.
app:get("/pipe", function()
  local fds, byte = ffi.new "int[2]", ffi.new "char[1]"
  if ffi.C.pipe(fds) ~= 0 then return 500 end
  while ffi.C.read(fds[0], byte, 1) < 0 do end -- luacheck: ignore 542
  ffi.C.close(fds[0])
  ffi.C.close(fds[1])
  return "something came\n"
end)

return app
