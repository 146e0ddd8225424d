//! Guest data that is written into existing VHDXs.

use super::{BLOCK, our_bytes, write, write_bytes};
use diskimg::storage::source::MemorySource;
use diskimg::{Backing, Convert, Format, Image, OpenOptions, Severity, Sparse};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::oracles::{Oracle, Verdict};
use diskimg_testkit::tool::{full, qemu_bytes, run, try_run};
use diskimg_testkit::vhdx::{
    Block, Log, MIB, PARTIAL, PRESENT, UNDEFINED, UNMAPPED, Vhdx, ZERO, changed_pages, put,
};
use proptest::prelude::*;
use proptest::sample::select;
use std::path::Path;
use std::sync::Arc;

const SECTOR: usize = 512;

fn convert(source: &[u8]) -> Convert<'static> {
    let source = Arc::new(MemorySource::new(source.to_vec()));
    let image = OpenOptions::new().format(Format::Raw).open_source(source, "source").unwrap();
    Convert::new(image).format(Format::Vhdx)
}

/// Writes `source` into the child of `base.vhdx`.
fn convert_child(source: &[u8]) -> Convert<'static> {
    convert(source).backing(Backing::new("base.vhdx").with_format("vhdx"))
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
    let run = (0..12_000u64, 1..3_000u64, fill).prop_map(|(at, len, fill)| Run {
        at: at * 512,
        len: len * 512,
        fill,
    });
    prop::collection::vec(run, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if full() { 400 } else { 20 },
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn a_disk_of_qemu_img_has_the_sources_bytes_and_keeps_the_rest(
        (before, after) in (runs(), runs()),
        sectors in 1..12_000u64,
        kind in select(vec!["subformat=dynamic", "subformat=fixed", "block_size=1M"]),
        sparse in select(vec![Sparse::Off, Sparse::Blocks(512), Sparse::Blocks(4096)]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (raw, target) = (dir.path().join("raw"), dir.path().join("disk.vhdx"));
        let old = Disk { size: 12_000 * 512, runs: before };
        old.write(&raw);
        let paths = [raw.to_str().unwrap(), target.to_str().unwrap()];
        let args = ["convert", "-f", "raw", "-O", "vhdx", "-o", kind];
        run("qemu-img", args.iter().chain(&paths));
        let source = Disk { size: sectors * 512, runs: after }.bytes();
        convert(&source).sparse(sparse).verify(true).run_existing(&target).unwrap();
        let wanted = expected(&source, &old.bytes());
        prop_assert!(our_bytes(&target) == wanted);
        prop_assert!(qemu_bytes(&target, "vhdx") == wanted);
        assert_consistent(&target);
        run("qemu-img", ["check", target.to_str().unwrap()]);
    }

    #[test]
    fn a_child_has_the_sources_bytes_and_keeps_the_rest(
        (before, after) in (runs(), runs()),
        sectors in 1..12_000u64,
        states in prop::collection::vec(0..6u8, 6),
        sparse in select(vec![Sparse::Off, Sparse::Blocks(4096)]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base.vhdx");
        let size = 12_000 * 512;
        let base_image = Vhdx::dynamic(size);
        let bytes = Disk { size, runs: before }.bytes();
        let blocks = bytes.chunks(BLOCK).enumerate();
        let base_image = blocks.fold(base_image, |image, (n, data)| image.data(n as u64, data));
        base_image.write(&base);
        let mut child = Vhdx::child(&base_image, ".\\base.vhdx");
        for (n, state) in (0..).zip(states) {
            child = match state {
                1 => child.state(n, ZERO),
                2 => child.state(n, UNMAPPED),
                3 => child.filled(n, 0xf0),
                4 => child.partial(n, 0xa0, [0, 7, 8, 9, 1000, 1001, 1439]),
                5 => child.partial(n, 0xb0, 0..1440),
                _ => child,
            };
        }
        let target = write(dir.path(), "child.vhdx", &child);
        let old = our_bytes(&target);
        let source = Disk { size: sectors * 512, runs: after }.bytes();
        convert_child(&source).sparse(sparse).verify(true).run_existing(&target).unwrap();
        let wanted = expected(&source, &old);
        prop_assert!(our_bytes(&target) == wanted);
        assert_consistent(&target);
    }
}

fn parent() -> Vhdx {
    Vhdx::dynamic(8 * MIB).filled(0, 0x10).filled(1, 0x11).filled(3, 0x13).filled(6, 0x16)
}

/// The bits of block 4 are set, although it is not stored.
fn child() -> Vhdx {
    let child = Vhdx::child(&parent(), ".\\base.vhdx");
    let child = child.partial(1, 0xc1, 8..24).filled(2, 0xc2).state(6, ZERO);
    let mut child = child.partial(4, 0, 0..2048);
    child.blocks.remove(&4);
    child
}

fn source_for_child(old: &[u8]) -> Vec<u8> {
    let mut source = old.to_vec();
    source[..4096].fill(0x77);
    source[BLOCK..BLOCK + 8192].fill(0);
    // The parent's again, in a block that is stored.
    source[2 * BLOCK..2 * BLOCK + 65536].fill(0);
    source[4 * BLOCK + 8192..][..12_288].fill(0x44);
    // A whole block.
    source[5 * BLOCK..6 * BLOCK].fill(0x55);
    source[6 * BLOCK..][..4096].fill(0x16);
    source
}

/// Data and zeros hide what the parent has; what equals the parent becomes unallocated.
#[test]
fn a_child_keeps_only_what_differs_from_its_parent() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vhdx", &parent());
    let target = write(dir.path(), "child.vhdx", &child());
    let source = source_for_child(&our_bytes(&target));
    convert_child(&source).run_existing(&target).unwrap();
    assert!(our_bytes(&target) == source);
    assert_consistent(&target);
    let image = Image::open(&target).unwrap();
    let depth = |at: usize| {
        let at = at as u64;
        image.extents(at..at + 512).unwrap().next().unwrap().unwrap().depth
    };
    let hidden = [0, BLOCK + 8 * 512, 4 * BLOCK + 8192, 5 * BLOCK, 6 * BLOCK + 8192].map(depth);
    assert_eq!(hidden, [0; 5]);
    let shown = [4096, BLOCK + 65536, 2 * BLOCK, 4 * BLOCK, 6 * BLOCK, 7 * BLOCK].map(depth);
    assert_eq!(shown, [1; 6]);
    for oracle in [Oracle::SevenZip, Oracle::Dissect] {
        let disk = disk_of(&source);
        let verdict = oracle.compare("vhdx", &target, &disk);
        let expected = matches!(verdict, Verdict::Same | Verdict::NotInstalled);
        assert!(expected, "{}: {verdict}", oracle.name());
    }
}

/// Describes bytes that are the same within each 4 KiB.
fn disk_of(bytes: &[u8]) -> Disk {
    let runs = (0..).step_by(4096).zip(bytes.chunks(4096));
    let run = |(at, chunk): (u64, &[u8])| Run { at, len: 4096, fill: Fill::Byte(chunk[0]) };
    Disk { size: bytes.len() as u64, runs: runs.map(run).collect() }
}

/// A crash leaves each sector as it was or as it will be, and a disk that can be written again.
#[test]
fn after_a_crash_every_sector_of_a_child_is_old_or_new() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vhdx", &parent());
    let target = write(dir.path(), "child.vhdx", &child());
    let old = our_bytes(&target);
    let source = source_for_child(&old);
    let recorded = std::fs::read(&target).unwrap();
    let storage = Arc::new(RecordingStorage::new(recorded, Some(target.clone())));
    convert_child(&source).threads(1).run_existing_on(Arc::clone(&storage) as _, "target").unwrap();
    distinct_states(&storage, if full() { 7 } else { 397 }, |number, state| {
        std::fs::write(&target, state).unwrap();
        assert_old_or_new(&target, number, &old, &source);
        if number % 20 == 1 {
            convert_child(&source).run_existing(&target).unwrap();
            assert!(our_bytes(&target) == source, "state {number}");
            assert_consistent(&target);
        }
    });
}

