std = "luajit"
max_line_length = 120

files["spec"] = { std = "+busted" }
-- Scripts and specs may call os.exit; it has to stop the whole host, not only its caller.
files["lua/lunapark/command/boot.lua"] = { ignore = { "122/os" } }
-- wrk calls it.
files["host/bench/requests.wrk.lua"] = { read_globals = { "wrk" }, globals = { "init", "request" } }
