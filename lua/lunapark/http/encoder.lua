--- Content codings of answers: compressors of host/sys/compress.c, and who waits for them.
--
-- Up to INLINE bytes are compressed at once, in a millisecond at most; more than that on another thread, while the VM
-- serves others. A VM keeps an idle compressor of each coding, since their memory is worth more than a small answer.

local ffi = require "ffi"
require "lunapark.cdef"

local C = ffi.C
local ffi_string = ffi.string

local INLINE = 65536
local KEEP = 2 ^ 18 -- bytes of output that an idle compressor holds at most

local encoder = {}

local formats = { gzip = C.HOST_GZIP, br = C.HOST_BROTLI, zstd = C.HOST_ZSTD }
local MORE, FLUSH, END = C.HOST_COMPRESS_MORE, C.HOST_COMPRESS_FLUSH, C.HOST_COMPRESS_END

-- Idle compressors by coding and level.
local idle = {}

---@class lunapark.Encoder
---@field private compressor ffi.cdata*|nil  nil: it is of no use any more
---@field private key string
---@field private lock lunapark.Mutex|nil
---@field private closed boolean|nil
---@field left integer|nil  how many bytes are still to be written, if that is known
local Encoder = {}
local encoder_mt = { __index = Encoder }

--- A compressor that begins.
---@param coding string  "gzip", "br", "zstd"
---@param level integer
---@return lunapark.Encoder|nil  nil: no memory
function encoder.new(coding, level)
  local key = coding .. level
  local compressor = idle[key]
  idle[key] = nil
  if not compressor then
    compressor = C.host_compressor_new(formats[coding], level)
    if compressor == nil then return nil end
    ffi.gc(compressor, C.host_compressor_free)
  end
  return setmetatable({ compressor = compressor, key = key }, encoder_mt)
end

local function drop(self)
  local compressor = self.compressor
  self.compressor = nil
  C.host_compressor_free(ffi.gc(compressor, nil))
end

-- Gives it to the next.
local function done(self)
  local compressor = self.compressor
  if idle[self.key] or compressor.cap > KEEP then
    drop(self)
  else
    idle[self.key], self.compressor = compressor, nil
  end
end

-- Calls the compressor on another thread. Nobody else finds it meanwhile.
local function call_elsewhere(self, bytes, op)
  local compressor = self.compressor
  self.compressor = nil
  local rc, err = require("lunapark").offload(C.host_compress, compressor, bytes, #bytes, op)
  if not rc then return nil, err end -- the call may go on: its end is the collector's
  if not self.closed then self.compressor = compressor end
  return rc
end

-- One call, of which the output is a string.
local function run(self, bytes, op)
  if not self.compressor then return nil, "closed" end
  local rc, err
  if #bytes <= INLINE then
    rc = C.host_compress(self.compressor, bytes, #bytes, op)
  else
    rc, err = call_elsewhere(self, bytes, op)
  end
  local compressor = self.compressor
  if not rc or not compressor then return nil, err or "closed" end
  if rc < 0 then
    drop(self)
    return nil, "not enough memory"
  end
  local out = ffi_string(compressor.out, compressor.n)
  if op == END then done(self) end
  return out
end

-- As run, one G after the other: from the first call on another thread on, Gs may meet.
local function in_turn(self, bytes, op)
  if not self.lock and #bytes > INLINE then self.lock = require("lunapark").mutex() end
  local lock = self.lock
  if not lock then return run(self, bytes, op) end
  return lock:with(run, self, bytes, op)
end

--- Compresses a piece, of which the output is held in memory. May wait, if it is long. What is put out belongs in front
--- of what later calls put out: send it before you wait.
---@param bytes string
---@return string|nil out  what is ready, often ""
---@return string? err     "not enough memory"; "timeout", "canceled"; "closed"
function Encoder:write(bytes)
  return in_turn(self, bytes, MORE)
end

--- All that was written and is not put out yet.
---@return string|nil out
---@return string? err  as `write`
function Encoder:flush()
  return in_turn(self, "", FLUSH)
end

--- The end of what was written, behind a last piece. Nothing can be written after it. May wait, if the piece is long.
---@param bytes? string
---@return string|nil out
---@return string? err  as `write`
function Encoder:finish(bytes)
  return in_turn(self, bytes or "", END)
end

--- Gives the memory back, also of what has not ended. Closing twice is harmless. Does not wait.
function Encoder:close()
  self.closed = true
  if self.compressor then drop(self) end
end

return encoder
