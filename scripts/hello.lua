-- curl http://127.0.0.1:8080/               answers in one line
-- curl http://127.0.0.1:8080/hello/ann      greets whoever the path names; so does /hello?name=ann

local http = require "lunapark.http"
local app = http.app()

app:get("/", function() return "Hello, World!" end)

app:get("/hello", function(req) return "Hello, " .. tostring(req.query.name or "stranger") end)

app:get("/hello/:name", function(req) return "Hello, " .. req.params.name end)

return app
