//! Hostile ISO images: every class of attack that has affected another reader.
//!
//! ```text
//!   generator ──► image ──► child process: open · info · walk · read · verify · extract
//!                             │ limited to 1 GiB of address space and ten seconds
//!                             ▼
//!   reports:  an error or a part of the tree, time, memory
//!   asserted: no panic, less than 64 MiB of memory, no change outside the directory,
//!             `good.txt` is still read, the problem is reported
//! ```
//!
//! Each class prints a table, which `--nocapture` shows if the test succeeds.

mod boot;
mod descriptors;
mod directories;
mod mutations;
mod names;
mod sections;
mod system_use;
pub(super) mod truncation;
mod udf;
mod zisofs;

use crate::iso::reference::{self, host_without};
use diskimg::Severity;
use diskimg::iso::{ExtractOptions, FileType, IsoImage, IsoOptions, Namespace};
use diskimg::{Error, ErrorKind};
use diskimg_testkit::iso::GOOD;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Maximum resident memory of a child in KiB.
const MAX_MEMORY: u64 = 64 << 10;
/// Time after which a child is considered hung, even on a slow machine.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of bytes that an extraction may write.
const MAX_BYTES: u64 = 16 << 20;

/// The expected result for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// The image opens, `good.txt` can be read, and a problem is reported by `verify`, the walk,
    /// reading or extraction.
    Partly,
    /// The image opens and `good.txt` can be read. A problem need not be reported.
    Wholly,
    /// Opening fails.
    Refused,
    /// Opening may succeed or fail.
    Either,
}

/// A hostile image.
pub(super) struct Hostile {
    pub name: String,
    pub bytes: Vec<u8>,
    pub expected: Expected,
}

pub(super) fn hostile(name: impl Into<String>, expected: Expected, bytes: Vec<u8>) -> Hostile {
    Hostile { name: name.into(), bytes, expected }
}

/// The report of a child.
#[derive(Debug, Default)]
struct ChildReport {
    opened: bool,
    good: bool,
    /// Number of problems reported.
    problems: u64,
    read_ms: f64,
    extract_ms: f64,
    memory_kib: u64,
    first_problem: String,
}

/// Tests all images of a class and prints a table.
///
/// # Panics
/// If an expectation is not met, after all images, with a list of failures.
#[allow(clippy::print_stdout)]
pub(super) fn run_class(title: &str, images: impl IntoIterator<Item = Hostile>) {
    let mut failures = Vec::new();
    println!("\n{title:42} {:>9} {:>10} {:>7}  first problem", "read ms", "extract ms", "MiB");
    for image in images {
        match run_one(&image) {
            Ok(report) => {
                println!(
                    "{:42} {:9.1} {:10.1} {:7.1}  {}",
                    image.name,
                    report.read_ms,
                    report.extract_ms,
                    report.memory_kib as f64 / 1024.0,
                    report.first_problem
                );
                failures.extend(unmet(&image, &report));
            }
            Err(failure) => failures.push(format!("{}: {failure}", image.name)),
        }
    }
    assert!(failures.is_empty(), "{title}:\n  {}", failures.join("\n  "));
}

/// Returns the expectations that are not met.
fn unmet(image: &Hostile, report: &ChildReport) -> Vec<String> {
    let mut failures = Vec::new();
    let mut fail = |what: &str| failures.push(format!("{}: {what} ({report:?})", image.name));
    if report.memory_kib >= MAX_MEMORY {
        fail("too much memory");
    }
    match image.expected {
        Expected::Refused if report.opened => fail("opened"),
        Expected::Partly | Expected::Wholly if !report.opened => fail("not opened"),
        Expected::Partly | Expected::Wholly if !report.good => fail("good.txt is not read"),
        Expected::Partly if report.problems == 0 => fail("no problem is reported"),
        _ => {}
    }
    failures
}

