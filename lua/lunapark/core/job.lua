--- Waiting for a job of the host (host/vm/job.c): for exec, fs and others.

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local base = require "lunapark.core.base"

local C = ffi.C
local wait_job = core.wait_job

local job = {}

--- Runs a job, waits for its end, and returns fn(j, ...). When the wait is ended early, the job goes on and its result
--- is dropped.
---@param j ffi.cdata*  host_job, or NULL
---@param fn fun(j: ffi.cdata*, ...): ...
---@param ... any
---@return any ...  nil, "timeout", "canceled" or "no memory"
function job.run(j, fn, ...)
  if j == nil then return nil, "no memory" end
  ffi.gc(j, C.host_job_free)
  local done
  repeat
    local err = wait_job(j)
    done = C.host_job_done(j)
    if err and done == 0 then
      C.host_job_free(ffi.gc(j, nil))
      return base.heard(err)
    end
  until done ~= 0
  local a, b = nil, "no memory"
  if done == 1 then
    a, b = fn(j, ...)
  end
  C.host_job_free(ffi.gc(j, nil))
  return a, b
end

return job
