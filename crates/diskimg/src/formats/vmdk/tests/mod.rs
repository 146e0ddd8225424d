//! The whole format: images that are written and read back, and streams that are built by hand
//! according to the specification.

use crate::formats::vmdk::DRIVER;
use crate::model::backing::Backing;
use crate::model::target::{Allocate, CreateRequest, Target, TargetSpec};
use crate::storage::codec::Encoder;
use crate::storage::output::Output;
use crate::storage::sink::{MemorySink, PipeSink, Sink};
use crate::storage::source::{MemorySource, Source};
use crate::{ErrorKind, Format, Image, OpenOptions, Options, Result, conformance};
use std::io::Write;
use std::sync::{Arc, Mutex};

mod damage;
/// The module of diskimg-testkit. The published package contains these tests, but cannot depend on
/// that crate, which is not published; so the file is a symbolic link.
#[allow(dead_code, unreachable_pub)]
pub(super) mod esx;
mod salvage;
mod streams;

const GRAIN: usize = 64 << 10;

/// Returns incompressible bytes.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    })
    .take(len)
    .collect()
}

/// Returns a disk of `grains` whole grains and `tail` more bytes: data, zeros and noise.
fn sample(grains: usize, tail: usize) -> Vec<u8> {
    let mut disk = vec![0; grains * GRAIN + tail];
    for (i, grain) in disk.chunks_mut(GRAIN).enumerate() {
        match i % 4 {
            0 => grain.fill(i as u8 + 1),
            1 => grain.copy_from_slice(&noise(i as u64, grain.len())),
            2 => {}
            _ => grain[grain.len() / 2] = 7,
        }
    }
    disk
}

fn open(bytes: &[u8]) -> Result<Image> {
    OpenOptions::new().open_source(Arc::new(MemorySource::new(bytes)), "test.vmdk")
}

/// Returns the guest bytes of an image, after verifying that the layer conforms to its contract.
fn read(bytes: &[u8]) -> Result<Vec<u8>> {
    let image = open(bytes)?;
    assert_eq!(image.format(), Format::Vmdk);
    conformance::verify(&image)?;
    let mut disk = vec![0xa5; image.size() as usize];
    image.read_at(&mut disk, 0)?;
    Ok(disk)
}

/// Checks the image and returns the findings.
fn check(bytes: &[u8]) -> Vec<String> {
    let mut findings = Vec::new();
    let report = open(bytes)
        .and_then(|image| image.check(&mut |finding| findings.push(finding.message)))
        .expect("checks")
        .expect("VMDK is checked");
    let counted = report.corruptions + report.leaks + report.check_errors;
    assert_eq!(counted, findings.len() as u64);
    findings
}

/// A new image and its start.
type Started = (Box<dyn TargetSpec>, Box<dyn Target>);

fn create(
    output: &mut Output,
    size: u64,
    options: &Options,
    backing: Option<Backing>,
    compress: bool,
) -> Result<Started> {
    let spec = (DRIVER.create.expect("it is written"))(CreateRequest { size, options, backing, compress })?;
    let target = spec.start(output)?;
    Ok((spec, target))
}

/// Writes `disk` as the engine does: unit by unit, in order.
fn fill((spec, mut target): Started, disk: &[u8]) -> Result<()> {
    let unit = spec.quantum() as usize;
    let mut encoder = spec.encoder();
    for (i, data) in disk.chunks(unit).enumerate() {
        let (at, len) = ((i * unit) as u64, data.len() as u64);
        let mut encoded = Vec::new();
        let zero = data.iter().all(|&b| b == 0);
        let (bytes, slot) = match &mut encoder {
            _ if zero => (data, target.place(at, Allocate::Zero { len })?),
            Some(encoder) => {
                let mut whole = data.to_vec();
                whole.resize(unit, 0);
                assert!(encoder.encode(at, &whole, &mut encoded)?);
                (encoded.as_slice(), {
                    let len = encoded.len() as u64;
                    target.place(at, Allocate::Compressed { len })?
                })
            }
            None => (data, target.place(at, Allocate::Data { len })?),
        };
        if let Some(slot) = slot {
            assert_eq!(slot.len, bytes.len() as u64);
            target.files()[slot.file].write_all_at(bytes, slot.offset).expect("writes");
        }
    }
    target.finish()
}

/// Writes `disk` with these options and returns the file.
fn write(disk: &[u8], options: &str) -> Vec<u8> {
    let sink = Arc::new(MemorySink::new());
    let mut output = Output::to_sink(Arc::clone(&sink) as Arc<dyn Sink>);
    let options = Options::parse(options).expect("parses");
    let target = create(&mut output, disk.len() as u64, &options, None, false).expect("creates");
    fill(target, disk).expect("fills");
    sink.to_source().as_slice().expect("in memory").to_vec()
}

#[test]
fn written_images_are_read_back_and_consistent() {
    for disk in [sample(1, 0), sample(9, 0), sample(700, 512), vec![0; GRAIN * 3], sample(0, 1536)]
    {
        for options in ["", "zeroed_grain=on", "subformat=streamOptimized"] {
            let file = write(&disk, options);
            assert!(read(&file).expect("reads") == disk, "{} bytes, {options}", disk.len());
            assert_eq!(check(&file), [""; 0], "{} bytes, {options}", disk.len());
            assert_eq!(file, write(&disk, options), "a second run gives other bytes");
        }
    }
}

#[test]
fn a_size_is_rounded_up_to_a_multiple_of_512() {
    let disk = read(&write(&[1; 1000], "")).expect("reads");
    assert_eq!((disk.len(), disk[999], disk[1000]), (1024, 1, 0));
}

