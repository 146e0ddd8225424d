//! Guest data that is written into existing VHDs.

use super::{our_bytes, write, write_bytes};
use diskimg::storage::source::MemorySource;
use diskimg::{Backing, Convert, Format, Image, OpenOptions, Severity, Sparse};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::tool::{full, qemu_bytes, run};
use diskimg_testkit::vhd::{Locator, SECTOR, Vhd};
use proptest::prelude::*;
use proptest::sample::select;
use std::path::Path;
use std::sync::Arc;

const BLOCK: u64 = 64 << 10;

fn convert(source: &[u8]) -> Convert<'static> {
    let source = Arc::new(MemorySource::new(source.to_vec()));
    let image = OpenOptions::new().format(Format::Raw).open_source(source, "source").unwrap();
    Convert::new(image).format(Format::Vhd)
}

/// The disk after `source` was written to the beginning of `old`.
fn expected(source: &[u8], old: &[u8]) -> Vec<u8> {
    [source, &old[source.len()..]].concat()
}

fn assert_consistent(path: &Path) {
    Image::open(path).unwrap().check(&mut |finding| panic!("{finding:?}")).unwrap();
}

fn runs() -> impl Strategy<Value = Vec<Run>> {
    let fill = select(vec![Fill::Byte(0), Fill::Byte(5), Fill::Noise(1), Fill::Words(2)]);
    let run = (0..12_000u64, 1..600u64, fill).prop_map(|(at, len, fill)| Run {
        at: at * 512,
        len: len * 512,
        fill,
    });
    prop::collection::vec(run, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if full() { 400 } else { 25 },
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn a_disk_of_qemu_img_has_the_sources_bytes_and_keeps_the_rest(
        (before, after) in (runs(), runs()),
        sectors in 1..12_000u64,
        subformat in select(vec!["dynamic", "fixed"]),
        sparse in select(vec![Sparse::Off, Sparse::Blocks(512), Sparse::Blocks(4096)]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (raw, target) = (dir.path().join("raw"), dir.path().join("disk.vhd"));
        let old = Disk { size: 12_000 * 512, runs: before };
        old.write(&raw);
        let options = format!("subformat={subformat},force_size=on");
        let paths = [raw.to_str().unwrap(), target.to_str().unwrap()];
        let args = ["convert", "-f", "raw", "-O", "vpc", "-o", &options];
        run("qemu-img", args.iter().chain(&paths));
        let source = Disk { size: sectors * 512, runs: after }.bytes();
        convert(&source).sparse(sparse).verify(true).run_existing(&target).unwrap();
        let wanted = expected(&source, &old.bytes());
        prop_assert!(our_bytes(&target) == wanted);
        prop_assert!(qemu_bytes(&target, "vpc") == wanted);
        assert_consistent(&target);
    }
}

fn child() -> Vhd {
    let locators = vec![Locator::windows(b"W2ru", ".\\base.vhd")];
    let child = Vhd::child(8 * BLOCK, [7; 16], "base.vhd");
    Vhd { locators, ..child.block(1, 0xc1, 8..24).block(2, 0xc2, 0..128) }
}

fn parent() -> Vhd {
    let parent = Vhd::dynamic(8 * BLOCK);
    parent.block(0, 0x10, 0..128).block(1, 0x11, 0..128).block(3, 0x13, 0..128)
}

/// Data and zeros hide what the parent has; what equals the parent becomes unallocated.
#[test]
fn a_child_keeps_only_what_differs_from_its_parent() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vhd", &parent());
    let target = write(dir.path(), "child.vhd", &child());
    let mut source = our_bytes(&target);
    source[2 * BLOCK as usize..3 * BLOCK as usize].fill(0);
    source[3 * BLOCK as usize..][..8192].fill(0);
    source[5 * BLOCK as usize..][..4096].fill(0x55);
    convert(&source)
        .backing(Backing::new("base.vhd").with_format("vpc"))
        .run_existing(&target)
        .unwrap();
    assert!(our_bytes(&target) == source);
    assert_consistent(&target);
    let image = Image::open(&target).unwrap();
    let depth = |at: u64| image.extents(at..at + 512).unwrap().next().unwrap().unwrap().depth;
    let hidden = [BLOCK + 8 * 512, 3 * BLOCK, 5 * BLOCK].map(depth);
    assert_eq!(hidden, [0, 0, 0]);
    assert_eq!([0, BLOCK, 3 * BLOCK + 8192].map(depth), [1, 1, 1]);
}

/// A crash leaves each sector as it was or as it will be, and a disk that can be written again.
#[test]
fn after_a_crash_every_sector_of_a_child_is_old_or_new() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vhd", &parent());
    let target = write(dir.path(), "child.vhd", &child());
    let old = our_bytes(&target);
    let mut source = old.clone();
    source[..4096].fill(0x77);
    source[BLOCK as usize..][..8192].fill(0);
    source[4 * BLOCK as usize..][..12_288].fill(0x44);
    let recorded = std::fs::read(&target).unwrap();
    let storage = Arc::new(RecordingStorage::new(recorded, Some(target.clone())));
    convert(&source).threads(1).run_existing_on(Arc::clone(&storage) as _, "target").unwrap();
    let mut number = 0;
    storage.crash_states(9, if full() { 1 } else { 7 }, |state| {
        number += 1;
        std::fs::write(&target, state).unwrap();
        let image = Image::open(&target).unwrap();
        let only_warnings = |severity| assert_eq!(severity, Severity::Warning, "state {number}");
        image.check(&mut |finding| only_warnings(finding.severity)).unwrap();
        let mut found = vec![0; image.size() as usize];
        image.read_at(&mut found, 0).unwrap();
        drop(image);
        for (index, found) in found.chunks(SECTOR).enumerate() {
            let at = index * SECTOR..(index + 1) * SECTOR;
            let known = found == &old[at.clone()] || found == &source[at];
            assert!(known, "state {number}: sector {index}");
        }
        if number % 20 == 1 {
            convert(&source).run_existing(&target).unwrap();
            assert!(our_bytes(&target) == source, "state {number}");
            assert_consistent(&target);
        }
    });
    assert!(number > 20);
}

