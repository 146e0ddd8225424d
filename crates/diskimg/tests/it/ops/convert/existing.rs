//! Conversion into existing images (`-n`), compared with qemu-img.

use diskimg::{
    Convert, Error, ErrorKind, ExternalFiles, Format, Image, OpenOptions, Options, Report,
};
use diskimg_testkit::disk;
use diskimg_testkit::tool::{assert_qemu_check, qemu_bytes, run};
use std::fs;
use std::path::{Path, PathBuf};

struct TestDir(tempfile::TempDir);

impl TestDir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Creates an image with qemu-img and fills it with bytes of value 9.
    fn filled(&self, name: &str, format: &str, options: &str, size: &str) -> PathBuf {
        let path = self.path(name);
        let file = path.to_str().unwrap();
        run("qemu-img", ["create", "-q", "-f", format, "-o", options, file, size]);
        let end = Image::open(&path).unwrap().size();
        run("qemu-io", ["-f", format, "-c", &format!("write -q -P 9 0 {end}"), file]);
        path
    }

    /// Creates a raw file of `len` bytes of noise.
    fn source(&self, len: usize) -> PathBuf {
        let path = self.path("a.raw");
        fs::write(&path, disk::noise(4, len)).unwrap();
        path
    }
}

fn convert(source: &Path, format: Format) -> Convert<'static> {
    Convert::new(OpenOptions::new().format(Format::Raw).open(source).unwrap()).format(format)
}

fn onto(source: &Path, target: &Path, format: Format) -> Result<Report, Error> {
    convert(source, format).run_existing(target)
}

#[test]
fn the_target_keeps_its_bytes_beyond_the_end_of_the_source() {
    for (format, name, options) in [
        (Format::Qcow2, "qcow2", "cluster_size=64k"),
        (Format::Qcow2, "qcow2", "cluster_size=512"),
        (Format::Vmdk, "vmdk", "subformat=monolithicSparse"),
        (Format::Vmdk, "vmdk", "subformat=streamOptimized"),
    ] {
        // The last length ends within the target's last sector.
        for len in [1, 511, 512, 300_000, 1_000_001, 1_000_440] {
            let dir = TestDir::new();
            let source = dir.source(len);
            let (ours, theirs) = if options.ends_with("streamOptimized") {
                // qemu-io cannot write to stream-optimized images.
                let filled = dir.filled("filled", "vmdk", "adapter_type=ide", "1000001");
                let stream = Options::parse(options).unwrap();
                let convert = Convert::new(Image::open(&filled).unwrap()).format(format);
                convert.options(stream).run(dir.path("ours")).unwrap();
                (dir.path("ours"), filled)
            } else {
                let filled = |file| dir.filled(file, name, options, "1000001");
                (filled("ours"), filled("theirs"))
            };
            onto(&source, &ours, format).unwrap();
            let files = [&source, &theirs].map(|path| path.to_str().unwrap());
            run("qemu-img", ["convert", "-n", "-f", "raw", "-O", name, files[0], files[1]]);
            let found = qemu_bytes(&ours, name);
            assert!(found == qemu_bytes(&theirs, name), "{options}, {len} bytes");
            assert_eq!(found.len(), 1_000_448);
            assert_qemu_check(&ours, name);
        }
    }
}

#[test]
fn a_target_declared_zero_reads_as_zeros_beyond_the_source() {
    for (format, name) in [(Format::Qcow2, "qcow2"), (Format::Vmdk, "vmdk")] {
        let dir = TestDir::new();
        let source = dir.source(300_000);
        let target = dir.path("t");
        run("qemu-img", ["create", "-q", "-f", name, target.to_str().unwrap(), "1000001"]);
        let report = convert(&source, format).target_is_zero(true).run_existing(&target).unwrap();
        assert_eq!(report.guest_bytes, 300_000);
        let mut expected = fs::read(&source).unwrap();
        expected.resize(1_000_448, 0);
        assert!(qemu_bytes(&target, name) == expected, "{name}");
    }
}

#[test]
fn a_target_of_several_files_keeps_them() {
    let layouts = [
        ("monolithicFlat", "monolithicFlat", 2),
        ("twoGbMaxExtentSparse", "twoGbMaxExtentSparse", 2),
        ("twoGbMaxExtentFlat", "twoGbMaxExtentFlat", 2),
        ("monolithicFlat", "vmfs", 2),
    ];
    for (subformat, layout, files) in layouts {
        let dir = TestDir::new();
        let source = dir.source(300_000);
        let target = dir.filled("t.vmdk", "vmdk", &format!("subformat={subformat}"), "1M");
        let text = fs::read_to_string(&target).unwrap();
        let text = text.replace("monolithicFlat", layout);
        fs::write(&target, &text).unwrap();
        onto(&source, &target, Format::Vmdk).unwrap();
        let mut expected = fs::read(&source).unwrap();
        expected.resize(300_032, 0);
        expected.resize(1 << 20, 9);
        let flat = text.replace(layout, subformat);
        let now = fs::read_to_string(&target).unwrap();
        assert!(now.contains(layout) && now != text, "the content ID changes: {now}");
        fs::write(&target, flat).unwrap();
        assert!(qemu_bytes(&target, "vmdk") == expected, "{layout}");
        assert_eq!(fs::read_dir(dir.path(".")).unwrap().count(), files + 1);
    }
}

