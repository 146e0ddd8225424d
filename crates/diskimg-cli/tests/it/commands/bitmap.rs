//! `bitmap` and `convert --bitmaps`, compared with those of qemu-img.

use crate::support::{Lab, diskimg};

/// Returns a directory with images. The bitmap `lost` of `broken.qcow2` is inconsistent.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -f raw -O qcow2 a.raw a.qcow2").ok();
    lab.qemu("create -q -f qcow2 -o cluster_size=512 b.qcow2 4M").ok();
    lab.qemu("create -q -f qcow2 -o compat=0.10 v2.qcow2 4M").ok();
    lab.qemu("create -q -f qcow2 other.qcow2 4M").ok();
    lab.qemu("create -q -f qcow2 larger.qcow2 8M").ok();
    lab.qemu("create -q -f qcow2 huge.qcow2 8T").ok();
    lab.qemu("create -q -f qcow2 broken.qcow2 4M").ok();
    for line in
        ["-g 512 b.qcow2 old", "-g 512 other.qcow2 b", "larger.qcow2 b", "broken.qcow2 lost"]
    {
        lab.qemu(&format!("bitmap --add {line}")).ok();
    }
    let io = |command: &str, file: &str| {
        let run = lab.command("qemu-io").args(["-f", "qcow2", "-c", command, file]).output();
        assert!(run.expect("qemu-io runs").status.success() || command == "abort");
    };
    io("write 1M 3k", "b.qcow2");
    io("write 2M 1k", "other.qcow2");
    io("abort", "broken.qcow2");
    lab
}

const NAMES: [&str; 6] =
    ["a.qcow2", "b.qcow2", "v2.qcow2", "other.qcow2", "larger.qcow2", "broken.qcow2"];

/// Command lines, and messages that qemu-img has as well.
const LINES: &[(&str, &str)] = &[
    ("--add b.qcow2 b", ""),
    ("--add -g 512 b.qcow2 b", ""),
    ("--add --granularity=2G b.qcow2 b", ""),
    ("--add --disable b.qcow2 b -g 1M", ""),
    ("b.qcow2 b --add --disable", ""),
    ("b.qcow2 --disable old", ""),
    ("--enable b.qcow2 old", ""),
    ("--clear b.qcow2 old", ""),
    ("--remove b.qcow2 old", ""),
    ("--remove --add b.qcow2 old", ""),
    ("--add --remove --add --merge old b.qcow2 b", ""),
    ("--add -g 4k --merge old --merge old --disable -f qcow2 b.qcow2 b", ""),
    ("--merge old b.qcow2 old", ""),
    ("--merge b -b other.qcow2 -F qcow2 b.qcow2 old", ""),
    ("--add --merge b --source-file other.qcow2 --source-format qcow2 b.qcow2 b", ""),
    ("--remove --image-opts driver=qcow2,file.driver=file,file.filename=b.qcow2 old", ""),
    ("--remove --image-opts driver=qcow2,file.filename=b.qcow2 old", ""),
    ("--add -g 0 b.qcow2 b", ""),
    ("--remove broken.qcow2 lost", ""),
    ("--add broken.qcow2 good", ""),
    ("b.qcow2 b", "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge"),
    ("--add b.qcow2", "Expecting filename and bitmap name"),
    ("--add b.qcow2 b c", "Expecting filename and bitmap name"),
    ("--add", "Expecting filename and bitmap name"),
    ("--enable -g 1k b.qcow2 old", "granularity only supported with --add"),
    ("--enable -F raw b.qcow2 old", "-F only supported with -b"),
    ("--enable -b x b.qcow2 old", "Merge bitmap source file only supported with --merge"),
    ("--image-opts -f qcow2 --add b.qcow2 b", "--image-opts and --format are mutually exclusive"),
    ("--add -g xx b.qcow2 b", "Invalid granularity specified"),
    (
        "--add -g 4G b.qcow2 b",
        "Operation add on bitmap b failed: Granularity must be power of 2 and at least 512",
    ),
    (
        "--add -g 1000 b.qcow2 b",
        "Operation add on bitmap b failed: Granularity must be power of 2 and at least 512",
    ),
    ("--add b.qcow2 old", "Operation add on bitmap old failed: Bitmap already exists: old"),
    ("--remove b.qcow2 x", "Operation remove on bitmap x failed: Dirty bitmap 'x' not found"),
    ("--clear b.qcow2 x", "Operation clear on bitmap x failed: Dirty bitmap 'x' not found"),
    ("--enable b.qcow2 x", "Operation enable on bitmap x failed: Dirty bitmap 'x' not found"),
    ("--disable b.qcow2 x", "Operation disable on bitmap x failed: Dirty bitmap 'x' not found"),
    ("--merge x b.qcow2 old", "Operation merge on bitmap old failed: Dirty bitmap 'x' not found"),
    ("--merge old b.qcow2 x", "Operation merge on bitmap x failed: Dirty bitmap 'x' not found"),
    ("--merge old -b other.qcow2 b.qcow2 old", "Operation merge on bitmap old failed: "),
    (
        "--merge b -b larger.qcow2 b.qcow2 old",
        "Operation merge on bitmap old failed: Bitmaps are of different sizes (destination size is \
         4194304, source size is 8388608) and can't be merged",
    ),
    // What was done before is stored.
    (
        "--add --disable --merge x b.qcow2 b",
        "Operation merge on bitmap b failed: Dirty bitmap 'x' not found",
    ),
    ("--add --remove --remove b.qcow2 b", "Operation remove on bitmap b failed: "),
    ("--add v2.qcow2 b", "Cannot store dirty bitmaps in qcow2 v2 files"),
    ("--remove v2.qcow2 b", "Operation remove on bitmap b failed: Dirty bitmap 'b' not found"),
    ("--add -g 512 huge.qcow2 b", "Too much space will be occupied by the bitmap"),
    ("--add -f raw a.raw b", "Operation add on bitmap b failed: Can't "),
    ("--remove -f raw a.raw b", "Operation remove on bitmap b failed: "),
    (
        "--clear broken.qcow2 lost",
        "Operation clear on bitmap lost failed: Bitmap 'lost' is inconsistent and cannot be used",
    ),
    ("--merge lost broken.qcow2 lost", "Bitmap 'lost' is inconsistent and cannot be used"),
    ("--add broken.qcow2 lost", "Bitmap already exists: lost"),
    ("--add missing.qcow2 b", "missing.qcow2"),
    ("--merge b -b missing.qcow2 b.qcow2 old", "missing.qcow2"),
];

