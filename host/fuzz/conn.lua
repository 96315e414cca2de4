-- The app that the connections' fuzz target plays with (play.c): what it is sent it sends back, in every way there is.
local lp = require "lunapark"
local app = require("lunapark.http").app()

-- Tells the reader of answers which are to HEAD.
app:use(function(req, res, next)
  res.headers["X-Method"] = req.method
  return next()
end)

-- Written is sent when it is flushed: a handler that ends late has begun its answer then.
local function say(res, piece) return res:write(piece) and res:flush() end

-- All that Lua reads of a request.
local function everything(req)
  local words = { "e", req.method, req.target, req.path, req.version, req.host or "", req:cookie "a" or "" }
  for name, value in pairs(req.query) do
    words[#words + 1] = name .. "=" .. tostring(value)
  end
  for _, name in ipairs { "a", "cookie", "content-type", "x-word", "accept", "range" } do
    words[#words + 1] = req.headers[name] or "-"
  end
  return words
end

app:get("/ok/:word", function(req) return "ok " .. req.params.word end)
app:any("/all", function(req) return table.concat(everything(req), "\n") end)
app:any("/tail/*rest", function(req) return { rest = req.params.rest, query = req.query } end)
app:any("/echo", function(req) return 200, "e:" .. (req:body() or ""), { ["X-Word"] = req.headers["x-word"] } end)
app:any("/form", function(req)
  local form = req:form()
  return { form = form, a = req.query.a }
end)
app:any("/parts", function(req)
  local parts, words = req:multipart { max_parts = 20, max_part = 2000 }, {}
  if not parts then return 415 end
  local n = 0
  for part in parts do
    n = n + 1
    words[#words + 1] = ("%s %s"):format(part.name or "-", part.filename or "-")
    words[#words + 1] = n % 3 == 1 and part:read(5) or n % 3 == 2 and part:body() or "not read"
  end
  return 200, table.concat(words, ","), { ["Content-Type"] = "application/octet-stream" }
end)
app:any("/param/:word", function(req)
  return { one = req:param "a", all = req:params_all "a", word = req.params.word }
end)
app:any("/json", function(req) return { json = req:json() } end)

-- The body in pieces, sent back in pieces.
app:any("/pipe", function(req, res)
  say(res, "e:")
  for piece in function() return req:read(100) end do
    if not say(res, piece) then return end
  end
end)

app:any("/stream", function(req, res)
  local n, size = tonumber(req.query.n) or 3, tonumber(req.query.size) or 10
  for i = 1, math.min(n, 50) do
    if not say(res, ("%d %s %s\n"):format(i, req.query.w or "", ("."):rep(math.min(size, 10000)))) then return end
    if not lp.sleep(tonumber(req.query.s) or 0.01) then return end
  end
end)

-- Writes until nobody takes it, and goes on all the same.
app:any("/deaf", function(_, res)
  while say(res, ("."):rep(10000)) do lp.sleep(0.01) end
  lp.sleep(100)
end)

app:any("/sized", function(req, res)
  res.headers["Content-Length"] = req.query.n or "10"
  res:write(("x"):rep(math.min(tonumber(req.query.w) or 10, 100000)))
end)

app:any("/big", function(req)
  local word = req.query.w or "big"
  return "e:" .. word .. ("."):rep(300000) .. word
end)
app:any("/early", function(req) return req.query.w or "early" end)
app:any("/sleep", function(req)
  local ok, err = lp.sleep(tonumber(req.query.s) or 0.01)
  return (req.query.w or "slept") .. " " .. tostring(ok or err)
end)
app:any("/error", function(req) error("as asked: " .. req.target) end)
app:any("/status/:n", function(req) return tonumber(req.params.n) or 500, req.query.w or "status" end)
app:any("/empty", function() return 204 end)
app:any("/close", function() return 200, "closes", { Connection = "close" } end)
app:any("/line", function(req) return 200, "line", { ["X-Line"] = req.query.line } end)
app:any("/two", function(_, res)
  res:write "once"
  return "twice"
end)

-- Compressed, if the client likes that: whole, and as a stream.
local small = require("lunapark.http").app()
small:use(require("lunapark.http").compress { min = 10 })
small:any("/whole", function(req) return (req.query.w or "whole"):rep(100) end)
small:any("/stream", function(req, res)
  for i = 1, 3 do
    if not say(res, ("%s %d\n"):format(req.query.w or "stream", i):rep(50)) then return end
  end
  res:write "the end"
end)
app:mount("/small", small)

-- What goes on after the answer, with a request and an answer that are no more its own. It says whose it was.
local function goes_on(req, res)
  local mine = req.query.w or "mine"
  return function()
    for _ = 1, 20 do
      if not lp.sleep(0.1) then break end
      pcall(function() res.headers["X-Line"] = mine .. req.target end)
      pcall(function() say(res, mine .. tostring(req.headers["x-word"])) end)
      pcall(function() return req:body() end)
    end
  end
end

app:any("/later", function(req, res)
  lp.go(goes_on(req, res))
  return req.query.w or "now"
end)
app:any("/detached", function(req, res)
  lp.detach(goes_on(req, res))
  return req.query.w or "now"
end)
-- The same with a handler that does not return.
app:any("/yields", function(req, res)
  lp.detach(goes_on(req, res))
  coroutine.yield()
end)
app:any("/both", function(req, res)
  lp.scope(function(s)
    s:go(function() say(res, "a " .. (req.query.w or "")) end)
    s:go(function() say(res, "b " .. (req:body() or "")) end)
  end)
end)
app:any("/deadline", function(req)
  return tostring(lp.deadline(0.05, function() return req:body() end))
end)
app:any("/coroutine", function(req)
  local words = {}
  for word in coroutine.wrap(function()
    for piece in function() return req:read(50) end do
      coroutine.yield(piece)
    end
  end) do
    words[#words + 1] = word
  end
  return "e:" .. table.concat(words)
end)

return app
