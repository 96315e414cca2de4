--- Serving datagrams: `net.serve("udp:HOST:PORT", fn[, opts])`.
--
--   local server = assert(net.serve("udp:127.0.0.1:7000", function(data, from, sock)
--     sock:send(data, from)
--   end))
--
-- One G receives; each datagram calls fn in a G of its own. At most `max` of these run at once: then datagrams wait in
-- the kernel, which drops what it has no room for, as UDP does. The server is one VM's. An app, which has many VMs,
-- serves datagrams in one of them, over reloads too:
--
--   lp.singleton("dns", function()
--     local server = assert(net.serve("udp:0.0.0.0:5300", answer))
--     lp.retired(math.huge)
--     server:stop()
--   end)

local base = require "lunapark.core.base"
local core = require "lunapark.core"
local ffi = require "ffi"
local lp = require "lunapark"
local show = require "lunapark.core.show"
local udp = require "lunapark.net.udp"

local C = ffi.C

local MAX = 1024
local ERROR = 3

local serve_udp = {}

---@class lunapark.UdpServer
---@field private sock lunapark.Udp
---@field private gs table<lunapark.G, true>  that answer
---@field private n integer  how many
---@field private receiver lunapark.G?
---@field private waits boolean  the receiver waits until one of them ends
local UdpServer = {}
UdpServer.__index = UdpServer
UdpServer.__name = "lunapark.UdpServer"

local function trace(err)
  return { err = err, text = debug.traceback(show.value(err), 2) }
end

local function answer(self, fn, opts, data, from)
  C.host_datagram_begun()
  local ok, failure = xpcall(fn, trace, data, from, self.sock)
  C.host_datagram_ended(ok and 0 or 1)
  if not ok and opts and opts.on_error then
    ok, failure = xpcall(opts.on_error, trace, self.sock, failure.err, failure.text)
  end
  if not ok then
    local text = ("udp %s, client %s: %s"):format(self.addr_, from, failure.text)
    C.host_log(ERROR, text, #text)
  end
  self.gs[lp.self()] = nil
  self.n = self.n - 1
  if self.waits then
    self.waits = false
    lp.ready(self.receiver)
  end
end

-- Ends when the socket is closed, or this VM ends.
local function receive(self, fn, opts)
  local max = opts and opts.max or MAX
  while true do
    while self.n >= max do
      self.waits = true
      local _, err = lp.park "udp: as many handlers run as may"
      if err then return end
    end
    local data, from = self.sock:recv()
    if data then
      self.n = self.n + 1
      self.gs[lp.detach(answer, self, fn, opts, data, from)] = true
    elseif from == "closed" or from == "canceled" then
      return
    end -- else the error of an earlier answer that nobody received
  end
end

--- The address it listens on, with the port that was chosen when port 0 was asked for.
---@return string
function UdpServer:addr() return self.addr_ end

--- Waits until somebody has stopped the server and its last handler has ended.
---@param s? number  seconds at most
---@return true|nil ok
---@return string? err  "timeout", "canceled"
function UdpServer:wait(s)
  base.check_seconds(s, "wait", true)
  local at = s and base.deadline_in(s)
  while next(self.gs) or not self.stopped do
    local left = at and (at - base.now_ns()) / 1e9 or 0.016
    if left <= 0 then return nil, "timeout" end
    local ok, err = lp.sleep(math.min(0.016, left))
    if not ok then return nil, err end
  end
  return true
end

--- Stops the server: receives no more, waits until its handlers have ended, and closes the socket, by which they
--- answer. Handlers that have not ended after `s` seconds are canceled. Stopping twice is harmless. May wait.
---@param s? number  seconds; --drain-timeout without it; 0: at once
---@return true|nil ok
---@return string? err  "timeout": some were canceled; "canceled"
function UdpServer:stop(s)
  base.check_seconds(s, "stop", true)
  self.stopped = true
  self.receiver:cancel()
  local ok, err = self:wait(s or core.option_value "drain-timeout")
  if err ~= "canceled" then self.sock:close() end
  if err ~= "timeout" then return ok, err end
  for g in pairs(self.gs) do g:cancel() end
  return nil, err
end

--- The number of datagrams that are being answered.
---@return integer
function UdpServer:count() return self.n end

--- See `net.serve`.
---@param addr string  without "udp:"
---@param fn fun(data: string, from: string, sock: lunapark.Udp)
---@param opts? lunapark.ServeOptions  max: 1024 without it; idle and backlog are of no use here; on_error gets the
---socket
---@return lunapark.UdpServer|nil server
---@return string? err
function serve_udp.new(addr, fn, opts)
  local sock, err = udp.new(addr)
  if not sock then return nil, err end
  local self = setmetatable({ sock = sock, gs = {}, n = 0, waits = false, stopped = false }, UdpServer)
  self.addr_ = sock:local_addr()
  self.receiver = lp.detach(receive, self, fn, opts)
  return self
end

return serve_udp
