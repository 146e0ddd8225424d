//! What the command writes and flushes, replayed: the states in which a crash of the machine can
//! leave the files.

use super::cases::{CASES, copy, lab};
use super::{Case, Contents};
use crate::faults::{full, shim};
use crate::support::Lab;
use diskimg_testkit::crash::{Operation, crash_states};
use std::path::Path;

/// Runs the command and returns what it has done to its files, in order.
pub(super) fn recorded(case: &Case, lab: &Lab) -> Vec<(usize, Operation)> {
    let data = lab.path("recorded");
    let mut command = case.command(lab);
    command
        .env("LD_PRELOAD", shim())
        .env("FAULT_DIR", lab.path("").canonicalize().expect("resolves"))
        .env("FAULT_DATA", &data);
    let ran = command.output().expect("runs");
    assert!(ran.status.success(), "{}: {}", case.line, String::from_utf8_lossy(&ran.stderr));
    parse(case, &std::fs::read(data).expect("reads"))
}

/// Parses the records of `shim.c`.
fn parse(case: &Case, mut rest: &[u8]) -> Vec<(usize, Operation)> {
    let mut log = Vec::new();
    while !rest.is_empty() {
        let number = |n: usize| {
            u64::from_ne_bytes(rest[8 * n..8 * n + 8].try_into().expect("8 bytes")) as usize
        };
        let (kind, offset, len, path_len) = (number(0), number(1), number(2), number(3));
        let (path, after) = rest[32..].split_at(path_len);
        let (bytes, after) = after.split_at(if kind == 0 { len } else { 0 });
        rest = after;
        let path = Path::new(std::str::from_utf8(path).expect("UTF-8"));
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let Some(file) = case.files.iter().position(|file| *file == name) else {
            panic!("{}: writes to {name}", case.line);
        };
        let offset = offset as u64;
        let operation = match kind {
            0 => Operation::Write(offset, bytes.to_vec()),
            1 => Operation::SetLen(offset),
            2 => Operation::Barrier,
            3 => Operation::Write(offset, vec![0; len]),
            _ => panic!("{}: a call that cannot be replayed", case.line),
        };
        log.push((file, operation));
    }
    log
}

#[test]
fn images_that_are_modified_are_whole_after_a_crash_at_any_point() {
    // By default, a sample of the combinations of sectors, and of that a sample.
    let (step, every) = if full() { (1, 1) } else { (97, 17) };
    for (n, &case) in CASES.iter().enumerate() {
        let (images, scratch) = (lab(), lab());
        let contents: Contents = case.contents(&scratch);
        copy(&case, &images, &scratch);
        let before: Vec<_> = case.files.iter().map(|name| images.read(name)).collect();
        let log = recorded(&case, &scratch);
        let (mut leaks, mut number) = (0, 0);
        let states = crash_states(&before, &log, n as u64, step, |files| {
            number += 1;
            if number % every != 0 {
                return;
            }
            for (name, bytes) in case.files.iter().zip(files) {
                std::fs::write(scratch.path(name), bytes).expect("writes");
            }
            let verified = case.verify(&scratch.path(""), &contents);
            let left = verified.unwrap_or_else(|e| panic!("{}, state {number}: {e}", case.line));
            leaks += u32::from(left);
            // qemu-img agrees.
            if number % (50 * every) == 0 && case.format == "qcow2" {
                let checked = scratch.qemu(&format!("check -q -f qcow2 {}", case.image));
                assert!(matches!(checked.code, Some(0 | 3)), "{}: {}", case.line, checked.err);
            }
        });
        let verified = states / every;
        println!("{}: {verified} states, {leaks} with leaks", case.line);
        assert!(states > 0);
    }
}
