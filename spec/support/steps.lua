--- What text functions cost, in steps: a matcher for Lua patterns that does what string.find does and counts.
--
-- A step is one look of the matcher at a byte or at an item of the pattern. string.find is C, so debug hooks do not see
-- into it, and a clock would measure the machine. Steps are the same in every run.
--
--   steps.of(pattern, text, all)   what one search costs; all: what going through all matches costs (gmatch, gsub)
--   steps.worst(pattern, all)      the text, made from the pattern's own bytes, whose cost grows most when doubled
--   steps.count(fn)                what fn costs whose modules came from steps.load: searches, bytes that are copied

-- None of these as methods here: `count` puts its own in their place.
local byte, char, find, rep, sub = string.byte, string.char, string.find, string.rep, string.sub
local real_string, real_concat = string, table.concat

local steps = {}

-- ---- patterns as lists of items -----------------------------------------------------------------------------

local classes = {}
for letter, name in pairs {
  a = "%a", c = "%c", d = "%d", l = "%l", p = "%p", s = "%s", u = "%u", w = "%w", x = "%x", z = "%z",
} do
  local set, rest = {}, {}
  for b = 0, 255 do
    local is = find(char(b), name) ~= nil
    set[b], rest[b] = is, not is
  end
  classes[letter], classes[letter:upper()] = set, rest
end

local function only(b)
  local set = {}
  for i = 0, 255 do set[i] = i == b end
  return set
end

-- The set between brackets that begins behind at: it, and where what follows begins.
local function parse_set(pattern, at)
  local set, inverted = {}, sub(pattern, at, at) == "^"
  for b = 0, 255 do set[b] = false end
  if inverted then at = at + 1 end
  local first = true
  while first or sub(pattern, at, at) ~= "]" do
    first = false
    local c = sub(pattern, at, at)
    assert(c ~= "", "a set without an end")
    if c == "%" then
      local class = sub(pattern, at + 1, at + 1)
      for b = 0, 255 do set[b] = set[b] or (classes[class] or only(byte(class)))[b] end
      at = at + 2
    elseif sub(pattern, at + 1, at + 1) == "-" and sub(pattern, at + 2, at + 2) ~= "]" then
      for b = byte(c), byte(pattern, at + 2) do set[b] = true end
      at = at + 3
    else
      set[byte(c)] = true
      at = at + 1
    end
  end
  if inverted then
    for b = 0, 255 do set[b] = not set[b] end
  end
  return set, at + 1
end

local anything = {}
for b = 0, 255 do anything[b] = true end

