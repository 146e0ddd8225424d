//! Tests that the process is sandboxed and that every command works in the sandbox.

use crate::support::{Lab, diskimg};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Returns a lab with `disk.raw`, or `None` if the kernel does not support `--sandbox=require`.
fn lab() -> Option<Lab> {
    let lab = Lab::new();
    is_supported(&lab).map(|()| lab)
}

/// Creates `disk.raw`. Returns `None` if the kernel does not support `--sandbox=require`.
#[allow(clippy::print_stderr)]
pub(super) fn is_supported(lab: &Lab) -> Option<()> {
    lab.raw("disk.raw");
    let ran = lab.line("info --sandbox=require disk.raw");
    if ran.code != Some(0) {
        assert!(ran.err.contains("--sandbox=require: cannot sandbox"), "{}", ran.err);
        eprintln!("skipped: {}", ran.err.trim_end());
        return None;
    }
    Some(())
}

/// Returns the value of a numeric field of /proc/PID/status.
fn status(child: &Child, field: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().parse().ok()
}

/// The fields `NoNewPrivs` and `Seccomp` of a process; see proc(5).
type SandboxState = (Option<u32>, Option<u32>);

const NOT_SANDBOXED: SandboxState = (Some(0), Some(0));
const SANDBOXED: SandboxState = (Some(1), Some(2));

fn sandbox_state(child: &Child) -> SandboxState {
    (status(child, "NoNewPrivs"), status(child, "Seccomp"))
}

/// Runs diskimg with pipes that are neither written nor read, and returns its sandbox state once
/// `waits` is true.
fn state_once(lab: &Lab, args: &[&str], waits: impl Fn(&Child) -> bool) -> SandboxState {
    let mut child = lab
        .command(diskimg())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let end = Instant::now() + Duration::from_secs(30);
    while !waits(&child) && Instant::now() < end {
        sleep(Duration::from_millis(2));
    }
    let result = sandbox_state(&child);
    child.kill().expect("kills");
    child.wait().expect("waits");
    result
}

#[test]
fn the_process_is_sandboxed_unless_disabled() {
    let Some(lab) = lab() else { return };
    // The output of `map` is larger than a pipe buffer, so that the process blocks.
    let file = File::create(lab.path("holes.raw")).expect("creates");
    file.set_len(64 << 20).expect("extends");
    for at in (0..2000).map(|n| n * 32768) {
        crate::support::write_at(&lab.path("holes.raw"), at, b"x");
    }
    // The system call number of write(2) is 1 on x86-64 and 64 on other architectures.
    let writes = |child: &Child| {
        fs::read_to_string(format!("/proc/{}/syscall", child.id()))
            .is_ok_and(|call| call.starts_with("1 0x1 ") || call.starts_with("64 0x1 "))
    };
    let map = ["map", "--output=json", "holes.raw"];
    assert_eq!(state_once(&lab, &map, writes), SANDBOXED);
    let off = ["map", "--output=json", "--sandbox=off", "holes.raw"];
    assert_eq!(state_once(&lab, &off, writes), NOT_SANDBOXED);
    // The sandbox starts before the first byte of the image is read.
    let waits = |child: &Child| sandbox_state(child) == SANDBOXED;
    assert_eq!(state_once(&lab, &["info", "-"], waits), SANDBOXED);
}

/// The temporary file is created before the sandbox starts.
#[test]
fn a_temporary_file_that_is_not_used_is_removed() {
    let Some(lab) = lab() else { return };
    fs::create_dir(lab.path("out")).expect("mkdir");
    for existing in [false, true] {
        if existing {
            fs::write(lab.path("out/x"), "old").expect("writes");
        }
        for line in ["convert missing.raw out/x", "create -f qcow2 -b missing -F raw out/x"] {
            let ran = lab.run(line.split(' '));
            assert_eq!(ran.code, Some(1), "{line}: {}", ran.err);
            let left = fs::read_dir(lab.path("out")).expect("lists").count();
            assert_eq!(left, usize::from(existing), "{line}");
        }
    }
    assert_eq!(lab.read("out/x"), b"old");
}

