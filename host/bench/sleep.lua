-- The app of the bench's second part: every handler waits a second.
local lp = require "lunapark"
local http = require "lunapark.http"
local app = http.app()

app:get("/", function()
    lp.sleep(1)
    return "slept"
end)

return app
