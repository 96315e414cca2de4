#!/bin/sh
# Runs test programs, then the specs if LUNAPARK names the binary, one line each, and sums up: the last
# line is "N passed, N failed". Exit 1 if any failed.
#
#     [LUNAPARK=build/lunapark] [B=build] [TEST_TIMEOUT=900] [SPEC_TIMEOUT=3600] [TEST_JOBS=1] [SPEC_JOBS=2] \
#         run_tests.sh PROGRAM...
#
# SPEC_ARGS: more options of `lunapark test`, in words without blanks.
# TEST_JOBS, SPEC_JOBS: so many programs, or spec files, at once. Half of their time programs wait, and specs two thirds.
#
# Each runs in a session of its own, by which the processes that it leaves behind are found and
# killed. Outputs are kept in $B/test-logs and shown if something failed.
set -u

export B TEST_TIMEOUT TEST_WRAP
: "${B:=build}" "${TEST_TIMEOUT:=900}" "${SPEC_TIMEOUT:=3600}" "${TEST_JOBS:=1}" "${SPEC_JOBS:=2}"
: "${TEST_WRAP:=}" "${SPECS:=spec}" "${SPEC_ARGS:=}"
logs=$B/test-logs
mkdir -p "$logs"
counts=$logs/counts
session=
workers=

# Kills every process of session $1, by pid. Says how many there were.
end_session() {
    left=$(cat /proc/[0-9]*/stat 2>/dev/null |
        awk -v s="$1" '{ pid = $1; sub(/^.*\) /, ""); if ($4 == s && $1 != "Z") print pid }')
    [ -z "$left" ] && return
    kill -KILL $left 2>/dev/null
    echo "  (left behind and killed: $(echo $left))"
}

stop() {
    trap - INT TERM HUP
    [ -n "$session" ] && end_session "$session" >/dev/null
    # xargs first, which would start more.
    [ -n "$workers" ] && kill "$workers" $(cat "/proc/$workers/task/$workers/children" 2>/dev/null) 2>/dev/null
    exit 130
}
trap stop INT TERM HUP

# Runs a command of at most $1 seconds with its output in $2; its exit status. A shell starts
# background jobs with SIGINT ignored, which would be inherited: env gives the default back.
run() {
    limit=$1 log=$2
    shift 2
    setsid env --default-signal timeout -k 5 "$limit" $TEST_WRAP "$@" >"$log" 2>&1 </dev/null &
    session=$!
    wait "$session"
}

# One line for what ran, and its output if it failed; what it counted goes to $counts. $1 name, $2 status, $3 log,
# $4 passed, $5 failed
report() {
    ok=$4 bad=$5 note=
    case $2 in
    0) ;;
    124 | 137) note=", timed out" ;;
    *) note=", exit $2" ;;
    esac
    # It may also end badly after its last test: a sanitizer's report, a crash.
    if [ "$bad" = 0 ] && [ "$2" != 0 ]; then bad=1; fi
    printf '%-36s %s passed, %s failed%s\n' "$1" "$ok" "$bad" "$note"
    if [ "$bad" != 0 ]; then
        echo "---- $3"
        tail -n 200 "$3"
        echo "----"
    fi
    echo "$ok $bad" >>"$counts"
    end_session "$session"
    session=
}

run_program() {
    program=$1
    name=${program#"$B"/}
    log=$logs/$(echo "$name" | tr / _).log
    run "$TEST_TIMEOUT" "$log" "$program"
    status=$?
    # A test that began and has no verdict crashed: it failed.
    begun=$(grep -ac '\[ RUN      \] ' "$log")
    ok=$(grep -ac '\[       OK \] ' "$log")
    skipped=$(sed -n 's/.*\[  SKIPPED \] \([0-9]*\) test(s).*/\1/p' "$log" | awk '{ n += $1 } END { print n + 0 }')
    bad=$((begun - ok - skipped))
    [ "$begun" = 0 ] && bad=1 # it tested nothing
    report "$name" "$status" "$log" "$ok" $bad
}

# What a script of this kind does for one program. Its report comes out in one piece.
if [ "${1-}" = --one ]; then
    run_program "$2" >"$logs/report.$$"
    flock "$counts" cat "$logs/report.$$"
    rm -f "$logs/report.$$"
    exit 0
fi

: >"$counts"
if [ $# -gt 0 ]; then
    printf '%s\n' "$@" >"$logs/programs"
    xargs -a "$logs/programs" -P "$TEST_JOBS" -I{} "$0" --one {} &
    workers=$!
    wait "$workers"
    workers=
fi
# One that was killed has counted nothing: it failed.
ran=$(wc -l <"$counts")
[ "$ran" -ge $# ] || echo "0 $(($# - ran))" >>"$counts"

if [ -n "${LUNAPARK:-}" ] && [ -n "$(find $SPECS -name '*_spec.lua' 2>/dev/null | head -n 1)" ]; then
    export LUNAPARK
    # Sanitizers on a busy machine are slow, and specs have bounds of their own.
    export LUNAPARK_BLOCK_TIMEOUT="${LUNAPARK_BLOCK_TIMEOUT:-300}"
    log=$logs/spec.log
    run "$SPEC_TIMEOUT" "$log" "$LUNAPARK" test --jobs "$SPEC_JOBS" --output=plainTerminal $SPEC_ARGS $SPECS
    status=$?
    # "12 successes / 1 failure / 0 errors / 0 pending : 0.01 seconds"
    specs=$(awk '/^[0-9]+ success(es)? \/ [0-9]+ failures? \/ [0-9]+ errors? \/ / { ok += $1; bad += $4 + $7; counted = 1 }
        END { print ok + 0, counted ? bad + 0 : 1 }' "$log")
    report "$SPECS" "$status" "$log" "${specs% *}" "${specs#* }"
fi

awk '{ ok += $1; bad += $2 } END { printf "%d passed, %d failed\n", ok, bad; exit bad > 0 }' "$counts"
