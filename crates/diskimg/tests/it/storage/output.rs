//! Output files: complete or absent after errors and cancellation.

use diskimg::extent::Kind;
use diskimg::storage::sink::Sink;
use diskimg::storage::source::{MemorySource, Source, SourceError};
use diskimg::{
    Backing, Convert, Create, Durability, ErrorKind, Format, Image, OpenOptions, Options, Output,
};
use diskimg_testkit::disk::{self, Disk, Fill, Run};
use diskimg_testkit::tool::{LoopDevice, assert_qemu_check, qemu_bytes, run, try_run};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn sample() -> Disk {
    Disk {
        size: 5 << 20,
        runs: vec![
            Run { at: 0, len: 1 << 20, fill: Fill::Noise(5) },
            Run { at: 3 << 20, len: 1 << 20, fill: Fill::Words(6) },
        ],
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn raw(path: &Path) -> Image {
    OpenOptions::new().format(Format::Raw).open(path).unwrap()
}

#[test]
fn a_cancelled_conversion_leaves_the_old_target_and_no_other_file() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("a.raw"), dir.path().join("out"));
    sample().write(&source);
    std::fs::write(&out, b"old").unwrap();
    let stop = |_| ControlFlow::Break(());
    let error =
        Convert::new(raw(&source)).format(Format::Qcow2).progress(&stop).run(&out).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(std::fs::read(&out).unwrap(), b"old");
    assert_eq!(names(dir.path()), ["a.raw", "out"]);
}

#[test]
fn a_conversion_can_be_cancelled_until_its_output_is_renamed() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("a.raw"), dir.path().join("out"));
    sample().write(&source);
    std::fs::write(&out, b"old").unwrap();
    // Progress is complete for the first time when the last byte is written, for the second time
    // when everything is flushed.
    let complete = AtomicU64::new(0);
    let stop = |p: diskimg::Progress| match p.done == p.total {
        true if complete.fetch_add(1, Ordering::Relaxed) > 0 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let error = Convert::new(raw(&source)).progress(&stop).threads(1).run(&out).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(complete.into_inner() > 1);
    assert_eq!(std::fs::read(&out).unwrap(), b"old");
    assert_eq!(names(dir.path()), ["a.raw", "out"]);
}

#[test]
fn a_cancelled_creation_leaves_the_old_image_and_no_other_file() {
    let flat = "subformat=twoGbMaxExtentFlat,preallocation=full";
    for (format, options) in [
        (Format::Raw, "preallocation=full"),
        (Format::Qcow2, "preallocation=full"),
        (Format::Vmdk, flat),
    ] {
        for at in [0, 128 << 20] {
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path().join("out");
            std::fs::write(&out, b"old").unwrap();
            let stop = |p: diskimg::Progress| {
                assert_eq!(p.total, 6 << 30);
                if p.done >= at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let error = Create::new(format)
                .size(6 << 30)
                .options(Options::parse(options).unwrap())
                .progress(&stop)
                .run(&out)
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Cancelled, "{format} at {at}");
            assert_eq!(std::fs::read(&out).unwrap(), b"old");
            assert_eq!(names(dir.path()), ["out"]);
        }
    }
}

#[test]
fn a_huge_image_is_created_in_few_steps() {
    let dir = tempfile::tempdir().unwrap();
    let (out, calls) = (dir.path().join("out"), AtomicU64::new(0));
    let count = |_| {
        calls.fetch_add(1, Ordering::Relaxed);
        ControlFlow::Continue(())
    };
    let options = Options::parse("cluster_size=2M").unwrap();
    let create = Create::new(Format::Qcow2).size(1 << 61).options(options);
    create.progress(&count).run(&out).unwrap();
    assert!(calls.into_inner() < 5000);
    assert_eq!(Image::open(&out).unwrap().size(), 1 << 61);
}

