--- `res:sse()`: a stream of events, which a page reads by `new EventSource(url)`.
--
--   app:get("/events", function(req, res)
--     local sse = res:sse()
--     for news in subscription:iter() do
--       if not sse:send { event = "news", id = news.id, data = news } then break end
--     end
--   end)
--
-- Each event leaves at once. A G of the stream sends a comment when nothing was sent for a while, so that proxies keep
-- the connection and we learn of clients that are gone.
--
-- The stream ends when its handler returns. The handler's waits end with "canceled" when the client leaves, as in each
-- handler, and also when the VM is retired, by a stop or a reload: the stream's G then cancels the handler's G. So a
-- handler that only waits for news needs no care for either; the page connects anew, and reaches the next generation.
-- A handler that wants to say goodbye asks `lp.retired()`, which it hears at the same moment: `send` works to the end.
--
-- The head says `Connection: close`: nothing else is to come on this connection, so at a stop the server need not wait
-- for a next request.

local json = require "lunapark.json"
local lp = require "lunapark"
local near = require "lunapark.core.near"
local request = require "lunapark.http.request"
local response = require "lunapark.http.response"
local retire = require "lunapark.core.retire"
local as_given = require("lunapark.core.show").given

local find, format, gsub = string.find, string.format, string.gsub

local HEARTBEAT = 15

local sse = {}

---@class lunapark.Events
---@field private res lunapark.Response
---@field private beats lunapark.G|nil  the stream's G
---@field private lock lunapark.Mutex
---@field private quiet_since number
---@field private ended boolean|nil
local Events = {}
local events_mt = { __name = "lunapark.Events", __index = Events }
setmetatable(Events, { __index = near.index("sse", { Events }, {}, { write = "sse:send(event)" }, 4) })

-- Writes and flushes, one G after the other.
local function put(self, text)
  local res = self.res
  local ok, err = res:write(text)
  if ok then ok, err = res:flush() end
  self.quiet_since = lp.now()
  return ok, err
end

-- What the stream's G does. It has no part in the handler's deadline, which each event puts off.
local function beat(self, handler, every)
  while not self.ended do
    local retired, err = retire.retired(math.max(self.quiet_since + every - lp.now(), 0.01))
    if self.ended or err or self.res.ptr.id ~= self.res.serial then return end
    if retired then
      handler:cancel()
      return
    end
    if lp.now() >= self.quiet_since + every and not self.lock:with(put, self, ":\n\n") then return end
  end
end

-- A field of one line. Raises at the caller of `send`.
local function line(name, value)
  if type(value) == "number" then value = format("%.14g", value) end
  if type(value) ~= "string" then error(("send: %s must be a string, got %s"):format(name, type(value)), 4) end
  if find(value, "[\r\n%z]") then error(("send: %s must be one line without NUL"):format(name), 4) end
  return name .. ": " .. value .. "\n"
end

local function data_lines(data)
  if type(data) == "table" then
    local text, err = json.try_encode(data)
    if not text then error("send: data: " .. err, 4) end
    data = text
  end
  if type(data) == "number" then data = format("%.14g", data) end
  if type(data) ~= "string" then error("send: data must be a string or a table, got " .. type(data), 4) end
  return "data: " .. gsub(gsub(data, "\r\n?", "\n"), "\n", "\ndata: ") .. "\n"
end

local fields = { event = true, id = true, data = true, retry = true }

local function event_text(event)
  if type(event) == "string" then return data_lines(event) .. "\n" end
  near.check_options(event, fields, "send", 3)
  local text = ""
  if event.event ~= nil then text = line("event", event.event) end
  if event.id ~= nil then text = text .. line("id", event.id) end
  if event.retry ~= nil then
    local s = event.retry
    if type(s) ~= "number" or not (s >= 0 and s < 1e9) then
      error("send: retry must be a number of seconds, got " .. as_given(s), 3)
    end
    text = text .. format("retry: %d\n", math.floor(s * 1000 + 0.5))
  end
  if event.data ~= nil then text = text .. data_lines(event.data) end
  if text == "" then error("send: an event has one of event, id, data, retry", 3) end
  return text .. "\n"
end

--- Sends an event. May wait until the client has taken earlier ones.
---@param event string|{ event: string?, id: string|number?, data: string|table?, retry: number? }  a string is the
---event's data; a table as data goes as JSON; retry: seconds after which the page connects anew
---@return true|nil ok
---@return string? err  "closed": the client is gone; "timeout", "canceled"
function Events:send(event)
  local text = event_text(event)
  if self.ended then return nil, "closed" end
  return self.lock:with(put, self, text)
end

--- The handler has ended: so does the stream's G. For response.lua.
---@param events lunapark.Events
function sse.finish(events)
  events.ended = true
  local beats = events.beats
  if beats then beats:cancel() end
end

--- Begins a stream of events: sends the head. May wait.
---@param res lunapark.Response
---@param opts? { heartbeat: number? }  seconds without events after which a comment is sent, 15 without it; 0: never
---@return lunapark.Events
function sse.begin(res, opts)
  opts = opts or {}
  near.check_options(opts, { heartbeat = true }, "sse", 3)
  local every = opts.heartbeat or HEARTBEAT
  if type(every) ~= "number" or every ~= every or every < 0 then
    error("sse: opts.heartbeat must be a number of seconds, got " .. as_given(every), 3)
  end
  local h = res.headers
  h["Content-Type"] = "text/event-stream"
  if not h["Cache-Control"] then h["Cache-Control"] = "no-cache" end
  h["X-Accel-Buffering"] = "no" -- nginx in front of us would keep events until it has enough of them
  h.Connection = "close"
  local self = setmetatable({ res = res, lock = lp.mutex(), quiet_since = lp.now() }, events_mt)
  res.events = self
  res:flush()
  if response.is_head(res) then
    response.finish(res)
    error(request.new_abort { message = "the head is the whole answer" }, 0)
  end
  self.beats = lp.detach(beat, self, lp.self(), every == 0 and math.huge or every)
  return self
end

return sse
