--- HTTP/1 as the RFCs write it: the cases of spec/support/http_cases.lua over raw sockets, each sent whole, line by
--- line, byte by byte, and behind a good request. One server answers all of them, many connections at a time; another
--- one does so over TLS.

local fs = require "lunapark.fs"
local http = require "lunapark.http"
local lp = require "lunapark"
local testing = require "lunapark.testing"
local certs = require "spec.support.certs"
local cases = require "spec.support.http_cases"
local helper = require "spec.helper"

local OK = "GET /ok HTTP/1.1\r\nHost: x\r\n\r\n"
local LAST = "GET /ok HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
local AT_ONCE = 32 -- connections

-- Longer requests are not sent byte by byte.
local BYTES_MAX = 1000

local function make_app()
  local app = http.app()
  app:get("/", function() return "root" end)
  app:get("/ok", function() return "ok" end)
  app:any("/method", function(req) return req.method end)
  for _, method in ipairs { "QUERY", "x!#$%&'*+-.^_`|~09" } do
    app:method(method, "/named", function() return "named" end)
  end
  app:get("/version", function(req) return req.version end)
  app:get("/host", function(req) return req.host or "none" end)
  app:get("/path/*rest", function(req) return req.params.rest end)
  app:get("/query", function(req) return req.query.a end)
  app:get("/field", function(req) return req.headers["x-a"] or "none" end)
  app:any("/body", function(req)
    local parts = { assert(req:body()), req.headers["x-a"] }
    for _, name, value in req:trailers():each() do parts[#parts + 1] = name .. "=" .. value .. ";" end
    return table.concat(parts)
  end)
  return app
end

-- The pieces of a request, by the way in which it is sent.
local ways = {
  whole = function(bytes) return { bytes } end,
  ["by lines"] = function(bytes)
    local pieces = {}
    for piece in bytes:gmatch "[^\n]*\n?" do pieces[#pieces + 1] = piece ~= "" and piece or nil end
    return pieces
  end,
  ["by bytes"] = function(bytes)
    local pieces = {}
    for i = 1, #bytes <= BYTES_MAX and #bytes or 0 do pieces[i] = bytes:sub(i, i) end
    return pieces
  end,
  ["behind a request"] = function(bytes) return { OK .. bytes } end,
}

local function expect(what, wanted, got)
  if wanted ~= got then error(("%s: wanted %s, got %s"):format(what, tostring(wanted), tostring(got)), 0) end
end

local function read(conn, method)
  local r, err = testing.read_reply(conn, method)
  if not r then error(err, 0) end
  return r
end

-- What is wrong with the answer to a case that was sent this way; raises it.
local function check(conn, case, way)
  local pieces = ways[way](case.bytes)
  if #pieces == 0 then return end
  for _, piece in ipairs(pieces) do
    if not conn:write(piece) then break end -- refused already
    if #pieces > 1 then lp.yield() end
  end
  if way == "behind a request" then expect("the answer before", "ok", read(conn).body) end
  local r = read(conn, case.bytes:match "^HEAD " and "HEAD" or "GET")
  expect("status", case.status, r.status)
  if r.status == 405 then expect("Allow", "string", type(r.headers.allow)) end
  if case.body then expect("body", case.body, r.body or "") end
  if not case.stays then
    expect("end", "close", r.headers.connection)
    local more, err = conn:read()
    expect("end", "eof", more or err)
    return
  end
  expect("Connection", case.bytes:find("HTTP/1.0", 1, true) and "keep-alive" or nil, r.headers.connection)
  assert(conn:write(LAST))
  expect("the answer behind", "ok", read(conn).body)
end

local function shown(bytes)
  return (bytes:sub(1, 300):gsub("[^ -~]", function(c)
    return c == "\r" and "\\r" or c == "\n" and "\\n" or ("\\%d"):format(c:byte())
  end))
end

-- Calls fn of each element, of AT_ONCE at a time.
local function each_at_once(all, fn)
  local next_i = 0
  helper.all(AT_ONCE, function()
    while next_i < #all do
      next_i = next_i + 1
      fn(all[next_i])
    end
  end)
end

local function conform(over_tls)
  local client, dir

  setup(function()
    dir = over_tls and certs.folder() or nil
    if dir then certs.make(dir, "site", { "DNS:site.example" }) end
    client = testing.serve(make_app(), dir and { tls = { cert = dir .. "/site.pem", key = dir .. "/site.key" } })
  end)
  teardown(function()
    client:close()
    if dir then fs.remove(dir, { recursive = true }) end
  end)

  for _, list in ipairs(cases) do
    for way in pairs(ways) do
      it(("%s, %s"):format(list.name, way), function()
        local wrong = {}
        each_at_once(list, function(case)
          local conn = assert(client:connect())
          conn:set_deadline(helper.PATIENCE)
          local ok, err = pcall(check, conn, case, way)
          conn:close()
          if not ok then wrong[#wrong + 1] = ("RFC %s: %s: %s"):format(case.rfc, shown(case.bytes), tostring(err)) end
        end)
        assert(#wrong == 0, #wrong .. " of " .. #list .. " cases:\n" .. table.concat(wrong, "\n"))
      end)
    end
  end
end

describe("HTTP/1 as the RFCs write it", function()
  it("has a table of at least 250 cases", function() assert.is_true(cases.n >= 250, cases.n) end)
  describe("over TCP", function() conform(false) end)
  describe("over TLS", function() conform(true) end)
end)