/// Calls `each` with the states in which a crash can leave the storage. Many are the same, because
/// most sectors of a header do not change.
fn distinct_states(storage: &RecordingStorage, step: usize, mut each: impl FnMut(usize, &[u8])) {
    let (mut number, mut recent) = (0, Vec::<Vec<u8>>::new());
    storage.crash_states(9, step, |state| {
        if recent.iter().any(|other| other == state) {
            return;
        }
        recent.truncate(3);
        recent.insert(0, state.to_vec());
        number += 1;
        each(number, state);
    });
    assert!(number > 20, "{number}");
}

fn assert_old_or_new(target: &Path, number: usize, old: &[u8], new: &[u8]) {
    let image = Image::open(target).unwrap_or_else(|e| panic!("state {number}: {e}"));
    let only_warnings = |severity| assert_eq!(severity, Severity::Warning, "state {number}");
    image.check(&mut |finding| only_warnings(finding.severity)).unwrap();
    let mut found = vec![0; image.size() as usize];
    image.read_at(&mut found, 0).unwrap();
    for (index, found) in found.chunks(SECTOR).enumerate() {
        let at = index * SECTOR..(index + 1) * SECTOR;
        let known = found == &old[at.clone()] || found == &new[at];
        assert!(known, "state {number}: sector {index}");
    }
}

