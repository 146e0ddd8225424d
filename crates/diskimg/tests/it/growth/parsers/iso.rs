//! ISO 9660, Rock Ridge and partition tables: structures that are shared or overlap.

use super::Make;
use diskimg::iso::{IsoImage, IsoOptions, RemasterOptions};
use diskimg::storage::source::MemorySource;
use diskimg_testkit::growth::{CountingSource, require_linear, require_linear_time};
use diskimg_testkit::iso::{FREE, IsoBuilder, Record, SECTOR, directory, susp, volume};
use std::sync::Arc;

/// Runs all operations on a tree. Returns the number of bytes read, of entries and of bytes of
/// paths.
pub(super) fn work(bytes: Vec<u8>) -> u64 {
    let source = Arc::new(CountingSource::new(Arc::new(MemorySource::new(bytes))));
    let mut entries = 0;
    if let Ok(image) = IsoImage::open(source.clone(), &IsoOptions::default()) {
        for found in image.walk().flatten() {
            entries += 64 + found.path.len() as u64;
        }
        let mut findings = 0;
        image.verify(&mut |_| findings += 1).unwrap();
        assert!(findings <= 1000, "{findings} findings");
        let _ = image.info();
        let _ = image.remaster_with(&RemasterOptions::default());
    }
    source.bytes() + entries
}

/// Returns an image with a Rock Ridge directory of these records.
fn with_directory(records: &[Record], put: impl FnOnce(&mut IsoBuilder, u32)) -> Vec<u8> {
    let own = [susp::px(0o040_755)];
    let bytes = directory(FREE, 20, &own, records);
    let mut dir = Record::rock_dir("d", FREE, &[]);
    dir.size = bytes.len() as u32;
    let mut iso = IsoBuilder::rock_ridge(&[dir]);
    iso.put(FREE, &bytes);
    put(&mut iso, FREE + (bytes.len() / SECTOR) as u32);
    iso.finish()
}

