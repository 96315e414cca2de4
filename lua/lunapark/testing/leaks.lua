--- What a test leaves behind: Gs, timers, sockets, files, processes, errors that were not looked at.
--
-- Under `lunapark test`, and only there, the modules that make such objects tell of each (`note`, below), and its place
-- in the spec is kept until the test is over. An object belongs to a test if the G of the `it` made it, or a G that
-- this G started, and so on. Objects that setup and before_each make, and Gs that they start, belong to no test. A test
-- that passes otherwise fails when an object of it is left after its after_each blocks: its author has forgotten the
-- object, or says `testing.allow_leak`.
--
--   G, timer   has not ended. A G that is about to end gets a moment, a tenth of a second.
--   socket     is open, or was until the collector came: a connection, a listener, a datagram socket, a descriptor of
--              another library that is waited for
--   file       of lunapark.fs, io.open, io.popen, io.tmpfile: is open
--   process    of lunapark.exec: runs
--   error      a G has raised, and was not joined. Elsewhere that is a line in the log.
--
-- Handlers of testing.serve are Gs that no test has started; the objects that they make belong to no test.
--
-- Channels need no look of their own: a channel in whose queue a G waits has a G that is left.
--
-- A leaked G is ended (host/vm/block.c), since it would go on in the midst of the next test.

local ffi = require "ffi"
require "lunapark.cdef"
local base = require "lunapark.core.base"
local lp = require "lunapark"

local C = ffi.C
local registry = debug.getregistry()

local leaks = {}

local KINDS = { G = true, timer = true, socket = true, file = true, process = true, error = true }
local GRACE, TURNS = 0.1, 20

---@class lunapark.testing.Owner
---@field gs table<lunapark.G, string>  its living Gs: "G" or "timer"
---@field things table[]  what else was made: { kind, where, open = fun(): boolean, object }
---@field look_at integer  how many of these are too many to be kept unlooked at
---@field errors lunapark.G[]  Gs that raised and that nobody had joined

---@type table<lunapark.G, lunapark.testing.Owner>
local owner_of = setmetatable({}, { __mode = "k" })

--- An owner of the objects that an `it` or another block makes.
---@return lunapark.testing.Owner
function leaks.owner()
  return { gs = {}, things = {}, look_at = 100, errors = {} }
end

--- Objects that g makes from now on belong to the owner. g itself does not.
---@param g lunapark.G
---@param owner lunapark.testing.Owner
function leaks.own(g, owner)
  owner_of[g] = owner
end

-- ---- where something is made -----------------------------------------------------------------------------

local function is_ours(source)
  return source:sub(1, 10) == "@lunapark/"
end

-- "file:line" of the code that called into Lunapark.
local function place()
  local level = 3
  while true do
    local info = debug.getinfo(level, "Sl")
    if not info then return lp.self().where or "?" end
    if info.what ~= "C" and info.currentline > 0 and not is_ours(info.source) then
      return info.short_src .. ":" .. info.currentline
    end
    level = level + 1
  end
end

-- ---- noting what is made ---------------------------------------------------------------------------------

local address = ffi.new("char[?]", 128)

-- The entry does not keep the object, or the object would never be collected; the object's finalizer keeps the entry.
-- `cdata` has the finalizer `free`; is_open(cdata) tells whether the object is open.
local function watch(entry, cdata, free, is_open)
  local ref = setmetatable({ cdata }, { __mode = "v" })
  entry.object = ref
  entry.open = function()
    if entry.forgotten ~= nil then return entry.forgotten end
    return ref[1] ~= nil and is_open(ref[1])
  end
  ffi.gc(cdata, function(c)
    entry.forgotten = is_open(c)
    free(c)
  end)
end

