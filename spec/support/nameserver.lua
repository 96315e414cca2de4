--- A name server for specs, on a port of 127.0.0.1, over UDP and, for replies that were cut, TCP.
--
--   local server = nameserver.new(keep, function(q, tcp) return { { "A", "192.0.2.1", ttl = 60 } } end)
--   dns.resolver { servers = { server.addr } }
--
-- The function gets the question (name in lower case, type) and returns a list of records; a number: that reply code;
-- a string: these bytes, whatever they are; nil: no reply. A reply of more than 512 bytes is cut over UDP.

local lp = require "lunapark"
local net = require "lunapark.net"

local nameserver = {}

local types = { A = 1, CNAME = 5, PTR = 12, MX = 15, TXT = 16, AAAA = 28, SRV = 33 }
local names = {}
for name, number in pairs(types) do names[number] = name end

local function u16(n) return string.char(math.floor(n / 256) % 256, n % 256) end

local function encode_name(name)
  return (name:gsub("([^.]+)%.?", function(label) return string.char(#label) .. label end)) .. "\0"
end

local data_of = {
  A = function(r) return (r[2]:gsub("(%d+)%.?", function(n) return string.char(n) end)) end,
  -- "::1" and full forms of 8 groups are enough here
  AAAA = function(r)
    if r[2] == "::1" then return ("\0"):rep(15) .. "\1" end
    return (r[2]:gsub("(%x+):?", function(group) return u16(tonumber(group, 16)) end))
  end,
  PTR = function(r) return encode_name(r[2]) end,
  MX = function(r) return u16(r[2]) .. encode_name(r[3]) end,
  SRV = function(r) return u16(r[2]) .. u16(r[3]) .. u16(r[4]) .. encode_name(r[5]) end,
  TXT = function(r)
    local strings = {}
    for i = 2, #r do strings[#strings + 1] = string.char(#r[i]) .. r[i] end
    return table.concat(strings)
  end,
}
data_of.CNAME = data_of.PTR

local function parse_question(m)
  local labels, at = {}, 13
  while m:byte(at) ~= 0 do
    labels[#labels + 1] = m:sub(at + 1, at + m:byte(at))
    at = at + m:byte(at) + 1
  end
  return { name = table.concat(labels, "."):lower(), type = names[m:byte(at + 1) * 256 + m:byte(at + 2)] or "?",
    id = m:sub(1, 2), bytes = m:sub(13, at + 4) }
end

--- A reply to q with these records, or a reply code.
function nameserver.reply(q, records)
  local code = 0
  if type(records) == "number" then code, records = records, {} end
  local list = {}
  for i, r in ipairs(records) do
    local data = data_of[r[1]](r)
    -- the question's name, by a pointer, unless it says another
    list[i] = (r.name and encode_name(r.name) or "\192\12") .. u16(types[r[1]]) .. "\0\1\0\0" .. u16(r.ttl or 0) ..
      u16(#data) .. data
  end
  return q.id .. "\129" .. string.char(128 + code) .. "\0\1" .. u16(#records) .. "\0\0\0\0" .. q.bytes ..
    table.concat(list)
end

local function cut(q) return q.id .. "\131\128\0\1\0\0\0\0\0\0" .. q.bytes end

local function answer_for(self, m, tcp)
  local q = parse_question(m)
  self.asked[#self.asked + 1] = q.name .. " " .. q.type
  local answer = self.fn(q, tcp)
  if type(answer) == "string" or answer == nil then return answer end
  local reply = nameserver.reply(q, answer)
  return #reply > 512 and not tcp and cut(q) or reply
end

local function serve_tcp(self, keep)
  while true do
    local c = self.listener:accept()
    if not c then return end
    keep(c)
    lp.go(function()
      while true do
        local head = c:read_exact(2)
        if not head then return c:close() end
        local m = c:read_exact(head:byte(1) * 256 + head:byte(2))
        local reply = m and answer_for(self, m, true)
        if not reply then return c:close() end
        c:write(u16(#reply) .. reply)
      end
    end)
  end
end

--- Starts one; `keep` closes its sockets.
---@param keep fun(thing: any): any
---@param fn fun(q: table, tcp: boolean?): table|integer|string|nil  may wait
function nameserver.new(keep, fn)
  local udp, listener
  repeat -- the same port for both
    udp = assert(net.udp "127.0.0.1:0")
    listener = net.listen(udp:local_addr())
    if not listener then udp:close() end
  until listener
  keep(udp)
  keep(listener)
  local self = { addr = udp:local_addr(), listener = listener, fn = fn, asked = {} }
  lp.go(serve_tcp, self, keep)
  lp.go(function()
    while true do
      local m, from = udp:recv()
      if not m then return end
      lp.go(function()
        local reply = answer_for(self, m)
        if reply then udp:send(reply, from) end
      end)
    end
  end)
  return self
end

return nameserver
