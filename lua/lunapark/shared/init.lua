--- What all VMs of the process share: `lunapark.shared`. Dicts are here, channels in chan.lua.
--
--   local hits = shared.dict "hits"
--   local n = hits:incr(req.remote_addr, 1, 0, 60)    -- from 0, forgotten after a minute
--   local jobs = shared.chan("jobs", 100)
--
-- Keys of a dict are strings. Values are booleans, numbers, strings, or tables of these; nil is no value. Values are
-- copied in and out: a table that `get` returned is the caller's own. Each call is atomic for all VMs and does not
-- wait. A dict lives as long as the process, also when the VM that made it has ended. Its memory grows and shrinks with
-- its entries; an empty dict costs 5 kB.
--
-- The entries of a dict, with their keys, keep to a budget of bytes (16 MiB, or opts.max_bytes): when the dict is full,
-- the entries that were used longest ago go. So a dict is a cache: it may forget any entry. With `evict = false` it
-- forgets none: what finds no room is answered `nil, "full"`.
--
--   local visits = assert(shared.dict("visits", { file = "data/visits" }))      -- opts.evict is false then
--
-- A dict with a file outlives the process: each change is appended to the file. `sync` says when the disk is told to
-- keep what was written: "second" (each second, the default), "always" (a change is answered when the disk has it; many
-- changes share a sync), "no". A process that is killed loses what it has not written yet: nothing with "always", else
-- the last 20 ms. One process has the file at a time; in an upgrade by SIGUSR2 the old and the new one take turns.
--
-- How it works: host/shared/dict.c, host/shared/dict_file.c.

local ffi = require "ffi"
require "lunapark.cdef"
local base = require "lunapark.core.base"
local job = require "lunapark.core.job"
local value_module = require "lunapark.shared.value"
local as_given = require("lunapark.core.show").given

local C = ffi.C
local ffi_string = ffi.string
local NUMBER, STRING, TABLE, NIL = C.HOST_NUMBER, C.HOST_STRING, C.HOST_TABLE, C.HOST_NIL
local SET, ADD, REPLACE, SWAP = C.HOST_SET, C.HOST_ADD, C.HOST_REPLACE, C.HOST_SWAP
local EAGAIN, EBUSY = -11, -16
local SYNC = { no = C.HOST_SYNC_NO, second = C.HOST_SYNC_SECOND, always = C.HOST_SYNC_ALWAYS }

local parts, value_of = value_module.parts, value_module.of
local scratch, SCRATCH = value_module.scratch, value_module.SCRATCH
local found = ffi.new "host_dict_value"
local number_out = ffi.new "double[1]"

local errors = {
  [-2] = "not found", [-12] = "no memory", [-17] = "exists", [-22] = "not a number", [-27] = "too big",
  [-28] = "full",
}

local no_options = {}

local shared = {
  chan = require "lunapark.shared.chan",
}

---@class lunapark.Dict
---@field private dict ffi.cdata*  host_dict
---@field private name string
local Dict = {}
local dict_mt = { __name = "lunapark.Dict", __index = Dict }

local function check_key(key, what)
  if type(key) ~= "string" then error(what .. ": key must be a string, got " .. type(key), 3) end
end

local function check_number(n, what, name)
  if type(n) ~= "number" or n ~= n then
    error(("%s: %s must be a number, got %s"):format(what, name, as_given(n)), 3)
  end
end

-- Seconds as C's nanoseconds; 0 and nil: never.
local function ttl_ns(ttl, what)
  if ttl == nil then return 0 end
  if type(ttl) ~= "number" or ttl ~= ttl or ttl < 0 then
    error(what .. ": ttl must be a number of seconds, 0 or more, got " .. as_given(ttl), 3)
  end
  return ttl * 1e9
end

local function failed(rc)
  return nil, errors[rc]
end

