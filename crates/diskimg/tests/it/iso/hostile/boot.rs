//! Malformed boot catalogs and partition tables. They are not part of the tree and must not affect
//! reading the files.

use super::Expected::{Either, Wholly};
use super::{Hostile, hostile, run_class};
use diskimg_testkit::iso::{FREE, IsoBuilder, SECTOR};

#[test]
fn malformed_boot_catalogs_do_not_affect_files() {
    run_class("El Torito", catalogs());
}

#[test]
fn malformed_partition_tables_do_not_affect_files() {
    run_class("MBR, GPT, APM", system_areas());
}

/// Returns an image whose boot record points to sector `at`, with `catalog` at sector [`FREE`].
fn with_catalog(at: u32, catalog: &[u8]) -> Vec<u8> {
    let mut record = vec![0; SECTOR];
    record[1..7].copy_from_slice(b"CD001\x01");
    record[7..30].copy_from_slice(b"EL TORITO SPECIFICATION");
    record[71..75].copy_from_slice(&at.to_le_bytes());
    let mut builder = IsoBuilder::new(&[]);
    builder.descriptor(record).put(FREE, catalog).finish()
}

/// Returns a validation entry with a correct checksum.
fn validation() -> [u8; 32] {
    let mut entry = [0; 32];
    (entry[0], entry[30], entry[31]) = (1, 0x55, 0xAA);
    let sum =
        entry.chunks(2).fold(0u16, |sum, b| sum.wrapping_add(u16::from_le_bytes([b[0], b[1]])));
    entry[28..30].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
    entry
}

fn entry(bytes: &[u8]) -> [u8; 32] {
    let mut entry = [0; 32];
    entry[..bytes.len()].copy_from_slice(bytes);
    entry
}

fn catalogs() -> Vec<Hostile> {
    let catalog = |entries: &[[u8; 32]]| [&[validation()], entries].concat().concat();
    let boot = entry(&[0x88, 0, 0, 0, 0, 0, 4, 0, 63, 0, 0, 0]);
    let here = |entries: &[[u8; 32]]| with_catalog(FREE, &catalog(entries));
    let header = |last: bool, count: u16| {
        let [a, b] = count.to_le_bytes();
        entry(&[if last { 0x91 } else { 0x90 }, 0xEF, a, b])
    };
    let far = entry(&[0x88, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]);
    vec![
        hostile("catalog_beyond_the_end", Either, with_catalog(1 << 24, &[])),
        hostile("catalog_at_the_last_sector", Either, with_catalog(u32::MAX, &[])),
        hostile("catalog_at_sector_0", Either, with_catalog(0, &[])),
        hostile("catalog_at_the_boot_record", Either, with_catalog(17, &[])),
        hostile("catalog_of_zeros", Either, with_catalog(FREE, &[0; SECTOR])),
        hostile("catalog_of_ones", Either, with_catalog(FREE, &[0xFF; SECTOR])),
        hostile("no_validation_entry", Either, with_catalog(FREE, &boot)),
        hostile("nothing_after_the_validation_entry", Either, here(&[])),
        hostile("image_beyond_the_end", Either, here(&[far])),
        hostile("65535_entries_in_a_section", Either, here(&[boot, header(true, 65_535)])),
        hostile("no_entry_in_a_section", Either, here(&[boot, header(true, 0)])),
        hostile(
            "endless_sections",
            Either,
            here(&[&[boot][..], &vec![header(false, 1); 60_000]].concat()),
        ),
        hostile(
            "endless_empty_sections",
            Either,
            here(&[&[boot][..], &vec![header(false, 0); 60_000]].concat()),
        ),
        hostile("endless_extensions", Either, {
            let extension = entry(&[0x44, 0x20]);
            here(&[&[boot, header(true, 1), boot][..], &vec![extension; 60_000]].concat())
        }),
        hostile("endless_entries", Either, here(&vec![boot; 60_000])),
        hostile("every_kind_of_entry", Either, {
            here(&(0..=255).map(|kind| entry(&[kind; 32])).collect::<Vec<_>>())
        }),
        hostile("hard_disk_emulation_of_an_invalid_mbr", Either, {
            here(&[entry(&[0x88, 4, 0, 0, 0xFF, 0, 0xFF, 0xFF, FREE as u8, 0, 0, 0])])
        }),
        hostile("two_boot_records", Either, {
            let mut builder = IsoBuilder::new(&[]);
            for at in [FREE, u32::MAX] {
                let mut record = vec![0; SECTOR];
                record[1..7].copy_from_slice(b"CD001\x01");
                record[7..30].copy_from_slice(b"EL TORITO SPECIFICATION");
                record[71..75].copy_from_slice(&at.to_le_bytes());
                builder.descriptor(record);
            }
            builder.put(FREE, &catalog(&[boot])).finish()
        }),
    ]
}

