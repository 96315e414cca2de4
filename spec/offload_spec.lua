local ffi = require "ffi"
local lp = require "lunapark"
local waits = require "spec.support.waits"
local helper = require "spec.helper"
local child = require "spec.support.child"

local LONG, pack, timed, raised = waits.LONG, waits.pack, waits.timed, helper.raised

ffi.cdef [[
double pow(double, double);
float powf(float, float);
double ldexp(double x, int e);
double fma(double, double, double);
int abs(int);
long labs(long);
size_t strlen(const char *s);
char *strcpy(char *to, const char *from);
void *memmove(void *to, const void *from, size_t n);
char *getenv(const char *name);
int usleep(unsigned us);
void srand(unsigned seed);
int toupper(int c);
int pipe(int *fds);
int64_t read(int fd, void *buf, size_t n);
int64_t write(int fd, const char *data, size_t n);
int close(int fd);
int snprintf(char *s, size_t n, const char *format, ...);
void qsort(void *base, size_t n, size_t size, int (*compare)(const void *, const void *));
void *mmap(void *at, size_t n, int prot, int flags, int fd, int64_t offset);
int munmap(void *at, size_t n);
typedef struct { int quot, rem; } spec_div_t;
spec_div_t div(int, int);
typedef enum { SPEC_LOWER, SPEC_UPPER = 97 } spec_letter;
]]

local C = ffi.C