#[test]
fn a_data_file_outside_of_the_directory_needs_the_policy() {
    let dir = TestDir::new();
    let source = dir.source(300_000);
    fs::create_dir(dir.path("subdir")).unwrap();
    let (data, target) = (dir.path("data"), dir.path("subdir/t.qcow2"));
    let options = format!("data_file={},data_file_raw=on", data.to_str().unwrap());
    let file = target.to_str().unwrap();
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", &options, file, "1M"]);
    let before = fs::read(&target).unwrap();
    let error = onto(&source, &target, Format::Qcow2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(fs::read(&target).unwrap() == before);
    let any = || OpenOptions::new().external_files(ExternalFiles::Any);
    convert(&source, Format::Qcow2).backing_options(any()).run_existing(&target).unwrap();
    let mut expected = fs::read(&source).unwrap();
    expected.resize(1 << 20, 0);
    assert!(fs::read(&data).unwrap() == expected);
    assert_qemu_check(&target, "qcow2");
    let own = OpenOptions::new().format(Format::Raw).open(&data).unwrap();
    let own = Convert::new(own).format(Format::Qcow2).backing_options(any());
    assert_eq!(own.run_existing(&target).unwrap_err().kind(), ErrorKind::Refused);
}

/// What was written would be lost without a message.
#[test]
fn a_file_of_the_target_that_another_process_replaces_is_an_error() {
    for (format, name, options, replaced) in [
        (Format::Qcow2, "qcow2", "data_file=DIR/data", "data"),
        (Format::Qcow2, "qcow2", "data_file=DIR/data", "t"),
        (Format::Vmdk, "vmdk", "subformat=monolithicFlat", "t-flat.vmdk"),
        (Format::Vmdk, "vmdk", "subformat=twoGbMaxExtentSparse", "t-s001.vmdk"),
    ] {
        let dir = TestDir::new();
        let source = dir.source(1 << 20);
        let options = options.replace("DIR", dir.path(".").to_str().unwrap());
        let target = dir.filled(if name == "vmdk" { "t.vmdk" } else { "t" }, name, &options, "1M");
        let path = dir.path(replaced);
        let swap = |progress: diskimg::Progress| {
            if progress.done == progress.total {
                fs::copy(&path, dir.path("new")).unwrap();
                fs::rename(dir.path("new"), &path).unwrap();
            }
            std::ops::ControlFlow::Continue(())
        };
        let error = convert(&source, format).progress(&swap).run_existing(&target).unwrap_err();
        assert!(error.to_string().contains("replaced or removed it"), "{replaced}: {error}");
        assert!(error.to_string().contains(replaced), "{replaced}: {error}");
        onto(&source, &target, format).unwrap();
    }
}

/// What is written into the overlay must not be written into its backing file.
#[test]
fn a_file_of_the_target_is_none_of_its_own_backing_chain() {
    let dir = TestDir::new();
    let source = dir.source(1 << 20);
    let path = |name: &str| dir.path(name).to_str().unwrap().to_owned();
    fs::write(path("base.raw"), vec![5; 1 << 20]).unwrap();
    let (options, base) = (format!("data_file={}", path("dd.raw")), path("base.raw"));
    let create = ["create", "-q", "-f", "qcow2", "-o", &options, "-F", "raw", "-b", &base];
    run("qemu-img", create.into_iter().chain([path("t").as_str()]).collect::<Vec<_>>());
    fs::remove_file(path("dd.raw")).unwrap();
    fs::hard_link(path("base.raw"), path("dd.raw")).unwrap();
    let text = |id: u32, parent: &str| {
        format!(
            "# Disk DescriptorFile\nversion=1\nCID={id:08x}\n{parent}\n\
             createType=\"monolithicFlat\"\nRW 2048 FLAT \"base.raw\" 0\n"
        )
    };
    fs::write(path("p.vmdk"), text(1, "parentCID=ffffffff")).unwrap();
    let parent = "parentCID=00000001\nparentFileNameHint=\"p.vmdk\"";
    fs::write(path("v.vmdk"), text(2, parent)).unwrap();
    for (name, format) in [("t", Format::Qcow2), ("v.vmdk", Format::Vmdk)] {
        let before = fs::read(path(name)).unwrap();
        let error = onto(&source, &dir.path(name), format).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{name}: {error}");
        assert!(error.to_string().contains("its own backing file"), "{name}: {error}");
        assert!(fs::read(path("base.raw")).unwrap() == vec![5; 1 << 20], "{name}");
        assert!(fs::read(path(name)).unwrap() == before, "{name}");
    }
    // The file with which the source is compared.
    fs::remove_file(path("dd.raw")).unwrap();
    fs::write(path("dd.raw"), vec![5; 1 << 20]).unwrap();
    let backing = diskimg::Backing::new(path("dd.raw")).with_format("raw");
    // Otherwise, the lock on the data file would prevent it.
    let unlocked = OpenOptions::new().force_share(true);
    let compared = convert(&source, Format::Qcow2).backing(backing).backing_options(unlocked);
    let error = compared.run_existing(dir.path("t")).unwrap_err();
    assert!(error.to_string().contains("a file of the target"), "{error}");
    assert!(fs::read(path("dd.raw")).unwrap() == vec![5; 1 << 20]);
    onto(&source, &dir.path("t"), Format::Qcow2).unwrap();
    assert!(fs::read(path("base.raw")).unwrap() == vec![5; 1 << 20]);
}

#[test]
fn a_sparse_vmdk_keeps_its_descriptor() {
    for create_type in ["monolithicSparse", "MONOLITHICsparse", "custom"] {
        let dir = TestDir::new();
        let source = dir.source(300_000);
        let target = dir.filled("t.vmdk", "vmdk", "hwversion=7,adapter_type=lsilogic", "1M");
        let mut file = fs::read(&target).unwrap();
        let text = String::from_utf8(file[512..21 * 512].to_vec()).unwrap();
        let mut text = text
            .trim_end_matches('\0')
            .replace("createType=\"monolithicSparse\"", &format!("createType=\"{create_type}\""))
            // As written by qemu-img with `toolsversion`.
            .replace("\"2147483647\"", "\"unknown\"")
            .into_bytes();
        text.resize(20 * 512, 0);
        file[512..21 * 512].copy_from_slice(&text);
        fs::write(&target, file).unwrap();
        onto(&source, &target, Format::Vmdk).unwrap();
        let file = fs::read(&target).unwrap();
        let text = String::from_utf8_lossy(&file[512..21 * 512]);
        assert!(text.contains(&format!("createType=\"{create_type}\"")), "{create_type}: {text}");
        assert!(text.contains("ddb.virtualHWVersion = \"7\""), "{text}");
        assert!(text.contains("ddb.adapterType = \"lsilogic\""), "{text}");
        assert_eq!(qemu_bytes(&target, "vmdk").len(), 1 << 20);
        assert_eq!(fs::read_dir(dir.path(".")).unwrap().count(), 2);
    }
}

#[test]
fn a_truncated_vmdk_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let target = path("t.vmdk");
    run("qemu-img", ["create", "-q", "-f", "vmdk", target.to_str().unwrap(), "16M"]);
    let writes = ["-f", "vmdk", "-c", "write -P 1 0 4M", "-c", "write -P 2 8M 4M"];
    run("qemu-io", writes.into_iter().chain(target.to_str()).collect::<Vec<_>>());
    let len = fs::metadata(&target).unwrap().len();
    fs::write(path("r.raw"), vec![7; 16 << 20]).unwrap();
    for missing in [512, 2 << 20] {
        fs::File::options().write(true).open(&target).unwrap().set_len(len - missing).unwrap();
        let before = fs::read(&target).unwrap();
        let error = onto(&path("r.raw"), &target, Format::Vmdk).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(fs::read(&target).unwrap() == before, "{missing}");
    }
}

