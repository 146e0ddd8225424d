//! Guest data that is written into existing VDIs.

use super::{error, findings, our_bytes, write, write_bytes};
use diskimg::storage::source::MemorySource;
use diskimg::{Backing, Convert, ErrorKind, Format, Image, OpenOptions, Sparse};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::tool::{assert_qemu_check, full, qemu_bytes, run, try_run};
use diskimg_testkit::vdi::{ALLOCATED_AT, FREE, Vdi, ZERO};
use proptest::prelude::*;
use proptest::sample::select;
use std::path::Path;
use std::sync::Arc;

const BLOCK: u64 = 64 << 10;
const MIB: u64 = 1 << 20;

fn convert(source: &[u8]) -> Convert<'static> {
    let source = Arc::new(MemorySource::new(source.to_vec()));
    let image = OpenOptions::new().format(Format::Raw).open_source(source, "source").unwrap();
    Convert::new(image).format(Format::Vdi)
}

/// The disk after `source` was written to the beginning of `old`.
fn expected(source: &[u8], old: &[u8]) -> Vec<u8> {
    [source, &old[source.len()..]].concat()
}

fn runs() -> impl Strategy<Value = Vec<Run>> {
    let fill = select(vec![Fill::Byte(0), Fill::Byte(5), Fill::Noise(1), Fill::Words(2)]);
    let run = (0..12_000u64, 1..3000u64, fill).prop_map(|(at, len, fill)| Run {
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
        is_static in select(vec!["on", "off"]),
        sparse in select(vec![Sparse::Off, Sparse::Blocks(512), Sparse::Blocks(4096)]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (raw, target) = (dir.path().join("raw"), dir.path().join("disk.vdi"));
        let old = Disk { size: 12_000 * 512, runs: before };
        old.write(&raw);
        let options = format!("static={is_static}");
        let paths = [raw.to_str().unwrap(), target.to_str().unwrap()];
        let args = ["convert", "-f", "raw", "-O", "vdi", "-o", &options];
        run("qemu-img", args.iter().chain(&paths));
        let source = Disk { size: sectors * 512, runs: after }.bytes();
        convert(&source).sparse(sparse).verify(true).run_existing(&target).unwrap();
        let wanted = expected(&source, &old.bytes());
        prop_assert!(our_bytes(&target) == wanted);
        prop_assert!(qemu_bytes(&target, "vdi") == wanted);
        prop_assert_eq!(findings(&target), [""; 0]);
        assert_qemu_check(&target, "vdi");
    }
}

/// A map {free, 1, 2}, as a discarded block leaves it, and a counter of 2.
fn with_gap() -> Vdi {
    let image = Vdi { block_bytes: MIB as u32, ..Vdi::dynamic(4 * MIB) };
    image.block(1, 1, 0x11).block(2, 2, 0x12)
}

/// QEMU 10.0 puts a new block at the index that is the number of allocated blocks: 2 is in use, so
/// that block 2 is overwritten, although `qemu-img check` has found no error. diskimg puts it at the
/// first index that is not in use, after which QEMU appends it at the right place.
#[test]
fn a_new_block_does_not_overwrite_another_one_as_in_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = write(dir.path(), "theirs.vdi", &with_gap());
    assert_qemu_check(&theirs, "vdi");
    let write_block = |path: &Path| {
        let args = ["-f", "vdi", "-c", "write -P 0x33 3M 1M"];
        run("qemu-io", args.into_iter().chain(path.to_str()));
    };
    write_block(&theirs);
    let block_2 = |path: &Path| qemu_bytes(path, "vdi")[2 * MIB as usize];
    assert_eq!(block_2(&theirs), 0x33, "QEMU is correct now: change the documentation");

    let ours = write(dir.path(), "ours.vdi", &with_gap());
    let mut source = our_bytes(&ours);
    source[..MIB as usize].fill(0x44);
    convert(&source).run_existing(&ours).unwrap();
    assert_eq!(our_bytes(&ours), source);
    assert_eq!(findings(&ours), [""; 0]);
    let file = std::fs::read(&ours).unwrap();
    assert_eq!(file[512..528], [0u32, 1, 2, FREE].map(u32::to_le_bytes).concat());
    write_block(&ours);
    assert_eq!(block_2(&ours), 0x12);
}

/// A gap that remains is filled with the last block, so that no other program overwrites it.
#[test]
fn gaps_are_closed_so_that_other_programs_can_write_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let target = write(dir.path(), "disk.vdi", &with_gap());
    let old = our_bytes(&target);
    // Nothing is allocated.
    let mut source = old.clone();
    source[MIB as usize..][..4096].fill(0x55);
    convert(&source).run_existing(&target).unwrap();
    assert_eq!(our_bytes(&target), source);
    assert_eq!(findings(&target), [""; 0]);
    assert_eq!(target.metadata().unwrap().len(), with_gap().data_at() as u64 + 2 * MIB);
    assert_eq!(qemu_bytes(&target, "vdi"), source);
}

