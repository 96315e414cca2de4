--- What C refuses, answered by on_error and told to on_done.

local http = require "lunapark.http"
local lp = require "lunapark"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local helper = require "spec.helper"
local reload = require "spec.support.reload"

testing.block_timeout(120)

local HOST = "Host: x\r\n"

-- What C answers by itself: name -> status, request, path that is known of it.
local refused = {
  ["a line that is none"] = { 400, "nonsense\r\n\r\n", "" },
  ["a field that is none"] = { 400, "GET /a HTTP/1.1\r\n" .. HOST .. "\1: b\r\n\r\n", "/a" },
  ["a tunnel"] = { 405, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "a:1" },
  ["a body that is announced as too large"] = {
    413, "POST /in/up HTTP/1.1\r\n" .. HOST .. "Content-Length: 101\r\n\r\n", "/in/up",
  },
  ["a long target"] = { 414, "GET /" .. ("a"):rep(9000) .. " HTTP/1.1\r\n", "" },
  ["an expectation"] = { 417, "POST /e HTTP/1.1\r\n" .. HOST .. "Expect: tea\r\n\r\n", "/e" },
  ["many fields"] = { 431, "GET /f HTTP/1.1\r\n" .. HOST .. ("a: b\r\n"):rep(20) .. "\r\n", "/f" },
  ["a method that nobody knows"] = { 501, "NONE /m HTTP/1.1\r\n" .. HOST .. "\r\n", "/m" },
  ["another version"] = { 505, "GET /v HTTP/2.0\r\n" .. HOST .. "\r\n", "/v" },
  ["a head that is late"] = { 408, "GET /late HTTP/1.1\r\n", "/late" },
}