/// An image in whose log is the table that it needs, and the disk.
fn logged() -> (Vhdx, Vec<u8>) {
    let image = Vhdx::dynamic(4 * MIB).filled(0, 0x10).filled(2, 0x12);
    let new = image.build();
    let mut file = new.clone();
    let table = image.bat().len();
    put(&mut file, image.bat_at() as usize, &vec![0; table]);
    let log = Log::default().entry(file.len() as u64, changed_pages(&file, &new));
    image.put_log(&mut file, &log);
    (image, file)
}

/// qemu-img and diskimg agree on all states, once qemu-img has replayed the log.
#[test]
fn after_a_crash_a_disk_with_a_log_is_old_or_new() {
    let dir = tempfile::tempdir().unwrap();
    let (_, file) = logged();
    let target = write_bytes(dir.path(), "disk.vhdx", &file);
    let old = our_bytes(&target);
    let mut source = old.clone();
    source[MIB as usize..][..4096].fill(0x77);
    source[3 * MIB as usize..][..8192].fill(0x99);
    let storage = Arc::new(RecordingStorage::new(file, Some(target.clone())));
    convert(&source).threads(1).run_existing_on(Arc::clone(&storage) as _, "target").unwrap();
    distinct_states(&storage, if full() { 1 } else { 17 }, |number, state| {
        std::fs::write(&target, state).unwrap();
        assert_old_or_new(&target, number, &old, &source);
        if number % 5 == 1 {
            let ours = our_bytes(&target);
            run("qemu-img", ["check", "-q", "-r", "all", target.to_str().unwrap()]);
            assert!(qemu_bytes(&target, "vhdx") == ours, "state {number}");
        }
    });
}

#[test]
fn the_log_is_replayed_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (_, file) = logged();
    let target = write_bytes(dir.path(), "disk.vhdx", &file);
    let old = our_bytes(&target);
    let refused = try_run("qemu-img", ["map", target.to_str().unwrap()]);
    assert!(!refused.status.success(), "qemu-img refuses a log that is not replayed");
    convert(&[7; 4096]).run_existing(&target).unwrap();
    let wanted = expected(&[7; 4096], &old);
    assert!(our_bytes(&target) == wanted);
    // The table is in its place now: readers that ignore the log agree.
    assert!(qemu_bytes(&target, "vhdx") == wanted);
    for oracle in [Oracle::SevenZip, Oracle::Dissect, Oracle::Libyal] {
        let verdict = oracle.compare("vhdx", &target, &disk_of(&wanted));
        let expected = matches!(verdict, Verdict::Same | Verdict::NotInstalled);
        assert!(expected, "{}: {verdict}", oracle.name());
    }
    assert_consistent(&target);
}

/// Children record the old one, so that they are not read over changed data.
#[test]
fn the_guids_change_and_children_no_longer_fit() {
    let dir = tempfile::tempdir().unwrap();
    let base = write(dir.path(), "base.vhdx", &parent());
    let target = write(dir.path(), "child.vhdx", &child());
    our_bytes(&target);
    let header = |file: &[u8], at: usize| file[at + 8..at + 64].to_vec();
    let before = std::fs::read(&base).unwrap();
    convert(&[9; 4096]).run_existing(&base).unwrap();
    let after = std::fs::read(&base).unwrap();
    let (first, second) = (header(&after, 64 << 10), header(&after, 128 << 10));
    // Both headers are new, and have no log. Only their sequence numbers differ.
    assert_eq!(first[8..], second[8..]);
    assert_ne!(first[..8], second[..8]);
    let old = header(&before, 128 << 10);
    assert!(first[8..24] != old[8..24] && first[24..40] != old[24..40]);
    let error = Image::open(&target).unwrap_err();
    assert!(error.to_string().contains("data write GUID"), "{error}");
}

