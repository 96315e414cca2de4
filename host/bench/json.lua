-- JSON beside lua-cjson: CPU time of both, and the ratio, for three kinds of documents: messages (many names, texts of
-- several languages), a catalogue (small objects, whole numbers, empty arrays), coordinates (fractions).
--
--     lunapark run host/bench/json.lua [ROUNDS]

local json = require "lunapark.json"
local cjson = require("cjson").new()

local rounds = tonumber((...)) or 15
math.randomseed(1)
local random = math.random

local words = { "hello", "世界のみなさん", "überall", "a \"quoted\" word", "line\nbreak", "http://example.com/a/b?c=d",
  "lorem ipsum dolor",
  "Добрый день", "of", "the", "@someone", "#tag" }

local function text(n)
  local out = {}
  for i = 1, n do out[i] = words[random(#words)] end
  return table.concat(out, " ")
end

local function user()
  local id = random(1, 2 ^ 31)
  return {
    id = id, id_str = tostring(id), name = text(1), screen_name = "user" .. id, location = text(1),
    description = text(8), url = json.null, protected = false, followers_count = random(5000),
    friends_count = random(500),
    listed_count = random(9), created_at = "Sat Aug 23 10:27:58 +0000 2008", favourites_count = random(9999),
    utc_offset = json.null, time_zone = json.null, geo_enabled = false, verified = false, statuses_count = random(9999),
    lang = "ja", contributors_enabled = false, is_translator = false, profile_background_color = "C0DEED",
    profile_image_url = "http://pbs.example.com/profile_images/" .. id .. "/normal.jpeg", following = true,
    entities = { description = { urls = { {} } } },
  }
end

local function messages()
  local list = {}
  for i = 1, 100 do
    list[i] = {
      metadata = { result_type = "recent", iso_language_code = "ja" }, created_at = "Sun Aug 31 00:29:15 +0000 2014",
      id = 505874924095815681, text = text(20), source = "<a href=\"http://example.com\">web</a>", truncated = false,
      in_reply_to_status_id = json.null, geo = json.null, coordinates = json.null, user = user(),
      retweet_count = random(50),
      favorite_count = 0, favorited = false, retweeted = false, lang = "ja",
      entities = {
        hashtags = { { text = text(1), indices = { 3, 20 } } },
        user_mentions = { { screen_name = "x", name = text(2), id = random(1e9), indices = { 3, 19 } } },
      },
    }
  end
  return { statuses = list, search_metadata = { completed_in = 0.087, count = 100 } }
end

local function catalogue()
  local events, performances = {}, {}
  for i = 1, 180 do
    events[tostring(138586340 + i)] = {
      description = json.null, id = 138586340 + i, logo = json.null, name = text(3),
      subTopicIds = { 337184269, 337184283 },
      subjectCode = json.null, subtitle = json.null, topicIds = { 324846099, 107888604 },
    }
  end
  for i = 1, 240 do
    local areas, prices = {}, {}
    for k = 1, 12 do areas[k] = { areaId = 205705993 + k, blockIds = cjson.null } end
    for k = 1, 4 do
      prices[k] = { amount = 90250 + k * 1000, audienceSubCategoryId = 337100890, seatCategoryId = 338937295 + k }
    end
    performances[i] = {
      eventId = 138586341 + i % 180, id = 339887544 + i, logo = json.null, name = json.null, prices = prices,
      seatCategories = { { areas = areas, seatCategoryId = 338937295 } }, seatMapImage = json.null,
      start = 1372701600000 + i,
      venueCode = "PLEYEL_PLEYEL",
    }
  end
  return { events = events, performances = performances }
end

local function coordinates()
  local rings = {}
  for i = 1, 60 do
    local ring = {}
    for k = 1, 400 do
      ring[k] = { -random() * 80 - 50, tonumber(("%.6f"):format(random() * 40 + 42)) }
      ring[k][1] = tonumber(("%.6f"):format(ring[k][1]))
    end
    rings[i] = ring
  end
  local feature = { type = "Feature", geometry = { type = "Polygon", coordinates = rings } }
  return { type = "FeatureCollection", features = { feature } }
end

-- Seconds of CPU that the fastest of several rounds took.
local function best_of(fn, arg)
  local best = math.huge
  for _ = 1, rounds do
    collectgarbage()
    collectgarbage "stop"
    local began = os.clock()
    fn(arg)
    best = math.min(best, os.clock() - began)
    collectgarbage "restart"
  end
  return best
end

local function row(name, what, ours, theirs, bytes)
  print(("json  %-12s %-6s %7.2f ms, %4.0f MB/s   lua-cjson %7.2f ms   %.2f x"):format(name, what, ours * 1e3,
    bytes / ours / 1e6, theirs * 1e3, ours / theirs))
end

for _, doc in ipairs { { "messages", messages }, { "catalogue", catalogue }, { "coordinates", coordinates } } do
  local value = doc[2]()
  local encoded = json.encode(value)
  -- As others write coordinates: with 17 digits.
  if doc[1] == "coordinates" then
    encoded = encoded:gsub("%-?%d+%.%d+", function(n) return ("%.17g"):format(tonumber(n)) end)
  end
  row(doc[1], "encode", best_of(json.encode, value), best_of(cjson.encode, value), #encoded)
  row(doc[1], "decode", best_of(json.decode, encoded), best_of(cjson.decode, encoded), #encoded)
end