-- { set = , rep = "" "?" "*" "+" "-" } or { stop = true }; and whether it is bound to the beginning.
local function parse(pattern)
  local items, at = {}, 1
  local anchored = sub(pattern, 1, 1) == "^"
  if anchored then at = 2 end
  while at <= #pattern do
    local c = sub(pattern, at, at)
    if c == "(" or c == ")" then
      at = at + 1 -- captures cost nothing
    elseif c == "$" and at == #pattern then
      items[#items + 1] = { stop = true }
      at = at + 1
    else
      local set
      if c == "%" then
        local class = sub(pattern, at + 1, at + 1)
        assert(not find(class, "[bf0-9]"), "no item for %" .. class .. " here")
        set, at = classes[class] or only(byte(class)), at + 2
      elseif c == "[" then
        set, at = parse_set(pattern, at + 1)
      else
        set, at = c == "." and anything or only(byte(c)), at + 1
      end
      local suffix = sub(pattern, at, at)
      if find(suffix, "^[*+?-]$") then at = at + 1 else suffix = "" end
      items[#items + 1] = { set = set, rep = suffix }
    end
  end
  return items, anchored
end

-- ---- matching -----------------------------------------------------------------------------------------------

local spent

local match

-- As many as there are, then fewer.
local function greedy(items, k, s, i)
  local item, n = items[k], 0
  while i + n <= #s and item.set[byte(s, i + n)] do n = n + 1 end
  spent = spent + n
  for take = n, item.rep == "+" and 1 or 0, -1 do
    local stop = match(items, k + 1, s, i + take)
    if stop then return stop end
  end
end

-- As few as will do.
local function lazy(items, k, s, i)
  while true do
    local stop = match(items, k + 1, s, i)
    if stop then return stop end
    if i > #s or not items[k].set[byte(s, i)] then return nil end
    i, spent = i + 1, spent + 1
  end
end

-- Where a match of the items from k on ends that begins at i.
function match(items, k, s, i)
  spent = spent + 1
  local item = items[k]
  if not item then return i end
  if item.stop then return i > #s and i or nil end
  if item.rep == "*" or item.rep == "+" then return greedy(items, k, s, i) end
  if item.rep == "-" then return lazy(items, k, s, i) end
  if i <= #s and item.set[byte(s, i)] then
    local stop = match(items, k + 1, s, i + 1)
    if stop or item.rep == "" then return stop end
  end
  if item.rep == "?" then return match(items, k + 1, s, i) end
end

local function search(items, anchored, s, from, all)
  spent = 0
  local i = from
  while i <= #s + 1 do
    local stop = match(items, 1, s, i)
    if anchored or stop and not all then break end
    i = stop and stop > i and stop or i + 1
  end
  return spent
end

--- The steps that a search takes.
---@param pattern string
---@param s string
---@param all boolean
---@return integer
function steps.of(pattern, s, all)
  local items, anchored = parse(pattern)
  return search(items, anchored, s, 1, all)
end

-- ---- texts that are hard on a pattern -----------------------------------------------------------------------

local NICE = "a1 ;=/:-\n\"'<.,%\t_A"

-- A byte of the set, one that can be read if there is one.
local function example(set)
  for i = 1, #NICE do
    if set[byte(NICE, i)] then return sub(NICE, i, i) end
  end
  for b = 0, 255 do
    if set[b] then return char(b) end
  end
end

-- One byte of each item; and one that none of them takes, if there is such.
local function bytes_of(items)
  local list, seen = {}, {}
  local function add(c)
    if c and not seen[c] then
      seen[c] = true
      list[#list + 1] = c
    end
  end
  local none = {}
  for b = 0, 255 do none[b] = true end
  for _, item in ipairs(items) do
    if item.set then
      add(example(item.set))
      for b = 0, 255 do none[b] = none[b] and not item.set[b] end
    end
  end
  add(example(none) or "\1")
  return list
end

-- What the first items take, one byte each: "", then longer ones.
local function beginnings(items)
  local list, text = { "" }, ""
  for _, item in ipairs(items) do
    if item.set then
      text = text .. example(item.set)
      list[#list + 1] = text
    end
  end
  return list
end

-- What is repeated: single bytes, pairs, and what three items in a row take.
local function pumps_of(items, bytes)
  local list = {}
  for _, a in ipairs(bytes) do list[#list + 1] = a end
  for _, a in ipairs(bytes) do
    for _, b in ipairs(bytes) do
      if a ~= b then list[#list + 1] = a .. b end
    end
  end
  for i = 1, #items - 2 do
    local a, b, c = items[i].set, items[i + 1].set, items[i + 2].set
    if a and b and c then list[#list + 1] = example(a) .. example(b) .. example(c) end
  end
  return list
end

local N = 48

--- How much the cost grows, at worst, when a text gets twice as long: 2 where it is linear, 4 where it is quadratic.
---@param pattern string
---@param all boolean
---@return number growth
---@return string text  the one whose cost grows so
function steps.worst(pattern, all)
  local items, anchored = parse(pattern)
  local bytes = bytes_of(items)
  local most, text = 0, ""
  for _, pump in ipairs(pumps_of(items, bytes)) do
    for _, beginning in ipairs(beginnings(items)) do
      for i = 0, #pump == 1 and #bytes or 1 do
        local ending = i == 0 and "" or bytes[#bytes + 1 - i]
        local once, twice = beginning .. rep(pump, N) .. ending, beginning .. rep(pump, 2 * N) .. ending
        local growth = search(items, anchored, twice, 1, all) / search(items, anchored, once, 1, all)
        if growth > most then
          most, text = growth, once
        end
      end
    end
  end
  return most, text
end

-- ---- functions ----------------------------------------------------------------------------------------------

local total = 0

local function pay(n)
  total = total + n
end

local parsed = setmetatable({}, {
  __index = function(t, pattern)
    t[pattern] = { parse(pattern) }
    return t[pattern]
  end,
})

local function pay_search(s, pattern, from, all)
  local p = parsed[pattern]
  pay(search(p[1], p[2], s, from, all))
end

-- The string library, with a price for each call.
local priced = setmetatable({}, { __index = real_string })

local function priced_search(name, all)
  local real = real_string[name]
  priced[name] = function(s, pattern, third, plain)
    local from = name ~= "gsub" and type(third) == "number" and third or 1
    if plain then
      local at = real(s, pattern, from, true)
      pay((at or #s) - from + #pattern + 1)
    else
      pay_search(s, pattern, from, all)
    end
    return real(s, pattern, third, plain)
  end
end

priced_search("find", false)
priced_search("match", false)
priced_search("gmatch", true)
priced_search("gsub", true)

for _, name in ipairs { "sub", "lower", "upper", "rep", "format", "char" } do
  local real = real_string[name]
  priced[name] = function(...)
    local result = real(...)
    pay(#result + 1)
    return result
  end
end

function priced.byte(s, i, j)
  pay(j and j > i and j - i or 1)
  return byte(s, i, j)
end

local function priced_concat(list, ...)
  local result = real_concat(list, ...)
  pay(#result + #list)
  return result
end

--- Loads a module of ours anew, so that what it does with text is counted; it gets others as they are, but for
--- `with`, which are counted, too.
---@param name string
---@param with? table<string, any>
---@return any
function steps.load(name, with)
  local chunk = assert(loadfile("lua/" .. name:gsub("%.", "/") .. ".lua"))
  local env = setmetatable({
    string = priced, table = setmetatable({ concat = priced_concat }, { __index = table }),
    require = function(other) return with and with[other] or require(other) end,
  }, { __index = _G })
  return setfenv(chunk, env)(name)
end

--- The steps that fn takes in such modules. It must not wait.
---@param fn function
---@return integer
function steps.count(fn)
  local mt = getmetatable ""
  total, mt.__index = 0, priced
  local ok, err = pcall(fn)
  mt.__index = real_string
  if not ok then error(err, 0) end
  return total
end

return steps
