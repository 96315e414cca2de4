# What the benchmarks' scripts share; they source it, with $me set to the name that errors are to bear.
# $tmp is a directory and $pids are processes: neither outlives the script.
export LC_ALL=C

tmp=$(mktemp -d)
pids=

stop_all() {
    for pid in $pids; do kill "$pid" 2>/dev/null; done
    for pid in $pids; do wait "$pid" 2>/dev/null; done
    pids=
}
cleanup() {
    trap - EXIT INT TERM HUP
    stop_all
    rm -rf "$tmp"
}
trap cleanup EXIT
trap 'cleanup; exit 130' INT TERM HUP

fail() {
    echo "$me: $*" >&2
    exit 1
}

# The first two CPUs that this process may use.
cpus=$(awk '/^Cpus_allowed_list:/ {
    n = split($2, part, ",")
    for (i = 1; i <= n; i++) {
        m = split(part[i], ends, "-")
        for (c = ends[1] + 0; c <= ends[m] + 0; c++) print c
    }
}' /proc/self/status | head -n 2)

median() { # of the numbers in file $1; nothing if there are none
    [ -s "$1" ] || return 0
    sort -n "$1" | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}
