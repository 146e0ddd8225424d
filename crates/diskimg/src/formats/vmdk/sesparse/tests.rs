//! Reading seSparse extents, valid ones and ones damaged in every field.

use super::*;
use crate::ErrorKind;
use crate::formats::vmdk::tests::esx::{Grain, Grains, SeSparse, guest, put};
use crate::storage::source::MemorySource;
use proptest::prelude::*;

/// Two and a half tables; the last grain is short.
const SECTORS: u64 = 2 * 32768 + 16386;

fn sample() -> (SeSparse, Grains) {
    let grains = [
        (0, Grain::Data(1)),
        (1, Grain::Data(2)),
        (2, Grain::Zero),
        (3, Grain::Unmapped),
        (4095, Grain::Data(3)),
        (8192, Grain::Zero),
        (8192 + 2048, Grain::Data(4)),
    ];
    (SeSparse::dense(SECTORS), grains.into())
}

fn open(file: Vec<u8>) -> Result<SeSparseExtent> {
    SeSparseExtent::open(
        Arc::new(MemorySource::new(file)),
        &Limits::default(),
        MemoryBudget::default(),
    )
}

/// Maps `range`; asserts that the extents cover it without gaps.
fn map(extent: &SeSparseExtent, range: Range<u64>) -> Result<Vec<Extent>> {
    const BASE: u64 = 3 << 20;
    let mut extents = Vec::new();
    extent.map(range.clone(), BASE, 7, &mut extents)?;
    let mut at = BASE + range.start;
    for extent in &extents {
        assert_eq!(extent.guest.start, at);
        at = extent.guest.end;
    }
    assert_eq!(at, BASE + range.end);
    Ok(extents)
}

/// Returns the guest bytes of an extent without a parent.
fn read_all(extent: &SeSparseExtent) -> Result<Vec<u8>> {
    let mut disk = Vec::new();
    for mapping in map(extent, 0..extent.size())? {
        let start = disk.len();
        disk.resize(start + (mapping.guest.end - mapping.guest.start) as usize, 0);
        match mapping.kind {
            Kind::Data(at) => {
                assert_eq!(at.file, 7);
                extent.source.read_exact_at(&mut disk[start..], at.offset).expect("in the file");
            }
            Kind::Zero(None) | Kind::Unallocated => {}
            other => panic!("{other:?}"),
        }
    }
    Ok(disk)
}

fn check(extent: &SeSparseExtent) -> Vec<String> {
    let (mut findings, mut counts) = (Vec::new(), CheckReport::default());
    extent.check(&mut |f| findings.push(f.message), &mut counts);
    assert_eq!(counts.corruptions + counts.check_errors, findings.len() as u64);
    findings
}

#[test]
fn grains_are_found_for_every_grain_and_table_size() {
    let (plain, grains) = sample();
    let shapes = [
        plain.clone(),
        SeSparse::esxi(SECTORS),
        // Grain numbers of more than 12 bits, which are split over two fields.
        SeSparse { first: 4093, ..plain.clone() },
        SeSparse { table_sectors: 128, ..plain.clone() },
        SeSparse { table_sectors: 3, ..plain.clone() },
        SeSparse { grain_sectors: 4, ..plain.clone() },
    ];
    for shape in shapes {
        let extent = open(shape.build(&grains)).expect("opens");
        let expected = guest(vec![0; SECTORS as usize * 512], shape.grain_sectors, &grains);
        assert_eq!(extent.grain_bytes(), shape.grain_sectors * 512);
        assert!(read_all(&extent).expect("maps") == expected, "{shape:?}");
        assert_eq!(check(&extent), [""; 0], "{shape:?}");
    }
}

