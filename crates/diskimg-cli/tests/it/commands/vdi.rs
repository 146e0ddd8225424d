//! Tests of VDI parents.

use crate::support::Lab;

#[test]
fn a_parent_in_another_directory_is_named_with_parent() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.line("convert a.raw base.vdi").ok();
    lab.line("create -b base.vdi -F vdi child.vdi").ok();
    std::fs::create_dir_all(lab.path("x/y")).expect("creates");
    std::fs::rename(lab.path("child.vdi"), lab.path("x/y/child.vdi")).expect("renames");
    lab.raw("other.raw");
    for line in ["convert x/y/child.vdi out.raw", "map x/y/child.vdi"] {
        let error = lab.line(line).fails(1);
        assert!(error.contains("--parent names a file to search"), "{line}: {error}");
    }
    // The sandbox allows it whatever the policy for other files.
    for policy in ["none", "same-dir", "any"] {
        let options = format!("--external-files {policy} --parent other.raw --parent base.vdi");
        lab.line(&format!("convert {options} x/y/child.vdi out.raw")).ok();
        assert_eq!(lab.read("out.raw"), lab.read("a.raw"));
        lab.line(&format!("compare {options} a.raw x/y/child.vdi")).ok();
        lab.line(&format!("map {options} x/y/child.vdi")).ok();
        let info = lab.line(&format!("info --backing-chain {options} x/y/child.vdi")).ok();
        assert!(info.contains("image: base.vdi"), "{info}");
        // The parents of a backing file, and of an image that is written.
        let rest = "-B ../x/y/child.vdi -F vdi a.raw z/out.qcow2";
        std::fs::create_dir_all(lab.path("z")).expect("creates");
        if policy == "any" {
            lab.line(&format!("convert {options} -O qcow2 {rest}")).ok();
        }
        lab.line(&format!("convert -n {options} -O vdi a.raw x/y/child.vdi")).ok();
    }
    let missing = lab.line("convert --parent gone.vdi x/y/child.vdi out.raw").fails(1);
    assert!(missing.contains("gone.vdi"), "{missing}");
}

#[test]
fn a_vdi_follows_from_the_extension_and_has_qemus_options() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.line("convert -o static=on a.raw a.vdi").ok();
    assert!(lab.qemu("info a.vdi").ok().contains("file format: vdi"));
    lab.qemu("compare -f raw -F vdi a.raw a.vdi").ok();
    assert!(lab.line("convert -O vdi -o help").ok().contains("VDI static (pre-allocated) image"));
    lab.line("check a.vdi").ok();
}
