//! `check` against qemu-img's.

use crate::support::Lab;

#[test]
fn raw_has_nothing_to_check() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for line in ["check a.raw", "check --output=json a.raw", "check -q a.raw"] {
        let error = lab.line(line).fails(63);
        assert!(error.contains("This image format does not support checks"), "{error}");
        lab.qemu(line).fails(63);
    }
}

#[test]
fn a_sound_image_is_told_to_be_one() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -O qcow2 a.raw a.qcow2").ok();
    lab.qemu("convert -O qcow2 -c a.raw packed.qcow2").ok();
    for name in ["a.qcow2", "packed.qcow2"] {
        lab.same(&format!("check {name}"));
        lab.same(&format!("check -q {name}"));
        lab.same_json(&format!("check --output=json {name}"));
    }
}

#[test]
fn an_image_that_is_not_there_gives_1() {
    Lab::new().line("check nope").fails(1);
}
