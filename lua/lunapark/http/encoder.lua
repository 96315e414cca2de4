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
local PIECE = 2 ^ 20 -- what a call on another thread is given at most: its output is in memory

local encoder = {}

local formats = { gzip = C.HOST_GZIP, br = C.HOST_BROTLI, zstd = C.HOST_ZSTD }
local MORE, FLUSH, END = C.HOST_COMPRESS_MORE, C.HOST_COMPRESS_FLUSH, C.HOST_COMPRESS_END

-- Idle compressors by coding and level.
local idle = {}

---@class lunapark.Encoder
---@field private compressor ffi.cdata*|nil  nil: it is of no use any more
---@field private key string
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
  return nil, "not enough memory"
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

-- One call, of which the output is a string.
local function run(self, bytes, op)
  local compressor = self.compressor
  if not compressor then return nil, "closed" end
  local rc, err
  if #bytes <= INLINE then
    rc = C.host_compress(compressor, bytes, #bytes, op)
  else
    rc, err = require("lunapark").offload(C.host_compress, compressor, bytes, #bytes, op)
    if not rc then
      self.compressor = nil -- the call may go on: its end is the collector's
      return nil, err
    end
  end
  if rc < 0 then return drop(self) end
  return ffi_string(compressor.out, compressor.n)
end

--- Compresses a piece. May wait, if it is long.
---@param bytes string
---@return string|nil out  what is ready, often ""
---@return string? err     "not enough memory"; "timeout", "canceled"
function Encoder:write(bytes)
  if #bytes <= PIECE then return run(self, bytes, MORE) end
  local out = {}
  for at = 1, #bytes, PIECE do
    local piece, err = run(self, bytes:sub(at, at + PIECE - 1), MORE)
    if not piece then return nil, err end
    out[#out + 1] = piece
  end
  return table.concat(out)
end

--- All that was written and is not put out yet.
---@return string|nil out
---@return string? err  as `write`
function Encoder:flush()
  return run(self, "", FLUSH)
end

--- The end of what was written, behind a last piece. Nothing can be written after it. May wait, if the piece is long.
---@param bytes? string
---@return string|nil out
---@return string? err  as `write`
function Encoder:finish(bytes)
  local out, err = run(self, bytes or "", END)
  if out then done(self) end
  return out, err
end

return encoder
