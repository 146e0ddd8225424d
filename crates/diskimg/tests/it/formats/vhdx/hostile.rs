//! Images that were made to do harm: claims of exabytes, tables that overlap, places outside.

use super::{BLOCK, blocks, error, findings, open_error, our_bytes, write, write_bytes};
use diskimg::{Convert, ErrorKind, Format, Image, InspectOptions, inspect};
use diskimg_testkit::vhdx::{
    Block, Descriptor, HEADERS_AT, Log, MIB, PRESENT, REGIONS_AT, TABLE_BYTES, Vhdx, put, seal,
};

fn sample() -> Vhdx {
    Vhdx::dynamic(8 * MIB).filled(1, 0x11).filled(6, 0x66)
}

/// Returns the file with a region table that `change` changed.
fn with_regions(image: &Vhdx, change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut file = image.build();
    for at in REGIONS_AT {
        let table = &mut file[at as usize..at as usize + TABLE_BYTES];
        change(table);
        seal(table);
    }
    file
}

/// Returns the file with a metadata table that `change` changed.
fn with_metadata(image: &Vhdx, change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut file = image.build();
    let at = image.metadata_at() as usize;
    change(&mut file[at..at + MIB as usize]);
    file
}

/// A block in the place of another, of the tables, or beyond the end of the file, is lost alone.
#[test]
fn blocks_in_the_wrong_place_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let image = sample();
    let end = image.build().len() as u64 / MIB;
    for (megabyte, message) in [
        (0, "overlaps metadata at 0x0"),
        (image.log_at() / MIB, "overlaps metadata"),
        (image.metadata_at() / MIB, "overlaps metadata"),
        (image.bat_at() / MIB, "overlaps metadata"),
        (image.data_at(6) / MIB, "overlaps another block"),
        (end, "beyond the end of the file"),
        ((1 << 44) - 1, "beyond the end of the file"),
    ] {
        let mut image = image.clone();
        let block = Block { state: PRESENT, data: None, megabyte: Some(megabyte) };
        image.blocks.insert(3, block);
        let path = write(dir.path(), "disk.vhdx", &image);
        let opened = Image::open(&path).unwrap();
        let failed = opened.read_at(&mut [0; 4096], 3 * MIB).unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::Corrupt);
        assert!(failed.to_string().contains(message), "{megabyte:#x}: {failed}");
        assert_eq!(failed.lost(), Some(3 * MIB..4 * MIB));
        let mut byte = [0];
        opened.read_at(&mut byte, MIB).unwrap();
        assert_eq!(byte, [0x11], "other blocks are read");
        assert!(!findings(&path).is_empty());
        assert!(!inspect(&path, &InspectOptions::new()).unwrap().is_safe());
    }
}

/// One MiB of the file would be terabytes of the disk.
#[test]
fn blocks_that_share_their_place_are_refused_all() {
    let dir = tempfile::tempdir().unwrap();
    let mut image = Vhdx::dynamic(1 << 40).filled(0, 0x55);
    let place = image.data_at(0) / MIB;
    for index in 1..100_000 {
        let block = Block { state: PRESENT, data: None, megabyte: Some(place) };
        image.blocks.insert(index * 10, block);
    }
    let path = dir.path().join("disk.vhdx");
    image.write(&path);
    let opened = Image::open(&path).unwrap();
    for at in [0, 10 * MIB, 999_990 * MIB] {
        let failed = opened.read_at(&mut [0; 512], at).unwrap_err();
        assert!(failed.to_string().contains("overlaps another block"), "{failed}");
    }
    let failed = Convert::new(opened).format(Format::Raw).run(dir.path().join("out")).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Corrupt);
}