/// Opens an unallocated qcow2 image of two exbibytes.
fn huge_image() -> Image {
    let mut file = vec![0; 6 << 20];
    let fields: [(usize, &[u8]); 7] = [
        (0, b"QFI\xfb\0\0\0\x03"),
        (20, &21u32.to_be_bytes()),
        (24, &(1u64 << 41 << 20).to_be_bytes()),
        (36, &(4u32 << 20).to_be_bytes()),
        (40, &(2u64 << 20).to_be_bytes()),
        (56, &1u32.to_be_bytes()),
        (96, &[0, 0, 0, 4, 0, 0, 0, 112]),
    ];
    for (at, bytes) in fields {
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }
    file.resize(34 << 20, 0);
    let source = MemorySource::new(file);
    OpenOptions::new().open_source(Arc::new(source), "huge.qcow2").unwrap()
}

#[test]
fn an_operation_on_a_huge_unallocated_disk_can_be_cancelled() {
    let calls = AtomicU64::new(0);
    let stop = |_| match calls.fetch_add(1, Ordering::Relaxed) {
        0..3 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    let output = Output::to_sink(Arc::new(diskimg::storage::sink::MemorySink::new()));
    let error = Convert::new(huge_image())
        .format(Format::Qcow2)
        .options(Options::parse("cluster_size=2M").unwrap())
        .progress(&stop)
        .run_to(output)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let error =
        diskimg::Compare::new(&huge_image(), &huge_image()).progress(&stop).run().unwrap_err();
    assert_eq!(error.error.kind(), ErrorKind::Cancelled);
}

#[test]
fn a_cancelled_conversion_in_place_leaves_no_valid_image() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("a.raw"), dir.path().join("out"));
    sample().write(&source);
    for format in [Format::Qcow2, Format::Vmdk] {
        // Like a device that contains an image.
        Convert::new(raw(&source)).format(format).run(&out).unwrap();
        let stop = |p: diskimg::Progress| {
            if p.done > 1 << 20 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let error = Convert::new(raw(&source))
            .format(format)
            .progress(&stop)
            .run_to(Output::in_place(&out, false).unwrap())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        Image::open(&out).map(|i| assert_eq!(i.format(), Format::Raw)).unwrap();
    }
}

#[test]
fn a_rate_limited_conversion_can_be_cancelled_while_it_waits() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("a.raw");
    sample().write(&source);
    let calls = AtomicU64::new(0);
    let stop = |_| match calls.fetch_add(1, Ordering::Relaxed) {
        0..4 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    // The first task alone would take days.
    let convert = Convert::new(raw(&source)).rate_limit(1).progress(&stop);
    let error = convert.run(dir.path().join("out")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

#[test]
fn progress_rises_from_zero_to_the_total() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("a.raw");
    sample().write(&source);
    let seen = std::sync::Mutex::new(Vec::new());
    let record = |p: diskimg::Progress| {
        seen.lock().unwrap().push((p.done, p.total));
        ControlFlow::Continue(())
    };
    Convert::new(raw(&source)).progress(&record).run(dir.path().join("b")).unwrap();
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen.first(), Some(&(0, 5 << 20)));
    assert_eq!(seen.last(), Some(&(5 << 20, 5 << 20)));
    assert!(seen.is_sorted());
}

#[test]
fn converting_onto_a_file_of_the_sources_chain_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    sample().write(&path("base.raw"));
    let before = std::fs::read(path("base.raw")).unwrap();
    run(
        "qemu-img",
        [
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            "base.raw",
            "-F",
            "raw",
            path("top.qcow2").to_str().unwrap(),
        ],
    );
    std::os::unix::fs::symlink("base.raw", path("link")).unwrap();
    std::fs::hard_link(path("base.raw"), path("hard")).unwrap();
    for target in ["base.raw", "top.qcow2", "link", "hard"] {
        let image = Image::open(path("top.qcow2")).unwrap();
        let error = Convert::new(image).run(path(target)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{target}");
    }
    assert!(std::fs::read(path("base.raw")).unwrap() == before);
}

#[test]
fn a_data_file_that_would_replace_a_file_of_the_sources_chain_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    sample().write(&path("a.raw"));
    sample().write(&path("base.raw"));
    let backing = || Backing::new("base.raw").with_format("raw");
    let before = std::fs::read(path("a.raw")).unwrap();
    for data_file in ["a.raw", "./base.raw"] {
        let mut options = Options::default();
        options.set("data_file", data_file);
        let error = Convert::new(raw(&path("a.raw")))
            .format(Format::Qcow2)
            .options(options)
            .backing(backing())
            .run(path("out"))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{data_file}");
    }
    assert!(std::fs::read(path("a.raw")).unwrap() == before);
    assert_eq!(names(dir.path()), ["a.raw", "base.raw"]);
}

