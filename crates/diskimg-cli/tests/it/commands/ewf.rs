//! EWF images of several segments.

use crate::support::Lab;
use diskimg_testkit::ewf::Ewf;

/// Writes a.raw, and the same as disk.E01 to disk.E03.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.raw("a.raw");
    let text = "1\nmain\nc\ta\te\nC-17\tdisk \u{1b}]0;title\u{7}\tJohn\n\n";
    let disk = lab.read("a.raw");
    let table_chunks = disk.len().div_ceil(32768).div_ceil(3);
    let image = Ewf {
        header: Some(text.to_owned()),
        errors: vec![(9, 4)],
        table_chunks,
        segment_tables: 1,
        ..Ewf::new(disk)
    };
    for (number, file) in (1..).zip(image.build()) {
        std::fs::write(lab.path(&format!("disk.E0{number}")), file).expect("writes");
    }
    assert!(lab.path("disk.E03").exists());
    lab
}

#[test]
fn every_command_reads_all_segments() {
    let lab = lab();
    lab.line("convert disk.E01 out.raw").ok();
    assert!(lab.read("out.raw") == lab.read("a.raw"));
    for policy in ["same-dir", "any"] {
        let line = format!("convert --external-files {policy} disk.E01 -O qcow2 out.qcow2");
        lab.line(&line).ok();
        lab.qemu("compare a.raw out.qcow2").ok();
    }
    lab.line("compare a.raw disk.E01").ok();
    lab.line("map --output json disk.E01").ok();
    lab.line("measure -O qcow2 disk.E01").ok();
    let refused = lab.line("convert --external-files none disk.E01 out.raw").fails(1);
    assert!(refused.contains("segment"), "{refused}");
    let check = lab.line("check disk.E01").fails(3);
    assert!(check.contains("sectors 9 to 12 could not be read when the disk was"), "{check}");
    let refused = lab.line("convert a.raw out.E01").fails(1);
    assert!(refused.contains("does not support image creation"), "{refused}");
    assert!(!lab.path("out.E01").exists());
}

#[test]
fn info_escapes_what_the_examiner_recorded() {
    let lab = lab();
    let info = lab.line("info disk.E01").ok();
    for line in ["file format: ewf", "case number: C-17", "examiner: John", "segments: 3"] {
        assert!(info.contains(line), "{line}: {info}");
    }
    assert!(info.contains("disk \\u{1b}]0;title\\u{7}") && !info.contains('\u{1b}'), "{info}");
    let json = lab.line("info --output json disk.E01").ok();
    assert!(json.contains("\"unreadable-sectors\": 4"), "{json}");
}
