//! System use fields (SUSP, Rock Ridge): continuation areas that loop or are outside the image, and
//! entries with wrong lengths.

use super::Expected::{Either, Partly, Wholly};
use super::{Expected, Hostile, hostile, run_class};
use diskimg_testkit::iso::{DIRECTORY, FREE, GOOD_AT, IsoBuilder, ROOT, Record, SECTOR, susp};

#[test]
fn invalid_continuation_areas_do_not_affect_other_files() {
    run_class("Continuations (CE)", continuations());
}

#[test]
fn invalid_relocations_do_not_affect_other_files() {
    run_class("Relocation (CL, PL, RE)", relocations());
}

#[test]
fn malformed_system_use_entries_do_not_affect_other_files() {
    run_class("System use entries", entries());
}

/// Returns an image with a file that has these additional entries, and with additional sectors.
fn with(entries: &[Vec<u8>], more: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut builder = IsoBuilder::rock_ridge(&[Record::rock("bad", GOOD_AT, 33, entries)]);
    for (sector, bytes) in more {
        builder.put(*sector, bytes);
    }
    builder.finish()
}

fn continuations() -> Vec<Hostile> {
    let ce = susp::ce;
    let first = |len| [ce(FREE, 0, len)];
    let chain = |areas: u32| {
        // The areas of 28 bytes each do not overlap, so none is visited twice.
        let area = |n: u32| ce(FREE + (n + 1) / 60, (n + 1) % 60 * 28, 28);
        let mut bytes = vec![0; (areas as usize / 60 + 2) * SECTOR];
        for n in 0..areas {
            let at = (n / 60) as usize * SECTOR + (n % 60) as usize * 28;
            bytes[at..at + 28].copy_from_slice(&area(n));
        }
        with(&first(28), &[(FREE, bytes)])
    };
    let place = |sector, offset, len| with(&[ce(sector, offset, len)], &[]);
    let link_parts = (0..25u32).map(|n| {
        let part = susp::entry(b"SL", &[&[1, 0, 200][..], &[b'x'; 200]].concat());
        (FREE + n, [part.repeat(9), ce(FREE + n + 1, 0, 2000)].concat())
    });
    let name_parts = (0..25u32).map(|n| {
        let part = susp::nm_flags(1, [b'x'; 200]);
        (FREE + n, [part.repeat(9), ce(FREE + n + 1, 0, 2000)].concat())
    });
    vec![
        hostile("area_continues_in_itself", Partly, with(&first(28), &[(FREE, ce(FREE, 0, 28))])),
        hostile("area_continues_in_its_own_record", Partly, place(ROOT, 0, 2048)),
        hostile("two_areas_continue_in_each_other", Partly, {
            with(&first(28), &[(FREE, ce(FREE + 1, 0, 28)), (FREE + 1, ce(FREE, 0, 28))])
        }),
        hostile("overlapping_areas", Partly, {
            with(&first(2048), &[(FREE, [ce(FREE, 28, 2000), ce(FREE, 29, 1900)].concat())])
        }),
        hostile("an_area_of_continuations_only", Partly, {
            with(
                &first(2044),
                &[
                    (FREE, ce(FREE + 1, 0, 2044).repeat(73)),
                    (FREE + 1, ce(FREE, 0, 2044).repeat(73)),
                ],
            )
        }),
        hostile("chain_of_10_areas", Wholly, chain(10)),
        hostile("chain_of_10000_areas", Partly, chain(10_000)),
        hostile("area_beyond_the_end", Partly, place(1 << 24, 0, 100)),
        hostile("area_at_the_last_sector", Partly, place(u32::MAX, 0, 100)),
        hostile("offset_of_4_gib", Partly, place(FREE, u32::MAX, 100)),
        hostile("length_of_4_gib", Partly, place(FREE, 0, u32::MAX)),
        hostile("all_of_4_gib", Partly, place(u32::MAX, u32::MAX, u32::MAX)),
        hostile("area_across_two_sectors", Either, place(FREE, 2000, 100)),
        hostile("area_of_no_bytes", Either, place(FREE, 0, 0)),
        hostile(
            "area_of_no_bytes_continues_in_itself",
            Either,
            with(&first(0), &[(FREE, ce(FREE, 0, 0))]),
        ),
        hostile("area_of_three_bytes", Either, place(FREE, 0, 3)),
        hostile("three_continuations_in_one_field", Either, {
            with(&[ce(FREE, 0, 28), ce(FREE + 1, 0, 28)], &[(FREE, ce(FREE + 2, 0, 28))])
        }),
        hostile("link_of_a_mebibyte", Partly, {
            let record = Record::file("L", 0, 0).with_system_use(&[
                susp::px(0o120_777),
                susp::nm("bad"),
                ce(FREE, 0, 2000),
            ]);
            let mut builder = IsoBuilder::rock_ridge(&[record]);
            for (sector, bytes) in link_parts {
                builder.put(sector, &bytes);
            }
            builder.finish()
        }),
        hostile("name_of_a_mebibyte", Partly, {
            let record =
                Record::file("N", 0, 0).with_system_use(&[susp::px(0o100_644), ce(FREE, 0, 2000)]);
            let mut builder = IsoBuilder::rock_ridge(&[record]);
            for (sector, bytes) in name_parts {
                builder.put(sector, &bytes);
            }
            builder.finish()
        }),
        hostile("a_thousand_records_with_one_area", Either, {
            let entry = [ce(FREE, 0, 2000)];
            let records: Vec<_> = (0..300)
                .map(|n| {
                    Record::file(format!("F{n:03}"), 0, 0)
                        .with_system_use(&[susp::px(0o100_644)])
                        .with_system_use(&entry)
                })
                .collect();
            let mut builder = IsoBuilder::rock_ridge(&records);
            builder.put(FREE, &susp::nm_flags(1, "x").repeat(300));
            builder.finish()
        }),
        hostile("root_record_continues_in_itself", Either, {
            let own = [susp::sp(0), susp::px(0o040_755), ce(ROOT, 34, 100)];
            let good = Record::rock("good.txt", GOOD_AT, 33, &[]);
            IsoBuilder::with_root(&own, &[good]).finish()
        }),
    ]
}