fn parent() -> Vdi {
    let parent = Vdi::dynamic(8 * BLOCK);
    parent.block(0, 0, 0x10).block(1, 1, 0x11).block(3, 2, 0x13).block(6, 3, 0x16)
}

fn child() -> Vdi {
    let child = Vdi::child(&parent()).block(1, 0, 0xc1).block(2, 1, 0xc2).block(3, 2, 0xc3);
    child.entry(6, ZERO).block(7, 3, 0xc7)
}

/// The disk that is written into the child: block 0 hidden by data, 1 as the parent's again, 2 zeros
/// in place, 3 hidden by zeros, 5 new data, 6 as the parent's, 7 as it was.
fn new_contents(old: &[u8]) -> Vec<u8> {
    let mut source = old.to_vec();
    let mut fill = |block: u64, byte| {
        source[(block * BLOCK) as usize..][..BLOCK as usize].fill(byte);
    };
    fill(1, 0x11);
    fill(2, 0);
    fill(3, 0);
    fill(6, 0x16);
    source[..4096].fill(0x77);
    source[5 * BLOCK as usize + 512..][..4096].fill(0x55);
    source
}

fn convert_into_child(source: &[u8]) -> Convert<'static> {
    convert(source).backing(Backing::new("base.vdi").with_format("vdi"))
}

/// Data and zeros hide what the parent has; what equals the parent becomes free, and its space is
/// used again.
#[test]
fn a_child_keeps_only_what_differs_from_its_parent() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vdi", &parent());
    let target = write(dir.path(), "child.vdi", &child());
    let source = new_contents(&our_bytes(&target));
    convert_into_child(&source).run_existing(&target).unwrap();
    assert!(our_bytes(&target) == source);
    assert_eq!(findings(&target), [""; 0]);
    let image = Image::open(&target).unwrap();
    let depth = |block: u64| {
        let at = block * BLOCK;
        image.extents(at..at + 512).unwrap().next().unwrap().unwrap().depth
    };
    assert_eq!([0, 3, 5, 7].map(depth), [0; 4]);
    assert_eq!([1, 6].map(depth), [1; 2]);
}

/// Without comparing with the parent, zeros are stored as such.
#[test]
fn zeros_hide_the_parents_data() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vdi", &parent());
    let target = write(dir.path(), "child.vdi", &child());
    let source = vec![0; 8 * BLOCK as usize];
    convert(&source).run_existing(&target).unwrap();
    assert!(our_bytes(&target) == source);
    let file = std::fs::read(&target).unwrap();
    assert_eq!(file[512..516], ZERO.to_le_bytes());
}

