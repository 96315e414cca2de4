--- A failure as a page for browsers, as text for terminals, as JSON for programs that ask for it.
--
-- Texts from outside (message, source, path, headers) may contain anything: in HTML they are escaped, and the page
-- forbids all scripts except ours (Content-Security-Policy).

local assets = require "lunapark.command.dev.assets"
local form = require "lunapark.http.form"
local escape = require("lunapark.http.html").escape
local json = require "lunapark.json"

local concat, sort = table.concat, table.sort

local page = {}

---@class lunapark.dev.Failure
---@field status integer
---@field reason string      of the status
---@field title string       "GET /x" or "The app does not load"
---@field note string?       a remark for the user
---@field report lunapark.dev.Report
---@field state string       see host/generation/dev.c
---@field generation string  the generation that serves

--- The element that has pages loaded anew.
---@param state string   of the page
---@param method string  of the request that the page answers
---@return string html
function page.script_tag(state, method)
  return ('<script src="/.lunapark/dev.js" data-state="%s" data-method="%s" async></script>'):format(
    escape(state), escape(method))
end

-- ---- HTML -----------------------------------------------------------------------------------------------

local function source_of(place)
  local rows = {}
  for i, line in ipairs(place.excerpt) do
    rows[i] = ("<div%s><i>%d</i><span>%s</span></div>"):format(line.hit and ' class="hit"' or "", line.number,
      escape(line.text))
  end
  return '<div class="src">' .. concat(rows) .. "</div>"
end

local function frames_of(frames)
  local rows = {}
  for i, frame in ipairs(frames) do
    if frame.place then
      rows[i] = ('<details><summary class="frame">%s</summary>%s</details>'):format(escape(frame.text),
        source_of(frame.place))
    else
      rows[i] = ('<div class="frame%s">%s</div>'):format(frame.own and " own" or "", escape(frame.text))
    end
  end
  return concat(rows, "\n")
end

-- Names of fields whose values are secret, and not shown on a page.
local secret = { "cookie", "auth", "token", "secret", "key", "passw" }

local function is_secret(name)
  local low = name:lower()
  for _, part in ipairs(secret) do
    if low:find(part, 1, true) then return true end
  end
  return false
end

local function row(name, value)
  return ("<tr><td>%s</td><td>%s</td></tr>"):format(escape(name), escape(value))
end

local function add_fields(rows, title, fields)
  local names = {}
  for name in pairs(fields) do
    names[#names + 1] = name
  end
  if #names == 0 then return end
  sort(names)
  rows[#rows + 1] = ('<tr><th colspan="2">%s</th></tr>'):format(title)
  for _, name in ipairs(names) do
    local value = fields[name]
    rows[#rows + 1] = row(name, type(value) == "table" and concat(value, ", ") or value)
  end
end

-- All values of each name: a handler sees the last (req.query).
local function query_of(req)
  local raw, values = req.target:match "%?(.*)" or "", {}
  for name in pairs(req.query) do
    values[name] = {}
    form.all(raw, #raw, name, values[name])
  end
  return values
end

local function request_of(req)
  local rows = {
    row("method", req.method), row("path", req.path), row("target", req.target), row("from", req.remote_addr),
    row("id", req.id),
  }
  add_fields(rows, "Parameters of the route", req.params)
  add_fields(rows, "Query", query_of(req))
  rows[#rows + 1] = '<tr><th colspan="2">Headers</th></tr>'
  for _, name, value in req.headers:each() do
    rows[#rows + 1] = row(name, is_secret(name) and ("(%d bytes, hidden)"):format(#value) or value)
  end
  return concat(rows, "\n")
end

local function where(rep)
  if not rep.place then return "" end
  return ("%s:%d"):format(rep.place.file, rep.place.line)
end

local HTML = [[
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$TITLE</title>
<style>
$STYLE</style>
</head>
<body>
<header>
<p>$WHAT</p>
<h1>$MESSAGE</h1>
$AT</header>
$SOURCE
$TRACE
<h2>Request</h2>
<table>
$REQUEST
</table>
<footer>$FOOTER</footer>
$SCRIPT
</body>
</html>
]]

--- The page.
---@param failure lunapark.dev.Failure
---@param req lunapark.Request
---@return string
function page.html(failure, req)
  local rep = failure.report
  local at = rep.place and ("<p class=\"at\">%s%s</p>\n"):format(escape(where(rep)),
    rep.defined and ", where the handler begins" or "") or ""
  local method = req.method
  local footer = "lunapark --dev, " .. failure.generation .. ". "
    .. (method == "GET" and "This page loads itself anew when a file is saved."
      or "This page does not load itself anew when a file is saved, for it is the answer to a " .. method .. ".")
  local parts = {
    TITLE = escape(failure.status .. " " .. rep.says:match "^[^\n]*"),
    STYLE = assets.style,
    WHAT = escape(("%d %s: %s"):format(failure.status, failure.reason, failure.title)),
    MESSAGE = escape(rep.says),
    AT = at .. (failure.note and "<p>" .. escape(failure.note) .. "</p>\n" or ""),
    SOURCE = rep.place and source_of(rep.place) or "",
    TRACE = rep.frames[1] and "<h2>Traceback</h2>\n" .. frames_of(rep.frames) or "",
    REQUEST = request_of(req),
    FOOTER = escape(footer),
    SCRIPT = page.script_tag(failure.state, method),
  }
  return (HTML:gsub("%$(%u+)", parts))
end

-- ---- text -----------------------------------------------------------------------------------------------

--- The failure as text for a terminal.
---@param failure lunapark.dev.Failure
---@return string
function page.text(failure)
  local rep = failure.report
  local lines = { ("%d %s: %s"):format(failure.status, failure.reason, failure.title), "", rep.message }
  local function add(text) lines[#lines + 1] = text end
  if failure.note then add(failure.note) end
  if rep.place then
    add("")
    add(where(rep) .. (rep.defined and ", where the handler begins" or ""))
    for _, line in ipairs(rep.place.excerpt) do
      add(("%s%5d | %s"):format(line.hit and ">" or " ", line.number, line.text))
    end
  end
  if rep.frames[1] then
    add("")
    add("stack traceback:")
    for _, frame in ipairs(rep.frames) do
      add("\t" .. frame.text)
    end
  end
  add("")
  return concat(lines, "\n")
end

-- ---- JSON -----------------------------------------------------------------------------------------------

--- The failure as JSON for programs.
---@param failure lunapark.dev.Failure
---@return string
function page.json(failure)
  local rep, traceback = failure.report, {}
  for i, frame in ipairs(rep.frames) do
    traceback[i] = frame.text
  end
  return json.encode {
    status = failure.status, reason = failure.reason, title = failure.title, error = rep.message,
    file = rep.place and rep.place.file, line = rep.place and rep.place.line,
    traceback = traceback[1] and traceback or nil, generation = failure.generation,
  }
end

-- ---- which one ------------------------------------------------------------------------------------------

--- The form that a client takes: the first of these that its Accept field names.
---@param accept string|nil
---@return string  "html", "json" or "text"
function page.kind(accept)
  for range in (accept or ""):lower():gmatch "[^,]+" do
    local name = range:match "^%s*([^%s;]+)"
    if not range:find ";%s*q=0%.?0*%s*$" then
      if name == "text/html" or name == "application/xhtml+xml" then return "html" end
      if name == "application/json" or name and name:find "%+json$" then return "json" end
      if name == "text/plain" then return "text" end
    end
  end
  return "text"
end

return page
