//! Arguments of `bench`.

use crate::args::Parsed;
use crate::args::common::{self, ImageArgs, Input};
use crate::failure::Failure;
use std::ffi::OsString;
use std::num::NonZeroU64;
use std::ops::RangeInclusive;

/// Maximum of counts and lengths, as in qemu-img.
const MAX: u64 = i32::MAX as u64;

const EXAMPLES: &str = "\
Examples:
  diskimg bench -f qcow2 -c 10000 -s 64k disk.qcow2
  diskimg bench -f qcow2 -w -c 1000 -d 1 --flush-interval 10 scratch.qcow2

Requests follow each other at regular intervals (-S), and continue at the beginning of the disk after
its end. -w overwrites the disk, whose format must be given.";

/// Measure how long requests to a disk take.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image.
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    /// Format of FILE (default: probed)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// Number of requests
    #[arg(short, long, value_name = "N", default_value = "75000")]
    count: String,
    /// Requests made at the same time
    #[arg(short, long, value_name = "N", default_value = "64")]
    depth: String,
    /// Offset of the first request
    #[arg(short, long, value_name = "OFFSET", default_value = "0")]
    offset: String,
    /// Length of a request
    #[arg(short = 's', long, value_name = "SIZE", default_value = "4k")]
    buffer_size: String,
    /// Distance of requests (default: -s)
    #[arg(short = 'S', long, value_name = "SIZE", default_value = "0", hide_default_value = true)]
    step_size: String,
    /// Write, instead of read
    #[arg(short, long)]
    write: bool,
    /// The byte that is written
    #[arg(long, value_name = "BYTE", default_value = "0")]
    pattern: String,
    /// Flush after N requests, with -w
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    flush_interval: String,
    /// Cache mode of FILE
    #[arg(long_help = "FILE's cache mode: none, directsync (direct I/O)")]
    #[arg(short = 't', long, value_name = "MODE")]
    cache: Option<String>,
    // They choose how QEMU makes the requests.
    #[arg(short = 'i', long, value_name = "AIO", hide = true)]
    aio: Option<String>,
    #[arg(short, long, hide = true)]
    native: bool,
    #[arg(long, hide = true)]
    no_drain: bool,
    #[arg(short, long, hide = true)]
    quiet: bool,
    #[command(flatten)]
    image_args: ImageArgs,
}

/// A measurement.
#[derive(Debug)]
pub(crate) struct Job {
    /// The image.
    pub(crate) input: Input,
    /// `-c`.
    pub(crate) count: u64,
    /// `-d`.
    pub(crate) depth: u64,
    /// `-o`.
    pub(crate) offset: u64,
    /// `-s`.
    pub(crate) length: u64,
    /// `-S`.
    pub(crate) step: u64,
    /// `-w` and `--pattern`.
    pub(crate) pattern: Option<u8>,
    /// `--flush-interval`.
    pub(crate) flush_interval: Option<NonZeroU64>,
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn parse(self) -> Result<Parsed<Job>, Failure> {
        let count = number("request count", &self.count, 1..=MAX)?;
        let depth = number("queue depth", &self.depth, 1..=MAX)?;
        let offset = size("offset", &self.offset, 0..=i64::MAX as u64)?;
        let length = size("buffer size", &self.buffer_size, 1..=MAX)?;
        let step = size("step size", &self.step_size, 0..=MAX)?;
        let pattern = number("pattern byte", &self.pattern, 0..=0xff)? as u8;
        let flush_interval = number("flush interval", &self.flush_interval, 0..=MAX)?;
        if let Some(aio) =
            self.aio.filter(|aio| !["threads", "native", "io_uring"].contains(&&**aio))
        {
            return Err(Failure::error(format!("Invalid aio option: {aio}")));
        }
        if common::check_cache_mode("cache", self.cache.as_deref()).is_err() {
            return Err(Failure::error("Invalid cache mode"));
        }
        let file = common::single_file("bench", self.files)?;
        if !self.write && flush_interval > 0 {
            return Err(Failure::error("--flush-interval is only available in write tests"));
        }
        if (1..depth).contains(&flush_interval) {
            return Err(Failure::error("Flush interval can't be smaller than depth"));
        }
        let policy = self.image_args.policy()?;
        let mut input = Input::new(&file, self.format.as_deref(), &policy)?;
        input.options = input.options.caching(common::caching(self.cache.as_deref()));
        if self.write {
            input = input.into_file()?;
            if input.format.is_none() {
                return Err(Failure::error("write tests overwrite the disk: name its format (-f)"));
            }
        }
        Ok(Parsed::Job(Job {
            input,
            count,
            depth,
            offset,
            length,
            step: if step == 0 { length } else { step },
            pattern: self.write.then_some(pattern),
            flush_interval: NonZeroU64::new(flush_interval),
        }))
    }
}

/// Parses a number, which may be hexadecimal; the error calls it `what`.
fn number(what: &str, text: &str, range: RangeInclusive<u64>) -> Result<u64, Failure> {
    let value = match text.strip_prefix("0x") {
        Some(digits) => i128::from_str_radix(digits, 16),
        None => text.parse(),
    };
    match value {
        Ok(value) => in_range(what, u64::try_from(value).ok(), range),
        Err(_) => Err(Failure::error(format!("Invalid {what} specified: '{text}'."))),
    }
}

/// Parses a number of bytes; the error calls it `what`.
fn size(what: &str, text: &str, range: RangeInclusive<u64>) -> Result<u64, Failure> {
    match text.parse::<i128>() {
        Ok(bytes) => in_range(what, u64::try_from(bytes).ok(), range),
        Err(_) => in_range(what, Some(common::size(what, text)?), range),
    }
}

/// Verifies that a number is within a range; `None` is not. The error has QEMU's words.
fn in_range(what: &str, value: Option<u64>, range: RangeInclusive<u64>) -> Result<u64, Failure> {
    value.filter(|value| range.contains(value)).ok_or_else(|| {
        let (min, max) = (range.start(), range.end());
        Failure::error(format!("Invalid {what} specified. Must be between {min} and {max}."))
    })
}
