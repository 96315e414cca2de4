--- HTTP apps: `local http = require "lunapark.http"; local app = http.app()`.
--
-- The way of a request: the host parses a head and calls the function that `handler` made (dispatch.lua), which asks
-- the app's plan for an entry (plan.lua, router.lua), calls it with a request and a response (request.lua,
-- response.lua, both with headers.lua), through the middleware around it (chain.lua), and sends what came back.

local answer = require "lunapark.http.answer"
local app = require "lunapark.http.app"
local base = require "lunapark.core.base"
local dispatch = require "lunapark.http.dispatch"
local html = require "lunapark.http.html"
local router = require "lunapark.http.router"

local SLASH = ("/"):byte()

---@class lunapark.http
local http = {}

-- The folder of the file whose function runs at this level, as seen from the caller, or is given. It is absolute: so
-- app.dir .. "/x" names one file for `static`, which counts from app.dir, and for `fs`.
local function folder_of(what)
  local info = debug.getinfo(type(what) == "number" and what + 1 or what, "S")
  local dir = info and info.source:match "^@(.*)/[^/]*$" or "."
  local cwd = dir:byte() ~= SLASH and base.cwd()
  if not cwd then return dir end
  return dir == "." and cwd or (cwd == "/" and "" or cwd) .. "/" .. dir:gsub("^%./", "")
end

--- A new app. Its `dir` is the folder of the file that calls this.
---@param opts? table<string, any>  as for app:set
---@return lunapark.App
function http.app(opts)
  if opts ~= nil and type(opts) ~= "table" then error("app: opts must be a table, got " .. type(opts), 2) end
  local made = app.new(folder_of(2))
  return made:set(opts or {})
end

--- A body that is HTML; a mere string is text. See html.lua.
---@param text string
---@return lunapark.Html
http.html = html.new

--- Text as it stands in HTML, between tags and in quoted attributes.
---@param text any
---@return string
http.escape = html.escape

--- Ends the handler with an answer, from wherever it is called. See answer.lua.
---@param status integer
---@param body? string|lunapark.Html|table
---@param headers? table
http.abort = answer.abort

--- Middleware that compresses answers: see compress.lua.
---@param opts? lunapark.CompressOptions
---@return fun(req: lunapark.Request, res: lunapark.Response, next: fun(): any, any, any): any, any, any
function http.compress(opts)
  return require("lunapark.http.compress").new(opts)
end

--- Middleware that asks for a name and a password: see auth.lua.
---@param opts lunapark.BasicAuthOptions
---@return fun(req: lunapark.Request, res: lunapark.Response, next: fun(): any): any
function http.basic_auth(opts)
  return (require("lunapark.http.auth").basic(opts))
end

--- Middleware that asks for a token: see auth.lua.
---@param opts lunapark.BearerAuthOptions
---@return fun(req: lunapark.Request, res: lunapark.Response, next: fun(): any): any
function http.bearer_auth(opts)
  return (require("lunapark.http.auth").bearer(opts))
end

--- A line of the log for each request: see access_log.lua.
---@param opts? lunapark.AccessLogOptions
---@return fun(req: lunapark.Request, res: lunapark.Response, next: fun(): any): any
function http.access_log(opts)
  return (require("lunapark.http.access_log").new(opts))
end

--- Middleware that lets scripts of other sites read the answers: see cors.lua.
---@param opts? lunapark.CorsOptions
---@return fun(req: lunapark.Request, res: lunapark.Response, next: fun(): any): any
function http.cors(opts)
  return (require("lunapark.http.cors").new(opts))
end

--- Middleware that refuses what pages of other sites send: see csrf.lua.
---@param opts? lunapark.CsrfOptions
---@return fun(req: lunapark.Request, res: lunapark.Response, next: fun(): any): any
function http.csrf(opts)
  return (require("lunapark.http.csrf").new(opts))
end

--- Middleware that limits the requests of each client: see limit.lua.
---@param opts lunapark.LimitOptions
---@return fun(req: lunapark.Request, res: lunapark.Response, next: fun(): any): any
function http.limit(opts)
  return (require("lunapark.http.limit").new(opts))
end

--- Middleware that names each request: see request_id.lua.
---@param opts? lunapark.RequestIdOptions
---@return fun(req: lunapark.Request, res: lunapark.Response, next: fun(): any): any
function http.request_id(opts)
  return (require("lunapark.http.request_id").new(opts))
end

--- Middleware that makes browsers careful: see secure_headers.lua.
---@param opts? lunapark.SecureHeadersOptions
---@return fun(req: lunapark.Request, res: lunapark.Response, next: fun(): any): any
function http.secure_headers(opts)
  return (require("lunapark.http.secure_headers").new(opts))
end

--- Middleware that gives each browser a session: see session.lua.
---@param opts lunapark.SessionOptions
---@return fun(req: lunapark.Request, res: lunapark.Response, next: fun(): any): any
function http.session(opts)
  return (require("lunapark.http.session").new(opts))
end

--- Whether a value can answer requests: an app, or a function(req, res).
---@param value any
---@return boolean
function http.is_app(value)
  return type(value) == "function" or getmetatable(value) == app.mt
end

-- The source of dispatch for a bare function: one entry for every method and path, without names.
local function bare(fn)
  local entry = { run = fn, fn = fn, on_error = false, label = "function", dir = folder_of(fn) }
  local routes = router.new()
  routes:add("ANY", { "*" }, entry)
  entry.names = nil
  return { plan = { router = routes, outermost = {}, miss = function() end } } -- nothing misses it but what is no path
end

--- The function that a server calls for each request, for lunapark.core's new_handler and set_handler.
---@param value lunapark.App|fun(req: lunapark.Request, res: lunapark.Response): any, any, any
---@param show? function  see dispatch.new
---@return fun(slot: integer, address: integer)
function http.handler(value, show)
  if not http.is_app(value) then error("handler: app must be an app or a function, got " .. type(value), 2) end
  return dispatch.new(type(value) == "function" and bare(value) or value, show)
end

return http
