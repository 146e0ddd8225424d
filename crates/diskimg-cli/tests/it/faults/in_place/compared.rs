//! The states in which a crash can leave an image that qemu-img modifies, compared with those of
//! diskimg.
//!
//! ```text
//!   qemu-img over blklogwrites ──► log in the format of dm-log-writes ──┐
//!                                                                      ├──► crash states ──► table
//!   diskimg with the preloaded library ──► its records ────────────────┘
//! ```
//!
//! The table that it prints with `DISKIMG_FULL=1` is in `docs/qemu-img-compatibility.md`.

use super::cases::{case_of, copy, lab};
use super::replay::recorded;
use super::{Case, Contents};
use crate::faults::full;
use crate::support::Lab;
use diskimg_testkit::crash::{Operation, crash_states};
use diskimg_testkit::tool::sample;
use std::fmt;

/// What was found in the states after a crash.
#[derive(Debug, Default)]
struct Outcomes {
    states: usize,
    /// `qemu-img check` finds nothing.
    clean: usize,
    /// `qemu-img check` finds leaks only.
    leaks: usize,
    /// `qemu-img check` finds corruption, or fails.
    corrupt: usize,
    /// Neither tool can read the disk.
    unreadable: usize,
    /// The disk has another size than before and afterwards, or a byte that is neither the old nor
    /// the new one.
    wrong: usize,
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { states, clean, leaks, corrupt, unreadable, wrong } = self;
        write!(f, "{states} | {clean} | {leaks} | {corrupt} | {unreadable} | {wrong}")
    }
}

/// A case, and the arguments of qemu-img, in which `IMAGE` is the description of the image.
const LINES: &[(&str, &str)] = &[
    ("snapshot -c new top.qcow2", "snapshot -c new --image-opts IMAGE"),
    ("snapshot -a s1 top.qcow2", "snapshot -a s1 --image-opts IMAGE"),
    ("snapshot -d s1 top.qcow2", "snapshot -d s1 --image-opts IMAGE"),
    ("resize top.qcow2 +3M", "resize --image-opts IMAGE +3M"),
    (
        "resize --preallocation falloc top.qcow2 +64k",
        "resize --preallocation falloc --image-opts IMAGE +64k",
    ),
    ("resize --shrink top.qcow2 300k", "resize --shrink --image-opts IMAGE 300k"),
    (
        "rebase -F qcow2 -b other.qcow2 top.qcow2",
        "rebase -F qcow2 -b DIR/other.qcow2 --image-opts IMAGE",
    ),
    ("rebase -F qcow2 -b '' top.qcow2", "rebase -F qcow2 -b '' --image-opts IMAGE"),
    ("amend -o refcount_bits=64 top.qcow2", "amend -o refcount_bits=64 --image-opts IMAGE"),
    ("amend -f qcow2 -o compat=0.10 map.qcow2", "amend -o compat=0.10 --image-opts IMAGE"),
    (
        "bitmap --add --disable -g 4k map.qcow2 new",
        "bitmap --add --disable -g 4k --image-opts IMAGE new",
    ),
    ("bitmap --remove map.qcow2 b1", "bitmap --remove --image-opts IMAGE b1"),
    ("bitmap --merge b0 map.qcow2 b1", "bitmap --merge b0 --image-opts IMAGE b1"),
    (
        "convert -n -O qcow2 new.raw top.qcow2",
        "convert -n -t writeback --target-image-opts new.raw IMAGE",
    ),
    ("commit top.qcow2", "commit --image-opts IMAGE"),
];

/// Parses a log of blklogwrites: a sector with the number of entries, then a sector for each entry,
/// before its data.
fn parse(log: &[u8]) -> Vec<(usize, Operation)> {
    const SECTOR: usize = 512;
    const FLUSH: u64 = 1;
    const FUA: u64 = 2;
    const DISCARD: u64 = 4;
    let number = |at: usize| u64::from_le_bytes(log[at..at + 8].try_into().expect("8 bytes"));
    assert_eq!(number(0), 0x006a_7366_7773_6872, "the magic number");
    let mut operations = Vec::new();
    let mut at = SECTOR;
    for _ in 0..number(16) {
        let (sector, sectors, flags) = (number(at), number(at + 8), number(at + 16));
        at += SECTOR;
        let (offset, len) = (sector * SECTOR as u64, sectors as usize * SECTOR);
        // A flush makes durable what was written before it.
        if flags & FLUSH != 0 {
            operations.push((0, Operation::Barrier));
        }
        if flags & DISCARD != 0 {
            operations.push((0, Operation::Write(offset, vec![0; len])));
        } else if len > 0 {
            operations.push((0, Operation::Write(offset, log[at..at + len].to_vec())));
            at += len;
        }
        if flags & FUA != 0 {
            operations.push((0, Operation::Barrier));
        }
    }
    operations
}

