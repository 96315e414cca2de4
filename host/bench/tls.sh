#!/bin/sh
# HTTPS beside nginx (its Lua module answers "hello"), with the same certificate (ECDSA, P-256), version and cipher.
#
#     [ROUNDS=5] [SECS=3] [SHAKES=4000] [IDLE=1000] [ROWS="hello full resumed file"] tls.sh [BUILD_DIR]
#
# As hello.sh: each server on one core, its client on another, in turns; medians of times and of the rounds' ratios. The
# rows:
#
#     hello              13 bytes of text, kept connections
#     full, resumed      a connection with its handshake, a request and its end; TLS 1.3, tickets
#     file               10 MiB of a file
#     idle               kB of resident memory for each of IDLE connections that have had an answer
#     4 Ps               full handshakes with 4 Ps on both CPUs, CPU beside that with 1 P
set -u

b=${1:-build}
rounds=${ROUNDS:-5}
secs=${SECS:-3}
shakes=${SHAKES:-4000}
idle=${IDLE:-1000}
rows=${ROWS:-hello full resumed file}
here=$(dirname "$0")
me=bench-tls
over_tls=ssl
. "$here/lib.sh"

has_nginx || fail "needs nginx with its Lua module: libnginx-mod-http-lua"

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$tmp/site.key" -out "$tmp/site.pem" 2>/dev/null ||
    fail "openssl cannot make a certificate"
mkdir -p "$tmp/files"
head -c 10485760 /dev/urandom >"$tmp/files/10.bin"
cat >"$tmp/app.lua" <<'END'
local app = require("lunapark.http").app()
app:get("/", function() return "Hello, World!" end)
app:static("/files", "files")
return app
END

start_https() { # $1 CPUs, $2 Ps
    taskset -c "$1" "$b/lunapark" "$tmp/app.lua" --procs "$2" --listen 127.0.0.1:0 \
        --tls-cert "$tmp/site.pem" --tls-key "$tmp/site.key" >/dev/null 2>"$tmp/lunapark.log" &
    started
    wait_port "$tmp/lunapark.log" 's|^lunapark: listening on https://127.0.0.1:\([0-9]*\)$|\1|p' lunapark
}

start_https "$server_cpu" 1
lunapark_pid=$pid lunapark_port=$port
start_nginx "ssl_certificate $tmp/site.pem; ssl_certificate_key $tmp/site.key; ssl_protocols TLSv1.2 TLSv1.3;
    ssl_prefer_server_ciphers on; ssl_session_cache off; ssl_session_tickets on;
    location / { content_by_lua_block { ngx.header[\"Content-Length\"] = 13 ngx.print(\"Hello, World!\") } }
    location /files/ { alias $tmp/files/; }" "sendfile on; open_file_cache max=1000; open_file_cache_valid 2s;"
nginx_pid=$pid nginx_port=$port

cipher_of() { # $1 port
    openssl s_client -connect "127.0.0.1:$1" </dev/null 2>/dev/null | sed -n 's/^New, \(.*\)/\1/p'
}
cipher=$(cipher_of "$lunapark_port")
[ "$cipher" = "$(cipher_of "$nginx_port")" ] || fail "the servers choose different ciphers: $cipher, $(cipher_of "$nginx_port")"

cpu_ticks() { # $1 pid: user and system
    sed 's/^.*) //' "/proc/$1/stat" | awk '{ print $12, $13 }'
}

# Appends us of CPU per request: $1 name, $2 pid, $3 row, $4 requests, $5 ticks before
note() {
    echo "$5 $(cpu_ticks "$2")" | awk -v hz="$ticks" -v n="$4" -v out="$tmp/$3.$1" '{
        user = ($3 - $1) * 1e6 / hz / n; sys = ($4 - $2) * 1e6 / hz / n
        printf "%.3f %.3f %.3f\n", user, sys, user + sys >>out
    }'
}

wrk_round() { # $1 name, $2 pid, $3 port, $4 row, $5 connections, $6 path
    before=$(cpu_ticks "$2") || fail "$1 is gone"
    taskset -c "$client_cpu" wrk -t1 -c"$5" -d"${secs}s" --timeout 60s "https://127.0.0.1:$3$6" >"$tmp/wrk.out" 2>&1 || {
        cat "$tmp/wrk.out" >&2
        fail "wrk failed"
    }
    if grep -E 'Socket errors|Non-2xx' "$tmp/wrk.out"; then fail "$1 did not answer every request"; fi
    note "$1" "$2" "$4" "$(awk '/ requests in / { print $1 }' "$tmp/wrk.out")" "$before"
}

shake_round() { # $1 name, $2 pid, $3 port, $4 row, $5 the client's CPUs, $6 kind
    before=$(cpu_ticks "$2") || fail "$1 is gone"
    got=$(taskset -c "$5" "$b/host/bench/shake" "$3" "$6" "$shakes") || fail "$1: handshakes failed"
    note "$1" "$2" "$4" "$shakes" "$before"
    [ "$6" = full ] || [ "$got" -ge $((shakes - 8)) ] || fail "$1: only $got of $shakes sessions were resumed"
}

one_round() { # $1 name, $2 pid, $3 port, $4 row
    case $4 in
    hello) wrk_round "$1" "$2" "$3" "$4" 64 / ;;
    file) wrk_round "$1" "$2" "$3" "$4" 8 /files/10.bin ;;
    *) shake_round "$1" "$2" "$3" "$4" "$client_cpu" "$4" ;;
    esac
}

