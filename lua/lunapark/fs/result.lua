--- Results of jobs on files (host/sys/fs.c), in words, and the option that all who open one know.

local ffi = require "ffi"
require "lunapark.cdef"
local base = require "lunapark.core.base"
local common = require "lunapark.net.sock"

local C = ffi.C
local message = common.message
local EXDEV = -18

local result = {}

-- The failure to open a FIFO to write that nobody reads yet.
result.AGAIN = "again"

--- The folder of opts.below, out of which a path may not lead.
---@param opts any
---@param what string  the function that got opts: for errors, which blame its caller
---@param others? table<string, boolean>  options that it knows besides
---@return string|nil
function result.root_of(opts, what, others)
  if opts == nil then return nil end
  if type(opts) ~= "table" then error(what .. ": opts must be a table, got " .. type(opts), 3) end
  for name in pairs(opts) do
    local known = name == "below" or others and others[name]
    if not known then error(what .. ": unknown option " .. tostring(name), 3) end
  end
  if opts.below ~= nil then base.check_text(opts.below, what, "opts.below", 4) end
  return opts.below
end

--- A host_fs_result, or nil and why it is a failure, with the path.
---@param r ffi.cdata*
---@param path string
---@return ffi.cdata*|nil
---@return string? err
function result.of(r, path)
  if r.n == common.EAGAIN then return nil, result.AGAIN end
  if r.n == EXDEV then return nil, "leads out of its folder: " .. path end
  if r.n < 0 then
    local text = message(tonumber(r.n))
    if text == "closed" then return nil, text end
    return nil, text .. ": " .. path
  end
  return r
end

--- The answer of a job: its host_fs_result, or nil and why not, with the path.
---@param job ffi.cdata*
---@param path string
---@return ffi.cdata*|nil
---@return string? err
function result.outcome(job, path)
  local r, err = result.of(C.host_fs_result_of(job), path)
  return r, err
end

return result
