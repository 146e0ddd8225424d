//! Every type of chunks, with contents and lengths at their limits.

use super::{assert_read_by, assert_refused_by, check, our_bytes, sample, write};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::dmg::{ADC, BZIP2, Chunk, Dmg, LZFSE, LZMA, RAW, ZLIB, encode_lzfse};
use diskimg_testkit::oracles::Oracle;

const TYPES: [(&str, u32); 6] = [
    ("raw", RAW),
    ("adc", ADC),
    ("zlib", ZLIB),
    ("bzip2", BZIP2),
    ("lzfse", LZFSE),
    ("lzma", LZMA),
];

/// Disks with boundary cases.
fn contents() -> Vec<(&'static str, Disk)> {
    let run = |at, len, fill| Run { at, len, fill };
    vec![
        ("sample", sample()),
        ("one sector", Disk { size: 512, runs: vec![run(0, 512, Fill::Noise(1))] }),
        ("one byte", Disk { size: 3 * 512, runs: vec![run(700, 1, Fill::Byte(1))] }),
        (
            "megabytes",
            Disk {
                size: (5 << 20) + 512,
                runs: vec![
                    run(0, 1 << 20, Fill::Words(4)),
                    run(1 << 20, 1 << 20, Fill::Byte(5)),
                    run((2 << 20) + 77, 300_000, Fill::Noise(6)),
                    run(4 << 20, (1 << 20) + 512, Fill::Words(7)),
                ],
            },
        ),
    ]
}

/// QEMU reads zlib, and bzip2 and LZFSE with modules of its own. libmodi reads hdiutil's images but
/// for LZMA; it takes some streams of bzip2 and LZFSE for damaged. 7-Zip 26.02 takes LZFSE's blocks
/// of plain bytes for damaged; Apple's decoder reads them.
#[test]
fn every_type_of_chunk_is_read_as_by_other_readers() {
    let dir = tempfile::tempdir().unwrap();
    for (name, chunk_type) in TYPES {
        for (content, disk) in contents() {
            for sectors in [1, 8, 2048] {
                if sectors == 1 && disk.size > 1 << 20 {
                    continue;
                }
                let image = Dmg::whole(chunk_type, &disk.bytes(), sectors);
                let path = write(dir.path(), "disk.dmg", &image);
                assert_eq!(our_bytes(&path), disk.bytes(), "{name}, {content}, {sectors}");
                let (report, found) = check(&path);
                assert!(found.is_empty(), "{name}, {content}, {sectors}: {found:?}");
                assert_eq!(report.verified_digests, 2);
                let mut oracles = Vec::new();
                let is_plain = |chunk: &Chunk| chunk.stored.starts_with(b"bvx-");
                if !image.tables[0].chunks.iter().any(is_plain) {
                    oracles.push(Oracle::SevenZip);
                }
                if matches!(chunk_type, RAW | ZLIB) {
                    oracles.push(Oracle::QemuImg);
                }
                if matches!(chunk_type, RAW | ZLIB | ADC) {
                    oracles.push(Oracle::Libyal);
                }
                assert_read_by(&oracles, &path, &disk);
            }
        }
    }
}

/// The description calls it LZMA; QEMU and libmodi do not have it, nor QEMU ADC.
#[test]
fn lzma_and_adc_are_not_read_by_all() {
    let dir = tempfile::tempdir().unwrap();
    for (chunk_type, oracles) in
        [(LZMA, &[Oracle::QemuImg, Oracle::Libyal][..]), (ADC, &[Oracle::QemuImg])]
    {
        let path = write(dir.path(), "disk.dmg", &Dmg::whole(chunk_type, &sample().bytes(), 8));
        assert_refused_by(oracles, &path, &sample());
    }
}

/// Streams of Apple's reference implementation: short ones are LZVN, long ones have entropy coding.
#[test]
fn streams_of_the_reference_implementation_of_lzfse_are_read() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..40 {
        // Text, repetitions at all distances, noise.
        let mut guest = Vec::new();
        let noise = diskimg_testkit::disk::noise(seed + 100, 4096);
        let len = 512 << (seed % 12);
        let mut state = seed + 1;
        while guest.len() < len {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let n = 1 + (state >> 40) as usize % 300;
            let from = (state >> 20) as usize % 3700;
            match state >> 60 {
                0..5 => guest.extend(&noise[from..from + n]),
                5..9 => guest.extend(vec![(state >> 33) as u8; n]),
                _ => {
                    let start = guest.len().saturating_sub(from * 17 % (guest.len() + 1));
                    let end = (start + n).min(guest.len());
                    guest.extend_from_within(start..end);
                }
            }
        }
        guest.truncate(len);
        guest[0] |= 1;
        if encode_lzfse(&guest[..512]).is_none() {
            return;
        }
        let image = Dmg::whole(LZFSE, &guest, len / 512);
        let path = write(dir.path(), "disk.dmg", &image);
        assert!(our_bytes(&path) == guest, "{seed}");
        assert_eq!(check(&path).1, []);
    }
}
