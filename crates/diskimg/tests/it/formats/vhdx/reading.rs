//! Disks without a parent and without a log.

use super::{BLOCK, blocks, bytes_with, error, findings, open_error, our_bytes, warnings};
use super::{write, write_bytes};
use diskimg::extent::Kind;
use diskimg::inspection::Code;
use diskimg::{ErrorKind, Format, Image, InspectOptions, OpenOptions, inspect};
use diskimg_testkit::disk::{Disk, Fill, Run, noise};
use diskimg_testkit::oracles::{Oracle, Verdict};
use diskimg_testkit::tool::{qemu_bytes, run};
use diskimg_testkit::vhdx::{
    self, HEADERS_AT, Item, MIB, PARTIAL, PRESENT, REGIONS_AT, UNDEFINED, UNMAPPED, Vhdx, ZERO,
    put, seal,
};
use std::path::Path;

/// A disk of eight blocks, of which two are stored.
fn sample() -> Vhdx {
    Vhdx::dynamic(8 * MIB).filled(1, 0x11).filled(6, 0x66)
}

fn sample_bytes() -> Vec<u8> {
    blocks(&[0, 0x11, 0, 0, 0, 0, 0x66, 0])
}

/// The same for the other readers.
fn sample_disk() -> Disk {
    disk(&[(1, 0x11), (6, 0x66)], 8)
}

fn disk(blocks: &[(u64, u8)], count: u64) -> Disk {
    let run =
        |&(block, byte): &(u64, u8)| Run { at: block * MIB, len: MIB, fill: Fill::Byte(byte) };
    Disk { size: count * MIB, runs: blocks.iter().map(run).collect() }
}

fn is_same(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Same | Verdict::NotInstalled)
}

#[test]
fn a_disk_reads_as_in_other_programs() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "disk.vhdx", &sample());
    assert_eq!(our_bytes(&path), sample_bytes());
    for oracle in Oracle::ALL {
        let verdict = oracle.compare("vhdx", &path, &sample_disk());
        assert!(is_same(&verdict), "{}: {verdict}", oracle.name());
    }
    assert_eq!(findings(&path), [""; 0]);
    assert_eq!(warnings(&path), "");
    assert_eq!(Image::open(&path).unwrap().format(), Format::Vhdx);
}

/// Block sizes, kinds and odd sizes that qemu-img writes.
#[test]
fn disks_of_qemu_img_read_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let noisy = |at: u64, len: u64| Run { at, len, fill: Fill::Noise(at) };
    for (number, (size, options)) in [
        (512, ""),
        (3 * MIB + 512, "block_size=1M"),
        (3 * MIB + 512, "block_size=1M,subformat=fixed"),
        (5 * MIB, "block_size=8M,subformat=fixed"),
        (5 * MIB, "block_size=8M,block_state_zero=off"),
        (20 * MIB, "block_size=256M"),
        (100 * MIB + 1536, "block_size=2M,log_size=4M"),
        // More than one chunk: bitmap entries are between the blocks.
        (9 * 1024 * MIB, "block_size=1M"),
        (5 * 1024 * MIB, "block_size=4M,block_state_zero=off"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut runs = vec![noisy(0, 512), noisy(size / 3, 70_000), noisy(size - 512, 512)];
        runs.extend([noisy(4096 * MIB - 1000, 5000), noisy(8192 * MIB + 7, 3 * MIB)]);
        let disk = Disk { size, runs };
        disk.write(&dir.path().join("disk"));
        let image = path(&format!("{number}.vhdx"));
        let mut args = vec!["convert", "-f", "raw", "-O", "vhdx"];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        let raw = path("disk");
        run("qemu-img", [args, vec![&raw, &image]].concat());
        let opened = crate::verified::open(&OpenOptions::new(), &image);
        assert_eq!(opened.size(), size, "{options}");
        let mut buf = vec![0; 1 << 20];
        let mut wanted = buf.clone();
        for at in [0, size / 3, 4096 * MIB - 65536, 8192 * MIB, 8194 * MIB, size] {
            let start = at.min(size - size.min(1 << 20));
            let len = (size - start).min(1 << 20) as usize;
            opened.read_at(&mut buf[..len], start).unwrap();
            disk.read_at(&mut wanted[..len], start);
            assert!(buf[..len] == wanted[..len], "{options} at {start}");
        }
        if size < 1 << 30 {
            assert!(our_bytes(Path::new(&image)) == disk.bytes(), "{options}");
        }
        assert_eq!(findings(Path::new(&image)), [""; 0], "{options}");
        std::fs::remove_file(image).unwrap();
    }
}

