//! Images with backing files.

use crate::verified;
use diskimg::{
    Backing, Convert, Create, ErrorKind, ExternalFiles, Format, Image, OpenOptions, Options,
};
use diskimg_testkit::disk::{self, Disk, Fill, Run};
use diskimg_testkit::tool::{assert_qemu_check, cases, qemu_bytes, run};
use proptest::prelude::*;
use std::path::Path;

fn raw(path: &Path) -> Image {
    OpenOptions::new().format(Format::Raw).open(path).unwrap()
}

fn backing(name: &str, format: &str) -> Backing {
    Backing::new(name).with_format(format)
}

/// Generates two disks that have much content in common.
fn similar_disks() -> impl Strategy<Value = (Disk, Disk)> {
    (disk::disk_of(1..=(3 << 20)), disk::disk_of(0..=(1 << 20)), 0..(4u64 << 20)).prop_map(
        |(base, changes, size)| {
            let mut runs = base.runs.clone();
            runs.extend(changes.runs);
            // Zeros must hide the base's data.
            runs.push(Run { at: 65536, len: 200_000, fill: Fill::Byte(0) });
            (base, Disk { size, runs })
        },
    )
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn an_overlay_reads_as_the_source_did(
        (base, top) in similar_disks(),
        options in prop_oneof![
            Just(""), Just("compat=0.10"), Just("cluster_size=4k"), Just("extended_l2=on"),
            Just("extended_l2=on,preallocation=metadata"),
        ],
        compress in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        base.write(&path("base.raw"));
        top.write(&path("top.raw"));
        let compress = compress && !options.contains("preallocation");
        Convert::new(raw(&path("top.raw")))
            .format(Format::Qcow2)
            .options(Options::parse(options).unwrap())
            .compress(compress)
            .backing(backing("base.raw", "raw"))
            .run(path("top.qcow2"))
            .unwrap();
        let mut expected = top.bytes();
        expected.resize(expected.len().next_multiple_of(512), 0);
        assert_qemu_check(&path("top.qcow2"), "qcow2");
        prop_assert!(qemu_bytes(&path("top.qcow2"), "qcow2") == expected);
        let image = verified::open(&OpenOptions::new(), path("top.qcow2"));
        let mut bytes = vec![1; image.size() as usize];
        image.read_at(&mut bytes, 0).unwrap();
        prop_assert!(bytes == expected);
    }
}

#[test]
fn only_what_differs_from_the_backing_file_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let base =
        Disk { size: 32 << 20, runs: vec![Run { at: 0, len: 20 << 20, fill: Fill::Noise(1) }] };
    base.write(&path("base.raw"));
    let mut top = base.clone();
    top.runs.push(Run { at: 5 << 20, len: 1, fill: Fill::Byte(0x77) });
    top.write(&path("top.raw"));
    let report = Convert::new(raw(&path("top.raw")))
        .format(Format::Qcow2)
        .backing(backing("base.raw", "raw"))
        .run(path("top.qcow2"))
        .unwrap();
    assert_eq!(report.stored_bytes, 65536, "more than one cluster");
    let map = run("qemu-img", ["map", "--output=json", path("top.qcow2").to_str().unwrap()]);
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    let own: u64 = map
        .as_array()
        .unwrap()
        .iter()
        .filter(|e| e["depth"] == 0)
        .map(|e| e["length"].as_u64().unwrap())
        .sum();
    assert_eq!(own, 65536);
}

#[test]
fn a_loop_of_backing_files_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for (name, base) in [("a.qcow2", "b.qcow2"), ("b.qcow2", "a.qcow2")] {
        run(
            "qemu-img",
            ["create", "-q", "-u", "-f", "qcow2", "-b", base, "-F", "qcow2", &path(name), "1M"],
        );
    }
    let error = Image::open(path("a.qcow2")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let text = error.to_string();
    assert!(text.contains("loops") && text.contains("b.qcow2"), "{text}");
}