#[test]
fn an_output_that_cannot_be_created_is_an_error_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("a.raw");
    sample().write(&source);
    for target in ["no/such/dir/out", "."] {
        let error = Convert::new(raw(&source)).run(dir.path().join(target)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{target}");
        assert!(error.path().is_some(), "{error}");
    }
    assert_eq!(names(dir.path()), ["a.raw"]);
}

/// A sink that is full after `capacity` bytes.
#[derive(Debug)]
struct FullSink {
    capacity: AtomicU64,
}

impl Sink for FullSink {
    fn write_all_at(&self, buf: &[u8], _offset: u64) -> io::Result<()> {
        let len = buf.len() as u64;
        let written = self
            .capacity
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |r| r.checked_sub(len));
        written.map(drop).map_err(|_| io::ErrorKind::StorageFull.into())
    }

    fn is_zeroed(&self) -> bool {
        true
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A sink that counts how often the system is asked to begin writing to the disk.
#[derive(Debug, Default)]
struct FlushedSink {
    started: AtomicU64,
    flushed: AtomicU64,
}

impl Sink for FlushedSink {
    fn write_all_at(&self, _buf: &[u8], _offset: u64) -> io::Result<()> {
        Ok(())
    }

    fn is_zeroed(&self) -> bool {
        true
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn start_flush(&self) {
        assert_eq!(self.flushed.load(Ordering::Relaxed), 0, "all is written");
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    fn flush(&self) -> io::Result<()> {
        self.flushed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn an_output_that_will_be_flushed_is_written_back_meanwhile() {
    let source: Arc<dyn Source> = Arc::new(MemorySource::new(vec![1; 100 << 20]));
    for (durability, started, flushed) in [(Durability::Flushed, 3, 1), (Durability::Cached, 0, 0)]
    {
        let sink = Arc::new(FlushedSink::default());
        let raw = OpenOptions::new().format(Format::Raw);
        Convert::new(raw.open_source(Arc::clone(&source), "source").unwrap())
            .durability(durability)
            .run_to(Output::to_sink(sink.clone()))
            .unwrap();
        assert_eq!(sink.started.load(Ordering::Relaxed), started, "{durability:?}");
        assert_eq!(sink.flushed.load(Ordering::Relaxed), flushed, "{durability:?}");
    }
}

#[test]
fn a_full_disk_is_an_error_at_any_point() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("a.raw");
    sample().write(&source);
    let targets = [
        (Format::Raw, "", false),
        (Format::Qcow2, "", false),
        (Format::Qcow2, "", true),
        (Format::Vmdk, "", false),
        (Format::Vmdk, "subformat=streamOptimized", true),
    ];
    for (format, options, compress) in targets {
        let run = |capacity| {
            Convert::new(raw(&source))
                .format(format)
                .options(Options::parse(options).unwrap())
                .compress(compress)
                .run_to(Output::to_sink(Arc::new(FullSink { capacity: AtomicU64::new(capacity) })))
        };
        run(64 << 20).unwrap();
        for capacity in [0, 511, 4096, 100_000, 700_000, 1 << 20] {
            let error = run(capacity).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io, "{format} {capacity}");
            let io = error.io_error().map(io::Error::kind);
            assert_eq!(io, Some(io::ErrorKind::StorageFull), "{format} {capacity}: {error}");
        }
    }
}

#[test]
fn streams_can_be_written_to_a_pipe_and_other_formats_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("a.raw"), dir.path().join("piped"));
    sample().write(&source);
    for (format, options) in [(Format::Raw, ""), (Format::Vmdk, "subformat=streamOptimized")] {
        let file = std::fs::File::create(&out).unwrap();
        Convert::new(raw(&source))
            .format(format)
            .options(Options::parse(options).unwrap())
            .run_to(Output::writer(file))
            .unwrap();
        assert!(qemu_bytes(&out, format.name()) == sample().bytes(), "{format}");
    }
    for format in [Format::Qcow2, Format::Vmdk] {
        let error = Convert::new(raw(&source))
            .format(format)
            .run_to(Output::writer(io::sink()))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{format}");
    }
}

#[test]
fn a_fully_preallocated_raw_image_can_be_written_to_a_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("a.raw"), dir.path().join("piped"));
    let mut bytes = vec![0; 1 << 20];
    bytes.iter_mut().step_by(8192).for_each(|b| *b = 1);
    std::fs::write(&source, &bytes).unwrap();
    Convert::new(raw(&source))
        .options(Options::parse("preallocation=full").unwrap())
        .run_to(Output::writer(std::fs::File::create(&out).unwrap()))
        .unwrap();
    assert!(std::fs::read(&out).unwrap() == bytes);
}

