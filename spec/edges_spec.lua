-- What `make lint-edges` says.

local exec = require "lunapark.exec"
local path = require "pl.path"
local project = require "spec.support.project"

describe("host/build/edges.lua", function()
  after_each(project.clean)

  -- Its exit code and complaints, in a folder with these files.
  local function said(files)
    local p = project.new(files)
    local r = assert(exec.run({ "luajit", path.abspath "host/build/edges.lua" }, { cwd = p.dir, timeout = 60 }))
    return r.code, r.stderr
  end

  it("passes includes that point down, in the same room, and to the runtime", function()
    local code, err = said {
      ["host/vm/luag.c"] = '#include "luag.h"\n\n#include "../../runtime/runtime.h"\n#include "../base/log.h"\n',
      ["host/vm/luag.h"] = "void luag_step(void);\n",
      ["host/base/log.h"] = "void log_line(void);\n",
      ["host/base/log.c"] = '#include "log.h"\n\nvoid log_line(void) {\n    static int n;\n    n++;\n}\n',
    }
    assert.same({ 0, "" }, { code, err })
  end)

  it("fails where an include points up", function()
    local code, err = said {
      ["host/vm/luag.c"] = '/* Lua Gs. */\n#include "../http/conn.h"\n',
      ["host/http/conn.h"] = "void conn_start(void);\n",
    }
    assert.equal(1, code)
    assert.equal("vm -> http: host/vm/luag.c includes ../http/conn.h\n1 in all\n", err)
  end)

  it("fails where two rooms of one height include each other's headers", function()
    local code, err = said { ["host/shared/dict.c"] = '#include "../net/sock.h"\n', ["host/net/sock.h"] = "" }
    assert.equal(1, code)
    assert.matches("shared -> net: host/shared/dict.c includes ../net/sock.h", err, 1, true)
  end)

  it("fails where a room declares what a room above defines", function()
    local code, err = said {
      ["host/vm/job.h"] = "void owned_drop(void);\nvoid exec_bind_all(int how);\n",
      ["host/vm/job.c"] = '#include "job.h"\n\nvoid owned_drop(void) {\n}\n',
      ["host/sys/exec.c"] = '#include "../vm/job.h"\n\nvoid exec_bind_all(int how) {\n    (void)how;\n}\n',
    }
    assert.equal(1, code)
    assert.equal("vm -> sys: host/vm/job.h declares exec_bind_all of host/sys/exec.c\n1 in all\n", err)
  end)

  it("fails where a source declares a function of another by hand", function()
    local code, err = said {
      ["host/vm/luag.c"] = "void conn_start(int fd);\n\nstatic void own(void);\n\nstatic void own(void) {\n}\n",
      ["host/http/conn.c"] = "void conn_start(int fd) {\n    (void)fd;\n}\n",
    }
    assert.equal(1, code)
    assert.equal("host/vm/luag.c declares conn_start of host/http/conn.c by hand\n1 in all\n", err)
  end)

  it("fails where a source uses what is the runtime's own", function()
    local code, err = said {
      ["host/net/sock.c"] = '#include "../../runtime/impl.h"\n\nvoid own_write(int on);\n',
      ["runtime/signal.c"] = "void own_write(int on) {\n    (void)on;\n}\n",
    }
    assert.equal(1, code)
    assert.equal([[
host/net/sock.c includes ../../runtime/impl.h, which is the runtime's own
host/net/sock.c declares own_write of runtime/signal.c by hand
2 in all
]], err)
  end)

  it("asks nothing of tests and tools", function()
    local code = said {
      ["host/test/test_a.c"] = '#include "../vm/luag.h"\n#include "../http/conn.h"\n',
      ["host/vm/luag.h"] = "",
      ["host/http/conn.h"] = "",
    }
    assert.equal(0, code)
  end)
end)