#[test]
fn a_missing_backing_file_is_named_with_the_image_that_refers_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    run(
        "qemu-img",
        [
            "create",
            "-q",
            "-u",
            "-f",
            "qcow2",
            "-b",
            "gone.raw",
            "-F",
            "raw",
            path.to_str().unwrap(),
            "1M",
        ],
    );
    let error = Image::open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    let text = format!("{error:#}");
    for part in ["a.qcow2", "gone.raw", "No such file or directory"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn backing_files_are_opened_only_as_the_policy_allows() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let secret = dir.path().join("secret.raw");
    std::fs::write(&secret, vec![0x42; 65536]).unwrap();
    let image = inner.join("a.qcow2");
    run(
        "qemu-img",
        [
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            secret.to_str().unwrap(),
            "-F",
            "raw",
            image.to_str().unwrap(),
        ],
    );
    let open = |policy| OpenOptions::new().external_files(policy).open(&image);
    for policy in [ExternalFiles::None, ExternalFiles::SameDir] {
        let error = open(policy).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{policy:?}");
        assert!(error.to_string().contains("secret.raw"), "{error}");
    }
    let mut byte = [0];
    open(ExternalFiles::Any).unwrap().read_at(&mut byte, 0).unwrap();
    assert_eq!(byte, [0x42]);
    // Metadata can be read without the backing file.
    let metadata =
        OpenOptions::new().external_files(ExternalFiles::None).metadata_only(true).open(&image);
    assert_eq!(metadata.unwrap().info(0).unwrap().backing_filename.as_deref(), secret.to_str());
}

#[test]
fn protocol_names_in_an_image_are_never_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    for name in ["nbd:127.0.0.1:1", "json:{\"driver\":\"null-co\"}", "http://x/y"] {
        run(
            "qemu-img",
            [
                "create",
                "-q",
                "-u",
                "-f",
                "qcow2",
                "-b",
                name,
                "-F",
                "raw",
                path.to_str().unwrap(),
                "1M",
            ],
        );
        let error = OpenOptions::new().external_files(ExternalFiles::Any).open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{name}");
    }
}

#[test]
fn a_created_overlay_has_the_size_of_its_backing_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("base.raw"), vec![7; 3 << 20]).unwrap();
    let created = Create::new(Format::Qcow2)
        .backing(backing("base.raw", "raw"))
        .run(path("top.qcow2"))
        .unwrap();
    assert_eq!(created.size, 3 << 20);
    assert_qemu_check(&path("top.qcow2"), "qcow2");
    assert!(qemu_bytes(&path("top.qcow2"), "qcow2").iter().all(|&b| b == 7));
}

#[test]
fn a_created_overlay_cannot_replace_its_backing_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("base.raw"), vec![7; 1 << 20]).unwrap();
    std::os::unix::fs::symlink("base.raw", path("link")).unwrap();
    for name in ["base.raw", "link"] {
        let error = Create::new(Format::Qcow2)
            .backing(backing("base.raw", "raw"))
            .run(path(name))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{name}");
    }
    assert!(std::fs::read(path("base.raw")).unwrap() == vec![7; 1 << 20]);
}

#[test]
fn a_driver_for_files_as_the_format_of_the_backing_file_stands_for_a_raw_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    // A raw disk that looks like an image, as a guest can make it.
    let mut bytes = vec![7; 64 << 10];
    bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    std::fs::write(path("base"), &bytes).unwrap();
    let overlay = path("overlay.qcow2");
    for format in ["file", "host_device", "host_cdrom"] {
        let name = overlay.to_str().unwrap();
        let create = ["create", "-q", "-u", "-f", "qcow2", "-b", "base", "-F", format, name, "64k"];
        run("qemu-img", create);
        let image = Image::open(&overlay).unwrap();
        let mut read = vec![0; bytes.len()];
        image.read_at(&mut read, 0).unwrap();
        assert!(read == bytes, "{format}");
        assert_eq!(image.info(0).unwrap().backing_filename_format.as_deref(), Some(format));
        // A new overlay records the name as it was given.
        Create::new(Format::Qcow2).backing(backing("base", format)).run(&overlay).unwrap();
        let recorded = Image::open(&overlay).unwrap().info(0).unwrap();
        assert_eq!(recorded.backing_filename_format.as_deref(), Some(format));
    }
}
