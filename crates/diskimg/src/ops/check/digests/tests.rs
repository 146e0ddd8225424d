use super::*;
use crate::model::extent::{Encoded, Extent, HostOffset, Kind, push};
use crate::model::image::Link;
use crate::model::sealed::Sealed;
use crate::ops::check::Check;
use crate::report::check::CheckReport;
use crate::report::info::Details;
use crate::storage::codec::{Codec, Encoder};
use crate::storage::source::{MemorySource, Source};
use crate::{DiskLayout, Format, Layer};
use std::ops::Range;
use std::sync::{Arc, Mutex};

const MIB: u64 = 1 << 20;

/// 3 MiB of data, a compressed unit of 2 MiB and 5 MiB of zeros.
#[derive(Debug)]
struct Disk {
    files: [Arc<dyn Source>; 1],
    unit: Range<u64>,
    digests: Vec<RecordedDigest>,
}

const SIZE: u64 = 10 * MIB;

impl Sealed for Disk {}

impl Layer for Disk {
    fn format(&self) -> Format {
        Format::Raw
    }

    fn disk_layout(&self) -> DiskLayout {
        DiskLayout { size: SIZE, cluster_size: 512 }
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        let host = HostOffset { file: 0, offset: self.unit.start };
        let stored = (self.unit.end - self.unit.start) as u32;
        let unit = Encoded {
            host,
            stored,
            least_stored: stored,
            unit: 3 * MIB..5 * MIB,
            codec: Codec::Zlib,
        };
        let parts = [
            (0..3 * MIB, Kind::Data(HostOffset { file: 0, offset: 0 })),
            (unit.unit.clone(), Kind::Encoded(unit)),
            (5 * MIB..SIZE, Kind::Zero(None)),
        ];
        for (guest, kind) in parts {
            let part = guest.start.max(range.start)..guest.end.min(range.end);
            if !part.is_empty() {
                push(out, part.clone(), kind.forward(part.start - guest.start));
            }
        }
        Ok(())
    }

    fn details(&self) -> Details {
        Details::default()
    }

    fn recorded_digests(&self) -> Result<Option<Vec<RecordedDigest>>> {
        Ok(Some(self.digests.clone()))
    }
}

/// Returns the guest's bytes and the stored bytes.
fn contents() -> (Vec<u8>, Vec<u8>) {
    let mut guest: Vec<u8> = (0..5 * MIB).map(|i| (i * i / 977) as u8).collect();
    let mut stored = guest[..3 * MIB as usize].to_vec();
    let unit = &guest[3 * MIB as usize..];
    assert!(Encoder::zlib().encode(unit, unit.len(), &mut stored).expect("encodes"));
    guest.resize(SIZE as usize, 0);
    (guest, stored)
}

fn guest(ranges: &[Range<u64>]) -> DigestedBytes {
    DigestedBytes::Guest(ranges.to_vec())
}

fn one(range: Range<u64>) -> DigestedBytes {
    guest(std::slice::from_ref(&range))
}

fn digest(contents: DigestedBytes, value: DigestValue) -> RecordedDigest {
    RecordedDigest::new("hash section", 77, contents, value)
}

fn crc(bytes: &[u8]) -> DigestValue {
    DigestValue::Crc32(crc32fast::hash(bytes))
}

fn image(stored: Vec<u8>, digests: Vec<RecordedDigest>) -> Image {
    let unit = 3 * MIB..stored.len() as u64;
    let layer = Disk { files: [Arc::new(MemorySource::new(stored))], unit, digests };
    Image::from_links(vec![Link {
        layer: Arc::new(layer),
        name: "disk".to_owned(),
        is_local: true,
        compression: None,
        limits: Arc::default(),
    }])
}

fn check(image: &Image, threads: usize) -> (CheckReport, Vec<Finding>) {
    let mut findings = Vec::new();
    let report = Check::new(image).threads(threads).run(&mut |finding| findings.push(finding));
    (report.expect("is checked").expect("has digests"), findings)
}

/// The digests of a sound disk: of all of it, of parts, and of a range of the file.
fn digests(disk: &[u8], stored: &[u8]) -> Vec<RecordedDigest> {
    let parts = [10..MIB + 3, 3 * MIB..3 * MIB + 512, 5 * MIB - 7..SIZE];
    let bytes: Vec<u8> = parts
        .iter()
        .flat_map(|part| &disk[part.start as usize..part.end as usize])
        .copied()
        .collect();
    let host = 5..stored.len() as u64;
    vec![
        digest(one(0..SIZE), DigestValue::Md5(md5::Md5::digest(disk).into())),
        digest(one(0..SIZE), DigestValue::Sha1(Sha1::digest(disk).into())),
        digest(one(0..SIZE), crc(disk)),
        digest(guest(&parts), crc(&bytes)),
        digest(guest(&parts), DigestValue::Sha1(Sha1::digest(&bytes).into())),
        digest(guest(&[]), crc(&[])),
        digest(DigestedBytes::Host { file: 0, range: host }, crc(&stored[5..])),
    ]
}

