//! The content ID of a VMDK depends only on the guest bytes, not on how it was created.

use diskimg::{
    Backing, Convert, Create, Durability, ErrorKind, Format, Image, OpenOptions, Options, Reflink,
    Sparse,
};
use diskimg_testkit::disk::{self, Disk, Fill, Run};
use diskimg_testkit::tool::{cases, qemu_bytes, run, try_run};
use proptest::prelude::*;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Layouts whose descriptor is written last.
const LAYOUTS: [&str; 5] =
    ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "vmfs"];

fn open(path: &Path, format: Format) -> Image {
    OpenOptions::new().format(format).open(path).unwrap()
}

fn to_vmdk(image: Image, options: &str) -> Convert<'static> {
    // Shared data is not read; its content ID depends on the modification time of the source.
    let convert = Convert::new(image).reflink(Reflink::Never);
    convert.format(Format::Vmdk).options(Options::parse(options).unwrap())
}

/// Returns content ID, long content ID and UUID from a descriptor, embedded or not.
fn ids(path: &Path) -> [String; 3] {
    let mut head = vec![0; 21 * 512];
    let n = std::fs::File::open(path).unwrap().read_at(&mut head, 0).unwrap();
    let text = String::from_utf8_lossy(&head[..n]).into_owned();
    ["CID", "ddb.longContentID", "ddb.uuid"].map(|key| {
        let value = text.lines().find_map(|l| l.strip_prefix(key)?.trim_start().strip_prefix('='));
        value.unwrap().trim().to_owned()
    })
}

