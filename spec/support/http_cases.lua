--- What HTTP/1 must be answered: the table of spec/http_conformance_spec.lua.
--
-- A case is { "paragraph", bytes, status, stays, body }: the RFC and section (9112, 9110, or 3986), the request, the
-- status of its answer, whether the connection goes on behind it, and, where it says something, the answer's body. The
-- app that answers is the spec's. `cases` is in sections, whose names stand in messages.
--
-- A paragraph may be "ours": RFCs leave the choice, and DESIGN's "Bad input" or nginx's habit decides.

local cases, n_all = {}, 0

local list
local function section(name)
  list = { name = name }
  cases[#cases + 1] = list
end

local function case(rfc, bytes, status, stays, body)
  n_all = n_all + 1
  list[#list + 1] = { rfc = rfc, bytes = bytes, status = status, stays = stays, body = body }
end

local H = "Host: x\r\n"

-- Refused, and the connection ends; served, and it stays.
local function bad(rfc, bytes, status) case(rfc, bytes, status or 400, false) end
local function good(rfc, bytes, body) case(rfc, bytes, 200, true, body) end

-- Requests with this in one place.
local function line(text) return text .. "\r\n" .. H .. "\r\n" end
local function target(text) return "GET " .. text .. " HTTP/1.1\r\n" .. H .. "\r\n" end
local function host(value) return "GET /host HTTP/1.1\r\nHost:" .. value .. "\r\n\r\n" end
local function field(text) return "GET /ok HTTP/1.1\r\n" .. H .. text .. "\r\n\r\n" end
local function show(text) return "GET /field HTTP/1.1\r\n" .. H .. text .. "\r\n\r\n" end
local function post(fields, body) return "POST /body HTTP/1.1\r\n" .. H .. fields .. "\r\n\r\n" .. (body or "") end
local function chunks(body) return post("Transfer-Encoding: chunked", body) end

section "request line"
for _, method in ipairs {
  "GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "PURGE",
} do
  good("9110 9.1", line(method .. " /method HTTP/1.1"), method)
end
good("9110 9.1", line "QUERY /method HTTP/1.1", "QUERY")
good("9110 9.1", line "x!#$%&'*+-.^_`|~09 /method HTTP/1.1", "x!#$%&'*+-.^_`|~09")
case("9110 15.5.6", line "QUERY /ok HTTP/1.1", 405, true)
case("9110 15.5.6", line "DELETE /ok HTTP/1.1", 405, true)
case("9110 15.5.5", line "QUERY /nowhere HTTP/1.1", 404, true)
for _, method in ipairs { "BREW", "get", "Get", "GETX", "G", "GE", "query", "DESCRIBE", "PRI", "a", ("M"):rep(300) } do
  bad("9110 9.1", line(method .. " /ok HTTP/1.1"), 501)
end
for _, text in ipairs {
  " /ok HTTP/1.1", "G{T /ok HTTP/1.1", "G@T /ok HTTP/1.1", "(GET) /ok HTTP/1.1", "G\128T /ok HTTP/1.1",
  "G\0T /ok HTTP/1.1", "GET\t/ok HTTP/1.1", "GET  /ok HTTP/1.1", "\tGET /ok HTTP/1.1", "GET /ok  HTTP/1.1",
  "GET /ok\tHTTP/1.1", "GET /ok HTTP/1.1 ", "GET /ok HTTP/1.1\t", "GET /ok", "GET /ok ", "GET", "GET ", "what",
  "GET HTTP/1.1", "GET  HTTP/1.1", "GET /ok a HTTP/1.1", "GET /o k HTTP/1.1", "GET /ok HTTP/1.1\rX: y",
  "GET /ok http/1.1", "GET /ok HTTP/1", "GET /ok HTTP/11", "GET /ok HTTP/1.", "GET /ok HTTP/1.10", "GET /ok HTTP/01.1",
  "GET /ok HTTP/1.1x", "GET /ok HTTP/ 1.1", "GET /ok HTTP/1 .1", "GET /ok HTTP/A.1", "GET /ok HTTP/1.A",
  "GET /ok HTTP/-1.1",
  "GET /ok HTTP 1.1", "GET /ok HTTPS/1.1", "GET /ok RTSP/1.0", "OPTIONS * RTSP/1.0", "DESCRIBE /ok RTSP/1.0",
  "SOURCE /ok ICE/1.0", "GET /ok ICE/1.0", "GET /ok SIP/2.0",
} do
  bad("9112 3", line(text))
end
bad("9112 2.2", "GET /ok HTTP/1.1\n" .. H .. "\r\n")
bad("9112 2.2", "GET /ok HTTP/1.1\r\r\n" .. H .. "\r\n")
bad("ours", "\22\3\1\2\0\1\0\1\252\3\3" .. ("x"):rep(60)) -- TLS on a plain port
bad("ours", "SSH-2.0-OpenSSH_9.2\r\n\r\n")
for _, version in ipairs { "0.9", "2.0", "2.1", "3.0" } do
  bad("9110 15.6.6", line("GET /ok HTTP/" .. version), 505)
end
bad("ours", line "GET /ok HTTP/0.0")
bad("ours", line "GET /ok HTTP/9.9")
bad("9113 3.4", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505)
good("9110 2.5", line "GET /ok HTTP/1.2", "ok")
good("9110 2.5", line "GET /version HTTP/1.9", "1.1")
case("9112 9.3", line "GET /version HTTP/1.0", 200, false, "1.0")
bad("9110 9.3.6", line "CONNECT x:80 HTTP/1.1", 405)
bad("9110 9.3.6", line "CONNECT / HTTP/1.1", 405)
for _, before in ipairs { "\r\n", "\r\n\r\n\r\n", "\n", "\r\n\n" } do
  good("9112 2.2", before .. line "GET /ok HTTP/1.1", "ok")
end
good("9112 2.2", post("Content-Length: 3", "abc") .. "\r\n", "abc")
good("9112 2.2", chunks "3\r\nabc\r\n0\r\n\r\n" .. "\r\n\r\n", "abc")
bad("9112 2.2", " " .. line "GET /ok HTTP/1.1")
bad("9112 2.2", "\r\n " .. line "GET /ok HTTP/1.1")

section "targets"
for _, byte in ipairs { 0, 1, 8, 9, 11, 12, 27, 31, 127 } do
  bad("9112 3.2", target("/path/a" .. string.char(byte) .. "b"))
  bad("9112 3.2", target("/query?a=a" .. string.char(byte) .. "b"))
end
bad("9112 3.2", target "/ok#part")
bad("9112 3.2", target "/query?a=b#part")
for _, text in ipairs { "zo\195\171", "\128", "\255\254", "caf\233" } do
  good("ours", target("/path/" .. text), text)
  good("ours", target("/query?a=" .. text), text)
end
good("ours", target "/path/zo%C3%AB\195\171", "zo\195\171\195\171")
good("3986 3.4", target "/query?a=[]{}|^`\"<>\\", "[]{}|^`\"<>\\")
good("3986 3.3", target "/path/a%2Fb", "a/b")
good("3986 5.2.4", target "/path/../ok", "ok")
for _, path in ipairs {
  "/path/%", "/path/%4", "/path/%zz", "/path/a%00b", "/../x", "/path/../../x", "/path/%2e%2e/%2E%2E/x",
} do
  case("3986 2.1", target(path), 400, true)
end
good("9112 3.2.2", target "http://h/ok", "ok")
good("9112 3.2.2", target "HTTP://H/ok", "ok")
good("9112 3.2.2", target "https://h/ok", "ok")
good("9112 3.2.2", target "http://h:81/host", "h:81")
good("9112 3.2.2", target "http://h:65535/ok", "ok")
good("9112 3.2.2", target "http://[::1]:80/host", "[::1]:80")
good("9112 3.2.2", target "http://h%41/ok", "ok")
good("9112 3.2.2", target "http://h", "root")
good("9112 3.2.2", target "http://h?a=1", "root")
good("9112 3.2.2", target "a+b-c.1://h/ok", "ok")
for _, text in ipairs {
  "http://", "http:///ok", "http://?a", "http://:80/ok", "http://u@h/ok", "http://u:p@h/ok", "http://h:x/ok",
  "http://h:65536/ok", "http://h:-1/ok", "http://[::1/ok", "http://[::g]/ok", "http://[1.2.3.4]/ok", "http://::1/ok",
  "http://a,b/ok", "http://{h}/ok", "http://h%zz/ok", "http://h\128/ok", "http://h\\ok", "http:/ok", "http:ok",
  "://h/ok", "1http://h/ok", "ht_tp://h/ok", "mailto:x", "h:80", "x", "ok/", "?a=1", "*/", "**", "\128",
} do
  bad("9112 3.2.2", target(text))
end
bad("9112 3.2.4", target "*")
case("9112 3.2.4", line "OPTIONS * HTTP/1.1", 204, true)
bad("9112 3.2", "GET http://h/ok HTTP/1.1\r\nHost: a b\r\n\r\n")
bad("9112 3.2", "GET http://h/ok HTTP/1.1\r\n\r\n")
case("9112 3", target("/" .. ("x"):rep(8191)), 404, true)
bad("9110 15.5.15", target("/" .. ("x"):rep(8192)), 414)
bad("9110 15.5.15", target("/" .. ("x"):rep(30000)), 414)

section "hosts"
for _, value in ipairs {
  "x", "X", "x:80", "x:", "x:0", "x:00080", "x:65535", "127.0.0.1", "127.0.0.1:8080", "999.1.2.3", "[::1]",
  "[::1]:8080",
  "[::1]:", "[::ffff:1.2.3.4]", "[1:2:3:4:5:6:7:8]", "a-b.c_d~e.", "xn--bcher-kva.example", "x%41", "x%C3%AB",
  "!$&'()*+;=",
} do
  good("9110 7.2", host(" " .. value), value)
end
good("9110 5.5", host "\t x \t", "x")
good("9110 7.2", host "", "")
for _, value in ipairs {
  "x:65536", "x:99999999999999999999", "x:8o", "x:-1", "x:+1", "x: 80", "x :80", "x:80:80", "x::80", ":80", ":", "u@x",
  "u:p@x", "@x", "x/", "x/y", "http://x", "x?y", "x#y", "x,y", "x, y", "x y", "x\ty", "{x}", "x\128", "zo\195\171",
  "[::1", "::1", "[]", "[::g]", "[::1]x", "[::1]:x", "[::1]]", "[[::1]]", "[fe80::1%25eth0]", "[v1.a]", "[127.0.0.1]",
  "x%", "x%4", "x%zz", "x\\y", "x|y", "x^y", "`x`", "\"x\"", "<x>", "x\1", "x\127",
} do
  bad("9112 3.2", host(" " .. value))
end
bad("9112 3.2", "GET /ok HTTP/1.1\r\n\r\n")
bad("9112 3.2", "GET /ok HTTP/1.1\r\nX-Host: x\r\n\r\n")
bad("9112 3.2", "GET /ok HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n")
bad("9112 3.2", "GET /ok HTTP/1.1\r\nHost: x\r\nA: b\r\nhOST: y\r\n\r\n")
bad("9112 3.2", "GET /ok HTTP/1.1\r\nHost:\r\nHost: y\r\n\r\n")
bad("9112 3.2", "GET /ok HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n")
bad("9112 3.2", "GET /ok HTTP/1.0\r\nHost: u@x\r\n\r\n")
case("9112 3.2", "GET /ok HTTP/1.0\r\n\r\n", 200, false, "ok")

section "fields"
for c in ("(),/;<=>?@[\\]{}\" \t"):gmatch "." do
  bad("9110 5.1", field("X" .. c .. "Y: 1"))
end
for _, text in ipairs {
  ":", ": x", "X : x", "X\t: x", "X", "no colon", "X\128: x", "X\0: x", "X\1: x", "\1: x", "X\127: x",
} do
  bad("9112 5.1", field(text))
end
bad("9112 5.1", "GET /ok HTTP/1.1\r\n: x\r\n" .. H .. "\r\n")
good("9110 5.1", field "!#$%&'*+-.^_`|~09azAZ: x", "ok")
good("9110 5.5", show "X-A: b", "b")
good("9110 5.5", show "x-a:b", "b")
good("9110 5.5", show "X-A: \t b \t \t", "b")
good("9110 5.5", show "X-A:\tb\tc\t", "b\tc")
good("9110 5.5", show "X-A:", "")
good("9110 5.5", show "X-A: \t", "")
good("9110 5.5", show "X-A: caf\233 \255", "caf\233 \255")
good("9110 5.5", show "X-A: \"a, b\":;=", "\"a, b\":;=")
good("9110 5.3", show "X-A: 1\r\nX-A: 2", "1, 2")
for _, byte in ipairs { 0, 1, 7, 8, 11, 12, 14, 27, 31, 127 } do
  bad("9110 5.5", field("X: a" .. string.char(byte) .. "b"))
end
for _, text in ipairs {
  "X: a\r\n b", "X: a\r\n\tb", "X: a\r\n b\r\nY: c", "X:\r\n b", "X: a\r\n \r\nY: c", "X: a\n b", "X: a\r\n  ", " X: a",
} do
  bad("9112 5.2", field(text))
end
bad("9112 2.2", "GET /ok HTTP/1.1\r\n " .. H .. "\r\n")
bad("9112 2.2", "GET /ok HTTP/1.1\r\n\t\r\n" .. H .. "\r\n")
for _, text in ipairs { "X: a\rb", "X: a\r", "X: a\nY: b", "X: a\r\r", "\r", "X: a\n" } do
  bad("9112 2.2", field(text))
end
bad("9112 2.2", "GET /ok HTTP/1.1\nHost: x\n\n")
bad("9112 2.2", "GET /ok HTTP/1.1\r\nHost: x\r\n\n")
bad("9112 2.2", "GET /ok HTTP/1.1\r\nHost: x\n\r\n")
good("6585 5", field(("X: y\r\n"):rep(98) .. "X: y"), "ok")
bad("6585 5", field(("X: y\r\n"):rep(99) .. "X: y"), 431)
good("6585 5", show("X-A: " .. ("a"):rep(15000)), ("a"):rep(15000))
bad("6585 5", field("X: " .. ("a"):rep(17000)), 431)
bad("6585 5", field("X: " .. ("a"):rep(70000)), 431)

section "Connection"
for _, text in ipairs {
  "close", "Close", "CLOSE", "close ", "close\t", "\tclose", "close, x", "x, close", "x,close", "x,\tclose",
  "x\t,close\t",
  "keep-alive, close", "close, keep-alive", "keep-alive\r\nConnection: close", "close\r\nConnection: keep-alive",
} do
  case("9112 9.6", field("Connection: " .. text), 200, false, "ok")
end
for _, text in ipairs {
  "keep-alive", "Keep-Alive\t", "", "x", "closed", "xclose", "close-x", ",,", "upgrade", "content-length", "te",
} do
  good("9112 9.3", field("Connection: " .. text), "ok")
end
case("9112 9.3", "GET /ok HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, true, "ok")
case("9112 9.3", "GET /ok HTTP/1.0\r\nConnection:\tKeep-Alive\t\r\n\r\n", 200, true, "ok")
case("9112 9.3", "GET /ok HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", 200, false, "ok")
case("9112 9.3", "GET /ok HTTP/1.0\r\nConnection: x\r\n\r\n", 200, false, "ok")
good("9110 7.8", field "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk", "ok")
good("9110 7.8", field "Connection: upgrade\r\nUpgrade: websocket", "ok")
good("9110 7.8", post("Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3", "abc"), "abc")

section "Content-Length"
good("9112 6.3", post("Content-Length: 3", "abc"), "abc")
good("9112 6.3", post("content-length:3", "abc"), "abc")
good("9112 6.3", post("Content-Length: 003", "abc"), "abc")
good("9112 6.3", post("Content-Length: \t3\t ", "abc"), "abc")
good("9112 6.3", post("Content-Length:\t3\t", "abc"), "abc")
good("9112 6.3", post("Content-Length: 0", ""), "")
good("9112 6.3", post("X: y", ""), "")
good("9112 6.3", "GET /body HTTP/1.1\r\n" .. H .. "Content-Length: 3\r\n\r\nabc", "abc")
good("9112 6.3", post("Content-Length: 19", "GET / HTTP/1.1\r\n\r\n\n"), "GET / HTTP/1.1\r\n\r\n\n")
for _, text in ipairs {
  "", " ", "+3", "-3", "0x3", "3 4", "3a", "a", "3,", "3, 3", "3,3", "3.0", "3;", "'3'", "\"3\"", "3\t4",
  "18446744073709551619", "99999999999999999999999999", "3\r\nContent-Length: 3", "3\r\nContent-Length: 4",
} do
  bad("9112 6.3", post("Content-Length: " .. text, "abc"))
end
for _, text in ipairs { "1048577", "4294967299", "900000000000000000" } do
  bad("9110 15.5.14", post("Content-Length: " .. text, "abc"), 413)
end
bad("9112 5.1", post("Content-Length : 3", "abc"))

section "Transfer-Encoding"
local EMPTY = "0\r\n\r\n"
for _, text in ipairs {
  "chunked", "CHUNKED", "Chunked\t", "\tchunked", " chunked  ", ",chunked", "chunked,", "chunked , ,\t",
} do
  good("9112 6.1", post("Transfer-Encoding:" .. text, "3\r\nabc\r\n" .. EMPTY), "abc")
end
for _, text in ipairs {
  "", " ", ",", ", ,", "gzip", "identity", "xchunked", "chunkedx", "chunked x", "x chunked", "chunked, identity",
  "chunked, gzip", "chunked, chunked", "chunked\r\nTransfer-Encoding: chunked", "chunked\r\nTransfer-Encoding: gzip",
  "gzip, chunked, chunked", "chunked;q=1", "\"chunked\"", "chun ked", "chunked\vx", "chunked\r\n , x",
  "identity\r\nContent-Length: 3", "\r\nContent-Length: 3", "chunked\r\nContent-Length: 3", "x\r\nContent-Length: 3",
} do
  bad("9112 6.3", post("Transfer-Encoding: " .. text, EMPTY))
end
bad("9112 6.3", post("Content-Length: 5\r\nTransfer-Encoding: chunked", EMPTY))
bad("9112 6.3", post("Content-Length: 3\r\nTransfer-Encoding:", "abc"))
bad("9112 5.1", post("Transfer-Encoding\t: chunked", EMPTY))
bad("9112 5.1", post("Transfer-Encoding : chunked", EMPTY))
for _, text in ipairs { "gzip, chunked", "identity, chunked", "x,chunked", "gzip\r\nTransfer-Encoding: chunked" } do
  bad("9112 6.1", post("Transfer-Encoding: " .. text, EMPTY), 501)
end
for _, fields in ipairs { "", "Connection: keep-alive\r\n", "Host: x\r\nConnection: keep-alive\r\n" } do
  bad("9112 6.1", "POST /body HTTP/1.0\r\n" .. fields .. "Transfer-Encoding: chunked\r\n\r\n" .. EMPTY)
end

section "chunks"
for _, size in ipairs { "3", "03", "0000000000000000000000000003" } do
  good("9112 7.1", chunks(size .. "\r\nabc\r\n" .. EMPTY), "abc")
end
good("9112 7.1", chunks(EMPTY), "")
good("9112 7.1", chunks "1\r\na\r\n1\r\nb\r\n00\r\n\r\n", "ab")
good("9112 7.1", chunks("A\r\n0123456789\r\nb\r\n0123456789a\r\n" .. EMPTY), "01234567890123456789a")
good("9112 7.1", chunks("2\r\n\r\n\r\n" .. EMPTY), "\r\n")
good("9112 7.1", chunks("10\r\n" .. ("x"):rep(16) .. "\r\n" .. EMPTY), ("x"):rep(16))
for _, ext in ipairs {
  ";a", ";a=b", ";a=\"b\"", ";a=\"\"", ";a=\"b;c\"", ";a=\"b\\\"c\"", ";a=\"\\\\\"", ";a=\"\\;\t \"", ";a=\"caf\233\"",
  ";a;b", ";a=b;c=\"d\";e", " ;a", "\t;a", "; a", ";\ta", "; a = b", " ; a = \"b\"", ";a =b", ";a= b", ";a \t;b",
  ";a=b ;c", ";a=\"b\" ;c", ";!#$%&'*+-.^_`|~=!#$%&'*+-.^_`|~", ";" .. ("a"):rep(300), ";a=\"[]{}(),/:;<=>?@\"",
} do
  good("9112 7.1.1", chunks("3" .. ext .. "\r\nabc\r\n0" .. ext .. "\r\n\r\n"), "abc")
end
for _, ext in ipairs {
  " ", "\t", ";", ";;", ";=", ";=b", ";a=", ";a==b", ";a b", ";a=b c", ";a=b=c", ";a=\"b", ";a=\"b\"c", ";a=\"b\\",
  ";a=b\"c\"",
  ";a=\"b\1\"", ";a=\"b\127\"", ";a=\"\\\1\"", ";(a)", ";a=(b)", ";a,b", ";a\128", ";a\0", ";a ", ";a=b ",
  ";a=\"b\" ", " a",
  "=a", ",", ";a\rb", ";a\nb", ";a=\"\rb\"", ";a=\"\nb\"", "\v",
} do
  bad("9112 7.1.1", chunks("3" .. ext .. "\r\nabc\r\n" .. EMPTY))
end
for _, body in ipairs {
  "x", "g\r\n", "-3\r\nabc\r\n", "+3\r\nabc\r\n", "0x3\r\nabc\r\n", " 3\r\nabc\r\n", "\r\nabc\r\n", ";a\r\nabc\r\n",
  "3.\r\nabc\r\n",
  "3\nabc\r\n", "3\rabc\r\n", "3\r\nabc\n", "3\r\nabcXX", "3\r\nabc\rX", "3\r\nab\r\n0\r\n\r\n", "3\r\nabcd\r\n",
  "10000000000000003\r\nabc\r\n", "FFFFFFFFFFFFFFFFF\r\nabc\r\n", "3\r\nabc\r\n\r\n0\r\n\r\n",
} do
  bad("9112 7.1", chunks(body .. EMPTY))
end
for _, size in ipairs { "100001", "FFFFFFFF", "7FFFFFFFFFFFFF" } do
  bad("9110 15.5.14", chunks(size .. "\r\nabc"), 413)
end

section "trailers"
local function trailers(text) return chunks("3\r\nabc\r\n0\r\n" .. text .. "\r\n\r\n") end
good("9112 7.1.2", trailers "X-T: 1", "abcX-T=1;")
good("9112 7.1.2", trailers "X-T:\t 1 \t", "abcX-T=1;")
good("9112 7.1.2", trailers "A: 1\r\nB:\r\nA: 2", "abcA=1;B=;A=2;")
good("9112 7.1.2", trailers "X-A: 1", "abcX-A=1;") -- no header field
good("9110 6.5.1", trailers "Host: y", "abcHost=y;")
good("9110 6.5.1", trailers "Content-Length: 9", "abcContent-Length=9;")
good("9110 6.5.1", trailers "Expect: x", "abcExpect=x;")
good("9110 5.5", trailers "X: caf\233", "abcX=caf\233;")
good("6585 5", trailers(("A: b\r\n"):rep(99) .. "A: b"), "abc" .. ("A=b;"):rep(100))
for _, text in ipairs {
  ":", ": x", "X", "X : y", "X\t: y", " X: y", "\tX: y", "X: a\r\n b", "X: a\r\n\tb", "X: a\nY: b", "X: a\rb",
  "X: \0", "X: \1",
  "X: \127", "X Y: z", "X\128: y", ("A: b\r\n"):rep(100) .. "A: b", "X: " .. ("y"):rep(17000), "\r",
} do
  bad("9112 7.1.2", trailers(text))
end
bad("9112 7.1.2", chunks "3\r\nabc\r\n0\r\n\n")
bad("9112 7.1.2", chunks "3\r\nabc\r\n0\r\n\rX\r\n\r\n")

section "Expect"
local GO_ON = "100-continue"
good("9110 10.1.1", post("Expect: " .. GO_ON .. "\r\nContent-Length: 3", "abc"), "abc")
good("9110 10.1.1", post("Expect: 100-CONTINUE\t\r\nContent-Length: 3", "abc"), "abc")
good("9110 10.1.1", field("Expect: " .. GO_ON), "ok")
case("9110 10.1.1", "POST /body HTTP/1.0\r\nExpect: " .. GO_ON .. "\r\nContent-Length: 3\r\n\r\nabc", 200, false, "abc")
for _, text in ipairs {
  "", " ", "x", "100", "100-continue, x", "x, 100-continue", "100-continue;a=b", "\"100-continue\"",
} do
  bad("9110 10.1.1", post("Expect: " .. text .. "\r\nContent-Length: 3", "abc"), 417)
end

section "HEAD" -- an answer has no body, whoever gives it
local function head(text, fields) return "HEAD " .. text .. "\r\n" .. (fields or H) .. "\r\n" end
good("9110 9.3.2", head "/ok HTTP/1.1", "")
case("9110 9.3.2", head "/nowhere HTTP/1.1", 404, true, "")
case("9110 9.3.2", head "/path/%zz HTTP/1.1", 400, true, "")
case("9110 9.3.2", head "/ok HTTP/1.0", 200, false, "")
for _, text in ipairs { "/ok HTTP/1.1x", "/ok RTSP/1.0", "/o\1k HTTP/1.1", "x HTTP/1.1", "/ok#x HTTP/1.1" } do
  case("9110 9.3.2", head(text), 400, false, "")
end
case("9110 9.3.2", head "/ok HTTP/2.0", 505, false, "")
case("9110 9.3.2", head("/ok HTTP/1.1", ""), 400, false, "")
case("9110 9.3.2", head("/ok HTTP/1.1", H .. ": x\r\n"), 400, false, "")
case("9110 9.3.2", head("/ok HTTP/1.1", H .. "Expect: x\r\n"), 417, false, "")
case("9110 9.3.2", head("/ok HTTP/1.1", H .. "Content-Length: 9999999\r\n"), 413, false, "")
case("9110 9.3.2", head("/ok HTTP/1.1", H .. "Transfer-Encoding: x, chunked\r\n"), 501, false, "")
case("9110 9.3.2", head("/" .. ("x"):rep(9000) .. " HTTP/1.1"), 414, false, "")
case("9110 9.3.2", head("/ok HTTP/1.1", H .. ("X: y\r\n"):rep(100)), 431, false, "")

cases.n = n_all
return cases
