--- What a handler's results mean.
--
--   return "text"                             -- text/plain
--   return http.html(page)                    -- text/html
--   return { a = 1 }                          -- application/json
--   return 404                                -- that status, with its reason as the body
--   return 201, body, { Location = "/x" }     -- status, body, headers
--   return body, 201, { Location = "/x" }     -- body, status, headers
--   return res                                -- what `res` was told; the same without a result, or 204
--   return nil, err                           -- an error of the handler: 500
--
-- Whatever else is returned is a mistake, which raises and names the function that returned it: its results are looked
-- at when it has ended, so no traceback can show it. A number beside a body is a status, also that of
-- `return text:gsub(...)`, whose second result is a count: such a line raises. Left alone, it would answer 200 most of
-- the time, and 404 for a text with 404 matches.
--
-- `http.abort(status, body, headers)` ends a handler with an answer, from wherever it is called. It is raised as an
-- error, past the middleware, and caught by dispatch.lua: headers that were set before stay. An error that is a table
-- with a status, `error { status = 404, message = "no such user" }`, is an error: `on_error` is asked first, and
-- without it the client gets the message.

local core = require "lunapark.core"
local apart = require("lunapark.core").apart
local headers = require "lunapark.http.headers"
local html_mt = require("lunapark.http.html").mt
local json = require "lunapark.json"
local request = require "lunapark.http.request"
local response = require "lunapark.http.response"
local as_given = require("lunapark.core.show").given

local getmetatable, rawequal, rawget, type = getmetatable, rawequal, rawget, type
local gsub = string.gsub
local TEXT, HTML, JSON = response.TEXT, response.HTML, response.JSON

local answer = {}

local dev = core.option_value "dev" ~= 0

-- ---- mistakes -----------------------------------------------------------------------------------------------

--- "app.lua:12", where a function begins.
---@param fn function
---@return string
local function place_of(fn)
  local info = debug.getinfo(fn, "S")
  return ("%s:%d"):format(info.short_src, info.linedefined)
end
answer.place_of = place_of

local function mistake(fn, words)
  error((fn and place_of(fn) .. ": " or "") .. "the handler returned " .. words, 0)
end

-- What was probably meant by a value that is no answer.
local function hint_of(value)
  if type(value) ~= "function" then return "" end
  local of_req, of_res = request.method_name(value), response.method_name(value)
  if not of_req and not of_res then return "" end
  return (": did you mean to call it, as %s:%s(...)?"):format(of_req and "req" or "res", of_req or of_res)
end

-- Whether the handler has told `res` anything.
local function was_told(res)
  return rawget(res, "status") ~= nil or rawget(res, "body") ~= nil or rawget(res, "headers") ~= nil
end
answer.was_told = was_told

-- ---- results ------------------------------------------------------------------------------------------------

-- Notes a body. Returns false for what can be none.
local function note_body(res, body, fn)
  local kind = type(body)
  if kind == "string" then
    res.body, res.ctype = body, TEXT
  elseif kind ~= "table" or getmetatable(body) == response.mt then
    return false
  elseif getmetatable(body) == html_mt then
    res.body, res.ctype = body.text, HTML
  else
    local text, err = json.try_encode(body)
    if not text then mistake(fn, "a table that is no JSON: " .. err) end
    res.body, res.ctype = text, JSON
  end
  return true
end

local function note_headers(res, fields, fn)
  if fields == nil then return end
  if type(fields) ~= "table" then mistake(fn, "headers that are a " .. type(fields)) end
  local ok, err = apart(pcall, headers.merge, res.headers, fields)
  if not ok then mistake(fn, "headers that cannot be sent: " .. gsub(tostring(err), "^[^:]+:%d+: headers: ", "")) end
end

local function note_status(res, status, fn)
  if type(status) ~= "number" then
    mistake(fn, "a " .. type(status) .. " beside its body, where a status belongs")
  elseif status < 200 or status > 999 or status % 1 ~= 0 then
    mistake(fn, ("a status that must be a whole number from 200 to 999, got %s"):format(tostring(status))
      .. (status >= 0 and status < 200 and " (the count of gsub? Put its call into parentheses)" or ""))
  end
  res.status = status
end

-- No body and no status.
local function note_nothing(res, a, b, c, fn)
  if b ~= nil then
    -- Where the error came from, for the log: `err` itself is what on_error gets.
    res.culprit, res.culprit_err = fn, b
    error(b, 0) -- `return nil, err`, as every function here says that it failed
  end
  if c ~= nil then mistake(fn, "nil, nil and a " .. type(c)) end
  if dev and a == nil and fn and not was_told(res) then
    mistake(fn, "nothing, and told res nothing. Without --dev the answer is 204; `return 204` says that it is meant")
  end
end

--- Notes the results of a handler on its response. Raises when they are no answer.
---@param res lunapark.Response
---@param a any
---@param b any
---@param c any
---@param fn? function  the handler, for errors
function answer.settle(res, a, b, c, fn)
  if a == nil then return note_nothing(res, a, b, c, fn) end
  if type(a) == "number" then
    note_headers(res, c, fn)
    note_status(res, a, fn)
    if b == nil then
      res.body, res.ctype = response.reason(a), TEXT
    elseif not note_body(res, b, fn) then
      mistake(fn, ("a %s, which is no answer, as the body of %d%s"):format(type(b), a, hint_of(b)))
    end
  elseif rawequal(a, res) or a == true and response.noted_file(res) then
    if b ~= nil or c ~= nil then mistake(fn, "more than res") end
  elseif note_body(res, a, fn) then
    if b ~= nil then note_status(res, b, fn) end
    note_headers(res, c, fn)
  else
    mistake(fn, ("a %s, which is no answer%s"):format(type(a), hint_of(a)))
  end
end

-- ---- errors that are answers -----------------------------------------------------------------------------------

--- Ends the handler with an answer, from wherever this is called: also from functions that the handler calls.
---@param status integer
---@param body? string|lunapark.Html|table
---@param fields? table  headers
function answer.abort(status, body, fields)
  if type(status) ~= "number" or status < 200 or status > 999 or status % 1 ~= 0 then
    error("abort: status must be a whole number from 200 to 999, got " .. as_given(status), 2)
  end
  local kind = type(body)
  if body ~= nil and kind ~= "string" and kind ~= "table" then
    error("abort: body must be a string, a page or a table, got " .. kind, 2)
  end
  if fields ~= nil and type(fields) ~= "table" then
    error("abort: headers must be a table, got " .. type(fields), 2)
  end
  error(request.new_abort {
    status = status, body = body, fields = fields, is_answer = true,
    message = kind == "string" and body or response.reason(status),
  }, 0)
end

--- The status that an error names, as in error { status = 404, message = "no such user" }.
---@param err any
---@return integer|nil
function answer.status_of(err)
  if type(err) ~= "table" then return nil end
  local status = rawget(err, "status")
  return type(status) == "number" and status >= 200 and status <= 999 and status % 1 == 0 and status or nil
end

--- Notes a failure as the answer: words for people, or JSON for clients that like it better.
---@param req lunapark.Request
---@param res lunapark.Response
---@param status integer
---@param message? string  the reason of the status without it
function answer.note_failure(req, res, status, message)
  message = message or response.reason(status)
  res.status = status
  if request.likes_json(req) then
    local text = json.try_encode { error = message, status = status }
    if text then
      res.body, res.ctype = text, JSON
      return
    end
  end
  res.body, res.ctype = message, TEXT
end

return answer
