-- os.execute, io.popen, and reads of stdin, FIFOs and terminals by the io library: they answer what LuaJIT's do, and
-- only their G waits. What such a test waits for is done by another G, so it would stand still for ever otherwise.

local lp = require "lunapark"
local exec = require "lunapark.exec"
local fs = require "lunapark.fs"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local helper = require "spec.helper"

-- LuaJIT's own, which block.
local original = debug.getregistry()["lunapark.blocking"] or { execute = os.execute, popen = io.popen }

local function results(ok, ...)
  local list = { ok, ... }
  for i = 1, select("#", ...) + 1 do
    list[i] = tostring(list[i]):gsub("0x%x+", "0x"):gsub("^%S+lua:%d+: ", ""):gsub("to '[^']*'", "to ?")
      :gsub("argument #%d", "argument")
  end
  return list
end

local function fifo()
  local path = child.file()
  assert(exec.run({ "mkfifo", path }).code == 0)
  return path
end

-- Lua's words for its programs: what it wrote, and its exit code.
local function sh(line, ...)
  return child.start { binary = "/bin/sh", "-c", line, child.binary, ... }
end

describe("answers as LuaJIT's", function()
  after_each(child.clean)

  for _, line in ipairs {
    "true", "exit 3", "kill -TERM $$", "exit 255", "nosuchprogram-x 2>/dev/null", "exec >&2", "",
  } do
    it(("os.execute %q"):format(line), function()
      assert.same(results(pcall(original.execute, line)), results(pcall(os.execute, line)))
    end)
  end

  it("os.execute without a line, or with none", function()
    assert.same({ pcall(original.execute) }, { pcall(os.execute) })
    assert.same(results(pcall(original.execute, {})), results(pcall(os.execute, {})))
  end)

  local READ = "printf ' 12 0x10 -1e3x\\nline 2\\n\\nlast'"
  for what, use in pairs {
    ["a file"] = function(open) local f = open "true" return f, io.type(f), f:close(), io.type(f), tostring(f) end,
    ["lines"] = function(open) local f = open(READ) return f:read(), f:read "*l", f:read "*L", f:read "l", f:read() end,
    ["all"] = function(open)
      local f = open(READ)
      return f:read "*a", f:read "*a", f:read "*l", f:read(0), f:read(1)
    end,
    ["numbers"] = function(open) return open(READ):read("*n", "*n", "*n", "*n", "*l") end,
    ["one number too few"] = function(open) return open "echo 1":read("*n", "*n", "*n") end,
    ["bytes"] = function(open) local f = open(READ) return f:read(0), f:read(3, 1, 100), f:read(1) end,
    ["an unknown format"] = function(open) return open(READ):read "*x" end,
    ["an iterator"] = function(open)
      local all = {}
      for line in open(READ):lines() do all[#all + 1] = line end
      return table.concat(all, "|")
    end,
    ["an iterator of bytes"] = function(open)
      local all = {}
      for bytes in open(READ):lines(4) do all[#all + 1] = bytes end
      return table.concat(all, "|")
    end,
    ["written to"] = function(open) return open "cat":write "x" end,
    ["read from"] = function(open) return open("cat", "w"):read() end,
    ["written"] = function(open)
      local f = open("cat >/dev/null", "w")
      return f:write("x", 1, 2.5), f:flush(), f:setvbuf "line", f:close()
    end,
    ["what can't be written"] = function(open) return open("cat", "w"):write({}) end,
    ["a place"] = function(open) return open "true":seek "set" end,
    ["closed"] = function(open) local f = open "true" f:close() return f:read() end,
    ["closed twice"] = function(open) local f = open "true" f:close() return f:close() end,
    ["closed by io.close"] = function(open) return io.close(open "exit 3") end,
    ["a mode that is none"] = function(open) return open("true", "x") end,
    ["a command that is none"] = function(open) return open {} end,
    ["a program that is none"] = function(open)
      local f = open "nosuchprogram-x 2>/dev/null"
      return f:read "*a", f:close()
    end,
    ["other methods"] = function(open) return open "true":nosuch() end,
  } do
    it("io.popen: " .. what, function()
      local function used(popen)
        local opened
        local list = results(pcall(use, function(...)
          local err, code
          opened, err, code = popen(...)
          return opened, err, code
        end))
        if opened and io.type(opened) == "file" then opened:close() end
        return list
      end
      assert.same(used(original.popen), used(io.popen))
    end)
  end

  it("io.type of others", function()
    assert.equal("file", io.type(io.stdin))
    assert.is_nil(io.type {})
    assert.is_nil(io.type "x")
  end)
end)

describe("only its G waits for", function()
  after_each(child.clean)

  it("os.execute", function()
    local path = fifo()
    local g = lp.go(os.execute, "exit $(cat " .. path .. ")")
    assert.is_true(fs.write(path, "7"))
    assert.equal(7 * 256, g:join())
  end)

  it("io.popen's read, write and close", function()
    local path = fifo()
    local reader = lp.go(function()
      local f = io.popen("cat " .. path)
      local text = f:read "*a"
      return text, f:close()
    end)
    local writer = lp.go(function()
      local f = io.popen("cat >" .. path, "w")
      f:write(("x"):rep(300000))
      return f:close()
    end)
    assert.equal(300000, #reader:join())
    assert.is_true(writer:join())
    local closer = lp.go(function() return io.popen("read x <" .. path):close() end)
    assert.is_true(fs.write(path, "line\n"))
    assert.is_true(closer:join())
  end)

  it("reads of several Gs, one after another", function()
    local path = fifo()
    local f = io.popen("printf 123456789; read x <" .. path)
    local first = lp.go(function() return f:read "*n" end)
    lp.yield()
    local second = lp.go(function() return f:read(9) end)
    lp.sleep(0.05) -- in which the second could take what the first has seen
    assert.is_true(fs.write(path, "line\n"))
    assert.same({ 123456789, nil }, { first:join(), (second:join()) })
    assert.same({ "", nil }, { f:read "*a", (f:read(100000)) })
    local third = lp.go(function() return f:read "*l" end)
    assert.is_true(f:close())
    assert.is_nil((third:join()))

    f = io.popen("read x <" .. path)
    local readers = {}
    for i = 1, 3 do readers[i] = lp.go(function() return f:read "*l" end) end
    lp.yield()
    local closer = lp.go(function() return f:close() end)
    for i = 1, 3 do assert.same({ nil, "closed" }, { readers[i]:join() }) end
    assert.is_true(fs.write(path, "line\n"))
    assert.is_true(closer:join())
  end)

  it("FIFOs by io.open, io.lines, io.input and io.output", function()
    local path, at_end = fifo(), child.file()
    local function with(reader, writer)
      local g = lp.go(reader)
      writer()
      return g:join()
    end
    local function write()
      local f = assert(io.open(path, "w"))
      assert(io.type(f) == "file")
      assert(f:write("one\ntwo\n", 3))
      f:close()
    end
    local function all(f)
      local text = f:read "*a"
      f:close()
      return text
    end
    assert.equal("one\ntwo\n3", with(function() return all(io.open(path)) end, write))
    local function lines()
      local list = {}
      for line in io.lines(path) do list[#list + 1] = line end
      return table.concat(list, "|")
    end
    assert.equal("one|two|3", with(lines, write))
    local input, output = io.input(), io.output()
    local function default_files()
      local a, b = with(function()
        io.input(path)
        local word, rest = io.read(3, "*a")
        io.close(io.input())
        return word, rest
      end, function()
        io.output(path)
        io.write("abc", "def")
        io.close()
      end)
      return a .. "-" .. b
    end
    local ok, text = pcall(default_files)
    io.input(input)
    io.output(output)
    assert.same({ true, "abc-def" }, { ok, text })
    -- A link to one, and both ways.
    helper.link(path, at_end)
    local both = assert(io.open(at_end, "r+"))
    both:write "echo\n"
    assert.equal("echo", both:read())
    both:close()
    assert.same({ nil, at_end .. ": timeout" }, { lp.deadline(0.01, function()
      local f, err = io.open(at_end, "w")
      return f, err
    end) })
  end)

  it("a server's handlers, however many", function()
    local path = fifo()
    local client = testing.serve(function(req)
      if req.path == "/execute" then return tostring(os.execute("exit $(cat " .. path .. ")")) end
      if req.path == "/" then return "hello" end
      local f = assert(req.path == "/popen" and io.popen("cat " .. path) or io.open(path))
      local text = tostring(f:read())
      f:close()
      return text
    end)
    local gs = {}
    for i = 1, 45 do
      local path_of = ({ "/execute", "/popen", "/open" })[i % 3 + 1]
      gs[i] = lp.go(function() return client:get(path_of).status end)
    end
    for _ = 1, 5 do
      assert.equal("hello", client:get("/").body)
    end
    local over = false
    local feeder = lp.go(function()
      while not over do
        lp.deadline(0.05, fs.write, path, "1\n")
      end
    end)
    for _, g in ipairs(gs) do
      assert.equal(200, g:join())
    end
    over = true
    feeder:join()
  end)

  -- The script's stdin is a pipe, into which another of its Gs writes.
  local SCRIPT = [[
    local lp, ffi = require "lunapark", require "ffi"
    local C = ffi.C
    ffi.cdef "int pipe(int *fds); int dup2(int, int); int close(int); long write(int, const char *, size_t);"
    local fds = ffi.new "int[2]"
    assert(C.pipe(fds) == 0 and C.dup2(fds[0], 0) == 0)
    lp.go(function()
      C.write(fds[1], arg[1], #arg[1])
      C.close(fds[1])
    end)
  ]]
  for what, case in pairs {
    ["io.read"] = { "io.write(tostring(io.read()), tostring(io.read()), tostring(io.read()))", "a\nb", "abnil" },
    ["io.read of numbers"] = { "print(io.read('*n', '*n'))", "1 2", "1\t2\n" },
    ["io.stdin:read"] = { "io.write(io.stdin:read(1, '*a'))", "whole\ntext\n", "whole\ntext\n" },
    ["io.lines"] = { "for line in io.lines() do io.write(line, '|') end", "a\nb\n", "a|b|" },
    ["io.stdin:lines"] = { "for line in io.stdin:lines('*L') do io.write(line, '|') end", "a\nb\n", "a\n|b\n|" },
    ["io.input():read"] = { "io.write(io.input():read('*a'))", "text", "text" },
  } do
    it("stdin by " .. what, function()
      assert.same({ 0, case[3], "" }, { child.run { "run", child.script(SCRIPT .. case[1]), case[2] } })
    end)
  end
end)

describe("stdin that is a file", function()
  after_each(child.clean)

  it("is read as ever, and has places", function()
    local input = child.file "one\ntwo\n"
    local c = sh('exec "$0" run "$1" <"$2"', child.script [[
      print(io.read(), io.stdin:seek "cur", io.read "*a", io.stdin:seek "set")
      for line in io.lines() do print(line) end
      print(io.type(io.stdin), io.input() == io.stdin)
    ]], input)
    assert.same({ 0, "one\t4\ttwo\n\t0\none\ntwo\nfile\ttrue\n", "" }, { c:wait(), c:stdout(), c:stderr() })
  end)
end)

describe("a program", function()
  after_each(child.clean)

  it("ends with the wait for it", function()
    for _, run in ipairs {
      function(line) return os.execute(line) end,
      function(line)
        local f = assert(io.popen(line)) -- "canceled" may come as early as this
        f:read()
        return f:close()
      end,
    } do
      local path = child.file()
      local line = ("echo $$ >%s; echo; exec sleep 1000 >&2"):format(path)
      local g = lp.go(function() return run(line) end)
      local pid = child.eventually(function()
        return fs.stat(path) and tonumber(fs.read(path))
      end, "the start of the program")
      g:cancel()
      local _, err = g:join()
      assert.equal("canceled", err)
      child.eventually(function() return not fs.stat("/proc/" .. pid) end, "its end")
    end
    assert.same({ -1, "timeout" }, { lp.deadline(0.05, os.execute, "exec sleep 1000") })
  end)

  it("of a script has its stdin and its process group, one of an app has not", function()
    local text = [[
      local function field(line)
        local f = io.popen(line)
        return tostring(f:read "*l"), f:close()
      end
      local function answer()
        local group = field "cut -d' ' -f5 /proc/self/stat"
        local f = io.open "/proc/self/stat"
        local ours = f:read "*a":match "%) %S+ %S+ (%S+)"
        f:close()
        return (group == ours and "ours" or "its own") .. " " .. field "readlink /proc/self/fd/0"
      end
    ]]
    local input = child.file "x"
    local c = sh('exec "$0" run "$1" <"$2"', child.script(text .. "print(answer())"), input)
    assert.same({ 0, "ours " .. input .. "\n", "" }, { c:wait(), c:stdout(), c:stderr() })
    c = child.serve { child.script(text .. "return answer") }
    assert.equal("its own /dev/null", child.client(c.addr):get("/").body)
  end)

  it("runs where nothing can wait", function()
    local code, text
    local p = newproxy(true)
    getmetatable(p).__gc = function()
      code = os.execute "exit 3"
      local f = io.popen "echo hi"
      text = f:read()
      f:close()
    end
    p = nil -- luacheck: ignore 311
    collectgarbage()
    collectgarbage()
    assert.same({ 768, "hi" }, { code, text })
    testing.virtual(function() code = os.execute "exit 4" end)
    assert.equal(1024, code)
  end)
end)
