#!/bin/sh
# CPU per request of several kinds, beside nginx with its Lua module, Go and Bun, as far as they are installed.
#
#     [ROUNDS=3] [SECS=2] [KINDS="hello route"] requests.sh [BUILD_DIR]
#
# Each server runs on one core, wrk with 64 connections on another. Kind by kind the servers take turns, round by round,
# after a second that warms up; the median of the rounds counts, of times and of ratios. CPU is utime and stime of
# /proc/PID/stat, all threads together, in ticks of 10 ms. The rows:
#
#     hello      13 bytes of text                  json       a table of 3 fields as JSON
#     route      two parameters, 1 of 100 routes   echo       POST of 1 KiB, sent back
#     query      two fields of the query, decoded, large      64 KiB of text from a string
#                and a header                      pipelined  hello, 16 requests at a time
#
# "above" is the user time above hello's, "x" our user and system time as a part of another's. Then hello again, by
# Lunapark alone: what five middlewares of the box add, and what --access-log adds.
set -u

b=${1:-build}
rounds=${ROUNDS:-3}
secs=${SECS:-2}
kinds=${KINDS:-hello route query json echo large pipelined}
conns=64
here=$(dirname "$0")
me=bench-requests
. "$here/lib.sh"

# What nginx sends has a Content-Length, as ours has: chunks would cost nginx more.
globals() {
    cat <<END
    init_by_lua_block {
        function answer(text)
            ngx.header["Content-Length"] = #text
            ngx.print(text)
        end
        large = ("0123456789abcdef"):rep(4096)
    }
END
}

locations() {
    i=1
    while [ $i -le 100 ]; do
        cat <<END
        location /r$i/ { content_by_lua_block {
            local m = ngx.re.match(ngx.var.uri, "^/r$i/([^/]+)/posts/([^/]+)\$", "jo")
            if not m then return ngx.exit(404) end
            answer(m[1] .. "/" .. m[2])
        } }
END
        i=$((i + 1))
    done
    cat <<END
        location = / { content_by_lua_block { answer("Hello, World!") } }
        location = /query { content_by_lua_block {
            local args = ngx.req.get_uri_args()
            answer(args.name .. args.page .. ngx.var.http_x_id)
        } }
        location = /json { default_type application/json; content_by_lua_block {
            answer(require("cjson").encode { message = "Hello, World!", id = 42, list = { 1, 2, 3 } })
        } }
        location = /echo { content_by_lua_block { ngx.req.read_body() answer(ngx.req.get_body_data()) } }
        location = /large { content_by_lua_block {
            answer(large)
        } }
END
}

start_bun() {
    taskset -c "$server_cpu" bun "$here/requests.js" >"$tmp/bun.log" 2>&1 &
    started
    wait_port "$tmp/bun.log" 's/^\([0-9][0-9]*\)$/\1/p' bun
}

start_go() {
    go build -o "$tmp/go-requests" "$here/requests.go" || fail "go build failed"
    GOMAXPROCS=1 taskset -c "$server_cpu" "$tmp/go-requests" >"$tmp/go.log" 2>&1 &
    started
    wait_port "$tmp/go.log" 's/^\([0-9][0-9]*\)$/\1/p' go
}

cpu_ticks() { # $1 pid: user and system
    sed 's/^.*) //' "/proc/$1/stat" | awk '{ print $12, $13 }'
}

# One round of wrk against the server $1 (pid $2, port $3) with requests of kind $4 for $5 seconds: appends user, system
# and total us per request to $tmp/$4.$1
measure() {
    before=$(cpu_ticks "$2") || fail "$1 is gone"
    taskset -c "$client_cpu" wrk -t1 -c$conns -d"$5s" -s "$here/requests.wrk.lua" "http://127.0.0.1:$3/" -- "$4" \
        >"$tmp/wrk.out" 2>&1 || {
        cat "$tmp/wrk.out" >&2
        fail "wrk failed"
    }
    after=$(cpu_ticks "$2") || fail "$1 is gone"
    if grep -E 'Socket errors|Non-2xx' "$tmp/wrk.out"; then fail "$1 did not answer every request ($4)"; fi
    awk -v before="$before" -v after="$after" -v hz="$ticks" '/ requests in / {
        split(before, b, " "); split(after, a, " "); k = 1e6 / hz / $1
        printf "%.3f %.3f %.3f\n", (a[1] - b[1]) * k, (a[2] - b[2]) * k, (a[1] + a[2] - b[1] - b[2]) * k
    }' "$tmp/wrk.out" >>"$tmp/$4.$1"
}

