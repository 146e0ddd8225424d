//! Processes that are killed: at a system call, and at a random time.

use super::cases::{CASES, copy, lab};
use super::{Case, Contents};
use crate::faults::{full, shim, wait};
use crate::support::Lab;
use std::process::{Child, Stdio};
use std::time::Instant;

/// A case with its images before the command, and where the command runs.
struct Killed {
    case: Case,
    images: Lab,
    lab: Lab,
    contents: Contents,
}

impl Killed {
    fn new(case: Case) -> Self {
        let (images, lab) = (lab(), lab());
        let contents = case.contents(&lab);
        Self { case, images, lab, contents }
    }

    /// Starts the command on fresh images, with a fault of `shim.c`.
    fn start(&self, fault: Option<String>) -> Child {
        copy(&self.case, &self.images, &self.lab);
        let mut command = self.case.command(&self.lab);
        if let Some(fault) = fault {
            command
                .env("LD_PRELOAD", shim())
                .env("FAULT", fault)
                .env("FAULT_DIR", self.lab.path("").canonicalize().expect("resolves"));
        }
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts")
    }

    /// Verifies what a killed process has left, also after a repair. Returns whether it had leaks.
    fn verify(&self, what: &str) -> bool {
        let (case, directory) = (&self.case, self.lab.path(""));
        let wrong = |wrong: String| panic!("{}, {what}: {wrong}", case.line);
        let leaks = case.verify(&directory, &self.contents).unwrap_or_else(wrong);
        if case.format == "qcow2" {
            for name in case.files.iter().filter(|name| name.ends_with("qcow2")) {
                let checked = self.lab.qemu(&format!("check -q -f qcow2 {name}"));
                assert!(matches!(checked.code, Some(0 | 3)), "{}: {}", case.line, checked.err);
                let repaired = self.lab.line(&format!("check -q -r all -f qcow2 {name}"));
                assert_eq!(repaired.code, Some(0), "{}: {what}", case.line);
            }
            assert!(!case.verify(&directory, &self.contents).unwrap_or_else(wrong), "repaired");
        }
        leaks
    }
}

#[test]
fn images_that_are_modified_are_whole_after_a_kill_at_any_system_call() {
    let step = if full() { 1 } else { 23 };
    for (n, &case) in CASES.iter().enumerate() {
        let killed = Killed::new(case);
        let (mut kills, mut leaks) = (0, 0);
        let mut at = n % step;
        loop {
            let ended = wait(killed.start(Some(format!("kill:{at}"))), case.line);
            leaks += usize::from(killed.verify(&format!("killed at call {at}")));
            if ended.status.success() {
                break;
            }
            assert_eq!(ended.status.code(), None, "{}: killed", case.line);
            kills += 1;
            at += step;
        }
        println!("{}: {kills} kills, {leaks} left leaks", case.line);
        assert!(kills > 0 || step > 1, "{}", case.line);
    }
}

#[test]
fn images_that_are_modified_are_whole_after_a_kill_at_a_random_time() {
    let rounds = if full() { 100 } else { 2 };
    let mut random = std::process::id() | 1;
    let (mut kills, mut leaks) = (0, 0);
    for &case in CASES {
        let killed = Killed::new(case);
        let begun = Instant::now();
        assert!(wait(killed.start(None), "a whole run").status.success());
        let whole = begun.elapsed();
        for round in 0..rounds {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            let mut child = killed.start(None);
            std::thread::sleep(whole.mul_f64(f64::from(random) / f64::from(u32::MAX) * 1.1));
            let _ = child.kill();
            kills += u32::from(wait(child, "a killed run").status.code().is_none());
            leaks += u32::from(killed.verify(&format!("round {round}")));
        }
    }
    println!("{kills} runs killed, {leaks} left leaks");
    assert!(kills > 0);
}
