//! `amend`, compared with that of qemu-img.

use crate::support::Lab;

/// Returns a directory with images of each version, with and without a backing file, snapshots and
/// bitmaps.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -f raw -O qcow2 a.raw a.qcow2").ok();
    lab.qemu("convert -f raw -O qcow2 -o compat=0.10 a.raw v2.qcow2").ok();
    lab.qemu("create -q -f qcow2 -o data_file=data d.qcow2 1M").ok();
    lab.qemu("create -q -f qcow2 -o data_file=rawdata,data_file_raw=on r.qcow2 1M").ok();
    lab.qemu("create -q -f qcow2 -b a.qcow2 -F qcow2 o.qcow2").ok();
    lab.qemu("create -q -f qcow2 -o extended_l2=on e.qcow2 1M").ok();
    lab.qemu("convert -f raw -O qcow2 -o refcount_bits=8 a.raw s.qcow2").ok();
    lab.qemu("snapshot -c one s.qcow2").ok();
    lab.qemu("snapshot -c one v2.qcow2").ok();
    lab.qemu("create -q -f qcow2 s2.qcow2 1M").ok();
    lab.qemu("snapshot -c one s2.qcow2").ok();
    lab.qemu("resize -q s2.qcow2 2M").ok();
    lab.qemu("create -q -f vmdk v.vmdk 1M").ok();
    lab
}

const IMAGES: [&str; 8] =
    ["a.qcow2", "v2.qcow2", "d.qcow2", "r.qcow2", "o.qcow2", "e.qcow2", "s.qcow2", "s2.qcow2"];

/// Returns what `info` says of an image, without what depends on where its clusters are.
fn info(lab: &Lab, name: &str) -> serde_json::Value {
    let info = lab.qemu(&format!("info --output=json {name}")).ok();
    let mut info: serde_json::Value = serde_json::from_str(&info).expect("JSON");
    for key in ["actual-size", "children", "snapshots"] {
        if let Some(object) = info.as_object_mut() {
            object.remove(key);
        }
    }
    info
}

