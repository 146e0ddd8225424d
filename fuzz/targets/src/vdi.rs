//! VDI.

use crate::exercise;
use diskimg::storage::edit::MemoryStorage;
use diskimg::storage::source::MemorySource;
use diskimg::{Convert, Format, OpenOptions};
use diskimg_testkit::vdi::{Vdi, ZERO};
use std::sync::Arc;

/// Guest bytes that are written into the image.
const WRITTEN: usize = 10_000;

/// Input: a file. Images that can be written in place have the new bytes, and the old ones after
/// them.
pub(crate) fn vdi(input: &[u8]) {
    exercise::image(input.to_vec(), Format::Vdi);
    write_in_place(input);
}

/// Returns true if the data of the image begin within its first MiB, in blocks of at most as many
/// bytes: in memory, a file has no holes.
fn is_small(input: &[u8]) -> bool {
    /// Offsets in the header of the offset of the data, of the size of a block and of its extra bytes.
    const FIELDS: [usize; 3] = [0x158, 0x178, 0x17c];
    FIELDS.into_iter().all(|at| {
        let field = input.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        field.is_some_and(|bytes| u32::from_le_bytes(bytes) <= 1 << 20)
    })
}

fn write_in_place(input: &[u8]) {
    if !is_small(input) {
        return;
    }
    let options = || OpenOptions::new().format(Format::Vdi);
    let source = |bytes: &[u8]| Arc::new(MemorySource::new(bytes.to_vec()));
    let read = |bytes: &[u8]| {
        let image = options().open_source(source(bytes), "image").ok()?;
        let mut guest = vec![0; usize::try_from(image.size()).ok().filter(|&n| n <= 1 << 20)?];
        image.read_at(&mut guest, 0).ok()?;
        Some(guest)
    };
    let Some(mut expected) = read(input).filter(|old| old.len() >= WRITTEN) else { return };
    let data: Vec<u8> = (0..WRITTEN).map(|i| if i / 1000 % 3 == 1 { 0 } else { 0xa5 }).collect();
    expected[..WRITTEN].copy_from_slice(&data);
    // The last sector is padded with zeros.
    expected[WRITTEN..WRITTEN.next_multiple_of(512)].fill(0);
    let storage = Arc::new(MemoryStorage::new(input.to_vec()));
    let raw = OpenOptions::new().format(Format::Raw).open_source(source(&data), "data");
    let written = Convert::new(raw.expect("raw"))
        .format(Format::Vdi)
        .threads(1)
        .run_existing_on(Arc::clone(&storage) as _, "image");
    if written.is_ok() {
        let found = read(&storage.to_vec()).expect("what was written can be read");
        assert!(found == expected, "the image has other bytes than were written");
    }
}

pub(crate) fn vdi_seeds() -> Vec<Vec<u8>> {
    let base = || Vdi { block_bytes: 4096, ..Vdi::dynamic(4 * 4096 + 512) };
    let filled = |image: Vdi| image.block(1, 1, 0x11).entry(2, ZERO).block(4, 0, 0x14);
    vec![
        filled(base()).build(),
        filled(Vdi { version: 2, ..base() }).build(),
        filled(Vdi { block_extra: 512, header_bytes: 384, ..base() }).build(),
        filled(Vdi { image_type: 2, data_at: Some(1024), ..base() }).block(0, 2, 1).build(),
        filled(Vdi { block_bytes: 4096, ..Vdi::child(&base()) }).build(),
        filled(Vdi { allocated: Some(4), entries: Some(9), ..base() }).block(3, 7, 3).build(),
    ]
}