/// The temporary file exists before the tree is read.
#[test]
fn an_image_in_its_own_tree_has_the_same_bytes_with_and_without_a_sandbox() {
    let lab = Lab::new();
    let script = format!(
        "mkdir -p tree; cd tree; echo a >a; touch -d @1600000000 a .\n\
         exec {} iso create -q $0 -o out.iso .",
        diskimg()
    );
    let create = |sandbox: &str| {
        let option = format!("--sandbox={sandbox}");
        let mut command = lab.command("sh");
        command.args(["-c", &script, &option]).env("SOURCE_DATE_EPOCH", "1700000000");
        assert!(command.status().expect("runs").success());
        let bytes = lab.read("tree/out.iso");
        fs::remove_file(lab.path("tree/out.iso")).expect("removes");
        bytes
    };
    let images = ["off", "on", "on"].map(create);
    assert!(images.iter().all(|image| *image == images[0]));
}

#[test]
fn an_image_of_several_files_is_replaced_in_the_sandbox() {
    use std::os::unix::fs::PermissionsExt;
    let Some(lab) = lab() else { return };
    for line in [
        "convert -O vmdk disk.raw disk.vmdk",
        "convert -O vmdk -o subformat=twoGbMaxExtentSparse disk.raw disk.vmdk",
        "convert -O vmdk -o subformat=twoGbMaxExtentSparse disk.raw disk.vmdk",
        "convert -O vmdk -o subformat=monolithicFlat disk.raw disk.vmdk",
        "convert -O qcow2 -o data_file=data.raw disk.raw disk.vmdk",
        "convert -O qcow2 -o data_file=data.raw disk.raw disk.vmdk",
    ] {
        let ran = lab.run(["--sandbox=require"].into_iter().chain(line.split(' ')));
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{line}");
        let mode = fs::Permissions::from_mode(0o640);
        fs::set_permissions(lab.path("disk.vmdk"), mode).expect("chmod");
    }
    let mode = fs::metadata(lab.path("data.raw")).expect("exists").permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn every_command_works_in_the_sandbox() {
    let Some(lab) = lab() else { return };
    fs::create_dir_all(lab.path("far/tree")).expect("mkdir");
    fs::write(lab.path("far/tree/a"), "a").expect("writes");
    std::os::unix::fs::symlink("far/new.qcow2", lab.path("link.qcow2")).expect("links");
    for line in [
        "convert -O qcow2 disk.raw disk.qcow2",
        "convert -O qcow2 disk.raw link.qcow2",
        "convert -O vmdk -o subformat=twoGbMaxExtentSparse disk.raw far/split.vmdk",
        "convert -O ova disk.raw far/one.ova",
        "convert -O qcow2 far/one.ova far/out.qcow2",
        "convert -O qcow2 -o data_file=data.raw disk.raw far/two.qcow2",
        "convert -O qcow2 -B ../disk.raw -F raw disk.raw far/over.qcow2",
        "convert --verify --digest sha256 disk.qcow2 verified.raw",
        "convert -t none -T none disk.raw direct.raw",
        "convert -n disk.raw verified.raw",
        "convert disk.raw /dev/null",
        "create -f qcow2 -b ../disk.raw -F raw far/child.qcow2",
        "create -f qcow2 -o data_file=fresh.raw far/fresh.qcow2 1M",
        "info far/child.qcow2",
        "info --backing-chain far/over.qcow2",
        "map far/split.vmdk",
        "check far/out.qcow2",
        "check far/one.ova",
        "compare disk.raw far/over.qcow2",
        "measure -O qcow2 disk.raw",
        "inspect disk.qcow2",
        "iso create -o far/tree.iso far/tree",
        "iso ls far/tree.iso",
        "iso cat far/tree.iso a",
        "iso verify far/tree.iso",
        "iso diff --content far/tree.iso far/tree",
        "iso remaster --add disk.raw=disk.raw -o more.iso far/tree.iso",
        "iso extract -C new/deep far/tree.iso",
    ] {
        let ran = lab.run(["--sandbox=require"].into_iter().chain(line.split(' ')));
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{line}");
    }
    assert_eq!(lab.read("new/deep/a"), b"a");
    assert_eq!(lab.read("verified.raw"), lab.read("disk.raw"));
    assert!(Path::new("/dev/null").metadata().is_ok_and(|found| !found.is_file()));
}
