//! Information about the machine.

use crate::tools::command;
use std::path::Path;

/// Describes the processor, number of cores, memory and kernel.
pub(crate) fn describe() -> String {
    let processor =
        line_of("/proc/cpuinfo", "model name").or_else(|| line_of("/proc/cpuinfo", "CPU part"));
    let processor = processor.unwrap_or_else(|| output_of("uname", &["-m"]));
    let memory = line_of("/proc/meminfo", "MemTotal").unwrap_or_default();
    let kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
    let gib = (kib as f64 / f64::from(1 << 20)).round();
    format!("{processor}, {} cores, {gib} GiB, {}", cores(), output_of("uname", &["-sr"]))
}

/// Returns the number of threads that can run in parallel.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Returns the type of the file system of `dir`.
pub(crate) fn file_system(dir: &Path) -> String {
    let dir = dir.to_string_lossy();
    match output_of("findmnt", &["-n", "-o", "FSTYPE", "-T", &dir]) {
        unknown if unknown.is_empty() => output_of("stat", &["-f", "-c", "%T", &dir]),
        // The topmost mount is last.
        known => known.lines().last().unwrap_or_default().to_owned(),
    }
}

/// Returns the peak memory of this process. The peak of a child is at least that of its parent, so
/// smaller peaks cannot be measured.
pub(crate) fn own_peak() -> Option<u64> {
    let peak = line_of("/proc/self/status", "VmHWM")?;
    peak.trim_end_matches(" kB").trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// Returns the value of `NAME: VALUE` in a file.
fn line_of(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}

fn output_of(program: &str, args: &[&str]) -> String {
    let output = command(program).args(args).output();
    output.map_or_else(|_| String::new(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}
