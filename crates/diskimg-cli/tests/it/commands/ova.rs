//! Tests of commands on OVA appliances.

use crate::support::{Lab, write_at};

/// Creates `two.ova` with the disks `a.raw` and `b.qcow2`.
fn two(lab: &Lab) {
    lab.raw("a.raw");
    lab.raw("b.raw");
    write_at(&lab.path("b.raw"), 700 << 10, &[b'z'; 1000]);
    lab.qemu("convert -f raw -O qcow2 b.raw b.qcow2").ok();
    assert_eq!(lab.line("convert -O ova a.raw b.qcow2 two.ova").ok(), "");
}

#[test]
fn every_command_reads_the_disk_selected_after_a_colon() {
    let lab = Lab::new();
    two(&lab);
    for (disk, raw) in [("1", "a.raw"), ("two-disk2.vmdk", "b.raw"), ("vmdisk2", "b.raw")] {
        let image = format!("two.ova:{disk}");
        lab.line(&format!("convert -O raw {image} out.raw")).ok();
        assert!(lab.read("out.raw") == lab.read(raw), "{image}");
        lab.line(&format!("compare {image} {raw}")).ok();
        lab.line(&format!("compare {raw} file:{image}")).ok();
        assert!(lab.line(&format!("check {image}")).ok().starts_with("No errors"));
        let map = lab.line(&format!("map --output=json {image}")).ok();
        assert!(map.contains("\"compressed\": true"), "{map}");
        assert!(lab.line(&format!("measure -O qcow2 {image}")).ok().starts_with("required size"));
        assert!(lab.line(&format!("info {image}")).ok().contains("disk format: vmdk"));
    }
    let ran = lab.line("compare two.ova:1 two.ova:2");
    assert_eq!((ran.code, ran.out.starts_with("Content mismatch")), (Some(1), true), "{}", ran.err);
}

#[test]
fn an_appliance_with_several_disks_requires_a_disk_to_be_selected() {
    let lab = Lab::new();
    two(&lab);
    for line in ["convert -O raw two.ova out.raw", "map two.ova", "measure two.ova"] {
        let error = lab.line(line).fails(1);
        assert!(error.contains("1 (two-disk1.vmdk), 2 (two-disk2.vmdk)"), "{error}");
    }
    let error = lab.line("map two.ova:3").fails(1);
    assert!(error.contains("the appliance has no disk '3'"), "{error}");
    let error = lab.line("info b.qcow2:1").fails(1);
    assert!(error.contains("qcow2 images hold one disk"), "{error}");
    let error = lab.line("info nothing.ova:1").fails(1);
    assert!(error.contains("Unknown protocol"), "{error}");
    assert!(lab.line("check two.ova").ok().starts_with("No errors"));
    let text = lab.line("info two.ova").ok();
    for line in [
        "number: 2",
        "file: two-disk2.vmdk",
        "capacity: 1048576",
        "note: the appliance has 2 disks",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    let json = lab.line("info --output=json two.ova:2").ok();
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["format"], "ova");
    assert_eq!(json["virtual-size"], 1 << 20);
    let data = &json["format-specific"]["data"];
    assert_eq!(data["disks"][1]["id"], "vmdisk2");
    assert_eq!((&data["disk"], &data["disk-format"]), (&2.into(), &"vmdk".into()));
    assert_eq!(data["disk-format-specific"]["create-type"], "streamOptimized");
}

#[test]
fn a_modified_appliance_is_an_error_unless_verification_is_disabled() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.line("convert -O ova a.raw a.ova").ok();
    let bytes = lab.read("a.ova");
    // Changes a blank at the end of the descriptor.
    let end = bytes.windows(11).position(|w| w == b"</Envelope>").expect("a descriptor");
    let blank = end + 13;
    assert_eq!(bytes[blank], b' ');
    write_at(&lab.path("a.ova"), blank as u64, b"\n");
    let error = lab.line("convert -O raw a.ova out.raw").fails(1);
    assert!(error.contains("'a.ovf'") && error.contains("--no-verify"), "{error}");
    assert!(!lab.path("out.raw").exists());
    let ran = lab.line("check a.ova");
    assert!(ran.err.contains("'a.ovf'"), "{}", ran.err);
    ran.fails(2);
    lab.line("convert --no-verify -O raw a.ova out.raw").ok();
    assert!(lab.read("out.raw") == lab.read("a.raw"));
}

#[test]
fn an_appliance_can_be_written_to_standard_output_and_read_from_standard_input() {
    let lab = Lab::new();
    two(&lab);
    let output = lab.feed("convert -O ova -o name=two a.raw b.qcow2 -", b"");
    assert!(output.status.success() && output.stdout == lab.read("two.ova"));
    let back = lab.feed("convert -O raw - out.raw", &lab.read("two.ova"));
    assert!(String::from_utf8_lossy(&back.stderr).contains("the appliance has 2 disks"));
    lab.line("convert -O ova a.raw a.ova").ok();
    let back = lab.feed("convert -O raw - out.raw", &lab.read("a.ova"));
    assert!(back.status.success() && lab.read("out.raw") == lab.read("a.raw"));
}

#[test]
fn options_that_appliances_do_not_support_are_errors() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.line("convert -O ova a.raw a.ova").ok();
    for (line, word) in [
        ("convert -O ova -B a.raw -F raw a.raw out.ova", "backing"),
        ("convert -n -O ova a.raw a.ova", "cannot be rewritten"),
        ("convert -C -O ova a.raw out.ova", "-C"),
        ("convert -O ova -o firmware=x a.raw out.ova", "firmware"),
        ("measure -O ova a.raw", "does not support size measurement"),
    ] {
        let error = lab.line(line).fails(1);
        assert!(error.contains(word), "{line}: {error}");
        assert!(!lab.path("out.ova").exists());
    }
    let help = lab.line("convert -O ova -o help").ok();
    assert!(help.contains("os_type=<str>"), "{help}");
    let message = lab.line("create -f ova new.ova 1G").ok();
    assert!(message.starts_with("Formatting 'new.ova', fmt=ova size=1073741824 "), "{message}");
}
