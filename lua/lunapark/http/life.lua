--- What the host asks of an app while it serves: its start and its end, what one generation leaves to the next, and the
-- listeners of its own. Each asks the apps that are in it, too. These are methods of apps (app.lua).

local router = require "lunapark.http.router"

---@class lunapark.App
local life = {}

-- Calls fn(app, prefix) for the app and for the apps that are in it, with their prefixes.
local function each_app(self, prefix, fn)
  fn(self, prefix)
  for _, mount in ipairs(self.mounts) do
    each_app(mount.app, prefix .. router.show(mount.pieces), fn)
  end
  for _, host in ipairs(self.hosts) do
    each_app(host.app, "//" .. host.name, fn)
  end
end

--- The values of the `hand_over` functions, by the prefix of the app; nil if there are none. For the host.
---@return table<string, any>|nil
function life:leave_values()
  local values = {}
  each_app(self, "", function(app_, prefix)
    if app_.giver then values[prefix] = app_.giver() end
  end)
  return next(values) ~= nil and values or nil
end

--- Gives each value to the `take_over` function of its prefix. For the host.
---@param values table<string, any>
function life:take_values(values)
  each_app(self, "", function(app_, prefix)
    if app_.taker and values[prefix] ~= nil then app_.taker(values[prefix]) end
  end)
end

--- Calls fn(addr, handler, opts) for each `tcp`, also those of mounted apps. For the host.
---@param fn fun(addr: string, handler: function, opts?: lunapark.ServeOptions)
function life:each_tcp(fn)
  each_app(self, "", function(app_)
    for _, tcp in ipairs(app_.tcps) do
      fn(tcp.addr, tcp.fn, tcp.opts)
    end
  end)
end

--- Calls the functions of `on_start`, also those of mounted apps. Raises their errors, and mistakes in the routes. Then
--- stands for `every` and `cron`. For the host, once in each VM.
---@return lunapark.G[] gs  of `every` and `cron`
function life:start()
  self:compile()
  each_app(self, "", function(app_)
    for _, fn in ipairs(app_.starts) do fn(app_) end
  end)
  local gs = {}
  each_app(self, "", function(app_, prefix)
    for _, job in ipairs(app_.jobs) do
      gs[#gs + 1] = require("lunapark").singleton(prefix .. " " .. job.name, job.fn)
    end
  end)
  return gs
end

--- Calls all functions of `on_retire`, and returns the errors that they raise. For the host, when the VM is about to
--- end.
---@return string|nil err
function life:retire()
  local errs = {}
  each_app(self, "", function(app_)
    for _, fn in ipairs(app_.retires) do
      local ok, err = xpcall(fn, debug.traceback, app_)
      if not ok then errs[#errs + 1] = tostring(err) end
    end
  end)
  return #errs > 0 and table.concat(errs, "\n") or nil
end

return life
