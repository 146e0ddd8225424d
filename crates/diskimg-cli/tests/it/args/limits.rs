//! Tests of `--limit`.

use crate::support::{Lab, diskimg, write_at};
use std::path::{Path, PathBuf};

fn lab() -> Lab {
    let lab = Lab::new();
    lab.qemu("create -q -f qcow2 a.qcow2 1G").ok();
    lab.qemu("create -q -f qcow2 -b a.qcow2 -F qcow2 b.qcow2").ok();
    lab
}

#[test]
fn every_command_that_reads_images_applies_the_limits() {
    let lab = lab();
    // The refcount table is one cluster of 64 KiB.
    for line in [
        "info a.qcow2",
        "check a.qcow2",
        "map a.qcow2",
        "compare a.qcow2 a.qcow2",
        "measure -O raw a.qcow2",
        "convert -O raw a.qcow2 a.raw",
        "convert -O qcow2 -B a.qcow2 -F qcow2 a.qcow2 over.qcow2",
        "create -q -f qcow2 -b a.qcow2 -F qcow2 c.qcow2",
        "iso ls a.qcow2",
    ] {
        let refused = lab.line(&format!("{line} --limit table_bytes=65535")).err;
        for part in ["65536 bytes", "the limit table_bytes is 65535", "--limit table_bytes=N"] {
            assert!(refused.contains(part), "{line}: {refused}");
        }
        let raised = lab.line(&format!("{line} --limit table_bytes=1 --limit table_bytes=64k")).err;
        assert!(!raised.contains("limit"), "{line}: {raised}");
    }
    let error = lab.line("map b.qcow2 --limit chain_depth=1").fails(1);
    assert!(error.contains("the limit chain_depth is 1"), "{error}");
}

#[test]
fn an_invalid_limit_is_an_error_and_help_lists_all_limits() {
    let lab = lab();
    for wrong in ["tables=1", "table_bytes", "table_bytes=", "table_bytes=much", "table_bytes=-1"] {
        let error = lab.line(&format!("info --limit {wrong} a.qcow2")).fails(1);
        assert!(error.contains(&format!("--limit {wrong}")), "{error}");
    }
    assert!(
        lab.line("info --limit tables=1 a.qcow2").fails(1).contains("chain_depth, table_bytes")
    );
    for line in ["info --limit help", "convert --limit help", "iso ls --limit help"] {
        let help = lab.line(line).ok();
        assert!(help.contains("\n  chain_depth=200 "), "{line}: {help}");
    }
}

/// Returns the peak memory of a command in bytes, and its standard error.
fn peak_memory(lab: &Lab, line: &str) -> (u64, String) {
    const MEASURE: &str = "import resource, subprocess, sys\n\
        ran = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)\n\
        sys.stderr.buffer.write(ran.stderr)\n\
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
    let out = lab
        .command("python3")
        .args(["-c", MEASURE, diskimg()])
        .args(line.split(' '))
        .output()
        .expect("python3 runs");
    let kib: u64 = String::from_utf8_lossy(&out.stdout).trim().parse().expect("a number");
    (kib << 10, String::from_utf8_lossy(&out.stderr).into_owned())
}

/// Creates a qcow2 image whose snapshot table has the maximum number of snapshots and size.
fn with_snapshots(lab: &Lab, name: &str) {
    const SNAPSHOTS: u32 = 65536;
    const BYTES_OF_EACH: usize = 1024;
    lab.qemu(&format!("create -q -f qcow2 {name} 1M")).ok();
    let at = lab.path(name).metadata().expect("reads metadata").len().next_multiple_of(1 << 16);
    let mut table = Vec::new();
    for number in 0..SNAPSHOTS {
        let id = number.to_string();
        let entry = table.len();
        // L1 table offset and size, lengths of ID and name, dates, sizes, extra data.
        table.extend(0u64.to_be_bytes());
        table.extend(0u32.to_be_bytes());
        table.extend((id.len() as u16).to_be_bytes());
        let name_bytes = BYTES_OF_EACH - 40 - 16 - id.len();
        table.extend((name_bytes as u16).to_be_bytes());
        table.extend([0; 8 + 8 + 4]);
        table.extend(16u32.to_be_bytes());
        table.extend(0u64.to_be_bytes());
        table.extend((1u64 << 20).to_be_bytes());
        table.extend(id.bytes());
        table.resize(entry + BYTES_OF_EACH, b'n');
    }
    let image = lab.path(name);
    write_at(&image, at, &table);
    write_at(&image, 60, &SNAPSHOTS.to_be_bytes());
    write_at(&image, 64, &at.to_be_bytes());
}