#[test]
fn a_descriptor_is_not_overwritten_as_its_own_extent() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("r.raw"), vec![7; 1 << 20]).unwrap();
    fs::write(path("flat"), vec![0; 2 << 20]).unwrap();
    fs::hard_link(path("flat"), path("other")).unwrap();
    let text = |lines: &str| {
        format!(
            "# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=ffffffff\n\
             createType=\"monolithicFlat\"\n{lines}\n"
        )
    };
    for lines in ["RW 2048 FLAT \"e.vmdk\" 0", "RW 1024 FLAT \"flat\" 0\nRW 1024 FLAT \"other\" 0"]
    {
        let mut bytes = text(lines).into_bytes();
        bytes.resize(1 << 20, b'\n');
        fs::write(path("e.vmdk"), &bytes).unwrap();
        assert!(onto(&path("r.raw"), &path("e.vmdk"), Format::Vmdk).is_err(), "{lines}");
        assert!(fs::read(path("e.vmdk")).unwrap() == bytes, "{lines}");
        assert!(fs::read(path("flat")).unwrap().iter().all(|&byte| byte == 0), "{lines}");
    }
}

#[test]
fn a_stream_with_other_names_is_not_emptied_while_its_rest_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("r.raw"), vec![7; 4 << 20]).unwrap();
    fs::write(path("small.raw"), vec![8; 1 << 20]).unwrap();
    let options = Options::parse("subformat=streamOptimized").unwrap();
    convert(&path("r.raw"), Format::Vmdk).options(options).run(path("t.vmdk")).unwrap();
    fs::hard_link(path("t.vmdk"), path("link.vmdk")).unwrap();
    let before = fs::read(path("t.vmdk")).unwrap();
    let error = onto(&path("small.raw"), &path("t.vmdk"), Format::Vmdk).unwrap_err();
    assert!(error.to_string().contains("cannot be replaced"), "{error}");
    assert!(fs::read(path("t.vmdk")).unwrap() == before);
}
