--- Real child processes of the lunapark binary, for specs of the commands.
--
--   local c = child.serve { path, "--procs", "1" }   -- started, ready to answer
--   child.client(c.addr):get "/"
--   c:kill "TERM"
--   assert.equal(0, c:wait())
--
-- io.popen would stop the whole VM, so children are started by posix_spawnp with their output in files, and waits
-- poll. A child is killed and reaped by `child.clean()`, which every spec calls in after_each: none outlives its spec.
-- If this process ends before, a shell that reads from it sees the end of that pipe and kills them.

local ffi = require "ffi"
local net = require "lunapark.net"
local testing = require "lunapark.testing"
local tls = require "lunapark.tls"
local new_client = require "lunapark.testing.client"
local helper = require "spec.helper"

ffi.cdef [[
int posix_spawnp(int *pid, const char *path, const void *actions, const void *attr, char *const *argv,
                 char *const *envp);
int posix_spawn_file_actions_init(void *actions);
int posix_spawn_file_actions_addopen(void *actions, int fd, const char *path, int flags, unsigned mode);
int posix_spawn_file_actions_adddup2(void *actions, int fd, int to);
int posix_spawn_file_actions_destroy(void *actions);
int waitpid(int pid, int *status, int options);
int kill(int pid, int signal);
int pipe2(int *fds, int flags);
int64_t write(int fd, const char *data, size_t size);
int close(int fd);
extern char **environ;
]]

local C = ffi.C
local WNOHANG = 1
local RDONLY, REPLACE, CLOEXEC = 0, 577, 524288 -- REPLACE: O_WRONLY | O_CREAT | O_TRUNC
local signals = { HUP = 1, INT = 2, QUIT = 3, KILL = 9, USR1 = 10, USR2 = 12, TERM = 15, CONT = 18, STOP = 19 }

local PATIENCE = helper.PATIENCE

local child = { binary = os.getenv "LUNAPARK" or "build/lunapark", eventually = helper.eventually }

--- Lua for an app. until_gone(path) returns when the file is gone.
child.UNTIL_GONE = [[
local function until_gone(path)
  local f = io.open(path)
  while f do
    f:close()
    require("lunapark").sleep(0.01)
    f = io.open(path)
  end
end
]]

--- ThreadSanitizer's processes stir by themselves, and deliver no signal to a thread that calls nothing.
ffi.cdef "void __tsan_init(void);"
child.has_tsan = pcall(function() return C.__tsan_init end)
--- AddressSanitizer's take much more memory.
ffi.cdef "void __asan_init(void);"
child.has_asan = pcall(function() return C.__asan_init end)

local children, files, clients, conns = {}, {}, {}, {}

-- `make test-tls`: servers speak HTTPS, and `dial`, `send` and `client` speak it with them. `plain = true` among the
-- arguments of a server: this one does not.
local ALWAYS_TLS = (os.getenv "LUNAPARK_TEST_TLS" or "0") ~= "0"
child.over_tls = ALWAYS_TLS
local speak_tls, tls_config = {}, nil -- by address

-- What net.dial wants for an address.
local function tls_of(addr)
  if not speak_tls[addr] then return nil end
  tls_config = tls_config or tls.config { insecure = true, alpn = { "http/1.1" } } -- nobody has signed it
  return tls_config
end

