//! VMDKs of one or several files with random damage: opening is an error or yields an image that
//! passes the conformance checks.

use crate::verified;
use diskimg::{Error, ErrorKind, ExternalFiles, OpenOptions, conformance};
use diskimg_testkit::esx::{self as esx, Cowd, Grain, Grains, SeSparse};
use diskimg_testkit::hosted::{self as hosted, Sparse, Stream, Writer};
use diskimg_testkit::tool::cases;
use proptest::prelude::*;
use proptest::sample::Index;

/// File names and contents; the first file is opened.
type Files = Vec<(&'static str, Vec<u8>)>;

fn grains() -> Grains {
    [(0, Grain::Data(1)), (3, Grain::Data(2)), (7, Grain::Data(9))].into()
}

/// Returns disks of every layout.
fn disks() -> Vec<Files> {
    let one = |bytes| vec![("d.vmdk", bytes)];
    let mut disks = vec![one(Sparse::plain(128 * 10 + 5).build(&grains()))];
    let small = Sparse { version: 2, flags: 7, grain_sectors: 8, gtes: 4, ..Sparse::plain(160) };
    disks.push(one(small.build(&grains())));
    let disk: Vec<u8> = (0..128 * 512 * 5).map(|i| (i / 65536 % 2 * (i / 300)) as u8).collect();
    for writer in [Writer::VSphere, Writer::Vmdktool, Writer::OpenVmdk, Writer::Qemu] {
        disks.push(one(Stream::of(writer).build(&disk)));
    }
    disks.push(vec![
        ("d.vmdk", esx::descriptor("seSparse", "SESPARSE", 4803, "e.vmdk", None).into_bytes()),
        ("e.vmdk", SeSparse::dense(4803).build(&grains())),
    ]);
    let parent = Some(("2af54bc8", "p.vmdk"));
    disks.push(vec![
        (
            "d.vmdk",
            esx::descriptor("vmfsSparse", "VMFSSPARSE", 4196, "e.vmdk", parent).into_bytes(),
        ),
        ("e.vmdk", Cowd::esx(4196).build(&grains())),
        ("p.vmdk", esx::descriptor("vmfs", "VMFS", 4196, "p-flat.vmdk", None).into_bytes()),
        ("p-flat.vmdk", vec![7; 4196 * 512]),
    ]);
    disks.push(one(Cowd::hosted(128 * 6 + 3).build(&grains())));
    let extent =
        |sectors| Sparse { descriptor: String::new(), ..Sparse::plain(sectors) }.build(&grains());
    let lines = "RW 1100 SPARSE \"s1.vmdk\"\nRW 77 ZERO\nRW 100 FLAT \"f.vmdk\" 3\n\
                 RDONLY 1100 SPARSE \"s2.vmdk\"\nNOACCESS 10 FLAT \"f.vmdk\" 103";
    disks.push(vec![
        ("d.vmdk", hosted::descriptor("custom", lines, None).into_bytes()),
        ("s1.vmdk", extent(1100)),
        ("s2.vmdk", extent(1100)),
        ("f.vmdk", vec![5; 120 * 512]),
    ]);
    disks
}

/// Fragments that are inserted into descriptors.
const FRAGMENTS: [&str; 16] = [
    "RW",
    "NOACCESS",
    "FLAT",
    "SPARSE",
    "ZERO",
    "SESPARSE",
    "0",
    "18014398509481983",
    "\"d.vmdk\"",
    "\"",
    "=",
    "\r",
    "\0",
    "parentCID=00000000\n",
    "encoding=\"UTF-16\"\n",
    "RW 1 ZERO\n",
];

#[derive(Debug, Clone)]
enum Damage {
    /// Overwrites bytes with a number, near the start of the file or anywhere.
    Number { at: Index, near: bool, value: u64, width: usize },
    /// Replaces `over` bytes with a fragment.
    Fragment { at: Index, fragment: usize, over: usize },
    /// Truncates the file.
    Cut { at: Index },
}

fn damage() -> impl Strategy<Value = Damage> {
    let value = prop_oneof![
        any::<u64>(),
        Just(0),
        Just(u64::MAX),
        Just(i64::MAX as u64),
        (0u32..64).prop_map(|bit| 1 << bit),
        0..200u64,
    ];
    let width = prop_oneof![Just(1usize), Just(2), Just(4), Just(8)];
    prop_oneof![
        6 => (any::<Index>(), any::<bool>(), value, width)
            .prop_map(|(at, near, value, width)| Damage::Number { at, near, value, width }),
        4 => (any::<Index>(), 0..FRAGMENTS.len(), 0..12usize)
            .prop_map(|(at, fragment, over)| Damage::Fragment { at, fragment, over }),
        1 => any::<Index>().prop_map(|at| Damage::Cut { at }),
    ]
}

impl Damage {
    fn apply(&self, file: &mut Vec<u8>) {
        if file.is_empty() {
            return;
        }
        match *self {
            Self::Number { at, near, value, width } => {
                let end = if near { file.len().min(2048) } else { file.len() };
                let at = at.index(end) / width * width;
                let bytes = value.to_le_bytes();
                file[at..].iter_mut().zip(&bytes[..width]).for_each(|(old, new)| *old = *new);
            }
            Self::Fragment { at, fragment, over } => {
                // Descriptors start in one of the first two sectors.
                let at = at.index(file.len().min(1024));
                let end = (at + over).min(file.len());
                file.splice(at..end, FRAGMENTS[fragment].bytes());
            }
            Self::Cut { at } => file.truncate(at.index(file.len())),
        }
    }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn a_damaged_vmdk_is_an_error_or_a_conforming_image(
        which in any::<Index>(),
        damages in prop::collection::vec((any::<Index>(), damage()), 1..4),
    ) {
        let disks = disks();
        let mut files = disks[which.index(disks.len())].clone();
        for (file, damage) in &damages {
            let file = file.index(files.len());
            damage.apply(&mut files[file].1);
        }
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in &files {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        let path = dir.path().join("d.vmdk");
        let metadata = OpenOptions::new().metadata_only(true).with_extents(true).open(&path);
        if let Ok(image) = metadata {
            image.info(0).unwrap();
            let _ = image.check(&mut |_| ());
        }
        for references in [ExternalFiles::SameDir, ExternalFiles::None] {
            let options = OpenOptions::new().external_files(references);
            // A damaged size may be huge: skip such images.
            let Ok(image) = options.open(&path) else { continue };
            if image.size() >= 1 << 30 {
                continue;
            }
            let read = conformance::verify(&image);
            if let Err(error) = &read {
                prop_assert!(
                    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported),
                    "{error}"
                );
            }
            let mapped = verified::memory_mapped(&options).open(&path);
            let mapped = mapped.and_then(|image| conformance::verify(&image));
            let text = |outcome: Result<(), Error>| outcome.map_err(|e| e.to_string());
            prop_assert_eq!(text(read), text(mapped));
        }
    }
}
