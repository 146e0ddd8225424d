//! What is refused, and changes nothing.

use super::{Case, MIB, amend, contents, options, qemu};
use diskimg::{Amend, ErrorKind, Format, OpenOptions, Options};
use diskimg_testkit::tool::{assert_qemu_check, run};
use std::ops::ControlFlow;

#[test]
fn what_cannot_be_done_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    let file = path.to_str().unwrap();
    let create = |options: &str| {
        let _ = std::fs::remove_file(&path);
        run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", options, file, "1M"]);
    };
    let refused = |given: &str, kind: ErrorKind, text: &str| {
        let before = std::fs::read(&path).unwrap();
        let error = amend(&path, given).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text) && error.path().is_some(), "{error}");
        assert!(std::fs::read(&path).unwrap() == before, "{error}");
    };
    create("cluster_size=4k");
    for (given, text) in [
        ("compat=0.9", "Unknown compatibility level 0.9"),
        ("refcount_bits=3", "must be a power of two"),
        ("refcount_bits=128", "may not exceed 64 bits"),
        ("compat=0.10,refcount_bits=8", "Refcount widths other than 16 bits require"),
        ("compat=0.10,lazy_refcounts=on", "Lazy refcounts only supported"),
        ("data_file=x", "only be set for images that use an external data file"),
        ("data_file_raw=on", "cannot be set on existing images"),
        ("backing_file=x", "Cannot amend the backing file"),
        ("backing_fmt=raw", "Cannot amend the backing file"),
        ("cluster_size=64k", "only supported for image creation"),
        ("preallocation=full,size=2M", "only supported for image creation"),
        ("no_such=1", "Invalid parameter 'no_such'"),
        ("size=1000", "must be a multiple of 512"),
        ("lazy_refcounts=maybe", "expects 'on' or 'off'"),
    ] {
        refused(given, ErrorKind::Invalid, text);
    }
    qemu(&path, "write -P 1 0 64k");
    qemu(&path, "img snapshot -c s");
    qemu(&path, "img snapshot -c t");
    let narrow = "Cannot decrease refcount entry width to 1 bits";
    for given in ["refcount_bits=1", "size=512k,refcount_bits=1", "size=2M,refcount_bits=1"] {
        refused(given, ErrorKind::Limit, narrow);
    }
    let before = std::fs::read(&path).unwrap();
    amend(&path, "size=0").unwrap();
    run("qemu-img", ["amend", "-f", "qcow2", "-o", "size=0", file]);
    assert!(std::fs::read(&path).unwrap() == before);
    // The options do not change if the size cannot.
    for given in ["size=1E,refcount_bits=8", "size=1E,lazy_refcounts=on"] {
        refused(given, ErrorKind::Limit, "too large for its cluster size");
    }
    qemu(&path, "img resize -q 2M");
    let internal = "Internal snapshots prevent downgrade of image";
    refused("compat=0.10", ErrorKind::Unsupported, internal);
    // The size is not changed, either.
    refused("compat=0.10,size=3M", ErrorKind::Unsupported, internal);
    amend(&path, "compat=0.10,size=1M").unwrap();
    let sizes = "Can't resize a v2 image which has snapshots";
    refused("size=2M", ErrorKind::Unsupported, sizes);
    assert_qemu_check(&path, "qcow2");
    create("refcount_bits=8");
    refused("compat=0.10", ErrorKind::Unsupported, "compat=0.10 requires refcount_bits=16");
    create("extended_l2=on");
    refused("compat=0.10", ErrorKind::Unsupported, "incompatible features 0x10 set");
    create(&format!("data_file={file}.data"));
    refused("compat=0.10", ErrorKind::Unsupported, "downgrade an image with a data file");
    let long = format!("data_file={}", "x".repeat(1024));
    refused(&long, ErrorKind::Limit, "data_file has more than 1023 bytes");
    create("compression_type=zstd");
    qemu(&path, "write -c -P 1 0 64k");
    qemu(&path, "img snapshot -c s");
    let zstd = "zstd compression type and existing compressed clusters";
    refused("compat=0.10", ErrorKind::Unsupported, zstd);
    qemu(&path, "write -P 1 0 256k");
    // Those of a snapshot are compressed clusters, too.
    refused("compat=0.10", ErrorKind::Unsupported, zstd);
    qemu(&path, "img snapshot -d s");
    qemu(&path, "write -c -P 1 256k 64k");
    // The disk is not made smaller, either.
    refused("compat=0.10,size=512k", ErrorKind::Unsupported, zstd);
    qemu(&path, "write -P 1 0 1M");
    amend(&path, "compat=0.10").unwrap();
    assert_qemu_check(&path, "qcow2");
    create("cluster_size=64k");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[79] = 2;
    std::fs::write(&path, &bytes).unwrap();
    refused("compat=0.10", ErrorKind::Corrupt, "marked as corrupt");
}

