#!/bin/sh
# What waits cost: the round trip of two Lua Gs that wake each other, with a C function in between as well;
# memory of handlers that sleep; and how long others wait while one handler never does.
#
#     [ROUNDS=5] [SECS=4] waits.sh [BUILD_DIR]
#
# Times of waits are CPU time, so that neighbours on the machine count less. Memory is VmRSS of a fresh server,
# with the connections and with what the VM keeps for its garbage. The endless loop shares its one core
# with everybody else.
set -u

b=${1:-build}
rounds=${ROUNDS:-5}
secs=${SECS:-4}
sleepers=5000
here=$(dirname "$0")
me=bench
. "$here/lib.sh"

number() { # of the line $2 in file $1
    awk -v name="$2" '$1 == name { print $2 }' "$1"
}

rss_kb() { # $1 pid
    awk '/^VmRSS:/ { print $2 }' "/proc/$1/status"
}

echo "waits of two Gs of one VM, per round trip of two waits, medians of $rounds runs:"
round=0
while [ "$round" -lt "$rounds" ]; do
    taskset -c "$server_cpu" "$b/lunapark" run "$here/park.lua" >"$tmp/park" || fail "park.lua failed"
    for name in plain through_gsub through_sort through_coroutine; do
        number "$tmp/park" $name >>"$tmp/$name.ns"
    done
    round=$((round + 1))
done
plain=$(median "$tmp/plain.ns")
printf '  park and ready           %7.1f ns\n' "$plain"
for name in through_gsub through_sort through_coroutine; do
    awk -v n="$name" -v ns="$(median "$tmp/$name.ns")" -v plain="$plain" \
        'BEGIN { printf "  one wait %-16s+%6.1f ns\n", n, ns - plain }' | tr _ ' '
done

echo
printf '%s handlers in sleep at once, one P:\n  ' "$sleepers"
start_lunapark "$here/sleep.lua"
"$b/host/bench/burst" "$port" 10 / >/dev/null || fail "the server does not answer"
before=$(rss_kb "$pid")
taskset -c "$client_cpu" "$b/host/bench/burst" "$port" $sleepers /5 >"$tmp/burst" &
burst=$!
asleep=0
i=0
while [ "$asleep" -lt $sleepers ] && [ $i -lt 40 ]; do
    sleep 0.1
    asleep=$(curl -fs "http://127.0.0.1:$port/asleep")
    i=$((i + 1))
done
after=$(rss_kb "$pid")
wait $burst || fail "$(cat "$tmp/burst")"
[ "$asleep" -ge $sleepers ] || fail "only $asleep were asleep at once"
awk -v a="$after" -v b="$before" -v n=$sleepers \
    'BEGIN { printf "%.0f bytes of RSS each (%d kB, %d kB before)\n", (a - b) * 1024 / n, a, b }'
stop_all

echo
echo "one handler in an endless compiled loop, one P, one core; the others meanwhile. Beside it a bare epoll"
echo "loop that shares its core with a process that spins: the rest is the kernel's doing."
latency() { # p50 and p99 of 16 connections
    printf '  %-28s' "$1"
    taskset -c "$client_cpu" wrk -t1 -c16 -d"${secs}s" --latency "http://127.0.0.1:$port/now" >"$tmp/wrk.out" 2>&1
    if grep -E 'Socket errors|Non-2xx' "$tmp/wrk.out"; then fail "not every request was answered"; fi
    awk '$1 == "50%" { a = $2 } $1 == "99%" { b = $2 } / requests in / { n = $1 }
        END { print "p50 " a ", p99 " b ", " n " requests" }' "$tmp/wrk.out"
}
start_lunapark "$here/sleep.lua"
curl -fsi "http://127.0.0.1:$port/now" >"$tmp/answer" || fail "lunapark does not answer"
latency "lunapark, no loop"
curl -fs -o /dev/null "http://127.0.0.1:$port/endless" &
pids="$! $pids"
sleep 0.2
latency "lunapark, with the loop"
stop_all
start_bare "$tmp/answer"
latency "bare, nobody spins"
taskset -c "$server_cpu" sh -c 'while :; do :; done' &
pids="$! $pids"
latency "bare, beside a spinning sh"
