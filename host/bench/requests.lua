-- What requests.sh asks for.
local app = require("lunapark.http").app()

app:get("/", function() return "Hello, World!" end)

for i = 1, 100 do
  app:get(("/r%d/:user/posts/:post"):format(i), function(req)
    return req.params.user .. "/" .. req.params.post
  end)
end

app:get("/query", function(req) return req.query.name .. req.query.page .. req.headers["X-Id"] end)

app:get("/json", function() return { message = "Hello, World!", id = 42, list = { 1, 2, 3 } } end)

app:post("/echo", function(req) return req:body() end)

-- Five middlewares of the box around hello.
local http = require "lunapark.http"
local five = http.app()
five:use(http.request_id())
five:use(http.secure_headers())
five:use(http.cors())
five:use(http.csrf())
five:use(http.limit { requests = 1e12 })
five:get("/", function() return "Hello, World!" end)
app:mount("/five", five)

local large = ("0123456789abcdef"):rep(4096)
app:get("/large", function() return large end)

return app
