--- The admin API, on the listener of --admin, for people who may reload the server:
--
--   curl http://127.0.0.1:9000/                  what runs: version, generation, lunapark.stats()
--   .../stats, .../vms                           lunapark.stats() of all VMs; each VM by itself
--   curl -X POST -H X-Lunapark:1 http://127.0.0.1:9000/reload
--                                                reloads the app: 200 and the generation, or 500 and what is wrong
--   .../generations, .../rollback?to=ID          what has served, what serves; an earlier one again: generations.lua
--   curl -X POST -H X-Lunapark:1 http://127.0.0.1:9000/procs?n=4
--                                                4 Gs run at once from now on; 0: as many as there are CPUs to use
--   .../profile?s=5, .../trace?s=5               where CPU time goes, what the scheduler does: recording.lua
--   curl -H "Authorization: Bearer TOKEN" ...    with --admin-token
--
-- A unix socket is its owner's, by its file's mode. Over TCP with --admin-token a request needs the token. Without a
-- token the listener is on a loopback address (commands.c, check_reach), and everybody on this machine may ask. Pages
-- of other sites may not, though browsers on this machine would send their requests: a request is refused if it says
-- that it comes from such a page, or if it asks for another name than this machine's (rebinding.lua); and a request
-- that changes something needs a header that no form can send, and that no script can send to another site unless the
-- server allows it first (CORS).

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local http = require "lunapark.http"
local generations = require "lunapark.command.generations"
local lp = require "lunapark"
local recording = require "lunapark.command.recording"
local rebinding = require "lunapark.command.rebinding"

local C = ffi.C
local message = require("lunapark.net.sock").message

local admin = {}

-- Figures of the process, without those of this VM alone: memory and Gs are those of all VMs.
local function stats()
  local t = lp.stats()
  t.vm, t.lua_gs = nil, 0
  t.memory.lua, t.memory.mapped, t.memory.held = 0, 0, 0
  for _, vm in ipairs(t.vms) do
    t.lua_gs = t.lua_gs + vm.gs
    for _, of in ipairs { "lua", "mapped", "held" } do t.memory[of] = t.memory[of] + vm.memory[of] end
  end
  return t
end

-- POST /procs?n=N: so many Ps from now on; 0: as many as CPUs may be used.
local function set_procs(req)
  local n = tonumber(req.query.n)
  if not n or n % 1 ~= 0 or n < 0 or n > 256 then return 400, { error = "n must be a whole number from 0 to 256" } end
  local procs = C.rt_set_procs(n)
  if procs < 0 then return 503, { error = message(procs), procs = lp.stats().procs } end
  return { procs = procs }
end

local reads = { GET = true, HEAD = true, OPTIONS = true }
local TOKEN, NO_TOKEN = 1, -1 -- of host_admin_token

-- The status, words and headers with which a client of a TCP connection is refused; nil: it is not refused.
local function refusal(req)
  local scheme, token = (req.headers.authorization or ""):match "^(%a+) +(.*)$"
  if not scheme or scheme:lower() ~= "bearer" then token = "" end
  local known = C.host_admin_token(token, #token)
  if known == TOKEN then return nil end
  if known ~= NO_TOKEN then
    return 401, "wants Authorization: Bearer and the token of --admin-token", { ["WWW-Authenticate"] = "Bearer" }
  end
  if not rebinding.is_ours(req.host) then return 421, "is asked by address or as localhost only" end
  if not reads[req.method] and req.headers["x-lunapark"] ~= "1" then
    return 403, "wants the header X-Lunapark: 1 with each " .. req.method
  end
end

local function only_ours(req, _, next)
  local site = req.headers["sec-fetch-site"]
  if req.headers.origin or site and site ~= "none" and site ~= "same-origin" then
    return 403, { error = "not for pages of other sites" }
  end
  return next()
end

local function only_known(req, _, next)
  local status, why, headers = refusal(req)
  if status then return status, { error = "the admin API " .. why }, headers end
  return next()
end

--- The app that answers the admin API.
---@return lunapark.App
function admin.app()
  local app = http.app()
  app:use(only_ours)
  if core.option_value("admin"):sub(1, 5) ~= "unix:" then app:use(only_known) end
  app:get("/", function()
    return { version = ffi.string(C.host_version()), generation = generations.now(), stats = stats() }
  end)
  app:get("/stats", stats)
  app:get("/vms", function() return lp.stats().vms end)
  app:post("/procs", set_procs)
  app:post("/reload", generations.reload)
  app:post("/rollback", generations.rollback)
  app:get("/generations", generations.list)
  app:post("/tag", generations.tag)
  app:delete("/tag", generations.untag)
  for path, handler in pairs { ["/profile"] = recording.profile, ["/trace"] = recording.trace } do
    app:get(path, handler)
    app:post(path, handler)
  end
  return app
end

return admin
