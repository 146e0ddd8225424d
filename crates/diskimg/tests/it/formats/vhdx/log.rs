//! The log: what is in it and not yet in its place. Every rule of the specification's replay (MS-VHDX
//! 2.3) is broken once. Where QEMU follows other rules, the test says so: the file is then repaired
//! with `qemu-img check -r all`, which replays the log, and read with qemu-img.

use super::{BLOCK, blocks, bytes_with, findings, open_error, our_bytes, write_bytes};
use diskimg::inspection::Code;
use diskimg::{Convert, ErrorKind, Format, Image, InspectOptions, OpenOptions, inspect};
use diskimg_testkit::tool::{qemu_bytes, try_run};
use diskimg_testkit::vhdx::{
    Damage, Descriptor, HEADERS_AT, Log, LogEntry, MIB, PAGE, REGIONS_AT, Vhdx, put, seal,
};
use std::path::Path;

/// A disk of four blocks, all stored.
fn full() -> Vhdx {
    (0..4).fold(Vhdx::dynamic(4 * MIB), |image, i| image.filled(i, i as u8 * 0x11 + 0x10))
}

const FULL: [u8; 4] = [0x10, 0x21, 0x32, 0x43];

/// Returns the first page of a table with only these blocks of [`full`].
fn table(blocks: &[u64]) -> Vec<u8> {
    let (image, mut page) = (full(), vec![0; PAGE]);
    let bat = image.bat();
    for &block in blocks {
        let at = (image.entry_at(block) - image.bat_at()) as usize;
        put(&mut page, at, &bat[at..at + 8]);
    }
    page
}

/// A descriptor that makes the table have only these blocks.
fn set(blocks: &[u64]) -> Descriptor {
    Descriptor::Data { at: full().bat_at(), page: table(blocks) }
}

/// Returns the file without a block in its table, and with this log.
fn logged(log: &Log) -> Vec<u8> {
    with_log(&full(), log)
}

fn with_log(image: &Vhdx, log: &Log) -> Vec<u8> {
    let mut file = image.build();
    let at = image.bat_at() as usize;
    file[at..at + PAGE].fill(0);
    image.put_log(&mut file, log);
    file
}

fn len() -> u64 {
    full().build().len() as u64
}

/// Returns the disk with only these blocks.
fn disk(present: &[usize]) -> Vec<u8> {
    let byte = |i: usize| if present.contains(&i) { FULL[i] } else { 0 };
    blocks(&[byte(0), byte(1), byte(2), byte(3)])
}

/// Returns the guest bytes, and checks that the file was not changed.
fn read(dir: &Path, file: &[u8]) -> Vec<u8> {
    let path = write_bytes(dir, "log.vhdx", file);
    let bytes = our_bytes(&path);
    assert!(std::fs::read(&path).unwrap() == file, "reading wrote into the image");
    bytes
}

/// Returns the guest bytes after `qemu-img check -r all`; `None` if it refuses the file.
fn replayed_by_qemu(dir: &Path, file: &[u8]) -> Option<Vec<u8>> {
    let path = write_bytes(dir, "qemu.vhdx", file);
    // It does not end for some logs.
    let args = ["10", "qemu-img", "check", "-q", "-f", "vhdx", "-r", "all", path.to_str().unwrap()];
    let output = try_run("timeout", args);
    output.status.success().then(|| qemu_bytes(&path, "vhdx"))
}

fn error_of(dir: &Path, file: &[u8]) -> diskimg::Error {
    open_error(&write_bytes(dir, "log.vhdx", file))
}

