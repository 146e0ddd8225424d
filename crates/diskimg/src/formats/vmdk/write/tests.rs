//! Placement of guest ranges that cross the boundary between two extents.

use super::create;
use super::extents::SPLIT_SECTORS;
use crate::formats::vmdk::SECTOR;
use crate::model::backing::Backing;
use crate::model::options::Options;
use crate::model::target::{Allocate, CreateRequest, Slot, Target};
use crate::storage::output::{Durability, Output};
use std::path::Path;

const GRAIN: u64 = 64 << 10;
const SPLIT: u64 = SPLIT_SECTORS * SECTOR;

fn split(output: &mut Output, options: &str, backing: bool) -> Box<dyn Target> {
    let backing = backing.then(|| Backing {
        name: "base.vmdk".into(),
        format: None,
        content_id: Some("1234".into()),
        disk_id: None,
        sector_sizes: None,
    });
    let options = Options::parse(options).expect("parses");
    let size = 2 * SPLIT;
    let request = CreateRequest { size, options: &options, backing, compress: false };
    create(request).and_then(|spec| spec.start(output)).expect("starts")
}

/// Reads the table entry of a grain of a sparse extent.
fn entry(extent: &Path, grain: u64) -> u32 {
    let file = std::fs::read(extent).expect("reads");
    let word = |at: u64| {
        let bytes = file[at as usize..at as usize + 4].try_into().expect("4 bytes");
        u64::from(u32::from_le_bytes(bytes))
    };
    let directory = word(56) * SECTOR;
    let table = word(directory + grain / 512 * 4) * SECTOR;
    word(table + grain % 512 * 4) as u32
}

#[test]
fn data_across_a_boundary_is_placed_in_two_files_by_two_calls() {
    for (options, offsets) in [
        ("subformat=twoGbMaxExtentFlat", [SPLIT - GRAIN, 0]),
        // In each file, after its tables.
        ("subformat=twoGbMaxExtentSparse", [640 * SECTOR; 2]),
    ] {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut output = Output::create(dir.path().join("a.vmdk")).expect("creates");
        let mut target = split(&mut output, options, false);
        let mut place = |at, len| target.place(at, Allocate::Data { len }).expect("places");
        let slot =
            |file: usize, len| Some(Slot { file, offset: offsets[file], len, is_zeroed: false });
        assert_eq!(place(SPLIT - GRAIN, 3 * GRAIN), slot(0, GRAIN), "{options}");
        assert_eq!(place(SPLIT, 2 * GRAIN), slot(1, 2 * GRAIN), "{options}");
        target.finish().expect("finishes");
    }
}

#[test]
fn zeros_across_a_boundary_hide_the_parent_only_in_their_range() {
    for (options, zeros) in [("", 640..=641), (",zeroed_grain=on", 1..=1)] {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut output = Output::create(dir.path().join("a.vmdk")).expect("creates");
        let options = format!("subformat=twoGbMaxExtentSparse{options}");
        let mut target = split(&mut output, &options, true);
        let unit = Allocate::Zero { len: 2 * GRAIN };
        assert_eq!(target.place(SPLIT - GRAIN, unit).expect("places"), None);
        target.finish().expect("finishes");
        output.commit(Durability::Cached).expect("commits");
        let (first, second) = (dir.path().join("a-s001.vmdk"), dir.path().join("a-s002.vmdk"));
        let last = SPLIT / GRAIN - 1;
        assert!(zeros.contains(&entry(&first, last)) && zeros.contains(&entry(&second, 0)));
        assert_eq!((entry(&first, last - 1), entry(&second, 1)), (0, 0), "{options}");
    }
}

#[cfg(unix)]
#[test]
fn zeros_across_a_boundary_are_written_to_both_preallocated_files() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().expect("tempdir");
    let mut output = Output::create(dir.path().join("a.vmdk")).expect("creates");
    let options = "subformat=twoGbMaxExtentFlat,preallocation=full";
    let mut target = split(&mut output, options, false);
    let unit = Allocate::Zero { len: 2 * GRAIN };
    assert_eq!(target.place(SPLIT - GRAIN, unit).expect("places"), None);
    target.finish().expect("finishes");
    output.commit(Durability::Flushed).expect("commits");
    for name in ["a-f001.vmdk", "a-f002.vmdk"] {
        let blocks = std::fs::metadata(dir.path().join(name)).expect("exists").blocks();
        assert_eq!(blocks * 512, GRAIN, "{name}");
    }
}
