//! Hostile ISO images: every class that has hurt a reader before.
//!
//! ```text
//!   generator ──► image ──► a child process: open · info · walk · read · verify · extract
//!                             │ with 1 GiB of address space, ten seconds
//!                             ▼
//!   what it says: an error or a part of the tree, how long it took, how much memory
//!   what must hold: no panic, memory below 64 MiB, nothing outside the directory,
//!                   `good.txt` is still read, what is wrong is told
//! ```
//!
//! The tables are printed; `--nocapture` shows them when all is well.

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
use diskimg::iso::{ExtractOptions, FileType, IsoImage, IsoOptions, Namespace, Severity};
use diskimg::{Error, ErrorKind};
use diskimg_testkit::iso::GOOD;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Resident memory that a child may have had at most, in KiB.
const MOST_MEMORY: u64 = 64 << 10;
/// What never ends has not ended by then, on the slowest machine.
const HANG: Duration = Duration::from_secs(10);
/// Bytes that an extraction may write.
const MOST_BYTES: u64 = 16 << 20;

/// What must come of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// It opens, `good.txt` is read, and what is wrong is told: by `verify`, by the walk, by who
    /// reads a file or extracts it.
    Partly,
    /// It opens, `good.txt` is read; nothing need be told.
    Wholly,
    /// An error when it is opened.
    Refused,
    /// Any answer.
    Either,
}

/// An image that means harm.
pub(super) struct Hostile {
    pub name: String,
    pub bytes: Vec<u8>,
    pub expected: Expected,
}

pub(super) fn hostile(name: impl Into<String>, expected: Expected, bytes: Vec<u8>) -> Hostile {
    Hostile { name: name.into(), bytes, expected }
}

/// What a child said.
#[derive(Debug, Default)]
struct Said {
    opened: bool,
    good: bool,
    /// Things that were told to be wrong.
    told: u64,
    read_ms: f64,
    extract_ms: f64,
    memory_kib: u64,
    first: String,
}

/// Runs all images of a class; prints its table.
///
/// # Panics
/// If anything does not hold: after the table, with all that does not.
#[allow(clippy::print_stdout)]
pub(super) fn run_class(title: &str, images: impl IntoIterator<Item = Hostile>) {
    let mut wrong = Vec::new();
    println!("\n{title:42} {:>9} {:>10} {:>7}  says", "read ms", "extract ms", "MiB");
    for image in images {
        match run_one(&image) {
            Ok(said) => {
                println!(
                    "{:42} {:9.1} {:10.1} {:7.1}  {}",
                    image.name,
                    said.read_ms,
                    said.extract_ms,
                    said.memory_kib as f64 / 1024.0,
                    said.first
                );
                wrong.extend(faults(&image, &said));
            }
            Err(fault) => wrong.push(format!("{}: {fault}", image.name)),
        }
    }
    assert!(wrong.is_empty(), "{title}:\n  {}", wrong.join("\n  "));
}

/// What does not hold.
fn faults(image: &Hostile, said: &Said) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |what: &str| faults.push(format!("{}: {what} ({said:?})", image.name));
    if said.memory_kib >= MOST_MEMORY {
        fault("too much memory");
    }
    match image.expected {
        Expected::Refused if said.opened => fault("opened"),
        Expected::Partly | Expected::Wholly if !said.opened => fault("not opened"),
        Expected::Partly | Expected::Wholly if !said.good => fault("good.txt is not read"),
        Expected::Partly if said.told == 0 => fault("nobody is told what is wrong"),
        _ => {}
    }
    faults
}

