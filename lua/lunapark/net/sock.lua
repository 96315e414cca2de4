--- What the handles of lunapark.net share: words for failures, addresses, deadlines.
--
-- A handle is a table of its VM around a host_sock. Nothing carries a table from one VM to another, so no handle
-- is ever used by a VM that is not its own. The host's sockets belong to their finalizers from the moment they are
-- made; a finalizer that finds its socket open counts it (`lunapark.stats().forgotten`).

local ffi = require "ffi"
require "lunapark.cdef"
local core = require "lunapark.core"
local base = require "lunapark.core.base"
local as_given = require("lunapark.core.show").given

local C = ffi.C
local ffi_string = ffi.string
local EVIRTUAL, ETLS = C.HOST_EVIRTUAL, C.HOST_ETLS
-- Under `lunapark test` this function is told of each socket that is made: testing/leaks.lua.
local note = debug.getregistry()["lunapark.note"]

local sock = {}

sock.EAGAIN = -11
sock.READ, sock.WRITE, sock.BOTH = 1, 2, 3

local messages = {} -- by code, so that a failure makes no string twice

--- A negative answer of the host in words. Raises on the answer that there is no real I/O in virtual time.
---@param rc integer
---@param s? ffi.cdata*  host_sock: whose answer that is, if it may speak TLS
---@return string
local function message(rc, s)
  if rc == EVIRTUAL then core.real "a socket" end -- raises
  if rc == ETLS and s then return ffi_string(C.host_sock_tls_why(s)) end
  local text = messages[rc]
  if not text then
    -- "Connection refused" stands in the middle of sentences here.
    text = ffi_string(C.host_strerror(rc)):gsub("^%u%l", string.lower)
    messages[rc] = text
  end
  return text
end
sock.message = message

--- A negative answer of a call that would wait for s if s were open, in words.
---@param rc integer
---@param s ffi.cdata*  host_sock
---@return string
function sock.words(rc, s)
  local text = message(rc)
  return text == "closed" and core.failed(text, s) or text
end

--- Gives a new socket a finalizer, for the case that the program does not close it.
---@param s ffi.cdata*  host_sock
---@return ffi.cdata*
function sock.keep(s)
  ffi.gc(s, C.host_sock_forget)
  if note then note("socket", s) end
  return s
end

--- true, or nil and the words for a negative answer.
---@param rc integer
---@return true|nil ok
---@return string? err
function sock.result(rc)
  if rc < 0 then return nil, message(rc) end
  return true
end

local address = ffi.new("char[?]", 256)

--- An address of a socket.
---@param s ffi.cdata*  host_sock
---@param peer integer  0: its own, 1: the other side's
---@return string|nil addr
---@return string? err
function sock.address_of(s, peer)
  local n = C.host_sock_addr(s, peer, address, 256)
  if n < 0 then return nil, message(n) end
  return ffi_string(address, n)
end

--- Raises unless addr is a string that C sees whole. Called by a function that users call.
---@param addr any
---@param what string  the function's name
function sock.check_addr(addr, what)
  base.check_text(addr, what, "addr", 4)
end

--- Raises unless seconds is a number of seconds or nil.
---@param seconds any
---@param what string
---@param name string  the argument's name
function sock.check_seconds(seconds, what, name)
  if seconds ~= nil and (type(seconds) ~= "number" or seconds ~= seconds) then
    error(("%s: %s must be a number of seconds or nil, got %s"):format(what, name, as_given(seconds)), 3)
  end
end

--- Raises unless n is a whole number, `least` or more.
---@param n any
---@param what string
---@param name string
---@param least integer
function sock.check_count(n, what, name, least)
  -- 2^53: beyond it numbers have gaps.
  if type(n) ~= "number" or not (n >= least and n <= 9007199254740992) or n % 1 ~= 0 then
    error(("%s: %s must be a whole number, %d or more, got %s"):format(what, name, least, as_given(n)), 3)
  end
end

--- Sets a deadline, or clears it with nil. A deadline of 0 or less is over at once.
---@param s ffi.cdata*  host_sock
---@param mode integer  READ, WRITE, BOTH
---@param seconds number|nil
local function set_deadline(s, mode, seconds)
  local delay_ns = -1
  -- Beyond 9e9 seconds the nanoseconds leave 63 bits; that far away is never.
  if seconds and seconds < 9e9 then delay_ns = seconds > 0 and seconds * 1e9 or 0 end
  C.host_sock_set_deadline(s, mode, delay_ns)
end
sock.set_deadline = set_deadline

--- Gives a class the three functions that set deadlines of its field `sock`.
---@param class table
function sock.add_deadlines(class)
  for name, mode in pairs {
    set_deadline = sock.BOTH, set_read_deadline = sock.READ, set_write_deadline = sock.WRITE,
  } do
    class[name] = function(self, seconds)
      sock.check_seconds(seconds, name, "seconds")
      set_deadline(self.sock, mode, seconds)
    end
  end
end

return sock
