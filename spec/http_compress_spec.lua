local compress = require "lunapark.http.compress"
local encoder = require "lunapark.http.encoder"
local exec = require "lunapark.exec"
local ffi = require "ffi"
local fs = require "lunapark.fs"
local http = require "lunapark.http"
local lp = require "lunapark"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local helper = require "spec.helper"

local CODINGS = { "gzip", "br", "zstd" }

describe("Accept-Encoding", function()
  local function choose(accept, codings)
    local coding, identity = compress.choose(accept, codings or { "zstd", "br", "gzip" })
    return tostring(coding) .. (identity and "" or "!")
  end

  it("says which coding the client likes best", function()
    for accept, coding in pairs {
      [""] = "nil", gzip = "gzip", ["gzip, deflate, br, zstd"] = "zstd", ["gzip, deflate, br"] = "br", deflate = "nil",
      ["x-gzip"] = "gzip", ["GZIP"] = "gzip", ["gzip;q=0"] = "nil", ["gzip;q=0.0"] = "nil", ["gzip;q=0.001"] = "gzip",
      ["gzip;q=1, br;q=0.5"] = "gzip", ["gzip;q=0.5,br;q=0.9,zstd;q=0.1"] = "br",
      ["gzip; Q=1.000 ,br ; q=0.999"] = "gzip",
      ["*"] = "zstd", ["*;q=0.1, gzip;q=0.2"] = "gzip", ["br;q=0, *"] = "zstd", ["zstd;q=0, br;q=0, *;q=0.5"] = "gzip",
      ["*;q=0"] = "nil!", ["identity;q=0"] = "nil!", ["gzip, identity;q=0"] = "gzip!", ["*;q=0, identity"] = "nil",
      ["identity, gzip;q=0.5"] = "nil", ["identity;q=0.5, gzip"] = "gzip", ["gzip, *;q=0"] = "gzip!", identity = "nil",
      ["gzip;q=2"] = "nil", ["gzip;q=x"] = "nil", ["gzip;q="] = "nil", ["gzip;q=-1"] = "nil", [",,gzip,"] = "gzip",
      ["gzip;level=9"] = "gzip", ["gzip br"] = "nil", ["compress, gzip"] = "gzip",
    } do
      assert.equal(coding, choose(accept), accept)
    end
    assert.equal("gzip", choose("gzip, br", { "gzip", "br" }))
    assert.equal("nil", choose("zstd", { "gzip", "br" }))
    assert.equal("gzip", choose("*", { "gzip" }))
  end)
end)

ffi.cdef [[
typedef struct spec_z_stream {
  const uint8_t *next_in; unsigned avail_in; unsigned long total_in;
  uint8_t *next_out; unsigned avail_out; unsigned long total_out;
  const char *msg; void *state, *zalloc, *zfree, *opaque; int data_type; unsigned long adler, reserved;
} spec_z_stream;
int inflateInit2_(spec_z_stream *z, int bits, const char *version, int size);
int inflate(spec_z_stream *z, int flush);
int inflateEnd(spec_z_stream *z);
const char *zlibVersion(void);
typedef struct spec_zstd_buffer { const void *bytes; size_t size, pos; } spec_zstd_buffer;
void *ZSTD_createDStream(void);
size_t ZSTD_freeDStream(void *d);
size_t ZSTD_decompressStream(void *d, spec_zstd_buffer *out, spec_zstd_buffer *in);
void *BrotliDecoderCreateInstance(void *take, void *give, void *opaque);
void BrotliDecoderDestroyInstance(void *d);
int BrotliDecoderDecompressStream(void *d, size_t *n_in, const uint8_t **in, size_t *n_out, uint8_t **out,
  size_t *total);
]]

local ROOM = 1000

-- What can be read of the beginning of a compressed body.
local decoders = {}