#[test]
fn bitmaps_and_exit_codes_are_those_of_qemu_img() {
    for (arguments, message) in LINES {
        let (ours, theirs) = (lab(), lab());
        let line = format!("bitmap {arguments}");
        let (ran, qemu) = (ours.line(&line), theirs.qemu(&line));
        assert_eq!(ran.code, qemu.code, "{line}: {}", ran.err);
        assert_eq!((&*ran.out, &*qemu.out), ("", ""), "{line}");
        assert_eq!(ran.err.is_empty(), message.is_empty(), "{line}: {}", ran.err);
        assert!(ran.err.contains(message), "{line}: {}", ran.err);
        assert!(qemu.err.contains(message), "{line}: {}", qemu.err);
        for name in NAMES {
            let list = |lab: &Lab| {
                let info = lab.qemu(&format!("info {name}")).ok();
                info.split_once("bitmaps:").map(|(_, rest)| {
                    rest.split("    refcount bits").next().unwrap_or_default().to_owned()
                })
            };
            assert_eq!(list(&ours), list(&theirs), "{line}: {name}");
            ours.qemu(&format!("check -q {name}")).ok();
        }
    }
}

/// As oVirt calls it.
#[test]
fn a_snapshot_is_merged_with_its_bitmaps() {
    let lab = lab();
    lab.line("bitmap --add --disable other.qcow2 b2").ok();
    for name in ["b", "b2"] {
        lab.line(&format!("bitmap --add --enable b.qcow2 {name} -g 65536")).ok();
        lab.line(&format!("bitmap --merge {name} -F qcow2 -b other.qcow2 b.qcow2 {name}")).ok();
        lab.line(&format!("bitmap --remove other.qcow2 {name}")).ok();
    }
    let info = lab.line("info --output=json b.qcow2").ok();
    assert!(info.contains("\"b2\"") && info.contains("65536"), "{info}");
    lab.line("measure --output=json -O qcow2 b.qcow2").ok();
    lab.same_json("measure --output=json -O qcow2 b.qcow2");
    assert!(!lab.line("info other.qcow2").ok().contains("bitmaps"));
    lab.qemu("check -q b.qcow2").ok();
}

