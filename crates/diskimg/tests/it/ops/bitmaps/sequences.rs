//! Random changes: in one image by turns here and by qemu-img, in another by qemu-img alone.

use super::{MIB, contents, contents_by_qemu, metadata_options, qemu};
use diskimg::formats::qcow2::Qcow2Mut;
use diskimg::{Compare, ExternalFiles};
use diskimg_testkit::tool::{assert_qemu_check, cases, run, try_run};
use std::path::{Path, PathBuf};

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }
}

/// Create options, and the size of the disk.
const IMAGES: &[(&str, u64)] = &[
    ("cluster_size=64k", 5 * MIB + 1536),
    ("cluster_size=512", 20 * MIB),
    ("cluster_size=4k,refcount_bits=1", 40 * MIB),
    ("cluster_size=16k,extended_l2=on", 9 * MIB + 512),
    ("cluster_size=2M,refcount_bits=64", 300 * MIB),
    ("cluster_size=4k,data_file=@", 8 * MIB),
    ("cluster_size=512,backing_file=base,backing_fmt=raw", 8 * MIB),
];

#[derive(Debug)]
enum Action {
    Add(String, Option<u64>),
    Remove(String),
    Clear(String),
    Enable(String),
    Disable(String),
    Merge(String, String),
    MergeFrom(String, String),
    /// A command of qemu-io or, after "img", of qemu-img.
    Qemu(String),
}

impl Action {
    fn random(random: &mut Random, size: u64) -> Self {
        let name = |random: &mut Random| ["a", "b", "c c", "d"][random.below(4) as usize].into();
        match random.below(14) {
            0..=2 => {
                let granularity = 1 << (9 + random.below(14));
                Self::Add(name(random), Some(granularity).filter(|_| random.below(3) > 0))
            }
            3 => Self::Remove(name(random)),
            4 => Self::Clear(name(random)),
            5 => Self::Enable(name(random)),
            6 => Self::Disable(name(random)),
            7 | 8 => Self::Merge(name(random), name(random)),
            9 => Self::MergeFrom(name(random), name(random)),
            _ => {
                let start = random.below(size / 512) * 512;
                let len = (1 + random.below(1000)) * 512;
                Self::Qemu(format!("write -P 1 {start} {}", len.min(size - start)))
            }
        }
    }

    /// Carries it out here. Returns true if it succeeded.
    fn run(&self, path: &Path, other: &Path) -> bool {
        let mut image = Qcow2Mut::open(path).unwrap();
        let outcome = match self {
            Self::Add(name, granularity) => image.add_bitmap(name, *granularity),
            Self::Remove(name) => image.remove_bitmap(name),
            Self::Clear(name) => image.clear_bitmap(name),
            Self::Enable(name) => image.enable_bitmap(name),
            Self::Disable(name) => image.disable_bitmap(name),
            Self::Merge(name, source) => image.merge_bitmap(name, source),
            Self::MergeFrom(name, source) => metadata_options()
                .open(other)
                .unwrap()
                .dirty_bitmap(source)
                .and_then(|source| image.merge_bitmap_from(name, &source)),
            Self::Qemu(_) => unreachable!(),
        };
        outcome.is_ok()
    }

    /// Has qemu-img carry it out. Returns true if it succeeded.
    fn run_by_qemu(&self, path: &Path, other: &Path) -> bool {
        let (file, other) = (path.to_str().unwrap(), other.to_str().unwrap());
        let mut args = vec!["bitmap".to_owned()];
        let mut add = |words: &[&str]| args.extend(words.iter().map(ToString::to_string));
        match self {
            Self::Add(name, Some(size)) => add(&["--add", "-g", &size.to_string(), file, name]),
            Self::Add(name, None) => add(&["--add", file, name]),
            Self::Remove(name) => add(&["--remove", file, name]),
            Self::Clear(name) => add(&["--clear", file, name]),
            Self::Enable(name) => add(&["--enable", file, name]),
            Self::Disable(name) => add(&["--disable", file, name]),
            Self::Merge(name, source) => add(&["--merge", source, file, name]),
            Self::MergeFrom(name, source) => {
                add(&["--merge", source, "-b", other, "-F", "qcow2", file, name]);
            }
            Self::Qemu(command) => {
                qemu(path, command);
                return true;
            }
        }
        try_run("qemu-img", args).status.success()
    }
}

fn create(dir: &Path, name: &str, options: &str, size: u64) -> PathBuf {
    let path = dir.join(name);
    let data = format!("data_file={}", dir.join(format!("{name}.data")).display());
    let options = options.replace("data_file=@", &data);
    let size = size.to_string();
    let file = path.to_str().unwrap();
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", &options, file, &size]);
    path
}

#[test]
#[allow(clippy::print_stdout, reason = "the numbers")]
fn bitmaps_are_those_that_qemu_img_alone_makes() {
    let rounds = cases(1).cases.max(1);
    let (mut done, mut failed) = (0, 0);
    for (number, (options, size)) in IMAGES.iter().enumerate() {
        for round in 0..rounds {
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path();
            std::fs::write(dir.join("base"), vec![9; 3 << 20]).unwrap();
            let mut size = *size;
            let mut random = Random(1 + number as u64 * 1000 + u64::from(round));
            let (ours, theirs) =
                (create(dir, "ours", options, size), create(dir, "theirs", options, size));
            let other = create(dir, "other", "cluster_size=8k", size);
            for (name, granularity) in [("a", "512"), ("b", "1M"), ("d", "2G")] {
                let file = other.to_str().unwrap();
                run("qemu-img", ["bitmap", "--add", "-g", granularity, file, name]);
                let at = random.below(size / 1024) * 512;
                qemu(&other, &format!("write {at} 100k"));
            }
            let mut log = Vec::new();
            for step in 0..16 {
                let action = match random.below(20) {
                    0 if !options.contains("data_file") && !options.contains("refcount_bits=1") => {
                        Action::Qemu(format!("img snapshot -c s{step}"))
                    }
                    1 => {
                        size += random.below(MIB / 512) * 512;
                        Action::Qemu(format!("img resize -q -f qcow2 {size}"))
                    }
                    _ => Action::random(&mut random, size),
                };
                let here = random.below(3) > 0 && !matches!(action, Action::Qemu(_));
                log.push(format!("{here} {action:?}"));
                let succeeded = match here {
                    true => action.run(&ours, &other),
                    false => action.run_by_qemu(&ours, &other),
                };
                let expected = action.run_by_qemu(&theirs, &other);
                assert_eq!(succeeded, expected, "{options}: {log:?}");
                (done, failed) = (done + 1, failed + usize::from(!succeeded));
                if here {
                    assert_qemu_check(&ours, "qcow2");
                }
            }
            let expected = contents_by_qemu(&theirs);
            assert_eq!(contents(&ours), expected, "{options}: {log:?}");
            assert_eq!(contents_by_qemu(&ours), expected, "{options}: {log:?}");
            let open = |path: &Path| {
                let options = super::options().external_files(ExternalFiles::Any);
                options.open(path).unwrap()
            };
            let same = Compare::new(&open(&ours), &open(&theirs)).run().unwrap();
            assert!(matches!(same, diskimg::Comparison::Identical { .. }), "{options}: {log:?}");
        }
    }
    assert!(failed * 5 > done / 5 && failed < done, "{failed} of {done}");
    println!("{done} actions, of which {failed} failed in both");
}
