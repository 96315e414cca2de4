-- curl -d '{"text": "buy milk"}' http://127.0.0.1:8080/notes        a REST API: 201 with its Location, /notes/1
-- curl -X PATCH -d '{"done": true}' http://127.0.0.1:8080/notes/1   and GET, PUT, DELETE; /notes?done=true lists

local http = require "lunapark.http"
local json = require "lunapark.json"
local shared = require "lunapark.shared"
local app = http.app { max_body = 65536 }

-- All VMs share the notes; "id" counts. `evict = false`: the dict says when it is full instead of forgetting.
local notes = shared.dict("notes", { evict = false })
local ids = shared.dict("notes.ids", { evict = false })

-- Each failure is JSON for a program, also of requests that never reach a handler.
app:on_error(function(_, res, err)
  return res.status, { error = res.status < 500 and err.message or "something is wrong here" }
end)

local function fail(status, message) error { status = status, message = message } end

-- The fields that a request has, each of the right type; all of them if `whole`.
local function fields_of(req, whole)
  local body = req:json()
  if type(body) ~= "table" then fail(400, "the body must be a JSON object") end
  for name in pairs(body) do
    if name ~= "text" and name ~= "done" then fail(422, "unknown field: " .. tostring(name)) end
  end
  if body.text == nil and whole or body.text ~= nil and (type(body.text) ~= "string" or body.text == "") then
    fail(422, "text must be a string that is not empty")
  end
  if body.done ~= nil and type(body.done) ~= "boolean" then fail(422, "done must be true or false") end
  return body
end

local function shown(id, note) return { id = tonumber(id), text = note.text, done = note.done } end

local function find(req)
  local note = notes:get(req.params.id)
  if not note then fail(404, "no such note") end
  return note
end

app:get("/notes", function(req)
  local list, done = json.array {}, req.query.done
  for _, id in ipairs(notes:keys()) do
    local note = notes:get(id)
    if note and (not done or tostring(note.done) == done) then list[#list + 1] = shown(id, note) end
  end
  table.sort(list, function(a, b) return a.id < b.id end)
  return { notes = list }
end)

app:post("/notes", function(req)
  local fields = fields_of(req, true)
  local id = tostring(ids:incr("last", 1, 0))
  local note = { text = fields.text, done = fields.done or false }
  local ok, err = notes:set(id, note)
  if not ok then fail(507, err) end
  return 201, shown(id, note), { Location = "/notes/" .. id }
end)

app:get("/notes/:id", function(req) return shown(req.params.id, find(req)) end)

-- Puts or changes a note that is there, in one step: two requests at a time do not undo each other.
local function change(req, whole)
  find(req)
  local fields = fields_of(req, whole)
  local note = notes:update(req.params.id, function(old)
    if not old then return nil end
    local text, done = fields.text or old.text, fields.done
    if done == nil then done = not whole and old.done end
    return { text = text, done = done }
  end)
  if not note then fail(404, "no such note") end
  return shown(req.params.id, note)
end

app:put("/notes/:id", function(req) return change(req, true) end)
app:patch("/notes/:id", function(req) return change(req, false) end)

app:delete("/notes/:id", function(req)
  find(req)
  notes:delete(req.params.id)
  return 204
end)

return app
