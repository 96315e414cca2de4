--- Blocking C functions: `lp.offload`.
--
--   ffi.cdef "int getaddrinfo(const char *node, const char *service, const void *hints, struct addrinfo **res);"
--   local res = ffi.new "struct addrinfo *[1]"
--   local rc = lp.offload(ffi.C.getaddrinfo, "example.org", "80", nil, res)
--
-- Called directly, a blocking function would hold up every G of its VM. Here another thread calls it
-- (host/vm/offload.c) while the G waits. The thread of the VM converts the arguments before the call, as a direct call
-- converts them, and the result after it. ffi.errno() is what the function left.
--
-- The memory of the arguments must live as long as the call, which may be longer than the wait: a deadline or a
-- cancellation ends the wait, but nothing ends a C function. A G of its own then keeps the arguments until the call is
-- over, and the result is dropped. Strings and cdata that are arguments are kept; memory that these point to is the
-- caller's to keep.
--
-- Limits: at most 6 whole numbers and pointers, and 8 floating-point numbers; no structs by value, no variable
-- arguments, no long double, and no Lua functions as callbacks, since the other thread must not run Lua. The function
-- itself must not touch what belongs to the VM: lunapark's own functions are refused. It has a stack of 1 MiB. Each
-- call that runs has a thread of its own: lp.semaphore limits how many.

local ffi = require "ffi"
require "lunapark.cdef"
local bit = require "bit"
local core = require "lunapark.core"
local lp = require "lunapark"
local base = require "lunapark.core.base"

local C = ffi.C
local band, rshift = bit.band, bit.rshift
local wait_call = core.wait_call

local offload = {}

-- ---- what LuaJIT knows of a type (lj_ctype.h) ----------------------------------------------------------------

local NUM, PTR, VOID, ENUM, FUNC, ATTRIB, FIELD = 0, 2, 4, 5, 6, 8, 9
local BOOL, FP, UNSIGNED, VARARG = 0x08000000, 0x04000000, 0x00800000, 0x00800000

local function kind_of(info) return rshift(info, 28) end
local function child_of(info) return band(info, 0xffff) end

-- The type of that number, without attributes: its info, size, number.
local function type_of(id)
  local t = ffi.typeinfo(id)
  while kind_of(t.info) == ATTRIB do
    id = child_of(t.info)
    t = ffi.typeinfo(id)
  end
  return t, id
end

-- typeof may give the same object for the same words: compiled, and as busted replaces it.
local function ctype_of(id)
  local ct = ffi.typeof(("int /* %d */"):format(id))
  core.set_ctype(ct, id)
  return ct
end

local INTS = { "int8_t", "int16_t", nil, "int32_t", nil, nil, nil, "int64_t" }
local UINTS = { "uint8_t", "uint16_t", nil, "uint32_t", nil, nil, nil, "uint64_t" }

-- How a value of that type is passed: "int", "pointer", "float", "double", "void", or nil: not at all; and the C type
-- for it.
local function class_of(id)
  local t, plain = type_of(id)
  local kind = kind_of(t.info)
  if kind == VOID then return "void" end
  if kind == PTR then return "pointer", ctype_of(plain) end
  if kind == ENUM then return "int", ffi.typeof(UINTS[t.size]), ctype_of(plain) end
  if kind ~= NUM then return nil end
  if band(t.info, FP) ~= 0 then
    if t.size == 8 then return "double" end
    if t.size == 4 then return "float" end
    return nil
  end
  if band(t.info, BOOL) ~= 0 then return "bool", ffi.typeof "bool" end
  local names = band(t.info, UNSIGNED) ~= 0 and UINTS or INTS
  return names[t.size] and "int", names[t.size] and ffi.typeof(names[t.size])
end

---@class lunapark.Signature
---@field private result string
---@field private result_type ffi.ctype*?
---@field private params table[]
---@type table<integer, lunapark.Signature|string>  by type number; a string: why it cannot be called
local signatures = {}