/// Returns a GPT header for LBA 1 with these fields. Its checksum is correct if its length is.
fn gpt(len: u32, entries_at: u64, count: u32, entry_size: u32) -> Vec<u8> {
    let mut header = b"EFI PART\0\0\x01\0".to_vec();
    header.extend(len.to_le_bytes());
    header.extend([0; 8]);
    for lba in [1, u64::MAX, 34, u64::MAX - 34] {
        header.extend(lba.to_le_bytes());
    }
    header.extend([7; 16]);
    header.extend(entries_at.to_le_bytes());
    header.extend(count.to_le_bytes());
    header.extend(entry_size.to_le_bytes());
    header.extend([0; 4]);
    let mut sum = flate2::Crc::new();
    sum.update(&header[..92]);
    header[16..20].copy_from_slice(&sum.sum().to_le_bytes());
    header
}

fn system_areas() -> Vec<Hostile> {
    let image = |name: &str, parts: &[(usize, &[u8])]| {
        let mut builder = IsoBuilder::new(&[]);
        for (at, bytes) in parts {
            builder.put_at(*at, bytes);
        }
        hostile(name, Wholly, builder.finish())
    };
    let slot = |kind, first: u32, sectors: u32| -> Vec<u8> {
        [&[0x80, 0, 0, 0, kind, 0, 0, 0][..], &first.to_le_bytes(), &sectors.to_le_bytes()].concat()
    };
    let mbr = |slots: &[Vec<u8>]| {
        let mut bytes = vec![0; 512];
        for (n, slot) in slots.iter().enumerate() {
            bytes[446 + 16 * n..462 + 16 * n].copy_from_slice(slot);
        }
        bytes[510..].copy_from_slice(&[0x55, 0xAA]);
        bytes
    };
    let protective = mbr(&[slot(0xEE, 1, u32::MAX)]);
    let with_gpt = |name: &str, header: Vec<u8>| image(name, &[(0, &protective), (512, &header)]);
    let map = |count: u32, blocks: u32| {
        let mut bytes = b"PM\0\0".to_vec();
        bytes.extend(count.to_be_bytes());
        bytes.extend(1u32.to_be_bytes());
        bytes.extend(blocks.to_be_bytes());
        bytes.resize(512, b'x');
        bytes
    };
    let apm = |name: &str, block: u16, count: u32| {
        let first = [&b"ER"[..], &block.to_be_bytes()].concat();
        image(name, &[(0, &first), (512, &map(count, u32::MAX)), (2048, &map(count, u32::MAX))])
    };
    vec![
        with_gpt("gpt_of_4_billion_entries", gpt(92, 2, u32::MAX, 128)),
        with_gpt("gpt_entries_of_4_gib", gpt(92, 2, 4, u32::MAX)),
        with_gpt("gpt_4_billion_entries_of_4_gib", gpt(92, 2, u32::MAX, u32::MAX)),
        with_gpt("gpt_entries_of_no_bytes", gpt(92, 2, 128, 0)),
        with_gpt("gpt_entries_of_1_byte", gpt(92, 2, 128, 1)),
        with_gpt("gpt_entries_at_2^64", gpt(92, u64::MAX, 128, 128)),
        with_gpt("gpt_entries_at_2^55", gpt(92, 1 << 55, 128, 128)),
        with_gpt("gpt_entries_at_the_header", gpt(92, 1, 128, 128)),
        with_gpt("gpt_header_of_4_gib", gpt(u32::MAX, 2, 128, 128)),
        with_gpt("gpt_header_of_no_bytes", gpt(0, 2, 128, 128)),
        with_gpt("gpt_header_of_0xff", [b"EFI PART".to_vec(), vec![0xFF; 504]].concat()),
        image("mbr_of_0xff", &[(0, &[0xFF; 510]), (510, &[0x55, 0xAA])]),
        image(
            "mbr_extended_within_itself",
            &[(0, &mbr(&[slot(5, 0, u32::MAX), slot(0x0F, 0, 1)]))],
        ),
        image(
            "mbr_extended_loop",
            &[
                (0, &mbr(&[slot(5, 1, 100)])),
                (512, &mbr(&[slot(0x83, 1, 1), slot(5, 1, 100)])),
                (1024, &mbr(&[slot(0x83, 1, 1), slot(5, 0, 100)])),
            ],
        ),
        image(
            "mbr_partitions_beyond_the_end",
            &[(0, &mbr(&[slot(0xEF, u32::MAX, u32::MAX), slot(0, 0, 0), slot(0x17, 0, u32::MAX)]))],
        ),
        apm("apm_of_4_billion_entries", 2048, u32::MAX),
        apm("apm_of_4_billion_entries_of_512_bytes", 512, u32::MAX),
        apm("apm_blocks_of_no_bytes", 0, 10),
        apm("apm_blocks_of_65535_bytes", 65_535, 10),
        apm("apm_of_no_entries", 2048, 0),
        image("system_area_of_0xff", &[(0, &[0xFF; 32 << 10])]),
    ]
}
