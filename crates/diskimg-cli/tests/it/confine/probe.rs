//! What an attacker who has taken over the process can do, for each command: `probe.c` tries it in
//! the process, before the first byte of the image is parsed and when results are written.

use crate::support::{Lab, Ran, diskimg, write_at};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// What a command is allowed.
struct Case {
    line: &'static str,
    /// While inputs are opened.
    parsing: &'static [&'static str],
    /// Afterwards.
    running: &'static [&'static str],
}

/// Reading any file, as an image can refer to any file by default.
const ANY: &[&str] = &["read-far", "read-near"];
const NEAR: &[&str] = &["read-near"];
const OUT: &[&str] = &["create-out", "overwrite-out", "remove-out"];
const OUT_AND_ATTRIBUTES: &[&str] =
    &["create-out", "overwrite-out", "remove-out", "fchmod-out", "fchown-out", "fsetxattr-out"];
const ANY_AND_OUT: &[&str] =
    &["read-far", "read-near", "create-out", "overwrite-out", "remove-out"];
const EXTRACT: &[&str] =
    &["create-out", "overwrite-out", "remove-out", "mkdir-out", "symlink-out", "fchmod-out"];
const NONE: &[&str] = &[];

#[rustfmt::skip]
const CASES: &[Case] = &[
    Case { line: "info in/disk.qcow2", parsing: ANY, running: NONE },
    Case { line: "info --external-files same-dir in/disk.qcow2", parsing: NEAR, running: NONE },
    Case { line: "info --external-files none in/disk.qcow2", parsing: NONE, running: NONE },
    Case { line: "inspect in/disk.qcow2", parsing: NONE, running: NONE },
    Case { line: "map in/disk.qcow2", parsing: ANY, running: NONE },
    Case { line: "check --external-files none in/disk.qcow2", parsing: NONE, running: NONE },
    Case { line: "measure -O raw in/disk.qcow2", parsing: ANY, running: NONE },
    Case { line: "compare --external-files none in/disk.qcow2 in/disk.raw", parsing: NONE, running: NONE },
    Case { line: "convert --external-files none -O qcow2 in/disk.qcow2 out/x.qcow2", parsing: OUT, running: OUT },
    Case { line: "convert --external-files none -O qcow2 -o data_file=d in/disk.qcow2 out/x.qcow2", parsing: OUT_AND_ATTRIBUTES, running: OUT_AND_ATTRIBUTES },
    Case { line: "convert --external-files none -O vmdk in/disk.qcow2 out/x.vmdk", parsing: OUT, running: OUT },
    Case { line: "convert -O qcow2 in/disk.qcow2 out/target.raw", parsing: ANY_AND_OUT, running: OUT },
    Case { line: "convert --external-files none in/disk.qcow2 -", parsing: NONE, running: NONE },
    Case { line: "convert --external-files none -n in/disk.qcow2 out/target.raw", parsing: NONE, running: NONE },
    Case { line: "convert --external-files none -n -O qcow2 in/disk.raw out/target.qcow2", parsing: NONE, running: NONE },
    Case { line: "resize --external-files none in/disk.qcow2 +1M", parsing: NONE, running: NONE },
    Case { line: "dd --external-files none -O qcow2 if=in/disk.qcow2 of=out/x.qcow2 count=9", parsing: OUT, running: OUT },
    Case { line: "snapshot --external-files none -c s in/disk.qcow2", parsing: NONE, running: NONE },
    Case { line: "amend --external-files none -o compat=0.10 in/disk.qcow2", parsing: NONE, running: NONE },
    Case { line: "amend --external-files none -o size=9M in/disk.qcow2", parsing: NONE, running: NONE },
    // Files of the socket's directory can be removed, but not the one that cannot be created.
    Case { line: "serve --external-files none -k out/s in/disk.qcow2", parsing: NONE, running: NONE },
    Case { line: "serve --external-files none -w -f qcow2 -k out/s in/disk.qcow2", parsing: NONE, running: NONE },
    Case { line: "serve --external-files none -p 0 in/disk.qcow2", parsing: NONE, running: NONE },
    Case { line: "bitmap --external-files none --add in/disk.qcow2 b", parsing: NONE, running: NONE },
    Case { line: "iso ls --external-files none in/tree.iso", parsing: NONE, running: NONE },
    Case { line: "iso cat --external-files none in/tree.iso a", parsing: NONE, running: NONE },
    Case { line: "iso verify --external-files none in/tree.iso", parsing: NONE, running: NONE },
    Case { line: "iso extract -v --external-files none -C out in/tree.iso", parsing: EXTRACT, running: EXTRACT },
    Case { line: "iso remaster --external-files none -o out/x.iso in/tree.iso", parsing: OUT, running: OUT },
    Case { line: "xorriso -indev in/tree.iso -find / -type f", parsing: NEAR, running: NONE },
];

/// Returns the path of the preloaded library, compiled in the lab.
fn library(lab: &Lab) -> std::path::PathBuf {
    let library = lab.path("probe.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/confine/probe.c");
    let cc = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .status();
    assert!(
        cc.is_ok_and(|status| status.success()),
        "this test needs cc (install build-essential)"
    );
    library
}

