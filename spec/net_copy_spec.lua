local ffi = require "ffi"
local lp = require "lunapark"
local net = require "lunapark.net"
local helper = require "spec.helper"
local pairs_of = require "spec.support.pairs"

ffi.cdef [[
int memcmp(const void *a, const void *b, size_t n);
typedef struct copy_spec_rlimit { uint64_t soft, hard; } copy_spec_rlimit;
int getrlimit(int what, copy_spec_rlimit *limit);
int setrlimit(int what, const copy_spec_rlimit *limit);
ssize_t readlink(const char *path, char *buf, size_t n);
]]

-- How many pipes of this process would be a program's, too.
local function count_pipes_for_programs()
  local n = 0
  for fd = 0, 1023 do
    local info = io.open("/proc/self/fdinfo/" .. fd)
    if info then
      local flags = tonumber(info:read("*a"):match "flags:%s*(%d+)", 8)
      info:close()
      local name = ffi.new "char[16]"
      local len = ffi.C.readlink("/proc/self/fd/" .. fd, name, 16)
      if len > 5 and ffi.string(name, 5) == "pipe:" and bit.band(flags, tonumber("2000000", 8)) == 0 then n = n + 1 end
    end
  end
  return n
end

local pipes_for_programs = count_pipes_for_programs() -- those that we were started with

