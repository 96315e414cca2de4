--- What several specs need.

local ffi = require "ffi"
local log = require "lunapark.log"
local lp = require "lunapark"

ffi.cdef [[
int dup(int fd);
int dup2(int from, int to);
int close(int fd);
int creat(const char *path, unsigned mode);
]]

local helper = {}

--- Runs fn and returns what the process wrote to stderr meanwhile: the log.
function helper.stderr_of(fn)
  local path = os.tmpname()
  local saved, file = ffi.C.dup(2), ffi.C.creat(path, 384)
  assert(saved >= 0 and file >= 0)
  io.stderr:flush()
  assert(log.flush(5))
  ffi.C.dup2(file, 2)
  local ok, err = pcall(fn)
  io.stderr:flush()
  local flushed = log.flush(5)
  ffi.C.dup2(saved, 2)
  ffi.C.close(saved)
  ffi.C.close(file)
  local handle = assert(io.open(path))
  local text = handle:read "*a"
  handle:close()
  os.remove(path)
  if not ok then error(err, 0) end
  assert(flushed, "the log was not written in time")
  return text
end

--- What is in a file; raises if it is not there.
function helper.text_of(path)
  local f = assert(io.open(path))
  local text = f:read "*a"
  f:close()
  return text
end

--- Waits until `condition()` is true, at most five seconds.
function helper.eventually(condition)
  local give_up = lp.now() + 5
  while not condition() do
    if lp.now() > give_up then error("it did not happen in 5 seconds", 2) end
    lp.sleep(0.001)
  end
end

--- Calls fn(i) for 1 .. n in as many Gs, and returns when all have ended; raises the first error.
function helper.all(n, fn)
  local gs = {}
  for i = 1, n do
    gs[i] = lp.go(function()
      fn(i)
      return true
    end)
  end
  for i = 1, n do
    local ok, err = gs[i]:join()
    if not ok then error(err, 0) end
  end
end

--- The message of the error that fn(...) raises.
function helper.raised(fn, ...)
  local ok, err = pcall(fn, ...)
  if ok then error("nothing was raised", 2) end
  return tostring(err)
end

return helper