#[test]
fn an_existing_raw_target_is_overwritten_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("a.raw"), dir.path().join("out"));
    sample().write(&source);
    let old = disk::noise(9, 6 << 20);
    std::fs::write(&out, &old).unwrap();
    Convert::new(raw(&source)).run_existing(&out).unwrap();
    let new = std::fs::read(&out).unwrap();
    assert!(new[..5 << 20] == sample().bytes(), "zeros do not overwrite the old bytes");
    assert!(new[5 << 20..] == old[5 << 20..], "bytes beyond the source are changed");

    std::fs::write(&out, &old[..1000]).unwrap();
    let error = Convert::new(raw(&source)).run_existing(&out).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "too small");
    let error = Convert::new(raw(&source)).run_existing(dir.path().join("none")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "missing");
}

#[test]
fn an_existing_qcow2_target_keeps_its_options_and_its_tail() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("a.raw"), dir.path().join("out.qcow2"));
    sample().write(&source);
    let name = out.to_str().unwrap();
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", name, "8M"]);
    run("qemu-io", ["-f", "qcow2", "-c", "write -q -P 9 0 8M", name]);
    Convert::new(raw(&source)).format(Format::Qcow2).run_existing(&out).unwrap();
    assert_qemu_check(&out, "qcow2");
    let mut expected = sample().bytes();
    expected.resize(8 << 20, 9);
    assert!(qemu_bytes(&out, "qcow2") == expected);
    let info = Image::open(&out).unwrap().info(0).unwrap();
    assert_eq!(info.cluster_size, Some(4096));
}

#[test]
#[ignore = "needs root and loop devices; ./test.sh runs it as root"]
fn a_device_is_recognized_under_another_device_node() {
    let dir = tempfile::tempdir().unwrap();
    let (file, node) = (dir.path().join("device"), dir.path().join("node"));
    sample().write(&file);
    let device = LoopDevice::attach(&file);
    let number = std::fs::metadata(device.path()).unwrap().rdev();
    let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xfff00);
    let mknod =
        try_run("mknod", [node.to_str().unwrap(), "b", &major.to_string(), &minor.to_string()]);
    if mknod.status.success() {
        let error = Convert::new(raw(device.path())).run(&node).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    }
}

#[test]
#[ignore = "needs root and loop devices; ./test.sh runs it as root"]
fn a_device_that_is_too_small_is_left_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let (source, file) = (dir.path().join("a.raw"), dir.path().join("device"));
    sample().write(&source);
    let before = disk::noise(8, 4 << 20);
    std::fs::write(&file, &before).unwrap();
    let device = LoopDevice::attach(&file);
    let error = Convert::new(raw(&source)).run(device.path()).unwrap_err();
    assert_eq!(error.io_error().map(io::Error::kind), Some(io::ErrorKind::StorageFull), "{error}");
    assert!(std::fs::read(device.path()).unwrap() == before);
}