/// Runs a child over one image, and looks at what is around it then.
fn run_one(image: &Hostile) -> Result<Said, String> {
    let lab = tempfile::tempdir().unwrap();
    let path = |name: &str| lab.path().join(name);
    std::fs::write(path("image.iso"), &image.bytes).unwrap();
    std::fs::create_dir_all(path("canary/inside")).unwrap();
    std::fs::write(path("canary/secret"), "as it was").unwrap();
    std::fs::write(path("says"), "").unwrap();
    std::fs::create_dir(path("out")).unwrap();
    let around = || host_without(lab.path(), &["out", "says"]);
    let before = around();
    let mut child = Command::new("prlimit")
        .arg("--as=1073741824")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "iso::hostile::a_child_reads_one_image", "--nocapture"])
        .env("DISKIMG_HOSTILE", lab.path())
        .current_dir(path("canary/inside"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("prlimit runs: ./test.sh names what is needed");
    let ended = wait(&mut child);
    assert_eq!(around(), before, "{}: something changed outside of the directory", image.name);
    let said = std::fs::read_to_string(path("says")).unwrap();
    match ended {
        Some(true) => Ok(parse(&said)),
        Some(false) => {
            let output = child.wait_with_output().unwrap();
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(format!("the child failed, after {said:?}: {words}"))
        }
        None => Err(format!("the child hung, after {said:?}")),
    }
}

/// True if the child was content, `None` if it had to be ended.
fn wait(child: &mut Child) -> Option<bool> {
    let start = Instant::now();
    while start.elapsed() < HANG {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status.success());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

fn parse(text: &str) -> Said {
    let mut said = Said::default();
    for line in text.lines() {
        let (key, value) = line.split_once('=').unwrap();
        match key {
            "opened" => said.opened = value == "true",
            "good" => said.good = value == "true",
            "told" => said.told = value.parse().unwrap(),
            "read" => said.read_ms = value.parse().unwrap(),
            "extract" => said.extract_ms = value.parse().unwrap(),
            "memory" => said.memory_kib = value.parse().unwrap(),
            _ => value.clone_into(&mut said.first),
        }
    }
    said
}

/// Not a test of its own: what a child runs.
#[test]
fn a_child_reads_one_image() {
    let Some(lab) = std::env::var_os("DISKIMG_HOSTILE") else { return };
    let lab = Path::new(&lab);
    let mut told = Told::default();
    let start = Instant::now();
    let elapsed = || start.elapsed().as_secs_f64() * 1e3;
    let image = reference::open(&lab.join("image.iso"), Namespace::Auto);
    let mut good = false;
    if let Ok(image) = &image {
        good = read_all(image, &mut told);
        verify(image, &mut told);
    }
    let read = elapsed();
    match &image {
        Ok(image) => {
            // Once into an empty directory, once over what is there.
            extract(image, &lab.join("out/a"), false, &mut told);
            extract(image, &lab.join("out/a"), true, &mut told);
        }
        Err(error) => told.error(error),
    }
    let extract = elapsed() - read;
    for namespace in [Namespace::RockRidge, Namespace::Joliet, Namespace::Iso, Namespace::Udf] {
        if let Ok(image) = reference::open(&lab.join("image.iso"), namespace) {
            read_all(&image, &mut Told::default());
        }
    }
    let mut options = IsoOptions::default();
    options.strict = true;
    let source = diskimg::storage::source::FileSource::open(lab.join("image.iso")).unwrap();
    if let Ok(image) = IsoImage::open(std::sync::Arc::new(source), &options) {
        read_all(&image, &mut Told::default());
    }
    let mut says = String::new();
    let Told { count, first } = told;
    let (opened, memory) = (image.is_ok(), peak_memory());
    writeln!(says, "opened={opened}\ngood={good}\ntold={count}\nfirst={first}").unwrap();
    writeln!(says, "read={read}\nextract={extract}\nmemory={memory}").unwrap();
    std::fs::write(lab.join("says"), says).unwrap();
}

/// What was told to be wrong.
#[derive(Debug, Default)]
struct Told {
    count: u64,
    first: String,
}

impl Told {
    /// An error says where, and in one line.
    fn error(&mut self, error: &Error) {
        let text = error.to_string();
        assert!(text.len() > 12 && !text.contains('\n'), "no good words: {text:?}");
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

/// Everything that can be asked, of everything; `true` if `good.txt` says what it should.
fn read_all(image: &IsoImage, told: &mut Told) -> bool {
    match image.info() {
        Ok(info) => drop(serde_json::to_string(&info).unwrap()),
        Err(error) => told.error(&error),
    }
    if let Err(error) = image.boot_catalog() {
        told.error(&error);
    }
    if let Err(error) = image.system_area() {
        told.error(&error);
    }
    assert!(image.root().is_dir(), "the root is no directory");
    let mut good = false;
    let mut budget = 4usize << 20;
    for found in image.walk() {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                told.error(&error);
                continue;
            }
        };
        assert!(is_inside(&found.path), "{:?} is no path", found.path.escape_ascii().to_string());
        let is_good = found.path.eq_ignore_ascii_case(b"good.txt");
        if found.node.file_type != FileType::Regular || budget == 0 && !is_good {
            continue;
        }
        let content = image.contents(&found.node).and_then(|contents| {
            let here = contents.len().min(64 << 10);
            let mut bytes = vec![0; here as usize];
            let io = |e| Error::io("cannot read it", e);
            contents.read_exact_at(&mut bytes, 0).map_err(io)?;
            // The end, too.
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
            Err(error) => told.error(&error),
        }
    }
    good
}

/// No part of it leads anywhere but down.
fn is_inside(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/').all(|name| !matches!(name, b"" | b"." | b".."))
        && !path.contains(&0)
}

fn verify(image: &IsoImage, told: &mut Told) {
    let mut findings = 0u64;
    let verified = image.verify(&mut |finding| {
        findings += 1;
        if finding.severity > Severity::Note {
            told.note(format!("{:?}: {}", finding.code, finding.message));
        }
    });
    match verified {
        Ok(seen) => assert_eq!(seen.notes + seen.warnings + seen.errors, findings),
        Err(error) => told.error(&error),
    }
}

fn extract(image: &IsoImage, dest: &Path, overwrite: bool, told: &mut Told) {
    let mut options = ExtractOptions::default();
    options.overwrite = overwrite;
    options.most_bytes = MOST_BYTES;
    options.special_modes = true;
    match image.extract(dest, &options) {
        // What fails a second time was there.
        Ok(done) if !overwrite => {
            assert!(done.bytes <= MOST_BYTES, "more bytes than were allowed");
            if let Some((_, error)) = done.failures.first() {
                told.error(error);
                told.count += done.failed - 1;
            }
        }
        Ok(_) => {}
        Err(error) => told.error(&error),
    }
}

/// The most memory that this process had, in KiB.
fn peak_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
