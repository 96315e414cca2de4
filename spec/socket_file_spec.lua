-- Files by which others find a server: unix sockets, the pid file. Nobody else's file is lost for them.

local fs = require "lunapark.fs"
local net = require "lunapark.net"
local child = require "spec.support.child"
local helper = require "spec.helper"

local APP = "return function() return 'hello' end"

describe("the file of a unix socket", function()
  after_each(child.clean)

  for _, option in ipairs { "--listen", "--admin" } do
    it("is never made where there is another file, by " .. option, function()
      local path, link = child.file "precious", child.file()
      helper.link(path, link)
      for _, there in ipairs { path, link } do
        local code, _, err = child.run { child.script(APP), "--listen=127.0.0.1:0", option .. "=unix:" .. there }
        assert.equal(1, code)
        assert.matches("cannot listen on unix:" .. there:gsub("%p", "%%%0") .. ": [Ff]ile exists", err)
        assert.equal("precious", helper.text_of(path))
      end
      assert.is_true(helper.is_link(link))
    end)
  end

  it("stays if it is a datagram socket's", function()
    local path = child.file()
    local u = assert(net.udp("unix:" .. path))
    local code, _, err = child.run { child.script(APP), "--listen", "unix:" .. path }
    assert.equal(1, code)
    assert.matches("in use", err)
    assert.equal("socket", fs.stat(path).type)
    u:close()
    assert.is_nil(io.open(path))
  end)

  it("is removed at the end, but not what has taken its place", function()
    local path = child.file()
    local c = child.serve { child.script(APP), "--listen", "unix:" .. path }
    os.remove(path)
    assert(fs.write(path, "precious"))
    c:kill "TERM"
    assert.equal(0, c:wait())
    assert.equal("precious", helper.text_of(path))
  end)

  it("of net.listen and net.udp is removed at the end, but not what has taken its place", function()
    for _, make in ipairs { net.listen, net.udp } do
      local path = child.file()
      local s = assert(make("unix:" .. path))
      os.remove(path)
      assert(fs.write(path, "precious"))
      s:close()
      assert.equal("precious", helper.text_of(path))
    end
  end)
end)

describe("--pid-file", function()
  after_each(child.clean)

  it("follows no link, neither at its name nor beside it", function()
    local victim, path = child.file "precious", child.file()
    helper.link(victim, path)
    -- The shell becomes the server, so it knows the pid.
    local c = child.serve {
      binary = "/bin/sh", "-c", [[ln -s "$0" "$1.$$" && exec "$2" "$3" --pid-file "$1" --listen 127.0.0.1:0]],
      victim, path, child.binary, child.script(APP), listeners = 1,
    }
    assert.equal("precious", helper.text_of(victim))
    assert.equal(c.pid .. "\n", helper.text_of(path))
    assert.is_false(helper.is_link(path))
    c:kill "TERM"
    assert.equal(0, c:wait())
    assert.is_nil(io.open(path))
    os.remove(path .. "." .. c.pid)
    assert.equal("precious", helper.text_of(victim))
  end)
end)
