--- Makes the reference's source for LDoc from our LuaLS annotations, and says what is not documented.
--
--   build/lunapark run host/build/docs.lua build/doc-src        -- then: ldoc -c build/doc-src/config.ld build/doc-src
--
-- LDoc knows neither LuaLS's types nor which of our files users require. So here every module is loaded, and what is in
-- its table makes its page: functions, wherever they are defined, and the classes that these name in their types, those
-- that these name, and so on. Functions of modules that no user requires, and private things, don't come up.
-- Hence this runs in the binary, whose functions know file and line of the same sources.
--
-- docs.check() is the spec's part of it: a list of what is missing.

local annotations = require "host.build.annotations"
local base = "lua/lunapark/"

local docs = {}

-- What scripts require stands directly below lua/lunapark: a file, or a folder with an init.lua, of which its other
-- files are parts. These folders are parts of `lunapark` itself. Other folders have no page.
local part_of = { core = "lunapark", sync = "lunapark" }

-- ---- what there is -------------------------------------------------------------------------------------------

local function module_name(path)
  return ("lunapark." .. path:gsub("%.lua$", ""):gsub("/", ".")):gsub("%.init$", "")
end

-- The page of a file, whose path below lua/lunapark it is, beside all paths; nil: of none.
local function page_name(path, paths)
  local dir = path:match "^([%w_]+)/"
  if not dir then return module_name(path) end
  return part_of[dir] or paths[dir .. "/init.lua"] and "lunapark." .. dir
end

