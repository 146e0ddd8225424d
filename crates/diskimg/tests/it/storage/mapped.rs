//! Images read through a memory map: the same bytes as with `pread`, without copies.

use crate::verified::{self, memory_mapped};
use diskimg::extent::Kind;
use diskimg::storage::source::{FileSource, MappedSource, MemorySource, WindowSource};
use diskimg::{
    Backing, Convert, Error, ErrorKind, ExternalFiles, Fetcher, Format, Image, OpenOptions,
    Options, Slice, Source,
};
use diskimg_testkit::disk::{self, Disk, Fill, Run};
use diskimg_testkit::tool::{LoopDevice, cases, run};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;

fn open(path: impl AsRef<Path>) -> Image {
    memory_mapped(&OpenOptions::new()).open(path).unwrap()
}

fn slices(image: &Image) -> Vec<Slice<'_>> {
    image.slices(0..image.size()).unwrap().map(|slice| slice.unwrap()).collect()
}

/// Returns true if the bytes are in the source's memory map.
fn is_in(source: &dyn Source, bytes: &[u8]) -> bool {
    let all = source.as_slice().expect("mapped").as_ptr_range();
    let part = bytes.as_ptr_range();
    all.start <= part.start && part.end <= all.end
}

/// Returns the indexes of the layer and the file whose memory map contains the bytes.
fn file_of(image: &Image, bytes: &[u8]) -> Option<(usize, usize)> {
    let files = image.layers().enumerate().flat_map(|(depth, layer)| {
        layer.files().iter().enumerate().map(move |(index, file)| (depth, index, file))
    });
    let mut files = files.filter(|(.., file)| is_in(&***file, bytes));
    files.next().map(|(depth, index, _)| (depth, index))
}

/// A disk of 8 MiB with data at its start, a hole, and data near its end.
fn sample() -> Disk {
    let run = |at, len, seed| Run { at, len, fill: Fill::Noise(seed) };
    Disk { size: 8 << 20, runs: vec![run(0, 3 << 20, 1), run(7 << 20, 70_000, 2)] }
}

fn convert(raw: &Path, format: Format, options: &str, out: &Path) {
    let image = OpenOptions::new().format(Format::Raw).open(raw).unwrap();
    let options = Options::parse(options).unwrap();
    Convert::new(image).format(format).options(options).run(out).unwrap();
}

#[test]
fn stored_bytes_of_every_format_are_borrowed_from_the_memory_map() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let disk = sample();
    disk.write(&path("a.raw"));
    for (name, format, options) in [
        ("a.raw", Format::Raw, ""),
        ("a.qcow2", Format::Qcow2, ""),
        ("b.qcow2", Format::Qcow2, "data_file=b.data"),
        ("a.vmdk", Format::Vmdk, ""),
        ("b.vmdk", Format::Vmdk, "subformat=monolithicFlat"),
        ("c.vmdk", Format::Vmdk, "subformat=twoGbMaxExtentSparse"),
    ] {
        if format != Format::Raw {
            convert(&path("a.raw"), format, options, &path(name));
        }
        let image = open(path(name));
        assert_eq!(image.format(), format, "{name}");
        let mut borrowed = 0;
        for slice in slices(&image) {
            match slice {
                Slice::Bytes(bytes) => {
                    assert!(file_of(&image, bytes).is_some(), "{name}: a copy");
                    borrowed += bytes.len();
                }
                Slice::Zeros(_) => {}
                Slice::Fetch(extent) => panic!("{name}: not in memory: {extent:?}"),
            }
        }
        assert!(
            ((3 << 20) + 70_000..4 << 20).contains(&borrowed),
            "{name}: {borrowed} bytes borrowed"
        );
        // The first cluster is one slice; the hole is a slice of a shared zero buffer.
        let first = image.slice_at(0, 65536).unwrap().unwrap();
        assert!(first == &disk.bytes()[..65536] && file_of(&image, first).is_some(), "{name}");
        let hole = image.slice_at(5 << 20, 65536).unwrap().unwrap();
        assert!(hole == [0; 65536] && file_of(&image, hole).is_none(), "{name}");
        verified::open(&OpenOptions::new(), path(name));
    }
}

#[test]
fn slices_of_a_chain_are_borrowed_from_the_file_that_stores_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let base = sample();
    base.write(&path("base.raw"));
    let mut top = base.clone();
    top.runs.push(Run { at: 1 << 20, len: 65536, fill: Fill::Byte(0x77) });
    top.write(&path("top.raw"));
    let raw = OpenOptions::new().format(Format::Raw).open(path("top.raw")).unwrap();
    let name = "base.raw".to_owned();
    Convert::new(raw)
        .format(Format::Qcow2)
        .backing(Backing::new(name).with_format("raw"))
        .run(path("top.qcow2"))
        .unwrap();
    let image = open(path("top.qcow2"));
    let owner = |at: u64| file_of(&image, image.slice_at(at, 4096).unwrap().unwrap());
    assert_eq!(owner(0), Some((1, 0)));
    assert_eq!(owner(1 << 20), Some((0, 0)));
    assert_eq!(owner((1 << 20) + 65536), Some((1, 0)));
    assert_eq!(owner(5 << 20), None, "zeros");
    verified::open(&OpenOptions::new(), path("top.qcow2"));
}