describe("lunapark.offload", function()
  after_each(child.clean)

  it("passes whole numbers, floating-point numbers and pointers, and their results", function()
    assert.equal(1024, lp.offload(C.pow, 2, 10))
    assert.is_true(math.abs(lp.offload(C.powf, 2, 0.5) - math.sqrt(2)) < 1e-6)
    assert.equal(48, lp.offload(C.ldexp, 3, 4))
    assert.equal(23, lp.offload(C.fma, 4, 5, 3))
    assert.equal(7, lp.offload(C.abs, -7))
    assert.equal(5LL, lp.offload(C.labs, -5))
    assert.equal(2LL ^ 60, lp.offload(C.labs, -2LL ^ 60))
    assert.equal(5ULL, lp.offload(C.strlen, "hello"))
    local buf = ffi.new "char[16]"
    local p = lp.offload(C.strcpy, buf, "copied")
    assert.equal("copied", ffi.string(buf))
    assert.equal("copied", ffi.string(p))
    assert.equal(ffi.typeof "char *", ffi.typeof(p))
    assert.is_true(lp.offload(C.getenv, "SURELY_NOT_SET") == nil)
    assert.same({ n = 0 }, pack(lp.offload(C.srand, 5)))
    assert.equal(65, lp.offload(ffi.cast("int (*)(spec_letter)", C.toupper), "SPEC_UPPER"))
    assert.is_true(lp.offload(ffi.cast("bool (*)(int)", C.abs), -256 - 1))
    assert.is_false(lp.offload(ffi.cast("bool (*)(int)", C.abs), 256)) -- its low byte
    assert.equal(-1, lp.offload(ffi.cast("int8_t (*)(int)", C.abs), 255))
    assert.equal(255, lp.offload(ffi.cast("uint8_t (*)(int)", C.abs), -255))
    assert.equal(3000000000, lp.offload(ffi.cast("unsigned (*)(unsigned)", C.abs), 1294967296) + 1705032704)
    -- 6 whole numbers are as many as there are.
    local mapped = lp.offload(C.mmap, nil, 4096, 3, 0x22, -1, 0)
    assert.is_true(ffi.cast("intptr_t", mapped) ~= -1)
    assert.equal(0, lp.offload(C.munmap, mapped, 4096))
  end)

  it("takes pointers to functions, and arguments of cdata", function()
    local fn = ffi.cast("int (*)(int)", C.abs)
    assert.equal(3, lp.offload(fn, ffi.new("int64_t", -3)))
    local from, to = ffi.new("int[3]", 1, 2, 3), ffi.new "int[3]"
    lp.offload(C.memmove, to, from, ffi.sizeof(from))
    assert.same({ 1, 2, 3 }, { to[0], to[1], to[2] })
  end)

  it("refuses lunapark's own functions, by whatever name or type, and NULL", function()
    for name, fn in pairs {
      rt_nanotime = C.rt_nanotime, host_deadline = C.host_deadline, host_set_deadline = C.host_set_deadline,
      host_canceled = ffi.cast("void *(*)(void)", C.host_canceled),
    } do
      local err = raised(lp.offload, fn)
      assert.matches("offload: " .. name .. " is lunapark's own", err, 1, true)
    end
    assert.matches("rt_nanotime is lunapark's own",
      raised(lp.cdef, "/* blocks */ int64_t rt_nanotime(void);"), 1, true)
    assert.equal("offload: fn is NULL", raised(lp.offload, ffi.cast("int (*)(int)", nil), 1))
    assert.equal(3, lp.offload(C.abs, -3))
  end)

  it("calls on one P, quick or not, without delay for others of the VM", function()
    local n, stop = 0, false
    local g = lp.go(function()
      while not stop do
        n = n + 1
        lp.yield()
      end
    end)
    for i = 1, 1000 do assert.equal(i, lp.offload(C.abs, -i)) end
    stop = true
    g:join()
    assert.is_true(n > 0)
  end)

  it("leaves errno as the function did", function()
    assert.equal(-1, lp.offload(C.close, -1))
    assert.equal(9, ffi.errno()) -- EBADF
  end)

  it("holds up nobody", function()
    local gs, bufs = {}, {}
    local fds, on = ffi.new "int[2]", ffi.new "int[2]"
    assert.equal(0, C.pipe(fds))
    assert.equal(0, C.pipe(on))
    -- Each says that it has begun: all do before one may end.
    for i = 1, 20 do
      bufs[i] = ffi.new "char[1]"
      gs[i] = lp.go(lp.offload, C.write, fds[1], "x", 1)
      gs[20 + i] = lp.go(lp.offload, C.read, on[0], bufs[i], 1)
    end
    for _ = 1, 20 do
      assert.equal(1, lp.offload(C.read, fds[0], ffi.new "char[1]", 1))
    end
    assert.equal(20, C.write(on[1], ("x"):rep(20), 20))
    for i = 1, 40 do
      assert.equal(1, gs[i]:join(LONG))
    end
    for _, pair in ipairs { fds, on } do
      C.close(pair[0])
      C.close(pair[1])
    end
  end)

  it("waits end by deadline and cancellation; the call runs on with its arguments' memory", function()
    local fds = ffi.new "int[2]"
    assert.equal(0, C.pipe(fds))
    local weak = setmetatable({}, { __mode = "v" })
    local function read_some()
      local buf = ffi.new "char[64]"
      weak[#weak + 1] = buf
      return lp.offload(C.read, fds[0], buf, 10)
    end
    local seconds, v, err = timed(lp.deadline, 0.01, read_some)
    assert.same({ nil, "timeout" }, { v, err })
    assert.is_true(seconds >= 0.01 and seconds < LONG)
    local g = lp.go(function() return pack(read_some()) end)
    lp.sleep(0.005)
    g:cancel()
    assert.same({ nil, "canceled", n = 2 }, (g:join(LONG)))
    g = nil -- luacheck: ignore 311
    for _ = 1, 3 do
      collectgarbage()
      ffi.new "char[64]"
    end
    assert.is_true(weak[1] ~= nil and weak[2] ~= nil)
    assert.equal(10, tonumber(C.write(fds[1], "0123456789", 10)))
    assert.equal(10, tonumber(C.write(fds[1], "abcdefghij", 10)))
    helper.eventually(function()
      collectgarbage()
      return weak[1] == nil and weak[2] == nil
    end)
    C.close(fds[0])
    C.close(fds[1])
  end)

  it("begins nothing in a G whose waits are over", function()
    local before = ffi.new("char[8]", "before")
    assert.same({ nil, "timeout", n = 2 }, pack(lp.deadline(0, lp.offload, C.strcpy, before, "after")))
    local g = lp.go(function()
      lp.self():cancel()
      return pack(lp.offload(C.strcpy, before, "after"))
    end)
    assert.same({ nil, "canceled", n = 2 }, (g:join()))
    lp.sleep(0.005)
    assert.equal("before", ffi.string(before))
  end)

  it("waits in a comparator", function()
    local t = { 3, 1, 2 }
    table.sort(t, function(a, b) return lp.offload(C.abs, -a) < lp.offload(C.abs, -b) end)
    assert.same({ 1, 2, 3 }, t)
  end)

  it("many at once answer each what is theirs", function()
    local gs = {}
    for i = 1, 100 do
      gs[i] = lp.go(function()
        for k = 1, 10 do
          local s = ("x"):rep(i * 10 + k)
          assert(tonumber(lp.offload(C.strlen, s)) == #s)
          assert(lp.offload(C.ldexp, i, k) == i * 2 ^ k)
        end
        return "fine"
      end)
    end
    for i = 1, 100 do
      assert.equal("fine", gs[i]:join(LONG))
    end
  end)

  -- A compiled endless loop has its VM dropped, with the heap into which a call of another handler is to write.
  it("a VM that is dropped waits for its calls", function()
    if child.has_tsan then return pending "no signal reaches the loop" end
    local server = child.serve {
      child.script [[
local ffi = require "ffi"
local lp = require "lunapark"
ffi.cdef "int pipe(int *); int64_t read(int, void *, size_t); int64_t write(int, const char *, size_t);"
local fds = ffi.new "int[2]"
return function(req)
  if req.path == "/pipe" then
    ffi.C.pipe(fds)
    local n = lp.offload(ffi.C.read, fds[0], ffi.new "char[16]", 16)
    return "read " .. tonumber(n)
  elseif req.path == "/write" then
    return "wrote " .. tonumber(ffi.C.write(tonumber(req.query.fd), "0123456789", 10))
  elseif req.path == "/fd" then
    return tostring(fds[1])
  end
  while true do end
end]],
      "--procs", "1", "--max-vms", "2", "--handler-timeout", "0.5", "--kill-after", "0.1",
    }
    local reader = lp.go(function() return child.client(server.addr):get("/pipe").status end)
    local fd
    local client = child.client(server.addr)
    child.eventually(function()
      fd = tonumber(client:get("/fd").body)
      return fd and fd > 0
    end, "the pipe")
    local loop = lp.go(function() return child.client(server.addr):get("/loop").status end)
    local loop_status, reader_status = loop:join(LONG), reader:join(LONG)
    assert.is_true(loop_status >= 500 and reader_status >= 500)
    child.eventually(function() return server:stderr():find "was ended" end, "the end of the loop")
    assert.equal("wrote 10", client:get("/write?fd=" .. fd).body)
    lp.sleep(0.05)
    assert.equal(200, client:get("/fd").status)
    server:kill "TERM"
    assert.equal(0, server:wait(), server:stderr())
  end)

  it("refuses misuse, naming the argument", function()
    assert.matches("offload_spec.lua:%d+: offload: fn must be a C function, got nil",
      raised(function() lp.offload() end))
    assert.matches("offload: fn must be a C function, got function", raised(lp.offload, print))
    assert.matches("offload: fn must be a C function, got ctype<int %[3%]>", raised(lp.offload, ffi.new "int[3]"))
    assert.matches("offload_spec.lua:%d+: offload: fn has 1 parameters, got 0 arguments",
      raised(function() lp.offload(C.abs) end))
    assert.matches("offload: fn has 1 parameters, got 2 arguments", raised(lp.offload, C.abs, 1, nil))
    assert.matches("offload_spec.lua:%d+: offload: argument 1: cannot convert 'string' to 'int'",
      raised(function() lp.offload(C.abs, "x") end))
    assert.matches("offload: argument 1 %(s%): cannot convert 'number' to 'const char %*'",
      raised(lp.offload, C.strlen, 5))
    assert.matches("offload: argument 1 %(to%): cannot convert 'string' to 'void %*'",
      raised(lp.offload, C.memmove, "constant", nil, 1))
    assert.matches("offload: argument 2: cannot convert", raised(lp.offload, C.pow, 1, {}))
    assert.matches("offload: fn has variable arguments", raised(lp.offload, C.snprintf))
    assert.matches("offload: fn returns ctype<struct", raised(lp.offload, C.div, 7, 2))
    assert.matches("offload: argument 4 %(compare%): a Lua function cannot be passed to another thread",
      raised(lp.offload, C.qsort, nil, 0, 4, function() end))
    assert.matches("argument 1: ctype<struct %d+> cannot be passed",
      (raised(lp.offload, ffi.cast("void (*)(spec_div_t)", C.abs), 1):gsub("spec_div_t", "struct 1")))
    assert.matches("offload: argument 1: .*long double", (raised(lp.offload,
      ffi.cast("void (*)(long double)", C.abs), 1):gsub("ctype<[^>]*> cannot", "long double cannot")))
    assert.matches("more than 6 whole numbers and pointers",
      raised(lp.offload, ffi.cast("void (*)(int, int, int, int, int, int, int)", C.abs), 1, 2, 3, 4, 5, 6, 7))
    assert.matches("more than 8 floating%-point numbers", raised(lp.offload,
      ffi.cast("void (*)(double, double, double, double, double, double, double, double, double)", C.abs)))
  end)
end)
