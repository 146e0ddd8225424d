//! Sharing (reflink) and offloading: data that is copied between files without being read.

use diskimg::{Convert, ErrorKind, Format, Image, OpenOptions, Options, Reflink, Report};
use diskimg_testkit::disk::{self, Disk, Fill, Run};
use diskimg_testkit::tool::{MountedFs, assert_qemu_check, assert_qemu_same, cases};
use proptest::prelude::*;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

fn open(path: &Path, format: Format) -> Image {
    OpenOptions::new().format(format).open(path).unwrap()
}

fn convert(source: &Path, from: Format, out: &Path, to: Format, threads: usize) -> Report {
    let image = open(source, from);
    Convert::new(image).format(to).offload(true).threads(threads).run(out).unwrap()
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn an_offloaded_conversion_has_the_same_guest_bytes(
        disk in disk::disk_of(1..=(6 << 20)),
        from in prop_oneof![Just("raw"), Just("qcow2"), Just("vmdk")],
        options in prop_oneof![Just(""), Just("cluster_size=4k")],
        to in prop_oneof![Just("raw"), Just("qcow2"), Just("vmdk")],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let disk = Disk { size: disk.size.next_multiple_of(512), ..disk };
        disk.write(&path("a.raw"));
        let (from, to): (Format, Format) = (from.parse().unwrap(), to.parse().unwrap());
        let options = if from == Format::Qcow2 { options } else { "" };
        let raw = OpenOptions::new().format(Format::Raw).open(path("a.raw")).unwrap();
        let options = Options::parse(options).unwrap();
        Convert::new(raw).format(from).options(options).run(path("a")).unwrap();
        convert(&path("a"), from, &path("b"), to, 2);
        assert_qemu_same(&path("a.raw"), "raw", &path("b"), to.name());
        if to != Format::Raw {
            assert_qemu_check(&path("b"), to.name());
        }
        let first = std::fs::read(path("b")).unwrap();
        convert(&path("a"), from, &path("b"), to, 1);
        prop_assert!(std::fs::read(path("b")).unwrap() == first);
    }
}

/// 35 MiB of data on a disk of 64 MiB, in two runs.
fn disk() -> Disk {
    Disk {
        size: 64 << 20,
        runs: vec![
            Run { at: 0, len: 30 << 20, fill: Fill::Noise(1) },
            Run { at: 40 << 20, len: 5 << 20, fill: Fill::Words(2) },
        ],
    }
}

#[test]
#[ignore = "needs root, xfsprogs, btrfs-progs and loop devices; ./test.sh runs it as root"]
fn data_is_shared_by_default_and_later_writes_stay_separate() {
    const FORMATS: [(Format, &str); 5] = [
        (Format::Raw, ""),
        (Format::Qcow2, ""),
        (Format::Qcow2, "data_file=DIR/data"),
        (Format::Vmdk, "subformat=monolithicSparse"),
        (Format::Vmdk, "subformat=twoGbMaxExtentFlat"),
    ];
    for fs in MountedFs::all() {
        let raw = fs.path("a.raw");
        let disk = disk();
        disk.write(&raw);
        let to = |image, format, options: &str, out: &Path| {
            let options = Options::parse(options).unwrap();
            Convert::new(image).format(format).options(options).run(out).unwrap()
        };
        for (format, options) in FORMATS {
            // qemu-img resolves a relative name against its working directory.
            let options = &options.replace("DIR/", fs.path("").to_str().unwrap());
            let (out, back) = (fs.path("b"), fs.path("c"));
            let report = to(open(&raw, Format::Raw), format, options, &out);
            assert!(report.shared_bytes >= 34 << 20, "{format} {options}: {report:?}");
            let report = to(open(&out, format), Format::Raw, "", &back);
            assert!(report.shared_bytes >= 34 << 20, "{format} {options}: {report:?}");
            // Writing to one file does not change the others.
            let file = std::fs::OpenOptions::new().write(true).open(&back).unwrap();
            file.write_all_at(&[0xee; 8192], 1 << 20).unwrap();
            assert_qemu_same(&raw, "raw", &out, format.name());
            assert!(std::fs::read(&raw).unwrap() == disk.bytes());
            let again = to(open(&out, format), Format::Raw, "", &back);
            assert_eq!(again, report, "{format} {options}");
            assert!(std::fs::read(&back).unwrap() == disk.bytes(), "{format} {options}");
        }
    }
}

#[test]
#[ignore = "needs root, xfsprogs and loop devices; ./test.sh runs it as root"]
fn data_that_is_not_shared_is_searched_for_zeros() {
    let xfs = MountedFs::xfs();
    let (raw, out) = (xfs.path("a.raw"), xfs.path("b.raw"));
    // 8 MiB of written zeros, not a hole.
    std::fs::write(&raw, vec![0; 8 << 20]).unwrap();
    let convert = || Convert::new(open(&raw, Format::Raw));
    let allocated = |path: &Path| std::fs::metadata(path).unwrap().blocks() * 512;
    let report = convert().reflink(Reflink::Never).run(&out).unwrap();
    assert_eq!((report.shared_bytes, report.stored_bytes, allocated(&out)), (0, 0, 0));
    let report = convert().run(&out).unwrap();
    assert_eq!(report.shared_bytes, 8 << 20);
    // Salvaging reads everything.
    let report = convert().salvage(true).run(&out).unwrap();
    assert_eq!(report.shared_bytes, 0);
}