#[test]
fn a_conversion_copies_bitmaps_as_qemu_img_does() {
    for (arguments, message) in [
        ("-O qcow2 b.qcow2 out.qcow2", ""),
        (
            "-O qcow2 --skip-broken-bitmaps broken.qcow2 out.qcow2",
            "Skipping inconsistent bitmap 'lost'",
        ),
        ("-O qcow2 a.qcow2 out.qcow2", ""),
        ("-n -O qcow2 b.qcow2 other.qcow2", ""),
        (
            "-n -O qcow2 b.qcow2 larger.qcow2",
            "Failed to populate bitmap old: Bitmaps are of different sizes (destination size is \
             8388608, source size is 4194304) and can't be merged",
        ),
        (
            "-n -O qcow2 other.qcow2 larger.qcow2",
            "Failed to create bitmap b: Bitmap already exists: b",
        ),
        ("-O raw b.qcow2 out.qcow2", "Format driver 'raw' does not support bitmaps"),
        (
            "-O qcow2 -o compat=0.10 b.qcow2 out.qcow2",
            "Format driver 'qcow2' does not support bitmaps",
        ),
        (
            "-O qcow2 b.qcow2 other.qcow2 out.qcow2",
            "Copying bitmaps only possible with single source",
        ),
        ("-O qcow2 a.raw out.qcow2", "Source lacks bitmap support"),
        ("-O qcow2 v2.qcow2 out.qcow2", "Source lacks bitmap support"),
        ("-O qcow2 broken.qcow2 out.qcow2", "Cannot copy inconsistent bitmap 'lost'"),
    ] {
        let (ours, theirs) = (lab(), lab());
        let line = format!("convert --bitmaps {arguments}");
        let (ran, qemu) = (ours.line(&line), theirs.qemu(&line));
        assert_eq!(ran.code, qemu.code, "{line}: {}", ran.err);
        assert!(ran.err.contains(message), "{line}: {}", ran.err);
        assert!(qemu.err.contains(message), "{line}: {}", qemu.err);
        if qemu.code == Some(0) {
            let name = arguments.rsplit(' ').next().expect("a name");
            let list = |lab: &Lab| {
                let info = lab.qemu(&format!("info {name}")).ok();
                info.split_once("bitmaps:").map(|(_, rest)| {
                    rest.split("    refcount bits").next().unwrap_or_default().to_owned()
                })
            };
            assert_eq!(list(&ours), list(&theirs), "{line}");
            ours.qemu(&format!("check -q {name}")).ok();
        }
    }
    let lab = lab();
    let error = lab.line("convert --skip-broken-bitmaps -O qcow2 b.qcow2 out.qcow2").fails(1);
    assert!(error.contains("Use of --skip-broken-bitmaps requires --bitmaps"), "{error}");
    let plan = lab.line("convert --dry-run --bitmaps -O qcow2 broken.qcow2 out.qcow2").fails(1);
    assert!(plan.contains("Cannot copy inconsistent bitmap 'lost'"), "{plan}");
}

/// Nothing is left of what was written to the end of the file before the disk was full.
#[test]
fn a_write_that_fails_leaves_the_file_as_it_was() {
    for line in ["bitmap --add a.qcow2 b", "amend -f qcow2 -o refcount_bits=64 a.qcow2"] {
        let lab = lab();
        let before = lab.read("a.qcow2");
        // In blocks of 512 bytes, with limits within clusters.
        let limits = (before.len() / 512..).step_by(41);
        let failures = limits.take_while(|limit| {
            let command = format!("trap '' XFSZ; ulimit -f {limit}; exec {} {line}", diskimg());
            let output = lab.command("sh").args(["-c", &command]).output().expect("runs");
            let failed = !output.status.success();
            assert!(!failed || lab.read("a.qcow2") == before, "{line}, {limit}: {output:?}");
            failed
        });
        assert!(failures.count() > 3, "{line}");
        lab.qemu("check -q a.qcow2").ok();
    }
}
