--- Errors of handlers in the log: as text a line that names the request and its route; as JSON with fields for tools.
--
--   2024-05-06T07:08:09.123Z error GET /user/7 (GET /user/:id): app.lua:12: no such user
--   	stack traceback: ...
--   {...,"level":"error","msg":"GET /user/7 (GET /user/:id): app.lua:12: no such user","method":"GET","path":"/user/7",
--    "route":"GET /user/:id","id":"42","error":"app.lua:12: no such user","traceback":"stack traceback: ..."}

local ffi = require "ffi"
require "lunapark.cdef"
local log = require "lunapark.log"

local C = ffi.C
local names = { [0] = "debug", "info", "warn", "error" }

local report = {}

local MARK = "\nstack traceback:\n"

--- Logs what happened to a request. Does not wait.
---@param level integer  of C.host_log
---@param req lunapark.Request  while it lasts
---@param label string   of its route
---@param note string    what stands before the error: "on_error failed: ", ""
---@param text string    the error, perhaps with a traceback
function report.write(level, req, label, note, text)
  if C.host_log_enabled(level) == 0 then return end
  local about = ("%s %s (%s): %s"):format(req.method, req.path, label, note)
  if C.host_log_is_json() == 0 then
    local line = about .. text
    C.host_log(level, line, #line)
    return
  end
  local at = text:find(MARK, 1, true)
  local err = at and text:sub(1, at - 1) or text
  log[names[level]](about .. (err:match "^[^\n]*"), {
    method = req.method, path = req.path, route = label, id = tostring(req.id), error = err,
    traceback = at and text:sub(at + 1) or nil,
  })
end

return report