-- The files below lua/lunapark, read, by the names that debug.getinfo tells.
local function read_files()
  local files, paths = {}, {}
  local list = assert(io.popen("LC_ALL=C find " .. base .. " -name '*.lua' | LC_ALL=C sort"))
  for path in list:lines() do
    paths[#paths + 1] = path
    paths[path:sub(#base + 1)] = true
  end
  list:close()
  for _, path in ipairs(paths) do
    local file = annotations.read(path)
    file.module = module_name(path:sub(#base + 1))
    file.page = page_name(path:sub(#base + 1), paths)
    files[#files + 1] = file
    files["@" .. path:gsub("^lua/", "")] = file
  end
  return files
end

-- `fun(self: T, a: number, ...: any): boolean, string?` as an item.
local function item_of_type(name, kind, text, line)
  local list, results = kind:match "^fun(%b())(.*)$"
  local item = { name = name, text = { text }, line = line, params = {}, returns = {}, given = {}, documented = true }
  for parameter in (list:sub(2, -2) .. ","):gmatch "%s*(.-)," do
    local parameter_name, parameter_type = parameter:match "^([%w_%.]+%??): (.*)$"
    if parameter_name and parameter_name ~= "self" then
      local plain = parameter_name:gsub("%?$", "")
      local optional = plain ~= parameter_name
      item.given[#item.given + 1] = plain
      item.params[#item.params + 1] = { name = plain, type = parameter_type, text = "", optional = optional }
    end
  end
  for result in (results:gsub("^: ", "") .. ","):gmatch "%s*(.-)," do
    if result ~= "" then item.returns[#item.returns + 1] = { type = result, text = "" } end
  end
  return item
end

-- The item of a function that is called `name` on this page; C functions are told by what is assigned to the name.
local function item_of_function(files, page, name, fn)
  local info = debug.getinfo(fn, "S")
  local file = files[info.source]
  local item = file and file.by_line[info.linedefined]
  if item then return item, file end
  for _, other in ipairs(files) do
    if other.page == page then
      for _, assigned in ipairs(other.functions) do
        if assigned.name == name and assigned.type and assigned.type:find "^fun%(" then
          local made = item_of_type(name, assigned.type, assigned.type_text, assigned.line)
          made.text = { unpack(assigned.text) }
          if assigned.type_text ~= "" then made.text[#made.text + 1] = "(" .. assigned.type_text .. ".)" end
          return made, other
        end
      end
    end
  end
  return nil, file
end

-- The functions of a module's table, and those that it loads when they are first used: they are in the table of
-- another of its files.
local function functions_of(page, files)
  local main, found = require(page), {}
  for name, value in pairs(main) do
    found[name] = type(value) == "function" and value or nil
  end
  for _, file in ipairs(files) do
    local module = file.page == page and not file.module:find("%.init$") and require(file.module)
    for name, value in pairs(type(module) == "table" and module or {}) do
      if type(value) == "function" and main[name] == value then found[name] = value end
    end
  end
  return found
end

-- Fields that are functions are methods.
local function split_fields(class)
  local fields, methods = {}, {}
  for _, field in ipairs(class.fields) do
    if field.type:find "^fun%(self" then
      methods[#methods + 1] = item_of_type(field.name, field.type, field.text, class.line)
    else
      fields[#fields + 1] = field
    end
  end
  for _, method in ipairs(class.methods) do
    methods[#methods + 1] = method
  end
  return fields, methods
end

local function class_of(files, name)
  for _, file in ipairs(files) do
    if file.classes[name] then return file.classes[name], file end
  end
end

-- What is said of a class: above it, or on top of a file that is there for it.
local function text_of_class(class, file)
  if class.text[1] or file.module == file.page then return class.text end
  local others = 0
  for _, other in pairs(file.classes) do
    if other.methods[1] then others = others + 1 end
  end
  return others == 1 and file.head or class.text
end

-- What stands in `see` has parameters and results for those that have none.
local function inherit(files, items)
  for _, item in ipairs(items) do
    local class_name, name = (item.see or ""):match "^(.*)%.([%w_]+)$"
    local class = class_name and class_of(files, class_name)
    for _, method in ipairs(class and class.methods or {}) do
      if method.name == name then
        -- Its last parameters: `get(target, opts)` is `request(method, target, opts)`.
        local skip = #method.given - #item.given
        item.params, item.returns = { unpack(method.params, skip + 1) }, method.returns
        if not item.text[1] then item.text = { ("As `%s:%s`."):format(class_name:match "[%w_]+$", name) } end
      end
    end
  end
end

local function types_of(items, fields, note)
  for _, item in ipairs(items) do
    for _, list in ipairs { item.params, item.returns } do
      for _, v in ipairs(list) do note(v.type) end
    end
  end
  for _, field in ipairs(fields) do note(field.type) end
end

--- All pages: { name, head, functions, fields, classes }, sorted by name.
---@return table[]
function docs.pages()
  local files, by_name, pages = read_files(), {}, {}
  local wanted, queue = {}, {}
  local function note(kind)
    for name in kind:gmatch "lunapark[%w_%.]*%.%u[%w_]*" do
      if not wanted[name] then
        wanted[name] = true
        queue[#queue + 1] = name
      end
    end
  end
  for _, file in ipairs(files) do
    if file.page and not by_name[file.page] then
      local page = { name = file.page, functions = {}, fields = {}, classes = {} }
      by_name[page.name], pages[#pages + 1] = page, page
      for name, fn in pairs(functions_of(page.name, files)) do
        local item, where = item_of_function(files, page.name, name, fn)
        if not item then
          item = { name = name, text = {}, params = {}, returns = {}, line = debug.getinfo(fn, "S").linedefined }
        end
        local shown = { name = name, path = (where or file).path }
        page.functions[#page.functions + 1] = setmetatable(shown, { __index = item })
      end
      table.sort(page.functions, function(a, b) return a.name < b.name end)
      inherit(files, page.functions)
      types_of(page.functions, {}, note)
    end
    if file.page == file.module then
      local class = file.classes[file.page]
      by_name[file.page].head, by_name[file.page].fields = file.head, class and class.fields or {}
    end
  end
  while queue[1] do
    local class, file = class_of(files, table.remove(queue, 1))
    if class and file.page then
      local fields, methods = split_fields(class)
      inherit(files, methods)
      types_of(methods, fields, note)
      table.insert(by_name[file.page].classes, {
        name = class.name, text = text_of_class(class, file), fields = fields, methods = methods, path = file.path,
      })
    end
  end
  for _, page in ipairs(pages) do
    table.sort(page.classes, function(a, b) return a.name < b.name end)
  end
  table.sort(pages, function(a, b) return a.name < b.name end)
  return pages
end

-- ---- what is missing -----------------------------------------------------------------------------------------

local function check_item(item, path, title, missing)
  local where = ("%s:%d: %s: "):format(path, item.line, title)
  if not item.documented or not item.text[1] then
    missing[#missing + 1] = where .. "no comment"
    return
  end
  local known = {}
  for _, p in ipairs(item.params) do
    known[p.name] = true
  end
  for _, name in ipairs(item.given or {}) do
    if not known[name] then missing[#missing + 1] = where .. "no @param " .. name end
    known[name] = nil
  end
  for name in pairs(known) do
    missing[#missing + 1] = where .. "@param of what is no parameter: " .. name
  end
  if item.answers and not item.returns[1] then missing[#missing + 1] = where .. "no @return" end
end

--- What is not documented, as "file:line: function: what"; empty when all is.
---@param pages table[]
---@return string[]
function docs.check(pages)
  local missing = {}
  for _, page in ipairs(pages) do
    if not page.head or not page.head[1] then missing[#missing + 1] = page.name .. ": its file has no head" end
    for _, item in ipairs(page.functions) do
      check_item(item, item.path, page.name .. "." .. item.name, missing)
    end
    for _, class in ipairs(page.classes) do
      for _, method in ipairs(class.methods) do
        check_item(method, class.path, class.name .. ":" .. method.name, missing)
      end
    end
  end
  return missing
end

-- ---- LDoc's source -------------------------------------------------------------------------------------------

local function escape(s)
  return (s:gsub("[&<>@]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ["@"] = "&#64;" }))
end

local function inline(s)
  return (escape(s):gsub("`([^`]+)`", "<code>%1</code>"))
end

-- A comment's lines as HTML: paragraphs, and what is indented as it stands. LDoc wants the first sentence bare.
local function html(lines)
  local out, first = {}, true
  local i = 1
  while i <= #lines do
    local list, code = {}, lines[i]:find "^  +%S" ~= nil
    while lines[i] and lines[i] ~= "" and (lines[i]:find "^  +%S" ~= nil) == code do
      list[#list + 1] = lines[i]
      i = i + 1
    end
    if code then
      out[#out + 1] = "<pre>" .. escape(table.concat(list, "\n")) .. "</pre>"
    elseif list[1] then
      local text = inline(table.concat(list, " "))
      out[#out + 1] = first and text:gsub(":$", ".") or "<p>" .. text .. "</p>"
      first = false
    else
      i = i + 1
    end
  end
  return table.concat(out, "\n")
end

local function short(name) return name:match "[%w_]+$" end

-- LDoc's types end at a space, and bars and question marks mean something to it: within brackets they are spelled so
-- that it does not see them.
local function type_text(kind)
  local depth = 0
  local text = kind:gsub("[%(%[{<]", function(c)
    return "\1" .. c
  end)
  text = text:gsub(".", function(c)
    if c == "\1" then depth = depth + 1 return "" end
    if c:find "[%)%]}>]" then depth = depth - 1 end
    if c == "|" and depth > 0 then return "&#124;" end
    if c == "?" then return depth > 0 and "&#63;" or "|nil" end
    if c == " " then return "&nbsp;" end
    return ({ ["<"] = "&lt;", [">"] = "&gt;" })[c]
  end)
  return text
end

local function add_comment(out, ...)
  for _, text in ipairs { ... } do
    for line in (text .. "\n"):gmatch "(.-)\n" do
      out[#out + 1] = "-- " .. line
    end
  end
end

local function add_function(out, item, name)
  out[#out + 1] = "---"
  add_comment(out, html(item.text), "@function " .. name)
  for _, p in ipairs(item.params) do
    local opt = p.optional and "[opt]" or ""
    add_comment(out, ("@tparam%s %s %s %s"):format(opt, type_text(p.type), p.name, inline(p.text)))
  end
  for _, r in ipairs(item.returns) do
    local result = r.name and r.name ~= "..." and "<em>" .. r.name .. "</em> " or ""
    add_comment(out, ("@treturn %s %s%s"):format(type_text(r.type), result, inline(r.text)))
  end
  out[#out + 1] = ""
end

local function add_class(out, class)
  out[#out + 1] = "---"
  local text = html(class.text)
  if class.methods[1] then
    local list = {}
    for _, f in ipairs(class.fields) do
      local line = ('<li><span class="parameter">%s</span> <span class="types">%s</span> %s</li>')
      list[#list + 1] = line:format(escape(f.name), escape(f.type), inline(f.text))
    end
    if list[1] then text = text .. "\n<h3>Fields:</h3><ul>" .. table.concat(list, "\n") .. "</ul>" end
    add_comment(out, text, "@type " .. short(class.name))
    out[#out + 1] = ""
    for _, method in ipairs(class.methods) do
      add_function(out, method, short(class.name) .. ":" .. method.name)
    end
    return
  end
  add_comment(out, text ~= "" and text or "A table.", "@table " .. short(class.name))
  for _, f in ipairs(class.fields) do
    local kind = type_text(f.type .. (f.optional and "?" or ""))
    add_comment(out, ("@tfield %s %s %s"):format(kind, f.name, inline(f.text)))
  end
  out[#out + 1] = ""
end

--- A page as LDoc reads it.
---@param page table
---@return string
function docs.source(page)
  local out = { "---" }
  add_comment(out, html(page.head), "@module " .. page.name)
  out[#out + 1] = ""
  for _, item in ipairs(page.functions) do
    add_function(out, item, item.name)
  end
  for _, f in ipairs(page.fields) do
    out[#out + 1] = "---"
    add_comment(out, ("%s (%s)"):format(inline(f.text), escape(f.type)), "@class field", "@name " .. f.name)
    out[#out + 1] = ""
  end
  for _, class in ipairs(page.classes) do
    if not class.methods[1] then add_class(out, class) end
  end
  for _, class in ipairs(page.classes) do
    if class.methods[1] then add_class(out, class) end
  end
  return table.concat(out, "\n") .. "\n"
end

-- Types link to where they are described: a class with methods has a section, a table without has an anchor.
local CONFIG = [[
project = "Lunapark"
title = "Lunapark's reference"
description = "The modules that scripts require"
format = "plain"
sort_modules = true
no_lua_ref = true
local places = { %s }
custom_see_handler("^(lunapark[%%w_%%.]*%%.%%u[%%w_]*)$", function(name)
  return name:match "[%%w_]+$", places[name] or "#"
end)
]]

local function config(pages)
  local places = {}
  for _, page in ipairs(pages) do
    for _, class in ipairs(page.classes) do
      local anchor = (class.methods[1] and "Class_" or "") .. short(class.name)
      places[#places + 1] = ("[%q] = %q"):format(class.name, ("../modules/%s.html#%s"):format(page.name, anchor))
    end
  end
  return CONFIG:format(table.concat(places, ",\n  "))
end

local function write(path, text)
  local file = assert(io.open(path, "w"))
  assert(file:write(text))
  file:close()
end

local function main(dir)
  local pages = docs.pages()
  local missing = docs.check(pages)
  for _, line in ipairs(missing) do
    io.stderr:write(line, "\n")
  end
  if missing[1] then os.exit(1) end
  write(dir .. "/config.ld", config(pages))
  for _, page in ipairs(pages) do
    write(("%s/%s.lua"):format(dir, page.name), docs.source(page))
  end
end

if arg and arg[0] and arg[0]:find "host/build/docs%.lua$" then main(assert(arg[1], "usage: docs.lua DIRECTORY")) end

return docs
