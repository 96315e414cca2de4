#!/bin/sh
# Builds the LuaJIT that is linked into lunapark: luajit.sh DIR makes DIR/libluajit.a, DIR/luajit, which compiles our
# modules (embed.lua), DIR/luajit_config.h and, of its headers, those that tell how it lays out its state, in DIR/lj
# (host/vm/luaframes.c).
#
# It is Debian's, from Debian's source package, with the faults of that version mended that crash servers or
# give wrong results. Each luajit/*.fix tells of one and makes the edits: a word or a few lines, where the source is as
# expected. spec/luajit_spec.lua has the scripts.
#
# Where no source package can be fetched the packaged library is taken, and luajit_config.h says that its side traces
# must stay off (vm.c), and that there are no headers: profiles name no Lua functions. The other faults are there then.
set -u

dir=$1
fixes=$(dirname "$0")/luajit
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

# edit FILE N PATTERN: the sed script that it reads over FILE, in which N lines match PATTERN.
edit() {
    file=$work/src/src/$1
    [ "$(grep -c "$3" "$file")" = "$2" ] && sed -i -f /dev/stdin "$file" && return
    echo "$1: not $2 lines like $3"
    return 1
}

fix() {
    for f in "$fixes"/*.fix; do
        echo "$f"
        [ -e "$f" ] && . "$f" || return
    done
}

compile() {
    make -C "$work/src" -j2 amalg PREFIX=/usr MULTILIB="lib/$multiarch" Q= E=@: MAKEFLAGS= MFLAGS= \
        TARGET_CFLAGS=-fstack-clash-protection &&
        cp "$work/src/src/libluajit.a" "$work/src/src/luajit" "$dir/" &&
        mkdir -p "$dir/lj" && cp "$work"/src/src/*.h "$dir/lj/"
}

echo "lunapark: building LuaJIT from Debian's source, about a minute"
if { fetch && fix && compile; } >"$log" 2>&1 </dev/null; then
    own=1
else
    tail -n 3 "$log" >&2
    echo "lunapark: that failed ($log); the packaged library is used, without side traces: compiled Lua is slower" >&2
    cp "$packaged" "$dir/libluajit.a" && cp "$(command -v luajit)" "$dir/luajit" || exit 1
    own=0
fi
rm -rf "$work"
cat >"$dir/luajit_config.h" <<END
/* Made by host/build/luajit.sh. */
#define LUAJIT_SIDE_TRACES $own
#define LUAJIT_HEADERS $own
END
