-- curl http://127.0.0.1:8080/about                                   a table becomes JSON
-- curl -d '{"numbers": [1, 2, 39]}' http://127.0.0.1:8080/sum        and JSON a table; try a body that is none, too

local http = require "lunapark.http"
local app = http.app()

app:get("/about", function(req)
  local you = { address = req.remote_addr, agent = req.headers["user-agent"] }
  return { name = "lunapark", lua = jit.version, you = you }
end)

app:post("/sum", function(req)
  local request, err = req:json()
  if type(request) ~= "table" or type(request.numbers) ~= "table" then
    return 400, { error = err or 'expected {"numbers": [...]}' }
  end
  local sum = 0
  for i, number in ipairs(request.numbers) do
    if type(number) ~= "number" then return 400, { error = ("numbers[%d] is no number"):format(i) } end
    sum = sum + number
  end
  return { sum = sum }
end)

return app
