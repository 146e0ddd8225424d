//! zisofs files: parameters out of range, invalid block pointers, decompression bombs.

use super::Expected::{Either, Partly, Wholly};
use super::{Hostile, hostile, run_class};
use diskimg_testkit::iso::{DIRECTORY, FREE, IsoBuilder, ROOT, Record, directory, susp};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use std::io::Write;

/// Magic number of a zisofs file.
const MAGIC: [u8; 8] = [0x37, 0xE4, 0x53, 0x96, 0xC9, 0xDB, 0xD6, 0x07];

#[test]
fn malformed_zisofs_files_do_not_affect_other_files() {
    run_class("zisofs", images());
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Returns a zisofs file: header, block pointers, blocks.
fn zisofs(size: u32, words: u8, log2: u8, pointers: &[u32], blocks: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(size.to_le_bytes());
    bytes.extend([words, log2, 0, 0]);
    for pointer in pointers {
        bytes.extend(pointer.to_le_bytes());
    }
    bytes.extend(blocks);
    bytes
}

/// Returns an image with a zisofs file that has the entry `zf`.
fn image(zf: Vec<u8>, file: &[u8]) -> Vec<u8> {
    let record = Record::rock("compressed", FREE, file.len() as u32, &[zf]);
    IsoBuilder::rock_ridge(&[record]).put(FREE, file).finish()
}

fn images() -> Vec<Hostile> {
    let zeros = zlib(&[0; 1 << 15]);
    let end = 24 + zeros.len() as u32;
    // One block of 32 KiB.
    let valid = zisofs(1 << 15, 4, 15, &[24, end], &zeros);
    let zf = |log2, size| susp::zf(4, log2, size);
    let pointers = |name: &str, expected, pointers: &[u32]| {
        let size = (pointers.len() as u32 - 1) << 15;
        let file = zisofs(size, 4, 15, pointers, &zeros);
        hostile(name, expected, image(zf(15, size), &file))
    };
    let mut all = vec![hostile("valid", Wholly, image(zf(15, 1 << 15), &valid))];
    for log2 in [0, 1, 14, 18, 31, 32, 63, 64, 200, 255] {
        let file = zisofs(1 << 15, 4, log2, &[24, end], &zeros);
        all.push(hostile(
            format!("blocks_of_2^{log2}_bytes"),
            Partly,
            image(zf(log2, 1 << 15), &file),
        ));
        let name = format!("blocks_of_2^{log2}_bytes_in_the_header_only");
        all.push(hostile(name, Partly, image(zf(15, 1 << 15), &file)));
    }
    all.extend([
        pointers("pointers_go_back", Partly, &[28, 28 + 30, 28 + 10, 28 + 40]),
        pointers("pointer_beyond_the_end", Partly, &[24, u32::MAX]),
        pointers("both_pointers_beyond_the_end", Partly, &[u32::MAX - 1, u32::MAX]),
        pointers("pointer_into_the_header", Either, &[0, 24]),
        pointers("pointers_into_the_pointers", Either, &[16, 24]),
        pointers("every_block_is_the_whole_file", Partly, &[&[0x1000; 1][..], &[24; 40]].concat()),
        pointers("no_block_is_stored", Either, &[24 + 4 * 999; 1000]),
        hostile("pointers_longer_than_the_file", Partly, {
            image(zf(15, u32::MAX), &zisofs(u32::MAX, 4, 15, &[24, end], &zeros))
        }),
        hostile("size_of_4_gib_in_zf_only", Partly, image(zf(15, u32::MAX), &valid)),
        hostile("size_of_4_gib_in_the_header_only", Partly, {
            image(zf(15, 1 << 15), &zisofs(u32::MAX, 4, 15, &[24, end], &zeros))
        }),
        hostile("size_of_nothing", Either, image(zf(15, 0), &zisofs(0, 4, 15, &[24], &[]))),
        hostile("a_header_of_1020_bytes", Partly, image(susp::zf(255, 15, 1 << 15), &valid)),
        hostile("a_header_of_no_bytes", Partly, image(susp::zf(0, 15, 1 << 15), &valid)),
        hostile("no_magic", Partly, image(zf(15, 1 << 15), &[0; 100])),
        hostile("an_empty_file", Partly, image(zf(15, 1 << 15), &[])),
        hostile("a_file_of_15_bytes", Partly, image(zf(15, 1 << 15), &valid[..15])),
        hostile(
            "truncated_within_a_block",
            Partly,
            image(zf(15, 1 << 15), &valid[..valid.len() - 9]),
        ),
        hostile("a_block_that_is_not_zlib", Partly, {
            image(zf(15, 1 << 15), &zisofs(1 << 15, 4, 15, &[24, 64], &[0x55; 40]))
        }),
        hostile("a_block_that_decompresses_to_more", Partly, {
            let block = zlib(&vec![0; 64 << 20]);
            let end = 24 + block.len() as u32;
            image(zf(15, 1 << 15), &zisofs(1 << 15, 4, 15, &[24, end], &block))
        }),
        hostile("a_block_that_decompresses_to_less", Partly, {
            let block = zlib(&[0; 100]);
            let end = 24 + block.len() as u32;
            image(zf(15, 1 << 15), &zisofs(1 << 15, 4, 15, &[24, end], &block))
        }),
        hostile("a_bomb_of_empty_blocks", Partly, bomb_of_holes()),
        hostile("a_bomb_with_a_hundred_names", Either, bomb_of_files(100)),
        hostile("a_bomb_with_three_thousand_names", Either, bomb_of_files(3000)),
        hostile("version_2_of_2^63_bytes", Partly, {
            let mut entry = zf(17, u32::MAX);
            entry[4..6].copy_from_slice(b"PZ");
            entry[8..16].fill(0x7F);
            let mut file = valid.clone();
            file[..8].copy_from_slice(&[0xEF, 0x22, 0x55, 0xA1, 0xBC, 0x1B, 0x95, 0xA0]);
            file[8..24].fill(0x7F);
            image(entry, &file)
        }),
        hostile("a_compressed_directory", Partly, {
            let dir = Record::rock_dir("d", FREE, &[zf(15, 1 << 15)]);
            let mut builder = IsoBuilder::rock_ridge(&[
                dir.with_flags(DIRECTORY),
                Record::rock_dir("e", ROOT, &[]),
            ]);
            builder.dir(FREE, ROOT, &[]);
            builder.finish()
        }),
        hostile("a_compressed_link", Either, {
            let entries = [susp::px(0o120_777), susp::nm("l"), susp::sl("x"), zf(15, 1 << 15)];
            IsoBuilder::rock_ridge(&[Record::file("L", FREE, 100).with_system_use(&entries)])
                .finish()
        }),
        hostile("a_compressed_file_with_two_extents", Either, {
            let part = |flags| {
                Record::rock("compressed", FREE, 2048, &[zf(15, 1 << 15)]).with_flags(flags)
            };
            IsoBuilder::rock_ridge(&[part(0x80), part(0)]).put(FREE, &valid).finish()
        }),
    ]);
    all
}

/// 4 GiB in 512 KiB: all blocks are empty, which means zeros.
fn bomb_of_holes() -> Vec<u8> {
    let blocks = 1u32 << 17;
    let at = 16 + 4 * (blocks + 1);
    let file = zisofs(u32::MAX, 4, 15, &vec![at; blocks as usize + 1], &[]);
    image(susp::zf(4, 15, u32::MAX), &file)
}

/// Many names of a file that decompresses to a thousand times its size.
fn bomb_of_files(names: u32) -> Vec<u8> {
    let block = zlib(&[0; 1 << 17]);
    let first = 16 + 4 * 65;
    let pointers: Vec<_> = (0..=64).map(|n| first + n * block.len() as u32).collect();
    let file = zisofs(64 << 17, 4, 17, &pointers, &block.repeat(64));
    let (at, len) = (FREE + 256, file.len() as u32);
    let zf = susp::zf(4, 17, 64 << 17);
    let name = |n| Record::rock(&format!("b{n}"), at, len, std::slice::from_ref(&zf));
    let bytes = directory(FREE, ROOT, &[], &(0..names).map(name).collect::<Vec<_>>());
    let size = bytes.len() as u32;
    let mut builder =
        IsoBuilder::rock_ridge(&[Record { size, ..Record::rock_dir("d", FREE, &[]) }]);
    builder.put(FREE, &bytes).put(at, &file).finish()
}
