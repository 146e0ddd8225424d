//! Directories that lie in each other, over each other, or nowhere; records that lie about
//! their lengths.

use super::Expected::{Either, Partly, Wholly};
use super::{Hostile, hostile, run_class};
use diskimg_testkit::iso::{Craft, DIRECTORY, FREE, GOOD_AT, ROOT, Record, SECTOR, directory};

#[test]
fn directories_in_a_loop_are_visited_once() {
    run_class("Directory loops", loops());
}

#[test]
fn directories_that_lie_nowhere_or_over_each_other_spoil_no_other() {
    run_class("Directory extents", extents());
}

#[test]
fn records_that_lie_about_their_length_spoil_no_other() {
    run_class("Directory records", records());
}

fn loops() -> Vec<Hostile> {
    let dir = Record::dir;
    // a → b → a.
    let mut mutual = Craft::new(&[dir("A", FREE)]);
    mutual.dir(FREE, ROOT, &[dir("B", FREE + 1)]).dir(FREE + 1, FREE, &[dir("A", FREE)]);
    let mut itself = Craft::new(&[dir("A", FREE)]);
    itself.dir(FREE, ROOT, &[dir("A", FREE)]);
    let mut to_parent = Craft::new(&[dir("A", FREE)]);
    to_parent.dir(FREE, ROOT, &[dir("UP", ROOT)]);
    // A loop that is never at the same place twice: each directory is within the one before.
    let mut shifted = Craft::new(&[Record { size: 200 << 11, ..dir("A", FREE) }]);
    for at in 0..200 {
        let next = Record { size: (199 - at) << 11, ..dir("A", FREE + at + 1) };
        shifted.dir(FREE + at, ROOT, &[next]);
    }
    vec![
        hostile("root_within_itself", Partly, Craft::new(&[dir("R", ROOT)]).finish()),
        hostile("directory_within_itself", Partly, itself.finish()),
        hostile("directory_holds_its_parent", Partly, to_parent.finish()),
        hostile("two_directories_within_each_other", Partly, mutual.finish()),
        hostile("every_level_holds_the_next_forty_times", Partly, ladder()),
        hostile("each_directory_lies_within_the_last", Partly, shifted.finish()),
        hostile("ten_thousand_deep", Partly, deep(10_000)),
        hostile("as_deep_as_allowed", Wholly, deep(200)),
        hostile("ten_thousand_deep_by_rock_ridge", Partly, deep_rock_ridge(10_000)),
        hostile("dot_and_dot_dot_lead_elsewhere", Either, wrong_dots()),
        hostile("root_record_of_the_descriptor_is_a_file", Either, root_is_a_file()),
    ]
}

/// Forty ways down on each of forty levels: 40^40 paths.
fn ladder() -> Vec<u8> {
    let to = |sector| -> Vec<_> {
        (0..40).map(|way| Record::dir(format!("D{way:02}"), sector)).collect()
    };
    let mut craft = Craft::new(&to(FREE));
    for level in 0..40 {
        craft.dir(FREE + level, ROOT, &to(FREE + level + 1));
    }
    craft.dir(FREE + 40, ROOT, &[]);
    craft.finish()
}

fn deep(levels: u32) -> Vec<u8> {
    let mut craft = Craft::new(&[Record::dir("D", FREE)]);
    for level in 0..levels {
        let below = Record::dir("D", FREE + level + 1);
        craft.dir(FREE + level, FREE + level - 1, &[below]);
    }
    craft.dir(FREE + levels, FREE + levels - 1, &[]);
    craft.finish()
}

fn deep_rock_ridge(levels: u32) -> Vec<u8> {
    let name =
        "a directory with a long name, so that the whole path is longer than any path may be";
    let mut craft = Craft::rock_ridge(&[Record::rock_dir(name, FREE, &[])]);
    for level in 0..levels {
        let below = Record::rock_dir(name, FREE + level + 1, &[]);
        craft.dir(FREE + level, FREE + level - 1, &[below]);
    }
    craft.dir(FREE + levels, FREE + levels - 1, &[]);
    craft.finish()
}

