//! Large sparse disks.

use diskimg::storage::source::{Segment, Source, SourceError};
use diskimg::{Compare, Convert, Create, Format, Image, OpenOptions, Output};
use diskimg_testkit::disk::noise;
use diskimg_testkit::hole::Hole;
use diskimg_testkit::tool::{assert_qemu_check, full, run};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Creates a sparse raw file with 70,000 bytes of data at its start, middle and end.
fn write_sparse(path: &Path, size: u64) {
    let file = std::fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (i, at) in [0, size / 2 + 12_345, size - 70_000].into_iter().enumerate() {
        file.write_all_at(&noise(i as u64, 70_000), at).unwrap();
    }
}

fn hole(size: u64) -> Image {
    OpenOptions::new().format(Format::Raw).open_source(Arc::new(Hole(size)), "hole").unwrap()
}

fn raw(path: &Path) -> Image {
    OpenOptions::new().format(Format::Raw).open(path).unwrap()
}

#[test]
fn a_large_sparse_disk_costs_only_its_data() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    // qemu-img compares 1 TiB in ten seconds.
    let size: u64 = if full() { 1 << 40 } else { 1 << 36 };
    write_sparse(&path("a.raw"), size);
    for (format, limit) in [(Format::Qcow2, 4 << 20), (Format::Vmdk, (20 << 20) + (size >> 12))] {
        let out = path(format.name());
        Convert::new(raw(&path("a.raw"))).format(format).run(&out).unwrap();
        let len = std::fs::metadata(&out).unwrap().len();
        assert!(len < limit, "{format} output has {len} bytes");
        assert_qemu_check(&out, format.name());
        run(
            "qemu-img",
            ["compare", "-f", "raw", path("a.raw").to_str().unwrap(), out.to_str().unwrap()],
        );
        // Converted back, the raw file is sparse again.
        let back = path("back.raw");
        Convert::new(Image::open(&out).unwrap()).run(&back).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert!(std::fs::metadata(&back).unwrap().blocks() * 512 < 1 << 20);
        let same = Compare::new(&raw(&path("a.raw")), &raw(&back)).run().unwrap();
        assert_eq!(same, diskimg::Comparison::Identical { size_mismatch: false });
    }
}

/// Mapped in 128 MiB windows this would take hours.
#[test]
fn an_unallocated_exbibyte_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let options = diskimg::Options::parse("cluster_size=2M").unwrap();
    Create::new(Format::Qcow2).size(1 << 60).options(options.clone()).run(path("a")).unwrap();
    let line = format!("RW {} ZERO", (1u64 << 60) / 512);
    let text = format!("# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n{line}\n");
    std::fs::write(path("b.vmdk"), text).unwrap();
    let images = [Image::open(path("a")).unwrap(), Image::open(path("b.vmdk")).unwrap()];
    for image in &images {
        let entries = diskimg::map(image, 0..u64::MAX).map(Result::unwrap);
        let entries: Vec<_> = entries.map(|e| (e.start, e.length, e.zero)).collect();
        assert_eq!(entries, [(0, 1 << 60, true)]);
        let same = Compare::new(image, &hole(1 << 60)).run().unwrap();
        assert_eq!(same, diskimg::Comparison::Identical { size_mismatch: false });
    }
    for image in images {
        let convert = Convert::new(image).format(Format::Qcow2).options(options.clone());
        assert!(convert.verify(true).run(path("c")).unwrap().verified);
    }
}

/// Data after a large hole is found wherever it starts within a mapping window.
#[test]
fn data_after_large_holes_is_not_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for (clusters, at) in [("512", 77), ("64k", (3 << 40) + 4096), ("2M", (1 << 50) + 12_345)] {
        let options = diskimg::Options::parse(&format!("cluster_size={clusters}")).unwrap();
        let size = (at + 5_000u64).next_multiple_of(512) + 3072;
        let options_of = |convert: Convert<'static>| convert.options(options.clone());
        let source = Arc::new(DataInHole { at, size });
        let data_in_hole = || {
            OpenOptions::new()
                .format(Format::Raw)
                .open_source(source.clone(), "data_in_hole")
                .unwrap()
        };
        let convert = options_of(Convert::new(data_in_hole()).format(Format::Qcow2));
        convert.verify(true).run(path("a")).unwrap();
        let image = Image::open(path("a")).unwrap();
        let same = Compare::new(&data_in_hole(), &image).run().unwrap();
        assert_eq!(same, diskimg::Comparison::Identical { size_mismatch: false });
        let mut bytes = [0; 300];
        image.read_at(&mut bytes, at).unwrap();
        assert_eq!(bytes, [9; 300], "{clusters}");
    }
}

/// A hole with 5,000 bytes of data in it.
#[derive(Debug)]
struct DataInHole {
    at: u64,
    size: u64,
}

impl Source for DataInHole {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        for (byte, at) in buf.iter_mut().zip(offset..) {
            *byte = if (self.at..self.at + 5_000).contains(&at) { 9 } else { 0 };
        }
        Ok(())
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        let (start, end) = (self.at / 4096 * 4096, (self.at + 5_000).min(self.size));
        Ok(match offset {
            _ if offset < start => Segment { end: start, hole: true },
            _ if offset < end => Segment { end, hole: false },
            _ => Segment { end: self.size, hole: true },
        })
    }
}

#[test]
fn an_l1_table_larger_than_qemu_accepts_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.raw");
    write_sparse(&path, 1 << 40);
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
fn a_conversion_can_be_cancelled_within_a_hole() {
    let stop = |p: diskimg::Progress| {
        if p.done > 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    // It would take hours to finish.
    let convert = Convert::new(hole(7 << 60)).progress(&stop);
    let error = convert.run_to(Output::writer(io::sink())).unwrap_err();
    assert_eq!(error.kind(), diskimg::ErrorKind::Cancelled);
}

#[test]
fn joined_images_larger_than_the_largest_disk_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    // 7 + 7 + 2 EiB and 4096 bytes: in 64 bits the sum would wrap around to 4096.
    let convert = Convert::new(hole(7 << 60)).append(hole(7 << 60)).append(hole((2 << 60) + 4096));
    let error = convert.run(dir.path().join("out")).unwrap_err();
    assert_eq!(error.kind(), diskimg::ErrorKind::Limit);
}
