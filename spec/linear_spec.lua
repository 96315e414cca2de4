-- What clients send, and other peers (name servers, servers that are asked), costs time in proportion to its length.
--
-- Measured are steps, not time (support/steps.lua). Two nets: each pattern of lua/ is tried with texts that are made
-- from it, which finds whatever backtracks, wherever it stands; and functions that take such texts apart are tried
-- whole, which finds loops that look at everything again for each piece.

local exec = require "lunapark.exec"
local calls = require "spec.support.calls"
local helper = require "spec.helper"
local steps = require "spec.support.steps"

-- Steps take as long as the machine lets them.
require("lunapark.testing").block_timeout(300)

-- Twice the text, at most so many times the steps: 2 is linear, 4 quadratic.
local MOST = 2.4

-- What is no pattern of ours, and why that is right. By file and expression.
local given = {
  ["lua/lunapark/http/dispatch.lua r.method"] = "the router's match",
  ["lua/lunapark/http/plan.lua method"] = "the router's match",
  ["lua/lunapark/http/static.lua path"] = "a look-up of files",
  ["lua/lunapark/http/static.lua path .. index"] = "a look-up of files",
  ["lua/lunapark/http/static.lua fallback"] = "a look-up of files",
  ["lua/lunapark/shared/init.lua key"] = "a dict's find",
  ["lua/lunapark/json.lua empty_text"] = "a literal of 32 random digits",
  ["lua/lunapark/testing/coverage.lua pattern"] = "of the user's own .luacov, for names of files",
}

-- Files whose texts nobody else writes: what somebody types at a prompt completes it.
local own = { ["lua/lunapark/command/repl_complete.lua"] = true }

