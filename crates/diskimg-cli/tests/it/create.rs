//! `create` against qemu-img's.

use crate::support::Lab;

#[test]
fn what_is_created_is_what_qemu_img_creates() {
    for (name, line) in [
        ("a.raw", "create a.raw 1M"),
        ("a.raw", "create -f raw a.raw 1048576"),
        ("a.qcow2", "create -f qcow2 a.qcow2 1.5G"),
        ("a.qcow2", "create a.qcow2 1M -o cluster_size=4k -fqcow2 -o refcount_bits=8"),
        ("a.qcow2", "create -f qcow2 -o compat=0.10,size=2M a.qcow2"),
    ] {
        let (ours, theirs) = (Lab::new(), Lab::new());
        let said = ours.line(line).ok();
        assert!(said.starts_with(&format!("Formatting '{name}', fmt=")), "{said}");
        theirs.qemu(line).ok();
        let info = |lab: &Lab| {
            let json = lab.qemu(&format!("info --output=json {name}")).ok();
            let mut info: serde_json::Value = serde_json::from_str(&json).expect("JSON");
            // Space on the host is the file system's affair.
            info.as_object_mut().unwrap().retain(|k, _| k != "actual-size" && k != "children");
            info
        };
        assert_eq!(info(&ours), info(&theirs), "{line}");
    }
}

#[test]
fn the_line_of_a_raw_image_is_qemu_imgs() {
    let lab = Lab::new();
    lab.same("create a.raw 64k");
    lab.same("create -q b.raw 64k");
}

#[test]
fn an_overlay_takes_its_size_from_its_backing_file() {
    let lab = Lab::new();
    lab.raw("a.raw");
    let said = lab.line("create -f qcow2 -b a.raw -F raw over.qcow2").ok();
    assert!(said.contains(" size=1048576 backing_file=a.raw backing_fmt=raw"), "{said}");
    lab.line("create -q -f qcow2 -o backing_file=a.raw,backing_fmt=raw over2.qcow2").ok();
    assert_eq!(lab.read("over.qcow2"), lab.read("over2.qcow2"));
    lab.qemu("compare a.raw over.qcow2").ok();
}

#[test]
fn a_size_is_needed_and_must_be_one() {
    let lab = Lab::new();
    let error = lab.line("create -f qcow2 a.qcow2").fails(1);
    assert!(error.contains("needs a size"), "{error}");
    let error = lab.line("create a.raw abc").fails(1);
    assert!(error.contains("Invalid image size specified: 'abc'"), "{error}");
    let error = lab.line("create -f qcow2 -u -b nope -F raw a.qcow2").fails(1);
    assert!(error.contains("size"), "{error}");
    lab.line("create -q -f qcow2 -u -b nope -F raw a.qcow2 1M").ok();
}
