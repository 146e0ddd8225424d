//! Verification: reopens the output and compares it with the source.
//!
//! This is done after the output was flushed and before it is renamed to its final name, so that
//! an output that differs from the source never replaces an existing file.

use super::input::Input;
use super::{Report, Settings};
use crate::error::{Error, Result};
use crate::model::budget::Budgets;
use crate::model::image::Image;
use crate::open::OpenOptions;
use crate::open::external_files::{ExternalFiles, StandIn};
use crate::ops::compare::{Comparison, compare_disks};
use crate::ops::disk::{Disk, DiskRange, Fetchers, Run};
use crate::ops::progress::{Progress, report};
use std::ops::Range;

/// Verifies that the output has the same guest bytes as `input`.
///
/// # Errors
/// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if it differs, and any error from reading either.
pub(super) fn verify(
    settings: &Settings<'_>,
    input: &Input,
    files: &[StandIn],
    backing: Option<&Image>,
    done: &Report,
) -> Result<()> {
    let Some((name, main)) = files.first().cloned() else { return Ok(()) };
    // The output refers only to files that this conversion wrote or that the user named.
    // If they are written in place, the output has locked them.
    let options = OpenOptions::new()
        .format(settings.format)
        .external_files(ExternalFiles::Any)
        .force_share(true)
        .alone();
    let options = options.stand_ins(files.to_vec());
    let name = name.display().to_string();
    if settings.format.driver().appliance.is_none() {
        let image = options.open_source(main, name)?;
        let image = if let Some(backing) = backing { image.over(backing) } else { image };
        return compare(settings, input, 0..done.guest_bytes, &image, done);
    }
    for (number, range) in (1..).zip(input.disks(1)?) {
        let options = options.clone().disk(format!("{number}"));
        let image = options.open_source(std::sync::Arc::clone(&main), &*name)?;
        compare(settings, input, range, &image, done)?;
    }
    Ok(())
}

/// Compares `range` of the input with the beginning of `image`. Data beyond it in `image` was there
/// before the conversion, or is padding to a whole sector.
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
    let callback = |_: Progress| match report(settings.progress, input.size(), input.size()) {
        Ok(()) => std::ops::ControlFlow::Continue(()),
        Err(_) => std::ops::ControlFlow::Break(()),
    };
    let mut at = range.start;
    // Salvaged ranges are zeros in the output; the source is unreadable there.
    let lost = done.salvaged.iter().map(|lost| lost.guest.clone());
    for lost in lost.chain(std::iter::once(range.end..range.end)) {
        let lost = lost.start.clamp(at, range.end)..lost.end.clamp(at, range.end);
        for (part, readable) in [(at..lost.start, true), (lost.clone(), false)] {
            if part.is_empty() {
                continue;
            }
            let source = DiskRange::new(input, part.clone());
            let zeros = Zeros(part.end - part.start);
            let expected: &dyn Disk = if readable { &source } else { &zeros };
            let written = part.start - range.start..part.end - range.start;
            let written = DiskRange::new(image, written);
            let disks = [expected, &written];
            let compared = compare_disks(disks, false, settings.threads, Some(&callback));
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
        format!("the output differs from the source at guest offset {offset:#x}"),
    )
    .hint("the source was modified during the conversion, or memory or storage is faulty")
}

/// A disk of that many bytes, all of them zero.
struct Zeros(u64);

impl Disk for Zeros {
    fn size(&self) -> u64 {
        self.0
    }

    fn budgets(&self) -> Budgets {
        Budgets::default()
    }

    fn runs(&self, range: Range<u64>, _: &mut Budgets) -> Result<Vec<Run>> {
        Ok(vec![Run { at: range, zero: true, allocated: false }])
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

    fn budgets(&self) -> Budgets {
        Self::budgets(self)
    }

    fn runs(&self, range: Range<u64>, budgets: &mut Budgets) -> Result<Vec<Run>> {
        let runs = self.runs(range)?;
        self.charge(&runs, budgets)?;
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
