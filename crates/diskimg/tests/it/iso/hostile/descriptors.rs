//! Volume descriptors with invalid values, and endless descriptor sequences.

use super::Expected::{Either, Partly, Refused, Wholly};
use super::{Hostile, hostile, run_class};
use diskimg_testkit::iso::{
    DESCRIPTORS, FREE, GOOD_AT, IsoBuilder, JOLIET_ROOT, ROOT, Record, SECTOR, both16, both32,
    utf16, volume,
};

#[test]
fn invalid_volume_descriptors_are_errors_or_findings() {
    run_class("Volume descriptors", images());
}

#[test]
fn an_invalid_joliet_tree_does_not_affect_other_trees() {
    run_class("Joliet", joliet());
}

/// Returns a valid image with `bytes` at this offset of the primary descriptor.
fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut builder = IsoBuilder::new(&[]);
    builder.volume(0)[at..at + bytes.len()].copy_from_slice(bytes);
    builder.finish()
}

fn images() -> Vec<Hostile> {
    let mut all = Vec::new();
    // Reading needs only the location of the root. Everything is bounded by the image's length.
    for (name, at, bytes, expected) in [
        ("volume_of_4_billion_sectors", 80, &both32(u32::MAX)[..], Partly),
        ("volume_of_one_sector", 80, &both32(1), Partly),
        ("blocks_of_1_byte", 128, &both16(1), Refused),
        ("blocks_of_512_bytes", 128, &both16(512), Refused),
        ("blocks_of_65535_bytes", 128, &both16(65_535), Refused),
        ("blocks_of_0_bytes", 128, &both16(0), Partly),
        ("path_table_of_4_gib", 132, &both32(u32::MAX), Partly),
        ("path_table_of_0_bytes", 132, &both32(0), Partly),
        ("path_table_of_7_bytes", 132, &both32(7), Partly),
        ("path_table_beyond_the_end", 140, &[0xFF; 4], Partly),
        ("big_path_table_beyond_the_end", 148, &[0xFF; 4], Partly),
        ("path_table_is_a_directory", 140, &ROOT.to_le_bytes(), Partly),
        ("set_of_65535_volumes", 120, &[0xFF; 8], Either),
        ("volume_0_of_its_set", 120, &[0; 8], Either),
        ("dates_of_0xff", 813, &[0xFF; 68], Either),
        ("dates_of_nuls", 813, &[0; 68], Wholly),
        ("texts_of_0xff", 190, &[0xFF; 623], Wholly),
        ("label_of_escapes", 40, b"\x1b[2J\x1b]0;x\x07\r\n\0\0", Wholly),
        ("root_beyond_the_end", 158, &[0xFF; 8], Either),
        ("root_of_4_gib", 166, &[0xFF; 8], Either),
        ("root_of_0_bytes", 166, &[0; 8], Either),
        ("root_record_of_0_bytes", 156, &[0], Either),
        ("root_record_of_255_bytes", 156, &[255], Either),
        ("root_record_with_a_long_name", 188, &[255], Either),
        ("all_after_the_label_0xff", 72, &[0xFF; 1976], Either),
        ("all_after_the_label_0", 72, &[0; 1976], Either),
        ("version_255", 6, &[255], Either),
        ("kind_255", 0, &[255], Refused),
        ("kind_3", 0, &[3], Refused),
        ("kind_254", 0, &[254], Refused),
        ("no_cd001", 1, b"CD002", Refused),
    ] {
        all.push(hostile(name, expected, patched(at, bytes)));
    }
    // The builder has space for descriptors only in sectors 16 to 24.
    let good = IsoBuilder::new(&[]).finish();
    let many = |kind: u8, count: usize| {
        let mut bytes = good[..16 * SECTOR].to_vec();
        bytes.extend(&good[16 * SECTOR..17 * SECTOR]);
        bytes.extend(volume(kind, 1 << 20, 2048).repeat(count));
        bytes
    };
    all.extend([
        hostile("8192_primary_descriptors", Either, many(1, 8192)),
        hostile("8192_supplementary_descriptors", Either, many(2, 8192)),
        hostile("8192_boot_records", Either, many(0, 8192)),
        hostile("8192_terminators", Either, many(255, 8192)),
        hostile("8192_descriptors_of_unknown_type", Either, many(77, 8192)),
        hostile("no_terminator", Partly, {
            let mut bytes = good.clone();
            bytes[17 * SECTOR..18 * SECTOR].fill(0);
            bytes
        }),
        hostile("udf_identifiers_without_udf", Either, {
            let mut bytes = good.clone();
            for (sector, word) in [(18, b"BEA01"), (19, b"NSR02"), (20, b"TEA01")] {
                bytes[sector * SECTOR + 1..sector * SECTOR + 6].copy_from_slice(word);
            }
            bytes
        }),
        hostile("an_empty_file", Refused, Vec::new()),
        hostile("one_byte", Refused, vec![0]),
        hostile("zeros", Refused, vec![0; 1 << 20]),
        hostile("ones", Refused, vec![0xFF; 1 << 20]),
        hostile("only_cd001", Refused, b"\x01CD001\x01\0".repeat(100_000)),
        hostile("two_trees_with_the_same_root", Either, {
            let mut builder = IsoBuilder::new(&[]);
            builder.descriptor(volume(1, ROOT, 2048)).descriptor(volume(2, ROOT, 2048));
            builder.finish()
        }),
        hostile("an_enhanced_tree_beyond_the_end", Wholly, {
            let mut builder = IsoBuilder::new(&[]);
            let mut enhanced = volume(2, 1 << 24, u32::MAX);
            (enhanced[6], enhanced[881]) = (2, 2);
            // Its path table is beyond the end, too.
            enhanced[140..144].fill(0xFF);
            builder.descriptor(enhanced).finish()
        }),
        hostile("a_session_list_with_an_invalid_session", Either, {
            // In libburnia's session list, sector 32 has the descriptors of the first session.
            let mut bytes = good.clone();
            let descriptor = volume(1, u32::MAX, u32::MAX);
            bytes[32 * SECTOR..33 * SECTOR].copy_from_slice(&descriptor);
            bytes
        }),
    ]);
    all
}

