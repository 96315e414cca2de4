--- `lunapark serve --dev`, in each VM that serves: failures are shown in the browser, and pages load themselves anew.
--
-- A handler that raises is answered with a page that shows where (report.lua, page.lua), unless the app's own
-- `on_error` answers. A reload that fails is shown in the same way, for every request until a reload succeeds. At a
-- start there may be no app at all: then this VM stands in for it.
--
-- Paths below `/.lunapark/` are ours:
--   /.lunapark/changed?since=STATE  answers with the state (host/generation/dev.c) when it is not STATE, or after 25
--   seconds
--   /.lunapark/dev.js               the script that pages load (assets.lua, live.lua)
--
-- --dev is for this machine: over TCP only requests that ask for an address or localhost are answered (rebinding.lua),
-- and the listener is on a loopback address (commands.c, check_reach), except with --dev=public.
--
-- Without --dev this file is not loaded.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local assets = require "lunapark.command.dev.assets"
local base = require "lunapark.core.base"
local chain = require "lunapark.http.chain"
local dispatch = require "lunapark.http.dispatch"
local http = require "lunapark.http"
local live = require "lunapark.command.dev.live"
local page = require "lunapark.command.dev.page"
local pieces = require("lunapark.core.text").pieces
local rebinding = require "lunapark.command.rebinding"
local report = require "lunapark.command.dev.report"
local request = require "lunapark.http.request"
local response = require "lunapark.http.response"
local retired = require("lunapark.core.retire").retired
local source = require "lunapark.std.source"

local C = ffi.C
local EAGAIN = -11
local TEXT, HTML, JSON = response.TEXT, response.HTML, response.JSON
local PREFIX = "/.lunapark/"
local WAIT, LOOK = 25, 0.1 -- seconds: how long `changed` waits, and between two looks
local MAX_FILE = 4 * 2 ^ 20

local dev = {}

local host_req_ptr = ffi.typeof "host_req *"
local info = ffi.new "host_dev"

-- ---- states ---------------------------------------------------------------------------------------------

local function state_of(generation, failing)
  return ("%.0f.%d.%d"):format(info.run, generation, failing)
end

-- The state of the process.
local function state_now()
  C.host_dev_read(info)
  return state_of(info.serving, info.failing)
end

-- The state of pages that this VM's app has made.
local function own_state()
  C.host_dev_read(info)
  return state_of(info.own, 0)
end

local function generation_name()
  if info.own == 0 then return "no generation serves yet" end
  return ("generation %d (%s)"):format(info.own, ffi.string(info.id))
end

-- ---- files ----------------------------------------------------------------------------------------------

-- LuaJIT shortens names of files that are longer than 60 bytes: "...app/users.lua".
local function tail_of(name)
  return name:match "^%.%.%.(.+)$"
end

