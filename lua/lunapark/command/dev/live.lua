--- Pages of the app that a browser loads anew after a reload: `inject`.
--
-- A page gets the element that loads the script (assets.lua) before its </body>, or at its end. Browsers say what they
-- want an answer for: `Sec-Fetch-Dest: document` for a page, other words for requests of scripts. They say it only on
-- https and on this machine. Without that field an answer is a page if it has <html> or <!doctype> and the client takes
-- HTML. Plain text becomes a page, as browsers make one of it, only when the browser says that it is for a window.
--
-- Streams, files, parts (206), encoded bodies, attachments and answers to scripts stay as they are. An answer to HEAD
-- is changed as the answer to GET is, so the two agree. A page with the element must not come out of a cache,
-- since its state would be an old one.
--
-- `--live-reload=0`, or `app.options = { live_reload = false }`, turns it off.

local escape = require("lunapark.http.html").escape
local exchange = require "lunapark.http.exchange"
local headers = require "lunapark.http.headers"
local page = require "lunapark.command.dev.page"
local request = require "lunapark.http.request"
local response = require "lunapark.http.response"

local live = {}

local function fields_of(res)
  local fields = rawget(res, "headers")
  if fields ~= nil and getmetatable(fields) == headers.mt then return fields end
  local own = headers.new()
  if fields then headers.merge(own, fields) end
  res.headers = own
  return own
end

-- The type that response.send would give the answer: "text/html", "text/plain" ...
local function type_of(res, fields)
  local given = fields:get "content-type"
  if given then return given:lower():match "^%s*([^%s;]*)" end
  local ctype = res.ctype or response.TEXT
  return ctype == response.HTML and "text/html" or ctype == response.TEXT and "text/plain" or ""
end

local function looks_whole(body)
  local low = body:lower()
  return low:find "^%s*<!doctype%s+html" or low:find("<html", 1, true) or low:find("</body", 1, true)
end

-- Where the element goes: before the last </body>.
local function place_in(body)
  local low, at, from = body:lower(), nil, 1
  while true do
    from = low:find("</body", from, true)
    if not from then return at or #body + 1 end
    at, from = from, from + 1
  end
end

-- The element and the escaped text are right in it.
local function is_utf8(fields)
  local charset = (fields:get "content-type" or ""):lower():match "charset%s*=%s*\"?([^\"%s;]*)"
  return charset == nil or charset == "utf-8" or charset == "us-ascii"
end

-- The page that Chromium and Firefox make of plain text.
local PLAIN = '<!doctype html><html><head><meta charset="utf-8"><meta name="color-scheme" content="light dark"></head>'
  .. '<body><pre style="word-wrap: break-word; white-space: pre-wrap;">%s</pre>%s</body></html>'

--- Adds the element to the noted answer, if it is a page.
---@param res lunapark.Response
---@param state fun(): string|nil  the state of pages of this VM; nil: they do not load themselves anew
function live.inject(res, state)
  response.unwrap(res)
  local body, status = res.body, res.status or 200
  if type(body) ~= "string" or type(status) ~= "number" then return end
  if status < 200 or status == 204 or status == 206 or status >= 300 and status < 400 then return end
  local is_head = response.is_head(res)
  if is_head and body == "" then return end -- it says itself how long that of GET is
  local fields = fields_of(res)
  if fields:get "content-encoding" or fields:get "content-disposition" then return end
  local kind, asked = type_of(res, fields), headers.of_request(res)
  local dest = asked:get "sec-fetch-dest"
  if kind == "text/html" then
    if dest and dest ~= "document" and dest ~= "iframe" and dest ~= "frame" then return end
    if not dest and not (page.kind(asked:get "accept") == "html" and looks_whole(body)) then return end
  elseif kind ~= "text/plain" or dest ~= "document" or not is_utf8(fields) then
    return
  end
  local now = state()
  if not now then return end
  local method = is_head and "GET" or request.method_names[exchange.live(res, 1).method]
  local tag = page.script_tag(now, method)
  if kind == "text/plain" then
    res.body, res.ctype = PLAIN:format(escape(body), tag), response.HTML
    fields["Content-Type"] = nil
  else
    local at = place_in(body)
    res.body = body:sub(1, at - 1) .. tag .. body:sub(at)
  end
  fields["Cache-Control"], fields["ETag"], fields["Last-Modified"] = "no-store", nil, nil
end

return live
