//! UDF: the input consists of descriptors and file entries. Their checksums are corrected.

use super::tree;
use crate::scatter::Scatter;
use diskimg::storage::source::MemorySource;
use diskimg_testkit::iso::SECTOR;
use diskimg_testkit::udf::{
    FREE, FileEntry, UdfBuilder, body, identifier, long, name, short, tagged,
};
use std::sync::{Arc, OnceLock};

/// Descriptors; file set, root directory and entries; blocks that the seeds use; the anchor; the
/// volume recognition sequence.
const UDF: Scatter<'_> = Scatter {
    sector_bytes: SECTOR,
    sectors: &[33, 34, 32, 35, 300, 301, 302, 303, 308, 309, 310, 311, 256, 16, 17],
};

/// Length of a descriptor tag in bytes.
const TAG: usize = 16;

/// Input: sectors. The checksums and CRCs of tags are corrected if the first byte is even.
pub(crate) fn udf(input: &[u8]) {
    static BASE: OnceLock<Vec<u8>> = OnceLock::new();
    let base = BASE.get_or_init(|| UdfBuilder::new(&[]).finish());
    let Some((&first, rest)) = input.split_first() else { return };
    let mut rest = rest.to_vec();
    if first % 2 == 0 {
        rest.chunks_mut(SECTOR).for_each(correct_checksums);
    }
    tree::exercise(Arc::new(MemorySource::new(UDF.put(base, &rest))));
}

/// Corrects the checksums and CRCs of the tags in a sector (3/7.2).
fn correct_checksums(sector: &mut [u8]) {
    let mut at = 0;
    while at + TAG <= sector.len() {
        let id = u16::from_le_bytes([sector[at], sector[at + 1]]);
        if !matches!(id, 1..=9 | 256..=266) {
            return;
        }
        let len = usize::from(u16::from_le_bytes([sector[at + 10], sector[at + 11]]));
        let Some(bytes) = sector.get(at + TAG..at + TAG + len) else { return };
        let correct = tagged(id, 0, bytes);
        sector[at + 8..at + 10].copy_from_slice(&correct[8..10]);
        sector[at + 4] = 0;
        let sum = sector[at..at + TAG].iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
        sector[at + 4] = sum;
        // Only file identifiers can follow each other in a sector.
        if id != 257 {
            return;
        }
        at = (at + TAG + len).next_multiple_of(4);
    }
}

/// Returns a partition map of type 2 (2.2.8 and following).
fn map(kind: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut map = vec![2, 64, 0, 0, 0];
    map.extend(kind);
    map.resize(36, 0);
    map.extend([1, 0, 0, 0]);
    map.extend(rest);
    map.resize(64, 0);
    map
}

pub(crate) fn udf_seeds() -> Vec<Vec<u8>> {
    let one = [1, 6, 1, 0, 0, 0];
    let file = |entry: FileEntry| {
        let mut volume = UdfBuilder::new(&[identifier(0, &name("other"), FREE, 0)]);
        volume.file(FREE, &entry);
        volume
    };
    let continuation = short(3 << 30 | 2048, FREE + 1);
    let more = |extents: &[u8]| {
        let len = (extents.len() as u32).to_le_bytes();
        tagged(258, FREE + 1, &body(24 + extents.len(), &[(20, &len), (24, extents)]))
    };
    let mut all = vec![
        UdfBuilder::new(&[]),
        file(FileEntry::embedded(5, b"embedded".to_vec())),
        file(FileEntry::embedded(12, [&[5, 4, 0, 0][..], &name("good.txt")].concat())),
        file(FileEntry { form: 1, ..FileEntry::new(5, 4000, long(4000, 3, 0)) }),
        file(FileEntry::new(5, 5000, [short(2048, 4), short(2 << 30 | 2952, 0)].concat())),
    ];
    let mut chained = file(FileEntry::new(5, 6000, continuation));
    chained.block(FREE + 1, &more(&[short(4096, 3), short(1904, 4)].concat()));
    all.push(chained);
    let entries = [identifier(10, &[], 1, 0), identifier(0, b"\x10\0\xe9\x20\xac", 3, 0)].concat();
    let mut nested =
        UdfBuilder::new(&[identifier(2, &name("dir"), FREE, 0), identifier(4, &name("x"), 3, 0)]);
    let len = entries.len() as u32;
    nested
        .file(FREE, &FileEntry::new(4, len.into(), short(len, FREE + 1)))
        .block(FREE + 1, &entries);
    all.push(nested);
    // Metadata, sparable and virtual partitions.
    let mut metadata = UdfBuilder::new(&[]);
    let places = [FREE, FREE, u32::MAX].map(u32::to_le_bytes).concat();
    let kind = map(b"*UDF Metadata Partition", &[&places[..], &[32, 0, 0, 0, 1, 0, 0]].concat());
    metadata.logical_volume(2048, &[&one, &kind], &long(2048, 0, 1));
    metadata.file(FREE, &FileEntry::new(250, 6 * 2048, short(6 * 2048, 0)));
    all.push(metadata);
    let mut sparable = UdfBuilder::new(&[]);
    let table =
        [&[32, 0, 2, 0, 56, 0, 0, 0][..], &[310u32, 311].map(u32::to_le_bytes).concat()].concat();
    sparable.logical_volume(2048, &[&map(b"*UDF Sparable Partition", &table)], &long(2048, 0, 0));
    let spared =
        [&[0; 20][..], b"*UDF Sparing Table", &[0; 14], &[2, 0, 0, 0, 1, 0, 0, 0]].concat();
    let spared = [&spared[..], &[0u32, 312, u32::MAX, 312].map(u32::to_le_bytes).concat()].concat();
    for sector in [310, 311] {
        sparable.at(sector, &tagged(0, sector as u32, &spared[16..]));
    }
    all.push(sparable);
    let mut virtual_ = UdfBuilder::new(&[]);
    virtual_.logical_volume(2048, &[&one, &map(b"*UDF Virtual Partition", &[])], &long(2048, 0, 1));
    all.push(virtual_);
    all.iter().map(|volume| [&[0], &UDF.take(&volume.finish())[..]].concat()).collect()
}
