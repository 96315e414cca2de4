--- `http.access_log{}`: a line of the log for each request of an app.
--
--   app:use(http.access_log { skip = function(req) return req.path == "/healthz" end })
--
--   2024-05-06T07:08:09.123Z info GET /user/7 200 bytes=152 id=42 ip=192.0.2.7 ms=1.204
--
-- The line has what is known when the handler has ended, so bytes that the client takes later are missing; where it
-- stands among the middleware does not matter. What never reaches an app (malformed requests, a server that is full) is
-- in the log of --access-log alone, which costs less, too: host/http/access.c.

local base = require "lunapark.core.base"
local log = require "lunapark.log"
local near = require "lunapark.core.near"

local access_log = {
  -- By the functions of `new`, what App:use gives to on_done in their place.
  ---@type table<function, fun(req: lunapark.Request, res: lunapark.Response, info: lunapark.Done)>
  done = setmetatable({}, { __mode = "k" }),
}

---@class lunapark.AccessLogOptions
---@field level "debug"|"info"|"warn"|"error"|nil  "info" without it
---@field skip nil|fun(req: lunapark.Request, res: lunapark.Response, info: lunapark.Done): any  true: no line

local known = { level = true, skip = true }

--- What to give to app:use.
---@param opts? lunapark.AccessLogOptions
---@return fun(req: lunapark.Request, res: lunapark.Response, next: fun(): any): any
function access_log.new(opts)
  opts = opts or {}
  near.check_options(opts, known, "access_log", 3)
  local level, skip = opts.level or "info", opts.skip
  base.check_text(level, "access_log", "opts.level", 3)
  log.enabled(level) -- raises if it is none
  local function done(req, res, info)
    if not log.enabled(level) or skip and skip(req, res, info) then return end
    log[level](("%s %s %d"):format(req.method, req.target, info.status), {
      ip = req.ip, id = req.id, bytes = info.bytes, ms = info.seconds * 1e3,
    })
  end
  local function middleware(_, _, next) return next() end
  access_log.done[middleware] = done
  return middleware
end

return access_log
