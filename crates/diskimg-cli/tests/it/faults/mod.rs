//! Storage that fails and processes that are killed, under the real program.
//!
//! A library that is preloaded (`shim.c`) has every system call on the lab's files go by it, to
//! be noted, to fail, or to be the last thing that happens. `DISKIMG_FAULTS=full` goes through all of
//! them; else it is a sample.

// The figures of a full run.
#![allow(clippy::print_stdout)]

mod kills;
mod order;
mod system;
mod world;

use crate::support::diskimg;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use world::World;

/// Whether every call is met, or only some.
fn full() -> bool {
    std::env::var("DISKIMG_FAULTS").is_ok_and(|word| word == "full")
}

/// Which of `count` calls are met: all, or some that lie apart, at another place for another
/// `seed`; often one of the last, which give names.
fn points(count: u64, seed: u64) -> Vec<u64> {
    const SOME: u64 = 2;
    if full() {
        return (0..count).collect();
    }
    let step = (count / SOME).max(1);
    let mut points: Vec<_> = (seed % step..count).step_by(step as usize).collect();
    points.push(count.saturating_sub(1 + seed % 7));
    points.dedup();
    points
}

/// The library that is preloaded, built once.
fn shim() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let at = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (new, built) = (at.join(format!("shim-{}", std::process::id())), at.join("shim.so"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/faults/shim.c");
        let cc = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&new)
            .arg(source)
            .status();
        assert!(
            cc.is_ok_and(|status| status.success()),
            "this test needs cc (install build-essential)"
        );
        // Others may have it loaded.
        std::fs::rename(&new, &built).expect("renames");
        built
    })
}

/// A system call that went by.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Call {
    /// Its number among those that the fault concerns.
    met: Option<u64>,
    name: String,
    path: PathBuf,
    /// The new name, if it gives one.
    second: PathBuf,
    result: i64,
}

/// What a run did, and the calls it made in the lab.
struct Met {
    output: Output,
    calls: Vec<Call>,
}

impl Met {
    fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    fn error(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }
}

/// Runs the world's command with `fault` (`none:0`, or as in `shim.c`).
fn meet(world: &World, fault: &str) -> Met {
    let log = world.log();
    let _ = std::fs::remove_file(&log);
    let child = start(world, Some(fault));
    let output = wait(child, &format!("{} with {fault}", world.line()));
    let calls = std::fs::read_to_string(&log).unwrap_or_default();
    let calls = calls.lines().map(|line| {
        let field: Vec<_> = line.split('\t').collect();
        // Components: without `.` in the middle.
        let path = |at: usize| Path::new(field[at]).components().collect();
        Call {
            met: field[0].parse().ok(),
            name: field[1].into(),
            path: path(2),
            second: path(3),
            result: field[4].parse().expect("a number"),
        }
    });
    Met { output, calls: calls.collect() }
}

/// Starts the world's command.
fn start(world: &World, fault: Option<&str>) -> Child {
    let mut command = world.lab.command(diskimg());
    command.args(world.line().split_whitespace());
    if let Some(fault) = fault {
        command
            .env("LD_PRELOAD", shim())
            .env("FAULT", fault)
            .env("FAULT_DIR", world.lab.path("").canonicalize().expect("is there"))
            .env("FAULT_LOG", world.log());
    }
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts")
}

/// Waits for what must end.
fn wait(mut child: Child, what: &str) -> Output {
    let begun = Instant::now();
    while child.try_wait().expect("waits").is_none() {
        if begun.elapsed() > Duration::from_secs(120) {
            let _ = child.kill();
            panic!("{what}: hangs");
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    child.wait_with_output().expect("ends")
}
