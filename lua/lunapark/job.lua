--- Waiting for a job of the host (host/job.c): what exec and fs share.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local base = require "lunapark.base"

local C = ffi.C
local wait_job = core.wait_job

local job = {}

--- Runs a job, waits for its end, and returns fn(j, ...). May wait. When the wait is ended, the job goes on, and
--- nobody hears of it.
---@param j ffi.cdata*  host_job, or NULL
---@param fn fun(j: ffi.cdata*, ...): ...
---@param ... any
---@return any ...  nil, "timeout", "canceled" or "no memory"
function job.run(j, fn, ...)
  if j == nil then return nil, "no memory" end
  ffi.gc(j, C.host_job_free)
  repeat
    local err = wait_job(j)
    if err and C.host_job_done(j) == 0 then
      C.host_job_free(ffi.gc(j, nil))
      return base.heard(err)
    end
  until C.host_job_done(j) == 1
  local a, b = fn(j, ...)
  C.host_job_free(ffi.gc(j, nil))
  return a, b
end

return job