#[test]
fn compressed_clusters_must_be_fetched_and_the_rest_is_borrowed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    let name = path.to_str().unwrap();
    run("qemu-img", ["create", "-q", "-f", "qcow2", name, "1M"]);
    let commands = ["write -q -c -P 1 64k 64k", "write -q -P 2 192k 64k"];
    run("qemu-io", ["-f", "qcow2", "-c", commands[0], "-c", commands[1], name]);
    let image = open(&path);
    let [first, compressed, second, plain, last] = &slices(&image)[..] else { panic!() };
    assert_eq!([first, second], [&Slice::Zeros(65536); 2]);
    assert_eq!(last, &Slice::Zeros((1 << 20) - (256 << 10)));
    assert!(matches!(plain, Slice::Bytes(bytes) if **bytes == [2; 65536]), "{plain:?}");
    let Slice::Fetch(extent) = compressed else { panic!("{compressed:?}") };
    assert!(matches!(extent.kind, Kind::Encoded(_)), "{extent:?}");
    assert_eq!(extent.guest, 65536..131_072);
    let mut bytes = [0; 65536];
    Fetcher::default().fetch(&image, extent, &mut bytes).unwrap();
    assert!(bytes == [1; 65536]);
    assert_eq!(image.slice_at(65536 + 17, 100).unwrap(), None);
    verified::open(&OpenOptions::new(), &path);
}

#[test]
fn without_a_memory_map_everything_must_be_fetched_in_bounded_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("a.raw");
    let disk = Disk { size: (5 << 20) + 17, ..sample() };
    std::fs::write(&raw, disk.bytes()).unwrap();
    let image = OpenOptions::new().format(Format::Raw).open(&raw).unwrap();
    let all = slices(&image);
    assert!(all.iter().all(|s| matches!(s, Slice::Fetch(_)) && s.len() <= 2 << 20), "{all:?}");
    assert_eq!(all.iter().map(Slice::len).sum::<u64>(), disk.size);
    assert_eq!(image.slice_at(0, 1).unwrap(), None);
}

#[test]
fn a_truncated_image_is_an_error_with_an_offset_and_not_a_signal() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    sample().write(&path("a.raw"));
    for (name, format, options) in [
        ("a.qcow2", Format::Qcow2, ""),
        ("b.qcow2", Format::Qcow2, "compression_type=zstd"),
        ("a.vmdk", Format::Vmdk, ""),
    ] {
        let raw = OpenOptions::new().format(Format::Raw).open(path("a.raw")).unwrap();
        Convert::new(raw)
            .format(format)
            .options(Options::parse(options).unwrap())
            .compress(name.starts_with('b'))
            .run(path(name))
            .unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(path(name)).unwrap();
        file.set_len((2 << 20) + 777).unwrap();
        drop(file);
        let image = open(path(name));
        let (mut fetcher, mut buffer) = (Fetcher::default(), vec![0; 2 << 20]);
        let mut seen = 0;
        let outcome = image.slices(0..image.size()).unwrap().try_for_each(|slice| {
            let slice = slice?;
            if let Slice::Fetch(extent) = &slice {
                fetcher.fetch(&image, extent, &mut buffer[..extent.len() as usize])?;
            }
            seen += slice.len();
            Ok(())
        });
        let error: Error = outcome.expect_err("truncated");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.path() == Some(&path(name)) && error.offset().is_some(), "{error}");
        assert!(seen < 3 << 20, "{name}: {seen} bytes");
        let read = OpenOptions::new().open(path(name)).unwrap();
        let mut bytes = vec![0; image.size() as usize];
        assert_eq!(read.read_at(&mut bytes, 0).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn slices_end_after_the_first_error() {
    let mut bytes = std::fs::read(testdata().join("ext4-sparse.vmdk")).unwrap();
    bytes.truncate(bytes.len() / 2);
    let image = OpenOptions::new().open_source(Arc::new(MemorySource::new(bytes)), "a").unwrap();
    let mut slices = image.slices(0..image.size()).unwrap();
    let errors = slices.by_ref().take(100_000).filter(Result::is_err);
    assert_eq!(errors.count(), 1);
    assert!(slices.next().is_none());
}

#[test]
fn ranges_beyond_the_end_of_the_disk_are_errors() {
    let image = OpenOptions::new()
        .format(Format::Raw)
        .open_source(Arc::new(MemorySource::new(*b"0123456789")), "ten")
        .unwrap();
    #[allow(clippy::reversed_empty_ranges)]
    for range in [0..11, 11..11, 5..4, 3..u64::MAX] {
        assert_eq!(image.slices(range).unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert_eq!(image.slices(10..10).unwrap().count(), 0);
    assert_eq!(image.slice_at(11, 0).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(image.slice_at(u64::MAX, 1).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(image.slice_at(10, 5).unwrap(), Some(&b""[..]));
    assert_eq!(image.slice_at(7, usize::MAX).unwrap(), Some(&b"789"[..]));
    assert_eq!(image.slice_at(2, 3).unwrap(), Some(&b"234"[..]));
}

#[test]
fn an_empty_raw_file_has_no_slices() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let image = memory_mapped(&OpenOptions::new().format(Format::Raw)).open(file.path()).unwrap();
    assert_eq!((image.size(), slices(&image).len()), (0, 0));
}

#[test]
fn a_large_hole_is_a_few_slices() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 40).unwrap();
    let image = memory_mapped(&OpenOptions::new().format(Format::Raw)).open(file.path()).unwrap();
    let all = slices(&image);
    assert!(all.iter().all(|slice| matches!(slice, Slice::Zeros(_))));
    assert_eq!(all.iter().map(Slice::len).sum::<u64>(), 1 << 40);
    assert!(all.len() <= 1 << 13, "{}", all.len());
}

#[test]
fn the_policy_applies_to_memory_mapped_backing_files() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("in")).unwrap();
    std::fs::write(dir.path().join("secret.raw"), [7; 65536]).unwrap();
    let image = dir.path().join("in/a.qcow2");
    let (base, name) = ("../secret.raw", image.to_str().unwrap());
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", name, "64k"]);
    let refused = memory_mapped(&OpenOptions::new()).open(&image).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    let any =
        memory_mapped(&OpenOptions::new().external_files(ExternalFiles::Any)).open(&image).unwrap();
    assert_eq!(any.slice_at(0, 3).unwrap(), Some(&[7; 3][..]));
}

