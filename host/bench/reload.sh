#!/bin/sh
# What reloads cost those who are served: requests that fail, the rate, and p99 under 64 keep-alive connections with 20
# reloads in 10 s, beside the same without reloads, and nginx, if that is installed, with as many `nginx -s reload`.
# Then: RSS after 10 and after 1,000 reloads, and how long one takes.
#
#     [ROUNDS=3] [SECS=10] [MANY=1000] reload.sh [BUILD_DIR]
#
# Runs with and without reloads take turns, so that a change in the machine's mood hits both; medians count, of the
# rounds' ratios. Where others use the machine as well, the server's CPU time per request says more than the rate. The server has its CPUs for itself with one P; with two it shares them with wrk, as nginx does.
# Each reload loads a changed script of 300 routes. Exit 1 if a request failed.
set -u

b=${1:-build}
rounds=${ROUNDS:-3}
secs=${SECS:-10}
many=${MANY:-1000}
reloads=$((secs * 2))
conns=64
here=$(dirname "$0")
me=bench-reload
. "$here/lib.sh"
command -v wrk >/dev/null || fail "needs wrk"
failed=0

mkdir "$tmp/app"
write_app() { # $1 generation, $2 where
    {
        echo "local app = require('lunapark.http').app()"
        echo "app:get('/', function() return 'Hello, World!' end)"
        echo "app:get('/n', function() return '$1' end)"
        echo "for i = 1, 300 do"
        echo "  app:get('/route/' .. i .. '/:name', function(req) return req.params.name .. i end)"
        echo "end"
        echo "return app"
    } >"$2"
}

start_server() { # $1 procs, $2 its CPUs
    write_app 1 "$tmp/app/app.lua"
    generation=1
    write_app 2 "$tmp/next"
    : >"$tmp/lunapark.log" # wait_port may be there before the server's shell
    taskset -c "$2" "$b/lunapark" "$tmp/app/app.lua" --procs "$1" --listen 127.0.0.1:0 >/dev/null 2>"$tmp/lunapark.log" &
    started
    wait_port "$tmp/lunapark.log" 's|^lunapark: listening on http://127.0.0.1:\([0-9]*\)$|\1|p' lunapark
}

# Changes the script and says so. No more than that: the shell has the CPUs of those whom it measures.
ask_reload() {
    mv "$tmp/next" "$tmp/app/app.lua"
    kill -HUP "$pid"
    generation=$((generation + 1))
    write_app $((generation + 1)) "$tmp/next"
}