#[test]
fn changes_in_the_log_are_read_as_if_they_were_in_their_places() {
    let dir = tempfile::tempdir().unwrap();
    let file = logged(&Log::default().entry(len(), vec![set(&[0, 2])]));
    assert_eq!(read(dir.path(), &file), disk(&[0, 2]));
    assert_eq!(replayed_by_qemu(dir.path(), &file).unwrap(), disk(&[0, 2]));
    // qemu-img opens it only for writing.
    let path = write_bytes(dir.path(), "log.vhdx", &file);
    let args = ["convert", "-f", "vhdx", "-O", "raw", path.to_str().unwrap(), "/dev/null"];
    assert!(!try_run("qemu-img", args).status.success());
    let found = findings(&path);
    assert!(found.len() == 1 && found[0].contains("1 entries"), "{found:?}");
    let info = Image::open(&path).unwrap().info(0).unwrap();
    assert!(info.dirty_flag);
    let found = inspect(&path, &InspectOptions::new()).unwrap();
    assert!(found.finding(Code::Dirty).is_some());
    Convert::new(Image::open(&path).unwrap())
        .format(Format::Qcow2)
        .run(dir.path().join("out"))
        .unwrap();
    assert_eq!(our_bytes(&dir.path().join("out")), disk(&[0, 2]));
    assert!(std::fs::read(&path).unwrap() == file);
}

#[test]
fn entries_are_applied_from_the_oldest_to_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::default()
        .entry(len(), vec![set(&[0])])
        .entry(len(), vec![set(&[0, 1])])
        .entry(len(), vec![set(&[1, 3])]);
    let file = logged(&log);
    assert_eq!(read(dir.path(), &file), disk(&[1, 3]));
    assert_eq!(replayed_by_qemu(dir.path(), &file).unwrap(), disk(&[1, 3]));
}

#[test]
fn a_log_without_a_guid_in_the_header_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::default().entry(len(), vec![set(&[0, 2])]);
    let mut file = full().build();
    put(&mut file, full().log_at() as usize, &log.encode(1 << 20));
    assert_eq!(read(dir.path(), &file), blocks(&FULL));
    assert_eq!(replayed_by_qemu(dir.path(), &file).unwrap(), blocks(&FULL));
}

/// Pages of block 3, of which each is written twice: the second time counts. Returns what the disk
/// has then.
fn twice(count: usize) -> (Vec<Descriptor>, Vec<u8>) {
    let at = |i: usize| full().data_at(3) + (i / 2 * PAGE) as u64;
    let page = |i: usize| Descriptor::Data { at: at(i), page: vec![i as u8; PAGE] };
    let mut disk = disk(&[0, 1, 2, 3]);
    for (i, page) in disk[3 * BLOCK..].chunks_mut(PAGE).take(count / 2).enumerate() {
        page.fill((2 * i + 1) as u8);
    }
    ((0..count).map(page).collect(), disk)
}

/// The log is a ring. An entry may be split anywhere. QEMU loses the older entries if the newest one
/// starts after the wrap: it compares sequences by their first entries, and takes that one for a
/// sequence of its own.
#[test]
fn entries_wrap_around_the_end_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (pages, wanted) = twice(120);
    for start in [254, 255, 253, 200, 150] {
        let log = Log { start: start * PAGE, ..Log::default() };
        let log = log.entry(len(), vec![set(&[0, 1, 2, 3])]).entry(len(), pages.clone());
        let file = logged(&log);
        assert!(read(dir.path(), &file) == wanted, "start {start}");
        let is_split = start + 2 < 256;
        let of_qemu = replayed_by_qemu(dir.path(), &file).unwrap();
        assert_eq!(of_qemu == wanted, is_split, "QEMU, start {start}");
    }
}

/// The first sector has room for 126 descriptors, the next ones for 128 each. An entry may be split
/// within its descriptors, too. QEMU refuses a log with more than 126 descriptors in an entry.
#[test]
fn descriptors_may_fill_several_sectors() {
    let dir = tempfile::tempdir().unwrap();
    for count in [126, 128, 200] {
        let (pages, wanted) = twice(count);
        for start in [0, 252, 253] {
            let log = Log { start: start * PAGE, ..Log::default() };
            let log = log.entry(len(), vec![set(&[0, 1, 2, 3])]).entry(len(), pages.clone());
            let file = logged(&log);
            assert!(read(dir.path(), &file) == wanted, "start {start}");
            let of_qemu = replayed_by_qemu(dir.path(), &file);
            assert!(of_qemu == (count == 126).then(|| wanted.clone()), "QEMU, {count}");
        }
    }
}