fn relocations() -> Vec<Hostile> {
    let moved = |name: &str, sector| {
        Record::file(name, sector, 2048).with_system_use(&[
            susp::px(0o040_755),
            susp::nm(name),
            susp::cl(sector),
        ])
    };
    let one = |record: Record| {
        let mut builder = IsoBuilder::rock_ridge(&[record]);
        builder.dir(FREE, ROOT, &[Record::rock("inside", GOOD_AT, 33, &[])]);
        builder.finish()
    };
    let mut mutual = IsoBuilder::rock_ridge(&[moved("a", FREE)]);
    mutual.dir(FREE, ROOT, &[moved("b", FREE + 1)]).dir(FREE + 1, ROOT, &[moved("a", FREE)]);
    let mut itself = IsoBuilder::rock_ridge(&[moved("a", FREE)]);
    itself.dir(FREE, ROOT, &[moved("a", FREE)]);
    let dot = |entries: &[Vec<u8>]| {
        let mut builder = IsoBuilder::rock_ridge(&[moved("a", FREE)]);
        builder.put(FREE, &diskimg_testkit::iso::directory(FREE, ROOT, entries, &[]));
        builder.finish()
    };
    vec![
        hostile("moved_to_its_own_location", Either, one(moved("a", FREE))),
        hostile("moved_to_the_root", Partly, one(moved("a", ROOT))),
        hostile("moved_into_itself", Partly, itself.finish()),
        hostile("moved_into_each_other", Partly, mutual.finish()),
        hostile("moved_to_a_file", Partly, one(moved("a", GOOD_AT))),
        hostile("moved_to_sector_0", Partly, one(moved("a", 0))),
        hostile("moved_to_the_descriptors", Partly, one(moved("a", 16))),
        hostile("moved_beyond_the_end", Partly, one(moved("a", 1 << 24))),
        hostile("moved_to_the_last_sector", Partly, one(moved("a", u32::MAX))),
        hostile("directory_record_with_cl", Either, one(moved("a", FREE).with_flags(DIRECTORY))),
        hostile(
            "its_own_record_says_moved_again",
            Either,
            dot(&[susp::cl(FREE), susp::px(0o040_755)]),
        ),
        hostile("its_own_record_says_relocated", Either, dot(&[susp::re(), susp::pl(u32::MAX)])),
        hostile("parent_link_to_nowhere", Either, dot(&[susp::pl(1 << 24)])),
        hostile("parent_link_to_itself", Either, dot(&[susp::pl(FREE)])),
        hostile("relocated_without_a_child_link", Either, {
            let record = Record::rock_dir("lost", FREE, &[susp::re()]);
            one(record)
        }),
        hostile(
            "relocated_and_moved_at_once",
            Either,
            one(moved("a", FREE).with_system_use(&[susp::re()])),
        ),
        hostile("a_hundred_child_links_to_one_directory", Partly, {
            let records: Vec<_> = (0..100).map(|n| moved(&format!("d{n}"), FREE)).collect();
            let mut builder = IsoBuilder::rock_ridge(&records);
            builder.dir(FREE, ROOT, &[]);
            builder.finish()
        }),
    ]
}

