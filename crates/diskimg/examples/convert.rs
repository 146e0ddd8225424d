//! Converts an image, shows the progress, and gives up after some seconds:
//!
//! ```text
//! cargo run --example convert -- disk.vmdk disk.qcow2 600
//! ```
//!
//! The output appears under its name only when it is complete. When the conversion is stopped,
//! nothing is left, and an old file of this name is unchanged.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use diskimg::{Convert, ErrorKind, Format, Image, Progress};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (src, dst, seconds) = match &args[..] {
        [src, dst] => (src, dst, None),
        [src, dst, seconds] => (src, dst, Some(seconds.parse()?)),
        _ => return Err("usage: convert SOURCE DESTINATION [SECONDS]".into()),
    };
    let limit = seconds.map_or(Duration::MAX, Duration::from_secs);
    println!("{}", run(Path::new(src), Path::new(dst), limit)?);
    Ok(())
}

/// Converts `src` to the format that the extension of `dst` stands for, within `limit`. Returns a
/// summary.
pub fn run(src: &Path, dst: &Path, limit: Duration) -> Result<String, Box<dyn std::error::Error>> {
    let begin = Instant::now();
    let format = Format::from_extension(dst).unwrap_or(Format::Raw);

    // Called from any thread, but never from two at once. The last call, with `done == total`,
    // comes before the output gets its name: even then, the conversion can be stopped.
    let progress = |Progress { done, total, .. }| {
        eprint!("\r{:3} %", 100 * done / total.max(1));
        match begin.elapsed() < limit {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    };
    let report = Convert::new(Image::open(src)?).format(format).progress(&progress).run(dst);
    eprintln!();
    match report {
        Ok(report) => Ok(format!("{} bytes stored of {}", report.stored_bytes, report.guest_bytes)),
        Err(error) if error.kind() == ErrorKind::Cancelled => Err("it took too long".into()),
        // `Display` is one line: file, structure, offset, what was found, what to do about it.
        Err(error) => Err(error.into()),
    }
}
