--- A server of a folder of files that change, and clients that look closely: for specs of reloads.
--
--   local s = reload.serve({ ["app.lua"] = "..." }, "--procs", "1")
--   local line = s:reload { ["app.lua"] = "..." }    -- what the log says of it
--   local load = s:load(8)  ...  load:stop()         -- raises what was wrong

local lp = require "lunapark"
local testing = require "lunapark.testing"
local child = require "spec.support.child"

local reload = {}

reload.slow = child.has_tsan and 5 or child.has_asan and 3 or 1

---@class spec.Reloaded
---@field folder string
---@field server table  spec.support.child's
---@field low integer   the oldest generation that may answer a request that begins now
---@field high integer  the newest that may answer
---@field private heard integer  log lines about reloads that `reload` has returned
---@field private lost_after number  seconds after which no reload runs any more whose signal has arrived
local Reloaded = {}
Reloaded.__index = Reloaded

local folders = {}

--- A folder with these files, removed by `clean`.
---@param files table<string, string>
function reload.folder(files)
  local path = os.tmpname()
  os.remove(path)
  assert(os.execute("mkdir " .. path) == 0)
  folders[#folders + 1] = path
  for name, text in pairs(files) do
    reload.write(path, name, text)
  end
  return path
end

--- Writes a file as editors do: nobody sees half of it. `text` false: removes it.
function reload.write(folder, name, text)
  local path = folder .. "/" .. name
  if not text then return assert(os.remove(path)) end
  local dir = name:match "^(.*)/"
  if dir then assert(os.execute(("mkdir -p %s/%s"):format(folder, dir)) == 0) end
  local f = assert(io.open(path .. "~", "w"))
  f:write(text)
  f:close()
  assert(os.rename(path .. "~", path))
end

--- Serves app.lua of a new folder. What follows are options of serve, `env` among them. VMs are counted and none may be
--- stuck: on a busy machine 20 ms, as usual, pass in any handler, and its VM would have another made.
---@param files table<string, string>
---@return spec.Reloaded
function reload.serve(files, ...)
  local folder = reload.folder(files)
  local args = { folder .. "/app.lua", ... }
  args.env = type(args[#args]) == "table" and table.remove(args) or {}
  args.env.LUNAPARK_DEBUG = args.env.LUNAPARK_DEBUG or "retake=250"
  local server = child.serve(args)
  local load_timeout = 10
  for i, arg in ipairs(args) do
    if arg == "--load-timeout" then load_timeout = tonumber(args[i + 1]) end
  end
  return setmetatable({
    folder = folder, server = server, addr = server.addr, client = child.client(server.addr), low = 1, high = 1,
    heard = 0, lost_after = load_timeout + 15,
  }, Reloaded)
end

--- Ends all of it. For after_each.
function reload.clean()
  local ok, err = pcall(child.clean)
  for _, path in ipairs(folders) do
    os.execute("rm -rf " .. path)
  end
  folders = {}
  if not ok then error(err, 0) end
end

--- Changes files; a name with `false` goes.
function Reloaded:write(files)
  for name, text in pairs(files or {}) do
    reload.write(self.folder, name, text)
  end
end

function Reloaded:log() return self.server:stderr() end

-- What the log says of reloads: each with the lines that follow it up to the next line with a time. A file may show
-- half of a line while the line is written.
local function verdicts(log)
  local list, open = {}, false
  for line in log:gmatch "([^\n]+)\n" do
    if line:find "^%d+%-%d+%-%d+T" then
      open = line:find(" reload: ", 1, true) or line:find(" reload failed", 1, true)
      if open then list[#list + 1] = line end
    elseif open then
      list[#list] = list[#list] .. "\n" .. line
    end
  end
  return list
end

--- How many reloads the log tells of.
function Reloaded:count() return #verdicts(self:log()) end

--- Waits for the log to tell of n more reloads: the text of the last. TSan loses a signal now and then: a signal that
--- hits a G that calls nothing of TSan's waits with this G. It is sent again when no reload can run any more: a reload
--- that is asked for twice would be told of twice.
function Reloaded:verdict(n)
  self.heard = self.heard + (n or 1)
  local list
  local lost_at = child.has_tsan and lp.now() + self.lost_after
  child.eventually(function()
    if self.server:poll() then error("the server has ended: " .. self:log(), 0) end
    list = verdicts(self:log())
    if lost_at and #list < self.heard and lp.now() > lost_at then
      self.server:kill "HUP"
      lost_at = nil
    end
    return #list >= self.heard
  end, "reload " .. self.heard .. ": " .. self:log():sub(-2000), 60 + 2 * self.lost_after)
  return list[self.heard]
end

--- Changes files and reloads: what the log says of it.
function Reloaded:reload(files)
  self:write(files)
  self.server:kill "HUP"
  return self:verdict()
end

--- The same for what must load: answers come from generation n from then on.
function Reloaded:reload_to(n, files)
  self.high = n
  local line = self:reload(files)
  if not line:find(("generation %d "):format(n), 1, true) or not line:find(" serves,", 1, true) then
    error(("not generation %d: %s"):format(n, line), 2)
  end
  self.low = n
  return line
end

--- The log has this pattern, now or soon.
function Reloaded:until_log(pattern)
  if not pcall(child.eventually, function() return self:log():find(pattern) end) then
    error(("no %q in the log: %s"):format(pattern, self:log()), 2)
  end
end

--- Waits until there are n VMs, none of them an old one, and no more descriptors than so many. Needs /stats.
function Reloaded:until_vms(n, fds)
  local t
  if not pcall(child.eventually, function()
    t = self.client:get("/stats"):json()
    return t.all_vms == n and t.fds <= fds
  end) then
    error(("%d VMs, not %d; %d descriptors, not %d"):format(t.all_vms, n, t.fds, fds), 2)
  end
end

--- A connection of one's own, with a deadline.
function Reloaded:dial()
  return child.dial(self.addr)
end

local GET = "GET %s HTTP/1.1\r\nHost: x\r\n\r\n"

--- A request on a connection of its own, not answered yet.
function Reloaded:send(path)
  local conn = self:dial()
  assert(conn:write(GET:format(path)))
  return conn
end

--- The answer to it; the connection is closed.
function reload.answer(conn)
  local r, err, last = testing.read_reply(conn)
  conn:close()
  assert(r, err)
  return r, last
end

---@class spec.ReloadLoad
---@field n integer        requests that were answered
---@field wrong string[]   what was wrong; one for each client at most
local Load = {}
Load.__index = Load

-- One request. The answer begins with the generation that gives it, which must have been current while the request ran.
local function ask(self, conn, path)
  local low = self.low
  local ok, err = conn:write(GET:format(path))
  if not ok then return ("%s: write: %s"):format(path, err) end
  local r, last
  r, err, last = testing.read_reply(conn)
  if not r then return ("%s: no answer: %s"):format(path, err) end
  local n = tonumber(r.body:match "^%d+")
  if r.status ~= 200 or not n then return ("%s: %d %s"):format(path, r.status, r.body:sub(1, 200)) end
  if n < low or n > self.high then
    return ("%s: answered by generation %d, not %d to %d"):format(path, n, low, self.high)
  end
  if last then return path .. ": the connection ends" end
end

--- Clients that each ask on one keep-alive connection, one request after another, for `paths` in turn ("/").
---@param clients integer
---@param ... string
---@return spec.ReloadLoad
function Reloaded:load(clients, ...)
  local paths = { ... }
  if #paths == 0 then paths = { "/" } end
  local load = setmetatable({ n = 0, wrong = {}, gs = {}, ends = false }, Load)
  for i = 1, clients do
    load.gs[i] = lp.go(function()
      local conn, turn = self:dial(), i
      while not load.ends do
        conn:set_deadline(60)
        local wrong = ask(self, conn, paths[turn % #paths + 1])
        if wrong then
          load.wrong[#load.wrong + 1] = wrong
          break
        end
        load.n, turn = load.n + 1, turn + 1
        if turn % 16 == 0 then lp.sleep(0.001) end
      end
      conn:close()
      return true
    end)
  end
  return load
end

--- Ends it. Raises what was wrong, else how many requests were answered.
function Load:stop()
  self.ends = true
  for _, g in ipairs(self.gs) do
    local ok, err = g:join()
    if not ok then error(err, 2) end
  end
  if #self.wrong > 0 then error(#self.wrong .. " clients: " .. table.concat(self.wrong, "; "), 2) end
  return self.n
end

return reload
