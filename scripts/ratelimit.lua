-- for i in 1 2 3 4 5 6 7; do curl -i http://127.0.0.1:8080/; done     five at once, then 429 with Retry-After
-- sleep 2; curl -i http://127.0.0.1:8080/                             one more each second

local http = require "lunapark.http"
local lp = require "lunapark"
local shared = require "lunapark.shared"
local app = http.app()

local EVERY, BURST = 1, 5 -- a client may ask once in EVERY seconds, and BURST times at once after a pause

-- A token bucket per address, kept as the moment when it will be full again; that also is when it may be forgotten,
-- so the dict has only clients of the last BURST * EVERY seconds. All VMs share it, and its memory is limited: when
-- there are more clients than fit, those that were silent longest are let off.
local full_at = shared.dict("ratelimit", { max_bytes = 2 ^ 20 })

-- Takes a token from the bucket of that address: 0, or in how many seconds there is one.
local function take(address)
  local now = lp.now()
  local left
  full_at:update(address, function(at)
    at = math.max(at or now, now)
    left = at + EVERY - now - BURST * EVERY
    if left > 1e-6 then return at, at - now end
    left = 0
    return at + EVERY, at + EVERY - now
  end)
  return left
end

--- The middleware: let it stand before what it shall protect.
local function limit(req, res, next)
  local left = take(req.ip)
  if left == 0 then return next() end
  res.headers["Retry-After"] = ("%d"):format(math.ceil(left))
  return 429, "too many requests\n"
end

app:use(limit)
app:get("/", function() return "Hello, World!\n" end)
app.limit = limit -- for spec/ratelimit_spec.lua

return app
