//! Conversions give the same bytes on every system.

use crate::lab::{Lab, pattern, sha256};
use diskimg::storage::source::{FileSource, Source};

/// The SHA-256 of what Linux writes.
const WRITTEN: [(&str, &str, &str); 8] = [
    (
        "ext4-stream-qemu.vmdk",
        "-O raw",
        "fe04f1a5f4af7d3ed77b55d41a76761bbe6d300c7c9aa071d7d17daee89882e4",
    ),
    (
        "ext4-stream-qemu.vmdk",
        "-O qcow2",
        "719e539ccdd83566fe46ec64c1a6cfc23f5292438b829d340623f50370838935",
    ),
    (
        "ext4-stream-qemu.vmdk",
        "-c -O qcow2",
        "49d6a1c2136366b6e2bf980ecf123575987a47faf71da04db7fdf6356c38e4e2",
    ),
    (
        "ext4-sparse.vmdk",
        "-O qcow2",
        "719e539ccdd83566fe46ec64c1a6cfc23f5292438b829d340623f50370838935",
    ),
    (
        "ext4-zstd.qcow2",
        "-O raw",
        "fe04f1a5f4af7d3ed77b55d41a76761bbe6d300c7c9aa071d7d17daee89882e4",
    ),
    (
        "ext4-zlib.qcow2",
        "-O vmdk -o adapter_type=lsilogic,hwversion=14",
        "ecb8fa6f29cee99eaa012d667f7f3f03d2a66d6bc01e96cb38ab166153e37cea",
    ),
    (
        "overlay.qcow2",
        "-O qcow2",
        "d4c14e29902dd72b1616d738f2b024124655a1e3a51184bc21dbefb99fcd9cd6",
    ),
    ("udf-512.qcow2", "-O raw", "9e7ae13a8b2c9d562ddea5cda001c64c974c401865c4369ad6df11c04446db79"),
];

#[test]
fn the_output_is_that_of_linux_byte_for_byte() {
    for (image, options, digest) in WRITTEN {
        let lab = Lab::new();
        lab.testdata(image);
        lab.testdata("base-v2.qcow2");
        lab.line(&format!("convert --reflink=never {options} {image} out")).ok();
        assert_eq!(sha256(&lab.read("out")), digest, "{options} {image}");
        lab.line(&format!("compare {image} out")).ok();
    }
}

/// Holes of a raw disk, and what is zero in another image.
#[test]
fn a_large_disk_of_which_little_is_written_takes_little_space() {
    const LEN: u64 = 1 << 30;
    let lab = Lab::new();
    lab.line("create -f qcow2 a.qcow2 1G").ok();
    lab.line("convert -f qcow2 -O raw a.qcow2 b.raw").ok();
    assert_eq!(lab.path("b.raw").metadata().unwrap().len(), LEN);
    let taken = lab.actual_size("b.raw");
    assert!(taken.is_some_and(|taken| taken < 1 << 20), "{taken:?}");
    // Where the source's holes are known, they are not read.
    lab.line("convert -f raw -O raw b.raw c.raw").ok();
    assert!(lab.actual_size("c.raw").is_some_and(|taken| taken < 1 << 20));
    lab.line("convert -f raw -O qcow2 c.raw d.qcow2").ok();
    assert!(lab.path("d.qcow2").metadata().unwrap().len() < 1 << 20);
}