describe("a refused request", function()
  local app, conn, done

  before_each(function()
    app, conn, done = http.app { max_body = 100, max_headers = 10, header_timeout = 0.2 }, nil, {}
  end)
  after_each(function()
    if conn then conn:close() end
    child.clean()
    reload.clean()
  end)

  local function note(req, _, info)
    done[#done + 1] = ("%s %d %s"):format(req.path, info.status, info.error)
  end

  local function ask(bytes)
    if conn then conn:close() end
    conn = testing.raw(app)
    assert(conn:write(bytes))
    return assert(testing.read_reply(conn))
  end

  local function fetch(addr, bytes)
    local c = child.send(addr, bytes)
    local r = child.reply(c)
    c:close()
    return r
  end

  local function told(n)
    helper.eventually(function() return #done >= n end, "on_done")
    lp.sleep(0.01)
    return done
  end

  for name, case in pairs(refused) do
    local status, bytes, path = unpack(case)

    it(("with %s (%d) is on_error's and on_done's"):format(name, status), function()
      local seen
      app:on_error(function(req, res, err)
        seen = { req.path, res.status, err.status, req:body(), req.target:sub(1, 4) == path:sub(1, 4) }
        return { own = tostring(err) }
      end)
      app:on_done(note)
      local log = helper.stderr_of(function()
        local r = ask(bytes)
        assert.same({ status, "close" }, { r.status, r.headers.connection })
        local reason = r:json().own
        assert.is_true(#reason > 3)
        assert.same({ ("%s %d %s"):format(path, status, reason) }, told(1))
        assert.same({ path, status, status, "", true }, seen)
        assert.equal(status == 405, r.headers.allow ~= nil)
        assert.same({ nil, "eof" }, { conn:read() })
      end)
      assert.equal("", log)
    end)

    it(("with %s (%d) gets words or JSON where on_error says nothing"):format(name, status), function()
      app:on_done(note)
      local r = ask(bytes)
      assert.same({ status, "text/plain; charset=utf-8" }, { r.status, r.headers["content-type"] })
      app:on_error(function() end)
      r = ask((bytes:gsub("\r\n", "\r\nAccept: application/json\r\n", 1)))
      assert.equal(status, r.status)
      if path ~= "" and path ~= "a:1" and status ~= 505 then assert.equal(status, r:json().status) end
      assert.equal(2, #told(2))
    end)
  end

  it("with a path that leads nowhere is on_error's and on_done's, as is OPTIONS *", function()
    app:on_error(function(_, res) return "own " .. res.status end)
    app:on_done(note)
    assert.equal("own 400", ask("GET /%zz HTTP/1.1\r\n" .. HOST .. "\r\n").body)
    assert.equal("own 400", ask("GET /../a HTTP/1.1\r\n" .. HOST .. "\r\n").body)
    assert.equal(204, ask("OPTIONS * HTTP/1.1\r\n" .. HOST .. "\r\n").status)
    assert.same({ 400, 400, 204 }, {
      tonumber(told(3)[1]:match " (%d+) "), tonumber(done[2]:match " (%d+) "), tonumber(done[3]:match " (%d+) "),
    })
  end)

  it("belongs to the app whose prefix it has", function()
    local inner = http.app()
    inner:on_error(function(_, res) return "inner " .. res.status end)
    inner:on_done(function(_, _, info) done[#done + 1] = "inner " .. info.status end)
    app:mount("/in", inner)
    local r = ask(refused["a body that is announced as too large"][2])
    assert.same({ 413, "inner 413" }, { r.status, r.body })
    assert.same({ "inner 413" }, told(1))
    assert.equal("Not Implemented", ask(refused["a method that nobody knows"][2]).body)
    assert.same({ "inner 413" }, told(1))
  end)

  it("of HEAD gets no body", function()
    app:on_error(function() return "body" end)
    conn = testing.raw(app)
    assert(conn:write("HEAD / HTTP/1.1\r\n" .. HOST .. "Expect: tea\r\n\r\n"))
    local r = assert(testing.read_reply(conn, "HEAD"))
    assert.same({ 417, "4", "" }, { r.status, r.headers["content-length"], r.body })
    assert.same({ nil, "eof" }, { conn:read() })
  end)

  it("is answered behind the answers to earlier requests", function()
    app:get("/", function() lp.sleep(0.01) return "first" end)
    app:on_error(function() lp.sleep(0.01) return "second" end)
    assert.equal("first", ask("GET / HTTP/1.1\r\n" .. HOST .. "\r\nnonsense\r\n\r\n").body)
    assert.equal("second", assert(testing.read_reply(conn)).body)
  end)

  it("gets C's answer when on_error fails, once", function()
    local calls = 0
    app:on_error(function()
      calls = calls + 1
      error "oh no"
    end)
    app:on_done(note)
    local log = helper.stderr_of(function()
      assert.equal("Bad Request", ask("nonsense\r\n\r\n").body)
      assert.same({ " 400 Bad Request" }, told(1))
    end)
    assert.matches("on_error failed: .*oh no", log)
    assert.equal(1, calls)
  end)

  it("gets C's answer when on_error waits for ever, once", function()
    app:set { handler_timeout = 1 }
    local calls = 0
    app:on_error(function()
      calls = calls + 1
      lp.sleep(60)
    end)
    app:on_done(note)
    local log = helper.stderr_of(function()
      local start = lp.now()
      assert.equal(431, ask(refused["many fields"][2]).status)
      assert.is_true(lp.now() - start >= 0.9 and lp.now() - start < 20) -- not 60 s
      assert.same({ "/f 431 Request Header Fields Too Large" }, told(1))
    end)
    assert.matches("GET /f: on_error did not answer in time, the client was answered 431", log)
    assert.equal(1, calls)
  end)

  it("is asked for once the app has a function, and as long as it has", function()
    local client = testing.serve(app)
    local function again()
      if conn then conn:close() end
      conn = assert(client:connect())
      assert(conn:write "nonsense\r\n\r\n")
      return assert(testing.read_reply(conn)).body
    end
    assert.equal("Bad Request", again())
    app:on_error(function() return "own" end)
    assert.equal("own", again())
    app:on_error(function() return "other" end)
    assert.equal("other", again())
    client:close()
  end)

  describe("whose handler took too long", function()
    it("is on_error's and on_done's once, with its head and its id", function()
      app:set { handler_timeout = 1 }
      local ids, fields, seconds = {}, nil, nil
      app:get("/slow", function(req)
        ids[1] = req.id
        lp.sleep(60)
        lp.sleep(0.05)
      end)
      app:on_error(function(req, res, err)
        ids[2] = req.id
        fields = { req.headers["x-own"], req.query.a, req.method, err.status }
        return "late " .. res.status
      end)
      app:on_done(function(req, res, info)
        seconds = info.seconds
        note(req, res, info)
      end)
      helper.stderr_of(function()
        local r = ask("GET /slow?a=b HTTP/1.1\r\n" .. HOST .. "X-Own: 1\r\n\r\n")
        assert.same({ 504, "late 504" }, { r.status, r.body })
        told(1)
        lp.sleep(0.3) -- the handler has ended
        assert.same({ "/slow 504 Gateway Timeout" }, done)
      end)
      assert.same({ "1", "b", "GET", 504 }, fields)
      assert.equal(ids[1], ids[2])
      assert.is_true(seconds >= 0.9)
    end)

    it("is answered by C if on_error takes too long as well", function()
      app:set { handler_timeout = 0.2 }
      app:get("/slow", function() lp.sleep(60) end)
      app:on_error(function() lp.sleep(60) end)
      helper.stderr_of(function()
        local r = ask("GET /slow HTTP/1.1\r\n" .. HOST .. "\r\n")
        assert.same({ 504, "Gateway Timeout" }, { r.status, r.body })
        assert.same({ nil, "eof" }, { conn:read() })
      end)
    end)

    it("is on_done's when the answer had begun", function()
      app:set { handler_timeout = 0.2 }
      app:on_done(note)
      app:get("/part", function(_, res)
        res:write "begun"
        res:flush()
        lp.sleep(60)
      end)
      helper.stderr_of(function()
        conn = testing.raw(app)
        assert(conn:write("GET /part HTTP/1.1\r\n" .. HOST .. "\r\n"))
        conn:read_all()
        assert.matches("^/part 504 ", told(1)[1])
        assert.equal(1, #done)
      end)
    end)
  end)

  describe("in a server", function()
    local APP = [[
local lp = require "lunapark"
local log = require "lunapark.log"
local app = require("lunapark.http").app()
app:get("/hold", function() lp.sleep(60) end)
app:get("/spin", function() while true do end end)
-- An error that nothing can catch: LuaJIT does not know that the C function calls back. See stack_spec.
local ffi = require "ffi"
ffi.cdef 'void sort(void *base, size_t n, size_t size, void *compare) __asm__("qsort");'
local compare = ffi.cast("int (*)(const int *, const int *)", function(a, b) return a[0] - b[0] end)
local numbers = ffi.new("int[4]", 4, 3, 2, 1)
local function sort_all(sizes)
  for i = 1, #sizes do ffi.C.sort(numbers, sizes[i], 4, ffi.cast("void *", compare)) end
end
app:get("/bad_callback", function()
  local sizes = {}
  for i = 1, 500 do sizes[i] = 1 end
  for _ = 1, 20 do sort_all(sizes) end
  sizes[500] = 4
  sort_all(sizes)
end)
app:on_error(function(req, res) return "own " .. res.status end)
app:on_done(function(req, res, info) log.info(("done %s %d"):format(req.path, info.status)) end)
return app
]]

    local function count_done(server, what)
      return helper.count(server:stderr(), "done " .. what)
    end

    it("since it is one connection too many (503)", function()
      local server = child.serve { child.script(APP), "--procs", "1", "--max-conns", "1" }
      local held = child.send(server.addr, "GET /hold HTTP/1.1\r\n" .. HOST .. "\r\n")
      local r
      -- The first may not be in its handler yet, and makes room; or no VM runs just now.
      child.eventually(function()
        local more = child.send(server.addr, "GET / HTTP/1.1\r\n" .. HOST .. "\r\n")
        r = testing.read_reply(more)
        more:close()
        return r and r.body == "own 503"
      end, "the refusal")
      assert.same({ 503, "1" }, { r.status, r.headers["retry-after"] })
      child.eventually(function() return count_done(server, " 503") >= 1 end, "on_done")
      held:close()
    end)

    -- C answers by itself where no other VM has loaded the app, or is known to run.
    for path, status in pairs { ["/spin"] = 504, ["/bad_callback"] = 502 } do
      it(("since its VM was ended (%d)"):format(status), function()
        local server = child.serve {
          child.script(APP), "--procs", "1", "--handler-timeout", "1", "--kill-after", "0.2", "--admin", "127.0.0.1:0",
        }
        child.eventually(function() return server:stderr():find "lunapark: admin on " end, "the admin listener")
        local admin = child.client((server:stderr():match "admin on http://(%S+)\n"))
        local function has_spare()
          for _, vm in ipairs(admin:get("/vms"):json()) do
            if vm.state == "spare" then return true end
          end
        end
        child.eventually(function()
          child.eventually(has_spare, "a spare VM") -- the server makes it anew for each that is ended
          local r = fetch(server.addr, "GET " .. path .. " HTTP/1.1\r\n" .. HOST .. "\r\n")
          assert.equal(status, r.status)
          return r.body == "own " .. status
        end, "on_error")
        child.eventually(function() return count_done(server, path .. " " .. status) == 1 end, "on_done")
      end)
    end

    it("has a route in the access log, and that of its handler if it had one", function()
      local path = child.file()
      local server = child.serve {
        child.script(APP), "--procs", "1", "--handler-timeout", "0.2", "--access-log", path, "--log-format", "json",
      }
      fetch(server.addr, "nonsense\r\n\r\n")
      fetch(server.addr, "GET /hold HTTP/1.1\r\n" .. HOST .. "\r\n")
      child.eventually(function()
        local f = io.open(path)
        local text = f and f:read "*a" or ""
        if f then f:close() end
        return text:find('"status":400.*"route":"refused"') and text:find('"status":504.*"route":"GET /hold"')
      end, "the lines")
    end)

    it("is C's where no VM can run, and stands in the access log", function()
      local path = child.file()
      local server = child.serve {
        child.script(APP), "--procs", "1", "--max-vms", "1", "--handler-timeout", "0.2", "--kill-after", "600",
        "--access-log", path, "--log-format", "json",
      }
      local r = fetch(server.addr, "GET /spin HTTP/1.1\r\n" .. HOST .. "\r\n")
      assert.same({ 504, "Gateway Timeout" }, { r.status, r.body })
      for _ = 1, 2 do assert.equal("Bad Request", fetch(server.addr, "nonsense\r\n\r\n").body) end
      child.eventually(function()
        local text = helper.text_of(path)
        return helper.count(text, '"status":400') == 2 and text:find '"status":504.*"route":"GET /spin"'
      end, "the lines")
      assert.equal(0, count_done(server, " 400") + count_done(server, "/spin"))
    end)

    it("is asked for by generations that want it", function()
      local without = 'return require("lunapark.http").app():get("/", function() return "x" end)\n'
      local s = reload.serve({ ["app.lua"] = without }, "--procs", "2")
      local function body()
        return fetch(s.server.addr, "nonsense\r\n\r\n").body
      end
      assert.equal("Bad Request", body())
      s:reload { ["app.lua"] = APP }
      for _ = 1, 8 do assert.equal("own 400", body()) end
      s:reload { ["app.lua"] = without }
      for _ = 1, 8 do assert.equal("Bad Request", body()) end
    end)
  end)
end)
