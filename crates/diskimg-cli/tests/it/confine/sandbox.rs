//! `--sandbox`: that the program is confined while it works, and works all the same.

use crate::support::{Lab, diskimg};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A lab with `disk.raw`, where this kernel can do all that `--sandbox=require` asks for.
#[allow(clippy::print_stderr)]
fn lab() -> Option<Lab> {
    let lab = Lab::new();
    lab.raw("disk.raw");
    let ran = lab.line("info --sandbox=require disk.raw");
    if ran.code != Some(0) {
        assert!(ran.err.contains("--sandbox=require: cannot confine"), "{}", ran.err);
        eprintln!("not checked: {}", ran.err.trim_end());
        return None;
    }
    Some(lab)
}

/// The number of a field of /proc/PID/status.
fn status(child: &Child, field: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().parse().ok()
}

/// Whether a process can gain privileges, and how its system calls are filtered.
type Confinement = (Option<u32>, Option<u32>);

const UNCONFINED: Confinement = (Some(0), Some(0));
const CONFINED: Confinement = (Some(1), Some(2));

fn confinement(child: &Child) -> Confinement {
    (status(child, "NoNewPrivs"), status(child, "Seccomp"))
}

/// Runs the line, with nothing said to it and nobody listening, and looks at it once `waits`.
fn while_it_waits(lab: &Lab, words: &[&str], waits: impl Fn(&Child) -> bool) -> Confinement {
    let mut child = lab
        .command(diskimg())
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let end = Instant::now() + Duration::from_secs(30);
    while !waits(&child) && Instant::now() < end {
        sleep(Duration::from_millis(2));
    }
    let seen = confinement(&child);
    child.kill().expect("ends");
    child.wait().expect("ended");
    seen
}

#[test]
fn the_program_is_confined_unless_told_otherwise() {
    let Some(lab) = lab() else { return };
    // What `map` says of it is more than a pipe holds.
    let file = File::create(lab.path("holes.raw")).expect("creates");
    file.set_len(64 << 20).expect("extends");
    for at in (0..2000).map(|n| n * 32768) {
        crate::support::write_at(&lab.path("holes.raw"), at, b"x");
    }
    // write(2) is 1 on x86-64 and 64 on the others.
    let writes = |child: &Child| {
        fs::read_to_string(format!("/proc/{}/syscall", child.id()))
            .is_ok_and(|call| call.starts_with("1 0x1 ") || call.starts_with("64 0x1 "))
    };
    let map = ["map", "--output=json", "holes.raw"];
    assert_eq!(while_it_waits(&lab, &map, writes), CONFINED);
    let off = ["map", "--output=json", "--sandbox=off", "holes.raw"];
    assert_eq!(while_it_waits(&lab, &off, writes), UNCONFINED);
    // Before the first byte of an image has come.
    let waits = |child: &Child| confinement(child) == CONFINED;
    assert_eq!(while_it_waits(&lab, &["info", "-"], waits), CONFINED);
}

#[test]
fn every_verb_does_its_work_confined() {
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
        let confined = lab.run(["--sandbox=require"].into_iter().chain(line.split(' ')));
        assert_eq!((confined.code, confined.err.as_str()), (Some(0), ""), "{line}");
    }
    assert_eq!(lab.read("new/deep/a"), b"a");
    assert_eq!(lab.read("verified.raw"), lab.read("disk.raw"));
    assert!(Path::new("/dev/null").metadata().is_ok_and(|found| !found.is_file()));
}
