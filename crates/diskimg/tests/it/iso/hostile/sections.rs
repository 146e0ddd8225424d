//! Files with several extents (ECMA-119, 6.5): missing last extents, too many extents, huge sizes.

use super::Expected::{Either, Partly};
use super::{Hostile, hostile, run_class};
use diskimg_testkit::iso::{FREE, GOOD_AT, IsoBuilder, MORE, ROOT, Record, directory};

#[test]
fn invalid_file_extents_do_not_affect_other_files() {
    run_class("Files with several extents", images());
}

fn images() -> Vec<Hostile> {
    let part = |size| Record::file("BIG", FREE, size).with_flags(MORE);
    let in_subdirectory = |records: &[Record]| {
        let bytes = directory(FREE, ROOT, &[], records);
        let size = bytes.len() as u32;
        let mut builder = IsoBuilder::new(&[Record { size, ..Record::dir("A", FREE) }]);
        builder.put(FREE, &bytes);
        builder.finish()
    };
    vec![
        hostile(
            "the_last_extent_is_missing",
            Either,
            IsoBuilder::new(&[part(2048), part(2048)]).finish(),
        ),
        hostile(
            "a_single_extent_with_the_multi_extent_flag",
            Either,
            IsoBuilder::new(&[part(100)]).finish(),
        ),
        hostile(
            "70000_extents_of_4_gib",
            Partly,
            in_subdirectory(&vec![part(0xFFFF_F800); 70_000]),
        ),
        hostile(
            "60000_extents_of_4_gib",
            Partly,
            in_subdirectory(&vec![part(0xFFFF_F800); 60_000]),
        ),
        hostile("60000_extents_of_one_sector", Either, {
            in_subdirectory(&vec![Record::file("BIG", GOOD_AT, 2048).with_flags(MORE); 60_000])
        }),
        hostile("60000_empty_extents", Either, in_subdirectory(&vec![part(0); 60_000])),
        hostile("extents_alternating_with_another_file", Either, {
            let other = Record::file("OTHER", FREE, 2048);
            in_subdirectory(&vec![[part(2048), other]; 500].concat())
        }),
        hostile("a_directory_with_several_extents", Either, {
            let dir = Record::dir("D", FREE + 8);
            let mut builder =
                IsoBuilder::new(&[dir.clone().with_flags(MORE), dir.clone().with_flags(MORE), dir]);
            builder.dir(FREE + 8, ROOT, &[]);
            builder.finish()
        }),
        hostile("extents_of_a_file_and_a_directory", Either, {
            let mut builder = IsoBuilder::new(&[part(2048), Record::dir("BIG", FREE), part(2048)]);
            builder.dir(FREE, ROOT, &[]);
            builder.finish()
        }),
        hostile("extents_of_partial_sectors", Either, {
            IsoBuilder::new(&[part(1), part(3), Record::file("BIG", FREE, 5)]).finish()
        }),
    ]
}