#[test]
fn writing_in_place_leaves_no_old_bytes() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("old.vmdk");
    let disk = sample(30, 512);
    for options in ["", "subformat=streamOptimized"] {
        std::fs::write(&path, vec![0xee; 8 << 20]).expect("writes");
        let mut output = Output::in_place(&path, false).expect("opens");
        let parsed = Options::parse(options).expect("parses");
        let target = create(&mut output, disk.len() as u64, &parsed, None, false).expect("creates");
        fill(target, &disk).expect("fills");
        let file = std::fs::read(&path).expect("reads");
        assert!(read(&file).expect("reads") == disk, "{options}");
        assert_eq!(check(&file), [""; 0], "{options}");
        assert!(!file.chunks(64).any(|c| c == [0xee; 64]), "{options}");
    }
}

#[test]
fn a_stream_written_to_a_pipe_equals_one_written_to_a_file() {
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);
    impl Write for Shared {
        fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("locks").write(buf)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let disk = sample(600, 0);
    let shared = Shared::default();
    let mut output = Output::to_sink(Arc::new(PipeSink::new(shared.clone())));
    let options = Options::default();
    let size = disk.len() as u64;
    // With compression the default subformat is streamOptimized.
    let target = create(&mut output, size, &options, None, true).expect("creates");
    assert!(target.0.sequential());
    fill(target, &disk).expect("fills");
    let file = shared.0.lock().expect("locks").clone();
    assert!(file == write(&disk, "subformat=streamOptimized"));
    let error = create(&mut output, size, &options, None, false).expect_err("not sparse");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn unsupported_options_are_refused() {
    let refuse = |size, options: &str, backing: Option<Backing>, compress, kind| {
        let mut output = Output::to_sink(Arc::new(MemorySink::new()));
        let options = Options::parse(options).expect("parses");
        let error = create(&mut output, size, &options, backing, compress).expect_err("refused");
        assert_eq!(error.kind(), kind, "{error}");
    };
    let backing = |format: Option<&str>, id: Option<&str>, name: &str| {
        Some(Backing {
            name: name.into(),
            format: format.map(Into::into),
            content_id: id.map(Into::into),
            disk_id: None,
            sector_sizes: None,
        })
    };
    refuse(0, "", None, false, ErrorKind::Invalid);
    refuse(u64::MAX, "", None, false, ErrorKind::Limit);
    refuse(1 << 50, "", None, false, ErrorKind::Limit);
    refuse(512, "subformat=monolithicFlat", None, false, ErrorKind::Unsupported);
    refuse(512, "subformat=monolithicSparse", None, true, ErrorKind::Invalid);
    refuse(512, "preallocation=full", None, false, ErrorKind::Unsupported);
    refuse(512, "adapter_type=nvme", None, false, ErrorKind::Invalid);
    refuse(512, "hwversion=4.1", None, false, ErrorKind::Invalid);
    refuse(512, "toolsversion=unknown", None, false, ErrorKind::Invalid);
    refuse(512, "compat6=on,hwversion=7", None, false, ErrorKind::Invalid);
    refuse(512, "backing_file=b", None, false, ErrorKind::Invalid);
    refuse(512, "", backing(Some("raw"), Some("1"), "b"), false, ErrorKind::Invalid);
    refuse(512, "", backing(None, None, "b"), false, ErrorKind::Invalid);
    refuse(512, "", backing(None, Some("1"), "a\"b"), false, ErrorKind::Invalid);
    let stream = "subformat=streamOptimized";
    refuse(512, stream, backing(None, Some("1"), "b"), false, ErrorKind::Unsupported);
}

#[test]
fn a_child_is_read_only_with_its_own_parent() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = |name: &str| dir.path().join(name);
    let base = sample(8, 0);
    std::fs::write(path("base.vmdk"), write(&base, "")).expect("writes");
    let parent = Image::open(path("base.vmdk")).expect("opens");
    let content_id = parent.layers().next().and_then(|l| l.content_ids().into_iter().next());
    // It will be changed.
    drop(parent);
    for (zeroed, name) in [("zeroed_grain=on", "zero.vmdk"), ("", "stored.vmdk")] {
        let backing = Backing {
            name: "base.vmdk".into(),
            format: Some("vmdk".into()),
            content_id: content_id.clone(),
            disk_id: None,
            sector_sizes: None,
        };
        let sink = Arc::new(MemorySink::new());
        let mut output = Output::to_sink(Arc::clone(&sink) as Arc<dyn Sink>);
        let options = Options::parse(zeroed).expect("parses");
        let size = base.len() as u64;
        let (_, mut target) =
            create(&mut output, size, &options, Some(backing), false).expect("creates");
        // Zeros in grains 0 and 1, data in grain 2; the rest is read from the parent.
        assert_eq!(
            target.place(0, Allocate::Zero { len: 2 * GRAIN as u64 }).expect("places"),
            None
        );
        let slot = target.place(2 * GRAIN as u64, Allocate::Data { len: GRAIN as u64 });
        let slot = slot.expect("places").expect("a slot");
        sink.write_all_at(&[9; GRAIN], slot.offset).expect("writes");
        target.finish().expect("finishes");
        let file = sink.to_source();
        std::fs::write(path(name), file.as_slice().expect("in memory")).expect("writes");
        let image = Image::open(path(name)).expect("opens");
        conformance::verify(&image).expect("holds");
        let mut expected = base.clone();
        expected[..2 * GRAIN].fill(0);
        expected[2 * GRAIN..3 * GRAIN].fill(9);
        let mut disk = vec![1; base.len()];
        image.read_at(&mut disk, 0).expect("reads");
        assert!(disk == expected, "{name}");
    }
    std::fs::write(path("base.vmdk"), write(&sample(9, 0), "")).expect("writes");
    let error = Image::open(path("zero.vmdk")).expect_err("another parent");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(&content_id.expect("has one")), "{error}");
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}