local function place_params(sib)
  local params, n_ints, n_floats = {}, 0, 0
  while sib do
    local field = ffi.typeinfo(sib)
    if kind_of(field.info) == FIELD then
      local class, ct, convert = class_of(child_of(field.info))
      local name = ("argument %d%s"):format(#params + 1, field.name and " (" .. field.name .. ")" or "")
      if not class then
        return nil, ("%s: %s cannot be passed"):format(name, tostring(ctype_of(child_of(field.info))))
      end
      local is_float = class == "float" or class == "double"
      params[#params + 1] = {
        class = class, type = ct, convert = convert or ct, name = name, at = is_float and n_floats or n_ints,
      }
      if is_float then n_floats = n_floats + 1 else n_ints = n_ints + 1 end
    end
    sib = field.sib
  end
  if n_ints > 6 then return nil, "more than 6 whole numbers and pointers cannot be passed" end
  if n_floats > 8 then return nil, "more than 8 floating-point numbers cannot be passed" end
  return params
end

local function read_signature(func)
  if band(func.info, VARARG) ~= 0 then return "fn has variable arguments" end
  local result, ct = class_of(child_of(func.info))
  if not result then return ("fn returns %s"):format(tostring(ctype_of(child_of(func.info)))) end
  local params, err = place_params(func.sib)
  if not params then return err end
  return { result = result, result_type = ct, params = params }
end

-- Functions of lunapark's own, by address: their names. They belong to the thread that runs the VM, but for those whose
-- headers say "any thread", which our modules call elsewhere.
local own
local anywhere = { host_compress = true, host_scrypt = true }

local function own_name(address)
  if not own then
    own = {}
    local n = ffi.new "int32_t[1]"
    local table_ = C.host_abi_table(n)
    for i = 0, n[0] - 1 do
      local entry = table_[i]
      if entry.address ~= nil then own[tonumber(ffi.cast("uintptr_t", entry.address))] = ffi.string(entry.name) end
    end
  end
  return own[address]
end

-- fn's signature, or nil and what is wrong with fn.
local function signature_of(fn)
  if type(fn) ~= "cdata" then return nil, "fn must be a C function, got " .. type(fn) end
  local id = tonumber(ffi.typeof(fn))
  local s = signatures[id]
  if not s then
    local t = type_of(id)
    if kind_of(t.info) == PTR then t = type_of(child_of(t.info)) end
    if kind_of(t.info) ~= FUNC then return nil, "fn must be a C function, got " .. tostring(ffi.typeof(fn)) end
    s = read_signature(t)
    signatures[id] = s
  end
  if type(s) == "string" then return nil, s end
  local address = tonumber(ffi.cast("uintptr_t", fn))
  if address == 0 then return nil, "fn is NULL" end
  local name = own_name(address)
  if name and not anywhere[name] then
    return nil, name .. " is lunapark's own, and only the thread that runs this VM may call it"
  end
  return s
end

-- ---- the call ------------------------------------------------------------------------------------------------

local float_box = ffi.typeof "union { double d; float f; }"

local function convert(param, v)
  if param.class == "float" or param.class == "double" then
    return ffi.new("double", v)
  elseif param.class == "pointer" and (type(v) == "function" or type(v) == "table") then
    error(("a Lua %s cannot be passed to another thread"):format(type(v)), 0)
  end
  return param.convert(v)
end

-- Puts one argument into the call; what its memory hangs on.
local function put(name, call, param, v)
  local ok, c = pcall(convert, param, v)
  if not ok then error(("%s: %s: %s"):format(name, param.name, tostring(c)), 3) end
  if param.class == "double" then
    call.floats[param.at] = c
  elseif param.class == "float" then
    local box = float_box()
    box.f = tonumber(c)
    call.floats[param.at] = box.d
  elseif param.class == "pointer" then
    call.ints[param.at] = ffi.cast("intptr_t", c)
  else
    call.ints[param.at] = ffi.cast("int64_t", ffi.cast(param.type, c))
  end
  return c
end

local RESULT = { void = 0, int = 1, bool = 1, pointer = 1, double = 2, float = 3 }

local function result_of(call, s)
  local class = s.result
  ffi.errno(call.err)
  if class == "void" then return end
  if class == "double" then return call.d end
  if class == "float" then return call.f end
  if class == "bool" then return ffi.cast("uint8_t", call.i) ~= 0 end
  local v = ffi.cast(s.result_type, call.i)
  if class == "pointer" or ffi.sizeof(s.result_type) == 8 then return v end
  return tonumber(v)
end

-- Holds `...` until the call is over, whatever becomes of this G.
local function keep(call, ...)
  C.host_shelter(1)
  while C.host_call_state(call) == C.HOST_CALL_RUNS do
    wait_call(call)
  end
  return ...
end

-- Begins the call and waits for its end; why the wait ended before.
local function wait_for(call, held)
  while true do
    local err = wait_call(call)
    local state = C.host_call_state(call)
    if state == C.HOST_CALL_ENDED then return end
    if state == C.HOST_CALL_FAILED then return "cannot make a thread: not enough memory" end
    if err then
      if state == C.HOST_CALL_RUNS then lp.detach(keep, call, held) end
      return err
    end
  end
end

-- name: of the function, for errors. These are at the caller of the function that ends with a call of this one.
local function call_elsewhere(name, fn, s, ...)
  base.check_real "offload"
  local n = select("#", ...)
  if n ~= #s.params then error(("%s: fn has %d parameters, got %d arguments"):format(name, #s.params, n), 2) end
  local call = C.host_call_new()
  if call == nil then error("not enough memory", 2) end
  ffi.gc(call, C.host_call_free)
  local held = { fn, ... }
  for i = 1, n do
    held[n + 1 + i] = put(name, call, s.params[i], (select(i, ...)))
  end
  call.fn = ffi.cast("void (*)(void)", fn)
  call.result = RESULT[s.result]
  local barrier = core.barrier()
  if barrier then error(barrier, 2) end
  if C.host_canceled() ~= 0 then return base.heard(core.failed "canceled") end
  local limit = C.host_deadline()
  if limit ~= 0 and limit <= base.now_ns() then return nil, core.failed "timeout" end
  local err = wait_for(call, held)
  if err then return base.heard(err) end
  return result_of(call, s)
end

--- Calls a C function on another thread and waits for its end.
---@param fn ffi.cdata*  a C function, or a pointer to one
---@param ... any  its arguments, as many as it has parameters
---@return any ...  the function's result; nil and "timeout" or "canceled" if the wait ended first: a call that has
---begun goes on, another one is dropped; nil and "cannot make a thread: ..." without memory. When no more threads can
---be made, the call waits for one
function offload.offload(fn, ...)
  local s, err = signature_of(fn)
  if not s then error("offload: " .. err, 2) end
  return call_elsewhere("offload", fn, s, ...)
end

--- A Lua function that calls fn as `offload` does: for core/cdef.lua.
---@package
---@param fn ffi.cdata*
---@param name string  for its errors
---@return fun(...): ...|nil
---@return string? err  what is wrong with fn
function offload.bind(fn, name)
  local s, err = signature_of(fn)
  if not s then return nil, err end
  return function(...) return call_elsewhere(name, fn, s, ...) end
end

return offload