/// Version 0.2 and blocks with extra bytes.
#[test]
fn every_layout_is_written() {
    let dir = tempfile::tempdir().unwrap();
    for image in [
        Vdi { version: 2, ..Vdi::dynamic(5 * BLOCK) },
        Vdi { block_extra: 512, ..Vdi::dynamic(5 * BLOCK) },
        Vdi { block_bytes: 512, ..Vdi::dynamic(5 * 512) },
        Vdi { data_at: Some(1001), ..Vdi::dynamic(5 * BLOCK) },
        Vdi { allocated: Some(0), ..Vdi::dynamic(5 * BLOCK) },
    ] {
        let image = image.block(1, 1, 0x11).entry(2, ZERO).block(4, 0, 0x14);
        let target = write(dir.path(), "disk.vdi", &image);
        let block = image.block_bytes as usize;
        let mut source = our_bytes(&target);
        source[block - 100..block + 100].fill(0x99);
        source[2 * block..2 * block + 512].fill(0x22);
        convert(&source).run_existing(&target).unwrap();
        assert!(our_bytes(&target) == source);
        assert_eq!(findings(&target), [""; 0]);
        // What VirtualBox keeps in front of a block is left alone, and zero in a new one.
        let file = std::fs::read(&target).unwrap();
        if image.block_extra > 0 {
            let extra = |index: usize| file[image.data_at() + index * (block + 512)];
            assert_eq!([0, 1, 2, 3].map(extra), [0xee, 0xee, 0, 0]);
        }
    }
}

/// A child notices that its parent was written.
#[test]
fn writing_changes_the_uuid_of_the_modification() {
    let dir = tempfile::tempdir().unwrap();
    let base = write(dir.path(), "base.vdi", &parent());
    let target = write(dir.path(), "child.vdi", &child());
    convert(&[0x99; 512]).run_existing(&base).unwrap();
    assert_eq!(error(&target).kind(), ErrorKind::Corrupt);
    let ids = Image::open(&base).unwrap().layers().next().unwrap().content_ids();
    assert_eq!(ids[1], "11111111-1111-1111-1111-111111111111");
    assert!(!ids[0].contains("22222222"), "{ids:?}");
}

/// A crash leaves each block as it was or as it will be, and a disk that can be written again.
#[test]
fn after_a_crash_every_block_of_a_child_is_old_or_new() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vdi", &parent());
    let target = write(dir.path(), "child.vdi", &child());
    let old = our_bytes(&target);
    let source = new_contents(&old);
    let recorded = std::fs::read(&target).unwrap();
    let storage = Arc::new(RecordingStorage::new(recorded, Some(target.clone())));
    let conversion = convert_into_child(&source).threads(1);
    conversion.run_existing_on(Arc::clone(&storage) as _, "target").unwrap();
    let mut number = 0;
    storage.crash_states(9, if full() { 1 } else { 11 }, |state| {
        number += 1;
        std::fs::write(&target, state).unwrap();
        for finding in findings(&target) {
            // More than are allocated.
            let is_counter = finding.contains("but the header counts");
            assert!(is_counter, "state {number}: {finding}");
        }
        let found = our_bytes(&target);
        for (index, found) in found.chunks(512).enumerate() {
            let at = index * 512..(index + 1) * 512;
            let known = found == &old[at.clone()] || found == &source[at];
            assert!(known, "state {number}: sector {index}");
        }
        if number % 20 == 1 {
            convert_into_child(&source).run_existing(&target).unwrap();
            assert!(our_bytes(&target) == source, "state {number}");
            assert_eq!(findings(&target), [""; 0]);
        }
    });
    assert!(number > 20);
}