/// MS-VHDX 2.5.1.1: without a parent, every state but "fully present" reads as zeros. Entries of
/// "undefined" and "unmapped" may have the offset that the block had: it is not read.
#[test]
fn blocks_that_are_not_present_are_zeros_whatever_their_entry_has() {
    let dir = tempfile::tempdir().unwrap();
    let mut image = sample().state(2, UNDEFINED).state(3, ZERO).state(4, UNMAPPED);
    let place = image.data_at(6) / MIB;
    for index in [2, 4] {
        image.blocks.get_mut(&index).unwrap().megabyte = Some(place);
    }
    let path = write(dir.path(), "states.vhdx", &image);
    assert_eq!(our_bytes(&path), sample_bytes());
    for oracle in [Oracle::QemuImg, Oracle::SevenZip] {
        let verdict = oracle.compare("vhdx", &path, &sample_disk());
        assert!(is_same(&verdict), "{}: {verdict}", oracle.name());
    }
    assert_eq!(findings(&path), [""; 0]);
    let kinds: Vec<_> = Image::open(&path)
        .unwrap()
        .extents(0..8 * MIB)
        .unwrap()
        .map(|extent| extent.unwrap())
        .map(|extent| (extent.guest.start / MIB, extent.kind))
        .collect();
    assert!(
        matches!(
            kinds[..],
            [
                (0, Kind::Unallocated),
                (1, Kind::Data(_)),
                (2, Kind::Zero(None)),
                (5, Kind::Unallocated),
                (6, Kind::Data(_)),
                (7, Kind::Unallocated)
            ]
        ),
        "{kinds:?}"
    );
    // Hyper-V refuses such entries; they are not read here.
    let mut image = sample().state(3, ZERO);
    image.blocks.get_mut(&3).unwrap().megabyte = Some(place);
    let path = write(dir.path(), "stale.vhdx", &image);
    assert_eq!(our_bytes(&path), sample_bytes());
    let found = findings(&path);
    assert!(found.len() == 1 && found[0].contains("that of block 3"), "{found:?}");
}

/// A block that is "partially present" has all its sectors if there is no parent: programs that
/// merge a child into its parent leave the state.
#[test]
fn a_partial_block_without_a_parent_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let mut image = sample();
    image.blocks.get_mut(&1).unwrap().state = PARTIAL;
    let path = write(dir.path(), "partial.vhdx", &image);
    assert_eq!(our_bytes(&path), sample_bytes());
    assert_eq!(findings(&path), [""; 0]);
}

#[test]
fn undefined_states_and_reserved_bits_are_errors_that_name_the_block() {
    let dir = tempfile::tempdir().unwrap();
    let image = sample();
    for (raw, lost) in [(4_u64, 3), (5, 3), (8, 3), (6 | 1 << 19, 3)] {
        let mut file = image.build();
        put(&mut file, image.entry_at(lost) as usize, &raw.to_le_bytes());
        let path = write_bytes(dir.path(), "entry.vhdx", &file);
        let failed = error(&path);
        assert_eq!(failed.kind(), ErrorKind::Corrupt);
        assert_eq!(failed.lost(), Some(lost * MIB..(lost + 1) * MIB), "{failed}");
        assert_eq!(failed.offset(), Some(image.entry_at(lost)));
        assert!(failed.to_string().contains("block 3"), "{failed}");
        assert_eq!(findings(&path).len(), 1);
    }
}

