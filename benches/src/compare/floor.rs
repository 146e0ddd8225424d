//! Lower bounds of the time of a conversion: a plain copy of the same allocated bytes, or the
//! codecs alone on all cores, without I/O.

use crate::inputs::Form;
use crate::interrupt;
use crate::machine::cores;
use crate::tools::{command, shown};
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use diskimg::extent::{ChainExtent, Encoded, Kind};
use diskimg::storage::codec::{Decoder, Encoder};
use diskimg::storage::zeros::is_zero;
use diskimg::{Format, Image, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Default size of qcow2 clusters and VMDK grains.
const UNIT: u64 = 64 << 10;

/// Number of bytes that a thread processes at a time.
const CHUNK: u64 = 16 * UNIT;

/// The lower bound of a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Floor {
    /// The time of `cp` on the source file.
    Copy,
    /// The time to decode the source's compressed units and encode them again.
    Codecs(Option<Encoding>),
    /// Unknown.
    Unknown,
}

impl Floor {
    pub(crate) const DECODE: Self = Self::Codecs(None);
    pub(crate) const ENCODE_DEFLATE: Self = Self::Codecs(Some(Encoding::Deflate));
    pub(crate) const ENCODE_ZLIB: Self = Self::Codecs(Some(Encoding::Zlib));
    pub(crate) const ENCODE_ZSTD: Self = Self::Codecs(Some(Encoding::Zstd));
}

/// An encoding of compressed units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Encoding {
    /// qcow2, deflate with a window of 4 KiB.
    Deflate,
    /// VMDK, zlib.
    Zlib,
    /// qcow2, Zstandard.
    Zstd,
}

impl Encoding {
    fn encoder(self) -> Encoder {
        match self {
            Self::Deflate => Encoder::deflate_4k_window(),
            Self::Zlib => Encoder::zlib(),
            Self::Zstd => Encoder::zstd(),
        }
    }
}

/// Arguments of the codec measurement.
#[derive(Debug, clap::Args)]
pub(crate) struct CodecWork {
    /// The image
    image: PathBuf,
    /// Its format
    #[arg(long)]
    format: String,
    /// Also encode all units; by default, only decode compressed units
    #[arg(long, value_enum)]
    encode: Option<Encoding>,
}

/// Measures the codecs on `image` and returns their time in seconds. A child process is used to
/// keep this process small: the peak memory of a child is at least that of its parent.
pub(crate) fn measure(image: &Path, form: Form, encode: Option<Encoding>) -> Result<f64> {
    let mut this = command(std::env::current_exe()?);
    this.arg("codec-floor").arg(image).args(["--format", form.format()]);
    if let Some(encode) = encode.and_then(|encode| encode.to_possible_value()) {
        this.args(["--encode", encode.get_name()]);
    }
    let output = this.output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed: {}", shown(&this), error.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
}

/// Runs the codecs on a whole image, on all cores. Returns the time in seconds that all threads
/// spent in codecs, divided by the number of cores.
pub(crate) fn codec_seconds(work: &CodecWork) -> Result<f64> {
    let format: Format = work.format.parse()?;
    let image = OpenOptions::new().format(format).open(&work.image)?;
    let next = AtomicU64::new(0);
    let spent = std::thread::scope(|scope| {
        let work = || Worker::new(&image, work.encode).run(&next);
        let threads: Vec<_> = (0..cores()).map(|_| scope.spawn(work)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Duration>>| {
            thread.join().ok().context("a thread panicked")?
        };
        threads.into_iter().map(join).sum::<Result<Duration>>()
    })?;
    Ok(spent.as_secs_f64() / cores() as f64)
}

/// The state of a thread.
struct Worker<'a> {
    image: &'a Image,
    decoder: Decoder,
    encoder: Option<Encoder>,
    spent: Duration,
    stored: Vec<u8>,
    unit: Vec<u8>,
    out: Vec<u8>,
}

impl<'a> Worker<'a> {
    fn new(image: &'a Image, encode: Option<Encoding>) -> Self {
        Self {
            image,
            decoder: Decoder::default(),
            encoder: encode.map(Encoding::encoder),
            spent: Duration::ZERO,
            stored: Vec::new(),
            unit: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Processes chunks, whose offsets are taken from `next`, until the end of the image.
    fn run(mut self, next: &AtomicU64) -> Result<Duration> {
        loop {
            interrupt::check()?;
            let start = next.fetch_add(CHUNK, Ordering::Relaxed);
            let end = self.image.size().min(start + CHUNK);
            if start >= end {
                return Ok(self.spent);
            }
            for extent in self.image.extents(start..end)? {
                self.extent(&extent?)?;
            }
        }
    }

    fn extent(&mut self, extent: &ChainExtent) -> Result<()> {
        match &extent.kind {
            Kind::Encoded(encoded) => self.decode(extent, encoded),
            Kind::Data(_) => self.encode_stored(extent),
            _ => Ok(()),
        }
    }

    fn decode(&mut self, extent: &ChainExtent, encoded: &Encoded) -> Result<()> {
        // A unit that crosses a chunk boundary belongs to the first chunk.
        if extent.guest.start != encoded.unit.start {
            return Ok(());
        }
        let layer = self.image.layers().nth(extent.depth).context("no such layer")?;
        self.stored.resize(encoded.stored as usize, 0);
        layer.files()[encoded.host.file].read_exact_at(&mut self.stored, encoded.host.offset)?;
        self.unit.resize((encoded.unit.end - encoded.unit.start) as usize, 0);
        let start = Instant::now();
        self.decoder.decode(encoded.codec, &self.stored, &mut self.unit)?;
        self.spent += start.elapsed();
        self.encode()
    }

    /// Encodes the units of an uncompressed extent.
    fn encode_stored(&mut self, extent: &ChainExtent) -> Result<()> {
        if self.encoder.is_none() {
            return Ok(());
        }
        let mut at = extent.guest.start;
        while at < extent.guest.end {
            let end = extent.guest.end.min((at / UNIT + 1) * UNIT);
            self.unit.resize((end - at) as usize, 0);
            self.image.read_at(&mut self.unit, at)?;
            self.encode()?;
            at = end;
        }
        Ok(())
    }

    /// Encodes the current unit, unless it is zeros or only decoding is measured.
    fn encode(&mut self) -> Result<()> {
        if let Some(encoder) = self.encoder.as_mut().filter(|_| !is_zero(&self.unit)) {
            self.out.clear();
            let start = Instant::now();
            encoder.encode(&self.unit, self.unit.len(), &mut self.out)?;
            self.spent += start.elapsed();
        }
        Ok(())
    }
}