/// All supported entries, and some of other extensions.
const SIGNATURES: [&[u8; 2]; 21] = [
    b"SP",
    b"CE",
    b"PD",
    b"ST",
    b"ER",
    b"ES",
    b"PX",
    b"PN",
    b"SL",
    b"NM",
    b"CL",
    b"PL",
    b"RE",
    b"TF",
    b"RR",
    b"SF",
    b"ZF",
    b"AA",
    b"AL",
    b"\0\0",
    b"\xFF\xFF",
];

fn entries() -> Vec<Hostile> {
    let mut all = Vec::new();
    for len in [0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 20, 35, 36, 44, 200, 255] {
        for (fill, byte) in [("zeros", 0), ("ones", 0xFF)] {
            let records: Vec<_> = SIGNATURES
                .iter()
                .enumerate()
                .map(|(n, signature)| {
                    // As long as the entry claims, or at most 120 bytes.
                    let data = vec![byte; usize::from(len).clamp(4, 120) - 4];
                    let bad = susp::with_len(signature, len, &data);
                    Record::file(format!("BAD{n:02}"), GOOD_AT, 33)
                        .with_system_use(&[bad, susp::nm(format!("after{n}"))])
                })
                .collect();
            let name = format!("every_entry_of_{len}_bytes_{fill}");
            all.push(hostile(name, Either, IsoBuilder::rock_ridge(&records).finish()));
        }
    }
    let link = |data: &[u8]| {
        let entries = [susp::px(0o120_777), susp::nm("link"), susp::entry(b"SL", data)];
        IsoBuilder::rock_ridge(&[Record::file("L", 0, 0).with_system_use(&entries)]).finish()
    };
    let root = |own: &[Vec<u8>], expected: Expected, name: &str| {
        let good = Record::rock("good.txt", GOOD_AT, 33, &[]);
        hostile(name, expected, IsoBuilder::with_root(own, &[good]).finish())
    };
    all.extend([
        hostile("component_longer_than_its_entry", Partly, link(&[0, 0, 200, b'x'])),
        hostile("component_of_one_byte", Either, link(&[0, 0])),
        hostile("component_with_all_flags", Either, link(&[0, 0xFF, 1, b'x'])),
        hostile("component_root_in_the_middle", Either, link(&[0, 0, 1, b'a', 8, 0, 0, 1, b'b'])),
        hostile("component_with_nul", Either, link(&[0, 0, 3, b'a', 0, b'b'])),
        hostile("component_with_slashes", Either, link(b"\0\0\x0b../../../../")),
        hostile("link_continues_without_another_entry", Either, link(&[1, 1, 1, b'a'])),
        hostile(
            "a_hundred_empty_components",
            Either,
            link(&[&[0][..], &[0, 0].repeat(50)].concat()),
        ),
        root(&[susp::sp(255)], Either, "skip_255_bytes"),
        root(&[susp::sp(36), susp::er("IEEE_1282")], Either, "skip_into_the_middle_of_an_entry"),
        root(&[susp::with_len(b"SP", 4, &[])], Either, "sp_of_4_bytes"),
        root(&[susp::with_len(b"SP", 255, &[0xBE, 0xEF, 0])], Either, "sp_of_255_bytes"),
        root(
            &[susp::sp(0), susp::entry(b"ER", &[255, 255, 255, 1, b'x'])],
            Either,
            "er_longer_than_itself",
        ),
        root(&[susp::sp(0), susp::er("UNKNOWN_EXTENSION")], Either, "er_of_an_unknown_extension"),
        root(&[susp::sp(0), susp::entry(b"ES", &[200])], Either, "es_of_a_missing_extension"),
        hostile("invalid_times", Either, {
            let bad = susp::entry(b"TF", &[&[0x8F][..], &[b'9'; 68]].concat());
            let short = susp::entry(b"TF", &[&[0x7F][..], &[0xFF; 49]].concat());
            with(&[bad, short], &[])
        }),
        hostile("ids_and_links_of_4_billion", Wholly, {
            let entries = [susp::px_of(0o100_644, u32::MAX, u32::MAX, u32::MAX), susp::nm("bad")];
            IsoBuilder::rock_ridge(&[Record::file("F", GOOD_AT, 33).with_system_use(&entries)])
                .finish()
        }),
        hostile("device_numbers_of_4_billion", Wholly, {
            let entries = [susp::px(0o020_644), susp::nm("bad"), susp::pn(u32::MAX, u32::MAX)];
            IsoBuilder::rock_ridge(&[Record::file("F", 0, 0).with_system_use(&entries)]).finish()
        }),
    ]);
    all
}
