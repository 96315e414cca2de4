#!/bin/sh
# CPU per message of a TCP echo server in Lua (echo.lua), 64 connections, one P, beside a bare epoll loop.
#
#     [ROUNDS=5] [MS=1000] echo.sh [BUILD_DIR]
#
# The servers run on one CPU, the load on another; they take turns, and the median of the rounds' ratios counts.
set -u

b=${1:-build}
rounds=${ROUNDS:-5}
ms=${MS:-1000}
here=$(dirname "$0")
me=bench-echo
. "$here/../../runtime/bench/lib.sh"

set -- $cpus
[ $# = 2 ] || fail "needs two CPUs: one for the server, one for the load"
server_cpu=$1 load_cpu=$2

start() { # $1 who, then the program
    who=$1
    shift
    taskset -c "$server_cpu" "$@" >"$tmp/$who.port" 2>"$tmp/$who.log" &
    pids="$pids $!"
    eval "pid_$who=$!"
    i=0
    until [ -s "$tmp/$who.port" ]; do
        i=$((i + 1))
        if [ $i -gt 50 ]; then
            cat "$tmp/$who.log" >&2
            fail "$* did not start"
        fi
        sleep 0.1
    done
    eval "port_$who=\$(cat '$tmp/$who.port')"
}

measure() { # $1 who
    eval "taskset -c $load_cpu '$b/runtime/bench/echo_load' \$port_$1 \$pid_$1 $ms" >"$tmp/out" || fail "no load for $1"
    us=$(awk '{ print $2 / 1000 }' "$tmp/out")
    echo "$us" >>"$tmp/$1.us"
    eval "us_$1=\$us"
    printf '  %s %.2f us' "$1" "$us"
}

start bare "$b/runtime/bench/echo_bare"
start lua env LUNAPARK_PROCS=1 "$b/lunapark" run "$here/echo.lua"
round=1
while [ "$round" -le "$rounds" ]; do
    printf 'round %d/%d' "$round" "$rounds"
    measure bare
    measure lua
    echo
    awk "BEGIN { print $us_lua / $us_bare }" >>"$tmp/ratios"
    round=$((round + 1))
done
ratio=$(median "$tmp/ratios")
echo
echo "CPU per echoed message, medians:"
printf '  bare epoll loop  %6.2f us\n' "$(median "$tmp/bare.us")"
printf '  echo.lua         %6.2f us   %.2f x bare, bound 1.25: %s\n' "$(median "$tmp/lua.us")" "$ratio" \
    "$(awk "BEGIN { print $ratio <= 1.25 ? \"ok\" : \"MISS\" }")"