/// qemu-img refuses a logical sector size of 4096; libvhdi, 7-Zip and dissect read it.
#[test]
fn disks_with_sectors_of_4096_bytes_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let image = Vhdx { sector: 4096, ..sample() };
    let path = write(dir.path(), "4k.vhdx", &image);
    assert_eq!(our_bytes(&path), sample_bytes());
    for oracle in [Oracle::SevenZip, Oracle::Dissect, Oracle::Libyal] {
        let verdict = oracle.compare("vhdx", &path, &sample_disk());
        assert!(is_same(&verdict), "{}: {verdict}", oracle.name());
    }
    let verdict = Oracle::QemuImg.compare("vhdx", &path, &sample_disk());
    assert!(matches!(verdict, Verdict::Refuses(_)), "{verdict}");
    // A chunk has eight times the blocks: the entry after 4096 blocks is that of a block.
    let size = 40 << 30;
    let image = Vhdx { sector: 4096, size, ..sample() };
    let image = image.filled(4096, 0x40).filled(32767, 0x7f).filled(32768, 0x80);
    let path = dir.path().join("large.vhdx");
    image.write(&path);
    let opened = crate::verified::open(&OpenOptions::new(), &path);
    let mut byte = [0];
    for (block, wanted) in [(1, 0x11), (4095, 0), (4096, 0x40), (32767, 0x7f), (32768, 0x80)] {
        opened.read_at(&mut byte, block * MIB + 5).unwrap();
        assert_eq!(byte, [wanted], "{block}");
    }
    assert_eq!(findings(&path), [""; 0]);
}

#[test]
fn the_header_with_the_higher_sequence_number_counts() {
    let dir = tempfile::tempdir().unwrap();
    let image = sample();
    let guid =
        |path: &Path| Image::open(path).unwrap().layers().next().unwrap().content_ids()[0].clone();
    let other = Vhdx { data_write_guid: [0xaa; 16], ..image.clone() };
    for (sequences, is_other) in [([7, 8], true), ([8, 7], false), ([u64::MAX, 0], false)] {
        let mut file = image.build();
        put(&mut file, HEADERS_AT[0] as usize, &image.header(sequences[0]));
        put(&mut file, HEADERS_AT[1] as usize, &other.header(sequences[1]));
        let path = write_bytes(dir.path(), "headers.vhdx", &file);
        assert_eq!(guid(&path).starts_with("AAAA"), is_other, "{sequences:?}");
        assert_eq!(our_bytes(&path), sample_bytes());
    }
}

/// disk2vhd writes two identical headers. The specification calls the file corrupt then; every
/// reader accepts it, as nothing is ambiguous.
#[test]
fn equal_sequence_numbers_are_accepted_if_the_headers_are_identical() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "same.vhdx", &Vhdx { sequences: [9, 9], ..sample() });
    assert_eq!(our_bytes(&path), sample_bytes());
    assert_eq!(qemu_bytes(&path, "vhdx"), sample_bytes());
    assert_eq!(findings(&path), [""; 0]);
    let other = Vhdx { data_write_guid: [0xaa; 16], ..sample() };
    let mut file = sample().build();
    put(&mut file, HEADERS_AT[0] as usize, &sample().header(9));
    put(&mut file, HEADERS_AT[1] as usize, &other.header(9));
    let failed = open_error(&write_bytes(dir.path(), "differ.vhdx", &file));
    assert_eq!(failed.kind(), ErrorKind::Corrupt);
    assert!(failed.to_string().contains("both have the sequence number 9"), "{failed}");
}

#[test]
fn one_valid_header_suffices() {
    let dir = tempfile::tempdir().unwrap();
    for damaged in 0..2 {
        let mut file = sample().build();
        file[HEADERS_AT[damaged] as usize + 100] ^= 1;
        let path = write_bytes(dir.path(), "disk.vhdx", &file);
        assert_eq!(our_bytes(&path), sample_bytes());
        assert_eq!(qemu_bytes(&path, "vhdx"), sample_bytes());
        assert!(warnings(&path).contains("one of the two headers is damaged"), "{damaged}");
        let found = findings(&path);
        assert!(found.len() == 1 && found[0].contains("checksum"), "{found:?}");
        assert!(!inspect(&path, &InspectOptions::new()).unwrap().is_safe());
    }
    let mut file = sample().build();
    HEADERS_AT.iter().for_each(|&at| file[at as usize + 100] ^= 1);
    let failed = open_error(&write_bytes(dir.path(), "disk.vhdx", &file));
    assert_eq!((failed.kind(), failed.offset()), (ErrorKind::Corrupt, Some(HEADERS_AT[0] + 4)));
}

