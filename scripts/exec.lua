-- build/lunapark run scripts/exec.lua                            five programs at once: a line says how each ended
-- build/lunapark run scripts/exec.lua date "sleep 9" "exit 3"    these command lines, each for 2 s at most

local exec = require "lunapark.exec"
local lp = require "lunapark"

-- One after the other they would take 4 seconds and more.
local programs = {
  { "echo", "no shell", "$HOME" },
  { "sort", stdin = "pear\napple\n" },
  { "sh", "-c", "sleep 0.2; echo to stderr >&2; exit 3" },
  { "sleep", "9" },
  { "no-such-program" },
}
if arg[1] then programs = arg end

local function first_line(text)
  return (text or ""):match "^[^\n]*"
end

local function run(program)
  local shell = type(program) == "string"
  local r, err, partial = exec.run(program, { shell = shell, stdin = not shell and program.stdin or nil, timeout = 2 })
  if not r then return err, partial end
  return r.code and "exit " .. r.code or "ended by " .. r.signal, r
end

local start, gs = lp.now(), {}
for i, program in ipairs(programs) do
  gs[i] = lp.go(run, program)
end
for i, program in ipairs(programs) do
  local how, r = gs[i]:join()
  local name = type(program) == "string" and program or table.concat(program, " ")
  local out = first_line(r and r.stdout .. r.stderr)
  print(("%-42s %s%s"):format(name, how, out ~= "" and ": " .. out or ""))
end

-- A program to talk with: what spawn gives are connections, so reads and writes wait for it.
local cat = assert(exec.spawn({ "cat" }, { timeout = 5 }))
for _, word in ipairs { "one", "two" } do
  cat.stdin:write(word .. "\n")
  assert(cat.stdout:read_line() == word)
end
cat.stdin:close()
print(("%-42s exit %d, after two answers"):format("cat", assert(cat:wait()).code))
print(("all in %.1f s"):format(lp.now() - start))
