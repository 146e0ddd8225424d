//! Direct I/O: reading and writing without the page cache.

use diskimg::{Caching, Convert, Format, Image, OpenOptions, Options, Reflink};
use diskimg_testkit::disk::{self, Disk, Fill, Run};
use diskimg_testkit::tool::{
    LoopDevice, MountedFs, assert_qemu_check, assert_qemu_same, cases, run,
};
use proptest::prelude::*;
use std::path::Path;

fn open(path: &Path, format: Format, caching: Caching) -> Image {
    OpenOptions::new().format(format).caching(caching).open(path).unwrap()
}

fn direct(image: Image, format: Format, options: &str) -> Convert<'static> {
    let options = Options::parse(options).unwrap();
    let convert = Convert::new(image).format(format).options(options);
    convert.reflink(Reflink::Never).caching(Caching::Direct)
}

/// 20 MiB of data on a disk that ends within a page.
fn sample() -> Disk {
    let run = |at, len, fill| Run { at, len, fill };
    Disk {
        size: (64 << 20) + 777,
        runs: vec![
            run(5000, 10 << 20, Fill::Noise(1)),
            run(30 << 20, 9 << 20, Fill::Words(2)),
            run(63 << 20, (1 << 20) + 777, Fill::Noise(3)),
        ],
    }
}

proptest! {
    #![proptest_config(cases(30))]

    #[test]
    fn direct_conversion_gives_the_same_bytes(
        disk in disk::disk(6 << 20),
        (format, options, compress) in prop::sample::select(vec![
            (Format::Raw, "", false),
            (Format::Qcow2, "", false),
            (Format::Qcow2, "cluster_size=512", false),
            (Format::Qcow2, "", true),
            (Format::Vmdk, "", false),
            (Format::Vmdk, "subformat=monolithicFlat", false),
            (Format::Vmdk, "", true),
        ]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let disk = if disk.size == 0 { Disk { size: 1, ..disk } } else { disk };
        disk.write(&path("raw"));
        let image = open(&path("raw"), Format::Raw, Caching::Direct);
        direct(image, format, options).compress(compress).run(path("a")).unwrap();
        assert_qemu_same(&path("raw"), "raw", &path("a"), format.name());
        if format == Format::Qcow2 {
            assert_qemu_check(&path("a"), "qcow2");
        }
        let image = open(&path("a"), format, Caching::Direct);
        direct(image, Format::Raw, "").run(path("b")).unwrap();
        let (mut expected, found) = (disk.bytes(), std::fs::read(path("b")).unwrap());
        expected.resize(found.len(), 0);
        prop_assert!(found == expected);
    }
}

/// Returns the number of bytes of the file that are in the page cache.
fn cached(path: &Path) -> u64 {
    run("fincore", ["-b", "-n", "-o", "RES", path.to_str().unwrap()]).trim().parse().unwrap()
}

#[test]
#[ignore = "needs root, xfsprogs and loop devices; ./test.sh runs it as root"]
fn direct_reads_and_writes_leave_hardly_anything_in_the_page_cache() {
    let xfs = MountedFs::xfs();
    let (raw, out) = (xfs.path("a.raw"), xfs.path("a"));
    sample().write(&raw);
    for (format, options) in [(Format::Raw, ""), (Format::Qcow2, ""), (Format::Vmdk, "")] {
        run("sync", [raw.to_str().unwrap()]);
        run("dd", [&format!("if={}", raw.display()), "iflag=nocache", "count=0"]);
        assert_eq!(cached(&raw), 0);
        let image = open(&raw, Format::Raw, Caching::Direct);
        direct(image, format, options).run(&out).unwrap();
        assert!(cached(&raw) < 1 << 20, "{format}: {} of the source", cached(&raw));
        assert!(cached(&out) < 1 << 20, "{format}: {} of the output", cached(&out));
        assert_qemu_same(&raw, "raw", &out, format.name());
        let image = open(&raw, Format::Raw, Caching::Buffered);
        direct(image, format, options).caching(Caching::Buffered).run(&out).unwrap();
        assert!(cached(&raw) > 19 << 20 && cached(&out) > 19 << 20, "{format}");
    }
}

#[test]
#[ignore = "needs root and loop devices; ./test.sh runs it as root"]
fn a_device_is_read_and_written_with_direct_io() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let disk = Disk { size: 64 << 20, ..sample() };
    disk.write(&path("raw"));
    std::fs::write(path("device"), vec![0xee; 65 << 20]).unwrap();
    let device = LoopDevice::attach(&path("device"));
    let image = open(&path("raw"), Format::Raw, Caching::Direct);
    direct(image, Format::Qcow2, "").run(device.path()).unwrap();
    let image = open(device.path(), Format::Qcow2, Caching::Direct);
    direct(image, Format::Raw, "").run(path("back")).unwrap();
    assert!(std::fs::read(path("back")).unwrap() == disk.bytes());
    let image = open(&path("raw"), Format::Raw, Caching::Direct);
    direct(image, Format::Raw, "").run(device.path()).unwrap();
    let mut bytes = vec![0; 64 << 20];
    open(device.path(), Format::Raw, Caching::Buffered).read_at(&mut bytes, 0).unwrap();
    assert!(bytes == disk.bytes());
}
