//! A build with few formats: what it includes works, what it does not include is named.
//!
//! This test needs the cargo feature `qcow2` only, and runs with any other set as well.

#![allow(clippy::unwrap_used, reason = "tests")]

use diskimg::{Convert, ErrorKind, Format, Image, OpenOptions, Options};
use diskimg_testkit::disk::noise;
use diskimg_testkit::tool::{assert_qemu_check, qemu_bytes, run};

#[test]
fn raw_and_compressed_qcow2_convert_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let mut bytes = vec![0; 3 << 20];
    bytes[1 << 20..][..70_000].copy_from_slice(&noise(1, 70_000));
    bytes[2 << 20..][..100_000].fill(7);
    std::fs::write(path("raw"), &bytes).unwrap();
    for compress in [false, true] {
        let image = Image::open(path("raw")).unwrap();
        let out = path("qcow2");
        Convert::new(image).format(Format::Qcow2).compress(compress).run(&out).unwrap();
        assert_qemu_check(&out, "qcow2");
        assert!(qemu_bytes(&out, "qcow2") == bytes);
        Convert::new(Image::open(&out).unwrap()).format(Format::Raw).run(path("back")).unwrap();
        assert!(std::fs::read(path("back")).unwrap() == bytes);
    }
}

#[test]
fn what_qemu_compressed_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let bytes: Vec<u8> = (0..1_000_000u32).flat_map(|i| (i / 100).to_le_bytes()).collect();
    std::fs::write(path("raw"), &bytes).unwrap();
    let (from, to) = (path("raw"), path("qcow2"));
    let paths = [from.to_str().unwrap(), to.to_str().unwrap()];
    run("qemu-img", ["convert", "-c", "-f", "raw", "-O", "qcow2", paths[0], paths[1]]);
    let image = Image::open(&to).unwrap();
    let mut read = vec![0; bytes.len()];
    image.read_at(&mut read, 0).unwrap();
    assert!(read == bytes);
}

#[test]
fn a_format_that_is_left_out_is_recognized_and_named() {
    let left_out = ["vmdk", "ova", "iso"];
    let left_out =
        left_out.into_iter().filter(|name| Format::ALL.iter().all(|f| f.name() != *name));
    for name in left_out {
        let error = name.parse::<Format>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(&format!("cargo feature {name}")), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let images = match name {
            "vmdk" => {
                let sparse = path("disk");
                run("qemu-img", ["create", "-q", "-f", "vmdk", sparse.to_str().unwrap(), "1M"]);
                std::fs::write(path("text"), "\u{feff}\n# a comment\n#disk descriptorfile\n")
                    .unwrap();
                std::fs::write(path("version"), "version=1\nCID=1\n").unwrap();
                vec![sparse, path("text"), path("version")]
            }
            "ova" => {
                std::fs::write(path("a.OVF"), "<Envelope/>").unwrap();
                std::fs::write(path("a.ova"), [0; 1024]).unwrap();
                vec![path("a.OVF"), path("a.ova")]
            }
            // The bytes of an ISO image are those of the disk: it is a raw disk as well.
            _ => continue,
        };
        for image in images {
            let error = Image::open(&image).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains(&format!("cargo feature {name}")), "{error}");
            OpenOptions::new().format(Format::Raw).open(&image).unwrap();
        }
    }
}

#[test]
#[cfg(not(feature = "zstd"))]
fn an_image_with_clusters_of_a_codec_that_is_left_out_is_not_opened() {
    let testdata = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/ext4-zstd.qcow2");
    let error = Image::open(testdata).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("cargo feature zstd"), "{error}");
    OpenOptions::new().metadata_only(true).open(testdata).unwrap();
}

#[test]
fn a_codec_that_is_left_out_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("qcow2");
    let mut options = Options::default();
    options.set("compression_type", "zstd");
    let raw = dir.path().join("raw");
    std::fs::write(&raw, vec![1; 1 << 20]).unwrap();
    let convert = Convert::new(Image::open(&raw).unwrap()).format(Format::Qcow2).options(options);
    match convert.compress(true).run(&out) {
        Ok(_) => assert!(qemu_bytes(&out, "qcow2") == vec![1; 1 << 20]),
        Err(error) => assert!(error.to_string().contains("cargo feature zstd"), "{error}"),
    }
}
