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

/// Writes an image with a leaked cluster and a copied flag that is not set.
fn damaged(lab: &Lab, name: &str) {
    lab.qemu(&format!("create -q -f qcow2 {name} 1M")).ok();
    let path = lab.path(name);
    // Cluster 9 is the last of the file; 2 is the refcount block.
    write_at(&path, 9 * 65536, &[7; 65536]);
    write_at(&path, 2 * 65536 + 9 * 2, &[0, 1]);
}

#[test]
fn a_repair_has_the_output_and_the_exit_code_of_qemu_img() {
    for (scope, output) in [("leaks", "human"), ("all", "human"), ("all", "json")] {
        let (ours, qemus) = (Lab::new(), Lab::new());
        let line = format!("check -r {scope} --output={output} a.qcow2");
        for lab in [&ours, &qemus] {
            damaged(lab, "a.qcow2");
        }
        assert_eq!(ours.line("check a.qcow2").code, Some(3));
        let (our, qemu) = (ours.line(&line), qemus.qemu(&line));
        assert_eq!((our.code, qemu.code), (Some(0), Some(0)), "{our:?}");
        assert!(our.err.contains("Leaked cluster 9 refcount=1 reference=0"), "{our:?}");
        let (our, qemu) = (our.out, qemu.out);
        match output {
            "json" => {
                let json = |text: &str| {
                    serde_json::from_str::<serde_json::Value>(text).expect(line.as_str())
                };
                assert_eq!(json(&our), json(&qemu), "{line}");
            }
            _ => assert_eq!(our, qemu, "{line}"),
        }
        assert!(our.contains("leaks-fixed") || our.contains("    1 leaked clusters"), "{our}");
        ours.same("check a.qcow2");
        // There is nothing left to repair.
        ours.same(&line);
    }
}

#[test]
fn under_the_name_of_qemu_img_a_repair_prints_the_same_lines() {
    for (scope, cluster, count) in
        [("leaks", 9, 1), ("leaks", 5, 2), ("all", 9, 3), ("all", 5, 2), ("all", 4, 2)]
    {
        let (ours, qemus) = (Lab::new(), Lab::new());
        ours.raw("a.raw");
        ours.qemu("convert -O qcow2 a.raw a.qcow2").ok();
        write_at(&ours.path("a.qcow2"), (10 << 16) - 1, &[0]);
        set_refcount(&ours, "a.qcow2", cluster, count);
        std::fs::copy(ours.path("a.qcow2"), qemus.path("a.qcow2")).expect("copies");
        let line = format!("check -r {scope} a.qcow2");
        let (our, qemu) = (ours.as_qemu_img(&line), qemus.qemu(&line));
        let case = format!("{scope} {cluster} {count}");
        let without_end = |out: &str| {
            let lines = out.lines().filter(|line| !line.starts_with("Image end offset"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(our.err, qemu.err, "{case}");
        assert_eq!(
            (our.code, without_end(&our.out)),
            (qemu.code, without_end(&qemu.out)),
            "{case}"
        );
        assert!(our.err.contains("Repairing "), "{case}: {}", our.err);
    }
}

#[test]
fn an_image_that_was_not_closed_properly_can_be_resized_after_a_repair() {
    let lab = Lab::new();
    lab.qemu("create -q -f qcow2 -o lazy_refcounts=on a.qcow2 1M").ok();
    write_at(&lab.path("a.qcow2"), 79, &[1]);
    let error = lab.line("resize a.qcow2 2M").fails(1);
    assert!(error.contains("('diskimg check -r all' repairs it)"), "{error}");
    lab.line("check -r all --backup saved a.qcow2").ok();
    assert!(lab.read("saved").starts_with(b"diskimg backup 1"));
    lab.line("resize a.qcow2 2M").ok();
    lab.same("check a.qcow2");
    let error = lab.line("check -r all --backup saved a.qcow2").fails(1);
    assert!(error.contains("saved") && error.contains("exists"), "{error}");
    lab.line("check --backup other a.qcow2").fails(1);
    assert!(!lab.path("other").exists());
}

#[test]
fn what_is_left_gives_the_exit_code_of_a_corrupt_image() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -O qcow2 a.raw a.qcow2").ok();
    let path = lab.path("a.qcow2");
    let before = lab.read("a.qcow2");
    let l1 = u64::from_be_bytes(before[40..48].try_into().expect("8 bytes"));
    let l2 = u64::from_be_bytes(before[l1 as usize..l1 as usize + 8].try_into().expect("8 bytes"));
    // The first guest cluster is in the L1 table.
    write_at(&path, l2 & !(1 << 63), &(l1 | 1 << 63).to_be_bytes());
    let ran = lab.line("check -r all a.qcow2");
    assert_eq!(ran.code, Some(2), "{ran:?}");
    let (before, after) = ran.err.split_once("After the repair:\n").expect("has both");
    assert!(before.contains("refcount=1 reference=2"), "{before}");
    assert!(after.contains("overlaps other metadata or data"), "{after}");
}

#[test]
fn formats_without_a_repair_and_unknown_words_are_errors() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("create -q -f qcow a.qcow 1M").ok();
    for name in ["a.raw", "a.qcow"] {
        for line in [format!("check -r all {name}"), format!("check -r leaks --output=json {name}")]
        {
            let before = lab.read(name);
            let error = lab.line(&line).fails(63);
            assert!(error.contains("This image format does not support checks"), "{error}");
            lab.qemu(&line).fails(63);
            assert!(lab.read(name) == before, "{line}");
        }
    }
    let error = lab.line("check -r some a.raw").fails(1);
    assert!(error.contains("--repair (-r) expects 'leaks' or 'all' not 'some'"), "{error}");
}

#[test]
fn copies_of_structures_are_repaired_and_the_result_is_that_afterwards() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for (format, name, at) in [("vmdk", "a.vmdk", 512 * 21), ("vpc", "a.vhd", 30)] {
        lab.qemu(&format!("convert -f raw -O {format} a.raw {name}")).ok();
        let whole = lab.read(name);
        write_at(&lab.path(name), at, &[0xff; 4]);
        let ran = lab.line(&format!("check -r all --output=json {name}"));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let json = ran.out;
        let report: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(report["check-errors"], 0, "{json}");
        assert!(report.get("corruptions").is_none_or(|count| *count == 0), "{json}");
        let fixed = report.get("corruptions-fixed").and_then(serde_json::Value::as_u64);
        assert_eq!(fixed.unwrap_or(0), u64::from(format == "vmdk"), "{json}");
        lab.line(&format!("check {name}")).ok();
        assert!(format == "vmdk" || lab.read(name) == whole);
        lab.qemu(&format!("compare -f raw -F {format} a.raw {name}")).ok();
    }
}
