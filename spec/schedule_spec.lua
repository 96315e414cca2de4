-- app:every, app:cron, and options of apps.

local http = require "lunapark.http"
local lp = require "lunapark"
local schedule = require "lunapark.http.schedule"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local helper = require "spec.helper"

local function at(text)
  local y, mo, d, h, mi, s = text:match "^(%d+)%-(%d+)%-(%d+) (%d+):(%d+):?(%d*)$"
  return os.time { year = y, month = mo, day = d, hour = h, min = mi, sec = tonumber(s) or 0 }
end

describe("cron's times", function()
  local function next_of(line, now)
    local t = schedule.next(assert(schedule.parse(line)), at(now))
    return t and os.date("%Y-%m-%d %H:%M", t)
  end

  it("are those of crontab", function()
    for _, case in ipairs {
      { "* * * * *", "2026-03-05 10:20:30", "2026-03-05 10:21" },
      { "* * * * *", "2026-03-05 10:20:00", "2026-03-05 10:21" },
      { "*/5 * * * *", "2026-03-05 10:20", "2026-03-05 10:25" },
      { "*/25 * * * *", "2026-03-05 10:50", "2026-03-05 11:00" },
      { "7 3 * * *", "2026-03-05 10:20", "2026-03-06 03:07" },
      { "0 3 1 * *", "2026-12-05 10:20", "2027-01-01 03:00" },
      { "0 12 * * mon-fri", "2026-03-06 12:00", "2026-03-09 12:00" },
      { "0 0 * * 7", "2026-03-05 10:20", "2026-03-08 00:00" },
      { "0 0 * * SUN", "2026-03-05 10:20", "2026-03-08 00:00" },
      { "0 0 29 feb *", "2026-03-05 10:20", "2028-02-29 00:00" },
      { "0 0 13 * fri", "2026-03-05 10:20", "2026-03-06 00:00" },
      { "0 0 */2 * mon", "2026-03-05 10:20", "2026-03-09 00:00" },
      { "1,2,40-50/5,59 8-9 * * *", "2026-03-05 08:41", "2026-03-05 08:45" },
      { "5/20 * * * *", "2026-03-05 08:41", "2026-03-05 08:45" },
      { "0 0 31 * *", "2026-04-01 00:00", "2026-05-31 00:00" },
      { "@daily", "2026-12-31 23:59", "2027-01-01 00:00" }, { "@hourly", "2026-12-31 23:59", "2027-01-01 00:00" },
      { "@weekly", "2026-03-05 10:20", "2026-03-08 00:00" },
      { "0 0 30 2 *", "2026-03-05 10:20", nil },
    } do
      assert.equal(case[3], next_of(case[1], case[2]), case[1])
    end
  end)

  it("are told what is wrong with them", function()
    for line, err in pairs {
      ["* * * *"] = "must have five fields", [""] = "must have five fields", ["* * * * * *"] = "more than five",
      ["60 * * * *"] = "bad minute: 60", ["* 24 * * *"] = "bad hour: 24", ["* * 0 * *"] = "bad day: 0",
      ["* * * 13 *"] = "bad month: 13", ["* * * foo *"] = "bad month: foo", ["* * * * 8"] = "bad weekday: 8",
      ["*/0 * * * *"] = "bad minute", ["*/ * * * *"] = "bad minute", ["5-1 * * * *"] = "bad minute",
      ["1, * * * *"] = "bad minute", ["1-2-3 * * * *"] = "bad minute", ["@sometimes"] = "bad minute",
    } do
      local times, why = schedule.parse(line)
      assert.is_nil(times)
      assert.matches(err, why, 1, true)
    end
    local app = http.app()
    assert.matches('cron: "x" has a bad minute: x', helper.raised(app.cron, app, "x", print))
    assert.matches('cron: "0 0 31 2 %*" never comes', helper.raised(app.cron, app, "0 0 31 2 *", print))
    assert.matches("cron: times must be a string, got number", helper.raised(app.cron, app, 5, print))
    assert.matches("every: s must be more than 0, got 0", helper.raised(app.every, app, 0, print))
    assert.matches("every: fn must be a function, got nil", helper.raised(app.every, app, 1))
    assert.matches("call it with a colon", helper.raised(app.every, 1, print))
  end)

  it("come when the clock shows them", function()
    local runs = {}
    testing.virtual(function()
      local g = lp.go(schedule.cron("test", schedule.parse "*/10 * * * *", function()
        runs[#runs + 1] = os.date "%H:%M:%S"
        if #runs == 1 then lp.sleep(700) end
        if #runs == 2 then error "as told" end
      end))
      lp.sleep(3600)
      g:cancel()
      g:join()
    end, { start = at "2026-03-05 10:05" })
    assert.same({ "10:10:00", "10:30:00", "10:40:00", "10:50:00", "11:00:00" }, runs)
  end)
end)

describe("every", function()
  it("keeps the beat, leaves out what is late, and goes on after errors", function()
    local runs = {}
    testing.virtual(function()
      local began = lp.now()
      local g = lp.go(schedule.every("test", 10, function()
        runs[#runs + 1] = lp.now() - began
        if #runs == 2 then lp.sleep(25) end
        if #runs == 3 then error "as told" end
      end))
      lp.sleep(75)
      g:cancel()
      g:join()
    end)
    for i, s in ipairs { 10, 20, 50, 60, 70 } do assert.is_true(math.abs(runs[i] - s) < 1e-3, i .. ": " .. runs[i]) end
    assert.equal(5, #runs)
  end)
end)

describe("an app's schedule", function()
  after_each(child.clean)

  local APP = [[
    local dict = require("lunapark.shared").dict "n"
    local app = require("lunapark.http").app()
    app:every(0.02, function()
      if dict:incr("now", 1, 0) > 1 then dict:set("twice", true) end
      dict:incr("%s", 1, 0)
      require("lunapark").sleep(0.01)
      dict:incr("now", -1)
    end)
    app:get("/:key", function(req) return tostring(dict:get(req.params.key)) end)
    return app
  ]]

  it("runs in one VM, and goes on after a reload", function()
    local path = child.script(APP:format "first")
    local c = child.serve { path, "--procs", "2" }
    local client = child.client(c.addr)
    local function get(key) return tonumber(client:get("/" .. key).body) or 0 end
    child.eventually(function() return get "first" > 5 end, "runs")
    local f = assert(io.open(path, "w"))
    f:write((APP:format "second"))
    f:close()
    c:kill "HUP"
    child.eventually(function() return get "second" > 5 end, "runs of the new generation")
    local first = get "first"
    child.eventually(function() return get "second" > 10 end, "further runs")
    assert.equal(first, get "first")
    assert.equal("nil", client:get("/twice").body)
  end)

  it("runs while the app is served, in a spec too, once for each time", function()
    local runs = 0
    local app = http.app()
    app:every(0.01, function() runs = runs + 1 end)
    app:get("/", function() return tostring(runs) end)
    local one, two = testing.serve(app), testing.serve(app)
    child.eventually(function() return tonumber(one:get("/").body) > 3 and tonumber(two:get("/").body) > 3 end, "runs")
    one.server:close()
    two.server:close()
    local n = runs
    lp.sleep(0.05)
    assert.equal(n, runs)
  end)

  it("lets apps with one singleton be served beside each other", function()
    local path = child.script [[
      local app = require("lunapark.http").app()
      local lp = require "lunapark"
      local n = 0
      lp.singleton("counts", function() while lp.sleep(0.005) do n = n + 1 end end)
      app:get("/", function() return tostring(n) end)
      return app
    ]]
    testing.allow_leak "G"
    local one, two = testing.serve(path), testing.serve(path)
    child.eventually(function() return tonumber(one:get("/").body) > 2 and tonumber(two:get("/").body) > 2 end, "both")
  end)
end)

describe("an app's options", function()
  after_each(child.clean)

  it("are told by app:set and http.app", function()
    local c = child.serve { child.script [[
      local app = require("lunapark.http").app { max_body = 10 }
      app:set { handler_timeout = 5, ["log-level"] = "error" }
      app:post("/", function(req) return tostring(#req:body()) end)
      return app
    ]] }
    local client = child.client(c.addr)
    assert.equal("10", client:post("/", { body = ("x"):rep(10) }).body)
    assert.equal(413, client:post("/", { body = ("x"):rep(11) }).status)
    local code, _, err = child.run { child.script "return require('lunapark.http').app { max_boddy = 1 }", "--listen",
      "127.0.0.1:0" }
    assert.equal(1, code)
    assert.matches("unknown option 'max_boddy'", err)
    assert.matches("set: opts must be a table, got nil", helper.raised(http.app().set, http.app()))
    assert.matches("app: opts must be a table, got number", helper.raised(http.app, 1))
    assert.matches("app has options", helper.raised(http.app().mount, http.app(), "/x", http.app { max_body = 1 }))
  end)

  it("hold in testing.serve, each app's for its own server", function()
    local function app_of(opts)
      local app = http.app(opts)
      app:post("/", function(req) return tostring(#req:body()) end)
      app:get("/slow", function() lp.sleep(5) return "done" end)
      return app
    end
    local small, plain = testing.serve(app_of { max_body = 10, listen = { "127.0.0.1:1" } }), testing.serve(app_of())
    local quick = testing.serve(app_of { handler_timeout = 0.05 })
    local body = ("x"):rep(11)
    assert.equal(413, small:post("/", { body = body }).status)
    assert.equal("11", plain:post("/", { body = body }).body)
    assert.equal(504, quick:get("/slow").status)
    assert.matches("serve: the app's options: unknown option 'max_boddy'",
      helper.raised(testing.serve, app_of { max_boddy = 1 }))
    assert.matches("max%-body: must be .*, got 'lots'", helper.raised(testing.serve, app_of { max_body = "lots" }))
  end)
end)
