//! Compares `measure` with that of qemu-img.

use crate::support::Lab;

#[test]
fn sizes_equal_qemu_imgs() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -O qcow2 a.raw a.qcow2").ok();
    lab.qemu("convert -O qcow2 -o compat=0.10 a.raw old.qcow2").ok();
    lab.qemu("convert -O qcow2 -o preallocation=metadata a.raw metadata.qcow2").ok();
    lab.qemu("convert -O qcow2 a.raw bitmaps.qcow2").ok();
    lab.qemu("bitmap --add bitmaps.qcow2 first").ok();
    lab.qemu("bitmap --add -g 512 --disable bitmaps.qcow2 a-second").ok();
    for line in [
        "measure -O qcow2 bitmaps.qcow2",
        "measure -O qcow2 -o cluster_size=512 bitmaps.qcow2",
        "measure -O raw bitmaps.qcow2",
        "measure -O qcow2 metadata.qcow2",
        "measure -O qcow2 -o cluster_size=4k metadata.qcow2",
        "measure -O qcow2 --size 10G",
        "measure -O raw --size 1M",
        "measure --size 1M",
        "measure -O qcow2 a.raw",
        "measure -O qcow2 a.qcow2",
        "measure -O raw a.qcow2",
        "measure -O qcow2 old.qcow2",
        "measure -O qcow2 -o cluster_size=4k -o compat=0.10 a.raw",
        "measure -O qcow2 -o compat=0.10 bitmaps.qcow2",
        "measure -O qcow2 -o backing_file=a.raw,backing_fmt=raw a.qcow2",
        "measure -O qcow2 -o backing_file=a.raw --size 1M",
        "measure -O qcow2 -o preallocation=metadata a.raw",
        "measure -O qcow2 -o preallocation=falloc a.raw",
        "measure -O qcow2 -o preallocation=full bitmaps.qcow2",
        "measure -O qcow2 -o preallocation=metadata --size 1M",
        "measure -O qcow2 -o preallocation=full --size 1M",
        "measure -O qcow2 -o extended_l2=on,preallocation=metadata,backing_file=a.raw a.qcow2",
        "measure -O qcow2 -o data_file=a.data,data_file_raw=on a.qcow2",
    ] {
        lab.same(line);
        lab.same_json(&format!("{line} --output=json"));
    }
}

#[test]
fn exactly_one_of_size_and_file_is_required() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for line in ["measure", "measure --size 1M a.raw", "measure a.raw a.raw", "measure --size x"] {
        lab.line(line).fails(1);
    }
    for line in ["measure -O qcow2 --size 7E", "measure -O qcow2 -o cluster_size=512 --size 1T"] {
        lab.line(line).fails(1);
        lab.qemu(line).fails(1);
    }
    let error = lab.line("measure -O vmdk --size 1M").fails(1);
    assert!(error.contains("does not support size measurement"), "{error}");
}
