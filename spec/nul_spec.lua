-- Strings that C sees up to their first NUL byte: none of them gets there with one, so what an allow-list has looked at
-- is what is dialled, opened, started.

local dns = require "lunapark.dns"
local exec = require "lunapark.exec"
local fs = require "lunapark.fs"
local net = require "lunapark.net"
local source = require "lunapark.std.source"
local child = require "spec.support.child"
local helper = require "spec.helper"

describe("a NUL byte", function()
  local ln, addr

  setup(function()
    ln = assert(net.listen "127.0.0.1:0")
    addr = ln:addr() .. "\0.example.com:80"
  end)
  teardown(function() ln:close() end)
  after_each(child.clean)

  it("is refused in addresses", function()
    local u = assert(net.udp "127.0.0.1:0")
    for name, call in pairs {
      dial = net.dial, listen = net.listen, udp = net.udp, serve = function(a) return net.serve(a, print) end,
      connect = function(a) return (u:connect(a)) end,
      send = function(a) return (u:send("x", a)) end,
    } do
      for _, text in ipairs { addr, "unix:/tmp/a\0b", "127.0.0.1:0\0", "\0" } do
        local raised = helper.raised(function() local r = call(text) return r end)
        assert.matches("nul_spec.lua:%d+: " .. name .. ": addr must not contain a NUL byte", raised)
      end
    end
    u:close()
  end)

  it("makes a name that no name server is asked for", function()
    for _, name in ipairs { "127.0.0.1\0.example.com", "example.com\0" } do
      assert.same({ nil, "not a host name: " .. name }, { dns.lookup(name) })
      assert.same({ nil, "not a host name: " .. name }, { dns.query(name, "A") })
      assert.same({ nil, "not a host name: " .. name }, { dns.query(name, "PTR") })
      assert.matches("servers%[1%] is not right", helper.raised(dns.resolver, { servers = { name } }))
      assert.matches("search%[1%] is not right", helper.raised(dns.resolver, { search = { name } }))
    end
  end)

  it("is refused in paths and words", function()
    for _, name in ipairs { "read", "write", "append", "stat", "list", "open", "mkdir", "remove", "walk" } do
      assert.matches(name .. ": path must not contain a NUL byte", helper.raised(fs[name], "/etc/hostname\0.txt", ""))
    end
    for _, name in ipairs { "read", "append", "open" } do
      local raised = name == "read" and helper.raised(fs.read, "a", { below = "/etc\0" })
        or name == "append" and helper.raised(fs.append, "a", "", { below = "/etc\0" })
        or helper.raised(fs.open, "a", "r", { below = "/etc\0" })
      assert.matches(name .. ": opts.below must not contain a NUL byte", raised)
    end
    assert.matches("rename: from must not contain a NUL byte", helper.raised(fs.rename, "a\0", "b"))
    assert.matches("rename: to must not contain a NUL byte", helper.raised(fs.rename, "a", "b\0"))
    for _, name in ipairs { "mkdir", "remove", "walk" } do
      local raised = helper.raised(fs[name], "a", { below = "/\0" })
      assert.matches(name .. ": opts.below must not contain a NUL byte", raised)
    end
    assert.matches("join_below: root must not contain a NUL byte", helper.raised(fs.join_below, "/etc\0", "a"))
    for _, name in ipairs { "run", "spawn" } do
      assert.matches("argv%[1%] must not contain a NUL byte", helper.raised(exec[name], { "true\0" }))
      assert.matches("opts.cwd must not contain a NUL byte", helper.raised(exec[name], { "true" }, { cwd = "/\0" }))
      local env = { A = "\0" }
      assert.matches("opts.env.A must not contain a NUL byte", helper.raised(exec[name], { "true" }, { env = env }))
    end
    assert.matches("watch: path must not contain a NUL byte", helper.raised(source.watch, "/\0"))
  end)

  it("is refused in names of Lua files and modules", function()
    local path = child.script "return 1"
    local name = path .. "\0.lua"
    assert.equal(1, dofile(path))
    assert.same({ nil, "cannot open " .. name .. ": a NUL byte in its name" }, { loadfile(name) })
    assert.matches("a NUL byte in its name", helper.raised(dofile, name))
    assert.matches("name of a module must not contain a NUL byte", helper.raised(require, "lunapark.fs\0x"))
    assert.is_nil(package.loaded["lunapark.fs\0x"])
  end)

  it("is refused by the standard library", function()
    local name = child.file "x" .. "\0.txt"
    for _, call in ipairs { io.open, os.remove, os.rename } do
      assert.same({ nil, name .. ": Invalid argument", 22 }, { call(name, name) })
    end
    assert.matches("Invalid argument", helper.raised(io.lines, name))
    assert.matches("command must not contain a NUL byte", helper.raised(os.execute, "true\0"))
    assert.matches("command must not contain a NUL byte", helper.raised(io.popen, "true\0"))
  end)

  it("is refused in an app's options", function()
    local app = child.script [[
      local app = require("lunapark.http").app()
      app.options = { log_level = "error\0debug" }
      return app
    ]]
    local code, _, err = child.run { app, "--listen", "127.0.0.1:0" }
    assert.equal(1, code)
    assert.matches("app.options: log_level must not contain a NUL byte", err)
    local http, testing = require "lunapark.http", require "lunapark.testing"
    for _, options in ipairs { { max_body = "1\0" }, { ["max_body\0"] = 1 } } do
      local served = http.app()
      served.options = options
      assert.matches("must not contain a NUL byte", helper.raised(testing.serve, served))
    end
  end)

  it("is refused in the name of a server whose certificate is asked for", function()
    local listener = assert(net.listen "127.0.0.1:0")
    local c = assert(net.dial(listener:addr()))
    assert.matches("start_tls: name must not contain a NUL byte", helper.raised(c.start_tls, c, true, "a.example\0.b"))
    assert.matches("name contains NUL", helper.raised(c.start_tls, c, { name = "a.example\0.b" }))
    c:close()
    listener:close()
  end)

  -- What is new among them has to come through a check, and into a test above.
  it("is looked for by all that gives C strings without their length", function()
    local text = require "lunapark.cdef"
    local found = {}
    for name, parameters in text:gmatch "([%w_]+)%(([^()]*)%)" do
      for p, behind in (parameters .. ","):gmatch "const char %*([%w_]+),%s*()" do
        if not parameters:find("^size_t", behind) then found[name .. " " .. p] = true end
      end
    end
    local known = {}
    for _, what in ipairs {
      "host_sock_listen addr", "host_sock_dial addr", "host_addr_check addr", "host_sock_udp addr",
      "host_sock_connect addr", "host_sock_send addr", "host_serve addr", "host_serve_raw addr", -- addresses
      "host_ip_bytes text", "host_resolver_new servers", "host_resolver_new search", "host_dns_lookup name",
      "host_dns_query name", -- names
      "host_fs path", "host_fs root", "host_fs_open path", "host_fs_open root", "host_fs_may_wait path",
      "host_fs_open_cached path", "host_fs_open_cached root", "host_fs_change path", "host_fs_change root",
      "host_fs_change to", "host_walk_new path", "host_walk_new root", "host_exec cwd", -- paths
      "host_sock_tls name", "host_serve_option name", "host_serve_option value", -- of servers
      "host_equal a", "host_seal key", "host_unseal key", -- of a length that C knows
      "host_reload to", "host_reload message", "host_tag name", "host_tag to", -- of the admin API: see rollback_spec
      -- Not from others: our own texts, HOME, the name of a test that is shown, what completion has found in tables.
      "host_block_begin what", "host_repl_open history", "host_repl_read prompt", "host_repl_answer insert",
      "host_repl_answer list",
    } do
      known[what] = true
    end
    assert.same(known, found)
  end)
end)
