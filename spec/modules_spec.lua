-- Our Lua modules and their folders: a folder below lua/lunapark is a room, and requires go one way between rooms.

local exec = require "lunapark.exec"
local helper = require "spec.helper"

local BASE = "lua/lunapark/"

local function paths()
  local list = {}
  for path in assert(exec.run { "find", BASE, "-name", "*.lua" }).stdout:gmatch "[^\n]+" do
    list[#list + 1] = path:sub(#BASE + 1)
  end
  table.sort(list)
  return list
end

-- The room of a path or of a module's name behind "lunapark.": its folder, or the file itself.
local function room_of(name) return (name:gsub("%.lua$", ""):match "^[%w_]+") end

-- By room: the rooms that its files require, each with the file that does.
local function edges()
  local from = {}
  for _, path in ipairs(paths()) do
    local room = room_of(path)
    from[room] = from[room] or {}
    for name in helper.text_of(BASE .. path):gmatch "require%s*%(?%s*[\"']lunapark%.([%w_.]+)" do
      local to = room_of(name)
      -- These two are no files here: the host's functions, and the declarations of its headers.
      if name ~= "core" and to ~= "cdef" and to ~= room then from[room][to] = path end
    end
  end
  return from
end

-- A way from room back to it, as text; nil: there is none.
local function circle(from, room, at, seen)
  for to, path in pairs(from[at] or {}) do
    if to == room then return path end
    if not seen[to] then
      seen[to] = true
      local rest = circle(from, room, to, seen)
      if rest then return path .. ", " .. rest end
    end
  end
end

describe("modules of ours", function()
  it("require each other without a circle between folders", function()
    local from, n = edges(), 0
    for room, to in pairs(from) do
      assert.is_nil(circle(from, room, room, {}), room)
      for _ in pairs(to) do n = n + 1 end
    end
    assert.is_true(n > 20, n) -- the requires were found
    assert.equal("a.lua, b.lua", circle({ x = { y = "a.lua" }, y = { x = "b.lua" } }, "x", "x", {}))
  end)

  it("are named by their paths, in the binary and in its messages", function()
    for _, path in ipairs(paths()) do
      local name = ("lunapark." .. path:gsub("%.lua$", ""):gsub("/", ".")):gsub("%.init$", "")
      local loader = package.loaders[2](name)
      assert.equal("function", type(loader), tostring(loader))
      assert.equal("@lunapark/" .. path, debug.getinfo(loader, "S").source)
    end
    assert.matches("no module 'lunapark.none' in lunapark", package.loaders[2] "lunapark.none")
  end)
end)
