-- Breaks the project on purpose, one line at a time, and says whether a test notices: `make mutate`.
--
--   luajit host/build/mutate.lua [options] [PATTERN...]      -- all entries, or those whose name or file matches
--     --random N    N of the entries, which --seed S chooses
--     --list        shows the entries and runs nothing
--     --stale       names the entries that are stale and runs nothing: part of `make lint-lua`
--
-- mutations/*.lua hold the entries. An entry has a name, a `file`, a `text` that is in the file once, what takes the
-- text's place (`with`), what a user or the program loses by that (`breaks`), and the `test` that must fail: a C test
-- ("runtime/test/test_proc") or a spec ("spec/exec_spec.lua"), of which `filter` chooses blocks. `procs` runs a C test
-- with so many Ps alone. An entry that says why it is `harmless` is not run: no test can notice it.
--
-- Everything happens in a copy of the tree and of its build, in a folder for temporary files. First each test that was
-- chosen runs on the copy as it is: a test that fails there would catch everything, and a filter that chooses no block
-- nothing. Then come the entries: put in, built (what the test needs, no more; a module of lua/ is read from there),
-- tested, taken out. A test gets five times as long as it took unbroken; a test that hangs has noticed, too.
--
-- Exit 1 if something is not caught, does not build, or is not in its file any more. Such an entry is stale: the code
-- has moved on, and a change that moves the code mends the entry.

local FIRST_LIMIT_S, LEAST_LIMIT_S = 300, 30
local HALVES = { "runtime", "host", "lua" }

local build = os.getenv "B" or "build"
local copy -- the folder that holds the copy
local started = os.time()

local function quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

local function remove_copy()
  if copy then os.execute("rm -rf " .. quote(copy)) end
  copy = nil
end

local function fail(message)
  remove_copy()
  io.stderr:write("mutate: ", message, "\n")
  os.exit(2)
end

-- Runs a command of the shell in the copy, its output in `log`. Its exit status; Ctrl-C ends everything.
local function run(command)
  local status = os.execute(("cd %s && { %s\n} >log 2>&1 </dev/null"):format(quote(copy), command))
  if status == true then return 0 end
  if type(status) ~= "number" or status % 256 ~= 0 or status == 130 * 256 then fail "interrupted" end
  return status / 256
end

local function read_file(path)
  local f = io.open(path, "rb")
  if not f then return nil end
  local text = f:read "*a"
  f:close()
  return text
end

local function write_file(path, text)
  local f = assert(io.open(path, "wb"))
  assert(f:write(text))
  f:close()
end

local function say(...)
  io.write(("%5d s  "):format(os.difftime(os.time(), started)), string.format(...), "\n")
  io.flush()
end

-- ---- entries -------------------------------------------------------------------------------------------------

local function read_entries()
  local entries, names = {}, {}
  for _, half in ipairs(HALVES) do
    for _, entry in ipairs(dofile("host/build/mutations/" .. half .. ".lua")) do
      local name = entry[1]
      if names[name] then fail(name .. ": there are two of this name") end
      for _, field in ipairs { "file", "text", "with", "breaks" } do
        if type(entry[field]) ~= "string" then fail(("%s: no `%s`"):format(name, field)) end
      end
      if (entry.test == nil) == (entry.harmless == nil) then fail(name .. ": either `test` or `harmless`") end
      names[name] = true
      entry.name = name
      entries[#entries + 1] = entry
    end
  end
  return entries
end

-- The broken text of the entry's file, and the text as it is. nil: the entry is stale.
local function broken(entry, root)
  local whole = read_file((root or ".") .. "/" .. entry.file)
  local first, last = (whole or ""):find(entry.text, 1, true)
  if not first or whole:find(entry.text, first + 1, true) then return nil end
  return whole:sub(1, first - 1) .. entry.with .. whole:sub(last + 1), whole
end

local function matches(entry, patterns)
  for _, pattern in ipairs(patterns) do
    if entry.name:find(pattern) or entry.file:find(pattern) then return true end
  end
  return #patterns == 0
end

-- `n` of the list at random, in the list's order.
local function sample(list, n, seed)
  math.randomseed(seed)
  local chosen, left = {}, math.min(n, #list)
  for i, entry in ipairs(list) do
    if math.random(#list - i + 1) <= left then
      chosen[#chosen + 1] = entry
      left = left - 1
    end
  end
  return chosen
end

-- ---- tests ---------------------------------------------------------------------------------------------------

local function is_spec(entry)
  return entry.test:find "^spec/" ~= nil
end

local function is_lua(entry)
  return entry.file:find "^lua/" ~= nil
end

local function test_id(entry)
  local id = entry.test
  if entry.filter then id = ("%s, %q"):format(id, entry.filter) end
  if entry.procs then id = ("%s, procs %d"):format(id, entry.procs) end
  return is_lua(entry) and id .. ", lua/" or id
end

local function make(target)
  return run(("env -u MAKEFLAGS -u MFLAGS make --no-print-directory NEED=known WERROR= B=build %s"):format(target)) == 0
end

-- Builds what the entry's test needs. False: it does not build. For an entry of lua/ no more than a look at its file:
-- the binary reads the folder (run_test).
local function build_for(entry)
  if is_lua(entry) then return loadfile(copy .. "/" .. entry.file) ~= nil end
  return make(is_spec(entry) and "all" or "build/" .. entry.test)
end

-- Runs the entry's test in the copy. True if the test passed, and how many seconds it took.
local function run_test(entry, limit_s)
  local began = os.time()
  local command = ("B=build TEST_TIMEOUT=%d SPEC_TIMEOUT=%d SPEC_JOBS=1 LUNAPARK_BLOCK_TIMEOUT=60"):format(
    limit_s, limit_s)
  if is_spec(entry) then
    local args = "--no-keep-going"
    if entry.filter then args = args .. " --filter=" .. entry.filter:gsub(" ", ".") end -- words of the shell
    if is_lua(entry) then command = command .. " LUNAPARK_LUA=$PWD/lua" end
    command = ("%s LUNAPARK=$PWD/build/lunapark SPECS=%s SPEC_ARGS=%s host/build/run_tests.sh"):format(
      command, quote(entry.test), quote(args))
  else
    if entry.procs then command = command .. " RT_TEST_PROCS=" .. entry.procs end
    command = command .. " host/build/run_tests.sh build/" .. entry.test
  end
  local ok = run("env -u LUNAPARK -u LUNAPARK_LUA " .. command) == 0
  return ok, os.difftime(os.time(), began)
end

-- How many tests passed in the last run.
local function passed()
  return tonumber((read_file(copy .. "/log") or ""):match "(%d+) passed, %d+ failed\n$" or 0)
end

local function show_log()
  local text = read_file(copy .. "/log") or ""
  io.write(#text > 4000 and "..." or "", text:sub(-4000), "\n")
end

-- Runs each test of `entries` once, unbroken. How long each may take, by test_id; false: the test is no use.
local function try_unbroken(entries)
  local limits = {}
  for _, entry in ipairs(entries) do
    local id = test_id(entry)
    if limits[id] == nil then
      if not build_for(entry) then
        show_log()
        fail "the tree does not build"
      end
      local ok, took_s = run_test(entry, FIRST_LIMIT_S)
      limits[id] = ok and passed() > 0 and math.max(LEAST_LIMIT_S, 5 * took_s)
      say("unbroken: %s%s (%d s)", id, limits[id] and "" or " FAILS, or runs nothing", took_s)
      if not limits[id] then show_log() end
    end
  end
  return limits
end

-- ---- the work ------------------------------------------------------------------------------------------------

-- Without .git and without the builds of other flavours.
local function copy_tree()
  local pipe = io.popen "mktemp -d -t lunapark-mutate.XXXXXX"
  copy = pipe:read "*l"
  pipe:close()
  if not copy then fail "no folder for temporary files" end
  local parts = "flags files gen host runtime llhttp luajit liblunapark_rt.a lunapark"
  local tree = ("tar -c --exclude=./.git --exclude=./build . | tar -x -C %s"):format(quote(copy))
  local built = ("mkdir %s/build && for p in %s; do [ ! -e %s/$p ] || cp -a %s/$p %s/build/ || exit 1; done"):format(
    quote(copy), parts, quote(build), quote(build), quote(copy))
  local luajit = ("[ -e %s/build/luajit ] || cp -a build/luajit %s/build/"):format(quote(copy), quote(copy))
  local status = os.execute(("set -e; %s; %s; %s"):format(tree, built, luajit))
  if status ~= 0 and status ~= true then fail "the tree cannot be copied" end
end

-- What became of the entry, in words, and whether that is well.
local function judge(entry, limit_s)
  if not limit_s then return "its test fails unbroken", false end
  local text, whole = broken(entry, copy)
  local path = copy .. "/" .. entry.file
  write_file(path, text)
  local verdict, well
  if not build_for(entry) then
    show_log()
    verdict, well = "DOES NOT BUILD", false
  else
    local ok, took_s = run_test(entry, limit_s)
    verdict, well = ("%s by %s (%d s)"):format(ok and "NOT CAUGHT" or "caught", test_id(entry), took_s), not ok
  end
  write_file(path, whole)
  return verdict, well
end

local function list(entries)
  for _, entry in ipairs(entries) do
    print(("%-34s %s\n    %s: %s\n    %s"):format(entry.name, entry.file, broken(entry) and "breaks" or "STALE",
      entry.breaks, entry.test and test_id(entry) or "harmless: " .. entry.harmless))
  end
end

local function parse(args)
  local options, i = { patterns = {} }, 1
  while args[i] do
    local option = args[i]:match "^%-%-(%a+)$"
    if option == "list" or option == "stale" then
      options[option] = true
    elseif option == "random" or option == "seed" then
      i = i + 1
      options[option] = tonumber(args[i]) or fail("--" .. option .. ": a number, please")
    elseif option then
      fail("unknown option --" .. option)
    else
      options.patterns[#options.patterns + 1] = args[i]
    end
    i = i + 1
  end
  return options
end

local function main(args)
  local options = parse(args)
  local chosen, to_run, bad = {}, {}, {}
  for _, entry in ipairs(read_entries()) do
    if matches(entry, options.patterns) then chosen[#chosen + 1] = entry end
  end
  if options.random then chosen = sample(chosen, options.random, options.seed or os.time()) end
  if #chosen == 0 then fail "no such entry" end
  if options.list then return list(chosen) end
  for _, entry in ipairs(chosen) do
    if not broken(entry) then
      say("%s: STALE, its text is not in %s exactly once", entry.name, entry.file)
      bad[#bad + 1] = entry.name
    elseif entry.harmless then
      say("%s: harmless: %s", entry.name, entry.harmless)
    else
      to_run[#to_run + 1] = entry
    end
  end
  if options.stale then os.exit(#bad == 0 and 0 or 1) end
  copy_tree()
  local limits = try_unbroken(to_run)
  for i, entry in ipairs(to_run) do
    local verdict, well = judge(entry, limits[test_id(entry)])
    say("[%d/%d] %s: %s", i, #to_run, entry.name, verdict)
    if not well then bad[#bad + 1] = entry.name end
  end
  remove_copy()
  say("%d entries, %d not as they should be%s", #chosen, #bad, #bad > 0 and ": " .. table.concat(bad, ", ") or "")
  os.exit(#bad == 0 and 0 or 1)
end

main { ... }