#[test]
fn records_that_share_structures_cost_no_more_than_their_number() {
    let file = |n: usize, sector, size, entries: &[Vec<u8>]| {
        Record::rock(&format!("f{n}"), sector, size, entries)
    };
    // Sectors after the directory; the first ones are at an estimate of its end.
    let after = |n: usize| FREE + (n * 160 / SECTOR) as u32 + 64;
    let continuation = |n: usize| {
        let at = after(n);
        let records: Vec<_> = (0..n).map(|n| file(n, 0, 0, &[susp::ce(at, 0, 2048)])).collect();
        with_directory(&records, |iso, _| {
            for link in 0..31 {
                let mut area = susp::nm_flags(1, b"x").repeat(300);
                area.truncate(2000);
                area.extend(susp::ce(at + link + 1, 0, 2048));
                iso.put(at + link, &area);
            }
        })
    };
    let relocated = |n: usize| {
        let at = after(n);
        let records: Vec<_> = (0..n).map(|n| file(n, 0, 0, &[susp::cl(at)])).collect();
        with_directory(&records, |iso, _| _ = iso.dir(at, FREE, &[]))
    };
    let loops = |n: usize| {
        let records: Vec<_> =
            (0..n).map(|n| Record::rock_dir(&format!("d{n}"), FREE, &[])).collect();
        with_directory(&records, |_, _| {})
    };
    let invalid = |n: usize| {
        let records: Vec<_> = (0..n).map(|n| file(n, 0, 0, &[susp::entry(b"PX", b"")])).collect();
        with_directory(&records, |_, _| {})
    };
    let overlapping = |n: usize| {
        let records: Vec<_> = (0..n).map(|n| file(n, n as u32, 1 << 18, &[])).collect();
        with_directory(&records, |_, _| {})
    };
    let sections = |n: usize| {
        let records: Vec<_> = (0..n).map(|_| file(0, 20, 2048, &[]).with_flags(0x80)).collect();
        with_directory(&records, |_, _| {})
    };
    let make: [(&str, Make<'_>); 6] = [
        ("continuation areas", &continuation),
        ("relocated directories", &relocated),
        ("directories reached twice", &loops),
        ("invalid entries", &invalid),
        ("overlapping files", &overlapping),
        ("sections", &sections),
    ];
    for (what, make) in make {
        require_linear(what, 1000, |n| work(make(n)));
        require_linear_time(what, 200, 4000, make, |bytes| _ = work(bytes.clone()));
    }
}

#[test]
fn directories_that_overlap_cost_no_more_than_the_image() {
    // Directory n is the sectors from n on, so that its total length is quadratic.
    require_linear("overlapping directories", 64, |n| {
        let dirs = (0..n as u32).map(|i| {
            let mut dir = Record::rock_dir(&format!("d{i}"), FREE + i, &[]);
            dir.size = (n as u32 - i) * SECTOR as u32;
            dir
        });
        let mut root = directory(FREE, FREE, &[susp::sp(0)], &dirs.collect::<Vec<_>>());
        root.resize(root.len().max(n * SECTOR), 0);
        let mut iso = IsoBuilder::with_root(&[], &[]);
        iso.put(FREE, &root);
        *iso.volume(0) = volume(1, FREE, (n * SECTOR) as u32);
        work(iso.finish())
    });
}

#[test]
fn deep_paths_cost_no_more_than_their_maximum_length() {
    let deep = |n: usize| {
        let name = "x".repeat(120);
        let mut iso = IsoBuilder::rock_ridge(&[Record::rock_dir(&name, FREE, &[])]);
        let depth = 200;
        for level in 0..depth {
            let next = Record::rock_dir(&name, FREE + level + 1, &[]);
            iso.dir(FREE + level, FREE, &[next]);
        }
        let files: Vec<_> = (0..n).map(|n| Record::file(format!("{n}"), 0, 0)).collect();
        let own = [susp::px(0o040_755)];
        iso.put(FREE + depth, &directory(FREE + depth, FREE, &own, &files));
        iso.finish()
    };
    require_linear("deep paths", 1000, |n| work(deep(n)));
}

#[test]
fn many_descriptors_of_the_same_path_table_cost_no_more_than_one() {
    let image = |n: usize| {
        let mut iso = IsoBuilder::rock_ridge(&[]);
        for _ in 0..60 {
            let mut descriptor = volume(1, 20, 2048);
            descriptor[132..136].copy_from_slice(&((n * 2048) as u32).to_le_bytes());
            descriptor[140..144].copy_from_slice(&200u32.to_le_bytes());
            iso.descriptor(descriptor);
        }
        let record = [1, 0, 20, 0, 0, 0, 1, 0, 0, 0];
        iso.put(200, &record.repeat(n * 205));
        iso.finish()
    };
    require_linear("path tables", 16, |n| work(image(n)));
    assert!(work(image(64)) < 4 << 20, "each descriptor's table is read");
}

#[test]
fn gaps_of_a_partition_table_that_overlap_are_read_once() {
    require_linear("overlapping gaps", 64, |n| work(gaps(n)));
}

/// Returns an image with `n` partitions that are called gaps, all of them to its end.
fn gaps(n: usize) -> Vec<u8> {
    let mut bytes = IsoBuilder::rock_ridge(&[]).finish();
    let entries_at = bytes.len() / 512 + 8;
    let start = (entries_at + n / 4).next_multiple_of(4) + 4;
    bytes.resize(start * 512 + n * 4096, 0);
    let last = (bytes.len() / 512 - 2) as u64;
    let mut entries = Vec::new();
    for i in 0..n as u64 {
        let mut entry = vec![0u8; 128];
        entry[..16].copy_from_slice(&[
            0xa2, 0xa0, 0xd0, 0xeb, 0xe5, 0xb9, 0x33, 0x44, 0x87, 0xc0, 0x68, 0xb6, 0xb7, 0x26,
            0x99, 0xc7,
        ]);
        entry[16..24].copy_from_slice(&(i + 1).to_le_bytes());
        entry[32..40].copy_from_slice(&(start as u64 + i * 4).to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        for (at, unit) in "Gap0".encode_utf16().enumerate() {
            entry[56 + at * 2..58 + at * 2].copy_from_slice(&unit.to_le_bytes());
        }
        entries.extend(entry);
    }
    bytes[entries_at * 512..entries_at * 512 + entries.len()].copy_from_slice(&entries);
    let mut header = [0; 92];
    header[..8].copy_from_slice(b"EFI PART");
    header[8..16].copy_from_slice(&[0, 0, 1, 0, 92, 0, 0, 0]);
    header[24] = 1;
    header[32..40].copy_from_slice(&(last + 1).to_le_bytes());
    header[40..48].copy_from_slice(&34u64.to_le_bytes());
    header[48..56].copy_from_slice(&last.to_le_bytes());
    header[72..80].copy_from_slice(&(entries_at as u64).to_le_bytes());
    header[80..84].copy_from_slice(&(n as u32).to_le_bytes());
    header[84] = 128;
    header[88..92].copy_from_slice(&crc32(&entries).to_le_bytes());
    let crc = crc32(&header).to_le_bytes();
    header[16..20].copy_from_slice(&crc);
    bytes[512..604].copy_from_slice(&header);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    let entry = [0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
    bytes[446..462].copy_from_slice(&entry);
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
