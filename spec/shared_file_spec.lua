-- shared.dict with evict = false, and with a file.

local ffi = require "ffi"
local exec = require "lunapark.exec"
local fs = require "lunapark.fs"
local log = require "lunapark.log"
local lp = require "lunapark"
local shared = require "lunapark.shared"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local helper = require "spec.helper"

ffi.cdef [[
int prctl(int option, unsigned long arg, unsigned long, unsigned long, unsigned long);
int open(const char *path, int flags, ...);
int close(int fd);
int flock(int fd, int operation);
int fcntl(int fd, int command, ...);
typedef struct shared_flock { short l_type, l_whence; int64_t l_start, l_len; int l_pid; } shared_flock;
]]
local SUBREAPER, RDWR, CREATE, CLOEXEC, LOCK_EX_NB, LOCK_UN = 36, 2, 64, 524288, 6, 8

local OFD_SETLK, WRLCK, UNLCK = 37, 1, 2

testing.block_timeout(300)

local HEAD = [[
local lp, shared = require "lunapark", require "lunapark.shared"
local path, sync = ...
local dict = assert(shared.dict("d", { file = path, sync = sync }))
]]

describe("a dict that forgets nothing", function()
  it("says that it is full", function()
    local dict = assert(shared.dict("full", { max_bytes = 1000, evict = false }))
    assert.is_true(dict:set("a", ("x"):rep(700)))
    assert.same({ nil, "full" }, { dict:set("b", ("y"):rep(300)) })
    assert.same({ nil, "full" }, { dict:add("b", ("y"):rep(300)) })
    assert.same({ nil, "full" }, { dict:update("b", function() return ("y"):rep(300) end) })
    assert.same({ nil, "too big" }, { dict:set("b", ("y"):rep(1000)) })
    assert.equal(700, #dict:get "a")
    assert.is_true(dict:set("n", 1))
    assert.same({ nil, "full" }, { dict:set("a", ("x"):rep(850)) })
    assert.same({ nil, "full" }, { dict:incr("m" .. ("m"):rep(100), 1, 0) })
    assert.equal(2, dict:incr("n", 1), "in its place")
    assert.is_true(dict:set("a", ("x"):rep(400)))
    assert.is_true(dict:set("b", ("y"):rep(200)))
    local s = dict:stats()
    assert.equal(0, s.evictions)
    assert.is_true(s.bytes <= 1000)
    assert.matches("opts.evict must be a boolean", helper.raised(shared.dict, "full", { evict = 1 }))
  end)

  it("makes room of entries that have expired", function()
    local dict = assert(shared.dict("full of old", { max_bytes = 1000, evict = false }))
    assert.is_true(dict:set("a", ("x"):rep(700), 0.001))
    lp.sleep(0.01)
    assert.is_true(dict:set("b", ("y"):rep(700)))
    assert.equal(0, dict:stats().evictions)
    assert.is_true(shared.dict("full of old", { evict = true }):set("c", ("z"):rep(700)))
    assert.is_nil(dict:get "b")
  end)
end)

describe("a dict with a file", function()
  local serial = 0

  local level
  before_each(function() level = log.level() end)
  after_each(function() log.level(level) end)
  after_each(child.clean)

  -- Another dict of this process with that file.
  local function open(path, opts)
    serial = serial + 1
    opts = opts or {}
    opts.file = path
    return shared.dict("of a file " .. serial, opts)
  end

  -- Runs a script after HEAD in another process.
  local function run(path, sync, text)
    local code, out, err = child.run { "run", child.script(HEAD .. text), path, sync }
    assert.equal(0, code, err)
    return out, err
  end

  it("outlives the process", function()
    local path = child.file()
    for _, sync in ipairs { "always", "second", "no" } do
      os.remove(path)
      run(path, sync, [[
        dict:set("s", "a\0b") dict:set("t", { 1, { x = "y" } }) dict:set("b", false) dict:set("", 1 / 0)
        dict:set("gone", 1) dict:delete "gone"
        dict:set("late", "v", 100) dict:set("expired", 1, 0.001) dict:set("kept", 1, 1000) dict:expire("kept", nil)
        dict:set("later", ("long"):rep(100000)) dict:expire("later", 50)
        dict:add("n", 1) dict:replace("n", 5) dict:incr("n", 2) dict:incr("m", 1, 10, 30)
        dict:update("n", function(n) return n * 2 end)
        dict:set("ttl", 1, 100) dict:set("ttl", "longer", 200) dict:set("never", 1, 100) dict:set("never", 1)
      ]])
      local out = run(path, sync, [[
        assert(dict:get "s" == "a\0b" and dict:get "t"[2].x == "y" and dict:get "b" == false and dict:get "" == 1 / 0)
        assert(dict:get "gone" == nil and dict:get "expired" == nil and dict:ttl "kept" == 0)
        assert(dict:get "late" == "v" and dict:ttl "late" > 50 and dict:ttl "late" <= 100)
        assert(#dict:get "later" == 400000 and dict:ttl "later" <= 50 and dict:ttl "later" > 0)
        assert(dict:get "n" == 14 and dict:get "m" == 11 and dict:ttl "m" <= 30 and dict:ttl "m" > 0)
        assert(dict:get "ttl" == "longer" and dict:ttl "ttl" > 150 and dict:ttl "never" == 0)
        dict:flush()
        print(#dict:keys())
        dict:set("after", 1)
      ]])
      assert.equal("0\n", out)
      assert.equal("after\n", (run(path, sync, "print(table.concat(dict:keys(), ' '))")))
    end
  end)

  it("is the same one for each who opens it so", function()
    local path = child.file()
    local dict = assert(shared.dict("same", { file = path }))
    assert.is_true(dict:set("k", 1))
    assert.equal(1, assert(shared.dict("same", { file = path })):get "k")
    assert.equal(2, shared.dict("same"):incr("k", 1))
    assert.is_true(dict:sync())
    for _, opts in ipairs { { file = path .. "x" }, { file = path, sync = "always" } } do
      assert.same({ nil, "dict same has entries, another file or another sync already" }, { shared.dict("same", opts) })
    end
    shared.dict("had some"):set("k", 1)
    assert.matches("has entries", select(2, shared.dict("had some", { file = child.file() })))
    for _, case in ipairs {
      { { file = 1 }, "opts.file must be a string, got number" }, { { sync = "no" }, "beside opts.file, got no" },
      { { file = path, sync = "now" }, "got now" }, { { file = path, evict = true }, "opts.evict must not be true" },
      { { fiel = path }, "unknown option fiel" },
    } do
      assert.matches(case[2], helper.raised(shared.dict, "same", case[1]))
    end
  end)

  it("says why a file is none", function()
    local text = child.file "something else, of more than sixteen bytes"
    assert.matches("^of a file %d+: the file is not one of a dict$", select(2, open(text)))
    assert.equal("something else, of more than sixteen bytes", assert(fs.read(text)))
    assert.matches("[Nn]o such file", select(2, open(child.file() .. "/x")))
    assert.matches("of a file", select(2, open "/"))
    assert.is_table(open(child.file ""), "an empty file is one that was just begun")
    assert.is_table(open(child.file "lunapark di"))
  end)

  it("is one process's", function()
    local path = child.file()
    local dict = assert(open(path))
    dict:set("k", 1)
    local code, _, err = child.run { "run", child.script(HEAD), path }
    assert.equal(1, code)
    assert.matches("d: another process uses the file", err)
    assert.is_true(dict:set("k", 2))
  end)

  -- The bytes of a file with some keys, and where each of its records ends.
  local function some_records()
    local path = child.file()
    local out = run(path, "always", [[
      local function size() local f = io.open(path) local n = f:seek "end" f:close() return n end
      print(size())
      dict:set("a", 1) print(size())
      dict:set("b", "text") print(size())
      dict:incr("a", 41) print(size())
      dict:delete "b" print(size())
      dict:expire("a", 1000) print(size())
    ]])
    local ends = {}
    for n in out:gmatch "%d+" do ends[#ends + 1] = tonumber(n) end
    return assert(fs.read(path)), ends
  end

  -- What the dict has after the first n of these records.
  local STATES = {
    [0] = {}, { a = 1 }, { a = 1, b = "text" }, { a = 42, b = "text" }, { a = 42 }, { a = 42 },
  }

  local function entries(dict)
    local all = {}
    for _, key in ipairs(dict:keys()) do all[key] = dict:get(key) end
    return all
  end

  it("drops the end of a write that was cut short, at each byte", function()
    log.level "error"
    local bytes, ends = some_records()
    assert.equal(#bytes, ends[#ends])
    local path = child.file()
    for n = 0, #bytes do
      assert(fs.write(path, bytes:sub(1, n)))
      local dict = assert(open(path))
      local whole = 0
      for i = 2, #ends do if ends[i] <= n then whole = i - 1 end end
      assert.same(STATES[whole], entries(dict), "after " .. n .. " bytes")
      assert.is_true(dict:set("next", 1))
      assert.is_true(dict:sync())
      local again = assert(fs.read(path))
      assert.equal(bytes:sub(1, ends[whole + 1]), again:sub(1, ends[whole + 1]))
      os.remove(path) -- the dict keeps the file that had the name
    end
    os.remove(path .. ".dropped")
  end)

  it("drops what was changed on the disk, and keeps it beside", function()
    log.level "error"
    local bytes, ends = some_records()
    local path = child.file()
    for n = ends[3] + 1, ends[4] do
      local c = string.char((bytes:byte(n) + 1) % 256)
      assert(fs.write(path, bytes:sub(1, n - 1) .. c .. bytes:sub(n + 1)))
      assert.same(STATES[2], entries(assert(open(path))), "byte " .. n)
      assert.equal(#bytes - ends[3], #assert(fs.read(path .. ".dropped")))
      os.remove(path)
    end
    os.remove(path .. ".dropped")
  end)

  it("is compacted while it is used", function()
    local path = child.file()
    local out = run(path, "second", [[
      local big = ("x"):rep(1000)
      for i = 1, 300 do dict:set("key " .. i, big .. i) end
      local n, largest = 0, 0
      for round = 1, 300 do
        for i = 1, 200 do n = dict:incr("n", 1, 0) dict:incr("k" .. i, 1, 0) end
        dict:set("key " .. round, big .. round .. "!")
        if round % 10 == 0 then assert(dict:sync()) end
        local f = io.open(path)
        largest = math.max(largest, f:seek "end")
        f:close()
      end
      assert(dict:sync())
      print(n, largest)
    ]])
    local n, largest = out:match "(%d+)\t(%d+)"
    assert.equal("60000", n)
    assert.is_true(tonumber(largest) < 3.5e6, largest .. " bytes") -- 5.4 MB without
    assert.is_nil(fs.stat(path .. ".new"))
    run(path, "second", [[
      assert(dict:get "n" == 60000)
      for i = 1, 200 do assert(dict:get("k" .. i) == 300) end
      for i = 1, 300 do assert(dict:get("key " .. i) == ("x"):rep(1000) .. i .. "!") end
      assert(#dict:keys() == 501)
    ]])
  end)

  it("keeps changes in memory, and says so, when the disk takes none", function()
    local path = child.file()
    local script = child.script(HEAD .. [[
      local ok, err
      for i = 1, 200 do ok, err = dict:set("k" .. i, ("x"):rep(100)) if not ok then break end end
      print(ok, err)
    ]])
    -- A write above 2 KiB fails with EFBIG.
    local r = exec.run({ "sh", "-c", [[trap "" XFSZ; ulimit -f 4; exec "$0" "$@"]], child.binary, "run", script, path,
      "always" })
    assert.matches("^nil\td: File too large", r.stdout)
    assert.matches("cannot write: File too large", r.stderr)
    local n = tonumber((run(path, "always", "print(#dict:keys())")))
    assert.is_true(n >= 10 and n < 20, n .. " keys")
  end)

  it("survives kills", function()
    local r = assert(exec.run({ child.binary, "run", "host/test/dict_kills.lua", "20" }, { stderr = "stdout" }))
    assert.matches("^dict_kills: 20 kills, nothing lost, nothing twice", r.stdout)
  end)

  it("goes from the old process to the new one in an upgrade, with each change", function()
    ffi.C.prctl(SUBREAPER, 1, 0, 0, 0)
    finally(function() ffi.C.prctl(SUBREAPER, 0, 0, 0, 0) end)
    local path = child.file()
    local c = child.serve { child.script(([[
      local dict = assert(require("lunapark.shared").dict("n", { file = %q }))
      dict:add("loads", 0)
      dict:incr("loads", 1)
      local app = require("lunapark.http").app()
      app:get("/count", function() return tostring(assert(dict:incr("n", 1, 0))) end)
      app:get("/loads", function() return tostring(dict:get "loads") end)
      return app
    ]]):format(path)), "--procs", "2", "--max-vms", "1" }
    local seen, n, stop, gs = {}, 0, false, {}
    for i = 1, 4 do
      gs[i] = lp.go(function()
        while not stop do
          local client = child.client(c.addr)
          local r = assert(client:get "/count")
          client:close()
          assert.equal(200, r.status, r.body)
          assert.is_nil(seen[r.body], "twice")
          seen[r.body], n = true, n + 1
        end
        return true
      end)
    end
    local function more()
      local least = n + 20
      child.eventually(function() return n >= least end, "further answers")
    end
    more()
    local loads = tonumber(child.client(c.addr):get("/loads").body)
    c:kill "USR2"
    local pid = tonumber((c:logged "process (%d+) serves"))
    local new = child.adopt(pid, c)
    more()
    assert.equal(0, c:wait())
    more()
    stop = true
    for i = 1, 4 do assert(gs[i]:join()) end
    for i = 1, n do assert.is_true(seen[tostring(i)], i .. " of " .. n) end
    assert.equal(tostring(2 * loads), child.client(c.addr):get("/loads").body)
    new:kill "TERM"
    assert.equal(0, new:wait())
    assert.equal(tostring(n) .. "\n", (run(path, nil, "print(dict:get 'n')")))
  end)

  -- The lock of the file is this process's, as if an old process held it, and the two that share the file want it.
  it("is waited for in an upgrade for a time that ends, if another process keeps it", function()
    local path, busy = child.file(), child.file ""
    local fd = ffi.C.open(path, RDWR + CREATE + CLOEXEC, ffi.cast("int", 384))
    ffi.C.prctl(SUBREAPER, 1, 0, 0, 0)
    finally(function()
      ffi.C.prctl(SUBREAPER, 0, 0, 0, 0)
      ffi.C.close(fd)
    end)
    local c = child.serve { child.script(child.UNTIL_GONE .. ([[
      local dict = assert(require("lunapark.shared").dict("n", { file = %q }))
      local app = require("lunapark.http").app()
      app:get("/count", function()
        local n, err = dict:incr("n", 1, 0)
        return n and "yes" or err
      end)
      app:get("/sync", function() return tostring(dict:sync()) end)
      app:get("/busy", function() until_gone(%q) end)
      return app
    ]]):format(path, busy)), "--procs", "1", "--max-vms", "1", "--drain-timeout", "600" }
    local conn = child.send(c.addr, "GET /busy HTTP/1.1\r\nHost: x\r\n\r\n") -- the old process stays
    assert.equal("yes", child.client(c.addr):get("/count").body)
    c:kill "USR2"
    local new = child.adopt(tonumber((c:logged "process (%d+) serves")), c)
    local client = child.client(c.addr)
    assert.equal("yes", client:get("/count").body)

    child.eventually(function() return ffi.C.flock(fd, LOCK_EX_NB) == 0 end, "the lock")
    assert.equal("true", client:get("/sync").body, "what is synced needs no lock")
    assert.equal("n: another process uses the file", client:get("/count").body)

    local other = child.client(c.addr)
    local late = lp.go(function() return other:get("/count").body end)
    lp.sleep(0.05)
    ffi.C.flock(fd, LOCK_UN)
    assert.equal("yes", (late:join()))

    -- A process that stands in the gate before the lock comes next, whoever gives the lock back and wants it again.
    local gate = ffi.new("shared_flock", { l_type = WRLCK, l_len = 1 })
    child.eventually(function() return ffi.C.fcntl(fd, OFD_SETLK, gate) == 0 end, "the gate")
    child.eventually(function() return ffi.C.flock(fd, LOCK_EX_NB) == 0 end, "the lock, while in the gate")
    local answered
    late = lp.go(function() answered = other:get("/count").body end)
    lp.sleep(0.05)
    ffi.C.flock(fd, LOCK_UN)
    lp.sleep(0.1)
    assert.is_nil(answered)
    assert.equal(0, ffi.C.flock(fd, LOCK_EX_NB))
    ffi.C.flock(fd, LOCK_UN)
    gate.l_type = UNLCK
    assert.equal(0, ffi.C.fcntl(fd, OFD_SETLK, gate))
    late:join()
    other:close()
    assert.equal("yes", answered)

    child.eventually(function() return ffi.C.flock(fd, LOCK_EX_NB) == 0 end, "the lock again")
    local last = child.send(c.addr, "GET /count HTTP/1.1\r\nHost: x\r\n\r\n")
    lp.sleep(0.05)
    new:kill "TERM"
    new:said "SIGTERM: stopping"
    new:kill "TERM" -- a second one does not wait for what is under way
    new:wait()
    assert.is_nil(new:stderr():find("may be lost", 1, true))
    os.remove(busy)
    child.reply(conn)
    conn:close()
    last:close()
    assert.equal(0, c:wait())
  end)
end)