#[test]
fn a_caller_supplied_source_can_be_borrowed_from() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    std::fs::write(&path, [&[1; 512][..], &[2; 1024]].concat()).unwrap();
    // SAFETY: the file is not modified.
    #[allow(unsafe_code)]
    let whole = unsafe { MappedSource::new(FileSource::open(&path).unwrap()) }.unwrap();
    let window = WindowSource::new(Arc::new(whole), 512..1536).unwrap();
    let options = OpenOptions::new().format(Format::Raw);
    let image = options.open_source(Arc::new(window), "window").unwrap();
    let [Slice::Bytes(bytes)] = slices(&image)[..] else { panic!() };
    assert_eq!(bytes, [2; 1024]);
    assert_eq!(file_of(&image, bytes), Some((0, 0)));
}

#[test]
#[ignore = "needs root and loop devices; ./test.sh runs it as root"]
fn a_device_is_mapped_like_a_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let disk = sample();
    disk.write(file.path());
    let device = LoopDevice::attach(file.path());
    let options = OpenOptions::new().format(Format::Raw);
    let image = memory_mapped(&options).open(device.path()).unwrap();
    let borrowed = image.slice_at(7 << 20, 65536).unwrap().unwrap();
    assert!(borrowed == &disk.bytes()[7 << 20..][..65536]);
    assert_eq!(file_of(&image, borrowed), Some((0, 0)));
    verified::open(&options, device.path());
}

fn testdata() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata"))
}

#[test]
fn the_images_in_testdata_read_the_same_mapped_and_unmapped() {
    let mut seen = 0;
    for entry in std::fs::read_dir(testdata()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "qcow2" || e == "vmdk") {
            let image = verified::open(&OpenOptions::new(), &path);
            let other = open(&path);
            let same = diskimg::Compare::new(&image, &other).strict(true).run().unwrap();
            assert!(matches!(same, diskimg::Comparison::Identical { .. }), "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 6, "{seen}");
}

proptest! {
    #![proptest_config(cases(20))]

    #[test]
    fn the_slices_of_any_range_are_that_range_of_the_disk(
        disk in disk::disk_of(1..=(3 << 20)),
        format in prop_oneof![Just(Format::Raw), Just(Format::Qcow2), Just(Format::Vmdk)],
        ranges in prop::collection::vec((any::<prop::sample::Index>(), 1..400_000usize), 1..20),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (raw, out) = (dir.path().join("a.raw"), dir.path().join("out"));
        disk.write(&raw);
        convert(&raw, format, "", &out);
        let image = memory_mapped(&OpenOptions::new().format(format)).open(&out).unwrap();
        let mut bytes = disk.bytes();
        bytes.resize(image.size() as usize, 0);
        for (start, len) in ranges {
            let start = start.index(bytes.len());
            let end = bytes.len().min(start + len);
            let mut joined = Vec::new();
            for slice in image.slices(start as u64..end as u64).unwrap() {
                match slice.unwrap() {
                    Slice::Bytes(bytes) => joined.extend_from_slice(bytes),
                    Slice::Zeros(len) => joined.resize(joined.len() + len as usize, 0),
                    Slice::Fetch(extent) => panic!("{extent:?}"),
                }
            }
            prop_assert!(joined == bytes[start..end], "{}..{}", start, end);
        }
    }
}