#[test]
#[ignore = "needs root and loop devices; ./test.sh runs it as root"]
fn an_existing_image_on_a_device_keeps_its_bytes_beyond_the_source() {
    let dir = tempfile::tempdir().unwrap();
    let (source, file) = (dir.path().join("a.raw"), dir.path().join("device"));
    sample().write(&source);
    std::fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
    let device = LoopDevice::attach(&file);
    let name = device.path().to_str().unwrap();
    run("qemu-img", ["create", "-q", "-f", "qcow2", name, "8M"]);
    run("qemu-io", ["-f", "qcow2", "-c", "write -q -P 1 4M 4M", name]);
    let mut expected = qemu_bytes(device.path(), "qcow2");
    Convert::new(raw(&source)).format(Format::Qcow2).run_existing(device.path()).unwrap();
    let bytes = sample().bytes();
    expected[..bytes.len()].copy_from_slice(&bytes);
    assert!(qemu_bytes(device.path(), "qcow2") == expected);
    assert_qemu_check(device.path(), "qcow2");
}

#[test]
#[ignore = "needs root and loop devices; ./test.sh runs it as root"]
fn a_data_file_on_the_sources_device_is_refused_before_it_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let (file, other) = (dir.path().join("device"), dir.path().join("other"));
    sample().write(&file);
    std::fs::write(&other, disk::noise(4, 8 << 20)).unwrap();
    let (device, other) = (LoopDevice::attach(&file), LoopDevice::attach(&other));
    std::os::unix::fs::symlink(device.path(), dir.path().join("link")).unwrap();
    let convert = |data_file: &Path| {
        let options = format!("data_file={},data_file_raw=on", data_file.display());
        let options = Options::parse(&options).unwrap();
        Convert::new(raw(device.path())).format(Format::Qcow2).options(options)
    };
    let out = dir.path().join("out");
    let error = convert(Path::new("link")).run(&out).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.path().is_some_and(|path| path != out), "{error}");
    assert!(std::fs::read(device.path()).unwrap() == sample().bytes());
    convert(other.path()).run(&out).unwrap();
    assert!(qemu_bytes(&out, "qcow2") == sample().bytes());
}

#[test]
#[ignore = "needs root and loop devices; ./test.sh runs it as root"]
fn a_stream_on_a_device_is_found_without_a_footer_at_the_end_of_the_device() {
    let dir = tempfile::tempdir().unwrap();
    let (source, file) = (dir.path().join("a.raw"), dir.path().join("device"));
    sample().write(&source);
    // Old data fills the device to its end.
    std::fs::write(&file, disk::noise(9, 16 << 20)).unwrap();
    let device = LoopDevice::attach(&file);
    let options = Options::parse("subformat=streamOptimized").unwrap();
    let convert = Convert::new(raw(&source)).format(Format::Vmdk).options(options);
    convert.run(device.path()).unwrap();
    let image = OpenOptions::new().format(Format::Vmdk).open(device.path()).unwrap();
    let mut bytes = vec![0; sample().size as usize];
    image.read_at(&mut bytes, 0).unwrap();
    assert!(bytes == sample().bytes());
    assert!(qemu_bytes(device.path(), "vmdk") == sample().bytes());
    assert_qemu_check(device.path(), "vmdk");
}

#[test]
fn bytes_beyond_the_source_read_as_zeros_on_any_target() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let bytes = disk::noise(3, 70_001);
    std::fs::write(path("a.raw"), &bytes).unwrap();
    std::fs::write(path("base.raw"), vec![7; 300_000]).unwrap();
    let convert = |format, options: &str| {
        let options = Options::parse(options).unwrap();
        Convert::new(raw(&path("a.raw"))).format(format).options(options)
    };
    for (format, options, size) in [
        (Format::Raw, "size=200192", 200_192),
        (Format::Qcow2, "", 70_144),
        (Format::Qcow2, "size=256k", 256 << 10),
        (Format::Vmdk, "", 70_144),
    ] {
        let mut expected = bytes.clone();
        expected.resize(size, 0);
        // Like a device that was used before.
        std::fs::write(path("used"), vec![0xff; 1 << 20]).unwrap();
        let output = Output::in_place(path("used"), false).unwrap();
        convert(format, options).run_to(output).unwrap();
        assert!(qemu_bytes(&path("used"), format.name()) == expected, "{format} {options}");
    }
    let backing = Backing::new("base.raw").with_format("raw");
    convert(Format::Qcow2, "size=256k").backing(backing).run(path("top.qcow2")).unwrap();
    let mut expected = bytes;
    expected.resize(256 << 10, 0);
    assert!(qemu_bytes(&path("top.qcow2"), "qcow2") == expected, "with a larger backing file");
}

