--- Counters that count in each VM for itself, as `lunapark check` finds them in a file:
--
--   local hits = 0
--   app:get("/", function() hits = hits + 1 return hits end)
--
-- A server has several VMs, each with `hits` of its own: clients are told 1, 1, 2, 3, 2. lunapark.shared counts for
-- all.
--
-- The text is read as tokens (check_calls.lua). What is found is `NAME = NAME + ...` and `NAME = NAME - ...`, also of a
-- field of NAME, in a function, if NAME is a local of the file outside of all functions, and no other local and no
-- argument in the file has the name. A line with the comment `lunapark: ignore` is left alone.

local counters = {}

local opens = { ["function"] = true, ["do"] = true, ["if"] = true, ["repeat"] = true }
local closes = { ["end"] = true, ["until"] = true }
local none = {}

-- The name with its fields that begins at list[i], and what comes next.
local function chain(list, i)
  local name = list[i].value
  i = i + 1
  while (list[i] or none).kind == "." and (list[i + 1] or none).kind == "name" do
    name, i = name .. "." .. list[i + 1].value, i + 2
  end
  return name, i
end

-- Calls fn for the names from list[i] on, which commas separate.
local function each_name(list, i, fn)
  while (list[i] or none).kind == "name" do
    fn(list[i].value)
    if (list[i + 1] or none).kind ~= "," then return end
    i = i + 2
  end
end

-- What is declared at list[i], if anything is.
local function declared(list, i, fn)
  local word, following = list[i].value, list[i + 1] or none
  if word == "for" or word == "local" and following.value ~= "function" then
    each_name(list, i + 1, fn)
  elseif word == "local" then
    each_name(list, i + 2, fn)
  elseif word == "function" then
    while list[i] and list[i].kind ~= "(" do i = i + 1 end
    each_name(list, i + 1, fn)
  end
end

-- Whether a name that begins at list[i] is made larger or smaller there.
local function counts(list, i)
  local name, at = chain(list, i)
  if (list[at] or none).kind ~= "=" or (list[at + 1] or none).kind ~= "name" then return false end
  local again, behind = chain(list, at + 1)
  local sign = (list[behind] or none).kind
  return again == name and (sign == "+" or sign == "-"), name
end

--- The counters in a file.
---@param list table[]    its tokens, of check_calls.scan
---@param ignored table<integer, true>  lines that are left alone
---@return lunapark.CheckFinding[]
function counters.find(list, ignored)
  local blocks, functions = {}, 0 -- those that are open; how many of them are functions
  local once = {} -- by name: whether it is declared once, outside of functions and blocks
  local candidates, found = {}, {}
  for i, t in ipairs(list) do
    local before = (list[i - 1] or none).kind
    if t.kind == "name" and before ~= "." and before ~= ":" then
      local is_outside = #blocks == 0 and t.value == "local"
      declared(list, i, function(name) once[name] = once[name] == nil and is_outside end)
      if opens[t.value] then
        blocks[#blocks + 1] = t.value
        functions = functions + (t.value == "function" and 1 or 0)
      elseif closes[t.value] then
        functions = functions - (table.remove(blocks) == "function" and 1 or 0)
      elseif functions > 0 and not ignored[t.line] and before ~= "{" and before ~= "," then -- no field of a table
        local ok, name = counts(list, i)
        if ok then candidates[#candidates + 1] = { token = t, name = name } end
      end
    end
  end
  for _, c in ipairs(candidates) do
    if once[c.token.value] then
      found[#found + 1] = {
        line = c.token.line, column = c.token.column,
        message = ("(per VM) %s counts in each VM for itself: use lunapark.shared to count for all"):format(c.name),
      }
    end
  end
  return found
end

return counters
