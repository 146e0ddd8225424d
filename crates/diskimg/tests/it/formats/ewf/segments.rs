//! Images of several segments.

use super::{error, findings, our_bytes, sample, write, write_bytes};
use diskimg::inspection::Code;
use diskimg::{
    Convert, ErrorKind, ExternalFiles, Image, InspectOptions, Limits, OpenOptions, Remedy, inspect,
};
use diskimg_testkit::ewf::{Ewf, FILE_HEADER, Program};
use std::fs;
use std::path::Path;

/// An image of chunks of 1 KiB, of which a segment has four.
fn small(bytes: &[u8]) -> Ewf {
    let sizes =
        Ewf { chunk_sectors: 2, table_chunks: 2, segment_tables: 2, ..Ewf::new(Vec::new()) };
    Ewf { disk: bytes.to_vec(), ..sizes }
}

#[test]
fn all_segments_are_read_and_their_extensions_continue_with_letters() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = sample(130 * 4096 - 512);
    let files = small(&bytes).build();
    assert_eq!(files.len(), 130);
    for (first, hundredth, last) in
        [("a.E01", "a.EAA", "a.EBD"), ("b.e01", "b.eaa", "b.ebd"), ("c.s01", "c.saa", "c.sbd")]
    {
        let stem = &first[..2];
        let letter = &first[2..3];
        let is_upper = letter == "E";
        for (index, file) in files.iter().enumerate() {
            let name = if index < 99 {
                format!("{stem}{letter}{:02}", index + 1)
            } else {
                let a = if is_upper { b'A' } else { b'a' };
                let letters = [(index - 99) / 26, (index - 99) % 26].map(|n| (a + n as u8) as char);
                format!("{stem}{letter}{}{}", letters[0], letters[1])
            };
            write_bytes(dir.path(), &name, file);
        }
        assert!(dir.path().join(hundredth).exists() && dir.path().join(last).exists());
        let path = dir.path().join(first);
        assert!(our_bytes(&path) == bytes, "{first}");
        assert_eq!(findings(&path), [""; 0]);
        let info = Image::open(&path).unwrap().info(0).unwrap();
        assert_eq!(info.children.len(), 130);
        assert_eq!(info.children[1].name, "segments.2");
    }
}

#[test]
fn segments_of_smart_and_encase_1_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = sample(5 * 4096 + 512);
    for program in [Program::Smart, Program::EnCase1] {
        let path = write(dir.path(), "disk", &Ewf { program, ..small(&bytes) }.build());
        assert!(our_bytes(&path) == bytes, "{program:?}");
    }
}

#[test]
fn a_missing_segment_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = sample(4 * 4096);
    let path = write(dir.path(), "disk", &small(&bytes).build());
    fs::remove_file(dir.path().join("disk.E03")).unwrap();
    let found = error(&path);
    assert_eq!(found.kind(), ErrorKind::Corrupt);
    assert!(found.to_string().contains("segment 3 (disk.E03) is missing"), "{found}");
    // What is in the first two can be recovered.
    let out = dir.path().join("out.raw");
    let image = OpenOptions::new().salvage(true).open(&path).unwrap();
    let report = Convert::new(image).salvage(true).run(&out).unwrap();
    assert_eq!((report.salvaged.len(), report.salvaged_bytes), (1, 8192));
    assert_eq!(report.salvaged[0].guest, 8192..16384);
    let recovered = fs::read(&out).unwrap();
    assert!(recovered[..8192] == bytes[..8192] && recovered[8192..].iter().all(|&b| b == 0));
}