/// The log extends the file, in memory, so that a file of some MiB has blocks all over 2^60 bytes.
/// Each of them is an error, which is found once.
#[test]
fn blocks_all_over_a_file_that_its_log_extends_are_refused() {
    const BLOCKS: u64 = 30_000;
    let dir = tempfile::tempdir().unwrap();
    let mut image = Vhdx::dynamic(BLOCKS * MIB);
    let empty = image.build();
    for index in 0..BLOCKS {
        let block = Block { state: PRESENT, data: None, megabyte: Some((index + 1) << 15) };
        image.blocks.insert(index, block);
    }
    let mut file = empty;
    put(&mut file, image.bat_at() as usize, &image.bat());
    let len = file.len() as u64;
    let zeros = Descriptor::Zero { at: 1 << 40, len: 1 << 60 };
    image.put_log(&mut file, &Log::default().entry(len, vec![zeros]));
    let path = write_bytes(dir.path(), "disk.vhdx", &file);
    let failed = Image::open(&path).unwrap().read_at(&mut [0; 512], 0).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Limit, "{failed}");
    let started = std::time::Instant::now();
    assert!(!inspect(&path, &InspectOptions::new()).unwrap().is_safe());
    // Seconds for each thousand blocks if each reads the table again.
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

/// Blocks of 2 MiB that overlap by one.
#[test]
fn blocks_that_overlap_in_part_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = Vhdx { block_bytes: 2 << 20, ..Vhdx::dynamic(8 * MIB) };
    let mut image = image.filled(0, 1).filled(1, 2).filled(3, 4);
    let block = Block { state: PRESENT, data: None, megabyte: Some(image.data_at(0) / MIB + 1) };
    image.blocks.insert(2, block);
    let path = write(dir.path(), "disk.vhdx", &image);
    let opened = Image::open(&path).unwrap();
    for index in 0..3 {
        let failed = opened.read_at(&mut [0; 512], index * 2 * MIB).unwrap_err();
        assert!(failed.to_string().contains("overlaps another block"), "{failed}");
    }
    opened.read_at(&mut [0; 512], 6 * MIB).unwrap();
}

/// The largest disk, with the largest table: 512 MiB, in a hole of the file.
#[test]
fn the_largest_disk_costs_what_it_stores() {
    let dir = tempfile::tempdir().unwrap();
    let size = 64_u64 << 40;
    let image = Vhdx::dynamic(size);
    let ratio = image.chunk_ratio();
    let at = |block: u64| block + block / ratio;
    let (bat_at, last) = (image.bat_at(), image.block_count() - 1);
    let bat_len = (at(last) * 8 + 8).next_multiple_of(MIB);
    let mut small = Vhdx { bat_bytes: Some(bat_len as u32), size: MIB, ..image.clone() };
    small = small.filled(0, 0x77);
    // Only the metadata has the size, so that the builder makes no table of 512 MiB.
    let path = dir.path().join("disk.vhdx");
    small.write(&path);
    let patch = |at: u64, bytes: &[u8]| {
        use std::io::{Seek, SeekFrom, Write};
        let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(bytes).unwrap();
    };
    patch(image.metadata_at(), &Vhdx { bat_bytes: Some(bat_len as u32), ..image }.metadata());
    let place = small.data_at(0);
    patch(bat_at + 8 * at(last), &(place | 6).to_le_bytes());
    patch(bat_at, &0_u64.to_le_bytes());
    let opened = Image::open(&path).unwrap();
    assert_eq!(opened.size(), size);
    let mut extents = Vec::new();
    for extent in opened.extents(0..size).unwrap() {
        extents.push(extent.unwrap());
    }
    assert_eq!(extents.len(), 2, "{extents:?}");
    assert_eq!(extents[1].guest, last * MIB..size);
    assert_eq!(findings(&path), [""; 0]);
    let out = dir.path().join("out.qcow2");
    Convert::new(opened).format(Format::Qcow2).run(&out).unwrap();
    let copy = Image::open(&out).unwrap();
    let mut end = vec![0; 4096];
    copy.read_at(&mut end, size - 4096).unwrap();
    assert!(end.iter().all(|&byte| byte == 0x77));
}

