--- Slips in apps, and what one sees of them: an answer that is right, or an error that names the line and what was
--- probably meant. None is a wrong answer without a word. Slips at the command line: commands_spec, check_spec.

local http = require "lunapark.http"
local json = require "lunapark.json"
local lp = require "lunapark"
local shared = require "lunapark.shared"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local dev = require "spec.support.dev"
local helper = require "spec.helper"

testing.block_timeout(120)

describe("a mistake in a handler:", function()
  local client

  after_each(function() if client then client:close() end client = nil end)

  -- The answer of a handler, and what was logged meanwhile.
  local function ask(fn, opts)
    local app = http.app()
    app:any("/", fn)
    client = testing.serve(app)
    local r
    local log = helper.stderr_of(function() r = assert(client:get("/", opts)) end)
    return r, log
  end

  -- Answers 500, and the log has the words behind a line of this file.
  local function is_told(fn, words)
    local r, log = ask(fn)
    assert.equal(500, r.status)
    assert.matches("mistakes_spec%.lua:%d+: .*" .. words, log)
  end

  describe("what is returned:", function()
    it("the status behind the body works", function()
      local r = ask(function() return "gone", 410 end)
      assert.same({ 410, "gone" }, { r.status, r.body })
      r = ask(function() return { id = 1 }, 201, { Location = "/1" } end)
      assert.same({ 201, '{"id":1}', "/1" }, { r.status, r.body, r.headers.location })
      r = ask(function() return http.html "<p>", 404 end)
      assert.same({ 404, "<p>" }, { r.status, r.body })
      r = ask(function() return "x", nil, { ["X-A"] = "1" } end)
      assert.same({ 200, "1" }, { r.status, r.headers["x-a"] })
    end)

    it("res works", function()
      local r = ask(function(_, res)
        res.status = 202
        res:json { a = 1 }
        return res
      end)
      assert.same({ 202, '{"a":1}' }, { r.status, r.body })
      is_told(function(_, res) return res, 404 end, "returned more than res")
    end)

    it("the count of gsub, which is no status", function()
      is_told(function() return ("abc"):gsub("b", "x") end, "got 1 %(the count of gsub%? Put its call into")
      assert.equal("axc", ask(function() return (("abc"):gsub("b", "x")) end).body)
    end)

    it("a method that was not called", function()
      is_told(function(req) return req.body end, "a function, which is no answer: did you mean .* req:body")
      is_told(function(_, res) return 200, res.json end, "a function, .* body of 200: did you mean .* res:json")
    end)

    it("values that are no answer", function()
      is_told(function() return true end, "returned a boolean, which is no answer")
      is_told(function() return print end, "returned a function, which is no answer\n")
      is_told(function() return 200, true end, "returned a boolean, which is no answer, as the body of 200")
      is_told(function() return 200, 5 end, "returned a number, which is no answer, as the body")
      is_told(function() return 200, "x", "y" end, "returned headers that are a string")
      is_told(function() return "x", 200, "y" end, "returned headers that are a string")
      is_told(function() return "x", {} end, "returned a table beside its body, where a status belongs")
      is_told(function() return "x", 99.5 end, "whole number from 200 to 999, got 99.5")
      is_told(function() return 42 end, "whole number from 200 to 999, got 42")
      is_told(function() return { print } end, "returned a table that is no JSON: .*function")
      is_told(function() return nil, "no such row" end, "the handler returned nil, no such row")
      is_told(function() return nil, nil, "x" end, "returned nil, nil and a string")
    end)

    it("tables that JSON has no words for, with the place; others as they are", function()
      is_told(function() return { list = { [1] = 1, [1e6] = 2 } } end, "that is no JSON: .*a sparse array.* at .list")
      is_told(function() return { text = "\255\254" } end, "that is no JSON: .*not UTF%-8 at .text")
      is_told(function() return { n = 0 / 0 } end, "that is no JSON: .*nan at .n")
      is_told(function() local t = {} t.t = t return t end, "that is no JSON: .*does it contain itself")
      assert.equal("[1,2,null,4]", ask(function() return { 1, 2, nil, 4 } end).body)
      assert.equal("{}", ask(function() return {} end).body)
      assert.equal("[]", ask(function() return json.empty_array end).body)
      assert.same({ ["1"] = 1, ["2"] = 2, x = 3 }, ask(function() return { 1, 2, x = 3 } end):json())
    end)

    it("headers that are a list of lines", function()
      is_told(function() return 200, "x", { "X-A: y" } end,
        'headers that .* sent: name must be a token, got number: write them by name, { %["X%-Name"%] = "value" }')
    end)

    it("a status that is a string", function()
      local r, log = ask(function(_, res) res.status = "404" return "x" end)
      assert.equal(500, r.status)
      assert.matches('whole number from 200 to 999, got the string "404"', log)
    end)

    it("nothing: 204, and a mistake with --dev", function()
      assert.equal(204, ask(function() end).status)
      local served = dev.serve(child.script [[
        local app = require("lunapark.http").app()
        app:get("/nothing", function() end)
        app:get("/told", function(_, res) res.status = 204 end)
        app:get("/meant", function() return 204 end)
        return app
      ]])
      local r = served:get("/nothing", dev.NAVIGATES)
      assert.equal(500, r.status)
      assert.matches("returned nothing, and told res nothing", r.body)
      assert.same({ 204, 204 }, { served:get("/told").status, served:get("/meant").status })
      child.clean()
    end)
  end)

  describe("a call", function()
    it("with a dot in place of the colon", function()
      for _, fn in ipairs {
        function(_, res) return res.json { a = 1 } end, function(_, res) return res.redirect "/x" end,
        function(_, res) res.cookie("a", "b") end, function(_, res) return res.send_file "/etc/hostname" end,
        function(_, res) res.write "x" end, function(_, res) res.sse() end,
        function(req) return req.body() end, function(req) return req.json() end,
      } do
        is_told(fn, "call it with a colon")
      end
    end)

    it("of a method that other frameworks have", function()
      is_told(function(_, res) return res:send "x" end, "res has no send: write `return body`")
      is_told(function(_, res) res:set("A", "b") end, "res has no set: write res.headers")
      is_told(function(_, res) res:finish() end, "res has no finish: write `return`")
      is_told(function(_, res) res:redirct "/" end, "res has no redirct: did you mean redirect%?")
      is_told(function(req) return req.cookies.sid end, 'req has no cookies: write req:cookie%("name"%)')
      is_told(function(req) return req.header "x" end, "req has no header: write req.headers")
      is_told(function(req) return req:multpart() end, "req has no multpart: did you mean multipart%?")
    end)

    it("of what a handler may have put there is nil", function()
      local r = ask(function(req, res)
        return tostring(req.user) .. tostring(req.locale) .. tostring(res.theme) .. tostring(req[1])
      end)
      assert.equal("nilnilnilnil", r.body)
    end)

    it("of the app", function()
      local app = http.app()
      assert.matches("app has no gett: did you mean get%?", helper.raised(function() app:gett("/", print) end))
      assert.matches("app has no moutn: did you mean mount%?", helper.raised(function() app:moutn() end))
      assert.matches("app has no listen: write lunapark serve", helper.raised(function() app:listen(3000) end))
      assert.matches("app has no all: write app:any", helper.raised(function() app:all("/", print) end))
      assert.matches("mistakes_spec", helper.raised(function() app:gett("/", print) end))
      assert.is_nil(app.database)
    end)

    it("of use with a path", function()
      local app = http.app()
      assert.matches("got string: for a path there is app:mount", helper.raised(function() app:use("/api", print) end))
      assert.matches("mistakes_spec", helper.raised(function() app:use("/api", print) end))
    end)

    it("with a string that reads as a number", function()
      is_told(function() lp.sleep "0.1" end, 'sleep: s must be a number of seconds, got the string "0.1"')
      is_told(function() http.abort "404" end, 'abort: status must be .*, got the string "404"')
      is_told(function(_, res) res:redirect("/", "302") end, 'redirect: status must be .*, got the string "302"')
    end)

    it("of body when read has taken it, or a part of no certain size", function()
      local post = { body = ("x"):rep(100) }
      for _, fn in ipairs {
        function(req) req:read() return req:body() end,
        function(req) while req:read(7) do end return req:body() end,
        function(req) req:read() return req:json() end,
      } do
        local r, log = ask(fn, post)
        assert.equal(500, r.status)
        assert.matches("body: req:read%(%) has taken the body, or its beginning", log)
        assert.matches("mistakes_spec%.lua:%d+: ", log)
      end
      assert.equal(("x"):rep(90), ask(function(req) req:read(10) return req:body() end, post).body)
      assert.equal("", ask(function(req) while #req:read(1000) < 100 do end return req:body() end, post).body)
      assert.equal("x", ask(function(req) return req:read() or "x" end).body)
      assert.equal("", ask(function(req) req:read() return req:body() end).body)
    end)

    it("of a dict with what it does not keep", function()
      local dict = shared.dict "mistakes_spec"
      is_told(function() dict:set("k", { a = { print } }) end, "set: .*cannot serialize 'function' at .a%[1%]")
      is_told(function() local t = {} t.own = t dict:set("k", t) end, "set: .*at .own, which contains itself")
    end)

    it("of require for what is not in the box", function()
      is_told(function() require "lunapark.template" end,
        "module 'lunapark.template' not found: Lunapark has none of this name\n\tIts modules are .* crypto, dns, ")
      is_told(function() require "lunapark.jsn" end, "none of this name: did you mean json%?")
    end)

    it("of error with a table", function()
      local r, log = ask(function() error {} end)
      assert.equal(500, r.status)
      assert.matches("%): {}\n.*mistakes_spec%.lua:%d+: in function", log)
      r, log = ask(function() error { code = 5, what = "no row" } end)
      assert.equal(500, r.status)
      assert.matches('%): {"code":5,"what":"no row"}\n.*mistakes_spec%.lua:%d+: in function', log)
      r = ask(function() error { status = 418, message = "tea" } end)
      assert.same({ 418, "tea" }, { r.status, r.body })
    end)

    it("of nothing: the app is not returned", function()
      local exec = require "lunapark.exec"
      local r = assert(exec.run { child.binary, "check", child.script "local app = require('lunapark.http').app()" })
      child.clean()
      assert.equal(1, r.code)
      assert.matches("neither an app nor a function, but nil: did you forget `return app`%?", r.stderr)
    end)
  end)

  describe("headers", function()
    it("with an underscore", function()
      is_told(function(_, res) res.headers.Content_Type = "text/css" return "x" end,
        'no client knows Content_Type: did you mean headers%["Content%-Type"%]')
      is_told(function() return 200, "x", { Cache_Control = "no-store" } end, 'mean headers%["Cache%-Control"%]')
      is_told(function(req) return req.headers.user_agent end, 'no user_agent: did you mean headers%["user%-agent"%]')
      local r = ask(function(req, res)
        res.headers.X_Own = "1" -- a name is a name
        return tostring(req.headers.x_own)
      end)
      assert.same({ "nil", "1" }, { r.body, r.headers.x_own })
    end)
  end)

  describe("paths", function()
    it("with braces or angles", function()
      local app = http.app()
      assert.matches("has {id}: names of segments begin with a colon, as in /:id",
        helper.raised(function() app:get("/u/{id}", print) end))
      assert.matches("has <int:id>: names of segments begin with a colon",
        helper.raised(function() app:get("/u/<int:id>", print) end))
    end)
  end)

  describe("middleware", function()
    local function through(middleware, handler)
      local app = http.app()
      app:use(middleware)
      app:get("/", handler or function() return 201, { a = 1 }, { ["X-A"] = "1" } end)
      client = testing.serve(app)
      local r
      local log = helper.stderr_of(function() r = assert(client:get "/") end)
      return r, log
    end

    it("that keeps only the first value works", function()
      for _, fn in ipairs {
        function(_, _, next) local r = next() return r end,
        function(_, _, next) return (next()) end,
        function(_, res, next) next() return res end,
        function(_, _, next) next() end,
        function(_, _, next) return next() end,
      } do
        local r = through(fn)
        assert.same({ 201, '{"a":1}', "1" }, { r.status, r.body, r.headers["x-a"] })
      end
    end)

    it("sees the answer in what next returns", function()
      local seen
      through(function(_, res, next)
        local r = next()
        seen = { r == res, r.status, r.body, r.headers["x-a"] }
        return r
      end)
      assert.same({ true, 201, '{"a":1}', "1" }, seen)
    end)

    it("that never calls next is told of", function()
      local r, log = through(function() end)
      assert.equal(204, r.status)
      assert.matches("mistakes_spec%.lua:%d+: the middleware returned nothing, .* did not call next", log)
      r, log = through(function(_, res) res.status = 403 end)
      assert.same({ 403, "" }, { r.status, log })
    end)

    it("names the function whose result is no answer", function()
      local r, log = through(function(_, _, next) return next() end, function() return true end)
      assert.equal(500, r.status)
      assert.matches("mistakes_spec%.lua:%d+: the handler returned a boolean", log)
      r, log = through(function(_, _, next) next() return true end)
      assert.equal(500, r.status)
      assert.matches("mistakes_spec%.lua:%d+: the handler returned a boolean", log)
      local err
      r = through(function(_, _, next)
        next()
        err = select(2, pcall(function() return next .. "!" end))
      end, function(_, res) res:write "x" end)
      assert.equal("x", r.body)
      assert.is_string(err)
      r = through(function(_, res, next)
        next()
        err = select(2, pcall(function() return res .. "!" end))
      end, function(_, res) res:write "x" end)
      assert.equal("x", r.body)
      assert.matches("mistakes_spec%.lua:%d+: the answer has no body", err)
    end)
  end)

  describe("in what VMs share, or not:", function()
    after_each(child.clean)

    it("a global that a function makes", function()
      local server = child.serve { child.script [[
        local app = require("lunapark.http").app()
        of_the_app = 1
        app:get("/", function()
          of_the_app = 2
          leaked = (leaked or 0) + 1
          nothing = nil
          return tostring(leaked)
        end)
        return app
      ]], "--procs", "1", "--max-vms", "1" }
      local client_ = child.client(server.addr)
      assert.same({ "1", "2" }, { client_:get("/").body, client_:get("/").body })
      server:said "did you forget `local`?"
      server:kill "TERM"
      server:wait()
      assert.matches("%.lua:5: a function has made the global leaked, which all requests of this VM see: did",
        server:stderr())
      assert.equal(1, helper.count(server:stderr(), "made the global"))
    end)

    it("a global in an app that has rules of its own for globals", function()
      local server = child.serve { child.script [[
        setmetatable(_G, { __newindex = function(_, name) error("no globals here: " .. name, 2) end })
        local app = require("lunapark.http").app()
        app:get("/", function() leaked = 1 end)
        return app
      ]], "--procs", "1" }
      assert.equal(500, child.client(server.addr):get("/").status)
      server:said "no globals here: leaked"
      assert.equal(0, helper.count(server:stderr(), "made the global"))
    end)

    it("a counter, of which each VM has one: check tells", function()
      local code, out = child.run {
        "check", child.script [[
          local hits = 0
          return function() hits = hits + 1 return { hits = hits } end
        ]],
        env = { PATH = "/nowhere" },
      }
      assert.equal(0, code)
      assert.matches("%.lua:2:29: %(per VM%) hits counts in each VM for itself: use lunapark.shared to count for", out)
    end)

    it("a listener of on_start", function()
      local server = child.start { "serve", child.script(([[
        local app = require("lunapark.http").app()
        app:on_start(function() listener = assert(require("lunapark.net").listen("unix:%s")) end)
        return app
      ]]):format(child.file())), "--listen", "127.0.0.1:0", "--procs", "2", "--max-vms", "2" }
      server:said "address already in use (each VM of a server runs this: app:tcp listens once for all)"
    end)

    it("os.exit", function()
      local server = child.serve { child.script [[
        local app = require("lunapark.http").app()
        app:get("/", function() return "fine" end)
        app:get("/exit", function() os.exit(3) end)
        return app
      ]] }
      local client_ = child.client(server.addr)
      assert.equal(500, client_:get("/exit").status)
      assert.equal("fine", client_:get("/").body)
      server:said "os.exit: would end the server and all requests that are being answered: use lunapark.stop()"
      assert.matches("%.lua:3: os%.exit", server:stderr())
    end)
  end)

  describe("options", function()
    it("that do not exist", function()
      assert.matches("cors: unknown option orgins: did you mean origins%?",
        helper.raised(function() http.cors { orgins = "*" } end))
      assert.matches("session: unknown option secrets: did you mean secret%?",
        helper.raised(function() http.session { secrets = "x" } end))
      assert.matches("limit: unknown option rate\n?$", helper.raised(function() http.limit { rate = 1 } end))
      assert.matches("mistakes_spec", helper.raised(function() http.limit { rate = 1 } end))
    end)
  end)
end)
