--- "did you mean ...": the name that is nearest to a name that does not exist.

local byte, min = string.byte, math.min

local near = {}

-- How many letters have to be added, removed, changed or swapped with their neighbour to make b of a.
local function distance(a, b)
  local before, last = nil, {}
  for j = 0, #b do last[j] = j end
  for i = 1, #a do
    local row = { [0] = i }
    for j = 1, #b do
      local cost = byte(a, i) == byte(b, j) and 0 or 1
      local d = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + cost)
      if before and byte(a, i) == byte(b, j - 1) and byte(a, i - 1) == byte(b, j) then d = min(d, before[j - 2] + 1) end
      row[j] = d
    end
    before, last = last, row
  end
  return last[#b]
end

--- The nearest of the names, if it is near enough to be a slip: one letter in four, at least one.
---@param name string
---@param names table<string, any>  by name
---@return string|nil
function near.of(name, names)
  if #name > 40 then return nil end
  local plain, best, best_d = name:lower():gsub("[_-]", ""), nil, nil
  for known in pairs(names) do
    local d = distance(plain, (known:lower():gsub("[_-]", "")))
    if d <= math.max(1, math.floor(#known / 4)) and (not best_d or d < best_d or d == best_d and known < best) then
      best, best_d = known, d
    end
  end
  return best
end

--- The end of an __index function, for a key that is no method and no field. It answers nil, as for a table, unless the
--- key is a slip for one of them: then it raises at the reader of the field.
---@param what string      what a user calls such a value, "res"
---@param tables table[]   the names that there are, as keys
---@param own table<string, true>     fields that may be nil
---@param meant table<string, string> what to write in place of a name that people bring from elsewhere
---@param shortest? integer  names with fewer letters, 5 without it, are near to too many others
---@return fun(self: any, key: any): nil
function near.index(what, tables, own, meant, shortest)
  local known = {}
  local function words_of(key)
    if type(key) ~= "string" or own[key] then return false end
    if meant[key] then return ("%s has no %s: write %s"):format(what, key, meant[key]) end
    local names = {}
    for _, t in ipairs(tables) do
      for name in pairs(t) do names[name] = true end
    end
    local found = #key >= (shortest or 5) and near.of(key, names)
    return found and ("%s has no %s: did you mean %s?"):format(what, key, found) or false
  end
  return function(_, key)
    local words = known[key]
    if words == nil then
      words = words_of(key)
      if key ~= nil then known[key] = words end
    end
    if words then error(words, 2) end
    return nil
  end
end

--- The words for a message: ": did you mean x?", or "".
---@param name any
---@param names table<string, any>
---@return string
function near.hint(name, names)
  local found = type(name) == "string" and near.of(name, names)
  return found and (": did you mean %s?"):format(found) or ""
end

--- Raises for names that are not known, for tables of options.
---@param opts table
---@param known table<string, any>
---@param what string    the function's name
---@param level integer  as for an `error` in place of this call
function near.check_options(opts, known, what, level)
  if type(opts) ~= "table" then error(("%s: opts must be a table, got %s"):format(what, type(opts)), level + 1) end
  for name in pairs(opts) do
    if known[name] == nil then
      error(("%s: unknown option %s%s"):format(what, tostring(name), near.hint(name, known)), level + 1)
    end
  end
end

return near
