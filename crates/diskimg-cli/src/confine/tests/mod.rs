//! Tests of the sandbox, in child processes that run this test program again.

mod calls;
mod files;

use std::path::Path;
use std::process::Command;

/// Runs the ignored test `name` in a child process, which has `value` in the environment variable
/// `variable`, and returns what it prints.
#[track_caller]
fn run_in_child(name: &str, variable: &str, value: &Path) -> String {
    let out = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", &format!("confine::tests::{name}"), "--ignored", "--nocapture"])
        .args(["--test-threads=1"])
        .env(variable, value)
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
    text.into_owned()
}
