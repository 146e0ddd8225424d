//! Files of several sections (ECMA-119, 6.5): chains that never end, sizes without end.

use super::Expected::{Either, Partly};
use super::{Hostile, hostile, run_class};
use diskimg_testkit::iso::{Craft, FREE, GOOD_AT, MORE, ROOT, Record, directory};

#[test]
fn sections_without_end_are_an_error_of_their_file() {
    run_class("Files of several sections", images());
}

fn images() -> Vec<Hostile> {
    let part = |size| Record::file("BIG", FREE, size).flagged(MORE);
    let in_subdirectory = |records: &[Record]| {
        let bytes = directory(FREE, ROOT, &[], records);
        let size = bytes.len() as u32;
        let mut craft = Craft::new(&[Record { size, ..Record::dir("A", FREE) }]);
        craft.put(FREE, &bytes);
        craft.finish()
    };
    vec![
        hostile(
            "the_last_section_never_comes",
            Either,
            Craft::new(&[part(2048), part(2048)]).finish(),
        ),
        hostile("a_single_section_with_more_to_come", Either, Craft::new(&[part(100)]).finish()),
        hostile(
            "70000_sections_of_4_gib",
            Partly,
            in_subdirectory(&vec![part(0xFFFF_F800); 70_000]),
        ),
        hostile(
            "60000_sections_of_4_gib",
            Partly,
            in_subdirectory(&vec![part(0xFFFF_F800); 60_000]),
        ),
        hostile("60000_sections_of_one_sector", Either, {
            in_subdirectory(&vec![Record::file("BIG", GOOD_AT, 2048).flagged(MORE); 60_000])
        }),
        hostile("60000_sections_of_nothing", Either, in_subdirectory(&vec![part(0); 60_000])),
        hostile("sections_in_turn_with_another_file", Either, {
            let other = Record::file("OTHER", FREE, 2048);
            in_subdirectory(&vec![[part(2048), other]; 500].concat())
        }),
        hostile("a_directory_of_several_sections", Either, {
            let dir = Record::dir("D", FREE + 8);
            let mut craft =
                Craft::new(&[dir.clone().flagged(MORE), dir.clone().flagged(MORE), dir]);
            craft.dir(FREE + 8, ROOT, &[]);
            craft.finish()
        }),
        hostile("sections_that_are_now_file_now_directory", Either, {
            let mut craft = Craft::new(&[part(2048), Record::dir("BIG", FREE), part(2048)]);
            craft.dir(FREE, ROOT, &[]);
            craft.finish()
        }),
        hostile("sections_of_an_odd_size", Either, {
            Craft::new(&[part(1), part(3), Record::file("BIG", FREE, 5)]).finish()
        }),
    ]
}