#[test]
fn several_inputs_are_joined_at_sector_boundaries() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let parts = [disk::noise(1, 100_000), disk::noise(2, 512), disk::noise(3, 70_001)];
    let mut expected = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        std::fs::write(path(&i.to_string()), part).unwrap();
        expected.resize(expected.len().next_multiple_of(512), 0);
        expected.extend(part);
    }
    let join = |format| {
        Convert::new(raw(&path("0"))).append(raw(&path("1"))).append(raw(&path("2"))).format(format)
    };
    join(Format::Raw).run(path("all.raw")).unwrap();
    assert!(std::fs::read(path("all.raw")).unwrap() == expected);
    join(Format::Qcow2).run(path("all.qcow2")).unwrap();
    run(
        "qemu-img",
        ["compare", path("all.raw").to_str().unwrap(), path("all.qcow2").to_str().unwrap()],
    );
}

#[test]
fn salvage_replaces_unreadable_data_with_zeros_and_reports_it() {
    let dir = tempfile::tempdir().unwrap();
    let (source, image) = (dir.path().join("a.raw"), dir.path().join("a.qcow2"));
    sample().write(&source);
    Convert::new(raw(&source)).format(Format::Qcow2).compress(true).run(&image).unwrap();
    // Damage one of the compressed clusters.
    let opened = Image::open(&image).unwrap();
    let stream = opened.extents(3 << 20..4 << 20).unwrap().nth(5).unwrap().unwrap();
    let Kind::Encoded(encoded) = &stream.kind else { panic!("not compressed: {stream:?}") };
    let mut bytes = std::fs::read(&image).unwrap();
    let start = encoded.host.offset as usize;
    bytes[start..start + 16].fill(0xff);
    std::fs::write(&image, bytes).unwrap();

    let out = dir.path().join("out");
    let error = Convert::new(Image::open(&image).unwrap()).run(&out).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(!out.exists());

    let report = Convert::new(Image::open(&image).unwrap()).salvage(true).run(&out).unwrap();
    assert!(!report.salvaged.is_empty());
    let (saved, expected) = (std::fs::read(&out).unwrap(), sample().bytes());
    for (i, (a, b)) in saved.iter().zip(&expected).enumerate() {
        let lost = report.salvaged.iter().any(|s| s.guest.contains(&(i as u64)));
        assert!(if lost { *a == 0 } else { a == b }, "byte {i}");
    }
}

/// A source of which nothing can be read.
#[derive(Debug)]
struct Unreadable(u64);

impl Source for Unreadable {
    fn len(&self) -> u64 {
        self.0
    }

    fn read_exact_at(&self, _buf: &mut [u8], _offset: u64) -> Result<(), SourceError> {
        Err(io::Error::other("bad sector").into())
    }
}

#[test]
fn salvage_is_exact_wherever_the_lost_bytes_start_and_end() {
    let dir = tempfile::tempdir().unwrap();
    let open = |source: Arc<dyn Source>| {
        OpenOptions::new().format(Format::Raw).open_source(source, "part").unwrap()
    };
    for (first, lost) in [(3584, 4608), (3584, 4400), (512, 4097), (512, 100_000), (0, 4097)] {
        let out = dir.path().join("out");
        let report = Convert::new(open(Arc::new(MemorySource::new(vec![5; first]))))
            .append(open(Arc::new(Unreadable(lost))))
            .salvage(true)
            .run(&out)
            .unwrap();
        let total: u64 = report.salvaged.iter().map(|s| s.guest.end - s.guest.start).sum();
        assert_eq!(total, lost, "{first} and {lost}");
        let mut expected = vec![5; first];
        expected.resize(first + lost as usize, 0);
        assert!(std::fs::read(out).unwrap() == expected);
    }
}

#[test]
fn compressing_a_raw_image_is_refused_with_qemu_imgs_message() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("a.raw");
    sample().write(&source);
    let error = Convert::new(raw(&source)).compress(true).run(dir.path().join("b")).unwrap_err();
    assert!(
        error.to_string().contains("Compression not supported for this file format"),
        "{error}"
    );
}
