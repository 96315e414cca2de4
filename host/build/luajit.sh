#!/bin/sh
# Builds the LuaJIT that is linked into lunapark: luajit.sh DIR makes DIR/libluajit.a and DIR/luajit_config.h.
#
# It is Debian's, from Debian's source package, but for one word. In the version of Debian 12 (as in any before
# July 2023; LuaJIT's issue 1016) the check for room on the Lua stack at the head of a side trace may use a
# register that its parent trace still needs, and when the check fails, a wrong value goes back to the Lua stack. That
# needs coroutines with small stacks and much compiled code, which is what handlers are: scripts/torture.lua
# crashed in four runs of five. We have the check save and restore the register that it uses.
#
# Where no source package can be fetched the packaged library is taken, and luajit_config.h says that its side traces
# must stay off (vm.c).
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

# The registers that the check may use at the head of a side trace: none, so it saves and restores the one it takes.
fix() {
    file=$work/src/src/lj_asm.c
    [ "$(grep -c 'asm_stack_check(.*, irp, allow & RSET_GPR,' "$file")" = 1 ] || return
    sed -i '/asm_stack_check(.*, irp, /s/allow & RSET_GPR/RSET_EMPTY/' "$file"
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
