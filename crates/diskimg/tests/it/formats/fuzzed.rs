//! Regression tests for bugs that fuzzing found. The fuzzer's inputs are in `fuzz/regressions/`.

use diskimg::storage::sink::MemorySink;
use diskimg::storage::source::MemorySource;
use diskimg::{
    Compare, Comparison, Convert, Error, ErrorKind, ExternalFiles, Format, Image, InspectOptions,
    OpenOptions, Options, Output, inspect_source, map,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn open_metadata(bytes: impl Into<Vec<u8>>, format: Format) -> Result<Image, Error> {
    OpenOptions::new()
        .format(format)
        .external_files(ExternalFiles::None)
        .metadata_only(true)
        .open_source(Arc::new(MemorySource::new(bytes)), "fuzzed.img")
}

#[test]
fn control_characters_are_escaped_in_check_findings() {
    let extent = "RW 63 FLAT \"\u{1b}[2J.vmdk\" 0";
    let text = diskimg_testkit::hosted::descriptor("monolithicFlat", extent, None);
    let image = open_metadata(text, Format::Vmdk).unwrap();
    let mut findings = Vec::new();
    image.check(&mut |finding| findings.push(finding.message)).unwrap();
    assert!(findings.concat().contains("\\u{1b}[2J.vmdk"), "{findings:?}");
    assert!(!findings.concat().chars().any(char::is_control), "{findings:?}");
}

#[test]
fn control_characters_are_escaped_in_inspect_findings() {
    let text = diskimg_testkit::hosted::descriptor("custom", "RW 1 ZERO", None);
    let text = text.replace("createType", "par\tentFile=\"x\"\ncreateType");
    let source = Arc::new(MemorySource::new(text));
    let found = inspect_source(source, "fuzzed.vmdk", &InspectOptions::new()).unwrap();
    let messages: String = found.findings.iter().map(|finding| &*finding.message).collect();
    assert!(messages.contains("\\u{9}"), "{messages}");
    assert!(!messages.chars().any(char::is_control), "{messages}");
}

/// Returns a qcow2 image of one 512-byte cluster with header extensions, followed by `clusters`.
fn qcow2(extensions: &[u8], clusters: &[Vec<u8>]) -> Vec<u8> {
    let mut file = b"QFI\xfb\0\0\0\x03".to_vec();
    file.resize(104, 0);
    file[23] = 9;
    // A disk of one cluster; L1 table, refcount table and refcount block.
    file[30..32].copy_from_slice(&[2, 0]);
    file[39] = 1;
    file[46..48].copy_from_slice(&[2, 0]);
    file[54..56].copy_from_slice(&[4, 0]);
    file[59] = 1;
    file[99] = 4;
    file[103] = 104;
    file.extend(extensions);
    file.resize(512, 0);
    file.extend([0; 512]);
    let mut table = 0x600u64.to_be_bytes().to_vec();
    table.resize(512, 0);
    file.extend(table);
    file.extend([[0, 1]; 256].concat());
    for cluster in clusters {
        file.extend(cluster);
        file.resize(file.len().next_multiple_of(512), 0);
    }
    file
}

/// Returns an image with `count` bitmaps, whose tables are all at `offset` and have `entries`
/// entries.
fn with_bitmaps(count: u32, offset: u64, entries: u32) -> Vec<u8> {
    let mut entry = [&offset.to_be_bytes()[..], &entries.to_be_bytes(), &[0; 4]].concat();
    entry.extend([1, 16, 0, 1, 0, 0, 0, 0, b'b', 0, 0, 0, 0, 0, 0, 0]);
    let directory = entry.repeat(count as usize);
    let mut extension = b"\x23\x85\x28\x75\0\0\0\x18".to_vec();
    extension.extend([count, 0].map(u32::to_be_bytes).concat());
    extension.extend([directory.len() as u64, 0x800].map(u64::to_be_bytes).concat());
    let mut file = qcow2(&extension, &[directory, vec![0; 64 << 10]]);
    file[95] = 1;
    file
}

#[test]
fn bitmap_tables_beyond_the_end_of_the_file_are_not_iterated() {
    let image = open_metadata(with_bitmaps(15, 0x800, 1 << 27), Format::Qcow2).unwrap();
    let start = Instant::now();
    let mut findings = Vec::new();
    image.check(&mut |finding| findings.push(finding.message)).unwrap();
    assert!(findings.iter().any(|text| text.contains("exceeding the end")), "{findings:?}");
    // The bug took seconds even on fast machines.
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn a_table_shared_by_thousands_of_bitmaps_is_not_iterated_for_each() {
    let image = open_metadata(with_bitmaps(60_000, 0x800, 1 << 13), Format::Qcow2).unwrap();
    let error = image.check(&mut |_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    assert!(error.to_string().contains("they overlap"), "{error}");
}

/// Opens an unallocated disk of 8 PiB.
fn huge() -> Image {
    let text = diskimg_testkit::hosted::descriptor("custom", "RW 17592186044416 ZERO", None);
    let source = Arc::new(MemorySource::new(text));
    OpenOptions::new().format(Format::Vmdk).open_source(source, "huge.vmdk").unwrap()
}

#[test]
fn an_unallocated_disk_of_petabytes_is_processed_in_few_steps() {
    let start = Instant::now();
    let image = huge();
    let entries: Vec<_> = map(&image, 0..u64::MAX).map(|entry| entry.unwrap().length).collect();
    assert_eq!(entries, [1 << 53]);
    // In windows of 128 MiB there would be millions.
    assert!(image.slices(0..image.size()).unwrap().count() < 100);
    let same = Compare::new(&huge(), &huge()).strict(true).run().unwrap();
    assert_eq!(same, Comparison::Identical { size_mismatch: false });
    let sink = Arc::new(MemorySink::new());
    let options = Options::parse("cluster_size=2M").unwrap();
    let qcow2 = Convert::new(image).format(Format::Qcow2).options(options);
    let report = qcow2.run_to(Output::to_sink(sink)).unwrap();
    assert_eq!((report.guest_bytes, report.stored_bytes), (1 << 53, 0));
    // The bug took minutes.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}
