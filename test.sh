#!/bin/sh
# Runs all tests. They hold diskimg against the tools that others use, so those
# must be there: installed here if this is Debian and we are root, named if not.
set -eu
cd "$(dirname "$0")"

missing=
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
PATH="$PATH:/usr/sbin:/sbin"
need cc build-essential
need qemu-img qemu-utils
need qemu-io qemu-utils
need mkfs.ext4 e2fsprogs
need 7zz 7zip
need prlimit util-linux
need unshare util-linux
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        apt-get update -qq
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
    else
        echo "The tests need these packages:$missing" >&2
        echo "On Debian: sudo apt-get install$missing" >&2
        exit 1
    fi
fi

exec cargo test --workspace --locked "$@"