/// Returns the description of an image whose writes are logged.
fn logged(image: &str) -> String {
    format!(
        "driver=qcow2,file.driver=blklogwrites,file.file.driver=file,file.file.filename={image},\
         file.log.driver=file,file.log.filename=log"
    )
}

/// Runs qemu-img and returns what it has done to the image.
fn recorded_qemu(line: &str, image: &str, lab: &Lab) -> Vec<(usize, Operation)> {
    std::fs::write(lab.path("log"), "").expect("writes");
    let directory = lab.path("").display().to_string();
    let line = line.replace("DIR/", &directory).replace("IMAGE", &logged(image));
    let words = line.split(' ').map(|word| if word == "''" { "" } else { word });
    let ran = lab.command("qemu-img").args(words).output().expect("runs");
    assert!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
    parse(&lab.read("log"))
}

/// Counts the outcomes of the crash states of files, which had the contents `before`.
fn outcomes(
    case: &Case,
    files: &[&str],
    before: &[Vec<u8>],
    log: &[(usize, Operation)],
    contents: &Contents,
    scratch: &Lab,
) -> Outcomes {
    let mut outcomes = Outcomes::default();
    // Of the many combinations of long writes, a sample.
    let sectors = log.iter().map(|(_, operation)| match operation {
        Operation::Write(_, bytes) => bytes.len() / 512,
        _ => 0,
    });
    let step = if sectors.sum::<usize>() > 60 { 23 } else { 1 };
    // About as many states of each command.
    let total = crash_states(before, log, 1, step, |_| ());
    let every = (total / if full() { 100 } else { 5 }).max(1);
    let mut number = 0;
    crash_states(before, log, 1, step, |state| {
        number += 1;
        if number % every != 0 {
            return;
        }
        for (name, bytes) in files.iter().zip(state) {
            std::fs::write(scratch.path(name), bytes).expect("writes");
        }
        outcomes.add(case, files, contents, scratch);
    });
    outcomes
}

impl Outcomes {
    /// Adds the outcome of the state in which the files are.
    fn add(&mut self, case: &Case, files: &[&str], contents: &Contents, scratch: &Lab) {
        self.states += 1;
        let disk = case.disk(&scratch.path("")).ok().or_else(|| {
            let line = format!("convert -f {} -O raw {} disk", case.format, case.image);
            (scratch.qemu(&line).code == Some(0)).then(|| scratch.read("disk"))
        });
        match disk {
            None => self.unreadable += 1,
            Some(disk) => self.wrong += usize::from(contents.explain(&disk).is_err()),
        }
        let codes = files.iter().map(|name| scratch.qemu(&format!("check -f qcow2 {name}")).code);
        let codes: Vec<_> = codes.collect();
        match codes.iter().all(|code| matches!(code, Some(0 | 3))) {
            false => self.corrupt += 1,
            true if codes.contains(&Some(3)) => self.leaks += 1,
            true => self.clean += 1,
        }
    }
}

/// Returns the outcomes of diskimg.
fn of_diskimg(case: &Case, images: &Lab) -> Outcomes {
    let scratch = lab();
    let contents = case.contents(&scratch);
    copy(case, images, &scratch);
    let before: Vec<_> = case.files.iter().map(|name| images.read(name)).collect();
    let log = recorded(case, &scratch);
    outcomes(case, case.files, &before, &log, &contents, &scratch)
}

/// Returns the outcomes of qemu-img. The backing file is complete when `commit` empties the image:
/// `blklogwrites` cannot be reopened, which writing into the backing file needs.
fn of_qemu(case: &Case, line: &str, images: &Lab) -> Outcomes {
    let scratch = lab();
    copy(case, images, &scratch);
    let before = case.disk(&images.path("")).expect("reads");
    let log = recorded_qemu(line, case.image, &scratch);
    let contents = Contents { before, after: case.disk(&scratch.path("")).expect("reads") };
    outcomes(case, &[case.image], &[images.read(case.image)], &log, &contents, &scratch)
}

#[test]
fn after_a_crash_images_are_not_worse_than_those_of_qemu_img() {
    let images = lab();
    println!("| command | tool | states | clean | leaks | corrupt | unreadable | wrong bytes |");
    for (name, line) in sample(LINES, 5) {
        let case = case_of(name);
        let ours = of_diskimg(&case, &images);
        println!("| `{name}` | diskimg | {ours} |");
        assert_eq!((ours.corrupt, ours.unreadable, ours.wrong), (0, 0, 0), "{name}");
        let theirs = of_qemu(&case, line, &images);
        println!("| | qemu-img | {theirs} |");
        assert!(theirs.states > 0);
    }
}
