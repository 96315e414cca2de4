--- DNS replies, from bytes to records (RFC 1035).
--
-- Replies come from strangers. Hostile bytes can at most raise an error here, or give a wrong string: every read is
-- checked against the end, and a compressed name may only point to bytes before it, so it ends. It ends soon: the
-- pointers of a name are limited, or each name of a reply of 64 KB could follow a chain of 8,000 of them.

local bit = require "bit"
local ffi = require "ffi"
require "lunapark.cdef"

local C = ffi.C
local byte, sub = string.byte, string.sub

-- Pointers of a name: a name has 127 labels at most and needs no pointer between two pointers.
local MAX_POINTERS = 128

local message = {}

--- The types that can be asked for, by name.
message.types = { A = 1, NS = 2, CNAME = 5, PTR = 12, MX = 15, TXT = 16, AAAA = 28, SRV = 33 }

local function malformed()
  error("malformed", 0)
end

local function u8(m, at)
  return byte(m, at) or malformed()
end

local function u16(m, at)
  local a, b = byte(m, at, at + 1)
  if not b then malformed() end
  return a * 256 + b
end

local function u32(m, at)
  return u16(m, at) * 65536 + u16(m, at + 2)
end

-- Bytes that would look like something else in a name: dots within a label, and what is not printable.
local function escape(c)
  if c == "." or c == "\\" then return "\\" .. c end
  return ("\\%03d"):format(byte(c))
end

-- The name at `at`, and where what follows it begins.
local function name_at(m, at)
  local labels, n, after, length, pointers = {}, 0, nil, 0, 0
  while true do
    local len = u8(m, at)
    if len == 0 then return table.concat(labels, ".", 1, n), after or at + 1 end
    if len >= 192 then
      local to = bit.band(u16(m, at), 0x3fff) + 1
      pointers = pointers + 1
      if to >= at or pointers > MAX_POINTERS then malformed() end
      after = after or at + 2
      at = to
    else
      length = length + len + 1
      if len >= 64 or length > 254 or at + len > #m then malformed() end
      n = n + 1
      labels[n] = sub(m, at + 1, at + len):gsub("[^%w_%-!-,/:-@%[%]^`{-~]", escape)
      at = at + len + 1
    end
  end
end

local text = ffi.new("char[?]", 64)

local function address(m, at, stop)
  local n = C.host_ip_text(sub(m, at, stop - 1), stop - at, text, 64)
  if n < 0 then malformed() end
  return ffi.string(text, n)
end

local function strings(m, at, stop)
  local list = {}
  while at < stop do
    local len = u8(m, at)
    if at + len >= stop then malformed() end
    list[#list + 1] = sub(m, at + 1, at + len)
    at = at + len + 1
  end
  return list
end

-- For each type: reads the record's data, which stands at [at, stop), into r.
local readers = {}

function readers.A(r, m, at, stop) r.address = address(m, at, stop) end
readers.AAAA = readers.A

function readers.PTR(r, m, at) r.target = name_at(m, at) end
readers.NS, readers.CNAME = readers.PTR, readers.PTR

function readers.MX(r, m, at) r.preference, r.target = u16(m, at), (name_at(m, at + 2)) end

function readers.SRV(r, m, at)
  r.priority, r.weight, r.port, r.target = u16(m, at), u16(m, at + 2), u16(m, at + 4), (name_at(m, at + 6))
end

function readers.TXT(r, m, at, stop)
  r.strings = strings(m, at, stop)
  r.text = table.concat(r.strings)
end

local function parse(m, type_name)
  local records, ttl = {}, math.huge
  local at = 13
  for _ = 1, u16(m, 5) do
    local _, after = name_at(m, at)
    at = after + 4
  end
  for _ = 1, u16(m, 7) do
    local name, after = name_at(m, at)
    local kind, class, life, len = u16(m, after), u16(m, after + 2), u32(m, after + 4), u16(m, after + 8)
    at = after + 10 + len
    if at > #m + 1 then malformed() end
    if life >= 2 ^ 31 then life = 0 end -- RFC 2181
    ttl = math.min(ttl, life)
    if class == 1 and kind == message.types[type_name] then
      local r = { name = name, ttl = life }
      readers[type_name](r, m, after + 10, at)
      records[#records + 1] = r
    end
  end
  return records, ttl
end

-- Passes over a record: where the next one begins, its type, its time to live, where its data begins.
local function skip_record(m, at)
  local _, after = name_at(m, at)
  return after + 10 + u16(m, after + 8), u16(m, after), u32(m, after + 4), after + 10
end

local SOA = 6

local function none_for(m)
  local at = 13
  for _ = 1, u16(m, 5) do
    local _, after = name_at(m, at)
    at = after + 4
  end
  for _ = 1, u16(m, 7) do at = skip_record(m, at) end
  for _ = 1, u16(m, 9) do
    local next_at, kind, life, data = skip_record(m, at)
    if kind == SOA then
      local _, owner = name_at(m, data)
      local _, numbers = name_at(m, owner)
      return math.min(life, u32(m, numbers + 16)) -- RFC 2308, 5
    end
    at = next_at
  end
  return 0
end

--- The seconds for which a reply says that there is nothing of what was asked for; 0: it does not say.
---@param reply string
---@return number ttl
function message.none_for(reply)
  local ok, ttl = pcall(none_for, reply)
  return ok and ttl < 2 ^ 31 and ttl or 0
end

--- The records of one type in a reply.
---@param reply string
---@param type_name string  one of message.types
---@return table[]|nil records  nil: it is malformed
---@return number ttl  seconds that all of it may be kept
function message.parse(reply, type_name)
  local ok, records, ttl = pcall(parse, reply, type_name)
  if not ok then return nil, 0 end
  return records, ttl
end

return message
