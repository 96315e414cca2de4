local json = require "lunapark.json"
local helper = require "spec.helper"

-- What is decoded and encoded again.
local function again(text)
  return json.encode((assert(json.decode(text))))
end

describe("json", function()
  it("encodes and decodes", function()
    assert.equal('{"a":[1,2.5,true,null,"x\\n"]}', json.encode { a = { 1, 2.5, true, json.null, "x\n" } })
    assert.same({ a = { 1, { b = "ü" } } }, json.decode '{"a": [1, {"b": "\\u00fc"}]}')
    assert.equal(json.null, json.decode "null")
    assert.equal(require("cjson").null, json.null)
    assert.equal(false, json.decode "false")
    assert.equal("{}", json.encode {})
  end)

  it("can write an empty array, anywhere", function()
    assert.equal("[]", json.encode(json.empty_array))
    assert.equal('{"a":[[],1]}', json.encode { a = { json.empty_array, 1 } })
    assert.equal("[]", json.encode(json.array()))
    local list = {}
    assert.equal(list, json.array(list))
    assert.equal("[]", json.encode(list))
    assert.equal('{"x":1}', json.encode(json.array { x = 1 }))
    assert.equal("{}", json.encode {})
  end)

  it("gives back what it has read", function()
    for _, text in ipairs {
      "[]", '{"a":[]}', "[[]]", "{}", '{"a":{}}', "[{}]", "0", "-0", "1764374400123456", "9007199254740992",
      "-9007199254740992", "100000000000001", "0.1", "12345678.12345679", "1234567890.12", "0.3333333333333333",
      "5e-324", "1.7976931348623157e+308", '"a/b\\"\\\\\\u0000\\u001f\127ü€😀"', '[null,true,false,"",[1,[2,[3]]]]',
    } do
      assert.equal(text, again(text))
    end
    local list = json.decode "[1]"
    list[1] = nil
    assert.equal("[]", json.encode(list), "an array that became empty")
    assert.equal("1000000000000000", again "1e15")
    assert.equal("0", again "1e-999")
    assert.equal('"ü😀/"', again '"\\u00fc\\ud83d\\ude00\\/"')
  end)

  it("reads numbers back as they were, whatever they are", function()
    local seed = 42
    local function draw()
      seed = (seed * 1103515245 + 12345) % 2 ^ 31
      return seed
    end
    local ffi = require "ffi"
    local both = ffi.new "union { double d; uint32_t w[2]; }"
    for _ = 1, 20000 do
      both.w[0], both.w[1] = draw() * 2 + draw() % 2, draw() * 2 + draw() % 2
      local n = both.d
      if n - n == 0 then
        local text = json.encode(n)
        assert(json.decode(text) == n, text)
        assert(#text <= #("%.17g"):format(n), text)
        assert(tonumber(text) == n, text)
      end
    end
  end)

  it("keeps large whole numbers as text, if it is told to", function()
    local value = json.decode("[1618065507111835497,9007199254740992,-9007199254740993,1.5]", { big_integers = "text" })
    assert.same({ "1618065507111835497", 2 ^ 53, "-9007199254740993", 1.5 }, value)
    assert.equal(1618065507111835497, json.decode "1618065507111835497")
    assert.matches("big_integers must be \"text\", got 1", helper.raised(json.decode, "1", { big_integers = 1 }))
  end)

  it("takes a table whose keys are whole numbers for an array, whatever its holes", function()
    assert.equal("[1,2,null,4]", json.encode { 1, 2, nil, 4 })
    for _, n in ipairs { 1, 3, 9, 11, 1017 } do
      assert.equal("[" .. ("null,"):rep(n - 1) .. '"x"]', json.encode { [n] = "x" })
    end
    local backwards = {}
    for i = 20, 1, -1 do backwards[i] = i end
    assert.equal("[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]", json.encode(backwards))
    for _, pair in ipairs { { 0, "0" }, { -1, "-1" }, { 1.5, "1.5" }, { 2 ^ 53, nil } } do
      local text, err = json.try_encode { [pair[1]] = 1 }
      assert.equal(pair[2] and '{"' .. pair[2] .. '":1}', text)
      if not text then assert.matches("sparse", err) end
    end
    assert.same({ ["1"] = 1, ["2"] = { 5, 6 }, x = 3 }, json.decode(json.encode { 1, { 5, 6 }, x = 3 }))
  end)

  it("writes no part of a value more than twice, however mixed it is", function()
    local value = 1
    for _ = 1, 100 do value = { value, x = 1 } end
    assert.equal(100, select(2, json.encode(value):gsub("x", "")))
  end)

  it("says what it cannot encode, and where", function()
    local loop = {}
    loop.loop = loop
    local deep = 1
    for _ = 1, 128 do deep = { deep } end
    assert.equal(("["):rep(128) .. 1 .. ("]"):rep(128), json.encode(deep))
    assert.matches("does it contain itself", helper.raised(json.encode, { deep }))
    assert.matches("cannot encode as JSON: a function at .a.b%[2%]",
      helper.raised(json.encode, { a = { b = { 1, print } } }))
    assert.matches("does it contain itself", helper.raised(json.encode, loop))
    assert.matches("nan at .n", helper.raised(json.encode, { n = 0 / 0 }))
    assert.matches("%-inf at %[2%]", helper.raised(json.encode, { 1, -1 / 0 }))
    assert.matches("a key of type boolean", helper.raised(json.encode, { [true] = 1 }))
    assert.matches("a key that is inf at .a", helper.raised(json.encode, { a = { [1 / 0] = 1 } }))
    assert.matches("a sparse array.* at .users", helper.raised(json.encode, { users = { [100000] = 1 } }))
    assert.matches("a cdata at .x", helper.raised(json.encode, { x = require("ffi").new "int[1]" }))
    assert.matches("json_spec", helper.raised(function() json.encode(print) end))
    assert.same({ nil, "cannot encode as JSON: a function" }, { json.try_encode(print) })
  end)

  it("takes UTF-8 alone", function()
    for _, bad in ipairs {
      "\255", "a\128", "\192\128", "\224\128\128", "\237\160\128", "\244\144\128\128", "ü\195", ("x"):rep(40) .. "\254",
    } do
      assert.matches("not UTF%-8 at .a%[1%]", helper.raised(json.encode, { a = { bad } }))
      assert.matches("a key that is a string that is not UTF%-8", helper.raised(json.encode, { [bad] = 1 }))
      assert.matches("not UTF%-8 at character %d+$", select(2, json.decode('["' .. bad .. '"]')))
      assert.matches("not UTF%-8 at character %d+$", select(2, json.decode('["\\n' .. bad .. '"]')))
    end
    for _, c in ipairs { "ü", "€", "😀", "\244\143\191\191", "\194\128" } do
      for n = 0, 9 do
        local s = ("x"):rep(n) .. c .. "y" .. c
        assert.equal('"' .. s .. '"', again('"' .. s .. '"'))
      end
    end
  end)

  it("answers nil and why for what is no JSON", function()
    local cases = {
      [""] = "expected a value, not the end of the text", ["[1,"] = "expected a value, not the end of the text",
      ["{"] = "expected a name in quotes, not the end of the text", ["[1,]"] = "expected a value at character 4",
      nul = "expected a value at character 1", NaN = "expected a value at character 1",
      ['{"a":Infinity}'] = "expected a value at character 6", ["{'a':1}"] = "expected a name in quotes at character 2",
      ["\0"] = "expected a value at character 1", ["[1\0]"] = "expected , or ] at character 3",
      [("["):rep(129)] = "nested more than 128 deep at character 129",
      [("["):rep(100000)] = "nested more than 128 deep at character 129",
      ["[1e999]"] = "a number that is too large at character 2",
      [("9"):rep(400)] = "a number that is too large at character 1",
      ['"\\ud800\\ue000"'] = "half of a surrogate pair at character 8",
      ['"\\ud800x"'] = "half of a surrogate pair at character 8",
      ['"\\udc00"'] = "half of a surrogate pair at character 8",
      ['"\\ud800\\u0041"'] = "half of a surrogate pair at character 8",
      ['"\\x"'] = "a bad escape at character 3", ['"\\'] = "a bad escape at character 3",
      ['"\\u12g4"'] = "expected four hexadecimal digits at character 4",
      ['"abc'] = "a string without its end at character 5",
      ['"a\nb"'] = "a control character in a string at character 3",
      ["[1 2]"] = "expected , or ] at character 4", ['{"a" 1}'] = "expected : behind a name at character 6",
      ['{"a":1,}'] = "expected a name in quotes at character 8", ["1 2"] = "expected the end at character 3",
      ["01"] = "a number that begins with 0 at character 1", ["+1"] = "expected a value at character 1",
      ["-x"] = "expected a digit at character 2", ["1.x"] = "expected a digit at character 3",
      ["1e+"] = "expected a digit, not the end of the text", [".5"] = "expected a value at character 1",
    }
    for text, err in pairs(cases) do
      assert.same({ nil, "bad JSON: " .. err }, { json.decode(text) })
    end
    assert.matches("text must be a string", helper.raised(json.decode, nil))
  end)

  it("does not read behind any beginning of a text", function()
    local text = '{"a":[1,-2.5e+10,true,null,"\\u00fc\\ud83d\\ude00 ü\\n"],"b":{"c":[]}}'
    for n = 0, #text - 1 do
      local value, err = json.decode(text:sub(1, n))
      assert.is_nil(value)
      assert.matches("^bad JSON: ", err)
    end
    assert.same(json.decode(text), json.decode(again(text)))
  end)

  it("keeps the last of two pairs with one name, and large tables whole", function()
    assert.equal(2, json.decode('{"a":1,"a":2}').a)
    local list, map = {}, {}
    for i = 1, 5000 do
      list[i], map["k" .. i] = i, i
    end
    assert.same(list, json.decode(json.encode(list)))
    assert.same(map, json.decode(json.encode(map)))
    local nested = { list, { list, { list, { list, { list, { list, { list, { list, { list, { list } } } } } } } } } }
    assert.same(nested, json.decode(json.encode(nested)))
  end)

  it("is not changed by others who use cjson", function()
    local cjson = require "cjson"
    cjson.encode_invalid_numbers(true)
    assert.is_nil((json.try_encode(0 / 0)))
    cjson.encode_invalid_numbers(false)
  end)
end)

describe("a number where a string may be, too", function()
  local N = {
    { 1764374400123456, "1764374400123456" }, { 1e14, "100000000000000" }, { 0.1 + 0.2, "0.30000000000000004" },
  }

  it("is written as JSON writes it", function()
    local exec, text = require "lunapark.exec", require("lunapark.core.text").number
    local testing, http = require "lunapark.testing", require "lunapark.http"
    local app = http.app()
    app:get("/", function(req, res)
      local n = N[tonumber(req.query.case)][1]
      res.headers["X-N"] = n
      res:cookie("n", n)
      res:write(n)
    end)
    app:get("/echo", function(req) return req.query.n .. " " .. req.headers["x-n"] end)
    local client = testing.serve(app)
    for i, pair in ipairs(N) do
      local n, expected = pair[1], pair[2]
      assert.equal(expected, text(n))
      assert.equal(expected, exec.run({ "printf", "%s", n }).stdout)
      local env = { N = n, PATH = os.getenv "PATH" }
      assert.equal(expected, exec.run({ "sh", "-c", "printf %s $N" }, { env = env }).stdout)
      local r = client:get("/?case=" .. i)
      assert.equal(expected, r.body)
      assert.equal(expected, r.headers["x-n"])
      assert.matches("n=" .. expected:gsub("%.", "%%."), r.headers["set-cookie"])
      r = client:get("/echo", { query = { n = n }, headers = { ["X-N"] = n } })
      assert.equal(expected .. " " .. expected, r.body)
    end
    assert.same({ "nan", "inf", "-inf", "-0" }, { text(0 / 0), text(1 / 0), text(-1 / 0), text(-0) })
  end)
end)