#[test]
fn ranges_of_zeros_hide_what_is_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let image = full();
    let zero = |block: u64, from: u64, len: u64| Descriptor::Zero {
        at: image.data_at(block) + from * PAGE as u64,
        len: len * PAGE as u64,
    };
    let log = Log::default()
        .entry(len(), vec![set(&[0, 1, 2, 3]), zero(1, 0, 256), zero(2, 3, 5)])
        .entry(
            len(),
            vec![
                Descriptor::Data { at: image.data_at(1) + 8192, page: vec![0xee; PAGE] },
                zero(3, 0, 1),
                zero(3, 1, 0),
            ],
        );
    let file = logged(&log);
    let mut wanted = blocks(&FULL);
    wanted[BLOCK..2 * BLOCK].fill(0);
    wanted[BLOCK + 8192..BLOCK + 12288].fill(0xee);
    wanted[2 * BLOCK + 3 * PAGE..2 * BLOCK + 8 * PAGE].fill(0);
    wanted[3 * BLOCK..3 * BLOCK + PAGE].fill(0);
    assert!(read(dir.path(), &file) == wanted);
    assert!(replayed_by_qemu(dir.path(), &file).unwrap() == wanted);
}

/// Region tables and metadata may be in the log as well: it is applied before they are read.
#[test]
fn region_tables_and_metadata_are_read_from_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let image = full();
    let whole = image.build();
    let page =
        |at: u64| Descriptor::Data { at, page: whole[at as usize..at as usize + PAGE].to_vec() };
    let items = image.metadata_at() + (64 << 10);
    let places = [REGIONS_AT[0], REGIONS_AT[1], image.metadata_at(), items];
    let mut descriptors = vec![set(&[1])];
    descriptors.extend(places.map(page));
    let mut file = logged(&Log::default().entry(len(), descriptors));
    for at in places {
        file[at as usize..at as usize + PAGE].fill(0xdd);
    }
    assert_eq!(read(dir.path(), &file), disk(&[1]));
    assert_eq!(replayed_by_qemu(dir.path(), &file).unwrap(), disk(&[1]));
}

/// An interrupted write: the newest entry is not complete, so it never happened.
#[test]
fn a_torn_newest_entry_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let tears: [fn(&mut Vec<u8>); 5] = [
        |entry| entry[..PAGE].fill(0),
        |entry| entry[PAGE..].fill(0),
        |entry| entry[100] ^= 1,
        |entry| *entry.last_mut().unwrap() ^= 1,
        |entry| entry[PAGE + 2000] ^= 0x80,
    ];
    for tear in tears {
        let log = Log::default()
            .entry(len(), vec![set(&[0])])
            .entry(len(), vec![set(&[0, 1])])
            .entry(len(), vec![set(&[0, 1, 2])])
            .with_last(|entry| entry.tear = Some(tear));
        let file = logged(&log);
        assert_eq!(read(dir.path(), &file), disk(&[0, 1]));
        assert_eq!(replayed_by_qemu(dir.path(), &file).unwrap(), disk(&[0, 1]));
    }
}

/// A torn entry in the middle splits the log. What follows it needs entries before it, which its tail
/// says: it does not count. QEMU does not look at the tail and applies the entries after the tear
/// alone.
#[test]
fn entries_after_a_torn_one_do_not_count_if_they_need_those_before() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::default()
        .entry(len(), vec![set(&[0])])
        .entry(len(), vec![set(&[0, 1])])
        .with_last(|entry| entry.tear = Some(|entry| entry[200] ^= 1))
        .entry(len(), vec![set(&[0, 1, 3])]);
    let file = logged(&log);
    assert_eq!(read(dir.path(), &file), disk(&[0]));
    assert_eq!(replayed_by_qemu(dir.path(), &file).unwrap(), disk(&[0, 1, 3]));
    // The newest entry needs no other: it counts alone.
    let log = log.with_last(|entry| entry.tail_entry = Some(2));
    assert_eq!(read(dir.path(), &logged(&log)), disk(&[0, 1, 3]));
}