#[test]
fn zeros_hide_the_parent_and_unallocated_grains_do_not() {
    let (shape, grains) = sample();
    let extent = open(shape.build(&grains)).expect("opens");
    let kinds = |grains: Range<u64>| -> Vec<_> {
        let extents = map(&extent, grains.start * 4096..grains.end * 4096).expect("maps");
        extents.into_iter().map(|e| (e.guest.end - e.guest.start, e.kind)).collect()
    };
    assert_eq!(kinds(2..6), [(8192, Kind::Zero(None)), (8192, Kind::Unallocated)]);
    // The second table does not exist, the third starts with zeros.
    assert_eq!(kinds(5000..8193), [(3192 * 4096, Kind::Unallocated), (4096, Kind::Zero(None))]);
    // A range within a grain, and the short last grain.
    let grains_at = shape.regions()[7].0 * 512;
    let data = |offset| Kind::Data(HostOffset { file: 7, offset });
    let within = map(&extent, 100..200).expect("maps");
    assert_eq!(within[0].kind, data(grains_at + 3 * 4096 + 100));
    let last = map(&extent, extent.size() - 512..extent.size()).expect("maps");
    assert_eq!(last[0].kind, data(grains_at + 512));
}

#[test]
fn every_field_of_the_headers_is_validated() {
    let (shape, grains) = sample();
    let whole = shape.build(&grains);
    let max = u64::MAX;
    let cases = [
        (0, 0xcafe_cafe, ErrorKind::Corrupt, "magic"),
        (4, 1, ErrorKind::Corrupt, "magic"),
        (8, 2 << 32, ErrorKind::Unsupported, "version 2.0"),
        (8, max, ErrorKind::Unsupported, "version"),
        (16, max, ErrorKind::Corrupt, "capacity"),
        (16, max >> 10, ErrorKind::Corrupt, "grain tables, but the directory has only"),
        (16, 65 * 32768, ErrorKind::Corrupt, "grain tables, but the directory has only"),
        (24, 0, ErrorKind::Corrupt, "grainSize 0"),
        (24, 7, ErrorKind::Corrupt, "grainSize 7"),
        (24, 1 << 63, ErrorKind::Limit, "grainSize"),
        (32, 0, ErrorKind::Corrupt, "grainTableSize 0"),
        (32, 2049, ErrorKind::Limit, "grainTableSize"),
        (32, max, ErrorKind::Limit, "grainTableSize"),
        (40, 1, ErrorKind::Unsupported, "flags 0x1"),
        (48, 1, ErrorKind::Unsupported, "nonzero reserved fields"),
        (72, max, ErrorKind::Unsupported, "nonzero reserved fields"),
        (80, 0, ErrorKind::Corrupt, "expected 0xcafecafe"),
        (80, 1 << 50, ErrorKind::Corrupt, "exceed the file length"),
        (88, max, ErrorKind::Corrupt, "volatile header <"),
        (96, max, ErrorKind::Corrupt, "journal header <"),
        (112, 1 << 55, ErrorKind::Corrupt, "journal <"),
        (128, max, ErrorKind::Corrupt, "grain directory <"),
        (128, 1 << 50, ErrorKind::Corrupt, "beyond the end of the file"),
        (136, 0, ErrorKind::Corrupt, "grain tables, but the directory has only"),
        (144, max, ErrorKind::Corrupt, "grain tables <"),
        (160, max, ErrorKind::Corrupt, "free bitmap <"),
        (176, max, ErrorKind::Corrupt, "back map <"),
        (192, max, ErrorKind::Corrupt, "grains <"),
        (200, max, ErrorKind::Corrupt, "grains <"),
        (208, 1, ErrorKind::Unsupported, "nonzero reserved fields"),
        (504, 1 << 63, ErrorKind::Unsupported, "nonzero reserved fields"),
        (512, 0xcafe_babe, ErrorKind::Corrupt, "expected 0xcafecafe"),
        (512 + 24, 1, ErrorKind::Unsupported, "journal"),
        (512 + 24, max, ErrorKind::Unsupported, "vmkfstools"),
        (512 + 32, 1, ErrorKind::Unsupported, "nonzero reserved fields"),
    ];
    for (at, value, kind, expected) in cases {
        let mut file = whole.clone();
        put(&mut file, at, &u64::to_le_bytes(value));
        let error = open(file).expect_err(expected);
        assert_eq!(error.kind(), kind, "{at}: {error}");
        assert!(format!("{error:#}").contains(expected), "{at}: {error:#}");
    }
    for cut in [0, 511, 512, 1023, 1024, shape.regions()[3].0 as usize * 512] {
        assert!(open(whole[..cut].to_vec()).is_err(), "cut at {cut}");
    }
}

