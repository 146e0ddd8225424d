//! Recovering the grains of damaged and truncated streams.

use super::streams::Stream;
use super::*;
use crate::Convert;
use std::ops::Range;

/// The grains that are stored, of [`disk`].
const ORDER: [usize; 6] = [0, 1, 3, 4, 5, 7];

fn disk() -> Vec<u8> {
    sample(8, 0)
}

fn stream(progress: bool) -> Vec<u8> {
    Stream { order: ORDER.to_vec(), progress, ..Stream::default() }.build(&disk())
}

/// Returns the offset of each grain's marker and that of the end of the last grain.
fn offsets(file: &[u8]) -> Vec<usize> {
    let mut offsets = Vec::new();
    let mut at = 64 << 10;
    loop {
        let size = u32::from_le_bytes(file[at + 8..at + 12].try_into().expect("4 bytes"));
        let kind = u32::from_le_bytes(file[at + 12..at + 16].try_into().expect("4 bytes"));
        match (size, kind) {
            (0, 4) => at += 512,
            (0, _) => {
                offsets.push(at);
                return offsets;
            }
            _ => {
                offsets.push(at);
                at += (12 + size as usize).next_multiple_of(512);
            }
        }
    }
}

/// Converts with salvage. Returns the disk and the lost ranges.
fn salvage(bytes: &[u8]) -> (Vec<u8>, Vec<Range<u64>>) {
    let source = Arc::new(MemorySource::new(bytes.to_vec()));
    let image = OpenOptions::new().salvage(true).open_source(source, "test.vmdk").expect("opens");
    let dir = tempfile::tempdir().expect("creates");
    let out = dir.path().join("out");
    let report = Convert::new(image).salvage(true).run(&out).expect("converts");
    let lost = report.salvaged.into_iter().map(|salvaged| salvaged.guest).collect();
    (std::fs::read(&out).expect("reads"), lost)
}

/// Asserts that these grains were recovered, and that all others that have data are reported lost.
#[track_caller]
fn assert_salvaged(bytes: &[u8], recovered: &[usize], context: &str) {
    let (found, lost) = salvage(bytes);
    for (grain, expected) in disk().chunks(GRAIN).enumerate() {
        let is_lost = lost.iter().any(|range| range.contains(&((grain * GRAIN) as u64)));
        let bytes = &found[grain * GRAIN..][..GRAIN];
        if ORDER.contains(&grain) && !recovered.contains(&grain) {
            assert!(is_lost && bytes.iter().all(|&b| b == 0), "{context}: grain {grain}");
        } else {
            assert!(bytes == expected, "{context}: grain {grain}");
            assert!(!(is_lost && ORDER.contains(&grain)), "{context}: grain {grain} is lost");
        }
    }
}

#[test]
fn a_truncated_stream_keeps_the_grains_before_the_cut() {
    for progress in [false, true] {
        let whole = stream(progress);
        let offsets = offsets(&whole);
        for (stored, &offset) in offsets.iter().enumerate() {
            for cut in [offset, offset + 1, offset + 511, offset + 600] {
                let bytes = &whole[..cut];
                assert_eq!(open(bytes).expect_err("cut").remedy(), Some(crate::Remedy::Salvage));
                // A grain that is shorter than its padding to a sector may be complete.
                let complete = ORDER.iter().enumerate().filter(|(i, _)| {
                    let size = u32::from_le_bytes(
                        whole[offsets[*i] + 8..][..4].try_into().expect("4 bytes"),
                    );
                    *i < stored && offsets[*i] + 12 + size as usize <= cut
                        || (*i == stored && offset + 512 <= cut)
                            && offset + 12 + size as usize <= cut
                });
                let complete: Vec<_> = complete.map(|(_, &grain)| grain).collect();
                assert_salvaged(bytes, &complete, &format!("{cut}"));
            }
        }
    }
}