#[test]
fn segments_that_are_not_the_next_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = sample(4 * 4096);
    let files = small(&bytes).build();
    let path = write(dir.path(), "disk", &files);
    let check = |text: &str| {
        let found = error(&path);
        assert_eq!(found.kind(), ErrorKind::Corrupt, "{found}");
        assert!(found.to_string().contains(text), "{found}");
    };
    // Twice the same number.
    write_bytes(dir.path(), "disk.E03", &files[1]);
    check("the file disk.E03 is segment 2 instead of 3");
    // Another acquisition.
    let other = Ewf { set: [9; 16], ..small(&bytes) }.build();
    write_bytes(dir.path(), "disk.E03", &other[2]);
    check("belongs to another acquisition: its set identifier is 09090909-");
    assert_eq!(error(&path).path().and_then(Path::file_name).unwrap(), "disk.E03");
    // Another one without an identifier, but with other chunks.
    let other = Ewf { set: [0; 16], chunk_sectors: 4, ..small(&bytes) }.build();
    write_bytes(
        dir.path(),
        "disk.E03",
        &[&files[2][..FILE_HEADER], &other[1][FILE_HEADER..]].concat(),
    );
    check("its chunks have 2048 bytes, and those of the first segment 1024");
    // Not a segment.
    write_bytes(dir.path(), "disk.E03", &[0; 4096]);
    check("expected the signature EVF");
}

#[test]
fn a_segment_other_than_the_first_is_an_error_that_names_the_first() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "disk", &small(&sample(4 * 4096)).build());
    let found = error(&dir.path().join("disk.E02"));
    assert_eq!(found.kind(), ErrorKind::Invalid);
    assert!(found.to_string().contains("it is segment 2"), "{found}");
    assert!(found.to_string().contains("probably disk.E01"), "{found}");
}

#[test]
fn segments_are_found_only_by_the_extension_of_a_first_segment() {
    let dir = tempfile::tempdir().unwrap();
    let files = small(&sample(2 * 4096)).build();
    write(dir.path(), "disk", &files);
    for name in ["disk", "disk.raw", "disk.E1", "disk.001"] {
        let found = error(&write_bytes(dir.path(), name, &files[0]));
        assert_eq!(found.kind(), ErrorKind::Unsupported, "{found}");
        assert!(found.to_string().contains("another segment, 2"), "{found}");
    }
    // The link has another name than its target, which is in another directory.
    #[cfg(unix)]
    {
        let links = tempfile::tempdir().unwrap();
        let link = links.path().join("disk.E01");
        std::os::unix::fs::symlink(dir.path().join("disk.E01"), &link).unwrap();
        assert_eq!(our_bytes(&link).len(), 2 * 4096);
    }
}

#[test]
fn the_policy_for_external_files_applies_to_segments() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "disk", &small(&sample(2 * 4096)).build());
    let none = OpenOptions::new().external_files(ExternalFiles::None);
    let found = none.open(&path).unwrap_err();
    assert_eq!(found.kind(), ErrorKind::Refused);
    assert_eq!(found.remedy(), Some(Remedy::AllowFilesInSameDir));
    // Metadata of the first segment needs no others.
    let image = none.clone().metadata_only(true).open(&path).unwrap();
    assert_eq!(image.size(), 8192);
    #[cfg(unix)]
    {
        let other = tempfile::tempdir().unwrap();
        fs::rename(dir.path().join("disk.E02"), other.path().join("disk.E02")).unwrap();
        let link = dir.path().join("disk.E02");
        std::os::unix::fs::symlink(other.path().join("disk.E02"), link).unwrap();
        let found = Image::open(&path).unwrap_err();
        assert_eq!(found.kind(), ErrorKind::Refused, "{found}");
        let any = OpenOptions::new().external_files(ExternalFiles::Any);
        assert_eq!(any.open(&path).unwrap().size(), 8192);
    }
}

#[test]
fn inspect_reports_that_the_disk_is_in_several_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "disk", &small(&sample(2 * 4096)).build());
    let found = inspect(&path, &InspectOptions::new()).unwrap();
    let codes: Vec<_> = found.findings.iter().map(|finding| finding.code).collect();
    assert_eq!(
        (codes, found.virtual_size),
        (vec![Code::RejectedFormat, Code::Extents], Some(8192))
    );
}

#[test]
fn the_number_of_segments_and_tables_is_limited() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "disk", &small(&sample(20 * 4096)).build());
    for (name, value) in [("extent_files", 19), ("table_bytes", 1000)] {
        let mut limits = Limits::default();
        limits.set(name, value).unwrap();
        let found = OpenOptions::new().limits(limits).open(&path).unwrap_err();
        assert_eq!(found.exceeded(), Some(name), "{found}");
    }
    let mut limits = Limits::default();
    limits.set("extent_files", 20).unwrap();
    OpenOptions::new().limits(limits).open(&path).unwrap();
}