#[test]
#[ignore = "needs root, xfsprogs and loop devices; ./test.sh runs it as root"]
fn data_that_is_not_aligned_to_blocks_is_copied_or_refused() {
    let xfs = MountedFs::xfs();
    let (raw, out) = (xfs.path("a.raw"), xfs.path("b"));
    disk().write(&raw);
    // A disk that starts in the middle of a file system block.
    let split = xfs.path("x.vmdk");
    let extent = r#"RW 131072 FLAT "a.flat" 1"#;
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
         createType=\"monolithicFlat\"\n{extent}\n"
    );
    std::fs::write(&split, text).unwrap();
    let shifted = [vec![0; 512], std::fs::read(&raw).unwrap()].concat();
    std::fs::write(xfs.path("a.flat"), shifted).unwrap();
    let convert = || Convert::new(open(&split, Format::Vmdk)).format(Format::Qcow2);
    let report = convert().run(&out).unwrap();
    assert_eq!(report.shared_bytes, 0);
    assert_qemu_same(&raw, "raw", &out, "qcow2");
    let error = convert().reflink(Reflink::Always).run(&out).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("not aligned to blocks of 4096 bytes"), "{error}");
    let report = Convert::new(open(&raw, Format::Raw)).reflink(Reflink::Always).run(&out).unwrap();
    assert_eq!(report.shared_bytes, report.stored_bytes);
}

#[test]
fn reflink_always_is_an_error_where_sharing_is_impossible() {
    // The files are on different file systems.
    let (dir, shm) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    let (raw, out) = (dir.path().join("a.raw"), shm.path().join("b"));
    disk().write(&raw);
    let convert = |reflink| Convert::new(open(&raw, Format::Raw)).reflink(reflink);
    let error = convert(Reflink::Always).run(&out).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(
        error.to_string().contains("a.raw") && error.to_string().contains("reflink"),
        "{error}"
    );
    assert!(!out.exists());
    let compressed = convert(Reflink::Always).format(Format::Qcow2).compress(true);
    assert_eq!(compressed.run(&out).unwrap_err().kind(), ErrorKind::Invalid);
    let report = convert(Reflink::Auto).format(Format::Qcow2).run(&out).unwrap();
    assert_eq!(report.shared_bytes, 0);
    assert_qemu_check(&out, "qcow2");
    assert_qemu_same(&raw, "raw", &out, "qcow2");
}

#[test]
#[ignore = "needs root, xfsprogs and loop devices; ./test.sh runs it as root"]
fn a_flat_vmdk_of_a_modified_source_has_another_content_id() {
    let xfs = MountedFs::xfs();
    let (raw, out) = (xfs.path("a.raw"), xfs.path("a.vmdk"));
    disk().write(&raw);
    let content_id = || {
        let options = Options::parse("subformat=monolithicFlat").unwrap();
        let convert = Convert::new(open(&raw, Format::Raw)).format(Format::Vmdk).options(options);
        assert!(convert.run(&out).unwrap().shared_bytes > 0);
        open(&out, Format::Vmdk).layers().next().unwrap().content_ids()
    };
    let first = content_id();
    assert_eq!(content_id(), first);
    let file = std::fs::OpenOptions::new().write(true).open(&raw).unwrap();
    // File times advance in clock ticks.
    std::thread::sleep(std::time::Duration::from_millis(20));
    file.write_all_at(&[1], 1 << 20).unwrap();
    assert_ne!(content_id(), first);
}

#[test]
#[ignore = "needs root, xfsprogs and loop devices; ./test.sh runs it as root"]
fn a_flat_vmdk_shares_data_with_its_source() {
    let xfs = MountedFs::xfs();
    let boundary = 2047 << 20;
    let disk = Disk {
        size: boundary + (64 << 20),
        runs: vec![
            Run { at: 0, len: 10 << 20, fill: Fill::Noise(1) },
            Run { at: boundary - (5 << 20), len: 15 << 20, fill: Fill::Words(2) },
        ],
    };
    let (raw, out) = (xfs.path("a.raw"), xfs.path("a.vmdk"));
    disk.write(&raw);
    for layout in ["monolithicFlat", "twoGbMaxExtentFlat", "vmfs"] {
        let image = OpenOptions::new().format(Format::Raw).open(&raw).unwrap();
        let options = Options::parse(&format!("subformat={layout}")).unwrap();
        let convert = Convert::new(image).format(Format::Vmdk).options(options).offload(true);
        let report = convert.run(&out).unwrap();
        assert_eq!(report.shared_bytes, 25 << 20, "{layout}: {report:?}");
        assert_qemu_same(&raw, "raw", &out, "vmdk");
    }
}
