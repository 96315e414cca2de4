--- What the admin API tells of generations, and what it does with them (host/generation/history.c):
--
--   curl http://127.0.0.1:9000/generations           a list, the latest first: id, tree, parent, time, who, message ...
--   curl -X POST -H X-Lunapark:1 'http://127.0.0.1:9000/reload?message=new+prices'
--                                                    reloads the app; the message stands in the list
--   curl -X POST -H X-Lunapark:1 'http://127.0.0.1:9000/rollback?to=-1'
--                                                    the generation before serves again, whatever the disk holds
--   curl -X POST -H X-Lunapark:1 'http://127.0.0.1:9000/tag?name=good'       and -X DELETE: what serves gets a name

local ffi = require "ffi"
require "lunapark.cdef"
local job = require "lunapark.core.job"
local json = require "lunapark.json"
local pieces = require("lunapark.core.text").pieces

local C = ffi.C
local SAME, FAILED, UNKNOWN = 1, 2, 3
local ID_SIZE = 64
local MESSAGE_MAX = 4096

local generations = {}

--- The generation that serves.
function generations.now()
  local id, commit = ffi.new("char[?]", ID_SIZE), ffi.new("char[?]", ID_SIZE)
  return { number = C.host_generation(id, commit, ID_SIZE), id = ffi.string(id), commit = ffi.string(commit) }
end

-- ---- reloads --------------------------------------------------------------------------------------------

local result_out = ffi.new "int[1]"

local function reload_result(j)
  local what = ffi.string(C.host_reload_result(j, result_out))
  return tonumber(result_out[0]), what
end

-- The status and the body that tell of a job that has another generation serve.
local function answer(j)
  local result, what = job.run(j, reload_result)
  if not result then return 503, { error = what } end
  if result == UNKNOWN then return 404, { error = what } end
  if result == FAILED then return 500, { error = what, generation = generations.now() } end
  return 200, { changed = result ~= SAME, generation = generations.now() }
end

-- What a query says of `message`; nil and why it can be none.
local function message_of(req)
  local message = req.query.message or ""
  if #message > MESSAGE_MAX then return nil, ("message: longer than %d bytes"):format(MESSAGE_MAX) end
  if message:find("\0", 1, true) then return nil, "message: must not contain a NUL byte" end
  return message
end

--- Reloads.
---@param req lunapark.Request
function generations.reload(req)
  local message, wrong = message_of(req)
  if not message then return 400, { error = wrong } end
  return answer(C.host_reload(nil, message))
end

--- Has an earlier generation serve again, whatever the disk holds.
---@param req lunapark.Request
function generations.rollback(req)
  local message, wrong = message_of(req)
  if not message then return 400, { error = wrong } end
  local to = req.query.to or ""
  if to == "" or to:find("\0", 1, true) then
    return 400, { error = "to: must be a tag, the id of a generation, or the beginning of one, or -1, -2 ..." }
  end
  return answer(C.host_reload(to, message))
end

-- ---- tags ---------------------------------------------------------------------------------------------

local function tag_result(j)
  local what = ffi.string(C.host_tag_result(j, result_out))
  return tonumber(result_out[0]), what
end

local statuses = { [0] = 200, 404, 400, 409, 500 }

local function is_text(value)
  return value and value ~= "" and not value:find("\0", 1, true)
end

local function tag_answer(name, to)
  local result, what = job.run(C.host_tag(name, to), tag_result)
  if not result then return 503, { error = what } end
  return statuses[result], result == 0 and { name = name, id = what } or { error = what }
end

--- Gives a generation a name: the one of `id`, or the one that serves.
---@param req lunapark.Request
function generations.tag(req)
  local name, id = req.query.name, req.query.id or ""
  if not is_text(name) then return 400, { error = "name: must be the name of the tag" } end
  if id ~= "" and not is_text(id) then return 400, { error = "id: must be the id of a generation" } end
  return tag_answer(name, id)
end

--- Takes a name away.
---@param req lunapark.Request
function generations.untag(req)
  if not is_text(req.query.name) then return 400, { error = "name: must be the name of the tag" } end
  return tag_answer(req.query.name, nil)
end

-- ---- the list -------------------------------------------------------------------------------------------

local size_out = ffi.new "size_t[1]"

local function list_text(j)
  local text = C.host_generations_text(j, size_out)
  if text == nil then return nil, "no memory" end
  return ffi.string(text, size_out[0])
end

local changes = { added = true, changed = true, removed = true }

-- What a record of a generation says.
local function take(g, word, rest)
  if changes[word] then
    table.insert(g.changes[word], rest)
  elseif word == "more" then
    g.changes.more = tonumber(rest)
  elseif word == "time" or word == "number" then
    g[word] = tonumber(rest)
  elseif word == "serves" then
    g.serves = true
  elseif word == "tag" then
    table.insert(g.tags, rest)
  else
    g[word] = rest
  end
end

local function with_arrays(g)
  if #g.tags == 0 then g.tags = json.empty_array end
  for word in pairs(changes) do
    if #g.changes[word] == 0 then g.changes[word] = json.empty_array end
  end
  return g
end

--- Answers with all generations that are kept.
function generations.list()
  local text, err = job.run(C.host_generations(), list_text)
  if not text then return 503, { error = err } end
  local list, g = {}, nil
  for record in pieces(text, "\0") do
    local word, rest = record:match "^(%l+) ?(.*)$"
    if word == "id" then
      g = { serves = false, tags = {}, changes = { added = {}, changed = {}, removed = {} } }
      list[#list + 1] = g
    end
    take(g, word, rest)
  end
  for _, one in ipairs(list) do with_arrays(one) end
  return 200, #list > 0 and list or json.empty_array
end

return generations
