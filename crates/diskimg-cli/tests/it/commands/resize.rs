//! `resize`, compared with that of qemu-img.

use crate::support::Lab;
use diskimg_testkit::tool::run;

fn lab() -> Lab {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -f raw -O qcow2 a.raw a.qcow2").ok();
    lab
}

#[test]
fn sizes_output_and_exit_codes_are_those_of_qemu_img() {
    for arguments in [
        "-f qcow2 a.qcow2 3M",
        "-f qcow2 a.qcow2 +1M",
        "a.qcow2 +1.5k",
        "-q a.qcow2 +1k",
        "a.qcow2 1M",
        "a.qcow2 +0",
        "-f raw a.raw +512",
        "-f raw a.raw 100M",
        "-f raw --preallocation falloc a.raw +1M",
        "-f raw --preallocation=full a.raw +1M",
        "-f raw --shrink a.raw 512k",
        "-f raw --shrink a.raw -512k",
        "-f raw a.raw -512k",
        "a.qcow2 512k",
        "a.qcow2 -512k",
        "a.qcow2 -2M",
        "a.qcow2 0",
        "a.qcow2 abc",
        "a.qcow2 +abc",
        "a.qcow2",
        "",
        "a.raw -f raw 512k --shrink",
        "a.qcow2 +1M -q",
        "a.qcow2 1M 2M",
        "--preallocation=full a.qcow2 1M",
        "-f raw --preallocation=some a.raw +1M",
        "missing 1M",
    ] {
        let (ours, theirs) = (lab(), lab());
        let line = format!("resize {arguments}");
        let (ran, qemu) = (ours.line(&line), theirs.qemu(&line));
        assert_eq!(ran.code, qemu.code, "{line}");
        assert_eq!(ran.out, qemu.out, "{line}");
        assert_eq!(ran.err.is_empty(), qemu.err.is_empty(), "{line}");
        for name in ["a.raw", "a.qcow2"] {
            let format = &name[2..];
            let size = |lab: &Lab| {
                let json = lab.qemu(&format!("info --output=json -f {format} {name}")).ok();
                let info: serde_json::Value = serde_json::from_str(&json).expect("JSON");
                info["virtual-size"].clone()
            };
            assert_eq!(size(&ours), size(&theirs), "{line}");
        }
        ours.qemu("check -q a.qcow2").ok();
    }
}

#[test]
fn shrinking_without_the_option_has_the_sentence_that_scripts_look_for() {
    let lab = lab();
    let error = lab.line("resize a.qcow2 512k").fails(1);
    assert!(error.contains("Use the --shrink option to perform a shrink operation."), "{error}");
    assert!(error.contains("will delete all data beyond the shrunken image's end"), "{error}");
}

#[test]
fn the_sandbox_allows_resizing_an_overlay_of_a_file_elsewhere() {
    let lab = lab();
    std::fs::create_dir(lab.path("sub")).expect("creates");
    lab.qemu("create -q -f qcow2 -b ../a.qcow2 -F qcow2 sub/over.qcow2 512k").ok();
    lab.line("resize --sandbox=on sub/over.qcow2 2M").ok();
    lab.qemu("check -q sub/over.qcow2").ok();
    // The backing file is longer than the disk was, but added bytes are zeros.
    lab.qemu("convert -O raw sub/over.qcow2 over.raw").ok();
    let bytes = lab.read("over.raw");
    assert!(bytes[..512 << 10] == lab.read("a.raw")[..512 << 10]);
    assert!(bytes[512 << 10..].iter().all(|&byte| byte == 0) && bytes.len() == 2 << 20);
}

/// In the default sandbox. A data file is named by the image, so the caller must name the format.
#[test]
fn an_external_data_file_is_resized_if_the_format_is_named() {
    for (options, size) in [("data_file=d.raw", "4M"), ("data_file=d.raw,data_file_raw=on", "4M")] {
        let lab = Lab::new();
        lab.qemu(&format!("create -q -f qcow2 -o {options} a.qcow2 1M")).ok();
        let error = lab.line(&format!("resize a.qcow2 {size}")).fails(1);
        assert!(error.contains("external data file") && error.contains("-f"), "{error}");
        assert_eq!(lab.read("d.raw").len(), 1 << 20);
        lab.line(&format!("resize -f qcow2 a.qcow2 {size}")).ok();
        assert_eq!(lab.read("d.raw").len(), 4 << 20);
        lab.qemu("check -q a.qcow2").ok();
        lab.line("resize -f qcow2 --shrink a.qcow2 512k").ok();
        assert_eq!(lab.read("d.raw").len(), 512 << 10);
        lab.qemu("check -q a.qcow2").ok();
    }
}

/// The sandbox allows creating, replacing and removing files only if the format is named.
#[test]
fn vmdks_of_several_files_are_resized_in_the_sandbox() {
    for layout in ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse"] {
        let lab = lab();
        lab.qemu(&format!("convert -f raw -O vmdk -o subformat={layout} a.raw a.vmdk")).ok();
        if layout != "monolithicSparse" {
            let error = lab.line("resize a.vmdk 1G").fails(1);
            assert!(error.contains("name the format with -f"), "{error}");
        }
        let out = lab.line("resize -f vmdk a.vmdk 6G").ok();
        assert_eq!(out, "Image resized.\n");
        lab.line("check -f vmdk a.vmdk").ok();
        lab.line("resize -q -f vmdk --shrink a.vmdk 1M").ok();
        lab.qemu("compare -f raw -F vmdk a.raw a.vmdk").ok();
        let files = std::fs::read_dir(lab.path("")).expect("lists").flatten();
        let extents = files.filter(|file| file.file_name().to_string_lossy().starts_with("a-"));
        assert_eq!(extents.count(), usize::from(layout != "monolithicSparse"), "{layout}");
    }
}

#[test]
fn a_partition_table_is_moved_on_request() {
    let lab = lab();
    lab.qemu("resize -q -f raw a.raw 10M").ok();
    let error = lab.line("resize -f raw --fix-gpt a.raw 20M").fails(1);
    assert!(error.contains("no GUID partition table"), "{error}");
    assert_eq!(lab.read("a.raw").len(), 10 << 20);
    run("sgdisk", ["-Z", "-n", "1:2048:+1M", lab.path("a.raw").to_str().expect("UTF-8")]);
    lab.line("resize -q -f raw --fix-gpt a.raw 20M").ok();
    let verified = run("sgdisk", ["-v", lab.path("a.raw").to_str().expect("UTF-8")]);
    assert!(verified.contains("No problems found"), "{verified}");
    let error = lab.line("resize -f raw --shrink --fix-gpt a.raw 2M").fails(1);
    assert!(error.contains("partition 1 ends at byte 2097152"), "{error}");
}

#[test]
fn a_compressed_file_is_not_resized() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.line("convert -f raw -O raw -o subformat=gzip a.raw z.raw.gz").ok();
    let before = lab.read("z.raw.gz");
    for sandbox in ["on", "off"] {
        let error = lab.line(&format!("resize --sandbox {sandbox} z.raw.gz +1M")).fails(1);
        assert!(error.contains("are only read"), "{error}");
    }
    assert!(lab.read("z.raw.gz") == before);
}
