//! Writing VMDK layouts of several files, read back with qemu-img and 7-Zip.

use diskimg::{
    Backing, Convert, Create, Error, ErrorKind, Format, OpenOptions, Options, Output, Sparse,
};
use diskimg_testkit::disk::{self, Disk, Fill, Run};
use diskimg_testkit::tool::{assert_qemu_check, assert_qemu_same, cases, qemu_bytes, run, try_run};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const FLAT: [&str; 3] = ["monolithicFlat", "twoGbMaxExtentFlat", "vmfs"];
const SEVERAL_FILES: [&str; 4] =
    ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "vmfs"];

/// Maximum size of an extent of a split disk.
const SPLIT: u64 = 2047 << 20;

/// Prepares the conversion of a raw file to a VMDK with these options.
fn to_vmdk(source: &Path, options: &str) -> Convert<'static> {
    let image = OpenOptions::new().format(Format::Raw).open(source).unwrap();
    Convert::new(image).format(Format::Vmdk).options(Options::parse(options).unwrap())
}

fn create(path: &Path, options: &str, size: u64) -> Result<(), Error> {
    let options = Options::parse(options).unwrap();
    Create::new(Format::Vmdk).options(options).size(size).run(path).map(drop)
}

/// Returns names and contents of all files in the directory, except names that start with `except`.
fn files(dir: &Path, except: &str) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .filter(|(name, _)| !name.starts_with(except))
        .map(|(name, path)| (name, std::fs::read(path).unwrap()))
        .collect()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn sample() -> Disk {
    Disk {
        size: 3 << 20,
        runs: vec![
            Run { at: 0, len: 1 << 20, fill: Fill::Noise(5) },
            Run { at: (2 << 20) + 4096, len: 100_000, fill: Fill::Words(6) },
        ],
    }
}

fn layout_options() -> impl Strategy<Value = String> {
    let preallocation = prop_oneof![
        3 => Just(""),
        1 => Just(",preallocation=falloc"),
        1 => Just(",preallocation=full"),
    ];
    let flat = (prop::sample::select(FLAT.to_vec()), preallocation)
        .prop_map(|(layout, preallocation)| format!("subformat={layout}{preallocation}"));
    let sparse = prop_oneof![Just(""), Just(",zeroed_grain=on")]
        .prop_map(|zeroed| format!("subformat=twoGbMaxExtentSparse{zeroed}"));
    prop_oneof![3 => flat, 2 => sparse]
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn every_layout_reads_as_its_source_for_any_number_of_threads(
        disk in disk::disk_of(1..=(3 << 20)),
        options in layout_options(),
        sparse in prop_oneof![
            3 => Just(Sparse::default()), 1 => Just(Sparse::Off), 1 => Just(Sparse::Blocks(512)),
        ],
        offload in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (raw, out) = (dir.path().join("source"), dir.path().join("a.vmdk"));
        disk.write(&raw);
        let convert = |threads| {
            let convert = to_vmdk(&raw, &options).sparse(sparse).offload(offload);
            convert.threads(threads).run(&out).unwrap();
            files(dir.path(), "source")
        };
        let first = convert(1);
        assert_qemu_check(&out, "vmdk");
        let mut expected = disk.bytes();
        expected.resize(expected.len().next_multiple_of(512), 0);
        prop_assert!(qemu_bytes(&out, "vmdk") == expected);
        prop_assert!(convert(4) == first, "4 threads write different files");
    }
}

/// Generates disks that end and have data near the boundaries of extents.
fn disk_at_boundary() -> impl Strategy<Value = Disk> {
    let near = |boundary: u64| (boundary - 300_000..boundary + 300_000).prop_map(|n| n / 512 * 512);
    let run = (
        prop_oneof![near(SPLIT), near(2 * SPLIT), Just(0), Just(SPLIT - 512), Just(SPLIT)],
        1..600_000u64,
        disk::fill(),
    )
        .prop_map(|(at, len, fill)| Run { at, len, fill });
    let size = prop_oneof![
        Just(SPLIT),
        Just(SPLIT + 512),
        near(SPLIT),
        Just(2 * SPLIT),
        near(2 * SPLIT),
        Just(5 << 30),
    ];
    (size, prop::collection::vec(run, 1..6)).prop_map(|(size, runs)| Disk { size, runs })
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn data_across_the_boundary_of_two_extents_is_split(
        disk in disk_at_boundary(),
        layout in prop::sample::select(vec!["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"]),
        offload in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (raw, out) = (dir.path().join("a.raw"), dir.path().join("a.vmdk"));
        disk.write(&raw);
        to_vmdk(&raw, &format!("subformat={layout}")).offload(offload).run(&out).unwrap();
        assert_qemu_check(&out, "vmdk");
        assert_qemu_same(&raw, "raw", &out, "vmdk");
        let extents = names(dir.path()).len() - 2;
        prop_assert_eq!(extents as u64, disk.size.div_ceil(SPLIT));
        for name in names(dir.path()).iter().filter(|name| name.starts_with("a-")) {
            let len = std::fs::metadata(dir.path().join(name)).unwrap().len();
            prop_assert!(len < 2 << 30, "{name} has {len} bytes");
        }
    }
}

