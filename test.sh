#!/bin/sh
# Runs all tests: of the library, the command and the Python package.
#
#   ./test.sh             all tests; long ones take a sample of their cases
#   ./test.sh --full      all cases: every boot, every kill, every fault (about an hour)
#   ./test.sh FILTER      the Rust tests whose names contain FILTER
#
# They compare diskimg with other programs. On Debian, as root, this script installs the missing
# ones; otherwise it lists them.
set -eu
cd "$(dirname "$0")"

if [ "${1-}" = --full ]; then
    export DISKIMG_FULL=1
    shift
fi

missing=
need() { command -v "$1" >/dev/null 2>&1 || lacks "$2"; }
lacks() {
    case " $missing " in
    *" $1 "*) ;;
    *) missing="$missing $1" ;;
    esac
}
PATH="$PATH:/usr/sbin:/sbin"
# Some tools can only handle file names in the locale's encoding.
export LC_ALL=C.UTF-8
need cc build-essential
need mkfs.ext4 e2fsprogs
need mkfs.vfat dosfstools
need blkid util-linux
need 7zz 7zip
need prlimit util-linux
need xz xz-utils
# Other programs for compressed files.
need zstd zstd
need pzstd zstd
need bzip2 bzip2
need bgzip tabix
need pbzip2 pbzip2
need pigz pigz
need pixz pixz
# Programs that write and read EWF, cloop and Bochs images.
need ewfacquire ewf-tools
need create_compressed_fs cloop-utils
need bximage bximage
# For /bin/kill: `need kill` would find the shell's own.
need ps procps
# Debian's Python needs this module for virtual environments.
python3 -c 'import ensurepip' 2>/dev/null || lacks python3-venv
# Programs that write or read ISO images.
need xorriso xorriso
need genisoimage genisoimage
need bsdtar libarchive-tools
need mkudffs udftools
need mkzftree genisoimage
need iso-info libcdio-utils
need mcopy mtools
need isohybrid syslinux-utils
need grub-mkrescue grub-common
[ -d /usr/lib/grub/i386-pc ] || lacks grub-pc-bin
[ -d /usr/lib/grub/x86_64-efi ] || lacks grub-efi-amd64-bin
[ -f /usr/lib/ISOLINUX/isohdpfx.bin ] || lacks isolinux
need sfdisk fdisk
need unzip unzip
need nginx nginx-light
need nbdcopy libnbd-bin
need nbdkit nbdkit
need qemu-nbd qemu-utils
need openssl openssl
# A store that is compatible with S3.
need ceph ceph-common
need ceph-mon ceph-mon
need ceph-osd ceph-osd
need radosgw radosgw
need memcached memcached
# Attributes and access control lists of files.
need setfattr attr
need setfacl acl
# Some tests mount file systems.
privileged=
if [ "$(id -u)" = 0 ]; then
    privileged=--include-ignored
    need mkfs.xfs xfsprogs
    need mkfs.btrfs btrfs-progs
    need fincore util-linux-extra
    [ -x /usr/sbin/sshd ] || lacks openssh-server
fi
# qemu-img, and a virtual machine in which images boot.
need_qemu() {
    need qemu-img qemu-utils
    need qemu-io qemu-utils
    need qemu-system-x86_64 qemu-system-x86
    [ -d /usr/share/OVMF ] || lacks ovmf
}
# `qemu-img info` lists the files of an image since QEMU 8.0; `qemu-img map` has `compressed` since
# 8.2.
qemu_since=8.2
qemu_is_recent() {
    version=$(qemu-img --version | sed -n 's/^qemu-img version \([0-9.]*\).*/\1/p')
    printf '%s\n' "$qemu_since" "$version" | sort -C -V
}

apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends "$@"
}
# Installs packages from the release's backports, and their dependencies from the release. The
# backports are taken from the mirror of the release and verified with the same keys. The machine's
# own list of sources is not changed.
install_backports() {
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    site=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' |
        sed -n "s/ $suite\$//p" | head -n 1)
    keys=$(sed -n 's/^Signed-By: *//p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1)
    lists=$(mktemp -d)
    chmod 755 "$lists"
    mkdir -p "$lists/lists/partial"
    {
        cat /etc/apt/sources.list 2>/dev/null || true
        echo "deb ${keys:+[signed-by=$keys]} $site $suite-backports main"
    } >"$lists/sources.list"
    with="-o Dir::Etc::sourcelist=$lists/sources.list -o Dir::State::lists=$lists/lists"
    # shellcheck disable=SC2086
    apt_get $with update && apt_get $with install --no-remove -t "$suite-backports" "$@"
    done=$?
    rm -r "$lists"
    return $done
}
# Debian 12 has QEMU 7.2; its backports have a later version. All three packages must have the same
# version, so they are installed together.
install_qemu() {
    packages="qemu-utils qemu-system-x86 ovmf"
    offered=$(apt-cache policy qemu-utils | sed -n 's/^ *Candidate: //p')
    # shellcheck disable=SC2086
    if dpkg --compare-versions "$offered" ge "1:$qemu_since" &&
        apt_get install --no-remove $packages 2>/dev/null; then
        return
    fi
    # shellcheck disable=SC2086
    install_backports $packages || apt_get install $packages
}
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    others=$missing
    missing=
    need_qemu
    if [ -n "$others$missing" ] || ! qemu_is_recent; then
        apt_get update
        # shellcheck disable=SC2086
        apt_get install $others
    fi
    if [ -n "$missing" ] || ! qemu_is_recent; then
        install_qemu || true
    fi
    missing=
fi
need_qemu
if [ -n "$missing" ]; then
    echo "The tests need these packages:$missing" >&2
    echo "On Debian: sudo apt-get install$missing" >&2
    exit 1
fi
if ! qemu_is_recent; then
    echo "qemu-img is older than $qemu_since: its info and map are not compared." >&2
fi

# Python modules that read images: further references, which the tests can do without.
oracles=$PWD/target/oracles
add_readers() {
    "$oracles/bin/python" -m pip --disable-pip-version-check install --quiet --retries 1 \
        --only-binary :all: --requirement crates/diskimg-testkit/src/oracles/requirements.txt
}
add_oracles() {
    add_readers && return
    python3 -m venv --clear "$oracles" && add_readers
}
if output=$(add_oracles 2>&1); then
    export DISKIMG_ORACLES="$oracles"
else
    echo "Tests run without the Python readers: $(echo "$output" | tail -n 1)" >&2
fi

# The library of the Python package is part of the workspace, but not a test: cargo would link it
# like a program, with libpython, which only Python's development files have. That it is selected
# matters: cargo then compiles all dependencies with the features that python/test.sh needs.
crates="--workspace --locked"
# Builds of the library with few features; they must work without a C compiler.
few="-p diskimg --no-default-features --features qcow2 --locked --lib --test minimal"
run_tests() {
    # cargo-nextest runs the tests of all programs in parallel.
    if command -v cargo-nextest >/dev/null 2>&1; then
        [ -z "$privileged" ] || set -- --run-ignored all "$@"
        cargo nextest run --status-level slow --final-status-level fail "$@"
    else
        cargo test "$@" -- $privileged
    fi
}
# shellcheck disable=SC2086
{
    run_tests $crates --tests "$@"
    [ $# -eq 0 ] || exit 0
    cargo test --quiet $crates --doc
    run_tests $few
}
python/test.sh
# Functions of Nova, Cinder, Ironic and oVirt that run qemu-img: installing them takes minutes.
[ -z "${DISKIMG_FULL-}" ] || crates/diskimg-cli/tests/consumers/run