fn wrong_dots() -> Vec<u8> {
    let mut craft = Craft::new(&[Record::dir("A", FREE)]);
    let mut bytes = directory(FREE, u32::MAX, &[], &[]);
    bytes[2..10].fill(0xFF);
    craft.put(FREE, &bytes);
    craft.finish()
}

fn root_is_a_file() -> Vec<u8> {
    let mut craft = Craft::new(&[]);
    craft.volume(0)[156 + 25] = 0;
    craft.finish()
}

fn extents() -> Vec<Hostile> {
    let one = |record: Record| {
        let mut craft = Craft::new(&[record]);
        craft.dir(FREE, ROOT, &[]);
        craft.finish()
    };
    let at = |sector, size| Record { size, ..Record::dir("A", sector) };
    vec![
        hostile("directory_behind_the_end", Partly, one(at(1 << 20, 2048))),
        hostile("directory_at_the_last_sector_there_can_be", Partly, one(at(u32::MAX, 2048))),
        hostile("directory_of_4_gib", Partly, one(at(FREE, u32::MAX))),
        hostile("directory_of_4_gib_at_the_last_sector", Partly, one(at(u32::MAX, u32::MAX))),
        hostile("directory_of_no_bytes", Either, one(at(FREE, 0))),
        hostile("directory_of_one_byte", Either, one(at(FREE, 1))),
        hostile("directory_of_33_bytes", Either, one(at(FREE, 33))),
        hostile("directory_at_sector_0", Either, one(at(0, 2048))),
        hostile("directory_over_the_descriptors", Either, one(at(16, 2048))),
        hostile("directory_over_a_file", Either, one(at(GOOD_AT, 2048))),
        hostile("directory_with_255_attribute_sectors", Partly, {
            one(Record { attribute_blocks: 255, ..at(FREE, 2048) })
        }),
        hostile("a_thousand_directories_over_each_other", Partly, overlapping()),
        hostile("five_million_entries_claimed", Partly, five_million()),
        hostile("sixty_thousand_files_over_the_whole_image", Either, whole_image_files()),
        hostile("a_directory_on_another_volume", Partly, {
            let mut craft = Craft::new(&[Record { sequence: 2, ..at(FREE, 2048) }]);
            craft.volume(0)[120..124].copy_from_slice(&diskimg_testkit::iso::both16(2));
            craft.dir(FREE, ROOT, &[]);
            craft.finish()
        }),
        hostile("an_interleaved_directory", Partly, {
            one(Record { unit_blocks: 1, gap_blocks: 255, ..at(FREE, 2048) })
        }),
    ]
}

/// Each as long as all of them together.
fn overlapping() -> Vec<u8> {
    let mut craft = Craft::new(&[Record { size: 40 << 11, ..Record::dir("ALL", FREE) }]);
    let records: Vec<_> = (0..1000u32)
        .map(|n| Record { size: 40 << 11, ..Record::dir(format!("D{n:04}"), FREE + n % 40) })
        .collect();
    let bytes = directory(FREE, ROOT, &[], &records);
    craft.put(FREE, &bytes);
    craft.finish()
}

/// 64 directories of 64 KiB each, which share the same 2,000 records; each record is a directory, which
/// is one of the 64 again, or begins within one.
fn five_million() -> Vec<u8> {
    let records: Vec<_> = (0..2000u32)
        .map(|n| Record { size: 96 << 10, ..Record::dir(format!("{n:04}"), FREE + n % 40) })
        .collect();
    let mut craft = Craft::new(&records[..500]);
    craft.put(FREE, &directory(FREE, ROOT, &[], &records));
    craft.finish()
}

/// A bomb: what is extracted would be 60,000 times what is there.
fn whole_image_files() -> Vec<u8> {
    let records: Vec<_> =
        (0..60_000u32).map(|n| Record::file(format!("{n:05}"), 0, 2 << 20)).collect();
    let bytes = directory(FREE, ROOT, &[], &records);
    let mut craft = Craft::new(&[Record { size: bytes.len() as u32, ..Record::dir("A", FREE) }]);
    craft.put(FREE, &bytes);
    craft.finish()
}