fn prepare(lab: &Lab) {
    for directory in ["in", "far", "out", "tmp"] {
        let _ = fs::remove_dir_all(lab.path(directory));
        fs::create_dir(lab.path(directory)).expect("mkdir");
    }
    for file in ["in/near", "far/secret", "out/other", "tmp/other"] {
        fs::write(lab.path(file), "x").expect("writes");
    }
    lab.raw("in/disk.raw");
    lab.raw("out/target.raw");
    lab.line("convert -O qcow2 in/disk.raw in/disk.qcow2").ok();
    lab.line("convert -O qcow2 in/disk.raw out/target.qcow2").ok();
    fs::create_dir(lab.path("tree")).ok();
    fs::write(lab.path("tree/a"), "a").expect("writes");
    lab.line("iso create -q -o in/tree.iso tree").ok();
    write_at(&lab.path("in/near"), 0, b"y");
}

/// Runs a command with the library and returns the attempts that succeeded at each moment.
fn succeeded(lab: &Lab, library: &Path, line: &str) -> BTreeMap<String, Vec<String>> {
    let log = lab.path("log");
    let _ = fs::remove_file(&log);
    let mut command = lab.command(diskimg());
    command.arg("--sandbox=require").args(line.split(' '));
    command.env("LD_PRELOAD", library).env("PROBE_LOG", &log).env("PROBE_DIR", lab.path(""));
    command.env("TMPDIR", lab.path("tmp")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("runs");
    if line.starts_with("serve ") {
        // It runs until it is stopped.
        let mut uri = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut uri).expect("reads");
        kill_process(Pid::from_child(&child), Signal::TERM).expect("signals");
    }
    let ran = child.wait_with_output().expect("ends");
    let error = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{line}: {error}");
    let log = fs::read_to_string(&log).expect("a log");
    let mut succeeded = BTreeMap::new();
    for attempt in log.lines() {
        let [moment, what, errno] = attempt.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{attempt}");
        };
        let list: &mut Vec<String> = succeeded.entry(moment.to_owned()).or_default();
        if errno == "0" {
            list.push(what.to_owned());
        }
    }
    succeeded
}

#[test]
fn an_attacker_in_the_process_can_do_only_what_the_command_needs() {
    let lab = Lab::new();
    let Some(()) = super::sandbox::is_supported(&lab) else { return };
    let library = library(&lab);
    for Case { line, parsing, running } in CASES {
        prepare(&lab);
        let found = succeeded(&lab, &library, line);
        for (moment, allowed) in [("parse", parsing), ("run", running)] {
            let mut allowed: Vec<_> = allowed.iter().map(ToString::to_string).collect();
            let mut found =
                found.get(moment).cloned().unwrap_or_else(|| panic!("{line}: {moment}"));
            allowed.sort();
            found.sort();
            assert_eq!(found, allowed, "{line}: {moment}");
        }
        assert_eq!(lab.read("far/secret"), b"x", "{line}");
        assert_eq!(lab.read("tmp/other"), b"x", "{line}");
    }
}

/// Landlock's rules apply to everything below a directory.
#[test]
#[ignore = "needs root"]
fn an_output_in_the_root_directory_does_not_open_devices_and_processes() {
    let lab = Lab::new();
    let Some(()) = super::sandbox::is_supported(&lab) else { return };
    let library = library(&lab);
    prepare(&lab);
    let output = format!("/diskimg-test-{}.qcow2", std::process::id());
    let line = format!("convert --external-files none --verify -O qcow2 in/disk.qcow2 {output}");
    let second = format!("{output}.link");
    for case in ["new", "replaced", "overwritten"] {
        if case == "overwritten" {
            fs::hard_link(&output, &second).expect("links");
        }
        let found = succeeded(&lab, &library, &line);
        // Files can be removed, and empty ones be created.
        prepare(&lab);
        for attempt in found.values().flatten() {
            let allowed = ["remove-far", "remove-tmp", "remove-out"].contains(&attempt.as_str());
            assert!(allowed && case != "overwritten", "{case}: {attempt}");
        }
    }
    fs::remove_file(output).expect("removes");
    fs::remove_file(second).expect("removes");
}

/// The attempts do succeed without a sandbox, so that the test above is not vacuous.
#[test]
#[ignore = "needs root"]
fn without_a_sandbox_the_attempts_succeed() {
    let lab = Lab::new();
    let library = library(&lab);
    prepare(&lab);
    let line = "info --sandbox=off in/disk.qcow2";
    let log = lab.path("log");
    let mut command = lab.command(diskimg());
    command.args(line.split(' '));
    command.env("LD_PRELOAD", library).env("PROBE_LOG", &log).env("PROBE_DIR", lab.path(""));
    // execve(2) succeeds, so the run ends with the first attempts.
    Ran::new(command.output().expect("runs"));
    let log = fs::read_to_string(&log).expect("a log");
    for what in
        ["read-far", "create-far", "create-set-id", "remove-tmp", "mknod-block", "mkdir-far"]
    {
        assert!(log.contains(&format!("parse {what} 0\n")), "{what}: {log}");
    }
}
