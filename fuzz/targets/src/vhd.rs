//! VHD.

use crate::exercise;
use diskimg::Format;
use diskimg_testkit::vhd::{Locator, SECTOR, Vhd, fixed, seal};

/// Input: a file, in which the checksums of the footers and of the dynamic header are corrected.
pub(crate) fn vhd(input: &[u8]) {
    let mut file = input.to_vec();
    let len = file.len();
    let structures =
        [(0, SECTOR, 64), (SECTOR, 1024, 36), (len.saturating_sub(SECTOR), SECTOR, 64)];
    for (at, size, checksum_at) in structures {
        if let Some(structure) = file.get_mut(at..at + size) {
            seal(structure, checksum_at);
        }
    }
    exercise::image(file, Format::Vhd);
}

pub(crate) fn vhd_seeds() -> Vec<Vec<u8>> {
    let small = |vhd: Vhd| Vhd { block_bytes: 4096, size: 4 * 4096 + 512, ..vhd };
    let locators = vec![
        Locator::windows(b"W2ru", ".\\base.vhd"),
        Locator::windows(b"W2ku", "C:\\vm\\base.vhd"),
        Locator { code: *b"MacX", bytes: b"file:///vm/base.vhd".to_vec() },
    ];
    let child = Vhd { locators, ..Vhd::child(0, [1; 16], "base.vhd") };
    vec![
        fixed(&[7; 1024]),
        small(Vhd::dynamic(0)).block(1, 0x11, 0..8).block(4, 0x44, 0..1).build(),
        small(Vhd::dynamic(0)).block(0, 0x10, [1, 3]).block(2, 0x12, 4..8).build(),
        small(child).block(2, 0x22, 0..4).build(),
    ]
}
