//! A directory in which a command is run repeatedly, and the states its output may be in
//! afterwards.

use super::full;
use crate::support::Lab;
use diskimg::{ExternalFiles, OpenOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The state of an output after a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The previous files, unchanged; no files if there were none.
    Old,
    /// The complete new image.
    New,
    /// The complete old image of several files, some of which, including the main file, are renamed
    /// to `.diskimg-old`.
    SetAside,
}

/// A command that creates `dst`, and the files that belong to it, the main file first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) line: &'static str,
    pub(super) files: &'static [&'static str],
}

const fn case(line: &'static str, files: &'static [&'static str]) -> Case {
    Case { line, files }
}

/// Commands with outputs of every kind. `SRC` and `SIZE` are replaced with different values for the
/// old and the new image.
pub(super) const CASES: &[Case] = &[
    case("convert -O raw SRC.raw dst", &["dst"]),
    case("convert -O qcow2 SRC.raw dst", &["dst"]),
    case("convert -O qcow2 -c SRC.raw dst", &["dst"]),
    case("convert -O qcow2 -o data_file=dst.data SRC.raw dst", &["dst", "dst.data"]),
    case("convert -O qcow2 -B SRC-base.raw -F raw SRC.raw dst", &["dst"]),
    case("convert -O vmdk SRC.raw dst", &["dst"]),
    case("convert -O vmdk -o subformat=streamOptimized SRC.raw dst", &["dst"]),
    case(
        "convert -O vmdk -o subformat=monolithicFlat SRC.raw dst.vmdk",
        &["dst.vmdk", "dst-flat.vmdk"],
    ),
    case(
        "convert -O vmdk -o subformat=twoGbMaxExtentSparse SRC.raw dst.vmdk",
        &["dst.vmdk", "dst-s001.vmdk"],
    ),
    case("convert -O vmdk -o subformat=vmfs SRC.raw dst.vmdk", &["dst.vmdk", "dst-flat.vmdk"]),
    case("convert -O ova SRC.raw dst.ova", &["dst.ova"]),
    case("convert -O raw SRC-overlay.qcow2 dst", &["dst"]),
    case("convert -O qcow2 SRC-split.vmdk dst", &["dst"]),
    case("convert -O iso SRC.iso dst", &["dst"]),
    case("convert -O raw -o preallocation=falloc SRC.raw dst", &["dst"]),
    case("convert -O raw -C SRC.raw dst", &["dst"]),
    case("convert -O raw -S 0 SRC.raw dst", &["dst"]),
    case("create -f qcow2 -o preallocation=metadata dst SIZE", &["dst"]),
    case(
        "create -f vmdk -o subformat=twoGbMaxExtentFlat dst.vmdk SIZE",
        &["dst.vmdk", "dst-f001.vmdk"],
    ),
    case("iso create -q -o dst SRC-tree", &["dst"]),
];

/// A lab with source images in which a command is run repeatedly.
pub(super) struct Scenario {
    pub(super) lab: Lab,
    pub(super) case: Case,
    pub(super) threads: usize,
    sources: BTreeSet<String>,
    /// The output files before a run, by name.
    old: BTreeMap<&'static str, Vec<u8>>,
    /// The guest data of the new image.
    expected: Vec<u8>,
    log_dir: tempfile::TempDir,
}

impl Scenario {
    /// Creates a scenario. With `replaces`, the output already exists.
    pub(super) fn new(case: Case, replaces: bool, threads: usize, size: usize) -> Self {
        let lab = Lab::new();
        for (seed, name) in ["new", "old"].into_iter().enumerate() {
            prepare(&lab, name, seed as u8, size);
        }
        let sources = names(&lab);
        let empty = BTreeMap::new();
        let log_dir = tempfile::tempdir().expect("tempdir");
        let mut scenario =
            Self { lab, case, threads, sources, old: empty, expected: Vec::new(), log_dir };
        let make = |from: &str| {
            scenario.lab.line(&scenario.line_from(from)).ok();
            let files = scenario.case.files.iter();
            let files = files.map(|&name| (name, scenario.lab.read(name))).collect();
            let bytes = scenario.guest_bytes().expect("is complete");
            (files, bytes)
        };
        let (_, expected) = make("new");
        let (old, _): (BTreeMap<_, _>, _) = make("old");
        scenario.expected = expected;
        if replaces {
            scenario.old = old;
        }
        scenario.reset();
        scenario
    }

    /// Returns the command line.
    pub(super) fn line(&self) -> String {
        self.line_from("new")
    }

    fn line_from(&self, name: &str) -> String {
        let size = if name == "new" { "640k" } else { "704k" };
        let line = self.case.line.replace("SRC", name).replace("SIZE", size);
        match line.strip_prefix("convert ") {
            Some(rest) => format!("convert -m {} {rest}", self.threads),
            None => line,
        }
    }

    /// Returns the path of the log, which is outside the lab.
    pub(super) fn log(&self) -> PathBuf {
        self.log_dir.path().join("log")
    }

    /// Restores the state before the command.
    pub(super) fn reset(&self) {
        for name in names(&self.lab).difference(&self.sources) {
            std::fs::remove_file(self.lab.path(name)).expect("removes");
        }
        for (name, bytes) in &self.old {
            std::fs::write(self.lab.path(name), bytes).expect("writes");
        }
    }

    fn main(&self) -> &'static str {
        self.case.files[0]
    }

    /// Returns the guest data of the output.
    fn guest_bytes(&self) -> diskimg::Result<Vec<u8>> {
        let options = OpenOptions::new().external_files(ExternalFiles::Any);
        let image = options.open(self.lab.path(self.main()))?;
        let mut bytes = vec![0; image.size() as usize];
        image.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Returns the state of the output, or an error if it is in none of the allowed states.
    pub(super) fn state(&self) -> Result<State, String> {
        let found = |name: &str| std::fs::read(self.lab.path(name)).ok();
        let main = found(self.main());
        if main.as_ref() == self.old.get(self.main()) && main.is_some() {
            let changed = self.old.iter().find(|(name, bytes)| found(name).as_ref() != Some(bytes));
            match changed {
                None => return Ok(State::Old),
                // The old and the new main file can be equal if only a data file differs.
                Some((name, _)) if self.guest_bytes().ok().as_ref() != Some(&self.expected) => {
                    return Err(format!("{name} is not the old file"));
                }
                Some(_) => return Ok(State::New),
            }
        }
        if main.is_some() {
            return match self.guest_bytes() {
                Ok(bytes) if bytes == self.expected => Ok(State::New),
                Ok(bytes) => Err(format!("neither old nor new: {} bytes", bytes.len())),
                Err(error) => Err(format!("neither old nor new: {error}")),
            };
        }
        if self.old.is_empty() {
            return Ok(State::Old);
        }
        for (name, bytes) in &self.old {
            let mut names = names(&self.lab).into_iter();
            let exists = names.any(|other| {
                let matches = other == *name || is_temporary(&other, name, "old");
                matches && found(&other).as_ref() == Some(bytes)
            });
            if !exists {
                return Err(format!("{name} is lost"));
            }
        }
        match self.case.files.len() {
            1 => Err("the output is lost".into()),
            _ => Ok(State::SetAside),
        }
    }

    /// Returns the files that are neither sources nor output.
    pub(super) fn leftovers(&self) -> Vec<String> {
        let known = |name: &String| self.case.files.contains(&name.as_str());
        names(&self.lab).difference(&self.sources).filter(|name| !known(name)).cloned().collect()
    }

    /// Returns whether a killed run may leave this file: `.NAME.XXXXXX.diskimg-tmp`, or
    /// `.diskimg-old` for an image of several files.
    pub(super) fn is_documented(&self, leftover: &str) -> bool {
        let mut files = self.case.files.iter();
        let several = self.case.files.len() > 1;
        files.any(|f| {
            is_temporary(leftover, f, "tmp") || several && is_temporary(leftover, f, "old")
        })
    }

    /// Returns whether an error names the output or a source.
    pub(super) fn names_a_file(&self, error: &str) -> bool {
        self.case
            .files
            .iter()
            .map(|f| f.to_string())
            .chain(self.sources.clone())
            .any(|n| error.contains(&n))
    }
}

fn is_temporary(name: &str, of: &str, what: &str) -> bool {
    let random = name
        .strip_prefix(&format!(".{of}."))
        .and_then(|n| n.strip_suffix(&format!(".diskimg-{what}")));
    random.is_some_and(|r| r.len() == 6 && r.bytes().all(|b| b.is_ascii_alphanumeric()))
}

fn names(lab: &Lab) -> BTreeSet<String> {
    let entries = std::fs::read_dir(lab.path(".")).expect("lists");
    entries.map(|e| e.expect("entry").file_name().into_string().expect("UTF-8")).collect()
}

/// Creates the sources: a raw image of `size` bytes, and images and a directory with its data.
fn prepare(lab: &Lab, name: &str, seed: u8, size: usize) {
    let mut state = u32::from(seed) + 1;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    let mut bytes: Vec<u8> = noise.take(size).collect();
    // Compressible data, and a hole.
    bytes[size / 4..size / 2].fill(b'a' + seed);
    bytes[size / 2..size * 3 / 4].fill(0);
    std::fs::write(lab.path(&format!("{name}.raw")), &bytes).expect("writes");
    bytes[..size / 4].fill(0);
    std::fs::write(lab.path(&format!("{name}-base.raw")), &bytes).expect("writes");
    for line in [
        "convert -O qcow2 -B NAME-base.raw -F raw NAME.raw NAME-overlay.qcow2",
        "convert -O vmdk -o subformat=twoGbMaxExtentSparse NAME.raw NAME-split.vmdk",
    ] {
        lab.line(&line.replace("NAME", name)).ok();
    }
    let tree = format!("{name}-tree");
    std::fs::create_dir(lab.path(&tree)).expect("mkdir");
    for (file, len) in [("one", 70_000), ("two", 100)] {
        std::fs::write(lab.path(&format!("{tree}/{file}")), &bytes[size - len..]).expect("writes");
    }
    lab.line(&format!("iso create -q -o {name}.iso {tree}")).ok();
}

/// Returns scenarios for every case, with and without existing output; a sample by default.
pub(super) fn scenarios(size: usize) -> impl Iterator<Item = Scenario> {
    CASES.iter().enumerate().flat_map(move |(i, &case)| {
        let all: &[(bool, usize)] = &[(true, 1), (false, 1), (true, 3), (false, 3)];
        let variants = if full() { all } else { &all[usize::from(i % 3 == 2)..][..1] };
        variants
            .iter()
            .map(move |&(replaces, threads)| Scenario::new(case, replaces, threads, size))
    })
}
