//! Random and sequential reads of uncompressed images, with `read_at`, which copies, and with
//! slices of a memory-mapped image, which do not.

use crate::samples::{Random, Sample, WINDOW};
use diskimg::{Format, Image, OpenOptions, Slice};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};

const FORMATS: [Format; 3] = [Format::Raw, Format::Qcow2, Format::Vmdk];

/// Size of the disk in bytes.
const SIZE: u64 = WINDOW;

/// Size of a random read, typical of databases.
const PAGE: usize = 4096;

/// Size of a sequential read.
const CHUNK: usize = 1 << 20;

/// A method of reading guest data.
trait ReadMethod: Default {
    /// Opens the sample for this method.
    fn open(sample: &Sample) -> Image {
        sample.open()
    }

    /// Reads `len` bytes at `offset` and returns a checksum of all of them.
    fn sum(&mut self, image: &Image, offset: u64, len: usize) -> u64;
}

/// Reads into a buffer with `read_at`.
#[derive(Default)]
struct Copied(Vec<u8>);

impl ReadMethod for Copied {
    fn sum(&mut self, image: &Image, offset: u64, len: usize) -> u64 {
        self.0.resize(len, 0);
        image.read_at(&mut self.0, offset).expect("a valid image");
        sum(&self.0)
    }
}

/// Borrows slices of the memory-mapped file.
#[derive(Default)]
struct Mapped;

impl ReadMethod for Mapped {
    #[allow(unsafe_code)]
    fn open(sample: &Sample) -> Image {
        // SAFETY: the file is in a private temporary directory and is not modified.
        let options = unsafe { OpenOptions::new().memory_map() };
        options.open(sample.path()).expect("a valid image")
    }

    fn sum(&mut self, image: &Image, offset: u64, len: usize) -> u64 {
        let slices = image.slices(offset..offset + len as u64).expect("within the disk");
        slices.fold(0, |all, slice| match slice.expect("a valid image") {
            Slice::Bytes(bytes) => all ^ sum(bytes),
            Slice::Zeros(_) => all,
            Slice::Fetch(extent) => panic!("not stored uncompressed: {extent:?}"),
        })
    }
}

/// Returns a checksum, so that every byte is read.
fn sum(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().fold(0, |sum, word| sum ^ u64::from_ne_bytes(*word))
}

#[divan::bench(types = [Copied, Mapped], args = FORMATS)]
fn random_pages<W: ReadMethod>(bencher: Bencher<'_, '_>, format: Format) {
    let sample = Sample::filled(SIZE, format);
    let (image, mut random, mut method) = (W::open(&sample), Random(1), W::default());
    bencher.counter(BytesCount::new(PAGE)).bench_local(|| {
        let page = random.below(SIZE as usize / PAGE);
        black_box(method.sum(&image, (page * PAGE) as u64, PAGE))
    });
}

#[divan::bench(types = [Copied, Mapped], args = FORMATS)]
fn scan<W: ReadMethod>(bencher: Bencher<'_, '_>, format: Format) {
    let sample = Sample::filled(SIZE, format);
    let (image, mut method) = (W::open(&sample), W::default());
    bencher.counter(BytesCount::new(SIZE)).bench_local(|| {
        let starts = (0..SIZE).step_by(CHUNK);
        starts.fold(0, |all, start| all ^ method.sum(&image, start, CHUNK))
    });
}
