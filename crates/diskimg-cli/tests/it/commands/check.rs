//! Compares `check` with that of qemu-img.

use crate::support::{Lab, write_at};
use diskimg_testkit::qcow2::{Entry, Qcow2};

#[test]
fn raw_images_do_not_support_checks() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for line in ["check a.raw", "check --output=json a.raw", "check -q a.raw"] {
        let error = lab.line(line).fails(63);
        assert!(error.contains("This image format does not support checks"), "{error}");
        lab.qemu(line).fails(63);
    }
}

#[test]
fn a_consistent_image_has_no_errors() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -O qcow2 a.raw a.qcow2").ok();
    lab.qemu("convert -O qcow2 -c a.raw packed.qcow2").ok();
    for name in ["a.qcow2", "packed.qcow2"] {
        lab.same(&format!("check {name}"));
        lab.same(&format!("check -q {name}"));
        lab.same_json(&format!("check --output=json {name}"));
    }
}

#[test]
fn a_missing_image_gives_exit_code_1() {
    Lab::new().line("check nope").fails(1);
}

/// Sets the refcount of a cluster.
fn set_refcount(lab: &Lab, name: &str, cluster: u64, count: u16) {
    let bytes = lab.read(name);
    let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let block = number(number(48) as usize);
    write_at(&lab.path(name), block + 2 * cluster, &count.to_be_bytes());
}

#[test]
fn errors_are_reported_like_those_of_qemu_img() {
    for (cluster, count, code) in [(4, 0, 2), (4, 2, 2), (5, 2, 2), (9, 1, 3)] {
        let lab = Lab::new();
        lab.raw("a.raw");
        lab.qemu("convert -O qcow2 a.raw a.qcow2").ok();
        // The file needs ten clusters: refcounts beyond its end are not leaks.
        write_at(&lab.path("a.qcow2"), (10 << 16) - 1, &[0]);
        set_refcount(&lab, "a.qcow2", cluster, count);
        for line in ["check a.qcow2", "check -q a.qcow2"] {
            let (ours, theirs) = (lab.line(line), lab.qemu(line));
            assert_eq!(ours.code, Some(code), "{cluster} {count}: {}{}", ours.out, ours.err);
            assert_eq!((ours.code, ours.out), (theirs.code, theirs.out), "{cluster} {count}");
            assert_eq!(ours.err, theirs.err, "{cluster} {count}");
        }
        let json = |text| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        let line = "check --output=json a.qcow2";
        let (ours, theirs) = (lab.line(line), lab.qemu(line));
        assert_eq!((ours.code, json(&ours.out)), (theirs.code, json(&theirs.out)));
    }
}

#[test]
fn the_first_thousand_findings_are_listed_and_all_are_counted() {
    let lab = Lab::new();
    // Clusters that nothing refers to.
    let mut image = Qcow2::repeating(12, 1, &[Entry::Unallocated]);
    image.clusters = vec![Vec::new(); 1500];
    std::fs::write(lab.path("a.qcow2"), image.build()).expect("writes");
    let ran = lab.line("check --output=json a.qcow2");
    assert_eq!(ran.code, Some(3), "{}", ran.err);
    let counts: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    let omitted = counts["omitted-findings"].as_u64().expect("a number");
    let total = counts["leaks"].as_u64().expect("a number");
    assert_eq!((total, omitted), (1500, 500));
    let lines: Vec<_> = ran.err.lines().collect();
    assert_eq!(lines.len(), 1001);
    assert!(lines[1000].contains(&format!("{omitted} more findings")), "{}", lines[1000]);
    let ran = lab.line("check --limit check_findings=1M a.qcow2");
    assert_eq!(ran.err.lines().count() as u64, total);
}
