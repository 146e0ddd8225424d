//! Device numbers of Rock Ridge, which writers record in two encodings.

use super::reference::{self, Tree};
use super::writing::{Case, preserved};
use diskimg::iso::{IsoImage, IsoOptions};
use diskimg::storage::source::FileSource;
use diskimg::{Durability, Output};
use diskimg_testkit::tool::run;
use std::path::Path;
use std::sync::Arc;

/// Major and minor numbers: of 8 and more bits, up to the largest that Linux has.
const NUMBERS: [(u32, u32); 9] = [
    (8, 1),
    (0, 5),
    (255, 255),
    (65, 1000),
    (259, 70_000),
    (300, 5),
    (4095, 255),
    (4095, 256),
    (4095, 1_048_575),
];

fn devices(root: &Path) {
    for (n, (major, minor)) in NUMBERS.iter().enumerate() {
        let (major, minor) = (major.to_string(), minor.to_string());
        let path = root.join(format!("d{n}"));
        run("mknod", [path.to_str().unwrap(), if n % 2 == 0 { "b" } else { "c" }, &major, &minor]);
    }
}

/// Returns the device numbers in the order of [`NUMBERS`].
fn numbers(tree: &Tree) -> Vec<Option<(u32, u32)>> {
    let device = |n: usize| tree.get(format!("d{n}").as_bytes()).and_then(|facts| facts.device);
    (0..NUMBERS.len()).map(device).collect()
}

/// Returns the device numbers that xorriso lists: `brw-r--r-- 1 0 0 8,1 Nov 28 18:57 '/d0'`.
fn numbers_by_xorriso(image: &Path) -> Vec<(u32, u32)> {
    let args = ["-indev", image.to_str().unwrap(), "-find", "/", "-type", "b", "-or", "-type", "c"];
    let out = run("xorriso", args.into_iter().chain(["-exec", "lsdl"]));
    let mut found: Vec<_> = out
        .lines()
        .filter_map(|line| {
            let (major, minor) = line.split_whitespace().nth(4)?.split_once(',')?;
            Some((line.split('\'').nth(1)?, (major.parse().ok()?, minor.parse().ok()?)))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, numbers)| numbers).collect()
}

fn listed(image: &Path) -> Tree {
    let source = Arc::new(FileSource::open(image).unwrap());
    reference::listed(&IsoImage::open(source, &IsoOptions::default()).unwrap())
}

#[test]
#[ignore = "needs root to create devices"]
fn device_numbers_of_all_writers_are_read() {
    let case = Case::new(devices);
    let (tree, image) = (case.tree(), case.path("other.iso"));
    let [tree, path] = [&tree, &image].map(|path| path.to_str().unwrap());
    let wanted = NUMBERS.map(Some).to_vec();
    for (writer, args) in [
        ("xorrisofs", vec!["-quiet", "-R", "-o", path, tree]),
        ("genisoimage", vec!["-quiet", "-R", "-o", path, tree]),
        ("bsdtar", vec!["-c", "-f", path, "--format", "iso9660", "-C", tree, "."]),
    ] {
        run(writer, args);
        assert_eq!(numbers(&listed(&image)), wanted, "{writer}");
    }
    let ours = case.write(preserved());
    assert_eq!(numbers(&listed(&ours)), wanted);
}

/// Linux reads the last PN entry: 16-bit numbers if the high half is zero, and otherwise both
/// halves.
fn as_linux(high: u32, low: u32) -> (u32, u32) {
    if high == 0 && low > 0xFF { (low >> 8, low & 0xFF) } else { (high, low) }
}

#[test]
#[ignore = "needs root to create devices"]
fn our_device_numbers_are_read_by_other_programs() {
    let case = Case::new(devices);
    let mut options = preserved();
    options.udf = true;
    let image = case.write(options);
    let wanted = NUMBERS.map(Some).to_vec();
    assert_eq!(numbers(&reference::bsdtar(&image).unwrap()), wanted, "bsdtar");
    assert_eq!(numbers_by_xorriso(&image), NUMBERS, "xorriso");
    // The last entry in each record, as Linux's driver reads it.
    let bytes = std::fs::read(&image).unwrap();
    let at = bytes.windows(4).enumerate();
    let entries = at.filter(|(_, head)| head.starts_with(b"PN") && head[3] == 1);
    let entries: Vec<_> = entries.map(|(at, head)| (at, usize::from(head[2]))).collect();
    let last = entries
        .iter()
        .enumerate()
        .filter(|&(n, (at, len))| entries.get(n + 1).is_none_or(|(next, _)| *next != at + len));
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let found = last.map(|(_, (at, _))| as_linux(number(at + 4), number(at + 12)));
    assert_eq!(found.collect::<Vec<_>>(), NUMBERS);
    let remastered = case.path("remastered.iso");
    let source = Arc::new(FileSource::open(&image).unwrap());
    for namespace in [diskimg::iso::Namespace::RockRidge, diskimg::iso::Namespace::Udf] {
        let mut options = IsoOptions::default();
        options.namespace = namespace;
        let image = IsoImage::open(source.clone(), &options).unwrap();
        assert_eq!(numbers(&reference::listed(&image)), wanted, "{namespace}");
        let plan = image.remaster().unwrap().plan().unwrap();
        let output = Output::create(&remastered).unwrap();
        plan.write(output, Durability::Cached, &mut |_| Ok(())).unwrap();
        assert_eq!(numbers(&listed(&remastered)), wanted, "{namespace}, remastered");
    }
}