local function sources()
  local found = assert(exec.run { "find", "lua", "-name", "*.lua" })
  local list = {}
  for path in found.stdout:gmatch "[^\n]+" do list[#list + 1] = path end
  table.sort(list)
  return list
end

describe("steps", function()
  it("are counted as string.find goes", function()
    assert.equal(2, steps.of("^a", "a", false))
    assert.is_true(steps.worst("[^&]+", true) <= 2)
    assert.is_true(steps.worst("^([^%s:]+):()", false) <= 2)
  end)

  for _, pattern in ipairs {
    "^%s*(.-)%s*$", "%s+$", "^([^%s:]+):[ \t]*(.-)[ \t]*$", "^%s*([^=%s]+)%s*=%s*(.-)%s*$", "(%S+) %d+\n", "([^%z]*)%z",
    "require%s*%(?%s*'", "()\n%s*([^\n]-):(%d+): ?()",
  } do
    it(("show that %q is not linear"):format(pattern), function()
      assert.is_true(steps.worst(pattern, true) > 3)
    end)
  end
end)

describe("patterns", function()
  for _, path in ipairs(sources()) do
    local list = calls.of(helper.text_of(path))
    if #list > 0 and not own[path] then
      it("of " .. path .. " are linear", function()
        for _, call in ipairs(list) do
          local place = ("%s:%d: %s"):format(path, call.line, call.given)
          if call.pattern and not call.plain then
            local growth, text = steps.worst(call.pattern, call.name:sub(1, 1) == "g")
            assert(growth <= MOST, ("%s: %.1f times the steps for twice %q"):format(place, growth, text))
          elseif not call.plain then
            assert(given[path .. " " .. call.given], place .. ": which pattern is it?")
          end
        end
      end)
    end
  end
end)

local text = steps.load "lunapark.core.text"
local path = require "lunapark.http.path" -- C's
local form = steps.load "lunapark.http.form"
local multipart = steps.load("lunapark.http.multipart",
  { ["lunapark.http.path"] = path, ["lunapark.core.text"] = text })
local compress = steps.load("lunapark.http.compress", { ["lunapark.http.multipart"] = multipart })
local jar = steps.load("lunapark.testing.cookies", { ["lunapark.core.text"] = text })
local response = steps.load("lunapark.client.response", { ["lunapark.core.text"] = text })
local page = steps.load "lunapark.command.dev.page"
local report = steps.load("lunapark.command.dev.report", { ["lunapark.core.text"] = text })

-- A connection that a head comes from, in lines.
local function conn_of(lines)
  local i = 0
  return {
    read_line = function()
      i = i + 1
      return lines[i]
    end,
  }
end

local function nothing() end

local message = steps.load "lunapark.dns.message"

-- A number of 16 bits as DNS has it.
local function u16(n) return string.char(math.floor(n / 256), n % 256) end

-- A reply of n addresses whose name is behind a chain of pointers, which stands in the data of a first record.
local function chained(n, length)
  local at = 12 + 11 -- of that data, counted from 0: what the first pointer leads to
  local chain = { "\0" }
  for i = 1, length do
    chain[i + 1] = u16(0xc000 + (i == 1 and at or at + 1 + 2 * (i - 2)))
  end
  local data = table.concat(chain)
  local first = "\0" .. u16(16) .. u16(1) .. u16(0) .. u16(1) .. u16(#data) .. data
  local name = u16(0xc000 + at + 1 + 2 * (length - 1))
  local record = name .. u16(1) .. u16(1) .. u16(0) .. u16(1) .. u16(4) .. "\127\0\0\1"
  return u16(0) .. u16(0x8180) .. u16(0) .. u16(n + 1) .. u16(0) .. u16(0) .. first .. record:rep(n)
end

local functions = {
  ["fields with parameters"] = function(s)
    multipart.parameters(s)
    multipart.parameters("a; " .. s)
    multipart.parameters('a; b="' .. s)
    multipart.parameters('a; b="' .. s .. '"; ' .. s)
  end,
  ["Accept-Encoding"] = function(s) compress.choose(s, { "gzip", "br" }) end,
  ["boundaries"] = function(s) multipart.boundary("multipart/x; boundary=" .. s) end,
  ["heads of parts"] = function(s)
    for _, head in ipairs { s, "A: " .. s, 'Content-Disposition: a; name="' .. s .. '"; filename="' .. s .. '"',
      "Content-Disposition: a; filename*=utf-8''" .. s } do
      local source = multipart.source_of("--B\r\n" .. head .. "\r\n\r\n\r\n--B--", error)
      pcall(multipart.parts(source, "B", false))
    end
  end,
  ["form.parse"] = function(s) form.parse(s, #s) end,
  ["cookies of the test client"] = function(s) jar.new():take({ "a=b; " .. s, s }, "host", "/" .. s) end,
  ["heads of responses"] = function(s)
    if s:find("\n", 1, true) then return end -- in no line
    response.read_head(conn_of { "HTTP/1.1 200 OK", "X-A: " .. s, "X-" .. s, "" }, "GET")
  end,
  ["status lines of responses"] = function(s) response.read_head(conn_of { "HTTP/1.1 200 " .. s, "" }, "GET") end,
  ["sizes of chunks in responses"] = function(s)
    response.read_piece({ framing = "chunked", conn = conn_of { s } }, 1)
    response.read_piece({ framing = "chunked", conn = conn_of { "0" .. s:sub(2) } }, 1)
  end,
  ["page.kind"] = function(s) page.kind(s) end,
  ["report.new"] = function(s) report.new(s .. "\nstack traceback:\n\t" .. s, nothing) end,
}

local pieces = {
  " ", "a", "a=b;", "a=b&", "a&", "&", "%41", "+", "/", "../", "a/", "%2e%2e/", "\t ", "; ", ";", "a ", " a", "=",
  "x= ;", ",", "text/html;q=0, ", ";q=0", "0", '"', "\n", "\n ", "x:1: ", ":1", "x:1: \n", "a:b", "\\", '\\"', "\\\\",
  "a:b\r\n", "..", "\\a",
}

describe("functions are linear in what they get:", function()
  it("names in replies of name servers", function()
    assert.same({ { name = "", ttl = 1, address = "127.0.0.1" } }, (message.parse(chained(1, 100), "A")))
    for _, length in ipairs { 1, 100, 128, 129 } do
      local once = steps.count(function() message.parse(chained(500, length), "A") end)
      local twice = steps.count(function() message.parse(chained(1000, length), "A") end)
      assert(twice <= MOST * once, ("%d and %d steps"):format(once, twice))
    end
    local once = steps.count(function() message.parse(chained(500, 500), "A") end)
    local twice = steps.count(function() message.parse(chained(1000, 1000), "A") end)
    assert(twice <= MOST * once, ("%d and %d steps"):format(once, twice))
  end)

  for name, fn in pairs(functions) do
    it(name, function()
      for _, piece in ipairs(pieces) do
        for _, ending in ipairs { "", "y", "=", ";" } do
          local once = steps.count(function() fn("x" .. piece:rep(500) .. ending) end)
          local twice = steps.count(function() fn("x" .. piece:rep(1000) .. ending) end)
          assert(twice <= MOST * once + 200, ("%d and %d steps for %q"):format(once, twice, piece .. " ... " .. ending))
        end
      end
    end)
  end
end)
