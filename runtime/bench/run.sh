#!/bin/sh
# The runtime's numbers, beside Go's and those of bare epoll loops, with the bound for each.
#
#     [ROUNDS=5] run.sh [BUILD_DIR]
#     run.sh BUILD_DIR callgrind       instructions per operation instead, from valgrind
#
# Everything runs on one P, pinned to one CPU; what makes load is pinned to another. Ours, Go's and the
# bare program take turns, round by round, so that a change in the machine's mood hits all of them. The
# median counts, of the values and of the rounds' ratios; times are CPU time, but for the wake-up's. A row whose bound is not met says MISS; the
# exit code does not, since machines are shared. Without go its column is left out.
set -u

b=${1:-build}/runtime/bench
mode=${2:-table}
rounds=${ROUNDS:-5}
echo_ms=400     # of one slice of one server; the servers take turns ECHO_SLICES times a round
echo_slices=3
limit=60        # seconds that one program may take
me=bench-runtime
. "$(dirname "$0")/lib.sh"

set -- $cpus
[ $# = 2 ] || fail "needs two CPUs: one for what is measured, one for what makes load"
cpu=$1 load_cpu=$2

# ---- running ---------------------------------------------------------------------------------------

# Runs a program to its end on CPU $1, output to $tmp/out. Not in the foreground: the shell hears a
# signal while it waits, not while it runs a program. timeout passes our TERM on.
run_on() {
    on=$1
    shift
    timeout $limit taskset -c "$on" "$@" >"$tmp/out" 2>"$tmp/err" &
    running=$!
    others=$pids
    pids="$pids $running"
    if ! wait $running; then
        cat "$tmp/err" >&2
        pids=$others
        return 1
    fi
    pids=$others
}

# Runs a program of $1 (ours, go, bare): each line "NAME VALUE [SECOND]" of its output goes to
# $tmp/NAME.WHO.
round_of() {
    who=$1
    shift
    run_on "$cpu" "$@"
    failed=$?
    keep "$who"
    [ $failed = 0 ] || echo "    $* failed"
    return $failed
}
keep() {
    while read -r name value second; do
        echo "$value" >>"$tmp/$name.$1"
        [ -z "$second" ] || echo "$second" >>"$tmp/$name-2.$1"
    done <"$tmp/out"
}

has_go=
[ -x "$b/go/bench" ] && command -v go >/dev/null && has_go=yes

# $1 program's words of ours, $2 of Go's (may be empty), $3 of the bare one; $4 rounds
turns() {
    round=1
    while [ "$round" -le "$4" ]; do
        printf '  %s %d/%d\n' "$1" "$round" "$4"
        round_of ours "$b"/$1 || break # the words are split on purpose
        [ -z "$2" ] || [ -z "$has_go" ] || round_of go "$b"/go/bench $2
        [ -z "$3" ] || round_of bare "$b"/$3
        round=$((round + 1))
    done
}

# ---- echo: three servers at once, load in turns -------------------------------------------------------

start_echo() { # $1 who, then the program
    who=$1
    shift
    taskset -c "$cpu" "$@" >"$tmp/$who.port" 2>"$tmp/$who.log" &
    pid=$!
    pids="$pids $pid"
    i=0
    until [ -s "$tmp/$who.port" ]; do
        i=$((i + 1))
        if [ $i -gt 50 ] || ! kill -0 "$pid" 2>/dev/null; then
            cat "$tmp/$who.log" >&2
            fail "$* did not start"
        fi
        sleep 0.1
    done
    eval "pid_$who=\$pid port_$who=\$(cat '$tmp/$who.port')"
}

echo_turns() {
    servers="ours bare"
    start_echo ours "$b/echo"
    start_echo bare "$b/echo_bare"
    [ -z "$has_go" ] || {
        start_echo go "$b/go/bench" echo
        servers="$servers go"
    }
    slice=1 slices=$((rounds * echo_slices))
    while [ $slice -le $slices ]; do
        [ $(((slice - 1) % echo_slices)) = 0 ] && printf '  echo %d/%d\n' $((slice / echo_slices + 1)) "$rounds"
        for who in $servers; do
            eval "run_on $load_cpu '$b/echo_load' \$port_$who \$pid_$who $echo_ms" || fail "no load for $who"
            keep "$who"
        done
        slice=$((slice + 1))
    done
    stop_all
}

# ---- the table ---------------------------------------------------------------------------------------

# $1 what is measured, $2 unit, $3 name of the values, $4 beside whom the bound is (go, bare, or fixed),
# $5 the bound, $6 what a value is divided by, $7 digits
row() {
    ours=$(median "$tmp/$3.ours") go=$(median "$tmp/$3.go") bare=$(median "$tmp/$3.bare") ratio=
    if [ "$4" != fixed ] && [ -s "$tmp/$3.ours" ] && [ -s "$tmp/$3.$4" ]; then
        paste "$tmp/$3.ours" "$tmp/$3.$4" | awk 'NF == 2 { print $1 / $2 }' >"$tmp/ratios"
        ratio=$(median "$tmp/ratios")
    fi
    awk -v what="$1" -v unit="$2" -v ours="$ours" -v go="$go" -v bare="$bare" -v ratio="$ratio" -v by="$4" \
        -v bound="$5" -v scale="$6" -v digits="$7" -v has_go="$has_go" '
        function show(v) { return v == "" ? "-" : sprintf("%.*f", digits, v / scale) }
        BEGIN {
            said = by == "fixed" ? "<= " bound " " unit : "<= " bound " x " by
            value = by == "fixed" ? (ours == "" ? "" : ours / scale) : ratio
            verdict = bound == "" ? "" : value != "" ? (value + 0 <= bound + 0 ? "ok" : "MISS") \
                : ours == "" ? "MISS (failed)" : "(no Go)"
            line = sprintf("%-30s %-5s %9s", what, unit, show(ours))
            if (has_go) line = line sprintf(" %9s", show(go))
            line = sprintf("%s %9s %7s", line, show(bare), ratio == "" ? "-" : sprintf("%.2f", ratio))
            print bound == "" ? line : sprintf("%s  %-12s %s", line, said, verdict)
        }'
}

table() {
    echo
    echo "Medians of $rounds rounds, one P on CPU $cpu, load on CPU $load_cpu${has_go:+, $(go version | cut -d' ' -f3,4)}:"
    [ -n "$has_go" ] || echo "go is not installed (Debian: golang-go): its column is left out"
    echo
    printf "%-30s %-5s %9s" "" unit ours
    [ -z "$has_go" ] || printf " %9s" Go
    printf ' %9s %7s  %s\n' bare ratio bound
    row "native G switch" ns switch go 0.3 1 1
    row "ping-pong, round trip" ns pingpong go 0.5 1 1
    row "spawn and finish a native G" ns spawn go 0.5 1 1
    row "timer: create and stop" ns timer-stop go 0.7 1 1
    row "1,000,000 timers: set, fire" ns timer-all go 0.7 1 1
    row "  of it, set" ns timer-set go "" 1 1
    row "  of it, fire" ns timer-fire go "" 1 1
    row "  longest step" ms timer-step fixed 1 1 3
    row "echo: CPU per message" us echo bare 1.05 1000 2
    row "  messages a second" 1000 echo-2 bare "" 1000 1
    row "wake-up when idle, median" us wakeup bare 1.5 1000 1
    row "  p99" us wakeup-2 bare "" 1000 1
    row "100,000 parked Gs: each" KiB parked fixed 4.5 1024 2
    row "  the G itself" bytes sizeof-g fixed 256 1 0
}

# ---- callgrind -----------------------------------------------------------------------------------------

# Instructions that one more operation takes: those of a run of $2 and of 2 * $2 operations, the
# difference divided by $2; so start-up does not count, and sysmon's rounds hardly do. Then where they
# are spent, in the longer run. $1 what to print, $3... the program, which gets the number of
# operations and "1 batch".
instructions() {
    what=$1 n=$2
    shift 2
    for times in 1 2; do
        run_on "$cpu" valgrind --tool=callgrind --callgrind-out-file="$tmp/callgrind.$times" \
            "$@" $((n * times)) 1 || fail "callgrind failed"
        eval "total_$times=\$(awk '/^(summary|totals):/ { t = \$2 } END { print t }' '$tmp/callgrind.$times')"
    done
    awk -v what="$what" -v a="$total_1" -v b="$total_2" -v n="$n" \
        'BEGIN { printf "\n%-30s %8.1f instructions each\n", what, (b - a) / n }'
    callgrind_annotate --auto=no --threshold=95 "$tmp/callgrind.2" 2>/dev/null | awk -v n=$((n * 2)) '
        /\(.*%\)/ && !/PROGRAM TOTALS/ && $1 ~ /^[0-9,]+$/ {
            ir = $1; gsub(",", "", ir)
            at = $0; sub(/^.*\) +/, "", at); sub(/ \[.*$/, "", at); sub(/^.*\//, "", at)
            if (ir / n >= 1 && shown++ < 16) printf "    %7.1f  %s\n", ir / n, at
        }'
}

if [ "$mode" = callgrind ]; then
    limit=300
    instructions "switch" 200000 "$b/sched" switch
    instructions "ping-pong round trip" 100000 "$b/sched" pingpong
    instructions "spawn and finish" 100000 "$b/sched" spawn
    instructions "timer: create and stop" 100000 "$b/timers" stop
    exit 0
fi

turns "sched switch" switch "" "$rounds"
turns "sched pingpong" pingpong "" "$rounds"
turns "sched spawn" spawn "" "$rounds"
turns "timers stop" stop "" "$rounds"
turns "timers fire" fire "" $(((rounds + 1) / 2))
turns "wakeup rt $cpu $load_cpu" "" "wakeup bare $cpu $load_cpu" "$rounds"
turns "parked" parked "" 1
echo_turns
table