-- Adds an entry to the owner's list. Now and then entries that are no leaks any more are taken from the list.
local function add(owner, entry)
  local things = owner.things
  if #things >= owner.look_at then
    local n = 0
    for i = 1, #things do
      local e = things[i]
      things[i] = nil
      if e.open() then
        n = n + 1
        things[n] = e
      end
    end
    owner.look_at = math.max(2 * n, 100)
  end
  things[#things + 1] = entry
end

local noters = {}

function noters.socket(owner, s)
  local entry = { kind = "socket", where = place() }
  watch(entry, s, C.host_sock_forget, function(sock)
    local n = C.host_sock_addr(sock, 0, address, 128)
    if n > 0 then entry.text = ffi.string(address, n) end
    return n >= 0 or ffi.string(C.host_strerror(n)) ~= "closed"
  end)
  add(owner, entry)
end

function noters.file(owner, f)
  local entry = { kind = "file", where = place(), text = f.path }
  watch(entry, f.file, C.host_file_free, function() return not entry.closed end)
  f.noted = entry
  add(owner, entry)
end

function noters.process(owner, p)
  local entry = { kind = "process", where = place(), text = tostring(p.pid) }
  watch(entry, p.proc, C.host_proc_free, function(proc) return C.host_proc_ended(proc) == 0 end)
  add(owner, entry)
end

function noters.G(owner, g)
  owner_of[g] = owner
  owner.gs[g] = "G"
end

function noters.timer(owner, t)
  owner.gs[t.g] = "timer"
end

-- The object has an owner that outlives the test, or the runner closes it.
function noters.kept(owner, object)
  for i = #owner.things, 1, -1 do
    if owner.things[i].object[1] == object then table.remove(owner.things, i) end
  end
end

local function note_file(path, f, ...)
  local owner = f and owner_of[lp.self()]
  if owner then
    add(owner, {
      kind = "file", where = place(), text = tostring(path), object = { f },
      open = function() return io.type(f) == "file" end,
    })
  end
  return f, ...
end

local function note_error(owner, g)
  local errors = owner.errors
  for i = #errors, 1, -1 do -- those that were joined meanwhile
    if not errors[i].report_at and not errors[i].reported then table.remove(errors, i) end
  end
  errors[#errors + 1] = g
end

local function note(kind, object)
  if kind == "error" or kind == "ended" then
    local owner = owner_of[object]
    if not owner then return end
    if kind == "error" then return note_error(owner, object) end
    owner_of[object], owner.gs[object] = nil, nil
    return
  end
  local owner = owner_of[lp.self()]
  if owner then noters[kind](owner, object) end
end

--- Modules that are loaded from now on note the objects that they make.
function leaks.install()
  registry["lunapark.note"] = note
  for _, name in ipairs { "open", "popen" } do
    local open = io[name]
    rawset(io, name, function(path, ...) return note_file(path, open(path, ...)) end)
  end
  local tmpfile = io.tmpfile
  rawset(io, "tmpfile", function() return note_file("a temporary file", tmpfile()) end)
end

-- ---- what is left ----------------------------------------------------------------------------------------

local function is_live(g)
  return not g.results and not g.err and C.host_serial(g.slot) == g.serial
end

-- Whether an object of the owner may end by itself in a moment.
local function any_runs(owner)
  for g in pairs(owner.gs) do
    if is_live(g) then return true end
  end
  for _, entry in ipairs(owner.things) do
    if entry.kind == "process" and entry.open() then return true end
  end
  return false
end

local function is_allowed(allowed, kind, object)
  for _, a in ipairs(allowed) do
    if a == true or a == kind then return true end
    if type(a) == "table" then
      local inner = rawget(a, "sock") or rawget(a, "g") or rawget(a, "file") or rawget(a, "proc")
      if a == object or inner ~= nil and inner == object then return true end
    elseif a == object then
      return true
    end
  end
  return false
end

--- Lets Gs and processes that are about to end go on. Returns when none is left, or a moment later.
---@param owner lunapark.testing.Owner
---@param briefly? boolean  a few turns only
function leaks.settle(owner, briefly)
  for _ = 1, TURNS do
    if not any_runs(owner) then return end
    lp.yield()
  end
  local give_up = base.now_ns() + GRACE * 1e9
  while not briefly and any_runs(owner) and base.now_ns() < give_up do
    lp.sleep(0.002)
  end
end

local function describe(kind, where, text)
  if kind == "error" then return text end
  return ("%s%s, made at %s"):format(kind, text and " " .. text or "", where)
end

--- The objects of the owner that are left, as lines for the user, and whether Gs are among them.
---@param owner lunapark.testing.Owner
---@param allowed table  kinds and objects that may be
---@return string[] lines
---@return boolean gs
function leaks.left(owner, allowed)
  local lines, gs = {}, false
  for g, kind in pairs(owner.gs) do
    if is_live(g) and not is_allowed(allowed, kind, g) then
      lines[#lines + 1] = describe(kind, g.where, ("%d.%d"):format(g.slot, g.serial))
      gs = true
    end
  end
  for _, entry in ipairs(owner.things) do
    if entry.open() and not is_allowed(allowed, entry.kind, entry.object[1]) then
      lines[#lines + 1] = describe(entry.kind, entry.where, entry.text)
    end
  end
  table.sort(lines)
  for _, g in ipairs(owner.errors) do
    if (g.report_at or g.reported) and not is_allowed(allowed, "error", g) then
      lines[#lines + 1] = ("the error of a G that nobody has joined, started at %s: %s")
        :format(g.where, tostring(g.err))
    end
  end
  return lines, gs
end

--- Keeps the errors that `left` has told out of the log.
---@param owner lunapark.testing.Owner
function leaks.said(owner)
  for _, g in ipairs(owner.errors) do g.report_at = nil end
end

--- Ends the Gs that are left, except allowed ones. Waits until they have ended, for a limited time.
---@param owner lunapark.testing.Owner
---@param allowed table
---@param first? lunapark.G  one more
function leaks.end_gs(owner, allowed, first)
  local gs = { first }
  for g, kind in pairs(owner.gs) do
    if is_live(g) and not is_allowed(allowed, kind, g) then gs[#gs + 1] = g end
  end
  for _, g in ipairs(gs) do C.host_block_doom(g.slot) end
  for _, g in ipairs(gs) do g:join(GRACE) end
end

-- ---- testing.allow_leak ----------------------------------------------------------------------------------

--- Checks the arguments of testing.allow_leak: kinds and objects.
---@param ... any
---@return table allowed
function leaks.allowed(...)
  local n = select("#", ...)
  if n == 0 then return { true } end
  for i = 1, n do
    local a = select(i, ...)
    local t = type(a)
    if t == "string" and not KINDS[a] then
      error(('allow_leak: what must be "G", "timer", "socket", "file", "process", "error" or an object, got "%s"')
        :format(a), 3)
    elseif t ~= "string" and t ~= "table" and t ~= "userdata" then
      error("allow_leak: what must be a kind of leak or an object, got " .. t, 3)
    end
  end
  return { ... }
end

return leaks
