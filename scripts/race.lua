-- A lost update: two Gs add to one number, and each waits between reading and writing it. In order it works by luck;
-- try: lunapark test --rounds 50 FILE, where FILE is a spec that asserts the balance, as in spec/seed_spec.lua.
local lp = require "lunapark"

local race = {}

--- Two Gs pay in 10 times each, and write a journal: what the balance is in the end. It should be 20.
---@return integer
function race.run()
  local balance = 0
  local journal = lp.chan(20) -- with room for all, so that no send waits; but each of them might
  local function pay_in()
    for i = 1, 10 do
      local before = balance
      journal:send(i)
      balance = before + 1
    end
  end
  lp.scope(function(s)
    s:go(pay_in)
    s:go(pay_in)
  end)
  return balance
end

--- The same without the race: nothing may wait between reading and writing, or a mutex is held meanwhile.
---@return integer
function race.run_locked()
  local balance = 0
  local journal, mutex = lp.chan(20), lp.mutex()
  local function pay_in()
    for i = 1, 10 do
      mutex:with(function()
        local before = balance
        journal:send(i)
        balance = before + 1
      end)
    end
  end
  lp.scope(function(s)
    s:go(pay_in)
    s:go(pay_in)
  end)
  return balance
end

-- `lunapark run scripts/race.lua`
if arg and arg[0] and arg[0]:find "race%.lua$" then
  print(("unlocked %d, locked %d, of 20"):format(race.run(), race.run_locked()))
end

return race
