-- wrk's script for requests.sh: wrk -s requests.wrk.lua URL -- KIND

local kinds = {
  hello = function() return wrk.format("GET", "/") end,
  five = function() return wrk.format("GET", "/five") end,
  route = function() return wrk.format("GET", "/r57/alice/posts/12345") end,
  query = function() return wrk.format("GET", "/query?name=alice&page=two%20words", { ["X-Id"] = "abcdef" }) end,
  json = function() return wrk.format("GET", "/json") end,
  echo = function() return wrk.format("POST", "/echo", nil, ("x"):rep(1024)) end,
  large = function() return wrk.format("GET", "/large") end,
  pipelined = function() return wrk.format("GET", "/"):rep(16) end,
}

local bytes

function init(args)
  bytes = kinds[args[1]]()
end

function request()
  return bytes
end
