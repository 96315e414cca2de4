-- build/lunapark run scripts/crawler.lua                      crawls a site that it serves itself; one link is dead
-- build/lunapark run scripts/crawler.lua 127.0.0.1:8080 /     crawls what is served there, from that page on

local http = require "lunapark.http"
local lp = require "lunapark"
local new_client = require "lunapark.testing.client".new
local testing = require "lunapark.testing"

local AT_ONCE = 8

-- Its own site: each page has links to two others, as the nodes of a tree, and back to the first.
local PAGES = 200

local function site()
  local app = http.app()
  app:get("/", function() return http.html '<a href="/page/1">begin</a>' end)
  app:get("/page/:n", function(req)
    local n = tonumber(req.params.n)
    if not n or n < 1 or n > PAGES then return 404 end
    lp.sleep(0.002)
    local links = { ('<h1>%d</h1><a href="/">home</a>'):format(n) }
    for child = 2 * n, 2 * n + 1 do
      -- One link too many, on page 100.
      if child <= PAGES + 1 then links[#links + 1] = ('<a href="/page/%d">%d</a>'):format(child, child) end
    end
    return http.html(table.concat(links, "\n"))
  end)
  return app
end

local client = arg[1] and new_client(arg[1]) or testing.serve(site())
local permits = lp.semaphore(AT_ONCE)
local seen, pages, bytes, dead = {}, 0, 0, {}

-- Gets a page, and starts a G in the same scope for each link that nobody has followed. Between two waits nothing else
-- runs, so looking into `seen` and noting it need no lock.
local function visit(s, path, from)
  local reply, err = permits:with(client.get, client, path)
  if not reply or reply.status ~= 200 then
    dead[#dead + 1] = ("%s (on %s): %s"):format(path, from, reply and reply.status or err)
    return
  end
  pages, bytes = pages + 1, bytes + #reply.body
  for link in reply.body:gmatch 'href="(/[^"#]*)' do
    if not seen[link] then
      seen[link] = true
      s:go(visit, s, link, path)
    end
  end
end

local first, start = arg[2] or "/", lp.now()
seen[first] = true
lp.scope(function(s) visit(s, first, "the command line") end)
client:close()
for _, line in ipairs(dead) do
  print("dead link: " .. line)
end
print(("crawler: %d pages, %d bytes, dead links: %d, %.2f s"):format(pages, bytes, #dead, lp.now() - start))
