#!/bin/sh
# Gets the sources of lua-busted and lua-penlight, as Debian has packaged what is installed here, for their own specs:
# spec/busted_spec.lua runs those under `lunapark test` and under plain luajit if it finds them, and compares.
#
#     host/build/suites.sh [DIR]        (default: build/suites; LUNAPARK_SUITES=DIR names another to the spec)
#
# Nothing but Debian's mirrors is asked: `apt-get source`, with lists of its own, so no deb-src line is needed and
# /etc/apt stays as it is. Where a mirror has no sources, put the two trees there by hand, as DIR/lua-busted-VERSION and
# DIR/lua-penlight-VERSION: `dpkg-query -W lua-busted` tells the version.
set -eu

command -v dpkg-source >/dev/null || { echo "suites: needs dpkg-source (Debian: dpkg-dev)" >&2; exit 1; }

dir=${1:-build/suites}
mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial"
dir=$(cd "$dir" && pwd)
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $codename main" \
    >"$dir/apt/sources.list"

get() {
    apt-get -q -o Dir::Etc::sourcelist="$dir/apt/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::State::lists="$dir/apt/lists" -o Dir::Cache="$dir/apt/cache" -o APT::Sandbox::User="$(id -un)" "$@"
}

get update >/dev/null
cd "$dir"
for package in lua-busted lua-penlight; do
    version=$(dpkg-query -W -f '${source:Upstream-Version}' $package)
    [ -d "$package-$version" ] && continue
    get source --download-only "$package=$(dpkg-query -W -f '${source:Version}' $package)" || {
        echo "suites: no source of $package here: put its tree to $dir/$package-$version" >&2
        exit 1
    }
    rm -rf unpacked && mkdir unpacked
    dpkg-source -q --no-check -x "$package"_*.dsc unpacked/tree
    mv unpacked/tree "$package-$version"
    rm -rf unpacked
    echo "$dir/$package-$version"
done