/// Entries before the tail are in their places already, and the places may have changed since. QEMU
/// applies them again.
#[test]
fn entries_before_the_tail_are_not_applied() {
    let dir = tempfile::tempdir().unwrap();
    let image = full();
    let old = Descriptor::Data { at: image.data_at(0), page: vec![0xee; PAGE] };
    let log = Log::default()
        .entry(len(), vec![old])
        .entry(len(), vec![set(&[0, 1])])
        .with_last(|entry| entry.tail_entry = Some(1));
    let file = logged(&log);
    assert_eq!(read(dir.path(), &file), disk(&[0, 1]));
    let mut of_qemu = disk(&[0, 1]);
    of_qemu[..PAGE].fill(0xee);
    assert_eq!(replayed_by_qemu(dir.path(), &file).unwrap(), of_qemu);
}

/// Each entry has the number of the one before plus one. QEMU does not compare the second with the
/// first.
#[test]
fn entries_whose_numbers_do_not_follow_each_other_are_different_sequences() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::default()
        .entry(len(), vec![set(&[0])])
        .entry(len(), vec![set(&[0, 1])])
        .with_last(|entry| entry.sequence = Some(5));
    let file = logged(&log);
    assert_eq!(read(dir.path(), &file), disk(&[0]), "the older entry is left from before");
    assert_eq!(replayed_by_qemu(dir.path(), &file).unwrap(), disk(&[0, 1]));
    // A gap: the newer one needs the older one.
    let log = log.with_last(|entry| entry.sequence = Some(23));
    assert_eq!(read(dir.path(), &logged(&log)), disk(&[0]));
}

/// Sequences are compared by the numbers of their last entries. QEMU compares the first ones.
#[test]
fn the_sequence_with_the_newest_entry_counts() {
    let dir = tempfile::tempdir().unwrap();
    // Numbers 21 to 25, then a gap, then 23: left from an earlier lap with another tail.
    let mut log = Log::default();
    for _ in 0..4 {
        log = log.entry(len(), vec![set(&[0])]);
    }
    log = log.entry(len(), vec![set(&[0, 1])]).with_last(|entry| entry.gap_after = 1);
    log = log.entry(len(), vec![set(&[3])]).with_last(|entry| {
        entry.sequence = Some(23);
        entry.tail_entry = Some(5);
    });
    let file = logged(&log);
    assert_eq!(read(dir.path(), &file), disk(&[0, 1]));
    assert_eq!(replayed_by_qemu(dir.path(), &file).unwrap(), disk(&[3]));
}

#[test]
fn numbers_of_64_bits_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    for first in [u64::from(u32::MAX), u64::MAX - 2, 0] {
        let log = Log { first_sequence: first, ..Log::default() }
            .entry(len(), vec![set(&[0])])
            .entry(len(), vec![set(&[0, 2])]);
        assert_eq!(read(dir.path(), &logged(&log)), disk(&[0, 2]), "{first:#x}");
    }
}