/// Tests one image in a child process and verifies that nothing outside the target directory
/// changed.
fn run_one(image: &Hostile) -> Result<ChildReport, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("image.iso"), &image.bytes).unwrap();
    std::fs::create_dir_all(path("canary/inside")).unwrap();
    std::fs::write(path("canary/secret"), "as it was").unwrap();
    std::fs::write(path("report"), "").unwrap();
    std::fs::create_dir(path("out")).unwrap();
    let outside = || host_without(dir.path(), &["out", "report"]);
    let before = outside();
    let mut child = Command::new("prlimit")
        .arg("--as=1073741824")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "iso::hostile::a_child_reads_one_image", "--nocapture"])
        .env("DISKIMG_HOSTILE", dir.path())
        .current_dir(path("canary/inside"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("prlimit is missing; ./test.sh lists the required tools");
    let ended = wait(&mut child);
    assert_eq!(outside(), before, "{}: something changed outside the directory", image.name);
    let report = std::fs::read_to_string(path("report")).unwrap();
    match ended {
        Some(true) => Ok(parse(&report)),
        Some(false) => {
            let output = child.wait_with_output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(format!("the child failed after {report:?}: {stderr}"))
        }
        None => Err(format!("the child hung after {report:?}")),
    }
}

/// Waits for the child. Returns whether it succeeded, or `None` if it had to be killed.
fn wait(child: &mut Child) -> Option<bool> {
    let start = Instant::now();
    while start.elapsed() < TIMEOUT {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status.success());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

fn parse(text: &str) -> ChildReport {
    let mut report = ChildReport::default();
    for line in text.lines() {
        let (key, value) = line.split_once('=').unwrap();
        match key {
            "opened" => report.opened = value == "true",
            "good" => report.good = value == "true",
            "problems" => report.problems = value.parse().unwrap(),
            "read" => report.read_ms = value.parse().unwrap(),
            "extract" => report.extract_ms = value.parse().unwrap(),
            "memory" => report.memory_kib = value.parse().unwrap(),
            _ => value.clone_into(&mut report.first_problem),
        }
    }
    report
}

/// The code that a child runs; not a test by itself.
#[test]
fn a_child_reads_one_image() {
    let Some(dir) = std::env::var_os("DISKIMG_HOSTILE") else { return };
    let dir = Path::new(&dir);
    let mut problems = Problems::default();
    let start = Instant::now();
    let elapsed = || start.elapsed().as_secs_f64() * 1e3;
    let image = reference::open(&dir.join("image.iso"), Namespace::Auto);
    let mut good = false;
    if let Ok(image) = &image {
        good = read_all(image, &mut problems);
        verify(image, &mut problems);
    }
    let read = elapsed();
    match &image {
        Ok(image) => {
            // Once into an empty directory, once over the existing files.
            extract(image, &dir.join("out/a"), false, &mut problems);
            extract(image, &dir.join("out/a"), true, &mut problems);
        }
        Err(error) => problems.error(error),
    }
    let extract = elapsed() - read;
    for namespace in [Namespace::RockRidge, Namespace::Joliet, Namespace::Iso, Namespace::Udf] {
        if let Ok(image) = reference::open(&dir.join("image.iso"), namespace) {
            read_all(&image, &mut Problems::default());
        }
    }
    let mut options = IsoOptions::default();
    options.strict = true;
    let source = diskimg::storage::source::FileSource::open(dir.join("image.iso")).unwrap();
    if let Ok(image) = IsoImage::open(std::sync::Arc::new(source), &options) {
        read_all(&image, &mut Problems::default());
    }
    let mut report = String::new();
    let Problems { count, first } = problems;
    let (opened, memory) = (image.is_ok(), peak_memory());
    writeln!(report, "opened={opened}\ngood={good}\nproblems={count}\nfirst={first}").unwrap();
    writeln!(report, "read={read}\nextract={extract}\nmemory={memory}").unwrap();
    std::fs::write(dir.join("report"), report).unwrap();
}

/// The problems that were reported.
#[derive(Debug, Default)]
struct Problems {
    count: u64,
    first: String,
}

impl Problems {
    /// Adds an error, which must have a useful message of one line.
    fn error(&mut self, error: &Error) {
        let text = error.to_string();
        assert!(text.len() > 12 && !text.contains('\n'), "not a useful message: {text:?}");
        assert_ne!(error.kind(), ErrorKind::Cancelled);
        self.note(format!("{:?}: {text}", error.kind()));
    }

    fn note(&mut self, what: String) {
        self.count += 1;
        if self.first.is_empty() {
            self.first = what.replace('\n', " ");
        }
    }
}

/// Reads everything in the image. Returns whether `good.txt` has the right contents.
fn read_all(image: &IsoImage, problems: &mut Problems) -> bool {
    match image.info() {
        Ok(info) => drop(serde_json::to_string(&info).unwrap()),
        Err(error) => problems.error(&error),
    }
    if let Err(error) = image.boot_catalog() {
        problems.error(&error);
    }
    if let Err(error) = image.system_area() {
        problems.error(&error);
    }
    assert!(image.root().is_dir(), "the root is not a directory");
    let mut good = false;
    let mut budget = 4usize << 20;
    for found in image.walk() {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                problems.error(&error);
                continue;
            }
        };
        assert!(
            is_inside(&found.path),
            "{:?} is not a valid path",
            found.path.escape_ascii().to_string()
        );
        let is_good = found.path.eq_ignore_ascii_case(b"good.txt");
        if found.node.file_type != FileType::Regular || budget == 0 && !is_good {
            continue;
        }
        let content = image.contents(&found.node).and_then(|contents| {
            let here = contents.len().min(64 << 10);
            let mut bytes = vec![0; here as usize];
            let io = |e| Error::io("cannot read it", e);
            contents.read_exact_at(&mut bytes, 0).map_err(io)?;
            // Read the end, too.
            let mut end = [0; 1];
            if let Some(at) = contents.len().checked_sub(1) {
                contents.read_exact_at(&mut end, at).map_err(io)?;
            }
            Ok(bytes)
        });
        match content {
            Ok(bytes) => {
                budget = budget.saturating_sub(bytes.len().max(4096));
                good |= is_good && bytes == GOOD;
            }
            Err(error) => problems.error(&error),
        }
    }
    good
}

/// Returns whether the path stays below the root.
fn is_inside(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/').all(|name| !matches!(name, b"" | b"." | b".."))
        && !path.contains(&0)
}

fn verify(image: &IsoImage, problems: &mut Problems) {
    let mut findings = 0u64;
    let verified = image.verify(&mut |finding| {
        findings += 1;
        if finding.severity > Severity::Note {
            problems.note(format!("{:?}: {}", finding.code, finding.message));
        }
    });
    match verified {
        // The first thousand are reported.
        Ok(seen) => {
            assert_eq!((seen.notes + seen.warnings + seen.errors).min(1000), findings);
        }
        Err(error) => problems.error(&error),
    }
}

fn extract(image: &IsoImage, dest: &Path, overwrite: bool, problems: &mut Problems) {
    let mut options = ExtractOptions::default();
    options.overwrite = overwrite;
    options.max_bytes = MAX_BYTES;
    options.special_modes = true;
    match image.extract(dest, &options) {
        // In the second extraction, failures are expected.
        Ok(done) if !overwrite => {
            assert!(done.bytes <= MAX_BYTES, "more bytes extracted than allowed");
            if let Some((_, error)) = done.failures.first() {
                problems.error(error);
                problems.count += done.failed - 1;
            }
        }
        Ok(_) => {}
        Err(error) => problems.error(&error),
    }
}

/// Returns the peak resident memory of this process in KiB.
fn peak_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
