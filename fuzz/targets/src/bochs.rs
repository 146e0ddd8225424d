//! Bochs.

use crate::exercise;
use diskimg::Format;
use diskimg_testkit::bochs::Bochs;

/// Input: a file.
pub(crate) fn bochs(input: &[u8]) {
    exercise::image(input.to_vec(), Format::Bochs);
}

pub(crate) fn bochs_seeds() -> Vec<Vec<u8>> {
    let filled = |image: Bochs| image.sector(0, 1, 0, 1).sector(0, 1, 3, 2).sector(2, 0, 1, 3);
    vec![
        filled(Bochs::new(3 * 4096 - 512)).build(),
        filled(Bochs { version: 1, entries: Some(9), ..Bochs::new(3 * 4096) }).build(),
        filled(Bochs { bitmap_bytes: Some(600), extent_bytes: 2048, ..Bochs::new(6144) }).build(),
        filled(Bochs { subtype: "Undoable".into(), ..Bochs::new(3 * 4096) }).build(),
    ]
}
