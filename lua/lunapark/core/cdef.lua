--- C declarations in which it stands what blocks: `lp.cdef`.
--
--   local c = lp.cdef [[
--     /* blocks */ int flock(int fd, int operation);
--     int getpid(void);
--   ]]
--   c.flock(fd, 2)   -- by lp.offload: this G waits, others go on
--   c.getpid()       -- directly
--
-- Whether a C function blocks is known to who declares it, and forgotten by who calls it: so it stands once, in the
-- declaration, and no call says it.
--
-- LuaJIT reads the declarations: the text goes to ffi.cdef as it is. Here it is read once more, for the names of the
-- functions and for the marks. LuaJIT could be asked for the names (ffi.typeinfo tells of each type that it has made),
-- but not for those that were declared before, by another file.
--
-- A mark holds for the declaration that it stands in or before. Behind a declaration, with nothing after it on its
-- line, it reads as if it held for that one, and would for the next: that is an error. So are marks that mark nothing,
-- and words that are almost the mark: a mark that does not count would hold up a VM, and nobody would see why.
-- Comments within brackets (of parameters, of fields) are comments.
--
-- A text that was declared in this VM is not declared again, since LuaJIT refuses a struct that it has: so a module
-- that is loaded anew gets its functions.

local ffi = require "ffi"
local base = require "lunapark.core.base"
local offload = require "lunapark.core.offload"
local pieces, trim = require("lunapark.core.text").pieces, require("lunapark.core.text").trim

local find, sub = string.find, string.sub

local cdef = {}

local registry = debug.getregistry()
-- By text: true. Libraries: anchored for good, since LuaJIT unloads one that nobody holds, with its functions.
local declared = registry["lunapark.declared"] or { libraries = {} }
registry["lunapark.declared"] = declared

local function set_of(words)
  local set = {}
  for word in words:gmatch "%S+" do set[word] = true end
  return set
end

-- What may stand in front of a declarator. Of TYPES one at least, or the name of a type, comes before it.
local TYPES = set_of [[
void bool _Bool char short int long float double signed unsigned __signed __signed__ complex _Complex __complex
__complex__ __int8 __int16 __int32 __int64]]
local TAGGED = set_of "struct union enum"
local QUALIFIERS = set_of [[
const volatile restrict static extern inline register auto __const __const__ __volatile __volatile__ __restrict
__restrict__ __inline __inline__ __extension__ __cdecl __fastcall __stdcall __thiscall __ptr32 __ptr64]]
-- These have an argument in parentheses.
local WITH_ARGUMENT = set_of "__attribute__ __attribute __declspec __asm__ __asm asm _Alignas __alignas"

local CLOSING = { ["("] = ")", ["["] = "]", ["{"] = "}" }

-- Words that somebody writes who means the mark.
local ALMOST = set_of "block blocks blocking blocked"

-- ---- tokens ----------------------------------------------------------------------------------------------------

-- Raises what is wrong, for cdef.cdef, which says where.
local function fail(line, ...)
  error({ line = line, what = string.format(...) }, 0)
end

-- Is it a mark? One that is only almost one raises.
local function is_mark(comment, line)
  local word = comment:match "^%s*(%a+)%s*$"
  if word == "blocks" then return true end
  if word and ALMOST[word:lower()] then fail(line, "a comment that says %q: the mark is /* blocks */", word) end
  return false
end

