//! Bitmaps that conversions copy, compared with qemu-img.

use super::{MIB, contents, contents_by_qemu, make, options, qemu};
use diskimg::formats::qcow2::Qcow2Mut;
use diskimg::{Convert, ErrorKind, Format, Options};
use diskimg_testkit::tool::{assert_qemu_check, assert_qemu_same, run, try_run};
use std::path::Path;

const COMMANDS: &[&str] = &[
    "img bitmap --add -g 512 fine",
    "img bitmap --add coarse",
    "write -P 1 0 100k",
    "img bitmap --disable coarse",
    "write -P 2 700k 512",
    "img bitmap --add -g 2M empty",
];

fn convert(path: &Path, settings: &str) -> Convert<'static> {
    let options = Options::parse(settings).unwrap();
    Convert::new(self::options().open(path).unwrap())
        .format(Format::Qcow2)
        .options(options)
        .bitmaps(true)
}

#[test]
fn a_conversion_copies_the_bitmaps() {
    for source in ["cluster_size=64k", "cluster_size=512", "cluster_size=2M"] {
        let dir = tempfile::tempdir().unwrap();
        let path = make(dir.path(), source, COMMANDS);
        let expected = contents_by_qemu(&path);
        assert_eq!(expected.len(), 3);
        for target in [
            "cluster_size=64k",
            "cluster_size=512",
            "cluster_size=512,refcount_bits=64",
            "cluster_size=2M",
            "cluster_size=4k,preallocation=metadata",
            "cluster_size=4k,data_file=@",
            "cluster_size=64k,extended_l2=on",
        ] {
            let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
            let data = format!("data_file={}", dir.path().join("data").display());
            let target = &*target.replace("data_file=@", &data);
            convert(&path, target).verify(true).run(&ours).unwrap();
            assert_qemu_check(&ours, "qcow2");
            assert_eq!(contents(&ours), expected, "{source} {target}");
            assert_eq!(contents_by_qemu(&ours), expected, "{source} {target}");
            let args = ["convert", "--bitmaps", "-O", "qcow2", "-o", target];
            let names = [&path, &theirs].map(|path| path.to_str().unwrap().to_owned());
            let target = target.replace(&data, "compat=1.1");
            let args = args.map(|arg| if arg.contains('=') { &*target } else { arg });
            run("qemu-img", args.iter().copied().chain(names.iter().map(|name| &**name)));
            assert_eq!(contents(&theirs), expected, "{source} {target}");
            assert_qemu_same(&ours, "qcow2", &theirs, "qcow2");
            // More can be added to it.
            Qcow2Mut::open(&ours).unwrap().add_bitmap("more", None).unwrap();
            assert_qemu_check(&ours, "qcow2");
            std::fs::remove_file(&ours).unwrap();
        }
        let compressed = dir.path().join("compressed");
        convert(&path, "").compress(true).run(&compressed).unwrap();
        assert_eq!(contents_by_qemu(&compressed), expected);
        assert_qemu_check(&compressed, "qcow2");
    }
}

#[test]
fn an_existing_image_gets_the_bitmaps_and_keeps_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = make(dir.path(), "cluster_size=64k", COMMANDS);
    let expected = contents_by_qemu(&path);
    for target in ["cluster_size=512", "cluster_size=64k", "cluster_size=4k,data_file=@"] {
        let make = |name: &str| {
            let path = dir.path().join(name);
            let data = format!("data_file={}", dir.path().join(format!("{name}.d")).display());
            let target = target.replace("data_file=@", &data);
            let file = path.to_str().unwrap();
            run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", &target, file, "1M"]);
            run("qemu-img", ["bitmap", "--add", "-g", "4k", file, "own"]);
            qemu(&path, "write -P 7 400k 4k");
            path
        };
        let (ours, theirs) = (make("ours"), make("theirs"));
        let converted = convert(&path, "").target_is_zero(true).run_existing(&ours);
        converted.unwrap();
        assert_qemu_check(&ours, "qcow2");
        let names = [&path, &theirs].map(|path| path.to_str().unwrap().to_owned());
        let args = ["convert", "-n", "--bitmaps", "-O", "qcow2"];
        run("qemu-img", args.into_iter().chain(names.iter().map(|name| &**name)));
        let (found, by_qemu) = (contents(&ours), contents_by_qemu(&theirs));
        assert_eq!(found[1..], expected, "{target}");
        assert_eq!(found, contents_by_qemu(&ours), "{target}");
        assert_eq!(found[1..], by_qemu[1..], "{target}");
        assert_eq!(found[0].0, by_qemu[0].0, "{target}");
        // What was written is dirty.
        let covers = |at: u64| found[0].1.iter().any(|range| range.contains(&at));
        assert!([0, 99 << 10, 400 << 10, 700 << 10].into_iter().all(covers), "{target}");
        // They exist now. Nothing is written.
        let before = std::fs::read(&ours).unwrap();
        let error = convert(&path, "").run_existing(&ours).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let text = "Failed to create bitmap empty: Bitmap already exists: empty";
        assert!(error.to_string().contains(text), "{error}");
        assert!(std::fs::read(&ours).unwrap() == before);
    }
}

