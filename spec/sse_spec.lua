--- Streams of events (res:sse), what streams hear of a stop and of a reload, and when what they wrote is on the wire.

local http = require "lunapark.http"
local lp = require "lunapark"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local helper = require "spec.helper"
local reload = require "spec.support.reload"

testing.block_timeout(120)

describe("a stream of events", function()
  local app, client

  before_each(function() app, client = http.app(), nil end)
  after_each(function() if client then client:close() end end)

  local function stream(target, opts)
    client = client or testing.serve(app)
    opts = opts or {}
    opts.stream = true
    return assert(client:get(target, opts))
  end

  -- Reads until the text has come.
  local function read_until(r, text)
    local got = ""
    while not got:find(text, 1, true) do
      local piece, err = r:read()
      assert(piece, err or ("the end, after " .. got))
      got = got .. piece
    end
    return got
  end

  it("has a head that browsers and proxies want", function()
    app:get("/", function(_, res)
      local sse = res:sse()
      sse:send "hello"
    end)
    local r = stream "/"
    assert.same({ 200, "text/event-stream", "no-cache", "close", "no" }, {
      r.status, r.headers["content-type"], r.headers["cache-control"], r.headers.connection,
      r.headers["x-accel-buffering"],
    })
    assert.equal("data: hello\n\n", r:read_all())
  end)

  it("has events of each kind", function()
    app:get("/", function(_, res)
      local sse = res:sse()
      sse:send { data = "a\nb\r\nc\rd" }
      sse:send { event = "news", id = 7, data = { x = 1 }, retry = 1.5 }
      sse:send { data = "" }
      sse:send { id = "", data = 2 }
      sse:send { retry = 0 }
    end)
    assert.equal("data: a\ndata: b\ndata: c\ndata: d\n\nevent: news\nid: 7\nretry: 1500\ndata: {\"x\":1}\n\ndata: \n\n"
      .. "id: \ndata: 2\n\nretry: 0\n\n", stream("/"):read_all())
  end)

  it("refuses what is no event", function()
    local raised = {}
    app:get("/", function(_, res)
      local sse = res:sse()
      for i, event in ipairs {
        { event = "a\nb", data = "x" }, { id = "a\0" }, { id = {} }, {}, { data = print }, { dat = "x" },
        { retry = -1 }, 5,
      } do
        raised[i] = select(2, pcall(function() sse:send(event) end))
      end
      raised.write = select(2, pcall(function() sse:write "x" end))
      raised.sse = select(2, pcall(function() res:sse { heartbeats = 1 } end))
    end)
    assert.equal("", stream("/"):read_all())
    for i, words in pairs {
      "event must be one line", "id must be one line", "id must be a string, got table", "an event has one of",
      "data must be a string or a table, got function", "unknown option dat: did you mean data", "retry must be",
      "opts must be a table, got number", write = "sse has no write: write sse:send",
      sse = "sse: unknown option heartbeats: did you mean heartbeat",
    } do
      assert.matches("sse_spec%.lua:%d+: .*" .. words, raised[i])
    end
  end)

  it("leaves event by event, while the handler waits", function()
    local ch = lp.chan()
    app:get("/", function(_, res)
      local sse = res:sse()
      for v in ch:iter() do sse:send(v) end
    end)
    local r = stream "/"
    for _, v in ipairs { "one", "two", "three" } do
      ch:send(v)
      assert.equal("data: " .. v .. "\n\n", read_until(r, v .. "\n\n"))
    end
    ch:close()
    assert.equal("", r:read_all())
  end)

  it("sends comments when it is quiet, until the handler ends", function()
    local ch = lp.chan()
    app:get("/", function(_, res)
      res:sse { heartbeat = 0.02 }
      ch:recv()
    end)
    local r = stream "/"
    assert.matches("^:\n\n", read_until(r, ":\n\n:\n\n"))
    ch:close()
    assert.is_string(r:read_all())
  end)

  it("ends when the client leaves", function()
    local ended
    app:get("/", function(_, res)
      res:sse { heartbeat = 0.05 }
      ended = { lp.sleep(60) }
    end)
    local r = stream "/"
    r:close()
    helper.eventually(function() return ended end)
    assert.same({ nil, "canceled" }, ended)
  end)

  it("has only a head for HEAD", function()
    local went_on
    app:get("/", function(_, res)
      res:sse()
      went_on = true
    end)
    client = testing.serve(app)
    local r = assert(client:head "/")
    assert.same({ 200, "text/event-stream", "" }, { r.status, r.headers["content-type"], r.body })
    assert.is_nil(went_on)
  end)

  it("is never compressed, and goes through middleware", function()
    app:use(http.compress())
    app:use(http.secure_headers())
    app:get("/", function(_, res) res:sse():send(("x"):rep(5000)) end)
    local r = stream("/", { headers = { ["Accept-Encoding"] = "gzip" } })
    assert.same({ nil, "nosniff" }, { r.headers["content-encoding"], r.headers["x-content-type-options"] })
    assert.equal(5008, #r:read_all())
  end)

  it("may be written by hand: what was written is on the wire when the handler waits", function()
    local ch = lp.chan()
    app:get("/", function(_, res)
      res:write "one"
      ch:recv()
      res:write "two"
      lp.sleep(0.001)
      ch:recv()
    end)
    local r = stream "/"
    assert.equal("one", read_until(r, "one"))
    ch:send(1)
    assert.equal("two", read_until(r, "two"))
    ch:close()
    assert.equal("", r:read_all())
  end)
end)

describe("at the end of a VM", function()
  local APP = [[
local lp = require "lunapark"
local app = require("lunapark.http").app()
app:get("/", function() return "%d" end)
app:get("/waits", function(_, res) -- listens to nothing but its news
  local sse = res:sse()
  sse:send "begun"
  lp.chan():recv()
  sse:send "bye"
end)
app:get("/selects", function(_, res)
  local sse = res:sse()
  local news = lp.chan()
  sse:send "begun"
  local i, v, ok = lp.select { { news, "recv" }, { lp.retired, "recv" } }
  sse:send(("%%d %%s %%s"):format(i, tostring(v), tostring(ok)))
end)
app:get("/asks", function(_, res)
  local sse = res:sse()
  sse:send "begun"
  while not lp.retired(0.05) do sse:send "tick" end
  sse:send "bye"
end)
app:get("/twice", function()
  local i = lp.select { { lp.retired, "recv" }, timeout = 0.01 }
  return tostring(i)
end)
return app
]]

  local function open(s, n)
    local streams = {}
    for i = 1, n do
      local path = ({ "/waits", "/selects", "/asks" })[i % 3 + 1]
      local client = child.client(s.addr)
      local r = assert(client:get(path, { stream = true }))
      streams[i] = { r = r, client = client, path = path, text = assert(r:read()) }
    end
    return streams
  end

  -- What each stream says at its end.
  local function check_ends(streams)
    for _, s in ipairs(streams) do
      local text = s.text .. assert(s.r:read_all())
      assert.matches("^data: begun\n\n", text)
      assert.matches(s.path == "/selects" and "data: 2 nil false\n\n$" or "data: bye\n\n$", text)
      s.client:close()
    end
  end

  after_each(function()
    reload.clean()
    child.clean()
  end)

  it("by SIGTERM a hundred streams end at once, and the process with them", function()
    local folder = reload.folder { ["app.lua"] = APP:format(1) }
    local quick = false
    for _ = 1, 5 do -- on a busy machine not at the first attempt
      local s = child.serve { folder .. "/app.lua", "--procs", "2" }
      local streams = open(s, 100)
      local start = lp.now()
      s:kill "TERM"
      assert.equal(0, s:wait())
      local took = lp.now() - start
      assert.is_nil(s:stderr():find("unfinished", 1, true))
      check_ends(streams)
      quick = took < 1
      if quick then break end
    end
    assert.is_true(quick)
  end)

  it("by a reload streams end, so that pages come back to the new generation", function()
    local s = reload.serve({ ["app.lua"] = APP:format(1) }, "--procs", "1", "--drain-timeout", "600")
    assert.equal("nil", s.client:get("/twice").body)
    local streams = open(s.server, 6)
    s:reload_to(2, { ["app.lua"] = APP:format(2) })
    check_ends(streams)
    assert.equal("2", s.client:get("/").body)
  end)
end)
