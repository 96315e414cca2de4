--- From a host_req to a response: finds the entry, calls it, sends what it answers, and turns failures into responses.
--
-- This is the path of every request, and a handler that returns a string must cost next to nothing here. So C finds the
-- route, and calls what answers its requests (doors.lua); request and response start as tables with two fields; and a
-- string, table or page returned with an untouched response goes to the host in one call. Everything else takes
-- `complete`.
--
-- All of it is compiled, whatever handlers do and in whatever order they come. The JIT records from the beginning of a
-- function that is called often, through all calls, and gives that function up for good, with each function that calls
-- it, when a record has failed a few times: for a loop of few rounds, a closure that is made, a return to a pcall or
-- out of a call such as `return tostring(x)`. So:
--   - Each entry has a *door*, with code of its own, which C calls. The door's function is where records of its
--     requests begin: one straight line through `serve`, the handler and the answer, in which the tables of request and
--     response are not made. If the handler cannot be in there, that is held against its door only, and handler and
--     `answer` are recorded by themselves.
--   - What is between the host and a door, if C calls none, or calls functions of the app, is a vararg function, even
--     if it takes no more arguments: the JIT never begins to record at these, and a record ends well where it returns
--     to one's caller.
--   - There are no loops on the way of a request that needs none, and `return (f(x))` where f is no Lua function. Loops
--     are in functions for which the JIT is off, and which are called by core.apart, so that nothing is recorded there.
--
-- An error of a handler does not reach the client. The nearest `on_error` gets it, from the app of the route outwards;
-- without one the client gets the status in words, and the log gets method, path, route and traceback. An error after a
-- streamed response began can only end the response: dispatch returns without `host_stream_end`, and the host closes
-- the connection, so that the client does not take a part for the whole.
--
-- An *entry* is { run = fn(req, res), on_error = list of functions or false }, and for the log its route (app.lua) or a
-- label. `run` is the handler itself, or a chain (chain.lua), which says by a fourth result that it has settled results
-- on its way out. `number`, for the log, and `door` are set at its first request. This one also sets, for the tables of
-- later ones to get room: `wide`, whether it has read the query or header fields; `told`, whether it has set any.
-- A *plan* finds entries: `router:match`, `miss`. See plan.lua.

local ffi = require "ffi"
require "lunapark.cdef"
local answer = require "lunapark.http.answer"
local chain = require "lunapark.http.chain"
local doors = require "lunapark.http.doors"
local headers = require "lunapark.http.headers"
local html_mt = require("lunapark.http.html").mt
local json = require "lunapark.json"
local request = require "lunapark.http.request"
local response = require "lunapark.http.response"
local report = require "lunapark.http.report"
local router = require "lunapark.http.router"
local values = require "lunapark.core.show"

local C = ffi.C
local apart = require("lunapark.core").apart
local ffi_string = ffi.string
local find = string.find
local traceback = debug.traceback
local raw_path, method_names = request.raw_path, request.method_names
local request_mt, response_mt = request.mt, response.mt
local settled_mark = chain.settled

-- What host_respond calls its content types, and its answers.
local TEXT, HTML, JSON = 1, 2, 3
local EAGAIN, EPIPE = -11, -32
local HUNG_UP = 1 -- of host_req_lost; else a status
local DEBUG, WARN, ERROR = 0, 2, 3

local dispatch = {}

-- A cast makes a cdata, so those of this VM are kept, by the slot of the request's memory. Slots are used again, so
-- there are few. The limit is for a server that has very many connections.
local SLOTS_MAX = 16384
local host_req_ptr = ffi.typeof("host_req *")
local by_slot = {} -- false: another VM's so far

-- The request in a slot, whose address C tells as a number.
local function cast_request(slot, address)
  local r = ffi.cast(host_req_ptr, address)
  if slot > SLOTS_MAX then return r end
  for i = #by_slot + 1, slot do by_slot[i] = false end
  by_slot[slot] = r
  return r
end
jit.off(cast_request)

-- An error as text. One that names a status has a message for people.
local function words_of(err)
  local message = answer.status_of(err) and rawget(err, "message")
  return type(message) == "string" and message or values.value(err)
end

-- The message handler of handlers: keeps the error and its place. An abort needs no place.
local function on_raise(err)
  if getmetatable(err) == request.abort_mt then return err end
  return { err = err, text = traceback(words_of(err), 2) }
end

-- The message handler of `complete`: the value that was returned is at fault, not the code that found out.
local function on_bad_result(err)
  if getmetatable(err) == request.abort_mt then return err end
  return { err = err, text = values.value(err) }
end

-- Calls a function. What is recorded in fn ends here: see above.
local function alone(fn, ...)
  local a = fn(...)
  return a
end

