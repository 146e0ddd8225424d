//! Hostile UDF (ECMA-167): extents that loop, tags that lie, partitions that are not there.
//!
//! The volume that all are made of, in sectors of 2048 bytes:
//!
//! ```text
//!   16 BEA01  17 NSR02  18 TEA01     256 anchor      32 volume descriptors: 1, 6, 5, 8
//!   300 the partition:  block 0 file set   1 root   2 its entries   3 good.txt   4 its bytes
//!                       8.. whatever a test puts there
//! ```

use super::Expected::{Either, Partly, Refused, Wholly};
use super::{Hostile, hostile, run_class};
use crate::iso::craft::{GOOD, SECTOR};

/// Sector of the partition's block 0.
const PARTITION: usize = 300;
/// Blocks of the partition, unless a test needs more.
const BLOCKS: u32 = 64;
/// The first block that is free.
const FREE: u32 = 8;

#[test]
fn volumes_that_lie_are_refused() {
    run_class("UDF volumes", volumes());
}

#[test]
fn entries_that_lie_spoil_no_other() {
    run_class("UDF files and directories", entries());
}

/// A descriptor with a tag whose checksum and CRC are right (3/7.2).
fn tagged(id: u16, location: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = id.to_le_bytes().to_vec();
    bytes.extend([2, 0, 0, 0, 0, 0]);
    bytes.extend(crc(body).to_le_bytes());
    bytes.extend((body.len() as u16).to_le_bytes());
    bytes.extend(location.to_le_bytes());
    bytes[4] = bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    bytes.extend(body);
    bytes
}

/// CRC-16 with the polynomial 0x1021 (3/7.2.6).
fn crc(bytes: &[u8]) -> u16 {
    let mut crc = 0u16;
    for &byte in bytes {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
        }
    }
    crc
}

/// The body of a descriptor of so many bytes, tag included, with these bytes at these places.
fn body(len: usize, parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (at, part) in parts {
        bytes[*at..*at + part.len()].copy_from_slice(part);
    }
    bytes.split_off(16)
}

fn short(len: u32, block: u32) -> Vec<u8> {
    [len.to_le_bytes(), block.to_le_bytes()].concat()
}

fn long(len: u32, block: u32, partition: u16) -> Vec<u8> {
    [&short(len, block)[..], &partition.to_le_bytes(), &[0; 6]].concat()
}

/// A file entry (4/14.9): kind 4 a directory, 5 a file, 12 a link; `form` 0 short extents, 1 long
/// ones, 3 the bytes themselves.
#[derive(Clone)]
struct FileEntry {
    kind: u8,
    form: u8,
    size: u64,
    extents: Vec<u8>,
    /// What it says of their length.
    extents_len: Option<u32>,
    attributes_len: u32,
    strategy: u16,
}

impl FileEntry {
    fn new(kind: u8, size: u64, extents: Vec<u8>) -> Self {
        Self { kind, form: 0, size, extents, extents_len: None, attributes_len: 0, strategy: 4 }
    }

    fn embedded(kind: u8, bytes: Vec<u8>) -> Self {
        Self { form: 3, ..Self::new(kind, bytes.len() as u64, bytes) }
    }

    fn bytes(&self, block: u32) -> Vec<u8> {
        let len = self.extents_len.unwrap_or(self.extents.len() as u32);
        let body = body(
            176 + self.extents.len(),
            &[
                (20, &self.strategy.to_le_bytes()),
                (24, &[1, 0, 0, self.kind]),
                (34, &[self.form, 0]),
                (44, &0x14A5u32.to_le_bytes()),
                (48, &[1, 0]),
                (56, &self.size.to_le_bytes()),
                (64, &self.size.div_ceil(2048).to_le_bytes()),
                (168, &self.attributes_len.to_le_bytes()),
                (172, &len.to_le_bytes()),
                (176, &self.extents),
            ],
        );
        tagged(261, block, &body)
    }
}