#[test]
fn a_stream_without_its_tables_or_footer_is_recovered_completely() {
    let whole = stream(false);
    let tables = *offsets(&whole).last().expect("there is an end");
    let gd = whole.len() - 4 * 512;
    let edit = |at: usize, bytes: &[u8]| {
        let mut edited = whole.clone();
        put(&mut edited, at, bytes);
        edited
    };
    for (bytes, what) in [
        (whole[..whole.len() - 1].to_vec(), "end of stream"),
        (whole[..whole.len() - 1024].to_vec(), "footer"),
        (whole[..tables].to_vec(), "tables"),
        (edit(gd, &[0xff; 4]), "directory: beyond the end"),
        (edit(gd, &[0; 4]), "directory: zero"),
        (edit(tables + 512, &[0x55; 2048]), "table"),
        (edit(tables + 512, &[0; 2048]), "table: zero"),
        (edit(whole.len() - 1024, &[0; 512]), "footer: zero"),
    ] {
        assert_salvaged(&bytes, &ORDER, what);
    }
}

#[test]
fn nothing_is_lost_if_only_what_follows_the_directory_is_missing() {
    let mut disk = disk();
    disk[4 * GRAIN..].fill(0);
    let whole = Stream { order: vec![0, 1, 3], ..Stream::default() }.build(&disk);
    for missing in [1, 512, 1024, 1536] {
        let (found, lost) = salvage(&whole[..whole.len() - missing]);
        assert!(found == disk && lost.is_empty(), "{missing}: {lost:?}");
    }
    // Without the directory, there may have been more grains.
    let (found, lost) = salvage(&whole[..whole.len() - 2048]);
    assert!(found == disk);
    let [lost] = lost.as_slice() else { panic!("{lost:?}") };
    assert_eq!((lost.start, lost.end), (4 * GRAIN as u64, disk.len() as u64));
}

#[test]
fn the_search_continues_after_damage() {
    let whole = stream(false);
    let offsets = offsets(&whole);
    let mut bytes = whole[..offsets[6]].to_vec();
    bytes[offsets[2]..offsets[3]].fill(0xee);
    assert_salvaged(&bytes, &[0, 1, 4, 5, 7], "one grain");
    // The size of a grain leads the walk into the next one.
    let mut bytes = whole[..offsets[6]].to_vec();
    put(&mut bytes, offsets[3] + 8, &2_000u32.to_le_bytes());
    assert_salvaged(&bytes, &[0, 1, 3, 4, 5, 7], "a wrong size");
}

#[test]
fn a_check_says_which_grains_a_truncated_stream_lacks() {
    let whole = stream(false);
    let offsets = offsets(&whole);
    let options = OpenOptions::new().metadata_only(true);
    let source = Arc::new(MemorySource::new(whole[..offsets[4]].to_vec()));
    let image = options.open_source(source, "test.vmdk").expect("opens");
    let info = image.info(0).expect("has info");
    assert_eq!(info.virtual_size, disk().len() as u64);
    assert!(info.notes.iter().any(|note| note.contains("footer")), "{:?}", info.notes);
    image.read_at(&mut [0; 512], 0).expect_err("has no tables");
    let mut findings = Vec::new();
    let report = image.check(&mut |finding| findings.push(finding.message));
    assert!(report.expect("checks").expect("is supported").corruptions > 0);
    let text = "4 grains can be found by their markers; others may be missing at guest offsets \
                0x50000 to 0x80000";
    assert!(findings.iter().any(|finding| finding == text), "{findings:?}");
}

#[test]
fn progress_markers_are_valid() {
    let whole = stream(true);
    assert!(read(&whole).expect("reads") == disk());
    assert_eq!(check(&whole), [""; 0]);
    assert_salvaged(&whole, &ORDER, "nothing is damaged");
}

#[test]
fn the_memory_for_the_list_of_grains_is_limited() {
    let limits = crate::Limits { table_bytes: 40, ..crate::Limits::default() };
    let source = Arc::new(MemorySource::new(stream(false)));
    let options = OpenOptions::new().salvage(true).limits(limits);
    let error = options.open_source(source, "test.vmdk").expect_err("too many");
    assert_eq!(error.exceeded(), Some("table_bytes"), "{error}");
}