fn records() -> Vec<Hostile> {
    let mut all: Vec<_> = vec![
        hostile("record_lengths_1_to_33", Partly, lengths(1..=33)),
        hostile("record_lengths_behind_the_sector", Partly, lengths(200..=255)),
        hostile("record_across_two_sectors", Partly, across()),
        hostile("name_of_no_bytes", Partly, {
            Craft::new(&[Record { name_len: Some(0), ..Record::file("EMPTY", 0, 0) }]).finish()
        }),
        hostile("name_longer_than_its_record", Partly, {
            Craft::new(&[Record { name_len: Some(255), ..Record::file("LONG", 0, 0) }]).finish()
        }),
        hostile("name_that_fills_its_record", Wholly, {
            Craft::new(&[Record::file([b'N'; 221], 0, 0)]).finish()
        }),
        hostile("name_without_its_padding", Either, {
            Craft::new(&[Record { len: Some(37), ..Record::file("EVEN", 0, 0) }]).finish()
        }),
        hostile("name_of_one_byte_0_among_the_files", Either, {
            Craft::new(&[Record::file([0], 0, 0), Record::dir([1], 0)]).finish()
        }),
        hostile("zeros_between_records", Wholly, {
            let mut bytes = directory(ROOT, ROOT, &[], &[Record::file("BEFORE", 0, 0)]);
            bytes.extend([0; SECTOR]);
            bytes.extend(Record::file("AFTER", 0, 0).bytes());
            let mut craft = Craft::new(&[Record { size: 3 << 11, ..Record::dir("A", FREE) }]);
            craft.put(FREE, &bytes);
            craft.finish()
        }),
        hostile("every_file_flag", Either, {
            Craft::new(&[Record::file("F", GOOD_AT, 8).flagged(0xFF)]).finish()
        }),
        hostile("every_flag_but_more", Either, {
            Craft::new(&[Record::file("F", FREE, 2048).flagged(0x7F)]).finish()
        }),
        hostile("a_directory_of_0xff", Partly, {
            let mut craft = Craft::new(&[Record { size: 64 << 10, ..Record::dir("A", FREE) }]);
            craft.put(FREE, &[0xFF; 64 << 10]);
            craft.finish()
        }),
        hostile("a_directory_of_0x22", Either, {
            let mut craft = Craft::new(&[Record { size: 64 << 10, ..Record::dir("A", FREE) }]);
            craft.put(FREE, &[0x22; 64 << 10]);
            craft.finish()
        }),
    ];
    for (name, sector, size) in [
        ("file_behind_the_end", 1 << 24, 100),
        ("file_at_the_last_sector", u32::MAX, u32::MAX),
        ("file_of_4_gib", FREE, u32::MAX),
    ] {
        all.push(hostile(name, Partly, Craft::new(&[Record::file("F", sector, size)]).finish()));
    }
    all
}

/// A sector for each length; a file stands before each record, which no one loses.
fn lengths(lengths: impl Iterator<Item = u8> + Clone) -> Vec<u8> {
    let mut bytes = directory(FREE, ROOT, &[], &[]);
    for len in lengths {
        let mut sector = Record::file(format!("N{len:03}"), 0, 0).bytes();
        while sector.len() < SECTOR - 40 {
            sector.extend(Record::file(format!("P{:04}", sector.len()), 0, 0).bytes());
        }
        sector.extend(Record { len: Some(len), ..Record::file("B", FREE, 9) }.bytes());
        sector.truncate(SECTOR);
        sector.resize(SECTOR, 0);
        bytes.extend(sector);
    }
    let size = bytes.len() as u32;
    let mut craft = Craft::new(&[Record { size, ..Record::dir("A", FREE) }]);
    craft.put(FREE, &bytes);
    craft.finish()
}

/// The last record of a sector goes on in the next.
fn across() -> Vec<u8> {
    let mut bytes = directory(FREE, ROOT, &[], &[]);
    bytes.truncate(68);
    while bytes.len() < SECTOR - 20 {
        bytes.extend(
            Record { flags: DIRECTORY, ..Record::file(format!("{:05}", bytes.len()), ROOT, 0) }
                .bytes(),
        );
    }
    bytes.extend(Record::file("ACROSS", 0, 0).bytes());
    bytes.resize(2 * SECTOR, 0);
    let mut craft = Craft::new(&[Record { size: 2 << 11, ..Record::dir("A", FREE) }]);
    craft.put(FREE, &bytes);
    craft.finish()
}
