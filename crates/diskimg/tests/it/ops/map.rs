//! `map` reports what `qemu-img map` reports.

use diskimg::{Convert, Format, Image, MapEntry, OpenOptions, Options, map};
use diskimg_testkit::disk;
use diskimg_testkit::tool::{cases, qemu_img_is_recent, run};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;

fn our_map(path: &Path, format: Format) -> Vec<Value> {
    let image = OpenOptions::new().format(format).open(path).unwrap();
    entries(&image)
}

fn entries(image: &Image) -> Vec<Value> {
    let entry = |e: MapEntry| {
        let mut entry = json!({
            "start": e.start, "length": e.length, "depth": e.depth, "present": e.present,
            "zero": e.zero, "data": e.data, "compressed": e.compressed,
        });
        if let Some(offset) = e.offset {
            entry["offset"] = offset.into();
        }
        entry
    };
    map(image, 0..image.size()).map(|e| entry(e.unwrap())).collect()
}

fn qemu_map(path: &Path, format: Format) -> Vec<Value> {
    let text =
        run("qemu-img", ["map", "-f", format.name(), "--output=json", path.to_str().unwrap()]);
    serde_json::from_str(&text).unwrap()
}

proptest! {
    #![proptest_config(cases(80))]

    #[test]
    fn the_map_of_a_converted_image_equals_qemu_imgs(
        disk in disk::disk_of(0..=(4 << 20)),
        (format, options, compress) in prop_oneof![
            Just((Format::Raw, "", false)),
            Just((Format::Qcow2, "", false)),
            Just((Format::Qcow2, "", true)),
            Just((Format::Qcow2, "cluster_size=4k,extended_l2=off", false)),
            Just((Format::Qcow2, "preallocation=metadata", false)),
            Just((Format::Vmdk, "", false)),
            Just((Format::Vmdk, "subformat=streamOptimized", true)),
        ],
    ) {
        if !qemu_img_is_recent() {
            return Ok(());
        }
        let dir = tempfile::tempdir().unwrap();
        let (raw, out) = (dir.path().join("a.raw"), dir.path().join("a.img"));
        // For an empty disk qemu-img prints one entry of length 0, diskimg none.
        let disk = disk::Disk { size: (disk.size / 512 * 512).max(512), ..disk };
        disk.write(&raw);
        let image = OpenOptions::new().format(Format::Raw).open(&raw).unwrap();
        let options = Options::parse(options).unwrap();
        Convert::new(image).format(format).options(options).compress(compress).run(&out).unwrap();
        prop_assert_eq!(our_map(&out, format), qemu_map(&out, format));
    }
}

#[test]
fn the_map_of_zero_clusters_in_a_chain_equals_qemu_imgs() {
    if !qemu_img_is_recent() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    run("qemu-img", ["create", "-q", "-f", "qcow2", &path("base"), "2M"]);
    run("qemu-io", ["-f", "qcow2", "-c", "write -q -P 1 0 1M", &path("base")]);
    run(
        "qemu-img",
        ["create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", &path("top"), "4M"],
    );
    run(
        "qemu-io",
        [
            "-f",
            "qcow2",
            "-c",
            "write -q -P 2 64k 64k",
            "-c",
            "write -q -z 256k 128k",
            "-c",
            "write -q -P 3 1M 64k",
            "-c",
            "write -q -z 1M 64k",
            "-c",
            "write -q -z -u 3M 64k",
            &path("top"),
        ],
    );
    let top = dir.path().join("top");
    assert_eq!(our_map(&top, Format::Qcow2), qemu_map(&top, Format::Qcow2));
}
