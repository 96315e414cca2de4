-- build/lunapark run scripts/redis.lua                        100,000 commands to 127.0.0.1:6379, answers checked
-- build/lunapark run scripts/redis.lua unix:/run/redis 5000   so many there; leaves the key lunapark:numbers behind

local lp = require "lunapark"
local net = require "lunapark.net"

local addr, total, start = arg[1] or "127.0.0.1:6379", tonumber(arg[2] or 1e5), lp.now()

local function fail(...)
  io.stderr:write("redis: ", table.concat({ ... }, ": "), "\n")
  os.exit(1)
end

if not total then fail "usage: redis.lua [address] [commands]" end

-- A command as Redis wants it: how many words, and each behind its length.
local function encode(words)
  local text = { ("*%d\r\n"):format(#words) }
  for i, word in ipairs(words) do
    text[i + 1] = ("$%d\r\n%s\r\n"):format(#word, word)
  end
  return table.concat(text)
end

-- The next reply, a string or a number; or nil and what is wrong.
local function reply_of(conn)
  local line, err = conn:read_line()
  if not line then return nil, "no answer: " .. err end
  local kind, rest = line:sub(1, 1), line:sub(2)
  if kind == "+" then return rest end
  if kind == ":" then return tonumber(rest) end
  if kind ~= "$" or rest == "-1" then return nil, kind == "-" and rest or "there is nothing" end
  local text, why = conn:read_exact(rest + 2)
  return text and text:sub(1, -3), why
end

-- What the i-th command is, and its answer: fields of a hash are set, read and counted up.
local function command(i)
  local key, field = "lunapark:numbers", tostring(math.floor(i / 3) % 1000)
  if i % 3 == 0 then return { "HMSET", key, field, tostring(i) }, "OK" end
  if i % 3 == 1 then return { "HGET", key, field }, tostring(i - 1) end
  return { "HINCRBY", key, field, "1" }, i - 1
end

local conn, err = net.dial(addr, { timeout = 5 })
if not conn then fail(addr, err) end
-- One G writes as fast as Redis takes it, while this one reads what comes back.
lp.go(function()
  for i = 0, total - 1 do
    if not conn:write(encode((command(i)))) then return end -- the reader hears why
  end
end)
for i = 0, total - 1 do
  if i % 1000 == 0 then conn:set_read_deadline(5) end
  local words, want = command(i)
  local got, why = reply_of(conn)
  if got ~= want then fail(table.concat(words, " "), why or "answered " .. tostring(got)) end
end
print(("redis: %d commands, all answers right, %.2f s"):format(total, lp.now() - start))