/// The copy of the region table is there for this; QEMU reads only the first and refuses the file.
#[test]
fn the_second_region_table_is_read_if_the_first_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    for damaged in 0..2 {
        let mut file = sample().build();
        file[REGIONS_AT[damaged] as usize + 200] ^= 1;
        let path = write_bytes(dir.path(), "disk.vhdx", &file);
        assert_eq!(our_bytes(&path), sample_bytes());
        assert!(warnings(&path).contains("region table"), "{damaged}");
        let verdict = Oracle::QemuImg.compare("vhdx", &path, &sample_disk());
        assert_eq!(matches!(verdict, Verdict::Refuses(_)), damaged == 0, "{verdict}");
    }
    let mut file = sample().build();
    REGIONS_AT.iter().for_each(|&at| file[at as usize + 200] ^= 1);
    let failed = open_error(&write_bytes(dir.path(), "disk.vhdx", &file));
    assert_eq!((failed.kind(), failed.offset()), (ErrorKind::Corrupt, Some(REGIONS_AT[0] + 4)));
}

#[test]
fn unknown_regions_and_items_are_refused_only_if_they_are_required() {
    let dir = tempfile::tempdir().unwrap();
    let item = |flags| Item { guid: [0x77; 16], flags, bytes: vec![7; 20] };
    for (region, metadata, is_refused) in [
        (Some(0), None, false),
        (Some(1), None, true),
        (None, Some(0), false),
        (None, Some(1), false),
        (None, Some(2), false),
        (None, Some(4), true),
        (None, Some(7), true),
    ] {
        let image = Vhdx {
            more_regions: region.map(item).into_iter().collect(),
            more_items: metadata.map(item).into_iter().collect(),
            ..sample()
        };
        let path = write(dir.path(), "disk.vhdx", &image);
        if is_refused {
            let failed = open_error(&path);
            assert_eq!(failed.kind(), ErrorKind::Unsupported, "{failed}");
            assert!(failed.to_string().contains("77777777-7777-7777-7777"), "{failed}");
        } else {
            assert_eq!(our_bytes(&path), sample_bytes());
        }
    }
}

/// Windows marks a file whose creation has not finished.
#[test]
fn a_file_that_is_not_complete_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let guid = vhdx::guid("71CC85F0-1B69-4E28-9558-C3BF83AE75D3");
    for flags in [0, 4] {
        let more_items = vec![Item { guid, flags, bytes: vec![1; 8] }];
        let path = write(dir.path(), "disk.vhdx", &Vhdx { more_items, ..sample() });
        let failed = open_error(&path);
        assert_eq!(failed.kind(), ErrorKind::Unsupported);
        assert!(failed.to_string().contains("not complete"), "{failed}");
        assert!(!inspect(&path, &InspectOptions::new()).unwrap().is_safe());
    }
}

#[test]
fn versions_of_the_format_other_than_1_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "disk.vhdx", &Vhdx { version: 2, ..sample() });
    let failed = open_error(&path);
    assert_eq!(failed.kind(), ErrorKind::Unsupported, "{failed}");
    // The version of a log that is empty does not matter.
    let path = write(dir.path(), "disk.vhdx", &Vhdx { log_version: 2, ..sample() });
    assert_eq!(our_bytes(&path), sample_bytes());
}