local function ends_with(text, tail)
  return text:sub(-#tail) == tail
end

-- The bytes of a file as this VM has loaded it, and the file's whole name.
local function read_loaded(name)
  local file = source.loaded[name] and name
  local tail = tail_of(name)
  if not file and tail then
    for path in pairs(source.loaded) do
      if ends_with(path, tail) then file = path end
    end
  end
  if file then return core.source(file), file end
end

-- Reads files of a load that has failed, as they are on the disk.
local function reader_of(names)
  return function(name)
    local tail = tail_of(name)
    local wanted = tail or "/" .. name:gsub("^%./", "")
    for _, full in ipairs(names) do
      if full == name or ends_with(full, wanted) then
        local file = tail and full or name
        local handle = io.open(file)
        if not handle then return nil end
        local bytes = handle:read(MAX_FILE)
        handle:close()
        return bytes, file
      end
    end
  end
end

-- ---- answers --------------------------------------------------------------------------------------------

local HEAD = "Cache-Control: no-store\r\n"
local PAGE_HEAD = HEAD .. "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; "
  .. "connect-src 'self'; base-uri 'none'; form-action 'none'\r\n"

-- Sends past response.send, since nothing is injected into our own pages. Returns as host_respond.
local function respond(req, failure)
  local kind = page.kind(req.headers:get "accept")
  local ctype, head = TEXT, HEAD
  if kind == "html" then
    ctype, head = HTML, PAGE_HEAD
  elseif kind == "json" then
    ctype = JSON
  end
  local body = page[kind](failure, req)
  local rc = C.host_respond(req.ptr, req.serial, failure.status, ctype, head, #head, body, #body)
  return rc == EAGAIN and response.send_rest(req, body) or rc
end

-- Answers for a handler that has raised. For dispatch.
local function show(entry, req, _, text, status)
  return respond(req, {
    status = status, reason = response.reason(status), title = ("%s %s"):format(req.method, req.path),
    report = report.new(text, read_loaded, entry.route and entry.route.fn or entry.run),
    state = own_state(), generation = generation_name(),
  })
end

-- The message of the last load if it has failed, the names of its files, its number; nil: it has not failed.
local function last_failure()
  local number, cap = ffi.new "int32_t[1]", 4096
  while true do
    local buf = ffi.new("char[?]", cap)
    local len = tonumber(C.host_dev_failure(buf, cap, number))
    if len == 0 then return nil end
    if len <= cap then
      local parts = {}
      for part in pieces(ffi.string(buf, len), "\0") do
        parts[#parts + 1] = part
      end
      return table.remove(parts, 1), parts, number[0]
    end
    cap = len
  end
end

local function show_load(req)
  local text, names, number = last_failure()
  if not text then
    -- The mistake was mended a moment ago: the next request gets the app.
    return 503, "The app is being loaded.\n", { ["Retry-After"] = "1", ["Refresh"] = "1" }
  end
  C.host_dev_read(info)
  respond(req, {
    status = 500, reason = response.reason(500), title = "The app does not load",
    note = info.own ~= 0 and "What was loaded before goes on running; requests get this page until it is put right."
      or nil,
    report = report.new(text, reader_of(names)),
    state = state_of(info.serving, number), generation = generation_name(),
  })
end

-- ---- our paths ------------------------------------------------------------------------------------------

-- How long the handler may wait: its time must not be over before it answers.
local function patience()
  local deadline = C.host_deadline()
  if deadline == 0 then return WAIT end
  return math.min(WAIT, (deadline - base.now_ns()) / 1e9 * 0.8)
end

-- A reload that succeeds, or a stop, retires this VM, which ends the wait at once. Other changes have to be looked for.
local function changed(req)
  local since, give_up = req.query.since, base.now_ns() + patience() * 1e9
  local now = state_now()
  while now == since and base.now_ns() < give_up do
    local over, err = retired(LOOK)
    now = state_now()
    if over or err then break end
  end
  return 200, now, { ["Content-Type"] = "text/plain", ["Cache-Control"] = "no-store" }
end

local PUBLIC = 2
local is_public = core.option_value "dev" == PUBLIC

-- The answer to a page of a site whose name leads here.
local function refuse(req)
  if is_public or rebinding.is_ours(req.host) or req.remote_addr:sub(1, 5) == "unix:" then return nil end
  return 421, ("--dev answers by address and as localhost only, not as %s; --dev=public does.\n"):format(req.host)
end

local function answer(req)
  local status, why = refuse(req)
  if status then return status, why end
  local path = req.path
  if path == PREFIX .. "changed" then return changed(req) end
  if path == PREFIX .. "dev.js" then
    return 200, assets.script, { ["Content-Type"] = "text/javascript; charset=utf-8", ["Cache-Control"] = "no-store" }
  end
  if path:sub(1, #PREFIX) == PREFIX then return 404 end
  return show_load(req)
end

-- ---- making it so ---------------------------------------------------------------------------------------

-- Settles every answer, so that it goes through response.send.
local function settle(req, _, next)
  local status, why = refuse(req)
  if status then return status, why end
  return next()
end

local function inject_into_answers()
  local send = response.send
  response.send = function(res)
    live.inject(res, function()
      local state = own_state()
      return info.live_reload ~= 0 and state or nil
    end)
    return send(res)
  end
end

-- The function that the host calls for each request; `inner` answers for the app.
local function outermost(inner)
  local own = http.handler(answer)
  return function(slot, address)
    local r = ffi.cast(host_req_ptr, address)
    local path = request.raw_path(r)
    if C.host_dev_failing() ~= 0 or path:sub(1, #PREFIX) == PREFIX then return own(slot, address) end
    return inner(slot, address)
  end
end

--- The function that answers requests in place of http.handler's. Called once in a VM.
---@param app lunapark.App|function
---@return fun(slot: integer, address: integer)
function dev.handler(app)
  inject_into_answers()
  if type(app) == "function" then
    return outermost(http.handler(chain.compose({ settle }, app), show))
  end
  table.insert(app.middleware, 1, settle)
  app.plan = nil
  return outermost(dispatch.new(app, show))
end

--- The function that answers requests where no app has loaded.
---@return fun(slot: integer, address: integer)
function dev.stand_in()
  return outermost(http.handler(answer))
end

return dev