#[test]
fn pipes_carry_every_byte_as_it_is() {
    let lab = Lab::new();
    // Text mode would change the ends of lines, and end at Ctrl-Z.
    let mut disk = b"\r\n\n\x1a\r\r\0".repeat(10_000);
    disk.extend(pattern(30_000));
    disk.resize(disk.len().next_multiple_of(512), 0x1a);
    lab.write("disk.raw", &disk);
    let ran = lab.line("convert -f raw -O raw disk.raw -");
    assert_eq!((ran.code, &*ran.err), (Some(0), ""));
    assert!(ran.out == disk, "standard output differs");
    assert_eq!(lab.feed("convert -f raw -O qcow2 - out.qcow2", &disk).ok(), "");
    lab.line("compare -f raw -F qcow2 disk.raw out.qcow2").ok();
    // A file as standard input is read directly.
    let mut command = lab.command(["convert", "-O", "raw", "-", "back.raw"]);
    command.stdin(std::fs::File::open(lab.path("out.qcow2")).unwrap());
    crate::lab::Ran::new(command.output().unwrap()).ok();
    assert!(lab.read("back.raw") == disk);
    // A file as standard output.
    let out = std::fs::File::create(lab.path("direct.raw")).unwrap();
    let mut command = lab.command(["convert", "-O", "raw", "out.qcow2", "-"]);
    crate::lab::Ran::new(command.stdout(out).output().unwrap()).ok();
    assert!(lab.read("direct.raw") == disk);
}

#[test]
fn a_backing_file_in_another_folder_is_found() {
    let lab = Lab::new();
    std::fs::create_dir_all(lab.path("vm/base")).unwrap();
    std::fs::create_dir(lab.path("vm/top")).unwrap();
    lab.write("vm/base/a.raw", pattern(100 << 10));
    lab.line("create -f qcow2 -b base/a.raw -F raw vm/inside.qcow2").ok();
    lab.line("create -f qcow2 -b ../base/a.raw -F raw vm/top/outside.qcow2").ok();
    // Both separators are those of Windows.
    let absolute = lab.path("vm").join("base").join("a.raw");
    let absolute = absolute.to_str().unwrap();
    lab.run(["create", "-f", "qcow2", "-b", absolute, "-F", "raw", "vm/absolute.qcow2"]).ok();
    let digest = sha256(&lab.read("vm/base/a.raw"));
    for (image, allowed) in [("inside", true), ("absolute", true), ("top/outside", false)] {
        let image = format!("vm/{image}.qcow2");
        let convert = "convert --external-files same-dir -O raw";
        let ran = lab.line(&format!("{convert} {image} out.raw"));
        match allowed {
            true => drop(ran.ok()),
            false => {
                let error = ran.fails();
                assert!(error.contains("is not in the image's directory"), "{error}");
                lab.line(&format!("convert --external-files any -O raw {image} out.raw")).ok();
            }
        }
        assert_eq!(sha256(&lab.read("out.raw")), digest, "{image}");
        std::fs::remove_file(lab.path("out.raw")).unwrap();
    }
}

#[test]
fn an_image_is_changed_in_place() {
    let lab = Lab::new();
    lab.testdata("ext4-zlib.qcow2");
    lab.line("convert -O qcow2 ext4-zlib.qcow2 a.qcow2").ok();
    lab.line("resize a.qcow2 20M").ok();
    lab.line("check a.qcow2").ok();
    lab.write("new.raw", pattern(20 << 20));
    lab.line("convert -n -f raw -O qcow2 new.raw a.qcow2").ok();
    lab.line("compare -f raw -F qcow2 new.raw a.qcow2").ok();
    lab.line("check a.qcow2").ok();
    lab.line("resize -f raw new.raw 30M").ok();
    assert_eq!(lab.path("new.raw").metadata().unwrap().len(), 30 << 20);
    assert_eq!(lab.names(), ["a.qcow2", "ext4-zlib.qcow2", "new.raw"]);
}

#[test]
fn holes_of_a_file_are_what_is_read_as_zeros() {
    let lab = Lab::new();
    let file = std::fs::File::create(lab.path("a.raw")).unwrap();
    file.set_len(4 << 20).unwrap();
    drop(file);
    let source = FileSource::open(lab.path("a.raw")).unwrap();
    let mut at = 0;
    while at < source.len() {
        let segment = source.segment_at(at).unwrap();
        assert!(segment.end > at && segment.end <= source.len(), "{segment:?} at {at}");
        at = segment.end;
    }
}
