//! Huge images with little memory.

use crate::support::{Lab, diskimg};
use std::os::unix::fs::FileExt;

/// Creates a sparse file of `size` bytes with 64 evenly spaced runs of 1 MiB of data.
fn create_sparse(lab: &Lab, name: &str, size: u64) {
    let file = std::fs::File::create(lab.path(name)).unwrap();
    file.set_len(size).unwrap();
    let data: Vec<u8> =
        (0..1u32 << 18).flat_map(|i| (i.wrapping_mul(2654435761)).to_le_bytes()).collect();
    for i in 0..64 {
        file.write_all_at(&data, i * (size / 64) / 4096 * 4096).unwrap();
    }
}

/// RLIMIT_DATA includes all private writable memory; see setrlimit(2).
#[test]
fn sixteen_tebibytes_convert_within_64_mib_of_memory() {
    let lab = Lab::new();
    // The maximum file size of ext4 is slightly less than 16 TiB.
    create_sparse(&lab, "huge.raw", (16 << 40) - (64 << 20));
    let limited = |args: &str| {
        let mut command = lab.command("prlimit");
        command.arg("--data=67108864").arg(diskimg()).args(args.split(' '));
        let output = command.output().expect("prlimit runs: ./test.sh names what is needed");
        assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stderr.is_empty(), "{args}");
    };
    limited("convert -f raw -O qcow2 huge.raw a.qcow2");
    limited("convert -f qcow2 -O qcow2 -c a.qcow2 b.qcow2");
    limited("convert -f qcow2 -O raw b.qcow2 back.raw");
    limited("compare -f raw -F qcow2 huge.raw b.qcow2");
    limited("map -f qcow2 --output=json b.qcow2");
    limited("check b.qcow2");
    limited("info b.qcow2");
    let check =
        lab.command("qemu-img").args(["compare", "-f", "raw", "huge.raw", "b.qcow2"]).output();
    assert!(check.unwrap().status.success());
}
