--- A headless Chromium for specs: what a page shows, and what it looks like.
--
--   local page = browser.open(url)
--   page:eval "document.title"
--   page:screenshot "stage"      -- to $LUNAPARK_SCREENSHOTS/stage.png, if that is set
--
-- It is told what to do by the DevTools protocol over two pipes (--remote-debugging-pipe): JSON, each with a NUL. The
-- shell puts our pipes where Chromium looks for them. `browser.close()` ends it and removes what it has written: call
-- it in teardown. `browser.path` is nil where there is no Chromium.

local exec = require "lunapark.exec"
local json = require "lunapark.json"
local lp = require "lunapark"

local PATIENCE = 60
local MAX_MESSAGE = 64 * 2 ^ 20

local browser = {}

local function find_program()
  for _, name in ipairs { "chromium-headless-shell", "chromium", "chromium-browser", "google-chrome" } do
    local r = exec.run { "sh", "-c", "command -v " .. name }
    if r and r.code == 0 then return (r.stdout:gsub("%s+$", "")) end
  end
end

browser.path = find_program()

-- No sandbox: CI is root. Nothing but what we open: no updates, no components, no sync.
local FLAGS = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-extensions "
  .. "--disable-background-networking --disable-component-update --disable-sync --disable-default-apps "
  .. "--disable-crash-reporter --disable-breakpad --no-proxy-server --remote-debugging-pipe --hide-scrollbars "
  .. "--host-resolver-rules='MAP * ~NOTFOUND , EXCLUDE 127.0.0.1'"

local running -- { process, dir, id }

local function start()
  local made = assert(exec.run { "mktemp", "-d" })
  local dir = made.stdout:gsub("%s+$", "")
  local command = ('exec "$0" %s --user-data-dir="$1" 3<&0 4>&1 0</dev/null 1>/dev/null 2>"$1/log"'):format(FLAGS)
  local process = assert(exec.spawn({ "sh", "-c", command, browser.path, dir }, {
    env = { HOME = dir, PATH = os.getenv "PATH", TMPDIR = dir, LANG = "C.UTF-8" },
  }))
  running = { process = process, dir = dir, id = 0 }
end

-- What Chromium has said of why it ended.
local function last_words()
  local f = io.open(running.dir .. "/log")
  local text = f and f:read "*a" or ""
  if f then f:close() end
  return text:sub(-2000)
end

-- Sends a command and returns its result; events that come before that are passed over.
local function call(method, params, session)
  local b = running
  b.id = b.id + 1
  local id, until_s = b.id, lp.now() + PATIENCE
  local message = { id = id, method = method, params = params or json.decode "{}", sessionId = session }
  b.process.stdout:set_read_deadline(PATIENCE)
  assert(b.process.stdin:write(json.encode(message) .. "\0"))
  while lp.now() < until_s do
    local text, err = b.process.stdout:read_until("\0", MAX_MESSAGE)
    if not text then error(("browser: %s: %s\n%s"):format(method, err, last_words()), 0) end
    local answer = assert(json.decode((text:gsub("%z$", ""))))
    if answer.id == id then
      if answer.error then error(("browser: %s: %s"):format(method, answer.error.message), 0) end
      return answer.result
    end
  end
  error("browser: " .. method .. ": no answer", 0)
end

local Page = {}
Page.__index = Page

--- Opens a page, in a window of that width.
---@param url string
---@param width? integer
---@param apart? boolean  as in a browser of its own: it shares no cookies, cache or connections with other pages
function browser.open(url, width, apart)
  if not running then start() end
  local context = apart and call("Target.createBrowserContext", { disposeOnDetach = true }).browserContextId or nil
  local target = call("Target.createTarget", { url = "about:blank", browserContextId = context }).targetId
  local session = call("Target.attachToTarget", { targetId = target, flatten = true }).sessionId
  local page = setmetatable({ session = session, target = target }, Page)
  page:call("Emulation.setDeviceMetricsOverride", {
    width = width or 1000, height = 800, deviceScaleFactor = 1, mobile = false,
  })
  page:go(url)
  return page
end

function Page:call(method, params)
  return call(method, params, self.session)
end

--- Has it load an address, as who types it in.
function Page:go(url)
  local r = self:call("Page.navigate", { url = url })
  if r.errorText then error("browser: " .. url .. ": " .. r.errorText, 0) end
end

--- The value of an expression of JavaScript; nil for undefined, and while the page is being loaded.
function Page:eval(expression)
  local ok, r = pcall(self.call, self, "Runtime.evaluate", {
    expression = expression, returnByValue = true, awaitPromise = true,
  })
  -- A page that goes meanwhile takes its contexts with it.
  if not ok and (r:find "context" or r:find "navigated") then return nil end
  if not ok then error(r, 0) end
  if r.exceptionDetails then
    error("browser: " .. expression .. ": " .. tostring(r.exceptionDetails.exception.description), 0)
  end
  return r.result.value
end

--- The text that is to be seen.
function Page:text()
  return self:eval "document.body ? document.body.innerText : ''" or ""
end

--- Waits until the expression is true; raises with what the page shows after PATIENCE seconds.
function Page:wait(expression)
  local give_up = lp.now() + PATIENCE
  while not self:eval(expression) do
    if lp.now() > give_up then
      error(("browser: %s did not become true; the page: %s"):format(expression, self:text():sub(1, 2000)), 2)
    end
    lp.sleep(0.02)
  end
end

--- Waits until the page shows a text.
function Page:sees(text)
  self:wait(("!!document.body && document.body.innerText.includes(%s)"):format(json.encode(text)))
end

--- dark: as who has set the system to that.
function Page:set_dark(dark)
  self:call("Emulation.setEmulatedMedia", {
    features = { { name = "prefers-color-scheme", value = dark and "dark" or "light" } },
  })
end

--- Takes a picture of the whole page, for those who look at it.
function Page:screenshot(name)
  local dir = os.getenv "LUNAPARK_SCREENSHOTS"
  if not dir then return end
  local r = self:call("Page.captureScreenshot", { format = "png", captureBeyondViewport = true })
  local decoded = assert(exec.run({ "base64", "-d" }, { stdin = r.data, max_output = MAX_MESSAGE }))
  local f = assert(io.open(("%s/%s.png"):format(dir, name), "wb"))
  f:write(decoded.stdout)
  f:close()
end

function Page:close()
  call("Target.closeTarget", { targetId = self.target })
end

--- Ends it.
function browser.close()
  if not running then return end
  local b = running
  pcall(call, "Browser.close")
  b.process.stdin:close()
  if not b.process:wait(10) then
    b.process:kill "KILL"
    b.process:wait(10)
  end
  b.process.stdout:close()
  if b.process.stderr then b.process.stderr:close() end
  running = nil
  -- Its children may write a last file.
  for _ = 1, 50 do
    if exec.run({ "rm", "-rf", b.dir }, { stderr = "null" }).code == 0 then break end
    lp.sleep(0.1)
  end
end

return browser
