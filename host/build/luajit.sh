#!/bin/sh
# Builds the LuaJIT that is linked into lunapark: luajit.sh DIR makes DIR/libluajit.a and DIR/luajit_config.h.
#
# It is Debian's, from Debian's source package, with the faults of that version mended that crash servers. Each
# `fix_` below tells of one. They change a word or add a few lines where the source is as expected.
#
# Where no source package can be fetched the packaged library is taken, and luajit_config.h says that its side traces
# must stay off (vm.c). The other faults are there then.
set -u

dir=$1
package=libluajit2-5.1-dev
multiarch=$(${CC:-gcc} -print-multiarch)
packaged=/usr/lib/$multiarch/libluajit-5.1.a
work=$dir/work
log=$dir/build.log
mkdir -p "$work/lists/partial"
work=$(cd "$work" && pwd)

# The apt configuration of this system, with the sources of what it has packages of.
with_sources() {
    rm -rf "$work/apt"
    cp -r /etc/apt "$work/apt" || return
    for f in "$work"/apt/sources.list.d/*.sources; do
        [ -e "$f" ] && sed -i 's/^Types:.*/Types: deb-src/' "$f"
    done
    for f in "$work"/apt/sources.list "$work"/apt/sources.list.d/*.list; do
        [ -e "$f" ] && sed -i 's/^deb /deb-src /' "$f"
    done
    return 0
}

fetch() {
    version=$(dpkg-query -W -f '${source:Version}' $package) && with_sources || return
    set -- -q -o Dir::Etc="$work/apt" -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" \
        -o Acquire::Retries=2 -o Acquire::http::Timeout=60
    mkdir -p "$work/cache/archives/partial"
    apt-get "$@" update &&
        (cd "$work" && apt-get "$@" source --download-only "luajit2=$version") &&
        rm -rf "$work/src" && mkdir "$work/src" &&
        tar -xf "$work"/luajit2_*.orig.tar.* --strip-components=1 -C "$work/src"
}

# edit FILE N PATTERN SCRIPT: sed's SCRIPT over FILE, in which N lines match PATTERN.
edit() {
    file=$work/src/src/$1
    [ "$(grep -c "$3" "$file")" = "$2" ] && sed -i "$4" "$file" && return
    echo "$1: not $2 lines like $3"
    return 1
}

# LuaJIT's issue 1016, mended upstream in July 2023. The check for room on the Lua stack at the head of a side trace
# may use a register that its parent trace still needs, and when the check fails, a wrong value goes back to the Lua
# stack. That needs coroutines with small stacks and much compiled code, which is what handlers are:
# scripts/torture.lua crashed in four runs of five. The check may take no register for itself, so it saves and
# restores the one that it uses.
fix_stack_check() {
    edit lj_asm.c 1 'asm_stack_check(.*, irp, allow & RSET_GPR,' \
        '/asm_stack_check(.*, irp, /s/allow & RSET_GPR/RSET_EMPTY/'
}

# What a C function raises that compiled code calls (string.buffer's encoder, a table's new key, an allocation).
# Compiled code keeps neither L->top nor L->base as the interpreter does: L->top may be where some earlier call of C left
# it, and the message that is pushed there overwrites a frame that lives. pcall in compiled code then catches
# the error, and a later return crashes. Upstream has mended that for lj_err_mem and lj_err_msg (issue 1034), not yet
# for lj_err_caller and lj_err_callerv. Here, each first sets both: to the trace's frame, and to that frame's end.
# If that is the end of the stack as well, the push makes it grow, and jit_base must go with it (issue 1435: a
# number of slots was taken for one of bytes).
fix_errors_on_trace() {
    edit lj_err.c 2 '^  if (curr_funcisL(L)) L->top = curr_topL(L);$' \
            '/^LJ_NOINLINE void lj_err_mem(/,${s/^  if (curr_funcisL(L)) L->top =/  frame_of_trace(L);\n&/}' &&
        edit lj_err.c 1 '^LJ_NOINLINE void lj_err_callerv(' \
            '/^LJ_NOINLINE void lj_err_callerv(/,/^}/s/va_start(argp, em);/& frame_of_trace(L);/' &&
        edit lj_err.c 1 '^LJ_NOINLINE void lj_err_caller(' \
            '/^LJ_NOINLINE void lj_err_caller(/,/^}/s/lj_err_callermsg(/frame_of_trace(L); &/' &&
        edit lj_err.c 1 '^/\* Return string object for error message' '/^\/\* Return string object for error message/i\
static void frame_of_trace(lua_State *L)\
{\
  TValue *base = tvref(G(L)->jit_base);\
  if (base == NULL) return;\
  L->base = base;\
  if (curr_funcisL(L)) L->top = curr_topL(L);\
}\
' &&
        edit lj_state.c 1 'oldst) < oldsize)$' 's/oldst) < oldsize)$/oldst) < oldsize * sizeof(TValue))/'
}

# Issue 1169, mended upstream in March 2024. A side trace that returns to lower frames and comes by itself again was
# taken for a loop, as a root trace that does so is; but its code begins with registers of its parent. Crashes.
fix_down_recursion() {
    edit lj_record.c 1 '^      if (check_downrec_unroll(J, pt)) {$' \
        's/^      if (check_downrec_unroll(J, pt)) {$/      if (!J->cur.root \&\& check_downrec_unroll(J, pt)) {/'
}

# Issue 1033, mended upstream in 2023 and 2024. The parser guesses from the bytecode of its list whether a generic
# `for` is one over pairs(). Where there was none yet, or the first moves a temporary, it looked for a variable's name that
# is none: `local x for k in (nil):f() do end` crashes, and so does who compiles what a stranger wrote.
fix_guess_of_pairs() {
    edit lj_parse.c 1 '^  isnext = (nvars <= 5 && predict_next(ls, fs, exprpc));$' \
        's/nvars <= 5 && predict_next(/nvars <= 5 \&\& fs->pc > exprpc \&\& predict_next(/' &&
        edit lj_parse.c 1 '^    name = gco2str(gcref(var_get(ls, fs, bc_d(ins)).name));$' \
            's/^    name = gco2str(gcref(var_get(ls, fs, bc_d(ins)).name));$/    if (bc_d(ins) >= fs->nactvar) return 0;\n&/'
}

# Issue 994, mended upstream in 2023 in another way. In a loop where a variable holds now what one table constructor
# made, now what another did, compiled code took a constant of the one for the other's, and for one of its type: true for
# false, a string's address for a number. A constant is taken now only if it has the type that is asked for.
fix_constants_of_tables() {
    edit lj_opt_mem.c 1 '^      if (irt_ispri(fins->t)) {$' 's/if (irt_ispri(fins->t)) {$/if (irt_ispri(fins->t) \&\& ir->o == IR_TNEW) {/' &&
        edit lj_opt_mem.c 1 '^		 irt_isstr(fins->t)) {$' 's/^\(		 irt_isstr(fins->t)\)) {$/\1 || irt_ispri(fins->t)) {/' &&
        edit lj_opt_mem.c 1 '^	lj_assertJ(itype2irt(tv) == irt_type(fins->t),$' '/itype2irt(tv) == irt_type(fins->t),$/i\
	if (itype2irt(tv) != irt_type(fins->t)) return 0;\
	if (irt_ispri(fins->t)) return TREF_PRI(irt_type(fins->t));
'
}

fix() {
    fix_stack_check && fix_errors_on_trace && fix_down_recursion && fix_guess_of_pairs && fix_constants_of_tables
}

compile() {
    make -C "$work/src" -j2 amalg PREFIX=/usr MULTILIB="lib/$multiarch" Q= E=@: MAKEFLAGS= MFLAGS= &&
        cp "$work/src/src/libluajit.a" "$dir/libluajit.a"
}

echo "lunapark: building LuaJIT from Debian's source, about a minute"
if { fetch && fix && compile; } >"$log" 2>&1 </dev/null; then
    side=1
else
    tail -n 3 "$log" >&2
    echo "lunapark: that failed ($log); the packaged library is used, without side traces: compiled Lua is slower" >&2
    cp "$packaged" "$dir/libluajit.a" || exit 1
    side=0
fi
rm -rf "$work"
cat >"$dir/luajit_config.h" <<END
/* Made by host/build/luajit.sh. */
#define LUAJIT_SIDE_TRACES $side
END
