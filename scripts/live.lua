-- open http://127.0.0.1:8080/ in several windows     a live page: each shows the same votes and the same clock
-- curl -N http://127.0.0.1:8080/events               what the pages hear; a job of the process counts the seconds

local http = require "lunapark.http"
local lp = require "lunapark"
local shared = require "lunapark.shared"
local app = http.app()

local LOOK = 0.1 -- seconds between two looks at what has changed

-- What all VMs see, whichever of them has a page's connection: votes by name, the seconds, and a version of both.
local state = shared.dict("live", { evict = false })
local COLORS = { "red", "green", "blue" }

local function changed() state:incr("version", 1, 0) end

-- Once for all VMs, and on after a reload.
app:every(1, function()
  state:incr("seconds", 1, 0)
  changed()
end)

app:post("/vote/:color", function(req)
  for _, color in ipairs(COLORS) do
    if color == req.params.color then
      state:incr(color, 1, 0)
      changed()
      return 204
    end
  end
  return 404
end)

app:get("/events", function(_, res)
  local sse, seen = res:sse(), nil
  while true do
    local version = state:get "version" or 0
    if version ~= seen then
      local news = { seconds = state:get "seconds" or 0 }
      for _, color in ipairs(COLORS) do news[color] = state:get(color) or 0 end
      if not sse:send { event = "state", id = version, data = news } then return end
      seen = version
    end
    if not lp.sleep(LOOK) then return end -- the browser has left, or this VM ends: the page connects anew
  end
end)

local PAGE = [[
<!doctype html>
<html lang="en">
<meta charset="utf-8"><title>Live</title>
<style>
body { font: 20px sans-serif; text-align: center; margin: 3em }
button { font: inherit; padding: .5em 1em; margin: .5em }
button b { display: block; font-size: 2em } #red { color: #b00 } #green { color: #070 } #blue { color: #04b }
</style>
<h1>Live for <span id="seconds">?</span> s</h1>
<button id="red">red <b>?</b></button>
<button id="green">green <b>?</b></button>
<button id="blue">blue <b>?</b></button>
<script>
const events = new EventSource("/events")
events.addEventListener("state", event => {
  const state = JSON.parse(event.data)
  document.querySelector("#seconds").textContent = state.seconds
  for (const button of document.querySelectorAll("button"))
    button.querySelector("b").textContent = state[button.id]
})
for (const button of document.querySelectorAll("button"))
  button.onclick = () => fetch("/vote/" + button.id, { method: "POST" })
</script>
]]

app:get("/", function() return http.html(PAGE) end)

return app
