//! Hostile UDF (ECMA-167): extents that loop, invalid tags, missing partitions.

use super::Expected::{Either, Partly, Refused, Wholly};
use super::{Hostile, hostile, run_class};
use diskimg_testkit::iso::SECTOR;
use diskimg_testkit::udf::{
    BLOCKS, FREE, FileEntry, PARTITION, UdfBuilder, body, identifier, long, name, short, tagged,
};

#[test]
fn malformed_udf_volumes_are_refused_or_partly_readable() {
    run_class("UDF volumes", volumes());
}

#[test]
fn malformed_udf_entries_do_not_affect_other_files() {
    run_class("UDF files and directories", entries());
}

fn volumes() -> Vec<Hostile> {
    let changed = |change: &dyn Fn(&mut UdfBuilder)| {
        let mut volume = UdfBuilder::new(&[]);
        change(&mut volume);
        volume.finish()
    };
    let root = long(2048, 0, 0);
    let maps = |maps: &[&[u8]]| changed(&|v| _ = v.logical_volume(2048, maps, &long(2048, 0, 0)));
    let type_2 = |id: &[u8], rest: &[u8]| {
        let mut map = vec![2, 64, 0, 0, 0];
        map.extend(id);
        map.resize(36, 0);
        map.extend([1, 0, 0, 0]);
        map.extend(rest);
        map.resize(64, 0);
        map
    };
    let one = [1, 6, 1, 0, 0, 0];
    let metadata = |file: u32, mirror: u32| {
        type_2(
            b"*UDF Metadata Partition",
            &[file.to_le_bytes(), mirror.to_le_bytes(), u32::MAX.to_le_bytes(), [32, 0, 0, 0]]
                .concat(),
        )
    };
    vec![
        hostile("udf_valid", Wholly, UdfBuilder::new(&[]).finish()),
        hostile(
            "anchor_beyond_the_end",
            Refused,
            changed(&|v| _ = v.anchor(&short(4 * 2048, u32::MAX))),
        ),
        hostile("anchor_of_4_gib", Either, changed(&|v| _ = v.anchor(&short(u32::MAX, 32)))),
        hostile("anchor_of_no_bytes", Refused, changed(&|v| _ = v.anchor(&short(0, 32)))),
        hostile("anchor_to_itself", Refused, changed(&|v| _ = v.anchor(&short(2048, 256)))),
        hostile(
            "anchor_with_a_wrong_tag",
            Refused,
            changed(&|v| {
                v.bytes.chunks_mut(SECTOR).for_each(|s| {
                    if s[0] == 2 {
                        s[4] ^= 1
                    }
                })
            }),
        ),
        hostile("anchor_with_a_wrong_crc", Either, changed(&|v| v.bytes[256 * SECTOR + 8] ^= 1)),
        hostile(
            "sequence_continues_in_itself",
            Either,
            changed(&|v| {
                // A volume descriptor pointer (3/10.3) instead of the partition descriptor.
                v.at(34, &tagged(3, 34, &body(512, &[(20, &short(4 * 2048, 32))])));
            }),
        ),
        hostile(
            "endless_sequence",
            Either,
            changed(&|v| {
                for sector in 35..250 {
                    v.at(sector, &tagged(4, sector as u32, &[0; 496]));
                }
                v.anchor(&short(u32::MAX, 32));
            }),
        ),
        hostile(
            "a_thousand_partitions",
            Either,
            changed(&|v| {
                let partition = v.bytes[34 * SECTOR..35 * SECTOR].to_vec();
                for sector in 35..250 {
                    v.at(sector, &partition);
                }
                v.anchor(&short(u32::MAX, 32));
            }),
        ),
        hostile("no_partition", Refused, changed(&|v| _ = v.at(34, &tagged(8, 34, &[0; 496])))),
        hostile("partition_beyond_the_end", Either, changed(&|v| _ = v.partition(1 << 24, BLOCKS))),
        hostile(
            "partition_at_the_last_sector",
            Either,
            changed(&|v| _ = v.partition(u32::MAX, u32::MAX)),
        ),
        hostile(
            "partition_of_4_billion_blocks",
            Either,
            changed(&|v| _ = v.partition(PARTITION as u32, u32::MAX)),
        ),
        hostile(
            "partition_of_no_blocks",
            Either,
            changed(&|v| _ = v.partition(PARTITION as u32, 0)),
        ),
        hostile(
            "blocks_of_no_bytes",
            Refused,
            changed(&|v| _ = v.logical_volume(0, &[&one], &root)),
        ),
        hostile(
            "blocks_of_3_bytes",
            Refused,
            changed(&|v| _ = v.logical_volume(3, &[&one], &root)),
        ),
        hostile(
            "blocks_of_4_gib",
            Refused,
            changed(&|v| _ = v.logical_volume(1 << 31, &[&one], &root)),
        ),
        hostile(
            "file_set_beyond_the_end",
            Refused,
            changed(&|v| _ = v.logical_volume(2048, &[&one], &long(2048, u32::MAX, 0))),
        ),
        hostile(
            "file_set_in_partition_65535",
            Refused,
            changed(&|v| _ = v.logical_volume(2048, &[&one], &long(2048, 0, 0xFFFF))),
        ),
        hostile(
            "file_set_of_4_gib",
            Either,
            changed(&|v| _ = v.logical_volume(2048, &[&one], &long(u32::MAX, 0, 0))),
        ),
        hostile(
            "file_set_continues_in_itself",
            Either,
            changed(&|v| _ = v.file_set(&long(2048, 1, 0), &long(2048, 0, 0))),
        ),
        hostile(
            "root_beyond_the_end",
            Either,
            changed(&|v| _ = v.file_set(&long(2048, u32::MAX, 0), &long(0, 0, 0))),
        ),
        hostile(
            "root_in_partition_65535",
            Either,
            changed(&|v| _ = v.file_set(&long(2048, 1, 0xFFFF), &long(0, 0, 0))),
        ),
        hostile(
            "root_is_the_file_set",
            Either,
            changed(&|v| _ = v.file_set(&long(2048, 0, 0), &long(0, 0, 0))),
        ),
        hostile(
            "root_is_a_file",
            Either,
            changed(&|v| _ = v.file_set(&long(2048, 3, 0), &long(0, 0, 0))),
        ),
        hostile("no_maps", Refused, maps(&[])),
        hostile("map_of_no_bytes", Refused, maps(&[&[1, 0, 1, 0, 0, 0]])),
        hostile("map_of_255_bytes", Either, maps(&[&[1, 255, 1, 0, 0, 0]])),
        hostile("map_to_partition_65535", Either, maps(&[&[1, 6, 1, 0, 0xFF, 0xFF]])),
        hostile("200_maps", Either, maps(&vec![&one[..]; 200])),
        hostile(
            "maps_of_4_gib",
            Either,
            changed(&|v| {
                let at = 33 * SECTOR;
                v.bytes[at + 264..at + 272].fill(0xFF);
            }),
        ),
        hostile(
            "metadata_within_itself",
            Either,
            changed(&|v| {
                // The metadata file is recorded in partition 1, which is the metadata partition
                // itself.
                let map = metadata(9, 9);
                v.logical_volume(2048, &[&one, &map], &long(2048, 0, 1));
                v.file(9, &FileEntry { form: 1, ..FileEntry::new(250, 4096, long(4096, 0, 1)) });
            }),
        ),
        hostile(
            "metadata_beyond_the_end",
            Either,
            changed(&|v| {
                v.logical_volume(2048, &[&one, &metadata(u32::MAX, u32::MAX)], &long(2048, 0, 1));
            }),
        ),
        hostile(
            "metadata_file_is_a_directory",
            Either,
            changed(&|v| {
                v.logical_volume(2048, &[&one, &metadata(1, 1)], &long(2048, 0, 1));
            }),
        ),
        hostile(
            "metadata_extents_continue_in_themselves",
            Either,
            changed(&|v| {
                v.logical_volume(2048, &[&one, &metadata(9, 10)], &long(2048, 0, 1));
                v.file(9, &FileEntry::new(250, 1 << 40, short(3 << 30 | 2048, 11)));
                v.file(10, &FileEntry::new(251, 1 << 40, short(3 << 30 | 2048, 11)));
                v.block(
                    11,
                    &tagged(
                        258,
                        11,
                        &body(32, &[(20, &8u32.to_le_bytes()), (24, &short(3 << 30 | 2048, 11))]),
                    ),
                );
            }),
        ),
        hostile("sparable_with_a_table_beyond_the_end", Either, {
            maps(&[&type_2(
                b"*UDF Sparable Partition",
                &[&[32, 0, 255, 0][..], &[0xFF; 20]].concat(),
            )])
        }),
        hostile("sparable_packets_of_no_bytes", Either, {
            maps(&[&type_2(b"*UDF Sparable Partition", &[0; 24])])
        }),
        hostile("virtual_partition_without_a_table", Either, {
            maps(&[&one, &type_2(b"*UDF Virtual Partition", &[])])
        }),
        hostile("a_map_of_unknown_type", Either, maps(&[&type_2(b"*NOBODY", &[])])),
    ]
}