/// Each rule of the metadata, broken one at a time. QEMU accepts the larger disks.
#[test]
fn metadata_out_of_range_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (image, message) in [
        (Vhdx { block_bytes: 0, ..metadata_only() }, "blocks of 0 bytes"),
        (Vhdx { block_bytes: 512 << 10, ..metadata_only() }, "blocks of 524288 bytes"),
        (Vhdx { block_bytes: 3 << 20, ..metadata_only() }, "blocks of 3145728 bytes"),
        (Vhdx { block_bytes: 512 << 20, ..metadata_only() }, "blocks of 536870912 bytes"),
        (Vhdx { sector: 1024, ..metadata_only() }, "1024 bytes; expected 512 or 4096"),
        (Vhdx { sector: 0, ..metadata_only() }, "0 bytes; expected 512 or 4096"),
        (Vhdx { physical_sector: 513, ..metadata_only() }, "513 bytes; expected 512 or 4096"),
        (Vhdx { size: 513, ..metadata_only() }, "a disk of 513 bytes"),
        (Vhdx { size: 512, sector: 4096, ..metadata_only() }, "a disk of 512 bytes"),
        (Vhdx { size: (64 << 40) + 512, ..metadata_only() }, "at most 64 TiB"),
        (Vhdx { size: !511, ..metadata_only() }, "at most 64 TiB"),
    ] {
        // The builder computes the table from these values, so they are put into another image.
        let mut file = sample().build();
        let metadata = image.metadata();
        put(&mut file, sample().metadata_at() as usize, &metadata);
        let failed = open_error(&write_bytes(dir.path(), "disk.vhdx", &file));
        assert_eq!(failed.kind(), ErrorKind::Corrupt);
        assert!(failed.to_string().contains(message), "{failed}");
    }
    for without in [
        vhdx::FILE_PARAMETERS,
        vhdx::DISK_SIZE,
        vhdx::PAGE_83,
        vhdx::LOGICAL_SECTOR,
        vhdx::PHYSICAL_SECTOR,
    ] {
        let path = write(dir.path(), "disk.vhdx", &Vhdx { without: vec![without], ..sample() });
        let failed = open_error(&path);
        assert!(failed.to_string().contains("it has no "), "{failed}");
    }
}

fn metadata_only() -> Vhdx {
    Vhdx::dynamic(8 * MIB)
}

/// The guest's bytes of the last block are in the file, what follows them in the block is not:
/// QEMU writes such files.
#[test]
fn the_file_may_end_within_the_last_block_behind_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let image = Vhdx::dynamic(2 * MIB + 1024).data(2, noise(5, 1024));
    let file = image.build();
    let end = image.data_at(2) as usize + 1024;
    let path = write_bytes(dir.path(), "short.vhdx", &file[..end]);
    let mut wanted = vec![0; 2 * BLOCK];
    wanted.extend(noise(5, 1024));
    assert_eq!(our_bytes(&path), wanted);
    assert_eq!(qemu_bytes(&path, "vhdx"), wanted);
    let path = write_bytes(dir.path(), "truncated.vhdx", &file[..end - 1]);
    let failed = error(&path);
    assert_eq!(failed.kind(), ErrorKind::Corrupt);
    assert!(failed.to_string().contains("beyond the end of the file"), "{failed}");
    assert_eq!(failed.lost(), Some(2 * MIB..2 * MIB + 1024));
    assert_eq!(findings(&path).len(), 1);
}

/// QEMU before 8.0 (issue 727): when the first entry of 4 KiB of the table was written, the others
/// moved by one. Reading such a file returns bytes of the wrong blocks, unless the table shows it:
/// blocks that overlap, or an entry where there must be none.
#[test]
fn tables_that_old_versions_of_qemu_shifted_are_recognized() {
    let dir = tempfile::tempdir().unwrap();
    let image = Vhdx { creator: "QEMU v7.2.0".into(), ..sample() };
    // Block 6 was written again after its entry had moved to that of block 7.
    let mut file = image.build();
    let entry = |block: u64| image.entry_at(block) as usize;
    file.copy_within(entry(6)..entry(7), entry(7));
    let path = write_bytes(dir.path(), "shifted.vhdx", &file);
    let failed = error(&path);
    assert_eq!(failed.kind(), ErrorKind::Corrupt);
    assert!(failed.to_string().contains("overlaps another block"), "{failed}");
    assert!(failed.hint_text().unwrap().contains("QEMU before version 8.0"), "{failed}");
    // qemu-img returns the same bytes twice.
    assert_eq!(qemu_bytes(&path, "vhdx"), blocks(&[0, 0x11, 0, 0, 0, 0, 0x66, 0x66]));
    let found = findings(&path);
    assert!(found.len() == 2 && found.iter().all(|f| f.contains("overlaps")), "{found:?}");
    // The last block of a chunk moved to the entry of the bitmap.
    let large = Vhdx { size: 5 << 30, creator: "QEMU v7.2.0".into(), ..sample() };
    let mut file = large.build();
    let bitmap = large.bitmap_entry_at(0) as usize;
    put(&mut file, bitmap, &(large.data_at(6) | u64::from(PRESENT)).to_le_bytes());
    let found = findings(&write_bytes(dir.path(), "bitmap.vhdx", &file));
    assert!(found.iter().any(|f| f.contains("that of chunk 0")), "{found:?}");
    assert!(found.iter().any(|f| f.contains("issue 727")), "{found:?}");
}

