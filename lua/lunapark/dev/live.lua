--- Pages of the app that a browser loads anew after a reload: `inject`.
--
-- A page gets the element that loads the script (assets.lua) before its </body>, or at its end. Which answers are
-- pages? Browsers say what they want one for: `Sec-Fetch-Dest: document`, and other words for scripts' requests. They
-- do so on https and on this machine alone; else an answer is taken for a page if it says so itself, by <html> or
-- <!doctype>, and the client takes HTML. Plain text becomes a page as browsers make one of it, but only when
-- they say that it is for a window of its own.
--
-- Streams, files, answers to HEAD, parts (206), encoded bodies and attachments stay as they are, as does whatever a
-- script asks for. A page with the element must not come out of a cache, being of an old state then.
--
-- `--live-reload=0`, or `app.options = { live_reload = false }`, turns it off.

local headers = require "lunapark.http.headers"
local page = require "lunapark.dev.page"
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

-- "text/html", "text/plain" ...; what response.send would make of it.
local function type_of(res, fields)
  local given = fields:get "content-type"
  if given then return given:lower():match "^%s*([^%s;]*)" end
  local ctype = res.ctype or response.sniff(res.body)
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

-- What Chromium and Firefox make of plain text themselves.
local PLAIN = '<!doctype html><html><head><meta charset="utf-8"><meta name="color-scheme" content="light dark"></head>'
  .. '<body><pre style="word-wrap: break-word; white-space: pre-wrap;">%s</pre>%s</body></html>'

--- Makes a page of the noted answer one that is loaded anew, if it is one.
---@param res lunapark.Response
---@param state fun(): string|nil  which state pages of this VM are of; nil: they are not to be loaded anew
function live.inject(res, state)
  local body, status = res.body, res.status or 200
  if type(body) ~= "string" or type(status) ~= "number" then return end
  if status < 200 or status == 204 or status == 206 or status >= 300 and status < 400 or response.is_head(res.ptr) then
    return
  end
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
  local tag = page.script_tag(now, request.method_names[res.ptr.method])
  if kind == "text/plain" then
    res.body = PLAIN:format(page.escape(body), tag)
    fields["Content-Type"] = "text/html; charset=utf-8"
  else
    local at = place_in(body)
    res.body = body:sub(1, at - 1) .. tag .. body:sub(at)
  end
  fields["Cache-Control"], fields["ETag"], fields["Last-Modified"] = "no-store", nil, nil
end

return live
