--- Flame graphs of folded stacks. Lines "outermost;...;innermost count" become a picture: each function is as wide as
--- its share, stands on its caller, and tells its name and share under the mouse.

local flamegraph = {}

local WIDTH, ROW, HEAD, CHAR = 1200, 18, 30, 6.6 -- pixels; CHAR: of a letter
local LEAST = 0.2 -- narrower ones are not drawn

-- By what a frame is: compiled Lua, a route, Lua, what is between them ("(Lua)", "..."); native code.
local function colour_of(name)
  if name:find "^trace at " then return "#8fc26f" end
  if name:find "^%u+ /" then return "#b9a3e3" end
  if name:find ":%d+$" then return "#f2a65a" end
  if name:find "^[(.]" then return "#d9d9d9" end
  return "#8ab6d6"
end

local entities = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }

-- Names may hold bytes that are no UTF-8, which no XML may.
local function escape(s)
  return (s:gsub("[\128-\255%c]", "?"):gsub('[&<>"]', entities))
end

local function new_node(name)
  return { name = name, n = 0, children = {}, by_name = {} }
end

-- The tree, and how deep it is.
local function parse(folded)
  local root, depth = new_node "all", 0
  for line in folded:gmatch "[^\n]+" do
    local stack, count = line:match "^(.*) (%d+)$"
    local node, at = root, 0
    root.n = root.n + tonumber(count)
    for name in stack:gmatch "[^;]+" do
      local child = node.by_name[name]
      if not child then
        child = new_node(name)
        node.by_name[name] = child
        node.children[#node.children + 1] = child
      end
      child.n = child.n + tonumber(count)
      node, at = child, at + 1
    end
    if at > depth then depth = at end
  end
  return root, depth
end

local function by_name(a, b)
  return a.name < b.name
end

-- Appends the frames of node, whose left edge is x, and of what it called. scale: pixels for a sample.
local function draw(out, node, x, y, scale, total)
  local width = node.n * scale
  if width < LEAST then return end
  local room = math.floor((width - 6) / CHAR)
  local label = #node.name <= room and node.name or room > 3 and node.name:sub(1, room - 2) .. ".." or ""
  out[#out + 1] = ('<g><title>%s (%d samples, %.1f %%)</title>'):format(escape(node.name), node.n, 100 * node.n / total)
  out[#out + 1] = ('<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>'):format(x, y, width, ROW - 1,
    colour_of(node.name))
  if label ~= "" then out[#out + 1] = ('<text x="%.1f" y="%d">%s</text>'):format(x + 3, y + 13, escape(label)) end
  out[#out + 1] = "</g>\n"
  table.sort(node.children, by_name)
  for _, child in ipairs(node.children) do
    draw(out, child, x, y - ROW, scale, total)
    x = x + child.n * scale
  end
end

--- The picture.
---@param folded string  lines of stacks
---@return string svg
function flamegraph.svg(folded)
  local root, depth = parse(folded)
  local height = HEAD + (depth + 1) * ROW + 10
  local out = {
    ('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" '):format(WIDTH, height, WIDTH,
      height), 'font-family="monospace" font-size="11">\n<rect width="100%" height="100%" fill="#ffffff"/>\n',
    ('<text x="10" y="20">CPU time, %d samples</text>\n'):format(root.n),
  }
  if root.n > 0 then draw(out, root, 10, height - ROW - 5, (WIDTH - 20) / root.n, root.n) end
  out[#out + 1] = "</svg>\n"
  return table.concat(out)
end

return flamegraph
