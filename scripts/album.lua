-- open http://127.0.0.1:8080/     a site: asks who you are by a form, keeps that in a session, takes pictures
-- ALBUM=/srv/album SESSION_SECRET=... build/lunapark serve scripts/album.lua     keeps pictures there, and sessions

local crypto = require "lunapark.crypto"
local fs = require "lunapark.fs"
local http = require "lunapark.http"
local shared = require "lunapark.shared"
local app = http.app { max_body = 8 * 2 ^ 20 }

local MAX_TITLE, TYPES = 100, { ["image/png"] = ".png", ["image/jpeg"] = ".jpg", ["image/svg+xml"] = false }
local folder = os.getenv "ALBUM" or app.dir .. "/album"
assert(fs.mkdir(folder, { parents = true }))

-- Pictures, the newest last: all VMs share them, and a restart finds them again.
local pictures = assert(shared.dict("album", { file = folder .. "/.album" }))

app:use(http.secure_headers())
app:use(http.csrf())
-- One secret for all VMs: without one from outside it is made by the first of them, and lives as long as the process.
local secrets = shared.dict "album.secret"
app:use(http.session { secret = os.getenv "SESSION_SECRET" or secrets:update("secret", function(old)
  return old or crypto.random_hex(32)
end) })

-- A template: {{ name }} is escaped, {{{ name }}} is HTML already.
local function render(template, values)
  local text = template:gsub("{{{ (%w+) }}}", values):gsub("{{ (%w+) }}", function(name)
    return http.escape(values[name] or "")
  end)
  return text
end

local PAGE = [[
<!doctype html>
<html lang="en">
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 sans-serif; max-width: 40em; margin: 2em auto; padding: 0 1em; color: #222 }
figure { margin: 2em 0 } img { max-width: 100%; border-radius: 4px } .error { color: #b00 }
label { display: block; margin: .5em 0 } nav { float: right }
</style>
<h1>{{ title }}</h1>
{{{ content }}}
]]

local HELLO = [[
<p class="error">{{ error }}</p>
<form method="post" action="/name"><label>Your name: <input name="name" value="{{ name }}" autofocus></label>
<button>Come in</button></form>
]]

local ALBUM = [[
<nav><form method="post" action="/leave">{{ name }} <button>leave</button></form></nav>
<p class="error">{{ error }}</p>
<form method="post" action="/pictures" enctype="multipart/form-data">
<label>Title: <input name="title"></label>
<label>Picture: <input type="file" name="picture" accept="image/png,image/jpeg"></label>
<button>Add</button></form>
{{{ figures }}}
]]

local FIGURE = [[
<figure><img src="/files/{{ file }}" alt="{{ title }}"><figcaption>{{ title }}, by {{ name }}</figcaption></figure>
]]

local function page(title, template, values)
  return http.html(render(PAGE, { title = title, content = render(template, values) }))
end

local function show_hello(status, name, message)
  return status, page("Hello", HELLO, { name = name, error = message })
end

local function show_album(status, name, message)
  local figures = {}
  for _, picture in ipairs(pictures:get "list" or {}) do
    table.insert(figures, 1, render(FIGURE, picture))
  end
  return status, page("Album", ALBUM, { name = name, error = message, figures = table.concat(figures) })
end

app:get("/", function(req)
  local name = req.session.name
  if name then return show_album(200, name) end
  return show_hello(200)
end)

app:post("/name", function(req, res)
  local form = assert(req:form())
  local name = (form.name or ""):match "^%s*(.-)%s*$"
  if name == "" or #name > MAX_TITLE then return show_hello(422, name, "A name has 1 to 100 letters.") end
  req.session:renew()
  req.session.name = name
  return res:redirect("/", 303)
end)

app:post("/leave", function(req, res)
  req.session:clear()
  return res:redirect("/", 303)
end)

app:post("/pictures", function(req, res)
  local name = req.session.name
  if not name then return res:redirect("/", 303) end
  local form, files = assert(req:form())
  local picture = files.picture
  local ending = picture and TYPES[picture.headers["content-type"]]
  if not ending or picture.size == 0 then return show_album(422, name, "A picture is a PNG or a JPEG file.") end
  local file = crypto.random_hex(16) .. ending
  assert(picture:save(folder .. "/" .. file))
  local title = (form.title or ""):sub(1, MAX_TITLE)
  assert(pictures:update("list", function(list)
    list = list or {}
    list[#list + 1] = { file = file, title = title ~= "" and title or "Untitled", name = name }
    return list
  end))
  return res:redirect("/", 303)
end)

-- What people upload is never shown as a page of ours: only names that we have made, with the type of their ending.
app:static("/files", folder, { cache_control = "private, max-age=86400", index = false })

local MISSING = '<p>There is no such page. <a href="/">To the album</a></p>'
app:not_found(function() return 404, page("Not here", MISSING, {}) end)
app:on_error(function(_, res)
  return res.status, page("Sorry", "<p>{{ status }}: {{ reason }}.</p>", {
    status = res.status, reason = res.status < 500 and "this request was not understood" or "something is wrong here",
  })
end)

return app
