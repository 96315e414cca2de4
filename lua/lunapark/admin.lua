--- The admin API, on the listener of --admin, for whom one trusts:
--
--   curl http://127.0.0.1:9000/                  what runs: version, generation, lunapark.stats()
--   curl -X POST http://127.0.0.1:9000/reload    reloads the app: 200 and the generation, or 500 and what is wrong
--
-- A page in a browser could send requests there too, if its owner runs on the same machine: so what a browser sends for
-- another site's page is refused.

local ffi = require "ffi"
require "lunapark.cdef"
local http = require "lunapark.http"
local job = require "lunapark.job"
local lp = require "lunapark"

local C = ffi.C
local FAILED, SAME = 2, 1
local ID_SIZE = 64

local admin = {}

local function generation()
  local id = ffi.new("char[?]", ID_SIZE)
  return { number = C.host_generation(id, ID_SIZE), id = ffi.string(id) }
end

local result_out = ffi.new "int[1]"

local function reload_result(j)
  local what = ffi.string(C.host_reload_result(j, result_out))
  return tonumber(result_out[0]), what
end

local function reload()
  local result, what = job.run(C.host_reload(), reload_result)
  if not result then return 503, { error = what } end
  if result == FAILED then return 500, { error = what, generation = generation() } end
  return 200, { changed = result ~= SAME, generation = generation() }
end

local function only_ours(req, _, next)
  local site = req.headers["sec-fetch-site"]
  if req.headers.origin or site and site ~= "none" and site ~= "same-origin" then
    return 403, { error = "not for pages of other sites" }
  end
  return next()
end

--- The app.
---@return lunapark.App
function admin.app()
  local app = http.app()
  app:use(only_ours)
  app:get("/", function()
    return { version = ffi.string(C.host_version()), generation = generation(), stats = lp.stats() }
  end)
  app:post("/reload", reload)
  return app
end

return admin
