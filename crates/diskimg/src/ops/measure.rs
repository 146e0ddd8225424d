//! `measure`: the space that a new image would take.

use crate::error::{Error, Result};
use crate::model::format::Format;
use crate::model::image::Image;
use crate::model::options::Options;
use crate::model::target::{DataRanges, Measure, MeasureRequest};
use crate::ops::map::map;
use crate::ops::new_image::whole_size;
use crate::report::info::Info;
use std::ops::Range;

/// Returns the space that `image` would take in `format`. No data is read: only ranges that are
/// zero according to the image's tables, and holes of a preallocated image's file, are left out.
///
/// # Errors
/// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if the size of an image of this format
/// cannot be predicted; otherwise as [`Image::extents`].
pub fn measure(format: Format, options: &Options, image: &Image) -> Result<Measure> {
    let size = image.size();
    let mut data = |each: &mut dyn FnMut(Range<u64>)| {
        for entry in map(image, 0..size) {
            let entry = entry?;
            if !entry.zero {
                each(entry.start..entry.start + entry.length);
            }
        }
        Ok(())
    };
    run(format, options, size, Some(&image.info(0)?), &mut data)
}

/// Returns the space that an empty image of `size` bytes would take in `format`.
///
/// # Errors
/// As [`measure`].
pub fn measure_size(format: Format, options: &Options, size: u64) -> Result<Measure> {
    run(format, options, size, None, &mut |_| Ok(()))
}

fn run<'a>(
    format: Format,
    options: &'a Options,
    size: u64,
    source: Option<&'a Info>,
    data: &'a mut DataRanges<'a>,
) -> Result<Measure> {
    let driver = format.driver();
    options.check(driver.options)?;
    let Some(measure) = driver.measure else {
        return Err(Error::unsupported(format!(
            "Block driver '{format}' does not support size measurement"
        )));
    };
    measure(&mut MeasureRequest { size: whole_size(format, size)?, options, source, data })
}
