-- printf 'put mail hello\ntake mail\n' | nc 127.0.0.1 7070     a TCP service on all cores: queues by name, for programs
-- curl http://127.0.0.1:8080/                                 beside HTTP, which counts; both obey reloads and stops

local http = require "lunapark.http"
local shared = require "lunapark.shared"
local app = http.app()

local ADDR = os.getenv "QUEUE" or "127.0.0.1:7070"
local LINE, ROOM, PATIENCE = 4096, 1000, 30 -- bytes of a line, messages of a queue, seconds of a `take`

-- Connections are in all VMs, queues belong to the process.
local counts = shared.dict("queue.counts", { evict = false })

local function queue(name) return shared.chan("queue " .. name, ROOM) end

local commands = {}

-- put NAME TEXT: "ok", or "full" if there is no room.
function commands.put(name, text)
  if text == "" then return "error: put NAME TEXT" end
  if not queue(name):send(text, 0) then return "full" end
  counts:incr("put", 1, 0)
  return "ok"
end

-- take NAME [SECONDS]: the text that was put first, each for one taker; "nothing" after so many seconds, 30 without.
function commands.take(name, seconds)
  local text = queue(name):recv(math.min(tonumber(seconds) or PATIENCE, PATIENCE))
  if not text then return "nothing" end
  counts:incr("taken", 1, 0)
  return "text " .. text
end

function commands.len(name) return tostring(queue(name):len()) end

app:tcp(ADDR, function(conn)
  for line in function() return (conn:read_line(LINE)) end do
    local word, name, rest = line:match "^(%l+) (%w+) ?(.*)$"
    local command = commands[word]
    conn:write((command and command(name, rest) or "error: put NAME TEXT, take NAME [SECONDS] or len NAME") .. "\n")
  end
end, { idle = 60, max = 10000 })

app:get("/", function() return { put = counts:get "put" or 0, taken = counts:get "taken" or 0 } end)

return app
