#!/bin/sh
# CPU per request for files of app:static: Lunapark beside nginx with sendfile and open_file_cache.
#
#     [ROUNDS=5] [SECS=4] [SIZES="1024 65536 10485760"] static.sh [BUILD_DIR]
#
# As hello.sh: each server on one core, wrk on another, in turns; medians of times and of the rounds' ratios. User and system
# time stand apart.
set -u

b=${1:-build}
rounds=${ROUNDS:-5}
secs=${SECS:-4}
sizes=${SIZES:-1024 65536 10485760}
here=$(dirname "$0")
me=bench
. "$here/lib.sh"

command -v nginx >/dev/null || fail "needs nginx: make deps-bench"

mkdir -p "$tmp/files"
for size in $sizes; do head -c "$size" /dev/urandom >"$tmp/files/$size.bin"; done

cat >"$tmp/app.lua" <<'END'
return require("lunapark.http").app():static("/", "files")
END
start_lunapark "$tmp/app.lua"
lunapark_pid=$pid lunapark_port=$port

run_nginx "$server_cpu" "root $tmp/files;" \
    "sendfile on; open_file_cache max=1000; open_file_cache_valid 2s; default_type application/octet-stream;" "$one_nginx"
nginx_pid=$pid nginx_port=$port

cpu_ticks() { # $1 pid: user and system
    sed 's/^.*) //' "/proc/$1/stat" | awk '{ print $12, $13 }'
}

# One round of wrk against $1 (pid $2, port $3) for a file of $4 bytes: appends us per request to $tmp/$1.$4.{user,sys,us}
measure() {
    conns=64
    [ "$4" -le 1000000 ] || conns=8
    before=$(cpu_ticks "$2") || fail "$1 is gone"
    taskset -c "$client_cpu" wrk -t1 -c$conns -d"${secs}s" --timeout 60s "http://127.0.0.1:$3/$4.bin" >"$tmp/wrk.out" 2>&1 || {
        cat "$tmp/wrk.out" >&2
        fail "wrk failed"
    }
    after=$(cpu_ticks "$2") || fail "$1 is gone"
    if grep -E 'Socket errors|Non-2xx' "$tmp/wrk.out"; then fail "$1 did not answer every request"; fi
    requests=$(awk '/ requests in / { print $1 }' "$tmp/wrk.out")
    [ "${requests:-0}" -gt 0 ] || fail "$1 answered nothing"
    echo "$before $after" | awk -v hz="$ticks" -v n="$requests" -v out="$tmp/$1.$4" '{
        user = ($3 - $1) * 1e6 / hz / n; system_ = ($4 - $2) * 1e6 / hz / n
        print user >>(out ".user"); print system_ >>(out ".sys"); print user + system_ >>(out ".us")
    }'
}

echo "files, $rounds rounds of $secs s, server on CPU $server_cpu, wrk on CPU $client_cpu; us per request (user + system)"
for size in $sizes; do
    round=0
    while [ "$round" -le "$rounds" ]; do
        for s in lunapark nginx; do eval "measure $s \$${s}_pid \$${s}_port $size"; done
        if [ "$round" = 0 ]; then # warms up
            rm -f "$tmp"/*."$size".*
        else
            paste "$tmp/lunapark.$size.us" "$tmp/nginx.$size.us" | tail -n 1 | awk '{ print $1 / $2 }' >>"$tmp/$size.ratio"
        fi
        round=$((round + 1))
    done
    line="  $size bytes:"
    for s in lunapark nginx; do
        line="$line $s $(printf '%.2f (%.2f + %.2f)' "$(median "$tmp/$s.$size.us")" "$(median "$tmp/$s.$size.user")" "$(median "$tmp/$s.$size.sys")")"
    done
    echo "$line, ratio $(median "$tmp/$size.ratio")"
done
