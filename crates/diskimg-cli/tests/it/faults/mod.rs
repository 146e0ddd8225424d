//! Fault injection for the `diskimg` binary: failing system calls and killed processes.
//!
//! A preloaded library (`shim.c`) intercepts every system call on files of the lab. It logs the
//! call, and can make it fail or kill the process. `DISKIMG_FULL=1` tests every call; by
//! default, a sample is tested.

// Prints statistics.
#![allow(clippy::print_stdout)]

mod concurrent;
mod in_place;
mod kills;
mod order;
mod scenario;
mod system;

use crate::support::diskimg;
use diskimg_testkit::tool::full;
use scenario::Scenario;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Returns the numbers of the calls that fail: all of `count`, or a spaced sample that depends on
/// `seed` and includes one of the last calls, which rename files.
fn fault_points(count: u64, seed: u64) -> Vec<u64> {
    const SAMPLES: u64 = 2;
    if full() {
        return (0..count).collect();
    }
    let step = (count / SAMPLES).max(1);
    let mut points: Vec<_> = (seed % step..count).step_by(step as usize).collect();
    points.push(count.saturating_sub(1 + seed % 7));
    points.dedup();
    points
}

/// Builds the preloaded library once and returns its path.
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
        // Renamed into place, because another process may have the old file loaded.
        std::fs::rename(&new, &built).expect("renames");
        built
    })
}

/// A logged system call.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Call {
    /// Number among the calls that the fault kind applies to.
    number: Option<u64>,
    name: String,
    path: PathBuf,
    /// The new path of a rename.
    second: PathBuf,
    result: i64,
}

/// The result of a run, and its system calls on files of the lab.
struct TracedRun {
    output: Output,
    calls: Vec<Call>,
}

impl TracedRun {
    fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    fn error(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }
}

/// Runs the scenario's command with `fault` (`none:0`, or a fault of `shim.c`).
fn run_with_fault(scenario: &Scenario, fault: &str) -> TracedRun {
    let log = scenario.log();
    let _ = std::fs::remove_file(&log);
    let child = start(scenario, Some(fault));
    let output = wait(child, &format!("{} with {fault}", scenario.line()));
    let calls = std::fs::read_to_string(&log).unwrap_or_default();
    let calls = calls.lines().map(|line| {
        let field: Vec<_> = line.split('\t').collect();
        // Removes `.` components.
        let path = |at: usize| Path::new(field[at]).components().collect();
        Call {
            number: field[0].parse().ok(),
            name: field[1].into(),
            path: path(2),
            second: path(3),
            result: field[4].parse().expect("a number"),
        }
    });
    TracedRun { output, calls: calls.collect() }
}

/// Starts the scenario's command.
fn start(scenario: &Scenario, fault: Option<&str>) -> Child {
    let mut command = scenario.lab.command(diskimg());
    command.args(scenario.line().split_whitespace());
    if let Some(fault) = fault {
        command
            .env("LD_PRELOAD", shim())
            .env("FAULT", fault)
            .env("FAULT_DIR", scenario.lab.path("").canonicalize().expect("resolves"))
            .env("FAULT_LOG", scenario.log());
    }
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts")
}

/// Waits for a process and panics if it does not end within two minutes.
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
