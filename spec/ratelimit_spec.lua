local lp = require "lunapark"
local shared = require "lunapark.shared"
local testing = require "lunapark.testing"
local child = require "spec.support.child"

local HOUR = 3600
-- Sanitizer builds are slow.
local SLOW = (child.has_asan or child.has_tsan) and 50 or 1

describe("scripts/ratelimit.lua", function()
  local app = dofile "scripts/ratelimit.lua"

  before_each(function() shared.dict("ratelimit"):flush() end)

  -- One request through the middleware: 200, or 429 and Retry-After.
  local function ask(address)
    local res = { headers = {} }
    local status = app.limit({ ip = address }, res, function() return 200 end)
    return status, res.headers["Retry-After"]
  end

  it("serves five at once, then answers 429 and says when to come back", function()
    local client = testing.serve(app)
    for _ = 1, 5 do
      assert.equal(200, client:get("/").status)
    end
    local r = client:get "/"
    assert.equal(429, r.status)
    assert.equal("1", r.headers["retry-after"])
    client:close()
  end)

  it("lets a client that comes back when it is told to always in", function()
    testing.virtual(function()
      for _ = 1, 5 do
        assert.equal(200, (ask("10.0.0.1")))
      end
      for _ = 2, 100 do
        local status, after = ask("10.0.0.1")
        assert.equal(429, status)
        assert.equal(200, (ask("10.0.0.2"))) -- others do not suffer
        lp.sleep(tonumber(after))
        assert.equal(200, (ask("10.0.0.1")))
      end
    end)
  end)

  it("holds for an hour of traffic, and forgets who is gone, in less than 100 ms of CPU", function()
    local best = math.huge
    for _ = 1, 10 do -- others may share the CPU's caches meanwhile
      shared.dict("ratelimit"):flush()
      local begin = os.clock()
      local served, refused = {}, {}
      testing.virtual(function()
        local start = lp.now()
        for i = 1, 10 do
          served[i], refused[i] = 0, 0
          lp.go(function() -- asks every i / 2 seconds, so the first one asks too often
            local address = "10.0.0." .. i
            while lp.now() - start < HOUR - 1e-6 do
              if ask(address) == 200 then
                served[i] = served[i] + 1
              else
                refused[i] = refused[i] + 1
              end
              lp.sleep(i / 2)
            end
          end)
        end
        lp.sleep(HOUR + 10)
        assert.equal(HOUR + 10, math.floor(lp.now() - start + 0.5))
        assert.equal(nil, shared.dict("ratelimit"):get "10.0.0.1")
      end)
      best = math.min(best, os.clock() - begin)
      for i = 1, 10 do
        local allowed = math.min(HOUR * 2 / i, HOUR + 4)
        assert.is_true(math.abs(served[i] - allowed) <= 1, i .. ": " .. served[i])
        assert.is_true(math.abs(served[i] + refused[i] - HOUR * 2 / i) <= 1)
      end
      if best < 0.1 then break end
    end
    assert.is_true(best < 0.1 * SLOW, "it took " .. best .. " s of CPU")
  end)

  it("has limited memory", function()
    testing.virtual(function()
      for i = 1, 20000 do
        assert.equal(200, (ask(("10.%d.%d.1"):format(i / 200, i % 200))))
      end
      local stats = shared.dict("ratelimit"):stats()
      assert.is_true(stats.bytes <= 2 ^ 20)
      assert.is_true(stats.evictions > 0)
    end)
  end)
end)
