//! Guest bytes out of an image that stores them as they are: at random, and
//! from one end to the other. Each way of reading is one `Way`: `read_at`
//! copies, slices of a mapped image do not.

use crate::samples::{Random, Sample, WINDOW};
use diskimg::{Format, Image, OpenOptions, Slice};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};

const FORMATS: [Format; 3] = [Format::Raw, Format::Qcow2, Format::Vmdk];

/// The disk's size.
const SIZE: u64 = WINDOW;

/// What a database reads.
const PAGE: usize = 4096;

/// What a scan reads at a time.
const STRETCH: usize = 1 << 20;

/// A way to get at guest bytes.
trait Way: Default {
    /// Opens the sample so that it can be read this way.
    fn open(sample: &Sample) -> Image {
        sample.open()
    }

    /// Reads `len` bytes at `offset` and gives something made of all of them.
    fn sum(&mut self, image: &Image, offset: u64, len: usize) -> u64;
}

/// Into a buffer, by `read_at`.
#[derive(Default)]
struct Copied(Vec<u8>);

impl Way for Copied {
    fn sum(&mut self, image: &Image, offset: u64, len: usize) -> u64 {
        self.0.resize(len, 0);
        image.read_at(&mut self.0, offset).expect("a sound image");
        sum(&self.0)
    }
}

/// Where the bytes lie in the mapped file.
#[derive(Default)]
struct Lent;

impl Way for Lent {
    #[allow(unsafe_code)]
    fn open(sample: &Sample) -> Image {
        // SAFETY: the file is in a folder of this process's own, and not changed any more.
        let options = unsafe { OpenOptions::new().memory_map() };
        options.open(sample.path()).expect("a sound image")
    }

    fn sum(&mut self, image: &Image, offset: u64, len: usize) -> u64 {
        let slices = image.slices(offset..offset + len as u64).expect("inside");
        slices.fold(0, |all, slice| match slice.expect("a sound image") {
            Slice::Bytes(bytes) => all ^ sum(bytes),
            Slice::Zeros(_) => all,
            Slice::Fetch(extent) => panic!("not stored as it is: {extent:?}"),
        })
    }
}

/// So that no byte can be left unread.
fn sum(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().fold(0, |sum, word| sum ^ u64::from_ne_bytes(*word))
}

#[divan::bench(types = [Copied, Lent], args = FORMATS)]
fn random_pages<W: Way>(bencher: Bencher<'_, '_>, format: Format) {
    let sample = Sample::filled(SIZE, format);
    let (image, mut random, mut way) = (W::open(&sample), Random(1), W::default());
    bencher.counter(BytesCount::new(PAGE)).bench_local(|| {
        let page = random.below(SIZE as usize / PAGE);
        black_box(way.sum(&image, (page * PAGE) as u64, PAGE))
    });
}

#[divan::bench(types = [Copied, Lent], args = FORMATS)]
fn scan<W: Way>(bencher: Bencher<'_, '_>, format: Format) {
    let sample = Sample::filled(SIZE, format);
    let (image, mut way) = (W::open(&sample), W::default());
    bencher.counter(BytesCount::new(SIZE)).bench_local(|| {
        let starts = (0..SIZE).step_by(STRETCH);
        starts.fold(0, |all, start| all ^ way.sum(&image, start, STRETCH))
    });
}