local function respond_reason(r, id, status)
  local text = response.reason(status)
  return (C.host_respond(r, id, status, TEXT, "", 0, text, #text))
end

local function label_of(entry)
  local route = entry.route
  return route and ("%s %s%s"):format(route.method, entry.host or "", router.show(route.pieces)) or entry.label
end

-- C's number of words for the log, which can't ask a stuck VM.
local function number_words(label, fn)
  local info = debug.getinfo(fn, "S")
  local text = ("%s, %s:%d"):format(label, info.short_src, info.linedefined)
  return (C.host_label(text, #text))
end
jit.off(number_words)

--- C's number of a route: its method and pattern, and its handler's place.
---@param route { method: string, pieces: string[], fn: function }
---@return integer
function dispatch.label(route)
  return (number_words(label_of { route = route }, route.fn))
end

-- Gives an entry its number in C.
local function number_entry(entry)
  entry.number = number_words(label_of(entry), entry.route and entry.route.fn or entry.run)
  if entry.number > 0 then response.folders[entry.number] = entry.dir end
end
jit.off(number_entry)

local function tell(level, entry, req, note, text)
  report.write(level, req, label_of(entry), note, text)
end

-- Sends the answer that a handler returned or told `res`, or ends the answer that it streamed.
local function complete(entry, req, res, a, b, c, settled)
  local r = req.ptr
  if r.state == 0 then
    if settled ~= settled_mark then answer.settle(res, a, b, c, entry.fn) end
    -- The client may be gone: there is no one to be told.
    response.send(res)
  elseif r.state == 1 then
    local kind = type(a)
    if a ~= res and (kind == "string" or kind == "table" or kind == "number") then
      tell(WARN, entry, req, "", "returned a " .. kind .. " after it had written: ignored")
    end
    response.finish(res)
  end
end

-- Answers what http.abort has said. Raises when it is no answer.
local function answer_abort(res, abort)
  alone(response.reset, res, abort.status)
  alone(answer.settle, res, abort.status, abort.body, abort.fields)
  return alone(response.send, res)
end

-- Answers a failure in words or JSON. The headers that `res` was told go along: cookies, what a browser needs to show
-- the answer to a script.
local function answer_plainly(req, res, status, message, err)
  local ok, rc = pcall(function()
    alone(response.reset, res, status)
    local fields = type(err) == "table" and rawget(err, "headers")
    if type(fields) == "table" then headers.merge(res.headers, fields) end
    alone(answer.note_failure, req, res, status, message)
    return alone(response.send, res)
  end)
  if ok then return rc end
  return req.ptr.state == 0 and respond_reason(req.ptr, req.serial, status) or EPIPE
end

-- The answer of show, or nil when show fails itself.
local function try_to_show(show, entry, req, res, text, status)
  local ok, rc = xpcall(show, traceback, entry, req, res, text, status)
  if ok then return rc end
  tell(ERROR, entry, req, "its failure can not be shown: ", tostring(rc))
end

-- Lets the on_error functions answer. Returns whether one of them did.
local function answer_error(entry, req, res, err, text, status, show)
  for _, on_error in ipairs(entry.on_error) do
    alone(response.reset, res, status)
    local ok, a, b, c = xpcall(on_error, on_raise, req, res, err, text)
    if ok then
      -- A function that only looks at the error and returns nothing leaves the plain answer.
      if a == nil and b == nil and not res.body then
        if show then return false end
        answer.note_failure(req, res, res.status or status)
        a = res
      end
      ok, a = xpcall(complete, on_bad_result, entry, req, res, a, b, c)
    elseif getmetatable(a) == request.abort_mt and a.is_answer then
      ok, a = xpcall(answer_abort, on_bad_result, res, a)
    end
    if ok or req.ptr.state ~= 0 then return true end
    if getmetatable(a) ~= request.abort_mt then
      tell(ERROR, entry, req, "on_error failed: ", type(a) == "table" and a.text or values.value(a))
    end
  end
  return false
end

-- When the client has left, a failure is no reason to wake an operator: often a wait was canceled and ends in an
-- `assert`. But the end of a loop over such waits (host/vm/spin.c) is a fault of the handler.
local function level_when_gone(text)
  return text and find(text, "^%l+: this G has waited %d+ times since") and WARN or DEBUG
end

-- What a handler raised: the value, its text for the log, the status, a message for the client. No text: it is no
-- fault of the handler.
local function parts_of(entry, req, res, failure)
  if getmetatable(failure) == request.abort_mt then return failure, nil, failure.status, nil end
  local err, text = failure, nil
  if type(failure) == "table" then
    err, text = failure.err, failure.text
  end
  text = text or values.value(failure)
  local culprit = rawget(res, "culprit")
  local fn = entry.route and entry.route.fn or entry.fn
  if culprit and rawequal(err, res.culprit_err) then
    text = ("%s: the handler returned nil, %s"):format(answer.place_of(culprit), text)
  elseif fn and not find(text, answer.place_of(fn):match "^(.*):", 1, true) then
    -- A call that ends a handler, `return res.json(t)`, leaves no line of the handler in the traceback.
    text = answer.place_of(fn) .. ": " .. text
  end
  local status = answer.status_of(err)
  local message = status and rawget(err, "message")
  return err, text, status or req.blame or 500, type(message) == "string" and message or nil
end

-- Answers for a handler that raised.
local function fail(entry, req, res, failure, show, ...) -- luacheck: ignore
  local r = req.ptr
  local err, text, status, message = parts_of(entry, req, res, failure)
  if not status then return end -- the client is gone
  local lost = C.host_req_lost(r, req.serial)
  if lost > HUNG_UP then
    -- There is no one to be told, but the error is worth a line of the log.
    tell(status < 500 and WARN or ERROR, entry, req, ("after the client was answered %d: "):format(lost),
      text or values.value(err))
    return
  end
  if r.state ~= 0 then
    tell(lost == HUNG_UP and level_when_gone(text) or ERROR, entry, req, "after the response had begun: ",
      text or values.value(err))
    return
  end
  if getmetatable(failure) == request.abort_mt and failure.is_answer then
    local ok, rc = xpcall(answer_abort, on_bad_result, res, failure)
    if not ok then tell(ERROR, entry, req, "abort: ", rc.text) end
    if ok or r.state ~= 0 then return end
    status = 500
  end
  if entry.on_error and answer_error(entry, req, res, err, text or tostring(err), status, show) then return end
  local rc = show and text and not message and try_to_show(show, entry, req, res, text, status)
    or answer_plainly(req, res, status, message, err)
  if text then
    local level = message and status < 500 and DEBUG or status < 500 and WARN or ERROR
    tell((rc == EPIPE or lost == HUNG_UP) and level_when_gone(text) or level, entry, req, "", text)
  end
end

---@class lunapark.Done
---@field status integer
---@field bytes integer
---@field seconds number
---@field error string|nil

-- Calls the functions of on_done. Not for a handler in whose place somebody else has answered: that calls them.
local function call_done(entry, req, res, began, failure, refused, ...) -- luacheck: ignore
  local r = req.ptr
  local lost = C.host_req_lost(r, req.serial)
  if lost > HUNG_UP and r.state == 0 and not refused then return end
  local bytes = C.host_req_sent(r, req.serial)
  local info = {
    status = lost > HUNG_UP and lost or r.status, bytes = bytes > 0 and bytes or 0,
    seconds = tonumber(C.rt_nanotime() - began) / 1e9,
    error = failure and (type(failure) == "table" and failure.text or values.value(failure)) or nil,
  }
  for _, fn in ipairs(entry.on_done) do
    local ok, err = xpcall(fn, traceback, req, res, info)
    if not ok then tell(ERROR, entry, req, "on_done failed: ", values.value(err)) end
  end
end

jit.off(tell)
jit.off(label_of)
jit.off(level_when_gone)
jit.off(parts_of)
jit.off(try_to_show)
jit.off(answer_abort)
jit.off(answer_plainly, true)
jit.off(answer_error)
jit.off(fail)
jit.off(call_done)

local function answer_star() return 204 end

-- What a request fails with that no handler gets, by its status.
local refusals = setmetatable({}, {
  __index = function(list, status)
    list[status] = request.new_abort { status = status, message = response.reason(status) }
    return list[status]
  end,
})

local function refuse_path() apart(error, refusals[400], 0) end

-- The entry of this label in a scope of the plan: of requests for which the app has no function.
local function entry_in(scope, run, label)
  local entry = scope[label]
  if not entry then
    entry = { run = run, on_error = scope.on_error or false, on_done = scope.on_done, label = label, dir = scope.dir }
    scope[label] = entry
  end
  return entry
end

-- The entry of a path that has no route.
local function missing(plan, r)
  local raw, method = raw_path(r), method_names[r.method]
  if raw == "*" and method == "OPTIONS" then return entry_in(plan.outermost, answer_star, "OPTIONS *") end
  return raw ~= "*" and plan:miss(method, raw, r) or entry_in(plan.outermost, refuse_path, "no path")
end
jit.off(entry_in)
jit.off(missing)

local add_door

-- The door of a request's entry. router.path and router.params tell of the request.
local function find_door(plan, r)
  local entry, number = plan.router:match(r.method, r.buf + r.path.off, r.path.len, r)
  local list = entry and plan.doors
  if not entry then entry = apart(missing, plan, r) end
  if not entry.door then apart(add_door, entry) end
  if list then list[number] = entry.door end
  return entry.door
end

-- Sends what the handler returned, if that is all of the answer. False: it is not.
local function answer_simply(req, res, a, settled)
  local r, id = req.ptr, req.serial
  local kind = settled ~= settled_mark and a ~= res and r.state == 0 and rawget(res, "status") == nil
    and rawget(res, "headers") == nil and type(a)
  local text, ctype = a, TEXT
  if kind == "table" then
    if getmetatable(a) == html_mt then
      text, ctype = a.text, HTML
    else
      text, ctype = json.try_encode(a), JSON
    end
  elseif kind ~= "string" then
    text = nil
  end
  if not text then return false end
  if C.host_respond(r, id, 200, ctype, "", 0, text, #text) == EAGAIN then response.send_rest(req, text) end
  return true
end

-- Serves a request. Inlined into the door's function: see above.
local function serve(slot, address, entry, enter, finish, show, ...) -- luacheck: ignore
  local r = by_slot[slot] or apart(cast_request, slot, address)
  local id = r.id
  r.label = entry.number
  -- A field more than a table was made for makes a larger one of it.
  local req
  if entry.names then
    req = { ptr = r, serial = id, params = router.params(entry) }
  elseif entry.wide then
    req = { ptr = r, serial = id, query = nil, headers = nil, id = nil, ip = nil, scheme = nil, method = nil }
  else
    req = { ptr = r, serial = id }
  end
  local res = entry.told and { ptr = r, serial = id, headers = nil, body = nil, ctype = nil, status = nil }
    or { ptr = r, serial = id }
  setmetatable(res, response_mt)
  setmetatable(req, request_mt)
  if r.plain == 0 then req.path = router.path() end
  local began = entry.on_done and C.rt_nanotime()
  local ok, a, b, c, settled = xpcall(enter, on_raise, req, res)
  if ok and (b ~= nil or c ~= nil or not answer_simply(req, res, a, settled)) then
    ok, a = xpcall(finish, on_bad_result, entry, req, res, a, b, c, settled)
  end
  if not ok then fail(entry, req, res, a, show) end
  response.done(res)
  if began then call_done(entry, req, res, began, not ok and a) end
  local uploads = rawget(req, "uploads")
  if uploads then uploads:close() end
  if entry.wide == nil then
    entry.wide, entry.told = rawget(req, "query") ~= nil or rawget(req, "headers") ~= nil, rawget(res, "headers") ~= nil
  end
end

local door = [[
  local serve, complete, entry = ...
  local run = entry.run
  local function enter(req, res)
    local a, b, c, settled = run(req, res)
    return a, b, c, settled
  end
  local function finish(entry, req, res, a, b, c, settled)
    complete(entry, req, res, a, b, c, settled)
  end
  return function(slot, address, show)
    serve(slot, address, entry, enter, finish, show)
  end
]]

function add_door(entry)
  if not entry.number then number_entry(entry) end
  entry.door = assert(loadstring(door, "=door"))(serve, complete, entry)
end
jit.off(add_door)

--- Answers a request that C refuses, by the on_error functions of the app whose prefix it has; calls those of on_done.
---@param plan table
---@param slot integer
---@param address integer
---@param seconds number  since the request began
function dispatch.refused(plan, slot, address, seconds)
  local r = by_slot[slot] or cast_request(slot, address)
  local id, status = r.id, r.status
  if plan.hosts then plan = plan:of_host(r) end
  local scope = r.path.len > 0 and plan:scope_of(raw_path(r)) or plan.outermost
  local entry = entry_in(scope, refuse_path, "refused")
  local req = setmetatable({ ptr = r, serial = id }, request_mt)
  local res = setmetatable({ ptr = r, serial = id }, response_mt)
  if r.target.len == 0 then req.path = "" end
  if not entry.number then number_entry(entry) end
  if r.label == 0 then r.label = entry.number end
  local name, value = string.match(ffi_string(C.host_status_field(status)), "^([%w-]+): ([^\r]+)")
  if name then res.headers[name] = value end
  fail(entry, req, res, refusals[status])
  response.done(res)
  if entry.on_done then call_done(entry, req, res, C.rt_nanotime() - seconds * 1e9, refusals[status], true) end
end
jit.off(dispatch.refused)

--- The function that the host calls for each request.
---@param source { plan: table|nil, compile: fun(self): table }  `plan` is nil after a change, `compile` sets it
---@param show? fun(entry: table, req: table, res: table, text: string, status: integer): integer  answers for a handler
---that raised when no on_error does; as host_respond
---@return fun(slot: integer, address: integer, number: integer?)  number: of the server's handler, while C finds no
---routes for its requests
function dispatch.new(source, show)
  return function(slot, address, number, ...) -- luacheck: ignore
    local r, plan = by_slot[slot] or cast_request(slot, address), source.plan or source:compile()
    -- Of what C calls without us, `show` does not hear.
    if number and not show and not plan.hosts then doors.open(plan, number) end
    local its = alone(find_door, plan, r)
    its(slot, address, show)
  end
end

return dispatch
