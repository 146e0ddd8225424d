//! Conversion into existing images (`-n`), compared with qemu-img.

use diskimg::{
    Convert, Error, ErrorKind, ExternalFiles, Format, Image, OpenOptions, Options, Report,
};
use diskimg_testkit::disk;
use diskimg_testkit::tool::{assert_qemu_check, qemu_bytes, run};
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
        std::fs::write(&path, disk::noise(4, len)).unwrap();
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
        let mut expected = std::fs::read(&source).unwrap();
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
        let text = std::fs::read_to_string(&target).unwrap();
        let text = text.replace("monolithicFlat", layout);
        std::fs::write(&target, &text).unwrap();
        onto(&source, &target, Format::Vmdk).unwrap();
        let mut expected = std::fs::read(&source).unwrap();
        expected.resize(300_032, 0);
        expected.resize(1 << 20, 9);
        let flat = text.replace(layout, subformat);
        let now = std::fs::read_to_string(&target).unwrap();
        assert!(now.contains(layout) && now != text, "the content ID changes: {now}");
        std::fs::write(&target, flat).unwrap();
        assert!(qemu_bytes(&target, "vmdk") == expected, "{layout}");
        assert_eq!(std::fs::read_dir(dir.path(".")).unwrap().count(), files + 1);
    }
}

#[test]
fn a_data_file_outside_of_the_directory_needs_the_policy() {
    let dir = TestDir::new();
    let source = dir.source(300_000);
    std::fs::create_dir(dir.path("subdir")).unwrap();
    let (data, target) = (dir.path("data"), dir.path("subdir/t.qcow2"));
    let options = format!("data_file={},data_file_raw=on", data.to_str().unwrap());
    let file = target.to_str().unwrap();
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", &options, file, "1M"]);
    let before = std::fs::read(&target).unwrap();
    let error = onto(&source, &target, Format::Qcow2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(std::fs::read(&target).unwrap() == before);
    let any = || OpenOptions::new().external_files(ExternalFiles::Any);
    convert(&source, Format::Qcow2).backing_options(any()).run_existing(&target).unwrap();
    let mut expected = std::fs::read(&source).unwrap();
    expected.resize(1 << 20, 0);
    assert!(std::fs::read(&data).unwrap() == expected);
    assert_qemu_check(&target, "qcow2");
    let own = OpenOptions::new().format(Format::Raw).open(&data).unwrap();
    let own = Convert::new(own).format(Format::Qcow2).backing_options(any());
    assert_eq!(own.run_existing(&target).unwrap_err().kind(), ErrorKind::Refused);
}

#[test]
fn a_sparse_vmdk_keeps_its_descriptor() {
    for create_type in ["monolithicSparse", "MONOLITHICsparse", "custom"] {
        let dir = TestDir::new();
        let source = dir.source(300_000);
        let target = dir.filled("t.vmdk", "vmdk", "hwversion=7,adapter_type=lsilogic", "1M");
        let mut file = std::fs::read(&target).unwrap();
        let text = String::from_utf8(file[512..21 * 512].to_vec()).unwrap();
        let mut text = text
            .trim_end_matches('\0')
            .replace("createType=\"monolithicSparse\"", &format!("createType=\"{create_type}\""))
            // As written by qemu-img with `toolsversion`.
            .replace("\"2147483647\"", "\"unknown\"")
            .into_bytes();
        text.resize(20 * 512, 0);
        file[512..21 * 512].copy_from_slice(&text);
        std::fs::write(&target, file).unwrap();
        onto(&source, &target, Format::Vmdk).unwrap();
        let file = std::fs::read(&target).unwrap();
        let text = String::from_utf8_lossy(&file[512..21 * 512]);
        assert!(text.contains(&format!("createType=\"{create_type}\"")), "{create_type}: {text}");
        assert!(text.contains("ddb.virtualHWVersion = \"7\""), "{text}");
        assert!(text.contains("ddb.adapterType = \"lsilogic\""), "{text}");
        assert_eq!(qemu_bytes(&target, "vmdk").len(), 1 << 20);
        assert_eq!(std::fs::read_dir(dir.path(".")).unwrap().count(), 2);
    }
}