fn joliet() -> Vec<Hostile> {
    let tree = |change: &dyn Fn(&mut IsoBuilder)| {
        let mut builder = IsoBuilder::rock_ridge(&[]);
        builder.joliet(&[Record::file(utf16("other"), GOOD_AT, 33)]);
        change(&mut builder);
        builder.finish()
    };
    let patched = |at: usize, bytes: &[u8]| {
        tree(&|builder| builder.volume(1)[at..at + bytes.len()].copy_from_slice(bytes))
    };
    let files = |records: &[Record]| {
        let mut builder = IsoBuilder::new(&[]);
        builder.joliet(records).finish()
    };
    vec![
        hostile("joliet_root_beyond_the_end", Either, patched(158, &[0xFF; 8])),
        hostile("joliet_root_of_4_gib", Either, patched(166, &[0xFF; 8])),
        hostile("joliet_root_is_the_other_root", Either, patched(158, &both32(ROOT))),
        hostile("joliet_blocks_of_512_bytes", Either, patched(128, &both16(512))),
        hostile("joliet_path_table_of_4_gib", Partly, patched(132, &both32(u32::MAX))),
        hostile("joliet_no_escape_sequence", Either, patched(88, &[0; 3])),
        hostile("joliet_within_itself", Partly, files(&[Record::dir(utf16("loop"), JOLIET_ROOT)])),
        hostile(
            "joliet_contains_the_other_tree",
            Partly,
            files(&[Record::dir(utf16("other"), ROOT)]),
        ),
        hostile("joliet_deep_with_long_names", Partly, {
            // Paths of 300 levels of 100 characters exceed the maximum path length.
            let name = utf16(&"\u{4e2d}".repeat(100));
            let mut builder = IsoBuilder::new(&[]);
            builder.joliet(&[Record::dir(&name, FREE)]);
            for level in 0..300 {
                let below = Record::dir(&name, FREE + level + 1);
                builder.put(
                    FREE + level,
                    &diskimg_testkit::iso::directory(FREE + level, ROOT, &[], &[below]),
                );
            }
            builder.put(FREE + 300, &diskimg_testkit::iso::directory(FREE + 300, ROOT, &[], &[]));
            builder.finish()
        }),
        hostile("joliet_descriptor_is_the_first", Either, {
            let mut bytes = tree(&|_| {});
            let first = DESCRIPTORS as usize * SECTOR;
            let (a, b) = bytes[first..first + 2 * SECTOR].split_at_mut(SECTOR);
            a.swap_with_slice(b);
            bytes
        }),
    ]
}
