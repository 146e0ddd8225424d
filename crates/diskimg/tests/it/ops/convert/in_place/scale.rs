//! Targets whose refcounts are far apart.

use super::{Lab, expected};
use diskimg_testkit::tool::{assert_qemu_check, qemu_bytes, run};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Length in bytes of a cluster.
const CLUSTER: u64 = 64 << 10;

/// Number of clusters that the refcounts in 4 KiB, of 64 bits each, describe.
const APART: u64 = 512;

/// Number of data clusters: more than the changed refcounts that are in memory at a time.
const COUNT: u64 = 2500;

/// Every data cluster becomes free, so that refcounts in as many places change.
#[test]
fn refcounts_that_are_far_apart_are_stored_part_by_part() {
    let lab = Lab::new("qcow2");
    let size = COUNT * CLUSTER;
    assert!(lab.create("cluster_size=64k,refcount_bits=64", size, None));
    let target = lab.target();
    // Allocates the first L2 table, with the refcounts of all metadata.
    lab.io(&target, &["write 0 64k".to_owned()]);
    let file = File::options().read(true).write(true).open(&target).unwrap();
    let read = |at: u64| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).unwrap();
        u64::from_be_bytes(bytes)
    };
    let write = |at: u64, word: u64| file.write_all_at(&word.to_be_bytes(), at).unwrap();
    let (l2, refcounts) = (read(read(40)) & 0x00ff_ffff_ffff_fe00, read(48));
    let end = file.metadata().unwrap().len() / CLUSTER;
    let blocks = (COUNT + 1) * APART / (CLUSTER / 8) + 1;
    // The clusters of the new refcount blocks follow the first ones.
    for (index, end) in (1..blocks).zip(end..) {
        write(refcounts + index * 8, end * CLUSTER);
        write(read(refcounts) + end * 8, 1);
    }
    file.set_len((COUNT + 1) * APART * CLUSTER + CLUSTER).unwrap();
    for number in 1..COUNT {
        let cluster = (number + 1) * APART;
        write(l2 + number * 8, (cluster * CLUSTER) | (1 << 63));
        let block = read(refcounts + cluster / (CLUSTER / 8) * 8);
        write(block + cluster % (CLUSTER / 8) * 8, 1);
    }
    drop(file);
    assert_qemu_check(&target, "qcow2");
    let old = qemu_bytes(&target, "qcow2");
    let source = vec![0; (size - CLUSTER) as usize];
    lab.convert(&source).run_existing(&target).unwrap();
    assert_qemu_check(&target, "qcow2");
    assert!(qemu_bytes(&target, "qcow2") == expected(&source, &old));
    let map = run("qemu-img", ["map", "--output=json", target.to_str().unwrap()]);
    assert!(map.matches("\"present\": true").count() <= 2, "{map}");
}