# Waits until the script that was written last answers. Of signals that come together the kernel makes one.
until_served() {
    i=0
    until [ "$(curl -fs "http://127.0.0.1:$port/n")" = $generation ]; do
        i=$((i + 1))
        [ $i -lt 1000 ] || fail "reload $generation does not serve: $(tail -n 1 "$tmp/lunapark.log")"
        sleep 0.01
    done
}

# wrk's latency as ms
ms() {
    awk -v name="$1" '$1 == name { v = $2; if (v ~ /us$/) v /= 1000; else if (v ~ /ms$/) v += 0; else v *= 1000; print v + 0 }' "$tmp/wrk.out"
}

cpu_ticks() {
    sed 's/^.*) //' "/proc/$pid/stat" | awk '{ print $12 + $13 }'
}

# One run of wrk, with $2 called all the time 20 times in 10 s meanwhile, or not: sets $rate, $p99, $lost, $cpu (us per
# request; of nginx the master's, which is nothing)
measure() { # $1 CPUs of wrk, $2 a function or nothing
    ticks_before=$(cpu_ticks)
    taskset -c "$1" wrk -t1 -c$conns -d"${secs}s" --latency "http://127.0.0.1:$port/" >"$tmp/wrk.out" 2>&1 &
    wrk=$!
    if [ -n "$2" ]; then
        sleep 0.25
        n=0
        while [ $n -lt $reloads ]; do
            n=$((n + 1))
            $2
            [ $n = $reloads ] || sleep 0.5
        done
    fi
    wait $wrk || fail "wrk failed: $(cat "$tmp/wrk.out")"
    rate=$(awk '$1 == "Requests/sec:" { print $2 }' "$tmp/wrk.out")
    p99=$(ms 99%)
    cpu=$(awk -v t=$(($(cpu_ticks) - ticks_before)) -v hz="$ticks" '/ requests in / { print t * 1e6 / hz / $1 }' "$tmp/wrk.out")
    lost=$(awk '/Socket errors/ { gsub(",", ""); n += $4 + $6 + $8 + $10 } /Non-2xx/ { n += $NF } END { print n + 0 }' "$tmp/wrk.out")
}

signal_nginx() {
    kill -HUP "$pid"
}

ratio() { # 0 / 0 is of nginx
    awk -v a="$1" -v b="$2" 'BEGIN { print (b > 0 ? a / b : 0) }'
}

# $1 name, $2 what reloads, $3 CPUs of wrk
compare() {
    rm -f "$tmp"/rate "$tmp"/cpu "$tmp"/p99 "$tmp"/was "$tmp"/still
    total=0
    round=0
    secs_of_rounds=$secs
    secs=2
    measure "$3" ""
    secs=$secs_of_rounds
    while [ $round -lt "$rounds" ]; do
        measure "$3" ""
        still_rate=$rate still_p99=$p99 still_cpu=$cpu
        [ "$lost" = 0 ] || [ "${1#nginx}" != "$1" ] || fail "$lost requests failed without any reload"
        measure "$3" "$2"
        ratio "$rate" "$still_rate" >>"$tmp/rate"
        ratio "$p99" "$still_p99" >>"$tmp/p99"
        ratio "$cpu" "$still_cpu" >>"$tmp/cpu"
        echo "$rate" >>"$tmp/was"
        echo "$p99" >>"$tmp/still"
        total=$((total + lost))
        round=$((round + 1))
    done
    cpu=
    case $1 in lunapark*) cpu=$(printf ', CPU per request %.3f x' "$(median "$tmp/cpu")") ;; esac
    printf '  %-16s %6d failed requests, rate %3.0f %% of that without (%.0f/s), p99 %.2f x (%.1f ms)%s\n' "$1" $total \
        "$(awk -v r="$(median "$tmp/rate")" 'BEGIN { print r * 100 }')" "$(median "$tmp/was")" "$(median "$tmp/p99")" "$(median "$tmp/still")" "$cpu"
}

rss_kb() {
    awk '/^VmRSS:/ { print $2 }' "/proc/$pid/status"
}

echo "$reloads reloads in $secs s, $conns keep-alive connections, medians of $rounds rounds:"
start_server 1 "$server_cpu"
compare "lunapark, 1 P" ask_reload "$client_cpu"
failed=$((failed + total))
until_served
stop_all
start_server 2 "$server_cpu,$client_cpu"
compare "lunapark, 2 Ps" ask_reload "$server_cpu,$client_cpu"
failed=$((failed + total))
until_served
stop_all
if command -v nginx >/dev/null; then
    hello='location / { return 200 "Hello, World!"; }'
    run_nginx "$server_cpu" "$hello" "" "worker_processes 1;"
    compare "nginx, 1 worker" signal_nginx "$client_cpu"
    stop_all
    run_nginx "$server_cpu,$client_cpu" "$hello" "" "worker_processes 2;"
    compare "nginx, 2 workers" signal_nginx "$server_cpu,$client_cpu"
    stop_all
fi

echo
# Of three VMs, each with more or less garbage: the median of ten looks.
look() {
    rm -f "$tmp/rss"
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        ask_reload
        until_served
        sleep 0.1
        rss_kb >>"$tmp/rss"
    done
    median "$tmp/rss"
}
start_server 2 "$server_cpu,$client_cpu"
secs=1
measure "$client_cpu" ""
for _ in 1 2 3 4 5; do ask_reload && until_served; done
rss_10=$(look)
generation=$((generation + 10)) # look runs in a shell of its own
while [ $generation -le $((many - 10)) ]; do
    ask_reload
    until_served
done
measure "$client_cpu" ""
rss_many=$(look)
awk -v a="$rss_10" -v z="$rss_many" -v n="$many" \
    'BEGIN { printf "RSS after 10 reloads %d kB, after %d %d kB: %.2f x\n", a, n, z, z / a }'
sed -n 's/.* serves, loaded in \([0-9]*\) ms$/\1/p' "$tmp/lunapark.log" >"$tmp/took"
printf 'a reload of an app of 300 routes takes %s ms\n' "$(median "$tmp/took")"
[ $failed = 0 ] || fail "$failed requests failed"
