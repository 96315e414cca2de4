--- What several specs need.

local ffi = require "ffi"
local log = require "lunapark.log"
local lp = require "lunapark"

ffi.cdef [[
int dup(int fd);
int dup2(int from, int to);
int close(int fd);
int creat(const char *path, unsigned mode);
int symlink(const char *target, const char *path);
int64_t readlink(const char *path, char *buf, size_t size);
]]

local helper = {}

-- Seconds for which a spec waits for what must come. Only a spec that fails waits so long.
helper.PATIENCE = 60

--- Waits until `condition()` is true and returns what it returned; raises after `patience` seconds.
---@param condition fun(): any
---@param what? string|fun(): string  what is waited for
---@param patience? number  PATIENCE without it
function helper.eventually(condition, what, patience)
  local give_up = lp.now() + (patience or helper.PATIENCE)
  while true do
    local value = condition()
    if value then return value end
    if lp.now() > give_up then
      if type(what) == "function" then what = what() end
      error((what or "it") .. " did not happen in time", 2)
    end
    lp.sleep(0.002)
  end
end

--- Whether fn() takes less than `limit` seconds at least once of a few times: for what takes longer each time if it
--- is wrong, while on a busy machine anything may, now and then. All that fn opens it closes.
---@param limit number
---@param fn fun()
function helper.quickly(limit, fn)
  for _ = 1, 10 do
    local start = lp.now()
    fn()
    if lp.now() - start < limit then return true end
  end
  return false
end

--- How often a plain text is in another one.
function helper.count(text, plain)
  local n, at = 0, 1
  while true do
    local _, stop = text:find(plain, at, true)
    if not stop then return n end
    n, at = n + 1, stop + 1
  end
end

--- Runs fn and returns what the process wrote to stderr meanwhile: the log. With `plain` it waits, after fn, until that
--- text is there n times (1 without it).
---@param fn fun()
---@param plain? string
---@param n? integer
function helper.stderr_of(fn, plain, n)
  local path = os.tmpname()
  local saved, file = ffi.C.dup(2), ffi.C.creat(path, 384)
  assert(saved >= 0 and file >= 0)
  io.stderr:flush()
  assert(log.flush(helper.PATIENCE))
  ffi.C.dup2(file, 2)
  local ok, err = pcall(function()
    fn()
    if not plain then return end
    helper.eventually(function()
      return log.flush(helper.PATIENCE) and helper.count(helper.text_of(path), plain) >= (n or 1)
    end, function() return ("%q in the log: %s"):format(plain, helper.text_of(path)) end)
  end)
  io.stderr:flush()
  local flushed = log.flush(helper.PATIENCE)
  ffi.C.dup2(saved, 2)
  ffi.C.close(saved)
  ffi.C.close(file)
  local text = helper.text_of(path)
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

--- Makes a symbolic link.
function helper.link(target, path)
  assert(ffi.C.symlink(target, path) == 0)
end

--- Whether there is a symbolic link of that name.
function helper.is_link(path)
  return ffi.C.readlink(path, ffi.new "char[1]", 1) >= 0
end

--- How many descriptors of this process are of that file.
function helper.count_open(path)
  local n, buf = 0, ffi.new "char[4096]"
  for fd = 0, 4095 do
    local size = ffi.C.readlink("/proc/self/fd/" .. fd, buf, 4096)
    if size > 0 and ffi.string(buf, size) == path then n = n + 1 end
  end
  return n
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