#[test]
fn writing_restores_a_damaged_copy_of_the_footer() {
    let dir = tempfile::tempdir().unwrap();
    let whole = Vhd::dynamic(4 * BLOCK).block(1, 0x11, 0..128).build();
    let end = whole.len() - SECTOR;
    let source = vec![0x99; BLOCK as usize * 3];
    type Damage = fn(&mut Vec<u8>, usize);
    let damages: [Damage; 4] = [
        |file, _| file[50] ^= 1,
        |file, end| file[end + 50] ^= 1,
        |file, end| file.truncate(end),
        // Something was appended.
        |file, _| file.extend([1; 745]),
    ];
    for damage in damages {
        let mut file = whole.clone();
        damage(&mut file, end);
        let target = write_bytes(dir.path(), "disk.vhd", &file);
        convert(&source).run_existing(&target).unwrap();
        assert!(our_bytes(&target)[..source.len()] == source);
        assert_consistent(&target);
        assert!(qemu_bytes(&target, "vpc")[..source.len()] == source);
    }
}

/// A footer of 511 bytes is replaced by one of 512, behind the last block.
#[test]
fn the_footer_that_is_restored_does_not_overlap_the_last_block() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = Vhd::dynamic(BLOCK).block(0, 0x11, 0..128).build();
    file.pop();
    file[50] ^= 1;
    let target = write_bytes(dir.path(), "disk.vhd", &file);
    convert(&[0x99; 4096]).run_existing(&target).unwrap();
    assert!(our_bytes(&target)[4096..] == [0x11; BLOCK as usize - 4096]);
    assert_consistent(&target);
}

/// The rest of the block would be written over the footer.
#[test]
fn a_disk_with_a_block_that_reaches_beyond_the_footer_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = Vhd::dynamic(2 * BLOCK).block(1, 0x11, 0..8).build();
    let footer = file.split_off(file.len() - SECTOR);
    file.truncate(file.len() - 4096);
    file.extend(footer);
    let target = write_bytes(dir.path(), "disk.vhd", &file);
    let error = convert(&[1; 2 * BLOCK as usize]).run_existing(&target).unwrap_err();
    assert!(error.to_string().contains("beyond the end"), "{error}");
    assert!(std::fs::read(&target).unwrap() == file);
}

#[test]
fn a_disk_whose_blocks_overlap_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let image = Vhd::dynamic(4 * BLOCK).block(1, 0x11, 0..128).block(2, 0x22, 0..128);
    let mut file = image.build();
    let table = image.table_at();
    let entry: [u8; 4] = file[table + 4..table + 8].try_into().unwrap();
    file[table + 8..table + 12].copy_from_slice(&entry);
    let target = write_bytes(dir.path(), "disk.vhd", &file);
    let error = convert(&[1; 4096]).run_existing(&target).unwrap_err();
    assert!(error.to_string().contains("overlap"), "{error}");
    assert!(std::fs::read(&target).unwrap() == file);
}