#[test]
fn bitmaps_that_cannot_be_copied_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = make(dir.path(), "cluster_size=64k", COMMANDS);
    let out = dir.path().join("out");
    let refused = |convert: Convert<'_>, text: &str| {
        let error = convert.run(&out).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        assert!(!out.exists());
    };
    let text = "Format driver 'raw' does not support bitmaps";
    refused(convert(&path, "").format(Format::Raw), text);
    let text = "Format driver 'qcow2' does not support bitmaps";
    refused(convert(&path, "compat=0.10"), text);
    let image = || options().open(&path).unwrap();
    let text = "Copying bitmaps only possible with single source";
    refused(convert(&path, "").append(image()), text);
    let text = "Failed to populate bitmap empty: Bitmaps are of different sizes (destination size is \
                2097152, source size is 1048576) and can't be merged";
    refused(convert(&path, "size=2M"), text);
    for (file, options) in [("v2", "compat=0.10"), ("raw", "")] {
        let name = dir.path().join(file);
        let target = name.to_str().unwrap();
        let format = if file == "raw" { "raw" } else { "qcow2" };
        let args = ["create", "-q", "-f", format, target, "1M", "-o", options];
        run("qemu-img", args[..if options.is_empty() { 6 } else { 8 }].to_vec());
        let image = diskimg::OpenOptions::new().open(&name).unwrap();
        let convert = Convert::new(image).format(Format::Qcow2).bitmaps(true);
        refused(convert, "Source lacks bitmap support");
    }
    let output = try_run("qemu-io", ["-f", "qcow2", "-c", "abort", path.to_str().unwrap()]);
    assert!(!output.status.success());
    qemu(&path, "img bitmap --add good");
    refused(convert(&path, ""), "Cannot copy inconsistent bitmap 'empty'");
    let plan = convert(&path, "").plan(&out).unwrap_err();
    assert!(plan.to_string().contains("Cannot copy inconsistent bitmap 'empty'"), "{plan}");
    let report = convert(&path, "").skip_broken_bitmaps(true).run(&out).unwrap();
    let skipped = |name: &str| format!("Skipping inconsistent bitmap '{name}'");
    assert_eq!(report.warnings, ["empty", "coarse", "fine"].map(skipped));
    let found = contents(&out);
    assert_eq!(found, contents_by_qemu(&out));
    assert_eq!(found.iter().map(|(bitmap, _)| &*bitmap.name).collect::<Vec<_>>(), ["good"]);
}

/// Only those of the image itself.
#[test]
fn bitmaps_of_backing_files_are_not_copied() {
    let dir = tempfile::tempdir().unwrap();
    let base = make(dir.path(), "cluster_size=64k", COMMANDS);
    let path = dir.path().join("top.qcow2");
    let (base, file) = (base.to_str().unwrap(), path.to_str().unwrap());
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, file]);
    run("qemu-img", ["bitmap", "--add", file, "top"]);
    qemu(&path, "write -P 3 512k 1k");
    let out = dir.path().join("out");
    convert(&path, "").run(&out).unwrap();
    assert_eq!(contents(&out), contents_by_qemu(&path));
    assert_eq!(contents(&out).len(), 1);
    assert_qemu_same(&out, "qcow2", &path, "qcow2");
    assert_eq!(MIB, options().open(&out).unwrap().size());
}
