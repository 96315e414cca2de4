--- What the admin API records for some seconds (host/command/recording.c):
--
--   curl -X POST -H X-Lunapark:1 'http://127.0.0.1:9000/profile?s=5'     where CPU time goes: a line per stack, which
--                                                                      speedscope and flamegraph.pl take
--   http://127.0.0.1:9000/profile?s=5 in a browser, or &format=svg     a flame graph of it
--   curl -X POST -H X-Lunapark:1 'http://127.0.0.1:9000/trace?s=2'       what the scheduler does, for ui.perfetto.dev

local ffi = require "ffi"
require "lunapark.cdef"
local flamegraph = require "lunapark.command.flamegraph"
local job = require "lunapark.core.job"

local C = ffi.C
local EBUSY = -16
local DEFAULT_S, MAX_S = 5, 60
local PIECE = 65536
local JSON, SVG, TEXT = "application/json", "image/svg+xml", "text/plain; charset=utf-8"

local recording = {}

local size_out, samples_out, dropped_out = ffi.new "double[1]", ffi.new "double[1]", ffi.new "double[1]"

-- How long to record; nil and why not.
local function seconds(req)
  local s = tonumber(req.query.s or DEFAULT_S)
  if s and s > 0 and s <= MAX_S then return s end
  return nil, ("s: must be a number of seconds, more than 0, %g at most"):format(MAX_S)
end

-- The bytes of a recording, piece after piece, to `take`, which may say that it wants no more: nil and why.
local function pieces(j, take)
  local buffer, at = ffi.new("uint8_t[?]", PIECE), 0
  while true do
    local n = C.host_record_read(j, at, buffer, PIECE)
    if n < 0 then return nil, ffi.string(C.host_strerror(n)) end
    if n == 0 then return true end
    local ok, err = take(ffi.string(buffer, n))
    if not ok then return nil, err end
    at = at + n
  end
end

-- Records, then calls fn(j): true, or nil, the status and what is wrong.
local function record(kind, what, req, fn)
  local s, wrong = seconds(req)
  if not s then return nil, 400, wrong end
  local status = 503
  local ok, err = job.run(C.host_record(kind, s), function(j)
    local code = C.host_record_result(j, size_out, samples_out, dropped_out)
    if code == 0 then return fn(j) end
    status = code == EBUSY and 409 or 500
    return nil, code == EBUSY and "another " .. what .. " is being taken" or ffi.string(C.host_strerror(code))
  end)
  return ok, status, err
end

local function wants_svg(req)
  local format = req.query.format
  if format then return format == "svg" end
  local accept = req.headers.accept or ""
  return accept:find("text/html", 1, true) ~= nil or accept:find(SVG, 1, true) ~= nil
end

--- Answers with a profile.
---@param req lunapark.Request
function recording.profile(req)
  local format = req.query.format
  if format and format ~= "svg" and format ~= "folded" then return 400, { error = "format: must be folded or svg" } end
  local list = {}
  local ok, status, err = record(C.HOST_RECORD_PROFILE, "profile", req, function(j)
    return pieces(j, function(piece)
      list[#list + 1] = piece
      return true
    end)
  end)
  if not ok then return status, { error = err } end
  local text, dropped = table.concat(list), tonumber(dropped_out[0])
  local headers = { ["X-Samples"] = tostring(tonumber(samples_out[0])), ["X-Dropped"] = tostring(dropped) }
  headers["Content-Type"] = wants_svg(req) and SVG or TEXT
  return 200, wants_svg(req) and flamegraph.svg(text) or text, headers
end

--- Answers with a trace of the scheduler.
---@param req lunapark.Request
---@param res lunapark.Response
function recording.trace(req, res)
  local begun = false
  local ok, status, err = record(C.HOST_RECORD_TRACE, "trace", req, function(j)
    res.headers["Content-Type"] = JSON
    res.headers["X-Dropped"] = tostring(tonumber(dropped_out[0]))
    begun = true
    return pieces(j, function(piece) return res:write(piece) end)
  end)
  if not ok and not begun then return status, { error = err } end
end

return recording
