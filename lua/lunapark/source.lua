--- Where Lua files come from: `loadfile`, `dofile`, and the searcher by which `require` finds files on package.path.
--
-- A VM of a server must load what its generation has loaded, not what lies on the disk by now, and a reload must know
-- which files these are. So the three get a file's bytes from core.source, which asks the set of the VM's generation
-- (host/source.c), or the disk where there is none. All else is as LuaJIT does it: messages, names of chunks, modes,
-- bytecode, stdin. Since they are Lua functions, a chunk that waits while it loads waits as cheaply as any other.
--
-- Nothing here waits by itself; a read from the disk blocks, as LuaJIT's does.

local core = require "lunapark.core"

local source = {}

---@type table<string, true>  names of files that were loaded, as LuaJIT knows them
source.loaded = {}

local registry = debug.getregistry()
-- Of the VM, since busted loads modules anew for each spec file.
local originals = registry["lunapark.source"]

-- The chunk, or nil and why not, and whether the file could be opened.
local function load_file(path, ...)
  local bytes, err, opened = core.source(path)
  if originals.on_load then originals.on_load(path, bytes) end
  if not bytes then
    return nil, ("cannot %s %s: %s"):format(opened and "read" or "open", path, err), opened
  end
  source.loaded[path] = true
  local chunk, msg = load(bytes, "@" .. path, ...)
  return chunk, msg, true
end

-- What LuaJIT takes for a string, say a file's name. All else is its own to answer: nil is stdin, a table an error.
local function is_string(value)
  return type(value) == "string" or type(value) == "number"
end

local function first_two(a, b)
  if a then return a end
  return nil, b
end

local function our_loadfile(path, mode, ...)
  if not is_string(path) or mode ~= nil and not is_string(mode) then return originals.loadfile(path, mode, ...) end
  return first_two(load_file(tostring(path), mode, ...))
end

local function our_dofile(path)
  if not is_string(path) then return originals.dofile(path) end
  local chunk, err = load_file(tostring(path))
  if not chunk then error(err, 0) end
  return chunk()
end

-- package.loaders' one for package.path: the chunk, or in words where there is no such file.
local function our_searcher(name)
  local path = package.path
  if not is_string(path) then error("'package.path' must be a string", 0) end
  local tried = {}
  local file = name:gsub("%.", "/")
  for template in tostring(path):gmatch "[^;]+" do
    local candidate = template:gsub("?", (file:gsub("%%", "%%%%")))
    local chunk, err, opened = load_file(candidate)
    if chunk then return chunk end
    if opened then error(("error loading module '%s' from file '%s':\n\t%s"):format(name, candidate, err), 0) end
    tried[#tried + 1] = "\n\tno file '" .. candidate .. "'"
  end
  return table.concat(tried)
end

--- Puts them in their places, in this VM. Again: nothing.
function source.install()
  if originals then return end
  originals = { loadfile = loadfile, dofile = dofile }
  registry["lunapark.source"] = originals
  loadfile, dofile = our_loadfile, our_dofile -- luacheck: globals loadfile dofile
  -- 1 is package.preload, 2 the modules in the binary (vm.c), 4 and 5 are for modules in C.
  package.loaders[3] = our_searcher
end

--- From now on `fn(path, bytes)` is called for each file that this VM asks for, before it is compiled; without bytes if
--- it could not be read. For test runs: coverage, --watch. nil: no more.
---@param fn fun(path: string, bytes: string|nil)|nil
function source.on_load(fn)
  registry["lunapark.source"].on_load = fn
end

--- A file, or the files in a folder and below it, counts as loaded: a reload is due when it changes. Names that begin
--- with a dot are passed over. Nothing where nothing is served.
---@param path string
---@return boolean|nil ok
---@return string? err
function source.watch(path)
  if type(path) ~= "string" then error("watch: path must be a string, got " .. type(path), 2) end
  local err = core.watch_source(path)
  if err then return nil, ("cannot watch %s: %s"):format(path, err) end
  return true
end

return source
