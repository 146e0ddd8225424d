//! Compares `map` with that of qemu-img.

use crate::support::Lab;

fn images() -> Lab {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -O qcow2 a.raw a.qcow2").ok();
    lab.qemu("create -q -f qcow2 -b a.qcow2 -F qcow2 over.qcow2").ok();
    lab.qemu("convert -O qcow2 -c a.raw packed.qcow2").ok();
    lab.qemu("convert -O vmdk a.raw a.vmdk").ok();
    lab.qemu("convert -O vmdk -o subformat=monolithicFlat a.raw flat.vmdk").ok();
    lab.qemu("convert -O vmdk -o subformat=twoGbMaxExtentSparse a.raw split.vmdk").ok();
    lab
}

#[test]
fn text_and_json_equal_qemu_imgs() {
    let lab = images();
    for name in ["a.raw", "a.qcow2", "over.qcow2", "a.vmdk", "flat.vmdk", "split.vmdk"] {
        lab.same(&format!("map {name}"));
        lab.same(&format!("map --output=json {name}"));
    }
    lab.same("map --output=json packed.qcow2");
}

#[test]
fn a_range_can_be_mapped() {
    let lab = images();
    for range in ["-s 10", "-s 4k -l 256k", "-l 100", "--start-offset=250k --max-length 1G"] {
        for name in ["a.raw", "over.qcow2"] {
            lab.same(&format!("map --output=json {range} {name}"));
            lab.same(&format!("map {range} {name}"));
        }
    }
}

#[test]
fn text_cannot_show_compressed_clusters() {
    let lab = images();
    let error = lab.line("map packed.qcow2").fails(1);
    assert!(error.contains("File contains external, encrypted or compressed clusters."), "{error}");
    lab.qemu("map packed.qcow2").fails(1);
}

#[test]
fn a_range_beyond_the_end_gives_valid_json() {
    let lab = images();
    let json = lab.line("map --output=json -s 2M a.raw").ok();
    serde_json::from_str::<Vec<serde_json::Value>>(&json).expect("JSON");
}