local function why_not(j, name)
  local rc = C.host_dict_settled(j)
  if rc == 0 then return true end
  if rc == EBUSY then return nil, name .. ": another process uses the file" end
  if rc == -74 then return nil, name .. ": the file is not one of a dict" end
  return nil, ("%s: %s"):format(name, ffi_string(C.host_strerror(rc)))
end

-- Waits until changes may be made, and those so far are written; sync: until the disk has those.
local function settle(self, sync)
  return job.run(C.host_dict_settle(self.dict, sync and 1 or 0), why_not, self.name)
end

-- The answer of a change that was made.
local function made(self, value)
  if C.host_dict_sync(self.dict) == SYNC.always then
    local ok, err = settle(self, true)
    if not ok then return nil, err end
  end
  return value
end

-- The value that C has found; the value's version is in `found`.
local function find(dict, key)
  local kind = C.host_dict_get(dict, key, #key, scratch, SCRATCH, found)
  if kind == NUMBER then return found.number end
  if kind == NIL then return nil end
  local data, room = scratch, SCRATCH
  while (kind == STRING or kind == TABLE) and found.len > room do
    room = found.len
    data = ffi.new("uint8_t[?]", room)
    kind = C.host_dict_get(dict, key, #key, data, room, found)
  end
  return value_of(kind, found.number, data, found.len)
end

--- The value of a key.
---@param key string
---@return boolean|number|string|table|nil value  nil: the key has none
function Dict:get(key)
  check_key(key, "get")
  return find(self.dict, key)
end

-- The end of set, add and replace, by a tail call: so errors are at the callers of these.
local function put(self, key, value, ttl, what, how)
  check_key(key, what)
  local ns = ttl_ns(ttl, what)
  local kind, number, data, len = parts(value, what)
  local rc = C.host_dict_put(self.dict, key, #key, kind, number, data, len, ns, how, 0)
  while rc == EBUSY do
    local ok, err = settle(self)
    if not ok then return nil, err end
    kind, number, data, len = parts(value, what)
    rc = C.host_dict_put(self.dict, key, #key, kind, number, data, len, ns, how, 0)
  end
  if rc < 0 then return failed(rc) end
  return made(self, true)
end

--- Sets the value of a key.
---@param key string
---@param value boolean|number|string|table|nil  nil deletes
---@param ttl? number  seconds until the value is forgotten; without it, or 0: never
---@return true|nil ok
---@return string? err  "too big": the value is larger than the whole budget; "full"; with a file: why it is not written
function Dict:set(key, value, ttl)
  return put(self, key, value, ttl, "set", SET)
end

--- Sets the value of a key that has none.
---@param key string
---@param value boolean|number|string|table
---@param ttl? number  seconds, as for set
---@return true|nil ok
---@return string? err  "exists", "too big"
function Dict:add(key, value, ttl)
  check_key(key, "add")
  if value == nil then error("add: value must not be nil", 2) end
  return put(self, key, value, ttl, "add", ADD)
end

--- Sets the value of a key that has one.
---@param key string
---@param value boolean|number|string|table|nil  nil deletes
---@param ttl? number  seconds, as for set
---@return true|nil ok
---@return string? err  "not found", "too big"
function Dict:replace(key, value, ttl)
  return put(self, key, value, ttl, "replace", REPLACE)
end

--- Adds to a number. The number's time to live stays.
---@param key string
---@param by number
---@param init? number  the number to begin with if the key has no value
---@param ttl? number   seconds, for a number that begins with init
---@return number|nil sum
---@return string? err  "not found" (without init), "not a number", "too big"
function Dict:incr(key, by, init, ttl)
  check_key(key, "incr")
  check_number(by, "incr", "by")
  if init ~= nil then check_number(init, "incr", "init") end
  local ns = ttl_ns(ttl, "incr")
  local rc = C.host_dict_incr(self.dict, key, #key, by, init and 1 or 0, init or 0, ns, number_out)
  while rc == EBUSY do
    local ok, err = settle(self)
    if not ok then return nil, err end
    rc = C.host_dict_incr(self.dict, key, #key, by, init and 1 or 0, init or 0, ns, number_out)
  end
  if rc < 0 then return failed(rc) end
  return made(self, number_out[0])
end

--- Forgets a key.
---@param key string
---@return boolean|nil  the key was there
---@return string? err   with a file: why it is not written
function Dict:delete(key)
  check_key(key, "delete")
  local rc = C.host_dict_delete(self.dict, key, #key)
  while rc == EBUSY do
    local ok, err = settle(self)
    if not ok then return nil, err end
    rc = C.host_dict_delete(self.dict, key, #key)
  end
  if rc < 0 then return failed(rc) end
  if rc == 0 then return false end
  return made(self, true)
end

--- Sets when a key is forgotten.
---@param key string
---@param ttl number|nil  seconds from now; nil or 0: never
---@return true|nil ok
---@return string? err  "not found"
function Dict:expire(key, ttl)
  check_key(key, "expire")
  local ns = ttl_ns(ttl, "expire")
  local rc = C.host_dict_expire(self.dict, key, #key, ns)
  while rc == EBUSY do
    local ok, err = settle(self)
    if not ok then return nil, err end
    rc = C.host_dict_expire(self.dict, key, #key, ns)
  end
  if rc < 0 then return failed(rc) end
  return made(self, true)
end

--- After how many seconds a key is forgotten.
---@param key string
---@return number|nil seconds  0: never
---@return string? err         "not found"
function Dict:ttl(key)
  check_key(key, "ttl")
  local rc = C.host_dict_ttl(self.dict, key, #key, number_out)
  if rc < 0 then return failed(rc) end
  return number_out[0] / 1e9
end

--- The keys, in no order. Keys that come or go meanwhile may be among them or not.
---@param max? integer  at most so many; without it all
---@return string[]
function Dict:keys(max)
  if max ~= nil then check_number(max, "keys", "max") end
  local list, n, most = {}, 0, max or math.huge
  local cursor = ffi.new "double[1]"
  local buf, room = ffi.new("char[?]", SCRATCH), SCRATCH
  local seen -- from the second piece on: a key may move behind the cursor when buckets come
  while cursor[0] >= 0 and n < most do
    if n > 0 and not seen then
      seen = {}
      for i = 1, n do seen[list[i]] = true end
    end
    local used = tonumber(C.host_dict_keys(self.dict, cursor, buf, room))
    if used < 0 then
      room = -used
      buf = ffi.new("char[?]", room)
    end
    local at = 0
    while at < used and n < most do
      local len = ffi.cast("uint32_t *", buf + at)[0]
      local key = ffi_string(buf + at + 4, len)
      if not seen or not seen[key] then
        n = n + 1
        list[n] = key
        if seen then seen[key] = true end
      end
      at = at + 4 + len
    end
  end
  return list
end

--- Sets the value of a key to a function of its value, atomically for all VMs: when the value has changed meanwhile, fn
--- is called again. The dict is not locked while fn runs, and fn may wait.
---@param key string
---@param fn fun(value: any): any, number?  gets nil if the key has no value; returns the value to set (nil deletes) and
---its time to live in seconds; without one the time to live stays
---@return any value    the value that was set
---@return string? err  "too big"
function Dict:update(key, fn)
  check_key(key, "update")
  if type(fn) ~= "function" then error("update: fn must be a function, got " .. type(fn), 2) end
  local dict = self.dict
  while true do
    local old = find(dict, key)
    local version = found.version
    local value, ttl = fn(old)
    local ns = ttl == nil and -1 or ttl_ns(ttl, "update")
    local kind, number, data, len = parts(value, "update")
    local rc = C.host_dict_put(dict, key, #key, kind, number, data, len, ns, SWAP, version)
    if rc == 0 then return made(self, value) end
    if rc == EBUSY then
      local ok, err = settle(self)
      if not ok then return nil, err end
    elseif rc ~= EAGAIN then
      return failed(rc)
    end
  end
end

--- Forgets all keys.
---@return true|nil ok
---@return string? err  with a file: why it is not written
function Dict:flush()
  if C.host_dict_sync(self.dict) < 0 then
    C.host_dict_flush(self.dict)
    return true
  end
  for _, key in ipairs(self:keys()) do
    while C.host_dict_delete(self.dict, key, #key) == EBUSY do
      local ok, err = settle(self)
      if not ok then return nil, err end
    end
  end
  return made(self, true)
end

--- Waits until the disk has all changes of the dict. Without a file it does nothing.
---@return true|nil ok
---@return string? err
function Dict:sync()
  if C.host_dict_sync(self.dict) < 0 then return true end
  return settle(self, true)
end

--- Figures of the dict: what it holds, and what it had to forget.
---@return { keys: number, bytes: number, max_bytes: number, evictions: number, expired: number }
function Dict:stats()
  local f = ffi.new "host_dict_figures"
  C.host_dict_read(self.dict, f)
  return {
    keys = f.keys, bytes = f.bytes, max_bytes = f.max_bytes, evictions = f.evictions, expired = f.expired,
  }
end

local options = { max_bytes = true, evict = true, file = true, sync = true }

local function check_options(opts)
  if type(opts) ~= "table" then error("dict: opts must be a table, got " .. type(opts), 3) end
  for name in pairs(opts) do
    if not options[name] then error("dict: unknown option " .. tostring(name), 3) end
  end
  local max, evict, file, sync = opts.max_bytes, opts.evict, opts.file, opts.sync
  if max ~= nil and (type(max) ~= "number" or not (max >= 1 and max <= 2 ^ 46)) then
    error("dict: opts.max_bytes must be a number of bytes, 1 or more, got " .. as_given(max), 3)
  end
  if evict ~= nil and type(evict) ~= "boolean" then
    error("dict: opts.evict must be a boolean, got " .. type(evict), 3)
  end
  if file ~= nil then
    base.check_text(file, "dict", "opts.file", 4)
    if evict then error("dict: a dict with a file forgets nothing: opts.evict must not be true", 3) end
  end
  if sync ~= nil and not (file and SYNC[sync]) then
    error('dict: opts.sync must be "always", "second" or "no", beside opts.file, got ' .. tostring(sync), 3)
  end
end

--- The dict of that name in all VMs. The first call makes it. A call with `file` waits until the file was read.
---@param name string
---@param opts? { max_bytes: integer?, evict: boolean?, file: string?, sync: string? }  max_bytes: its budget from now
---on, 16 MiB unless a call says otherwise; evict: false: never forgets an entry; file: where the dict is kept, by its
---first call; sync: "second", "always" or "no"
---@return lunapark.Dict|nil dict
---@return string? err  "no memory"; why the file cannot be used
function shared.dict(name, opts)
  if type(name) ~= "string" then error("dict: name must be a string, got " .. type(name), 2) end
  opts = opts or no_options
  if opts ~= no_options then check_options(opts) end
  local dict = C.host_dict_open(name, #name, opts.max_bytes or 0)
  if dict == nil then return nil, "no memory" end
  local self = setmetatable({ dict = dict, name = name }, dict_mt)
  if opts.evict ~= nil or opts.file then C.host_dict_set_evicts(dict, opts.evict and 1 or 0) end
  if not opts.file then return self end
  local rc = C.host_dict_keep(dict, opts.file, #opts.file, SYNC[opts.sync or "second"])
  if rc == -17 then return nil, ("dict %s has entries, another file or another sync already"):format(name) end
  if rc < 0 then return failed(rc) end
  local ok, err = settle(self)
  if not ok then return nil, err end
  return self
end

return shared