local function with_tls(args)
  if not ALWAYS_TLS or args.plain then return end
  for _, arg in ipairs(args) do
    if arg:find "^%-%-tls%-" then return end
  end
  args[#args + 1] = "--tls-self-signed"
  return true
end

local function read_file(path)
  local f = io.open(path)
  if not f then return "" end
  local text = f:read "*a"
  f:close()
  return text
end

--- The path of a file with this content, removed by `clean`. Without content there is no file yet.
---@param text? string
---@param suffix? string
function child.file(text, suffix)
  local path = os.tmpname()
  files[#files + 1] = path
  if suffix then
    path = path .. suffix
    files[#files + 1] = path
  end
  if text then
    local f = assert(io.open(path, "w"))
    f:write(text)
    f:close()
  else
    os.remove(path)
  end
  return path
end

--- The path of a script with this text.
function child.script(text)
  return child.file(text, ".lua")
end

-- The environment of this process with some variables set.
local function environment(set)
  local list, n = {}, 0
  while C.environ[n] ~= nil do
    local entry = ffi.string(C.environ[n])
    if set[entry:match "^[^=]*"] == nil then list[#list + 1] = entry end
    n = n + 1
  end
  for name, value in pairs(set) do
    if value then list[#list + 1] = name .. "=" .. value end
  end
  return list
end

-- ThreadSanitizer sleeps for a second at the end of each process.
local function with_sanitizers(set)
  local given = os.getenv "TSAN_OPTIONS"
  if not given then return set end
  local more = { TSAN_OPTIONS = given .. ":atexit_sleep_ms=0" }
  for name, value in pairs(set) do
    more[name] = value
  end
  return more
end

-- The strings must be held as long as the array is used.
local function strings(list)
  local array = ffi.new("char *[?]", #list + 1)
  for i, s in ipairs(list) do
    array[i - 1] = ffi.cast("char *", s)
  end
  return array
end

-- Starts a program: its pid. `redirect(actions)` says what its descriptors are.
local function spawn(path, argv, env, redirect)
  local actions, pid = ffi.new("uint64_t[?]", 64), ffi.new "int[1]"
  assert(C.posix_spawn_file_actions_init(actions) == 0)
  redirect(actions)
  local rc = C.posix_spawnp(pid, path, actions, nil, strings(argv), strings(env))
  C.posix_spawn_file_actions_destroy(actions)
  if rc ~= 0 then error("cannot start " .. path .. ": error " .. rc, 3) end
  return pid[0]
end

-- Reads "+PID" and "-PID"; at the end of its input kills those that are left.
local WATCH = [[
trap '' INT TERM HUP
while read line; do
  case $line in
  +*) pids="$pids ${line#+}" ;;
  -*) left=
      for pid in $pids; do [ $pid = ${line#-} ] || left="$left $pid"; done
      pids=$left ;;
  esac
done
[ -z "$pids" ] || kill -KILL $pids
]]
local watch -- { pid, fd }, while there are children

local function tell_watch(line)
  if not watch then
    local fds = ffi.new "int[2]"
    assert(C.pipe2(fds, CLOEXEC) == 0)
    local pid = spawn("/bin/sh", { "sh", "-c", WATCH }, environment {}, function(actions)
      C.posix_spawn_file_actions_adddup2(actions, fds[0], 0)
    end)
    C.close(fds[0])
    watch = { pid = pid, fd = fds[1] }
  end
  assert(C.write(watch.fd, line, #line) == #line)
end

local function end_watch()
  if not watch then return end
  C.close(watch.fd)
  local pid = watch.pid
  watch = nil
  child.eventually(function() return C.waitpid(pid, nil, WNOHANG) == pid end, "the end of the watch")
end

local Child = {}
Child.__index = Child

--- Starts the binary. `args` are its arguments; `args.env` variables that it has besides ours (false: not);
--- `args.binary` another program; `args.fd3` what its descriptor 3 is.
function child.start(args)
  local self = setmetatable({ out_path = child.file "", err_path = child.file "" }, Child)
  local env, binary = environment(with_sanitizers(args.env or {})), args.binary or child.binary
  self.pid = spawn(binary, { binary, unpack(args) }, env, function(actions)
    if args.fd3 then C.posix_spawn_file_actions_adddup2(actions, args.fd3, 3) end
    C.posix_spawn_file_actions_addopen(actions, 0, "/dev/null", RDONLY, 0)
    C.posix_spawn_file_actions_addopen(actions, 1, self.out_path, REPLACE, 384)
    C.posix_spawn_file_actions_addopen(actions, 2, self.err_path, REPLACE, 384)
  end)
  children[#children + 1] = self
  tell_watch("+" .. self.pid .. "\n")
  return self
end

--- A process that a child has started with its own output, as a child of ours: `wait` works when its parent has ended,
--- if this process is a subreaper. Twice the same is the same child.
function child.adopt(pid, parent)
  for _, c in ipairs(children) do
    if c.pid == pid then return c end
  end
  local self = setmetatable({ pid = pid, out_path = parent.out_path, err_path = parent.err_path }, Child)
  children[#children + 1] = self
  tell_watch("+" .. pid .. "\n")
  return self
end

--- What it has written to stdout, and to stderr, until now.
function Child:stdout() return read_file(self.out_path) end
function Child:stderr() return read_file(self.err_path) end

--- Waits until it has written this plain text to stderr n times (1 without it) at least: all that it has written. Its
--- log is written by a thread of its own, so a line may come after the answer that it tells of.
function Child:said(text, n)
  return child.eventually(function()
    local all = self:stderr()
    return helper.count(all, text) >= (n or 1) and all
  end, function() return ("%q in stderr: %s"):format(text, self:stderr()) end)
end

--- Waits until its stderr matches this pattern: what string.match returns.
function Child:logged(pattern)
  local found
  child.eventually(function()
    found = { self:stderr():match(pattern) }
    return found[1]
  end, function() return ("%q in stderr: %s"):format(pattern, self:stderr()) end)
  return unpack(found)
end

--- Its exit code, minus the signal's number if one has ended it; nil while it runs.
function Child:poll()
  if not self.code then
    local status = ffi.new "int[1]"
    if C.waitpid(self.pid, status, WNOHANG) ~= self.pid then return nil end
    local s = status[0]
    self.code = s % 128 == 0 and bit.rshift(s, 8) or -(s % 128)
    tell_watch("-" .. self.pid .. "\n")
  end
  return self.code
end

--- Waits for its end: the exit code. Raises after `patience` seconds (PATIENCE).
---@param patience? number
function Child:wait(patience)
  child.eventually(function() return self:poll() end, "the end of " .. self.pid, patience)
  return self.code
end

function Child:kill(signal)
  if not self:poll() then C.kill(self.pid, signals[signal]) end
end

--- Runs the binary to its end: exit code, stdout, stderr.
function child.run(args)
  local c = child.start(args)
  return c:wait(), c:stdout(), c:stderr()
end

--- Starts `lunapark serve` and waits until it listens: the child with `addrs`, and the first of them as `addr`.
--- Without --listen it gets a free port, unless args.listeners says how many the app or the environment names.
function child.serve(args)
  local listeners = args.listeners or 0
  for _, arg in ipairs(args) do
    if arg == "--listen" then listeners = listeners + 1 end
  end
  if listeners == 0 then
    listeners = 1
    args[#args + 1] = "--listen"
    args[#args + 1] = "127.0.0.1:0"
  end
  local over_tls = with_tls(args)
  local c = child.start(args)
  child.eventually(function()
    c.addrs = {}
    for url in c:stderr():gmatch "lunapark: listening on ([^\n]+)\n" do
      local addr = url:gsub("^https?://", "")
      c.addrs[#c.addrs + 1] = addr
      speak_tls[addr] = over_tls and url:find "^https:" and true or nil
    end
    if c:poll() then error("serve ended with " .. c.code .. ": " .. c:stderr(), 0) end
    return #c.addrs >= listeners
  end, "listening")
  c.addr = c.addrs[1]
  return c
end

--- A connection that can't hang the spec, closed by `clean`.
---@param addr string
---@param config? lunapark.TlsConfig|lunapark.TlsOptions  of TLS, which the spec speaks there by itself
function child.dial(addr, config)
  local conn = assert(net.dial(addr, { timeout = PATIENCE, tls = config or tls_of(addr) }))
  conn:set_deadline(3 * PATIENCE)
  conns[#conns + 1] = conn
  return conn
end

--- Sends bytes on a connection of their own.
---@param addr string
---@param bytes string|string[]
function child.send(addr, bytes)
  local conn = child.dial(addr)
  assert(conn:write(bytes))
  return conn
end

--- The next answer on it, and whether it is the last.
function child.reply(conn, method)
  local r, err, last = testing.read_reply(conn, method)
  assert(r, err)
  return r, last
end

--- A test client of that address, closed by `clean`.
---@param addr string
---@param opts? lunapark.testing.ClientOptions
function child.client(addr, opts)
  local config = not (opts and opts.tls) and tls_of(addr)
  if config then
    local own = { tls = config }
    for name, value in pairs(opts or {}) do own[name] = value end
    opts = own
  end
  local client = new_client.new(addr, nil, opts)
  client.timeout = PATIENCE
  clients[#clients + 1] = client
  return client
end

--- Ends the children that still run, removes their files. Raises if a sanitizer has reported something in one.
function child.clean()
  for _, client in ipairs(clients) do
    client:close()
  end
  for _, conn in ipairs(conns) do
    conn:close()
  end
  for _, c in ipairs(children) do
    c:kill "KILL"
  end
  local report
  for _, c in ipairs(children) do
    c:wait()
    local text = c:stderr()
    if text:find("Sanitizer", 1, true) or text:find("runtime error:", 1, true) then report = text end
  end
  end_watch()
  for _, path in ipairs(files) do
    os.remove(path)
  end
  children, files, clients, conns = {}, {}, {}, {}
  if report then error(report, 2) end
end

return child
