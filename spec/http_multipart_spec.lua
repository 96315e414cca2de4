local ffi = require "ffi"
local exec = require "lunapark.exec"
local fs = require "lunapark.fs"
local http = require "lunapark.http"
local lp = require "lunapark"
local multipart = require "lunapark.http.multipart"
local testing = require "lunapark.testing"
local child = require "spec.support.child"
local helper = require "spec.helper"

local function refuse(status, message) error({ status = status, message = message }, 0) end

-- A source whose bytes come in pieces, each in memory of its own that ends with it (for AddressSanitizer).
local function source_of(pieces)
  local buffer, i, room = "", 0, nil
  local function refill()
    room = ffi.new("uint8_t[?]", math.max(#buffer, 1))
    ffi.copy(room, buffer, #buffer)
  end
  refill()
  return {
    fail = refuse,
    window = function() return room, #buffer, i == #pieces end,
    skip = function(n)
      assert(n <= #buffer)
      buffer = buffer:sub(n + 1)
      refill()
    end,
    more = function()
      i = i + 1
      buffer = buffer .. assert(pieces[i], "asked for more than there is")
      refill()
      return true
    end,
  }
end

-- What a body has: a list of { name, filename, body }; or the status and the message of its refusal.
local function read(pieces, boundary, opts, form)
  local list = {}
  local ok, err = pcall(function()
    for part in multipart.parts(source_of(pieces), boundary or "B", form ~= false, opts) do
      list[#list + 1] = { part.name, part.filename, (assert(part:body())) }
      assert(part:read() == nil and part:body() == "")
    end
  end)
  if ok then return list end
  if type(err) ~= "table" then error(err, 0) end
  return err.status .. " " .. err.message
end

local function field(name, value) return ('Content-Disposition: form-data; name="%s"\r\n\r\n%s'):format(name, value) end

local function body_of(...) return "--B\r\n" .. table.concat({ ... }, "\r\n--B\r\n") .. "\r\n--B--\r\n" end

-- All ways to cut s once; s whole, and byte by byte.
local function cuts(s)
  local ways = { { s } }
  for i = 0, #s do
    ways[#ways + 1] = { s:sub(1, i), s:sub(i + 1) }
  end
  local bytes = {}
  for i = 1, #s do bytes[i] = s:sub(i, i) end
  ways[#ways + 1] = bytes
  return ways
end

local function always(expected, s, ...)
  for i, way in ipairs(cuts(s)) do
    assert.same(expected, read(way, ...), ("cut %d of %q"):format(i, s))
  end
end

describe("multipart bodies", function()
  it("have parts, wherever the bytes are cut", function()
    always({ { "a", nil, "1" }, { "b", "x.txt", "two\r\nlines" }, { "c", nil, "" } }, body_of(
      field("a", "1"),
      'content-disposition: form-data; name="b"; filename="x.txt"\r\nContent-Type: text/plain\r\n\r\ntwo\r\nlines',
      field("c", "")))
  end)

  it("have data that looks like delimiters, wherever it is cut", function()
    for _, data in ipairs {
      "\r\n--", "\r\n--b", "\r", "\r\n", "\r\r\n--", "--B", "\n--B\r\n", "\r--B\r\n", "\r\n--Bx", "\r\n--B-",
      "\r\n--B-\r\n", "\r\n--B--x", "\r\n--B x\r\n", "\r\n--B\rx", "\r\n--B\r\r\n", "\r\n--B\n", "\r\n --B\r\n",
      "\r\n--\r\n--", "\0\r\n\0",
      "\r\n--B" .. (" "):rep(65) .. "\r\n", "--B--",
    } do
      always({ { "a", nil, data }, { "b", nil, "y" } }, body_of(field("a", data), field("b", "y")))
    end
  end)

  it("may have a preamble, an epilogue, blanks behind boundaries, and no line break at the end", function()
    local one = { { "a", nil, "1" } }
    always(one, "pre\r\n--Bx\r\namble\r\n--B \t\r\n" .. field("a", "1") .. "\r\n--B-- \r\nepilogue\r\n--B\r\n")
    always(one, "\r\n--B\r\n" .. field("a", "1") .. "\r\n--B--")
    always(one, "--B\r\n" .. field("a", "1") .. "\r\n--B--  ")
    always({}, "--B--\r\n")
    always({}, "--B--")
    always({}, "x\r\n--B--")
  end)

  it("may hold a body with a boundary that begins like theirs", function()
    local inner = "--BB\r\n\r\nx\r\n--BB\r\n\r\ny\r\n--BB--\r\n"
    always({ { "a", nil, inner }, { "b", nil, "1" } }, body_of(field("a", inner), field("b", "1")))
    always({ { nil, nil, "x" }, { nil, nil, "y" } }, inner, "BB", nil, false)
  end)

  it("may have no headers, if they are no form", function()
    always({ { nil, nil, "x" }, { nil, nil, "" } }, "--B\r\n\r\nx\r\n--B\r\nA: b\r\n\r\n\r\n--B--", "B", nil, false)
  end)

  it("are refused when they do not end, wherever they end", function()
    local s = body_of(field("a", "1"), field("b", "2"))
    for i = 0, #s - 3 do
      local half = math.floor(i / 2)
      for _, way in ipairs { { s:sub(1, i) }, { s:sub(1, i), "" }, { s:sub(1, half), s:sub(half + 1, i) } } do
        assert.matches("^400 request body is malformed: it ends", read(way))
      end
    end
    always("400 request body is malformed: it ends before its last boundary", "--B\n\nx\n--B--\n")
  end)

  it("are refused for headers that are none, and parts of a form without a name", function()
    for head, why in pairs {
      ["no colon\r\n"] = "a part has a bad header line", [" folded: a\r\n"] = "a part has a bad header line",
      ["a: b\r\n folded\r\n"] = "a part has a bad header line", ["a\0: b\r\n"] = "a part has a bad header line",
      ["a: b\0\r\n"] = "a part has a bad header line", ["a : b\r\n"] = "a part has a bad header line",
      [": b\r\n"] = "a part has a bad header line", ["a: b\rc\r\n"] = "a part has a bad header line",
      ["a: b\nc: d\r\n"] = "a part has a bad header line",
      [""] = "a part has no name", ["Content-Type: text/plain\r\n"] = "a part has no name",
      ["Content-Disposition: form-data\r\n"] = "a part has no name",
      ['Content-Disposition: attachment; name="a"\r\n'] = "a part has no name",
      ['Content-Disposition: form-data; name="a\r\n'] = "a part has a bad Content-Disposition",
      ['Content-Disposition: form-data; name\r\n'] = "a part has a bad Content-Disposition",
      ['Content-Disposition: form-data; name="a"x\r\n'] = "a part has a bad Content-Disposition",
    } do
      assert.equal("400 request body is malformed: " .. why, read { "--B\r\n" .. head .. "\r\nx\r\n--B--" })
    end
  end)

  it("have limits", function()
    local s = body_of(field("a", "12345"), field("b", "123"))
    always({ { "a", nil, "12345" }, { "b", nil, "123" } }, s, "B",
      { max_parts = 2, max_part = 5, max_total = 8, max_head = #field("a", "") })
    always("413 a part is larger than 4 bytes", s, "B", { max_part = 4 })
    always("413 the parts are larger than 7 bytes", s, "B", { max_total = 7 })
    always("413 the request has more than 1 parts", s, "B", { max_parts = 1 })
    always("413 a part has more than 43 bytes of headers", s, "B", { max_head = #field("a", "") - 1 })
    assert.equal("413 a part has more than 16384 bytes of headers", read { "--B\r\n" .. ("a"):rep(17000) })
    -- Of what is not read, too.
    local ok, err = pcall(function()
      for _ in multipart.parts(source_of { s }, "B", true, { max_part = 4 }) do end
    end)
    assert.same({ false, 413 }, { ok, err.status })
  end)

  it("are read in pieces of a size, and what is not read is skipped", function()
    local s = body_of(field("a", ("0123456789"):rep(100)), field("b", "rest"), field("c", "last"))
    for _, way in ipairs { { s }, { s:sub(1, 500), s:sub(501) } } do
      local parts = multipart.parts(source_of(way), "B", true)
      local a = parts()
      assert.equal("012", a:read(3))
      assert.equal("3456", a:read(4))
      assert.matches("read: n must be 1 or more, got 0", helper.raised(a.read, a, 0))
      local b = parts()
      assert.same({ "b", "re" }, { b.name, b:read(2) })
      assert.same({ nil, "closed" }, { a:read() })
      assert.same({ nil, "closed" }, { a:body() })
      assert.equal("st", b:body())
      assert.equal("c", parts().name)
      assert.is_nil(parts())
      assert.is_nil(parts())
    end
  end)

  it("take time in proportion to their length, read in whatever pieces", function()
    local function steps(n, way)
      local asked, last = 0, 0
      local data = ("\r\n--Bx"):rep(n)
      local source = source_of { body_of(field("a", data)) }
      local window = source.window
      function source.window()
        local bytes, len, whole = window()
        if len ~= last then asked, last = asked + 1, len end
        return bytes, len, whole
      end
      for part in multipart.parts(source, "B", true) do
        while part:read(way) do end
      end
      return asked
    end
    for _, way in ipairs { 1, 7, 4096 } do
      assert.is_true(steps(400, way) <= 2.4 * steps(200, way) + 10)
    end
  end)
end)

describe("fields with parameters", function()
  local function parse(s)
    local word, params = multipart.parameters(s)
    return word and { word, params }
  end

  it("are taken apart", function()
    assert.same({ "form-data", { name = "a", filename = "b c" } }, parse 'Form-Data; NAME="a" ;  filename = b c ')
    assert.same({ "x", { a = "1;2" } }, parse 'x;a="1;2"')
    assert.same({ "x", { a = "" } }, parse 'x; a=""; ;')
    assert.same({ "x", { a = "1" } }, parse "x; a=1; a=2")
    assert.same({ "", {} }, parse "")
    assert.same({ "x", {} }, parse " x ")
    for _, s in ipairs { 'x; a="', 'x; a="\\', "x; a", "x y", 'x; a="b" c', 'x; "a"=b', "x; =b" } do
      assert.is_nil(parse(s), s)
    end
  end)

  it("have quotes in names as browsers and curl write them", function()
    assert.same('a"b', parse('x; a="a\\"b"')[2].a)
    assert.same('"', parse('x; a="\\""')[2].a)
    assert.same("a\\b\\", parse('x; a="a\\b\\\\"')[2].a)
    assert.same("C:\\dir\\x", parse('x; a="C:\\dir\\x"')[2].a)
    assert.same("ends\\", parse('x; a="ends\\"')[2].a)
  end)

  it("name the boundary", function()
    assert.equal("a b", multipart.boundary 'multipart/form-data; boundary="a b"')
    assert.equal("----=_x", multipart.boundary "Multipart/Mixed;charset=utf-8; boundary=----=_x")
    for _, s in ipairs {
      "multipart/form-data", "multipart/form-data; boundary=", 'multipart/form-data; boundary=""',
      "text/plain; boundary=a",
      'multipart/form-data; boundary="a "', "multipart/form-data; boundary=a\tb", "multipart/form-data; boundary=ü",
      "multipart/form-data; boundary=" .. ("a"):rep(201), 'multipart/form-data; boundary="a', "multipart; boundary=a",
    } do
      assert.is_nil(multipart.boundary(s), s)
    end
  end)
end)

describe("names of parts", function()
  local function named(params)
    local list = read { "--B\r\nContent-Disposition: form-data; " .. params .. "\r\n\r\n\r\n--B--" }
    return type(list) == "table" and { list[1][1], list[1][2] } or list
  end

  it("are UTF-8, with the escapes of HTML", function()
    assert.same({ "größe", "naïve ☃.txt" }, named 'name="größe"; filename="naïve ☃.txt"')
    assert.same({ 'a"b\r\nc', 'x"y%41.txt' }, named 'name="a%22b%0D%0Ac"; filename="x%22y%41.txt"')
    assert.same({ 'a"b' }, named 'name="a\\"b"')
    assert.same({ "a" }, named "name=a")
  end)

  it("of files are never paths", function()
    for sent, name in pairs {
      ["../../etc/passwd"] = "passwd", ["C:\\dir\\x.txt"] = "x.txt", ["a/"] = "", [".."] = "", ["a/.."] = "",
      ["."] = "",
      ["..x"] = "..x", [""] = "", ["/a\\b/c"] = "c", [".bashrc"] = ".bashrc",
    } do
      assert.same({ "a", name }, named(('name="a"; filename="%s"'):format(sent)), sent)
    end
  end)

  it("may be in filename*, which wins", function()
    assert.same({ "a", "€ rates" }, named "name=a; filename=\"x\"; filename*=UTF-8''%e2%82%ac%20rates")
    assert.same({ "a", "£" }, named "name=a; filename*=iso-8859-1'en'%A3; filename=x")
    assert.same({ "a", "passwd" }, named "name=a; filename*=utf-8''..%2F..%2Fetc%2Fpasswd")
    for _, bad in ipairs { "UTF-8''%zz", "UTF-8''%4", "koi8-r''%e2", "UTF-8", "''x", "UTF-8'" } do
      assert.same({ "a", "x" }, named("name=a; filename=x; filename*=" .. bad), bad)
    end
    -- A NUL would end a path in C.
    assert.same({ "a", "x" }, named "name=a; filename=x; filename*=utf-8''a%00b")
  end)
end)

describe("req:multipart", function()
  local client, dir

  before_each(function()
    dir = assert(exec.run { "mktemp", "-d" }).stdout:gsub("%s+$", "")
  end)
  after_each(function()
    if client then client:close() end
    client = nil
    child.clean()
    exec.run { "rm", "-rf", dir }
  end)
  local TYPE = { ["Content-Type"] = "multipart/form-data; boundary=B" }

  local function post(body, target, ctype)
    return client:post(target or "/", { body = body, headers = ctype and { ["Content-Type"] = ctype } or TYPE })
  end

  local function show(req)
    local list = {}
    for part in assert(req:multipart()) do
      local kind = part.headers["content-type"]
      list[#list + 1] = ("%s|%s|%s|%s"):format(part.name, part.filename or "-", kind or "-", part:body())
    end
    return table.concat(list, "\n")
  end

  it("goes through the parts of a request", function()
    client = testing.serve(show)
    assert.equal("a|-|-|1\nf|x.txt|text/plain|data", post(body_of(field("a", "1"),
      'Content-Disposition: form-data; name="f"; filename="x.txt"\r\nContent-Type: text/plain\r\n\r\ndata')).body)
    assert.equal("", post("--B--").body)
    assert.equal("a|-|-|" .. ("x"):rep(300000), post(body_of(field("a", ("x"):rep(300000)))).body)
  end)

  it("answers for the client's faults", function()
    client = testing.serve(show)
    local log = helper.stderr_of(function()
      assert.equal(415, post("a=1", "/", "application/x-www-form-urlencoded").status)
      assert.equal(415, client:get("/").status)
      assert.equal(415, post(body_of(field("a", "1")), "/", "multipart/form-data").status)
    end)
    assert.matches("not a multipart body: no Content%-Type", log)
    assert.equal(400, post("").status)
    assert.equal(400, post("--B\r\n" .. field("a", "1")).status)
    assert.equal(400, post("--B\r\nx\r\n\r\n--B--").status)
    assert.equal(200, post(body_of(field("a", "1"))).status)
  end)

  it("refuses bad options", function()
    client = testing.serve(function(req)
      return table.concat({ helper.raised(req.multipart, req, { max_part = "1" }),
        helper.raised(req.multipart, req, { x = 1 }), helper.raised(req.form, req, 1) }, "\n")
    end)
    local r = client:get "/"
    assert.matches("multipart: opts.max_part must be a number, got string", r.body)
    assert.matches("multipart: unknown option x", r.body)
    assert.matches("form: opts must be a table, got number", r.body)
  end)

  it("takes a body of any length in little memory", function()
    local server = child.serve { child.script [[
      local ffi = require "ffi"
      local app = require("lunapark.http").app()
      app.options = { max_body = 64 * 2 ^ 20 }
      app:post("/", function(req)
        local n, most, base = 0, 0, ffi.C.host_charged()
        for part in req:multipart() do
          for piece in function() return part:read() end do
            n, most = n + #piece, math.max(most, ffi.C.host_charged() - base)
          end
        end
        return { n = n, most = most }
      end)
      return app
    ]] }
    client = child.client(server.addr)
    local sent, chunk = 0, ("x\r\n--"):rep(8192)
    local r = client:post("/", {
      headers = TYPE,
      body = function()
        sent = sent + 1
        if sent == 1 then return "--B\r\n" .. field("a", "") end
        if sent <= 300 then return chunk end
        if sent == 301 then return "\r\n--B--" end
      end,
    }):json()
    assert.equal(299 * #chunk, r.n)
    assert(r.most < 2 ^ 19, r.most .. " bytes of a body are in memory")
  end)

  it("reads what comes slowly", function()
    client = testing.serve(show)
    local s = body_of(field("a", "1\r\n--"), field("b", "\r\n--B-"))
    for _, step in ipairs { 1, 2, 3, 7 } do
      local conn = assert(client:connect())
      conn:set_nodelay(true)
      conn:write(("POST / HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n")
        :format(TYPE["Content-Type"], #s))
      for i = 1, #s, step do
        conn:write(s:sub(i, i + step - 1))
        if step > 1 or i % 8 == 0 then lp.sleep(0.0005) end
      end
      assert.equal("a|-|-|1\r\n--\nb|-|-|\r\n--B-", testing.read_reply(conn).body)
      conn:close()
    end
  end)

  it("saves parts, whole or not at all", function()
    local path, said = dir .. "/saved", nil
    client = testing.serve(function(req)
      for part in req:multipart() do
        said = { part:save(req.query.to or path) }
      end
      return "ok"
    end)
    local data = ("\0line\r\n"):rep(50000)
    assert.equal("ok", post(body_of(field("a", data))).body)
    assert.same({ true }, said)
    assert.is_true(assert(fs.read(path)) == data)
    -- The body ends early: the file stays as it was.
    assert.equal(400, post("--B\r\n" .. field("a", "new")).status)
    assert.is_true(assert(fs.read(path)) == data)
    assert.equal("ok", post(body_of(field("a", "new"))).body)
    assert.equal("new", assert(fs.read(path)))
    assert.equal("ok", post(body_of(field("a", "x")), "/?to=" .. dir .. "/none/x").body)
    assert.matches("no such file or directory: ", said[2])
    assert.equal("ok", post(body_of(field("a", "x")), "/?to=" .. dir).body)
    assert.matches("directory", said[2])
    assert.same({ "saved" }, (fs.list(dir)))
  end)

  it("leaves nothing when the client goes away", function()
    local over
    client = testing.serve(function(req)
      local ok, err = pcall(function()
        for part in req:multipart() do part:save(dir .. "/x") end
      end)
      over = { ok, tostring(err) }
    end)
    local conn = assert(client:connect())
    conn:write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nContent-Type: " .. TYPE["Content-Type"] ..
      "\r\n\r\n--B\r\n" .. field("a", "12345"))
    helper.eventually(function() return #assert(fs.list(dir)) == 1 end)
    conn:close()
    helper.eventually(function() return over end)
    assert.same({ false, "the client is gone" }, over)
    helper.eventually(function() return #assert(fs.list(dir)) == 0 end)
  end)

  it("is req:form for fields, with files in memory or on the disk", function()
    local kept
    client = testing.serve(function(req)
      local form, files = req:form { memory = 1000 }
      local list = {}
      for i, file in ipairs(files) do
        local pieces = {}
        for piece in function() return file:read(777) end do pieces[#pieces + 1] = piece end
        assert(file:save(dir .. "/f" .. i) == true)
        list[i] = { file.name, file.filename, file.headers["content-type"], file.size, #table.concat(pieces),
          files[file.name] == file }
      end
      kept = files
      local again, same = req:form()
      assert(again == form and same == files)
      return { form = form, files = list, one = req:param "a", all = req:params_all "a", q = req:param "q" }
    end)
    local function file(name, filename, data)
      return ('Content-Disposition: form-data; name="%s"; filename="%s"\r\nContent-Type: t/%s\r\n\r\n%s')
        :format(name, filename, name, data)
    end
    local big = ("0123456789"):rep(30000)
    local r = post(body_of(field("a", "1"), file("f", "small", ("s"):rep(600)), field("a", "2"), file("f", "big", big),
      file("g", "second", ("g"):rep(600)), file("none", "", ""), file("e", "empty", "")), "/?a=0&q=3")
    assert.same({
      form = { a = "2" }, one = "2", all = { "0", "1", "2" }, q = "3",
      files = {
        { "f", "small", "t/f", 600, 600, false }, { "f", "big", "t/f", 300000, 300000, true },
        { "g", "second", "t/g", 600, 600, true }, { "e", "empty", "t/e", 0, 0, true },
      },
    }, r:json())
    assert.is_true(assert(fs.read(dir .. "/f2")) == big)
    assert.equal(("g"):rep(600), assert(fs.read(dir .. "/f3")))
    assert.equal("", assert(fs.read(dir .. "/f4")))
    -- Temporary files end with the request.
    kept[2].at = 0
    assert.same({ nil, "closed" }, { kept[2]:read() })
  end)

  it("limits forms", function()
    client = testing.serve(function(req)
      return assert(req:form { max_fields = 2, max_field = 10, max_part = 100, max_total = 150 }).a
    end)
    local file = 'Content-Disposition: form-data; name="f"; filename="x"\r\n\r\n'
    assert.equal(200, post(body_of(field("a", "1"), field("b", ("2"):rep(10)), file .. ("x"):rep(100))).status)
    assert.equal(413, post(body_of(field("a", "1"), field("b", "2"), field("c", "3"))).status)
    assert.equal(413, post(body_of(field("a", ("1"):rep(11)))).status)
    assert.equal(413, post(body_of(field("a", "1"), file .. ("x"):rep(101))).status)
    assert.equal(413, post(body_of(field("a", "1"), file .. ("x"):rep(100), file .. ("x"):rep(60))).status)
  end)

  it("takes the forms of curl", function()
    local app = http.app()
    app:post("/", show)
    app:post("/form", function(req)
      local form, files = req:form()
      return form["größe"] .. "|" .. files.f.filename .. "|" .. files.f.size
    end)
    client = testing.serve(app, { tls = false })
    assert(fs.write(dir .. '/a "quoted" ☃.txt', ("x"):rep(5000)))
    local function curl(target, ...)
      local r = assert(exec.run { "curl", "-sS", "-F", "größe=1", "-F", 'f=@"' .. dir .. '/a \\"quoted\\" ☃.txt"',
        "http://" .. client.addr .. target, ... })
      return r.stdout .. r.stderr
    end
    local sent = ('größe|-|-|1\nf|a "quoted" ☃.txt|text/plain|%s'):format(("x"):rep(5000))
    assert.equal(sent, curl "/")
    assert.equal(sent, curl("/", "--form-escape"))
    assert.equal(sent, curl("/", "-H", "Expect: 100-continue"))
    assert.equal(sent, curl("/", "-H", "Transfer-Encoding: chunked"))
    assert.equal('1|a "quoted" ☃.txt|5000', curl "/form")
  end)
end)

