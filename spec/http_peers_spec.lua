--- Clients that others have written: curl, ab, siege, and the four attacks of slowhttptest.

local lp = require "lunapark"
local fs = require "lunapark.fs"
local http = require "lunapark.http"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local programs = require "spec.support.programs"

testing.block_timeout(120)

local program, installed = programs.run, programs.installed

describe("curl", function()
  local client, dir

  local CONTENT = ("0123456789"):rep(10000)

  before_each(function()
    dir = os.tmpname()
    os.remove(dir)
    assert(fs.mkdir(dir))
    assert(fs.write(dir .. "/data.txt", CONTENT))
    local app = http.app()
    app:static("/files", dir)
    app:get("/stream", function(_, res)
      for i = 1, 3 do
        res:write(("event %d\n"):format(i))
        lp.sleep(0.01)
      end
    end)
    app:put("/upload", function(req)
      local size, first = 0, req.headers["transfer-encoding"] or "length"
      for piece in function() return req:read(65536) end do size = size + #piece end
      return ("%s %d %s"):format(first, size, req.headers.expect or "-")
    end)
    app:post("/form", function(req)
      local list = {}
      for part in assert(req:multipart()) do
        list[#list + 1] = ("%s|%s|%d"):format(part.name, part.filename or "-", #part:body())
      end
      return table.concat(list, "\n")
    end)
    client = testing.serve(app)
  end)

  after_each(function()
    client:close()
    fs.remove(dir, { recursive = true })
  end)

  local function curl(path, ...)
    local text, code = program("curl", "-sS", "--max-time", "20", "http://" .. client.addr .. path, ...)
    assert.equal(0, code, text)
    return text
  end

  it("reads ranges of files", function()
    assert.equal("3456789", curl("/files/data.txt", "-r", "3-9"))
    assert.equal("6789", curl("/files/data.txt", "-r", "-4"))
    assert.equal(CONTENT:sub(99991), curl("/files/data.txt", "-r", "99990-"))
    local parts = curl("/files/data.txt", "-r", "0-1,50005-50006", "-i")
    assert.matches("multipart/byteranges", parts, 1, true)
    assert.matches("\r\n\r\n01\r\n.*\r\n\r\n56\r\n", parts)
    assert.equal("416", curl("/files/data.txt", "-r", "200000-", "-o", "/dev/null", "-w", "%{http_code}"))
  end)

  it("resumes a download where a file of its own ends", function()
    local path = dir .. "/partial"
    assert(fs.write(path, CONTENT:sub(1, 5000)))
    curl("/files/data.txt", "-C", "-", "-o", path)
    assert.is_true(CONTENT == fs.read(path))
  end)

  it("asks whether a file has changed", function()
    local path = dir .. "/etag"
    assert.equal("200", curl("/files/data.txt", "--etag-save", path, "-o", "/dev/null", "-w", "%{http_code}"))
    assert.equal("304", curl("/files/data.txt", "--etag-compare", path, "-o", "/dev/null", "-w", "%{http_code}"))
    assert.equal("304", curl("/files/data.txt", "-z", dir .. "/data.txt", "-o", "/dev/null", "-w", "%{http_code}"))
  end)

  it("uploads what has no length, in chunks, after it has been told to go on", function()
    local size = 300000
    local command = ("head -c %d /dev/zero | curl -sS --max-time 20 --expect100-timeout 20 -T - http://%s/upload")
      :format(size, client.addr)
    local text = program("sh", "-c", command)
    assert.matches("^chunked " .. size, text)
    assert.equal("length " .. #CONTENT .. " -", curl("/upload", "-T", dir .. "/data.txt", "-H", "Expect:"))
    assert.equal("length " .. #CONTENT .. " 100-continue", curl("/upload", "-T", dir .. "/data.txt",
      "-H", "Expect: 100-continue", "--expect100-timeout", "20"))
  end)

  it("sends forms with files", function()
    assert.equal("a|-|1\nf|data.txt|100000", curl("/form", "-F", "a=1", "-F", "f=@" .. dir .. "/data.txt"))
  end)

  it("speaks HTTP/1.0, and reads streams without a buffer of its own", function()
    local text = "event 1\nevent 2\nevent 3\n"
    assert.equal(text, curl("/stream", "-N"))
    assert.equal(text, curl("/stream", "-N", "--http1.0"))
    assert.is_true(CONTENT == curl("/files/data.txt", "--http1.0"))
    assert.is_true(CONTENT .. CONTENT == curl("/files/data.txt", "--http1.0", "-H", "Connection: keep-alive",
      "http://" .. client.addr .. "/files/data.txt"))
  end)
end)

describe("a load generator of others", function()
  local server

  before_each(function()
    server = child.serve { child.script [[
      local app = require("lunapark.http").app()
      app:get("/", function() return "hello" end)
      app:post("/echo", function(req) return req:body() end)
      return app
    ]] }
  end)
  after_each(child.clean)

  if not installed "ab" then
    pending "ab is not installed (apache2-utils)"
  else
    it("ab: kept connections, HTTP/1.0, and posts", function()
      local url = "http://" .. server.addr .. "/"
      for _, options in ipairs { "-k", "-q", "-k -p " .. child.file(("x"):rep(5000)) } do
        local post = options:find("-p", 1, true)
        local command = ("ab -q -n 2000 -c 50 %s %s"):format(options, url .. (post and "echo" or ""))
        local text, code = program("sh", "-c", command)
        assert.equal(0, code, text)
        assert.matches("Complete requests: +2000\n", text)
        assert.matches("Failed requests: +0\n", text)
        assert.is_nil(text:find "Non%-2xx responses")
        if options:find("-k", 1, true) then assert.matches("Keep%-Alive requests: +2000\n", text) end
      end
    end)
  end

  if not installed "siege" then
    pending "siege is not installed"
  else
    it("siege: each request is answered", function()
      local rc = child.file "verbose = false\nparser = false\nconnection = keep-alive\nprotocol = HTTP/1.1\n"
      local url = "http://" .. server.addr .. "/"
      local text, code = program("siege", "-q", "-j", "-b", "-c", "20", "-r", "50", "-R", rc, url)
      assert.equal(0, code, text)
      assert.matches('"failed_transactions":%s+0', text)
      assert.matches('"successful_transactions":%s+1000', text)
    end)
  end
end)

describe("slowhttptest", function()
  if not installed "slowhttptest" then
    pending "slowhttptest is not installed"
    return
  end

  after_each(child.clean)

  -- Each holds 1,000 connections that send or read as little as they can.
  local MODES = {
    { "-H", "/" }, -- heads that never end
    { "-B", "/echo", "-s", "8192" }, -- bodies that never end
    { "-R", "/big", "-a", "5", "-b", "3000" }, -- hundreds of ranges that overlap
    { "-X", "/big", "-w", "10", "-y", "20", "-n", "1", "-z", "5", "-k", "3" }, -- readers of five bytes a second
  }

  it("holds 4,000 connections in four ways, and others are served", function()
    local server = child.serve { child.script [[
      local lp = require "lunapark"
      local app = require("lunapark.http").app()
      local big = ("x"):rep(1000000)
      app:get("/", function() return "hello" end)
      app:get("/big", function() return big end)
      app:post("/echo", function(req) return req:body() end)
      app:get("/fds", function() return tostring(lp.stats().fds) end)
      return app
    ]], "--header-timeout", "3", "--idle-timeout", "3", "--min-rate", "500" }
    local client = child.client(server.addr)
    local before = tonumber(client:get("/fds").body)
    local gs, most = {}, 0
    for i, mode in ipairs(MODES) do
      gs[i] = lp.go(program, "slowhttptest", mode[1], "-u", "http://" .. server.addr .. mode[2],
        "-c", "1000", "-r", "500", "-i", "1", "-l", "8", "-v", "1", "-p", "60", unpack(mode, 3))
    end
    local left = #gs
    for _, g in ipairs(gs) do
      lp.go(function()
        g:join()
        left = left - 1
      end)
    end
    while left > 0 do
      assert.equal("hello", client:get("/").body)
      most = math.max(most, tonumber(client:get("/fds").body))
      lp.sleep(0.02)
    end
    for i, g in ipairs(gs) do
      local text = g:join()
      assert.is_nil(text:find "NO *\n", MODES[i][1] .. text) -- "service available: NO"
    end
    assert.is_true(most > before + 200, "it held " .. most - before .. " connections at most") -- thousands, unless busy
    child.eventually(function() return tonumber(client:get("/fds").body) <= before end, "their connections go")
  end)
end)
