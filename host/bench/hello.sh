#!/bin/sh
# CPU per "hello" request: Lunapark beside a bare epoll loop, and nginx with its Lua module if that
# is installed. Then: 1,000 handlers asleep at once on one P.
#
#     [ROUNDS=5] [SECS=4] hello.sh [BUILD_DIR]
#
# Each server runs on one core with one thread's worth of work, wrk on another. The servers take
# turns, round by round, so that a change in the machine's mood hits all of them; the median counts,
# of the times and of the rounds' ratios. One round before the first warms up and is not counted. CPU is utime + stime of /proc/PID/stat, all threads together, in ticks of 10 ms.
set -u

b=${1:-build}
rounds=${ROUNDS:-5}
secs=${SECS:-4}
conns=64
here=$(dirname "$0")
me=bench
. "$here/lib.sh"

# ---- measuring -------------------------------------------------------------------------------------

cpu_ticks() { # $1 pid
    sed 's/^.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'
}

# One round of wrk against the server $1 (pid $2, port $3): appends us per request to $tmp/$1.us
measure() {
    before=$(cpu_ticks "$2") || fail "$1 is gone"
    taskset -c "$client_cpu" wrk -t1 -c$conns -d"${secs}s" "http://127.0.0.1:$3/" >"$tmp/wrk.out" 2>&1 || {
        cat "$tmp/wrk.out" >&2
        fail "wrk failed"
    }
    after=$(cpu_ticks "$2") || fail "$1 is gone"
    if grep -E 'Socket errors|Non-2xx' "$tmp/wrk.out"; then fail "$1 did not answer every request"; fi
    requests=$(awk '/ requests in / { print $1 }' "$tmp/wrk.out")
    [ "${requests:-0}" -gt 0 ] || fail "$1 answered nothing"
    us=$(awk -v t=$((after - before)) -v hz="$ticks" -v n="$requests" 'BEGIN { printf "%.3f", t * 1e6 / hz / n }')
    echo "$us" >>"$tmp/$1.us"
    eval "us_$1=\$us"
    printf '  %s %.2f us (%s/s)' "$1" "$us" $((requests / secs))
}

# One round of all servers; the ratios of this round go to $tmp/A:B.ratio
measure_all() {
    for s in $servers; do eval "measure $s \$${s}_pid \$${s}_port"; done
    echo
    ratio lunapark bare
    case $servers in *nginx*) ratio nginx bare && ratio lunapark nginx ;; esac
}
ratio() {
    eval "awk \"BEGIN { print \$us_$1 / \$us_$2 }\"" >>"$tmp/$1:$2.ratio"
}

start_lunapark "$here/../../scripts/hello.lua"
lunapark_pid=$pid lunapark_port=$port
# What Lunapark answers wrk is what the bare loop answers, byte for byte (its Date stands still).
curl -fsi "http://127.0.0.1:$port/" >"$tmp/answer" || fail "lunapark does not answer"
start_bare "$tmp/answer"
bare_pid=$pid bare_port=$port
servers="bare lunapark"
if has_nginx; then
    start_nginx 'location / { content_by_lua_block { ngx.header["Content-Length"] = 13 ngx.print("Hello, World!") } }'
    nginx_pid=$pid nginx_port=$port
    servers="$servers nginx"
fi

echo "hello, $rounds rounds of $secs s, $conns connections, server on CPU $server_cpu, wrk on CPU $client_cpu, answer of $(wc -c <"$tmp/answer") bytes"
rounds_secs=$secs
secs=1
printf 'warm-up  '
measure_all
rm -f "$tmp"/*.us "$tmp"/*.ratio
secs=$rounds_secs
round=1
while [ "$round" -le "$rounds" ]; do
    printf 'round %d/%d' "$round" "$rounds"
    measure_all
    round=$((round + 1))
done

echo
echo "CPU per hello request, medians:"
printf '  bare epoll loop  %6.2f us\n' "$(median "$tmp/bare.us")"
printf '  lunapark         %6.2f us   %.2f x bare\n' "$(median "$tmp/lunapark.us")" "$(median "$tmp/lunapark:bare.ratio")"
if [ -e "$tmp/nginx.us" ]; then
    printf '  nginx + Lua      %6.2f us   %.2f x bare, lunapark %.2f x nginx\n' "$(median "$tmp/nginx.us")" \
        "$(median "$tmp/nginx:bare.ratio")" "$(median "$tmp/lunapark:nginx.ratio")"
fi
stop_all

echo
echo "1,000 handlers in sleep(1) at once, one P:"
start_lunapark "$here/sleep.lua"
printf '  '
taskset -c "$client_cpu" "$b/host/bench/burst" "$port" 1000 /
