--- Where Lua files come from: `loadfile`, `dofile`, and the searcher by which `require` finds files on package.path.
--
-- A VM of a server must load the files as its generation has loaded them, not as the disk has them by now, and a reload
-- must know which files these are. So the three functions get a file's bytes from core.source, which asks the set of
-- the VM's generation (host/generation/source.c), or the disk where there is no set. All else is as in LuaJIT:
-- messages, names of chunks, modes, bytecode, stdin. The functions are Lua functions, so a chunk that waits while it
-- loads waits as cheaply as any other.
--
-- Nothing here waits by itself; a read from the disk blocks, as LuaJIT's does.

local core = require "lunapark.core"
local near = require "lunapark.core.near"

local source = {}

---@type table<string, true>  names of files that were loaded, as LuaJIT knows them
source.loaded = {}

local registry = debug.getregistry()
-- The table belongs to the VM, since busted loads modules anew for each spec file.
local originals = registry["lunapark.source"]

-- The chunk, or nil and why not, and whether the file could be opened.
local function load_file(path, ...)
  if path:find("\0", 1, true) then return nil, ("cannot open %s: a NUL byte in its name"):format(path) end
  local bytes, err, opened = core.source(path)
  if originals.on_load then originals.on_load(path, bytes) end
  if not bytes then
    return nil, ("cannot %s %s: %s"):format(opened and "read" or "open", path, err), opened
  end
  source.loaded[path] = true
  local chunk, msg = load(bytes, "@" .. path, ...)
  return chunk, msg, true
end

-- What LuaJIT takes for a string. Its own functions answer all else: nil is stdin, a table is an error.
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

-- The entry of package.loaders for package.path: the chunk, or the names of the files that are not there.
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

-- The last entry of package.loaders, after all that may have a module of such a name: the files that are not there say
-- nothing of a module of ours. Level 3 is the caller of require.
local function no_module(name)
  local own = name:match "^lunapark%.(.*)$"
  if not own then return nil end
  local names, list = {}, {}
  for _, module in ipairs(core.modules()) do
    local word = module:match "^lunapark%.(%w+)$"
    if word and word ~= "cdef" then names[word], list[#list + 1] = true, word end
  end
  error(("module '%s' not found: Lunapark has none of this name%s\nIts modules are lunapark and lunapark.X for X = %s")
    :format(name, near.hint(own, names), table.concat(list, ", ")), 3)
end

--- Puts the three functions in their places in this VM. A second call does nothing.
function source.install()
  if originals then return end
  originals = { loadfile = loadfile, dofile = dofile }
  registry["lunapark.source"] = originals
  loadfile, dofile = our_loadfile, our_dofile -- luacheck: globals loadfile dofile
  -- 1 is package.preload, 2 the modules in the binary (vm.c), 4 and 5 are for modules in C.
  package.loaders[3] = our_searcher
  package.loaders[#package.loaders + 1] = no_module
end

--- From now on `fn(path, bytes)` is called for each file that this VM asks for, before the file is compiled; without
--- bytes if the file could not be read. nil ends that. For test runs: coverage, --watch.
---@param fn fun(path: string, bytes: string|nil)|nil
function source.on_load(fn)
  registry["lunapark.source"].on_load = fn
end

--- Makes a file, or all files in a folder and below it, count as loaded: a reload is due when one changes. Names that
--- begin with a dot are passed over. Has no effect where nothing is served.
---@param path string
---@return boolean|nil ok
---@return string? err
function source.watch(path)
  if type(path) ~= "string" then error("watch: path must be a string, got " .. type(path), 2) end
  if path:find("\0", 1, true) then error("watch: path must not contain a NUL byte", 2) end
  local err = core.watch_source(path)
  if err then return nil, ("cannot watch %s: %s"):format(path, err) end
  return true
end

return source