/// Each rule for an entry, broken with a right checksum. The entry before counts then. QEMU agrees,
/// applies the entry, or refuses the file.
#[test]
fn an_entry_that_breaks_a_rule_is_not_valid() {
    #[derive(Clone, Copy)]
    enum Qemu {
        Agrees,
        Applies,
        Refuses,
    }
    let (agrees, applies, refuses) = (Qemu::Agrees, Qemu::Applies, Qemu::Refuses);
    let cases: [(&str, Damage, Qemu); 17] = [
        ("signature", |e| e[0] = b'x', agrees),
        ("length not a multiple", |e| e[8] = 1, agrees),
        ("length 0", |e| e[8..12].fill(0), agrees),
        // qemu-img does not end.
        ("length of the log", |e| put(e, 8, &(1_u32 << 20).to_le_bytes()), refuses),
        ("length too long", |e| e[9] = 0x30, agrees),
        ("tail not a multiple", |e| e[12] = 1, applies),
        ("tail not in the log", |e| e[14] = 0x10, applies),
        ("too many descriptors", |e| e[27] = 0xff, agrees),
        // QEMU's issue 3860.
        ("2^27 descriptors", |e| e[27] = 0x08, agrees),
        ("no descriptor", |e| e[24] = 0, agrees),
        ("GUID", |e| e[32] ^= 1, agrees),
        ("descriptor's signature", |e| e[64] = b'x', refuses),
        ("descriptor's number", |e| e[64 + 24] ^= 1, refuses),
        ("unaligned offset", |e| e[64 + 16] = 1, refuses),
        ("data sector's signature", |e| e[PAGE] = b'x', applies),
        ("data sector's number, high", |e| e[PAGE + 4] ^= 1, refuses),
        ("data sector's number, low", |e| e[2 * PAGE - 4] ^= 1, refuses),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (rule, damage, qemu) in cases {
        let log = Log::default()
            .entry(len(), vec![set(&[0])])
            .entry(len(), vec![set(&[0, 1])])
            .with_last(|entry| entry.damage = Some(damage));
        let file = logged(&log);
        assert_eq!(read(dir.path(), &file), disk(&[0]), "{rule}");
        let of_qemu = replayed_by_qemu(dir.path(), &file);
        let wanted = match qemu {
            Qemu::Agrees => Some(disk(&[0])),
            Qemu::Applies => Some(disk(&[0, 1])),
            Qemu::Refuses => None,
        };
        assert!(of_qemu == wanted, "QEMU: {rule}");
        // As the only entry, it leaves the log without a valid one.
        let log =
            Log::default().push(LogEntry { damage: Some(damage), ..entry(vec![set(&[0, 1])]) });
        let failed = error_of(dir.path(), &logged(&log));
        assert_eq!(failed.kind(), ErrorKind::Corrupt, "{rule}");
        assert!(failed.to_string().contains("no valid entry"), "{rule}: {failed}");
    }
}

fn entry(descriptors: Vec<Descriptor>) -> LogEntry {
    let (flushed_file_offset, last_file_offset) = (len(), len());
    LogEntry { descriptors, flushed_file_offset, last_file_offset, ..LogEntry::default() }
}

/// QEMU writes whatever an entry says into the headers, and into the log itself.
#[test]
fn entries_that_change_a_header_or_the_log_are_not_valid() {
    let dir = tempfile::tempdir().unwrap();
    let log_at = full().log_at();
    for at in [0, HEADERS_AT[0], HEADERS_AT[1], log_at, log_at + MIB - PAGE as u64] {
        for descriptor in [
            Descriptor::Data { at, page: vec![0x77; PAGE] },
            Descriptor::Zero { at, len: PAGE as u64 },
        ] {
            let log = Log::default()
                .entry(len(), vec![set(&[0])])
                .entry(len(), vec![set(&[0, 1]), descriptor]);
            assert_eq!(read(dir.path(), &logged(&log)), disk(&[0]), "{at:#x}");
        }
    }
    // A range that reaches into the log, and one that is too long for a file.
    for (at, len_of_range) in [(MIB - 4096, 8192), (64 << 20, u64::MAX - 4095), (MIB / 2, 1 << 40)]
    {
        let range = Descriptor::Zero { at, len: len_of_range };
        let log =
            Log::default().entry(len(), vec![set(&[0])]).entry(len(), vec![set(&[0, 1]), range]);
        assert_eq!(read(dir.path(), &logged(&log)), disk(&[0]), "{at:#x}");
    }
    let length = Descriptor::Zero { at: 64 << 20, len: 100 };
    let log = Log::default().entry(len(), vec![set(&[0])]).entry(len(), vec![set(&[0, 1]), length]);
    assert_eq!(read(dir.path(), &logged(&log)), disk(&[0]));
    let header = Descriptor::Data { at: HEADERS_AT[1], page: vec![0x77; PAGE] };
    let file = logged(&Log::default().entry(len(), vec![set(&[0, 1]), header]));
    assert!(error_of(dir.path(), &file).to_string().contains("changes a header"));
    let path = write_bytes(dir.path(), "qemu.vhdx", &file);
    let args = ["check", "-q", "-f", "vhdx", "-r", "all", path.to_str().unwrap()];
    try_run("qemu-img", args);
    let header = std::fs::read(&path).unwrap();
    let header = &header[HEADERS_AT[1] as usize..HEADERS_AT[1] as usize + PAGE];
    assert!(header.iter().all(|&byte| byte == 0x77) || header.starts_with(b"head"));
}

/// The header refers to a log that has no valid entry: changes are lost, and the metadata may be
/// inconsistent. QEMU opens the file as if the log were empty.
#[test]
fn a_log_with_a_guid_but_without_a_valid_entry_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for filler in [0, 0xff] {
        let file = logged(&Log { filler, ..Log::default() });
        let failed = error_of(dir.path(), &file);
        assert_eq!(failed.kind(), ErrorKind::Corrupt, "{failed}");
        assert!(failed.to_string().contains("no valid entry"), "{failed}");
        assert_eq!(replayed_by_qemu(dir.path(), &file).unwrap(), disk(&[]));
        // A check reports it, and everything else.
        let path = write_bytes(dir.path(), "log.vhdx", &file);
        let found = findings(&path);
        assert!(found.len() == 1 && found[0].contains("no valid entry"), "{found:?}");
        assert!(!inspect(&path, &InspectOptions::new()).unwrap().is_safe());
        // What is in the file can be salvaged.
        let salvaged = bytes_with(&OpenOptions::new().salvage(true), &path);
        assert_eq!(salvaged, disk(&[]));
    }
}

