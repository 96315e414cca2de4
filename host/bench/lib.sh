# What the host's benchmarks share; they source it, with $me, $here and $b (the build's directory) set.
. "$here/../../runtime/bench/lib.sh"

set -- $cpus
[ $# = 2 ] || fail "needs two CPUs: one for the server, one for wrk"
server_cpu=$1 client_cpu=$2
ticks=$(getconf CLK_TCK)

# ---- servers: each start_* sets $pid and $port -----------------------------------------------------

# Waits until the file $1 has a line that sed's script $2 turns into a port.
wait_port() {
    i=0
    while [ $i -lt 100 ]; do
        port=$(sed -n "$2" "$1" 2>/dev/null | head -n 1)
        [ -n "$port" ] && return
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
        i=$((i + 1))
    done
    cat "$1" >&2
    fail "$3 did not start"
}

started() {
    pid=$!
    pids="$pids $pid"
}

start_lunapark() { # $1 app
    taskset -c "$server_cpu" "$b/lunapark" "$1" --procs 1 --listen 127.0.0.1:0 >/dev/null 2>"$tmp/lunapark.log" &
    started
    wait_port "$tmp/lunapark.log" 's|^lunapark: listening on http://127.0.0.1:\([0-9]*\)$|\1|p' lunapark
}

start_bare() { # $1 file with the answer
    taskset -c "$server_cpu" "$b/host/bench/bare" 0 "$1" >"$tmp/bare.log" 2>&1 &
    started
    wait_port "$tmp/bare.log" 's/^\([0-9][0-9]*\)$/\1/p' bare
}