describe("net.copy", function()
  local open = pairs_of.new()
  local paths
  before_each(function() paths = {} end)
  after_each(function()
    open.close()
    for _, path in ipairs(paths) do
      os.remove(path)
    end
  end)
  local pair = open.pair

  local function file_of(text)
    local path = os.tmpname()
    paths[#paths + 1] = path
    local f = assert(io.open(path, "w+"))
    f:write(text)
    f:flush()
    f:seek "set"
    return f
  end

  local mega = {}
  for i = 1, 65536 do
    mega[i] = ("%015d\n"):format(i * 7919)
  end
  mega = table.concat(mega)
  local twice = mega .. mega

  -- How many bytes a connection sends until its end, all of which have to be those of mega, again and again.
  local function count_megas(c)
    local n = 0
    while true do
      local text, err = c:read()
      if not text then return err, n end
      if ffi.C.memcmp(ffi.cast("const char *", twice) + n % #mega, text, #text) ~= 0 then return "other bytes", n end
      n = n + #text
    end
  end

  it("moves 50 MB from socket to socket, slow on both sides", function()
    local client, src = pair()
    local dst, sink = pair()
    local writer = lp.go(function()
      for i = 1, 50 do
        assert(client:write(mega))
        if i % 10 == 0 then lp.sleep(0.002) end
      end
      client:close_write()
    end)
    local reader = lp.go(count_megas, sink)
    assert.equal(50 * #mega, net.copy(dst, src))
    dst:close_write()
    writer:join()
    assert.same({ "eof", 50 * #mega }, { reader:join() })
  end)

  it("begins with what stands in the source's buffer", function()
    local client, src = pair()
    local dst, sink = pair()
    client:write "head\nbody of it, and more\nrest"
    client:close_write()
    assert.equal("head", src:read_line())
    assert.equal(4, net.copy(dst, src, 4))
    assert.equal("body", sink:read_exact(4))
    assert.equal(10, net.copy(dst, src, 10))
    assert.equal(" of it, an", sink:read_exact(10))
    assert.equal("d more", src:read_line())
    assert.equal(4, net.copy(dst, src))
    assert.equal("rest", sink:read_exact(4))
    assert.equal(0, net.copy(dst, src))
    assert.equal(0, net.copy(dst, src, 100))
  end)

  it("takes no more than n bytes, also where they come one by one", function()
    local client, src = pair()
    local dst, sink = pair()
    local g = lp.go(function()
      for c in ("0123456789"):gmatch "." do
        client:write(c)
        lp.yield()
      end
    end)
    assert.equal(7, net.copy(dst, src, 7))
    assert.equal("0123456", sink:read_exact(7))
    g:join()
    assert.equal("789", src:read_exact(3))
    assert.equal(0, net.copy(dst, src, 0))
  end)

  it("echoes", function()
    local a, b = pair()
    local g = lp.go(function()
      local n = net.copy(b, b)
      b:close_write()
      return n
    end)
    local w = lp.go(function()
      a:write(mega)
      a:close_write()
    end)
    assert.is_true(a:read_all() == mega)
    assert.equal(#mega, g:join())
    w:join()
  end)

  it("sends a file, from where it stands", function()
    local dst, sink = pair()
    local f = file_of(mega)
    assert.equal("000", f:read(3))
    local reader = lp.go(sink.read_all, sink)
    assert.equal(10, net.copy(dst, f, 10))
    assert.equal(13, f:seek "cur")
    f:seek("set", 13)
    assert.equal(#mega - 13, net.copy(dst, f))
    assert.equal(#mega, f:seek "cur")
    assert.equal(0, net.copy(dst, f))
    dst:close_write()
    assert.is_true(reader:join() == mega:sub(4))
    f:close()
  end)

  it("sends what was just written to the file, and 50 MB of it", function()
    local dst, sink = pair()
    local f = file_of ""
    for _ = 1, 50 do f:write(mega) end
    f:seek "set"
    local reader = lp.go(count_megas, sink)
    assert.equal(50 * #mega, net.copy(dst, f))
    dst:close_write()
    assert.same({ "eof", 50 * #mega }, { reader:join() })
    f:close()
  end)

  it("writes a connection into a file, and a file into another", function()
    local client, src = pair()
    local f, g = file_of "", file_of ""
    local writer = lp.go(function()
      client:write(mega)
      client:close_write()
    end)
    assert.equal(100, net.copy(f, src, 100))
    assert.equal(#mega - 100, net.copy(f, src))
    writer:join()
    f:seek "set"
    assert.is_true(f:read "*a" == mega)
    f:seek "set"
    assert.equal(#mega - 1, net.copy(g, f, #mega - 1))
    assert.equal(1, net.copy(g, f, 100))
    g:seek "set"
    assert.is_true(g:read "*a" == mega)
    f:close()
    g:close()
  end)

  it("copies a pipe, which has no position", function()
    local dst, sink = pair()
    local p = io.popen "echo from a pipe"
    assert.equal(12, net.copy(dst, p))
    p:close()
    assert.equal("from a pipe", sink:read_line())
  end)

  it("copies what reads and writes as connections do", function()
    local dst, sink = pair()
    local pieces, got = { "one ", "two ", "three" }, {}
    local src = { read = function() return table.remove(pieces, 1), "eof" end }
    assert.equal(13, net.copy(dst, src))
    assert.equal("one two three", sink:read_exact(13))
    dst:write "back"
    dst:close_write()
    assert.equal(4, net.copy({
      write = function(_, text)
        got[#got + 1] = text
        return true
      end,
    }, sink))
    assert.equal("back", table.concat(got))
    sink:write "kept"
    assert.same({ nil, "no", 0 }, { net.copy({ write = function() return nil, "no" end }, dst, 4) })
    assert.equal("kept", dst:read_exact(4))
    assert.same({ nil, "tired", 0 }, { net.copy(dst, { read = function() return nil, "tired" end }) })
  end)

  it("loses nothing when the destination does not take it all", function()
    local client, src = pair()
    local dst, sink = pair()
    local n = 64 * #mega
    local writer = lp.go(function()
      for _ = 1, 64 do
        if not client:write(mega) then return end
      end
      client:close_write()
    end)
    dst:set_write_deadline(0.05)
    local ok, err, moved = net.copy(dst, src)
    assert.same({ nil, "timeout" }, { ok, err })
    assert.is_true(moved > 0 and moved < n)
    dst:set_write_deadline(nil)
    local reader = lp.go(count_megas, sink)
    assert.equal(n - moved, net.copy(dst, src))
    dst:close_write()
    writer:join()
    assert.same({ "eof", n }, { reader:join() })
  end)

  it("leaves a file where it got to when the destination does not take it all", function()
    local dst, sink = pair()
    local f = file_of ""
    for _ = 1, 32 do f:write(mega) end
    f:seek "set"
    dst:set_write_deadline(0.02)
    local ok, err, moved = net.copy(dst, f)
    assert.same({ nil, "timeout", f:seek "cur" }, { ok, err, moved })
    dst:set_write_deadline(nil)
    local reader = lp.go(count_megas, sink)
    assert.equal(32 * #mega - moved, net.copy(dst, f))
    dst:close_write()
    local _, n = reader:join()
    assert.equal(32 * #mega, n)
    f:close()
  end)

  it("leaves a file where it got to that goes by buffer, too", function()
    local dst = pair()
    local f = assert(io.open "/proc/self/limits") -- the kernel does not send it itself
    local full = 0
    while full < 3 do
      dst:set_write_deadline(0.1)
      full = dst:write(("x"):rep(65536)) and 0 or full + 1
    end
    -- Nobody reads, so some copy is the first that is not taken whole. On a busy machine the kernel makes room late.
    repeat
      f:seek "set"
      dst:set_write_deadline(0.02)
      local ok, err, moved = net.copy(dst, f)
      if ok == nil then assert.same({ "timeout", f:seek "cur" }, { err, moved }) end
    until ok == nil
    f:close()
  end)

  it("answers timeout, canceled, closed, and why it broke, with the count", function()
    local client, src = pair()
    local dst, sink = pair()
    client:write "12345"
    src:set_read_deadline(0.01)
    assert.same({ nil, "timeout", 5 }, { net.copy(dst, src) })
    src:set_read_deadline(nil)
    assert.same({ nil, "timeout", 0 }, { lp.deadline(0.005, net.copy, dst, src) })
    local g = lp.go(net.copy, dst, src)
    lp.sleep(0.002)
    g:cancel()
    assert.same({ nil, "canceled", 0 }, { g:join() })
    -- Afterwards, somebody else has the turns.
    client:write "x\n"
    assert.equal("x", src:read_line())
    g = lp.go(net.copy, dst, src)
    lp.sleep(0.002)
    src:close()
    assert.same({ nil, "closed", 0 }, { g:join() })
    client, src = pair()
    sink:close()
    client:write "x"
    lp.sleep(0.005)
    local first = net.copy(dst, src, 1)
    lp.sleep(0.005)
    client:write "yz"
    local ok, err, n = net.copy(dst, src)
    assert.is_nil(ok)
    assert.is_true(err == "broken pipe" or err == "connection reset by peer")
    assert.equal(0, n)
    local left = first == 1 and "yz" or "xyz"
    assert.equal(left, src:read_exact(#left))
    dst:close()
    local file = file_of "x"
    assert.same({ nil, "closed", 0 }, { net.copy(dst, file) })
    file:close()
  end)

  it("needs no pipe when there are no descriptors left", function()
    -- One that has no pipe from before.
    local loaded = package.loaded["lunapark.net.copy"]
    package.loaded["lunapark.net.copy"] = nil
    local copy = require("lunapark.net.copy").copy
    package.loaded["lunapark.net.copy"] = loaded
    local client, src = pair()
    local dst, sink = pair()
    local writer = lp.go(function()
      for _ = 1, 5 do client:write(mega) end
      client:close_write()
    end)
    local reader = lp.go(count_megas, sink)
    local limit, none = ffi.new "copy_spec_rlimit", ffi.new "copy_spec_rlimit"
    ffi.C.getrlimit(7, limit) -- RLIMIT_NOFILE
    none.hard = limit.hard
    ffi.C.setrlimit(7, none)
    local n, err = copy(dst, src)
    ffi.C.setrlimit(7, limit)
    assert.same({ 5 * #mega, nil }, { n, err })
    writer:join()
    dst:close()
    assert.same({ "eof", 5 * #mega }, { reader:join() })
  end)

  it("lets others write to the destination while the source is silent", function()
    local client, src = pair()
    local dst, sink = pair()
    local g = lp.go(net.copy, dst, src)
    client:write "copied\n"
    assert.equal("copied", sink:read_line())
    assert(dst:write "mine\n")
    assert.equal("mine", sink:read_line())
    client:close()
    assert.equal(7, g:join())
  end)

  it("keeps no descriptors", function()
    local function copies(n)
      for _ = 1, n do
        local client, src = pair()
        local dst, sink = pair()
        client:write "x"
        client:close_write()
        assert.equal(1, net.copy(dst, src))
        assert.equal("x", sink:read())
        open.close()
      end
    end
    copies(1)
    for _ = 1, 2 do collectgarbage() end
    local before = pairs_of.descriptors()
    copies(50)
    assert.is_true(pairs_of.descriptors() <= before + 10)
  end)

  it("keeps no descriptors of copies at the same time, either", function()
    local function at_once(n)
      local gs, clients = {}, {}
      for i = 1, n do
        local client, src = pair()
        gs[i], clients[i] = lp.go(net.copy, pair(), src), client
      end
      for _ = 1, 2 do
        for _, client in ipairs(clients) do client:write "x" end
        lp.sleep(0.002) -- each has a pipe by now
      end
      for i = 1, n do
        clients[i]:close_write()
        assert.equal(2, gs[i]:join())
      end
      open.close()
    end
    at_once(2)
    local before = pairs_of.descriptors()
    at_once(40)
    assert.is_true(pairs_of.descriptors() <= before + 10)
  end)

  it("brings no byte of a connection into this process, however long the destination waits", function()
    local client, src = pair()
    local dst, sink = pair()
    local writer = lp.go(function()
      for _ = 1, 20 do
        assert(client:write(mega))
      end
      client:close_write()
    end)
    local g = lp.go(net.copy, dst, src)
    for _ = 1, 50 do -- meanwhile all buffers of the kernel fill up
      lp.sleep(0.002)
      assert.equal(0, src.buffer["end"] - src.buffer.pos)
    end
    local reader = lp.go(count_megas, sink)
    assert.equal(20 * #mega, g:join())
    dst:close_write()
    writer:join()
    assert.same({ "eof", 20 * #mega }, { reader:join() })
  end)

  it("has no pipe that programs inherit", function()
    local client, src = pair()
    local dst, sink = pair()
    client:write "x"
    client:close_write()
    assert.equal(1, net.copy(dst, src))
    assert.equal("x", sink:read())
    assert.equal(pipes_for_programs, count_pipes_for_programs())
  end)

  it("refuses misuse, naming the argument", function()
    local a = pair()
    local f = file_of "x"
    f:close()
    assert.matches("copy: dst must be a connection, a file, or what has write, got nil", helper.raised(net.copy))
    assert.matches("copy: dst must be", helper.raised(net.copy, 5, a))
    assert.matches("copy: src must be .* what has read, got table", helper.raised(net.copy, a, {}))
    assert.matches("copy: src is a closed file", helper.raised(net.copy, a, f))
    assert.matches("copy: n must be a whole number, 0 or more", helper.raised(net.copy, a, a, -1))
    assert.matches("copy: n must be a whole number", helper.raised(net.copy, a, a, "1"))
  end)

  it("sends by buffer what the kernel does not send itself", function()
    local a, b = pair()
    local want = helper.text_of "/proc/self/limits"
    local f = assert(io.open "/proc/self/limits")
    assert.equal(#want, net.copy(a, f))
    f:close()
    assert.equal(want, b:read_exact(#want))
  end)

  -- Nobody reads the child's stdout: with another SIGPIPE than its own it would end.
  it("to a peer that is gone is an error, and no signal ends the process", function()
    local child = require "spec.support.child"
    finally(child.clean)
    local name = os.tmpname()
    paths[#paths + 1] = name
    local f = assert(io.open(name, "w"))
    f:write(("x"):rep(4e6))
    f:close()
    local code, _, err = child.run { "run", child.script(([[
      local lp, net, exec = require "lunapark", require "lunapark.net", require "lunapark.exec"
      local ffi = require "ffi"
      ffi.cdef "int pipe(int *ends); int dup2(int from, int to); int close(int fd);"
      local ends = ffi.new "int[2]"
      assert(ffi.C.pipe(ends) == 0 and ffi.C.dup2(ends[1], 1) == 1)
      for i = 0, 1 do ffi.C.close(ends[i]) end
      local function say(text) io.stderr:write(text, "\n") end
      local ln = net.listen "127.0.0.1:0"
      local function gone()
        local a = assert(net.dial(ln:addr()))
        local b = ln:accept()
        b:close()
        a:write "into the void"
        lp.sleep(0.05)
        return a
      end
      local _, err = net.copy(gone(), assert(io.open %q))
      say(err)
      local src, feeder = net.dial(ln:addr()), ln:accept()
      lp.go(function() feeder:write(("y"):rep(1e6)) feeder:close() end)
      _, err = net.copy(gone(), src)
      say(err)
      say("code " .. exec.run({ "true" }, { stdin = ("z"):rep(1e6) }).code)
    ]]):format(name)) }
    assert.equal(0, code, err)
    local words = { ["broken pipe"] = true, ["connection reset by peer"] = true, ["code 0"] = true }
    for line in err:gmatch "[^\n]+" do assert.is_true(words[line], line) end
    assert.equal(3, helper.count(err, "\n"))
  end)
end)