function decoders.gzip(s, room)
  local z = ffi.new("spec_z_stream", { next_in = s, avail_in = #s, next_out = room, avail_out = ROOM })
  assert(ffi.C.inflateInit2_(z, 15 + 16, ffi.C.zlibVersion(), ffi.sizeof(z)) == 0)
  ffi.C.inflate(z, 2)
  ffi.C.inflateEnd(z)
  return ROOM - z.avail_out
end

function decoders.zstd(s, room)
  local d = ffi.C.ZSTD_createDStream()
  local out = ffi.new("spec_zstd_buffer", room, ROOM, 0)
  ffi.C.ZSTD_decompressStream(d, out, ffi.new("spec_zstd_buffer", s, #s, 0))
  ffi.C.ZSTD_freeDStream(d)
  return tonumber(out.pos)
end

function decoders.br(s, room)
  local brotli = ffi.load "brotlidec"
  local d = brotli.BrotliDecoderCreateInstance(nil, nil, nil)
  local left = ffi.new("size_t[1]", ROOM)
  local from = ffi.new("const uint8_t *[1]", ffi.cast("const uint8_t *", s))
  brotli.BrotliDecoderDecompressStream(d, ffi.new("size_t[1]", #s), from, left, ffi.new("uint8_t *[1]", room), nil)
  brotli.BrotliDecoderDestroyInstance(d)
  return ROOM - tonumber(left[0])
end

local function beginning(coding, s)
  local room = ffi.new("uint8_t[?]", ROOM)
  return ffi.string(room, decoders[coding](s, room))
end

describe("http.compress", function()
  local client, dir

  before_each(function()
    dir = assert(exec.run { "mktemp", "-d" }).stdout:gsub("%s+$", "")
  end)
  after_each(function()
    if client then client:close() end
    client = nil
    exec.run { "rm", "-rf", dir }
  end)

  -- An app of one handler behind the middleware.
  local function serve(fn, opts)
    if client then client:close() end
    local app = http.app()
    app:use(http.compress(opts))
    app:any("/", fn)
    client = testing.serve(app)
  end

  local function get(accept, method, more)
    local h = more or {}
    h["Accept-Encoding"] = accept
    return client:request(method or "GET", "/", { headers = h })
  end

  -- The body of a response as curl decodes it: another implementation of each coding.
  local function curl(coding, ...)
    local r = assert(exec.run { "curl", "-sSk", "--compressed", "-H", "Accept-Encoding: " .. coding,
      (child.over_tls and "https://" or "http://") .. client.addr .. "/", ... })
    assert.equal("", r.stderr)
    return r.stdout
  end

  local TEXT = ("The quick brown fox jumps over the lazy dog.\n"):rep(100)

  it("compresses what the client accepts, and other implementations read it", function()
    for _, fn in ipairs {
      function() return TEXT end, function() return http.html(TEXT) end, function(_, res) res.body = TEXT end,
      function() return 404, TEXT end, function() return 200, TEXT, { ["Content-Type"] = "image/svg+xml" } end,
    } do
      serve(fn)
      for _, coding in ipairs(CODINGS) do
        local r = get(coding)
        assert.same({ coding, "Accept-Encoding" }, { r.headers["content-encoding"], r.headers.vary })
        assert.equal(#r.body, tonumber(r.headers["content-length"]))
        assert.is_true(#r.body < 200)
        assert.equal(TEXT, curl(coding))
      end
    end
    serve(function() return { text = TEXT } end)
    assert.equal("gzip", get("gzip").headers["content-encoding"])
    assert.equal("application/json", get("gzip").headers["content-type"])
  end)

  it("leaves the rest alone, and says Vary where another client would get something else", function()
    local headers, status, body
    serve(function(_, res)
      for name, value in pairs(headers) do res.headers[name] = value end
      return status, body
    end)
    local function ask(h, s, text)
      headers, status, body = h or {}, s or 200, text or TEXT
      local r = get "gzip, br"
      return { r.headers["content-encoding"], r.headers.vary or "-", #r.body == #body }
    end
    local VARY = "Accept-Encoding"
    assert.same({ "br", VARY, false }, ask())
    assert.same({ nil, VARY, true }, ask({}, 200, TEXT:sub(1, 1023)))
    assert.same({ "br", VARY, false }, ask({}, 200, TEXT:sub(1, 1024)))
    assert.same({ nil, "-", true }, ask { ["Content-Type"] = "image/png" })
    assert.same({ nil, "-", true }, ask { ["Content-Type"] = "application/octet-stream" })
    assert.same({ nil, "-", true }, ask { ["Content-Type"] = "text/event-stream; charset=utf-8" })
    assert.same({ "br", VARY, false }, ask { ["Content-Type"] = " Application/LD+JSON ;charset=utf-8" })
    assert.same({ "gzip", "-", true }, ask { ["Content-Encoding"] = "gzip" })
    assert.same({ "identity", "-", true }, ask { ["Content-Encoding"] = "identity" })
    assert.same({ nil, "-", true }, ask { ["Cache-Control"] = "public, No-Transform" })
    assert.same({ nil, VARY, true }, ask({ ["Content-Range"] = "bytes 0-4499/9000" }, 206))
    assert.same({ nil, VARY, false }, ask({}, 304))
    assert.same({ nil, "-", false }, ask({}, 204))
    assert.same({ "br", "Origin, Accept-Encoding", false }, ask { Vary = "Origin" })
    assert.same({ "br", "accept-encoding", false }, ask { Vary = "accept-encoding" })
    assert.same({ "br", "*", false }, ask { Vary = "*" })
    headers = {}
    local r = get()
    assert.same({ TEXT, "Accept-Encoding" }, { r.body, r.headers.vary })
    assert.is_nil(r.headers["content-encoding"])
  end)

  it("compresses little, and what does not get shorter, for a client that refuses anything else", function()
    serve(function() return "short" end)
    assert.equal("gzip", get("gzip, identity;q=0").headers["content-encoding"])
    assert.equal("short", curl "gzip, identity;q=0")
    assert.is_nil(get("gzip").headers["content-encoding"])
    local noise = {}
    for i = 1, 3000 do noise[i] = string.char(math.random(0, 255)) end
    local text = table.concat(noise)
    serve(function() return text end)
    local r = get "gzip"
    assert.same({ text, "Accept-Encoding" }, { r.body, r.headers.vary })
    assert.equal("gzip", get("gzip, *;q=0").headers["content-encoding"])
  end)

  it("makes a strong ETag weak, and keeps a weak one", function()
    local etag
    serve(function() return 200, TEXT, { ETag = etag, ["Accept-Ranges"] = "bytes" } end)
    etag = '"x"'
    assert.equal('W/"x"', get("gzip").headers.etag)
    assert.is_nil(get("gzip").headers["accept-ranges"])
    assert.equal('"x"', get("deflate").headers.etag)
    etag = 'W/"x"'
    assert.equal('W/"x"', get("gzip").headers.etag)
  end)

  it("answers HEAD with the headers of GET", function()
    local function same(fn, stream)
      serve(fn)
      for _, accept in ipairs { "gzip", "br", "zstd", "deflate" } do
        local a, b = get(accept), get(accept, "HEAD")
        assert.equal("", b.body)
        for _, name in ipairs { "content-encoding", "vary", "etag", "content-type", "content-length" } do
          if name ~= "content-length" or not stream then assert.equal(a.headers[name], b.headers[name], name) end
        end
      end
    end
    same(function() return 200, TEXT, { ETag = '"a"' } end)
    same(function(_, res) res:write(TEXT) end, true)
    -- An answer to HEAD that knows the length of GET's body does not know how long that is compressed.
    serve(function(req)
      if req.method == "HEAD" then return 200, "", { ["Content-Length"] = #TEXT } end
      return TEXT
    end)
    local r = get("gzip", "HEAD")
    assert.same({ "gzip", nil }, { r.headers["content-encoding"], r.headers["content-length"] })
    r = get("deflate", "HEAD")
    assert.same({ nil, tostring(#TEXT) }, { r.headers["content-encoding"], r.headers["content-length"] })
  end)

  it("compresses streams, which arrive when they are flushed", function()
    for _, coding in ipairs(CODINGS) do
      local go_on = lp.chan(1)
      serve(function(_, res)
        res.headers["Content-Type"] = "text/csv"
        assert(res:write "first\n")
        assert(res:flush())
        assert(go_on:recv(10))
        for i = 1, 10000 do assert(res:write("line " .. i .. "\n")) end
        assert(res:write "")
        assert(res:flush())
        assert(res:flush())
        assert(res:write "last")
      end)
      local r = assert(client:get("/", { headers = { ["Accept-Encoding"] = coding }, stream = true }))
      assert.same({ coding, "chunked", nil }, { r.headers["content-encoding"], r.headers["transfer-encoding"],
        r.headers["content-length"] })
      local first = ""
      repeat first = first .. assert(r:read()) until beginning(coding, first) == "first\n"
      assert(go_on:send(true))
      local rest = r:read_all()
      assert(#rest > 10 and #rest < 50000)
      local lines = { "first" }
      for i = 1, 10000 do lines[#lines + 1] = "line " .. i end
      lines[#lines + 1] = "last"
      assert(go_on:send(true))
      assert.is_true(curl(coding) == table.concat(lines, "\n"))
    end
  end)

  it("compresses streams for HTTP/1.0, and streams whose length is known", function()
    serve(function(_, res)
      res.headers["Content-Length"] = #TEXT
      for i = 1, #TEXT, 1000 do res:write(TEXT:sub(i, i + 999)) end
    end)
    for _, coding in ipairs(CODINGS) do
      assert.equal(TEXT, curl(coding))
      assert.equal(TEXT, curl(coding, "--http1.0"))
      assert.is_nil(get(coding).headers["content-length"])
    end
    assert.equal(tostring(#TEXT), get("deflate").headers["content-length"])
    serve(function(_, res)
      res.headers["Content-Length"] = 5
      res:write "short"
    end)
    assert.equal("short", get("gzip").body)
  end)

  it("does not end a stream that is shorter or longer than it said", function()
    local said
    serve(function(_, res)
      res.headers["Content-Length"] = #TEXT
      res:write "not all"
    end)
    local r, err = get "gzip"
    assert.is_nil(r)
    assert.is_string(err)
    serve(function(_, res)
      res.headers["Content-Length"] = #TEXT
      res:write(TEXT)
      said = helper.raised(res.write, res, "more")
    end)
    assert.equal(TEXT, curl "gzip")
    assert.matches("write: more than the Content%-Length that was set", said)
    -- A handler that fails.
    serve(function(_, res)
      res:write(TEXT)
      error "on purpose"
    end)
    helper.stderr_of(function() r = get "gzip" end)
    assert.is_nil(r)
  end)

  it("compresses what is long beside the VM, in order", function()
    local long = {}
    for i = 1, 12000 do long[i] = ("%d %x\n"):format(i, i * 7919 % 65536) end
    long = table.concat(long)
    serve(function() return long end)
    for _, coding in ipairs(CODINGS) do assert.is_true(curl(coding) == long) end
    local longer = long:rep(10) -- than one call is given
    assert(#longer > 2 ^ 20)
    serve(function(_, res)
      res:write(longer)
      res:write(long)
    end)
    assert.is_true(curl "zstd" == longer .. long)
  end)

  it("compresses what several Gs write", function()
    local big = ("0123456789"):rep(20000)
    serve(function(_, res)
      res.headers["Content-Length"] = 4 * #big + 4
      lp.scope(function(s)
        for i = 1, 4 do
          s:go(function() assert(res:write(big)) assert(res:write(tostring(i))) assert(res:flush()) end)
        end
      end)
    end)
    for _, coding in ipairs(CODINGS) do
      local body = curl(coding)
      local _, tens = body:gsub("0123456789", "")
      assert.same({ 4 * #big + 4, 4 * 20000 }, { #body, tens })
    end
  end)

  it("gives memory back when a stream is broken off", function()
    local base
    serve(function(req, res)
      base = base or ffi.C.host_charged()
      res:write(("x"):rep(5000))
      res:flush()
      if req.headers["x-how"] == "short" then return end
      error "on purpose"
    end)
    helper.stderr_of(function()
      for _ = 1, 20 do get("zstd", "GET", { ["X-How"] = "error" }) end
    end)
    assert(ffi.C.host_charged() - base < 3 * 2 ^ 20, ffi.C.host_charged() - base)
  end)

  it("compresses files", function()
    assert(fs.write(dir .. "/a.css", TEXT))
    assert(fs.write(dir .. "/a.png", TEXT))
    assert(fs.write(dir .. "/short.txt", "short"))
    assert(fs.write(dir .. "/long.js", TEXT:rep(100)))
    local name
    serve(function(_, res) return res:send_file(name, { below = dir }) end)
    name = "a.css"
    for _, coding in ipairs(CODINGS) do
      assert.equal(TEXT, curl(coding))
      local r, head = get(coding), get(coding, "HEAD")
      assert.same({ coding, "Accept-Encoding", "text/css; charset=utf-8", "nosniff" }, { r.headers["content-encoding"],
        r.headers.vary, r.headers["content-type"], r.headers["x-content-type-options"] })
      assert.same({ coding, "Accept-Encoding", "" }, { head.headers["content-encoding"], head.headers.vary, head.body })
    end
    local r = get "deflate"
    assert.same({ TEXT, "Accept-Encoding", tostring(#TEXT) }, { r.body, r.headers.vary, r.headers["content-length"] })
    name = "long.js"
    assert.is_true(curl "zstd" == TEXT:rep(100))
    name = "a.png"
    r = get "gzip"
    assert.same({ TEXT, nil, nil }, { r.body, r.headers.vary, r.headers["content-encoding"] })
    name = "short.txt"
    assert.same({ "short", "Accept-Encoding" }, { get("gzip").body, get("gzip").headers.vary })
  end)

  it("does not disturb middleware inside or outside", function()
    local app, seen = http.app(), {}
    app:use(function(_, res, next)
      local text = next()
      seen[1] = res.body
      return text .. "outside"
    end)
    app:use(http.compress())
    app:use(function(_, res, next)
      next()
      seen[2] = res.body
      res.headers["X-Length"] = #res.body
    end)
    app:get("/", function() return TEXT end)
    app:get("/fail", function() error { } end)
    app:on_error(function() return TEXT end)
    client = testing.serve(app)
    assert.equal(TEXT .. "outside", curl "gzip")
    assert.same({ TEXT, TEXT }, seen)
    local r
    helper.stderr_of(function()
      r = client:get("/fail", { headers = { ["Accept-Encoding"] = "gzip" } })
    end)
    assert.same({ 500, "gzip" }, { r.status, r.headers["content-encoding"] })
  end)

  it("takes options", function()
    serve(function() return 200, ("x"):rep(100), { ["Content-Type"] = "a/b" } end,
      { min = 100, types = { "A/*" }, codings = { "gzip" }, levels = { gzip = 9 } })
    assert.equal("gzip", get("gzip, br").headers["content-encoding"])
    assert.is_nil(get("br").headers["content-encoding"])
    for opts, message in pairs {
      [{ min = "1" }] = "compress: opts.min must be a number of bytes, got \"1\"",
      [{ types = "text/*" }] = "compress: opts.types must be a list of strings, got \"text/%*\"",
      [{ types = { 1 } }] = "compress: opts.types must be a list of strings, got 1",
      [{ codings = { "deflate" } }] = "compress: opts.codings must be of gzip, br and zstd, got \"deflate\"",
      [{ levels = { gzip = 10 } }] = "compress: opts.levels.gzip must be a whole number from 1 to 9, got 10",
      [{ levels = { lzma = 1 } }] = "compress: opts.levels must be of gzip, br and zstd, got \"lzma\"",
      [{ level = 1 }] = "compress: opts must have min, types, codings or levels, got \"level\"",
    } do
      assert.matches(message, helper.raised(http.compress, opts))
    end
    assert.matches("compress: opts must be a table, got 1", helper.raised(http.compress, 1))
  end)
end)

describe("compressors", function()
  after_each(child.clean)

  it("begin anew when they have ended, and give their memory back", function()
    local before = ffi.C.host_charged()
    for _, coding in ipairs(CODINGS) do
      local first, again
      for i = 1, 5 do
        local e = assert(encoder.new(coding, 3))
        if i % 2 == 0 then assert(e:write "some") assert(e:flush()) end
        local out = assert(e:finish "the same text, the same text, the same text")
        assert.same({ nil, "closed" }, { e:write "x" })
        if i == 1 then first = out elseif i == 3 then again = out end
      end
      assert.equal(first, again)
      local c = encoder.new(coding, 1)
      assert(c:write(("x"):rep(1000)))
    end
    assert.is_true(ffi.C.host_charged() > before)
    collectgarbage()
    collectgarbage()
    -- An idle one of each coding stays.
    assert.is_true(ffi.C.host_charged() - before < 3 * 2 ^ 20)
  end)

  it("fail when the VM's memory is used up, and others go on", function()
    local code, out, err = child.run { "run", "--vm-memory", "32000000", child.script [[
      local encoder = require "lunapark.http.encoder"
      for _, coding in ipairs { "gzip", "br", "zstd" } do
        local list, why = {}, nil
        repeat
          local e, out = encoder.new(coding, 4), nil
          if not e then why = "not enough memory" break end
          list[#list + 1] = e
          out, why = e:write "some text"
          if out then out, why = e:flush() end
        until not out or #list == 1000
        print(coding, #list < 1000, why)
        for _, e in ipairs(list) do e:close() end
        print(#assert(assert(encoder.new(coding, 4)):finish(("x"):rep(10000))) < 100)
      end
    ]] }
    assert.same({ 0, "" }, { code, err })
    assert.equal(("%s\ttrue\tnot enough memory\ntrue\n"):rep(3):format("gzip", "br", "zstd"), out)
  end)
end)