/// QEMU's issues 4033, 4390, 4470 and 4487: the number of blocks in 32 bits.
#[test]
fn a_disk_of_2_to_the_32_blocks_with_a_small_table_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let size = ((1_u64 << 32) + 25) * MIB;
    let image = sample();
    let mut file = image.build();
    put(&mut file, image.metadata_at() as usize, &Vhdx { size, ..image.clone() }.metadata());
    let failed = open_error(&write_bytes(dir.path(), "disk.vhdx", &file));
    assert!(failed.to_string().contains("at most 64 TiB"), "{failed}");
    let size = 64 << 40;
    put(&mut file, image.metadata_at() as usize, &Vhdx { size, ..image.clone() }.metadata());
    let failed = open_error(&write_bytes(dir.path(), "disk.vhdx", &file));
    assert_eq!(failed.kind(), ErrorKind::Corrupt);
    assert!(failed.to_string().contains("needs 537001976"), "{failed}");
}

#[test]
fn regions_that_overlap_or_are_misplaced_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = sample();
    // The first entry is the table's, the second the metadata's.
    let place = |entry: usize, at: u64, len: u32| {
        with_regions(&image, |table| {
            put(table, 16 + 32 * entry + 16, &at.to_le_bytes());
            put(table, 16 + 32 * entry + 24, &len.to_le_bytes());
        })
    };
    for (file, message) in [
        (place(0, image.metadata_at(), MIB as u32), "overlap"),
        (place(0, image.log_at(), MIB as u32), "overlaps the log"),
        (place(1, image.log_at(), MIB as u32), "overlaps the log"),
        (place(0, 0, MIB as u32), "expected multiples of 1 MiB"),
        (place(0, image.bat_at() + 4096, MIB as u32), "expected multiples of 1 MiB"),
        (place(0, image.bat_at(), 4096), "expected multiples of 1 MiB"),
        (place(0, image.bat_at(), 0), "expected multiples of 1 MiB"),
        (place(0, u64::MAX - (MIB - 1), MIB as u32), "expected multiples of 1 MiB"),
        (place(0, 1 << 60, MIB as u32), "beyond the end of the file"),
        (place(0, image.bat_at(), 514 << 20), "at most"),
        (place(1, 100 * MIB, 129 << 20), "at most"),
        (with_regions(&image, |table| put(table, 8, &2048_u32.to_le_bytes())), "2048 entries"),
        (with_regions(&image, |table| put(table, 8, &u32::MAX.to_le_bytes())), "entries; at most"),
        (with_regions(&image, |table| put(table, 8, &1_u32.to_le_bytes())), "expected one region"),
        (with_regions(&image, |table| put(table, 8, &0_u32.to_le_bytes())), "expected one region"),
        (with_regions(&image, |table| put(table, 16 + 28, &3_u32.to_le_bytes())), "flags 0x3"),
    ] {
        let failed = open_error(&write_bytes(dir.path(), "disk.vhdx", &file));
        assert_eq!(failed.kind(), ErrorKind::Corrupt, "{failed}");
        assert!(failed.to_string().contains(message), "{message}: {failed}");
    }
}

#[test]
fn metadata_tables_with_wrong_entries_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = sample();
    // Entry 1 is the size of the disk: 8 bytes.
    let number = |at: usize, value: u32| {
        with_metadata(&image, |table| put(table, 32 + 32 + at, &value.to_le_bytes()))
    };
    for (file, message) in [
        (with_metadata(&image, |table| table[0] = 0), "expected \"metadata\""),
        (with_metadata(&image, |table| put(table, 10, &2048_u16.to_le_bytes())), "2048 entries"),
        (with_metadata(&image, |table| put(table, 10, &u16::MAX.to_le_bytes())), "at most 2047"),
        (with_metadata(&image, |table| put(table, 10, &0_u16.to_le_bytes())), "it has no"),
        (number(16, 4096), "not in the region"),
        (number(16, MIB as u32 - 4), "not in the region"),
        (number(16, u32::MAX), "not in the region"),
        (number(20, u32::MAX), "or too long"),
        (number(20, 16), "overlaps another"),
        (number(16, 64 << 10), "overlaps another"),
        (number(20, 4), "of 4 bytes; expected 8"),
        (number(20, 0), "of 0 bytes; expected 8"),
        (number(24, 8), "flags 0x8"),
        (number(24, 7), "requires the unknown item"),
        (with_metadata(&image, |table| table.copy_within(32..48, 64)), "two items CAA16737"),
    ] {
        let failed = open_error(&write_bytes(dir.path(), "disk.vhdx", &file));
        assert!(
            matches!(failed.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported),
            "{message}: {failed}"
        );
        assert!(failed.to_string().contains(message), "{message}: {failed}");
    }
}

