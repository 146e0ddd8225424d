//! Verification: reopens the output and compares it with the source.
//!
//! This is done after the output was flushed and before it is renamed to its final name, so that
//! an output that differs from the source never replaces an existing file.

use super::Settings;
use super::input::Input;
use crate::error::{Error, Result};
use crate::model::budget::Budgets;
use crate::model::image::Image;
use crate::model::target::TargetSpec;
use crate::open::OpenOptions;
use crate::open::external_files::{ExternalFiles, StandIn};
use crate::ops::compare::{Comparison, compare_disks};
use crate::ops::disk::{Disk, DiskRange, Fetchers, Run};
use crate::ops::progress::{Progress, report};
use std::ops::Range;

/// Verifies that the output has the same guest bytes as the first `len` bytes of `input`, and zeros
/// in the ranges `lost`, which cannot be read.
///
/// # Errors
/// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if it differs, and any error from reading either.
pub(super) fn verify(
    settings: &Settings<'_>,
    input: &Input,
    spec: &dyn TargetSpec,
    files: &[StandIn],
    backing: Option<&Image>,
    len: u64,
    lost: &[Range<u64>],
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
        let image = options.open_source(spec.contents(main)?, name)?;
        let image = if let Some(backing) = backing { image.over(backing) } else { image };
        return compare(settings, input, 0..len, &image, lost);
    }
    for (number, range) in (1..).zip(input.disks(1)?) {
        let options = options.clone().disk(format!("{number}"));
        let image = options.open_source(std::sync::Arc::clone(&main), &*name)?;
        compare(settings, input, range, &image, lost)?;
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
    lost: &[Range<u64>],
) -> Result<()> {
    let len = range.end - range.start;
    if image.size() < len {
        return Err(differs(range.start + image.size()));
    }
    let callback = |_: Progress| match report(settings.progress, input.size(), input.size()) {
        Ok(()) => std::ops::ControlFlow::Continue(()),
        Err(_) => std::ops::ControlFlow::Break(()),
    };
    let source = Readable { input, lost };
    let (expected, written) =
        (DiskRange::new(&source, range.clone()), DiskRange::new(image, 0..len));
    let compared = compare_disks([&expected, &written], false, settings.threads, Some(&callback));
    match compared.map_err(|e| e.error)? {
        Comparison::ContentMismatch { offset } => Err(differs(range.start + offset)),
        _ => Ok(()),
    }
}

fn differs(offset: u64) -> Error {
    Error::corrupt(
        "verification",
        format!("the output differs from the source at guest offset {offset:#x}"),
    )
    .hint("the source was modified during the conversion, or memory or storage is faulty")
}

/// The input, with zeros where it cannot be read.
struct Readable<'a> {
    input: &'a Input,
    /// In ascending order, disjoint.
    lost: &'a [Range<u64>],
}

impl Readable<'_> {
    /// Calls `each` for the parts of a range, with whether they are lost.
    fn split(
        &self,
        range: Range<u64>,
        mut each: impl FnMut(Range<u64>, bool) -> Result<()>,
    ) -> Result<()> {
        let first = self.lost.partition_point(|lost| lost.end <= range.start);
        let mut at = range.start;
        for lost in self.lost[first..].iter().take_while(|lost| lost.start < range.end) {
            let lost = lost.start.max(at)..lost.end.min(range.end);
            if at < lost.start {
                each(at..lost.start, false)?;
            }
            at = lost.end;
            each(lost, true)?;
        }
        if at < range.end { each(at..range.end, false) } else { Ok(()) }
    }
}

impl Disk for Readable<'_> {
    fn size(&self) -> u64 {
        self.input.size()
    }

    fn budgets(&self) -> Budgets {
        self.input.budgets()
    }

    fn runs(&self, range: Range<u64>, budgets: &mut Budgets) -> Result<Vec<Run>> {
        let mut runs = Vec::new();
        self.split(range, |part, is_lost| {
            match is_lost {
                true => runs.push(Run { at: part, zero: true, allocated: false }),
                false => runs.extend(Disk::runs(self.input, part, budgets)?),
            }
            Ok(())
        })?;
        Ok(runs)
    }

    fn next_window(&self, start: u64, end: u64, step: u64) -> u64 {
        self.input.next_window(start, end, step)
    }

    fn read(&self, fetchers: &mut Fetchers, buf: &mut [u8], at: u64) -> Result<()> {
        self.split(at..at + buf.len() as u64, |part, is_lost| {
            let buf = &mut buf[(part.start - at) as usize..(part.end - at) as usize];
            match is_lost {
                true => {
                    buf.fill(0);
                    Ok(())
                }
                false => Disk::read(self.input, fetchers, buf, part.start),
            }
        })
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
