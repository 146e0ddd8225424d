//! Outputs that can be written but not replaced, as an unprivileged user and with mounts.

use crate::support::diskimg;
use std::process::Command;

/// Runs a shell script in a new directory, in which `r.raw` is a raw disk of 1 MB, and in its own
/// mount namespace. `$P` is the command, and `nobody` runs a command without privileges.
fn script(text: &str) {
    let dir = tempfile::Builder::new().permissions(mode(0o777)).tempdir().unwrap();
    let prelude = "set -e; umask 0\n\
        nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"; }\n\
        same() { qemu-img compare -q -f raw \"$1\" \"$2\"; }\n\
        noted() { \"$@\" 2>&1 | grep -q 'was overwritten in place'; }\n\
        head -c 1000000 /dev/urandom > r.raw\n";
    let out = Command::new("unshare")
        .args(["-m", "bash", "-c", &format!("{prelude}{text}")])
        .env("P", diskimg())
        .current_dir(dir.path())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
}

fn mode(mode: u32) -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode)
}

#[test]
#[ignore = "needs root: mounts a file system"]
fn a_mount_point_is_overwritten() {
    script(
        ": > out; mount --bind out out\n\
         noted $P convert --sandbox=require -O qcow2 r.raw out; same r.raw out\n\
         noted $P convert -O vmdk -o subformat=monolithicFlat r.raw out; same r.raw out\n\
         noted $P create -f qcow2 out 1M\n\
         mkdir tree; echo text > tree/f; noted $P iso create -o out tree; $P iso ls out | grep f\n\
         mkdir fs; : > volume; mount -t tmpfs none fs; : > fs/v; mount --bind volume fs/v\n\
         mount -o remount,ro,bind fs; noted $P convert -O qcow2 r.raw fs/v; same r.raw volume",
    );
}

#[test]
#[ignore = "needs root: mounts a file system"]
fn a_file_is_overwritten_where_a_second_one_has_no_room() {
    script(
        "mkdir fs; mount -t tmpfs -o size=3m none fs\n\
         head -c 2000000 /dev/urandom > fs/x; head -c 2000000 /dev/urandom > big.raw\n\
         noted $P convert -O qcow2 big.raw fs/x; same big.raw fs/x\n\
         head -c 3300000 /dev/urandom > huge.raw\n\
         ! $P convert -O qcow2 huge.raw fs/x; same big.raw fs/x\n\
         rm fs/x; head -c 1000 r.raw > fs/x; ! noted $P convert -O qcow2 r.raw fs/x; same r.raw fs/x",
    );
}

#[test]
#[ignore = "needs root"]
fn an_unprivileged_user_can_overwrite_files_of_others() {
    script(
        "mkdir -m 755 closed; : > closed/x; noted nobody $P convert -O qcow2 r.raw closed/x\n\
         same r.raw closed/x; ! nobody $P convert -O qcow2 r.raw closed/new\n\
         echo old > closed/y; ! nobody $P convert -O qcow2 -o cluster_size=3 r.raw closed/y\n\
         grep -q old closed/y\n\
         mkdir sticky; chmod 1777 sticky; : > sticky/x\n\
         noted nobody $P convert -O qcow2 r.raw sticky/x; same r.raw sticky/x\n\
         mkdir open; : > open/x; noted nobody $P convert -O qcow2 r.raw open/x; same r.raw open/x\n\
         test $(stat -c %u open/x) = 0; ls -A open sticky closed | grep -q tmp && exit 1\n\
         mkdir group; chgrp 65534 group; chmod 2775 group; : > group/x; chown 1:65534 group/x\n\
         noted nobody $P convert -O qcow2 r.raw group/x; same r.raw group/x\n\
         noted nobody $P create -f qcow2 group/x 1M\n\
         noted nobody $P iso create -o group/x r.raw; $P iso ls group/x | grep r.raw\n\
         test $(stat -c %u group/x) = 1; ls -A group | grep -q tmp && exit 1; true",
    );
}