/// A file identifier (4/14.4): flags 2 a directory, 4 deleted, 8 the parent.
fn identifier(flags: u8, name: &[u8], block: u32, partition: u16) -> Vec<u8> {
    let name_len = [name.len() as u8];
    let icb = long(2048, block, partition);
    let parts = [(16, &[1, 0, flags][..]), (19, &name_len), (20, &icb), (38, name)];
    let mut bytes = tagged(257, 0, &body((38 + name.len()).next_multiple_of(4), &parts));
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn name(text: &str) -> Vec<u8> {
    [&[8], text.as_bytes()].concat()
}

/// A volume that is being made.
#[derive(Clone)]
struct Volume {
    bytes: Vec<u8>,
}

impl Volume {
    /// With these entries in its root, behind `good.txt`.
    fn new(entries: &[Vec<u8>]) -> Self {
        let mut volume = Self { bytes: vec![0; (PARTITION + BLOCKS as usize) * SECTOR] };
        for (sector, word) in [(16, b"\0BEA01\x01"), (17, b"\0NSR02\x01"), (18, b"\0TEA01\x01")] {
            volume.at(sector, word);
        }
        volume.anchor(&short(4 * 2048, 32));
        volume.at(32, &tagged(1, 32, &body(512, &[(24, b"\x08CRAFT"), (55, &[6]), (56, &[1, 0, 1, 0])])));
        volume.logical_volume(2048, &[&[1, 6, 1, 0, 0, 0]], &long(2048, 0, 0));
        volume.partition(PARTITION as u32, BLOCKS);
        volume.at(35, &tagged(8, 35, &[0; 496]));
        volume.file_set(&long(2048, 1, 0), &long(0, 0, 0));
        let all = [identifier(10, &[], 1, 0), identifier(0, &name("good.txt"), 3, 0), entries.concat()].concat();
        let len = all.len() as u32;
        assert!(len <= 2048, "too many entries for the root");
        volume.file(1, &FileEntry::new(4, len.into(), short(len, 2)));
        volume.block(2, &all);
        volume.file(3, &FileEntry::new(5, GOOD.len() as u64, short(GOOD.len() as u32, 4)));
        volume.block(4, GOOD);
        volume
    }

    fn at(&mut self, sector: usize, bytes: &[u8]) -> &mut Self {
        let end = (sector * SECTOR + bytes.len()).next_multiple_of(SECTOR);
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[sector * SECTOR..sector * SECTOR + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Both anchors (3/10.2), with this as the main and the reserve sequence.
    fn anchor(&mut self, sequence: &[u8]) -> &mut Self {
        let last = self.bytes.len() / SECTOR - 1;
        for sector in [256, last] {
            let parts = [(16, sequence), (24, sequence)];
            self.at(sector, &tagged(2, sector as u32, &body(512, &parts)));
        }
        self
    }

    /// 3/10.6.
    fn logical_volume(&mut self, block: u32, maps: &[&[u8]], file_set: &[u8]) -> &mut Self {
        let table = maps.concat();
        let parts = [
            (84, &b"\x08CRAFT"[..]),
            (211, &[6]),
            (212, &block.to_le_bytes()),
            (216, b"\0*OSTA UDF Compliant"),
            (240, &[2, 1]),
            (248, file_set),
            (264, &(table.len() as u32).to_le_bytes()),
            (268, &(maps.len() as u32).to_le_bytes()),
            (440, &table),
        ];
        self.at(33, &tagged(6, 33, &body(440 + table.len(), &parts)))
    }

    /// 3/10.5.
    fn partition(&mut self, start: u32, blocks: u32) -> &mut Self {
        let (start, blocks) = (start.to_le_bytes(), blocks.to_le_bytes());
        let parts = [(20, &[1, 0][..]), (24, b"\0+NSR02"), (184, &[1]), (188, &start), (192, &blocks)];
        self.at(34, &tagged(5, 34, &body(512, &parts)))
    }

    /// 4/14.1.
    fn file_set(&mut self, root: &[u8], next: &[u8]) -> &mut Self {
        let parts = [(304, &b"\x08CRAFT"[..]), (335, &[6]), (400, root), (416, b"\0*OSTA UDF Compliant"), (448, next)];
        self.block(0, &tagged(256, 0, &body(512, &parts)))
    }

    fn block(&mut self, block: u32, bytes: &[u8]) -> &mut Self {
        self.at(PARTITION + block as usize, bytes)
    }

    fn file(&mut self, block: u32, file: &FileEntry) -> &mut Self {
        self.block(block, &file.bytes(block))
    }

    fn done(&self) -> Vec<u8> {
        self.bytes.clone()
    }
}

fn volumes() -> Vec<Hostile> {
    let changed = |change: &dyn Fn(&mut Volume)| {
        let mut volume = Volume::new(&[]);
        change(&mut volume);
        volume.done()
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
        type_2(b"*UDF Metadata Partition", &[file.to_le_bytes(), mirror.to_le_bytes(), u32::MAX.to_le_bytes(), [32, 0, 0, 0]].concat())
    };
    vec![
        hostile("udf_whole", Wholly, Volume::new(&[]).done()),
        hostile("anchor_to_nowhere", Refused, changed(&|v| _ = v.anchor(&short(4 * 2048, u32::MAX)))),
        hostile("anchor_of_4_gib", Either, changed(&|v| _ = v.anchor(&short(u32::MAX, 32)))),
        hostile("anchor_of_no_bytes", Refused, changed(&|v| _ = v.anchor(&short(0, 32)))),
        hostile("anchor_to_itself", Refused, changed(&|v| _ = v.anchor(&short(2048, 256)))),
        hostile("anchor_with_a_wrong_tag", Refused, changed(&|v| v.bytes.chunks_mut(SECTOR).for_each(|s| if s[0] == 2 { s[4] ^= 1 }))),
        hostile("anchor_with_a_wrong_crc", Either, changed(&|v| v.bytes[256 * SECTOR + 8] ^= 1)),
        hostile("sequence_goes_on_in_itself", Either, changed(&|v| {
            // A volume descriptor pointer (3/10.3) instead of the partition's descriptor.
            v.at(34, &tagged(3, 34, &body(512, &[(20, &short(4 * 2048, 32))])));
        })),
        hostile("sequence_without_end", Either, changed(&|v| {
            for sector in 35..250 {
                v.at(sector, &tagged(4, sector as u32, &[0; 496]));
            }
            v.anchor(&short(u32::MAX, 32));
        })),
        hostile("a_thousand_partitions", Either, changed(&|v| {
            let partition = v.bytes[34 * SECTOR..35 * SECTOR].to_vec();
            for sector in 35..250 {
                v.at(sector, &partition);
            }
            v.anchor(&short(u32::MAX, 32));
        })),
        hostile("no_partition", Refused, changed(&|v| _ = v.at(34, &tagged(8, 34, &[0; 496])))),
        hostile("partition_behind_the_end", Either, changed(&|v| _ = v.partition(1 << 24, BLOCKS))),
        hostile("partition_at_the_last_sector", Either, changed(&|v| _ = v.partition(u32::MAX, u32::MAX))),
        hostile("partition_of_4_billion_blocks", Either, changed(&|v| _ = v.partition(PARTITION as u32, u32::MAX))),
        hostile("partition_of_no_blocks", Either, changed(&|v| _ = v.partition(PARTITION as u32, 0))),
        hostile("blocks_of_no_bytes", Refused, changed(&|v| _ = v.logical_volume(0, &[&one], &root))),
        hostile("blocks_of_3_bytes", Refused, changed(&|v| _ = v.logical_volume(3, &[&one], &root))),
        hostile("blocks_of_4_gib", Refused, changed(&|v| _ = v.logical_volume(1 << 31, &[&one], &root))),
        hostile("file_set_nowhere", Refused, changed(&|v| _ = v.logical_volume(2048, &[&one], &long(2048, u32::MAX, 0)))),
        hostile("file_set_in_partition_65535", Refused, changed(&|v| _ = v.logical_volume(2048, &[&one], &long(2048, 0, 0xFFFF)))),
        hostile("file_set_of_4_gib", Either, changed(&|v| _ = v.logical_volume(2048, &[&one], &long(u32::MAX, 0, 0)))),
        hostile("file_set_goes_on_in_itself", Either, changed(&|v| _ = v.file_set(&long(2048, 1, 0), &long(2048, 0, 0)))),
        hostile("root_nowhere", Either, changed(&|v| _ = v.file_set(&long(2048, u32::MAX, 0), &long(0, 0, 0)))),
        hostile("root_in_partition_65535", Either, changed(&|v| _ = v.file_set(&long(2048, 1, 0xFFFF), &long(0, 0, 0)))),
        hostile("root_is_the_file_set", Either, changed(&|v| _ = v.file_set(&long(2048, 0, 0), &long(0, 0, 0)))),
        hostile("root_is_a_file", Either, changed(&|v| _ = v.file_set(&long(2048, 3, 0), &long(0, 0, 0)))),
        hostile("no_maps", Refused, maps(&[])),
        hostile("map_of_no_bytes", Refused, maps(&[&[1, 0, 1, 0, 0, 0]])),
        hostile("map_of_255_bytes", Either, maps(&[&[1, 255, 1, 0, 0, 0]])),
        hostile("map_to_partition_65535", Either, maps(&[&[1, 6, 1, 0, 0xFF, 0xFF]])),
        hostile("200_maps", Either, maps(&vec![&one[..]; 200])),
        hostile("maps_of_4_gib", Either, changed(&|v| {
            let at = 33 * SECTOR;
            v.bytes[at + 264..at + 272].fill(0xFF);
        })),
        hostile("metadata_within_itself", Either, changed(&|v| {
            // Its file is recorded in itself: partition 1 is the metadata partition.
            let map = metadata(9, 9);
            v.logical_volume(2048, &[&one, &map], &long(2048, 0, 1));
            v.file(9, &FileEntry { form: 1, ..FileEntry::new(250, 4096, long(4096, 0, 1)) });
        })),
        hostile("metadata_nowhere", Either, changed(&|v| {
            v.logical_volume(2048, &[&one, &metadata(u32::MAX, u32::MAX)], &long(2048, 0, 1));
        })),
        hostile("metadata_file_is_a_directory", Either, changed(&|v| {
            v.logical_volume(2048, &[&one, &metadata(1, 1)], &long(2048, 0, 1));
        })),
        hostile("metadata_extents_go_on_in_themselves", Either, changed(&|v| {
            v.logical_volume(2048, &[&one, &metadata(9, 10)], &long(2048, 0, 1));
            v.file(9, &FileEntry::new(250, 1 << 40, short(3 << 30 | 2048, 11)));
            v.file(10, &FileEntry::new(251, 1 << 40, short(3 << 30 | 2048, 11)));
            v.block(11, &tagged(258, 11, &body(32, &[(20, &8u32.to_le_bytes()), (24, &short(3 << 30 | 2048, 11))])));
        })),
        hostile("sparable_with_a_table_nowhere", Either, {
            maps(&[&type_2(b"*UDF Sparable Partition", &[&[32, 0, 255, 0][..], &[0xFF; 20]].concat())])
        }),
        hostile("sparable_packets_of_no_bytes", Either, {
            maps(&[&type_2(b"*UDF Sparable Partition", &[0; 24])])
        }),
        hostile("virtual_partition_without_a_table", Either, {
            maps(&[&one, &type_2(b"*UDF Virtual Partition", &[])])
        }),
        hostile("a_map_of_nobody", Either, maps(&[&type_2(b"*NOBODY", &[])])),
    ]
}

fn entries() -> Vec<Hostile> {
    let file = |file: FileEntry| {
        let mut volume = Volume::new(&[identifier(0, &name("bad"), FREE, 0)]);
        volume.file(FREE, &file);
        volume
    };
    let dir = |entries: &[Vec<u8>]| {
        let mut volume = Volume::new(&[identifier(2, &name("d"), FREE, 0)]);
        let bytes = entries.concat();
        volume.file(FREE, &FileEntry::new(4, bytes.len() as u64, short(bytes.len() as u32, FREE + 1)));
        volume.block(FREE + 1, &bytes);
        volume
    };
    let more = |block, len: u32, extents: &[u8]| {
        tagged(258, block, &body(24 + extents.len(), &[(20, &len.to_le_bytes()), (24, extents)]))
    };
    let goes_on = |block| short(3 << 30 | 2048, block);
    let in_root = |entries: &[Vec<u8>]| Volume::new(entries).done();
    vec![
        hostile("extents_go_on_in_themselves", Partly, {
            file(FileEntry::new(5, 1 << 30, goes_on(9))).block(9, &more(9, 8, &goes_on(9))).done()
        }),
        hostile("extents_go_on_in_turn", Partly, {
            let mut volume = file(FileEntry::new(5, 1 << 30, goes_on(9)));
            volume.block(9, &more(9, 8, &goes_on(10))).block(10, &more(10, 8, &goes_on(9))).done()
        }),
        hostile("extents_go_on_nowhere", Partly, file(FileEntry::new(5, 2048, goes_on(u32::MAX))).done()),
        hostile("extents_go_on_in_10000_blocks", Partly, {
            let mut volume = file(FileEntry::new(5, 1 << 30, goes_on(9)));
            volume.partition(PARTITION as u32, 20_000);
            for block in 9..10_009 {
                volume.block(block, &more(block, 8, &goes_on(block + 1)));
            }
            volume.anchor(&short(4 * 2048, 32)).done()
        }),
        hostile("more_extents_than_their_block_holds", Either, {
            file(FileEntry::new(5, 1 << 30, goes_on(9))).block(9, &more(9, u32::MAX, &short(2048, 4))).done()
        }),
        hostile("size_of_2^64", Partly, file(FileEntry::new(5, u64::MAX, short(2048, 4))).done()),
        hostile("size_of_2^63", Partly, file(FileEntry::new(5, 1 << 63, short(0x3FFF_F800, 4).repeat(200))).done()),
        hostile("size_of_nothing_with_extents", Either, file(FileEntry::new(5, 0, short(0x3FFF_F800, 4).repeat(200))).done()),
        hostile("200_extents_of_1_gib", Partly, {
            file(FileEntry::new(5, 200 * 0x3FFF_F800, short(0x3FFF_F800, 4).repeat(200))).done()
        }),
        hostile("200_extents_not_recorded", Either, {
            file(FileEntry::new(5, 200 * 0x3FFF_F800, short(2 << 30 | 0x3FFF_F800, 0).repeat(200))).done()
        }),
        hostile("extent_behind_the_partition", Partly, file(FileEntry::new(5, 2048, short(2048, 1 << 24))).done()),
        hostile("extent_at_the_last_block", Partly, file(FileEntry::new(5, 2048, short(2048, u32::MAX))).done()),
        hostile("extent_in_partition_65535", Partly, {
            file(FileEntry { form: 1, ..FileEntry::new(5, 2048, long(2048, 4, 0xFFFF)) }).done()
        }),
        hostile("extents_of_form_2", Either, file(FileEntry { form: 2, ..FileEntry::new(5, 2048, vec![0xFF; 40]) }).done()),
        hostile("extents_of_form_7", Either, file(FileEntry { form: 7, ..FileEntry::new(5, 2048, vec![0xFF; 40]) }).done()),
        hostile("extents_longer_than_the_entry", Partly, {
            file(FileEntry { extents_len: Some(u32::MAX), ..FileEntry::new(5, 2048, short(2048, 4)) }).done()
        }),
        hostile("attributes_longer_than_the_entry", Partly, {
            file(FileEntry { attributes_len: u32::MAX, ..FileEntry::new(5, 2048, short(2048, 4)) }).done()
        }),
        hostile("attributes_that_overflow", Partly, {
            let lens = FileEntry { attributes_len: u32::MAX - 175, extents_len: Some(u32::MAX - 175), ..FileEntry::new(5, 2048, short(2048, 4)) };
            file(lens).done()
        }),
        hostile("embedded_bytes_longer_than_the_entry", Partly, {
            file(FileEntry { size: 1 << 20, ..FileEntry::embedded(5, vec![1; 100]) }).done()
        }),
        hostile("embedded_bytes_longer_than_the_block", Partly, {
            file(FileEntry { size: 4000, extents_len: Some(4000), ..FileEntry::embedded(5, vec![1; 100]) }).done()
        }),
        hostile("strategy_4096", Either, file(FileEntry { strategy: 4096, ..FileEntry::new(5, 33, short(33, 4)) }).done()),
        hostile("a_wrong_tag", Partly, {
            let mut volume = file(FileEntry::new(5, 33, short(33, 4)));
            volume.bytes[(PARTITION + FREE as usize) * SECTOR + 4] ^= 1;
            volume.done()
        }),
        hostile("no_tag", Partly, in_root(&[identifier(0, &name("bad"), FREE, 0)])),
        hostile("entry_nowhere", Partly, in_root(&[identifier(0, &name("bad"), u32::MAX, 0)])),
        hostile("entry_in_partition_65535", Partly, in_root(&[identifier(0, &name("bad"), 3, 0xFFFF)])),
        hostile("entry_is_the_file_set", Partly, in_root(&[identifier(0, &name("bad"), 0, 0)])),
        hostile("indirect_entry_to_itself", Either, {
            let mut volume = file(FileEntry::new(5, 33, short(33, 4)));
            let parts = [(20, &[4, 0][..]), (27, &[3]), (36, &long(2048, FREE, 0))];
            volume.block(FREE, &tagged(248, FREE, &body(52, &parts))).done()
        }),
        hostile("link_of_a_component_too_long", Either, {
            file(FileEntry::embedded(12, vec![5, 255, 0, 0, 8, b'x'])).done()
        }),
        hostile("link_of_a_mebibyte", Partly, {
            let mut volume = file(FileEntry::new(12, 1 << 20, short(1 << 20, 9)));
            volume.partition(PARTITION as u32, 600).block(9, &[&[5, 3, 0, 0, 8, b'x', b'y'][..]; 150_000].concat());
            volume.anchor(&short(4 * 2048, 32)).done()
        }),
        hostile("directory_within_itself", Partly, dir(&[identifier(2, &name("d"), FREE, 0)]).done()),
        hostile("directory_holds_the_root", Partly, dir(&[identifier(2, &name("d"), 1, 0)]).done()),
        hostile("directory_of_its_own_entry", Either, {
            let mut volume = dir(&[]);
            volume.file(FREE, &FileEntry::new(4, 2048, short(2048, FREE))).done()
        }),
        hostile("directory_of_2^63_bytes", Partly, {
            let mut volume = dir(&[]);
            volume.file(FREE, &FileEntry::new(4, 1 << 63, short(2048, FREE + 1))).done()
        }),
        hostile("directory_of_200_gib_not_recorded", Partly, {
            let extents = short(2 << 30 | 0x3FFF_F800, 0).repeat(200);
            let mut volume = dir(&[]);
            volume.file(FREE, &FileEntry::new(4, 200 * 0x3FFF_F800, extents)).done()
        }),
        hostile("directory_of_the_same_block_200_times", Either, {
            let entries: Vec<_> = (0..40).map(|n| identifier(0, &name(&format!("{n:03}")), 3, 0)).collect();
            let mut volume = dir(&entries);
            volume.file(FREE, &FileEntry::new(4, 200 << 11, short(2048, FREE + 1).repeat(200))).done()
        }),
        hostile("ten_thousand_deep_in_udf", Partly, deep(10_000)),
        hostile("name_longer_than_its_identifier", Partly, {
            let mut bad = identifier(0, &name("bad"), 3, 0);
            bad[19] = 255;
            // The sum is right again.
            bad[4] = 0;
            bad[4] = bad[..16].iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
            in_root(&[bad])
        }),
        hostile("implementation_use_of_65535_bytes", Partly, {
            let mut bad = identifier(0, &name("bad"), 3, 0);
            bad[36..38].fill(0xFF);
            in_root(&[bad])
        }),
        hostile("identifier_cut_off_by_the_end", Partly, {
            let mut volume = dir(&[identifier(0, &name("a name that is cut"), 3, 0)]);
            volume.file(FREE, &FileEntry::new(4, 45, short(45, FREE + 1))).done()
        }),
        hostile("garbage_between_identifiers", Partly, dir(&[vec![0x55; 200], identifier(0, &name("x"), 3, 0)]).done()),
        hostile("udf_name_up", Partly, in_root(&[identifier(0, &name("../../canary/secret"), 3, 0)])),
        hostile("udf_name_parent", Partly, in_root(&[identifier(2, &name(".."), 1, 0)])),
        hostile("udf_name_absolute", Partly, in_root(&[identifier(0, &name("/tmp/diskimg-hostile-canary"), 3, 0)])),
        hostile("udf_name_nul", Partly, in_root(&[identifier(0, &name("a\0b"), 3, 0)])),
        hostile("udf_name_of_16_bits_and_odd", Either, in_root(&[identifier(0, &[16, 0, b'a', 0], 3, 0)])),
        hostile("udf_name_of_77_bits", Either, in_root(&[identifier(0, &[77, 0, b'a', 0], 3, 0)])),
        hostile("udf_name_of_no_bytes", Either, in_root(&[identifier(0, &[], 3, 0)])),
        hostile("udf_link_then_directory", Partly, {
            let mut volume = Volume::new(&[identifier(0, &name("d"), FREE, 0), identifier(2, &name("d"), FREE + 1, 0)]);
            let up = [&[3, 0, 0, 0][..], &[3, 0, 0, 0], &[5, 7, 0, 0, 8], b"canary"].concat();
            volume.file(FREE, &FileEntry::embedded(12, up));
            volume.file(FREE + 1, &FileEntry::embedded(4, identifier(0, &name("planted"), 3, 0))).done()
        }),
        hostile("deleted_entries", Wholly, in_root(&[identifier(4, &name("gone"), u32::MAX, 9)])),
    ]
}

fn deep(levels: u32) -> Vec<u8> {
    let mut volume = Volume::new(&[identifier(2, &name("d"), FREE, 0)]);
    volume.partition(PARTITION as u32, levels + 20);
    for block in FREE..FREE + levels {
        volume.file(block, &FileEntry::embedded(4, identifier(2, &name("d"), block + 1, 0)));
    }
    volume.file(FREE + levels, &FileEntry::embedded(4, Vec::new()));
    volume.anchor(&short(4 * 2048, 32)).done()
}
