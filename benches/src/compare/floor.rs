//! What no tool can be faster than: a plain copy of the same allocated bytes,
//! or the codecs alone on all cores, without reading, writing or placing.

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

/// The size of a qcow2 cluster and of a VMDK grain, by default.
const UNIT: u64 = 64 << 10;

/// How many units a thread takes at a time.
const STRIDE: u64 = 16 * UNIT;

/// What kind of floor a conversion has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Floor {
    /// `cp` of the source's file.
    Copy,
    /// Decoding what the source has encoded, and encoding it again.
    Codecs(Option<Encoding>),
    /// Not known.
    Unknown,
}

impl Floor {
    pub(crate) const DECODE: Self = Self::Codecs(None);
    pub(crate) const ENCODE_DEFLATE: Self = Self::Codecs(Some(Encoding::Deflate));
    pub(crate) const ENCODE_ZLIB: Self = Self::Codecs(Some(Encoding::Zlib));
    pub(crate) const ENCODE_ZSTD: Self = Self::Codecs(Some(Encoding::Zstd));
}

/// How units are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Encoding {
    /// qcow2's: a window of 4 KiB.
    Deflate,
    /// VMDK's.
    Zlib,
    /// qcow2's other one.
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

/// Codecs to be measured on an image.
#[derive(Debug, clap::Args)]
pub(crate) struct CodecWork {
    /// The image
    image: PathBuf,
    /// Its format
    #[arg(long)]
    format: String,
    /// Encode its units; without this, only decode those that are encoded
    #[arg(long, value_enum)]
    encode: Option<Encoding>,
}

/// The codecs' seconds on `image`, measured by a process of its own: this one
/// must stay small, because its size is the least peak that its children have.
pub(crate) fn measure(image: &Path, form: Form, encode: Option<Encoding>) -> Result<f64> {
    let mut this = command(std::env::current_exe()?);
    this.arg("codec-floor").arg(image).args(["--format", form.format()]);
    if let Some(encode) = encode.and_then(|encode| encode.to_possible_value()) {
        this.args(["--encode", encode.get_name()]);
    }
    let output = this.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed: {}", shown(&this), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
}

/// Runs the codecs over all of an image, on all cores at once. The answer is
/// their time alone: what they spent together, divided by the number of cores.
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

/// One thread's share.
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

    /// Takes stretches from `next` until there are none.
    fn run(mut self, next: &AtomicU64) -> Result<Duration> {
        loop {
            interrupt::check()?;
            let start = next.fetch_add(STRIDE, Ordering::Relaxed);
            let end = self.image.size().min(start + STRIDE);
            if start >= end {
                return Ok(self.spent);
            }
            for extent in self.image.extents(start..end)? {
                self.extent(&extent)?;
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
        // A unit that lies on the border of two stretches is the first one's.
        if extent.guest.start != encoded.unit.start {
            return Ok(());
        }
        let layer = self.image.layers().nth(extent.depth).context("no such layer")?;
        self.stored.resize(encoded.stored as usize, 0);
        layer.files()[encoded.place.file].read_exact_at(&mut self.stored, encoded.place.offset)?;
        self.unit.resize((encoded.unit.end - encoded.unit.start) as usize, 0);
        let start = Instant::now();
        self.decoder.decode(encoded.codec, &self.stored, &mut self.unit)?;
        self.spent += start.elapsed();
        self.encode()
    }

    /// Encodes a stretch of stored bytes. It is cut where the output's units are.
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

    /// Encodes the unit, if anything is to be encoded: zeros never are.
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
