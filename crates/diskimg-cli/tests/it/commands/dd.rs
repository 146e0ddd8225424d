//! `dd`, compared with that of qemu-img.

use crate::support::Lab;

/// Returns a lab with a disk of 1,000 KiB and a raw file whose length is no multiple of a sector.
fn lab() -> Lab {
    let lab = Lab::new();
    let bytes: Vec<u8> = (0..1_024_000_u32).map(|i| (i / 300 * 7) as u8).collect();
    std::fs::write(lab.path("disk.raw"), &bytes).expect("written");
    std::fs::write(lab.path("odd.raw"), &bytes[..10_007]).expect("written");
    lab.qemu("convert -f raw -O qcow2 disk.raw disk.qcow2").ok();
    lab
}

const OPERANDS: [&str; 24] = [
    "if=disk.qcow2 of=out",
    "of=out if=disk.qcow2 bs=1000 count=3",
    "if=disk.qcow2 of=out bs=0",
    "if=disk.qcow2 of=out bs=foo",
    "if=disk.qcow2 of=out bs=-1",
    "if=disk.qcow2 of=out bs=3G",
    "if=disk.qcow2 of=out count=-5",
    "if=disk.qcow2 of=out count=x",
    "if=disk.qcow2 of=out skip=-1",
    "if=disk.qcow2 of=out bs=64k count=4 skip=2",
    "if=disk.qcow2 of=out bs=64k skip=3",
    "if=disk.qcow2 of=out bs=1M",
    "if=disk.qcow2 of=out count=0",
    "if=disk.qcow2 of=out count=1 skip=3",
    "if=disk.qcow2 of=out bs=64k skip=200",
    "of=out",
    "if=disk.qcow2",
    "",
    "if=disk.qcow2 of=out seek=1",
    "if=disk.qcow2 of=out foo",
    "if=missing of=out",
    "-f raw if=odd.raw of=out bs=1k count=2",
    "-f raw if=odd.raw of=out",
    "-f raw -U if=odd.raw of=out bs=100 skip=7",
];

#[test]
fn under_the_name_qemu_img_each_output_is_that_of_qemu_img() {
    for operands in OPERANDS {
        for format in ["raw", "qcow2", "vmdk", "vpc"] {
            let (ours, theirs) = (lab(), lab());
            let line = format!("dd -O {format} {operands}");
            let ran = ours.as_qemu_img(&line);
            let qemu = theirs.qemu(&line);
            assert_eq!((ran.code, &ran.out), (qemu.code, &qemu.out), "{line}: {}", ran.err);
            assert_eq!(ran.err.is_empty(), qemu.err.is_empty(), "{line}: {}", ran.err);
            if ran.code != Some(0) {
                // qemu-img leaves an empty VMDK, which it cannot open.
                assert!(!ours.path("out").exists(), "{line}");
                continue;
            }
            let read = |lab: &Lab| {
                lab.qemu(&format!("convert -f {format} -O raw out read")).ok();
                std::fs::read(lab.path("read")).expect("read")
            };
            assert!(read(&ours) == read(&theirs), "{line}");
        }
    }
}

#[test]
fn count_is_a_number_of_blocks_after_the_skipped_ones() {
    let lab = lab();
    let disk = std::fs::read(lab.path("disk.raw")).expect("read");
    for (operands, range) in [
        ("bs=64k count=4 skip=2", 131_072..393_216),
        ("count=1 skip=3", 1536..2048),
        ("bs=1000 skip=1023 count=5", 1_023_000..1_024_000),
        ("bs=7 skip=3 count=2", 21..35),
        ("bs=64k skip=3", 196_608..1_024_000),
        ("count=0", 0..0),
        ("bs=1000 skip=1024", 1_024_000..1_024_000),
    ] {
        lab.line(&format!("dd if=disk.qcow2 of=out.raw {operands}")).ok();
        let out = std::fs::read(lab.path("out.raw")).expect("read");
        assert!(out == disk[range], "{operands}: {} bytes", out.len());
    }
    lab.line("dd if=disk.qcow2 of=part.qcow2 bs=64k skip=3 count=2").ok();
    assert!(lab.qemu("info part.qcow2").ok().contains("virtual size: 128 KiB"));
    lab.qemu("check -q part.qcow2").ok();
}

#[test]
fn blocks_beyond_the_end_are_an_error_and_nothing_is_written() {
    let lab = lab();
    let error = lab.line("dd if=disk.qcow2 of=out bs=64k skip=200").fails(1);
    assert!(error.contains("disk.qcow2: cannot skip to specified offset"), "{error}");
    assert!(error.contains("the disk has 1024000 bytes"), "{error}");
    assert!(!lab.path("out").exists());
}

#[test]
fn the_input_is_not_replaced_by_a_part_of_itself() {
    let lab = lab();
    let before = std::fs::read(lab.path("disk.qcow2")).expect("read");
    for line in ["dd if=disk.qcow2 of=disk.qcow2 count=1", "dd if=disk.qcow2 of=./disk.qcow2"] {
        lab.line(line).fails(1);
        assert!(std::fs::read(lab.path("disk.qcow2")).expect("read") == before, "{line}");
    }
}

#[test]
fn holes_are_kept() {
    let lab = Lab::new();
    lab.qemu("create -f qcow2 big.qcow2 1T").ok();
    lab.line("dd if=big.qcow2 of=out.raw bs=1G skip=1 count=500").ok();
    let report = lab.qemu("info --output=json -f raw out.raw").ok();
    let info: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(info["virtual-size"], 500_u64 << 30);
    assert!(info["actual-size"].as_u64().expect("a number") < 1 << 20, "{report}");
}