/// A file that ends anywhere is an error, never a panic; what is left of the blocks is read.
#[test]
fn truncated_files_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let file = sample().build();
    let tables_end = (sample().bat_at() + MIB) as usize;
    for len in [8, 12, 520, 65_536, 69_000, 131_072, 200_000, 300_000, MIB as usize, tables_end - 1]
    {
        let path = write_bytes(dir.path(), "disk.vhdx", &file[..len]);
        let failed = open_error(&path);
        assert!(matches!(failed.kind(), ErrorKind::Corrupt | ErrorKind::Io), "{len}: {failed}");
        let _ = inspect(&path, &InspectOptions::new()).unwrap();
    }
    let path = write_bytes(dir.path(), "disk.vhdx", &file[..tables_end]);
    let failed = error(&path);
    assert_eq!((failed.kind(), failed.lost()), (ErrorKind::Corrupt, Some(MIB..2 * MIB)));
}

/// Two headers that are valid, but refer to logs in impossible places.
#[test]
fn headers_with_an_impossible_log_are_not_valid() {
    let dir = tempfile::tempdir().unwrap();
    for (at, len) in [(0_u64, 1 << 20), (4096, 1 << 20), (!0xf_ffff, 1 << 20), (1 << 20, 5)] {
        let mut file = sample().build();
        for place in HEADERS_AT {
            let header = &mut file[place as usize..place as usize + 4096];
            put(header, 68, &(len as u32).to_le_bytes());
            put(header, 72, &at.to_le_bytes());
            seal(header);
        }
        let failed = open_error(&write_bytes(dir.path(), "disk.vhdx", &file));
        assert_eq!(failed.kind(), ErrorKind::Corrupt, "{failed}");
    }
}

/// A log that overlaps the blocks, although it is empty.
#[test]
fn a_block_in_an_empty_log_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let image = Vhdx { log_bytes: 4 << 20, ..sample() };
    let mut file = image.build();
    let entry = (image.log_at() + 2 * MIB) | u64::from(PRESENT);
    put(&mut file, image.entry_at(2) as usize, &entry.to_le_bytes());
    let path = write_bytes(dir.path(), "disk.vhdx", &file);
    assert!(error(&path).to_string().contains("overlaps metadata at 0x100000"));
}

/// Nothing of 256 MiB is allocated for a block of that size.
#[test]
fn large_blocks_are_mapped_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let image = Vhdx { block_bytes: 256 << 20, ..Vhdx::dynamic(1 << 40) };
    let image = image.data(5, vec![5; 100]).data(4095, vec![9; 100]);
    let path = dir.path().join("disk.vhdx");
    image.write(&path);
    let opened = crate::verified::open(&diskimg::OpenOptions::new(), &path);
    let extents: Vec<_> = opened.extents(0..1 << 40).unwrap().map(|e| e.unwrap().guest).collect();
    assert_eq!(extents.len(), 4, "{extents:?}");
    let mut bytes = [0; 101];
    opened.read_at(&mut bytes, 5 * (256 << 20)).unwrap();
    assert_eq!(bytes[99..], [5, 0]);
}

#[test]
fn a_whole_disk_is_not_affected_by_these_builders() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_bytes(dir.path(), "disk.vhdx", &with_regions(&sample(), |_| {}));
    assert_eq!(our_bytes(&path), blocks(&[0, 0x11, 0, 0, 0, 0, 0x66, 0]));
    assert_eq!(our_bytes(&path).len(), 8 * BLOCK);
}