#[test]
fn data_copied_by_the_kernel_is_split_at_the_boundary_too() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, out) = (dir.path().join("a.raw"), dir.path().join("a.vmdk"));
    let run = Run { at: SPLIT - (1 << 20), len: 3 << 20, fill: Fill::Noise(4) };
    Disk { size: SPLIT + (4 << 20), runs: vec![run] }.write(&raw);
    for layout in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        to_vmdk(&raw, &format!("subformat={layout}")).offload(true).run(&out).unwrap();
        assert_qemu_same(&raw, "raw", &out, "vmdk");
    }
}

/// Checks the format of the lines whose values depend on the content, and returns the other lines.
fn fixed_lines(descriptor: &str) -> String {
    let value = |key: &str| {
        let line = descriptor.lines().find(|line| line.starts_with(key)).unwrap();
        line.split('=').nth(1).unwrap().trim().trim_matches('"').to_owned()
    };
    let (cid, long, uuid) = (value("CID"), value("ddb.longContentID"), value("ddb.uuid"));
    assert!(cid.len() == 8 && long.len() == 32 && long.ends_with(&cid), "{descriptor}");
    assert!(uuid.len() == 47 && uuid.starts_with("60 00 c2 9"), "{descriptor}");
    let derived = ["CID", "ddb.longContentID", "ddb.uuid"];
    let fixed = descriptor.lines().filter(|line| !derived.iter().any(|key| line.starts_with(key)));
    fixed.map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_descriptor_of_each_layout_is_that_of_vmware() {
    let head = |create_type: &str| {
        format!(
            "# Disk DescriptorFile\nversion=1\nparentCID=ffffffff\ncreateType=\"{create_type}\"\n\
             \n# Extent description\n"
        )
    };
    let ddb = |adapter: &str, geometry: [u32; 3], thin: &str| {
        let [cylinders, heads, sectors] = geometry;
        format!(
            "\n# The Disk Data Base\n#DDB\n\nddb.adapterType = \"{adapter}\"\n\
             ddb.geometry.cylinders = \"{cylinders}\"\nddb.geometry.heads = \"{heads}\"\n\
             ddb.geometry.sectors = \"{sectors}\"\n{thin}\
             ddb.toolsVersion = \"2147483647\"\nddb.virtualHWVersion = \"4\"\n"
        )
    };
    let (ide, scsi) = (ddb("ide", [10402, 16, 63], ""), ddb("lsilogic", [652, 255, 63], ""));
    let thin = ddb("lsilogic", [652, 255, 63], "ddb.thinProvisioned = \"1\"\n");
    let split = |kind: &str, letter: char, end: &str| {
        let line = |n, sectors| format!("RW {sectors} {kind} \"a-{letter}00{n}.vmdk\"{end}\n");
        line(1, 4_192_256) + &line(2, 4_192_256) + &line(3, 2_101_248)
    };
    for (options, extents, ddb) in [
        ("monolithicSparse", "RW 10485760 SPARSE \"a.vmdk\"\n".to_owned(), &ide),
        ("streamOptimized", "RW 10485760 SPARSE \"a.vmdk\"\n".to_owned(), &ide),
        ("monolithicFlat", "RW 10485760 FLAT \"a-flat.vmdk\" 0\n".to_owned(), &ide),
        ("twoGbMaxExtentSparse", split("SPARSE", 's', ""), &ide),
        ("twoGbMaxExtentFlat,adapter_type=lsilogic", split("FLAT", 'f', " 0"), &scsi),
        ("vmfs", "RW 10485760 VMFS \"a-flat.vmdk\"\n".to_owned(), &thin),
        ("vmfs,preallocation=off", "RW 10485760 VMFS \"a-flat.vmdk\"\n".to_owned(), &thin),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a.vmdk");
        create(&out, &format!("subformat={options}"), 5 << 30).unwrap();
        let file = std::fs::read(&out).unwrap();
        let text = if file.starts_with(b"KDMV") { &file[512..21 * 512] } else { &file[..] };
        let text = std::str::from_utf8(text).unwrap().trim_end_matches('\0');
        let create_type = options.split(',').next().unwrap();
        assert_eq!(fixed_lines(text), head(create_type) + &extents + ddb, "{options}");
        let info = run("qemu-img", ["info", out.to_str().unwrap()]);
        assert!(info.contains(&format!("create type: {create_type}")), "{info}");
        assert!(info.contains("virtual size: 5 GiB"), "{info}");
    }
}

#[test]
fn a_sparse_extent_of_a_split_disk_has_no_descriptor_and_its_own_capacity() {
    let dir = tempfile::tempdir().unwrap();
    create(&dir.path().join("a.vmdk"), "subformat=twoGbMaxExtentSparse", SPLIT + 5120).unwrap();
    for (name, capacity) in [("a-s001.vmdk", 4_192_256), ("a-s002.vmdk", 10)] {
        let file = std::fs::read(dir.path().join(name)).unwrap();
        let field = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
        assert!(file.starts_with(b"KDMV\x01\0\0\0\x03\0\0\0"), "{name}");
        let (descriptor_offset, descriptor_size, redundant) = (field(28), field(36), field(48));
        assert_eq!([field(12), descriptor_offset, descriptor_size, redundant], [capacity, 0, 0, 1]);
    }
}

#[test]
fn preallocation_determines_the_allocated_size_of_a_flat_extent() {
    for layout in FLAT {
        for (mode, is_allocated) in [("off", false), ("falloc", true), ("full", true)] {
            let dir = tempfile::tempdir().unwrap();
            let options = format!("subformat={layout},preallocation={mode}");
            create(&dir.path().join("a.vmdk"), &options, 4 << 20).unwrap();
            let extent = names(dir.path()).into_iter().find(|name| name.contains('-')).unwrap();
            let extent = std::fs::metadata(dir.path().join(extent)).unwrap();
            assert_eq!(extent.len(), 4 << 20);
            let allocated = extent.blocks() * 512;
            assert_eq!(allocated >= 4 << 20, is_allocated, "{options}: {allocated}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("a.vmdk");
    create(&out, "subformat=vmfs,preallocation=falloc", 1 << 20).unwrap();
    let descriptor = std::fs::read_to_string(&out).unwrap();
    assert!(!descriptor.contains("thinProvisioned"), "{descriptor}");
}

#[test]
fn seven_zip_reads_every_layout() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("a.raw");
    sample().write(&raw);
    for layout in SEVERAL_FILES {
        let out = dir.path().join(format!("{layout}.vmdk"));
        to_vmdk(&raw, &format!("subformat={layout}")).run(&out).unwrap();
        let output = try_run("7zz", ["x", "-so", out.to_str().unwrap()]);
        assert!(output.status.success(), "{layout}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == sample().bytes(), "{layout}: 7-Zip reads different bytes");
    }
}

#[test]
fn a_split_child_hides_and_shows_its_backing_file_on_both_sides_of_a_boundary() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let around = |from: u64, to: u64, fill| Run { at: SPLIT - from, len: from + to, fill };
    let base =
        Disk { size: SPLIT + (4 << 20), runs: vec![around(1 << 20, 1 << 20, Fill::Noise(1))] };
    let mut top = base.clone();
    top.runs.push(around(200_000, 300_000, Fill::Byte(0)));
    top.runs.push(around(700_000, 0, Fill::Words(2)));
    top.runs.push(Run { at: SPLIT - 100, len: 50, fill: Fill::Byte(7) });
    base.write(&path("base.raw"));
    top.write(&path("top.raw"));
    to_vmdk(&path("base.raw"), "").run(path("base.vmdk")).unwrap();
    for zeroed in ["", ",zeroed_grain=on"] {
        let report = to_vmdk(&path("top.raw"), &format!("subformat=twoGbMaxExtentSparse{zeroed}"))
            .backing(Backing::new("base.vmdk").with_format("vmdk"))
            .run(path("top.vmdk"))
            .unwrap();
        assert!(report.stored_bytes < 1 << 20, "stores more than what differs: {report:?}");
        assert_qemu_same(&path("top.raw"), "raw", &path("top.vmdk"), "vmdk");
        let info = run("qemu-img", ["info", path("top.vmdk").to_str().unwrap()]);
        assert!(info.contains("backing file: base.vmdk"), "{info}");
    }
}

#[test]
fn an_empty_child_that_is_split_shows_its_backing_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    sample().write(&path("base.raw"));
    to_vmdk(&path("base.raw"), "").run(path("base.vmdk")).unwrap();
    let options = "subformat=twoGbMaxExtentSparse,backing_file=base.vmdk,backing_fmt=vmdk";
    let options = Options::parse(options).unwrap();
    Create::new(Format::Vmdk).options(options).run(path("top.vmdk")).unwrap();
    assert!(qemu_bytes(&path("top.vmdk"), "vmdk") == sample().bytes());
}

#[test]
fn options_that_a_layout_does_not_support_are_refused_without_output() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("a.vmdk");
    for layout in FLAT {
        for (option, kind, message) in [
            (
                "backing_file=b.vmdk,backing_fmt=vmdk",
                ErrorKind::Unsupported,
                "can't have backing file",
            ),
            ("zeroed_grain=on", ErrorKind::Unsupported, "can't enable zeroed grain"),
            ("preallocation=metadata", ErrorKind::Invalid, "off, falloc or full"),
        ] {
            let options = Options::parse(&format!("subformat={layout},{option}")).unwrap();
            let create = Create::new(Format::Vmdk).options(options).size(1 << 20);
            let error = create.unsafe_backing(true).run(&out).unwrap_err();
            assert!(
                error.kind() == kind && error.to_string().contains(message),
                "{layout}: {error}"
            );
        }
    }
    for options in ["subformat=twoGbMaxExtentSparse,preallocation=full", "subformat=custom"] {
        let error = create(&out, options, 1 << 20).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
    for size in [61 << 40, 1 << 62] {
        for options in ["subformat=twoGbMaxExtentSparse", "subformat=twoGbMaxExtentFlat"] {
            let error = create(&out, options, size).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
            assert!(error.to_string().contains("use a layout with one extent"), "{error}");
        }
    }
    assert_eq!(names(dir.path()), [""; 0]);
    let raw = dir.path().join("a.raw");
    sample().write(&raw);
    for layout in SEVERAL_FILES {
        let options = format!("subformat={layout}");
        let error = to_vmdk(&raw, &options).compress(true).run(&out).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{layout}: {error}");
        let piped = Output::writer(io::sink());
        let error = to_vmdk(&raw, &options).run_to(piped).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{layout}: {error}");
        assert!(error.to_string().contains("streamOptimized"), "{error}");
    }
    assert_eq!(names(dir.path()), ["a.raw"]);
}

#[test]
fn an_extents_name_in_the_descriptor_is_exact_or_refused() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("Größe 東 \\'.vmdk");
    create(&out, "subformat=monolithicFlat", 1 << 20).unwrap();
    let descriptor = std::fs::read_to_string(&out).unwrap();
    assert!(descriptor.contains("version=1\nencoding=\"UTF-8\"\n"), "{descriptor}");
    assert!(descriptor.contains("FLAT \"Größe 東 \\'-flat.vmdk\" 0\n"), "{descriptor}");
    assert!(qemu_bytes(&out, "vmdk").len() == 1 << 20);

    let dir = tempfile::tempdir().unwrap();
    for name in [&b"a\"b.vmdk"[..], b"a\nb.vmdk", b"a\tb.vmdk", b"\xfc.vmdk"] {
        let out = dir.path().join(std::ffi::OsStr::from_bytes(name));
        for layout in SEVERAL_FILES {
            let error = create(&out, &format!("subformat={layout}"), 1 << 20).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.to_string().contains("without quotes and control characters"), "{error}");
        }
        // A descriptor of a single file does not need the name.
        create(&out, "subformat=monolithicSparse", 1 << 20).unwrap();
        std::fs::rename(&out, dir.path().join("plain")).unwrap();
        assert_eq!(qemu_bytes(&dir.path().join("plain"), "vmdk").len(), 1 << 20);
    }
    std::fs::remove_file(dir.path().join("plain")).unwrap();
    // With the suffix of the extents the name exceeds the limit for file names.
    let long = dir.path().join(format!("{}.vmdk", "x".repeat(248)));
    let error = create(&long, "subformat=twoGbMaxExtentFlat", 1 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn a_source_that_an_extent_would_replace_is_refused_before_it_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for (layout, source) in [
        ("monolithicFlat", "x-flat.vmdk"),
        ("vmfs", "x-flat.vmdk"),
        ("twoGbMaxExtentSparse", "x-s001.vmdk"),
        ("twoGbMaxExtentFlat", "x-f001.vmdk"),
    ] {
        sample().write(&path(source));
        let error =
            to_vmdk(&path(source), &format!("subformat={layout}")).run(path("x.vmdk")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{layout}: {error}");
        assert!(error.to_string().contains(source), "{error}");
        assert!(std::fs::read(path(source)).unwrap() == sample().bytes());
        assert_eq!(names(dir.path()), [source]);
        std::fs::remove_file(path(source)).unwrap();
    }
}

#[test]
fn a_symbolic_link_with_an_extents_name_is_refused_and_not_followed() {
    use std::os::unix::fs::symlink;
    for (layout, extent) in [
        ("monolithicFlat", "x-flat.vmdk"),
        ("twoGbMaxExtentSparse", "x-s001.vmdk"),
        ("twoGbMaxExtentFlat", "x-f001.vmdk"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        sample().write(&path("a.raw"));
        let options = format!("subformat={layout}");
        for target in ["a.raw", "nowhere", "/dev/null"] {
            symlink(target, path(extent)).unwrap();
            let error = to_vmdk(&path("a.raw"), &options).run(path("x.vmdk")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
            assert_eq!(error.path(), Some(&*path(extent)), "{error}");
            std::fs::remove_file(path(extent)).unwrap();
        }
        assert!(std::fs::read(path("a.raw")).unwrap() == sample().bytes());
        assert_eq!(names(dir.path()), ["a.raw"]);
    }
}

#[test]
fn an_image_named_like_an_extent_has_its_own_extents() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    sample().write(&path("a.raw"));
    to_vmdk(&path("a.raw"), "subformat=monolithicFlat").run(path("x-flat.vmdk")).unwrap();
    assert_eq!(names(dir.path()), ["a.raw", "x-flat-flat.vmdk", "x-flat.vmdk"]);
    assert!(qemu_bytes(&path("x-flat.vmdk"), "vmdk") == sample().bytes());
}

#[test]
fn replacing_a_split_image_by_a_smaller_one_keeps_the_surplus_extents() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x.vmdk");
    create(&out, "subformat=twoGbMaxExtentFlat", 3 * SPLIT).unwrap();
    sample().write(&dir.path().join("a.raw"));
    let convert = to_vmdk(&dir.path().join("a.raw"), "subformat=twoGbMaxExtentFlat");
    convert.run(&out).unwrap();
    let left = ["a.raw", "x-f001.vmdk", "x-f002.vmdk", "x-f003.vmdk", "x.vmdk"];
    assert_eq!(names(dir.path()), left);
    assert!(qemu_bytes(&out, "vmdk") == sample().bytes());
}

#[test]
fn a_cancelled_conversion_leaves_all_files_of_the_old_image_unchanged() {
    for layout in SEVERAL_FILES {
        let dir = tempfile::tempdir().unwrap();
        let (raw, out) = (dir.path().join("source"), dir.path().join("x.vmdk"));
        sample().write(&raw);
        let options = format!("subformat={layout}");
        to_vmdk(&raw, &options).run(&out).unwrap();
        let before = files(dir.path(), "source");
        std::fs::write(&raw, disk::noise(9, 3 << 20)).unwrap();
        let stop = |p: diskimg::Progress| {
            if p.done > 1 << 20 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let error = to_vmdk(&raw, &options).progress(&stop).run(&out).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert!(files(dir.path(), "source") == before, "{layout}");
        // If the descriptor is overwritten in place, it is left empty.
        let in_place = Output::in_place(&out, false).unwrap();
        let error = to_vmdk(&raw, &options).progress(&stop).run_to(in_place).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert_eq!(std::fs::read(&out).unwrap(), b"", "{layout}");
    }
}
