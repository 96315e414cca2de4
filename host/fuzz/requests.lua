--- Requests to app.lua that apps.lua sends, and the answers that are right.
--
--   local q = requests.calm.stream(p)      -- p(n): a number from 1 to n
--   requests.timed("/sleep", p)            -- a path and what it is asked

local requests = {}

---@class fuzz.Request
---@field word string
---@field bytes string
---@field method string
---@field status integer
---@field want string|false  the body that it gets; false: whatever it is
---@field cut boolean|nil    its answer breaks off
---@field may boolean|nil    whatever else it is answered is right, too
---@field old boolean        it is one of HTTP/1.0

local words = 0
local function new_word()
  words = words + 1
  return ("q%09dq"):format(words)
end

local function chunks(p, body)
  local list, at = {}, 1
  while at <= #body do
    local piece = body:sub(at, at + p(2000) - 1)
    list[#list + 1] = ("%x\r\n%s\r\n"):format(#piece, piece)
    at = at + #piece
  end
  list[#list + 1] = "0\r\n\r\n"
  return table.concat(list)
end

-- `more`: status, want (with WORD for the word), body, ctype, method.
local function request(p, path, more)
  local word = new_word()
  local self = { word = word, method = more.body and "POST" or "GET", status = more.status or 200, cut = more.cut }
  self.want = more.want and more.want:gsub("WORD", word)
  self.may = more.may
  local target = path:gsub("WORD", word) .. (path:find("?", 1, true) and "&w=" or "?w=") .. word
  local head = { "Host: x", "X-Word: " .. word, "Cookie: word=" .. word }
  if p(6) == 1 then head[#head + 1] = "X-Filler: " .. ("f"):rep(p(3000)) end
  if p(40) == 1 then head[#head + 1] = "Upgrade: websocket\r\nConnection: upgrade" end
  if p(30) == 1 then head[#head + 1] = "Connection: close" end
  local body = ""
  if more.body then
    body = more.body:gsub("WORD", word)
    if more.ctype then head[#head + 1] = "Content-Type: " .. more.ctype end
    if p(10) == 1 then head[#head + 1] = "Expect: 100-continue" end
    if p(2) == 1 then
      head[#head + 1] = "Transfer-Encoding: chunked"
      body = chunks(p, body)
    else
      head[#head + 1] = "Content-Length: " .. #body
    end
  elseif p(20) == 1 and not more.cut then
    self.method, self.want = "HEAD", self.want and ""
  end
  -- A body of the old version may end where the connection ends.
  self.old = p(30) == 1 and not more.cut and not more.body
  local version = self.old and "1.0" or "1.1"
  self.bytes = ("%s %s HTTP/%s\r\n%s\r\n\r\n%s"):format(self.method, target, version, table.concat(head, "\r\n"), body)
  return self
end

-- A wait of up to 0.2 s, and something to count.
local function timed(path, p, n) return ("%s?s=%g&n=%d"):format(path, p(200) / 1000, n or p(10)) end
local function lines(n)
  local list = {}
  for i = 1, n do list[i] = ("WORD %d\n"):format(i) end
  return table.concat(list)
end

local calm = {
  ok = function(p) return request(p, "/ok", { want = "WORD" }) end,
  table = function(p) return request(p, "/table", { want = '{"word":"WORD"}' }) end,
  head = function(p) return request(p, "/head/WORD", { want = "WORD" }) end,
  sleep = function(p) return request(p, timed("/sleep", p), { want = "WORD" }) end,
  big = function(p)
    local n = p(10) ^ 6
    return request(p, timed("/big", p, n), { want = "WORD " .. ("."):rep(n) .. " WORD" })
  end,
  stream = function(p)
    local n = p(20)
    return request(p, timed("/stream", p, n), { want = lines(n) })
  end,
  sized = function(p)
    local n = p(20)
    return request(p, timed("/sized", p, n), { want = ("WORD "):rep(n) })
  end,
  hijack = function(p)
    local n = p(20)
    return request(p, timed("/hijack", p, n), { want = lines(n) })
  end,
  body = function(p)
    local n = p(10) ^ 5
    return request(p, "/body", { body = ("b"):rep(n) .. "WORD", want = ("WORD %d "):format(n + 11)
      .. (("b"):rep(math.min(n, 9)) .. "WORD"):sub(-20) })
  end,
  ["too-large"] = function(p)
    return request(p, "/body", { body = ("b"):rep(200001), status = 413, want = false, may = true })
  end,
  pieces = function(p)
    local n = p(5000)
    return request(p, timed("/pieces", p), { body = ("b"):rep(n) .. "WORD",
      want = ("WORD %d "):format(n + 11) .. (("b"):rep(math.min(n, 9)) .. "WORD"):sub(-20) })
  end,
  early = function(p) return request(p, "/early", { body = ("e"):rep(p(10) ^ 5), want = "WORD" }) end,
  json = function(p) return request(p, "/json", { body = '{"word":"WORD"}', want = '{"word":"WORD"}' }) end,
  form = function(p)
    return request(p, "/form", { body = "word=WORD", want = "WORD", ctype = "application/x-www-form-urlencoded" })
  end,
  echo = function(p)
    local body = ("WORD" .. ("."):rep(p(50))):rep(p(300))
    return request(p, "/echo", { body = body, want = body })
  end,
  scope = function(p)
    local n = p(5)
    return request(p, timed("/scope", p, n), { want = "WORD " .. n * (n + 1) / 2 })
  end,
  ["scope-fails"] = function(p) return request(p, timed("/scope-fails", p), { want = "WORD false WORD" }) end,
  chans = function(p)
    local n = p(6)
    return request(p, timed("/chans", p, n), { want = "WORD " .. n * (n + 1) / 2 })
  end,
  mutex = function(p) return request(p, timed("/mutex", p), { want = "WORD alone" }) end,
  deadline = function(p) return request(p, timed("/deadline", p), { want = "WORD nil timeout" }) end,
  cancel = function(p) return request(p, timed("/cancel", p), { want = "WORD canceled" }) end,
  timers = function(p) return request(p, timed("/timers", p), { want = "WORD" }) end,
  dict = function(p) return request(p, timed("/dict", p), { want = "WORD" }) end,
  mail = function(p) return request(p, timed("/mail", p, p(5000)), { want = "WORD" }) end,
  fs = function(p)
    local n = p(3000)
    return request(p, timed("/fs", p, n), { want = "WORD " .. n * 11 })
  end,
  exec = function(p) return request(p, "/exec", { want = "WORD WORD" }) end,
  popen = function(p) return request(p, "/popen", { want = "WORD WORD" }) end,
  ["exec-ends"] = function(p) return request(p, timed("/exec-ends", p), { want = "WORD timeout" }) end,
  offload = function(p) return request(p, timed("/offload", p), { want = "WORD" }) end,
  dial = function(p) return request(p, timed("/dial", p), { want = "WORD WORD" }) end,
  leave = function(p) return request(p, timed("/leave", p), { want = "WORD" }) end,
  late = function(p) return request(p, timed("/late", p), { want = "WORD" }) end,
  garbage = function(p) return request(p, timed("/garbage", p), { want = "WORD" }) end,
  coroutine = function(p) return request(p, timed("/coroutine", p), { want = "WORD" }) end,
  hook = function(p) return request(p, timed("/hook", p), { want = "WORD" }) end,
  callback = function(p) return request(p, "/callback", { want = "WORD 1 4 0" }) end,
  raise = function(p)
    return request(p, timed("/raise", p, p(1000)), { status = 500, want = "Internal Server Error" })
  end,
  ["raise-late"] = function(p) return request(p, timed("/raise-late", p), { want = false, cut = true }) end,
  missing = function(p) return request(p, "/missing", { status = 404, want = "Not Found" }) end,
}
for _, place in ipairs { "sort", "gsub", "wrap", "index", "concat", "pcall", "tostring", "load", "require" } do
  calm["in-" .. place] = function(p)
    local q = request(p, timed("/in/" .. place, p), { want = "WORD" })
    q.may = place == "require" and q.method == "HEAD" -- does not say that its load failed
    return q
  end
end

local harmful = {
  endless = function(p) return request(p, timed("/endless", p, p(1000)), { want = false, may = true }) end,
  hog = function(p) return request(p, timed("/hog", p, p(1000)), { status = 500, want = false, may = true }) end,
}

requests.calm, requests.harmful, requests.new, requests.timed = calm, harmful, request, timed

return requests
