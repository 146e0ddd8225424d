//! Images in compressed files.

use crate::exercise;
use diskimg::storage::source::MemorySource;
use diskimg::{ExternalFiles, Limits, OpenOptions};
use flate2::write::GzEncoder;
use std::io::Write;
use std::sync::Arc;

/// Input: a compressed file. Checksums are not corrected, but the streams of gzip, and those of zstd
/// without a checksum, are read to their ends nevertheless.
pub(crate) fn compressed(input: &[u8]) {
    let mut limits = Limits::default();
    limits.unpacked_bytes = 4 << 20;
    let options = OpenOptions::new().limits(limits).external_files(ExternalFiles::None);
    let source = Arc::new(MemorySource::new(input.to_vec()));
    if let Some(image) = exercise::open(|| options.open_source(source.clone(), "fuzzed.img")) {
        exercise::contents(&image);
    }
}

pub(crate) fn compressed_seeds() -> Vec<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&[7; 5000]).expect("writes to a buffer");
    let gzip = gzip.finish().expect("writes to a buffer");
    vec![
        gzip,
        bgzip(&[&[1; 512], &[2; 1024], &[]]),
        // Two blocks, two frames, one stream: `xz --block-size=4096 -T2 -C crc32`, `zstd`, `bzip2`.
        include_bytes!("compressed/d.xz").to_vec(),
        include_bytes!("compressed/d.zst").to_vec(),
        include_bytes!("compressed/d.bz2").to_vec(),
    ]
}

/// Compresses parts to members as bgzip writes them.
fn bgzip(parts: &[&[u8]]) -> Vec<u8> {
    let mut file = Vec::new();
    for part in parts {
        let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), Default::default());
        deflate.write_all(part).expect("writes to a buffer");
        let deflated = deflate.finish().expect("writes to a buffer");
        let len = 18 + deflated.len() + 8;
        file.extend([0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 6, 0, b'B', b'C', 2, 0]);
        file.extend((len as u16 - 1).to_le_bytes());
        file.extend(deflated);
        file.extend(crc32fast::hash(part).to_le_bytes());
        file.extend((part.len() as u32).to_le_bytes());
    }
    file
}