column() { # $1 file, $2 column: its median
    awk -v c="$2" '{ print $c }' "$1" >"$tmp/column"
    median "$tmp/column"
}

ratio() { # $1, $2 files: the median of the rounds' ratios of totals
    paste "$1" "$2" | awk '{ print $3 / $6 }' >"$tmp/column"
    median "$tmp/column"
}

echo "HTTPS, $rounds rounds, server on CPU $server_cpu, client on CPU $client_cpu, $cipher; us of CPU (user + system)"
for row in $rows; do
    round=0
    while [ "$round" -le "$rounds" ]; do
        for s in lunapark nginx; do eval "one_round $s \$${s}_pid \$${s}_port $row"; done
        [ "$round" -gt 0 ] || rm "$tmp/$row".* # warms up
        round=$((round + 1))
    done
    line="  $row:"
    for s in lunapark nginx; do
        line="$line $s $(printf '%.2f (%.2f + %.2f)' "$(column "$tmp/$row.$s" 3)" "$(column "$tmp/$row.$s" 1)" "$(column "$tmp/$row.$s" 2)")"
    done
    echo "$line, lunapark $(printf %.3f "$(ratio "$tmp/$row.lunapark" "$tmp/$row.nginx")") x nginx"
done

resident() { # $1 pid, kB
    awk '/^VmRSS/ { print $2 }' "/proc/$1/status"
}

idle_kb() { # $1 pid, $2 port
    before=$(resident "$1")
    mkfifo "$tmp/hold"
    "$b/host/bench/shake" "$2" idle "$idle" <"$tmp/hold" >"$tmp/idle.out" &
    client=$!
    exec 9>"$tmp/hold"
    i=0
    until [ -s "$tmp/idle.out" ]; do
        i=$((i + 1))
        [ $i -lt 600 ] || fail "no $idle connections"
        sleep 0.1
    done
    sleep 0.5
    after=$(resident "$1")
    exec 9>&-
    wait "$client"
    rm "$tmp/hold" "$tmp/idle.out"
    awk -v a="$after" -v b="$before" -v n="$idle" 'BEGIN { printf "%.1f", (a - b) / n }'
}

echo "  idle: lunapark $(idle_kb "$lunapark_pid" "$lunapark_port") kB a connection, nginx $(idle_kb "$nginx_pid" "$nginx_port") kB"

# On both CPUs, with the client.
both=$server_cpu,$client_cpu
start_https "$both" 4
four_pid=$pid four_port=$port
start_https "$both" 1
one_pid=$pid one_port=$port
round=0
while [ "$round" -le "$rounds" ]; do
    shake_round four "$four_pid" "$four_port" ps "$both" full
    shake_round one "$one_pid" "$one_port" ps "$both" full
    [ "$round" -gt 0 ] || rm "$tmp"/ps.*
    round=$((round + 1))
done
echo "  4 Ps: $(column "$tmp/ps.four" 3) us a full handshake, 1 P $(column "$tmp/ps.one" 3) us, handshakes per CPU second $(ratio "$tmp/ps.one" "$tmp/ps.four") x"
stop_all
