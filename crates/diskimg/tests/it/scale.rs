//! Disks far larger than their content.

use crate::disk::noise;
use crate::tool::{assert_qemu_check, run};
use diskimg::host::source::{Segment, Source};
use diskimg::{Convert, Format, Image, OpenOptions, Output, compare};
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
