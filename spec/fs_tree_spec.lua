-- lunapark.fs: making, renaming and removing files and directories, and walks.

local lp = require "lunapark"
local exec = require "lunapark.exec"
local fs = require "lunapark.fs"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local helper = require "spec.helper"

testing.block_timeout(90)

describe("fs", function()
  local dir

  before_each(function()
    dir = os.tmpname()
    os.remove(dir)
    assert(fs.mkdir(dir))
  end)
  after_each(function() exec.run { "sh", "-c", "chmod -R u+rwx '" .. dir .. "'; rm -rf '" .. dir .. "'" } end)

  local function path(name) return dir .. "/" .. name end

  local function shell(script)
    local r = exec.run({ "sh", "-ec", script }, { cwd = dir })
    assert.equal(0, r.code, r.stderr)
    return r.stdout
  end

  local function descriptors() return #assert(fs.list "/proc/self/fd") end

  -- The tree below dir by find(1): a line for each name.
  local function found(where)
    local lines = {}
    for line in exec.run({ "find", where, "-mindepth", "1", "-printf", "%y %p\n" }).stdout:gmatch "[^\n]+" do
      lines[#lines + 1] = line
    end
    table.sort(lines)
    return lines
  end

  describe("mkdir", function()
    it("makes a directory, with a mode", function()
      assert.is_true(fs.mkdir(path "a"))
      assert.equal("directory", fs.stat(path "a").type)
      assert.is_true(fs.mkdir(path "b", { mode = 448 }))
      assert.equal(448, fs.stat(path "b").mode)
      assert.is_true(fs.mkdir(path "a/c/"))
      assert.equal("directory", fs.stat(path "a/c").type)
    end)

    it("says why not", function()
      assert.same({ nil, "file exists: " .. dir }, { fs.mkdir(dir) })
      assert.same({ nil, "no such file or directory: " .. path "x/y" }, { fs.mkdir(path "x/y") })
      assert.same({ nil, "no such file or directory: " }, { fs.mkdir "" })
      assert.same({ nil, "invalid argument: " .. path "." }, { fs.mkdir(path ".") })
      fs.write(path "f", "")
      assert.same({ nil, "not a directory: " .. path "f/x" }, { fs.mkdir(path "f/x") })
      assert.same({ nil, "not a directory: " .. path "f/x" }, { fs.mkdir(path "f/x", { parents = true }) })
      assert.same({ nil, "not a directory: " .. path "f" }, { fs.mkdir(path "f", { parents = true }) })
      assert.matches("mkdir: path must be", helper.raised(fs.mkdir, 1))
      assert.matches("mkdir: path must not contain a NUL byte", helper.raised(fs.mkdir, "a\0b"))
      assert.matches("mkdir: opts.mode must be", helper.raised(fs.mkdir, "x", { mode = 4096 }))
      assert.matches("mkdir: opts.mode must be", helper.raised(fs.mkdir, "x", { mode = "x" }))
      assert.matches("mkdir: opts.parents must be", helper.raised(fs.mkdir, "x", { parents = 1 }))
      assert.matches("mkdir: unknown option recursive", helper.raised(fs.mkdir, "x", { recursive = true }))
    end)

    it("makes what is missing on the way", function()
      assert.is_true(fs.mkdir(path "a/b//c/d", { parents = true, mode = 448 }))
      assert.equal(448, fs.stat(path "a/b/c/d").mode)
      assert.not_equal(448, fs.stat(path "a/b/c").mode)
      assert.is_true(fs.mkdir(path "a/b/c/d/", { parents = true }))
      assert.is_true(fs.mkdir(path "a/../e/./f", { parents = true }))
      assert.equal("directory", fs.stat(path "e/f").type)
      shell "ln -s a link && ln -s nothing none"
      assert.is_true(fs.mkdir(path "link/new/er", { parents = true }))
      assert.equal("directory", fs.stat(path "a/new/er").type)
      assert.same({ nil, "no such file or directory: " .. path "none/x" },
        { fs.mkdir(path "none/x", { parents = true }) })
    end)
  end)

  describe("rename", function()
    it("renames files and directories, and replaces", function()
      fs.write(path "a", "1")
      fs.write(path "b", "2")
      assert.is_true(fs.rename(path "a", path "b"))
      assert.equal("1", fs.read(path "b"))
      assert.is_nil(fs.stat(path "a"))
      fs.mkdir(path "d/e", { parents = true })
      assert.is_true(fs.rename(path "d", path "g"))
      assert.equal("directory", fs.stat(path "g/e").type)
      shell "ln -s nothing link"
      assert.is_true(fs.rename(path "link", path "moved"))
      assert.equal("nothing\n", shell "readlink moved")
    end)

    it("says why not", function()
      assert.same({ nil, "no such file or directory: " .. path "a" .. " -> " .. path "b" },
        { fs.rename(path "a", path "b") })
      fs.mkdir(path "d/e", { parents = true })
      assert.same({ nil, "invalid argument: " .. path "d" .. " -> " .. path "d/e/f" },
        { fs.rename(path "d", path "d/e/f") })
      assert.matches("rename: from must be a string", helper.raised(fs.rename, nil, "x"))
      assert.matches("rename: to must be a string", helper.raised(fs.rename, "x"))
      if (fs.stat "/dev/shm" or { dev = fs.stat(dir).dev }).dev ~= fs.stat(dir).dev then
        fs.write(path "f", "")
        local to = "/dev/shm/lunapark_fs_tree_" .. tostring(fs.stat(dir).ino)
        assert.same({ nil, "on two file systems: " .. path "f" .. " -> " .. to }, { fs.rename(path "f", to) })
      end
    end)
  end)

  describe("remove", function()
    it("removes a file, a link, an empty directory", function()
      fs.write(path "f", "")
      fs.mkdir(path "d")
      shell "ln -s d link && ln -s nothing none && mkfifo p"
      for _, name in ipairs { "f", "link", "none", "p" } do assert.is_true(fs.remove(path(name))) end
      assert.same({ "d" }, fs.list(dir))
      assert.is_true(fs.remove(path "d/"))
      assert.same({}, fs.list(dir))
    end)

    it("says why not", function()
      assert.same({ nil, "no such file or directory: " .. path "x" }, { fs.remove(path "x") })
      assert.same({ nil, "no such file or directory: " .. path "x" }, { fs.remove(path "x", { recursive = true }) })
      fs.mkdir(path "d/e", { parents = true })
      assert.same({ nil, "directory not empty: " .. path "d" }, { fs.remove(path "d") })
      fs.write(path "f", "")
      shell "ln -s d link"
      assert.same({ nil, "not a directory: " .. path "f/" }, { fs.remove(path "f/") })
      for _, opts in ipairs { {}, { recursive = true } } do
        assert.same({ nil, "not a directory: " .. path "link/" }, { fs.remove(path "link/", opts) })
        for _, name in ipairs { "d/.", "d/..", "." } do
          assert.same({ nil, "invalid argument: " .. path(name) }, { fs.remove(path(name), opts) })
        end
      end
      assert.same({ nil, "invalid argument: /" }, { fs.remove("/", { recursive = true }) })
      assert.same({ "d", "f", "link" }, fs.list(dir))
      assert.matches("remove: opts.recursive must be", helper.raised(fs.remove, "x", { recursive = 1 }))
      assert.matches("remove: unknown option parents", helper.raised(fs.remove, "x", { parents = true }))
    end)

    it("removes a tree, and follows no link in it", function()
      shell [[
        mkdir -p keep/in tree/a/b/c tree/d && echo 1 >keep/f && echo 1 >keep/in/f && echo 1 >tree/a/b/f
        ln -s ../keep tree/link && ln -s ../../../keep tree/a/b/up && ln -s . tree/d/self && ln -s .. tree/d/top
        mkfifo tree/p]]
      local before = descriptors()
      assert.is_true(fs.remove(path "tree", { recursive = true }))
      assert.same({ "keep" }, fs.list(dir))
      assert.equal("1\n", fs.read(path "keep/f"))
      assert.equal("1\n", fs.read(path "keep/in/f"))
      shell "ln -s keep link"
      assert.is_true(fs.remove(path "link", { recursive = true }))
      assert.equal("1\n", fs.read(path "keep/f"))
      assert.is_true(fs.remove(path "keep/f", { recursive = true }))
      assert.is_true(descriptors() <= before)
    end)

    it("removes a wide tree and a deep one", function()
      shell [[
        mkdir wide && cd wide && seq 60 | xargs mkdir
        for i in $(seq 60); do echo $i/a $i/b $i/c; done | xargs touch]]
      assert.is_true(fs.remove(path "wide", { recursive = true }))
      local deep = path "deep" .. ("/0123456789"):rep(300)
      assert.is_true(fs.mkdir(deep, { parents = true }))
      for depth = 1, 300, 30 do fs.append(path "deep" .. ("/0123456789"):rep(depth) .. "/f", "x") end
      assert.is_true(fs.remove(path "deep", { recursive = true }))
      assert.same({}, fs.list(dir))
    end)

    it("ends in the midst of a tree when the deadline comes", function()
      shell "mkdir t && cd t && seq 2000 | xargs touch"
      assert.same({ nil, "timeout" }, { lp.deadline(0, fs.remove, path "t", { recursive = true }) })
      helper.eventually(function() -- the job that had begun, if any, ends
        local n = #found(path "t")
        lp.sleep(0.2)
        return n == #found(path "t")
      end, "the end of the removal")
      assert.is_true(fs.stat(path "t") == nil or fs.remove(path "t", { recursive = true }))
    end)
  end)

  describe("walk", function()
    local function walked(...)
      local lines, errors = {}, {}
      local letters = { file = "f", directory = "d", link = "l", fifo = "p", socket = "s" }
      for name, type, err in fs.walk(...) do
        if err then
          assert.is_nil(type)
          errors[#errors + 1] = err
        else
          lines[#lines + 1] = letters[type] .. " " .. name
        end
      end
      table.sort(lines)
      return lines, errors
    end

    it("tells each name, as find does, and follows no link", function()
      shell [[
        mkdir -p a/b/c d && echo 1 >a/f && echo 1 >a/b/f && mkfifo a/p && ln -s . a/self && ln -s .. a/b/up
        ln -s nothing none && touch 'with
newline' && mkdir -p /dev/null/x 2>/dev/null || true]]
      local lines, errors = walked(dir)
      assert.same({}, errors)
      assert.equal(11, #lines)
      local names = {}
      for _, line in ipairs(lines) do names[line] = true end
      assert.is_true(names["l " .. path "a/self"] and names["d " .. path "a/b/c"] and names["p " .. path "a/p"])
      assert.is_true(names["f " .. path "with\nnewline"])
      fs.remove(path "with\nnewline")
      assert.same(found(dir), (walked(dir)))
      shell "ln -s a link"
      assert.equal(7, #walked(path "link/")) -- what a link leads to, if it is the first
      assert.equal(7, #walked(path "link"))
      assert.same({ "d " .. path "a/b/c", "f " .. path "a/b/f", "l " .. path "a/b/up" }, (walked(path "a/b")))
    end)

    it("tells a directory before what is in it", function()
      shell "mkdir -p a/b/c a/d && touch a/b/c/f a/f"
      local seen = { [dir] = true }
      for name in fs.walk(dir) do
        assert.is_true(seen[name:match "^(.*)/"], name)
        seen[name] = true
      end
      assert.is_true(seen[path "a/b/c/f"])
    end)

    it("tells what can't be read, and goes on", function()
      assert.same({ nil, "no such file or directory: " .. path "x" },
        { select(2, fs.walk(path "x")()) })
      assert.equal(path "x", (fs.walk(path "x")()))
      fs.write(path "f", "")
      local lines, errors = walked(path "f")
      assert.same({ {}, { "not a directory: " .. path "f" } }, { lines, errors })
    end)

    it("has few descriptors open in a deep tree, and comes back from there", function()
      local deep = path "deep"
      for i = 1, 300 do
        deep = deep .. "/d" .. i
        if i % 50 == 0 then
          assert.is_true(fs.mkdir(deep .. "/z", { parents = true }))
          fs.write(deep .. "/f", "")
        end
      end
      local before, most, n = descriptors(), 0, 0
      for _ in fs.walk(path "deep") do
        n = n + 1
        if n % 50 == 0 then most = math.max(most, descriptors()) end
      end
      assert.equal(300 + 2 * 6, n)
      assert.is_true(most <= before + 20, most - before)
      assert.is_true(descriptors() <= before + 1)
      assert.same(found(path "deep"), (walked(path "deep")))
    end)

    it("holds one batch of a wide tree, and ends where it is left", function()
      shell "mkdir w && cd w && seq 5000 | sed s/^/a_long_name_of_a_file_/ | xargs touch"
      assert.equal(5000, #walked(path "w"))
      local before = descriptors()
      local walk, n = fs.walk(path "w"), 0
      for _ in walk do
        n = n + 1
        if n == 10 then break end
      end
      assert.is_true(descriptors() > before)
      walk:close()
      walk:close()
      helper.eventually(function() return descriptors() <= before end, "the end of the walk")
      assert.is_nil(walk())
    end)

    it("ends with the deadline of the G, or when it is canceled", function()
      shell "mkdir -p a/b && touch a/b/f"
      local walk = fs.walk(dir)
      assert.same({ dir, nil, "timeout" }, { lp.deadline(0, function() return walk() end) })
      assert.is_nil(walk())
      local g = lp.go(function()
        lp.sleep(60)
        return fs.walk(dir)()
      end)
      lp.yield()
      g:cancel()
      assert.same({ dir, nil, "canceled" }, { g:join() })
    end)

    it("is one G's", function()
      shell "seq 2000 | xargs touch"
      local raised = 0
      repeat -- as long as each piece of the walk was there before the other G asked
        local walk, n = fs.walk(dir), 0
        local function go_on()
          while true do
            local ok, name = pcall(walk)
            if not ok then
              assert.matches("another G goes on with this walk", name)
              raised = raised + 1
              lp.yield()
            elseif name then
              n = n + 1
            else
              return
            end
          end
        end
        local a, b = lp.go(go_on), lp.go(go_on)
        a:join()
        b:join()
        assert.equal(2000, n)
      until raised > 0
      assert.matches("walk: path must be", helper.raised(fs.walk, nil))
      assert.matches("walk: unknown option", helper.raised(fs.walk, "x", { recursive = true }))
    end)
  end)

  it("names what may not be removed or read, and a walk goes on beside it", function()
    shell "mkdir -p t/a t/b/c && touch t/a/f t/b/f && chmod 777 . t t/b t/b/c && chmod 700 t/a"
    local script = child.script(([[
      local fs = require "lunapark.fs"
      local t = %q
      local names = {}
      for name, type, err in fs.walk(t) do names[#names + 1] = name:sub(#t + 1) .. " " .. (type or err) end
      table.sort(names)
      print(table.concat(names, "\n"))
      print(select(2, fs.remove(t .. "/a", { recursive = true })))
    ]]):format(path "t"))
    exec.run { "chmod", "644", script }
    exec.run { "cp", child.binary, path "lunapark" } -- which may lie where only root can look
    local r = exec.run { "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", path "lunapark", "run",
      script }
    if not r or r.code ~= 0 then return pending "no other user may run us here" end
    local t = path "t"
    assert.equal(table.concat({
      "/a directory", "/a permission denied: " .. t .. "/a", "/b directory", "/b/c directory", "/b/f file",
      "permission denied: " .. t .. "/a", "" }, "\n"), r.stdout)
  end)

  describe("below a folder", function()
    local root

    before_each(function()
      root = path "root"
      shell [[
        mkdir -p root/d secret && printf secret >secret/s && printf a >root/a && cd root && ln -s ../secret dir &&
        ln -s d in && ln -s /etc abs]]
    end)

    local OUT = { "../secret", "/etc", "dir/x", "abs/x", "d/../../secret/x", "../x", "in/../../secret/x" }

    it("changes nothing outside", function()
      local below = { below = root }
      for _, name in ipairs(OUT) do
        local said = { nil, "leads out of its folder: " .. name }
        assert.same(said, { fs.mkdir(name, below) })
        assert.same(said, { fs.mkdir(name, { below = root, parents = true }) })
        assert.same(said, { fs.remove(name, { below = root, recursive = true }) })
        assert.same({ nil, "leads out of its folder: a -> " .. name }, { fs.rename("a", name, below) })
        assert.same({ nil, "leads out of its folder: " .. name .. " -> a" }, { fs.rename(name, "a", below) })
      end
      assert.same({ { "s" }, "secret" }, { fs.list(path "secret"), fs.read(path "secret/s") })
      for _, name in ipairs { "../secret", "/etc", "dir", "abs", "d/../../secret" } do
        assert.same({ name, nil, "leads out of its folder: " .. name }, { fs.walk(name, below)() })
      end
    end)

    it("does what it does elsewhere", function()
      assert.is_true(fs.mkdir("d/new", { below = root }))
      assert.is_true(fs.mkdir("in/x/y/z", { below = root, parents = true }))
      assert.equal("directory", fs.stat(root .. "/d/x/y/z").type)
      assert.is_true(fs.rename("a", "in/x/a", { below = root }))
      assert.equal("a", fs.read(root .. "/d/x/a"))
      local names = {}
      for name in fs.walk("in", { below = root }) do names[#names + 1] = name end
      table.sort(names)
      assert.same({ "in/new", "in/x", "in/x/a", "in/x/y", "in/x/y/z" }, names)
      assert.equal("a", fs.read("in/x/a", { below = root }))
      local n = 0
      for name in fs.walk("", { below = root }) do
        assert.not_matches("^/", name)
        n = n + 1
      end
      assert.equal(9, n)
      assert.is_true(fs.remove("dir", { below = root, recursive = true })) -- the link
      assert.is_true(fs.remove("d", { below = root, recursive = true }))
      assert.same({ "abs", "in" }, fs.list(root))
      assert.equal("secret", fs.read(path "secret/s"))
      assert.same({ nil, "no such file or directory: " }, { fs.remove("", { below = root, recursive = true }) })
    end)
  end)
end)
