//! What the numbers were taken on.

use crate::tools::command;
use std::path::Path;

/// Processor, number of cores, memory and kernel.
pub(crate) fn describe() -> String {
    let processor =
        line_of("/proc/cpuinfo", "model name").or_else(|| line_of("/proc/cpuinfo", "CPU part"));
    let processor = processor.unwrap_or_else(|| said("uname", &["-m"]));
    let memory = line_of("/proc/meminfo", "MemTotal").unwrap_or_default();
    let kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
    let gib = (kib as f64 / f64::from(1 << 20)).round();
    format!("{processor}, {} cores, {gib} GiB, {}", cores(), said("uname", &["-sr"]))
}

/// How many threads can run at once.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The type of the file system that `dir` is on.
pub(crate) fn file_system(dir: &Path) -> String {
    let dir = dir.to_string_lossy();
    match said("findmnt", &["-n", "-o", "FSTYPE", "-T", &dir]) {
        unknown if unknown.is_empty() => said("stat", &["-f", "-c", "%T", &dir]),
        // What is mounted over something else comes last.
        known => known.lines().last().unwrap_or_default().to_owned(),
    }
}

/// The most memory this program itself had. A new process counts as its own
/// peak what its parent had, so smaller peaks than this cannot be told.
pub(crate) fn own_peak() -> Option<u64> {
    let peak = line_of("/proc/self/status", "VmHWM")?;
    peak.trim_end_matches(" kB").trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// What follows `NAME:` in a file of such lines.
fn line_of(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}

fn said(program: &str, args: &[&str]) -> String {
    let output = command(program).args(args).output();
    output.map_or_else(|_| String::new(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}
