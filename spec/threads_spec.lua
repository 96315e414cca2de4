--- What blocks a thread: others of its P go on at once, threads that nobody needs end, without threads calls queue.

local ffi = require "ffi"
local child = require "spec.support.child"

ffi.cdef "unsigned geteuid(void);"

local NOBODY = 65534

-- Runs a script to its end: the words of its output.
local function run(text, env, as)
  local path = child.script(text)
  assert(os.execute("chmod 644 " .. path) == 0)
  local args = as or {}
  if as then args[#args + 1] = child.binary:find "^/" and child.binary or "./" .. child.binary end
  args[#args + 1] = "run"
  args[#args + 1] = path
  args.env = env
  local code, out, err = child.run(args)
  assert.equal(0, code, err)
  local words = {}
  for name, value in out:gmatch "(%S+)=(%S+)" do
    words[name] = tonumber(value) or value
  end
  return words
end

describe("a call that blocks", function()
  after_each(child.clean)

  -- Sysmon, which takes the P of a call that lasts, sleeps all the while.
  local ALONE = { LUNAPARK_PROCS = "1", LUNAPARK_DEBUG = "sysmon=3600000" }

  it("hands its P over at once, if it is known to block or by how long it took before", function()
    local r = run([[
    local ffi = require "ffi"
    local lp = require "lunapark"
    local exec, fs = require "lunapark.exec", require "lunapark.fs"
    ffi.cdef "int usleep(unsigned us); int abs(int n);"
    local path = arg[0] .. ".data"
    local function handed_over(name, n, fn)
      local before = lp.stats().handoffs
      for i = 1, n do fn(i) end
      print(name .. "=" .. lp.stats().handoffs - before)
    end
    handed_over("slow", 20, function() lp.offload(ffi.C.usleep, 1000) end)
    handed_over("quick", 1000, function(i) lp.offload(ffi.C.abs, i) end)
    handed_over("write", 20, function() assert(fs.write("/tmp/" .. path:match "[^/]*$", "x")) end)
    handed_over("read", 20, function() assert(fs.read(arg[0])) end)
    handed_over("program", 5, function() assert(exec.run { "true" }) end)
    os.remove("/tmp/" .. path:match "[^/]*$")
    ]], ALONE)
    assert.equal(20, r.slow)
    assert.is_true(r.quick >= 1 and r.quick < 500, r.quick) -- more than 16: for those that the machine held up
    assert.equal(20, r.write)
    assert.equal(0, r.read)
    assert.is_true(r.program >= 5, r.program)
  end)

  it("holds up nobody", function()
    local r = run([[
    local ffi = require "ffi"
    local lp = require "lunapark"
    ffi.cdef "int usleep(unsigned us);"
    local ticks, beside = 0, 0
    lp.detach(function()
      while true do
        lp.sleep(0.001)
        ticks = ticks + 1
      end
    end)
    for _ = 1, 10 do
      local before = ticks
      lp.offload(ffi.C.usleep, 100000)
      if ticks > before + 1 then beside = beside + 1 end
    end
    print("beside=" .. beside)
    ]], ALONE)
    assert.is_true(r.beside >= 8, r.beside)
  end)
end)

describe("threads", function()
  after_each(child.clean)

  it("have names, and end when nobody needs them", function()
    local r = run([[
    local ffi = require "ffi"
    local lp = require "lunapark"
    local fs, log = require "lunapark.fs", require "lunapark.log"
    ffi.cdef "int usleep(unsigned us);"
    log.info "so the log has a thread"
    local most, gs = 0, {}
    for i = 1, 100 do gs[i] = lp.go(lp.offload, ffi.C.usleep, 400000) end
    lp.sleep(0.01)
    for i = 1, 100 do
      most = math.max(most, lp.stats().ms)
      gs[i]:join()
    end
    print("most=" .. most)
    local until_s = lp.now() + 60
    local few = 2 * lp.stats().procs + 8 + 1
    while lp.stats().ms > few and lp.now() < until_s do lp.sleep(0.01) end
    print("left=" .. lp.stats().ms .. "\nfew=" .. few)
    local names = {}
    for _, id in ipairs(assert(fs.list "/proc/self/task")) do
      local name = fs.read("/proc/self/task/" .. id .. "/comm")
      if name then names[#names + 1] = name:sub(1, -2) end
    end
    print("names=" .. table.concat(names, ","))
    ]], { LUNAPARK_PROCS = "2", LUNAPARK_DEBUG = "mexit=10" })
    assert.is_true(r.most > 40, r.most)
    assert.is_true(r.left <= r.few, r.left)
    local counts = {}
    for name in r.names:gmatch "[^,]+" do
      name = name:gsub("^lp%-m[1-9]%d*$", "lp-m")
      counts[name] = (counts[name] or 0) + 1
    end
    assert.is_true(counts["lp-m"] >= 1)
    counts["lp-m"] = nil
    if child.has_tsan then counts.lunapark = counts.lunapark - 1 end -- its own
    assert.same({ lunapark = 1, ["lp-sysmon"] = 1, ["lp-log"] = 1 }, counts)
  end)

  it("that can't be had are waited for by lp.offload, while others go on", function()
    if ffi.C.geteuid() ~= 0 then return pending "needs root, who sets another user's limits" end
    local r = run([[
    local ffi = require "ffi"
    local lp = require "lunapark"
    ffi.cdef "typedef struct { unsigned long soft, hard; } limit_t;"
    ffi.cdef "int getrlimit(int what, limit_t *l); int setrlimit(int what, const limit_t *l);"
    ffi.cdef "int abs(int n);"
    local inside = require "spec.support.inside"
    local claim, release = inside("rt_claim_thread", "bool (*)(void)"), inside("rt_release_thread", "void (*)(void)")
    local C, NPROC = ffi.C, 6
    local l = ffi.new "limit_t"
    C.getrlimit(NPROC, l)
    local before = l.soft
    l.soft = 1
    C.setrlimit(NPROC, l)
    local claims = 0
    while claim() do claims = claims + 1 end
    local gs, ended, ticks = {}, 0, 0
    for i = 1, 50 do
      gs[i] = lp.go(function()
        local v = lp.offload(C.abs, -i)
        ended = ended + 1
        return v
      end)
    end
    for _ = 1, 20 do
      lp.sleep(0.002)
      ticks = ticks + 1
    end
    print(("early=%d\nticks=%d"):format(ended, ticks))
    local v, err = lp.deadline(0.01, lp.offload, C.abs, -1)
    print("late=" .. tostring(v) .. "," .. tostring(err))
    l.soft = before
    C.setrlimit(NPROC, l)
    local right = 0
    for i = 1, 50 do right = right + (gs[i]:join() == i and 1 or 0) end
    print("right=" .. right)
    for _ = 1, claims do release() end
    ]], { LUNAPARK_PROCS = "1" }, {
      "--reuid=" .. NOBODY, "--regid=" .. NOBODY, "--clear-groups", binary = "setpriv",
    })
    assert.same({ early = 0, ticks = 20, late = "nil,timeout", right = 50 }, r)
  end)
end)
