local annotations = require "host.build.annotations"
local docs = require "host.build.docs"
local exec = require "lunapark.exec"
local fs = require "lunapark.fs"
local child = require "spec.support.child"

require("lunapark.testing").block_timeout(120) -- LDoc takes long on a busy machine

describe("the reference", function()
  after_each(child.clean)

  it("every function of every module that users require is documented, with its parameters and results", function()
    assert.same({}, docs.check(docs.pages()))
  end)

  it("has a page for each module that users require, and for no other", function()
    local names = {}
    for _, page in ipairs(docs.pages()) do names[#names + 1] = page.name end
    assert.same({
      "lunapark", "lunapark.crypto", "lunapark.dns", "lunapark.exec", "lunapark.fs", "lunapark.http", "lunapark.json",
      "lunapark.log", "lunapark.net", "lunapark.shared", "lunapark.signal", "lunapark.testing", "lunapark.tls",
    }, names)
  end)

  it("has the functions and classes that API.md names", function()
    local found = {}
    for _, page in ipairs(docs.pages()) do
      for _, item in ipairs(page.functions) do found[page.name .. "." .. item.name] = true end
      for _, class in ipairs(page.classes) do
        found[class.name] = true
        for _, method in ipairs(class.methods) do found[class.name .. ":" .. method.name] = true end
      end
    end
    for _, name in ipairs {
      "lunapark.go", "lunapark.park", "lunapark.ready", "lunapark.chan", "lunapark.select", "lunapark.mutex",
      "lunapark.after", "lunapark.offload", "lunapark.cdef", "lunapark.stats", "lunapark.stop", "lunapark.retired",
      "lunapark.G:join", "lunapark.Chan:recv",
      "lunapark.Timer:stop", "lunapark.Scope:go", "lunapark.net.dial", "lunapark.net.copy", "lunapark.net.fd",
      "lunapark.net.serve", "lunapark.net.pool",
      "lunapark.Server:stop", "lunapark.UdpServer:stop", "lunapark.Pool:get", "lunapark.App:tcp", "lunapark.Conn:peek",
      "lunapark.Conn:read_line", "lunapark.Conn:set_deadline", "lunapark.Listener:accept", "lunapark.Udp:recv",
      "lunapark.Fd:wait_read", "lunapark.dns.lookup", "lunapark.Resolver:query", "lunapark.exec.run",
      "lunapark.Process:kill", "lunapark.ExecResult", "lunapark.fs.read", "lunapark.File:seek", "lunapark.shared.dict",
      "lunapark.Dict:incr", "lunapark.http.app", "lunapark.App:get", "lunapark.Request:json", "lunapark.Response:write",
      "lunapark.Response:send_file",
      "lunapark.Headers:get_all", "lunapark.json.decode", "lunapark.testing.serve", "lunapark.testing.Client:get",
    } do
      assert.is_true(found[name], name)
    end
    -- Nobody gets hold of these.
    for _, name in ipairs { "lunapark.seed", "lunapark.Turn", "lunapark.Race", "lunapark.net.connect" } do
      assert.is_nil(found[name], name)
    end
  end)

  it("tells what is missing", function()
    local path = child.script [=[
--- A module.
local m = {}

---@class m.Thing
---@field size integer
---@field private hidden any
local Thing = {}

--- Well done.
---@param a string|(string|number)[]  what
---goes on
---@param f? fun(x: number, y?: string): boolean, string?
---@return { [1]: string }|nil result
---@return string? err  "why"
function Thing:good(a, f)
  if f then return nil, "why" end
  return { a }
end

function Thing:bare(a) self.a = a end

--- Has one too few and one too many.
---@param b any
function Thing:wrong(a)
  return a
end

---@private
function Thing:inner() end

return m
]=]
    local file = annotations.read(path)
    local class = file.classes["m.Thing"]
    assert.same({ "A module." }, file.head)
    assert.same({ { name = "size", type = "integer", optional = false, text = "" } }, class.fields)
    local good = class.methods[1]
    assert.same({
      { name = "a", type = "string|(string|number)[]", optional = false, text = "what goes on" },
      { name = "f", type = "fun(x: number, y?: string): boolean, string?", optional = true, text = "" },
    }, good.params)
    assert.same({
      { name = "result", type = "{ [1]: string }|nil", text = "" },
      { name = "err", type = "string?", text = '"why"' },
    }, good.returns)
    local missing = docs.check {
      { name = "m", head = file.head, functions = {}, classes = {
        { name = "Thing", methods = class.methods, path = "m.lua" },
      } },
    }
    assert.same({
      "m.lua:20: Thing:bare: no comment", "m.lua:24: Thing:wrong: no @param a",
      "m.lua:24: Thing:wrong: @param of what is no parameter: b", "m.lua:24: Thing:wrong: no @return",
    }, missing)
    assert.has_error(function() annotations.read(child.script "local m\n---@pram x any\nfunction m.x(x) end\n") end)
  end)

  describe("as LDoc builds it", function()
    local dir

    before_each(function()
      dir = assert(exec.run { "mktemp", "-d" }).stdout:match "^[^\n]+"
      assert(exec.run { "mkdir", dir .. "/src" })
    end)
    after_each(function() exec.run { "rm", "-rf", dir } end)

    -- Every link of a page leads to a file and a place in it that are there.
    local function check_links(path, text, read)
      for href in text:gmatch 'href="([^"]*)"' do
        local target, anchor = href:match "^([^#]*)#?(.*)$"
        if not target:find "^http" then
          local where = target == "" and path or path:match "^(.*/)" .. target
          local there = read(where:gsub("[^/]+/%.%./", ""))
          assert(there, path .. " links to " .. href)
          if anchor ~= "" then
            local place = 'name ?= ?"' .. anchor:gsub("%W", "%%%0") .. '"'
            assert(there:find(place), path .. " links to " .. href)
          end
        end
      end
    end

    it("has a page for each module, all functions, no warnings and no dead links", function()
      local code, out, err = child.run { "run", "host/build/docs.lua", dir .. "/src" }
      assert.same({ 0, "", "" }, { code, out, err })
      local r = assert(exec.run({
        "ldoc", "-c", dir .. "/src/config.ld", "-d", dir .. "/doc", "--testing", "--fatalwarnings", dir .. "/src",
      }, { stderr = "stdout", timeout = 60 }))
      assert.equal(0, r.code, r.stdout)
      assert.is_nil(r.stdout:find "warning", r.stdout)
      local cache = {}
      local function read(path)
        cache[path] = cache[path] or fs.read(path)
        return cache[path]
      end
      check_links(dir .. "/doc/index.html", assert(read(dir .. "/doc/index.html")), read)
      for _, page in ipairs(docs.pages()) do
        local path = ("%s/doc/modules/%s.html"):format(dir, page.name)
        local text = assert(read(path))
        for _, item in ipairs(page.functions) do
          assert(text:find(('<a name = "%s"></a>'):format(item.name), 1, true), page.name .. "." .. item.name)
        end
        for _, class in ipairs(page.classes) do
          for _, method in ipairs(class.methods) do
            local name = class.name:match "[%w_]+$" .. ":" .. method.name
            assert(text:find(('<a name = "%s"></a>'):format(name), 1, true), page.name .. ": " .. name)
          end
        end
        check_links(path, text, read)
      end
    end)
  end)
end)