/// QEMU's order is data, header, map; VirtualBox's data, map and header together. If the counter
/// came last, a crash would let both overwrite blocks that are in use.
#[test]
fn after_a_crash_qemu_does_not_overwrite_new_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("disk.vdi");
    let image = Vdi { block_bytes: MIB as u32, ..Vdi::dynamic(4 * MIB) }.block(3, 0, 0x13);
    let source = [vec![0x10; MIB as usize], vec![0x11; MIB as usize]].concat();
    let storage = Arc::new(RecordingStorage::new(image.build(), Some(target.clone())));
    convert(&source).threads(1).run_existing_on(Arc::clone(&storage) as _, "target").unwrap();
    let (mut number, mut with_new) = (0, 0);
    storage.crash_states(5, 1000, |state| {
        number += 1;
        let is_free = |block: usize| state[512 + 4 * block..][..4] == FREE.to_le_bytes();
        let has_new = !is_free(0) || !is_free(1);
        with_new += usize::from(has_new);
        if !has_new && number % 10 != 0 {
            return;
        }
        std::fs::write(&target, state).unwrap();
        let before = our_bytes(&target);
        let args = ["-f", "vdi", "-c", "write -P 0x22 2M 1M", target.to_str().unwrap()];
        let output = try_run("qemu-io", args);
        assert!(output.status.success());
        let after = our_bytes(&target);
        let (middle, end) = (2 * MIB as usize, 3 * MIB as usize);
        assert!(before[..middle] == after[..middle] && before[end..] == after[end..]);
        assert!(after[middle..end].iter().all(|&byte| byte == 0x22));
    });
    assert!(with_new > 0);
}

#[test]
fn what_cannot_be_written_safely_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let base = || Vdi::dynamic(4 * BLOCK).block(1, 1, 0x11).block(2, 0, 0x12);
    write(dir.path(), "parent.vdi", &Vdi { block_bytes: 16 << 20, ..Vdi::dynamic(16 << 20) });
    let large = Vdi::child(&Vdi { block_bytes: 16 << 20, ..Vdi::dynamic(16 << 20) });
    for (image, message) in [
        (base().entry(3, 1), "refer to the same block"),
        (base().entry(3, 9), "beyond the end of the file"),
        (Vdi { map_at: 510, ..base() }, "not aligned to 4 bytes"),
        (Vdi { entries: Some(9), ..base() }.entry(7, 2), "entries that the disk does not need"),
        (Vdi { entries: Some(300_000), ..base() }, "far more entries than the disk needs"),
        (large, "blocks of 16777216 bytes cannot be written in place"),
    ] {
        let target = write(dir.path(), "disk.vdi", &image);
        let error = convert(&[1; 4096]).run_existing(&target).unwrap_err();
        assert!(error.to_string().contains(message), "{message}: {error}");
        assert!(std::fs::read(&target).unwrap() == image.build());
    }
}

/// The length of a device is fixed.
#[test]
fn a_device_without_room_for_a_block_is_full() {
    let image = Vdi::dynamic(4 * BLOCK).block(1, 0, 0x11);
    let mut bytes = image.build();
    bytes.resize(image.data_at() + 2 * BLOCK as usize, 0);
    let storage = Arc::new(RecordingStorage::device(bytes));
    let source = vec![0x33; BLOCK as usize];
    convert(&source).run_existing_on(Arc::clone(&storage) as _, "device").unwrap();
    let source = vec![0x33; 3 * BLOCK as usize];
    let error = convert(&source).run_existing_on(storage as _, "device").unwrap_err();
    assert!(error.to_string().contains("cannot allocate a block"), "{error}");
}

#[test]
fn the_counter_is_corrected() {
    let dir = tempfile::tempdir().unwrap();
    let image = Vdi { allocated: Some(7), ..Vdi::dynamic(8 * BLOCK) }.block(1, 0, 0x11);
    let target = write_bytes(dir.path(), "disk.vdi", &image.build());
    assert_eq!(findings(&target).len(), 1);
    convert(&[1; 4096]).run_existing(&target).unwrap();
    let file = std::fs::read(&target).unwrap();
    assert_eq!(file[ALLOCATED_AT..ALLOCATED_AT + 4], 2u32.to_le_bytes());
    assert_eq!(findings(&target), [""; 0]);
}