#[test]
fn digests_of_sound_contents_match() {
    let (disk, stored) = contents();
    let digests = digests(&disk, &stored);
    let count = digests.len() as u64;
    let image = image(stored, digests);
    for threads in [1, 2, 5] {
        let (report, findings) = check(&image, threads);
        assert!(findings.is_empty(), "{findings:?}");
        assert_eq!((report.recorded_digests, report.verified_digests), (Some(count), count));
    }
}

#[test]
fn every_digest_that_does_not_match_is_reported() {
    let (disk, mut stored) = contents();
    let digests = digests(&disk, &stored);
    // In the data; of the digests, only that of nothing does not cover it.
    stored[100] ^= 1;
    let image = image(stored, digests);
    let (report, findings) = check(&image, 3);
    assert_eq!((report.corruptions, report.verified_digests), (6, 1));
    assert!(findings.iter().all(|finding| finding.code == Code::DigestMismatch));
    assert!(findings.iter().all(|finding| finding.offset == Some(77)));
    let text = &findings[0].message;
    assert!(text.starts_with("hash section: the MD5 of the disk is "), "{text}");
    assert!(text.ends_with(" is recorded"), "{text}");
}

#[test]
fn contents_that_cannot_be_read_are_reported_and_other_digests_verified() {
    let (disk, mut stored) = contents();
    let mut digests = digests(&disk, &stored);
    let first = digest(one(0..3 * MIB), crc(&disk[..3 * MIB as usize]));
    digests.push(first);
    stored[3 * MIB as usize] = 0xff;
    digests.retain(|digest| !matches!(digest.contents, DigestedBytes::Host { .. }));
    let image = image(stored, digests);
    let (report, findings) = check(&image, 2);
    // The digests of the same bytes are one finding.
    assert_eq!((report.corruptions, report.verified_digests), (2, 2), "{findings:?}");
    let text = &findings[0].message;
    let expected = "hash section: the MD5 and SHA-1 and CRC-32 cannot be verified: ";
    assert!(text.starts_with(expected) && text.contains("cannot decompress"), "{text}");
}

#[test]
fn a_range_beyond_the_disk_is_a_finding() {
    let (_, stored) = contents();
    let image = image(stored, vec![digest(one(0..SIZE + 1), DigestValue::Crc32(0))]);
    let (report, findings) = check(&image, 2);
    assert_eq!((report.check_errors, report.verified_digests), (1, 0), "{findings:?}");
}

#[test]
fn bytes_of_several_digests_are_read_once_and_the_check_can_be_cancelled() {
    let (disk, stored) = contents();
    let mut digests = digests(&disk, &stored);
    digests.truncate(3);
    let image = image(stored, digests);
    let last = Mutex::new((0, 0));
    let callback = |progress: crate::Progress| {
        *last.lock().expect("lock") = (progress.done, progress.total);
        ControlFlow::Continue(())
    };
    Check::new(&image).progress(&callback).run(&mut |_| ()).expect("is checked");
    assert_eq!(*last.lock().expect("lock"), (SIZE, SIZE));
    let stop = |_: crate::Progress| ControlFlow::Break(());
    let error = Check::new(&image).progress(&stop).run(&mut |_| ()).expect_err("is cancelled");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

#[test]
fn the_crc_of_zeros_does_not_depend_on_how_it_is_computed() {
    for len in [0, 1, 2, 511, 512, 65_537, 3 << 20] {
        assert_eq!(crc_of_zeros(len as u64).finalize(), crc32fast::hash(&vec![0; len]), "{len}");
    }
    // Computed at once, however long it is.
    crc_of_zeros(u64::MAX);
}

/// The values are those of the empty string in RFC 1321 and FIPS 180.
#[test]
fn values_are_written_as_other_tools_write_them() {
    let empty = [DigestValue::Md5([0; 16]), DigestValue::Sha1([0; 20]), DigestValue::Crc32(0)];
    let texts = empty.map(|value| State::new(&value).finish().to_string());
    let expected = [
        "d41d8cd98f00b204e9800998ecf8427e",
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "00000000",
    ];
    assert_eq!(texts, expected);
}