#[test]
fn the_directory_is_bounded_before_it_is_allocated() {
    let mut file = SeSparse::dense(8).build(&Grains::new());
    // 2^52 sectors: a directory of 1 TiB, which fits into the region that the header states.
    put(&mut file, 16, &u64::to_le_bytes(1 << 52));
    put(&mut file, 136, &u64::to_le_bytes(1 << 40));
    assert_eq!(open(file).expect_err("too large").kind(), ErrorKind::Limit);
}

#[test]
fn invalid_table_entries_are_errors_for_their_guest_range_only() {
    let (shape, grains) = sample();
    let whole = shape.build(&grains);
    let regions = shape.regions();
    let at = |region: usize| regions[region].0 as usize * 512;
    // The third table was allocated first.
    let (directory, table, first) = (at(3), at(4) + 64 * 512, 0x1000_0000_u64 << 32);
    let cases = [
        (directory, 1, "of an unknown type", 0),
        (directory, 2 << 60 | 1, "of an unknown type", 0),
        (directory, 0x1000_0001 << 32 | 1, "of an unknown type", 0),
        (directory, first | 3, "number 3 is beyond", 0),
        (directory, first | 0xffff_ffff, "number 4294967295 is beyond", 0),
        (table, 1, "of an unknown type", 0),
        (table, 4 << 60, "of an unknown type", 0),
        (table, u64::MAX, "of an unknown type", 0),
        (table, 0x3fff_ffff_ffff_ffff, "beyond the end of the file", 0),
        (table, 3 << 60 | 4 << 48, "beyond the end of the file", 0),
        (table + 4095 * 8, 3 << 60 | 1, "beyond the end of the file", 4095),
    ];
    for (at, value, expected, grain) in cases {
        let mut file = whole.clone();
        put(&mut file, at, &u64::to_le_bytes(value));
        let extent = open(file).expect("opens");
        let range = grain * 4096..(grain + 1) * 4096;
        let error = map(&extent, range).expect_err(expected);
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(expected), "{error}");
        let findings = check(&extent);
        assert!(findings.iter().any(|f| f.contains(expected)), "{expected}: {findings:?}");
        // The rest of the disk can still be read.
        map(&extent, 8192 * 4096..extent.size()).expect("maps");
    }
    let truncated = open(whole[..whole.len() - 1].to_vec()).expect("opens");
    let error = map(&truncated, 0..4096).expect_err("cut");
    assert!(error.to_string().contains("truncated"), "{error}");
}

#[test]
fn the_check_finds_shared_tables_and_overlaps() {
    let (shape, grains) = sample();
    let whole = shape.build(&grains);
    let regions = shape.regions();
    let at = |region: usize| regions[region].0 as usize * 512;
    let found = |at: usize, value: u64, expected: &str| {
        let mut file = whole.clone();
        put(&mut file, at, &u64::to_le_bytes(value));
        let findings = check(&open(file).expect("opens"));
        assert!(findings.len() == 1 && findings[0].contains(expected), "{expected}: {findings:?}");
    };
    found(at(3) + 8, 0x1000_0000 << 32 | 1, "is used by several directory entries");
    found(at(4) + 64 * 512, 3 << 60 | 2 << 48, "overlaps another");
    found(112, 2, "journal header and journal overlap");
    found(160, regions[6].0, "free bitmap and back map overlap");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reading_a_damaged_extent_never_panics(
        patches in prop::collection::vec(
            (
                prop_oneof![0..300usize, 512..600usize, 0..400_000usize],
                prop_oneof![
                    any::<u64>(), 0..100u64, Just(u64::MAX), (0..64u32).prop_map(|n| 1 << n)
                ],
            ),
            1..4,
        )
    ) {
        let (shape, grains) = sample();
        let shape = SeSparse { align: 1, ..shape };
        let mut file = shape.build(&grains);
        for (at, value) in patches {
            // Half of the patches are aligned to a field or an entry.
            let at = if value & 1 == 0 { at / 8 * 8 } else { at };
            put(&mut file, at, &value.to_le_bytes());
        }
        let Ok(extent) = open(file) else { return Ok(()) };
        check(&extent);
        let end = extent.size();
        for range in [0..end.min(64 << 20), 4096..end.min(4097), end.saturating_sub(700)..end] {
            if range.start < range.end {
                let _ = map(&extent, range);
            }
        }
    }
}