/// The temporary file belongs to the owner of the old file, who can put another one in its place.
#[test]
#[ignore = "needs root"]
fn a_temporary_file_that_its_owner_replaces_discloses_and_changes_nothing() {
    script(
        "swap() {\n\
             for i in $(seq 2000); do\n\
                 f=$(echo shared/.$1.*.diskimg-tmp)\n\
                 [ -O \"$f\" ] && mv \"$f\" shared/stolen && ln -s $2 \"$f\" && exit\n\
                 sleep .002\n\
             done\n\
         }\n\
         head -c 3000000 /dev/urandom > big.raw\n\
         for sandbox in on off; do for line in 'out -O raw' \\\n\
             'v-flat.vmdk -O vmdk -o subformat=monolithicFlat'; do\n\
             set -- $line; name=$1; shift; out=${name%-flat.vmdk}; [ $out = out ] || out=v.vmdk\n\
             mkdir shared; chmod 775 shared; chgrp 65534 shared\n\
             echo secret > shared/secret; chmod 600 shared/secret\n\
             echo old > shared/$name; chown 65534:65534 shared/$name; chmod 644 shared/$name\n\
             nobody bash -c \"$(declare -f swap); swap $name secret\" & swapper=$!\n\
             code=0; $P --sandbox=$sandbox convert -q -r 2M -f raw $* big.raw shared/$out || code=$?\n\
             wait $swapper\n\
             test \"$(stat -c %u:%a shared/secret)\" = 0:600; grep -q secret shared/secret\n\
             ! grep -q secret shared/$name; test $code = 1; grep -q old shared/$name; rm -r shared\n\
         done; done",
    );
}

/// Root in a container may lack the capability to act as the owner of all files.
#[test]
#[ignore = "needs root"]
fn root_without_cap_fowner_replaces_or_overwrites_files_of_others() {
    script(
        "limited() { setpriv --bounding-set=-fowner \"$@\"; }\n\
         mkdir open; : > open/x; chmod 640 open/x; chown 65534:65533 open/x\n\
         limited $P convert -O qcow2 r.raw open/x; same r.raw open/x\n\
         test \"$(stat -c %u:%g:%a open/x)\" = 65534:65533:640\n\
         limited $P convert -O vmdk -o subformat=monolithicFlat r.raw open/x; same r.raw open/x\n\
         test \"$(stat -c %u:%g:%a open/x-flat*)\" = 65534:65533:640\n\
         mkdir -m 1777 sticky; chown 1234 sticky; : > sticky/x; chown 65534 sticky/x\n\
         noted limited $P convert -O qcow2 r.raw sticky/x; same r.raw sticky/x\n\
         test \"$(ls -A open sticky | grep -c tmp)\" = 0",
    );
}

/// Truncating a file frees only the blocks that no other file shares.
#[test]
#[ignore = "needs root and mkfs.xfs: mounts a file system"]
fn a_file_that_shares_its_blocks_is_not_overwritten_for_lack_of_space() {
    script(
        "command -v mkfs.xfs > /dev/null || exit 0\n\
         truncate -s 320M fs.img; mkfs.xfs -q -m reflink=1 fs.img; mkdir fs; mount fs.img fs\n\
         free() { df --output=avail -B 1 fs | tail -1; }\n\
         head -c 100000000 /dev/urandom > fs/x; cp --reflink=always fs/x fs/copy; cp fs/x old.raw\n\
         head -c $(($(free) - 20000000)) /dev/zero | tr '\\\\0' x > fs/fill || true; sync\n\
         head -c 90000000 /dev/urandom > new.raw\n\
         ! $P convert -O raw new.raw fs/x 2> err; grep -q 'No space left' err; cmp old.raw fs/x\n\
         rm fs/copy; sync; noted $P convert -O raw new.raw fs/x; cmp new.raw fs/x; umount fs",
    );
}

/// Programs that run qemu-img take any message for a failure.
#[test]
fn qemu_img_prints_no_notes() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("r.raw"), [1; 4096]).unwrap();
    std::fs::write(path("out"), "").unwrap();
    std::fs::hard_link(path("out"), path("other")).unwrap();
    std::os::unix::fs::symlink(diskimg(), path("qemu-img")).unwrap();
    let mut command = Command::new(path("qemu-img"));
    let args = ["convert", "-f", "raw", "-O", "qcow2", "r.raw", "out"];
    let out = command.args(args).current_dir(dir.path()).output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty());
}

/// Renaming fails at the end, and the file that is overwritten instead has no room for the output.
#[test]
#[ignore = "needs root and strace: mounts a file system"]
fn the_new_file_remains_if_overwriting_the_old_one_fails() {
    script(
        "command -v strace > /dev/null || exit 0\n\
         mkdir m; mount -t tmpfs -o size=10m none m\n\
         head -c 1000000 /dev/urandom > m/t.raw; head -c 6000000 /dev/urandom > s.raw\n\
         cp m/t.raw old.raw\n\
         ! strace -qq -o trace -f -e trace=/^rename -e inject=/^rename:error=EPERM \\\n\
             $P --sandbox=off convert -O raw s.raw m/t.raw\n\
         cmp old.raw m/t.raw",
    );
}
