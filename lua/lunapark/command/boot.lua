--- The Lua part of the commands: loading scripts, and telling mistakes in them.
--
-- commands.c calls these functions, each as the first G of its VM. A function returns nothing when all is well, else a
-- message for the user.

require "lunapark.cdef"
local core = require "lunapark.core"
local show = require "lunapark.core.show"
require("lunapark.std.source").install()
local stop = require "lunapark.core.stop"
require "lunapark.std.require"
require("lunapark.std.blocking").install()
local pieces = require("lunapark.core.text").pieces

local boot = {}

local function traceback(err)
  return debug.traceback(type(err) == "string" and err or "error: " .. show.value(err), 2)
end

-- Tracebacks end with boot's own frames, which tell the user nothing.
local function trim(msg)
  local lines = {}
  for line in pieces(msg .. "\n", "\n") do
    if not line:find("lunapark/command/boot.lua", 1, true) and not line:find("[C]: in function 'xpcall'", 1, true)
      and not line:find("%[string \"boot\"%]") and not line:find("^%s+boot:") then
      lines[#lines + 1] = line
    end
  end
  return table.concat(lines, "\n")
end

-- Modules beside the script are found from wherever it is started.
local function add_path(script)
  local dir = script:match("^(.*)/[^/]*$")
  if dir and dir ~= "." then
    package.path = dir .. "/?.lua;" .. dir .. "/?/init.lua;" .. package.path
  end
end

-- Runs the file: true and its results, or nil and a message with file and line.
local function load_script(path, ...)
  local chunk, err = loadfile(path)
  if not chunk then return nil, err end
  add_path(path)
  local results = { xpcall(chunk, traceback, ...) }
  if not results[1] then return nil, trim(results[2]) end
  return unpack(results)
end

local function apply_options(path, opts)
  if opts == nil then return end
  if type(opts) ~= "table" then return path .. ": app.options must be a table, got " .. type(opts) end
  for name, value in pairs(opts) do
    for _, v in ipairs(type(value) == "table" and value or { value }) do
      local word, text = tostring(name), tostring(v)
      local err = (word .. text):find("\0", 1, true) and word .. " must not contain a NUL byte"
        or core.option(word, text)
      if err then return path .. ": app.options: " .. err end
    end
  end
end

-- `app.options = {...}` hides the method app:options; rawget sees only the options. app:set has the others.
local function set_options(path, app)
  return apply_options(path, rawget(app, "options")) or apply_options(path, app.settings)
end

-- The app that the file returns: its handler, the app; or nil, message.
local function load_app(path)
  local ok, app = load_script(path)
  if not ok then return nil, app end
  local http = require "lunapark.http"
  if type(app) ~= "function" and not http.is_app(app) then
    local hint = app == nil and ": did you forget `return app`?" or ""
    return nil, ("%s: returned neither an app nor a function, but %s%s"):format(path, type(app), hint)
  end
  return http.handler(app), app
end

-- Asks for the app's own listeners. Returns what is wrong.
local function listen(path, app)
  local wrong
  local seen = {}
  app:each_tcp(function(addr, fn, opts)
    if seen[addr] then wrong = wrong or ("%s: app:tcp %s: two apps ask for it"):format(path, addr) end
    seen[addr] = true
    local number, err = core.listen(addr, opts and opts.max or 0, opts and opts.backlog or 0)
    if not number then
      wrong = wrong or ("%s: app:tcp %s: %s"):format(path, addr, err)
      return
    end
    core.set_handler(number, require("lunapark.net.serve").handler("tcp " .. addr, fn, opts))
  end)
  return wrong
end

-- The app that this VM serves; nil: a plain function.
local served

--- serve: loads the app into this VM as handler 0.
---@param path string
---@param first string  "first": this VM is its generation's first
---@param dev string    "dev": by --dev
---@return string? message
function boot.serve(path, first, dev)
  stop.serves()
  local handler, app = load_app(path)
  if not handler then return app end
  if dev == "dev" then handler = require("lunapark.command.dev").handler(app) end
  if type(app) == "table" then
    -- Each VM loads the app, but its options are one process's: lists would grow with every VM.
    local err = first == "first" and set_options(path, app) or listen(path, app)
    if err then return err end
    core.share()
    local ok, msg = xpcall(app.start, traceback, app)
    if not ok then return trim(msg) end
    -- By --dev, pages show their errors and load themselves anew: all that is Lua's.
    err = dev ~= "dev" and require("lunapark.http.site").give(app, first == "first")
    if err then return err end
    served = app
  end
  core.set_handler(0, handler)
  require("lunapark.http.refusal").give(app, 0)
  require("lunapark.std.globals").watch()
end

--- Serves in place of an app that did not load, by --dev: requests are told why.
function boot.stand_in()
  core.set_handler(0, require("lunapark.command.dev").stand_in())
end

--- admin: this VM answers the admin API as handler 0.
function boot.admin()
  core.set_handler(0, require("lunapark.http").handler(require("lunapark.command.admin").app()))
end

--- A dump of the Gs of this VM, for an app whose load does not end.
---@return nil
---@return string lines
function boot.where()
  return nil, core.dump()
end

--- Retires the VM, which gets no more requests.
---@param why? string  "stop": the process stops
---@return string? message
function boot.retire(why)
  require("lunapark.core.retire").begin()
  local serve = why == "stop" and package.loaded["lunapark.net.serve"]
  if serve then serve.stop() end
  return served and served:retire()
end

--- The values that the app leaves to the next generation.
---@return string? message
---@return string? values  encoded
function boot.hand_over()
  if not served then return end
  local ok, values = xpcall(served.leave_values, traceback, served)
  if not ok then return trim(values) end
  if not values then return end
  local text
  ok, text = pcall(require("string.buffer").encode, values)
  if not ok then return "the value can't be copied: " .. tostring(text) end
  return nil, text
end

--- Gives the app the values that a VM of the last generation has left.
---@param text string
---@return string? message
function boot.take_over(text)
  if not served then return end
  local ok, msg = xpcall(served.take_values, traceback, served, require("string.buffer").decode(text))
  if not ok then return trim(msg) end
end

--- check: loads the app, lets go of it, and looks at its files.
---@param path string
---@return string? message
function boot.check(path)
  stop.is_script(boot.exit)
  local check = require "lunapark.command.check"
  check.begin(path)
  local handler, app = load_app(path)
  if not handler then return app end
  local err = type(app) == "table" and set_options(path, app)
  return err or check.finish()
end

--- routes: loads the app, and prints what it answers.
---@param path string
---@return string? message
function boot.routes(path)
  stop.is_script(boot.exit)
  local handler, app = load_app(path)
  if not handler then return app end
  local ok, err = io.stdout:write(require("lunapark.command.routes").text(app, core.option_value "json" == 1))
  if ok then ok, err = io.stdout:flush() end
  if not ok then return "routes: " .. err end
end

--- run: the script as the main G.
---@param path string
---@param ... string
---@return string? message
function boot.run(path, ...)
  arg = { [0] = path, ... } -- luacheck: globals arg
  stop.is_script(boot.exit)
  local ok, err = load_script(path, ...)
  require("lunapark").report_errors()
  if not ok then return err end
end

-- busted's own answer to --help is an error message around the text.
local function busted_help()
  local cli = require "busted.modules.cli" {}
  cli:set_name "busted"
  local _, text = cli:parse { "--help" }
  text = tostring(text):gsub("^%S+: error: ", ""):gsub("; re%-run with %-%-help.*$", "")
  text = text:gsub("%(requires%s+`LuaCov` to be%s+installed%)", "") -- testing/coverage.lua stands in for it
  io.stdout:write("\n", text, "\n")
end

-- The last words of a run of `test` that has failed; nil: none.
local hint

--- test: busted, with what is left of the command line.
---@param ... string
---@return string? message
function boot.test(...)
  arg = { [0] = "lunapark test", ... } -- luacheck: globals arg
  os.exit = boot.exit
  -- Spec files load our modules for themselves, after `install` has said which objects are noted.
  local loaded = {}
  for name, module in pairs(package.loaded) do loaded[name] = module end
  local found, runner = pcall(require, "busted.runner")
  if not found then
    local why = tostring(runner)
    if why:find("module 'busted.runner' not found", 1, true) then why = "there is no module busted.runner" end
    return "busted is not installed (Debian: lua-busted): " .. why
  end
  for _, word in ipairs(arg) do
    if word == "--help" or word == "-h" then return busted_help() end
  end
  local rounds = require "lunapark.testing.rounds"
  if rounds.count() then boot.exit(rounds.run(rounds.count())) end
  hint = rounds.begin(arg)
  local code, whole = require("lunapark.testing.part").enter(arg)
  if code then boot.exit(code) end
  local judge = require "lunapark.testing.runner"
  judge.install()
  if whole then os.exit = function(given) boot.exit(judge.exit_code(given)) end end -- luacheck: globals os.exit
  for name in pairs(package.loaded) do
    if name:find "^lunapark" then package.loaded[name] = loaded[name] end
  end
  require "lunapark.testing.virtual" -- before a spec takes os.time for itself
  local ok, err = xpcall(runner, traceback, { standalone = false })
  if not ok then
    io.stderr:write(hint or "")
    return trim(err)
  end
end

--- repl: lines from stdin.
function boot.repl()
  arg = { [0] = "lunapark repl" } -- luacheck: globals arg
  stop.is_script(boot.exit)
  local ok = require("lunapark.command.repl").run()
  boot.exit(ok and 0 or 1)
end

--- tag: a name for a generation of a running server.
---@param name string
---@param id string|nil
---@return string? message
function boot.tag(name, id)
  return require("lunapark.command.tag").run(name, id)
end

--- os.exit for scripts: writes all buffers and ends the process at once.
---@param code? integer|boolean
function boot.exit(code)
  require("lunapark").report_errors()
  if code == nil or code == true then code = 0 end
  if code == false then code = 1 end
  if hint and code ~= 0 then io.stderr:write(hint) end
  core.exit(code)
end

return boot