#[test]
fn disks_that_differ_in_one_byte_have_different_ids_in_every_layout() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, out) = (dir.path().join("a.raw"), dir.path().join("a.vmdk"));
    // Two extents in split layouts.
    let size = (2047 << 20) + (1 << 20);
    let run = |at, fill| Run { at, len: 200_000, fill };
    let runs = vec![run(0, Fill::Noise(1)), run(size - 200_000, Fill::Byte(1))];
    Disk { size, runs }.write(&raw);
    for layout in LAYOUTS {
        let options = format!("subformat={layout}");
        let mut seen = Vec::new();
        for at in [None, Some(0), Some(70_000), Some(199_999), Some(1 << 30), Some(size - 1)] {
            if let Some(at) = at {
                let file = std::fs::File::options().read(true).write(true).open(&raw).unwrap();
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            }
            let convert = to_vmdk(open(&raw, Format::Raw), &options);
            convert.durability(Durability::Cached).run(&out).unwrap();
            seen.push(ids(&out));
        }
        for (i, ids) in seen.iter().enumerate() {
            for other in &seen[..i] {
                assert!(ids.iter().zip(other).all(|(a, b)| a != b), "{layout}: {seen:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn the_same_disk_gives_the_same_files_from_any_source(
        disk in disk::disk_of(1..=(3 << 20)),
        layout in prop::sample::select(vec!["monolithicSparse", "monolithicFlat"]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let mut bytes = disk.bytes();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        // All zeros stored, holes instead of zeros, and what other formats make of both.
        std::fs::write(path("dense"), &bytes).unwrap();
        disk.write(&path("holes"));
        let mut sources = vec![("dense", Format::Raw), ("holes", Format::Raw)];
        for (name, format, options) in [
            ("clusters", Format::Qcow2, &["-O", "qcow2", "-o", "cluster_size=4k"][..]),
            ("packed", Format::Qcow2, &["-O", "qcow2", "-c"]),
            ("dense-clusters", Format::Qcow2, &["-O", "qcow2", "-S", "0"]),
            ("stream", Format::Vmdk, &["-O", "vmdk", "-o", "subformat=streamOptimized"]),
        ] {
            let out = path(name);
            let files = [path("dense").to_str().unwrap(), out.to_str().unwrap()].map(String::from);
            let args = ["convert", "-f", "raw"].iter().chain(options).map(|arg| arg.to_string());
            run("qemu-img", args.chain(files).collect::<Vec<_>>());
            sources.push((name, format));
        }
        let (out, flat) = (path("a.vmdk"), path("a-flat.vmdk"));
        let main_file = if layout == "monolithicFlat" { &flat } else { &out };
        let mut first = None;
        for (name, format) in sources {
            for (threads, sparse, fine) in [
                (1, Sparse::default(), true),
                (4, Sparse::default(), true),
                (1, Sparse::Blocks(512), true),
                (4, Sparse::Blocks(1 << 20), false),
                (4, Sparse::Off, false),
            ] {
                let options = format!("subformat={layout}");
                let convert = to_vmdk(open(&path(name), format), &options).sparse(sparse);
                convert.threads(threads).durability(Durability::Cached).run(&out).unwrap();
                let ids = ids(&out);
                // With grains of zeros stored, the file differs, but the disk is the same.
                let same = fine || layout == "monolithicFlat";
                let files = same.then(|| [&out, main_file].map(|path| std::fs::read(path).unwrap()));
                let (first_ids, first_files) = first.get_or_insert((ids.clone(), files.clone()));
                prop_assert_eq!(&ids, first_ids, "{} {} {:?}", name, threads, sparse);
                prop_assert!(!same || files == *first_files, "{name} {threads} {sparse:?}");
            }
        }
    }
}

/// Two disks of the same size with different data in the same places.
fn versions() -> [Disk; 2] {
    [1, 2].map(|seed| Disk {
        size: 2 << 20,
        runs: vec![Run { at: 65536, len: 300_000, fill: Fill::Noise(seed) }],
    })
}

fn backing(name: &str) -> Backing {
    Backing::new(name).with_format("vmdk")
}

#[test]
fn a_child_whose_parent_was_replaced_by_one_with_other_data_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let [before, after] = versions();
    before.write(&path("before.raw"));
    after.write(&path("after.raw"));
    for layout in LAYOUTS {
        let (parent, child) = (path("d.vmdk"), path("child.vmdk"));
        let convert = |source: &str| {
            let image = open(&path(source), Format::Raw);
            to_vmdk(image, &format!("subformat={layout}")).run(&parent).unwrap();
        };
        convert("before.raw");
        Create::new(Format::Vmdk).backing(backing("d.vmdk")).run(&child).unwrap();
        assert!(qemu_bytes(&child, "vmdk") == before.bytes(), "{layout}");

        convert("after.raw");
        let error = Image::open(&child).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{layout}");
        assert!(error.to_string().contains("content ID"), "{layout}: {error}");
        let (child_name, raw) = (child.to_str().unwrap(), path("out.raw"));
        let output = try_run(
            "qemu-img",
            ["convert", "-f", "vmdk", "-O", "raw", child_name, raw.to_str().unwrap()],
        );
        assert!(!output.status.success(), "{layout}: qemu-img reads it");

        // With the old bytes the child is valid again.
        convert("before.raw");
        assert!(qemu_bytes(&child, "vmdk") == before.bytes(), "{layout}");
        Image::open(&child).unwrap();
    }
}

#[test]
fn children_that_differ_only_in_the_data_they_hide_have_different_ids() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let [base, _] = versions();
    base.write(&path("base.raw"));
    to_vmdk(open(&path("base.raw"), Format::Raw), "").run(path("base.vmdk")).unwrap();
    for options in ["", "zeroed_grain=on", "subformat=twoGbMaxExtentSparse"] {
        let child_ids = |hidden: u64| {
            let mut top = base.clone();
            top.runs.push(Run { at: hidden, len: 65536, fill: Fill::Byte(0) });
            top.write(&path("top.raw"));
            let convert = to_vmdk(open(&path("top.raw"), Format::Raw), options);
            convert.backing(backing("base.vmdk")).run(path("top.vmdk")).unwrap();
            assert!(qemu_bytes(&path("top.vmdk"), "vmdk") == top.bytes());
            ids(&path("top.vmdk"))
        };
        // Nothing, and each of two grains.
        let [none, first, second] = [0, 65536, 131_072].map(child_ids);
        assert!(none != first && first != second && none != second, "{options}");
    }
}
