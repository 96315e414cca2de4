local json = require "lunapark.json"
local helper = require "spec.helper"

describe("json", function()
  it("encodes and decodes", function()
    assert.equal('{"a":[1,2.5,true,null,"x\\n"]}', json.encode { a = { 1, 2.5, true, json.null, "x\n" } })
    assert.same({ a = { 1, { b = "ü" } } }, json.decode '{"a": [1, {"b": "\\u00fc"}]}')
    assert.equal(json.null, json.decode "null")
    assert.equal(false, json.decode "false")
    assert.equal("{}", json.encode {})
  end)

  it("can write an empty array, anywhere", function()
    assert.equal("[]", json.encode(json.empty_array))
    assert.equal('{"a":[[],1]}', json.encode { a = { json.empty_array, 1 } })
    assert.equal("{}", json.encode {})
  end)

  it("says what it cannot encode, and where", function()
    local loop = {}
    loop.loop = loop
    assert.matches("cannot encode as JSON: a function at .a.b%[2%]",
      helper.raised(json.encode, { a = { b = { 1, print } } }))
    assert.matches("does it contain itself", helper.raised(json.encode, loop))
    assert.matches("nan at .n", helper.raised(json.encode, { n = 0 / 0 }))
    assert.matches("a key of type boolean", helper.raised(json.encode, { [true] = 1 }))
    assert.matches("sparse", helper.raised(json.encode, { [100000] = 1 }))
    assert.matches("json_spec", helper.raised(function() json.encode(print) end))
    assert.same({ nil, "cannot encode as JSON: a function" }, { json.try_encode(print) })
  end)

  it("answers nil and why for what is no JSON", function()
    for _, text in ipairs { "", "{", "[1,]", "nul", "NaN", '{"a":Infinity}', "{'a':1}", "\0", ("["):rep(500) } do
      local value, err = json.decode(text)
      assert.is_nil(value)
      assert.is_string(err)
    end
    assert.matches("bad JSON: expected", select(2, json.decode "[1,"))
    assert.matches("text must be a string", helper.raised(json.decode, nil))
  end)

  it("is not changed by others who use cjson", function()
    local cjson = require "cjson"
    cjson.encode_invalid_numbers(true)
    assert.is_nil((json.try_encode(0 / 0)))
    cjson.encode_invalid_numbers(false)
  end)
end)
