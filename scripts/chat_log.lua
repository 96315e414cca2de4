-- curl http://127.0.0.1:8080/next                  waits until somebody speaks; serve with --procs 1, VMs share nothing
-- curl -d "hello, all" http://127.0.0.1:8080/say   speaks; with "/say?in=3" after three seconds

local http = require "lunapark.http"
local lp = require "lunapark"
local app = http.app()

local messages = {} -- all that was said
local listeners = {} -- the Gs that wait for the next message

local function say(text)
  messages[#messages + 1] = text
  local woken = listeners
  listeners = {}
  for g in pairs(woken) do
    lp.ready(g, text)
  end
end

app:get("/next", function()
  local me = lp.self()
  listeners[me] = true
  local text, err = lp.park "next message"
  listeners[me] = nil -- if it was not a message that woke us, but the end of the client's patience
  if not text then return 503, err .. "\n" end
  return text .. "\n"
end)

app:post("/say", function(req)
  local text, delay = req:body(), tonumber(req.query["in"])
  if delay then
    lp.go(function()
      lp.sleep(delay)
      say(text)
    end)
    return 202
  end
  say(text)
  return 204
end)

app:get("/log", function() return table.concat(messages, "\n") .. "\n" end)

return app
