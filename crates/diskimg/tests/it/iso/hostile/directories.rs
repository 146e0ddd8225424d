//! Directories that contain each other, overlap, or are outside the image; directory records with
//! wrong lengths.

use super::Expected::{Either, Partly, Wholly};
use super::{Hostile, hostile, run_class};
use diskimg_testkit::iso::{DIRECTORY, FREE, GOOD_AT, IsoBuilder, ROOT, Record, SECTOR, directory};

#[test]
fn directories_in_a_loop_are_visited_once() {
    run_class("Directory loops", loops());
}

#[test]
fn invalid_directory_extents_do_not_affect_other_directories() {
    run_class("Directory extents", extents());
}

#[test]
fn records_with_wrong_lengths_do_not_affect_other_records() {
    run_class("Directory records", records());
}

fn loops() -> Vec<Hostile> {
    let dir = Record::dir;
    // a → b → a.
    let mut mutual = IsoBuilder::new(&[dir("A", FREE)]);
    mutual.dir(FREE, ROOT, &[dir("B", FREE + 1)]).dir(FREE + 1, FREE, &[dir("A", FREE)]);
    let mut itself = IsoBuilder::new(&[dir("A", FREE)]);
    itself.dir(FREE, ROOT, &[dir("A", FREE)]);
    let mut to_parent = IsoBuilder::new(&[dir("A", FREE)]);
    to_parent.dir(FREE, ROOT, &[dir("UP", ROOT)]);
    // Each directory starts at the second sector of the previous one, so no location repeats.
    let mut shifted = IsoBuilder::new(&[Record { size: 200 << 11, ..dir("A", FREE) }]);
    for at in 0..200 {
        let next = Record { size: (199 - at) << 11, ..dir("A", FREE + at + 1) };
        shifted.dir(FREE + at, ROOT, &[next]);
    }
    vec![
        hostile("root_within_itself", Partly, IsoBuilder::new(&[dir("R", ROOT)]).finish()),
        hostile("directory_within_itself", Partly, itself.finish()),
        hostile("directory_contains_its_parent", Partly, to_parent.finish()),
        hostile("two_directories_within_each_other", Partly, mutual.finish()),
        hostile("every_level_contains_the_next_forty_times", Partly, ladder()),
        hostile("each_directory_is_within_the_previous", Partly, shifted.finish()),
        hostile("ten_thousand_deep", Partly, deep(10_000)),
        hostile("as_deep_as_allowed", Wholly, deep(200)),
        hostile("ten_thousand_deep_by_rock_ridge", Partly, deep_rock_ridge(10_000)),
        hostile("dot_and_dot_dot_are_wrong", Either, wrong_dots()),
        hostile("root_record_of_the_descriptor_is_a_file", Either, root_is_a_file()),
    ]
}

/// Forty subdirectories at each of forty levels: 40^40 paths.
fn ladder() -> Vec<u8> {
    let to = |sector| -> Vec<_> {
        (0..40).map(|way| Record::dir(format!("D{way:02}"), sector)).collect()
    };
    let mut builder = IsoBuilder::new(&to(FREE));
    for level in 0..40 {
        builder.dir(FREE + level, ROOT, &to(FREE + level + 1));
    }
    builder.dir(FREE + 40, ROOT, &[]);
    builder.finish()
}

fn deep(levels: u32) -> Vec<u8> {
    let mut builder = IsoBuilder::new(&[Record::dir("D", FREE)]);
    for level in 0..levels {
        let below = Record::dir("D", FREE + level + 1);
        builder.dir(FREE + level, FREE + level - 1, &[below]);
    }
    builder.dir(FREE + levels, FREE + levels - 1, &[]);
    builder.finish()
}

fn deep_rock_ridge(levels: u32) -> Vec<u8> {
    let name =
        "a directory with a long name, so that the whole path is longer than any path may be";
    let mut builder = IsoBuilder::rock_ridge(&[Record::rock_dir(name, FREE, &[])]);
    for level in 0..levels {
        let below = Record::rock_dir(name, FREE + level + 1, &[]);
        builder.dir(FREE + level, FREE + level - 1, &[below]);
    }
    builder.dir(FREE + levels, FREE + levels - 1, &[]);
    builder.finish()
}

fn wrong_dots() -> Vec<u8> {
    let mut builder = IsoBuilder::new(&[Record::dir("A", FREE)]);
    let mut bytes = directory(FREE, u32::MAX, &[], &[]);
    bytes[2..10].fill(0xFF);
    builder.put(FREE, &bytes);
    builder.finish()
}

fn root_is_a_file() -> Vec<u8> {
    let mut builder = IsoBuilder::new(&[]);
    builder.volume(0)[156 + 25] = 0;
    builder.finish()
}

fn extents() -> Vec<Hostile> {
    let one = |record: Record| {
        let mut builder = IsoBuilder::new(&[record]);
        builder.dir(FREE, ROOT, &[]);
        builder.finish()
    };
    let at = |sector, size| Record { size, ..Record::dir("A", sector) };
    vec![
        hostile("directory_beyond_the_end", Partly, one(at(1 << 20, 2048))),
        hostile("directory_at_the_last_possible_sector", Partly, one(at(u32::MAX, 2048))),
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
        hostile("a_thousand_overlapping_directories", Partly, overlapping()),
        hostile("five_million_entries_claimed", Partly, five_million()),
        hostile("sixty_thousand_files_with_the_whole_image", Either, whole_image_files()),
        hostile("a_directory_on_another_volume", Partly, {
            let mut builder = IsoBuilder::new(&[Record { sequence: 2, ..at(FREE, 2048) }]);
            builder.volume(0)[120..124].copy_from_slice(&diskimg_testkit::iso::both16(2));
            builder.dir(FREE, ROOT, &[]);
            builder.finish()
        }),
        hostile("an_interleaved_directory", Partly, {
            one(Record { unit_blocks: 1, gap_blocks: 255, ..at(FREE, 2048) })
        }),
    ]
}

