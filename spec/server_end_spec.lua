--- What is left of a server that has ended: nothing, but an id that no other one has.

local ffi = require "ffi"
local core = require "lunapark.core"
local http = require "lunapark.http"
local lp = require "lunapark"
local new_client = require "lunapark.testing.client"
local testing = require "lunapark.testing"
local helper = require "spec.helper"

local C = ffi.C

describe("a server that has ended", function()
  local bound, err = ffi.new "char[128]", ffi.new "int[1]"

  -- A server without a client that would stop it: its id, its address.
  local function serve(fn)
    local id = C.host_serve("127.0.0.1:0", core.new_handler(http.handler(fn)), "", 0, nil, bound, 128, err)
    assert(id >= 0, ffi.string(C.host_strerror(err[0])))
    return id, ffi.string(bound)
  end

  it("leaves room for others, however many there were", function()
    testing.block_timeout(300)
    for i = 1, 4200 do
      local client = testing.serve(function() return "number " .. i end)
      if i % 100 == 0 then assert.equal("number " .. i, client:get("/").body) end
      client:close()
      if i % 20 == 0 then lp.sleep(0.001) end
    end
  end)

  it("lets its app go, while others answer", function()
    local kept = testing.serve(function() return "kept" end)
    local apps = setmetatable({}, { __mode = "k" })
    for i = 1, 20 do
      local function app() return "number " .. i end
      apps[app] = true
      local client = testing.serve(app)
      assert.equal("number " .. i, client:get("/").body)
      client:close()
    end
    helper.eventually(function()
      testing.serve(function() end):close()
      collectgarbage()
      return next(apps) == nil
    end)
    assert.equal("kept", kept:get("/").body)
  end)

  it("has an id that does not stop another one", function()
    local old = serve(function() return "old" end)
    C.host_serve_stop(old)
    local id, addr = serve(function() return "new" end)
    assert.not_equal(old, id)
    C.host_serve_stop(old)
    local client = new_client.new(addr)
    assert.equal("new", client:get("/").body)
    client:close()
    C.host_serve_stop(id)
    C.host_serve_stop(id)
  end)

  it("is there for requests that are not over", function()
    local go_on
    local client = testing.serve(function()
      helper.eventually(function() return go_on end)
      return "late"
    end)
    local conn = assert(client:connect())
    conn:write "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    lp.sleep(0.005)
    client:close()
    for _ = 1, 20 do
      local other = testing.serve(function() return "other" end)
      assert.equal("other", other:get("/").body)
      other:close()
    end
    go_on = true
    assert.equal("late", testing.read_reply(conn).body)
    conn:close()
  end)
end)
