#!/bin/sh
# Are these Debian packages installed?
#
#     deps.sh check PACKAGE...      names the missing ones; exit 1 if there are any
#     deps.sh install PACKAGE...    installs them, naming them in one line; says nothing if none is missing
#
# Elsewhere than Debian nothing can be installed; what the packages bring is looked for instead, so
# that a system which has it all still builds.
set -u

mode=$1
shift

# Does the system have what package $1 brings? For systems without dpkg.
present() {
    case $1 in
    libluajit2-5.1-dev) [ -e /usr/include/luajit-2.1/lua.h ] ;;
    luajit2) command -v luajit ;;
    node-llhttp) [ -e /usr/share/llhttp/llhttp.c ] && [ -e /usr/share/include/llhttp/llhttp.h ] ;;
    lua-cjson-dev) [ -e "/usr/lib/$(gcc -print-multiarch)/liblua5.1-cjson.a" ] ;;
    lua-busted) luajit -e 'require "busted"' ;;
    lua-ldoc) command -v ldoc ;;
    lua-check) command -v luacheck ;;
    libcmocka-dev) [ -e /usr/include/cmocka.h ] ;;
    apache2-utils) command -v ab ;;
    testssl.sh) command -v testssl ;;
    netcat-openbsd) command -v nc ;;
    gcc-aarch64-linux-gnu) command -v aarch64-linux-gnu-gcc ;;
    libc6-dev-arm64-cross) [ -e /usr/aarch64-linux-gnu/include/stdio.h ] ;;
    libc6-dev) [ -e /usr/include/stdio.h ] ;;
    xz-utils) command -v xz ;;
    libc-ares-dev) [ -e /usr/include/ares.h ] ;;
    zlib1g-dev) [ -e /usr/include/zlib.h ] ;;
    libbrotli-dev) [ -e /usr/include/brotli/encode.h ] ;;
    libzstd-dev) [ -e /usr/include/zstd.h ] ;;
    libssl-dev) [ -e /usr/include/openssl/evp.h ] ;;
    *) command -v "$1" ;;
    esac >/dev/null 2>&1
}

is_debian() {
    command -v dpkg-query >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1 &&
        grep -Eq '^(ID|ID_LIKE)=.*debian' "${OS_RELEASE:-/etc/os-release}" 2>/dev/null
}

if ! is_debian; then
    missing=
    for p in "$@"; do present "$p" || missing="$missing $p"; done
    [ -z "$missing" ] && exit 0
    echo "lunapark: missing here:$missing" >&2
    echo "lunapark: these are names of Debian 12's packages; this system is not Debian, so install what they bring and call make again" >&2
    exit 1
fi

# One call for all of them: it prints the installed ones and complains of the rest.
installed=$(dpkg-query -W -f '${Package}=${db:Status-Status} ' "$@" 2>/dev/null)
missing=
for p in "$@"; do
    case " $installed" in
    *" $p=installed "*) ;;
    *) missing="$missing $p" ;;
    esac
done
[ -z "$missing" ] && exit 0

if [ "$mode" = check ]; then
    echo "lunapark: missing Debian packages:$missing" >&2
    echo "lunapark: 'make deps' installs them; 'make run' and 'make test' do so themselves" >&2
    exit 1
fi

if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1; then
    as_root=sudo
else
    echo "lunapark: missing Debian packages:$missing" >&2
    echo "lunapark: neither root nor sudo here; as root: apt-get install$missing" >&2
    exit 1
fi

echo "lunapark: installing Debian packages:$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" >>"$log" 2>&1 </dev/null
}
# The lists of packages are fetched only if there are none, or too old ones.
if ! apt install --no-install-recommends $missing; then
    apt update
    if ! apt install --no-install-recommends $missing; then
        tail -n 20 "$log" >&2
        echo "lunapark: apt-get could not install:$missing" >&2
        exit 1
    fi
fi