/// States 1 and 3 may have the offset of space that is used for something else by now.
#[test]
fn the_offset_of_a_block_that_is_not_stored_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    for state in [UNDEFINED, UNMAPPED] {
        let mut image = Vhdx::dynamic(3 * MIB).filled(0, 0x10);
        let megabyte = Some(image.data_at(0) / MIB);
        image.blocks.insert(1, Block { state, data: None, megabyte });
        let target = write(dir.path(), "disk.vhdx", &image);
        let mut source = our_bytes(&target);
        source[BLOCK..BLOCK + 4096].fill(0x77);
        convert(&source).run_existing(&target).unwrap();
        assert!(our_bytes(&target) == source);
        assert!(qemu_bytes(&target, "vhdx") == source);
        assert_consistent(&target);
    }
}

/// QEMU ends files within their last block.
#[test]
fn new_blocks_are_behind_a_last_block_that_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let image = Vhdx { block_bytes: 4 << 20, ..Vhdx::dynamic(9 * MIB) };
    let mut file = image.filled(2, 0x12).build();
    file.truncate(file.len() - 3 * BLOCK);
    let target = write_bytes(dir.path(), "disk.vhdx", &file);
    let mut source = our_bytes(&target);
    source[..4096].fill(0x77);
    convert(&source).run_existing(&target).unwrap();
    assert!(our_bytes(&target) == source);
    assert!(qemu_bytes(&target, "vhdx") == source);
    assert_eq!(std::fs::metadata(&target).unwrap().len(), 12 * MIB);
    assert_consistent(&target);
}

#[test]
fn damaged_copies_are_restored() {
    let dir = tempfile::tempdir().unwrap();
    let whole = parent().build();
    for at in [64 << 10, 128 << 10, 192 << 10, 256 << 10] {
        let mut file = whole.clone();
        file[at + 100] ^= 1;
        let target = write_bytes(dir.path(), "disk.vhdx", &file);
        assert!(Image::open(&target).unwrap().warnings().count() == 1);
        convert(&[9; 4096]).run_existing(&target).unwrap();
        assert_eq!(Image::open(&target).unwrap().warnings().count(), 0, "{at:#x}");
        assert_consistent(&target);
    }
}

#[test]
fn a_disk_whose_blocks_overlap_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut image = Vhdx::dynamic(4 * MIB).filled(1, 0x11);
    let megabyte = Some(image.data_at(1) / MIB);
    image.blocks.insert(2, Block { state: PRESENT, data: None, megabyte });
    let file = image.build();
    let target = write_bytes(dir.path(), "disk.vhdx", &file);
    let error = convert(&[1; 4096]).run_existing(&target).unwrap_err();
    assert!(error.to_string().contains("overlaps another block"), "{error}");
    assert!(std::fs::read(&target).unwrap() == file);
}

/// The bitmap of a chunk is missing, although a block needs it.
#[test]
fn a_child_without_the_bitmap_that_it_needs_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vhdx", &parent());
    let mut image = Vhdx::child(&parent(), ".\\base.vhdx").filled(1, 0x11);
    image.blocks.get_mut(&1).unwrap().state = PARTIAL;
    let file = image.build();
    let target = write_bytes(dir.path(), "child.vhdx", &file);
    let error = convert_child(&[1; 4096]).run_existing(&target).unwrap_err();
    assert!(error.to_string().contains("bitmap"), "{error}");
    assert!(std::fs::read(&target).unwrap() == file);
}

#[test]
fn a_device_has_no_room_for_new_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("disk.vhdx");
    let image = Vhdx::dynamic(4 * MIB).filled(0, 0x10);
    let storage = Arc::new(RecordingStorage::device(image.build()));
    convert(&[1; 4096]).run_existing_on(Arc::clone(&storage) as _, "device").unwrap();
    std::fs::write(&target, storage.to_vec()).unwrap();
    assert!(our_bytes(&target)[..4096] == [1; 4096]);
    let error =
        convert(&[1; 2 * BLOCK]).run_existing_on(Arc::clone(&storage) as _, "device").unwrap_err();
    assert!(error.to_string().contains("no room"), "{error}");
}
