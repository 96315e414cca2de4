--- `lunapark routes`: what an app answers, as a table for people, or with --json as an array for programs.
--
--   METHOD  PATH                    HANDLER        MIDDLEWARE
--   GET     /                       app.lua:12     request_id
--   POST    /users/:id<int>         api/user.lua:7 request_id, api/auth.lua:3
--   GET     //cdn.example.com/*     files of www   request_id
--
-- A row is a definition: get, post ..., any, method, static, tcp; of mounted apps under the whole path. The path of an
-- app for a host begins with // and the name of the host. Rows are sorted by host and path. Middleware stands from the
-- outside to the inside: by name if it is in the box, else by file and line. Left out is what follows from the rows:
-- HEAD where there is GET, OPTIONS, and the other spelling of a slash at the end.

local base = require "lunapark.core.base"
local json = require "lunapark.json"
local router = require "lunapark.http.router"
local trim = require("lunapark.core.text").trim

local concat, format, gsub, match = table.concat, string.format, string.gsub, string.match

local routes = {}

-- A text as a terminal, and JSON, may have it: other bytes as paths of requests have them.
local function printable(s)
  s = gsub(s, "%c", function(c) return format("%%%02X", c:byte()) end)
  if pcall(json.encode, s) then return s end
  return (gsub(s, "[\128-\255]", function(c) return format("%%%02X", c:byte()) end))
end

-- The file of a function and the line where the function begins; nil: it is a C function.
local function place_of(fn)
  local info = debug.getinfo(fn, "S")
  local file = match(info.source, "^@(.*)$")
  if not file then return nil end
  return printable((gsub(file, "^%./", ""))), info.linedefined
end

-- The name of middleware, for people.
local function name_of(fn)
  local file, line = place_of(fn)
  if not file then return "a C function" end
  return match("/" .. file, "/lunapark/http/([%w_]+)%.lua$") or format("%s:%d", file, line)
end

-- The path of a folder from where the command was started.
local function shown(folder)
  local cwd = base.cwd()
  if not cwd or folder:sub(1, #cwd + 1) ~= cwd .. "/" then return folder end
  return folder:sub(#cwd + 2)
end

local function joined(a, b)
  local list = {}
  for _, part in ipairs { a, b } do
    for _, element in ipairs(part) do list[#list + 1] = element end
  end
  return list
end

local function add(rows, row, fn, middleware)
  row.file, row.line = place_of(fn)
  row.middleware = json.array()
  for i, around in ipairs(middleware) do row.middleware[i] = name_of(around) end
  row.number = #rows + 1
  rows[#rows + 1] = row
end

-- Adds the routes of an app, and of the apps that are in it. host: whose they are; nil: of all hosts without an app.
local function add_app(rows, app, host, prefix, outer)
  local middleware = joined(outer, app.middleware)
  local folders = {} -- by function: `static` defines two routes
  for _, route in ipairs(app.routes) do
    if route.files then folders[route.fn] = printable(shown(route.files.dir)) end
  end
  for _, route in ipairs(app.routes) do
    local path = printable(router.show(joined(prefix, route.pieces)))
    add(rows, { method = route.method, host = host, path = path, folder = folders[route.fn] }, route.fn, middleware)
  end
  for _, mount in ipairs(app.mounts) do
    add_app(rows, mount.app, host, joined(prefix, mount.pieces), middleware)
  end
  for _, inner in ipairs(app.hosts) do
    add_app(rows, inner.app, inner.name, {}, middleware)
  end
end

local function comes_before(a, b)
  local of_a, of_b = a.host or "", b.host or ""
  if of_a ~= of_b then return of_a < of_b end
  if a.path ~= b.path then return a.path < b.path end
  return a.number < b.number
end

--- What an app answers.
---@param app lunapark.App|function
---@return table[] rows  `method path host file line folder middleware`; of `tcp` the address in place of path and host
function routes.list(app)
  local rows = {}
  if type(app) == "function" then
    add(rows, { method = "ANY", path = "/*" }, app, {})
  else
    add_app(rows, app, nil, {}, {})
    table.sort(rows, comes_before)
    app:each_tcp(function(addr, fn) add(rows, { method = "TCP", address = addr }, fn, {}) end)
  end
  for _, row in ipairs(rows) do row.number = nil end
  return rows
end

local function handler_of(row)
  if row.folder then return "files of " .. row.folder end
  return row.file and format("%s:%d", row.file, row.line) or "a C function"
end

-- How many columns a text takes.
local function width(text)
  local _, continued = gsub(text, "[\128-\191]", "")
  return #text - continued
end

local function as_table(rows)
  local lines, widths = { { "METHOD", "PATH", "HANDLER", "MIDDLEWARE" } }, {}
  for _, row in ipairs(rows) do
    local path = row.address or row.host and "//" .. row.host .. row.path or row.path
    lines[#lines + 1] = { row.method, path, handler_of(row), concat(row.middleware, ", ") }
  end
  for _, line in ipairs(lines) do
    for i, cell in ipairs(line) do widths[i] = math.max(widths[i] or 0, width(cell)) end
  end
  for n, line in ipairs(lines) do
    for i = 1, #line - 1 do line[i] = line[i] .. (" "):rep(widths[i] - width(line[i])) end
    lines[n] = trim(concat(line, "  "))
  end
  return concat(lines, "\n") .. "\n"
end

--- What an app answers, as text.
---@param app lunapark.App|function
---@param is_json boolean
---@return string
function routes.text(app, is_json)
  local rows = routes.list(app)
  return is_json and json.encode(json.array(rows)) .. "\n" or as_table(rows)
end

return routes