#[test]
fn an_image_that_was_not_closed_properly_is_repaired_before() {
    for option in ["compat=0.10", "lazy_refcounts=off", "refcount_bits=64"] {
        let dir = tempfile::tempdir().unwrap();
        let case = Case {
            name: "",
            options: "lazy_refcounts=on,cluster_size=4k",
            size: MIB,
            commands: &[],
        };
        let path = case.make(dir.path());
        let file = path.to_str().unwrap();
        // Killed before it writes refcounts.
        let script =
            format!("qemu-io -f qcow2 -c 'write -P 42 0 128k' -c flush -c 'sigraise 9' '{file}'");
        let killed = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(!killed.status.success());
        let before = contents(&path);
        assert_eq!(before[0][..128 << 10], [42; 128 << 10]);
        assert_eq!(std::fs::read(&path).unwrap()[79], 1);
        amend(&path, option).unwrap();
        assert_qemu_check(&path, "qcow2");
        assert_eq!(contents(&path), before);
        assert_eq!(std::fs::read(&path).unwrap()[79] & 1, 0);
    }
}

#[test]
fn a_cancelled_amendment_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let case = Case {
        name: "",
        options: "cluster_size=512",
        size: MIB,
        commands: &["write -z 0 64k", "write -P 1 64k 64k"],
    };
    let path = case.make(dir.path());
    let before = std::fs::read(&path).unwrap();
    let cancel = |_| ControlFlow::Break(());
    let amend = Amend::new(Options::parse("compat=0.10").unwrap()).progress(&cancel);
    let error = amend.open_options(options()).run(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(std::fs::read(&path).unwrap() == before);
}

#[test]
fn the_flag_of_zero_clusters_is_not_taken_from_a_version_2_image() {
    let dir = tempfile::tempdir().unwrap();
    let case =
        Case { name: "", options: "compat=0.10", size: MIB, commands: &["write -P 1 0 64k"] };
    let path = case.make(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let at = |field: usize, bytes: &[u8]| {
        let offset = u64::from_be_bytes(bytes[field..field + 8].try_into().unwrap());
        (offset & 0x00ff_ffff_ffff_fe00) as usize
    };
    let l2 = at(at(40, &bytes), &bytes);
    bytes[l2 + 7] |= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = amend(&path, "compat=1.1").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("the flag of zero clusters"), "{error}");
    assert!(std::fs::read(&path).unwrap() == bytes);
}

#[test]
fn other_formats_have_no_options_to_change() {
    let dir = tempfile::tempdir().unwrap();
    for format in [Format::Raw, Format::Vmdk, Format::Qed] {
        let path = dir.path().join("a").with_extension(format.name());
        let file = path.to_str().unwrap();
        run("qemu-img", ["create", "-q", "-f", format.name(), file, "1M"]);
        let options = OpenOptions::new().format(format);
        let amend = Amend::new(Options::parse("size=2M").unwrap()).open_options(options);
        let error = amend.run(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("does not support option amendment"), "{error}");
        assert_eq!(format.amend_options(), None);
    }
}
