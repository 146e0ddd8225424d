//! Verification: what was written is opened again, and held against the source.
//!
//! It happens when everything is flushed and nothing has its name yet, so that an output that
//! does not say what the source says never replaces anything.

use super::input::Input;
use super::{Report, Settings};
use crate::error::{Error, Result};
use crate::model::image::Image;
use crate::open::OpenOptions;
use crate::open::external_files::{ExternalFiles, StandIn};
use crate::ops::compare::{Comparison, compare_disks};
use crate::ops::disk::{Disk, DiskRange, Fetchers, Run};
use crate::ops::progress::{Progress, report};
use std::ops::Range;

/// Sees that the output says what `input` says.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if it does not; what reading either said.
pub(super) fn verify(
    settings: &Settings<'_>,
    input: &Input,
    files: &[StandIn],
    backing: Option<&Image>,
    done: &Report,
) -> Result<()> {
    let Some((name, main)) = files.first().cloned() else { return Ok(()) };
    // What the output names is ours, and whatever the user named.
    let options =
        OpenOptions::new().format(settings.format).external_files(ExternalFiles::Any).alone();
    let options = options.stand_ins(files.to_vec());
    let name = name.display().to_string();
    if settings.format.driver().appliance.is_none() {
        let image = options.open_source(main, name)?;
        let image = if let Some(backing) = backing { image.over(backing) } else { image };
        return compare(settings, input, 0..input.size(), &image, done);
    }
    for (number, range) in (1..).zip(input.disks(1)?) {
        let options = options.clone().disk(format!("{number}"));
        let image = options.open_source(std::sync::Arc::clone(&main), &*name)?;
        compare(settings, input, range, &image, done)?;
    }
    Ok(())
}

/// Compares `range` of the input with the beginning of `image`: what lies behind it there was
/// there before, or fills up a sector.
fn compare(
    settings: &Settings<'_>,
    input: &Input,
    range: Range<u64>,
    image: &Image,
    done: &Report,
) -> Result<()> {
    let len = range.end - range.start;
    if image.size() < len {
        return Err(differs(range.start + image.size()));
    }
    let tell = |_: Progress| match report(settings.progress, input.size(), input.size()) {
        Ok(()) => std::ops::ControlFlow::Continue(()),
        Err(_) => std::ops::ControlFlow::Break(()),
    };
    let mut at = range.start;
    // What could not be read is zeros in the output, and would not be read now either.
    let lost = done.salvaged.iter().map(|lost| lost.guest.clone());
    for lost in lost.chain(std::iter::once(range.end..range.end)) {
        let lost = lost.start.clamp(at, range.end)..lost.end.clamp(at, range.end);
        for (part, kept) in [(at..lost.start, true), (lost.clone(), false)] {
            if part.is_empty() {
                continue;
            }
            let source = DiskRange::new(input, part.clone());
            let zeros = Zeros(part.end - part.start);
            let expected: &dyn Disk = if kept { &source } else { &zeros };
            let there = part.start - range.start..part.end - range.start;
            let written = DiskRange::new(image, there);
            let disks = [expected, &written];
            let compared = compare_disks(disks, false, settings.threads, Some(&tell));
            if let Comparison::ContentMismatch { offset } = compared.map_err(|e| e.error)? {
                return Err(differs(part.start + offset));
            }
        }
        at = lost.end;
    }
    Ok(())
}

fn differs(offset: u64) -> Error {
    Error::corrupt(
        "verification",
        format!("guest offset {offset:#x} of the output reads back otherwise than the source"),
    )
    .hint("the source changed meanwhile, or this machine's memory or disk cannot be trusted")
}

/// A disk of nothing else.
struct Zeros(u64);

impl Disk for Zeros {
    fn size(&self) -> u64 {
        self.0
    }

    fn runs(&self, range: Range<u64>) -> Result<Vec<Run>> {
        Ok(vec![Run { at: range, zero: true, held: false }])
    }

    fn next_window(&self, _: u64, end: u64, _: u64) -> u64 {
        end
    }

    fn read(&self, _: &mut Fetchers, buf: &mut [u8], _: u64) -> Result<()> {
        buf.fill(0);
        Ok(())
    }
}

impl Disk for Input {
    fn size(&self) -> u64 {
        Self::size(self)
    }

    fn runs(&self, range: Range<u64>) -> Result<Vec<Run>> {
        let runs = self.runs(range)?;
        Ok(runs.into_iter().map(|s| Run::new(s.at, &s.extent.kind)).collect())
    }

    fn next_window(&self, start: u64, end: u64, step: u64) -> u64 {
        Self::next_window(self, start, end, step)
    }

    fn read(&self, fetchers: &mut Fetchers, buf: &mut [u8], at: u64) -> Result<()> {
        for run in self.runs(at..at + buf.len() as u64)? {
            let part = &mut buf[(run.at.start - at) as usize..(run.at.end - at) as usize];
            match run.image {
                None => part.fill(0),
                Some(index) => {
                    fetchers.of(index).fetch(self.image(index), &run.extent, part)?;
                }
            }
        }
        Ok(())
    }
}