#[test]
fn info_has_the_values_of_qemu_img_and_those_of_the_format() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "disk.vhdx", &sample());
    let image = Image::open(&path).unwrap();
    let info = serde_json::to_value(image.info(0).unwrap()).unwrap();
    let text = run("qemu-img", ["info", "--output=json", path.to_str().unwrap()]);
    let qemu: serde_json::Value = serde_json::from_str(&text).unwrap();
    for key in ["virtual-size", "cluster-size", "format", "dirty-flag"] {
        assert_eq!(info[key], qemu[key], "{key}");
    }
    let specific = &info["format-specific"]["data"];
    assert_eq!(specific["subformat"], "dynamic");
    assert_eq!(specific["creator"], "diskimg-testkit");
    assert_eq!(specific["disk-id"], "83838383-8383-8383-8383-838383838383");
    assert_eq!(specific["logical-sector-size"], 512);
    assert_eq!(specific["physical-sector-size"], 4096);
}

#[test]
fn a_disk_without_peculiarities_is_safe() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "disk.vhdx", &sample());
    let found = inspect(&path, &InspectOptions::new()).unwrap();
    assert!(found.is_safe(), "{found:?}");
    assert_eq!((found.format, found.virtual_size), ("vhdx", Some(8 * MIB)));
    let path = write(dir.path(), "empty.vhdx", &Vhdx::dynamic(0));
    let found = inspect(&path, &InspectOptions::new()).unwrap();
    assert!(found.finding(Code::Empty).is_some());
    assert!(our_bytes(&path).is_empty());
}

/// Table entries, headers and regions of a real file in a window of another source: the offsets are
/// relative to its start.
#[test]
fn an_image_within_another_file_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = [vec![0xee; 4096], sample().build()].concat();
    let path = write_bytes(dir.path(), "outer", &file);
    let text = format!(
        "{{\"driver\":\"vhdx\",\"file\":{{\"driver\":\"raw\",\"offset\":4096,\"file\":{{\"driver\":\
         \"file\",\"filename\":\"{}\"}}}}}}",
        path.display()
    );
    let node = diskimg::open::Node::from_json(&text).unwrap();
    let image = OpenOptions::new().open_node(&node, "disk").unwrap();
    let mut bytes = vec![0; image.size() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, sample_bytes());
}

#[test]
fn a_region_table_with_two_equal_regions_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = sample().build();
    for at in REGIONS_AT {
        let table = &mut file[at as usize..at as usize + vhdx::TABLE_BYTES];
        table.copy_within(16..32, 48);
        seal(table);
    }
    let failed = open_error(&write_bytes(dir.path(), "disk.vhdx", &file));
    assert!(failed.to_string().contains("expected one region 2DC27766"), "{failed}");
}

#[test]
fn the_format_is_recognized_by_content_and_by_option() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "disk.img", &sample());
    assert_eq!(Image::open(&path).unwrap().format(), Format::Vhdx);
    assert_eq!(bytes_with(&OpenOptions::new().format(Format::Vhdx), &path), sample_bytes());
    let raw = OpenOptions::new().format(Format::Raw);
    assert_eq!(raw.open(&path).unwrap().size(), sample().build().len() as u64);
}

#[test]
fn a_copy_that_loses_the_size_of_the_sectors_is_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let options = |text: &str| diskimg::Options::parse(text).unwrap();
    let create = diskimg::Create::new(Format::Vhdx).size(8 * MIB);
    create.options(options("logical_sector_size=4096")).run(path("4k.vhdx")).unwrap();
    for (format, text, lost) in [
        (Format::Qcow2, "", true),
        (Format::Vhdx, "", true),
        (Format::Vhdx, "logical_sector_size=4096", false),
    ] {
        let image = Image::open(path("4k.vhdx")).unwrap();
        let convert = diskimg::Convert::new(image).format(format).options(options(text));
        let report = convert.run(path("copy")).unwrap();
        let found = report.warnings.iter().any(|warning| warning.contains("sectors of 4096 bytes"));
        assert_eq!(found, lost, "{format} {text}: {:?}", report.warnings);
    }
}
