//! Disks far larger than their content.

use diskimg::storage::source::{Segment, Source};
use diskimg::{Convert, Create, Format, Image, OpenOptions, Output, compare};
use diskimg_testkit::disk::noise;
use diskimg_testkit::tool::{assert_qemu_check, run};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// A sparse raw file with a little at its beginning, middle and end.
fn sparse(path: &Path, size: u64) {
    let file = std::fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (i, at) in [0, size / 2 + 12_345, size - 70_000].into_iter().enumerate() {
        file.write_all_at(&noise(i as u64, 70_000), at).unwrap();
    }
}

/// A hole of any length.
#[derive(Debug)]
struct Hole(u64);

impl Source for Hole {
    fn len(&self) -> u64 {
        self.0
    }

    fn read_exact_at(&self, buf: &mut [u8], _offset: u64) -> io::Result<()> {
        buf.fill(0);
        Ok(())
    }

    fn segment_at(&self, _offset: u64) -> io::Result<Segment> {
        Ok(Segment { end: self.0, hole: true })
    }
}

fn hole(size: u64) -> Image {
    OpenOptions::new().format(Format::Raw).open_source(Arc::new(Hole(size)), "hole").unwrap()
}

fn raw(path: &Path) -> Image {
    OpenOptions::new().format(Format::Raw).open(path).unwrap()
}

#[test]
fn a_terabyte_of_nothing_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    sparse(&path("a.raw"), 1 << 40);
    for (format, limit) in [(Format::Qcow2, 4 << 20), (Format::Vmdk, 300 << 20)] {
        let out = path(format.name());
        Convert::new(raw(&path("a.raw"))).format(format).run(&out).unwrap();
        let len = std::fs::metadata(&out).unwrap().len();
        assert!(len < limit, "{format} output has {len} bytes");
        assert_qemu_check(&out, format.name());
        run(
            "qemu-img",
            ["compare", "-f", "raw", path("a.raw").to_str().unwrap(), out.to_str().unwrap()],
        );
        // And back: sparse again, the same bytes.
        let back = path("back.raw");
        Convert::new(Image::open(&out).unwrap()).run(&back).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert!(std::fs::metadata(&back).unwrap().blocks() * 512 < 1 << 20);
        let same = compare(&raw(&path("a.raw")), &raw(&back), false, None, None).unwrap();
        assert_eq!(same, diskimg::Comparison::Identical { size_mismatch: false });
    }
}

/// Hours, if it were gone through window by window.
#[test]
fn an_exbibyte_of_nothing_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let options = diskimg::Options::parse("cluster_size=2M").unwrap();
    Create::new(Format::Qcow2).size(1 << 60).options(options.clone()).run(path("a")).unwrap();
    let line = format!("RW {} ZERO", (1u64 << 60) / 512);
    let text = format!("# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n{line}\n");
    std::fs::write(path("b.vmdk"), text).unwrap();
    let images = [Image::open(path("a")).unwrap(), Image::open(path("b.vmdk")).unwrap()];
    for image in &images {
        let mut entries = Vec::new();
        let mut note = |entry: diskimg::MapEntry| {
            entries.push((entry.start, entry.length, entry.zero));
            Ok(())
        };
        diskimg::map(image, 0..u64::MAX, &mut note).unwrap();
        assert_eq!(entries, [(0, 1 << 60, true)]);
        let same = compare(image, &hole(1 << 60), false, None, None).unwrap();
        assert_eq!(same, diskimg::Comparison::Identical { size_mismatch: false });
    }
    for image in images {
        let convert = Convert::new(image).format(Format::Qcow2).options(options.clone());
        assert!(convert.verify(true).run(path("c")).unwrap().verified);
    }
}

/// The last bytes are found, wherever the steps over nothing end.
#[test]
fn what_stands_behind_long_runs_of_nothing_is_not_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for (clusters, at) in [("512", 77), ("64k", (3 << 40) + 4096), ("2M", (1 << 50) + 12_345)] {
        let options = diskimg::Options::parse(&format!("cluster_size={clusters}")).unwrap();
        let size = (at + 5_000u64).next_multiple_of(512) + 3072;
        let options_of = |convert: Convert<'static>| convert.options(options.clone());
        let source = Arc::new(Late { at, size });
        let late =
            || OpenOptions::new().format(Format::Raw).open_source(source.clone(), "late").unwrap();
        let convert = options_of(Convert::new(late()).format(Format::Qcow2));
        convert.verify(true).run(path("a")).unwrap();
        let image = Image::open(path("a")).unwrap();
        let same = compare(&late(), &image, false, None, None).unwrap();
        assert_eq!(same, diskimg::Comparison::Identical { size_mismatch: false });
        let mut bytes = [0; 300];
        image.read_at(&mut bytes, at).unwrap();
        assert_eq!(bytes, [9; 300], "{clusters}");
    }
}

/// A hole with 5,000 bytes of data in it.
#[derive(Debug)]
struct Late {
    at: u64,
    size: u64,
}

impl Source for Late {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        for (byte, at) in buf.iter_mut().zip(offset..) {
            *byte = if (self.at..self.at + 5_000).contains(&at) { 9 } else { 0 };
        }
        Ok(())
    }

    fn segment_at(&self, offset: u64) -> io::Result<Segment> {
        let (start, end) = (self.at / 4096 * 4096, (self.at + 5_000).min(self.size));
        Ok(match offset {
            _ if offset < start => Segment { end: start, hole: true },
            _ if offset < end => Segment { end, hole: false },
            _ => Segment { end: self.size, hole: true },
        })
    }
}

#[test]
fn an_l1_table_that_no_reader_takes_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.raw");
    sparse(&path, 1 << 40);
    // 512-byte clusters reach 128 GiB (specification, "size").
    let options = diskimg::Options::parse("cluster_size=512").unwrap();
    let error = Convert::new(raw(&path))
        .format(Format::Qcow2)
        .options(options)
        .run(dir.path().join("b"))
        .unwrap_err();
    assert_eq!(error.kind(), diskimg::ErrorKind::Limit);
    assert!(error.to_string().contains("cluster_size"), "{error}");
}

#[test]
fn a_conversion_can_be_stopped_in_the_midst_of_nothing() {
    let stop = |p: diskimg::Progress| {
        if p.done > 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    // To its end it would take hours.
    let convert = Convert::new(hole(7 << 60)).progress(&stop);
    let error = convert.run_to(Output::writer(io::sink())).unwrap_err();
    assert_eq!(error.kind(), diskimg::ErrorKind::Cancelled);
}

#[test]
fn images_that_together_exceed_every_disk_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    // 7 + 7 + 2 EiB and a little: 64 bits would hold the little.
    let convert = Convert::new(hole(7 << 60)).append(hole(7 << 60)).append(hole((2 << 60) + 4096));
    let error = convert.run(dir.path().join("out")).unwrap_err();
    assert_eq!(error.kind(), diskimg::ErrorKind::Limit);
}
