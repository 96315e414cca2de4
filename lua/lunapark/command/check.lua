--- `lunapark check`: mistakes in an app's files that can be told without serving the app.
--
-- The files are the script, the files that it has loaded from its own folder and the folders in it, and the modules
-- that these files name in a `require` and load only later, say in a handler; a module of the last kind is compiled,
-- not run. luacheck, if it is installed, looks at all files: by the .luacheckrc that it finds, or else with the globals
-- of LuaJIT, which Lunapark has. check_calls.lua names the calls that block a thread, check_counters.lua variables that
-- count in each VM for itself.

local check_calls = require "lunapark.command.check_calls"
local check_counters = require "lunapark.command.check_counters"
local core = require "lunapark.core"
local exec = require "lunapark.exec"
local source = require "lunapark.std.source"

local check = {}

-- Seconds that luacheck may take.
local PATIENCE = 120

local folder
-- By path; and their order.
local texts, files = {}, {}

local function add(path, text)
  path = path:gsub("^%./", ""):gsub("/%./", "/")
  if texts[path] or not text then return end
  if folder ~= "" and path:sub(1, #folder) ~= folder then return end
  if folder == "" and path:sub(1, 1) == "/" then return end
  texts[path] = text
  files[#files + 1] = path
end

--- Begins to note what is loaded.
---@param script string  path of the app
function check.begin(script)
  folder = (script:match "^(.*/)" or ""):gsub("^%./", "")
  source.on_load(add)
end

-- Modules by name, from the folder.
local function find_module(name)
  local file = name:gsub("%.", "/")
  for template in package.path:gmatch "[^;]+" do
    local path = template:gsub("?", (file:gsub("%%", "%%%%")))
    local text = core.source(path)
    if text then return path, text end
  end
end

-- Compiles what is required later. The first error.
local function look_ahead()
  local i = 1
  while files[i] do
    for name in texts[files[i]]:gmatch "require[%s(]*[\"']([%w_%.%-]+)[\"']" do
      local path, text = find_module(name)
      if path and not package.loaded[name] then
        local n = #files
        add(path, text)
        local chunk, err = load(text, "@" .. path)
        if #files > n and not chunk then return err end
      end
    end
    i = i + 1
  end
end

-- Whether luacheck finds a configuration from here.
local function has_config()
  local dir = require("lunapark.fs").stat
  local up = ""
  for _ = 1, 64 do
    if dir(up .. ".luacheckrc") then return true end
    up = up .. "../"
  end
  return false
end

local function luacheck()
  local argv = { "luacheck", "--formatter", "plain", "--no-color", "--codes" }
  if not has_config() then
    argv[#argv + 1] = "--std"
    argv[#argv + 1] = "luajit"
  end
  argv[#argv + 1] = "--"
  for _, path in ipairs(files) do argv[#argv + 1] = path end
  local r, err = exec.run(argv, { timeout = PATIENCE })
  if not r then
    if err:find "^no such file" then return nil, "luacheck is not installed (Debian: lua-check)" end
    return nil, "luacheck: " .. err
  end
  if r.signal or r.code > 2 then return nil, "luacheck: " .. (r.stderr ~= "" and r.stderr or r.stdout) end
  return r.stdout, nil, r.code
end

-- Prints the calls that block, and counters. Returns how many calls there are.
local function tell_calls()
  local n = 0
  for _, path in ipairs(files) do
    local list, ignored = check_calls.scan(texts[path])
    local calls, counters = check_calls.find(list, ignored), check_counters.find(list, ignored)
    n = n + #calls
    for _, found in ipairs { calls, counters } do
      for _, f in ipairs(found) do
        io.stdout:write(("%s:%d:%d: %s\n"):format(path, f.line, f.column, f.message))
      end
    end
  end
  return n
end

--- Reports the mistakes, when the app has been loaded.
---@return string? message  why the check has failed
function check.finish()
  source.on_load(nil)
  local err = look_ahead()
  if err then return err end
  local strict = core.option_value "strict" == 1
  local blocks = tell_calls()
  local findings, code
  findings, err, code = luacheck()
  if not findings then
    io.stdout:flush()
    if strict or not err:find "not installed" then return err end
    return
  end
  io.stdout:write(findings)
  io.stdout:flush()
  if code == 2 then return "luacheck finds errors" end
  if blocks > 0 and strict then return "calls that block count as errors (--strict)" end
  if code == 1 and strict then return "luacheck finds warnings, which count as errors (--strict)" end
end

return check
