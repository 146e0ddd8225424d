//! DMG: the file, and the streams of chunks.

use crate::exercise;
use diskimg::Format;
use diskimg::storage::codec::{Codec, Decoder};
use diskimg_testkit::disk::Fill;
use diskimg_testkit::dmg::{
    ADC, COMMENT, Chunk, Dmg, IGNORE, Place, RAW, Table, ZERO, ZLIB, encode,
};

/// Sectors of the disks of seeds.
const SECTORS: usize = 24;

/// Input: a file.
pub(crate) fn dmg(input: &[u8]) {
    exercise::image(input.to_vec(), Format::Dmg);
}

pub(crate) fn dmg_seeds() -> Vec<Vec<u8>> {
    let guest = Fill::Words(3).bytes(SECTORS * 512);
    let chunks = || {
        vec![
            Chunk::empty(COMMENT, 0, 0),
            Chunk::new(ZLIB, 0, &guest[..8 * 512]),
            Chunk::new(ADC, 8, &guest[8 * 512..12 * 512]),
            Chunk::empty(ZERO, 12, 2),
            Chunk::empty(IGNORE, 14, 6),
            Chunk::new(RAW, 20, &guest[20 * 512..]),
        ]
    };
    let tables = || vec![Table::new(0, &guest, chunks()), Table::new(30, &guest, chunks())];
    // Tables in a resource fork are not in base 64.
    let places = [Place::Plist, Place::ResourceFork, Place::Both];
    let mut seeds: Vec<_> =
        places.iter().map(|&place| Dmg { place, ..Dmg::of(tables()) }.build()).collect();
    seeds.push(Dmg { trailer_first: true, sectors: Some(0), ..Dmg::of(tables()) }.build());
    seeds.push(include_bytes!("../../../testdata/dmg/bzip2.dmg").to_vec());
    seeds.push(include_bytes!("../../../testdata/dmg/lzfse.dmg").to_vec());
    seeds.push(include_bytes!("../../../testdata/dmg/lzma.dmg").to_vec());
    seeds
}

/// Input: a byte that selects a codec, two that are the length of the unit, then the stored bytes.
/// Streams that can be decoded have the same bytes in a shorter unit.
pub(crate) fn dmg_codecs(input: &[u8]) {
    const CODECS: [Codec; 4] = [Codec::Adc, Codec::Lzfse, Codec::Bzip2, Codec::Xz];
    let [codec, a, b, stored @ ..] = input else { return };
    let codec = CODECS[usize::from(codec % 4)];
    let len = usize::from(u16::from_le_bytes([*a, *b]));
    let mut unit = vec![0xa5; len];
    if Decoder::default().decode(codec, stored, &mut unit).is_err() {
        return;
    }
    let mut start = vec![0x5a; len / 2];
    let decoded = Decoder::default().decode(codec, stored, &mut start);
    decoded.expect("the start of a valid stream is valid");
    assert!(unit.starts_with(&start), "a shorter unit has other bytes");
}

pub(crate) fn dmg_codecs_seeds() -> Vec<Vec<u8>> {
    let guest = Fill::Words(5).bytes(2000);
    let seed = |codec: u8, stored: &[u8]| {
        let len = u16::try_from(guest.len()).expect("is short").to_le_bytes();
        [&[codec][..], &len, stored].concat()
    };
    let lzvn = [0xe5, 1, 2, 3, 4, 5, 0x88, 5, 9, 8, 0xf0, 200, 0x07, 3, 0, 0xb9, 14, 0, 7, 7, 7, 6];
    let lzvn = [b"bvxn", &220_u32.to_le_bytes()[..], &22_u32.to_le_bytes(), &lzvn].concat();
    let plain = [b"bvx-", &2000_u32.to_le_bytes()[..], &guest, b"bvx$"].concat();
    let mut seeds = vec![seed(0, &encode(ADC, &guest)), seed(1, &[lzvn, plain].concat())];
    // The streams of the chunks of hdiutil's images, which are at the start of the files.
    let files: [(u8, &[u8], [u8; 4]); 3] = [
        (1, include_bytes!("../../../testdata/dmg/lzfse.dmg"), *b"bvx2"),
        (2, include_bytes!("../../../testdata/dmg/bzip2.dmg"), *b"BZh9"),
        (3, include_bytes!("../../../testdata/dmg/lzma.dmg"), *b"\xfd7zX"),
    ];
    for (codec, file, magic) in files {
        let starts = file.windows(4).enumerate().filter(|(_, bytes)| *bytes == magic);
        seeds.extend(
            starts.take(4).map(|(at, _)| seed(codec, &file[at..file.len().min(at + 2500)])),
        );
    }
    seeds
}
