--- lunapark.crypto: test vectors of the standards, and what passwords cost others.

local crypto = require "lunapark.crypto"
local lp = require "lunapark"
local helper = require "spec.helper"

require("lunapark.testing").block_timeout(120)

describe("crypto", function()
  it("hashes", function()
    assert.equal("900150983cd24fb0d6963f7d28e17f72", crypto.md5 "abc")
    assert.equal("a9993e364706816aba3e25717850c26c9cd0d89d", crypto.sha1 "abc")
    assert.equal("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", crypto.sha256 "abc")
    assert.equal("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", crypto.sha256 "")
    assert.matches("^cb00753f45a35e8bb5a03d699ac65007272c32ab0eded163", crypto.sha384 "abc")
    assert.matches("^ddaf35a193617abacc417349ae20413112e6fa4e89a97ea2", crypto.sha512 "abc")
    assert.equal(128, #crypto.sha512 "abc")
    assert.equal(crypto.hex_decode(crypto.sha256 "\0x"), crypto.sha256("\0x", true))
    assert.not_equal(crypto.sha256 "\0x", crypto.sha256 "\0y")
  end)

  it("makes codes with keys (RFC 4231, test case 2)", function()
    assert.equal("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
      crypto.hmac("sha256", "Jefe", "what do ya want for nothing?"))
    assert.equal(20, #crypto.hmac("sha1", "", "", true))
    assert.matches("alg must be md5, sha1, .*got sha3", helper.raised(crypto.hmac, "sha3", "", ""))
  end)

  it("turns bytes into text and back", function()
    local all = {}
    for i = 0, 255 do all[#all + 1] = string.char(i) end
    all = table.concat(all)
    for n = 0, 255 do
      local s = all:sub(1, n)
      assert.equal(s, crypto.base64_decode(crypto.base64(s)))
      assert.equal(s, crypto.base64url_decode(crypto.base64url(s)))
      assert.equal(s, crypto.hex_decode(crypto.hex(s)))
      assert.is_nil(crypto.base64url(s):find "[^%w_-]")
    end
    assert.equal("Zm9vYg==", crypto.base64 "foob")
    assert.equal("Zm9vYg", crypto.base64url "foob")
    assert.equal("00ff", crypto.hex "\0\255")
    for _, bad in ipairs {
      "Zm9vYg", "Zm9vYg=", "Zm=vYg==", "Zm9v Yg=", "Zm9vYg===", "=", "====", "Zm9vY-==", " Zm9vYg==",
    } do
      assert.same({ nil, "not base64" }, { crypto.base64_decode(bad) })
    end
    assert.same({ nil, "not base64" }, { crypto.base64url_decode "Zm9v+g" })
    assert.same({ nil, "not base64" }, { crypto.base64url_decode "Zm9vY" })
    for _, bad in ipairs { "0", "0g", "0x", " 00" } do
      assert.same({ nil, "not hexadecimal" }, { crypto.hex_decode(bad) })
    end
  end)

  it("gives random bytes, each time others", function()
    local seen = {}
    for _ = 1, 200 do
      for _, s in ipairs { crypto.random(8), crypto.random_hex(8), crypto.uuid() } do
        assert.is_nil(seen[s])
        seen[s] = true
      end
    end
    assert.equal(1, #crypto.random(1))
    assert.matches("^%x%x%x%x%x%x%x%x%-%x%x%x%x%-4%x%x%x%-[89ab]%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x$", crypto.uuid())
    for _, n in ipairs { 0, -1, 1.5, 2 ^ 21, 0 / 0, "8" } do
      assert.matches("n must be a whole number from 1", helper.raised(crypto.random, n))
    end
  end)

  it("compares", function()
    assert.is_true(crypto.equal("", ""))
    assert.is_true(crypto.equal("a\0b", "a\0b"))
    assert.is_false(crypto.equal("a\0b", "a\0c"))
    assert.is_false(crypto.equal("a", "ab"))
    assert.matches("b must be a string, got nil", helper.raised(crypto.equal, "a"))
    assert.matches("crypto_spec", helper.raised(function() crypto.equal("a") end))
    assert.matches("crypto_spec", helper.raised(function() crypto.sha1() end))
    assert.matches("crypto_spec", helper.raised(function() crypto.base64() end))
  end)

  it("keeps passwords, while other Gs run", function()
    local ticks, done = 0, false
    local g = lp.go(function()
      while not done do
        ticks = ticks + 1
        lp.sleep(0.001)
      end
    end)
    local a, b = crypto.password_hash "secret", crypto.password_hash "secret"
    assert.matches("^%$scrypt%$ln=15,r=8,p=3%$[%w+/]+%$[%w+/]+$", a)
    assert.not_equal(a, b)
    assert.is_true(crypto.password_verify("secret", a))
    assert.is_true(crypto.password_verify("secret", b))
    assert.is_false(crypto.password_verify("Secret", a))
    assert.is_false(crypto.password_verify("secre", a))
    done = true
    g:join()
    assert.is_true(ticks > 3)
  end)

  it("verifies what others have made (RFC 7914), and refuses what is no hash", function()
    -- scrypt("pleaseletmein", "SodiumChloride", 16384, 8, 1)
    local known = "$scrypt$ln=14,r=8,p=1$U29kaXVtQ2hsb3JpZGU$"
      .. "cCO9yzr9c0hGHAbNgf046/2o+7qQT44+qbVD9lRdofLVQylVYT8Pz2LUlwUkKpr55h6F3A1lHkDfzwF7RVdYhw"
    assert.is_true(crypto.password_verify("pleaseletmein", known))
    for _, bad in ipairs {
      "", "secret", "$2b$12$abc", "$scrypt$ln=14,r=8,p=1$U29kaXVtQ2hsb3JpZGU$", "$scrypt$ln=40,r=8,p=1$AAAA$AAAA",
      "$scrypt$ln=0,r=8,p=1$AAAA$AAAA", "$scrypt$ln=14,r=8,p=1$A$AAAA",
    } do
      assert.same({ nil, "not a hash of password_hash" }, { crypto.password_verify("x", bad) })
    end
  end)

  it("seals texts", function()
    local key = crypto.random(32)
    for _, s in ipairs { "", "a", ("x\0"):rep(5000) } do
      local sealed = crypto.seal(key, "cookie", s)
      assert.not_equal(sealed, crypto.seal(key, "cookie", s))
      assert.equal(s, crypto.unseal(key, "cookie", sealed))
      assert.is_nil(crypto.unseal(key, "another", sealed))
      assert.is_nil(crypto.unseal(crypto.random(32), "cookie", sealed))
      for _, at in ipairs { 1, 13, #sealed } do
        local changed = sealed:sub(1, at - 1) .. string.char((sealed:byte(at) + 1) % 256) .. sealed:sub(at + 1)
        assert.is_nil(crypto.unseal(key, "cookie", changed))
      end
      for cut = 0, math.min(#sealed - 1, 40) do
        assert.is_nil(crypto.unseal(key, "cookie", sealed:sub(1, cut)))
      end
    end
    assert.matches("key must have 32 bytes", helper.raised(crypto.seal, "short", "", ""))
  end)
end)
