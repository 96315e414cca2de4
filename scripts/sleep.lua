-- time curl http://127.0.0.1:8080/sleep?s=1                   one request that sleeps; others are answered meanwhile
-- time curl "http://127.0.0.1:8080/many?n=10000&s=1"          ten thousand Gs that sleep a second, all in one second

local http = require "lunapark.http"
local lp = require "lunapark"
local app = http.app()

local function number(text, default, max)
  return math.max(0, math.min(tonumber(text) or default, max))
end

app:get("/sleep", function(req)
  local seconds = number(req.query.s, 1, 60)
  lp.sleep(seconds)
  return { slept = seconds }
end)

app:get("/many", function(req)
  local n, seconds = number(req.query.n, 1000, 100000), number(req.query.s, 1, 60)
  local start, sleepers = lp.now(), {}
  for i = 1, n do
    sleepers[i] = lp.go(lp.sleep, seconds)
  end
  for _, sleeper in ipairs(sleepers) do
    sleeper:join()
  end
  return { sleepers = #sleepers, slept = seconds, took = lp.now() - start }
end)

return app
