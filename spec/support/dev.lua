--- A server with --dev, and what browsers ask it.
---
---   local d = dev.serve(child.script(APP))
---   d:get("/", dev.NAVIGATES)
---   d:save(APP .. "-- changed")             -- and that has come to something

local assert = require "luassert"
local child = require "spec.support.child"

local dev = {
  -- What a browser's fetch accepts, and what it says when a window goes somewhere.
  HTML = { Accept = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8" },
  NAVIGATES = { Accept = "text/html,*/*;q=0.8", ["Sec-Fetch-Dest"] = "document" },
}

local Dev = {}
Dev.__index = Dev

--- Serves the script with these options besides: its `path`, the child `server`, a `client`.
function dev.serve(path, ...)
  local server = child.serve { path, "--dev", ... }
  return setmetatable({ path = path, server = server, client = child.client(server.addr) }, Dev)
end

function Dev:get(target, headers)
  return assert(self.client:get(target, { headers = headers }))
end

--- The state that pages ask for: "start.generation.failures".
function Dev:state()
  local r = self:get "/.lunapark/changed"
  assert.equal(200, r.status)
  return r.body
end

--- Saves the app and waits until that has come to something.
function Dev:save(text)
  local before = self:state()
  local f = assert(io.open(self.path, "w"))
  f:write(text)
  f:close()
  child.eventually(function() return self:state() ~= before end, "a reload")
end

return dev
