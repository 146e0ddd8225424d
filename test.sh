#!/bin/sh
# Runs all tests: of the library and the command, and of the Python package (with
# arguments, which are cargo test's: of the first two only). They hold diskimg against
# the tools that others use, so those must be there: installed here if this is Debian
# and we are root, named if not.
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
need python3 python3-venv
# Makers and readers of ISO images.
need xorriso xorriso
need genisoimage genisoimage
need bsdtar libarchive-tools
need mkudffs udftools
need mkzftree genisoimage
need iso-info libcdio-utils
need mcopy mtools
need isohybrid syslinux-utils
need sfdisk fdisk
# Some tests mount file systems.
privileged=
if [ "$(id -u)" = 0 ]; then
    privileged=--include-ignored
    need mkfs.xfs xfsprogs
    need mkfs.btrfs btrfs-progs
    need fincore util-linux-extra
fi
can_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; }
install() {
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}
if [ -n "$missing" ]; then
    if can_install; then
        # shellcheck disable=SC2086
        install $missing
    else
        echo "The tests need these packages:$missing" >&2
        echo "On Debian: sudo apt-get install$missing" >&2
        exit 1
    fi
fi

# A machine to start images in. It comes from where qemu-img came from: of another version, the
# one would replace the other.
add_machine() {
    kept="--no-install-recommends --no-remove"
    # shellcheck disable=SC2086
    apt-get install -y -qq $kept qemu-system-x86 ovmf 2>/dev/null && return
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    # From where the suite itself comes, trusted as far.
    site=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' |
        sed -n "s/ $suite\$//p" | head -n 1)
    keys=$(sed -n 's/^Signed-By: *//p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1)
    lists=$(mktemp -d)
    chmod 755 "$lists"
    mkdir -p "$lists/lists/partial"
    echo "deb ${keys:+[signed-by=$keys]} $site $suite-backports main" >"$lists/sources.list"
    with="-o Dir::Etc::sourcelist=$lists/sources.list -o Dir::State::lists=$lists/lists"
    # shellcheck disable=SC2086
    apt-get $with update -qq &&
        apt-get $with install -y -qq $kept -t "$suite-backports" qemu-system-x86 ovmf
    done=$?
    rm -r "$lists"
    return $done
}
if ! command -v qemu-system-x86_64 >/dev/null 2>&1 || [ ! -d /usr/share/OVMF ]; then
    if ! can_install || ! DEBIAN_FRONTEND=noninteractive add_machine; then
        echo "The tests need these packages: qemu-system-x86 ovmf" >&2
        exit 1
    fi
fi

# Debian's Python makes no virtual environments without it.
if can_install; then
    python3 -c 'import ensurepip' 2>/dev/null || install python3-venv
fi

# Readers that are Python modules: more opinions, but not needed.
oracles=$PWD/target/oracles
add_readers() {
    "$oracles/bin/python" -m pip --disable-pip-version-check install --quiet --retries 1 \
        --only-binary :all: --requirement crates/diskimg-testkit/src/oracles/requirements.txt
}
add_oracles() {
    add_readers && return
    python3 -m venv --clear "$oracles" && add_readers
}
if said=$(add_oracles 2>&1); then
    export DISKIMG_ORACLES="$oracles"
else
    echo "Without the readers that are Python modules: $(echo "$said" | tail -n 1)" >&2
fi

cargo test --workspace --locked --doc
cargo test --workspace --locked --lib --bins --tests "$@" -- $privileged
[ $# -gt 0 ] || python/test.sh