fn entries() -> Vec<Hostile> {
    let file = |file: FileEntry| {
        let mut volume = UdfBuilder::new(&[identifier(0, &name("bad"), FREE, 0)]);
        volume.file(FREE, &file);
        volume
    };
    let dir = |entries: &[Vec<u8>]| {
        let mut volume = UdfBuilder::new(&[identifier(2, &name("d"), FREE, 0)]);
        let bytes = entries.concat();
        volume.file(
            FREE,
            &FileEntry::new(4, bytes.len() as u64, short(bytes.len() as u32, FREE + 1)),
        );
        volume.block(FREE + 1, &bytes);
        volume
    };
    let more = |block, len: u32, extents: &[u8]| {
        tagged(258, block, &body(24 + extents.len(), &[(20, &len.to_le_bytes()), (24, extents)]))
    };
    let continuation = |block| short(3 << 30 | 2048, block);
    let in_root = |entries: &[Vec<u8>]| UdfBuilder::new(entries).finish();
    vec![
        hostile("extents_continue_in_themselves", Partly, {
            file(FileEntry::new(5, 1 << 30, continuation(9)))
                .block(9, &more(9, 8, &continuation(9)))
                .finish()
        }),
        hostile("extents_continue_in_each_other", Partly, {
            let mut volume = file(FileEntry::new(5, 1 << 30, continuation(9)));
            volume
                .block(9, &more(9, 8, &continuation(10)))
                .block(10, &more(10, 8, &continuation(9)))
                .finish()
        }),
        hostile(
            "extents_continue_beyond_the_end",
            Partly,
            file(FileEntry::new(5, 2048, continuation(u32::MAX))).finish(),
        ),
        hostile("extents_continue_in_10000_blocks", Partly, {
            let mut volume = file(FileEntry::new(5, 1 << 30, continuation(9)));
            volume.partition(PARTITION as u32, 20_000);
            for block in 9..10_009 {
                volume.block(block, &more(block, 8, &continuation(block + 1)));
            }
            volume.anchor(&short(4 * 2048, 32)).finish()
        }),
        hostile("more_extents_than_their_block_holds", Either, {
            file(FileEntry::new(5, 1 << 30, continuation(9)))
                .block(9, &more(9, u32::MAX, &short(2048, 4)))
                .finish()
        }),
        hostile("size_of_2^64", Partly, file(FileEntry::new(5, u64::MAX, short(2048, 4))).finish()),
        hostile(
            "size_of_2^63",
            Partly,
            file(FileEntry::new(5, 1 << 63, short(0x3FFF_F800, 4).repeat(200))).finish(),
        ),
        hostile(
            "size_of_nothing_with_extents",
            Either,
            file(FileEntry::new(5, 0, short(0x3FFF_F800, 4).repeat(200))).finish(),
        ),
        hostile("200_extents_of_1_gib", Partly, {
            file(FileEntry::new(5, 200 * 0x3FFF_F800, short(0x3FFF_F800, 4).repeat(200))).finish()
        }),
        hostile("200_extents_not_recorded", Either, {
            file(FileEntry::new(5, 200 * 0x3FFF_F800, short(2 << 30 | 0x3FFF_F800, 0).repeat(200)))
                .finish()
        }),
        hostile(
            "extent_beyond_the_partition",
            Partly,
            file(FileEntry::new(5, 2048, short(2048, 1 << 24))).finish(),
        ),
        hostile(
            "extent_at_the_last_block",
            Partly,
            file(FileEntry::new(5, 2048, short(2048, u32::MAX))).finish(),
        ),
        hostile("extent_in_partition_65535", Partly, {
            file(FileEntry { form: 1, ..FileEntry::new(5, 2048, long(2048, 4, 0xFFFF)) }).finish()
        }),
        hostile(
            "extents_of_form_2",
            Either,
            file(FileEntry { form: 2, ..FileEntry::new(5, 2048, vec![0xFF; 40]) }).finish(),
        ),
        hostile(
            "extents_of_form_7",
            Either,
            file(FileEntry { form: 7, ..FileEntry::new(5, 2048, vec![0xFF; 40]) }).finish(),
        ),
        hostile("extents_longer_than_the_entry", Partly, {
            file(FileEntry {
                extents_len: Some(u32::MAX),
                ..FileEntry::new(5, 2048, short(2048, 4))
            })
            .finish()
        }),
        hostile("attributes_longer_than_the_entry", Partly, {
            file(FileEntry { attributes_len: u32::MAX, ..FileEntry::new(5, 2048, short(2048, 4)) })
                .finish()
        }),
        hostile("attributes_that_overflow", Partly, {
            let lens = FileEntry {
                attributes_len: u32::MAX - 175,
                extents_len: Some(u32::MAX - 175),
                ..FileEntry::new(5, 2048, short(2048, 4))
            };
            file(lens).finish()
        }),
        hostile("embedded_bytes_longer_than_the_entry", Partly, {
            file(FileEntry { size: 1 << 20, ..FileEntry::embedded(5, vec![1; 100]) }).finish()
        }),
        hostile("embedded_bytes_longer_than_the_block", Partly, {
            file(FileEntry {
                size: 4000,
                extents_len: Some(4000),
                ..FileEntry::embedded(5, vec![1; 100])
            })
            .finish()
        }),
        hostile(
            "strategy_4096",
            Either,
            file(FileEntry { strategy: 4096, ..FileEntry::new(5, 33, short(33, 4)) }).finish(),
        ),
        hostile("a_wrong_tag", Partly, {
            let mut volume = file(FileEntry::new(5, 33, short(33, 4)));
            volume.bytes[(PARTITION + FREE as usize) * SECTOR + 4] ^= 1;
            volume.finish()
        }),
        hostile("no_tag", Partly, in_root(&[identifier(0, &name("bad"), FREE, 0)])),
        hostile(
            "entry_beyond_the_end",
            Partly,
            in_root(&[identifier(0, &name("bad"), u32::MAX, 0)]),
        ),
        hostile(
            "entry_in_partition_65535",
            Partly,
            in_root(&[identifier(0, &name("bad"), 3, 0xFFFF)]),
        ),
        hostile("entry_is_the_file_set", Partly, in_root(&[identifier(0, &name("bad"), 0, 0)])),
        hostile("indirect_entry_to_itself", Either, {
            let mut volume = file(FileEntry::new(5, 33, short(33, 4)));
            let parts = [(20, &[4, 0][..]), (27, &[3]), (36, &long(2048, FREE, 0))];
            volume.block(FREE, &tagged(248, FREE, &body(52, &parts))).finish()
        }),
        hostile("link_of_a_component_too_long", Either, {
            file(FileEntry::embedded(12, vec![5, 255, 0, 0, 8, b'x'])).finish()
        }),
        hostile("link_of_a_mebibyte", Partly, {
            let mut volume = file(FileEntry::new(12, 1 << 20, short(1 << 20, 9)));
            volume
                .partition(PARTITION as u32, 600)
                .block(9, &[5, 3, 0, 0, 8, b'x', b'y'].repeat(150_000));
            volume.anchor(&short(4 * 2048, 32)).finish()
        }),
        hostile(
            "directory_within_itself",
            Partly,
            dir(&[identifier(2, &name("d"), FREE, 0)]).finish(),
        ),
        hostile(
            "directory_contains_the_root",
            Partly,
            dir(&[identifier(2, &name("d"), 1, 0)]).finish(),
        ),
        hostile("directory_of_its_own_entry", Either, {
            let mut volume = dir(&[]);
            volume.file(FREE, &FileEntry::new(4, 2048, short(2048, FREE))).finish()
        }),
        hostile("directory_of_2^63_bytes", Partly, {
            let mut volume = dir(&[]);
            volume.file(FREE, &FileEntry::new(4, 1 << 63, short(2048, FREE + 1))).finish()
        }),
        hostile("directory_of_200_gib_not_recorded", Partly, {
            let extents = short(2 << 30 | 0x3FFF_F800, 0).repeat(200);
            let mut volume = dir(&[]);
            volume.file(FREE, &FileEntry::new(4, 200 * 0x3FFF_F800, extents)).finish()
        }),
        hostile("directory_of_the_same_block_200_times", Either, {
            let entries: Vec<_> =
                (0..40).map(|n| identifier(0, &name(&format!("{n:03}")), 3, 0)).collect();
            let mut volume = dir(&entries);
            volume
                .file(FREE, &FileEntry::new(4, 200 << 11, short(2048, FREE + 1).repeat(200)))
                .finish()
        }),
        hostile("ten_thousand_deep_in_udf", Partly, deep(10_000)),
        hostile("name_longer_than_its_identifier", Partly, {
            let mut bad = identifier(0, &name("bad"), 3, 0);
            bad[19] = 255;
            // Correct the checksum.
            bad[4] = 0;
            bad[4] = bad[..16].iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
            in_root(&[bad])
        }),
        hostile("implementation_use_of_65535_bytes", Partly, {
            let mut bad = identifier(0, &name("bad"), 3, 0);
            bad[36..38].fill(0xFF);
            in_root(&[bad])
        }),
        hostile("identifier_truncated_by_the_end", Partly, {
            let mut volume = dir(&[identifier(0, &name("a name that is cut"), 3, 0)]);
            volume.file(FREE, &FileEntry::new(4, 45, short(45, FREE + 1))).finish()
        }),
        hostile(
            "garbage_between_identifiers",
            Partly,
            dir(&[vec![0x55; 200], identifier(0, &name("x"), 3, 0)]).finish(),
        ),
        hostile(
            "udf_name_up",
            Partly,
            in_root(&[identifier(0, &name("../../canary/secret"), 3, 0)]),
        ),
        hostile("udf_name_parent", Partly, in_root(&[identifier(2, &name(".."), 1, 0)])),
        hostile(
            "udf_name_absolute",
            Partly,
            in_root(&[identifier(0, &name("/tmp/diskimg-hostile-canary"), 3, 0)]),
        ),
        hostile("udf_name_nul", Partly, in_root(&[identifier(0, &name("a\0b"), 3, 0)])),
        hostile(
            "udf_name_of_16_bits_and_odd",
            Either,
            in_root(&[identifier(0, &[16, 0, b'a', 0], 3, 0)]),
        ),
        hostile("udf_name_of_77_bits", Either, in_root(&[identifier(0, &[77, 0, b'a', 0], 3, 0)])),
        hostile("udf_name_of_no_bytes", Either, in_root(&[identifier(0, &[], 3, 0)])),
        hostile("udf_link_then_directory", Partly, {
            let mut volume = UdfBuilder::new(&[
                identifier(0, &name("d"), FREE, 0),
                identifier(2, &name("d"), FREE + 1, 0),
            ]);
            let up = [&[3, 0, 0, 0][..], &[3, 0, 0, 0], &[5, 7, 0, 0, 8], b"canary"].concat();
            volume.file(FREE, &FileEntry::embedded(12, up));
            volume
                .file(FREE + 1, &FileEntry::embedded(4, identifier(0, &name("planted"), 3, 0)))
                .finish()
        }),
        hostile("deleted_entries", Wholly, in_root(&[identifier(4, &name("gone"), u32::MAX, 9)])),
    ]
}

fn deep(levels: u32) -> Vec<u8> {
    let mut volume = UdfBuilder::new(&[identifier(2, &name("d"), FREE, 0)]);
    volume.partition(PARTITION as u32, levels + 20);
    for block in FREE..FREE + levels {
        volume.file(block, &FileEntry::embedded(4, identifier(2, &name("d"), block + 1, 0)));
    }
    volume.file(FREE + levels, &FileEntry::embedded(4, Vec::new()));
    volume.anchor(&short(4 * 2048, 32)).finish()
}