#[test]
fn amends_output_and_exit_codes_are_those_of_qemu_img() {
    let only_create = Some("This option is only supported for image creation");
    for (arguments, message) in [
        ("-o compat=0.10 a.qcow2", None),
        ("-o compat=v2,lazy_refcounts=off a.qcow2", None),
        ("-q -o compat=1.1 -f qcow2 v2.qcow2", None),
        ("-o compat=1.1 a.qcow2", None),
        ("--options lazy_refcounts=on --format qcow2 --cache none a.qcow2", None),
        ("-o refcount_bits=1 a.qcow2", None),
        ("-o refcount_bits=64 -o lazy_refcounts=on a.qcow2", None),
        ("-o compat=1.1,refcount_bits=32,size=3M v2.qcow2", None),
        ("-o size=3M a.qcow2", None),
        ("-o size=64k a.qcow2", None),
        ("-o size=1M,size=2M -t writeback a.qcow2", None),
        ("-o backing_file=a.qcow2,backing_fmt=qcow2 o.qcow2", None),
        ("-o compat=0.10 o.qcow2", None),
        ("-o data_file_raw=off r.qcow2", None),
        ("-o data_file_raw=on r.qcow2", None),
        ("-p -o lazy_refcounts=on a.qcow2", None),
        ("-p -q -o lazy_refcounts=on a.qcow2", None),
        ("-p -o compat=1.1 a.qcow2", None),
        ("a.qcow2", Some("Must specify options (-o)")),
        ("-o compat=1.1", Some("Expecting one image file name")),
        ("-o compat=1.1 a.qcow2 v2.qcow2", Some("Expecting one image file name")),
        ("-o compat=0.9 a.qcow2", Some("Unknown compatibility level 0.9")),
        ("-o refcount_bits=3 a.qcow2", Some("Refcount width must be a power of two and may not")),
        ("-o refcount_bits=8 v2.qcow2", Some("Refcount widths other than 16 bits require")),
        ("-o compat=0.10 s.qcow2", Some("compat=0.10 requires refcount_bits=16")),
        ("-o refcount_bits=1 s.qcow2", Some("Cannot decrease refcount entry width to 1 bits")),
        ("-o compat=0.10 s2.qcow2", Some("Internal snapshots prevent downgrade of image")),
        ("-o size=3M v2.qcow2", Some("Can't resize a v2 image which has snapshots")),
        ("-o lazy_refcounts=on v2.qcow2", Some("Lazy refcounts only supported with compatibility")),
        ("-o compat=0.10 d.qcow2", Some("Cannot downgrade an image with a data file")),
        (
            "-o compat=0.10 e.qcow2",
            Some("Cannot downgrade an image with incompatible features 0x10"),
        ),
        (
            "-o data_file=x a.qcow2",
            Some("data-file can only be set for images that use an external"),
        ),
        ("-o data_file_raw=on d.qcow2", Some("data-file-raw cannot be set on existing images")),
        (
            "-o backing_file=b.qcow2,backing_fmt=qcow2 o.qcow2",
            Some("Cannot amend the backing file"),
        ),
        ("-o backing_file=a.qcow2 o.qcow2", Some("Cannot amend the backing file")),
        ("-o cluster_size=4k a.qcow2", only_create),
        ("-o preallocation=full a.qcow2", only_create),
        ("-o extended_l2=on e.qcow2", only_create),
        ("-o no_such=1 a.qcow2", Some("Invalid parameter 'no_such'")),
        ("-o size=1000 a.qcow2", Some("The new size must be a multiple of 512")),
        ("-f raw -o size=2M a.raw", Some("Format driver 'raw' does not support option amendment")),
        ("-f vmdk -o size=2M v.vmdk", Some("Format driver 'vmdk' does not support option")),
        ("-f raw -o help", Some("Format driver 'raw' does not support option amendment")),
        ("-o help", Some("Expecting one image file name")),
        ("-t no_such -o compat=1.1 a.qcow2", Some("Invalid cache option: no_such")),
        ("-o compat=1.1 missing", Some("missing")),
    ] {
        let (ours, theirs) = (lab(), lab());
        let line = format!("amend {arguments}");
        let (ran, qemu) = (ours.line(&line), theirs.qemu(&line));
        assert_eq!(ran.code, qemu.code, "{line}: {} {}", ran.err, qemu.err);
        assert_eq!(ran.out, qemu.out, "{line}");
        assert_eq!(ran.err.is_empty(), qemu.err.is_empty(), "{line}: {}", ran.err);
        if let Some(message) = message {
            assert!(ran.err.contains(message), "{line}: {}", ran.err);
            assert!(message == "missing" || qemu.err.contains(message), "{line}: {}", qemu.err);
        }
        for name in IMAGES {
            assert_eq!(info(&ours, name), info(&theirs, name), "{line}");
            ours.qemu(&format!("check -q {name}")).ok();
        }
    }
}

#[test]
fn the_options_are_listed_in_the_words_of_qemu_img() {
    let (lab, list) = (lab(), |text: &str| -> Vec<String> {
        let own = text.lines().filter(|line| !line.contains("encrypt."));
        own.map(str::to_owned).collect()
    });
    let theirs = list(&lab.qemu("amend -f qcow2 -o help").ok());
    assert_eq!(theirs.len(), 9);
    for line in ["-f qcow2 -o help", "-o ? a.qcow2", "-o compat=1.1,help a.qcow2"] {
        assert_eq!(list(&lab.line(&format!("amend {line}")).ok()), theirs, "{line}");
    }
}

#[test]
fn a_warning_says_that_bitmaps_are_removed() {
    let lab = lab();
    lab.qemu("bitmap --add a.qcow2 b").ok();
    let ran = lab.line("amend -o compat=0.10 a.qcow2");
    assert_eq!((ran.code, &*ran.out), (Some(0), ""), "{}", ran.err);
    assert!(ran.err.contains("warning: 1 bitmaps were removed"), "{}", ran.err);
    lab.qemu("check -q a.qcow2").ok();
}