column() { # $1 file, $2 column: its median
    awk -v c="$2" '{ print $c }' "$1" >"$tmp/column"
    median "$tmp/column"
}

# Our total as a part of $1's in requests of kind $2: the median of the rounds' ratios.
ratio() {
    paste "$tmp/$2.lunapark" "$tmp/$2.$1" | awk '{ print $3 / $6 }' >"$tmp/column"
    median "$tmp/column"
}

row() { # $1 kind
    for s in $servers; do
        printf '  %-10s %-9s %7.2f user %7.2f system %7.2f in all' "$1" "$s" "$(column "$tmp/$1.$s" 1)" \
            "$(column "$tmp/$1.$s" 2)" "$(column "$tmp/$1.$s" 3)"
        if [ "$s" = lunapark ]; then
            if [ -e "$tmp/hello.$s" ]; then
                awk -v a="$(column "$tmp/$1.$s" 1)" -v b="$(column "$tmp/hello.$s" 1)" 'BEGIN { printf "   %+.2f above", a - b }'
            fi
        else
            printf '   lunapark %.2f x' "$(ratio "$s" "$1")"
        fi
        echo
    done
}

start_lunapark "$here/requests.lua" --access-log "$tmp/access.log"
logged_pid=$pid logged_port=$port
start_lunapark "$here/requests.lua"
lunapark_pid=$pid lunapark_port=$port servers=lunapark
if has_nginx; then
    start_nginx "$(locations)" "$(globals)"
    nginx_pid=$pid nginx_port=$port servers="$servers nginx"
fi
if command -v go >/dev/null; then
    start_go
    go_pid=$pid go_port=$port servers="$servers go"
fi
if command -v bun >/dev/null; then
    start_bun
    bun_pid=$pid bun_port=$port servers="$servers bun"
fi

echo "us of CPU per request, $rounds rounds of $secs s, $conns connections:"
for kind in $kinds; do
    for s in $servers; do eval "measure $s \$${s}_pid \$${s}_port $kind 1"; done
    for s in $servers; do rm "$tmp/$kind.$s"; done
    round=1
    while [ "$round" -le "$rounds" ]; do
        for s in $servers; do eval "measure $s \$${s}_pid \$${s}_port $kind $secs"; done
        round=$((round + 1))
    done
    row "$kind"
done

# ---- what is around a handler -----------------------------------------------------------------------

around() { # $1 seconds
    measure lunapark "$lunapark_pid" "$lunapark_port" hello "$1"
    measure lunapark "$lunapark_pid" "$lunapark_port" five "$1"
    measure logged "$logged_pid" "$logged_port" hello "$1"
    : >"$tmp/access.log"
}

beside_hello() { # $1 what, $2 its file
    printf '  %-22s %7.2f user %7.2f system %7.2f in all' "$1" "$(column "$2" 1)" "$(column "$2" 2)" "$(column "$2" 3)"
    paste "$2" "$tmp/hello.lunapark" >"$tmp/both"
    awk '{ print $3 / $6 }' "$tmp/both" >"$tmp/ratio"
    awk '{ print $3 - $6 }' "$tmp/both" >"$tmp/above"
    printf '   %.2f x hello, %+.2f us\n' "$(median "$tmp/ratio")" "$(median "$tmp/above")"
}

rm -f "$tmp"/hello.*
around 1
rm -f "$tmp"/hello.* "$tmp"/five.*
round=1
while [ "$round" -le "$rounds" ]; do
    around "$secs"
    round=$((round + 1))
done
beside_hello hello "$tmp/hello.lunapark"
beside_hello "in five middlewares" "$tmp/five.lunapark"
beside_hello "with --access-log" "$tmp/hello.logged"