#[test]
fn other_versions_and_lengths_of_a_log_that_is_needed_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::default().entry(len(), vec![set(&[0, 2])]);
    let failed = error_of(dir.path(), &with_log(&Vhdx { log_version: 1, ..full() }, &log));
    assert_eq!(failed.kind(), ErrorKind::Unsupported);
    assert!(failed.to_string().contains("version 1 of the log"), "{failed}");
    let with_header = |log_bytes: u32| {
        let mut file = logged(&log);
        let header = Vhdx { log_bytes, log_guid: log.guid, ..full() }.header(99);
        put(&mut file, HEADERS_AT[0] as usize, &header);
        error_of(dir.path(), &file).to_string()
    };
    assert!(with_header(0).contains("its length is 0, but it has a GUID"));
    assert!(with_header(1 << 30).contains("beyond the end of the file"));
    // A header that breaks the rules of its own is not valid: the other one counts.
    let mut file = logged(&log);
    for log_bytes in [(1 << 30) + (1 << 20), 4096] {
        let header = Vhdx { log_bytes, log_guid: log.guid, ..full() }.header(99);
        put(&mut file, HEADERS_AT[0] as usize, &header);
        assert_eq!(read(dir.path(), &file), disk(&[0, 2]));
    }
}

/// The file was cut off after the entry was written: blocks are missing, whatever the log says.
#[test]
fn a_file_that_is_shorter_than_the_log_says_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::default().entry(len(), vec![set(&[0, 2])]);
    let mut file = logged(&log);
    assert_eq!(read(dir.path(), &file), disk(&[0, 2]));
    file.truncate(file.len() - 1);
    let failed = error_of(dir.path(), &file);
    assert_eq!(failed.kind(), ErrorKind::Corrupt);
    assert!(failed.hint_text().unwrap().contains("truncated"), "{failed}");
    // Only the newest entry tells the length.
    let log = Log::default().entry(len() + MIB, vec![set(&[0])]).entry(len(), vec![set(&[0, 2])]);
    assert_eq!(read(dir.path(), &logged(&log)), disk(&[0, 2]));
}