/// Directories that each extend over all of them.
fn overlapping() -> Vec<u8> {
    let mut builder = IsoBuilder::new(&[Record { size: 40 << 11, ..Record::dir("ALL", FREE) }]);
    let records: Vec<_> = (0..1000u32)
        .map(|n| Record { size: 40 << 11, ..Record::dir(format!("D{n:04}"), FREE + n % 40) })
        .collect();
    let bytes = directory(FREE, ROOT, &[], &records);
    builder.put(FREE, &bytes);
    builder.finish()
}

/// 40 overlapping directories of 96 KiB that share 2,000 records, each of which is again one of
/// these directories.
fn five_million() -> Vec<u8> {
    let records: Vec<_> = (0..2000u32)
        .map(|n| Record { size: 96 << 10, ..Record::dir(format!("{n:04}"), FREE + n % 40) })
        .collect();
    let mut builder = IsoBuilder::new(&records[..500]);
    builder.put(FREE, &directory(FREE, ROOT, &[], &records));
    builder.finish()
}

/// A bomb: extraction would write 60,000 times the size of the image.
fn whole_image_files() -> Vec<u8> {
    let records: Vec<_> =
        (0..60_000u32).map(|n| Record::file(format!("{n:05}"), 0, 2 << 20)).collect();
    let bytes = directory(FREE, ROOT, &[], &records);
    let mut builder =
        IsoBuilder::new(&[Record { size: bytes.len() as u32, ..Record::dir("A", FREE) }]);
    builder.put(FREE, &bytes);
    builder.finish()
}

fn records() -> Vec<Hostile> {
    let mut all: Vec<_> = vec![
        hostile("record_lengths_1_to_33", Partly, lengths(1..=33)),
        hostile("record_lengths_beyond_the_sector", Partly, lengths(200..=255)),
        hostile("record_across_two_sectors", Partly, across()),
        hostile("name_of_no_bytes", Partly, {
            IsoBuilder::new(&[Record { name_len: Some(0), ..Record::file("EMPTY", 0, 0) }]).finish()
        }),
        hostile("name_longer_than_its_record", Partly, {
            IsoBuilder::new(&[Record { name_len: Some(255), ..Record::file("LONG", 0, 0) }])
                .finish()
        }),
        hostile("name_that_fills_its_record", Wholly, {
            IsoBuilder::new(&[Record::file([b'N'; 221], 0, 0)]).finish()
        }),
        hostile("name_without_its_padding", Either, {
            IsoBuilder::new(&[Record { len: Some(37), ..Record::file("EVEN", 0, 0) }]).finish()
        }),
        hostile("name_of_one_byte_0_among_the_files", Either, {
            IsoBuilder::new(&[Record::file([0], 0, 0), Record::dir([1], 0)]).finish()
        }),
        hostile("zeros_between_records", Wholly, {
            let mut bytes = directory(ROOT, ROOT, &[], &[Record::file("BEFORE", 0, 0)]);
            bytes.extend([0; SECTOR]);
            bytes.extend(Record::file("AFTER", 0, 0).bytes());
            let mut builder =
                IsoBuilder::new(&[Record { size: 3 << 11, ..Record::dir("A", FREE) }]);
            builder.put(FREE, &bytes);
            builder.finish()
        }),
        hostile("every_file_flag", Either, {
            IsoBuilder::new(&[Record::file("F", GOOD_AT, 8).with_flags(0xFF)]).finish()
        }),
        hostile("every_flag_except_multi_extent", Either, {
            IsoBuilder::new(&[Record::file("F", FREE, 2048).with_flags(0x7F)]).finish()
        }),
        hostile("a_directory_of_0xff", Partly, {
            let mut builder =
                IsoBuilder::new(&[Record { size: 64 << 10, ..Record::dir("A", FREE) }]);
            builder.put(FREE, &[0xFF; 64 << 10]);
            builder.finish()
        }),
        hostile("a_directory_of_0x22", Either, {
            let mut builder =
                IsoBuilder::new(&[Record { size: 64 << 10, ..Record::dir("A", FREE) }]);
            builder.put(FREE, &[0x22; 64 << 10]);
            builder.finish()
        }),
    ];
    for (name, sector, size) in [
        ("file_beyond_the_end", 1 << 24, 100),
        ("file_at_the_last_sector", u32::MAX, u32::MAX),
        ("file_of_4_gib", FREE, u32::MAX),
    ] {
        all.push(hostile(
            name,
            Partly,
            IsoBuilder::new(&[Record::file("F", sector, size)]).finish(),
        ));
    }
    all
}

/// A sector for each length, in which valid records precede the one with the wrong length.
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
    let mut builder = IsoBuilder::new(&[Record { size, ..Record::dir("A", FREE) }]);
    builder.put(FREE, &bytes);
    builder.finish()
}

/// The last record of a sector continues in the next.
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
    let mut builder = IsoBuilder::new(&[Record { size: 2 << 11, ..Record::dir("A", FREE) }]);
    builder.put(FREE, &bytes);
    builder.finish()
}