-- What stands at a position that is no space: its kind ("name", "comment", "other") and where it ends.
local function token(text, at, line)
  local two = sub(text, at, at + 1)
  if two == "/*" then
    local _, stop = find(text, "*/", at + 2, true)
    if not stop then fail(line, "a comment without an end") end
    return "comment", stop, sub(text, at + 2, stop - 2)
  elseif two == "//" then
    local stop = (find(text, "\n", at, true) or #text + 1) - 1
    return "comment", stop, sub(text, at + 2, stop)
  end
  local _, stop = find(text, "^[%a_$][%w_$]*", at)
  if stop then return "name", stop, sub(text, at, stop) end
  local quote = sub(text, at, at)
  if quote == '"' or quote == "'" then
    local i = at + 1
    while i <= #text and sub(text, i, i) ~= quote do
      i = i + (sub(text, i, i) == "\\" and 2 or 1)
    end
    return "other", math.min(i, #text), "string"
  elseif quote == "#" then -- a pragma, to the end of its line
    return "comment", (find(text, "\n", at, true) or #text + 1) - 1, ""
  end
  _, stop = find(text, "^%.?%d[%w_.]*", at)
  if stop then return "other", stop, "number" end
  return "other", at, quote
end

-- The declarations of a text: lists of tokens { name = } or { is = }, each list with its `line` and, if it is marked,
-- the mark's line as `blocks`.
local function declarations_of(text)
  local list, tokens, line, at, depth = {}, {}, 1, 1, 0
  local last_line = 0 -- of the token before
  local function close()
    if tokens[1] then
      list[#list + 1] = tokens
      tokens = {}
    end
  end
  while true do
    local start = find(text, "%S", at) or #text + 1
    local _, breaks = sub(text, at, start - 1):gsub("\n", "")
    line = line + breaks
    if start > #text then break end
    local kind, stop, value = token(text, start, line)
    if kind == "comment" then
      if depth == 0 and is_mark(value, line) then
        if not tokens[1] and last_line == line and find(text, "^[ \t\r]*\n", stop + 1) then
          fail(line, "a mark behind a declaration: it stands before the function that blocks")
        end
        tokens.blocks = line
      end
    elseif value == ";" and depth == 0 then
      close()
      last_line = line
    else
      tokens.line = tokens.line or line
      tokens[#tokens + 1] = kind == "name" and { name = value } or { is = value }
      if CLOSING[value] then depth = depth + 1 end
      if value == ")" or value == "]" or value == "}" then depth = depth - 1 end
      last_line = line
    end
    _, breaks = sub(text, start, stop):gsub("\n", "")
    line, at = line + breaks, stop + 1
  end
  close()
  if tokens.blocks then fail(tokens.blocks, "a mark with no declaration after it") end
  return list
end

-- ---- names -----------------------------------------------------------------------------------------------------

-- Behind the bracket that list[i] opens.
local function behind(list, i)
  local depth = 0
  while list[i] do
    local is = list[i].is
    if CLOSING[is] then
      depth = depth + 1
    elseif is == ")" or is == "]" or is == "}" then
      depth = depth - 1
      if depth == 0 then return i + 1 end
    end
    i = i + 1
  end
  return i
end

-- Behind the attribute, qualifier or asm name at list[i]; i: there is none.
local function behind_extras(list, i)
  while list[i] do
    local name = list[i].name
    if WITH_ARGUMENT[name] then
      i = behind(list, i + 1)
    elseif QUALIFIERS[name] then
      i = i + 1
    else
      break
    end
  end
  return i
end

-- Behind what a declaration begins with: the type.
local function behind_type(list)
  local i, typed = behind_extras(list, 1), false
  while list[i] do
    local name = list[i].name
    if TAGGED[name] then
      i = behind_extras(list, i + 1)
      if list[i] and list[i].name then i = i + 1 end
      if list[i] and list[i].is == "{" then i = behind(list, i) end
      typed = true
    elseif TYPES[name] then
      i, typed = i + 1, true
    elseif name and not typed then
      i, typed = i + 1, true -- a typedef's
    else
      break
    end
    i = behind_extras(list, i)
  end
  return i
end

-- The declarator at list[i]: the name, what it is ("function", "other", nil: the brackets around say), and where it
-- ends. What stands next to the name counts first, then what stands around.
local function declarator(list, i)
  local pointer, name, what = false, nil, nil
  i = behind_extras(list, i)
  while list[i] and list[i].is == "*" do
    pointer, i = true, behind_extras(list, i + 1)
  end
  if list[i] and list[i].name then
    name, i = list[i].name, i + 1
  elseif list[i] and list[i].is == "(" then
    name, what, i = declarator(list, i + 1)
    if list[i] and list[i].is == ")" then i = i + 1 end
  end
  i = behind_extras(list, i)
  while list[i] and (list[i].is == "(" or list[i].is == "[") do
    what = what or (list[i].is == "(" and "function" or "other")
    i = behind_extras(list, behind(list, i))
  end
  return name, what or pointer and "other" or nil, i
end

-- The names of the functions that a declaration declares.
local function functions_of(list)
  local names = {}
  for _, t in ipairs(list) do
    if t.name == "typedef" then return names end
  end
  local i = behind_type(list)
  while list[i] do
    local name, what
    name, what, i = declarator(list, i)
    if name and what == "function" then names[#names + 1] = name end
    -- To the next one. What is not understood is LuaJIT's to refuse.
    while list[i] and list[i].is ~= "," do
      i = CLOSING[list[i].is] and behind(list, i) or i + 1
    end
    i = i + 1
  end
  return names
end

-- ---- what it makes of them -------------------------------------------------------------------------------------

local function declare(text)
  if declared[text] then return end
  local ok, err = pcall(ffi.cdef, text)
  if not ok then
    local what, line = tostring(err):match "^(.*) at line (%d+)$"
    fail(tonumber(line) or 1, "%s", what or tostring(err))
  end
  declared[text] = true
end

local function load_library(library)
  if library == nil then return ffi.C end
  if type(library) == "string" then
    local ok, lib = pcall(ffi.load, library)
    if not ok then fail(nil, "%s", tostring(lib)) end
    library = lib
  end
  declared.libraries[library] = true
  return library
end

local function get(lib, name) return lib[name] end

local function add(functions, lib, name, list)
  local ok, fn = pcall(get, lib, name)
  if not ok then fail(list.line, "%s", tostring(fn)) end
  if list.blocks then
    local err
    fn, err = offload.bind(fn, name)
    if not fn then fail(list.line, "%s cannot be called on another thread: %s", name, err) end
  end
  functions[name] = fn
end

local function read(text, library)
  local list = declarations_of(text)
  declare(text)
  local lib, functions = load_library(library), {}
  for _, declaration in ipairs(list) do
    local names = functions_of(declaration)
    if declaration.blocks and not names[1] then fail(declaration.blocks, "a mark that marks no function") end
    for _, name in ipairs(names) do add(functions, lib, name, declaration) end
  end
  return functions
end

--- The functions that a text declares, by name: true for those that are marked. Declares nothing: for check_calls.lua.
---@package
---@param text string
---@return table<string, boolean>
function cdef.marks(text)
  local marks = {}
  for _, declaration in ipairs(declarations_of(text)) do
    for _, name in ipairs(functions_of(declaration)) do marks[name] = declaration.blocks ~= nil end
  end
  return marks
end

-- Line n of a text, without what surrounds it.
local function line_of(text, n)
  for line in pieces(text .. "\n", "\n") do
    n = n - 1
    if n == 0 then return trim(line) end
  end
end

--- Declares C functions, types and constants as `ffi.cdef` does, and returns the functions. A function whose
--- declaration has the mark `/* blocks */` is called by `lp.offload`: on another thread, while the caller waits. The
--- others are called directly.
---
--- The mark stands before the declaration, or in it, and holds for all functions of that declaration. What `lp.offload`
--- cannot call (variable arguments, structs by value) cannot be marked. Constants and variables are in `ffi.C`, or in
--- the library, as always. `ffi.errno()` is what the call left, also after a wait. A call whose wait ended first
--- returns nil and "timeout" or "canceled".
---
--- Declaring the same text again in a VM is no error. Of several declarations of a function the VM's first counts, as
--- for `ffi.cdef`.
---@param text string  C declarations
---@param library? string|userdata  where the functions are: a name or path for `ffi.load`, or what that returned;
---without it the process itself
---@return table<string, function|ffi.cdata*> functions  by name
function cdef.cdef(text, library)
  base.check_text(text, "cdef", "text", 3)
  local kind = type(library)
  if kind == "string" then
    base.check_text(library, "cdef", "library", 3)
  elseif kind ~= "nil" and kind ~= "userdata" then
    error("cdef: library must be a name or what ffi.load returned, got " .. kind, 2)
  end
  local ok, result = pcall(read, text, library)
  if ok then return result end
  if type(result) ~= "table" then error(result, 0) end
  local where = result.line and (', at line %d of the declarations, "%s"'):format(result.line,
    line_of(text, result.line) or "") or ""
  error(("cdef: %s%s"):format(result.what, where), 2)
end

return cdef
