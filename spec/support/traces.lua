--- For jit_spec: an app of many kinds of routes, which tells what the JIT gave up on in lua/lunapark.
--
--   GET /begin    from now on
--   GET /told     lines "why at place, begun at place"

local lp = require "lunapark"
local util = require "jit.util"
local vmdef = require "jit.vmdef"

local app = require("lunapark.http").app()

-- Where a trace was begun that is no side trace, by number; what was said.
local begun, told, on = {}, {}, false

local function place_of(func, pc)
  local info = util.funcinfo(func, pc)
  return info.loc or "C", info.source and info.source:find "^[@=]lunapark/" ~= nil
end

local function why_of(err, info)
  if type(err) ~= "number" then return tostring(err) end
  return (vmdef.traceerr[err]:gsub("%%[sdp]", type(info) == "function" and place_of(info) or tostring(info)))
end

-- A request that fails ends a record, as it should; a handler that waits is left and resumed.
-- A function of the FFI has to be called once before it is compiled.
local harmless = {
  ["error thrown or hook called during recording"] = true, ["retry recording"] = true,
  ["symbol not in cache"] = true,
}

-- A loop of the app's that compiled code leaves from within is too long to be written out.
local apps = { ["loop unroll limit reached"] = true }

jit.attach(function(what, trace, func, pc, a, b)
  if not on then return end
  if what == "start" then
    local place, ours = place_of(func, pc)
    begun[trace] = { place = place, ours = ours and not a }
  elseif what == "abort" then
    local place, ours = place_of(func, pc)
    local start, why = begun[trace] or { place = "?" }, why_of(a, b)
    -- What begins in lunapark and ends in the app is held against lunapark's function.
    if (ours or start.ours) and not harmless[why] and not (apps[why] and not start.ours) then
      told[#told + 1] = ("%s at %s, begun at %s"):format(why, place, start.place)
    end
  end
end, "trace")

-- By TRACES_HOT each function is hot when it is called first. As a rule that takes some dozens of calls, but functions
-- share their counters, so it may happen to any.
app:get("/begin", function()
  if os.getenv "TRACES_HOT" then jit.opt.start "hotloop=1" end
  on = true
  return "on"
end)

app:get("/told", function() return table.concat(told, "\n") end)

app:get("/hello", function() return "hello" end)
app:get("/json", function() return { n = 1 } end)
app:get("/html", function() return require("lunapark.http").html "<p>" end)
app:get("/status", function() return 201, "made" end)
app:get("/fields", function(_, res)
  res.headers["X-One"] = "1"
  res.headers["X-Two"] = "2"
  return "hello"
end)
app:get("/more-fields", function() return 200, "hello", { ["X-One"] = "1", ["X-Two"] = "2" } end)
app:get("/one/:a", function(req) return req.params.a end)
app:get("/kind/:a<int>", function(req) return req.params.a end)
app:get("/two/:a/:b", function(req) return req.params.a .. req.params.b end)
app:get("/five/:a/:b/:c/:d/:e", function(req) return req.params.a .. req.params.e end)
app:get("/rest/*path", function(req) return req.path .. req.params.path end)
app:get("/query", function(req) return (req.query.a or "") .. (req.query.b or "") end)
app:get("/param", function(req) return req:param "a" .. req:params_all("a")[1] end)
app:get("/header", function(req) return (req.headers["x-one"] or "") .. (req.headers["x-two"] or "") end)
app:get("/host", function(req) return req.host .. req.method .. req.version end)
app:get("/cookie", function(req) return (req:cookie "a" or "") .. (req:cookie "b" or "") end)
app:post("/echo", function(req) return req:body() end)
app:post("/pieces", function(req)
  local n = 0
  local piece = req:read(100)
  while piece do
    n = n + #piece
    piece = req:read(100)
  end
  return tostring(n)
end)
app:post("/form", function(req) return req:form().a end)
app:post("/json", function(req) return req:json() end)
app:get("/stream", function(_, res)
  res:write "one"
  res:flush()
  res:write "two"
end)
app:get("/sleep", function()
  lp.sleep(0)
  return "slept"
end)
app:get("/loop", function(req)
  local sum = 0
  for i = 1, #req.path % 4 do
    sum = sum + i
  end
  return tostring(sum)
end)

local inner = require("lunapark.http").app()
inner:use(function(_, res, next)
  next()
  res.headers["X-Time"] = "1"
end)
inner:get("/:a", function(req) return req.params.a end)
app:mount("/inner", inner)

-- More middleware than the JIT follows calls of the same code. Each has code of its own.
local deep = require("lunapark.http").app()
for i = 1, 6 do
  deep:use(assert(loadstring(("return function(_, res, next) next() res.status = %d end"):format(200 + i)))())
end
deep:get("/:a", function(req) return req.params.a end)
app:mount("/deep", deep)

local http = require "lunapark.http"
local box = http.app()
box:use(http.request_id())
box:use(http.secure_headers())
box:use(http.cors())
box:use(http.csrf())
box:use(http.limit { requests = 1e9 })
box:use(http.compress())
box:use(http.session { store = "traces" })
box:get("/:a", function(req) return req.params.a end)
app:mount("/box", box)

local host = os.getenv "TRACES_HOST"
if host then
  local other = require("lunapark.http").app()
  other:get("/hello", function() return "other" end)
  other:get("/one/:a", function(req) return req.params.a end)
  app:host(host, other)
end

-- Handlers of their own.
for i = 1, 30 do
  app:get(("/many%d/:id"):format(i), function(req) return req.params.id end)
end

return app
