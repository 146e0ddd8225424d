//! Copying the dirty bitmaps of the source.

use super::Settings;
use super::input::Input;
use crate::error::{Error, Result};
use crate::model::bitmap::{DirtyBitmap, TableBudget};
use crate::model::image::Image;
use crate::model::target::TargetSpec;
use crate::remedy::Remedy;

/// The bitmaps of the source that are copied.
#[derive(Debug, Default)]
pub(super) struct CopiedBitmaps {
    /// `None` if bitmaps are not copied, or if the target has them already.
    bitmaps: Option<Vec<DirtyBitmap>>,
    /// Names of inconsistent bitmaps, which are not copied.
    skipped: Vec<String>,
}

impl CopiedBitmaps {
    /// Returns a warning about each bitmap that is not copied.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        self.skipped.iter().map(|name| format!("Skipping inconsistent bitmap '{name}'"))
    }
}

impl Settings<'_> {
    /// Opens the bitmaps of the source, if they are to be copied.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if there are several sources,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if the source cannot have bitmaps or if one is
    /// inconsistent, and the errors of reading their tables.
    pub(super) fn open_bitmaps(&self, images: &[Image]) -> Result<CopiedBitmaps> {
        let mut copied = CopiedBitmaps::default();
        if !self.bitmaps {
            return Ok(copied);
        }
        let [image] = images else {
            return Err(Error::invalid("Copying bitmaps only possible with single source"));
        };
        let bitmaps = image.dirty_bitmaps()?;
        let bitmaps = bitmaps.ok_or_else(|| Error::unsupported("Source lacks bitmap support"))?;
        let (mut opened, mut budget) = (Vec::new(), TableBudget::default());
        // As QEMU, from the last one to the first.
        for bitmap in bitmaps.iter().rev() {
            match bitmap.inconsistent {
                false => {
                    let bitmap = image.dirty_bitmap(&bitmap.name)?;
                    budget.add(&bitmap, image.limits(0).table_bytes)?;
                    opened.push(bitmap);
                }
                true if self.skip_broken_bitmaps => copied.skipped.push(bitmap.name.clone()),
                true => {
                    let name = &bitmap.name;
                    return Err(Error::unsupported(format!(
                        "Cannot copy inconsistent bitmap '{name}'"
                    ))
                    .with_remedy(Remedy::SkipBrokenBitmaps));
                }
            }
        }
        opened.reverse();
        copied.bitmaps = Some(opened);
        Ok(copied)
    }

    /// Gives the target the bitmaps of the source.
    ///
    /// # Errors
    /// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if the target cannot have bitmaps, and
    /// the errors of [`TargetSpec::set_bitmaps`].
    pub(super) fn copy_bitmaps(&self, input: &mut Input, spec: &mut dyn TargetSpec) -> Result<()> {
        let Some(bitmaps) = input.bitmaps.bitmaps.take() else { return Ok(()) };
        match spec.set_bitmaps(bitmaps)? {
            true => Ok(()),
            false => {
                let format = self.format.name();
                let message = format!("Format driver '{format}' does not support bitmaps");
                Err(Error::unsupported(message))
            }
        }
    }
}
