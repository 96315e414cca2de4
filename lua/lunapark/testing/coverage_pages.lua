--- Coverage for people: a table of files as text, and HTML pages with their lines.

local pieces = require("lunapark.core.text").pieces

local pages = {}

local STYLE = [[
body { font: 14px/1.4 sans-serif; margin: 2em; color: #222 }
table { border-collapse: collapse } th, td { padding: 2px 1em; text-align: right } th:first-child, td:first-child
{ text-align: left } tr:nth-child(even) td { background: #f6f6f6 }
pre { line-height: 1.35 }
.n, .c { color: #888; display: inline-block; text-align: right; width: 5em; margin-right: 1em }
.hit { background: #e3f6e3 } .miss { background: #fbdcdc } .line { display: block; min-height: 1.35em }
]]

local function escape(text)
  return (text:gsub('[&<>"]', { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }))
end

---@class lunapark.testing.FileSum
---@field path string
---@field lines integer   how many can be run
---@field missed integer  how many of these were not run
---@field percent number

local function percent(lines, missed)
  return lines == 0 and 100 or (lines - missed) / lines * 100
end

--- Files by name, the last one "total".
---@param total table<string, table<integer, integer>>
---@return lunapark.testing.FileSum[]
function pages.sums(total)
  local list, all = {}, { path = "total", lines = 0, missed = 0 }
  for path, counts in next, total do
    local sum = { path = path, lines = 0, missed = 0 }
    for _, n in next, counts do
      sum.lines = sum.lines + 1
      if n == 0 then sum.missed = sum.missed + 1 end
    end
    sum.percent = percent(sum.lines, sum.missed)
    all.lines, all.missed = all.lines + sum.lines, all.missed + sum.missed
    list[#list + 1] = sum
  end
  table.sort(list, function(a, b) return a.path < b.path end)
  all.percent = percent(all.lines, all.missed)
  list[#list + 1] = all
  return list
end

--- The table as text.
---@param files lunapark.testing.FileSum[]
---@return string
function pages.text(files)
  local width = 8
  for _, file in ipairs(files) do width = math.max(width, #file.path) end
  local row = "%-" .. width .. "s  %7s  %7s  %7s\n"
  local out = { row:format("Coverage", "lines", "missed", "run") }
  for i, file in ipairs(files) do
    if i == #files then out[#out + 1] = ("-"):rep(width + 27) .. "\n" end
    out[#out + 1] = row:format(file.path, file.lines, file.missed, ("%.1f %%"):format(file.percent))
  end
  return table.concat(out)
end

local function page_name(path)
  return (path:gsub("[^%w._-]", "_")) .. ".html"
end

local function head(title)
  return ('<!DOCTYPE html>\n<meta charset="utf-8"><title>%s</title>\n<style>%s</style>\n<h1>%s</h1>\n'):format(
    escape(title), STYLE, escape(title))
end

local function index(files, names)
  local out = { head "Coverage", "<table><tr><th>file<th>lines<th>missed<th>run\n" }
  for i, file in ipairs(files) do
    local name = escape(file.path)
    if i < #files then name = ('<a href="%s">%s</a>'):format(names[file.path], name) end
    out[#out + 1] = ("<tr><td>%s<td>%d<td>%d<td>%.1f %%\n"):format(name, file.lines, file.missed, file.percent)
  end
  out[#out + 1] = "</table>\n"
  return table.concat(out)
end

local function page(file, counts, text)
  local out = { head(file.path), ('<p><a href="index.html">all files</a>: %d lines, %d missed\n<pre>\n'):format(
    file.lines, file.missed) }
  local number = 0
  for line in pieces(text:gsub("\n$", "") .. "\n", "\n") do
    number = number + 1
    local n = counts[number]
    out[#out + 1] = ('<span class="line%s" id="%d"><span class="n">%d</span><span class="c">%s</span>%s</span>'):format(
      n and (n > 0 and " hit" or " miss") or "", number, number, n or "", escape(line))
  end
  out[#out + 1] = "</pre>\n"
  return table.concat(out)
end

local function write(path, text)
  local file, err = io.open(path, "w")
  if not file then return nil, err end
  local ok
  ok, err = file:write(text)
  file:close()
  if not ok then return nil, path .. ": " .. tostring(err) end
  return true
end

-- Removes the pages of an earlier run, and no other file.
local function clear(dir)
  for path in require("pl.path").dir(dir) do
    if path:match "%.lua%.html$" then os.remove(dir .. "/" .. path) end
  end
end

--- Writes index.html and a page for each file to the directory. Makes the directory if it is not there.
---@param files lunapark.testing.FileSum[]
---@param total table<string, table<integer, integer>>
---@param dir string
---@return true|nil ok
---@return string? err
function pages.write(files, total, dir)
  local ok, err = require("pl.dir").makepath(dir)
  if not ok then return nil, ("cannot make %s: %s"):format(dir, tostring(err)) end
  clear(dir)
  local names, used = {}, {}
  for i = 1, #files - 1 do
    local name = page_name(files[i].path)
    if used[name] then name = i .. "_" .. name end
    used[name], names[files[i].path] = true, name
  end
  ok, err = write(dir .. "/index.html", index(files, names))
  if not ok then return nil, err end
  for i = 1, #files - 1 do
    local path = files[i].path
    local source = io.open(path)
    local text = source and source:read "*a" or ""
    if source then source:close() end
    ok, err = write(dir .. "/" .. names[path], page(files[i], total[path], text))
    if not ok then return nil, err end
  end
  return true
end

return pages
