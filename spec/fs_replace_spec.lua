-- fs.write on files that are somebody's: owners, rights, mounts, folders of others.

local ffi = require "ffi"
local exec = require "lunapark.exec"
local fs = require "lunapark.fs"
local child = require "spec.support.child"

ffi.cdef [[
int geteuid(void);
int lp_test_setxattr(const char *path, const char *name, const char *value, size_t size, int flags) asm("setxattr");
]]

local root = ffi.C.geteuid() == 0
local NOBODY = 65534

local WRITE = [[
local ok, err = require("lunapark.fs").write(arg[1], arg[2])
print(ok or err)
]]

-- Runs a command line: what it wrote; raises if it failed.
local function sh(line, ...)
  local r = assert(exec.run({ line, "sh", ... }, { shell = true }))
  assert(r.code == 0, r.stderr)
  return (r.stdout:gsub("%s+$", ""))
end

describe("fs.write", function()
  local dir

  before_each(function()
    dir = sh "d=$(mktemp -d) && chmod 755 $d && echo $d"
  end)
  after_each(function()
    exec.run { "chmod", "-R", "u+w", dir }
    exec.run { "rm", "-rf", dir }
    child.clean()
  end)

  local function path(name)
    return dir .. "/" .. name
  end

  -- A file with the content "old".
  local function old(name, mode, owner)
    sh('printf old >"$1"', path(name))
    if owner then sh('chown "$2" "$1"', path(name), owner) end
    sh('chmod "$2" "$1"', path(name), mode)
    return path(name)
  end

  -- fs.write(file, text) by another process: as nobody with `as`, with a command before it with `before`.
  local function write_elsewhere(file, text, before, as)
    local app = child.script(WRITE)
    sh('chmod 644 "$1"', app)
    local who = as and ("setpriv --reuid=%d --regid=%d --clear-groups "):format(as, as) or ""
    return sh((before or "") .. who .. '"$1" run "$2" "$3" "$4" 2>&1', child.binary, app, file, text)
  end

  it("gives new content no setuid and setgid bits", function()
    for _, mode in ipairs { "4755", "2755", "6755", "1644" } do
      local file = old("f" .. mode, mode)
      assert.is_true(fs.write(file, "new"))
      assert.equal("new", fs.read(file))
      assert.equal(tonumber(mode, 8) % 1024, fs.stat(file).mode)
    end
  end)

  it("keeps a file's owner and group, and what others may do with it", function()
    if not root then return pending "only root can give files away" end
    local file = old("f", "640", "1234:2345")
    assert.is_true(fs.write(file, "new"))
    local s = fs.stat(file)
    assert.same({ 1234, 2345, tonumber("640", 8) }, { s.uid, s.gid, s.mode })
    -- A user's setuid program was root's, with the same rights.
    file = old("program", "4755", "1234:2345")
    assert.is_true(fs.write(file, "new"))
    s = fs.stat(file)
    assert.same({ 1234, 2345, tonumber("755", 8) }, { s.uid, s.gid, s.mode })
  end)

  it("keeps extended attributes, but not capabilities", function()
    local file = old("f", "644")
    if ffi.C.lp_test_setxattr(file, "user.colour", "red", 3, 0) ~= 0 then
      return pending "no extended attributes here"
    end
    local cap = "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    local has_cap = ffi.C.lp_test_setxattr(file, "security.capability", cap, #cap, 0) == 0
    assert.is_true(fs.write(file, "new"))
    ffi.cdef [[ int64_t lp_test_getxattr(const char *, const char *, char *, size_t) asm("getxattr"); ]]
    local buf = ffi.new "char[64]"
    assert.equal(3, tonumber(ffi.C.lp_test_getxattr(file, "user.colour", buf, 64)))
    if has_cap then assert.equal(-1, tonumber(ffi.C.lp_test_getxattr(file, "security.capability", buf, 64))) end
  end)

  it("writes a file in place that is a mount", function()
    if exec.run({ "unshare", "-m", "true" }).code ~= 0 then return pending "no mounts of one's own here" end
    old("host", "644")
    old("state", "644")
    local app = child.script(WRITE)
    local out = sh([[unshare -m sh -c 'mount --bind "$1" "$2" && "$3" run "$4" "$2" newer' sh "$@" 2>&1]], path "host",
      path "state", child.binary, app)
    assert.equal("true", out)
    assert.equal("newer", fs.read(path "host"))
    assert.equal("old", fs.read(path "state"))
    assert.same({ "host", "state" }, fs.list(dir))
  end)

  it("writes a file in place whose folder is read-only", function()
    local file = old("f", "666")
    sh('chmod 555 "$1"', dir)
    local as = root and NOBODY or nil
    for _, text in ipairs { "newer", "n", "" } do
      assert.equal("true", write_elsewhere(file, text, nil, as))
      assert.equal(text, fs.read(file))
    end
    local denied = old(root and "other" or "f", "444")
    assert.equal("permission denied: " .. denied, write_elsewhere(denied, "x", nil, as))
  end)

  it("writes a file in place whose owner it may not give to another", function()
    if not root then return pending "needs a file of another user" end
    local file = old("f", "6666", "1234:2345")
    sh('chmod 777 "$1"', dir)
    assert.equal("true", write_elsewhere(file, "new", nil, NOBODY))
    local s = fs.stat(file)
    assert.same({ 1234, 2345, tonumber("666", 8), "new" }, { s.uid, s.gid, s.mode, fs.read(file) })
    assert.same({ "f" }, fs.list(dir))
  end)

  it("loses nothing in place on a full disk", function()
    if exec.run({ "unshare", "-m", "true" }).code ~= 0 then return pending "no mounts of one's own here" end
    local app = child.script [[
      local fs = require "lunapark.fs"
      print((select(2, fs.write(arg[1], ("x"):rep(1000000)))))
      print((fs.read(arg[1])))
    ]]
    -- The file is a mount itself, so that there is no other way than in place.
    local out = sh([[unshare -m sh -c 'mount -t tmpfs -o size=64k none "$1" && printf old >"$1/f" &&
      mount --bind "$1/f" "$1/f" && "$2" run "$3" "$1/f"' sh "$@" 2>&1]], dir, child.binary, app)
    assert.equal(("no space left on device: %s\nold"):format(path "f"), out)
  end)
end)
