-- The app of the benches: handlers that wait, one that never does.
local lp = require "lunapark"
local http = require "lunapark.http"
local app = http.app()

app.options = { handler_timeout = 0 }

app:get("/", function()
    lp.sleep(1)
    return "slept"
end)

local asleep = 0
app:get("/:seconds", function(req)
    asleep = asleep + 1
    lp.sleep(tonumber(req.params.seconds))
    asleep = asleep - 1
    return "slept"
end)

app:get("/asleep", function() return tostring(asleep) end)

app:get("/now", function() return "now" end)

app:get("/endless", function()
    local n = 0
    while true do n = n + 1 end
end)

return app
