--- Calls every C function that lunapark.cdef declares as a script might: with values of the parameters' types, numbers
--- small, negative and large, objects fresh. Prints each function's name before its calls, and "alive" at the end.
--
--   build/lunapark run spec/support/exported.lua [FUNCTION]

local ffi = require "ffi"
local core = require "lunapark.core"
local lp = require "lunapark"
local text = require "lunapark.cdef"

local C = ffi.C

local SIZE = 4096
local kept = {} -- what a call may have left in the host

local function keep(v)
  kept[#kept + 1] = v
  return v
end

local function box(ctype) return keep(ffi.new(ctype .. "[1]")) end

-- Objects by type; jobs by the beginning of the function's name.
local make = {}
make["host_sock *"] = function() return C.host_sock_listen("127.0.0.1:0", box "int") end
make["host_rbuf *"] = function() return C.host_sock_rbuf(make["host_sock *"]()) end
make["host_pipe *"] = function() return C.host_pipe_open(box "int") end
make["host_resolver *"] = function() return C.host_resolver_new(nil, nil, 100, 1, -1) end
make["host_dict *"] = function() return C.host_dict_open("exported", 8, 1e6) end
make["host_chan *"] = function() return C.host_chan_open("exported", 8, 4, 1e6, box "double") end
make["host_signals *"] = function() return C.host_signals_new() end
make["host_queue *"] = function() return box "host_queue" end
make["host_call *"] = function()
  local call = C.host_call_new()
  call.fn = ffi.cast("void (*)(void)", C.rt_nanotime)
  return call
end
local function run_job(job)
  local ref = keep(ffi.new("host_job *[1]", job))
  while C.host_job_done(job) == 0 do core.wait_job(ref) end
  return job
end
make["host_file *"] = function() return C.host_fs_take(run_job(C.host_fs_open(nil, "/dev/null", 0))) end
local function program()
  return C.host_exec("/bin/true\0", 10, 1, "", 0, -1, nil, C.HOST_PIPE, C.HOST_NOTHING, C.HOST_NOTHING, 1)
end
make["host_proc *"] = function() return C.host_exec_take(run_job(program()), box "int") end
make["host_job *"] = function() return C.host_log_flush(0) end
make["host_walk *"] = function() return C.host_walk_new(nil, "/dev/shm") end
make["host_compressor *"] = function() return C.host_compressor_new(C.HOST_GZIP, 5) end
make["host_tls_settings *"] = function() return box "host_tls_settings" end
make["host_tls_agreed *"] = function() return box "host_tls_agreed" end
make["host_tls *"] = function() return C.host_tls_new(box "host_tls_settings", keep(ffi.new "char[512]")) end
make["host_req *"] = function() end -- a handler alone has one

local jobs = {
  host_exec_ = program,
  host_fs_ = function() return C.host_fs_open(nil, "/dev/null", 0) end,
  host_walk_ = function() return C.host_walk_next(make["host_walk *"]()) end,
  host_dns_ = function() return C.host_dns_lookup(C.host_resolver_default(), "localhost", 0) end,
  host_repl_ = function() return C.host_repl_read "" end,
  host_repl_before = function() return C.host_repl_question() end,
}

-- What they are for ends the run, or the G.
local ENDS = { host_stop = true, host_block_doom = true, host_block_limit = true }

-- ---- declarations --------------------------------------------------------------------------------------------

local functions = {} -- { name = , params = { { type = , name = } } }
for declaration in text:gsub("{[^{}]*}", ""):gsub("%s+", " "):gmatch "([^;]+);" do
  local name, list = declaration:match "^ ?[%w_ %*]-([%a_][%w_]*)%((.*)%)$"
  if name then
    local params = {}
    for param in list:gmatch "[^,]+" do
      local ctype, of = param:match "^ ?(.-)([%a_][%w_]*) ?$"
      ctype = ctype:gsub(" +$", "")
      if ctype ~= "" then params[#params + 1] = { type = ctype, name = of } end
    end
    functions[#functions + 1] = { name = name, params = params, makes_job = declaration:find "^ ?host_job " }
  end
end

local NUMBERS = {
  int = { 0, 1, -1, 2 ^ 31 - 1 }, int32_t = { 0, 1, -1, 2 ^ 31 - 1 }, int64_t = { 0, 1, -1, 2 ^ 53 },
  size_t = { 0, 1, 10, 100 }, double = { 0, 1, -1, 0 / 0 },
}

local BYTES = { ["char *"] = true, ["void *"] = true, ["uint8_t *"] = true, ["const uint8_t *"] = true }

local call

-- host_reload makes the job of host_reload_result.
local function job_for(name)
  local special = jobs[name] or jobs[name:match "^host_%a+_"]
  if special then return special() end
  for _, fn in ipairs(functions) do
    if fn.makes_job and name:find("^" .. fn.name .. "_") then return select(2, call(fn, 1)) end
  end
  return make["host_job *"]()
end

-- host_walk_new makes a host_walk.
local function maker_of(ctype)
  for _, fn in ipairs(functions) do
    if fn.name == tostring(ctype) .. "_new" then return fn end
  end
end

-- An argument for a parameter, the nth of its kind; before: the argument before it. nil: no such object can be had.
local function argument(fn, param, n, before)
  local ctype = param.type
  if ctype == "const char *" or ctype == "const void *" then return "abc" end
  if BYTES[ctype] then return keep(ffi.new("uint8_t[?]", SIZE)) end
  if NUMBERS[ctype] then
    local is_size = param.name:find "len$" or param.name:find "cap$" or param.name == "n"
    if param.name == "argc" or param.name == "envc" then return 1 end -- argc, envc: how many strings there are
    if is_size and type(before) == "string" then return #before end
    if is_size and type(before) == "cdata" then return fn == "host_log_pairs" and 0 or SIZE end
    if param.name == "n" then return n end -- so many things to make
    return NUMBERS[ctype][n]
  end
  local plain = ctype:gsub("^const ", "")
  if plain == "host_job *" then return job_for(fn) end
  if make[plain] then return make[plain]() end
  local new = maker_of(plain:match "^host_%w+")
  if new then return select(2, call(new, 2)) end
  local ok, made = pcall(box, (ctype:gsub(" ?%*$", "")))
  return ok and made or nil
end

-- ---- calls ---------------------------------------------------------------------------------------------------

-- What is not known to be an object of the type is no argument: is there one for each parameter?
function call(fn, n)
  local args = {}
  for i, param in ipairs(fn.params) do
    args[i] = argument(fn.name, param, n, args[i - 1])
    if args[i] == nil then return false end
  end
  return true, C[fn.name](unpack(args, 1, #fn.params))
end

for _, fn in ipairs(functions) do
  if not ENDS[fn.name] and (not arg[1] or arg[1] == fn.name) then
    io.stdout:write(fn.name)
    io.stdout:flush()
    local called
    for n = 1, 4 do
      -- In a G of its own, whose deadlines and cancellations are nobody else's.
      local g = lp.go(call, fn, n)
      local result, err = g:join(60)
      if result == nil then io.stdout:write(": ", tostring(err):match "[^\n]*") end
      called = result
      C.host_set_canceled(0) -- some cancel the G of a slot
    end
    io.stdout:write(called == false and ": no such object\n" or "\n")
    io.stdout:flush()
  end
end
print "alive"
os.exit(0)
