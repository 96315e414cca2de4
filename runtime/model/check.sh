#!/bin/sh
# Checks the models with spin, exhaustively, two at a time, one line each; then that each mutation of
# a model (-DMUTATE_n, one broken line) is found out. The last line is "N passed, N failed"; exit 1 if
# any failed. What spin and the verifiers print is kept in $B/model.
#
#     [B=build] [MODEL_TIMEOUT=120] check.sh [MODEL...]
set -u

: "${B:=build}" "${MODEL_TIMEOUT:=120}" "${CC:=gcc}"
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$B/model"
B=$(cd "$B" && pwd)
export here B MODEL_TIMEOUT CC

# One run, by xargs below: MODEL CONF MUTATION, mutation 0 for the model itself. Prints its line.
if [ "${1:-}" = --one ]; then
    model=$2 conf=$3 mutation=$4
    name=$model.$conf
    defs="-DCONF=$conf"
    if [ "$mutation" != 0 ]; then
        name=$name.mutate$mutation
        defs="$defs -DMUTATE_$mutation"
    fi
    dir=$B/model/$name
    rm -rf "$dir"
    mkdir -p "$dir"
    cd "$dir" || exit 1
    bad() {
        printf 'FAIL  %-24s %s (%s)\n' "$name" "$1" "$dir"
        exit 0
    }
    spin $defs -a "$here/$model.pml" >spin.log 2>&1 || bad "spin does not take it"
    # COLLAPSE: states in less memory. NOFAIR, SAFETY: no liveness, the end states say it all.
    $CC -O2 -w -DSAFETY -DNOFAIR -DCOLLAPSE -DMEMLIM=4000 -o pan pan.c >cc.log 2>&1 || bad "cc fails"
    timeout "$MODEL_TIMEOUT" ./pan -n -m2000000 >pan.log 2>&1
    rm -f pan pan.[a-z]
    states=$(awk '/states, stored/ { print $1 }' pan.log)
    grep -q 'errors: ' pan.log || bad "no result: too big, or timed out"
    if grep -q 'max search depth too small\|out of memory\|memory limit' pan.log; then bad "not exhaustive"; fi
    why=$(sed -n 's/^pan:[0-9]*: \(.*\) (at depth.*/\1/p' pan.log | cut -c1-60)
    if [ "$mutation" = 0 ]; then
        grep -q 'errors: 0' pan.log || bad "$why"
        printf 'ok    %-24s %9d states, no error\n' "$name" "$states"
    else
        grep -q 'errors: 0' pan.log && bad "the mutation is not found out"
        printf 'ok    %-24s %9d states, found out: %s\n' "$name" "$states" "$why"
    fi
    exit 0
fi

# Every CONF of a model, then each mutation with the CONF that tells: "MUTATE_n CONF" below.
runs() {
    case $1 in
    wait) echo 1 0 2 0 1 1 1 2 1 3 1 4 1 5 1 6 ;;
    netpoll) echo 1 0 2 0 3 0 4 0 5 0 6 0 1 1 1 2 1 3 1 4 1 5 1 6 1 7 1 8 2 9 6 1 4 10 4 11 4 12 4 13 4 14 1 15 ;;
    idle) echo 1 0 2 0 3 0 4 0 5 0 6 0 7 0 1 1 1 2 1 3 3 4 3 5 3 6 2 7 6 8 6 9 6 10 7 11 ;;
    cell) echo 1 0 2 0 1 1 1 2 1 3 1 4 1 5 ;;
    timer) echo 1 0 2 0 1 1 1 2 1 3 1 4 1 5 1 6 ;;
    *)
        echo "check.sh: no model $1" >&2
        exit 2
        ;;
    esac | xargs -n 2 echo "$1"
}

[ $# = 0 ] && set -- wait netpoll idle cell timer
results=$B/model/results
for model; do runs "$model" || exit 2; done | xargs -P 2 -n 3 "$here/check.sh" --one | tee "$results"
wanted=$(for model; do runs "$model"; done | wc -l)
passed=$(grep -c '^ok' "$results")
echo "$passed passed, $((wanted - passed)) failed"
[ "$passed" = "$wanted" ]