/// Returns a VMDK descriptor of 1 MiB with as many extent lines as possible.
fn descriptor() -> String {
    const LINE: &str = "RW 1 ZERO\n";
    let head = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
        createType=\"custom\"\n";
    head.to_owned() + &LINE.repeat(((1 << 20) - head.len()) / LINE.len())
}

#[test]
fn memory_stays_within_the_documented_limits() {
    const MIB: u64 = 1 << 20;
    const PROGRAM: u64 = 16 * MIB;
    let lab = Lab::new();
    lab.qemu("create -q -f qcow2 tables.qcow2 2P").ok();
    with_snapshots(&lab, "snapshots.qcow2");
    std::fs::write(lab.path("a.vmdk"), descriptor()).expect("writes");
    let metadata = format!("{{\"x\":[{}0]}}", "{\"\":0},".repeat(1_100_000));
    std::fs::write(lab.path("metadata.json"), metadata).expect("writes");
    std::fs::write(lab.path("box.img"), [0; 4096]).expect("writes");
    let tar = lab.command("tar").args(["-cf", "a.ova", "metadata.json", "box.img"]).status();
    assert!(tar.is_ok_and(|status| status.success()));
    let limits = diskimg::Limits::default();
    let layer = limits.table_bytes + 4 * MIB;
    for (line, limit) in [
        ("info tables.qcow2", layer),
        ("map tables.qcow2", layer),
        ("info snapshots.qcow2", layer + 5 * limits.snapshot_table_bytes),
        ("map snapshots.qcow2", layer + 2 * limits.snapshot_table_bytes),
        ("info a.vmdk", 100 * limits.descriptor_bytes),
        ("info a.ova", 2 * limits.ovf_bytes + 16 * MIB),
    ] {
        let (bytes, stderr) = peak_memory(&lab, line);
        assert_eq!(stderr, "", "{line}");
        assert!(bytes <= PROGRAM + limit, "{line}: {} MiB of {}", bytes / MIB, limit / MIB);
    }
}

/// Returns the limits that SECURITY.md recommends for uploads.
fn upload_limits() -> Vec<String> {
    let text = include_str!("../../../../../SECURITY.md");
    let line =
        text.lines().find(|line| line.starts_with("`--limit ")).expect("SECURITY.md lists limits");
    line.trim_matches(['`', '.']).split(' ').map(str::to_owned).collect()
}

#[test]
fn valid_images_pass_the_limits_recommended_for_uploads() {
    let lab = Lab::new();
    lab.raw("disk.raw");
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata");
    let entries = testdata.read_dir().expect("testdata exists");
    let mut images: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    images.retain(|path| {
        let name = path.to_string_lossy();
        // The limits allow no backing file.
        (name.ends_with(".qcow2") || name.ends_with(".vmdk")) && !name.ends_with("overlay.qcow2")
    });
    assert!(images.len() >= 7, "{images:?}");
    for (name, options) in [
        ("large.qcow2", "-f qcow2 large.qcow2 2T"),
        ("large.vmdk", "-f vmdk large.vmdk 200G"),
        ("stream.vmdk", "-f vmdk -o subformat=streamOptimized stream.vmdk 100G"),
    ] {
        lab.qemu(&format!("create -q {options}")).ok();
        images.push(lab.path(name));
    }
    for image in &images {
        let image = image.to_str().expect("UTF-8");
        for command in [&["inspect"][..], &["info"], &["convert", "-O", "qcow2"]] {
            let mut args: Vec<String> = command.iter().map(|arg| (*arg).to_owned()).collect();
            args.extend(upload_limits());
            args.push(image.to_owned());
            if command[0] == "convert" {
                args.push("out.qcow2".to_owned());
            }
            let ran = lab.run(&args);
            assert!(
                !ran.err.contains("limit") && !ran.out.contains("limit"),
                "{args:?}: {}",
                ran.err
            );
            assert!(matches!(ran.code, Some(0) | Some(2)), "{args:?}: {}", ran.err);
        }
    }
}