/// The file is to be as long as the newest entry says, rounded up to 1 MiB. QEMU extends it only if
/// that is not a multiple of 1 MiB, so that the last block is beyond the end of the file.
#[test]
fn the_file_is_extended_to_the_length_that_the_log_says() {
    let dir = tempfile::tempdir().unwrap();
    let (cut, old) = (full().data_at(3), len() - MIB);
    for last in [len(), len() - 4096, len() + 5 * MIB] {
        let log = Log::default().push(LogEntry {
            flushed_file_offset: old,
            last_file_offset: last,
            ..entry(vec![set(&[0, 3])])
        });
        let mut file = logged(&log);
        file.truncate(cut as usize);
        // The block is beyond the end of the file: zeros.
        assert_eq!(read(dir.path(), &file), disk(&[0]), "{last:#x}");
    }
    // A page beyond the end extends the file, too.
    let log = Log::default().push(LogEntry {
        flushed_file_offset: old,
        last_file_offset: 0,
        ..entry(vec![
            set(&[0, 3]),
            Descriptor::Data { at: len() - PAGE as u64, page: vec![9; PAGE] },
        ])
    });
    let mut file = logged(&log);
    file.truncate(cut as usize);
    let mut wanted = disk(&[0]);
    wanted[4 * BLOCK - PAGE..].fill(9);
    assert_eq!(read(dir.path(), &file), wanted);
    // More than a file can have.
    let log =
        Log::default().push(LogEntry { last_file_offset: u64::MAX, ..entry(vec![set(&[0, 3])]) });
    assert_eq!(error_of(dir.path(), &logged(&log)).kind(), ErrorKind::Corrupt);
}

/// A log that claims exabytes costs nothing: what is beyond the end of the file is a hole.
#[test]
fn a_log_that_extends_the_file_to_exabytes_is_read_as_holes() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::default().push(LogEntry {
        last_file_offset: 1 << 62,
        ..entry(vec![set(&[0, 1]), Descriptor::Zero { at: 1 << 50, len: 1 << 61 }])
    });
    assert_eq!(read(dir.path(), &logged(&log)), disk(&[0, 1]));
}

/// Ranges of zeros are all that can be many: they are 32 bytes each.
#[test]
fn a_log_that_changes_too_many_ranges_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = Vhdx { log_bytes: 64 << 20, ..full() };
    let base = image.build().len() as u64;
    let ranges = |count: u64, step: u64| -> Vec<_> {
        let range = |i: u64| Descriptor::Zero { at: base + i * step, len: PAGE as u64 };
        (0..count).map(range).collect()
    };
    let log = |descriptors| {
        let table = Descriptor::Data { at: image.bat_at(), page: vec![0; PAGE] };
        Log::default().push(LogEntry {
            descriptors: [vec![table], descriptors].concat(),
            ..LogEntry::default()
        })
    };
    let many = 1 << 20;
    let failed = error_of(dir.path(), &with_log(&image, &log(ranges(many, 8192))));
    assert_eq!(failed.kind(), ErrorKind::Limit, "{failed}");
    assert!(failed.to_string().contains("more than 1048576 ranges"), "{failed}");
    // Ranges that are next to each other are one.
    let path = write_bytes(dir.path(), "log.vhdx", &with_log(&image, &log(ranges(many, 4096))));
    assert_eq!(Image::open(&path).unwrap().size(), 4 * MIB);
}

/// A log full of the beginnings of entries: each is read to the next one only.
#[test]
fn a_log_of_beginnings_is_searched_in_linear_time() {
    let dir = tempfile::tempdir().unwrap();
    let image = Vhdx { log_bytes: 16 << 20, ..full() };
    let mut file = with_log(&image, &Log::default());
    for sector in 0..(16 << 20) / PAGE {
        let at = image.log_at() as usize + sector * PAGE;
        let header = &mut file[at..at + PAGE];
        put(header, 0, b"loge");
        put(header, 8, &((16_u32 << 20) - 4096).to_le_bytes());
        put(header, 16, &7_u64.to_le_bytes());
        put(header, 24, &1_u32.to_le_bytes());
        put(header, 32, &Log::default().guid);
        seal(header);
    }
    let failed = error_of(dir.path(), &file);
    assert!(failed.to_string().contains("no valid entry"), "{failed}");
}

/// Entries that each follow the other in a ring would have no first one; their numbers forbid it.
#[test]
fn a_log_that_is_one_ring_of_entries_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::default();
    for i in 0..128 {
        log = log.entry(len(), vec![set(&[i % 4])]);
    }
    assert_eq!(read(dir.path(), &logged(&log)), disk(&[3]));
}
