//! Images that hdiutil made on a Mac: the same disk with each compression.

use super::{check, our_bytes};
use diskimg::{Check, Convert, Format, Image};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

const NAMES: [&str; 5] = ["adc", "zlib", "bzip2", "lzfse", "lzma"];

/// SHA-256 of the disk: of `output_all.bin` of dmgwiz, from where the images are.
const DISK: &str = "1407509ff44696aab011815d84951ad2c53cb7345a71d9803b73817c2d2d83cf";

fn path(name: &str) -> PathBuf {
    let testdata = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/dmg"));
    testdata.join(format!("{name}.dmg"))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_compression_has_the_same_disk() {
    for name in NAMES {
        assert_eq!(sha256(&our_bytes(&path(name))), DISK, "{name}");
    }
}

/// Those of eight tables and, but for zlib, the data fork's. That of the APFS volume does not cover
/// the chunk of sectors that are not in use.
#[test]
fn all_checksums_match() {
    for name in NAMES {
        let (report, findings) = check(&path(name));
        assert!(findings.is_empty(), "{name}: {findings:?}");
        let count = if name == "zlib" { 8 } else { 9 };
        assert_eq!(report.recorded_digests, Some(count), "{name}");
        assert_eq!(report.verified_digests, count, "{name}");
    }
}

#[test]
fn a_changed_byte_of_the_data_fork_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = std::fs::read(path("lzma")).unwrap();
    // In the chunk of the master boot record.
    bytes[30] ^= 1;
    let damaged = super::write_bytes(dir.path(), "damaged.dmg", &bytes);
    let image = Image::open(&damaged).unwrap();
    let mut found = Vec::new();
    let report = Check::new(&image).run(&mut |finding| found.push(finding.message));
    let report = report.unwrap().unwrap();
    assert_eq!((report.corruptions, report.verified_digests), (2, 7), "{found:?}");
    assert!(found[0].contains("data fork: the CRC-32 of the stored bytes"), "{found:?}");
}

#[test]
fn a_conversion_does_not_depend_on_the_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let outputs = [1, 2, 7].map(|threads| {
        let out = dir.path().join(format!("{threads}.qcow2"));
        let image = Image::open(path("lzfse")).unwrap();
        Convert::new(image).format(Format::Qcow2).threads(threads).verify(true).run(&out).unwrap();
        std::fs::read(out).unwrap()
    });
    assert!(outputs.iter().all(|output| *output == outputs[0]));
}
